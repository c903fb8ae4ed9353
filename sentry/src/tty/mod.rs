//! Terminals: the line discipline ([`ldisc`]), pseudo-terminals ([`pty`]), job control ([`job`]),
//! the open files ([`file`]), `/dev/pts` ([`devpts`]), and the sandbox's own console ([`console`]).

pub mod console;
pub mod devpts;
pub mod file;
pub mod job;
pub mod ldisc;
pub mod pty;
pub mod termios;

/// Major number of slaves (`UNIX98_PTY_SLAVE_MAJOR`). Linux has eight, but uses one.
pub const SLAVE_MAJOR: u32 = 136;
/// Major number of `/dev/tty` (minor 0), `/dev/console` (1) and `/dev/ptmx` (2).
pub const TTYAUX_MAJOR: u32 = 5;

/// The device number of slave `index`.
pub fn slave_rdev(index: u32) -> u64 {
    libc::makedev(SLAVE_MAJOR, index)
}
