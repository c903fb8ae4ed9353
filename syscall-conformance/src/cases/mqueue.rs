//! POSIX message queues.

use std::ffi::CString;

use crate::helpers::*;
use crate::ipc::{as_user, new_mq_name};
use crate::sys::BAD;

cases![
    open_rules,
    names,
    attributes,
    attribute_bounds,
    bytes_are_limited,
    descriptors_are_limited,
    permissions,
    priorities,
    send_errors,
    receive_errors,
    descriptors_of_others,
    nonblocking,
    receivers_wait,
    senders_wait,
    timeouts,
    signals_restart,
    unlinked_lives_on,
    polls,
    epolls,
    getsetattr,
    notify_by_signal,
    notify_of_the_first_only,
    notify_nobody_if_somebody_waits,
    notify_rules,
    notify_ends_with_a_close,
    notify_ends_with_the_process,
    notify_none,
    reads_as_text,
    looks_like_a_file,
    closed_on_exec,
    settings,
    many_at_once,
];

const CAP_SYS_RESOURCE: u32 = 24;

/// `struct mq_attr`
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
struct Attr {
    flags: i64,
    maxmsg: i64,
    msgsize: i64,
    curmsgs: i64,
    reserved: [i64; 4],
}

fn attr(maxmsg: i64, msgsize: i64) -> Attr {
    Attr { maxmsg, msgsize, ..Attr::default() }
}

/// A queue of that size, with its name.
fn queue(flags: i32, maxmsg: i64, msgsize: i64) -> (i32, CString) {
    let name = new_mq_name();
    let attr = attr(maxmsg, msgsize);
    let fd = ok!(SYS_mq_open, name.as_c_str(), O_CREAT | O_EXCL | O_RDWR | flags, 0o600, &attr);
    (fd as i32, name)
}

fn send(fd: i32, text: &[u8], priority: u32) {
    ok!(SYS_mq_timedsend, fd, text, text.len(), priority, 0);
}

/// Text and priority, or the errno.
fn receive(fd: i32) -> Result<(String, u32), i32> {
    let (mut buf, mut priority) = ([0u8; 100], 99u32);
    let len = sys!(SYS_mq_timedreceive, fd, &mut buf[..], 100, &mut priority, 0)?;
    Ok((String::from_utf8_lossy(&buf[..len]).into_owned(), priority))
}

fn got(text: &str, priority: u32) -> Result<(String, u32), i32> {
    Ok((text.to_string(), priority))
}

fn current(fd: i32) -> Attr {
    let mut attr = Attr::default();
    ok!(SYS_mq_getsetattr, fd, 0, &mut attr);
    attr
}

fn open_rules() {
    let name = new_mq_name();
    let open = |flags: i32| sys!(SYS_mq_open, name.as_c_str(), flags, 0o640, 0);
    assert_eq!(open(O_RDONLY), Err(ENOENT));
    assert_eq!(open(O_RDONLY | O_EXCL), Err(ENOENT));
    let fd = open(O_CREAT | O_RDONLY).unwrap();
    assert_eq!(ok!(SYS_fcntl, fd, F_GETFD), FD_CLOEXEC as usize);
    assert_eq!(open(O_CREAT | O_EXCL | O_RDWR), Err(EEXIST));
    assert_eq!(open(O_CREAT | O_RDWR | O_WRONLY), Err(EINVAL));
    let other = open(O_CREAT | O_WRONLY | O_NONBLOCK).unwrap();
    assert_eq!(ok!(SYS_fcntl, other, F_GETFL) as i32 & (O_ACCMODE | O_NONBLOCK), O_WRONLY | O_NONBLOCK);
    send(other as i32, b"hello", 1);
    let mut buf = [0u8; 8192];
    assert_eq!(ok!(SYS_mq_timedreceive, fd, &mut buf[..], 8192, 0, 0), 5);
    ok!(SYS_mq_unlink, name.as_c_str());
    err!(ENOENT: SYS_mq_unlink, name.as_c_str());
}

