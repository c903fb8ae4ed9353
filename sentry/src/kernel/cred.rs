//! Credentials: ids, groups, capabilities (credentials(7), capabilities(7)). Immutable; a change
//! makes a new object.

use std::sync::Arc;

use abi::Errno;

use crate::kmem::{self, KernelMemory};

#[allow(missing_docs)] // The names are Linux's.
mod bits {
    use bitflags::bitflags;

    bitflags! {
        /// A set of capabilities, bit N for capability number N.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Caps: u64 {
            const CHOWN = 1 << 0;
            const DAC_OVERRIDE = 1 << 1;
            const DAC_READ_SEARCH = 1 << 2;
            const FOWNER = 1 << 3;
            const FSETID = 1 << 4;
            const KILL = 1 << 5;
            const SETGID = 1 << 6;
            const SETUID = 1 << 7;
            const SETPCAP = 1 << 8;
            const LINUX_IMMUTABLE = 1 << 9;
            const NET_BIND_SERVICE = 1 << 10;
            const NET_BROADCAST = 1 << 11;
            const NET_ADMIN = 1 << 12;
            const NET_RAW = 1 << 13;
            const IPC_LOCK = 1 << 14;
            const IPC_OWNER = 1 << 15;
            const SYS_MODULE = 1 << 16;
            const SYS_RAWIO = 1 << 17;
            const SYS_CHROOT = 1 << 18;
            const SYS_PTRACE = 1 << 19;
            const SYS_PACCT = 1 << 20;
            const SYS_ADMIN = 1 << 21;
            const SYS_BOOT = 1 << 22;
            const SYS_NICE = 1 << 23;
            const SYS_RESOURCE = 1 << 24;
            const SYS_TIME = 1 << 25;
            const SYS_TTY_CONFIG = 1 << 26;
            const MKNOD = 1 << 27;
            const LEASE = 1 << 28;
            const AUDIT_WRITE = 1 << 29;
            const AUDIT_CONTROL = 1 << 30;
            const SETFCAP = 1 << 31;
            const MAC_OVERRIDE = 1 << 32;
            const MAC_ADMIN = 1 << 33;
            const SYSLOG = 1 << 34;
            const WAKE_ALARM = 1 << 35;
            const BLOCK_SUSPEND = 1 << 36;
            const AUDIT_READ = 1 << 37;
            const PERFMON = 1 << 38;
            const BPF = 1 << 39;
            const CHECKPOINT_RESTORE = 1 << 40;
        }
    }
}

pub use bits::Caps;

/// Supplementary groups, in order. Copies share them.
#[derive(Clone, Debug)]
pub struct Groups(Arc<List>);

#[derive(Debug)]
struct List {
    groups: Box<[u32]>,
    _memory: Option<KernelMemory>,
}

impl Groups {
    /// So many are a task's own expense.
    const FREE: usize = 64;

    /// A list that somebody has chosen, which may be long. `ENOMEM`
    pub fn new(groups: Vec<u32>) -> Result<Groups, Errno> {
        let mut memory = None;
        if groups.len() > Groups::FREE {
            memory = Some(kmem::charge(size_of_val(&groups[..])).ok_or(Errno::ENOMEM)?);
        }
        Ok(Groups(Arc::new(List { groups: groups.into(), _memory: memory })))
    }
}

impl From<&[u32]> for Groups {
    fn from(groups: &[u32]) -> Groups {
        Groups(Arc::new(List { groups: groups.into(), _memory: None }))
    }
}

impl std::ops::Deref for Groups {
    type Target = [u32];
    fn deref(&self) -> &[u32] {
        &self.0.groups
    }
}

impl PartialEq for Groups {
    fn eq(&self, other: &Groups) -> bool {
        **self == **other
    }
}

impl Eq for Groups {}

/// Who a task is and what it may do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names are credentials(7)'s.
pub struct Credentials {
    pub uid: u32,
    pub gid: u32,
    pub euid: u32,
    pub egid: u32,
    pub suid: u32,
    pub sgid: u32,
    pub fsuid: u32,
    pub fsgid: u32,
    pub groups: Groups,
    pub permitted: Caps,
    pub effective: Caps,
    pub inheritable: Caps,
    pub bounding: Caps,
    pub ambient: Caps,
    pub securebits: u32,
    pub no_new_privs: bool,
}

impl Credentials {
    /// A user with `uid`, `gid` and `groups`; all of `bounding` if the uid is 0, nothing otherwise.
    pub fn new(uid: u32, gid: u32, groups: &[u32], bounding: Caps) -> Credentials {
        let caps = if uid == 0 { bounding } else { Caps::empty() };
        Credentials {
            uid,
            gid,
            euid: uid,
            egid: gid,
            suid: uid,
            sgid: gid,
            fsuid: uid,
            fsgid: gid,
            groups: groups.into(),
            permitted: caps,
            effective: caps,
            inheritable: Caps::empty(),
            bounding,
            ambient: Caps::empty(),
            securebits: 0,
            no_new_privs: false,
        }
    }

    /// Whether the capability is effective.
    pub fn capable(&self, cap: Caps) -> bool {
        self.effective.contains(cap)
    }

    /// Whether `gid` is the file-system group or a supplementary one.
    pub fn in_group(&self, gid: u32) -> bool {
        self.fsgid == gid || self.groups.contains(&gid)
    }

    /// As [`Credentials::in_group`] with the effective group.
    pub fn in_egroup(&self, gid: u32) -> bool {
        self.egid == gid || self.groups.contains(&gid)
    }
}
