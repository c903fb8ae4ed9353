//! The channel between launcher and Sentry: one JSON object per packet of a
//! `SOCK_SEQPACKET` Unix socket pair.
//!
//! The launcher is the trusted side: it treats what comes from the Sentry as hostile (bounded
//! size, unknown messages end the sandbox). End of file on either side means that the other one
//! died, and ends the sandbox.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::spec::WindowSize;

/// Longest packet, in bytes.
pub const MAX_PACKET: usize = 16 * 1024;

/// From the launcher to the Sentry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToSentry {
    /// Somebody sent the launcher this signal: send it to the first program, as if from outside of
    /// the sandbox's pid namespace.
    Signal(i32),
    /// The caller's terminal changed its size.
    WindowSize(WindowSize),
    /// The launcher is about to stop (SIGTSTP): stop all tasks, as SIGSTOP would, leave the
    /// caller's terminal alone, and answer [`FromSentry::Suspended`].
    Suspend,
    /// Undo [`ToSentry::Suspend`].
    Resume {
        /// Whether the caller's terminal may be read from.
        foreground: bool,
    },
    /// End the sandbox at once, for this reason, and answer [`FromSentry::Exited`].
    End(Cause),
}

/// From the Sentry to the launcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromSentry {
    /// The first program is loaded and about to run.
    Started {
        /// How guest code is run: the platform's name.
        platform: String,
    },
    /// The sandbox could not start; the last message.
    Failed(BootFailure),
    /// Answer to [`ToSentry::Suspend`].
    Suspended,
    /// The sandbox has ended: the first program is gone, or a limit was hit; the last message.
    Exited(Ending),
}

/// How a sandbox ended, and what it has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// How the first program ended: by SIGKILL if the sandbox was ended.
    pub status: ExitStatus,
    /// Why.
    pub cause: Cause,
    /// What it has used.
    pub usage: Usage,
}

/// Why a sandbox ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The first program exited.
    Exit,
    /// The first program was killed by a signal.
    Signal,
    /// The time was up (`--wall`).
    Wall,
    /// The processor time was used up (`--cpu-time`).
    Cpu,
    /// There was no memory left, and the first program was what the out-of-memory killer chose
    /// (`--memory`).
    Memory,
    /// More was written than the caller wanted to see (`--output-limit`).
    Output,
    /// A rule of the policy says so.
    Policy,
}

/// What a sandbox has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time in guest code, by the host's account, in nanoseconds.
    pub guest_ns: u64,
    /// Processor time of the kernel, by the host's account, in nanoseconds.
    pub kernel_ns: u64,
    /// Most bytes of guest memory in use, files in memory included.
    pub peak_memory: u64,
    /// Most tasks at once.
    pub peak_tasks: u64,
    /// Bytes written to the caller's standard descriptors.
    pub output: u64,
    /// What tasks have asked of the kernel.
    pub counts: Counts,
    /// Processes that the out-of-memory killer ended.
    pub oom_kills: u64,
}

/// What tasks have asked of the kernel. What the platform answers by itself (getpid(2) and its
/// like) is not among it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// System calls.
    pub calls: u64,
    /// Page faults that the host could not answer by itself.
    pub faults: u64,
    /// System calls that were answered with `EPERM` or `EACCES`.
    pub denials: u64,
    /// System calls that are not there (`ENOSYS`).
    pub unsupported: u64,
}

impl Counts {
    /// The sum of two.
    pub fn plus(self, other: Counts) -> Counts {
        Counts {
            calls: self.calls.saturating_add(other.calls),
            faults: self.faults.saturating_add(other.faults),
            denials: self.denials.saturating_add(other.denials),
            unsupported: self.unsupported.saturating_add(other.unsupported),
        }
    }
}

/// Why a sandbox did not start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct BootFailure {
    /// What `rsentry run` exits with: 125 for a failure of rsentry, 126 for a program that cannot
    /// be executed, 127 for one that is not there.
    pub code: u8,
    /// One line for the user, without a prefix.
    pub message: String,
}

/// How the first program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// `exit_group` or the end of the last thread, with this code.
    Code(u8),
    /// Killed by this signal.
    Signal(u8),
}

impl ExitStatus {
    /// What a shell shows in `$?`.
    pub fn shell_code(self) -> u8 {
        match self {
            ExitStatus::Code(code) => code,
            ExitStatus::Signal(signo) => signo.wrapping_add(128),
        }
    }
}