fn names() {
    for (name, errno) in [
        (c"".to_owned(), ENOENT),
        (c"/a".to_owned(), EACCES),
        (c"a/b".to_owned(), EACCES),
        (c".".to_owned(), EACCES),
        (c"..".to_owned(), EACCES),
        (CString::new(vec![b'x'; 256]).unwrap(), ENAMETOOLONG),
        (CString::new(vec![b'x'; 5000]).unwrap(), ENAMETOOLONG),
    ] {
        let name = name.as_c_str();
        assert_eq!(sys!(SYS_mq_open, name, O_RDWR | O_CREAT, 0o600, 0), Err(errno), "{name:?}");
        assert_eq!(sys!(SYS_mq_unlink, name), Err(errno), "{name:?}");
    }
    err!(EFAULT: SYS_mq_open, BAD, O_RDWR, 0, 0);
    err!(EFAULT: SYS_mq_open, c"", O_RDWR, 0, BAD);
    err!(EFAULT: SYS_mq_unlink, BAD);
}

fn attributes() {
    let (fd, name) = queue(O_NONBLOCK, 3, 20);
    assert_eq!(current(fd), Attr { flags: O_NONBLOCK.into(), ..attr(3, 20) });
    // Those of a queue that is there do not count.
    let again = ok!(SYS_mq_open, name.as_c_str(), O_CREAT | O_RDWR, 0o777, &attr(0, 0)) as i32;
    assert_eq!(current(again), attr(3, 20));
    send(again, b"x", 0);
    assert_eq!(current(fd).curmsgs, 1);
    let name = new_mq_name();
    let fd = ok!(SYS_mq_open, name.as_c_str(), O_CREAT | O_RDWR, 0o600, 0) as i32;
    assert_eq!(current(fd), attr(10, 8192));
}

fn attribute_bounds() {
    let name = new_mq_name();
    let open = |maxmsg, msgsize| {
        sys!(SYS_mq_open, name.as_c_str(), O_CREAT | O_RDWR, 0o600, &attr(maxmsg, msgsize)).map(|fd| {
            close(fd as i32);
            ok!(SYS_mq_unlink, name.as_c_str());
        })
    };
    for (maxmsg, msgsize) in [(0, 1), (1, 0), (-1, 1), (1, -1), (65537, 1), (1, (16 << 20) + 1)] {
        assert_eq!(open(maxmsg, msgsize), Err(EINVAL), "{maxmsg} {msgsize}");
    }
    // Nothing is left of what failed.
    err!(ENOENT: SYS_mq_open, name.as_c_str(), O_RDWR, 0, 0);
    assert_eq!(open(1, 1), Ok(()));
    assert_eq!(open(10, 8192), Ok(()));
    if caps() & 1 << CAP_SYS_RESOURCE == 0 {
        assert_eq!(open(11, 1), Err(EINVAL));
        assert_eq!(open(1, 8193), Err(EINVAL));
    }
}

fn bytes_are_limited() {
    need_unprivileged();
    let limit = |bytes: u64| ok!(SYS_setrlimit, RLIMIT_MSGQUEUE, &[bytes, 819_200]);
    let name = new_mq_name();
    let open = |maxmsg, msgsize| {
        sys!(SYS_mq_open, name.as_c_str(), O_CREAT | O_EXCL | O_RDWR, 0o600, &attr(maxmsg, msgsize))
    };
    // A message is its text and 96 bytes more.
    limit(5 * 196 - 1);
    assert_eq!(open(5, 100), Err(EMFILE));
    limit(5 * 196);
    let fd = open(5, 100).unwrap() as i32;
    let other = new_mq_name();
    let tiny = attr(1, 1);
    err!(EMFILE: SYS_mq_open, other.as_c_str(), O_CREAT | O_RDWR, 0o600, &tiny);
    // An open queue counts without a name, too.
    ok!(SYS_mq_unlink, name.as_c_str());
    err!(EMFILE: SYS_mq_open, other.as_c_str(), O_CREAT | O_RDWR, 0o600, &tiny);
    close(fd);
    close(ok!(SYS_mq_open, other.as_c_str(), O_CREAT | O_RDWR, 0o600, &tiny) as i32);
}

