//! mremap(2).

use std::ops::Range;

use abi::Errno;

use super::map::EAGER;
use super::vma::{VmFlags, Vma};
use super::{
    MAX_MAP_COUNT, MAX_SHMEM_SIZE, MMAP_MIN_ADDR, MemoryManager, MmLimits, PAGE, State, TASK_SIZE,
    max_pmas, page_up,
};

const MAYMOVE: u32 = libc::MREMAP_MAYMOVE as u32;
const FIXED: u32 = libc::MREMAP_FIXED as u32;
const DONTUNMAP: u32 = libc::MREMAP_DONTUNMAP as u32;

impl MemoryManager {
    /// mremap(2), with the errors and order of checks of Linux. Returns the new address.
    pub fn mremap(
        &self,
        addr: u64,
        old_len: u64,
        new_len: u64,
        flags: u32,
        new_addr: u64,
        limits: &MmLimits,
    ) -> Result<u64, Errno> {
        if flags & !(MAYMOVE | FIXED | DONTUNMAP) != 0
            || flags & FIXED != 0 && flags & MAYMOVE == 0
            || flags & DONTUNMAP != 0 && (flags & MAYMOVE == 0 || old_len != new_len)
            || !addr.is_multiple_of(PAGE)
        {
            return Err(Errno::EINVAL);
        }
        let old_len = page_up(old_len).ok_or(Errno::EINVAL)?;
        let new_len = page_up(new_len).filter(|len| *len > 0).ok_or(Errno::EINVAL)?;
        let moves = flags & (FIXED | DONTUNMAP) != 0;
        if moves {
            if !new_addr.is_multiple_of(PAGE)
                || new_len > TASK_SIZE
                || new_addr > TASK_SIZE - new_len
            {
                return Err(Errno::EINVAL);
            }
            let (old, new) = (addr, new_addr);
            if old.saturating_add(old_len) > new && new + new_len > old && flags & FIXED != 0 {
                return Err(Errno::EINVAL);
            }
        }
        let mut st = self.state.write();
        if st.vmas.get(addr).is_none() {
            return Err(Errno::EFAULT);
        }
        if moves {
            if st.vmas.len() + 2 >= MAX_MAP_COUNT - 3 {
                return Err(Errno::ENOMEM);
            }
            let to = self.fixed_target(&mut st, new_addr, new_len, flags)?;
            let from = addr..addr.checked_add(old_len).ok_or(Errno::EINVAL)?;
            // A shrinking move drops the tail first.
            if new_len < old_len {
                self.remove(&mut st, from.start + new_len..from.end);
            }
            let from = from.start..from.end.min(from.start + new_len);
            let vma = self.source_area(&st, &from, new_len, flags, limits)?;
            let to = match to {
                Some(to) => to,
                None => st.find_free(new_addr, new_len, false)?,
            };
            return self.move_area(&mut st, &vma, from, to..to + new_len, flags);
        }
        // Shrinking happens in place.
        if old_len >= new_len {
            let tail = addr + new_len..addr.checked_add(old_len).ok_or(Errno::EINVAL)?;
            if !tail.is_empty() {
                self.remove(&mut st, tail);
            }
            return Ok(addr);
        }
        let from = addr..addr.checked_add(old_len).ok_or(Errno::EINVAL)?;
        let vma = self.source_area(&st, &from, new_len, flags, limits)?;
        let grown = from.end..addr.checked_add(new_len).ok_or(Errno::EINVAL)?;
        let whole = st.vmas.get(addr).map(|(range, _)| range).ok_or(Errno::EFAULT)?;
        if whole.end == from.end
            && st.layout.contains(grown.start, grown.end - grown.start)
            && st.mapped_in(grown.clone()) == 0
        {
            let mut vma = vma;
            if let Some(backing) = &mut vma.backing {
                backing.offset += old_len;
            }
            st.put_vma(grown.clone(), vma);
            self.finish_growth(&mut st, grown)?;
            return Ok(addr);
        }
        if flags & MAYMOVE == 0 {
            return Err(Errno::ENOMEM);
        }
        let to = st.find_free(0, new_len, false)?;
        self.move_area(&mut st, &vma, from, to..to + new_len, flags)
    }

