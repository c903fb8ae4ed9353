//! Blank stub processes, made ahead so that fork and exec do not wait for the host's fork, or used
//! before.
//!
//! A thread keeps a few of them ready, and makes those blank whose guest is gone, for which exit and
//! exec do not wait either; it sleeps while there is nothing to do, and ends with the nursery.
//!
//! Lock order: the maker's, or `Pool::ready`, never both.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::Error;

/// How many are kept ready: a fork and an exec in a row.
const READY: usize = 2;
/// How many that come back are kept: a pipeline of a few programs.
const KEPT: usize = 6;
/// How many whose guest is gone may wait to be made blank: their memory does.
const LEFT: usize = 4;
/// How often it looks whether stubs that were dropped are dead.
const DYING: Duration = Duration::from_millis(5);

/// Makes blank stub processes.
pub(crate) trait Maker: Send + Sync + 'static {
    /// A stub process. Ended and reaped when dropped.
    type Stub: Send;
    /// What a guest left: a stub process, and what must not be reused before that is blank, or gone.
    type Remains: Send;
    /// A new one. May block for as long as the host's fork takes.
    fn make(&self) -> Result<Self::Stub, Error>;
    /// Makes one blank that a guest left. `None`, and it is ended, if that cannot be.
    fn revive(remains: Self::Remains) -> Option<Self::Stub>;
    /// Whether a blank one is alive still: the host may have killed it.
    fn check(stub: Self::Stub) -> Option<Self::Stub>;
    /// Does away with what is left of stubs that were dropped, as far as it can be without waiting.
    /// Returns whether it is all gone.
    fn tidy(&self) -> bool {
        true
    }
    /// Called on the nursery's own thread first of all.
    fn settle(&self) {}
}

/// See the module.
pub(crate) struct Nursery<M: Maker> {
    pool: Arc<Pool<M>>,
}

struct Pool<M: Maker> {
    maker: M,
    ready: Mutex<Ready<M>>,
    /// Signalled when one was taken, or left by its guest, and at the end.
    changed: Condvar,
}

struct Ready<M: Maker> {
    stubs: Vec<M::Stub>,
    /// Not blank yet.
    left: VecDeque<M::Remains>,
    /// How many were taken, up to 2.
    taken: u8,
    thread: Option<JoinHandle<()>>,
    closed: bool,
}

impl<M: Maker> Nursery<M> {
    /// One with `stubs` in it. Its thread is started by the second [`Nursery::take`]: many sandboxes
    /// run one program in one process.
    pub(crate) fn new(maker: M, stubs: Vec<M::Stub>) -> Nursery<M> {
        let left = VecDeque::new();
        let ready = Mutex::new(Ready { stubs, left, taken: 0, thread: None, closed: false });
        Nursery { pool: Arc::new(Pool { maker, ready, changed: Condvar::new() }) }
    }

    /// A blank stub process; made on the spot if none is ready, or to be had from what guests left.
    pub(crate) fn take(&self) -> Result<M::Stub, Error> {
        loop {
            let mut ready = self.pool.ready.lock();
            if ready.taken < 2 {
                ready.taken += 1;
                if ready.taken == 2 {
                    ready.thread = self.start();
                }
            }
            let stub = ready.stubs.pop();
            let left = if stub.is_none() { ready.left.pop_front() } else { None };
            if ready.stubs.is_empty() {
                self.pool.changed.notify_one();
            }
            drop(ready);
            match (stub, left) {
                (Some(stub), _) => {
                    if let Some(stub) = M::check(stub) {
                        return Ok(stub);
                    }
                }
                (None, Some(left)) => {
                    if let Some(stub) = M::revive(left) {
                        return Ok(stub);
                    }
                }
                (None, None) => return self.pool.make(),
            }
        }
    }

    /// Takes what a guest left: soon or at once it is blank again, or gone. Blocks for that where too
    /// many wait already.
    pub(crate) fn leave(&self, remains: M::Remains) {
        let mut ready = self.pool.ready.lock();
        let enough = ready.stubs.len() + ready.left.len() >= KEPT;
        if !ready.closed && !enough && ready.left.len() < LEFT && ready.thread.is_some() {
            ready.left.push_back(remains);
            self.pool.changed.notify_one();
            return;
        }
        let closed = ready.closed;
        drop(ready);
        if closed || enough {
            drop(remains);
            return self.wake();
        }
        if let Some(stub) = M::revive(remains) {
            self.pool.keep(&mut self.pool.ready.lock(), stub);
        }
    }

    /// A stub was dropped.
    pub(crate) fn wake(&self) {
        self.pool.changed.notify_one();
    }

    fn start(&self) -> Option<JoinHandle<()>> {
        let pool = self.pool.clone();
        std::thread::Builder::new()
            .name("nursery".into())
            .spawn(move || pool.keep_filled())
            .inspect_err(|error| {
                tracing::warn!(%error, "no nursery thread: stubs are made when they are needed");
            })
            .ok()
    }
}

impl<M: Maker> Drop for Nursery<M> {
    fn drop(&mut self) {
        let (thread, stubs) = {
            let mut ready = self.pool.ready.lock();
            ready.closed = true;
            let all = (std::mem::take(&mut ready.stubs), std::mem::take(&mut ready.left));
            (ready.thread.take(), all)
        };
        self.pool.changed.notify_one();
        drop(stubs);
        // It may be making one just now; afterwards nothing is left.
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the nursery thread panicked");
        }
    }
}

impl<M: Maker> Pool<M> {
    /// Makes one. Where the host kills it meanwhile, that is not the caller's fault.
    fn make(&self) -> Result<M::Stub, Error> {
        const ATTEMPTS: usize = 3;
        (1..ATTEMPTS)
            .find_map(|_| match self.maker.make() {
                Err(Error::StubGone) => None,
                made => Some(made),
            })
            .unwrap_or_else(|| self.maker.make())
    }

    /// Keeps a blank one, unless it is too late.
    fn keep(&self, ready: &mut Ready<M>, stub: M::Stub) {
        if !ready.closed {
            ready.stubs.push(stub);
        }
    }

    fn keep_filled(&self) {
        self.maker.settle();
        let mut ready = self.ready.lock();
        while !ready.closed {
            if let Some(left) = ready.left.pop_front() {
                let blank = parking_lot::MutexGuard::unlocked(&mut ready, || M::revive(left));
                if let Some(stub) = blank {
                    self.keep(&mut ready, stub);
                }
                continue;
            }
            // They die by themselves; nobody waits for that.
            let tidy = self.maker.tidy();
            if ready.stubs.len() >= READY {
                if tidy {
                    self.changed.wait(&mut ready);
                } else {
                    self.changed.wait_for(&mut ready, DYING);
                }
                continue;
            }
            let made = parking_lot::MutexGuard::unlocked(&mut ready, || self.maker.make());
            match made {
                Ok(stub) => self.keep(&mut ready, stub),
                Err(error) => {
                    // The next to need one will see the reason; try again when that happens.
                    tracing::debug!(%error, "no stub ahead");
                    if !ready.closed {
                        self.changed.wait(&mut ready);
                    }
                }
            }
        }
    }
}
