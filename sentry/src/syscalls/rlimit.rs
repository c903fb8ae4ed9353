//! Resource limits and what was used of resources.

use std::sync::Arc;

use abi::Errno;

use super::{Args, SysResult};
use crate::kernel::cpu_clock::CpuTimes;
use crate::kernel::rusage::Usage;
use crate::kernel::thread_group::{RLIM_NLIMITS, Rlimit};
use crate::kernel::{Caps, Current, ThreadGroup, time};

/// `fs.nr_open`: what RLIMIT_NOFILE cannot go beyond.
const NR_OPEN: u64 = 1 << 20;

fn check_resource(resource: u32) -> Result<(), Errno> {
    if (resource as usize) < RLIM_NLIMITS { Ok(()) } else { Err(Errno::EINVAL) }
}

fn read_limit(cur: &Current, at: u64) -> Result<Rlimit, Errno> {
    let [soft, hard]: [u64; 2] = cur.mm.read_obj(at)?;
    Ok(Rlimit { soft, hard })
}

/// `do_prlimit`; returns the old limit.
fn change(
    cur: &Current,
    group: &Arc<ThreadGroup>,
    resource: u32,
    new: Option<Rlimit>,
) -> Result<Rlimit, Errno> {
    check_resource(resource)?;
    let Some(mut new) = new else { return Ok(group.rlimit(resource)) };
    if new.soft > new.hard {
        return Err(Errno::EINVAL);
    }
    if resource == libc::RLIMIT_NOFILE && new.hard > NR_OPEN {
        return Err(Errno::EPERM);
    }
    if resource == libc::RLIMIT_CPU && new.soft == 0 {
        // Zero is "now", which is what one second comes to.
        new.soft = 1;
    }
    let capable = cur.cred().capable(Caps::SYS_RESOURCE);
    let old = group
        .change_rlimit(resource, |limit| {
            if new.hard > limit.hard && !capable {
                return Err(Errno::EPERM);
            }
            Ok(std::mem::replace(limit, new))
        })
        .ok_or(Errno::EINVAL)??;
    if resource == libc::RLIMIT_CPU {
        group.watch_cpu_limit(&cur.kernel);
    }
    if resource == libc::RLIMIT_STACK
        && let Some(mm) = group.leader().and_then(|l| l.mm())
    {
        mm.set_stack_limit(new.soft);
    }
    Ok(old)
}

/// getrlimit(2)
pub fn getrlimit(cur: &mut Current, args: &Args) -> SysResult {
    let limit = change(cur, &cur.group, args.uint(0), None)?;
    cur.mm.write_obj(args.u64(1), &[limit.soft, limit.hard])?;
    Ok(0)
}

/// setrlimit(2)
pub fn setrlimit(cur: &mut Current, args: &Args) -> SysResult {
    let new = read_limit(cur, args.u64(1))?;
    change(cur, &cur.group, args.uint(0), Some(new))?;
    Ok(0)
}

/// prlimit64(2)
pub fn prlimit64(cur: &mut Current, args: &Args) -> SysResult {
    let new = match args.u64(2) {
        0 => None,
        at => Some(read_limit(cur, at)?),
    };
    let task = match args.int(0) {
        0 => cur.task.clone(),
        pid => cur.kernel.tasks.get(pid).ok_or(Errno::ESRCH)?,
    };
    if !Arc::ptr_eq(&task, &cur.task) {
        let (own, theirs) = (cur.cred(), task.cred());
        let same = [theirs.euid, theirs.suid, theirs.uid].iter().all(|&id| id == own.uid)
            && [theirs.egid, theirs.sgid, theirs.gid].iter().all(|&id| id == own.gid);
        if !same && !own.capable(Caps::SYS_RESOURCE) {
            return Err(Errno::EPERM);
        }
    }
    let old = change(cur, &task.group, args.uint(1), new)?;
    if args.u64(3) != 0 {
        cur.mm.write_obj(args.u64(3), &[old.soft, old.hard])?;
    }
    Ok(0)
}

/// getrusage(2)
pub fn getrusage(cur: &mut Current, args: &Args) -> SysResult {
    let own = |cpu: CpuTimes| Usage { cpu, max_rss: cur.group.max_rss(), ..Usage::default() };
    let usage = match args.int(0) {
        libc::RUSAGE_SELF => own(cur.group.cpu_times()),
        libc::RUSAGE_THREAD => own(cur.cpu.times()),
        libc::RUSAGE_CHILDREN => *cur.group.children_usage.lock(),
        _ => return Err(Errno::EINVAL),
    };
    cur.mm.write_obj(args.u64(1), &usage.to_user())?;
    Ok(0)
}

/// times(2)
pub fn times(cur: &mut Current, args: &Args) -> SysResult {
    if args.u64(0) != 0 {
        let own = cur.group.cpu_times().shown();
        let children = cur.group.children_usage.lock().cpu.shown();
        let out = [own.user, own.system, children.user, children.system].map(time::clock_t);
        cur.mm.write_obj(args.u64(0), &out)?;
    }
    Ok(time::clock_t(cur.kernel.host.uptime_ns()))
}
