//! Namespaces.

use std::ops::BitOr;

/// `CLONE_NEWTIME`
const TIME: u64 = 0x80;

/// A set of namespaces to make new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespaces(u64);

impl Namespaces {
    /// user_namespaces(7).
    pub const USER: Namespaces = Namespaces(libc::CLONE_NEWUSER as u64);
    /// pid_namespaces(7). The process is pid 1 of it: when it dies, all in it die.
    pub const PID: Namespaces = Namespaces(libc::CLONE_NEWPID as u64);
    /// mount_namespaces(7).
    pub const MOUNT: Namespaces = Namespaces(libc::CLONE_NEWNS as u64);
    /// network_namespaces(7), with nothing but a loopback interface that is down.
    pub const NET: Namespaces = Namespaces(libc::CLONE_NEWNET as u64);
    /// ipc_namespaces(7).
    pub const IPC: Namespaces = Namespaces(libc::CLONE_NEWIPC as u64);
    /// uts_namespaces(7).
    pub const UTS: Namespaces = Namespaces(libc::CLONE_NEWUTS as u64);
    /// cgroup_namespaces(7).
    pub const CGROUP: Namespaces = Namespaces(libc::CLONE_NEWCGROUP as u64);

    /// time_namespaces(7), where the host has them, with clocks that begin anew.
    pub const TIME: Namespaces = Namespaces(TIME);

    /// All of the above but for the last.
    pub fn all() -> Namespaces {
        Self::USER | Self::PID | Self::MOUNT | Self::NET | Self::IPC | Self::UTS | Self::CGROUP
    }

    /// The flags as clone3(2) takes them. A time namespace is made from inside, because its clocks
    /// must be set before anybody is in it.
    pub(crate) fn flags(self) -> u64 {
        self.0 & !TIME
    }

    /// Whether there is to be a time namespace.
    pub(crate) fn has_time(self) -> bool {
        self.0 & TIME != 0
    }
}

impl BitOr for Namespaces {
    type Output = Namespaces;

    fn bitor(self, other: Namespaces) -> Namespaces {
        Namespaces(self.0 | other.0)
    }
}
