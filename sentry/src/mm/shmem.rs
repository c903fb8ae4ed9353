//! Memory objects: what shared anonymous memory, memfds, System V segments and the files of tmpfs
//! are made of. A sparse store of pages in the memory file.
//!
//! Lock order: `MemoryManager::state` -> `ShmemObject::pages`. Neither user copies nor
//! [`MappingRegistry::invalidate`] happen with `pages` held.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::Errno;
use parking_lot::RwLock;
use platform::{Frames, MemoryFile, usercopy};

use super::interval_map::{IntervalMap, Segment};
use super::mappable::{Extent, MapFault, Mappable, MappingRegistry, Translation};
use super::{PAGE, page_down, page_up};

/// Bytes that a fault in a mapping allocates at once, where the object is that big.
const FAULT_CHUNK: u64 = 64 << 10;
/// Largest hole that a mapping may ask for in one piece.
const MAX_CHUNK: u64 = 16 << 20;
/// Largest size of an object (`MAX_LFS_FILESIZE`).
pub const MAX_SIZE: u64 = i64::MAX as u64 & !(PAGE - 1);

/// Counts the pages of a file system or a container; shared by its objects.
pub struct Quota {
    limit: u64,
    used: AtomicU64,
    /// What this one is a part of.
    whole: Option<Arc<Quota>>,
}

impl Quota {
    /// A quota of `limit` bytes.
    pub fn new(limit: u64) -> Arc<Quota> {
        Quota::within(limit, None)
    }

    /// A quota of `limit` bytes that count for `whole` as well.
    pub fn within(limit: u64, whole: Option<Arc<Quota>>) -> Arc<Quota> {
        Arc::new(Quota { limit, used: AtomicU64::new(0), whole })
    }

    /// Bytes that are left.
    pub fn left(&self) -> u64 {
        let own = self.limit.saturating_sub(self.used());
        self.whole.as_ref().map_or(own, |whole| own.min(whole.left()))
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The limit in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    fn take(&self, len: u64) -> bool {
        let own = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(len).filter(|used| *used <= self.limit)
        });
        if own.is_err() {
            return false;
        }
        let taken = self.whole.as_ref().is_none_or(|whole| whole.take(len));
        if !taken {
            self.used.fetch_sub(len, Ordering::Relaxed);
        }
        taken
    }

    fn give_back(&self, len: u64) {
        self.used.fetch_sub(len, Ordering::Relaxed);
        if let Some(whole) = &self.whole {
            whole.give_back(len);
        }
    }
}

impl Segment for Frames {
    fn split_off(&mut self, at: u64) -> Self {
        Frames::split_off(self, at)
    }
    fn try_merge(&mut self, _len: u64, next: Self) -> Result<(), Self> {
        self.try_append(next)
    }
}

struct Pages {
    size: u64,
    frames: IntervalMap<Frames>,
    /// Bytes in `frames`.
    allocated: u64,
}

impl Pages {
    /// The run of pages around `offset`, as far as `optional` goes, if it is there.
    fn translate(&self, offset: u64, optional: &Range<u64>) -> Option<Translation> {
        if offset >= self.size {
            return None;
        }
        let (range, frames) = self.frames.get(offset)?;
        let end = page_up(self.size)?.min(range.end).min(optional.end);
        let start = range.start.max(optional.start);
        let part = frames.share(start - range.start, end - start);
        Some(Translation { range: start..end, extent: Extent::Memory(part) })
    }
}

/// See the module.
pub struct ShmemObject {
    memory: Arc<MemoryFile>,
    quota: Option<Arc<Quota>>,
    pages: RwLock<Pages>,
    mappings: MappingRegistry,
    /// New shared mappings may not be writable (`F_SEAL_WRITE`).
    no_shared_writable: AtomicBool,
}

impl ShmemObject {
    /// An object of `size` bytes, all holes.
    pub fn new(memory: Arc<MemoryFile>, size: u64, quota: Option<Arc<Quota>>) -> Arc<ShmemObject> {
        let pages = Pages { size, frames: IntervalMap::new(), allocated: 0 };
        Arc::new(ShmemObject {
            memory,
            quota,
            pages: RwLock::new(pages),
            mappings: MappingRegistry::new(),
            no_shared_writable: AtomicBool::new(false),
        })
    }

