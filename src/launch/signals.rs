//! Signals that the launcher gets, as a descriptor to poll.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::error::Error;

/// Signals that are for the program inside.
const FORWARDED: &[Signal] = &[
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGTERM,
];

/// What the launcher does about a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Pass it on to the program.
    Forward(i32),
    /// The terminal's size has changed.
    Resize,
    /// Stop, the sandbox first.
    Stop,
    /// Go on after a stop.
    Continue,
}

/// The blocked signals. Dropping it restores the mask that was in force before.
pub(super) struct Signals {
    fd: SignalFd,
    before: SigSet,
}

impl Signals {
    /// Blocks the signals that the launcher handles and starts to collect them. Done before the
    /// first process is made, so that none is missed.
    pub(super) fn block() -> Result<Signals, Error> {
        let mut set = SigSet::empty();
        for &signal in FORWARDED {
            set.add(signal);
        }
        for signal in [Signal::SIGWINCH, Signal::SIGTSTP, Signal::SIGCONT, Signal::SIGTTOU] {
            set.add(signal);
        }
        let failed = |what: &str, error: nix::Error| Error::host(what.to_owned(), error);
        let before = SigSet::thread_get_mask().map_err(|e| failed("reading the signal mask", e))?;
        set.thread_block().map_err(|e| failed("blocking signals", e))?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(|e| failed("signalfd", e))?;
        Ok(Signals { fd, before })
    }

    /// The next thing to do, if a signal is pending.
    pub(super) fn next(&mut self) -> Result<Option<Action>, Error> {
        loop {
            let info =
                self.fd.read_signal().map_err(|error| Error::host("reading signals", error))?;
            let Some(info) = info else { return Ok(None) };
            match Signal::try_from(info.ssi_signo as i32) {
                Ok(Signal::SIGWINCH) => return Ok(Some(Action::Resize)),
                Ok(Signal::SIGTSTP) => return Ok(Some(Action::Stop)),
                Ok(Signal::SIGCONT) => return Ok(Some(Action::Continue)),
                // Blocked so that setting the terminal never stops the launcher half-way.
                Ok(Signal::SIGTTOU) | Err(_) => {}
                Ok(signal) => return Ok(Some(Action::Forward(signal as i32))),
            }
        }
    }

    /// The descriptor to poll for reading.
    pub(super) fn fd(&self) -> &SignalFd {
        &self.fd
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // An error would mean an invalid set.
        let _ = self.before.thread_set_mask();
    }
}
