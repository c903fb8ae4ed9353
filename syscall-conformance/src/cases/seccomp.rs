//! seccomp(2): strict mode, filters, what they see and what they do.

use crate::helpers::*;
use crate::sys::BAD;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering::SeqCst};

cases![
    strict_kills,
    strict_thread,
    needs_no_new_privs,
    bad_programs,
    bad_arguments,
    errno_values,
    precedence,
    odd_actions,
    trap_tells,
    trap_place,
    trap_blocked,
    kill_thread,
    kill_process,
    arguments,
    any_number,
    by_place,
    arithmetic,
    modes_and_status,
    inherited,
    kept_by_exec,
    hot_calls,
    hot_threads,
    tsync,
    tsync_refused,
    tsync_no_new_privs,
    chain_limit,
    actions_available,
    sysctl,
    interrupted_calls,
];

const STRICT: u32 = SECCOMP_SET_MODE_STRICT;
const FILTER: u32 = SECCOMP_SET_MODE_FILTER;
const AVAIL: u32 = SECCOMP_GET_ACTION_AVAIL;
const SIZES: u32 = 3;
const ESRCH_FLAG: u64 = 16;
const MAX_INSNS: usize = 4096;
/// Offsets in `struct seccomp_data`.
const NR: u32 = 0;
const ARCH: u32 = 4;
const IP: u32 = 8;
const X86_64: u32 = 0xc000_003e;

pub(crate) const ALLOW: u32 = SECCOMP_RET_ALLOW;
pub(crate) const NOTIFY: u32 = 0x7fc0_0000;
const ERRNO: u32 = SECCOMP_RET_ERRNO;
const TRAP: u32 = SECCOMP_RET_TRAP;
const TRACE: u32 = SECCOMP_RET_TRACE;
const LOG: u32 = SECCOMP_RET_LOG;
const KILL_THREAD: u32 = SECCOMP_RET_KILL_THREAD;
const KILL_PROCESS: u32 = SECCOMP_RET_KILL_PROCESS;

pub(crate) fn stmt(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

pub(crate) fn jump(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | code) as u16, jt, jf, k }
}

fn load(offset: u32) -> sock_filter {
    stmt(BPF_LD | BPF_W | BPF_ABS, offset)
}

fn ret(value: u32) -> sock_filter {
    stmt(BPF_RET | BPF_K, value)
}

fn eq(k: u32, jt: u8, jf: u8) -> sock_filter {
    jump(BPF_JEQ | BPF_K, k, jt, jf)
}

