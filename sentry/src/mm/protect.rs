//! mprotect(2).

use std::ops::Range;

use abi::Errno;
use platform::Prot;

use super::vma::VmFlags;
use super::{MemoryManager, MmLimits, PAGE, State, max_pmas, page_up};

/// `PROT_SEM`: accepted, without a meaning.
const PROT_SEM: u32 = 8;
const PROT_GROWSDOWN: u32 = 0x0100_0000;
const PROT_GROWSUP: u32 = 0x0200_0000;
/// Memory that becomes accessible and gets its frames at once.
const EAGER: u64 = 1 << 20;

impl MemoryManager {
    /// mprotect(2), with the errors and order of checks of `do_mprotect_pkey`. What lies before
    /// the first area that cannot be changed is changed.
    pub fn mprotect(&self, addr: u64, len: u64, prot: u32, limits: &MmLimits) -> Result<(), Errno> {
        let grows = prot & (PROT_GROWSDOWN | PROT_GROWSUP);
        let prot = prot & !grows;
        if grows == PROT_GROWSDOWN | PROT_GROWSUP || !addr.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        if len == 0 {
            return Ok(());
        }
        let len = page_up(len).ok_or(Errno::ENOMEM)?;
        let end = addr.checked_add(len).filter(|end| *end > addr).ok_or(Errno::ENOMEM)?;
        if prot & !(7 | PROT_SEM) != 0 {
            return Err(Errno::EINVAL);
        }
        let access = VmFlags::from_prot(prot);
        let mut st = self.state.write();
        let (first, flags) = {
            let (range, vma) = st.vmas.find(addr).ok_or(Errno::ENOMEM)?;
            (range, vma.flags)
        };
        let mut start = addr;
        if grows & PROT_GROWSDOWN != 0 {
            if first.start >= end {
                return Err(Errno::ENOMEM);
            }
            start = first.start;
            if !flags.contains(VmFlags::GROWSDOWN) {
                return Err(Errno::EINVAL);
            }
        } else {
            if first.start > start {
                return Err(Errno::ENOMEM);
            }
            if grows & PROT_GROWSUP != 0 {
                return Err(Errno::EINVAL);
            }
        }
        let mut at = start;
        let mut result = Ok(());
        while at < end {
            let Some((range, vma)) = st.vmas.get(at) else {
                result = Err(Errno::ENOMEM);
                break;
            };
            let part = at..range.end.min(end);
            let old = vma.flags;
            at = part.end;
            if let Err(errno) = self.protect_part(&mut st, part, old, access, limits) {
                result = Err(errno);
                break;
            }
        }
        if access.intersects(VmFlags::ACCESS) {
            // Running out of memory here is for the fault to find out.
            let _ = self.fill_eagerly(&mut st, start..at, EAGER);
        }
        result
    }

    /// `mprotect_fixup`: changes a part of one area.
    fn protect_part(
        &self,
        st: &mut State,
        part: Range<u64>,
        old: VmFlags,
        access: VmFlags,
        limits: &MmLimits,
    ) -> Result<(), Errno> {
        let new = (old - VmFlags::ACCESS) | access;
        let allowed = VmFlags::from_bits_truncate((new & VmFlags::MAY).bits() >> 4);
        if !allowed.contains(access) {
            return Err(Errno::EACCES);
        }
        if new == old {
            return Ok(());
        }
        let len = part.end - part.start;
        if new.is_data() && !old.is_data() && st.data.saturating_add(len) > limits.data {
            return Err(Errno::ENOMEM);
        }
        let cuts = st.cuts(&part);
        if !st.has_room(cuts) || st.pmas.len() > max_pmas() {
            return Err(Errno::ENOMEM);
        }
        st.update_vmas(part.clone(), |vma| vma.flags = new);
        let prot = new.hardware();
        // One command for each run of memory that ends up the same.
        let mut run: Option<(Range<u64>, Prot)> = None;
        for (range, mut pma) in st.pmas.take(part) {
            let allowed = pma.allowed(prot);
            let changed = pma.prot != allowed;
            pma.prot = allowed;
            if changed {
                run = match run {
                    Some((before, prot)) if prot == allowed => {
                        Some((before.start..range.end, prot))
                    }
                    Some((before, prot)) => {
                        self.space.protect(before.start, before.end - before.start, prot);
                        Some((range.clone(), allowed))
                    }
                    None => Some((range.clone(), allowed)),
                };
            } else if let Some((before, prot)) = run.take() {
                self.space.protect(before.start, before.end - before.start, prot);
            }
            st.pmas.insert(range, pma);
        }
        if let Some((range, prot)) = run {
            self.space.protect(range.start, range.end - range.start, prot);
        }
        Ok(())
    }
}
