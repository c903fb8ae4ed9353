//! Limits hold within a tenth, the program is told of them as by Linux, and the report says so.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use rsentry::{Builder, Cause, ExitStatus, Input, Report, Sandbox};
use rsentry_tests::{Lag, Sandboxes, binary, finish, text, wait};

const MIB: u64 = 1 << 20;

/// Runs `rsentry run --report=... ARGUMENTS`; what it printed, and the report.
#[track_caller]
fn reported(sandboxes: &Sandboxes, arguments: &[&str]) -> (Output, Report) {
    let output = finish(sandboxes.command(&[&["run", "--report=report"], arguments].concat()));
    (output, report(sandboxes))
}

#[track_caller]
fn report(sandboxes: &Sandboxes) -> Report {
    report_in(&sandboxes.work())
}

#[track_caller]
fn report_in(directory: &Path) -> Report {
    let file = File::open(directory.join("report")).expect("a report");
    serde_json::from_reader(file).expect("a report is JSON")
}

#[track_caller]
fn assert_close(what: &str, value: f64, limit: f64) {
    assert!((0.9 * limit..=1.1 * limit).contains(&value), "{what}: {value}, not about {limit}");
}

/// As [`assert_close`], of seconds that a limit ends. Time that the machine had no time for whoever ends
/// them comes on top.
#[track_caller]
fn assert_ended(what: &str, value: Duration, limit: Duration, lag: Duration) {
    let range = limit.mul_f64(0.9)..=limit.mul_f64(1.1) + lag;
    assert!(range.contains(&value), "{what}: {value:?}, not about {limit:?} ({lag:?} late)");
}

/// Processor time that can be used while whoever watches it waits for its turn.
fn of_all_processors(lag: Duration) -> Duration {
    lag * std::thread::available_parallelism().map_or(1, |n| n.get() as u32)
}

fn spin(processes: u32) -> String {
    let one = "while :; do :; done".to_owned();
    vec![one; processes as usize].join(" & ")
}

fn the_wall_clock_ends_the_sandbox(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let guest = ["sh", "-c", "sleep 60 & wait"];
    let arguments = [&["run", "--wall=2s", "--report=report"][..], &guest].concat();
    let lag = Lag::watch();
    let mut all = Vec::new();
    for (who, mut command) in sandboxes.callers(&arguments) {
        // Each its own report, at the same time.
        let directory = sandboxes.work().join(all.len().to_string());
        std::fs::create_dir(&directory).unwrap();
        std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o777)).unwrap();
        command.current_dir(&directory);
        all.push((who, directory, command.spawn().unwrap()));
    }
    let codes: Vec<_> = all.iter_mut().map(|(_, _, child)| wait(child).code()).collect();
    let lag = lag.total();
    for ((who, directory, _), code) in all.iter().zip(codes) {
        assert_eq!(code, Some(124), "{who}");
        let report = report_in(directory);
        assert_eq!(report.ended_by, Cause::Wall, "{who}");
        assert!(report.wall >= Duration::from_secs(2), "{who}: {report:?}");
        assert_ended(who, report.wall, Duration::from_secs(2), lag);
        assert!(report.complete, "{who}");
    }
    sandboxes.assert_nothing_left();
}

fn processor_time_ends_the_sandbox(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let lag = Lag::watch();
    let (output, report) =
        reported(&sandboxes, &["--cpu-time", "1.2", "--wall=170", "sh", "-c", &spin(3)]);
    let lag = of_all_processors(lag.total());
    assert_eq!(output.status.code(), Some(152), "{}", text(&output.stderr));
    assert_eq!((report.ended_by, report.status), (Cause::Cpu, ExitStatus::Signal(9)));
    assert_ended("processor time", report.cpu, Duration::from_millis(1200), lag);
    assert_eq!(report.limits.cpu_time, Some(Duration::from_millis(1200)));
    sandboxes.assert_nothing_left();
}

fn processors_are_shared_out(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    quota_holds(&sandboxes, "processes", 0.2, &["sh", "-c", &spin(3)]);
    sandboxes.assert_nothing_left();
}

