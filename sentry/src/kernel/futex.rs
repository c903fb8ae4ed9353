//! Futexes (futex(2), Linux's `kernel/futex/`): queues of sleepers by the memory word they wait on.
//!
//! Owns: the hash table of waiters, which is as large as the number of sleeping threads. A waiter
//! checks the word with its bucket locked; a waker that changed the word before it looks at the
//! bucket cannot miss it. A bucket without waiters is left without taking its lock.
//!
//! Lock order: buckets (by index, at most two) -> `MemoryManager::state`.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use abi::Errno;
use parking_lot::{Mutex, MutexGuard};

use super::Sleeper;
use crate::mm::{MemoryKey, MemoryManager};

const BUCKETS: usize = 256;

/// Matches all bitsets (`FUTEX_BITSET_MATCH_ANY`).
pub const MATCH_ANY: u32 = u32::MAX;

/// One sleeper's wait on one word.
pub struct Waiter {
    sleeper: Arc<Sleeper>,
    bitset: u32,
    woken: AtomicBool,
    /// In which bucket it is queued; changes only with that bucket locked.
    bucket: AtomicUsize,
}

impl Waiter {
    /// Whether somebody woke it; it is then in no queue any more.
    pub fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Acquire)
    }
}

struct Queued {
    key: MemoryKey,
    waiter: Arc<Waiter>,
}

#[derive(Default)]
struct Bucket {
    /// Who is queued or about to look whether to queue; wakers go away at once if it is 0.
    waiters: AtomicUsize,
    queue: Mutex<VecDeque<Queued>>,
}

/// All futexes of a kernel.
pub struct FutexTable {
    buckets: Box<[Bucket]>,
}

impl Default for FutexTable {
    fn default() -> Self {
        FutexTable { buckets: (0..BUCKETS).map(|_| Bucket::default()).collect() }
    }
}

/// Those to be unparked once the buckets are unlocked.
type Woken = smallvec::SmallVec<[Arc<Waiter>; 4]>;

fn unpark(woken: Woken) {
    for waiter in woken {
        waiter.sleeper.unpark();
    }
}

/// Takes up to `limit` waiters that match out of a queue (at least one, as Linux does).
fn take(
    bucket: &Bucket,
    queue: &mut VecDeque<Queued>,
    key: &MemoryKey,
    limit: i32,
    bitset: u32,
    woken: &mut Woken,
) -> u64 {
    let limit = limit.max(1) as usize;
    let before = woken.len();
    queue.retain(|q| {
        let hit = woken.len() - before < limit && q.waiter.bitset & bitset != 0 && q.key == *key;
        if hit {
            q.waiter.woken.store(true, Ordering::Release);
            woken.push(q.waiter.clone());
        }
        !hit
    });
    let count = woken.len() - before;
    bucket.waiters.fetch_sub(count, Ordering::SeqCst);
    count as u64
}

/// The change and the comparison that `FUTEX_WAKE_OP` encodes in `val3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WakeOp {
    op: u32,
    cmp: u32,
    oparg: i32,
    cmparg: i32,
}

impl WakeOp {
    /// Decodes `val3`. `ENOSYS` for an unknown change or comparison.
    pub fn decode(encoded: u32) -> Result<WakeOp, Errno> {
        let sign_extend = |v: u32| ((v << 20) as i32) >> 20;
        let mut oparg = sign_extend(encoded >> 12 & 0xfff);
        if encoded >> 31 != 0 {
            oparg = 1i32.wrapping_shl(oparg as u32 & 31);
        }
        let op = WakeOp {
            op: encoded >> 28 & 7,
            cmp: encoded >> 24 & 15,
            oparg,
            cmparg: sign_extend(encoded & 0xfff),
        };
        if op.op > 4 || op.cmp > 5 { Err(Errno::ENOSYS) } else { Ok(op) }
    }

    fn apply(self, old: u32) -> u32 {
        let arg = self.oparg as u32;
        match self.op {
            0 => arg,
            1 => old.wrapping_add(arg),
            2 => old | arg,
            3 => old & !arg,
            _ => old ^ arg,
        }
    }

    fn holds(self, old: u32) -> bool {
        let (old, arg) = (old as i32, self.cmparg);
        match self.cmp {
            0 => old == arg,
            1 => old != arg,
            2 => old < arg,
            3 => old <= arg,
            4 => old > arg,
            _ => old >= arg,
        }
    }
}

