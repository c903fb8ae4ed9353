//! What runs in the gofer process: one thread a connection, each answering one request at a time.
//!
//! Owns the exports and the node table. The process is expected to be jailed by `lockdown` between
//! [`Server::new`], which does what a jailed process cannot, and [`Server::serve`].
//!
//! The peer is hostile: a malformed frame ends its connection, and nothing that it asks for can
//! make the server allocate, open or block without bound (a host file system that hangs blocks the
//! threads that touch it, at most [`Config::max_connections`]).
//!
//! Residual race: a regular file's name is checked right before it is opened, but somebody on the
//! host with write access to that directory can swap in a FIFO or a device in between. The open
//! then happens with `O_NONBLOCK|O_NOCTTY`, is noticed, and closed. `lockdown` mounts exports with
//! `nodev`, which rules devices out.
//!
//! Lock order: the table's lock and the connection list's lock are leaves.

mod attr;
mod dir;
mod export;
mod filter;
mod modify;
mod node;
mod walk;
mod watch;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use abi::Errno;
use parking_lot::Mutex;

use crate::cpu::{CpuSet, Follower};
use crate::wire::cursor::{Wire, Writer};
use crate::wire::reply::{
    AttrReply, BytesReply, Done, ExportInfo, HelloReply, LinkReply, NodeInfo,
};
use crate::wire::request::Request;
use crate::wire::types::{FileKind, LinkTarget, OwnedBytes, Tag};
use crate::wire::{self, MAX_EXPORTS, MAX_MESSAGE, ReplyHeader, RequestFrame};
use crate::{sys, transport};

use export::ExportState;
use node::{Node, Table};
use watch::Watches;

pub use export::Export;
pub use filter::Filter;

/// Descriptors that are kept free for opening files, sockets and the rest of the process.
const RESERVED_DESCRIPTORS: u64 = 128;
/// Stack of a connection's thread: buffers are on the heap.
const STACK: usize = 256 * 1024;

/// Arenas of malloc that the threads share.
const ARENAS: i32 = 4;

/// Every host call of the gofer once [`Server::new`] has returned, for its seccomp allow-list. `openat` is
/// not on it, but must be answered with an error and not by ending the process: glibc's malloc tries
/// it when a thread's heap shrinks.
pub const HOST_SYSCALLS: &[i64] = &[
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_tgkill,
    // Files.
    libc::SYS_openat2,
    libc::SYS_statx,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_fchownat,
    libc::SYS_fchmodat2,
    libc::SYS_fchmod,
    libc::SYS_utimensat,
    libc::SYS_ftruncate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_fgetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_flistxattr,
    libc::SYS_fremovexattr,
    libc::SYS_fstatfs,
    // Watches.
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    libc::SYS_fchdir, // The only way to say which directory.
    libc::SYS_ioctl,  // Of `HOST_IOCTLS` only.
    libc::SYS_close,
    libc::SYS_fcntl, // F_DUPFD_CLOEXEC only.
    // Connections.
    libc::SYS_socketpair, // AF_UNIX only.
    libc::SYS_setsockopt, // SOL_SOCKET, SO_SNDBUF only.
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_shutdown,
    // Threads and memory.
    libc::SYS_clone3,
    libc::SYS_clone,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity, // Of the caller only.
    libc::SYS_prctl,             // PR_SET_NAME only.
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_tgkill,
    libc::SYS_futex,
    libc::SYS_sched_yield, // A contended lock, before it sleeps.
    libc::SYS_mmap,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_restart_syscall,
    libc::SYS_clock_gettime,
    libc::SYS_getrandom, // The hash seed of the node table.
    libc::SYS_write,     // Log lines to stderr.
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The ioctls among them.
pub const HOST_IOCTLS: &[u32] = &[sys::GET_FLAGS];

/// Why a server could not start, or ended other than by its client closing the connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An export's root cannot be served.
    #[error("export {tag:?}: {errno}")]
    Export {
        /// The export's tag.
        tag: String,
        /// Why.
        errno: Errno,
    },
    /// More than [`MAX_EXPORTS`] exports.
    #[error("too many exports")]
    TooManyExports,
    /// The first connection failed.
    #[error("connection: {0}")]
    Connection(#[from] io::Error),
    /// The client does not follow the protocol.
    #[error("the client sent a malformed request")]
    Protocol,
}

/// Limits of a server.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Most connections at once, each with a thread.
    pub max_connections: u32,
    /// Most nodes that the client may hold. Each takes a descriptor, so what the process may open
    /// bounds it, too.
    pub max_nodes: u64,
    /// The owner and group that files show whose own are not mapped in this process's user
    /// namespace, and which Linux therefore shows as 65534. For a gofer whose namespace maps one
    /// user only: nearly all other files that it serves are root's. Holds for the whole process.
    pub foreign_ids: Option<u32>,
}

