//! Ways out of a container that have worked somewhere. Each is tried as root of the sandbox and as a
//! user without privileges; what must come of it is an error, or more of the same sandbox.
//!
//! The harness has put a file next to the sandbox's working directory on the host, its path in
//! `HOST_FILE`, listens on the abstract socket `HOST_SOCKET` and on the socket `host-socket` in the
//! working directory; `HOST_PID` is a process of the host.

use std::ffi::CString;
use std::fs::{File, OpenOptions, read_dir, read_link};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::supervisor::{Attack, Attacker, Ends};

pub const ATTACKS: &[Attack] = &[
    Attack::once("proc_self_exe", Ends::Well, proc_self_exe),
    Attack::once("roots_of_processes", Ends::Well, roots_of_processes),
    Attack::once("descriptors_passed_in", Ends::Well, descriptors_passed_in),
    Attack::once("chroot_breakout", Ends::Well, chroot_breakout),
    Attack::once("dot_dot", Ends::Well, dot_dot),
    Attack::once("bind_mounts", Ends::Well, bind_mounts),
    Attack::once("other_file_systems", Ends::Well, other_file_systems),
    Attack::once("pivot_root", Ends::Well, pivot_root),
    Attack::once("mount_flood", Ends::Well, mount_flood),
    Attack::once("namespaces", Ends::Well, namespaces),
    Attack::once("settings_of_the_kernel", Ends::Well, settings_of_the_kernel),
    Attack::once("core_dump", Ends::Well, core_dump),
    Attack::once("closed_calls", Ends::Well, closed_calls),
    Attack::once("processes_of_the_host", Ends::Well, processes_of_the_host),
    Attack::once("memory_of_others", Ends::Well, memory_of_others),
    Attack::once("sockets_of_the_host", Ends::Well, sockets_of_the_host),
    Attack::once("networks", Ends::Well, networks),
    Attack::once("file_handles", Ends::Well, file_handles),
];

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn is_root() -> bool {
    // SAFETY: no arguments.
    unsafe { libc::geteuid() == 0 }
}

fn expect(attacker: &Attacker, holds: bool, what: &str) {
    if !holds {
        attacker.share.fail(&format!("{what}, errno {}", errno()));
    }
}

fn c(path: impl AsRef<str>) -> CString {
    CString::new(path.as_ref()).unwrap_or_default()
}

/// The host's file that nobody may see.
fn host_file() -> PathBuf {
    std::env::var_os("HOST_FILE").map(PathBuf::from).unwrap_or_else(|| "/nowhere".into())
}

/// Looks for the host's file below what is taken for a root.
fn look_around(attacker: &Attacker, root: &str) {
    let file = host_file();
    let below = Path::new(root).join(file.strip_prefix("/").unwrap_or(&file));
    if File::open(&below).is_ok() {
        attacker.share.fail(&format!("{} is there", below.display()));
    }
}

