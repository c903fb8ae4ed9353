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
    searched: Searched,
}

/// What the last search from above has seen, so that the next one need not walk over the same areas.
#[derive(Clone, Copy, Debug)]
struct Searched {
    /// From here up to `mmap_base`,
    from: u64,
    /// no more than so many bytes are free in one piece.
    largest: u64,
    /// There may be a stack where the search goes. Its guard gap reaches over other areas, so each
    /// search begins at the top.
    stack: bool,
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
        let searched = Searched { from: mmap_base, largest: 0, stack: false };
        Layout { min, max, mmap_base, bottom_up, random, searched }
    }

    /// The same for other areas.
    pub(super) fn afresh(mut self) -> Layout {
        self.searched = Searched { from: self.mmap_base, largest: 0, ..self.searched };
        self
    }

    /// A stack was put at `start`.
    pub(super) fn stack_at(&mut self, start: u64) {
        self.searched.stack |= start_gap_of_stack(start) < self.mmap_base;
    }

    /// Areas up to `end` were removed from `vmas`.
    pub(super) fn freed(&mut self, vmas: &IntervalMap<Vma>, end: u64) {
        if end > self.searched.from {
            let above = vmas.find(end).map_or(self.mmap_base, |(range, _)| range.start);
            self.searched.from = above.min(self.mmap_base).max(self.searched.from);
        }
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
        &mut self,
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

    fn downwards(&mut self, vmas: &IntervalMap<Vma>, len: u64) -> Option<u64> {
        let go_on = len > self.searched.largest && !self.searched.stack;
        let Searched { from: mut high, mut largest, stack } =
            if go_on { self.searched } else { self.afresh().searched };
        if let Some((range, vma)) = vmas.find(high) {
            high = high.min(start_gap(range.start, vma));
        }
        while let Some((range, vma)) = vmas.below(high) {
            if range.end <= high {
                if high - range.end >= len {
                    break;
                }
                largest = largest.max(high - range.end);
            }
            high = high.min(start_gap(range.start, vma));
        }
        let start = high.checked_sub(len)?;
        if start < self.min || vmas.find(start).is_some_and(|(range, _)| range.start < start + len)
        {
            return None;
        }
        self.searched = Searched { from: high, largest, stack };
        Some(start)
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
    if vma.flags.contains(VmFlags::GROWSDOWN) { start_gap_of_stack(start) } else { start }
}

fn start_gap_of_stack(start: u64) -> u64 {
    start.saturating_sub(STACK_GUARD_GAP)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mm::vma::VmaName;

    fn area(flags: VmFlags) -> Vma {
        Vma { flags, backing: None, name: VmaName::None }
    }

    /// What is remembered of the last search changes nothing but how long the next one takes.
    #[derive(Clone, Debug)]
    enum Step {
        Map { pages: u64, stack: bool },
        MapAt { page: u64, pages: u64, stack: bool },
        Unmap { page: u64, pages: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        // Pages below `mmap_base`, and some above it.
        let page = 0..400u64;
        prop_oneof![
            4 => (1..20u64, Just(false)).prop_map(|(pages, s)| Step::Map { pages, stack: s }),
            2 => (page.clone(), 1..30u64, prop::bool::weighted(0.1))
                .prop_map(|(page, pages, stack)| Step::MapAt { page, pages, stack }),
            4 => (page, 1..60u64).prop_map(|(page, pages)| Step::Unmap { page, pages }),
        ]
    }

    proptest! {
        #[test]
        fn what_was_searched_need_not_be_searched_again(
            steps in proptest::collection::vec(step(), 1..80),
        ) {
            let mut layout = Layout::new((0, u64::MAX), 8 << 20, false, false);
            let mut vmas = IntervalMap::new();
            let floor = layout.mmap_base - 350 * PAGE;
            let flags = |stack| if stack { VmFlags::GROWSDOWN } else { VmFlags::READ };
            for step in steps {
                match step {
                    Step::Map { pages, stack } => {
                        let found = layout.find(&vmas, 0, pages * PAGE, false);
                        prop_assert_eq!(found, layout.afresh().find(&vmas, 0, pages * PAGE, false));
                        let start = found.unwrap();
                        if stack {
                            layout.stack_at(start);
                        }
                        vmas.insert(start..start + pages * PAGE, area(flags(stack)));
                    }
                    Step::MapAt { page, pages, stack } => {
                        let range = floor + page * PAGE..floor + (page + pages) * PAGE;
                        vmas.take(range.clone());
                        layout.freed(&vmas, range.end);
                        if stack {
                            layout.stack_at(range.start);
                        }
                        vmas.insert(range, area(flags(stack)));
                    }
                    Step::Unmap { page, pages } => {
                        let range = floor + page * PAGE..floor + (page + pages) * PAGE;
                        vmas.take(range.clone());
                        layout.freed(&vmas, range.end);
                    }
                }
            }
        }
    }

    #[test]
    fn many_areas_are_not_walked_over_each_time() {
        let mut layout = Layout::new((0, u64::MAX), 8 << 20, false, false);
        let mut vmas = IntervalMap::new();
        let start = crate::kernel::time::host_ns(libc::CLOCK_THREAD_CPUTIME_ID);
        for i in 0..60_000 {
            let at = layout.find(&vmas, 0, PAGE, false).unwrap();
            assert_eq!(at, layout.mmap_base - (i + 1) * PAGE);
            // No two neighbours are alike, so none are joined.
            vmas.insert(
                at..at + PAGE,
                area(if i % 2 == 0 { VmFlags::READ } else { VmFlags::WRITE }),
            );
        }
        // One by one, this is a walk over 1.8 billion areas.
        let used = crate::kernel::time::host_ns(libc::CLOCK_THREAD_CPUTIME_ID) - start;
        assert!(used < 2_000_000_000, "{used} ns");
    }

    #[test]
    fn top_down_fills_gaps_from_above() {
        let mut layout = Layout::new((0, u64::MAX), 8 << 20, false, false);
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
        let mut layout = Layout::new((0, u64::MAX), 8 << 20, true, false);
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
