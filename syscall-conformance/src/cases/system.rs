//! rlimits, uname, sysinfo, getrandom, system calls that are not there, /proc and /dev contents.

use crate::helpers::*;
use crate::sys::{BAD, KERNEL};
use std::ffi::CString;

cases![
    rlimit_get_set,
    rlimit_rules,
    prlimit_forms,
    rlimit_inherited,
    rlimit_cpu,
    uname_fields,
    sysinfo_fields,
    getrandom_forms,
    unknown_system_calls,
    sethostname_denied,
    auxiliary_vector,
    vdso_present,
    proc_self_links,
    proc_stat_fields,
    proc_status_fields,
    proc_cmdline_environ,
    proc_meminfo_cpuinfo,
    proc_uptime_loadavg,
    proc_fd_directory,
    proc_fdinfo,
    proc_limits,
    proc_mounts,
    proc_sys_files,
    proc_pid_listing,
    proc_errors,
    proc_self_mem,
    proc_filesystems_version,
    proc_statm_io,
    dev_contents,
    dev_links,
    tmp_is_sticky,
    errors_in_order,
    large_system_call_number,
    kcmp_and_ids,
    personality_forms,
    fadvise_readahead,
    fcntl_owner,
    async_signals_with_information,
    name_to_handle,
    umount_denied,
    reboot_denied,
    capability_wide_syscalls_denied,
];

fn limit(which: u32) -> (u64, u64) {
    let mut l = rlimit { rlim_cur: 0, rlim_max: 0 };
    ok!(SYS_getrlimit, which, &mut l);
    (l.rlim_cur, l.rlim_max)
}

fn rlimit_get_set() {
    for which in 0..16u32 {
        let (soft, hard) = limit(which);
        assert!(soft <= hard, "limit {which}");
        let l = rlimit { rlim_cur: soft, rlim_max: hard };
        ok!(SYS_setrlimit, which, &l);
    }
    let (_, hard) = limit(RLIMIT_NOFILE);
    ok!(SYS_setrlimit, RLIMIT_NOFILE, &rlimit { rlim_cur: 100, rlim_max: hard });
    assert_eq!(limit(RLIMIT_NOFILE), (100, hard));
}

fn rlimit_rules() {
    let mut l = rlimit { rlim_cur: 10, rlim_max: 5 };
    err!(EINVAL: SYS_getrlimit, 16, &mut l);
    err!(EINVAL: SYS_setrlimit, RLIMIT_CORE, &l);
    err!(EFAULT: SYS_getrlimit, RLIMIT_CORE, BAD);
    err!(EFAULT: SYS_setrlimit, RLIMIT_CORE, BAD);
    l = rlimit { rlim_cur: 5, rlim_max: 10 };
    ok!(SYS_setrlimit, RLIMIT_CORE, &l);
    need_unprivileged();
    l.rlim_max = 11;
    err!(EPERM: SYS_setrlimit, RLIMIT_CORE, &l);
    l = rlimit { rlim_cur: 10, rlim_max: 10 };
    ok!(SYS_setrlimit, RLIMIT_CORE, &l);
}

fn prlimit_forms() {
    let (new, mut old) = (rlimit { rlim_cur: 7, rlim_max: 9 }, rlimit { rlim_cur: 0, rlim_max: 0 });
    ok!(SYS_prlimit64, 0, RLIMIT_CORE, &new, &mut old);
    ok!(SYS_prlimit64, ok!(SYS_getpid), RLIMIT_CORE, 0, &mut old);
    assert_eq!((old.rlim_cur, old.rlim_max), (7, 9));
    err!(ESRCH: SYS_prlimit64, 0x3fff_ffff, RLIMIT_CORE, 0, &mut old);
    err!(EINVAL: SYS_prlimit64, 0, 99, 0, &mut old);
    let (r, w) = pipe(0);
    let pid = fork(|| {
        read(r, 1);
        i32::from(limit(RLIMIT_CORE) != (3, 3))
    });
    ok!(SYS_prlimit64, pid, RLIMIT_CORE, &rlimit { rlim_cur: 3, rlim_max: 3 }, 0);
    write(w, b"x");
    assert_eq!(wait(pid), 0);
}

