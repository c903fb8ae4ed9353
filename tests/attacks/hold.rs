//! Takes as much as it gets of one kind of thing that the kernel keeps for programs, and holds it for
//! a while: `attack-guest hold WHAT`. The host's side (`tests/tests/footprint.rs`) measures what that
//! costs the host.

use std::ffi::CString;
use std::io::Write;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::ExitCode;

use super::asm;
use super::share::doze;

/// How long it is held for the last measurement, in milliseconds.
const HOLD: u64 = 400;
const PAGE: usize = 4096;
/// More than anything may have.
const MANY: usize = 1_000_000;
/// Enough of what takes the longer the more there are.
const ENOUGH: usize = 15_000;

/// One kind: its name, and what takes all there is and says how many that were.
type Kind = (&'static str, fn() -> usize);

const KINDS: &[Kind] = &[
    ("nothing", || 0),
    ("page_tables", page_tables),
    ("mappings", mappings),
    ("processes", processes),
    ("mappings_in_processes", mappings_in_processes),
    ("threads", threads),
    ("timers", timers),
    ("timerfds", || descriptors(timerfd)),
    ("eventfds", || descriptors(eventfd)),
    ("epolls", || descriptors(epoll)),
    ("pipes", || descriptors(pipe)),
    ("sockets", || descriptors(socket)),
    ("ptys", || descriptors(pty)),
    ("watches", watches),
    ("inotify_events", inotify_events),
    ("epoll_watches", epoll_watches),
    ("texts", texts),
    ("listings", listings),
    ("pty_buffers", pty_buffers),
    ("datagrams", datagrams),
    ("missing_names", missing_names),
    ("found_names", found_names),
    ("long_links", long_links),
    ("deep_tree", deep_tree),
    ("attributes", attributes),
    ("locks", locks),
    ("tables", tables),
    ("groups", groups),
    ("signals", signals),
    ("mounts", mounts),
    ("bound_sockets", bound_sockets),
    ("arguments", arguments),
];

/// Takes all there is of that.
pub fn run(what: &str) -> ExitCode {
    if what == "list" {
        for (name, _) in KINDS {
            println!("{name}");
        }
        return ExitCode::SUCCESS;
    }
    let Some((name, take)) = KINDS.iter().find(|(name, _)| *name == what) else {
        return ExitCode::from(2);
    };
    let limit = libc::rlimit { rlim_cur: 1 << 20, rlim_max: 1 << 20 };
    // SAFETY: reads the limit.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    // The one that takes may be killed; this one tells.
    // SAFETY: the process has one thread.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let held = take();
        println!("{name}: {held}");
        drop(std::io::stdout().flush());
        doze(HOLD);
        // SAFETY: nothing is to be flushed.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: our child.
    unsafe { libc::waitpid(child, &mut status, 0) };
    println!("{name}: status {status:#x}");
    ExitCode::SUCCESS
}

/// Counts until it says no.
fn count(mut one: impl FnMut(usize) -> bool) -> usize {
    (0..MANY).find(|&n| !one(n)).unwrap_or(MANY)
}

fn descriptors(one: impl Fn() -> i32) -> usize {
    count(|_| one() >= 0)
}

fn timerfd() -> i32 {
    // SAFETY: a plain call.
    unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, 0) }
}

fn eventfd() -> i32 {
    // SAFETY: a plain call.
    unsafe { libc::eventfd(0, 0) }
}

fn epoll() -> i32 {
    // SAFETY: a plain call.
    unsafe { libc::epoll_create1(0) }
}

fn socket() -> i32 {
    // SAFETY: a plain call.
    unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0) }
}

fn pty() -> i32 {
    // SAFETY: a string that ends.
    unsafe { libc::open(c"/dev/ptmx".as_ptr(), libc::O_RDWR) }
}

fn pipe() -> i32 {
    let mut ends = [0; 2];
    // SAFETY: room for two.
    let result = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK) };
    if result == 0 {
        // SAFETY: one byte of ours. It takes a page.
        unsafe { libc::write(ends[1], b"x".as_ptr().cast(), 1) };
    }
    result
}

fn map(len: usize, prot: i32) -> i64 {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let call = libc::SYS_mmap as u64;
    asm::syscall(call, [0, len as u64, prot as u64, flags as u64, u64::MAX, 0])
}

/// A page in each 2 MiB, and no second: a table for each.
fn page_tables() -> usize {
    const STEP: usize = 2 << 20;
    let at = map(STEP * 50_000, 3);
    if at < 0 {
        return 0;
    }
    for n in 0..50_000 {
        // SAFETY: within the mapping.
        unsafe { (at as *mut u8).add(n * STEP).write_volatile(1) };
    }
    50_000
}

