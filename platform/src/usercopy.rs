//! Copies to and from memory that a guest can write, or that a shrinking host file can take away.
//! Raw pointers, moves with fault fix-up; never a Rust reference (DESIGN section 2, rule 3).
//!
//! [`install_fault_handler`] must have run before the first access that can fault; creating a
//! memory file does it.

use std::io::Write;
use std::sync::Once;

use crate::arch::copy as routines;

/// Installs the process-wide SIGSEGV and SIGBUS handler. It continues the routines of this module
/// after a fault of theirs. Any other fault is a bug: it is reported on stderr and then takes the
/// default action. Further calls do nothing.
///
/// # Panics
/// When the host refuses a handler, which it has no reason to.
pub fn install_fault_handler() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        for signal in [libc::SIGSEGV, libc::SIGBUS] {
            // SAFETY: all-zero is a valid sigaction.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            action.sa_sigaction = on_fault as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            // SAFETY: the handler only does what is safe in a signal handler.
            let result = unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) };
            assert_eq!(result, 0, "sigaction: {}", std::io::Error::last_os_error());
        }
    });
}

extern "C" fn on_fault(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: `info` and `context` come from the kernel.
    let (handled, code, addr, rip) = unsafe {
        (
            (*info).si_code > 0 && routines::apply_fixup(context),
            (*info).si_code,
            (*info).si_addr() as u64,
            routines::fault_rip(context),
        )
    };
    if handled {
        return;
    }
    report(signal, code, addr, rip);
    // SAFETY: setting the default action; the access is then repeated and kills the process, and
    // a signal that somebody sent is raised again.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        if code <= 0 {
            libc::raise(signal);
        }
    }
}

/// Says what went wrong, without allocating.
fn report(signal: i32, code: i32, addr: u64, rip: u64) {
    let mut line = [0u8; 160];
    let room = line.len();
    let mut rest = &mut line[..];
    let _ = writeln!(
        rest,
        "rsentry: unexpected signal {signal} (code {code}) at {rip:#x}, address {addr:#x}"
    );
    let used = room - rest.len();
    // SAFETY: writes initialised bytes of a local buffer.
    unsafe { libc::write(2, line.as_ptr().cast(), used) };
}

/// Copies `len` bytes from guest-shared memory. Returns the bytes copied; fewer than `len` means
/// that the rest faulted.
///
/// # Safety
/// `dst` must be valid for writes of `len` bytes, or be guest-shared memory as well. `src` may be
/// any address inside a mapping that the Sentry made of the memory file or of a host file.
pub unsafe fn copy_from(dst: *mut u8, src: *const u8, len: usize) -> usize {
    // SAFETY: the caller's promise; a fault ends the copy early.
    unsafe { routines::rsentry_copy(dst, src, len) }
}

/// Copies `len` bytes into guest-shared memory. Returns the bytes copied.
///
/// # Safety
/// `src` must be valid for reads of `len` bytes; `dst` as `src` in [`copy_from`].
pub unsafe fn copy_to(dst: *mut u8, src: *const u8, len: usize) -> usize {
    // SAFETY: the caller's promise; a fault ends the copy early.
    unsafe { routines::rsentry_copy(dst, src, len) }
}

/// Clears `len` bytes of guest-shared memory. Returns the bytes cleared.
///
/// # Safety
/// `dst` as `src` in [`copy_from`].
pub unsafe fn zero(dst: *mut u8, len: usize) -> usize {
    // SAFETY: the caller's promise; a fault ends the clearing early.
    unsafe { routines::rsentry_zero(dst, len) }
}

fn value(word: routines::Word) -> Option<u64> {
    (word.ok != 0).then_some(word.value)
}

/// Reads a word in one access, atomically if `at` is aligned. `None` if it faulted.
///
/// # Safety
/// As `src` in [`copy_from`].
pub unsafe fn load_u32(at: *const u8) -> Option<u32> {
    // SAFETY: the caller's promise.
    value(unsafe { routines::rsentry_load_u32(at) }).map(|v| v as u32)
}

/// Reads a double word in one access, atomically if `at` is aligned. `None` if it faulted.
///
/// # Safety
/// As `src` in [`copy_from`].
pub unsafe fn load_u64(at: *const u8) -> Option<u64> {
    // SAFETY: the caller's promise.
    value(unsafe { routines::rsentry_load_u64(at) })
}

/// Writes a word atomically and sequentially consistently; returns what was there. `None` if it
/// faulted.
///
/// # Safety
/// As `src` in [`copy_from`]; aligned, for a locked access across cache lines stalls the machine.
pub unsafe fn swap_u32(at: *mut u8, new: u32) -> Option<u32> {
    // SAFETY: the caller's promise.
    value(unsafe { routines::rsentry_swap_u32(at, new) }).map(|v| v as u32)
}

/// As [`swap_u32`] for a double word.
///
/// # Safety
/// As [`swap_u32`].
pub unsafe fn swap_u64(at: *mut u8, new: u64) -> Option<u64> {
    // SAFETY: the caller's promise.
    value(unsafe { routines::rsentry_swap_u64(at, new) })
}

/// Writes a word. `None` if it faulted.
///
/// # Safety
/// As [`swap_u32`].
pub unsafe fn store_u32(at: *mut u8, new: u32) -> Option<()> {
    // SAFETY: the caller's promise.
    unsafe { swap_u32(at, new) }.map(|_| ())
}

