//! An address space: one stub process, which is blank when the address space begins, and goes back
//! to the nursery when it ends.
//!
//! Lock order: `exec` -> the template's -> `mappings`; `exec` -> the executor's.

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::Shared;
use super::body::Body;
use super::layout::Layout;
use super::patches::Patches;
use super::process::{Process, Remains};
use super::quiet::{Quiet, Runner};
use super::spin::Spinner;
use super::thread::Thread;
use crate::arch::doorbell::BATCH_MAX;
use crate::stub::queue::{Op, Queue};
use crate::stub::sys::Tid;
use crate::{AddressSpace, Error, GuestThread, Prot, Registers, Source};

/// See the module.
pub(super) struct Space {
    shared: Arc<Shared>,
    /// `None` only while it is dropped.
    process: Option<Process>,
    pid: Tid,
    /// Held by whoever has commands executed: they must stay in order. What must not be reused
    /// before the process is gone, after a command failed.
    exec: Mutex<Vec<Box<dyn Any + Send>>>,
    mappings: Mutex<Mappings>,
    /// Whether there ever was a patch.
    is_patched: AtomicBool,
    /// Who may be where patches were.
    quiet: Quiet,
    /// Commands queued so far.
    queued: AtomicU64,
    /// Commands that hold.
    done: AtomicU64,
    bodies: Mutex<Bodies>,
    /// What backs the guest's mappings, once it is gone.
    rest: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Executed commands, and what their effect had to be waited for with.
type Garbage = (Vec<Op>, Vec<Box<dyn Any + Send>>);

struct Mappings {
    queue: Queue,
    patches: Patches,
    /// Where the guest has vvar, which it did not look at yet: it is where a blank process has it.
    late_vdso: Option<u64>,
}

impl Mappings {
    fn new(shared: &Shared) -> Mappings {
        Mappings {
            queue: Queue::new(shared.vdso.as_ref()),
            patches: Patches::new(shared.file.clone(), shared.layout, shared.patches.clone()),
            late_vdso: None,
        }
    }
}

struct Bodies {
    idle: Vec<Body>,
    /// Slots for blocks that were handed out.
    slots: u64,
}

impl Space {
    pub(super) fn new(shared: Arc<Shared>) -> Result<Space, Error> {
        let (process, body) = shared.nursery.take()?;
        let mappings = Mutex::new(Mappings::new(&shared));
        Ok(Space {
            shared,
            pid: process.pid(),
            process: Some(process),
            exec: Mutex::default(),
            mappings,
            is_patched: AtomicBool::new(false),
            quiet: Quiet::default(),
            queued: AtomicU64::new(0),
            done: AtomicU64::new(0),
            bodies: Mutex::new(Bodies { idle: vec![body], slots: 1 }),
            rest: Mutex::default(),
        })
    }

    pub(super) fn pid(&self) -> Tid {
        self.pid
    }

