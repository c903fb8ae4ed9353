//! Writes over every page of the stub that lets itself be written, while calls are in flight.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::asm;
use super::catch::{self, Catcher};
use super::probe::{self, PAGE};
use super::share::{Chance, now};
use super::supervisor::{Attack, Attacker, Ends};

/// How long a pattern is written.
const TIME: u64 = 120;
/// Patterns, times two: with all of a page written, and with single words of it.
const PATTERNS: u64 = 9;

pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "over_a_siblings_calls",
        ends: Ends::OrHangs,
        items: || PATTERNS * 2,
        fresh: true,
        limit: 500,
        body: over_calls,
    },
    Attack {
        name: "over_own_pages",
        ends: Ends::OrHangs,
        items: || PATTERNS * 2,
        fresh: true,
        limit: 500,
        body: over_own,
    },
    Attack {
        name: "word_by_word",
        ends: Ends::OrHangs,
        items: || if probe::writable_pages().is_empty() { 0 } else { 512 * 2 },
        fresh: true,
        limit: 300,
        body: word_by_word,
    },
];

/// A value for a word, given what is there.
fn value(pattern: u64, old: u64, chance: &mut Chance) -> u64 {
    let random = chance.next();
    match pattern {
        0 => 0,
        1 => u64::MAX,
        2 => random,
        // What a request word may say.
        3 => random % 8,
        4 => old ^ 1 << (random % 64),
        // Addresses: not canonical, the kernel's, the end of user space, the stub's.
        5 => [0x8000_0000_0000, 0xffff_8000_0000_0000, 0x7fff_ffff_ffff, probe::USER_END - 4096]
            [random as usize % 4],
        // Segments and flags.
        6 => [0x23, 0x33, 0x2b, 0x10, 0, 0x4_4702, 0x202, 0x3_7fd7][random as usize % 8],
        7 => old.wrapping_add(random % 17).wrapping_sub(8),
        _ => own_address(random),
    }
}

fn own_address(random: u64) -> u64 {
    let near = asm::attack_spin as *const () as u64;
    near.wrapping_add(random % 4096)
}

/// Writes a pattern over pages until it is told to stop.
fn scribble(pages: &[u64], pattern: u64, sparse: bool, stop: &AtomicBool, seed: u64) {
    Catcher::install();
    let mut chance = Chance(seed | 1);
    while !stop.load(Ordering::Relaxed) {
        for &page in pages {
            if sparse {
                let at = page + chance.next() % 512 * 8;
                let Some(old) = catch::load(at) else { continue };
                catch::store(at, value(pattern, old, &mut chance));
            } else {
                for at in (page..page + PAGE).step_by(8) {
                    let Some(old) = catch::load(at) else { break };
                    catch::store(at, value(pattern, old, &mut chance));
                }
            }
        }
    }
}

/// Calls of several kinds, whatever comes of them.
fn calls(until: u64) {
    let mut fds = [0i32; 2];
    // SAFETY: two numbers.
    unsafe { libc::pipe(fds.as_mut_ptr()) };
    let mut word = 0u64;
    let data = &raw mut word as u64;
    let [reader, writer] = fds.map(|fd| fd as u64);
    while now() < until {
        for _ in 0..8 {
            asm::syscall(libc::SYS_getppid as u64, [0; 6]);
            asm::syscall(libc::SYS_write as u64, [writer, data, 8, 0, 0, 0]);
            asm::syscall(libc::SYS_read as u64, [reader, data, 8, 0, 0, 0]);
            asm::syscall(libc::SYS_sched_yield as u64, [0; 6]);
            let at = asm::syscall(libc::SYS_mmap as u64, [0, 8192, 3, 0x22, u64::MAX, 0]);
            catch::store(at as u64, 1);
            asm::syscall(libc::SYS_mprotect as u64, [at as u64, 4096, 1, 0, 0, 0]);
            asm::syscall(libc::SYS_munmap as u64, [at as u64, 8192, 0, 0, 0, 0]);
            catch::load(8);
            let time = [0u64, 1000];
            asm::syscall(libc::SYS_nanosleep as u64, [time.as_ptr() as u64, 0, 0, 0, 0, 0]);
        }
        // SAFETY: the child does nothing.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::_exit(0);
            }
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
    }
}

fn look(attacker: &Attacker) {
    if let Some(at) = probe::canary_anywhere() {
        attacker.share.fail(&format!("the victim's canary is at {at:#x}"));
    }
}

/// A thread writes over the pages of its sibling, which makes calls.
fn over_calls(attacker: &Attacker, item: u64) {
    let stop = AtomicBool::new(false);
    let pages = probe::writable_pages();
    std::thread::scope(|scope| {
        scope.spawn(|| scribble(&pages, item / 2, item.is_multiple_of(2), &stop, item));
        calls(now() + TIME);
        stop.store(true, Ordering::Relaxed);
    });
    look(attacker);
}

/// Threads write over their own pages, and make calls in between.
fn over_own(attacker: &Attacker, item: u64) {
    let until = now() + TIME;
    let counter = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for seed in 0..3 {
            let counter = &counter;
            scope.spawn(move || {
                Catcher::install();
                let mut chance = Chance(seed + item * 7 + 1);
                let block = asm::gs_base() & !(PAGE - 1);
                while now() < until {
                    let page = block.wrapping_add(chance.next() % 8 * PAGE);
                    for _ in 0..if item.is_multiple_of(2) { 1 } else { 64 } {
                        let at = page + chance.next() % 512 * 8;
                        if let Some(old) = catch::load(at) {
                            catch::store(at, value(item / 2, old, &mut chance));
                        }
                    }
                    asm::syscall(libc::SYS_getppid as u64, [0; 6]);
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    look(attacker);
}

/// Each word of a thread's first page set to something bad once, then a call, a fault, and a
/// thread of its own.
fn word_by_word(attacker: &Attacker, item: u64) {
    let block = asm::gs_base() & !(PAGE - 1);
    let at = block + item / 2 * 8;
    let bad = if item.is_multiple_of(2) { 0xffff_8000_0000_1000 } else { 0x7fff_ffff_ffff };
    catch::store(at, bad);
    asm::syscall(libc::SYS_getppid as u64, [0; 6]);
    catch::store(at, bad);
    catch::load(8);
    catch::store(at, bad);
    let _ = std::thread::Builder::new().spawn(|| ()).map(std::thread::JoinHandle::join);
    if item.is_multiple_of(64) {
        look(attacker);
    }
}
