//! Host calls that every platform needs for its stubs, typed. No state.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Error;

/// Thread id of a host thread.
pub(crate) type Tid = libc::pid_t;

/// Waits for the death of a child that was killed, and reaps it.
pub(crate) fn reap(pid: Tid) {
    let mut status = 0;
    loop {
        // SAFETY: plain system call with a live buffer.
        let result = unsafe { libc::wait4(pid, &mut status, libc::__WALL, std::ptr::null_mut()) };
        let interrupted = result == -1 && crate::errno() == libc::EINTR;
        let stopped = result == pid && libc::WIFSTOPPED(status);
        if !interrupted && !stopped {
            return;
        }
    }
}

/// Reaps a child if it is dead already. Returns whether it is gone.
pub(crate) fn try_reap(pid: Tid) -> bool {
    let flags = libc::__WALL | libc::WNOHANG;
    // SAFETY: plain system call without a buffer.
    unsafe { libc::wait4(pid, std::ptr::null_mut(), flags, std::ptr::null_mut()) != 0 }
}

/// Sends a signal to a process.
pub(crate) fn kill(pid: Tid, signal: i32) {
    // SAFETY: plain system call.
    unsafe { libc::kill(pid, signal) };
}

/// Sends a signal to a thread.
pub(crate) fn tgkill(pid: Tid, tid: Tid, signal: i32) {
    // SAFETY: plain system call.
    unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, signal) };
}

/// The calling thread.
pub(crate) fn gettid() -> Tid {
    // SAFETY: plain system call.
    unsafe { libc::gettid() }
}

/// A pipe: the reading and the writing end, both close-on-exec.
pub(crate) fn pipe() -> Result<(std::os::fd::OwnedFd, std::os::fd::OwnedFd), Error> {
    let (reader, writer) = io::pipe().map_err(|e| Error::Host { what: "pipe2", source: e })?;
    Ok((reader.into(), writer.into()))
}

/// Whether a child is dead. It is not reaped.
pub(crate) fn is_dead(pid: Tid) -> bool {
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: all-zero is a valid siginfo_t, which the call fills.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        libc::waitid(libc::P_PID, pid as libc::id_t, &mut info, flags) != 0 || info.si_pid() != 0
    }
}

/// Processor time of stubs that were ended, in nanoseconds.
static PAST_CPU: AtomicU64 = AtomicU64::new(0);

/// Processor time of a process by the host's account, in nanoseconds; 0 if it is gone.
pub(crate) fn cpu_ns(pid: Tid) -> u64 {
    /// `CPUCLOCK_SCHED`: what the host's scheduler counted.
    const SCHED: libc::clockid_t = 2;
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is a valid out-pointer; on failure it stays as it is.
    unsafe { libc::clock_gettime(!pid << 3 | SCHED, &mut ts) };
    (ts.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(ts.tv_nsec as u64)
}

/// Notes the time of a process that is about to be ended.
pub(crate) fn note_cpu(pid: Tid) {
    note_cpu_ns(cpu_ns(pid));
}

/// Notes the time of a process whose guest is gone, in nanoseconds.
pub(crate) fn note_cpu_ns(spent: u64) {
    PAST_CPU.fetch_add(spent, Ordering::Relaxed);
}

/// What was noted so far.
pub(crate) fn past_cpu_ns() -> u64 {
    PAST_CPU.load(Ordering::Relaxed)
}
