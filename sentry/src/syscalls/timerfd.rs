//! timerfd_create(2), timerfd_settime(2), timerfd_gettime(2).

use abi::Errno;
use abi::time::{Itimerspec, Timespec};

use super::pipe::install;
use super::{Args, SysResult};
use crate::fs::timerfd::{TimerFd, new_timerfd};
use crate::kernel::signal_timer::Setting;
use crate::kernel::time::Clock;
use crate::kernel::{Caps, Current};
use crate::vfs::OpenFlags;

/// Checks and converts a setting. `EINVAL` for invalid times.
pub(super) fn setting(spec: &Itimerspec) -> Result<Setting, Errno> {
    match (spec.value.to_ns(), spec.interval.to_ns()) {
        (Some(value), Some(interval)) => Ok(Setting { value, interval }),
        _ => Err(Errno::EINVAL),
    }
}

/// The reverse of [`setting`].
pub(super) fn itimerspec(setting: Setting) -> Itimerspec {
    Itimerspec {
        interval: Timespec::from_ns(setting.interval),
        value: Timespec::from_ns(setting.value),
    }
}

/// timerfd_create(2)
pub fn timerfd_create(cur: &mut Current, args: &Args) -> SysResult {
    let flags = OpenFlags::from_bits_retain(args.uint(1));
    let clock = args.int(0);
    let known = matches!(
        clock,
        libc::CLOCK_MONOTONIC
            | libc::CLOCK_REALTIME
            | libc::CLOCK_REALTIME_ALARM
            | libc::CLOCK_BOOTTIME
            | libc::CLOCK_BOOTTIME_ALARM
    );
    if !(OpenFlags::NONBLOCK | OpenFlags::CLOEXEC).contains(flags) || !known {
        return Err(Errno::EINVAL);
    }
    let Clock::Host(clock) = Clock::resolve(&cur.task, clock, false)? else {
        return Err(Errno::EINVAL);
    };
    if clock.is_alarm() && !cur.cred().capable(Caps::WAKE_ALARM) {
        return Err(Errno::EPERM);
    }
    let file = new_timerfd(cur.kernel.clone(), cur.cred(), clock, flags & OpenFlags::NONBLOCK)?;
    install(cur, file, flags)
}

/// timerfd_settime(2). `TFD_TIMER_CANCEL_ON_SET` is accepted: nobody in the sandbox can set the
/// clock.
pub fn timerfd_settime(cur: &mut Current, args: &Args) -> SysResult {
    const ABSTIME: u32 = 1;
    const CANCEL_ON_SET: u32 = 2;
    let spec: Itimerspec = cur.mm.read_obj(args.u64(2))?;
    let new = setting(&spec)?;
    if args.uint(1) & !(ABSTIME | CANCEL_ON_SET) != 0 {
        return Err(Errno::EINVAL);
    }
    let file = cur.files.get(args.int(0))?;
    let timer = file.downcast::<TimerFd>().ok_or(Errno::EINVAL)?.timer();
    let old = timer.set(new, args.uint(1) & ABSTIME != 0)?;
    if args.u64(3) != 0 {
        cur.mm.write_obj(args.u64(3), &itimerspec(old))?;
    }
    Ok(0)
}

/// timerfd_gettime(2)
pub fn timerfd_gettime(cur: &mut Current, args: &Args) -> SysResult {
    let file = cur.files.get(args.int(0))?;
    let timer = file.downcast::<TimerFd>().ok_or(Errno::EINVAL)?.timer();
    cur.mm.write_obj(args.u64(1), &itimerspec(timer.get()))?;
    Ok(0)
}
