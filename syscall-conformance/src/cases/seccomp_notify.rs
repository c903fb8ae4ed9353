//! seccomp_unotify(2): calls that wait for another process's decision.

use super::seccomp::{ALLOW, NOTIFY, install, no_new_privs, on_call};
use crate::helpers::*;
use crate::sys::BAD;
use std::sync::atomic::Ordering::SeqCst;

cases![
    answers,
    errors_and_values,
    goes_on,
    what_is_told,
    one_reply,
    garbage,
    listener_goes,
    no_listener,
    one_listener,
    listener_is_a_file,
    readiness,
    interrupted,
    waits_killable,
    killed_before_receipt,
    filter_goes,
    receiver_interrupted,
    adds_fd,
    adds_fd_and_answers,
    add_fd_errors,
    many_callers,
    thread_listens,
    older_filter_asks,
    hot_call,
];

const RECV: u32 = 0xc050_2100;
const SEND: u32 = 0xc018_2101;
const ID_VALID: u32 = 0x4008_2102;
const ADDFD: u32 = 0x4018_2103;
const SET_FLAGS: u32 = 0x4008_2104;
const NEW_LISTENER: u64 = 8;
const TSYNC_ESRCH: u64 = 16;
const WAIT_KILLABLE: u64 = 32;
const CONTINUE: u32 = 1;
const SETFD: u32 = 1;
const ADD_AND_SEND: u32 = 2;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
struct Notif {
    id: u64,
    pid: u32,
    flags: u32,
    nr: i32,
    arch: u32,
    ip: u64,
    args: [u64; 6],
}

#[repr(C)]
struct Resp {
    id: u64,
    val: i64,
    error: i32,
    flags: u32,
}

#[repr(C)]
struct AddFd {
    id: u64,
    flags: u32,
    srcfd: i32,
    newfd: u32,
    newfd_flags: u32,
}

/// A listener for one call of this process and all that it forks.
#[track_caller]
fn listen(nr: i64, flags: u64) -> i32 {
    no_new_privs();
    install(&on_call(nr, NOTIFY), NEW_LISTENER | flags).expect("a listener") as i32
}

fn receive(fd: i32) -> Result<Notif, i32> {
    let mut notif = Notif::default();
    sys!(SYS_ioctl, fd, RECV, &mut notif).map(|_| notif)
}

fn reply(fd: i32, id: u64, val: i64, error: i32, flags: u32) -> Result<usize, i32> {
    sys!(SYS_ioctl, fd, SEND, &Resp { id, val, error, flags })
}

fn valid(fd: i32, id: u64) -> Result<usize, i32> {
    sys!(SYS_ioctl, fd, ID_VALID, &id)
}

fn add_fd(fd: i32, id: u64, flags: u32, srcfd: i32, newfd: u32, more: u32) -> Result<usize, i32> {
    sys!(SYS_ioctl, fd, ADDFD, &AddFd { id, flags, srcfd, newfd, newfd_flags: more })
}

/// A child that makes the call and exits with what it got: the errno, or 100 and the value.
fn caller() -> i32 {
    fork(|| match sys!(SYS_getppid, 11, 22, 33, 44, 55, 66) {
        Ok(v) => 100 + v as i32,
        Err(e) => e,
    })
}

fn code(pid: i32) -> i32 {
    let status = wait(pid);
    assert!(WIFEXITED(status), "{status:x}");
    WEXITSTATUS(status)
}

fn answers() {
    let fd = listen(SYS_getppid, 0);
    for n in 0..5 {
        let pid = caller();
        let notif = receive(fd).unwrap();
        assert_eq!(notif.pid, pid as u32);
        assert_eq!(reply(fd, notif.id, n, 0, 0), Ok(0));
        assert_eq!(i64::from(code(pid)), 100 + n);
    }
}

fn errors_and_values() {
    let fd = listen(SYS_getppid, 0);
    for (val, error) in [(0, 0), (7, 0), (0, -EPERM), (7, -EPERM), (0, -4000), (-5, 0), (0, 5)] {
        let (r, w) = pipe(0);
        let pid = fork(|| {
            let got = sys!(SYS_getppid);
            write(w, format!("{got:?}").as_bytes());
            0
        });
        let notif = receive(fd).unwrap();
        assert_eq!(reply(fd, notif.id, val, error, 0), Ok(0));
        println!("{val} {error}: {}", String::from_utf8_lossy(&read(r, 100)));
        wait(pid);
        close(r);
        close(w);
    }
}

