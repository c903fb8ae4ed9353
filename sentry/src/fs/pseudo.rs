//! What procfs and sysfs are made of: inodes whose content is computed when somebody looks.
//!
//! A [`Node`] is a directory, a file or a link, each behind a small trait. Nothing is kept: a
//! directory makes its children's nodes anew at each lookup, and inode numbers come from what a
//! node stands for, so they stay the same.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use abi::Errno;
use parking_lot::Mutex;

use crate::kernel::time::file_time;
use crate::kernel::{Task, ThreadGroup};
use crate::kmem::{self, KernelMemory};
use crate::vfs::{
    Attr, DentryPolicy, DirEntry, DirSink, FileOps, FileSystem, FileType, Inode, InodeKey, IoDst,
    IoSrc, LinkTarget, NewNode, OpenArgs, PATH_MAX, SetAttr, StatFs, Timespec, mount,
};

/// A file system of computed files.
pub struct PseudoFs {
    name: &'static str,
    magic: i64,
    dev: u64,
    born: Timespec,
}

impl PseudoFs {
    /// `magic` is what statfs(2) tells.
    pub fn new(name: &'static str, magic: i64) -> Arc<PseudoFs> {
        Arc::new(PseudoFs { name, magic, dev: mount::new_device(), born: file_time() })
    }
}

impl FileSystem for PseudoFs {
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

/// A computed directory.
pub trait Directory: Send + Sync {
    /// The child called `name`, or `ENOENT`.
    fn lookup(&self, fs: &Arc<PseudoFs>, name: &[u8]) -> Result<Arc<Node>, Errno>;
    /// All children, in the order of [`Self::place`].
    fn list(&self) -> Vec<Listed>;
    /// Where reading stands before `child`, which is number `index` of the list. Must not depend on
    /// others that come and go: who reads on would miss what moved forward.
    fn place(&self, index: usize, child: &Listed) -> u64 {
        let _ = child;
        index as u64
    }
    /// The process that it is the directory of: `EBADF` for another directory, `ESRCH` if the
    /// process is gone.
    fn process(&self) -> Result<Arc<ThreadGroup>, Errno> {
        Err(Errno::EBADF)
    }
    /// Whether children come and go by themselves.
    fn policy(&self) -> DentryPolicy {
        DentryPolicy::Never
    }
    /// `st_nlink`.
    fn nlink(&self) -> u32 {
        2
    }
}

/// A child, as getdents64(2) tells it.
pub struct Listed {
    /// Name.
    pub name: Vec<u8>,
    /// Inode number.
    pub ino: u64,
    /// Type.
    pub kind: FileType,
}

/// A computed file. A read from the start computes it; later reads go on in the same text.
pub trait Content: Send + Sync {
    /// All of it, as `task` sees it.
    fn read(&self, task: &Task) -> Result<Vec<u8>, Errno>;
    /// Takes what one write(2) gives.
    fn write(&self, task: &Task, data: &[u8]) -> Result<(), Errno> {
        let _ = (task, data);
        Err(Errno::EIO)
    }
    /// Opens it in a way of its own (`/proc/PID/mem`) or refuses; `None` for the usual way.
    fn open(&self, args: &OpenArgs<'_>) -> Result<Option<Box<dyn FileOps>>, Errno> {
        let _ = args;
        Ok(None)
    }
}

impl<F: Fn(&Task) -> Result<Vec<u8>, Errno> + Send + Sync> Content for F {
    fn read(&self, task: &Task) -> Result<Vec<u8>, Errno> {
        self(task)
    }
}

/// A computed symbolic link.
pub trait Link: Send + Sync {
    /// Where it leads `task`; readlink(2) tells the text, or the path of what it jumps to.
    fn target(&self, task: &Task) -> Result<LinkTarget, Errno>;
}

enum Kind {
    Dir(Box<dyn Directory>),
    File(Arc<dyn Content>),
    Link(Box<dyn Link>),
}

/// An inode of a [`PseudoFs`].
pub struct Node {
    fs: Arc<PseudoFs>,
    ino: u64,
    mode: u32,
    /// The task whose effective ids own it; root if there is none, or it is gone.
    owner: Option<Weak<Task>>,
    kind: Kind,
}

impl Node {
    /// A directory with these permission bits.
    pub fn dir(fs: &Arc<PseudoFs>, ino: u64, mode: u32, dir: impl Directory + 'static) -> Node {
        Node::make(fs, ino, libc::S_IFDIR | mode, Kind::Dir(Box::new(dir)))
    }

