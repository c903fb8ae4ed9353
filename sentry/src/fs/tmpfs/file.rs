//! Regular files of tmpfs: content, seals, and open files.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use abi::Errno;
use parking_lot::Mutex;
use platform::MemoryFile;

use super::TmpInode;
use crate::mm::{MAX_SHMEM_SIZE, Mappable, Quota, ShmemObject};
use crate::vfs::{FileOps, IoDst, IoSrc};

/// The seals of fcntl(F_ADD_SEALS).
pub mod seal {
    /// No more seals.
    pub const SEAL: u32 = 1;
    /// The file cannot get shorter.
    pub const SHRINK: u32 = 2;
    /// The file cannot get longer.
    pub const GROW: u32 = 4;
    /// Content cannot be changed.
    pub const WRITE: u32 = 8;
    /// As WRITE, but shared writable mappings that exist remain.
    pub const FUTURE_WRITE: u32 = 16;
    /// The execute bits cannot be changed.
    pub const EXEC: u32 = 32;
}

const FALLOC_FL_KEEP_SIZE: i32 = 1;
/// `FALLOC_FL_PUNCH_HOLE`, which goes with `FALLOC_FL_KEEP_SIZE` only.
const PUNCH: i32 = 2 | FALLOC_FL_KEEP_SIZE;

/// What a regular file holds.
pub(super) struct Content {
    object: Arc<ShmemObject>,
    /// Held over everything that changes content or size (Linux's `i_rwsem`).
    io: Mutex<()>,
    seals: AtomicU32,
}

impl Content {
    pub fn new(memory: Arc<MemoryFile>, quota: Option<Arc<Quota>>, seals: u32) -> Content {
        let object = ShmemObject::new(memory, 0, quota);
        Content { object, io: Mutex::new(()), seals: AtomicU32::new(seals) }
    }

    pub fn size_and_blocks(&self) -> (u64, u64) {
        (self.object.len(), self.object.allocated() / 512)
    }

    pub fn read(&self, dst: &mut IoDst<'_>, offset: u64) -> Result<usize, Errno> {
        let mut done = 0;
        loop {
            let at = offset.saturating_add(done as u64);
            let left = self.object.len().saturating_sub(at).min(dst.remaining() as u64);
            if left == 0 {
                return Ok(done);
            }
            let step = dst.with_iovecs(left as usize, &mut |iovecs| {
                let mut step = 0;
                for iovec in iovecs {
                    let from = at.saturating_add(step as u64);
                    // SAFETY: `with_iovecs` gives memory that may be written for the time of the
                    // call: the kernel's own, or guest memory in a mapping of the Sentry's.
                    let n =
                        unsafe { self.object.read_raw(from, iovec.iov_base.cast(), iovec.iov_len) };
                    step += n;
                    if n < iovec.iov_len {
                        break;
                    }
                }
                Ok(step)
            });
            match step {
                Ok(0) => return Ok(done),
                Ok(n) => done += n,
                Err(error) if done == 0 => return Err(error),
                Err(_) => return Ok(done),
            }
        }
    }