/// Mappings, no two of which can be one.
fn mappings() -> usize {
    let mut prot = 1;
    count(|n| {
        prot ^= 3;
        n < ENOUGH && map(PAGE, prot ^ 1) >= 0
    })
}

/// Children that do `work` and hold what they have until all are killed.
fn children(most: usize, work: fn()) -> usize {
    let mut ends = [0; 2];
    // SAFETY: room for two; children make plain calls and wait for the end.
    unsafe {
        libc::pipe(ends.as_mut_ptr());
        let made = (0..most)
            .take_while(|_| match libc::fork() {
                0 => {
                    libc::close(ends[0]);
                    work();
                    libc::write(ends[1], b"x".as_ptr().cast(), 1);
                    loop {
                        libc::pause();
                    }
                }
                child => child > 0,
            })
            .count();
        libc::close(ends[1]);
        // Some may be killed for what they take; the others hold what they have.
        let mut byte = [0u8; 64];
        let (start, mut ready) = (super::share::now(), 0);
        libc::fcntl(ends[0], libc::F_SETFL, libc::O_NONBLOCK);
        while ready < made && super::share::now() - start < 10_000 {
            match libc::read(ends[0], byte.as_mut_ptr().cast(), byte.len()) {
                n if n > 0 => ready += n as usize,
                0 => break,
                _ => doze(5),
            }
        }
        made
    }
}

fn processes() -> usize {
    children(5000, || ())
}

fn mappings_in_processes() -> usize {
    children(200, || {
        let mut prot = 1;
        for _ in 0..5000 {
            prot ^= 3;
            if map(PAGE, prot ^ 1) < 0 {
                break;
            }
        }
    })
}

fn threads() -> usize {
    count(|_| {
        let builder = std::thread::Builder::new().stack_size(32 << 10);
        builder.spawn(|| doze(3_600_000)).is_ok()
    })
}

fn timers() -> usize {
    let limit = libc::rlimit { rlim_cur: u64::MAX, rlim_max: u64::MAX };
    // SAFETY: reads the limit.
    unsafe { libc::setrlimit(libc::RLIMIT_SIGPENDING, &limit) };
    count(|_| {
        let mut timer = 0u64;
        // SAFETY: room for the timer's number.
        unsafe { libc::syscall(libc::SYS_timer_create, 1, 0, &raw mut timer) == 0 }
    })
}

/// In many instances, on each of many files of the host.
fn watches() -> usize {
    let mut paths = Vec::new();
    let mut folders = vec![std::path::PathBuf::from("/usr")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
            paths.push(
                CString::new(entry.path().as_os_str().as_encoded_bytes()).unwrap_or_default(),
            );
        }
        if paths.len() > 3000 {
            break;
        }
    }
    let mut made = 0;
    for _ in 0..10_000 {
        // SAFETY: strings that end.
        unsafe {
            let fd = libc::inotify_init1(0);
            if fd < 0 {
                break;
            }
            for path in &paths {
                if libc::inotify_add_watch(fd, path.as_ptr(), libc::IN_ALL_EVENTS) < 0 {
                    return made;
                }
                made += 1;
            }
        }
        if made > 1_000_000 {
            break;
        }
    }
    made
}

/// Events with long names, which nobody reads, in many instances.
fn inotify_events() -> usize {
    let mut instances = 0;
    // SAFETY: strings that end.
    unsafe {
        libc::mkdir(c"/tmp/watched".as_ptr(), 0o700);
        for _ in 0..200 {
            let fd = libc::inotify_init1(0);
            let watch = libc::inotify_add_watch(fd, c"/tmp/watched".as_ptr(), libc::IN_ALL_EVENTS);
            if fd < 0 || watch < 0 {
                break;
            }
            instances += 1;
        }
        let tail = "e".repeat(240);
        for n in 0..4000 {
            let path = format!("/tmp/watched/{n}{tail}\0");
            let fd = libc::open(path.as_ptr().cast(), libc::O_CREAT | libc::O_WRONLY, 0o600);
            libc::close(fd);
            libc::unlink(path.as_ptr().cast());
        }
    }
    instances
}

/// Files whose content is made when it is read, each read a little: mappings by the thousand make
/// theirs long.
fn texts() -> usize {
    let mut prot = 1;
    for _ in 0..4000 {
        prot ^= 3;
        map(PAGE, prot ^ 1);
    }
    descriptors(|| {
        // SAFETY: a string that ends, room for a byte.
        unsafe {
            let fd = libc::open(c"/proc/self/smaps".as_ptr(), libc::O_RDONLY);
            let mut byte = 0u8;
            if fd >= 0 && libc::read(fd, (&raw mut byte).cast(), 1) != 1 { -1 } else { fd }
        }
    })
}