    /// Size in bytes.
    pub fn len(&self) -> u64 {
        self.pages.read().size
    }

    /// Whether the size is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forbids new shared writable mappings (`F_SEAL_WRITE`, `F_SEAL_FUTURE_WRITE`).
    pub fn forbid_shared_writable(&self) {
        self.no_shared_writable.store(true, Ordering::Release);
    }

    /// Bytes of storage in use, for `st_blocks`.
    pub fn allocated(&self) -> u64 {
        self.pages.read().allocated
    }

    /// Reads up to `buf.len()` bytes; 0 at the end.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> usize {
        // SAFETY: `buf` is valid for writes of its length.
        unsafe { self.read_raw(offset, buf.as_mut_ptr(), buf.len()) }
    }

    /// Writes all of `buf`, growing the object as needed. Returns the bytes written, fewer when
    /// memory ran out; `ENOSPC` if that was before the first, `EFBIG` past the largest size.
    pub fn write_at(&self, offset: u64, buf: &[u8]) -> Result<usize, Errno> {
        // SAFETY: `buf` is valid for reads of its length.
        unsafe { self.write_raw(offset, buf.as_ptr(), buf.len()) }
    }

    /// As [`Self::read_at`], to raw memory.
    ///
    /// # Safety
    /// `dst` must be valid for writes of `len` bytes, or lie in a mapping that
    /// [`usercopy::copy_to`] may write to.
    pub unsafe fn read_raw(&self, offset: u64, dst: *mut u8, len: usize) -> usize {
        let pages = self.pages.read();
        let len = (len as u64).min(pages.size.saturating_sub(offset));
        let mut done = 0;
        while done < len {
            let at = offset + done;
            // SAFETY: `done < len`, and the caller's promise.
            let to = unsafe { dst.add(done as usize) };
            let (step, copied) = match pages.frames.find(at) {
                Some((range, frames)) if range.start <= at => {
                    let step = (range.end - at).min(len - done);
                    // SAFETY: `at` lies in `range`, which is as long as `frames`.
                    let from = unsafe { frames.ptr().add((at - range.start) as usize) };
                    // SAFETY: `from` lies in the memory file, `to` as the caller promises.
                    (step, unsafe { usercopy::copy_to(to, from, step as usize) })
                }
                next => {
                    let hole = next.map_or(u64::MAX, |(range, _)| range.start) - at;
                    let step = hole.min(len - done);
                    // SAFETY: the caller's promise.
                    (step, unsafe { usercopy::zero(to, step as usize) })
                }
            };
            done += copied as u64;
            if (copied as u64) < step {
                break;
            }
        }
        done as usize
    }

    /// As [`Self::write_at`], from raw memory. A source that faults makes the count short.
    ///
    /// # Safety
    /// `src` must be valid for reads of `len` bytes, or lie in a mapping that
    /// [`usercopy::copy_from`] may read.
    pub unsafe fn write_raw(
        &self,
        offset: u64,
        src: *const u8,
        len: usize,
    ) -> Result<usize, Errno> {
        let mut pages = self.pages.write();
        // SAFETY: the caller's promise.
        unsafe { self.write_locked(&mut pages, offset, src, len) }
    }

    /// Writes at the end of the object, atomically. Returns the bytes written and the new size.
    ///
    /// # Safety
    /// As for [`Self::write_raw`].
    pub unsafe fn append_raw(&self, src: *const u8, len: usize) -> Result<(usize, u64), Errno> {
        let mut pages = self.pages.write();
        let at = pages.size;
        // SAFETY: the caller's promise.
        let done = unsafe { self.write_locked(&mut pages, at, src, len) }?;
        Ok((done, pages.size))
    }

    /// # Safety
    /// As for [`Self::write_raw`].
    unsafe fn write_locked(
        &self,
        pages: &mut Pages,
        offset: u64,
        src: *const u8,
        len: usize,
    ) -> Result<usize, Errno> {
        if len == 0 {
            return Ok(0);
        }
        let len = (len as u64).min(MAX_SIZE.saturating_sub(offset));
        if len == 0 {
            return Err(Errno::EFBIG);
        }
        let mut done = 0;
        while done < len {
            let at = offset + done;
            let wanted = at..offset + len;
            let Some((range, ptr)) = self.page_for_write(pages, wanted) else { break };
            let step = (range.end - at).min(len - done);
            // SAFETY: `at` lies in `range`; `ptr` is its first byte. `src` as the caller promises.
            let copied = unsafe {
                let to = ptr.add((at - range.start) as usize);
                usercopy::copy_to(to, src.add(done as usize), step as usize)
            } as u64;
            done += copied;
            if copied < step {
                // A fault of the source.
                if done == 0 {
                    return Err(Errno::EFAULT);
                }
                break;
            }
        }
        if done == 0 {
            return Err(Errno::ENOSPC);
        }
        pages.size = pages.size.max(offset + done);
        Ok(done as usize)
    }

    /// The run of pages that contains `wanted.start`, allocated as far as `wanted` reaches.
    fn page_for_write(
        &self,
        pages: &mut Pages,
        wanted: Range<u64>,
    ) -> Option<(Range<u64>, *mut u8)> {
        if pages.frames.get(wanted.start).is_none() {
            let end = page_up(wanted.end).unwrap_or(MAX_SIZE);
            let hole = pages.frames.gap_around(wanted.start, page_down(wanted.start)..end)?;
            // A partial allocation is better than none when space gets short.
            self.allocate(pages, hole).or_else(|| {
                self.allocate(pages, page_down(wanted.start)..page_down(wanted.start) + PAGE)
            })?;
        }
        let (range, frames) = pages.frames.get(wanted.start)?;
        Some((range, frames.ptr()))
    }

    fn allocate(&self, pages: &mut Pages, hole: Range<u64>) -> Option<()> {
        let len = hole.end - hole.start;
        if let Some(quota) = &self.quota
            && !quota.take(len)
        {
            return None;
        }
        match self.memory.allocate(len) {
            Some(frames) => {
                pages.frames.insert(hole, frames);
                pages.allocated += len;
                Some(())
            }
            None => {
                if let Some(quota) = &self.quota {
                    quota.give_back(len);
                }
                None
            }
        }
    }

    /// Removes whole pages. The frames live on for as long as somebody has them mapped.
    fn free(&self, pages: &mut Pages, range: Range<u64>) {
        let mut bytes = 0;
        for (range, frames) in pages.frames.take(range) {
            bytes += range.end - range.start;
            drop(frames);
        }
        pages.allocated -= bytes;
        if let Some(quota) = &self.quota {
            quota.give_back(bytes);
        }
    }

    /// Zeroes bytes that exist, without allocating.
    fn zero_existing(pages: &Pages, range: Range<u64>) {
        for (found, frames) in pages.frames.overlapping(range.clone()) {
            let start = found.start.max(range.start);
            let end = found.end.min(range.end);
            // SAFETY: the part lies inside `frames`, which lies in the memory file.
            unsafe {
                usercopy::zero(
                    frames.ptr().add((start - found.start) as usize),
                    (end - start) as usize,
                )
            };
        }
    }

    /// Changes the size (truncate(2)). Mappings of what is cut off get SIGBUS from now on.
    /// `EFBIG` past the largest size.
    pub fn truncate(&self, size: u64) -> Result<(), Errno> {
        if size > MAX_SIZE {
            return Err(Errno::EFBIG);
        }
        let old = {
            let mut pages = self.pages.write();
            let old = std::mem::replace(&mut pages.size, size);
            if size < old {
                let keep = page_up(size).unwrap_or(MAX_SIZE);
                self.free(&mut pages, keep..!(PAGE - 1));
                Self::zero_existing(&pages, size..keep);
            }
            old
        };
        if size < old {
            let keep = page_up(size).unwrap_or(MAX_SIZE);
            self.mappings.invalidate(self, keep..!(PAGE - 1), true);
        }
        Ok(())
    }

    /// Frees the pages of a range and zeroes its ragged ends (`FALLOC_FL_PUNCH_HOLE`).
    pub fn punch(&self, range: Range<u64>) {
        let whole = page_up(range.start).unwrap_or(MAX_SIZE)..page_down(range.end);
        {
            let mut pages = self.pages.write();
            if whole.start < whole.end {
                self.free(&mut pages, whole.clone());
            }
            Self::zero_existing(&pages, range);
        }
        if whole.start < whole.end {
            self.mappings.invalidate(self, whole, false);
        }
    }

    /// Allocates every page of a range (fallocate(2)) and grows the object to its end unless
    /// `keep_size`. `ENOSPC` when there is not enough; what was allocated then stays.
    pub fn preallocate(&self, range: Range<u64>, keep_size: bool) -> Result<(), Errno> {
        if range.end > MAX_SIZE {
            return Err(Errno::EFBIG);
        }
        let mut pages = self.pages.write();
        let mut at = page_down(range.start);
        let end = page_up(range.end).unwrap_or(MAX_SIZE);
        while at < end {
            match pages.frames.find(at).map(|(found, _)| found) {
                Some(found) if found.start <= at => at = found.end,
                next => {
                    let stop = next.map_or(end, |found| found.start.min(end)).min(at + MAX_CHUNK);
                    self.allocate(&mut pages, at..stop).ok_or(Errno::ENOSPC)?;
                    at = stop;
                }
            }
        }
        if !keep_size {
            pages.size = pages.size.max(range.end);
        }
        Ok(())
    }

    /// The first offset at or after `offset` that holds data (`SEEK_DATA`), `ENXIO` if none.
    pub fn seek_data(&self, offset: u64) -> Result<u64, Errno> {
        let pages = self.pages.read();
        let (range, _) = pages.frames.find(offset).ok_or(Errno::ENXIO)?;
        let at = range.start.max(offset);
        if at < pages.size { Ok(at) } else { Err(Errno::ENXIO) }
    }

    /// The first offset at or after `offset` in a hole; the end of the object counts as one
    /// (`SEEK_HOLE`). `ENXIO` past the end.
    pub fn seek_hole(&self, offset: u64) -> Result<u64, Errno> {
        let pages = self.pages.read();
        if offset >= pages.size {
            return Err(Errno::ENXIO);
        }
        let mut at = offset;
        while let Some((range, _)) = pages.frames.get(at) {
            at = range.end;
        }
        Ok(at.min(pages.size))
    }
}

