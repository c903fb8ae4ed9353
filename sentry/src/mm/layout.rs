//! Where things go in an address space: ASLR and the search for free addresses
//! (`mm/util.c`, `arch/x86/mm/mmap.c`, `mm/mmap.c`).

use abi::Errno;

use super::host::random_u64;
use super::interval_map::IntervalMap;
use super::vma::{VmFlags, Vma};
use super::{PAGE, page_down, page_up};

/// One past the highest address that Linux gives to a 64-bit program (`TASK_SIZE_MAX`).
pub const TASK_SIZE: u64 = 0x7fff_ffff_f000;
/// `vm.mmap_min_addr`.
pub const MMAP_MIN_ADDR: u64 = 0x1_0000;
/// `stack_guard_gap`: what must stay free below a stack.
pub(super) const STACK_GUARD_GAP: u64 = 256 * PAGE;
/// How far the top of the stack is moved (`__STACK_RND_MASK` pages).
const STACK_RANDOM_PAGES: u64 = 0x3f_ffff + 1;
/// `vm.mmap_rnd_bits`.
const MMAP_RANDOM_BITS: u32 = 28;

/// The layout of one address space.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Lowest address that may be mapped.
    pub(super) min: u64,
    /// One past the highest.
    pub(super) max: u64,
    /// Where the search for free addresses starts.
    pub(super) mmap_base: u64,
    /// Search upwards (unlimited stack, `ADDR_COMPAT_LAYOUT`).
    pub(super) bottom_up: bool,
    /// Whether addresses are randomized.
    pub(super) random: bool,
}

fn random_pages(random: bool, bits: u32) -> u64 {
    if random { (random_u64() & ((1 << bits) - 1)) * PAGE } else { 0 }
}

impl Layout {
    /// The layout for a new program (`arch_pick_mmap_layout`). `range` is what the platform can
    /// map.
    pub(super) fn new(range: (u64, u64), stack_limit: u64, random: bool, compat: bool) -> Layout {
        let min = range.0.max(MMAP_MIN_ADDR);
        let max = range.1.min(TASK_SIZE);
        let bottom_up = compat || stack_limit == u64::MAX;
        let rnd = random_pages(random, MMAP_RANDOM_BITS);
        let mmap_base = if bottom_up {
            page_down(max / 3) + rnd
        } else {
            let pad = STACK_GUARD_GAP + if random { STACK_RANDOM_PAGES * PAGE } else { 0 };
            let gap = stack_limit.saturating_add(pad).clamp(128 << 20, max / 6 * 5);
            page_down(max.saturating_sub(gap).saturating_sub(rnd)).max(min)
        };
        Layout { min, max, mmap_base, bottom_up, random }
    }

    /// One past the highest address of the stack (`randomize_stack_top`).
    pub(super) fn stack_top(&self) -> u64 {
        self.max - if self.random { (random_u64() % STACK_RANDOM_PAGES) * PAGE } else { 0 }
    }

    /// Where a position-independent program with an interpreter goes (`ELF_ET_DYN_BASE`).
    pub(super) fn pie_base(&self) -> u64 {
        page_down(TASK_SIZE / 3 * 2).min(self.max / 3 * 2)
            + random_pages(self.random, MMAP_RANDOM_BITS)
    }

    /// `arch_randomize_brk`: somewhere in the 32 MiB (static programs: as well) behind `brk`.
    pub(super) fn random_brk(&self, brk: u64) -> u64 {
        let start = page_up(brk).unwrap_or(brk);
        if self.random { start + (random_u64() % ((32 << 20) / PAGE)) * PAGE } else { brk }
    }

    /// Whether a range lies where the guest may map.
    pub(super) fn contains(&self, start: u64, len: u64) -> bool {
        start >= self.min && start.checked_add(len).is_some_and(|end| end <= self.max)
    }

