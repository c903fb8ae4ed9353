//! What a caller asks for, before anything is checked.

use std::ffi::OsString;
use std::path::PathBuf;

use sentry::boot::spec::{ClockChoice, LogFormat, PlatformChoice, StraceFilter};
use serde::{Deserialize, Serialize};

use crate::audit::Audit;
use crate::builder::Builder;
use crate::capabilities::Capabilities;
use crate::cgroup::Cgroup;
use crate::error::Error;
use crate::limits::Limits;
use crate::profile::Profile;
use crate::report::Report;

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
    /// What the first program may do that not every one may.
    pub capabilities: Capabilities,
    /// The host name inside.
    pub hostname: Option<OsString>,
    /// A seccomp profile: what docker and OCI runtimes take.
    pub seccomp: Option<PathBuf>,
    /// An AppArmor profile of the host's for the gofer, the Sentry and all that it makes.
    pub apparmor: Option<String>,
    /// Likewise an SELinux label.
    pub selinux_label: Option<String>,
    /// What it may use.
    pub limits: Limits,
    /// What the host's control groups see to.
    pub cgroup: Cgroup,
    /// How guest code is run.
    pub platform: PlatformChoice,
    /// How exactly the program can tell the time; the profile's choice if not given.
    pub clock: Option<ClockChoice>,
    /// Which system calls to print.
    pub strace: Option<StraceFilter>,
    /// Where log and strace lines go, instead of to standard error.
    pub log: Option<PathBuf>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// What is recorded about it, and what is done about alerts.
    pub audit: Audit,
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

    /// Describes one step by step, beginning with the program and its arguments.
    pub fn builder<T: Into<OsString>>(command: impl IntoIterator<Item = T>) -> Builder {
        Sandbox::new(command).into()
    }

    /// Runs the program to its end, with the caller's standard descriptors: [`Builder::run`].
    ///
    /// # Errors
    /// As there.
    pub fn run(&self) -> Result<Report, Error> {
        Builder::from(self.clone()).run()
    }
}
