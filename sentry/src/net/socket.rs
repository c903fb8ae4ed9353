//! What a socket can do, whatever its family, and sockets as open files.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use abi::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::options::Options;
use crate::fs::anon::{self, AnonKind};
use crate::kernel::current::current_task;
use crate::kernel::{Credentials, Current, Events, Task, WaitQueue};
use crate::vfs::{FileDescription, FileOps, IoDst, IoSrc, OpenFlags};

#[allow(missing_docs)] // The names are Linux's.
mod bits {
    use bitflags::bitflags;

    bitflags! {
        /// The `MSG_*` flags of send(2) and recv(2).
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct MsgFlags: u32 {
            const OOB = 1;
            const PEEK = 2;
            const DONTROUTE = 4;
            const CTRUNC = 8;
            const TRUNC = 0x20;
            const DONTWAIT = 0x40;
            const EOR = 0x80;
            const WAITALL = 0x100;
            const ERRQUEUE = 0x2000;
            const NOSIGNAL = 0x4000;
            const WAITFORONE = 0x10000;
            const CMSG_CLOEXEC = 0x4000_0000;
        }
    }
}

pub use bits::MsgFlags;

/// `struct ucred`
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Ucred {
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
}

impl Ucred {
    /// Nobody.
    pub const NOBODY: Ucred = Ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };

    /// What a task's messages carry.
    pub fn of(task: &Task) -> Ucred {
        let cred = task.cred();
        Ucred { pid: task.group.tgid, uid: cred.uid, gid: cred.gid }
    }

    /// What a peer sees (`SO_PEERCRED`).
    pub fn effective(task: &Task) -> Ucred {
        let cred = task.cred();
        Ucred { pid: task.group.tgid, uid: cred.euid, gid: cred.egid }
    }
}

/// What goes along with the bytes that are sent.
pub struct SendArgs<'a> {
    /// `MSG_*`.
    pub flags: MsgFlags,
    /// Whether `EAGAIN` goes to the guest.
    pub nonblocking: bool,
    /// Where to (sendto(2)).
    pub dest: Option<&'a [u8]>,
    /// Open files to be passed on; taken when the message is on its way.
    pub rights: Vec<Arc<FileDescription>>,
    /// Whose message it is; the socket's maker's if the kernel itself writes.
    pub cred: Ucred,
    /// Who sends; `None` for write(2).
    pub task: Option<&'a Task>,
}

/// How to receive.
#[derive(Clone, Copy)]
pub struct RecvArgs {
    /// `MSG_*`.
    pub flags: MsgFlags,
    /// Whether `EAGAIN` goes to the guest.
    pub nonblocking: bool,
}

/// What came besides the bytes.
#[derive(Default)]
pub struct Received {
    /// Length of the message, however much of it was copied.
    pub len: usize,
    /// Who sent it.
    pub source: Option<Vec<u8>>,
    /// Open files.
    pub rights: Vec<Arc<FileDescription>>,
    /// The sender's credentials, if they were asked for.
    pub cred: Option<Ucred>,
    /// `MSG_TRUNC`, `MSG_EOR`.
    pub flags: MsgFlags,
}

/// What shutdown(2) ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// Receiving.
    pub read: bool,
    /// Sending.
    pub write: bool,
}

/// One socket. Addresses are `struct sockaddr` as the guest gave them, at most 128 bytes.
pub trait Socket: Send + Sync + Any {
    /// `AF_*`
    fn domain(&self) -> i32;
    /// `SOCK_*`
    fn kind(&self) -> i32;
    /// `SO_PROTOCOL`
    fn protocol(&self) -> i32 {
        0
    }
    /// Options that all sockets have.
    fn options(&self) -> &Options;
    /// Told the inode's number once it is a file.
    fn set_ino(&self, ino: u64) {
        let _ = ino;
    }

