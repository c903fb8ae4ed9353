//! What of a thread's state must survive calls and signals: GS, stacks, handlers, the time-stamp
//! counter's switch.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::registers::{self, State};
use crate::sys::{self, Chance, fork, reap};

const ARCH_SET_GS: i32 = 0x1001;
const ARCH_GET_GS: i32 = 0x1004;
/// Of `AT_HWCAP2`: user code may use the FSGSBASE instructions.
const HWCAP2_FSGSBASE: u64 = 2;
/// `SI_TKILL`
const SI_TKILL: i32 = -6;

fn arch_prctl(code: i32, value: u64) {
    // SAFETY: sets GS, which nothing uses, or writes to the word whose address it is given.
    assert_eq!(unsafe { libc::syscall(libc::SYS_arch_prctl, code, value) }, 0);
}

fn signal_self(signo: i32) {
    // SAFETY: plain numbers.
    let r = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), sys::gettid(), signo) };
    assert_eq!(r, 0, "tgkill: errno {}", sys::errno());
}

thread_local! {
    static SEEN: Cell<u64> = const { Cell::new(0) };
    static SIGNALS: Cell<u64> = const { Cell::new(0) };
    static STACK: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}
static AFTER: u64 = 4711;
static ELSEWHERE: AtomicU64 = AtomicU64::new(0);

/// Looks where the base of GS points, and leaves it pointing at another word.
extern "C" fn look_at_gs(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    SEEN.set(registers::gs_word());
    arch_prctl(ARCH_SET_GS, &raw const AFTER as u64);
    SIGNALS.set(SIGNALS.get() + 1);
}

/// The base of GS is each thread's own, through calls and signals, however it was set.
pub(crate) fn gs_base() {
    registers::find_out();
    sys::handle(libc::SIGUSR1, look_at_gs, 0);
    // SAFETY: no pointers.
    let instructions = unsafe { libc::getauxval(libc::AT_HWCAP2) } & HWCAP2_FSGSBASE != 0;
    let threads = (0..4u64).map(|seed| {
        std::thread::spawn(move || {
            let mut chance = Chance::new(seed);
            let words = [seed * 2 + 1, seed * 2 + 2];
            // SAFETY: no arguments.
            let parent = unsafe { libc::getppid() };
            for round in 0..400 {
                let word = &words[round % 2];
                let base = std::ptr::from_ref(word) as u64;
                if instructions && round % 3 != 0 {
                    registers::write_gs_base(base);
                } else {
                    arch_prctl(ARCH_SET_GS, base);
                }
                registers::calls(&State::random(&mut chance), 5, parent);
                assert_eq!(registers::gs_word(), *word, "after calls");
                signal_self(libc::SIGUSR1);
                assert_eq!((SEEN.get(), SIGNALS.get()), (*word, round as u64 + 1), "in a handler");
                // Frames do not hold it.
                assert_eq!(registers::gs_word(), AFTER, "after a signal");
                arch_prctl(ARCH_SET_GS, base);
                registers::compute(&State::random(&mut chance), 2_000);
                assert_eq!(registers::gs_word(), *word, "after computing");
                let mut got = 0u64;
                arch_prctl(ARCH_GET_GS, &raw mut got as u64);
                assert_eq!(got, base, "ARCH_GET_GS");
            }
        })
    });
    threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
}

