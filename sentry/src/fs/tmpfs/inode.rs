//! Inodes of tmpfs: attributes, and what each kind holds.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;
use parking_lot::Mutex;

use super::TmpFs;
use super::dir::{DirFile, Names};
use super::file::{Content, OpenFile, seal};
use super::xattr::Value;
use crate::kernel::time::file_time;
use crate::kmem::KernelMemory;
use crate::vfs::{
    Attr, DirSink, FileOps, FileSystem, FileType, Inode, InodeKey, IoDst, IoSrc, NewNode, NodeKind,
    OpenArgs, SetAttr, Timespec,
};

/// A file of tmpfs.
pub struct TmpInode {
    pub(super) fs: Arc<TmpFs>,
    pub(super) ino: u64,
    kind: FileType,
    rdev: u64,
    pub(super) meta: Mutex<Meta>,
    pub(super) body: Body,
    _memory: KernelMemory,
}

/// What may change about an inode.
pub(super) struct Meta {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    /// May be linked although it has no name (`O_TMPFILE`).
    pub linkable: bool,
    pub atime: Timespec,
    pub mtime: Timespec,
    pub ctime: Timespec,
    pub btime: Timespec,
    pub xattrs: BTreeMap<Vec<u8>, Value>,
}

/// What an inode holds.
pub(super) enum Body {
    Regular(Content),
    Directory(Names),
    Symlink(Box<[u8]>),
    Special,
}

impl TmpInode {
    pub(super) fn new(fs: &Arc<TmpFs>, node: &NewNode<'_>) -> Result<Arc<TmpInode>, Errno> {
        let (kind, rdev) = match node.kind {
            NodeKind::Regular => (FileType::Regular, 0),
            NodeKind::Directory => (FileType::Directory, 0),
            NodeKind::Symlink(_) => (FileType::Symlink, 0),
            NodeKind::Fifo => (FileType::Fifo, 0),
            NodeKind::Socket => (FileType::Socket, 0),
            NodeKind::CharDevice(rdev) => (FileType::CharDevice, rdev),
            NodeKind::BlockDevice(rdev) => (FileType::BlockDevice, rdev),
        };
        let ino = fs.take_inode()?;
        let body = match node.kind {
            NodeKind::Regular => {
                Body::Regular(Content::new(fs.memory.clone(), Some(fs.quota.clone()), seal::SEAL))
            }
            NodeKind::Directory => Body::Directory(Names::default()),
            NodeKind::Symlink(text) => Body::Symlink(text.into()),
            _ => Body::Special,
        };
        Ok(TmpInode::with_body(fs, ino, kind, rdev, node, body))
    }

    pub(super) fn with_body(
        fs: &Arc<TmpFs>,
        (ino, memory): (u64, KernelMemory),
        kind: FileType,
        rdev: u64,
        node: &NewNode<'_>,
        body: Body,
    ) -> Arc<TmpInode> {
        let now = file_time();
        let mode = if kind == FileType::Symlink { 0o777 } else { node.mode & 0o7777 };
        let meta = Meta {
            mode: kind.mode_bits() | mode,
            uid: node.uid,
            gid: node.gid,
            nlink: if kind == FileType::Directory { 2 } else { 1 },
            linkable: false,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            xattrs: BTreeMap::new(),
        };
        Arc::new(TmpInode {
            fs: fs.clone(),
            ino,
            kind,
            rdev,
            meta: Mutex::new(meta),
            body,
            _memory: memory,
        })
    }

