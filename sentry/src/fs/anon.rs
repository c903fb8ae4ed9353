//! Inodes of things that have no name in any tree: pipes, sockets, eventfds, epoll instances.
//!
//! Owns three internal file systems (`pipefs`, `sockfs`, `anon_inodefs`), each with one mount that
//! is in no namespace. Takes no locks but an inode's own.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use abi::Errno;
use parking_lot::Mutex;

use crate::kernel::{Credentials, time};
use crate::vfs::{
    Attr, Dentry, FileDescription, FileOps, FileSystem, FileType, Inode, InodeKey, Mount,
    MountFlags, OpenArgs, OpenFlags, Path, SetAttr, StatFs, mount,
};

/// What kind of nameless thing it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnonKind {
    /// `pipe:[INO]`
    Pipe,
    /// `socket:[INO]`
    Socket,
    /// `anon_inode:NAME`; the name as Linux has it, such as `[eventfd]`.
    Inode(&'static str),
    /// A namespace: `mnt:[4026531841]`.
    Namespace(&'static str),
}

struct AnonFs {
    name: &'static str,
    magic: i64,
    dev: u64,
}

impl FileSystem for AnonFs {
    fn name(&self) -> &'static str {
        self.name
    }
    fn dev(&self) -> u64 {
        self.dev
    }
    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(StatFs { magic: self.magic, bsize: 4096, namelen: 255, ..StatFs::default() })
    }
}

/// The inode of a nameless thing.
struct AnonInode {
    fs: Arc<AnonFs>,
    kind: FileType,
    attr: Mutex<Attr>,
    key: InodeKey,
    reopen: Option<Reopen>,
}

/// Makes another open file of the same thing, for who opens `/proc/self/fd/N`.
pub type Reopen = Box<dyn Fn(OpenFlags) -> Box<dyn FileOps> + Send + Sync>;

impl Inode for AnonInode {
    fn filesystem(&self) -> Arc<dyn FileSystem> {
        self.fs.clone()
    }
    fn key(&self) -> InodeKey {
        self.key
    }
    fn file_type(&self) -> FileType {
        self.kind
    }
    fn attr(&self) -> Result<Attr, Errno> {
        Ok(*self.attr.lock())
    }
    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        if change.size.is_some() {
            return Err(Errno::EINVAL);
        }
        change.apply(&mut self.attr.lock(), time::file_time());
        Ok(())
    }
    fn open(self: Arc<Self>, _: &OpenArgs<'_>) -> Result<Box<dyn FileOps>, Errno> {
        Err(Errno::ENXIO)
    }
    fn open_special(&self, args: &OpenArgs<'_>) -> Option<Result<Box<dyn FileOps>, Errno>> {
        self.reopen.as_ref().map(|reopen| Ok(reopen(args.flags)))
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// One of the internal file systems.
struct Internal {
    fs: Arc<AnonFs>,
    mount: Arc<Mount>,
}

/// The file system that `kind` lives in. Its root is an inode that nobody reaches.
fn internal(kind: AnonKind) -> &'static Internal {
    static PIPE: OnceLock<Internal> = OnceLock::new();
    static SOCK: OnceLock<Internal> = OnceLock::new();
    static ANON: OnceLock<Internal> = OnceLock::new();
    static NS: OnceLock<Internal> = OnceLock::new();
    let (cell, name, magic) = match kind {
        AnonKind::Pipe => (&PIPE, "pipefs", 0x5049_5045),
        AnonKind::Socket => (&SOCK, "sockfs", 0x534f_434b),
        AnonKind::Inode(_) => (&ANON, "anon_inodefs", 0x0904_1934),
        AnonKind::Namespace(_) => (&NS, "nsfs", 0x6e73_6673),
    };
    cell.get_or_init(|| {
        let fs = Arc::new(AnonFs { name, magic, dev: mount::new_device() });
        let attr = new_attr(&fs, libc::S_IFDIR | 0o555, 0, 0);
        let root = Dentry::root(name.as_bytes(), make_inode(&fs, FileType::Directory, attr, None));
        Internal { mount: Mount::new(fs.clone(), root, name, MountFlags::empty()), fs }
    })
}

