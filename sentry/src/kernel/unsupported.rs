//! Remembers which unsupported calls guests made: each is logged once, and counted.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// Counts of calls that were answered `ENOSYS`, by number.
#[derive(Default)]
pub struct Unsupported {
    counts: Mutex<BTreeMap<u64, u64>>,
}

/// How many different numbers are remembered; the rest is counted under `u64::MAX`.
const BOUND: usize = 1024;

impl Unsupported {
    /// Counts one call, and logs it if it is the first of its number.
    pub fn note(&self, nr: u64) {
        let mut counts = self.counts.lock();
        let key = if counts.len() < BOUND || counts.contains_key(&nr) { nr } else { u64::MAX };
        let count = counts.entry(key).or_insert(0);
        *count += 1;
        if *count == 1 {
            let name = crate::syscalls::entry(nr).map_or("unknown", |e| e.name);
            tracing::info!(nr, name, "unsupported system call");
        }
    }

    /// Number and count of each.
    pub fn counts(&self) -> Vec<(u64, u64)> {
        self.counts.lock().iter().map(|(&nr, &n)| (nr, n)).collect()
    }
}