impl Default for Config {
    fn default() -> Config {
        Config { max_connections: 8, max_nodes: 131_072, foreign_ids: None }
    }
}

/// A gofer, ready to serve.
pub struct Server {
    shared: Arc<Shared>,
}

/// What the connections share.
struct Shared {
    exports: Vec<Arc<ExportState>>,
    table: Table,
    watches: Watches,
    config: Config,
    cpus: CpuSet,
    connections: Mutex<Connections>,
}

/// The connections besides the first.
#[derive(Default)]
struct Connections {
    threads: Vec<JoinHandle<()>>,
    sockets: Vec<Weak<OwnedFd>>,
    closing: bool,
}

/// Serves `exports` on `socket` with the default limits until the client is gone.
pub fn serve(exports: Vec<Export>, socket: OwnedFd) -> Result<(), Error> {
    Server::new(exports, Config::default())?.serve(socket)
}

impl Server {
    /// Sets the process up: umask 0, few malloc arenas, as many descriptors as allowed, exports checked, hidden files
    /// searched. To be called before the process is locked down.
    pub fn new(exports: Vec<Export>, config: Config) -> Result<Server, Error> {
        if exports.len() > MAX_EXPORTS {
            return Err(Error::TooManyExports);
        }
        sys::clear_umask();
        sys::bound_arenas(ARENAS);
        if let Some(id) = config.foreign_ids.filter(|_| !sys::is_nobody()) {
            sys::show_foreign_ids_as(id);
        }
        let descriptors = sys::raise_descriptor_limit();
        let room = descriptors.saturating_sub(RESERVED_DESCRIPTORS).max(16);
        let mut states = Vec::with_capacity(exports.len());
        for export in exports {
            let tag = String::from_utf8_lossy(&export.tag).into_owned();
            if export.tag.len() > wire::MAX_NAME {
                return Err(Error::Export { tag, errno: Errno::ENAMETOOLONG });
            }
            let state = ExportState::new(export).map_err(|errno| Error::Export { tag, errno })?;
            states.push(Arc::new(state));
        }
        let max = config.max_nodes.min(room) as usize;
        Ok(Server {
            shared: Arc::new(Shared {
                exports: states,
                table: Table::new(max),
                watches: Watches::new(),
                config,
                cpus: CpuSet::own(),
                connections: Mutex::default(),
            }),
        })
    }

    /// Serves the client at `socket`, and on the further connections that it asks for, until the
    /// first one ends. Blocks for as long as that takes.
    pub fn serve(self, socket: OwnedFd) -> Result<(), Error> {
        let result = self.shared.connection(&socket);
        drop(socket);
        let (threads, sockets) = {
            let mut c = self.shared.connections.lock();
            c.closing = true;
            (std::mem::take(&mut c.threads), std::mem::take(&mut c.sockets))
        };
        for socket in sockets.iter().filter_map(Weak::upgrade) {
            transport::shutdown(socket.as_fd());
        }
        for thread in threads {
            let _ = thread.join();
        }
        result
    }
}