static NEXT_INO: AtomicU64 = AtomicU64::new(1);

fn new_attr(fs: &AnonFs, mode: u32, uid: u32, gid: u32) -> Attr {
    let now = time::file_time();
    Attr {
        dev: fs.dev,
        ino: NEXT_INO.fetch_add(1, Ordering::Relaxed),
        mode,
        nlink: 1,
        uid,
        gid,
        rdev: 0,
        size: 0,
        blksize: 4096,
        blocks: 0,
        atime: now,
        mtime: now,
        ctime: now,
        btime: None,
    }
}

fn make_inode(
    fs: &Arc<AnonFs>,
    kind: FileType,
    attr: Attr,
    reopen: Option<Reopen>,
) -> Arc<dyn Inode> {
    let key = InodeKey { dev: attr.dev, ino: attr.ino };
    Arc::new(AnonInode { fs: fs.clone(), kind, attr: Mutex::new(attr), key, reopen })
}

/// A new inode with its name, for several open files of one thing (the two ends of a pipe).
pub fn new_path(kind: AnonKind, cred: &Credentials) -> Path {
    make_path(kind, cred, None)
}

/// As [`new_path`], of something that can be opened again through `/proc/self/fd`.
pub fn new_reopenable(kind: AnonKind, cred: &Credentials, reopen: Reopen) -> Path {
    make_path(kind, cred, Some(reopen))
}

fn make_path(kind: AnonKind, cred: &Credentials, reopen: Option<Reopen>) -> Path {
    let Internal { fs, mount } = internal(kind);
    let (file_type, mode) = match kind {
        AnonKind::Pipe => (FileType::Fifo, libc::S_IFIFO | 0o600),
        AnonKind::Socket => (FileType::Socket, libc::S_IFSOCK | 0o777),
        // Linux gives these no type at all.
        AnonKind::Inode(_) => (FileType::Regular, 0o600),
        AnonKind::Namespace(_) => (FileType::Regular, libc::S_IFREG | 0o444),
    };
    let attr = new_attr(fs, mode, cred.fsuid, cred.fsgid);
    let name = match kind {
        AnonKind::Pipe => format!("pipe:[{}]", attr.ino),
        AnonKind::Socket => format!("socket:[{}]", attr.ino),
        AnonKind::Inode(name) => format!("anon_inode:{name}"),
        AnonKind::Namespace(name) => name.to_owned(),
    };
    let dentry = Dentry::root(name.as_bytes(), make_inode(fs, file_type, attr, reopen));
    Path { mount: mount.clone(), dentry }
}

/// An open file over a new inode: what eventfd(2), socket(2), epoll_create(2) return. `ENFILE` when
/// there are too many open files.
pub fn new_file(
    cred: Arc<Credentials>,
    kind: AnonKind,
    ops: Box<dyn FileOps>,
    flags: OpenFlags,
) -> Result<Arc<FileDescription>, Errno> {
    let path = new_path(kind, &cred);
    FileDescription::new(ops, path, flags, cred)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Caps;

    #[test]
    fn names_types_and_numbers() {
        let cred = Credentials::new(7, 8, &[], Caps::empty());
        let [a, b] = [0; 2].map(|_| new_path(AnonKind::Pipe, &cred));
        let attr = a.inode().and_then(|i| i.attr()).unwrap();
        assert_eq!(attr.mode, libc::S_IFIFO | 0o600);
        assert_eq!((attr.uid, attr.gid, attr.nlink), (7, 8, 1));
        assert_eq!(&*a.dentry.name(), format!("pipe:[{}]", attr.ino).as_bytes());
        assert_ne!(a.inode().unwrap().key(), b.inode().unwrap().key());
        let e = new_path(AnonKind::Inode("[eventfd]"), &cred);
        assert_eq!(&*e.dentry.name(), b"anon_inode:[eventfd]");
        assert_ne!(e.mount.fs.dev(), a.mount.fs.dev());
    }
}
