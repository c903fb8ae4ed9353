//! Guest memory. The contract that the rest of the kernel compiles against; the implementation
//! lands next.

use std::sync::Arc;

use abi::Errno;

use crate::vfs::io::UserRange;

/// What a file offers to mmap(2).
pub trait Mappable: Send + Sync {}

/// One guest address space.
pub struct MemoryManager {}

impl MemoryManager {
    /// Copies from guest memory; returns the bytes copied before a fault.
    pub fn copy_in(&self, addr: u64, buf: &mut [u8]) -> usize {
        let _ = (addr, buf);
        0
    }
    /// Copies to guest memory; returns the bytes copied before a fault.
    pub fn copy_out(&self, addr: u64, buf: &[u8]) -> usize {
        let _ = (addr, buf);
        0
    }
    /// Zeroes guest memory; returns the bytes zeroed before a fault.
    pub fn zero_out(&self, addr: u64, len: usize) -> usize {
        let _ = (addr, len);
        0
    }
    /// Copies a NUL-terminated string of at most `max` bytes (with the NUL, which is not returned).
    /// `EFAULT`; `ENAMETOOLONG` if there is no NUL.
    pub fn copy_in_cstr(&self, addr: u64, max: usize) -> Result<Vec<u8>, Errno> {
        let _ = (addr, max);
        Err(Errno::EFAULT)
    }
    /// Calls `f` with host iovecs for the pieces of guest memory.
    pub fn with_iovecs(
        &self,
        ranges: &[UserRange],
        write: bool,
        f: &mut dyn FnMut(&[libc::iovec]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        let _ = (ranges, write, f);
        Err(Errno::EFAULT)
    }
    /// Reads a struct.
    pub fn read_obj<T: zerocopy::FromBytes>(&self, addr: u64) -> Result<T, Errno> {
        let _ = addr;
        Err(Errno::EFAULT)
    }
    /// Writes a struct.
    pub fn write_obj<T: zerocopy::IntoBytes + zerocopy::Immutable + ?Sized>(
        &self,
        addr: u64,
        value: &T,
    ) -> Result<(), Errno> {
        let _ = (addr, value);
        Err(Errno::EFAULT)
    }
    /// Handles a page fault; an error is the signal to raise.
    pub fn handle_fault(&self, fault: &platform::Fault) -> Result<(), Errno> {
        let _ = fault;
        Err(Errno::EFAULT)
    }
    /// A copy for fork.
    pub fn fork(&self) -> Result<Arc<MemoryManager>, Errno> {
        Err(Errno::ENOMEM)
    }
}
