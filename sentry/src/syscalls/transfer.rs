//! Moving bytes between files: sendfile, splice, tee, vmsplice, copy_file_range. Through kernel
//! buffers, in bounded pieces; nothing is taken from a source that the target did not get, except
//! from sockets and terminals, which cannot give it back.

use std::sync::Arc;

use abi::Errno;

use super::read_write::{At, read_file, write_file};
use super::{Args, SysResult, user};
use crate::fs::pipe::PipeEnd;
use crate::kernel::{Current, Events};
use crate::vfs::{FileDescription, FileType, IoDst, IoSrc, OpenFlags};

/// Bytes of one piece.
const CHUNK: usize = 128 << 10;

const SPLICE_F_NONBLOCK: u32 = 2;
const SPLICE_F_ALL: u32 = 15;

/// One side of a transfer: a file, and the explicit offset if the call gave one.
struct Side {
    file: Arc<FileDescription>,
    /// Where to go on; `None` for a file without positions.
    offset: Option<u64>,
    /// The guest's variable that the offset came from.
    addr: u64,
}

impl Side {
    /// `addr` points to an offset, or is 0: then the file's position counts.
    fn new(cur: &Current, fd: i32, addr: u64) -> Result<Side, Errno> {
        let file = cur.files.get(fd)?;
        let mut offset = None;
        if addr != 0 {
            if !file.ops().seekable() {
                return Err(Errno::ESPIPE);
            }
            let raw = cur.mm.read_obj::<i64>(addr)?;
            offset = Some(u64::try_from(raw).map_err(|_| Errno::EINVAL)?);
        } else if file.ops().seekable() {
            offset = Some(*file.pos().lock());
        }
        Ok(Side { file, offset, addr })
    }

    fn pipe(&self) -> Option<&PipeEnd> {
        self.file.downcast::<PipeEnd>()
    }

    fn advance(&mut self, n: usize) {
        if let Some(offset) = &mut self.offset {
            *offset = offset.saturating_add(n as u64);
        }
    }

