//! Guests that attack the sandbox: whatever they do, they get errors or die, and nobody else
//! notices. The programs are in `tests/attacks`, one module a class; each class is a test here.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rsentry_tests::{Sandboxes, finish, text};
use syscall_conformance::build;

/// The static guest program, built once.
fn guest() -> &'static Path {
    static GUEST: OnceLock<PathBuf> = OnceLock::new();
    GUEST.get_or_init(|| {
        build::static_guest("rsentry-tests", "attack-guest", false).expect("the guest builds")
    })
}

/// Things of the host that an attack must neither find nor change.
struct Witness {
    secret: PathBuf,
    work: PathBuf,
    before: Vec<PathBuf>,
    abstract_name: String,
    sockets: [UnixListener; 2],
}

impl Witness {
    const SECRET: &str = "what only the host knows";

    fn of(sandboxes: &Sandboxes) -> Witness {
        let work = sandboxes.work();
        let secret = work.parent().expect("a working directory has a parent").join("host-secret");
        std::fs::write(&secret, Witness::SECRET).expect("a file next to the working directory");
        // Also of users who need no privileges to read it.
        let everybody = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(&secret, everybody).expect("permissions");
        let name = secret.to_string_lossy().replace('/', "-");
        let address = SocketAddr::from_abstract_name(&name).expect("a name that fits");
        let sockets = [
            UnixListener::bind_addr(&address).expect("an abstract socket"),
            UnixListener::bind(work.join("host-socket")).expect("a socket"),
        ];
        for socket in &sockets {
            socket.set_nonblocking(true).expect("a socket");
        }
        let path = work.join("host-socket");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("modes");
        let before = listing(&work);
        Witness { secret, work, before, abstract_name: name, sockets }
    }

    /// What the guest is told about the host, to try it.
    fn hints(&self) -> [String; 3] {
        [
            format!("--env=HOST_FILE={}", self.secret.display()),
            format!("--env=HOST_SOCKET={}", self.abstract_name),
            format!("--env=HOST_PID={}", std::process::id()),
        ]
    }

    #[track_caller]
    fn check(&self) {
        let secret = std::fs::read_to_string(&self.secret);
        assert_eq!(secret.expect("the secret is there"), Witness::SECRET);
        assert_eq!(listing(&self.work), self.before, "the working directory has changed");
        for socket in &self.sockets {
            assert!(socket.accept().is_err(), "the guest has connected to the host");
        }
    }
}

/// The names in a directory, but for the log.
fn listing(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).expect("a directory").flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.path()).collect();
    names.retain(|name| !name.ends_with("log"));
    names.sort();
    names
}

/// Runs a class of attacks in a sandbox of its own.
#[track_caller]
fn attack(platform: &str, class: &str, start: fn(&Sandboxes, &[&str]) -> Command) {
    let sandboxes = Sandboxes::on(platform);
    let copied = Command::new("cp").arg(guest()).arg(sandboxes.work()).status();
    assert!(copied.expect("cp runs").success(), "copying the guest failed");
    let witness = Witness::of(&sandboxes);
    let hints = witness.hints();
    // Where an unprivileged caller can make it.
    let log = sandboxes.work().join("log");
    let to_log = format!("--log={}", log.display());
    // Those that eat memory get little to eat.
    let memory = if class == "hogs" { "--memory=64M" } else { "--memory=4G" };
    let [file, socket, pid] = &hints;
    let arguments =
        ["run", "--user=0:0", memory, &to_log, file, socket, pid, "--", "./attack-guest", class];
    let output = finish(start(&sandboxes, &arguments));
    let log = std::fs::read_to_string(log).unwrap_or_default();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    let status = output.status;
    let story = format!("{status}\n--- stdout\n{stdout}--- stderr\n{stderr}--- log\n{log}");
    // For whoever wants to see what was tried.
    println!("{stdout}");
    assert_eq!(status.code(), Some(0), "{story}");
    // On standard error, attackers may panic, too.
    assert!(!log.contains("panic"), "{story}");
    // A guest thread that its stub was killed for is the guest's doing; other errors are not.
    let mut errors = log.lines().filter(|line| line.contains("ERROR"));
    let odd = errors.find(|line| !line.contains("guest thread lost"));
    assert!(odd.is_none(), "{story}");
    sandboxes.assert_nothing_left();
    witness.check();
}

/// The same platform keeps guests of callers without privileges.
#[track_caller]
fn attack_unprivileged(platform: &str, class: &str) {
    // SAFETY: no arguments.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("not root: the other tests are as unprivileged");
        return;
    }
    attack(platform, class, Sandboxes::unprivileged);
}

/// Memory in every form, under a small limit: who takes too much is killed, nobody else is.
#[test]
fn hogs() {
    for platform in ["ptrace", "notify"] {
        attack(platform, "hogs", Sandboxes::command);
    }
}

macro_rules! classes {
    (on_stubs: $($stub:ident),*; by_calls: $($class:ident),* $(,)?) => {
        $(fn $stub(platform: &str) {
            attack(platform, stringify!($stub), Sandboxes::command);
        })*
        $(fn $class(platform: &str) {
            attack(platform, stringify!($class), Sandboxes::command);
        })*
        rsentry_tests::on_every_platform! { $($stub,)* $($class,)* }

        /// As callers without privileges: the stubs and filters are the same, so one class that
        /// attacks them is enough.
        mod unprivileged {
            fn calls(platform: &str) {
                super::attack_unprivileged(platform, "calls");
            }
            $(fn $class(platform: &str) {
                super::attack_unprivileged(platform, stringify!($class));
            })*
            rsentry_tests::on_every_platform! { calls, $($class,)* }
        }

        /// A class that nobody runs is no test.
        #[test]
        fn every_class_is_run() {
            let output = Command::new(guest()).arg("list").output().unwrap();
            let listed = text(&output.stdout);
            let here = [$(stringify!($stub),)* $(stringify!($class),)* "hogs"];
            assert_eq!(listed.lines().collect::<Vec<_>>(), here);
        }
    };
}

classes! {
    on_stubs: calls, cpu, doorbell, evade, exhaust, jump, patch, remap, scan, scribble;
    by_calls: bombs, objects, escape, escape_unprivileged, devices,
}
