//! The system calls of memory: mmap(2) and its kin.

use std::sync::Arc;

use abi::Errno;

use super::{Args, SysResult};
use crate::kernel::{Caps, Current};
use crate::mm::{FileMapping, MmLimits, MmapRequest};
use crate::vfs::{FileDescription, MountFlags, OpenFlags};

/// The caller's limits.
pub(crate) fn limits(cur: &Current) -> MmLimits {
    MmLimits {
        address_space: cur.group.rlimit(libc::RLIMIT_AS).soft,
        data: cur.group.rlimit(libc::RLIMIT_DATA).soft,
        stack: cur.group.rlimit(libc::RLIMIT_STACK).soft,
        memlock: cur.group.rlimit(libc::RLIMIT_MEMLOCK).soft,
        ipc_lock: cur.cred().capable(Caps::IPC_LOCK),
    }
}

/// What an open file allows to be mapped.
pub(crate) fn file_mapping(file: &Arc<FileDescription>) -> FileMapping {
    FileMapping {
        object: file.ops().mappable(),
        readable: file.flags().readable(),
        writable: file.flags().writable(),
        append_only: false,
        noexec: file.path().mount.flags().contains(MountFlags::NOEXEC),
        area: None,
        file: Some(file.clone()),
    }
}

/// mmap(2)
pub fn mmap(cur: &mut Current, args: &Args) -> SysResult {
    let flags = args.int(3);
    let offset = args.u64(5);
    if !offset.is_multiple_of(crate::mm::PAGE) {
        return Err(Errno::EINVAL);
    }
    let file = match flags & libc::MAP_ANONYMOUS {
        0 => {
            let file = cur.files.get(args.int(4))?;
            if file.flags().contains(OpenFlags::PATH) {
                return Err(Errno::EBADF);
            }
            Some(file_mapping(&file))
        }
        _ => None,
    };
    let request = MmapRequest {
        addr: args.u64(0),
        len: args.u64(1),
        prot: args.uint(2),
        flags: flags as u32,
        offset,
        file,
    };
    cur.mm.mmap(&request, &limits(cur))
}

/// munmap(2)
pub fn munmap(cur: &mut Current, args: &Args) -> SysResult {
    cur.mm.munmap(args.u64(0), args.u64(1)).map(|()| 0)
}

/// mprotect(2)
pub fn mprotect(cur: &mut Current, args: &Args) -> SysResult {
    cur.mm.mprotect(args.u64(0), args.u64(1), args.uint(2), &limits(cur)).map(|()| 0)
}

/// mremap(2)
pub fn mremap(cur: &mut Current, args: &Args) -> SysResult {
    let limits = limits(cur);
    cur.mm.mremap(args.u64(0), args.u64(1), args.u64(2), args.uint(3), args.u64(4), &limits)
}

/// brk(2)
pub fn brk(cur: &mut Current, args: &Args) -> SysResult {
    Ok(cur.mm.brk(args.u64(0), &limits(cur)))
}

/// madvise(2)
pub fn madvise(cur: &mut Current, args: &Args) -> SysResult {
    let sys_admin = cur.cred().capable(Caps::SYS_ADMIN);
    cur.mm.madvise(args.u64(0), args.u64(1), args.int(2), sys_admin).map(|()| 0)
}

/// mincore(2)
pub fn mincore(cur: &mut Current, args: &Args) -> SysResult {
    cur.mm.mincore(args.u64(0), args.u64(1), args.u64(2)).map(|()| 0)
}

/// msync(2)
pub fn msync(cur: &mut Current, args: &Args) -> SysResult {
    cur.mm.msync(args.u64(0), args.u64(1), args.int(2)).map(|()| 0)
}

/// mlock(2)
pub fn mlock(cur: &mut Current, args: &Args) -> SysResult {
    cur.mm.mlock(args.u64(0), args.u64(1), 0, &limits(cur)).map(|()| 0)
}

/// mlock2(2)
pub fn mlock2(cur: &mut Current, args: &Args) -> SysResult {
    cur.mm.mlock(args.u64(0), args.u64(1), args.uint(2), &limits(cur)).map(|()| 0)
}

/// munlock(2)
pub fn munlock(cur: &mut Current, args: &Args) -> SysResult {
    cur.mm.munlock(args.u64(0), args.u64(1)).map(|()| 0)
}

/// mlockall(2)
pub fn mlockall(cur: &mut Current, args: &Args) -> SysResult {
    cur.mm.mlockall(args.uint(0), &limits(cur)).map(|()| 0)
}

/// munlockall(2)
pub fn munlockall(cur: &mut Current, _: &Args) -> SysResult {
    cur.mm.munlockall();
    Ok(0)
}

/// pkey_mprotect(2) on a machine without protection keys.
pub fn pkey_mprotect(cur: &mut Current, args: &Args) -> SysResult {
    match args.int(3) {
        -1 => mprotect(cur, args),
        // No key was ever allocated.
        _ => Err(Errno::EINVAL),
    }
}

/// pkey_alloc(2) on a machine without protection keys: not `ENOSPC`, as the manual says, for x86's
/// `arch_set_user_pkey_access` finds that there are none only when a key was found.
pub fn pkey_alloc(_: &mut Current, _: &Args) -> SysResult {
    Err(Errno::EINVAL)
}

/// pkey_free(2) on a machine without protection keys.
pub fn pkey_free(_: &mut Current, _: &Args) -> SysResult {
    Err(Errno::EINVAL)
}