/// Runs something in a child whose root, mounts and the like may be ruined by it.
fn in_child(attacker: &Attacker, what: &str, body: impl FnOnce()) {
    // SAFETY: the process has one thread.
    let child = unsafe { libc::fork() };
    if child == 0 {
        body();
        // SAFETY: nothing is to be flushed.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: writes the status.
    let waited = unsafe { libc::waitpid(child, &mut status, 0) };
    if waited != child || status != 0 {
        attacker.share.fail(&format!("{what}: child {child}, status {status:#x}"));
    }
}

/// The runtime's own binary, through the program that it has started (CVE-2019-5736).
fn proc_self_exe(attacker: &Attacker, _: u64) {
    for path in ["/proc/self/exe", "/proc/1/exe", "/proc/thread-self/exe"] {
        if let Ok(target) = read_link(path) {
            let inside = target.ends_with("attack-guest") && File::open(&target).is_ok();
            expect(attacker, inside, &format!("{path} is {}", target.display()));
        }
        // It is a file of the sandbox, so root may open it: but what is opened is that file.
        let own = std::fs::metadata("./attack-guest").map(|m| (m.dev(), m.ino())).ok();
        let mut ways = vec![path.to_owned()];
        let file = File::open(path);
        if let Ok(file) = &file {
            use std::os::fd::AsRawFd;
            ways.push(format!("/proc/self/fd/{}", file.as_raw_fd()));
        }
        for way in ways {
            match OpenOptions::new().append(true).open(&way) {
                Ok(file) => {
                    let opened = file.metadata().map(|m| (m.dev(), m.ino())).ok();
                    expect(attacker, is_root() && opened == own, &format!("{way} was opened"));
                }
                Err(error) => {
                    let fine = [Some(libc::ETXTBSY), Some(libc::EACCES)];
                    let fine = fine.contains(&error.raw_os_error());
                    expect(attacker, fine, &format!("{way}: {error}"));
                }
            }
        }
    }
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    expect(attacker, !maps.contains("rsentry"), "the maps name rsentry");
}

/// `/proc/*/root` and `/proc/*/cwd` of whoever there is.
fn roots_of_processes(attacker: &Attacker, _: u64) {
    for entry in read_dir("/proc").into_iter().flatten().flatten() {
        let base = entry.path();
        for link in ["root", "cwd"] {
            let path = base.join(link);
            look_around(attacker, &path.to_string_lossy());
            look_around(attacker, &path.join("../../../..").to_string_lossy());
        }
        let ids = std::fs::read_to_string(base.join("comm")).unwrap_or_default();
        expect(attacker, !ids.contains("rsentry"), "the runtime's processes are seen");
    }
}

/// What the caller had open: the sandbox's standard descriptors and nothing else, in no other way than
/// they were passed.
fn descriptors_passed_in(attacker: &Attacker, _: u64) {
    let names = read_dir("/proc/1/fd").into_iter().flatten().flatten();
    for entry in names {
        let number: i32 = entry.file_name().to_string_lossy().parse().unwrap_or(-1);
        expect(attacker, (0..=3).contains(&number), &format!("descriptor {number} was passed in"));
    }
    for fd in 0..3 {
        let path = format!("/proc/self/fd/{fd}");
        let target = read_link(&path).unwrap_or_default();
        let named =
            target.is_absolute() && target.starts_with(host_file().parent().unwrap_or(&target));
        expect(attacker, !named, "a descriptor's name is the host's");
        for rest in ["", "/..", "/../../..", "/etc/shadow"] {
            look_around(attacker, &format!("{path}{rest}"));
        }
        // SAFETY: plain calls with strings that end.
        unsafe {
            let at = libc::openat(fd, c("..").as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY);
            expect(attacker, at < 0, "a directory was passed in");
            expect(attacker, libc::fchdir(fd) != 0, "a directory was passed in");
            // Terminal tricks on whatever it is.
            let letter = b'x';
            let typed = libc::ioctl(fd, libc::TIOCSTI, &letter);
            expect(attacker, typed != 0, "TIOCSTI works on what was passed in");
            expect(attacker, libc::ioctl(fd, libc::TIOCCONS) != 0, "TIOCCONS works");
            expect(attacker, libc::ioctl(fd, libc::TIOCSETD, &0) != 0, "TIOCSETD works");
        }
    }
}

/// The classical one: a root below the working directory, and up from there. Linux lets root of the
/// container do that; above its root there must be nothing.
fn chroot_breakout(attacker: &Attacker, _: u64) {
    let before = std::fs::metadata("/").ok();
    in_child(attacker, "chroot", || {
        // SAFETY: plain calls with strings that end.
        unsafe {
            libc::chdir(c("/tmp").as_ptr());
            let place = c(format!("cell-{}", std::process::id()));
            libc::mkdir(place.as_ptr(), 0o755);
            let root = libc::open(c("/").as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY);
            let changed = libc::chroot(place.as_ptr());
            if !is_root() {
                expect(attacker, changed != 0 && errno() == libc::EPERM, "chroot by a user");
                return;
            }
            expect(attacker, changed == 0, "chroot");
            expect(attacker, libc::open(c("/etc/passwd").as_ptr(), 0) < 0, "the root is not new");
            for _ in 0..64 {
                libc::chdir(c("..").as_ptr());
            }
            expect(attacker, libc::chroot(c(".").as_ptr()) == 0, "chroot up");
            let after = std::fs::metadata("/").ok();
            let ids = |m: Option<&std::fs::Metadata>| m.map(|m| (m.dev(), m.ino()));
            expect(attacker, ids(before.as_ref()) == ids(after.as_ref()), "another root");
            look_around(attacker, "/");
            libc::fchdir(root);
            for _ in 0..64 {
                libc::chdir(c("..").as_ptr());
                look_around(attacker, ".");
            }
        }
    });
}

/// Up from every directory that is shown, by every kind of path.
fn dot_dot(attacker: &Attacker, _: u64) {
    let file = host_file();
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let work = std::env::current_dir().unwrap_or_default();
    expect(attacker, work.join("attack-guest").exists(), "the working directory is not shown");
    let mut tried = vec![
        work.join("..").join(&name),
        work.join("../").join(format!("./{name}")),
        work.join("attack-guest/../..").join(&name),
        PathBuf::from(format!("/proc/self/cwd/../{name}")),
        PathBuf::from(format!("..//{name}")),
        file.clone(),
    ];
    for (number, target) in ["..", "../", "/proc/self/cwd/..", "/proc/1/root/.."].iter().enumerate()
    {
        let link = work.join(format!("up-{}-{number}", std::process::id()));
        // The upper layer of the overlay takes it.
        if std::os::unix::fs::symlink(target, &link).is_ok() {
            tried.push(link.join(&name));
            tried.push(link);
        }
    }
    for path in &tried {
        if File::open(path).is_ok_and(|f| f.metadata().is_ok_and(|m| m.is_file())) {
            attacker.share.fail(&format!("{} can be opened", path.display()));
        }
    }
    // A mount point's `..` with a directory descriptor, and with openat2's flags.
    // SAFETY: plain calls with strings that end.
    unsafe {
        let fd = libc::open(c(work.to_string_lossy()).as_ptr(), libc::O_PATH);
        let up = libc::openat(fd, c(format!("../{name}")).as_ptr(), libc::O_RDONLY);
        expect(attacker, up < 0 && errno() == libc::ENOENT, "openat up");
        let how = [0u64, 0, 0x08];
        let path = c("../attack-guest");
        let got = libc::syscall(libc::SYS_openat2, fd, path.as_ptr(), how.as_ptr(), 24);
        expect(attacker, got < 0 && errno() == libc::EXDEV, "RESOLVE_BENEATH");
    }
    let listed = read_dir(work.join("..")).into_iter().flatten().flatten();
    let seen = listed.filter(|entry| entry.file_name().to_string_lossy() == name).count();
    expect(attacker, seen == 0, "the file is listed");
}

/// mount(2) with flags.
fn mount(source: &str, target: &str, kind: &str, flags: u64, data: &str) -> i32 {
    let (source, target, kind, data) = (c(source), c(target), c(kind), c(data));
    let data = if data.is_empty() { std::ptr::null() } else { data.as_ptr().cast() };
    // SAFETY: strings that end.
    unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data) }
}

