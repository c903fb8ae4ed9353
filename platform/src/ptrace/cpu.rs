//! Which CPU a guest thread and its Sentry thread run on.
//!
//! A ptrace stop hands over to the tracer 10 to 20 times faster when both are on one CPU, and the
//! host's scheduler does not keep them there by itself. So each pair is pinned to one CPU, near its
//! creator at first. A balancer thread looks at the pairs every [`TICK`] while any is active:
//! * a guest thread that ran for a whole tick without a trap computes; it is let loose on all
//!   CPUs until its next trap, when one slow hand-over does not matter;
//! * if one CPU has two active pairs more than another for [`PATIENCE`] ticks, one moves over, on
//!   trial: whether two pairs compete for a CPU or hand work to each other (and are best left
//!   together) cannot be seen from outside, but how often the moved one traps before and after can.
//!   If it got slower it moves back, and the next trial is twice as far away.
//!
//! While nothing is active, or everything active was let loose, the balancer sleeps.
//!
//! Locks: `Cpus::slots` -> `Slot::affinity`; both are held for a system call at most.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::sys::Tid;
use crate::stub::affinity;

const TICK: Duration = Duration::from_millis(10);
const PATIENCE: u32 = 3;
/// Ticks from a failed trial to the next one, at first and at most.
const BACKOFF: (u32, u32) = (50, 6400);

/// The CPUs of this sandbox and the pairs on them.
pub(super) struct Cpus {
    cpus: Vec<usize>,
    slots: Mutex<Vec<Arc<Slot>>>,
    asleep: AtomicBool,
    wake_up: Condvar,
    started: AtomicBool,
    this: Weak<Cpus>,
}

/// A guest thread and its Sentry thread.
pub(super) struct Slot {
    stub: Tid,
    /// Odd while guest code may run; grows with each entry and exit.
    runs: AtomicU64,
    /// Where the pair is to be, as an index into `Cpus::cpus`.
    wanted: AtomicUsize,
    affinity: Mutex<Affinity>,
    /// Whether `affinity` must be looked at before the next run.
    moved: AtomicBool,
}

struct Affinity {
    /// Where the pair is pinned; `None` while the guest thread is let loose.
    at: Option<usize>,
}

impl Cpus {
    /// All CPUs that the caller may use.
    pub(super) fn new() -> Arc<Cpus> {
        Arc::new_cyclic(|this| Cpus {
            cpus: affinity::allowed().to_vec(),
            slots: Mutex::new(Vec::new()),
            asleep: AtomicBool::new(false),
            wake_up: Condvar::new(),
            started: AtomicBool::new(false),
            this: this.clone(),
        })
    }

    fn can_choose(&self) -> bool {
        self.cpus.len() > 1
    }

    /// Pins the calling thread near where it is, as the Sentry's half of a pair. Returns the
    /// place for [`Cpus::add`].
    pub(super) fn settle(&self) -> usize {
        if !self.can_choose() {
            return 0;
        }
        let here = affinity::here();
        let here = self.cpus.iter().position(|&cpu| cpu == here).unwrap_or(0);
        affinity::set(0, [self.cpus[here]]);
        here
    }

    /// Registers a pair whose halves are both pinned at `place`.
    pub(super) fn add(&self, stub: Tid, place: usize) -> Arc<Slot> {
        let slot = Arc::new(Slot {
            stub,
            runs: AtomicU64::new(0),
            wanted: AtomicUsize::new(place),
            affinity: Mutex::new(Affinity { at: Some(place) }),
            moved: AtomicBool::new(false),
        });
        if self.can_choose() {
            self.slots.lock().push(slot.clone());
            if !self.started.swap(true, Ordering::Relaxed) {
                self.start_balancer();
            }
        }
        slot
    }

    /// Forgets a pair. The calling thread stays where it is.
    pub(super) fn remove(&self, slot: &Arc<Slot>) {
        if !self.can_choose() {
            return;
        }
        let mut slots = self.slots.lock();
        slots.retain(|s| !Arc::ptr_eq(s, slot));
        if slots.is_empty() {
            // The balancer has nothing to live for.
            self.wake_locked();
        }
    }

    /// Lets the calling thread use all CPUs again.
    pub(super) fn unsettle(&self) {
        if self.can_choose() {
            affinity::set(0, self.cpus.iter().copied());
        }
    }

    /// To be called on the Sentry's half directly before guest code runs.
    pub(super) fn enter(&self, slot: &Slot) {
        if slot.moved.load(Ordering::Acquire) {
            self.pin(slot);
        }
        let runs = slot.runs.load(Ordering::Relaxed);
        slot.runs.store(runs + 1, Ordering::Relaxed);
        if self.asleep.load(Ordering::Relaxed) && self.can_choose() {
            self.wake();
        }
    }

    /// To be called when guest code has stopped.
    pub(super) fn leave(&self, slot: &Slot) {
        let runs = slot.runs.load(Ordering::Relaxed);
        slot.runs.store(runs + 1, Ordering::Relaxed);
    }

