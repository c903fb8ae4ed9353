//! The audit: records of what a guest does that somebody may want to know, sent to the launcher.
//!
//! The Sentry decides what is worth a record ([`calls`], [`class`]) and sends it as one packet
//! ([`record`]); the launcher gives it time, sandbox and number, and writes it where the caller
//! wants it. So a Sentry that was taken over can lie about its own guest, and nothing else.
//!
//! A record never waits for the sink: the queue is the socket's buffer, and what does not fit is
//! counted. What may be an escape waits [`PATIENCE_MS`] for a place. Each kind has a budget
//! ([`limiter`]), so that a flood of one kind neither fills a disk nor hides the others.
//!
//! With the audit off, a system call costs one look at whether it is on.
//!
//! Locks: the limiter's and `known`, both leaves.

mod address;
mod calls;
mod class;
pub mod limiter;
pub mod record;

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;

use parking_lot::Mutex;

use self::limiter::Limiter;
use self::record::{Kind, Record, Subject};
use crate::kernel::Task;

pub use calls::Pending;

/// How long a record that may be an escape waits for a place in the queue, in milliseconds.
const PATIENCE_MS: i32 = 20;
/// How many different unsupported calls are told.
const MAX_KNOWN: usize = 512;

/// The audit of a kernel, once it is switched on.
#[derive(Default)]
pub struct Slot(OnceLock<Audit>);

impl Slot {
    /// Switches the audit on: records go to this socket, which the launcher reads.
    pub fn start(&self, socket: OwnedFd) {
        let audit = Audit { socket, limiter: Limiter::default(), known: Mutex::default() };
        // It is started once.
        let _ = self.0.set(audit);
    }

    /// The audit, if it is on.
    pub fn get(&self) -> Option<&Audit> {
        self.0.get()
    }
}

/// An audit that is on.
pub struct Audit {
    socket: OwnedFd,
    limiter: Limiter,
    /// Unsupported calls that were told.
    known: Mutex<BTreeSet<u64>>,
}

impl Audit {
    /// The guest has hit a limit of this name, in page fault or timer rather than in a call.
    pub fn limit(&self, task: Option<&Task>, name: &str) {
        let subject = task.map(subject);
        self.send(Record { subject, what: name.into(), ..Record::of(Kind::Limit) });
    }

    /// Sends the counts of what was dropped and not yet told. For the end.
    pub fn finish(&self) {
        for (of, count) in self.limiter.drain() {
            self.transmit(&Record { of: Some(of), count, ..Record::of(Kind::Dropped) }, true);
        }
    }

    /// Sends a record, if its kind's budget allows.
    fn send(&self, record: Record) {
        let kind = record.kind;
        if let Some(dropped) = self.limiter.admit(kind) {
            let lost = Record { of: Some(kind), count: dropped, ..Record::of(Kind::Dropped) };
            if dropped > 0 && !self.transmit(&lost, false) {
                self.limiter.drop_more(kind, dropped);
            }
            if !self.transmit(&record, kind == Kind::Escape) {
                self.limiter.drop_more(kind, 1);
            }
        }
    }

    /// Returns whether there was room.
    fn transmit(&self, record: &Record, patient: bool) -> bool {
        let Ok(packet) = serde_json::to_vec(record) else { return false };
        if packet.len() > record::MAX_PACKET {
            return false;
        }
        if self.try_send(&packet) {
            return true;
        }
        if !patient {
            return false;
        }
        let mut poll =
            libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
        // SAFETY: one valid pollfd.
        unsafe { libc::poll(&raw mut poll, 1, PATIENCE_MS) };
        self.try_send(&packet)
    }

    fn try_send(&self, packet: &[u8]) -> bool {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: `packet` is valid for reads of its length.
        let sent = unsafe {
            libc::send(self.socket.as_raw_fd(), packet.as_ptr().cast(), packet.len(), flags)
        };
        // A launcher that is gone takes the sandbox along; a full queue is the only other reason.
        sent >= 0
    }
}

/// Who did it.
fn subject(task: &Task) -> Subject {
    let comm = task.comm();
    let comm = comm.split(|&byte| byte == 0).next().unwrap_or_default();
    Subject {
        pid: task.group.tgid,
        tid: task.tid(),
        comm: String::from_utf8_lossy(comm).into_owned(),
        uid: task.cred().uid,
        euid: task.cred().euid,
    }
}