fn goes_on() {
    let fd = listen(SYS_getppid, 0);
    let me = ok!(SYS_getpid);
    let pid = fork(|| i32::from(sys!(SYS_getppid) != Ok(me)));
    let notif = receive(fd).unwrap();
    assert_eq!(reply(fd, notif.id, 1, 0, CONTINUE), Err(EINVAL));
    assert_eq!(reply(fd, notif.id, 0, 1, CONTINUE), Err(EINVAL));
    assert_eq!(reply(fd, notif.id, 0, 0, 2), Err(EINVAL));
    assert_eq!(reply(fd, notif.id, 0, 0, CONTINUE), Ok(0));
    assert_eq!(code(pid), 0);
}

fn what_is_told() {
    let fd = listen(SYS_getppid, 0);
    let first = caller();
    let second = caller();
    let (a, b) = (receive(fd).unwrap(), receive(fd).unwrap());
    assert_eq!(b.id, a.id.wrapping_add(1));
    let mut pids = [a.pid as i32, b.pid as i32];
    pids.sort_unstable();
    let mut all = [first, second];
    all.sort_unstable();
    assert_eq!(pids, all);
    for n in [a, b] {
        assert_eq!((n.flags, i64::from(n.nr), n.arch), (0, SYS_getppid, 0xc000_003e));
        assert_eq!(n.args, [11, 22, 33, 44, 55, 66]);
        assert_eq!(n.ip, a.ip);
    }
    // Answered out of order.
    assert_eq!(reply(fd, b.id, 2, 0, 0), Ok(0));
    assert_eq!(code(b.pid as i32), 102);
    assert_eq!(valid(fd, a.id), Ok(0));
    assert_eq!(reply(fd, a.id, 1, 0, 0), Ok(0));
    assert_eq!(code(a.pid as i32), 101);
}

fn one_reply() {
    let fd = listen(SYS_getppid, 0);
    assert_eq!(reply(fd, 1, 0, 0, 0), Err(ENOENT));
    assert_eq!(valid(fd, 1), Err(ENOENT));
    let pid = caller();
    assert_eq!(poll(fd, POLLIN, -1), POLLIN);
    let notif = receive(fd).unwrap();
    // Another one's turn before it was received.
    let other = caller();
    assert_eq!(poll(fd, POLLIN, -1), POLLIN);
    let next = notif.id.wrapping_add(1);
    assert_eq!(reply(fd, next, 0, 0, 0), Err(EINPROGRESS));
    assert_eq!(valid(fd, next), Err(ENOENT));
    assert_eq!(add_fd(fd, next, 0, 0, 0, 0), Err(EINPROGRESS));
    assert_eq!(reply(fd, notif.id, 9, 0, 0), Ok(0));
    assert_eq!(code(pid), 109);
    assert_eq!(valid(fd, notif.id), Err(ENOENT));
    assert_eq!(reply(fd, notif.id, 9, 0, 0), Err(ENOENT));
    assert_eq!(add_fd(fd, notif.id, 0, 0, 0, 0), Err(ENOENT));
    assert_eq!(receive(fd).map(|n| n.id), Ok(next));
    assert_eq!(reply(fd, next, 0, 0, 0), Ok(0));
    assert_eq!(code(other), 100);
}

