//! The memory file: one sparse memfd that holds all guest memory that is not a mapping of a host
//! file, mapped once, whole, into the Sentry.
//!
//! Owns: the memfd, the Sentry's mapping of it, the allocator, the reference counts. [`Frames`] is
//! the only way to own a part of it.
//!
//! Freed ranges go into a bounded pool of dirty, still committed memory; small allocations are
//! served from it (a committed page costs a clearing, a fresh one a host fault several times as
//! dear). What exceeds the bound is punched out at once, and what the pool did not need for a
//! second is punched out by [`MemoryFile::give_back`].
//!
//! Locks: `state` only, innermost; never held over a host call or while memory is cleared.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::{Error, PAGE_SIZE, usercopy};

mod frames;
mod shares;
mod space;

pub use frames::Frames;
use shares::Shares;
use space::FreeSet;

/// Largest limit of a memory file. Four times that fits in the Sentry's address space.
const LIMIT_MAX: u64 = 1 << 43;
/// The most that [`MemoryFile::lend`] does not count at a time.
const LENT_MAX: u64 = 16 << 20;
/// The file's span is this many times its limit, so that fragmentation does not run it dry.
const SPAN_FACTOR: u64 = 4;
/// Upper bound of the pool of dirty ranges.
const POOL_MAX: u64 = 64 << 20;
/// Longest range that goes into the pool when it is freed.
const POOL_RANGE_MAX: u64 = 8 << 20;
/// Longest allocation that is served from the pool: more would be cleared without being needed.
const RECYCLE_MAX: u64 = 1 << 20;
/// Above this length the host is asked which pages of a recycled range need clearing at all.
const SPARSE_MIN: u64 = 64 << 10;
/// Freeing so many bytes at once is worth a look at what is in use before.
const PEAK_MIN: u64 = 1 << 20;
/// How long the pool must not have needed memory before the memory goes back to the host.
const IDLE: Duration = Duration::from_secs(1);

/// The sandbox's memory file. Cheap to share through [`Arc`].
pub struct MemoryFile {
    file: File,
    base: *mut u8,
    span: u64,
    limit: u64,
    pool_max: u64,
    state: Mutex<State>,
    /// Signalled when the pool stops being empty.
    pool_filled: Condvar,
}

// SAFETY: `base` points at a mapping that lives as long as the value and that is accessed through
// `usercopy` only, which tolerates concurrent changes.
unsafe impl Send for MemoryFile {}
// SAFETY: as above; everything else is behind `state`.
unsafe impl Sync for MemoryFile {}

struct State {
    /// Free and known to read as zeroes.
    clean: FreeSet,
    /// Free, with unknown content.
    dirty: FreeSet,
    shares: Shares,
    /// Bytes handed out; shared bytes count once. With `charged`.
    used: u64,
    /// Bytes elsewhere that count for the limit.
    charged: u64,
    /// Bytes over the limit that may be handed out: they are about to come back.
    lent: u64,
    /// Most bytes that were found committed and in use; see [`MemoryFile::peak`].
    peak: u64,
    /// The least that `dirty` held since the last [`MemoryFile::give_back`].
    pool_low_water: u64,
}

/// What an allocation must contain.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fill {
    Zero,
    /// The caller overwrites everything.
    Anything,
}

