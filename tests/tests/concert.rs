//! Attacks that need the host's side as well: races with the host over a shared directory, descriptors
//! that the caller passes in, terminals, floods of output, full disks. And what one sandbox can see
//! of another.

use std::fs;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rsentry_tests::{Lag, Sandboxes, Terminal, eventually, finish, text, wait};
use syscall_conformance::build;

fn guest() -> &'static Path {
    static GUEST: OnceLock<PathBuf> = OnceLock::new();
    GUEST.get_or_init(|| {
        build::static_guest("rsentry-tests", "attack-guest", false).expect("the guest builds")
    })
}

/// The option that shows the guest program's folder.
fn bind() -> String {
    let folder = guest().parent().expect("the guest is in a folder");
    format!("--ro={}:/attack", folder.display())
}

/// renameat2(2) with RENAME_EXCHANGE.
fn exchange(one: &Path, other: &Path) {
    let c = |path: &Path| std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    let (one, other) = (c(one), c(other));
    let at = libc::AT_FDCWD;
    // SAFETY: strings that end. Whether it works does not matter: the guest is at work, too.
    unsafe { libc::renameat2(at, one.as_ptr(), at, other.as_ptr(), libc::RENAME_EXCHANGE) };
}

/// Two threads of the host swap directories for links that lead outside while three of the guest walk
/// them, read, make, rename and remove.
fn races_against_the_gofer(platform: &str) {
    const SECONDS: &str = "20";
    let sandboxes = Sandboxes::on(platform);
    let base = sandboxes.work();
    let (shared, outside) = (base.join("shared"), base.join("outside"));
    for (top, text) in [(&shared.join("d"), "inside"), (&outside, "outside")] {
        fs::create_dir_all(top.join("e")).unwrap();
        for name in ["secret", "e/secret", "outside-name", "precious"] {
            fs::write(top.join(name), text).unwrap();
        }
    }
    fs::remove_file(shared.join("d/outside-name")).unwrap();
    symlink(&outside, shared.join("link")).unwrap();
    symlink("../outside", shared.join("relative")).unwrap();
    symlink("../../outside", shared.join("d/e2")).unwrap();
    let bind_shared = format!("--rw={}:/shared", shared.display());
    let mut child = sandboxes
        .command(&[
            "run",
            "--user=0:0",
            &bind(),
            &bind_shared,
            "-w",
            "/shared",
            "--",
            "/attack/attack-guest",
            "race",
            SECONDS,
        ])
        // The caller's directory is shown, and everything is below that of the test.
        .current_dir("/")
        .spawn()
        .unwrap();
    let over = AtomicBool::new(false);
    let status = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                exchange(&shared.join("d"), &shared.join("link"));
                exchange(&shared.join("d"), &shared.join("relative"));
                exchange(&shared.join("d/e"), &shared.join("d/e2"));
            }
        });
        scope.spawn(|| {
            // Out of the tree and back.
            while !over.load(Ordering::Relaxed) {
                drop(fs::rename(shared.join("d/e"), base.join("away")));
                std::thread::sleep(Duration::from_micros(300));
                drop(fs::rename(base.join("away"), shared.join("d/e")));
            }
        });
        let status = wait(&mut child);
        over.store(true, Ordering::Relaxed);
        status
    });
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(status.success(), "{status}: {said}");
    let mut names: Vec<_> =
        fs::read_dir(&outside).unwrap().flatten().map(|e| e.file_name()).collect();
    names.sort();
    names.retain(|name| name != "e" && name != "e2");
    assert_eq!(names, ["outside-name", "precious", "secret"], "the outside changed");
    for name in ["secret", "outside-name", "precious"] {
        assert_eq!(fs::read_to_string(outside.join(name)).unwrap(), "outside");
    }
    sandboxes.assert_nothing_left();
}

/// `rsentry run ... < /some/directory`
fn a_directory_as_standard_input(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let directory = sandboxes.work();
    fs::write(directory.join("host-secret"), "secret").unwrap();
    let arguments = ["run", &bind(), "-w", "/", "--", "/attack/attack-guest", "guest", "directory"];
    let mut command = sandboxes.command(&arguments);
    command.stdin(fs::File::open(&directory).unwrap());
    let output = finish(command);
    let said = text(&output.stdout);
    // Refusing to start is as good.
    assert!(said == "tried\n" || output.status.code() == Some(125), "{output:?}");
    sandboxes.assert_nothing_left();
}

/// A socket of the host as standard input, with descriptors on their way in.
fn descriptors_in_messages(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let secret = fs::File::open("/etc/hostname").or_else(|_| fs::File::open("/")).unwrap();
    send_descriptor(&ours, secret.as_raw_fd());
    let arguments =
        ["run", &bind(), "-w", "/", "--", "/attack/attack-guest", "guest", "take_descriptors"];
    let mut command = sandboxes.command(&arguments);
    command.stdin(OwnedFd::from(theirs));
    let output = finish(command);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(!said.contains("got descriptors") && !said.contains("is open"), "{said}");
    assert!(!received_descriptor(&ours), "the guest has sent a descriptor to the host: {said}");
    sandboxes.assert_nothing_left();
}

