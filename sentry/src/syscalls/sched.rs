//! Scheduling: priorities, policies, affinity. The host schedules; policies other than the default
//! are remembered and told back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;

use super::{Args, SysResult};
use crate::kernel::sched::{CpuSet, current_cpu};
use crate::kernel::{Caps, Current, Task};

/// `SCHED_RESET_ON_FORK`
const RESET_ON_FORK: i32 = 0x4000_0000;
/// `SCHED_DEADLINE`
const SCHED_DEADLINE: i32 = 6;

/// sched_yield(2)
pub fn sched_yield(_: &mut Current, _: &Args) -> SysResult {
    std::thread::yield_now();
    Ok(0)
}

/// The task that a pid argument names; 0 is the caller. `EINVAL` below 0, `ESRCH`.
fn task(cur: &Current, pid: i32) -> Result<Arc<Task>, Errno> {
    match pid {
        0 => Ok(cur.task.clone()),
        pid if pid < 0 => Err(Errno::EINVAL),
        pid => cur.kernel.tasks.get(pid).ok_or(Errno::ESRCH),
    }
}

/// Whether the caller's effective user is the target's (`check_same_owner`).
fn same_owner(cur: &Current, task: &Task) -> bool {
    let (own, theirs) = (cur.cred(), task.cred());
    [theirs.euid, theirs.uid].contains(&own.euid)
}

fn may_nice(cur: &Current) -> bool {
    cur.cred().capable(Caps::SYS_NICE)
}

/// sched_getaffinity(2)
pub fn sched_getaffinity(cur: &mut Current, args: &Args) -> SysResult {
    let len = args.uint(1) as usize;
    let bytes = CpuSet::mask_bytes();
    if len < bytes || !len.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    let target = cur.kernel.tasks.get(args.int(0));
    let target = if args.int(0) == 0 { Some(cur.task.clone()) } else { target };
    let set = target.ok_or(Errno::ESRCH)?.sched.lock().affinity;
    cur.mm.write_obj(args.u64(2), &set.0[..bytes / 8])?;
    Ok(bytes as u64)
}

/// sched_setaffinity(2)
pub fn sched_setaffinity(cur: &mut Current, args: &Args) -> SysResult {
    let mut bytes = [0; CpuSet::WORDS * 8];
    let len = (args.uint(1) as usize).min(bytes.len());
    cur.mm.read_bytes(args.u64(2), &mut bytes[..len])?;
    let target = match args.int(0) {
        0 => cur.task.clone(),
        pid => cur.kernel.tasks.get(pid).ok_or(Errno::ESRCH)?,
    };
    if !same_owner(cur, &target) && !may_nice(cur) {
        return Err(Errno::EPERM);
    }
    let mut wanted = CpuSet::EMPTY;
    for (word, chunk) in wanted.0.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = chunk.try_into().map_or(0, u64::from_le_bytes);
    }
    let set = wanted.intersection(CpuSet::possible());
    if set.is_empty() {
        return Err(Errno::EINVAL);
    }
    target.sched.lock().affinity = set;
    Ok(0)
}

/// Changes policy and priority (`__sched_setscheduler`).
fn set_policy(cur: &Current, target: &Task, policy: i32, priority: i32) -> Result<(), Errno> {
    let reset = policy & RESET_ON_FORK != 0;
    let policy = policy & !RESET_ON_FORK;
    let real_time = matches!(policy, libc::SCHED_FIFO | libc::SCHED_RR);
    let normal = matches!(policy, libc::SCHED_OTHER | libc::SCHED_BATCH | libc::SCHED_IDLE);
    if !(real_time && (1..100).contains(&priority) || normal && priority == 0) {
        return Err(Errno::EINVAL);
    }
    let old = *target.sched.lock();
    if !may_nice(cur) {
        let limit = target.group.rlimit(libc::RLIMIT_RTPRIO).soft;
        let denied = real_time
            && ((policy != old.policy && limit == 0)
                || (priority > old.priority && priority as u64 > limit));
        let reset_gone = old.reset_on_fork && !reset;
        if denied || reset_gone || !same_owner(cur, target) {
            return Err(Errno::EPERM);
        }
    }
    let mut state = target.sched.lock();
    (state.policy, state.priority, state.reset_on_fork) = (policy, priority, reset);
    Ok(())
}

/// sched_setscheduler(2)
pub fn sched_setscheduler(cur: &mut Current, args: &Args) -> SysResult {
    if args.int(1) < 0 || args.u64(2) == 0 || args.int(0) < 0 {
        return Err(Errno::EINVAL);
    }
    let priority: i32 = cur.mm.read_obj(args.u64(2))?;
    let target = task(cur, args.int(0))?;
    set_policy(cur, &target, args.int(1), priority)?;
    Ok(0)
}

