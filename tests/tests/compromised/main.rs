//! Somebody has taken over the Sentry, or the gofer, and makes any host call that they like, from
//! inside the locked-down process: it gets them nothing. As root and as an unprivileged caller.
//!
//! The processes are those of `rsentry-compromised`, which differs from `rsentry` by the back door
//! in `src/launch/hook.rs` and nothing else.

mod channel;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use rsentry_tests::{Dead, Inside, Process, Sandboxes, finish};

/// One more than the highest number that any x86-64 kernel has a call for, with room for new ones.
const NUMBERS: i64 = 480;
/// `__X32_SYSCALL_BIT`.
const X32: i64 = 0x4000_0000;

fn is_root() -> bool {
    // SAFETY: no arguments.
    unsafe { libc::geteuid() == 0 }
}

/// The callers that this test can be: unprivileged or not.
fn callers() -> &'static [bool] {
    if is_root() { &[false, true] } else { &[false] }
}

/// What `rsentry features` says that a process may call.
fn allowed(sandboxes: &Sandboxes, process: &str) -> BTreeSet<i64> {
    let output = finish(sandboxes.command(&["features", "--json"]));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let calls = report["host_calls"][process]["calls"].as_array().expect("a list");
    calls.iter().map(|call| call.as_i64().expect("a number")).collect()
}

/// A process is taken over as soon as it is sealed, makes one call, and is gone.
#[track_caller]
fn dies(sandboxes: &Sandboxes, unprivileged: bool, process: &str, what: &str, call: Call) {
    // Which does not end by itself.
    let arguments = ["run", "--", "cat"];
    let command = if unprivileged {
        sandboxes.unprivileged(&arguments)
    } else {
        sandboxes.command(&arguments)
    };
    let mut inside = Inside::early(command, process);
    let result = match call {
        Call::Number(nr) => inside.try_call(nr, &[]),
        Call::With(nr, arguments) => inside.try_call(nr, &arguments),
        Call::Entry32(nr) => inside.try_call_32(nr),
    };
    let Err(Dead) = result else { panic!("{process}: {what} returned {result:?}") };
    let complaint = inside.complaint();
    let expected = format!("the {process} was killed: it made a host call");
    assert!(complaint.contains(&expected), "{what}: {complaint}");
}

#[derive(Clone, Copy)]
enum Call {
    Number(i64),
    With(i64, [u64; 6]),
    Entry32(u32),
}

/// Calls that are answered with ENOSYS.
const ABSENT: [i64; 2] = [libc::SYS_clone3, libc::SYS_openat];

/// `uretprobe` and `uprobe`: Linux asks no filter about them since 6.14, because they are for code that
/// the kernel itself puts into a process. Called by others they are ENXIO or SIGILL.
const UPROBES: [i64; 2] = [335, 336];

/// `every` says how many numbers are left out: the whole table takes a while.
fn sweep(sandboxes: &Sandboxes, unprivileged: bool, process: &str, list: &str, every: usize) {
    let allowed = allowed(sandboxes, list);
    let off = (0..NUMBERS)
        .filter(|nr| !allowed.contains(nr) && !ABSENT.contains(nr) && !UPROBES.contains(nr));
    for nr in off.step_by(every) {
        dies(sandboxes, unprivileged, process, &format!("call {nr}"), Call::Number(nr));
    }
    for nr in [libc::SYS_read, libc::SYS_mmap, libc::SYS_close, 520, -1] {
        dies(sandboxes, unprivileged, process, &format!("x32 call {nr}"), Call::Number(nr | X32));
    }
    for nr in [1, 5, 11, 20] {
        dies(sandboxes, unprivileged, process, &format!("32-bit call {nr}"), Call::Entry32(nr));
    }
}

fn the_sentry_dies_of_any_call_off_its_list(platform: &str) {
    let sandboxes = Sandboxes::compromised(platform);
    for &unprivileged in callers() {
        let every = if unprivileged { 7 } else { 1 };
        sweep(&sandboxes, unprivileged, "sentry", &format!("sentry/{platform}"), every);
    }
    sandboxes.assert_nothing_left();
}

/// The platform makes no difference to the gofer.
#[test]
fn the_gofer_dies_of_any_call_off_its_list() {
    let sandboxes = Sandboxes::compromised("auto");
    for &unprivileged in callers() {
        sweep(&sandboxes, unprivileged, "gofer", "gofer", if unprivileged { 7 } else { 1 });
    }
    sandboxes.assert_nothing_left();
}

