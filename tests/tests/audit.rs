//! The audit and `rsentry check` as a user meets them.

use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use rsentry_tests::{
    PATIENCE, Process, Sandboxes, eventually, finish, on_every_platform, text, wait,
};
use serde_json::Value;

/// What runc's own template is judged to be, and what becomes of it.
#[test]
fn check_exits_by_the_worst_finding() {
    let sandboxes = Sandboxes::new();
    let template = include_str!("../../src/check/testdata/runc.json");
    std::fs::write(sandboxes.work().join("config.json"), template).unwrap();
    std::fs::write(sandboxes.work().join("policy.toml"), "rw = ['/srv']\n").unwrap();
    for (arguments, code) in [
        (&["check", "config.json"][..], 3),
        (&["check", "--fail-on=high", "config.json"], 3),
        (&["check", "--fail-on=critical", "config.json"], 0),
        (&["check", "policy.toml"], 1),
        (&["check", "--fail-on=awful", "config.json"], 125),
        (&["check", "missing.json"], 125),
        (&["check"], 125),
    ] {
        let output = sandboxes.run(arguments);
        let shown = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {shown}");
        if code == 125 {
            assert_eq!(text(&output.stderr).matches('\n').count(), 1, "{shown}");
        } else {
            let place = if arguments.contains(&"policy.toml") { "/rw/0" } else { "/linux/seccomp" };
            assert!(shown.contains(place) && shown.contains("fix: "), "{shown}");
        }
    }
    let output = sandboxes.run(&["check", "--json", "config.json"]);
    let json = text(&output.stdout);
    assert!(json.starts_with('{') && json.contains("\"worst\": \"high\""), "{json}");
}

#[test]
fn check_bounds_and_names_what_is_malformed() {
    let sandboxes = Sandboxes::new();
    let cases = [
        ("long.json", vec![b' '; (4 << 20) + 1], "longer than"),
        ("deep.json", vec![b'['; 1 << 20], "recursion"),
        ("bytes.json", vec![0xff, 0xfe, 0], "bytes.json"),
        ("unknown.toml", b"memry = 1\n".to_vec(), "memry"),
        ("bad.toml", b"memory = 'much'\n".to_vec(), "memory"),
        ("empty.json", Vec::new(), "empty.json"),
        ("no-oci.json", b"{\"a\": 1}".to_vec(), "ociVersion"),
        ("wrong.json", b"{\"ociVersion\": \"1\", \"mounts\": [{}, 7]}".to_vec(), "/mounts/0"),
    ];
    for (name, content, expected) in cases {
        std::fs::write(sandboxes.work().join(name), content).unwrap();
        let output = sandboxes.run(&["check", name]);
        let line = text(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{name}: {line}");
        assert!(line.contains(expected) && line.matches('\n').count() == 1, "{name}: {line}");
    }
}

/// Whether python is there to make raw calls.
fn python() -> bool {
    let there = ["/usr/bin/python3", "/bin/python3"].iter().any(|path| Path::new(path).exists());
    if !there {
        eprintln!("skipped: no python3");
    }
    there
}

/// The records of a file, each line one.
#[track_caller]
fn records(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is torn: {text}");
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    text.lines().map(parse).collect()
}

/// What a guest does that is worth a record, and the records: kind, call, outcome, what.
const DEEDS: &str = r#"
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
for call in [(101, 16, 1, 0, 0), (321, 0, 0, 0), (308, 3, 0), (175, 0, 0, 0), (41, 17, 3, 0),
             (41, 2, 3, 0), (250, 0, 0, 0), (272, 0x10000000), (304, 3, 0, 0), (999,)]:
    libc.syscall(*call)
def tried(f, *args):
    try: f(*args)
    except OSError: pass
tried(open, "/dev/mem")
tried(open, "/dev/\n{\"kind\":\"end\"}\x1b[2J")
s = socket.socket(socket.AF_UNIX)
tried(s.connect, "/var/run/docker.sock")
tried(s.bind, "/tmp/x")
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))
tried(lambda: [os.dup(0) for i in range(9)])
tried(os.setuid, 12345)
"#;

