//! The trampolines of one address space, and the table of pointers that leads to them.
//!
//! # When one is used again
//! A site whose page is gone is *retired*. Nobody comes to its trampoline any more once the page is
//! really gone (its unmapping interrupts every processor, so that no jump is half done then), but a
//! thread may be in there still, or in a call whose answer leads back there. So retirements are
//! numbered, and place and slot are free once no thread can have come there before the number
//! that [`Trampolines::reclaim`] is told; [`super::quiet`] finds that out. Until then, who is
//! interrupted in one is shown as where the guest's own code would be.
//!
//! No processor sees code change under it: a page with a place that is free again is mapped anew,
//! with a copy of the others, before anything is written there.
//!
//! Pure but for memory: what is to be mapped is put into a [`Queue`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::layout::Layout;
use crate::arch::doorbell;
use crate::arch::patch::{SLOT_LEN, Site, Slots, TABLE, TRAMPOLINE_LEN, Trampoline};
use crate::memory_file::{Frames, MemoryFile};
use crate::stub::queue::Queue;
use crate::{PAGE_SIZE, Prot, Source, usercopy};

/// Bytes of a trampoline's place. None lies across two pages.
const PLACE_LEN: u64 = TRAMPOLINE_LEN.next_multiple_of(32) as u64;
const PLACES_PER_PAGE: usize = (PAGE_SIZE / PLACE_LEN) as usize;
const CODE: Prot = Prot { read: true, write: false, exec: true };

/// See the module.
pub(super) struct Trampolines {
    file: Arc<MemoryFile>,
    layout: Layout,
    slots: Slots,
    /// The pages of the table, where they were needed.
    table: BTreeMap<u64, Frames>,
    places: Vec<Option<Place>>,
    /// Places that held one and are free.
    free: Vec<usize>,
    /// The pages with the places.
    code: Vec<Frames>,
    retired: VecDeque<Retired>,
    /// The number of the last retirement.
    epoch: u64,
}

/// A trampoline and its site.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) site: Site,
    pub(super) trampoline: Trampoline,
    pub(super) slot: u32,
}

struct Retired {
    epoch: u64,
    place: usize,
}

impl Trampolines {
    pub(super) fn new(file: Arc<MemoryFile>, layout: Layout) -> Trampolines {
        Trampolines {
            file,
            layout,
            slots: Slots::new(),
            table: BTreeMap::new(),
            places: Vec::new(),
            free: Vec::new(),
            code: Vec::new(),
            retired: VecDeque::new(),
            epoch: 0,
        }
    }

    /// Whether there never was one.
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The number of the last retirement.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many are retired and not free yet.
    pub(super) fn retired(&self) -> usize {
        self.retired.len()
    }

    pub(super) fn get(&self, place: usize) -> Option<&Place> {
        self.places.get(place)?.as_ref()
    }

    fn address(&self, place: usize) -> u64 {
        let (page, within) = (place / PLACES_PER_PAGE, place % PLACES_PER_PAGE);
        self.layout.trampolines() + page as u64 * PAGE_SIZE + within as u64 * PLACE_LEN
    }

    /// Whether an address is among them.
    pub(super) fn has(&self, at: u64) -> bool {
        at.wrapping_sub(self.layout.trampolines()) < Layout::TRAMPOLINES_LEN
    }

    /// The one that holds an address.
    pub(super) fn at(&self, at: u64) -> Option<&Place> {
        let offset = at.checked_sub(self.layout.trampolines())?;
        let (page, within) = (offset / PAGE_SIZE, offset % PAGE_SIZE / PLACE_LEN);
        if within >= PLACES_PER_PAGE as u64 {
            return None;
        }
        self.get(usize::try_from(page).ok()?.checked_mul(PLACES_PER_PAGE)? + within as usize)
    }

    /// Makes one for `site`, with a slot that leads there. Returns its place; `None` if there is no
    /// room, or no memory.
    pub(super) fn install(&mut self, queue: &mut Queue, site: Site) -> Option<usize> {
        let place = self.free.last().copied().unwrap_or(self.places.len());
        let at = self.address(place);
        if at + PLACE_LEN > self.layout.trampolines() + Layout::TRAMPOLINES_LEN {
            return None;
        }
        let trampoline = site.trampoline(at, self.layout.code() + doorbell::entry_offset())?;
        let slot = self.slots.allocate(&site)?;
        let written = self
            .write_code(queue, place, &trampoline.code)
            .and_then(|()| self.write_slot(queue, slot, at));
        if written.is_none() {
            // Nothing reads it yet.
            self.slots.free(slot);
            return None;
        }
        let made = Some(Place { site, trampoline, slot });
        if place == self.places.len() {
            self.places.push(made);
        } else {
            self.free.pop();
            self.places[place] = made;
        }
        Some(place)
    }

    /// Frees one that nothing leads to, and nothing did.
    pub(super) fn discard(&mut self, place: usize) {
        if let Some(Place { slot, .. }) = self.places.get_mut(place).and_then(Option::take) {
            self.slots.free(slot);
            self.free.push(place);
        }
    }

    /// The site of one is about to go.
    pub(super) fn retire(&mut self, place: usize) {
        self.epoch += 1;
        self.retired.push_back(Retired { epoch: self.epoch, place });
    }