/// Calls that are on both lists, with arguments that no honest process would use.
fn hostile_arguments() -> Vec<(&'static str, Call)> {
    let with = |nr, a: u64, b: u64, c: u64| Call::With(nr, [a, b, c, 0, 0, 0]);
    let int = |value: i32| value as u32 as u64;
    let thread = 0x1_0f00;
    let write_execute = int(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC);
    vec![
        ("fork by clone", with(libc::SYS_clone, int(libc::SIGCHLD), 0, 0)),
        ("clone of a thread traced", with(libc::SYS_clone, thread | 0x2000, 0, 0)),
        ("clone into a user namespace", with(libc::SYS_clone, thread | 0x1000_0000, 0, 0)),
        ("executable memory", with(libc::SYS_mmap, 0, 4096, int(libc::PROT_EXEC))),
        ("memory to write and execute", with(libc::SYS_mmap, 0, 4096, write_execute)),
        ("mprotect to executable", with(libc::SYS_mprotect, 0, 4096, int(libc::PROT_EXEC))),
        ("getting dumpable", with(libc::SYS_prctl, int(libc::PR_SET_DUMPABLE), 1, 0)),
        ("outliving the launcher", with(libc::SYS_prctl, int(libc::PR_SET_PDEATHSIG), 0, 0)),
        ("a tracer from outside", with(libc::SYS_prctl, int(libc::PR_SET_PTRACER), u64::MAX, 0)),
        ("signals about a descriptor", with(libc::SYS_fcntl, 3, int(libc::F_SETOWN), 1)),
        ("flags of a shared file", with(libc::SYS_fcntl, 0, int(libc::F_SETFL), 0)),
        ("a lease", with(libc::SYS_fcntl, 0, int(libc::F_SETLEASE), 0)),
        ("a socket filter", with(libc::SYS_setsockopt, 3, 1, int(libc::SO_ATTACH_FILTER))),
        ("another level's option", with(libc::SYS_setsockopt, 3, 6, int(libc::SO_SNDBUF))),
    ]
}

fn the_sentry_dies_of_hostile_arguments(platform: &str) {
    let sandboxes = Sandboxes::compromised(platform);
    let mut calls = hostile_arguments();
    let int = |value: i32| value as u32 as u64;
    calls.extend([
        ("typing at a terminal", Call::With(libc::SYS_ioctl, [0, libc::TIOCSTI, 0, 0, 0, 0])),
        ("taking a terminal", Call::With(libc::SYS_ioctl, [0, libc::TIOCSCTTY, 0, 0, 0, 0])),
        ("a message to anybody", Call::With(libc::SYS_sendto, [0, 0, 0, 0, 1, 16])),
        ("a path to stat", Call::With(libc::SYS_newfstatat, [int(libc::AT_FDCWD), 0, 0, 0, 0, 0])),
    ]);
    if platform == "ptrace" {
        let traceme = u64::from(libc::PTRACE_TRACEME);
        calls.push(("being traced", Call::With(libc::SYS_ptrace, [traceme, 0, 0, 0, 0, 0])));
        let attach = u64::from(libc::PTRACE_ATTACH);
        calls.push(("stopping", Call::With(libc::SYS_ptrace, [attach, 1, 0, 0, 0, 0])));
    }
    for (what, call) in calls {
        dies(&sandboxes, false, "sentry", what, call);
    }
    sandboxes.assert_nothing_left();
}

#[test]
fn the_gofer_dies_of_hostile_arguments() {
    let sandboxes = Sandboxes::compromised("auto");
    let mut calls = hostile_arguments();
    let int = |value: i32| value as u32 as u64;
    let pair = |family: i32, kind: i32| {
        Call::With(libc::SYS_socketpair, [int(family), int(kind), 0, 0, 0, 0])
    };
    calls.extend([
        ("Internet sockets", pair(libc::AF_INET, libc::SOCK_STREAM)),
        ("netlink sockets", pair(libc::AF_NETLINK, libc::SOCK_RAW)),
        ("datagrams to anybody", pair(libc::AF_UNIX, libc::SOCK_DGRAM)),
        ("others' processors", Call::With(libc::SYS_sched_setaffinity, [1, 0, 0, 0, 0, 0])),
    ]);
    for (what, call) in calls {
        dies(&sandboxes, false, "gofer", what, call);
    }
    sandboxes.assert_nothing_left();
}

