//! End-to-end tests: real programs, escapes, limits.
//!
//! The harness: [`Sandboxes`] is one test's own name for the `rsentry` binary, by which whatever
//! it leaves behind can be told from other tests' processes.

mod host;
mod inside;
mod lag;
mod terminal;

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub use host::{Mounts, Process};
pub use inside::{Dead, Inside};
pub use lag::Lag;
pub use syscall_conformance::on_every_platform;
pub use terminal::Terminal;

/// How long anything may take before a test gives up. Generous: machines are shared, and who has to
/// wait longer than this is never going to be served.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// How long a test sleeps between two looks.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// The user that unprivileged runs use.
pub const UNPRIVILEGED: u32 = 1000;

/// The `rsentry` binary of this build, built first if need be. `RSENTRY` in the environment names
/// another, for example a stand-in that runs its arguments natively, to test the tests.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(other) = std::env::var_os("RSENTRY") {
            return other.into();
        }
        build("rsentry", &[])
    })
}

/// `rsentry` with the back door of `src/launch/hook.rs`, built first if need be.
pub fn compromised_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| build("rsentry-compromised", &["--features", "compromised"]))
}

/// Builds a binary of the root package, in the profile of this test.
fn build(name: &str, options: &[&str]) -> PathBuf {
    // A test's executable is in target/PROFILE/deps.
    let me = std::env::current_exe().expect("a test has a path");
    let profile = me.ancestors().nth(2).expect("a test lies in target/PROFILE/deps");
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    build.args(["build", "--quiet", "--package", "rsentry", "--bin", name]).args(options);
    if profile.ends_with("release") {
        build.arg("--release");
    }
    build.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    assert!(build.status().expect("cargo runs").success(), "building {name} failed");
    profile.join(name)
}

/// One test's sandboxes: a name of its own for the binary, and a working directory.
#[derive(Debug)]
pub struct Sandboxes {
    directory: tempfile::TempDir,
    name: String,
    /// What `run` is told about the platform.
    platform: Vec<String>,
    mounts: Mounts,
}

impl Default for Sandboxes {
    fn default() -> Sandboxes {
        Sandboxes::new()
    }
}

impl Sandboxes {
    /// As [`Sandboxes::new`], of sandboxes on this platform.
    pub fn on(platform: &str) -> Sandboxes {
        let platform = vec!["--platform".into(), platform.into()];
        Sandboxes { platform, ..Sandboxes::new() }
    }

    /// As [`Sandboxes::on`], with the back door of [`compromised_binary`].
    pub fn compromised(platform: &str) -> Sandboxes {
        let platform = vec!["--platform".into(), platform.into()];
        Sandboxes { platform, ..Sandboxes::of(compromised_binary()) }
    }

    /// A fresh name and working directory. Everybody may read both, for unprivileged runs.
    /// The sandboxes choose their platform themselves.
    pub fn new() -> Sandboxes {
        Sandboxes::of(binary())
    }

    fn of(binary: &Path) -> Sandboxes {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        // A process's name has at most 15 bytes.
        let name = format!("rs{:x}-{next:x}", std::process::id());
        let directory = tempfile::tempdir().expect("a temporary directory");
        open_up(directory.path(), 0o755);
        let binary_copy = directory.path().join(&name);
        // A copy, because the build directory may be closed to unprivileged users. By another
        // process, because a descriptor that is open for writing here may be inherited by what
        // another test thread starts just now, and would make starting the copy fail (ETXTBSY).
        let copied = Command::new("cp").arg(binary).arg(&binary_copy).status();
        assert!(copied.expect("cp runs").success(), "copying rsentry failed");
        open_up(&binary_copy, 0o755);
        std::fs::create_dir(directory.path().join("work")).expect("a working directory");
        open_up(&directory.path().join("work"), 0o777);
        Sandboxes { directory, name, platform: Vec::new(), mounts: Mounts::now() }
    }

    /// Where the sandboxes are started.
    pub fn work(&self) -> PathBuf {
        self.directory.path().join("work")
    }