fn descriptors_are_limited() {
    let name = new_mq_name();
    let mut limit = rlimit { rlim_cur: 0, rlim_max: 0 };
    ok!(SYS_getrlimit, RLIMIT_NOFILE, &mut limit);
    let most = limit.rlim_cur;
    limit.rlim_cur = 0;
    ok!(SYS_setrlimit, RLIMIT_NOFILE, &limit);
    // The name comes first, then the descriptor, then all else.
    err!(ENOENT: SYS_mq_open, c"", O_RDWR, 0, 0);
    err!(EMFILE: SYS_mq_open, c"a/b", O_RDWR, 0, 0);
    err!(EMFILE: SYS_mq_open, name.as_c_str(), O_CREAT | O_RDWR, 0o600, 0);
    limit.rlim_cur = most;
    ok!(SYS_setrlimit, RLIMIT_NOFILE, &limit);
    err!(ENOENT: SYS_mq_open, name.as_c_str(), O_RDWR, 0, 0);
}

fn permissions() {
    need_cap(CAP_SETUID);
    need_cap(CAP_SETGID);
    let (fd, name) = queue(0, 1, 10);
    ok!(SYS_fchmod, fd, 0o604);
    as_user(6543, || {
        let open = |flags: i32| sys!(SYS_mq_open, name.as_c_str(), flags, 0o600, 0);
        let fd = open(O_RDONLY | O_CREAT | O_NONBLOCK).unwrap() as i32;
        assert_eq!(receive(fd), Err(EAGAIN));
        assert_eq!(open(O_RDWR), Err(EACCES));
        assert_eq!(open(O_WRONLY | O_CREAT), Err(EACCES));
        // Only whose queue it is, as in /tmp.
        err!(EPERM: SYS_mq_unlink, name.as_c_str());
    });
    ok!(SYS_umask, 0o022);
    let name = new_mq_name();
    let fd = ok!(SYS_mq_open, name.as_c_str(), O_CREAT | O_RDWR, 0o666, 0) as i32;
    assert_eq!(fstat(fd).st_mode, S_IFREG | 0o644);
}

fn priorities() {
    let (fd, _) = queue(O_NONBLOCK, 6, 10);
    for (text, priority) in [("a", 1), ("b", 7), ("c", 0), ("d", 7), ("e", 32767), ("", 1)] {
        send(fd, text.as_bytes(), priority);
    }
    for (text, priority) in [("e", 32767), ("b", 7), ("d", 7), ("a", 1), ("", 1), ("c", 0)] {
        assert_eq!(receive(fd), got(text, priority));
    }
    assert_eq!(receive(fd), Err(EAGAIN));
}

fn send_errors() {
    let (fd, name) = queue(O_NONBLOCK, 1, 10);
    let text = b"0123456789a";
    err!(EMSGSIZE: SYS_mq_timedsend, fd, text, 11, 0, 0);
    err!(EMSGSIZE: SYS_mq_timedsend, fd, BAD, 11, 0, 0);
    err!(EINVAL: SYS_mq_timedsend, fd, text, 10, 32768, 0);
    err!(EINVAL: SYS_mq_timedsend, -1, text, 10, 32768, 0);
    err!(EFAULT: SYS_mq_timedsend, fd, BAD, 10, 0, 0);
    err!(EFAULT: SYS_mq_timedsend, -1, BAD, 10, 32768, BAD);
    err!(EBADF: SYS_mq_timedsend, -1, text, 10, 0, 0);
    let reader = ok!(SYS_mq_open, name.as_c_str(), O_RDONLY, 0, 0);
    err!(EBADF: SYS_mq_timedsend, reader, text, 10, 0, 0);
    err!(EBADF: SYS_mq_timedsend, reader, text, 11, 0, 0);
    send(fd, b"0123456789", 0);
    // What cannot be read is found out before that there is no room.
    err!(EFAULT: SYS_mq_timedsend, fd, BAD, 10, 0, 0);
    err!(EAGAIN: SYS_mq_timedsend, fd, text, 10, 0, 0);
}

