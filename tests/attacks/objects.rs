//! Takes all there is of each kind of object that the kernel keeps for processes: the error is
//! Linux's, the others are served on, and when the attacker is gone there is as much as before.

use super::health;
use super::share::{Chance, PATIENCE};
use super::supervisor::{Attack, Attacker, Ends};

const fn twice(name: &'static str, body: fn(&Attacker, u64)) -> Attack {
    Attack { name, ends: Ends::Well, items: || 2, fresh: true, limit: 30_000, body }
}

pub const ATTACKS: &[Attack] = &[
    twice("fds", fds),
    Attack { items: || 1, ..twice("epoll_watches", epoll_watches) },
    twice("epoll_nests", epoll_nests),
    Attack { items: || 1, ..twice("epoll_layers", epoll_layers) },
    twice("inotify_instances", inotify_instances),
    twice("inotify_watches", inotify_watches),
    twice("timers", timers),
    twice("queued_signals", queued_signals),
    twice("sockets", sockets),
    twice("socket_buffers", socket_buffers),
    twice("backlog", backlog),
    twice("rights_in_flight", rights_in_flight),
    twice("rights_in_circles", rights_in_circles),
    twice("pipe_buffers", pipe_buffers),
    twice("futexes", futexes),
    twice("locks", locks),
    twice("ptys", ptys),
    twice("missing_names", missing_names),
    twice("deep_directories", deep_directories),
    twice("many_files", many_files),
    twice("extended_attributes", extended_attributes),
    twice("arguments", arguments),
    twice("locked_memory", locked_memory),
];

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Does it until it fails, at most `most` times; the error must be one of these. Returns how often
/// it was done.
fn until_full(
    attacker: &Attacker,
    what: &str,
    most: usize,
    errors: &[i32],
    mut step: impl FnMut(usize) -> bool,
) -> usize {
    for done in 0..most {
        if !step(done) {
            let errno = errno();
            if !errors.contains(&errno) {
                attacker.share.fail(&format!("{what} {done}: errno {errno}"));
            }
            return done;
        }
    }
    attacker.share.fail(&format!("there is no limit on {what}"));
    most
}

fn expect(attacker: &Attacker, holds: bool, what: &str) {
    if !holds {
        attacker.share.fail(&format!("{what}, errno {}", errno()));
    }
}

fn healthy(attacker: &Attacker) {
    if let Err(what) = health::check() {
        attacker.share.fail(&what);
    }
}

fn limit_fds(most: u64) {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: reads the limit.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
}

fn fds(attacker: &Attacker, _: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: plain calls with valid pointers.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_max = limit.rlim_max.min(20_000);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        let most = limit.rlim_max as usize;
        let first = libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY);
        expect(attacker, first >= 0, "open");
        let mut last = first;
        until_full(attacker, "files", most + 1, &[libc::EMFILE], |_| {
            let fd = libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY);
            last = last.max(fd);
            fd >= 0
        });
        expect(attacker, last as usize == most - 1, "the last descriptor is not below the limit");
        expect(attacker, libc::dup(0) < 0 && errno() == libc::EMFILE, "dup");
        expect(attacker, libc::socket(1, 1, 0) < 0 && errno() == libc::EMFILE, "socket");
        expect(
            attacker,
            libc::fcntl(0, libc::F_DUPFD, most) < 0 && errno() == libc::EINVAL,
            "F_DUPFD beyond the limit",
        );
        for fd in first..=last {
            libc::close(fd);
        }
    }
    healthy(attacker);
}

fn epoll_watches(attacker: &Attacker, _: u64) {
    limit_fds(4096);
    // SAFETY: plain calls with valid pointers.
    unsafe {
        let event = libc::eventfd(0, 0);
        let mut copies = vec![event];
        while copies.len() < 3000 {
            copies.push(libc::dup(event));
        }
        // Each descriptor in each instance is a watch; together below the user's limit, so that
        // only the sum counts.
        let mut made = 0;
        for _ in 0..100 {
            let epoll = libc::epoll_create1(0);
            expect(attacker, epoll >= 0, "epoll_create1");
            for &fd in &copies {
                let mut what = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
                if libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &mut what) != 0 {
                    expect(attacker, errno() == libc::ENOSPC, "epoll_ctl");
                    expect(attacker, made > 50_000, "few watches");
                    // A wake-up of all of them.
                    libc::eventfd_write(event, 1);
                    let mut ready = [what; 8];
                    let got = libc::epoll_wait(epoll, ready.as_mut_ptr(), 8, 1000);
                    expect(attacker, got > 0, "epoll_wait");
                    return healthy(attacker);
                }
                made += 1;
            }
        }
    }
    attacker.share.fail("there is no limit on watches");
}

