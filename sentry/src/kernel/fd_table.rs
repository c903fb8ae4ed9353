//! The table of file descriptors (`struct files_struct`), shared by `CLONE_FILES`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use parking_lot::RwLock;

use crate::kmem::{self, Growing};
use crate::vfs::{FileDescription, OpenFlags};

/// A descriptor table.
pub struct FdTable {
    /// Identity: the owner of record locks.
    id: u64,
    inner: RwLock<Inner>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Default for FdTable {
    fn default() -> Self {
        FdTable::from(Inner::default())
    }
}

impl From<Inner> for FdTable {
    fn from(inner: Inner) -> Self {
        FdTable { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), inner: RwLock::new(inner) }
    }
}

impl Drop for FdTable {
    /// Closes what is left, as close(2) would: when the last task that shares the table exits.
    fn drop(&mut self) {
        let id = self.id;
        for slot in std::mem::take(&mut self.inner.get_mut().slots).into_iter().flatten() {
            // There is nobody to tell of a failed flush.
            let _ = slot.file.closed(id);
        }
    }
}

#[derive(Default)]
struct Inner {
    slots: Vec<Option<Slot>>,
    /// What the slots cost, but for the first.
    memory: Growing,
    /// No slot below this is free.
    first_free: usize,
}

/// So many slots are a task's own expense.
const FIRST: usize = 256;

impl Inner {
    /// Makes room for so many slots (`expand_files`). `ENOMEM`
    fn grow(&mut self, slots: usize) -> Result<(), Errno> {
        if slots <= self.slots.len() {
            return Ok(());
        }
        if slots > self.slots.capacity() {
            let room = slots.max(self.slots.capacity().saturating_mul(2));
            // While they move, both are there; then the old ones are not.
            if !self.memory.cover(room.saturating_sub(FIRST) * kmem::SLOT) {
                return Err(Errno::ENOMEM);
            }
            self.slots.reserve_exact(room - self.slots.len());
        }
        self.slots.resize_with(slots, || None);
        Ok(())
    }
}

#[derive(Clone)]
struct Slot {
    file: Arc<FileDescription>,
    cloexec: bool,
}

impl FdTable {
    /// An empty table.
    pub fn new() -> Arc<FdTable> {
        Arc::new(FdTable::default())
    }

    /// A copy, as fork makes it. `ENOMEM`
    pub fn fork(&self) -> Result<Arc<FdTable>, Errno> {
        let from = self.inner.read();
        // Up to the last one in use (`sane_fdtable_size`).
        let last = from.slots.iter().rposition(Option::is_some).map_or(0, |at| at + 1);
        let mut copy = Inner::default();
        copy.grow(last)?;
        for (to, slot) in copy.slots.iter_mut().zip(&from.slots) {
            to.clone_from(slot);
        }
        copy.first_free = from.first_free.min(last);
        Ok(Arc::new(FdTable::from(copy)))
    }

    /// Identity: the owner of record locks.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The file behind `fd`. `EBADF` without one, and for a mere place (`O_PATH`).
    pub fn get(&self, fd: i32) -> Result<Arc<FileDescription>, Errno> {
        let file = self.get_raw(fd)?;
        if file.flags().contains(OpenFlags::PATH) { Err(Errno::EBADF) } else { Ok(file) }
    }

