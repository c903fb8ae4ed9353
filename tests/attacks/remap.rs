//! Tries to unmap, replace or change the stub's memory by ordinary calls.

use super::asm;
use super::catch;
use super::health;
use super::jump::NOWHERE;
use super::probe::{self, LOW_TABLE, PAGE, USER_END};
use super::supervisor::{Attack, Attacker, Ends};

pub const ATTACKS: &[Attack] = &[
    Attack::once("stub_region", Ends::Well, stub_region),
    Attack::once("low_table", Ends::Well, low_table),
    Attack::once("everything_below", Ends::Somehow, everything_below),
];

const ENOMEM: i64 = -(libc::ENOMEM as i64);
const EINVAL: i64 = -(libc::EINVAL as i64);
const EFAULT: i64 = -(libc::EFAULT as i64);
const EPERM: i64 = -(libc::EPERM as i64);
const EEXIST: i64 = -(libc::EEXIST as i64);

/// A call on a range, and what may come of it.
type Try = (&'static str, i64, fn(u64, u64) -> [u64; 6], &'static [i64]);

const TRIES: &[Try] = &[
    ("munmap", libc::SYS_munmap, |at, len| [at, len, 0, 0, 0, 0], &[EINVAL, 0]),
    ("mmap", libc::SYS_mmap, |at, len| [at, len, 3, 0x32, u64::MAX, 0], &[ENOMEM]),
    ("mmap exec", libc::SYS_mmap, |at, len| [at, len, 7, 0x32, u64::MAX, 0], &[ENOMEM]),
    (
        "mmap noreplace",
        libc::SYS_mmap,
        |at, len| [at, len, 3, 0x10_0022, u64::MAX, 0],
        &[ENOMEM, EEXIST],
    ),
    ("mprotect", libc::SYS_mprotect, |at, len| [at, len, 7, 0, 0, 0], &[ENOMEM]),
    ("mprotect none", libc::SYS_mprotect, |at, len| [at, len, 0, 0, 0, 0], &[ENOMEM]),
    (
        "pkey_mprotect",
        libc::SYS_pkey_mprotect,
        |at, len| [at, len, 7, u64::MAX, 0, 0],
        &[ENOMEM, -(libc::ENOSYS as i64)],
    ),
    ("mremap from", libc::SYS_mremap, |at, len| [at, len, len, 3, NOWHERE, 0], &[EFAULT]),
    ("mremap away", libc::SYS_mremap, |at, len| [at, len, len * 2, 1, 0, 0], &[EFAULT]),
    ("madvise dontneed", libc::SYS_madvise, |at, len| [at, len, 4, 0, 0, 0], &[ENOMEM, EINVAL]),
    ("madvise remove", libc::SYS_madvise, |at, len| [at, len, 9, 0, 0, 0], &[ENOMEM, EINVAL]),
    ("madvise dontfork", libc::SYS_madvise, |at, len| [at, len, 10, 0, 0, 0], &[ENOMEM, EINVAL]),
    ("madvise wipe", libc::SYS_madvise, |at, len| [at, len, 18, 0, 0, 0], &[ENOMEM, EINVAL]),
    ("mlock", libc::SYS_mlock, |at, len| [at, len, 0, 0, 0, 0], &[ENOMEM, EPERM, EINVAL]),
    ("msync", libc::SYS_msync, |at, len| [at, len, 4, 0, 0, 0], &[ENOMEM]),
    (
        "mincore",
        libc::SYS_mincore,
        |at, len| [at, len, &raw const CORE as u64, 0, 0, 0],
        &[ENOMEM, EFAULT],
    ),
    (
        "remap_file_pages",
        libc::SYS_remap_file_pages,
        |at, len| [at, len, 0, 0, 0, 0],
        &[EINVAL, -(libc::ENOSYS as i64)],
    ),
    ("mseal", 462, |at, len| [at, len, 0, 0, 0, 0], &[ENOMEM, EINVAL, -(libc::ENOSYS as i64)]),
    ("a buffer", libc::SYS_getrandom, |at, len| [at, len, 0, 0, 0, 0], &[EFAULT]),
    ("a path", libc::SYS_open, |at, _| [at, 0, 0, 0, 0, 0], &[EFAULT]),
    ("an iovec", libc::SYS_readv, |at, _| [0, at, 1, 0, 0, 0], &[EFAULT, -(libc::EBADF as i64)]),
    ("a futex", libc::SYS_futex, |at, _| [at, 129, 1, 0, 0, 0], &[EFAULT, 0]),
    ("a stack", libc::SYS_sigaltstack, |at, _| [at, 0, 0, 0, 0, 0], &[EFAULT]),
    ("brk", libc::SYS_brk, |at, _| [at, 0, 0, 0, 0, 0], &[]),
];

static CORE: [u8; 16] = [0; 16];

/// What the stub's pages have in them.
fn contents() -> Vec<(u64, bool)> {
    probe::pages().into_iter().map(|page| (page, catch::load(page).is_some())).collect()
}

