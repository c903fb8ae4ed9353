//! fcntl(2) and flock(2).

use std::sync::Arc;

use abi::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Args, SysResult, user};
use crate::fs::pipe::PipeEnd;
use crate::fs::tmpfs::{OpenFile, seal};
use crate::kernel::Current;
use crate::vfs::file::FileOwner;
use crate::vfs::locks::{self, LockKind, Owner, RangeLock};
use crate::vfs::{FileDescription, OpenFlags, perm};

const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;
const F_SETOWN_EX: i32 = 15;
const F_GETOWN_EX: i32 = 16;
const F_DUPFD_QUERY: i32 = 1027;
const F_OWNER_PID: i32 = 1;
const F_OWNER_PGRP: i32 = 2;

/// `struct flock`
#[derive(FromBytes, IntoBytes, Immutable, Clone, Copy)]
#[repr(C)]
struct Flock {
    kind: i16,
    whence: i16,
    pad: u32,
    start: i64,
    len: i64,
    pid: i32,
    pad2: u32,
}

/// fcntl(2)
pub fn fcntl(cur: &mut Current, args: &Args) -> SysResult {
    let (fd, cmd, arg) = (args.int(0), args.int(1), args.u64(2));
    let file = cur.files.get_raw(fd)?;
    match cmd {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => {
            return duplicate(cur, file, arg as i32, cmd == libc::F_DUPFD_CLOEXEC);
        }
        libc::F_GETFD => return Ok(cur.files.get_with_flag(fd)?.1.into()),
        libc::F_SETFD => {
            return cur.files.set_cloexec(fd, arg as i32 & libc::FD_CLOEXEC != 0).map(|()| 0);
        }
        libc::F_GETFL => return Ok(file.flags().bits().into()),
        F_DUPFD_QUERY => {
            let other = cur.files.get_raw(arg as i32)?;
            return Ok(Arc::ptr_eq(&file, &other).into());
        }
        _ if file.flags().contains(OpenFlags::PATH) => return Err(Errno::EBADF),
        _ => {}
    }
    match cmd {
        libc::F_SETFL => set_status(cur, fd, &file, OpenFlags::from_bits_retain(arg as u32)),
        libc::F_GETLK => get_lock(cur, &file, arg, false),
        libc::F_SETLK => set_lock(cur, fd, &file, arg, false, false),
        libc::F_SETLKW => set_lock(cur, fd, &file, arg, true, false),
        libc::F_OFD_GETLK => get_lock(cur, &file, arg, true),
        libc::F_OFD_SETLK => set_lock(cur, fd, &file, arg, false, true),
        libc::F_OFD_SETLKW => set_lock(cur, fd, &file, arg, true, true),
        libc::F_SETOWN => set_owner(cur, &file, arg as i32),
        libc::F_GETOWN => {
            let owner = *file.owner().lock();
            let id = if owner.kind == F_OWNER_PGRP { -owner.id } else { owner.id };
            Ok(id as i64 as u64)
        }
        F_SETOWN_EX => set_owner_ex(cur, &file, arg),
        F_GETOWN_EX => {
            let owner = *file.owner().lock();
            cur.mm.write_obj(arg, &[owner.kind, owner.id])?;
            Ok(0)
        }
        F_SETSIG => {
            let signal = arg as i32;
            if !(0..=64).contains(&signal) {
                return Err(Errno::EINVAL);
            }
            file.owner().lock().signal = signal;
            Ok(0)
        }
        F_GETSIG => Ok(file.owner().lock().signal as u64),
        libc::F_GETPIPE_SZ => {
            let end = file.downcast::<PipeEnd>().ok_or(Errno::EBADF)?;
            Ok(end.pipe().capacity() as u64)
        }
        libc::F_SETPIPE_SZ => {
            let end = file.downcast::<PipeEnd>().ok_or(Errno::EBADF)?;
            let size = u32::try_from(arg).map_err(|_| Errno::EINVAL)?;
            end.pipe().set_capacity(size, &cur.cred()).map(|n| n as u64)
        }
        libc::F_GET_SEALS => {
            let seals = file.downcast::<OpenFile>().ok_or(Errno::EINVAL)?.seals()?;
            Ok(seals.into())
        }
        libc::F_ADD_SEALS => add_seals(&file, arg as u32),
        // No leases, no notification: as a file system that has none.
        libc::F_SETLEASE | libc::F_GETLEASE | libc::F_NOTIFY => Err(Errno::EINVAL),
        _ => Err(Errno::EINVAL),
    }
}