/// Open directories, each listed a little.
fn listings() -> usize {
    descriptors(|| {
        // SAFETY: a string that ends, room.
        unsafe {
            let fd = libc::open(c"/usr/bin".as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY);
            let mut room = [0u8; 300];
            let got = libc::syscall(libc::SYS_getdents64, fd, room.as_mut_ptr(), room.len());
            if got <= 0 { -1 } else { fd }
        }
    })
}

/// Terminals with as much in both directions as they take.
fn pty_buffers() -> usize {
    let block = [b'x'; 4096];
    descriptors(|| {
        // SAFETY: plain calls with valid pointers.
        unsafe {
            let master = libc::open(c"/dev/ptmx".as_ptr(), libc::O_RDWR | libc::O_NONBLOCK);
            let unlock = 0i32;
            libc::ioctl(master, libc::TIOCSPTLCK, &unlock);
            // TIOCGPTPEER
            let slave =
                libc::ioctl(master, 0x5441, libc::O_RDWR | libc::O_NOCTTY | libc::O_NONBLOCK);
            for fd in [master, slave] {
                // A line that is too long is taken, and its end thrown away.
                (0..64).find(|_| libc::write(fd, block.as_ptr().cast(), block.len()) <= 0);
            }
            if slave < 0 { -1 } else { master }
        }
    })
}

/// Messages of a byte, as many as there may be, in many sockets with the biggest buffers.
fn datagrams() -> usize {
    descriptors(|| {
        let mut ends = [0; 2];
        let size = 1i32 << 30;
        // SAFETY: plain calls with valid pointers.
        unsafe {
            let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK;
            if libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) != 0 {
                return -1;
            }
            let (level, value) = (libc::SOL_SOCKET, (&raw const size).cast());
            libc::setsockopt(ends[0], level, libc::SO_SNDBUFFORCE, value, 4);
            for _ in 0..20_000 {
                if libc::write(ends[0], b"x".as_ptr().cast(), 1) != 1 {
                    break;
                }
            }
        }
        ends[0]
    })
}

/// Each of many descriptors in each of many epolls.
fn epoll_watches() -> usize {
    // SAFETY: plain calls with valid pointers.
    unsafe {
        let fds: Vec<i32> =
            (0..1000).map(|_| libc::eventfd(0, 0)).take_while(|&fd| fd >= 0).collect();
        let mut made = 0;
        for _ in 0..1000 {
            let epoll = libc::epoll_create1(0);
            if epoll < 0 {
                break;
            }
            for &fd in &fds {
                let mut event = libc::epoll_event { events: 1, u64: 0 };
                if libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &mut event) != 0 {
                    return made;
                }
                made += 1;
            }
        }
        made
    }
}

/// Names that are not there, as long as names may be, in several kinds of file systems.
fn missing_names() -> usize {
    let tail = "x".repeat(240);
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    for n in 0..ENOUGH {
        for folder in ["/usr", "/tmp", "/dev/shm"] {
            let path = format!("{folder}/{n}{tail}\0");
            // SAFETY: a string that ends, and room.
            unsafe { libc::stat(path.as_ptr().cast(), stat.as_mut_ptr()) };
        }
    }
    ENOUGH
}

/// All names that there are.
fn found_names() -> usize {
    fn walk(folder: &std::path::Path, seen: &mut usize) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            *seen += 1;
            if *seen > ENOUGH {
                return;
            }
            let is_folder = entry.metadata().is_ok_and(|data| data.is_dir());
            if is_folder {
                walk(&entry.path(), seen);
            }
        }
    }
    let mut seen = 0;
    walk(std::path::Path::new("/usr"), &mut seen);
    seen
}

fn long_links() -> usize {
    let target = CString::new(vec![b'x'; 4000]).unwrap_or_default();
    count(|n| {
        let path = format!("/tmp/link-{n}\0");
        // SAFETY: strings that end.
        unsafe { libc::symlink(target.as_ptr(), path.as_ptr().cast()) == 0 }
    })
}

/// Directories with long names, one in the other.
fn deep_tree() -> usize {
    let name = CString::new(vec![b'd'; 250]).unwrap_or_default();
    // SAFETY: strings that end.
    unsafe {
        libc::chdir(c"/tmp".as_ptr());
        count(|_| libc::mkdir(name.as_ptr(), 0o700) == 0 && libc::chdir(name.as_ptr()) == 0)
    }
}

