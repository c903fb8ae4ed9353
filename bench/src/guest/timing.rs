//! How a row is timed, and small wrappers of system calls that must not fail.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Whether somebody watches from outside: rows last long and say when they are measured.
static WATCHED: AtomicBool = AtomicBool::new(false);

/// From now on each measured part is announced as `measure N`, N being how many operations it has.
pub(crate) fn watched() {
    WATCHED.store(true, Relaxed);
}

/// Gives who watches the time to look at what was used, before the processes are gone.
pub(crate) fn linger() {
    if WATCHED.load(Relaxed) {
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// How long a row's measured part lasts at least.
fn enough() -> Duration {
    Duration::from_millis(if WATCHED.load(Relaxed) { 1500 } else { 40 })
}

fn announce(n: u64) {
    if WATCHED.load(Relaxed) {
        println!("measure {n}");
        let _ = std::io::stdout().flush();
    }
}

/// Nanoseconds an operation, of `body`, which does `n` of them.
pub(crate) fn many(mut body: impl FnMut(u64)) -> f64 {
    let enough = enough();
    body(1);
    let mut n = 1u64;
    loop {
        announce(n);
        let start = Instant::now();
        body(n);
        let took = start.elapsed();
        if took >= enough {
            return took.as_nanos() as f64 / n as f64;
        }
        // Towards a little over what is enough, but never more than tenfold at a time.
        let wanted = enough.as_nanos() as f64 * 1.2 / took.as_nanos().max(1) as f64;
        n = (n as f64 * wanted.clamp(1.5, 10.0)) as u64 + 1;
    }
}

/// Nanoseconds of one operation.
pub(crate) fn each(mut body: impl FnMut()) -> f64 {
    many(|n| {
        for _ in 0..n {
            body();
        }
    })
}

/// Median nanoseconds of `body`, run `times` times: for what takes long by itself.
pub(crate) fn few(
    times: usize,
    mut body: impl FnMut() -> Result<(), String>,
) -> Result<f64, String> {
    let mut all = Vec::new();
    announce(times as u64);
    for _ in 0..times {
        let start = Instant::now();
        body()?;
        all.push(start.elapsed().as_nanos() as f64);
    }
    all.sort_by(f64::total_cmp);
    Ok(all[all.len() / 2])
}

/// The result of a C library call that must not fail.
#[track_caller]
pub(crate) fn check<T: PartialOrd + From<i8> + Copy>(r: T) -> T {
    if r < T::from(0) {
        let at = std::panic::Location::caller();
        panic!("{at}: {}", std::io::Error::last_os_error());
    }
    r
}