    /// The file or place (`O_PATH`) behind `fd`, `EBADF` without one.
    pub fn get_raw(&self, fd: i32) -> Result<Arc<FileDescription>, Errno> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let inner = self.inner.read();
        let slot = inner.slots.get(index).and_then(Option::as_ref).ok_or(Errno::EBADF)?;
        Ok(slot.file.clone())
    }

    /// The file and its close-on-exec flag.
    pub fn get_with_flag(&self, fd: i32) -> Result<(Arc<FileDescription>, bool), Errno> {
        self.slot(fd).map(|s| (s.file, s.cloexec))
    }

    fn slot(&self, fd: i32) -> Result<Slot, Errno> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        self.inner.read().slots.get(index).cloned().flatten().ok_or(Errno::EBADF)
    }

    /// Puts `file` at the lowest free descriptor that is at least `min`. `EMFILE` if that is not
    /// below `limit` (RLIMIT_NOFILE).
    pub fn install(
        &self,
        file: Arc<FileDescription>,
        cloexec: bool,
        min: i32,
        limit: u64,
    ) -> Result<i32, Errno> {
        let mut inner = self.inner.write();
        let start = usize::try_from(min).map_err(|_| Errno::EINVAL)?;
        let from = start.max(inner.first_free);
        let index = (from..inner.slots.len())
            .find(|&i| inner.slots[i].is_none())
            .unwrap_or_else(|| from.max(inner.slots.len()));
        if index as u64 >= limit || index > i32::MAX as usize {
            return Err(Errno::EMFILE);
        }
        inner.grow(index + 1)?;
        inner.slots[index] = Some(Slot { file, cloexec });
        if from == inner.first_free {
            inner.first_free = index + 1;
        }
        Ok(index as i32)
    }

    /// `EMFILE` if [`FdTable::install`] would say so: open(2) finds out before it opens or creates
    /// anything.
    pub fn check_room(&self, limit: u64) -> Result<(), Errno> {
        let inner = self.inner.read();
        let free = inner.slots.iter().skip(inner.first_free).position(Option::is_none);
        let index = free.map_or(inner.slots.len(), |n| inner.first_free + n);
        if index as u64 >= limit { Err(Errno::EMFILE) } else { Ok(()) }
    }

    /// Puts `file` at `fd`, and returns what was there (dup2). `EBADF` if `fd` is not below `limit`.
    pub fn replace(
        &self,
        fd: i32,
        file: Arc<FileDescription>,
        cloexec: bool,
        limit: u64,
    ) -> Result<Option<Arc<FileDescription>>, Errno> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        if index as u64 >= limit {
            return Err(Errno::EBADF);
        }
        let mut inner = self.inner.write();
        inner.grow(index + 1)?;
        let old = inner.slots[index].replace(Slot { file, cloexec });
        drop(inner);
        if let Some(slot) = &old {
            // dup2(2) does not tell of a failed flush.
            let _ = slot.file.closed(self.id);
        }
        Ok(old.map(|s| s.file))
    }

    /// close(2): takes the file out, gives up the process's record locks on it, and tells the error
    /// of its flush.
    pub fn close(&self, fd: i32) -> Result<(), Errno> {
        self.remove(fd)?.closed(self.id)
    }

    /// Takes the file out without closing it (a descriptor that was never shown to the guest).
    pub fn remove(&self, fd: i32) -> Result<Arc<FileDescription>, Errno> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let mut inner = self.inner.write();
        let slot = inner.slots.get_mut(index).and_then(Option::take).ok_or(Errno::EBADF)?;
        inner.first_free = inner.first_free.min(index);
        Ok(slot.file)
    }

    /// Sets the close-on-exec flag.
    pub fn set_cloexec(&self, fd: i32, cloexec: bool) -> Result<(), Errno> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let mut inner = self.inner.write();
        let slot = inner.slots.get_mut(index).and_then(Option::as_mut).ok_or(Errno::EBADF)?;
        slot.cloexec = cloexec;
        Ok(())
    }

    /// Closes what `which` says (fd, close-on-exec flag): execve, close_range, exit.
    pub fn remove_if(&self, which: impl Fn(i32, bool) -> bool) -> Vec<Arc<FileDescription>> {
        let mut inner = self.inner.write();
        let mut gone = Vec::new();
        for index in 0..inner.slots.len() {
            if inner.slots[index].as_ref().is_some_and(|s| which(index as i32, s.cloexec)) {
                gone.extend(inner.slots[index].take().map(|s| s.file));
                inner.first_free = inner.first_free.min(index);
            }
        }
        drop(inner);
        for file in &gone {
            // None of those who do this tells of a failed flush.
            let _ = file.closed(self.id);
        }
        gone
    }

    /// All descriptors in use, in order.
    pub fn fds(&self) -> Vec<i32> {
        let inner = self.inner.read();
        (0..inner.slots.len()).filter(|&i| inner.slots[i].is_some()).map(|i| i as i32).collect()
    }

    /// The size of the table as /proc/PID/status shows it (`FDSize`).
    pub fn capacity(&self) -> usize {
        self.inner.read().slots.len().next_power_of_two().max(64)
    }
}
