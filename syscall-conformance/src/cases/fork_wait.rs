//! fork, vfork, clone without threads, wait4, waitid, exit, pidfd, reparenting.

use crate::helpers::*;
use crate::sys::BAD;
use std::ffi::CString;

cases![
    fork_basics,
    exit_statuses,
    signal_statuses,
    wait_any_and_group,
    wait_nohang,
    wait_errors,
    wait_stopped_and_continued,
    waitid_forms,
    waitid_nowait,
    waitid_errors,
    rusage_of_child,
    sigchld_information,
    ignored_sigchld_reaps,
    nocldwait,
    nocldstop,
    orphans_go_to_subreaper,
    parent_death_signal,
    zombie_in_proc,
    vfork_waits,
    clone_flags_errors,
    clone_shares_files,
    clone_shares_vm,
    clone_parent,
    clone_settid,
    clone3_forms,
    pidfd_wait_and_signal,
    pidfd_of_proc,
    pidfd_errors,
    process_limit,
    exit_closes_and_flushes_nothing,
    exit_group_ends_threads,
    many_children,
    wait_interrupted,
    wait_in_thread,
    fork_from_thread,
    pending_not_inherited,
];

fn fork_basics() {
    let me = ok!(SYS_getpid) as i32;
    let pid = fork(|| {
        let parent = ok!(SYS_getppid) as i32;
        i32::from(parent != me || ok!(SYS_getpid) as i32 == me || ok!(SYS_gettid) != ok!(SYS_getpid))
    });
    assert_ne!(pid, me);
    assert_eq!(wait(pid), 0);
}

fn exit_statuses() {
    for code in [0, 1, 77, 255, 256, -1] {
        println!("{code}: {:#x}", status_of(|| code));
    }
    let status = status_of(|| {
        let _ = sys!(SYS_exit, 5);
        0
    });
    assert_eq!(status, 0x500);
}

fn signal_statuses() {
    let lim = rlimit { rlim_cur: 0, rlim_max: 0 };
    ok!(SYS_setrlimit, RLIMIT_CORE, &lim);
    for sig in [SIGHUP, SIGINT, SIGKILL, SIGPIPE, SIGTERM, SIGUSR1, 34, 64] {
        let status = status_of(|| {
            ok!(SYS_kill, ok!(SYS_getpid), sig);
            0
        });
        assert_eq!(status, sig, "signal {sig}");
    }
    for sig in [SIGCHLD, SIGURG, SIGWINCH, SIGCONT] {
        let status = status_of(|| {
            ok!(SYS_kill, ok!(SYS_getpid), sig);
            3
        });
        assert_eq!(status, 0x300, "signal {sig}");
    }
    let status = status_of(|| {
        ok!(SYS_kill, ok!(SYS_getpid), SIGABRT);
        0
    });
    assert_eq!(status & 0x7f, SIGABRT);
}

fn wait_any_and_group() {
    let a = fork(|| 1);
    let mut st = 0;
    assert_eq!(ok!(SYS_wait4, -1, &mut st, 0, 0) as i32, a);
    assert_eq!(st, 0x100);
    let b = fork(|| 2);
    assert_eq!(ok!(SYS_wait4, 0, &mut st, 0, 0) as i32, b);
    let c = fork(|| {
        ok!(SYS_setpgid, 0, 0);
        3
    });
    let _ = sys!(SYS_setpgid, c, c);
    err!(ECHILD: SYS_wait4, 0, &mut st, 0, 0);
    assert_eq!(ok!(SYS_wait4, -c, &mut st, 0, 0) as i32, c);
    err!(ECHILD: SYS_wait4, -1, &mut st, 0, 0);
}

fn wait_nohang() {
    let (r, w) = pipe(0);
    let pid = fork(|| {
        read(r, 1);
        7
    });
    let mut st = 99;
    assert_eq!(ok!(SYS_wait4, pid, &mut st, WNOHANG, 0), 0);
    assert_eq!(st, 99);
    write(w, b"x");
    assert_eq!(wait(pid), 0x700);
    err!(ECHILD: SYS_wait4, pid, &mut st, WNOHANG, 0);
}

