//! Decoding what file system calls share: paths, buffers, vectors, descriptors.

use std::sync::Arc;

use abi::Errno;
use smallvec::SmallVec;

use crate::kernel::Current;
use crate::mm::TASK_SIZE;
use crate::vfs::io::UserRange;
use crate::vfs::{FileDescription, LookupFlags, OpenFlags, PATH_MAX, Path, namei};

/// The most that one call transfers (`MAX_RW_COUNT`).
pub(super) const MAX_RW: usize = 0x7fff_f000;
/// The most pieces of a vector (`UIO_MAXIOV`).
const MAX_IOV: i32 = 1024;

/// A path argument. `EFAULT`, `ENAMETOOLONG`.
pub(super) fn path(cur: &Current, addr: u64) -> Result<Vec<u8>, Errno> {
    cur.mm.copy_in_cstr(addr, PATH_MAX)
}

/// A buffer argument: cut to what one call transfers, `EFAULT` if it cannot be user memory.
pub(super) fn buffer(addr: u64, len: usize) -> Result<UserRange, Errno> {
    match addr.checked_add(len as u64) {
        Some(end) if end <= TASK_SIZE => Ok((addr, len.min(MAX_RW))),
        _ => Err(Errno::EFAULT),
    }
}

/// An iovec array. `EINVAL` for a bad count or length.
pub(super) fn iovec(
    cur: &Current,
    addr: u64,
    count: i32,
) -> Result<SmallVec<[UserRange; 4]>, Errno> {
    if !(0..=MAX_IOV).contains(&count) {
        return Err(Errno::EINVAL);
    }
    let raw = cur.mm.read_array::<[u64; 2]>(addr, count as usize)?;
    let mut left = MAX_RW;
    let mut ranges = SmallVec::with_capacity(raw.len());
    for [base, len] in raw {
        if len > i64::MAX as u64 {
            return Err(Errno::EINVAL);
        }
        let (base, len) = buffer(base, len as usize)?;
        let len = len.min(left);
        left -= len;
        ranges.push((base, len));
    }
    Ok(ranges)
}

/// Resolves a path argument.
pub(super) fn lookup(
    cur: &Current,
    dirfd: i32,
    addr: u64,
    flags: LookupFlags,
) -> Result<Path, Errno> {
    let path = path(cur, addr)?;
    namei::lookup(cur, dirfd, &path, flags)
}

/// Checks `AT_*` flags and turns the usual ones into lookup flags; links are followed unless
/// `AT_SYMLINK_NOFOLLOW`.
pub(super) fn at_flags(flags: i32, allowed: i32) -> Result<LookupFlags, Errno> {
    if flags & !allowed != 0 {
        return Err(Errno::EINVAL);
    }
    let mut lookup = LookupFlags::empty();
    lookup.set(LookupFlags::FOLLOW, flags & libc::AT_SYMLINK_NOFOLLOW == 0);
    lookup.set(LookupFlags::EMPTY, flags & libc::AT_EMPTY_PATH != 0);
    Ok(lookup)
}

/// Installs a file at the lowest free descriptor.
pub(super) fn install(
    cur: &Current,
    file: Arc<FileDescription>,
    cloexec: bool,
) -> super::SysResult {
    cur.files.install(file, cloexec, 0, cur.group.nofile()).map(|fd| fd as u64)
}

/// Whether open flags ask for close-on-exec.
pub(super) fn cloexec(flags: OpenFlags) -> bool {
    flags.contains(OpenFlags::CLOEXEC)
}
