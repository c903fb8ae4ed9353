//! stat(2), statx(2), access(2), statfs(2).

use std::sync::Arc;

use abi::Errno;
use zerocopy::{Immutable, IntoBytes};

use super::{Args, SysResult, user};
use crate::kernel::Current;
use crate::vfs::{
    Access, Attr, FileType, LookupFlags, MountFlags, Path, Timespec, WalkContext, attr, perm,
};

/// `struct stat` of x86-64.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Stat {
    dev: u64,
    ino: u64,
    nlink: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    pad: u32,
    rdev: u64,
    size: u64,
    blksize: u64,
    blocks: u64,
    times: [[u64; 2]; 3],
    unused: [u64; 3],
}

fn pair(t: Timespec) -> [u64; 2] {
    [t.sec as u64, t.nsec.into()]
}

fn write_stat(cur: &Current, addr: u64, attr: &Attr) -> SysResult {
    let stat = Stat {
        dev: attr.dev,
        ino: attr.ino,
        nlink: attr.nlink.into(),
        mode: attr.mode,
        uid: attr.uid,
        gid: attr.gid,
        pad: 0,
        rdev: attr.rdev,
        size: attr.size,
        blksize: attr.blksize.into(),
        blocks: attr.blocks,
        times: [pair(attr.atime), pair(attr.mtime), pair(attr.ctime)],
        unused: [0; 3],
    };
    cur.mm.write_obj(addr, &stat)?;
    Ok(0)
}

/// The attributes of what a path names, or of a descriptor with an empty path, and where it is.
fn find(cur: &Current, dirfd: i32, addr: u64, flags: LookupFlags) -> Result<(Attr, Path), Errno> {
    let path = user::path(cur, addr)?;
    if path.is_empty() && flags.contains(LookupFlags::EMPTY) && dirfd != libc::AT_FDCWD {
        let file = cur.files.get_raw(dirfd)?;
        return Ok((file.attr()?, file.path().clone()));
    }
    let place = crate::vfs::namei::lookup(cur, dirfd, &path, flags)?;
    let attr = place.dentry.with_inode(|i| i.ok_or(Errno::ENOENT)?.attr())?;
    Ok((attr, place))
}

/// stat(2)
pub fn stat(cur: &mut Current, args: &Args) -> SysResult {
    let (attr, _) = find(cur, libc::AT_FDCWD, args.u64(0), LookupFlags::FOLLOW)?;
    write_stat(cur, args.u64(1), &attr)
}

/// lstat(2)
pub fn lstat(cur: &mut Current, args: &Args) -> SysResult {
    let (attr, _) = find(cur, libc::AT_FDCWD, args.u64(0), LookupFlags::empty())?;
    write_stat(cur, args.u64(1), &attr)
}

/// fstat(2)
pub fn fstat(cur: &mut Current, args: &Args) -> SysResult {
    let attr = cur.files.get_raw(args.int(0))?.attr()?;
    write_stat(cur, args.u64(1), &attr)
}

/// newfstatat(2)
pub fn newfstatat(cur: &mut Current, args: &Args) -> SysResult {
    let allowed = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH | libc::AT_NO_AUTOMOUNT;
    let flags = user::at_flags(args.int(3), allowed)?;
    let (attr, _) = find(cur, args.int(0), args.u64(1), flags)?;
    write_stat(cur, args.u64(2), &attr)
}

/// `struct statx_timestamp`
#[derive(IntoBytes, Immutable, Default)]
#[repr(C)]
struct StatxTime {
    sec: i64,
    nsec: u32,
    pad: i32,
}

impl From<Timespec> for StatxTime {
    fn from(t: Timespec) -> Self {
        StatxTime { sec: t.sec, nsec: t.nsec, pad: 0 }
    }
}

/// `struct statx`
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Statx {
    mask: u32,
    blksize: u32,
    attributes: u64,
    nlink: u32,
    uid: u32,
    gid: u32,
    mode: u16,
    pad0: u16,
    ino: u64,
    size: u64,
    blocks: u64,
    attributes_mask: u64,
    atime: StatxTime,
    btime: StatxTime,
    ctime: StatxTime,
    mtime: StatxTime,
    rdev_major: u32,
    rdev_minor: u32,
    dev_major: u32,
    dev_minor: u32,
    mnt_id: u64,
    rest: [u64; 13],
}