/// Runs a guest that would use all processors, under this quota for some seconds.
#[track_caller]
fn quota_holds(sandboxes: &Sandboxes, what: &str, quota: f64, guest: &[&str]) {
    let options = [&format!("--cpus={quota}"), "--wall=4s"];
    let lag = Lag::watch();
    let (output, report) = reported(sandboxes, &[&options[..], guest].concat());
    let lag = lag.total();
    assert_eq!(output.status.code(), Some(124), "{what}: {}", text(&output.stderr));
    let (cpu, allowed) = (report.cpu, report.wall.mul_f64(quota));
    // A period that is noticed late begins late, and is shorter for that.
    let least = allowed.mul_f64(0.9).saturating_sub(lag);
    let most = allowed.mul_f64(1.1) + of_all_processors(lag);
    assert!((least..=most).contains(&cpu), "{what}: {cpu:?}, not {allowed:?} ({lag:?} late)");
}

/// Threads of one process that spin, and a guest that works in short pieces with sleep in between,
/// which no look at long intervals must miss.
const WORK: &str = "import sys, threading, time
def spin():
    while True: pass
def pieces():
    while True:
        end = time.monotonic() + 0.004
        while time.monotonic() < end: pass
        time.sleep(0.002)
work = {'threads': spin, 'pieces': pieces}[sys.argv[1]]
for _ in range(3): threading.Thread(target=work, daemon=True).start()
work()";

fn the_work_of_threads_and_in_pieces_counts(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    for kind in ["threads", "pieces"] {
        let guest = ["python3", "-c", WORK, kind];
        let budget = ["--cpu-time=1.5", "--wall=170"];
        let lag = Lag::watch();
        let (output, report) = reported(&sandboxes, &[&budget[..], &guest].concat());
        let lag = of_all_processors(lag.total());
        assert_eq!(output.status.code(), Some(152), "{kind}: {}", text(&output.stderr));
        assert_eq!((report.ended_by, report.status), (Cause::Cpu, ExitStatus::Signal(9)), "{kind}");
        assert_ended(kind, report.cpu, Duration::from_millis(1500), lag);
        quota_holds(&sandboxes, kind, 0.25, &guest);
    }
    sandboxes.assert_nothing_left();
}

fn tasks_are_counted(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let processes = "import os, time
n = 1
try:
    while True:
        if os.fork() == 0: time.sleep(60)
        n += 1
except OSError as e: print(n, e.errno, flush=True)
os._exit(0)";
    let threads = "import threading, time
n = 1
try:
    while True:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        n += 1
except RuntimeError: print(n, 11, flush=True)
import os; os._exit(0)";
    for program in [processes, threads] {
        let (output, report) = reported(&sandboxes, &["--pids=20", "python3", "-c", program]);
        assert_eq!(text(&output.stdout), "20 11\n", "{}", text(&output.stderr));
        assert_eq!((report.ended_by, report.peak_pids), (Cause::Exit, 20));
    }
    sandboxes.assert_nothing_left();
}

fn open_files_are_counted(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let program = "import os, time
def fill():
    fds = []
    try:
        while True: fds.append(os.open('/dev/null', 0))
    except OSError as e: return len(fds), e.errno, max(fds)
print(*fill(), flush=True)
# Each child has a table of its own to fill, until there are too many open files in all.
for fd in range(3, 64):
    try: os.close(fd)
    except OSError: pass
r, w = os.pipe()
total, last = 2, 24
while last == 24:
    if os.fork() == 0:
        n, errno, top = fill()
        os.write(w, b'%d %d\\n' % (n, errno))
        time.sleep(60)
        os._exit(0)
    n, last = map(int, os.read(r, 100).split())
    total += n
print(total, last, flush=True)
os._exit(0)";
    let (output, _) = reported(&sandboxes, &["--files=64", "python3", "-c", program]);
    let printed = text(&output.stdout);
    let numbers: Vec<i64> = printed.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    let [own, emfile, top, all, enfile] = numbers[..] else {
        panic!("{printed:?} {}", text(&output.stderr))
    };
    assert_eq!((own, emfile, top), (61, i64::from(libc::EMFILE), 63));
    assert_eq!(enfile, i64::from(libc::ENFILE));
    // Programs and libraries that are mapped are open files, too.
    assert_close("open files", all as f64, 512.0);
    sandboxes.assert_nothing_left();
}

