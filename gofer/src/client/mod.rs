//! What the Sentry links: typed calls to the gofer, usable from many threads at once.
//!
//! `ENFILE` means that this process or the gofer has no descriptor left: give some up and try again.
//!
//! Each call is one blocking round trip, except [`Client::walk`] of more than
//! [`MAX_WALK`](crate::wire::MAX_WALK) components. A call that fails because the gofer is dead,
//! stopped for longer than the deadline, or misbehaves gives `EIO`, as does every call after it.
//! Descriptors that come back are close-on-exec, and of regular files: that is checked.
//!
//! Locks: see [`connection`]. Calls must not be made with a spin lock held; they block.

mod connection;

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use abi::Errno;

use crate::sys;
use crate::wire::reply::{
    AttrReply, BytesReply, Done, HelloReply, LinkReply, NodeInfo, ReadDirReply, StatFsReply,
    WalkReply, WatchReply,
};
use crate::wire::request::{Changes, Location, Names, Owner, Request, Watches};
use crate::wire::types::{
    Attr, Bytes, ExportFlags, FileKind, Name, NodeId, OpenFlags, RenameFlags,
};
use crate::wire::{MAX_VALUE, MAX_WALK, VERSION};

use connection::{Link, Passed};

/// Most connections that a client opens; more than the threads that a small host runs at once is
/// of no use.
const MAX_CONNECTIONS: usize = 4;

/// Every host call of the client, for the Sentry's seccomp allow-list.
pub const HOST_SYSCALLS: &[i64] = &[
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_setsockopt, // SO_RCVTIMEO and SO_SNDTIMEO on a new connection.
    libc::SYS_shutdown,
    libc::SYS_close,
    libc::SYS_fcntl, // F_GETFL; F_GETFD, by `OwnedFd` in builds with debug assertions.
    libc::SYS_statx, // Of a received descriptor, with AT_EMPTY_PATH and "".
    libc::SYS_futex,
    libc::SYS_sched_yield, // A contended lock, before it sleeps.
    libc::SYS_clock_gettime,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity, // Of the caller, while it waits for an answer.
    libc::SYS_mmap,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_brk,
];

/// A file that the gofer keeps open for us. Dropping it gives it up, in a batch with others.
pub struct Handle {
    id: NodeId,
    link: Arc<Link>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.link.release(self.id);
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({})", self.id.0)
    }
}

/// A directory and a name in it.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    /// The directory.
    pub dir: &'a Handle,
    /// One component.
    pub name: &'a [u8],
}

impl<'a> At<'a> {
    fn wire(self) -> Location<'a> {
        Location { dir: self.dir.id, name: Name(self.name) }
    }
}

/// A file that was found or created.
#[derive(Debug)]
pub struct Node {
    /// Stands for it.
    pub handle: Handle,
    /// What it is.
    pub attr: Attr,
}

/// One export, as the gofer presents it.
#[derive(Debug)]
pub struct Export {
    /// What the launcher called it.
    pub tag: Vec<u8>,
    /// What it allows.
    pub flags: ExportFlags,
    /// Its root.
    pub root: Node,
}

/// What a walk found.
#[derive(Debug)]
pub struct Walked {
    /// The components that exist, in order. A symbolic link or another non-directory ends the walk.
    pub found: Vec<Node>,
    /// Why the next component could not be looked up, or the last not be opened. `None` if
    /// neither failed, which is the case for a walk that a symbolic link ended, too.
    pub error: Option<Errno>,
    /// The target, if the last found one is a symbolic link.
    pub link: Option<Box<[u8]>>,
    /// The opened file, if that was asked for and all components led to a regular file.
    pub file: Option<OwnedFd>,
}

/// One directory entry, and the listing.
pub use crate::wire::reply::{DirEntry, ReadDirReply as Listing};

/// Limits of a client.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// How long an answer may take before the gofer counts as dead.
    pub deadline: Duration,
    /// Most connections, each of which carries one request at a time.
    pub max_connections: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config { deadline: Duration::from_secs(30), max_connections: MAX_CONNECTIONS }
    }
}