const RECORDS: &[(&str, &str, &str, &str)] = &[
    ("exec", "execve", "0", "python3"),
    ("escape", "ptrace", "ENOSYS", "ptrace"),
    ("escape", "bpf", "ENOSYS", "bpf"),
    ("escape", "setns", "E", "namespace"),
    ("escape", "init_module", "E", "kernel-module"),
    ("escape", "socket", "EAFNOSUPPORT", "raw-socket"),
    ("escape", "keyctl", "ENOSYS", "keyring"),
    ("escape", "unshare", "E", "namespace"),
    ("escape", "open_by_handle_at", "E", "file-handle"),
    ("unsupported", "syscall_0x3e7", "ENOSYS", ""),
    ("escape", "openat", "ENOENT", "host-file"),
    ("escape", "connect", "ENOENT", "unix:/var/run/docker.sock"),
    ("bind", "bind", "0", "unix:/tmp/x"),
    ("limit", "fcntl", "EMFILE", "files"),
    ("credentials", "setuid", "", "uid="),
];

fn deeds_are_recorded(platform: &str) {
    if !python() {
        return;
    }
    let sandboxes = Sandboxes::on(platform);
    std::fs::write(sandboxes.work().join("deeds.py"), DEEDS).unwrap();
    let run = ["run", "--audit=audit", "--id", "job-7", "sh", "-c", "python3 deeds.py; true"];
    for (who, command) in sandboxes.callers(&run) {
        let path = sandboxes.work().join("audit");
        let output = finish(command);
        assert_eq!(output.status.code(), Some(0), "{who}: {}", text(&output.stderr));
        let records = records(&path);
        let field = |record: &Value, name: &str| record[name].as_str().unwrap_or("").to_owned();
        for &(kind, call, outcome, what) in RECORDS {
            let found = records.iter().find(|record| {
                field(record, "kind") == kind
                    && field(record, "call") == call
                    && field(record, "outcome").starts_with(outcome)
                    && field(record, "what").contains(what)
            });
            let found = found.unwrap_or_else(|| panic!("{who}: no {kind} {call}: {records:#?}"));
            assert!(found["pid"].is_i64() && found["uid"].is_i64(), "{who}: {found}");
            assert_eq!(found["comm"], "python3", "{who}: {found}");
            assert_eq!(found["alert"] == true, matches!(kind, "escape" | "limit"), "{found}");
        }
        for (i, record) in records.iter().enumerate() {
            assert_eq!((&record["sandbox"], &record["seq"]), (&"job-7".into(), &(i + 1).into()));
            assert!(field(record, "time").ends_with('Z'), "{record}");
        }
        let kinds: Vec<String> = records.iter().map(|record| field(record, "kind")).collect();
        assert_eq!((kinds[0].as_str(), kinds[kinds.len() - 1].as_str()), ("start", "end"));
        assert_eq!(kinds.iter().filter(|kind| *kind == "end").count(), 1, "a forged line");
        std::fs::remove_file(&path).unwrap();
    }
    sandboxes.assert_nothing_left();
}

