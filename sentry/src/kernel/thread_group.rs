//! Thread groups: processes.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Task;
use super::cpu_clock::CpuTimes;

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

/// A process: threads that share a number, signal dispositions and limits.
pub struct ThreadGroup {
    /// The process's number: its leader's.
    pub tgid: i32,
    threads: Mutex<Vec<Weak<Task>>>,
    rlimits: Mutex<[Rlimit; RLIM_NLIMITS]>,
    exit: Mutex<Option<u32>>,
    /// Processor time of threads that are gone.
    past_cpu: Mutex<CpuTimes>,
}

impl ThreadGroup {
    /// A group without threads.
    pub fn new(tgid: i32, rlimits: [Rlimit; RLIM_NLIMITS]) -> Arc<ThreadGroup> {
        Arc::new(ThreadGroup {
            tgid,
            threads: Mutex::new(Vec::new()),
            rlimits: Mutex::new(rlimits),
            exit: Mutex::new(None),
            past_cpu: Mutex::default(),
        })
    }

    /// A limit; `resource` is `RLIMIT_*`.
    pub fn rlimit(&self, resource: u32) -> Rlimit {
        const NONE: Rlimit = Rlimit { soft: u64::MAX, hard: u64::MAX };
        self.rlimits.lock().get(resource as usize).copied().unwrap_or(NONE)
    }

    /// RLIMIT_NOFILE, the bound for new descriptors.
    pub fn nofile(&self) -> u64 {
        self.rlimit(libc::RLIMIT_NOFILE).soft
    }

    /// Adds a thread.
    pub fn add(&self, task: &Arc<Task>) {
        self.threads.lock().push(Arc::downgrade(task));
    }

    /// Removes a thread; returns how many are left.
    pub fn remove(&self, tid: i32) -> usize {
        let mut threads = self.threads.lock();
        threads.retain(|t| match t.upgrade() {
            Some(t) if t.tid() == tid => {
                let mut past = self.past_cpu.lock();
                *past = past.plus(t.cpu.times());
                false
            }
            other => other.is_some(),
        });
        threads.len()
    }

    /// The threads, oldest first.
    pub fn threads(&self) -> Vec<Arc<Task>> {
        self.threads.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// How many threads there are.
    pub fn thread_count(&self) -> usize {
        self.threads.lock().len()
    }

    /// Processor time of all threads, those that are gone too.
    pub fn cpu_times(&self) -> CpuTimes {
        let threads = self.threads.lock();
        let past = *self.past_cpu.lock();
        threads.iter().filter_map(Weak::upgrade).fold(past, |sum, t| sum.plus(t.cpu.times()))
    }

    /// Makes all threads exit; the first caller's wait status counts.
    pub fn begin_exit(&self, status: u32) {
        self.exit.lock().get_or_insert(status);
        for task in self.threads() {
            task.interrupt();
        }
    }

    /// The wait status, once the group is exiting.
    pub fn exiting(&self) -> Option<u32> {
        *self.exit.lock()
    }
}
