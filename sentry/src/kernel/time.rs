//! The guest's clocks: the host's, read directly.

use crate::vfs::Timespec;

/// Nanoseconds of a host clock; 0 if the host does not have it.
pub fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is a valid out-pointer.
    unsafe { libc::clock_gettime(clock, &mut ts) };
    (ts.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(ts.tv_nsec as u64)
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// The wall clock, coarse as file timestamps are (`CLOCK_REALTIME_COARSE`).
pub fn file_time() -> Timespec {
    let ns = clock_ns(libc::CLOCK_REALTIME_COARSE);
    Timespec { sec: (ns / 1_000_000_000) as i64, nsec: (ns % 1_000_000_000) as u32 }
}
