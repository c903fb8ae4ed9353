//! Attributes: chmod, chown, utimensat, truncate, fallocate.

use std::sync::Arc;

use abi::Errno;

use super::{Args, SysResult, user};
use crate::kernel::signal::SigInfo;
use crate::kernel::{Caps, Credentials, Current};
use crate::vfs::attr::{SetAttr, SetTime};
use crate::vfs::text_busy::Hold;
use crate::vfs::{
    Access, Attr, FileDescription, FileType, Inode, LookupFlags, Path, Timespec, dirops, namei,
    notify, perm,
};

/// What a change is made to: a place, and the open file if it came through one.
struct Target {
    path: Path,
    inode: Arc<dyn Inode>,
    file: Option<Arc<FileDescription>>,
}

impl Target {
    fn at(cur: &Current, dirfd: i32, addr: u64, flags: LookupFlags) -> Result<Target, Errno> {
        let path = user::lookup(cur, dirfd, addr, flags)?;
        let inode = path.inode()?;
        Ok(Target { path, inode, file: None })
    }

    fn of(cur: &Current, fd: i32) -> Result<Target, Errno> {
        let file = cur.files.get(fd)?;
        Ok(Target { path: file.path().clone(), inode: file.inode()?, file: Some(file) })
    }

    fn attr(&self) -> Result<Attr, Errno> {
        if self.path.mount.is_read_only() {
            return Err(Errno::EROFS);
        }
        self.inode.attr()
    }

    fn set(&self, change: &SetAttr) -> Result<(), Errno> {
        let own = self.file.as_ref().and_then(|file| file.ops().set_attr(change));
        own.unwrap_or_else(|| self.inode.set_attr(change))?;
        let resized = change.size.is_some();
        let event = if resized { libc::IN_MODIFY } else { libc::IN_ATTRIB };
        notify::file(&self.path.dentry, event);
        Ok(())
    }
}

fn do_chmod(cur: &Current, target: &Target, mode: u32) -> SysResult {
    let attr = target.attr()?;
    if attr.file_type() == FileType::Symlink {
        return Err(Errno::EOPNOTSUPP);
    }
    let cred = cur.cred();
    if !perm::owner_or_capable(&cred, &attr) {
        return Err(Errno::EPERM);
    }
    let mut mode = mode & 0o7777;
    if !cred.in_group(attr.gid) && !cred.capable(Caps::FSETID) {
        mode &= !libc::S_ISGID;
    }
    target.set(&SetAttr { mode: Some(mode), ..SetAttr::default() })?;
    Ok(0)
}

/// chmod(2)
pub fn chmod(cur: &mut Current, args: &Args) -> SysResult {
    let target = Target::at(cur, libc::AT_FDCWD, args.u64(0), LookupFlags::FOLLOW)?;
    do_chmod(cur, &target, args.uint(1))
}

/// fchmod(2)
pub fn fchmod(cur: &mut Current, args: &Args) -> SysResult {
    do_chmod(cur, &Target::of(cur, args.int(0))?, args.uint(1))
}

/// fchmodat(2): the kernel's, without flags.
pub fn fchmodat(cur: &mut Current, args: &Args) -> SysResult {
    let target = Target::at(cur, args.int(0), args.u64(1), LookupFlags::FOLLOW)?;
    do_chmod(cur, &target, args.uint(2))
}

/// fchmodat2(2)
pub fn fchmodat2(cur: &mut Current, args: &Args) -> SysResult {
    let flags = user::at_flags(args.int(3), libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH)?;
    let target = Target::at(cur, args.int(0), args.u64(1), flags)?;
    do_chmod(cur, &target, args.uint(2))
}

/// Whether `cred` may give a file these ids (`chown_ok`, `chgrp_ok`).
fn may_chown(cred: &Credentials, attr: &Attr, uid: Option<u32>, gid: Option<u32>) -> bool {
    let owner = cred.fsuid == attr.uid;
    let uid_ok = uid.is_none_or(|uid| owner && uid == attr.uid);
    let gid_ok = gid.is_none_or(|gid| owner && (gid == attr.gid || cred.in_group(gid)));
    uid_ok && gid_ok || cred.capable(Caps::CHOWN)
}

fn do_chown(cur: &Current, target: &Target, uid: u32, gid: u32) -> SysResult {
    let attr = target.attr()?;
    let cred = cur.cred();
    let given = |id: u32| (id != u32::MAX).then_some(id);
    let (uid, gid) = (given(uid), given(gid));
    if !may_chown(&cred, &attr, uid, gid) {
        return Err(Errno::EPERM);
    }
    let mut mode = None;
    if attr.file_type() != FileType::Directory {
        let mut kept = attr.mode & 0o7777 & !libc::S_ISUID;
        let in_group = cred.in_group(attr.gid) || cred.capable(Caps::FSETID);
        if attr.mode & libc::S_IXGRP != 0 || !in_group {
            kept &= !libc::S_ISGID;
        }
        mode = (kept != attr.mode & 0o7777).then_some(kept);
    }
    target.set(&SetAttr { uid, gid, mode, ..SetAttr::default() })?;
    Ok(0)
}

