//! Wait queues and how a task sleeps on them.
//!
//! Whoever changes what [`crate::vfs::FileOps::poll`] would say calls [`WaitQueue::wake`]. A waiter
//! registers first, looks second, sleeps third, so no wake-up is lost.
//!
//! Lock order: a queue's lock is innermost; wakers must not take locks that are held while waking.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use platform::place::Place;

#[allow(missing_docs)] // The names are Linux's.
mod bits {
    use bitflags::bitflags;

    bitflags! {
        /// Readiness, the bits of poll(2).
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Events: u32 {
            const IN = 0x1;
            const PRI = 0x2;
            const OUT = 0x4;
            const ERR = 0x8;
            const HUP = 0x10;
            const NVAL = 0x20;
            const RDNORM = 0x40;
            const RDBAND = 0x80;
            const WRNORM = 0x100;
            const WRBAND = 0x200;
            const MSG = 0x400;
            const RDHUP = 0x2000;
        }
    }
}

pub use bits::Events;

impl Events {
    /// What wakes a reader.
    pub const READABLE: Events =
        Events::IN.union(Events::RDNORM).union(Events::HUP).union(Events::ERR).union(Events::RDHUP);
    /// What wakes a writer.
    pub const WRITABLE: Events =
        Events::OUT.union(Events::WRNORM).union(Events::HUP).union(Events::ERR);
}

/// Something that wants to hear of events: a sleeping task, an epoll instance.
pub trait Wake: Send + Sync {
    /// `events` just became true. Must not block.
    fn wake(&self, events: Events);
}

/// A place where waiters gather. Clones are the same queue.
#[derive(Clone, Default)]
pub struct WaitQueue(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Number of waiters, so that waking an empty queue takes no lock.
    len: AtomicUsize,
    entries: Mutex<Entries>,
}

/// The waiters in the order in which they came.
///
/// A guest decides how many there are (each epoll watch is one), and in which order they leave: so
/// leaving takes no walk over the others. Who has left stays as a gap until half of them are gaps.
#[derive(Default)]
struct Entries {
    /// In the order of their ids.
    all: Vec<Entry>,
    gaps: usize,
    last_id: u64,
}

struct Entry {
    id: u64,
    mask: Events,
    exclusive: bool,
    /// `None` is a gap.
    waker: Option<Arc<dyn Wake>>,
}

impl Entries {
    fn len(&self) -> usize {
        self.all.len() - self.gaps
    }

    fn add(&mut self, mask: Events, exclusive: bool, waker: Arc<dyn Wake>) -> u64 {
        self.last_id += 1;
        self.all.push(Entry { id: self.last_id, mask, exclusive, waker: Some(waker) });
        self.last_id
    }

    /// Takes a waiter out; it is for the caller to drop, without the lock.
    fn remove(&mut self, id: u64) -> Option<Arc<dyn Wake>> {
        let at = self.all.binary_search_by_key(&id, |entry| entry.id).ok()?;
        let waker = self.all[at].waker.take()?;
        self.gaps += 1;
        if self.gaps * 2 > self.all.len() {
            self.all.retain(|entry| entry.waker.is_some());
            self.gaps = 0;
        }
        Some(waker)
    }
}

impl WaitQueue {
    /// An empty queue.
    pub fn new() -> WaitQueue {
        WaitQueue::default()
    }

    /// Adds a waiter for any of `mask` (`ERR` and `HUP` always count) until the result is dropped.
    #[must_use = "dropping the registration removes the waiter"]
    pub fn register(&self, mask: Events, waker: Arc<dyn Wake>) -> Registration {
        self.add(mask, false, waker)
    }

    /// As [`WaitQueue::register`], but of all exclusive waiters one [`WaitQueue::wake`] wakes only
    /// the first (`EPOLLEXCLUSIVE`, accept(2)).
    #[must_use = "dropping the registration removes the waiter"]
    pub fn register_exclusive(&self, mask: Events, waker: Arc<dyn Wake>) -> Registration {
        self.add(mask, true, waker)
    }

    fn add(&self, mask: Events, exclusive: bool, waker: Arc<dyn Wake>) -> Registration {
        let mask = mask | Events::ERR | Events::HUP;
        let mut entries = self.0.entries.lock();
        let id = entries.add(mask, exclusive, waker);
        self.0.len.store(entries.len(), Ordering::SeqCst);
        Registration { queue: self.clone(), id }
    }

