//! Mounts and mount namespaces.
//!
//! Lock order: [`super::dentry::rename_lock`] -> a namespace's table -> a mount's point.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bitflags::bitflags;
use parking_lot::RwLock;

use super::{Dentry, FileSystem, Inode};
use crate::kmem::{self, KernelMemory};
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

/// How many mounts a namespace may have (`/proc/sys/fs/mount-max` is 100,000 on Linux).
pub const MAX_MOUNTS: usize = 4096;

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
    /// What it costs, if a guest made it.
    _memory: Option<KernelMemory>,
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
        Mount::charged(fs, root, source, flags, None)
    }

    /// As [`Mount::new`] for a guest: it counts for the sandbox's memory (`ENOMEM`).
    pub fn of_guest(
        fs: Arc<dyn FileSystem>,
        root: Arc<Dentry>,
        source: &str,
        flags: MountFlags,
    ) -> Result<Arc<Mount>, Errno> {
        let memory = kmem::charge(kmem::MOUNT + source.len()).ok_or(Errno::ENOMEM)?;
        Ok(Mount::charged(fs, root, source, flags, Some(memory)))
    }

    fn charged(
        fs: Arc<dyn FileSystem>,
        root: Arc<Dentry>,
        source: &str,
        flags: MountFlags,
        memory: Option<KernelMemory>,
    ) -> Arc<Mount> {
        Arc::new(Mount {
            _memory: memory,
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

    /// Whether nothing may be changed through it.
    pub fn is_read_only(&self) -> bool {
        self.flags().contains(MountFlags::RDONLY)
    }

    /// Changes the flags (remount).
    pub fn set_flags(&self, flags: MountFlags) {
        self.flags.store(flags.bits(), Ordering::Release);
    }

    /// Where it is mounted.
    pub fn point(&self) -> Option<Path> {
        self.point.read().clone()
    }

    /// The place of its root.
    pub fn root_path(self: &Arc<Self>) -> Path {
        Path { mount: self.clone(), dentry: self.root.clone() }
    }

    fn set_point(&self, point: Option<Path>) {
        let old = std::mem::replace(&mut *self.point.write(), point);
        drop(old);
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

    /// Whether it is the root of its mount.
    pub fn is_mount_root(&self) -> bool {
        Arc::ptr_eq(&self.dentry, &self.mount.root)
    }

    fn key(&self) -> (usize, usize) {
        (Arc::as_ptr(&self.mount).addr(), Arc::as_ptr(&self.dentry).addr())
    }
}

/// The mounts that a set of tasks sees.
pub struct MountNamespace {
    table: RwLock<Table>,
}

struct Table {
    /// The root mount and all others, in the order they were mounted.
    mounts: Vec<Arc<Mount>>,
    /// Those that sit somewhere, by where.
    at: HashMap<(usize, usize), Arc<Mount>>,
    root: Arc<Mount>,
}

impl Table {
    fn place(&mut self, mount: &Arc<Mount>, mut point: Path) {
        while let Some(over) = self.at.get(&point.key()) {
            point = over.root_path();
        }
        point.dentry.mounted.fetch_add(1, Ordering::AcqRel);
        self.at.insert(point.key(), mount.clone());
        mount.set_point(Some(point));
    }

    fn displace(&mut self, mount: &Arc<Mount>) {
        if let Some(point) = mount.point() {
            self.at.remove(&point.key());
            point.dentry.mounted.fetch_sub(1, Ordering::AcqRel);
            mount.set_point(None);
        }
    }

    fn has(&self, mount: &Arc<Mount>) -> bool {
        self.mounts.iter().any(|m| Arc::ptr_eq(m, mount))
    }

    /// Mounts whose point lies in `mount`.
    fn children(&self, mount: &Arc<Mount>) -> Vec<Arc<Mount>> {
        let inside = |m: &&Arc<Mount>| m.point().is_some_and(|p| Arc::ptr_eq(&p.mount, mount));
        self.mounts.iter().filter(inside).cloned().collect()
    }

    fn below(&self, mount: &Arc<Mount>) -> Vec<Arc<Mount>> {
        let mut all = vec![mount.clone()];
        let mut next = 0;
        while let Some(at) = all.get(next).cloned() {
            all.extend(self.children(&at));
            next += 1;
        }
        all
    }
}

impl MountNamespace {
    /// A namespace with one mount, its root.
    pub fn new(root: Arc<Mount>) -> Arc<MountNamespace> {
        let table = Table { mounts: vec![root.clone()], at: HashMap::new(), root };
        Arc::new(MountNamespace { table: RwLock::new(table) })
    }

    /// The root of the root mount, with what is mounted over it.
    pub fn root(&self) -> Option<Path> {
        let root = self.table.read().root.root_path();
        Some(self.over(root))
    }

    /// All mounts, oldest first.
    pub fn mounts(&self) -> Vec<Arc<Mount>> {
        self.table.read().mounts.clone()
    }

    /// Attaches `mount` at `point`, over what is there.
    pub fn attach(&self, mount: Arc<Mount>, point: Path) {
        // There is no such bound.
        let _ = self.attach_if(usize::MAX, mount, point);
    }

    /// As [`MountNamespace::attach`] for a guest: `ENOSPC` when there are too many mounts.
    pub fn attach_bounded(&self, mount: Arc<Mount>, point: Path) -> Result<(), Errno> {
        self.attach_if(MAX_MOUNTS, mount, point)
    }

    fn attach_if(&self, most: usize, mount: Arc<Mount>, point: Path) -> Result<(), Errno> {
        // Keeps the dentry findable in directories whose names are not cached.
        if let Some(parent) = point.dentry.parent() {
            parent.add_child(point.dentry.clone());
        }
        let mut table = self.table.write();
        if table.mounts.len() >= most {
            return Err(Errno::ENOSPC);
        }
        table.place(&mount, point);
        table.mounts.push(mount);
        Ok(())
    }

    /// The mount that covers `at`, the newest if there are several.
    pub fn covering(&self, at: &Path) -> Option<Arc<Mount>> {
        if !at.dentry.is_mountpoint() {
            return None;
        }
        self.table.read().at.get(&at.key()).cloned()
    }

    /// Follows mounts from `at` to what is seen there.
    pub fn over(&self, mut at: Path) -> Path {
        while let Some(mount) = self.covering(&at) {
            at = mount.root_path();
        }
        at
    }

    /// Whether the mount belongs to this namespace (`EINVAL` of mount(2) otherwise).
    pub fn contains(&self, mount: &Arc<Mount>) -> bool {
        self.table.read().has(mount)
    }

    /// umount2(2): `EBUSY` if it is in use, unless `detach`; `EINVAL` for what is not mounted here
    /// or is the root.
    pub fn unmount(&self, mount: &Arc<Mount>, detach: bool) -> Result<(), Errno> {
        let mut table = self.table.write();
        if !table.has(mount) || mount.point().is_none() {
            return Err(Errno::EINVAL);
        }
        let gone = table.below(mount);
        // The table's two references, `gone`'s, and the caller's path.
        if !detach && (gone.len() > 1 || Arc::strong_count(mount) > 4) {
            return Err(Errno::EBUSY);
        }
        table.displace(mount);
        table.mounts.retain(|m| !gone.iter().any(|g| Arc::ptr_eq(g, m)));
        for below in gone.iter().skip(1) {
            table.displace(below);
        }
        Ok(())
    }

    /// `MS_MOVE`: puts a mount elsewhere. `EINVAL` for a root, `ELOOP` into itself.
    pub fn relocate(&self, mount: &Arc<Mount>, to: Path) -> Result<(), Errno> {
        let mut table = self.table.write();
        if !table.has(mount) || mount.point().is_none() || !table.has(&to.mount) {
            return Err(Errno::EINVAL);
        }
        if table.below(mount).iter().any(|m| Arc::ptr_eq(m, &to.mount)) {
            return Err(Errno::ELOOP);
        }
        table.displace(mount);
        table.place(mount, to);
        Ok(())
    }

    /// The mounts below `dir` in the tree that `MS_REC` copies: those whose points lie under it.
    pub fn mounts_below(&self, dir: &Path) -> Vec<Arc<Mount>> {
        let table = self.table.read();
        let mut all = Vec::new();
        for child in table.children(&dir.mount) {
            if child.point().is_some_and(|p| dir.dentry.is_ancestor_of(&p.dentry)) {
                all.extend(table.below(&child));
            }
        }
        all
    }

    /// pivot_root(2) proper: `new_root` becomes the root mount, and the old one sits at `put_old`.
    pub fn pivot(&self, new_root: &Arc<Mount>, put_old: Path) -> Result<(), Errno> {
        let mut table = self.table.write();
        let old = table.root.clone();
        if !table.has(new_root) || new_root.point().is_none() || Arc::ptr_eq(&old, new_root) {
            return Err(Errno::EINVAL);
        }
        table.displace(new_root);
        table.root = new_root.clone();
        table.place(&old, put_old);
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // The root of a file system that nobody else mounts any more: this mount's reference, and
        // those of its children's cached dentries.
        if self.root.parent().is_none() && Arc::strong_count(&self.fs) == 1 {
            self.root.drop_tree();
        }
    }
}

impl Drop for MountNamespace {
    fn drop(&mut self) {
        let table = self.table.get_mut();
        for mount in std::mem::take(&mut table.mounts) {
            table.displace(&mount);
        }
    }
}
