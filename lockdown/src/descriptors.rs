//! Which file descriptors the process is born with: exactly the named ones, numbered from 0.

use std::io;
use std::os::fd::RawFd;

use crate::error::{Context, Error, Layer};
use crate::sys;

/// Makes descriptor `i` a copy of `keep[i]` for each `i`, and closes all others.
///
/// Only for a process that was just forked and never returns to code that owns descriptors.
pub(crate) fn keep_only(keep: &[RawFd]) -> Result<(), Error> {
    let count = RawFd::try_from(keep.len())
        .map_err(io::Error::other)
        .context(Layer::Descriptors, "counting descriptors")?;
    // First above everything that is to be kept or written, then down to their places: no copy
    // may overwrite one that is still to be copied.
    let floor = keep.iter().copied().max().unwrap_or(0).max(count).saturating_add(1);
    let mut parked = Vec::with_capacity(keep.len());
    for &fd in keep {
        // SAFETY: fcntl with F_DUPFD_CLOEXEC takes no pointers.
        let copy = sys::check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, floor) }.into())
            .context(Layer::Descriptors, format!("copying descriptor {fd}"))?;
        parked.push(copy as RawFd);
    }
    for (place, fd) in parked.into_iter().enumerate() {
        // SAFETY: the descriptor at `place` has no owner left in this process; see above.
        sys::check(unsafe { libc::dup2(fd, place as RawFd) }.into())
            .context(Layer::Descriptors, format!("placing descriptor {place}"))?;
    }
    sys::close_from(count as u32).context(Layer::Descriptors, "close_range")?;
    check(keep.len())
}

/// Lists what is open, whatever was done above: the first `count`, and the list itself.
fn check(count: usize) -> Result<(), Error> {
    let list = || -> io::Result<Vec<usize>> {
        let entries = std::fs::read_dir("/proc/self/fd")?;
        entries
            .map(|entry| Ok(entry?.file_name().to_str().and_then(|s| s.parse().ok())))
            .map(|number| {
                number.and_then(|number| number.ok_or_else(|| io::Error::other("no number")))
            })
            .collect()
    };
    let mut open = list().context(Layer::Descriptors, "listing /proc/self/fd")?;
    open.sort_unstable();
    if open.into_iter().eq(0..=count) {
        return Ok(());
    }
    let odd = io::Error::other("others are open than those that were named");
    Err(Error::new(Layer::Descriptors, "checking /proc/self/fd", odd))
}
