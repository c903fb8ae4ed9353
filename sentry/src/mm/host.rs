//! The few host calls that the memory manager makes, each behind a safe function where one is
//! possible.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use abi::Errno;

/// Fills `buf` with random bytes (`getrandom(2)`). Never fails once the host's pool is set up,
/// which it is long before a sandbox starts.
pub fn random_bytes(buf: &mut [u8]) {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        // SAFETY: `rest` is valid for writes of its length.
        let n = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        done += usize::try_from(n).unwrap_or(0);
    }
}

/// A random number.
pub fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    random_bytes(&mut bytes);
    u64::from_ne_bytes(bytes)
}

/// A memory barrier on all threads of the machine, stubs included (`membarrier(2)`,
/// `MEMBARRIER_CMD_GLOBAL`). `EINVAL` where the host has none.
pub fn global_barrier() -> Result<(), Errno> {
    // SAFETY: the call takes no pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, 1, 0, 0) };
    if result == 0 { Ok(()) } else { Err(Errno::EINVAL) }
}

/// The host file's size in bytes (`fstat(2)`).
pub(super) fn file_size(file: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: `stat` is plain data; all zeroes is a value of it.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is valid for writes.
    if unsafe { libc::fstat(file.as_raw_fd(), &raw mut stat) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::try_from(stat.st_size).unwrap_or(0))
}

/// Reads from a host file into memory that others may write. Returns the bytes read, fewer than
/// `len` at the end of the file.
///
/// # Safety
/// `dst` must lie in the Sentry's mapping of the memory file, or be valid for writes of `len`
/// bytes that nothing in Rust refers to.
pub(super) unsafe fn pread(
    file: BorrowedFd<'_>,
    dst: *mut u8,
    len: usize,
    offset: u64,
) -> io::Result<usize> {
    let mut done = 0;
    while done < len {
        let at = i64::try_from(offset.saturating_add(done as u64)).unwrap_or(i64::MAX);
        // SAFETY: the caller's promise; `done < len`.
        let n = unsafe { libc::pread(file.as_raw_fd(), dst.add(done).cast(), len - done, at) };
        match usize::try_from(n) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return if done > 0 { Ok(done) } else { Err(error) };
                }
            }
        }
    }
    Ok(done)
}

/// Writes to a host file from memory that others may write. Returns the bytes written.
///
/// # Safety
/// `src` must lie in the Sentry's mapping of the memory file, or be valid for reads of `len` bytes.
pub(super) unsafe fn pwrite(
    file: BorrowedFd<'_>,
    src: *const u8,
    len: usize,
    offset: u64,
) -> io::Result<usize> {
    let at = i64::try_from(offset).unwrap_or(i64::MAX);
    // SAFETY: the caller's promise.
    let n = unsafe { libc::pwrite(file.as_raw_fd(), src.cast(), len, at) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// Which pages of a part of the Sentry's own mappings are in memory (`mincore(2)`): bit 0 of a
/// byte for each page.
pub(super) fn mincore(ptr: *const u8, pages: &mut [u8]) -> io::Result<()> {
    let len = pages.len() * platform::PAGE_SIZE as usize;
    // SAFETY: mincore only looks at page tables; `pages` has a byte for each page of `len`.
    if unsafe { libc::mincore(ptr.cast_mut().cast(), len, pages.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Commits pages of the Sentry's mapping of the memory file (`MADV_POPULATE_WRITE`), without
/// changing what they hold.
///
/// # Safety
/// The range must lie in the Sentry's mapping of the memory file.
pub(super) unsafe fn commit(ptr: *mut u8, len: usize) -> io::Result<()> {
    // SAFETY: populating does not change the contents of a shared mapping.
    if unsafe { libc::madvise(ptr.cast(), len, libc::MADV_POPULATE_WRITE) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A shared mapping of a part of a host file in the Sentry. Unmapped when dropped.
pub(super) struct Window {
    ptr: *mut u8,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread; it is only reached through
// `usercopy` and atomics.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    /// Maps `len` bytes at `offset` of the file.
    pub(super) fn map(
        file: BorrowedFd<'_>,
        offset: u64,
        len: usize,
        write: bool,
    ) -> io::Result<Window> {
        let prot = if write { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: a fresh mapping at an address of the host's choice.
        let ptr = unsafe {
            libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_SHARED, file.as_raw_fd(), offset)
        };
        if ptr == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Window { ptr: ptr.cast(), len })
    }

    /// First byte. Any access may fault: only for `platform::usercopy`.
    pub(super) fn ptr(&self) -> *mut u8 {
        self.ptr
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and whoever used it has borrowed us.
        unsafe { libc::munmap(self.ptr.cast(), self.len) };
    }
}
