//! A task: one guest thread, as other tasks may see it.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use abi::Errno;
use parking_lot::{Mutex, RwLock};
use platform::Kicker;

use super::cpu_clock::{CpuClock, Mode};
use super::seccomp::Seccomp;
use super::signal::{SigSet, TaskSignals};
use super::users::{TaskCharge, User};
use super::{Credentials, Events, FdTable, FsContext, Kernel, Sleeper, ThreadGroup, WaitQueue};
use crate::kmem::KernelMemory;
use crate::mm::MemoryManager;
use crate::vfs::{FileDescription, IoSrc};

/// One guest thread.
pub struct Task {
    /// The kernel it runs on.
    pub kernel: Arc<Kernel>,
    /// Its number. execve(2) in a thread takes over the leader's.
    tid: AtomicI32,
    /// Its process.
    pub group: Arc<ThreadGroup>,
    cred: RwLock<Arc<Credentials>>,
    mm: RwLock<Option<Arc<MemoryManager>>>,
    files: RwLock<Option<Arc<FdTable>>>,
    fs: RwLock<Arc<FsContext>>,
    /// The name (prctl(PR_SET_NAME)), NUL-padded.
    comm: Mutex<[u8; 16]>,
    /// How it sleeps.
    pub sleeper: Arc<Sleeper>,
    /// Head of its list of robust futexes (set_robust_list(2)), 0 for none.
    pub robust_list: AtomicU64,
    /// How much processor time it has had.
    pub cpu: CpuClock,
    /// Set when something wants its attention before it runs guest code again: a signal, an exit.
    attention: AtomicBool,
    /// Whether guest code runs, so that a kick is worth something.
    in_guest: AtomicBool,
    /// Its filters before system calls.
    pub seccomp: Seccomp,
    /// What its guest thread may answer by itself is not what it was told, if anything: its ids
    /// changed, or its filters.
    pub(super) ids_changed: AtomicBool,
    /// Woken when it leaves guest code while `ids_changed` is set, and when that is cleared.
    left_guest: WaitQueue,
    kicker: Mutex<Option<Arc<dyn Kicker>>>,
    /// Pending signals and masks; locked inside the group's signal lock.
    pub signals: Mutex<TaskSignals>,
    /// Counts it for its real user.
    charge: Mutex<TaskCharge>,
    /// It became another user's, who had too many tasks.
    nproc_exceeded: AtomicBool,
    /// `PR_SET_PDEATHSIG`
    pub(super) pdeath_signal: AtomicI32,
    /// Where set_tid_address(2) wants a zero when the task ends; 0 for nowhere.
    pub clear_child_tid: AtomicU64,
    /// personality(2)
    pub personality: AtomicU32,
    /// Reading the time-stamp counter is a fault (`TIF_NOTSC`).
    pub no_tsc: AtomicBool,
    /// Nice value, -20 to 19.
    pub nice: AtomicI32,
    /// `ioprio_set(2)`; 0 is "by nice value".
    pub ioprio: AtomicU32,
    /// `PR_SET_TIMERSLACK`, in nanoseconds: now, and what PR_SET_TIMERSLACK 0 goes back to.
    pub timer_slack: [AtomicU64; 2],
    /// Scheduling policy, priority and affinity.
    pub sched: Mutex<super::sched::SchedState>,
    /// When it was made, in nanoseconds of `CLOCK_BOOTTIME`.
    pub start_time: u64,
    /// What it has asked of the kernel.
    pub counts: super::limits::TaskCounts,
    /// What it counts for, if it was made by another task.
    pub(super) memory: OnceLock<KernelMemory>,
    /// Set once it has exited.
    pub(super) dead: AtomicBool,
    /// What System V semaphores get back when it ends.
    pub(crate) sem_undo: Mutex<Option<Arc<crate::ipc::sem::UndoList>>>,
    /// Whom a vfork made it lend its memory from: told at execve and exit.
    pub(super) vfork_done: Mutex<Option<Arc<super::clone::VforkDone>>>,
}

/// What a new task starts with.
pub struct TaskParts {
    /// Credentials.
    pub cred: Arc<Credentials>,
    /// Memory. A task without any never runs guest code.
    pub mm: Option<Arc<MemoryManager>>,
    /// Descriptors.
    pub files: Arc<FdTable>,
    /// Root, directory, umask.
    pub fs: Arc<FsContext>,
    /// Name.
    pub comm: [u8; 16],
}

