//! devpts: the directory of the slaves, and the multiplexer that makes new pairs.
//!
//! Lock order: the table of slaves is a leaf.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use abi::Errno;
use parking_lot::Mutex;

use super::file::{Master, Slave};
use super::pty::Tty;
use super::termios::Winsize;
use super::{TTYAUX_MAJOR, slave_rdev};
use crate::kernel::time::file_time;
use crate::kernel::{Caps, Kernel};
use crate::vfs::special::DeviceDriver;
use crate::vfs::{
    Attr, Dentry, DentryPolicy, DirEntry, DirSink, FileOps, FileSystem, FileType, Inode, InodeKey,
    IoDst, Mount, MountFlags, OpenArgs, OpenFlags, Path, SetAttr, StatFs, mount,
};

/// How many pairs there may be (`/proc/sys/kernel/pty/max`).
const MAX_PTYS: u32 = 4096;
/// The group of terminals, as distributions have it (mount option `gid=5`).
const TTY_GID: u32 = 5;
/// Inode numbers: the root, the multiplexer, and slave N at `FIRST_SLAVE_INO + N` (fs/devpts/inode.c).
const ROOT_INO: u64 = 1;
const PTMX_INO: u64 = 2;
const FIRST_SLAVE_INO: u64 = 3;

/// The pseudo-terminals of a sandbox.
pub struct Devpts {
    kernel: Weak<Kernel>,
    dev: u64,
    this: Weak<Devpts>,
    slaves: Mutex<BTreeMap<u32, Arc<Node>>>,
    root: Mutex<Attr>,
    mount: Mutex<Weak<Mount>>,
}

impl Devpts {
    /// An empty one.
    pub fn new(kernel: &Arc<Kernel>) -> Arc<Devpts> {
        let dev = mount::new_device();
        Arc::new_cyclic(|this| Devpts {
            kernel: Arc::downgrade(kernel),
            dev,
            this: this.clone(),
            slaves: Mutex::default(),
            root: Mutex::new(attr(dev, ROOT_INO, libc::S_IFDIR | 0o755, 0)),
            mount: Mutex::default(),
        })
    }

    /// A mount of it.
    pub fn mount(self: &Arc<Self>, flags: MountFlags) -> Arc<Mount> {
        let root = Arc::new(Node { fs: self.clone(), kind: Kind::Root });
        let mount = Mount::new(self.clone(), Dentry::root(b"/", root), "devpts", flags);
        *self.mount.lock() = Arc::downgrade(&mount);
        mount
    }

    /// Makes a pair with the lowest free number, owned by `uid` and `gid`. `ENOSPC` when there are
    /// too many.
    pub fn new_pair(&self, uid: u32, winsize: Winsize) -> Result<Arc<Tty>, Errno> {
        let fs = self.this.upgrade().ok_or(Errno::EIO)?;
        let kernel = self.kernel.upgrade().ok_or(Errno::EIO)?;
        let mut slaves = self.slaves.lock();
        let index = (0..MAX_PTYS).find(|i| !slaves.contains_key(i)).ok_or(Errno::ENOSPC)?;
        let tty = Tty::new(&kernel, index, winsize)?;
        let ino = FIRST_SLAVE_INO + u64::from(index);
        let mut attr = attr(self.dev, ino, libc::S_IFCHR | 0o620, slave_rdev(index));
        attr.uid = uid;
        attr.gid = TTY_GID;
        let kind = Kind::Slave { tty: Arc::downgrade(&tty), attr: Mutex::new(attr) };
        slaves.insert(index, Arc::new(Node { fs, kind }));
        Ok(tty)
    }

    /// Forgets a pair whose master is closed.
    pub(super) fn remove(&self, index: u32) {
        self.slaves.lock().remove(&index);
    }

    /// The pair with a number.
    pub fn tty(&self, index: u32) -> Option<Arc<Tty>> {
        self.slaves.lock().get(&index).and_then(|node| node.tty())
    }

    /// The slave's path, for descriptors that were not opened by name.
    pub fn path_of(&self, index: u32) -> Option<Path> {
        let mount = self.mount.lock().upgrade()?;
        let node = self.slaves.lock().get(&index)?.clone();
        let name = index.to_string();
        let dentry = Dentry::new_child(&mount.root, name.as_bytes(), Some(node));
        Some(Path { mount, dentry })
    }
}

fn attr(dev: u64, ino: u64, mode: u32, rdev: u64) -> Attr {
    let now = file_time();
    Attr {
        dev,
        ino,
        mode,
        nlink: if mode & libc::S_IFMT == libc::S_IFDIR { 2 } else { 1 },
        uid: 0,
        gid: 0,
        rdev,
        size: 0,
        blksize: 1024,
        blocks: 0,
        atime: now,
        mtime: now,
        ctime: now,
        btime: None,
    }
}

impl FileSystem for Devpts {
    fn name(&self) -> &'static str {
        "devpts"
    }
    fn dev(&self) -> u64 {
        self.dev
    }
    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(StatFs { magic: 0x1cd1, bsize: 4096, namelen: 255, ..StatFs::default() })
    }
    fn options(&self) -> String {
        format!("gid={TTY_GID},mode=620,ptmxmode=666")
    }
}

struct Node {
    fs: Arc<Devpts>,
    kind: Kind,
}

enum Kind {
    Root,
    Ptmx,
    Slave { tty: Weak<Tty>, attr: Mutex<Attr> },
}

impl Node {
    fn tty(&self) -> Option<Arc<Tty>> {
        match &self.kind {
            Kind::Slave { tty, .. } => tty.upgrade(),
            _ => None,
        }
    }

    fn ino(&self) -> u64 {
        match &self.kind {
            Kind::Root => ROOT_INO,
            Kind::Ptmx => PTMX_INO,
            Kind::Slave { attr, .. } => attr.lock().ino,
        }
    }
}

