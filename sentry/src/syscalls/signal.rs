//! The system calls of signals.

use std::sync::Arc;

use abi::Errno;

use super::{Args, SysResult};
use crate::kernel::signal::info::{SI_TKILL, SI_USER, USER_SIZE};
use crate::kernel::signal::{NSIG, SaFlags, SigAction, SigInfo, SigSet, frame::UserStack};
use crate::kernel::{Current, Task, ThreadGroup, pidfd, time};

/// `sizeof(sigset_t)` of the kernel.
const SIGSET_SIZE: usize = 8;

fn check_size(size: usize) -> Result<(), Errno> {
    if size == SIGSET_SIZE { Ok(()) } else { Err(Errno::EINVAL) }
}

/// rt_sigaction(2)
pub fn rt_sigaction(cur: &mut Current, args: &Args) -> SysResult {
    let (signo, new_at, old_at) = (args.int(0), args.u64(1), args.u64(2));
    check_size(args.size(3))?;
    let new: Option<[u64; 4]> = match new_at {
        0 => None,
        at => Some(cur.mm.read_obj(at)?),
    };
    let forbidden = new.is_some() && SigSet::UNBLOCKABLE.contains(signo);
    if !(1..=NSIG).contains(&signo) || forbidden {
        return Err(Errno::EINVAL);
    }
    let group = cur.group.clone();
    let sighand = group.sighand();
    let old = {
        let mut signals = group.signals.lock();
        let old = sighand.get(signo);
        if let Some([handler, flags, restorer, mask]) = new {
            let flags = SaFlags::from_bits_truncate(flags) - SaFlags::UNSUPPORTED;
            let action = SigAction { handler, flags, restorer, mask: SigSet(mask).blockable() };
            sighand.set(signo, action);
            if action.ignores(signo) {
                // What is pending and ignored is gone (POSIX 3.3.1.3).
                signals.shared.flush(SigSet::of(signo));
                for task in group.threads() {
                    task.signals.lock().pending.flush(SigSet::of(signo));
                }
            }
        }
        old
    };
    if old_at != 0 {
        let raw = [old.handler, old.flags.bits(), old.restorer, old.mask.0];
        cur.mm.write_obj(old_at, &raw)?;
    }
    Ok(0)
}

/// rt_sigprocmask(2)
pub fn rt_sigprocmask(cur: &mut Current, args: &Args) -> SysResult {
    check_size(args.size(3))?;
    let old = cur.blocked();
    if args.u64(1) != 0 {
        let set: SigSet = cur.mm.read_obj(args.u64(1))?;
        let set = set.blockable();
        let new = match args.int(0) {
            libc::SIG_BLOCK => old.union(set),
            libc::SIG_UNBLOCK => old.minus(set),
            libc::SIG_SETMASK => set,
            _ => return Err(Errno::EINVAL),
        };
        cur.set_blocked(new);
    }
    if args.u64(2) != 0 {
        cur.mm.write_obj(args.u64(2), &old)?;
    }
    Ok(0)
}

/// rt_sigpending(2)
pub fn rt_sigpending(cur: &mut Current, args: &Args) -> SysResult {
    let size = args.size(1);
    if size > SIGSET_SIZE {
        return Err(Errno::EINVAL);
    }
    let pending = cur.pending_signals().intersection(cur.blocked());
    cur.mm.write_bytes(args.u64(0), &pending.0.to_le_bytes()[..size])?;
    Ok(0)
}

/// rt_sigsuspend(2)
pub fn rt_sigsuspend(cur: &mut Current, args: &Args) -> SysResult {
    check_size(args.size(1))?;
    let set: SigSet = cur.mm.read_obj(args.u64(0))?;
    cur.set_temporary_mask(set);
    pause_here(cur)
}

/// pause(2)
pub fn pause(cur: &mut Current, _: &Args) -> SysResult {
    pause_here(cur)
}

fn pause_here(cur: &mut Current) -> SysResult {
    while cur.block(None).is_ok() {}
    Err(Errno::ERESTARTNOHAND)
}

/// rt_sigtimedwait(2)
pub fn rt_sigtimedwait(cur: &mut Current, args: &Args) -> SysResult {
    check_size(args.size(3))?;
    let set: SigSet = cur.mm.read_obj(args.u64(0))?;
    let deadline = match args.u64(2) {
        0 => None,
        at => {
            let [sec, nsec]: [i64; 2] = cur.mm.read_obj(at)?;
            if sec < 0 || !(0..1_000_000_000).contains(&nsec) {
                return Err(Errno::EINVAL);
            }
            let ns = (sec as u64).saturating_mul(1_000_000_000).saturating_add(nsec as u64);
            Some(if ns == 0 { 0 } else { time::monotonic_ns().saturating_add(ns) })
        }
    };
    let info = cur.wait_for_signal(set, deadline)?;
    if args.u64(1) != 0 {
        cur.mm.write_bytes(args.u64(1), &info.to_user())?;
    }
    Ok(info.signo as u64)
}

