//! timerfd_create(2): a timer as a file.
//!
//! As on Linux, a periodic timer that nobody reads fires once: how often it expired since is
//! computed when somebody asks.
//!
//! Lock order: a timer's state -> the timer service. The queue is woken with the state unlocked.

use std::any::Any;
use std::sync::{Arc, Weak};

use abi::Errno;
use parking_lot::Mutex;

use super::anon::{self, AnonKind};
use crate::kernel::signal_timer::Setting;
use crate::kernel::time::{FOREVER, HostClock};
use crate::kernel::timer::{Expire, TimerId, TimerService, forward};
use crate::kernel::{Credentials, Events, Kernel, WaitQueue};
use crate::vfs::{FileDescription, FileOps, IoDst, OpenFlags};

struct State {
    /// What `deadline` is told by.
    clock: HostClock,
    /// 0 if disarmed.
    deadline: u64,
    interval: u64,
    /// Expirations that nobody has read.
    ticks: u64,
    /// It fired, and nobody has looked how often since.
    expired: bool,
}

/// A timer.
pub struct Timer {
    this: Weak<Timer>,
    kernel: Arc<Kernel>,
    id: TimerId,
    clock: HostClock,
    state: Mutex<State>,
    queue: WaitQueue,
}

impl Timer {
    fn new(kernel: Arc<Kernel>, clock: HostClock) -> Arc<Timer> {
        let id = kernel.timers.new_id();
        Arc::new_cyclic(|this| Timer {
            this: this.clone(),
            kernel,
            id,
            clock,
            state: Mutex::new(State { clock, deadline: 0, interval: 0, ticks: 0, expired: false }),
            queue: WaitQueue::new(),
        })
    }

    fn service(&self) -> &TimerService {
        &self.kernel.timers
    }

    fn arm(&self, state: &State) -> Result<(), Errno> {
        let at = state.clock.to_monotonic(state.deadline);
        self.service().arm(self.id, at, self.this.clone())
    }

    /// Counts the expirations that a fired periodic timer has had, and arms it again.
    fn catch_up(&self, state: &mut State) {
        if state.expired && state.interval > 0 {
            let (count, next) = forward(state.deadline, state.interval, state.clock.now());
            // The first one was counted when it fired.
            state.ticks = state.ticks.saturating_add(count.saturating_sub(1));
            state.deadline = next;
            state.expired = false;
            // There is a thread already: it fired.
            let _ = self.arm(state);
        }
    }

    fn setting(state: &State) -> Setting {
        let left = state.deadline.saturating_sub(state.clock.now());
        let value = if state.deadline == 0 || state.expired { 0 } else { left };
        Setting { value, interval: state.interval }
    }

    /// timerfd_gettime(2)
    pub fn get(&self) -> Setting {
        let mut state = self.state.lock();
        self.catch_up(&mut state);
        Self::setting(&state)
    }

    /// timerfd_settime(2); returns what was set before.
    pub fn set(&self, new: Setting, absolute: bool) -> Result<Setting, Errno> {
        let mut state = self.state.lock();
        self.service().disarm(self.id);
        if state.expired && state.interval > 0 {
            let (_, next) = forward(state.deadline, state.interval, state.clock.now());
            (state.deadline, state.expired) = (next, false);
        }
        let old = Self::setting(&state);
        // A relative timer does not follow when somebody sets the clock.
        state.clock =
            if absolute || !self.clock.is_settable() { self.clock } else { HostClock::MONOTONIC };
        state.deadline = match new.value {
            0 => 0,
            value if absolute => value,
            value => state.clock.now().saturating_add(value).min(FOREVER),
        };
        state.interval = new.interval;
        (state.ticks, state.expired) = (0, false);
        if state.deadline != 0 {
            self.arm(&state)?;
        }
        Ok(old)
    }
}

impl Expire for Timer {
    fn expire(self: Arc<Self>) {
        let mut state = self.state.lock();
        if state.deadline == 0 || state.expired {
            return;
        }
        if state.clock.now() < state.deadline {
            // The clock was set back, or the timer was armed anew.
            let _ = self.arm(&state);
            return;
        }
        state.ticks = state.ticks.saturating_add(1);
        state.expired = true;
        drop(state);
        self.queue.wake(Events::IN | Events::RDNORM);
    }
}

/// The open file of a timer.
pub struct TimerFd {
    timer: Arc<Timer>,
}

impl TimerFd {
    /// The timer.
    pub fn timer(&self) -> &Arc<Timer> {
        &self.timer
    }
}

impl Drop for TimerFd {
    fn drop(&mut self) {
        self.timer.service().disarm(self.timer.id);
    }
}

impl FileOps for TimerFd {
    fn read(&self, dst: &mut IoDst<'_>, _: u64) -> Result<usize, Errno> {
        if dst.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let ticks = {
            let mut state = self.timer.state.lock();
            if state.ticks == 0 {
                return Err(Errno::EAGAIN);
            }
            self.timer.catch_up(&mut state);
            std::mem::take(&mut state.ticks)
        };
        match dst.write(&ticks.to_ne_bytes())? {
            8 => Ok(8),
            _ => Err(Errno::EFAULT),
        }
    }

    fn seekable(&self) -> bool {
        false
    }

    /// Allowed, and without effect (`noop_llseek`).
    fn seek(&self, _: u64, _: i64, _: i32) -> Option<Result<u64, Errno>> {
        Some(Ok(0))
    }

    fn poll(&self) -> Events {
        if self.timer.state.lock().ticks > 0 {
            Events::IN | Events::RDNORM
        } else {
            Events::empty()
        }
    }

    fn wait_queue(&self) -> Option<WaitQueue> {
        Some(self.timer.queue.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A new, disarmed timer. `flags`: `O_NONBLOCK`.
pub fn new_timerfd(
    kernel: Arc<Kernel>,
    cred: Arc<Credentials>,
    clock: HostClock,
    flags: OpenFlags,
) -> Result<Arc<FileDescription>, Errno> {
    let ops = Box::new(TimerFd { timer: Timer::new(kernel, clock) });
    anon::new_file(cred, AnonKind::Inode("[timerfd]"), ops, OpenFlags::RDWR | flags)
}
