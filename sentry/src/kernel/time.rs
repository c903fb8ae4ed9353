//! The guest's clocks: the host's, read directly or [coarsely](super::coarse), and processor-time
//! clocks.

use std::sync::Arc;

use abi::Errno;
use abi::time::NSEC_PER_SEC;

use super::cpu_clock::CpuTimes;
use super::{Task, ThreadGroup, coarse};
use crate::vfs::Timespec;

/// Nanoseconds of a clock as guests are told; 0 if the host does not have it.
pub fn clock_ns(clock: libc::clockid_t) -> u64 {
    match coarse::clock() {
        None => host_ns(clock),
        Some(coarse) => coarse.read(clock),
    }
}

/// How long until `CLOCK_MONOTONIC`, as guests are told, is at `deadline`; 0 if it is past.
pub fn wait_ns(deadline: u64) -> u64 {
    match coarse::clock() {
        None => deadline.saturating_sub(monotonic_ns()),
        Some(coarse) => coarse.until(deadline),
    }
}

/// The exact `CLOCK_MONOTONIC`, for what guests do not see.
pub fn host_monotonic_ns() -> u64 {
    host_ns(libc::CLOCK_MONOTONIC)
}

/// A timestamp of the host's as guests are told: where time is coarse, without what is finer, and not
/// in the future.
pub fn shown_time(time: Timespec) -> Timespec {
    if coarse::clock().is_none() {
        return time;
    }
    let now = to_timespec(clock_ns(libc::CLOCK_REALTIME));
    let nsec = time.nsec / coarse::STEP_NS as u32 * coarse::STEP_NS as u32;
    let coarse = Timespec { nsec, ..time };
    // Of a host that is ahead, or a moment that somebody chose: that is not about now.
    let is_now = (time.sec, time.nsec) > (now.sec, now.nsec) && time.sec <= now.sec + 1;
    if is_now { now } else { coarse }
}

fn to_timespec(ns: u64) -> Timespec {
    Timespec { sec: (ns / 1_000_000_000) as i64, nsec: (ns % 1_000_000_000) as u32 }
}

/// Nanoseconds of a host clock; 0 if the host does not have it.
pub fn host_ns(clock: libc::clockid_t) -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is a valid out-pointer.
    unsafe { libc::clock_gettime(clock, &mut ts) };
    (ts.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(ts.tv_nsec as u64)
}

/// Nanoseconds as clock ticks of times(2) and `si_utime` (`USER_HZ`, 100 a second).
pub fn clock_t(ns: u64) -> u64 {
    ns / 10_000_000
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// The wall clock, coarse as file timestamps are (`CLOCK_REALTIME_COARSE`).
pub fn file_time() -> Timespec {
    to_timespec(clock_ns(libc::CLOCK_REALTIME_COARSE))
}

/// The longest sleep, about 292 years (`KTIME_MAX`): beyond it is forever.
pub const FOREVER: u64 = i64::MAX as u64;

/// Length of a tick of the coarse clocks and of CPU timers (`CONFIG_HZ=250`).
pub const TICK_NS: u64 = 4_000_000;

/// A clock that a host clock stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostClock(libc::clockid_t);

impl HostClock {
    /// `CLOCK_REALTIME`
    pub const REALTIME: HostClock = HostClock(libc::CLOCK_REALTIME);
    /// `CLOCK_MONOTONIC`
    pub const MONOTONIC: HostClock = HostClock(libc::CLOCK_MONOTONIC);
    /// `CLOCK_BOOTTIME`
    pub const BOOTTIME: HostClock = HostClock(libc::CLOCK_BOOTTIME);

    /// The time now.
    pub fn now(self) -> u64 {
        clock_ns(self.0)
    }

    /// Its resolution in nanoseconds.
    pub fn resolution_ns(self) -> u64 {
        Clock::Host(self).resolution()
    }

    /// When, in nanoseconds of `CLOCK_MONOTONIC`, this clock will show `at` if nobody sets it.
    pub fn to_monotonic(self, at: u64) -> u64 {
        if self == HostClock::MONOTONIC {
            return at;
        }
        let left = at.saturating_sub(self.now());
        monotonic_ns().saturating_add(left)
    }

    /// Whether it jumps when somebody sets the time.
    pub fn is_settable(self) -> bool {
        matches!(self.0, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_ALARM | libc::CLOCK_TAI)
    }

    /// Whether waking a suspended machine is asked for (`CLOCK_*_ALARM`).
    pub fn is_alarm(self) -> bool {
        matches!(self.0, libc::CLOCK_REALTIME_ALARM | libc::CLOCK_BOOTTIME_ALARM)
    }

    /// Whether timers and sleeps can use it (not the coarse and raw ones).
    pub fn has_timers(self) -> bool {
        !matches!(
            self.0,
            libc::CLOCK_REALTIME_COARSE | libc::CLOCK_MONOTONIC_COARSE | libc::CLOCK_MONOTONIC_RAW
        )
    }
}

/// What a processor-time clock counts (`CPUCLOCK_PROF`, `_VIRT`, `_SCHED`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuKind {
    /// User and system time, in ticks.
    Prof,
    /// User time, in ticks.
    Virt,
    /// Both, exactly.
    Sched,
}

