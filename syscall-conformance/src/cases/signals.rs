//! kill, sigaction, masks, delivery, alternate stacks, frames, queues, restart.

use crate::helpers::*;
use crate::sys::BAD;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering::SeqCst};

cases![
    kill_errors,
    kill_groups,
    kill_permission,
    tgkill_rules,
    sigaction_rules,
    sigaction_readback,
    mask_rules,
    mask_blocks_kill_not,
    pending_set,
    standard_signals_merge,
    realtime_queue,
    realtime_order,
    sigqueue_values,
    sigqueue_rules,
    queue_limit,
    handler_runs_with_mask,
    nodefer,
    resethand,
    delivery_order,
    handler_interrupts_handler,
    sigsuspend_swaps_mask,
    pause_returns,
    sigtimedwait_forms,
    sigtimedwait_wakes,
    altstack_rules,
    altstack_used,
    altstack_overflow_kills,
    altstack_autodisarm,
    frame_registers,
    frame_changes_take,
    frame_float_state,
    restart_read,
    no_restart_read,
    restart_never,
    restart_after_stop,
    nanosleep_remaining,
    ignored_signal_does_not_interrupt,
    stop_and_continue_clear_each_other,
    sigkill_ends_everything,
    signal_to_thread_in_group,
    thread_masks,
    info_of_kill,
    sigpipe_on_write,
    abort_cannot_be_lost,
    exec_thread_signals,
    fault_in_handler_frame,
];

fn me() -> usize {
    ok!(SYS_getpid)
}

fn kill_errors() {
    err!(EINVAL: SYS_kill, me(), 65);
    err!(EINVAL: SYS_kill, me(), -1);
    err!(ESRCH: SYS_kill, 0x3fff_ffff, 65);
    err!(ESRCH: SYS_kill, 0x3fff_ffff, 0);
    err!(ESRCH: SYS_kill, i32::MIN, 0);
    err!(ESRCH: SYS_kill, -0x3fff_ffff, SIGTERM);
    ok!(SYS_kill, me(), 0);
    ok!(SYS_kill, 0, 0);
}

fn kill_groups() {
    let (r, w) = pipe(0);
    let child = || {
        fork(|| {
            write(w, b"x");
            loop {
                nap(1000);
            }
        })
    };
    let (a, b, c) = (child(), child(), child());
    ok!(SYS_setpgid, a, a);
    ok!(SYS_setpgid, b, a);
    for _ in 0..3 {
        read(r, 1);
    }
    ok!(SYS_kill, -a, SIGTERM);
    assert_eq!(killed_by(wait(a)), Some(SIGTERM));
    assert_eq!(killed_by(wait(b)), Some(SIGTERM));
    assert_eq!(ok!(SYS_wait4, c, 0, WNOHANG, 0), 0);
    ok!(SYS_kill, c, SIGKILL);
    wait(c);
}

fn kill_permission() {
    need_cap(CAP_SETUID);
    let pid = fork(|| loop {
        nap(1000)
    });
    in_child(|| {
        ok!(SYS_setresuid, 1234, 1234, 1234);
        err!(EPERM: SYS_kill, pid, SIGTERM);
        err!(EPERM: SYS_kill, pid, 0);
        err!(EPERM: SYS_tgkill, pid, pid, SIGTERM);
        // SIGCONT is allowed within a session.
        ok!(SYS_kill, pid, SIGCONT);
    });
    ok!(SYS_kill, pid, SIGKILL);
    wait(pid);
}

fn tgkill_rules() {
    on(SIGUSR1, 0);
    ok!(SYS_tgkill, me(), ok!(SYS_gettid), SIGUSR1);
    ok!(SYS_tkill, ok!(SYS_gettid), SIGUSR1);
    assert_eq!((count(SIGUSR1), CODE.load(SeqCst)), (2, SI_TKILL));
    err!(EINVAL: SYS_tgkill, 0, ok!(SYS_gettid), SIGUSR1);
    err!(EINVAL: SYS_tgkill, me(), 0, SIGUSR1);
    err!(EINVAL: SYS_tkill, -1, SIGUSR1);
    err!(ESRCH: SYS_tgkill, 1, ok!(SYS_gettid), SIGUSR1);
    err!(EINVAL: SYS_tgkill, me(), ok!(SYS_gettid), 65);
    ok!(SYS_tgkill, me(), ok!(SYS_gettid), 0);
}

