//! `rsentry run --seccomp`: profiles as docker and OCI runtimes have them, before real programs.

use std::process::Output;

use rsentry_tests::{Sandboxes, finish, on_every_platform, text};
use serde_json::{Value, json};

/// Writes a profile, and runs a program under it.
fn run_with(sandboxes: &Sandboxes, profile: &Value, program: &[&str]) -> Output {
    let path = sandboxes.work().join("profile.json");
    std::fs::write(&path, profile.to_string()).unwrap();
    let path = path.to_str().unwrap().to_owned();
    let arguments = [&["run", "--seccomp", &path, "--"], program].concat();
    sandboxes.run(&arguments)
}

#[track_caller]
fn printed(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// What docker's default profile does, by the same means: all but the calls that it lists as
/// blocked, some by argument, and the rest EPERM.
fn like_docker() -> Value {
    const BLOCKED: [&str; 61] = [
        "acct",
        "add_key",
        "bpf",
        "chroot",
        "clock_adjtime",
        "clock_settime",
        "clone",
        "clone3",
        "create_module",
        "delete_module",
        "fanotify_init",
        "finit_module",
        "fsconfig",
        "fsmount",
        "fsopen",
        "fspick",
        "get_kernel_syms",
        "get_mempolicy",
        "init_module",
        "io_uring_enter",
        "io_uring_register",
        "io_uring_setup",
        "ioperm",
        "iopl",
        "kcmp",
        "kexec_file_load",
        "kexec_load",
        "keyctl",
        "lookup_dcookie",
        "mbind",
        "mount",
        "mount_setattr",
        "move_mount",
        "move_pages",
        "nfsservctl",
        "open_by_handle_at",
        "open_tree",
        "perf_event_open",
        "personality",
        "pivot_root",
        "process_vm_readv",
        "process_vm_writev",
        "ptrace",
        "query_module",
        "quotactl",
        "quotactl_fd",
        "reboot",
        "request_key",
        "set_mempolicy",
        "setdomainname",
        "sethostname",
        "setns",
        "settimeofday",
        "socket",
        "swapoff",
        "swapon",
        "syslog",
        "umount2",
        "unshare",
        "userfaultfd",
        "uselib",
    ];
    // New when the profile was written.
    const NEWEST: u32 = 462;
    let allowed: Vec<&str> = sentry::syscalls::TABLE
        .iter()
        .filter(|call| call.nr <= NEWEST && !BLOCKED.contains(&call.name))
        .map(|call| call.name)
        .collect();
    let allow = |name: &str, op: &str, value: u64| {
        json!({ "names": [name], "action": "SCMP_ACT_ALLOW",
            "args": [{ "index": 0, "value": value, "op": op }] })
    };
    let mut rules = vec![
        json!({ "names": allowed, "action": "SCMP_ACT_ALLOW" }),
        json!({ "names": ["chown32", "clock_gettime64", "_llseek", "umount"],
            "action": "SCMP_ACT_ALLOW" }),
        json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38 }),
        json!({ "names": ["mount", "unshare"], "action": "SCMP_ACT_ALLOW",
            "includes": { "arches": ["s390x"] } }),
        // No new namespaces.
        allow("clone", "SCMP_CMP_MASKED_EQ", 0x7e02_0000),
        allow("socket", "SCMP_CMP_LT", 12),
        allow("socket", "SCMP_CMP_EQ", 16),
    ];
    rules.extend(
        [0u64, 8, 0x20000, 0x20008, 0xffff_ffff]
            .map(|persona| allow("personality", "SCMP_CMP_EQ", persona)),
    );
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "archMap": [{ "architecture": "SCMP_ARCH_X86_64",
            "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"] }],
        "syscalls": rules,
    })
}

fn a_profile_like_docker_s_lets_programs_work(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let profile = like_docker();
    let script = "set -e; d=$(mktemp -d); cd $d; echo hello | tr a-z A-Z > f; cat f; ls | wc -l; \
        grep Seccomp: /proc/self/status";
    assert_eq!(
        printed(&run_with(&sandboxes, &profile, &["sh", "-c", script])),
        "HELLO\n1\nSeccomp:\t2\n"
    );
    // What is denied is denied as that profile does it, and what is too new is not there.
    let python = r#"
import ctypes, errno, threading, subprocess, socket, os, json
libc = ctypes.CDLL(None, use_errno=True)
def call(*args):
    ctypes.set_errno(0)
    return errno.errorcode.get(ctypes.get_errno(), 'ok') if libc.syscall(*args) < 0 else 'ok'
t = threading.Thread(target=lambda: print('thread')); t.start(); t.join()
print(subprocess.run(['echo', 'child'], capture_output=True, text=True).stdout.strip())
a, b = socket.socketpair(); a.send(b'x'); print(b.recv(1))
print(call(165, 0, 0, 0, 0, 0), call(272, 0x10000000), call(135, ctypes.c_ulong(0xffffffff)), call(135, 4))
print(call(435, 0, 0), call(468, 0), call(9999), call(0x40000027))
print(call(41, 40, 1, 0), call(56, 0x10000000 | 17, 0, 0, 0, 0))
"#;
    assert_eq!(
        printed(&run_with(&sandboxes, &profile, &["python3", "-c", python])),
        "thread\nchild\nb'x'\nEPERM EPERM ok EPERM\nENOSYS ENOSYS ENOSYS ENOSYS\nEPERM EPERM\n"
    );
    let git = "set -e; export HOME=$(mktemp -d); cd $HOME; git init -q r; cd r; echo x > f; git add f; \
        git -c user.name=N -c user.email=e@example.invalid commit -qm m; git log --format=%s; git status -s";
    assert_eq!(printed(&run_with(&sandboxes, &profile, &["sh", "-c", git])), "m\n");
}

