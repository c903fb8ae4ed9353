//! Mounts and mount namespaces.
//!
//! Lock order: a namespace's table before any dentry.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bitflags::bitflags;
use parking_lot::RwLock;

use super::{Dentry, FileSystem, Inode};
use abi::Errno;

bitflags! {
    /// Flags of one mount (the `MS_*` bits of mount(2)).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct MountFlags: u32 {
        /// `MS_RDONLY`
        const RDONLY = 1;
        /// `MS_NOSUID`
        const NOSUID = 2;
        /// `MS_NODEV`
        const NODEV = 4;
        /// `MS_NOEXEC`
        const NOEXEC = 8;
        /// `MS_NOATIME`
        const NOATIME = 1024;
        /// `MS_NODIRATIME`
        const NODIRATIME = 2048;
        /// `MS_RELATIME`
        const RELATIME = 1 << 21;
    }
}

/// A file system's tree (or a part of it) at a place.
pub struct Mount {
    /// Id as /proc/self/mountinfo shows it.
    pub id: u64,
    /// The file system.
    pub fs: Arc<dyn FileSystem>,
    /// The dentry that appears at the mount point.
    pub root: Arc<Dentry>,
    /// What was named as the source, for /proc/mounts.
    pub source: String,
    /// Where it sits; `None` for a namespace's root and for detached mounts.
    point: RwLock<Option<Path>>,
    flags: AtomicU32,
}

/// A new anonymous device number (`0:N`) for a file system without a device.
pub fn new_device() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let minor = NEXT.fetch_add(1, Ordering::Relaxed) as u32 & 0xf_ffff;
    libc::makedev(0, minor)
}

static NEXT_MOUNT_ID: AtomicU64 = AtomicU64::new(1);

impl Mount {
    /// A mount that is not attached anywhere.
    pub fn new(
        fs: Arc<dyn FileSystem>,
        root: Arc<Dentry>,
        source: &str,
        flags: MountFlags,
    ) -> Arc<Mount> {
        Arc::new(Mount {
            id: NEXT_MOUNT_ID.fetch_add(1, Ordering::Relaxed),
            fs,
            root,
            source: source.to_owned(),
            point: RwLock::new(None),
            flags: AtomicU32::new(flags.bits()),
        })
    }

    /// The flags now.
    pub fn flags(&self) -> MountFlags {
        MountFlags::from_bits_truncate(self.flags.load(Ordering::Acquire))
    }

    /// Changes the flags (remount).
    pub fn set_flags(&self, flags: MountFlags) {
        self.flags.store(flags.bits(), Ordering::Release);
    }

    /// Where it is mounted.
    pub fn point(&self) -> Option<Path> {
        self.point.read().clone()
    }

    pub(super) fn set_point(&self, point: Option<Path>) {
        *self.point.write() = point;
    }
}

/// A place in the tree of mounts: Linux's `struct path`.
#[derive(Clone)]
pub struct Path {
    /// Which mount.
    pub mount: Arc<Mount>,
    /// Which dentry in it.
    pub dentry: Arc<Dentry>,
}

impl Path {
    /// Same mount, same dentry.
    pub fn same(&self, other: &Path) -> bool {
        Arc::ptr_eq(&self.mount, &other.mount) && Arc::ptr_eq(&self.dentry, &other.dentry)
    }

    /// The inode, `ENOENT` if the dentry is negative.
    pub fn inode(&self) -> Result<Arc<dyn Inode>, Errno> {
        self.dentry.inode().ok_or(Errno::ENOENT)
    }
}

/// The mounts that a set of tasks sees.
pub struct MountNamespace {
    /// The root mount and all others, in the order they were mounted.
    pub(super) table: RwLock<Vec<Arc<Mount>>>,
}

impl MountNamespace {
    /// A namespace with one mount, its root.
    pub fn new(root: Arc<Mount>) -> Arc<MountNamespace> {
        Arc::new(MountNamespace { table: RwLock::new(vec![root]) })
    }

    /// The root of the root mount.
    pub fn root(&self) -> Option<Path> {
        let table = self.table.read();
        table.first().map(|m| Path { mount: m.clone(), dentry: m.root.clone() })
    }

    /// All mounts, oldest first.
    pub fn mounts(&self) -> Vec<Arc<Mount>> {
        self.table.read().clone()
    }

    /// Attaches `mount` at `point`, over what is there.
    pub fn attach(&self, mount: Arc<Mount>, point: Path) {
        let mut table = self.table.write();
        point.dentry.mounted.fetch_add(1, Ordering::AcqRel);
        mount.set_point(Some(point));
        table.push(mount);
    }

    /// The mount that covers `at`, the newest if there are several.
    pub fn covering(&self, at: &Path) -> Option<Arc<Mount>> {
        if !at.dentry.is_mountpoint() {
            return None;
        }
        let table = self.table.read();
        table.iter().rev().find(|m| m.point().is_some_and(|p| p.same(at))).cloned()
    }
}
