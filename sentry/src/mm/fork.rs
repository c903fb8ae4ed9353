//! fork: a copy of an address space that shares memory copy-on-write.
//!
//! A copy-on-write fault costs far more here than copying a few pages. What parent or child wrote
//! to after earlier forks ([`HotChunks`]: the stack's end, thread-local storage, the C library's
//! data) is therefore copied for the child at once, and the parent keeps its right to write it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;
use parking_lot::Mutex;
use platform::Prot;
use smallvec::SmallVec;

use super::interval_map::IntervalMap;
use super::pma::{Memory, Pma};
use super::vma::{VmFlags, Vma, VmaName};
use super::{FIRST_AREAS, MemoryManager, State};
use crate::kmem::{self, Growing};

/// Size of a hot chunk.
const HOT_CHUNK: u64 = 16 << 10;
/// Most hot chunks of a family: what a fork copies at most.
const MAX_HOT: usize = 16;

/// Where copy-on-write faults happened lately in a family of forked address spaces; the latest
/// first.
#[derive(Default)]
pub(super) struct HotChunks {
    chunks: Mutex<SmallVec<[u64; MAX_HOT]>>,
}

impl HotChunks {
    /// Notes a copy-on-write fault.
    pub(super) fn note(&self, addr: u64) {
        let chunk = addr & !(HOT_CHUNK - 1);
        let mut chunks = self.chunks.lock();
        if !chunks.contains(&chunk) {
            chunks.truncate(MAX_HOT - 1);
            chunks.insert(0, chunk);
        }
    }

    fn ranges(&self) -> SmallVec<[Range<u64>; MAX_HOT]> {
        self.chunks.lock().iter().map(|chunk| *chunk..*chunk + HOT_CHUNK).collect()
    }
}

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
            layout: st.layout.afresh(),
            brk: st.brk.clone(),
            total: 0,
            total_peak: 0,
            data: 0,
            locked: 0,
            def_flags: VmFlags::empty(),
            rss_peak: 0,
            exec: st.exec.clone(),
            records: Growing::default(),
        };
        let stack_limit = self.stack_limit.load(Ordering::Relaxed);
        let child = MemoryManager::with_state(&self.ctx, stack_limit, self.hot.clone(), copy)?;
        // The forking thread's is the only other reference when nobody else can run; a copy must not
        // race with writes, which could then be seen out of order.
        let alone = Arc::strong_count(&self.space) <= 2;
        let hot = if alone { self.hot.ranges() } else { SmallVec::new() };
        for range in &hot {
            self.prepare_hot(&mut st, range);
        }
        let is_hot = |at: u64| hot.iter().any(|range| range.contains(&at));
        let mut vdso_base = None;
        {
            let mut to = child.state.write();
            let records = (st.vmas.len() + st.pmas.len()).saturating_sub(FIRST_AREAS);
            if !to.records.cover(records * kmem::AREA) {
                return Err(Errno::ENOMEM);
            }
            let State { vmas, pmas, .. } = &mut *st;
            let mut protect = Protects { mm: self, run: None, any: false };
            for (range, vma) in vmas.iter() {
                if vma.flags.contains(VmFlags::DONTCOPY) {
                    continue;
                }
                if vma.name == VmaName::Vvar {
                    vdso_base = Some(range.start);
                }
                to.put_vma(range.clone(), child.adopt(vma));
                if vma.flags.contains(VmFlags::WIPEONFORK) {
                    continue;
                }
                for (found, pma) in pmas.overlapping_mut(range.clone()) {
                    let part = found.start.max(range.start)..found.end.min(range.end);
                    let (start, len) = (part.start - found.start, part.end - part.start);
                    let copy = match vma.is_private() {
                        true if is_hot(part.start) => own_copy(pma, start, len),
                        _ => None,
                    };
                    let (theirs, populate) = match copy {
                        Some(copy) => (copy, true),
                        None => {
                            if vma.is_private() {
                                protect.make_cow(&found, pma);
                            }
                            (pma.share(start, len), false)
                        }
                    };
                    child.install(&mut to, part, theirs, populate);
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
        child.space.inherit(&*self.space);
        Ok(child)
    }

    /// Cuts memory at the borders of a hot chunk, and takes back what was shared with children that
    /// are gone.
    fn prepare_hot(&self, st: &mut State, chunk: &Range<u64>) {
        st.pmas.split_at(chunk.start);
        st.pmas.split_at(chunk.end);
        let mut at = chunk.start;
        while at < chunk.end {
            let Some((range, vma)) = st.vmas.find(at) else { break };
            if range.start >= chunk.end {
                break;
            }
            let prot = vma.flags.hardware();
            let part = range.start.max(chunk.start)..range.end.min(chunk.end);
            at = part.end;
            if !prot.write || !vma.is_private() {
                continue;
            }
            let cows: SmallVec<[Range<u64>; 4]> = st
                .pmas
                .overlapping(part.clone())
                .filter(|(_, pma)| pma.cow)
                .map(|(found, _)| found.start.max(part.start)..found.end.min(part.end))
                .collect();
            for cow in cows {
                self.reclaim(st, cow, prot);
            }
        }
        // Taking back may have joined what was just cut.
        st.pmas.split_at(chunk.start);
        st.pmas.split_at(chunk.end);
    }

    /// A child's version of an area of its parent.
    fn adopt(&self, vma: &Vma) -> Vma {
        if let Some(backing) = &vma.backing {
            backing.object.mappings().add(&self.this);
        }
        let mut vma = vma.another();
        vma.flags -= VmFlags::LOCKED | VmFlags::LOCKONFAULT;
        vma
    }
}

/// A copy of a part of memory that its owner may write to without asking; `None` if it may not, or
/// if there is no memory.
fn own_copy(pma: &Pma, start: u64, len: u64) -> Option<Pma> {
    match &pma.memory {
        Memory::Frames(frames) if pma.private && !pma.cow && pma.prot.write => {
            let memory = Memory::Frames(frames.duplicate(start, len)?);
            Some(Pma { memory, prot: pma.prot, cow: false, private: true })
        }
        _ => None,
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