/// A flood of one kind is cut, everything that is not there is counted, and other kinds come through.
fn floods_are_cut_and_counted(platform: &str) {
    if !python() {
        return;
    }
    let sandboxes = Sandboxes::on(platform);
    let flood = "import ctypes\nf = ctypes.CDLL(None).syscall\n\
                 for i in range(5000): f(161, b'/nope' if i % 2 else b'/', 0)\n\
                 for i in range(5000): f(321, 0, 0, 0)\n\
                 f(175, 0, 0, 0)";
    std::fs::write(sandboxes.work().join("audit"), "before\n").unwrap();
    let start = Instant::now();
    let output = sandboxes.run(&["run", "--audit=audit", "--user=1000", "python3", "-c", flood]);
    // So many at once, and so many a second (`sentry/src/audit/limiter.rs`).
    let most = 100 + 20 * (start.elapsed().as_secs() + 1);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let path = sandboxes.work().join("audit");
    let all = std::fs::read_to_string(&path).unwrap();
    // What was there is left alone.
    let all = all.strip_prefix("before\n").unwrap();
    std::fs::write(&path, all).unwrap();
    let records = records(&path);
    let escapes = records.iter().filter(|record| record["kind"] == "escape").count() as u64;
    let dropped: u64 = records
        .iter()
        .filter(|record| record["kind"] == "dropped" && record["of"] == "escape")
        .map(|record| record["count"].as_u64().unwrap())
        .sum();
    assert!(escapes <= most, "{escapes} records, not {most}");
    // 2,500 chroot to / are refused, the others fail for that there is no such directory.
    assert!((5001..=10_001).contains(&(escapes + dropped)), "{escapes} + {dropped}");
    assert!(dropped >= 5001u64.saturating_sub(most), "{dropped}");
}

fn alerts_kill_and_run_commands(platform: &str) {
    if !python() {
        return;
    }
    let sandboxes = Sandboxes::on(platform);
    let guest = "import ctypes, time\nctypes.CDLL(None).syscall(321, 0, 0, 0)\ntime.sleep(60)";
    let exec = "--on-alert=exec:cat >> alerts; echo said";
    let options = ["run", "--report=report", "--on-alert=kill", exec, "python3", "-c", guest];
    let output = sandboxes.run(&options);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(137), "{said}");
    assert!(said.contains("killed by policy") && said.contains("bpf"), "{said}");
    assert!(output.stdout.is_empty() && said.contains("said"), "{said}");
    let report = std::fs::read(sandboxes.work().join("report")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["ended_by"], "policy");
    let alerts = records(&sandboxes.work().join("alerts"));
    assert_eq!(alerts.len(), 1, "{alerts:?}");
    assert_eq!((&alerts[0]["kind"], &alerts[0]["call"]), (&"escape".into(), &"bpf".into()));
}

/// The command of an alert runs when the launcher is killed: neither it, nor what it started, nor the
/// process that ran it goes on.
fn commands_of_alerts_end_with_the_launcher(platform: &str) {
    if !python() {
        return;
    }
    let sandboxes = Sandboxes::on(platform);
    let guest = "import ctypes, time\nctypes.CDLL(None).syscall(321, 0, 0, 0)\ntime.sleep(60)";
    let exec = "--on-alert=exec:sleep 3600 & echo $! > new; mv new pid; wait";
    let mut launcher = sandboxes.command(&["run", exec, "python3", "-c", guest]).spawn().unwrap();
    let mut pid = None;
    eventually("the command runs", || {
        let text = std::fs::read_to_string(sandboxes.work().join("pid")).unwrap_or_default();
        pid = text.trim().parse().ok();
        pid.is_some()
    });
    launcher.kill().unwrap();
    wait(&mut launcher);
    sandboxes.assert_nothing_left();
    // Zombies do not count as processes.
    eventually("the command is gone", || Process::get(pid.unwrap()).is_none());
}

on_every_platform!(
    deeds_are_recorded,
    floods_are_cut_and_counted,
    alerts_kill_and_run_commands,
    commands_of_alerts_end_with_the_launcher,
);

#[test]
fn losing_the_sink_is_said_and_on_request_fatal() {
    let sandboxes = Sandboxes::new();
    let output = sandboxes.run(&["run", "--audit=/dev/full", "echo", "fine"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stderr).contains("audit records are being lost"));
    let required = ["run", "--audit=/dev/full", "--audit-required", "sleep", "60"];
    let output = sandboxes.run(&required);
    assert_eq!(output.status.code(), Some(137), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("killed by policy"), "{}", text(&output.stderr));
}

