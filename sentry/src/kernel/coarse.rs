//! The coarse clock of `--clock=coarse`: time in steps of a millisecond that begin at moments which
//! nobody can foretell.
//!
//! In each millisecond of the host's clock there is one step, at a point that a keyed hash of the
//! millisecond's number chooses. What is shown is the number of the last step, so it never is ahead
//! of the host's clock, is less than two milliseconds behind it, never goes back, and is the same
//! for all threads. Who counts loops between steps, to tell what is shorter than one, learns how
//! much the steps are scattered.
//!
//! There is one such clock, `CLOCK_MONOTONIC`; the others differ from it by whole milliseconds, so
//! that all step at once. Sleeps and timers end with a step. Processor time that is shown goes
//! through the same hash, by its own count.
//!
//! Lock order: `Coarse::state` is a leaf.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

use parking_lot::Mutex;

use super::time::host_ns;

/// Length of a step.
pub const STEP_NS: u64 = 1_000_000;

/// Set where time is coarse.
static COARSE: OnceLock<Coarse> = OnceLock::new();

/// Makes time coarse, for good. To be called before anything is asked for the time.
pub fn enable() {
    COARSE.get_or_init(Coarse::new);
}

/// The coarse clock, where there is one.
pub fn clock() -> Option<&'static Coarse> {
    COARSE.get()
}

/// When steps begin.
struct Steps {
    key: RandomState,
}

impl Steps {
    /// How far in the millisecond number `n` the step is.
    fn offset(&self, n: u64) -> u64 {
        self.key.hash_one(n) % STEP_NS
    }

    /// The number of the last step at `t`.
    fn at(&self, t: u64) -> u64 {
        let n = t / STEP_NS;
        if t % STEP_NS >= self.offset(n) { n } else { n.saturating_sub(1) }
    }

    /// The moment of a step.
    fn moment(&self, n: u64) -> u64 {
        n.saturating_mul(STEP_NS).saturating_add(self.offset(n))
    }
}

/// See the module.
pub struct Coarse {
    steps: Steps,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The last step that anybody saw.
    step: u64,
    /// How far other clocks are from this one.
    others: Vec<Other>,
}

/// What another clock shows.
struct Other {
    clock: libc::clockid_t,
    /// At which step it was looked at last.
    step: u64,
    /// Milliseconds to be added.
    distance: i64,
}

impl Other {
    /// The clock is `exact` nanoseconds ahead at `step`.
    fn update(&mut self, step: u64, exact: i64) {
        let step_ns = STEP_NS as i64;
        let off = exact.saturating_sub(self.distance.saturating_mul(step_ns));
        // What differs by less comes of looking at two clocks one after the other.
        if off >= step_ns || off <= -step_ns {
            self.distance = exact.div_euclid(step_ns);
        }
        self.step = step;
    }
}

impl Coarse {
    fn new() -> Coarse {
        Coarse { steps: Steps { key: RandomState::new() }, state: Mutex::default() }
    }

    /// Nanoseconds of a clock, in whole milliseconds. Clocks that are not about the time of day or
    /// since the boot are the host's.
    pub fn read(&self, clock: libc::clockid_t) -> u64 {
        let clock = match clock {
            libc::CLOCK_MONOTONIC_COARSE => libc::CLOCK_MONOTONIC,
            libc::CLOCK_REALTIME_COARSE | libc::CLOCK_REALTIME_ALARM => libc::CLOCK_REALTIME,
            libc::CLOCK_BOOTTIME_ALARM => libc::CLOCK_BOOTTIME,
            libc::CLOCK_MONOTONIC
            | libc::CLOCK_REALTIME
            | libc::CLOCK_BOOTTIME
            | libc::CLOCK_TAI
            | libc::CLOCK_MONOTONIC_RAW => clock,
            other => return host_ns(other),
        };
        let mut state = self.state.lock();
        let now = host_ns(libc::CLOCK_MONOTONIC);
        let step = self.steps.at(now).max(state.step);
        state.step = step;
        if clock == libc::CLOCK_MONOTONIC {
            return step.saturating_mul(STEP_NS);
        }
        let exact = || (host_ns(clock) as i64).saturating_sub(now as i64);
        let other = match state.others.iter_mut().position(|other| other.clock == clock) {
            Some(at) => state.others.get_mut(at),
            None => {
                let distance = exact().div_euclid(STEP_NS as i64);
                state.others.push(Other { clock, step, distance });
                state.others.last_mut()
            }
        };
        let Some(other) = other else { return 0 };
        if other.step != step {
            other.update(step, exact());
        }
        step.saturating_add_signed(other.distance).saturating_mul(STEP_NS)
    }