    /// Frees those that were retired up to number `epoch`, for no thread can be there any more.
    /// Returns how many.
    pub(super) fn reclaim(&mut self, queue: &mut Queue, epoch: u64) -> usize {
        let count = self.retired.partition_point(|retired| retired.epoch <= epoch);
        let old: Vec<usize> = self.retired.drain(..count).map(|retired| retired.place).collect();
        let pages: BTreeSet<usize> = old.iter().map(|place| place / PLACES_PER_PAGE).collect();
        let renewed: BTreeSet<usize> =
            pages.into_iter().filter(|page| self.renew(queue, *page).is_some()).collect();
        let mut freed = 0;
        for place in old {
            if renewed.contains(&(place / PLACES_PER_PAGE)) {
                self.discard(place);
                freed += 1;
            } else {
                // No memory: it stays for now.
                self.retired.push_front(Retired { epoch, place });
            }
        }
        freed
    }

    /// Maps a copy over a page of trampolines.
    fn renew(&mut self, queue: &mut Queue, page: usize) -> Option<()> {
        let code = self.code.get_mut(page)?;
        let copy = code.duplicate(0, PAGE_SIZE)?;
        let at = self.layout.trampolines() + page as u64 * PAGE_SIZE;
        queue.cover(at, PAGE_SIZE, CODE, own(&copy));
        queue.keep(Box::new(std::mem::replace(code, copy)));
        Some(())
    }

    fn write_slot(&mut self, queue: &mut Queue, slot: u32, target: u64) -> Option<()> {
        let page = u64::from(slot) & !(PAGE_SIZE - 1);
        debug_assert!(u64::from(slot) + u64::from(SLOT_LEN) <= page + PAGE_SIZE);
        if !self.table.contains_key(&page) {
            let frames = self.file.allocate(PAGE_SIZE)?;
            queue.cover(page, PAGE_SIZE, Prot::READ, own(&frames));
            self.table.insert(page, frames);
        }
        write(self.table.get(&page)?, u64::from(slot) - page, &target.to_le_bytes())
    }

    fn write_code(&mut self, queue: &mut Queue, place: usize, code: &[u8]) -> Option<()> {
        let (page, within) = (place / PLACES_PER_PAGE, place % PLACES_PER_PAGE);
        while self.code.len() <= page {
            let frames = self.file.allocate(PAGE_SIZE)?;
            let at = self.layout.trampolines() + self.code.len() as u64 * PAGE_SIZE;
            queue.cover(at, PAGE_SIZE, CODE, own(&frames));
            self.code.push(frames);
        }
        write(self.code.get(page)?, within as u64 * PLACE_LEN, code)
    }

    /// The guest wants the table's place.
    pub(super) fn drop_table(&mut self, queue: &mut Queue) {
        queue.keep(Box::new(std::mem::take(&mut self.table)));
    }

    /// The ranges of a guest's unmapping that are the guest's: the table is not.
    pub(super) fn guests_part(&self, addr: u64, len: u64) -> impl Iterator<Item = (u64, u64)> {
        let (start, end) = (u64::from(TABLE.start), u64::from(TABLE.end));
        let whole = self.table.is_empty() || addr + len <= start || addr >= end;
        let parts = match whole {
            true => [(addr, addr + len), (0, 0)],
            false => [(addr, start), (end, addr + len)],
        };
        parts.into_iter().filter(|(from, to)| from < to).map(|(from, to)| (from, to - from))
    }

    /// Takes over those of `parent` that `are_kept`. None is here yet, and no thread runs.
    pub(super) fn inherit(
        &mut self,
        queue: &mut Queue,
        parent: &Trampolines,
        are_kept: &BTreeSet<usize>,
    ) -> Option<()> {
        for (page, frames) in &parent.table {
            let frames = frames.duplicate(0, PAGE_SIZE)?;
            queue.cover(*page, PAGE_SIZE, Prot::READ, own(&frames));
            self.table.insert(*page, frames);
        }
        for (index, frames) in parent.code.iter().enumerate() {
            let frames = frames.duplicate(0, PAGE_SIZE)?;
            let page = self.layout.trampolines() + index as u64 * PAGE_SIZE;
            queue.cover(page, PAGE_SIZE, CODE, own(&frames));
            self.code.push(frames);
        }
        self.slots = parent.slots.clone();
        for (index, place) in parent.places.iter().enumerate() {
            let kept = place.as_ref().filter(|_| are_kept.contains(&index));
            if kept.is_none() {
                if let Some(place) = place {
                    self.slots.free(place.slot);
                }
                self.free.push(index);
            }
            self.places.push(kept.cloned());
        }
        Some(())
    }
}

/// The source of what the platform maps over the guest's mappings.
pub(super) fn own(frames: &Frames) -> Source {
    Source::Memory { offset: frames.offset(), shared: false }
}

/// Writes into frames of the platform's own.
pub(super) fn write(frames: &Frames, offset: u64, bytes: &[u8]) -> Option<()> {
    let end = offset.checked_add(bytes.len() as u64)?;
    if end > frames.len() {
        return None;
    }
    // SAFETY: inside the frames; `bytes` is live.
    let len = unsafe {
        let to = frames.ptr().add(offset as usize);
        usercopy::copy_to(to, bytes.as_ptr(), bytes.len())
    };
    (len == bytes.len()).then_some(())
}
