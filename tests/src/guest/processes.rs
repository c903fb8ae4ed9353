//! Storms of processes: forked, executed, killed, ended while their threads are busy.

use std::process::Command;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::registers::{self, State};
use crate::sys::{self, Chance, fork, reap};

/// Runs `work` in as many processes at once, each with one thread.
fn in_processes(count: u64, work: fn(u64)) {
    let all: Vec<i32> = (0..count)
        .map(|n| {
            fork(|| {
                work(n);
                0
            })
        })
        .collect();
    for pid in all {
        assert_eq!(reap(pid), 0, "one of the processes failed");
    }
}

fn exec(path: &std::ffi::CStr, arguments: &[&std::ffi::CStr]) -> i32 {
    let mut argv: Vec<_> = arguments.iter().map(|argument| argument.as_ptr()).collect();
    argv.push(std::ptr::null());
    // SAFETY: all strings and the list end with a null.
    unsafe { libc::execv(path.as_ptr(), argv.as_ptr()) };
    // Only if it failed.
    100
}

/// Children that end by themselves, execute a program, have children, or are killed. Each finds the
/// memory of its parent and changes it, which the parent does not see.
pub(crate) fn forks() {
    in_processes(8, |seed| {
        const CHILDREN: u64 = 500;
        let mut chance = Chance::new(seed);
        let mut memory: Vec<u64> = (0..4096).map(|n| seed << 32 | n).collect();
        let mut done = 0;
        while done < CHILDREN {
            let batch: Vec<(i32, i32)> = (0..1 + chance.below(4))
                .map(|_| {
                    let at = chance.below(4096);
                    memory[at as usize] = seed << 32 | at;
                    let code = 1 + chance.below(90) as i32;
                    match chance.below(10) {
                        0 => (fork(|| exec(c"/bin/true", &[c"true"])), 0),
                        1 => {
                            let pid = fork(|| {
                                loop {
                                    // SAFETY: no arguments.
                                    unsafe { libc::pause() };
                                }
                            });
                            // SAFETY: a child that nobody has waited for.
                            assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
                            (pid, -libc::SIGKILL)
                        }
                        2 => (fork(|| reap(fork(|| code))), code),
                        _ => {
                            let child = fork(|| {
                                let intact = (0..4096).all(|n| memory[n] == seed << 32 | n as u64);
                                memory[at as usize] = 0;
                                // SAFETY: no arguments.
                                let orphan = unsafe { libc::getppid() } == 1;
                                if intact && !orphan { code } else { 99 }
                            });
                            (child, code)
                        }
                    }
                })
                .collect();
            for (pid, expected) in &batch {
                assert_eq!(reap(*pid), *expected, "how child {pid} ended");
            }
            done += batch.len() as u64;
            assert!((0..4096).all(|n| memory[n as usize] == seed << 32 | n));
        }
    });
}

/// vfork and exec, as `posix_spawn` does it, from several threads at once.
pub(crate) fn spawns() {
    let me = std::env::args_os().next().unwrap();
    let threads = (0..4u8).map(|n| {
        let me = me.clone();
        std::thread::spawn(move || {
            for round in 0..40u8 {
                let code = n * 40 + round;
                let status = if round % 4 == 0 {
                    assert!(Command::new("/bin/true").status().unwrap().success());
                    continue;
                } else {
                    Command::new(&me).args(["exit", &code.to_string()]).status().unwrap()
                };
                assert_eq!(status.code(), Some(i32::from(code)));
                let error = Command::new("/no/such/program").status().unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
            }
        })
    });
    threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
}

/// What a thread may be at when its process ends.
fn busy(kind: u64, ready: &AtomicU32, pipe: i32) {
    ready.fetch_add(1, Ordering::Relaxed);
    let count = AtomicU64::new(0);
    let never = AtomicU32::new(0);
    loop {
        let mut byte = 0u8;
        // SAFETY: all pointers are valid; no descriptor is closed.
        unsafe {
            match kind % 7 {
                0 => drop(libc::read(pipe, (&raw mut byte).cast(), 1)),
                1 => {
                    let none = std::ptr::null::<libc::timespec>();
                    let wait = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
                    libc::syscall(libc::SYS_futex, never.as_ptr(), wait, 0, none);
                }
                2 => std::thread::sleep(Duration::from_secs(100)),
                3 => drop(count.fetch_add(1, Ordering::Relaxed)),
                4 => drop(libc::getppid()),
                5 => {
                    let mut poll = libc::pollfd { fd: pipe, events: libc::POLLIN, revents: 0 };
                    libc::poll(&mut poll, 1, -1);
                }
                _ => {
                    let len = 16 * 4096;
                    let both = libc::PROT_READ | libc::PROT_WRITE;
                    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                    let at = libc::mmap(std::ptr::null_mut(), len, both, flags, -1, 0);
                    at.cast::<u8>().write_volatile(1);
                    libc::munmap(at, len);
                }
            }
        }
    }
}