    /// Makes room at the target of a `MREMAP_FIXED`; `None` leaves the choice to the search.
    fn fixed_target(
        &self,
        st: &mut State,
        addr: u64,
        len: u64,
        flags: u32,
    ) -> Result<Option<u64>, Errno> {
        if flags & FIXED == 0 {
            return Ok(None);
        }
        if addr < MMAP_MIN_ADDR {
            return Err(Errno::EPERM);
        }
        if !st.layout.contains(addr, len) {
            return Err(Errno::ENOMEM);
        }
        self.remove(st, addr..addr + len);
        Ok(Some(addr))
    }

    /// `vma_to_resize`: the area that holds all of `from`, described from `from.start` on.
    fn source_area(
        &self,
        st: &State,
        from: &Range<u64>,
        new_len: u64,
        flags: u32,
        limits: &MmLimits,
    ) -> Result<Vma, Errno> {
        let (range, vma) = st.vmas.get(from.start).ok_or(Errno::EFAULT)?;
        let old_len = from.end - from.start;
        // Duplicating a private area by an old length of 0 is refused.
        if old_len == 0 && !vma.flags.intersects(VmFlags::SHARED | VmFlags::MAYSHARE) {
            return Err(Errno::EINVAL);
        }
        let unmovable = VmFlags::DONTEXPAND | VmFlags::PFNMAP;
        if flags & DONTUNMAP != 0 && vma.flags.intersects(unmovable) || vma.is_special() {
            return Err(Errno::EINVAL);
        }
        if from.end > range.end {
            return Err(Errno::EFAULT);
        }
        let mut vma = vma.clone();
        if let Some(backing) = &mut vma.backing {
            backing.offset += from.start - range.start;
            if backing.offset > MAX_SHMEM_SIZE.saturating_sub(new_len) {
                return Err(Errno::EINVAL);
            }
        }
        if new_len > old_len {
            let more = new_len - old_len;
            if vma.flags.intersects(unmovable) {
                return Err(Errno::EFAULT);
            }
            if !st.may_lock(vma.flags, more, limits) {
                return Err(Errno::EAGAIN);
            }
            if !st.may_expand(vma.flags, more, limits) || more > self.ctx.memory.limit() {
                return Err(Errno::ENOMEM);
            }
        }
        if flags & DONTUNMAP != 0 && !st.may_expand(vma.flags, new_len, limits) {
            return Err(Errno::ENOMEM);
        }
        if st.pmas.len() > max_pmas() {
            return Err(Errno::ENOMEM);
        }
        Ok(vma)
    }

    /// Moves memory from one place to a free one, and grows it to the size of that.
    fn move_area(
        &self,
        st: &mut State,
        vma: &Vma,
        from: Range<u64>,
        to: Range<u64>,
        flags: u32,
    ) -> Result<u64, Errno> {
        let cuts = st.cuts(&from);
        if !st.has_room(cuts + 1) {
            return Err(Errno::ENOMEM);
        }
        let old_len = from.end - from.start;
        let vma = vma.another();
        if let Some(backing) = &vma.backing {
            backing.object.mappings().add(&self.this);
        }
        let moved = st.pmas.take(from.clone());
        if !moved.is_empty() {
            self.space.unmap(from.start, old_len, None);
        }
        if flags & DONTUNMAP != 0 {
            st.update_vmas(from.clone(), |vma| {
                vma.flags -= VmFlags::LOCKED | VmFlags::LOCKONFAULT;
            });
        } else {
            st.take_vmas(from.clone());
        }
        st.put_vma(to.clone(), vma);
        for (range, pma) in moved {
            let start = to.start + (range.start - from.start);
            self.install(st, start..start + (range.end - range.start), pma, false);
        }
        self.finish_growth(st, to.start + old_len..to.end)?;
        Ok(to.start)
    }

    /// Gives memory to what an area has grown by.
    fn finish_growth(&self, st: &mut State, grown: Range<u64>) -> Result<(), Errno> {
        if grown.is_empty() {
            return Ok(());
        }
        // What cannot be had now is for the fault to find out.
        let _ = self.fill_eagerly(st, grown, EAGER);
        Ok(())
    }
}
