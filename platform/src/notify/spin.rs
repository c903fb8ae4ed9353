//! When a Sentry thread and its guest thread wait for each other by looking instead of sleeping.
//!
//! A hand-over between two CPUs by shared memory takes a fraction of a microsecond, one by doorbell
//! several; but who looks needs a CPU. So looking is earned: a pair begins to when by far the most
//! requests came and were answered within [`WINDOW`], while a CPU is to spare, and stops as soon as
//! either side has looked in vain for that long, or for a few times that where it has looked with
//! success before. Each pair keeps a balance of what looking saved and what it cost, in time. How many
//! requests it takes doubles when that is negative at the end, and halves when it is not. It costs most
//! where the host has given the CPU to somebody else meanwhile: who looks uses up a share that a sleeper
//! would have had left when it was woken.
//!
//! A doorbell leaves both threads on one CPU. To begin, the guest's, which sleeps, is bound to
//! another one, and this one to where it is, for as long as the pair looks. Whom it wakes meanwhile and
//! who needs a moment only is [brought](crate::place) here, and let in.

use std::arch::x86_64::_rdtsc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::spread::{Seat, Spread};
use crate::load;
use crate::place;
use crate::stub::affinity;
use crate::stub::sys::{self, Tid};

/// How long either side looks: some doorbells long, for a machine that is not quite idle.
const WINDOW: Duration = Duration::from_micros(20);
/// Quick requests that earn it: at first, at least, at most.
const EARNED: (u32, u32, u32) = (48, 16, 1 << 12);
/// Quick requests that earn it at least where others want all CPUs, and once the host took one away from
/// who looked; and at most.
const CONTENDED: (u32, u32) = (512, 1 << 14);
/// Windows that a successful pair may look in vain: neither a tick of the host's nor a question to
/// the gofer is its end.
const PATIENT: u64 = 5;
/// Quick requests that a guest outweighs which computes for longer than a window, but not for longer
/// than a successful pair would look. An answer may take that long. What takes even longer outweighs
/// [`CREDIT`].
const SLOW: u32 = 2;
/// Windows that a late answer may take after which both go on looking, if that was worth it so far.
const FORGIVEN: u64 = 50;
/// Quick requests that such an answer outweighs.
const CREDIT: u32 = 8;
/// Windows that it costs: the guest is asleep, on another CPU.
const LATE: i64 = 3;
/// Windows that the guest may take to wake up on another CPU and ask for something.
const WAKING: u64 = 50;
/// Windows that beginning costs.
const BEGINNING: i64 = 5;
/// Requests found by looking that save a window.
const SAVING: i64 = 4;
/// Windows that a balance is at most, and at least: what happened long ago says little.
const BALANCE: i64 = 128;

/// Requests for which a pair does not begin to look whose guest waited for others on a host that has no
/// CPU to spare: they would wait for the one that it takes.
const HELD: u32 = 256;

/// What all pairs of a sandbox share.
pub(super) struct Spins {
    /// How many CPUs this sandbox may use.
    cpus: usize,
    spread: Arc<Spread>,
    window: u64,
    /// How often a guest thread looks in a window.
    patience: u32,
    /// Guest threads that may be running guest code, but for those of pairs that look.
    running: AtomicUsize,
    /// The pairs that look: when each was last seen to do something, 0 for none. Who is not seen for
    /// long is blocked, and its place is free.
    looking: Box<[AtomicU64]>,
    /// Quick requests that earn looking at least, while others on this host want its CPUs: what one
    /// pair learnt of that, the next one need not pay for.
    contended: AtomicU32,
    /// Processor cycles that Sentry threads looked in vain.
    wasted: AtomicU64,
    /// Requests that were found by looking.
    found: AtomicU64,
    /// Requests that were not.
    rung: AtomicU64,
    /// How often a pair began to look.
    begun: AtomicU64,
    /// How often it had earned to, but no CPU was to spare.
    refused: AtomicU64,
}

fn now() -> u64 {
    // SAFETY: the instruction exists on every x86-64.
    unsafe { _rdtsc() }
}

