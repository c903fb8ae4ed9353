//! Processor time of the sandbox as a whole: how much of it there is (`--cpu-time`) and how fast it
//! may be used (`--cpus`).
//!
//! Both go by the host's own account of what guest threads and the Sentry have used. A timer fires
//! when a bound can have been reached at the earliest, with all processors busy, and looks. While no
//! task runs, it does not: the next one to run guest code starts it again.
//!
//! The quota works as the cpu controller of cgroups does: each period has its time; once that is
//! used up, tasks wait for the next one before they run guest code, and what was used too much counts
//! for that.
//!
//! Lock order: `state` -> the task table.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::cpu_clock::Mode;
use super::time::{host_ns, monotonic_ns};
use super::timer::{Expire, TimerId};
use super::{Current, Events, Kernel, WaitQueue};
use crate::boot::Cause;
use crate::rarely::Rarely;

/// Length of a period of the quota (the default of `cpu.max`).
const PERIOD: u64 = 100_000_000;
/// How exactly bounds are kept.
const TICK: u64 = 4_000_000;

/// See the module.
pub struct CpuBudget {
    /// All there is, in nanoseconds.
    total: Option<u64>,
    /// Nanoseconds per period.
    quota: Option<u64>,
    state: Mutex<State>,
    /// This period's time is used up.
    throttled: AtomicBool,
    /// No timer is armed.
    dormant: AtomicBool,
    /// Who waits for the next period.
    waiting: WaitQueue,
}

#[derive(Default)]
struct State {
    kernel: Weak<Kernel>,
    timer: Option<TimerId>,
    /// When the period began.
    period: u64,
    /// What was used when the sandbox was looked at last.
    seen: u64,
    /// Used in this period.
    used: u64,
}

/// What is to be done after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    End,
    /// Stop tasks until the period ends.
    Throttle,
    Run,
}

impl State {
    /// Notes that `total` was used until `now`, and begins a new period if it is time.
    fn advance(&mut self, now: u64, total: u64, quota: u64) {
        self.used = self.used.saturating_add(total.saturating_sub(self.seen));
        self.seen = self.seen.max(total);
        let periods = now.saturating_sub(self.period) / PERIOD;
        if periods > 0 {
            self.period += periods * PERIOD;
            // What was saved is lost; what was used too much is not forgotten.
            self.used = self.used.saturating_sub(periods.saturating_mul(quota));
        }
    }
}

impl CpuBudget {
    /// `cpus` in thousandths of a processor, `total` in nanoseconds.
    pub(super) fn new(cpus: Option<u64>, total: Option<u64>) -> CpuBudget {
        CpuBudget {
            total,
            quota: cpus.map(|cpus| (PERIOD / 1000).saturating_mul(cpus).max(1)),
            state: Mutex::default(),
            throttled: AtomicBool::new(false),
            dormant: AtomicBool::new(true),
            waiting: WaitQueue::new(),
        }
    }

    /// Tells it what it is the budget of.
    pub(super) fn bind(&self, kernel: &Arc<Kernel>) {
        let mut state = self.state.lock();
        state.kernel = Arc::downgrade(kernel);
        state.timer = Some(kernel.timers.new_id());
        state.period = monotonic_ns();
    }

    /// Guest code is about to run. Returns whether it may.
    pub(super) fn may_run(self: &Arc<Self>) -> bool {
        if self.dormant.load(Ordering::SeqCst) && self.dormant.swap(false, Ordering::AcqRel) {
            self.clone().expire();
        }
        !self.throttled.load(Ordering::SeqCst)
    }

    /// Waits for the next period, or until the task has something else to do.
    pub(super) fn wait(&self, cur: &Current) {
        let _registration = self.waiting.register(Events::IN, cur.sleeper.clone());
        cur.cpu.switch(Mode::Asleep);
        while self.throttled.load(Ordering::SeqCst) && !cur.interrupted() {
            cur.sleeper.park(None);
        }
        cur.cpu.switch(Mode::System);
    }

    fn judge(&self, used: u64, total: u64) -> Verdict {
        if self.total.is_some_and(|most| total >= most) {
            Verdict::End
        } else if self.quota.is_some_and(|quota| used >= quota) {
            Verdict::Throttle
        } else {
            Verdict::Run
        }
    }

    /// How soon a bound can be reached, with `cpus` processors.
    fn pace(&self, verdict: Verdict, state: &State, now: u64, cpus: u64) -> u64 {
        let next_period = (state.period + PERIOD).saturating_sub(now);
        if verdict == Verdict::Throttle {
            return next_period;
        }
        let left = |most: Option<u64>, used: u64| most.map_or(u64::MAX, |m| m.saturating_sub(used));
        let soon = left(self.quota, state.used).min(left(self.total, state.seen)) / cpus.max(1);
        let soon = soon.max(TICK);
        if self.quota.is_some() { soon.min(next_period.max(1)) } else { soon }
    }
}