impl Inode for Node {
    fn filesystem(&self) -> Arc<dyn FileSystem> {
        self.fs.clone()
    }

    fn key(&self) -> InodeKey {
        InodeKey { dev: self.fs.dev, ino: self.ino() }
    }

    fn file_type(&self) -> FileType {
        match &self.kind {
            Kind::Root => FileType::Directory,
            _ => FileType::CharDevice,
        }
    }

    fn attr(&self) -> Result<Attr, Errno> {
        Ok(match &self.kind {
            Kind::Root => *self.fs.root.lock(),
            Kind::Ptmx => {
                let rdev = libc::makedev(TTYAUX_MAJOR, 2);
                attr(self.fs.dev, PTMX_INO, libc::S_IFCHR | 0o666, rdev)
            }
            Kind::Slave { attr, .. } => *attr.lock(),
        })
    }

    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        match &self.kind {
            Kind::Root => change.apply(&mut self.fs.root.lock(), file_time()),
            Kind::Ptmx => return Err(Errno::EPERM),
            Kind::Slave { attr, .. } => change.apply(&mut attr.lock(), file_time()),
        }
        Ok(())
    }

    fn lookup(&self, name: &[u8], _: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        if !matches!(self.kind, Kind::Root) {
            return Err(Errno::ENOTDIR);
        }
        if name == b"ptmx" {
            return Ok(Arc::new(Node { fs: self.fs.clone(), kind: Kind::Ptmx }));
        }
        let text = std::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
        let index: u32 = text.parse().map_err(|_| Errno::ENOENT)?;
        if index.to_string() != text {
            return Err(Errno::ENOENT);
        }
        let node = self.fs.slaves.lock().get(&index).cloned();
        node.map(|n| n as Arc<dyn Inode>).ok_or(Errno::ENOENT)
    }

    fn dentry_policy(&self) -> DentryPolicy {
        DentryPolicy::Never
    }

    fn open(self: Arc<Self>, _: &OpenArgs<'_>) -> Result<Box<dyn FileOps>, Errno> {
        Ok(Box::new(OpenRoot(self.fs.clone())))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct OpenRoot(Arc<Devpts>);

impl FileOps for OpenRoot {
    fn read(&self, _: &mut IoDst<'_>, _: u64) -> Result<usize, Errno> {
        Err(Errno::EISDIR)
    }

    fn read_dir(&self, pos: &mut u64, sink: &mut DirSink<'_>) -> Result<(), Errno> {
        // Positions: 0 and 1 are the dots, 2 is ptmx, slave N is at N + 3.
        let fixed = [
            (&b"."[..], ROOT_INO, FileType::Directory),
            (b"..", ROOT_INO, FileType::Directory),
            (b"ptmx", PTMX_INO, FileType::CharDevice),
        ];
        for (at, (name, ino, kind)) in (0..).zip(fixed) {
            if *pos > at {
                continue;
            }
            if !sink(DirEntry { ino, next: at + 1, kind: Some(kind), name }) {
                return Ok(());
            }
            *pos = at + 1;
        }
        let from = u32::try_from(*pos - 3).unwrap_or(u32::MAX);
        let indices: Vec<u32> = self.0.slaves.lock().range(from..).map(|(i, _)| *i).collect();
        for index in indices {
            let next = u64::from(index) + 4;
            let ino = FIRST_SLAVE_INO + u64::from(index);
            let name = index.to_string();
            let kind = Some(FileType::CharDevice);
            if !sink(DirEntry { ino, next, kind, name: name.as_bytes() }) {
                break;
            }
            *pos = next;
        }
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Opens `/dev/pts/N` (major 136).
pub struct SlaveDriver(pub Arc<Devpts>);

impl DeviceDriver for SlaveDriver {
    fn open(&self, rdev: u64, args: &OpenArgs<'_>) -> Result<Box<dyn FileOps>, Errno> {
        let tty = self.0.tty(libc::minor(rdev)).ok_or(Errno::EIO)?;
        open_slave(&tty, args)
    }
}

fn open_slave(tty: &Arc<Tty>, args: &OpenArgs<'_>) -> Result<Box<dyn FileOps>, Errno> {
    let slave = Slave::open(tty, args.cred.capable(Caps::SYS_ADMIN))?;
    if !args.flags.contains(OpenFlags::NOCTTY) {
        tty.adopt(args.task);
    }
    Ok(Box::new(slave))
}

/// Opens `/dev/tty`, `/dev/console` and `/dev/ptmx` (major 5).
pub struct AuxDriver {
    /// Where pairs are made.
    pub devpts: Arc<Devpts>,
    /// The sandbox's own terminal, if it has one.
    pub console: Option<Arc<Tty>>,
}

impl DeviceDriver for AuxDriver {
    fn open(&self, rdev: u64, args: &OpenArgs<'_>) -> Result<Box<dyn FileOps>, Errno> {
        match libc::minor(rdev) {
            0 => {
                let tty = args.task.group.pgrp().session.tty().ok_or(Errno::ENXIO)?;
                let tty = tty.as_any().downcast_ref::<Tty>().ok_or(Errno::ENXIO)?;
                let tty = self.devpts.tty(tty.index).ok_or(Errno::EIO)?;
                Ok(Box::new(Slave::open(&tty, true)?))
            }
            1 => open_slave(self.console.as_ref().ok_or(Errno::ENODEV)?, args),
            2 => {
                let tty = self.devpts.new_pair(args.cred.fsuid, Winsize::default())?;
                Ok(Box::new(Master { tty, devpts: self.devpts.clone() }))
            }
            _ => Err(Errno::ENXIO),
        }
    }
}