fn sigaction_rules() {
    let act = [0usize; 4];
    err!(EINVAL: SYS_rt_sigaction, SIGKILL, &act, 0, 8);
    err!(EINVAL: SYS_rt_sigaction, SIGSTOP, &act, 0, 8);
    err!(EINVAL: SYS_rt_sigaction, 0, &act, 0, 8);
    err!(EINVAL: SYS_rt_sigaction, 65, &act, 0, 8);
    err!(EINVAL: SYS_rt_sigaction, SIGUSR1, &act, 0, 4);
    err!(EFAULT: SYS_rt_sigaction, SIGUSR1, BAD, 0, 8);
    let mut old = [1usize; 4];
    // Asking is allowed even for those that cannot be changed.
    ok!(SYS_rt_sigaction, SIGKILL, 0, &mut old, 8);
    assert_eq!(old[0], 0);
    err!(EFAULT: SYS_rt_sigaction, SIGUSR1, 0, BAD, 8);
}

fn sigaction_readback() {
    // Handler, flags, restorer, mask.
    let act = [1usize, 0x0400_0000 | SA_RESTART as usize | 0x800 | 0x4, 0x1234, usize::MAX];
    let mut old = [9usize; 4];
    ok!(SYS_rt_sigaction, SIGUSR1, &act, &mut old, 8);
    ok!(SYS_rt_sigaction, SIGUSR1, 0, &mut old, 8);
    println!("{old:x?}");
    // SIGKILL and SIGSTOP leave the mask; unknown flags are dropped.
    assert_eq!(old[3] as u64 & (bit(SIGKILL) | bit(SIGSTOP)), 0);
}

fn mask_rules() {
    let mut old = 0u64;
    err!(EINVAL: SYS_rt_sigprocmask, 3, &0u64, &mut old, 8);
    ok!(SYS_rt_sigprocmask, 99, 0, &mut old, 8);
    err!(EINVAL: SYS_rt_sigprocmask, SIG_BLOCK, &0u64, &mut old, 4);
    err!(EFAULT: SYS_rt_sigprocmask, SIG_BLOCK, BAD, &mut old, 8);
    err!(EFAULT: SYS_rt_sigprocmask, SIG_BLOCK, &bit(SIGUSR2), BAD, 8);
    // The new mask was set before the old one could not be stored.
    assert_eq!(sigmask(SIG_SETMASK, 0), bit(SIGUSR2));
    sigmask(SIG_BLOCK, u64::MAX);
    assert_eq!(sigmask(SIG_UNBLOCK, bit(SIGUSR1)), !(bit(SIGKILL) | bit(SIGSTOP)));
    assert_eq!(sigmask(SIG_SETMASK, 0) & bit(SIGUSR1), 0);
}

fn mask_blocks_kill_not() {
    let status = status_of(|| {
        sigmask(SIG_SETMASK, u64::MAX);
        ok!(SYS_kill, me(), SIGKILL);
        0
    });
    assert_eq!(killed_by(status), Some(SIGKILL));
}

fn pending_set() {
    on(SIGUSR1, 0);
    sigmask(SIG_BLOCK, bit(SIGUSR1) | bit(SIGUSR2) | bit(40));
    ok!(SYS_kill, me(), SIGUSR1);
    ok!(SYS_tkill, ok!(SYS_gettid), 40);
    let mut set = 0u64;
    ok!(SYS_rt_sigpending, &mut set, 8);
    assert_eq!(set, bit(SIGUSR1) | bit(40));
    println!("{} {}", status_field("SigPnd"), status_field("ShdPnd"));
    // An ignored signal is dropped even while blocked, and ignoring drops what is pending.
    action(SIGUSR1, SIG_IGN, 0, &[]);
    ok!(SYS_rt_sigpending, &mut set, 8);
    assert_eq!(set, bit(40));
    action(40, SIG_IGN, 0, &[]);
    ok!(SYS_rt_sigpending, &mut set, 8);
    assert_eq!(set, 0);
    err!(EINVAL: SYS_rt_sigpending, &mut set, 9);
    err!(EFAULT: SYS_rt_sigpending, BAD, 8);
}

fn standard_signals_merge() {
    on(SIGUSR1, 0);
    sigmask(SIG_BLOCK, bit(SIGUSR1));
    for _ in 0..5 {
        ok!(SYS_kill, me(), SIGUSR1);
    }
    assert_eq!(count(SIGUSR1), 0);
    sigmask(SIG_UNBLOCK, bit(SIGUSR1));
    assert_eq!(count(SIGUSR1), 1);
}

fn realtime_queue() {
    on(40, 0);
    sigmask(SIG_BLOCK, bit(40));
    for _ in 0..5 {
        ok!(SYS_kill, me(), 40);
    }
    sigmask(SIG_UNBLOCK, bit(40));
    assert_eq!(count(40), 5);
}

