//! `O_ASYNC`: a signal to whom F_SETOWN names when an open file becomes ready (`send_sigio` of
//! `fs/fcntl.c`).
//!
//! Who reports readiness holds locks of its own, so the signal is sent by the timer service's thread,
//! one for all that happened up to then.
//!
//! Lock order: the file's slot -> a wait queue. Signals are sent with neither.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use super::signal::SigInfo;
use super::time::monotonic_ns;
use super::timer::{Expire, TimerId};
use super::wait::{Registration, Wake};
use super::{Events, Kernel, Task};
use crate::vfs::file::FileOwner;
use crate::vfs::{FileDescription, FileType};

/// `F_OWNER_TID`, `F_OWNER_PGRP`.
const OWNER_TID: i32 = 0;
const OWNER_PGRP: i32 = 2;
/// `si_code` and `si_band` of what can happen (`band_table`).
const BANDS: [(Events, i32, u64); 3] =
    [(Events::IN, 1, 0x41), (Events::OUT, 2, 0x304), (Events::PRI, 5, 0x82)];
/// `POLL_HUP`
const HUNG_UP: (i32, u64) = (6, 0x18);

/// An open file that signals. Dropping it ends that.
pub struct Armed {
    _registration: Registration,
    _notifier: Arc<Notifier>,
}

struct Notifier {
    kernel: Weak<Kernel>,
    file: Weak<FileDescription>,
    /// The descriptor it was asked for with.
    fd: i32,
    timer: TimerId,
    this: Weak<Notifier>,
    /// What happened since the last signal.
    events: AtomicU32,
}

impl Armed {
    /// Has `file` signal, if it is of a kind that does: pipes, sockets, terminals.
    pub fn new(kernel: &Arc<Kernel>, file: &Arc<FileDescription>, fd: i32) -> Option<Armed> {
        let kind = file.inode().ok()?.file_type();
        if !matches!(kind, FileType::Fifo | FileType::Socket | FileType::CharDevice) {
            return None;
        }
        let queue = file.ops().wait_queue()?;
        let mut mask = Events::empty();
        mask.set(Events::IN | Events::PRI, file.flags().readable());
        mask.set(Events::OUT, file.flags().writable());
        let notifier = Arc::new_cyclic(|this| Notifier {
            kernel: Arc::downgrade(kernel),
            file: Arc::downgrade(file),
            fd,
            timer: kernel.timers.new_id(),
            this: this.clone(),
            events: AtomicU32::new(0),
        });
        let registration = queue.register(mask, notifier.clone());
        // As for poll(2): from now on each event is told, not only the first one (`poll_usage`).
        file.ops().poll();
        Some(Armed { _registration: registration, _notifier: notifier })
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        if let Some(kernel) = self.kernel.upgrade() {
            kernel.timers.disarm(self.timer);
        }
    }
}

impl Wake for Notifier {
    fn wake(&self, events: Events) {
        let before = self.events.fetch_or(events.bits(), Ordering::AcqRel);
        if before == 0
            && let Some(kernel) = self.kernel.upgrade()
            && kernel.timers.arm(self.timer, monotonic_ns(), self.this.clone()).is_err()
        {
            // The next event tries again.
            self.events.store(0, Ordering::Release);
        }
    }
}

impl Expire for Notifier {
    fn expire(self: Arc<Self>) {
        let events = Events::from_bits_retain(self.events.swap(0, Ordering::AcqRel));
        let (Some(kernel), Some(file)) = (self.kernel.upgrade(), self.file.upgrade()) else {
            return;
        };
        let owner = *file.owner().lock();
        let (code, band) = BANDS
            .iter()
            .find(|(event, ..)| events.intersects(*event))
            .map_or(HUNG_UP, |&(_, code, band)| (code, band));
        for (task, shared) in receivers(&kernel, &owner) {
            if may_signal(&owner, &task) {
                send(&task, shared, &owner, code, band, self.fd);
            }
        }
    }
}

/// Who it is for, and whether it is for the whole group.
fn receivers(kernel: &Kernel, owner: &FileOwner) -> Vec<(Arc<Task>, bool)> {
    match (owner.id, owner.kind) {
        (0, _) => Vec::new(),
        (id, OWNER_PGRP) => {
            let groups = kernel.tasks.pgrp(id).map_or_else(Vec::new, |pgrp| pgrp.members());
            let first = |group: Arc<super::ThreadGroup>| group.threads().first().cloned();
            groups.into_iter().filter_map(first).map(|task| (task, true)).collect()
        }
        (id, kind) => kernel.tasks.get(id).map(|t| (t, kind != OWNER_TID)).into_iter().collect(),
    }
}

/// `sigio_perm`
fn may_signal(owner: &FileOwner, task: &Task) -> bool {
    let cred = task.cred();
    let same = |uid: u32| uid == cred.uid || uid == cred.suid;
    owner.euid == 0 || same(owner.euid) || same(owner.uid)
}

fn send(task: &Arc<Task>, shared: bool, owner: &FileOwner, code: i32, band: u64, fd: i32) {
    if owner.signal != 0 {
        let info = SigInfo::io(owner.signal, code, band, fd);
        if task.send(shared, info, None).is_ok() {
            return;
        }
    }
    // Without a signal of its own, or if no more of that can be queued. A task that is gone gets none.
    let _ = task.send(shared, SigInfo::kernel(libc::SIGIO), None);
}
