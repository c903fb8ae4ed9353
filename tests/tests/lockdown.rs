//! The layers around the gofer and the Sentry are in force: read back from the host's `/proc`
//! while a sandbox runs, not from the code. As root and as an unprivileged caller.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rsentry_tests::{Process, Sandboxes, eventually, wait};

const NAMESPACES: [&str; 7] = ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup"];
const CAPABILITY_SETS: [&str; 5] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
const CANARY: &str = "canary-4711";

/// A sandbox in which `cat` waits for input.
struct Running {
    launcher: Child,
    gofer: Process,
    sentry: Process,
}

impl Running {
    fn start(mut command: Command) -> Running {
        command.env("CANARY", CANARY).stdin(Stdio::piped()).stderr(Stdio::inherit());
        let launcher = command.spawn().expect("rsentry starts");
        let mut children = Vec::new();
        eventually("gofer and Sentry are sealed", || {
            children = Process::children(launcher.id());
            children.len() == 2 && children.iter().all(|child| child.field("Seccomp") == "2")
        });
        // Not before: they have all of the host's mounts at first.
        children.sort_by_key(first_namespaced);
        let sentry = children.pop().expect("two children");
        let gofer = children.pop().expect("two children");
        Running { launcher, gofer, sentry }
    }

    fn stop(mut self) {
        drop(self.launcher.stdin.take());
        let status = wait(&mut self.launcher);
        assert_eq!(status.code(), Some(0), "cat ends at the end of its input");
    }
}

/// The gofer sees more than one mount; the Sentry one.
fn first_namespaced(process: &Process) -> usize {
    usize::MAX - process.mounts().len()
}

fn is_root() -> bool {
    // SAFETY: no arguments.
    unsafe { libc::geteuid() == 0 }
}

fn both_are_locked_down(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let me = Process::get(std::process::id()).unwrap();
    for (who, command) in sandboxes.callers(&["run", "cat"]) {
        let privileged = is_root() && who == "the caller";
        let running = Running::start(command);
        for process in [&running.gofer, &running.sentry] {
            let tasks = fs::read_dir(format!("/proc/{}/task", process.pid)).unwrap();
            for task in tasks {
                let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
                assert!(status.contains("\nNoNewPrivs:\t1\n"), "{who}: {status}");
                assert!(status.contains("\nSeccomp:\t2\n"), "{who}: {status}");
            }
            assert_eq!(process.field("NSpid").split_whitespace().last(), Some("1"), "{who}");
            assert_eq!(process.field("NSsid").split_whitespace().last(), Some("1"), "{who}");
            let limits = fs::read_to_string(format!("/proc/{}/limits", process.pid)).unwrap();
            for name in [
                "Max core file size",
                "Max locked memory",
                "Max msgqueue size",
                "Max realtime priority",
            ] {
                let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
                assert!(line.split_whitespace().take(2).eq(["0", "0"]), "{who}: {name}: {line}");
            }
            let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
            let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", process.pid)).unwrap();
            let [own, score] = [own, score].map(|text| text.trim().parse::<i32>().unwrap());
            assert!(score > own, "{who}: the OOM killer's score is {score}");
        }
        for name in NAMESPACES.into_iter().filter(|_| is_root()) {
            let all: BTreeSet<_> =
                [&me, &running.gofer, &running.sentry].map(|it| it.namespace(name)).into();
            assert_eq!(all.len(), 3, "{who}: {name} is shared: {all:?}");
        }
        if is_root() && Path::new("/proc/self/ns/time").exists() {
            assert_ne!(running.sentry.namespace("time"), me.namespace("time"), "{who}");
            for stub in Process::children(running.sentry.pid) {
                assert_eq!(stub.namespace("time"), running.sentry.namespace("time"), "{who}");
            }
        }
        for set in CAPABILITY_SETS {
            assert_eq!(running.sentry.field(set), format!("{:016x}", 0), "{who}: {set}");
            // A root caller's gofer reads all that root may read, and can do no more than that.
            let keeps = privileged && (set == "CapPrm" || set == "CapEff");
            let expected = format!("{:016x}", if keeps { 1 << 2 } else { 0 });
            assert_eq!(running.gofer.field(set), expected, "{who}: {set}");
        }
        if privileged {
            assert_eq!(running.sentry.field("Uid"), "65534\t65534\t65534\t65534");
            assert_eq!(running.sentry.field("Gid"), "65534\t65534\t65534\t65534");
            assert_eq!(running.sentry.field("Groups"), "");
        }
        running.stop();
    }
    sandboxes.assert_nothing_left();
}

