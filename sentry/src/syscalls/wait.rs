//! wait4(2) and waitid(2).

use abi::Errno;

use super::{Args, SysResult};
use crate::kernel::reap::{self, WaitOptions, Which};
use crate::kernel::signal::SigInfo;
use crate::kernel::{Current, pidfd};

/// wait4(2)
pub fn wait4(cur: &mut Current, args: &Args) -> SysResult {
    let allowed = WaitOptions::NOHANG
        | WaitOptions::STOPPED
        | WaitOptions::CONTINUED
        | WaitOptions::NOTHREAD
        | WaitOptions::CLONE
        | WaitOptions::ALL;
    let options = WaitOptions::from_bits(args.uint(2)).ok_or(Errno::EINVAL)?;
    if !allowed.contains(options) {
        return Err(Errno::EINVAL);
    }
    let which = match args.int(0) {
        i32::MIN => return Err(Errno::ESRCH),
        -1 => Which::Any,
        0 => Which::Group(cur.group.pgid()),
        pid if pid < 0 => Which::Group(-pid),
        pid => Which::Process(pid),
    };
    let Some(waited) = reap::wait(cur, &which, options | WaitOptions::EXITED)? else {
        return Ok(0);
    };
    if args.u64(1) != 0 {
        cur.mm.write_obj(args.u64(1), &waited.wstatus)?;
    }
    if args.u64(3) != 0 {
        cur.mm.write_obj(args.u64(3), &waited.usage.to_user())?;
    }
    Ok(waited.pid as u64)
}

/// waitid(2)
pub fn waitid(cur: &mut Current, args: &Args) -> SysResult {
    const P_ALL: i32 = 0;
    const P_PID: i32 = 1;
    const P_PGID: i32 = 2;
    const P_PIDFD: i32 = 3;
    let what = WaitOptions::EXITED | WaitOptions::STOPPED | WaitOptions::CONTINUED;
    let options = WaitOptions::from_bits(args.uint(3)).ok_or(Errno::EINVAL)?;
    if !options.intersects(what) {
        return Err(Errno::EINVAL);
    }
    let id = args.int(1);
    let which = match args.int(0) {
        P_ALL => Which::Any,
        P_PID if id > 0 => Which::Process(id),
        P_PGID if id > 0 => Which::Group(id),
        P_PGID if id == 0 => Which::Group(cur.group.pgid()),
        P_PIDFD if id >= 0 => {
            let (group, nonblocking) = pidfd::get(cur, id)?;
            Which::Pidfd(group, nonblocking)
        }
        _ => return Err(Errno::EINVAL),
    };
    let result = reap::wait(cur, &which, options);
    let waited = result.as_ref().ok().copied().flatten();
    if let Some(waited) = &waited
        && args.u64(4) != 0
    {
        cur.mm.write_obj(args.u64(4), &waited.usage.to_user())?;
    }
    if args.u64(2) != 0 {
        // Linux writes these fields whatever came out, and nothing beyond them.
        let info = waited
            .map_or(SigInfo::default(), |w| SigInfo::child(w.code, w.pid, w.uid, w.status, 0, 0));
        cur.mm.write_bytes(args.u64(2), &info.to_user()[..28])?;
    }
    result.map(|_| 0)
}
