//! Storms of signals against threads that compute and call.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use crate::registers::{self, State};
use crate::sys::{self, Chance};

const THREADS: u64 = 8;
/// Signals that each thread handles: 100,000 in all.
const TICKS: u64 = 12_500;
/// Signals of the process's own timer, for whichever thread.
const ALARMS: u64 = 5_000;

thread_local! {
    static HANDLED: Cell<u64> = const { Cell::new(0) };
}
static ALARMED: AtomicU64 = AtomicU64::new(0);
static UNCLEAN: AtomicU64 = AtomicU64::new(0);

/// Counts, and leaves no vector register as it was.
extern "C" fn tick(signo: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    if !registers::is_clean() {
        UNCLEAN.fetch_add(1, Ordering::Relaxed);
    }
    registers::clobber();
    HANDLED.set(HANDLED.get() + 1);
    if signo == libc::SIGALRM {
        ALARMED.fetch_add(1, Ordering::Relaxed);
    }
}

/// A timer of the calling thread's own.
fn start_timer(nanoseconds: i64) {
    // SAFETY: zeroed structures are valid; all pointers are.
    unsafe {
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = libc::SIGUSR1;
        event.sigev_notify_thread_id = sys::gettid();
        let mut timer: libc::timer_t = std::mem::zeroed();
        assert_eq!(libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer), 0);
        let every = libc::timespec { tv_sec: 0, tv_nsec: nanoseconds };
        let spec = libc::itimerspec { it_interval: every, it_value: every };
        assert_eq!(libc::timer_settime(timer, 0, &spec, std::ptr::null_mut()), 0);
    }
}

fn set_alarm(microseconds: i64) {
    let every = libc::timeval { tv_sec: 0, tv_usec: microseconds };
    let spec = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: `spec` is valid.
    unsafe { assert_eq!(libc::setitimer(libc::ITIMER_REAL, &spec, std::ptr::null_mut()), 0) };
}

/// What a thread does while signals rain on it. Everything is checked.
struct Work {
    chance: Chance,
    pipe: [i32; 2],
    parent: i32,
}

impl Work {
    fn new(seed: u64) -> Work {
        let mut pipe = [0; 2];
        // SAFETY: two numbers are written; no arguments.
        unsafe {
            assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
            Work { chance: Chance::new(seed), pipe, parent: libc::getppid() }
        }
    }

    fn once(&mut self) {
        let state = State::random(&mut self.chance);
        registers::compute(&state, 1 + self.chance.below(20_000));
        registers::calls(&state, 1 + self.chance.below(20), self.parent);
        let out = self.chance.next().to_le_bytes();
        let mut back = [0u8; 8];
        // SAFETY: the buffers are valid, the descriptors this thread's own.
        let (wrote, read) = unsafe {
            (
                libc::write(self.pipe[1], out.as_ptr().cast(), 8),
                libc::read(self.pipe[0], back.as_mut_ptr().cast(), 8),
            )
        };
        assert_eq!((wrote, read, back), (8, 8, out), "errno {}", sys::errno());
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // SAFETY: the descriptors are this thread's own.
        unsafe { self.pipe.iter().for_each(|&fd| assert_eq!(libc::close(fd), 0)) };
    }
}

pub(crate) fn timer_signals() {
    registers::find_out();
    sys::handle(libc::SIGUSR1, tick, libc::SA_RESTART);
    sys::handle(libc::SIGALRM, tick, libc::SA_RESTART);
    let all_done = Arc::new(Barrier::new(THREADS as usize));
    let threads = (0..THREADS).map(|seed| {
        let all_done = all_done.clone();
        std::thread::spawn(move || {
            let mut work = Work::new(seed);
            start_timer(20_000);
            while HANDLED.get() < TICKS {
                work.once();
            }
            all_done.wait();
            // The threads' own timers go on meanwhile.
            set_alarm(100);
            while ALARMED.load(Ordering::Relaxed) < ALARMS {
                work.once();
            }
        })
    });
    threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(UNCLEAN.load(Ordering::Relaxed), 0, "handlers started with registers of others");
}

/// Queued signals that each pair of threads exchanges.
const QUEUED: u64 = 4_000;
const PAIRS: u64 = 4;

thread_local! {
    static NEXT: Cell<u64> = const { Cell::new(0) };
}
static DISORDER: AtomicBool = AtomicBool::new(false);

/// Signals of one sender and number come in the order in which they were sent, none lost.
extern "C" fn queued(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    registers::clobber();
    // SAFETY: the kernel filled in the structure for a signal with a value.
    let value = unsafe { (*info).si_value().sival_ptr } as u64;
    if value != NEXT.get() {
        DISORDER.store(true, Ordering::Relaxed);
    }
    NEXT.set(NEXT.get() + 1);
}

fn send(to: i32, value: u64) -> i64 {
    // SAFETY: a siginfo_t of a queued signal: code, sender's pid and uid, value.
    unsafe {
        let mut info = [0i32; 32];
        info[0] = libc::SIGRTMIN();
        info[2] = libc::SI_QUEUE;
        info[4] = libc::getpid();
        info[5] = libc::getuid() as i32;
        info[6] = value as i32;
        info[7] = (value >> 32) as i32;
        libc::syscall(libc::SYS_rt_tgsigqueueinfo, libc::getpid(), to, info[0], info.as_ptr())
    }
}

