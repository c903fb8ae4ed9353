//! poll, select, epoll, eventfd, signalfd, inotify.

use crate::helpers::*;
use crate::sys::BAD;

cases![
    eventfd_counts,
    eventfd_semaphore,
    eventfd_limits,
    eventfd_errors,
    eventfd_blocks,
    poll_events,
    poll_forms,
    poll_errors,
    poll_many,
    ppoll_mask,
    select_forms,
    select_errors,
    pselect_mask,
    epoll_basics,
    epoll_edge,
    epoll_oneshot,
    epoll_errors,
    epoll_nesting,
    epoll_closed_descriptor,
    epoll_dup_keeps,
    epoll_many_ready,
    epoll_pwait_forms,
    epoll_from_threads,
    epoll_regular_file,
    signalfd_reads,
    signalfd_errors,
    inotify_events,
    inotify_errors,
    bytes_to_read,
];

fn eventfd(n: u32, flags: i32) -> i32 {
    ok!(SYS_eventfd2, n, flags) as i32
}

fn value(fd: i32) -> u64 {
    u64::from_ne_bytes(read(fd, 8).try_into().unwrap())
}

fn eventfd_counts() {
    let fd = eventfd(3, EFD_NONBLOCK);
    assert_eq!(value(fd), 3);
    err!(EAGAIN: SYS_read, fd, &mut [0u64], 8);
    write(fd, &5u64.to_ne_bytes());
    write(fd, &6u64.to_ne_bytes());
    assert_eq!(value(fd), 11);
    assert_eq!(poll(fd, POLLIN | POLLOUT, 0), POLLOUT);
}

fn eventfd_semaphore() {
    let fd = eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK);
    assert_eq!((value(fd), value(fd)), (1, 1));
    err!(EAGAIN: SYS_read, fd, &mut [0u64], 8);
}

fn eventfd_limits() {
    let fd = eventfd(0, EFD_NONBLOCK);
    err!(EINVAL: SYS_write, fd, &u64::MAX, 8);
    write(fd, &(u64::MAX - 1).to_ne_bytes());
    assert_eq!(poll(fd, POLLIN | POLLOUT, 0), POLLIN);
    err!(EAGAIN: SYS_write, fd, &1u64, 8);
    write(fd, &0u64.to_ne_bytes());
    assert_eq!(value(fd), u64::MAX - 1);
}

fn eventfd_errors() {
    err!(EINVAL: SYS_eventfd2, 0, 0x100);
    let fd = eventfd(1, 0);
    err!(EINVAL: SYS_read, fd, &mut [0u64], 7);
    err!(EINVAL: SYS_write, fd, &1u64, 4);
    err!(EFAULT: SYS_write, fd, BAD, 8);
    // More than eight bytes to read: eight are used.
    assert_eq!(ok!(SYS_read, fd, &mut [0u64; 2], 16), 8);
    err!(ESPIPE: SYS_pread64, fd, &mut [0u64], 8, 0);
    assert_eq!(ok!(SYS_eventfd, 0), fd as usize + 1);
}

fn eventfd_blocks() {
    let fd = eventfd(0, 0);
    let pid = fork(|| {
        nap(30);
        write(fd, &9u64.to_ne_bytes());
        0
    });
    assert_eq!(value(fd), 9);
    wait(pid);
    // And a writer that waits for room.
    write(fd, &(u64::MAX - 1).to_ne_bytes());
    let pid = fork(|| {
        write(fd, &1u64.to_ne_bytes());
        0
    });
    nap(20);
    assert_eq!(value(fd), u64::MAX - 1);
    wait(pid);
    assert_eq!(value(fd), 1);
}

fn poll_events() {
    let (r, w) = pipe(0);
    assert_eq!(poll(r, POLLIN, 0), 0);
    assert_eq!(poll(w, POLLOUT | POLLIN, 0), POLLOUT);
    write(w, b"x");
    assert_eq!(poll(r, POLLIN | POLLRDNORM, 0), POLLIN | POLLRDNORM);
    close(w);
    assert_eq!(poll(r, POLLIN, 0), POLLIN | POLLHUP);
    read(r, 1);
    assert_eq!(poll(r, POLLIN, 0), POLLHUP);
    let (r, w) = pipe(0);
    close(r);
    assert_eq!(poll(w, POLLOUT, 0), POLLOUT | POLLERR);
    assert_eq!(poll(w, 0, 0), POLLERR);
    let fd = temp(c"f", b"");
    assert_eq!(poll(fd, POLLIN | POLLOUT, 0), POLLIN | POLLOUT);
    assert_eq!(poll(999, POLLIN, 0), POLLNVAL);
    assert_eq!(poll(open(c"f", O_PATH, 0), POLLIN, 0), POLLNVAL);
    let (a, b) = socketpair(SOCK_STREAM);
    assert_eq!(poll(a, POLLIN | POLLOUT, 0), POLLOUT);
    close(b);
    println!("{:#x}", poll(a, POLLIN | POLLOUT | POLLRDHUP, 0));
}

