//! How long the machine lets a thread wait that has to do something now: what a test of time limits
//! may not blame on what it tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a witness looks at the clock. Not more often: a host that shares processors out among
/// sessions (autogroups) makes others wait longer for one that has such threads.
const STEP: Duration = Duration::from_millis(20);
/// What is no delay worth counting: a quiet machine's.
const USUAL: Duration = Duration::from_millis(5);

/// Witnesses, one on each processor, that sleep for a moment again and again.
#[derive(Debug)]
pub struct Lag {
    over: Arc<AtomicBool>,
    witnesses: Vec<JoinHandle<Duration>>,
}

impl Lag {
    /// Begins to watch.
    pub fn watch() -> Lag {
        let over = Arc::new(AtomicBool::new(false));
        let witness = |cpu| {
            let over = over.clone();
            std::thread::spawn(move || witness(cpu, &over))
        };
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Lag { witnesses: (0..cpus).map(witness).collect(), over }
    }

    /// How late one witness was in all: the one that had to wait most.
    pub fn total(self) -> Duration {
        self.over.store(true, Ordering::Relaxed);
        let lags = self.witnesses.into_iter().map(|witness| witness.join().expect("a witness"));
        lags.max().unwrap_or_default()
    }
}

fn witness(cpu: usize, over: &AtomicBool) -> Duration {
    // SAFETY: the set is valid. If that processor is not to be had, any other will do.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
    }
    let mut lag = Duration::ZERO;
    while !over.load(Ordering::Relaxed) {
        let start = Instant::now();
        std::thread::sleep(STEP);
        let late = start.elapsed() - STEP;
        if late > USUAL {
            lag += late;
        }
    }
    lag
}