fn realtime_order() {
    for s in [SIGUSR1, 40, 41, 42] {
        on(s, SA_RESTART);
        // With everything else blocked in the handlers, they run one after another.
        action_full(s);
    }
    sigmask(SIG_BLOCK, bit(40) | bit(41) | bit(42) | bit(SIGUSR1));
    for s in [42, 40, 41, 40, SIGUSR1] {
        ok!(SYS_kill, me(), s);
    }
    sigmask(SIG_SETMASK, 0);
    println!("{}", SEEN.load(SeqCst));
}

static SEEN: AtomicU64 = AtomicU64::new(0);

fn action_full(sig: i32) {
    extern "C" fn note(sig: i32) {
        SEEN.store(SEEN.load(SeqCst) * 100 + sig as u64, SeqCst);
    }
    action(sig, note as *const () as usize, 0, &[40, 41, 42, SIGUSR1]);
}

/// The head of a queued signal's information as user space builds it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    signo: i32,
    errno: i32,
    code: i32,
    _pad: i32,
    pid: i32,
    uid: u32,
    value: u64,
    rest: [u64; 12],
}

fn info(code: i32, value: u64) -> Info {
    Info { signo: 0, errno: 0, code, _pad: 0, pid: 0, uid: 0, value, rest: [0; 12] }
}

fn sigqueue_values() {
    on(41, 0);
    ok!(SYS_rt_sigqueueinfo, me(), 41, &info(SI_QUEUE, 0xdead_beef_1234));
    assert_eq!((count(41), VALUE.load(SeqCst), CODE.load(SeqCst)), (1, 0xdead_beef_1234, SI_QUEUE));
    ok!(SYS_rt_tgsigqueueinfo, me(), ok!(SYS_gettid), 41, &info(-77, 5));
    assert_eq!((count(41), VALUE.load(SeqCst), CODE.load(SeqCst)), (2, 5, -77));
    // Each queued one keeps its own value.
    sigmask(SIG_BLOCK, bit(41));
    for v in 1..=3 {
        ok!(SYS_rt_sigqueueinfo, me(), 41, &info(SI_QUEUE, v));
    }
    for v in 1..=3 {
        let mut got: siginfo_t = zeroed();
        assert_eq!(ok!(SYS_rt_sigtimedwait, &bit(41), &mut got, 0, 8), 41);
        // SAFETY: a queued signal's information has a value.
        assert_eq!(unsafe { got.si_value().sival_ptr } as u64, v);
    }
}

fn sigqueue_rules() {
    // Nobody may pretend to be the kernel or kill, but to oneself.
    let pid = fork(|| loop {
        nap(1000)
    });
    err!(EPERM: SYS_rt_sigqueueinfo, pid, SIGTERM, &info(0, 0));
    err!(EPERM: SYS_rt_sigqueueinfo, pid, SIGTERM, &info(SI_TKILL, 0));
    err!(EPERM: SYS_rt_sigqueueinfo, pid, SIGTERM, &info(5, 0));
    err!(EFAULT: SYS_rt_sigqueueinfo, pid, SIGTERM, BAD);
    err!(EINVAL: SYS_rt_sigqueueinfo, pid, 65, &info(SI_QUEUE, 0));
    ok!(SYS_rt_sigqueueinfo, pid, SIGTERM, &info(SI_QUEUE, 0));
    assert_eq!(killed_by(wait(pid)), Some(SIGTERM));
    on(SIGUSR1, 0);
    ok!(SYS_rt_sigqueueinfo, me(), SIGUSR1, &info(5, 0));
    assert_eq!(CODE.load(SeqCst), 5);
    err!(ESRCH: SYS_rt_sigqueueinfo, 0x3fff_ffff, SIGUSR1, &info(SI_QUEUE, 0));
}

fn queue_limit() {
    let lim = rlimit { rlim_cur: 3, rlim_max: 3 };
    need_unprivileged();
    ok!(SYS_setrlimit, RLIMIT_SIGPENDING, &lim);
    sigmask(SIG_BLOCK, bit(41) | bit(SIGUSR1));
    let mut n = 0;
    while sys!(SYS_rt_sigqueueinfo, me(), 41, &info(SI_QUEUE, 0)).is_ok() {
        n += 1;
        assert!(n < 100);
    }
    err!(EAGAIN: SYS_rt_sigqueueinfo, me(), 41, &info(SI_QUEUE, 0));
    assert!(n <= 3);
    // kill never fails for that.
    ok!(SYS_kill, me(), 41);
    ok!(SYS_kill, me(), SIGUSR1);
}

