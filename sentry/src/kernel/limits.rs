//! What the sandbox as a whole may use and has used, and how it is ended.
//!
//! Owns: the counts of what tasks asked for, the budget of output, the quota that all file systems
//! in memory share. Tasks are bounded by [`super::TaskTable`], open files by [`crate::vfs`], memory
//! by the memory file, processor time by [`super::cpu_budget`].
//!
//! Locks: `past` is a leaf, but for a task's own atomics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::cpu_budget::CpuBudget;
use super::{Kernel, Task};
use crate::boot::spec;
use crate::boot::{Cause, Counts, Usage};
use crate::mm::Quota;

/// One task's counts. Only its own thread adds to them.
#[derive(Debug, Default)]
pub struct TaskCounts {
    calls: AtomicU64,
    faults: AtomicU64,
    denials: AtomicU64,
    unsupported: AtomicU64,
}

impl TaskCounts {
    /// A system call ended, with this errno if any.
    pub fn call(&self, errno: Option<abi::Errno>) {
        add_one(&self.calls);
        match errno {
            Some(abi::Errno::EPERM | abi::Errno::EACCES) => add_one(&self.denials),
            Some(abi::Errno::ENOSYS) => add_one(&self.unsupported),
            _ => {}
        }
    }

    /// A page fault came to the kernel.
    pub fn fault(&self) {
        add_one(&self.faults);
    }

    fn now(&self) -> Counts {
        Counts {
            calls: self.calls.load(Ordering::Relaxed),
            faults: self.faults.load(Ordering::Relaxed),
            denials: self.denials.load(Ordering::Relaxed),
            unsupported: self.unsupported.load(Ordering::Relaxed),
        }
    }
}

/// There is one writer: no locked instruction is needed.
fn add_one(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

/// Bytes that may be written to the caller's descriptors.
#[derive(Debug)]
pub struct Output {
    limit: u64,
    used: AtomicU64,
}

impl Output {
    /// Takes up to `wanted` bytes of what is left.
    pub fn take(&self, wanted: u64) -> u64 {
        let mut taken = 0;
        // The closure never says no.
        let _ = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            taken = wanted.min(self.limit.saturating_sub(used));
            Some(used.saturating_add(taken))
        });
        taken
    }

    /// Gives back what was taken and not written.
    pub fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// See the module.
pub struct Limits {
    /// Written to the caller's descriptors, and how much may be.
    pub output: Arc<Output>,
    /// How much processor time there is, if that is limited.
    pub cpu: Option<Arc<CpuBudget>>,
    /// What all file systems in memory share.
    tmp: Option<Arc<Quota>>,
    /// Tasks at once.
    tasks: Option<u64>,
    /// Counts of tasks that are gone.
    past: Mutex<Counts>,
    oom_kills: AtomicU64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::new(&spec::Limits::default())
    }
}

impl Limits {
    /// As the launcher wants them.
    pub fn new(spec: &spec::Limits) -> Limits {
        let cpu = spec.cpus.is_some() || spec.cpu_time.is_some();
        Limits {
            output: Arc::new(Output {
                limit: spec.output.unwrap_or(u64::MAX),
                used: AtomicU64::new(0),
            }),
            cpu: cpu.then(|| Arc::new(CpuBudget::new(spec.cpus, spec.cpu_time))),
            tmp: spec.tmp_size.map(Quota::new),
            tasks: spec.pids,
            past: Mutex::default(),
            oom_kills: AtomicU64::new(0),
        }
    }

    /// What all file systems in memory share.
    pub fn tmp(&self) -> Option<&Arc<Quota>> {
        self.tmp.as_ref()
    }

    /// How many tasks there may be at once.
    pub fn tasks(&self) -> usize {
        let asked = self.tasks.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
        asked.min(super::task_table::MAX_TASKS)
    }

    /// A task is gone: its counts are the past's now, once `forget` took it away.
    pub(super) fn task_gone(&self, task: &Task, forget: impl FnOnce()) {
        let mut past = self.past.lock();
        *past = past.plus(task.counts.now());
        forget();
    }

    /// The out-of-memory killer ended a process.
    pub(super) fn note_oom_kill(&self) {
        self.oom_kills.fetch_add(1, Ordering::Relaxed);
    }
}

impl Kernel {
    /// What the sandbox has used so far.
    pub fn usage(&self) -> Usage {
        let past = self.limits.past.lock();
        let live = self.tasks.all().into_iter().filter(|task| !task.is_dead());
        let counts = live.fold(*past, |sum, task| sum.plus(task.counts.now()));
        drop(past);
        let (guest_ns, kernel_ns) = self.cpu_ns();
        Usage {
            guest_ns,
            kernel_ns,
            peak_memory: self.memory.peak(),
            peak_tasks: self.tasks.peak() as u64,
            output: self.limits.output.used.load(Ordering::Relaxed),
            counts,
            oom_kills: self.limits.oom_kills.load(Ordering::Relaxed),
        }
    }

    /// Ends the sandbox: all tasks are killed, and the launcher is told why. Later reasons do not
    /// count.
    pub fn end(&self, cause: Cause) {
        self.tell_end(libc::SIGKILL as u32, cause);
        self.tasks.close();
        for group in self.tasks.groups() {
            group.begin_exit(libc::SIGKILL as u32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_handed_out_up_to_its_limit() {
        let limits = Limits::new(&spec::Limits { output: Some(10), ..Default::default() });
        assert_eq!(limits.output.take(7), 7);
        assert_eq!(limits.output.take(7), 3);
        assert_eq!(limits.output.take(1), 0);
        limits.output.give_back(2);
        assert_eq!(limits.output.take(u64::MAX), 2);
    }

    #[test]
    fn denials_and_missing_calls_are_told_apart() {
        let counts = TaskCounts::default();
        for errno in [None, Some(abi::Errno::EPERM), Some(abi::Errno::ENOSYS)] {
            counts.call(errno);
        }
        counts.fault();
        let expected = Counts { calls: 3, faults: 1, denials: 1, unsupported: 1 };
        assert_eq!(counts.now(), expected);
        assert_eq!(expected.plus(expected).calls, 6);
    }
}