fn bind_mounts(attacker: &Attacker, _: u64) {
    let place = format!("/tmp/bound-{}", std::process::id());
    expect(attacker, std::fs::create_dir(&place).is_ok(), "mkdir");
    for source in ["/", "/proc/1/root", "/proc/self/fd/0", "/..", "/proc/self/exe", "."] {
        let made = mount(source, &place, "", libc::MS_BIND | libc::MS_REC, "");
        if !is_root() {
            expect(attacker, made != 0 && errno() == libc::EPERM, "a bind mount by a user");
            continue;
        }
        if made == 0 {
            look_around(attacker, &place);
            look_around(attacker, &format!("{place}/.."));
            // What is read-only stays so for the host, whatever the mount says.
            mount("", &place, "", libc::MS_REMOUNT | libc::MS_BIND, "");
            // SAFETY: a string that ends.
            let gone = unsafe { libc::umount2(c(&place).as_ptr(), libc::MNT_DETACH) };
            expect(attacker, gone == 0, "umount");
        }
    }
    std::fs::remove_dir(&place).ok();
}

/// Everything that could be the host's.
fn other_file_systems(attacker: &Attacker, _: u64) {
    let place = format!("/tmp/fs-{}", std::process::id());
    expect(attacker, std::fs::create_dir(&place).is_ok(), "mkdir");
    let foreign = [
        "ext4",
        "xfs",
        "btrfs",
        "vfat",
        "iso9660",
        "squashfs",
        "nfs",
        "cifs",
        "9p",
        "fuse",
        "virtiofs",
        "debugfs",
        "tracefs",
        "securityfs",
        "bpf",
        "pstore",
        "efivarfs",
        "configfs",
        "hugetlbfs",
        "cgroup",
        "cgroup2",
        "binfmt_misc",
        "nsfs",
        "rpc_pipefs",
        "host",
        "gofer",
    ];
    for kind in foreign {
        let made = mount("/dev/vda", &place, kind, 0, "");
        let errors = if is_root() {
            &[libc::ENODEV, libc::ENOTBLK, libc::ENOENT, libc::EPERM][..]
        } else {
            &[libc::EPERM]
        };
        expect(attacker, made != 0 && errors.contains(&errno()), &format!("{kind} mounted"));
    }
    // Its own kinds show the sandbox again.
    for kind in ["proc", "sysfs", "devtmpfs", "devpts", "tmpfs", "mqueue", "overlay"] {
        if mount("none", &place, kind, 0, "") == 0 {
            expect(attacker, is_root(), "a mount by a user");
            look_around(attacker, &format!("{place}/1/root"));
            let pid = std::env::var("HOST_PID").unwrap_or_default();
            let seen = Path::new(&format!("{place}/{pid}")).exists();
            let own = pid.parse::<u32>().is_ok_and(|pid| pid < 300);
            expect(attacker, !seen || own, "a process of the host");
            // SAFETY: a string that ends.
            unsafe { libc::umount2(c(&place).as_ptr(), libc::MNT_DETACH) };
        }
    }
    let layers = "lowerdir=/..,upperdir=/proc,workdir=/sys";
    if mount("none", &place, "overlay", 0, layers) == 0 {
        look_around(attacker, &place);
        // SAFETY: a string that ends.
        unsafe { libc::umount2(c(&place).as_ptr(), libc::MNT_DETACH) };
    }
    std::fs::remove_dir(&place).ok();
}