#[test]
fn sinks_that_cannot_be_had_are_refused() {
    let sandboxes = Sandboxes::new();
    for (option, name) in [
        ("--audit=/no/such/directory/x", "--audit"),
        ("--audit=fd:77", "fd:77"),
        ("--audit=syslog:/no/such/socket", "/no/such/socket"),
        ("--on-alert=shout", "--on-alert"),
        ("--audit-required", "--audit"),
        ("--id=a/b", "--id"),
    ] {
        let output = sandboxes.run(&["run", option, "true"]);
        let line = text(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{option}: {line}");
        assert!(line.contains(name) && line.matches('\n').count() == 1, "{option}: {line}");
    }
}

#[test]
fn records_go_to_descriptors_and_loggers() {
    let sandboxes = Sandboxes::new();
    let line = sandboxes.line(&["run", "--audit=fd:1", "true"]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &format!("{line} | cat >&2")]).current_dir(sandboxes.work());
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let said = text(&finish(shell).stderr);
    assert!(said.contains("\"kind\":\"start\"") && said.contains("\"kind\":\"end\""), "{said}");

    let path = sandboxes.work().join("log");
    let listener = UnixDatagram::bind(&path).unwrap();
    listener.set_read_timeout(Some(PATIENCE)).unwrap();
    for (sink, start) in [("syslog", "<86>rsentry["), ("journald", "SYSLOG_IDENTIFIER=rsentry\n")] {
        let output = sandboxes.run(&["run", &format!("--audit={sink}:{}", path.display()), "true"]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let mut all = String::new();
        let mut buffer = [0; 16 * 1024];
        while !all.contains("\"kind\":\"end\"") {
            let length = listener.recv(&mut buffer).unwrap();
            let message = text(&buffer[..length]);
            assert!(message.starts_with(start), "{message}");
            all += &message;
        }
        assert!(all.contains("\"kind\":\"start\""), "{all}");
    }
}

/// The processes of the sandbox hold a socket, and nothing of the file.
#[test]
fn only_the_launcher_holds_the_file() {
    let sandboxes = Sandboxes::new();
    let mut command = sandboxes.command(&["run", "--audit=audit", "sh", "-c", "echo up; read x"]);
    command.stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut up = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
    let path = sandboxes.work().join("audit").canonicalize().unwrap();
    let holders: Vec<u32> = sandboxes
        .processes()
        .iter()
        .filter(|process| {
            // Undumpable processes tell nobody but root.
            let entries = std::fs::read_dir(format!("/proc/{}/fd", process.pid)).into_iter();
            entries
                .flatten()
                .flatten()
                .any(|e| std::fs::read_link(e.path()).is_ok_and(|p| p == path))
        })
        .map(|process| process.pid)
        .collect();
    drop(child.stdin.take());
    assert!(wait(&mut child).code().is_some());
    assert_eq!(holders, [child.id()]);
    sandboxes.assert_nothing_left();
}

#[test]
fn events_follows_until_the_sandbox_ends() {
    let sandboxes = Sandboxes::new();
    std::fs::write(sandboxes.work().join("audit"), "").unwrap();
    let mut follower =
        sandboxes.command(&["events", "--kind=start,exec,end", "audit"]).spawn().unwrap();
    let output = finish(sandboxes.command(&["run", "--audit=audit", "sh", "-c", "ls; true"]));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(wait(&mut follower).code(), Some(0));
    let mut shown = String::new();
    follower.stdout.take().unwrap().read_to_string(&mut shown).unwrap();
    let kinds: Vec<&str> =
        shown.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    assert_eq!(kinds, ["start", "exec", "end"], "{shown}");
    let output = sandboxes.run(&["events", "--json", "--kind=exec", "audit"]);
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["call"], "execve");
}
