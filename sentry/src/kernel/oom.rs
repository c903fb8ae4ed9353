//! The out-of-memory killer (mm/oom_kill.c, as a memory cgroup uses it): when a fault finds no
//! memory, and none is there to be taken back ([`MemoryManager::trim`]), the biggest process is killed,
//! and the fault is tried again once its memory is back. Nobody else is killed before that.
//!
//! Lock order: `OomKiller::victim` -> the task table's.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use super::current::current_task;
use abi::Errno;

use super::time::monotonic_ns;
use parking_lot::Mutex;

use super::{Current, Events, Kernel, Task, ThreadGroup, WaitQueue};
use crate::kmem::{self, KernelMemory};
use crate::mm::{MemoryManager, Relief};
use crate::rarely::Rarely;

/// `OOM_SCORE_ADJ_MIN`: never killed.
const NEVER: i32 = -1000;
/// Taking back less than this part of all memory is not worth it: somebody has to go.
const ENOUGH: u64 = 256;
/// How long a fault waits for a victim's memory.
const PATIENCE: u64 = 1_000_000_000;
/// After how long a fault is tried again where there is nobody to kill.
const RETRY: u64 = 10_000_000;

/// Who was killed last. One per kernel.
#[derive(Default)]
pub struct OomKiller {
    victim: Mutex<Option<Victim>>,
    /// How many processes are giving up their memory, and how many have.
    leaving: AtomicUsize,
    left: AtomicU64,
    /// Woken when a victim's memory is back, or that of one who ended.
    gone: WaitQueue,
}

/// A process gives up its memory: while it is there, nobody has to be killed for more.
pub(super) struct Leaving(Arc<Kernel>);

impl Leaving {
    /// To be dropped when the memory is back.
    pub(super) fn new(kernel: &Arc<Kernel>) -> Leaving {
        kernel.oom.leaving.fetch_add(1, Ordering::AcqRel);
        Leaving(kernel.clone())
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let oom = &self.0.oom;
        oom.leaving.fetch_sub(1, Ordering::AcqRel);
        oom.left.fetch_add(1, Ordering::AcqRel);
        oom.gone.wake(Events::IN);
    }
}

/// A process that was killed for its memory.
#[derive(Clone)]
struct Victim {
    group: Arc<ThreadGroup>,
    mm: Weak<MemoryManager>,
    /// Its memory is back.
    is_gone: Arc<AtomicBool>,
    /// Until when others wait for its memory, in nanoseconds of `CLOCK_MONOTONIC`.
    deadline: u64,
}

impl Victim {
    /// Whether its memory is not back, and worth waiting for.
    fn is_dying(&self) -> bool {
        !self.is_gone.load(Ordering::Acquire) && monotonic_ns() < self.deadline
    }
}

/// A process's badness (`oom_badness`): bytes in use, and what its score adds, in thousandths of all
/// there is. `None` for one that must not be killed.
fn badness(used: u64, adjust: i32, total: u64) -> Option<i64> {
    let bytes = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    (adjust != NEVER).then(|| bytes(used).saturating_add(bytes(total) / 1000 * i64::from(adjust)))
}

/// A process, and its memory.
type Candidate = (Arc<ThreadGroup>, Arc<MemoryManager>);

/// The process to kill; one that is about to end anyway comes first.
fn choose(kernel: &Kernel) -> Option<Candidate> {
    let total = kernel.memory.limit();
    let mut worst: Option<(i64, Candidate)> = None;
    for group in kernel.tasks.groups() {
        let Some(mm) = group.threads().iter().find_map(|task| task.mm()) else { continue };
        if group.exiting().is_some() {
            return Some((group, mm));
        }
        let adjust = group.oom_score_adj.load(Ordering::Relaxed);
        let Some(points) = badness(mm.memory_use().rss(), adjust, total) else { continue };
        if worst.as_ref().is_none_or(|(most, _)| points > *most) {
            worst = Some((points, (group, mm)));
        }
    }
    worst.map(|(_, victim)| victim)
}

/// Takes back what nobody has touched. Returns whether that was enough to go on with.
fn trim(kernel: &Kernel) -> bool {
    let mut spaces: Vec<Arc<MemoryManager>> = Vec::new();
    for group in kernel.tasks.groups() {
        if let Some(mm) = group.threads().iter().find_map(|task| task.mm())
            && !spaces.iter().any(|known| Arc::ptr_eq(known, &mm))
        {
            spaces.push(mm);
        }
    }
    let freed: u64 = spaces.iter().map(|mm| mm.trim()).sum();
    freed >= kernel.memory.limit() / ENOUGH
}

/// Memory that is left when kernel memory is short: less than a process or two need.
const SHORT: u64 = 4 * kmem::ADDRESS_SPACE as u64;
/// How many have to go for kernel memory at most.
const ATTEMPTS: usize = 4;

/// Does what takes kernel memory, and what else a new process needs; kills for it if it is short, as
/// a fault would. `ENOMEM` when that did not help. No locks are held. May block.
pub(super) fn insist<T>(
    cur: &Current,
    mut take: impl FnMut() -> Result<T, Errno>,
) -> Result<T, Errno> {
    for _ in 0..ATTEMPTS {
        match take() {
            Err(Errno::ENOMEM) if cur.kernel.memory.left() < SHORT => out_of_memory(cur),
            taken => return taken,
        }
        if cur.group.exiting().is_some() {
            return Err(Errno::ENOMEM);
        }
    }
    take()
}

