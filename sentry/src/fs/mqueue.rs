//! mqueue: the file system of POSIX message queues (mq_overview(7)). One in a sandbox: mq_open(2) uses it
//! by a mount of its own, and each mount(2) shows the same.
//!
//! Lock order: a directory's `names` and an inode's `attr` are leaves.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use abi::Errno;
use parking_lot::Mutex;

use crate::ipc::mq::{MqNamespace, Queue, QueueAttr};
use crate::kernel::current::current_task;
use crate::kernel::time::file_time;
use crate::kernel::{Events, Kernel, Task, WaitQueue};
use crate::kmem::{self, KernelMemory};
use crate::vfs::{
    Attr, Dentry, DirEntry, DirSink, FileOps, FileSystem, FileType, Inode, InodeKey, IoDst, Mount,
    MountFlags, NewNode, NodeKind, OpenArgs, Path, SetAttr, StatFs, mount,
};

/// `MQUEUE_MAGIC`
const MAGIC: i64 = 0x1980_0202;
/// What a name counts in the root's size (`DIRENT_SIZE`), and a queue's size (`FILENT_SIZE`).
const DIRENT_SIZE: u64 = 20;
const FILENT_SIZE: u64 = 80;
/// Cookies of names come behind those of the dots.
const FIRST: u64 = 2;

/// The sandbox's mqueue, made when somebody first asks for it.
#[derive(Default)]
pub struct MqueueMount(OnceLock<Path>);

impl MqueueMount {
    /// The root, in the kernel's own mount. `ENOMEM`
    pub fn root(&self, namespace: &Arc<MqNamespace>) -> Result<&Path, Errno> {
        if let Some(root) = self.0.get() {
            return Ok(root);
        }
        let fs = Arc::new(MqFs {
            dev: mount::new_device(),
            namespace: namespace.clone(),
            last_ino: Mutex::new(0),
        });
        let node = NewNode { mode: 0o1777, uid: 0, gid: 0, kind: NodeKind::Directory };
        let root = MqInode::new(&fs, &node, Body::Root(Mutex::default()))?;
        let dentry = Dentry::root(b"/", root);
        let mount = Mount::new(fs, dentry.clone(), "mqueue", MountFlags::empty());
        Ok(self.0.get_or_init(|| Path { mount, dentry }))
    }
}

impl Kernel {
    /// The root of the sandbox's mqueue. `ENOMEM`
    pub fn mqueue_root(&self) -> Result<&Path, Errno> {
        self.mqueues.root(&self.ipc.mq)
    }
}

struct MqFs {
    dev: u64,
    namespace: Arc<MqNamespace>,
    last_ino: Mutex<u64>,
}

impl FileSystem for MqFs {
    fn name(&self) -> &'static str {
        "mqueue"
    }
    fn dev(&self) -> u64 {
        self.dev
    }
    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(StatFs { magic: MAGIC, bsize: 4096, namelen: 255, ..StatFs::default() })
    }
}

#[derive(Default)]
struct Names {
    by_name: BTreeMap<Vec<u8>, (u64, Arc<MqInode>)>,
    last: u64,
}

enum Body {
    Root(Mutex<Names>),
    Queue(Queue),
}

/// The root, or a queue.
pub struct MqInode {
    fs: Arc<MqFs>,
    attr: Mutex<Attr>,
    key: InodeKey,
    body: Body,
    _memory: KernelMemory,
}

impl MqInode {
    fn new(fs: &Arc<MqFs>, node: &NewNode<'_>, body: Body) -> Result<Arc<MqInode>, Errno> {
        let memory = kmem::charge(kmem::INODE).ok_or(Errno::ENOMEM)?;
        let ino = {
            let mut last = fs.last_ino.lock();
            *last += 1;
            *last
        };
        let now = file_time();
        let (kind, nlink, size) = match body {
            Body::Root(_) => (FileType::Directory, 2, 2 * DIRENT_SIZE),
            Body::Queue(_) => (FileType::Regular, 1, FILENT_SIZE),
        };
        let attr = Attr {
            dev: fs.dev,
            ino,
            mode: kind.mode_bits() | node.mode & 0o7777,
            nlink,
            uid: node.uid,
            gid: node.gid,
            rdev: 0,
            size,
            blksize: 4096,
            blocks: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: None,
        };
        let key = InodeKey { dev: fs.dev, ino };
        Ok(Arc::new(MqInode { fs: fs.clone(), attr: Mutex::new(attr), key, body, _memory: memory }))
    }

    fn names(&self) -> Result<&Mutex<Names>, Errno> {
        match &self.body {
            Body::Root(names) => Ok(names),
            Body::Queue(_) => Err(Errno::ENOTDIR),
        }
    }

    /// Makes a queue in the root. What [`Queue::new`] says, `ENOMEM`.
    fn create_queue(
        &self,
        task: &Task,
        name: &[u8],
        node: &NewNode<'_>,
        attr: Option<QueueAttr>,
    ) -> Result<Arc<dyn Inode>, Errno> {
        let names = self.names()?;
        let queue = Queue::new(task, &self.fs.namespace, attr)?;
        let inode = MqInode::new(&self.fs, node, Body::Queue(queue))?;
        {
            let mut names = names.lock();
            if names.by_name.contains_key(name) {
                return Err(Errno::EEXIST);
            }
            let cookie = FIRST + names.last;
            names.last += 1;
            names.by_name.insert(name.to_vec(), (cookie, inode.clone()));
        }
        self.changed(|attr| attr.size += DIRENT_SIZE);
        Ok(inode)
    }

