//! Making and ending tasks, and their numbers, groups and sessions.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;

use super::{Args, SysResult};
use crate::kernel::clone::{self, CloneArgs, CloneFlags};
use crate::kernel::{Caps, Current, ThreadGroup, session, task_table};

/// `CSIGNAL`
const CSIGNAL: u64 = 0xff;

/// fork(2)
pub fn fork(cur: &mut Current, _: &Args) -> SysResult {
    clone::clone(cur, &CloneArgs { exit_signal: libc::SIGCHLD, ..CloneArgs::default() })
}

/// vfork(2)
pub fn vfork(cur: &mut Current, _: &Args) -> SysResult {
    let flags = CloneFlags::VFORK | CloneFlags::VM;
    clone::clone(cur, &CloneArgs { flags, exit_signal: libc::SIGCHLD, ..CloneArgs::default() })
}

/// clone(2)
pub fn clone(cur: &mut Current, args: &Args) -> SysResult {
    let raw = args.u64(0) & 0xffff_ffff;
    let flags = CloneFlags::from_bits_truncate(raw & !CSIGNAL);
    // Both would be written to the same place.
    if flags.contains(CloneFlags::PIDFD | CloneFlags::PARENT_SETTID) {
        return Err(Errno::EINVAL);
    }
    let clone_args = CloneArgs {
        flags,
        exit_signal: (raw & CSIGNAL) as i32,
        stack: args.u64(1),
        pidfd: args.u64(2),
        parent_tid: args.u64(2),
        child_tid: args.u64(3),
        tls: args.u64(4),
        set_tid: None,
    };
    clone::clone(cur, &clone_args)
}

