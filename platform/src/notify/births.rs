//! How threads of stub processes are made: the Sentry writes a birth record, wakes the process's
//! cloner, and gets the new thread's listener over a socket that all stubs share.
//!
//! Everything a new guest thread reads on the way lies on a page that no guest can write, so that
//! siblings that run guest code already cannot meddle.

use std::os::fd::OwnedFd;

use zerocopy::IntoBytes;

use super::layout::Layout;
use super::listener::Listener;
use super::probe::Host;
use crate::arch::doorbell::{BLOCK_LEN, BirthRecord, SIGNAL_STACK};
use crate::arch::doorbell_filter::{CLONE_EXECUTOR, CLONE_GUEST};
use crate::arch::stub::FD_READY;
use crate::memory_file::Frames;
use crate::stub::affinity;
use crate::stub::message::{self, CONTROL_LEN, CONTROL_USED};
use crate::stub::sys::Tid;
use crate::{Error, usercopy};

/// What to make.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// A thread that maps memory.
    Executor,
    /// A guest thread with its block in this slot.
    Guest(u64),
}

/// One at a time, in any process: behind a lock.
pub(super) struct Births {
    socket: OwnedFd,
    layout: Layout,
    host: Host,
    last_id: u64,
}

impl Births {
    pub(super) fn new(socket: OwnedFd, layout: Layout, host: Host) -> Births {
        Births { socket, layout, host, last_id: 0 }
    }

    /// Has the cloner of process `pid`, whose command page is `page`, make a thread. It stands at
    /// its doorbell afterwards.
    ///
    /// # Errors
    /// `EAGAIN` if the host refuses another thread; [`Error::StubGone`] if the process dies.
    pub(super) fn make(&mut self, pid: Tid, page: &Frames, kind: Kind) -> Result<Listener, Error> {
        self.last_id += 1;
        let id = self.last_id;
        let record = self.record(id, kind);
        // Hand-overs on one CPU are several times quicker. The new thread begins there as well.
        affinity::bring_here(pid);
        // The futex last, alone.
        let bytes = &record.as_bytes()[4..];
        // SAFETY: a page of the memory file that nobody else writes; the record fits.
        unsafe {
            if usercopy::copy_to(page.ptr().add(4), bytes.as_ptr(), bytes.len()) < bytes.len()
                || usercopy::store_u32(page.ptr(), id as u32).is_none()
            {
                return Err(Error::host("a command page", libc::ENOMEM));
            }
            // Everybody: the cloner of a process that was killed may still stand in the same queue,
            // for its page is reused before it is gone.
            libc::syscall(libc::SYS_futex, page.ptr(), libc::FUTEX_WAKE, i32::MAX);
        }
        loop {
            let mut message = [0u64; 2];
            let bytes = message.as_mut_bytes();
            let (len, listener) = message::receive(&self.socket, bytes, pid)?;
            match (message[0] == id, len, listener) {
                (true, 8, Some(fd)) => return Listener::new(fd, self.host),
                (true, 16, _) => return Err(Error::host("clone of a guest thread", libc::EAGAIN)),
                // From a process that died in the middle.
                _ => {}
            }
        }
    }

    /// The host turned out to have `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`.
    pub(super) fn set_sync_wake_up(&mut self) {
        self.host.sync_wake_up = true;
    }

    fn record(&self, id: u64, kind: Kind) -> BirthRecord {
        let page = self.layout.commands();
        let at = |offset: usize| page + offset as u64;
        let (executor, flags, block) = match kind {
            Kind::Executor => (1, CLONE_EXECUTOR, 0),
            Kind::Guest(slot) => (0, CLONE_GUEST, self.layout.block(slot)),
        };
        BirthRecord {
            sequence: 0,
            executor,
            flags,
            block,
            signal_stack: [block + SIGNAL_STACK, 0, BLOCK_LEN - SIGNAL_STACK],
            message: [
                0,
                0,
                at(std::mem::offset_of!(BirthRecord, iov)),
                1,
                at(std::mem::offset_of!(BirthRecord, control)),
                CONTROL_LEN,
                0,
            ],
            iov: [at(std::mem::offset_of!(BirthRecord, id)), 8],
            // A guest thread has just closed everything from there on.
            control: control(FD_READY),
            id,
            failed: 1,
        }
    }
}

/// The control part of a message with descriptor `fd`: `struct cmsghdr`, and the number.
pub(super) fn control(fd: u64) -> [u64; 3] {
    let kind = (libc::SCM_RIGHTS as u64) << 32 | libc::SOL_SOCKET as u64;
    [CONTROL_USED, kind, fd]
}
