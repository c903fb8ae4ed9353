//! Sockets: making, naming, connecting, options. What moves data is in `socket_io`.

use std::sync::Arc;

use abi::Errno;

use super::pipe::{install, install_pair};
use super::{Args, SysResult};
use crate::kernel::{Current, Events};
use crate::net::options;
use crate::net::unix::{Kind, UnixSocket};
use crate::net::{Shutdown, Socket, SocketFile, Ucred, socket as sock};
use crate::vfs::{FileDescription, OpenFlags};

/// `sizeof(struct sockaddr_storage)`
const ADDR_MAX: usize = 128;
/// One past the highest address family.
const AF_MAX: i32 = 46;

/// An open file that is known to be a socket.
pub(super) struct SocketRef(Arc<FileDescription>);

impl SocketRef {
    /// `EBADF`, `ENOTSOCK`.
    pub(super) fn get(cur: &Current, fd: i32) -> Result<SocketRef, Errno> {
        let file = cur.files.get(fd)?;
        match file.downcast::<SocketFile>() {
            Some(_) => Ok(SocketRef(file)),
            None => Err(Errno::ENOTSOCK),
        }
    }

    pub(super) fn file(&self) -> &Arc<FileDescription> {
        &self.0
    }

    pub(super) fn socket(&self) -> Result<&Arc<dyn Socket>, Errno> {
        self.0.downcast::<SocketFile>().map(SocketFile::socket).ok_or(Errno::ENOTSOCK)
    }
}

/// Reads a socket address (`move_addr_to_kernel`). `EINVAL` for a bad length.
pub(super) fn read_addr(cur: &Current, addr: u64, len: i32) -> Result<Vec<u8>, Errno> {
    let len = usize::try_from(len).ok().filter(|&len| len <= ADDR_MAX).ok_or(Errno::EINVAL)?;
    cur.mm.read_array(addr, len)
}

/// Writes an address and its length (`move_addr_to_user`): cut to the guest's room, the length
/// whole.
pub(super) fn write_addr(
    cur: &Current,
    bytes: &[u8],
    addr: u64,
    len_addr: u64,
) -> Result<(), Errno> {
    let room: i32 = cur.mm.read_obj(len_addr)?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    cur.mm.write_obj(addr, bytes.get(..room).unwrap_or(bytes))?;
    cur.mm.write_obj(len_addr, &(bytes.len() as i32))
}

/// Splits a `type` argument: the type itself, and the flags for the descriptor.
fn split_type(kind: i32) -> Result<(i32, OpenFlags), Errno> {
    const TYPE_MASK: i32 = 0xf;
    let flags = OpenFlags::from_bits_retain((kind & !TYPE_MASK) as u32);
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(flags) {
        return Err(Errno::EINVAL);
    }
    Ok((kind & TYPE_MASK, flags))
}

/// The checks of `__sock_create` and `unix_create`.
fn unix_kind(domain: i32, kind: i32, protocol: i32) -> Result<Kind, Errno> {
    const TYPES: i32 = 11;
    if !(0..AF_MAX).contains(&domain) {
        return Err(Errno::EAFNOSUPPORT);
    }
    if !(0..TYPES).contains(&kind) {
        return Err(Errno::EINVAL);
    }
    if domain != libc::AF_UNIX {
        return Err(Errno::EAFNOSUPPORT);
    }
    if protocol != 0 && protocol != libc::AF_UNIX {
        return Err(Errno::EPROTONOSUPPORT);
    }
    match kind {
        libc::SOCK_STREAM => Ok(Kind::Stream),
        libc::SOCK_DGRAM | libc::SOCK_RAW => Ok(Kind::Dgram),
        libc::SOCK_SEQPACKET => Ok(Kind::SeqPacket),
        _ => Err(Errno::ESOCKTNOSUPPORT),
    }
}

/// socket(2)
pub fn socket(cur: &mut Current, args: &Args) -> SysResult {
    let (kind, flags) = split_type(args.int(1))?;
    let kind = unix_kind(args.int(0), kind, args.int(2))?;
    let socket = UnixSocket::new(&cur.kernel.unix, kind)?;
    let file = sock::new_file(&cur.task, socket, flags & OpenFlags::NONBLOCK)?;
    install(cur, file, flags)
}

/// socketpair(2)
pub fn socketpair(cur: &mut Current, args: &Args) -> SysResult {
    let (kind, flags) = split_type(args.int(1))?;
    if args.int(0) == libc::AF_INET || args.int(0) == libc::AF_INET6 {
        // They exist, but not in pairs.
        return Err(Errno::EOPNOTSUPP);
    }
    let kind = unix_kind(args.int(0), kind, args.int(2))?;
    let [a, b] = UnixSocket::pair(&cur.kernel.unix, kind, Ucred::effective(&cur.task))?;
    let a = sock::new_file(&cur.task, a, flags & OpenFlags::NONBLOCK)?;
    let b = sock::new_file(&cur.task, b, flags & OpenFlags::NONBLOCK)?;
    install_pair(cur, [a, b], flags, args.u64(3))
}

