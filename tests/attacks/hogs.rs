//! Memory in every form, under a limit of the sandbox (`--memory`): the hog gets an error or is
//! killed, the bystander lives, and what the hog had is there again for the next one.

use super::asm;
use super::supervisor::{Attack, Attacker, Ends};

const fn twice(name: &'static str, body: fn(&Attacker, u64)) -> Attack {
    Attack { name, ends: Ends::Somehow, items: || 2, fresh: true, limit: 30_000, body }
}

pub const ATTACKS: &[Attack] = &[
    twice("malloc", malloc),
    twice("shared_mappings", shared_mappings),
    twice("tmpfs", |a, n| files(a, &format!("/tmp/hog-{n}"))),
    twice("shm", |a, n| files(a, &format!("/dev/shm/hog-{n}"))),
    twice("overlay", |a, n| files(a, &format!("hog-{n}"))),
    twice("memfds", memfds),
    twice("pipes", pipes),
    twice("sockets", sockets),
    twice("page_tables", page_tables),
    twice("stack", stack),
    twice("children", children),
    twice("copies", copies),
];

/// More than the sandbox may have.
const ALL: usize = 1 << 30;
const PIECE: usize = 1 << 20;

/// Writes to each page.
fn touch(at: *mut u8, len: usize) {
    for page in (0..len).step_by(4096) {
        // SAFETY: within the piece.
        unsafe { at.add(page).write_volatile(7) };
    }
}

fn full(attacker: &Attacker, what: &str) {
    attacker.share.fail(&format!("there is no limit on {what}"));
}

fn malloc(attacker: &Attacker, _: u64) {
    for _ in 0..ALL / PIECE {
        // SAFETY: never freed.
        let at = unsafe { libc::malloc(PIECE) };
        if at.is_null() {
            return;
        }
        touch(at.cast(), PIECE);
    }
    full(attacker, "the heap");
}

fn shared_mappings(attacker: &Attacker, _: u64) {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a mapping of our own.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), ALL, 3, flags, -1, 0) };
    if at != libc::MAP_FAILED {
        touch(at.cast(), ALL);
        full(attacker, "shared mappings");
    }
}

/// A file of a file system in memory; removed when it is full, for the other one.
fn files(attacker: &Attacker, path: &str) {
    let block = vec![7u8; PIECE];
    let path = format!("{path}\0");
    // SAFETY: plain calls with valid pointers.
    unsafe {
        let fd = libc::open(path.as_ptr().cast(), libc::O_RDWR | libc::O_CREAT, 0o600);
        if fd < 0 {
            return attacker.share.fail("the file cannot be made");
        }
        let mut wrote = 0;
        while wrote < ALL {
            let got = libc::write(fd, block.as_ptr().cast(), block.len());
            if got <= 0 {
                let errno = std::io::Error::last_os_error().raw_os_error();
                if ![Some(libc::ENOSPC), Some(libc::ENOMEM)].contains(&errno) {
                    attacker.share.fail(&format!("write: {errno:?}"));
                }
                break;
            }
            wrote += got as usize;
        }
        libc::unlink(path.as_ptr().cast());
        if wrote >= ALL {
            full(attacker, "files in memory");
        }
    }
}

fn memfds(attacker: &Attacker, _: u64) {
    let block = vec![7u8; PIECE];
    // SAFETY: plain calls with valid pointers.
    unsafe {
        for _ in 0..200 {
            let fd = libc::memfd_create(c"hog".as_ptr(), 0);
            for _ in 0..8 {
                if fd < 0 || libc::write(fd, block.as_ptr().cast(), block.len()) <= 0 {
                    return;
                }
            }
        }
    }
    full(attacker, "memfds");
}

/// Bounded by their own limits, or by the memory.
fn pipes(_: &Attacker, _: u64) {
    let block = vec![7u8; PIECE];
    // SAFETY: plain calls with valid pointers.
    unsafe {
        for _ in 0..400 {
            let mut ends = [0; 2];
            if libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK) != 0 {
                return;
            }
            libc::fcntl(ends[1], libc::F_SETPIPE_SZ, PIECE as i32);
            libc::write(ends[1], block.as_ptr().cast(), block.len());
        }
    }
}

fn sockets(_: &Attacker, _: u64) {
    let block = vec![7u8; PIECE];
    // SAFETY: plain calls with valid pointers.
    unsafe {
        for _ in 0..400 {
            let mut ends = [0; 2];
            let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK;
            if libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) != 0 {
                return;
            }
            while libc::write(ends[0], block.as_ptr().cast(), block.len()) > 0 {}
        }
    }
}

/// A page in each 2 MiB: as much memory for page tables as for the pages.
fn page_tables(_: &Attacker, _: u64) {
    const STEP: usize = 2 << 20;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    for _ in 0..64 {
        // SAFETY: a mapping of our own.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), 512 * STEP, 3, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return;
        }
        for number in 0..512 {
            // SAFETY: within the mapping.
            unsafe { at.cast::<u8>().add(number * STEP).write_volatile(1) };
        }
    }
}

fn stack(attacker: &Attacker, _: u64) {
    #[allow(unconditional_recursion)]
    fn deeper(before: &[u8; 8192]) -> u8 {
        let mut block = [before[0]; 8192];
        std::hint::black_box(&mut block);
        deeper(&block).wrapping_add(block[17])
    }
    let limit = libc::rlimit { rlim_cur: u64::MAX, rlim_max: u64::MAX };
    // SAFETY: reads the limit.
    unsafe { libc::setrlimit(libc::RLIMIT_STACK, &limit) };
    std::hint::black_box(deeper(&[1; 8192]));
    full(attacker, "the stack");
}

/// Each child takes as much as it gets.
fn children(attacker: &Attacker, _: u64) {
    // SAFETY: the children touch their own memory and end.
    unsafe {
        let mut all = Vec::new();
        for _ in 0..6 {
            match libc::fork() {
                0 => {
                    malloc(attacker, 0);
                    libc::_exit(0);
                }
                -1 => break,
                child => all.push(child),
            }
        }
        for child in all {
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
    }
}

/// Memory that parents and children share until somebody writes.
fn copies(attacker: &Attacker, _: u64) {
    const LEN: usize = 16 << 20;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let at = asm::syscall(libc::SYS_mmap as u64, [0, LEN as u64, 3, flags as u64, u64::MAX, 0]);
    if at < 0 {
        return attacker.share.fail("16 MiB are not to be had");
    }
    touch(at as *mut u8, LEN);
    // SAFETY: the children write to their own copies and end.
    unsafe {
        let mut all = Vec::new();
        for _ in 0..10 {
            match libc::fork() {
                0 => {
                    touch(at as *mut u8, LEN);
                    libc::pause();
                    libc::_exit(0);
                }
                -1 => break,
                child => all.push(child),
            }
        }
        super::share::doze(300);
        for &child in &all {
            libc::kill(child, libc::SIGKILL);
        }
        for &child in &all {
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
    }
}
