//! What a file offers to be mapped.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Weak};

use abi::Errno;
use parking_lot::Mutex;
use platform::Frames;

use super::{HostFile, MemoryManager};

/// Where the bytes of a part of a file are.
pub enum Extent {
    /// In the memory file, owned by the object and shared with us. Whoever maps it shared writes
    /// to the object.
    Memory(Frames),
    /// In a host file, from this page-aligned offset on. It may reach past the file's end: accesses
    /// there fault on the host and become SIGBUS.
    Host(Arc<HostFile>, u64),
}

/// An answer of [`Mappable::translate`].
pub struct Translation {
    /// The part of the file that it covers, page-aligned. Contains the required offset.
    pub range: Range<u64>,
    /// Where that part is.
    pub extent: Extent,
}

/// Why a page of a file cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapFault {
    /// It lies wholly past the end of the file, or could not be read: SIGBUS.
    Bus,
    /// No memory left.
    NoMemory,
}

/// The memory behind a file: one object per inode, however often it is opened or mapped.
///
/// Called with a `MemoryManager`'s lock held: an implementation must not touch guest memory, and
/// must not call [`MappingRegistry::invalidate`] with a lock held that `translate` takes.
pub trait Mappable: Send + Sync {
    /// Gives the memory of the page at `offset` (page-aligned), and of as much around it, within
    /// `optional`, as is cheap. Allocates holes: what is mapped must be what others will write.
    /// May block on a host file, never on guests.
    fn translate(&self, offset: u64, optional: Range<u64>) -> Result<Translation, MapFault>;

    /// As [`Self::translate`] for what need not be allocated: what mmap maps at once. `None` for a
    /// hole.
    fn present(&self, offset: u64, optional: Range<u64>) -> Option<Translation> {
        self.translate(offset, optional).ok()
    }

    /// Who has the object mapped.
    fn mappings(&self) -> &MappingRegistry;

    /// The size in bytes.
    fn size(&self) -> u64;

    /// Writes changes made through shared mappings back (`msync(MS_SYNC)`).
    fn msync(&self, range: Range<u64>) -> Result<(), Errno> {
        let _ = range;
        Ok(())
    }

    /// Frees the storage of a range (`madvise(MADV_REMOVE)`).
    fn punch_hole(&self, range: Range<u64>) -> Result<(), Errno> {
        let _ = range;
        Err(Errno::EOPNOTSUPP)
    }

    /// Whether a new shared mapping may be writable (memfd's `F_SEAL_WRITE` says `EPERM`).
    fn may_map_shared_writable(&self) -> Result<(), Errno> {
        Ok(())
    }
}

/// Whether two references name the same object.
pub(super) fn same_object(a: &Arc<dyn Mappable>, b: &Arc<dyn Mappable>) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(a), Arc::as_ptr(b))
}

/// The address spaces that have an object mapped. Entries of those that don't any more are dropped
/// when somebody looks.
///
/// Lock order: `MemoryManager::state` -> the registry; [`Self::invalidate`] takes a copy first.
#[derive(Default)]
pub struct MappingRegistry {
    inner: Mutex<Registered>,
}

#[derive(Default)]
struct Registered {
    mms: HashMap<usize, Weak<MemoryManager>>,
    /// Size at which to look for dead entries.
    prune_at: usize,
}

impl MappingRegistry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that `mm` maps the object.
    pub(super) fn add(&self, mm: &Weak<MemoryManager>) {
        let mut inner = self.inner.lock();
        let key = mm.as_ptr() as usize;
        // An address may be used again after the one before died.
        inner.mms.insert(key, mm.clone());
        if inner.mms.len() >= inner.prune_at {
            inner.mms.retain(|_, mm| mm.strong_count() > 0);
            inner.prune_at = (inner.mms.len() * 2).max(8);
        }
    }

    fn all(&self) -> Vec<Arc<MemoryManager>> {
        self.inner.lock().mms.values().filter_map(Weak::upgrade).collect()
    }

    /// Makes every address space forget the pages of `range` of `object`, whose registry this is:
    /// after a truncation (`even_cows`: private copies go as well) or a punched hole. Change the
    /// object first, so that nobody can fault the old pages in again. Returns when no guest can
    /// reach them any more.
    pub fn invalidate(&self, object: &dyn Mappable, range: Range<u64>, even_cows: bool) {
        if range.is_empty() {
            return;
        }
        let key = std::ptr::from_ref(object).cast::<()>();
        for mm in self.all() {
            if !mm.invalidate(key, range.clone(), even_cows) {
                self.inner.lock().mms.remove(&(Arc::as_ptr(&mm) as usize));
            }
        }
    }

    /// Whether any address space could write to `object` through a shared mapping
    /// (`mapping_writably_mapped`).
    pub fn has_shared_writable(&self, object: &dyn Mappable) -> bool {
        let key = std::ptr::from_ref(object).cast::<()>();
        self.all().iter().any(|mm| mm.maps_shared_writable(key))
    }
}
