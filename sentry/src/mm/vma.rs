//! Virtual memory areas: what the guest asked for.

use std::sync::Arc;

use bitflags::bitflags;
use platform::Prot;

use super::area::{OpenArea, same_area};
use super::interval_map::Segment;
use super::mappable::{Mappable, same_object};
use crate::vfs::FileDescription;

bitflags! {
    /// `vm_flags` (`include/linux/mm.h`), with Linux's values.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct VmFlags: u64 {
        /// Readable.
        const READ = 0x1;
        /// Writable.
        const WRITE = 0x2;
        /// Executable.
        const EXEC = 0x4;
        /// Writes reach the object.
        const SHARED = 0x8;
        /// mprotect(2) may set `READ`.
        const MAYREAD = 0x10;
        /// mprotect(2) may set `WRITE`.
        const MAYWRITE = 0x20;
        /// mprotect(2) may set `EXEC`.
        const MAYEXEC = 0x40;
        /// Shows the object's own pages.
        const MAYSHARE = 0x80;
        /// A stack.
        const GROWSDOWN = 0x100;
        /// Not memory that could be swapped or copied.
        const PFNMAP = 0x400;
        /// mlock(2).
        const LOCKED = 0x2000;
        /// Device memory.
        const IO = 0x4000;
        /// `MADV_SEQUENTIAL`.
        const SEQ_READ = 0x8000;
        /// `MADV_RANDOM`.
        const RAND_READ = 0x10000;
        /// `MADV_DONTFORK`.
        const DONTCOPY = 0x20000;
        /// mremap(2) must not grow it.
        const DONTEXPAND = 0x40000;
        /// `MLOCK_ONFAULT`.
        const LOCKONFAULT = 0x80000;
        /// Counts as committed.
        const ACCOUNT = 0x100000;
        /// `MAP_NORESERVE`.
        const NORESERVE = 0x200000;
        /// `MADV_WIPEONFORK`.
        const WIPEONFORK = 0x2000000;
        /// `MADV_DONTDUMP`.
        const DONTDUMP = 0x4000000;
        /// `MADV_HUGEPAGE`.
        const HUGEPAGE = 0x20000000;
        /// `MADV_NOHUGEPAGE`.
        const NOHUGEPAGE = 0x40000000;
        /// `MADV_MERGEABLE`.
        const MERGEABLE = 0x80000000;
    }
}

impl VmFlags {
    /// The three access bits.
    pub const ACCESS: VmFlags = Self::READ.union(Self::WRITE).union(Self::EXEC);
    /// The three bits that bound mprotect(2).
    pub const MAY: VmFlags = Self::MAYREAD.union(Self::MAYWRITE).union(Self::MAYEXEC);

    /// The access bits for `PROT_*`.
    pub(super) fn from_prot(prot: u32) -> VmFlags {
        VmFlags::from_bits_truncate(u64::from(prot) & 7)
    }

    /// What the processor lets the guest do: write and execute include read.
    pub(super) fn hardware(self) -> Prot {
        Prot {
            read: self.intersects(Self::ACCESS),
            write: self.contains(Self::WRITE),
            exec: self.contains(Self::EXEC),
        }
    }

    /// Whether it counts for `RLIMIT_DATA` (`is_data_mapping`).
    pub(super) fn is_data(self) -> bool {
        self & (Self::WRITE | Self::SHARED | Self::GROWSDOWN) == Self::WRITE
    }
}

/// What a file-backed (or shared anonymous) area maps.
#[derive(Clone)]
pub(super) struct VmaObject {
    pub(super) object: Arc<dyn Mappable>,
    /// Offset in the object of the area's first byte.
    pub(super) offset: u64,
    /// The open file; none for shared anonymous memory.
    pub(super) file: Option<Arc<FileDescription>>,
    /// Counts the area, for who wants to know. A copy of this structure is the same area; who makes
    /// another one of it says so ([`Vma::another`]).
    pub(super) area: Option<OpenArea>,
}

/// What /proc/PID/maps shows for an area that maps no file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum VmaName {
    #[default]
    None,
    Vvar,
    Vdso,
    /// `prctl(PR_SET_VMA_ANON_NAME)`.
    Anon(Arc<str>),
}

/// One area.
#[derive(Clone)]
pub(super) struct Vma {
    pub(super) flags: VmFlags,
    pub(super) backing: Option<VmaObject>,
    pub(super) name: VmaName,
}

impl Vma {
    /// Whether pages are the area's own: written pages are not seen by others.
    pub(super) fn is_private(&self) -> bool {
        !self.flags.contains(VmFlags::SHARED) && !self.maps_writable_object()
    }

    /// A `MAP_SHARED` mapping of a file that was opened read-only has `MAYSHARE` but not `SHARED`;
    /// it still shows the object's pages, and can never be written.
    fn maps_writable_object(&self) -> bool {
        self.flags.contains(VmFlags::MAYSHARE)
    }

    /// Neither a file's nor shared memory.
    pub(super) fn is_anonymous(&self) -> bool {
        self.backing.is_none()
    }

    /// Another area that shows the same.
    pub(super) fn another(&self) -> Vma {
        let mut vma = self.clone();
        if let Some(backing) = &mut vma.backing {
            backing.area = backing.area.as_ref().map(OpenArea::another);
        }
        vma
    }

    /// The vDSO and its data.
    pub(super) fn is_special(&self) -> bool {
        matches!(self.name, VmaName::Vvar | VmaName::Vdso)
    }
}

impl Segment for Vma {
    fn split_off(&mut self, at: u64) -> Self {
        let mut tail = self.another();
        if let Some(backing) = &mut tail.backing {
            backing.offset = backing.offset.saturating_add(at);
        }
        tail
    }

    fn try_merge(&mut self, len: u64, next: Self) -> Result<(), Self> {
        if self.flags != next.flags || self.name != next.name || self.is_special() {
            return Err(next);
        }
        let joins = match (&self.backing, &next.backing) {
            (None, None) => true,
            (Some(a), Some(b)) => {
                let same_file = match (&a.file, &b.file) {
                    (None, None) => true,
                    (Some(x), Some(y)) => Arc::ptr_eq(x, y),
                    _ => false,
                };
                same_file
                    && same_area(&a.area, &b.area)
                    && same_object(&a.object, &b.object)
                    && a.offset.checked_add(len) == Some(b.offset)
            }
            _ => false,
        };
        if joins { Ok(()) } else { Err(next) }
    }
}