fn handler_runs_with_mask() {
    static INSIDE: AtomicU64 = AtomicU64::new(0);
    extern "C" fn handler(_: i32) {
        INSIDE.store(sigmask(SIG_BLOCK, 0), SeqCst);
        sigmask(SIG_SETMASK, bit(SIGTERM));
    }
    sigmask(SIG_SETMASK, bit(SIGHUP));
    action(SIGUSR1, handler as *const () as usize, 0, &[SIGUSR2]);
    ok!(SYS_kill, me(), SIGUSR1);
    assert_eq!(INSIDE.load(SeqCst), bit(SIGHUP) | bit(SIGUSR1) | bit(SIGUSR2));
    // Whatever the handler set is undone on return.
    assert_eq!(sigmask(SIG_BLOCK, 0), bit(SIGHUP));
}

fn nodefer() {
    static DEPTH: AtomicI32 = AtomicI32::new(0);
    static MOST: AtomicI32 = AtomicI32::new(0);
    extern "C" fn handler(sig: i32) {
        let d = DEPTH.fetch_add(1, SeqCst) + 1;
        MOST.fetch_max(d, SeqCst);
        if d < 3 {
            ok!(SYS_kill, ok!(SYS_getpid), sig);
        }
        DEPTH.fetch_sub(1, SeqCst);
    }
    action(SIGUSR1, handler as *const () as usize, SA_NODEFER, &[]);
    ok!(SYS_kill, me(), SIGUSR1);
    assert_eq!(MOST.load(SeqCst), 3);
}

fn resethand() {
    on(SIGUSR1, SA_RESETHAND);
    ok!(SYS_kill, me(), SIGUSR1);
    assert_eq!(count(SIGUSR1), 1);
    let mut old = [1usize; 4];
    ok!(SYS_rt_sigaction, SIGUSR1, 0, &mut old, 8);
    assert_eq!(old[0], 0);
}

fn delivery_order() {
    for s in [SIGHUP, SIGUSR1, SIGTERM] {
        on(s, 0);
    }
    sigmask(SIG_BLOCK, bit(SIGHUP) | bit(SIGUSR1) | bit(SIGTERM));
    for s in [SIGTERM, SIGHUP, SIGUSR1] {
        ok!(SYS_kill, me(), s);
    }
    sigmask(SIG_SETMASK, 0);
    // The frames are stacked in order of number, so the last one pushed runs first.
    println!("{}", ORDER.load(SeqCst));
}

fn handler_interrupts_handler() {
    static STEPS: AtomicU64 = AtomicU64::new(0);
    extern "C" fn outer(_: i32) {
        STEPS.store(1, SeqCst);
        ok!(SYS_kill, ok!(SYS_getpid), SIGUSR2);
        STEPS.store(STEPS.load(SeqCst) * 10 + 3, SeqCst);
    }
    extern "C" fn inner(_: i32) {
        STEPS.store(STEPS.load(SeqCst) * 10 + 2, SeqCst);
    }
    action(SIGUSR1, outer as *const () as usize, 0, &[]);
    action(SIGUSR2, inner as *const () as usize, 0, &[]);
    ok!(SYS_kill, me(), SIGUSR1);
    assert_eq!(STEPS.load(SeqCst), 123);
}

fn sigsuspend_swaps_mask() {
    on(SIGUSR1, SA_RESTART);
    sigmask(SIG_BLOCK, bit(SIGUSR1));
    ok!(SYS_kill, me(), SIGUSR1);
    err!(EINTR: SYS_rt_sigsuspend, &0u64, 8);
    assert_eq!(count(SIGUSR1), 1);
    assert_eq!(sigmask(SIG_BLOCK, 0), bit(SIGUSR1));
    err!(EINVAL: SYS_rt_sigsuspend, &0u64, 4);
    err!(EFAULT: SYS_rt_sigsuspend, BAD, 8);
}

fn pause_returns() {
    on(SIGUSR1, SA_RESTART);
    soon(SIGUSR1, 30);
    err!(EINTR: SYS_pause);
    assert_eq!(count(SIGUSR1), 1);
}

fn sigtimedwait_forms() {
    sigmask(SIG_BLOCK, bit(SIGUSR1));
    err!(EAGAIN: SYS_rt_sigtimedwait, &bit(SIGUSR1), 0, &ms(0), 8);
    let before = mono();
    err!(EAGAIN: SYS_rt_sigtimedwait, &bit(SIGUSR1), 0, &ms(30), 8);
    assert!(mono() - before >= 30_000_000);
    ok!(SYS_kill, me(), SIGUSR1);
    let mut si: siginfo_t = zeroed();
    assert_eq!(ok!(SYS_rt_sigtimedwait, &bit(SIGUSR1), &mut si, 0, 8) as i32, SIGUSR1);
    // SAFETY: kill's information has a sender.
    assert_eq!((si.si_code, unsafe { si.si_pid() } as usize), (SI_USER, me()));
    err!(EINVAL: SYS_rt_sigtimedwait, &bit(SIGUSR1), 0, &ms(0), 4);
    err!(EINVAL: SYS_rt_sigtimedwait, &bit(SIGUSR1), 0, &timespec { tv_sec: -1, tv_nsec: 0 }, 8);
    err!(EINVAL: SYS_rt_sigtimedwait, &bit(SIGUSR1), 0, &timespec { tv_sec: 0, tv_nsec: 1 << 40 }, 8);
    err!(EFAULT: SYS_rt_sigtimedwait, BAD, 0, &ms(0), 8);
}

