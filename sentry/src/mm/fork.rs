//! fork: a copy of an address space that shares memory copy-on-write.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;
use platform::Prot;

use super::interval_map::IntervalMap;
use super::pma::{Memory, Pma};
use super::vma::{VmFlags, VmaName};
use super::{MemoryManager, State};

impl MemoryManager {
    /// A copy of the address space, as it is now, for a child process (`dup_mm`). `ENOMEM`.
    ///
    /// The caller's guest thread is stopped in its system call; other threads of the address space
    /// are made to notice that their memory has become read-only before this returns.
    pub fn fork(&self) -> Result<Arc<MemoryManager>, Errno> {
        let mut st = self.state.write();
        let copy = State {
            vmas: IntervalMap::new(),
            pmas: IntervalMap::new(),
            layout: st.layout,
            brk: st.brk.clone(),
            total: 0,
            total_peak: 0,
            data: 0,
            locked: 0,
            def_flags: VmFlags::empty(),
            rss_peak: 0,
            exec: st.exec.clone(),
        };
        let stack_limit = self.stack_limit.load(Ordering::Relaxed);
        let child = MemoryManager::with_state(&self.ctx, stack_limit, copy)?;
        let mut vdso_base = None;
        {
            let mut to = child.state.write();
            let State { vmas, pmas, .. } = &mut *st;
            let mut protect = Protects { mm: self, run: None, any: false };
            for (range, vma) in vmas.iter() {
                if vma.flags.contains(VmFlags::DONTCOPY) {
                    continue;
                }
                if vma.name == VmaName::Vvar {
                    vdso_base = Some(range.start);
                }
                if let Some(backing) = &vma.backing {
                    backing.object.mappings().add(&child.this);
                }
                let mut vma = vma.clone();
                vma.flags -= VmFlags::LOCKED | VmFlags::LOCKONFAULT;
                let wipe = vma.flags.contains(VmFlags::WIPEONFORK);
                let private = vma.is_private();
                to.put_vma(range.clone(), vma);
                if wipe {
                    continue;
                }
                for (found, pma) in pmas.overlapping_mut(range.clone()) {
                    if private {
                        protect.make_cow(&found, pma);
                    }
                    let part = found.start.max(range.start)..found.end.min(range.end);
                    let shared = pma.share(part.start - found.start, part.end - part.start);
                    child.install(&mut to, part, shared, false);
                }
            }
            protect.flush();
            // With the lock held: a copy-on-write that another thread triggers must not run before
            // every thread has lost its right to write to the old pages.
            if protect.any {
                self.space.sync();
            }
        }
        match (vdso_base, self.ctx.platform.vdso()) {
            (Some(base), Some(_)) => child.space.move_vdso(base),
            (None, Some(_)) => child.space.unmap_vdso(),
            _ => {}
        }
        Ok(child)
    }
}

/// Collects neighbouring ranges that lose write permission into one command.
struct Protects<'a> {
    mm: &'a MemoryManager,
    run: Option<(Range<u64>, Prot)>,
    any: bool,
}

impl Protects<'_> {
    fn make_cow(&mut self, range: &Range<u64>, pma: &mut Pma) {
        if let Memory::Host { .. } = pma.memory {
            return;
        }
        pma.cow = true;
        if !pma.prot.write {
            return;
        }
        pma.prot.write = false;
        self.any = true;
        match &mut self.run {
            Some((run, prot)) if run.end == range.start && *prot == pma.prot => run.end = range.end,
            _ => {
                self.flush();
                self.run = Some((range.clone(), pma.prot));
            }
        }
    }

    fn flush(&mut self) {
        if let Some((range, prot)) = self.run.take() {
            self.mm.space.protect(range.start, range.end - range.start, prot);
        }
    }
}
