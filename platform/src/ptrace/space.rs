//! An address space: one stub process, with a parked *manager* thread that runs no guest code.
//!
//! Commands are executed by whichever thread of the process is at hand, since mappings belong to
//! all of them: the guest thread of the calling host thread, stopped between two runs, or else the
//! manager, seized for as long as it takes. So no running guest thread needs to be disturbed.
//!
//! Lock order: `exec` -> the template's -> `queue`.

use std::any::Any;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::held::{BATCH_MAX, Held, Stopped};
use super::stub::Stub;
use super::sys::{self, Tid};
use super::thread::Thread;
use super::{Shared, template::TemplateHold};
use crate::arch::filter::CLONE_THREAD;
use crate::stub::queue::{Op, Queue};
use crate::{AddressSpace, Error, GuestThread, Prot, Source};

thread_local! {
    /// The stopped guest threads that the calling host thread drives, by their space's pid.
    static MINE: RefCell<Vec<(Tid, Rc<Stopped>)>> = const { RefCell::new(Vec::new()) };
}

/// See the module.
pub(super) struct Space {
    shared: Arc<Shared>,
    /// The stub process.
    stub: Stub,
    /// Its id.
    pid: Tid,
    /// Held by whoever makes threads of the process execute commands, or seizes the manager.
    exec: Mutex<Exec>,
    queue: Mutex<Queue>,
    /// Commands queued so far.
    queued: AtomicU64,
    /// Commands that hold.
    done: AtomicU64,
    /// Set when the process was given up.
    dead: AtomicBool,
}

/// Executed commands, and what their effect had to be waited for with.
type Garbage = (Vec<Op>, Vec<Box<dyn Any + Send>>);

#[derive(Default)]
struct Exec {
    /// What must not be reused before the process is gone, after a command failed.
    late: Vec<Box<dyn Any + Send>>,
}

impl Space {
    pub(super) fn new(shared: Arc<Shared>) -> Result<Space, Error> {
        let stub = shared.nursery.take()?;
        let queue = Mutex::new(Queue::new(shared.vdso.as_ref()));
        Ok(Space {
            shared,
            pid: stub.pid(),
            stub,
            exec: Mutex::default(),
            queue,
            queued: AtomicU64::new(0),
            done: AtomicU64::new(0),
            dead: AtomicBool::new(false),
        })
    }

    pub(super) fn pid(&self) -> Tid {
        self.pid
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
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

    /// Executes what is queued, on a thread of this process that the caller holds.
    pub(super) fn flush(&self, stopped: &Stopped) -> Result<(), Error> {
        if self.is_flushed() {
            return self.alive();
        }
        let mut exec = self.exec.lock();
        let garbage = self.flush_locked(&mut exec, stopped);
        drop(exec);
        garbage.map(drop)
    }

    /// As [`Space::flush`]. Returns what is to be dropped once `exec` is not held any more: it may
    /// be anything.
    fn flush_locked(&self, exec: &mut Exec, stopped: &Stopped) -> Result<Garbage, Error> {
        self.alive()?;
        let (queued, (ops, keeps)) = {
            let mut queue = self.queue.lock();
            (self.queued.load(Ordering::Acquire), queue.take())
        };
        let result = ops.chunks(BATCH_MAX).try_for_each(|ops| self.execute(ops, stopped));
        if result.is_err() {
            self.give_up();
            exec.late.extend(keeps);
            return Err(Error::StubGone);
        }
        self.done.store(queued, Ordering::Release);
        Ok((ops, keeps))
    }

    fn execute(&self, ops: &[Op], stopped: &Stopped) -> Result<(), Error> {
        let mut commands = Vec::with_capacity(ops.len());
        // The template stays locked until the descriptors were used.
        let mut template = None;
        for op in ops {
            let fd = match op.file() {
                None => 0,
                Some(file) => {
                    let template = template.get_or_insert_with(|| self.shared.template.lock());
                    match template.known_descriptor(file) {
                        Some(fd) => fd,
                        None => {
                            let mut hold: TemplateHold<'_> = template.hold(sys::OPTIONS)?;
                            hold.descriptor(file)?
                        }
                    }
                }
            };
            commands.push(op.command(fd));
        }
        if let Err((index, errno)) = stopped.batch(self.stub.commands(), &commands)? {
            let what = ops.get(index).map_or("a command", Op::name);
            let error = std::io::Error::from_raw_os_error(errno);
            tracing::error!(stub = self.pid, what, %error, command = ?commands.get(index),
                "the host refused a mapping; the guest process ends");
            return Err(Error::Host { what, source: error });
        }
        Ok(())
    }

    fn alive(&self) -> Result<(), Error> {
        if self.dead.load(Ordering::Acquire) { Err(Error::StubGone) } else { Ok(()) }
    }

    /// Ends the process: its mappings are not what the Sentry believes.
    fn give_up(&self) {
        if !self.dead.swap(true, Ordering::AcqRel) {
            sys::kill(self.pid, libc::SIGKILL);
        }
    }

    /// Seizes the manager for `work`.
    fn with_manager<T>(
        &self,
        exec: &mut Exec,
        options: i32,
        work: impl FnOnce(&mut Exec, &Held) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.alive()?;
        let held = Held::seize(self.stub.manager(), self.shared.layout, options)?;
        let result = work(exec, &held);
        if held.gone().is_some() {
            self.give_up();
            if options == sys::OPTIONS_CLONE {
                self.stub.set_orphaned();
            }
        }
        result
    }
}

impl AddressSpace for Space {
    fn cpu_ns(&self) -> u64 {
        sys::cpu_ns(self.pid)
    }

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
        if self.is_flushed() {
            return;
        }
        let mine = MINE.with_borrow(|mine| {
            mine.iter().find(|(pid, _)| *pid == self.pid).map(|(_, stopped)| stopped.clone())
        });
        let mut exec = self.exec.lock();
        if self.is_flushed() {
            return;
        }
        let result = match mine {
            Some(stopped) => self.flush_locked(&mut exec, &stopped),
            None => self
                .with_manager(&mut exec, sys::OPTIONS, |exec, held| self.flush_locked(exec, held)),
        };
        drop(exec);
        if let Err(error) = result {
            // Then nothing runs under old mappings either.
            tracing::debug!(stub = self.pid, %error, "sync of a dead stub");
            self.give_up();
        }
    }

    fn new_thread(self: Arc<Self>) -> Result<Box<dyn GuestThread>, Error> {
        let place = self.shared.cpus.settle();
        let mut exec = self.exec.lock();
        let stopped = self.with_manager(&mut exec, sys::OPTIONS_CLONE, |_, held| {
            held.clone_task(CLONE_THREAD, false)
        });
        drop(exec);
        let stopped = stopped.inspect_err(|_| self.shared.cpus.unsettle())?;
        let stopped = Rc::new(stopped);
        MINE.with_borrow_mut(|mine| mine.push((self.pid, stopped.clone())));
        let thread = Thread::new(self, stopped, place);
        thread.reset_xstate()?;
        Ok(Box::new(thread))
    }
}

/// Forgets a guest thread of the calling host thread. Returns whether it was the last one: around
/// an execve there are two.
pub(super) fn forget(stopped: &Rc<Stopped>) -> bool {
    MINE.with_borrow_mut(|mine| {
        mine.retain(|(_, s)| !Rc::ptr_eq(s, stopped));
        mine.is_empty()
    })
}
