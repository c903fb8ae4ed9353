//! Makes a process in its jail, and keeps hold of it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Context, Error, Layer};
use crate::jail::{Jail, Sealer};
use crate::sys::{self, Cloned};
use crate::{descriptors, process};

/// Exit code of a jailed process that could not be set up or panicked.
const FAILED: i32 = 125;
/// Longest report of a failed set-up, in bytes.
const MAX_REPORT: usize = 2048;

/// Forks a process into `jail`. There it has copies of `keep` as its descriptors 0, 1, 2, ... and
/// no others, and runs `body`, whose result is its exit code.
///
/// Returns as soon as the process exists, is in its cgroup and has its id maps; it applies the other layers on its
/// own. If it fails to, it ends, and [`Child::failure`] says why.
///
/// # Errors
/// When the process or its id maps could not be made. Nothing is left behind then.
///
/// # Safety
/// The calling process must be single-threaded, and stay so until this returns: the child goes on
/// to allocate and to take locks.
pub unsafe fn spawn(
    jail: &Jail,
    keep: &[BorrowedFd<'_>],
    body: impl FnOnce(Sealer) -> u8,
) -> Result<Child, Error> {
    let launcher = sys::pidfd_of_self().context(Layer::Process, "pidfd_open")?;
    let (ours, theirs) = socket_pair().context(Layer::Descriptors, "socketpair")?;
    // SAFETY: single-threaded, by this function's own contract.
    let cloned = unsafe { sys::clone_process(jail.namespaces.flags()) }
        .context(Layer::Namespaces, format!("creating the {}'s process", jail.name))?;
    match cloned {
        Cloned::Child => {
            let mut keep: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).collect();
            keep.extend([theirs.as_raw_fd(), launcher.as_raw_fd()]);
            // The child must not run destructors of the launcher's objects, nor unwind into its
            // frames.
            let code = catch_unwind(AssertUnwindSafe(|| child(jail, &keep, body)));
            sys::exit_now(code.map_or(FAILED, i32::from))
        }
        Cloned::Parent { pid, pidfd } => {
            let child = Child { name: jail.name, pid, pidfd, report: ours };
            let placed = jail.cgroup.as_ref().map_or(Ok(()), |cgroup| cgroup.enter(pid));
            let go = placed.and_then(|()| jail.identity.write_maps(pid)).and_then(|()| {
                send(child.report.as_fd(), b"go").context(Layer::Process, "starting the process")
            });
            match go {
                Ok(()) => Ok(child),
                Err(error) => {
                    // It waits for the word to go on; without, it ends by itself.
                    drop(child.kill());
                    drop(child.wait());
                    Err(error)
                }
            }
        }
    }
}

/// The child's side of [`spawn`]: `keep` ends with the report socket and the launcher's pidfd.
fn child(jail: &Jail, keep: &[RawFd], body: impl FnOnce(Sealer) -> u8) -> u8 {
    let places = keep.len() as RawFd;
    if let Err(error) = descriptors::keep_only(keep) {
        // The socket may or may not be in its place: better silent than to the wrong receiver.
        drop(error);
        return FAILED as u8;
    }
    // SAFETY: `keep_only` has just put these two there, for us to own.
    let (report, launcher) =
        unsafe { (OwnedFd::from_raw_fd(places - 2), OwnedFd::from_raw_fd(places - 1)) };
    // No word, no process: the launcher is gone or could not write the maps.
    if !matches!(receive(report.as_fd(), 0), Ok(Some(_))) {
        return FAILED as u8;
    }
    process::wipe_environment();
    if let Err(error) = jail.enter(launcher.as_fd()) {
        let text = error.to_string();
        let text = text.as_bytes();
        drop(send(report.as_fd(), text.get(..MAX_REPORT).unwrap_or(text)));
        return FAILED as u8;
    }
    drop((report, launcher));
    body(Sealer(()))
}

/// A process in its jail. Dropping the handle does not end the process.
#[derive(Debug)]
pub struct Child {
    name: &'static str,
    pid: libc::pid_t,
    pidfd: OwnedFd,
    report: OwnedFd,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// It was killed by this signal.
    Signal(i32),
}

impl Child {
    /// The jail's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The host's process id, as the launcher sees it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// SIGKILL. If it is pid 1 of a pid namespace, all processes in that die, too.
    ///
    /// # Errors
    /// `ESRCH` if it has ended.
    pub fn kill(&self) -> io::Result<()> {
        sys::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL)
    }

    /// Whether the process has ended within `milliseconds`. Does not reap it.
    pub fn ends_within(&self, milliseconds: i32) -> bool {
        let mut poll =
            libc::pollfd { fd: self.pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd.
        unsafe { libc::poll(&raw mut poll, 1, milliseconds) == 1 }
    }

    /// Waits for the end of the process, and reaps it. For pid 1 of a pid namespace that is after
    /// the last process in it has gone.
    ///
    /// # Errors
    /// `ECHILD` when it has been reaped before.
    pub fn wait(&self) -> io::Result<Exit> {
        // SAFETY: an all-zero siginfo is a valid value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        loop {
            // SAFETY: `info` is valid for writes.
            let result = unsafe {
                let id = self.pidfd.as_raw_fd() as libc::id_t;
                libc::waitid(libc::P_PIDFD, id, &raw mut info, libc::WEXITED)
            };
            match sys::check(result.into()) {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // SAFETY: waitid filled in a SIGCHLD siginfo.
        let status = unsafe { info.si_status() };
        Ok(if info.si_code == libc::CLD_EXITED { Exit::Code(status) } else { Exit::Signal(status) })
    }

    /// Why the process could not set up its jail, if that is why it ended. Never blocks.
    pub fn failure(&self) -> Option<String> {
        let text = receive(self.report.as_fd(), libc::MSG_DONTWAIT).ok().flatten()?;
        Some(String::from_utf8_lossy(&text).replace(['\n', '\r'], " "))
    }
}

impl AsFd for Child {
    /// The pidfd: polls readable when the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: `fds` has room for two descriptors.
    sys::check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) }.into())?;
    // SAFETY: the kernel has just made them for us.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: `bytes` is valid for reads of its length.
    let sent = unsafe {
        libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL)
    };
    sys::check(sent as libc::c_long).map(drop)
}

/// One packet, or `None` at the end of file.
fn receive(socket: BorrowedFd<'_>, flags: i32) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0; MAX_REPORT];
    loop {
        // SAFETY: `buffer` is valid for writes of its length.
        let got = unsafe {
            libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), flags)
        };
        match sys::check(got as libc::c_long) {
            Ok(0) => return Ok(None),
            Ok(got) => {
                buffer.truncate(got as usize);
                return Ok(Some(buffer));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
