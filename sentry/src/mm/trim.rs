//! Memory that was handed out ahead of its use and that nobody has touched: taken back when there
//! is no other memory left, so that a limit counts what is used and not what was promised.

use std::ops::Range;
use std::sync::OnceLock;

use platform::Frames;

use super::pma::{Memory, Pma};
use super::vma::VmFlags;
use super::{MemoryManager, PAGE, State};

/// Smaller holes stay: a mapping of its own for what is left of each side costs more.
const MIN_HOLE: u64 = 32 << 10;

/// How a user copy that finds no memory may get some; says whether it is worth trying again.
pub type Relief = OnceLock<Box<dyn Fn() -> bool + Send + Sync>>;

/// The holes of `frames` that are worth taking, ascending, relative to its start.
fn holes(frames: &Frames) -> Vec<Range<u64>> {
    let mut holes = Vec::new();
    let mut at = 0;
    for part in frames.present() {
        if part.start - at >= MIN_HOLE {
            holes.push(at..part.start);
        }
        at = part.end;
    }
    if frames.len() - at >= MIN_HOLE {
        holes.push(at..frames.len());
    }
    holes
}

/// The frames of anonymous memory that is the area's own. Code stays: what the platform knows about
/// it would be lost.
fn own_frames(pma: &Pma) -> Option<&Frames> {
    match &pma.memory {
        Memory::Frames(frames) if pma.private && !pma.cow && !pma.prot.exec => Some(frames),
        _ => None,
    }
}

impl MemoryManager {
    /// Takes back memory that was handed out and not touched. Returns how many bytes.
    ///
    /// What the guest does meanwhile is not lost: a range is unmapped first, and looked at when no
    /// thread can reach it any more.
    pub fn trim(&self) -> u64 {
        let mut guard = self.state.write();
        let st = &mut *guard;
        let mut ranges = Vec::new();
        for (area, vma) in st.vmas.iter() {
            if !vma.is_anonymous() || vma.is_special() || vma.flags.contains(VmFlags::LOCKED) {
                continue;
            }
            for (found, pma) in st.pmas.overlapping(area.clone()) {
                let inside = area.start <= found.start && found.end <= area.end;
                let idle = own_frames(pma)
                    .is_some_and(|frames| frames.is_sole_owner() && !holes(frames).is_empty());
                if inside && idle {
                    ranges.push(found);
                }
            }
        }
        if ranges.is_empty() {
            return 0;
        }
        for range in &ranges {
            self.space.unmap(range.start, range.end - range.start, None);
        }
        self.space.sync();
        let taken: Vec<_> = ranges.into_iter().flat_map(|range| st.pmas.take(range)).collect();
        taken.into_iter().map(|(range, pma)| self.trim_one(st, range, pma)).sum()
    }

    /// Puts back what of `pma`, which no thread can reach, was touched.
    fn trim_one(&self, st: &mut State, range: Range<u64>, mut pma: Pma) -> u64 {
        let holes = own_frames(&pma).map(holes).unwrap_or_default();
        let mut freed = 0;
        let mut start = range.start;
        for hole in holes {
            let (from, to) = (range.start + hole.start, range.start + hole.end);
            if from > start {
                let tail = pma.split_at(from - start);
                self.install(st, start..from, std::mem::replace(&mut pma, tail), true);
            }
            freed += to - from;
            if to == range.end {
                return freed;
            }
            // Dropping the hole's part gives it back.
            let tail = pma.split_at(to - from);
            drop(std::mem::replace(&mut pma, tail));
            start = to;
        }
        self.install(st, start..range.end, pma, true);
        freed
    }
}

/// How much to hand out ahead: no more than a fraction of what is left.
pub(super) fn ahead(left: u64, most: u64, fraction: u64) -> u64 {
    let share = (left / fraction).max(PAGE);
    // A power of two, as chunks are aligned to their size.
    (1 << share.ilog2()).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_handed_out_ahead_where_little_is_left() {
        assert_eq!(ahead(1 << 40, 4 << 20, 64), 4 << 20);
        assert_eq!(ahead(64 << 20, 4 << 20, 64), 1 << 20);
        assert_eq!(ahead(63 << 20, 4 << 20, 64), 512 << 10);
        assert_eq!(ahead(0, 4 << 20, 64), PAGE);
    }
}