    /// A file.
    pub fn file(fs: &Arc<PseudoFs>, ino: u64, mode: u32, file: impl Content + 'static) -> Node {
        Node::make(fs, ino, libc::S_IFREG | mode, Kind::File(Arc::new(file)))
    }

    /// A symbolic link.
    pub fn link(fs: &Arc<PseudoFs>, ino: u64, mode: u32, link: impl Link + 'static) -> Node {
        Node::make(fs, ino, libc::S_IFLNK | mode, Kind::Link(Box::new(link)))
    }

    /// The same node, owned by a task's effective ids.
    pub fn owned_by(mut self, task: &Arc<Task>) -> Node {
        self.owner = Some(Arc::downgrade(task));
        self
    }

    fn make(fs: &Arc<PseudoFs>, ino: u64, mode: u32, kind: Kind) -> Node {
        Node { fs: fs.clone(), ino, mode, owner: None, kind }
    }
}

impl Inode for Node {
    fn filesystem(&self) -> Arc<dyn FileSystem> {
        self.fs.clone()
    }

    fn key(&self) -> InodeKey {
        InodeKey { dev: self.fs.dev, ino: self.ino }
    }

    fn file_type(&self) -> FileType {
        FileType::from_mode(self.mode).unwrap_or(FileType::Regular)
    }

    fn attr(&self) -> Result<Attr, Errno> {
        let owner = self.owner.as_ref().and_then(Weak::upgrade).map(|t| t.cred());
        let (uid, gid) = owner.map_or((0, 0), |cred| (cred.euid, cred.egid));
        let nlink = match &self.kind {
            Kind::Dir(dir) => dir.nlink(),
            _ => 1,
        };
        Ok(Attr {
            dev: self.fs.dev,
            ino: self.ino,
            mode: self.mode,
            nlink,
            uid,
            gid,
            rdev: 0,
            size: 0,
            blksize: 1024,
            blocks: 0,
            atime: self.fs.born,
            mtime: self.fs.born,
            ctime: self.fs.born,
            btime: None,
        })
    }

    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        // O_TRUNC on a writable file is accepted and does nothing, as in proc.
        if change.mode.is_some() || change.uid.is_some() || change.gid.is_some() {
            return Err(Errno::EPERM);
        }
        Ok(())
    }

