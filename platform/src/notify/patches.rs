//! Call sites of one address space that lead to the stub without a signal.
//!
//! A `syscall` instruction that trapped often is replaced in a copy of its page, which is mapped over
//! the original: what the page was mapped from is not touched, so that the Sentry, other
//! processes and readers of the file see the original. Only code that cannot change unnoticed is
//! patched: private, executable, not writable. A mapping that replaces it, or a protection that
//! makes it writable, takes the patches away with it. All frames of patched pages are final: a
//! page with one more patch is a new copy, so that no processor ever sees code change under it.
//!
//! Owns the table of pointers at [`TABLE`], and the trampolines. Both only grow: a thread may be in
//! a trampoline long after its site is gone.
//!
//! Pure but for memory: what is to be mapped is put into a [`Queue`].

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use super::layout::Layout;
use crate::arch::doorbell;
use crate::arch::patch::{Memory, SLOT_LEN, Site, Slots, TABLE, TRAMPOLINE_LEN, Trampoline};
use crate::memory_file::{Frames, MemoryFile};
use crate::stub::queue::Queue;
use crate::{PAGE_SIZE, Prot, Registers, Source, usercopy};

/// How often a call site traps before it is patched: what that costs is what so many signals do.
const PATIENCE: u32 = 4;
/// How many call sites are watched at a time.
const WATCHED_MAX: usize = 1024;
/// Bytes of a trampoline's place.
const PLACE_LEN: u64 = TRAMPOLINE_LEN.next_multiple_of(32) as u64;

/// See the module.
pub(super) struct Patches {
    file: Arc<MemoryFile>,
    layout: Layout,
    /// Guest mappings that may be patched, by start.
    texts: BTreeMap<u64, Text>,
    /// Traps by address of the `syscall` instruction.
    watched: HashMap<u64, u32>,
    /// Patched pages.
    pages: BTreeMap<u64, Page>,
    /// By address of an instruction that a patch replaced: where it is done now.
    moved: HashMap<u64, u64>,
    slots: Slots,
    /// The pages of the table, where they were needed.
    table: BTreeMap<u64, Frames>,
    trampolines: Vec<(Site, Trampoline)>,
    /// The pages with the trampolines.
    code: Vec<Frames>,
    /// The guest maps something where the table lies.
    off: bool,
}

#[derive(Clone)]
struct Text {
    end: u64,
    prot: Prot,
    source: Source,
}

struct Page {
    frames: Arc<Frames>,
    sites: Vec<Site>,
}

/// What must stay until the queue holds.
type Keep = Box<dyn Any + Send>;

impl Patches {
    pub(super) fn new(file: Arc<MemoryFile>, layout: Layout) -> Patches {
        Patches {
            file,
            layout,
            texts: BTreeMap::new(),
            watched: HashMap::new(),
            pages: BTreeMap::new(),
            moved: HashMap::new(),
            slots: Slots::new(),
            table: BTreeMap::new(),
            trampolines: Vec::new(),
            code: Vec::new(),
            off: false,
        }
    }

    /// A mapping is about to replace what is in a range.
    pub(super) fn map(
        &mut self,
        queue: &mut Queue,
        addr: u64,
        len: u64,
        prot: Prot,
        source: &Source,
    ) {
        self.unmap(queue, addr, len);
        if addr < u64::from(TABLE.end) && addr + len > u64::from(TABLE.start) {
            self.give_way(queue);
        }
        let stable = match source {
            Source::Memory { shared, .. } | Source::Host { shared, .. } => !shared,
        };
        if stable && prot.exec && !prot.write && prot.read {
            self.texts.insert(addr, Text { end: addr + len, prot, source: source.clone() });
        }
    }

    /// A range is about to go.
    pub(super) fn unmap(&mut self, queue: &mut Queue, addr: u64, len: u64) {
        self.forget_pages(queue, addr, addr + len);
        self.cut(addr, addr + len);
    }

