//! Threads, futex, robust lists, scheduling.

use crate::helpers::*;
use crate::sys::BAD;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

const WAIT: i32 = 0;
const WAKE: i32 = 1;
const REQUEUE: i32 = 3;
const CMP_REQUEUE: i32 = 4;
const WAKE_OP: i32 = 5;
const LOCK_PI: i32 = 6;
const UNLOCK_PI: i32 = 7;
const WAIT_BITSET: i32 = 9;
const WAKE_BITSET: i32 = 10;
const PRIVATE: i32 = 128;
const REALTIME: i32 = 256;

cases![
    thread_identity,
    thread_list_in_proc,
    thread_clears_tid,
    threads_share_everything,
    wait_value_differs,
    wait_times_out,
    wait_and_wake,
    wake_counts,
    bitset,
    bitset_absolute,
    requeue,
    cmp_requeue,
    wake_op,
    shared_between_processes,
    private_not_between_mappings,
    file_backed,
    errors,
    interrupted,
    pi_lock,
    robust_list_rules,
    robust_owner_dies,
    set_tid_address_rules,
    yield_and_affinity,
    scheduler_policies,
    priorities,
    many_threads,
    thread_local_registers,
    gs_base_is_zero_until_set,
    no_state_to_ask_for,
    getcpu_forms,
    mutex_contention,
    waitv,
];

fn futex(w: &AtomicU32, op: i32, val: u32) -> Result<usize, i32> {
    sys!(SYS_futex, std::ptr::from_ref(w), op, val, 0, 0, 0)
}

/// A word that lives as long as the process.
fn fresh() -> &'static AtomicU32 {
    word(map(PAGE, PROT_READ | PROT_WRITE))
}

fn thread_identity() {
    let pid = ok!(SYS_getpid);
    assert_eq!(pid, ok!(SYS_gettid));
    let (p, t) = std::thread::spawn(|| (ok!(SYS_getpid), ok!(SYS_gettid))).join().unwrap();
    assert!(p == pid && t != pid);
}

fn thread_list_in_proc() {
    let (r, w) = pipe(0);
    let (tr, tw) = pipe(0);
    let t = std::thread::spawn(move || {
        ok!(SYS_prctl, PR_SET_NAME, c"worker", 0, 0, 0);
        write(tw, &(ok!(SYS_gettid) as u32).to_ne_bytes());
        read(r, 1);
    });
    let tid = u32::from_ne_bytes(read(tr, 4).try_into().unwrap());
    assert_eq!(status_field("Threads"), "2");
    let names = std::fs::read_dir("/proc/self/task").unwrap().count();
    assert_eq!(names, 2);
    let comm = std::fs::read_to_string(format!("/proc/self/task/{tid}/comm")).unwrap();
    assert_eq!(comm, "worker\n");
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).unwrap();
    assert!(status.contains(&format!("Tgid:\t{}\n", ok!(SYS_getpid))));
    write(w, b"x");
    t.join().unwrap();
}

fn thread_clears_tid() {
    let w = fresh();
    let at = std::ptr::from_ref(w) as usize;
    w.store(76, SeqCst);
    std::thread::spawn(move || {
        ok!(SYS_set_tid_address, at);
        word(at).store(77, SeqCst);
        // SAFETY: ends this thread alone; its stack is never joined.
        unsafe { syscall(SYS_exit, 0) };
    });
    // The kernel zeroes the word and wakes it.
    loop {
        match w.load(SeqCst) {
            0 => break,
            77 => _ = sys!(SYS_futex, at, WAIT, 77, 0, 0, 0),
            _ => nap(1),
        }
    }
}

fn threads_share_everything() {
    let fd = std::thread::spawn(|| open(c".", O_RDONLY, 0)).join().unwrap();
    close(fd);
    std::thread::spawn(|| _ = ok!(SYS_umask, 0o77)).join().unwrap();
    assert_eq!(ok!(SYS_umask, 0), 0o77);
    let at = std::thread::spawn(|| map(PAGE, PROT_READ | PROT_WRITE)).join().unwrap();
    poke(at, 1);
    std::thread::spawn(|| on(SIGUSR1, 0)).join().unwrap();
    ok!(SYS_kill, ok!(SYS_getpid), SIGUSR1);
    assert_eq!(count(SIGUSR1), 1);
}

