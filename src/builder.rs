//! [`Builder`]: describes a sandbox step by step, and where its standard descriptors lead.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sentry::boot::spec::{ClockChoice, PlatformChoice};

use crate::audit::Audit;
use crate::error::Error;
use crate::limits::Limits;
use crate::profile::Profile;
use crate::report::Report;
use crate::sandbox::{Bind, Sandbox, User};
use crate::{helper, launch};

/// Where the program reads from.
#[derive(Debug, Default)]
pub enum Input {
    /// The caller's standard input.
    #[default]
    Inherit,
    /// Nothing.
    Null,
    /// These bytes, through a pipe.
    Bytes(Vec<u8>),
    /// An open file.
    File(File),
}

/// Where the program's output goes.
#[derive(Debug, Default)]
pub enum Output {
    /// The caller's own.
    #[default]
    Inherit,
    /// Nowhere.
    Null,
    /// Into [`Report::stdout`] or [`Report::stderr`], through a pipe. Of what exceeds
    /// [`Output::MOST`], the rest is lost; set [`Builder::output_limit`].
    Capture,
    /// An open file.
    File(File),
}

impl Output {
    /// Most bytes that are captured of one descriptor.
    pub const MOST: u64 = 64 << 20;
}

/// Describes a sandbox step by step. Made by [`Sandbox::builder`]; the defaults are those of
/// `rsentry run`, and the methods are its options.
///
/// ```no_run
/// use std::time::Duration;
/// use rsentry::{Input, Output, Profile, Sandbox};
///
/// // First thing in main, if sandboxes are to be run by threads, or with other descriptors.
/// rsentry::init();
/// let report = Sandbox::builder(["python3", "-c", "print(sum(map(int, input().split())))"])
///     .profile(Profile::Strict)
///     .memory(256 << 20)
///     .wall(Duration::from_secs(2))
///     .stdin(Input::Bytes(b"1 2 3\n".to_vec()))
///     .stdout(Output::Capture)
///     .run()?;
/// assert_eq!(report.stdout, b"6\n");
/// # Ok::<(), rsentry::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Builder {
    sandbox: Sandbox,
    stdin: Input,
    stdout: Output,
    stderr: Output,
    helper: Option<PathBuf>,
    confine: bool,
}

impl From<Sandbox> for Builder {
    fn from(sandbox: Sandbox) -> Builder {
        Builder { sandbox, ..Builder::default() }
    }
}

impl Builder {
    /// Uses a directory as the root, instead of the host's system directories.
    pub fn root(mut self, directory: impl Into<PathBuf>) -> Builder {
        self.sandbox.root = Some(directory.into());
        self
    }

    /// Shows a host file or directory at `destination`, read-only.
    pub fn read_only(self, source: impl Into<PathBuf>, destination: impl Into<PathBuf>) -> Builder {
        self.bind(source.into(), destination.into(), false)
    }

    /// Shows a host file or directory at `destination`; writes reach the host.
    pub fn read_write(
        self,
        source: impl Into<PathBuf>,
        destination: impl Into<PathBuf>,
    ) -> Builder {
        self.bind(source.into(), destination.into(), true)
    }

    fn bind(mut self, source: PathBuf, destination: PathBuf, writable: bool) -> Builder {
        self.sandbox.binds.push(Bind { source, destination: Some(destination), writable });
        self
    }