fn poll_forms() {
    let (r, w) = pipe(0);
    let before = mono();
    assert_eq!(poll(r, POLLIN, 30), 0);
    assert!(mono() - before >= 30_000_000);
    // A negative descriptor is passed over.
    let mut p = [
        pollfd { fd: -1, events: POLLIN, revents: 77 },
        pollfd { fd: w, events: POLLOUT, revents: 0 },
        pollfd { fd: w, events: POLLIN, revents: 9 },
    ];
    assert_eq!(ok!(SYS_poll, &mut p, 3, -1), 1);
    assert_eq!((p[0].revents, p[1].revents, p[2].revents), (0, POLLOUT, 0));
    assert_eq!(ok!(SYS_poll, 0, 0, 10), 0);
    let pid = fork(|| {
        nap(30);
        write(w, b"x");
        0
    });
    assert_eq!(poll(r, POLLIN, -1), POLLIN);
    wait(pid);
}

fn poll_errors() {
    let mut p = pollfd { fd: 0, events: 0, revents: 0 };
    err!(EFAULT: SYS_poll, BAD, 1, 0);
    err!(EINVAL: SYS_poll, &mut p, -1i64, 0);
    err!(EINVAL: SYS_ppoll, &mut p, 1, &timespec { tv_sec: 0, tv_nsec: -1 }, 0, 8);
    err!(EINVAL: SYS_ppoll, &mut p, 1, 0, &0u64, 4);
    err!(EFAULT: SYS_ppoll, &mut p, 1, BAD, 0, 8);
    let lim = rlimit { rlim_cur: 5, rlim_max: 5 };
    ok!(SYS_setrlimit, RLIMIT_NOFILE, &lim);
    err!(EINVAL: SYS_poll, &mut [p; 6], 6, 0);
}

fn poll_many() {
    let mut pipes: Vec<(i32, i32)> = (0..100).map(|_| pipe(0)).collect();
    let mut p: Vec<pollfd> =
        pipes.iter().map(|x| pollfd { fd: x.0, events: POLLIN, revents: 0 }).collect();
    assert_eq!(ok!(SYS_poll, &mut p[..], 100, 0), 0);
    for i in [3, 50, 99] {
        write(pipes[i].1, b"x");
    }
    assert_eq!(ok!(SYS_poll, &mut p[..], 100, -1), 3);
    let ready: Vec<usize> = (0..100).filter(|i| p[*i].revents != 0).collect();
    assert_eq!(ready, [3, 50, 99]);
    pipes.clear();
}

fn ppoll_mask() {
    on(SIGUSR1, 0);
    sigmask(SIG_BLOCK, bit(SIGUSR1));
    ok!(SYS_kill, ok!(SYS_getpid), SIGUSR1);
    let (r, _w) = pipe(0);
    let mut p = pollfd { fd: r, events: POLLIN, revents: 0 };
    err!(EINTR: SYS_ppoll, &mut p, 1, &ms(5000), &0u64, 8);
    assert_eq!(count(SIGUSR1), 1);
    assert_eq!(sigmask(SIG_BLOCK, 0), bit(SIGUSR1));
    // The time left is written back.
    let mut t = ms(20);
    assert_eq!(ok!(SYS_ppoll, &mut p, 1, &mut t, 0, 8), 0);
    assert_eq!((t.tv_sec, t.tv_nsec), (0, 0));
}

fn set(fds: &[i32]) -> [u64; 16] {
    let mut s = [0; 16];
    for fd in fds {
        s[*fd as usize / 64] |= 1 << (fd % 64);
    }
    s
}

