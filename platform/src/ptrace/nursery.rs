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

/// A stub process. Ended and reaped when dropped, by which time it must have no traced threads.
pub(super) struct Stub {
    pid: Tid,
    commands: Frames,
    /// It is dead and its id may be somebody else's.
    reaped: AtomicBool,
}

impl Stub {
    /// Its id, which is its manager thread's as well.
    pub(super) fn pid(&self) -> Tid {
        self.pid
    }

    /// What is mapped as its command page.
    pub(super) fn commands(&self) -> &Frames {
        &self.commands
    }

    /// Somebody waited for it and was told of its death.
    pub(super) fn set_reaped(&self) {
        self.reaped.store(true, Ordering::Relaxed);
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        if !*self.reaped.get_mut() {
            sys::kill(self.pid, libc::SIGKILL);
            sys::reap(self.pid);
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
        let ready = {
            let mut ready = self.pool.ready.lock();
            if !ready.started {
                ready.started = true;
                ready.thread = self.start();
            }
            self.pool.changed.notify_one();
            ready.stubs.pop()
        };
        ready.map_or_else(|| self.pool.spawn(), Ok)
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
        let pid = self.template.lock().spawn(&commands)?;
        Ok(Stub { pid, commands, reaped: AtomicBool::new(false) })
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