    /// How long until the clock shows `at` or more, in nanoseconds.
    pub fn until(&self, at: u64) -> u64 {
        let moment = self.steps.moment(at.div_ceil(STEP_NS));
        moment.saturating_sub(host_ns(libc::CLOCK_MONOTONIC))
    }

    /// What is shown of an amount of time that grows.
    pub fn shown(&self, ns: u64) -> u64 {
        self.steps.at(ns) * STEP_NS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn steps_are_in_order_and_never_ahead(start in 0..u64::MAX / 4, gaps in proptest::collection::vec(0..STEP_NS / 2, 100)) {
            let steps = Steps { key: RandomState::new() };
            let (mut now, mut last) = (start, 0);
            for gap in gaps {
                now += gap;
                let step = steps.at(now);
                prop_assert!(step >= last && step * STEP_NS <= now);
                prop_assert!(now - step * STEP_NS < 2 * STEP_NS || step == 0);
                // Who waits for a step sees it then, and not before.
                let next = steps.moment(step + 1);
                prop_assert!(next > now);
                prop_assert_eq!(steps.at(next - 1), step);
                prop_assert_eq!(steps.at(next), step + 1);
                last = step;
            }
        }
    }

    #[test]
    fn steps_are_scattered() {
        let steps = Steps { key: RandomState::new() };
        let mut tenths = [0; 10];
        for n in 0..10_000 {
            tenths[(steps.offset(n) * 10 / STEP_NS) as usize] += 1;
        }
        assert!(tenths.iter().all(|&count| (800..1200).contains(&count)), "{tenths:?}");
    }

    #[test]
    fn all_clocks_step_together_and_agree_with_the_hosts() {
        let coarse = Coarse::new();
        let clocks = [libc::CLOCK_REALTIME, libc::CLOCK_BOOTTIME, libc::CLOCK_TAI];
        let start = coarse.read(libc::CLOCK_MONOTONIC);
        while coarse.read(libc::CLOCK_MONOTONIC) < start + 50 * STEP_NS {
            for clock in clocks {
                let shown = coarse.read(clock);
                let host = host_ns(clock);
                assert_eq!(shown % STEP_NS, 0);
                assert!(shown <= host && host - shown < 20 * STEP_NS, "{clock}: {shown} {host}");
            }
        }
        let at = coarse.read(libc::CLOCK_MONOTONIC) + 3_300_000;
        std::thread::sleep(std::time::Duration::from_nanos(coarse.until(at)));
        assert!(coarse.read(libc::CLOCK_MONOTONIC) >= at);
    }

    #[test]
    fn a_clock_that_is_slewed_does_not_go_back() {
        let mut other = Other { clock: libc::CLOCK_REALTIME, step: 0, distance: 100 };
        let mut last = 0;
        for step in 1..2000u64 {
            // Half a part in a thousand too fast, and set right.
            other.update(step, 100 * STEP_NS as i64 + 999_999 - step as i64 * 500);
            let shown = step as i64 + other.distance;
            assert!(shown >= last);
            last = shown;
        }
        other.update(2000, -5 * STEP_NS as i64);
        assert_eq!(other.distance, -5, "who sets the clock sees it set");
    }
}