fn rlimit_inherited() {
    ok!(SYS_setrlimit, RLIMIT_CORE, &rlimit { rlim_cur: 4, rlim_max: 8 });
    in_child(|| assert_eq!(limit(RLIMIT_CORE), (4, 8)));
    std::thread::spawn(|| {
        ok!(SYS_setrlimit, RLIMIT_CORE, &rlimit { rlim_cur: 2, rlim_max: 8 });
    })
    .join()
    .unwrap();
    assert_eq!(limit(RLIMIT_CORE), (2, 8));
}

fn rlimit_cpu() {
    let status = status_of(|| {
        ok!(SYS_setrlimit, RLIMIT_CPU, &rlimit { rlim_cur: 1, rlim_max: 100 });
        while now(CLOCK_PROCESS_CPUTIME_ID) < 8_000_000_000 {}
        0
    });
    assert_eq!(killed_by(status), Some(SIGXCPU));
}

fn uname_fields() {
    let mut u: utsname = zeroed();
    ok!(SYS_uname, &mut u);
    let text = |f: &[c_char]| -> String { f.iter().take_while(|c| **c != 0).map(|c| *c as u8 as char).collect() };
    println!("{} {}", text(&u.sysname), text(&u.machine));
    let major: u32 = text(&u.release).split('.').next().unwrap().parse().unwrap();
    assert!(major >= 4);
    err!(EFAULT: SYS_uname, BAD);
    let hostname = crate::helpers::text(c"/proc/sys/kernel/hostname");
    assert_eq!(hostname.trim_end(), text(&u.nodename));
}

fn sysinfo_fields() {
    let mut s: sysinfo = zeroed();
    ok!(SYS_sysinfo, &mut s);
    assert!(s.totalram > 0 && s.freeram <= s.totalram && s.mem_unit > 0 && s.procs > 0);
    err!(EFAULT: SYS_sysinfo, BAD);
}

fn getrandom_forms() {
    let (mut a, mut b) = ([0u8; 64], [0u8; 64]);
    assert_eq!(ok!(SYS_getrandom, &mut a, 64, 0), 64);
    assert_eq!(ok!(SYS_getrandom, &mut b, 64, GRND_NONBLOCK), 64);
    assert_ne!(a, b);
    assert_eq!(ok!(SYS_getrandom, &mut a, 0, 0), 0);
    err!(EINVAL: SYS_getrandom, &mut a, 64, 0x10);
    err!(EFAULT: SYS_getrandom, BAD, 64, 0);
    let mut big = vec![0u8; 100_000];
    assert_eq!(ok!(SYS_getrandom, &mut big[..], 100_000, 0), 100_000);
}

/// A call by number.
fn number(nr: i64) -> Result<usize, i32> {
    crate::sys::call(nr, &[])
}

fn unknown_system_calls() {
    // Gone, never there, or beyond the table.
    for nr in [156, 174, 177, 178, 180, 181, 183, 184, 185, 211, 214, 215, 236, 400, 999, 1 << 20] {
        assert_eq!(number(nr), Err(ENOSYS), "number {nr}");
    }
}

fn large_system_call_number() {
    for nr in [-1, -2, i64::MAX, 0x4000_0000, 0x7fff_ffff] {
        assert_eq!(number(nr), Err(ENOSYS), "number {nr}");
    }
    // Only the lower half of the register counts.
    assert_eq!(Ok(ok!(SYS_getpid)), number(SYS_getpid | 1 << 32));
}

fn sethostname_denied() {
    need_unprivileged();
    err!(EPERM: SYS_sethostname, c"x", 1);
    err!(EPERM: SYS_setdomainname, c"x", 1);
}

fn auxiliary_vector() {
    let raw = slurp(c"/proc/self/auxv");
    let words: Vec<u64> = raw.chunks_exact(8).map(|c| u64::from_ne_bytes(c.try_into().unwrap())).collect();
    let get = |key: u64| words.chunks_exact(2).find(|p| p[0] == key).map(|p| p[1]);
    assert_eq!(get(AT_PAGESZ), Some(4096));
    assert_eq!(get(AT_CLKTCK), Some(100));
    assert_eq!(get(AT_UID), Some(ok!(SYS_getuid) as u64));
    assert_eq!(get(AT_SECURE), Some(0));
    assert_eq!(get(AT_PHENT), Some(56));
    for key in [AT_PHDR, AT_ENTRY, AT_RANDOM, AT_EXECFN, AT_SYSINFO_EHDR, AT_HWCAP, AT_PLATFORM, AT_PHNUM] {
        assert!(get(key).is_some_and(|v| v != 0), "key {key}");
    }
    assert_eq!(words[words.len() - 2..], [0, 0]);
}

