//! A budget of records for each kind: so many at once, so many a second in the long run.
//!
//! Sentry and launcher use the same budgets: the launcher's hold for a Sentry that was taken over.

use std::sync::LazyLock;
use std::time::Instant;

use parking_lot::Mutex;

use super::record::Kind;

const KINDS: usize = Kind::NAMES.len();

/// How many at once, and how many a second.
fn budget(kind: Kind) -> (u64, u64) {
    match kind {
        Kind::Exec | Kind::Connect | Kind::Bind => (200, 100),
        _ => (100, 20),
    }
}

/// One kind's state.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// Spent, in thousandths of a record.
    spent: u64,
    /// When that was, in milliseconds.
    at: u64,
    dropped: u64,
}

/// All kinds' budgets.
#[derive(Debug)]
pub struct Limiter {
    buckets: Mutex<[Bucket; KINDS]>,
    /// How many times the budget there is.
    factor: u64,
}

impl Default for Limiter {
    fn default() -> Limiter {
        Limiter::with_factor(1)
    }
}

impl Limiter {
    /// Budgets this many times as large.
    pub fn with_factor(factor: u64) -> Limiter {
        Limiter { buckets: Mutex::default(), factor }
    }

    /// Takes a record out of its kind's budget. Returns how many were dropped since the last one
    /// that was not, or `None` if this one is to be dropped, too.
    pub fn admit(&self, kind: Kind) -> Option<u64> {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        let now = u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.admit_at(kind, now)
    }

    fn admit_at(&self, kind: Kind, now: u64) -> Option<u64> {
        let (burst, rate) = budget(kind);
        let (burst, rate) = (burst.saturating_mul(self.factor), rate.saturating_mul(self.factor));
        let mut buckets = self.buckets.lock();
        let bucket = &mut buckets[kind as usize];
        // A thousandth of a record a millisecond is one record a second.
        let earned = now.saturating_sub(bucket.at).saturating_mul(rate);
        bucket.spent = bucket.spent.saturating_sub(earned);
        bucket.at = now;
        if bucket.spent.saturating_add(1000) > burst.saturating_mul(1000) {
            bucket.dropped = bucket.dropped.saturating_add(1);
            return None;
        }
        bucket.spent += 1000;
        Some(std::mem::take(&mut bucket.dropped))
    }

    /// So many were dropped for another reason.
    pub fn drop_more(&self, kind: Kind, count: u64) {
        let dropped = &mut self.buckets.lock()[kind as usize].dropped;
        *dropped = dropped.saturating_add(count);
    }

    /// Takes the counts of what was dropped and not told.
    pub fn drain(&self) -> Vec<(Kind, u64)> {
        let mut buckets = self.buckets.lock();
        let counts = Kind::NAMES
            .into_iter()
            .map(|(_, kind)| (kind, std::mem::take(&mut buckets[kind as usize].dropped)));
        counts.filter(|&(_, count)| count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted_and_other_kinds_are_not_touched() {
        let limiter = Limiter::default();
        let sent = (0..1000).filter(|_| limiter.admit_at(Kind::Denied, 5).is_some()).count();
        assert_eq!(sent, 100);
        assert_eq!(limiter.admit_at(Kind::Escape, 5), Some(0));
        assert_eq!(limiter.admit_at(Kind::Denied, 5 + 50), Some(900));
        assert_eq!(limiter.admit_at(Kind::Denied, 5 + 50), None);
        assert_eq!(limiter.drain(), [(Kind::Denied, 1)]);
        assert_eq!(limiter.drain(), []);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_uncounted(gaps in prop::collection::vec(0u64..30, 0..800)) {
            let limiter = Limiter::default();
            let (mut now, mut sent, mut told) = (0, 0, 0);
            for gap in &gaps {
                now += gap;
                if let Some(dropped) = limiter.admit_at(Kind::Limit, now) {
                    sent += 1;
                    told += dropped;
                }
            }
            let rest: u64 = limiter.drain().into_iter().map(|(_, count)| count).sum();
            prop_assert_eq!(sent + told + rest, gaps.len() as u64);
            prop_assert!(sent <= 100 + now * 20 / 1000 + 1);
        }
    }
}