fn wait_value_differs() {
    let w = fresh();
    w.store(5, SeqCst);
    assert_eq!(futex(w, WAIT, 4), Err(EAGAIN));
    assert_eq!(futex(w, WAIT | PRIVATE, 4), Err(EAGAIN));
    // The value is compared before the time is found to be over.
    err!(EAGAIN: SYS_futex, std::ptr::from_ref(w), WAIT, 4, &ms(0), 0, 0);
}

fn wait_times_out() {
    let w = fresh();
    let before = mono();
    err!(ETIMEDOUT: SYS_futex, std::ptr::from_ref(w), WAIT | PRIVATE, 0, &ms(30), 0, 0);
    assert!(mono() - before >= 30_000_000);
    err!(EINVAL: SYS_futex, std::ptr::from_ref(w), WAIT, 0, &timespec { tv_sec: -1, tv_nsec: 0 }, 0, 0);
    err!(EINVAL: SYS_futex, std::ptr::from_ref(w), WAIT, 0, &timespec { tv_sec: 0, tv_nsec: 1_000_000_000 }, 0, 0);
    err!(EFAULT: SYS_futex, std::ptr::from_ref(w), WAIT, 0, BAD, 0, 0);
}

fn wait_and_wake() {
    let w = fresh();
    let t = starts(move || futex(w, WAIT | PRIVATE, 0));
    settle();
    assert_eq!(futex(w, WAKE | PRIVATE, 1), Ok(1));
    assert_eq!(t.join().unwrap(), Ok(0));
    assert_eq!(futex(w, WAKE | PRIVATE, 1), Ok(0));
}

fn wake_counts() {
    let w = fresh();
    let ts: Vec<_> = (0..5).map(|_| starts(move || futex(w, WAIT | PRIVATE, 0))).collect();
    settle();
    assert_eq!(futex(w, WAKE | PRIVATE, 2), Ok(2));
    // Zero counts as one.
    assert_eq!(futex(w, WAKE | PRIVATE, 0), Ok(1));
    assert_eq!(futex(w, WAKE | PRIVATE, i32::MAX as u32), Ok(2));
    for t in ts {
        assert_eq!(t.join().unwrap(), Ok(0));
    }
}

fn bitset() {
    let w = fresh();
    let go = |op: i32, val: u32, set: u32| sys!(SYS_futex, std::ptr::from_ref(w), op | PRIVATE, val, 0, 0, set);
    assert_eq!(go(WAIT_BITSET, 0, 0), Err(EINVAL));
    assert_eq!(go(WAKE_BITSET, 1, 0), Err(EINVAL));
    let t = starts(move || {
        sys!(SYS_futex, std::ptr::from_ref(w), WAIT_BITSET | PRIVATE, 0, 0, 0, 0b0110)
    });
    settle();
    assert_eq!(go(WAKE_BITSET, 1, 0b1001), Ok(0));
    assert_eq!(go(WAKE_BITSET, 1, 0b0100), Ok(1));
    assert_eq!(t.join().unwrap(), Ok(0));
}

fn bitset_absolute() {
    let w = fresh();
    let at = |clock: i32, more: i64| {
        let t = now(clock) as i64 + more;
        timespec { tv_sec: t / 1_000_000_000, tv_nsec: t % 1_000_000_000 }
    };
    let before = mono();
    let p = std::ptr::from_ref(w);
    err!(ETIMEDOUT: SYS_futex, p, WAIT_BITSET | PRIVATE, 0, &at(CLOCK_MONOTONIC, 20_000_000), 0, -1);
    err!(ETIMEDOUT: SYS_futex, p, WAIT_BITSET | PRIVATE | REALTIME, 0, &at(CLOCK_REALTIME, 20_000_000), 0, -1);
    assert!(mono() - before >= 39_000_000);
    err!(ETIMEDOUT: SYS_futex, p, WAIT_BITSET | PRIVATE, 0, &ms(1), 0, -1);
    err!(ENOSYS: SYS_futex, p, WAKE | REALTIME, 0, 0, 0, 0);
}