    /// The names, `ENOTDIR` if it is no directory.
    pub(super) fn names(&self) -> Result<&Names, Errno> {
        match &self.body {
            Body::Directory(names) => Ok(names),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// The content of a regular file.
    pub(super) fn content(&self) -> Result<&Content, Errno> {
        match &self.body {
            Body::Regular(content) => Ok(content),
            Body::Directory(_) => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Content changed.
    pub(super) fn touch_modified(&self) {
        let now = file_time();
        let mut meta = self.meta.lock();
        meta.mtime = now;
        meta.ctime = now;
    }

    /// Content was read: moves the access time as `relatime` does.
    pub(super) fn touch_accessed(&self) {
        let now = file_time();
        let mut meta = self.meta.lock();
        if meta.atime <= meta.mtime || meta.atime <= meta.ctime || now.sec - meta.atime.sec >= 86400
        {
            meta.atime = now;
        }
    }

    pub(super) fn change_links(&self, by: i32) {
        let mut meta = self.meta.lock();
        meta.nlink = meta.nlink.saturating_add_signed(by);
        meta.ctime = file_time();
    }

    /// As its concrete type; `EXDEV` for an inode of something else.
    pub(super) fn of(inode: &Arc<dyn Inode>) -> Result<Arc<TmpInode>, Errno> {
        let any: Arc<dyn Any + Send + Sync> = inode.clone();
        any.downcast().map_err(|_| Errno::EXDEV)
    }
}

impl Drop for TmpInode {
    fn drop(&mut self) {
        self.fs.inodes.fetch_sub(1, Ordering::Relaxed);
        self.drop_xattrs();
    }
}

impl Inode for TmpInode {
    fn filesystem(&self) -> Arc<dyn FileSystem> {
        self.fs.clone()
    }
    fn key(&self) -> InodeKey {
        InodeKey { dev: self.fs.dev, ino: self.ino }
    }
    fn file_type(&self) -> FileType {
        self.kind
    }
    fn attr(&self) -> Result<Attr, Errno> {
        let (size, blocks) = match &self.body {
            Body::Regular(content) => content.size_and_blocks(),
            Body::Directory(names) => (names.size(), 0),
            Body::Symlink(text) => (text.len() as u64, 0),
            Body::Special => (0, 0),
        };
        let meta = self.meta.lock();
        Ok(Attr {
            dev: self.fs.dev,
            ino: self.ino,
            mode: meta.mode,
            nlink: meta.nlink,
            uid: meta.uid,
            gid: meta.gid,
            rdev: self.rdev,
            size,
            blksize: super::PAGE as u32,
            blocks,
            atime: meta.atime,
            mtime: meta.mtime,
            ctime: meta.ctime,
            btime: Some(meta.btime),
        })
    }
    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        if let (Some(mode), Body::Regular(content)) = (change.mode, &self.body) {
            content.check_mode_change(self.meta.lock().mode, mode)?;
        }
        if let Some(size) = change.size {
            self.content()?.truncate(size)?;
        }
        let now = file_time();
        let mut meta = self.meta.lock();
        if change.size.is_some() {
            meta.mtime = now;
        }
        let mut attr = Attr {
            dev: 0,
            ino: 0,
            mode: meta.mode,
            nlink: 0,
            uid: meta.uid,
            gid: meta.gid,
            rdev: 0,
            size: 0,
            blksize: 0,
            blocks: 0,
            atime: meta.atime,
            mtime: meta.mtime,
            ctime: meta.ctime,
            btime: None,
        };
        change.apply(&mut attr, now);
        meta.mode = attr.mode;
        meta.uid = attr.uid;
        meta.gid = attr.gid;
        meta.atime = attr.atime;
        meta.mtime = attr.mtime;
        meta.ctime = attr.ctime;
        Ok(())
    }
    fn lookup(&self, name: &[u8], _: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        Ok(self.names()?.get(name)?)
    }
    fn create(&self, name: &[u8], node: &NewNode<'_>) -> Result<Arc<dyn Inode>, Errno> {
        let names = self.names()?;
        let inode = TmpInode::new(&self.fs, node)?;
        names.insert(name, &inode)?;
        if inode.kind == FileType::Directory {
            self.change_links(1);
        }
        self.touch_modified();
        Ok(inode)
    }
    fn tmpfile(&self, node: &NewNode<'_>) -> Result<Arc<dyn Inode>, Errno> {
        let inode = TmpInode::new(&self.fs, node)?;
        let mut meta = inode.meta.lock();
        meta.nlink = 0;
        meta.linkable = true;
        drop(meta);
        Ok(inode)
    }
    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<(), Errno> {
        let target = TmpInode::of(target)?;
        if !Arc::ptr_eq(&target.fs, &self.fs) {
            return Err(Errno::EXDEV);
        }
        {
            let meta = target.meta.lock();
            if meta.nlink == 0 && !meta.linkable {
                return Err(Errno::ENOENT);
            }
            if meta.nlink == u32::MAX {
                return Err(Errno::EMLINK);
            }
        }
        self.names()?.insert(name, &target)?;
        target.change_links(1);
        target.meta.lock().linkable = false;
        self.touch_modified();
        Ok(())
    }
    fn unlink(&self, name: &[u8], victim: &Arc<dyn Inode>) -> Result<(), Errno> {
        let _ = victim;
        let gone = self.names()?.remove(name)?;
        gone.change_links(-1);
        self.touch_modified();
        Ok(())
    }
    fn rmdir(&self, name: &[u8], victim: &Arc<dyn Inode>) -> Result<(), Errno> {
        if !TmpInode::of(victim)?.names()?.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        let gone = self.names()?.remove(name)?;
        gone.change_links(-2);
        self.change_links(-1);
        self.touch_modified();
        Ok(())
    }
    fn rename(
        &self,
        name: &[u8],
        new_dir: &Arc<dyn Inode>,
        new_name: &[u8],
        exchange: bool,
    ) -> Result<(), Errno> {
        let new_dir = TmpInode::of(new_dir)?;
        super::dir::rename(self, name, &new_dir, new_name, exchange)
    }
    fn readlink(&self) -> Result<Vec<u8>, Errno> {
        match &self.body {
            Body::Symlink(text) => Ok(text.to_vec()),
            _ => Err(Errno::EINVAL),
        }
    }
    fn open(self: Arc<Self>, args: &OpenArgs<'_>) -> Result<Box<dyn FileOps>, Errno> {
        match &self.body {
            Body::Regular(_) => Ok(Box::new(OpenFile::new(self, args.updates_atime()))),
            Body::Directory(_) => {
                let atime = args.updates_atime();
                Ok(Box::new(DirFile::new(self, args.path.dentry.clone(), atime)))
            }
            _ => Err(Errno::ENXIO),
        }
    }
    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        self.xattr_get(name)
    }
    fn set_xattr(&self, name: &[u8], value: &[u8], flags: i32) -> Result<(), Errno> {
        self.xattr_set(name, value, flags)
    }
    fn list_xattr(&self) -> Result<Vec<u8>, Errno> {
        Ok(self.xattr_list())
    }
    fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        self.xattr_remove(name)
    }
    fn read_at(&self, dst: &mut IoDst<'_>, offset: u64) -> Result<usize, Errno> {
        self.content()?.read(dst, offset)
    }
    fn write_at(&self, src: &mut IoSrc<'_>, offset: u64) -> Result<usize, Errno> {
        self.content()?.write(src, offset)
    }
    fn list(self: Arc<Self>, sink: &mut DirSink<'_>) -> Result<(), Errno> {
        self.names()?.list(super::dir::FIRST, sink);
        Ok(())
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
