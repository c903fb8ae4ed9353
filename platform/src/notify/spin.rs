//! When a Sentry thread and its guest thread wait for each other by looking instead of sleeping.
//!
//! A hand-over between two CPUs by shared memory takes a fraction of a microsecond, one by doorbell
//! several; but who looks needs a CPU. So looking is earned: a pair begins to when many requests in
//! a row came and were answered within [`WINDOW`], while a CPU is to spare, and stops as soon as
//! either side has looked in vain for that long. How many it takes doubles when looking was worth
//! less than beginning costs, and halves when it was.
//!
//! A doorbell leaves both threads on one CPU. To begin, the Sentry's moves to another one.

use std::arch::x86_64::_rdtsc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long either side looks: about what two doorbells cost.
const WINDOW: Duration = Duration::from_micros(12);
/// Requests in a row that earn it: at first, at least, at most.
const EARNED: (u32, u32, u32) = (48, 16, 1 << 16);
/// Requests that make beginning worth its while.
const WORTH: u32 = 64;
/// A thread that takes longer to move than this is not alone on the other CPU.
const CROWDED: Duration = Duration::from_micros(150);

/// What all pairs of a sandbox share.
pub(super) struct Spins {
    cpus: Vec<usize>,
    window: u64,
    crowded: u64,
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
}

fn now() -> u64 {
    // SAFETY: the instruction exists on every x86-64.
    unsafe { _rdtsc() }
}

/// Restricts the calling thread to some CPUs. Failure only costs time.
fn set_affinity(cpus: &[usize]) {
    // SAFETY: all-zero is an empty set, `CPU_SET` ignores numbers that do not fit, and the call
    // reads the set only.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for &cpu in cpus {
            libc::CPU_SET(cpu, &mut set);
        }
        libc::sched_setaffinity(0, size_of_val(&set), &set);
    }
}

impl Spins {
    /// Measures this machine, for some 300 microseconds.
    pub(super) fn new() -> Arc<Spins> {
        // SAFETY: all-zero is an empty set; the call fills it.
        let set = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::sched_getaffinity(0, size_of_val(&set), &mut set);
            set
        };
        // SAFETY: within the set's capacity.
        let cpus = (0..libc::CPU_SETSIZE as usize).filter(|&c| unsafe { libc::CPU_ISSET(c, &set) });
        const LOOKS: u64 = 2000;
        let (start, start_cycles) = (Instant::now(), now());
        for _ in 0..LOOKS {
            std::hint::spin_loop();
        }
        let per_look = ((now() - start_cycles) / LOOKS).max(1);
        while start.elapsed() < Duration::from_micros(200) {
            std::hint::spin_loop();
        }
        let (cycles, time) = (now() - start_cycles, start.elapsed());
        let in_cycles =
            |d: Duration| (u128::from(cycles) * d.as_nanos() / time.as_nanos().max(1)) as u64;
        Arc::new(Spins {
            cpus: cpus.collect(),
            window: in_cycles(WINDOW),
            crowded: in_cycles(CROWDED),
            patience: (in_cycles(WINDOW) / per_look).clamp(1, 1 << 16) as u32,
            running: AtomicUsize::new(0),
            looking: AtomicUsize::new(0),
            wasted: AtomicU64::new(0),
            found: AtomicU64::new(0),
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

    /// Whether a CPU is to spare for one more that looks.
    fn has_room(&self, more: usize) -> bool {
        let busy = self.running.load(Ordering::Relaxed) + self.looking.load(Ordering::Relaxed);
        busy + more <= self.cpus.len()
    }
}

impl Drop for Spins {
    fn drop(&mut self) {
        let found = *self.found.get_mut();
        let wasted = *self.wasted.get_mut() / (self.window / WINDOW.as_micros() as u64).max(1);
        tracing::debug!(found, wasted_us = wasted, "requests found by looking");
    }
}

/// One pair's.
pub(super) struct Spinner {
    spins: Arc<Spins>,
    looking: bool,
    /// Quick requests in a row.
    streak: u32,
    /// How many earn looking.
    price: u32,
    /// When the last request came, and when it was answered.
    asked: u64,
    replied: u64,
}

impl Spinner {
    pub(super) fn new(spins: Arc<Spins>) -> Spinner {
        Spinner { spins, looking: false, streak: 0, price: EARNED.0, asked: 0, replied: 0 }
    }

    /// Whether the pair looks. If not, whoever waits sleeps.
    pub(super) fn is_looking(&self) -> bool {
        self.looking
    }

    /// A request came.
    pub(super) fn asked(&mut self) {
        self.asked = now();
        let quick = self.asked.wrapping_sub(self.replied) < self.spins.window;
        self.streak = if quick { self.streak.saturating_add(1) } else { 0 };
    }

    /// A request is about to be answered. Returns whether the pair should begin to look.
    pub(super) fn replies(&mut self) -> bool {
        let spins = &self.spins;
        self.replied = now();
        if self.replied.wrapping_sub(self.asked) > spins.window {
            self.streak = 0;
        }
        !self.looking && self.streak >= self.price && spins.has_room(2)
    }

    /// Moves the calling thread to another CPU than the one that it shares with the guest. Returns
    /// how often the guest may look, or `None` if it is no use.
    pub(super) fn start(&mut self) -> Option<u32> {
        let spins = self.spins.clone();
        // SAFETY: plain system call.
        let here = usize::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(0);
        let place = spins.cpus.iter().position(|&cpu| cpu == here).unwrap_or(0);
        let there = *spins.cpus.get((place + 1) % spins.cpus.len().max(1))?;
        let before = now();
        set_affinity(&[there]);
        self.streak = 0;
        self.looking = true;
        spins.looking.fetch_add(1, Ordering::Relaxed);
        if now().wrapping_sub(before) > spins.crowded {
            self.stop();
            return None;
        }
        Some(spins.patience)
    }

    /// Looks for what `come` finds. False if it did not come in time.
    pub(super) fn look<E>(&mut self, mut come: impl FnMut() -> Result<bool, E>) -> Result<bool, E> {
        let start = now();
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
            if looked > self.spins.window || !self.spins.has_room(0) {
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
        set_affinity(&self.spins.cpus);
        let worth = self.streak >= WORTH;
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
