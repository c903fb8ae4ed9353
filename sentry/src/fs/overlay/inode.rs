//! The inodes of an overlay: which layers a file is in, and what is passed on to them.

use std::any::Any;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use parking_lot::{Mutex, RwLock};

use super::Overlay;
use super::dir::OpenDir;
use super::file::LowerFile;
use crate::vfs::{
    Attr, DentryPolicy, DirSink, FileOps, FileSystem, FileType, Inode, InodeKey, IoDst, IoSrc,
    NewNode, OpenArgs, OpenFlags, SetAttr,
};

/// A directory and a name in it.
type Place = (Arc<OverlayInode>, Box<[u8]>);

/// A file of an overlay.
pub struct OverlayInode {
    pub(super) fs: Arc<Overlay>,
    /// What it stands for: its topmost lower inode, else its upper one. Never changes.
    pub(super) identity: InodeKey,
    kind: FileType,
    pub(super) layers: RwLock<Layers>,
    /// The directory that it is in, and its name there: where it is copied up to. `None` for the
    /// root, and once it has no name.
    pub(super) place: Mutex<Option<Place>>,
    /// Hard links made or removed here, on top of the lower file's own.
    links: AtomicI32,
}

/// Where a file is.
pub(super) struct Layers {
    /// In the upper layer, once it was made or changed.
    pub(super) upper: Option<Arc<dyn Inode>>,
    /// In the lower layers: a file at most once, a directory in each that is merged.
    pub(super) lowers: Vec<Arc<dyn Inode>>,
}

impl OverlayInode {
    /// The inode for these layers: the one in use, or a new one.
    pub(super) fn find(
        fs: &Arc<Overlay>,
        upper: Option<Arc<dyn Inode>>,
        lowers: Vec<Arc<dyn Inode>>,
        place: Option<(Arc<OverlayInode>, &[u8])>,
    ) -> Result<Arc<OverlayInode>, Errno> {
        let top = upper.as_ref().or(lowers.first()).ok_or(Errno::ENOENT)?;
        let kind = top.file_type();
        let identity = match upper.as_ref().and_then(|u| fs.origin(u)) {
            Some(origin) => origin.key,
            None if upper.is_some() => top.key(),
            None => lowers.first().ok_or(Errno::ENOENT)?.key(),
        };
        let mut inodes = fs.inodes.lock();
        if let Some(inode) = inodes.get(&identity).and_then(Weak::upgrade) {
            return Ok(inode);
        }
        let inode = Arc::new(OverlayInode {
            fs: fs.clone(),
            identity,
            kind,
            layers: RwLock::new(Layers { upper, lowers }),
            place: Mutex::new(place.map(|(dir, name)| (dir, name.into()))),
            links: AtomicI32::new(0),
        });
        inodes.insert(identity, Arc::downgrade(&inode));
        Ok(inode)
    }

    /// The layer that attributes and content are taken from.
    pub(super) fn real(&self) -> Result<Arc<dyn Inode>, Errno> {
        let layers = self.layers.read();
        layers.upper.as_ref().or(layers.lowers.first()).cloned().ok_or(Errno::EIO)
    }

    /// Whether it was never changed.
    pub(super) fn is_lower(&self) -> bool {
        self.layers.read().upper.is_none()
    }

    pub(super) fn upper(&self) -> Option<Arc<dyn Inode>> {
        self.layers.read().upper.clone()
    }

    /// Notes a hard link made (1) or removed (-1). What is in the upper layer alone is counted
    /// there.
    pub(super) fn count_link(&self, change: i32) {
        self.links.fetch_add(change, Ordering::Relaxed);
    }

    fn is_dir(&self) -> bool {
        self.kind == FileType::Directory
    }

    /// The attributes as the layer has them, with the overlay's identity.
    fn translate(&self, mut attr: Attr) -> Attr {
        let layers = self.layers.read();
        attr.dev = self.fs.dev;
        attr.ino = self.fs.guest_ino(self.identity);
        if let (Some(_), Some(lower)) = (&layers.upper, layers.lowers.first()) {
            attr.nlink = if self.is_dir() {
                // How many subdirectories a merged directory has, nobody counts (as overlayfs).
                1
            } else {
                let base = lower.attr().map_or(1, |a| a.nlink) as i32;
                (base + self.links.load(Ordering::Relaxed)).max(0) as u32
            };
        }
        attr
    }
}