fn attributes() -> usize {
    let value = vec![7u8; 60_000];
    // SAFETY: strings that end, and the value's length.
    unsafe {
        count(|n| {
            let path = format!("/tmp/file-{}\0", n / 8);
            let name = format!("user.a{}\0", n % 8);
            let fd = libc::open(path.as_ptr().cast(), libc::O_CREAT | libc::O_RDWR, 0o600);
            let set = |name: &str| {
                let (name, value) = (name.as_ptr().cast(), value.as_ptr().cast());
                libc::setxattr(path.as_ptr().cast(), name, value, 60_000, 0)
            };
            let user = set(&name);
            let trusted = set(&format!("trusted.a{}\0", n % 8));
            libc::close(fd);
            fd >= 0 && (user == 0 || trusted == 0)
        })
    }
}

/// Every other byte of a file, so that no two are one.
fn locks() -> usize {
    // SAFETY: plain calls with valid pointers.
    unsafe {
        let fd = libc::open(c"/tmp/locked".as_ptr(), libc::O_CREAT | libc::O_RDWR, 0o600);
        count(|n| {
            let mut lock: libc::flock = std::mem::zeroed();
            lock.l_type = libc::F_WRLCK as i16;
            (lock.l_start, lock.l_len) = (2 * n as i64, 1);
            n < ENOUGH && libc::fcntl(fd, libc::F_SETLK, &lock) == 0
        })
    }
}

/// Tables of descriptors, each with its highest slot in use.
fn tables() -> usize {
    // SAFETY: a plain call.
    children(300, || unsafe {
        libc::dup2(0, (1 << 20) - 1);
    })
}

/// As many groups as there may be, in each process.
fn groups() -> usize {
    children(300, || {
        let groups: Vec<u32> = (0..65_536).map(|n| n * 3 + std::process::id()).collect();
        // SAFETY: so many groups.
        unsafe { libc::setgroups(groups.len(), groups.as_ptr()) };
    })
}

/// Signals that wait, for every user that one can be, who may have as many as they like.
fn signals() -> usize {
    let limit = libc::rlimit { rlim_cur: u64::MAX, rlim_max: u64::MAX };
    // SAFETY: reads the limit.
    unsafe { libc::setrlimit(libc::RLIMIT_SIGPENDING, &limit) };
    let mut made = 0;
    for user in 0..200 {
        // SAFETY: the child makes plain calls and waits.
        unsafe {
            match libc::fork() {
                0 => {
                    let mut all: libc::sigset_t = std::mem::zeroed();
                    libc::sigfillset(&mut all);
                    libc::sigprocmask(libc::SIG_BLOCK, &all, std::ptr::null_mut());
                    libc::setuid(5000 + user);
                    let value = libc::sigval { sival_ptr: std::ptr::null_mut() };
                    count(|_| libc::sigqueue(libc::getpid(), 40, value) == 0);
                    loop {
                        libc::pause();
                    }
                }
                child if child > 0 => made += 1,
                _ => break,
            }
        }
    }
    doze(2000);
    made
}

/// With names of sources that are as long as they may be.
fn mounts() -> usize {
    let source = CString::new(vec![b's'; 4000]).unwrap_or_default();
    // SAFETY: strings that end.
    unsafe {
        libc::mkdir(c"/tmp/mounted".as_ptr(), 0o700);
        count(|_| {
            let (kind, at) = (c"tmpfs".as_ptr(), c"/tmp/mounted".as_ptr());
            libc::mount(source.as_ptr(), at, kind, 0, std::ptr::null()) == 0
        })
    }
}

fn bound_sockets() -> usize {
    count(|n| {
        let name = format!("{n}{}", "y".repeat(90));
        let address = SocketAddr::from_abstract_name(name);
        let listener = address.and_then(|it| UnixListener::bind_addr(&it));
        listener.map(std::mem::forget).is_ok()
    })
}

/// Processes with as long arguments as there may be.
fn arguments() -> usize {
    let long = CString::new(vec![b'a'; 120_000]).unwrap_or_default();
    // SAFETY: the child executes a program that waits.
    unsafe {
        (0..200)
            .take_while(|_| match libc::fork() {
                0 => {
                    let sleep = c"/bin/sleep".as_ptr();
                    let mut words = vec![sleep, c"100".as_ptr()];
                    let mut names = vec![long.as_ptr(); 12];
                    words.push(std::ptr::null());
                    names.push(std::ptr::null());
                    libc::execve(sleep, words.as_ptr(), names.as_ptr());
                    libc::_exit(1)
                }
                child => child > 0,
            })
            .count()
    }
}