pub(crate) fn no_new_privs() {
    ok!(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

pub(crate) fn install(insns: &[sock_filter], flags: u64) -> Result<usize, i32> {
    let prog = sock_fprog { len: insns.len() as u16, filter: insns.as_ptr().cast_mut() };
    sys!(SYS_seccomp, FILTER, flags, &prog)
}

/// A program that says `value` about call `nr` and allows all others.
pub(crate) fn on_call(nr: i64, value: u32) -> [sock_filter; 4] {
    [load(NR), eq(nr as u32, 0, 1), ret(value), ret(ALLOW)]
}

#[track_caller]
pub(crate) fn filter_call(nr: i64, value: u32) {
    no_new_privs();
    assert_eq!(install(&on_call(nr, value), 0), Ok(0));
}

/// How a child ends: exit status or signal.
fn end_of(body: impl FnOnce()) -> String {
    let status = status_of(|| {
        body();
        0
    });
    match killed_by(status) {
        Some(signal) => format!("signal {signal}"),
        None => format!("status {}", WEXITSTATUS(status)),
    }
}

fn strict_kills() {
    let strict = || {
        ok!(SYS_prctl, PR_SET_SECCOMP, 1, 0, 0, 0);
    };
    let leave = || {
        let _ = sys!(SYS_exit, 3);
    };
    println!("{}", end_of(|| { strict(); leave() }));
    println!("{}", end_of(|| { strict(); let _ = sys!(SYS_write, 1, b"", 0); leave() }));
    println!("{}", end_of(|| { strict(); let _ = sys!(SYS_getpid); leave() }));
    println!("{}", end_of(|| { strict(); let _ = sys!(SYS_exit_group, 0); leave() }));
    println!("{}", end_of(|| {
        ok!(SYS_seccomp, STRICT, 0, 0);
        let _ = sys!(SYS_prctl, PR_GET_SECCOMP, 0, 0, 0, 0);
    }));
    in_child(|| {
        filter_call(SYS_getppid, ERRNO | 1);
        err!(EINVAL: SYS_prctl, PR_SET_SECCOMP, 1, 0, 0, 0);
        err!(EINVAL: SYS_seccomp, STRICT, 0, 0);
    });
}

fn strict_thread() {
    // Only the thread dies.
    let thread = std::thread::spawn(|| {
        ok!(SYS_prctl, PR_SET_SECCOMP, 1, 0, 0, 0);
        let _ = sys!(SYS_getpid);
        unreachable!();
    });
    let tasks = || std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    while tasks() > 1 {
        nap(1);
    }
    assert_eq!(status_field("Seccomp"), "0");
    std::mem::forget(thread);
}

fn needs_no_new_privs() {
    need_unprivileged();
    let program = on_call(SYS_getppid, ERRNO | 1);
    assert_eq!(install(&program, 0), Err(EACCES));
    // The program is looked at later, its length before.
    assert_eq!(install(&[stmt(0xffff, 0)], 0), Err(EACCES));
    assert_eq!(install(&[], 0), Err(EINVAL));
    err!(EFAULT: SYS_seccomp, FILTER, 0, BAD);
    err!(EACCES: SYS_prctl, PR_SET_SECCOMP, 2, &sock_fprog { len: 1, filter: BAD as *mut _ });
    no_new_privs();
    assert_eq!(install(&program, 0), Ok(0));
    err!(EPERM: SYS_getppid);
}

fn bad_programs() {
    no_new_privs();
    let last = ret(ALLOW);
    let bad: [&[sock_filter]; 15] = [
        &[],
        &[load(NR)],
        &[stmt(0xffff, 0), last],
        &[stmt(BPF_RET | BPF_X, 0)],
        &[stmt(BPF_LD | BPF_H | BPF_ABS, 0), last],
        &[stmt(BPF_LD | BPF_W | BPF_IND, 0), last],
        &[stmt(BPF_LDX | BPF_B | BPF_MSH, 0), last],
        &[stmt(BPF_ALU | BPF_MOD | BPF_K, 2), last],
        &[stmt(BPF_ALU | BPF_DIV | BPF_K, 0), last],
        &[stmt(BPF_ALU | BPF_LSH | BPF_K, 32), last],
        &[load(64), last],
        &[load(2), last],
        &[stmt(BPF_LD | BPF_MEM, 0), last],
        &[jump(BPF_JA, 1, 0, 0), last],
        &[eq(0, 0, 1), last],
    ];
    for (n, program) in bad.iter().enumerate() {
        assert_eq!(install(program, 0), Err(EINVAL), "program {n}");
    }
    assert_eq!(install(&vec![last; MAX_INSNS + 1], 0), Err(EINVAL));
    assert_eq!(install(&vec![last; MAX_INSNS], 0), Ok(0));
    let length = [stmt(BPF_LD | BPF_W | BPF_LEN, 0), eq(64, 0, 1), last, ret(KILL_PROCESS)];
    assert_eq!(install(&length, 0), Ok(0));
    assert_eq!(status_field("Seccomp_filters"), "2");
}

fn bad_arguments() {
    no_new_privs();
    let program = on_call(SYS_getppid, ALLOW);
    err!(EINVAL: SYS_seccomp, 9, 0, 0);
    err!(EINVAL: SYS_seccomp, STRICT, 1, 0);
    err!(EINVAL: SYS_seccomp, STRICT, 0, &program);
    for flags in [64, 1 << 31, 32, 1 | 8] {
        assert_eq!(install(&program, flags), Err(EINVAL), "{flags}");
        // Before the pointer is followed.
        err!(EINVAL: SYS_seccomp, FILTER, flags, BAD);
    }
    err!(EFAULT: SYS_seccomp, FILTER, 0, BAD);
    let prog = |filter: usize| sock_fprog { len: 1, filter: filter as *mut _ };
    err!(EFAULT: SYS_seccomp, FILTER, 0, &prog(BAD));
    err!(EINVAL: SYS_seccomp, FILTER, 0, &prog(0));
    err!(EINVAL: SYS_prctl, PR_SET_SECCOMP, 0, 0, 0, 0);
    err!(EINVAL: SYS_prctl, PR_SET_SECCOMP, 3, 0, 0, 0);
    err!(EFAULT: SYS_prctl, PR_SET_SECCOMP, 2, BAD, 0, 0);
    assert_eq!(status_field("Seccomp"), "0");
    for flags in [2, 4, 16] {
        assert_eq!(install(&program, flags), Ok(0), "{flags}");
    }
}

fn errno_values() {
    for value in [0u32, 1, 38, 511, 513, 4095] {
        in_child(|| {
            filter_call(SYS_getppid, ERRNO | value);
            let got = sys!(SYS_getppid);
            println!("{value}: {got:?}");
        });
    }
    in_child(|| {
        filter_call(SYS_getppid, ERRNO | 0xffff);
        assert_eq!(sys!(SYS_getppid), Err(4095));
    });
}

/// What becomes of getppid() under these filters, the first one installed first.
fn outcome(values: &[u32]) -> String {
    extern "C" fn trapped(_: i32, info: *mut siginfo_t, _: *mut c_void) {
        // SAFETY: the kernel's siginfo; then it leaves.
        unsafe { _exit(100 + (*info).si_errno) }
    }
    end_of(|| {
        action(SIGSYS, trapped as *const () as usize, SA_SIGINFO, &[]);
        let parent = ok!(SYS_getppid);
        no_new_privs();
        for value in values {
            assert_eq!(install(&on_call(SYS_getppid, *value), 0), Ok(0));
        }
        let code = match sys!(SYS_getppid) {
            Ok(pid) if pid == parent => 50,
            Ok(_) => 51,
            Err(e) => e,
        };
        let _ = sys!(SYS_exit_group, code);
    })
}

fn precedence() {
    let all = [KILL_PROCESS, KILL_THREAD, TRAP | 3, ERRNO | 7, NOTIFY, TRACE | 9, LOG, ALLOW];
    for a in all {
        for b in all {
            println!("{a:x} {b:x}: {}", outcome(&[a, b]));
        }
    }
    // Of two alike the newer one's data.
    println!("{} {}", outcome(&[ERRNO | 2, ERRNO | 5]), outcome(&[ERRNO | 5, ERRNO | 2]));
    println!("{} {}", outcome(&[TRAP | 2, TRAP | 5, ERRNO | 9]), outcome(&[TRAP | 5, TRAP]));
}

fn odd_actions() {
    for value in [1u32, 0x1_0000, 0x5_1234, 0x7fff_ffff, 0x8000_0001, 0xffff_0000, 0x7ffe_0000] {
        println!("{value:x}: {}", outcome(&[value]));
    }
    println!("{}", outcome(&[0x7fff_1234]));
}

static SYSCALL: AtomicI32 = AtomicI32::new(0);
static CALL_ARCH: AtomicU32 = AtomicU32::new(0);
static CALL_ERRNO: AtomicI32 = AtomicI32::new(0);
static CALL_ADDR: AtomicU64 = AtomicU64::new(0);
static RIP: AtomicU64 = AtomicU64::new(0);
static RAX: AtomicI64 = AtomicI64::new(0);
/// What the handler returns from the call.
static INSTEAD: AtomicI64 = AtomicI64::new(0);

extern "C" fn note_sigsys(sig: i32, info: *mut siginfo_t, context: *mut c_void) {
    assert_eq!(sig, SIGSYS);
    // SAFETY: what the kernel gives a SA_SIGINFO handler: `struct { void *_call_addr; int _syscall;
    // unsigned _arch; }` follows 16 bytes of siginfo.
    unsafe {
        CODE.store((*info).si_code, SeqCst);
        CALL_ERRNO.store((*info).si_errno, SeqCst);
        let at = info.cast::<u8>().add(16);
        CALL_ADDR.store(at.cast::<u64>().read(), SeqCst);
        SYSCALL.store(at.add(8).cast::<i32>().read(), SeqCst);
        CALL_ARCH.store(at.add(12).cast::<u32>().read(), SeqCst);
        let regs = &mut (*context.cast::<ucontext_t>()).uc_mcontext.gregs;
        RIP.store(regs[REG_RIP as usize] as u64, SeqCst);
        RAX.store(regs[REG_RAX as usize], SeqCst);
        regs[REG_RAX as usize] = INSTEAD.load(SeqCst);
    }
    COUNT[SIGSYS as usize].fetch_add(1, SeqCst);
}

fn on_sigsys() {
    action(SIGSYS, note_sigsys as *const () as usize, SA_SIGINFO, &[]);
}

fn trap_tells() {
    on_sigsys();
    filter_call(SYS_getppid, TRAP | 0x1234);
    INSTEAD.store(77, SeqCst);
    assert_eq!(sys!(SYS_getppid, 5, 6), Ok(77));
    assert_eq!((count(SIGSYS), CODE.load(SeqCst), CALL_ERRNO.load(SeqCst)), (1, 1, 0x1234));
    assert_eq!(i64::from(SYSCALL.load(SeqCst)), SYS_getppid);
    assert_eq!(CALL_ARCH.load(SeqCst), X86_64);
    assert_eq!(CALL_ADDR.load(SeqCst), RIP.load(SeqCst));
    // The registers are those from before the call.
    assert_eq!(RAX.load(SeqCst), SYS_getppid);
    INSTEAD.store(-i64::from(EXDEV), SeqCst);
    err!(EXDEV: SYS_getppid);
}

fn trap_place() {
    // The same call site tells the same place, however often it was used before.
    on_sigsys();
    no_new_privs();
    let call = || sys!(SYS_getppid);
    for _ in 0..1000 {
        assert!(call().is_ok());
    }
    assert_eq!(install(&on_call(SYS_getppid, TRAP), 0), Ok(0));
    let mut places = Vec::new();
    for _ in 0..100 {
        let _ = call();
        places.push((CALL_ADDR.load(SeqCst), RIP.load(SeqCst)));
    }
    assert!(places.iter().all(|p| *p == places[0] && p.0 == p.1), "{places:x?}");
    assert_eq!(count(SIGSYS), 100);
}

fn trap_blocked() {
    // It cannot be blocked or ignored.
    println!("{}", end_of(|| {
        on_sigsys();
        sigmask(SIG_BLOCK, bit(SIGSYS));
        filter_call(SYS_getppid, TRAP);
        let _ = sys!(SYS_getppid);
    }));
    println!("{}", end_of(|| {
        action(SIGSYS, SIG_IGN, 0, &[]);
        filter_call(SYS_getppid, TRAP);
        let _ = sys!(SYS_getppid);
    }));
    println!("{}", end_of(|| {
        filter_call(SYS_getppid, TRAP);
        let _ = sys!(SYS_getppid);
    }));
}

fn kill_thread() {
    println!("{}", end_of(|| {
        no_new_privs();
        let thread = std::thread::spawn(|| {
            assert_eq!(install(&on_call(SYS_getppid, KILL_THREAD), 0), Ok(0));
            let _ = sys!(SYS_getppid);
            unreachable!();
        });
        while std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count) > 1 {
            nap(1);
        }
        std::mem::forget(thread);
        let _ = sys!(SYS_exit_group, 5);
    }));
    // The last thread is the process; a handler does not help.
    println!("{}", end_of(|| {
        on_sigsys();
        filter_call(SYS_getppid, KILL_THREAD);
        let _ = sys!(SYS_getppid);
    }));
}

fn kill_process() {
    println!("{}", end_of(|| {
        on_sigsys();
        no_new_privs();
        let _ = std::thread::spawn(|| {
            assert_eq!(install(&on_call(SYS_getppid, KILL_PROCESS), 0), Ok(0));
            let _ = sys!(SYS_getppid);
        })
        .join();
    }));
}

fn arguments() {
    // All six, both halves.
    no_new_privs();
    for n in 0..6u32 {
        for half in 0..2 {
            in_child(|| {
                let word = 16 + 8 * n + 4 * half;
                let program = [
                    load(ARCH),
                    eq(X86_64, 1, 0),
                    ret(KILL_PROCESS),
                    load(NR),
                    eq(SYS_getppid as u32, 0, 3),
                    load(word),
                    eq(0x89ab_cdef, 0, 1),
                    ret(ERRNO | (10 + n)),
                    ret(ALLOW),
                ];
                assert_eq!(install(&program, 0), Ok(0));
                let mut args = [0usize; 6];
                assert!(crate::sys::call(SYS_getppid, &args).is_ok());
                args[n as usize] = 0x89ab_cdef << (32 * half);
                assert_eq!(crate::sys::call(SYS_getppid, &args), Err(10 + n as i32));
                args[n as usize] |= 1 << (32 - 32 * half);
                assert_eq!(crate::sys::call(SYS_getppid, &args), Err(10 + n as i32));
                args[n as usize] = 0x89ab_cdee << (32 * half);
                assert!(crate::sys::call(SYS_getppid, &args).is_ok());
            });
        }
    }
}

fn any_number() {
    // Numbers that no call has are asked about, too, before ENOSYS.
    no_new_privs();
    let program = [load(NR), jump(BPF_JGT | BPF_K, 0xffff, 0, 1), ret(ERRNO | 99), ret(ALLOW)];
    assert_eq!(install(&program, 0), Ok(0));
    for nr in [-1i64, 0x4000_0027, 0x7fff_ffff, 70_000] {
        assert_eq!(crate::sys::call(nr, &[]), Err(99), "{nr}");
    }
    assert_eq!(crate::sys::call(0xfff0, &[]), Err(ENOSYS));
    // The upper half of the register is not part of the number.
    assert_eq!(crate::sys::call(SYS_getppid | 1 << 32, &[]), sys!(SYS_getppid).map_err(|_| 0));
}

fn by_place() {
    // The place that filters see is the one that SIGSYS tells, also when the call was made often.
    on_sigsys();
    in_child(|| {
        let call = || sys!(SYS_getpgrp);
        filter_call(SYS_getpgrp, TRAP);
        let _ = call();
        let place = CALL_ADDR.load(SeqCst);
        let pid = fork(|| {
            let program = [
                load(NR),
                eq(SYS_getppid as u32, 0, 5),
                load(IP),
                eq(place as u32, 0, 3),
                load(IP + 4),
                eq((place >> 32) as u32, 0, 1),
                ret(ERRNO | 3),
                ret(ALLOW),
            ];
            assert_eq!(install(&program, 0), Ok(0));
            // The C library has one place for all calls made through syscall(2).
            for _ in 0..300 {
                assert_eq!(sys!(SYS_getppid), Err(3));
            }
            0
        });
        assert_eq!(wait(pid), 0);
    });
}

fn arithmetic() {
    let k = |op: u32, v: u32| stmt(BPF_ALU | op | BPF_K, v);
    let x = |op: u32| stmt(BPF_ALU | op | BPF_X, 0);
    let imm = |v| stmt(BPF_LD | BPF_IMM, v);
    let ximm = |v| stmt(BPF_LDX | BPF_IMM, v);
    let programs: [(&str, Vec<sock_filter>); 15] = [
        ("add", vec![imm(u32::MAX), k(BPF_ADD, 8)]),
        ("sub", vec![imm(3), ximm(1), x(BPF_SUB)]),
        ("mul", vec![imm(0x8000_0003), k(BPF_MUL, 2)]),
        ("div", vec![imm(u32::MAX), k(BPF_DIV, 0x1000_0000)]),
        ("div by zero", vec![imm(7), ximm(0), x(BPF_DIV), imm(0), imm(9)]),
        ("or", vec![imm(5), k(BPF_OR, 2)]),
        ("and", vec![imm(0xff), ximm(0x81), x(BPF_AND)]),
        ("xor", vec![imm(0xff), k(BPF_XOR, 0x81)]),
        ("shift left", vec![imm(1), k(BPF_LSH, 3)]),
        ("shift by more", vec![imm(1), ximm(35), x(BPF_LSH)]),
        ("shift right", vec![imm(0x8000_0000), k(BPF_RSH, 29)]),
        ("shift right by more", vec![imm(0x80), ximm(33), x(BPF_RSH)]),
        ("neg", vec![imm(0xffff_fff0), stmt(BPF_ALU | BPF_NEG, 0)]),
        ("memory", vec![
            ximm(12),
            stmt(BPF_STX, 15),
            imm(1),
            stmt(BPF_ST, 0),
            stmt(BPF_LDX | BPF_MEM, 0),
            stmt(BPF_LD | BPF_MEM, 15),
            x(BPF_ADD),
        ]),
        ("transfer", vec![
            imm(6),
            stmt(BPF_MISC | BPF_TAX, 0),
            imm(0),
            stmt(BPF_MISC | BPF_TXA, 0),
            jump(BPF_JSET | BPF_K, 2, 1, 0),
            imm(1),
            jump(BPF_JGE | BPF_X, 0, 1, 0),
            imm(2),
        ]),
    ];
    for (name, body) in programs {
        // Only for getppid; the result is the errno.
        let mut program = vec![load(NR), eq(SYS_getppid as u32, 1, 0), ret(ALLOW)];
        program.extend(body);
        program.extend([k(BPF_AND, 0xfff), k(BPF_OR, ERRNO), stmt(BPF_RET | BPF_A, 0)]);
        println!("{name}: {}", end_of(|| {
            no_new_privs();
            assert_eq!(install(&program, 0), Ok(0));
            let code = sys!(SYS_getppid).map_or_else(|e| e, |v| v as i32);
            let _ = sys!(SYS_exit_group, code);
        }));
    }
}

fn modes_and_status() {
    assert_eq!(sys!(SYS_prctl, PR_GET_SECCOMP, 0, 0, 0, 0), Ok(0));
    println!("{} {}", status_field("Seccomp"), status_field("Seccomp_filters"));
    assert_eq!(status_field("NoNewPrivs"), "0");
    filter_call(SYS_getppid, ALLOW);
    assert_eq!(status_field("NoNewPrivs"), "1");
    assert_eq!(sys!(SYS_prctl, PR_GET_SECCOMP, 0, 0, 0, 0), Ok(2));
    println!("{} {}", status_field("Seccomp"), status_field("Seccomp_filters"));
    let program = on_call(SYS_getppid, ALLOW);
    let prog = sock_fprog { len: 4, filter: program.as_ptr().cast_mut() };
    ok!(SYS_prctl, PR_SET_SECCOMP, 2, &prog, 0, 0);
    println!("{} {}", status_field("Seccomp"), status_field("Seccomp_filters"));
    // A zombie keeps its mode.
    let (r, w) = pipe(0);
    let pid = fork(|| 0);
    close(w);
    assert!(read(r, 1).is_empty());
    let of = |key: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        text.lines().find_map(|l| l.strip_prefix(key).map(str::to_owned)).unwrap_or_default()
    };
    while !of("State:").contains('Z') {
        nap(1);
    }
    println!("{:?} {:?}", of("Seccomp:"), of("Seccomp_filters:"));
    assert_eq!(wait(pid), 0);
}