fn wait_errors() {
    let mut st = 0;
    err!(ECHILD: SYS_wait4, -1, &mut st, 0, 0);
    err!(ECHILD: SYS_wait4, 1, &mut st, 0, 0);
    err!(EINVAL: SYS_wait4, -1, &mut st, 0x100, 0);
    err!(ESRCH: SYS_wait4, i32::MIN, &mut st, 0, 0);
    let pid = fork(|| 0);
    nap(20);
    // A bad status pointer loses the child's status, but the child is reaped.
    err!(EFAULT: SYS_wait4, pid, BAD, 0, 0);
    err!(ECHILD: SYS_wait4, pid, &mut st, 0, 0);
    ok!(SYS_wait4, fork(|| 0), 0, 0, 0);
}

fn wait_stopped_and_continued() {
    let pid = fork(|| {
        ok!(SYS_kill, ok!(SYS_getpid), SIGSTOP);
        4
    });
    let mut st = 0;
    assert_eq!(ok!(SYS_wait4, pid, &mut st, WUNTRACED, 0) as i32, pid);
    assert!(WIFSTOPPED(st) && WSTOPSIG(st) == SIGSTOP, "{st:#x}");
    assert_eq!(ok!(SYS_wait4, pid, &mut st, WUNTRACED | WNOHANG, 0), 0, "reported once");
    assert!(text(&proc_file(pid, "stat")).contains(") T "));
    // While stopped no signal but SIGKILL and SIGCONT is acted on.
    ok!(SYS_kill, pid, SIGCONT);
    assert_eq!(ok!(SYS_wait4, pid, &mut st, WCONTINUED, 0) as i32, pid);
    assert!(WIFCONTINUED(st), "{st:#x}");
    assert_eq!(wait(pid), 0x400);
    let pid = fork(|| {
        ok!(SYS_kill, ok!(SYS_getpid), SIGTSTP);
        4
    });
    ok!(SYS_wait4, pid, &mut st, 0, 0);
    println!("{st:#x}");
}

/// A process's file in /proc.
fn proc_file(pid: i32, name: &str) -> std::ffi::CString {
    std::ffi::CString::new(format!("/proc/{pid}/{name}")).unwrap()
}

fn waitid_forms() {
    let pid = fork(|| 9);
    let mut si: siginfo_t = zeroed();
    ok!(SYS_waitid, P_PID, pid, &mut si, WEXITED, 0);
    // SAFETY: waitid filled in the SIGCHLD form.
    let (p, u, s) = unsafe { (si.si_pid(), si.si_uid(), si.si_status()) };
    assert_eq!((si.si_signo, si.si_code, p, s), (SIGCHLD, CLD_EXITED, pid, 9));
    assert_eq!(u as usize, ok!(SYS_getuid));
    let pid = fork(|| {
        ok!(SYS_kill, ok!(SYS_getpid), SIGTERM);
        0
    });
    ok!(SYS_waitid, P_ALL, 0, &mut si, WEXITED, 0);
    // SAFETY: as above.
    let (p, s) = unsafe { (si.si_pid(), si.si_status()) };
    assert_eq!((si.si_code, p, s), (CLD_KILLED, pid, SIGTERM));
    let pid = fork(|| {
        ok!(SYS_kill, ok!(SYS_getpid), SIGSTOP);
        // A child that has exited cannot be waited for as continued.
        loop {
            let _ = sys!(SYS_pause);
        }
    });
    ok!(SYS_waitid, P_PID, pid, &mut si, WSTOPPED, 0);
    assert_eq!(si.si_code, CLD_STOPPED);
    ok!(SYS_kill, pid, SIGCONT);
    ok!(SYS_waitid, P_PID, pid, &mut si, WCONTINUED, 0);
    assert_eq!(si.si_code, CLD_CONTINUED);
    ok!(SYS_kill, pid, SIGKILL);
    ok!(SYS_waitid, P_PGID, 0, 0, WEXITED, 0);
}

fn waitid_nowait() {
    let pid = fork(|| 9);
    let mut si: siginfo_t = zeroed();
    ok!(SYS_waitid, P_PID, pid, &mut si, WEXITED | WNOWAIT, 0);
    ok!(SYS_waitid, P_PID, pid, &mut si, WEXITED | WNOWAIT, 0);
    assert_eq!(wait(pid), 0x900);
    let (r, w) = pipe(0);
    let pid = fork(|| {
        read(r, 1);
        0
    });
    si.si_signo = 77;
    ok!(SYS_waitid, P_PID, pid, &mut si, WEXITED | WNOHANG, 0);
    // SAFETY: reading the pid field of a plain structure.
    assert_eq!((si.si_signo, unsafe { si.si_pid() }), (0, 0));
    write(w, b"x");
    wait(pid);
}