impl Drop for OverlayInode {
    fn drop(&mut self) {
        let mut inodes = self.fs.inodes.lock();
        // Somebody may have made a new one since the last reference went.
        if inodes.get(&self.identity).is_some_and(|w| w.strong_count() == 0) {
            inodes.remove(&self.identity);
        }
    }
}

impl Inode for OverlayInode {
    fn filesystem(&self) -> Arc<dyn FileSystem> {
        self.fs.clone()
    }

    fn key(&self) -> InodeKey {
        InodeKey { dev: self.fs.dev, ino: self.fs.guest_ino(self.identity) }
    }

    fn file_type(&self) -> FileType {
        self.kind
    }

    fn attr(&self) -> Result<Attr, Errno> {
        Ok(self.translate(self.real()?.attr()?))
    }

    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        self.copy_up(change.size)?.set_attr(change)
    }

    fn lookup(&self, name: &[u8], rest: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        self.find_child(name, rest).map(|i| i as Arc<dyn Inode>)
    }

    fn dentry_policy(&self) -> DentryPolicy {
        let layers = self.layers.read();
        let cached = layers.lowers.iter().all(|l| l.dentry_policy() == DentryPolicy::Cache);
        if cached { DentryPolicy::Cache } else { DentryPolicy::Revalidate }
    }

    fn revalidate(&self, name: &[u8], child: &Arc<dyn Inode>) -> bool {
        // Equal identities are one inode, see `OverlayInode::find`.
        self.find_child(name, b"").is_ok_and(|i| i.key() == child.key())
    }

    fn create(&self, name: &[u8], node: &NewNode<'_>) -> Result<Arc<dyn Inode>, Errno> {
        self.create_child(name, node)
    }

    fn tmpfile(&self, node: &NewNode<'_>) -> Result<Arc<dyn Inode>, Errno> {
        let upper = self.copy_up(None)?.tmpfile(node)?;
        Ok(OverlayInode::find(&self.fs, Some(upper), Vec::new(), None)?)
    }

    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<(), Errno> {
        self.link_child(name, target)
    }

    fn unlink(&self, name: &[u8], victim: &Arc<dyn Inode>) -> Result<(), Errno> {
        self.remove_child(name, victim)
    }

    fn rmdir(&self, name: &[u8], victim: &Arc<dyn Inode>) -> Result<(), Errno> {
        self.remove_child(name, victim)
    }

    fn rename(
        &self,
        name: &[u8],
        new_dir: &Arc<dyn Inode>,
        new_name: &[u8],
        exchange: bool,
    ) -> Result<(), Errno> {
        self.rename_child(name, new_dir, new_name, exchange)
    }

    fn readlink(&self) -> Result<Vec<u8>, Errno> {
        self.real()?.readlink()
    }

    fn open(self: Arc<Self>, args: &OpenArgs<'_>) -> Result<Box<dyn FileOps>, Errno> {
        if self.is_dir() {
            return Ok(Box::new(OpenDir::new(self)));
        }
        if args.flags.writable() {
            let size = args.flags.contains(OpenFlags::TRUNC).then_some(0);
            return self.copy_up(size)?.open(args);
        }
        let (real, lower) = {
            let layers = self.layers.read();
            let lower = layers.upper.is_none();
            (layers.upper.as_ref().or(layers.lowers.first()).cloned().ok_or(Errno::EIO)?, lower)
        };
        let file = real.open(args)?;
        Ok(if lower { Box::new(LowerFile::new(self, file)) } else { file })
    }

    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        self.real()?.get_xattr(name)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: i32) -> Result<(), Errno> {
        self.copy_up(None)?.set_xattr(name, value, flags)
    }

    fn list_xattr(&self) -> Result<Vec<u8>, Errno> {
        self.real()?.list_xattr()
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        // What is not there need not be copied up to be missing.
        self.real()?.get_xattr(name)?;
        self.copy_up(None)?.remove_xattr(name)
    }

    fn read_at(&self, dst: &mut IoDst<'_>, offset: u64) -> Result<usize, Errno> {
        self.real()?.read_at(dst, offset)
    }

    fn write_at(&self, src: &mut IoSrc<'_>, offset: u64) -> Result<usize, Errno> {
        self.copy_up(None)?.write_at(src, offset)
    }

    fn list(self: Arc<Self>, sink: &mut DirSink<'_>) -> Result<(), Errno> {
        OpenDir::new(self).read_dir(&mut 0, sink)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
