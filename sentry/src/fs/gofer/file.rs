//! Open regular files: host descriptors, read and written directly between the host's page cache
//! and guest memory, and mapped.

use std::any::Any;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use abi::Errno;
use libc::c_int;

use super::inode::GoferInode;
use crate::mm::{Extent, HostFile, MapFault, Mappable, MappingRegistry, Translation};
use crate::vfs::{FileOps, IoDst, IoSrc, OpenFlags};

/// Most bytes that one host call is asked to move (`MAX_RW_COUNT`).
const MAX_TRANSFER: usize = 0x7fff_f000;

fn raw(file: &HostFile) -> RawFd {
    file.fd().as_raw_fd()
}

fn check(rc: i64) -> Result<u64, Errno> {
    u64::try_from(rc).map_err(|_| Errno::from(io::Error::last_os_error()))
}

/// The first page boundary at or after `size`.
pub(super) fn page_up(size: u64) -> u64 {
    size.saturating_add(0xfff) & !0xfff
}

/// An offset as the host takes it: `EINVAL` beyond `off_t`.
fn host_offset(offset: u64) -> Result<i64, Errno> {
    i64::try_from(offset).map_err(|_| Errno::EINVAL)
}

/// Reads at `offset` until `dst` is full or the file ends.
pub(super) fn read(file: &HostFile, dst: &mut IoDst<'_>, offset: u64) -> Result<usize, Errno> {
    let mut total = 0usize;
    while dst.remaining() > 0 {
        let at = host_offset(offset.saturating_add(total as u64))?;
        let mut short = false;
        let got = dst.with_iovecs(dst.remaining().min(MAX_TRANSFER), &mut |iov| {
            let wanted: usize = iov.iter().map(|v| v.iov_len).sum();
            let n = retry(|| {
                // SAFETY: the iovecs are valid for writes during this call, as `with_iovecs` says.
                unsafe { libc::preadv(raw(file), iov.as_ptr(), iov.len() as c_int, at) as i64 }
            })? as usize;
            short = n < wanted;
            Ok(n)
        });
        match got {
            Ok(n) => total += n,
            Err(e) if total == 0 => return Err(e),
            Err(_) => break,
        }
        if short || got == Ok(0) {
            break;
        }
    }
    Ok(total)
}

