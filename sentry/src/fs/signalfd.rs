//! signalfd(2): pending signals of whoever reads, as a file.

use std::any::Any;
use std::sync::Arc;

use abi::Errno;
use parking_lot::Mutex;
use zerocopy::{Immutable, IntoBytes};

use super::anon::{self, AnonKind};
use crate::kernel::current::current_task;
use crate::kernel::signal::{SigInfo, SigSet, info};
use crate::kernel::{Credentials, Events, WaitQueue};
use crate::vfs::{FileDescription, FileOps, IoDst, OpenFlags};

/// `struct signalfd_siginfo`
#[derive(Clone, Copy, Debug, Default, IntoBytes, Immutable)]
#[repr(C)]
struct Record {
    signo: u32,
    errno: i32,
    code: i32,
    pid: u32,
    uid: u32,
    fd: i32,
    tid: u32,
    band: u32,
    overrun: u32,
    trapno: u32,
    status: i32,
    int: i32,
    ptr: u64,
    utime: u64,
    stime: u64,
    addr: u64,
    addr_lsb: u16,
    pad0: u16,
    syscall: i32,
    call_addr: u64,
    arch: u32,
    pad1: [u8; 28],
}

const SIZE: usize = 128;
const _: () = assert!(size_of::<Record>() == SIZE);

impl Record {
    /// What the union of a signal's information holds depends on signal and code
    /// (`siginfo_layout`).
    fn new(from: &SigInfo) -> Record {
        let [first, second, third, fourth] = from.fields;
        let (low, high) = (first as u32, (first >> 32) as u32);
        let base = Record {
            signo: from.signo as u32,
            errno: from.errno,
            code: from.code,
            ..Record::default()
        };
        match (from.signo, from.code) {
            (_, info::SI_TIMER) => {
                Record { tid: low, overrun: high, ptr: second, int: second as i32, ..base }
            }
            (_, info::SI_USER | info::SI_TKILL | info::SI_KERNEL) => {
                Record { pid: low, uid: high, ..base }
            }
            (_, ..0) => Record { pid: low, uid: high, ptr: second, int: second as i32, ..base },
            (libc::SIGCHLD, _) => Record {
                pid: low,
                uid: high,
                status: second as i32,
                utime: third,
                stime: fourth,
                ..base
            },
            (libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE | libc::SIGTRAP, _) => {
                Record { addr: first, ..base }
            }
            (libc::SIGSYS, info::SYS_SECCOMP) => Record {
                call_addr: first,
                syscall: second as i32,
                arch: (second >> 32) as u32,
                ..base
            },
            (libc::SIGPOLL, _) => Record { band: low, fd: second as i32, ..base },
            _ => Record { pid: low, uid: high, ..base },
        }
    }
}

/// The file.
pub struct SignalFd {
    mask: Mutex<SigSet>,
}

impl SignalFd {
    /// Replaces the signals it is for.
    pub fn set_mask(&self, mask: SigSet) {
        *self.mask.lock() = mask.blockable();
        if let Some(task) = current_task() {
            task.group.signal_wait.wake(Events::IN);
        }
    }

    /// The signals it is for (`/proc/PID/fdinfo`).
    pub fn mask(&self) -> SigSet {
        *self.mask.lock()
    }
}

impl FileOps for SignalFd {
    fn read(&self, dst: &mut IoDst<'_>, _: u64) -> Result<usize, Errno> {
        if dst.remaining() < SIZE {
            return Err(Errno::EINVAL);
        }
        let task = current_task().ok_or(Errno::EAGAIN)?;
        let mask = self.mask();
        let before = dst.done();
        while dst.remaining() >= SIZE {
            let Some(info) = task.take_signal(mask) else { break };
            let whole = dst.write(Record::new(&info).as_bytes());
            if whole != Ok(SIZE) {
                // As on Linux, the signal is lost.
                return if dst.done() - before >= SIZE { break } else { Err(Errno::EFAULT) };
            }
        }
        let done = (dst.done() - before) / SIZE * SIZE;
        if done == 0 { Err(Errno::EAGAIN) } else { Ok(done) }
    }

    fn seekable(&self) -> bool {
        false
    }

    /// Allowed, and without effect (`noop_llseek`).
    fn seek(&self, _: u64, _: i64, _: i32) -> Option<Result<u64, Errno>> {
        Some(Ok(0))
    }

    fn poll(&self) -> Events {
        let Some(task) = current_task() else { return Events::empty() };
        if task.pending_signals().intersection(self.mask()).is_empty() {
            Events::empty()
        } else {
            Events::IN | Events::RDNORM
        }
    }

    fn wait_queue(&self) -> Option<WaitQueue> {
        // Of whoever waits: the file is for the signals of the one who reads it.
        Some(current_task().map(|task| task.group.signal_wait.clone()).unwrap_or_default())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A new file for the signals of `mask`. `flags`: `O_NONBLOCK`.
pub fn new_signalfd(
    cred: Arc<Credentials>,
    mask: SigSet,
    flags: OpenFlags,
) -> Result<Arc<FileDescription>, Errno> {
    let ops = Box::new(SignalFd { mask: Mutex::new(mask.blockable()) });
    anon::new_file(cred, AnonKind::Inode("[signalfd]"), ops, OpenFlags::RDWR | flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_follow_the_kind_of_signal() {
        let child = Record::new(&SigInfo::child(info::cld::EXITED, 7, 3, 9, 1, 2));
        assert_eq!((child.pid, child.uid, child.status, child.stime), (7, 3, 9, 2));
        let timer = Record::new(&SigInfo::timer(34, 5, 2, 77));
        assert_eq!((timer.tid, timer.overrun, timer.ptr, timer.pid), (5, 2, 77, 0));
        let queued = Record::new(&SigInfo::value(35, info::SI_QUEUE, 4, 1, 99));
        assert_eq!((queued.pid, queued.int), (4, 99));
        let fault = Record::new(&SigInfo::fault(libc::SIGSEGV, 1, 0xdead));
        assert_eq!((fault.addr, fault.pid), (0xdead, 0));
        let filtered = Record::new(&SigInfo::seccomp(0x1234, -1, 7, 9));
        assert_eq!((filtered.call_addr, filtered.syscall, filtered.arch), (0x1234, -1, 7));
        assert_eq!(filtered.errno, 9);
    }
}
