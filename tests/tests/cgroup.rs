//! The host's control groups around a sandbox, with real processes. Whatever trees the host has are
//! used; only groups that a test made itself are touched, and they are removed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rsentry_tests::{Lag, Process, Sandboxes, UNPRIVILEGED, eventually, finish, text, wait};

/// Mounted trees: controllers (none for version 2), and the top.
fn trees() -> Vec<(String, PathBuf)> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let tree = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        let kind: Vec<&str> = kind.split(' ').collect();
        let top = PathBuf::from(place.split(' ').nth(4)?);
        match kind[..] {
            ["cgroup2", ..] => Some((String::new(), top)),
            ["cgroup", _, options, ..] => Some((format!(",{options},"), top)),
            _ => None,
        }
    };
    mounts.lines().filter_map(tree).collect()
}

/// The top of the tree that keeps this controller's limits, if it can be written to.
fn tree_of(controller: &str) -> Option<(bool, PathBuf)> {
    let found = trees().into_iter().find_map(|(controllers, top)| {
        let version_2 = controllers.is_empty();
        let list = fs::read_to_string(top.join("cgroup.controllers")).unwrap_or_default();
        let has = if version_2 {
            list.split_whitespace().any(|name| name == controller)
        } else {
            controllers.contains(&format!(",{controller},"))
        };
        has.then_some((version_2, top))
    });
    found.filter(|(_, top)| writable(top))
}

/// A file system that is mounted read-only, as in many containers, says EROFS.
fn writable(top: &Path) -> bool {
    // SAFETY: no arguments.
    let root = unsafe { libc::geteuid() } == 0;
    root && fs::OpenOptions::new().write(true).open(top.join("cgroup.procs")).is_ok()
}

fn own_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("rsentry-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A sandbox in which `cat` waits, and all its processes but the launcher.
fn start(mut command: Command) -> (Child, Vec<Process>) {
    command.stdin(Stdio::piped()).stderr(Stdio::inherit());
    let launcher = command.spawn().unwrap();
    let mut all = Vec::new();
    eventually("the guest runs", || {
        all.clear();
        let mut new = vec![launcher.id()];
        while let Some(pid) = new.pop() {
            let children = Process::children(pid);
            new.extend(children.iter().map(|child| child.pid));
            all.extend(children);
        }
        // The gofer, the Sentry, its template, a stub.
        all.len() >= 4
    });
    (launcher, all)
}

fn stop(mut launcher: Child) {
    drop(launcher.stdin.take());
    assert_eq!(wait(&mut launcher).code(), Some(0));
}

fn groups_of(process: &Process) -> String {
    fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).unwrap_or_default()
}

