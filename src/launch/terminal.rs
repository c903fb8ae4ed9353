//! The caller's terminal.
//!
//! If standard input and output are the same terminal, the guest gets a pty of the Sentry's, and
//! the caller's terminal is put into raw mode: line editing, echo and the keys that send signals
//! are the guest's line discipline's then. In a pipeline (`rsentry run ls | less`) the terminal
//! belongs to the others as well, so it is left as it is, and the guest gets it as it is.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::stat::fstat;
use nix::sys::termios::{self, SetArg, Termios};
use nix::unistd;
use sentry::boot::spec::{TerminalSpec, WindowSize};

/// The caller's terminal, if the guest is to get one.
pub(super) struct Terminal {
    input: io::Stdin,
    /// The mode to go back to, while the terminal is raw.
    saved: Option<Termios>,
}

impl Terminal {
    /// The terminal that is both standard input and output, if there is one.
    pub(super) fn find() -> Option<Terminal> {
        let input = io::stdin();
        (input.is_terminal() && same_device(input.as_fd(), io::stdout().as_fd()))
            .then_some(Terminal { input, saved: None })
    }

    /// For the Sentry.
    pub(super) fn spec(&self) -> TerminalSpec {
        TerminalSpec {
            size: self.size(),
            stderr: same_device(self.input.as_fd(), io::stderr().as_fd()),
            foreground: self.foreground(),
        }
    }

    /// The window size; zeroes if the terminal does not know.
    pub(super) fn size(&self) -> WindowSize {
        let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCGWINSZ writes a `struct winsize`. On failure it stays as it is.
        unsafe { libc::ioctl(self.input.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
        WindowSize {
            rows: size.ws_row,
            cols: size.ws_col,
            xpixel: size.ws_xpixel,
            ypixel: size.ws_ypixel,
        }
    }

    /// Whether the launcher belongs to the terminal's foreground job.
    pub(super) fn foreground(&self) -> bool {
        unistd::tcgetpgrp(self.input.as_fd()).is_ok_and(|group| group == unistd::getpgrp())
    }

    /// Raw mode, if the launcher is in the foreground: a background job leaves the terminal alone.
    /// That it cannot be had is no reason not to run: input is line-buffered then.
    pub(super) fn make_raw(&mut self) {
        if self.saved.is_some() || !self.foreground() {
            return;
        }
        let Ok(before) = termios::tcgetattr(self.input.as_fd()) else { return };
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        if termios::tcsetattr(self.input.as_fd(), SetArg::TCSADRAIN, &raw).is_ok() {
            self.saved = Some(before);
        }
    }

    /// Back to the mode before.
    pub(super) fn restore(&mut self) {
        if let Some(before) = self.saved.take() {
            // The terminal may have hung up meanwhile.
            let _ = termios::tcsetattr(self.input.as_fd(), SetArg::TCSADRAIN, &before);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.restore();
    }
}

fn same_device(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    other.is_terminal()
        && matches!((fstat(one), fstat(other)), (Ok(one), Ok(other)) if one.st_rdev == other.st_rdev)
}