fn sigtimedwait_wakes() {
    sigmask(SIG_BLOCK, bit(SIGUSR1));
    on(SIGUSR2, SA_RESTART);
    soon(SIGUSR1, 30);
    assert_eq!(ok!(SYS_rt_sigtimedwait, &bit(SIGUSR1), 0, &ms(5000), 8) as i32, SIGUSR1);
    soon(SIGUSR2, 30);
    err!(EINTR: SYS_rt_sigtimedwait, &bit(SIGUSR1), 0, &ms(5000), 8);
    assert_eq!(count(SIGUSR2), 1);
}

fn stack(at: usize, size: usize, flags: i32) -> stack_t {
    stack_t { ss_sp: at as *mut c_void, ss_flags: flags, ss_size: size }
}

fn altstack_rules() {
    let at = map(16 * PAGE, PROT_READ | PROT_WRITE);
    let mut old: stack_t = zeroed();
    err!(EINVAL: SYS_sigaltstack, &stack(at, 16 * PAGE, 0x40), 0);
    err!(ENOMEM: SYS_sigaltstack, &stack(at, 100, 0), 0);
    err!(EFAULT: SYS_sigaltstack, BAD, 0);
    ok!(SYS_sigaltstack, &stack(at, 16 * PAGE, 0), 0);
    ok!(SYS_sigaltstack, 0, &mut old);
    assert_eq!((old.ss_sp as usize, old.ss_size, old.ss_flags), (at, 16 * PAGE, 0));
    // SS_ONSTACK as a wish is accepted and means nothing.
    ok!(SYS_sigaltstack, &stack(at, 16 * PAGE, SS_ONSTACK), 0);
    ok!(SYS_sigaltstack, &stack(0, 0, SS_DISABLE), &mut old);
    ok!(SYS_sigaltstack, 0, &mut old);
    assert_eq!((old.ss_sp as usize, old.ss_size, old.ss_flags), (0, 0, SS_DISABLE));
    err!(EFAULT: SYS_sigaltstack, 0, BAD);
}

static WHERE: AtomicUsize = AtomicUsize::new(0);
static FLAGS: AtomicI32 = AtomicI32::new(0);
static CHANGE: AtomicI32 = AtomicI32::new(0);

extern "C" fn note_stack(_: i32) {
    let local = 0u8;
    WHERE.store(&raw const local as usize, SeqCst);
    let mut now: stack_t = zeroed();
    ok!(SYS_sigaltstack, 0, &mut now);
    FLAGS.store(now.ss_flags, SeqCst);
    CHANGE.store(sys!(SYS_sigaltstack, &stack(0, 0, SS_DISABLE), 0).err().unwrap_or(0), SeqCst);
}

fn altstack_used() {
    let size = 32 * PAGE;
    let at = map(size, PROT_READ | PROT_WRITE);
    ok!(SYS_sigaltstack, &stack(at, size, 0), 0);
    action(SIGUSR1, note_stack as *const () as usize, SA_ONSTACK, &[]);
    ok!(SYS_kill, me(), SIGUSR1);
    assert!((at..at + size).contains(&WHERE.load(SeqCst)));
    assert_eq!((FLAGS.load(SeqCst), CHANGE.load(SeqCst)), (SS_ONSTACK, EPERM));
    action(SIGUSR1, note_stack as *const () as usize, 0, &[]);
    ok!(SYS_kill, me(), SIGUSR1);
    assert!(!(at..at + size).contains(&WHERE.load(SeqCst)));
    // That handler, off the stack, could disable it.
    assert_eq!((FLAGS.load(SeqCst), CHANGE.load(SeqCst)), (0, 0));
    // A child keeps it, a thread does not have it.
    ok!(SYS_sigaltstack, &stack(at, size, 0), 0);
    in_child(|| {
        let mut s: stack_t = zeroed();
        ok!(SYS_sigaltstack, 0, &mut s);
        assert_eq!(s.ss_sp as usize, at);
    });
}

fn altstack_overflow_kills() {
    let at = map(4 * PAGE, PROT_READ | PROT_WRITE);
    ok!(SYS_munmap, at, PAGE);
    let status = status_of(|| {
        ok!(SYS_sigaltstack, &stack(at, PAGE, 0), 0);
        on(SIGUSR1, SA_ONSTACK);
        ok!(SYS_kill, ok!(SYS_getpid), SIGUSR1);
        0
    });
    assert_eq!(killed_by(status), Some(SIGSEGV));
}