/// A connection to a gofer. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    link: Arc<Link>,
    max_nodes: u64,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("dead", &self.is_dead()).finish_non_exhaustive()
    }
}

impl Client {
    /// Says hello at `socket`; returns the client and the exports. Errors: `EPROTONOSUPPORT` if the
    /// gofer speaks another version, else `EIO`.
    pub fn connect(socket: OwnedFd) -> Result<(Client, Vec<Export>), Errno> {
        Client::connect_with(socket, Config::default())
    }

    /// [`Client::connect`] with other limits.
    pub fn connect_with(socket: OwnedFd, config: Config) -> Result<(Client, Vec<Export>), Errno> {
        let link = Arc::new(Link::new(socket, config.deadline)?);
        let hello: HelloReply = link.ask(&Request::Hello { version: VERSION })?;
        if hello.version != VERSION {
            return Err(Errno::EPROTONOSUPPORT);
        }
        link.allow_connections(config.max_connections.min(hello.max_connections as usize));
        let client = Client { link, max_nodes: hello.max_nodes };
        let exports = hello
            .exports
            .into_iter()
            .map(|e| Export {
                tag: e.tag.0,
                flags: e.flags,
                root: client.node(NodeInfo { id: e.root, attr: e.attr }),
            })
            .collect();
        Ok((client, exports))
    }

    /// How many handles may exist at once; beyond it walks and creations fail with `ENFILE`.
    pub fn max_nodes(&self) -> u64 {
        self.max_nodes
    }

    /// Whether the gofer is gone or misbehaved, so that every call gives `EIO`.
    pub fn is_dead(&self) -> bool {
        self.link.is_dead()
    }

    /// How many requests were sent so far, modulo 2^32.
    pub fn requests(&self) -> u32 {
        self.link.requests()
    }

    fn node(&self, info: NodeInfo) -> Node {
        Node { handle: Handle { id: info.id, link: self.link.clone() }, attr: info.attr }
    }

    /// Checks that a received descriptor is the regular file that the gofer says it is, so that
    /// reading it cannot block or act.
    fn check_file(&self, fd: OwnedFd, attr: &Attr) -> Result<OwnedFd, Errno> {
        let same = sys::stat(fd.as_fd())
            .is_ok_and(|a| a.kind() == FileKind::Regular && a.identity() == attr.identity());
        if same { Ok(fd) } else { Err(self.link.kill("it passed a descriptor of another file")) }
    }

    /// Looks up `names`, one after the other, starting in `dir`. With `open`, opens what they lead
    /// to if it is a regular file. Errors of single components are in the result; a call that fails
    /// as a whole gives `ENOTDIR` (`dir` is none), `ESTALE` or `EIO`.
    pub fn walk(
        &self,
        dir: &Handle,
        names: &[&[u8]],
        open: Option<OpenFlags>,
    ) -> Result<Walked, Errno> {
        let mut all: Option<Walked> = None;
        for (i, chunk) in names.chunks(MAX_WALK).enumerate() {
            let last = (i + 1) * MAX_WALK >= names.len();
            let from = match &all {
                None => dir.id,
                Some(w) => w.found.last().ok_or(Errno::EIO)?.handle.id,
            };
            let part = self.walk_some(from, chunk, open.filter(|_| last))?;
            let complete = part.found.len() == chunk.len()
                && part.found.last().is_some_and(|n| n.attr.kind() == FileKind::Directory);
            match &mut all {
                None => all = Some(part),
                Some(w) => {
                    w.found.extend(part.found);
                    (w.error, w.link, w.file) = (part.error, part.link, part.file);
                }
            }
            if !complete {
                break;
            }
        }
        Ok(all.unwrap_or(Walked { found: Vec::new(), error: None, link: None, file: None }))
    }