fn vdso_present() {
    // SAFETY: a look-up, then a read of the mapped header.
    let at = unsafe { getauxval(AT_SYSINFO_EHDR) } as usize;
    assert_eq!([peek(at), peek(at + 1), peek(at + 2), peek(at + 3)], *b"\x7fELF");
    assert_eq!(fault(|| poke(at, 0)).map(|f| f.0), Some(SIGSEGV));
}

fn link(path: &std::ffi::CStr) -> String {
    let mut b = [0u8; 4096];
    let n = ok!(SYS_readlink, path, &mut b, 4096);
    String::from_utf8_lossy(&b[..n]).into_owned()
}

fn proc_self_links() {
    assert_eq!(link(c"/proc/self"), ok!(SYS_getpid).to_string());
    assert_eq!(link(c"/proc/thread-self"), format!("{0}/task/{0}", ok!(SYS_getpid)));
    let mut b = [0u8; 4096];
    let n = ok!(SYS_getcwd, &mut b, 4096);
    assert_eq!(link(c"/proc/self/cwd").as_bytes(), &b[..n - 1]);
    assert_eq!(link(c"/proc/self/root"), "/");
    assert!(link(c"/proc/self/exe").ends_with("guest"));
    for ns in [c"/proc/self/ns/pid", c"/proc/self/ns/mnt", c"/proc/self/ns/user", c"/proc/self/ns/net"] {
        assert!(link(ns).contains(":["));
    }
    close(open(c"/proc/self/exe", O_RDONLY, 0));
}

/// The name the process got by exec.
fn own_name() -> String {
    let program = std::env::args().next().unwrap_or_default();
    program.rsplit('/').next().unwrap_or_default().chars().take(15).collect()
}

fn proc_stat_fields() {
    let stat = text(c"/proc/self/stat");
    let rest = stat.rsplit(')').next().unwrap();
    let f: Vec<i64> = rest.split_whitespace().skip(1).map(|x| x.parse().unwrap_or(-9)).collect();
    assert_eq!(f.len(), 49);
    assert_eq!(f[0] as usize, ok!(SYS_getppid));
    assert_eq!(f[1] as usize, ok!(SYS_getpgid, 0));
    assert_eq!(f[2] as usize, ok!(SYS_getsid, 0));
    assert!(rest.trim_start().starts_with('R'));
    assert!(stat.starts_with(&format!("{} ({}) ", ok!(SYS_getpid), own_name())));
    // Threads, virtual size, resident pages.
    assert!(f[16] == 1 && f[19] > 4096 && f[20] > 0);
}

fn proc_status_fields() {
    for key in ["Name", "Umask", "State", "Tgid", "Pid", "PPid", "TracerPid", "Uid", "Gid", "FDSize", "Groups", "VmPeak", "VmSize", "VmRSS", "VmData", "VmStk", "Threads", "SigQ", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Cpus_allowed", "Cpus_allowed_list", "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"] {
        status_field(key);
    }
    println!("{} {} {}", status_field("Umask"), status_field("State"), status_field("TracerPid"));
    assert_eq!(status_field("Pid"), ok!(SYS_getpid).to_string());
}

fn proc_cmdline_environ() {
    assert!(slurp(c"/proc/self/cmdline").ends_with(b"\0run\0system::proc_cmdline_environ\0"));
    let env = slurp(c"/proc/self/environ");
    assert!(env.is_empty() || env.ends_with(b"\0"));
    assert_eq!(text(c"/proc/self/comm"), own_name() + "\n");
    assert_eq!(lstat(c"/proc/self/cmdline").st_size, 0);
}

