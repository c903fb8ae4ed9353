//! Why a sandbox did not run.

use std::io;

use sentry::boot::BootFailure;

/// A failure of rsentry, or to start the first program.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something in what the caller asked for: the option's name, and what is wrong with it.
    #[error("{option}: {problem}")]
    Option {
        /// As the user wrote it: `--ro`.
        option: &'static str,
        /// What is wrong, naming the value.
        problem: String,
    },
    /// The command line as a whole.
    #[error("{0}")]
    Usage(String),
    /// A host call of the launcher failed.
    #[error("{what}: {source}")]
    Host {
        /// What was tried.
        what: String,
        /// The host's answer.
        source: io::Error,
    },
    /// A layer of the jails could not be had.
    #[error(transparent)]
    Lockdown(#[from] lockdown::Error),
    /// The Sentry could not start the program.
    #[error(transparent)]
    Boot(#[from] BootFailure),
    /// What a helper process says.
    #[error("{0}")]
    Helper(String),
    /// A process of the sandbox ended before its time.
    #[error("{0}")]
    Died(String),
    /// A process of the sandbox did what it never does of itself: it was taken over, or has a bug.
    #[error("{0}")]
    Violation(String),
}

impl Error {
    /// The exit code for a failure of rsentry itself.
    pub const OWN_FAILURE: u8 = 125;

    /// What `rsentry run` exits with: 126 and 127 as shells do for a program that cannot be
    /// executed or is not there, [`Error::OWN_FAILURE`] for all else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Boot(failure) => failure.code,
            _ => Self::OWN_FAILURE,
        }
    }

    /// The text without control characters: it may hold what the guest or a file name supplied.
    pub fn one_line(&self) -> String {
        self.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }

    pub(crate) fn option(option: &'static str, problem: impl Into<String>) -> Error {
        Error::Option { option, problem: problem.into() }
    }

    pub(crate) fn host(what: impl Into<String>, source: impl Into<io::Error>) -> Error {
        Error::Host { what: what.into(), source: source.into() }
    }
}