fn inherited() {
    filter_call(SYS_getppid, ERRNO | 5);
    in_child(|| {
        err!(EIO: SYS_getppid);
        assert_eq!(status_field("Seccomp_filters"), "1");
        // The child's own ones are its own.
        filter_call(SYS_getpgrp, ERRNO | 6);
        err!(ENXIO: SYS_getpgrp);
    });
    assert!(sys!(SYS_getpgrp).is_ok());
    std::thread::spawn(|| {
        err!(EIO: SYS_getppid);
        filter_call(SYS_getpgrp, ERRNO | 6);
        err!(ENXIO: SYS_getpgrp);
    })
    .join()
    .unwrap();
    assert!(sys!(SYS_getpgrp).is_ok());
    err!(EIO: SYS_getppid);
}

/// What the `filtered` command does, in a program that a filtered one became.
pub(crate) fn print_filtered() {
    println!("{:?} {}", sys!(SYS_getppid), status_field("Seccomp_filters"));
    println!("{:?}", sys!(SYS_getpid));
}

fn kept_by_exec() {
    let (r, w) = pipe(0);
    let pid = fork(|| {
        ok!(SYS_dup2, w, 1);
        filter_call(SYS_getppid, ERRNO | 5);
        filter_call(SYS_getpid, ERRNO | 6);
        let args = [c"guest".as_ptr(), c"filtered".as_ptr(), std::ptr::null()];
        let _ = sys!(SYS_execve, c"/proc/self/exe", &args, 0);
        9
    });
    close(w);
    // It writes line by line.
    let mut said = Vec::new();
    loop {
        let part = read(r, 4096);
        if part.is_empty() {
            break;
        }
        said.extend(part);
    }
    print!("{}", String::from_utf8_lossy(&said));
    println!("{:x}", wait(pid));
}