fn proc_meminfo_cpuinfo() {
    let mem = text(c"/proc/meminfo");
    for key in ["MemTotal:", "MemFree:", "MemAvailable:", "Buffers:", "Cached:", "SwapTotal:", "SwapFree:"] {
        assert!(mem.lines().any(|l| l.starts_with(key) && l.ends_with(" kB")), "{key}");
    }
    let cpu = text(c"/proc/cpuinfo");
    assert!(cpu.starts_with("processor\t: 0\n") && cpu.contains("\nflags\t\t: "));
    let stat = text(c"/proc/stat");
    assert!(stat.starts_with("cpu  ") && stat.contains("\nbtime ") && stat.contains("\nctxt "));
    let n = cpu.matches("processor\t:").count();
    let m = stat.lines().filter(|l| l.starts_with("cpu") && !l.starts_with("cpu ")).count();
    assert_eq!(n, m);
}

fn proc_uptime_loadavg() {
    let up = text(c"/proc/uptime");
    let v: Vec<f64> = up.split_whitespace().map(|x| x.parse().unwrap()).collect();
    assert!(v.len() == 2 && v[0] > 0.0);
    let load = text(c"/proc/loadavg");
    let f: Vec<&str> = load.split_whitespace().collect();
    assert!(f.len() == 5 && f[3].contains('/'));
    f[0].parse::<f64>().unwrap();
}

fn proc_fd_directory() {
    ok!(SYS_close_range, 3, u32::MAX, 0);
    ok!(SYS_dup2, 0, 40);
    let mut names: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|e| e.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, [0, 1, 2, 3, 40]);
    let st = lstat(c"/proc/self/fd/0");
    assert_eq!(st.st_mode & S_IFMT, S_IFLNK);
    println!("{:o} {:o}", lstat(c"/proc/self/fd/1").st_mode, st.st_mode);
    assert_eq!(link(c"/proc/self/fd/0"), "/dev/null");
}

fn proc_fdinfo() {
    let fd = temp(c"f", b"0123456789");
    read(fd, 4);
    let name = CString::new(format!("/proc/self/fdinfo/{fd}")).unwrap();
    let info = text(&name);
    assert!(info.starts_with("pos:\t4\nflags:\t0100002\n"), "{info}");
    assert!(info.contains("\nmnt_id:\t"));
    let ev = ok!(SYS_eventfd2, 7, 0);
    let name = CString::new(format!("/proc/self/fdinfo/{ev}")).unwrap();
    assert!(text(&name).contains("eventfd-count:                7\n"), "{}", text(&name));
}

fn proc_limits() {
    ok!(SYS_setrlimit, RLIMIT_CORE, &rlimit { rlim_cur: 12, rlim_max: 34 });
    let all = text(c"/proc/self/limits");
    println!("{}", all.lines().next().unwrap());
    println!("{}", all.lines().find(|l| l.starts_with("Max core")).unwrap());
}

fn proc_mounts() {
    let all = text(c"/proc/self/mounts");
    assert!(all.lines().any(|l| l.split(' ').nth(1) == Some("/proc") && l.split(' ').nth(2) == Some("proc")));
    assert!(all.lines().any(|l| l.split(' ').nth(1) == Some("/")));
    assert!(all.lines().all(|l| l.split(' ').count() == 6));
    let info = text(c"/proc/self/mountinfo");
    assert!(info.lines().all(|l| l.contains(" - ")));
    assert_eq!(text(c"/proc/mounts"), all);
}

fn proc_sys_files() {
    for path in [c"/proc/sys/kernel/pid_max", c"/proc/sys/fs/file-max", c"/proc/sys/kernel/ngroups_max", c"/proc/sys/vm/overcommit_memory", c"/proc/sys/net/core/somaxconn", c"/proc/sys/kernel/cap_last_cap", c"/proc/sys/fs/pipe-max-size", c"/proc/sys/vm/max_map_count"] {
        let t = text(path);
        t.trim_end().parse::<u64>().unwrap_or_else(|_| panic!("{path:?}: {t}"));
    }
    assert_eq!(text(c"/proc/sys/kernel/ostype"), "Linux\n");
    let id = text(c"/proc/sys/kernel/random/uuid");
    assert_eq!(id.len(), 37);
    assert_ne!(id, text(c"/proc/sys/kernel/random/uuid"));
    assert_eq!(text(c"/proc/sys/kernel/random/boot_id"), text(c"/proc/sys/kernel/random/boot_id"));
}

