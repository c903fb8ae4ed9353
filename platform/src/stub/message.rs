//! Messages between the Sentry and its stubs' template: a few bytes, and at most one descriptor.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::sys::{self, Tid};
use crate::Error;

/// `CMSG_SPACE(sizeof(int))`.
pub(crate) const CONTROL_LEN: u64 = 24;
/// `CMSG_LEN(sizeof(int))`.
pub(crate) const CONTROL_USED: u64 = 20;
/// How often the Sentry looks whether the other side is still alive while it waits, in
/// milliseconds: stubs share the socket's other end, so its end is not seen.
const LOOK_MS: i32 = 100;

/// A socket that keeps messages apart: our end, and theirs.
pub(crate) fn socket_pair() -> Result<(OwnedFd, OwnedFd), Error> {
    let mut fds = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: plain system call with a live buffer; the new descriptors are nobody else's.
    unsafe {
        if libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) != 0 {
            return Err(Error::last("socketpair"));
        }
        Ok((OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])))
    }
}

/// Sends `bytes` with a descriptor. Does not block.
pub(crate) fn send(socket: &OwnedFd, bytes: &[u8], file: Option<&OwnedFd>) -> Result<(), Error> {
    let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = [0u64; CONTROL_LEN as usize / 8];
    // SAFETY: the header points at live buffers; the control buffer has room for one descriptor
    // and is aligned for a cmsghdr.
    let sent = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &mut iov;
        message.msg_iovlen = 1;
        if let Some(file) = file {
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = CONTROL_LEN as usize;
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = CONTROL_USED as usize;
            libc::CMSG_DATA(header).cast::<i32>().write_unaligned(file.as_raw_fd());
        }
        libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
    };
    if sent == bytes.len() as isize { Ok(()) } else { Err(Error::last("sendmsg to a stub")) }
}

/// Waits for a message from the child process `from`; returns its length, and its descriptor if it
/// has one.
///
/// # Errors
/// [`Error::StubGone`] if the process dies instead. It is not reaped.
pub(crate) fn receive(
    socket: &OwnedFd,
    bytes: &mut [u8],
    from: Tid,
) -> Result<(usize, Option<OwnedFd>), Error> {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: plain system call with a live buffer.
    while unsafe { libc::poll(&mut poll, 1, LOOK_MS) } <= 0 {
        if sys::is_dead(from) {
            return Err(Error::StubGone);
        }
    }
    let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut control = [0u64; CONTROL_LEN as usize / 8];
    // SAFETY: as in `send`; a descriptor that comes is nobody else's.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &mut iov;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = CONTROL_LEN as usize;
        let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
        let len = libc::recvmsg(socket.as_raw_fd(), &mut message, flags);
        if len <= 0 {
            return Err(Error::last("recvmsg from a stub"));
        }
        let header = libc::CMSG_FIRSTHDR(&message);
        let file = (!header.is_null()
            && (*header).cmsg_level == libc::SOL_SOCKET
            && (*header).cmsg_type == libc::SCM_RIGHTS
            && (*header).cmsg_len == CONTROL_USED as usize)
            .then(|| OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<i32>().read_unaligned()));
        Ok((len as usize, file))
    }
}
