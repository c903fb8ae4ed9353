//! Call sites of one address space that lead to the stub without a signal.
//!
//! A `syscall` instruction that trapped often is replaced in a copy of its page, which is mapped over
//! the original: what the page was mapped from is not touched, so that the Sentry, other
//! processes and readers of the file see the original. Only code that cannot change unnoticed is
//! patched: private, executable, not writable. A mapping that replaces it, or a protection that
//! makes it writable, takes the patches away with it. All frames of patched pages are final: a
//! page with one more patch is a new copy, so that no processor ever sees code change under it.
//!
//! Where patches lead, and when that is used again, is [`Trampolines`]' matter.
//!
//! Pure but for memory: what is to be mapped is put into a [`Queue`].

use std::collections::{BTreeMap, HashMap};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::layout::Layout;
use super::trampolines::{Trampolines, own, write};
use crate::arch::patch::{Memory, Site, TABLE};
use crate::memory_file::{Frames, MemoryFile};
use crate::stub::queue::Queue;
use crate::{PAGE_SIZE, Prot, Registers, Source, usercopy};

/// How often a call site traps before it is patched. The first patch on a page costs three mappings,
/// which is what so many signals do; most sites of a short program never pay that back.
const PATIENCE: i32 = 8;
/// How many traps there are in a sandbox before its first patch: the decoder's tables take half a
/// millisecond and half a megabyte, which programs that run for a moment do without.
const COLD: u64 = 192;
/// How often it traps before it is tried again, when there was no room for it.
const CROWDED: i32 = 64;
/// How many call sites are watched at a time.
const WATCHED_MAX: usize = 1024;
/// How many patches are retired before somebody looks which of them can be used again.
const BATCH: usize = 256;

/// What all address spaces of a sandbox count.
#[derive(Default)]
pub(super) struct Counts {
    /// Traps where no patch is, up to [`COLD`].
    traps: AtomicU64,
    /// Call sites that were patched.
    patched: AtomicU64,
    /// Of these, whose place was used again or can be.
    reclaimed: AtomicU64,
    /// How often there was no room for one.
    refused: AtomicU64,
}

impl Counts {
    /// Counts a trap. Returns whether it is too early for a patch.
    fn is_cold(&self) -> bool {
        let traps = self.traps.load(Ordering::Relaxed);
        if traps < COLD {
            // A lost race makes it one trap later.
            self.traps.store(traps + 1, Ordering::Relaxed);
        }
        traps < COLD
    }

    /// For the log.
    pub(super) fn counters(&self) -> [(&'static str, u64); 3] {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("call sites patched", get(&self.patched)),
            ("places of patches freed", get(&self.reclaimed)),
            ("times there was no room for a patch", get(&self.refused)),
        ]
    }
}

/// See the module.
pub(super) struct Patches {
    file: Arc<MemoryFile>,
    counts: Arc<Counts>,
    /// Guest mappings that may be patched, by start.
    texts: BTreeMap<u64, Text>,
    /// Traps by address of the `syscall` instruction.
    watched: BTreeMap<u64, i32>,
    /// Patched pages.
    pages: BTreeMap<u64, Page>,
    /// By address of an instruction that a patch replaced: where it is done now.
    moved: HashMap<u64, u64>,
    trampolines: Trampolines,
    /// There was no room for one lately.
    crowded: bool,
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
    /// Places of the trampolines that its sites lead to.
    places: Vec<usize>,
}

/// What came of an attempt.
#[derive(Debug, PartialEq, Eq)]
enum Attempt {
    Patched,
    /// There is no room for it now.
    Crowded,
    /// What cannot be patched now will not be later.
    Hopeless,
}

