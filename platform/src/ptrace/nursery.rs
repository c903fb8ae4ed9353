//! Blank stub processes, made ahead so that fork and exec do not wait for the host's fork.
//!
//! A thread keeps a few of them ready; it sleeps while none was taken, and ends with the nursery.
//!
//! Lock order: the template's, or `Pool::ready`, never both.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use super::sys::{self, Tid};
use super::template::Template;
use crate::memory_file::{Frames, MemoryFile};
use crate::{Error, PAGE_SIZE};

/// How many are kept ready: a fork and an exec in a row.
const READY: usize = 2;

/// A stub process. Ended and reaped when dropped, by which time its guest threads must be gone.
pub(super) struct Stub {
    pid: Tid,
    manager: Tid,
    commands: Frames,
    /// It was found dead and reaped: the ids may be somebody else's.
    reaped: bool,
    /// It died while a thread of it was being made.
    orphaned: AtomicBool,
}

impl Stub {
    /// Its process id.
    pub(super) fn pid(&self) -> Tid {
        self.pid
    }

    /// Its manager thread.
    pub(super) fn manager(&self) -> Tid {
        self.manager
    }

    /// Whether a blank one is alive still: the host may have killed it.
    fn check(mut self) -> Option<Stub> {
        self.reaped = sys::try_reap(self.pid);
        (!self.reaped).then_some(self)
    }

    /// What is mapped as its command page.
    pub(super) fn commands(&self) -> &Frames {
        &self.commands
    }

    /// It died under a clone, perhaps with a new thread that nobody heard of. That one is reaped by
    /// the host when the host thread that would have become its tracer ends.
    pub(super) fn set_orphaned(&self) {
        self.orphaned.store(true, Ordering::Relaxed);
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        let pid = self.pid;
        if self.reaped {
            return;
        }
        sys::kill(pid, libc::SIGKILL);
        if *self.orphaned.get_mut() {
            // The caller may be the one whose end must be waited for.
            let waiting = std::thread::Builder::new().name("reaper".into());
            if let Err(error) = waiting.spawn(move || sys::reap(pid)) {
                tracing::warn!(%error, pid, "a dead stub stays unreaped");
            }
        } else {
            sys::reap(pid);
        }
    }
}

/// See the module.
pub(super) struct Nursery {
    pool: Arc<Pool>,
}

struct Pool {
    file: Arc<MemoryFile>,
    template: Arc<Mutex<Template>>,
    ready: Mutex<Ready>,
    /// Signalled when one was taken, and at the end.
    changed: Condvar,
}

#[derive(Default)]
struct Ready {
    stubs: Vec<Stub>,
    started: bool,
    thread: Option<JoinHandle<()>>,
    closed: bool,
}

impl Nursery {
    /// An empty one. Its thread is started by the first [`Nursery::take`].
    pub(super) fn new(file: Arc<MemoryFile>, template: Arc<Mutex<Template>>) -> Nursery {
        let pool = Pool { file, template, ready: Mutex::default(), changed: Condvar::new() };
        Nursery { pool: Arc::new(pool) }
    }

    /// A blank stub process; made on the spot if none is ready.
    pub(super) fn take(&self) -> Result<Stub, Error> {
        loop {
            let mut ready = self.pool.ready.lock();
            if !ready.started {
                ready.started = true;
                ready.thread = self.start();
            }
            self.pool.changed.notify_one();
            let stub = ready.stubs.pop();
            drop(ready);
            match stub.map(Stub::check) {
                None => return self.pool.spawn(),
                Some(Some(stub)) => return Ok(stub),
                Some(None) => {}
            }
        }
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

impl Drop for Nursery {
    fn drop(&mut self) {
        let (thread, stubs) = {
            let mut ready = self.pool.ready.lock();
            ready.closed = true;
            (ready.thread.take(), std::mem::take(&mut ready.stubs))
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

impl Pool {
    fn spawn(&self) -> Result<Stub, Error> {
        let commands = self
            .file
            .allocate(PAGE_SIZE)
            .ok_or_else(|| Error::host("a command page", libc::ENOMEM))?;
        let (pid, manager) = self.template.lock().spawn(&commands)?;
        Ok(Stub { pid, manager, commands, reaped: false, orphaned: AtomicBool::new(false) })
    }

    fn keep_filled(&self) {
        super::cpu::run_anywhere();
        let mut ready = self.ready.lock();
        while !ready.closed {
            if ready.stubs.len() >= READY {
                self.changed.wait(&mut ready);
                continue;
            }
            let spawned = parking_lot::MutexGuard::unlocked(&mut ready, || self.spawn());
            match spawned {
                Ok(stub) if !ready.closed => ready.stubs.push(stub),
                Ok(_) => {}
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