pub(crate) fn queued_signals() {
    registers::find_out();
    sys::handle(libc::SIGRTMIN(), queued, libc::SA_RESTART);
    let threads = (0..PAIRS).flat_map(|pair| {
        let tids = Arc::new([AtomicI32::new(0), AtomicI32::new(0)]);
        [0, 1].map(|side: usize| {
            let tids = tids.clone();
            std::thread::spawn(move || {
                tids[side].store(sys::gettid(), Ordering::SeqCst);
                sys::until("the other thread runs", || tids[1 - side].load(Ordering::SeqCst) != 0);
                let other = tids[1 - side].load(Ordering::SeqCst);
                let mut work = Work::new(pair * 2 + side as u64);
                let mut sent = 0;
                while sent < QUEUED {
                    if send(other, sent) == 0 {
                        sent += 1;
                    } else {
                        // The user's limit of pending signals.
                        assert_eq!(sys::errno(), libc::EAGAIN);
                    }
                    if sent % 50 == 0 {
                        work.once();
                    }
                }
                sys::until("all signals have come", || NEXT.get() == QUEUED);
                // A tgkill to a thread that is gone would be an error.
                tids[side].store(-1, Ordering::SeqCst);
                sys::until("the other is done", || tids[1 - side].load(Ordering::SeqCst) == -1);
            })
        })
    });
    threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
    assert!(!DISORDER.load(Ordering::Relaxed), "signals overtook each other");
}

/// Bytes that each reader gets.
const BYTES: u32 = 300;

/// Waiting calls that are interrupted all the time: restarted where the handler says so, and ended
/// with EINTR where not; nothing is lost, and time-outs are kept.
pub(crate) fn interrupted_calls() {
    registers::find_out();
    sys::handle(libc::SIGUSR1, tick, libc::SA_RESTART);
    sys::handle(libc::SIGUSR2, tick, 0);
    let threads = (0..4u64).map(|seed| {
        std::thread::spawn(move || {
            let restart = seed % 2 == 0;
            let mut pipe = [0; 2];
            // SAFETY: two numbers are written.
            assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
            let done = Arc::new(AtomicBool::new(false));
            let tid = sys::gettid();
            let reader_done = done.clone();
            let signo = if restart { libc::SIGUSR1 } else { libc::SIGUSR2 };
            let writer = std::thread::spawn(move || {
                let mut chance = Chance::new(seed);
                for n in 0..BYTES {
                    for _ in 0..chance.below(6) {
                        // SAFETY: plain numbers; the thread waits for this one.
                        let r =
                            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, signo) };
                        assert_eq!(r, 0);
                        std::thread::sleep(std::time::Duration::from_micros(chance.below(150)));
                    }
                    let byte = n as u8;
                    // SAFETY: one byte.
                    assert_eq!(unsafe { libc::write(pipe[1], (&raw const byte).cast(), 1) }, 1);
                }
                // Until the reader is through with its naps.
                while !reader_done.load(Ordering::Relaxed) {
                    // SAFETY: as above.
                    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, signo) };
                    std::thread::sleep(std::time::Duration::from_micros(200));
                }
            });
            let mut interrupted = 0;
            for n in 0..BYTES {
                let mut byte = 0u8;
                loop {
                    // SAFETY: one byte.
                    let got = unsafe { libc::read(pipe[0], (&raw mut byte).cast(), 1) };
                    if got == 1 {
                        break;
                    }
                    assert_eq!((got, sys::errno(), restart), (-1, libc::EINTR, false));
                    interrupted += 1;
                }
                assert_eq!(byte, n as u8);
            }
            assert!(restart || interrupted > 0, "no call was interrupted");
            // Calls with a time-out are not restarted after a handler, whatever it says.
            let word = std::sync::atomic::AtomicU32::new(0);
            for _ in 0..20 {
                let nap = libc::timespec { tv_sec: 0, tv_nsec: 3_000_000 };
                let start = std::time::Instant::now();
                // SAFETY: all pointers are valid.
                let (r, errno) = unsafe {
                    let wait = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
                    let r = libc::syscall(libc::SYS_futex, word.as_ptr(), wait, 0, &raw const nap);
                    (r, sys::errno())
                };
                let took = start.elapsed();
                assert_eq!(r, -1, "a futex with a time-out");
                match errno {
                    libc::ETIMEDOUT => {
                        assert!(took >= std::time::Duration::from_millis(3), "{took:?}");
                    }
                    errno => assert_eq!(errno, libc::EINTR, "a futex with a time-out"),
                }
                // Sleep tells what is left.
                let start = std::time::Instant::now();
                let mut left = nap;
                // SAFETY: the structure is valid.
                while unsafe { libc::nanosleep(&left, &mut left) } == -1 {
                    assert_eq!(sys::errno(), libc::EINTR);
                }
                let took = start.elapsed();
                assert!(took >= std::time::Duration::from_millis(3), "{took:?}");
            }
            done.store(true, Ordering::Relaxed);
            writer.join().unwrap();
            // SAFETY: this thread's own descriptors.
            unsafe { pipe.iter().for_each(|&fd| assert_eq!(libc::close(fd), 0)) };
        })
    });
    threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(UNCLEAN.load(Ordering::Relaxed), 0, "handlers started with registers of others");
}