/// Calls that say who one is, which a platform may answer on its own.
const WHO: [i64; 6] = [SYS_getpid, SYS_gettid, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid];

fn hot_calls() {
    no_new_privs();
    for nr in WHO {
        in_child(|| {
            let call = || crate::sys::call(nr, &[]);
            for _ in 0..2000 {
                assert!(call().is_ok());
            }
            assert_eq!(install(&on_call(nr, ERRNO | 7), 0), Ok(0));
            for _ in 0..200 {
                assert_eq!(call(), Err(7));
            }
            // All others go on.
            assert!(WHO.iter().all(|n| *n == nr || crate::sys::call(*n, &[]).is_ok()));
            // A filter that looks at an argument has a say as well.
            let other = WHO[(WHO.iter().position(|n| *n == nr).unwrap_or(0) + 1) % WHO.len()];
            let program =
                [load(NR), eq(other as u32, 0, 3), load(16), eq(5, 0, 1), ret(ERRNO | 8), ret(ALLOW)];
            assert_eq!(install(&program, 0), Ok(0));
            for n in 0..200 {
                assert_eq!(crate::sys::call(other, &[n % 10]).is_err(), n % 10 == 5);
            }
        });
    }
    in_child(|| {
        assert_eq!(install(&[ret(LOG)], 0), Ok(0));
        assert!(WHO.iter().all(|n| crate::sys::call(*n, &[]).is_ok()));
    });
}