fn duplicate(cur: &Current, file: Arc<FileDescription>, min: i32, cloexec: bool) -> SysResult {
    let limit = cur.group.nofile();
    if min < 0 || min as u64 >= limit {
        return Err(Errno::EINVAL);
    }
    cur.files.install(file, cloexec, min, limit).map(|fd| fd as u64)
}

fn set_status(cur: &Current, fd: i32, file: &Arc<FileDescription>, flags: OpenFlags) -> SysResult {
    let gains_noatime =
        flags.contains(OpenFlags::NOATIME) && !file.flags().contains(OpenFlags::NOATIME);
    if gains_noatime && !perm::owner_or_capable(&cur.cred(), &file.inode()?.attr()?) {
        return Err(Errno::EPERM);
    }
    file.set_flags(&cur.kernel, fd, flags);
    Ok(0)
}

fn set_owner(cur: &Current, file: &FileDescription, who: i32) -> SysResult {
    let (kind, id) = match who {
        i32::MIN => return Err(Errno::EINVAL),
        who if who < 0 => (F_OWNER_PGRP, -who),
        who => (F_OWNER_PID, who),
    };
    name_owner(cur, file, kind, id)
}

fn name_owner(cur: &Current, file: &FileDescription, kind: i32, id: i32) -> SysResult {
    check_owner(cur, kind, id)?;
    let cred = cur.cred();
    let mut owner = file.owner().lock();
    *owner = FileOwner { kind, id, uid: cred.uid, euid: cred.euid, ..*owner };
    Ok(0)
}

/// `ESRCH` if there is nobody of this number (`f_setown`, `f_setown_ex`).
fn check_owner(cur: &Current, kind: i32, id: i32) -> Result<(), Errno> {
    let tasks = &cur.kernel.tasks;
    let there = match kind {
        F_OWNER_PGRP => tasks.pgrp(id).is_some(),
        _ => tasks.get(id).is_some(),
    };
    if id == 0 || there { Ok(()) } else { Err(Errno::ESRCH) }
}

fn set_owner_ex(cur: &Current, file: &FileDescription, addr: u64) -> SysResult {
    let [kind, id] = cur.mm.read_obj::<[i32; 2]>(addr)?;
    if !(0..=F_OWNER_PGRP).contains(&kind) {
        return Err(Errno::EINVAL);
    }
    name_owner(cur, file, kind, id)
}

fn add_seals(file: &FileDescription, seals: u32) -> SysResult {
    const ALL: u32 =
        seal::SEAL | seal::SHRINK | seal::GROW | seal::WRITE | seal::FUTURE_WRITE | seal::EXEC;
    let ops = file.downcast::<OpenFile>().ok_or(Errno::EINVAL)?;
    if seals & !ALL != 0 {
        return Err(Errno::EINVAL);
    }
    if !file.flags().writable() {
        return Err(Errno::EPERM);
    }
    ops.add_seals(seals)?;
    Ok(0)
}

/// The bytes that a `struct flock` means, the last one included (`flock_to_posix_lock`).
fn range_of(file: &FileDescription, flock: &Flock) -> Result<(u64, u64), Errno> {
    let base = match i32::from(flock.whence) {
        libc::SEEK_SET => 0,
        libc::SEEK_CUR => *file.pos().lock() as i64,
        libc::SEEK_END => file.attr()?.size as i64,
        _ => return Err(Errno::EINVAL),
    };
    let start = base.checked_add(flock.start).ok_or(Errno::EOVERFLOW)?;
    let (start, end) = match flock.len {
        0 => (start, i64::MAX),
        len if len > 0 => (start, start.checked_add(len - 1).ok_or(Errno::EOVERFLOW)?),
        len => (start.checked_add(len).ok_or(Errno::EINVAL)?, start - 1),
    };
    if start < 0 || end < 0 {
        return Err(Errno::EINVAL);
    }
    Ok((start as u64, end as u64))
}

fn kind_of(flock: &Flock) -> Result<Option<LockKind>, Errno> {
    match i32::from(flock.kind) {
        libc::F_RDLCK => Ok(Some(LockKind::Shared)),
        libc::F_WRLCK => Ok(Some(LockKind::Exclusive)),
        libc::F_UNLCK => Ok(None),
        _ => Err(Errno::EINVAL),
    }
}

fn owner_of(cur: &Current, file: &FileDescription, ofd: bool) -> (Owner, i32) {
    if ofd { (file.lock_owner(), -1) } else { (Owner::Files(cur.files.id()), cur.group.tgid) }
}