fn the_launcher_confines_itself(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    for (who, command) in sandboxes.callers(&["run", "cat"]) {
        let running = Running::start(command);
        let status = |name: &str| Process::get(running.launcher.id()).unwrap().field(name);
        eventually("the launcher has its filter", || status("Seccomp") == "2");
        assert_eq!(status("NoNewPrivs"), "1", "{who}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(status(set), format!("{:016x}", 0), "{who}: {set}");
        }
        if is_root() && who == "the caller" {
            assert_eq!(status("CapBnd"), format!("{:016x}", 0), "{who}");
        }
        running.stop();
    }
    sandboxes.assert_nothing_left();
}

/// Lets a process that waits in a system call make this one instead, as a debugger would. Returns
/// whether it was in one: it may have been on its way to the next.
fn make_call(pid: u32, call: i64) -> bool {
    let pid = pid as i32;
    let null = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: an all-zero set of registers is a valid value; `registers` is valid for the writes and
    // reads of the two requests that take it, the others take no pointers.
    unsafe {
        let mut registers: libc::user_regs_struct = std::mem::zeroed();
        let mut stopped = 0;
        assert_eq!(libc::ptrace(libc::PTRACE_SEIZE, pid, null, null), 0);
        assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, pid, null, null), 0);
        assert_eq!(libc::waitpid(pid, &raw mut stopped, libc::__WALL), pid);
        assert_eq!(libc::ptrace(libc::PTRACE_GETREGS, pid, null, &raw mut registers), 0);
        let in_call = registers.orig_rax as i64 >= 0;
        if in_call {
            // Back to the instruction, which is two bytes long; and no restart of the call before.
            registers.rip -= 2;
            registers.rax = call as u64;
            registers.orig_rax = u64::MAX;
            assert_eq!(libc::ptrace(libc::PTRACE_SETREGS, pid, null, &raw const registers), 0);
        }
        assert_eq!(libc::ptrace(libc::PTRACE_DETACH, pid, null, null), 0);
        in_call
    }
}

fn the_launcher_dies_of_a_call_off_its_list_and_all_with_it(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    for call in [libc::SYS_socket, libc::SYS_kill, libc::SYS_execve, libc::SYS_clone] {
        let mut running = Running::start(sandboxes.command(&["run", "cat"]));
        eventually("the launcher waits with its filter", || {
            let launcher = Process::get(running.launcher.id()).unwrap();
            launcher.field("Seccomp") == "2" && launcher.field("State").starts_with('S')
        });
        eventually("it waits in a call", || make_call(running.launcher.id(), call));
        let status = wait(&mut running.launcher);
        // Debug builds say which call it was, and exit.
        assert!(
            status.signal() == Some(libc::SIGSYS) || status.code() == Some(125),
            "{call}: {status:?}"
        );
        sandboxes.assert_nothing_left();
    }
}

fn the_sentry_sees_no_file_and_the_gofer_no_more_than_it_serves(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    for (who, command) in sandboxes.callers(&["run", "cat"]) {
        let running = Running::start(command);
        let mounts = running.sentry.mounts();
        let [(place, options)] = &mounts[..] else { panic!("{who}: {mounts:?}") };
        assert_eq!(place, "/");
        assert!(options.starts_with("ro,nosuid,nodev,noexec"), "{who}: {options}");
        let allowed = ["/0", "/1", "/masks"];
        for (place, options) in running.gofer.mounts() {
            let known = place == "/" || allowed.iter().any(|top| place.starts_with(top));
            assert!(known, "{who}: {place}");
            assert!(options.starts_with("ro,nosuid,nodev"), "{who}: {place}: {options}");
        }
        if is_root() {
            let root = |process: &Process, path: &str| format!("/proc/{}/root{path}", process.pid);
            let files = fs::read_dir(root(&running.sentry, "/")).unwrap().count();
            assert_eq!(files, 0, "{who}: the Sentry's root is not empty");
            assert!(fs::metadata(root(&running.gofer, "/0/etc/passwd")).unwrap().len() > 0);
            for secret in ["/0/etc/shadow", "/0/etc/gshadow"] {
                let length = fs::metadata(root(&running.gofer, secret)).unwrap().len();
                assert_eq!(length, 0, "{who}: {secret} can be seen");
            }
            assert_eq!(fs::read_dir(root(&running.gofer, "/0/root")).unwrap().count(), 0, "{who}");
        }
        running.stop();
    }
    sandboxes.assert_nothing_left();
}

