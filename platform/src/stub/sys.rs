//! Host calls that every platform needs for its stubs, typed. No state.

use std::io;

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