fn send_descriptor(socket: &UnixStream, fd: i32) {
    let mut byte = b'x';
    let mut control = [0u64; 8];
    // SAFETY: the message's parts are valid.
    unsafe {
        let mut piece = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        let mut message: libc::msghdr = std::mem::zeroed();
        (message.msg_iov, message.msg_iovlen) = (&raw mut piece, 1);
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(4) as usize;
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as usize;
        *libc::CMSG_DATA(header).cast::<i32>() = fd;
        assert_eq!(libc::sendmsg(socket.as_raw_fd(), &message, 0), 1);
    }
}

/// Whether anything that waits on the socket has a descriptor with it.
fn received_descriptor(socket: &UnixStream) -> bool {
    let mut bytes = [0u8; 64];
    let mut control = [0u64; 64];
    // SAFETY: the message's parts are valid.
    unsafe {
        loop {
            let mut piece = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: 64 };
            let mut message: libc::msghdr = std::mem::zeroed();
            (message.msg_iov, message.msg_iovlen) = (&raw mut piece, 1);
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = size_of_val(&control);
            if libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_DONTWAIT) <= 0 {
                return false;
            }
            if message.msg_controllen > 0 {
                return true;
            }
        }
    }
}

/// Typing into the caller's terminal: with a terminal of the sandbox's own, and with the caller's
/// passed through because standard output is a file.
fn typing_into_the_callers_terminal(platform: &str) {
    for piped in [false, true] {
        let sandboxes = Sandboxes::on(platform);
        let mut terminal = Terminal::new(24, 80);
        let arguments =
            ["run", &bind(), "-w", "/", "--", "/attack/attack-guest", "guest", "terminal"];
        let line = sandboxes.line(&arguments);
        // A shell that goes on reading the terminal afterwards is what would be attacked.
        let line = if piped { format!("{line} | cat") } else { line };
        let mut shell = Command::new("/bin/bash");
        shell.args(["-c", &format!("{line}; read -t 1 word; echo \"read=$word.\"")]);
        shell.current_dir(sandboxes.work());
        let mut child = terminal.spawn(shell);
        let seen = terminal.expect("read=.");
        assert!(seen.contains("typed "), "{seen:?}");
        wait(&mut child);
        assert!(!sandboxes.work().join("pwned").exists());
        sandboxes.assert_nothing_left();
    }
}

/// A reader that does not read: the Sentry keeps nothing; one that goes away: the guest is told.
fn output_flood(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let arguments = ["run", &bind(), "-w", "/", "--", "/attack/attack-guest", "guest", "flood"];
    let mut command = sandboxes.command(&arguments);
    command.stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut reader = child.stdout.take().unwrap();
    let mut bytes = vec![0; 8 << 20];
    reader.read_exact(&mut bytes).unwrap();
    assert!(bytes.iter().all(|&byte| byte == b'x'));
    std::thread::sleep(Duration::from_millis(300));
    for process in sandboxes.processes() {
        let status =
            fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap_or_default();
        let kib = |line: &str| {
            line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
        };
        let anonymous = status.lines().find_map(kib).unwrap_or(0);
        assert!(anonymous < 40 << 10, "{anonymous} KiB of {}", process.pid);
    }
    drop(reader);
    // Rust's own start-up ignores SIGPIPE: the guest sees EPIPE.
    assert_eq!(wait(&mut child).code(), Some(7));
    sandboxes.assert_nothing_left();
}

/// A writable mount that is small: the guest gets ENOSPC at its size, and the host's disk nothing.
fn a_full_disk(platform: &str) {
    // SAFETY: no arguments.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("not root: no small file system can be made");
        return;
    }
    let sandboxes = Sandboxes::on(platform);
    let small = sandboxes.work().join("small");
    fs::create_dir(&small).unwrap();
    let rw = format!("--rw={}:/small", small.display());
    let arguments = [
        "run",
        "--user=0:0",
        &bind(),
        &rw,
        "-w",
        "/small",
        "--",
        "/attack/attack-guest",
        "guest",
        "fill",
    ];
    let line = sandboxes.line(&arguments);
    // In mount namespace of its own: nothing of it is seen by others, or left.
    let script = format!("mount -t tmpfs -o size=8m small {} && {line}", small.display());
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
    command.current_dir(sandboxes.work());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = finish(command);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    let wrote: u64 = said.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    assert!(said.ends_with("Some(28)\n") && (7 << 20..=8 << 20).contains(&wrote), "{said}");
    sandboxes.assert_nothing_left();
}

