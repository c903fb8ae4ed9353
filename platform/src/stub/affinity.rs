//! Which CPUs a thread may run on. Failures only cost time.

use std::sync::OnceLock;

use super::sys::Tid;

/// See [`allowed`].
static ALLOWED: OnceLock<Vec<usize>> = OnceLock::new();

/// Restricts a thread (0: the caller) to some CPUs.
pub(crate) fn set(tid: Tid, cpus: impl IntoIterator<Item = usize>) {
    // SAFETY: all-zero is an empty set, `CPU_SET` ignores numbers that do not fit, and the call
    // reads the set only.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for cpu in cpus {
            libc::CPU_SET(cpu, &mut set);
        }
        libc::sched_setaffinity(tid, size_of_val(&set), &set);
    }
}

/// The CPUs that this process may use: those of the thread that asks first, which must be before any
/// thread was restricted.
pub(crate) fn allowed() -> &'static [usize] {
    ALLOWED.get_or_init(own)
}

/// The CPUs that the caller may use.
fn own() -> Vec<usize> {
    // SAFETY: all-zero is an empty set; the call fills it.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of_val(&set), &mut set);
        set
    };
    // SAFETY: within the set's capacity.
    (0..libc::CPU_SETSIZE as usize).filter(|&c| unsafe { libc::CPU_ISSET(c, &set) }).collect()
}

/// The CPU that the caller is on.
pub(crate) fn here() -> usize {
    // SAFETY: plain system call.
    usize::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(0)
}

/// Makes a sleeping thread wake up on the caller's CPU, and what it clones.
pub(crate) fn bring_here(tid: Tid) {
    set(tid, [here()]);
}

/// Lets a thread (0: the caller) use all CPUs that this process may use.
pub(crate) fn run_anywhere(tid: Tid) {
    set(tid, allowed().iter().copied());
}