    #[cold]
    fn pin(&self, slot: &Slot) {
        let mut affinity = slot.affinity.lock();
        slot.moved.store(false, Ordering::Relaxed);
        let wanted = slot.wanted.load(Ordering::Relaxed);
        if affinity.at != Some(wanted) {
            affinity::set(slot.stub, [self.cpus[wanted]]);
            affinity::set(0, [self.cpus[wanted]]);
            affinity.at = Some(wanted);
        }
    }

    #[cold]
    fn wake(&self) {
        // Under the lock, so that the balancer is either before its last look or in its sleep.
        let _slots = self.slots.lock();
        self.wake_locked();
    }

    fn wake_locked(&self) {
        if self.asleep.swap(false, Ordering::Relaxed) {
            self.wake_up.notify_one();
        }
    }

    /// The balancer lives as long as `self`, or a little longer.
    fn start_balancer(&self) {
        let this = self.this.clone();
        let all = self.cpus.clone();
        let started = std::thread::Builder::new().name("balancer".into()).spawn(move || {
            affinity::set(0, all);
            let mut watch = Watch::default();
            while let Some(cpus) = this.upgrade() {
                {
                    let mut slots = cpus.slots.lock();
                    let active = watch.look(&cpus, &slots);
                    if !active && !slots.is_empty() {
                        cpus.asleep.store(true, Ordering::Relaxed);
                        cpus.wake_up.wait(&mut slots);
                    }
                    if slots.is_empty() {
                        // Let go of `cpus`; the next pair starts another balancer.
                        cpus.started.store(false, Ordering::Relaxed);
                        return;
                    }
                }
                drop(cpus);
                std::thread::sleep(TICK);
            }
        });
        if let Err(error) = started {
            tracing::warn!(%error, "no balancer thread: guest threads stay where they are");
        }
    }
}

impl Slot {
    /// Lets a guest thread loose that is still in the run that was seen. False if it is not.
    fn let_loose(&self, cpus: &Cpus, runs: u64) -> bool {
        let mut affinity = self.affinity.lock();
        if affinity.at.is_none() || self.runs.load(Ordering::Relaxed) != runs {
            return false;
        }
        affinity::set(self.stub, cpus.cpus.iter().copied());
        affinity.at = None;
        self.moved.store(true, Ordering::Release);
        true
    }
}

/// What the balancer saw so far.
#[derive(Default)]
struct Watch {
    /// By address of the slot.
    pairs: HashMap<usize, Pair>,
    /// For how many ticks some CPU has had too many pairs.
    uneven: u32,
    tick: u32,
}

/// What is known of a pair.
#[derive(Clone)]
struct Pair {
    /// `Slot::runs` at the last look.
    runs: u64,
    /// How much `runs` grew in the last [`PATIENCE`] ticks, one entry each.
    growth: [u64; PATIENCE as usize],
    trial: Option<Trial>,
    /// Not to be moved before this tick.
    next_trial: u32,
    backoff: u32,
}

/// A pair was moved to see whether that does it good.
#[derive(Clone)]
struct Trial {
    home: usize,
    end: u32,
    growth_before: u64,
}

impl Pair {
    fn new(runs: u64) -> Pair {
        let growth = [0; PATIENCE as usize];
        Pair { runs, growth, trial: None, next_trial: 0, backoff: BACKOFF.0 }
    }

    fn recent_growth(&self) -> u64 {
        self.growth.iter().sum()
    }

    /// Ends a trial whose time has come. Returns where the pair must go back to.
    fn judge(&mut self, tick: u32) -> Option<usize> {
        let trial = self.trial.take_if(|t| t.end == tick)?;
        // A fifth less is more than noise.
        if self.recent_growth() >= trial.growth_before / 5 * 4 {
            self.backoff = BACKOFF.0;
            return None;
        }
        self.next_trial = tick.wrapping_add(self.backoff);
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
        Some(trial.home)
    }
}

impl Slot {
    /// Has the pair move before its next run.
    fn send_to(&self, place: usize) {
        self.wanted.store(place, Ordering::Relaxed);
        self.moved.store(true, Ordering::Release);
    }
}

impl Watch {
    /// Looks at all pairs; acts on what changed since the last look. Returns whether any pinned
    /// pair was active.
    fn look(&mut self, cpus: &Cpus, slots: &[Arc<Slot>]) -> bool {
        self.tick = self.tick.wrapping_add(1);
        let tick = self.tick;
        let mut active: Vec<Vec<&Arc<Slot>>> = vec![Vec::new(); cpus.cpus.len()];
        let mut pairs = HashMap::with_capacity(slots.len());
        for slot in slots {
            let key = Arc::as_ptr(slot) as usize;
            let runs = slot.runs.load(Ordering::Relaxed);
            let known = self.pairs.remove(&key);
            let changed = known.as_ref().is_none_or(|p| p.runs != runs);
            let mut pair = known.unwrap_or_else(|| Pair::new(runs));
            pair.growth[tick as usize % PATIENCE as usize] = runs.saturating_sub(pair.runs);
            pair.runs = runs;
            if let Some(home) = pair.judge(tick) {
                slot.send_to(home);
            }
            pairs.insert(key, pair);
            let running = runs % 2 == 1;
            if running && !changed {
                slot.let_loose(cpus, runs);
            } else if running || changed {
                active[slot.wanted.load(Ordering::Relaxed)].push(slot);
            }
        }
        self.pairs = pairs;
        self.spread(&active);
        active.iter().any(|a| !a.is_empty())
    }