#[test]
fn limits_are_set_and_hold_for_all_processes() {
    let wanted = ["memory", "pids", "cpu", "cpuset"];
    if let Some(missing) = wanted.iter().find(|name| tree_of(name).is_none()) {
        eprintln!("skipped: no {missing} controller, or it cannot be written to");
        return;
    }
    let sandboxes = Sandboxes::new();
    let top = own_name();
    let group = format!("/{top}/a-b.slice");
    let inside = format!("{top}/a.slice/a-b.slice");
    let report = sandboxes.work().join("report");
    let cgroup = format!("--cgroup={group}");
    let to_report = format!("--report={}", report.display());
    let arguments = [
        "run",
        &cgroup,
        "--memory=64M",
        "--pids=20",
        "--cpus=0.5",
        "--cpuset=0",
        "--cpu-weight=50",
        &to_report,
        "--",
        "cat",
    ];
    let (launcher, all) = start(sandboxes.command(&arguments));
    for process in &all {
        let groups = groups_of(process);
        if Process::get(process.pid).is_none() {
            continue;
        }
        let within = groups.lines().filter(|line| line.contains(&inside)).count();
        assert!(within >= 1, "{}: {groups}", process.name);
        for controller in wanted {
            let line = groups.lines().find(|line| line.contains(&format!(":{controller}:")));
            assert!(line.is_none_or(|line| line.ends_with(&inside)), "{controller}: {groups}");
        }
    }
    let own = fs::read_to_string(format!("/proc/{}/cgroup", launcher.id())).unwrap();
    assert!(!own.contains(&inside), "the launcher stays outside: {own}");
    let read = |controller: &str, v1: &str, v2: &str| {
        let (version_2, top) = tree_of(controller).unwrap();
        let file = top.join(&inside).join(if version_2 { v2 } else { v1 });
        fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{file:?}: {error}"))
            .trim()
            .to_owned()
    };
    let memory = (64 + 8 + 128) << 20;
    assert_eq!(read("memory", "memory.limit_in_bytes", "memory.max"), memory.to_string());
    assert_eq!(read("pids", "pids.max", "pids.max"), "208");
    assert_eq!(read("cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
    let quota = read("cpu", "cpu.cfs_quota_us", "cpu.max");
    assert!(quota == "50000" || quota == "50000 100000", "{quota}");
    stop(launcher);
    let report: serde_json::Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    let used = &report["cgroup"];
    assert!(
        used["peak_memory"].as_u64().is_some_and(|peak| peak > 1 << 20 && peak < memory),
        "{used}"
    );
    assert!(used["cpu_microseconds"].as_u64().is_some_and(|time| time > 100), "{used}");
    assert_eq!(report["not_kept"].as_array().unwrap().len(), 0);
    for (_, tree) in trees() {
        assert!(!tree.join(&top).exists(), "{tree:?} still has {top}");
    }
    sandboxes.assert_nothing_left();
}

/// The only tree that every host has for the asking.
fn a_tree() -> Option<PathBuf> {
    trees().into_iter().map(|(_, top)| top).find(|top| writable(top))
}

#[test]
fn a_killed_launchers_group_is_removed_by_the_next_one() {
    if a_tree().is_none() {
        eprintln!("skipped: no cgroup tree can be written to");
        return;
    }
    let sandboxes = Sandboxes::new();
    let (mut launcher, all) = start(sandboxes.command(&["run", "--cgroup=auto", "--", "cat"]));
    let mark = format!("-{}-", launcher.id());
    let left = |groups: &str| -> Vec<PathBuf> {
        let paths = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
        let ours = paths.filter(|path| path.contains("/rsentry-") && path.contains(&mark));
        ours.flat_map(|path| {
            trees().into_iter().map(|(_, top)| top.join(&path[1..])).collect::<Vec<_>>()
        })
        .filter(|path| path.exists())
        .collect()
    };
    let groups = groups_of(&all[0]);
    assert!(!left(&groups).is_empty(), "{groups}");
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    eventually("all processes are gone", || sandboxes.processes().is_empty());
    let output = sandboxes.run(&["run", "--cgroup=auto", "--", "true"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(left(&groups), Vec::<PathBuf>::new());
}

#[test]
fn without_delegation_a_user_does_without_and_is_told() {
    if a_tree().is_none() {
        eprintln!("skipped: not root, or no cgroup tree");
        return;
    }
    let sandboxes = Sandboxes::new();
    let report = sandboxes.work().join("report");
    let to_report = format!("--report={}", report.display());
    let arguments = ["run", "--cgroup=auto", "--cpu-weight=50", &to_report, "--", "true"];
    let output = finish(sandboxes.unprivileged(&arguments));
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("cpu: "), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    assert!(report["not_kept"][0].as_str().unwrap().starts_with("cpu: "), "{report}");
    // Asked for by name it is a failure, with the layer's name.
    let path = format!("--cgroup=/{}", own_name());
    let output = finish(sandboxes.unprivileged(&["run", &path, "--cpu-weight=50", "--", "true"]));
    assert_eq!(output.status.code(), Some(125));
    assert!(text(&output.stderr).contains("error: cgroup: "), "{}", text(&output.stderr));
    sandboxes.assert_nothing_left();
}

#[test]
fn a_user_with_a_delegated_group_has_one() {
    let tree = trees().into_iter().find(|(controllers, _)| controllers.is_empty());
    let Some((_, top)) = tree.filter(|(_, top)| writable(top)) else {
        eprintln!("skipped: no tree of version 2, or it cannot be written to");
        return;
    };
    let sandboxes = Sandboxes::new();
    // As a service manager does: a group of the user's own, with the user's process in it.
    let delegated = top.join(own_name());
    fs::create_dir(&delegated).unwrap();
    let user = Some(UNPRIVILEGED);
    for file in ["", "cgroup.procs", "cgroup.subtree_control"] {
        std::os::unix::fs::chown(delegated.join(file), user, user).unwrap();
    }
    let line = sandboxes.line(&["run", "--cgroup=auto", "--", "cat"]);
    let mut command = Command::new("sh");
    let script = format!(
        "echo $$ > {}/cgroup.procs && exec setpriv --reuid {UNPRIVILEGED} --regid {UNPRIVILEGED} \
         --clear-groups {line}",
        delegated.display()
    );
    command.args(["-c", &script]).current_dir(sandboxes.work()).stdout(Stdio::null());
    let (launcher, all) = start(command);
    let name = delegated.file_name().unwrap().to_str().unwrap();
    let expected = format!("0::/{name}/rsentry-");
    for process in &all {
        let groups = groups_of(process);
        if Process::get(process.pid).is_none() {
            continue;
        }
        assert!(groups.contains(&expected), "{}: {groups}", process.name);
    }
    let made = fs::read_dir(&delegated).unwrap().flatten().find(|entry| entry.path().is_dir());
    assert_eq!(made.unwrap().metadata().unwrap().uid(), UNPRIVILEGED);
    stop(launcher);
    assert!(!fs::read_dir(&delegated).unwrap().flatten().any(|entry| entry.path().is_dir()));
    fs::remove_dir(&delegated).unwrap();
    sandboxes.assert_nothing_left();
}

/// A limit on what is written to the disk holds, for a file that really lies on one.
#[test]
fn io_limits_hold() {
    let tree = tree_of("blkio").or_else(|| tree_of("io"));
    // A file's device is one that limits are known for if it has a queue of its own.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let device = fs::metadata(directory.path()).unwrap().dev();
    let device = format!("{}:{}", libc::major(device), libc::minor(device));
    if tree.is_none() || !Path::new(&format!("/sys/dev/block/{device}/queue")).exists() {
        eprintln!("skipped: no io controller, or no disk of its own at {device}");
        return;
    }
    const RATE: u64 = 1 << 20;
    let sandboxes = Sandboxes::new();
    let name = own_name();
    let (cgroup, limit) = (format!("--cgroup=/{name}"), format!("--io-max={device} wbps={RATE}"));
    let show = format!("--rw={}:/disk", directory.path().display());
    let write = "dd if=/dev/zero of=/disk/x bs=64k count=40 conv=fsync 2>&1";
    let arguments =
        ["run", "--user=0:0", &cgroup, &limit, &show, "-w", "/", "--", "sh", "-c", write];
    let (start, lag) = (std::time::Instant::now(), Lag::watch());
    let output = finish(sandboxes.command(&arguments));
    let (took, lag) = (start.elapsed().as_secs_f64(), lag.total().as_secs_f64());
    assert!(output.status.success(), "{output:?}");
    let written = (40 << 16) as f64;
    assert!(written / took < 1.1 * RATE as f64, "{took} s: {output:?}");
    // Not that nothing comes through at all.
    assert!(took < 20.0 + lag, "{took} s ({lag} s late)");
    sandboxes.assert_nothing_left();
    for (_, top) in trees() {
        assert!(!top.join(&name).exists(), "a group is left in {}", top.display());
    }
}