/// What a guest can observe, one line each, without what time itself changes.
const OBSERVE: &str = r#"
import os, re, resource, stat, time
def show(name, value): print(name, value)
def read(path):
    try:
        with open(path, 'rb') as f: return f.read(100000)
    except OSError as e: return e.errno
for path in ['/proc/cpuinfo', '/proc/version', '/proc/filesystems', '/proc/devices', '/proc/cgroups',
             '/proc/mounts', '/proc/self/mountinfo', '/proc/self/cgroup', '/proc/partitions', '/proc/diskstats',
             '/proc/modules', '/proc/locks', '/proc/swaps', '/proc/cmdline', '/proc/interrupts',
             '/proc/self/limits', '/proc/self/io', '/proc/net/unix', '/proc/net/dev', '/proc/net/tcp',
             '/proc/loadavg', '/proc/sys/kernel/hostname', '/proc/sys/kernel/threads-max',
             '/proc/sys/kernel/random/entropy_avail', '/proc/sys/fs/file-nr', '/proc/sys/fs/inode-nr',
             '/etc/machine-id', '/proc/kallsyms', '/proc/keys', '/proc/buddyinfo', '/proc/zoneinfo',
             '/proc/pressure/cpu', '/proc/pressure/memory', '/proc/softirqs', '/proc/timer_list']:
    show(path, read(path))
