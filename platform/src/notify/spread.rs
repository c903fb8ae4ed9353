//! On which CPUs guest threads run.
//!
//! A doorbell wakes the Sentry's thread where it is rung, and its answer the guest's, so a pair of
//! threads stays on its CPU. The host may leave two busy pairs on one CPU beside an idle one for
//! seconds. So it is counted how many guests run on each, and one that has shared its CPU for many
//! answers in a row while another had none goes there, with the Sentry's thread: that may still count as
//! runnable for the host when the guest rings the next time (delayed dequeue, since Linux 6.12), and is
//! woken where it is then, not where the bell is, to bring the guest back. Both are bound until the guest
//! comes again only.
//!
//! Guests of who was [brought](crate::place) somewhere are to share a CPU. They do not count before they
//! have stayed for longer than they should.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::place;
use crate::stub::affinity;
use crate::stub::sys::{self, Tid};

/// Answers in a row for which a guest must have shared its CPU: at first, and at most. It takes twice
/// as many after each move, and one less after each answer where nothing was shared.
const SHARED: (u32, u32) = (8, 16);

/// How many guests run on each CPU that this process may use, as far as is known.
pub(super) struct Spread {
    cpus: &'static [usize],
    guests: Box<[AtomicUsize]>,
}

impl Spread {
    pub(super) fn new() -> Spread {
        let cpus = affinity::allowed();
        Spread { cpus, guests: cpus.iter().map(|_| AtomicUsize::new(0)).collect() }
    }

    fn index(&self, cpu: usize) -> Option<usize> {
        self.cpus.iter().position(|&own| own == cpu)
    }

    fn guests(&self, cpu: usize) -> Option<&AtomicUsize> {
        self.index(cpu).and_then(|index| self.guests.get(index))
    }

    /// A guest runs on `cpu`. Returns how many others do.
    fn enter(&self, cpu: usize) -> usize {
        let guests = self.guests(cpu).map_or(0, |guests| guests.fetch_add(1, Ordering::Relaxed));
        guests + place::stayed(cpu)
    }

    /// How many guests run whose threads were brought somewhere, and have stayed.
    pub(super) fn stayed(&self) -> usize {
        self.cpus.iter().map(|&cpu| place::stayed(cpu)).sum()
    }