fn get_lock(cur: &Current, file: &FileDescription, addr: u64, ofd: bool) -> SysResult {
    let mut flock: Flock = cur.mm.read_obj(addr)?;
    let kind = match kind_of(&flock)? {
        Some(kind) => kind,
        None => return Err(Errno::EINVAL),
    };
    if ofd && flock.pid != 0 {
        return Err(Errno::EINVAL);
    }
    let (start, end) = range_of(file, &flock)?;
    let (owner, pid) = owner_of(cur, file, ofd);
    let lock = RangeLock { start, end, kind, owner, pid };
    match locks::test_range(file.inode()?.key(), &lock) {
        None => flock.kind = libc::F_UNLCK as i16,
        Some(held) => {
            let exclusive = held.kind == LockKind::Exclusive;
            flock.kind = if exclusive { libc::F_WRLCK } else { libc::F_RDLCK } as i16;
            flock.whence = libc::SEEK_SET as i16;
            flock.start = held.start as i64;
            let open_end = held.end >= i64::MAX as u64;
            flock.len = if open_end { 0 } else { (held.end - held.start + 1) as i64 };
            flock.pid = held.pid;
        }
    }
    cur.mm.write_obj(addr, &flock)?;
    Ok(0)
}

fn set_lock(
    cur: &Current,
    fd: i32,
    file: &Arc<FileDescription>,
    addr: u64,
    wait: bool,
    ofd: bool,
) -> SysResult {
    let flock: Flock = cur.mm.read_obj(addr)?;
    let (start, end) = range_of(file, &flock)?;
    if ofd && flock.pid != 0 {
        return Err(Errno::EINVAL);
    }
    let (owner, pid) = owner_of(cur, file, ofd);
    let key = file.inode()?.key();
    let Some(kind) = kind_of(&flock)? else {
        locks::unlock_range(key, owner, start, end)?;
        return Ok(0);
    };
    let allowed = match kind {
        LockKind::Shared => file.flags().readable(),
        LockKind::Exclusive => file.flags().writable(),
    };
    if !allowed {
        return Err(Errno::EBADF);
    }
    locks::set_range(cur, key, RangeLock { start, end, kind, owner, pid }, wait)?;
    // Another thread may have closed the descriptor meanwhile; its locks went then, so must this.
    if !ofd && !cur.files.get_raw(fd).is_ok_and(|f| Arc::ptr_eq(&f, file)) {
        // It has no others there that this could cut in two.
        let _ = locks::unlock_range(key, owner, start, end);
        return Err(Errno::EBADF);
    }
    Ok(0)
}

/// flock(2)
pub fn flock(cur: &mut Current, args: &Args) -> SysResult {
    let operation = args.int(1);
    let kind = match operation & !libc::LOCK_NB {
        libc::LOCK_SH => Some(LockKind::Shared),
        libc::LOCK_EX => Some(LockKind::Exclusive),
        libc::LOCK_UN => None,
        _ => return Err(Errno::EINVAL),
    };
    let file = cur.files.get(args.int(0))?;
    let key = file.inode()?.key();
    let owner = file.lock_owner();
    match kind {
        None => locks::funlock(key, owner),
        Some(kind) => locks::flock(cur, key, owner, kind, operation & libc::LOCK_NB == 0)?,
    }
    Ok(0)
}

/// memfd_create(2)
pub fn memfd_create(cur: &mut Current, args: &Args) -> SysResult {
    const CLOEXEC: u32 = 1;
    const ALLOW_SEALING: u32 = 2;
    const HUGETLB: u32 = 4;
    const NOEXEC_SEAL: u32 = 8;
    const EXEC: u32 = 16;
    /// Longest name, with its NUL.
    const NAME_LEN: usize = 250;
    let flags = args.uint(1);
    if flags & HUGETLB != 0 {
        // No huge pages here, as on a kernel without hugetlbfs.
        return Err(Errno::ENOSYS);
    }
    if flags & !(CLOEXEC | ALLOW_SEALING | NOEXEC_SEAL | EXEC) != 0
        || flags & (NOEXEC_SEAL | EXEC) == NOEXEC_SEAL | EXEC
    {
        return Err(Errno::EINVAL);
    }
    let name = match cur.mm.copy_in_cstr(args.u64(0), NAME_LEN) {
        Err(Errno::ENAMETOOLONG) => return Err(Errno::EINVAL),
        name => name?,
    };
    let file = cur.kernel.memfds.create(
        &cur.kernel.memory,
        &name,
        flags & ALLOW_SEALING != 0,
        flags & NOEXEC_SEAL != 0,
        &cur.cred(),
    )?;
    user::install(cur, file, flags & CLOEXEC != 0)
}
