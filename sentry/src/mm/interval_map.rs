//! A map from disjoint, non-empty address ranges to values that can be split and joined.
//!
//! Used for VMAs, PMAs and the pages of shared-memory objects. Plain data, no locks.

use std::collections::BTreeMap;
use std::ops::Range;

/// A value that covers a range.
pub trait Segment: Sized {
    /// Cuts the value in two: `self` keeps the first `at` bytes, the rest is returned. `at` lies
    /// strictly inside.
    fn split_off(&mut self, at: u64) -> Self;
    /// Joins `next`, which directly follows the `len` bytes that `self` covers. Gives `next` back
    /// if the two must stay apart.
    fn try_merge(&mut self, len: u64, next: Self) -> Result<(), Self>;
}

struct Entry<V> {
    end: u64,
    value: V,
}

/// See the module.
pub struct IntervalMap<V> {
    map: BTreeMap<u64, Entry<V>>,
}

impl<V> Default for IntervalMap<V> {
    fn default() -> Self {
        IntervalMap { map: BTreeMap::new() }
    }
}

impl<V: Segment> IntervalMap<V> {
    /// An empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of ranges.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there is no range at all.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The range that contains `at`.
    pub fn get(&self, at: u64) -> Option<(Range<u64>, &V)> {
        let (start, entry) = self.map.range(..=at).next_back()?;
        (at < entry.end).then_some((*start..entry.end, &entry.value))
    }

    /// The range that contains `at`, with its value to be changed in place.
    pub fn get_mut(&mut self, at: u64) -> Option<(Range<u64>, &mut V)> {
        let (start, entry) = self.map.range_mut(..=at).next_back()?;
        (at < entry.end).then_some((*start..entry.end, &mut entry.value))
    }

    /// The first range that ends above `at`: the one that contains it, else the next one
    /// (`find_vma`).
    pub fn find(&self, at: u64) -> Option<(Range<u64>, &V)> {
        self.get(at).or_else(|| self.next(at))
    }

    /// The first range that starts at or above `at`.
    pub fn next(&self, at: u64) -> Option<(Range<u64>, &V)> {
        self.map.range(at..).next().map(|(start, entry)| (*start..entry.end, &entry.value))
    }

    /// The last range that ends at or below `at`.
    pub fn prev(&self, at: u64) -> Option<(Range<u64>, &V)> {
        self.map
            .range(..at)
            .rev()
            .map(|(start, entry)| (*start..entry.end, &entry.value))
            .find(|(range, _)| range.end <= at)
    }

    /// The last range that starts below `at`.
    pub fn below(&self, at: u64) -> Option<(Range<u64>, &V)> {
        self.map.range(..at).next_back().map(|(start, entry)| (*start..entry.end, &entry.value))
    }