impl MemoryFile {
    /// Creates a memory file that hands out at most `limit` bytes at a time.
    ///
    /// # Errors
    /// What memfd_create(2), ftruncate(2) and mmap(2) give; `EINVAL` for a limit above 8 TiB.
    pub fn new(limit: u64) -> Result<Arc<MemoryFile>, Error> {
        if limit > LIMIT_MAX {
            return Err(Error::host("memory file limit", libc::EINVAL));
        }
        usercopy::install_fault_handler();
        let limit = limit.next_multiple_of(PAGE_SIZE).max(PAGE_SIZE);
        let span = limit * SPAN_FACTOR;
        let file = memfd()?;
        file.set_len(span).map_err(|e| Error::Host { what: "ftruncate", source: e })?;
        // SAFETY: plain system call on a file descriptor that we own. Nothing relies on the
        // answer: without seals the file is as usable.
        unsafe {
            libc::fcntl(
                file.as_raw_fd(),
                libc::F_ADD_SEALS,
                libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL,
            );
        }
        // SAFETY: a new mapping at an address of the host's choice.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                span as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_NORESERVE,
                file.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(Error::last("mmap of the memory file"));
        }
        let mut clean = FreeSet::default();
        clean.insert(0, span);
        Ok(Arc::new(MemoryFile {
            file,
            base: base.cast(),
            span,
            limit,
            pool_max: POOL_MAX.min(limit / 4),
            state: Mutex::new(State {
                clean,
                dirty: FreeSet::default(),
                shares: Shares::default(),
                used: 0,
                charged: 0,
                lent: 0,
                peak: 0,
                pool_low_water: 0,
            }),
            pool_filled: Condvar::new(),
        }))
    }

    /// Allocates `len` bytes (a positive multiple of the page size) of zeroed memory in one
    /// contiguous range. `None` when the limit is reached.
    pub fn allocate(self: &Arc<Self>, len: u64) -> Option<Frames> {
        self.allocate_at(len, None, Fill::Zero)
    }

    /// As [`MemoryFile::allocate`], directly behind offset `after` if that is free, so that the
    /// result can be appended to the [`Frames`] that end there; anywhere else if not.
    pub fn allocate_after(self: &Arc<Self>, len: u64, after: u64) -> Option<Frames> {
        self.allocate_at(len, Some(after), Fill::Zero)
    }

    fn allocate_at(self: &Arc<Self>, len: u64, at: Option<u64>, fill: Fill) -> Option<Frames> {
        if len == 0 || !len.is_multiple_of(PAGE_SIZE) {
            return None;
        }
        let mut found = self.find(len, at, fill);
        if found == Found::Fragmented {
            // The pool may hold what is missing.
            self.shrink_pool(u64::MAX);
            found = self.find(len, at, fill);
        }
        let (offset, recycled) = match found {
            Found::Clean(offset) => (offset, false),
            Found::Dirty(offset) => (offset, true),
            Found::Full | Found::Fragmented => return None,
        };
        self.bound_pool();
        let mut frames = Frames::new(self.clone(), offset, len, recycled);
        if recycled && fill == Fill::Zero && !self.clear_recycled(offset, len) {
            // The host is out of memory (SIGBUS); a hole is as good and needs none.
            self.punch(offset, len);
            frames.set_fresh();
        }
        Some(frames)
    }

    /// Does not count `bytes` that are handed out, because they come back in a moment. `None` for more
    /// than a small part of the limit: that would be a lie.
    pub fn lend(self: &Arc<Self>, bytes: u64) -> Option<Loan> {
        let mut state = self.state.lock();
        let lent = state.lent.checked_add(bytes)?;
        (lent <= LENT_MAX.min(self.limit / 32)).then(|| {
            state.lent = lent;
            Loan { memory: self.clone(), bytes }
        })
    }

    /// Together with the pool, no more than the limit is committed.
    fn bound_pool(&self) {
        let excess = {
            let state = self.state.lock();
            (state.used + state.dirty.bytes()).saturating_sub(self.limit)
        };
        if excess > 0 {
            self.shrink_pool(excess);
        }
    }

    /// Counts `bytes` that lie elsewhere for the limit. False if it is reached.
    pub fn charge(&self, bytes: u64) -> bool {
        {
            let mut state = self.state.lock();
            if bytes > state.left(self.limit) {
                return false;
            }
            state.used += bytes;
            state.charged += bytes;
        }
        self.bound_pool();
        true
    }

    /// Takes back what [`MemoryFile::charge`] counted.
    pub fn uncharge(&self, bytes: u64) {
        let mut state = self.state.lock();
        state.used = state.used.saturating_sub(bytes);
        state.charged = state.charged.saturating_sub(bytes);
    }

    fn find(&self, len: u64, at: Option<u64>, fill: Fill) -> Found {
        let mut state = self.state.lock();
        if len > state.left(self.limit) {
            return Found::Full;
        }
        let recycle = len <= RECYCLE_MAX || fill == Fill::Anything;
        let found = if let Some(at) =
            at.filter(|at| at.checked_add(len).is_some_and(|e| e <= self.span))
            && let Some(found) = state.take_at(at, len, recycle)
        {
            found
        } else if recycle && let Some(offset) = state.dirty.take_fit(len) {
            Found::Dirty(offset)
        } else if let Some(offset) = state.clean.take_fit(len) {
            Found::Clean(offset)
        } else {
            return Found::Fragmented;
        };
        state.used += len;
        state.pool_low_water = state.pool_low_water.min(state.dirty.bytes());
        found
    }

    /// Makes a recycled range read as zeroes. False if the host had no memory for it.
    fn clear_recycled(&self, offset: u64, len: u64) -> bool {
        if len <= SPARSE_MIN {
            return self.clear(offset, len);
        }
        let mut cleared = true;
        self.for_each_present(offset, len, |start, len| cleared &= self.clear(start, len));
        cleared
    }

    fn clear(&self, offset: u64, len: u64) -> bool {
        // SAFETY: the range lies in the mapping, and a caller of `clear` owns it.
        unsafe { usercopy::zero(self.base.add(offset as usize), len as usize) == len as usize }
    }

    /// Calls `each(offset, len)` for the parts of a range that are not holes. lseek(2) is asked and
    /// not mincore(2): a page that was swapped out must not be taken for a hole.
    fn for_each_present(&self, offset: u64, len: u64, mut each: impl FnMut(u64, u64)) {
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let start = match self.seek(at, libc::SEEK_DATA) {
                Ok(start) if start >= end => return,
                Ok(start) => start,
                // No data up to the end of the file.
                Err(libc::ENXIO) => return,
                Err(_) => return each(at, end - at),
            };
            let stop = self.seek(start, libc::SEEK_HOLE).unwrap_or(end).clamp(start, end);
            each(start, stop - start);
            at = stop;
        }
    }

    fn seek(&self, offset: u64, whence: i32) -> Result<u64, i32> {
        // SAFETY: plain system call. The file position is used by nothing.
        let found = unsafe { libc::lseek(self.file.as_raw_fd(), offset as i64, whence) };
        u64::try_from(found).map_err(|_| crate::errno())
    }

    /// Gives a range's memory back to the host; it reads as zeroes afterwards.
    fn punch(&self, offset: u64, len: u64) {
        // SAFETY: plain system call on our own file.
        let result = unsafe {
            libc::fallocate(
                self.file.as_raw_fd(),
                libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                offset as i64,
                len as i64,
            )
        };
        // It cannot fail on a memfd with valid arguments, and going on would hand out old data.
        assert!(result == 0, "punching the memory file: {}", io::Error::last_os_error());
    }

    /// Drops one owner of a range.
    fn release(&self, offset: u64, len: u64) {
        if len >= PEAK_MIN {
            self.note_peak();
        }
        let mut punch: Vec<(u64, u64)> = Vec::new();
        {
            let mut guard = self.state.lock();
            let State { shares, dirty, used, .. } = &mut *guard;
            let was_empty = dirty.bytes() == 0;
            shares.remove(offset, offset + len, |start, end| {
                let len = end - start;
                *used -= len;
                if len <= POOL_RANGE_MAX && dirty.bytes() + len <= self.pool_max {
                    dirty.insert(start, len);
                } else {
                    punch.push((start, len));
                }
            });
            if was_empty && dirty.bytes() > 0 {
                self.pool_filled.notify_all();
            }
        }
        self.punch_out(&punch);
    }

    fn punch_out(&self, ranges: &[(u64, u64)]) {
        for &(offset, len) in ranges {
            self.punch(offset, len);
        }
        if !ranges.is_empty() {
            let mut state = self.state.lock();
            for &(offset, len) in ranges {
                state.clean.insert(offset, len);
            }
        }
    }

    /// Gives `bytes` of the pool, in whole pages, back to the host.
    fn shrink_pool(&self, bytes: u64) {
        // Whole pages: what stays is handed out again.
        let mut bytes = bytes.checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX);
        let mut taken = Vec::new();
        {
            let mut state = self.state.lock();
            while bytes > 0
                && let Some((offset, len)) = state.dirty.take_from_largest(bytes)
            {
                bytes -= len;
                taken.push((offset, len));
            }
            state.pool_low_water = state.pool_low_water.min(state.dirty.bytes());
        }
        self.punch_out(&taken);
    }

    /// Gives back to the host what the pool did not need since the previous call. To be called
    /// once a second, or left to [`MemoryFile::spawn_reclaimer`]. Returns whether the pool still
    /// holds anything.
    pub fn give_back(&self) -> bool {
        let unused = self.state.lock().pool_low_water;
        self.shrink_pool(unused);
        let mut state = self.state.lock();
        state.pool_low_water = state.dirty.bytes();
        state.pool_low_water > 0
    }

    /// Starts a thread that calls [`MemoryFile::give_back`] while there is something to give back,
    /// and sleeps otherwise. It lives as long as the process.
    pub fn spawn_reclaimer(self: &Arc<Self>) -> io::Result<()> {
        let file = self.clone();
        std::thread::Builder::new().name("reclaimer".into()).spawn(move || {
            loop {
                let mut state = file.state.lock();
                while state.dirty.bytes() == 0 {
                    file.pool_filled.wait(&mut state);
                }
                drop(state);
                while file.give_back() {
                    std::thread::sleep(IDLE);
                }
            }
        })?;
        Ok(())
    }

    /// Bytes handed out now; shared bytes count once.
    pub fn used(&self) -> u64 {
        self.state.lock().used
    }

    /// Bytes that can still be handed out.
    pub fn left(&self) -> u64 {
        self.state.lock().left(self.limit)
    }

    /// The limit in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes that the host has committed to the file: touched pages and the pool. One fstat(2).
    pub fn committed(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        self.file.metadata().map_or(0, |m| m.blocks() * 512)
    }

    /// Bytes in use: handed out, and touched as far as the host's account tells. One fstat(2).
    pub fn resident(&self) -> u64 {
        let committed = self.committed();
        let state = self.state.lock();
        let own = state.used - state.charged.min(state.used);
        committed.saturating_sub(state.dirty.bytes()).min(own) + state.charged
    }

    /// Looks how much is in use now, for [`MemoryFile::peak`].
    pub fn note_peak(&self) {
        let resident = self.resident();
        let mut state = self.state.lock();
        state.peak = state.peak.max(resident);
    }

    /// The most bytes that were in use when somebody looked: before much was freed at once, and
    /// now.
    pub fn peak(&self) -> u64 {
        self.note_peak();
        self.state.lock().peak
    }

    /// Address of an offset in the Sentry's mapping.
    pub(crate) fn ptr(&self, offset: u64) -> *mut u8 {
        debug_assert!(offset <= self.span);
        // SAFETY: `offset` is at most `span`, the length of the mapping.
        unsafe { self.base.add(offset as usize) }
    }
}