    fn lookup(&self, name: &[u8], _: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        match &self.kind {
            Kind::Dir(dir) => dir.lookup(&self.fs, name).map(|n| n as Arc<dyn Inode>),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// Nothing can be made here, and Linux says so as if the name could not be (`proc_lookup` of a
    /// directory without operations to create).
    fn create(&self, _: &[u8], _: &NewNode<'_>) -> Result<Arc<dyn Inode>, Errno> {
        Err(Errno::ENOENT)
    }

    fn dentry_policy(&self) -> DentryPolicy {
        match &self.kind {
            Kind::Dir(dir) => dir.policy(),
            _ => DentryPolicy::Cache,
        }
    }

    fn follow(&self, task: &Task) -> Result<LinkTarget, Errno> {
        match &self.kind {
            Kind::Link(link) => link.target(task),
            _ => Err(Errno::EINVAL),
        }
    }

    fn open(self: Arc<Self>, args: &OpenArgs<'_>) -> Result<Box<dyn FileOps>, Errno> {
        match &self.kind {
            Kind::Link(_) => Err(Errno::ELOOP),
            Kind::Dir(_) => Ok(Box::new(OpenDir { node: self })),
            Kind::File(content) => {
                if let Some(special) = content.open(args)? {
                    return Ok(special);
                }
                let opener = args.task.kernel.tasks.get(args.task.tid()).ok_or(Errno::ESRCH)?;
                Ok(Box::new(OpenFile {
                    content: content.clone(),
                    opener: Arc::downgrade(&opener),
                    text: Mutex::new(None),
                }))
            }
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct OpenFile {
    content: Arc<dyn Content>,
    /// Through whose eyes it is computed.
    opener: Weak<Task>,
    text: Mutex<Option<(Vec<u8>, KernelMemory)>>,
}

impl FileOps for OpenFile {
    fn read(&self, dst: &mut IoDst<'_>, offset: u64) -> Result<usize, Errno> {
        let task = self.opener.upgrade().ok_or(Errno::ESRCH)?;
        let mut text = self.text.lock();
        if offset == 0 || text.is_none() {
            // What is replaced is given back first.
            *text = None;
            let mut made = self.content.read(&task)?;
            made.shrink_to_fit();
            let memory = kmem::charge(made.capacity()).ok_or(Errno::ENOMEM)?;
            *text = Some((made, memory));
        }
        let text = text.as_ref().map(|(text, _)| &text[..]).unwrap_or_default();
        let rest = usize::try_from(offset).ok().and_then(|at| text.get(at..)).unwrap_or_default();
        if rest.is_empty() { Ok(0) } else { dst.write(rest) }
    }

    fn write(&self, src: &mut IoSrc<'_>, _: u64) -> Result<usize, Errno> {
        let task = self.opener.upgrade().ok_or(Errno::ESRCH)?;
        let mut data = vec![0; src.remaining().min(PATH_MAX)];
        let got = src.read(&mut data)?;
        // What was taken but is refused was not written: the caller would count it.
        self.content.write(&task, &data[..got]).inspect_err(|_| src.unread(got))?;
        Ok(got)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct OpenDir {
    node: Arc<Node>,
}

/// The process whose directory (`/proc/PID`) this open file is. `EBADF` for another file, `ESRCH` if
/// the process is gone.
pub fn process_of(file: &dyn FileOps) -> Result<Arc<ThreadGroup>, Errno> {
    match file.as_any().downcast_ref::<OpenDir>().map(|open| &open.node.kind) {
        Some(Kind::Dir(dir)) => dir.process(),
        _ => Err(Errno::EBADF),
    }
}

impl FileOps for OpenDir {
    fn read(&self, _: &mut IoDst<'_>, _: u64) -> Result<usize, Errno> {
        Err(Errno::EISDIR)
    }

    fn read_dir(&self, pos: &mut u64, sink: &mut DirSink<'_>) -> Result<(), Errno> {
        let Kind::Dir(dir) = &self.node.kind else { return Err(Errno::ENOTDIR) };
        let dots = [&b"."[..], b".."].map(|name| Listed {
            name: name.to_vec(),
            ino: self.node.ino,
            kind: FileType::Directory,
        });
        let children = dir.list();
        let children = children.into_iter().enumerate();
        let children = children.map(|(i, entry)| (dir.place(i, &entry).saturating_add(2), entry));
        let from = *pos;
        for (place, entry) in (0..).zip(dots).chain(children).filter(|(at, _)| *at >= from) {
            let next = place.saturating_add(1);
            let kind = Some(entry.kind);
            if !sink(DirEntry { ino: entry.ino, next, kind, name: &entry.name }) {
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

/// A directory whose children are fixed.
#[derive(Default)]
pub struct StaticDir {
    children: BTreeMap<Vec<u8>, Arc<Node>>,
}

impl StaticDir {
    /// Adds a child.
    pub fn with(mut self, name: &str, node: Node) -> StaticDir {
        self.children.insert(name.as_bytes().to_vec(), Arc::new(node));
        self
    }
}

impl Directory for StaticDir {
    fn lookup(&self, _: &Arc<PseudoFs>, name: &[u8]) -> Result<Arc<Node>, Errno> {
        self.children.get(name).cloned().ok_or(Errno::ENOENT)
    }

    fn list(&self) -> Vec<Listed> {
        self.children
            .iter()
            .map(|(name, node)| Listed {
                name: name.clone(),
                ino: node.ino,
                kind: node.file_type(),
            })
            .collect()
    }

    fn policy(&self) -> DentryPolicy {
        DentryPolicy::Cache
    }

    fn nlink(&self) -> u32 {
        let dirs = self.children.values().filter(|n| n.file_type() == FileType::Directory);
        2 + dirs.count() as u32
    }
}

/// A link with a fixed text.
pub struct StaticLink(pub Vec<u8>);

impl Link for StaticLink {
    fn target(&self, _: &Task) -> Result<LinkTarget, Errno> {
        Ok(LinkTarget::Text(self.0.clone()))
    }
}

/// A file with a fixed text.
pub struct StaticText(pub Vec<u8>);

impl Content for StaticText {
    fn read(&self, _: &Task) -> Result<Vec<u8>, Errno> {
        Ok(self.0.clone())
    }
}
