//! On which CPU a Sentry thread wakes up.
//!
//! The host's scheduler likes to wake a thread on a CPU that idles. In a virtual machine that takes
//! tens of microseconds; a guest that writes a byte and waits for the answer needs a fraction of
//! that. So two kinds of threads are *brought* to the CPU of who wakes them; all others are left to
//! the host, so that both run at once:
//!
//! * whoever is woken by a thread that sleeps soon after it woke somebody, time after time: its CPU will
//!   be free sooner than a wake-up on another one takes, or not much later;
//! * one at a time that is awake for a shorter time than that itself, if the guest of who wakes it comes
//!   to the Sentry often: there is somebody to let it in.
//!
//! All of this is measured. Where the platform chooses the CPUs of Sentry threads itself, there is
//! nothing to do here: a [`Place`] does nothing before [`Place::settle`].

use std::arch::x86_64::_rdtsc;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};

use crate::load;
use crate::stub::{affinity, sys};

/// How many times in a row a thread must have slept soon after it woke somebody.
const SOON: u32 = 8;
/// How soon that is, in wake-ups on another CPU. They cost more than time: caches, and both sides'
/// interrupts.
const WORTH: u64 = 2;
/// How many more requests of a guest must have come soon than, times [`LATE`], late; and what is
/// remembered of that.
const BRISK: u32 = 8;
const BRISK_MAX: u32 = 32;
const LATE: u32 = 4;
/// Who was brought and is awake for so many times [`worth`] is not let in any longer.
const BRIEF: u64 = 4;

/// Most cycles that a wake-up on another CPU counts as: where it takes longer, the CPU was in use.
const AFAR_MAX: u64 = 1 << 18;

/// How long a wake-up on another CPU takes here, in cycles; 0 before the first one.
static AFAR: AtomicU64 = AtomicU64::new(0);

/// Those who were brought to a CPU and are awake.
struct Visitors {
    number: AtomicUsize,
    /// When the last one was brought.
    since: AtomicU64,
}

/// Of each CPU, modulo the length.
static VISITORS: [Visitors; 64] =
    [const { Visitors { number: AtomicUsize::new(0), since: AtomicU64::new(0) } }; 64];

fn visitors(cpu: usize) -> &'static Visitors {
    &VISITORS[cpu % VISITORS.len()]
}

impl Visitors {
    /// Whether they are awake for a longer time than they were let in for.
    fn stayed(&self, now: u64) -> bool {
        now.saturating_sub(self.since.load(Ordering::Relaxed)) > worth().saturating_mul(BRIEF)
    }
}

/// Whether somebody who was brought to a CPU is awake there for a moment. Who has nothing to do should
/// let it in.
pub(crate) fn is_shared(cpu: usize) -> bool {
    let visitors = visitors(cpu);
    visitors.number.load(Ordering::Relaxed) != 0 && !visitors.stayed(now())
}

/// How many were brought to a CPU and are awake for so long that they need one of their own.
pub(crate) fn stayed(cpu: usize) -> usize {
    let visitors = visitors(cpu);
    match visitors.number.load(Ordering::Relaxed) {
        0 => 0,
        number => number * usize::from(visitors.stayed(now())),
    }
}

/// Within how many cycles it is better to wait for a CPU than to wake up on another one.
fn worth() -> u64 {
    AFAR.load(Ordering::Relaxed).saturating_mul(WORTH)
}

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
    /// The CPU that it is restricted to, that of who woke it, plus one; 0 when it is not.
    brought: AtomicUsize,
    /// How long it is typically awake, in cycles.
    awake: AtomicU64,
    /// When it was told to wake up, and on which CPU that happened.
    told: AtomicU64,
    told_on: AtomicUsize,
}