/// bind(2)
pub fn bind(cur: &mut Current, args: &Args) -> SysResult {
    let socket = SocketRef::get(cur, args.int(0))?;
    let addr = read_addr(cur, args.u64(1), args.int(2))?;
    socket.socket()?.bind(&cur.task, &addr)?;
    Ok(0)
}

/// connect(2)
pub fn connect(cur: &mut Current, args: &Args) -> SysResult {
    let socket = SocketRef::get(cur, args.int(0))?;
    let addr = read_addr(cur, args.u64(1), args.int(2))?;
    let inner = socket.socket()?;
    cur.block_on(socket.file(), Events::WRITABLE, None, || inner.connect(&cur.task, &addr))?;
    Ok(0)
}

/// listen(2)
pub fn listen(cur: &mut Current, args: &Args) -> SysResult {
    SocketRef::get(cur, args.int(0))?.socket()?.listen(&cur.task, args.int(1))?;
    Ok(0)
}

/// accept(2)
pub fn accept(cur: &mut Current, args: &Args) -> SysResult {
    do_accept(cur, args, 0)
}

/// accept4(2)
pub fn accept4(cur: &mut Current, args: &Args) -> SysResult {
    do_accept(cur, args, args.int(3))
}

fn do_accept(cur: &mut Current, args: &Args, flags: i32) -> SysResult {
    let (kind, flags) = split_type(flags)?;
    if kind != 0 {
        return Err(Errno::EINVAL);
    }
    let socket = SocketRef::get(cur, args.int(0))?;
    let inner = socket.socket()?;
    let new = cur.block_on(socket.file(), Events::READABLE, None, || inner.accept())?;
    let addr = if args.u64(1) != 0 {
        Some(new.peer_name().map_err(|_| Errno::ECONNABORTED)?)
    } else {
        None
    };
    let file = sock::new_file(&cur.task, new, flags & OpenFlags::NONBLOCK)?;
    if let Some(addr) = addr {
        write_addr(cur, &addr, args.u64(1), args.u64(2))?;
    }
    install(cur, file, flags)
}

/// getsockname(2)
pub fn getsockname(cur: &mut Current, args: &Args) -> SysResult {
    let name = SocketRef::get(cur, args.int(0))?.socket()?.name();
    write_addr(cur, &name, args.u64(1), args.u64(2))?;
    Ok(0)
}

/// getpeername(2)
pub fn getpeername(cur: &mut Current, args: &Args) -> SysResult {
    let name = SocketRef::get(cur, args.int(0))?.socket()?.peer_name()?;
    write_addr(cur, &name, args.u64(1), args.u64(2))?;
    Ok(0)
}

/// shutdown(2)
pub fn shutdown(cur: &mut Current, args: &Args) -> SysResult {
    let socket = SocketRef::get(cur, args.int(0))?;
    let how = match args.int(1) {
        libc::SHUT_RD => Shutdown { read: true, write: false },
        libc::SHUT_WR => Shutdown { read: false, write: true },
        libc::SHUT_RDWR => Shutdown { read: true, write: true },
        _ => return Err(Errno::EINVAL),
    };
    socket.socket()?.shutdown(how)?;
    Ok(0)
}

/// Longest option value that is looked at.
const OPTION_MAX: usize = 4096;

/// setsockopt(2)
pub fn setsockopt(cur: &mut Current, args: &Args) -> SysResult {
    let len = usize::try_from(args.int(4)).map_err(|_| Errno::EINVAL)?;
    let socket = SocketRef::get(cur, args.int(0))?;
    let inner = socket.socket()?;
    let (level, name) = (args.int(1), args.int(2));
    if level == libc::SOL_SOCKET && len < 4 {
        return Err(Errno::EINVAL);
    }
    let value: Vec<u8> = cur.mm.read_array(args.u64(3), len.min(OPTION_MAX))?;
    if level == libc::SOL_SOCKET {
        options::set(&**inner, name, &value, &cur.cred())?;
    } else {
        inner.set_option(level, name, &value)?;
    }
    Ok(0)
}

/// getsockopt(2)
pub fn getsockopt(cur: &mut Current, args: &Args) -> SysResult {
    let socket = SocketRef::get(cur, args.int(0))?;
    let inner = socket.socket()?;
    let (level, name) = (args.int(1), args.int(2));
    let room: i32 = cur.mm.read_obj(args.u64(4))?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    let value = if level == libc::SOL_SOCKET {
        options::get(&**inner, name)?
    } else {
        inner.get_option(level, name)?
    };
    let cut = value.get(..room).unwrap_or(&value);
    cur.mm.write_obj(args.u64(3), cut)?;
    cur.mm.write_obj(args.u64(4), &(cut.len() as i32))?;
    Ok(0)
}
