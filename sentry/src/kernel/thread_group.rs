//! Thread groups: processes (`struct signal_struct`).
//!
//! Lock order: see [`super::task_table`] and [`super::signal`]; `family`, `threads` and `limits` are
//! leaves.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use abi::Errno;
use parking_lot::{Mutex, MutexGuard, RwLock};

use super::cpu_clock::CpuTimes;
use super::cpu_limit::CpuLimit;
use super::posix_timer::ProcessTimers;
use super::rusage::Usage;
use super::session::ProcessGroup;
use super::signal::{GroupSignals, SigInfo, Sighand, SignalSource};
use super::{Task, WaitQueue, time};

/// A soft and a hard limit (getrlimit(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rlimit {
    /// What holds.
    pub soft: u64,
    /// What the soft limit may be raised to.
    pub hard: u64,
}

/// Number of resources with limits.
pub const RLIM_NLIMITS: usize = 16;

/// A process's place among the others. Changes only under the family lock.
pub(super) struct Family {
    /// The parent, and which of its threads made this process.
    pub parent: Weak<ThreadGroup>,
    pub parent_tid: i32,
    /// `exec_id` of the parent when it made this process.
    pub parent_exec_id: u64,
    pub children: Vec<Arc<ThreadGroup>>,
    pub pgrp: Arc<ProcessGroup>,
    /// What the parent gets when it ends.
    pub exit_signal: i32,
    /// Wait status, once all threads are gone.
    pub zombie: Option<u32>,
}

/// A process: threads that share a number, signal dispositions and limits.
pub struct ThreadGroup {
    /// The process's number: its leader's.
    pub tgid: i32,
    threads: Mutex<Vec<Weak<Task>>>,
    leader: RwLock<Weak<Task>>,
    rlimits: Mutex<[Rlimit; RLIM_NLIMITS]>,
    /// Processor time of threads that are gone.
    past_cpu: Mutex<CpuTimes>,
    /// What children that were waited for have used.
    pub children_usage: Mutex<Usage>,
    /// The group's signal lock; see [`super::signal`].
    pub signals: Mutex<GroupSignals>,
    sighand: RwLock<Arc<Sighand>>,
    /// Woken when a signal is queued for the group or one of its tasks (signalfd).
    pub signal_wait: WaitQueue,
    /// Woken when a child changes (wait4).
    pub child_wait: WaitQueue,
    /// Woken when the process is a zombie, and when threads go (pidfd, execve).
    pub exit_wait: WaitQueue,
    family: Mutex<Family>,
    /// Threads that have not begun to exit.
    pub(super) live: AtomicI32,
    /// Wait status of the leader, once it exited.
    pub(super) leader_status: Mutex<Option<u32>>,
    /// Whether it did execve(2) since fork (setpgid).
    pub(super) did_exec: AtomicBool,
    /// Goes up with each execve.
    pub(crate) exec_id: AtomicU64,
    /// `PR_SET_CHILD_SUBREAPER`
    pub(super) subreaper: AtomicBool,
    /// `PR_SET_DUMPABLE`: 0, 1 or 2.
    dumpable: AtomicI32,
    /// `/proc/PID/oom_score_adj`
    pub oom_score_adj: AtomicI32,
    /// The out-of-memory killer chose it.
    pub(super) oom_killed: AtomicBool,
    /// When it was made, in nanoseconds of `CLOCK_BOOTTIME`.
    pub start_time: u64,
    /// Its timers.
    pub timers: ProcessTimers,
    /// Keeps `RLIMIT_CPU`, once there is one.
    pub(super) cpu_limit: OnceLock<Arc<CpuLimit>>,
    /// `PR_SET_THP_DISABLE`
    thp_disabled: AtomicBool,
    /// The most resident memory of what it let go of, in KiB.
    past_rss: AtomicU64,
}

