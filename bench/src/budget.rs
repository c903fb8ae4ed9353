//! The budgets of DESIGN section 9, row by row.

use crate::load::Load;
use crate::measure::{MEMORY, TRUE};
use std::fmt;

/// The most that a row may cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Budget {
    /// Times what it takes natively.
    Ratio(f64),
    /// Nanoseconds.
    Nanoseconds(f64),
    /// Bytes.
    Bytes(f64),
}

impl Budget {
    /// Whether a median, and its ratio to native, is above it.
    pub(crate) fn missed(self, median: f64, ratio: Option<f64>) -> bool {
        match self {
            Budget::Ratio(most) => ratio.is_some_and(|r| r > most),
            Budget::Nanoseconds(most) | Budget::Bytes(most) => median > most,
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Budget::Ratio(most) => write!(f, "{most}x"),
            Budget::Nanoseconds(most) if *most < 1e6 => write!(f, "{} µs", most / 1e3),
            Budget::Nanoseconds(most) => write!(f, "{} ms", most / 1e6),
            Budget::Bytes(most) => write!(f, "{} MiB", most / f64::from(1 << 20)),
        }
    }
}

/// The budget of a row under a load, if it has one.
pub(crate) fn of(row: &str, load: Load) -> Option<Budget> {
    use Budget::{Bytes, Nanoseconds, Ratio};
    let quiet = load == Load::None;
    let most = match row {
        // Answered in the stub, whatever else goes on.
        "getpid" | "getpid by syscall(2)" => return Some(Ratio(0.3)),
        "compute" | "compute, 2 threads" => return Some(Ratio(1.02)),
        "clock_gettime" => return Some(Ratio(1.0)),
        "getppid" | "getppid by syscall(2)" | "fcntl(F_GETFD)" | "fcntl(F_GETFD) by syscall(2)" => {
            return Some(if quiet { Ratio(1.0) } else { Nanoseconds(7e3) });
        }
        "read 1 byte"
        | "write 1 byte"
        | "pread 4 KiB, cached"
        | "stat, warm"
        | "stat, missing"
        | "stat, missing in /usr"
        | "create+write+unlink"
        | "getdents of 1000"
        | "fork+exit+wait"
        | "fork+exec+wait"
        | "vfork+exec+wait"
        | "thread create+join"
        | "signal to self"
        | "futex wake, no waiter"
        | "epoll+eventfd, 3 calls"
        | "sh, 100 times true" => Ratio(2.0),
        "open+close"
        | "open+fstat+read+close"
        | "mmap+touch+munmap 4 KiB"
        | "TCP connect+accept+close" => Ratio(3.0),
        "page fault" | "mmap+touch+munmap 1 MiB" => Ratio(1.3),
        "SIGSEGV handler+mprotect" => Ratio(4.0),
        "pipe ping-pong" | "unix socket ping-pong" | "futex ping-pong" => Ratio(1.5),
        "TCP ping-pong" => Ratio(1.2),
        "python3 start" | "gcc -O1" | "python3 -m compileall" => Ratio(1.3),
        "find /usr/lib" | "git status" => Ratio(2.0),
        "tar of /usr/include" | "sqlite, 1 transaction" => Ratio(1.5),
        "sqlite, 200 transactions" => Ratio(1.0),
        TRUE => Nanoseconds(12e6),
        MEMORY => Bytes(12.0 * f64::from(1 << 20)),
        _ => return None,
    };
    quiet.then_some(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trivial_calls_are_bounded_absolutely_under_load() {
        assert_eq!(of("getppid", Load::None), Some(Budget::Ratio(1.0)));
        assert_eq!(of("getppid", Load::Busy), Some(Budget::Nanoseconds(7e3)));
        assert_eq!(of("stat, warm", Load::Busy), None);
    }

    #[test]
    fn a_miss_is_above() {
        assert!(Budget::Ratio(2.0).missed(1.0, Some(2.1)));
        assert!(!Budget::Ratio(2.0).missed(1.0, Some(2.0)));
        assert!(Budget::Nanoseconds(7e3).missed(7.1e3, Some(0.1)));
        assert_eq!(Budget::Nanoseconds(7e3).to_string(), "7 µs");
        assert_eq!(Budget::Ratio(1.3).to_string(), "1.3x");
    }
}
