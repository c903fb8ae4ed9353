//! read(2), write(2), their vectored and positioned forms, lseek(2), sync.

use std::sync::Arc;

use abi::Errno;

use super::{Args, SysResult, user};
use crate::kernel::signal::SigInfo;
use crate::kernel::{Current, Events};
use crate::vfs::attr::SetAttr;
use crate::vfs::{FileDescription, FileType, IoDst, IoSrc, OpenFlags, dirops, notify};

/// `RWF_*` of preadv2(2).
mod rwf {
    pub const HIPRI: u32 = 1;
    pub const DSYNC: u32 = 2;
    pub const SYNC: u32 = 4;
    pub const NOWAIT: u32 = 8;
    pub const APPEND: u32 = 16;
    pub const ALL: u32 = HIPRI | DSYNC | SYNC | NOWAIT | APPEND;
}

/// Where a transfer happens.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    /// At the file's position, which moves.
    Position,
    /// Here.
    Offset(u64),
}

impl At {
    /// A `pread`-like offset argument.
    fn offset(raw: i64) -> Result<At, Errno> {
        u64::try_from(raw).map(At::Offset).map_err(|_| Errno::EINVAL)
    }
}

/// The file to read from: `ESPIPE` if it has no positions but the call gave one, `EBADF` if it is
/// not open for reading.
pub(super) fn readable(cur: &Current, fd: i32, at: At) -> Result<Arc<FileDescription>, Errno> {
    let file = cur.files.get(fd)?;
    if at != At::Position && !file.ops().seekable() {
        return Err(Errno::ESPIPE);
    }
    if file.flags().readable() { Ok(file) } else { Err(Errno::EBADF) }
}

/// As [`readable`], for writing.
pub(super) fn writable(cur: &Current, fd: i32, at: At) -> Result<Arc<FileDescription>, Errno> {
    let file = cur.files.get(fd)?;
    if at != At::Position && !file.ops().seekable() {
        return Err(Errno::ESPIPE);
    }
    if file.flags().writable() { Ok(file) } else { Err(Errno::EBADF) }
}

/// Reads into `dst`, which [`readable`] allowed, blocking unless the file is non-blocking or `nowait`.
pub(super) fn read_file(
    cur: &Current,
    file: &FileDescription,
    dst: &mut IoDst<'_>,
    at: At,
    nowait: bool,
) -> Result<usize, Errno> {
    let ops = file.ops();
    if !ops.seekable() {
        if nowait {
            return ops.read(dst, 0);
        }
        return cur.block_on(file, Events::READABLE, None, || ops.read(dst, 0));
    }
    let result = match at {
        At::Offset(offset) => {
            check_end(offset, dst.remaining())?;
            cur.block_on(file, Events::READABLE, None, || ops.read(dst, offset))
        }
        At::Position => cur.block_on(file, Events::READABLE, None, || {
            let mut pos = file.pos().lock();
            check_end(*pos, dst.remaining())?;
            let n = ops.read(dst, *pos)?;
            *pos += n as u64;
            Ok(n)
        }),
    };
    if matches!(result, Ok(n) if n > 0) {
        notify::file(&file.path().dentry, libc::IN_ACCESS);
    }
    result
}

/// A transfer may not reach past the largest offset.
fn check_end(pos: u64, len: usize) -> Result<(), Errno> {
    match pos.checked_add(len as u64) {
        Some(end) if end <= i64::MAX as u64 => Ok(()),
        _ => Err(Errno::EINVAL),
    }
}

/// Writes `src`, which [`writable`] allowed, blocking unless the file is non-blocking or `nowait`. `append` overrides the
/// position as `O_APPEND` does.
pub(super) fn write_file(
    cur: &Current,
    file: &FileDescription,
    src: &mut IoSrc<'_>,
    at: At,
    nowait: bool,
    append: bool,
) -> Result<usize, Errno> {
    let ops = file.ops();
    if !ops.seekable() {
        let result = if nowait {
            ops.write(src, 0)
        } else {
            cur.block_write(file, src, |src| ops.write(src, 0))
        };
        if matches!(result, Err(Errno::EPIPE)) {
            // One that is pending already is not queued twice.
            let _ = cur.task.send_signal(SigInfo::kernel(libc::SIGPIPE));
        }
        return result;
    }
    let append = append || file.flags().contains(OpenFlags::APPEND);
    let result = match at {
        At::Offset(offset) => {
            check_end(offset, src.remaining())?;
            cur.block_write(file, src, |src| {
                write_at(cur, file, src, offset, append).map(|(n, _)| n)
            })
        }
        At::Position => cur.block_write(file, src, |src| {
            let mut pos = file.pos().lock();
            if !append {
                check_end(*pos, src.remaining())?;
            }
            let (n, end) = write_at(cur, file, src, *pos, append)?;
            *pos = end;
            Ok(n)
        }),
    };
    if matches!(result, Ok(n) if n > 0) {
        notify::file(&file.path().dentry, libc::IN_MODIFY);
    }
    result
}

