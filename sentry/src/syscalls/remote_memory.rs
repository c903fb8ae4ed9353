//! Memory of other processes, and barriers: process_vm_readv(2), process_vm_writev(2),
//! membarrier(2).

use std::sync::Arc;

use abi::Errno;
use smallvec::SmallVec;

use super::user;
use super::{Args, SysResult};
use crate::kernel::{Caps, Current, Task};
use crate::mm::{MemoryManager, global_barrier};
use crate::vfs::io::UserRange;
use crate::vfs::{IoDst, IoSrc};

/// Bytes that are copied at a time.
const CHUNK: usize = 64 << 10;
/// `UIO_MAXIOV`.
const MAX_IOV: usize = 1024;

/// `ptrace_may_access` with `PTRACE_MODE_ATTACH_REALCREDS`.
fn may_attach(cur: &Current, task: &Task) -> bool {
    if cur.group.tgid == task.group.tgid {
        return true;
    }
    let (own, other) = (cur.cred(), task.cred());
    let same = [other.uid, other.euid, other.suid].iter().all(|id| *id == own.uid)
        && [other.gid, other.egid, other.sgid].iter().all(|id| *id == own.gid)
        && own.permitted.contains(other.permitted)
        && task.group.dumpable() == 1;
    same || own.capable(Caps::SYS_PTRACE)
}

/// The memory of process `pid`. `ESRCH`, `EPERM`.
fn memory_of(cur: &Current, pid: i32) -> Result<Arc<MemoryManager>, Errno> {
    let task = cur.kernel.tasks.get(pid).ok_or(Errno::ESRCH)?;
    let mm = task.mm().ok_or(Errno::ESRCH)?;
    if may_attach(cur, &task) { Ok(mm) } else { Err(Errno::EPERM) }
}

fn iovec(cur: &Current, addr: u64, count: usize) -> Result<SmallVec<[UserRange; 4]>, Errno> {
    if count > MAX_IOV {
        return Err(Errno::EINVAL);
    }
    user::iovec(cur, addr, count as i32)
}

/// Copies between the caller's ranges and those of another process, in order, until either ends or
/// faults. `EFAULT` if not a byte was copied.
fn process_vm(cur: &mut Current, args: &Args, write: bool) -> SysResult {
    if args.u64(5) != 0 {
        return Err(Errno::EINVAL);
    }
    let local = iovec(cur, args.u64(1), args.size(2))?;
    if local.iter().all(|(_, len)| *len == 0) {
        return Ok(0);
    }
    let remote = iovec(cur, args.u64(3), args.size(4))?;
    if remote.iter().all(|(_, len)| *len == 0) {
        return Ok(0);
    }
    let other = memory_of(cur, args.int(0))?;
    let own = cur.mm.clone();
    let mut dst = IoDst::user(&own, local.iter().copied());
    let mut src = IoSrc::user(&own, local.iter().copied());
    let mut buf = vec![0; CHUNK];
    let mut total = 0;
    'ranges: for (addr, len) in remote {
        let mut done = 0;
        while done < len {
            let left = if write { src.remaining() } else { dst.remaining() };
            let want = (len - done).min(left).min(CHUNK);
            let Some(part) = buf.get_mut(..want).filter(|part| !part.is_empty()) else {
                break 'ranges;
            };
            let at = addr.saturating_add(done as u64);
            let copied = if write {
                let got = src.read(part).unwrap_or(0);
                other.write_remote(at, part.get(..got).unwrap_or_default(), false)
            } else {
                let got = other.read_remote(at, part, false);
                dst.write(part.get(..got).unwrap_or_default()).unwrap_or(0)
            };
            done += copied;
            total += copied as u64;
            if copied < want {
                break 'ranges;
            }
        }
    }
    if total == 0 { Err(Errno::EFAULT) } else { Ok(total) }
}

/// process_vm_readv(2)
pub fn process_vm_readv(cur: &mut Current, args: &Args) -> SysResult {
    process_vm(cur, args, false)
}

/// process_vm_writev(2)
pub fn process_vm_writev(cur: &mut Current, args: &Args) -> SysResult {
    process_vm(cur, args, true)
}

/// membarrier(2): the barrier across all threads. The expedited commands are those of later
/// kernels: `MEMBARRIER_CMD_QUERY` says that they are not there.
pub fn membarrier(_: &mut Current, args: &Args) -> SysResult {
    const QUERY: i32 = 0;
    const GLOBAL: i32 = 1;
    if args.uint(1) != 0 {
        return Err(Errno::EINVAL);
    }
    match args.int(0) {
        QUERY => Ok(GLOBAL as u64),
        GLOBAL => global_barrier().map(|()| 0),
        _ => Err(Errno::EINVAL),
    }
}
