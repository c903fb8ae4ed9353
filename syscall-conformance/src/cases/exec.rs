//! execve, execveat: arguments, errors, and what survives.

use crate::helpers::*;
use crate::sys::BAD;
use std::ffi::{CStr, CString};

cases![
    echo,
    missing_and_kinds,
    bad_pointers,
    text_formats,
    script,
    script_errors,
    script_nesting,
    close_on_exec,
    what_survives,
    signals_reset,
    argument_limits,
    empty_argv,
    execveat_forms,
    text_busy,
    threads_end,
    name_in_proc,
];

const SELF: &CStr = c"/proc/self/exe";

/// What a child that replaces itself prints, and its status.
fn output(exec: impl FnOnce() -> Result<usize, i32>) -> (String, i32) {
    let (r, w) = pipe(0);
    let pid = fork(|| {
        ok!(SYS_dup2, w, 1);
        close(w);
        close(r);
        let e = exec().expect_err("exec returned");
        say(&format!("failed {}\n", crate::sys::name(e)));
        9
    });
    close(w);
    let mut all = Vec::new();
    loop {
        let part = read(r, 4096);
        if part.is_empty() {
            break;
        }
        all.extend(part);
    }
    (String::from_utf8_lossy(&all).into_owned(), wait(pid))
}

fn say(s: &str) {
    let _ = sys!(SYS_write, 1, s.as_bytes(), s.len());
}