/// One write to a file with positions; returns the bytes written and where they end.
fn write_at(
    cur: &Current,
    file: &FileDescription,
    src: &mut IoSrc<'_>,
    offset: u64,
    append: bool,
) -> Result<(usize, u64), Errno> {
    let attr = file.path().dentry.with_inode(|i| match i {
        Some(i) if i.file_type() == FileType::Regular && src.remaining() > 0 => i.attr().map(Some),
        _ => Ok(None),
    })?;
    if let Some(attr) = &attr {
        let start = if append { attr.size } else { offset };
        limit_size(cur, src, start)?;
        if let Some(mode) = dirops::without_privileges(&cur.cred(), attr) {
            file.inode()?.set_attr(&SetAttr { mode: Some(mode), ..SetAttr::default() })?;
        }
    }
    if append {
        return file.ops().append(src);
    }
    let n = file.ops().write(src, offset)?;
    Ok((n, offset.saturating_add(n as u64)))
}

/// Cuts a write to `RLIMIT_FSIZE`; `EFBIG` with SIGXFSZ if nothing is left.
fn limit_size(cur: &Current, src: &mut IoSrc<'_>, start: u64) -> Result<(), Errno> {
    let limit = cur.group.rlimit(libc::RLIMIT_FSIZE).soft;
    if limit == u64::MAX {
        return Ok(());
    }
    match limit.checked_sub(start) {
        None | Some(0) => Err(super::attr::size_exceeded(cur)),
        Some(room) => {
            src.truncate(usize::try_from(room).unwrap_or(usize::MAX));
            Ok(())
        }
    }
}

/// Makes a write durable if the file or the call asks for it.
fn sync_after(file: &FileDescription, rwf: u32) -> Result<(), Errno> {
    let flags = file.flags();
    let full = flags.contains(OpenFlags::SYNC) || rwf & rwf::SYNC != 0;
    if full || flags.contains(OpenFlags::DSYNC) || rwf & rwf::DSYNC != 0 {
        match file.ops().fsync(!full) {
            // What cannot be synced (a pipe) need not be.
            Err(Errno::EINVAL) => {}
            result => result?,
        }
    }
    Ok(())
}

/// read(2)
pub fn read(cur: &mut Current, args: &Args) -> SysResult {
    let file = readable(cur, args.int(0), At::Position)?;
    let range = user::buffer(args.u64(1), args.size(2))?;
    let mut dst = IoDst::user(&cur.mm, [range]);
    read_file(cur, &file, &mut dst, At::Position, false).map(|n| n as u64)
}

/// write(2)
pub fn write(cur: &mut Current, args: &Args) -> SysResult {
    let file = writable(cur, args.int(0), At::Position)?;
    let range = user::buffer(args.u64(1), args.size(2))?;
    let mut src = IoSrc::user(&cur.mm, [range]);
    let n = write_file(cur, &file, &mut src, At::Position, false, false)?;
    sync_after(&file, 0)?;
    Ok(n as u64)
}

/// pread64(2)
pub fn pread64(cur: &mut Current, args: &Args) -> SysResult {
    let at = At::offset(args.long(3))?;
    let file = readable(cur, args.int(0), at)?;
    let range = user::buffer(args.u64(1), args.size(2))?;
    let mut dst = IoDst::user(&cur.mm, [range]);
    read_file(cur, &file, &mut dst, at, false).map(|n| n as u64)
}

/// pwrite64(2)
pub fn pwrite64(cur: &mut Current, args: &Args) -> SysResult {
    let at = At::offset(args.long(3))?;
    let file = writable(cur, args.int(0), at)?;
    let range = user::buffer(args.u64(1), args.size(2))?;
    let mut src = IoSrc::user(&cur.mm, [range]);
    let n = write_file(cur, &file, &mut src, at, false, false)?;
    sync_after(&file, 0)?;
    Ok(n as u64)
}

fn vector_read(cur: &Current, args: &Args, at: At, flags: u32) -> SysResult {
    if flags & !rwf::ALL != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let file = readable(cur, args.int(0), at)?;
    let ranges = user::iovec(cur, args.u64(1), args.int(2))?;
    let mut dst = IoDst::user(&cur.mm, ranges);
    read_file(cur, &file, &mut dst, at, flags & rwf::NOWAIT != 0).map(|n| n as u64)
}

fn vector_write(cur: &Current, args: &Args, at: At, flags: u32) -> SysResult {
    if flags & !rwf::ALL != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let file = writable(cur, args.int(0), at)?;
    let ranges = user::iovec(cur, args.u64(1), args.int(2))?;
    let mut src = IoSrc::user(&cur.mm, ranges);
    let append = flags & rwf::APPEND != 0;
    let n = write_file(cur, &file, &mut src, at, flags & rwf::NOWAIT != 0, append)?;
    sync_after(&file, flags)?;
    Ok(n as u64)
}

/// readv(2)
pub fn readv(cur: &mut Current, args: &Args) -> SysResult {
    vector_read(cur, args, At::Position, 0)
}