    fn process(&self) -> Result<&Process, Error> {
        self.process.as_ref().ok_or(Error::StubGone)
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// An error if the process was given up.
    pub(super) fn alive(&self) -> Result<(), Error> {
        self.process()?.alive()
    }

    /// Ends the process: it is not what the Sentry believes.
    pub(super) fn give_up(&self) {
        if let Some(process) = &self.process {
            process.give_up();
        }
    }

    fn is_flushed(&self) -> bool {
        self.done.load(Ordering::Acquire) == self.queued.load(Ordering::Acquire)
    }

    /// Changes the queue; `change` says what it adds.
    fn enqueue(
        &self,
        keep: Option<Box<dyn Any + Send>>,
        change: impl FnOnce(&mut Queue, &mut Patches),
    ) {
        let mut mappings = self.mappings.lock();
        let Mappings { queue, patches, .. } = &mut *mappings;
        change(queue, patches);
        if let Some(keep) = keep {
            queue.keep(keep);
        }
        self.queued.fetch_add(1, Ordering::Release);
    }

    /// Has executed what is queued. Blocks until it is done.
    pub(super) fn flush(&self) -> Result<(), Error> {
        if self.is_flushed() {
            return self.alive();
        }
        let mut late = self.exec.lock();
        let garbage = self.flush_locked(&mut late);
        drop(late);
        garbage.map(drop)
    }

    /// As [`Space::flush`]. Returns what is to be dropped once `exec` is not held any more: it may
    /// be anything.
    fn flush_locked(&self, late: &mut Vec<Box<dyn Any + Send>>) -> Result<Garbage, Error> {
        self.alive()?;
        let (queued, retired, (ops, keeps)) = {
            let mut mappings = self.mappings.lock();
            let retired = mappings.patches.epoch();
            (self.queued.load(Ordering::Acquire), retired, mappings.queue.take())
        };
        if let Err(error) = ops.chunks(BATCH_MAX).try_for_each(|ops| self.execute(ops)) {
            tracing::debug!(stub = self.pid(), %error, "the guest process ends");
            self.give_up();
            late.extend(keeps);
            return Err(Error::StubGone);
        }
        self.quiet.set_retired(retired);
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
        if let Err((index, errno)) = self.process()?.execute(&commands)? {
            let what = ops.get(index).map_or("a command", Op::name);
            let error = std::io::Error::from_raw_os_error(errno);
            tracing::error!(stub = self.pid(), what, %error, command = ?commands.get(index),
                "the host refused a mapping; the guest process ends");
            return Err(Error::Host { what, source: error });
        }
        Ok(())
    }

    /// A system call of the caller's guest thread trapped where no patch is.
    pub(super) fn trapped(&self, regs: &Registers, asking: &Arc<Runner>) {
        if !self.shared.patching {
            return;
        }
        let mut mappings = self.mappings.lock();
        let Mappings { queue, patches, .. } = &mut *mappings;
        let patched = patches.trapped(queue, regs);
        // Afterwards: a thread that is to be waited for may go on meanwhile.
        let reclaimed = patches.wants_reclaim() && {
            let reclaimed = patches.reclaim(queue, self.quiet.epoch(asking));
            if patches.wants_reclaim() {
                self.quiet.hurry(asking);
            }
            reclaimed
        };
        if patched || reclaimed {
            self.queued.fetch_add(1, Ordering::Release);
            self.is_patched.store(true, Ordering::Release);
        }
    }

    /// Who may be where patches were.
    pub(super) fn quiet(&self) -> &Quiet {
        &self.quiet
    }

    fn patches<T>(&self, look: impl FnOnce(&Patches) -> T) -> Option<T> {
        self.is_patched.load(Ordering::Acquire).then(|| look(&self.mappings.lock().patches))
    }

    /// Where a thread goes on that is to go on at `rip`: not in the middle of a patch.
    pub(super) fn enter(&self, rip: u64) -> u64 {
        self.patches(|p| p.enter(rip)).unwrap_or(rip)
    }

    /// Whether the instruction at `rip` is not there any more, but in a trampoline.
    pub(super) fn is_moved(&self, rip: u64) -> bool {
        self.patches(|p| p.is_moved(rip)).unwrap_or(false)
    }

    /// What a guest sees of a thread that is in a trampoline: its address, and whether a system
    /// call is due there. `None` elsewhere.
    ///
    /// # Errors
    /// [`Error::StubGone`] where only a jump leads to.
    pub(super) fn leave(&self, rip: u64) -> Result<Option<(u64, bool)>, Error> {
        let found = self.patches(|p| p.has(rip).then(|| p.leave(rip)));
        found.flatten().map(|place| place.ok_or(Error::StubGone)).transpose()
    }

    /// Makes a system call of a thread that left `at`, an address in a trampoline, for the stub, but
    /// came by signal.
    pub(super) fn entered(&self, at: u64, regs: &mut Registers) -> Result<(), Error> {
        let next = self.patches(|p| p.next(at)).flatten().ok_or(Error::StubGone)?;
        (regs.orig_rax, regs.rip, regs.rcx, regs.r11) = (regs.rax, next, next, regs.eflags);
        Ok(())
    }

    fn thread(self: Arc<Self>) -> Result<Thread, Error> {
        self.alive()?;
        let body = self.body()?;
        Thread::new(self, body)
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
        // Two threads could look at it at once.
        self.bring_vdso(|_| true);
        let shared = &self.shared;
        let spinner = Spinner::new(shared.spins.clone());
        Body::new(self.process()?, &shared.births, &shared.file, shared.layout, slot, spinner)
    }

    /// Brings vvar and vDSO to their place if they are late and `is_due` says so, of their addresses.
    /// Returns whether it did: they are there once the queue is flushed.
    pub(super) fn bring_vdso(&self, is_due: impl FnOnce(Range<u64>) -> bool) -> bool {
        let Some(vdso) = &self.shared.vdso else { return false };
        let mut mappings = self.mappings.lock();
        let at = mappings.late_vdso.take_if(|at| is_due(*at..*at + vdso.len()));
        if let Some(at) = at {
            mappings.queue.move_vdso(vdso, self.shared.layout.parking(), at);
            self.queued.fetch_add(1, Ordering::Release);
        }
        at.is_some()
    }

    /// Takes back the body of a guest thread that is gone. It stays until the process has ended:
    /// other threads of that can reach its block, and would die with its listener.
    pub(super) fn put_back(&self, mut body: Body) {
        if body.sleep().is_err() {
            self.give_up();
        }
        self.bodies.lock().idle.push(body);
    }
}

impl Space {
    /// What is left, if the process may be used again: it only ever had one guest thread.
    fn remains(&mut self) -> Option<Remains> {
        let shared = self.shared.clone();
        let Bodies { idle, slots: 1 } = self.bodies.get_mut() else { return None };
        let mappings = self.mappings.get_mut();
        let vdso = match &shared.vdso {
            Some(vdso) => Some((vdso.clone(), mappings.queue.vdso_now()?)),
            None => None,
        };
        let process = self.process.take_if(|process| process.alive().is_ok())?;
        let Some(body) = idle.pop() else {
            self.process = Some(process);
            return None;
        };
        let mut rest = std::mem::take(self.exec.get_mut());
        rest.push(Box::new(std::mem::replace(mappings, Mappings::new(&shared))));
        rest.extend(self.rest.get_mut().take());
        Some(Remains { process, body, vdso, rest })
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            process.note_cpu();
        }
        let shared = self.shared.clone();
        match self.remains() {
            Some(remains) => shared.nursery.leave(remains),
            None => {
                tracing::debug!(stub = self.pid, "not used again");
                self.process = None;
                shared.nursery.wake();
            }
        }
    }
}

impl AddressSpace for Space {
    fn cpu_ns(&self) -> u64 {
        self.process.as_ref().map_or(0, Process::cpu_ns)
    }