impl ThreadGroup {
    /// A group without threads.
    pub fn new(
        tgid: i32,
        rlimits: [Rlimit; RLIM_NLIMITS],
        sighand: Arc<Sighand>,
        pgrp: Arc<ProcessGroup>,
    ) -> Arc<ThreadGroup> {
        Arc::new(ThreadGroup {
            tgid,
            threads: Mutex::new(Vec::new()),
            leader: RwLock::new(Weak::new()),
            rlimits: Mutex::new(rlimits),
            past_cpu: Mutex::default(),
            children_usage: Mutex::default(),
            signals: Mutex::new(GroupSignals { unkillable: tgid == 1, ..GroupSignals::default() }),
            sighand: RwLock::new(sighand),
            signal_wait: WaitQueue::new(),
            child_wait: WaitQueue::new(),
            exit_wait: WaitQueue::new(),
            family: Mutex::new(Family {
                parent: Weak::new(),
                parent_tid: 0,
                parent_exec_id: 0,
                children: Vec::new(),
                pgrp,
                exit_signal: libc::SIGCHLD,
                zombie: None,
            }),
            live: AtomicI32::new(0),
            leader_status: Mutex::new(None),
            did_exec: AtomicBool::new(false),
            exec_id: AtomicU64::new(0),
            subreaper: AtomicBool::new(false),
            dumpable: AtomicI32::new(1),
            oom_score_adj: AtomicI32::new(0),
            oom_killed: AtomicBool::new(false),
            start_time: time::clock_ns(libc::CLOCK_BOOTTIME),
            timers: ProcessTimers::default(),
            cpu_limit: OnceLock::new(),
            thp_disabled: AtomicBool::new(false),
            past_rss: AtomicU64::new(0),
        })
    }

    /// A limit; `resource` is `RLIMIT_*`.
    pub fn rlimit(&self, resource: u32) -> Rlimit {
        const NONE: Rlimit = Rlimit { soft: u64::MAX, hard: u64::MAX };
        self.rlimits.lock().get(resource as usize).copied().unwrap_or(NONE)
    }

    /// All limits, as fork copies them.
    pub fn rlimits(&self) -> [Rlimit; RLIM_NLIMITS] {
        *self.rlimits.lock()
    }

    /// Lets `change` look at a limit and perhaps replace it, in one step.
    pub fn change_rlimit<T>(
        &self,
        resource: u32,
        change: impl FnOnce(&mut Rlimit) -> T,
    ) -> Option<T> {
        self.rlimits.lock().get_mut(resource as usize).map(change)
    }

    /// RLIMIT_NOFILE, the bound for new descriptors.
    pub fn nofile(&self) -> u64 {
        self.rlimit(libc::RLIMIT_NOFILE).soft
    }