fn select_forms() {
    let (r, w) = pipe(0);
    let (mut rs, mut ws) = (set(&[r]), set(&[w]));
    let mut t = timeval { tv_sec: 0, tv_usec: 0 };
    assert_eq!(ok!(SYS_select, w + 1, &mut rs, &mut ws, 0, &mut t), 1);
    assert_eq!((rs, ws), (set(&[]), set(&[w])));
    write(w, b"x");
    let (mut rs, mut ws) = (set(&[r]), set(&[w]));
    assert_eq!(ok!(SYS_select, w + 1, &mut rs, &mut ws, 0, 0), 2);
    let before = mono();
    t.tv_usec = 20_000;
    assert_eq!(ok!(SYS_select, 0, 0, 0, 0, &mut t), 0);
    assert!(mono() - before >= 20_000_000 && t.tv_usec == 0);
    // What is beyond nfds is not looked at.
    let mut rs = set(&[r, 900]);
    assert_eq!(ok!(SYS_select, r + 1, &mut rs, 0, 0, 0), 1);
    close(w);
    read(r, 1);
    let mut rs = set(&[r]);
    assert_eq!(ok!(SYS_select, r + 1, &mut rs, 0, 0, 0), 1, "end of file is readable");
}

fn select_errors() {
    let mut rs = set(&[60]);
    err!(EBADF: SYS_select, 61, &mut rs, 0, 0, 0);
    err!(EINVAL: SYS_select, -1, &mut rs, 0, 0, 0);
    err!(EFAULT: SYS_select, 1, BAD, 0, 0, 0);
    err!(EINVAL: SYS_select, 0, 0, 0, 0, &timeval { tv_sec: -1, tv_usec: 0 });
    err!(EFAULT: SYS_select, 0, 0, 0, 0, BAD);
}

fn pselect_mask() {
    on(SIGUSR1, 0);
    sigmask(SIG_BLOCK, bit(SIGUSR1));
    ok!(SYS_kill, ok!(SYS_getpid), SIGUSR1);
    let m = 0u64;
    let arg = [&raw const m as usize, 8];
    err!(EINTR: SYS_pselect6, 0, 0, 0, 0, &ms(5000), &arg);
    assert_eq!((count(SIGUSR1), sigmask(SIG_BLOCK, 0)), (1, bit(SIGUSR1)));
    let bad = [&raw const m as usize, 4];
    err!(EINVAL: SYS_pselect6, 0, 0, 0, 0, &ms(0), &bad);
}

#[repr(C, packed)]
#[derive(Clone, Copy, Default)]
struct Event {
    events: u32,
    data: u64,
}

const IN: u32 = 1;
const OUT: u32 = 4;
const HUP: u32 = 0x10;
const ET: u32 = 1 << 31;
const ONESHOT: u32 = 1 << 30;
const EXCLUSIVE: u32 = 1 << 28;

fn epoll() -> i32 {
    ok!(SYS_epoll_create1, 0) as i32
}

fn add(ep: i32, fd: i32, events: u32) {
    ok!(SYS_epoll_ctl, ep, EPOLL_CTL_ADD, fd, &Event { events, data: fd as u64 });
}

/// The ready events, as (events, data).
#[track_caller]
fn ready(ep: i32, timeout: i32) -> Vec<(u32, u64)> {
    let mut e = [Event::default(); 16];
    let n = ok!(SYS_epoll_wait, ep, &mut e, 16, timeout);
    e[..n].iter().map(|e| (e.events, e.data)).collect()
}

fn epoll_basics() {
    let ep = epoll();
    let (r, w) = pipe(0);
    add(ep, r, IN);
    assert_eq!(ready(ep, 0), []);
    write(w, b"x");
    assert_eq!(ready(ep, 0), [(IN, r as u64)]);
    assert_eq!(ready(ep, 0), [(IN, r as u64)], "level triggered");
    ok!(SYS_epoll_ctl, ep, EPOLL_CTL_MOD, r, &Event { events: 0, data: 5 });
    assert_eq!(ready(ep, 0), []);
    close(w);
    assert_eq!(ready(ep, 0), [(HUP, 5)]);
    ok!(SYS_epoll_ctl, ep, EPOLL_CTL_DEL, r, 0);
    assert_eq!(ready(ep, 10), []);
    assert_eq!(poll(ep, POLLIN, 0), 0);
}