fn altstack_autodisarm() {
    const SS_AUTODISARM: i32 = 1 << 31;
    let size = 32 * PAGE;
    let at = map(size, PROT_READ | PROT_WRITE);
    ok!(SYS_sigaltstack, &stack(at, size, SS_AUTODISARM), 0);
    action(SIGUSR1, note_stack as *const () as usize, SA_ONSTACK, &[]);
    ok!(SYS_kill, me(), SIGUSR1);
    assert!((at..at + size).contains(&WHERE.load(SeqCst)));
    assert_eq!((FLAGS.load(SeqCst), CHANGE.load(SeqCst)), (SS_DISABLE, 0));
    let mut s: stack_t = zeroed();
    ok!(SYS_sigaltstack, 0, &mut s);
    assert_eq!((s.ss_sp as usize, s.ss_flags), (at, SS_AUTODISARM));
}

static CONTEXT: AtomicUsize = AtomicUsize::new(0);
static RIP: AtomicUsize = AtomicUsize::new(0);

fn frame_registers() {
    extern "C" fn handler(_: i32, _: *mut siginfo_t, c: *mut c_void) {
        // SAFETY: the kernel passes a valid context.
        let u = unsafe { &*(c.cast::<ucontext_t>()) };
        let g = &u.uc_mcontext.gregs;
        CONTEXT.store(c as usize, SeqCst);
        RIP.store(g[REG_RIP as usize] as usize, SeqCst);
        let sp = g[REG_RSP as usize] as usize;
        let frame = c as usize - 8;
        println!("flags {:x}", u.uc_flags);
        println!("link {}", u.uc_link.is_null());
        println!("rax {}", g[REG_RAX as usize]);
        println!("alignment {} red zone {}", frame % 16, frame + 128 < sp);
        println!("segments {:x}", g[REG_CSGSFS as usize]);
        println!("fault {} {}", g[REG_TRAPNO as usize], g[REG_ERR as usize]);
        println!("interrupts {}", g[REG_EFL as usize] & 0x200);
        // SAFETY: the frame's mask; the kernel's has 64 bits.
        println!("mask {:x}", unsafe { *(&raw const u.uc_sigmask).cast::<u64>() });
        println!("fpstate {} {}", !u.uc_mcontext.fpregs.is_null(), u.uc_mcontext.fpregs as usize % 64);
    }
    sigmask(SIG_SETMASK, bit(SIGHUP));
    action(SIGUSR1, handler as *const () as usize, SA_SIGINFO, &[]);
    ok!(SYS_tkill, ok!(SYS_gettid), SIGUSR1);
    assert_ne!(CONTEXT.load(SeqCst), 0);
}

fn frame_changes_take() {
    // The handler lets the faulting store go to another page, by changing a register... which
    // one is the compiler's choice, so it makes the page accessible and changes the mask instead.
    extern "C" fn handler(_: i32, info: *mut siginfo_t, c: *mut c_void) {
        // SAFETY: the kernel passes valid pointers.
        unsafe {
            let at = (*info).si_addr() as usize;
            ok!(SYS_mprotect, at & !(PAGE - 1), PAGE, PROT_READ | PROT_WRITE);
            *(&raw mut (*c.cast::<ucontext_t>()).uc_sigmask).cast::<u64>() = bit(SIGHUP);
        }
    }
    action(SIGSEGV, handler as *const () as usize, SA_SIGINFO, &[]);
    let at = map(PAGE, PROT_READ);
    poke(at + 9, 4);
    assert_eq!(peek(at + 9), 4);
    assert_eq!(sigmask(SIG_SETMASK, 0), bit(SIGHUP));
}

fn frame_float_state() {
    extern "C" fn handler(_: i32) {
        // Uses and so clobbers vector registers.
        let mut x = [1.5f64; 16];
        for i in 0..1000 {
            for v in &mut x {
                *v = std::hint::black_box(*v * 1.01 + i as f64);
            }
        }
        std::hint::black_box(x);
    }
    action(SIGALRM, handler as *const () as usize, SA_RESTART, &[]);
    let t = timeval { tv_sec: 0, tv_usec: 500 };
    ok!(SYS_setitimer, ITIMER_REAL, &itimerval { it_interval: t, it_value: t }, 0);
    let work = || {
        let mut a = [0.0f64; 8];
        for i in 0..3_000_000u64 {
            a[(i % 8) as usize] += 1.0 / (1.0 + i as f64);
        }
        a.iter().sum::<f64>().to_bits()
    };
    let first = work();
    for _ in 0..5 {
        assert_eq!(work(), first);
    }
}

