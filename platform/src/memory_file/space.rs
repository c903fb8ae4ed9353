//! Free ranges of the memory file, found by address and by size.
//!
//! One [`FreeSet`] holds holes (never committed, or punched out), another one ranges that were
//! freed but are still committed and dirty. Neighbours are merged, so a set never holds two
//! touching ranges. Pure data: no locks, no host calls.

use std::collections::{BTreeMap, BTreeSet};

/// A set of disjoint, non-touching ranges with best-fit look-up.
#[derive(Default)]
pub(super) struct FreeSet {
    /// Start to length.
    by_start: BTreeMap<u64, u64>,
    /// (Length, start) of the same ranges.
    by_len: BTreeSet<(u64, u64)>,
    bytes: u64,
}

impl FreeSet {
    /// Bytes in the set.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a range that is not in the set, merging it with its neighbours.
    pub(super) fn insert(&mut self, start: u64, len: u64) {
        if len == 0 {
            return;
        }
        let (mut merged_start, mut merged_len) = (start, len);
        let before = self.by_start.range(..start).next_back().map(|(&s, &l)| (s, l));
        if let Some((s, l)) = before
            && s + l == start
        {
            self.forget(s, l);
            merged_start = s;
            merged_len += l;
        }
        if let Some(&l) = self.by_start.get(&(start + len)) {
            self.forget(start + len, l);
            merged_len += l;
        }
        self.remember(merged_start, merged_len);
    }

    /// Takes `len` bytes out of the smallest range that is large enough, at its low end.
    pub(super) fn take_fit(&mut self, len: u64) -> Option<u64> {
        let &(found, start) = self.by_len.range((len, 0)..).next()?;
        self.forget(start, found);
        if found > len {
            self.remember(start + len, found - len);
        }
        Some(start)
    }

    /// Takes exactly `start..start + len` out, if all of it is in the set.
    pub(super) fn take_at(&mut self, start: u64, len: u64) -> bool {
        let Some((s, l)) = self.by_start.range(..=start).next_back().map(|(&s, &l)| (s, l)) else {
            return false;
        };
        if start + len > s + l {
            return false;
        }
        self.forget(s, l);
        if s < start {
            self.remember(s, start - s);
        }
        if start + len < s + l {
            self.remember(start + len, s + l - start - len);
        }
        true
    }

    /// Takes up to `len` bytes from the end of the largest range. `None` when the set is empty.
    pub(super) fn take_from_largest(&mut self, len: u64) -> Option<(u64, u64)> {
        let &(found, start) = self.by_len.iter().next_back()?;
        let taken = found.min(len);
        self.forget(start, found);
        if taken < found {
            self.remember(start, found - taken);
        }
        Some((start + found - taken, taken))
    }

    fn remember(&mut self, start: u64, len: u64) {
        self.by_start.insert(start, len);
        self.by_len.insert((len, start));
        self.bytes += len;
    }

    fn forget(&mut self, start: u64, len: u64) {
        self.by_start.remove(&start);
        self.by_len.remove(&(len, start));
        self.bytes -= len;
    }

    /// All ranges, ascending, as (start, length).
    #[cfg(test)]
    pub(super) fn ranges(&self) -> Vec<(u64, u64)> {
        self.by_start.iter().map(|(&s, &l)| (s, l)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SPAN: u64 = 64;

    #[derive(Debug, Clone)]
    enum Op {
        Insert(u64, u64),
        Fit(u64),
        At(u64, u64),
        Largest(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0..SPAN, 1..12u64).prop_map(|(s, l)| Op::Insert(s, l)),
            (1..12u64).prop_map(Op::Fit),
            (0..SPAN, 1..12u64).prop_map(|(s, l)| Op::At(s, l)),
            (1..12u64).prop_map(Op::Largest),
        ]
    }

    fn runs(model: &[bool]) -> Vec<(u64, u64)> {
        let mut out: Vec<(u64, u64)> = Vec::new();
        for (i, _) in model.iter().enumerate().filter(|(_, free)| **free) {
            match out.last_mut() {
                Some((s, l)) if *s + *l == i as u64 => *l += 1,
                _ => out.push((i as u64, 1)),
            }
        }
        out
    }

    proptest! {
        #[test]
        fn behaves_as_a_bitmap(ops in proptest::collection::vec(op(), 1..80)) {
            let mut set = FreeSet::default();
            let mut model = vec![false; (SPAN + 16) as usize];
            for op in ops {
                match op {
                    Op::Insert(s, l) => {
                        let part = &mut model[s as usize..(s + l) as usize];
                        if part.iter().all(|free| !free) {
                            part.fill(true);
                            set.insert(s, l);
                        }
                    }
                    Op::Fit(len) => {
                        let best = runs(&model).into_iter().filter(|&(_, l)| l >= len)
                            .min_by_key(|&(s, l)| (l, s));
                        let got = set.take_fit(len);
                        prop_assert_eq!(got, best.map(|(s, _)| s));
                        if let Some(s) = got {
                            model[s as usize..(s + len) as usize].fill(false);
                        }
                    }
                    Op::At(s, l) => {
                        let part = &mut model[s as usize..(s + l) as usize];
                        let all = part.iter().all(|free| *free);
                        prop_assert_eq!(set.take_at(s, l), all);
                        if all {
                            part.fill(false);
                        }
                    }
                    Op::Largest(len) => {
                        let got = set.take_from_largest(len);
                        prop_assert_eq!(got.is_none(), runs(&model).is_empty());
                        if let Some((s, l)) = got {
                            let part = &mut model[s as usize..(s + l) as usize];
                            prop_assert!(l <= len && part.iter().all(|free| *free));
                            part.fill(false);
                        }
                    }
                }
                prop_assert_eq!(set.ranges(), runs(&model));
                prop_assert_eq!(set.bytes(), model.iter().filter(|f| **f).count() as u64);
            }
        }
    }
}