    /// Finds `len` free bytes (`get_unmapped_area` without `MAP_FIXED`). `hint` of 0 is none.
    pub(super) fn find(
        &self,
        vmas: &IntervalMap<Vma>,
        hint: u64,
        len: u64,
        low_32bit: bool,
    ) -> Result<u64, Errno> {
        if len > self.max {
            return Err(Errno::ENOMEM);
        }
        if low_32bit {
            let start = 0x4000_0000 + if self.random { random_pages(true, 13) } else { 0 };
            if hint != 0
                && hint.checked_add(len).is_some_and(|end| end <= 0x8000_0000)
                && self.is_free(vmas, hint, len)
            {
                return Ok(hint);
            }
            return self.upwards(vmas, start, 0x8000_0000, len).ok_or(Errno::ENOMEM);
        }
        if hint != 0 && self.is_free(vmas, page_down(hint), len) {
            return Ok(page_down(hint));
        }
        let found = if self.bottom_up {
            self.upwards(vmas, self.mmap_base, self.max, len)
        } else {
            self.downwards(vmas, len)
                .or_else(|| self.upwards(vmas, page_down(self.max / 3), self.max, len))
        };
        found.ok_or(Errno::ENOMEM)
    }

    /// Whether a range is free, and not too close below a stack.
    pub(super) fn is_free(&self, vmas: &IntervalMap<Vma>, start: u64, len: u64) -> bool {
        self.contains(start, len)
            && vmas
                .find(start)
                .is_none_or(|(range, vma)| start + len <= start_gap(range.start, vma))
    }

    fn downwards(&self, vmas: &IntervalMap<Vma>, len: u64) -> Option<u64> {
        let mut high = self.mmap_base;
        for (range, vma) in vmas.iter().rev() {
            if range.end <= high && high - range.end >= len {
                break;
            }
            high = high.min(start_gap(range.start, vma));
        }
        let start = high.checked_sub(len)?;
        (start >= self.min && vmas.find(start).is_none_or(|(range, _)| range.start >= start + len))
            .then_some(start)
    }

    fn upwards(&self, vmas: &IntervalMap<Vma>, low: u64, high: u64, len: u64) -> Option<u64> {
        let mut low = low.max(self.min);
        let high = high.min(self.max);
        loop {
            let end = low.checked_add(len).filter(|end| *end <= high)?;
            match vmas.find(low) {
                Some((range, vma)) if start_gap(range.start, vma) < end => low = range.end,
                _ => return Some(low),
            }
        }
    }
}

/// `vm_start_gap`: where an area's guard gap starts.
pub(super) fn start_gap(start: u64, vma: &Vma) -> u64 {
    if vma.flags.contains(VmFlags::GROWSDOWN) {
        start.saturating_sub(STACK_GUARD_GAP)
    } else {
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mm::vma::VmaName;

    fn area(flags: VmFlags) -> Vma {
        Vma { flags, backing: None, name: VmaName::None }
    }

    #[test]
    fn top_down_fills_gaps_from_above() {
        let layout = Layout::new((0, u64::MAX), 8 << 20, false, false);
        let mut vmas = IntervalMap::new();
        let first = layout.find(&vmas, 0, PAGE, false).unwrap();
        assert_eq!(first, layout.mmap_base - PAGE);
        vmas.insert(first..first + PAGE, area(VmFlags::READ));
        assert_eq!(layout.find(&vmas, 0, PAGE, false), Ok(first - PAGE));
        vmas.insert(first - 4 * PAGE..first - 2 * PAGE, area(VmFlags::WRITE));
        assert_eq!(layout.find(&vmas, 0, 2 * PAGE, false), Ok(first - 2 * PAGE));
        assert_eq!(layout.find(&vmas, 0, 3 * PAGE, false), Ok(first - 7 * PAGE));
    }

    #[test]
    fn hints_count_only_where_free() {
        let layout = Layout::new((0, u64::MAX), 8 << 20, true, false);
        let mut vmas = IntervalMap::new();
        assert_eq!(layout.find(&vmas, 0x5000_0123, PAGE, false), Ok(0x5000_0000));
        vmas.insert(0x5000_0000..0x5000_1000, area(VmFlags::GROWSDOWN));
        assert_ne!(layout.find(&vmas, 0x5000_0000, PAGE, false), Ok(0x5000_0000));
        // The guard gap below a stack is not handed out either.
        assert_ne!(layout.find(&vmas, 0x4fff_0000, PAGE, false), Ok(0x4fff_0000));
        assert_eq!(layout.find(&vmas, 0, TASK_SIZE + PAGE, false), Err(Errno::ENOMEM));
        let low = layout.find(&vmas, 0, PAGE, true).unwrap();
        assert!((0x4000_0000..0x8000_0000).contains(&low));
    }
}
