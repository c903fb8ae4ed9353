//! System calls: the table, the dispatcher, and one file of handlers per topic.
//!
//! A handler decodes its arguments, calls the subsystem, and encodes the result; nothing else. It
//! gets the calling task as [`Current`] and the six raw argument registers as [`Args`].

mod attr;
pub mod compatibility;
pub mod cred;
mod dirs;
mod epoll;
mod exec;
mod fcntl;
mod futex;
mod inotify;
mod ioctl;
mod link_rename;
pub(crate) mod mm;
mod mount;
mod mqueue;
mod msg;
mod open;
mod pipe;
mod poll;
mod prctl;
mod process;
mod read_write;
mod remote_memory;
mod rlimit;
mod sched;
mod seccomp;
mod sem;
mod shm;
mod signal;
mod signalfd;
mod socket;
mod socket_io;
mod stat;
pub mod strace;
mod system;
mod table;
mod time;
mod timer;
mod timerfd;
mod transfer;
mod user;
mod wait;
mod xattr;

use abi::Errno;

use crate::kernel::seccomp::{self as filters, Verdict};
use crate::kernel::{Caps, Current};

pub use table::TABLE;

/// What a handler returns: the value for `rax`, or an error.
pub type SysResult = Result<u64, Errno>;

/// A system call's implementation.
pub type Handler = fn(&mut Current, &Args) -> SysResult;

/// The six argument registers.
#[derive(Clone, Copy, Debug)]
pub struct Args(pub [u64; 6]);

impl Args {
    /// Argument `n` as a 64-bit number or address.
    pub fn u64(&self, n: usize) -> u64 {
        self.0[n]
    }
    /// Argument `n` as C's `int`.
    pub fn int(&self, n: usize) -> i32 {
        self.0[n] as i32
    }
    /// Argument `n` as C's `unsigned int`.
    pub fn uint(&self, n: usize) -> u32 {
        self.0[n] as u32
    }
    /// Argument `n` as C's `long`, `off_t`, `ssize_t`.
    pub fn long(&self, n: usize) -> i64 {
        self.0[n] as i64
    }
    /// Argument `n` as C's `size_t`.
    pub fn size(&self, n: usize) -> usize {
        self.0[n] as usize
    }
}

/// How an argument is shown by `--strace`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Arg {
    AtFd,
    AtFlags,
    CloneFlags,
    Clock,
    Fcntl,
    Fd,
    FutexOp,
    Hex,
    /// A buffer that the call reads; its length is the next argument.
    InBuf,
    Int,
    MapFlags,
    Mode,
    Oct,
    OpenFlags,
    /// A buffer that the call fills; its length is the result.
    OutBuf,
    Path,
    Prot,
    Ptr,
    SigHow,
    SigSet,
    Signal,
    Size,
    Str,
    Timespec,
    Uint,
    Whence,
}

/// How much of a call works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// As on Linux.
    Full,
    /// With the gaps that the note names.
    Partial,
    /// `ENOSYS`.
    Missing,
}

/// One line of the table.
pub struct Entry {
    /// The number.
    pub nr: u32,
    /// The name, as in syscalls(2).
    pub name: &'static str,
    /// Names and kinds of the arguments.
    pub args: &'static [(&'static str, Arg)],
    /// The implementation.
    pub handler: Option<Handler>,
    /// What the caller of a missing call needs, to learn more than `EPERM`.
    pub privilege: Option<Caps>,
    /// How much works.
    pub support: Support,
    /// What does not.
    pub note: &'static str,
}

/// The entry of a call number.
pub fn entry(nr: u64) -> Option<&'static Entry> {
    let index = usize::try_from(nr).ok()?;
    INDEX.get(index).copied().flatten()
}

/// One more than the highest number in the table.
const LIMIT: usize = 512;

static INDEX: [Option<&'static Entry>; LIMIT] = {
    let mut index = [None; LIMIT];
    let mut i = 0;
    while i < TABLE.len() {
        index[TABLE[i].nr as usize] = Some(&TABLE[i]);
        i += 1;
    }
    index
};

/// The result that `rax` stands for.
fn result_of(rax: u64) -> SysResult {
    match rax as i64 {
        error @ -4095..0 => Err(Errno::from_raw(-error as i32)),
        _ => Ok(rax),
    }
}

/// Handles the system call that `cur` trapped with, and puts the result into its registers.
pub fn dispatch(cur: &mut Current) {
    let (nr, args) = cur.call();
    let args = Args(args);
    // A call number is an `int` to Linux: the upper half of rax does not count.
    let entry = entry(nr & 0xffff_ffff);
    let trace = cur.kernel.strace.clone().filter(|s| s.wants(nr));
    let pending = trace.map(|s| (s.enter(cur, nr, entry, &args), s));
    crate::kernel::current::note_syscall(nr, args.0);
    let audited = cur.kernel.audit.get().and_then(|audit| audit.enter(cur, nr, &args));
    let result = match (filters::check(cur, args.0), entry.and_then(|e| e.handler)) {
        (Verdict::Skip(value), _) => result_of(value),
        (Verdict::Run, Some(handler)) => handler(cur, &args),
        (Verdict::Run, None) => missing(cur, entry, nr),
    };
    cur.counts.call(result.as_ref().err().copied());
    if let Some(audit) = cur.kernel.audit.get() {
        audit.exit(cur, nr, &args, audited, &result);
    }
    if let Some((pending, strace)) = pending {
        match cur.is_exiting() {
            true => strace.no_return(pending),
            false => strace.exit(cur, pending, &args, &result),
        }
    }
    cur.set_result(match result {
        Ok(value) => value,
        Err(errno) => errno.as_return() as u64,
    });
}

/// A call that is not there.
fn missing(cur: &Current, entry: Option<&Entry>, nr: u64) -> SysResult {
    let needs = entry.and_then(|e| e.privilege);
    if needs.is_some_and(|needs| !cur.cred().capable(needs)) {
        return Err(Errno::EPERM);
    }
    cur.kernel.unsupported.note(nr);
    Err(Errno::ENOSYS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_sorted_and_complete() {
        assert!(TABLE.windows(2).all(|w| w[0].nr < w[1].nr));
        assert!(TABLE.iter().all(|e| e.args.len() <= 6));
        assert_eq!(entry(0).map(|e| e.name), Some("read"));
        assert_eq!(entry(435).map(|e| e.name), Some("clone3"));
        assert!(entry(u64::MAX).is_none());
    }

    #[test]
    fn partial_entries_say_what_is_missing() {
        for e in TABLE {
            assert_eq!(e.support == Support::Partial, !e.note.is_empty(), "{}", e.name);
            assert_eq!(e.support == Support::Missing, e.handler.is_none(), "{}", e.name);
        }
    }
}
