//! Devices: the memory devices ([`memory`]), and what `/dev` starts with ([`NODES`]). Terminals are
//! in [`crate::tty`].

pub mod memory;

use libc::makedev;

use crate::tty::TTYAUX_MAJOR;
use memory::MEMORY_MAJOR;

/// A device node of a fresh `/dev`: name, mode, number.
pub struct DeviceNode {
    /// Name below `/dev`.
    pub name: &'static str,
    /// Permission bits.
    pub mode: u32,
    /// Device number.
    pub rdev: u64,
}

/// The character devices that containers expect (OCI runtime specification, "Default Devices").
pub const NODES: &[DeviceNode] = &[
    DeviceNode { name: "null", mode: 0o666, rdev: makedev(MEMORY_MAJOR, 3) },
    DeviceNode { name: "zero", mode: 0o666, rdev: makedev(MEMORY_MAJOR, 5) },
    DeviceNode { name: "full", mode: 0o666, rdev: makedev(MEMORY_MAJOR, 7) },
    DeviceNode { name: "random", mode: 0o666, rdev: makedev(MEMORY_MAJOR, 8) },
    DeviceNode { name: "urandom", mode: 0o666, rdev: makedev(MEMORY_MAJOR, 9) },
    DeviceNode { name: "ptmx", mode: 0o666, rdev: makedev(TTYAUX_MAJOR, 2) },
    DeviceNode { name: "tty", mode: 0o666, rdev: makedev(TTYAUX_MAJOR, 0) },
];

/// The symbolic links of a fresh `/dev`: name and text.
pub const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];