/// statx(2)
pub fn statx(cur: &mut Current, args: &Args) -> SysResult {
    const BASIC: u32 = 0x7ff;
    const BTIME: u32 = 0x800;
    const MNT_ID: u32 = 0x1000;
    const MNT_ID_UNIQUE: u32 = 0x4000;
    const ATTR_MOUNT_ROOT: u64 = 0x2000;
    let flags = args.int(2);
    let sync = libc::AT_STATX_FORCE_SYNC | libc::AT_STATX_DONT_SYNC;
    let mask = args.uint(3);
    if mask & 0x8000_0000 != 0 || flags & sync == sync {
        return Err(Errno::EINVAL);
    }
    let allowed = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH | libc::AT_NO_AUTOMOUNT | sync;
    let lookup = user::at_flags(flags, allowed)?;
    let (attr, place) = find(cur, args.int(0), args.u64(1), lookup)?;
    let statx = Statx {
        mask: BASIC
            | if attr.btime.is_some() { BTIME } else { 0 }
            | mask & (MNT_ID | MNT_ID_UNIQUE),
        blksize: attr.blksize,
        attributes: if place.is_mount_root() { ATTR_MOUNT_ROOT } else { 0 },
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        mode: attr.mode as u16,
        pad0: 0,
        ino: attr.ino,
        size: attr.size,
        blocks: attr.blocks,
        attributes_mask: ATTR_MOUNT_ROOT,
        atime: attr.atime.into(),
        btime: attr.btime.unwrap_or_default().into(),
        ctime: attr.ctime.into(),
        mtime: attr.mtime.into(),
        rdev_major: libc::major(attr.rdev),
        rdev_minor: libc::minor(attr.rdev),
        dev_major: libc::major(attr.dev),
        dev_minor: libc::minor(attr.dev),
        mnt_id: place.mount.id,
        rest: [0; 13],
    };
    cur.mm.write_obj(args.u64(4), &statx)?;
    Ok(0)
}

fn do_access(cur: &Current, dirfd: i32, addr: u64, mode: i32, flags: i32) -> SysResult {
    if mode & !7 != 0 {
        return Err(Errno::EINVAL);
    }
    let allowed = libc::AT_EACCESS | libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
    let lookup = user::at_flags(flags, allowed)?;
    let path = user::path(cur, addr)?;
    let mut ctx = WalkContext::of(cur);
    if flags & libc::AT_EACCESS == 0 {
        ctx.cred = Arc::new(perm::real_ids(&ctx.cred));
    }
    let start = ctx.start(dirfd, &path)?;
    let place = ctx.lookup(start, &path, lookup)?;
    let inode = place.inode()?;
    let access = Access::from_bits_truncate(mode as u32);
    let kind = inode.file_type();
    if access.contains(Access::EXEC)
        && kind == FileType::Regular
        && place.mount.flags().contains(MountFlags::NOEXEC)
    {
        return Err(Errno::EACCES);
    }
    perm::check(&ctx.cred, &inode, access)?;
    let on_disk = matches!(kind, FileType::Regular | FileType::Directory | FileType::Symlink);
    if access.contains(Access::WRITE) && on_disk && place.mount.is_read_only() {
        return Err(Errno::EROFS);
    }
    Ok(0)
}

/// access(2)
pub fn access(cur: &mut Current, args: &Args) -> SysResult {
    do_access(cur, libc::AT_FDCWD, args.u64(0), args.int(1), 0)
}

/// faccessat(2): the kernel's, without flags.
pub fn faccessat(cur: &mut Current, args: &Args) -> SysResult {
    do_access(cur, args.int(0), args.u64(1), args.int(2), 0)
}

/// faccessat2(2)
pub fn faccessat2(cur: &mut Current, args: &Args) -> SysResult {
    do_access(cur, args.int(0), args.u64(1), args.int(2), args.int(3))
}

/// `struct statfs`
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Statfs {
    kind: i64,
    bsize: i64,
    blocks: u64,
    bfree: u64,
    bavail: u64,
    files: u64,
    ffree: u64,
    fsid: [u32; 2],
    namelen: i64,
    frsize: i64,
    flags: i64,
    spare: [i64; 4],
}

fn write_statfs(cur: &Current, place: &Path, addr: u64) -> SysResult {
    let fs = place.mount.fs.statfs()?;
    let dev = place.mount.fs.dev();
    let mut flags = fs.flags | attr::MountStatFlags::VALID;
    let mount = place.mount.flags();
    for (of_mount, of_stat) in [
        (MountFlags::RDONLY, attr::MountStatFlags::RDONLY),
        (MountFlags::NOSUID, attr::MountStatFlags::NOSUID),
        (MountFlags::NODEV, attr::MountStatFlags::NODEV),
        (MountFlags::NOEXEC, attr::MountStatFlags::NOEXEC),
        (MountFlags::NOATIME, attr::MountStatFlags::NOATIME),
        (MountFlags::RELATIME, attr::MountStatFlags::RELATIME),
    ] {
        flags.set(of_stat, flags.contains(of_stat) || mount.contains(of_mount));
    }
    let statfs = Statfs {
        kind: fs.magic,
        bsize: fs.bsize,
        blocks: fs.blocks,
        bfree: fs.bfree,
        bavail: fs.bavail,
        files: fs.files,
        ffree: fs.ffree,
        fsid: [dev as u32, (dev >> 32) as u32],
        namelen: fs.namelen,
        frsize: fs.bsize,
        flags: flags.bits(),
        spare: [0; 4],
    };
    cur.mm.write_obj(addr, &statfs)?;
    Ok(0)
}

/// statfs(2)
pub fn statfs(cur: &mut Current, args: &Args) -> SysResult {
    let place = user::lookup(cur, libc::AT_FDCWD, args.u64(0), LookupFlags::FOLLOW)?;
    write_statfs(cur, &place, args.u64(1))
}

/// fstatfs(2)
pub fn fstatfs(cur: &mut Current, args: &Args) -> SysResult {
    let file = cur.files.get_raw(args.int(0))?;
    write_statfs(cur, file.path(), args.u64(1))
}
