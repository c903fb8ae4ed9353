//! A time namespace (time_namespaces(7)): clocks that count since the sandbox's start instead of the
//! host's.
//!
//! They are read as quickly as any (the vDSO knows namespaces), and all that the process forks has
//! them. The wall clock is the host's.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Context, Error, Layer};
use crate::sys::check;

/// `CLONE_NEWTIME`
const CLONE_NEWTIME: i32 = 0x80;
/// What the clocks show at first: programs subtract from what they see.
const START_NS: i64 = 10_000_000_000;
const SECOND: i64 = 1_000_000_000;
/// Not there without `CONFIG_TIME_NS` (since Linux 5.6).
const OFFSETS: &str = "/proc/self/timens_offsets";

/// The calling process is in a namespace that [`enter`] made.
static OWN: AtomicBool = AtomicBool::new(false);

/// Whether the clocks of the calling process, or of what it is a fork of, count since it began.
pub fn are_own() -> bool {
    OWN.load(Ordering::Relaxed)
}

/// Goes into a time namespace of its own. Needs `/proc`, `CAP_SYS_ADMIN` and `CAP_SYS_TIME` in the
/// process's user namespace, and no other thread. A host without such namespaces is none to fail on.
pub(crate) fn enter() -> Result<(), Error> {
    if !fs::exists(OFFSETS).unwrap_or(false) {
        return Ok(());
    }
    // SAFETY: plain number. Only what is forked from now on is in the new namespace.
    check(unsafe { libc::unshare(CLONE_NEWTIME) }.into())
        .context(Layer::Namespaces, "unsharing the time namespace")?;
    let [monotonic, raw, boottime] =
        [libc::CLOCK_MONOTONIC, libc::CLOCK_MONOTONIC_RAW, libc::CLOCK_BOOTTIME].map(now);
    // Those that are not disciplined are apart, and none may be before zero.
    let back = START_NS.saturating_sub(monotonic.min(raw));
    let boottime = back.saturating_add(monotonic).saturating_sub(boottime);
    fs::write(OFFSETS, offsets(back, boottime)).context(Layer::Namespaces, OFFSETS)?;
    let join = || -> io::Result<()> {
        let namespace = File::open("/proc/self/ns/time_for_children")?;
        // SAFETY: a live descriptor.
        check(unsafe { libc::setns(namespace.as_raw_fd(), CLONE_NEWTIME) }.into()).map(drop)
    };
    join().context(Layer::Namespaces, "entering the time namespace")?;
    OWN.store(true, Ordering::Relaxed);
    Ok(())
}

fn now(clock: libc::clockid_t) -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a live buffer.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec.saturating_mul(SECOND).saturating_add(time.tv_nsec)
}

/// The text for the file: seconds, and nanoseconds that are added to them.
fn offsets(monotonic: i64, boottime: i64) -> String {
    let parts = |ns: i64| (ns.div_euclid(SECOND), ns.rem_euclid(SECOND));
    let ((a, b), (c, d)) = (parts(monotonic), parts(boottime));
    format!("monotonic {a} {b}\nboottime {c} {d}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_seconds_down_and_nanoseconds_up() {
        assert_eq!(
            offsets(-1_500_000_000, 2_000_000_001),
            "monotonic -2 500000000\nboottime 2 1\n"
        );
    }
}
