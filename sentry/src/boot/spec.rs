//! What the launcher asks the Sentry to run: [`BootSpec`], and the fds that go with it,
//! [`BootFds`].
//!
//! Plain data, checked by the launcher before any process is made. Byte strings (`Vec<u8>`) are
//! what the guest sees: they hold no NUL, but need not be UTF-8. Serializable, so that a launcher
//! in another process can send it.

use std::os::fd::OwnedFd;

use platform::load::HostLoad;
use serde::{Deserialize, Serialize};

use crate::kernel::seccomp::bpf::Insn;
use crate::kernel::{Caps, Credentials};

/// One sandbox with one first program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootSpec {
    /// The first program's arguments; never empty. `argv[0]` is looked up as `execvp` does: as it
    /// is when it holds a slash, else in the `PATH` of [`BootSpec::env`], inside the sandbox.
    pub argv: Vec<Vec<u8>>,
    /// The whole environment, as `NAME=value`.
    pub env: Vec<Vec<u8>>,
    /// The working directory, an absolute guest path. That it is missing is a boot error.
    pub cwd: Vec<u8>,
    /// Real, effective, saved and file-system user id.
    pub uid: u32,
    /// Likewise the group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Its capabilities.
    pub capabilities: CapabilitySpec,
    /// The UTS node name; at most 64 bytes.
    pub hostname: Vec<u8>,
    /// The root is the host's system directories without what says who the host is: `/etc/hosts` is to
    /// be made for [`BootSpec::hostname`].
    pub make_hosts: bool,
    /// Mounts in the order in which they are made. The first one is `/`. A mount point that is
    /// missing is created, with its parents (mode 0755, root's), in the file system it lies in.
    pub mounts: Vec<MountSpec>,
    /// Resource limits that differ from the Sentry's defaults.
    pub rlimits: Vec<RlimitSpec>,
    /// What filters the guest's system calls, if anything.
    pub seccomp: Option<SeccompSpec>,
    /// How guest code is run.
    pub platform: PlatformChoice,
    /// How exactly it can tell the time.
    pub clock: ClockChoice,
    /// The Sentry is in a time namespace that began with the sandbox.
    pub own_clocks: bool,
    /// How many areas the host lets a process have (`vm.max_map_count`).
    pub host_areas: u64,
    /// Which calls to print, if any.
    pub strace: Option<StraceFilter>,
    /// How log and strace lines look.
    pub log_format: LogFormat,
    /// Set if the guest gets a terminal of the Sentry's own.
    pub terminal: Option<TerminalSpec>,
    /// What the sandbox as a whole may use.
    pub limits: Limits,
}

/// The five sets of capabilities of the first program: bit N for capability number N.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // The names are capabilities(7)'s.
pub struct CapabilitySpec {
    pub bounding: u64,
    pub permitted: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

impl BootSpec {
    /// Who the first program is.
    pub(crate) fn credentials(&self) -> Credentials {
        let set = Caps::from_bits_truncate;
        let CapabilitySpec { bounding, permitted, effective, inheritable, ambient } =
            self.capabilities;
        Credentials {
            permitted: set(permitted),
            effective: set(effective),
            inheritable: set(inheritable),
            ambient: set(ambient),
            ..Credentials::new(self.uid, self.gid, &self.groups, set(bounding))
        }
    }
}

/// What the sandbox as a whole may use, as far as the Sentry keeps it. What is not given is bounded
/// by the kernel's own constants alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Most bytes that guest memory, files in memory included, may take.
    pub memory: u64,
    /// Processor time, in thousandths of one processor.
    pub cpus: Option<u64>,
    /// Tasks: processes and threads.
    pub pids: Option<u64>,
    /// Descriptors of a process. The sandbox as a whole may have [`Limits::FILES_FACTOR`] times as
    /// many open files.
    pub files: Option<u64>,
    /// Processor time in all, in nanoseconds, after which the sandbox ends.
    pub cpu_time: Option<u64>,
    /// Bytes that may be written to the caller's standard descriptors together; more end the
    /// sandbox.
    pub output: Option<u64>,
    /// Bytes in all file systems in memory together.
    pub tmp_size: Option<u64>,
}

impl Limits {
    /// See [`Limits::files`].
    pub const FILES_FACTOR: u64 = 8;
}

/// A filter before all system calls of the first program, and of all that it starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompSpec {
    /// The program. The Sentry checks it as it does the guest's own.
    pub program: Vec<Insn>,
    /// `SECCOMP_FILTER_FLAG_LOG`
    pub log: bool,
}

/// A mount of the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// Absolute, normalized guest path (no `.`, `..`, doubled or trailing slashes).
    pub dst: Vec<u8>,
    /// What is mounted there.
    pub kind: MountKind,
}