    /// bind(2)
    fn bind(&self, task: &Task, addr: &[u8]) -> Result<(), Errno>;
    /// connect(2); `EAGAIN` to be repeated when the queue has room again.
    fn connect(&self, task: &Task, addr: &[u8]) -> Result<(), Errno>;
    /// listen(2)
    fn listen(&self, task: &Task, backlog: i32) -> Result<(), Errno> {
        let _ = (task, backlog);
        Err(Errno::EOPNOTSUPP)
    }
    /// accept(2); `EAGAIN` when nobody is waiting.
    fn accept(&self) -> Result<Arc<dyn Socket>, Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// sendmsg(2). A stream may say `EAGAIN` after it took a part.
    fn send(&self, src: &mut IoSrc<'_>, args: &mut SendArgs<'_>) -> Result<usize, Errno>;
    /// recvmsg(2). A stream that waits for all (`MSG_WAITALL`) may say `EAGAIN` after a part.
    fn recv(&self, dst: &mut IoDst<'_>, args: RecvArgs, out: &mut Received)
    -> Result<usize, Errno>;
    /// shutdown(2)
    fn shutdown(&self, how: Shutdown) -> Result<(), Errno>;
    /// getsockname(2)
    fn name(&self) -> Vec<u8>;
    /// getpeername(2)
    fn peer_name(&self) -> Result<Vec<u8>, Errno>;
    /// getsockopt(2) for what is not in [`Options`].
    fn get_option(&self, level: i32, name: i32) -> Result<Vec<u8>, Errno>;
    /// setsockopt(2) for what is not in [`Options`].
    fn set_option(&self, level: i32, name: i32, value: &[u8]) -> Result<(), Errno>;
    /// `SO_ERROR`: takes the pending error.
    fn take_error(&self) -> Option<Errno>;
    /// `SO_ACCEPTCONN`
    fn is_listening(&self) -> bool {
        false
    }
    /// `SO_PEERCRED`
    fn peer_cred(&self) -> Ucred {
        Ucred::NOBODY
    }
    /// The size of the send buffer changed.
    fn send_buffer_changed(&self) {}
    /// Bytes that can be read (`SIOCINQ`); `EINVAL` while listening.
    fn readable_len(&self) -> Result<usize, Errno>;
    /// Bytes that were sent and not read yet (`SIOCOUTQ`).
    fn unsent_len(&self) -> usize;
    /// What is ready.
    fn poll(&self) -> Events;
    /// Where that is announced.
    fn wait_queue(&self) -> WaitQueue;
    /// The last descriptor is closed.
    fn release(&self);
    /// For the family's own use.
    fn as_any(&self) -> &dyn Any;
}

/// A socket as an open file.
pub struct SocketFile {
    socket: Arc<dyn Socket>,
    nonblocking: AtomicBool,
    creator: Ucred,
}

impl SocketFile {
    /// The socket.
    pub fn socket(&self) -> &Arc<dyn Socket> {
        &self.socket
    }
}

#[cfg(test)]
impl SocketFile {
    /// A blocking socket file that `creator` made.
    pub fn for_tests(socket: Arc<dyn Socket>, creator: Ucred) -> SocketFile {
        SocketFile { socket, nonblocking: AtomicBool::new(false), creator }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.socket.release();
    }
}

impl FileOps for SocketFile {
    fn read(&self, dst: &mut IoDst<'_>, _: u64) -> Result<usize, Errno> {
        let nonblocking = self.nonblocking.load(Ordering::Relaxed);
        let args = RecvArgs { flags: MsgFlags::empty(), nonblocking };
        self.socket.recv(dst, args, &mut Received::default())
    }

    fn write(&self, src: &mut IoSrc<'_>, _: u64) -> Result<usize, Errno> {
        let mut args = SendArgs {
            flags: MsgFlags::empty(),
            nonblocking: self.nonblocking.load(Ordering::Relaxed),
            dest: None,
            rights: Vec::new(),
            cred: current_task().map_or(self.creator, |task| Ucred::of(&task)),
            task: None,
        };
        self.socket.send(src, &mut args)
    }

    fn seekable(&self) -> bool {
        false
    }

    fn poll(&self) -> Events {
        self.socket.poll()
    }

    fn wait_queue(&self) -> Option<WaitQueue> {
        Some(self.socket.wait_queue())
    }

    fn timeout(&self, write: bool) -> Option<u64> {
        self.socket.options().timeout(write)
    }

    fn ioctl(&self, cur: &mut Current, cmd: u32, arg: u64) -> Result<i64, Errno> {
        const SIOCOUTQ: u32 = 0x5411;
        const SIOCINQ: u32 = 0x541b;
        let value = match cmd {
            SIOCINQ => self.socket.readable_len()?,
            SIOCOUTQ => self.socket.unsent_len(),
            _ => return Err(Errno::ENOTTY),
        };
        cur.mm.write_obj(arg, &i32::try_from(value).unwrap_or(i32::MAX))?;
        Ok(0)
    }

    fn flags_changed(&self, flags: OpenFlags) {
        self.nonblocking.store(flags.contains(OpenFlags::NONBLOCK), Ordering::Relaxed);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Makes a socket an open file. `flags`: `O_NONBLOCK`. `ENFILE`.
pub fn new_file(
    task: &Task,
    socket: Arc<dyn Socket>,
    flags: OpenFlags,
) -> Result<Arc<FileDescription>, Errno> {
    let cred: Arc<Credentials> = task.cred();
    let path = anon::new_path(AnonKind::Socket, &cred);
    socket.set_ino(path.inode()?.key().ino);
    let nonblocking = AtomicBool::new(flags.contains(OpenFlags::NONBLOCK));
    let ops = SocketFile { socket, nonblocking, creator: Ucred::of(task) };
    FileDescription::new(Box::new(ops), path, OpenFlags::RDWR | flags, cred)
}
