//! Which slots of the table are taken.

use super::{FAULTING, SLOT_LEN, Site, TABLE};

const BITS: usize = (TABLE.end - TABLE.start) as usize;

/// Lowest bytes of an address that are [`FAULTING`], of slots that neither overlap nor cross a
/// cache line.
const FAULTING_LOW: [u8; 11] = [0x06, 0x0e, 0x16, 0x1e, 0x27, 0x2f, 0x37, 0x60, 0xce, 0xd6, 0xf4];

/// How many aligned slots there are to each value of an address's second byte.
const ALIGNED: usize = 256 / SLOT_LEN as usize;

/// Every value of the second byte, the [`FAULTING`] ones last: they are for the sites that need
/// them.
const ROWS: [u8; 256] = {
    let mut rows = [0; 256];
    let (mut front, mut back) = (0, 256 - FAULTING.len());
    let mut row = 0;
    while row < 256 {
        let mut faulting = false;
        let mut i = 0;
        while i < FAULTING.len() {
            faulting |= FAULTING[i] as usize == row;
            i += 1;
        }
        let place = if faulting { &mut back } else { &mut front };
        rows[*place] = row as u8;
        *place += 1;
        row += 1;
    }
    rows
};

/// The slots of one address space's table. Slots begin at any byte, do not overlap, and cross
/// neither a page nor a cache line.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    /// One bit for each byte of the table.
    taken: Box<[u64]>,
    /// For each kind of demand, how many of its candidates are known to be taken.
    tried: [usize; 4],
}

impl Slots {
    /// All free.
    pub(crate) fn new() -> Slots {
        Slots { taken: vec![0; BITS / 64].into_boxed_slice(), tried: [0; 4] }
    }

    /// A free slot that fits the site, if there is one.
    pub(crate) fn allocate(&mut self, site: &Site) -> Option<u32> {
        let (low, high) = site.demands();
        let kind = usize::from(low) | usize::from(high) << 1;
        while let Some(slot) = candidate(self.tried[kind], low, high) {
            self.tried[kind] += 1;
            if self.is_free(slot) {
                self.set(slot, true);
                return Some(slot);
            }
        }
        None
    }

    /// Gives a slot back. Of no effect on what is not allocated as a whole.
    pub(crate) fn free(&mut self, slot: u32) {
        if !(TABLE.start..=TABLE.end - SLOT_LEN).contains(&slot)
            || (0..SLOT_LEN).any(|i| !self.bit(slot + i))
        {
            return;
        }
        self.set(slot, false);
        self.tried = [0; 4];
    }

    fn is_free(&self, slot: u32) -> bool {
        (0..SLOT_LEN).all(|i| !self.bit(slot + i))
    }

    fn bit(&self, byte: u32) -> bool {
        let n = (byte - TABLE.start) as usize;
        self.taken[n / 64] & 1 << (n % 64) != 0
    }

    fn set(&mut self, slot: u32, taken: bool) {
        for i in 0..SLOT_LEN {
            let n = (slot + i - TABLE.start) as usize;
            let mask = 1 << (n % 64);
            if taken {
                self.taken[n / 64] |= mask;
            } else {
                self.taken[n / 64] &= !mask;
            }
        }
    }
}

/// The `n`th slot to try for a site that demands a faulting low or second byte.
fn candidate(n: usize, low: bool, high: bool) -> Option<u32> {
    let columns = if low { FAULTING_LOW.len() } else { ALIGNED };
    let rows: &[u8] = if high { &FAULTING } else { &ROWS };
    let row = *rows.get(n / columns)?;
    let column = n % columns;
    let d0 = if low { u32::from(FAULTING_LOW[column]) } else { column as u32 * SLOT_LEN };
    Some(TABLE.start | u32::from(row) << 8 | d0)
}

#[cfg(test)]
mod tests {
    use super::super::Memory;
    use super::*;
    use proptest::prelude::*;

    /// A site with boundaries at 2 and, on demand, at 3 and 4.
    fn site(low: bool, high: bool) -> Site {
        let tail: &[u8] = match (low, high) {
            (false, false) => &[0xb9, 1, 0, 0, 0],
            (true, false) => &[0x99, 0xb9, 1, 0, 0, 0],
            (false, true) => &[0x89, 0xc3, 0xb9, 1, 0, 0, 0],
            (true, true) => &[0x99, 0x98, 0xb9, 1, 0, 0, 0],
        };
        let code = [&[0x0f, 0x05], tail].concat();
        let site = Site::recognise(&code, 0, 0, 0, Memory::Refused).unwrap();
        assert_eq!(site.demands(), (low, high));
        site
    }

    fn all(low: bool, high: bool) -> usize {
        let site = site(low, high);
        let mut slots = Slots::new();
        std::iter::from_fn(|| slots.allocate(&site))
            .inspect(|slot| assert!(site.fits(*slot)))
            .count()
    }

    #[test]
    fn there_are_many() {
        assert_eq!(all(false, false), 8192);
        assert_eq!(all(true, false), 256 * FAULTING_LOW.len());
        assert_eq!(all(false, true), FAULTING.len() * ALIGNED);
        assert_eq!(all(true, true), FAULTING.len() * FAULTING_LOW.len());
    }

    #[test]
    fn few_pages_are_used() {
        let mut slots = Slots::new();
        for i in 0..64 {
            let slot = slots.allocate(&site(i & 1 != 0, i & 2 != 0)).unwrap();
            assert!(slot < TABLE.start + 4096, "{slot:#x}");
        }
    }

    #[test]
    fn rare_rows_are_left_to_those_that_need_them() {
        let mut slots = Slots::new();
        for _ in 0..(256 - FAULTING.len()) * ALIGNED {
            let slot = slots.allocate(&site(false, false)).unwrap();
            assert!(!FAULTING.contains(&slot.to_le_bytes()[1]), "{slot:#x}");
        }
    }

    #[test]
    fn what_is_not_taken_is_not_freed() {
        let mut slots = Slots::new();
        let slot = slots.allocate(&site(false, false)).unwrap();
        for wrong in [0, slot - 1, slot + 1, slot + SLOT_LEN, TABLE.end - 7, TABLE.end, u32::MAX] {
            slots.free(wrong);
        }
        assert_ne!(slots.allocate(&site(false, false)), Some(slot));
        slots.free(slot);
        assert_eq!(slots.allocate(&site(false, false)), Some(slot));
    }

    proptest! {
        #[test]
        fn slots_are_apart(ops in prop::collection::vec((any::<bool>(), any::<bool>(), any::<u8>()), 1..600)) {
            let mut slots = Slots::new();
            let mut held: Vec<u32> = Vec::new();
            for (low, high, free) in ops {
                if free < 80 && !held.is_empty() {
                    slots.free(held.swap_remove(usize::from(free) % held.len()));
                    continue;
                }
                let site = site(low, high);
                let Some(slot) = slots.allocate(&site) else { continue };
                prop_assert!(site.fits(slot));
                prop_assert_eq!(slot / 64, (slot + SLOT_LEN - 1) / 64);
                prop_assert!(held.iter().all(|other| other.abs_diff(slot) >= SLOT_LEN));
                held.push(slot);
            }
        }
    }
}
