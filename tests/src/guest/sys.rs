//! What all storms use: failing, chance, processes and signal handlers.

use std::time::{Duration, Instant};

/// A failed assertion ends the process that it is in, whichever thread it is in.
pub(crate) fn fail_by_exit() {
    std::panic::set_hook(Box::new(|info| {
        eprintln!("{info}");
        // SAFETY: ends the process.
        unsafe { libc::_exit(101) }
    }));
}

/// Repeatable "random" numbers (an LCG with Knuth's constants).
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Chance {
        let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        chance.next();
        chance
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 ^ self.0 >> 29
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }
}

pub(crate) fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

pub(crate) fn gettid() -> i32 {
    // SAFETY: no arguments.
    unsafe { libc::gettid() }
}

/// A handler of the full kind.
pub(crate) type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);

/// Installs `handler` with `SA_SIGINFO` and these flags.
pub(crate) fn handle(signo: i32, handler: Handler, flags: i32) {
    // SAFETY: a zeroed sigaction is an empty one; the handler has the SA_SIGINFO signature.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | flags;
        assert_eq!(libc::sigaction(signo, &action, std::ptr::null_mut()), 0);
    }
}

/// Runs `child` in a fork of this process, which must have one thread or make sure that `child`
/// needs no lock. It ends with what `child` returns.
pub(crate) fn fork(child: impl FnOnce() -> i32) -> i32 {
    // SAFETY: by this function's own contract.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: errno {}", errno());
    if pid == 0 {
        let code = child();
        // SAFETY: ends the process.
        unsafe { libc::_exit(code) }
    }
    pid
}

/// How a child ended: its exit status, or minus the signal that killed it.
pub(crate) fn reap(pid: i32) -> i32 {
    let mut status = 0;
    loop {
        // SAFETY: `status` is valid for writes.
        let got = unsafe { libc::waitpid(pid, &mut status, 0) };
        if got == pid {
            break;
        }
        assert_eq!((got, errno()), (-1, libc::EINTR), "waiting for {pid}");
    }
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -libc::WTERMSIG(status) }
}

/// Waits for something that other threads do, with calls all the time; fails after a while.
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(150), "waited in vain until {what}");
        std::thread::yield_now();
    }
}