fn epoll_edge() {
    let ep = epoll();
    let (r, w) = pipe(0);
    add(ep, r, IN | ET);
    write(w, b"ab");
    assert_eq!(ready(ep, 0).len(), 1);
    assert_eq!(ready(ep, 0), []);
    read(r, 1);
    assert_eq!(ready(ep, 0), [], "reading is no edge");
    write(w, b"c");
    assert_eq!(ready(ep, 0).len(), 1);
    // Modifying looks anew.
    ok!(SYS_epoll_ctl, ep, EPOLL_CTL_MOD, r, &Event { events: IN | ET, data: 1 });
    assert_eq!(ready(ep, 0), [(IN, 1)]);
    add(ep, w, OUT | ET);
    assert_eq!(ready(ep, 0), [(OUT, w as u64)]);
    assert_eq!(ready(ep, 0), []);
}

fn epoll_oneshot() {
    let ep = epoll();
    let (r, w) = pipe(0);
    add(ep, r, IN | ONESHOT);
    write(w, b"x");
    assert_eq!(ready(ep, 0).len(), 1);
    write(w, b"y");
    assert_eq!(ready(ep, 0), []);
    ok!(SYS_epoll_ctl, ep, EPOLL_CTL_MOD, r, &Event { events: IN | ONESHOT, data: 2 });
    assert_eq!(ready(ep, 0), [(IN, 2)]);
}

fn epoll_errors() {
    let ep = epoll();
    let (r, _w) = pipe(0);
    let e = Event { events: IN, data: 0 };
    err!(EINVAL: SYS_epoll_create, 0);
    err!(EINVAL: SYS_epoll_create1, 1);
    ok!(SYS_epoll_create, 1);
    err!(EBADF: SYS_epoll_ctl, 999, EPOLL_CTL_ADD, r, &e);
    err!(EBADF: SYS_epoll_ctl, ep, EPOLL_CTL_ADD, 999, &e);
    err!(EINVAL: SYS_epoll_ctl, r, EPOLL_CTL_ADD, ep, &e);
    err!(EINVAL: SYS_epoll_ctl, ep, EPOLL_CTL_ADD, ep, &e);
    err!(EPERM: SYS_epoll_ctl, ep, EPOLL_CTL_ADD, open(c".", O_RDONLY, 0), &e);
    err!(EFAULT: SYS_epoll_ctl, ep, EPOLL_CTL_ADD, r, BAD);
    err!(EINVAL: SYS_epoll_ctl, ep, 9, r, &e);
    add(ep, r, IN);
    err!(EEXIST: SYS_epoll_ctl, ep, EPOLL_CTL_ADD, r, &e);
    err!(EINVAL: SYS_epoll_ctl, ep, EPOLL_CTL_MOD, r, &Event { events: IN | EXCLUSIVE, data: 0 });
    ok!(SYS_epoll_ctl, ep, EPOLL_CTL_DEL, r, 0);
    err!(ENOENT: SYS_epoll_ctl, ep, EPOLL_CTL_DEL, r, 0);
    err!(ENOENT: SYS_epoll_ctl, ep, EPOLL_CTL_MOD, r, &e);
    err!(EINVAL: SYS_epoll_wait, ep, &mut [e; 4], 0, 0);
    err!(EINVAL: SYS_epoll_wait, ep, &mut [e; 4], -1, 0);
    err!(EINVAL: SYS_epoll_wait, r, &mut [e; 4], 1, 0);
    err!(EBADF: SYS_epoll_wait, 999, &mut [e; 4], 1, 0);
    err!(EINVAL: SYS_read, ep, &mut [0u8; 8], 8);
}

fn epoll_nesting() {
    let (a, b) = (epoll(), epoll());
    let (r, w) = pipe(0);
    add(b, r, IN);
    add(a, b, IN);
    assert_eq!(ready(a, 0), []);
    write(w, b"x");
    assert_eq!(poll(b, POLLIN, 0), POLLIN);
    assert_eq!(ready(a, 0), [(IN, b as u64)]);
    read(r, 1);
    assert_eq!(ready(a, 0), []);
    err!(ELOOP: SYS_epoll_ctl, b, EPOLL_CTL_ADD, a, &Event { events: IN, data: 0 });
}

fn epoll_closed_descriptor() {
    let ep = epoll();
    let (r, w) = pipe(0);
    add(ep, r, IN);
    write(w, b"x");
    close(r);
    assert_eq!(ready(ep, 0), []);
    // The number is free for another file.
    let fd = eventfd(1, 0);
    assert_eq!(fd, r);
    add(ep, fd, IN);
    assert_eq!(ready(ep, 0).len(), 1);
}