fn garbage() {
    let fd = listen(SYS_getppid, 0);
    let pid = caller();
    let mut notif = Notif { pid: 1, ..Notif::default() };
    err!(EINVAL: SYS_ioctl, fd, RECV, &mut notif);
    err!(EFAULT: SYS_ioctl, fd, RECV, BAD);
    err!(EFAULT: SYS_ioctl, fd, SEND, BAD);
    err!(EFAULT: SYS_ioctl, fd, ID_VALID, BAD);
    err!(EINVAL: SYS_ioctl, fd, 0xc050_2105u32, 0);
    err!(EINVAL: SYS_ioctl, fd, 0x5401, 0);
    err!(EINVAL: SYS_ioctl, fd, SET_FLAGS, 2);
    ok!(SYS_ioctl, fd, SET_FLAGS, 1);
    ok!(SYS_ioctl, fd, SET_FLAGS, 0);
    // A page that can be read only: the notification stays for the next one.
    let page = map(PAGE, PROT_READ);
    err!(EFAULT: SYS_ioctl, fd, RECV, page);
    let notif = receive(fd).unwrap();
    assert_eq!(reply(fd, notif.id, 3, 0, 0), Ok(0));
    assert_eq!(code(pid), 103);
}

fn listener_goes() {
    let fd = listen(SYS_getppid, 0);
    let (r, w) = pipe(0);
    let pids = [0; 2].map(|_| {
        fork(|| {
            close(fd);
            write(w, b"x");
            sys!(SYS_getppid).map_or_else(|e| e, |_| 99)
        })
    });
    assert_eq!(read(r, 1).len() + read(r, 1).len(), 2);
    receive(fd).unwrap();
    assert_eq!(poll(fd, POLLIN, -1), POLLIN);
    close(fd);
    assert_eq!(pids.map(code), [ENOSYS; 2]);
    err!(ENOSYS: SYS_getppid);
}

fn no_listener() {
    no_new_privs();
    assert_eq!(install(&on_call(SYS_getppid, NOTIFY), 0), Ok(0));
    err!(ENOSYS: SYS_getppid);
}

fn one_listener() {
    let fd = listen(SYS_getppid, 0);
    let again = || install(&on_call(SYS_getpgrp, NOTIFY), NEW_LISTENER);
    assert_eq!(again(), Err(EBUSY));
    assert_eq!(status_field("Seccomp_filters"), "1");
    // The number is free again.
    assert_eq!(ok!(SYS_dup, 0), fd as usize + 1);
    in_child(|| {
        close(fd);
        assert_eq!(again(), Err(EBUSY));
    });
    let program = on_call(SYS_getpgrp, ALLOW);
    assert_eq!(install(&program, 1 | NEW_LISTENER), Err(EINVAL));
    assert_eq!(install(&program, WAIT_KILLABLE), Err(EINVAL));
    in_child(|| {
        let limit = rlimit { rlim_cur: 3, rlim_max: 3 };
        ok!(SYS_setrlimit, RLIMIT_NOFILE, &limit);
        assert_eq!(again(), Err(EMFILE));
    });
}

fn listener_is_a_file() {
    let fd = listen(SYS_getppid, 1 | TSYNC_ESRCH);
    assert_eq!(sys!(SYS_fcntl, fd, F_GETFD, 0), Ok(FD_CLOEXEC as usize));
    assert_eq!(sys!(SYS_fcntl, fd, F_GETFL, 0), Ok(O_RDWR as usize));
    let mut name = [0u8; 64];
    let link = std::ffi::CString::new(format!("/proc/self/fd/{fd}")).unwrap();
    let n = ok!(SYS_readlinkat, AT_FDCWD, link.as_c_str(), &mut name, 64);
    println!("{}", String::from_utf8_lossy(&name[..n]));
    err!(EINVAL: SYS_read, fd, &mut name, 1);
    err!(EINVAL: SYS_write, fd, &name, 1);
    err!(ESPIPE: SYS_lseek, fd, 0, SEEK_SET);
}

