//! The seccomp filters of the `notify` platform's stubs. They compare the instruction pointer, which
//! is why they are written by hand and not with seccompiler.
//!
//! | whose | call from outside the stub's code | doorbell | `prctl` from the stub's code | other call from there |
//! |---|---|---|---|---|
//! | [`base`]: all | SIGSYS, that is: a guest's call | allowed | allowed for `PR_SET_TSC`, else death | allowed if on the list, else death |
//! | [`listener`]: executor, guest threads | allowed | to the listener | to the listener | allowed |
//! | [`closed`]: guest threads | allowed | allowed | allowed | `exit`, else death |
//!
//! The host takes the strictest answer.

use libc::{BPF_JEQ, BPF_JGE};
use libc::{SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_TRAP};
use libc::{SECCOMP_RET_USER_NOTIF, sock_filter};

use super::doorbell::DOORBELL;
use super::filter::{ARCH, AUDIT_ARCH_X86_64, IP_HIGH, IP_LOW, NR};
use super::filter::{jump, load, only, ret, tsc_rule};
use crate::{Clocks, PAGE_SIZE};

/// Flags of the clone that makes a stub process from the template. Descriptors are shared, so that
/// files which are donated later are seen.
pub(crate) const CLONE_PROCESS: u64 = (libc::CLONE_PARENT | libc::CLONE_FILES) as u64;
/// Flags of the clone that makes a guest thread. Its descriptors are its own, to be closed.
pub(crate) const CLONE_GUEST: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM) as u64;
/// Flags of the clone that makes an executor.
pub(crate) const CLONE_EXECUTOR: u64 = CLONE_GUEST | libc::CLONE_FILES as u64;

/// What stub code may call; `prctl` for [`libc::PR_SET_TSC`] only, and `clone` with chosen flags.
pub(crate) const CALLS: &[i64] = &[
    DOORBELL as i64,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_futex,
    libc::SYS_sigaltstack,
    libc::SYS_seccomp,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_restart_syscall,
    libc::SYS_prctl,
    libc::SYS_clone,
];

/// Those without a look at the arguments.
const ALLOWED: &[i64] = CALLS.split_at(CALLS.len() - 2).0;

/// Goes on if the call comes from the code at `code`, else gives `outside`.
fn from_stub(code: u64, outside: u32) -> Vec<sock_filter> {
    // The address behind the `syscall` instruction lies in the code page.
    vec![
        load(IP_HIGH),
        jump(BPF_JEQ, (code >> 32) as u32, 1, 0),
        ret(outside),
        load(IP_LOW),
        jump(BPF_JGE, code as u32, 1, 0),
        ret(outside),
        jump(BPF_JGE, code as u32 + PAGE_SIZE as u32, 0, 1),
        ret(outside),
        load(NR),
    ]
}

/// The filter of the template and all that comes of it, for a code page at `code`.
pub(crate) fn base(code: u64, clocks: Clocks) -> Vec<sock_filter> {
    let mut out = vec![load(ARCH), jump(BPF_JEQ, AUDIT_ARCH_X86_64, 1, 0), ret(SECCOMP_RET_TRAP)];
    out.extend(from_stub(code, SECCOMP_RET_TRAP));
    for &nr in ALLOWED {
        out.extend([jump(BPF_JEQ, nr as u32, 0, 1), ret(SECCOMP_RET_ALLOW)]);
    }
    out.extend(tsc_rule(clocks));
    out.extend(only(libc::SYS_clone, &[CLONE_PROCESS, CLONE_GUEST, CLONE_EXECUTOR]));
    out.push(ret(SECCOMP_RET_KILL_PROCESS));
    out
}

/// The filter that comes with a listener.
pub(crate) fn listener() -> Vec<sock_filter> {
    vec![
        load(NR),
        jump(BPF_JEQ, DOORBELL, 1, 0),
        jump(BPF_JEQ, libc::SYS_prctl as u32, 0, 1),
        ret(SECCOMP_RET_USER_NOTIF),
        ret(SECCOMP_RET_ALLOW),
    ]
}

/// The last filter of a guest thread.
pub(crate) fn closed(code: u64) -> Vec<sock_filter> {
    let mut out = vec![load(ARCH), jump(BPF_JEQ, AUDIT_ARCH_X86_64, 1, 0), ret(SECCOMP_RET_ALLOW)];
    out.extend(from_stub(code, SECCOMP_RET_ALLOW));
    for nr in [DOORBELL, libc::SYS_exit as u32, libc::SYS_prctl as u32] {
        out.extend([jump(BPF_JEQ, nr, 0, 1), ret(SECCOMP_RET_ALLOW)]);
    }
    out.push(ret(SECCOMP_RET_KILL_PROCESS));
    out
}