/// Instances in instances: too deep is EINVAL, a circle ELOOP.
fn epoll_nests(attacker: &Attacker, _: u64) {
    // SAFETY: plain calls with valid pointers.
    unsafe {
        let first = libc::epoll_create1(0);
        let mut inner = first;
        let mut what = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
        until_full(attacker, "nested epolls", 100, &[libc::EINVAL, libc::ELOOP], |_| {
            let outer = libc::epoll_create1(0);
            let added = libc::epoll_ctl(outer, libc::EPOLL_CTL_ADD, inner, &mut what) == 0;
            if added {
                inner = outer;
            }
            added
        });
        let circle = libc::epoll_ctl(first, libc::EPOLL_CTL_ADD, inner, &mut what);
        expect(attacker, circle != 0 && errno() == libc::ELOOP, "a circle of epolls");
        // Wide: a thousand watch the same one.
        limit_fds(4096);
        let event = libc::eventfd(0, 0);
        let middle = libc::epoll_create1(0);
        libc::epoll_ctl(middle, libc::EPOLL_CTL_ADD, event, &mut what);
        let mut outers = Vec::new();
        for _ in 0..1000 {
            let outer = libc::epoll_create1(0);
            if libc::epoll_ctl(outer, libc::EPOLL_CTL_ADD, middle, &mut what) != 0 {
                expect(attacker, errno() == libc::EINVAL, "a wide nest");
                break;
            }
            outers.push(outer);
        }
        expect(attacker, outers.len() == 500, "another number of ways for an event");
        libc::eventfd_write(event, 1);
        for outer in outers {
            let mut ready = [what; 1];
            let got = libc::epoll_wait(outer, ready.as_mut_ptr(), 1, 1000);
            expect(attacker, got == 1, "a nested wake-up");
        }
    }
}

/// Layers of instances, each of which watches all of the layer below: the ways multiply.
fn epoll_layers(attacker: &Attacker, _: u64) {
    limit_fds(2048);
    // SAFETY: plain calls with valid pointers.
    unsafe {
        let mut what = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
        let event = libc::eventfd(0, 0);
        let mut layer = vec![event];
        let mut refused = 0;
        for _ in 0..5 {
            let next: Vec<i32> = (0..60).map(|_| libc::epoll_create1(0)).collect();
            for &outer in &next {
                for &inner in &layer {
                    if libc::epoll_ctl(outer, libc::EPOLL_CTL_ADD, inner, &mut what) != 0 {
                        let errors = [libc::EINVAL, libc::ELOOP];
                        expect(attacker, errors.contains(&errno()), "a layer");
                        refused += 1;
                    }
                }
            }
            layer = next;
        }
        expect(attacker, refused > 3_000, "most layers' ways are let through");
        libc::eventfd_write(event, 1);
        let mut ready = [what; 1];
        for &top in &layer {
            libc::epoll_wait(top, ready.as_mut_ptr(), 1, 0);
        }
    }
    healthy(attacker);
}

fn inotify_instances(attacker: &Attacker, _: u64) {
    limit_fds(4096);
    // SAFETY: plain calls.
    let made = until_full(attacker, "inotify instances", 4090, &[libc::EMFILE], |_| unsafe {
        libc::inotify_init1(0) >= 0
    });
    expect(attacker, made >= 8, "few inotify instances");
}