/// What is on the host for a taken-over process to find: it must notice nothing.
struct Victims {
    abstract_stream: UnixListener,
    abstract_packets: UnixDatagram,
    path_packets: UnixDatagram,
    tcp: TcpListener,
    process: Child,
    name: String,
    port: u16,
}

impl Victims {
    /// In the directory that the guest sees, with a process of `user`.
    fn new(sandboxes: &Sandboxes, user: u32) -> Victims {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rsentry-victim-{}-{id}", std::process::id());
        let address = |name: &str| SocketAddr::from_abstract_name(name).expect("a name");
        let path = sandboxes.work().join(format!("{name}.socket"));
        let path_packets = UnixDatagram::bind(&path).expect("a socket");
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(&path, everybody).expect("everybody may send");
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut sleeper = Command::new("sleep");
        sleeper.arg("1000");
        if is_root() {
            sleeper.uid(user).gid(user);
        }
        let victims = Victims {
            abstract_stream: UnixListener::bind_addr(&address(&format!("{name}-s"))).unwrap(),
            abstract_packets: UnixDatagram::bind_addr(&address(&format!("{name}-d"))).unwrap(),
            path_packets,
            port: tcp.local_addr().unwrap().port(),
            tcp,
            process: sleeper.spawn().expect("sleep starts"),
            name,
        };
        victims.abstract_stream.set_nonblocking(true).unwrap();
        victims.abstract_packets.set_nonblocking(true).unwrap();
        victims.path_packets.set_nonblocking(true).unwrap();
        victims.tcp.set_nonblocking(true).unwrap();
        victims
    }

    /// Addresses of all of them, as the host's calls take them.
    fn addresses(&self) -> Vec<Vec<u8>> {
        let unix = |name: &[u8]| [&(libc::AF_UNIX as u16).to_le_bytes(), name].concat();
        let internet = [
            &(libc::AF_INET as u16).to_le_bytes()[..],
            &self.port.to_be_bytes(),
            &[127, 0, 0, 1],
            &[0; 8],
        ];
        let path = format!("{}.socket\0", self.name);
        vec![
            unix(format!("\0{}-s", self.name).as_bytes()),
            unix(format!("\0{}-d", self.name).as_bytes()),
            unix(path.as_bytes()),
            internet.concat(),
        ]
    }

    /// Nobody has reached any of them.
    #[track_caller]
    fn assert_unharmed(mut self) {
        let nobody = io::ErrorKind::WouldBlock;
        let mut byte = [0];
        assert_eq!(self.abstract_stream.accept().unwrap_err().kind(), nobody);
        assert_eq!(self.abstract_packets.recv(&mut byte).unwrap_err().kind(), nobody);
        assert_eq!(self.path_packets.recv(&mut byte).unwrap_err().kind(), nobody);
        assert_eq!(self.tcp.accept().unwrap_err().kind(), nobody);
        assert_eq!(self.process.try_wait().unwrap(), None, "it was killed");
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()));
        assert!(status.unwrap().contains("SigQ:\t"), "it is there");
    }
}

impl Drop for Victims {
    fn drop(&mut self) {
        self.process.kill().expect("it is ours");
        self.process.wait().expect("it is ours");
    }
}

/// Negative errnos.
const ENOENT: i64 = -(libc::ENOENT as i64);
const ESRCH: i64 = -(libc::ESRCH as i64);
const EROFS: i64 = -(libc::EROFS as i64);
const EXDEV: i64 = -(libc::EXDEV as i64);
const EACCES: i64 = -(libc::EACCES as i64);
const EPERM: i64 = -(libc::EPERM as i64);
const ENOSYS: i64 = -(libc::ENOSYS as i64);
const HERE: u64 = libc::AT_FDCWD as u64;
/// Where things are put in the scratch area.
const TEXT: u64 = 0;
const ADDRESS: u64 = 8192;
const HEADER: u64 = 12288;
const BUFFER: u64 = 16384;
/// More descriptors than either process has.
const DESCRIPTORS: u64 = 512;

