//! Clocks and sleeping: clock_gettime(2) and its kin, nanosleep(2), adjtimex(2).

use abi::Errno;
use abi::time::{Timespec, Timeval, Timex, Timezone};

use super::{Args, SysResult};
use crate::kernel::time::{Clock, CpuKind, CpuOwner, FOREVER, HostClock, TICK_NS, monotonic_ns};
use crate::kernel::{Caps, Current};

const TIMER_ABSTIME: u32 = 1;

/// Reads a timespec and checks it; in nanoseconds.
pub(super) fn read_timespec(cur: &Current, addr: u64) -> Result<u64, Errno> {
    cur.mm.read_obj::<Timespec>(addr)?.to_ns().ok_or(Errno::EINVAL)
}

/// As [`read_timespec`], where NULL means no timeout; gives the moment on `CLOCK_MONOTONIC`.
pub(super) fn read_deadline(cur: &Current, addr: u64) -> Result<Option<u64>, Errno> {
    if addr == 0 {
        return Ok(None);
    }
    Ok(deadline_in(read_timespec(cur, addr)?))
}

/// The moment on `CLOCK_MONOTONIC` in `ns` nanoseconds; `None` for never.
pub(super) fn deadline_in(ns: u64) -> Option<u64> {
    let at = monotonic_ns().saturating_add(ns);
    (at < FOREVER).then_some(at)
}

/// clock_gettime(2)
pub fn clock_gettime(cur: &mut Current, args: &Args) -> SysResult {
    let now = Clock::resolve(&cur.task, args.int(0), true)?.now();
    cur.mm.write_obj(args.u64(1), &Timespec::from_ns(now))?;
    Ok(0)
}

/// clock_getres(2)
pub fn clock_getres(cur: &mut Current, args: &Args) -> SysResult {
    let resolution = Clock::resolve(&cur.task, args.int(0), false)?.resolution();
    if args.u64(1) != 0 {
        cur.mm.write_obj(args.u64(1), &Timespec::from_ns(resolution))?;
    }
    Ok(0)
}

/// clock_settime(2): the clock is the host's, nobody in a sandbox may set it.
pub fn clock_settime(cur: &mut Current, args: &Args) -> SysResult {
    match Clock::resolve(&cur.task, args.int(0), false)? {
        Clock::Host(HostClock::REALTIME) => {
            read_timespec(cur, args.u64(1))?;
            Err(Errno::EPERM)
        }
        Clock::Host(_) => Err(Errno::EINVAL),
        Clock::Cpu(..) => {
            cur.mm.read_obj::<Timespec>(args.u64(1))?;
            Err(Errno::EPERM)
        }
    }
}

/// gettimeofday(2)
pub fn gettimeofday(cur: &mut Current, args: &Args) -> SysResult {
    if args.u64(0) != 0 {
        cur.mm.write_obj(args.u64(0), &Timeval::from_ns(HostClock::REALTIME.now()))?;
    }
    if args.u64(1) != 0 {
        cur.mm.write_obj(args.u64(1), &Timezone::default())?;
    }
    Ok(0)
}

/// settimeofday(2): as clock_settime.
pub fn settimeofday(cur: &mut Current, args: &Args) -> SysResult {
    if args.u64(0) != 0 {
        let tv: Timeval = cur.mm.read_obj(args.u64(0))?;
        if !(0..=1_000_000).contains(&tv.usec) {
            return Err(Errno::EINVAL);
        }
    }
    if args.u64(1) != 0 {
        cur.mm.read_obj::<Timezone>(args.u64(1))?;
    }
    Err(Errno::EPERM)
}

/// time(2)
pub fn time(cur: &mut Current, args: &Args) -> SysResult {
    let now = HostClock::REALTIME.now() / abi::time::NSEC_PER_SEC;
    if args.u64(0) != 0 {
        cur.mm.write_obj(args.u64(0), &now)?;
    }
    Ok(now)
}

/// nanosleep(2)
pub fn nanosleep(cur: &mut Current, args: &Args) -> SysResult {
    let ns = read_timespec(cur, args.u64(0))?;
    sleep_until(cur, monotonic_ns().saturating_add(ns), args.u64(1))
}

/// clock_nanosleep(2)
pub fn clock_nanosleep(cur: &mut Current, args: &Args) -> SysResult {
    let (absolute, rem) = (args.uint(1) & TIMER_ABSTIME != 0, args.u64(3));
    if args.int(0) == libc::CLOCK_THREAD_CPUTIME_ID {
        return Err(Errno::EOPNOTSUPP);
    }
    match Clock::resolve(&cur.task, args.int(0), false)? {
        Clock::Host(clock) if !clock.has_timers() => Err(Errno::EOPNOTSUPP),
        Clock::Host(clock) => {
            let ns = read_timespec(cur, args.u64(2))?;
            if clock.is_alarm() && !cur.cred().capable(Caps::WAKE_ALARM) {
                return Err(Errno::EPERM);
            }
            if absolute {
                sleep_until_clock(cur, clock, ns)
            } else {
                sleep_until(cur, monotonic_ns().saturating_add(ns), rem)
            }
        }
        Clock::Cpu(owner, kind) => {
            let ns = read_timespec(cur, args.u64(2))?;
            if matches!(&owner, CpuOwner::Thread(t) if t.tid() == cur.tid()) {
                return Err(Errno::EINVAL);
            }
            let now = kind.of(owner.times());
            let at = if absolute { ns } else { now.saturating_add(ns) };
            sleep_cpu(cur, owner, kind, at, (!absolute).then_some(rem))
        }
    }
}