fn receive_errors() {
    let (fd, name) = queue(O_NONBLOCK, 2, 10);
    let mut buf = [0u8; 10];
    err!(EMSGSIZE: SYS_mq_timedreceive, fd, &mut buf[..], 9, 0, 0);
    err!(EBADF: SYS_mq_timedreceive, -1, &mut buf[..], 9, 0, 0);
    err!(EFAULT: SYS_mq_timedreceive, -1, &mut buf[..], 9, 0, BAD);
    err!(EAGAIN: SYS_mq_timedreceive, fd, BAD, 10, BAD, 0);
    let writer = ok!(SYS_mq_open, name.as_c_str(), O_WRONLY, 0, 0);
    err!(EBADF: SYS_mq_timedreceive, writer, &mut buf[..], 10, 0, 0);
    send(fd, b"x", 3);
    send(fd, b"y", 3);
    // What cannot be given is lost.
    err!(EFAULT: SYS_mq_timedreceive, fd, BAD, 10, 0, 0);
    err!(EFAULT: SYS_mq_timedreceive, fd, &mut buf[..], 10, BAD, 0);
    assert_eq!(current(fd).curmsgs, 0);
}

fn descriptors_of_others() {
    let (r, _) = pipe(0);
    err!(EBADF: SYS_mq_timedsend, r, b"x", 1, 0, 0);
    err!(EBADF: SYS_mq_timedreceive, r, &mut [0u8; 9], 9, 0, 0);
    err!(EBADF: SYS_mq_notify, r, 0);
    err!(EBADF: SYS_mq_getsetattr, r, 0, &mut Attr::default());
    let (fd, name) = queue(0, 1, 10);
    err!(EINVAL: SYS_write, fd, b"x", 1);
    err!(ENODEV: SYS_mmap, 0, 4096, PROT_READ, MAP_SHARED, fd, 0);
    let _ = name;
}

fn nonblocking() {
    let (fd, _) = queue(O_NONBLOCK, 1, 10);
    assert_eq!(receive(fd), Err(EAGAIN));
    send(fd, b"x", 0);
    err!(EAGAIN: SYS_mq_timedsend, fd, b"y", 1, 0, 0);
    // A timeout is looked at, but does not count.
    let bad = timespec { tv_sec: 0, tv_nsec: -1 };
    err!(EINVAL: SYS_mq_timedsend, fd, b"y", 1, 0, &bad);
    err!(EINVAL: SYS_mq_timedreceive, fd, &mut [0u8; 10], 10, 0, &bad);
    assert_eq!(receive(fd), got("x", 0));
}

fn receivers_wait() {
    let (fd, _) = queue(0, 2, 10);
    let children: Vec<i32> = (0..2)
        .map(|n| {
            let child = fork(|| i32::from(receive(fd) != got(["one", "two"][n], n as u32)));
            asleep(child, 0);
            child
        })
        .collect();
    // Who waited longest gets the first, whatever its priority.
    send(fd, b"one", 0);
    assert_eq!(wait(children[0]), 0);
    send(fd, b"two", 1);
    assert_eq!(wait(children[1]), 0);
    assert_eq!(current(fd).curmsgs, 0);
}

fn senders_wait() {
    let (fd, _) = queue(0, 1, 10);
    send(fd, b"first", 1);
    let children: Vec<i32> = [("second", 0), ("third", 9)]
        .map(|(text, priority)| {
            let child = fork(|| {
                send(fd, text.as_bytes(), priority);
                0
            });
            asleep(child, 0);
            child
        })
        .into();
    // In the order of their coming, not of priority.
    assert_eq!(receive(fd), got("first", 1));
    assert_eq!(wait(children[0]), 0);
    assert_eq!(receive(fd), got("second", 0));
    assert_eq!(wait(children[1]), 0);
    assert_eq!(receive(fd), got("third", 9));
}