fn output_ends_the_sandbox(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let both = ["--output-limit=100K", "sh", "-c", "yes >&2 & exec yes"];
    let (output, report) = reported(&sandboxes, &both);
    assert_eq!(output.status.code(), Some(153));
    assert_eq!((report.ended_by, report.output), (Cause::Output, 100 << 10));
    let own = text(&output.stderr).lines().filter(|line| *line != "y" && !line.is_empty()).count();
    assert_eq!(own, 0, "{}", text(&output.stderr));
    assert_eq!(output.stdout.len() + output.stderr.len(), 100 << 10);
    // As much as is allowed is no reason to end.
    let exact = ["--output-limit=4", "sh", "-c", "printf abcd"];
    let (output, report) = reported(&sandboxes, &exact);
    assert_eq!((output.status.code(), report.ended_by), (Some(0), Cause::Exit));
    sandboxes.assert_nothing_left();
}

fn files_in_memory_share_their_size(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let script = "for at in /tmp /dev/shm /usr/bin; do
        dd if=/dev/zero of=$at/x bs=64k 2>&1 | grep -o 'No space left'; done
        stat -c %s /tmp/x /dev/shm/x /usr/bin/x; df -k /tmp | tail -1 | awk '{print $2, $4}'";
    // As the user that may write everywhere.
    let (output, _) = reported(&sandboxes, &["--user=0", "--tmp-size=8M", "sh", "-c", script]);
    let printed = text(&output.stdout);
    assert_eq!(printed.matches("No space left").count(), 3, "{printed}");
    let sizes = printed.lines().filter_map(|line| line.parse::<u64>().ok());
    assert_close("bytes", sizes.sum::<u64>() as f64, (8 * MIB) as f64);
    assert!(printed.contains("8192 0"), "{printed}");
    sandboxes.assert_nothing_left();
}

