//! An address space: one stub process.
//!
//! Lock order: `exec` -> the template's -> `queue`; `exec` -> the executor's.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::Shared;
use super::body::Body;
use super::layout::Layout;
use super::process::Process;
use super::thread::Thread;
use crate::arch::doorbell::BATCH_MAX;
use crate::stub::queue::{Op, Queue};
use crate::stub::sys::Tid;
use crate::{AddressSpace, Error, GuestThread, Prot, Registers, Source};

/// Most idle bodies that are kept for later guest threads.
const IDLE_MAX: usize = 64;

/// See the module.
pub(super) struct Space {
    shared: Arc<Shared>,
    process: Process,
    /// Held by whoever has commands executed: they must stay in order. What must not be reused
    /// before the process is gone, after a command failed.
    exec: Mutex<Vec<Box<dyn Any + Send>>>,
    queue: Mutex<Queue>,
    /// Commands queued so far.
    queued: AtomicU64,
    /// Commands that hold.
    done: AtomicU64,
    bodies: Mutex<Bodies>,
}

/// Executed commands, and what their effect had to be waited for with.
type Garbage = (Vec<Op>, Vec<Box<dyn Any + Send>>);

struct Bodies {
    idle: Vec<Body>,
    /// Slots for blocks that were handed out.
    slots: u64,
}

impl Space {
    pub(super) fn new(shared: Arc<Shared>) -> Result<Space, Error> {
        let (process, body) = shared.nursery.take()?;
        let queue = Mutex::new(Queue::new(shared.vdso.as_ref()));
        Ok(Space {
            shared,
            process,
            exec: Mutex::default(),
            queue,
            queued: AtomicU64::new(0),
            done: AtomicU64::new(0),
            bodies: Mutex::new(Bodies { idle: vec![body], slots: 1 }),
        })
    }

    pub(super) fn pid(&self) -> Tid {
        self.process.pid()
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// An error if the process was given up.
    pub(super) fn alive(&self) -> Result<(), Error> {
        self.process.alive()
    }

    /// Ends the process: it is not what the Sentry believes.
    pub(super) fn give_up(&self) {
        self.process.give_up();
    }

    fn is_flushed(&self) -> bool {
        self.done.load(Ordering::Acquire) == self.queued.load(Ordering::Acquire)
    }

    /// Changes the queue; `change` says what it adds.
    fn enqueue(&self, keep: Option<Box<dyn Any + Send>>, change: impl FnOnce(&mut Queue)) {
        let mut queue = self.queue.lock();
        change(&mut queue);
        if let Some(keep) = keep {
            queue.keep(keep);
        }
        self.queued.fetch_add(1, Ordering::Release);
    }

    /// Has executed what is queued. Blocks until it is done.
    pub(super) fn flush(&self) -> Result<(), Error> {
        if self.is_flushed() {
            return self.process.alive();
        }
        let mut late = self.exec.lock();
        let garbage = self.flush_locked(&mut late);
        drop(late);
        garbage.map(drop)
    }

    /// As [`Space::flush`]. Returns what is to be dropped once `exec` is not held any more: it may
    /// be anything.
    fn flush_locked(&self, late: &mut Vec<Box<dyn Any + Send>>) -> Result<Garbage, Error> {
        self.process.alive()?;
        let (queued, (ops, keeps)) = {
            let mut queue = self.queue.lock();
            (self.queued.load(Ordering::Acquire), queue.take())
        };
        if let Err(error) = ops.chunks(BATCH_MAX).try_for_each(|ops| self.execute(ops)) {
            tracing::debug!(stub = self.pid(), %error, "the guest process ends");
            self.give_up();
            late.extend(keeps);
            return Err(Error::StubGone);
        }
        self.done.store(queued, Ordering::Release);
        Ok((ops, keeps))
    }

    fn execute(&self, ops: &[Op]) -> Result<(), Error> {
        let mut commands = Vec::with_capacity(ops.len());
        // The template stays locked until the descriptors were used.
        let mut template = None;
        for op in ops {
            let fd = match op.file() {
                None => 0,
                Some(file) => {
                    template.get_or_insert_with(|| self.shared.template.lock()).descriptor(file)?
                }
            };
            commands.push(op.command(fd));
        }
        if let Err((index, errno)) = self.process.execute(&commands)? {
            let what = ops.get(index).map_or("a command", Op::name);
            let error = std::io::Error::from_raw_os_error(errno);
            tracing::error!(stub = self.pid(), what, %error, command = ?commands.get(index),
                "the host refused a mapping; the guest process ends");
            return Err(Error::Host { what, source: error });
        }
        Ok(())
    }

    /// A thread came from a patched call site, but by signal. `at` is where the call site left a
    /// note of where it is.
    pub(super) fn entered(&self, at: u64, regs: &mut Registers) -> Result<(), Error> {
        let _ = (at, regs);
        Err(Error::StubGone)
    }

    /// A body for a new guest thread.
    fn body(&self) -> Result<Body, Error> {
        let slot = {
            let mut bodies = self.bodies.lock();
            if let Some(body) = bodies.idle.pop() {
                return Ok(body);
            }
            if bodies.slots >= Layout::BLOCKS_MAX {
                return Err(Error::host("a guest thread", libc::EAGAIN));
            }
            bodies.slots += 1;
            bodies.slots - 1
        };
        let shared = &self.shared;
        Body::new(&self.process, &shared.births, &shared.file, shared.layout, slot)
    }

    /// Takes back the body of a guest thread that is gone.
    pub(super) fn put_back(&self, body: Body) {
        let mut bodies = self.bodies.lock();
        if self.process.alive().is_ok() && bodies.idle.len() < IDLE_MAX {
            bodies.idle.push(body);
        }
    }
}

impl AddressSpace for Space {
    fn map(&self, addr: u64, len: u64, prot: Prot, source: Source, populate: bool) {
        self.enqueue(None, |q| q.map(addr, len, prot, source, populate));
    }

    fn unmap(&self, addr: u64, len: u64, keep: Option<Box<dyn Any + Send>>) {
        self.enqueue(keep, |q| q.unmap(addr, len));
    }

    fn protect(&self, addr: u64, len: u64, prot: Prot) {
        self.enqueue(None, |q| q.protect(addr, len, prot));
    }

    fn move_vdso(&self, vvar_base: u64) {
        if let Some(vdso) = &self.shared.vdso {
            self.enqueue(None, |q| q.move_vdso(vdso, self.shared.layout.parking(), vvar_base));
        }
    }

    fn unmap_vdso(&self) {
        if let Some(vdso) = &self.shared.vdso {
            self.enqueue(None, |q| q.unmap_vdso(vdso));
        }
    }

    fn defer(&self, keep: Box<dyn Any + Send>) {
        if !self.is_flushed() {
            self.enqueue(Some(keep), |_| ());
        }
    }

    fn sync(&self) {
        if let Err(error) = self.flush() {
            // Then nothing runs under old mappings either.
            tracing::debug!(stub = self.pid(), %error, "sync of a dead stub");
            self.give_up();
        }
    }

    fn new_thread(self: Arc<Self>) -> Result<Box<dyn GuestThread>, Error> {
        self.process.alive()?;
        let body = self.body()?;
        Ok(Box::new(Thread::new(self, body)?))
    }
}
