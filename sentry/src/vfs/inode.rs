//! What a file system provides: [`FileSystem`] and [`Inode`].
//!
//! Permission checks, name checks (length, `/`, `.`/`..`) and mount checks (read-only, busy) are
//! the VFS's; an implementation may rely on them.

use std::any::Any;
use std::sync::Arc;

use abi::Errno;

use super::{
    Attr, DirSink, FileOps, FileType, IoDst, IoSrc, MountFlags, OpenFlags, Path, SetAttr, StatFs,
};
use crate::kernel::{Credentials, Task};

/// A mounted file system (Linux's superblock).
pub trait FileSystem: Send + Sync + Any {
    /// The type as /proc/mounts shows it: `"tmpfs"`.
    fn name(&self) -> &'static str;
    /// The device number of all its inodes.
    fn dev(&self) -> u64;
    /// For statfs(2).
    fn statfs(&self) -> Result<StatFs, Errno>;
    /// Options as /proc/mounts shows them, after the mount's own: `"size=64k,mode=755"`.
    fn options(&self) -> String {
        String::new()
    }
    /// sync(2) and syncfs(2).
    fn sync(&self) -> Result<(), Errno> {
        Ok(())
    }
}

/// Identity of an inode: key for locks, bound sockets, named pipes, watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeKey {
    /// Device number of the file system.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
}

/// How long the dentry cache may believe what [`Inode::lookup`] of a directory said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DentryPolicy {
    /// Until it is changed through this VFS. Negative answers too.
    Cache,
    /// Each use asks [`Inode::revalidate`] first; negative answers are not kept.
    Revalidate,
    /// Not at all (procfs).
    Never,
}

/// Where a symbolic link leads.
pub enum LinkTarget {
    /// To be walked, from the link's directory or the root.
    Text(Vec<u8>),
    /// Straight there (`/proc/self/fd/3`), whatever its name.
    Jump(Path),
}

/// What [`Inode::create`] is to make.
pub struct NewNode<'a> {
    /// Permission bits, umask applied.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group (the directory's if that is set-group-id; the VFS has seen to it).
    pub gid: u32,
    /// The kind of file.
    pub kind: NodeKind<'a>,
}

/// A kind of file to make.
#[allow(missing_docs)]
pub enum NodeKind<'a> {
    Regular,
    Directory,
    Symlink(&'a [u8]),
    Fifo,
    Socket,
    CharDevice(u64),
    BlockDevice(u64),
}

/// What an open passes down.
pub struct OpenArgs<'a> {
    /// The flags of open(2).
    pub flags: OpenFlags,
    /// Who opens. Access has been checked.
    pub cred: &'a Arc<Credentials>,
    /// Under which name.
    pub path: &'a Path,
    /// The opening task (procfs, ttys).
    pub task: &'a Task,
}

impl OpenArgs<'_> {
    /// Whether reads through this open file move the access time.
    pub fn updates_atime(&self) -> bool {
        let flags = self.path.mount.flags();
        !self.flags.contains(OpenFlags::NOATIME)
            && !flags.intersects(MountFlags::NOATIME | MountFlags::RDONLY)
    }
}

/// A file, as its file system knows it. Directory operations on anything else say `ENOTDIR`.
pub trait Inode: Send + Sync + Any {
    /// The file system it belongs to.
    fn filesystem(&self) -> Arc<dyn FileSystem>;
    /// Identity; never changes.
    fn key(&self) -> InodeKey;
    /// Type; never changes.
    fn file_type(&self) -> FileType;
    /// All attributes.
    fn attr(&self) -> Result<Attr, Errno>;
    /// Attributes for a check of access: type, mode, owner and group are right.
    fn access_attr(&self) -> Result<Attr, Errno> {
        self.attr()
    }
    /// Changes attributes.
    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno>;