/// chown(2)
pub fn chown(cur: &mut Current, args: &Args) -> SysResult {
    let target = Target::at(cur, libc::AT_FDCWD, args.u64(0), LookupFlags::FOLLOW)?;
    do_chown(cur, &target, args.uint(1), args.uint(2))
}

/// lchown(2)
pub fn lchown(cur: &mut Current, args: &Args) -> SysResult {
    let target = Target::at(cur, libc::AT_FDCWD, args.u64(0), LookupFlags::empty())?;
    do_chown(cur, &target, args.uint(1), args.uint(2))
}

/// fchown(2)
pub fn fchown(cur: &mut Current, args: &Args) -> SysResult {
    do_chown(cur, &Target::of(cur, args.int(0))?, args.uint(1), args.uint(2))
}

/// fchownat(2)
pub fn fchownat(cur: &mut Current, args: &Args) -> SysResult {
    let flags = user::at_flags(args.int(4), libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH)?;
    let target = Target::at(cur, args.int(0), args.u64(1), flags)?;
    do_chown(cur, &target, args.uint(2), args.uint(3))
}

/// Access and modification time; `None` leaves one as it is.
type Times = [Option<SetTime>; 2];

const NOW: Times = [Some(SetTime::Now); 2];

fn set_times(cur: &Current, target: &Target, times: Times) -> SysResult {
    let attr = target.attr()?;
    let cred = cur.cred();
    if !perm::owner_or_capable(&cred, &attr) {
        // Who may write may say that it was written now, no more.
        match times {
            [Some(SetTime::Now), Some(SetTime::Now)] => {
                perm::check_attr(&cred, &attr, Access::WRITE)?;
            }
            _ => return Err(Errno::EPERM),
        }
    }
    target.set(&SetAttr { atime: times[0], mtime: times[1], ..SetAttr::default() })?;
    Ok(0)
}

fn do_utimes(cur: &Current, dirfd: i32, addr: u64, times: Times, flags: LookupFlags) -> SysResult {
    set_times(cur, &Target::at(cur, dirfd, addr, flags)?, times)
}

/// utimensat(2); a null path means the descriptor.
pub fn utimensat(cur: &mut Current, args: &Args) -> SysResult {
    const UTIME_NOW: i64 = 0x3fff_ffff;
    const UTIME_OMIT: i64 = 0x3fff_fffe;
    let mut times = NOW;
    if args.u64(2) != 0 {
        let raw = cur.mm.read_obj::<[[i64; 2]; 2]>(args.u64(2))?;
        for (time, [sec, nsec]) in times.iter_mut().zip(raw) {
            *time = match nsec {
                UTIME_NOW => Some(SetTime::Now),
                UTIME_OMIT => None,
                0..1_000_000_000 => Some(SetTime::At(Timespec { sec, nsec: nsec as u32 })),
                _ => return Err(Errno::EINVAL),
            };
        }
        if times.iter().all(Option::is_none) {
            return Ok(0);
        }
    }
    if args.u64(1) == 0 && args.int(0) != libc::AT_FDCWD {
        if args.int(3) != 0 {
            return Err(Errno::EINVAL);
        }
        return set_times(cur, &Target::of(cur, args.int(0))?, times);
    }
    let flags = user::at_flags(args.int(3), libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH)?;
    do_utimes(cur, args.int(0), args.u64(1), times, flags)
}

/// The `struct timeval` pair of utimes(2) at `addr`, if any.
fn read_timevals(cur: &Current, addr: u64) -> Result<Times, Errno> {
    if addr == 0 {
        return Ok(NOW);
    }
    let raw = cur.mm.read_obj::<[[i64; 2]; 2]>(addr)?;
    let mut times = NOW;
    for (time, [sec, usec]) in times.iter_mut().zip(raw) {
        if !(0..1_000_000).contains(&usec) {
            return Err(Errno::EINVAL);
        }
        *time = Some(SetTime::At(Timespec { sec, nsec: usec as u32 * 1000 }));
    }
    Ok(times)
}

/// utimes(2)
pub fn utimes(cur: &mut Current, args: &Args) -> SysResult {
    let times = read_timevals(cur, args.u64(1))?;
    do_utimes(cur, libc::AT_FDCWD, args.u64(0), times, LookupFlags::FOLLOW)
}

/// futimesat(2)
pub fn futimesat(cur: &mut Current, args: &Args) -> SysResult {
    let times = read_timevals(cur, args.u64(2))?;
    if args.u64(1) == 0 && args.int(0) != libc::AT_FDCWD {
        return set_times(cur, &Target::of(cur, args.int(0))?, times);
    }
    do_utimes(cur, args.int(0), args.u64(1), times, LookupFlags::FOLLOW)
}

