//! Page faults: giving memory to addresses that have none yet, copy-on-write, stacks that grow.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use platform::{Fault, Frames, Prot};

use super::layout::STACK_GUARD_GAP;
use super::mappable::{Extent, MapFault};
use super::pma::{Memory, Pma};
use super::trim::ahead;
use super::vma::{VmFlags, Vma};
use super::{MemoryManager, PAGE, State, max_pmas, page_down, page_up};

/// How a fault ends for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultError {
    /// SIGSEGV or SIGBUS with this `si_code` and `si_addr`.
    Signal {
        /// The signal.
        signo: i32,
        /// `SEGV_MAPERR`, `SEGV_ACCERR` or `BUS_ADRERR`.
        code: i32,
        /// The address that was accessed.
        addr: u64,
    },
    /// The sandbox has no memory left: the out-of-memory killer's case.
    OutOfMemory,
}

const SEGV_MAPERR: i32 = 1;
const SEGV_ACCERR: i32 = 2;
const BUS_ADRERR: i32 = 2;

/// Private pages that one write fault copies, at most.
const COW_CHUNK: u64 = 64 << 10;
/// The same in an address space that is in many pieces already.
const COW_CHUNK_LARGE: u64 = 2 << 20;
/// Pieces from which on chunks are large.
const MANY_PMAS: usize = 8192;
/// Anonymous memory that one fault in a big area allocates.
const ANON_CHUNK: u64 = 4 << 20;
/// One area that is filled at once takes no more of what is left than this part of it.
const EAGER_FRACTION: u64 = 16;
/// And one fault no more than this part.
const CHUNK_FRACTION: u64 = 64;
/// How much a stack grows by, where there is room.
const STACK_CHUNK: u64 = 128 << 10;

/// Why memory is given to a page.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Touch {
    /// To have it at hand, if the file has it.
    Present,
    /// It is read.
    Read,
    /// It is written: in private areas it must be the area's own.
    Write,
}

impl MemoryManager {
    /// Handles a fault of the guest; an error is the signal to raise. Faults that somebody else has
    /// repaired meanwhile are fine.
    pub fn handle_fault(&self, fault: &Fault) -> Result<(), FaultError> {
        let Fault { addr, access, bus } = *fault;
        let mut st = self.state.write();
        if bus {
            // The vDSO's data has pages for what this machine does not have.
            if st.vmas.get(addr).is_some_and(|(_, vma)| vma.is_special()) {
                return Err(FaultError::Signal { signo: libc::SIGBUS, code: BUS_ADRERR, addr });
            }
            // The host found no page where we had mapped one.
            match st.pmas.get(addr).map(|(_, pma)| &pma.memory) {
                Some(Memory::Host { .. }) => {
                    return Err(FaultError::Signal { signo: libc::SIGBUS, code: BUS_ADRERR, addr });
                }
                Some(Memory::Frames(_)) => return Err(FaultError::OutOfMemory),
                None => {}
            }
        }
        self.fault_in(&mut st, addr, access)
    }

    /// Makes one page accessible.
    pub(super) fn fault_in(
        &self,
        st: &mut State,
        addr: u64,
        access: Prot,
    ) -> Result<(), FaultError> {
        let segv = |code| FaultError::Signal { signo: libc::SIGSEGV, code, addr };
        if st.vmas.get(addr).is_none() {
            self.grow_stack(st, addr).ok_or(segv(SEGV_MAPERR))?;
        }
        let (range, vma) = st.vmas.get(addr).ok_or(segv(SEGV_MAPERR))?;
        let allowed = vma.flags.hardware();
        if access.write && !allowed.write || access.exec && !allowed.exec || !allowed.read {
            return Err(segv(SEGV_ACCERR));
        }
        let vma = vma.clone();
        self.touch(st, &range, &vma, addr, access.write).map_err(|fault| match fault {
            MapFault::Bus => FaultError::Signal { signo: libc::SIGBUS, code: BUS_ADRERR, addr },
            MapFault::NoMemory => FaultError::OutOfMemory,
        })
    }