/// writev(2)
pub fn writev(cur: &mut Current, args: &Args) -> SysResult {
    vector_write(cur, args, At::Position, 0)
}

/// preadv(2); the offset is in the fourth argument alone on 64 bits.
pub fn preadv(cur: &mut Current, args: &Args) -> SysResult {
    vector_read(cur, args, At::offset(args.long(3))?, 0)
}

/// pwritev(2)
pub fn pwritev(cur: &mut Current, args: &Args) -> SysResult {
    vector_write(cur, args, At::offset(args.long(3))?, 0)
}

fn at_or_position(raw: i64) -> Result<At, Errno> {
    if raw == -1 { Ok(At::Position) } else { At::offset(raw) }
}

/// preadv2(2)
pub fn preadv2(cur: &mut Current, args: &Args) -> SysResult {
    vector_read(cur, args, at_or_position(args.long(3))?, args.uint(5))
}

/// pwritev2(2)
pub fn pwritev2(cur: &mut Current, args: &Args) -> SysResult {
    vector_write(cur, args, at_or_position(args.long(3))?, args.uint(5))
}

/// lseek(2)
pub fn lseek(cur: &mut Current, args: &Args) -> SysResult {
    let file = cur.files.get(args.int(0))?;
    let (offset, whence) = (args.long(1), args.int(2));
    if !(libc::SEEK_SET..=libc::SEEK_HOLE).contains(&whence) {
        return Err(Errno::EINVAL);
    }
    if !file.ops().seekable() {
        return file.ops().seek(0, offset, whence).unwrap_or(Err(Errno::ESPIPE));
    }
    let mut pos = file.pos().lock();
    let new = match file.ops().seek(*pos, offset, whence) {
        Some(result) => result?,
        None => seek_to(&file, *pos, offset, whence)?,
    };
    *pos = new;
    Ok(new)
}

/// The usual meaning of lseek(2).
fn seek_to(file: &Arc<FileDescription>, pos: u64, offset: i64, whence: i32) -> SysResult {
    let base = match whence {
        libc::SEEK_SET => 0,
        libc::SEEK_CUR => pos,
        _ => file.attr()?.size,
    };
    if matches!(whence, libc::SEEK_DATA | libc::SEEK_HOLE) {
        // A file without holes, but for the one at its end.
        let at = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
        return match at < base {
            true if whence == libc::SEEK_DATA => Ok(at),
            true => Ok(base),
            false => Err(Errno::ENXIO),
        };
    }
    let new = i64::try_from(base).ok().and_then(|base| base.checked_add(offset));
    u64::try_from(new.ok_or(Errno::EOVERFLOW)?).map_err(|_| Errno::EINVAL)
}

/// fsync(2)
pub fn fsync(cur: &mut Current, args: &Args) -> SysResult {
    cur.files.get(args.int(0))?.ops().fsync(false).map(|()| 0)
}

/// fdatasync(2)
pub fn fdatasync(cur: &mut Current, args: &Args) -> SysResult {
    cur.files.get(args.int(0))?.ops().fsync(true).map(|()| 0)
}

/// sync(2)
pub fn sync(cur: &mut Current, _: &Args) -> SysResult {
    for mount in cur.fs().mounts().mounts() {
        // sync(2) has no way to tell.
        let _ = mount.fs.sync();
    }
    Ok(0)
}

/// syncfs(2)
pub fn syncfs(cur: &mut Current, args: &Args) -> SysResult {
    cur.files.get(args.int(0))?.path().mount.fs.sync().map(|()| 0)
}

/// sync_file_range(2)
pub fn sync_file_range(cur: &mut Current, args: &Args) -> SysResult {
    let file = cur.files.get(args.int(0))?;
    let (offset, len, flags) = (args.long(1), args.long(2), args.uint(3));
    if flags & !7 != 0 || offset < 0 || len < 0 || offset.checked_add(len).is_none() {
        return Err(Errno::EINVAL);
    }
    match file.path().dentry.with_inode(|i| i.map(|i| i.file_type())) {
        Some(FileType::Regular | FileType::BlockDevice | FileType::Directory) => {}
        _ => return Err(Errno::ESPIPE),
    }
    file.ops().fsync(true).map(|()| 0)
}

/// fadvise64(2): advice on what to keep in memory; all of it is kept anyway.
pub fn fadvise64(cur: &mut Current, args: &Args) -> SysResult {
    let file = cur.files.get(args.int(0))?;
    if !file.ops().seekable() {
        return Err(Errno::ESPIPE);
    }
    if args.long(2) < 0 || !(0..=5).contains(&args.int(3)) {
        return Err(Errno::EINVAL);
    }
    Ok(0)
}

/// readahead(2): as fadvise64(2), nothing is ever far away.
pub fn readahead(cur: &mut Current, args: &Args) -> SysResult {
    let file = cur.files.get(args.int(0))?;
    if !file.flags().readable() {
        return Err(Errno::EBADF);
    }
    match file.path().dentry.with_inode(|i| i.map(|i| i.file_type())) {
        Some(FileType::Regular | FileType::BlockDevice) => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}