fn epoll_dup_keeps() {
    let ep = epoll();
    let (r, w) = pipe(0);
    add(ep, r, IN);
    let d = ok!(SYS_dup, r) as i32;
    add(ep, d, IN);
    close(r);
    write(w, b"x");
    let mut all = ready(ep, 0);
    all.sort();
    // The description lives, so the closed number is still reported.
    assert_eq!(all, [(IN, r as u64), (IN, d as u64)]);
}

fn epoll_many_ready() {
    let ep = epoll();
    let fds: Vec<i32> = (0..20).map(|_| eventfd(1, 0)).collect();
    for fd in &fds {
        add(ep, *fd, IN);
    }
    // Each call hands out others first, so that none starves.
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..5 {
        let mut e = [Event::default(); 4];
        let n = ok!(SYS_epoll_wait, ep, &mut e, 4, 0);
        assert_eq!(n, 4);
        for x in e {
            seen.insert(x.data);
        }
    }
    assert_eq!(seen.len(), 20);
}

fn epoll_pwait_forms() {
    let ep = epoll();
    on(SIGUSR1, 0);
    sigmask(SIG_BLOCK, bit(SIGUSR1));
    ok!(SYS_kill, ok!(SYS_getpid), SIGUSR1);
    let mut e = [Event::default(); 4];
    err!(EINTR: SYS_epoll_pwait, ep, &mut e, 4, 5000, &0u64, 8);
    assert_eq!(count(SIGUSR1), 1);
    assert_eq!(sigmask(SIG_BLOCK, 0), bit(SIGUSR1));
    err!(EINVAL: SYS_epoll_pwait, ep, &mut e, 4, 0, &0u64, 4);
    assert_eq!(ok!(SYS_epoll_pwait2, ep, &mut e, 4, &ms(10), 0, 8), 0);
    err!(EINVAL: SYS_epoll_pwait2, ep, &mut e, 4, &timespec { tv_sec: 0, tv_nsec: -1 }, 0, 8);
    let before = mono();
    assert_eq!(ready(ep, 30), []);
    assert!(mono() - before >= 29_000_000);
}

fn epoll_from_threads() {
    let ep = epoll();
    let fd = eventfd(0, EFD_NONBLOCK);
    add(ep, fd, IN);
    let t = std::thread::spawn(move || ready(ep, 5000).len());
    nap(30);
    write(fd, &1u64.to_ne_bytes());
    assert_eq!(t.join().unwrap(), 1);
    // An entry added while another thread waits wakes it too.
    let ep2 = epoll();
    let t = std::thread::spawn(move || ready(ep2, 5000).len());
    nap(30);
    add(ep2, fd, IN);
    assert_eq!(t.join().unwrap(), 1);
}

fn epoll_regular_file() {
    let ep = epoll();
    let fd = temp(c"f", b"");
    err!(EPERM: SYS_epoll_ctl, ep, EPOLL_CTL_ADD, fd, &Event { events: IN, data: 0 });
    let tty_like = open(c"/dev/null", O_RDWR, 0);
    err!(EPERM: SYS_epoll_ctl, ep, EPOLL_CTL_ADD, tty_like, &Event { events: IN, data: 0 });
}

fn signalfd_reads() {
    sigmask(SIG_BLOCK, bit(SIGUSR1) | bit(SIGUSR2));
    let fd = ok!(SYS_signalfd4, -1, &bit(SIGUSR1), 8, SFD_NONBLOCK) as i32;
    let mut b = [0u32; 64];
    err!(EAGAIN: SYS_read, fd, &mut b, 256);
    ok!(SYS_kill, ok!(SYS_getpid), SIGUSR2);
    assert_eq!(poll(fd, POLLIN, 0), 0);
    ok!(SYS_kill, ok!(SYS_getpid), SIGUSR1);
    assert_eq!(poll(fd, POLLIN, 0), POLLIN);
    assert_eq!(ok!(SYS_read, fd, &mut b, 256), 128);
    assert_eq!((b[0], b[2], b[3]), (SIGUSR1 as u32, 0, ok!(SYS_getpid) as u32));
    // The mask can be changed, and more than one read at once.
    ok!(SYS_signalfd4, fd, &(bit(SIGUSR1) | bit(SIGUSR2)), 8, 0);
    ok!(SYS_kill, ok!(SYS_getpid), SIGUSR1);
    assert_eq!(ok!(SYS_read, fd, &mut b, 256), 256);
    assert_eq!((b[0], b[32]), (SIGUSR1 as u32, SIGUSR2 as u32));
}