fn timeouts() {
    let (fd, _) = queue(0, 1, 10);
    let until = |ms: u64| {
        let at = now(CLOCK_REALTIME) + ms * 1_000_000;
        timespec { tv_sec: (at / 1_000_000_000) as i64, tv_nsec: (at % 1_000_000_000) as i64 }
    };
    let mut buf = [0u8; 10];
    let start = mono();
    err!(ETIMEDOUT: SYS_mq_timedreceive, fd, &mut buf[..], 10, 0, &until(30));
    assert!(mono() - start >= 29_000_000);
    let past = timespec { tv_sec: 1, tv_nsec: 0 };
    err!(ETIMEDOUT: SYS_mq_timedreceive, fd, &mut buf[..], 10, 0, &past);
    ok!(SYS_mq_timedsend, fd, b"x", 1, 0, &past);
    err!(ETIMEDOUT: SYS_mq_timedsend, fd, b"y", 1, 0, &past);
    err!(ETIMEDOUT: SYS_mq_timedsend, fd, b"y", 1, 0, &until(20));
    ok!(SYS_mq_timedreceive, fd, &mut buf[..], 10, 0, &past);
    // Who gave up left nothing behind.
    assert_eq!(current(fd).curmsgs, 0);
}

fn signals_restart() {
    let (fd, _) = queue(0, 1, 10);
    on(SIGUSR1, 0);
    let child = soon(SIGUSR1, 20);
    assert_eq!(receive(fd), Err(EINTR));
    assert_eq!(wait(child), 0);
    on(SIGUSR1, SA_RESTART);
    let me = ok!(SYS_getpid);
    let child = fork(|| {
        asleep(me as i32, 0);
        ok!(SYS_kill, me, SIGUSR1);
        nap(20);
        send(fd, b"later", 0);
        0
    });
    assert_eq!(receive(fd), got("later", 0));
    assert_eq!(wait(child), 0);
    assert_eq!(count(SIGUSR1), 2);
}

fn unlinked_lives_on() {
    let (fd, name) = queue(0, 1, 10);
    send(fd, b"x", 0);
    assert_eq!(fstat(fd).st_nlink, 1);
    ok!(SYS_mq_unlink, name.as_c_str());
    assert_eq!(fstat(fd).st_nlink, 0);
    err!(ENOENT: SYS_mq_open, name.as_c_str(), O_RDWR, 0, 0);
    let other = ok!(SYS_mq_open, name.as_c_str(), O_CREAT | O_RDWR, 0o600, 0) as i32;
    assert_eq!(current(other).curmsgs, 0);
    assert_eq!(receive(fd), got("x", 0));
}

fn polls() {
    let (fd, _) = queue(0, 1, 10);
    let all = POLLIN | POLLOUT;
    assert_eq!(poll(fd, all, 0), POLLOUT);
    let child = fork(|| {
        nap(20);
        send(fd, b"x", 0);
        0
    });
    assert_eq!(poll(fd, POLLIN, -1), POLLIN);
    assert_eq!(wait(child), 0);
    assert_eq!(poll(fd, all, 0), POLLIN);
    let child = fork(|| {
        nap(20);
        receive(fd).map_or(1, |_| 0)
    });
    assert_eq!(poll(fd, POLLOUT, -1), POLLOUT);
    assert_eq!(wait(child), 0);
}

fn epolls() {
    let (fd, _) = queue(0, 2, 10);
    let epoll = ok!(SYS_epoll_create1, 0);
    let mut event = epoll_event { events: (EPOLLIN | EPOLLET) as u32, u64: 5 };
    ok!(SYS_epoll_ctl, epoll, EPOLL_CTL_ADD, fd, &mut event);
    let ready = |timeout: i32| {
        let mut got = epoll_event { events: 0, u64: 0 };
        ok!(SYS_epoll_wait, epoll, &mut got, 1, timeout)
    };
    assert_eq!(ready(0), 0);
    send(fd, b"x", 0);
    assert_eq!((ready(0), ready(0)), (1, 0));
    send(fd, b"y", 0);
    assert_eq!(ready(0), 1);
    // Any change is told, whatever it is a change of.
    receive(fd).unwrap();
    assert_eq!((ready(0), ready(0)), (1, 0));
}