fn pivot_root(attacker: &Attacker, _: u64) {
    let pivot = |new: &str, old: &str| {
        let (new, old) = (c(new), c(old));
        // SAFETY: strings that end.
        unsafe { libc::syscall(libc::SYS_pivot_root, new.as_ptr(), old.as_ptr()) }
    };
    let place = format!("/tmp/pivot-{}", std::process::id());
    expect(attacker, std::fs::create_dir(&place).is_ok(), "mkdir");
    for (new, old) in [
        ("/", "/"),
        ("/..", "/"),
        ("/proc/1/root", "/proc"),
        ("/tmp", "/"),
        (place.as_str(), place.as_str()),
    ] {
        let errors = [libc::EINVAL, libc::EBUSY, libc::EPERM];
        expect(attacker, pivot(new, old) != 0 && errors.contains(&errno()), "pivot_root");
    }
    // Umounting the root, too.
    for flags in [0, libc::MNT_DETACH, libc::MNT_FORCE] {
        // SAFETY: a string that ends.
        let gone = unsafe { libc::umount2(c("/").as_ptr(), flags) };
        expect(attacker, gone != 0 && Path::new("/etc/passwd").metadata().is_ok(), "umount /");
    }
    std::fs::remove_dir(&place).ok();
}

/// Mounts until there may be no more, also by copying trees of mounts into themselves.
fn mount_flood(attacker: &Attacker, _: u64) {
    if !is_root() {
        return;
    }
    let place = format!("/tmp/flood-{}", std::process::id());
    expect(attacker, std::fs::create_dir(&place).is_ok(), "mkdir");
    expect(attacker, mount("none", &place, "tmpfs", 0, "") == 0, "tmpfs");
    let inner = format!("{place}/inner");
    expect(attacker, std::fs::create_dir(&inner).is_ok(), "mkdir");
    let mut full = false;
    for round in 0..5000 {
        // Every second one doubles what is there.
        let flags = libc::MS_BIND | if round % 2 == 0 { libc::MS_REC } else { 0 };
        if mount(&place, &inner, "", flags, "") != 0 {
            let errors = [libc::ENOSPC, libc::ENOMEM, libc::EINVAL, libc::ELOOP];
            expect(attacker, errors.contains(&errno()), "a mount too many");
            full = true;
            break;
        }
    }
    expect(attacker, full, "there is no limit on mounts");
    expect(attacker, File::open("/proc/self/mountinfo").is_ok(), "mountinfo");
    while {
        // SAFETY: a string that ends.
        unsafe { libc::umount2(c(&inner).as_ptr(), libc::MNT_DETACH) == 0 }
    } {}
    // SAFETY: a string that ends.
    let gone = unsafe { libc::umount2(c(&place).as_ptr(), libc::MNT_DETACH) };
    expect(attacker, gone == 0, "umount of all");
    std::fs::remove_dir(&place).ok();
}

