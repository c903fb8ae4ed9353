//! Storms of mappings, and of faults that a handler repairs.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::registers::{self, State};
use crate::sys::{self, Chance};

const PAGE: usize = 4096;
const THREADS: u64 = 8;

fn spread(work: fn(u64)) {
    let threads = (0..THREADS).map(|seed| std::thread::spawn(move || work(seed)));
    threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
}

fn map(at: usize, len: usize, prot: i32, flags: i32) -> usize {
    let flags = flags | libc::MAP_ANONYMOUS;
    // SAFETY: a fresh range, or with MAP_FIXED one that is the caller's.
    let got = unsafe { libc::mmap(at as *mut _, len, prot, flags, -1, 0) };
    assert_ne!(got, libc::MAP_FAILED, "mmap: errno {}", sys::errno());
    got as usize
}

fn protect(at: usize, len: usize, prot: i32) {
    // SAFETY: the caller's own range.
    assert_eq!(unsafe { libc::mprotect(at as *mut _, len, prot) }, 0, "errno {}", sys::errno());
}

fn unmap(at: usize, len: usize) {
    // SAFETY: the caller's own range, which it does not use any more.
    assert_eq!(unsafe { libc::munmap(at as *mut _, len) }, 0, "errno {}", sys::errno());
}

/// A word of the caller's own memory.
fn word(at: usize) -> *mut u64 {
    at as *mut u64
}

/// What each page of a mapping ought to hold: `None` where nothing is mapped.
type Pages = Vec<Option<u64>>;

/// Looks at first and last word of each page.
fn check(base: usize, pages: &Pages) {
    for (at, expected) in pages.iter().enumerate() {
        let Some(expected) = *expected else { continue };
        for offset in [0, PAGE - 8] {
            // SAFETY: the caller's own mapping, readable.
            let found = unsafe { word(base + at * PAGE + offset).read_volatile() };
            assert_eq!(found, expected, "page {at} of {}", pages.len());
        }
    }
}

fn fill(base: usize, at: usize, value: u64) {
    for offset in [0, PAGE - 8] {
        // SAFETY: the caller's own mapping, writable.
        unsafe { word(base + at * PAGE + offset).write_volatile(value) };
    }
}

/// Private and shared anonymous memory: mapped, written, cut up, moved, protected, given back.
pub(crate) fn maps() {
    spread(|seed| {
        let mut chance = Chance::new(seed);
        for _ in 0..250 {
            let count = 1 + chance.below(48) as usize;
            let kind = if chance.below(4) == 0 { libc::MAP_SHARED } else { libc::MAP_PRIVATE };
            let both = libc::PROT_READ | libc::PROT_WRITE;
            let mut base = map(0, count * PAGE, both, kind);
            let mut pages: Pages = vec![Some(0); count];
            check(base, &pages);
            for (at, page) in pages.iter_mut().enumerate() {
                let value = chance.next();
                fill(base, at, value);
                *page = Some(value);
            }
            protect(base, count * PAGE, libc::PROT_READ);
            check(base, &pages);
            let len = count * PAGE;
            // SAFETY: the caller's own range; its old address is not used again.
            let moved = unsafe { libc::mremap(base as *mut _, len, len * 2, libc::MREMAP_MAYMOVE) };
            assert_ne!(moved, libc::MAP_FAILED, "mremap: errno {}", sys::errno());
            base = moved as usize;
            unmap(base + len, len);
            check(base, &pages);
            protect(base, len, both);
            for _ in 0..3 {
                let from = chance.below(count as u64) as usize;
                let n = 1 + chance.below((count - from) as u64) as usize;
                if !pages[from..from + n].iter().all(Option::is_some) {
                    // What was given back may be another thread's by now.
                    continue;
                }
                let (start, len) = (base + from * PAGE, n * PAGE);
                match chance.below(4) {
                    0 => {
                        unmap(start, len);
                        pages[from..from + n].fill(None);
                    }
                    1 => {
                        map(start, len, both, kind | libc::MAP_FIXED);
                        pages[from..from + n].fill(Some(0));
                    }
                    2 => {
                        protect(start, len, libc::PROT_NONE);
                        protect(start, len, both);
                        let value = chance.next();
                        fill(base, from, value);
                        pages[from] = Some(value);
                    }
                    _ if kind == libc::MAP_PRIVATE => {
                        // SAFETY: the caller's own range.
                        let r = unsafe { libc::madvise(start as *mut _, len, libc::MADV_DONTNEED) };
                        assert_eq!(r, 0, "madvise: errno {}", sys::errno());
                        pages[from..from + n].fill(Some(0));
                    }
                    _ => {}
                }
                check(base, &pages);
            }
            for (at, page) in pages.iter().enumerate() {
                if page.is_some() {
                    unmap(base + at * PAGE, PAGE);
                }
            }
        }
    });
}

thread_local! {
    static REGION: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
    static FAULTS: Cell<u64> = const { Cell::new(0) };
}
static STRANGE: AtomicU64 = AtomicU64::new(0);

/// Makes the page writable.
extern "C" fn repair(_: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let (base, len) = REGION.get();
    // SAFETY: the kernel filled in both structures for a SIGSEGV.
    let (at, code, trap, cr2) = unsafe {
        let context = &*context.cast::<libc::ucontext_t>();
        let registers = &context.uc_mcontext.gregs;
        let trap = registers[libc::REG_TRAPNO as usize];
        ((*info).si_addr() as usize, (*info).si_code, trap, registers[libc::REG_CR2 as usize])
    };
    if at.wrapping_sub(base) >= len {
        // SAFETY: ends the process: the fault would come again.
        unsafe { libc::_exit(102) };
    }
    // SEGV_ACCERR, a page fault, its address.
    if code != 2 || trap != 14 || cr2 as usize != at {
        STRANGE.fetch_add(1, Ordering::Relaxed);
    }
    FAULTS.set(FAULTS.get() + 1);
    registers::clobber();
    let page = at & !(PAGE - 1);
    // SAFETY: a page of this thread's own mapping.
    unsafe { libc::mprotect(page as *mut _, PAGE, libc::PROT_READ | libc::PROT_WRITE) };
}

/// Each thread takes faults on pages of its own, which its handler makes writable.
pub(crate) fn write_faults() {
    registers::find_out();
    sys::handle(libc::SIGSEGV, repair, 0);
    spread(|seed| {
        const PAGES: usize = 32;
        const ROUNDS: u64 = 30;
        let mut chance = Chance::new(seed);
        let base = map(0, PAGES * PAGE, libc::PROT_READ, libc::MAP_PRIVATE);
        REGION.set((base, PAGES * PAGE));
        for round in 0..ROUNDS {
            for at in 0..PAGES {
                let value = round << 32 | at as u64;
                let state = State::random(&mut chance);
                registers::increment(&state, base + at * PAGE + 64);
                fill(base, at, value);
                // SAFETY: this thread's own page, readable by now.
                unsafe {
                    assert_eq!(word(base + at * PAGE).read_volatile(), value);
                    assert_eq!(word(base + at * PAGE + 64).read_volatile(), round + 1);
                }
            }
            assert_eq!(FAULTS.get(), (round + 1) * PAGES as u64, "as many faults as pages");
            let prot = if round % 2 == 0 { libc::PROT_READ } else { libc::PROT_NONE };
            protect(base, PAGES * PAGE, prot);
        }
        unmap(base, PAGES * PAGE);
    });
    assert_eq!(STRANGE.load(Ordering::Relaxed), 0, "faults that were told wrongly");
}
