//! A stub process and its executor: the thread that maps and unmaps.
//!
//! The executor reads its commands from a page that the guest cannot write, and reports in registers
//! by ringing its own doorbell; the answer starts the next batch. It runs no guest code, so its
//! calls need no check.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use zerocopy::IntoBytes as _;

use super::births::{Births, Kind};
use super::body::Body;
use super::layout::{Layout, USER_END};
use super::listener::Listener;
use super::spin::{Spinner, Spins};
use super::template::Template;
use crate::arch::doorbell::{BATCH_MAX, BLOCK_LEN, COMMANDS_START};
use crate::arch::stub::Command;
use crate::memory_file::{Frames, MemoryFile};
use crate::stub::affinity;
use crate::stub::nursery::Maker;
use crate::stub::queue::Queue;
use crate::stub::sys::{self, Tid};
use crate::stub::vdso::Vdso;
use crate::{Error, PAGE_SIZE, usercopy};

/// A stub process. Ended and reaped when dropped.
pub(super) struct Process {
    pid: Tid,
    /// Its command page: birth record and commands.
    page: Frames,
    executor: Mutex<Executor>,
    /// It was ended, or found dead and reaped: the id may be somebody else's.
    reaped: bool,
    /// It was given up.
    dead: AtomicBool,
    layout: Layout,
    graves: Arc<Graves>,
    /// What must not be reused before it has ended.
    late: Mutex<Vec<Frames>>,
    /// Its processor time up to the guest that it is used for, in nanoseconds.
    past: u64,
}

/// Processes that were killed and are not reaped yet.
pub(super) type Graves = Mutex<Vec<Tid>>;

struct Executor {
    listener: Listener,
    /// Its doorbell, which waits to be answered.
    ring: u64,
}

impl Process {
    /// Its process id.
    pub(super) fn pid(&self) -> Tid {
        self.pid
    }

    /// Its command page.
    pub(super) fn page(&self) -> &Frames {
        &self.page
    }

    /// Has the executor use `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`. Returns whether the host has it.
    pub(super) fn wake_here(&self) -> bool {
        self.executor.lock().listener.wake_here()
    }

    /// An error if it was given up.
    pub(super) fn alive(&self) -> Result<(), Error> {
        if self.dead.load(Ordering::Acquire) { Err(Error::StubGone) } else { Ok(()) }
    }

    /// Ends it, for it is not what the Sentry believes. It is reaped when it is dropped.
    pub(super) fn give_up(&self) {
        if !self.dead.swap(true, Ordering::AcqRel) {
            sys::kill(self.pid, libc::SIGKILL);
        }
    }

    /// Keeps what it may have mapped until it has ended.
    pub(super) fn keep(&self, frames: Frames) {
        self.late.lock().push(frames);
    }

    /// Executes commands, at most [`BATCH_MAX`], one after the other until one fails. The inner
    /// error names that one and the host's errno. Blocks until it is done, which takes no guest's
    /// cooperation.
    pub(super) fn execute(&self, commands: &[Command]) -> Result<Result<(), (usize, i32)>, Error> {
        assert!(commands.len() <= BATCH_MAX, "too many commands in a batch");
        let bytes = commands.as_bytes();
        let mut executor = self.executor.lock();
        // SAFETY: a page of the memory file that nobody else writes; that many commands fit.
        let copied = unsafe {
            let at = self.page.ptr().add(COMMANDS_START as usize);
            usercopy::copy_to(at, bytes.as_ptr(), bytes.len())
        };
        if copied < bytes.len() {
            return Err(Error::host("a command page", libc::ENOMEM));
        }
        executor.listener.answer(executor.ring, commands.len() as i64);
        let ring = executor.listener.next()?;
        executor.ring = ring.id;
        let [done, result] = ring.args;
        if done == commands.len() as u64 {
            return Ok(Ok(()));
        }
        Ok(Err((done as usize, (result as i64).wrapping_neg() as i32)))
    }

    /// Processor time that it spent on its guest, in nanoseconds.
    pub(super) fn cpu_ns(&self) -> u64 {
        sys::cpu_ns(self.pid).saturating_sub(self.past)
    }

    /// Its guest is gone: notes its processor time.
    pub(super) fn note_cpu(&mut self) {
        let spent = self.cpu_ns();
        sys::note_cpu_ns(spent);
        self.past += spent;
    }