fn inotify_watches(attacker: &Attacker, item: u64) {
    let base = format!("/tmp/watched-{item}");
    // SAFETY: plain calls with strings that end.
    unsafe {
        let inotify = libc::inotify_init1(libc::IN_NONBLOCK);
        expect(attacker, std::fs::create_dir(&base).is_ok(), "mkdir");
        for number in 0..1500 {
            let path = format!("{base}/{number}\0");
            std::fs::write(&path[..path.len() - 1], b"").ok();
            let watch = libc::inotify_add_watch(inotify, path.as_ptr().cast(), libc::IN_ALL_EVENTS);
            if watch < 0 {
                expect(attacker, errno() == libc::ENOSPC, "inotify_add_watch");
                break;
            }
        }
        // More events than are kept: the rest is one overflow event.
        for _ in 0..20_000 / 2 {
            libc::close(libc::open(format!("{base}/0\0").as_ptr().cast(), libc::O_RDONLY));
            libc::close(libc::open(format!("{base}/1\0").as_ptr().cast(), libc::O_RDONLY));
        }
        let mut buffer = vec![0u8; 64 << 10];
        let (mut overflowed, mut events) = (false, 0);
        loop {
            let got = libc::read(inotify, buffer.as_mut_ptr().cast(), buffer.len());
            if got <= 0 {
                break;
            }
            for event in buffer[..got as usize].chunks_exact(16) {
                let mask = u32::from_ne_bytes([event[4], event[5], event[6], event[7]]);
                overflowed |= mask & libc::IN_Q_OVERFLOW != 0;
                events += 1;
            }
        }
        expect(attacker, overflowed, "no overflow event");
        expect(attacker, events <= 16_385, "too many events");
    }
    std::fs::remove_dir_all(&base).ok();
    healthy(attacker);
}

fn timers(attacker: &Attacker, _: u64) {
    // SAFETY: plain calls with valid pointers.
    unsafe {
        let limit = libc::rlimit { rlim_cur: 500, rlim_max: 500 };
        libc::setrlimit(libc::RLIMIT_SIGPENDING, &limit);
        libc::signal(libc::SIGALRM, libc::SIG_IGN);
        let made = until_full(attacker, "timers", 5000, &[libc::EAGAIN], |_| {
            let mut timer: libc::timer_t = std::mem::zeroed();
            if libc::timer_create(libc::CLOCK_MONOTONIC, std::ptr::null_mut(), &mut timer) != 0 {
                return false;
            }
            // All of them as often as can be.
            let every = libc::timespec { tv_sec: 0, tv_nsec: 1 };
            let spec = libc::itimerspec { it_interval: every, it_value: every };
            libc::timer_settime(timer, 0, &spec, std::ptr::null_mut()) == 0
        });
        expect(attacker, made > 100 && made <= 500, "another number of timers");
        limit_fds(2048);
        until_full(attacker, "timerfds", 2048, &[libc::EMFILE], |_| {
            let fd = libc::timerfd_create(libc::CLOCK_MONOTONIC, 0);
            let every = libc::timespec { tv_sec: 0, tv_nsec: 1 };
            let spec = libc::itimerspec { it_interval: every, it_value: every };
            fd >= 0 && libc::timerfd_settime(fd, 0, &spec, std::ptr::null_mut()) == 0
        });
    }
    super::share::doze(100);
    let before = attacker.share.pongs();
    let start = super::share::now();
    while attacker.share.pongs().wrapping_sub(before) < 3 {
        if super::share::now() - start > PATIENCE {
            return attacker.share.fail("the bystander gets no turn");
        }
        super::share::doze(5);
    }
}

fn queued_signals(attacker: &Attacker, _: u64) {
    // SAFETY: plain calls with valid pointers.
    unsafe {
        let limit = libc::rlimit { rlim_cur: 2000, rlim_max: 2000 };
        libc::setrlimit(libc::RLIMIT_SIGPENDING, &limit);
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&mut set, libc::SIGRTMIN());
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        let value = libc::sigval { sival_ptr: std::ptr::null_mut() };
        let pid = std::process::id() as i32;
        let queued = until_full(attacker, "queued signals", 5000, &[libc::EAGAIN], |_| {
            libc::sigqueue(pid, libc::SIGRTMIN(), value) == 0
        });
        expect(attacker, queued == 2000, "another number of signals was queued");
        // kill(2) gets through, and so does SIGKILL, which the supervisor relies on.
        expect(attacker, libc::kill(pid, 0) == 0, "kill");
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let mut taken = 0;
        while libc::sigtimedwait(&set, std::ptr::null_mut(), &zero) > 0 {
            taken += 1;
        }
        expect(attacker, taken == queued, "not as many signals came");
    }
}

