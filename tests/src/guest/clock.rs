//! What a program sees of time with `--clock=coarse`: no storm, for natively it is not so.

use std::arch::x86_64::{__rdtscp, _rdtsc};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

const STEP: u64 = 1_000_000;
const CLOCKS: [i32; 7] = [
    libc::CLOCK_REALTIME,
    libc::CLOCK_MONOTONIC,
    libc::CLOCK_MONOTONIC_RAW,
    libc::CLOCK_REALTIME_COARSE,
    libc::CLOCK_MONOTONIC_COARSE,
    libc::CLOCK_BOOTTIME,
    libc::CLOCK_TAI,
];
const CPU_CLOCKS: [i32; 2] = [libc::CLOCK_PROCESS_CPUTIME_ID, libc::CLOCK_THREAD_CPUTIME_ID];

/// By the C library, which uses the vDSO if there is one.
fn now(clock: i32) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a live buffer.
    assert_eq!(unsafe { libc::clock_gettime(clock, &mut time) }, 0, "clock {clock}");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn resolution(clock: i32) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a live buffer.
    assert_eq!(unsafe { libc::clock_getres(clock, &mut time) }, 0, "clock {clock}");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn tsc() -> u64 {
    // SAFETY: every x86-64 has it.
    unsafe { _rdtsc() }
}

fn tscp() -> u64 {
    let mut cpu = 0;
    // SAFETY: what this is about; every x86-64 that the tests run on has it.
    let value = unsafe { __rdtscp(&mut cpu) };
    assert!(cpu < 4096, "a processor number: {cpu}");
    value
}

/// Reads `clock` for `ns` of it: it never goes back, and the distances between what it shows.
fn distances(ns: u64, clock: impl Fn() -> u64) -> Vec<u64> {
    let start = now(libc::CLOCK_MONOTONIC);
    let mut last = clock();
    let mut seen = Vec::new();
    while now(libc::CLOCK_MONOTONIC) < start + ns {
        let new = clock();
        assert!(new >= last, "it went back from {last} to {new}");
        if new > last {
            seen.push(new - last);
        }
        last = new;
    }
    assert!(seen.len() > 2, "it stands still");
    seen
}

/// How long the machine is up, whichever way one asks: always the same, and not for long.
pub(crate) fn uptime() {
    const SECOND: u64 = 1_000_000_000;
    let by_call = |clock: i32| {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: a live buffer.
        unsafe { libc::syscall(libc::SYS_clock_gettime, clock, &mut time) };
        time.tv_sec as u64 * SECOND + time.tv_nsec as u64
    };
    let field = |path: &str, start: &str| -> u64 {
        let text = std::fs::read_to_string(path).expect("a file of /proc");
        let line = text.lines().find_map(|line| line.strip_prefix(start)).expect("a line");
        let number = line.split([' ', '.']).next().expect("a number");
        number.parse().expect("a number")
    };
    // SAFETY: live buffers.
    let (info, ticks) = unsafe {
        let mut info: libc::sysinfo = std::mem::zeroed();
        assert_eq!(libc::sysinfo(&mut info), 0);
        (info, libc::times(&mut std::mem::zeroed()) as u64)
    };
    let start = std::fs::read_to_string("/proc/self/stat").expect("stat");
    let start: u64 = start.split(' ').nth(21).and_then(|f| f.parse().ok()).expect("starttime");
    let all = [
        now(libc::CLOCK_MONOTONIC),
        by_call(libc::CLOCK_MONOTONIC),
        now(libc::CLOCK_BOOTTIME),
        by_call(libc::CLOCK_BOOTTIME),
        by_call(libc::CLOCK_MONOTONIC_COARSE),
        info.uptime as u64 * SECOND,
        ticks * (SECOND / 100),
        start * (SECOND / 100),
        field("/proc/uptime", "") * SECOND,
        now(libc::CLOCK_REALTIME) - field("/proc/stat", "btime ") * SECOND,
    ];
    let (least, most) = (all.iter().min().unwrap(), all.iter().max().unwrap());
    assert!(most - least < 10 * SECOND && *most < 100 * SECOND, "{all:?}");
    let raw = [now(libc::CLOCK_MONOTONIC_RAW), by_call(libc::CLOCK_MONOTONIC_RAW)];
    assert!(raw.iter().all(|&raw| raw < 1 << 50), "{raw:?}");
}

/// All of it; ends with a message if something is not so.
pub(crate) fn coarse() {
    // SAFETY: reads the auxiliary vector.
    assert_eq!(unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) }, 0, "there is a vDSO");
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert!(!maps.contains("[vdso]") && !maps.contains("[vvar]"), "{maps}");
    clocks();
    counters();
    threads();
    sleeps();
    others();
    guests_own_switch();
}

fn clocks() {
    for clock in CLOCKS.into_iter().chain(CPU_CLOCKS) {
        assert_eq!(resolution(clock), STEP, "clock {clock}");
        assert_eq!(now(clock) % STEP, 0, "clock {clock}");
    }
    for clock in CLOCKS {
        assert!(distances(60 * STEP, || now(clock)).iter().all(|d| d % STEP == 0));
    }
    // All step at once: those that start together stay together.
    let apart = || {
        let before = now(libc::CLOCK_MONOTONIC);
        let other = now(libc::CLOCK_BOOTTIME);
        // Nothing stepped in between.
        (now(libc::CLOCK_MONOTONIC) == before).then(|| other.wrapping_sub(before))
    };
    let seen: BTreeSet<u64> = (0..1000).filter_map(|_| apart()).collect();
    assert!((1..=2).contains(&seen.len()), "{seen:?}");
}

