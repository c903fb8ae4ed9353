//! Clocks, nanosleep, itimers, POSIX timers, timerfd, alarm.

use crate::helpers::*;
use crate::sys::BAD;
use std::sync::atomic::Ordering::SeqCst;

cases![
    clocks,
    clock_errors,
    clock_resolutions,
    cpu_clocks,
    cpu_clocks_of_others,
    vdso_agrees,
    nanosleep_forms,
    clock_nanosleep_forms,
    alarm_forms,
    itimer_real,
    itimer_virtual,
    itimer_errors,
    timer_signals,
    timer_thread_id,
    timer_gettime_and_overrun,
    timer_errors,
    timer_none,
    timers_not_inherited,
    timerfd_once,
    timerfd_periodic,
    timerfd_absolute,
    timerfd_errors,
    timerfd_blocking_read,
    times_and_rusage,
    settime_denied,
    gettimeofday_forms,
];

fn spec(interval: i64, value: i64) -> itimerspec {
    itimerspec { it_interval: ms(interval), it_value: ms(value) }
}

fn clocks() {
    for c in [CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME, CLOCK_TAI] {
        let a = now(c);
        let b = now(c);
        assert!(b >= a && a > 0, "clock {c}");
    }
    assert!(now(CLOCK_REALTIME) > 1_600_000_000_000_000_000);
    let a = mono();
    nap(5);
    assert!(mono() - a >= 5_000_000);
}

fn clock_errors() {
    let mut t = ms(0);
    err!(EINVAL: SYS_clock_gettime, 99, &mut t);
    err!(EINVAL: SYS_clock_gettime, 16, &mut t);
    err!(EFAULT: SYS_clock_gettime, CLOCK_MONOTONIC, BAD);
    err!(EINVAL: SYS_clock_getres, 99, &mut t);
    ok!(SYS_clock_getres, CLOCK_MONOTONIC, 0);
}

fn clock_resolutions() {
    for c in [CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID, CLOCK_BOOTTIME] {
        let mut t = ms(0);
        ok!(SYS_clock_getres, c, &mut t);
        println!("{c} {} {}", t.tv_sec, t.tv_nsec);
    }
}

fn cpu_clocks() {
    let begin = mono();
    let (p, t) = (now(CLOCK_PROCESS_CPUTIME_ID), now(CLOCK_THREAD_CPUTIME_ID));
    nap(50);
    // Sleeping costs nothing.
    let used = now(CLOCK_PROCESS_CPUTIME_ID) - p;
    let passed = mono() - begin;
    assert!(used + 50_000_000 <= passed, "{used} of {passed}");
    // Working does.
    while now(CLOCK_THREAD_CPUTIME_ID) - t < 30_000_000 {}
    // Others' work does not, while one waits for it.
    let (begin, before) = (mono(), now(CLOCK_THREAD_CPUTIME_ID));
    let worked = std::thread::spawn(|| {
        settle();
        let (from, end) = (mono(), now(CLOCK_THREAD_CPUTIME_ID) + 20_000_000);
        while now(CLOCK_THREAD_CPUTIME_ID) < end {}
        mono() - from
    })
    .join()
    .unwrap();
    let used = now(CLOCK_THREAD_CPUTIME_ID) - before;
    let passed = mono() - begin;
    assert!(used + worked <= passed, "{used} and {worked} of {passed}");
    assert!(now(CLOCK_PROCESS_CPUTIME_ID) - p >= 20_000_000);
}

fn cpu_clocks_of_others() {
    let pid = fork(|| loop {
        std::hint::spin_loop();
    });
    let clock = (!pid << 3) | 2;
    while now(clock) < 1_000_000 {
        nap(1);
    }
    ok!(SYS_kill, pid, SIGKILL);
    wait(pid);
    err!(EINVAL: SYS_clock_gettime, clock, &mut ms(0));
}

fn vdso_agrees() {
    for c in [CLOCK_REALTIME, CLOCK_MONOTONIC] {
        let mut t = ms(0);
        let before = now(c);
        // SAFETY: a valid pointer; the C library asks the vDSO.
        unsafe { clock_gettime(c, &mut t) };
        let between = t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64;
        let after = now(c);
        assert!(before <= between && between <= after, "{before} {between} {after}");
    }
}