impl Mappable for ShmemObject {
    fn translate(&self, offset: u64, optional: Range<u64>) -> Result<Translation, MapFault> {
        if let Some(translation) = self.present(offset, optional.clone()) {
            return Ok(translation);
        }
        let mut pages = self.pages.write();
        if offset >= pages.size {
            return Err(MapFault::Bus);
        }
        let end = page_up(pages.size).ok_or(MapFault::Bus)?.min(optional.end);
        // All that was asked for if it is of moderate size, else a chunk around the page.
        let around = if end - optional.start <= MAX_CHUNK {
            optional.start..end
        } else {
            let start = (offset & !(FAULT_CHUNK - 1)).max(optional.start);
            start..(start + FAULT_CHUNK).min(end)
        };
        let hole = pages.frames.gap_around(offset, around);
        if let Some(hole) = hole {
            self.allocate(&mut pages, hole)
                .or_else(|| self.allocate(&mut pages, offset..offset + PAGE))
                .ok_or(MapFault::NoMemory)?;
        }
        pages.translate(offset, &optional).ok_or(MapFault::NoMemory)
    }

    fn present(&self, offset: u64, optional: Range<u64>) -> Option<Translation> {
        self.pages.read().translate(offset, &optional)
    }

    fn mappings(&self) -> &MappingRegistry {
        &self.mappings
    }

    fn size(&self) -> u64 {
        self.len()
    }

    fn may_map_shared_writable(&self) -> Result<(), Errno> {
        if self.no_shared_writable.load(Ordering::Acquire) { Err(Errno::EPERM) } else { Ok(()) }
    }

    fn punch_hole(&self, range: Range<u64>) -> Result<(), Errno> {
        self.punch(range);
        Ok(())
    }
}

impl Drop for ShmemObject {
    fn drop(&mut self) {
        if let Some(quota) = &self.quota {
            quota.give_back(self.pages.get_mut().allocated);
        }
    }
}
