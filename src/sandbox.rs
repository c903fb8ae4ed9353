//! What a caller asks for, before anything is checked.

use std::ffi::OsString;
use std::path::PathBuf;

use sentry::boot::spec::{LogFormat, PlatformChoice, StraceFilter};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::limits::Limits;
use crate::profile::Profile;
use crate::report::Report;
use crate::{launch, plan};

/// One program in a sandbox of its own. The fields are the options of `rsentry run`, with the same
/// names and defaults.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sandbox {
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// What is preset; [`Profile::Standard`] if not given.
    pub profile: Option<Profile>,
    /// A directory to use as the root instead of the host's system directories.
    pub root: Option<PathBuf>,
    /// Host files and directories to show.
    pub binds: Vec<Bind>,
    /// Where to mount empty file systems in memory.
    pub tmpfs: Vec<PathBuf>,
    /// Additions to the environment: a name alone takes the caller's value.
    pub env: Vec<(OsString, Option<OsString>)>,
    /// The working directory inside.
    pub workdir: Option<PathBuf>,
    /// The user inside; the caller's if not given.
    pub user: Option<User>,
    /// The host name inside.
    pub hostname: Option<OsString>,
    /// What it may use.
    pub limits: Limits,
    /// How guest code is run.
    pub platform: PlatformChoice,
    /// Which system calls to print.
    pub strace: Option<StraceFilter>,
    /// Where log and strace lines go, instead of to standard error.
    pub log: Option<PathBuf>,
    /// How log lines look.
    pub log_format: LogFormat,
}

/// A host file or directory that is shown inside as it is, without the overlay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// On the host.
    pub source: PathBuf,
    /// Inside; the same path if not given.
    pub destination: Option<PathBuf>,
    /// Whether the guest's writes reach the host.
    pub writable: bool,
}

/// A user inside, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Sandbox {
    /// A sandbox with the defaults, for this program and its arguments.
    pub fn new<T: Into<OsString>>(command: impl IntoIterator<Item = T>) -> Sandbox {
        Sandbox { command: command.into_iter().map(Into::into).collect(), ..Sandbox::default() }
    }

    /// Runs the program to its end. Standard input, output and error are the caller's.
    ///
    /// Must be called from a single-threaded process.
    ///
    /// # Errors
    /// When the process has more than one thread, the sandbox could not be made, the program not be
    /// started, or a process of the sandbox died. Nothing is left behind then.
    pub fn run(&self) -> Result<Report, Error> {
        launch::run(plan::make(self)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_refused() {
        // The test runner has threads.
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || stopped.recv());
        let error = Sandbox::new(["true"]).run().unwrap_err();
        assert!(error.to_string().contains("one thread"), "{error}");
        drop(stop);
        assert!(thread.join().unwrap().is_err());
    }
}
