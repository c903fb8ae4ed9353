//! The timer service: one thread that sleeps exactly until the next deadline of any timer, and for
//! ever when there is none. It starts with the first timer.
//!
//! Lock order: a timer's own lock -> the service's queue. [`Expire::expire`] is called with the
//! queue unlocked.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use abi::Errno;
use parking_lot::{Condvar, Mutex};

use super::time::{FOREVER, wait_ns};

/// What happens at a deadline.
pub trait Expire: Send + Sync {
    /// The deadline has passed; the timer is not armed any more. Must not block.
    fn expire(self: Arc<Self>);
}

/// Names a timer to the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TimerId(u64);

#[derive(Default)]
struct Queue {
    by_time: BTreeMap<(u64, TimerId), Weak<dyn Expire>>,
    /// When each armed timer is due.
    armed: HashMap<TimerId, u64>,
    next_id: u64,
    /// Until when the thread sleeps; 0 while it does not.
    sleeps_until: u64,
    running: bool,
    stop: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// See the module.
#[derive(Default)]
pub struct TimerService {
    shared: Arc<Shared>,
}

impl TimerService {
    /// A name for a new timer.
    pub fn new_id(&self) -> TimerId {
        let mut queue = self.shared.queue.lock();
        queue.next_id += 1;
        TimerId(queue.next_id)
    }

    /// Arms a timer for `at` (nanoseconds of `CLOCK_MONOTONIC`), or changes when it is due. It ends
    /// with `target`. `EAGAIN` if the host gives no thread.
    pub fn arm(&self, id: TimerId, at: u64, target: Weak<dyn Expire>) -> Result<(), Errno> {
        let mut queue = self.shared.queue.lock();
        if let Some(old) = queue.armed.remove(&id) {
            queue.by_time.remove(&(old, id));
        }
        if at >= FOREVER {
            return Ok(());
        }
        if !queue.running {
            let shared = self.shared.clone();
            std::thread::Builder::new()
                .name("timers".into())
                .stack_size(256 << 10)
                .spawn(move || serve(&shared))
                .map_err(|_| Errno::EAGAIN)?;
            queue.running = true;
        }
        queue.armed.insert(id, at);
        queue.by_time.insert((at, id), target);
        if at < queue.sleeps_until {
            self.shared.changed.notify_one();
        }
        Ok(())
    }

    /// Disarms a timer.
    pub fn disarm(&self, id: TimerId) {
        let mut queue = self.shared.queue.lock();
        if let Some(at) = queue.armed.remove(&id) {
            queue.by_time.remove(&(at, id));
        }
    }
}

impl Drop for TimerService {
    fn drop(&mut self) {
        self.shared.queue.lock().stop = true;
        self.shared.changed.notify_one();
    }
}

/// The thread.
fn serve(shared: &Shared) {
    let mut queue = shared.queue.lock();
    while !queue.stop {
        match queue.by_time.first_key_value().map(|(&(at, id), _)| (at, id, wait_ns(at))) {
            Some((_, id, 0)) => {
                queue.armed.remove(&id);
                let target = queue.by_time.pop_first().and_then(|(_, target)| target.upgrade());
                drop(queue);
                if let Some(target) = target {
                    target.expire();
                }
                queue = shared.queue.lock();
            }
            Some((at, _, left)) => {
                queue.sleeps_until = at;
                shared.changed.wait_for(&mut queue, Duration::from_nanos(left));
                queue.sleeps_until = 0;
            }
            None => {
                queue.sleeps_until = u64::MAX;
                shared.changed.wait(&mut queue);
                queue.sleeps_until = 0;
            }
        }
    }
}

/// How often a period has passed since `deadline`, and the first deadline after `now`
/// (`hrtimer_forward`). `interval` is not 0.
pub fn forward(deadline: u64, interval: u64, now: u64) -> (u64, u64) {
    if now < deadline {
        return (0, deadline);
    }
    let count = (now - deadline) / interval + 1;
    (count, deadline.saturating_add(count.saturating_mul(interval)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::mpsc;

    use crate::kernel::time::monotonic_ns;

    struct Tell(mpsc::Sender<u32>, u32);
    impl Expire for Tell {
        fn expire(self: Arc<Self>) {
            self.0.send(self.1).unwrap();
        }
    }

    #[test]
    fn fires_in_order_and_not_when_disarmed() {
        let service = TimerService::default();
        let (tx, rx) = mpsc::channel();
        let timers: Vec<Arc<Tell>> = (0..4).map(|n| Arc::new(Tell(tx.clone(), n))).collect();
        let now = monotonic_ns();
        let ids: Vec<TimerId> = timers.iter().map(|_| service.new_id()).collect();
        for (n, delay) in [30u64, 10, 20, 15].into_iter().enumerate() {
            let target: Weak<dyn Expire> = Arc::downgrade(&(timers[n].clone() as Arc<dyn Expire>));
            service.arm(ids[n], now + delay * 1_000_000, target).unwrap();
        }
        service.disarm(ids[3]);
        let wait = Duration::from_secs(10);
        assert_eq!([0; 3].map(|_| rx.recv_timeout(wait).unwrap()), [1, 2, 0]);
        assert!(monotonic_ns() >= now + 30_000_000);
        assert!(rx.try_recv().is_err());
        assert!(service.shared.queue.lock().armed.is_empty());
    }

    #[test]
    fn a_dropped_timer_is_silent() {
        let service = TimerService::default();
        let (tx, rx) = mpsc::channel();
        let timer: Arc<dyn Expire> = Arc::new(Tell(tx, 1));
        service.arm(service.new_id(), monotonic_ns() + 1_000_000, Arc::downgrade(&timer)).unwrap();
        drop(timer);
        assert!(rx.recv_timeout(Duration::from_millis(20)).is_err());
    }

    proptest! {
        #[test]
        fn forwarding_lands_behind_now(
            deadline in 0u64..1 << 40, interval in 1u64..1 << 30, now in 0u64..1 << 41,
        ) {
            let (count, next) = forward(deadline, interval, now);
            prop_assert_eq!(next, deadline + count * interval);
            prop_assert!(next > now || (count == 0 && next == deadline));
            prop_assert!(count == 0 || next - interval <= now);
        }
    }
}
