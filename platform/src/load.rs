//! Whether others want all of the host's CPUs.
//!
//! The Sentry cannot see other processes; `/proc/loadavg` says how many threads of the whole host can
//! run at this moment. Those of this sandbox are taken off, as far as they are known. It is looked at from
//! time to time only, and no single look decides.
//!
//! See proc_loadavg(5).

use std::cell::Cell;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crate::stub::affinity;

/// Processor cycles between two looks. Each takes a microsecond or two.
const INTERVAL: u64 = 1 << 20;
/// So many more looks than not must have found the host full; and what is remembered of that.
const FULL: u32 = 4;
const FULL_MAX: u32 = 8;

static HOST: OnceLock<HostLoad> = OnceLock::new();

/// Threads of this sandbox that want a CPU: guests' that run, and both of each pair that
/// [looks](crate::notify).
static OURS: AtomicUsize = AtomicUsize::new(0);

/// How many of these a pair that looks is.
const PAIR: usize = 2;

thread_local! {
    /// The thread is one of a pair that looks.
    static LOOKS: Cell<bool> = const { Cell::new(false) };
}

/// Tells how many threads can run, and how many CPUs there are for them.
#[derive(Debug)]
pub struct HostLoad {
    loadavg: OwnedFd,
    cpus: usize,
    /// When it was last looked at.
    looked: AtomicU64,
    /// How often it was full of late.
    full: AtomicU32,
}

impl HostLoad {
    /// Opens it. `None` where there is no procfs, or something else in its place.
    pub fn open() -> Option<HostLoad> {
        let loadavg = File::open("/proc/loadavg").ok()?;
        // SAFETY: all-zero is a valid value, which the call overwrites.
        let kind = unsafe {
            let mut stat: libc::statfs = std::mem::zeroed();
            (libc::fstatfs(loadavg.as_raw_fd(), &mut stat) == 0).then_some(stat.f_type)
        };
        // SAFETY: plain call.
        let cpus = usize::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }).ok()?;
        let is_proc = kind == Some(libc::PROC_SUPER_MAGIC);
        (is_proc && cpus > 0).then(|| HostLoad::new(loadavg.into(), cpus))
    }

    /// The same by another descriptor.
    pub fn new(loadavg: OwnedFd, cpus: usize) -> HostLoad {
        HostLoad { loadavg, cpus, looked: AtomicU64::new(0), full: AtomicU32::new(0) }
    }

    /// How many CPUs the host has.
    pub fn cpus(&self) -> usize {
        self.cpus
    }

    /// From now on, this process goes by it. It says nothing to who may use some of the CPUs only.
    pub fn watch(self) {
        if affinity::allowed().len() == self.cpus {
            // Only the first one counts.
            drop(HOST.set(self));
        }
    }

    /// How many threads can run, the caller among them.
    fn runnable(&self) -> Option<usize> {
        let mut bytes = [0; 64];
        // SAFETY: plain system call with a live buffer.
        let len = unsafe {
            libc::pread(self.loadavg.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len(), 0)
        };
        runnable(bytes.get(..usize::try_from(len).ok()?)?)
    }

    /// Whether others than `ours` want all CPUs.
    fn is_full(&self, ours: usize, now: u64) -> bool {
        let looked = self.looked.load(Ordering::Relaxed);
        let (set, get) = (Ordering::Relaxed, Ordering::Relaxed);
        if now.wrapping_sub(looked) > INTERVAL
            && self.looked.compare_exchange(looked, now, set, get).is_ok()
        {
            let full = self.full.load(Ordering::Relaxed);
            let others = self.runnable().map_or(0, |runnable| runnable.saturating_sub(ours));
            let full =
                if others >= self.cpus { (full + 1).min(FULL_MAX) } else { full.saturating_sub(1) };
            self.full.store(full, Ordering::Relaxed);
        }
        self.full.load(Ordering::Relaxed) >= FULL
    }
}

impl AsFd for HostLoad {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.loadavg.as_fd()
    }
}

/// The fourth word is `RUNNABLE/THREADS`.
fn runnable(loadavg: &[u8]) -> Option<usize> {
    let word = str::from_utf8(loadavg).ok()?.split(' ').nth(3)?;
    word.split_once('/')?.0.parse().ok()
}

/// Whether others than this sandbox want all of the host's CPUs, of late, at `now` (in processor cycles).
/// False if nobody knows.
pub(crate) fn is_full(now: u64) -> bool {
    HOST.get().is_some_and(|host| {
        let caller = usize::from(!LOOKS.get());
        host.is_full(OURS.load(Ordering::Relaxed).saturating_add(caller), now)
    })
}

/// A guest begins, or ends, to run guest code. Not one of a pair that looks.
pub(crate) fn set_running(runs: bool) {
    count(1, runs);
}

/// The caller and its guest thread begin, or end, to look for each other's messages.
pub(crate) fn set_looking(looks: bool) {
    count(PAIR, looks);
    LOOKS.set(looks);
}

/// The caller is about to sleep, or woke up: its guest waits as well.
pub(crate) fn set_asleep(asleep: bool) {
    if LOOKS.get() {
        count(PAIR, !asleep);
    }
}

fn count(threads: usize, more: bool) {
    match more {
        true => OURS.fetch_add(threads, Ordering::Relaxed),
        false => OURS.fetch_sub(threads, Ordering::Relaxed),
    };
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;

    #[test]
    fn the_fourth_word_tells() {
        assert_eq!(runnable(b"0.06 2.76 7.18 13/80 20425\n"), Some(13));
        for odd in [&b""[..], b"0.06 2.76 7.18", b"0.06 2.76 7.18 1 2", b"a b c d/e", b"\xff"] {
            assert_eq!(runnable(odd), None);
        }
        let host = HostLoad::open().expect("a host's procfs");
        assert!(host.runnable().expect("loadavg") >= 1);
        assert!(host.cpus() >= affinity::allowed().len());
    }

    #[test]
    fn no_single_look_decides() {
        let mut file = tempfile::tempfile().unwrap();
        let host = HostLoad::new(file.try_clone().unwrap().into(), 2);
        let mut say = |runnable: usize| {
            file.set_len(0).unwrap();
            file.rewind().unwrap();
            writeln!(file, "0.06 2.76 7.18 {runnable}/80 20425").unwrap();
        };
        let mut at = 0;
        let mut look = || {
            at += INTERVAL + 1;
            host.is_full(1, at)
        };
        say(3);
        assert!((1..FULL).all(|_| !look()));
        assert!(look());
        assert!((0..FULL_MAX).all(|_| look()));
        say(2);
        assert!((FULL..FULL_MAX).all(|_| look()));
        assert!(!look());
        // Looked at once in a while only.
        say(3);
        assert!(look());
        say(1);
        assert!(host.is_full(1, at) && host.is_full(1, at + 1));
        // Who is ours is not somebody else.
        say(5);
        assert!(
            (0..2 * FULL_MAX)
                .map(|i| host.is_full(4, at + u64::from(i) * 2 * INTERVAL))
                .any(|full| !full)
        );
    }
}
