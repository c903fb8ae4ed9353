//! On which CPU a Sentry thread wakes up.
//!
//! The host's scheduler likes to wake a thread on a CPU that idles. In a virtual machine that takes
//! tens of microseconds; a guest that writes a byte and waits for the answer needs a fraction of
//! that. So who sleeps soon after it woke somebody, time after time, wakes on its own CPU, which
//! will be free: sooner than a wake-up on another one takes, or not much later. Both are measured.
//! Who goes on for longer leaves it to the host, so that both run at once.
//!
//! Where the platform chooses the CPUs of Sentry threads itself, there is nothing to do here: a
//! [`Place`] does nothing before [`Place::settle`].

use std::arch::x86_64::_rdtsc;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};

use crate::stub::affinity;

/// How many times in a row a thread must have slept soon after it woke somebody.
const SOON: u32 = 8;
/// How soon that is, in wake-ups on another CPU. They cost more than time: caches, and both sides'
/// interrupts.
const WORTH: u64 = 2;

/// How long a wake-up on another CPU takes here, in cycles; 0 before the first one.
static AFAR: AtomicU64 = AtomicU64::new(0);

fn now() -> u64 {
    // SAFETY: the instruction exists on every x86-64.
    unsafe { _rdtsc() }
}

/// A typical value, of which there are more and more: busy moments of the machine count little.
fn typical(before: u64, sample: u64) -> u64 {
    match before {
        0 => sample,
        _ if sample < before => before - (before - sample) / 4,
        _ => before + (sample - before).min(before) / 32,
    }
}

/// One thread's. The thread itself calls [`Place::sleeps`] and [`Place::woke`], others
/// [`Place::wakes`]. No locks; a lost race costs time only.
#[derive(Default)]
pub struct Place {
    /// The host thread, once it is settled.
    tid: AtomicI32,
    /// It sleeps, or is about to.
    asleep: AtomicBool,
    /// It was restricted to the CPU of who woke it.
    brought: AtomicBool,
    /// When it was told to wake up, and on which CPU that happened.
    told: AtomicU64,
    told_on: AtomicUsize,
}

thread_local! {
    /// When the thread woke somebody, for the first time since it slept; 0 if it has not.
    static WAKES: Cell<u64> = const { Cell::new(0) };
    /// How many times in a row it slept soon after that.
    static SLEPT_SOON: Cell<u32> = const { Cell::new(0) };
}

impl Place {
    /// The caller is the thread.
    pub fn settle(&self) {
        if affinity::allowed().len() > 1 {
            // SAFETY: plain system call.
            self.tid.store(unsafe { libc::gettid() }, Ordering::Relaxed);
        }
    }

    fn is_settled(&self) -> bool {
        self.tid.load(Ordering::Relaxed) != 0
    }

    /// The thread is about to sleep.
    pub fn sleeps(&self) {
        if !self.is_settled() {
            return;
        }
        self.loosen();
        let wakes = WAKES.replace(0);
        if wakes != 0 {
            let limit = AFAR.load(Ordering::Relaxed).saturating_mul(WORTH);
            let soon = now().wrapping_sub(wakes) < limit;
            SLEPT_SOON.set(if soon { SLEPT_SOON.get().saturating_add(1) } else { 0 });
        }
        self.asleep.store(true, Ordering::SeqCst);
    }

    /// The caller is about to wake the thread.
    pub fn wakes(&self) {
        if !self.is_settled() || !self.asleep.swap(false, Ordering::SeqCst) {
            return;
        }
        let now = now();
        if WAKES.get() == 0 {
            WAKES.set(now);
        }
        self.told_on.store(affinity::here(), Ordering::Relaxed);
        self.told.store(now, Ordering::Release);
        if SLEPT_SOON.get() >= SOON {
            affinity::bring_here(self.tid.load(Ordering::Relaxed));
            self.brought.store(true, Ordering::Release);
        }
    }

    /// The thread woke up, or did not get to sleep.
    pub fn woke(&self) {
        if !self.is_settled() {
            return;
        }
        let woke = now();
        let told = self.told.swap(0, Ordering::Acquire);
        let was_told = !self.asleep.swap(false, Ordering::SeqCst) && told != 0;
        if !self.loosen() && was_told && self.told_on.load(Ordering::Relaxed) != affinity::here() {
            let took = woke.saturating_sub(told);
            AFAR.store(typical(AFAR.load(Ordering::Relaxed), took.max(1)), Ordering::Relaxed);
        }
    }

    /// The thread may run anywhere again: it is not known where its guest will. To be called by the
    /// thread, and at its end.
    pub fn loosen(&self) -> bool {
        let brought = self.brought.swap(false, Ordering::AcqRel);
        if brought {
            affinity::run_anywhere(0);
        }
        brought
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_moments_count_little() {
        let mut value = 0;
        for _ in 0..10 {
            value = typical(value, 1000);
        }
        assert_eq!(value, 1000);
        value = typical(value, 1_000_000);
        assert!(value < 1100, "{value}");
        for _ in 0..20 {
            value = typical(value, 500);
        }
        assert!(value < 510, "{value}");
        for _ in 0..200 {
            value = typical(value, 2000);
        }
        assert!(value > 1900, "{value}");
    }

    fn is_brought(place: &Place) -> bool {
        place.brought.load(Ordering::Relaxed)
    }

    #[test]
    fn who_sleeps_soon_after_it_woke_somebody_brings_them() {
        if affinity::allowed().len() < 2 {
            return;
        }
        let (own, other) = (Place::default(), Place::default());
        let round = || {
            other.sleeps();
            other.wakes();
            let brought = is_brought(&other);
            own.sleeps();
            own.woke();
            brought
        };
        // Before they are settled, nothing happens.
        AFAR.store(1 << 60, Ordering::Relaxed);
        assert!((0..2 * SOON).all(|_| !round()));

        own.settle();
        // In truth it is this thread as well, which will be restricted.
        other.settle();
        for times in 0..2 * SOON {
            assert_eq!(round(), times >= SOON, "{times}");
            // Who is awake is not brought, nor a second time.
            assert_eq!(other.loosen(), times >= SOON);
            other.wakes();
            assert!(!is_brought(&other));
        }
        // Who goes on for long leaves the others where they are.
        AFAR.store(0, Ordering::Relaxed);
        round();
        assert!((0..2 * SOON).all(|_| !round()));
        // SAFETY: all-zero is an empty set; the call fills it.
        let cpus = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::sched_getaffinity(0, size_of_val(&set), &mut set);
            libc::CPU_COUNT(&set)
        };
        assert_eq!(cpus as usize, affinity::allowed().len());
    }
}
