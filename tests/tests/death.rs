//! Sandboxes leave nothing behind, however they end: no process, mount, file or cgroup.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rsentry_tests::{Lag, Process, Sandboxes, UNPRIVILEGED, eventually, text, wait};

/// A guest that makes processes all the time.
const BUSY: [&str; 4] = ["run", "sh", "-c", "while :; do /bin/true; done"];

/// Repeatable "random" numbers (an LCG with Knuth's constants). The seed is printed.
struct Chance(u64);

impl Chance {
    fn new() -> Chance {
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(4711);
        eprintln!("SEED={seed}");
        Chance(seed)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// The control groups there are that these launchers have made: others have theirs meanwhile.
fn cgroups(launchers: &BTreeSet<u32>) -> Vec<PathBuf> {
    fn below(path: &Path, all: &mut Vec<PathBuf>) {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            below(&entry.path(), all);
            all.push(entry.path());
        }
    }
    let mut all = Vec::new();
    below(Path::new("/sys/fs/cgroup"), &mut all);
    all.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let mut words = name.strip_prefix("rsentry-").unwrap_or_default().split('-');
        words.any(|word| word.parse().is_ok_and(|pid| launchers.contains(&pid)))
    });
    all
}

fn two_hundred_one_after_another(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let mut launchers = BTreeSet::new();
    for round in 0..200 {
        let mut child = sandboxes.command(&["run", "sh", "-c", "exit 7"]).spawn().unwrap();
        launchers.insert(child.id());
        let status = wait(&mut child);
        let said = || text(&child.wait_with_output().unwrap().stderr);
        assert_eq!(status.code(), Some(7), "round {round}: {}", said());
    }
    sandboxes.assert_nothing_left();
    assert_eq!(cgroups(&launchers), Vec::<PathBuf>::new());
}

fn twenty_at_once(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let start = |_| sandboxes.command(&["run", "sh", "-c", "sleep 1; exit 9"]).spawn().unwrap();
    let mut all: Vec<Child> = (0..20).map(start).collect();
    for child in &mut all {
        assert_eq!(wait(child).code(), Some(9));
    }
    sandboxes.assert_nothing_left();
}

/// SIGKILL to one of the three at a random moment, as many times as asked for.
fn kill_at_random(platform: &str, command: impl Fn(&Sandboxes) -> Command, times: u32) {
    let mut chance = Chance::new();
    for round in 0..times {
        let sandboxes = Sandboxes::on(platform);
        let (start, lag) = (Instant::now(), Lag::watch());
        let mut launcher = command(&sandboxes).spawn().unwrap();
        // Most of a start takes a few milliseconds: those are the interesting ones.
        std::thread::sleep(Duration::from_micros(chance.below(60_000)));
        let children = Process::children(launcher.id());
        let victim = match chance.below(3) as usize {
            0 => launcher.id(),
            at => children.get(at - 1).map_or(launcher.id(), |child| child.pid),
        };
        // SAFETY: plain numbers. The victim is the launcher, which is not reaped yet, or a child
        // that the launcher has not given up, or has just: its number is not reused so fast.
        unsafe { libc::kill(victim as i32, libc::SIGKILL) };
        let status = wait(&mut launcher);
        let what = format!("round {round}: victim {victim} of {} and {children:?}", launcher.id());
        if victim == launcher.id() {
            assert_eq!(status.code(), None, "{what}");
        } else {
            assert_eq!(status.code(), Some(125), "{what}");
        }
        sandboxes.assert_nothing_left();
        let (took, lag) = (start.elapsed(), lag.total());
        assert!(took < Duration::from_secs(20) + lag, "{what}: {took:?} ({lag:?} late)");
    }
}

fn killed_at_random_moments(platform: &str) {
    kill_at_random(platform, |sandboxes| sandboxes.command(&BUSY), 70);
}

fn killed_at_random_moments_unprivileged(platform: &str) {
    // SAFETY: no arguments.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("not root: cannot become user {UNPRIVILEGED}");
        return;
    }
    kill_at_random(platform, |sandboxes| sandboxes.unprivileged(&BUSY), 30);
}

fn a_terminated_launcher_terminates_the_program(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let script = "trap 'exit 33' TERM; echo ready; while :; do sleep 0.1; done";
    let mut launcher = sandboxes.command(&["run", "sh", "-c", script]).spawn().unwrap();
    let mut ready = [0; 6];
    let stdout = launcher.stdout.as_mut().unwrap();
    std::io::Read::read_exact(stdout, &mut ready).unwrap();
    assert_eq!(&ready, b"ready\n");
    // SAFETY: plain numbers; the child is not reaped yet.
    unsafe { libc::kill(launcher.id() as i32, libc::SIGTERM) };
    assert_eq!(wait(&mut launcher).code(), Some(33));
    sandboxes.assert_nothing_left();
}

fn death_by_signal_is_128_plus_the_signal(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    for (signal, code) in [("KILL", 137), ("TERM", 143), ("SEGV", 139)] {
        let output = sandboxes.run(&["run", "sh", "-c", &format!("kill -{signal} $$")]);
        assert_eq!(output.status.code(), Some(code), "{signal}: {output:?}");
    }
}

fn the_end_of_the_first_program_ends_the_others(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let output = sandboxes.run(&["run", "sh", "-c", "sleep 1000 & sleep 1000 & exit 3"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    eventually("no process is left", || sandboxes.processes().is_empty());
}

rsentry_tests::on_every_platform! {
    two_hundred_one_after_another,
    twenty_at_once,
    killed_at_random_moments,
    killed_at_random_moments_unprivileged,
    a_terminated_launcher_terminates_the_program,
    death_by_signal_is_128_plus_the_signal,
    the_end_of_the_first_program_ends_the_others,
}