fn nanosleep_forms() {
    let before = mono();
    ok!(SYS_nanosleep, &ms(20), 0);
    assert!(mono() - before >= 20_000_000);
    ok!(SYS_nanosleep, &ms(0), 0);
    err!(EINVAL: SYS_nanosleep, &timespec { tv_sec: -1, tv_nsec: 0 }, 0);
    err!(EINVAL: SYS_nanosleep, &timespec { tv_sec: 0, tv_nsec: 1_000_000_000 }, 0);
    err!(EINVAL: SYS_nanosleep, &timespec { tv_sec: 0, tv_nsec: -1 }, 0);
    err!(EFAULT: SYS_nanosleep, BAD, 0);
}

fn clock_nanosleep_forms() {
    let t = mono() as i64 + 20_000_000;
    let end = timespec { tv_sec: t / 1_000_000_000, tv_nsec: t % 1_000_000_000 };
    ok!(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &end, 0);
    assert!(mono() as i64 >= t);
    // A time that is over returns at once.
    ok!(SYS_clock_nanosleep, CLOCK_REALTIME, TIMER_ABSTIME, &ms(5), 0);
    ok!(SYS_clock_nanosleep, CLOCK_BOOTTIME, 0, &ms(1), 0);
    err!(EINVAL: SYS_clock_nanosleep, 99, 0, &ms(1), 0);
    err!(EOPNOTSUPP: SYS_clock_nanosleep, CLOCK_THREAD_CPUTIME_ID, 0, &ms(1), 0);
    err!(EINVAL: SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &timespec { tv_sec: 0, tv_nsec: -1 }, 0);
    err!(EFAULT: SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, BAD, 0);
}

fn alarm_forms() {
    on(SIGALRM, 0);
    assert_eq!(ok!(SYS_alarm, 100), 0);
    assert!((98..=100).contains(&ok!(SYS_alarm, 0)));
    let mut t: itimerval = zeroed();
    ok!(SYS_alarm, 50);
    ok!(SYS_getitimer, ITIMER_REAL, &mut t);
    assert!((45..=50).contains(&t.it_value.tv_sec) && t.it_interval.tv_sec == 0);
    in_child(|| assert_eq!(ok!(SYS_alarm, 0), 0, "not inherited"));
}

fn val(interval: i64, value: i64) -> itimerval {
    let t = |n: i64| timeval { tv_sec: n / 1000, tv_usec: (n % 1000) * 1000 };
    itimerval { it_interval: t(interval), it_value: t(value) }
}

fn itimer_real() {
    on(SIGALRM, SA_RESTART);
    let before = mono();
    ok!(SYS_setitimer, ITIMER_REAL, &val(10, 20), 0);
    while count(SIGALRM) < 3 {
        let _ = sys!(SYS_pause);
    }
    assert!(mono() - before >= 39_000_000);
    let mut old = val(0, 0);
    ok!(SYS_setitimer, ITIMER_REAL, &val(0, 0), &mut old);
    assert_eq!(old.it_interval.tv_usec, 10_000);
    let n = count(SIGALRM);
    nap(30);
    assert_eq!(count(SIGALRM), n);
    assert_eq!(CODE.load(SeqCst), 0x80);
    // Without a handler it ends the process.
    let status = status_of(|| {
        action(SIGALRM, SIG_DFL, 0, &[]);
        ok!(SYS_setitimer, ITIMER_REAL, &val(0, 5), 0);
        nap(5000);
        0
    });
    assert_eq!(killed_by(status), Some(SIGALRM));
}

fn itimer_virtual() {
    on(SIGVTALRM, 0);
    on(SIGPROF, 0);
    // No time passes while asleep.
    for timer in [ITIMER_VIRTUAL, ITIMER_PROF] {
        let mut left = val(0, 0);
        let before = mono();
        ok!(SYS_setitimer, timer, &val(0, 9000), 0);
        nap(40);
        ok!(SYS_getitimer, timer, &mut left);
        let passed = (mono() - before) as i64 / 1000;
        let used = 9_000_000 - left.it_value.tv_sec * 1_000_000 - left.it_value.tv_usec;
        // Linux shows a tick less than was asked for, or more.
        assert!(used + 40_000 <= passed + 10_000, "{used} of {passed}");
        ok!(SYS_setitimer, timer, &val(0, 10), 0);
    }
    while count(SIGVTALRM) == 0 || count(SIGPROF) == 0 {
        for i in 0..100_000 {
            std::hint::black_box(i);
        }
    }
    assert_eq!((count(SIGVTALRM), count(SIGPROF)), (1, 1));
}

