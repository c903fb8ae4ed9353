//! The running task, as its own host thread sees it, and the loop that runs it.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;
use platform::{Exception, Fault, GuestThread, Registers, Trap};

use super::cpu_clock::Mode;
use super::signal::frame::TrapInfo;
use super::signal::{AltStack, SigInfo, SigSet};
use super::{FdTable, Task, exit, oom, tsc};
use crate::mm::{FaultError, MemoryManager};
use crate::rarely::Rarely;
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
    /// The guest's registers, perhaps not all of them: see [`Current::regs`].
    regs: Registers,
    pub(super) guest: Box<dyn GuestThread>,
    /// Wait status of the thread, once it is to exit.
    exit: Option<u32>,
    /// It may not run guest code for now: the sandbox has used up its processor time.
    held_back: bool,
    /// What restart_syscall(2) goes on with.
    restart: Option<Restart>,
    /// The mask to come back to after a call with a temporary one.
    pub(super) saved_mask: Option<SigSet>,
    /// The registers are those of a system call whose end has not been looked at.
    pub(super) in_syscall: bool,
    pub(super) altstack: AltStack,
    /// The last exception, for signal frames.
    pub(super) trap: TrapInfo,
}

thread_local! {
    static TASK: RefCell<Option<Arc<Task>>> = const { RefCell::new(None) };
}

/// The task that the calling host thread runs; `None` on the kernel's own threads.
pub fn current_task() -> Option<Arc<Task>> {
    TASK.with_borrow(Clone::clone)
}

/// The task that the calling host thread ran has ended.
pub(super) fn forget() {
    if let Some(task) = TASK.take() {
        task.sleeper.place.loosen();
    }
}

/// What the calling thread is doing, for a report of a panic.
pub fn describe() -> String {
    let task = TASK.try_with(|t| t.try_borrow().ok().and_then(|t| t.clone())).ok().flatten();
    match task {
        None => "outside of any task".into(),
        Some(task) => {
            let (nr, args) = IN_SYSCALL.get();
            let name = crate::syscalls::entry(nr).map_or("unknown", |e| e.name);
            format!("task {}, last system call {name} ({nr}) with {args:#x?}", task.tid())
        }
    }
}

thread_local! {
    /// Number and arguments of the last system call, for the report of a panic.
    static IN_SYSCALL: Cell<(u64, [u64; 6])> = const { Cell::new((u64::MAX, [0; 6])) };
}