fn hot_threads() {
    // Threads that never stop asking who they are get the filter with all others, at once.
    static DONE: AtomicU32 = AtomicU32::new(0);
    no_new_privs();
    let threads: Vec<_> = (0..3)
        .map(|_| {
            std::thread::spawn(|| {
                while sys!(SYS_getuid).is_ok() {
                    assert_eq!(DONE.load(SeqCst), 0);
                }
                err!(ENXIO: SYS_getuid);
            })
        })
        .collect();
    nap(20);
    assert_eq!(install(&on_call(SYS_getuid, ERRNO | 6), SECCOMP_FILTER_FLAG_TSYNC), Ok(0));
    nap(20);
    DONE.store(1, SeqCst);
    threads.into_iter().for_each(|t| t.join().unwrap());
}

fn tsync() {
    no_new_privs();
    let (r, w) = pipe(0);
    let (started, is_started) = pipe(0);
    let threads: Vec<_> = (0..3)
        .map(|_| {
            std::thread::spawn(move || {
                // One with a filter that the caller has as well is no obstacle.
                write(is_started, b"s");
                let _ = read(r, 1);
                err!(EIO: SYS_getppid);
                err!(ENXIO: SYS_getpgrp);
                assert_eq!(sys!(SYS_prctl, PR_GET_SECCOMP, 0, 0, 0, 0), Ok(2));
            })
        })
        .collect();
    for _ in 0..3 {
        read(started, 1);
    }
    assert_eq!(install(&on_call(SYS_getppid, ERRNO | 5), SECCOMP_FILTER_FLAG_TSYNC), Ok(0));
    assert_eq!(install(&on_call(SYS_getpgrp, ERRNO | 6), SECCOMP_FILTER_FLAG_TSYNC), Ok(0));
    write(w, b"xyz");
    threads.into_iter().for_each(|t| t.join().unwrap());
}

