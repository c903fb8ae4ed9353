//! Areas that somebody counts: System V segments are there for as long as an area shows them.
//!
//! Lock order: [`AreaOps`] is called with `MemoryManager::state` held.

use std::ops::Range;
use std::sync::Arc;

use abi::Errno;

use super::{MemoryManager, PAGE, page_up};

/// Who is told of the areas that show an object (`vm_operations_struct`).
pub trait AreaOps: Send + Sync {
    /// There is one more (`open`).
    fn opened(&self);
    /// One is gone (`close`). Must not look at address spaces.
    fn closed(&self);
    /// What /proc/PID/maps shows in the place of a file's name.
    fn name(&self) -> Vec<u8>;
    /// What it shows as the inode.
    fn ino(&self) -> u64;
}

/// One area, counted until the last copy of this is dropped: a copy is the same area.
#[derive(Clone)]
pub(super) struct OpenArea(Arc<Open>);

struct Open(Arc<dyn AreaOps>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.closed();
    }
}

impl OpenArea {
    /// Counts an area.
    pub(super) fn new(ops: &Arc<dyn AreaOps>) -> OpenArea {
        ops.opened();
        OpenArea(Arc::new(Open(ops.clone())))
    }

    /// Counts another area.
    pub(super) fn another(&self) -> OpenArea {
        OpenArea::new(self.ops())
    }

    /// Who is told.
    pub(super) fn ops(&self) -> &Arc<dyn AreaOps> {
        &self.0.0
    }

    /// Whether both came of the same mapping.
    pub(super) fn is_kin(&self, other: &OpenArea) -> bool {
        Arc::ptr_eq(self.ops(), other.ops())
    }
}

/// Whether two pieces are the same area, if they are counted.
pub(super) fn same_area(a: &Option<OpenArea>, b: &Option<OpenArea>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => Arc::ptr_eq(&a.0, &b.0),
        _ => false,
    }
}

impl MemoryManager {
    /// shmdt(2): unmaps what is left of the mapping of a counted object that began at `addr`.
    /// `EINVAL` if there is none.
    pub fn detach(&self, addr: u64) -> Result<(), Errno> {
        if !addr.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        let mut st = self.state.write();
        let mut first: Option<(OpenArea, u64)> = None;
        let mut parts: Vec<Range<u64>> = Vec::new();
        for (range, vma) in st.vmas.overlapping(addr..u64::MAX) {
            let Some(from) = range.start.checked_sub(addr) else { continue };
            if first.as_ref().is_some_and(|(_, size)| range.end - addr > *size) {
                break;
            }
            let Some(backing) = &vma.backing else { continue };
            let Some(area) = backing.area.as_ref().filter(|_| backing.offset == from) else {
                continue;
            };
            match &first {
                Some((kin, _)) if !kin.is_kin(area) => continue,
                Some(_) => {}
                None => {
                    let size = page_up(backing.object.size()).unwrap_or(u64::MAX);
                    first = Some((area.clone(), size));
                }
            }
            parts.push(range);
        }
        if parts.is_empty() {
            return Err(Errno::EINVAL);
        }
        for range in parts {
            self.remove(&mut st, range);
        }
        Ok(())
    }
}