    /// All ranges in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (Range<u64>, &V)> {
        self.map.iter().map(|(start, entry)| (*start..entry.end, &entry.value))
    }

    /// All ranges that touch `range`, whole, in order.
    pub fn overlapping(&self, range: Range<u64>) -> impl Iterator<Item = (Range<u64>, &V)> {
        let first = self.get(range.start).map_or(range.start, |(found, _)| found.start);
        let last = range.end.max(first);
        self.map.range(first..last).map(|(start, entry)| (*start..entry.end, &entry.value))
    }

    /// As [`Self::overlapping`], with the values to be changed in place.
    pub fn overlapping_mut(
        &mut self,
        range: Range<u64>,
    ) -> impl Iterator<Item = (Range<u64>, &mut V)> {
        let first = self.get(range.start).map_or(range.start, |(found, _)| found.start);
        let last = range.end.max(first);
        self.map.range_mut(first..last).map(|(start, entry)| (*start..entry.end, &mut entry.value))
    }

    /// The largest unused range around `at`, within `bounds`; `None` if `at` is used.
    pub fn gap_around(&self, at: u64, bounds: Range<u64>) -> Option<Range<u64>> {
        let start = match self.map.range(..=at).next_back() {
            Some((_, entry)) if entry.end > at => return None,
            Some((_, entry)) => entry.end.max(bounds.start),
            None => bounds.start,
        };
        let end = self.map.range(at..).next().map_or(bounds.end, |(start, _)| *start);
        Some(start..end.min(bounds.end))
    }

    /// Makes `at` a border between two ranges if it lies inside one.
    pub fn split_at(&mut self, at: u64) {
        let Some((start, entry)) = self.map.range_mut(..at).next_back() else { return };
        if entry.end <= at {
            return;
        }
        let end = std::mem::replace(&mut entry.end, at);
        let value = entry.value.split_off(at - *start);
        self.map.insert(at, Entry { end, value });
    }

    /// Takes everything out of `range`, cutting ranges that cross its borders.
    pub fn take(&mut self, range: Range<u64>) -> Vec<(Range<u64>, V)> {
        let touched =
            || self.map.range(..range.end).next_back().is_some_and(|(_, e)| e.end > range.start);
        if range.is_empty() || !touched() {
            return Vec::new();
        }
        self.split_at(range.start);
        self.split_at(range.end);
        self.map.extract_if(range, |_, _| true).map(|(start, e)| (start..e.end, e.value)).collect()
    }

    /// Inserts a value into an unused range and joins it with its neighbours where they allow.
    /// What the range may have overlapped is dropped first (callers have taken it).
    pub fn insert(&mut self, range: Range<u64>, value: V) {
        if range.is_empty() {
            return;
        }
        drop(self.take(range.clone()));
        let Range { start, mut end } = range;
        let mut value = value;
        if let Some(after) = self.map.remove(&end) {
            match value.try_merge(end - start, after.value) {
                Ok(()) => end = after.end,
                Err(back) => {
                    self.map.insert(end, Entry { end: after.end, value: back });
                }
            }
        }
        // Most often a range grows at its end: then nothing is moved.
        if let Some((before, entry)) = self.map.range_mut(..start).next_back()
            && entry.end == start
        {
            match entry.value.try_merge(start - before, value) {
                Ok(()) => {
                    entry.end = end;
                    return;
                }
                Err(back) => value = back,
            }
        }
        self.map.insert(start, Entry { end, value });
    }

    /// Whether every byte of `range` is covered.
    pub fn covers(&self, range: Range<u64>) -> bool {
        let mut at = range.start;
        while at < range.end {
            match self.get(at) {
                Some((found, _)) => at = found.end,
                None => return false,
            }
        }
        true
    }

    /// Takes everything.
    pub fn clear(&mut self) -> Vec<(Range<u64>, V)> {
        std::mem::take(&mut self.map).into_iter().map(|(s, e)| (s..e.end, e.value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A run of a colour that also has a position, like a file mapping: joins only where the
    /// positions follow each other.
    #[derive(Clone, Debug, PartialEq)]
    struct Run {
        colour: u8,
        offset: u64,
    }

    impl Segment for Run {
        fn split_off(&mut self, at: u64) -> Self {
            Run { colour: self.colour, offset: self.offset + at }
        }
        fn try_merge(&mut self, len: u64, next: Self) -> Result<(), Self> {
            if self.colour == next.colour && self.offset + len == next.offset {
                return Ok(());
            }
            Err(next)
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Insert(Range<u64>, u8, u64),
        Take(Range<u64>),
        Split(u64),
    }

    const SPACE: u64 = 64;

    fn range() -> impl Strategy<Value = Range<u64>> {
        (0..SPACE, 0..12u64).prop_map(|(start, len)| start..(start + len).min(SPACE))
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            // Two offsets bases per colour, so that neighbours often do join.
            (range(), 0..3u8, 0..2u64).prop_map(|(r, c, base)| {
                let offset = base * 1000 + r.start;
                Op::Insert(r, c, offset)
            }),
            range().prop_map(Op::Take),
            (0..SPACE).prop_map(Op::Split),
        ]
    }

    fn check(map: &IntervalMap<Run>, model: &[Option<Run>]) {
        let mut end_before = 0;
        for (range, value) in map.iter() {
            assert!(range.start < range.end && range.start >= end_before);
            end_before = range.end;
            for at in range.clone() {
                let expected =
                    Run { colour: value.colour, offset: value.offset + at - range.start };
                assert_eq!(model[at as usize].as_ref(), Some(&expected));
            }
        }
        for at in 0..SPACE {
            let here = model[at as usize].is_some();
            assert_eq!(map.get(at).is_some(), here);
            assert_eq!(map.gap_around(at, 0..SPACE).is_none(), here);
            if let Some(gap) = map.gap_around(at, 0..SPACE) {
                assert!(gap.contains(&at));
                assert!(gap.clone().all(|x| model[x as usize].is_none()));
                assert!(gap.start == 0 || model[gap.start as usize - 1].is_some());
                assert!(gap.end == SPACE || model[gap.end as usize].is_some());
            }
            let next = (at..SPACE).find(|x| model[*x as usize].is_some());
            assert_eq!(map.find(at).map(|(r, _)| r.start.max(at)), next);
        }
    }

    proptest! {
        #[test]
        fn behaves_like_an_array(ops in proptest::collection::vec(op(), 1..60)) {
            let mut map = IntervalMap::new();
            let mut model: Vec<Option<Run>> = vec![None; SPACE as usize];
            for op in ops {
                match op {
                    Op::Insert(range, colour, offset) => {
                        map.insert(range.clone(), Run { colour, offset });
                        for at in range.clone() {
                            model[at as usize] =
                                Some(Run { colour, offset: offset + at - range.start });
                        }
                    }
                    Op::Take(range) => {
                        let taken = map.take(range.clone());
                        for (found, value) in &taken {
                            prop_assert!(found.start >= range.start && found.end <= range.end);
                            for at in found.clone() {
                                let run = Run {
                                    colour: value.colour,
                                    offset: value.offset + at - found.start,
                                };
                                prop_assert_eq!(model[at as usize].take(), Some(run));
                            }
                        }
                        for at in range {
                            prop_assert!(model[at as usize].is_none());
                        }
                    }
                    Op::Split(at) => map.split_at(at),
                }
                check(&map, &model);
            }
        }

        #[test]
        fn overlapping_finds_what_touches(ops in proptest::collection::vec(op(), 1..30), probe in range()) {
            let mut map = IntervalMap::new();
            for op in ops {
                if let Op::Insert(range, colour, offset) = op {
                    map.insert(range, Run { colour, offset });
                }
            }
            let expected: Vec<_> = map
                .iter()
                .map(|(r, _)| r)
                .filter(|r| !probe.is_empty() && r.start < probe.end && probe.start < r.end)
                .collect();
            if !probe.is_empty() {
                let found: Vec<_> = map.overlapping(probe.clone()).map(|(r, _)| r).collect();
                prop_assert_eq!(found, expected);
            }
            let covered = probe.clone().all(|at| map.get(at).is_some());
            prop_assert_eq!(map.covers(probe), covered);
        }
    }

    #[test]
    fn neighbours_join_in_both_directions() {
        let mut map = IntervalMap::new();
        map.insert(0..10, Run { colour: 1, offset: 0 });
        map.insert(20..30, Run { colour: 1, offset: 20 });
        map.insert(10..20, Run { colour: 1, offset: 10 });
        assert_eq!(map.len(), 1);
        assert_eq!(map.get(15).map(|(r, _)| r), Some(0..30));
    }
}