    /// Mounts an empty file system in memory.
    pub fn tmpfs(mut self, destination: impl Into<PathBuf>) -> Builder {
        self.sandbox.tmpfs.push(destination.into());
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Builder {
        self.sandbox.env.push((name.into(), Some(value.into())));
        self
    }

    /// Passes the caller's environment variable on.
    pub fn pass_env(mut self, name: impl Into<OsString>) -> Builder {
        self.sandbox.env.push((name.into(), None));
        self
    }

    /// The working directory inside.
    pub fn workdir(mut self, directory: impl Into<PathBuf>) -> Builder {
        self.sandbox.workdir = Some(directory.into());
        self
    }

    /// User and group inside.
    pub fn user(mut self, uid: u32, gid: u32) -> Builder {
        self.sandbox.user = Some(User { uid, gid });
        self
    }

    /// Gives the program a capability of the sandbox, or `ALL`: [`Capabilities`].
    ///
    /// [`Capabilities`]: crate::Capabilities
    pub fn cap_add(mut self, name: impl Into<String>) -> Builder {
        self.sandbox.capabilities.add.push(name.into());
        self
    }

    /// Takes one away for good, or `ALL`.
    pub fn cap_drop(mut self, name: impl Into<String>) -> Builder {
        self.sandbox.capabilities.drop.push(name.into());
        self
    }

    /// The host name inside.
    pub fn hostname(mut self, name: impl Into<OsString>) -> Builder {
        self.sandbox.hostname = Some(name.into());
        self
    }

    /// What is recorded about it, and what is done about alerts. Of [`SinkChoice::Descriptor`], the
    /// number is the helper's, if one runs the sandbox.
    ///
    /// [`SinkChoice::Descriptor`]: crate::SinkChoice::Descriptor
    pub fn audit(mut self, audit: Audit) -> Builder {
        self.sandbox.audit = audit;
        self
    }

    /// How exactly the program can tell the time.
    pub fn clock(mut self, clock: ClockChoice) -> Builder {
        self.sandbox.clock = Some(clock);
        self
    }

    /// An AppArmor profile of the host's for the sandbox's processes.
    pub fn apparmor(mut self, profile: impl Into<String>) -> Builder {
        self.sandbox.apparmor = Some(profile.into());
        self
    }

    /// An SELinux label for the sandbox's processes.
    pub fn selinux_label(mut self, label: impl Into<String>) -> Builder {
        self.sandbox.selinux_label = Some(label.into());
        self
    }

    /// How guest code is run.
    pub fn platform(mut self, platform: PlatformChoice) -> Builder {
        self.sandbox.platform = platform;
        self
    }

    /// What is preset for all that is not said otherwise.
    pub fn profile(mut self, profile: Profile) -> Builder {
        self.sandbox.profile = Some(profile);
        self
    }

    /// All limits at once; what is `None` keeps its value.
    pub fn limits(mut self, limits: Limits) -> Builder {
        self.sandbox.limits = limits.or(self.sandbox.limits);
        self
    }

    /// [`Limits::memory`], in bytes.
    pub fn memory(self, bytes: u64) -> Builder {
        self.limits(Limits { memory: Some(bytes), ..Limits::default() })
    }

    /// [`Limits::cpus`], in processors: 0.5 is half of one. Kept in thousandths.
    pub fn cpus(self, cpus: f64) -> Builder {
        // Out of range saturates; what makes no sense is nothing, which is refused.
        self.limits(Limits { cpus: Some((cpus * 1000.0).round() as u64), ..Limits::default() })
    }

    /// [`Limits::pids`].
    pub fn pids(self, count: u64) -> Builder {
        self.limits(Limits { pids: Some(count), ..Limits::default() })
    }

    /// [`Limits::files`].
    pub fn files(self, count: u64) -> Builder {
        self.limits(Limits { files: Some(count), ..Limits::default() })
    }

    /// [`Limits::wall`].
    pub fn wall(self, time: Duration) -> Builder {
        self.limits(Limits { wall: Some(time), ..Limits::default() })
    }

    /// [`Limits::cpu_time`].
    pub fn cpu_time(self, time: Duration) -> Builder {
        self.limits(Limits { cpu_time: Some(time), ..Limits::default() })
    }

    /// [`Limits::output`], in bytes.
    pub fn output_limit(self, bytes: u64) -> Builder {
        self.limits(Limits { output: Some(bytes), ..Limits::default() })
    }

    /// [`Limits::tmp_size`], in bytes.
    pub fn tmp_size(self, bytes: u64) -> Builder {
        self.limits(Limits { tmp_size: Some(bytes), ..Limits::default() })
    }

    /// Where log lines go, instead of to the caller's standard error.
    pub fn log(mut self, path: impl Into<PathBuf>) -> Builder {
        self.sandbox.log = Some(path.into());
        self
    }

    /// Where the program reads from.
    pub fn stdin(mut self, input: Input) -> Builder {
        self.stdin = input;
        self
    }

    /// Where its output goes.
    pub fn stdout(mut self, output: Output) -> Builder {
        self.stdout = output;
        self
    }

    /// Where its errors go, and the sandbox's log lines if [`Builder::log`] does not say otherwise.
    pub fn stderr(mut self, output: Output) -> Builder {
        self.stderr = output;
        self
    }

    /// The `rsentry` command, or another program that calls [`crate::init`], to start helper
    /// processes from; this program itself if not given.
    pub fn helper(mut self, program: impl AsRef<Path>) -> Builder {
        self.helper = Some(program.as_ref().to_owned());
        self
    }

    /// Lets the calling process confine itself, for good, once the sandbox runs, if it makes the sandbox
    /// itself: a seccomp filter that allows what is needed to the sandbox's end, then to write to what
    /// is open and to exit; no capabilities. What a call that is not on the list brings is death:
    /// see `rsentry features --json` (`launcher`). For programs that do nothing else, as the `rsentry`
    /// command. Helper processes do so in any case.
    pub fn confine(mut self) -> Builder {
        self.confine = true;
        self
    }

    /// The description so far.
    pub fn build(self) -> Sandbox {
        self.sandbox
    }

    /// Runs the program to its end. Blocks until then; any number of threads may do so at once.
    ///
    /// The processes of a sandbox are forks of the one that makes it, which therefore must have
    /// one thread. A caller that has, and whose own standard descriptors the program gets, makes
    /// it itself (and passes the signals that it gets to the program meanwhile). For any other, a
    /// helper process does: a fresh copy of this program, where [`crate::init`] takes over, or what
    /// [`Builder::helper`] names. If the caller dies, so does the sandbox.
    ///
    /// # Errors
    /// When something asked for is wrong or cannot be had, the program could not be started, or a
    /// process of the sandbox died. Nothing is left behind then. That the program failed or a limit
    /// ended it is no error: see [`Report::ended_by`].
    pub fn run(self) -> Result<Report, Error> {
        let Builder { sandbox, stdin, stdout, stderr, helper, confine } = self;
        let own = matches!(
            (&stdin, &stdout, &stderr),
            (Input::Inherit, Output::Inherit, Output::Inherit)
        );
        if own && helper.is_none() && launch::is_single_threaded()? {
            return launch::sandbox(&sandbox, None, confine);
        }
        helper::run(&sandbox, helper.as_deref(), stdin, [stdout, stderr])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_add_up() {
        let sandbox = Sandbox::builder(["true"])
            .limits(Limits { pids: Some(3), memory: Some(1), ..Limits::default() })
            .memory(64 << 20)
            .cpus(0.25)
            .read_only("/a", "/b")
            .user(1, 2)
            .build();
        assert_eq!(sandbox.command, ["true"]);
        assert_eq!(sandbox.limits.memory, Some(64 << 20));
        assert_eq!(sandbox.limits.pids, Some(3));
        assert_eq!(sandbox.limits.cpus, Some(250));
        assert!(!sandbox.binds[0].writable);
        for nonsense in [f64::NAN, -1.0] {
            let sandbox = Sandbox::builder(["true"]).cpus(nonsense).build();
            assert!(sandbox.limits.check().is_err());
        }
    }

    #[test]
    fn a_process_with_threads_is_told_what_it_needs() {
        // The test runner has threads, and no `init`.
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || stopped.recv());
        let error = Sandbox::builder(["true"]).run().unwrap_err().to_string();
        assert!(error.contains("rsentry::init") && error.contains("Builder::helper"), "{error}");
        drop(stop);
        assert!(thread.join().unwrap().is_err());
    }
}
