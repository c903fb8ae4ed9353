//! The memory file: one sparse memfd that holds all guest memory that is not a mapping of a host
//! file, mapped once, whole, into the Sentry.
//!
//! Owns: the memfd, the Sentry's mapping of it, the allocator, the reference counts. [`Frames`] is
//! the only way to own a part of it.

use std::sync::Arc;

use crate::Error;

/// The sandbox's memory file. Cheap to share through [`Arc`].
pub struct MemoryFile {}

impl MemoryFile {
    /// Creates a memory file that can hand out at most `limit` bytes.
    pub fn new(limit: u64) -> Result<Arc<MemoryFile>, Error> {
        let _ = limit;
        Ok(Arc::new(MemoryFile {}))
    }

    /// Allocates `len` bytes (a multiple of the page size) of zeroed memory in one contiguous
    /// range. `None` when the limit is reached.
    pub fn allocate(self: &Arc<Self>, len: u64) -> Option<Frames> {
        Some(Frames { file: self.clone(), offset: 0, len })
    }

    /// Bytes handed out now.
    pub fn used(&self) -> u64 {
        0
    }

    /// The limit in bytes.
    pub fn limit(&self) -> u64 {
        0
    }
}

/// A reference-counted, page-aligned range of the memory file. Cloning takes another reference on
/// every page; dropping gives it back, and a page without references is freed.
pub struct Frames {
    file: Arc<MemoryFile>,
    offset: u64,
    len: u64,
}

impl Frames {
    /// Offset in the memory file, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the range is empty (after splitting everything off).
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Address of the first byte in the Sentry's mapping. Guest-shared: only for [`crate::usercopy`].
    pub fn ptr(&self) -> *mut u8 {
        std::ptr::null_mut()
    }

    /// Splits off everything from `at` bytes (page-aligned) onward; no reference count changes.
    pub fn split_off(&mut self, at: u64) -> Frames {
        let tail = Frames { file: self.file.clone(), offset: self.offset + at, len: self.len - at };
        self.len = at;
        tail
    }

    /// A second owner for a part of this range.
    pub fn share(&self, start: u64, len: u64) -> Frames {
        Frames { file: self.file.clone(), offset: self.offset + start, len }
    }

    /// Appends `next` if it directly follows in the file; gives it back otherwise.
    pub fn try_append(&mut self, next: Frames) -> Result<(), Frames> {
        if next.offset == self.offset + self.len {
            self.len += next.len;
            return Ok(());
        }
        Err(next)
    }

    /// Whether no page of the range has another owner.
    pub fn is_sole_owner(&self) -> bool {
        true
    }
}