fn waitid_errors() {
    let mut si: siginfo_t = zeroed();
    err!(EINVAL: SYS_waitid, P_ALL, 0, &mut si, 0, 0);
    err!(EINVAL: SYS_waitid, P_ALL, 0, &mut si, 0x100 | WEXITED, 0);
    err!(EINVAL: SYS_waitid, 9, 0, &mut si, WEXITED, 0);
    err!(EINVAL: SYS_waitid, P_PID, 0, &mut si, WEXITED, 0);
    err!(ECHILD: SYS_waitid, P_ALL, 0, &mut si, WEXITED, 0);
    err!(EBADF: SYS_waitid, P_PIDFD, 999, &mut si, WEXITED, 0);
}

fn rusage_of_child() {
    let pid = fork(|| {
        let end = now(CLOCK_PROCESS_CPUTIME_ID) + 20_000_000;
        while now(CLOCK_PROCESS_CPUTIME_ID) < end {}
        0
    });
    let mut ru: rusage = zeroed();
    let mut st = 0;
    ok!(SYS_wait4, pid, &mut st, 0, &mut ru);
    let us = |t: timeval| t.tv_sec * 1_000_000 + t.tv_usec;
    let used = us(ru.ru_utime) + us(ru.ru_stime);
    assert!((15_000..2_000_000).contains(&used), "{used}");
    let mut all: rusage = zeroed();
    ok!(SYS_getrusage, RUSAGE_CHILDREN, &mut all);
    assert!(us(all.ru_utime) + us(all.ru_stime) >= 15_000);
    assert!(ru.ru_maxrss > 0);
}

fn sigchld_information() {
    on(SIGCHLD, 0);
    let pid = fork(|| 9);
    wait(pid);
    use std::sync::atomic::Ordering::SeqCst;
    assert_eq!(count(SIGCHLD), 1);
    assert_eq!((CODE.load(SeqCst), SENDER.load(SeqCst)), (CLD_EXITED, pid));
    let pid = fork(|| {
        ok!(SYS_kill, ok!(SYS_getpid), SIGKILL);
        9
    });
    wait(pid);
    assert_eq!((CODE.load(SeqCst), count(SIGCHLD)), (CLD_KILLED, 2));
}

fn ignored_sigchld_reaps() {
    action(SIGCHLD, SIG_IGN, 0, &[]);
    let (r, w) = pipe(0);
    fork(|| {
        close(r);
        nap(20);
        0
    });
    close(w);
    err!(ECHILD: SYS_wait4, -1, 0, 0, 0);
    // It waited until the child was gone.
    assert_eq!(read(r, 1), b"");
}

fn nocldwait() {
    on(SIGCHLD, SA_NOCLDWAIT);
    let pid = fork(|| 0);
    err!(ECHILD: SYS_wait4, pid, 0, 0, 0);
    assert_eq!(count(SIGCHLD), 1, "the signal comes nevertheless");
}

fn nocldstop() {
    on(SIGCHLD, SA_NOCLDSTOP);
    let pid = fork(|| {
        ok!(SYS_kill, ok!(SYS_getpid), SIGSTOP);
        0
    });
    let mut st = 0;
    ok!(SYS_wait4, pid, &mut st, WUNTRACED, 0);
    assert_eq!(count(SIGCHLD), 0);
    ok!(SYS_kill, pid, SIGCONT);
    wait(pid);
    assert_eq!(count(SIGCHLD), 1);
}

