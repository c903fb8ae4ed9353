//! Frames over `SOCK_SEQPACKET` sockets, with descriptors beside them.
//!
//! Every received descriptor is owned at once (close-on-exec), however many the peer sent, so a
//! hostile peer cannot leak descriptors into this process.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use crate::wire::MAX_MESSAGE;

/// Most descriptors that Linux lets one message carry (`SCM_MAX_FD`).
const SCM_MAX_FD: usize = 253;
/// Control buffer, in u64 so that it is aligned: one `cmsghdr` and `SCM_MAX_FD` descriptors, and
/// some room.
const CONTROL_WORDS: usize = (size_of::<libc::cmsghdr>() + SCM_MAX_FD * size_of::<RawFd>()) / 8 + 8;

/// Makes a connected pair of sockets, close-on-exec: one end for the gofer, one for the Sentry.
pub fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: `fds` has room for the two descriptors.
    if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so both are open and owned by nobody else.
    let pair = unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) };
    for end in [&pair.0, &pair.1] {
        // Best effort: the usual default (208 KiB) is enough as well.
        let size = 2 * MAX_MESSAGE as libc::c_int;
        let _ = set_option(end.as_raw_fd(), libc::SO_SNDBUF, &size);
    }
    Ok(pair)
}

/// Limits how long one send or receive may block.
pub(crate) fn set_timeouts(socket: BorrowedFd<'_>, limit: Duration) -> io::Result<()> {
    let tv = libc::timeval {
        tv_sec: limit.as_secs().min(i64::MAX as u64) as i64,
        tv_usec: i64::from(limit.subsec_micros()).max(i64::from(limit.as_secs() == 0)),
    };
    set_option(socket.as_raw_fd(), libc::SO_RCVTIMEO, &tv)?;
    set_option(socket.as_raw_fd(), libc::SO_SNDTIMEO, &tv)
}

fn set_option<T>(fd: RawFd, name: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: `value` points at a live T whose size is given.
    let rc = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Ends a connection in both directions; whoever blocks on it wakes up.
pub(crate) fn shutdown(socket: BorrowedFd<'_>) {
    // SAFETY: no memory is involved. An error means that it is shut down already.
    unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_RDWR) };
}

/// Sends one frame, with a descriptor if given. Blocks until the peer has room, the socket's
/// timeout at most.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    frame: &[u8],
    fd: Option<BorrowedFd<'_>>,
    deadline: Option<Instant>,
) -> io::Result<()> {
    let mut control = [0u64; 4];
    let mut iov = libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() };
    // SAFETY: all-zero is a valid msghdr.
    let mut msg: libc::msghdr = unsafe { zeroed() };
    msg.msg_iov = &mut iov;
    msg.msg_iovlen = 1;
    if let Some(fd) = fd {
        msg.msg_control = control.as_mut_ptr().cast();
        // SAFETY: CMSG_SPACE and CMSG_LEN only compute. `control` is aligned for a cmsghdr and
        // has 32 bytes, which is CMSG_SPACE(4) = 24 or more; so CMSG_FIRSTHDR is inside it.
        unsafe {
            msg.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as usize;
            let c = libc::CMSG_FIRSTHDR(&msg);
            (*c).cmsg_level = libc::SOL_SOCKET;
            (*c).cmsg_type = libc::SCM_RIGHTS;
            (*c).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize;
            libc::CMSG_DATA(c).cast::<RawFd>().write_unaligned(fd.as_raw_fd());
        }
    }
    loop {
        // SAFETY: `msg` points at `frame` (only read by sendmsg) and `control`, both alive.
        let n = unsafe { libc::sendmsg(socket.as_raw_fd(), &msg, libc::MSG_NOSIGNAL) };
        if n >= 0 {
            let whole = n as usize == frame.len();
            return if whole { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) };
        }
        retry_interrupted(deadline)?;
    }
}

/// Whether to try again after a failed call: only if it was interrupted and there is time left.
fn retry_interrupted(deadline: Option<Instant>) -> io::Result<()> {
    let e = io::Error::last_os_error();
    let late = deadline.is_some_and(|d| Instant::now() >= d);
    if e.kind() == io::ErrorKind::Interrupted && !late { Ok(()) } else { Err(e) }
}

/// What [`recv`] got.
pub(crate) struct Received {
    /// Bytes of the frame; 0 at the end of the connection.
    pub(crate) len: usize,
    /// Descriptors that came with it.
    pub(crate) fds: Vec<OwnedFd>,
    /// Whether the peer sent a longer frame than fits: a protocol violation.
    pub(crate) truncated: bool,
    /// Whether descriptors were lost: because none were wanted, or because this process can have no
    /// more (there is room for as many as Linux sends in one message).
    pub(crate) lost_fds: bool,
}

/// Receives one frame into `buf`. With `want_fds` off, the host discards descriptors that the peer
/// sends, and `lost_fds` says so.
pub(crate) fn recv(
    socket: BorrowedFd<'_>,
    buf: &mut [u8],
    want_fds: bool,
    deadline: Option<Instant>,
) -> io::Result<Received> {
    let mut control = [0u64; CONTROL_WORDS];
    let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: all-zero is a valid msghdr.
    let mut msg: libc::msghdr = unsafe { zeroed() };
    msg.msg_iov = &mut iov;
    msg.msg_iovlen = 1;
    let len = loop {
        if want_fds {
            msg.msg_control = control.as_mut_ptr().cast();
            msg.msg_controllen = CONTROL_WORDS * 8;
        }
        // SAFETY: `msg` points at `buf` and `control`, which are alive and as long as stated.
        let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut msg, libc::MSG_CMSG_CLOEXEC) };
        if n >= 0 {
            break n as usize;
        }
        retry_interrupted(deadline)?;
    };
    let mut fds = Vec::new();
    // SAFETY: the kernel filled `control` and set msg_controllen; the CMSG macros stay inside.
    // Each SCM_RIGHTS payload is an array of descriptors that are now ours alone.
    unsafe {
        let mut c = libc::CMSG_FIRSTHDR(&msg);
        while !c.is_null() {
            if (*c).cmsg_level == libc::SOL_SOCKET && (*c).cmsg_type == libc::SCM_RIGHTS {
                let bytes = ((*c).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
                let data = libc::CMSG_DATA(c).cast::<RawFd>();
                for i in 0..bytes / size_of::<RawFd>() {
                    fds.push(OwnedFd::from_raw_fd(data.add(i).read_unaligned()));
                }
            }
            c = libc::CMSG_NXTHDR(&msg, c);
        }
    }
    let flag = |bit| msg.msg_flags & bit != 0;
    let (truncated, lost_fds) = (flag(libc::MSG_TRUNC), flag(libc::MSG_CTRUNC));
    Ok(Received { len, fds, truncated, lost_fds })
}
