//! The byte-range locks of one inode (`posix_lock_inode` of fs/locks.c), in order: to set, to give up
//! or to test a lock costs as much as looking up what it touches, however many others there are.
//!
//! Owns three views of the same locks: those of each owner, which do not overlap and are as few as can be;
//! all exclusive ones, which nobody else's overlap; and how often each byte is locked for reading.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use super::locks::{LockKind, Owner, RangeLock};

/// What a lock costs at most, in bytes: its entries in all views, in nodes that are half full.
const LOCK_COST: usize = 256;
/// What an owner costs: an entry and a node of its own.
const OWNER_COST: usize = 512;

/// A lock of a known owner; `end` is the last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    end: u64,
    kind: LockKind,
    pid: i32,
}

/// One owner's locks by their first bytes.
type Own = BTreeMap<u64, Held>;

/// See the module.
#[derive(Debug, Default)]
pub struct RangeLocks {
    owners: HashMap<Owner, Own>,
    exclusive: BTreeMap<u64, (u64, Owner)>,
    shared: Readers,
    count: usize,
}

impl RangeLocks {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// What they cost, in bytes.
    pub fn cost(&self) -> usize {
        self.count * LOCK_COST + self.owners.len() * OWNER_COST
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = RangeLock> {
        self.owners.iter().flat_map(|(&owner, own)| {
            own.iter().map(move |(&start, held)| full(owner, start, held))
        })
    }

    /// Somebody else's lock that does not go together with this one: the first in the file.
    pub fn conflict(&self, lock: &RangeLock) -> Option<RangeLock> {
        let writer = overlapping(&self.exclusive, lock.start, lock.end, |(end, _)| *end)
            .find(|(_, (_, owner))| *owner != lock.owner)
            .and_then(|(_, (_, owner))| self.first_of(*owner, lock));
        if lock.kind == LockKind::Shared {
            return writer;
        }
        let reader = match self.shared.other_than(lock.owner, lock.start, lock.end) {
            None => None,
            Some(Others::One(owner)) => self.first_of(owner, lock),
            Some(Others::Many) => {
                let others = self.owners.keys().filter(|owner| **owner != lock.owner);
                others.filter_map(|owner| self.first_of(*owner, lock)).min_by_key(|it| it.start)
            }
        };
        writer.into_iter().chain(reader).min_by_key(|it| it.start)
    }

    /// An owner's first lock that overlaps this one and does not go together with it.
    fn first_of(&self, owner: Owner, lock: &RangeLock) -> Option<RangeLock> {
        let own = self.owners.get(&owner)?;
        let mut all = overlapping(own, lock.start, lock.end, |held| held.end);
        let (start, held) = all.find(|(_, held)| {
            lock.kind == LockKind::Exclusive || held.kind == LockKind::Exclusive
        })?;
        Some(full(owner, start, held))
    }

    /// Whether giving up this range leaves an owner with one lock more.
    pub fn cuts(&self, owner: Owner, start: u64, end: u64) -> bool {
        let around = self.owners.get(&owner).and_then(|own| own.range(..start).next_back());
        around.is_some_and(|(_, held)| held.end > end)
    }

    /// Takes what an owner has in a range. Returns whether that was anything.
    pub fn remove(&mut self, owner: Owner, start: u64, end: u64) -> bool {
        let Some(own) = self.owners.get(&owner) else { return false };
        let gone: Vec<(u64, Held)> =
            overlapping(own, start, end, |held| held.end).map(|(at, held)| (at, *held)).collect();
        for &(at, held) in &gone {
            self.take(owner, at);
            if at < start {
                self.put(owner, at, Held { end: start - 1, ..held });
            }
            if held.end > end {
                self.put(owner, end + 1, held);
            }
        }
        !gone.is_empty()
    }

    /// Sets a lock that conflicts with nothing, in place of what its owner has there.
    pub fn insert(&mut self, lock: RangeLock) {
        let RangeLock { mut start, mut end, kind, owner, pid } = lock;
        self.remove(owner, start, end);
        if let Some(own) = self.owners.get(&owner) {
            let before = own.range(..start).next_back().map(|(&at, held)| (at, *held));
            let after = end.checked_add(1).and_then(|at| Some((at, *own.get(&at)?)));
            if let Some((at, held)) = before
                && held.kind == kind
                && held.end.checked_add(1) == Some(start)
            {
                self.take(owner, at);
                start = at;
            }
            if let Some((at, held)) = after
                && held.kind == kind
            {
                self.take(owner, at);
                end = held.end;
            }
        }
        self.put(owner, start, Held { end, kind, pid });
    }

    /// Adds a lock to all views; the place is free.
    fn put(&mut self, owner: Owner, start: u64, held: Held) {
        self.owners.entry(owner).or_default().insert(start, held);
        match held.kind {
            LockKind::Exclusive => drop(self.exclusive.insert(start, (held.end, owner))),
            LockKind::Shared => self.shared.add(start, held.end, Sharers::one(owner)),
        }
        self.count += 1;
    }

    /// Takes a lock out of all views.
    fn take(&mut self, owner: Owner, start: u64) {
        let Entry::Occupied(mut own) = self.owners.entry(owner) else { return };
        let Some(held) = own.get_mut().remove(&start) else { return };
        if own.get().is_empty() {
            own.remove();
        }
        match held.kind {
            LockKind::Exclusive => drop(self.exclusive.remove(&start)),
            LockKind::Shared => self.shared.add(start, held.end, Sharers::one(owner).negated()),
        }
        self.count -= 1;
    }
}

fn full(owner: Owner, start: u64, held: &Held) -> RangeLock {
    RangeLock { start, end: held.end, kind: held.kind, owner, pid: held.pid }
}

/// What overlaps a range among things that do not overlap one another, in order.
fn overlapping<V>(
    map: &BTreeMap<u64, V>,
    start: u64,
    end: u64,
    last: impl Fn(&V) -> u64,
) -> impl Iterator<Item = (u64, &V)> {
    let before = map.range(..start).next_back().filter(|(_, v)| last(v) >= start);
    before.into_iter().chain(map.range(start..=end)).map(|(&at, v)| (at, v))
}

/// Who reads a byte: how many, and the sum of their numbers, which is the one's if there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sharers {
    count: u64,
    sum: u128,
}