    fn spread(&mut self, active: &[Vec<&Arc<Slot>>]) {
        let most = (0..active.len()).max_by_key(|&i| active[i].len());
        let least = (0..active.len()).min_by_key(|&i| active[i].len());
        let (Some(most), Some(least)) = (most, least) else { return };
        if active[most].len() < active[least].len() + 2 {
            self.uneven = 0;
            return;
        }
        self.uneven += 1;
        if self.uneven < PATIENCE {
            return;
        }
        self.uneven = 0;
        for slot in active[most].iter().rev() {
            let Some(pair) = self.pairs.get_mut(&(Arc::as_ptr(slot) as usize)) else { continue };
            if pair.trial.is_some() || (pair.next_trial.wrapping_sub(self.tick) as i32) > 0 {
                continue;
            }
            // One tick to get there.
            let end = self.tick.wrapping_add(PATIENCE + 1);
            pair.trial = Some(Trial { home: most, end, growth_before: pair.recent_growth() });
            slot.send_to(least);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(count: usize) -> Cpus {
        // Real CPUs, so that affinity calls on the tests' own threads change nothing.
        let all = Cpus::new().cpus.clone();
        Cpus {
            cpus: (0..count).map(|i| all[i % all.len()]).collect(),
            slots: Mutex::default(),
            asleep: AtomicBool::new(false),
            wake_up: Condvar::new(),
            started: AtomicBool::new(true),
            this: Weak::new(),
        }
    }

    fn run(slot: &Slot, times: u64) {
        slot.runs.fetch_add(2 * times, Ordering::Relaxed);
    }

    fn places(slots: &[Arc<Slot>]) -> Vec<usize> {
        slots.iter().map(|s| s.wanted.load(Ordering::Relaxed)).collect()
    }

    #[test]
    fn what_computes_is_let_loose_and_what_sleeps_is_left_alone() {
        let cpus = cpus(2);
        let slots = [cpus.add(0, 0), cpus.add(0, 1)];
        let mut watch = Watch::default();
        assert!(watch.look(&cpus, &slots), "new ones count as active");
        assert!(!watch.look(&cpus, &slots), "nothing runs: the balancer sleeps");
        slots[0].runs.store(1, Ordering::Relaxed);
        assert!(watch.look(&cpus, &slots));
        assert!(!watch.look(&cpus, &slots), "nothing left to do for the one that computes");
        assert!(slots[0].affinity.lock().at.is_none());
        assert!(slots[0].moved.load(Ordering::Relaxed));
        // It comes back and is pinned again before its next run.
        cpus.leave(&slots[0]);
        cpus.enter(&slots[0]);
        assert_eq!(slots[0].affinity.lock().at, Some(0));
        assert_eq!(slots[1].affinity.lock().at, Some(1));
        cpus.unsettle();
    }

    #[test]
    fn a_crowd_is_spread_after_a_while() {
        let cpus = cpus(2);
        let slots = [cpus.add(0, 0), cpus.add(0, 0), cpus.add(0, 0), cpus.add(0, 0)];
        let mut watch = Watch::default();
        for _ in 0..PATIENCE - 1 {
            slots.iter().for_each(|s| run(s, 10));
            watch.look(&cpus, &slots);
        }
        assert_eq!(places(&slots), [0; 4]);
        for _ in 0..8 * PATIENCE {
            slots.iter().for_each(|s| run(s, 10));
            watch.look(&cpus, &slots);
        }
        assert_eq!(places(&slots).iter().sum::<usize>(), 2, "half of them, and no further");
    }

    #[test]
    fn those_who_work_together_are_left_together() {
        let cpus = cpus(2);
        let slots = [cpus.add(0, 0), cpus.add(0, 0)];
        let mut watch = Watch::default();
        let mut apart = 0;
        for _ in 0..1000 {
            let together = places(&slots) == [0, 0];
            apart += u32::from(!together);
            slots.iter().for_each(|s| run(s, if together { 100 } else { 20 }));
            watch.look(&cpus, &slots);
        }
        assert!((1..60).contains(&apart), "tried for {apart} of 1000 ticks");
    }

    #[test]
    fn the_balancer_ends_with_the_last_pair() {
        let cpus = Cpus::new();
        if !cpus.can_choose() {
            return;
        }
        let weak = Arc::downgrade(&cpus);
        let slot = cpus.add(0, 0);
        cpus.enter(&slot);
        cpus.leave(&slot);
        cpus.remove(&slot);
        drop(cpus);
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while weak.upgrade().is_some() {
            assert!(std::time::Instant::now() < deadline, "the balancer keeps the CPUs alive");
            std::thread::sleep(TICK);
        }
    }
}
