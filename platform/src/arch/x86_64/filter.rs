//! The stubs' seccomp filter: the second line behind `PTRACE_SYSEMU`.
//!
//! It compares the instruction pointer, which is why it is written by hand and not with
//! seccompiler. Only the stub's own code page may make host calls, and only the few it needs. The
//! three calls that the host's vsyscall page would make (bypassing ptrace) raise SIGSYS, so that the
//! Sentry answers them.

use libc::{BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
use libc::{SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_TRAP, sock_filter};

use crate::Clocks;

/// `AUDIT_ARCH_X86_64` of `<linux/audit.h>`.
pub(crate) const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

// Offsets in `struct seccomp_data`.
pub(super) const NR: u32 = 0;
pub(super) const ARCH: u32 = 4;
pub(super) const IP_LOW: u32 = 8;
pub(super) const IP_HIGH: u32 = 12;
pub(super) const ARG0_LOW: u32 = 16;
pub(super) const ARG0_HIGH: u32 = 20;

/// Flags of the clone that makes a blank stub process from the template.
pub(crate) const CLONE_PROCESS: u64 = (libc::CLONE_PARENT | libc::CLONE_FILES) as u64;
/// Flags of the clone that makes a guest thread.
pub(crate) const CLONE_THREAD: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM) as u64;

/// What stub code may call; `prctl` for [`libc::PR_SET_TSC`] only, and `clone` with chosen flags.
pub(crate) const CALLS: &[i64] = &[
    libc::SYS_read,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_recvmsg,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_restart_syscall,
    libc::SYS_prctl,
    libc::SYS_clone,
];

/// Those without a look at the arguments.
const ALLOWED: &[i64] = CALLS.split_at(CALLS.len() - 2).0;

/// The second argument of `PR_SET_TSC`.
pub(crate) fn tsc_mode(readable: bool) -> u64 {
    (if readable { libc::PR_TSC_ENABLE } else { libc::PR_TSC_SIGSEGV }) as u64
}

/// Allows a call if its first argument is one of `firsts`, and else kills. For no call but this one.
pub(super) fn only(nr: i64, firsts: &[u64]) -> Vec<sock_filter> {
    let mut out = Vec::new();
    let body = 3 + 2 * firsts.len() as u8;
    out.extend([
        jump(BPF_JEQ, nr as u32, 0, body + 1),
        load(ARG0_HIGH),
        jump(BPF_JEQ, 0, 0, body - 2),
        load(ARG0_LOW),
    ]);
    for &first in firsts {
        out.extend([jump(BPF_JEQ, first as u32, 0, 1), ret(SECCOMP_RET_ALLOW)]);
    }
    out.push(ret(SECCOMP_RET_KILL_PROCESS));
    out
}

/// What the vsyscall page calls (`arch/x86/entry/vsyscall/vsyscall_64.c`).
pub(crate) const VSYSCALLS: &[i64] = &[libc::SYS_gettimeofday, libc::SYS_time, libc::SYS_getcpu];

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

pub(super) fn load(offset: u32) -> sock_filter {
    statement(BPF_LD | BPF_W | BPF_ABS, offset)
}

pub(super) fn jump(test: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | test | BPF_K) as u16, jt, jf, k }
}

pub(super) fn ret(action: u32) -> sock_filter {
    statement(BPF_RET | BPF_K, action)
}

/// Stub code may change who can read the time-stamp counter, unless nobody ever can.
pub(super) fn tsc_rule(clocks: Clocks) -> Vec<sock_filter> {
    match clocks {
        Clocks::Native => only(libc::SYS_prctl, &[libc::PR_SET_TSC as u64]),
        Clocks::Trapped => Vec::new(),
    }
}

/// The filter for stubs whose code page is at `code`.
pub(crate) fn program(code: u64, clocks: Clocks) -> Vec<sock_filter> {
    let kill = ret(SECCOMP_RET_KILL_PROCESS);
    let mut out = vec![load(ARCH), jump(BPF_JEQ, AUDIT_ARCH_X86_64, 1, 0), kill, load(NR)];
    for &nr in VSYSCALLS {
        out.extend([jump(BPF_JEQ, nr as u32, 0, 1), ret(SECCOMP_RET_TRAP)]);
    }
    // The address behind the `syscall` instruction lies in the code page.
    out.extend([
        load(IP_HIGH),
        jump(BPF_JEQ, (code >> 32) as u32, 1, 0),
        kill,
        load(IP_LOW),
        jump(BPF_JGE, code as u32, 1, 0),
        kill,
        jump(BPF_JGE, code as u32 + crate::PAGE_SIZE as u32, 0, 1),
        kill,
        load(NR),
    ]);
    for &nr in ALLOWED {
        out.extend([jump(BPF_JEQ, nr as u32, 0, 1), ret(SECCOMP_RET_ALLOW)]);
    }
    out.extend(tsc_rule(clocks));
    out.extend(only(libc::SYS_clone, &[CLONE_PROCESS, CLONE_THREAD]));
    out.push(kill);
    out
}
