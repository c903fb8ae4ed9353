//! The system calls of credentials (credentials(7), capabilities(7)).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;

use super::{Args, SysResult};
use crate::kernel::cred_set;
use crate::kernel::{Caps, Credentials, Current, Groups, Task};

/// Most supplementary groups.
const NGROUPS_MAX: usize = 65536;

/// Makes new credentials the caller's (`commit_creds`).
pub(super) fn commit(cur: &Current, new: Credentials) {
    let old = cur.cred();
    let changed = old.euid != new.euid
        || old.egid != new.egid
        || old.fsuid != new.fsuid
        || old.fsgid != new.fsgid
        || !old.permitted.contains(new.permitted);
    if changed {
        cur.group.set_dumpable(0);
        cur.task.clear_pdeath_signal();
    }
    let new_user = old.uid != new.uid;
    cur.task.set_cred(Arc::new(new));
    if new_user {
        cur.task.note_nproc();
    }
}

/// Whether the caller may look into another task (`ptrace_may_access`, with real ids).
pub fn may_access(cur: &Current, target: &Task) -> bool {
    if Arc::ptr_eq(&cur.group, &target.group) {
        return true;
    }
    let (own, theirs) = (cur.cred(), target.cred());
    if own.capable(Caps::SYS_PTRACE) {
        return true;
    }
    let same = [theirs.euid, theirs.suid, theirs.uid].iter().all(|&id| id == own.uid)
        && [theirs.egid, theirs.sgid, theirs.gid].iter().all(|&id| id == own.gid);
    same && target.group.dumpable() == 1 && own.permitted.contains(theirs.permitted)
}

/// getuid(2)
pub fn getuid(cur: &mut Current, _: &Args) -> SysResult {
    Ok(cur.cred().uid as u64)
}

/// geteuid(2)
pub fn geteuid(cur: &mut Current, _: &Args) -> SysResult {
    Ok(cur.cred().euid as u64)
}

/// getgid(2)
pub fn getgid(cur: &mut Current, _: &Args) -> SysResult {
    Ok(cur.cred().gid as u64)
}

/// getegid(2)
pub fn getegid(cur: &mut Current, _: &Args) -> SysResult {
    Ok(cur.cred().egid as u64)
}

/// getresuid(2)
pub fn getresuid(cur: &mut Current, args: &Args) -> SysResult {
    let cred = cur.cred();
    for (n, id) in [cred.uid, cred.euid, cred.suid].iter().enumerate() {
        cur.mm.write_obj(args.u64(n), id)?;
    }
    Ok(0)
}

/// getresgid(2)
pub fn getresgid(cur: &mut Current, args: &Args) -> SysResult {
    let cred = cur.cred();
    for (n, id) in [cred.gid, cred.egid, cred.sgid].iter().enumerate() {
        cur.mm.write_obj(args.u64(n), id)?;
    }
    Ok(0)
}

/// setuid(2)
pub fn setuid(cur: &mut Current, args: &Args) -> SysResult {
    commit(cur, cred_set::setuid(&cur.cred(), args.uint(0))?);
    Ok(0)
}

/// setgid(2)
pub fn setgid(cur: &mut Current, args: &Args) -> SysResult {
    commit(cur, cred_set::setgid(&cur.cred(), args.uint(0))?);
    Ok(0)
}

/// setreuid(2)
pub fn setreuid(cur: &mut Current, args: &Args) -> SysResult {
    commit(cur, cred_set::setreuid(&cur.cred(), args.uint(0), args.uint(1))?);
    Ok(0)
}

/// setregid(2)
pub fn setregid(cur: &mut Current, args: &Args) -> SysResult {
    commit(cur, cred_set::setregid(&cur.cred(), args.uint(0), args.uint(1))?);
    Ok(0)
}

/// setresuid(2)
pub fn setresuid(cur: &mut Current, args: &Args) -> SysResult {
    let new = cred_set::setresuid(&cur.cred(), args.uint(0), args.uint(1), args.uint(2))?;
    commit(cur, new);
    Ok(0)
}

/// setresgid(2)
pub fn setresgid(cur: &mut Current, args: &Args) -> SysResult {
    let new = cred_set::setresgid(&cur.cred(), args.uint(0), args.uint(1), args.uint(2))?;
    commit(cur, new);
    Ok(0)
}

/// setfsuid(2): always the old id.
pub fn setfsuid(cur: &mut Current, args: &Args) -> SysResult {
    let old = cur.cred();
    if let Some(new) = cred_set::setfsuid(&old, args.uint(0)) {
        commit(cur, new);
    }
    Ok(old.fsuid as u64)
}