impl Shared {
    /// Answers requests until the connection ends.
    fn connection(self: &Arc<Self>, socket: &OwnedFd) -> Result<(), Error> {
        let mut input = vec![0; MAX_MESSAGE];
        let mut output = Vec::new();
        let mut follower = Follower::new(self.cpus);
        loop {
            let got = match transport::recv(socket.as_fd(), &mut input, false, None) {
                Ok(got) => got,
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Err(e) => return Err(e.into()),
            };
            if got.len == 0 {
                return Ok(());
            }
            if got.truncated || got.lost_fds {
                return Err(Error::Protocol);
            }
            let frame = RequestFrame::decode(input.get(..got.len).unwrap_or_default())
                .map_err(|_| Error::Protocol)?;
            let (op, id, cpu) = (frame.request.op(), frame.id, frame.cpu);
            if let Request::Close { nodes } = &frame.request {
                self.table.remove(&nodes.0);
            } else {
                let fd = self.answer(id, op, &frame.request, &mut output);
                match transport::send(socket.as_fd(), &output, fd.as_ref().map(AsFd::as_fd), None) {
                    Ok(()) => {}
                    Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                    Err(e) => return Err(e.into()),
                }
                follower.follow(cpu);
            }
            self.table.remove(&frame.closes);
        }
    }

    /// Puts the reply frame into `out`; returns the descriptor that goes with it.
    fn answer(
        self: &Arc<Self>,
        id: u32,
        op: u16,
        request: &Request<'_>,
        out: &mut Vec<u8>,
    ) -> Option<OwnedFd> {
        ReplyHeader { id, op, fds: 0, errno: 0 }.start(out);
        let result = self.dispatch(request, &mut Writer::new(out));
        match result {
            Ok(fd) => {
                if fd.is_some()
                    && let Some(count) = out.get_mut(10..12)
                {
                    count.copy_from_slice(&1u16.to_le_bytes());
                }
                wire::patch_len(out);
                fd
            }
            Err(e) => {
                ReplyHeader { id, op, fds: 0, errno: e.raw() as u32 }.start(out);
                wire::patch_len(out);
                None
            }
        }
    }

