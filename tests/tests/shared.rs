//! Mounts that the host changes while a guest uses them: what is done before the guest's call, the
//! guest sees.
//!
//! The host changes something, then asks the guest (`src/guest/names.rs`) what it finds, and compares
//! that with what it finds itself.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use rsentry_tests::{Sandboxes, UNPRIVILEGED, on_every_platform, wait};
use syscall_conformance::build;

/// As long as what was just found is believed where nothing tells of changes, and then some.
const FORGOTTEN: Duration = Duration::from_millis(5);

fn guest() -> &'static Path {
    static GUEST: OnceLock<PathBuf> = OnceLock::new();
    GUEST.get_or_init(|| {
        let release = !cfg!(debug_assertions);
        build::static_guest("rsentry-tests", "stress-guest", release).expect("the guest is built")
    })
}

/// xorshift64*
struct Random(u64);

impl Random {
    /// By `SEED` in the environment, which repeats a run.
    fn new() -> Random {
        let given = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
        let any = || std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 1);
        Random(given.unwrap_or_else(any) | 1)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

/// A guest that is asked about a folder which it has as `/shared`.
struct Guest {
    sandboxes: Sandboxes,
    folder: PathBuf,
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Guest {
    fn start(platform: &str, prepare: impl FnOnce(&mut Command)) -> Guest {
        let sandboxes = Sandboxes::on(platform);
        let folder = sandboxes.work().join("shared");
        fs::create_dir(&folder).unwrap();
        open_up(&folder);
        let copy = sandboxes.work().join("guest");
        fs::copy(guest(), &copy).unwrap();
        let (program, shared) =
            (format!("{}:/guest", copy.display()), format!("{}:/shared", folder.display()));
        // Where the test is; who it runs as may write there.
        let log = ["--log", "log"];
        let mounts = ["--ro", &program, "--rw", &shared];
        let guest = ["--", "/guest", "names"];
        let mut command = sandboxes.command(&[&["run"][..], &log, &mounts, &guest].concat());
        command.stdin(Stdio::piped()).stderr(Stdio::inherit());
        prepare(&mut command);
        let mut child = command.spawn().expect("rsentry starts");
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Guest { sandboxes, folder, child, to, from: BufReader::new(from) }
    }

    fn ask(&mut self, request: &str) -> Vec<i64> {
        writeln!(self.to, "{request}").unwrap();
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the guest is gone after {request:?}");
        line.split_whitespace().map(|word| word.parse().expect("a number")).collect()
    }

    /// Asks about paths, and compares.
    #[track_caller]
    fn compare(&mut self, paths: &[&str], what: &str) {
        let words: Vec<String> = paths.iter().map(|path| format!("/shared/{path}")).collect();
        let found = self.ask(&format!("look {}", words.join(" ")));
        let expected: Vec<i64> = paths.iter().map(|path| self.host(path)).collect();
        assert_eq!(found, expected, "{what}: {paths:?}");
    }

    fn host(&self, path: &str) -> i64 {
        match fs::symlink_metadata(self.path(path)) {
            Ok(found) => found.ino() as i64,
            Err(error) => -i64::from(error.raw_os_error().expect("an errno")),
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }

    /// Looks at names until it is worth watching them.
    fn warm(&mut self, paths: &[&str]) {
        for i in 0..300 {
            let other = format!("warm-{i}");
            self.compare(&[&other], "nothing there");
        }
        for _ in 0..5 {
            self.compare(paths, "at first");
        }
    }

    fn end(self) {
        let Guest { sandboxes, mut child, to, .. } = self;
        drop(to);
        assert!(wait(&mut child).success());
        sandboxes.assert_nothing_left();
    }
}

fn open_up(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
}

/// One change of the tree at random, by the host or by the guest: three directories with four names.
fn change(guest: &mut Guest, rng: &mut Random) -> String {
    let mut name = || format!("d{}/n{}", rng.below(3), rng.below(4));
    let (a, b) = (name(), name());
    let (host_a, host_b) = (guest.path(&a), guest.path(&b));
    let by_guest = rng.below(3) == 0;
    let what = rng.below(8);
    if by_guest {
        let request = match what {
            0 | 1 => format!("make /shared/{a}"),
            2 => format!("remove /shared/{a}"),
            3 => format!("mkdir /shared/{a}"),
            4 => format!("rmdir /shared/{a}"),
            _ => format!("move /shared/{a} /shared/{b}"),
        };
        guest.ask(&request);
        return format!("guest: {request}");
    }
    // What does not work at the time does nothing.
    let _ = match what {
        0 => fs::File::create(&host_a).map(drop),
        1 => fs::remove_file(&host_a),
        2 => fs::create_dir(&host_a),
        3 => fs::remove_dir(&host_a),
        4 => fs::rename(&host_a, &host_b),
        5 => fs::hard_link(&host_a, &host_b),
        6 => std::os::unix::fs::symlink("x", &host_a),
        // A directory goes, and another comes in its place; or it swaps places.
        _ => {
            let (dir, aside) = (host_a.parent().unwrap(), guest.path("aside"));
            fs::rename(dir, &aside).unwrap();
            match rng.below(2) {
                0 => fs::create_dir(dir).unwrap(),
                _ => {
                    let other = host_b.parent().unwrap();
                    if other != dir {
                        fs::rename(other, dir).unwrap();
                    }
                    if !other.exists() {
                        fs::create_dir(other).unwrap();
                    }
                }
            }
            fs::remove_dir_all(aside)
        }
    };
    format!("host: {what} {a} {b}")
}

fn every_complete_change_is_seen(platform: &str) {
    let mut guest = Guest::start(platform, |_| {});
    for dir in 0..3 {
        fs::create_dir(guest.path(&format!("d{dir}"))).unwrap();
    }
    guest.warm(&["d0/n0", "d1/n0", "d2/n0", "d0/n1"]);
    let mut rng = Random::new();
    let seed = rng.0;
    for round in 0..2000 {
        let done: Vec<String> = (0..rng.below(3)).map(|_| change(&mut guest, &mut rng)).collect();
        let paths: Vec<String> =
            (0..1 + rng.below(4)).map(|_| format!("d{}/n{}", rng.below(3), rng.below(4))).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        guest.compare(&paths, &format!("seed {seed}, round {round}, after {done:?}"));
    }
    guest.end();
}

/// A file that the host makes between a guest's look and its own try to make it is opened.
fn who_makes_a_file_first_does_not_matter(platform: &str) {
    let mut guest = Guest::start(platform, |_| {});
    let path = guest.path("f");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                drop(fs::File::create(&path));
            }
        });
        let answers: Vec<_> = (0..10).map(|_| guest.ask("create 300 /shared/f")).collect();
        over.store(true, Ordering::Relaxed);
        assert_eq!(answers, vec![vec![0]; 10]);
    });
    guest.end();
}

