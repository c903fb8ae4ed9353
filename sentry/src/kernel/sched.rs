//! What sched_setscheduler(2) and sched_setaffinity(2) set. The host schedules; what is kept here
//! is what the calls tell back, and the affinity, which is passed on to the host's thread.

use std::sync::OnceLock;

use super::Task;

/// A set of CPUs, as the calls pass it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuSet(pub [u64; CpuSet::WORDS]);

impl CpuSet {
    /// Words in a set: 1024 CPUs.
    pub const WORDS: usize = 16;

    /// No CPU.
    pub const EMPTY: CpuSet = CpuSet([0; CpuSet::WORDS]);

    /// The CPUs that the sandbox may use.
    pub fn possible() -> CpuSet {
        static POSSIBLE: OnceLock<CpuSet> = OnceLock::new();
        *POSSIBLE.get_or_init(|| {
            let mut set = CpuSet([0; CpuSet::WORDS]);
            // SAFETY: the kernel writes at most the given number of bytes.
            let got = unsafe {
                libc::syscall(
                    libc::SYS_sched_getaffinity,
                    0,
                    size_of_val(&set.0),
                    set.0.as_mut_ptr(),
                )
            };
            if got <= 0 {
                set.0[0] = 1;
            }
            set
        })
    }

    /// The CPUs in both.
    pub fn intersection(self, other: CpuSet) -> CpuSet {
        CpuSet(std::array::from_fn(|i| self.0[i] & other.0[i]))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&w| w == 0)
    }

    /// Whether a CPU is in it.
    pub fn contains(&self, cpu: usize) -> bool {
        self.0.get(cpu / 64).is_some_and(|w| w >> (cpu % 64) & 1 != 0)
    }

    /// The lowest CPU; 0 without any.
    pub fn lowest(&self) -> usize {
        let word = self.0.iter().position(|&w| w != 0);
        word.map_or(0, |i| i * 64 + self.0[i].trailing_zeros() as usize)
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|w| w.count_ones()).sum()
    }

    /// One more than the highest possible CPU, in bytes of a mask, as Linux's `nr_cpu_ids` makes it.
    pub fn mask_bytes() -> usize {
        let words = CpuSet::possible().0;
        let used = words.iter().rposition(|&w| w != 0).map_or(1, |i| i + 1);
        used * 8
    }
}

/// A task's scheduling parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedState {
    /// `SCHED_*`
    pub policy: i32,
    /// Real-time priority; 0 for the others.
    pub priority: i32,
    /// `SCHED_RESET_ON_FORK`
    pub reset_on_fork: bool,
    /// Where it may run.
    pub affinity: CpuSet,
}

impl Default for SchedState {
    fn default() -> Self {
        SchedState {
            policy: libc::SCHED_OTHER,
            priority: 0,
            reset_on_fork: false,
            affinity: CpuSet::possible(),
        }
    }
}
/// The processor that a task is on, as it is told: the caller's own task.
pub fn current_cpu(task: &Task) -> u32 {
    // SAFETY: no arguments; asks for the calling thread's processor.
    let host = unsafe { libc::sched_getcpu() }.max(0) as usize;
    let affinity = task.sched.lock().affinity;
    // The host does not know the affinity: a processor outside of it stands for one inside.
    (if affinity.contains(host) { host } else { affinity.lowest() }) as u32
}
