//! The timers of a process: those of timer_create(2) by number, and the three of setitimer(2).
//!
//! Lock order: a process's table of timers is a leaf; timers are set and deleted with it unlocked.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use abi::Errno;
use parking_lot::Mutex;

use super::signal::SigInfo;
use super::signal_timer::{Setting, SignalTimer, Target};
use super::time::{Clock, CpuKind, CpuOwner, HostClock};
use super::{Kernel, ThreadGroup};
use crate::kmem::{self, KernelMemory};

/// Most timers of one process, whatever `RLIMIT_SIGPENDING` says.
const MAX_TIMERS: usize = 16384;

/// A process's timers.
#[derive(Default)]
pub struct ProcessTimers {
    posix: Mutex<Posix>,
    intervals: [OnceLock<Arc<SignalTimer>>; 3],
}

#[derive(Default)]
struct Posix {
    timers: BTreeMap<i32, (Arc<SignalTimer>, KernelMemory)>,
    next: i32,
}

/// Which timer of setitimer(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// `ITIMER_REAL`: wall-clock time, SIGALRM.
    Real,
    /// `ITIMER_VIRTUAL`: user time, SIGVTALRM.
    Virtual,
    /// `ITIMER_PROF`: user and system time, SIGPROF.
    Prof,
}

impl ProcessTimers {
    /// Adds the timer that `make` makes for its number. `EAGAIN` when there are too many.
    pub fn add(&self, make: impl FnOnce(i32) -> Arc<SignalTimer>) -> Result<i32, Errno> {
        let mut posix = self.posix.lock();
        if posix.timers.len() >= MAX_TIMERS {
            return Err(Errno::EAGAIN);
        }
        let memory = kmem::charge(kmem::TIMER).ok_or(Errno::EAGAIN)?;
        while posix.timers.contains_key(&posix.next) {
            posix.next = posix.next.checked_add(1).unwrap_or(0);
        }
        let id = posix.next;
        posix.next = id.checked_add(1).unwrap_or(0);
        posix.timers.insert(id, (make(id), memory));
        Ok(id)
    }

    /// The timer with a number. `EINVAL`.
    pub fn get(&self, id: i32) -> Result<Arc<SignalTimer>, Errno> {
        self.posix.lock().timers.get(&id).map(|(timer, _)| timer.clone()).ok_or(Errno::EINVAL)
    }

    /// timer_delete(2). `EINVAL`.
    pub fn delete(&self, id: i32) -> Result<(), Errno> {
        let (timer, _) = self.posix.lock().timers.remove(&id).ok_or(Errno::EINVAL)?;
        timer.delete();
        Ok(())
    }

    /// Deletes all timers of timer_create(2): execve(2) does.
    pub fn delete_all(&self) {
        let timers = std::mem::take(&mut self.posix.lock().timers);
        timers.values().for_each(|(timer, _)| timer.delete());
    }

    /// Ends all timers: the process is gone.
    pub fn exit(&self) {
        self.delete_all();
        self.intervals.iter().filter_map(OnceLock::get).for_each(|timer| timer.delete());
    }

    fn interval(&self, which: Which) -> &OnceLock<Arc<SignalTimer>> {
        let [real, virt, prof] = &self.intervals;
        match which {
            Which::Real => real,
            Which::Virtual => virt,
            Which::Prof => prof,
        }
    }
}

impl ThreadGroup {
    /// getitimer(2)
    pub fn interval_timer(&self, which: Which) -> Setting {
        self.timers.interval(which).get().map(|timer| timer.get()).unwrap_or_default()
    }

    /// setitimer(2); returns what was set before.
    pub fn set_interval_timer(
        self: &Arc<Self>,
        kernel: &Arc<Kernel>,
        which: Which,
        new: Setting,
    ) -> Result<Setting, Errno> {
        let timer = self.timers.interval(which).get_or_init(|| {
            let process = CpuOwner::Process(self.clone());
            let (clock, signo) = match which {
                Which::Real => (Clock::Host(HostClock::MONOTONIC), libc::SIGALRM),
                Which::Virtual => (Clock::Cpu(process, CpuKind::Virt), libc::SIGVTALRM),
                Which::Prof => (Clock::Cpu(process, CpuKind::Prof), libc::SIGPROF),
            };
            let info = SigInfo::kernel(signo);
            SignalTimer::new(kernel, self, &clock, info, Target::Process, None)
        });
        timer.set(new, false)
    }
}
