//! Computing, alone and with calls strewn in: what being watched over costs those who hardly call.

use crate::Row;
use crate::timing::{check, each, few, many};
use std::hint::black_box;

/// The rows of this group.
pub(crate) const ROWS: &[Row] = &[
    ("compute", compute),
    ("compute, 2 threads", compute_two),
    ("20 µs computed, 1 call", || Ok(each(|| piece(20)))),
    ("100 µs computed, 1 call", || Ok(each(|| piece(100)))),
    ("2 threads: 100 µs computed, 1 call", || Ok(together(2, || piece(100)))),
    ("4 threads of calls", || Ok(together(4, call))),
];

/// Rounds of [`work`] in a microsecond, about: the amount is the same everywhere.
const MICROSECOND: u64 = 600;

/// A chain of multiplications, which no CPU can overlap.
fn work(rounds: u64) {
    let mut x = black_box(0x9e37_79b9_7f4a_7c15_u64);
    for _ in 0..rounds {
        x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    }
    black_box(x);
}

fn call() {
    // SAFETY: no memory is touched.
    unsafe { check(libc::fcntl(1, libc::F_GETFD)) };
}

/// Some microseconds of work, then a call.
fn piece(microseconds: u64) {
    work(microseconds * MICROSECOND);
    call();
}

/// About a second.
fn compute() -> Result<f64, String> {
    few(1, || {
        work(1_000_000 * MICROSECOND);
        Ok(())
    })
}

fn compute_two() -> Result<f64, String> {
    few(1, || {
        threads(2, 1, || work(1_000_000 * MICROSECOND));
        Ok(())
    })
}

/// Runs `body` `n` times in each of `count` threads.
fn threads(count: usize, n: u64, body: fn()) {
    std::thread::scope(|s| {
        for _ in 0..count {
            s.spawn(|| (0..n).for_each(|_| body()));
        }
    });
}

/// Nanoseconds a round in which each of `count` threads does `body` once.
fn together(count: usize, body: fn()) -> f64 {
    many(|n| threads(count, n, body))
}

/// Keeps a CPU busy until it is killed.
pub(crate) fn burn() -> ! {
    loop {
        work(1_000_000);
    }
}