/// setfsgid(2): always the old id.
pub fn setfsgid(cur: &mut Current, args: &Args) -> SysResult {
    let old = cur.cred();
    if let Some(new) = cred_set::setfsgid(&old, args.uint(0)) {
        commit(cur, new);
    }
    Ok(old.fsgid as u64)
}

/// getgroups(2)
pub fn getgroups(cur: &mut Current, args: &Args) -> SysResult {
    let size = usize::try_from(args.int(0)).map_err(|_| Errno::EINVAL)?;
    let groups = cur.cred().groups.clone();
    if size > 0 {
        if groups.len() > size {
            return Err(Errno::EINVAL);
        }
        let bytes: Vec<u8> = groups.iter().flat_map(|g| g.to_le_bytes()).collect();
        cur.mm.write_bytes(args.u64(1), &bytes)?;
    }
    Ok(groups.len() as u64)
}

/// setgroups(2)
pub fn setgroups(cur: &mut Current, args: &Args) -> SysResult {
    let cred = cur.cred();
    if !cred.capable(Caps::SETGID) {
        return Err(Errno::EPERM);
    }
    let count = args.uint(0) as usize;
    if count > NGROUPS_MAX {
        return Err(Errno::EINVAL);
    }
    let mut bytes = vec![0; count * 4];
    cur.mm.read_bytes(args.u64(1), &mut bytes)?;
    let mut groups: Vec<u32> =
        bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    if groups.contains(&u32::MAX) {
        return Err(Errno::EINVAL);
    }
    groups.sort_unstable();
    commit(cur, Credentials { groups: Groups::new(groups)?, ..(*cred).clone() });
    Ok(0)
}

/// How many 32-bit words of each set a version of the interface has.
fn cap_words(version: u32) -> Option<usize> {
    match version {
        0x1998_0330 => Some(1),
        0x2007_1026 | 0x2008_0522 => Some(2),
        _ => None,
    }
}

/// `_LINUX_CAPABILITY_VERSION_3`
const CAP_VERSION: u32 = 0x2008_0522;

/// capget(2)
pub fn capget(cur: &mut Current, args: &Args) -> SysResult {
    let [version, pid]: [u32; 2] = cur.mm.read_obj(args.u64(0))?;
    let (pid, data) = (pid as i32, args.u64(1));
    let Some(words) = cap_words(version) else {
        cur.mm.write_obj(args.u64(0), &CAP_VERSION)?;
        return if data == 0 { Ok(0) } else { Err(Errno::EINVAL) };
    };
    if pid < 0 {
        return Err(Errno::EINVAL);
    }
    let cred = match pid {
        0 => cur.cred(),
        pid => cur.kernel.tasks.get(pid).ok_or(Errno::ESRCH)?.cred(),
    };
    if data == 0 {
        return Ok(0);
    }
    let sets = [cred.effective, cred.permitted, cred.inheritable];
    let mut out = [0u32; 6];
    for n in 0..words {
        for (slot, set) in out[n * 3..n * 3 + 3].iter_mut().zip(sets) {
            *slot = (set.bits() >> (32 * n)) as u32;
        }
    }
    cur.mm.write_obj(data, &out[..words * 3])?;
    Ok(0)
}

/// capset(2)
pub fn capset(cur: &mut Current, args: &Args) -> SysResult {
    let [version, pid]: [u32; 2] = cur.mm.read_obj(args.u64(0))?;
    let Some(words) = cap_words(version) else {
        cur.mm.write_obj(args.u64(0), &CAP_VERSION)?;
        return Err(Errno::EINVAL);
    };
    if pid != 0 && pid as i32 != cur.tid() {
        return Err(Errno::EPERM);
    }
    let mut bytes = vec![0; words * 12];
    cur.mm.read_bytes(args.u64(1), &mut bytes)?;
    let word = |n: usize| {
        bytes.get(n * 4..n * 4 + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
    };
    let set = |n: usize| {
        let high = if words == 2 { word(3 + n) } else { 0 };
        Caps::from_bits_truncate(word(n) as u64 | (high as u64) << 32)
    };
    let new = cred_set::capset(&cur.cred(), set(0), set(1), set(2))?;
    commit(cur, new);
    Ok(0)
}

/// personality(2)
pub fn personality(cur: &mut Current, args: &Args) -> SysResult {
    let old = cur.personality.load(Ordering::Relaxed);
    if args.uint(0) != u32::MAX {
        cur.personality.store(args.uint(0), Ordering::Relaxed);
    }
    Ok(old as u64)
}