/// Names that lead to the host's files from anywhere but an empty root.
const NAMES: [&str; 10] = [
    "/etc/passwd",
    "/proc/self/exe",
    "/proc/1/root/etc/passwd",
    "/proc/self/fd/0",
    "/dev/null",
    "/dev/mem",
    "/sys/kernel",
    "/tmp",
    "../../../../../../etc/passwd",
    "/../../etc/passwd",
];

/// Type and permissions of a descriptor's file, and its device.
fn file_of(inside: &mut Inside, fd: u64) -> Option<(u32, u64)> {
    let buffer = inside.scratch + BUFFER;
    if inside.call(libc::SYS_fstat, &[fd, buffer]) != 0 {
        return None;
    }
    let stat = inside.get(buffer, size_of::<libc::stat>());
    let device = u64::from_le_bytes(stat[..8].try_into().unwrap());
    let mode = u32::from_le_bytes(stat[24..28].try_into().unwrap());
    Some((mode, device))
}

/// The device that all memfds lie on.
fn memfd_device() -> u64 {
    // SAFETY: a NUL-terminated name; the descriptor is ours; a zeroed stat is valid.
    unsafe {
        let fd = libc::memfd_create(c"device".as_ptr(), 0);
        let mut stat: libc::stat = std::mem::zeroed();
        assert_eq!(libc::fstat(fd, &raw mut stat), 0);
        libc::close(fd);
        stat.st_dev
    }
}

fn the_sentry_finds_no_files(platform: &str) {
    let sandboxes = Sandboxes::compromised(platform);
    for &unprivileged in callers() {
        let mut inside = Inside::running(&sandboxes, unprivileged, "sentry");
        let buffer = inside.scratch + BUFFER;
        let binary = sandboxes.command(&[]).get_program().to_str().unwrap().to_owned();
        let work = sandboxes.work().to_str().unwrap().to_owned();
        for name in NAMES.into_iter().chain([binary.as_str(), work.as_str(), "/0", "/1"]) {
            let path = inside.put_string(TEXT, name);
            let statx = [HERE, path, 0, 0xfff, buffer];
            assert_eq!(inside.call(libc::SYS_statx, &statx), ENOENT, "{name}");
            let newfstatat = [HERE, path, buffer, libc::AT_EMPTY_PATH as u64];
            assert_eq!(inside.call(libc::SYS_newfstatat, &newfstatat), ENOENT, "{name}");
            for flags in [libc::O_RDONLY, libc::O_PATH, libc::O_RDWR | libc::O_CREAT] {
                let openat = [HERE, path, flags as u64, 0o600];
                assert_eq!(inside.call(libc::SYS_openat, &openat), ENOSYS, "{name}");
            }
        }
        // Not from a descriptor either: none is a directory, and the only files that can be written
        // are memory.
        let (up, memfd) = (inside.put_string(TEXT, ".."), memfd_device());
        let mut seen = 0;
        for fd in 0..DESCRIPTORS {
            let up_from = inside.call(libc::SYS_statx, &[fd, up, 0, 0xfff, buffer]);
            assert!(up_from < 0, "descriptor {fd} is a directory");
            let Some((mode, device)) = file_of(&mut inside, fd) else { continue };
            seen += 1;
            let kind = mode & libc::S_IFMT;
            assert!(kind != libc::S_IFDIR && kind != libc::S_IFBLK, "descriptor {fd}: {mode:o}");
            if kind == libc::S_IFREG && device != memfd {
                let flags = inside.call(libc::SYS_fcntl, &[fd, libc::F_GETFL as u64]);
                let access = flags as i32 & libc::O_ACCMODE;
                assert_eq!(access, libc::O_RDONLY, "descriptor {fd} can be written");
                assert!(inside.call(libc::SYS_pwrite64, &[fd, buffer, 1, 0]) < 0, "{fd}");
                assert!(inside.call(libc::SYS_ftruncate, &[fd, 0]) < 0, "{fd}");
                assert!(inside.call(libc::SYS_fallocate, &[fd, 0, 0, 1]) < 0, "{fd}");
                let shared = [0, 4096, 3, libc::MAP_SHARED as u64, fd, 0];
                assert!(inside.call(libc::SYS_mmap, &shared) < 0, "{fd}");
            }
        }
        assert!(seen > 5, "descriptors are looked at");
        inside.stop();
    }
    sandboxes.assert_nothing_left();
}