/// More changes than the host's kernel remembers, while nobody looks.
fn a_flood_of_changes_loses_none(platform: &str) {
    let queue = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let queue: usize = queue.trim().parse().unwrap();
    if queue > 100_000 {
        return eprintln!("skipped: a queue of {queue} events is too long to fill");
    }
    let mut guest = Guest::start(platform, |_| {});
    fs::create_dir(guest.path("d")).unwrap();
    guest.warm(&["d/missing", "d/last", "other"]);
    for i in 0..=queue {
        let name = guest.path(&format!("d/{}", i % 5));
        fs::write(&name, "").unwrap();
        fs::remove_file(&name).unwrap();
    }
    fs::write(guest.path("d/last"), "").unwrap();
    fs::write(guest.path("other"), "").unwrap();
    guest.compare(&["d/missing", "d/last", "other"], "after the flood");
    fs::write(guest.path("d/missing"), "").unwrap();
    guest.compare(&["d/missing", "d/last", "other"], "and on");
    guest.end();
}

/// A mode that is changed holds at once, too.
fn a_closed_directory_is_closed_at_once(platform: &str) {
    use std::os::unix::fs::PermissionsExt;
    let root = is_root();
    let mut guest = Guest::start(platform, |command| {
        if root {
            command.uid(UNPRIVILEGED).gid(UNPRIVILEGED);
        }
    });
    let d = guest.path("d");
    fs::create_dir(&d).unwrap();
    if root {
        std::os::unix::fs::chown(&d, Some(UNPRIVILEGED), Some(UNPRIVILEGED)).unwrap();
    }
    guest.warm(&["d/missing"]);
    for _ in 0..50 {
        for (mode, expected) in [(0o600, libc::EACCES), (0o700, libc::ENOENT)] {
            fs::set_permissions(&d, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(guest.ask("look /shared/d/missing"), [-i64::from(expected)]);
        }
    }
    guest.end();
}

fn is_root() -> bool {
    // SAFETY: no arguments.
    unsafe { libc::geteuid() == 0 }
}

/// A user whom nobody else is, neither this test on another platform nor in another run: what a user may
/// have is counted, and one test's hoard must not end while another needs it.
fn hoarder() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    1_000_000 + std::process::id() * 4 + NEXT.fetch_add(1, Ordering::Relaxed)
}

/// As a user who has all inotify instances that the host lets one have: names are asked for, and that
/// is all.
fn without_watches_names_are_asked_for(platform: &str) {
    if !is_root() {
        return eprintln!("skipped: only root can be another user");
    }
    let most = fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").unwrap();
    let most: usize = most.trim().parse().unwrap();
    if most > 900 {
        return eprintln!("skipped: {most} instances are more than a process has descriptors");
    }
    let user = hoarder();
    let mut hoarder = Command::new("sleep");
    hoarder.arg("1000").uid(user).gid(user);
    // SAFETY: one call, which is async-signal-safe.
    unsafe {
        hoarder.pre_exec(|| {
            while libc::inotify_init() >= 0 {}
            Ok(())
        });
    }
    let mut hoarder = hoarder.spawn().unwrap();
    let mut guest = Guest::start(platform, |command| {
        command.uid(user).gid(user);
    });
    let d = guest.path("d");
    fs::create_dir(&d).unwrap();
    open_up(&d);
    guest.warm(&["d/a"]);
    for _ in 0..20 {
        fs::write(guest.path("d/a"), "").unwrap();
        std::thread::sleep(FORGOTTEN);
        guest.compare(&["d/a"], "made");
        fs::remove_file(guest.path("d/a")).unwrap();
        std::thread::sleep(FORGOTTEN);
        guest.compare(&["d/a"], "removed");
    }
    hoarder.kill().unwrap();
    hoarder.wait().unwrap();
    let log = fs::read_to_string(guest.sandboxes.work().join("log")).unwrap();
    assert!(log.contains("not watched"), "{log}");
    guest.end();
}

on_every_platform!(
    every_complete_change_is_seen,
    who_makes_a_file_first_does_not_matter,
    a_flood_of_changes_loses_none,
    a_closed_directory_is_closed_at_once,
    without_watches_names_are_asked_for,
);
