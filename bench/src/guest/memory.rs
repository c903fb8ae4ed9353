//! Memory: faults, mappings, and a handler that repairs a fault.

use crate::Row;
use crate::timing::{check, each, few};

/// The rows of this group.
pub(crate) const ROWS: &[Row] = &[
    ("page fault", page_fault),
    ("mmap+touch+munmap 1 MiB", map_mebibyte),
    ("mmap+touch+munmap 4 KiB", map_page),
    ("SIGSEGV handler+mprotect", repair),
];

const PAGE: usize = 4096;

fn map(len: usize) -> *mut u8 {
    // SAFETY: a new mapping anywhere.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert!(at != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
    at.cast()
}

fn touch(at: *mut u8, len: usize) {
    for offset in (0..len).step_by(PAGE) {
        // SAFETY: within the mapping.
        unsafe { at.add(offset).write_volatile(1) };
    }
}

fn unmap(at: *mut u8, len: usize) {
    // SAFETY: a mapping of this module that nothing uses any more.
    unsafe { check(libc::munmap(at.cast(), len)) };
}

fn page_fault() -> Result<f64, String> {
    const LEN: usize = 16 << 20;
    let mut spent = Vec::new();
    for _ in 0..5 {
        let at = map(LEN);
        // No huge pages: the row is about single ones.
        // SAFETY: the mapping above.
        unsafe { libc::madvise(at.cast(), LEN, libc::MADV_NOHUGEPAGE) };
        spent.push(few(1, || {
            touch(at, LEN);
            Ok(())
        })?);
        unmap(at, LEN);
    }
    spent.sort_by(f64::total_cmp);
    Ok(spent[2] / (LEN / PAGE) as f64)
}

fn cycle(len: usize) -> f64 {
    each(|| {
        let at = map(len);
        touch(at, len);
        unmap(at, len);
    })
}

fn map_mebibyte() -> Result<f64, String> {
    Ok(cycle(1 << 20))
}

fn map_page() -> Result<f64, String> {
    Ok(cycle(PAGE))
}

fn repair() -> Result<f64, String> {
    extern "C" fn handler(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the kernel's siginfo; the page is the row's own.
        unsafe {
            let at = (*info).si_addr() as usize & !(PAGE - 1);
            check(libc::mprotect(at as *mut _, PAGE, libc::PROT_READ | libc::PROT_WRITE));
        }
    }
    let at = map(PAGE);
    // SAFETY: an async-signal-safe handler, undone below; the mapping is the row's own.
    unsafe {
        let mut act: libc::sigaction = std::mem::zeroed();
        let mut old: libc::sigaction = std::mem::zeroed();
        act.sa_sigaction = handler as *const () as usize;
        act.sa_flags = libc::SA_SIGINFO;
        check(libc::sigaction(libc::SIGSEGV, &act, &mut old));
        let ns = each(|| {
            check(libc::mprotect(at.cast(), PAGE, libc::PROT_READ));
            at.write_volatile(1);
        });
        check(libc::sigaction(libc::SIGSEGV, &old, std::ptr::null_mut()));
        unmap(at, PAGE);
        Ok(ns)
    }
}
