//! epoll(7): epoll_create(2), epoll_ctl(2), epoll_wait(2).

use std::sync::Arc;

use abi::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::pipe::install;
use super::poll::{patience, patience_ms, with_mask};
use super::time::read_timespec;
use super::{Args, SysResult};
use crate::fs::epoll::{self, EDGE, EXCLUSIVE, Epoll, EpollFile, Request, WAKEUP};
use crate::kernel::poll::Patience;
use crate::kernel::{Caps, Current, Events};
use crate::vfs::OpenFlags;

/// `struct epoll_event`, packed on x86-64.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, packed)]
struct EpollEvent {
    events: u32,
    data: u64,
}

/// epoll_create(2)
pub fn epoll_create(cur: &mut Current, args: &Args) -> SysResult {
    if args.int(0) <= 0 {
        return Err(Errno::EINVAL);
    }
    install(cur, epoll::new_epoll(cur.cred())?, OpenFlags::empty())
}

/// epoll_create1(2)
pub fn epoll_create1(cur: &mut Current, args: &Args) -> SysResult {
    let flags = OpenFlags::from_bits_retain(args.uint(0));
    if !OpenFlags::CLOEXEC.contains(flags) {
        return Err(Errno::EINVAL);
    }
    install(cur, epoll::new_epoll(cur.cred())?, flags)
}

/// epoll_ctl(2)
pub fn epoll_ctl(cur: &mut Current, args: &Args) -> SysResult {
    const ADD: i32 = 1;
    const DEL: i32 = 2;
    const MOD: i32 = 3;
    let (op, fd) = (args.int(1), args.int(2));
    let event = if op == DEL { None } else { Some(cur.mm.read_obj::<EpollEvent>(args.u64(3))?) };
    let epoll_file = cur.files.get(args.int(0))?;
    let file = cur.files.get(fd)?;
    if file.ops().wait_queue().is_none() {
        return Err(Errno::EPERM);
    }
    let epoll = epoll_file.downcast::<EpollFile>().ok_or(Errno::EINVAL)?.epoll();
    if Arc::ptr_eq(&epoll_file, &file) {
        return Err(Errno::EINVAL);
    }
    // Errors and hang-ups are always reported, until a one-shot entry has fired.
    let always = (Events::ERR | Events::HUP).bits();
    let mut request =
        event.map_or(Request::default(), |e| Request { events: e.events | always, data: e.data });
    if request.events & WAKEUP != 0 && !cur.cred().capable(Caps::BLOCK_SUSPEND) {
        request.events &= !WAKEUP;
    }
    if event.is_some() && request.events & EXCLUSIVE != 0 {
        let allowed = (Events::IN | Events::OUT | Events::ERR | Events::HUP).bits()
            | WAKEUP
            | EDGE
            | EXCLUSIVE;
        if op == MOD || file.downcast::<EpollFile>().is_some() || request.events & !allowed != 0 {
            return Err(Errno::EINVAL);
        }
    }
    match op {
        ADD => epoll.add(fd, &file, request, &cur.cred())?,
        MOD => epoll.modify(fd, &file, request)?,
        DEL => epoll.delete(fd, &file)?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// epoll_wait(2)
pub fn epoll_wait(cur: &mut Current, args: &Args) -> SysResult {
    wait(cur, args, patience_ms(args.int(3)))
}

/// epoll_pwait(2)
pub fn epoll_pwait(cur: &mut Current, args: &Args) -> SysResult {
    with_mask(cur, args.u64(4), args.size(5), |cur| wait(cur, args, patience_ms(args.int(3))))
}

/// epoll_pwait2(2)
pub fn epoll_pwait2(cur: &mut Current, args: &Args) -> SysResult {
    let timeout = args.u64(3);
    let ns = if timeout == 0 { None } else { Some(read_timespec(cur, timeout)?) };
    let patience = patience(ns);
    with_mask(cur, args.u64(4), args.size(5), |cur| wait(cur, args, patience))
}

/// The first three arguments are the same for all.
fn wait(cur: &mut Current, args: &Args, patience: Patience) -> SysResult {
    const SIZE: u64 = size_of::<EpollEvent>() as u64;
    let file = cur.files.get(args.int(0))?;
    let (addr, max) = (args.u64(1), args.int(2));
    let max =
        usize::try_from(max).ok().filter(|&m| m > 0 && m <= i32::MAX as usize / SIZE as usize);
    let max = max.ok_or(Errno::EINVAL)?;
    if addr
        .checked_add(max as u64 * SIZE)
        .is_none_or(|end| end > cur.kernel.platform.user_range().1)
    {
        return Err(Errno::EFAULT);
    }
    let epoll = file.downcast::<EpollFile>().ok_or(Errno::EINVAL)?.epoll();
    let collect = |cur: &Current| {
        epoll.collect(max, |i, events, data| {
            let event = EpollEvent { events: events.bits(), data };
            cur.mm.write_obj(addr + i as u64 * SIZE, &event)
        })
    };
    let count = collect(cur)?;
    if count > 0 || patience == Patience::None {
        epoll.pass_on();
        return Ok(count as u64);
    }
    let result = sleep(cur, epoll, patience, collect);
    epoll.pass_on();
    result
}

/// Sleeps until `collect` finds something. Its place in the queue is given up when it returns.
fn sleep(
    cur: &Current,
    epoll: &Epoll,
    patience: Patience,
    collect: impl Fn(&Current) -> Result<usize, Errno>,
) -> SysResult {
    let deadline = match patience {
        Patience::Until(at) => Some(at),
        Patience::None | Patience::Forever => None,
    };
    let _place = epoll.queue().register_exclusive(Events::IN, cur.sleeper.clone());
    let mut blocked = Ok(());
    loop {
        let count = collect(cur)?;
        match blocked {
            _ if count > 0 => return Ok(count as u64),
            Ok(()) => blocked = cur.block(deadline),
            Err(Errno::ETIMEDOUT) => return Ok(0),
            Err(_) => return Err(Errno::EINTR),
        }
    }
}
