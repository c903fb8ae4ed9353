//! mlock(2) and its kin. Guest memory is the memory file, which the host may swap; what is kept is
//! what programs can see: accounting, limits, the effect on other calls, and pages made present.

use std::ops::Range;

use abi::Errno;

use super::vma::VmFlags;
use super::{MemoryManager, MmLimits, State, page_down, page_up};

const LOCKS: VmFlags = VmFlags::LOCKED.union(VmFlags::LOCKONFAULT);

impl MemoryManager {
    /// mlock(2), mlock2(2). `EPERM`, `ENOMEM`, `EINVAL` in the order of `do_mlock`.
    pub fn mlock(&self, addr: u64, len: u64, flags: u32, limits: &MmLimits) -> Result<(), Errno> {
        if flags & !libc::MLOCK_ONFAULT != 0 {
            return Err(Errno::EINVAL);
        }
        if !limits.ipc_lock && limits.memlock == 0 {
            return Err(Errno::EPERM);
        }
        let on_fault = flags & libc::MLOCK_ONFAULT != 0;
        let start = page_down(addr);
        let len = page_up(len.saturating_add(addr - start)).ok_or(Errno::EINVAL)?;
        let mut st = self.state.write();
        let already = st.locked_in(start..start.saturating_add(len));
        if !limits.ipc_lock
            && st.locked.saturating_add(len).saturating_sub(already) > limits.memlock
        {
            return Err(Errno::ENOMEM);
        }
        let lock = if on_fault { LOCKS } else { VmFlags::LOCKED };
        let range = set_locks(&mut st, start, len, lock)?;
        drop(st);
        if !on_fault && !range.is_empty() {
            let end = range.end;
            self.populate(range.clone());
            // `__mm_populate`: a page that cannot be had makes the call fail.
            if self.fault_range(range.start, end - range.start, false) < end - range.start {
                return Err(Errno::ENOMEM);
            }
        }
        Ok(())
    }

    /// munlock(2).
    pub fn munlock(&self, addr: u64, len: u64) -> Result<(), Errno> {
        let start = page_down(addr);
        let len = page_up(len.saturating_add(addr - start)).ok_or(Errno::EINVAL)?;
        set_locks(&mut self.state.write(), start, len, VmFlags::empty()).map(|_| ())
    }

    /// mlockall(2).
    pub fn mlockall(&self, flags: u32, limits: &MmLimits) -> Result<(), Errno> {
        let (current, future, on_fault) =
            (libc::MCL_CURRENT as u32, libc::MCL_FUTURE as u32, libc::MCL_ONFAULT as u32);
        if flags == 0 || flags & !(current | future | on_fault) != 0 || flags == on_fault {
            return Err(Errno::EINVAL);
        }
        if !limits.ipc_lock && limits.memlock == 0 {
            return Err(Errno::EPERM);
        }
        let mut st = self.state.write();
        if flags & current != 0 && !limits.ipc_lock && st.total > limits.memlock {
            return Err(Errno::ENOMEM);
        }
        let lock = if flags & on_fault != 0 { LOCKS } else { VmFlags::LOCKED };
        st.def_flags = if flags & future != 0 { lock } else { VmFlags::empty() };
        let mut ranges = Vec::new();
        if flags & current != 0 {
            st.update_vmas(0..u64::MAX, |vma| {
                if !vma.is_special() {
                    vma.flags = (vma.flags - LOCKS) | lock;
                }
            });
            if flags & on_fault == 0 {
                ranges = st.vmas.iter().map(|(range, _)| range).collect();
            }
        }
        drop(st);
        for range in ranges {
            self.populate(range);
        }
        Ok(())
    }

    /// munlockall(2).
    pub fn munlockall(&self) {
        let mut st = self.state.write();
        st.def_flags = VmFlags::empty();
        st.update_vmas(0..u64::MAX, |vma| vma.flags -= LOCKS);
    }
}

impl State {
    fn locked_in(&self, range: Range<u64>) -> u64 {
        self.vmas
            .overlapping(range.clone())
            .filter(|(_, vma)| vma.flags.contains(VmFlags::LOCKED))
            .map(|(found, _)| found.end.min(range.end) - found.start.max(range.start))
            .sum()
    }
}

/// `apply_vma_lock_flags`: areas before the first hole are changed. Returns the range.
fn set_locks(st: &mut State, start: u64, len: u64, lock: VmFlags) -> Result<Range<u64>, Errno> {
    let end = start.checked_add(len).ok_or(Errno::EINVAL)?;
    let range = start..end;
    if range.is_empty() {
        return Ok(range);
    }
    let cuts = st.cuts(&range);
    if !st.has_room(cuts) {
        return Err(Errno::ENOMEM);
    }
    let mut at = start;
    while at < end {
        let Some((found, _)) = st.vmas.get(at) else { return Err(Errno::ENOMEM) };
        let part = at..found.end.min(end);
        at = part.end;
        st.update_vmas(part, |vma| {
            if !vma.is_special() {
                vma.flags = (vma.flags - LOCKS) | lock;
            }
        });
    }
    Ok(range)
}
