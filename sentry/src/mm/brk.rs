//! The heap: brk(2).

use super::layout::start_gap;
use super::map::EAGER;
use super::vma::{VmFlags, Vma, VmaName};
use super::{MemoryManager, MmLimits, PAGE, TASK_SIZE, max_pmas, page_up};

impl MemoryManager {
    /// Where the heap of a new program starts: behind its data at `end`, randomized.
    pub fn set_brk(&self, end: u64) {
        let mut st = self.state.write();
        let start = st.layout.random_brk(end);
        st.brk = start..start;
    }

    /// brk(2): moves the program break to `wanted` if that is possible. Returns where it is.
    pub fn brk(&self, wanted: u64, limits: &MmLimits) -> u64 {
        let mut st = self.state.write();
        let now = st.brk.end;
        if wanted < st.brk.start || wanted > TASK_SIZE {
            return now;
        }
        let (Some(old_end), Some(new_end)) = (page_up(now), page_up(wanted)) else { return now };
        let program_data = st.exec.end_data.saturating_sub(st.exec.start_data);
        if (wanted - st.brk.start).saturating_add(program_data) > limits.data {
            return now;
        }
        if new_end == old_end {
            st.brk.end = wanted;
            return wanted;
        }
        if new_end < old_end {
            self.remove(&mut st, new_end..old_end);
            st.brk.end = wanted;
            return wanted;
        }
        let len = new_end - old_end;
        let flags = VmFlags::READ
            | VmFlags::WRITE
            | VmFlags::MAYREAD
            | VmFlags::MAYWRITE
            | VmFlags::MAYEXEC
            | VmFlags::ACCOUNT
            | st.def_flags;
        let room = st.layout.contains(old_end, len)
            && st.vmas.find(old_end).is_none_or(|(range, vma)| {
                new_end.saturating_add(PAGE) <= start_gap(range.start, vma)
            });
        if !room
            || !st.may_lock(flags, len, limits)
            || !st.may_expand(flags, len, limits)
            || !st.has_room(0)
            || st.pmas.len() > max_pmas()
            || len > self.ctx.memory.limit()
        {
            return now;
        }
        st.put_vma(old_end..new_end, Vma { flags, backing: None, name: VmaName::None });
        // As in mmap(2), the first touch decides about what there is not enough for now.
        let _ = self.fill_eagerly(&mut st, old_end..new_end, EAGER);
        st.brk.end = wanted;
        drop(st);
        if flags.contains(VmFlags::LOCKED) && !flags.contains(VmFlags::LOCKONFAULT) {
            self.populate(old_end..new_end);
        }
        wanted
    }
}