/// The user that the process has on the host.
fn user_of(unprivileged: bool, process: &str) -> u32 {
    match (unprivileged, process) {
        (true, _) => rsentry_tests::UNPRIVILEGED,
        (false, "gofer") => 0,
        (false, _) => 65534,
    }
}

/// Processes of the host that a taken-over one might reach: of its own user, its relatives, all.
fn others(inside: &Inside, victims: &Victims) -> Vec<u64> {
    let mut all = vec![inside.launcher(), victims.process.id(), std::process::id()];
    all.extend(inside.processes().iter().map(|process| process.pid));
    // Numbers of its own namespace are small.
    all.into_iter().filter(|&pid| pid > 100).map(u64::from).collect()
}

/// Tries to send to the victims from these sockets, with a descriptor to go with it.
fn send_everywhere(inside: &mut Inside, victims: &Victims, from: &[u64]) {
    let text = inside.put(TEXT, b"x");
    let part = inside.put_words(HEADER + 256, &[text, 1]);
    // struct cmsghdr with one descriptor: length, SOL_SOCKET and SCM_RIGHTS, number 0.
    let rights = inside.put_words(HEADER + 512, &[20, 1 | 1 << 32, 0]);
    for mut address in victims.addresses() {
        let length = address.len() as u64;
        // Names of files lie in the tree that the gofer serves, which is its working directory's.
        address.resize(128, 0);
        let name = inside.put(ADDRESS, &address);
        let header = inside.put_words(HEADER, &[name, length, part, 1, rights, 24, 0]);
        for &fd in from {
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            inside.call(libc::SYS_sendmsg, &[fd, header, flags as u64]);
        }
    }
}

/// A socket that is no datagram socket, and connected, sends to its peer and nobody else. The two
/// processes hold no other ones.
fn holds_connected_sockets_only(inside: &Inside, process: &Process) {
    if !is_root() {
        return;
    }
    // Types and states, by inode, of its own network namespace and the launcher's.
    let mut sockets = BTreeMap::new();
    for pid in [process.pid, inside.launcher()] {
        let table = std::fs::read_to_string(format!("/proc/{pid}/net/unix")).expect("a table");
        for line in table.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [kind, state, inode] = [fields[4], fields[5], fields[6]];
            sockets.insert(format!("socket:[{inode}]"), (kind.to_owned(), state.to_owned()));
        }
    }
    let held = process.descriptors();
    let held: Vec<&String> = held.values().filter(|file| file.starts_with("socket:")).collect();
    assert!(!held.is_empty());
    for file in held {
        let (kind, state) = &sockets[file];
        // SOCK_SEQPACKET, and SOCK_STREAM for the test's own; SS_CONNECTED.
        assert!(kind == "0005" || kind == "0001", "{file}: {kind}");
        assert_eq!(state, "03", "{file} is not connected");
    }
}

/// On kernels without those calls they are like any others.
#[test]
fn uprobe_calls_do_nothing() {
    let sandboxes = Sandboxes::compromised("auto");
    for nr in UPROBES {
        let mut inside = Inside::running(&sandboxes, false, "sentry");
        match inside.try_call(nr, &[]) {
            Ok(result) => {
                assert_eq!(result, -i64::from(libc::ENXIO));
                inside.stop();
            }
            Err(Dead) => assert!(inside.complaint().contains("the sentry was killed")),
        }
    }
    sandboxes.assert_nothing_left();
}