mem = read('/proc/meminfo').decode()
show('memtotal', [l for l in mem.splitlines() if l.startswith(('MemTotal', 'Swap', 'Commit'))][:3])
show('free', int(re.search(r'MemFree: *(\d+)', mem).group(1)) // 65536)
show('stat', [l for l in read('/proc/stat').decode().splitlines() if l.startswith(('processes', 'ctxt', 'intr', 'procs'))])
status = read('/proc/self/status').decode()
show('status', [l for l in status.splitlines() if not l.startswith(('Vm', 'Rss', 'voluntary', 'nonvoluntary', 'Stack'))])
show('proc', sorted(os.listdir('/proc')))
show('sys', sorted(os.listdir('/sys')))
show('pids', [os.getpid(), os.getppid(), os.getpgrp(), os.getsid(0)])
children = []
for _ in range(5):
    p = os.fork()
    if p == 0: os._exit(0)
    os.waitpid(p, 0); children.append(p)
show('children', children)
inodes = []
for n in range(5):
    fd = os.open('/tmp/f%d' % n, os.O_CREAT | os.O_RDWR); s = os.fstat(fd)
    inodes.append((s.st_ino, s.st_dev, fd))
a, b = os.pipe(); s = os.fstat(a); inodes.append((s.st_ino, s.st_dev))
show('inodes', inodes)
for path in ['/', '/tmp', '/proc', '/dev', '/dev/shm', '/dev/null', '/proc/self', '/usr/bin/env']:
    s = os.stat(path); show(path, (s.st_ino if path not in ('/proc/self',) else 0, s.st_dev, s.st_mode, s.st_nlink, s.st_uid, s.st_rdev))
for path in ['/tmp', '/dev/shm']:
    v = os.statvfs(path); show(path, (v.f_blocks, v.f_files, v.f_bfree // 65536, v.f_ffree))
show('uname', os.uname())
show('cpus', (os.cpu_count(), sorted(os.sched_getaffinity(0))))
show('limits', [resource.getrlimit(n) for n in range(16)])
for nr in (0, 1, 9, 400, 4711, 32767):
    try: os.kill(nr + 5000, 0); show('kill', nr)
    except OSError as e: show('kill', (nr, e.errno))
maps = read('/proc/self/maps').decode()
show('maps', [re.sub(r'[0-9a-f]{8,}', 'X', l).split(' ', 1)[-1] for l in maps.splitlines()])
auxv = read('/proc/self/auxv')
import struct
for i in range(0, len(auxv), 16):
    k, v = struct.unpack('QQ', auxv[i:i + 16])
    # Addresses are random.
    show('auxv %d' % k, v if k not in (3, 7, 9, 15, 24, 25, 31, 33) else 'address')
# All of these trees, but for what is random by nature.
RANDOM = ('/proc/sys/kernel/random/uuid', '/proc/sys/kernel/random/boot_id')
for top in ['/proc/sys', '/sys', '/proc/net', '/proc/tty', '/proc/fs', '/proc/irq', '/proc/bus']:
    for folder, folders, files in sorted(os.walk(top)):
        folders.sort(); show(folder, folders)
        for name in sorted(files):
            path = folder + '/' + name
            try: s = os.lstat(path); show(path, (s.st_ino, s.st_mode, s.st_uid, s.st_size))
            except OSError as e: show(path, e.errno)
            if stat.S_ISREG(s.st_mode) and path not in RANDOM: show(path, read(path))
# Of oneself all but addresses and time.
for name in sorted(os.listdir('/proc/self')):
    path = '/proc/self/' + name
    s = os.lstat(path); show(path, (s.st_mode, s.st_uid, s.st_nlink))
    if stat.S_ISLNK(s.st_mode): show(path, os.readlink(path))
    elif name in ('maps', 'smaps', 'smaps_rollup', 'auxv', 'mem', 'pagemap', 'stat', 'statm', 'status', 'schedstat', 'sched', 'syscall', 'numa_maps'): pass
    elif stat.S_ISREG(s.st_mode): show(path, read(path))
fields = read('/proc/self/stat').decode().rsplit(')', 1)[1].split()
show('own stat', fields[:7] + fields[15:19] + fields[36:37])
lines = read('/proc/stat').decode().splitlines()
show('stat lines', [l.split()[0] for l in lines])
show('cpu fields', [len(l.split()) for l in lines if l.startswith('cpu')])
up, idle = map(float, read('/proc/uptime').split())
show('uptime', 0 <= up < 100)
show('boot', abs(time.time() - up - int([l for l in lines if l.startswith('btime')][0].split()[1])) < 5)
show('meminfo', [l.split(':')[0] for l in mem.splitlines()])
show('boottime', time.clock_gettime(time.CLOCK_BOOTTIME) < 1e9)
# What each system call says to nonsense.
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
NOT = {12, 15, 34, 56, 57, 58, 60, 231, 335, 336, 435}
for nr in range(470):
    if nr in NOT: continue
    ctypes.set_errno(0)
    result = libc.syscall(nr, *[ctypes.c_long(-1)] * 6)
    show('call %d' % nr, (result, ctypes.get_errno()))
"#;

/// Runs the observer; its record.
fn record(sandboxes: &Sandboxes) -> String {
    fs::write(sandboxes.work().join("observe.py"), OBSERVE).unwrap();
    let file = format!("--ro={}:/observe.py", sandboxes.work().join("observe.py").display());
    let arguments = [
        "run",
        "--user=1234:1234",
        "--memory=2G",
        &file,
        "-w",
        "/tmp",
        "--",
        "python3",
        "-IS",
        "/observe.py",
    ];
    let output = finish(sandboxes.command(&arguments));
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
}

/// Whatever a neighbour does, a sandbox sees the same.
fn noninterference(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let alone = record(&sandboxes);
    assert!(alone.lines().count() > 600, "{alone}");
    let neighbours = [
        ("idle", "sleep 1000"),
        ("forks", "while :; do /bin/true & /bin/true; wait; done"),
        (
            "files",
            "n=0; while :; do n=$((n+1)); echo $n > /tmp/f$n; cat /etc/passwd > /dev/shm/x; done",
        ),
        (
            "memory",
            "python3 -c 'x = bytearray(200 << 20)\nwhile 1: x[::4096] = b\"y\" * len(x[::4096])'",
        ),
        (
            "threads",
            "python3 -c 'import threading as t\nfor i in range(200): t.Thread(target=t.Event().wait).start()'",
        ),
    ];
    for (name, script) in neighbours {
        let neighbours = Sandboxes::on(platform);
        let mut child = neighbours
            .command(&["run", "--memory=1G", "-w", "/", "--", "sh", "-c", script])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the neighbour runs", || neighbours.processes().len() >= 3);
        let (start, lag) = (Instant::now(), Lag::watch());
        std::thread::sleep(Duration::from_millis(300));
        let beside = record(&sandboxes);
        let (took, lag) = (start.elapsed(), lag.total());
        assert!(took < Duration::from_secs(50) + lag, "slow: {took:?} ({lag:?} late)");
        let differs = alone.lines().zip(beside.lines()).find(|(one, other)| one != other);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(differs.is_none(), "beside {name}: {differs:#?}");
        assert_eq!(alone.lines().count(), beside.lines().count());
        neighbours.assert_nothing_left();
    }
    // And nothing of it is the host's.
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let machine = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let hostname = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    for (what, word) in [("boot id", boot), ("machine id", machine), ("release", release)] {
        let word = word.trim();
        assert!(word.is_empty() || !alone.contains(word), "the host's {what} is seen");
    }
    assert!(
        !alone.contains(&format!("nodename='{}'", hostname.trim())) || hostname.trim() == "rsentry"
    );
    for name in ["/dev/vda", "/dev/sda", "cgroup2 ", "ext4"] {
        assert!(!alone.contains(name), "{name} is seen");
    }
}

rsentry_tests::on_every_platform! {
    races_against_the_gofer,
    a_directory_as_standard_input,
    descriptors_in_messages,
    typing_into_the_callers_terminal,
    output_flood,
    a_full_disk,
    noninterference,
}