/// Counts, and notes whether it runs where it ought to.
extern "C" fn count(signo: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    registers::clobber();
    let here = &raw const signo as usize;
    let (base, len) = STACK.get();
    // SAFETY: the kernel filled in both structures.
    let (code, address, context) = unsafe {
        ((*info).si_code, (*info).si_addr() as usize, &mut *context.cast::<libc::ucontext_t>())
    };
    let right = match signo {
        libc::SIGSYS => code == SI_TKILL,
        // ILL_ILLOPN, FPE_INTDIV.
        libc::SIGILL | libc::SIGFPE => {
            let code_right = code == if signo == libc::SIGILL { 2 } else { 1 };
            let rip = context.uc_mcontext.gregs[libc::REG_RIP as usize];
            code_right && address == rip as usize
        }
        // Of `int3`: SI_KERNEL, and no address.
        libc::SIGTRAP => code == 0x80 && address == 0,
        _ => code == 1 && address == NOWHERE,
    };
    if !right || (len != 0) != (here.wrapping_sub(base) < len) {
        ELSEWHERE.fetch_add(1, Ordering::Relaxed);
    }
    SIGNALS.set(SIGNALS.get() + 1);
    let skip = match signo {
        libc::SIGSYS | libc::SIGTRAP => 0,
        libc::SIGILL => registers::UD2_LEN,
        libc::SIGFPE => registers::DIV_LEN,
        // The load in `touch`.
        _ => LOAD.get(),
    };
    context.uc_mcontext.gregs[libc::REG_RIP as usize] += skip;
}

thread_local! {
    static LOAD: Cell<i64> = const { Cell::new(0) };
}

/// An address at which nothing is mapped.
const NOWHERE: usize = 0x1000;

fn touch() {
    LOAD.set(registers::LOAD_LEN);
    registers::load_from(NOWHERE);
}

fn use_stack(base: usize, len: usize) {
    let flags = if len == 0 { libc::SS_DISABLE } else { 0 };
    let stack = libc::stack_t { ss_sp: base as *mut _, ss_flags: flags, ss_size: len };
    // SAFETY: a mapping of the caller's own, or none.
    assert_eq!(unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) }, 0);
    STACK.set((base, len));
}

/// A program's own handlers of SIGSYS, SIGSEGV and SIGILL, on its own stack and on an alternate one,
/// and what becomes of SIGSYS when it is ignored, blocked or left alone.
pub(crate) fn own_handlers() {
    registers::find_out();
    for signo in [libc::SIGSYS, libc::SIGSEGV, libc::SIGILL, libc::SIGTRAP, libc::SIGFPE] {
        sys::handle(signo, count, libc::SA_ONSTACK);
    }
    let threads = (0..4u64).map(|seed| {
        std::thread::spawn(move || {
            let mut chance = Chance::new(seed);
            let stack = vec![0u8; 64 << 10];
            // SAFETY: no arguments.
            let parent = unsafe { libc::getppid() };
            for round in 0..200u64 {
                if round % 2 == 0 {
                    use_stack(stack.as_ptr() as usize, stack.len());
                } else {
                    use_stack(0, 0);
                }
                signal_self(libc::SIGSYS);
                touch();
                let state = State::random(&mut chance);
                registers::exceptions(&state, 2);
                assert_eq!(SIGNALS.get(), (round + 1) * 8, "each signal is handled once");
                registers::calls(&state, 5, parent);
            }
            use_stack(0, 0);
        })
    });
    threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(ELSEWHERE.load(Ordering::Relaxed), 0, "handlers on wrong stacks or told wrongly");

    // SAFETY: plain numbers and valid pointers, in children with one thread.
    unsafe {
        let calls_work = || libc::getppid() > 0 && libc::getpid() > 0;
        let ignoring = fork(|| {
            libc::signal(libc::SIGSYS, libc::SIG_IGN);
            signal_self(libc::SIGSYS);
            if calls_work() { 5 } else { 1 }
        });
        assert_eq!(reap(ignoring), 5, "SIGSYS is ignored");
        let blocking = fork(|| {
            let mut all: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::sigprocmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
            signal_self(libc::SIGSYS);
            signal_self(libc::SIGTRAP);
            let mut pending: libc::sigset_t = std::mem::zeroed();
            libc::sigpending(&mut pending);
            let waits = libc::sigismember(&pending, libc::SIGSYS) == 1;
            if waits && calls_work() { 6 } else { 1 }
        });
        assert_eq!(reap(blocking), 6, "SIGSYS waits while it is blocked");
        for signo in [libc::SIGSYS, libc::SIGSEGV, libc::SIGTRAP] {
            let dying = fork(|| {
                libc::signal(signo, libc::SIG_DFL);
                signal_self(signo);
                1
            });
            assert_eq!(reap(dying), -signo, "signal {signo} kills");
        }
        // Blocked when it is forced: it kills, handler or not.
        let forced = fork(|| {
            let mut all: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::sigprocmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
            touch();
            1
        });
        assert_eq!(reap(forced), -libc::SIGSEGV, "a blocked fault kills");
    }
}