fn proc_pid_listing() {
    let pid = fork(|| loop {
        nap(1000)
    });
    let all: Vec<String> = std::fs::read_dir("/proc").unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(all.contains(&pid.to_string()) && all.contains(&"self".to_string()));
    ok!(SYS_kill, pid, SIGKILL);
    wait(pid);
    let name = CString::new(format!("/proc/{pid}")).unwrap();
    err!(ENOENT: SYS_openat, AT_FDCWD, name.as_c_str(), O_RDONLY, 0);
}

fn proc_errors() {
    err!(ENOENT: SYS_openat, AT_FDCWD, c"/proc/nope", O_RDONLY, 0);
    err!(ENOENT: SYS_openat, AT_FDCWD, c"/proc/self/nope", O_RDONLY, 0);
    err!(ENOENT: SYS_openat, AT_FDCWD, c"/proc/99999999", O_RDONLY, 0);
    err!(ENOENT: SYS_openat, AT_FDCWD, c"/proc/-1", O_RDONLY, 0);
    err!(ENOENT: SYS_openat, AT_FDCWD, c"/proc/01", O_RDONLY, 0);
    err!(ENOENT: SYS_mkdir, c"/proc/x", 0o755);
    match sys!(SYS_openat, AT_FDCWD, c"/proc/x", O_CREAT | O_RDWR, 0o644) {
        Err(ENOENT | EACCES) => {}
        r => panic!("{r:?}"),
    }
    // The files of a process that is gone, through a descriptor.
    let pid = fork(|| loop {
        nap(1000)
    });
    let dir = open(&CString::new(format!("/proc/{pid}")).unwrap(), O_RDONLY, 0);
    let stat = ok!(SYS_openat, dir, c"stat", O_RDONLY, 0);
    ok!(SYS_kill, pid, SIGKILL);
    wait(pid);
    err!(ESRCH: SYS_read, stat, &mut [0u8; 64], 64);
    match sys!(SYS_openat, dir, c"status", O_RDONLY, 0) {
        Err(ENOENT | ESRCH) => {}
        r => panic!("{r:?}"),
    }
}

fn proc_self_mem() {
    let at = map(PAGE, PROT_READ | PROT_WRITE);
    poke(at, 42);
    let fd = open(c"/proc/self/mem", O_RDWR, 0);
    let mut b = [0u8; 1];
    assert_eq!(ok!(SYS_pread64, fd, &mut b, 1, at), 1);
    assert_eq!(b, [42]);
    ok!(SYS_pwrite64, fd, &[43u8], 1, at);
    assert_eq!(peek(at), 43);
    err!(EIO: SYS_pread64, fd, &mut b, 1, 0);
}

fn proc_filesystems_version() {
    let all = text(c"/proc/filesystems");
    for fs in ["proc", "tmpfs"] {
        assert!(all.contains(&format!("nodev\t{fs}\n")));
    }
    assert!(text(c"/proc/version").starts_with("Linux version "));
    assert!(!text(c"/proc/cmdline").is_empty());
}

fn proc_statm_io() {
    let m = text(c"/proc/self/statm");
    let f: Vec<u64> = m.split_whitespace().map(|x| x.parse().unwrap()).collect();
    assert!(f.len() == 7 && f[0] >= f[1] && f[1] > 0);
    let at = map(10 << 20, PROT_READ | PROT_WRITE);
    for i in 0..2560 {
        poke(at + i * PAGE, 1);
    }
    let m = text(c"/proc/self/statm");
    let g: Vec<u64> = m.split_whitespace().map(|x| x.parse().unwrap()).collect();
    assert!(g[0] >= f[0] + 2560 && g[1] >= f[1] + 2400, "{f:?} {g:?}");
}

fn dev_contents() {
    for p in [c"/dev/null", c"/dev/zero", c"/dev/full", c"/dev/random", c"/dev/urandom", c"/dev/tty", c"/dev/ptmx"] {
        // ptmx may be a link to that of the instance in /dev/pts.
        let mut st: stat = zeroed();
        ok!(SYS_stat, p, &mut st);
        println!("{p:?} {:o}", st.st_mode & S_IFMT);
    }
    assert_eq!(lstat(c"/dev/pts").st_mode & S_IFMT, S_IFDIR);
    assert_eq!(lstat(c"/dev/shm").st_mode & 0o7777, 0o1777);
}