/// Repeats a host call that a signal interrupted; guests see no such thing on regular files.
fn retry(mut call: impl FnMut() -> i64) -> Result<u64, Errno> {
    loop {
        match check(call()) {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// Writes at `offset`, or at the end if `None`, with `RWF_*` flags.
fn write(
    file: &HostFile,
    src: &mut IoSrc<'_>,
    offset: Option<u64>,
    flags: c_int,
) -> Result<usize, Errno> {
    let flags = if offset.is_none() { flags | libc::RWF_APPEND } else { flags };
    let mut total = 0usize;
    while src.remaining() > 0 {
        let at = host_offset(offset.unwrap_or(0).saturating_add(total as u64))?;
        let mut short = false;
        let got = src.with_iovecs(src.remaining().min(MAX_TRANSFER), &mut |iov| {
            let wanted: usize = iov.iter().map(|v| v.iov_len).sum();
            let n = retry(|| {
                let (ptr, len) = (iov.as_ptr(), iov.len() as c_int);
                // SAFETY: the iovecs are valid for reads during this call, as `with_iovecs` says.
                unsafe {
                    if flags == 0 {
                        libc::pwritev(raw(file), ptr, len, at) as i64
                    } else {
                        libc::pwritev2(raw(file), ptr, len, at, flags) as i64
                    }
                }
            })? as usize;
            short = n < wanted;
            Ok(n)
        });
        match got {
            Ok(n) => total += n,
            Err(e) if total == 0 => return Err(e),
            Err(_) => break,
        }
        if short || got == Ok(0) {
            break;
        }
    }
    Ok(total)
}

/// `ftruncate(2)`
pub(super) fn truncate(file: &HostFile, size: u64) -> Result<(), Errno> {
    let size = host_offset(size)?;
    // SAFETY: only numbers.
    retry(|| i64::from(unsafe { libc::ftruncate(raw(file), size) })).map(|_| ())
}

/// `fsync(2)` or `fdatasync(2)`
pub(super) fn sync(file: &HostFile, data_only: bool) -> Result<(), Errno> {
    // SAFETY: only numbers.
    let rc = unsafe { if data_only { libc::fdatasync(raw(file)) } else { libc::fsync(raw(file)) } };
    check(i64::from(rc)).map(|_| ())
}

/// See the module.
pub(super) struct OpenFile {
    inode: Arc<GoferInode>,
    file: Arc<HostFile>,
    /// `RWF_DSYNC`, `RWF_SYNC` for files opened so.
    sync: c_int,
}

impl OpenFile {
    /// Opens the file as open(2)'s flags say. Truncation is the VFS's.
    pub(super) fn open(
        inode: Arc<GoferInode>,
        flags: OpenFlags,
    ) -> Result<Box<dyn FileOps>, Errno> {
        let file = if !flags.writable() {
            inode.open_read()?
        } else {
            match inode.open_write() {
                Err(Errno::EACCES) if !flags.readable() => inode.open_write_only()?,
                other => other?,
            }
        };
        let sync = if flags.contains(OpenFlags::SYNC) {
            libc::RWF_SYNC
        } else if flags.contains(OpenFlags::DSYNC) {
            libc::RWF_DSYNC
        } else {
            0
        };
        Ok(Box::new(OpenFile { inode, file, sync }))
    }
}

impl FileOps for OpenFile {
    fn read(&self, dst: &mut IoDst<'_>, offset: u64) -> Result<usize, Errno> {
        read(&self.file, dst, offset)
    }

    fn write(&self, src: &mut IoSrc<'_>, offset: u64) -> Result<usize, Errno> {
        self.inode.note_written();
        write(&self.file, src, Some(offset), self.sync)
    }

    fn append(&self, src: &mut IoSrc<'_>) -> Result<(usize, u64), Errno> {
        self.inode.note_written();
        let n = write(&self.file, src, None, self.sync)?;
        Ok((n, self.file.size()))
    }

    fn seek(&self, _: u64, offset: i64, whence: i32) -> Option<Result<u64, Errno>> {
        if !matches!(whence, libc::SEEK_DATA | libc::SEEK_HOLE) {
            return None;
        }
        // SAFETY: only numbers. The host's position is of no use to anybody else.
        Some(check(unsafe { libc::lseek(raw(&self.file), offset, whence) }))
    }

    fn mappable(&self) -> Result<Arc<dyn Mappable>, Errno> {
        Ok(self.inode.clone())
    }

    fn fsync(&self, data_only: bool) -> Result<(), Errno> {
        sync(&self.file, data_only)
    }

    fn fallocate(&self, mode: i32, offset: u64, len: u64) -> Result<(), Errno> {
        self.inode.note_written();
        let (at, len) = (host_offset(offset)?, host_offset(len)?);
        // SAFETY: only numbers.
        retry(|| i64::from(unsafe { libc::fallocate(raw(&self.file), mode, at, len) }))?;
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The host's page cache is the memory: all mappings of the file, here and on the host, agree.
impl Mappable for GoferInode {
    fn translate(&self, _: u64, optional: Range<u64>) -> Result<Translation, MapFault> {
        let file = self.mapped_file().map_err(|_| MapFault::Bus)?;
        if file.writable() {
            self.note_written();
        }
        let start = optional.start;
        Ok(Translation { range: optional, extent: Extent::Host(file, start) })
    }

    fn mappings(&self) -> &MappingRegistry {
        &self.mappings
    }

    fn size(&self) -> u64 {
        self.mapped_file().map_or(0, |f| f.size())
    }

    fn msync(&self, _: Range<u64>) -> Result<(), Errno> {
        self.sync_written()
    }
}