impl Expire for CpuBudget {
    fn expire(self: Arc<Self>) {
        let mut state = self.state.lock();
        let Some(kernel) = state.kernel.upgrade() else { return };
        let Some(timer) = state.timer else { return };
        let (guest, own) = kernel.cpu_ns();
        let total = guest.saturating_add(own);
        let now = monotonic_ns();
        state.advance(now, total, self.quota.unwrap_or(u64::MAX));
        let verdict = self.judge(state.used, total);
        if verdict == Verdict::End {
            drop(state);
            kernel.end(Cause::Cpu);
            return;
        }
        let throttle = verdict == Verdict::Throttle;
        let before = self.throttled.swap(throttle, Ordering::SeqCst);
        match (before, throttle) {
            (false, true) => kernel.tasks.all().iter().for_each(|task| task.kick()),
            (true, false) => self.waiting.wake(Events::IN),
            _ => {}
        }
        let idle = !throttle && !kernel.tasks.all().iter().any(|task| task.cpu.is_running());
        if idle {
            self.dormant.store(true, Ordering::SeqCst);
            // Who began to run guest code before that has seen no need to start the timer.
            let late = kernel.tasks.all().iter().any(|task| task.is_in_guest());
            if !late || !self.dormant.swap(false, Ordering::AcqRel) {
                return;
            }
        }
        let at = now.saturating_add(self.pace(verdict, &state, now, kernel.host.cpus.len() as u64));
        let target: Weak<dyn Expire> = Arc::downgrade(&(self.clone() as Arc<_>));
        if let Err(errno) = kernel.timers.arm(timer, at, target) {
            static FAILED: Rarely = Rarely::new();
            if let Some(count) = FAILED.due() {
                tracing::warn!(%errno, count, "no timer for processor time");
            }
            // The next task to run guest code tries again.
            self.dormant.store(true, Ordering::SeqCst);
        }
    }
}

impl Kernel {
    /// Processor time of guest threads and of the kernel, by the host's account, in nanoseconds.
    pub fn cpu_ns(&self) -> (u64, u64) {
        let mut spaces = Vec::new();
        let mut guest = platform::past_cpu_ns();
        for group in self.tasks.groups() {
            // Any thread will do, but a leader may have exited before the others.
            let Some(mm) = group.threads().iter().find_map(|task| task.mm()) else { continue };
            let key = Arc::as_ptr(&mm);
            if !spaces.contains(&key) {
                spaces.push(key);
                guest = guest.saturating_add(mm.address_space().cpu_ns());
            }
        }
        (guest, host_ns(libc::CLOCK_PROCESS_CPUTIME_ID))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn what_was_used_too_much_counts_for_the_next_period() {
        let mut state = State::default();
        state.advance(50 * MS, 30 * MS, 50 * MS);
        assert_eq!(state.used, 30 * MS);
        state.advance(90 * MS, 70 * MS, 50 * MS);
        assert_eq!(state.used, 70 * MS);
        state.advance(100 * MS, 70 * MS, 50 * MS);
        assert_eq!((state.period, state.used), (100 * MS, 20 * MS));
        // Nothing is saved for later.
        state.advance(1000 * MS, 70 * MS, 50 * MS);
        assert_eq!((state.period, state.used), (1000 * MS, 0));
        // An account that goes back is none that grows.
        state.advance(1001 * MS, 60 * MS, 50 * MS);
        assert_eq!(state.used, 0);
    }

    #[test]
    fn bounds_are_judged_and_looked_at_in_time() {
        let budget = CpuBudget::new(Some(500), Some(2000 * MS));
        assert_eq!(budget.judge(49 * MS, 100 * MS), Verdict::Run);
        assert_eq!(budget.judge(50 * MS, 100 * MS), Verdict::Throttle);
        assert_eq!(budget.judge(0, 2000 * MS), Verdict::End);
        let state = State { used: 10 * MS, seen: 1000 * MS, ..State::default() };
        assert_eq!(budget.pace(Verdict::Run, &state, 0, 2), 20 * MS);
        assert_eq!(budget.pace(Verdict::Throttle, &state, 30 * MS, 2), 70 * MS);
        let late = State { used: 10 * MS, seen: 1990 * MS, ..State::default() };
        assert_eq!(budget.pace(Verdict::Run, &late, 0, 2), 5 * MS);
    }
}