fn neither_holds_a_descriptor_or_a_string_that_it_should_not(platform: &str) {
    if !is_root() {
        eprintln!("not root: undumpable processes cannot be looked into");
        return;
    }
    let sandboxes = Sandboxes::on(platform);
    for (who, command) in sandboxes.callers(&["run", "cat"]) {
        // What the test runner itself was started with must not show up anywhere.
        let leaked = fs::File::open("/").unwrap();
        let flags = 0;
        // SAFETY: plain numbers; clears close-on-exec.
        unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&leaked), libc::F_SETFD, flags) };
        let running = Running::start(command);
        drop(leaked);

        let sentry = running.sentry.descriptors();
        for (number, start) in [(0, "pipe:"), (1, "pipe:"), (3, "socket:"), (4, "socket:")] {
            assert!(sentry[&number].starts_with(start), "{who}: {number}: {sentry:?}");
        }
        for number in sentry.keys().filter(|&&number| number > 5) {
            let path = format!("/proc/{}/fd/{number}", running.sentry.pid);
            // It may be closed by now.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            let kind = metadata.file_type();
            let device = kind.is_char_device() || kind.is_block_device();
            assert!(!kind.is_dir() && !device, "{who}: {number}: {sentry:?}");
        }
        let gofer = running.gofer.descriptors();
        for (number, start) in [(0, "/dev/null"), (1, "/dev/null"), (3, "socket:")] {
            assert!(gofer[&number].starts_with(start), "{who}: {number}: {gofer:?}");
        }
        // Nobody can write to the program file through them (CVE-2019-5736).
        let binary = sandboxes.command(&[]).get_program().to_owned();
        for held in [&sentry, &gofer] {
            assert!(held.values().all(|file| **file != *binary), "{who}: {held:?}");
        }
        for process in [&running.gofer, &running.sentry] {
            let environ = fs::read(format!("/proc/{}/environ", process.pid)).unwrap();
            assert!(environ.iter().all(|&byte| byte == 0), "{who}: the environment is still there");
        }
        running.stop();
    }
}

fn a_writable_mount_gives_the_gofer_what_writing_needs(platform: &str) {
    if !is_root() {
        eprintln!("not root: the gofer has no capabilities in any case");
        return;
    }
    let sandboxes = Sandboxes::on(platform);
    let running = Running::start(sandboxes.command(&["run", "--rw", ".", "cat"]));
    // CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID.
    assert_eq!(running.gofer.field("CapEff"), format!("{:016x}", 0b11111));
    let work = sandboxes.work().canonicalize().unwrap();
    let writable: Vec<_> = running
        .gofer
        .mounts()
        .into_iter()
        .filter(|(_, options)| !options.starts_with("ro"))
        .collect();
    assert_eq!(writable.len(), 1, "only {work:?} is writable: {writable:?}");
    running.stop();
}