/// Counts kernel memory, as [`insist`].
pub(super) fn charge(cur: &Current, bytes: usize) -> Result<KernelMemory, Errno> {
    insist(cur, || kmem::charge(bytes).ok_or(Errno::ENOMEM))
}

/// For user copies that find no memory. They may hold locks of files, so nothing is waited for: a
/// process that is killed for them leaves its memory to the next one that asks.
pub(crate) fn relief(kernel: &Arc<Kernel>) -> Relief {
    let kernel = Arc::downgrade(kernel);
    Relief::from(Box::new(move || {
        let (Some(kernel), Some(task)) = (kernel.upgrade(), current_task()) else { return false };
        if trim(&kernel) {
            return true;
        }
        if kernel.oom.leaving.load(Ordering::Acquire) == 0 {
            kill(&kernel, &task);
        }
        false
    }) as Box<dyn Fn() -> bool + Send + Sync>)
}

/// There is no memory for what `cur` wants. Kills a process, and waits for its memory if it is
/// another one. Afterwards it is worth trying again, unless the caller is to die itself.
pub(super) fn out_of_memory(cur: &Current) {
    if trim(&cur.kernel) {
        return;
    }
    let oom = &cur.kernel.oom;
    let _registration = oom.gone.register(Events::IN, cur.sleeper.clone());
    let left = oom.left.load(Ordering::Acquire);
    if oom.leaving.load(Ordering::Acquire) > 0 {
        let deadline = monotonic_ns().saturating_add(PATIENCE);
        return wait(cur, deadline, || oom.left.load(Ordering::Acquire) != left);
    }
    let victim = kill(&cur.kernel, &cur.task);
    wait(cur, victim.deadline, || !victim.is_dying());
}

/// Sleeps until `done`, or it is late, or the caller is interrupted, which is how it dies.
fn wait(cur: &Current, deadline: u64, done: impl Fn() -> bool) {
    while !done() && cur.group.exiting().is_none() && cur.block(Some(deadline)).is_ok() {}
}

/// Kills the biggest process, unless the memory of the last one is not back yet.
fn kill(kernel: &Arc<Kernel>, asked_by: &Task) -> Victim {
    let mut last = kernel.oom.victim.lock();
    if let Some(victim) = last.as_ref().filter(|victim| victim.is_dying()) {
        return victim.clone();
    }
    let spared = asked_by.group.oom_score_adj.load(Ordering::Relaxed) == NEVER;
    let (group, mm) = match choose(kernel) {
        Some((group, mm)) => (group, Arc::downgrade(&mm)),
        None if spared => {
            // Memory may come back all the same: of whoever ends by itself.
            let deadline = monotonic_ns().saturating_add(RETRY);
            let (group, is_gone) = (asked_by.group.clone(), Arc::default());
            return Victim { group, mm: Weak::new(), is_gone, deadline };
        }
        None => (asked_by.group.clone(), Weak::new()),
    };
    let is_gone = match &*last {
        Some(victim) if Weak::ptr_eq(&victim.mm, &mm) => victim.is_gone.clone(),
        _ => Arc::new(AtomicBool::new(mm.strong_count() == 0)),
    };
    if let Some(mm) = mm.upgrade() {
        let (kernel, is_gone) = (Arc::downgrade(kernel), is_gone.clone());
        mm.when_gone(move || {
            is_gone.store(true, Ordering::Release);
            if let Some(kernel) = kernel.upgrade() {
                kernel.oom.gone.wake(Events::IN);
            }
        });
    }
    let deadline = monotonic_ns().saturating_add(PATIENCE);
    let victim = Victim { group, mm, is_gone, deadline };
    *last = Some(victim.clone());
    drop(last);
    end(kernel, &victim, asked_by);
    victim
}

/// Kills a victim, and whoever shares its memory (`__oom_kill_process`).
fn end(kernel: &Kernel, victim: &Victim, asked_by: &Task) {
    let group = &victim.group;
    if group.exiting().is_none() && !group.oom_killed.swap(true, Ordering::Relaxed) {
        kernel.limits.note_oom_kill();
        if let Some(audit) = kernel.audit.get() {
            audit.limit(group.threads().first().map(|task| &**task), "memory");
        }
        static KILLED: Rarely = Rarely::new();
        if let Some(count) = KILLED.due() {
            tracing::warn!(
                pid = group.tgid,
                asked_by = asked_by.tid(),
                limit = kernel.memory.limit(),
                count,
                "out of memory: killed a process"
            );
        }
        group.begin_exit(libc::SIGKILL as u32);
    }
    for other in kernel.tasks.groups() {
        let shares = |task: &Arc<Task>| {
            task.mm().is_some_and(|mm| std::ptr::eq(Arc::as_ptr(&mm), victim.mm.as_ptr()))
        };
        if other.exiting().is_none() && other.threads().iter().any(shares) {
            other.begin_exit(libc::SIGKILL as u32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_shift_the_choice() {
        assert_eq!(badness(5000, 0, 1 << 20), Some(5000));
        assert_eq!(badness(5000, NEVER, 1 << 20), None);
        assert!(badness(0, 1000, 1 << 30) > badness(1 << 29, 0, 1 << 30));
        assert!(badness(1 << 29, -999, 1 << 30) < Some(0));
        assert_eq!(badness(u64::MAX, 1000, u64::MAX), Some(i64::MAX));
    }
}