fn dev_links() {
    println!("{} {} {} {}", link(c"/dev/fd"), link(c"/dev/stdin"), link(c"/dev/stdout"), link(c"/dev/stderr"));
    let (r, w) = pipe(0);
    ok!(SYS_dup2, r, 50);
    write(w, b"x");
    assert_eq!(read(open(c"/dev/fd/50", O_RDONLY, 0), 1), b"x");
}

fn tmp_is_sticky() {
    let mut st: stat = zeroed();
    ok!(SYS_stat, c"/tmp", &mut st);
    assert_eq!(st.st_mode & 0o7777, 0o1777);
}

fn errors_in_order() {
    // Of two things wrong, Linux's choice.
    err!(EINVAL: SYS_renameat2, AT_FDCWD, BAD, AT_FDCWD, BAD, 0x80);
    err!(EINVAL: SYS_unlinkat, 999, BAD, 0x1);
    err!(EINVAL: SYS_readlink, BAD, BAD, 0);
    err!(EBADF: SYS_ftruncate, 999, 5);
    err!(EBADF: SYS_mmap, 1, 0, 0, 0, 999, 0);
    err!(EINVAL: SYS_mmap, 0, PAGE, 0, MAP_PRIVATE, 999, 1);
    err!(EBADF: SYS_getdents64, 999, BAD, 0);
    err!(EINVAL: SYS_socketpair, 99, 0x10000, 99, BAD);
    err!(EBADF: SYS_fchmod, 999, 0);
    err!(EINVAL: SYS_statx, 999, BAD, 0x8, 0, BAD);
    err!(EBADF: SYS_epoll_wait, 999, BAD, 0, 0);
    err!(EINVAL: SYS_dup3, 999, 5, 1);
    err!(EINVAL: SYS_pipe2, BAD, 1);
    err!(EFAULT: SYS_execve, KERNEL, BAD, BAD);
}

fn kcmp_and_ids() {
    let fd = temp(c"f", b"");
    let d = ok!(SYS_dup, fd);
    let pid = ok!(SYS_getpid);
    match sys!(SYS_kcmp, pid, pid, 0, fd, d) {
        Err(ENOSYS) => skip!("no kcmp"),
        r => assert_eq!(r, Ok(0)),
    }
    assert_ne!(ok!(SYS_kcmp, pid, pid, 0, fd, 0), 0);
    err!(EBADF: SYS_kcmp, pid, pid, 0, fd, 999);
    err!(EINVAL: SYS_kcmp, pid, pid, 99, 0, 0);
}

fn personality_forms() {
    assert_eq!(ok!(SYS_personality, 0xffff_ffffu32), 0);
    assert_eq!(ok!(SYS_personality, ADDR_NO_RANDOMIZE), 0);
    assert_eq!(ok!(SYS_personality, 0xffff_ffffu32), ADDR_NO_RANDOMIZE as usize);
}

fn fadvise_readahead() {
    let fd = temp(c"f", b"0123456789");
    for advice in 0..6 {
        ok!(SYS_fadvise64, fd, 0, 0, advice);
    }
    err!(EINVAL: SYS_fadvise64, fd, 0, 0, 6);
    err!(EINVAL: SYS_fadvise64, fd, 0, -1i64, 0);
    err!(EBADF: SYS_fadvise64, 999, 0, 0, 0);
    err!(ESPIPE: SYS_fadvise64, pipe(0).0, 0, 0, 0);
    ok!(SYS_readahead, fd, 0, 10);
    err!(EBADF: SYS_readahead, 999, 0, 10);
    err!(EINVAL: SYS_readahead, pipe(0).0, 0, 10);
}

