//! futex(2), futex_waitv(2), the futex2 calls, robust lists.

use std::sync::atomic::Ordering;

use abi::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::time::read_timespec;
use super::{Args, SysResult};
use crate::kernel::Current;
use crate::kernel::futex::{MATCH_ANY, Waiter, WakeOp};
use crate::kernel::time::{FOREVER, HostClock, monotonic_ns};
use crate::mm::MemoryKey;

const PRIVATE_FLAG: u32 = 128;
const CLOCK_REALTIME_FLAG: u32 = 256;

/// When a wait ends.
#[derive(Clone, Copy)]
struct Timeout {
    clock: HostClock,
    at: u64,
}

impl Timeout {
    fn deadline(self) -> Option<u64> {
        Some(self.clock.to_monotonic(self.at)).filter(|&at| at < FOREVER)
    }
}

/// The key of the word at `addr`. `EINVAL` if misaligned, `EFAULT` if it cannot be there.
fn key(cur: &Current, addr: u64, private: bool) -> Result<MemoryKey, Errno> {
    if !addr.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    if addr >= cur.kernel.platform.user_range().1 {
        return Err(Errno::EFAULT);
    }
    if private { Ok(cur.mm.private_key(addr)) } else { cur.mm.memory_key(addr) }
}

/// Queues the caller if the word at `addr` is `value`.
fn enqueue(
    cur: &Current,
    addr: u64,
    private: bool,
    value: u32,
    bitset: u32,
) -> Result<std::sync::Arc<Waiter>, Errno> {
    let key = key(cur, addr, private)?;
    cur.kernel.futexes.enqueue(key, bitset, &cur.sleeper, || {
        if cur.mm.load_u32(addr)? == value { Ok(()) } else { Err(Errno::EAGAIN) }
    })
}

fn wait(
    cur: &mut Current,
    addr: u64,
    private: bool,
    value: u32,
    bitset: u32,
    timeout: Option<Timeout>,
) -> SysResult {
    if bitset == 0 {
        return Err(Errno::EINVAL);
    }
    let waiter = enqueue(cur, addr, private, value, bitset)?;
    loop {
        if waiter.is_woken() {
            return Ok(0);
        }
        match cur.block(timeout.and_then(Timeout::deadline)) {
            Ok(()) => continue,
            Err(Errno::ETIMEDOUT) if timeout.is_some_and(|t| t.clock.now() < t.at) => continue,
            Err(errno) => {
                if cur.kernel.futexes.dequeue(&waiter) {
                    return Ok(0);
                }
                return match (errno, timeout) {
                    (Errno::ETIMEDOUT, _) => Err(errno),
                    (_, None) => Err(Errno::ERESTARTSYS),
                    (_, Some(_)) => cur
                        .restart_with(move |cur| wait(cur, addr, private, value, bitset, timeout)),
                };
            }
        }
    }
}

/// futex(2)
pub fn futex(cur: &mut Current, args: &Args) -> SysResult {
    const WAIT: u32 = 0;
    const WAKE: u32 = 1;
    const REQUEUE: u32 = 3;
    const CMP_REQUEUE: u32 = 4;
    const WAKE_OP: u32 = 5;
    const LOCK_PI: u32 = 6;
    const WAIT_BITSET: u32 = 9;
    const WAKE_BITSET: u32 = 10;
    const WAIT_REQUEUE_PI: u32 = 11;
    const LOCK_PI2: u32 = 13;

    let (addr, op, val) = (args.u64(0), args.uint(1), args.uint(2));
    let (addr2, val3) = (args.u64(4), args.uint(5));
    let cmd = op & !(PRIVATE_FLAG | CLOCK_REALTIME_FLAG);
    let private = op & PRIVATE_FLAG != 0;
    let realtime = op & CLOCK_REALTIME_FLAG != 0;
    let has_timeout = matches!(cmd, WAIT | LOCK_PI | LOCK_PI2 | WAIT_BITSET | WAIT_REQUEUE_PI);
    let timeout = if has_timeout && args.u64(3) != 0 {
        let ns = read_timespec(cur, args.u64(3))?;
        Some(match (cmd, realtime) {
            (WAIT, _) => Timeout {
                clock: HostClock::MONOTONIC,
                at: monotonic_ns().saturating_add(ns).min(FOREVER),
            },
            (_, true) => Timeout { clock: HostClock::REALTIME, at: ns },
            (_, false) => Timeout { clock: HostClock::MONOTONIC, at: ns },
        })
    } else {
        None
    };
    if realtime && !matches!(cmd, WAIT_BITSET | WAIT_REQUEUE_PI | LOCK_PI2) {
        return Err(Errno::ENOSYS);
    }
    match cmd {
        WAIT => wait(cur, addr, private, val, MATCH_ANY, timeout),
        WAIT_BITSET => wait(cur, addr, private, val, val3, timeout),
        WAKE => wake(cur, addr, private, val as i32, MATCH_ANY),
        WAKE_BITSET => wake(cur, addr, private, val as i32, val3),
        REQUEUE | CMP_REQUEUE => {
            let expected = (cmd == CMP_REQUEUE).then_some(val3);
            requeue(cur, (addr, private), (addr2, private), val as i32, args.int(3), expected)
        }
        WAKE_OP => {
            let first = key(cur, addr, private)?;
            let second = key(cur, addr2, private)?;
            let op = WakeOp::decode(val3)?;
            cur.kernel.futexes.wake_op(&first, &second, val as i32, args.int(3), op, |change| {
                cur.mm.fetch_update_u32(addr2, change)
            })
        }
        // Without CONFIG_FUTEX_PI.
        _ => Err(Errno::ENOSYS),
    }
}