/// Writes what is left of an interrupted relative sleep.
fn write_remaining(cur: &Current, addr: u64, left: u64) -> Result<(), Errno> {
    if addr == 0 { Ok(()) } else { cur.mm.write_obj(addr, &Timespec::from_ns(left)) }
}

/// Sleeps until `at` on `CLOCK_MONOTONIC`; restarts with what is left.
fn sleep_until(cur: &mut Current, at: u64, rem: u64) -> SysResult {
    loop {
        match cur.block((at < FOREVER).then_some(at)) {
            Ok(()) => {}
            Err(Errno::ETIMEDOUT) => return Ok(0),
            Err(_) => break,
        }
    }
    let left = at.saturating_sub(monotonic_ns());
    if left == 0 {
        return Ok(0);
    }
    write_remaining(cur, rem, left)?;
    cur.restart_with(move |cur| sleep_until(cur, at, rem))
}

/// Sleeps until `clock` shows `at`, however it is set meanwhile.
fn sleep_until_clock(cur: &mut Current, clock: HostClock, at: u64) -> SysResult {
    while clock.now() < at {
        match cur.block(Some(clock.to_monotonic(at)).filter(|&d| d < FOREVER)) {
            Ok(()) | Err(Errno::ETIMEDOUT) => {}
            Err(_) => return Err(Errno::ERESTARTNOHAND),
        }
    }
    Ok(0)
}

/// Sleeps until `owner` has had `at` nanoseconds of processor time. It looks no sooner than that
/// can have happened.
fn sleep_cpu(
    cur: &mut Current,
    owner: CpuOwner,
    kind: CpuKind,
    at: u64,
    rem: Option<u64>,
) -> SysResult {
    loop {
        let left = at.saturating_sub(kind.of(owner.times()));
        if left == 0 {
            return Ok(0);
        }
        let wait = (left / owner.max_rate()).max(TICK_NS);
        match cur.block(deadline_in(wait)) {
            Ok(()) | Err(Errno::ETIMEDOUT) => {}
            Err(_) => {
                let Some(rem) = rem else { return Err(Errno::ERESTARTNOHAND) };
                write_remaining(cur, rem, left)?;
                return cur.restart_with(move |cur| sleep_cpu(cur, owner, kind, at, Some(rem)));
            }
        }
    }
}

/// restart_syscall(2)
pub fn restart_syscall(cur: &mut Current, _: &Args) -> SysResult {
    match cur.take_restart() {
        Some(rest) => rest(cur),
        None => Err(Errno::EINTR),
    }
}

/// adjtimex(2), read-only.
pub fn adjtimex(cur: &mut Current, args: &Args) -> SysResult {
    let addr = args.u64(0);
    adjust(cur, addr)
}

/// clock_adjtime(2), read-only.
pub fn clock_adjtime(cur: &mut Current, args: &Args) -> SysResult {
    let addr = args.u64(1);
    match Clock::resolve(&cur.task, args.int(0), false)? {
        Clock::Host(HostClock::REALTIME) => adjust(cur, addr),
        Clock::Host(_) | Clock::Cpu(..) => Err(Errno::EOPNOTSUPP),
    }
}

/// Tells how the host's clock is kept; any change is refused.
fn adjust(cur: &mut Current, addr: u64) -> SysResult {
    /// `ADJ_OFFSET_SS_READ`: the only mode bits that change nothing.
    const READ_ONLY: u32 = 0xa001;
    const TIME_ERROR: u64 = 5;
    const STA_UNSYNC: i32 = 0x40;
    let asked: Timex = cur.mm.read_obj(addr)?;
    if asked.modes != 0 && asked.modes != READ_ONLY {
        return Err(Errno::EPERM);
    }
    // A clock that nobody disciplines, as Linux shows it at boot.
    let answer = Timex {
        modes: asked.modes,
        maxerror: 16_000_000,
        esterror: 16_000_000,
        status: STA_UNSYNC,
        constant: 2,
        precision: (HostClock::REALTIME.resolution_ns() / 1000).max(1) as i64,
        tolerance: 32_768_000,
        time: Timeval::from_ns(HostClock::REALTIME.now()),
        tick: 10_000,
        ..Timex::default()
    };
    cur.mm.write_obj(addr, &answer)?;
    Ok(TIME_ERROR)
}