impl Task {
    /// A task that is not running yet.
    pub fn new(
        kernel: Arc<Kernel>,
        tid: i32,
        group: Arc<ThreadGroup>,
        parts: TaskParts,
    ) -> Arc<Task> {
        let charge = Mutex::new(kernel.users.get(parts.cred.uid).charge_task());
        Arc::new(Task {
            kernel,
            tid: AtomicI32::new(tid),
            group,
            cred: RwLock::new(parts.cred),
            mm: RwLock::new(parts.mm),
            files: RwLock::new(Some(parts.files)),
            fs: RwLock::new(parts.fs),
            comm: Mutex::new(parts.comm),
            sleeper: Arc::default(),
            robust_list: AtomicU64::new(0),
            cpu: CpuClock::default(),
            attention: AtomicBool::new(false),
            in_guest: AtomicBool::new(false),
            seccomp: Seccomp::default(),
            ids_changed: AtomicBool::new(true),
            left_guest: WaitQueue::new(),
            kicker: Mutex::new(None),
            signals: Mutex::default(),
            charge,
            nproc_exceeded: AtomicBool::new(false),
            pdeath_signal: AtomicI32::new(0),
            clear_child_tid: AtomicU64::new(0),
            personality: AtomicU32::new(0),
            no_tsc: AtomicBool::new(false),
            nice: AtomicI32::new(0),
            ioprio: AtomicU32::new(0),
            timer_slack: [AtomicU64::new(50_000), AtomicU64::new(50_000)],
            sched: Mutex::default(),
            start_time: super::time::clock_ns(libc::CLOCK_BOOTTIME),
            counts: Default::default(),
            memory: OnceLock::new(),
            dead: AtomicBool::new(false),
            sem_undo: Mutex::new(None),
            vfork_done: Mutex::new(None),
        })
    }

    /// Its number (gettid(2)).
    pub fn tid(&self) -> i32 {
        self.tid.load(Ordering::Acquire)
    }

    /// Takes over another number (execve in a thread).
    pub(super) fn set_tid(&self, tid: i32) {
        self.tid.store(tid, Ordering::Release);
        self.ids_changed.store(true, Ordering::Release);
    }

    /// Whether it is its process's leader.
    pub fn is_leader(&self) -> bool {
        self.tid() == self.group.tgid
    }

    /// Whether it has exited (a zombie leader).
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// The state's letter, as /proc/PID/stat shows it.
    pub fn state_char(&self) -> char {
        if self.is_dead() {
            return 'Z';
        }
        if self.signals.lock().stopped {
            return 'T';
        }
        if self.cpu.is_running() { 'R' } else { 'S' }
    }

    /// Whether another task has the same root and directory (`CLONE_FS`).
    pub fn shares_fs(&self) -> bool {
        Arc::strong_count(&self.fs.read()) > 1
    }

    /// Forgets `PR_SET_PDEATHSIG`.
    pub fn clear_pdeath_signal(&self) {
        self.pdeath_signal.store(0, Ordering::Relaxed);
    }

    /// `PR_GET_PDEATHSIG`
    pub fn pdeath_signal(&self) -> i32 {
        self.pdeath_signal.load(Ordering::Relaxed)
    }

    /// `PR_SET_PDEATHSIG`
    pub fn set_pdeath_signal(&self, signo: i32) {
        self.pdeath_signal.store(signo, Ordering::Relaxed);
    }

    /// Another user's now: notes whether that one has too many tasks already, so that execve fails
    /// (`flag_nproc_exceeded`).
    pub fn note_nproc(&self) {
        let cred = self.cred();
        let over =
            cred.uid != 0 && self.user().tasks() > self.group.rlimit(libc::RLIMIT_NPROC).soft;
        self.nproc_exceeded.store(over, Ordering::Relaxed);
    }

    /// Whether execve must fail for too many tasks of the user.
    pub(super) fn over_nproc(&self) -> bool {
        if !self.nproc_exceeded.load(Ordering::Relaxed) {
            return false;
        }
        self.note_nproc();
        self.nproc_exceeded.load(Ordering::Relaxed)
    }