impl CpuKind {
    /// The part of `times` that counts.
    pub fn of(self, times: CpuTimes) -> u64 {
        match self {
            CpuKind::Virt => times.user,
            CpuKind::Prof | CpuKind::Sched => times.total(),
        }
    }
}

/// Whose time a processor-time clock counts.
#[derive(Clone)]
pub enum CpuOwner {
    /// One thread.
    Thread(Arc<Task>),
    /// All threads of a process.
    Process(Arc<ThreadGroup>),
}

impl CpuOwner {
    /// The time so far, as guests are told.
    pub fn times(&self) -> CpuTimes {
        match self {
            CpuOwner::Thread(task) => task.cpu.times(),
            CpuOwner::Process(group) => group.cpu_times(),
        }
        .shown()
    }

    /// How fast its clock can run at most: the number of threads.
    pub fn max_rate(&self) -> u64 {
        match self {
            CpuOwner::Thread(_) => 1,
            CpuOwner::Process(group) => group.thread_count().max(1) as u64,
        }
    }
}

/// A clock id, resolved.
#[derive(Clone)]
pub enum Clock {
    /// One of the host's.
    Host(HostClock),
    /// Processor time.
    Cpu(CpuOwner, CpuKind),
}

impl Clock {
    /// Resolves a `clockid_t` for `task` (`clockid_to_kclock`, `pid_for_clock`). `gettime`: for
    /// clock_gettime, which takes any own thread's number for the process. `EINVAL` for what is not
    /// a clock.
    pub fn resolve(task: &Arc<Task>, id: i32, gettime: bool) -> Result<Clock, Errno> {
        const PER_THREAD: i32 = 4;
        match id {
            libc::CLOCK_PROCESS_CPUTIME_ID => {
                Ok(Clock::Cpu(CpuOwner::Process(task.group.clone()), CpuKind::Sched))
            }
            libc::CLOCK_THREAD_CPUTIME_ID => {
                Ok(Clock::Cpu(CpuOwner::Thread(task.clone()), CpuKind::Sched))
            }
            libc::CLOCK_REALTIME
            | libc::CLOCK_MONOTONIC
            | libc::CLOCK_MONOTONIC_RAW
            | libc::CLOCK_REALTIME_COARSE
            | libc::CLOCK_MONOTONIC_COARSE
            | libc::CLOCK_BOOTTIME
            | libc::CLOCK_REALTIME_ALARM
            | libc::CLOCK_BOOTTIME_ALARM
            | libc::CLOCK_TAI => Ok(Clock::Host(HostClock(id))),
            0.. => Err(Errno::EINVAL),
            _ => {
                let kind = match id & 3 {
                    0 => CpuKind::Prof,
                    1 => CpuKind::Virt,
                    2 => CpuKind::Sched,
                    _ => return Err(Errno::EINVAL),
                };
                let owner = Self::cpu_owner(task, !(id >> 3), id & PER_THREAD != 0, gettime);
                owner.map(|owner| Clock::Cpu(owner, kind)).ok_or(Errno::EINVAL)
            }
        }
    }

    fn cpu_owner(task: &Arc<Task>, pid: i32, thread: bool, gettime: bool) -> Option<CpuOwner> {
        if thread {
            let target = if pid == 0 { task.clone() } else { task.kernel.tasks.get(pid)? };
            return Arc::ptr_eq(&target.group, &task.group).then_some(CpuOwner::Thread(target));
        }
        if pid == 0 || (gettime && pid == task.tid()) {
            return Some(CpuOwner::Process(task.group.clone()));
        }
        task.kernel.tasks.group(pid).map(CpuOwner::Process)
    }

    /// The time now, in nanoseconds.
    pub fn now(&self) -> u64 {
        match self {
            Clock::Host(clock) => clock.now(),
            Clock::Cpu(owner, kind) => kind.of(owner.times()),
        }
    }

    /// Its resolution in nanoseconds (clock_getres).
    pub fn resolution(&self) -> u64 {
        match self {
            Clock::Host(HostClock(libc::CLOCK_REALTIME_COARSE | libc::CLOCK_MONOTONIC_COARSE))
                if coarse::clock().is_none() =>
            {
                TICK_NS
            }
            Clock::Host(_) | Clock::Cpu(_, CpuKind::Sched) => {
                if coarse::clock().is_some() {
                    coarse::STEP_NS
                } else {
                    1
                }
            }
            Clock::Cpu(..) => NSEC_PER_SEC.div_ceil(250),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_convert_between_clocks() {
        let at = HostClock::REALTIME.now() + 1_000_000_000;
        let left = HostClock::REALTIME.to_monotonic(at) - monotonic_ns();
        assert!((900_000_000..=1_000_000_000).contains(&left), "{left}");
        assert_eq!(HostClock::MONOTONIC.to_monotonic(5), 5);
        assert!(HostClock::REALTIME.to_monotonic(0) <= monotonic_ns());
    }
}