/// The file systems that a sandbox can start with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// An export of the gofer.
    Gofer {
        /// Index into the gofer's list of exports.
        export: u32,
        /// Put an overlay with an in-memory upper layer on it: writable, never written through.
        overlay: bool,
        /// The guest gets EROFS for writes. The gofer refuses them on its own account, too.
        readonly: bool,
        /// The export is one file and not a directory.
        file: bool,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Permission bits of its root directory, e.g. 0o1777.
        mode: u32,
    },
    /// procfs.
    Proc,
    /// devtmpfs, with devpts at `pts` and a tmpfs at `shm`.
    Dev,
    /// sysfs.
    Sys,
}

/// One resource limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RlimitSpec {
    /// `RLIMIT_*`.
    pub resource: u32,
    /// Soft limit; `u64::MAX` is `RLIM_INFINITY`.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// How exactly guests can tell the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClockChoice {
    /// As exactly as the host.
    #[default]
    Precise,
    /// In steps of a millisecond, at moments that cannot be foretold; without the vDSO and the
    /// time-stamp counter.
    Coarse,
}

impl ClockChoice {
    /// All of them, by the names that the command line has for them.
    pub const NAMES: [(&'static str, ClockChoice); 2] =
        [("precise", ClockChoice::Precise), ("coarse", ClockChoice::Coarse)];
}

impl From<ClockChoice> for platform::Clocks {
    fn from(choice: ClockChoice) -> platform::Clocks {
        match choice {
            ClockChoice::Precise => platform::Clocks::Native,
            ClockChoice::Coarse => platform::Clocks::Trapped,
        }
    }
}

/// How guest code is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlatformChoice {
    /// The best one that works on this host.
    #[default]
    Auto,
    /// PTRACE_SYSEMU.
    Ptrace,
    /// Seccomp user notification.
    Notify,
    /// The same, without changing the guest's code.
    #[serde(rename = "notify-unpatched")]
    NotifyUnpatched,
}

impl PlatformChoice {
    /// All of them, by the names that the command line has for them.
    pub const NAMES: [(&'static str, PlatformChoice); 4] = [
        ("auto", PlatformChoice::Auto),
        ("ptrace", PlatformChoice::Ptrace),
        ("notify", PlatformChoice::Notify),
        ("notify-unpatched", PlatformChoice::NotifyUnpatched),
    ];
}

impl From<PlatformChoice> for platform::Choice {
    fn from(choice: PlatformChoice) -> platform::Choice {
        match choice {
            PlatformChoice::Auto => platform::Choice::Auto,
            PlatformChoice::Ptrace => platform::Choice::Ptrace,
            PlatformChoice::Notify => platform::Choice::Notify { patching: true },
            PlatformChoice::NotifyUnpatched => platform::Choice::Notify { patching: false },
        }
    }
}

/// Which system calls `--strace` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StraceFilter {
    /// All of them.
    All,
    /// These, by Linux's names. The launcher does not check the names: the Sentry has the table.
    Only(Vec<String>),
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The guest gets a terminal: a pty of the Sentry's, which is the first program's controlling
/// terminal. The launcher has put the caller's terminal into raw mode; the Sentry copies bytes
/// between it ([`BootFds::stdin`], [`BootFds::stdout`]) and the pty's master side.
/// The guest's fds 0 and 1 are always the pty then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSpec {
    /// The window size to start with.
    pub size: WindowSize,
    /// The guest's fd 2 is the pty, too. Otherwise it is [`BootFds::stderr`] passed through.
    pub stderr: bool,
    /// Whether the launcher is the foreground job: the Sentry may read from the caller's terminal.
    /// While it is not (`rsentry run ... &`), reading would steal the shell's input. Changes come
    /// as [`super::control::ToSentry::Resume`].
    pub foreground: bool,
}

/// `struct winsize`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct WindowSize {
    pub rows: u16,
    pub cols: u16,
    pub xpixel: u16,
    pub ypixel: u16,
}

/// The host fds that the Sentry is born with; it opens no others after it sealed itself.
#[derive(Debug)]
pub struct BootFds {
    /// The caller's standard input. Perhaps shared with other processes of the caller: its file
    /// status flags (`O_NONBLOCK`) must stay as they are.
    pub stdin: OwnedFd,
    /// The caller's standard output; see [`BootFds::stdin`].
    pub stdout: OwnedFd,
    /// The caller's standard error; see [`BootFds::stdin`].
    pub stderr: OwnedFd,
    /// Channel to the launcher, see [`super::control`].
    pub control: OwnedFd,
    /// Connected to the gofer, which serves the exports that [`MountKind::Gofer`] names.
    pub gofer: OwnedFd,
    /// Where strace and log lines go: the `--log` file or a copy of the caller's stderr. Written
    /// to with `O_APPEND` or as whole lines, one `write` each.
    pub log: OwnedFd,
    /// Where audit records go, see [`crate::audit`]; none are made without.
    pub audit: Option<OwnedFd>,
    /// Tells whether the host has CPUs to spare.
    pub load: Option<HostLoad>,
}