fn getsetattr() {
    let (fd, _) = queue(0, 2, 10);
    let mut old = Attr::default();
    let new = Attr { flags: O_NONBLOCK.into(), ..attr(99, 99) };
    ok!(SYS_mq_getsetattr, fd, &new, &mut old);
    assert_eq!(old, attr(2, 10));
    assert_eq!(current(fd), Attr { flags: O_NONBLOCK.into(), ..attr(2, 10) });
    assert_eq!(ok!(SYS_fcntl, fd, F_GETFL) as i32 & O_NONBLOCK, O_NONBLOCK);
    ok!(SYS_mq_getsetattr, fd, &Attr::default(), 0);
    assert_eq!(current(fd).flags, 0);
    ok!(SYS_mq_getsetattr, fd, 0, 0);
    err!(EINVAL: SYS_mq_getsetattr, fd, &Attr { flags: 1, ..new }, 0);
    err!(EINVAL: SYS_mq_getsetattr, -1, &Attr { flags: 1, ..new }, 0);
    err!(EFAULT: SYS_mq_getsetattr, fd, BAD, 0);
    // What is set is set, even if the old cannot be told.
    err!(EFAULT: SYS_mq_getsetattr, fd, &new, BAD);
    assert_eq!(current(fd).flags, O_NONBLOCK.into());
    err!(EBADF: SYS_mq_getsetattr, -1, 0, 0);
}

/// `struct sigevent`
fn event(kind: i32, signo: i32, value: u64) -> [u64; 8] {
    [value, signo as u32 as u64 | (kind as u64) << 32, 0, 0, 0, 0, 0, 0]
}

fn blocked(sig: i32) -> u64 {
    sigmask(SIG_BLOCK, 1 << (sig - 1));
    1 << (sig - 1)
}

/// The pending signal of a set, or `None`: code, pid, uid, value.
fn pending(set: u64, ms: i64) -> Option<(i32, i32, u32, u64)> {
    let mut info = [0u32; 32];
    let t = timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 };
    match sys!(SYS_rt_sigtimedwait, &set, &mut info, &t, 8) {
        Ok(_) => {
            let value = u64::from(info[6]) | u64::from(info[7]) << 32;
            Some((info[2] as i32, info[4] as i32, info[5], value))
        }
        Err(EAGAIN) => None,
        Err(e) => panic!("{e}"),
    }
}

fn notify_by_signal() {
    let (fd, _) = queue(0, 2, 10);
    let set = blocked(SIGUSR1);
    ok!(SYS_mq_notify, fd, &event(SIGEV_SIGNAL, SIGUSR1, 0x1234_5678_9abc));
    assert_eq!(pending(set, 0), None);
    let child = fork(|| {
        send(fd, b"x", 0);
        0
    });
    assert_eq!(wait(child), 0);
    let uid = ok!(SYS_getuid) as u32;
    assert_eq!(pending(set, 5000), Some((-3, child, uid, 0x1234_5678_9abc)));
    // Once only.
    receive(fd).unwrap();
    send(fd, b"x", 0);
    assert_eq!(pending(set, 10), None);
}

fn notify_of_the_first_only() {
    let (fd, _) = queue(0, 3, 10);
    let set = blocked(SIGUSR1);
    send(fd, b"x", 0);
    ok!(SYS_mq_notify, fd, &event(SIGEV_SIGNAL, SIGUSR1, 1));
    send(fd, b"y", 0);
    assert_eq!(pending(set, 10), None);
    receive(fd).unwrap();
    receive(fd).unwrap();
    send(fd, b"z", 0);
    assert_eq!(pending(set, 5000).map(|p| p.3), Some(1));
}