impl Spins {
    /// Measures this machine, for some 50 microseconds.
    pub(super) fn new() -> Arc<Spins> {
        const LOOKS: u64 = 500;
        let (start, start_cycles) = (Instant::now(), now());
        for _ in 0..LOOKS {
            std::hint::spin_loop();
        }
        let per_look = ((now() - start_cycles) / LOOKS).max(1);
        while start.elapsed() < Duration::from_micros(50) {
            std::hint::spin_loop();
        }
        let (cycles, time) = (now() - start_cycles, start.elapsed());
        let in_cycles =
            |d: Duration| (u128::from(cycles) * d.as_nanos() / time.as_nanos().max(1)) as u64;
        let cpus = affinity::allowed();
        // Each takes two CPUs.
        let looking = (0..cpus.len() / 2).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Spins {
            cpus: cpus.len(),
            spread: Arc::new(Spread::new()),
            window: in_cycles(WINDOW),
            patience: (in_cycles(WINDOW) / per_look).clamp(1, 1 << 16) as u32,
            running: AtomicUsize::new(0),
            looking,
            contended: AtomicU32::new(0),
            wasted: AtomicU64::new(0),
            found: AtomicU64::new(0),
            rung: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// What was counted.
    pub(super) fn counters(&self) -> Vec<(&'static str, u64)> {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let per_us = (self.window / WINDOW.as_micros() as u64).max(1);
        vec![
            ("requests found by looking", get(&self.found)),
            ("requests by doorbell", get(&self.rung)),
            ("times looking began", get(&self.begun)),
            ("times no CPU was to spare for looking", get(&self.refused)),
            ("microseconds looked in vain", get(&self.wasted) / per_us),
        ]
    }

    /// Whether the pair seen at `seen` does something still.
    fn is_awake(&self, seen: u64, now: u64) -> bool {
        seen != 0 && now.wrapping_sub(seen) < self.window * PATIENT
    }

    /// Whether there are CPUs for all who run and look, and so many more.
    fn has_room(&self, more: usize) -> bool {
        let now = now();
        let seen = self.looking.iter().map(|place| place.load(Ordering::Relaxed));
        let looking = seen.filter(|&seen| self.is_awake(seen, now)).count();
        let running = self.running.load(Ordering::Relaxed) + self.spread.stayed();
        // Both threads of each pair want one.
        running + 2 * looking + more <= self.cpus
    }

    /// A place among those who look, if a CPU is to spare.
    fn begin(&self) -> Option<usize> {
        let now = now();
        let place = self.has_room(1).then(|| {
            self.looking.iter().position(|place| {
                let seen = place.load(Ordering::Relaxed);
                let (set, get) = (Ordering::Relaxed, Ordering::Relaxed);
                !self.is_awake(seen, now) && place.compare_exchange(seen, now, set, get).is_ok()
            })
        });
        let counter = if place.flatten().is_some() { &self.begun } else { &self.refused };
        counter.fetch_add(1, Ordering::Relaxed);
        place.flatten()
    }

    /// A pair lost its CPU to others while it looked, or looking was worth it.
    fn contend(&self, lost: bool) {
        let was = self.contended.load(Ordering::Relaxed);
        let price = match lost {
            true => was.saturating_mul(2).clamp(CONTENDED.0, CONTENDED.1),
            false if was <= CONTENDED.0 => 0,
            false => was / 2,
        };
        self.contended.store(price, Ordering::Relaxed);
    }
}

/// One pair's.
pub(super) struct Spinner {
    spins: Arc<Spins>,
    /// Its place in [`Spins::looking`], while the pair looks.
    place: Option<usize>,
    /// The threads that are bound to a CPU each while the pair looks: the guest's and the Sentry's.
    bound: [Tid; 2],
    /// That of the Sentry's.
    here: usize,
    seat: Seat,
    /// Quick requests, less what slow ones outweigh, while the pair does not look.
    streak: u32,
    /// Requests before it begins again.
    held: u32,
    /// Requests since it looks.
    hits: u32,
    /// Cycles that looking has saved, less those that it cost.
    balance: i64,
    /// The host gave its CPU to others while it looked.
    robbed: bool,
    /// It looked no longer because others needed the CPU.
    crowded: bool,
    /// How many earn looking.
    price: u32,
    /// Guest code may be running, which needs a CPU.
    runs: bool,
    /// It is among [`Spins::running`].
    counts: bool,
    /// When the last request came, and when it was answered.
    asked: u64,
    replied: u64,
}

impl Spinner {
    pub(super) fn new(spins: Arc<Spins>) -> Spinner {
        Spinner {
            seat: Seat::new(spins.spread.clone()),
            spins,
            place: None,
            bound: [0; 2],
            here: 0,
            streak: 0,
            held: 0,
            hits: 0,
            balance: 0,
            robbed: false,
            crowded: false,
            price: EARNED.0,
            runs: false,
            counts: false,
            asked: 0,
            replied: 0,
        }
    }

    /// Whether the pair looks. If not, whoever waits sleeps.
    pub(super) fn is_looking(&self) -> bool {
        self.place.is_some()
    }

    /// Guest code may begin to run, or does not run any more. Who was brought to somebody's CPU needs
    /// none of its own.
    pub(super) fn set_running(&mut self, runs: bool) {
        self.runs = runs && !place::is_brought();
        self.count();
    }

    /// The pair does something, or (0) looks no more.
    fn seen(&self, when: u64) {
        if let Some(place) = self.place.and_then(|place| self.spins.looking.get(place)) {
            place.store(when, Ordering::Relaxed);
        }
    }

    fn count(&mut self) {
        let counts = self.runs && self.place.is_none();
        if self.counts != counts {
            match counts {
                true => self.spins.running.fetch_add(1, Ordering::Relaxed),
                false => self.spins.running.fetch_sub(1, Ordering::Relaxed),
            };
            load::set_running(counts);
        }
        self.counts = counts;
    }

    /// The guest came to the Sentry, with a request or not.
    pub(super) fn came(&mut self) {
        if !self.is_looking() {
            self.seat.leave();
        }
    }

    /// A request came.
    pub(super) fn asked(&mut self) {
        self.asked = now();
        let took = self.asked.wrapping_sub(self.replied);
        place::came(took <= self.spins.window);
        if self.is_looking() {
            self.hits = self.hits.saturating_add(1);
            self.add(self.windows(1) / SAVING);
            self.seen(self.asked);
        } else {
            self.spins.rung.fetch_add(1, Ordering::Relaxed);
            self.streak = self.streak.saturating_add(1);
            self.held = self.held.saturating_sub(1);
            if took > self.spins.window {
                self.streak = self.streak.saturating_sub(SLOW);
            }
            self.weigh(took);
        }
    }

    /// A request of `guest` is about to be answered. If it sleeps until then, it is known where it wakes
    /// up, and the pair begins to look if it has earned to and a CPU is to spare.
    pub(super) fn replies(&mut self, guest: Tid, sleeps: bool) {
        if self.is_looking() {
            return;
        }
        self.replied = now();
        self.weigh(self.replied.wrapping_sub(self.asked));
        // At each answer, for it takes several looks to know.
        let is_full = load::is_full(self.replied);
        if place::has_slept() && is_full {
            self.held = HELD;
        }
        if !sleeps {
            return;
        }
        // Who was let in somewhere for a moment does not stay to look.
        let earned = self.price.max(self.spins.contended.load(Ordering::Relaxed));
        let earned = if is_full { earned.max(CONTENDED.0) } else { earned };
        if self.streak >= earned && self.held == 0 && !place::is_brought() {
            self.start(guest);
        }
        if !self.is_looking() {
            self.seat.enter(guest);
        }
    }

    /// So many windows in cycles.
    fn windows(&self, number: i64) -> i64 {
        // Some ten thousand cycles.
        self.spins.window as i64 * number
    }

    /// Looking saved so many cycles.
    fn add(&mut self, saved: i64) {
        let most = self.windows(BALANCE);
        self.balance = self.balance.saturating_add(saved).clamp(-most, most);
    }

    /// One side took so many cycles.
    fn weigh(&mut self, took: u64) {
        if took > self.spins.window * PATIENT {
            self.streak = self.streak.saturating_sub(CREDIT);
        }
    }

    /// Whether the pair goes on looking though the guest went to sleep while it waited: the answer
    /// came late, but not by much; or by more, and it was worth it so far.
    pub(super) fn forgives(&mut self) -> bool {
        self.replied = now();
        let took = self.replied.wrapping_sub(self.asked);
        if took < self.spins.window * PATIENT {
            return true;
        }
        self.add(-self.windows(LATE));
        self.balance > 0 && took < self.spins.window * FORGIVEN
    }

    /// How often a guest may look for a reply that comes next, if that is to change. For the first
    /// one it waits while this thread is still busy waking it.
    pub(super) fn patience(&self) -> Option<u32> {
        match (self.is_looking(), self.hits) {
            (true, 0) => Some(self.spins.patience.saturating_mul(WAKING as u32)),
            (true, 1) => Some(self.spins.patience.saturating_mul(PATIENT as u32)),
            _ => None,
        }
    }

    /// Begins to look, if a CPU is to spare: the guest is to wake up on another one.
    fn start(&mut self, guest: Tid) {
        self.place = self.spins.begin();
        if self.place.is_none() {
            return;
        }
        self.count();
        load::set_looking(true);
        self.here = affinity::here();
        if let Some(there) = self.spins.spread.beside(self.here) {
            self.bound = [guest, sys::gettid()];
            affinity::set(guest, [there]);
            affinity::set(self.bound[1], [self.here]);
            self.seat.enter_both(self.here, there);
        }
        self.hits = 0;
    }

    /// Looks for what `come` finds. False if it did not come in time.
    pub(super) fn look<E>(&mut self, mut come: impl FnMut() -> Result<bool, E>) -> Result<bool, E> {
        self.replied = now();
        let mut start = self.replied;
        let window = self.spins.window * if self.hits == 0 { WAKING } else { PATIENT };
        loop {
            for _ in 0..16 {
                if come()? {
                    self.spins.found.fetch_add(1, Ordering::Relaxed);
                    return Ok(true);
                }
                std::hint::spin_loop();
            }
            if place::is_shared(self.here) {
                let before = now();
                std::thread::yield_now();
                start = start.wrapping_add(now().wrapping_sub(before));
            }
            let now = now();
            self.seen(now);
            let looked = now.wrapping_sub(start);
            // Nobody else may need the CPU more.
            let has_room = self.spins.has_room(0);
            if looked > window || !has_room {
                self.spins.wasted.fetch_add(looked, Ordering::Relaxed);
                self.add(0_i64.saturating_sub_unsigned(looked));
                // By itself it looks a little longer than it should, at most.
                self.robbed |= looked > window + self.spins.window * PATIENT;
                self.crowded = !has_room;
                return Ok(false);
            }
        }
    }

    /// Ends looking.
    pub(super) fn stop(&mut self) {
        if self.place.is_none() {
            return;
        }
        self.seen(0);
        self.place = None;
        load::set_looking(false);
        self.count();
        self.seat.leave();
        for tid in std::mem::take(&mut self.bound).into_iter().filter(|&tid| tid != 0) {
            affinity::run_anywhere(tid);
        }
        self.add(-self.windows(BEGINNING));
        let worth = self.balance >= 0;
        self.balance /= 2;
        let robbed = std::mem::take(&mut self.robbed);
        if worth || robbed {
            self.spins.contend(!worth);
        }
        if std::mem::take(&mut self.crowded) && worth {
            // It was not to blame.
            self.streak = self.price / 2;
            return;
        }
        let price = if worth { self.price / 2 } else { self.price.saturating_mul(2) };
        self.price = price.clamp(EARNED.1, EARNED.2);
        self.streak = 0;
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.stop();
        self.set_running(false);
    }
}