fn requeue() {
    let (a, b) = (fresh(), fresh());
    let ts: Vec<_> = (0..4).map(|_| starts(move || futex(a, WAIT | PRIVATE, 0))).collect();
    settle();
    let (pa, pb) = (std::ptr::from_ref(a), std::ptr::from_ref(b));
    assert_eq!(sys!(SYS_futex, pa, REQUEUE | PRIVATE, 1, 2, pb, 0), Ok(3));
    assert_eq!(futex(a, WAKE | PRIVATE, 10), Ok(1));
    assert_eq!(futex(b, WAKE | PRIVATE, 10), Ok(2));
    for t in ts {
        assert_eq!(t.join().unwrap(), Ok(0));
    }
}

fn cmp_requeue() {
    let (a, b) = (fresh(), fresh());
    let (pa, pb) = (std::ptr::from_ref(a), std::ptr::from_ref(b));
    a.store(3, SeqCst);
    err!(EAGAIN: SYS_futex, pa, CMP_REQUEUE | PRIVATE, 1, 1, pb, 4);
    assert_eq!(sys!(SYS_futex, pa, CMP_REQUEUE | PRIVATE, 1, 1, pb, 3), Ok(0));
    err!(EINVAL: SYS_futex, pa, CMP_REQUEUE | PRIVATE, -1, 1, pb, 3);
    err!(EINVAL: SYS_futex, pa, CMP_REQUEUE | PRIVATE, 1, -1, pb, 3);
}

fn wake_op() {
    let (a, b) = (fresh(), fresh());
    b.store(5, SeqCst);
    // Set b to 7; wake on b if the old value was 5.
    let op = (7 << 12) | 5;
    let t = starts(move || futex(b, WAIT | PRIVATE, 5));
    settle();
    let r = sys!(SYS_futex, std::ptr::from_ref(a), WAKE_OP | PRIVATE, 1, 1, std::ptr::from_ref(b), op);
    assert_eq!((r, b.load(SeqCst)), (Ok(1), 7));
    t.join().unwrap().unwrap();
    // Add 1, compare greater than 100: nobody is woken.
    let op = (1 << 28) | (4 << 24) | (1 << 12) | 100;
    let r = sys!(SYS_futex, std::ptr::from_ref(a), WAKE_OP | PRIVATE, 1, 1, std::ptr::from_ref(b), op);
    assert_eq!((r, b.load(SeqCst)), (Ok(0), 8));
}

fn shared_between_processes() {
    let w = word(map_shared(PAGE));
    let (r, said) = pipe(0);
    let pid = fork(|| {
        write(said, b"x");
        i32::from(futex(w, WAIT, 0) != Ok(0))
    });
    read(r, 1);
    assert!(asleep(pid, 0));
    assert_eq!(futex(w, WAKE, 1), Ok(1));
    assert_eq!(wait(pid), 0);
}

fn private_not_between_mappings() {
    // A private word is known by its address: a child's is another.
    let w = fresh();
    let (r, said) = pipe(0);
    let pid = fork(|| {
        write(said, b"x");
        i32::from(sys!(SYS_futex, std::ptr::from_ref(w), WAIT, 0, &ms(80), 0, 0) != Err(ETIMEDOUT))
    });
    read(r, 1);
    asleep(pid, 0);
    assert_eq!(futex(w, WAKE, 1), Ok(0));
    assert_eq!(wait(pid), 0);
}