    fn walk_some(
        &self,
        dir: NodeId,
        names: &[&[u8]],
        open: Option<OpenFlags>,
    ) -> Result<Walked, Errno> {
        let list = Names(names.iter().map(|n| Name(n)).collect());
        let request = Request::Walk { dir, names: list, open };
        let (mut reply, passed) = self.link.call::<WalkReply>(&request)?;
        let passed_any = !matches!(passed, Passed::Nothing);
        let fd = match passed {
            Passed::File(fd) => Some(fd),
            Passed::Lost => {
                reply.errno = Errno::ENFILE.raw() as u32;
                None
            }
            Passed::Nothing => None,
        };
        let found: Vec<Node> = reply.found.into_iter().map(|n| self.node(n)).collect();
        let last = found.last().map(|n| n.attr);
        let is_link = last.is_some_and(|a| a.kind() == FileKind::Symlink);
        let inner_dirs = found.iter().rev().skip(1).all(|n| n.attr.kind() == FileKind::Directory);
        if found.len() > names.len()
            || reply.errno >= 4096
            || !inner_dirs
            || reply.opened != passed_any
            || reply.opened && (open.is_none() || found.len() != names.len())
            || reply.link.is_some() && !is_link
            || reply.link.is_none() && is_link && reply.errno == 0
        {
            return Err(self.link.kill("it sent a nonsensical walk"));
        }
        // A reply that neither went on nor says why would make the caller ask for ever.
        let ended = last.is_some_and(|a| a.kind() != FileKind::Directory);
        if reply.errno == 0 && found.len() < names.len() && !ended {
            return Err(self.link.kill("it stopped a walk without a reason"));
        }
        let file = match (fd, last) {
            (Some(fd), Some(attr)) => Some(self.check_file(fd, &attr)?),
            _ => None,
        };
        Ok(Walked {
            found,
            error: (reply.errno != 0).then(|| Errno::from_raw(reply.errno as i32)),
            link: reply.link.map(|l| l.0),
            file,
        })
    }

    /// Attributes.
    pub fn stat(&self, node: &Handle) -> Result<Attr, Errno> {
        Ok(self.link.ask::<AttrReply>(&Request::Stat { node: node.id })?.attr)
    }

    /// Opens a regular file. `at` says where it is; only the file of a single-file export needs
    /// none. Errors: `ESTALE` (it is no longer there: look it up again), `EISDIR`, `ELOOP`,
    /// `ENXIO` (FIFO, socket), `EACCES` (device, or the host refuses), `EROFS`, the host's.
    pub fn open(
        &self,
        node: &Handle,
        at: Option<At<'_>>,
        flags: OpenFlags,
    ) -> Result<(OwnedFd, Attr), Errno> {
        let request = Request::Open { node: node.id, at: at.map(At::wire), flags };
        let (reply, fd) = self.link.ask_fd::<AttrReply>(&request)?;
        Ok((self.check_file(fd?, &reply.attr)?, reply.attr))
    }

    /// Lists a directory from `cookie` on (0, or the `next` of an entry or of the last listing):
    /// about 1,500 entries a call, or 700 with attributes.
    pub fn read_dir(&self, dir: &Handle, cookie: u64, attrs: bool) -> Result<Listing, Errno> {
        let request = Request::ReadDir { dir: dir.id, name: None, cookie, attrs };
        let reply: ReadDirReply = self.link.ask(&request)?;
        if reply.node.is_some() {
            return Err(self.link.kill("it named a directory that was not asked for"));
        }
        // Bounded progress: an endless directory must at least be endless by its entries.
        if !reply.end && reply.entries.is_empty() && reply.next == cookie {
            return Err(self.link.kill("it sent an empty listing"));
        }
        Ok(reply)
    }