fn orphans_go_to_subreaper() {
    ok!(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    let me = ok!(SYS_getpid);
    let (r, w) = pipe(0);
    let (go, start) = pipe(0);
    let child = fork(|| {
        fork(|| {
            read(go, 1);
            write(w, &[u8::from(ok!(SYS_getppid) == me)]);
            6
        });
        0
    });
    assert_eq!(wait(child), 0);
    write(start, b"x");
    assert_eq!(read(r, 1), [1]);
    let mut st = 0;
    ok!(SYS_wait4, -1, &mut st, 0, 0);
    assert_eq!(st, 0x600);
}

fn parent_death_signal() {
    let (r, w) = pipe(0);
    let child = fork(|| {
        let (ready, set) = pipe(0);
        fork(|| {
            ok!(SYS_prctl, PR_SET_PDEATHSIG, SIGUSR1, 0, 0, 0);
            let mut sig = 0i32;
            ok!(SYS_prctl, PR_GET_PDEATHSIG, &mut sig, 0, 0, 0);
            assert_eq!(sig, SIGUSR1);
            sigmask(SIG_BLOCK, bit(SIGUSR1));
            write(set, b"x");
            let got = ok!(SYS_rt_sigtimedwait, &bit(SIGUSR1), 0, 0, 8);
            write(w, &[got as u8]);
            0
        });
        read(ready, 1);
        0
    });
    assert_eq!(wait(child), 0);
    assert_eq!(read(r, 1), [SIGUSR1 as u8]);
    err!(EINVAL: SYS_prctl, PR_SET_PDEATHSIG, 65, 0, 0, 0);
}

fn zombie_in_proc() {
    let pid = fork(|| 3);
    let mut si: siginfo_t = zeroed();
    ok!(SYS_waitid, P_PID, pid, &mut si, WEXITED | WNOWAIT, 0);
    assert!(text(&proc_file(pid, "stat")).contains(") Z "));
    assert_eq!(text(&proc_file(pid, "cmdline")), "");
    // A zombie can be signalled, to no effect.
    ok!(SYS_kill, pid, SIGKILL);
    ok!(SYS_kill, pid, 0);
    assert_eq!(wait(pid), 0x300);
    err!(ESRCH: SYS_kill, pid, 0);
}

fn vfork_waits() {
    extern "C" fn body(at: *mut c_void) -> c_int {
        nap(30);
        poke(at as usize, 5);
        2
    }
    let at = map(PAGE, PROT_READ | PROT_WRITE);
    let stack = map(16 * PAGE, PROT_READ | PROT_WRITE);
    let flags = CLONE_VM | CLONE_VFORK | SIGCHLD;
    // SAFETY: the stack is mapped and stays so; the child sleeps and stores one byte.
    let pid = unsafe { clone(body, (stack + 16 * PAGE) as *mut c_void, flags, at as *mut c_void) };
    // Its memory was ours, and it is over.
    assert_eq!(peek(at), 5);
    assert_eq!(wait(pid), 0x200);
}

fn clone_flags_errors() {
    err!(EINVAL: SYS_clone, CLONE_THREAD | SIGCHLD, 0, 0, 0, 0);
    err!(EINVAL: SYS_clone, CLONE_SIGHAND | SIGCHLD, 0, 0, 0, 0);
    err!(EINVAL: SYS_clone, CLONE_THREAD | CLONE_SIGHAND | SIGCHLD, 0, 0, 0, 0);
    err!(EINVAL: SYS_clone, CLONE_FS | CLONE_NEWNS | SIGCHLD, 0, 0, 0, 0);
}

fn clone_shares_files() {
    let fd = temp(c"f", b"abc");
    let pid = match ok!(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0) {
        0 => {
            close(fd);
            // SAFETY: ends the child.
            unsafe { _exit(0) }
        }
        pid => pid as i32,
    };
    assert_eq!(wait(pid), 0);
    err!(EBADF: SYS_lseek, fd, 0, SEEK_CUR);
}

fn clone_shares_vm() {
    extern "C" fn body(at: *mut c_void) -> c_int {
        poke(at as usize, 9);
        0
    }
    let at = map(PAGE, PROT_READ | PROT_WRITE);
    let stack = map(16 * PAGE, PROT_READ | PROT_WRITE);
    // SAFETY: the stack is mapped and stays so; the child stores one byte.
    let pid = unsafe {
        clone(body, (stack + 16 * PAGE) as *mut c_void, CLONE_VM | SIGCHLD, at as *mut c_void)
    };
    assert_eq!(wait(pid), 0);
    assert_eq!(peek(at), 9);
}

fn clone_parent() {
    let child = fork(|| {
        match ok!(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0) {
            0 => 5,
            _ => 0,
        }
    });
    // Both are our children.
    assert_eq!(wait(child), 0);
    let mut st = 0;
    ok!(SYS_wait4, -1, &mut st, 0, 0);
    assert_eq!(st, 0x500);
}

fn clone_settid() {
    let at = map_shared(PAGE);
    let (parent, child) = (at, at + 8);
    let flags = CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD;
    let pid = match ok!(SYS_clone, flags, 0, parent, child, 0) {
        0 => {
            let right = word(child).load(std::sync::atomic::Ordering::SeqCst) as usize == ok!(SYS_getpid);
            // SAFETY: ends the child.
            unsafe { _exit(i32::from(!right)) }
        }
        pid => pid as i32,
    };
    assert_eq!(word(parent).load(std::sync::atomic::Ordering::SeqCst) as i32, pid);
    assert_eq!(wait(pid), 0);
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

fn clone3_forms() {
    let go = |a: &CloneArgs, size: usize| sys!(SYS_clone3, a, size);
    let base = CloneArgs { exit_signal: SIGCHLD as u64, ..Default::default() };
    match go(&base, 88) {
        Ok(0) => {
            // SAFETY: ends the child.
            unsafe { _exit(3) }
        }
        Ok(pid) => assert_eq!(wait(pid as i32), 0x300),
        Err(e) => panic!("{}", crate::sys::name(e)),
    }
    assert_eq!(go(&base, 63), Err(EINVAL));
    assert_eq!(go(&CloneArgs { exit_signal: 65, ..base }, 88), Err(EINVAL));
    assert_eq!(go(&CloneArgs { exit_signal: 0x100, ..base }, 88), Err(EINVAL));
    assert_eq!(go(&CloneArgs { flags: 0xff, ..base }, 88), Err(EINVAL));
    assert_eq!(go(&CloneArgs { stack: 4096, ..base }, 88), Err(EINVAL));
    assert_eq!(go(&CloneArgs { stack_size: 4096, ..base }, 88), Err(EINVAL));
    assert_eq!(go(&CloneArgs { flags: 1 << 50, ..base }, 88), Err(EINVAL));
    err!(EFAULT: SYS_clone3, BAD, 88);
    let mut long = [0u64; 12];
    long[4] = SIGCHLD as u64;
    long[11] = 1;
    err!(E2BIG: SYS_clone3, &long, 96);
    err!(E2BIG: SYS_clone3, &long, 4097);
}

fn pidfd_wait_and_signal() {
    let (r, w) = pipe(0);
    let pid = fork(|| {
        read(r, 1);
        8
    });
    let fd = ok!(SYS_pidfd_open, pid, 0) as i32;
    assert_eq!(ok!(SYS_fcntl, fd, F_GETFD, 0), 1);
    assert_eq!(poll(fd, POLLIN, 0), 0);
    ok!(SYS_pidfd_send_signal, fd, 0, 0, 0);
    write(w, b"x");
    assert_eq!(poll(fd, POLLIN, 5000), POLLIN);
    let mut si: siginfo_t = zeroed();
    ok!(SYS_waitid, P_PIDFD, fd, &mut si, WEXITED, 0);
    // SAFETY: filled in by waitid.
    assert_eq!(unsafe { (si.si_pid(), si.si_status()) }, (pid, 8));
    err!(ESRCH: SYS_pidfd_send_signal, fd, SIGTERM, 0, 0);
    let pid = fork(|| loop {
        nap(1000)
    });
    let fd = ok!(SYS_pidfd_open, pid, 0);
    ok!(SYS_pidfd_send_signal, fd, SIGTERM, 0, 0);
    assert_eq!(killed_by(wait(pid)), Some(SIGTERM));
}

fn pidfd_of_proc() {
    let pid = fork(|| loop {
        nap(1000)
    });
    let dir = CString::new(format!("/proc/{pid}")).unwrap();
    err!(EBADF: SYS_pidfd_send_signal, open(&dir, O_PATH, 0), 0, 0, 0);
    let thread = CString::new(format!("/proc/{pid}/task/{pid}")).unwrap();
    err!(EBADF: SYS_pidfd_send_signal, open(&thread, O_RDONLY, 0), 0, 0, 0);
    err!(EBADF: SYS_pidfd_send_signal, open(c"/proc", O_RDONLY, 0), 0, 0, 0);
    let fd = open(&dir, O_RDONLY, 0);
    ok!(SYS_pidfd_send_signal, fd, SIGTERM, 0, 0);
    assert_eq!(killed_by(wait(pid)), Some(SIGTERM));
    err!(ESRCH: SYS_pidfd_send_signal, fd, 0, 0, 0);
}

fn pidfd_errors() {
    err!(EINVAL: SYS_pidfd_open, 0, 0);
    err!(EINVAL: SYS_pidfd_open, -1, 0);
    err!(ESRCH: SYS_pidfd_open, 0x3fff_ffff, 0);
    err!(EINVAL: SYS_pidfd_open, ok!(SYS_getpid), 0x10);
    err!(EBADF: SYS_pidfd_send_signal, 0, SIGTERM, 0, 0);
    let me = ok!(SYS_pidfd_open, ok!(SYS_getpid), 0);
    err!(EINVAL: SYS_pidfd_send_signal, me, 65, 0, 0);
    err!(EINVAL: SYS_pidfd_send_signal, me, 0, 0, 8);
    err!(EINVAL: SYS_read, me, &mut [0u8; 8], 8);
}

fn process_limit() {
    need_unprivileged();
    let lim = rlimit { rlim_cur: 0, rlim_max: 0 };
    ok!(SYS_setrlimit, RLIMIT_NPROC, &lim);
    err!(EAGAIN: SYS_clone, SIGCHLD, 0, 0, 0, 0);
}

fn exit_closes_and_flushes_nothing() {
    let (r, w) = pipe(0);
    let pid = fork(|| {
        close(r);
        0
    });
    close(w);
    assert_eq!(read(r, 1), b"");
    assert_eq!(wait(pid), 0);
}

fn exit_group_ends_threads() {
    let status = status_of(|| {
        for _ in 0..4 {
            std::thread::spawn(|| loop {
                nap(1000);
            });
        }
        std::thread::spawn(|| {
            let _ = sys!(SYS_exit_group, 12);
        });
        loop {
            nap(1000);
        }
    });
    assert_eq!(status, 12 << 8);
    // exit of the first thread leaves the others, and the process lives on.
    let status = status_of(|| {
        std::thread::spawn(|| {
            nap(30);
            let _ = sys!(SYS_exit_group, 13);
        });
        let _ = sys!(SYS_exit, 1);
        0
    });
    assert_eq!(status, 13 << 8);
}

fn many_children() {
    let pids: Vec<i32> = (0..50).map(|i| fork(move || i)).collect();
    let mut sum = 0;
    for _ in &pids {
        let mut st = 0;
        ok!(SYS_wait4, -1, &mut st, 0, 0);
        sum += WEXITSTATUS(st);
    }
    assert_eq!(sum, (0..50).sum::<i32>());
}

fn wait_interrupted() {
    on(SIGALRM, 0);
    let pid = fork(|| loop {
        nap(1000)
    });
    alarm_often(30);
    err!(EINTR: SYS_wait4, pid, 0, 0, 0);
    ok!(SYS_kill, pid, SIGKILL);
    wait(pid);
}

fn wait_in_thread() {
    // Any thread may wait for a child of another, unless it asks for its own.
    let (r, w) = pipe(0);
    let (pid_r, pid_w) = pipe(0);
    let t = std::thread::spawn(move || {
        write(pid_w, &fork(|| 5).to_ne_bytes());
        read(r, 1);
    });
    let pid = i32::from_ne_bytes(read(pid_r, 4).try_into().unwrap());
    err!(ECHILD: SYS_wait4, pid, 0, __WNOTHREAD | WNOHANG, 0);
    assert_eq!(wait(pid), 0x500);
    write(w, b"x");
    t.join().unwrap();
}

fn fork_from_thread() {
    std::thread::spawn(|| {
        in_child(|| {
            assert_eq!(ok!(SYS_getpid), ok!(SYS_gettid));
            assert_eq!(status_field("Threads"), "1");
        });
    })
    .join()
    .unwrap();
}

fn pending_not_inherited() {
    sigmask(SIG_BLOCK, bit(SIGUSR1));
    ok!(SYS_kill, ok!(SYS_getpid), SIGUSR1);
    in_child(|| {
        let mut set = 0u64;
        ok!(SYS_rt_sigpending, &mut set, 8);
        assert_eq!(set, 0);
        assert_eq!(sigmask(SIG_BLOCK, 0), bit(SIGUSR1));
    });
}
