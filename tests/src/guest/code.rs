//! Code that makes system calls and changes, or is entered where nobody expects it: what a kernel
//! that rewrites call sites could get wrong.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::registers::call_code;
use crate::sys::{self, Chance, fork, reap};

const PAGE: usize = 4096;
const THREADS: u64 = 4;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const RX: i32 = libc::PROT_READ | libc::PROT_EXEC;

/// Calls without arguments, with what they have to give in this thread.
fn answers() -> [(i64, i64); 5] {
    // SAFETY: no arguments.
    unsafe {
        [
            (libc::SYS_getppid, i64::from(libc::getppid())),
            (libc::SYS_getpid, i64::from(libc::getpid())),
            (libc::SYS_gettid, i64::from(sys::gettid())),
            (libc::SYS_getpgid, i64::from(libc::getpgid(0))),
            (390, -i64::from(libc::ENOSYS)), // No such call.
        ]
    }
}

/// A piece of code that calls the kernel and returns.
struct Site {
    bytes: Vec<u8>,
    /// Where the number stands, if the code has it.
    number: Option<usize>,
    /// Where one may enter, with the number in rax: each instruction up to the call itself.
    entries: Vec<usize>,
}

/// The ways in which compilers and C libraries write a system call.
fn sites() -> Vec<Site> {
    let site = |parts: &[&[u8]], number: Option<usize>, entries: &[usize]| Site {
        bytes: parts.concat(),
        number,
        entries: entries.to_vec(),
    };
    let (mov_eax, mov_rax): (&[u8], &[u8]) = (&[0xb8, 0, 0, 0, 0], &[0x48, 0xc7, 0xc0, 0, 0, 0, 0]);
    let (syscall, ret): (&[u8], &[u8]) = (&[0x0f, 0x05], &[0xc3]);
    // cmp $-4095, %rax; jae to the ret
    let compare: &[u8] = &[0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff];
    let jae: &[u8] = &[0x73, 0x00];
    let nop: &[u8] = &[0x90];
    vec![
        site(&[mov_eax, syscall, ret], Some(1), &[0, 5]),
        site(&[mov_rax, syscall, ret], Some(3), &[0, 7]),
        site(&[mov_eax, syscall, compare, jae, ret], Some(1), &[0, 5]),
        site(&[syscall, compare, jae, ret], None, &[0]),
        site(&[nop, nop, nop, nop, nop, syscall, nop, nop, ret], None, &[0, 1, 2, 3, 4, 5]),
        site(&[syscall, ret], None, &[0]),
        // push %rbp; mov %rsp, %rbp; syscall; pop %rbp; ret
        site(&[&[0x55, 0x48, 0x89, 0xe5], syscall, &[0x5d], ret], None, &[0]),
        // xor %edx, %edx; mov $nr, %eax; syscall
        site(&[&[0x31, 0xd2], mov_eax, syscall, ret], Some(3), &[0, 2, 7]),
    ]
}

fn map(len: usize, prot: i32, flags: i32, fd: i32) -> usize {
    // SAFETY: a fresh range.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, fd, 0) };
    assert_ne!(at, libc::MAP_FAILED, "mmap: errno {}", sys::errno());
    at as usize
}

fn unmap(at: usize) {
    // SAFETY: one page of the caller's own.
    assert_eq!(unsafe { libc::munmap(at as *mut _, PAGE) }, 0);
}

fn protect(at: usize, prot: i32) {
    // SAFETY: one page of the caller's own.
    assert_eq!(unsafe { libc::mprotect(at as *mut _, PAGE, prot) }, 0);
}

fn write(at: usize, bytes: &[u8]) {
    for (n, byte) in bytes.iter().enumerate() {
        // SAFETY: the caller's own memory, writable.
        unsafe { ((at + n) as *mut u8).write_volatile(*byte) };
    }
    // Serializes: code may have been written at another address than it is executed at.
    std::arch::x86_64::__cpuid(0);
}

/// How a page comes to hold code.
#[derive(Clone, Copy)]
enum Kind {
    /// Writable and executable at once.
    Both,
    /// Made writable to be written, executable to be executed.
    InTurn,
    /// Written at one address, executed at another.
    Twice,
}