    /// Looks up a directory and lists it from the start, in one round trip. The errors are those of
    /// a walk and of a listing.
    pub fn list_child(&self, at: At<'_>, attrs: bool) -> Result<(Node, Listing), Errno> {
        let name = Some(Name(at.name));
        let request = Request::ReadDir { dir: at.dir.id, name, cookie: 0, attrs };
        let reply: ReadDirReply = self.link.ask(&request)?;
        let node = reply.node.ok_or_else(|| self.link.kill("it named no directory"))?;
        if node.attr.kind() != FileKind::Directory {
            return Err(self.link.kill("it listed something other than a directory"));
        }
        if !reply.end && reply.entries.is_empty() && reply.next == 0 {
            return Err(self.link.kill("it sent an empty listing"));
        }
        Ok((self.node(node), reply))
    }

    /// Target of a symbolic link.
    pub fn read_link(&self, node: &Handle) -> Result<Box<[u8]>, Errno> {
        Ok(self.link.ask::<LinkReply>(&Request::ReadLink { node: node.id })?.target.0)
    }

    /// Creates a regular file and opens it. `EEXIST` if there is one.
    pub fn create(
        &self,
        at: At<'_>,
        mode: u32,
        flags: OpenFlags,
        owner: Owner,
    ) -> Result<(Node, OwnedFd), Errno> {
        let request = Request::Create { at: at.wire(), mode, flags, owner };
        let (info, fd) = self.link.ask_fd::<NodeInfo>(&request)?;
        let node = self.node(info);
        let fd = self.check_file(fd?, &node.attr)?;
        Ok((node, fd))
    }

    /// Creates a directory.
    pub fn mkdir(&self, at: At<'_>, mode: u32, owner: Owner) -> Result<Node, Errno> {
        self.made(&Request::Mkdir { at: at.wire(), mode, owner }, FileKind::Directory)
    }

    /// Creates a symbolic link.
    pub fn symlink(&self, at: At<'_>, target: &[u8], owner: Owner) -> Result<Node, Errno> {
        if target.len() > crate::wire::MAX_LINK {
            return Err(Errno::ENAMETOOLONG);
        }
        let request = Request::Symlink { at: at.wire(), target: Bytes(target), owner };
        self.made(&request, FileKind::Symlink)
    }

    /// Creates a regular file, a FIFO or a socket node, by the type bits of `mode`. `EPERM` for
    /// devices.
    pub fn mknod(&self, at: At<'_>, mode: u32, owner: Owner) -> Result<Node, Errno> {
        let kind = FileKind::from_mode(mode).ok_or(Errno::EINVAL)?;
        self.made(&Request::Mknod { at: at.wire(), mode, owner }, kind)
    }

    fn made(&self, request: &Request<'_>, kind: FileKind) -> Result<Node, Errno> {
        let node = self.node(self.link.ask::<NodeInfo>(request)?);
        if node.attr.kind() != kind {
            return Err(self.link.kill("it made something else than was asked"));
        }
        Ok(node)
    }

    /// Links `node`, known as `from`, as `at` too; returns its new attributes.
    pub fn link(&self, node: &Handle, from: At<'_>, at: At<'_>) -> Result<Attr, Errno> {
        let request = Request::Link { node: node.id, from: from.wire(), at: at.wire() };
        Ok(self.link.ask::<AttrReply>(&request)?.attr)
    }

    /// Removes a name; `rmdir` for a directory.
    pub fn unlink(&self, at: At<'_>, rmdir: bool) -> Result<(), Errno> {
        self.done(&Request::Unlink { at: at.wire(), dir: rmdir })
    }

    /// Renames. `EXDEV` between exports or mounts.
    pub fn rename(&self, from: At<'_>, to: At<'_>, flags: RenameFlags) -> Result<(), Errno> {
        self.done(&Request::Rename { from: from.wire(), to: to.wire(), flags })
    }

    /// Changes attributes, and returns them all. `at` is needed to change the size.
    pub fn set_attr(
        &self,
        node: &Handle,
        at: Option<At<'_>>,
        changes: Changes,
    ) -> Result<Attr, Errno> {
        let request = Request::SetAttr { node: node.id, at: at.map(At::wire), changes };
        Ok(self.link.ask::<AttrReply>(&request)?.attr)
    }