fn sockets(attacker: &Attacker, _: u64) {
    limit_fds(4000);
    let name = |number: usize| {
        // SAFETY: zero is valid.
        let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
        address.sun_family = libc::AF_UNIX as u16;
        for (to, from) in address.sun_path[1..].iter_mut().zip(format!("flood-{number}").bytes()) {
            *to = from as libc::c_char;
        }
        address
    };
    // SAFETY: plain calls with valid pointers.
    let made = until_full(attacker, "sockets", 4000, &[libc::EMFILE], |number| unsafe {
        let fd = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0);
        if fd < 0 {
            return false;
        }
        let address = name(number);
        let len = size_of::<libc::sockaddr_un>() as u32;
        if libc::bind(fd, (&raw const address).cast(), len) != 0 || libc::listen(fd, 4096) != 0 {
            attacker.share.fail(&format!("bind or listen: errno {}", errno()));
        }
        true
    });
    expect(attacker, made > 3900, "few sockets");
}

/// Fills the buffers of many pairs; what is in them is bounded and is given back.
fn socket_buffers(attacker: &Attacker, _: u64) {
    limit_fds(1000);
    let block = vec![7u8; 64 << 10];
    // SAFETY: plain calls with valid pointers.
    unsafe {
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET] {
            for _ in 0..40 {
                let mut ends = [0; 2];
                let kind = kind | libc::SOCK_NONBLOCK;
                expect(attacker, libc::socketpair(1, kind, 0, ends.as_mut_ptr()) == 0, "pair");
                let huge: i32 = i32::MAX;
                for option in [libc::SO_SNDBUF, libc::SO_RCVBUF] {
                    let value = (&raw const huge).cast();
                    libc::setsockopt(ends[0], libc::SOL_SOCKET, option, value, 4);
                    libc::setsockopt(ends[1], libc::SOL_SOCKET, option, value, 4);
                }
                until_full(attacker, "socket bytes", 1000, &[libc::EAGAIN, libc::ENOBUFS], |_| {
                    libc::send(ends[0], block.as_ptr().cast(), block.len(), 0) > 0
                });
            }
        }
    }
    healthy(attacker);
}

/// Connections that nobody accepts.
fn backlog(attacker: &Attacker, item: u64) {
    limit_fds(8000);
    let path = format!("/tmp/backlog-{item}");
    // SAFETY: plain calls with valid pointers.
    unsafe {
        let mut address: libc::sockaddr_un = std::mem::zeroed();
        address.sun_family = libc::AF_UNIX as u16;
        for (to, from) in address.sun_path.iter_mut().zip(path.bytes()) {
            *to = from as libc::c_char;
        }
        let (at, len) = ((&raw const address).cast(), size_of::<libc::sockaddr_un>() as u32);
        let server = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0);
        expect(attacker, libc::bind(server, at, len) == 0, "bind");
        expect(attacker, libc::listen(server, i32::MAX) == 0, "listen");
        let made = until_full(attacker, "waiting connections", 7000, &[libc::EAGAIN], |_| {
            let fd = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0);
            libc::connect(fd, at, len) == 0
        });
        // somaxconn, and one more.
        expect(attacker, made <= 4097, "too many waiting connections");
        libc::unlink(address.sun_path.as_ptr());
    }
}

/// Sends descriptor 0 along with a byte.
fn send_fds(socket: i32, fds: &[i32]) -> bool {
    let mut byte = 0u8;
    let mut piece = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let mut control = [0u64; 256];
    // SAFETY: the message's parts are valid, the control buffer holds 253 descriptors.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        (message.msg_iov, message.msg_iovlen) = (&raw mut piece, 1);
        let bytes = size_of_val(fds) as u32;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(bytes) as usize;
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(bytes) as usize;
        std::ptr::copy_nonoverlapping(
            fds.as_ptr().cast::<u8>(),
            libc::CMSG_DATA(header),
            bytes as usize,
        );
        libc::sendmsg(socket, &message, libc::MSG_DONTWAIT) == 1
    }
}

/// Descriptors that are nowhere but in messages.
fn rights_in_flight(attacker: &Attacker, _: u64) {
    limit_fds(300);
    let fds = [0; 250];
    let mut made = 0;
    'all: for _ in 0..100 {
        let mut ends = [0; 2];
        // SAFETY: writes the two numbers.
        let pair = unsafe { libc::socketpair(1, libc::SOCK_DGRAM, 0, ends.as_mut_ptr()) };
        expect(attacker, pair == 0, "pair");
        while send_fds(ends[0], &fds) {
            made += fds.len();
        }
        match errno() {
            libc::EAGAIN => {}
            libc::ETOOMANYREFS => break 'all,
            other => return attacker.share.fail(&format!("sendmsg: errno {other}")),
        }
    }
    expect(attacker, errno() == libc::ETOOMANYREFS, "there is no limit on descriptors in flight");
    // max_files_per_process, which is the soft limit, is let through before it is looked at.
    expect(attacker, made <= 1000, "more descriptors in flight than the limit");
}