fn tsync_refused() {
    no_new_privs();
    let (r, w) = pipe(0);
    let (started, is_started) = pipe(0);
    let thread = std::thread::spawn(move || {
        assert_eq!(install(&on_call(SYS_getpgrp, ERRNO | 6), 0), Ok(0));
        write(is_started, &(ok!(SYS_gettid) as i32).to_ne_bytes());
        let _ = read(r, 1);
        assert!(sys!(SYS_getppid).is_ok());
    });
    let tid = i32::from_ne_bytes(read(started, 4).try_into().unwrap());
    let program = on_call(SYS_getppid, ERRNO | 5);
    assert_eq!(install(&program, SECCOMP_FILTER_FLAG_TSYNC), Ok(tid as usize));
    assert_eq!(install(&program, SECCOMP_FILTER_FLAG_TSYNC | ESRCH_FLAG), Err(ESRCH));
    // Nothing was done.
    assert!(sys!(SYS_getppid).is_ok());
    assert_eq!(status_field("Seccomp"), "0");
    write(w, b"x");
    thread.join().unwrap();
    assert_eq!(install(&program, SECCOMP_FILTER_FLAG_TSYNC), Ok(0));
    err!(EIO: SYS_getppid);
}

fn tsync_no_new_privs() {
    let (r, w) = pipe(0);
    let (started, is_started) = pipe(0);
    let thread = std::thread::spawn(move || {
        write(is_started, b"s");
        let _ = read(r, 1);
        assert_eq!(sys!(SYS_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), Ok(1));
    });
    read(started, 1);
    no_new_privs();
    assert_eq!(install(&on_call(SYS_getppid, ALLOW), SECCOMP_FILTER_FLAG_TSYNC), Ok(0));
    write(w, b"x");
    thread.join().unwrap();
}

