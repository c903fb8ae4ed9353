//! Sending and receiving: sendto(2), sendmsg(2), recvfrom(2), recvmsg(2) and the calls for several
//! messages.

use std::sync::Arc;

use abi::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::socket::{SocketRef, read_addr, write_addr};
use super::time::read_deadline;
use super::{Args, SysResult};
use crate::kernel::signal::SigInfo;
use crate::kernel::time::monotonic_ns;
use crate::kernel::{Caps, Current, Events};
use crate::net::control::{self, ControlWriter, MAX_CONTROL, MAX_RIGHTS};
use crate::net::{MsgFlags, Received, RecvArgs, SendArgs, Ucred};
use crate::vfs::io::UserRange;
use crate::vfs::{FileDescription, IoDst, IoSrc};

/// Most bytes of one transfer (`MAX_RW_COUNT`).
const MAX_COUNT: usize = 0x7fff_f000;
/// Most pieces of one message, and most messages of one call (`UIO_MAXIOV`).
const MAX_PIECES: u64 = 1024;

/// `struct user_msghdr`
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct MsgHdr {
    name: u64,
    namelen: i32,
    pad0: u32,
    iov: u64,
    iovlen: u64,
    control: u64,
    controllen: u64,
    flags: u32,
    pad1: u32,
}

/// Size and offsets in `struct mmsghdr`.
const MMSG_SIZE: u64 = 64;
const NAMELEN_OFFSET: u64 = 8;
const CONTROLLEN_OFFSET: u64 = 40;
const FLAGS_OFFSET: u64 = 48;
const MMSG_LEN_OFFSET: u64 = 56;

/// The pieces of a message. `EMSGSIZE` for too many, `EINVAL` for a bad length.
fn pieces(cur: &Current, header: &MsgHdr) -> Result<Vec<UserRange>, Errno> {
    if header.iovlen > MAX_PIECES {
        return Err(Errno::EMSGSIZE);
    }
    let raw: Vec<[u64; 2]> = cur.mm.read_array(header.iov, header.iovlen as usize)?;
    let mut left = MAX_COUNT;
    let mut ranges = Vec::with_capacity(raw.len());
    for [addr, len] in raw {
        let len = i64::try_from(len).map_err(|_| Errno::EINVAL)? as usize;
        let len = len.min(left);
        left -= len;
        ranges.push((addr, len));
    }
    Ok(ranges)
}

/// What the ancillary data of a message to be sent says.
fn read_control(
    cur: &Current,
    header: &MsgHdr,
    is_unix: bool,
) -> Result<(Vec<Arc<FileDescription>>, Ucred), Errno> {
    let mut cred = Ucred::of(&cur.task);
    let mut rights = Vec::new();
    if header.control == 0 || header.controllen == 0 {
        return Ok((rights, cred));
    }
    let len = usize::try_from(header.controllen).ok().filter(|&len| len <= MAX_CONTROL);
    let bytes: Vec<u8> = cur.mm.read_array(header.control, len.ok_or(Errno::ENOBUFS)?)?;
    for message in control::parse(&bytes)? {
        if message.level != libc::SOL_SOCKET {
            continue;
        }
        match message.kind {
            control::SCM_RIGHTS if is_unix => {
                let fds = message.data.chunks_exact(4);
                if rights.len() + fds.len() > MAX_RIGHTS {
                    return Err(Errno::EINVAL);
                }
                for fd in fds {
                    let fd = fd.first_chunk().map_or(-1, |b| i32::from_ne_bytes(*b));
                    rights.push(cur.files.get(fd)?);
                }
            }
            control::SCM_CREDENTIALS if message.data.len() == size_of::<Ucred>() => {
                let asked = Ucred::read_from_bytes(message.data).map_err(|_| Errno::EINVAL)?;
                check_cred(cur, asked)?;
                cred = asked;
            }
            _ => return Err(Errno::EINVAL),
        }
    }
    Ok((rights, cred))
}

/// Whether a task may claim to be that (`scm_check_creds`).
fn check_cred(cur: &Current, asked: Ucred) -> Result<(), Errno> {
    let own = cur.cred();
    let pid = asked.pid == cur.group.tgid || own.capable(Caps::SYS_ADMIN);
    let uid = [own.uid, own.euid, own.suid].contains(&asked.uid) || own.capable(Caps::SETUID);
    let gid = [own.gid, own.egid, own.sgid].contains(&asked.gid) || own.capable(Caps::SETGID);
    if pid && uid && gid { Ok(()) } else { Err(Errno::EPERM) }
}

/// A message to be sent.
struct Outgoing {
    ranges: Vec<UserRange>,
    dest: Option<Vec<u8>>,
    rights: Vec<Arc<FileDescription>>,
    cred: Ucred,
}

