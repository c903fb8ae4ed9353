//! The out-of-memory killer (mm/oom_kill.c, as a memory cgroup uses it): when a fault finds no
//! memory, and none is there to be taken back ([`MemoryManager::trim`]), the biggest process is killed,
//! and the fault is tried again once its memory is back. Nobody else is killed before that.
//!
//! Lock order: `OomKiller::victim` -> the task table's.

use std::sync::atomic::Ordering;
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

/// Who was killed last. One per kernel.
#[derive(Default)]
pub struct OomKiller {
    victim: Mutex<Option<Victim>>,
    /// Woken when a victim's memory is back.
    gone: WaitQueue,
}

/// A process that was killed for its memory.
#[derive(Clone)]
struct Victim {
    group: Arc<ThreadGroup>,
    mm: Weak<MemoryManager>,
    /// Until when others wait for its memory, in nanoseconds of `CLOCK_MONOTONIC`.
    deadline: u64,
}

impl Victim {
    /// Whether its memory is not back, and worth waiting for.
    fn is_dying(&self) -> bool {
        self.mm.strong_count() > 0 && monotonic_ns() < self.deadline
    }
}

/// A process's badness (`oom_badness`): bytes in use, and what its score adds, in thousandths of all
/// there is. `None` for one that must not be killed.
fn badness(used: u64, adjust: i32, total: u64) -> Option<i64> {
    let bytes = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    (adjust != NEVER).then(|| bytes(used).saturating_add(bytes(total) / 1000 * i64::from(adjust)))
}

/// The process to kill, and its memory; one that is about to end anyway comes first.
fn choose(kernel: &Kernel) -> Option<(Arc<ThreadGroup>, Arc<MemoryManager>)> {
    let total = kernel.memory.limit();
    let mut worst: Option<(i64, (Arc<ThreadGroup>, Arc<MemoryManager>))> = None;
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

/// Counts kernel memory, of what was promised and not used if need be. `ENOMEM`. No locks are held.
pub(super) fn charge(kernel: &Kernel, bytes: usize) -> Result<KernelMemory, Errno> {
    if let Some(memory) = kmem::charge(bytes) {
        return Ok(memory);
    }
    trim(kernel);
    kmem::charge(bytes).ok_or(Errno::ENOMEM)
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
        kill(&kernel, &task);
        false
    }) as Box<dyn Fn() -> bool + Send + Sync>)
}

/// There is no memory for what `cur` wants. Kills a process, and waits for its memory if it is
/// another one. Afterwards it is worth trying again, unless the caller is to die itself.
pub(super) fn out_of_memory(cur: &Current) {
    if trim(&cur.kernel) {
        return;
    }
    let _registration = cur.kernel.oom.gone.register(Events::IN, cur.sleeper.clone());
    let victim = kill(&cur.kernel, &cur.task);
    // `block` says why it came back: interrupted, which is how the caller dies, or too late.
    while victim.is_dying() && cur.group.exiting().is_none() {
        if cur.block(Some(victim.deadline)).is_err() {
            return;
        }
    }
}

/// Kills the biggest process, unless the memory of the last one is not back yet.
fn kill(kernel: &Arc<Kernel>, asked_by: &Task) -> Victim {
    let mut last = kernel.oom.victim.lock();
    if let Some(victim) = last.as_ref().filter(|victim| victim.is_dying()) {
        return victim.clone();
    }
    let (group, mm) = match choose(kernel) {
        Some((group, mm)) => (group, Arc::downgrade(&mm)),
        None => (asked_by.group.clone(), Weak::new()),
    };
    if let Some(mm) = mm.upgrade() {
        let kernel = Arc::downgrade(kernel);
        mm.when_gone(move || {
            if let Some(kernel) = kernel.upgrade() {
                kernel.oom.gone.wake(Events::IN);
            }
        });
    }
    let deadline = monotonic_ns().saturating_add(PATIENCE);
    let victim = Victim { group, mm, deadline };
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