    fn leave(&self, cpu: usize) {
        if let Some(guests) = self.guests(cpu) {
            guests.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A CPU on which no guest runs, the first one after `cpu`.
    fn free(&self, cpu: usize) -> Option<usize> {
        let after = self.index(cpu)? + 1;
        let others = (after..self.cpus.len()).chain(0..after.saturating_sub(1));
        let mut cpus = others.filter_map(|i| Some((*self.cpus.get(i)?, self.guests.get(i)?)));
        let is_free = |&(cpu, guests): &(usize, &AtomicUsize)| {
            guests.load(Ordering::Relaxed) == 0 && place::stayed(cpu) == 0
        };
        cpus.find(is_free).map(|(cpu, _)| cpu)
    }

    /// The CPU for the other half of a pair that is on `cpu`: a free one if there is one.
    pub(super) fn beside(&self, cpu: usize) -> Option<usize> {
        let next = || self.cpus.get((self.index(cpu)? + 1) % self.cpus.len()).copied();
        self.free(cpu).or_else(next).filter(|&other| other != cpu)
    }
}

/// Where one guest runs.
pub(super) struct Seat {
    spread: Arc<Spread>,
    /// The CPUs that it takes.
    taken: [Option<usize>; 2],
    /// Answers in a row for which it shared one while another was free, and how many it takes.
    shared: u32,
    price: u32,
    /// The Sentry's thread and the guest's, while they are bound to the CPU that they were moved to.
    bound: [Tid; 2],
}

impl Seat {
    pub(super) fn new(spread: Arc<Spread>) -> Seat {
        Seat { spread, taken: [None; 2], shared: 0, price: SHARED.0, bound: [0; 2] }
    }

    /// The guest thread, which sleeps, is about to go on, where the caller is unless it is moved.
    pub(super) fn enter(&mut self, guest: Tid) {
        self.leave();
        if place::is_brought() || self.spread.cpus.len() < 2 {
            return;
        }
        let mut here = affinity::here();
        let others = self.spread.enter(here);
        let free = if others > 0 { self.spread.free(here) } else { None };
        let Some(free) = free else {
            (self.shared, self.price) = (0, self.price.saturating_sub(1).max(SHARED.0));
            self.taken = [Some(here), None];
            return;
        };
        self.shared += 1;
        if self.shared >= self.price {
            (self.shared, self.price) = (0, (self.price * 2).min(SHARED.1));
            self.bound = [sys::gettid(), guest];
            for tid in self.bound {
                affinity::set(tid, [free]);
            }
            self.spread.leave(here);
            self.spread.enter(free);
            here = free;
        }
        self.taken = [Some(here), None];
    }

    /// The pair takes both of these until it is said that it does not.
    pub(super) fn enter_both(&mut self, here: usize, there: usize) {
        self.leave();
        self.taken = [Some(here), Some(there)];
        for cpu in [here, there] {
            self.spread.enter(cpu);
        }
    }

    /// The guest thread does not run any more.
    pub(super) fn leave(&mut self) {
        for cpu in self.taken.iter_mut().filter_map(Option::take) {
            self.spread.leave(cpu);
        }
        for tid in std::mem::take(&mut self.bound).into_iter().filter(|&tid| tid != 0) {
            affinity::run_anywhere(tid);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(cpus: &'static [usize]) -> Arc<Spread> {
        Arc::new(Spread { cpus, guests: cpus.iter().map(|_| AtomicUsize::new(0)).collect() })
    }

    #[test]
    fn the_next_free_cpu_is_beside() {
        let spread = spread(&[1, 3, 7]);
        assert_eq!(
            (spread.beside(1), spread.beside(3), spread.beside(7)),
            (Some(3), Some(7), Some(1))
        );
        assert_eq!(spread.enter(3), 0);
        assert_eq!(spread.enter(3), 1);
        assert_eq!((spread.free(1), spread.beside(1)), (Some(7), Some(7)));
        spread.enter(7);
        // All others are taken: the next one then.
        assert_eq!((spread.free(1), spread.beside(1)), (None, Some(3)));
        assert_eq!(spread.free(3), Some(1));
        // A CPU that this process should not have.
        assert_eq!((spread.enter(2), spread.free(2), spread.beside(2)), (0, None, None));
        spread.leave(3);
        spread.leave(3);
        assert_eq!(spread.free(1), Some(3));
    }

    #[test]
    fn one_cpu_has_nothing_beside() {
        let spread = spread(&[0]);
        assert_eq!((spread.free(0), spread.beside(0)), (None, None));
    }

    #[test]
    fn who_shares_a_cpu_for_long_goes_to_a_free_one() {
        let [here, there, ..] = *affinity::allowed() else { return };
        let spread = Arc::new(Spread::new());
        let guest = sys::gettid();
        affinity::set(guest, [here]);
        let [mut one, mut two] = [(); 2].map(|()| Seat::new(spread.clone()));
        one.enter(guest);
        for _ in 1..SHARED.0 {
            two.enter(guest);
            two.leave();
        }
        assert_eq!((two.bound, affinity::here()), ([0; 2], here));
        two.enter(guest);
        assert_eq!((two.bound, affinity::here()), ([guest; 2], there));
        assert_eq!(two.taken, [Some(there), None]);
        drop(two);
        assert_eq!(spread.free(here), Some(there));

        // Where no CPU is free, nobody goes anywhere.
        affinity::set(guest, [here]);
        let rest: Vec<_> =
            affinity::allowed().iter().map(|&cpu| (spread.enter(cpu), cpu)).collect();
        let mut two = Seat::new(spread.clone());
        for _ in 0..2 * SHARED.0 {
            two.enter(guest);
        }
        assert_eq!((two.bound, affinity::here()), ([0; 2], here));
        rest.iter().for_each(|&(_, cpu)| spread.leave(cpu));
        drop((one, two));
        assert!(spread.guests.iter().all(|guests| guests.load(Ordering::Relaxed) == 0));
        affinity::run_anywhere(0);
    }
}