fn itimer_errors() {
    let mut t = val(0, 0);
    err!(EINVAL: SYS_setitimer, 3, &t, 0);
    err!(EINVAL: SYS_getitimer, -1, &mut t);
    err!(EFAULT: SYS_getitimer, ITIMER_REAL, BAD);
    err!(EFAULT: SYS_setitimer, ITIMER_REAL, BAD, 0);
    t.it_value.tv_usec = 1_000_000;
    err!(EINVAL: SYS_setitimer, ITIMER_REAL, &t, 0);
    t.it_value.tv_usec = -1;
    err!(EINVAL: SYS_setitimer, ITIMER_REAL, &t, 0);
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Event {
    value: u64,
    signo: i32,
    notify: i32,
    tid: i32,
    rest: [i32; 11],
}

fn event(signo: i32, notify: i32, tid: i32) -> Event {
    Event { value: 0xabcd_1234_5678, signo, notify, tid, rest: [0; 11] }
}

fn timer_signals() {
    // Not before it is waited for, however late that is.
    sigmask(SIG_BLOCK, bit(SIGUSR1) | bit(SIGALRM));
    on(SIGUSR1, 0);
    let mut id = -1i32;
    ok!(SYS_timer_create, CLOCK_MONOTONIC, &event(SIGUSR1, 0, 0), &mut id);
    ok!(SYS_timer_settime, id, 0, &spec(0, 10), 0);
    err!(EINTR: SYS_rt_sigsuspend, &0u64, 8);
    assert_eq!((count(SIGUSR1), CODE.load(SeqCst)), (1, -2));
    ok!(SYS_timer_delete, id);
    err!(EINVAL: SYS_timer_delete, id);
    // Without an event it is SIGALRM.
    on(SIGALRM, 0);
    ok!(SYS_timer_create, CLOCK_REALTIME, 0, &mut id);
    ok!(SYS_timer_settime, id, 0, &spec(0, 5), 0);
    err!(EINTR: SYS_rt_sigsuspend, &0u64, 8);
    assert_eq!(count(SIGALRM), 1);
}

fn timer_thread_id() {
    sigmask(SIG_BLOCK, bit(SIGUSR1));
    let mut id = -1i32;
    let tid = ok!(SYS_gettid) as i32;
    ok!(SYS_timer_create, CLOCK_MONOTONIC, &event(SIGUSR1, 4, tid), &mut id);
    ok!(SYS_timer_settime, id, 0, &spec(0, 5), 0);
    assert_eq!(ok!(SYS_rt_sigtimedwait, &bit(SIGUSR1), 0, &ms(5000), 8) as i32, SIGUSR1);
    err!(EINVAL: SYS_timer_create, CLOCK_MONOTONIC, &event(SIGUSR1, 4, 1), &mut id);
}

fn timer_gettime_and_overrun() {
    sigmask(SIG_BLOCK, bit(SIGUSR1));
    let mut id = -1i32;
    ok!(SYS_timer_create, CLOCK_MONOTONIC, &event(SIGUSR1, 0, 0), &mut id);
    ok!(SYS_timer_settime, id, 0, &spec(2, 2), 0);
    nap(40);
    let mut si: siginfo_t = zeroed();
    ok!(SYS_rt_sigtimedwait, &bit(SIGUSR1), &mut si, &ms(5000), 8);
    // SAFETY: a timer's information has a value.
    assert_eq!(unsafe { si.si_value().sival_ptr } as u64, 0xabcd_1234_5678);
    assert!(ok!(SYS_timer_getoverrun, id) >= 5);
    let mut t = spec(0, 0);
    ok!(SYS_timer_settime, id, 0, &spec(7000, 5000), &mut t);
    assert_eq!(t.it_interval.tv_nsec, 2_000_000);
    ok!(SYS_timer_gettime, id, &mut t);
    assert!(t.it_interval.tv_sec == 7 && (1..5).contains(&t.it_value.tv_sec));
    ok!(SYS_timer_settime, id, 0, &spec(0, 0), 0);
    ok!(SYS_timer_gettime, id, &mut t);
    assert_eq!((t.it_interval.tv_sec, t.it_value.tv_sec, t.it_value.tv_nsec), (0, 0, 0));
}

fn timer_errors() {
    let mut id = -1i32;
    err!(EINVAL: SYS_timer_create, 99, 0, &mut id);
    err!(EINVAL: SYS_timer_create, CLOCK_MONOTONIC, &event(65, 0, 0), &mut id);
    err!(EINVAL: SYS_timer_create, CLOCK_MONOTONIC, &event(SIGUSR1, 77, 0), &mut id);
    err!(EFAULT: SYS_timer_create, CLOCK_MONOTONIC, BAD, &mut id);
    err!(EFAULT: SYS_timer_create, CLOCK_MONOTONIC, 0, BAD);
    err!(EINVAL: SYS_timer_settime, 12345, 0, &spec(0, 0), 0);
    err!(EINVAL: SYS_timer_gettime, 12345, &mut spec(0, 0));
    err!(EINVAL: SYS_timer_getoverrun, 12345);
    ok!(SYS_timer_create, CLOCK_MONOTONIC, 0, &mut id);
    let mut bad = spec(0, 0);
    bad.it_value.tv_nsec = 1_000_000_000;
    err!(EINVAL: SYS_timer_settime, id, 0, &bad, 0);
    err!(EFAULT: SYS_timer_settime, id, 0, BAD, 0);
    err!(EINVAL: SYS_timer_settime, id, 0, 0, 0);
}

fn timer_none() {
    let mut id = -1i32;
    ok!(SYS_timer_create, CLOCK_MONOTONIC, &event(0, 1, 0), &mut id);
    ok!(SYS_timer_settime, id, 0, &spec(0, 10), 0);
    nap(30);
    let mut t = spec(0, 0);
    ok!(SYS_timer_gettime, id, &mut t);
    assert_eq!((t.it_value.tv_sec, t.it_value.tv_nsec), (0, 0));
}

fn timers_not_inherited() {
    let mut id = -1i32;
    ok!(SYS_timer_create, CLOCK_MONOTONIC, 0, &mut id);
    in_child(|| {
        err!(EINVAL: SYS_timer_gettime, id, &mut spec(0, 0));
    });
    ok!(SYS_timer_gettime, id, &mut spec(0, 0));
}

fn expirations(fd: i32) -> u64 {
    u64::from_ne_bytes(read(fd, 8).try_into().unwrap())
}

fn timerfd_once() {
    let fd = ok!(SYS_timerfd_create, CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC) as i32;
    let mut b = [0u64; 1];
    err!(EAGAIN: SYS_read, fd, &mut b, 8);
    ok!(SYS_timerfd_settime, fd, 0, &spec(0, 60_000), 0);
    assert_eq!(poll(fd, POLLIN, 0), 0);
    err!(EAGAIN: SYS_read, fd, &mut b, 8);
    ok!(SYS_timerfd_settime, fd, 0, &spec(0, 20), 0);
    assert_eq!(poll(fd, POLLIN, 5000), POLLIN);
    err!(EINVAL: SYS_read, fd, &mut b, 7);
    assert_eq!(expirations(fd), 1);
    err!(EAGAIN: SYS_read, fd, &mut b, 8);
    let mut t = spec(0, 0);
    ok!(SYS_timerfd_gettime, fd, &mut t);
    assert_eq!((t.it_value.tv_sec, t.it_value.tv_nsec), (0, 0));
}

fn timerfd_periodic() {
    let fd = ok!(SYS_timerfd_create, CLOCK_MONOTONIC, 0) as i32;
    let before = mono();
    ok!(SYS_timerfd_settime, fd, 0, &spec(5, 1), 0);
    nap(40);
    let n = expirations(fd);
    let most = (mono() - before) / 5_000_000 + 1;
    assert!((8..=most).contains(&n), "{n} of {most}");
    let mut t = spec(0, 0);
    ok!(SYS_timerfd_settime, fd, 0, &spec(0, 0), &mut t);
    assert_eq!(t.it_interval.tv_nsec, 5_000_000);
    assert_eq!(poll(fd, POLLIN, 20), 0);
}

fn timerfd_absolute() {
    let fd = ok!(SYS_timerfd_create, CLOCK_REALTIME, 0) as i32;
    // The past fires at once.
    ok!(SYS_timerfd_settime, fd, TFD_TIMER_ABSTIME, &spec(0, 5), 0);
    assert_eq!(expirations(fd), 1);
    let t = now(CLOCK_REALTIME) as i64 / 1_000_000 + 20;
    ok!(SYS_timerfd_settime, fd, TFD_TIMER_ABSTIME | 2, &spec(0, t), 0);
    assert_eq!(expirations(fd), 1);
    assert!(now(CLOCK_REALTIME) as i64 / 1_000_000 >= t);
}

fn timerfd_errors() {
    err!(EINVAL: SYS_timerfd_create, 99, 0);
    err!(EINVAL: SYS_timerfd_create, CLOCK_PROCESS_CPUTIME_ID, 0);
    err!(EINVAL: SYS_timerfd_create, CLOCK_MONOTONIC, 1);
    let fd = ok!(SYS_timerfd_create, CLOCK_MONOTONIC, 0) as i32;
    err!(EINVAL: SYS_timerfd_settime, fd, 8, &spec(0, 0), 0);
    err!(EINVAL: SYS_timerfd_settime, 0, 0, &spec(0, 0), 0);
    err!(EBADF: SYS_timerfd_settime, 999, 0, &spec(0, 0), 0);
    err!(EFAULT: SYS_timerfd_settime, fd, 0, BAD, 0);
    err!(EFAULT: SYS_timerfd_gettime, fd, BAD);
    let mut bad = spec(0, 0);
    bad.it_interval.tv_nsec = -1;
    err!(EINVAL: SYS_timerfd_settime, fd, 0, &bad, 0);
    err!(EINVAL: SYS_write, fd, &1u64, 8);
    // Seeking is allowed and does nothing.
    assert_eq!(ok!(SYS_lseek, fd, 5, SEEK_SET), 0);
}

fn timerfd_blocking_read() {
    let fd = ok!(SYS_timerfd_create, CLOCK_BOOTTIME, 0) as i32;
    let before = mono();
    ok!(SYS_timerfd_settime, fd, 0, &spec(0, 30), 0);
    assert_eq!(expirations(fd), 1);
    assert!(mono() - before >= 30_000_000);
}

fn times_and_rusage() {
    let end = now(CLOCK_PROCESS_CPUTIME_ID) + 30_000_000;
    while now(CLOCK_PROCESS_CPUTIME_ID) < end {}
    let mut t: tms = zeroed();
    let ticks = ok!(SYS_times, &mut t);
    assert!(t.tms_utime + t.tms_stime >= 2);
    nap(20);
    assert!(ok!(SYS_times, 0) > ticks);
    let mut ru: rusage = zeroed();
    for who in [RUSAGE_SELF, RUSAGE_CHILDREN, RUSAGE_THREAD] {
        ok!(SYS_getrusage, who, &mut ru);
    }
    err!(EINVAL: SYS_getrusage, 5, &mut ru);
    err!(EFAULT: SYS_getrusage, RUSAGE_SELF, BAD);
}

fn settime_denied() {
    need_unprivileged();
    err!(EPERM: SYS_clock_settime, CLOCK_REALTIME, &ms(0));
    err!(EPERM: SYS_settimeofday, &timeval { tv_sec: 0, tv_usec: 0 }, 0);
    err!(EINVAL: SYS_clock_settime, CLOCK_MONOTONIC, &ms(0));
    err!(EINVAL: SYS_clock_settime, 99, &ms(0));
}

fn gettimeofday_forms() {
    let mut tv = timeval { tv_sec: 0, tv_usec: 0 };
    ok!(SYS_gettimeofday, &mut tv, 0);
    let mut t = 0i64;
    let secs = ok!(SYS_time, &mut t) as i64;
    assert_eq!(secs, t);
    assert!((secs - tv.tv_sec).abs() <= 1);
    err!(EFAULT: SYS_gettimeofday, BAD, 0);
    err!(EFAULT: SYS_time, BAD);
    let mut zone = [9i32; 2];
    ok!(SYS_gettimeofday, 0, &mut zone);
    assert_eq!(zone, [0, 0]);
}
