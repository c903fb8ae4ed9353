//! When a Sentry thread and its guest thread wait for each other by looking instead of sleeping.
//!
//! A hand-over between two CPUs by shared memory takes a fraction of a microsecond, one by doorbell
//! several; but who looks needs a CPU. So looking is earned: a pair begins to when many requests in
//! a row came and were answered within [`WINDOW`], while a CPU is to spare, and stops as soon as
//! either side has looked in vain for that long. How many it takes doubles when looking was worth
//! less than beginning costs, and halves when it was.
//!
//! A doorbell leaves both threads on one CPU. To begin, the guest's, which sleeps, is bound to
//! another one, and is so for as long as the pair looks.

use std::arch::x86_64::_rdtsc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::stub::affinity;
use crate::stub::sys::Tid;

/// How long either side looks: some doorbells long, for a machine that is not quite idle.
const WINDOW: Duration = Duration::from_micros(20);
/// Requests in a row that earn it: at first, at least, at most.
const EARNED: (u32, u32, u32) = (48, 16, 1 << 12);
/// Windows more that a successful pair may look in vain: a tick of the host's is not its end.
const EARNED_MAX: u64 = 4;
/// Windows that the guest may take to wake up on another CPU and ask for something.
const WAKING: u64 = 16;
/// Requests that make beginning worth its while.
const WORTH: u32 = 64;

/// What all pairs of a sandbox share.
pub(super) struct Spins {
    /// What this sandbox may use.
    cpus: Vec<usize>,
    window: u64,
    /// How often a guest thread looks in a window.
    patience: u32,
    /// Guest threads that may be running guest code.
    running: AtomicUsize,
    /// Sentry threads that look.
    looking: AtomicUsize,
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
        Arc::new(Spins {
            cpus: affinity::own(),
            window: in_cycles(WINDOW),
            patience: (in_cycles(WINDOW) / per_look).clamp(1, 1 << 16) as u32,
            running: AtomicUsize::new(0),
            looking: AtomicUsize::new(0),
            wasted: AtomicU64::new(0),
            found: AtomicU64::new(0),
            rung: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// To be called when guest code may begin to run.
    pub(super) fn enter(&self) {
        self.running.fetch_add(1, Ordering::Relaxed);
    }

    /// To be called when guest code does not run any more.
    pub(super) fn leave(&self) {
        self.running.fetch_sub(1, Ordering::Relaxed);
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

    /// Whether a CPU is to spare for one more that looks.
    fn has_room(&self, more: usize) -> bool {
        let busy = self.running.load(Ordering::Relaxed) + self.looking.load(Ordering::Relaxed);
        busy + more <= self.cpus.len()
    }
}

/// One pair's.
pub(super) struct Spinner {
    spins: Arc<Spins>,
    looking: bool,
    /// The guest thread, while the pair looks.
    bound: Tid,
    /// Quick requests in a row, while the pair does not look.
    streak: u32,
    /// Requests since it looks.
    hits: u32,
    /// How many earn looking.
    price: u32,
    /// When the last request came, and when it was answered.
    asked: u64,
    replied: u64,
}

impl Spinner {
    pub(super) fn new(spins: Arc<Spins>) -> Spinner {
        Spinner {
            spins,
            looking: false,
            bound: 0,
            streak: 0,
            hits: 0,
            price: EARNED.0,
            asked: 0,
            replied: 0,
        }
    }

    /// Whether the pair looks. If not, whoever waits sleeps.
    pub(super) fn is_looking(&self) -> bool {
        self.looking
    }

    /// A request came.
    pub(super) fn asked(&mut self) {
        self.asked = now();
        if self.looking {
            self.hits = self.hits.saturating_add(1);
        } else {
            self.spins.rung.fetch_add(1, Ordering::Relaxed);
            let quick = self.asked.wrapping_sub(self.replied) < self.spins.window;
            self.streak = if quick { self.streak.saturating_add(1) } else { 0 };
        }
    }

    /// A request is about to be answered. Returns whether the pair should begin to look.
    pub(super) fn replies(&mut self) -> bool {
        let spins = &self.spins;
        self.replied = now();
        if self.replied.wrapping_sub(self.asked) > spins.window {
            self.streak = 0;
        }
        if self.looking || self.streak < self.price {
            return false;
        }
        let has_room = spins.has_room(1);
        if !has_room {
            spins.refused.fetch_add(1, Ordering::Relaxed);
        }
        has_room
    }

    /// Whether the pair goes on looking though the guest went to sleep while it waited: one answer
    /// came late, but not by much, and many came in time.
    pub(super) fn forgives(&self) -> bool {
        let took = self.replied.wrapping_sub(self.asked);
        self.looking && self.hits >= WORTH && took < self.spins.window * EARNED_MAX
    }

    /// How often a guest may look for a reply that comes next, if that is to change. For the first
    /// one it waits while this thread is still busy waking it.
    pub(super) fn patience(&self) -> Option<u32> {
        match (self.looking, self.hits) {
            (true, 0) => Some(self.spins.patience.saturating_mul(WAKING as u32)),
            (true, 1) => Some(self.spins.patience),
            _ => None,
        }
    }

    /// Prepares to look, while the guest sleeps: it is to wake up on another CPU.
    pub(super) fn start(&mut self, guest: Tid) {
        let here = affinity::here();
        let cpus = &self.spins.cpus;
        let place = cpus.iter().position(|&cpu| cpu == here).unwrap_or(0);
        if let Some(there) = cpus.get((place + 1) % cpus.len().max(1)) {
            affinity::set(guest, [*there]);
        }
        self.bound = guest;
        self.hits = 0;
        self.looking = true;
        self.spins.begun.fetch_add(1, Ordering::Relaxed);
        self.spins.looking.fetch_add(1, Ordering::Relaxed);
    }

    /// Looks for what `come` finds. False if it did not come in time.
    pub(super) fn look<E>(&mut self, mut come: impl FnMut() -> Result<bool, E>) -> Result<bool, E> {
        let start = now();
        // Much was saved already by a pair that has looked with success for long.
        let earned = u64::from(self.hits / WORTH).min(EARNED_MAX) + 1;
        let window = self.spins.window * if self.hits == 0 { WAKING } else { earned };
        loop {
            for _ in 0..16 {
                if come()? {
                    self.spins.found.fetch_add(1, Ordering::Relaxed);
                    return Ok(true);
                }
                std::hint::spin_loop();
            }
            let looked = now().wrapping_sub(start);
            // Nobody else may need the CPU more.
            if looked > window || !self.spins.has_room(0) {
                self.spins.wasted.fetch_add(looked, Ordering::Relaxed);
                return Ok(false);
            }
        }
    }

    /// Ends looking.
    pub(super) fn stop(&mut self) {
        if !std::mem::take(&mut self.looking) {
            return;
        }
        self.spins.looking.fetch_sub(1, Ordering::Relaxed);
        affinity::set(self.bound, self.spins.cpus.iter().copied());
        let worth = self.hits >= WORTH;
        let price = if worth { self.price / 2 } else { self.price.saturating_mul(2) };
        self.price = price.clamp(EARNED.1, EARNED.2);
        self.streak = 0;
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.stop();
    }
}