    /// Carries out one request and appends the reply's body.
    fn dispatch(
        self: &Arc<Self>,
        request: &Request<'_>,
        w: &mut Writer<'_>,
    ) -> Result<Option<OwnedFd>, Errno> {
        let t = &self.table;
        match request {
            Request::Hello { version } => self.hello(*version)?.put(w),
            Request::Connect {} => {
                let fd = self.connect()?;
                Done {}.put(w);
                return Ok(Some(fd));
            }
            Request::Walk { dir, names, open } => {
                let (reply, fd) = walk::walk(t, *dir, &names.0, *open)?;
                reply.put(w);
                return Ok(fd);
            }
            Request::Stat { node } => {
                AttrReply { attr: sys::stat(t.get(*node)?.fd())? }.put(w);
            }
            Request::Open { node, at, flags } => {
                let (attr, fd) = walk::open(t, *node, *at, *flags)?;
                AttrReply { attr }.put(w);
                return Ok(Some(fd));
            }
            Request::ReadDir { dir, name, cookie, attrs } => {
                let dir = t.get(*dir)?;
                match name {
                    None => {
                        dir.check_dir()?;
                        dir::read(&dir, *cookie, *attrs)?.put(w);
                    }
                    Some(name) => {
                        let (child, attr) = walk::child(&dir, *name)?;
                        child.check_dir()?;
                        let mut reply = dir::read(&child, *cookie, *attrs)?;
                        let id = t.insert(Arc::new(child))?;
                        reply.node = Some(NodeInfo { id, attr });
                        reply.put(w);
                    }
                }
            }
            Request::ReadLink { node } => {
                let node = t.get(*node)?;
                if node.kind() != FileKind::Symlink {
                    return Err(Errno::EINVAL);
                }
                LinkReply { target: LinkTarget(sys::read_link(node.fd())?) }.put(w);
            }
            Request::Create { at, mode, flags, owner } => {
                let (info, fd) = modify::create(t, *at, *mode, *flags, *owner)?;
                info.put(w);
                return Ok(Some(fd));
            }
            Request::Mkdir { at, mode, owner } => modify::mkdir(t, *at, *mode, *owner)?.put(w),
            Request::Symlink { at, target, owner } => {
                modify::symlink(t, *at, target.0, *owner)?.put(w);
            }
            Request::Link { node, from, at } => {
                AttrReply { attr: modify::link(t, *node, *from, *at)? }.put(w);
            }
            Request::Mknod { at, mode, owner } => modify::mknod(t, *at, *mode, *owner)?.put(w),
            Request::Unlink { at, dir } => {
                modify::unlink(t, *at, *dir)?;
                Done {}.put(w);
            }
            Request::Rename { from, to, flags } => {
                modify::rename(t, *from, *to, *flags)?;
                Done {}.put(w);
            }
            Request::SetAttr { node, at, changes } => {
                AttrReply { attr: attr::set(t, *node, *at, changes)? }.put(w);
            }
            Request::GetXattr { node, at, name } => {
                let bytes = OwnedBytes(attr::get_xattr(t, *node, *at, *name)?);
                BytesReply { bytes }.put(w);
            }
            Request::SetXattr { node, at, name, value, flags } => {
                attr::set_xattr(t, *node, *at, *name, value.0, *flags)?;
                Done {}.put(w);
            }
            Request::ListXattr { node, at } => {
                let bytes = OwnedBytes(attr::list_xattr(t, *node, *at)?);
                BytesReply { bytes }.put(w);
            }
            Request::RemoveXattr { node, at, name } => {
                attr::remove_xattr(t, *node, *at, *name)?;
                Done {}.put(w);
            }
            Request::StatFs { node } => sys::stat_fs(t.get(*node)?.fd())?.put(w),
            Request::Fsync { node, at, data_only } => {
                attr::fsync(t, *node, *at, *data_only)?;
                Done {}.put(w);
            }
            Request::Notifier {} => {
                let fd = self.watches.notifier()?;
                Done {}.put(w);
                return Ok(Some(fd));
            }
            Request::Watch { dir } => self.watches.add(t, *dir)?.put(w),
            Request::Unwatch { watches } => {
                self.watches.remove(&watches.0);
                Done {}.put(w);
            }
            // Has no reply and does not come here.
            Request::Close { .. } => return Err(Errno::EINVAL),
        }
        Ok(None)
    }

    /// Answers `Hello`. `EPROTONOSUPPORT` for another version.
    fn hello(&self, version: u32) -> Result<HelloReply, Errno> {
        if version != wire::VERSION {
            return Err(Errno::EPROTONOSUPPORT);
        }
        let mut exports = Vec::with_capacity(self.exports.len());
        for e in &self.exports {
            let fd = e.root.try_clone().map_err(Errno::from)?;
            let node = Node::new(fd, e.clone(), e.filter.start(), &e.attr);
            exports.push(ExportInfo {
                tag: Tag(e.tag.clone()),
                flags: e.flags,
                root: self.table.insert(Arc::new(node))?,
                attr: e.attr,
            });
        }
        Ok(HelloReply {
            version: wire::VERSION,
            max_nodes: self.table.max() as u64,
            max_connections: self.config.max_connections,
            exports,
        })
    }

    /// Answers `Connect`: starts a thread for a new connection and returns the client's end.
    fn connect(self: &Arc<Self>) -> Result<OwnedFd, Errno> {
        let mut c = self.connections.lock();
        c.sockets.retain(|s| s.strong_count() > 0);
        c.threads.retain(|t| !t.is_finished());
        if c.closing || c.sockets.len() + 1 >= self.config.max_connections as usize {
            return Err(Errno::EMFILE);
        }
        let (ours, theirs) = transport::socket_pair().map_err(Errno::from)?;
        let ours = Arc::new(ours);
        c.sockets.push(Arc::downgrade(&ours));
        let shared = self.clone();
        let body = move || {
            if let Err(e) = shared.connection(&ours) {
                tracing::warn!("gofer connection: {e}");
            }
        };
        let thread = std::thread::Builder::new().stack_size(STACK).spawn(body);
        c.threads.push(thread.map_err(Errno::from)?);
        Ok(theirs)
    }
}