fn wake(cur: &Current, addr: u64, private: bool, limit: i32, bitset: u32) -> SysResult {
    if bitset == 0 {
        return Err(Errno::EINVAL);
    }
    Ok(cur.kernel.futexes.wake(&key(cur, addr, private)?, limit, bitset))
}

fn requeue(
    cur: &Current,
    from: (u64, bool),
    to: (u64, bool),
    nr_wake: i32,
    nr_requeue: i32,
    expected: Option<u32>,
) -> SysResult {
    let (Ok(nr_wake), Ok(nr_requeue)) = (usize::try_from(nr_wake), usize::try_from(nr_requeue))
    else {
        return Err(Errno::EINVAL);
    };
    let source = key(cur, from.0, from.1)?;
    let target = key(cur, to.0, to.1)?;
    cur.kernel.futexes.requeue(&source, &target, nr_wake, nr_requeue, || match expected {
        Some(value) if cur.mm.load_u32(from.0)? != value => Err(Errno::EAGAIN),
        _ => Ok(()),
    })
}

/// `struct futex_waitv`
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct WaitvEntry {
    val: u64,
    uaddr: u64,
    flags: u32,
    reserved: u32,
}

/// Checks `FUTEX2_*` flags; whether the futex is private. `EINVAL` for other sizes than 32 bits.
fn futex2_private(flags: u32) -> Result<bool, Errno> {
    const SIZE_U32: u32 = 2;
    if flags & !PRIVATE_FLAG == SIZE_U32 {
        Ok(flags & PRIVATE_FLAG != 0)
    } else {
        Err(Errno::EINVAL)
    }
}

/// Reads the absolute timeout of the futex2 calls.
fn futex2_timeout(cur: &Current, addr: u64, clock: i32) -> Result<Option<Timeout>, Errno> {
    if addr == 0 {
        return Ok(None);
    }
    let clock = match clock {
        libc::CLOCK_MONOTONIC => HostClock::MONOTONIC,
        libc::CLOCK_REALTIME => HostClock::REALTIME,
        _ => return Err(Errno::EINVAL),
    };
    Ok(Some(Timeout { clock, at: read_timespec(cur, addr)? }))
}