    /// Finds a child. `rest` is what of the path follows, a hint for one batched round trip.
    fn lookup(&self, name: &[u8], rest: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let _ = (name, rest);
        Err(Errno::ENOTDIR)
    }
    /// How long lookups of this directory hold.
    fn dentry_policy(&self) -> DentryPolicy {
        DentryPolicy::Cache
    }
    /// Whether `child` (what an earlier lookup of `name` gave) still holds.
    fn revalidate(&self, name: &[u8], child: &Arc<dyn Inode>) -> bool {
        let _ = (name, child);
        true
    }
    /// Makes a child. The name is known not to exist here as far as the cache can tell.
    fn create(&self, name: &[u8], node: &NewNode<'_>) -> Result<Arc<dyn Inode>, Errno> {
        let _ = (name, node);
        Err(Errno::EPERM)
    }
    /// Makes a regular file without a name (`O_TMPFILE`), which a later [`Inode::link`] may give one.
    fn tmpfile(&self, node: &NewNode<'_>) -> Result<Arc<dyn Inode>, Errno> {
        let _ = node;
        Err(Errno::EOPNOTSUPP)
    }
    /// Makes a hard link to `target`, an inode of the same file system.
    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<(), Errno> {
        let _ = (name, target);
        Err(Errno::EPERM)
    }
    /// Removes a name of something other than a directory.
    fn unlink(&self, name: &[u8], victim: &Arc<dyn Inode>) -> Result<(), Errno> {
        let _ = (name, victim);
        Err(Errno::EPERM)
    }
    /// Removes an empty directory; `ENOTEMPTY` if it is not.
    fn rmdir(&self, name: &[u8], victim: &Arc<dyn Inode>) -> Result<(), Errno> {
        let _ = (name, victim);
        Err(Errno::EPERM)
    }
    /// Renames `name` to `new_name` in `new_dir` (same file system). With `exchange`, swaps the two;
    /// else what is there (`replaced`) goes, types checked by the VFS, emptiness by you.
    fn rename(
        &self,
        name: &[u8],
        new_dir: &Arc<dyn Inode>,
        new_name: &[u8],
        exchange: bool,
    ) -> Result<(), Errno> {
        let _ = (name, new_dir, new_name, exchange);
        Err(Errno::EPERM)
    }
    /// The text of a symbolic link.
    fn readlink(&self) -> Result<Vec<u8>, Errno> {
        Err(Errno::EINVAL)
    }
    /// Where a symbolic link leads `task`. readlink(2) uses this too: it tells the text, or the path
    /// of what a magic link jumps to.
    fn follow(&self, task: &Task) -> Result<LinkTarget, Errno> {
        let _ = task;
        self.readlink().map(LinkTarget::Text)
    }

    /// Opens a regular file or directory (pipes, sockets and devices are opened by the VFS).
    fn open(self: Arc<Self>, args: &OpenArgs<'_>) -> Result<Box<dyn FileOps>, Errno>;

    /// Opens something that is not a regular file or directory in a way of its own: the pipe behind
    /// `/proc/self/fd/3`. `None` for the usual way by type and device number.
    fn open_special(&self, args: &OpenArgs<'_>) -> Option<Result<Box<dyn FileOps>, Errno>> {
        let _ = args;
        None
    }

    /// Reads an extended attribute, whole. `ENODATA` if it is not there.
    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let _ = name;
        Err(Errno::EOPNOTSUPP)
    }
    /// Sets an extended attribute; `flags` are `XATTR_CREATE`, `XATTR_REPLACE`.
    fn set_xattr(&self, name: &[u8], value: &[u8], flags: i32) -> Result<(), Errno> {
        let _ = (name, value, flags);
        Err(Errno::EOPNOTSUPP)
    }
    /// Lists extended attributes, each name followed by a NUL.
    fn list_xattr(&self) -> Result<Vec<u8>, Errno> {
        Ok(Vec::new())
    }
    /// Removes an extended attribute.
    fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        let _ = name;
        Err(Errno::EOPNOTSUPP)
    }

    /// Reads content without an open file: the loader's, and overlay copy-up's way.
    fn read_at(&self, dst: &mut IoDst<'_>, offset: u64) -> Result<usize, Errno> {
        let _ = (dst, offset);
        Err(Errno::EINVAL)
    }

    /// Writes content without an open file: overlay copy-up's way.
    fn write_at(&self, src: &mut IoSrc<'_>, offset: u64) -> Result<usize, Errno> {
        let _ = (src, offset);
        Err(Errno::EINVAL)
    }
    /// Lists a directory without an open file, up to where `sink` says stop. The dots may be there
    /// or not; positions mean nothing.
    fn list(self: Arc<Self>, sink: &mut DirSink<'_>) -> Result<(), Errno> {
        let _ = sink;
        Err(Errno::ENOTDIR)
    }

    /// For downcasts inside one file system (rename, link).
    fn as_any(&self) -> &dyn Any;
}