/// New namespaces are not to be had, and those of others least of all.
fn namespaces(attacker: &Attacker, _: u64) {
    let kinds = [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000];
    for flag in kinds.into_iter().chain([0x4000_0000]) {
        in_child(attacker, "unshare", || {
            // SAFETY: a plain call.
            let got = unsafe { libc::unshare(flag) };
            let errors = [libc::EPERM, libc::EINVAL];
            expect(attacker, got != 0 && errors.contains(&errno()), "unshare");
        });
        // SAFETY: a fork by another name: the child would go on here, and ends.
        let child = unsafe { libc::syscall(libc::SYS_clone, flag | libc::SIGCHLD, 0, 0, 0, 0) };
        if child == 0 {
            // SAFETY: nothing is to be flushed.
            unsafe { libc::_exit(0) };
        }
        let errors = [libc::EPERM, libc::EINVAL];
        expect(attacker, child < 0 && errors.contains(&errno()), "clone with a namespace");
    }
    for process in ["self", "1"] {
        for entry in read_dir(format!("/proc/{process}/ns")).into_iter().flatten().flatten() {
            use std::os::fd::AsRawFd;
            let Ok(file) = File::open(entry.path()) else { continue };
            in_child(attacker, "setns", || {
                // Into the own one leads nowhere else.
                // SAFETY: a plain call.
                if unsafe { libc::setns(file.as_raw_fd(), 0) } == 0 {
                    look_around(attacker, "/");
                }
            });
        }
    }
    let pid = std::env::var("HOST_PID").ok().and_then(|pid| pid.parse::<i32>().ok()).unwrap_or(1);
    // SAFETY: plain calls.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if fd >= 0 {
            libc::setns(fd as i32, 0x7e02_0080);
        }
        look_around(attacker, "/");
    }
}

/// Files by which root of a host changes its kernel.
fn settings_of_the_kernel(attacker: &Attacker, _: u64) {
    let names = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/kernel/hotplug",
        "/proc/sys/kernel/panic",
        "/proc/sys/kernel/sysrq",
        "/proc/sys/kernel/usermodehelper/bset",
        "/proc/sys/kernel/pid_max",
        "/proc/sys/kernel/threads-max",
        "/proc/sys/kernel/yama/ptrace_scope",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sys/vm/drop_caches",
        "/proc/sys/vm/panic_on_oom",
        "/proc/sys/fs/binfmt_misc/register",
        "/proc/sys/fs/suid_dumpable",
        "/proc/sys/fs/file-max",
        "/proc/sys/net/ipv4/ip_forward",
        "/proc/sysrq-trigger",
        "/proc/kcore",
        "/proc/kmem",
        "/proc/kmsg",
        "/proc/kallsyms",
        "/proc/acpi",
        "/proc/scsi/scsi",
        "/proc/timer_list",
        "/proc/keys",
        "/proc/key-users",
        "/proc/sched_debug",
        "/proc/bus/pci/00/00.0",
        "/proc/irq/0/smp_affinity",
        "/proc/1/oom_score_adj_of_the_host",
        "/sys/kernel/uevent_helper",
        "/sys/kernel/debug/kprobes/enabled",
        "/sys/kernel/tracing/trace",
        "/sys/kernel/security/lockdown",
        "/sys/kernel/vmcoreinfo",
        "/sys/firmware/efi/efivars",
        "/sys/module/kernel/parameters/panic",
        "/sys/power/state",
        "/sys/class/mem/mem",
        "/sys/fs/cgroup/release_agent",
        "/sys/fs/cgroup/cgroup.procs",
        "/sys/devices/virtual/powercap",
        "/sys/bus/pci/rescan",
    ];
    for name in names {
        let before = std::fs::read(name).ok();
        for options in
            [OpenOptions::new().write(true), OpenOptions::new().write(true).truncate(true)]
        {
            let Ok(mut file) = options.open(name) else { continue };
            let wrote = file.write(b"|/tmp/attack\n");
            expect(attacker, wrote.is_err(), &format!("{name} was written"));
        }
        expect(attacker, std::fs::read(name).ok() == before, &format!("{name} changed"));
    }
    for name in
        ["/proc/kcore", "/proc/kmsg", "/proc/kallsyms", "/dev/mem", "/dev/kmem", "/dev/port"]
    {
        let mut bytes = [0; 16];
        let read = File::open(name).and_then(|mut file| file.read(&mut bytes));
        expect(attacker, read.is_err(), &format!("{name} can be read"));
    }
}