    /// The user whose task it counts as.
    pub fn user(&self) -> Arc<User> {
        self.charge.lock().user().clone()
    }

    /// The signal mask.
    pub fn blocked(&self) -> SigSet {
        self.signals.lock().blocked
    }

    /// The credentials now.
    pub fn cred(&self) -> Arc<Credentials> {
        self.cred.read().clone()
    }

    /// Replaces the credentials; only the task itself does.
    pub fn set_cred(&self, mut cred: Arc<Credentials>) {
        let mut now = self.cred.write();
        // Another thread may have set it since the task looked.
        if now.no_new_privs && !cred.no_new_privs {
            Arc::make_mut(&mut cred).no_new_privs = true;
        }
        if now.uid != cred.uid {
            *self.charge.lock() = self.kernel.users.get(cred.uid).charge_task();
        }
        *now = cred;
        self.ids_changed.store(true, Ordering::Release);
    }

    /// Sets `no_new_privs`, which never goes again. Others may do that.
    pub(super) fn set_no_new_privs(&self) {
        let mut now = self.cred.write();
        if !now.no_new_privs {
            Arc::make_mut(&mut now).no_new_privs = true;
        }
    }

    /// The memory; `None` once it exited.
    pub fn mm(&self) -> Option<Arc<MemoryManager>> {
        self.mm.read().clone()
    }

    /// Replaces the memory (execve, exit).
    pub fn set_mm(&self, mm: Option<Arc<MemoryManager>>) {
        *self.mm.write() = mm;
    }

    /// The descriptor table; `None` once it exited.
    pub fn files(&self) -> Option<Arc<FdTable>> {
        self.files.read().clone()
    }

    /// Replaces the descriptor table.
    pub fn set_files(&self, files: Option<Arc<FdTable>>) {
        *self.files.write() = files;
    }

    /// Root, directory, umask.
    pub fn fs(&self) -> Arc<FsContext> {
        self.fs.read().clone()
    }

    /// Replaces root, directory, umask (unshare).
    pub fn set_fs(&self, fs: Arc<FsContext>) {
        *self.fs.write() = fs;
    }

    /// The name, NUL-padded.
    pub fn comm(&self) -> [u8; 16] {
        *self.comm.lock()
    }

    /// Renames; cut to 15 bytes.
    pub fn set_comm(&self, name: &[u8]) {
        let mut comm = [0; 16];
        let len = name.iter().position(|&b| b == 0).unwrap_or(name.len()).min(15);
        comm[..len].copy_from_slice(&name[..len]);
        *self.comm.lock() = comm;
    }

    /// Binds the kicker of its guest thread.
    pub fn set_kicker(&self, kicker: Option<Arc<dyn Kicker>>) {
        *self.kicker.lock() = kicker;
    }

    /// Gets the task's attention: ends its sleep, or takes it out of guest code. Never blocks.
    pub fn interrupt(&self) {
        self.attention.store(true, Ordering::SeqCst);
        self.sleeper.unpark();
        self.kick();
    }

    /// Takes the task out of guest code, if it runs any. Never blocks.
    pub(super) fn kick(&self) {
        if self.in_guest.load(Ordering::SeqCst)
            && let Some(kicker) = &*self.kicker.lock()
        {
            kicker.kick();
        }
    }

    /// Takes `other` out of guest code that began to run before its `ids_changed` was set, and waits
    /// until it is out, or the calling task is killed. A sleep of the other goes on.
    pub(super) fn recall(&self, other: &Task) {
        let stale =
            || other.in_guest.load(Ordering::SeqCst) && other.ids_changed.load(Ordering::SeqCst);
        if !stale() {
            return;
        }
        let _registration = other.left_guest.register(Events::IN, self.sleeper.clone());
        if let Some(kicker) = &*other.kicker.lock() {
            kicker.kick();
        }
        // Killed, it makes no calls that the other's must not pass.
        let _ = self.block_killable(|| !stale());
    }

    /// Says that what changed is about to be told, before guest code runs.
    pub(super) fn note_told(&self) {
        self.ids_changed.store(false, Ordering::SeqCst);
        self.left_guest.wake(Events::IN);
    }