/// Processes end, are killed, or execute another program while their threads are in the middle of
/// something.
pub(crate) fn sudden_ends() {
    in_processes(2, |seed| {
        let mut chance = Chance::new(seed);
        for round in 0..25 {
            let code = 1 + chance.below(90) as i32;
            let (way, pause) = (round % 4, chance.below(3_000));
            let child = fork(|| {
                let mut pipe = [0; 2];
                // SAFETY: two numbers are written.
                assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
                let ready: &AtomicU32 = Box::leak(Box::new(AtomicU32::new(0)));
                let count = 3 + chance.below(6);
                for kind in 0..count {
                    std::thread::spawn(move || busy(kind + round, ready, pipe[0]));
                }
                if way != 0 {
                    sys::until("all threads run", || {
                        u64::from(ready.load(Ordering::Relaxed)) == count
                    });
                }
                std::thread::sleep(Duration::from_micros(pause));
                match way {
                    1 => {
                        // By a thread that is not the first.
                        // SAFETY: ends the process.
                        std::thread::spawn(move || unsafe { libc::_exit(code) }).join().unwrap();
                        100
                    }
                    2 => exec(c"/bin/true", &[c"true"]),
                    3 => {
                        // SAFETY: plain numbers.
                        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
                        100
                    }
                    _ => code,
                }
            });
            let expected = match way {
                2 => 0,
                3 => -libc::SIGKILL,
                _ => code,
            };
            assert_eq!(reap(child), expected, "round {round}, way {way}");
        }
    });
}

/// Processes that are stopped and continued while they sleep, wait, compute and call: nothing is
/// interrupted that the program would notice, and no register changes.
pub(crate) fn stops() {
    registers::find_out();
    in_processes(4, |seed| {
        let mut pipe = [0; 2];
        // SAFETY: two numbers are written.
        assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
        let child = fork(|| {
            let mut chance = Chance::new(seed);
            // SAFETY: no arguments.
            let parent = unsafe { libc::getppid() };
            loop {
                let state = State::random(&mut chance);
                registers::compute(&state, 5_000);
                registers::calls(&state, 20, parent);
                let nap = libc::timespec { tv_sec: 0, tv_nsec: 300_000 };
                let mut poll = libc::pollfd { fd: pipe[0], events: libc::POLLIN, revents: 0 };
                let mut byte = 0u8;
                // SAFETY: all pointers are valid. Stops restart these calls, they do not end them.
                unsafe {
                    assert_eq!(libc::nanosleep(&nap, std::ptr::null_mut()), 0);
                    let ready = libc::poll(&mut poll, 1, 1);
                    assert!(ready == 0 || ready == 1, "poll: errno {}", sys::errno());
                    if ready == 1 {
                        assert_eq!(libc::read(pipe[0], (&raw mut byte).cast(), 1), 1);
                        return i32::from(byte);
                    }
                }
            }
        });
        let mut chance = Chance::new(seed + 100);
        for _ in 0..100 {
            std::thread::sleep(Duration::from_micros(chance.below(1_500)));
            let mut status = 0;
            // SAFETY: a child that has not ended; `status` is valid.
            unsafe {
                assert_eq!(libc::kill(child, libc::SIGSTOP), 0);
                assert_eq!(libc::waitpid(child, &mut status, libc::WUNTRACED), child);
                assert!(libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGSTOP);
                assert_eq!(libc::kill(child, libc::SIGCONT), 0);
                assert_eq!(libc::waitpid(child, &mut status, libc::WCONTINUED), child);
                assert!(libc::WIFCONTINUED(status), "status {status:#x}");
            }
        }
        let code = 55u8;
        // SAFETY: one byte.
        assert_eq!(unsafe { libc::write(pipe[1], (&raw const code).cast(), 1) }, 1);
        assert_eq!(reap(child), i32::from(code));
    });
}