/// Where a page is written, and where it is executed.
fn page(kind: Kind) -> (usize, usize) {
    let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    match kind {
        Kind::Both => {
            let at = map(PAGE, RW | RX, private, -1);
            (at, at)
        }
        Kind::InTurn => {
            let at = map(PAGE, RW, private, -1);
            (at, at)
        }
        Kind::Twice => {
            // SAFETY: a name that ends with a null; a fresh descriptor.
            unsafe {
                let fd = libc::memfd_create(c"code".as_ptr(), libc::MFD_CLOEXEC);
                assert!(fd >= 0 && libc::ftruncate(fd, PAGE as i64) == 0);
                let both =
                    (map(PAGE, RW, libc::MAP_SHARED, fd), map(PAGE, RX, libc::MAP_SHARED, fd));
                libc::close(fd);
                both
            }
        }
    }
}

/// Code is written, executed, changed in part and executed again: what runs is what was written
/// last, on this thread's own pages.
pub(crate) fn changing_code() {
    let threads = (0..THREADS).map(|seed| {
        std::thread::spawn(move || {
            let mut chance = Chance::new(seed);
            let (sites, answers) = (sites(), answers());
            for round in 0..60 {
                let kind = [Kind::Both, Kind::InTurn, Kind::Twice][round % 3];
                let (writable, executable) = page(kind);
                let turn = |prot| {
                    if matches!(kind, Kind::InTurn) {
                        protect(writable, prot);
                    }
                };
                let site = &sites[chance.below(sites.len() as u64) as usize];
                let offset = chance.below((PAGE - site.bytes.len()) as u64) as usize;
                turn(RW);
                write(writable + offset, &site.bytes);
                for _ in 0..6 {
                    let (number, answer) = answers[chance.below(answers.len() as u64) as usize];
                    if let Some(at) = site.number {
                        turn(RW);
                        // Nothing but the number, as an inline cache is changed.
                        write(writable + offset + at, &(number as u32).to_le_bytes());
                    }
                    turn(RX);
                    for _ in 0..4 {
                        assert_eq!(call_code(executable + offset, number), answer);
                    }
                }
                // The code reads as it was written.
                for (n, byte) in site.bytes.iter().enumerate() {
                    let of_number = site.number.is_some_and(|at| (at..at + 4).contains(&n));
                    // SAFETY: this thread's own memory, readable.
                    let now = unsafe { ((executable + offset + n) as *const u8).read_volatile() };
                    assert!(of_number || now == *byte, "byte {n} of the code");
                }
                unmap(writable);
                if executable != writable {
                    unmap(executable);
                }
            }
        })
    });
    threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
}

/// Call sites that are used again and again from their start, by all threads, are entered at each
/// later instruction as well; also after a fork, and while other threads use them.
pub(crate) fn middle_jumps() {
    let sites = sites();
    let (number, _) = answers()[0];
    let base = map(PAGE, RW, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1);
    let places: Vec<usize> = (0..sites.len()).map(|n| base + n * 61).collect();
    for (site, &place) in sites.iter().zip(&places) {
        write(place, &site.bytes);
        if let Some(at) = site.number {
            write(place + at, &(number as u32).to_le_bytes());
        }
    }
    protect(base, RX);
    let round = |chance: &mut Chance, from_start: bool| {
        let n = chance.below(sites.len() as u64) as usize;
        let (site, place) = (&sites[n], places[n]);
        let answers = answers();
        let entry = if from_start {
            0
        } else {
            site.entries[chance.below(site.entries.len() as u64) as usize]
        };
        // Behind the instruction that sets it, the number is the caller's to choose.
        let own = site.number.is_none_or(|at| entry > at);
        let pick = if own { chance.below(answers.len() as u64) as usize } else { 0 };
        let (number, answer) = answers[pick];
        assert_eq!(call_code(place + entry, number), answer, "site {n} at {entry}");
    };
    let mut chance = Chance::new(99);
    for _ in 0..200 {
        round(&mut chance, true);
    }
    for n in 0..20 {
        let child = fork(|| {
            let mut chance = Chance::new(n);
            (0..50).for_each(|_| round(&mut chance, false));
            0
        });
        assert_eq!(reap(child), 0);
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let users: Vec<_> = (0..THREADS)
            .map(|seed| {
                let (stop, round) = (&stop, &round);
                scope.spawn(move || {
                    let mut chance = Chance::new(seed);
                    while !stop.load(Ordering::Relaxed) {
                        round(&mut chance, seed % 2 == 0);
                    }
                })
            })
            .collect();
        for _ in 0..1_000 {
            round(&mut chance, false);
        }
        stop.store(true, Ordering::Relaxed);
        users.into_iter().for_each(|user| user.join().unwrap());
    });
    unmap(base);
}
