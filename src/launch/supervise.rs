//! The launcher's life while a sandbox runs: it passes signals and window sizes in, and watches
//! that all its processes live, or none.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use lockdown::{Child, Exit};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, raise};
use sentry::boot::control::{self, BootFailure, ExitStatus, FromSentry, ToSentry};

use super::signals::{Action, Signals};
use super::terminal::Terminal;
use crate::error::Error;

/// How long a process that has to end may take for it, in milliseconds.
const EXIT_TIME: i32 = 1000;
/// How long a Sentry may take to stop its tasks before the launcher stops regardless, in
/// milliseconds.
const SUSPEND_TIME: u16 = 1000;

/// A running sandbox. Dropping it ends it: both processes are killed and reaped.
pub(super) struct Supervisor {
    pub(super) sentry: Child,
    pub(super) gofer: Child,
    pub(super) control: OwnedFd,
    pub(super) signals: Signals,
    pub(super) terminal: Option<Terminal>,
}

/// Which descriptors have something to say.
struct Ready {
    signals: bool,
    control: bool,
    sentry: bool,
    gofer: bool,
}

impl Supervisor {
    /// Waits for the end of the first program.
    pub(super) fn run(&mut self) -> Result<ExitStatus, Error> {
        let mut suspending = false;
        loop {
            let timeout = if suspending { SUSPEND_TIME.into() } else { PollTimeout::NONE };
            let ready = self.wait(timeout)?;
            // What the Sentry has said counts before what has become of the processes.
            if ready.control {
                match self.message()? {
                    Some(FromSentry::Exited(status)) => {
                        if self.gofer.ends_within(0) {
                            return self.gofer_first().map_or(Ok(status), Err);
                        }
                        return self.killed_by_its_filter().map_or(Ok(status), Err);
                    }
                    Some(FromSentry::Failed(failure)) => {
                        // Without its gofer a Sentry fails for odd reasons.
                        drop(self.sentry.kill());
                        let gofer = self.gofer.ends_within(EXIT_TIME);
                        let reason = gofer.then(|| self.gofer_first()).flatten();
                        return Err(reason.unwrap_or_else(|| trustworthy(failure).into()));
                    }
                    Some(FromSentry::Suspended | FromSentry::Stopped) => {
                        suspending = false;
                        self.stop()?;
                    }
                    Some(FromSentry::Started) => {}
                    None => return Err(end(&self.sentry)),
                }
            } else if ready.sentry {
                return Err(end(&self.sentry));
            } else if ready.gofer {
                return Err(end(&self.gofer));
            } else if suspending && !ready.signals {
                suspending = false;
                self.stop()?;
            }
            if ready.signals {
                suspending |= self.handle_signals()?;
            }
        }
    }

    /// The gofer's own failure, now that it has ended: if it did not just follow the Sentry.
    fn gofer_first(&self) -> Option<Error> {
        match self.gofer.wait() {
            Ok(Exit::Code(0)) => None,
            exit => Some(died(&self.gofer, exit)),
        }
    }

    /// Ends both, and says if one was on its way out already because of a host call that it made:
    /// the other's end of a socket closes before its process is gone.
    fn killed_by_its_filter(&self) -> Option<Error> {
        let mut reason = None;
        for child in [&self.gofer, &self.sentry] {
            drop(child.kill());
            let exit = child.wait();
            if matches!(exit, Ok(Exit::Signal(libc::SIGSYS))) {
                reason = Some(died(child, exit));
            }
        }
        reason
    }

    fn wait(&self, timeout: PollTimeout) -> Result<Ready, Error> {
        let mut fds = [
            PollFd::new(self.signals.fd().as_fd(), PollFlags::POLLIN),
            PollFd::new(self.control.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.sentry.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.gofer.as_fd(), PollFlags::POLLIN),
        ];
        loop {
            match poll(&mut fds, timeout) {
                Ok(_) => break,
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(Error::host("poll", error)),
            }
        }
        let [signals, control, sentry, gofer] = fds.map(|fd| fd.any() == Some(true));
        Ok(Ready { signals, control, sentry, gofer })
    }

    fn message(&self) -> Result<Option<FromSentry>, Error> {
        match control::receive(&self.control) {
            Ok(message) => Ok(message),
            // A reset means that it died with our messages unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(Error::host("the sentry sent nonsense", error)),
        }
    }

    /// Acts on all pending signals. Returns whether the Sentry was asked to suspend the tasks.
    fn handle_signals(&mut self) -> Result<bool, Error> {
        let mut suspending = false;
        while let Some(action) = self.signals.next()? {
            match action {
                Action::Forward(signo) => self.tell(&ToSentry::Signal(signo)),
                Action::Resize => {
                    if let Some(terminal) = &self.terminal {
                        self.tell(&ToSentry::WindowSize(terminal.size()));
                    }
                }
                Action::Stop => {
                    self.tell(&ToSentry::Suspend);
                    suspending = true;
                }
                Action::Continue => {
                    if let Some(terminal) = &mut self.terminal {
                        terminal.make_raw();
                        // The window may have changed its size meanwhile.
                        let size = terminal.size();
                        self.tell(&ToSentry::WindowSize(size));
                    }
                    let foreground = self.terminal.as_ref().is_none_or(Terminal::foreground);
                    self.tell(&ToSentry::Resume { foreground });
                }
            }
        }
        Ok(suspending)
    }

    /// Stops the launcher itself, so that the caller's shell takes over, until SIGCONT.
    fn stop(&mut self) -> Result<(), Error> {
        if let Some(terminal) = &mut self.terminal {
            terminal.restore();
        }
        raise(Signal::SIGSTOP).map_err(|error| Error::host("stopping", error))
    }

    /// Sends a message. If the Sentry is gone the poll loop will notice.
    fn tell(&self, message: &ToSentry) {
        drop(control::send(&self.control, message));
    }
}

/// A taken-over Sentry must not make a failure look like success, or like the program's own exit.
fn trustworthy(failure: BootFailure) -> BootFailure {
    let code = if matches!(failure.code, 126 | 127) { failure.code } else { Error::OWN_FAILURE };
    BootFailure { code, ..failure }
}

/// Waits for a process that is gone, or on its way out (its end of the channel closes first), and
/// says why.
fn end(child: &Child) -> Error {
    if !child.ends_within(EXIT_TIME) {
        drop(child.kill());
    }
    died(child, child.wait())
}

/// Why a process is gone that should not be.
fn died(child: &Child, exit: std::io::Result<Exit>) -> Error {
    if let Some(reason) = child.failure() {
        return Error::Died(format!("{}: {reason}", child.name()));
    }
    let how = match exit {
        Ok(Exit::Code(code)) => format!("exited unexpectedly with code {code}"),
        Ok(Exit::Signal(libc::SIGSYS)) => {
            "was killed: it made a host call that is not on its seccomp allow-list".to_owned()
        }
        Ok(Exit::Signal(signo)) => format!("was killed by signal {signo}"),
        Err(error) => format!("cannot be waited for: {error}"),
    };
    Error::Died(format!("the {} {how}", child.name()))
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        for child in [&self.sentry, &self.gofer] {
            // Errors mean that it is gone and reaped.
            drop(child.kill());
            drop(child.wait());
        }
    }
}