    /// Unmaps all that its guest had, but for its one body in slot 0. vvar and the vDSO, which are
    /// at `at`, go back to where a blank process has them.
    ///
    /// # Errors
    /// When the process is not what it should be any more, or never was fit for another guest.
    pub(super) fn empty(&self, vdso: Option<(&Vdso, u64)>) -> Result<(), Error> {
        self.alive()?;
        if !self.late.lock().is_empty() {
            return Err(Error::StubGone);
        }
        let (body, parking) = (self.layout.block(0), self.layout.parking());
        let (guests, guests_len) = self.layout.guests();
        let mut keep: Vec<(u64, u64)> = vdso.iter().map(|(v, at)| (*at, at + v.len())).collect();
        keep.extend([(USER_END, guests), (body, body + BLOCK_LEN)]);
        keep.sort_unstable();
        let mut commands = Vec::new();
        let mut from = 0;
        for (start, end) in keep.into_iter().chain([(guests + guests_len, u64::MAX)]) {
            if from < start {
                let range = [from, start - from, 0, 0, 0, 0];
                commands.push(Command::new(libc::SYS_munmap, range));
            }
            from = end;
        }
        let mut queue = Queue::at(vdso.map(|(_, at)| at));
        if let Some((vdso, _)) = vdso {
            queue.move_vdso(vdso, parking, vdso.start());
        }
        commands.extend(queue.take().0.iter().map(|op| op.command(0)));
        match self.execute(&commands)? {
            Ok(()) => Ok(()),
            Err((_, errno)) => Err(Error::host("emptying a stub process", errno)),
        }
    }

    /// Ends it. What it had mapped can be used for something else afterwards; its death need not be
    /// waited for then, and is left to [`Processes::tidy`].
    pub(super) fn end(&mut self) {
        if std::mem::replace(&mut self.reaped, true) {
            return;
        }
        let range = |(at, len): (u64, u64)| Command::new(libc::SYS_munmap, [at, len, 0, 0, 0, 0]);
        let empty = self.execute(&[range((0, USER_END)), range(self.layout.guests())]);
        sys::kill(self.pid, libc::SIGKILL);
        match empty {
            Ok(Ok(())) => self.graves.lock().push(self.pid),
            _ => sys::reap(self.pid),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a guest left of an address space. Dropped, the process ends before all else is given back.
pub(super) struct Remains {
    pub(super) process: Process,
    /// In slot 0.
    pub(super) body: Body,
    /// Where vvar and the vDSO are.
    pub(super) vdso: Option<(Vdso, u64)>,
    /// What backs the guest's mappings.
    pub(super) rest: Vec<Box<dyn Any + Send>>,
}

impl Remains {
    /// Brings the process to where a blank one is.
    fn blank(self) -> Option<(Process, Body)> {
        let Remains { mut process, mut body, vdso, rest } = self;
        let result = process.empty(vdso.as_ref().map(|(vdso, at)| (vdso, *at)));
        let rest = match result {
            Ok(()) => {
                drop(rest);
                Vec::new()
            }
            Err(_) => rest,
        };
        match result.and_then(|()| body.cleanse()) {
            Ok(()) => {
                // The next guest does not pay for that.
                process.note_cpu();
                Some((process, body))
            }
            Err(error) => {
                tracing::debug!(stub = process.pid, %error, "not used again");
                drop(process);
                drop((body, rest));
                None
            }
        }
    }
}

/// Makes blank processes.
pub(super) struct Processes {
    pub(super) file: Arc<MemoryFile>,
    pub(super) layout: Layout,
    pub(super) template: Arc<Mutex<Template>>,
    pub(super) births: Arc<Mutex<Births>>,
    pub(super) spins: Arc<Spins>,
    pub(super) graves: Arc<Graves>,
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.graves.lock().drain(..).for_each(sys::reap);
    }
}

impl Maker for Processes {
    /// With the body of its first guest thread, in slot 0.
    type Stub = (Process, Body);
    type Remains = Remains;

    fn make(&self) -> Result<(Process, Body), Error> {
        let page = self
            .file
            .allocate(PAGE_SIZE)
            .ok_or_else(|| Error::host("a command page", libc::ENOMEM))?;
        let pid = self.template.lock().spawn(&page)?;
        let made = self.births.lock().make(pid, &page, Kind::Executor).and_then(|listener| {
            let ring = listener.next()?;
            affinity::run_anywhere(ring.tid);
            Ok(Executor { listener, ring: ring.id })
        });
        let executor = match made {
            Ok(executor) => Mutex::new(executor),
            Err(error) => {
                sys::kill(pid, libc::SIGKILL);
                sys::reap(pid);
                return Err(error);
            }
        };
        let process = Process {
            pid,
            page,
            executor,
            reaped: false,
            dead: AtomicBool::new(false),
            layout: self.layout,
            graves: self.graves.clone(),
            late: Mutex::default(),
            past: 0,
        };
        let scratch = [self.layout.scratch(), PAGE_SIZE, 0, 0, 0, 0];
        if let Err((_, errno)) = process.execute(&[Command::new(libc::SYS_munmap, scratch)])? {
            return Err(Error::host("munmap of a scratch page", errno));
        }
        let body = Body::new(
            &process,
            &self.births,
            &self.file,
            self.layout,
            0,
            Spinner::new(self.spins.clone()),
        )?;
        Ok((process, body))
    }

    fn revive(remains: Remains) -> Option<(Process, Body)> {
        remains.blank()
    }

    fn tidy(&self) -> bool {
        let mut graves = self.graves.lock();
        graves.retain(|&pid| !sys::try_reap(pid));
        graves.is_empty()
    }

    fn check((mut process, body): (Process, Body)) -> Option<(Process, Body)> {
        process.reaped = sys::try_reap(process.pid);
        (!process.reaped).then_some((process, body))
    }
}