thread_local! {
    /// System calls that the calling host thread has begun.
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

/// Notes the system call that is about to be handled.
pub fn note_syscall(nr: u64, args: [u64; 6]) {
    IN_SYSCALL.set((nr, args));
    CALLS.set(CALLS.get().wrapping_add(1));
}

/// Which of its system calls the calling host thread handles, counted from 1; 0 on the kernel's own
/// threads.
pub fn call_number() -> u64 {
    CALLS.get()
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
        mut guest: Box<dyn GuestThread>,
    ) -> Current {
        guest.set_tsc(!task.no_tsc.load(Ordering::Relaxed));
        task.sleeper.bind();
        if !task.kernel.platform.places_threads() {
            task.sleeper.place.settle();
        }
        task.set_kicker(Some(guest.kicker()));
        TASK.set(Some(task.clone()));
        Current {
            task,
            mm,
            files,
            regs,
            guest,
            exit: None,
            held_back: false,
            restart: None,
            saved_mask: None,
            in_syscall: false,
            altstack: AltStack::NONE,
            trap: TrapInfo::default(),
        }
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

    /// Whether the thread is to exit.
    pub(super) fn has_exited(&self) -> bool {
        self.exit.is_some()
    }

    /// Whether the thread or its whole group is about to exit.
    pub fn is_exiting(&self) -> bool {
        self.exit.is_some() || self.group.exiting().is_some()
    }

    /// `PR_SET_TSC`: whether this thread may read the time-stamp counter from now on. What it makes
    /// and executes later begins with the same.
    pub fn set_tsc(&mut self, readable: bool) {
        self.task.no_tsc.store(!readable, Ordering::Relaxed);
        self.guest.set_tsc(readable);
    }

    /// The extended state, as an XSAVE image.
    pub(super) fn xstate(&mut self) -> Result<Vec<u8>, platform::Error> {
        self.guest.xstate()
    }

    /// The alternate stack, as a child may get it.
    pub(super) fn saved_altstack(&self) -> AltStack {
        self.altstack
    }

    /// Starts with the parent's alternate stack.
    pub(super) fn inherit_altstack(&mut self, stack: AltStack) {
        self.altstack = stack;
    }

    /// A descriptor table of its own, if it is shared (execve, `unshare(CLONE_FILES)`). `ENOMEM`
    pub fn unshare_files(&mut self) -> Result<(), Errno> {
        // `Task::files` and `Current::files` are the task's own.
        if Arc::strong_count(&self.files) > 2 {
            self.files = self.files.fork()?;
            self.task.set_files(Some(self.files.clone()));
        }
        Ok(())
    }

    /// Gives up the old memory and goes on with a new program (execve).
    pub(super) fn replace_memory(
        &mut self,
        mm: Arc<MemoryManager>,
        mut guest: Box<dyn GuestThread>,
        regs: Registers,
    ) {
        // The only one of its kind that a new program does not get back.
        guest.set_tsc(!self.task.no_tsc.load(Ordering::Relaxed));
        self.task.set_kicker(Some(guest.kicker()));
        self.guest = guest;
        self.task.ids_changed.store(true, Ordering::Release);
        self.task.set_mm(Some(mm.clone()));
        self.mm = mm;
        self.regs = Registers { orig_rax: u64::MAX, ..regs };
        self.in_syscall = false;
        self.restart = None;
        self.trap = TrapInfo::default();
    }

    /// All of the guest's registers. After a system call that costs something: number, arguments and
    /// result are there without ([`Current::call`], [`Current::result`]).
    pub fn regs(&mut self) -> &mut Registers {
        if let Err(error) = self.guest.complete(&mut self.regs) {
            self.lost(&error);
        }
        &mut self.regs
    }

    /// The number of the system call that the guest trapped with, and its arguments.
    pub fn call(&self) -> (u64, [u64; 6]) {
        let Registers { orig_rax, rdi, rsi, rdx, r10, r8, r9, .. } = self.regs;
        (orig_rax, [rdi, rsi, rdx, r10, r8, r9])
    }

    /// What the guest is to find in rax: the result of its system call.
    pub fn result(&self) -> u64 {
        self.regs.rax
    }

    /// See [`Current::result`].
    pub fn set_result(&mut self, rax: u64) {
        self.regs.rax = rax;
    }

    /// The guest thread is gone, and the process goes with it.
    fn lost(&self, error: &platform::Error) {
        static LOST: Rarely = Rarely::new();
        // Who is being killed may lose its stub first.
        let dies = self.is_exiting() || self.task.is_killed();
        if !dies && let Some(count) = LOST.due() {
            tracing::error!(tid = self.tid(), %error, count, "guest thread lost");
        }
        self.group.begin_exit(libc::SIGKILL as u32);
    }

    /// Runs the task until it ends, and ends it.
    pub fn run(mut self) {
        let status = loop {
            let restart = self.ends_interrupted();
            if self.saved_mask.is_some() {
                // Only a call that a signal ended leaves its mask to the handler.
                self.restore_mask_unless(
                    restart || self.regs.rax as i64 == Errno::EINTR.as_return(),
                );
            }
            if self.task.interrupted() || restart || self.saved_mask.is_some() {
                self.handle_signals();
            }
            self.in_syscall = false;
            if let Some(status) = self.exit {
                break status;
            }
            if self.held_back {
                self.held_back = false;
                if let Some(cpu) = &self.kernel.limits.cpu {
                    cpu.wait(&self);
                }
                continue;
            }
            self.run_guest();
        };
        exit::exit(self, status);
    }

    /// Whether the system call that just ended wants to be restarted.
    fn ends_interrupted(&self) -> bool {
        let result = self.regs.rax as i64;
        self.in_syscall && (-516..=-512).contains(&result)
    }

    /// Tells the guest thread what the platform may answer without the kernel: who this task is,
    /// which changes only when the task itself does something. Not while calls are watched.
    fn tell_ids(&mut self) {
        self.task.note_told();
        if self.kernel.strace.is_some() {
            return;
        }
        let cred = self.cred();
        let id = |nr: i64, id: u64| (nr as u64, id);
        let mut answers = vec![
            id(libc::SYS_getpid, self.group.tgid as u64),
            id(libc::SYS_gettid, self.tid() as u64),
            id(libc::SYS_getuid, cred.uid.into()),
            id(libc::SYS_geteuid, cred.euid.into()),
            id(libc::SYS_getgid, cred.gid.into()),
            id(libc::SYS_getegid, cred.egid.into()),
        ];
        // What a filter of the guest's has a say in goes through the filter.
        answers.retain(|(nr, _)| self.seccomp.plainly_allows(*nr));
        if let Err(error) = self.guest.set_answers(&answers) {
            // It is about to be lost.
            tracing::debug!(tid = self.tid(), %error, "answers for a guest thread");
        }
    }

    /// Runs guest code up to its next trap, and handles that.
    fn run_guest(&mut self) {
        // In this order: who changes them sees that the task is about to run guest code, or the task
        // sees the change.
        self.task.set_in_guest(true);
        if self.task.ids_changed.load(Ordering::SeqCst) {
            self.tell_ids();
        }
        self.task.cpu.switch(Mode::User);
        // Whoever takes processor time away looks for tasks in guest code after it said so.
        self.held_back = self.kernel.limits.cpu.as_ref().is_some_and(|cpu| !cpu.may_run());
        let trap = if self.held_back || self.task.interrupted() {
            Ok(Trap::Kicked)
        } else {
            self.guest.run(&mut self.regs)
        };
        self.task.cpu.switch(Mode::System);
        self.task.leave_guest();
        match trap {
            Ok(Trap::Syscall) => {
                self.in_syscall = true;
                syscalls::dispatch(self);
            }
            Ok(Trap::Kicked) => {}
            Ok(Trap::Fault(fault)) => self.fault(&fault),
            Ok(Trap::Exception(exception)) => self.exception(&exception),
            Err(error) => self.lost(&error),
        }
    }

    fn fault(&mut self, fault: &Fault) {
        const PAGE_FAULT: u64 = 14;
        const PRESENT: u64 = 1;
        const WRITE: u64 = 2;
        const USER: u64 = 4;
        const FETCH: u64 = 16;
        self.counts.fault();
        match self.mm.handle_fault(fault) {
            Ok(()) => {}
            Err(FaultError::OutOfMemory) => {
                // The guest faults again when it goes on.
                oom::out_of_memory(self);
            }
            Err(FaultError::Signal { signo, code, addr }) => {
                let denied = signo == libc::SIGSEGV && code == 2;
                let mut err = USER;
                err |= if denied { PRESENT } else { 0 };
                err |= if fault.access.write { WRITE } else { 0 };
                err |= if fault.access.exec { FETCH } else { 0 };
                self.trap = TrapInfo { err, trapno: PAGE_FAULT, cr2: addr };
                self.task.force_signal(SigInfo::fault(signo, code, addr));
            }
        }
    }

    fn exception(&mut self, exception: &Exception) {
        if tsc::answers(self, exception) {
            return;
        }
        let Exception { signo, code, addr, trapno, err } = *exception;
        self.trap = TrapInfo { err, trapno, ..self.trap };
        self.task.force_signal(SigInfo::fault(signo, code, addr));
    }
}