    /// Wakes who waits for any of `events`.
    pub fn wake(&self, events: Events) {
        if self.0.len.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut woken: smallvec::SmallVec<[Arc<dyn Wake>; 4]> = smallvec::SmallVec::new();
        let mut exclusive_done = false;
        for entry in &self.0.entries.lock().all {
            let Some(waker) = &entry.waker else { continue };
            if !entry.mask.intersects(events) || (entry.exclusive && exclusive_done) {
                continue;
            }
            exclusive_done |= entry.exclusive;
            woken.push(waker.clone());
        }
        for waker in woken {
            waker.wake(events);
        }
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.0.len.load(Ordering::SeqCst) == 0
    }
}

/// A waiter's place in a queue; dropping it leaves the queue.
pub struct Registration {
    queue: WaitQueue,
    id: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut entries = self.queue.0.entries.lock();
        let waker = entries.remove(self.id);
        self.queue.0.len.store(entries.len(), Ordering::SeqCst);
        drop(entries);
        drop(waker);
    }
}

/// The sleeping side of one host thread: a token that is set by a wake-up and consumed by a sleep.
#[derive(Default)]
pub struct Sleeper {
    thread: std::sync::OnceLock<std::thread::Thread>,
    woken: AtomicBool,
    /// Where it wakes up.
    pub place: Place,
}

impl Sleeper {
    /// Binds it to the calling thread, once, before anybody sleeps.
    pub fn bind(&self) {
        let _ = self.thread.set(std::thread::current());
    }

    /// Ends the current sleep, or the next one if there is none.
    pub fn unpark(&self) {
        if !self.woken.swap(true, Ordering::AcqRel)
            && let Some(thread) = self.thread.get()
        {
            self.place.wakes();
            thread.unpark();
        }
    }

    /// Sleeps until [`Sleeper::unpark`] or `deadline` (nanoseconds of `CLOCK_MONOTONIC`). Returns
    /// whether it was woken. May return `true` spuriously if a wake-up came earlier.
    pub fn park(&self, deadline: Option<u64>) -> bool {
        if self.woken.swap(false, Ordering::AcqRel) {
            return true;
        }
        self.place.sleeps();
        let woken = self.sleep(deadline);
        self.place.woke();
        woken
    }

    fn sleep(&self, deadline: Option<u64>) -> bool {
        loop {
            if self.woken.swap(false, Ordering::AcqRel) {
                return true;
            }
            match deadline {
                None => std::thread::park(),
                Some(at) => {
                    let left = super::time::wait_ns(at);
                    if left == 0 {
                        return false;
                    }
                    std::thread::park_timeout(std::time::Duration::from_nanos(left));
                }
            }
        }
    }
}

impl Wake for Sleeper {
    fn wake(&self, _: Events) {
        self.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(&self, _: Events) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn masks_and_exclusive_waiters() {
        let queue = WaitQueue::new();
        let [a, b, c] = [0; 3].map(|_| Arc::new(Count(AtomicUsize::new(0))));
        let reg = queue.register(Events::IN, a.clone());
        let _b = queue.register_exclusive(Events::OUT, b.clone());
        let _c = queue.register_exclusive(Events::OUT, c.clone());
        queue.wake(Events::OUT);
        queue.wake(Events::HUP);
        assert_eq!([&a, &b, &c].map(|x| x.0.load(Ordering::SeqCst)), [1, 2, 0]);
        drop(reg);
        queue.wake(Events::IN);
        assert_eq!(a.0.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn those_who_leave_in_any_order_are_woken_no_more() {
        let queue = WaitQueue::new();
        let all: Vec<_> = (0..100).map(|_| Arc::new(Count(AtomicUsize::new(0)))).collect();
        let mut here: Vec<_> =
            all.iter().map(|count| Some(queue.register(Events::IN, count.clone()))).collect();
        for step in 0..100 {
            queue.wake(Events::IN);
            here[step * 37 % 100] = None;
            assert_eq!(queue.is_empty(), step == 99);
        }
        queue.wake(Events::IN);
        for step in 0..100 {
            assert_eq!(all[step * 37 % 100].0.load(Ordering::SeqCst), step + 1);
        }
        assert!(Arc::strong_count(&all[0]) == 1 && queue.0.entries.lock().all.is_empty());
    }

    #[test]
    fn a_wake_before_the_sleep_counts() {
        let sleeper = Sleeper::default();
        sleeper.bind();
        sleeper.unpark();
        assert!(sleeper.park(None));
        assert!(!sleeper.park(Some(0)));
    }
}
