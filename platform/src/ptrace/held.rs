//! A stub thread under the calling host thread's control, running stub code.

use std::cell::Cell;

use zerocopy::IntoBytes as _;

use super::sys::{self, Gone, Stop, Tid};
use crate::arch::stub::{self, Command};
use crate::memory_file::Frames;
use crate::{Error, PAGE_SIZE, Registers, usercopy};

/// Where the stub's own pages are in every stub process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// First byte of the stub's range.
    pub(super) base: u64,
}

impl Layout {
    /// Bytes that the stub keeps for itself.
    pub(super) const LEN: u64 = 16 * PAGE_SIZE;

    /// The page with the stub's code: read and execute.
    pub(super) fn code(self) -> u64 {
        self.base
    }

    /// The page with the commands: read only; its frames belong to the Sentry.
    pub(super) fn commands(self) -> u64 {
        self.base + PAGE_SIZE
    }

    /// A writable page that only the template has.
    pub(super) fn scratch(self) -> u64 {
        self.base + 2 * PAGE_SIZE
    }

    /// Where vvar and vDSO are in a blank process, and on the way when they are moved onto a part of
    /// their old place: address, bytes.
    pub(super) fn parking(self) -> (u64, u64) {
        let used = 3 * PAGE_SIZE;
        (self.base + used, Layout::LEN - used)
    }
}

/// How many commands fit on the command page.
pub(super) const BATCH_MAX: usize = PAGE_SIZE as usize / size_of::<Command>();

/// A thread of a stub, traced by the calling host thread and stopped.
pub(super) struct Stopped {
    tid: Tid,
    layout: Layout,
    /// Set once it turned out to be dead.
    gone: Cell<Option<Gone>>,
}

impl Stopped {
    fn new(tid: Tid, layout: Layout) -> Stopped {
        Stopped { tid, layout, gone: Cell::new(None) }
    }

    /// Its thread id.
    pub(super) fn tid(&self) -> Tid {
        self.tid
    }

    /// Whether it turned out to be dead.
    pub(super) fn gone(&self) -> Option<Gone> {
        self.gone.get()
    }

    /// Remembers a death. After the first one nothing more is asked of the host.
    pub(super) fn note<T>(&self, ask: impl FnOnce(Tid) -> Result<T, Gone>) -> Result<T, Gone> {
        if let Some(gone) = self.gone.get() {
            return Err(gone);
        }
        ask(self.tid).inspect_err(|&gone| self.gone.set(Some(gone)))
    }

    /// Starts stub code and waits until it is done.
    fn run(&self, regs: &Registers) -> Result<Registers, Gone> {
        self.run_with(regs, sys::wait, |_| ())
    }

    /// As [`Stopped::run`], with `wait`. A clone event on the way is passed to `event`.
    fn run_with(
        &self,
        regs: &Registers,
        wait: fn(Tid) -> Result<Stop, Gone>,
        mut event: impl FnMut(Tid),
    ) -> Result<Registers, Gone> {
        self.set_own_registers(regs)?;
        let mut after = Registers::default();
        loop {
            self.note(sys::cont)?;
            match self.note(wait)? {
                Stop::Signal(libc::SIGTRAP) => {
                    self.note(|tid| sys::registers(tid, &mut after))?;
                    if stub::is_done(self.layout.code(), &after) {
                        return Ok(after);
                    }
                }
                Stop::Event(libc::PTRACE_EVENT_CLONE) => {
                    event(self.note(sys::event_message)? as Tid);
                }
                Stop::Signal(
                    signal @ (libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGSYS),
                ) => {
                    // The stub's own code failed. It can do nothing else but die.
                    tracing::error!(tid = self.tid, signal, "stub code faulted");
                    self.give_up();
                    return Err(Gone::Dying);
                }
                // A kick or a stranger's signal: dropped here; who kicked left a note.
                Stop::Signal(_) | Stop::Syscall | Stop::Event(_) => {}
            }
        }
    }

    /// Ends a stub that does not do what it was told.
    fn give_up(&self) {
        sys::kill(self.tid, libc::SIGKILL);
        self.gone.set(Some(Gone::Dying));
    }

    fn set_own_registers(&self, regs: &Registers) -> Result<(), Gone> {
        if self.note(|tid| sys::set_registers(tid, regs))? {
            return Ok(());
        }
        self.give_up();
        Err(Gone::Dying)
    }

    /// Executes one host call.
    pub(super) fn call(&self, command: Command) -> Result<i64, Gone> {
        let after = self.run(&stub::call(self.layout.code(), command))?;
        Ok(after.rax as i64)
    }

    /// As [`Stopped::call`]; a failure of the call is an error.
    pub(super) fn call_checked(&self, what: &'static str, command: Command) -> Result<i64, Error> {
        match self.call(command)? {
            result @ -4095..0 => Err(Error::host(what, -result as i32)),
            result => Ok(result),
        }
    }

