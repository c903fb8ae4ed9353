//! Owned ranges of the memory file.

use std::sync::Arc;

use super::{Fill, MemoryFile};
use crate::{PAGE_SIZE, usercopy};

/// A reference-counted, page-aligned range of the memory file. Sharing takes another reference on
/// every page; dropping gives it back, and a page without references is freed.
///
/// Ranges inside it are given relative to its start and must be page-aligned and inside it; a
/// range that is not is a bug of the caller and panics.
pub struct Frames {
    file: Arc<MemoryFile>,
    offset: u64,
    len: u64,
    recycled: bool,
}

impl Frames {
    pub(super) fn new(file: Arc<MemoryFile>, offset: u64, len: u64, recycled: bool) -> Frames {
        Frames { file, offset, len, recycled }
    }

    pub(super) fn set_fresh(&mut self) {
        self.recycled = false;
    }

    /// Offset in the memory file, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// One past the last offset in the memory file.
    pub fn end(&self) -> u64 {
        self.offset + self.len
    }

    /// Whether the range is empty (after splitting everything off).
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the range was served from the pool, so that its pages are committed already
    /// (all of them if it is short): mapping it with `populate` costs no new memory.
    pub fn is_recycled(&self) -> bool {
        self.recycled
    }

    /// The memory file that this is a part of.
    pub fn file(&self) -> &Arc<MemoryFile> {
        &self.file
    }

    /// Address of the first byte in the Sentry's mapping. Guest-shared: only for
    /// [`crate::usercopy`].
    pub fn ptr(&self) -> *mut u8 {
        self.file.ptr(self.offset)
    }

    /// Splits off everything from `at` bytes (page-aligned) onward; no reference count changes.
    pub fn split_off(&mut self, at: u64) -> Frames {
        self.check(at, 0);
        let tail = Frames {
            file: self.file.clone(),
            offset: self.offset + at,
            len: self.len - at,
            recycled: self.recycled,
        };
        self.len = at;
        tail
    }

    /// A second owner for a part of this range.
    ///
    /// # Panics
    /// When a page has 2^32 owners already, which no amount of memory allows.
    pub fn share(&self, start: u64, len: u64) -> Frames {
        self.check(start, len);
        let offset = self.offset + start;
        let counted = len == 0 || self.file.state.lock().shares.add(offset, offset + len);
        assert!(counted, "too many owners of a memory-file range");
        Frames { file: self.file.clone(), offset, len, recycled: self.recycled }
    }

    /// Appends `next` if it directly follows in the file; gives it back otherwise.
    pub fn try_append(&mut self, mut next: Frames) -> Result<(), Frames> {
        if !Arc::ptr_eq(&self.file, &next.file) || next.offset != self.end() {
            return Err(next);
        }
        self.len += next.len;
        self.recycled &= next.recycled;
        next.len = 0;
        Ok(())
    }

    /// Whether no page of the range has another owner.
    pub fn is_sole_owner(&self) -> bool {
        self.range_is_sole(0, self.len)
    }

    /// Whether no page of a part of the range has another owner.
    pub fn range_is_sole(&self, start: u64, len: u64) -> bool {
        self.check(start, len);
        let offset = self.offset + start;
        len == 0 || !self.file.state.lock().shares.any(offset, offset + len)
    }

    /// The parts that hold anything, ascending, relative to the start; the rest was never touched, or
    /// given back.
    pub fn present(&self) -> Vec<std::ops::Range<u64>> {
        let mut parts: Vec<std::ops::Range<u64>> = Vec::new();
        let end = self.end();
        self.file.for_each_present(self.offset, self.len, |at, len| {
            // The host counts in bytes; what is shared with a neighbour page counts as this one's.
            let start = (at & !(PAGE_SIZE - 1)) - self.offset;
            let stop = (at + len).next_multiple_of(PAGE_SIZE).min(end) - self.offset;
            parts.push(start..stop);
        });
        parts
    }

    /// Fills a part with zeroes; its pages stay (or become) committed. False if the host had no
    /// memory for it.
    #[must_use]
    pub fn zero(&self, start: u64, len: u64) -> bool {
        self.check(start, len);
        self.file.clear(self.offset + start, len)
    }

    /// Gives a part's memory back to the host. It reads as zeroes afterwards, in every mapping,
    /// for every owner.
    pub fn discard(&self, start: u64, len: u64) {
        self.check(start, len);
        if len > 0 {
            self.file.punch(self.offset + start, len);
        }
    }

    /// Copies a part into new frames, leaving holes out. `None` when the limit is reached or the
    /// host has no memory.
    pub fn duplicate(&self, start: u64, len: u64) -> Option<Frames> {
        self.check(start, len);
        let sparse = len > super::SPARSE_MIN;
        // A copy that leaves holes out needs zeroes there.
        let fill = if sparse { Fill::Zero } else { Fill::Anything };
        let copy = self.file.allocate_at(len, None, fill)?;
        let from = self.offset + start;
        let mut complete = true;
        let mut part = |at: u64, len: u64| {
            let (len, rel) = (len as usize, at - from);
            // SAFETY: both ranges lie in the Sentry's mapping; the target is ours alone.
            complete &= unsafe {
                usercopy::copy_from(self.file.ptr(copy.offset + rel), self.file.ptr(at), len) == len
            };
        };
        if sparse {
            self.file.for_each_present(from, len, part);
        } else {
            part(from, len);
        }
        complete.then_some(copy)
    }

    fn check(&self, start: u64, len: u64) {
        assert!(
            start.is_multiple_of(PAGE_SIZE)
                && len.is_multiple_of(PAGE_SIZE)
                && start.checked_add(len).is_some_and(|end| end <= self.len),
            "bad part {start:#x}+{len:#x} of frames of {:#x} bytes",
            self.len
        );
    }
}

impl Clone for Frames {
    fn clone(&self) -> Frames {
        self.share(0, self.len)
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        if self.len > 0 {
            self.file.release(self.offset, self.len);
        }
    }
}

impl std::fmt::Debug for Frames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frames({:#x}+{:#x})", self.offset, self.len)
    }
}
