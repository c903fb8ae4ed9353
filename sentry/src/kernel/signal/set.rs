//! Sets of signals, and what signals do by default.

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A set of signals, bit N-1 for signal N (`sigset_t` of the kernel).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(transparent)]
pub struct SigSet(pub u64);

const fn set(signals: &[i32]) -> SigSet {
    let mut bits = 0;
    let mut i = 0;
    while i < signals.len() {
        bits |= 1 << (signals[i] - 1);
        i += 1;
    }
    SigSet(bits)
}

impl SigSet {
    /// No signal.
    pub const EMPTY: SigSet = SigSet(0);
    /// All signals.
    pub const ALL: SigSet = SigSet(u64::MAX);
    /// What can be neither caught, blocked nor ignored (`sig_kernel_only`).
    pub const UNBLOCKABLE: SigSet = set(&[libc::SIGKILL, libc::SIGSTOP]);
    /// Raised by the code that runs, and taken before all others (`SYNCHRONOUS_MASK`).
    pub const SYNCHRONOUS: SigSet = set(&[
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGTRAP,
        libc::SIGFPE,
        libc::SIGSYS,
    ]);
    /// Stop by default (`SIG_KERNEL_STOP_MASK`).
    pub const STOP: SigSet = set(&[libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU]);
    /// Ignored by default (`SIG_KERNEL_IGNORE_MASK`).
    pub const IGNORE: SigSet = set(&[libc::SIGCONT, libc::SIGCHLD, libc::SIGWINCH, libc::SIGURG]);
    /// Dump core by default (`SIG_KERNEL_COREDUMP_MASK`).
    pub const COREDUMP: SigSet = set(&[
        libc::SIGQUIT,
        libc::SIGILL,
        libc::SIGTRAP,
        libc::SIGABRT,
        libc::SIGFPE,
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGSYS,
        libc::SIGXCPU,
        libc::SIGXFSZ,
    ]);

    /// The set of one signal; empty for a number that is no signal.
    pub const fn of(signo: i32) -> SigSet {
        if signo >= 1 && signo <= super::NSIG { SigSet(1 << (signo - 1)) } else { SigSet(0) }
    }
    /// Whether the signal is in it.
    pub const fn contains(self, signo: i32) -> bool {
        self.0 & SigSet::of(signo).0 != 0
    }
    /// Adds a signal.
    pub fn insert(&mut self, signo: i32) {
        self.0 |= SigSet::of(signo).0;
    }
    /// Takes a signal out.
    pub fn remove(&mut self, signo: i32) {
        self.0 &= !SigSet::of(signo).0;
    }
    /// Whether it has no signal.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// What is in either.
    pub const fn union(self, other: SigSet) -> SigSet {
        SigSet(self.0 | other.0)
    }
    /// What is in both.
    pub const fn intersection(self, other: SigSet) -> SigSet {
        SigSet(self.0 & other.0)
    }
    /// What is in `self` and not in `other`.
    pub const fn minus(self, other: SigSet) -> SigSet {
        SigSet(self.0 & !other.0)
    }
    /// The lowest signal.
    pub const fn lowest(self) -> Option<i32> {
        if self.0 == 0 { None } else { Some(self.0.trailing_zeros() as i32 + 1) }
    }
    /// As a mask that a task may have: without SIGKILL and SIGSTOP.
    pub const fn blockable(self) -> SigSet {
        self.minus(SigSet::UNBLOCKABLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_bits() {
        assert_eq!(SigSet::of(1).0, 1);
        assert_eq!(SigSet::of(64).0, 1 << 63);
        assert!(SigSet::of(0).is_empty() && SigSet::of(65).is_empty() && SigSet::of(-1).is_empty());
        assert_eq!(SigSet(0b1010).lowest(), Some(2));
        assert!(!SigSet::ALL.blockable().contains(libc::SIGKILL));
        assert_eq!(SigSet::UNBLOCKABLE.0, 0x40100);
    }
}
