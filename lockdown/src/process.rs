//! Attributes of the process itself: session, signals, death with the launcher, `no_new_privs`,
//! dumpability.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::{fs, io};

use crate::error::{Context, Error, Layer};
use crate::sys::{check, prctl};

/// A session of its own (the caller's terminal sends it no signals, and is not its controlling
/// terminal), default signal handling, no signal blocked, umask 0.
pub(crate) fn detach() -> Result<(), Error> {
    // SAFETY: no arguments.
    check(unsafe { libc::setsid() }.into()).context(Layer::Process, "setsid")?;
    // SAFETY: plain number.
    unsafe { libc::umask(0) };
    for signo in 1..=libc::SIGRTMAX() {
        // SIGPIPE stays ignored, as Rust programs have it. glibc keeps two signals for itself, and
        // KILL and STOP cannot be set: those calls fail, and may.
        let handler = if signo == libc::SIGPIPE { libc::SIG_IGN } else { libc::SIG_DFL };
        // SAFETY: the handlers are the two predefined ones.
        unsafe { libc::signal(signo, handler) };
    }
    // SAFETY: an all-zero set is the empty set; `sigprocmask` reads it only.
    let result = unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())
    };
    check(result.into()).context(Layer::Process, "sigprocmask").map(drop)
}

/// A session keyring of its own, and an empty one: the caller's keys (of file systems, Kerberos, ...)
/// are not inherited. A host without keyrings, or that refuses or has no room for another, is none to
/// fail on: the filter allows no call that uses a key.
pub(crate) fn detach_keyring() {
    const KEYCTL_JOIN_SESSION_KEYRING: u64 = 1;
    let anonymous = std::ptr::null::<u8>();
    // SAFETY: no name is given.
    unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, anonymous) };
}

/// Makes the host's OOM killer prefer this process, and what it makes, to others like it. Needs
/// `/proc`.
pub(crate) fn raise_oom_score(by: i32) -> Result<(), Error> {
    const FILE: &str = "/proc/self/oom_score_adj";
    const MAX: i32 = 1000;
    let change = || -> io::Result<()> {
        let now: i32 = fs::read_to_string(FILE)?.trim().parse().map_err(io::Error::other)?;
        fs::write(FILE, now.saturating_add(by).min(MAX).to_string())
    };
    change().context(Layer::Process, FILE)
}

/// Dies with SIGKILL when the launcher does. `alive` is a socket or pipe whose other end only the
/// launcher holds: if it is closed by now, the launcher was gone before the signal was armed.
pub(crate) fn die_with_launcher(alive: BorrowedFd<'_>) -> Result<(), Error> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0)
        .context(Layer::Process, "PR_SET_PDEATHSIG")?;
    let mut poll = libc::pollfd { fd: alive.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one valid pollfd.
    check(unsafe { libc::poll(&raw mut poll, 1, 0) }.into()).context(Layer::Process, "poll")?;
    if poll.revents & (libc::POLLHUP | libc::POLLRDHUP | libc::POLLERR) != 0 {
        let gone = io::Error::from_raw_os_error(libc::EPIPE);
        return Err(Error::new(Layer::Process, "the launcher is gone", gone));
    }
    Ok(())
}

/// `no_new_privs`.
pub(crate) fn no_new_privileges() -> Result<(), Error> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).context(Layer::Process, "PR_SET_NO_NEW_PRIVS").map(drop)
}

/// Whether processes of the same user may trace this one and read its `/proc` files.
pub(crate) fn dumpable(yes: bool) -> Result<(), Error> {
    prctl(libc::PR_SET_DUMPABLE, yes.into(), 0).context(Layer::Process, "PR_SET_DUMPABLE").map(drop)
}

/// Overwrites the environment that the process was started with, strings and all.
///
/// The jailed processes are forks of the launcher; without this they would carry the caller's
/// environment, with whatever secrets are in it, in their memory.
pub fn wipe_environment() {
    unsafe extern "C" {
        static mut environ: *mut *mut libc::c_char;
    }
    // SAFETY: the process is single-threaded (it was just forked), so nobody reads or changes
    // `environ` meanwhile. Each entry is a NUL-terminated string in writable memory: the initial
    // stack, or the heap if `setenv` put it there.
    unsafe {
        let mut entry = environ;
        if entry.is_null() {
            return;
        }
        while !(*entry).is_null() {
            let string = *entry;
            std::ptr::write_bytes(string, 0, libc::strlen(string));
            *entry = std::ptr::null_mut();
            entry = entry.add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_keyring_of_its_own() {
        const KEYCTL_GET_KEYRING_ID: u64 = 0;
        const SESSION: i64 = -3;
        // SAFETY: plain numbers.
        let id = || unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_GET_KEYRING_ID, SESSION, 0) };
        // Credentials are a thread's own.
        let (before, after) = std::thread::spawn(move || {
            let before = id();
            detach_keyring();
            (before, id())
        })
        .join()
        .unwrap();
        if after == -1 {
            eprintln!("the host has no keyrings, or none for this user");
            return;
        }
        assert_ne!(before, after);
    }
}