/// sigaltstack(2)
pub fn sigaltstack(cur: &mut Current, args: &Args) -> SysResult {
    let old = cur.altstack();
    if args.u64(0) != 0 {
        let new: UserStack = cur.mm.read_obj(args.u64(0))?;
        let rsp = cur.regs().rsp;
        cur.set_altstack(&new, rsp)?;
    }
    if args.u64(1) != 0 {
        cur.mm.write_obj(args.u64(1), &old)?;
    }
    Ok(0)
}

/// rt_sigreturn(2)
pub fn rt_sigreturn(cur: &mut Current, _: &Args) -> SysResult {
    Ok(cur.sigreturn())
}

/// `EINVAL` for what is no signal and not 0.
fn check_signo(signo: i32) -> Result<(), Errno> {
    if (0..=NSIG).contains(&signo) { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Sends to a process, after the permission check; signal 0 stops there.
fn send_group(cur: &Current, group: &Arc<ThreadGroup>, info: SigInfo) -> Result<(), Errno> {
    let Some(leader) = group.leader() else { return Err(Errno::ESRCH) };
    if info.from_user() {
        leader.may_signal(&cur.task, info.signo)?;
    }
    if info.signo == 0 { Ok(()) } else { group.send_signal(info) }
}

/// As [`send_group`], to one task.
fn send_task(cur: &Current, task: &Arc<Task>, info: SigInfo) -> Result<(), Errno> {
    if info.from_user() {
        task.may_signal(&cur.task, info.signo)?;
    }
    if info.signo == 0 || task.is_dead() { Ok(()) } else { task.send_signal(info) }
}

fn own_info(cur: &Current, signo: i32, code: i32) -> SigInfo {
    SigInfo::user(signo, code, cur.group.tgid, cur.cred().uid)
}

/// kill(2)
pub fn kill(cur: &mut Current, args: &Args) -> SysResult {
    let (pid, signo) = (args.int(0), args.int(1));
    let info = own_info(cur, signo, SI_USER);
    let pgid = match pid {
        i32::MIN => return Err(Errno::ESRCH),
        -1 => {
            check_signo(signo)?;
            return kill_all(cur, info);
        }
        0 => cur.group.pgid(),
        pid if pid < 0 => -pid,
        pid => {
            let task = cur.kernel.tasks.get(pid).ok_or(Errno::ESRCH)?;
            check_signo(signo)?;
            send_group(cur, &task.group, info)?;
            return Ok(0);
        }
    };
    let pgrp = cur.kernel.tasks.pgrp(pgid).ok_or(Errno::ESRCH)?;
    check_signo(signo)?;
    // Nobody is born meanwhile that would not get it.
    let _family = cur.kernel.tasks.family();
    let mut result = Err(Errno::ESRCH);
    for member in pgrp.members() {
        let sent = send_group(cur, &member, info);
        if result.is_err() {
            result = sent;
        }
    }
    result.map(|()| 0)
}

/// kill(-1): everybody but init and the caller.
fn kill_all(cur: &Current, info: SigInfo) -> SysResult {
    let _family = cur.kernel.tasks.family();
    let mut result = Err(Errno::ESRCH);
    for group in cur.kernel.tasks.groups() {
        if group.tgid == 1 || Arc::ptr_eq(&group, &cur.group) {
            continue;
        }
        match (send_group(cur, &group, info), result) {
            (Err(Errno::EPERM), Err(_)) if result == Err(Errno::ESRCH) => {
                result = Err(Errno::EPERM)
            }
            (Err(Errno::EPERM), _) => {}
            (sent, _) => result = sent,
        }
    }
    result.map(|()| 0)
}

/// The task `tid` of process `tgid` (0 or less: of any).
fn find_thread(cur: &Current, tgid: i32, tid: i32) -> Result<Arc<Task>, Errno> {
    let task = cur.kernel.tasks.get(tid).ok_or(Errno::ESRCH)?;
    if tgid > 0 && task.group.tgid != tgid { Err(Errno::ESRCH) } else { Ok(task) }
}

/// tkill(2)
pub fn tkill(cur: &mut Current, args: &Args) -> SysResult {
    if args.int(0) <= 0 {
        return Err(Errno::EINVAL);
    }
    send_thread(cur, 0, args.int(0), own_info(cur, args.int(1), SI_TKILL))
}

/// tgkill(2)
pub fn tgkill(cur: &mut Current, args: &Args) -> SysResult {
    if args.int(0) <= 0 || args.int(1) <= 0 {
        return Err(Errno::EINVAL);
    }
    send_thread(cur, args.int(0), args.int(1), own_info(cur, args.int(2), SI_TKILL))
}

fn send_thread(cur: &Current, tgid: i32, tid: i32, info: SigInfo) -> SysResult {
    let task = find_thread(cur, tgid, tid)?;
    check_signo(info.signo)?;
    send_task(cur, &task, info)?;
    Ok(0)
}

/// Reads a `siginfo_t`. `E2BIG` if there is something where no known layout has a field.
fn read_info(cur: &Current, at: u64, signo: i32) -> Result<SigInfo, Errno> {
    let bytes: [u8; USER_SIZE] = cur.mm.read_obj(at)?;
    let (known, rest) = bytes.split_at(size_of::<SigInfo>());
    if rest.iter().any(|&b| b != 0) {
        return Err(Errno::E2BIG);
    }
    let mut info: SigInfo =
        zerocopy::FromBytes::read_from_bytes(known).map_err(|_| Errno::EFAULT)?;
    info.signo = signo;
    Ok(info)
}

/// Nobody may pretend to be the kernel or kill(2) to somebody else.
fn check_forgery(info: &SigInfo, own: bool) -> Result<(), Errno> {
    let forged = (info.code >= 0 || info.code == SI_TKILL) && !own;
    if forged { Err(Errno::EPERM) } else { Ok(()) }
}

/// rt_sigqueueinfo(2)
pub fn rt_sigqueueinfo(cur: &mut Current, args: &Args) -> SysResult {
    let info = read_info(cur, args.u64(2), args.int(1))?;
    check_forgery(&info, args.int(0) == cur.group.tgid)?;
    let task = cur.kernel.tasks.get(args.int(0)).ok_or(Errno::ESRCH)?;
    check_signo(info.signo)?;
    send_group(cur, &task.group, info)?;
    Ok(0)
}

/// rt_tgsigqueueinfo(2)
pub fn rt_tgsigqueueinfo(cur: &mut Current, args: &Args) -> SysResult {
    let info = read_info(cur, args.u64(3), args.int(2))?;
    let (tgid, tid) = (args.int(0), args.int(1));
    if tgid <= 0 || tid <= 0 {
        return Err(Errno::EINVAL);
    }
    check_forgery(&info, tid == cur.tid())?;
    send_thread(cur, tgid, tid, info)
}

/// pidfd_open(2)
pub fn pidfd_open(cur: &mut Current, args: &Args) -> SysResult {
    let (pid, flags) = (args.int(0), args.int(1));
    if flags & !libc::O_NONBLOCK != 0 || pid <= 0 {
        return Err(Errno::EINVAL);
    }
    let task = cur.kernel.tasks.get(pid).ok_or(Errno::ESRCH)?;
    if !task.is_leader() {
        return Err(Errno::EINVAL);
    }
    let file = pidfd::new_file(cur, &task.group, flags & libc::O_NONBLOCK != 0)?;
    let fd = cur.files.install(file, true, 0, cur.group.nofile())?;
    Ok(fd as u64)
}

/// pidfd_send_signal(2)
pub fn pidfd_send_signal(cur: &mut Current, args: &Args) -> SysResult {
    if args.uint(3) != 0 {
        return Err(Errno::EINVAL);
    }
    let group = pidfd::to_signal(cur, args.int(0))?;
    let signo = args.int(1);
    let info = match args.u64(2) {
        0 => own_info(cur, signo, SI_USER),
        at => {
            let bytes: [u8; USER_SIZE] = cur.mm.read_obj(at)?;
            let given = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            if given != signo {
                return Err(Errno::EINVAL);
            }
            let info = read_info(cur, at, signo)?;
            check_forgery(&info, Arc::ptr_eq(&group, &cur.group))?;
            info
        }
    };
    check_signo(signo)?;
    send_group(cur, &group, info)?;
    Ok(0)
}

/// pidfd_getfd(2)
pub fn pidfd_getfd(cur: &mut Current, args: &Args) -> SysResult {
    if args.uint(2) != 0 {
        return Err(Errno::EINVAL);
    }
    let (group, _) = pidfd::get(cur, args.int(0))?;
    let target = group.leader().filter(|t| !t.is_dead()).ok_or(Errno::ESRCH)?;
    if !super::cred::may_access(cur, &target) {
        return Err(Errno::EPERM);
    }
    let file = target.files().ok_or(Errno::ESRCH)?.get_raw(args.int(1))?;
    let fd = cur.files.install(file, true, 0, cur.group.nofile())?;
    Ok(fd as u64)
}