/// Sends one message; waits for room unless told not to.
fn send(cur: &mut Current, socket: &SocketRef, message: Outgoing, flags: MsgFlags) -> SysResult {
    let inner = socket.socket()?;
    let nonblocking = flags.contains(MsgFlags::DONTWAIT) || socket.file().nonblocking();
    let mut args = SendArgs {
        flags,
        nonblocking,
        dest: message.dest.as_deref(),
        rights: message.rights,
        cred: message.cred,
        task: Some(&cur.task),
    };
    let mut src = IoSrc::user(&cur.mm, message.ranges);
    let mut op = || inner.send(&mut src, &mut args);
    let result =
        if nonblocking { op() } else { cur.block_on(socket.file(), Events::WRITABLE, None, op) };
    match (src.done(), result) {
        (1.., Err(_)) => Ok(src.done() as u64),
        // A stream says how much in all; a datagram is one piece.
        (_, Ok(_)) => Ok(src.done() as u64),
        (0, Err(errno)) => {
            let stream = inner.kind() == libc::SOCK_STREAM;
            if errno == Errno::EPIPE && stream && !flags.contains(MsgFlags::NOSIGNAL) {
                // Full queues are for real-time signals: this one always arrives.
                let _ = cur.task.send_signal(SigInfo::kernel(libc::SIGPIPE));
            }
            Err(errno)
        }
    }
}

fn send_header(
    cur: &mut Current,
    socket: &SocketRef,
    header: &MsgHdr,
    flags: MsgFlags,
) -> SysResult {
    if header.namelen < 0 {
        return Err(Errno::EINVAL);
    }
    let dest = if header.name != 0 && header.namelen > 0 {
        Some(read_addr(cur, header.name, header.namelen.min(128))?)
    } else {
        None
    };
    let ranges = pieces(cur, header)?;
    let is_unix = socket.socket()?.domain() == libc::AF_UNIX;
    let (rights, cred) = read_control(cur, header, is_unix)?;
    send(cur, socket, Outgoing { ranges, dest, rights, cred }, flags)
}

/// sendto(2)
pub fn sendto(cur: &mut Current, args: &Args) -> SysResult {
    let socket = SocketRef::get(cur, args.int(0))?;
    let dest = if args.u64(4) != 0 {
        Some(read_addr(cur, args.u64(4), args.int(5))?).filter(|addr| !addr.is_empty())
    } else {
        None
    };
    let message = Outgoing {
        ranges: vec![(args.u64(1), args.size(2).min(MAX_COUNT))],
        dest,
        rights: Vec::new(),
        cred: Ucred::of(&cur.task),
    };
    send(cur, &socket, message, MsgFlags::from_bits_truncate(args.uint(3)))
}

/// sendmsg(2)
pub fn sendmsg(cur: &mut Current, args: &Args) -> SysResult {
    let socket = SocketRef::get(cur, args.int(0))?;
    let header: MsgHdr = cur.mm.read_obj(args.u64(1))?;
    send_header(cur, &socket, &header, MsgFlags::from_bits_truncate(args.uint(2)))
}

/// sendmmsg(2)
pub fn sendmmsg(cur: &mut Current, args: &Args) -> SysResult {
    let socket = SocketRef::get(cur, args.int(0))?;
    let flags = MsgFlags::from_bits_truncate(args.uint(3));
    let mut count = 0;
    while count < u64::from(args.uint(2)).min(MAX_PIECES) {
        let sent = (|| {
            let at = args.u64(1).checked_add(count * MMSG_SIZE).ok_or(Errno::EFAULT)?;
            let header: MsgHdr = cur.mm.read_obj(at)?;
            let sent = send_header(cur, &socket, &header, flags)?;
            cur.mm.write_obj(at + MMSG_LEN_OFFSET, &(sent as u32))
        })();
        match sent {
            Ok(()) => count += 1,
            Err(errno) if count == 0 => return Err(errno),
            Err(_) => break,
        }
    }
    Ok(count)
}

/// Receives one message; waits for it unless told not to.
fn recv(
    cur: &mut Current,
    socket: &SocketRef,
    ranges: Vec<UserRange>,
    flags: MsgFlags,
) -> Result<(usize, Received), Errno> {
    let inner = socket.socket()?;
    if flags.contains(MsgFlags::ERRQUEUE) {
        return Err(Errno::EAGAIN);
    }
    let nonblocking = flags.contains(MsgFlags::DONTWAIT) || socket.file().nonblocking();
    let args = RecvArgs { flags, nonblocking };
    let mut out = Received::default();
    let mut dst = IoDst::user(&cur.mm, ranges);
    let mut op = || inner.recv(&mut dst, args, &mut out);
    let result =
        if nonblocking { op() } else { cur.block_on(socket.file(), Events::READABLE, None, op) };
    let done = dst.done();
    match result {
        Err(errno) if done == 0 => Err(errno),
        _ if flags.contains(MsgFlags::TRUNC) && inner.kind() != libc::SOCK_STREAM => {
            Ok((out.len, out))
        }
        _ => Ok((done, out)),
    }
}

