//! prctl(PR_SET_TSC), prctl(PR_GET_TSC): threads without the time-stamp counter.

use std::arch::x86_64::{__rdtscp, _rdtsc};

use crate::helpers::*;
use crate::sys::BAD;

cases![
    forms,
    reading_faults,
    a_handler_gives_it_back,
    on_and_off,
    inherited,
    threads_have_their_own,
    kept_over_execve,
    clocks_without_it,
    strict_mode_takes_it,
];

fn mode() -> i32 {
    let mut mode = -1;
    ok!(SYS_prctl, PR_GET_TSC, &mut mode);
    mode
}

fn set(mode: i32) {
    ok!(SYS_prctl, PR_SET_TSC, mode);
}

fn read_tsc() -> u64 {
    // SAFETY: every x86-64 has the instruction; where it faults, that is the case's point.
    unsafe { _rdtsc() }
}

fn read_tscp() -> u64 {
    let mut aux = 0;
    // SAFETY: as above.
    unsafe { __rdtscp(&mut aux) }
}

fn read() {
    std::hint::black_box(read_tsc());
}

/// What the `tsc` command prints.
pub(crate) fn print_mode() {
    println!("mode {}", mode());
}

fn forms() {
    assert_eq!(mode(), PR_TSC_ENABLE);
    err!(EINVAL: SYS_prctl, PR_SET_TSC, 0);
    err!(EINVAL: SYS_prctl, PR_SET_TSC, 3);
    err!(EINVAL: SYS_prctl, PR_SET_TSC, -1);
    err!(EFAULT: SYS_prctl, PR_GET_TSC, BAD);
    set(PR_TSC_SIGSEGV);
    assert_eq!(mode(), PR_TSC_SIGSEGV);
    set(PR_TSC_SIGSEGV);
    // The upper half is not looked at.
    ok!(SYS_prctl, PR_SET_TSC, PR_TSC_ENABLE as u64 | 7 << 32);
    assert_eq!(mode(), PR_TSC_ENABLE);
    read_tsc();
}

fn reading_faults() {
    assert_eq!(fault(read), None);
    let without = |read: fn() -> u64| {
        fault(|| {
            set(PR_TSC_SIGSEGV);
            read();
        })
    };
    println!("{:?} {:?}", without(read_tsc), without(read_tscp));
}

extern "C" fn give_back(_: i32, info: *mut siginfo_t, _: *mut c_void) {
    COUNT[SIGSEGV as usize].fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    // SAFETY: the kernel passes a valid siginfo.
    CODE.store(unsafe { (*info).si_code }, std::sync::atomic::Ordering::SeqCst);
    set(PR_TSC_ENABLE);
}

fn a_handler_gives_it_back() {
    action(SIGSEGV, give_back as *const () as usize, SA_SIGINFO, &[]);
    for round in 1..20 {
        set(PR_TSC_SIGSEGV);
        let (a, b) = (read_tsc(), read_tsc());
        assert!(a < b && count(SIGSEGV) == round);
    }
    println!("code {}", CODE.load(std::sync::atomic::Ordering::SeqCst));
}

/// A call of every kind in between, so that a platform that answers some by itself keeps up.
fn on_and_off() {
    let cannot = || fault(read).is_some();
    for _ in 0..3 {
        set(PR_TSC_SIGSEGV);
        ok!(SYS_getpid);
        assert!(cannot());
        for _ in 0..200 {
            ok!(SYS_getppid);
        }
        assert!(cannot());
        set(PR_TSC_ENABLE);
        ok!(SYS_getpid);
        assert!(!cannot());
        // Undone before it is tried.
        set(PR_TSC_SIGSEGV);
        set(PR_TSC_ENABLE);
        read_tsc();
    }
}

fn inherited() {
    set(PR_TSC_SIGSEGV);
    in_child(|| {
        assert_eq!(mode(), PR_TSC_SIGSEGV);
        set(PR_TSC_ENABLE);
        read_tsc();
    });
    assert_eq!(mode(), PR_TSC_SIGSEGV);
}

fn threads_have_their_own() {
    set(PR_TSC_SIGSEGV);
    let first = std::thread::spawn(|| {
        let before = mode();
        set(PR_TSC_ENABLE);
        (before, read_tsc() > 0)
    });
    assert_eq!(first.join().unwrap(), (PR_TSC_SIGSEGV, true));
    assert_eq!(mode(), PR_TSC_SIGSEGV);
    set(PR_TSC_ENABLE);
    std::thread::spawn(|| set(PR_TSC_SIGSEGV)).join().unwrap();
    read_tsc();
    // Takes over what is left of the last one.
    std::thread::spawn(read_tsc).join().unwrap();
}

fn kept_over_execve() {
    use std::io::Write;
    println!("before {}", mode());
    std::io::stdout().flush().unwrap();
    set(PR_TSC_SIGSEGV);
    let status = status_of(|| {
        let args = [c"guest".as_ptr(), c"tsc".as_ptr(), std::ptr::null()];
        let _ = sys!(SYS_execve, c"/proc/self/exe", &args, &[std::ptr::null::<c_char>()]);
        9
    });
    assert_eq!(status, 0);
}

/// Clocks by the vDSO read the counter; by system call they do not.
fn clocks_without_it() {
    let by_vdso = fault(|| {
        set(PR_TSC_SIGSEGV);
        let mut t: timespec = zeroed();
        // SAFETY: the C library's, with a live buffer.
        unsafe { clock_gettime(CLOCK_MONOTONIC, &mut t) };
    });
    println!("{by_vdso:?}");
    set(PR_TSC_SIGSEGV);
    assert!(mono() > 0);
    set(PR_TSC_ENABLE);
}

fn strict_mode_takes_it() {
    action(SIGSEGV, SIG_DFL, 0, &[]);
    let status = status_of(|| {
        ok!(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
        read_tsc();
        let _ = sys!(SYS_exit, 0);
        0
    });
    println!("{:?}", killed_by(status));
}
