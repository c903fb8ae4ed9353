//! Timers that send signals: those of timer_create(2), and the three of setitimer(2).
//!
//! As on Linux, a periodic timer whose signal is queued stands still until the signal is taken; what
//! it missed is then counted as overruns. A timer on a processor-time clock fires when the clock can
//! have got there at the earliest, with all threads running all the time, and looks.
//!
//! Lock order: a timer's state -> the timer service. Signals are sent with the state unlocked.

use std::sync::{Arc, Weak};

use abi::Errno;
use parking_lot::Mutex;

use super::signal::{SigInfo, SignalSource};
use super::time::{Clock, CpuKind, CpuOwner, FOREVER, HostClock, TICK_NS, monotonic_ns};
use super::timer::{Expire, TimerId, forward};
use super::users::PendingCharge;
use super::{Kernel, Task, ThreadGroup};

/// Time to the next expiration and period, in nanoseconds; 0 is disarmed, or one shot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setting {
    /// Time to the next expiration, or its moment.
    pub value: u64,
    /// Period.
    pub interval: u64,
}

/// What a timer is told the time by. Holds its process weakly: the process holds the timer.
#[derive(Clone)]
enum Source {
    Host(HostClock),
    Thread(Weak<Task>, CpuKind),
    Process(Weak<ThreadGroup>, CpuKind),
}

impl Source {
    fn new(clock: &Clock) -> Source {
        match clock {
            Clock::Host(clock) => Source::Host(*clock),
            Clock::Cpu(CpuOwner::Thread(task), kind) => Source::Thread(Arc::downgrade(task), *kind),
            Clock::Cpu(CpuOwner::Process(group), kind) => {
                Source::Process(Arc::downgrade(group), *kind)
            }
        }
    }

    /// The clock, while there is one.
    fn clock(&self) -> Option<Clock> {
        Some(match self {
            Source::Host(clock) => Clock::Host(*clock),
            Source::Thread(task, kind) => Clock::Cpu(CpuOwner::Thread(task.upgrade()?), *kind),
            Source::Process(group, kind) => Clock::Cpu(CpuOwner::Process(group.upgrade()?), *kind),
        })
    }

    fn now(&self) -> Option<u64> {
        self.clock().map(|clock| clock.now())
    }

    /// When to look whether `at` is reached.
    fn wake_at(&self, at: u64, patience: u64) -> Option<u64> {
        Some(match self.clock()? {
            Clock::Host(clock) => clock.to_monotonic(at),
            Clock::Cpu(owner, kind) => {
                let left = at.saturating_sub(kind.of(owner.times()));
                let wait = (left / owner.max_rate()).max(TICK_NS * patience);
                monotonic_ns().saturating_add(wait)
            }
        })
    }
}

/// Who gets the signal.
pub enum Target {
    /// Nobody (`SIGEV_NONE`).
    Nobody,
    /// The process.
    Process,
    /// One thread (`SIGEV_THREAD_ID`).
    Thread(Weak<Task>),
}

struct State {
    source: Source,
    /// 0 if disarmed.
    deadline: u64,
    interval: u64,
    /// The signal is on its way, and the timer stands still.
    sent: bool,
    /// Expirations behind the one that was signalled.
    overrun: u64,
    /// What timer_getoverrun(2) says: overruns of the signal that was taken last.
    last_overrun: i32,
    /// Looks in a row that found the processor-time clock where it was.
    idle_looks: u64,
    last_look: u64,
}

/// See the module.
pub struct SignalTimer {
    this: Weak<SignalTimer>,
    kernel: Weak<Kernel>,
    group: Weak<ThreadGroup>,
    id: TimerId,
    clock: Source,
    info: SigInfo,
    target: Target,
    state: Mutex<State>,
    /// A POSIX timer takes the place of a queued signal.
    _charge: Option<PendingCharge>,
}

impl SignalTimer {
    /// A disarmed timer of the process `group`, which sends `info`.
    pub fn new(
        kernel: &Arc<Kernel>,
        group: &Arc<ThreadGroup>,
        clock: &Clock,
        info: SigInfo,
        target: Target,
        charge: Option<PendingCharge>,
    ) -> Arc<SignalTimer> {
        let source = Source::new(clock);
        Arc::new_cyclic(|this| SignalTimer {
            this: this.clone(),
            kernel: Arc::downgrade(kernel),
            group: Arc::downgrade(group),
            id: kernel.timers.new_id(),
            clock: source.clone(),
            info,
            target,
            state: Mutex::new(State {
                source,
                deadline: 0,
                interval: 0,
                sent: false,
                overrun: 0,
                last_overrun: 0,
                idle_looks: 0,
                last_look: 0,
            }),
            _charge: charge,
        })
    }

    fn arm(&self, state: &State) -> Result<(), Errno> {
        let patience = 1 << state.idle_looks.min(4);
        let at = state.source.wake_at(state.deadline, patience).unwrap_or(FOREVER);
        match (self.kernel.upgrade(), &self.target) {
            (Some(kernel), Target::Process | Target::Thread(_)) => {
                kernel.timers.arm(self.id, at, self.this.clone())
            }
            _ => Ok(()),
        }
    }

    /// Moves a periodic timer behind now; returns how many expirations that were.
    fn advance(state: &mut State) -> u64 {
        let Some(now) = state.source.now() else { return 0 };
        let (count, next) = forward(state.deadline, state.interval, now);
        state.deadline = next;
        count
    }