fn restart_read() {
    on(SIGUSR1, SA_RESTART);
    let (r, w) = pipe(0);
    let pid = me();
    fork(|| {
        asleep(pid as i32, 0);
        ok!(SYS_kill, pid, SIGUSR1);
        nap(30);
        write(w, b"late");
        0
    });
    assert_eq!(read(r, 10), b"late");
    assert_eq!(count(SIGUSR1), 1);
}

fn no_restart_read() {
    on(SIGUSR1, 0);
    let (r, _w) = pipe(0);
    soon(SIGUSR1, 30);
    err!(EINTR: SYS_read, r, &mut [0u8; 4], 4);
    // A handler without SA_RESTART interrupts flock and wait too; that is elsewhere.
    let (r, w) = pipe(0);
    ok!(SYS_fcntl, w, F_SETPIPE_SZ, PAGE);
    write(w, &[0; PAGE]);
    soon(SIGUSR1, 30);
    err!(EINTR: SYS_write, w, &[0u8; 4], 4);
    // Part of it went in: then that counts.
    read(r, 100);
    read(r, PAGE);
    soon(SIGUSR1, 30);
    assert_eq!(ok!(SYS_write, w, &[0u8; 3 * PAGE], 3 * PAGE), PAGE);
}

fn restart_never() {
    on(SIGUSR1, SA_RESTART);
    let (r, _w) = pipe(0);
    let mut p = pollfd { fd: r, events: POLLIN, revents: 0 };
    soon(SIGUSR1, 30);
    err!(EINTR: SYS_poll, &mut p, 1, 5000);
    soon(SIGUSR1, 30);
    err!(EINTR: SYS_select, 0, 0, 0, 0, &timeval { tv_sec: 5, tv_usec: 0 });
    let ep = ok!(SYS_epoll_create1, 0);
    soon(SIGUSR1, 30);
    err!(EINTR: SYS_epoll_wait, ep, &mut [0u64; 4], 1, 5000);
    soon(SIGUSR1, 30);
    err!(EINTR: SYS_nanosleep, &ms(5000), 0);
    assert_eq!(count(SIGUSR1), 4);
}

fn restart_after_stop() {
    // A sleep or poll that a stop interrupts goes on by itself.
    let (r, w) = pipe(0);
    let pid = fork(|| {
        let before = mono();
        write(w, b"x");
        ok!(SYS_nanosleep, &ms(80), 0);
        i32::from(mono() - before < 80_000_000)
    });
    read(r, 1);
    nap(10);
    ok!(SYS_kill, pid, SIGSTOP);
    nap(10);
    ok!(SYS_kill, pid, SIGCONT);
    assert_eq!(wait(pid), 0);
    let pid = fork(|| {
        write(w, b"x");
        i32::from(poll(r, 0, 80) != 0)
    });
    read(r, 1);
    nap(10);
    ok!(SYS_kill, pid, SIGSTOP);
    ok!(SYS_kill, pid, SIGCONT);
    assert_eq!(wait(pid), 0);
}

fn nanosleep_remaining() {
    on(SIGUSR1, SA_RESTART);
    let interrupted = |sleep: &dyn Fn(&mut timespec)| {
        let (before, mut left) = (mono(), ms(0));
        soon(SIGUSR1, 50);
        sleep(&mut left);
        let (left, passed) = (left.tv_sec as u64 * 1_000_000_000 + left.tv_nsec as u64, mono() - before);
        assert!(left < 5_000_000_000 && left + passed >= 5_000_000_000, "{left} after {passed}");
    };
    interrupted(&|left| err!(EINTR: SYS_nanosleep, &ms(5000), left));
    interrupted(&|left| err!(EINTR: SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &ms(5000), left));
}

fn ignored_signal_does_not_interrupt() {
    action(SIGUSR1, SIG_IGN, 0, &[]);
    soon(SIGUSR1, 10);
    soon(SIGWINCH, 10);
    let before = mono();
    ok!(SYS_nanosleep, &ms(60), 0);
    assert!(mono() - before >= 60_000_000);
}

fn stop_and_continue_clear_each_other() {
    sigmask(SIG_BLOCK, bit(SIGTSTP) | bit(SIGTTIN) | bit(SIGCONT));
    ok!(SYS_kill, me(), SIGTSTP);
    ok!(SYS_kill, me(), SIGTTIN);
    let mut set = 0u64;
    ok!(SYS_rt_sigpending, &mut set, 8);
    assert_eq!(set, bit(SIGTSTP) | bit(SIGTTIN));
    on(SIGCONT, 0);
    ok!(SYS_kill, me(), SIGCONT);
    ok!(SYS_rt_sigpending, &mut set, 8);
    assert_eq!(set, bit(SIGCONT));
    ok!(SYS_kill, me(), SIGTSTP);
    ok!(SYS_rt_sigpending, &mut set, 8);
    assert_eq!(set, bit(SIGTSTP));
}