    /// Reads an extended attribute. `EOPNOTSUPP` for those that are not served.
    pub fn get_xattr(
        &self,
        node: &Handle,
        at: Option<At<'_>>,
        name: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        let request =
            Request::GetXattr { node: node.id, at: at.map(At::wire), name: xattr_name(name)? };
        Ok(self.link.ask::<BytesReply>(&request)?.bytes.0)
    }

    /// Writes an extended attribute; `flags` as setxattr(2) has them.
    pub fn set_xattr(
        &self,
        node: &Handle,
        at: Option<At<'_>>,
        name: &[u8],
        value: &[u8],
        flags: u32,
    ) -> Result<(), Errno> {
        if value.len() > MAX_VALUE {
            return Err(Errno::E2BIG);
        }
        let name = xattr_name(name)?;
        let (at, value) = (at.map(At::wire), Bytes(value));
        self.done(&Request::SetXattr { node: node.id, at, name, value, flags })
    }

    /// Names of the extended attributes, each ended by NUL.
    pub fn list_xattr(&self, node: &Handle, at: Option<At<'_>>) -> Result<Vec<u8>, Errno> {
        let request = Request::ListXattr { node: node.id, at: at.map(At::wire) };
        Ok(self.link.ask::<BytesReply>(&request)?.bytes.0)
    }

    /// Removes an extended attribute.
    pub fn remove_xattr(
        &self,
        node: &Handle,
        at: Option<At<'_>>,
        name: &[u8],
    ) -> Result<(), Errno> {
        let name = xattr_name(name)?;
        self.done(&Request::RemoveXattr { node: node.id, at: at.map(At::wire), name })
    }

    /// The inotify(7) instance that tells of the directories given to [`Client::watch`]. `EMFILE` if
    /// the host's user has too many.
    pub fn notifier(&self) -> Result<OwnedFd, Errno> {
        let (Done {}, fd) = self.link.ask_fd(&Request::Notifier {})?;
        let fd = fd?;
        if sys::is_notifier(fd.as_fd()) {
            Ok(fd)
        } else {
            Err(self.link.kill("it passed something that tells no changes"))
        }
    }

    /// Has changes of a directory's names, owner and mode told by the notifier, from now on. Errors:
    /// `EOPNOTSUPP` (not of this directory), `EEXIST` (it is watched), `ENOSPC` (too many), the
    /// host's.
    pub fn watch(&self, dir: &Handle) -> Result<WatchReply, Errno> {
        self.link.ask(&Request::Watch { dir: dir.id })
    }

    /// Ends watches, at most [`MAX_UNWATCH`](crate::wire::MAX_UNWATCH) of them.
    pub fn unwatch(&self, watches: Vec<u32>) -> Result<(), Errno> {
        self.done(&Request::Unwatch { watches: Watches(watches) })
    }

    /// Figures of the file system that a node is on.
    pub fn stat_fs(&self, node: &Handle) -> Result<StatFsReply, Errno> {
        self.link.ask(&Request::StatFs { node: node.id })
    }

    /// Flushes a file or directory. A file that is open here is better flushed through its
    /// descriptor.
    pub fn fsync(&self, node: &Handle, at: Option<At<'_>>, data_only: bool) -> Result<(), Errno> {
        self.done(&Request::Fsync { node: node.id, at: at.map(At::wire), data_only })
    }

    fn done(&self, request: &Request<'_>) -> Result<(), Errno> {
        self.link.ask::<Done>(request).map(|_| ())
    }
}

/// Bounds an xattr's name: `ERANGE`, as setxattr(2) says.
fn xattr_name(name: &[u8]) -> Result<Name<'_>, Errno> {
    if name.is_empty() || name.len() > crate::wire::MAX_NAME {
        return Err(Errno::ERANGE);
    }
    Ok(Name(name))
}

/// Attributes of a file that the gofer handed over, straight from the host (`statx(2)`).
pub fn stat_file(file: std::os::fd::BorrowedFd<'_>) -> Result<Attr, Errno> {
    sys::stat(file)
}