fn stub_region(attacker: &Attacker, _: u64) {
    let fail = |what: &str| attacker.share.fail(what);
    let before = contents();
    let region = probe::pages().into_iter().filter(|&page| !LOW_TABLE.contains(&page));
    let mut ranges: Vec<(u64, u64)> = region.map(|page| (page, PAGE)).collect();
    // At most a few of each kind; the ends; and what is partly the stub's.
    ranges.truncate(24);
    ranges.extend([(USER_END - PAGE, PAGE), (USER_END - (1 << 20), 1 << 20)]);
    ranges.extend([(USER_END - PAGE, 2 * PAGE), (USER_END, PAGE), (u64::MAX - 4095, PAGE)]);
    for (at, len) in ranges {
        for (name, nr, args, allowed) in TRIES {
            let got = asm::syscall(*nr as u64, args(at, len));
            // Nothing is mapped there as far as the guest can know.
            let fine = allowed.contains(&got) || (*name == "brk" && got > 0);
            if !fine {
                fail(&format!("{name} of {len:#x} bytes at {at:#x}: {got}"));
                return;
            }
            if contents() != before {
                fail(&format!("{name} at {at:#x} changed the stub"));
                return;
            }
        }
        for (name, nr, args) in [
            ("mremap to", libc::SYS_mremap, [own_page(), PAGE, PAGE, 3, at, 0]),
            ("shmat", libc::SYS_shmat, [0, at, 0, 0, 0, 0]),
            ("set_mm", libc::SYS_prctl, [35, 1, at, 0, 0, 0]),
            ("set_robust_list", libc::SYS_set_robust_list, [at, 24, 0, 0, 0, 0]),
            ("set_tid_address", libc::SYS_set_tid_address, [at, 0, 0, 0, 0, 0]),
        ] {
            let got = asm::syscall(nr as u64, args);
            let may = name.starts_with("set_robust") || name.starts_with("set_tid");
            if got >= 0 && !may && probe::is_stub(at) {
                fail(&format!("{name} {at:#x}: {got:#x}"));
            }
        }
    }
    for page in probe::pages() {
        let listed = probe::maps().iter().any(|m| (m.start..m.end).contains(&page));
        if listed && !LOW_TABLE.contains(&page) {
            fail(&format!("/proc/self/maps lists the stub's page {page:#x}"));
        }
    }
    if let Err(what) = health::check() {
        fail(&what);
    }
}

fn own_page() -> u64 {
    let args = [0, PAGE, 3, 0x22, u64::MAX, 0];
    asm::syscall(libc::SYS_mmap as u64, args) as u64
}

/// Guests may have the low addresses, as on Linux.
fn low_table(attacker: &Attacker, _: u64) {
    let fail = |what: &str| attacker.share.fail(what);
    let len = LOW_TABLE.end - LOW_TABLE.start;
    let map = libc::SYS_mmap as u64;
    for round in 0..20 {
        for (at, len) in [
            (LOW_TABLE.start, len),
            (LOW_TABLE.start, PAGE),
            (LOW_TABLE.end - PAGE, PAGE),
            (0x1_0000, 0x10_0000),
        ] {
            let got = asm::syscall(map, [at, len, 3, 0x32, u64::MAX, 0]);
            if got != at as i64 {
                fail(&format!("round {round}: mmap at {at:#x}: {got:#x}"));
                return;
            }
            for word in (at..at + len).step_by(PAGE as usize) {
                if catch::load(word) != Some(0) || !catch::store(word, u64::MAX) {
                    fail(&format!("{word:#x} is not fresh memory"));
                    return;
                }
            }
            if let Err(what) = health::check() {
                fail(&format!("with {at:#x} mapped: {what}"));
            }
            let got = asm::syscall(libc::SYS_mprotect as u64, [at, len, 0, 0, 0, 0]);
            if got != 0 || catch::load(at).is_some() {
                fail(&format!("mprotect at {at:#x}: {got}"));
            }
            let got = asm::syscall(libc::SYS_munmap as u64, [at, len, 0, 0, 0, 0]);
            if got != 0 || catch::store(at, 1) {
                fail(&format!("munmap at {at:#x}: {got}"));
            }
            if let Err(what) = health::check() {
                fail(&format!("with {at:#x} unmapped: {what}"));
            }
        }
        if round % 5 == 4 {
            // SAFETY: the child uses nothing but calls.
            unsafe {
                let child = libc::fork();
                if child == 0 {
                    let got = asm::getpid_loop(100);
                    libc::_exit(i32::from(got != u64::from(std::process::id()) * 100));
                }
                let mut status = 0;
                libc::waitpid(child, &mut status, 0);
                if status != 0 {
                    fail(&format!("a child with low memory: status {status:#x}"));
                }
            }
        }
    }
}

/// Unmaps all that there is, page by page: ends in a fault.
fn everything_below(_: &Attacker, _: u64) {
    let own = calls_page();
    for m in probe::maps() {
        if !(m.start..m.end).contains(&own) && m.start < USER_END {
            asm::syscall(libc::SYS_munmap as u64, [m.start, m.end - m.start, 0, 0, 0, 0]);
        }
    }
    for start in (0..47).map(|bit| 1u64 << bit) {
        asm::syscall(libc::SYS_munmap as u64, [start, start, 0, 0, 0, 0]);
    }
}

fn calls_page() -> u64 {
    everything_below as *const () as u64
}