    /// The protection of a range is about to change.
    pub(super) fn protect(&mut self, queue: &mut Queue, addr: u64, len: u64, prot: Prot) {
        if prot.exec && prot.read && !prot.write {
            return;
        }
        let end = addr + len;
        let pages: Vec<u64> = self.pages.range(addr..end).map(|(page, _)| *page).collect();
        for page in pages {
            self.restore(queue, page);
        }
        self.cut(addr, end);
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

    /// Maps the original of a patched page again.
    fn restore(&mut self, queue: &mut Queue, page: u64) {
        if let Some(text) = self.text(page) {
            queue.cover(page, PAGE_SIZE, text.prot, text.source);
        }
        self.forget_pages(queue, page, page + PAGE_SIZE);
    }

    fn forget_pages(&mut self, queue: &mut Queue, start: u64, end: u64) {
        let gone: Vec<u64> = self.pages.range(start..end).map(|(page, _)| *page).collect();
        for page in gone {
            let Some(Page { frames, sites }) = self.pages.remove(&page) else { continue };
            for site in &sites {
                for at in site.interior() {
                    self.moved.remove(&at);
                }
            }
            queue.keep(Box::new(frames));
        }
    }

    /// Removes a range from what may be patched.
    fn cut(&mut self, start: u64, end: u64) {
        let before = self.texts.range(..start).next_back().filter(|(_, t)| t.end > start);
        let first = before.map_or(start, |(s, _)| *s);
        let parts: Vec<u64> = self.texts.range(first..end).map(|(s, _)| *s).collect();
        for from in parts {
            let Some(text) = self.texts.remove(&from) else { continue };
            if from < start {
                self.texts.insert(from, Text { end: start, ..text.clone() });
            }
            if text.end > end {
                let source = advance(&text.source, end - from);
                self.texts.insert(end, Text { source, ..text });
            }
        }
    }

    /// The page at `page` as it was mapped.
    fn text(&self, page: u64) -> Option<Text> {
        let (start, text) = self.texts.range(..=page).next_back()?;
        (text.end > page).then(|| Text {
            end: page + PAGE_SIZE,
            prot: text.prot,
            source: advance(&text.source, page - start),
        })
    }

    /// The guest wants the table's place: from now on nothing is patched.
    fn give_way(&mut self, queue: &mut Queue) {
        let pages: Vec<u64> = self.pages.keys().copied().collect();
        for page in pages {
            self.restore(queue, page);
        }
        let table = std::mem::take(&mut self.table);
        queue.keep(Box::new(table) as Keep);
        self.off = true;
    }

    /// Where a thread goes on that is to go on at `rip`.
    pub(super) fn enter(&self, rip: u64) -> u64 {
        self.moved.get(&rip).copied().unwrap_or(rip)
    }

    /// Whether the instruction at `rip` was moved: the guest came to the middle of a patch.
    pub(super) fn is_moved(&self, rip: u64) -> bool {
        self.moved.contains_key(&rip)
    }

    /// Whether an address is among the trampolines.
    pub(super) fn has(&self, rip: u64) -> bool {
        rip.wrapping_sub(self.layout.trampolines()) < Layout::TRAMPOLINES_LEN
    }

    fn trampoline(&self, at: u64) -> Option<&(Site, Trampoline)> {
        let index = at.checked_sub(self.layout.trampolines())? / PLACE_LEN;
        self.trampolines.get(usize::try_from(index).ok()?)
    }

    /// The guest address for one in a trampoline, and whether the guest's `syscall` stands there.
    /// `None` if no thread can be there unless it jumped.
    pub(super) fn leave(&self, rip: u64) -> Option<(u64, bool)> {
        let (site, trampoline) = self.trampoline(rip)?;
        let guest = trampoline.leave(rip)?;
        Some((guest, guest == site.syscall))
    }

    /// Where the guest goes on after the call of a trampoline.
    pub(super) fn next(&self, rip: u64) -> Option<u64> {
        self.trampoline(rip).map(|(site, _)| site.next())
    }

    /// A system call trapped. If its site has done so often enough, queues what patches it, and
    /// returns true.
    pub(super) fn trapped(&mut self, queue: &mut Queue, regs: &Registers) -> bool {
        if self.off {
            return false;
        }
        let syscall = regs.rip.wrapping_sub(2);
        if self.watched.len() >= WATCHED_MAX && !self.watched.contains_key(&syscall) {
            self.watched.clear();
        }
        let times = self.watched.entry(syscall).or_insert(0);
        *times = times.saturating_add(1);
        // Once: what cannot be patched now will not be later.
        *times == PATIENCE && self.patch(queue, syscall, regs.rax).is_some()
    }

    fn patch(&mut self, queue: &mut Queue, syscall: u64, rax: u64) -> Option<()> {
        let page = syscall & !(PAGE_SIZE - 1);
        let text = self.text(page)?;
        let known = self.pages.get(&page);
        let code = match known {
            Some(known) => read(&self.file, known.frames.offset())?,
            None => match &text.source {
                Source::Memory { offset, .. } => read(&self.file, *offset)?,
                Source::Host { file, offset, .. } => {
                    let mut code = vec![0; PAGE_SIZE as usize];
                    // SAFETY: plain system call with a live buffer.
                    let len = unsafe {
                        libc::pread(
                            file.as_raw_fd(),
                            code.as_mut_ptr().cast(),
                            code.len(),
                            libc::off_t::try_from(*offset).ok()?,
                        )
                    };
                    if len <= 0 {
                        return None;
                    }
                    code
                }
            },
        };
        let site = Site::recognise(&code, page, syscall, rax, Memory::Allowed)?;
        if known.is_some_and(|known| known.sites.iter().any(|other| site.clashes(other))) {
            return None;
        }
        let at = self.layout.trampolines() + self.trampolines.len() as u64 * PLACE_LEN;
        if at + PLACE_LEN > self.layout.trampolines() + Layout::TRAMPOLINES_LEN {
            return None;
        }
        let trampoline = site.trampoline(at, self.layout.code() + doorbell::entry_offset())?;
        let slot = self.slots.allocate(&site)?;
        let installed = self.install(queue, code, text.prot, site, trampoline, slot);
        if installed.is_none() {
            // Nothing reads it: the page that would comes last.
            self.slots.free(slot);
        }
        installed
    }

    /// Puts `site` into its page, whose content is `code`.
    fn install(
        &mut self,
        queue: &mut Queue,
        mut code: Vec<u8>,
        prot: Prot,
        site: Site,
        trampoline: Trampoline,
        slot: u32,
    ) -> Option<()> {
        let page = site.start & !(PAGE_SIZE - 1);
        let at = self.layout.trampolines() + self.trampolines.len() as u64 * PLACE_LEN;
        let patched = site.patched(slot)?;
        let start = (site.start - page) as usize;
        code.get_mut(start..start + patched.len())?.copy_from_slice(&patched);
        let frames = Arc::new(self.file.allocate(PAGE_SIZE)?);
        write(&frames, 0, &code)?;
        self.write_trampoline(queue, at, &trampoline.code)?;
        self.write_slot(queue, slot, at)?;
        queue.cover(page, PAGE_SIZE, prot, own(&frames));
        for address in site.interior() {
            if let Some(target) = trampoline.enter(address) {
                self.moved.insert(address, target);
            }
        }
        let before = self.pages.insert(page, Page { frames, sites: Vec::new() });
        let mut sites = Vec::new();
        if let Some(before) = before {
            sites = before.sites;
            queue.keep(Box::new(before.frames));
        }
        sites.push(site.clone());
        if let Some(page) = self.pages.get_mut(&page) {
            page.sites = sites;
        }
        self.trampolines.push((site, trampoline));
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

    fn write_trampoline(&mut self, queue: &mut Queue, at: u64, code: &[u8]) -> Option<()> {
        const CODE: Prot = Prot { read: true, write: false, exec: true };
        let offset = at - self.layout.trampolines();
        // One may lie across two pages.
        while self.code.len() as u64 * PAGE_SIZE < offset + PLACE_LEN {
            let frames = self.file.allocate(PAGE_SIZE)?;
            let page = self.layout.trampolines() + self.code.len() as u64 * PAGE_SIZE;
            queue.cover(page, PAGE_SIZE, CODE, own(&frames));
            self.code.push(frames);
        }
        let (index, within) = ((offset / PAGE_SIZE) as usize, offset % PAGE_SIZE);
        let room = code.len().min((PAGE_SIZE - within) as usize);
        write(self.code.get(index)?, within, &code[..room])?;
        match &code[room..] {
            [] => Some(()),
            rest => write(self.code.get(index + 1)?, 0, rest),
        }
    }

    /// Takes over the patches of the address space that this one is a copy of, as far as its code
    /// is mapped in the same way already.
    pub(super) fn inherit(&mut self, queue: &mut Queue, parent: &Patches) -> Option<()> {
        if parent.off || self.off || !self.trampolines.is_empty() {
            return None;
        }
        let copy = |frames: &Frames| frames.duplicate(0, PAGE_SIZE);
        for (page, frames) in &parent.table {
            let frames = copy(frames)?;
            queue.cover(*page, PAGE_SIZE, Prot::READ, own(&frames));
            self.table.insert(*page, frames);
        }
        for (index, frames) in parent.code.iter().enumerate() {
            let frames = copy(frames)?;
            let page = self.layout.trampolines() + index as u64 * PAGE_SIZE;
            queue.cover(
                page,
                PAGE_SIZE,
                Prot { read: true, write: false, exec: true },
                own(&frames),
            );
            self.code.push(frames);
        }
        self.slots = parent.slots.clone();
        self.trampolines = parent.trampolines.clone();
        for (page, patched) in &parent.pages {
            let (Some(ours), Some(theirs)) = (self.text(*page), parent.text(*page)) else {
                continue;
            };
            if !is_same(&ours.source, &theirs.source) {
                continue;
            }
            queue.cover(*page, PAGE_SIZE, ours.prot, own(&patched.frames));
            for site in &patched.sites {
                for at in site.interior() {
                    if let Some(target) = parent.moved.get(&at) {
                        self.moved.insert(at, *target);
                    }
                }
            }
            let page_copy = Page { frames: patched.frames.clone(), sites: patched.sites.clone() };
            self.pages.insert(*page, page_copy);
        }
        Some(())
    }
}

/// The same source from `by` bytes on.
fn advance(source: &Source, by: u64) -> Source {
    match source {
        Source::Memory { offset, shared } => {
            Source::Memory { offset: offset + by, shared: *shared }
        }
        Source::Host { file, offset, shared } => {
            Source::Host { file: file.clone(), offset: offset + by, shared: *shared }
        }
    }
}

fn is_same(a: &Source, b: &Source) -> bool {
    match (a, b) {
        (Source::Memory { offset: a, .. }, Source::Memory { offset: b, .. }) => a == b,
        (Source::Host { file: f, offset: a, .. }, Source::Host { file: g, offset: b, .. }) => {
            Arc::ptr_eq(f, g) && a == b
        }
        _ => false,
    }
}

fn own(frames: &Frames) -> Source {
    Source::Memory { offset: frames.offset(), shared: false }
}

/// A page of the memory file.
fn read(file: &Arc<MemoryFile>, offset: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; PAGE_SIZE as usize];
    // SAFETY: inside the memory file; `bytes` is live.
    let len = unsafe {
        usercopy::copy_from(bytes.as_mut_ptr(), file.ptr(offset).cast_const(), bytes.len())
    };
    (len == bytes.len()).then_some(bytes)
}

fn write(frames: &Frames, offset: u64, bytes: &[u8]) -> Option<()> {
    // SAFETY: inside the frames, as callers see to; `bytes` is live.
    let len = unsafe {
        let to = frames.ptr().add(offset as usize);
        usercopy::copy_to(to, bytes.as_ptr(), bytes.len())
    };
    (len == bytes.len()).then_some(())
}