fn file_backed() {
    let fd = temp(c"f", &[0; PAGE]);
    let one = ok!(SYS_mmap, 0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    let two = ok!(SYS_mmap, 0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    let t = starts(move || futex(word(one + 64), WAIT, 0));
    settle();
    assert_eq!(futex(word(two + 64), WAKE, 1), Ok(1));
    assert_eq!(t.join().unwrap(), Ok(0));
}

fn errors() {
    let w = fresh();
    let p = std::ptr::from_ref(w) as usize;
    err!(EINVAL: SYS_futex, p + 1, WAIT, 0, 0, 0, 0);
    err!(EINVAL: SYS_futex, p + 2, WAKE, 1, 0, 0, 0);
    err!(EFAULT: SYS_futex, 0x1000, WAIT, 0, 0, 0, 0);
    err!(EFAULT: SYS_futex, crate::sys::KERNEL, WAIT, 0, 0, 0, 0);
    err!(ENOSYS: SYS_futex, p, 99, 0, 0, 0, 0);
    err!(EFAULT: SYS_futex, 0x1000, WAKE, 1, 0, 0, 0);
    // For a private wake no page is looked at.
    assert_eq!(sys!(SYS_futex, 0x1000, WAKE | PRIVATE, 1, 0, 0, 0), Ok(0));
    let ro = map(PAGE, PROT_READ);
    err!(ETIMEDOUT: SYS_futex, ro, WAIT | PRIVATE, 0, &ms(1), 0, 0);
}

fn interrupted() {
    let w = fresh();
    let p = std::ptr::from_ref(w);
    on(SIGUSR1, 0);
    soon(SIGUSR1, 5);
    assert_eq!(futex(w, WAIT | PRIVATE, 0), Err(EINTR));
    soon(SIGUSR1, 5);
    err!(EINTR: SYS_futex, p, WAIT | PRIVATE, 0, &ms(5000), 0, 0);
    // Restarted again and again, it still ends at its first end.
    on(SIGALRM, SA_RESTART);
    alarm_often(40);
    match sys!(SYS_futex, p, WAIT | PRIVATE, 0, &ms(100), 0, 0) {
        Err(ETIMEDOUT | EINTR) => {}
        r => panic!("{r:?}"),
    }
}

fn pi_lock() {
    let w = fresh();
    let tid = ok!(SYS_gettid) as u32;
    match futex(w, LOCK_PI | PRIVATE, 0) {
        Err(ENOSYS) => skip!("no priority inheritance"),
        r => assert_eq!(r, Ok(0)),
    }
    assert_eq!(w.load(SeqCst), tid);
    assert_eq!(futex(w, LOCK_PI | PRIVATE, 0), Err(EDEADLK));
    let t = starts(move || {
        assert_eq!(futex(w, UNLOCK_PI | PRIVATE, 0), Err(EPERM));
        assert_eq!(futex(w, LOCK_PI | PRIVATE, 0), Ok(0));
        assert_eq!(w.load(SeqCst) & 0x3fff_ffff, ok!(SYS_gettid) as u32);
        assert_eq!(futex(w, UNLOCK_PI | PRIVATE, 0), Ok(0));
    });
    settle();
    assert_ne!(w.load(SeqCst) & 0x8000_0000, 0, "the waiters bit");
    assert_eq!(futex(w, UNLOCK_PI | PRIVATE, 0), Ok(0));
    t.join().unwrap();
    assert_eq!(w.load(SeqCst), 0);
}

fn robust_list_rules() {
    let (mut head, mut len) = (0usize, 0usize);
    ok!(SYS_get_robust_list, 0, &mut head, &mut len);
    assert_eq!(len, 24);
    err!(EINVAL: SYS_set_robust_list, head, 16);
    ok!(SYS_set_robust_list, head, 24);
    err!(ESRCH: SYS_get_robust_list, 0x3fff_ffff, &mut head, &mut len);
    err!(EFAULT: SYS_get_robust_list, 0, BAD, &mut len);
}

fn robust_owner_dies() {
    // A head, one lock behind it: next pointer, then the futex word.
    let at = map_shared(PAGE);
    let set = |offset: usize, v: usize| {
        // SAFETY: within the page mapped above.
        unsafe { std::ptr::write_volatile((at + offset) as *mut usize, v) }
    };
    let pid = fork(|| {
        set(0, at + 64);
        set(8, 8);
        set(16, 0);
        set(64, at);
        word(at + 72).store(ok!(SYS_gettid) as u32 | 0x8000_0000, SeqCst);
        ok!(SYS_set_robust_list, at, 24);
        nap(40);
        0
    });
    while word(at + 72).load(SeqCst) == 0 {
        nap(1);
    }
    let held = word(at + 72).load(SeqCst);
    // The dying owner's bit is set and a waiter woken.
    match sys!(SYS_futex, at + 72, WAIT, held, &ms(5000), 0, 0) {
        Ok(0) | Err(EAGAIN) => {}
        r => panic!("{r:?}"),
    }
    wait(pid);
    assert_eq!(word(at + 72).load(SeqCst) & 0x4000_0000, 0x4000_0000);
    assert_eq!(word(at + 72).load(SeqCst) & 0x3fff_ffff, 0);
}

fn set_tid_address_rules() {
    assert_eq!(ok!(SYS_set_tid_address, BAD), ok!(SYS_gettid));
}

fn yield_and_affinity() {
    ok!(SYS_sched_yield);
    let mut set = [0u64; 128];
    let n = ok!(SYS_sched_getaffinity, 0, 1024, &mut set);
    assert!(n >= 8 && n % 8 == 0);
    let cpus: u32 = set.iter().map(|w| w.count_ones()).sum();
    assert!(cpus >= 1);
    err!(EINVAL: SYS_sched_getaffinity, 0, 1, &mut set);
    err!(EINVAL: SYS_sched_getaffinity, 0, 9, &mut set);
    err!(EFAULT: SYS_sched_getaffinity, 0, 1024, BAD);
    err!(ESRCH: SYS_sched_getaffinity, 0x3fff_ffff, 1024, &mut set);
    err!(EINVAL: SYS_sched_setaffinity, 0, 8, &0u64);
    let first = set[0] & set[0].wrapping_neg();
    ok!(SYS_sched_setaffinity, 0, 8, &first);
    ok!(SYS_sched_getaffinity, 0, 1024, &mut set);
    assert_eq!(set[0], first);
    assert_eq!(ok!(SYS_getcpu, set.as_mut_ptr(), 0, 0), 0);
    assert_eq!(1u64 << (set[0] as u32), first);
    in_child(|| {
        let mut set = [0u64; 128];
        ok!(SYS_sched_getaffinity, 0, 1024, &mut set);
        assert_eq!(set[0], first, "inherited");
    });
}

fn scheduler_policies() {
    assert_eq!(ok!(SYS_sched_getscheduler, 0), SCHED_OTHER as usize);
    let mut p = 9i32;
    ok!(SYS_sched_getparam, 0, &mut p);
    assert_eq!(p, 0);
    println!("{} {}", ok!(SYS_sched_get_priority_max, SCHED_FIFO), ok!(SYS_sched_get_priority_min, SCHED_RR));
    err!(EINVAL: SYS_sched_get_priority_max, 99);
    err!(EINVAL: SYS_sched_setscheduler, 0, SCHED_OTHER, &1i32);
    err!(EINVAL: SYS_sched_setscheduler, 0, 99, &0i32);
    err!(EINVAL: SYS_sched_setscheduler, -1, SCHED_OTHER, &0i32);
    err!(ESRCH: SYS_sched_getscheduler, 0x3fff_ffff);
    ok!(SYS_sched_setscheduler, 0, SCHED_BATCH, &0i32);
    assert_eq!(ok!(SYS_sched_getscheduler, 0), SCHED_BATCH as usize);
    let mut t: timespec = zeroed();
    ok!(SYS_sched_rr_get_interval, 0, &mut t);
}

fn priorities() {
    assert_eq!(ok!(SYS_getpriority, PRIO_PROCESS, 0), 20);
    ok!(SYS_setpriority, PRIO_PROCESS, 0, 7);
    assert_eq!(ok!(SYS_getpriority, PRIO_PROCESS, 0), 13);
    ok!(SYS_setpriority, PRIO_PROCESS, 0, 100);
    assert_eq!(ok!(SYS_getpriority, PRIO_PROCESS, 0), 1);
    err!(EINVAL: SYS_getpriority, 9, 0);
    err!(ESRCH: SYS_getpriority, PRIO_PROCESS, 0x3fff_ffff);
    in_child(|| assert_eq!(ok!(SYS_getpriority, PRIO_PROCESS, 0), 1));
    need_unprivileged();
    err!(EACCES: SYS_setpriority, PRIO_PROCESS, 0, 0);
}

fn many_threads() {
    for _ in 0..4 {
        let ts: Vec<_> = (0..50).map(|i| std::thread::spawn(move || i)).collect();
        let sum: i32 = ts.into_iter().map(|t| t.join().unwrap()).sum();
        assert_eq!(sum, (0..50).sum::<i32>());
    }
}

fn thread_local_registers() {
    thread_local! { static MINE: std::cell::Cell<usize> = const { std::cell::Cell::new(0) } }
    let ts: Vec<_> = (1..5usize)
        .map(|i| {
            std::thread::spawn(move || {
                MINE.set(i);
                for _ in 0..100 {
                    ok!(SYS_sched_yield);
                    assert_eq!(MINE.get(), i);
                }
            })
        })
        .collect();
    for t in ts {
        t.join().unwrap();
    }
    let mut fs = 0usize;
    ok!(SYS_arch_prctl, 0x1003, &mut fs);
    assert_ne!(fs, 0);
    ok!(SYS_arch_prctl, 0x1001, 0x7000_0000_0000usize);
    let mut gs = 0usize;
    ok!(SYS_arch_prctl, 0x1004, &mut gs);
    assert_eq!(gs, 0x7000_0000_0000);
    err!(EPERM: SYS_arch_prctl, 0x1001, crate::sys::KERNEL);
    err!(EINVAL: SYS_arch_prctl, 0x9999, 0);
    err!(EFAULT: SYS_arch_prctl, 0x1003, BAD);
}

fn gs() -> usize {
    let mut gs = 1usize;
    ok!(SYS_arch_prctl, 0x1004, &mut gs);
    gs
}

/// Sets the base by an instruction, where programs may.
fn wrgsbase(base: usize) -> bool {
    // SAFETY: reads the auxiliary vector; nothing here goes by GS.
    unsafe {
        let allowed = libc::getauxval(libc::AT_HWCAP2) & 2 != 0;
        if allowed {
            std::arch::asm!("wrgsbase {}", in(reg) base);
        }
        allowed
    }
}

fn gs_base_is_zero_until_set() {
    const BASE: usize = 0x7000_0000_1000;
    static IN_HANDLER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(1);
    extern "C" fn handler(_: i32) {
        IN_HANDLER.store(gs(), SeqCst);
    }
    // SAFETY: the handler makes one call.
    unsafe { libc::signal(libc::SIGUSR1, handler as *const () as usize) };
    // Often: the kernel may do otherwise once a call is frequent.
    (0..20).for_each(|_| assert_eq!(gs(), 0));
    for base in [BASE, 0] {
        ok!(SYS_arch_prctl, 0x1001, base);
        (0..20).for_each(|_| assert_eq!(gs(), base));
        // SAFETY: a signal to ourselves.
        unsafe { libc::raise(libc::SIGUSR1) };
        assert_eq!(IN_HANDLER.load(SeqCst), base);
        assert_eq!(std::thread::spawn(gs).join().unwrap(), base, "of a new thread");
        in_child(|| assert_eq!(gs(), base));
    }
    for base in [BASE, 0, BASE + 8, 0] {
        if wrgsbase(base) {
            (0..20).for_each(|_| assert_eq!(gs(), base));
        }
    }
}

/// Extended state that Linux gives on demand only, and the keys of pages, on machines without either.
fn no_state_to_ask_for() {
    let mut features = 0u64;
    ok!(SYS_arch_prctl, 0x1021, &mut features);
    assert_eq!(features & 3, 3);
    if features & (3 << 17) == 0 {
        err!(EOPNOTSUPP: SYS_arch_prctl, 0x1023, 18);
        let mut permitted = 0u64;
        ok!(SYS_arch_prctl, 0x1022, &mut permitted);
        assert_eq!(permitted, features);
    }
    err!(EOPNOTSUPP: SYS_arch_prctl, 0x1023, 2);
    err!(EINVAL: SYS_arch_prctl, 0x1023, 1000);
    err!(EFAULT: SYS_arch_prctl, 0x1021, BAD);
    err!(EINVAL: SYS_pkey_alloc, 1, 0);
    err!(EINVAL: SYS_pkey_alloc, 0, 4);
    err!(EINVAL: SYS_pkey_free, 5);
    if !keys_are_on() {
        // Not ENOSPC, whatever the manual says.
        err!(EINVAL: SYS_pkey_alloc, 0, 0);
        err!(EINVAL: SYS_pkey_free, 0);
    }
}

/// Whether the host has protection keys on (CPUID's OSPKE).
fn keys_are_on() -> bool {
    std::arch::x86_64::__cpuid_count(7, 0).ecx & 1 << 4 != 0
}

fn getcpu_forms() {
    ok!(SYS_getcpu, 0, 0, 0);
    err!(EFAULT: SYS_getcpu, BAD, 0, 0);
}

fn mutex_contention() {
    use std::sync::{Arc, Condvar, Mutex};
    let shared = Arc::new((Mutex::new(0u32), Condvar::new()));
    let ts: Vec<_> = (0..4)
        .map(|_| {
            let s = shared.clone();
            std::thread::spawn(move || {
                for _ in 0..500 {
                    *s.0.lock().unwrap() += 1;
                    s.1.notify_all();
                }
            })
        })
        .collect();
    let mut n = shared.0.lock().unwrap();
    while *n < 2000 {
        n = shared.1.wait(n).unwrap();
    }
    drop(n);
    for t in ts {
        t.join().unwrap();
    }
}

fn waitv() {
    #[repr(C)]
    struct Waiter {
        value: u64,
        at: u64,
        flags: u32,
        reserved: u32,
    }
    let (a, b) = (fresh(), fresh());
    let w = |x: &AtomicU32, value: u64| Waiter { value, at: std::ptr::from_ref(x) as u64, flags: 2 | 128, reserved: 0 };
    let go = |v: &[Waiter; 2], n: u32, flags: u32| {
        let t = mono() as i64 + 20_000_000;
        let end = timespec { tv_sec: t / 1_000_000_000, tv_nsec: t % 1_000_000_000 };
        sys!(SYS_futex_waitv, v, n, flags, &end, CLOCK_MONOTONIC)
    };
    match go(&[w(a, 0), w(b, 0)], 2, 0) {
        Err(ENOSYS) => skip!("no futex_waitv"),
        r => assert_eq!(r, Err(ETIMEDOUT)),
    }
    assert_eq!(go(&[w(a, 0), w(b, 1)], 2, 0), Err(EAGAIN));
    assert_eq!(go(&[w(a, 0), w(b, 0)], 0, 0), Err(EINVAL));
    assert_eq!(go(&[w(a, 0), w(b, 0)], 129, 0), Err(EINVAL));
    assert_eq!(go(&[w(a, 0), w(b, 0)], 2, 1), Err(EINVAL));
    let t = std::thread::spawn(move || {
        while futex(b, WAKE | PRIVATE, 1) == Ok(0) {
            nap(1);
        }
    });
    assert_eq!(sys!(SYS_futex_waitv, &[w(a, 0), w(b, 0)], 2, 0, 0, 0), Ok(1));
    t.join().unwrap();
}