fn chain_limit() {
    no_new_privs();
    // How many filters of that length there can be.
    let many = |program: &[sock_filter]| {
        let mut n = 0;
        let end = loop {
            match install(program, 0) {
                Ok(_) => n += 1,
                Err(e) => break e,
            }
        };
        (n, end)
    };
    for len in [MAX_INSNS, 1000, 101] {
        in_child(|| println!("{len}: {:?}", many(&vec![ret(ALLOW); len])));
    }
    in_child(|| {
        let program = on_call(SYS_getppid, ALLOW).repeat(60);
        println!("jumps: {:?}", many(&program));
    });
    in_child(|| {
        let mut program = vec![jump(BPF_JSET | BPF_K, 1 << 31, 0, 1); 200];
        program.extend([stmt(BPF_ALU | BPF_DIV | BPF_X, 0), load(NR), ret(ALLOW), ret(ALLOW)]);
        // Divides by zero, which kills, but only after the limit was found.
        println!("{}", end_of(|| { let _ = install(&program, 0); }));
    });
}

fn actions_available() {
    for action in [KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, NOTIFY, TRACE, LOG, ALLOW] {
        ok!(SYS_seccomp, AVAIL, 0, &action);
    }
    for action in [1u32, ERRNO | 1, 0x7ffe_0000, u32::MAX] {
        err!(EOPNOTSUPP: SYS_seccomp, AVAIL, 0, &action);
    }
    err!(EINVAL: SYS_seccomp, AVAIL, 1, &ALLOW);
    err!(EFAULT: SYS_seccomp, AVAIL, 0, BAD);
    let mut sizes = [0u16; 4];
    ok!(SYS_seccomp, SIZES, 0, &mut sizes);
    println!("{sizes:?}");
    err!(EINVAL: SYS_seccomp, SIZES, 1, &mut sizes);
    err!(EFAULT: SYS_seccomp, SIZES, 0, BAD);
}

