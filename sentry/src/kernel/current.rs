//! The running task, as its own host thread sees it, and the loop that runs it.

use std::ops::Deref;
use std::sync::Arc;

use abi::Errno;
use platform::{GuestThread, Registers, Trap};

use super::cpu_clock::Mode;
use super::{FdTable, Task};
use crate::mm::MemoryManager;
use crate::syscalls::{self, SysResult};

/// The rest of a system call that was interrupted (Linux's `struct restart_block`).
pub type Restart = Box<dyn FnOnce(&mut Current) -> SysResult>;

/// The task that this host thread runs (Linux's `current`). Only its own thread has it.
pub struct Current {
    /// What others see of it.
    pub task: Arc<Task>,
    /// Its memory: the same as `task.mm()`, at hand.
    pub mm: Arc<MemoryManager>,
    /// Its descriptors: the same as `task.files()`, at hand.
    pub files: Arc<FdTable>,
    /// The guest's registers.
    pub regs: Registers,
    guest: Box<dyn GuestThread>,
    /// Wait status of the thread, once it is to exit.
    exit: Option<u32>,
    /// What restart_syscall(2) goes on with.
    restart: Option<Restart>,
}

impl Deref for Current {
    type Target = Task;
    fn deref(&self) -> &Task {
        &self.task
    }
}

impl Current {
    /// Takes over `task` on this host thread.
    pub fn new(
        task: Arc<Task>,
        mm: Arc<MemoryManager>,
        files: Arc<FdTable>,
        regs: Registers,
        guest: Box<dyn GuestThread>,
    ) -> Current {
        task.sleeper.bind();
        task.set_kicker(Some(guest.kicker()));
        Current { task, mm, files, regs, guest, exit: None, restart: None }
    }

    /// For a call that is to be restarted with less left to do (a relative sleep): leaves `rest`
    /// for restart_syscall(2), and gives the error that makes the signal code call that.
    pub fn restart_with(
        &mut self,
        rest: impl FnOnce(&mut Current) -> SysResult + 'static,
    ) -> SysResult {
        self.restart = Some(Box::new(rest));
        Err(Errno::ERESTART_RESTARTBLOCK)
    }

    /// Takes what [`Current::restart_with`] left; rt_sigreturn(2) drops it.
    pub fn take_restart(&mut self) -> Option<Restart> {
        self.restart.take()
    }

    /// Ends this thread once its system call is done.
    pub fn exit_thread(&mut self, status: u32) {
        self.exit.get_or_insert(status);
    }

    /// Whether the thread or its whole group is about to exit.
    pub fn is_exiting(&self) -> bool {
        self.exit.is_some() || self.group.exiting().is_some()
    }

    /// Runs the task until it ends; returns its wait status.
    pub fn run(mut self) -> u32 {
        let status = loop {
            if self.task.interrupted() {
                self.task.clear_interrupt();
                if let Some(status) = self.group.exiting() {
                    break status;
                }
            }
            if let Some(status) = self.exit {
                break status;
            }
            self.run_guest();
        };
        self.task.set_kicker(None);
        self.task.cpu.switch(Mode::Asleep);
        status
    }

    /// Runs guest code up to its next trap, and handles that.
    fn run_guest(&mut self) {
        self.task.set_in_guest(true);
        self.task.cpu.switch(Mode::User);
        let trap =
            if self.task.interrupted() { Ok(Trap::Kicked) } else { self.guest.run(&mut self.regs) };
        self.task.cpu.switch(Mode::System);
        self.task.set_in_guest(false);
        match trap {
            Ok(Trap::Syscall) => syscalls::dispatch(self),
            Ok(Trap::Kicked) => {}
            Ok(Trap::Fault(fault)) => {
                if self.mm.handle_fault(&fault).is_err() {
                    self.group.begin_exit(libc::SIGSEGV as u32);
                }
            }
            Ok(Trap::Exception(exception)) => self.group.begin_exit(exception.signo as u32),
            Err(error) => {
                tracing::error!(tid = self.tid(), %error, "guest thread lost");
                self.group.begin_exit(libc::SIGKILL as u32);
            }
        }
    }
}
