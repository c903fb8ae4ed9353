//! File locks: flock(2), and the byte-range locks of fcntl(2), traditional and of open files
//! (fs/locks.c).
//!
//! Owns one table for all inodes, by [`InodeKey`]; its lock is a leaf but for the wait queues. A
//! waiter registers with its inode's queue, looks again, and sleeps.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use abi::Errno;
use parking_lot::Mutex;

use super::InodeKey;
use crate::kernel::{Events, Task, WaitQueue};
use crate::kmem::Growing;

/// How many locks there may be in all (`ENOLCK`).
const MAX_LOCKS: usize = 1 << 17;
/// So many are not counted for the sandbox's memory.
const FREE: usize = 64;

/// Shared or exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// `LOCK_SH`, `F_RDLCK`
    Shared,
    /// `LOCK_EX`, `F_WRLCK`
    Exclusive,
}

/// Who owns a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A descriptor table: traditional record locks.
    Files(u64),
    /// An open file: `F_OFD_*`, and flock(2).
    File(u64),
}

/// A byte-range lock; `end` is the last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct RangeLock {
    pub start: u64,
    pub end: u64,
    pub kind: LockKind,
    pub owner: Owner,
    /// The process that set it; -1 for one of an open file.
    pub pid: i32,
}

impl RangeLock {
    fn overlaps(&self, other: &RangeLock) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    fn conflicts(&self, other: &RangeLock) -> bool {
        self.owner != other.owner
            && self.overlaps(other)
            && (self.kind == LockKind::Exclusive || other.kind == LockKind::Exclusive)
    }
}

/// The byte-range locks of one inode. Those of one owner do not overlap and are as few as can be.
#[derive(Default)]
struct RangeLocks(Vec<RangeLock>);

impl RangeLocks {
    fn conflict(&self, lock: &RangeLock) -> Option<RangeLock> {
        self.0.iter().filter(|l| l.conflicts(lock)).min_by_key(|l| l.start).copied()
    }

    /// Takes what `owner` has in a range.
    fn remove(&mut self, owner: Owner, start: u64, end: u64) -> bool {
        let before = self.0.len();
        let mut cut = Vec::new();
        self.0.retain(|l| {
            if l.owner != owner || l.end < start || l.start > end {
                return true;
            }
            if l.start < start {
                cut.push(RangeLock { end: start - 1, ..*l });
            }
            if l.end > end {
                cut.push(RangeLock { start: end + 1, ..*l });
            }
            false
        });
        let changed = self.0.len() != before;
        self.0.append(&mut cut);
        changed
    }

    /// Sets a lock that conflicts with nothing, in place of what its owner has there.
    fn insert(&mut self, mut lock: RangeLock) {
        self.remove(lock.owner, lock.start, lock.end);
        let touches = |l: &RangeLock| {
            l.owner == lock.owner
                && l.kind == lock.kind
                && (l.end.checked_add(1) == Some(lock.start)
                    || lock.end.checked_add(1) == Some(l.start))
        };
        let neighbours: Vec<RangeLock> = self.0.iter().filter(|l| touches(l)).copied().collect();
        self.0.retain(|l| !neighbours.contains(l));
        for n in neighbours {
            lock.start = lock.start.min(n.start);
            lock.end = lock.end.max(n.end);
        }
        self.0.push(lock);
    }
}

#[derive(Default)]
struct InodeLocks {
    ranges: RangeLocks,
    whole: Vec<(Owner, LockKind, i32)>,
    queue: WaitQueue,
}

impl InodeLocks {
    fn count(&self) -> usize {
        self.ranges.0.len() + self.whole.len()
    }
}

#[derive(Default)]
struct Table {
    inodes: HashMap<InodeKey, InodeLocks>,
    /// Owners that wait for a record lock, and for whom.
    waiting: HashMap<Owner, Owner>,
    /// What all locks cost, but for the first.
    memory: Growing,
}

static TABLE: LazyLock<Mutex<Table>> = LazyLock::new(Mutex::default);
/// Locks in the table, so that close(2) need not look when there are none.
static COUNT: AtomicUsize = AtomicUsize::new(0);

impl Table {
    /// Runs `f` on an inode's locks, keeps the count, and drops the entry if it is empty.
    fn edit<T>(&mut self, key: InodeKey, f: impl FnOnce(&mut InodeLocks) -> T) -> T {
        let locks = self.inodes.entry(key).or_default();
        let before = locks.count();
        let result = f(locks);
        let after = locks.count();
        COUNT.fetch_add(after, Ordering::Relaxed);
        COUNT.fetch_sub(before, Ordering::Relaxed);
        if after == 0 {
            self.inodes.remove(&key);
        }
        result
    }