    /// Gives the page at `addr`, inside the area `range`, memory that can be read, or written.
    /// Access rights are the caller's affair: with `write` on an area that is not writable, the
    /// page becomes the area's own but stays read-only for the guest.
    pub(super) fn touch(
        &self,
        st: &mut State,
        range: &Range<u64>,
        vma: &Vma,
        addr: u64,
        write: bool,
    ) -> Result<(), MapFault> {
        if vma.is_special() {
            return Ok(());
        }
        match st.pmas.get(addr) {
            Some((_, pma)) if write && pma.cow => self.break_cow(st, range, vma, addr),
            Some(_) => Ok(()),
            None => {
                let gap = st.pmas.gap_around(addr, range.clone()).ok_or(MapFault::NoMemory)?;
                let around = if vma.is_anonymous() {
                    let left = self.ctx.memory.left();
                    anon_chunk(&gap, range, vma, addr, ahead(left, ANON_CHUNK, CHUNK_FRACTION))
                } else {
                    gap
                };
                let touch = if write { Touch::Write } else { Touch::Read };
                self.fill(st, range, vma, addr, around, touch).map(|_| ())
            }
        }
    }

    /// Backs the page at `addr` and what is cheap of `around`, which has no memory yet and lies in
    /// the area `range`. Returns what was backed.
    pub(super) fn fill(
        &self,
        st: &mut State,
        range: &Range<u64>,
        vma: &Vma,
        addr: u64,
        around: Range<u64>,
        touch: Touch,
    ) -> Result<Range<u64>, MapFault> {
        let prot = vma.flags.hardware();
        let Some(backing) = &vma.backing else {
            let (range, frames) = self.allocate_around(st, page_down(addr), around)?;
            let present = frames.is_recycled();
            let pma = Pma { memory: Memory::Frames(frames), prot, cow: false, private: true };
            self.install(st, range.clone(), pma, present);
            return Ok(range);
        };
        let to_file = |addr: u64| backing.offset.checked_add(addr - range.start);
        let at = to_file(page_down(addr)).ok_or(MapFault::Bus)?;
        let optional = to_file(around.start).ok_or(MapFault::Bus)?
            ..to_file(around.end).ok_or(MapFault::Bus)?;
        let found = match touch {
            Touch::Present => backing.object.present(at, optional).ok_or(MapFault::Bus)?,
            Touch::Read | Touch::Write => backing.object.translate(at, optional)?,
        };
        // Of an answer that is wider than what was asked for, take what fits.
        let skip = at - found.range.start.min(at);
        let start = page_down(addr) - skip.min(page_down(addr) - around.start);
        let skipped = skip - (page_down(addr) - start);
        let end =
            around.end.min(start.saturating_add(found.range.end - found.range.start - skipped));
        let memory = match found.extent {
            Extent::Memory(frames) => Memory::Frames(frames.share(skipped, end - start)),
            Extent::Host(file, offset) => {
                Memory::Host { file, offset: offset + skipped, shared: !vma.is_private() }
            }
        };
        let private = vma.is_private();
        let mut pma = Pma { memory, prot, cow: private, private: false };
        pma.prot = pma.allowed(prot);
        let backed = start..end;
        if private && touch == Touch::Write {
            let copied = self.copy_pma(st, &pma, &backed, backed.clone(), addr, prot)?;
            let done = copied.0.clone();
            self.install(st, copied.0, copied.1, true);
            return Ok(done);
        }
        self.install(st, backed.clone(), pma, false);
        Ok(backed)
    }

    /// Maps a range in the stub and notes what backs it.
    pub(super) fn install(&self, st: &mut State, range: Range<u64>, pma: Pma, populate: bool) {
        self.space.map(range.start, range.end - range.start, pma.prot, pma.source(), populate);
        st.pmas.insert(range, pma);
    }

