//! Storms of threads and futexes.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use crate::sys;

thread_local! {
    static MINE: Cell<u64> = const { Cell::new(7) };
}

/// Threads come and go, sixteen at a time; each has its own thread-local storage and thread id.
pub(crate) fn threads() {
    const ROUNDS: u64 = 150;
    const AT_A_TIME: u64 = 16;
    let sum = Arc::new(AtomicU64::new(0));
    for round in 0..ROUNDS {
        let all: Vec<_> = (0..AT_A_TIME)
            .map(|n| {
                let (sum, value) = (sum.clone(), round * AT_A_TIME + n);
                std::thread::spawn(move || {
                    assert_eq!(MINE.replace(value), 7, "fresh thread-local storage");
                    if value % 3 == 0 {
                        std::thread::yield_now();
                    }
                    sum.fetch_add(value, Ordering::Relaxed);
                    assert_eq!(MINE.get(), value);
                    (sys::gettid(), value)
                })
            })
            .collect();
        let mut tids: Vec<i32> = all
            .into_iter()
            .enumerate()
            .map(|(n, thread)| {
                let (tid, value) = thread.join().unwrap();
                assert_eq!(value, round * AT_A_TIME + n as u64);
                tid
            })
            .collect();
        tids.push(sys::gettid());
        let count = tids.len();
        tids.sort_unstable();
        tids.dedup();
        // A number may be used again only after its thread is gone.
        assert!(tids.len() > 1 && tids.len() <= count);
        assert!(tids.iter().all(|&tid| tid > 0));
    }
    let total = ROUNDS * AT_A_TIME;
    assert_eq!(sum.load(Ordering::Relaxed), total * (total - 1) / 2);
    assert_eq!(MINE.get(), 7);
}

fn futex_wait(word: &AtomicU32, value: u32) {
    let none = std::ptr::null::<libc::timespec>();
    // SAFETY: the word is valid.
    let r = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            value,
            none,
        )
    };
    let errno = sys::errno();
    assert!(r == 0 || errno == libc::EAGAIN || errno == libc::EINTR, "FUTEX_WAIT: errno {errno}");
}

fn futex_wake(word: &AtomicU32) {
    // SAFETY: the word is valid.
    let r = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            1,
        )
    };
    assert!((0..=1).contains(&r), "FUTEX_WAKE: {r}");
}

/// Pairs of threads hand a number back and forth; then all of them fight for one lock.
pub(crate) fn futexes() {
    const PAIRS: u64 = 4;
    const ROUNDS: u32 = 1_500;
    let shared = Arc::new((Mutex::new(0u64), Condvar::new()));
    let threads = (0..PAIRS).flat_map(|_| {
        let word = Arc::new(AtomicU32::new(0));
        [0u32, 1].map(|side| {
            let (word, shared) = (word.clone(), shared.clone());
            std::thread::spawn(move || {
                for round in 0..ROUNDS {
                    let turn = round * 2 + side;
                    loop {
                        let now = word.load(Ordering::Acquire);
                        if now == turn {
                            break;
                        }
                        assert!(now < turn, "a turn was skipped");
                        futex_wait(&word, now);
                    }
                    word.store(turn + 1, Ordering::Release);
                    futex_wake(&word);
                }
                for _ in 0..200 {
                    let (lock, changed) = &*shared;
                    let mut count = lock.lock().unwrap();
                    *count += 1;
                    changed.notify_all();
                }
                let (lock, changed) = &*shared;
                let count = lock.lock().unwrap();
                let done = |count: &mut u64| *count < PAIRS * 2 * 200;
                drop(changed.wait_while(count, done).unwrap());
            })
        })
    });
    threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(*shared.0.lock().unwrap(), PAIRS * 2 * 200);
}
