//! Where the two ends of a connection run.
//!
//! The host's scheduler likes to wake a thread on a CPU that idles, and that takes several times as
//! long as most answers do (in a virtual machine 20 to 50 µs, for the server and then again for the
//! client). So a client that waits can stay on its CPU and say which one it is, and the server's
//! thread follows it there: a round trip is then two switches on one CPU. Where other programs keep
//! the CPUs busy that is worse than leaving both alone, so [`Choice`] measures which is better.

use std::mem::size_of_val;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A CPU's number plus one; 0: unsaid.
pub(crate) type Hint = u32;

/// Largest hint.
pub(crate) const MAX_HINT: Hint = libc::CPU_SETSIZE as u32;

/// CPUs that a thread may use.
#[derive(Clone, Copy)]
pub(crate) struct CpuSet(libc::cpu_set_t);

impl CpuSet {
    /// Those of the calling thread. Empty if the host does not say.
    pub(crate) fn own() -> CpuSet {
        // SAFETY: all-zero is an empty set; the call writes at most the size that it is given.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            if libc::sched_getaffinity(0, size_of_val(&set), &mut set) < 0 {
                set = std::mem::zeroed();
            }
            CpuSet(set)
        }
    }

    fn one(cpu: usize) -> CpuSet {
        // SAFETY: all-zero is an empty set; CPU_SET ignores numbers that do not fit.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(cpu, &mut set);
            CpuSet(set)
        }
    }

    fn contains(&self, cpu: usize) -> bool {
        // SAFETY: only numbers that fit are looked up.
        cpu < libc::CPU_SETSIZE as usize && unsafe { libc::CPU_ISSET(cpu, &self.0) }
    }

    fn is_choice(&self) -> bool {
        // SAFETY: only reads the set.
        unsafe { libc::CPU_COUNT(&self.0) > 1 }
    }

    /// Restricts the calling thread. Failure only costs time.
    fn apply(&self) {
        // SAFETY: the call reads as many bytes as it is given.
        unsafe { libc::sched_setaffinity(0, size_of_val(&self.0), &self.0) };
    }
}

/// Keeps the calling thread on its CPU until this is dropped.
pub(crate) struct Stay {
    cpu: Option<usize>,
    before: Option<CpuSet>,
}

impl Stay {
    /// Stays where the thread is now.
    pub(crate) fn here() -> Stay {
        // SAFETY: only returns a number.
        let cpu = usize::try_from(unsafe { libc::sched_getcpu() }).ok();
        let before = CpuSet::own();
        let Some(cpu) = cpu.filter(|_| before.is_choice()) else {
            // There is no choice, or its owner has made it.
            return Stay { cpu, before: None };
        };
        CpuSet::one(cpu).apply();
        Stay { cpu: Some(cpu), before: Some(before) }
    }

    /// What to tell the server.
    pub(crate) fn hint(&self) -> Hint {
        let hint = self.cpu.and_then(|cpu| Hint::try_from(cpu + 1).ok()).unwrap_or(0);
        if hint <= MAX_HINT { hint } else { 0 }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            before.apply();
        }
    }
}

/// Whether the two ends are better off on one CPU: what round trips took lately, together and apart.
#[derive(Debug, Default)]
pub(crate) struct Choice {
    calls: AtomicU64,
    /// Nanoseconds, averaged over about the last four calls: apart, together.
    took: [AtomicU64; 2],
}

/// Every so many calls the other way is tried ...
const PERIOD: u64 = 128;
/// ... for so many.
const TRIAL: u64 = 8;
/// What a call counts as at most: a slow disk says nothing about CPUs.
const LONGEST: Duration = Duration::from_micros(250);

impl Choice {
    /// How the next call is to be made.
    pub(crate) fn together(&self) -> bool {
        let [apart, together] = &self.took;
        let better = together.load(Relaxed) <= apart.load(Relaxed);
        let trial = self.calls.fetch_add(1, Relaxed) % PERIOD >= PERIOD - TRIAL;
        better != trial
    }