/// A crash makes no file and starts no helper.
fn core_dump(attacker: &Attacker, _: u64) {
    let limit = libc::rlimit { rlim_cur: u64::MAX, rlim_max: u64::MAX };
    for signal in [libc::SIGSEGV, libc::SIGQUIT, libc::SIGABRT, libc::SIGSYS] {
        // SAFETY: the child makes plain calls and dies.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::setrlimit(libc::RLIMIT_CORE, &limit);
                libc::prctl(libc::PR_SET_DUMPABLE, 2);
                libc::signal(signal, libc::SIG_DFL);
                libc::raise(signal);
                libc::_exit(0);
            }
            let mut status = 0;
            libc::waitpid(child, &mut status, 0);
            let died = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == signal;
            expect(attacker, died, &format!("signal {signal}: status {status:#x}"));
        }
    }
    expect(attacker, !Path::new("core").exists(), "there is a core file");
}

/// Calls by which a kernel is changed, looked into or attacked. Those that the sandbox does not have
/// are those of a kernel that was built without them.
fn closed_calls(attacker: &Attacker, _: u64) {
    let page = [0u64; 512];
    let at = page.as_ptr() as u64;
    let calls: &[(&str, i64, [u64; 6])] = &[
        ("ptrace attach", libc::SYS_ptrace, [16, 1, 0, 0, 0, 0]),
        ("ptrace seize", libc::SYS_ptrace, [0x4206, 1, 0, 0, 0, 0]),
        ("add_key", libc::SYS_add_key, [at, at, at, 8, u64::MAX - 1, 0]),
        ("request_key", libc::SYS_request_key, [at, at, at, 0, 0, 0]),
        ("keyctl", libc::SYS_keyctl, [0, u64::MAX - 3, 1, 0, 0, 0]),
        ("keyctl join", libc::SYS_keyctl, [1, 0, 0, 0, 0, 0]),
        ("init_module", libc::SYS_init_module, [at, 64, at, 0, 0, 0]),
        ("finit_module", libc::SYS_finit_module, [0, at, 0, 0, 0, 0]),
        ("delete_module", libc::SYS_delete_module, [at, 0, 0, 0, 0, 0]),
        ("kexec_load", libc::SYS_kexec_load, [0, 0, 0, 0, 0, 0]),
        ("kexec_file_load", libc::SYS_kexec_file_load, [0, 0, 0, 0, 0, 0]),
        ("bpf", libc::SYS_bpf, [0, at, 120, 0, 0, 0]),
        ("perf_event_open", libc::SYS_perf_event_open, [at, 0, u64::MAX, u64::MAX, 0, 0]),
        ("userfaultfd", libc::SYS_userfaultfd, [1, 0, 0, 0, 0, 0]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [8, at, 0, 0, 0, 0]),
        ("iopl", libc::SYS_iopl, [3, 0, 0, 0, 0, 0]),
        ("ioperm", libc::SYS_ioperm, [0, 1024, 1, 0, 0, 0]),
        ("modify_ldt", libc::SYS_modify_ldt, [1, at, 16, 0, 0, 0]),
        ("swapon", libc::SYS_swapon, [at, 0, 0, 0, 0, 0]),
        ("acct", libc::SYS_acct, [0, 0, 0, 0, 0, 0]),
        ("quotactl", libc::SYS_quotactl, [0, 0, 0, 0, 0, 0]),
        ("syslog", libc::SYS_syslog, [3, at, 4096, 0, 0, 0]),
        ("fanotify_init", libc::SYS_fanotify_init, [0, 0, 0, 0, 0, 0]),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, [0, at, 0, 0, 0, 0]),
        ("lookup_dcookie", libc::SYS_lookup_dcookie, [0, at, 64, 0, 0, 0]),
        ("process_madvise", libc::SYS_process_madvise, [0, at, 1, 4, 0, 0]),
        ("move_pages", libc::SYS_move_pages, [1, 1, at, at, at, 0]),
        ("memfd_secret", libc::SYS_memfd_secret, [0, 0, 0, 0, 0, 0]),
        ("settimeofday", libc::SYS_settimeofday, [at, 0, 0, 0, 0, 0]),
        ("clock_settime", libc::SYS_clock_settime, [0, at, 0, 0, 0, 0]),
        ("reboot with bad magic", libc::SYS_reboot, [1, 2, 3, 0, 0, 0]),
        ("vserver", libc::SYS_vserver, [0, 0, 0, 0, 0, 0]),
    ];
    for (name, number, args) in calls {
        let got = super::asm::syscall(*number as u64, *args);
        let errors = [libc::ENOSYS, libc::EPERM, libc::EINVAL];
        expect(attacker, errors.iter().any(|&e| got == -i64::from(e)), &format!("{name}: {got}"));
    }
    // Only with privileges can more be asked for: and then it must be about the sandbox.
    if !is_root() {
        let got =
            super::asm::syscall(libc::SYS_reboot as u64, [0xfee1_dead, 672_274_793, 0, 0, 0, 0]);
        expect(attacker, got == -i64::from(libc::EPERM), "reboot by a user");
        let name = super::asm::syscall(libc::SYS_sethostname as u64, [at, 4, 0, 0, 0, 0]);
        expect(attacker, name == -i64::from(libc::EPERM), "sethostname by a user");
    }
}