/// Sends one message. Blocks while the peer's queue is full.
///
/// # Errors
/// The host's: `EPIPE` when the peer is gone.
pub fn send<T: Serialize>(socket: impl AsFd, message: &T) -> io::Result<()> {
    send_with(socket.as_fd(), message, 0)
}

/// As [`send`], for somebody who must not wait for the peer.
///
/// # Errors
/// `WouldBlock` while the peer's queue is full; else as [`send`].
pub fn send_now<T: Serialize>(socket: impl AsFd, message: &T) -> io::Result<()> {
    send_with(socket.as_fd(), message, libc::MSG_DONTWAIT)
}

fn send_with<T: Serialize>(socket: BorrowedFd<'_>, message: &T, flags: i32) -> io::Result<()> {
    let packet = serde_json::to_vec(message).map_err(io::Error::other)?;
    if packet.len() > MAX_PACKET {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    let (fd, flags) = (socket.as_raw_fd(), flags | libc::MSG_NOSIGNAL);
    loop {
        // SAFETY: `packet` is valid for reads of its length.
        let sent = unsafe { libc::send(fd, packet.as_ptr().cast(), packet.len(), flags) };
        match check(sent) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Receives one message, or `None` at the end of file. Blocks.
///
/// # Errors
/// `InvalidData` for a packet that is too long, empty or not a `T`; else the host's.
pub fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<T>> {
    let Some(packet) = receive_packet(socket.as_fd())? else { return Ok(None) };
    serde_json::from_slice(&packet)
        .map(Some)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn receive_packet(socket: BorrowedFd<'_>) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0u8; MAX_PACKET];
    loop {
        // SAFETY: `buffer` is valid for writes of its length. MSG_TRUNC makes the call return the
        // packet's true length, which tells a cut one.
        let length = unsafe {
            libc::recv(
                socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_TRUNC,
            )
        };
        match check(length) {
            Ok(0) if is_over(socket)? => return Ok(None),
            Ok(0) => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "empty control packet"));
            }
            Ok(length) if length > buffer.len() => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "control packet too long"));
            }
            Ok(length) => {
                buffer.truncate(length);
                return Ok(Some(buffer));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether the peer can say nothing more: an empty packet looks like the end.
fn is_over(socket: BorrowedFd<'_>) -> io::Result<bool> {
    const OVER: i16 = libc::POLLRDHUP | libc::POLLHUP;
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: OVER, revents: 0 };
    // SAFETY: `poll` is valid for the one entry.
    check(unsafe { libc::poll(&raw mut poll, 1, 0) } as isize)?;
    Ok(poll.revents & OVER != 0)
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::os::fd::{FromRawFd, OwnedFd};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        let mut fds = [0; 2];
        // SAFETY: `fds` has room for two descriptors.
        let result = unsafe {
            libc::socketpair(
                libc::AF_UNIX,
                libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC,
                0,
                fds.as_mut_ptr(),
            )
        };
        assert_eq!(result, 0);
        // SAFETY: fresh descriptors that nobody else owns.
        unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) }
    }

    #[test]
    fn messages_keep_their_borders_and_end_with_eof() {
        let (left, right) = pair();
        let size = WindowSize { rows: 24, cols: 80, xpixel: 0, ypixel: 0 };
        send(&left, &ToSentry::Signal(15)).unwrap();
        send(&left, &ToSentry::WindowSize(size)).unwrap();
        drop(left);
        assert_eq!(receive::<ToSentry>(&right).unwrap(), Some(ToSentry::Signal(15)));
        assert_eq!(receive::<ToSentry>(&right).unwrap(), Some(ToSentry::WindowSize(size)));
        assert_eq!(receive::<ToSentry>(&right).unwrap(), None);
    }

    #[test]
    fn garbage_and_oversized_packets_are_errors() {
        let (left, right) = pair();
        for bytes in [vec![b'{'; 10], vec![b'x'; MAX_PACKET + 1]] {
            // SAFETY: `bytes` is valid for reads of its length.
            let sent =
                unsafe { libc::send(left.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
            assert_eq!(sent, bytes.len() as isize);
            let error = receive::<FromSentry>(&right).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        let long = BootFailure { code: 125, message: "y".repeat(MAX_PACKET) };
        assert!(send(&left, &FromSentry::Failed(long)).is_err());
    }

    #[test]
    fn exit_codes_are_a_shells() {
        assert_eq!(ExitStatus::Code(7).shell_code(), 7);
        assert_eq!(ExitStatus::Signal(9).shell_code(), 137);
    }
}