/// System calls have no use for a stack: any stack pointer will do. Signals need one.
pub(crate) fn odd_stacks() {
    registers::find_out();
    sys::handle(libc::SIGUSR1, look_at_nothing, libc::SA_ONSTACK);
    let stack = vec![0u8; 64 << 10];
    use_stack(stack.as_ptr() as usize, stack.len());
    // SAFETY: no arguments.
    let parent = i64::from(unsafe { libc::getppid() });
    let odd = [0, 8, 0x1000, 0x7fff_ffff_fff8, 0xffff_8000_0000_0000, u64::MAX, 0xdead << 48];
    for _ in 0..200 {
        for at in odd {
            assert_eq!(registers::call_with_stack_at(at), parent, "with the stack at {at:#x}");
        }
    }
    // Meanwhile, signals on the alternate stack.
    let every = libc::timeval { tv_sec: 0, tv_usec: 300 };
    let spec = libc::itimerval { it_interval: every, it_value: every };
    sys::handle(libc::SIGALRM, look_at_nothing, libc::SA_ONSTACK);
    // SAFETY: `spec` is valid.
    unsafe { assert_eq!(libc::setitimer(libc::ITIMER_REAL, &spec, std::ptr::null_mut()), 0) };
    let mut at = 0;
    while SIGNALS.get() < 500 {
        at += 1;
        registers::spin_with_stack_at(odd[at % odd.len()], 10_000);
        assert_eq!(registers::call_with_stack_at(odd[at % odd.len()]), parent);
    }
}

extern "C" fn look_at_nothing(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    SIGNALS.set(SIGNALS.get() + 1);
}

thread_local! {
    static REFUSED: Cell<u64> = const { Cell::new(0) };
}

extern "C" fn refused(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    REFUSED.set(REFUSED.get() + 1);
    // SAFETY: the kernel filled in the structure. The switch is back on, and the instruction
    // repeated.
    unsafe {
        if (*info).si_code != 0x80 {
            libc::_exit(102);
        }
        libc::prctl(libc::PR_SET_TSC, libc::PR_TSC_ENABLE);
    }
}

/// PR_SET_TSC: either the counter can be switched off, and reading it is a SIGSEGV, or the kernel
/// has no such switch (EINVAL).
pub(crate) fn time_stamp_counter() {
    sys::handle(libc::SIGSEGV, refused, 0);
    let mut mode = 0;
    let mut last = registers::time_stamp();
    for round in 0..100 {
        // SAFETY: `mode` is valid for writes.
        let (got, set) = unsafe {
            (
                libc::prctl(libc::PR_GET_TSC, &raw mut mode),
                libc::prctl(libc::PR_SET_TSC, libc::PR_TSC_SIGSEGV),
            )
        };
        let errno = sys::errno();
        assert_eq!((got, mode), (0, libc::PR_TSC_ENABLE));
        let now = registers::time_stamp();
        assert!(now > last, "time goes on");
        last = now;
        if set == 0 {
            assert_eq!(REFUSED.get(), round + 1);
        } else {
            assert_eq!((set, errno, REFUSED.get()), (-1, libc::EINVAL, 0));
        }
    }
    // SAFETY: no pointers.
    let r = unsafe { libc::prctl(libc::PR_SET_TSC, 17) };
    assert_eq!((r, sys::errno()), (-1, libc::EINVAL));
}