/// Every number a process of the host could have: only those that `/proc` lists exist.
fn processes_of_the_host(attacker: &Attacker, _: u64) {
    let hosts = std::env::var("HOST_PID").ok().and_then(|pid| pid.parse::<i32>().ok());
    let near = hosts.map_or(0..0, |pid| pid - 50..pid + 50);
    let known = || {
        let entries = read_dir("/proc").into_iter().flatten().flatten();
        let names = entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
        names.collect::<Vec<_>>()
    };
    let before = known();
    for pid in (1..600).chain(near) {
        // SAFETY: signal 0 and a descriptor for nothing.
        let (exists, fd) = unsafe {
            let exists = libc::kill(pid, 0) == 0 || errno() == libc::EPERM;
            (exists, libc::syscall(libc::SYS_pidfd_open, pid, 0))
        };
        if fd >= 0 {
            // SAFETY: our own descriptor.
            unsafe { libc::close(fd as i32) };
        }
        let listed = before.contains(&pid) || known().contains(&pid);
        // Threads have numbers, too; and the bystander makes children all the time.
        if (exists || fd >= 0) && !listed && !Path::new(&format!("/proc/{pid}")).exists() {
            // SAFETY: signal 0.
            let still = unsafe { libc::kill(pid, 0) == 0 || errno() == libc::EPERM };
            expect(attacker, !still, &format!("process {pid} exists, but is not listed"));
        }
    }
    for pid in [-2, i32::MIN, i32::MAX, 1 << 22, 4_194_303] {
        // SAFETY: signal 0.
        let got = unsafe { libc::kill(pid, 0) };
        expect(attacker, got != 0, &format!("kill({pid}, 0)"));
    }
}