impl Sharers {
    fn one(owner: Owner) -> Sharers {
        let sum = match owner {
            Owner::Files(id) => u128::from(id) << 1,
            Owner::File(id) => u128::from(id) << 1 | 1,
        };
        Sharers { count: 1, sum }
    }

    fn negated(self) -> Sharers {
        Sharers { count: self.count.wrapping_neg(), sum: self.sum.wrapping_neg() }
    }

    fn plus(self, other: Sharers) -> Sharers {
        Sharers {
            count: self.count.wrapping_add(other.count),
            sum: self.sum.wrapping_add(other.sum),
        }
    }
}

/// Who reads what, besides somebody.
enum Others {
    One(Owner),
    Many,
}

/// Who reads which bytes: where that changes, and from there on. Neighbours differ, so there are at most
/// two places for each lock.
#[derive(Debug, Default)]
struct Readers(BTreeMap<u64, Sharers>);

impl Readers {
    fn at(&self, at: u64) -> Sharers {
        self.0.range(..=at).next_back().map_or(Sharers::default(), |(_, sharers)| *sharers)
    }

    /// More of them, or fewer, from `start` to `end`.
    fn add(&mut self, start: u64, end: u64, more: Sharers) {
        let next = end.checked_add(1);
        let beyond = next.map(|at| (at, self.at(at)));
        let first = self.at(start);
        self.0.insert(start, first);
        if let Some((at, sharers)) = beyond {
            self.0.insert(at, sharers);
        }
        self.0.range_mut(start..=end).for_each(|(_, sharers)| *sharers = sharers.plus(more));
        for at in next.into_iter().chain([start]) {
            let before = at.checked_sub(1).map_or(Sharers::default(), |at| self.at(at));
            if self.0.get(&at) == Some(&before) {
                self.0.remove(&at);
            }
        }
    }

