//! Where the stub's own pages are in every stub process of this platform.

use crate::PAGE_SIZE;
use crate::arch::doorbell::{self, BLOCK_LEN, BLOCKS_HIGH};

/// First address that guests cannot have.
pub(super) const USER_END: u64 = (BLOCKS_HIGH as u64) << 32;
/// One past the highest user address of Linux on x86-64 with four-level page tables
/// (`TASK_SIZE_MAX`).
pub(super) const HOST_END: u64 = 0x7fff_ffff_f000;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    base: u64,
}

impl Layout {
    /// Bytes that the stub keeps for itself.
    const LEN: u64 = 1 << 31;
    const PARKING: u64 = 0x1_0000;
    const PARKING_LEN: u64 = 0x1_0000;
    const TRAMPOLINES: u64 = 0x10_0000;
    const BLOCKS: u64 = 0x1000_0000;

    /// Bytes of [`Layout::trampolines`].
    pub(super) const TRAMPOLINES_LEN: u64 = 0x10_0000;
    /// Most guest threads that a process can have.
    pub(super) const BLOCKS_MAX: u64 = (Layout::LEN - Layout::BLOCKS) / BLOCK_LEN;

    /// The same in every process.
    pub(super) fn new() -> Layout {
        Layout { base: USER_END }
    }

    /// The page with the stub's code: read and execute.
    pub(super) fn code(self) -> u64 {
        self.base
    }

    /// A page with what the code needs to know: read only.
    pub(super) fn constants(self) -> u64 {
        self.base + doorbell::CONSTANTS
    }

    /// The page with the commands: read only; its frames belong to the Sentry.
    pub(super) fn commands(self) -> u64 {
        self.base + doorbell::COMMANDS
    }

    /// A writable page, before there is a guest.
    pub(super) fn scratch(self) -> u64 {
        self.base + doorbell::SCRATCH
    }

    /// Where vvar and vDSO are in a blank process, and on the way when they are moved onto a part of
    /// their old place: address, bytes.
    pub(super) fn parking(self) -> (u64, u64) {
        (self.base + Layout::PARKING, Layout::PARKING_LEN)
    }

    /// Where the trampolines of patched call sites are: read and execute.
    pub(super) fn trampolines(self) -> u64 {
        self.base + Layout::TRAMPOLINES
    }

    /// All of it that is mapped for the guest's sake: address, bytes.
    pub(super) fn guests(self) -> (u64, u64) {
        (self.base + Layout::PARKING, Layout::LEN - Layout::PARKING)
    }

    /// The block of a guest thread: read and write.
    pub(super) fn block(self, slot: u64) -> u64 {
        self.base + Layout::BLOCKS + slot * BLOCK_LEN
    }
}

const _: () = assert!(doorbell::SCRATCH + PAGE_SIZE <= Layout::PARKING);
const _: () = assert!(Layout::BLOCKS.is_multiple_of(BLOCK_LEN));