/// As an unprivileged user whom `/etc/subuid` gives ids, in a mount namespace of its own: this machine's
/// files stay as they are.
fn subordinate_ids_are_owners(platform: &str) {
    let helpers = ["/usr/bin/newuidmap", "/usr/bin/newgidmap", "/etc/subuid", "/etc/subgid"];
    if let Some(missing) = helpers.iter().find(|path| !Path::new(path).exists()) {
        eprintln!("skipped: no {missing} (package uidmap)");
        return;
    }
    if !is_root() {
        eprintln!("skipped: not root: cannot be a user with subordinate ids");
        return;
    }
    let sandboxes = Sandboxes::on(platform);
    let work = sandboxes.work();
    fs::write(work.join("passwd"), "root:x:0:0::/:/bin/sh\nme:x:1000:1000::/:/bin/sh\n").unwrap();
    for file in ["subuid", "subgid"] {
        fs::write(work.join(file), "me:300000:65536\n").unwrap();
    }
    let tree = work.join("tree");
    fs::create_dir(&tree).unwrap();
    let own = |name: &str, id: u32| {
        let path = tree.join(name);
        fs::write(&path, name).unwrap();
        std::os::unix::fs::chown(&path, Some(id), Some(id)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    own("mine", 1000);
    own("first", 300_000);
    own("tenth", 300_009);
    own("root", 0);
    std::os::unix::fs::chown(&tree, Some(1000), Some(1000)).unwrap();
    let run = |with: bool, guest: &[&str]| {
        let rw = format!("--rw={}:/x", tree.display());
        let report = work.join("report");
        let option = format!("--report={}", report.display());
        let command = [&["run", &option, &rw], guest].concat();
        let mounts = "for file in passwd subuid subgid; do mount --bind $1/$file /etc/$file; done;";
        let script = format!(
            "{} shift; exec setpriv --reuid 1000 --regid 1000 --clear-groups --inh-caps=-all \"$@\"",
            if with { mounts } else { "" },
        );
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation=private", "sh", "-ec", &script, "sh"]).arg(&work);
        let run = sandboxes.command(&command);
        unshare.arg(run.get_program()).args(run.get_args());
        unshare.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = rsentry_tests::finish(unshare);
        let mut said = String::from_utf8_lossy(&output.stderr).into_owned();
        said += &fs::read_to_string(report).unwrap_or_default();
        (String::from_utf8_lossy(&output.stdout).into_owned(), said)
    };
    // The caller's own id stays what it is.
    let (owners, said) = run(true, &["sh", "-c", "stat -c %n=%u:%g /x/*"]);
    assert_eq!(owners, "/x/first=0:0\n/x/mine=1000:1000\n/x/root=0:0\n/x/tenth=9:9\n", "{said}");
    assert!(said.contains("subordinate-ids"), "{said}");
    // For a guest that is root, it is root.
    let script = "cat /x/first /x/tenth; touch /x/new /x/given; chown 5:7 /x/given; \
                  chown 65534 /x/given 2>/dev/null || echo no; cat /x/root 2>/dev/null || echo no; \
                  stat -c %n=%u:%g /x/*";
    let (owners, said) = run(true, &["--user=0", "sh", "-c", script]);
    assert_eq!(
        owners,
        "firsttenthno\nno\n/x/first=1:1\n/x/given=5:7\n/x/mine=0:0\n/x/new=0:0\n/x/root=0:0\n\
         /x/tenth=10:10\n",
        "{said}"
    );
    for (name, uid, gid) in [("new", 1000, 1000), ("given", 300_004, 300_006)] {
        let metadata = fs::metadata(tree.join(name)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (uid, gid), "{name}");
    }
    // Who has none is alone.
    let script = "touch /x/alone && chown 5 /x/alone";
    let (_, said) = run(false, &["--user=0", "sh", "-c", script]);
    assert!(said.contains("one-id") && said.contains("chown"), "{said}");
    assert_eq!(fs::metadata(tree.join("alone")).unwrap().uid(), 1000);
    sandboxes.assert_nothing_left();
}

fn the_hosts_kernel_files_are_never_shown(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    for option in ["--ro=/proc:/x", "--rw=/sys:/x", "--rw=/proc/sys/kernel:/x", "--root=/proc"] {
        let output = sandboxes.run(&["run", option, "true"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(125), "{option}: {said}");
        assert!(said.contains(&option[..4]) && said.contains("never shown"), "{option}: {said}");
    }
    for option in ["--ro=/:/h", "--rw=/:/h"] {
        let script = "ls -A /h/proc /h/sys; touch /h/proc/x 2>/dev/null && echo made";
        let arguments = ["run", option, "--user=0", "sh", "-c", script];
        for (who, command) in sandboxes.callers(&arguments) {
            let output = rsentry_tests::finish(command);
            let (said, complaint) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(!said.contains("made") && !said.contains("kcore"), "{who}: {option}: {said}");
            // Something empty; or, for who may not look into that, nothing.
            let empty = said == "/h/proc:\n\n/h/sys:\n" || complaint.contains("denied");
            assert!(empty, "{who}: {option}: {said}{complaint}");
        }
        // A taken-over gofer has no more.
        let mut command = sandboxes.command(&["run", option, "cat"]);
        command.stdin(Stdio::piped());
        let mut running = command.spawn().unwrap();
        eventually("something empty covers them", || {
            Process::children(running.id()).iter().any(|gofer| {
                let mounts = gofer.mounts();
                let last = |place: &str| mounts.iter().rfind(|(at, _)| at.ends_with(place));
                ["/proc", "/sys"].iter().all(|place| {
                    last(place).is_some_and(|(_, options)| options.contains("- tmpfs"))
                })
            })
        });
        drop(running.stdin.take());
        wait(&mut running);
    }
    sandboxes.assert_nothing_left();
}

rsentry_tests::on_every_platform! {
    the_hosts_kernel_files_are_never_shown,
    subordinate_ids_are_owners,
    both_are_locked_down,
    the_launcher_confines_itself,
    the_launcher_dies_of_a_call_off_its_list_and_all_with_it,
    the_sentry_sees_no_file_and_the_gofer_no_more_than_it_serves,
    neither_holds_a_descriptor_or_a_string_that_it_should_not,
    a_writable_mount_gives_the_gofer_what_writing_needs,
}