fn readiness() {
    let fd = listen(SYS_getppid, 0);
    assert_eq!(poll(fd, POLLIN | POLLOUT, 0), 0);
    let epoll = ok!(SYS_epoll_create1, 0);
    let mut event = epoll_event { events: (EPOLLIN | EPOLLOUT) as u32, u64: 5 };
    ok!(SYS_epoll_ctl, epoll, EPOLL_CTL_ADD, fd, &mut event);
    let pid = caller();
    let ready = |events: u32| {
        let mut event = epoll_event { events: 0, u64: 0 };
        ok!(SYS_epoll_wait, epoll, &mut event, 1, -1);
        let got = event.events;
        assert_eq!(got, events);
    };
    ready(EPOLLIN as u32);
    assert_eq!(poll(fd, POLLIN | POLLOUT, -1), POLLIN);
    let first = receive(fd).unwrap();
    ready(EPOLLOUT as u32);
    assert_eq!(poll(fd, POLLIN | POLLOUT, -1), POLLOUT);
    let other = caller();
    assert_eq!(poll(fd, POLLIN, -1), POLLIN);
    assert_eq!(poll(fd, POLLIN | POLLOUT, -1), POLLIN | POLLOUT);
    let second = receive(fd).unwrap();
    for notif in [first, second] {
        assert_eq!(reply(fd, notif.id, 0, 0, 0), Ok(0));
    }
    assert_eq!((code(pid), code(other)), (100, 100));
    assert_eq!(poll(fd, POLLIN | POLLOUT, 0), 0);
}

/// A child whose call is waiting and whose handler for SIGUSR1 has `flags`; it exits with the
/// errno, or with 100 and the value, and 50 more if the handler ran.
fn caller_with_handler(flags: i32) -> i32 {
    fork(|| {
        on(SIGUSR1, flags);
        let code = sys!(SYS_getppid).map_or_else(|e| e, |v| 100 + v as i32);
        code + 50 * i32::from(count(SIGUSR1) > 0)
    })
}

fn interrupted() {
    let fd = listen(SYS_getppid, 0);
    let pid = caller_with_handler(0);
    let notif = receive(fd).unwrap();
    ok!(SYS_kill, pid, SIGUSR1);
    assert_eq!(code(pid), EINTR + 50);
    assert_eq!(valid(fd, notif.id), Err(ENOENT));
    assert_eq!(reply(fd, notif.id, 1, 0, 0), Err(ENOENT));
    // Started again: a new notification.
    let pid = caller_with_handler(SA_RESTART);
    let old = receive(fd).unwrap();
    ok!(SYS_kill, pid, SIGUSR1);
    let new = receive(fd).unwrap();
    assert_eq!((new.pid, new.nr, new.ip), (old.pid, old.nr, old.ip));
    assert_ne!(new.id, old.id);
    assert_eq!(reply(fd, old.id, 1, 0, 0), Err(ENOENT));
    assert_eq!(reply(fd, new.id, 7, 0, 0), Ok(0));
    assert_eq!(code(pid), 157);
}

fn waits_killable() {
    let fd = listen(SYS_getppid, WAIT_KILLABLE);
    let pid = caller_with_handler(0);
    let notif = receive(fd).unwrap();
    ok!(SYS_kill, pid, SIGUSR1);
    nap(20);
    assert_eq!(valid(fd, notif.id), Ok(0));
    assert_eq!(reply(fd, notif.id, 7, 0, 0), Ok(0));
    assert_eq!(code(pid), 157);
    let pid = caller();
    let notif = receive(fd).unwrap();
    ok!(SYS_kill, pid, SIGKILL);
    assert_eq!(killed_by(wait(pid)), Some(SIGKILL));
    assert_eq!(valid(fd, notif.id), Err(ENOENT));
    // Before it was received, a signal counts.
    let pid = caller_with_handler(0);
    assert_eq!(poll(fd, POLLIN, -1), POLLIN);
    ok!(SYS_kill, pid, SIGUSR1);
    assert_eq!(code(pid), EINTR + 50);
}

fn killed_before_receipt() {
    let fd = listen(SYS_getppid, 0);
    let pid = caller();
    assert_eq!(poll(fd, POLLIN, -1), POLLIN);
    ok!(SYS_kill, pid, SIGKILL);
    assert_eq!(killed_by(wait(pid)), Some(SIGKILL));
    assert_eq!(receive(fd), Err(ENOENT));
    assert_eq!(poll(fd, POLLIN, 0), 0);
}

