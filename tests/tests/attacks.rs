//! Guests that attack the sandbox: whatever they do, they get errors or die, and nobody else
//! notices. The programs are in `tests/attacks`, one module a class; each class is a test here.

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

/// Runs a class of attacks in a sandbox of its own.
#[track_caller]
fn attack(platform: &str, class: &str, start: fn(&Sandboxes, &[&str]) -> Command) {
    let sandboxes = Sandboxes::on(platform);
    let copied = Command::new("cp").arg(guest()).arg(sandboxes.work()).status();
    assert!(copied.expect("cp runs").success(), "copying the guest failed");
    // Where an unprivileged caller can make it.
    let log = sandboxes.work().join("log");
    let to_log = format!("--log={}", log.display());
    let arguments = ["run", "--user=0:0", &to_log, "--", "./attack-guest", class];
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
}

/// The same platform keeps guests of users without privileges.
fn calls_unprivileged(platform: &str) {
    // SAFETY: no arguments.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("not root: the other tests are as unprivileged");
        return;
    }
    attack(platform, "calls", Sandboxes::unprivileged);
}

macro_rules! classes {
    ($($class:ident),* $(,)?) => {
        $(fn $class(platform: &str) {
            attack(platform, stringify!($class), Sandboxes::command);
        })*
        rsentry_tests::on_every_platform! { $($class,)* calls_unprivileged }

        /// A class that nobody runs is no test.
        #[test]
        fn every_class_is_run() {
            let output = Command::new(guest()).arg("list").output().unwrap();
            let listed = text(&output.stdout);
            assert_eq!(listed.lines().collect::<Vec<_>>(), [$(stringify!($class)),*]);
        }
    };
}

classes! { calls, cpu, doorbell, evade, exhaust, jump, patch, remap, scan, scribble }