/// Replaces a word if it is `expected`; returns what was there, so that success is a result equal
/// to `expected`. `None` if it faulted.
///
/// # Safety
/// As [`swap_u32`].
pub unsafe fn compare_exchange_u32(at: *mut u8, expected: u32, new: u32) -> Option<u32> {
    // SAFETY: the caller's promise.
    value(unsafe { routines::rsentry_cmpxchg_u32(at, expected, new) }).map(|v| v as u32)
}

/// As [`compare_exchange_u32`] for a double word.
///
/// # Safety
/// As [`swap_u32`].
pub unsafe fn compare_exchange_u64(at: *mut u8, expected: u64, new: u64) -> Option<u64> {
    // SAFETY: the caller's promise.
    value(unsafe { routines::rsentry_cmpxchg_u64(at, expected, new) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    /// Two pages of which the second cannot be accessed.
    struct Cliff(*mut u8);

    impl Cliff {
        fn prot_none() -> Cliff {
            // SAFETY: a new mapping of our own.
            unsafe {
                let base = libc::mmap(
                    std::ptr::null_mut(),
                    8192,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    -1,
                    0,
                );
                assert_ne!(base, libc::MAP_FAILED);
                assert_eq!(libc::mprotect(base.add(4096), 4096, libc::PROT_NONE), 0);
                Cliff(base.cast())
            }
        }

        fn truncated() -> Cliff {
            let file = tempfile();
            file.set_len(4096).unwrap();
            // SAFETY: a new mapping of our own.
            let base = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    8192,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_SHARED,
                    file.as_raw_fd(),
                    0,
                )
            };
            assert_ne!(base, libc::MAP_FAILED);
            Cliff(base.cast())
        }

        /// The address `n` bytes before the edge.
        fn before(&self, n: usize) -> *mut u8 {
            // SAFETY: inside the first page.
            unsafe { self.0.add(4096 - n) }
        }
    }

    impl Drop for Cliff {
        fn drop(&mut self) {
            // SAFETY: our own mapping.
            unsafe { libc::munmap(self.0.cast(), 8192) };
        }
    }

    fn tempfile() -> std::fs::File {
        use std::os::fd::FromRawFd;
        // SAFETY: a new descriptor that nobody else owns.
        unsafe {
            let fd = libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC);
            assert!(fd >= 0);
            std::fs::File::from_raw_fd(fd)
        }
    }

    #[test]
    fn copies_stop_exactly_at_the_edge() {
        install_fault_handler();
        for cliff in [Cliff::prot_none(), Cliff::truncated()] {
            for len in 0..300usize {
                for short in [0, 1, 3, 7, 16, 33, len] {
                    let here = len.saturating_sub(short).min(len);
                    let data: Vec<u8> = (0..len).map(|i| i as u8 ^ 0x5c).collect();
                    let at = cliff.before(here);
                    let mut back = vec![0u8; len];
                    // SAFETY: the buffers are `len` long; the cliff may fault.
                    unsafe {
                        assert_eq!(copy_to(at, data.as_ptr(), len), here);
                        assert_eq!(copy_from(back.as_mut_ptr(), at, len), here);
                        assert_eq!(back[..here], data[..here]);
                        assert!(back[here..].iter().all(|&b| b == 0));
                        assert_eq!(zero(at, len), here);
                        assert_eq!(copy_from(back.as_mut_ptr(), at, len), here);
                        assert!(back.iter().all(|&b| b == 0));
                    }
                }
            }
        }
    }

    #[test]
    fn words_work_or_fault() {
        install_fault_handler();
        for cliff in [Cliff::prot_none(), Cliff::truncated()] {
            let (good, bad) = (cliff.before(8), cliff.before(0));
            // SAFETY: both may fault, which is what is tested.
            unsafe {
                assert_eq!(swap_u64(good, 0x1_0000_0002), Some(0));
                assert_eq!(load_u64(good), Some(0x1_0000_0002));
                assert_eq!(load_u32(good), Some(2));
                assert_eq!(compare_exchange_u32(good, 2, 5), Some(2));
                assert_eq!(compare_exchange_u32(good, 2, 6), Some(5));
                assert_eq!(compare_exchange_u64(good, 0x1_0000_0005, 9), Some(0x1_0000_0005));
                assert_eq!(store_u32(good, u32::MAX), Some(()));
                assert_eq!(swap_u32(good, 0), Some(u32::MAX));
                assert_eq!(load_u64(good), Some(0));
                assert_eq!(load_u32(bad), None);
                assert_eq!(load_u64(bad), None);
                assert_eq!(store_u32(bad, 1), None);
                assert_eq!(swap_u64(bad, 1), None);
                assert_eq!(compare_exchange_u32(bad, 0, 1), None);
                assert_eq!(compare_exchange_u64(bad, 0, 1), None);
            }
        }
    }

    #[test]
    fn another_fault_still_kills() {
        install_fault_handler();
        // SAFETY: the child does nothing but fault.
        unsafe {
            let pid = libc::fork();
            if pid == 0 {
                let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                libc::setrlimit(libc::RLIMIT_CORE, &none);
                libc::close(2);
                std::ptr::read_volatile(std::ptr::without_provenance::<u8>(8));
                libc::_exit(0);
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
            assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV);
        }
    }
}