fn exec(path: &CStr, args: &[&CStr], env: &[&CStr]) -> Result<usize, i32> {
    let list = |l: &[&CStr]| -> Vec<*const c_char> {
        l.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (a, e) = (list(args), list(env));
    sys!(SYS_execve, path, &a[..], &e[..])
}

/// What the `state` command prints: everything exec keeps or resets.
pub(crate) fn print_state() {
    let mut mask = 0u64;
    ok!(SYS_rt_sigprocmask, SIG_BLOCK, 0, &mut mask, 8);
    println!("mask {mask:x}");
    println!("ignored {}", status_field("SigIgn"));
    println!("caught {}", status_field("SigCgt"));
    println!("pending {}", status_field("SigPnd"));
    let mut ss: stack_t = zeroed();
    ok!(SYS_sigaltstack, 0, &mut ss);
    println!("nice {}", ok!(SYS_getpriority, PRIO_PROCESS, 0));
    let mut lim = rlimit { rlim_cur: 0, rlim_max: 0 };
    ok!(SYS_getrlimit, RLIMIT_CORE, &mut lim);
    println!("core limit {}", lim.rlim_cur);
    println!("umask {:o}", ok!(SYS_umask, 0));
    for fd in 3..64 {
        if sys!(SYS_fcntl, fd, F_GETFD, 0).is_ok() {
            println!("open {fd}");
        }
    }
    let mut t: itimerval = zeroed();
    ok!(SYS_getitimer, ITIMER_REAL, &mut t);
    println!("timer {}", t.it_value.tv_sec > 1000);
    println!("env {:?}", std::env::vars().collect::<Vec<_>>());
}

fn echo() {
    let (out, st) = output(|| exec(SELF, &[c"guest", c"echo", c"a b", c"", c"c"], &[]));
    assert_eq!((out.as_str(), st), ("a b  c\n", 0));
}

fn missing_and_kinds() {
    let go = |p: &CStr| exec(p, &[p], &[]);
    assert_eq!(go(c"nope"), Err(ENOENT));
    assert_eq!(go(c""), Err(ENOENT));
    assert_eq!(go(c"."), Err(EACCES));
    file(c"f", b"\x7fELF");
    assert_eq!(go(c"f"), Err(EACCES));
    assert_eq!(go(c"f/x"), Err(ENOTDIR));
    ok!(SYS_symlink, c"loop", c"loop");
    assert_eq!(go(c"loop"), Err(ELOOP));
    assert_eq!(go(c"/dev/null"), Err(EACCES));
}

fn bad_pointers() {
    let null: *const c_char = std::ptr::null();
    let args = [c"x".as_ptr(), null];
    err!(EFAULT: SYS_execve, BAD, &args, &args);
    err!(EFAULT: SYS_execve, SELF, BAD, &args);
    err!(EFAULT: SYS_execve, SELF, &args, BAD);
    let bad = [c"x".as_ptr(), BAD as *const c_char, null];
    err!(EFAULT: SYS_execve, SELF, &bad, &args);
    // The file is looked for before the arguments are copied.
    err!(ENOENT: SYS_execve, c"nope", &bad, &args);
}

fn text_formats() {
    let try_it = |content: &[u8]| {
        file(c"x", content);
        ok!(SYS_chmod, c"x", 0o755);
        exec(c"x", &[c"x"], &[])
    };
    assert_eq!(try_it(b""), Err(ENOEXEC));
    assert_eq!(try_it(b"echo hi\n"), Err(ENOEXEC));
    assert_eq!(try_it(b"\x7fELF"), Err(ENOEXEC));
    assert_eq!(try_it(&[0; 200]), Err(ENOEXEC));
    let mut elf = slurp(SELF);
    elf.truncate(64);
    match try_it(&elf) {
        Err(ENOEXEC | EIO) => {}
        r => panic!("{r:?}"),
    }
    elf[4] = 1; // a 64-bit header that says 32 bits
    assert_eq!(try_it(&elf), Err(ENOEXEC));
}

fn script_with(content: &[u8]) {
    file(c"s", content);
    ok!(SYS_chmod, c"s", 0o755);
}

fn link_self() {
    let guest = slurp(SELF);
    file(c"g", &guest);
    ok!(SYS_chmod, c"g", 0o755);
}

fn script() {
    link_self();
    script_with(b"#! ./g  echo one two \nrest\n");
    let (out, st) = output(|| exec(c"s", &[c"zero", c"three"], &[]));
    // The rest of the line is one argument, then the script's path and the arguments but the first.
    assert_eq!((out.as_str(), st), ("", 512));
    script_with(b"#!./g echo\n");
    let (out, st) = output(|| exec(c"./s", &[c"zero", c"three", c"four"], &[]));
    assert_eq!((out.as_str(), st), ("./s three four\n", 0));
    script_with(b"#!./g echo");
    let (out, _) = output(|| exec(c"s", &[], &[]));
    assert_eq!(out, "s\n");
}

fn script_errors() {
    script_with(b"#!/nope/at all\n");
    assert_eq!(exec(c"s", &[c"s"], &[]), Err(ENOENT));
    script_with(b"#!\n");
    assert_eq!(exec(c"s", &[c"s"], &[]), Err(ENOEXEC));
    script_with(b"#!   \n");
    assert_eq!(exec(c"s", &[c"s"], &[]), Err(ENOEXEC));
    script_with(b"#!.\n");
    assert_eq!(exec(c"s", &[c"s"], &[]), Err(EACCES));
    let mut long = b"#!/".to_vec();
    long.extend([b'x'; 300]);
    script_with(&long);
    assert_eq!(exec(c"s", &[c"s"], &[]), Err(ENOEXEC));
}

fn script_nesting() {
    link_self();
    file(c"n0", b"#!./g echo\n");
    ok!(SYS_chmod, c"n0", 0o755);
    for i in 1..7 {
        let name = CString::new(format!("n{i}")).unwrap();
        file(&name, format!("#!./n{}\n", i - 1).as_bytes());
        ok!(SYS_chmod, name.as_c_str(), 0o755);
    }
    let (out, st) = output(|| exec(c"n4", &[c"n4", c"end"], &[]));
    println!("{out:?} {st}");
    let (out, st) = output(|| exec(c"n5", &[c"n5", c"end"], &[]));
    println!("{out:?} {st}");
    assert_eq!(exec(c"n6", &[c"n6"], &[]), Err(ELOOP));
}

fn close_on_exec() {
    for fd in [40, 41, 42] {
        ok!(SYS_dup2, 0, fd);
    }
    ok!(SYS_fcntl, 41, F_SETFD, FD_CLOEXEC);
    let (out, _) = output(|| exec(SELF, &[c"g", c"state"], &[]));
    assert!(out.contains("open 40") && out.contains("open 42") && !out.contains("open 41"));
}

fn what_survives() {
    sigmask(SIG_BLOCK, bit(SIGUSR1) | bit(SIGTERM));
    ok!(SYS_umask, 0o027);
    ok!(SYS_setpriority, PRIO_PROCESS, 0, 5);
    let lim = rlimit { rlim_cur: 0, rlim_max: 0 };
    ok!(SYS_setrlimit, RLIMIT_CORE, &lim);
    let (out, _) = output(|| {
        let t = itimerval {
            it_interval: timeval { tv_sec: 0, tv_usec: 0 },
            it_value: timeval { tv_sec: 5000, tv_usec: 0 },
        };
        ok!(SYS_setitimer, ITIMER_REAL, &t, 0);
        // Directed at the thread: pending stays with it.
        ok!(SYS_tkill, ok!(SYS_gettid), SIGUSR1);
        exec(SELF, &[c"g", c"state"], &[c"A=1", c"B=two"])
    });
    print!("{out}");
    assert!(out.contains("pending 0000000000000200"), "{out}");
    assert!(out.contains("umask 27") && out.contains("nice 15") && out.contains("timer true"));
}

fn signals_reset() {
    on(SIGUSR1, 0);
    action(SIGUSR2, SIG_IGN, 0, &[]);
    let (out, _) = output(|| {
        action(SIGCHLD, SIG_IGN, 0, &[]);
        exec(SELF, &[c"g", c"state"], &[])
    });
    let line = |key: &str| {
        let l = out.lines().find(|l| l.starts_with(key)).unwrap_or_default();
        u64::from_str_radix(l.split(' ').nth(1).unwrap_or_default(), 16).unwrap_or(0)
    };
    assert_eq!(line("caught") & bit(SIGUSR1), 0);
    assert_ne!(line("ignored") & bit(SIGUSR2), 0);
    assert_ne!(line("ignored") & bit(SIGCHLD), 0);
}

fn argument_limits() {
    // One string may have 128 KiB with its terminator.
    let fits = CString::new(vec![b'x'; 131_071]).unwrap();
    let over = CString::new(vec![b'x'; 131_072]).unwrap();
    let (out, st) = output(|| exec(SELF, &[c"g", c"echo", &fits], &[]));
    assert_eq!((out.len(), st), (131_072, 0));
    assert_eq!(exec(SELF, &[c"g", &over], &[]), Err(E2BIG));
    assert_eq!(exec(SELF, &[c"g"], &[&over]), Err(E2BIG));
    // All of them together a quarter of the stack's limit.
    let many = vec![fits.as_c_str(); 70];
    assert_eq!(exec(SELF, &many, &[]), Err(E2BIG));
}

fn empty_argv() {
    // Linux gives a program without arguments an empty first one.
    let (_, st) = output(|| {
        let null: *const c_char = std::ptr::null();
        sys!(SYS_execve, SELF, &null, &null)
    });
    assert_eq!(st, 512);
    let (_, st) = output(|| sys!(SYS_execve, SELF, 0, 0));
    assert_eq!(st, 512);
}

fn execveat_forms() {
    let null: *const c_char = std::ptr::null();
    let args = [c"g".as_ptr(), c"echo".as_ptr(), c"at".as_ptr(), null];
    let fd = open(SELF, O_PATH, 0);
    let (out, _) = output(|| sys!(SYS_execveat, fd, c"", &args, &null, AT_EMPTY_PATH));
    assert_eq!(out, "at\n");
    link_self();
    let d = open(c".", O_RDONLY, 0);
    let (out, _) = output(|| sys!(SYS_execveat, d, c"g", &args, &null, 0));
    assert_eq!(out, "at\n");
    ok!(SYS_symlink, c"g", c"l");
    err!(ELOOP: SYS_execveat, d, c"l", &args, &null, AT_SYMLINK_NOFOLLOW);
    err!(ENOENT: SYS_execveat, fd, c"", &args, &null, 0);
    err!(EINVAL: SYS_execveat, d, c"g", &args, &null, 0x8000);
    err!(EBADF: SYS_execveat, 999, c"g", &args, &null, 0);
    err!(ENOTDIR: SYS_execveat, open(c"g", O_RDONLY, 0), c"g", &args, &null, 0);
    // A script through a close-on-exec descriptor could not be opened by its interpreter.
    file(c"s", b"#!./g echo\n");
    ok!(SYS_chmod, c"s", 0o755);
    let s = open(c"s", O_RDONLY | O_CLOEXEC, 0);
    err!(ENOENT: SYS_execveat, s, c"", &args, &null, AT_EMPTY_PATH);
}

fn text_busy() {
    link_self();
    let w = open(c"g", O_WRONLY, 0);
    assert_eq!(exec(c"g", &[c"g"], &[]), Err(ETXTBSY));
    close(w);
    // A running program cannot be opened for writing; "echo" with a full pipe is still running.
    let (r, w) = pipe(0);
    ok!(SYS_fcntl, w, F_SETPIPE_SZ, PAGE);
    let fill = vec![b'x'; PAGE];
    write(w, &fill);
    let pid = fork(|| {
        ok!(SYS_dup2, w, 1);
        exec(c"g", &[c"g", c"echo", c"running"], &[]).map_or(9, |_| 0)
    });
    while status_of_exe(pid) != b"/g" {
        nap(1);
    }
    err!(ETXTBSY: SYS_openat, AT_FDCWD, c"g", O_WRONLY, 0);
    err!(ETXTBSY: SYS_truncate, c"g", 0);
    assert_eq!(read(r, PAGE).len(), PAGE);
    assert_eq!(wait(pid), 0);
    close(open(c"g", O_WRONLY, 0));
}

/// The last component of the path of the program a process runs, with its slash.
fn status_of_exe(pid: i32) -> Vec<u8> {
    let path = CString::new(format!("/proc/{pid}/exe")).unwrap();
    let mut b = [0u8; 4096];
    let n = ok!(SYS_readlinkat, AT_FDCWD, path.as_c_str(), &mut b, 4096);
    let slash = b[..n].iter().rposition(|c| *c == b'/').unwrap_or(0);
    b[slash..n].to_vec()
}

fn threads_end() {
    // exec by a thread other than the first keeps the process's pid and ends the others.
    let (out, st) = output(|| {
        std::thread::spawn(|| {
            let _ = exec(SELF, &[c"g", c"echo", c"from a thread"], &[]);
        });
        loop {
            nap(1000);
        }
    });
    assert_eq!((out.as_str(), st), ("from a thread\n", 0));
}

fn name_in_proc() {
    link_self();
    let long = c"./a-name-of-more-than-fifteen";
    ok!(SYS_rename, c"g", long);
    let mut name = [0u8; 16];
    ok!(SYS_prctl, PR_GET_NAME, &mut name, 0, 0, 0);
    println!("{}", String::from_utf8_lossy(&name));
    let cmd = slurp(c"/proc/self/cmdline");
    assert!(cmd.ends_with(b"\0exec::name_in_proc\0"), "{cmd:?}");
    ok!(SYS_prctl, PR_SET_NAME, c"a-new-name-that-is-long", 0, 0, 0);
    assert_eq!(text(c"/proc/self/comm"), "a-new-name-that\n");
}