fn filter_goes() {
    // The listener of a process that is gone.
    let (mine, theirs) = pipe(0);
    let pid = fork(|| {
        let fd = listen(SYS_getppid, 0);
        write(theirs, &fd.to_ne_bytes());
        nap(100_000);
        0
    });
    let fd = i32::from_ne_bytes(read(mine, 4).try_into().unwrap());
    let pidfd = ok!(SYS_pidfd_open, pid, 0);
    let Ok(fd) = sys!(SYS_pidfd_getfd, pidfd, fd, 0) else {
        ok!(SYS_kill, pid, SIGKILL);
        wait(pid);
        skip!("pidfd_getfd is not allowed")
    };
    let fd = fd as i32;
    assert_eq!(poll(fd, POLLIN, 0), 0);
    ok!(SYS_kill, pid, SIGKILL);
    assert_eq!(poll(fd, POLLIN, -1), POLLHUP);
    wait(pid);
    assert_eq!(poll(fd, POLLIN, -1), POLLHUP);
}

fn receiver_interrupted() {
    let fd = listen(SYS_getppid, 0);
    on(SIGALRM, 0);
    alarm_often(20);
    assert_eq!(receive(fd), Err(EINTR));
    // That it is non-blocking does not help.
    let flags = ok!(SYS_fcntl, fd, F_GETFL, 0);
    ok!(SYS_fcntl, fd, F_SETFL, flags as i32 | O_NONBLOCK);
    assert_eq!(receive(fd), Err(EINTR));
    assert!(count(SIGALRM) >= 2);
}

fn adds_fd() {
    let fd = listen(SYS_getppid, 0);
    file(c"f", b"hello");
    let pid = fork(|| {
        assert_eq!(sys!(SYS_getppid), Ok(1));
        assert_eq!(read(40, 10), b"hello");
        assert_eq!(sys!(SYS_fcntl, 40, F_GETFD, 0), Ok(0));
        assert_eq!(sys!(SYS_fcntl, 41, F_GETFD, 0), Ok(FD_CLOEXEC as usize));
        // The one for which the lowest number was taken, with the position of the others.
        assert_eq!(read(fd + 1, 10), b"");
        0
    });
    let notif = receive(fd).unwrap();
    let src = open(c"f", O_RDONLY, 0);
    ok!(SYS_dup2, src, 60);
    close(src);
    assert_eq!(add_fd(fd, notif.id, SETFD, 60, 40, 0), Ok(40));
    assert_eq!(add_fd(fd, notif.id, SETFD, 60, 41, O_CLOEXEC as u32), Ok(41));
    // Replaces what is there.
    assert_eq!(add_fd(fd, notif.id, SETFD, 60, 41, O_CLOEXEC as u32), Ok(41));
    assert_eq!(add_fd(fd, notif.id, 0, 60, 0, 0), Ok(fd as usize + 1));
    assert_eq!(reply(fd, notif.id, 1, 0, 0), Ok(0));
    assert_eq!(code(pid), 0);
}

fn adds_fd_and_answers() {
    let fd = listen(SYS_getppid, 0);
    file(c"f", b"hello");
    let src = open(c"f", O_RDONLY, 0);
    let pid = fork(|| {
        let got = ok!(SYS_getppid) as i32;
        assert_eq!(read(got, 10), b"hello");
        got
    });
    let notif = receive(fd).unwrap();
    // A failure leaves it open.
    assert_eq!(add_fd(fd, notif.id, SETFD | ADD_AND_SEND, src, 1 << 30, 0), Err(EBADF));
    assert_eq!(valid(fd, notif.id), Ok(0));
    let got = add_fd(fd, notif.id, ADD_AND_SEND, src, 0, 0);
    assert_eq!(code(pid), got.unwrap() as i32);
    assert_eq!(reply(fd, notif.id, 0, 0, 0), Err(ENOENT));
}