/// A child that touches memory until it is killed; says how it ended and how far it came.
const HOG: &str = "import mmap, os, sys
r, w = os.pipe()
pid = os.fork()
if pid == 0:
    # Neither is more than there is in all.
    both = [mmap.mmap(-1, 45 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in 'ab']
    for m in both:
        for at in range(0, 45 << 20, 4096):
            m[at] = 1
            if at % (1 << 20) == 0: os.write(w, b'x')
    os._exit(0)
os.close(w)
n = 0
while True:
    got = len(os.read(r, 4096))
    if got == 0: break
    n += got
print(n, os.waitpid(pid, 0)[1] & 127, flush=True)";

fn memory_is_bounded(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let total = ["--memory=64M", "sed", "-n", "s/MemTotal: *//p", "/proc/meminfo"];
    let (output, _) = reported(&sandboxes, &total);
    assert_eq!(text(&output.stdout), "65536 kB\n", "{}", text(&output.stderr));

    // More than there is at once: ENOMEM.
    let big = "try: bytearray(100 << 20)\nexcept MemoryError: print('refused')";
    let (output, report) = reported(&sandboxes, &["--memory=64M", "python3", "-c", big]);
    assert_eq!(text(&output.stdout), "refused\n", "{}", text(&output.stderr));
    assert_eq!((report.ended_by, report.oom_kills), (Cause::Exit, 0));

    // More bit by bit: the biggest process is killed, the rest goes on.
    let (output, report) = reported(&sandboxes, &["--memory=100M", "python3", "-c", HOG]);
    assert_eq!(text(&output.stdout), "90 0\n", "{}", text(&output.stderr));
    assert_eq!(report.oom_kills, 0);
    let (output, report) = reported(&sandboxes, &["--memory=64M", "python3", "-c", HOG]);
    let printed = text(&output.stdout);
    let (came, signal) = printed.trim().split_once(' ').expect("two numbers");
    assert_close("MiB", came.parse().unwrap(), 60.0);
    assert_eq!(signal, "9", "{}", text(&output.stderr));
    assert_eq!((report.ended_by, report.oom_kills), (Cause::Exit, 1));
    assert_close("peak", report.peak_memory as f64, (64 * MIB) as f64);

    // If it is the program itself, that is why the sandbox ended.
    let own = HOG.replace("pid = os.fork()", "pid = 0");
    let (output, report) = reported(&sandboxes, &["--memory=64M", "python3", "-c", &own]);
    assert_eq!(output.status.code(), Some(137), "{}", text(&output.stderr));
    assert_eq!((report.ended_by, report.status), (Cause::Memory, ExitStatus::Signal(9)));

    // Files in memory count.
    let fill = "dd if=/dev/zero of=/dev/shm/x bs=1M 2>/dev/null; stat -c %s /dev/shm/x";
    let (output, _) = reported(&sandboxes, &["--memory=64M", "--tmp-size=1G", "sh", "-c", fill]);
    let size = text(&output.stdout).trim().parse().expect("a size");
    assert_close("bytes", size, (64 * MIB) as f64);
    sandboxes.assert_nothing_left();
}

fn the_kernels_memory_for_the_program_counts(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let program = "import os, resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
kept, total = [], 0
try:
    while True:
        if sys.argv[1] == 'pipes':
            r, w = os.pipe()
            os.set_blocking(w, False)
            kept.append(r)
            total += os.write(w, bytes(65536))
        else:
            a, b = socket.socketpair()
            kept += [a, b]
            total += a.send(bytes(65536))
except OSError as e: print(total, e.errno, flush=True)
# With all of it open, for the last look at what is in use.
os._exit(0)";
    for (what, errno) in [("pipes", libc::ENOMEM), ("sockets", libc::ENOBUFS)] {
        let arguments = ["--memory=32M", "python3", "-c", program, what];
        let (output, report) = reported(&sandboxes, &arguments);
        let printed = text(&output.stdout);
        let expected = format!(" {errno}\n");
        assert!(printed.ends_with(&expected), "{what}: {printed} {}", text(&output.stderr));
        let total: f64 = printed.split(' ').next().unwrap_or_default().parse().expect("bytes");
        // The interpreter takes some of it.
        assert!((18e6..33.6e6).contains(&total), "{what}: {total}");
        // Some was handed out and not touched.
        assert!((25 * MIB..=32 * MIB).contains(&report.peak_memory), "{report:?}");
    }
    sandboxes.assert_nothing_left();
}

fn counts_are_reported(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let script = "for i in 1 2 3; do cat /dev/mem 2>/dev/null; done; exit 3";
    let arguments = ["--user=1000", "sh", "-c", script];
    let (output, report) = reported(&sandboxes, &arguments);
    assert_eq!((output.status.code(), report.status), (Some(3), ExitStatus::Code(3)));
    assert_eq!((report.ended_by, report.exit_code), (Cause::Exit, 3));
    assert!(report.counts.calls > 100 && report.complete, "{report:?}");
    assert!(report.platform == platform, "{report:?}");
    assert!(report.cpu >= report.cpu_guest && report.cpu > Duration::ZERO, "{report:?}");
    for layers in &report.layers {
        let launcher = layers.process == "launcher";
        for layer in ["pid-namespace", "no-new-privileges", "seccomp"] {
            if launcher && layer == "pid-namespace" {
                continue;
            }
            assert!(layers.in_force.iter().any(|name| name == layer), "{layers:?}");
        }
    }
    assert_eq!(report.layers.len(), 3);
    sandboxes.assert_nothing_left();
}

rsentry_tests::on_every_platform!(
    the_wall_clock_ends_the_sandbox,
    processor_time_ends_the_sandbox,
    processors_are_shared_out,
    the_work_of_threads_and_in_pieces_counts,
    tasks_are_counted,
    open_files_are_counted,
    output_ends_the_sandbox,
    files_in_memory_share_their_size,
    memory_is_bounded,
    the_kernels_memory_for_the_program_counts,
    counts_are_reported,
);

#[test]
fn flags_go_over_the_policy_and_that_over_the_profile() {
    let sandboxes = Sandboxes::new();
    let policy = sandboxes.work().join("policy.toml");
    std::fs::write(&policy, "profile = 'strict'\nmemory = '96M'\npids = 9\nenv = ['A=1']\n")
        .unwrap();
    let arguments = [
        "--policy=policy.toml",
        "--pids=11",
        "--env=B=2",
        "sh",
        "-c",
        "id -u; pwd; ls; echo $A $B",
    ];
    let (output, report) = reported(&sandboxes, &arguments);
    assert_eq!(report.limits.memory, Some(96 * MIB), "{}", text(&output.stderr));
    assert_eq!(report.limits.pids, Some(11));
    assert_eq!(report.limits.files, Some(256));
    let printed = text(&output.stdout);
    assert!(printed.starts_with("65534\n/\n") && printed.ends_with("1 2\n"), "{printed}");
    assert!(!printed.contains("policy.toml"), "{printed}");
    std::fs::write(&policy, "pids = 9\nmemroy = '1G'\n").unwrap();
    let output = sandboxes.run(&["run", "--policy=policy.toml", "true"]);
    let line = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{line}");
    assert!(line.contains("policy.toml") && line.contains("line 2") && line.contains("memroy"));
    assert_eq!(line.lines().count(), 1, "{line}");
}

#[test]
fn limits_that_make_no_sense_are_refused_by_name() {
    let sandboxes = Sandboxes::new();
    for (option, value) in [
        ("--memory", "1K"),
        ("--memory", "lots"),
        ("--cpus", "0"),
        ("--pids", "-1"),
        ("--pids", "4097"),
        ("--files", "1.5"),
        ("--wall", "0"),
        ("--wall", "5 minutes"),
        ("--cpu-time", "1d"),
        ("--output-limit", "1e6"),
        ("--tmp-size", "5%"),
        ("--profile", "paranoid"),
        ("--policy", "/no/such/policy"),
        ("--report", "/no/such/directory/report"),
    ] {
        let output = sandboxes.run(&["run", &format!("{option}={value}"), "true"]);
        let line = text(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{option}={value}: {line}");
        assert!(line.contains(option), "{option}={value}: {line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }
}

#[test]
fn a_sandbox_that_could_not_be_is_reported_as_well() {
    let sandboxes = Sandboxes::new();
    let output = sandboxes.run(&["run", "--report=report", "no-such-program"]);
    assert_eq!(output.status.code(), Some(127));
    let report = std::fs::read_to_string(sandboxes.work().join("report")).unwrap();
    assert!(report.contains("\"error\"") && report.contains("no-such-program"), "{report}");
}

/// A builder whose helper is this build's command: test runners have no `main` of their own.
fn builder(command: &[&str]) -> Builder {
    Sandbox::builder(command).helper(binary()).stdin(Input::Null).workdir("/")
}

#[test]
fn threads_run_sandboxes_at_once_and_capture_their_output() {
    let run = |number: u32| {
        builder(&["sh", "-c", "read line; echo $line $N; echo err >&2; exit 5"])
            .env("N", number.to_string())
            .stdin(Input::Bytes(b"line\nmore\n".to_vec()))
            .stdout(rsentry::Output::Capture)
            .stderr(rsentry::Output::Capture)
            .memory(64 * MIB)
            .run()
            .expect("a sandbox")
    };
    let threads: Vec<_> = (0..6).map(|number| std::thread::spawn(move || run(number))).collect();
    for (number, thread) in threads.into_iter().enumerate() {
        let report = thread.join().expect("a thread");
        assert_eq!(text(&report.stdout), format!("line {number}\n"));
        assert_eq!(text(&report.stderr), "err\n");
        assert_eq!((report.status, report.ended_by), (ExitStatus::Code(5), Cause::Exit));
    }
}

#[test]
fn a_builders_limits_and_mistakes_come_back() {
    let flood = builder(&["yes"])
        .output_limit(1 << 20)
        .stdout(rsentry::Output::Capture)
        .run()
        .expect("a sandbox");
    assert_eq!((flood.ended_by, flood.stdout.len()), (Cause::Output, 1 << 20));
    let slow = builder(&["sleep", "60"]).wall(Duration::from_millis(300)).run().expect("a sandbox");
    assert_eq!(slow.ended_by, Cause::Wall);
    let error = builder(&["no-such-program"]).run().expect_err("no such program");
    assert_eq!(error.exit_code(), 127);
    assert!(error.to_string().contains("no-such-program"), "{error}");
    let error = builder(&["true"]).root("/no/such/root").run().expect_err("no such root");
    assert!(error.to_string().contains("--root"), "{error}");
    let error = Sandbox::builder(["true"]).helper("/bin/true").run().expect_err("no helper");
    assert!(error.to_string().contains("helper"), "{error}");
}

/// The path of an example of this build, built first if need be.
fn example(name: &str) -> std::path::PathBuf {
    let directory = binary().parent().expect("a directory").join("examples");
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    build.args(["build", "--quiet", "--package", "rsentry", "--example", name]);
    if directory.parent().is_some_and(|profile| profile.ends_with("release")) {
        build.arg("--release");
    }
    build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    assert!(build.status().expect("cargo runs").success(), "building {name} failed");
    directory.join(name)
}

#[test]
fn the_judge_tells_programs_apart() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    std::fs::create_dir(directory.path().join("tests")).unwrap();
    for (name, content) in
        [("a.in", "1 2\n"), ("a.out", "3\n"), ("b.in", "40 2\n"), ("b.out", "42")]
    {
        write(&format!("tests/{name}"), content);
    }
    let programs = [
        ("right.py", "print(sum(map(int, input().split())))", "AC"),
        ("right.sh", "read a b; echo $((a + b))", "AC"),
        (
            "right.c",
            "#include <stdio.h>\nint main(void) { int a, b; scanf(\"%d%d\", &a, &b); \
                     printf(\"%d\\n\", a + b); return 0; }",
            "AC",
        ),
        ("broken.c", "int main(void) { return", "CE"),
        ("wrong.py", "print(3000)", "WA"),
        ("slow.py", "while True: pass", "TLE"),
        ("hungry.py", "l = []\nwhile True: l.append(b'x' * 100000 + b'y')", "MLE"),
        ("crash.py", "1 / 0", "RE"),
        ("killed.sh", "kill -11 $$", "RE"),
        ("flood.sh", "yes", "OLE"),
    ];
    let paths: Vec<_> = programs.iter().map(|(name, code, _)| write(name, code)).collect();
    let mut judge = Command::new(example("judge"));
    judge.arg(directory.path().join("tests")).args(&paths).current_dir(directory.path());
    judge.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let output = finish(judge);
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for (name, _, verdict) in programs {
        for case in ["a", "b"] {
            let expected = format!("{name} {case} {verdict}");
            assert!(printed.lines().any(|line| line.starts_with(&expected)), "{name}:\n{printed}");
        }
    }
}

#[test]
fn the_python_tool_answers_with_json_whatever_the_code_does() {
    let directory = tempfile::tempdir().unwrap();
    let tool = example("python_tool");
    for (code, key, expected) in [
        ("print(6 * 7)", "stdout", "42\n"),
        ("import sys; sys.exit('no')", "stderr", "no\n"),
        ("print(open('/etc/shadow').read())", "stderr", "Error"),
        ("import socket; socket.create_connection(('1.1.1.1', 80))", "stderr", "Error"),
        ("while True: print('x' * 1000)", "report", "output"),
    ] {
        let path = directory.path().join("code.py");
        std::fs::write(&path, code).unwrap();
        let mut command = Command::new(&tool);
        command.arg(&path).stdout(std::process::Stdio::piped());
        let output = finish(command);
        assert!(output.status.success(), "{code}");
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let found = match key {
            "report" => &answer["report"]["ended_by"],
            other => &answer[other],
        };
        let found = found.as_str().unwrap_or_default();
        assert!(found.contains(expected), "{code}: {answer}");
    }
}