fn the_sentry_reaches_nobody(platform: &str) {
    let sandboxes = Sandboxes::compromised(platform);
    for &unprivileged in callers() {
        let victims = Victims::new(&sandboxes, user_of(unprivileged, "sentry"));
        let mut inside = Inside::running(&sandboxes, unprivileged, "sentry");
        assert_eq!(inside.call(libc::SYS_getpid, &[]), 1, "pid 1 of its own namespace");
        let buffer = inside.scratch + BUFFER;
        for pid in others(&inside, &victims) {
            let kill = libc::SIGKILL as u64;
            assert_eq!(inside.call(libc::SYS_kill, &[pid, kill]), ESRCH);
            assert_eq!(inside.call(libc::SYS_tgkill, &[pid, pid, kill]), ESRCH);
            let group = (pid as i64).wrapping_neg() as u64;
            assert_eq!(inside.call(libc::SYS_kill, &[group, kill]), ESRCH);
            assert_eq!(inside.call(libc::SYS_sched_getaffinity, &[pid, 128, buffer]), ESRCH);
            assert_eq!(inside.call(libc::SYS_sched_setaffinity, &[pid, 128, buffer]), ESRCH);
            let wait = libc::WNOHANG as u64;
            assert!(inside.call(libc::SYS_wait4, &[pid, buffer, wait, 0]) < 0);
            if platform == "ptrace" {
                let seize = u64::from(libc::PTRACE_SEIZE);
                assert_eq!(inside.call(libc::SYS_ptrace, &[seize, pid, 0, 0]), ESRCH);
                let peek = u64::from(libc::PTRACE_PEEKDATA);
                assert_eq!(inside.call(libc::SYS_ptrace, &[peek, pid, buffer, buffer]), ESRCH);
            }
        }
        for process in inside.processes() {
            holds_connected_sockets_only(&inside, &process);
        }
        // "Everybody" is the stubs. (The launcher reports what becomes of that; it must not be among
        // them.)
        inside.call(libc::SYS_kill, &[u64::MAX, libc::SIGKILL as u64]);
        inside.kill();
        victims.assert_unharmed();
    }
    sandboxes.assert_nothing_left();
}

#[test]
fn the_gofer_finds_and_changes_no_more_than_it_serves() {
    let sandboxes = Sandboxes::compromised("auto");
    for &unprivileged in callers() {
        let mut inside = Inside::running(&sandboxes, unprivileged, "gofer");
        let buffer = inside.scratch + BUFFER;
        for name in NAMES {
            let path = inside.put_string(TEXT, name);
            assert_eq!(inside.call(libc::SYS_statx, &[HERE, path, 0, 0xfff, buffer]), ENOENT);
            for flags in [libc::O_RDONLY, libc::O_PATH, libc::O_RDWR | libc::O_CREAT] {
                let result = open(&mut inside, name, flags);
                assert!(matches!(result, ENOENT | EROFS), "{name}: {result}");
            }
        }
        // What it serves can be read and not written, secrets excepted.
        let passwd = open(&mut inside, "/0/etc/passwd", libc::O_RDONLY);
        assert!(passwd >= 0, "{passwd}");
        for secret in ["/0/etc/shadow", "/0/root/.ssh", "/0/proc/self/exe", "/0/dev/null"] {
            let fd = open(&mut inside, secret, libc::O_RDONLY);
            if fd >= 0 {
                let size = inside.call(libc::SYS_lseek, &[fd as u64, 0, libc::SEEK_END as u64]);
                assert_eq!(size, 0, "{secret} can be read");
            }
        }
        let file = inside.put_string(TEXT, "/0/etc/passwd");
        let new = inside.put_string(TEXT + 512, "/1/new");
        let mode = u64::from(libc::S_IFREG | 0o600);
        for (what, nr, arguments) in [
            ("mkdir", libc::SYS_mkdirat, [HERE, new, 0o700, 0, 0]),
            ("mknod", libc::SYS_mknodat, [HERE, new, mode, 0, 0]),
            ("symlink", libc::SYS_symlinkat, [file, HERE, new, 0, 0]),
            ("link", libc::SYS_linkat, [HERE, file, HERE, new, 0]),
            ("unlink", libc::SYS_unlinkat, [HERE, file, 0, 0, 0]),
            ("rename", libc::SYS_renameat2, [HERE, file, HERE, new, 0]),
            ("chown", libc::SYS_fchownat, [HERE, file, 1, 1, 0]),
            ("chmod", libc::SYS_fchmodat2, [HERE, file, 0o777, 0, 0]),
            ("utimes", libc::SYS_utimensat, [HERE, file, 0, 0, 0]),
            ("chmod of a descriptor", libc::SYS_fchmod, [passwd as u64, 0o777, 0, 0, 0]),
        ] {
            let result = inside.call(nr, &arguments);
            assert!(matches!(result, EROFS | EXDEV), "{what}: {result}");
        }
        let result = open(&mut inside, "/0/etc/passwd", libc::O_RDWR);
        assert!(matches!(result, EROFS | EACCES), "{result}");
        inside.stop();
    }
    sandboxes.assert_nothing_left();
}