/// sched_setparam(2)
pub fn sched_setparam(cur: &mut Current, args: &Args) -> SysResult {
    if args.u64(1) == 0 || args.int(0) < 0 {
        return Err(Errno::EINVAL);
    }
    let priority: i32 = cur.mm.read_obj(args.u64(1))?;
    let target = task(cur, args.int(0))?;
    let state = *target.sched.lock();
    let flag = if state.reset_on_fork { RESET_ON_FORK } else { 0 };
    set_policy(cur, &target, state.policy | flag, priority)?;
    Ok(0)
}

/// sched_getscheduler(2)
pub fn sched_getscheduler(cur: &mut Current, args: &Args) -> SysResult {
    let state = *task(cur, args.int(0))?.sched.lock();
    let flag = if state.reset_on_fork { RESET_ON_FORK } else { 0 };
    Ok((state.policy | flag) as u64)
}

/// sched_getparam(2)
pub fn sched_getparam(cur: &mut Current, args: &Args) -> SysResult {
    if args.u64(1) == 0 {
        return Err(Errno::EINVAL);
    }
    let priority = task(cur, args.int(0))?.sched.lock().priority;
    cur.mm.write_obj(args.u64(1), &priority)?;
    Ok(0)
}

/// sched_get_priority_max(2)
pub fn sched_get_priority_max(_: &mut Current, args: &Args) -> SysResult {
    match args.int(0) {
        libc::SCHED_FIFO | libc::SCHED_RR => Ok(99),
        libc::SCHED_OTHER | libc::SCHED_BATCH | libc::SCHED_IDLE | SCHED_DEADLINE => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// sched_get_priority_min(2)
pub fn sched_get_priority_min(_: &mut Current, args: &Args) -> SysResult {
    match args.int(0) {
        libc::SCHED_FIFO | libc::SCHED_RR => Ok(1),
        libc::SCHED_OTHER | libc::SCHED_BATCH | libc::SCHED_IDLE | SCHED_DEADLINE => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// sched_rr_get_interval(2)
pub fn sched_rr_get_interval(cur: &mut Current, args: &Args) -> SysResult {
    const RR_TIMESLICE_NS: i64 = 100_000_000;
    const SLICE_NS: i64 = 4_000_000;
    let ns = match task(cur, args.int(0))?.sched.lock().policy {
        libc::SCHED_FIFO => 0,
        libc::SCHED_RR => RR_TIMESLICE_NS,
        _ => SLICE_NS,
    };
    cur.mm.write_obj(args.u64(1), &[0, ns])?;
    Ok(0)
}

/// `struct sched_attr`, first version.
const ATTR_SIZE: usize = 48;

/// sched_getattr(2)
pub fn sched_getattr(cur: &mut Current, args: &Args) -> SysResult {
    let size = args.uint(2) as usize;
    if args.u64(1) == 0 || !(ATTR_SIZE..=4096).contains(&size) || args.uint(3) != 0 {
        return Err(Errno::EINVAL);
    }
    let target = task(cur, args.int(0))?;
    let state = *target.sched.lock();
    let nice = target.nice.load(Ordering::Relaxed);
    let real_time = matches!(state.policy, libc::SCHED_FIFO | libc::SCHED_RR);
    let mut out = [0u32; ATTR_SIZE / 4];
    out[0] = ATTR_SIZE as u32;
    out[1] = state.policy as u32;
    out[2] = u32::from(state.reset_on_fork);
    out[4] = if real_time { 0 } else { nice as u32 };
    out[5] = state.priority as u32;
    cur.mm.write_obj(args.u64(1), &out)?;
    Ok(0)
}

/// sched_setattr(2)
pub fn sched_setattr(cur: &mut Current, args: &Args) -> SysResult {
    if args.u64(1) == 0 || args.int(0) < 0 || args.uint(2) != 0 {
        return Err(Errno::EINVAL);
    }
    let size: u32 = cur.mm.read_obj(args.u64(1))?;
    let size = if size == 0 { ATTR_SIZE as u32 } else { size };
    if !(ATTR_SIZE as u32..=4096).contains(&size) {
        cur.mm.write_obj(args.u64(1), &(ATTR_SIZE as u32))?;
        return Err(Errno::E2BIG);
    }
    let attr: [u32; ATTR_SIZE / 4] = cur.mm.read_obj(args.u64(1))?;
    let (policy, flags, nice, priority) = (attr[1] as i32, attr[2], attr[4] as i32, attr[5] as i32);
    if policy < 0 || flags & !1 != 0 {
        return Err(Errno::EINVAL);
    }
    let target = task(cur, args.int(0))?;
    let reset = if flags & 1 != 0 { RESET_ON_FORK } else { 0 };
    let nice = nice.clamp(-20, 19);
    let normal = matches!(policy, libc::SCHED_OTHER | libc::SCHED_BATCH);
    if normal && nice < target.nice.load(Ordering::Relaxed) && !can_nice(cur, &target, nice) {
        return Err(Errno::EPERM);
    }
    set_policy(cur, &target, policy | reset, priority)?;
    if normal {
        target.nice.store(nice, Ordering::Relaxed);
    }
    Ok(0)
}

/// The tasks that getpriority and ioprio_get mean: by process, process group or user.
fn by_who(cur: &Current, kind: i32, who: i32) -> Result<Vec<Arc<Task>>, Errno> {
    let tasks = match kind {
        0 if who == 0 => vec![cur.task.clone()],
        0 => cur.kernel.tasks.get(who).into_iter().collect(),
        1 => {
            let id = if who == 0 { cur.group.pgid() } else { who };
            let members = cur.kernel.tasks.pgrp(id).map(|p| p.members()).unwrap_or_default();
            members.iter().flat_map(|m| m.threads()).collect()
        }
        2 => {
            let uid = if who == 0 { cur.cred().uid } else { who as u32 };
            let mut all = cur.kernel.tasks.all();
            all.retain(|t| t.cred().uid == uid);
            all
        }
        _ => return Err(Errno::EINVAL),
    };
    if tasks.is_empty() { Err(Errno::ESRCH) } else { Ok(tasks) }
}

/// `can_nice`
fn can_nice(cur: &Current, target: &Task, nice: i32) -> bool {
    (20 - nice) as u64 <= target.group.rlimit(libc::RLIMIT_NICE).soft || may_nice(cur)
}

/// getpriority(2): 20 minus the nice value, so that it is never negative.
pub fn getpriority(cur: &mut Current, args: &Args) -> SysResult {
    let tasks = by_who(cur, args.int(0), args.int(1))?;
    let best = tasks.iter().map(|t| 20 - t.nice.load(Ordering::Relaxed)).max();
    best.map(|p| p as u64).ok_or(Errno::ESRCH)
}

/// setpriority(2)
pub fn setpriority(cur: &mut Current, args: &Args) -> SysResult {
    let nice = args.int(2).clamp(-20, 19);
    let mut result = Ok(0);
    for target in by_who(cur, args.int(0), args.int(1))? {
        let (own, theirs) = (cur.cred(), target.cred());
        if ![theirs.uid, theirs.euid].contains(&own.euid) && !may_nice(cur) {
            result = Err(Errno::EPERM);
        } else if nice < target.nice.load(Ordering::Relaxed) && !can_nice(cur, &target, nice) {
            result = Err(Errno::EACCES);
        } else {
            target.nice.store(nice, Ordering::Relaxed);
        }
    }
    result
}

/// `IOPRIO_CLASS_SHIFT`
const CLASS_SHIFT: u32 = 13;

/// ioprio_get(2)
pub fn ioprio_get(cur: &mut Current, args: &Args) -> SysResult {
    let tasks = by_who(cur, args.int(0).wrapping_sub(1), args.int(1))?;
    let effective = |t: &Arc<Task>| match t.ioprio.load(Ordering::Relaxed) {
        // By nice value: class "best effort".
        0 => 2 << CLASS_SHIFT | ((t.nice.load(Ordering::Relaxed) + 20) / 5) as u32,
        prio => prio,
    };
    tasks.iter().map(effective).min().map(u64::from).ok_or(Errno::ESRCH)
}

/// ioprio_set(2)
pub fn ioprio_set(cur: &mut Current, args: &Args) -> SysResult {
    let prio = args.uint(2);
    let (class, level) = (prio >> CLASS_SHIFT, prio & ((1 << CLASS_SHIFT) - 1));
    match class {
        1 if !cur.cred().capable(Caps::SYS_ADMIN) && !may_nice(cur) => return Err(Errno::EPERM),
        1 | 2 if level < 8 => {}
        3 => {}
        0 if level == 0 => {}
        _ => return Err(Errno::EINVAL),
    }
    for target in by_who(cur, args.int(0).wrapping_sub(1), args.int(1))? {
        let (own, theirs) = (cur.cred(), target.cred());
        if ![own.euid, own.uid].contains(&theirs.uid) && !may_nice(cur) {
            return Err(Errno::EPERM);
        }
        target.ioprio.store(prio, Ordering::Relaxed);
    }
    Ok(0)
}

/// getcpu(2)
pub fn getcpu(cur: &mut Current, args: &Args) -> SysResult {
    let cpu = current_cpu(cur);
    if args.u64(0) != 0 {
        cur.mm.write_obj(args.u64(0), &cpu)?;
    }
    if args.u64(1) != 0 {
        cur.mm.write_obj(args.u64(1), &0u32)?;
    }
    Ok(0)
}