/// utime(2)
pub fn utime(cur: &mut Current, args: &Args) -> SysResult {
    let mut times = NOW;
    if args.u64(1) != 0 {
        let raw = cur.mm.read_obj::<[i64; 2]>(args.u64(1))?;
        times = raw.map(|sec| Some(SetTime::At(Timespec { sec, nsec: 0 })));
    }
    do_utimes(cur, libc::AT_FDCWD, args.u64(0), times, LookupFlags::FOLLOW)
}

/// The error for a file that would get larger than `RLIMIT_FSIZE`, with its signal.
pub(super) fn size_exceeded(cur: &Current) -> Errno {
    // A signal of the kernel's that is pending already is not queued twice.
    let _ = cur.task.send_signal(SigInfo::kernel(libc::SIGXFSZ));
    Errno::EFBIG
}

fn check_limit(cur: &Current, old: u64, new: u64) -> Result<(), Errno> {
    if new > old && new > cur.group.rlimit(libc::RLIMIT_FSIZE).soft {
        return Err(size_exceeded(cur));
    }
    Ok(())
}

/// truncate(2)
pub fn truncate(cur: &mut Current, args: &Args) -> SysResult {
    let size = u64::try_from(args.long(1)).map_err(|_| Errno::EINVAL)?;
    let target = Target::at(cur, libc::AT_FDCWD, args.u64(0), LookupFlags::FOLLOW)?;
    match target.inode.file_type() {
        FileType::Regular => {}
        FileType::Directory => return Err(Errno::EISDIR),
        _ => return Err(Errno::EINVAL),
    }
    let attr = target.attr()?;
    let cred = cur.cred();
    perm::check_attr(&cred, &attr, Access::WRITE)?;
    let _hold = Hold::write(&*target.inode)?;
    check_limit(cur, attr.size, size)?;
    dirops::truncate_inode(&cred, &target.inode, size)?;
    notify::file(&target.path.dentry, libc::IN_MODIFY);
    Ok(0)
}

/// ftruncate(2)
pub fn ftruncate(cur: &mut Current, args: &Args) -> SysResult {
    let size = u64::try_from(args.long(1)).map_err(|_| Errno::EINVAL)?;
    let target = Target::of(cur, args.int(0))?;
    let writable = target.file.as_ref().is_some_and(|f| f.flags().writable());
    if target.inode.file_type() != FileType::Regular || !writable {
        return Err(Errno::EINVAL);
    }
    let attr = target.inode.attr()?;
    check_limit(cur, attr.size, size)?;
    let mode = dirops::without_privileges(&cur.cred(), &attr);
    target.set(&SetAttr { size: Some(size), mode, ..SetAttr::default() })?;
    Ok(0)
}

/// fallocate(2)
pub fn fallocate(cur: &mut Current, args: &Args) -> SysResult {
    const PUNCH_HOLE: i32 = 2;
    const KEEP_SIZE: i32 = 1;
    const KNOWN: i32 = 0xff;
    let (mode, offset, len) = (args.int(1), args.long(2), args.long(3));
    let file = cur.files.get(args.int(0))?;
    if offset < 0 || len <= 0 {
        return Err(Errno::EINVAL);
    }
    if mode & !KNOWN != 0 || mode & PUNCH_HOLE != 0 && mode & KEEP_SIZE == 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if !file.flags().writable() {
        return Err(Errno::EBADF);
    }
    let end = offset.checked_add(len).ok_or(Errno::EFBIG)?;
    match file.inode()?.file_type() {
        FileType::Regular => {}
        FileType::Directory => return Err(Errno::EISDIR),
        FileType::Fifo => return Err(Errno::ESPIPE),
        _ => return Err(Errno::ENODEV),
    }
    if mode & KEEP_SIZE == 0 {
        check_limit(cur, file.attr()?.size, end as u64)?;
    }
    file.ops().fallocate(mode, offset as u64, len as u64)?;
    Ok(0)
}

/// name_to_handle_at(2): the file systems have no handles that would outlive them.
pub fn name_to_handle_at(cur: &mut Current, args: &Args) -> SysResult {
    let flags = args.int(4);
    let allowed = libc::AT_SYMLINK_FOLLOW | libc::AT_EMPTY_PATH;
    if flags & !allowed != 0 {
        return Err(Errno::EINVAL);
    }
    let mut lookup = LookupFlags::empty();
    lookup.set(LookupFlags::FOLLOW, flags & libc::AT_SYMLINK_FOLLOW != 0);
    lookup.set(LookupFlags::EMPTY, flags & libc::AT_EMPTY_PATH != 0);
    let path = user::path(cur, args.u64(1))?;
    namei::lookup(cur, args.int(0), &path, lookup)?;
    Err(Errno::EOPNOTSUPP)
}
