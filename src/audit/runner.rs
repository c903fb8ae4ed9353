//! `--on-alert=exec:CMD`: a process of the launcher's that runs the command, once for each alert,
//! one at a time.
//!
//! It is forked before the sandbox is made, and before the launcher confines itself: it keeps the
//! caller's rights, without a filter, since commands may do anything. It has nothing but a socket on which
//! alerts come. What does not fit into the socket's buffer is not run. A command that takes too long is
//! killed, with its process group. If the launcher dies, so do the command at hand and the process.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, recv, send, shutdown, socketpair,
};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{ForkResult, fork};

use crate::error::Error;

/// How long a command may take.
const COMMAND: Duration = Duration::from_secs(30);
/// How long all that wait may take when the sandbox has ended.
const LAST: Duration = Duration::from_secs(10);
/// Longest alert, in bytes.
const MAX_ALERT: usize = 16 * 1024;

/// The process that runs commands.
#[derive(Debug)]
pub(super) struct Runner {
    command: OsString,
    process: Option<Process>,
}

/// Dropping it ends it.
#[derive(Debug)]
struct Process {
    pidfd: OwnedFd,
    socket: OwnedFd,
}

impl Drop for Process {
    fn drop(&mut self) {
        // Errors mean that it has been waited for.
        let _ = kill(self.pidfd.as_fd());
        let _ = waitid(Id::PIDFd(self.pidfd.as_fd()), WaitPidFlag::WEXITED);
    }
}

impl Runner {
    pub(super) fn new(command: OsString) -> Runner {
        Runner { command, process: None }
    }

    /// Makes the process.
    ///
    /// # Safety
    /// The calling process must be single-threaded.
    pub(super) unsafe fn start(&mut self) -> Result<(), Error> {
        let kind = SockType::SeqPacket;
        let (ours, theirs) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|error| Error::host("socketpair", error))?;
        // SAFETY: single-threaded, so the child may do what it likes.
        match unsafe { fork() }.map_err(|error| Error::host("fork", error))? {
            ForkResult::Parent { child } => {
                // It is there until it is waited for, so this is its own.
                let pidfd = pidfd(child.as_raw().unsigned_abs())
                    .map_err(|error| Error::host("pidfd_open", error))?;
                self.process = Some(Process { pidfd, socket: ours });
                Ok(())
            }
            ForkResult::Child => {
                let code = serve(&theirs, &self.command).map_or(1, |()| 0);
                // SAFETY: no destructors of the launcher's objects must run here.
                unsafe { libc::_exit(code) }
            }
        }
    }

    /// Hands an alert over. Returns whether there was room.
    pub(super) fn send(&mut self, line: &[u8]) -> bool {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let process = self.process.as_ref();
        process.is_some_and(|process| send(process.socket.as_raw_fd(), line, flags).is_ok())
    }

    /// Lets it come to its end, within bounds.
    pub(super) fn finish(self) {
        let Some(process) = self.process else { return };
        // No more alerts. Errors mean that it has ended already.
        let _ = shutdown(process.socket.as_raw_fd(), Shutdown::Write);
        let longest = LAST + Duration::from_secs(1);
        if !is_up(process.pidfd.as_fd(), PollFlags::POLLIN, longest) {
            tracing::warn!("the process that runs alert commands does not end, and is killed");
        }
    }
}

/// SIGKILL.
fn kill(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed.
    let result = unsafe {
        let (call, fd) = (libc::SYS_pidfd_send_signal, pidfd.as_raw_fd());
        libc::syscall(call, fd, libc::SIGKILL, info, 0)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Waits until these events, an error or a hang-up are there. Returns whether they are.
fn is_up(fd: BorrowedFd<'_>, events: PollFlags, longest: Duration) -> bool {
    let timeout = u16::try_from(longest.as_millis()).unwrap_or(u16::MAX);
    let mut fds = [PollFd::new(fd, events)];
    loop {
        match poll(&mut fds, timeout) {
            Err(nix::Error::EINTR) => {}
            other => return other.is_ok_and(|count| count > 0),
        }
    }
}

/// The launcher has said its last, whether or not there is something left to read.
fn hung_up() -> PollFlags {
    PollFlags::from_bits_retain(libc::POLLRDHUP)
}

/// Whether the launcher is gone, and has not just said its last.
fn is_orphan(socket: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::empty())];
    let polled = poll(&mut fds, PollTimeout::ZERO).is_ok();
    polled && fds.iter().any(|fd| fd.revents().is_some_and(|it| it.contains(PollFlags::POLLHUP)))
}

/// The process: runs the command for each alert, until there are no more.
fn serve(socket: &OwnedFd, command: &OsStr) -> io::Result<()> {
    const SOCKET: i32 = 3;
    // SAFETY: this process is a fork that runs nothing but this function: nobody else uses
    // descriptors, and what they belonged to is never dropped.
    let socket = unsafe {
        if libc::dup2(socket.as_raw_fd(), SOCKET) < 0
            || libc::fcntl(SOCKET, libc::F_SETFD, libc::FD_CLOEXEC) < 0
            || libc::close_range(SOCKET as u32 + 1, u32::MAX, 0) < 0
        {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(SOCKET)
    };
    let mut buffer = vec![0; MAX_ALERT];
    // Set when the sandbox has ended.
    let mut end = None;
    loop {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                let line = buffer.get(..length).unwrap_or_default();
                if let Err(error) = run(command, line, &socket, &mut end) {
                    tracing::warn!(%error, "an alert's command could not be run");
                }
            }
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            return Ok(());
        }
    }
}

/// Runs the command to its end, or to the end of what time it has.
fn run(
    command: &OsStr,
    line: &[u8],
    socket: &OwnedFd,
    end: &mut Option<Instant>,
) -> io::Result<()> {
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command).stdin(Stdio::piped()).process_group(0);
    // Not between what the program prints.
    shell.stdout(io::stderr().as_fd().try_clone_to_owned()?);
    // SAFETY: changing the signal mask is async-signal-safe. The launcher has blocked what it
    // handles.
    unsafe {
        shell.pre_exec(|| SigSet::empty().thread_set_mask().map_err(io::Error::from));
    }
    let mut child = shell.spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // An empty pipe has room for an alert. A command that does not read it is its own affair.
        let _ = input.write_all(line);
    }
    let pidfd = pidfd(child.id())?;
    let mut deadline = Instant::now() + COMMAND;
    loop {
        if end.is_none() && is_up(socket.as_fd(), hung_up(), Duration::ZERO) {
            *end = Some(Instant::now() + LAST);
        }
        deadline = end.map_or(deadline, |end| deadline.min(end));
        let left = deadline.saturating_duration_since(Instant::now());
        let orphan = is_orphan(socket.as_fd());
        if orphan || left.is_zero() {
            if orphan {
                *end = Some(Instant::now());
            } else {
                tracing::warn!("an alert's command took too long, and was killed");
            }
            // SAFETY: takes numbers only; the child is its group's leader and not reaped yet.
            unsafe { libc::killpg(child.id() as i32, libc::SIGKILL) };
            break;
        }
        let mut fds = vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        // Once it has said its last, only its death is news.
        let news = if end.is_none() { hung_up() } else { PollFlags::empty() };
        fds.push(PollFd::new(socket.as_fd(), news));
        let timeout = u16::try_from(left.as_millis() + 1).unwrap_or(u16::MAX);
        // An error is an interruption.
        let ready = poll(&mut fds, timeout).is_ok_and(|count| count > 0);
        if ready && fds.first().and_then(PollFd::any) == Some(true) {
            break;
        }
    }
    child.wait().map(drop)
}

fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