/// Sockets that hold each other in their queues and are closed: garbage that must be collected.
fn rights_in_circles(attacker: &Attacker, _: u64) {
    for round in 0..3000 {
        let mut ends = [0; 2];
        // SAFETY: writes the two numbers, closes them again.
        unsafe {
            if libc::socketpair(1, libc::SOCK_DGRAM, 0, ends.as_mut_ptr()) != 0 {
                return attacker.share.fail(&format!("pair {round}: errno {}", errno()));
            }
            if !send_fds(ends[0], &ends) || !send_fds(ends[1], &ends) {
                return attacker.share.fail(&format!("circle {round}: errno {}", errno()));
            }
            libc::close(ends[0]);
            libc::close(ends[1]);
        }
    }
    healthy(attacker);
}

fn pipe_buffers(attacker: &Attacker, _: u64) {
    limit_fds(4000);
    let block = vec![7u8; 1 << 20];
    let mut pipes = Vec::new();
    // SAFETY: plain calls with valid pointers.
    unsafe {
        // The first ones may become large; then the user has had its pages.
        until_full(attacker, "large pipes", 1000, &[libc::EPERM], |_| {
            let mut ends = [0; 2];
            expect(attacker, libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK) == 0, "pipe");
            pipes.push(ends);
            libc::fcntl(ends[1], libc::F_SETPIPE_SZ, 1 << 20) > 0
        });
        // From there on pipes still work, with a page or two.
        for _ in 0..500 {
            let mut ends = [0; 2];
            expect(attacker, libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK) == 0, "a pipe more");
            pipes.push(ends);
        }
        let mut total = 0;
        for ends in &pipes {
            loop {
                let wrote = libc::write(ends[1], block.as_ptr().cast(), block.len());
                if wrote < 0 {
                    break;
                }
                total += wrote;
            }
            expect(attacker, errno() == libc::EAGAIN, "write");
        }
        expect(attacker, total <= (16384 + 1100) * 4096, "more in pipes than their limit");
        let wrong = libc::fcntl(pipes[0][1], libc::F_SETPIPE_SZ, 2 << 20);
        expect(attacker, wrong < 0 && errno() == libc::EPERM, "a pipe of 2 MiB");
    }
    healthy(attacker);
}

/// Many waiters on many words, and a wake-up of them all.
fn futexes(attacker: &Attacker, _: u64) {
    const THREADS: usize = 60;
    // SAFETY: an anonymous shared mapping, unmapped by the end.
    let words = unsafe {
        libc::mmap(std::ptr::null_mut(), 1 << 20, 3, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0)
    } as usize;
    let waiters: Vec<_> = (0..THREADS)
        .map(|number| {
            std::thread::spawn(move || {
                // struct futex_waitv: value, address, flags (FUTEX_32), reserved.
                let word = |i: usize| [0u64, (words + (number * 128 + i) * 4) as u64, 2];
                let all: Vec<[u64; 3]> = (0..128).map(word).collect();
                // SAFETY: 128 valid descriptions.
                unsafe { libc::syscall(libc::SYS_futex_waitv, all.as_ptr(), 128, 0, 0, 0) }
            })
        })
        .collect();
    super::share::doze(100);
    // SAFETY: words of the mapping.
    unsafe {
        for number in 0..THREADS {
            let word = words + (number * 128 + 127) * 4;
            let start = super::share::now();
            while libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAKE, i32::MAX) == 0 {
                if super::share::now() - start > PATIENCE {
                    return attacker.share.fail("a waiter does not wait");
                }
                super::share::doze(1);
            }
        }
    }
    for waiter in waiters {
        let woken = waiter.join().unwrap_or(-1);
        expect(attacker, woken == 127, &format!("futex_waitv returned {woken}"));
    }
}