fn fcntl_owner() {
    let (a, _b) = socketpair(SOCK_STREAM);
    let me = ok!(SYS_getpid);
    assert_eq!(ok!(SYS_fcntl, a, F_GETOWN, 0), 0);
    ok!(SYS_fcntl, a, F_SETOWN, me);
    assert_eq!(ok!(SYS_fcntl, a, F_GETOWN, 0), me);
    err!(ESRCH: SYS_fcntl, a, F_SETOWN, 0x3fff_ffff);
    let mut who = [9u32; 2];
    ok!(SYS_fcntl, a, 16, &mut who);
    assert_eq!(who, [1, me as u32]);
    ok!(SYS_fcntl, a, 10, SIGUSR1);
    assert_eq!(ok!(SYS_fcntl, a, 11, 0), SIGUSR1 as usize);
    err!(EINVAL: SYS_fcntl, a, 10, 65);
    ok!(SYS_fcntl, a, 10, 0);
    // Readiness sends the signal.
    on(SIGIO, 0);
    ok!(SYS_fcntl, a, F_SETFL, O_ASYNC | O_NONBLOCK);
    write(_b, b"x");
    nap(5);
    assert_eq!(count(SIGIO), 1);
}

fn async_signals_with_information() {
    let signal = 40;
    sigmask(SIG_BLOCK, bit(signal));
    let next = |milliseconds| {
        let mut got: siginfo_t = zeroed();
        sys!(SYS_rt_sigtimedwait, &bit(signal), &mut got, &ms(milliseconds), 8).map(|_| got)
    };
    let (r, w) = pipe(O_NONBLOCK);
    ok!(SYS_fcntl, r, F_SETOWN, -(ok!(SYS_getpgid, 0) as i32));
    ok!(SYS_fcntl, r, 10, signal);
    write(w, b"x");
    assert!(next(20).is_err(), "before O_ASYNC");
    ok!(SYS_fcntl, r, F_SETFL, O_ASYNC | O_NONBLOCK);
    write(w, b"x");
    let got = next(1000).unwrap();
    // POLL_IN; SAFETY: of a file, so its band and descriptor are there.
    let (band, fd) = unsafe { (*(&raw const got).cast::<i64>().add(2), *(&raw const got).cast::<i32>().add(6)) };
    assert_eq!((got.si_signo, got.si_code, band, fd), (signal, 1, 0x41, r));
    ok!(SYS_fcntl, r, F_SETFL, O_NONBLOCK);
    write(w, b"x");
    assert!(next(20).is_err(), "after O_ASYNC");
}

fn name_to_handle() {
    let mut b = [0u32; 40];
    match sys!(SYS_name_to_handle_at, AT_FDCWD, c".", &mut b, &mut 0i32, 0) {
        Err(EOVERFLOW | EOPNOTSUPP | ENOSYS) => {}
        r => panic!("{r:?}"),
    }
    need_unprivileged();
    match sys!(SYS_open_by_handle_at, AT_FDCWD, &mut b, 0) {
        Err(EPERM | EINVAL | ENOSYS) => {}
        r => panic!("{r:?}"),
    }
}

fn umount_denied() {
    need_unprivileged();
    err!(EPERM: SYS_mount, c"none", c".", c"tmpfs", 0, 0);
    err!(EPERM: SYS_umount2, c"/proc", 0);
    err!(EPERM: SYS_pivot_root, c".", c".");
    err!(EPERM: SYS_unshare, CLONE_NEWNS);
    err!(EINVAL: SYS_unshare, 0x8000_0000u32);
}

fn reboot_denied() {
    need_unprivileged();
    err!(EPERM: SYS_reboot, 0xfee1_deadu32, 672_274_793, 0, 0);
    err!(EPERM: SYS_acct, 0);
    err!(EPERM: SYS_swapoff, c"/nope");
    for r in [sys!(SYS_iopl, 3), sys!(SYS_ioperm, 0x378, 1, 1)] {
        assert!(matches!(r, Err(EPERM | ENOSYS)), "{r:?}");
    }
}

fn capability_wide_syscalls_denied() {
    need_unprivileged();
    for nr in [SYS_init_module, SYS_delete_module, SYS_finit_module, SYS_kexec_load] {
        match number(nr) {
            Err(EPERM | ENOSYS) => {}
            r => panic!("{nr}: {r:?}"),
        }
    }
    match sys!(SYS_quotactl, 0, 0, 0, 0) {
        Err(EPERM | ENOSYS | EINVAL | ENODEV | ENOENT | EFAULT | ESRCH | ENOTBLK) => {}
        r => panic!("{r:?}"),
    }
}
