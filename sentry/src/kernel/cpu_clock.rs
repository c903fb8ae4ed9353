//! How much processor time a thread has had, in guest code and in the Sentry on its behalf.
//!
//! Only the thread itself switches its clock; anybody may read it. Time is what passes while the
//! thread is not asleep in a system call.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::coarse;
use super::time::host_monotonic_ns;

/// What a thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Mode {
    /// Nothing: it sleeps, or does not run yet or any more.
    Asleep = 0,
    /// Guest code.
    User = 1,
    /// A system call or a fault.
    System = 2,
}

/// Processor time in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTimes {
    /// In guest code.
    pub user: u64,
    /// In the kernel.
    pub system: u64,
}

impl CpuTimes {
    /// Both together.
    pub fn total(self) -> u64 {
        self.user.saturating_add(self.system)
    }

    /// As guests are told: limits go by the exact times.
    pub fn shown(self) -> CpuTimes {
        match coarse::clock() {
            None => self,
            Some(coarse) => {
                CpuTimes { user: coarse.shown(self.user), system: coarse.shown(self.system) }
            }
        }
    }

    /// The sum of two.
    pub fn plus(self, other: CpuTimes) -> CpuTimes {
        CpuTimes {
            user: self.user.saturating_add(other.user),
            system: self.system.saturating_add(other.system),
        }
    }
}

/// One thread's clock.
#[derive(Debug, Default)]
pub struct CpuClock {
    user: AtomicU64,
    system: AtomicU64,
    /// Since when (nanoseconds, shifted by two) in which [`Mode`]. Written last.
    mark: AtomicU64,
}

impl CpuClock {
    /// Notes that the thread goes over to `mode`. Only the thread itself calls this.
    pub fn switch(&self, mode: Mode) {
        let now = host_monotonic_ns();
        let mark = self.mark.load(Ordering::Relaxed);
        let passed = now.saturating_sub(mark >> 2);
        // A reader that sees half of a switch finds an odd mark before or a changed one after.
        self.mark.store(mark | 3, Ordering::Relaxed);
        fence(Ordering::Release);
        let counter = match mark & 3 {
            1 => Some(&self.user),
            2 => Some(&self.system),
            _ => None,
        };
        if let Some(counter) = counter {
            counter.store(counter.load(Ordering::Relaxed) + passed, Ordering::Relaxed);
        }
        self.mark.store(now << 2 | mode as u64, Ordering::Release);
    }

    /// The time so far.
    pub fn times(&self) -> CpuTimes {
        loop {
            let mark = self.mark.load(Ordering::Acquire);
            let mut times = CpuTimes {
                user: self.user.load(Ordering::Relaxed),
                system: self.system.load(Ordering::Relaxed),
            };
            fence(Ordering::Acquire);
            if mark & 3 == 3 || self.mark.load(Ordering::Relaxed) != mark {
                std::hint::spin_loop();
                continue;
            }
            let running = || host_monotonic_ns().saturating_sub(mark >> 2);
            match mark & 3 {
                1 => times.user += running(),
                2 => times.system += running(),
                _ => {}
            }
            return times;
        }
    }

    /// Whether the thread is running (or ready to).
    pub fn is_running(&self) -> bool {
        self.mark.load(Ordering::Relaxed) & 3 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_running_time_counts() {
        let clock = CpuClock::default();
        assert_eq!(clock.times(), CpuTimes::default());
        clock.switch(Mode::User);
        std::thread::sleep(std::time::Duration::from_millis(3));
        assert!(clock.times().user >= 3_000_000);
        clock.switch(Mode::System);
        clock.switch(Mode::Asleep);
        let at = clock.times();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert_eq!(clock.times(), at);
        assert!(!clock.is_running());
    }
}