fn sigkill_ends_everything() {
    let (r, w) = pipe(0);
    let pid = fork(|| {
        close(r);
        for _ in 0..5 {
            std::thread::spawn(|| loop {
                std::hint::spin_loop();
            });
        }
        write(w, b"x");
        loop {
            nap(1000);
        }
    });
    close(w);
    read(r, 1);
    ok!(SYS_kill, pid, SIGKILL);
    assert_eq!(wait(pid), SIGKILL);
    assert_eq!(read(r, 1), b"");
    // A stopped process too.
    let pid = fork(|| {
        ok!(SYS_kill, ok!(SYS_getpid), SIGSTOP);
        0
    });
    ok!(SYS_wait4, pid, 0, WUNTRACED, 0);
    ok!(SYS_kill, pid, SIGKILL);
    assert_eq!(wait(pid), SIGKILL);
}

fn signal_to_thread_in_group() {
    // A signal for the process goes to a thread that does not block it.
    static TID: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn handler(_: i32) {
        TID.store(ok!(SYS_gettid), SeqCst);
    }
    action(SIGUSR1, handler as *const () as usize, 0, &[]);
    let (r, w) = pipe(0);
    let t = std::thread::spawn(move || {
        write(w, b"x");
        let _ = sys!(SYS_pause);
        ok!(SYS_gettid)
    });
    read(r, 1);
    sigmask(SIG_BLOCK, bit(SIGUSR1));
    settle();
    ok!(SYS_kill, me(), SIGUSR1);
    assert_eq!(t.join().unwrap(), TID.load(SeqCst));
}

fn thread_masks() {
    sigmask(SIG_SETMASK, bit(SIGUSR1));
    std::thread::spawn(|| {
        assert_eq!(sigmask(SIG_SETMASK, bit(SIGUSR2)), bit(SIGUSR1));
    })
    .join()
    .unwrap();
    assert_eq!(sigmask(SIG_BLOCK, 0), bit(SIGUSR1));
}

fn info_of_kill() {
    on(SIGUSR1, 0);
    let child = soon(SIGUSR1, 5);
    err!(EINTR: SYS_pause);
    assert_eq!((CODE.load(SeqCst), SENDER.load(SeqCst)), (SI_USER, child));
    wait(child);
}

fn sigpipe_on_write() {
    let (r, w) = pipe(0);
    close(r);
    action(SIGPIPE, SIG_IGN, 0, &[]);
    err!(EPIPE: SYS_write, w, b"x", 1);
    on(SIGPIPE, 0);
    err!(EPIPE: SYS_write, w, b"x", 1);
    assert_eq!(count(SIGPIPE), 1);
    let status = status_of(|| {
        action(SIGPIPE, SIG_DFL, 0, &[]);
        write(w, b"x");
        0
    });
    assert_eq!(killed_by(status), Some(SIGPIPE));
}

fn abort_cannot_be_lost() {
    let status = status_of(|| {
        on(SIGABRT, 0);
        // SAFETY: ends the child, handler or not.
        unsafe { abort() }
    });
    assert_eq!(killed_by(status), Some(SIGABRT));
}

fn exec_thread_signals() {
    // A thread directed signal stays with its thread.
    sigmask(SIG_BLOCK, bit(SIGUSR1));
    let (r, w) = pipe(0);
    let (done_r, done_w) = pipe(0);
    let t = std::thread::spawn(move || {
        write(w, &(ok!(SYS_gettid) as u32).to_ne_bytes());
        read(done_r, 1);
        let mut set = 0u64;
        ok!(SYS_rt_sigpending, &mut set, 8);
        set
    });
    let tid = u32::from_ne_bytes(read(r, 4).try_into().unwrap());
    ok!(SYS_tgkill, me(), tid, SIGUSR1);
    let mut set = 0u64;
    ok!(SYS_rt_sigpending, &mut set, 8);
    assert_eq!(set, 0);
    write(done_w, b"x");
    assert_eq!(t.join().unwrap(), bit(SIGUSR1));
}

fn fault_in_handler_frame() {
    // A stack pointer where no frame fits ends the process with SIGSEGV.
    let status = status_of(|| {
        let at = map(2 * PAGE, PROT_READ);
        ok!(SYS_sigaltstack, &stack(at, 2 * PAGE, 0), 0);
        on(SIGUSR1, SA_ONSTACK);
        on(SIGSEGV, SA_ONSTACK);
        ok!(SYS_kill, ok!(SYS_getpid), SIGUSR1);
        0
    });
    assert_eq!(killed_by(status), Some(SIGSEGV));
}