/// Installs the open files that came, and tells their numbers (`scm_detach_fds`).
fn receive_rights(
    cur: &Current,
    files: Vec<Arc<FileDescription>>,
    cloexec: bool,
    control: &mut ControlWriter,
) {
    let (count, room) = (files.len(), control.room() / 4);
    let mut fds = Vec::new();
    for file in files.into_iter().take(room) {
        match cur.files.install(file, cloexec, 0, cur.group.nofile()) {
            Ok(fd) => fds.extend_from_slice(&fd.to_ne_bytes()),
            Err(_) => break,
        }
    }
    control.truncated |= fds.len() / 4 < count;
    if !fds.is_empty() {
        control.push(libc::SOL_SOCKET, control::SCM_RIGHTS, &fds);
    }
}

/// Receives into the message whose header lies at `addr`, and completes that.
fn recv_header(cur: &mut Current, socket: &SocketRef, addr: u64, flags: MsgFlags) -> SysResult {
    let header: MsgHdr = cur.mm.read_obj(addr)?;
    if header.namelen < 0 && header.name != 0 {
        return Err(Errno::EINVAL);
    }
    let ranges = pieces(cur, &header)?;
    let (count, received) = recv(cur, socket, ranges, flags)?;
    let cloexec = flags.contains(MsgFlags::CMSG_CLOEXEC);
    let room = if header.control == 0 { 0 } else { header.controllen };
    let mut control = ControlWriter::new(usize::try_from(room).unwrap_or(usize::MAX));
    if let Some(cred) = received.cred {
        control.push(libc::SOL_SOCKET, control::SCM_CREDENTIALS, cred.as_bytes());
    }
    if !received.rights.is_empty() {
        receive_rights(cur, received.rights, cloexec, &mut control);
    }
    let mut out_flags = received.flags | (flags & MsgFlags::CMSG_CLOEXEC);
    if control.truncated {
        out_flags |= MsgFlags::CTRUNC;
    }
    let control = control.finish();
    if header.name != 0 {
        let source = received.source.unwrap_or_default();
        let room = usize::try_from(header.namelen).unwrap_or(0);
        cur.mm.write_obj(header.name, source.get(..room).unwrap_or(&source))?;
        cur.mm.write_obj(addr + NAMELEN_OFFSET, &(source.len() as i32))?;
    }
    cur.mm.write_obj(addr + FLAGS_OFFSET, &out_flags.bits())?;
    cur.mm.write_obj(header.control, control.as_slice())?;
    cur.mm.write_obj(addr + CONTROLLEN_OFFSET, &(control.len() as u64))?;
    Ok(count as u64)
}

/// recvfrom(2)
pub fn recvfrom(cur: &mut Current, args: &Args) -> SysResult {
    let socket = SocketRef::get(cur, args.int(0))?;
    let flags = MsgFlags::from_bits_truncate(args.uint(3));
    let ranges = vec![(args.u64(1), args.size(2).min(MAX_COUNT))];
    let (count, received) = recv(cur, &socket, ranges, flags)?;
    if args.u64(4) != 0 {
        let source = received.source.unwrap_or_default();
        write_addr(cur, &source, args.u64(4), args.u64(5))?;
    }
    Ok(count as u64)
}

/// recvmsg(2)
pub fn recvmsg(cur: &mut Current, args: &Args) -> SysResult {
    let socket = SocketRef::get(cur, args.int(0))?;
    recv_header(cur, &socket, args.u64(1), MsgFlags::from_bits_truncate(args.uint(2)))
}

/// recvmmsg(2): the timeout is looked at after each message only, as on Linux.
pub fn recvmmsg(cur: &mut Current, args: &Args) -> SysResult {
    let deadline = read_deadline(cur, args.u64(4))?;
    let socket = SocketRef::get(cur, args.int(0))?;
    let mut flags = MsgFlags::from_bits_truncate(args.uint(3));
    let mut count = 0;
    while count < u64::from(args.uint(2)).min(MAX_PIECES) {
        let received = (|| {
            let at = args.u64(1).checked_add(count * MMSG_SIZE).ok_or(Errno::EFAULT)?;
            let len = recv_header(cur, &socket, at, flags - MsgFlags::WAITFORONE)?;
            cur.mm.write_obj(at + MMSG_LEN_OFFSET, &(len as u32))
        })();
        match received {
            Ok(()) => count += 1,
            Err(errno) if count == 0 => return Err(errno),
            Err(_) => break,
        }
        if flags.contains(MsgFlags::WAITFORONE) {
            flags |= MsgFlags::DONTWAIT;
        }
        if deadline.is_some_and(|at| monotonic_ns() >= at) {
            break;
        }
    }
    Ok(count)
}
