//! Physical memory areas: what backs a part of an address space now.

use std::sync::Arc;

use platform::{Frames, Prot, Source};

use super::HostFile;
use super::interval_map::Segment;

/// Memory behind an area.
pub(super) enum Memory {
    /// A range of the memory file, as long as the area.
    Frames(Frames),
    /// A range of a host file. `shared`: mapped so that writes reach the file.
    Host { file: Arc<HostFile>, offset: u64, shared: bool },
}

/// What backs a range of addresses, and what the guest may do there without asking.
pub(super) struct Pma {
    pub(super) memory: Memory,
    /// What the stub's page tables allow; user copies obey it as well.
    pub(super) prot: Prot,
    /// Belongs to others as well: must be copied before it is written. Only in private areas; the
    /// owners of [`Memory::Frames`] may have gone since.
    pub(super) cow: bool,
    /// Holds the area's own pages (anonymous memory, copies of file pages) rather than an object's.
    pub(super) private: bool,
}

impl Pma {
    /// What to tell the platform to map.
    pub(super) fn source(&self) -> Source {
        match &self.memory {
            Memory::Frames(frames) => {
                let shared = !self.private && !self.cow;
                Source::Memory { offset: frames.offset(), shared }
            }
            Memory::Host { file, offset, shared } => {
                Source::Host { file: file.fd().clone(), offset: *offset, shared: *shared }
            }
        }
    }

    /// A second mapping of `len` bytes from `start` on of the same memory.
    pub(super) fn share(&self, start: u64, len: u64) -> Pma {
        let memory = match &self.memory {
            Memory::Frames(frames) => Memory::Frames(frames.share(start, len)),
            Memory::Host { file, offset, shared } => Memory::Host {
                file: file.clone(),
                offset: offset.saturating_add(start),
                shared: *shared,
            },
        };
        Pma { memory, prot: self.prot, cow: self.cow, private: self.private }
    }

    /// Bytes of the sandbox's limit that dropping it gives back.
    pub(super) fn own(&self) -> u64 {
        match &self.memory {
            Memory::Frames(frames) if frames.is_sole_owner() => frames.len(),
            Memory::Frames(_) | Memory::Host { .. } => 0,
        }
    }

    /// Splits off everything from `at` bytes onward.
    pub(super) fn split_at(&mut self, at: u64) -> Pma {
        self.split_off(at)
    }

    /// The access that the page tables may give for an area that allows `prot`.
    pub(super) fn allowed(&self, prot: Prot) -> Prot {
        Prot { write: prot.write && !self.cow, ..prot }
    }
}

impl Segment for Pma {
    fn split_off(&mut self, at: u64) -> Self {
        let memory = match &mut self.memory {
            Memory::Frames(frames) => Memory::Frames(frames.split_off(at)),
            Memory::Host { file, offset, shared } => Memory::Host {
                file: file.clone(),
                offset: offset.saturating_add(at),
                shared: *shared,
            },
        };
        Pma { memory, prot: self.prot, cow: self.cow, private: self.private }
    }

    fn try_merge(&mut self, len: u64, next: Self) -> Result<(), Self> {
        if (self.prot, self.cow, self.private) != (next.prot, next.cow, next.private) {
            return Err(next);
        }
        let Pma { prot, cow, private, memory } = next;
        let apart = |memory| Pma { memory, prot, cow, private };
        match (&mut self.memory, memory) {
            (Memory::Frames(frames), Memory::Frames(more)) => {
                frames.try_append(more).map_err(|back| apart(Memory::Frames(back)))
            }
            (
                Memory::Host { file, offset, shared },
                Memory::Host { file: next_file, offset: next_offset, shared: next_shared },
            ) if Arc::ptr_eq(file, &next_file)
                && offset.checked_add(len) == Some(next_offset)
                && *shared == next_shared =>
            {
                Ok(())
            }
            (_, memory) => Err(apart(memory)),
        }
    }
}