    /// Fresh zeroed memory for `around`, or for less of it, down to the page at `page`. Where
    /// possible it continues what backs a neighbour, so that the host sees one mapping.
    fn allocate_around(
        &self,
        st: &State,
        page: u64,
        around: Range<u64>,
    ) -> Result<(Range<u64>, Frames), MapFault> {
        let len = around.end - around.start;
        let after = match around.start.checked_sub(1).and_then(|before| st.pmas.get(before)) {
            Some((_, Pma { memory: Memory::Frames(frames), private: true, .. })) => {
                Some(frames.end())
            }
            _ => match st.pmas.get(around.end) {
                Some((_, Pma { memory: Memory::Frames(frames), private: true, .. })) => {
                    frames.offset().checked_sub(len)
                }
                _ => None,
            },
        };
        let frames = match after {
            Some(after) => self.ctx.memory.allocate_after(len, after),
            None => self.ctx.memory.allocate(len),
        };
        if let Some(frames) = frames {
            return Ok((around, frames));
        }
        let frames = self.ctx.memory.allocate(PAGE).ok_or(MapFault::NoMemory)?;
        Ok((page..page + PAGE, frames))
    }

    /// A private, writable copy of the part `chunk` of `pma`, which covers `range`: at least of the
    /// page at `addr`. Host files are copied as far as they reach.
    fn copy_pma(
        &self,
        st: &State,
        pma: &Pma,
        range: &Range<u64>,
        chunk: Range<u64>,
        addr: u64,
        prot: Prot,
    ) -> Result<(Range<u64>, Pma), MapFault> {
        let page = page_down(addr);
        let own = |frames| Pma { memory: Memory::Frames(frames), prot, cow: false, private: true };
        match &pma.memory {
            Memory::Frames(old) => {
                let at = chunk.start - range.start;
                if let Some(copy) = old.duplicate(at, chunk.end - chunk.start) {
                    return Ok((chunk, own(copy)));
                }
                let copy = old.duplicate(page - range.start, PAGE).ok_or(MapFault::NoMemory)?;
                Ok((page..page + PAGE, own(copy)))
            }
            Memory::Host { file, offset, .. } => {
                let start = offset + (chunk.start - range.start);
                let left = page_up(file.size().saturating_sub(start)).unwrap_or(u64::MAX);
                let chunk = chunk.start..chunk.end.min(chunk.start.saturating_add(left));
                if page >= chunk.end {
                    return Err(MapFault::Bus);
                }
                let (chunk, mut frames) = self.allocate_around(st, page, chunk)?;
                let at = offset + (chunk.start - range.start);
                // SAFETY: `frames` lies in the memory file.
                let done = unsafe { file.read_to(frames.ptr(), frames.len() as usize, at) } as u64;
                // The last page may be partial; one of which nothing came could not be read, or is
                // gone since.
                if chunk.start + done <= page {
                    return Err(MapFault::Bus);
                }
                let got = page_up(done).unwrap_or(done);
                if got < frames.len() {
                    drop(frames.split_off(got));
                }
                Ok((chunk.start..chunk.start + got, own(frames)))
            }
        }
    }