    /// Notes how long a call took.
    pub(crate) fn note(&self, together: bool, took: Duration) {
        let [apart, one] = &self.took;
        let average = if together { one } else { apart };
        let took = took.min(LONGEST).as_nanos() as u64;
        let before = average.load(Relaxed);
        // Threads that race here lose a figure, no more.
        average.store(if before == 0 { took } else { (3 * before + took) / 4 }, Relaxed);
    }
}

/// Moves a server's thread to its clients, within the CPUs that the process was given.
pub(crate) struct Follower {
    allowed: CpuSet,
    at: Hint,
    last: Hint,
}

impl Follower {
    /// For the calling thread.
    pub(crate) fn new(allowed: CpuSet) -> Follower {
        Follower { allowed, at: 0, last: 0 }
    }

    /// Goes where two requests in a row came from, or anywhere if they did not say. One is not enough:
    /// clients that take turns on several CPUs would make it move all the time.
    pub(crate) fn follow(&mut self, hint: Hint) {
        let settled = hint == std::mem::replace(&mut self.last, hint);
        if !settled || hint == self.at || !self.allowed.is_choice() {
            return;
        }
        match (hint as usize).checked_sub(1) {
            None => self.allowed.apply(),
            Some(cpu) if self.allowed.contains(cpu) => CpuSet::one(cpu).apply(),
            Some(_) => return,
        }
        self.at = hint;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(set: &CpuSet) -> Vec<usize> {
        (0..MAX_HINT as usize).filter(|c| set.contains(*c)).collect()
    }

    #[test]
    fn who_stays_goes_free_again() {
        let before = list(&CpuSet::own());
        let stay = Stay::here();
        if before.len() > 1 {
            assert_eq!(list(&CpuSet::own()), [stay.hint() as usize - 1]);
        }
        drop(stay);
        assert_eq!(list(&CpuSet::own()), before);
    }

    #[test]
    fn followers_move_at_the_second_call_and_only_where_they_may() {
        let own = list(&CpuSet::own());
        let (Some(&first), Some(&last)) = (own.first(), own.last()) else { return };
        if first == last {
            return;
        }
        let mut f = Follower::new(CpuSet::own());
        f.follow(last as u32 + 1);
        assert_eq!(list(&CpuSet::own()), own);
        f.follow(last as u32 + 1);
        assert_eq!(list(&CpuSet::own()), [last]);
        for hint in [0, MAX_HINT, MAX_HINT, first as u32 + 1, last as u32 + 1, 0] {
            f.follow(hint);
            assert_eq!(list(&CpuSet::own()), [last]);
        }
        f.follow(0);
        assert_eq!(list(&CpuSet::own()), own);
        f.follow(first as u32 + 1);
        f.follow(first as u32 + 1);
        assert_eq!(list(&CpuSet::own()), [first]);
    }

    #[test]
    fn the_quicker_way_is_taken_and_the_other_one_tried() {
        for quicker in [false, true] {
            let choice = Choice::default();
            let mut taken = 0;
            for _ in 0..10 * PERIOD {
                let together = choice.together();
                taken += u64::from(together == quicker);
                let took = if together == quicker { 10 } else { 50 };
                choice.note(together, Duration::from_micros(took));
            }
            let others = 10 * PERIOD - taken;
            assert!((10 * TRIAL..=10 * TRIAL + 1).contains(&others), "{others}");
        }
    }

    #[test]
    fn what_changes_is_noticed() {
        let choice = Choice::default();
        let run = |fast: bool| {
            let mut taken = 0;
            for _ in 0..4 * PERIOD {
                let together = choice.together();
                taken += u64::from(together == fast);
                choice
                    .note(together, Duration::from_micros(if together == fast { 10 } else { 90 }));
            }
            taken
        };
        assert!(run(true) > 3 * PERIOD);
        assert!(run(false) > 2 * PERIOD);
    }
}
