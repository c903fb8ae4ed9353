//! A host file that the gofer donated, as memory: what stubs map, and the Sentry's own windows
//! onto it, through which system calls reach guest memory that is backed by the file.
//!
//! Owns: the windows. Their number is bounded for the whole process; when the bound is hit, user
//! copies fall back to `pread`/`pwrite`.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;

use super::host::{self, Window};

/// Bytes of a window. One covers all of a usual program's or library's read-only data.
const WINDOW: u64 = 1 << 20;
/// Windows of all files together.
const MAX_WINDOWS: usize = 4096;

static WINDOWS: AtomicUsize = AtomicUsize::new(0);

/// See the module.
pub struct HostFile {
    fd: Arc<OwnedFd>,
    writable: bool,
    windows: RwLock<BTreeMap<u64, Window>>,
}

impl HostFile {
    /// Wraps a donated fd that is open for reading, and for writing if `writable`.
    pub fn new(fd: Arc<OwnedFd>, writable: bool) -> Arc<HostFile> {
        Arc::new(HostFile { fd, writable, windows: RwLock::new(BTreeMap::new()) })
    }

    /// The host's file descriptor.
    pub fn fd(&self) -> &Arc<OwnedFd> {
        &self.fd
    }

    /// Whether the fd is open for writing.
    pub fn writable(&self) -> bool {
        self.writable
    }

    /// The file's size now, as the host says.
    pub fn size(&self) -> u64 {
        host::file_size(self.fd.as_fd()).unwrap_or(0)
    }

    /// Address of the byte at `offset` in the Sentry, and how many bytes follow in the same
    /// window. `None` when no window can be had. Valid for as long as the file is: accesses past
    /// the file's end fault.
    pub(super) fn window(&self, offset: u64) -> Option<(*mut u8, u64)> {
        let base = offset & !(WINDOW - 1);
        let skip = offset - base;
        let at = |window: &Window| {
            // SAFETY: `skip` is less than the window's length.
            (unsafe { window.ptr().add(skip as usize) }, WINDOW - skip)
        };
        if let Some(window) = self.windows.read().get(&base) {
            return Some(at(window));
        }
        let mut windows = self.windows.write();
        if let Some(window) = windows.get(&base) {
            return Some(at(window));
        }
        if WINDOWS.fetch_add(1, Ordering::Relaxed) >= MAX_WINDOWS {
            WINDOWS.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        match Window::map(self.fd.as_fd(), base, WINDOW as usize, self.writable) {
            Ok(window) => Some(at(windows.entry(base).or_insert(window))),
            Err(_) => {
                WINDOWS.fetch_sub(1, Ordering::Relaxed);
                None
            }
        }
    }

    /// Reads into guest-shared memory. Returns the bytes read; fewer than `len` at the end of the
    /// file or on an error of the host.
    ///
    /// # Safety
    /// As for [`host::pread`].
    pub(super) unsafe fn read_to(&self, dst: *mut u8, len: usize, offset: u64) -> usize {
        // SAFETY: the caller's promise.
        unsafe { host::pread(self.fd.as_fd(), dst, len, offset) }.unwrap_or(0)
    }

    /// Writes `len` bytes. Returns the bytes written.
    ///
    /// # Safety
    /// As for [`host::pwrite`].
    pub(super) unsafe fn write_from(&self, src: *const u8, len: usize, offset: u64) -> usize {
        // SAFETY: the caller's promise.
        unsafe { host::pwrite(self.fd.as_fd(), src, len, offset) }.unwrap_or(0)
    }
}

impl Drop for HostFile {
    fn drop(&mut self) {
        WINDOWS.fetch_sub(self.windows.get_mut().len(), Ordering::Relaxed);
    }
}