/// futex_waitv(2)
pub fn futex_waitv(cur: &mut Current, args: &Args) -> SysResult {
    const MAX: u32 = 128;
    let (addr, nr) = (args.u64(0), args.uint(1));
    if args.uint(2) != 0 || nr == 0 || nr > MAX || addr == 0 {
        return Err(Errno::EINVAL);
    }
    let timeout = futex2_timeout(cur, args.u64(3), args.int(4))?;
    let mut entries = Vec::with_capacity(nr as usize);
    for i in 0..u64::from(nr) {
        let at = addr.checked_add(i * size_of::<WaitvEntry>() as u64).ok_or(Errno::EFAULT)?;
        let entry: WaitvEntry = cur.mm.read_obj(at)?;
        let private = futex2_private(entry.flags)?;
        let value = u32::try_from(entry.val).map_err(|_| Errno::EINVAL)?;
        if entry.reserved != 0 {
            return Err(Errno::EINVAL);
        }
        entries.push((entry.uaddr, private, value));
    }
    let mut waiters: Vec<std::sync::Arc<Waiter>> = Vec::with_capacity(entries.len());
    let mut result: Option<SysResult> = None;
    for (addr, private, value) in entries {
        match enqueue(cur, addr, private, value, MATCH_ANY) {
            Ok(waiter) => waiters.push(waiter),
            Err(errno) => {
                result = Some(Err(errno));
                break;
            }
        }
    }
    while result.is_none() && !waiters.iter().any(|w| w.is_woken()) {
        match cur.block(timeout.and_then(Timeout::deadline)) {
            Ok(()) => {}
            Err(Errno::ETIMEDOUT) if timeout.is_some_and(|t| t.clock.now() < t.at) => {}
            Err(errno) => result = Some(Err(errno)),
        }
    }
    let mut woken = None;
    for (i, waiter) in waiters.iter().enumerate() {
        if cur.kernel.futexes.dequeue(waiter) {
            woken = Some(i as u64);
        }
    }
    match (woken, result) {
        (Some(index), _) => Ok(index),
        (None, Some(result)) => result,
        (None, None) => Err(Errno::EAGAIN),
    }
}

/// futex_wake(2)
pub fn futex_wake(cur: &mut Current, args: &Args) -> SysResult {
    let private = futex2_private(args.uint(3))?;
    let mask = u32::try_from(args.u64(1)).map_err(|_| Errno::EINVAL)?;
    if args.int(2) == 0 {
        key(cur, args.u64(0), private)?;
        return Ok(0);
    }
    wake(cur, args.u64(0), private, args.int(2), mask)
}

/// futex_wait(2)
pub fn futex_wait(cur: &mut Current, args: &Args) -> SysResult {
    let private = futex2_private(args.uint(3))?;
    let (Ok(value), Ok(mask)) = (u32::try_from(args.u64(1)), u32::try_from(args.u64(2))) else {
        return Err(Errno::EINVAL);
    };
    let timeout = futex2_timeout(cur, args.u64(4), args.int(5))?;
    wait(cur, args.u64(0), private, value, mask, timeout)
}

/// futex_requeue(2)
pub fn futex_requeue(cur: &mut Current, args: &Args) -> SysResult {
    if args.uint(1) != 0 || args.u64(0) == 0 {
        return Err(Errno::EINVAL);
    }
    let [from, to]: [WaitvEntry; 2] = cur.mm.read_obj(args.u64(0))?;
    let value = u32::try_from(from.val).map_err(|_| Errno::EINVAL)?;
    if from.reserved != 0 || to.reserved != 0 {
        return Err(Errno::EINVAL);
    }
    let from = (from.uaddr, futex2_private(from.flags)?);
    let to = (to.uaddr, futex2_private(to.flags)?);
    requeue(cur, from, to, args.int(2), args.int(3), Some(value))
}

/// `sizeof(struct robust_list_head)`
const ROBUST_HEAD: usize = 24;

/// set_robust_list(2)
pub fn set_robust_list(cur: &mut Current, args: &Args) -> SysResult {
    if args.size(1) != ROBUST_HEAD {
        return Err(Errno::EINVAL);
    }
    cur.robust_list.store(args.u64(0), Ordering::Relaxed);
    Ok(0)
}

/// get_robust_list(2)
pub fn get_robust_list(cur: &mut Current, args: &Args) -> SysResult {
    let task = match args.int(0) {
        0 => cur.task.clone(),
        tid => cur.kernel.tasks.get(tid).ok_or(Errno::ESRCH)?,
    };
    let (own, other) = (cur.cred(), task.cred());
    let same = [other.uid, other.euid, other.suid].iter().all(|&uid| uid == own.fsuid)
        && [other.gid, other.egid, other.sgid].iter().all(|&gid| gid == own.fsgid)
        && own.permitted.contains(other.permitted);
    if task.tid() != cur.tid() && !same && !own.capable(crate::kernel::Caps::SYS_PTRACE) {
        return Err(Errno::EPERM);
    }
    cur.mm.write_obj(args.u64(2), &(ROBUST_HEAD as u64))?;
    cur.mm.write_obj(args.u64(1), &task.robust_list.load(Ordering::Relaxed))?;
    Ok(0)
}