    /// Stores where the transfer ended.
    fn finish(&self, cur: &Current) -> Result<(), Errno> {
        match self.offset {
            Some(offset) if self.addr != 0 => cur.mm.write_obj(self.addr, &(offset as i64)),
            Some(offset) => {
                *self.file.pos().lock() = offset;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn kind(&self) -> Result<FileType, Errno> {
        Ok(self.file.inode()?.file_type())
    }
}

/// Waits until the pipe has something to read; `false` at its end.
fn wait_readable(
    cur: &Current,
    side: &Side,
    pipe: &PipeEnd,
    nonblock: bool,
) -> Result<bool, Errno> {
    let ready = || match (pipe.pipe().is_empty(), pipe.pipe().has_writers()) {
        (false, _) => Ok(true),
        (true, false) => Ok(false),
        (true, true) => Err(Errno::EAGAIN),
    };
    if nonblock { ready() } else { cur.block_on(&side.file, Events::READABLE, None, ready) }
}

/// Waits until the pipe has room; returns how much.
fn wait_writable(
    cur: &Current,
    side: &Side,
    pipe: &PipeEnd,
    nonblock: bool,
) -> Result<usize, Errno> {
    let ready = || match pipe.pipe().space()? {
        0 => Err(Errno::EAGAIN),
        room => Ok(room),
    };
    if nonblock { ready() } else { cur.block_on(&side.file, Events::WRITABLE, None, ready) }
}

/// Gets up to `max` bytes of `from`, without taking them where that can be.
fn take(
    cur: &Current,
    from: &Side,
    buf: &mut Vec<u8>,
    max: usize,
    nonblock: bool,
) -> Result<(), Errno> {
    if let Some(pipe) = from.pipe() {
        buf.clear();
        if wait_readable(cur, from, pipe, nonblock)? {
            *buf = pipe.pipe().peek(max);
        }
        return Ok(());
    }
    buf.resize(max, 0);
    let at = from.offset.map_or(At::Position, At::Offset);
    let n = read_file(cur, &from.file, &mut IoDst::kernel(buf), at, nonblock)?;
    buf.truncate(n);
    Ok(())
}

/// Takes what was only looked at.
fn consume(from: &mut Side, n: usize) {
    if from.pipe().is_some() {
        let mut sink = vec![0; n];
        // Another reader may have been quicker; there is nothing to be done about it.
        let _ = from.file.ops().read(&mut IoDst::kernel(&mut sink), 0);
    }
    from.advance(n);
}

/// Moves up to `len` bytes. An error counts only if nothing was moved.
fn transfer(
    cur: &Current,
    from: &mut Side,
    to: &mut Side,
    len: usize,
    nonblock: bool,
) -> Result<usize, Errno> {
    let mut buf = Vec::new();
    let mut done = 0;
    while done < len {
        let step = step(cur, from, to, &mut buf, len - done, nonblock || done > 0);
        match step {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
        // A pipe gives and takes what there is; a call that moved something does not wait.
        if from.pipe().is_some() && to.offset.is_none() || cur.interrupted() {
            break;
        }
    }
    from.finish(cur)?;
    to.finish(cur)?;
    Ok(done)
}

fn step(
    cur: &Current,
    from: &mut Side,
    to: &mut Side,
    buf: &mut Vec<u8>,
    len: usize,
    nonblock: bool,
) -> Result<usize, Errno> {
    let mut max = len.min(CHUNK);
    if let Some(pipe) = to.pipe() {
        max = max.min(wait_writable(cur, to, pipe, nonblock)?);
    }
    take(cur, from, buf, max, nonblock)?;
    if buf.is_empty() {
        return Ok(0);
    }
    let at = to.offset.map_or(At::Position, At::Offset);
    let mut src = IoSrc::kernel(buf);
    // What a socket gave cannot be given back: all of it has to go.
    let all = from.pipe().is_none() && from.offset.is_none();
    let n = write_file(cur, &to.file, &mut src, at, nonblock && !all, false)?;
    consume(from, n);
    to.advance(n);
    Ok(n)
}

/// sendfile(2)
pub fn sendfile(cur: &mut Current, args: &Args) -> SysResult {
    let count = args.size(3).min(user::MAX_RW);
    let mut from = Side::new(cur, args.int(1), args.u64(2))?;
    let mut to = Side::new(cur, args.int(0), 0)?;
    if !from.file.flags().readable() || !to.file.flags().writable() {
        return Err(Errno::EBADF);
    }
    if to.file.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EINVAL);
    }
    match from.kind()? {
        FileType::Regular | FileType::Fifo | FileType::BlockDevice | FileType::CharDevice => {}
        _ => return Err(Errno::EINVAL),
    }
    let nonblock = to.file.nonblocking();
    transfer(cur, &mut from, &mut to, count, nonblock).map(|n| n as u64)
}

/// splice(2)
pub fn splice(cur: &mut Current, args: &Args) -> SysResult {
    let (len, flags) = (args.size(4).min(user::MAX_RW), args.uint(5));
    if flags & !SPLICE_F_ALL != 0 {
        return Err(Errno::EINVAL);
    }
    if len == 0 {
        return Ok(0);
    }
    let mut from = Side::new(cur, args.int(0), args.u64(1))?;
    let mut to = Side::new(cur, args.int(2), args.u64(3))?;
    if !from.file.flags().readable() || !to.file.flags().writable() {
        return Err(Errno::EBADF);
    }
    let same = match (from.pipe(), to.pipe()) {
        (None, None) => return Err(Errno::EINVAL),
        (Some(a), Some(b)) => Arc::ptr_eq(a.pipe(), b.pipe()),
        _ => false,
    };
    if same || to.file.flags().contains(OpenFlags::APPEND) || from.kind()? == FileType::Directory {
        return Err(Errno::EINVAL);
    }
    let nonblock = flags & SPLICE_F_NONBLOCK != 0
        || from.pipe().is_some() && from.file.nonblocking()
        || to.pipe().is_some() && to.file.nonblocking();
    transfer(cur, &mut from, &mut to, len, nonblock).map(|n| n as u64)
}

/// tee(2)
pub fn tee(cur: &mut Current, args: &Args) -> SysResult {
    let (len, flags) = (args.size(2), args.uint(3));
    if flags & !SPLICE_F_ALL != 0 {
        return Err(Errno::EINVAL);
    }
    if len == 0 {
        return Ok(0);
    }
    let from = Side::new(cur, args.int(0), 0)?;
    let to = Side::new(cur, args.int(1), 0)?;
    if !from.file.flags().readable() || !to.file.flags().writable() {
        return Err(Errno::EBADF);
    }
    let (Some(source), Some(target)) = (from.pipe(), to.pipe()) else {
        return Err(Errno::EINVAL);
    };
    if Arc::ptr_eq(source.pipe(), target.pipe()) {
        return Err(Errno::EINVAL);
    }
    let nonblock = flags & SPLICE_F_NONBLOCK != 0;
    if !wait_readable(cur, &from, source, nonblock)? {
        return Ok(0);
    }
    let room = wait_writable(cur, &to, target, nonblock)?;
    let bytes = source.pipe().peek(len.min(room).min(CHUNK));
    let mut src = IoSrc::kernel(&bytes);
    write_file(cur, &to.file, &mut src, At::Position, true, false).map(|n| n as u64)
}

/// vmsplice(2): pages are copied, not given.
pub fn vmsplice(cur: &mut Current, args: &Args) -> SysResult {
    let flags = args.uint(3);
    if flags & !SPLICE_F_ALL != 0 {
        return Err(Errno::EINVAL);
    }
    let file = cur.files.get(args.int(0))?;
    if file.downcast::<PipeEnd>().is_none() {
        return Err(Errno::EBADF);
    }
    let count = i32::try_from(args.size(2)).map_err(|_| Errno::EINVAL)?;
    let ranges = user::iovec(cur, args.u64(1), count)?;
    let nonblock = flags & SPLICE_F_NONBLOCK != 0;
    if file.flags().writable() {
        let mut src = IoSrc::user(&cur.mm, ranges);
        write_file(cur, &file, &mut src, At::Position, nonblock, false).map(|n| n as u64)
    } else {
        let mut dst = IoDst::user(&cur.mm, ranges);
        read_file(cur, &file, &mut dst, At::Position, nonblock).map(|n| n as u64)
    }
}

/// copy_file_range(2)
pub fn copy_file_range(cur: &mut Current, args: &Args) -> SysResult {
    let len = args.size(4).min(user::MAX_RW);
    let mut from = Side::new(cur, args.int(0), args.u64(1))?;
    let mut to = Side::new(cur, args.int(2), args.u64(3))?;
    if args.uint(5) != 0 {
        return Err(Errno::EINVAL);
    }
    for side in [&from, &to] {
        match side.kind()? {
            FileType::Regular => {}
            FileType::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
    }
    if !from.file.flags().readable()
        || !to.file.flags().writable()
        || to.file.flags().contains(OpenFlags::APPEND)
    {
        return Err(Errno::EBADF);
    }
    let (start_in, start_out) = (from.offset.unwrap_or(0), to.offset.unwrap_or(0));
    let end_in = start_in.checked_add(len as u64).ok_or(Errno::EOVERFLOW)?;
    let end_out = start_out.checked_add(len as u64).ok_or(Errno::EOVERFLOW)?;
    let same = from.file.inode()?.key() == to.file.inode()?.key();
    if same && start_in < end_out && start_out < end_in {
        return Err(Errno::EINVAL);
    }
    transfer(cur, &mut from, &mut to, len, false).map(|n| n as u64)
}