/// Locks on every second byte.
fn locks(attacker: &Attacker, item: u64) {
    let path = format!("/tmp/locked-{item}\0");
    // SAFETY: plain calls with valid pointers.
    unsafe {
        let fd = libc::open(path.as_ptr().cast(), libc::O_RDWR | libc::O_CREAT, 0o600);
        expect(attacker, fd >= 0, "open");
        let mut made = 0;
        for at in 0..8_000 {
            let mut lock: libc::flock = std::mem::zeroed();
            lock.l_type = if at % 2 == 0 { libc::F_WRLCK } else { libc::F_RDLCK } as i16;
            (lock.l_start, lock.l_len) = (at * 2, 1);
            if libc::fcntl(fd, libc::F_SETLK, &lock) != 0 {
                expect(attacker, errno() == libc::ENOLCK, "a lock");
                break;
            }
            made += 1;
        }
        expect(attacker, made > 1000, "few locks");
        libc::unlink(path.as_ptr().cast());
    }
    healthy(attacker);
}

fn ptys(attacker: &Attacker, _: u64) {
    limit_fds(10_000);
    // SAFETY: plain calls with strings that end.
    let made = until_full(attacker, "ptys", 9000, &[libc::ENOSPC, libc::EMFILE], |_| unsafe {
        libc::open(c"/dev/ptmx".as_ptr(), libc::O_RDWR | libc::O_NOCTTY) >= 0
    });
    expect(attacker, made > 100, "few ptys");
}

/// Names that do not exist: the kernel may remember that of some, but not of all.
fn missing_names(attacker: &Attacker, item: u64) {
    let mut chance = Chance(0xdead_beef + item);
    let mut path = *b"/tmp/0000000000000000\0";
    for number in 0..8_000 {
        for (byte, digit) in path[5..21].iter_mut().zip((0..16).map(|_| chance.next())) {
            *byte = b'a' + (digit % 26) as u8;
        }
        if number % 2 == 0 {
            path[..5].copy_from_slice(b"/usr/");
        } else {
            path[..5].copy_from_slice(b"/tmp/");
        }
        // SAFETY: the path ends.
        let found = unsafe { libc::access(path.as_ptr().cast(), libc::F_OK) };
        if found == 0 || errno() != libc::ENOENT {
            return attacker.share.fail(&format!("access: {found}, errno {}", errno()));
        }
    }
    healthy(attacker);
}

/// A tree much deeper than a path is long; removed from the bottom up, and by dropping it whole.
fn deep_directories(attacker: &Attacker, item: u64) {
    const DEPTH: usize = 3000;
    let name = format!("deep-{item}\0");
    let name = name.as_ptr().cast();
    // SAFETY: plain calls with strings that end.
    unsafe {
        expect(attacker, libc::chdir(c"/tmp".as_ptr()) == 0, "chdir");
        let mut depth = 0;
        for _ in 0..DEPTH {
            if libc::mkdir(name, 0o700) != 0 || libc::chdir(name) != 0 {
                expect(attacker, [libc::ENOSPC, libc::ENOMEM].contains(&errno()), "mkdir");
                break;
            }
            depth += 1;
        }
        let mut cwd = vec![0u8; 8192];
        let got = libc::syscall(libc::SYS_getcwd, cwd.as_mut_ptr(), cwd.len());
        expect(attacker, got < 0 && errno() == libc::ENAMETOOLONG, "getcwd of a deep directory");
        let long = format!("{}\0", "../".repeat(2000));
        let up = libc::chdir(long.as_ptr().cast());
        expect(attacker, up != 0 && errno() == libc::ENAMETOOLONG, "a long path");
        for _ in 0..depth {
            expect(attacker, libc::chdir(c"..".as_ptr()) == 0, "chdir up");
            expect(attacker, libc::rmdir(name) == 0, "rmdir");
        }
        // Symbolic links that lead to each other.
        let link = |from: String, to: String| {
            libc::symlink(format!("{to}\0").as_ptr().cast(), format!("{from}\0").as_ptr().cast());
        };
        for number in 0..45 {
            link(format!("/tmp/l{item}-{number}"), format!("/tmp/l{item}-{}", number + 1));
        }
        let path = format!("/tmp/l{item}-0\0");
        let opened = libc::open(path.as_ptr().cast(), libc::O_RDONLY);
        expect(attacker, opened < 0 && errno() == libc::ELOOP, "a chain of 45 links");
        for number in 0..45 {
            libc::unlink(format!("/tmp/l{item}-{number}\0").as_ptr().cast());
        }
    }
    healthy(attacker);
}