    /// Executes a clone and returns the new task, stopped and traced by the caller, who must have
    /// seized this one with [`sys::OPTIONS_CLONE`]. `fork` says that the task gets a copy of the
    /// address space.
    pub(super) fn clone_task(&self, flags: u64, fork: bool) -> Result<Stopped, Error> {
        let command = Command::new(libc::SYS_clone, [flags, 0, 0, 0, 0, 0]);
        let code = self.layout.code();
        let regs = if fork { stub::fork(code, command) } else { stub::call(code, command) };
        let mut child = None;
        let result = self.run_with(&regs, sys::wait_cloning, |tid| child = Some(tid));
        let child = child.map(|tid| Stopped::new(tid, self.layout));
        let after = result.inspect_err(|_| {
            if let Some(child) = &child {
                child.abandon();
            }
        })?;
        if let result @ -4095..0 = after.rax as i64 {
            return Err(Error::host("clone", -result as i32));
        }
        let child = child.ok_or(Error::StubGone)?;
        child.await_event().inspect_err(|_| child.abandon())?;
        Ok(child)
    }

    /// Kills and reaps what nobody will ever use.
    pub(super) fn abandon(&self) {
        if self.gone() != Some(Gone::Reaped) {
            sys::kill(self.tid, libc::SIGKILL);
            sys::reap(self.tid);
            self.gone.set(Some(Gone::Reaped));
        }
    }

    /// Waits for the stop that seizing, or being born traced, brings about.
    fn await_event(&self) -> Result<(), Gone> {
        while !matches!(self.note(sys::wait)?, Stop::Event(_)) {
            self.note(sys::cont)?;
        }
        Ok(())
    }

    /// Executes commands, at most [`BATCH_MAX`], by way of the command page that is mapped from
    /// `page`. The inner error names the command that failed and the host's errno.
    pub(super) fn batch(
        &self,
        page: &Frames,
        commands: &[Command],
    ) -> Result<Result<(), (usize, i32)>, Gone> {
        if let [command] = commands {
            return Ok(match self.call(*command)? {
                result @ -4095..0 => Err((0, -result as i32)),
                _ => Ok(()),
            });
        }
        let bytes = commands.as_bytes();
        assert!(commands.len() <= BATCH_MAX, "too many commands in a batch");
        // SAFETY: `page` is a page of the memory file that nobody else writes, `bytes` fit on it.
        let copied = unsafe { usercopy::copy_to(page.ptr(), bytes.as_ptr(), bytes.len()) };
        if copied < bytes.len() {
            // The host is out of memory.
            self.give_up();
            return Err(Gone::Dying);
        }
        let start = self.layout.commands();
        let end = start + bytes.len() as u64;
        let after = self.run(&stub::batch(self.layout.code(), start, end))?;
        let (at, result) = stub::batch_result(&after);
        if at == end {
            return Ok(Ok(()));
        }
        let index = at.wrapping_sub(start) as usize / size_of::<Command>();
        Ok(Err((index, result.wrapping_neg() as i32)))
    }

    /// Sends the thread to sleep and lets it go.
    pub(super) fn park(&self) {
        let parked = self
            .set_own_registers(&stub::park(self.layout.code()))
            .and_then(|()| self.note(sys::detach));
        if parked.is_err() {
            tracing::debug!(tid = self.tid, "a stub thread died before it was parked");
        }
    }

    /// Ends the thread (which must not lead its group) and reaps it.
    pub(super) fn exit(&self) {
        let command = Command::new(libc::SYS_exit, [0; 6]);
        if self.set_own_registers(&stub::call(self.layout.code(), command)).is_ok() {
            while self.note(sys::cont).and_then(|()| self.note(sys::wait)).is_ok() {}
        }
        if self.gone() == Some(Gone::Dying) {
            sys::reap(self.tid);
            self.gone.set(Some(Gone::Reaped));
        }
    }
}

/// A parked thread, seized by the calling host thread. Goes back to sleep when dropped.
pub(super) struct Held(Stopped);

impl Held {
    /// Seizes a parked thread. Blocks until it has stopped, which takes no guest's cooperation.
    pub(super) fn seize(tid: Tid, layout: Layout, options: i32) -> Result<Held, Error> {
        crate::stub::affinity::bring_here(tid);
        sys::seize(tid, options)?;
        let held = Held(Stopped::new(tid, layout));
        held.note(sys::interrupt)?;
        held.await_event()?;
        Ok(held)
    }

    /// A task that was just cloned.
    pub(super) fn newborn(stopped: Stopped) -> Held {
        Held(stopped)
    }
}

impl std::ops::Deref for Held {
    type Target = Stopped;

    fn deref(&self) -> &Stopped {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.gone().is_none() {
            self.park();
        }
    }
}