    /// Makes the page at `addr`, whose memory is shared copy-on-write, the area's own.
    fn break_cow(
        &self,
        st: &mut State,
        range: &Range<u64>,
        vma: &Vma,
        addr: u64,
    ) -> Result<(), MapFault> {
        let prot = vma.flags.hardware();
        self.hot.note(addr);
        let Some((found, _)) = st.pmas.get(addr) else { return Ok(()) };
        // The area may cover a part of what the memory does, and the other way round.
        let run = found.start.max(range.start)..found.end.min(range.end);
        let size = if st.pmas.len() > MANY_PMAS { COW_CHUNK_LARGE } else { COW_CHUNK };
        let start = (addr & !(size - 1)).max(run.start);
        let chunk = start..(addr & !(size - 1)).saturating_add(size).min(run.end);
        // Has everybody else gone from the whole run, from the chunk?
        for part in [run, chunk.clone()] {
            if self.reclaim(st, part, prot) {
                return Ok(());
            }
        }
        if st.pmas.len() > max_pmas() {
            return Err(MapFault::NoMemory);
        }
        let Some((found, pma)) = st.pmas.get(addr) else { return Ok(()) };
        let (range, copy) = self.copy_pma(st, pma, &found, chunk, addr, prot)?;
        let old = st.pmas.take(range.clone());
        self.install(st, range, copy, true);
        self.space.defer(Box::new(old));
        Ok(())
    }

    /// If nobody else owns any page of `part` (inside one PMA) any more, lets the guest write it.
    pub(super) fn reclaim(&self, st: &mut State, part: Range<u64>, prot: Prot) -> bool {
        let Some((found, Pma { memory: Memory::Frames(frames), private: true, .. })) =
            st.pmas.get(part.start)
        else {
            return false;
        };
        if !frames.range_is_sole(part.start - found.start, part.end - part.start) {
            return false;
        }
        for (range, mut pma) in st.pmas.take(part) {
            pma.cow = false;
            pma.prot = prot;
            self.space.protect(range.start, range.end - range.start, prot);
            st.pmas.insert(range, pma);
        }
        true
    }

    /// Extends the stack above `addr` down to it (`expand_downwards`).
    fn grow_stack(&self, st: &mut State, addr: u64) -> Option<()> {
        let page = page_down(addr);
        let (range, vma) = st.vmas.next(page)?;
        if !vma.flags.contains(VmFlags::GROWSDOWN) || page < st.layout.min {
            return None;
        }
        let vma = vma.clone();
        let limit = self.stack_limit.load(Ordering::Relaxed);
        let grow = range.start - page;
        let size = range.end - page;
        if size > limit {
            return None;
        }
        // The guard gap: nothing accessible may lie right below, unless it is a stack as well.
        let floor = st.vmas.prev(page + 1).map_or(st.layout.min, |(below, other)| {
            if other.flags.contains(VmFlags::GROWSDOWN) || !other.flags.intersects(VmFlags::ACCESS)
            {
                below.end
            } else {
                below.end.saturating_add(STACK_GUARD_GAP)
            }
        });
        if page < floor {
            return None;
        }
        if vma.flags.contains(VmFlags::LOCKED) && st.locked.saturating_add(grow) > limit {
            return None;
        }
        // More than the one page, where that is allowed: the next fault is near.
        let lowest = floor.max(range.end.saturating_sub(page_down(limit)));
        let start = range.start.saturating_sub(STACK_CHUNK).max(lowest).min(page);
        st.put_vma(start..range.start, vma);
        Some(())
    }

    /// Backs all of a fresh range, where areas are accessible: what mmap does at once so that the
    /// guest does not fault. Ranges of more than `most` bytes are left to faults.
    pub(super) fn fill_eagerly(
        &self,
        st: &mut State,
        range: Range<u64>,
        most: u64,
    ) -> Result<(), MapFault> {
        let most = ahead(self.ctx.memory.left(), most, EAGER_FRACTION);
        let areas: Vec<(Range<u64>, Vma)> =
            st.vmas.overlapping(range.clone()).map(|(r, v)| (r, v.clone())).collect();
        for (whole, vma) in areas {
            if !vma.flags.intersects(VmFlags::ACCESS) || vma.is_special() {
                continue;
            }
            let part = whole.start.max(range.start)..whole.end.min(range.end);
            let mut at = part.start;
            while at < part.end {
                let Some(gap) = st.pmas.gap_around(at, part.clone()) else {
                    at = st.pmas.get(at).map_or(part.end, |(found, _)| found.end);
                    continue;
                };
                let gap = at..gap.end;
                let len = gap.end - gap.start;
                let touch = match &vma.backing {
                    None if len > most => {
                        at = gap.end;
                        continue;
                    }
                    Some(backing) if backing.file.is_some() || len > most => {
                        let writable = vma.is_private() && vma.flags.contains(VmFlags::WRITE);
                        match writable && len <= super::map::SMALL_PRIVATE_FILE {
                            true => Touch::Write,
                            false => Touch::Present,
                        }
                    }
                    _ => Touch::Write,
                };
                match self.fill(st, &whole, &vma, at, gap.clone(), touch) {
                    Ok(done) => at = done.end,
                    // Past the end of the file, or a hole: for the guest to find out.
                    Err(MapFault::Bus) => break,
                    Err(MapFault::NoMemory) => return Err(MapFault::NoMemory),
                }
            }
        }
        Ok(())
    }