#[test]
fn the_gofer_with_a_writable_mount_stays_in_it() {
    let sandboxes = Sandboxes::compromised("auto");
    std::fs::write(sandboxes.work().join("../secret"), "secret").unwrap();
    let link = sandboxes.work().join("link");
    std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
    for &unprivileged in callers() {
        let arguments = ["run", "--rw", ".", "--", "cat"];
        let command = if unprivileged {
            sandboxes.unprivileged(&arguments)
        } else {
            sandboxes.command(&arguments)
        };
        let mut inside = Inside::early(command, "gofer");
        let mut writable = Vec::new();
        for export in 0..4 {
            let name = format!("/{export}/new-{unprivileged}");
            if open(&mut inside, &name, libc::O_RDWR | libc::O_CREAT) >= 0 {
                writable.push(export);
            }
        }
        let [export] = writable[..] else { panic!("one mount can be written: {writable:?}") };
        for name in ["/X/../secret", "/X/../../secret", "../secret", "/X/link", "/etc/passwd"] {
            let name = name.replace('X', &export.to_string());
            let result = open(&mut inside, &name, libc::O_RDWR);
            assert!(matches!(result, ENOENT | EROFS), "{name}: {result}");
        }
        let node = inside.put_string(TEXT, &format!("/{export}/node"));
        for (kind, device) in [(libc::S_IFCHR, 0x103u64), (libc::S_IFBLK, 0x800)] {
            let arguments = [HERE, node, u64::from(kind | 0o666), device];
            let result = inside.call(libc::SYS_mknodat, &arguments);
            assert!(matches!(result, EPERM | EACCES), "a device: {result}");
        }
        assert!(!sandboxes.work().join("node").exists());
        inside.stop();
    }
    sandboxes.assert_nothing_left();
}

/// openat2 with no restrictions, as somebody would who does not want any.
#[track_caller]
fn open(inside: &mut Inside, name: &str, flags: i32) -> i64 {
    let path = inside.put_string(TEXT + 1024, name);
    let mode = if flags & libc::O_CREAT != 0 { 0o600 } else { 0 };
    let how = inside.put_words(ADDRESS, &[flags as u64, mode, 0]);
    inside.call(libc::SYS_openat2, &[HERE, path, how, 24])
}

#[test]
fn the_gofer_reaches_nobody() {
    let sandboxes = Sandboxes::compromised("auto");
    for &unprivileged in callers() {
        let victims = Victims::new(&sandboxes, user_of(unprivileged, "gofer"));
        let mut inside = Inside::running(&sandboxes, unprivileged, "gofer");
        assert_eq!(inside.call(libc::SYS_getpid, &[]), 1, "pid 1 of its own namespace");
        let buffer = inside.scratch + BUFFER;
        for pid in others(&inside, &victims) {
            let kill = libc::SIGKILL as u64;
            assert_eq!(inside.call(libc::SYS_tgkill, &[pid, pid, kill]), ESRCH);
            assert_eq!(inside.call(libc::SYS_sched_getaffinity, &[pid, 128, buffer]), ESRCH);
        }
        // The only kind of socket that it may make.
        let kind = (libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC) as u64;
        let pair = [libc::AF_UNIX as u64, kind, 0, buffer];
        assert_eq!(inside.call(libc::SYS_socketpair, &pair), 0);
        let made = inside.get(buffer, 8);
        let made = [&made[..4], &made[4..]].map(|fd| u32::from_le_bytes(fd.try_into().unwrap()));
        send_everywhere(&mut inside, &victims, &made.map(u64::from));
        inside.stop();
        victims.assert_unharmed();
    }
    sandboxes.assert_nothing_left();
}

/// The released binary has no such door.
#[test]
fn the_ordinary_binary_has_no_back_door() {
    let has = |path: &std::path::Path| {
        let bytes = std::fs::read(path).expect("a binary");
        bytes.windows(19).any(|part| part == b"RSENTRY_COMPROMISED")
    };
    assert!(has(rsentry_tests::compromised_binary()), "the test looks for the right thing");
    assert!(!has(rsentry_tests::binary()));
}

rsentry_tests::on_every_platform! {
    the_sentry_dies_of_any_call_off_its_list,
    the_sentry_dies_of_hostile_arguments,
    the_sentry_finds_no_files,
    the_sentry_reaches_nobody,
}