fn notify_nobody_if_somebody_waits() {
    let (fd, _) = queue(0, 3, 10);
    let set = blocked(SIGUSR1);
    ok!(SYS_mq_notify, fd, &event(SIGEV_SIGNAL, SIGUSR1, 1));
    let child = fork(|| receive(fd).map_or(1, |_| 0));
    asleep(child, 0);
    send(fd, b"x", 0);
    assert_eq!(wait(child), 0);
    assert_eq!(pending(set, 10), None);
    // Still registered.
    send(fd, b"x", 0);
    assert_eq!(pending(set, 5000).map(|p| p.3), Some(1));
}

fn notify_rules() {
    let (fd, _) = queue(0, 3, 10);
    let by_signal = |signo| event(SIGEV_SIGNAL, signo, 1);
    err!(EINVAL: SYS_mq_notify, fd, &by_signal(65));
    err!(EINVAL: SYS_mq_notify, fd, &by_signal(-1));
    err!(EINVAL: SYS_mq_notify, -1, &event(7, SIGUSR1, 1));
    err!(EINVAL: SYS_mq_notify, fd, &event(SIGEV_THREAD_ID, SIGUSR1, 1));
    err!(EFAULT: SYS_mq_notify, -1, BAD);
    err!(EBADF: SYS_mq_notify, -1, &by_signal(SIGUSR1));
    err!(EBADF: SYS_mq_notify, -1, 0);
    // By a thread means by a netlink socket.
    let cookie = [0u8; 32];
    let at = cookie.as_ptr() as u64;
    err!(EFAULT: SYS_mq_notify, fd, &event(SIGEV_THREAD, -1, BAD as u64));
    err!(EBADF: SYS_mq_notify, fd, &event(SIGEV_THREAD, -1, at));
    err!(ENOTSOCK: SYS_mq_notify, fd, &event(SIGEV_THREAD, fd, at));
    err!(EINVAL: SYS_mq_notify, fd, &event(SIGEV_THREAD, socketpair(SOCK_STREAM).0, at));
    // Nobody is registered: there is nothing to take back, which is fine.
    ok!(SYS_mq_notify, fd, 0);
    ok!(SYS_mq_notify, fd, &by_signal(SIGUSR1));
    err!(EBUSY: SYS_mq_notify, fd, &by_signal(SIGUSR1));
    in_child(|| {
        err!(EBUSY: SYS_mq_notify, fd, &by_signal(SIGUSR1));
        // It is not this process's to take back.
        ok!(SYS_mq_notify, fd, 0);
        err!(EBUSY: SYS_mq_notify, fd, &by_signal(SIGUSR1));
    });
    ok!(SYS_mq_notify, fd, 0);
    ok!(SYS_mq_notify, fd, &by_signal(0));
    send(fd, b"x", 0);
}

fn notify_ends_with_a_close() {
    let (fd, name) = queue(0, 3, 10);
    ok!(SYS_mq_notify, fd, &event(SIGEV_SIGNAL, SIGUSR1, 1));
    in_child(|| close(fd));
    err!(EBUSY: SYS_mq_notify, fd, &event(SIGEV_NONE, 0, 0));
    // Of any descriptor of the queue.
    close(ok!(SYS_mq_open, name.as_c_str(), O_RDONLY, 0, 0) as i32);
    ok!(SYS_mq_notify, fd, &event(SIGEV_NONE, 0, 0));
}

fn notify_ends_with_the_process() {
    let (fd, _) = queue(0, 3, 10);
    in_child(|| {
        ok!(SYS_mq_notify, fd, &event(SIGEV_SIGNAL, SIGUSR1, 1));
    });
    ok!(SYS_mq_notify, fd, &event(SIGEV_NONE, 0, 0));
}

fn notify_none() {
    let (fd, _) = queue(0, 3, 10);
    ok!(SYS_mq_notify, fd, &event(SIGEV_NONE, 0, 0));
    err!(EBUSY: SYS_mq_notify, fd, &event(SIGEV_NONE, 0, 0));
    send(fd, b"x", 0);
    ok!(SYS_mq_notify, fd, &event(SIGEV_NONE, 0, 0));
}