    /// Who else reads the first byte of a range that anybody else reads.
    fn other_than(&self, owner: Owner, start: u64, end: u64) -> Option<Others> {
        let own = Sharers::one(owner);
        let later = self.0.range(start..=end).map(|(_, sharers)| *sharers);
        let sharers = std::iter::once(self.at(start)).chain(later);
        let mut others = sharers.filter(|it| it.count > 0 && *it != own);
        let first = others.next()?;
        if first.count > 1 {
            return Some(Others::Many);
        }
        let id = (first.sum >> 1) as u64;
        Some(Others::One(if first.sum & 1 == 0 { Owner::Files(id) } else { Owner::File(id) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same by looking at all locks each time.
    #[derive(Default)]
    struct Model(Vec<RangeLock>);

    impl Model {
        fn conflicts(&self, lock: &RangeLock) -> Vec<RangeLock> {
            let bad = |l: &&RangeLock| {
                l.owner != lock.owner
                    && l.start <= lock.end
                    && lock.start <= l.end
                    && (l.kind == LockKind::Exclusive || lock.kind == LockKind::Exclusive)
            };
            self.0.iter().filter(bad).copied().collect()
        }

        fn remove(&mut self, owner: Owner, start: u64, end: u64) -> bool {
            let all = std::mem::take(&mut self.0);
            let before = all.clone();
            for l in all {
                if l.owner != owner || l.end < start || l.start > end {
                    self.0.push(l);
                    continue;
                }
                if l.start < start {
                    self.0.push(RangeLock { end: start - 1, ..l });
                }
                if l.end > end {
                    self.0.push(RangeLock { start: end + 1, ..l });
                }
            }
            self.0 != before
        }

        fn insert(&mut self, mut lock: RangeLock) {
            self.remove(lock.owner, lock.start, lock.end);
            self.0.retain(|l| {
                let same = l.owner == lock.owner && l.kind == lock.kind;
                let below = same && l.end.checked_add(1) == Some(lock.start);
                let above = same && lock.end.checked_add(1) == Some(l.start);
                if below {
                    lock.start = l.start;
                }
                if above {
                    lock.end = l.end;
                }
                !below && !above
            });
            self.0.push(lock);
        }

        fn sorted(&self) -> Vec<RangeLock> {
            sorted(self.0.clone())
        }
    }

    fn sorted(mut locks: Vec<RangeLock>) -> Vec<RangeLock> {
        locks.sort_by_key(|l| (l.start, l.end, format!("{:?}", l.owner)));
        locks
    }

    /// Bytes near either end of what there is.
    fn place() -> impl Strategy<Value = u64> {
        prop_oneof![0..20u64, u64::MAX - 20..=u64::MAX]
    }

    type Op = (Owner, u64, u64, Option<LockKind>);

    fn op() -> impl Strategy<Value = Op> {
        let kind =
            prop_oneof![Just(None), Just(Some(LockKind::Shared)), Just(Some(LockKind::Exclusive))];
        let owner = prop_oneof![(0..3u64).prop_map(Owner::Files), (0..3u64).prop_map(Owner::File)];
        (owner, place(), place(), kind).prop_map(|(o, a, b, k)| (o, a.min(b), a.max(b), k))
    }

    proptest! {
        #[test]
        fn all_views_match_a_list(ops in proptest::collection::vec(op(), 1..80)) {
            let (mut locks, mut model) = (RangeLocks::default(), Model::default());
            for (owner, start, end, kind) in ops {
                let count = locks.len();
                match kind {
                    None => {
                        let cuts = locks.cuts(owner, start, end);
                        prop_assert_eq!(
                            locks.remove(owner, start, end), model.remove(owner, start, end)
                        );
                        prop_assert_eq!(cuts, locks.len() > count);
                    }
                    Some(kind) => {
                        let lock = RangeLock { start, end, kind, owner, pid: 1 };
                        let bad = model.conflicts(&lock);
                        let found = locks.conflict(&lock);
                        prop_assert_eq!(
                            found.map(|l| l.start), bad.iter().map(|l| l.start).min()
                        );
                        match found {
                            Some(found) => prop_assert!(bad.contains(&found), "{found:?}"),
                            None => {
                                locks.insert(lock);
                                model.insert(lock);
                                prop_assert!(locks.len() <= count + 2);
                            }
                        }
                    }
                }
                prop_assert_eq!(sorted(locks.iter().collect()), model.sorted());
                prop_assert_eq!(locks.len(), model.0.len());
                let exclusive = model.0.iter().filter(|l| l.kind == LockKind::Exclusive).count();
                prop_assert_eq!(locks.exclusive.len(), exclusive);
                prop_assert!(locks.shared.0.len() <= 2 * (locks.len() - exclusive));
            }
            for lock in model.0 {
                locks.remove(lock.owner, lock.start, lock.end);
            }
            prop_assert_eq!((locks.len(), locks.cost()), (0, 0));
            prop_assert!(locks.exclusive.is_empty() && locks.shared.0.is_empty());
        }
    }

    /// Fifty thousand of one owner and as many owners, in bad orders.
    #[test]
    fn many_locks_are_not_walked_over_each_time() {
        const MANY: u64 = 50_000;
        let start = crate::kernel::time::host_ns(libc::CLOCK_THREAD_CPUTIME_ID);
        let set = |locks: &mut RangeLocks, at: u64, kind, owner| {
            let lock = RangeLock { start: at, end: at, kind, owner, pid: 1 };
            assert_eq!(locks.conflict(&lock), None);
            locks.insert(lock);
        };
        let one = |_: u64| Owner::Files(1);
        for owner in [one, Owner::File] {
            for kind in [LockKind::Shared, LockKind::Exclusive] {
                let mut locks = RangeLocks::default();
                (0..MANY).rev().for_each(|n| set(&mut locks, 2 * n, kind, owner(n)));
                let other = RangeLock {
                    start: 1,
                    end: u64::MAX,
                    kind: LockKind::Exclusive,
                    owner: Owner::Files(2),
                    pid: 2,
                };
                for n in 0..MANY {
                    let odd = RangeLock { start: 2 * n + 1, end: 2 * n + 1, ..other };
                    assert_eq!(locks.conflict(&odd), None);
                    assert_eq!(locks.conflict(&other).map(|l| l.start), Some(2));
                }
                assert_eq!(locks.len(), MANY as usize);
                for n in 0..MANY {
                    assert!(locks.remove(owner(n), 2 * n, 2 * n));
                }
                assert_eq!(locks.len(), 0);
            }
        }
        // As many reading all of it: who wants to write is told of one of them.
        let mut locks = RangeLocks::default();
        for n in 0..MANY {
            let all = RangeLock {
                start: 0,
                end: u64::MAX,
                kind: LockKind::Shared,
                owner: Owner::File(n),
                pid: 1,
            };
            assert_eq!(locks.conflict(&all), None);
            locks.insert(all);
        }
        let used = crate::kernel::time::host_ns(libc::CLOCK_THREAD_CPUTIME_ID) - start;
        // One by one, this is billions of steps.
        assert!(used < 3_000_000_000, "{used} ns");
    }
}