    /// Whether there may be one more, or a lock cut in two.
    fn has_room(&mut self) -> bool {
        let count = COUNT.load(Ordering::Relaxed);
        count < MAX_LOCKS && self.memory.cover((count + 2).saturating_sub(FREE) * COST)
    }

    /// Whether waiting for `holder` would close a circle back to `owner`.
    fn deadlocks(&self, owner: Owner, mut holder: Owner) -> bool {
        for _ in 0..64 {
            if holder == owner {
                return true;
            }
            match self.waiting.get(&holder) {
                Some(next) => holder = *next,
                None => return false,
            }
        }
        false
    }
}

/// What a lock costs.
const COST: usize = 128;

/// The lock that would keep `lock` from being set (`F_GETLK`).
pub fn test_range(key: InodeKey, lock: &RangeLock) -> Option<RangeLock> {
    TABLE.lock().inodes.get(&key)?.ranges.conflict(lock)
}

/// Tries to set a lock. `Err` has who is in the way, and the queue that tells of changes.
fn try_range(key: InodeKey, lock: RangeLock) -> Result<Result<(), (Owner, WaitQueue)>, Errno> {
    let mut table = TABLE.lock();
    if !table.has_room() {
        return Err(Errno::ENOLCK);
    }
    Ok(table.edit(key, |locks| match locks.ranges.conflict(&lock) {
        Some(holder) => Err((holder.owner, locks.queue.clone())),
        None => {
            locks.ranges.insert(lock);
            // A write lock that became a read lock lets others in.
            locks.queue.wake(Events::IN);
            Ok(())
        }
    }))
}

/// `F_SETLK`, `F_SETLKW` and their `F_OFD_` kin. `EAGAIN` on a conflict, unless `wait`; `EDEADLK`
/// if waiting would be forever; `ERESTARTSYS` when a signal came.
pub fn set_range(task: &Task, key: InodeKey, lock: RangeLock, wait: bool) -> Result<(), Errno> {
    loop {
        let (holder, queue) = match try_range(key, lock)? {
            Ok(()) => return Ok(()),
            Err(_) if !wait => return Err(Errno::EAGAIN),
            Err(conflict) => conflict,
        };
        let _registration = queue.register(Events::IN, task.sleeper.clone());
        if matches!(lock.owner, Owner::Files(_)) {
            let mut table = TABLE.lock();
            if table.deadlocks(lock.owner, holder) {
                return Err(Errno::EDEADLK);
            }
            table.waiting.insert(lock.owner, holder);
        }
        // It may have gone between the first look and the registration.
        let again = try_range(key, lock);
        let slept = match again {
            Ok(Err(_)) => task.block(None),
            _ => Ok(()),
        };
        TABLE.lock().waiting.remove(&lock.owner);
        if let Ok(()) = again? {
            return Ok(());
        }
        slept?;
    }
}

/// `F_UNLCK`: takes the owner's locks in a range.
pub fn unlock_range(key: InodeKey, owner: Owner, start: u64, end: u64) {
    if COUNT.load(Ordering::Relaxed) == 0 {
        return;
    }
    TABLE.lock().edit(key, |locks| {
        if locks.ranges.remove(owner, start, end) {
            locks.queue.wake(Events::IN);
        }
    });
}

/// flock(2): `EAGAIN` (`EWOULDBLOCK`) on a conflict, unless `wait`. Changing the kind gives up the
/// old lock first, as flock(2) warns.
pub fn flock(
    task: &Task,
    key: InodeKey,
    owner: Owner,
    kind: LockKind,
    wait: bool,
) -> Result<(), Errno> {
    let attempt = || {
        let mut table = TABLE.lock();
        if !table.has_room() {
            return Err(Errno::ENOLCK);
        }
        Ok(table.edit(key, |locks| {
            if locks.whole.iter().any(|(o, k, _)| *o == owner && *k == kind) {
                return Ok(());
            }
            let before = locks.whole.len();
            locks.whole.retain(|(o, ..)| *o != owner);
            if locks.whole.len() != before {
                locks.queue.wake(Events::IN);
            }
            let exclusive = kind == LockKind::Exclusive;
            if locks.whole.iter().any(|(_, k, _)| exclusive || *k == LockKind::Exclusive) {
                return Err(locks.queue.clone());
            }
            locks.whole.push((owner, kind, task.group.tgid));
            Ok(())
        }))
    };
    loop {
        let queue = match attempt()? {
            Ok(()) => return Ok(()),
            Err(_) if !wait => return Err(Errno::EAGAIN),
            Err(queue) => queue,
        };
        let _registration = queue.register(Events::IN, task.sleeper.clone());
        if attempt()?.is_ok() {
            return Ok(());
        }
        task.block(None)?;
    }
}