thread_local! {
    /// When the thread woke somebody, for the first time since it slept; 0 if it has not.
    static WAKES: Cell<u64> = const { Cell::new(0) };
    /// How many times in a row it slept soon after that.
    static SLEPT_SOON: Cell<u32> = const { Cell::new(0) };
    /// How often requests of its guest came soon, see [`BRISK`].
    static CAME_SOON: Cell<u32> = const { Cell::new(0) };
    /// It slept since it was last asked for.
    static HAS_SLEPT: Cell<bool> = const { Cell::new(false) };
    /// When it woke up; 0 before the first time.
    static UP: Cell<u64> = const { Cell::new(0) };
    /// Where it counts as brought.
    static BROUGHT_TO: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The caller's guest came to the Sentry, `soon` after the last time or not.
pub(crate) fn came(soon: bool) {
    let times = CAME_SOON.get();
    CAME_SOON.set(if soon { (times + 1).min(BRISK_MAX) } else { times.saturating_sub(LATE) });
    if BROUGHT_TO.get().is_some_and(|cpu| visitors(cpu).stayed(now())) {
        leave();
    }
}

/// Whether the caller slept since it last asked that.
pub(crate) fn has_slept() -> bool {
    HAS_SLEPT.replace(false)
}

/// Whether the caller was brought where it is, and is awake for a short time only.
pub(crate) fn is_brought() -> bool {
    BROUGHT_TO.get().is_some()
}

fn leave() {
    if let Some(cpu) = BROUGHT_TO.take() {
        visitors(cpu).number.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Place {
    /// The caller is the thread.
    pub fn settle(&self) {
        if affinity::allowed().len() > 1 {
            self.tid.store(sys::gettid(), Ordering::Relaxed);
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
        HAS_SLEPT.set(true);
        load::set_asleep(true);
        self.loosen();
        let now = now();
        if let Some(awake) = UP.get().checked_sub(1).map(|up| now.saturating_sub(up)) {
            self.awake.store(typical(self.awake.load(Ordering::Relaxed), awake), Ordering::Relaxed);
        }
        let wakes = WAKES.replace(0);
        if wakes != 0 {
            let soon = now.wrapping_sub(wakes) < worth();
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
        let here = affinity::here();
        self.told_on.store(here, Ordering::Relaxed);
        self.told.store(now, Ordering::Release);
        let is_better_here = SLEPT_SOON.get() >= SOON || self.is_let_in(here);
        if is_better_here && !load::is_full(now) {
            let visitors = visitors(here);
            visitors.since.store(now, Ordering::Relaxed);
            visitors.number.fetch_add(1, Ordering::Relaxed);
            affinity::set(self.tid.load(Ordering::Relaxed), [here]);
            self.brought.store(here + 1, Ordering::Release);
        }
    }

    /// Whether the caller has a moment for it.
    fn is_let_in(&self, here: usize) -> bool {
        let awake = self.awake.load(Ordering::Relaxed);
        let is_free = visitors(here).number.load(Ordering::Relaxed) == 0;
        CAME_SOON.get() >= BRISK && (1..worth()).contains(&awake) && is_free
    }

    /// The thread woke up, or did not get to sleep.
    pub fn woke(&self) {
        if !self.is_settled() {
            return;
        }
        load::set_asleep(false);
        let woke = now();
        UP.set(woke);
        let told = self.told.swap(0, Ordering::Acquire);
        let was_told = !self.asleep.swap(false, Ordering::SeqCst) && told != 0;
        if self.run_anywhere() {
            return;
        }
        if was_told && self.told_on.load(Ordering::Relaxed) != affinity::here() {
            let took = woke.saturating_sub(told);
            AFAR.store(
                typical(AFAR.load(Ordering::Relaxed), took.clamp(1, AFAR_MAX)),
                Ordering::Relaxed,
            );
        }
    }

    /// The thread may run anywhere again: it is not known where its guest will. Returns whether it was
    /// brought.
    fn run_anywhere(&self) -> bool {
        let Some(cpu) = self.brought.swap(0, Ordering::AcqRel).checked_sub(1) else { return false };
        affinity::run_anywhere(0);
        leave();
        BROUGHT_TO.set(Some(cpu));
        true
    }

    /// Who brought it need not think of it any longer. To be called by the thread, and at its end.
    pub fn loosen(&self) {
        self.run_anywhere();
        leave();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

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

    fn is_bound(place: &Place) -> bool {
        place.brought.load(Ordering::Relaxed) != 0
    }

    /// [`AFAR`] is everybody's.
    static ALONE: Mutex<()> = Mutex::new(());

    #[test]
    fn who_sleeps_soon_after_it_woke_somebody_brings_them() {
        if affinity::allowed().len() < 2 {
            return;
        }
        let _alone = ALONE.lock().unwrap();
        let (own, other) = (Place::default(), Place::default());
        let round = || {
            other.sleeps();
            other.wakes();
            let brought = is_bound(&other);
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
            other.loosen();
            other.wakes();
            assert!(!is_bound(&other));
        }
        // Who goes on for long leaves the others where they are.
        AFAR.store(0, Ordering::Relaxed);
        round();
        assert!((0..2 * SOON).all(|_| !round()));
        assert_runs_anywhere();
    }

    #[test]
    fn who_is_awake_briefly_is_let_in() {
        if affinity::allowed().len() < 2 {
            return;
        }
        let _alone = ALONE.lock().unwrap();
        AFAR.store(1 << 40, Ordering::Relaxed);
        let other = Place::default();
        other.settle();
        let round = || {
            // Its waker is not one that sleeps soon itself, though it is the same thread here.
            WAKES.set(0);
            other.sleeps();
            other.wakes();
            let brought = is_bound(&other);
            other.woke();
            assert_eq!(is_brought(), brought);
            brought
        };
        round();
        assert!(!round(), "the guest of who wakes it does not come");
        for times in 0..BRISK {
            assert!(!round(), "{times}");
            came(true);
        }
        assert!(round());
        came(false);
        assert!(is_brought(), "not awake for long");
        (0..BRISK_MAX).for_each(|_| came(true));
        assert!(round());
        // Who is already there is enough.
        let cpu = BROUGHT_TO.get().unwrap();
        let third = Place::default();
        third.settle();
        third.awake.store(1, Ordering::Relaxed);
        affinity::set(0, [cpu]);
        third.asleep.store(true, Ordering::Relaxed);
        third.wakes();
        assert!(is_shared(cpu) && !is_bound(&third));
        affinity::run_anywhere(0);
        // Awake for too long.
        assert_eq!(stayed(cpu), 0);
        AFAR.store(1, Ordering::Relaxed);
        assert_eq!((stayed(cpu), is_shared(cpu)), (1, false));
        came(true);
        assert_eq!((stayed(cpu), is_brought()), (0, false));
        assert!(!round());
        other.loosen();
        assert_runs_anywhere();
    }

    fn assert_runs_anywhere() {
        // SAFETY: all-zero is an empty set; the call fills it.
        let cpus = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::sched_getaffinity(0, size_of_val(&set), &mut set);
            libc::CPU_COUNT(&set)
        };
        assert_eq!(cpus as usize, affinity::allowed().len());
    }
}
