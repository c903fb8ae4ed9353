//! alarm(2), getitimer(2), setitimer(2), and POSIX timers: timer_create(2) and its kin.

use std::sync::Arc;

use abi::Errno;
use abi::time::{Itimerspec, Itimerval, NSEC_PER_SEC, Timeval};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::timerfd::{itimerspec, setting};
use super::{Args, SysResult};
use crate::kernel::posix_timer::Which;
use crate::kernel::signal::{NSIG, SigInfo};
use crate::kernel::signal_timer::{Setting, SignalTimer, Target};
use crate::kernel::time::Clock;
use crate::kernel::{Caps, Current};

fn which(arg: i32) -> Result<Which, Errno> {
    match arg {
        0 => Ok(Which::Real),
        1 => Ok(Which::Virtual),
        2 => Ok(Which::Prof),
        _ => Err(Errno::EINVAL),
    }
}

fn itimerval(setting: Setting) -> Itimerval {
    // What is left is never shown as 0.
    let value = if setting.value == 0 { 0 } else { setting.value.max(1000) };
    Itimerval { interval: Timeval::from_ns(setting.interval), value: Timeval::from_ns(value) }
}

/// alarm(2)
pub fn alarm(cur: &mut Current, args: &Args) -> SysResult {
    let new = Setting { value: u64::from(args.uint(0)) * NSEC_PER_SEC, interval: 0 };
    let old = cur.group.set_interval_timer(&cur.kernel, Which::Real, new)?;
    // Rounded, but what is left is at least one second.
    let seconds = (old.value + NSEC_PER_SEC / 2) / NSEC_PER_SEC;
    Ok(if old.value > 0 { seconds.max(1) } else { 0 })
}

/// getitimer(2)
pub fn getitimer(cur: &mut Current, args: &Args) -> SysResult {
    let now = cur.group.interval_timer(which(args.int(0))?);
    cur.mm.write_obj(args.u64(1), &itimerval(now))?;
    Ok(0)
}

/// setitimer(2)
pub fn setitimer(cur: &mut Current, args: &Args) -> SysResult {
    // A NULL value disarms, as on Linux.
    let new: Itimerval =
        if args.u64(1) == 0 { Itimerval::default() } else { cur.mm.read_obj(args.u64(1))? };
    let (Some(value), Some(interval)) = (new.value.to_ns(), new.interval.to_ns()) else {
        return Err(Errno::EINVAL);
    };
    let which = which(args.int(0))?;
    let old = cur.group.set_interval_timer(&cur.kernel, which, Setting { value, interval })?;
    if args.u64(2) != 0 {
        cur.mm.write_obj(args.u64(2), &itimerval(old))?;
    }
    Ok(0)
}

/// The start of `struct sigevent`, which has 64 bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SigEvent {
    value: u64,
    signo: i32,
    notify: i32,
    tid: i32,
    pad: [u32; 11],
}

/// timer_create(2)
pub fn timer_create(cur: &mut Current, args: &Args) -> SysResult {
    const SIGNAL: i32 = 0;
    const NONE: i32 = 1;
    const THREAD: i32 = 2;
    const THREAD_ID: i32 = 4;
    let event: Option<SigEvent> =
        if args.u64(1) == 0 { None } else { Some(cur.mm.read_obj(args.u64(1))?) };
    let clock = Clock::resolve(&cur.task, args.int(0), false)?;
    if let Clock::Host(host) = &clock {
        if !host.has_timers() {
            return Err(Errno::EOPNOTSUPP);
        }
        if host.is_alarm() && !cur.cred().capable(Caps::WAKE_ALARM) {
            return Err(Errno::EPERM);
        }
    }
    let limit = cur.group.rlimit(libc::RLIMIT_SIGPENDING).soft;
    let charge = cur.task.user().charge_pending(limit).ok_or(Errno::EAGAIN)?;
    let (signo, target) = match event {
        None => (libc::SIGALRM, Target::Process),
        Some(event) => {
            let target = match event.notify {
                NONE => Target::Nobody,
                SIGNAL | THREAD => Target::Process,
                THREAD_ID => {
                    let task = cur.kernel.tasks.get(event.tid).ok_or(Errno::EINVAL)?;
                    if !Arc::ptr_eq(&task.group, &cur.group) {
                        return Err(Errno::EINVAL);
                    }
                    Target::Thread(Arc::downgrade(&task))
                }
                _ => return Err(Errno::EINVAL),
            };
            if event.notify != NONE && !(1..=NSIG).contains(&event.signo) {
                return Err(Errno::EINVAL);
            }
            (event.signo, target)
        }
    };
    let (kernel, group) = (cur.kernel.clone(), cur.group.clone());
    let id = cur.group.timers.add(|id| {
        let value = event.map_or(id as u64, |event| event.value);
        let info = SigInfo::timer(signo, id, 0, value);
        SignalTimer::new(&kernel, &group, &clock, info, target, Some(charge))
    })?;
    if let Err(errno) = cur.mm.write_obj(args.u64(2), &id) {
        // Nobody else can know the number to have deleted it.
        let _ = cur.group.timers.delete(id);
        return Err(errno);
    }
    Ok(0)
}

/// timer_settime(2)
pub fn timer_settime(cur: &mut Current, args: &Args) -> SysResult {
    const ABSTIME: u32 = 1;
    if args.u64(2) == 0 {
        return Err(Errno::EINVAL);
    }
    let new: Itimerspec = cur.mm.read_obj(args.u64(2))?;
    let new = setting(&new)?;
    let timer = cur.group.timers.get(args.int(0))?;
    let old = timer.set(new, args.uint(1) & ABSTIME != 0)?;
    if args.u64(3) != 0 {
        cur.mm.write_obj(args.u64(3), &itimerspec(old))?;
    }
    Ok(0)
}

/// timer_gettime(2)
pub fn timer_gettime(cur: &mut Current, args: &Args) -> SysResult {
    let now = cur.group.timers.get(args.int(0))?.get();
    cur.mm.write_obj(args.u64(1), &itimerspec(now))?;
    Ok(0)
}

/// timer_getoverrun(2)
pub fn timer_getoverrun(cur: &mut Current, args: &Args) -> SysResult {
    Ok(cur.group.timers.get(args.int(0))?.overrun() as u64)
}

/// timer_delete(2)
pub fn timer_delete(cur: &mut Current, args: &Args) -> SysResult {
    cur.group.timers.delete(args.int(0))?;
    Ok(0)
}