impl Patches {
    pub(super) fn new(file: Arc<MemoryFile>, layout: Layout, counts: Arc<Counts>) -> Patches {
        Patches {
            trampolines: Trampolines::new(file.clone(), layout),
            file,
            counts,
            texts: BTreeMap::new(),
            watched: BTreeMap::new(),
            pages: BTreeMap::new(),
            moved: HashMap::new(),
            crowded: false,
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
        self.rewritten(queue, addr, len);
        self.cut(addr, addr + len);
    }

    /// What pages of a range were mapped from has changed: they are shown as they are now.
    pub(super) fn rewritten(&mut self, queue: &mut Queue, addr: u64, len: u64) {
        let pages: Vec<u64> = self.pages.range(addr..addr + len).map(|(page, _)| *page).collect();
        for page in pages {
            self.restore(queue, page);
        }
    }

    /// The ranges of a guest's unmapping that are the guest's.
    pub(super) fn guests_part(&self, addr: u64, len: u64) -> impl Iterator<Item = (u64, u64)> {
        self.trampolines.guests_part(addr, len)
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
            let Some(Page { frames, places }) = self.pages.remove(&page) else { continue };
            for place in places {
                for at in self.trampolines.get(place).iter().flat_map(|p| p.site.interior()) {
                    self.moved.remove(&at);
                }
                self.trampolines.retire(place);
            }
            queue.keep(Box::new(frames));
        }
        let watched: Vec<u64> = self.watched.range(start..end).map(|(at, _)| *at).collect();
        for at in watched {
            self.watched.remove(&at);
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
        self.trampolines.drop_table(queue);
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
        self.trampolines.has(rip)
    }

    /// The guest address for one in a trampoline, and whether the guest's `syscall` stands there.
    /// `None` if no thread can be there unless it jumped.
    pub(super) fn leave(&self, rip: u64) -> Option<(u64, bool)> {
        let place = self.trampolines.at(rip)?;
        let guest = place.trampoline.leave(rip)?;
        Some((guest, guest == place.site.syscall))
    }

    /// Where the guest goes on after the call of a trampoline.
    pub(super) fn next(&self, rip: u64) -> Option<u64> {
        self.trampolines.at(rip).map(|place| place.site.next())
    }

    /// The number of the last retirement of a patch.
    pub(super) fn epoch(&self) -> u64 {
        self.trampolines.epoch()
    }

    /// Whether it is time to look which retired patches' places can be used again.
    pub(super) fn wants_reclaim(&self) -> bool {
        let retired = self.trampolines.retired();
        retired >= BATCH || self.crowded && retired > 0
    }

    /// No thread can be any more in what was retired up to number `epoch`. Returns whether there was
    /// any such patch; queues what makes its place fit for another.
    pub(super) fn reclaim(&mut self, queue: &mut Queue, epoch: u64) -> bool {
        let freed = self.trampolines.reclaim(queue, epoch);
        self.crowded &= freed == 0;
        self.counts.reclaimed.fetch_add(freed as u64, Ordering::Relaxed);
        freed > 0
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
        let cold = self.counts.is_cold();
        if *times != PATIENCE {
            return false;
        }
        if cold {
            // Next time, perhaps.
            *times -= 1;
            return false;
        }
        match self.patch(queue, syscall, regs.rax) {
            Some(Attempt::Patched) => {
                self.counts.patched.fetch_add(1, Ordering::Relaxed);
                true
            }
            Some(Attempt::Crowded) => {
                self.counts.refused.fetch_add(1, Ordering::Relaxed);
                self.crowded = true;
                self.watched.insert(syscall, PATIENCE - CROWDED);
                false
            }
            Some(Attempt::Hopeless) | None => false,
        }
    }

    /// `None` is [`Attempt::Hopeless`].
    fn patch(&mut self, queue: &mut Queue, syscall: u64, rax: u64) -> Option<Attempt> {
        let page = syscall & !(PAGE_SIZE - 1);
        let text = self.text(page)?;
        let known = self.pages.get(&page);
        let mut code = match known {
            Some(known) => read(&self.file, known.frames.offset())?,
            None => match &text.source {
                Source::Memory { offset, .. } => read(&self.file, *offset)?,
                Source::Host { file, offset, .. } => read_host(file, *offset)?,
            },
        };
        let site = Site::recognise(&code, page, syscall, rax, Memory::Allowed)?;
        let places = known.map_or(&[][..], |known| &known.places);
        let mut sites = places.iter().filter_map(|place| self.trampolines.get(*place));
        if sites.any(|other| site.clashes(&other.site)) {
            return Some(Attempt::Hopeless);
        }
        let Some(frames) = self.file.allocate(PAGE_SIZE) else { return Some(Attempt::Crowded) };
        let start = (site.start - page) as usize;
        let Some(place) = self.trampolines.install(queue, site) else {
            return Some(Attempt::Crowded);
        };
        let patched = self.trampolines.get(place).and_then(|place| place.site.patched(place.slot));
        let written = patched.and_then(|patched| {
            code.get_mut(start..start + patched.len())?.copy_from_slice(&patched);
            write(&frames, 0, &code)
        });
        if written.is_none() {
            // Nothing leads there: the page that would comes last.
            self.trampolines.discard(place);
            return Some(Attempt::Hopeless);
        }
        queue.cover(page, PAGE_SIZE, text.prot, own(&frames));
        self.note_moved(place);
        let before = self.pages.insert(page, Page { frames: Arc::new(frames), places: Vec::new() });
        let mut places = Vec::new();
        if let Some(before) = before {
            places = before.places;
            queue.keep(Box::new(before.frames));
        }
        places.push(place);
        if let Some(page) = self.pages.get_mut(&page) {
            page.places = places;
        }
        Some(Attempt::Patched)
    }

    /// Threads that come to the middle of a site from now on go on in its trampoline.
    fn note_moved(&mut self, place: usize) {
        let Some(place) = self.trampolines.get(place) else { return };
        for address in place.site.interior() {
            if let Some(target) = place.trampoline.enter(address) {
                self.moved.insert(address, target);
            }
        }
    }

    /// Takes over the patches of the address space that this one is a copy of, as far as its code
    /// is mapped in the same way already.
    pub(super) fn inherit(&mut self, queue: &mut Queue, parent: &Patches) -> Option<()> {
        if parent.off || self.off || !self.trampolines.is_empty() {
            return None;
        }
        let alike: Vec<(u64, Prot, &Page)> = parent
            .pages
            .iter()
            .filter_map(|(page, patched)| {
                let (ours, theirs) = (self.text(*page)?, parent.text(*page)?);
                is_same(&ours.source, &theirs.source).then_some((*page, ours.prot, patched))
            })
            .collect();
        let kept = alike.iter().flat_map(|(.., page)| page.places.iter().copied()).collect();
        self.trampolines.inherit(queue, &parent.trampolines, &kept)?;
        for (page, prot, Page { frames, places }) in alike {
            queue.cover(page, PAGE_SIZE, prot, own(frames));
            places.iter().for_each(|place| self.note_moved(*place));
            let copy = Page { frames: frames.clone(), places: places.clone() };
            self.pages.insert(page, copy);
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

/// A page of the memory file.
fn read(file: &Arc<MemoryFile>, offset: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; PAGE_SIZE as usize];
    // SAFETY: inside the memory file; `bytes` is live.
    let len = unsafe {
        usercopy::copy_from(bytes.as_mut_ptr(), file.ptr(offset).cast_const(), bytes.len())
    };
    (len == bytes.len()).then_some(bytes)
}

/// A page of a file of the host's, or the beginning of it and zeroes.
fn read_host(file: &Arc<std::os::fd::OwnedFd>, offset: u64) -> Option<Vec<u8>> {
    let mut code = vec![0; PAGE_SIZE as usize];
    let offset = libc::off_t::try_from(offset).ok()?;
    // SAFETY: plain system call with a live buffer.
    let len =
        unsafe { libc::pread(file.as_raw_fd(), code.as_mut_ptr().cast(), code.len(), offset) };
    (len > 0).then_some(code)
}