/// clone3(2)
pub fn clone3(cur: &mut Current, args: &Args) -> SysResult {
    const VERSION_0: usize = 64;
    const LATEST: usize = 88;
    let size = args.size(1);
    if size > crate::mm::PAGE as usize {
        return Err(Errno::E2BIG);
    }
    if size < VERSION_0 {
        return Err(Errno::EINVAL);
    }
    let mut bytes = vec![0; size.max(LATEST)];
    cur.mm.read_bytes(args.u64(0), &mut bytes[..size])?;
    if bytes[LATEST..].iter().any(|&b| b != 0) {
        return Err(Errno::E2BIG);
    }
    let word = |n: usize| {
        bytes.get(n * 8..n * 8 + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
    };
    let (set_tid, set_tid_size, cgroup) = (word(8), word(9), word(10));
    const MAX_PID_NS_LEVEL: u64 = 32;
    if set_tid_size > MAX_PID_NS_LEVEL || (set_tid == 0) != (set_tid_size == 0) {
        return Err(Errno::EINVAL);
    }
    let exit_signal = word(4);
    if exit_signal & !CSIGNAL != 0 || exit_signal > 64 {
        return Err(Errno::EINVAL);
    }
    let raw = word(0);
    let flags = CloneFlags::from_bits(raw).ok_or(Errno::EINVAL)?;
    if flags.contains(CloneFlags::DETACHED) || raw & (CSIGNAL & !CloneFlags::NEWTIME.bits()) != 0 {
        return Err(Errno::EINVAL);
    }
    if flags.contains(CloneFlags::SIGHAND | CloneFlags::CLEAR_SIGHAND)
        || (flags.intersects(CloneFlags::THREAD | CloneFlags::PARENT) && exit_signal != 0)
    {
        return Err(Errno::EINVAL);
    }
    let (stack, stack_size) = (word(5), word(6));
    if (stack == 0) != (stack_size == 0) {
        return Err(Errno::EINVAL);
    }
    let stack = stack.checked_add(stack_size).ok_or(Errno::EINVAL)?;
    if stack > cur.kernel.platform.user_range().1 {
        return Err(Errno::EINVAL);
    }
    if flags.contains(CloneFlags::INTO_CGROUP) {
        if size < LATEST || cgroup > i32::MAX as u64 {
            return Err(Errno::EINVAL);
        }
        // No file of a sandbox is a cgroup.
        return Err(Errno::EBADF);
    }
    let set_tid = match set_tid_size {
        0 => None,
        1 => {
            let tid: i32 = cur.mm.read_obj(set_tid)?;
            if !(1..task_table::PID_MAX).contains(&tid) {
                return Err(Errno::EINVAL);
            }
            let cred = cur.cred();
            if !cred.capable(Caps::SYS_ADMIN) && !cred.capable(Caps::CHECKPOINT_RESTORE) {
                return Err(Errno::EPERM);
            }
            Some(tid)
        }
        _ => return Err(Errno::EINVAL),
    };
    let clone_args = CloneArgs {
        flags,
        exit_signal: exit_signal as i32,
        stack,
        pidfd: word(1),
        child_tid: word(2),
        parent_tid: word(3),
        tls: word(7),
        set_tid,
    };
    clone::clone(cur, &clone_args)
}

/// exit(2)
pub fn exit(cur: &mut Current, args: &Args) -> SysResult {
    cur.exit_thread(((args.int(0) & 0xff) as u32) << 8);
    Ok(0)
}

/// exit_group(2)
pub fn exit_group(cur: &mut Current, args: &Args) -> SysResult {
    cur.group.begin_exit(((args.int(0) & 0xff) as u32) << 8);
    Ok(0)
}

/// unshare(2)
pub fn unshare(cur: &mut Current, args: &Args) -> SysResult {
    use CloneFlags as F;
    let allowed =
        F::THREAD | F::FS | F::SIGHAND | F::VM | F::FILES | F::SYSVSEM | F::NEWUSER | F::NAMESPACES;
    let mut flags = CloneFlags::from_bits(args.u64(0)).ok_or(Errno::EINVAL)?;
    if flags.intersects(F::NEWUSER) {
        flags |= F::THREAD | F::FS;
    }
    if flags.intersects(F::VM) {
        flags |= F::SIGHAND;
    }
    if flags.intersects(F::SIGHAND) {
        flags |= F::THREAD;
    }
    if !allowed.contains(flags) {
        return Err(Errno::EINVAL);
    }
    if flags.intersects(F::THREAD | F::SIGHAND | F::VM) && cur.group.thread_count() > 1 {
        return Err(Errno::EINVAL);
    }
    // The group's own reference, and this one.
    if flags.contains(F::SIGHAND) && Arc::strong_count(&cur.group.sighand()) > 2 {
        return Err(Errno::EINVAL);
    }
    clone::check_namespaces(cur, flags)?;
    if flags.contains(F::FS) && cur.shares_fs() {
        let own = cur.fs().fork();
        cur.set_fs(own);
    }
    if flags.contains(F::SYSVSEM) {
        cur.exit_sem();
    }
    if flags.contains(F::FILES) {
        cur.unshare_files()?;
    }
    Ok(0)
}

/// setns(2): there are no namespaces but the first ones, and no files for them.
pub fn setns(cur: &mut Current, args: &Args) -> SysResult {
    cur.files.get(args.int(0))?;
    Err(Errno::EINVAL)
}

/// set_tid_address(2)
pub fn set_tid_address(cur: &mut Current, args: &Args) -> SysResult {
    cur.clear_child_tid.store(args.u64(0), Ordering::Relaxed);
    Ok(cur.tid() as u64)
}

/// getpid(2)
pub fn getpid(cur: &mut Current, _: &Args) -> SysResult {
    Ok(cur.group.tgid as u64)
}

/// gettid(2)
pub fn gettid(cur: &mut Current, _: &Args) -> SysResult {
    Ok(cur.tid() as u64)
}

/// getppid(2)
pub fn getppid(cur: &mut Current, _: &Args) -> SysResult {
    Ok(cur.group.ppid() as u64)
}

/// The process that a pid argument names; 0 is the caller's.
fn process(cur: &Current, pid: i32) -> Result<Arc<ThreadGroup>, Errno> {
    match pid {
        0 => Ok(cur.group.clone()),
        _ => cur.kernel.tasks.get(pid).map(|t| t.group.clone()).ok_or(Errno::ESRCH),
    }
}

/// getpgid(2)
pub fn getpgid(cur: &mut Current, args: &Args) -> SysResult {
    Ok(process(cur, args.int(0))?.pgid() as u64)
}

/// getpgrp(2)
pub fn getpgrp(cur: &mut Current, _: &Args) -> SysResult {
    Ok(cur.group.pgid() as u64)
}

/// getsid(2)
pub fn getsid(cur: &mut Current, args: &Args) -> SysResult {
    Ok(process(cur, args.int(0))?.sid() as u64)
}

/// setpgid(2)
pub fn setpgid(cur: &mut Current, args: &Args) -> SysResult {
    session::setpgid(&cur.task, args.int(0), args.int(1))?;
    Ok(0)
}

/// setsid(2)
pub fn setsid(cur: &mut Current, _: &Args) -> SysResult {
    session::setsid(&cur.task).map(|id| id as u64)
}

/// vhangup(2): `EPERM` without the right; the caller's terminal is gone with it.
pub fn vhangup(cur: &mut Current, _: &Args) -> SysResult {
    if !cur.cred().capable(Caps::SYS_TTY_CONFIG) {
        return Err(Errno::EPERM);
    }
    let session = cur.group.pgrp().session.clone();
    crate::kernel::exit::detach_terminal(&cur.kernel, &session, false);
    Ok(0)
}

/// arch_prctl(2): the segment bases, and what extended state may be asked for
/// (`arch/x86/kernel/fpu/xstate.c`): none, for guests cannot have AMX.
pub fn arch_prctl(cur: &mut Current, args: &Args) -> SysResult {
    const ARCH_SET_GS: u64 = 0x1001;
    const ARCH_SET_FS: u64 = 0x1002;
    const ARCH_GET_FS: u64 = 0x1003;
    const ARCH_GET_GS: u64 = 0x1004;
    const ARCH_GET_CPUID: u64 = 0x1011;
    const ARCH_SET_CPUID: u64 = 0x1012;
    const ARCH_GET_XCOMP_SUPP: u64 = 0x1021;
    const ARCH_GET_XCOMP_PERM: u64 = 0x1022;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    /// Linux's `XFEATURE_MAX`.
    const XFEATURE_MAX: u64 = 20;
    /// AMX's tiles.
    const XTILE: u64 = 3 << 17;
    let addr = args.u64(1);
    match args.u64(0) {
        ARCH_SET_GS | ARCH_SET_FS if addr >= cur.kernel.platform.user_range().1 => {
            return Err(Errno::EPERM);
        }
        ARCH_SET_GS => cur.regs().gs_base = addr,
        ARCH_SET_FS => cur.regs().fs_base = addr,
        ARCH_GET_FS => {
            let base = cur.regs().fs_base;
            cur.mm.write_obj(addr, &base)?;
        }
        ARCH_GET_GS => {
            let base = cur.regs().gs_base;
            cur.mm.write_obj(addr, &base)?;
        }
        // CPUID works, and cannot be made to fault.
        ARCH_GET_CPUID => return Ok(1),
        ARCH_SET_CPUID => return Err(Errno::ENODEV),
        ARCH_GET_XCOMP_SUPP | ARCH_GET_XCOMP_PERM => {
            let features = cur.kernel.platform.xstate_layout().1 & !XTILE;
            cur.mm.write_obj(addr, &features)?;
        }
        ARCH_REQ_XCOMP_PERM if addr >= XFEATURE_MAX => return Err(Errno::EINVAL),
        ARCH_REQ_XCOMP_PERM => return Err(Errno::EOPNOTSUPP),
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}