fn actions_are_done(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let with = |name: &str, action: &str, errno: Option<u32>| {
        json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            { "names": [name], "action": action, "errnoRet": errno }] })
    };
    let run = |action: &str, errno| {
        let profile = with("mkdir", action, errno);
        let output = run_with(&sandboxes, &profile, &["mkdir", "/tmp/x"]);
        (output.status.code(), text(&output.stderr))
    };
    let failures = [
        ("SCMP_ACT_ERRNO", None, "Operation not permitted"),
        ("SCMP_ACT_ERRNO", Some(28), "No space left on device"),
        ("SCMP_ACT_TRACE", Some(28), "Function not implemented"),
    ];
    for (action, errno, message) in failures {
        let (code, said) = run(action, errno);
        assert!(code == Some(1) && said.contains(message), "{action}: {code:?} {said}");
    }
    assert_eq!(run("SCMP_ACT_LOG", None), (Some(0), String::new()));
    for action in
        ["SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"]
    {
        assert_eq!(run(action, None).0, Some(128 + libc::SIGSYS), "{action}");
    }
    // A call that the platform would answer by itself.
    let profile = with("getuid", "SCMP_ACT_ERRNO", Some(77));
    let python = "import ctypes\nl = ctypes.CDLL(None, use_errno=True)\n\
        print({(l.syscall(102), ctypes.get_errno()) for _ in range(3000)})";
    let output = run_with(&sandboxes, &profile, &["python3", "-c", python]);
    assert_eq!(printed(&output), "{(-1, 77)}\n");
}

on_every_platform!(a_profile_like_docker_s_lets_programs_work, actions_are_done);

#[test]
fn every_caller_can_have_a_profile() {
    let sandboxes = Sandboxes::new();
    let path = sandboxes.work().join("profile.json");
    let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        { "names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 }] });
    std::fs::write(&path, profile.to_string()).unwrap();
    let path = path.to_str().unwrap();
    for (who, command) in sandboxes.callers(&["run", "--seccomp", path, "mkdir", "/tmp/x"]) {
        let output = finish(command);
        assert_eq!(output.status.code(), Some(1), "{who}");
        assert!(text(&output.stderr).contains("not supported"), "{who}: {}", text(&output.stderr));
    }
    sandboxes.assert_nothing_left();
}

#[test]
fn bad_profiles_are_refused_and_odd_names_told() {
    let sandboxes = Sandboxes::new();
    let refused = |profile: &str, what: &str| {
        let path = sandboxes.work().join("profile.json");
        std::fs::write(&path, profile).unwrap();
        let output = sandboxes.run(&["run", "--seccomp", path.to_str().unwrap(), "true"]);
        let line = text(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{line}");
        assert!(line.starts_with("rsentry: error: --seccomp: "), "{line}");
        assert!(line.matches('\n').count() == 1 && line.contains(what), "{line}");
    };
    refused("", "EOF");
    refused("{}", "defaultAction");
    refused(r#"{"defaultAction": "SCMP_ACT_HOPE"}"#, "SCMP_ACT_HOPE");
    let notify = json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x", "syscalls": [
        { "names": ["mkdir"], "action": "SCMP_ACT_NOTIFY" }] });
    refused(&notify.to_string(), "listenerPath");
    refused(r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#, "listenerPath");
    let output = sandboxes.run(&["run", "--seccomp", "/no/such/profile", "true"]);
    assert_eq!(output.status.code(), Some(125));
    let odd = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        { "names": ["mkdirr", "chown32"], "action": "SCMP_ACT_ERRNO" }] });
    let output = run_with(&sandboxes, &odd, &["echo", "fine"]);
    assert_eq!(printed(&output), "fine\n");
    let told = text(&output.stderr);
    assert!(told.contains("mkdirr") && !told.contains("chown32"), "{told}");
}
