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
use super::lock_ranges::RangeLocks;
use crate::kernel::{Events, Task, WaitQueue};
use crate::kmem::Growing;

/// How many locks there may be in all (`ENOLCK`).
const MAX_LOCKS: usize = 1 << 17;
/// So many bytes are not counted for the sandbox's memory.
const FREE: usize = 16 << 10;
/// What a lock adds at most, in bytes, with another cut in two.
const MOST: usize = 1 << 10;

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

#[derive(Default)]
struct InodeLocks {
    ranges: RangeLocks,
    /// flock(2)'s: either one exclusive lock or any number of shared ones.
    whole: HashMap<Owner, (LockKind, i32)>,
    queue: WaitQueue,
}

impl InodeLocks {
    fn count(&self) -> usize {
        self.ranges.len() + self.whole.len()
    }

    fn cost(&self) -> usize {
        self.ranges.cost() + self.whole.len() * COST
    }

    /// Sets an owner's flock(2) lock; false if another owner's is in the way. One of another kind is
    /// given up either way.
    fn set_whole(&mut self, owner: Owner, kind: LockKind, pid: i32) -> bool {
        if self.whole.get(&owner).is_some_and(|(held, _)| *held == kind) {
            return true;
        }
        self.give_up_whole(owner);
        let held = self.whole.values().next().map(|(held, _)| *held);
        let free = match kind {
            LockKind::Exclusive => held.is_none(),
            LockKind::Shared => held != Some(LockKind::Exclusive),
        };
        if free {
            self.whole.insert(owner, (kind, pid));
        }
        free
    }

    fn give_up_whole(&mut self, owner: Owner) {
        if self.whole.remove(&owner).is_some() {
            self.queue.wake(Events::IN);
        }
    }
}

#[derive(Default)]
struct Table {
    inodes: HashMap<InodeKey, InodeLocks>,
    /// Owners that wait for a record lock, and for whom.
    waiting: HashMap<Owner, Owner>,
    /// What all locks cost.
    cost: usize,
    /// That, but for the first ones.
    memory: Growing,
}

static TABLE: LazyLock<Mutex<Table>> = LazyLock::new(Mutex::default);
/// Locks in the table, so that close(2) need not look when there are none.
static COUNT: AtomicUsize = AtomicUsize::new(0);

impl Table {
    /// Runs `f` on an inode's locks, keeps the count, and drops the entry if it is empty.
    fn edit<T>(&mut self, key: InodeKey, f: impl FnOnce(&mut InodeLocks) -> T) -> T {
        let locks = self.inodes.entry(key).or_default();
        let (before, cost) = (locks.count(), locks.cost());
        let result = f(locks);
        let after = locks.count();
        self.cost = self.cost + locks.cost() - cost;
        COUNT.fetch_add(after, Ordering::Relaxed);
        COUNT.fetch_sub(before, Ordering::Relaxed);
        if after == 0 {
            self.inodes.remove(&key);
        }
        result
    }

    /// Whether there may be one more, or a lock cut in two.
    fn has_room(&mut self) -> bool {
        let cost = (self.cost + MOST).saturating_sub(FREE);
        COUNT.load(Ordering::Relaxed) < MAX_LOCKS && self.memory.cover(cost)
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

/// What a flock(2) lock costs.
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

/// `F_UNLCK`: takes the owner's locks in a range. `ENOLCK` if that makes two of one, and there are too many.
pub fn unlock_range(key: InodeKey, owner: Owner, start: u64, end: u64) -> Result<(), Errno> {
    if COUNT.load(Ordering::Relaxed) == 0 {
        return Ok(());
    }
    let mut table = TABLE.lock();
    let cuts = table.inodes.get(&key).is_some_and(|locks| locks.ranges.cuts(owner, start, end));
    if cuts && !table.has_room() {
        return Err(Errno::ENOLCK);
    }
    table.edit(key, |locks| {
        if locks.ranges.remove(owner, start, end) {
            locks.queue.wake(Events::IN);
        }
    });
    Ok(())
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
            let set = locks.set_whole(owner, kind, task.group.tgid);
            if set { Ok(()) } else { Err(locks.queue.clone()) }
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
    TABLE.lock().edit(key, |locks| locks.give_up_whole(owner));
}

/// Gives up all that `owner` has on an inode: at close(2) for a descriptor table, at the last close
/// for an open file.
pub fn release(key: InodeKey, owner: Owner) {
    if COUNT.load(Ordering::Relaxed) == 0 {
        return;
    }
    // All of it: nothing is cut in two.
    let _ = unlock_range(key, owner, 0, u64::MAX);
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
        for (&owner, &(kind, pid)) in &locks.whole {
            let lock = RangeLock { start: 0, end: u64::MAX, kind, owner, pid };
            lines.push(LockInfo { key, flock: true, lock });
        }
        lines.extend(locks.ranges.iter().map(|lock| LockInfo { key, flock: false, lock }));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a list that is searched: one exclusive lock, or any number of shared ones.
    #[test]
    fn whole_files_have_one_writer_or_many_readers() {
        let mut locks = InodeLocks::default();
        let mut model: Vec<(Owner, LockKind)> = Vec::new();
        let mut random = 4711u64;
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let owner = Owner::File(random >> 40 & 7);
            let kind = match random >> 50 & 3 {
                0 => LockKind::Exclusive,
                1 | 2 => LockKind::Shared,
                _ => {
                    locks.give_up_whole(owner);
                    model.retain(|(held, _)| *held != owner);
                    continue;
                }
            };
            model.retain(|held| held.0 != owner || held.1 == kind);
            let free = model.iter().all(|&(held, its)| {
                held == owner || (its, kind) == (LockKind::Shared, LockKind::Shared)
            });
            assert_eq!(locks.set_whole(owner, kind, 1), free);
            if free && !model.contains(&(owner, kind)) {
                model.push((owner, kind));
            }
            assert_eq!(locks.whole.len(), model.len());
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