    /// Says that guest code does not run any more.
    pub(super) fn leave_guest(&self) {
        self.set_in_guest(false);
        if self.ids_changed.load(Ordering::SeqCst) {
            self.left_guest.wake(Events::IN);
        }
    }

    /// Whether something wants the task's attention, so that a blocking call must return.
    pub fn interrupted(&self) -> bool {
        self.attention.load(Ordering::SeqCst)
    }

    /// Says whether something wants the task's attention (`recalc_sigpending`). The group's signal
    /// lock is held, as it is whenever a signal interrupts.
    pub(super) fn set_attention(&self, wanted: bool) {
        self.attention.store(wanted, Ordering::SeqCst);
    }

    /// Whether it must die: a sleep that no other signal ends looks at this.
    pub fn is_killed(&self) -> bool {
        self.signals.lock().pending.set().contains(libc::SIGKILL)
    }

    /// Sleeps until `done` says so or the task is killed (`EINTR`). No other signal ends it.
    pub fn block_killable(&self, mut done: impl FnMut() -> bool) -> Result<(), Errno> {
        self.cpu.switch(Mode::Asleep);
        let result = loop {
            if done() {
                break Ok(());
            }
            if self.interrupted() && self.is_killed() {
                break Err(Errno::EINTR);
            }
            self.sleeper.park(None);
        };
        self.cpu.switch(Mode::System);
        result
    }

    /// Whether guest code may be running.
    pub(super) fn is_in_guest(&self) -> bool {
        self.in_guest.load(Ordering::SeqCst)
    }

    /// Says that guest code is about to run (`true`) or has trapped.
    pub(super) fn set_in_guest(&self, running: bool) {
        self.in_guest.store(running, Ordering::SeqCst);
    }

    /// Sleeps until somebody unparks the task's sleeper or until `deadline` (nanoseconds of
    /// `CLOCK_MONOTONIC`). `ERESTARTSYS` if it was interrupted, `ETIMEDOUT` past the deadline.
    pub fn block(&self, deadline: Option<u64>) -> Result<(), Errno> {
        if self.interrupted() {
            return Err(Errno::ERESTARTSYS);
        }
        self.cpu.switch(Mode::Asleep);
        let woken = self.sleeper.park(deadline);
        self.cpu.switch(Mode::System);
        if self.interrupted() {
            return Err(Errno::ERESTARTSYS);
        }
        if woken { Ok(()) } else { Err(Errno::ETIMEDOUT) }
    }

    /// As [`Task::block_on`] for a write of `src`: what was taken counts, even if an error or an
    /// interruption followed.
    pub fn block_write(
        &self,
        file: &FileDescription,
        src: &mut IoSrc<'_>,
        mut op: impl FnMut(&mut IoSrc<'_>) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let before = src.done();
        let result = self.block_on(file, Events::WRITABLE, None, || op(src));
        match (src.done() - before, result) {
            (0, result) => result,
            (done, _) => Ok(done),
        }
    }

    /// Repeats `op` until it says something else than `EAGAIN`, sleeping on the file's wait queue
    /// for `events` in between. A non-blocking file's `EAGAIN` is returned, and so is one past
    /// `deadline` or the file's own timeout.
    pub fn block_on<T>(
        &self,
        file: &FileDescription,
        events: Events,
        deadline: Option<u64>,
        mut op: impl FnMut() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let first = op();
        if !matches!(first, Err(Errno::EAGAIN)) || file.nonblocking() {
            return first;
        }
        let Some(queue) = file.ops().wait_queue() else { return first };
        let timeout = file.ops().timeout(events.contains(Events::OUT));
        let deadline =
            deadline.or(timeout.map(|ns| super::time::monotonic_ns().saturating_add(ns)));
        let _registration = queue.register(events, self.sleeper.clone());
        loop {
            match op() {
                Err(Errno::EAGAIN) => match self.block(deadline) {
                    Err(Errno::ETIMEDOUT) => return Err(Errno::EAGAIN),
                    // Restarted, it would wait for the whole timeout again (`sock_intr_errno`).
                    Err(Errno::ERESTARTSYS) if timeout.is_some() => return Err(Errno::EINTR),
                    other => other?,
                },
                result => return result,
            }
        }
    }
}