    /// Adds a thread; the first one is the leader.
    pub fn add(&self, task: &Arc<Task>) {
        let mut threads = self.threads.lock();
        if threads.is_empty() {
            *self.leader.write() = Arc::downgrade(task);
        }
        threads.push(Arc::downgrade(task));
        self.live.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes a thread off the list; returns how many are left. A dead leader stays known through
    /// [`ThreadGroup::leader`].
    pub fn remove(&self, task: &Task) -> usize {
        let mut threads = self.threads.lock();
        threads.retain(|t| match t.upgrade() {
            Some(t) if std::ptr::eq(&*t, task) => {
                let mut past = self.past_cpu.lock();
                *past = past.plus(t.cpu.times());
                false
            }
            other => other.is_some(),
        });
        threads.len()
    }

    /// Most memory that was resident, in KiB.
    pub fn max_rss(&self) -> u64 {
        let now =
            self.threads().iter().find_map(|t| t.mm()).map_or(0, |mm| mm.memory_use().rss_peak);
        (now / 1024).max(self.past_rss.load(Ordering::Relaxed))
    }

    /// The most resident memory that was noted, in KiB.
    pub(super) fn noted_rss(&self) -> u64 {
        self.past_rss.load(Ordering::Relaxed)
    }

    /// Notes how much memory was resident before it goes.
    pub(super) fn note_rss(&self, kib: u64) {
        self.past_rss.fetch_max(kib, Ordering::Relaxed);
    }

    /// The threads, oldest first.
    pub fn threads(&self) -> Vec<Arc<Task>> {
        self.threads.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// How many threads there are.
    pub fn thread_count(&self) -> usize {
        self.threads.lock().len()
    }

    /// The leader; `None` once the process was waited for.
    pub fn leader(&self) -> Option<Arc<Task>> {
        self.leader.read().upgrade()
    }

    /// execve(2) in a thread: it is the leader now.
    pub(super) fn set_leader(&self, task: &Arc<Task>) {
        *self.leader.write() = Arc::downgrade(task);
    }

    /// Processor time of all threads, those that are gone too.
    pub fn cpu_times(&self) -> CpuTimes {
        let threads = self.threads.lock();
        let past = *self.past_cpu.lock();
        threads.iter().filter_map(Weak::upgrade).fold(past, |sum, t| sum.plus(t.cpu.times()))
    }

    /// The dispositions.
    pub fn sighand(&self) -> Arc<Sighand> {
        self.sighand.read().clone()
    }

    /// Replaces the dispositions (execve of one who shares them).
    pub(super) fn set_sighand(&self, sighand: Arc<Sighand>) {
        *self.sighand.write() = sighand;
    }

    pub(super) fn family(&self) -> MutexGuard<'_, Family> {
        self.family.lock()
    }

    /// The parent; `None` for init.
    pub fn parent(&self) -> Option<Arc<ThreadGroup>> {
        self.family.lock().parent.upgrade()
    }

    /// The parent's number, 0 for init (getppid(2)).
    pub fn ppid(&self) -> i32 {
        self.parent().map_or(0, |p| p.tgid)
    }

    /// The children, zombies included.
    pub fn children(&self) -> Vec<Arc<ThreadGroup>> {
        self.family.lock().children.clone()
    }

    /// The process group.
    pub fn pgrp(&self) -> Arc<ProcessGroup> {
        self.family.lock().pgrp.clone()
    }

    /// Number of the process group.
    pub fn pgid(&self) -> i32 {
        self.pgrp().id
    }

    /// Number of the session.
    pub fn sid(&self) -> i32 {
        self.pgrp().session.id
    }

    /// Whether all threads are gone and nobody waited yet.
    pub fn is_zombie(&self) -> bool {
        self.family.lock().zombie.is_some()
    }

    /// `PR_GET_DUMPABLE`
    pub fn dumpable(&self) -> i32 {
        self.dumpable.load(Ordering::Relaxed)
    }

    /// Sets whether the process may be traced and dumped.
    pub fn set_dumpable(&self, dumpable: i32) {
        self.dumpable.store(dumpable, Ordering::Relaxed);
    }

    /// `PR_GET_THP_DISABLE`
    pub fn thp_disabled(&self) -> bool {
        self.thp_disabled.load(Ordering::Relaxed)
    }

    /// `PR_SET_THP_DISABLE`
    pub fn set_thp_disabled(&self, disabled: bool) {
        self.thp_disabled.store(disabled, Ordering::Relaxed);
    }

    /// Sends a signal to the process. `EAGAIN` when a real-time signal finds the queue full.
    pub fn send_signal(self: &Arc<Self>, info: SigInfo) -> Result<(), Errno> {
        match self.leader() {
            Some(leader) => leader.send(true, info, None).map(drop),
            None => Ok(()),
        }
    }

    /// Sends a timer's signal to the process; `false` if the timer's last one is still queued.
    pub fn send_source(self: &Arc<Self>, info: SigInfo, source: Arc<dyn SignalSource>) -> bool {
        match self.leader() {
            Some(leader) => leader.send(true, info, Some(source)).unwrap_or(false),
            None => true,
        }
    }

    /// Makes all threads exit with a wait status; the first caller's counts (`do_group_exit`).
    pub fn begin_exit(&self, status: u32) {
        let mut signals = self.signals.lock();
        if signals.exiting {
            return;
        }
        signals.exiting = true;
        signals.code = status;
        signals.stop_count = 0;
        self.kill_threads(None);
    }

    /// SIGKILL to all threads but one (`zap_other_threads`). The signal lock is held.
    pub(super) fn kill_threads(&self, but: Option<&Task>) {
        for task in self.threads() {
            if but.is_some_and(|but| std::ptr::eq(but, &*task)) {
                continue;
            }
            let mut own = task.signals.lock();
            own.clear_stop();
            own.pending.add(libc::SIGKILL, None);
            drop(own);
            task.interrupt();
        }
    }

    /// The wait status, once the group is exiting.
    pub fn exiting(&self) -> Option<u32> {
        let signals = self.signals.lock();
        signals.exiting.then_some(signals.code)
    }
}