    /// Forgets what backs a range. With `unmap` the stub's mapping goes as well; without, the
    /// caller is about to replace it.
    pub(super) fn drop_pmas(&self, st: &mut State, range: Range<u64>, unmap: bool) {
        let gone = st.pmas.take(range);
        let (Some(first), Some(last)) = (gone.first(), gone.last()) else { return };
        let (start, end) = (first.0.start, last.0.end);
        if unmap {
            self.space.unmap(start, end - start, Some(Box::new(gone)));
        } else {
            self.space.defer(Box::new(gone));
        }
    }

    /// Makes every address space of `object`'s users forget a part of it; see
    /// [`super::MappingRegistry::invalidate`]. Returns whether the object is mapped here at all.
    pub(super) fn invalidate(&self, key: *const (), part: Range<u64>, even_cows: bool) -> bool {
        let mut st = self.state.write();
        let mut mapped = false;
        let mut hits = Vec::new();
        for (range, vma) in st.vmas.iter() {
            let Some(backing) = &vma.backing else { continue };
            if !std::ptr::addr_eq(Arc::as_ptr(&backing.object), key) {
                continue;
            }
            mapped = true;
            let first = part.start.max(backing.offset);
            let last = part.end.min(backing.offset.saturating_add(range.end - range.start));
            if first < last {
                hits.push(
                    range.start + (first - backing.offset)..range.start + (last - backing.offset),
                );
            }
        }
        let mut changed = false;
        for hit in hits {
            let runs: Vec<Range<u64>> = st
                .pmas
                .overlapping(hit.clone())
                .filter(|(_, pma)| even_cows || !pma.private)
                .map(|(found, _)| found.start.max(hit.start)..found.end.min(hit.end))
                .collect();
            for run in runs {
                self.drop_pmas(&mut st, run, true);
                changed = true;
            }
        }
        if changed {
            self.space.sync();
        }
        mapped
    }

    /// Whether an area could write to the object through a shared mapping.
    pub(super) fn maps_shared_writable(&self, key: *const ()) -> bool {
        self.state.read().vmas.iter().any(|(_, vma)| {
            vma.flags.contains(VmFlags::SHARED | VmFlags::MAYWRITE)
                && vma
                    .backing
                    .as_ref()
                    .is_some_and(|backing| std::ptr::addr_eq(Arc::as_ptr(&backing.object), key))
        })
    }
}

/// How much of the hole `gap` a fault at `addr` fills.
fn anon_chunk(gap: &Range<u64>, area: &Range<u64>, vma: &Vma, addr: u64, most: u64) -> Range<u64> {
    if vma.flags.contains(VmFlags::GROWSDOWN) || area.end - area.start <= most / 4 {
        return gap.clone();
    }
    let size = if vma.flags.contains(VmFlags::NORESERVE) { most.min(ANON_CHUNK / 2) } else { most };
    let start = (addr & !(size - 1)).max(gap.start);
    start..(addr & !(size - 1)).saturating_add(size).min(gap.end)
}