    fn write_locked(&self, src: &mut IoSrc<'_>, offset: u64) -> Result<usize, Errno> {
        let seals = self.seals.load(Ordering::Acquire);
        if seals & (seal::WRITE | seal::FUTURE_WRITE) != 0 {
            return Err(Errno::EPERM);
        }
        let end = offset.saturating_add(src.remaining() as u64);
        if seals & seal::GROW != 0 && end > self.object.len() {
            return Err(Errno::EPERM);
        }
        let mut done = 0;
        while src.remaining() > 0 {
            let at = offset.saturating_add(done as u64);
            let step = src.with_iovecs(src.remaining(), &mut |iovecs| {
                let mut step = 0;
                for iovec in iovecs {
                    let to = at.saturating_add(step as u64);
                    // SAFETY: as in `read`, for reading.
                    let n = unsafe {
                        self.object.write_raw(to, iovec.iov_base.cast_const().cast(), iovec.iov_len)
                    };
                    match n {
                        Ok(n) => step += n,
                        Err(error) if step == 0 => return Err(error),
                        Err(_) => break,
                    }
                    if n.is_ok_and(|n| n < iovec.iov_len) {
                        break;
                    }
                }
                Ok(step)
            });
            match step {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    pub fn write(&self, src: &mut IoSrc<'_>, offset: u64) -> Result<usize, Errno> {
        let _io = self.io.lock();
        self.write_locked(src, offset)
    }

    pub fn append(&self, src: &mut IoSrc<'_>) -> Result<(usize, u64), Errno> {
        let _io = self.io.lock();
        let at = self.object.len();
        let n = self.write_locked(src, at)?;
        Ok((n, at + n as u64))
    }

    pub fn truncate(&self, size: u64) -> Result<(), Errno> {
        let _io = self.io.lock();
        let (seals, old) = (self.seals.load(Ordering::Acquire), self.object.len());
        if size < old && seals & seal::SHRINK != 0 || size > old && seals & seal::GROW != 0 {
            return Err(Errno::EPERM);
        }
        self.object.truncate(size)
    }

    fn fallocate(&self, mode: i32, offset: u64, len: u64) -> Result<(), Errno> {
        let end = offset.checked_add(len).ok_or(Errno::EFBIG)?;
        let _io = self.io.lock();
        let seals = self.seals.load(Ordering::Acquire);
        match mode {
            0 | FALLOC_FL_KEEP_SIZE => {
                let keep = mode == FALLOC_FL_KEEP_SIZE;
                if end > MAX_SHMEM_SIZE {
                    return Err(Errno::EFBIG);
                }
                if !keep && seals & seal::GROW != 0 && end > self.object.len() {
                    return Err(Errno::EPERM);
                }
                self.object.preallocate(offset..end, keep)
            }
            PUNCH => {
                if seals & (seal::WRITE | seal::FUTURE_WRITE) != 0 {
                    return Err(Errno::EPERM);
                }
                self.object.punch(offset..end.min(MAX_SHMEM_SIZE));
                Ok(())
            }
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    /// `F_SEAL_EXEC`: the execute bits stay.
    pub fn check_mode_change(&self, old: u32, new: u32) -> Result<(), Errno> {
        let sealed = self.seals.load(Ordering::Acquire) & seal::EXEC != 0;
        if sealed && (old ^ new) & 0o111 != 0 { Err(Errno::EPERM) } else { Ok(()) }
    }

    fn add_seals(&self, new: u32, executable: bool) -> Result<(), Errno> {
        let _io = self.io.lock();
        let old = self.seals.load(Ordering::Acquire);
        if old & seal::SEAL != 0 {
            return Err(Errno::EPERM);
        }
        if new & seal::WRITE != 0
            && old & seal::WRITE == 0
            && self.object.mappings().has_shared_writable(&*self.object)
        {
            return Err(Errno::EBUSY);
        }
        let mut seals = old | new;
        if new & seal::EXEC != 0 && executable {
            // Sealing an executable file's bits makes its content unchangeable too.
            seals |= seal::SHRINK | seal::GROW | seal::WRITE | seal::FUTURE_WRITE;
        }
        if seals & (seal::WRITE | seal::FUTURE_WRITE) != 0 {
            self.object.forbid_shared_writable();
        }
        self.seals.store(seals, Ordering::Release);
        Ok(())
    }
}

/// An open regular file.
pub struct OpenFile {
    inode: Arc<TmpInode>,
    atime: bool,
}

impl OpenFile {
    pub(super) fn new(inode: Arc<TmpInode>, atime: bool) -> OpenFile {
        OpenFile { inode, atime }
    }

    /// `F_GET_SEALS`
    pub fn seals(&self) -> Result<u32, Errno> {
        Ok(self.inode.content()?.seals.load(Ordering::Acquire))
    }

    /// `F_ADD_SEALS`. The file is open for writing. `EPERM` once sealed, `EBUSY` if a shared
    /// writable mapping is in the way of `F_SEAL_WRITE`.
    pub fn add_seals(&self, seals: u32) -> Result<(), Errno> {
        let executable = self.inode.meta.lock().mode & 0o111 != 0;
        self.inode.content()?.add_seals(seals, executable)
    }
}

impl FileOps for OpenFile {
    fn read(&self, dst: &mut IoDst<'_>, offset: u64) -> Result<usize, Errno> {
        let n = self.inode.content()?.read(dst, offset)?;
        if self.atime {
            self.inode.touch_accessed();
        }
        Ok(n)
    }
    fn write(&self, src: &mut IoSrc<'_>, offset: u64) -> Result<usize, Errno> {
        let n = self.inode.content()?.write(src, offset)?;
        if n > 0 {
            self.inode.touch_modified();
        }
        Ok(n)
    }
    fn append(&self, src: &mut IoSrc<'_>) -> Result<(usize, u64), Errno> {
        let result = self.inode.content()?.append(src)?;
        self.inode.touch_modified();
        Ok(result)
    }
    fn seek(&self, _: u64, offset: i64, whence: i32) -> Option<Result<u64, Errno>> {
        let object = &self.inode.content().ok()?.object;
        let at = || u64::try_from(offset).map_err(|_| Errno::ENXIO);
        match whence {
            libc::SEEK_DATA => Some(at().and_then(|at| object.seek_data(at))),
            libc::SEEK_HOLE => Some(at().and_then(|at| object.seek_hole(at))),
            _ => None,
        }
    }
    fn mappable(&self) -> Result<Arc<dyn Mappable>, Errno> {
        if self.atime {
            self.inode.touch_accessed();
        }
        Ok(self.inode.content()?.object.clone())
    }
    fn fsync(&self, _: bool) -> Result<(), Errno> {
        Ok(())
    }
    fn fallocate(&self, mode: i32, offset: u64, len: u64) -> Result<(), Errno> {
        self.inode.content()?.fallocate(mode, offset, len)?;
        self.inode.touch_modified();
        Ok(())
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