fn counters() {
    let unit = tsc_per_step();
    for read in [tsc, tscp] {
        for distance in distances(50 * STEP, read) {
            let steps = (distance + unit / 2) / unit;
            assert!(distance.abs_diff(steps * unit) <= steps + 1, "{distance} with {unit}");
        }
    }
    // Steps begin at odd times: loops between them differ in number, by far.
    let mut loops = Vec::new();
    let (mut last, mut count) = (tsc(), 0u64);
    while loops.len() < 100 {
        count += 1;
        let new = tsc();
        if new != last {
            loops.push(count);
            (last, count) = (new, 0);
        }
    }
    loops.sort_unstable();
    let (few, many) = (loops[10], loops[90]);
    assert!(few * 3 < many * 2, "between two steps from {few} to {many} loops");
}

/// How much the counter counts in a step.
fn tsc_per_step() -> u64 {
    let at_step = || {
        let before = now(libc::CLOCK_MONOTONIC);
        loop {
            let (time, counter, after) =
                (now(libc::CLOCK_MONOTONIC), tsc(), now(libc::CLOCK_MONOTONIC));
            if time > before && time == after {
                return (time, counter);
            }
        }
    };
    let (t0, c0) = at_step();
    let (t1, c1) = loop {
        let (t1, c1) = at_step();
        if t1 > t0 + 200 * STEP {
            break (t1, c1);
        }
    };
    (c1 - c0) / ((t1 - t0) / STEP)
}

/// No thread sees a time before one that another has seen.
fn threads() {
    static LATEST: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
    let reader = || {
        let start = now(libc::CLOCK_MONOTONIC);
        while now(libc::CLOCK_MONOTONIC) < start + 100 * STEP {
            let reads: [fn() -> u64; 3] =
                [|| now(libc::CLOCK_MONOTONIC), || now(libc::CLOCK_REALTIME), tsc];
            for (latest, read) in LATEST.iter().zip(reads) {
                let before = latest.load(SeqCst);
                let new = read();
                assert!(new >= before, "{new} after {before}");
                latest.fetch_max(new, SeqCst);
            }
        }
    };
    let threads: Vec<_> = (0..3).map(|_| std::thread::spawn(reader)).collect();
    threads.into_iter().for_each(|thread| thread.join().expect("a thread"));
}

/// Sleeps end with a step, and not before their time.
fn sleeps() {
    for us in [1, 100, 1500, 3000] {
        let before = now(libc::CLOCK_MONOTONIC);
        std::thread::sleep(std::time::Duration::from_micros(us));
        let slept = now(libc::CLOCK_MONOTONIC) - before;
        assert!(
            slept >= us * 1000 && slept.is_multiple_of(STEP) && slept > 0,
            "{slept} for {us} us"
        );
    }
    // SAFETY: a new descriptor, live buffers.
    unsafe {
        let fd = libc::timerfd_create(libc::CLOCK_MONOTONIC, 0);
        let span = |ns: i64| libc::timespec { tv_sec: 0, tv_nsec: ns };
        let mut timer = libc::itimerspec { it_interval: span(0), it_value: span(300_000_000) };
        assert_eq!(libc::timerfd_settime(fd, 0, &timer, std::ptr::null_mut()), 0);
        assert_eq!(libc::timerfd_gettime(fd, &mut timer), 0);
        assert_eq!(timer.it_value.tv_nsec as u64 % STEP, 0);
        timer.it_value = span(2_500_000);
        let before = now(libc::CLOCK_MONOTONIC);
        assert_eq!(libc::timerfd_settime(fd, 0, &timer, std::ptr::null_mut()), 0);
        let mut count = 0u64;
        assert_eq!(libc::read(fd, (&raw mut count).cast(), 8), 8);
        assert!(now(libc::CLOCK_MONOTONIC) >= before + 2_500_000);
        libc::close(fd);
    }
}

/// gettimeofday, file times, used processor time.
fn others() {
    use std::os::unix::fs::MetadataExt;
    // SAFETY: live buffers.
    let (of_day, usage) = unsafe {
        let mut of_day: libc::timeval = std::mem::zeroed();
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::gettimeofday(&mut of_day, std::ptr::null_mut()), 0);
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, &mut usage), 0);
        (of_day, usage)
    };
    for micros in [of_day.tv_usec, usage.ru_utime.tv_usec, usage.ru_stime.tv_usec] {
        assert_eq!(micros % 1000, 0);
    }
    for place in ["/tmp/coarse", "./coarse"] {
        for _ in 0..20 {
            std::fs::write(place, "x").expect("a file");
            let data = std::fs::metadata(place).expect("a file");
            let now = now(libc::CLOCK_REALTIME) as i64;
            for (sec, nsec) in
                [(data.mtime(), data.mtime_nsec()), (data.ctime(), data.ctime_nsec())]
            {
                assert_eq!(nsec % STEP as i64, 0, "{place}");
                assert!(sec * 1_000_000_000 + nsec <= now, "{place}: in the future");
            }
        }
        std::fs::remove_file(place).expect("the file goes");
    }
}

/// `PR_SET_TSC` is Linux's still.
fn guests_own_switch() {
    // SAFETY: plain system calls; the child reads the counter, and dies of it.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::signal(libc::SIGSEGV, libc::SIG_DFL);
            libc::prctl(libc::PR_SET_TSC, libc::PR_TSC_SIGSEGV);
            tsc();
            libc::_exit(0);
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV, "{status}");
        let mut mode = 0;
        assert_eq!(libc::prctl(libc::PR_GET_TSC, &mut mode), 0);
        assert_eq!(mode, libc::PR_TSC_ENABLE);
    }
    tsc();
}
