//! What supervisor, victim and attackers share: a page each way, small helpers.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// How long anything may take that should take no time. Machines are shared.
pub const PATIENCE: u64 = 60_000;

/// Memory that all processes of a run see.
pub struct Share {
    pongs: AtomicU32,
    /// Which item of a sweep is being worked on.
    pub item: AtomicU64,
    /// Set by an attacker once it is in full swing.
    pub ready: AtomicU32,
    /// Free for an attack's own use.
    pub cells: [AtomicU64; 16],
    said: AtomicUsize,
    what: [AtomicU8; 400],
}

impl Share {
    /// A fresh one.
    pub fn new() -> &'static Share {
        let len = size_of::<Share>().next_multiple_of(4096);
        // SAFETY: a fresh mapping, zeroed, large enough, never unmapped; zero is valid for atomics.
        unsafe {
            let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
            let prot = libc::PROT_READ | libc::PROT_WRITE;
            let at = libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0);
            assert!(at != libc::MAP_FAILED, "no shared memory");
            &*at.cast::<Share>()
        }
    }

    pub fn pong(&self) {
        self.pongs.fetch_add(1, Ordering::Relaxed);
    }

    pub fn pongs(&self) -> u32 {
        self.pongs.load(Ordering::Relaxed)
    }

    /// Says that an attack did what it must not. The first word counts.
    pub fn fail(&self, what: &str) {
        if self.said.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            let bytes = &what.as_bytes()[..what.len().min(self.what.len())];
            for (to, from) in self.what.iter().zip(bytes) {
                to.store(*from, Ordering::Relaxed);
            }
            self.said.store(1 + bytes.len(), Ordering::Release);
        }
    }

    /// What was said.
    pub fn failure(&self) -> Option<String> {
        let len = self.said.load(Ordering::Acquire).checked_sub(1)?;
        let bytes = self.what[..len].iter().map(|b| b.load(Ordering::Relaxed)).collect();
        Some(String::from_utf8(bytes).unwrap_or_default())
    }
}

/// Milliseconds of the monotonic clock.
pub fn now() -> u64 {
    // SAFETY: writes the time.
    unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time);
        time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000
    }
}

/// Sleeps.
pub fn doze(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

/// Gives up root for a user.
pub fn become_user(user: u32) {
    // SAFETY: plain calls.
    unsafe {
        assert_eq!(libc::setgroups(0, std::ptr::null()), 0, "setgroups");
        assert_eq!(libc::setresgid(user, user, user), 0, "setresgid");
        assert_eq!(libc::setresuid(user, user, user), 0, "setresuid");
    }
}

/// Becomes a process of `user` in the eyes of those who signal, with the rights of root.
pub fn hide_from_signals(user: u32) {
    // SAFETY: a plain call.
    assert_eq!(unsafe { libc::setresuid(user, 0, user) }, 0, "setresuid");
}

/// Becomes root without CAP_KILL: it may signal root's processes and no others.
pub fn give_up_kill() {
    const VERSION_3: u32 = 0x2008_0522;
    const CAP_KILL: u32 = 5;
    let mut header = [VERSION_3, 0];
    let mut sets = [[0u32; 3]; 2];
    // SAFETY: header and sets are as long as capget(2) and capset(2) have them.
    unsafe {
        assert_eq!(libc::setresuid(0, 0, 0), 0, "setresuid");
        let got = libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr());
        assert_eq!(got, 0, "capget");
        for set in &mut sets[0] {
            *set &= !(1 << CAP_KILL);
        }
        let set = libc::syscall(libc::SYS_capset, header.as_mut_ptr(), sets.as_ptr());
        assert_eq!(set, 0, "capset");
    }
}

/// Repeatable "random" numbers (xorshift64*).
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}