impl AsFd for MemoryFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        // SAFETY: our own mapping; every `Frames` holds an `Arc` of self, so none is left.
        unsafe { libc::munmap(self.base.cast(), self.span as usize) };
    }
}

/// What [`MemoryFile::lend`] does not count, until dropped.
#[must_use = "dropping it counts the bytes again"]
pub struct Loan {
    memory: Arc<MemoryFile>,
    bytes: u64,
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.memory.state.lock().lent -= self.bytes;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Clean(u64),
    Dirty(u64),
    /// The limit is reached.
    Full,
    /// There is room, but not in one piece.
    Fragmented,
}

impl State {
    /// Bytes that can be handed out.
    fn left(&self, limit: u64) -> u64 {
        (limit + self.lent).saturating_sub(self.used)
    }

    fn take_at(&mut self, at: u64, len: u64, recycle: bool) -> Option<Found> {
        if self.clean.take_at(at, len) {
            Some(Found::Clean(at))
        } else if recycle && self.dirty.take_at(at, len) {
            Some(Found::Dirty(at))
        } else {
            None
        }
    }
}

fn memfd() -> Result<File, Error> {
    let name = c"rsentry-memory";
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // A host before 6.3 does not know MFD_NOEXEC_SEAL (the *file* cannot be executed).
    for flags in [flags | libc::MFD_NOEXEC_SEAL, flags] {
        // SAFETY: plain system call with a valid string.
        let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
        if fd >= 0 {
            // SAFETY: a new descriptor that nobody else owns.
            return Ok(unsafe { File::from_raw_fd(fd) });
        }
    }
    Err(Error::last("memfd_create"))
}

#[cfg(test)]
mod tests;