    fn map(&self, addr: u64, len: u64, prot: Prot, source: Source, populate: bool) {
        self.enqueue(None, |q, patches| {
            patches.map(q, addr, len, prot, &source);
            q.map(addr, len, prot, source, populate);
        });
    }

    fn unmap(&self, addr: u64, len: u64, keep: Option<Box<dyn Any + Send>>) {
        self.enqueue(keep, |q, patches| {
            patches.unmap(q, addr, len);
            for (addr, len) in patches.guests_part(addr, len) {
                q.unmap(addr, len);
            }
        });
    }

    fn protect(&self, addr: u64, len: u64, prot: Prot) {
        self.enqueue(None, |q, patches| {
            patches.protect(q, addr, len, prot);
            q.protect(addr, len, prot);
        });
    }

    fn rewritten(&self, addr: u64, len: u64) {
        if self.is_patched.load(Ordering::Acquire) {
            self.enqueue(None, |q, patches| patches.rewritten(q, addr, len));
        }
    }

    fn move_vdso(&self, vvar_base: u64) {
        if let Some(vdso) = &self.shared.vdso {
            let mut mappings = self.mappings.lock();
            mappings.late_vdso = None;
            mappings.queue.move_vdso(vdso, self.shared.layout.parking(), vvar_base);
            self.queued.fetch_add(1, Ordering::Release);
        }
    }

    fn unmap_vdso(&self) {
        if let Some(vdso) = &self.shared.vdso {
            let mut mappings = self.mappings.lock();
            mappings.late_vdso = None;
            mappings.queue.unmap_vdso(vdso);
            self.queued.fetch_add(1, Ordering::Release);
        }
    }

    fn defer(&self, keep: Box<dyn Any + Send>) {
        if !self.is_flushed() {
            self.enqueue(Some(keep), |_, _| ());
        }
    }

    fn sync(&self) {
        if let Err(error) = self.flush() {
            // Then nothing runs under old mappings either.
            tracing::debug!(stub = self.pid(), %error, "sync of a dead stub");
            self.give_up();
        }
    }

    fn leave(&self, rest: Box<dyn Any + Send>) -> Option<Box<dyn Any + Send>> {
        self.rest.lock().replace(rest)
    }

    fn inherit(&self, parent: &dyn AddressSpace) {
        let Some(parent) = parent.as_any().and_then(|any| any.downcast_ref::<Space>()) else {
            return;
        };
        if let Some(vdso) = &self.shared.vdso {
            // The child of a fork is about to become another program, mostly.
            let mappings = &mut *self.mappings.lock();
            mappings.late_vdso = mappings.queue.postpone_vdso(vdso);
        }
        if !parent.is_patched.load(Ordering::Acquire) {
            return;
        }
        // The child is nobody else's yet, so the order of the two locks does not matter.
        let theirs = parent.mappings.lock();
        self.enqueue(None, |queue, patches| {
            if patches.inherit(queue, &theirs.patches).is_some() {
                self.is_patched.store(true, Ordering::Release);
            }
        });
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn new_thread(self: Arc<Self>) -> Result<Box<dyn GuestThread>, Error> {
        Ok(Box::new(self.thread()?))
    }

    fn new_movable_thread(self: Arc<Self>) -> Result<Option<Box<dyn GuestThread + Send>>, Error> {
        Ok(Some(Box::new(self.thread()?)))
    }
}