#[cfg(test)]
mod tests {
    use super::super::filter::{ARG0_HIGH, ARG0_LOW};
    use super::*;
    use proptest::prelude::*;

    const CODE: u64 = 0x7fff_4000_0000;

    /// A call as a filter sees it.
    #[derive(Clone, Copy, Debug)]
    struct Call {
        nr: u32,
        arch: u32,
        ip: u64,
        first: u64,
    }

    fn eval(program: &[sock_filter], call: Call) -> u32 {
        let word = |offset: u32| match offset {
            NR => call.nr,
            ARCH => call.arch,
            IP_LOW => call.ip as u32,
            IP_HIGH => (call.ip >> 32) as u32,
            ARG0_LOW => call.first as u32,
            ARG0_HIGH => (call.first >> 32) as u32,
            other => panic!("loads {other}"),
        };
        let (mut at, mut a) = (0, 0);
        loop {
            let i = program[at];
            at += 1;
            match u32::from(i.code) {
                0x20 => a = word(i.k),
                0x06 => return i.k,
                code => {
                    let taken = match code & 0xf0 {
                        0x10 => a == i.k,
                        0x30 => a >= i.k,
                        other => panic!("jumps by {other:#x}"),
                    };
                    at += usize::from(if taken { i.jt } else { i.jf });
                }
            }
        }
    }

    fn call(nr: i64, ip: u64, first: u64) -> Call {
        Call { nr: nr as u32, arch: AUDIT_ARCH_X86_64, ip, first }
    }

    #[test]
    fn clone_and_prctl_have_fixed_arguments() {
        let trapped = base(CODE, Clocks::Trapped);
        let tsc = call(libc::SYS_prctl, CODE + 20, libc::PR_SET_TSC as u64);
        assert_eq!(eval(&trapped, tsc), SECCOMP_RET_KILL_PROCESS);
        let base = base(CODE, Clocks::Native);
        for (nr, first, ok) in [
            (libc::SYS_clone, CLONE_PROCESS, true),
            (libc::SYS_clone, CLONE_GUEST, true),
            (libc::SYS_clone, CLONE_EXECUTOR, true),
            (libc::SYS_clone, CLONE_GUEST | 1 << 32, false),
            (libc::SYS_clone, 0, false),
            (libc::SYS_prctl, 1, false),
            (libc::SYS_prctl, libc::PR_SET_TSC as u64, true),
            (libc::SYS_prctl, libc::PR_SET_TSC as u64 | 1 << 32, false),
            (libc::SYS_ptrace, 0, false),
            (libc::SYS_mmap, 77, true),
        ] {
            let expected = if ok { SECCOMP_RET_ALLOW } else { SECCOMP_RET_KILL_PROCESS };
            assert_eq!(eval(&base, call(nr, CODE + 20, first)), expected, "{nr} {first:#x}");
        }
    }

    proptest! {
        #[test]
        fn outside_the_stub_every_call_is_the_guests(nr: u32, arch: u32, ip: u64, first: u64) {
            prop_assume!(!(CODE..CODE + PAGE_SIZE).contains(&ip));
            for arch in [AUDIT_ARCH_X86_64, arch] {
                let call = Call { nr, arch, ip, first };
                prop_assert_eq!(eval(&base(CODE, Clocks::Native), call), SECCOMP_RET_TRAP);
                prop_assert_eq!(eval(&closed(CODE), call), SECCOMP_RET_ALLOW);
            }
        }

        #[test]
        fn guest_threads_can_ring_and_exit(nr in 0..500u32, at in 0..PAGE_SIZE, first: u64) {
            let call = Call { nr, arch: AUDIT_ARCH_X86_64, ip: CODE + at, first };
            let prctl = nr == libc::SYS_prctl as u32;
            let allowed = nr == libc::SYS_exit as u32 || prctl;
            prop_assert_eq!(eval(&closed(CODE), call) == SECCOMP_RET_ALLOW, allowed);
            prop_assert_eq!(eval(&listener(), call) == SECCOMP_RET_USER_NOTIF, prctl);
            let bell = Call { nr: DOORBELL, ..call };
            prop_assert_eq!(eval(&closed(CODE), bell), SECCOMP_RET_ALLOW);
            prop_assert_eq!(eval(&listener(), bell), SECCOMP_RET_USER_NOTIF);
        }
    }
}