    /// `rsentry` with these arguments: no input, output captured, in [`Sandboxes::work`].
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.directory.path().join(&self.name));
        match arguments {
            ["run", rest @ ..] => command.arg("run").args(&self.platform).args(rest),
            _ => command.args(arguments),
        };
        command.current_dir(self.work());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// The same as a line for a shell, for arguments that no shell would touch.
    pub fn line(&self, arguments: &[&str]) -> String {
        let command = self.command(arguments);
        let words = [command.get_program()].into_iter().chain(command.get_args());
        words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    /// The same, as a user without privileges. Only root can ask for that.
    pub fn unprivileged(&self, arguments: &[&str]) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = self.command(arguments);
        command.uid(UNPRIVILEGED).gid(UNPRIVILEGED).env("HOME", "/home/nobody-special");
        command
    }

    /// Both kinds of caller, as far as this test can be them.
    pub fn callers(&self, arguments: &[&str]) -> Vec<(&'static str, Command)> {
        let mut all = vec![("the caller", self.command(arguments))];
        // SAFETY: no arguments.
        if unsafe { libc::geteuid() } == 0 {
            all.push(("an unprivileged user", self.unprivileged(arguments)));
        }
        all
    }

    /// Runs to the end and checks that nothing is left.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let output = finish(self.command(arguments));
        self.assert_nothing_left();
        output
    }

    /// Processes of these sandboxes.
    pub fn processes(&self) -> Vec<Process> {
        Process::all().into_iter().filter(|process| process.name == self.name).collect()
    }

    /// Waits until no process is left, then checks that no mount and no file is, either.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        eventually("all processes are gone", || self.processes().is_empty());
        self.mounts.assert_none_added();
    }
}

fn open_up(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    let permissions = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, permissions).expect("changing permissions");
}

/// Runs a command to its end, [`PATIENCE`] long at most.
#[track_caller]
pub fn finish(mut command: Command) -> Output {
    let mut child = command.spawn().expect("rsentry starts");
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let stdout = std::thread::spawn(move || drain(stdout));
    let stderr = std::thread::spawn(move || drain(stderr));
    let status = wait(&mut child);
    let collect = |thread: std::thread::JoinHandle<Vec<u8>>| thread.join().expect("a reader");
    Output { status, stdout: collect(stdout), stderr: collect(stderr) }
}

fn drain(from: Option<impl std::io::Read>) -> Vec<u8> {
    let mut all = Vec::new();
    if let Some(mut from) = from {
        // What has been read before an error still tells something.
        let _ = from.read_to_end(&mut all);
    }
    all
}

/// Waits for a child, [`PATIENCE`] long at most; kills it then.
#[track_caller]
pub fn wait(child: &mut Child) -> ExitStatus {
    // Not by looking every now and then: threads that wake up often make a host that shares processors
    // out among sessions (autogroups) keep the sandbox waiting.
    if !ends_within(child, PATIENCE) {
        child.kill().expect("killing works");
        child.wait().expect("waiting works");
        panic!("gave up on process {} after {PATIENCE:?}", child.id());
    }
    child.wait().expect("waiting works")
}

fn ends_within(child: &Child, time: Duration) -> bool {
    // SAFETY: plain numbers; the child is not reaped yet, and the descriptor is nobody else's.
    let fd = unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, child.id(), 0);
        assert!(fd >= 0, "pidfd_open: {}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd as i32)
    };
    let start = Instant::now();
    let mut ready = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    loop {
        let left = time.saturating_sub(start.elapsed()).as_millis();
        // SAFETY: one valid entry.
        match unsafe { libc::poll(&raw mut ready, 1, i32::try_from(left).unwrap_or(i32::MAX)) } {
            0 => return false,
            1 => return true,
            _ => {}
        }
    }
}

/// Waits until `condition` holds, [`PATIENCE`] long at most.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        // Soon at first, and seldom in the end.
        let pause = (start.elapsed() / 8).clamp(Duration::from_millis(1), LONGEST_PAUSE);
        std::thread::sleep(pause);
    }
}

/// What was printed, as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