/// Empty files: each takes memory of the kernel, not of the limit on bytes.
fn many_files(attacker: &Attacker, item: u64) {
    let base = format!("/dev/shm/many-{item}");
    expect(attacker, std::fs::create_dir(&base).is_ok(), "mkdir");
    // SAFETY: plain calls with strings that end.
    unsafe {
        for number in 0..5_000 {
            let path = format!("{base}/{number}\0");
            let fd = libc::open(path.as_ptr().cast(), libc::O_WRONLY | libc::O_CREAT, 0o600);
            if fd < 0 {
                expect(attacker, errno() == libc::ENOSPC, "creat");
                break;
            }
            libc::close(fd);
        }
    }
    expect(attacker, std::fs::remove_dir_all(&base).is_ok(), "removing many files");
    healthy(attacker);
}

fn extended_attributes(attacker: &Attacker, item: u64) {
    let path = format!("/tmp/attributes-{item}\0");
    let value = vec![7u8; 65_536];
    // SAFETY: plain calls with valid pointers.
    unsafe {
        let fd = libc::open(path.as_ptr().cast(), libc::O_RDWR | libc::O_CREAT, 0o600);
        expect(attacker, fd >= 0, "open");
        let errors = [libc::ENOSPC, libc::EDQUOT, libc::E2BIG, libc::EOPNOTSUPP];
        until_full(attacker, "attributes", 20_000, &errors, |number| {
            let name = format!("user.{number}\0");
            libc::fsetxattr(fd, name.as_ptr().cast(), value.as_ptr().cast(), value.len(), 0) == 0
        });
        let name = c"user.large".as_ptr();
        let large = libc::fsetxattr(fd, name, value.as_ptr().cast(), 65_537, 0);
        let fits = [libc::E2BIG, libc::EOPNOTSUPP];
        expect(attacker, large != 0 && fits.contains(&errno()), "an attribute that is too large");
        libc::unlink(path.as_ptr().cast());
    }
}

/// Argument lists without bound, and interpreters of interpreters.
fn arguments(attacker: &Attacker, item: u64) {
    let word = format!("{}\0", "x".repeat(100_000));
    let many: Vec<*const libc::c_char> = vec![word.as_ptr().cast(); 1 << 16];
    let small: Vec<*const libc::c_char> = vec![c"x".as_ptr(); 4 << 20];
    // SAFETY: strings that end; the lists do not, which the kernel has to bear.
    unsafe {
        for list in [&many, &small] {
            let got = libc::syscall(libc::SYS_execve, c"/bin/true".as_ptr(), list.as_ptr(), 0);
            let bad = ![libc::E2BIG, libc::EFAULT].contains(&errno());
            expect(attacker, got == -1 && !bad, "exec with too much");
        }
        let longest = format!("{}\0", "x".repeat(140_000));
        let list = [longest.as_ptr().cast(), std::ptr::null()];
        libc::execv(c"/bin/true".as_ptr(), list.as_ptr());
        expect(attacker, errno() == libc::E2BIG, "exec with a string that is too long");
        let script = |number: i32| format!("/tmp/script-{item}-{number}");
        for number in 0..8 {
            let text = format!("#!{}\n", script(number + 1));
            std::fs::write(script(number), text).ok();
            libc::chmod(format!("{}\0", script(number)).as_ptr().cast(), 0o755);
        }
        let list = [c"x".as_ptr(), std::ptr::null()];
        libc::execv(format!("{}\0", script(0)).as_ptr().cast(), list.as_ptr());
        expect(attacker, errno() == libc::ELOOP, "a chain of scripts");
        for number in 0..8 {
            std::fs::remove_file(script(number)).ok();
        }
    }
}

fn locked_memory(attacker: &Attacker, _: u64) {
    // SAFETY: a mapping of our own.
    unsafe {
        let limit = libc::rlimit { rlim_cur: 1 << 20, rlim_max: 1 << 20 };
        libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let at = libc::mmap(std::ptr::null_mut(), 4 << 20, 3, flags, -1, 0);
        expect(attacker, libc::mlock(at, 1 << 20) == 0, "mlock within the limit");
        let more = libc::mlock(at.byte_add(1 << 20), 4096);
        expect(attacker, more != 0 && errno() == libc::ENOMEM, "mlock beyond the limit");
        expect(attacker, libc::mlockall(1) != 0 && errno() == libc::ENOMEM, "mlockall");
        let locked = libc::mmap(std::ptr::null_mut(), 1 << 20, 3, flags | libc::MAP_LOCKED, -1, 0);
        expect(attacker, locked == libc::MAP_FAILED && errno() == libc::EAGAIN, "MAP_LOCKED");
    }
}