    fn changed(&self, change: impl FnOnce(&mut Attr)) {
        let now = file_time();
        let mut attr = self.attr.lock();
        change(&mut attr);
        (attr.atime, attr.mtime, attr.ctime) = (now, now, now);
    }
}

/// Makes a queue called `name` in the root of the mqueue, for mq_open(2).
pub fn create_queue(
    task: &Task,
    root: &Arc<dyn Inode>,
    name: &[u8],
    node: &NewNode<'_>,
    attr: Option<QueueAttr>,
) -> Result<Arc<dyn Inode>, Errno> {
    let root = root.as_any().downcast_ref::<MqInode>().ok_or(Errno::EACCES)?;
    root.create_queue(task, name, node, attr)
}

impl Inode for MqInode {
    fn filesystem(&self) -> Arc<dyn FileSystem> {
        self.fs.clone()
    }
    fn key(&self) -> InodeKey {
        self.key
    }
    fn file_type(&self) -> FileType {
        match self.body {
            Body::Root(_) => FileType::Directory,
            Body::Queue(_) => FileType::Regular,
        }
    }
    fn attr(&self) -> Result<Attr, Errno> {
        Ok(*self.attr.lock())
    }
    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        // A queue's size says nothing of its messages; truncating it does nothing.
        change.apply(&mut self.attr.lock(), file_time());
        Ok(())
    }
    fn lookup(&self, name: &[u8], _: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let names = self.names()?.lock();
        let (_, found) = names.by_name.get(name).ok_or(Errno::ENOENT)?;
        Ok(found.clone())
    }
    fn create(&self, name: &[u8], node: &NewNode<'_>) -> Result<Arc<dyn Inode>, Errno> {
        if !matches!(node.kind, NodeKind::Regular) {
            return Err(Errno::EPERM);
        }
        let task = current_task().ok_or(Errno::EACCES)?;
        self.create_queue(&task, name, node, None)
    }
    fn unlink(&self, name: &[u8], victim: &Arc<dyn Inode>) -> Result<(), Errno> {
        self.names()?.lock().by_name.remove(name).ok_or(Errno::ENOENT)?;
        self.changed(|attr| attr.size = attr.size.saturating_sub(DIRENT_SIZE));
        if let Some(queue) = victim.as_any().downcast_ref::<MqInode>() {
            let mut attr = queue.attr.lock();
            attr.nlink = attr.nlink.saturating_sub(1);
            attr.ctime = file_time();
        }
        Ok(())
    }
    fn open(self: Arc<Self>, _: &OpenArgs<'_>) -> Result<Box<dyn FileOps>, Errno> {
        Ok(match self.body {
            Body::Root(_) => Box::new(OpenRoot(self)),
            Body::Queue(_) => Box::new(OpenQueue(self)),
        })
    }
    fn list(self: Arc<Self>, sink: &mut DirSink<'_>) -> Result<(), Errno> {
        OpenRoot(self).read_dir(&mut 0, sink)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct OpenRoot(Arc<MqInode>);

impl FileOps for OpenRoot {
    fn read(&self, _: &mut IoDst<'_>, _: u64) -> Result<usize, Errno> {
        Err(Errno::EISDIR)
    }
    fn read_dir(&self, pos: &mut u64, sink: &mut DirSink<'_>) -> Result<(), Errno> {
        let dir = FileType::Directory;
        let dots = [&b"."[..], b".."].map(|name| (name.to_vec(), self.0.key.ino, dir));
        let mut entries: Vec<_> = (0..).zip(dots).collect();
        {
            let names = self.0.names()?.lock();
            let queues = names.by_name.iter().map(|(name, (cookie, inode))| {
                (*cookie, (name.clone(), inode.key.ino, FileType::Regular))
            });
            entries.extend(queues);
        }
        entries.sort_by_key(|(cookie, _)| *cookie);
        let from = *pos;
        for (cookie, (name, ino, kind)) in entries.into_iter().filter(|(at, _)| *at >= from) {
            let next = cookie + 1;
            if !sink(DirEntry { ino, next, kind: Some(kind), name: &name }) {
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

/// An open queue: what the mq_* calls take.
pub struct OpenQueue(Arc<MqInode>);

impl OpenQueue {
    /// The queue. `EBADF` if there is none, which cannot be.
    pub fn queue(&self) -> Result<&Queue, Errno> {
        match &self.0.body {
            Body::Queue(queue) => Ok(queue),
            Body::Root(_) => Err(Errno::EBADF),
        }
    }

    /// Something was sent, received or set.
    pub fn touch(&self) {
        self.0.changed(|_| {});
    }
}

impl FileOps for OpenQueue {
    fn read(&self, dst: &mut IoDst<'_>, offset: u64) -> Result<usize, Errno> {
        let text = self.queue()?.text();
        let rest = usize::try_from(offset).ok().and_then(|at| text.as_bytes().get(at..));
        match rest {
            Some(rest) if !rest.is_empty() => dst.write(rest),
            _ => Ok(0),
        }
    }
    fn poll(&self) -> Events {
        self.queue().map_or(Events::empty(), Queue::poll)
    }
    fn wait_queue(&self) -> Option<WaitQueue> {
        self.queue().ok().map(|queue| queue.events().clone())
    }
    fn flush(&self) -> Result<(), Errno> {
        if let Some(task) = current_task() {
            self.queue()?.unregister(task.group.tgid);
        }
        Ok(())
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
