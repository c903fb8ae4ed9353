//! `--memory` counts everything that a guest can make the sandbox hold: whatever there is to be had,
//! by the thousand (`tests/attacks/hold.rs`), the host's memory that all its processes use together,
//! page tables included, stays within a tenth of the limit, beside what a sandbox needs that does
//! nothing.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rsentry_tests::{PATIENCE, Process, Sandboxes, text};
use syscall_conformance::build;

const LIMIT: &str = "--memory=64M";
/// The limit and a tenth, in KiB.
const ALLOWED: u64 = (64 << 10) + (64 << 10) / 10;
/// What malloc keeps and samples miss, in KiB.
const SLACK: u64 = 4 << 10;

fn guest() -> &'static Path {
    static GUEST: OnceLock<PathBuf> = OnceLock::new();
    GUEST.get_or_init(|| {
        build::static_guest("rsentry-tests", "attack-guest", false).expect("the guest builds")
    })
}

/// KiB of the fields of a file in `/proc/PID` that has them; none if the process is gone.
fn field(pid: u32, file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok()).unwrap_or(0)
}

/// The process and all that come from it.
fn family(of: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for process in Process::all() {
        children.entry(process.parent).or_default().push(process.pid);
    }
    let mut all = vec![of];
    let mut at = 0;
    while let Some(pid) = all.get(at) {
        let more = children.get(pid).cloned().unwrap_or_default();
        all.extend(more);
        at += 1;
    }
    all
}

/// KiB of memory that the host has for all of them: shared pages once.
fn footprint(of: u32) -> u64 {
    let one = |pid: &u32| field(*pid, "smaps_rollup", "Pss") + field(*pid, "status", "VmPTE");
    family(of).iter().map(one).sum()
}

/// The most there ever was, and what the guest said.
fn hold(sandboxes: &Sandboxes, kind: &str) -> (u64, String) {
    let folder = guest().parent().expect("the guest is in a folder");
    let show = format!("--ro={}:/attack", folder.display());
    // As root, who may go over the limits of resources.
    let options = ["run", "--user=0:0", LIMIT, "--wall=170", &show, "-w", "/tmp", "--"];
    let arguments = [&options[..], &["/attack/attack-guest", "hold", kind]].concat();
    let mut child = sandboxes.command(&arguments).spawn().expect("rsentry starts");
    let (mut most, start) = (0, Instant::now());
    while child.try_wait().expect("it is ours").is_none() {
        most = most.max(footprint(child.id()));
        assert!(start.elapsed() < PATIENCE, "{kind}: no end");
        std::thread::sleep(Duration::from_millis(40));
    }
    let output = child.wait_with_output().expect("it is ours");
    // All went well, or the first program was the one to go.
    let story = text(&output.stdout) + &text(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 137)), "{kind}: {:?} {story}", output.status);
    (most, story)
}

fn whatever_guests_have_is_counted(platform: &str) {
    // SAFETY: no arguments.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("not root: what stubs use cannot be seen");
        return;
    }
    let sandboxes = Sandboxes::on(platform);
    let (base, _) = hold(&sandboxes, "nothing");
    assert!(base < 24 << 10, "{base} KiB for nothing");
    let output = std::process::Command::new(guest()).args(["hold", "list"]).output().unwrap();
    let kinds = text(&output.stdout);
    assert!(kinds.lines().count() > 25, "{kinds}");
    // The platforms differ in what their stubs cost.
    let of_stubs = ["mappings", "processes", "threads", "page_tables", "tables", "arguments"];
    let chosen = |kind: &&str| platform == "notify" || of_stubs.iter().any(|s| kind.starts_with(s));
    for kind in kinds.lines().filter(chosen) {
        let (most, story) = hold(&sandboxes, kind);
        println!("{kind}: {} MiB, {}", most >> 10, story.lines().next().unwrap_or_default());
        assert!(most <= ALLOWED + base + SLACK, "{kind}: {most} KiB, {base} for nothing: {story}");
    }
    sandboxes.assert_nothing_left();
}

rsentry_tests::on_every_platform! { whatever_guests_have_is_counted }