impl FutexTable {
    fn index(key: &MemoryKey) -> usize {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        hasher.finish() as usize % BUCKETS
    }

    /// Queues a waiter on `key` if `check` (called with the bucket locked) agrees.
    pub fn enqueue(
        &self,
        key: MemoryKey,
        bitset: u32,
        sleeper: &Arc<Sleeper>,
        check: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<Arc<Waiter>, Errno> {
        let index = Self::index(&key);
        let bucket = &self.buckets[index];
        // Before the word is read: see the module's head.
        bucket.waiters.fetch_add(1, Ordering::SeqCst);
        let mut queue = bucket.queue.lock();
        if let Err(errno) = check() {
            bucket.waiters.fetch_sub(1, Ordering::SeqCst);
            return Err(errno);
        }
        let waiter = Arc::new(Waiter {
            sleeper: sleeper.clone(),
            bitset,
            woken: AtomicBool::new(false),
            bucket: AtomicUsize::new(index),
        });
        queue.push_back(Queued { key, waiter: waiter.clone() });
        Ok(waiter)
    }

    /// Takes a waiter out; returns whether it was woken before that.
    pub fn dequeue(&self, waiter: &Arc<Waiter>) -> bool {
        loop {
            if waiter.is_woken() {
                return true;
            }
            let index = waiter.bucket.load(Ordering::Acquire);
            let bucket = &self.buckets[index];
            let mut queue = bucket.queue.lock();
            if waiter.is_woken() {
                return true;
            }
            if waiter.bucket.load(Ordering::Acquire) != index {
                continue;
            }
            queue.retain(|q| !Arc::ptr_eq(&q.waiter, waiter));
            bucket.waiters.fetch_sub(1, Ordering::SeqCst);
            return false;
        }
    }

    /// Wakes up to `limit` waiters on `key` whose bitset meets `bitset`. Returns how many.
    pub fn wake(&self, key: &MemoryKey, limit: i32, bitset: u32) -> u64 {
        let bucket = &self.buckets[Self::index(key)];
        if bucket.waiters.load(Ordering::SeqCst) == 0 {
            return 0;
        }
        let mut woken = Woken::new();
        let count = take(bucket, &mut bucket.queue.lock(), key, limit, bitset, &mut woken);
        unpark(woken);
        count
    }

    /// Locks the queues of two buckets in order; the second is `None` if they are one.
    fn lock_two(
        &self,
        a: usize,
        b: usize,
    ) -> (MutexGuard<'_, VecDeque<Queued>>, Option<MutexGuard<'_, VecDeque<Queued>>>) {
        if a == b {
            return (self.buckets[a].queue.lock(), None);
        }
        if a < b {
            let first = self.buckets[a].queue.lock();
            return (first, Some(self.buckets[b].queue.lock()));
        }
        let second = self.buckets[b].queue.lock();
        (self.buckets[a].queue.lock(), Some(second))
    }

    /// `FUTEX_REQUEUE`: wakes up to `nr_wake` waiters on `from` and moves up to `nr_requeue` more
    /// to `to`. Returns how many there were in all.
    pub fn requeue(
        &self,
        from: &MemoryKey,
        to: &MemoryKey,
        nr_wake: usize,
        nr_requeue: usize,
        check: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<u64, Errno> {
        let (a, b) = (Self::index(from), Self::index(to));
        let (mut source, mut target) = self.lock_two(a, b);
        check()?;
        let mut woken = Woken::new();
        let (mut count, mut moved) = (0, VecDeque::new());
        for mut q in std::mem::take(&mut *source) {
            if count >= nr_wake.saturating_add(nr_requeue) || q.key != *from {
                source.push_back(q);
                continue;
            }
            count += 1;
            if count <= nr_wake {
                q.waiter.woken.store(true, Ordering::Release);
                self.buckets[a].waiters.fetch_sub(1, Ordering::SeqCst);
                woken.push(q.waiter);
            } else {
                self.buckets[a].waiters.fetch_sub(1, Ordering::SeqCst);
                self.buckets[b].waiters.fetch_add(1, Ordering::SeqCst);
                q.waiter.bucket.store(b, Ordering::Release);
                q.key = to.clone();
                moved.push_back(q);
            }
        }
        target.as_mut().unwrap_or(&mut source).append(&mut moved);
        drop((source, target));
        unpark(woken);
        Ok(count as u64)
    }

    /// `FUTEX_WAKE_OP`: changes the word behind `second` through `update`, wakes `nr_wake` on
    /// `first`, and, if the old value compares so, `nr_wake2` on `second`.
    pub fn wake_op(
        &self,
        first: &MemoryKey,
        second: &MemoryKey,
        nr_wake: i32,
        nr_wake2: i32,
        op: WakeOp,
        update: impl FnOnce(&mut dyn FnMut(u32) -> u32) -> Result<u32, Errno>,
    ) -> Result<u64, Errno> {
        let (a, b) = (Self::index(first), Self::index(second));
        let (mut queue, mut other) = self.lock_two(a, b);
        let old = update(&mut |old| op.apply(old))?;
        let mut woken = Woken::new();
        let mut count = take(&self.buckets[a], &mut queue, first, nr_wake, MATCH_ANY, &mut woken);
        if op.holds(old) {
            let queue = other.as_mut().unwrap_or(&mut queue);
            count += take(&self.buckets[b], queue, second, nr_wake2, MATCH_ANY, &mut woken);
        }
        drop((queue, other));
        unpark(woken);
        Ok(count)
    }

    /// Wakes one waiter on a word that others may share (`clear_child_tid`, robust futexes).
    pub fn wake_shared(&self, mm: &MemoryManager, addr: u64, limit: i32) {
        if let Ok(key) = mm.memory_key(addr) {
            self.wake(&key, limit, MATCH_ANY);
        }
        // A waiter with FUTEX_PRIVATE_FLAG on shared memory has another key: Linux does not wake
        // it either.
    }
}

/// `FUTEX_WAITERS` of a futex word.
const WAITERS: u32 = 0x8000_0000;
/// `FUTEX_OWNER_DIED` of a futex word.
const OWNER_DIED: u32 = 0x4000_0000;
/// `FUTEX_TID_MASK` of a futex word.
const TID_MASK: u32 = 0x3fff_ffff;
/// `ROBUST_LIST_LIMIT`
const ROBUST_LIMIT: usize = 2048;

/// Marks the robust futexes that a dying thread holds (`exit_robust_list`), and wakes a waiter of
/// each. `head` is what set_robust_list(2) gave; call it before the memory goes, at exit and execve.
pub fn exit_robust_list(table: &FutexTable, mm: &MemoryManager, tid: i32, head: u64) {
    let Ok([first, offset, pending]) = mm.read_obj::<[u64; 3]>(head) else { return };
    // Bit 0 of a pointer marks a priority-inheriting lock.
    let mut entry = first;
    for _ in 0..ROBUST_LIMIT {
        if entry & !1 == head {
            break;
        }
        let next = mm.read_obj::<u64>(entry & !1);
        if entry & !1 != pending & !1
            && !futex_death(
                table,
                mm,
                (entry & !1).wrapping_add(offset),
                tid,
                entry & 1 != 0,
                false,
            )
        {
            return;
        }
        match next {
            Ok(next) => entry = next,
            Err(_) => return,
        }
    }
    if pending & !1 != 0 {
        futex_death(table, mm, (pending & !1).wrapping_add(offset), tid, pending & 1 != 0, true);
    }
}

/// `handle_futex_death`; false ends the walk.
fn futex_death(
    table: &FutexTable,
    mm: &MemoryManager,
    addr: u64,
    tid: i32,
    pi: bool,
    pending: bool,
) -> bool {
    if !addr.is_multiple_of(4) {
        return false;
    }
    let Ok(mut value) = mm.load_u32(addr) else { return false };
    loop {
        if pending && !pi && value == 0 {
            table.wake_shared(mm, addr, 1);
            return true;
        }
        if value & TID_MASK != tid as u32 {
            return true;
        }
        match mm.compare_exchange_u32(addr, value, value & WAITERS | OWNER_DIED) {
            Ok(seen) if seen == value => break,
            Ok(seen) => value = seen,
            Err(_) => return false,
        }
    }
    if !pi && value & WAITERS != 0 {
        table.wake_shared(mm, addr, 1);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> MemoryKey {
        MemoryKey::Private(1, n)
    }

    fn queue(table: &FutexTable, n: u64, bitset: u32) -> Arc<Waiter> {
        table.enqueue(key(n), bitset, &Arc::default(), || Ok(())).unwrap()
    }

    #[test]
    fn wakes_in_order_and_by_bitset() {
        let table = FutexTable::default();
        let [a, b, c] = [1, 2, 1].map(|bits| queue(&table, 8, bits));
        assert_eq!(table.wake(&key(12), 9, MATCH_ANY), 0);
        assert_eq!(table.wake(&key(8), 9, 2), 1);
        assert!(b.is_woken() && !a.is_woken());
        assert_eq!(table.wake(&key(8), 1, MATCH_ANY), 1);
        assert!(a.is_woken() && !c.is_woken());
        assert!(!table.dequeue(&c));
        assert!(table.dequeue(&a));
        assert!(table.buckets.iter().all(|b| b.waiters.load(Ordering::SeqCst) == 0));
    }

    #[test]
    fn a_refused_check_queues_nothing() {
        let table = FutexTable::default();
        let result = table.enqueue(key(8), 1, &Arc::default(), || Err(Errno::EAGAIN));
        assert_eq!(result.err(), Some(Errno::EAGAIN));
        assert_eq!(table.wake(&key(8), 1, MATCH_ANY), 0);
        assert!(table.buckets.iter().all(|b| b.waiters.load(Ordering::SeqCst) == 0));
    }

    #[test]
    fn requeue_moves_the_rest() {
        let table = FutexTable::default();
        let waiters: Vec<_> = (0..5).map(|_| queue(&table, 8, MATCH_ANY)).collect();
        assert_eq!(table.requeue(&key(8), &key(4096), 1, 2, || Ok(())), Ok(3));
        assert!(waiters[0].is_woken());
        assert_eq!(table.wake(&key(4096), 9, MATCH_ANY), 2);
        assert!(waiters[1].is_woken() && waiters[2].is_woken() && !waiters[3].is_woken());
        assert_eq!(table.requeue(&key(8), &key(8), 0, 9, || Ok(())), Ok(2));
        assert!(!table.dequeue(&waiters[3]) && !table.dequeue(&waiters[4]));
        assert!(table.buckets.iter().all(|b| b.waiters.load(Ordering::SeqCst) == 0));
    }

    #[test]
    fn wake_op_changes_and_compares() {
        // SET 7 if old > 3.
        let op = WakeOp::decode(4 << 24 | 7 << 12 | 3).unwrap();
        let table = FutexTable::default();
        let [a, b] = [8, 16].map(|n| queue(&table, n, MATCH_ANY));
        let mut word = 3;
        let run = |word: &mut u32| {
            table.wake_op(&key(8), &key(16), 1, 1, op, |change| {
                let old = *word;
                *word = change(old);
                Ok(old)
            })
        };
        assert_eq!(run(&mut word), Ok(1));
        assert_eq!(word, 7);
        assert!(a.is_woken() && !b.is_woken());
        assert_eq!(run(&mut word), Ok(1));
        assert!(b.is_woken());
        // Negative arguments, shifts, and what does not exist.
        let op = WakeOp::decode(1 << 28 | 0xfff << 12 | 0xffe).unwrap();
        assert_eq!((op.apply(5), op.cmparg), (4, -2));
        assert_eq!(WakeOp::decode(8 << 28 | 4 << 12).unwrap().apply(0), 16);
        assert_eq!(WakeOp::decode(5 << 28), Err(Errno::ENOSYS));
        assert_eq!(WakeOp::decode(6 << 24), Err(Errno::ENOSYS));
    }

    #[test]
    fn threads_hand_over() {
        let table = Arc::new(FutexTable::default());
        let sleeper: Arc<Sleeper> = Arc::default();
        let (tx, rx) = std::sync::mpsc::channel();
        let thread = {
            let (table, sleeper) = (table.clone(), sleeper.clone());
            std::thread::spawn(move || {
                sleeper.bind();
                let waiter = table.enqueue(key(8), MATCH_ANY, &sleeper, || Ok(())).unwrap();
                tx.send(()).unwrap();
                while !waiter.is_woken() {
                    sleeper.park(None);
                }
            })
        };
        rx.recv().unwrap();
        assert_eq!(table.wake(&key(8), 1, MATCH_ANY), 1);
        thread.join().unwrap();
    }
}
