//! Reference counts of the memory file's pages, as an interval map.
//!
//! A range that has one owner, the common case, is not in the map: only *additional* owners are
//! counted. Pure data: no locks, no host calls.

use std::collections::BTreeMap;

/// Additional owners per range. Ranges are disjoint, counts are at least 1, and touching ranges
/// have different counts.
#[derive(Default)]
pub(super) struct Shares {
    /// Start to (end, additional owners).
    map: BTreeMap<u64, (u64, u32)>,
}

impl Shares {
    /// Counts one more owner for every page of the range. False, with nothing changed, when a
    /// count would overflow.
    pub(super) fn add(&mut self, start: u64, end: u64) -> bool {
        if self.overlapping(start, end).any(|(_, _, count)| count == u32::MAX) {
            return false;
        }
        self.split(start);
        self.split(end);
        let mut at = start;
        while at < end {
            match self.map.range_mut(at..end).next() {
                Some((&s, (e, count))) if s == at => {
                    *count += 1;
                    at = *e;
                }
                Some((&s, _)) => {
                    self.map.insert(at, (s, 1));
                    at = s;
                }
                None => {
                    self.map.insert(at, (end, 1));
                    at = end;
                }
            }
        }
        self.merge(start, end);
        true
    }

    /// Counts one owner less for every page of the range, and calls `free(start, end)` for the
    /// parts that had no other owner.
    pub(super) fn remove(&mut self, start: u64, end: u64, mut free: impl FnMut(u64, u64)) {
        self.split(start);
        self.split(end);
        let mut at = start;
        while at < end {
            let Some((s, (e, count))) = self.map.range(at..end).next().map(|(&s, &v)| (s, v))
            else {
                free(at, end);
                break;
            };
            if at < s {
                free(at, s);
            }
            if count == 1 {
                self.map.remove(&s);
            } else {
                self.map.insert(s, (e, count - 1));
            }
            at = e;
        }
        self.merge(start, end);
    }

    /// Whether any page of the range has more than one owner.
    pub(super) fn any(&self, start: u64, end: u64) -> bool {
        self.overlapping(start, end).next().is_some()
    }

    fn overlapping(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64, u32)> {
        let before = self.map.range(..start).next_back().filter(|(_, v)| v.0 > start);
        before.into_iter().chain(self.map.range(start..end)).map(|(&s, &(e, c))| (s, e, c))
    }

    /// Makes `at` a border between ranges.
    fn split(&mut self, at: u64) {
        if let Some((_, range)) = self.map.range_mut(..at).next_back()
            && range.0 > at
        {
            let tail = *range;
            range.0 = at;
            self.map.insert(at, tail);
        }
    }

    /// Merges touching ranges with equal counts in and around `start..end`.
    fn merge(&mut self, start: u64, end: u64) {
        let first = self.map.range(..start).next_back().map_or(start, |(&s, _)| s);
        let mut at = first;
        while at <= end
            && let Some((s, (e, count))) = self.map.range(at..=end).next().map(|(&s, &v)| (s, v))
        {
            match self.map.get(&e).copied() {
                Some((next_end, next_count)) if next_count == count && e <= end => {
                    self.map.remove(&e);
                    self.map.insert(s, (next_end, count));
                    at = s;
                }
                _ => at = e,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_as_counters(ops in proptest::collection::vec((any::<bool>(), 0..40u64, 1..20u64), 1..80)) {
            let mut shares = Shares::default();
            // Owners per page; every page starts with one.
            let mut model = vec![1u32; 64];
            for (add, start, len) in ops {
                let end = start + len;
                let part = &mut model[start as usize..end as usize];
                if add {
                    prop_assert!(shares.add(start, end));
                    part.iter_mut().for_each(|c| *c += 1);
                } else {
                    let mut freed = Vec::new();
                    shares.remove(start, end, |s, e| freed.extend(s..e));
                    let expected: Vec<u64> =
                        (start..end).filter(|&i| part[(i - start) as usize] == 1).collect();
                    prop_assert_eq!(freed, expected);
                    // What was freed is handed out again at once, with one owner.
                    part.iter_mut().for_each(|c| *c = (*c - 1).max(1));
                }
                for i in 0..64 {
                    prop_assert_eq!(shares.any(i, i + 1), model[i as usize] > 1, "page {}", i);
                }
                let flat: Vec<_> = shares.map.iter().map(|(&s, &(e, c))| (s, e, c)).collect();
                for pair in flat.windows(2) {
                    prop_assert!(pair[0].1 < pair[1].0 || pair[0].2 != pair[1].2);
                }
                for &(s, e, c) in &flat {
                    prop_assert!((s..e).all(|i| model[i as usize] == c + 1));
                }
            }
        }
    }

    #[test]
    fn overflow_changes_nothing() {
        let mut shares = Shares::default();
        shares.map.insert(4, (8, u32::MAX));
        assert!(!shares.add(0, 16));
        assert_eq!(shares.map.len(), 1);
    }
}