fn signalfd_errors() {
    err!(EINVAL: SYS_signalfd4, -1, &0u64, 4, 0);
    err!(EINVAL: SYS_signalfd4, -1, &0u64, 8, 1);
    err!(EFAULT: SYS_signalfd4, -1, BAD, 8, 0);
    err!(EBADF: SYS_signalfd4, 999, &0u64, 8, 0);
    err!(EINVAL: SYS_signalfd4, 0, &0u64, 8, 0);
    let fd = ok!(SYS_signalfd4, -1, &bit(SIGUSR1), 8, 0) as i32;
    err!(EINVAL: SYS_read, fd, &mut [0u8; 127], 127);
    err!(EINVAL: SYS_write, fd, &[0u8; 128], 128);
}

/// The waiting events of an inotify descriptor: mask and name.
fn inotify_read(fd: i32) -> Vec<(u32, String)> {
    let b = read(fd, 4096);
    let (mut at, mut all) = (0, Vec::new());
    let u = |at: usize| u32::from_ne_bytes(b[at..at + 4].try_into().unwrap());
    while at < b.len() {
        let len = u(at + 12) as usize;
        let name = String::from_utf8_lossy(&b[at + 16..at + 16 + len]);
        all.push((u(at + 4), name.trim_end_matches('\0').to_string()));
        at += 16 + len;
    }
    all
}

fn inotify_events() {
    let fd = match sys!(SYS_inotify_init1, IN_NONBLOCK) {
        Err(ENOSYS) => skip!("no inotify"),
        r => r.unwrap() as i32,
    };
    let wd = ok!(SYS_inotify_add_watch, fd, c".", IN_ALL_EVENTS);
    file(c"f", b"x");
    ok!(SYS_rename, c"f", c"g");
    ok!(SYS_mkdir, c"d", 0o755);
    ok!(SYS_chmod, c"g", 0o600);
    ok!(SYS_unlink, c"g");
    ok!(SYS_rmdir, c"d");
    for (mask, name) in inotify_read(fd) {
        println!("{mask:#x} {name}");
    }
    err!(EAGAIN: SYS_read, fd, &mut [0u8; 64], 64);
    ok!(SYS_inotify_rm_watch, fd, wd);
    assert_eq!(inotify_read(fd), [(IN_IGNORED, String::new())]);
}

fn bytes_to_read() {
    let mut n = 77i32;
    let fd = ok!(SYS_inotify_init1, IN_NONBLOCK) as i32;
    ok!(SYS_ioctl, fd, FIONREAD, &mut n);
    assert_eq!(n, 0);
    ok!(SYS_inotify_add_watch, fd, c".", IN_CREATE);
    file(c"f", b"");
    file(c"a name of more than sixteen bytes", b"");
    ok!(SYS_ioctl, fd, FIONREAD, &mut n);
    assert_eq!(n as usize, read(fd, 4096).len());
    err!(ENOTTY: SYS_ioctl, ok!(SYS_eventfd2, 5, 0), FIONREAD, &mut n);
    err!(ENOTTY: SYS_ioctl, fd, 0x5460, &mut [0u64; 1]);
}

fn inotify_errors() {
    let fd = match sys!(SYS_inotify_init1, 0) {
        Err(ENOSYS) => skip!("no inotify"),
        r => r.unwrap() as i32,
    };
    err!(EINVAL: SYS_inotify_init1, 1);
    err!(EINVAL: SYS_inotify_add_watch, fd, c".", 0);
    err!(ENOENT: SYS_inotify_add_watch, fd, c"no", IN_ALL_EVENTS);
    err!(EBADF: SYS_inotify_add_watch, 999, c".", IN_ALL_EVENTS);
    err!(EINVAL: SYS_inotify_add_watch, 0, c".", IN_ALL_EVENTS);
    err!(EINVAL: SYS_inotify_rm_watch, fd, 77);
    ok!(SYS_inotify_add_watch, fd, c".", IN_CREATE);
    file(c"f", b"");
    err!(EINVAL: SYS_read, fd, &mut [0u8; 8], 8);
}