    fn setting(&self, state: &mut State) -> Setting {
        let Some(now) = state.source.now().filter(|_| state.deadline != 0) else {
            return Setting { value: 0, interval: state.interval };
        };
        let value = if state.deadline > now {
            state.deadline - now
        } else if state.interval == 0 {
            // Over; until somebody has noticed, there is no time left to tell.
            u64::from(!state.sent && !matches!(self.target, Target::Nobody))
        } else {
            let (_, next) = forward(state.deadline, state.interval, now);
            next - now
        };
        Setting { value, interval: state.interval }
    }

    /// What is set (timer_gettime(2), getitimer(2)).
    pub fn get(&self) -> Setting {
        self.setting(&mut self.state.lock())
    }

    /// Sets the timer (timer_settime(2), setitimer(2)); returns what was set before.
    pub fn set(self: &Arc<Self>, new: Setting, absolute: bool) -> Result<Setting, Errno> {
        self.drop_signal();
        let mut state = self.state.lock();
        if let Some(kernel) = self.kernel.upgrade() {
            kernel.timers.disarm(self.id);
        }
        let old = self.setting(&mut state);
        // A relative timer does not follow when somebody sets the clock.
        state.source = match &self.clock {
            Source::Host(clock) if clock.is_settable() && !absolute => {
                Source::Host(HostClock::MONOTONIC)
            }
            source => source.clone(),
        };
        let now = state.source.now().ok_or(Errno::EINVAL)?;
        state.deadline = match new.value {
            0 => 0,
            value if absolute => value,
            value => now.saturating_add(value).min(FOREVER),
        };
        state.interval = new.interval;
        (state.sent, state.overrun, state.last_overrun, state.idle_looks) = (false, 0, 0, 0);
        if state.deadline != 0 {
            self.arm(&state)?;
        }
        Ok(old)
    }

    /// timer_getoverrun(2)
    pub fn overrun(&self) -> i32 {
        self.state.lock().last_overrun
    }

    /// Ends the timer: no signal of it comes any more.
    pub fn delete(self: &Arc<Self>) {
        self.state.lock().deadline = 0;
        if let Some(kernel) = self.kernel.upgrade() {
            kernel.timers.disarm(self.id);
        }
        self.drop_signal();
    }

    /// Calls `f` with the queue that the signal goes to.
    fn with_queue<R>(&self, f: impl FnOnce(&mut super::signal::Pending) -> R) -> Option<R> {
        let group = self.group.upgrade()?;
        let mut signals = group.signals.lock();
        match &self.target {
            Target::Nobody => None,
            Target::Process => Some(f(&mut signals.shared)),
            Target::Thread(task) => {
                let task = task.upgrade()?;
                let mut own = task.signals.lock();
                Some(f(&mut own.pending))
            }
        }
    }

    fn drop_signal(self: &Arc<Self>) {
        let source: Arc<dyn SignalSource> = self.clone();
        self.with_queue(|queue| queue.drop_source(&source));
    }

    /// Sends the signal; whether it is queued now and somebody will take it.
    fn send(self: &Arc<Self>) -> bool {
        let source: Arc<dyn SignalSource> = self.clone();
        match &self.target {
            Target::Nobody => return false,
            Target::Process => {
                let Some(group) = self.group.upgrade() else { return false };
                group.send_source(self.info, source.clone());
            }
            Target::Thread(task) => {
                let Some(task) = task.upgrade() else { return false };
                task.send_source(self.info, source.clone());
            }
        }
        self.with_queue(|queue| queue.has_source(&source)).unwrap_or(false)
    }
}

impl Expire for SignalTimer {
    fn expire(self: Arc<Self>) {
        {
            let mut state = self.state.lock();
            let Some(now) = state.source.now() else { return };
            if state.deadline == 0 || state.sent {
                return;
            }
            if now < state.deadline {
                let idle = now == state.last_look && !matches!(state.source, Source::Host(_));
                state.idle_looks = if idle { state.idle_looks + 1 } else { 0 };
                state.last_look = now;
                // The service has its thread already: this is it.
                let _ = self.arm(&state);
                return;
            }
            state.sent = true;
        }
        let queued = self.send();
        let mut state = self.state.lock();
        if queued || !state.sent {
            return;
        }
        // Ignored, or an earlier one of the same number waits: nobody will take this one.
        state.sent = false;
        if state.interval == 0 {
            state.deadline = 0;
            return;
        }
        Self::advance(&mut state);
        // Not more often than anybody could notice.
        if let (Source::Host(_), Some(now)) = (&state.source, state.source.now()) {
            state.deadline = state.deadline.max(now + TICK_NS.min(state.interval.max(TICK_NS)));
        }
        let _ = self.arm(&state);
    }
}

impl SignalSource for SignalTimer {
    fn taken(&self, info: &mut SigInfo) {
        let mut state = self.state.lock();
        state.sent = false;
        if state.deadline == 0 {
            return;
        }
        if state.interval == 0 {
            state.deadline = 0;
        } else {
            let count = Self::advance(&mut state);
            state.overrun = count.saturating_sub(1);
            let _ = self.arm(&state);
        }
        state.last_overrun = i32::try_from(state.overrun).unwrap_or(i32::MAX);
        if info.code == super::signal::info::SI_TIMER {
            info.set_overrun(state.last_overrun);
        }
    }
}