/// Gives up an open file's flock(2) lock.
pub fn funlock(key: InodeKey, owner: Owner) {
    if COUNT.load(Ordering::Relaxed) == 0 {
        return;
    }
    TABLE.lock().edit(key, |locks| {
        let before = locks.whole.len();
        locks.whole.retain(|(o, ..)| *o != owner);
        if locks.whole.len() != before {
            locks.queue.wake(Events::IN);
        }
    });
}

/// Gives up all that `owner` has on an inode: at close(2) for a descriptor table, at the last close
/// for an open file.
pub fn release(key: InodeKey, owner: Owner) {
    if COUNT.load(Ordering::Relaxed) == 0 {
        return;
    }
    unlock_range(key, owner, 0, u64::MAX);
    funlock(key, owner);
}

/// Whether any lock exists at all.
pub fn any() -> bool {
    COUNT.load(Ordering::Relaxed) != 0
}

/// One line of /proc/locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct LockInfo {
    pub key: InodeKey,
    /// flock(2)'s; otherwise a byte range.
    pub flock: bool,
    pub lock: RangeLock,
}

/// All locks, for /proc/locks.
pub fn all() -> Vec<LockInfo> {
    let table = TABLE.lock();
    let mut lines = Vec::new();
    for (&key, locks) in &table.inodes {
        for &(owner, kind, pid) in &locks.whole {
            let lock = RangeLock { start: 0, end: u64::MAX, kind, owner, pid };
            lines.push(LockInfo { key, flock: true, lock });
        }
        lines.extend(locks.ranges.0.iter().map(|&lock| LockInfo { key, flock: false, lock }));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: u64 = 24;

    fn op() -> impl Strategy<Value = (u64, u64, u64, Option<LockKind>)> {
        let kind =
            prop_oneof![Just(None), Just(Some(LockKind::Shared)), Just(Some(LockKind::Exclusive))];
        (0..3u64, 0..SIZE, 0..SIZE, kind).prop_map(|(o, a, b, k)| (o, a.min(b), a.max(b), k))
    }

    proptest! {
        /// Against a model with one cell a byte and owner.
        #[test]
        fn ranges_match_a_byte_map(ops in proptest::collection::vec(op(), 1..60)) {
            let mut locks = RangeLocks::default();
            let mut model = vec![[None; 3]; SIZE as usize];
            for (who, start, end, kind) in ops {
                let owner = Owner::Files(who);
                let bytes = start as usize..=end as usize;
                let Some(kind) = kind else {
                    locks.remove(owner, start, end);
                    model[bytes].iter_mut().for_each(|b| b[who as usize] = None);
                    continue;
                };
                let lock = RangeLock { start, end, kind, owner, pid: 1 };
                let blocked = model[bytes.clone()].iter().any(|b| {
                    b.iter().enumerate().any(|(o, k): (usize, &Option<LockKind>)| {
                        o != who as usize && k.is_some_and(|k| {
                            k == LockKind::Exclusive || kind == LockKind::Exclusive
                        })
                    })
                });
                prop_assert_eq!(locks.conflict(&lock).is_some(), blocked);
                if !blocked {
                    locks.insert(lock);
                    model[bytes].iter_mut().for_each(|b| b[who as usize] = Some(kind));
                }
            }
            for (at, cell) in model.iter().enumerate() {
                for (who, kind) in cell.iter().enumerate() {
                    let found: Vec<_> = locks.0.iter().filter(|l| {
                        l.owner == Owner::Files(who as u64)
                            && (l.start..=l.end).contains(&(at as u64))
                    }).collect();
                    prop_assert!(found.len() <= 1);
                    prop_assert_eq!(found.first().map(|l| l.kind), *kind);
                }
            }
        }
    }

    #[test]
    fn circles_are_seen() {
        let [a, b, c] = [1, 2, 3].map(Owner::Files);
        let mut table = Table::default();
        table.waiting.insert(b, c);
        assert!(!table.deadlocks(a, b));
        table.waiting.insert(c, a);
        assert!(table.deadlocks(a, b));
    }
}