fn sysctl() {
    print!("{}", text(c"/proc/sys/kernel/seccomp/actions_avail"));
    println!("{:o}", lstat(c"/proc/sys/kernel/seccomp/actions_avail").st_mode);
    println!("{:o}", lstat(c"/proc/sys/kernel/seccomp/actions_logged").st_mode);
    print!("{}", text(c"/proc/sys/kernel/seccomp/actions_logged"));
}

fn interrupted_calls() {
    // A call that a signal interrupts is started again: the filter is asked again.
    on(SIGALRM, SA_RESTART);
    no_new_privs();
    let (r, _w) = pipe(0);
    let in_write = on_call(SYS_getppid, ERRNO | 1);
    assert_eq!(install(&in_write, 0), Ok(0));
    let me = ok!(SYS_gettid);
    let waker = std::thread::spawn(move || {
        settle();
        ok!(SYS_tgkill, ok!(SYS_getpid), me, SIGALRM);
        while count(SIGALRM) == 0 {
            nap(1);
        }
        settle();
        ok!(SYS_tgkill, ok!(SYS_getpid), me, SIGUSR1);
    });
    on(SIGUSR1, 0);
    let mut byte = [0u8; 1];
    err!(EINTR: SYS_read, r, &mut byte, 1);
    waker.join().unwrap();
    assert_eq!(count(SIGUSR1), 1);
}