/// Memory of the bystander, of init and of numbers that may be stubs.
fn memory_of_others(attacker: &Attacker, _: u64) {
    let victim = attacker.share.cells[0].load(std::sync::atomic::Ordering::Relaxed) as i32;
    let mut buffer = [0u8; 64];
    let maps = super::probe::maps();
    let target = maps.first().map_or(0x40_0000, |m| m.start);
    let hosts = std::env::var("HOST_PID").ok().and_then(|pid| pid.parse().ok()).unwrap_or(2);
    let own = std::process::id() as i32;
    for pid in [victim, 1, 2, 3, hosts, 0, -1].into_iter().filter(|&pid| pid != own) {
        let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: 64 };
        let remote = libc::iovec { iov_base: target as *mut libc::c_void, iov_len: 64 };
        let call = |number: i64| {
            let (local, remote) = (&raw const local as u64, &raw const remote as u64);
            super::asm::syscall(number as u64, [pid as u64, local, 1, remote, 1, 0])
        };
        let (read, wrote) = (call(libc::SYS_process_vm_readv), call(libc::SYS_process_vm_writev));
        let inside = Path::new(&format!("/proc/{pid}")).exists();
        if !is_root() || !inside {
            let refused = [-libc::EPERM, -libc::ESRCH].map(i64::from);
            expect(attacker, refused.contains(&read), &format!("reading {pid}: {read}"));
            expect(attacker, refused.contains(&wrote), &format!("writing {pid}: {wrote}"));
        }
        if !is_root() && inside {
            let open = File::open(format!("/proc/{pid}/mem"));
            expect(attacker, open.is_err(), &format!("/proc/{pid}/mem"));
            expect(attacker, read_dir(format!("/proc/{pid}/fd")).is_err(), "descriptors of others");
            // SAFETY: plain calls.
            let stolen = unsafe {
                let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
                libc::syscall(libc::SYS_pidfd_getfd, fd, 1, 0)
            };
            expect(attacker, stolen < 0, "a descriptor of another process");
        }
    }
}

/// Abstract sockets have no path that could be hidden.
fn sockets_of_the_host(attacker: &Attacker, _: u64) {
    let name = std::env::var("HOST_SOCKET").unwrap_or_default();
    expect(attacker, !name.is_empty(), "no HOST_SOCKET");
    // SAFETY: plain calls with valid pointers.
    unsafe {
        let mut address: libc::sockaddr_un = std::mem::zeroed();
        address.sun_family = libc::AF_UNIX as u16;
        for (to, from) in address.sun_path[1..].iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        for kind in [libc::SOCK_STREAM, libc::SOCK_SEQPACKET, libc::SOCK_DGRAM] {
            let fd = libc::socket(libc::AF_UNIX, kind, 0);
            let got = libc::connect(fd, (&raw const address).cast(), 3 + name.len() as u32);
            expect(attacker, got != 0 && errno() == libc::ECONNREFUSED, "the host's socket");
            libc::close(fd);
        }
        // One with a path, in the directory that is shown.
        let mut address: libc::sockaddr_un = std::mem::zeroed();
        address.sun_family = libc::AF_UNIX as u16;
        for (to, from) in address.sun_path.iter_mut().zip("host-socket".bytes()) {
            *to = from as libc::c_char;
        }
        let fd = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0);
        let len = size_of::<libc::sockaddr_un>() as u32;
        let got = libc::connect(fd, (&raw const address).cast(), len);
        let errors = [libc::ECONNREFUSED, libc::EACCES, libc::ENOENT];
        expect(attacker, got != 0 && errors.contains(&errno()), "the host's socket by its path");
    }
    let listed = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    expect(attacker, !listed.contains(&name), "the host's sockets are listed");
}

/// Socket families that lead elsewhere.
fn networks(attacker: &Attacker, _: u64) {
    let families = [
        libc::AF_PACKET,
        libc::AF_VSOCK,
        libc::AF_BLUETOOTH,
        libc::AF_ALG,
        libc::AF_KEY,
        libc::AF_TIPC,
        libc::AF_CAN,
        libc::AF_X25,
        libc::AF_RDS,
        44, // AF_XDP
        45,
        -1,
    ];
    for family in families {
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_RAW, libc::SOCK_SEQPACKET] {
            // SAFETY: a plain call.
            let fd = unsafe { libc::socket(family, kind, 0) };
            let errors = [libc::EAFNOSUPPORT, libc::EPERM, libc::EINVAL];
            expect(attacker, fd < 0 && errors.contains(&errno()), &format!("family {family}"));
        }
    }
}

/// Handles that name inodes without a path: made, they must not be of use.
fn file_handles(attacker: &Attacker, _: u64) {
    for inode in (0..64).chain([128, 256, 1 << 20]) {
        // struct file_handle: bytes, kind, inode, generation.
        let handle = [8u32, 1, inode, 0];
        // SAFETY: a plain call with a valid pointer.
        let fd = unsafe {
            libc::syscall(libc::SYS_open_by_handle_at, libc::AT_FDCWD, handle.as_ptr(), 0)
        };
        expect(attacker, fd < 0, "open_by_handle_at");
    }
}