fn reads_as_text() {
    let (fd, _) = queue(0, 3, 10);
    send(fd, b"12345", 0);
    send(fd, b"678", 9);
    println!("{}", String::from_utf8_lossy(&read(fd, 100)));
    assert_eq!(read(fd, 100), b"");
    ok!(SYS_lseek, fd, 0, SEEK_SET);
    assert_eq!(read(fd, 7), b"QSIZE:8");
    ok!(SYS_mq_notify, fd, &event(SIGEV_SIGNAL, SIGUSR1, 1));
    ok!(SYS_lseek, fd, 0, SEEK_SET);
    let text = String::from_utf8_lossy(&read(fd, 100)).into_owned();
    let pid = ok!(SYS_getpid);
    assert_eq!(text, format!("QSIZE:8          NOTIFY:0     SIGNO:10    NOTIFY_PID:{pid:<6}\n"));
}

fn looks_like_a_file() {
    let (fd, _) = queue(0, 3, 10);
    let st = fstat(fd);
    assert_eq!((st.st_mode, st.st_size, st.st_nlink), (S_IFREG | 0o600, 80, 1));
    assert_eq!((st.st_uid as usize, st.st_gid as usize), (ok!(SYS_getuid), ok!(SYS_getgid)));
    let mut fs = [0u64; 15];
    ok!(SYS_fstatfs, fd, &mut fs);
    assert_eq!(fs[0], 0x1980_0202);
    ok!(SYS_fchmod, fd, 0o640);
    assert_eq!(fstat(fd).st_mode, S_IFREG | 0o640);
    send(fd, b"x", 0);
    assert!(fstat(fd).st_mtime >= st.st_mtime);
}

fn closed_on_exec() {
    let (fd, _) = queue(0, 3, 10);
    let flags = ok!(SYS_fcntl, fd, F_GETFD) as i32;
    assert_eq!(flags, FD_CLOEXEC);
    // A copy stays open.
    let copy = ok!(SYS_dup, fd) as i32;
    assert_eq!(ok!(SYS_fcntl, copy, F_GETFD), 0);
    send(copy, b"x", 0);
    assert_eq!(receive(fd), got("x", 0));
}

fn settings() {
    for name in ["msg_default", "msg_max", "msgsize_default", "msgsize_max", "queues_max"] {
        let path = std::ffi::CString::new(format!("/proc/sys/fs/mqueue/{name}")).unwrap();
        println!("{name} {}", text(&path).trim());
        let mode = lstat(&path).st_mode;
        assert_eq!(mode, S_IFREG | 0o644, "{name}");
    }
    assert!(text(c"/proc/filesystems").lines().any(|l| l == "nodev\tmqueue"));
}

fn many_at_once() {
    let (fd, _) = queue(0, 2, 8);
    let sum = map_shared(4096);
    let producers: Vec<i32> = (1..=3u64)
        .map(|n| {
            fork(|| {
                for _ in 0..100 {
                    send(fd, &n.to_ne_bytes(), n as u32);
                }
                0
            })
        })
        .collect();
    let consumers: Vec<i32> = (0..2)
        .map(|_| {
            fork(|| {
                loop {
                    let mut buf = [0u8; 8];
                    ok!(SYS_mq_timedreceive, fd, &mut buf[..], 8, 0, 0);
                    match u64::from_ne_bytes(buf) {
                        99 => return 0,
                        n => word(sum).fetch_add(n as u32, std::sync::atomic::Ordering::SeqCst),
                    };
                }
            })
        })
        .collect();
    for child in producers {
        assert_eq!(wait(child), 0);
    }
    for _ in &consumers {
        send(fd, &99u64.to_ne_bytes(), 0);
    }
    for child in consumers {
        assert_eq!(wait(child), 0);
    }
    assert_eq!(word(sum).load(std::sync::atomic::Ordering::SeqCst), 100 * (1 + 2 + 3));
}