fn add_fd_errors() {
    let fd = listen(SYS_getppid, 0);
    let pid = fork(|| {
        let limit = rlimit { rlim_cur: fd as u64 + 1, rlim_max: fd as u64 + 1 };
        ok!(SYS_setrlimit, RLIMIT_NOFILE, &limit);
        ok!(SYS_getppid) as i32
    });
    let notif = receive(fd).unwrap();
    let id = notif.id;
    assert_eq!(add_fd(fd, id, 4, 0, 0, 0), Err(EINVAL));
    assert_eq!(add_fd(fd, id, 0, 0, 3, 0), Err(EINVAL));
    assert_eq!(add_fd(fd, id, 0, 0, 0, O_NONBLOCK as u32), Err(EINVAL));
    assert_eq!(add_fd(fd, id, 0, 999, 0, 0), Err(EBADF));
    assert_eq!(add_fd(fd, id, 0, open(c".", O_PATH, 0), 0, 0), Err(EBADF));
    assert_eq!(add_fd(fd, id ^ 1 << 40, 0, 999, 0, 0), Err(EBADF));
    assert_eq!(add_fd(fd, id ^ 1 << 40, 0, 0, 0, 0), Err(ENOENT));
    assert_eq!(add_fd(fd, id, 0, 0, 0, 0), Err(EMFILE));
    assert_eq!(add_fd(fd, id, SETFD, 0, fd as u32 + 1, 0), Err(EBADF));
    // Sizes: too small, too large, larger with and without something in it.
    let mut more = [0u64; 5];
    more[0] = id ^ 1 << 40;
    let sized = |size: u32, what: &[u64; 5]| {
        sys!(SYS_ioctl, fd, 0x4000_2103u32 | size << 16, what)
    };
    assert_eq!(sized(16, &more), Err(EINVAL));
    assert_eq!(sized(4096, &more), Err(EINVAL));
    assert_eq!(sized(40, &more), Err(ENOENT));
    more[4] = 1;
    assert_eq!(sized(40, &more), Err(E2BIG));
    err!(EFAULT: SYS_ioctl, fd, ADDFD, BAD);
    assert_eq!(reply(fd, id, 4, 0, 0), Ok(0));
    assert_eq!(code(pid), 4);
}

fn many_callers() {
    let fd = listen(SYS_getppid, 0);
    let pids: Vec<i32> = (0..8)
        .map(|n| {
            fork(|| {
                for i in 0..50 {
                    assert_eq!(crate::sys::call(SYS_getppid, &[n * 1000 + i]), Ok(n * 1000 + i));
                }
                0
            })
        })
        .collect();
    for _ in 0..8 * 50 {
        let notif = receive(fd).unwrap();
        assert_eq!(reply(fd, notif.id, notif.args[0] as i64, 0, 0), Ok(0));
    }
    assert!(pids.into_iter().all(|pid| code(pid) == 0));
}

fn thread_listens() {
    let fd = listen(SYS_getppid, 0);
    let thread = std::thread::spawn(move || {
        for n in 0..50 {
            let notif = receive(fd).unwrap();
            assert_eq!(reply(fd, notif.id, n, 0, 0), Ok(0));
        }
    });
    for n in 0..50 {
        assert_eq!(sys!(SYS_getppid), Ok(n));
    }
    thread.join().unwrap();
    assert_eq!(count(SIGUSR1), 0);
    assert_eq!(ORDER.load(SeqCst), 0);
}

fn older_filter_asks() {
    // The filter that wants to ask has the listener, wherever in the chain it is.
    let fd = listen(SYS_getppid, 0);
    assert_eq!(install(&on_call(SYS_getppid, SECCOMP_RET_LOG), 0), Ok(0));
    assert_eq!(install(&on_call(SYS_getpgrp, NOTIFY), 0), Ok(0));
    let pid = caller();
    let notif = receive(fd).unwrap();
    assert_eq!(reply(fd, notif.id, 6, 0, 0), Ok(0));
    assert_eq!(code(pid), 106);
    // This one has none.
    err!(ENOSYS: SYS_getpgrp);
    // Of two that ask the newer one is asked.
    assert_eq!(install(&on_call(SYS_getppid, NOTIFY), 0), Ok(0));
    err!(ENOSYS: SYS_getppid);
}

fn hot_call() {
    // One that a platform would answer by itself.
    for _ in 0..1000 {
        ok!(SYS_getuid);
    }
    let fd = listen(SYS_getuid, 0);
    let pid = fork(|| {
        for n in 0..100 {
            assert_eq!(sys!(SYS_getuid), Ok(n));
        }
        0
    });
    for n in 0..100 {
        let notif = receive(fd).unwrap();
        assert_eq!(i64::from(notif.nr), SYS_getuid);
        assert_eq!(reply(fd, notif.id, n, 0, 0), Ok(0));
    }
    assert_eq!(code(pid), 0);
}
