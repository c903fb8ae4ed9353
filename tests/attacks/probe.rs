//! Finding things: the stub's pages, `syscall` instructions in them, and the victim's canary.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::asm;
use super::catch;

pub const PAGE: u64 = 4096;
/// One past the highest user address with four-level page tables.
pub const USER_END: u64 = 0x7fff_ffff_f000;
/// The stub lies within this many bytes of the end.
pub const REGION: u64 = 1 << 32;
/// Stubs may keep a table of code pointers here.
pub const LOW_TABLE: std::ops::Range<u64> = 0x6_0000..0x7_0000;

/// The limit on stacks, with some room.
const STACK: u64 = 16 << 20;

/// A mapping of `/proc/self/maps`.
#[derive(Clone, Copy)]
pub struct Mapping {
    pub start: u64,
    pub end: u64,
    pub read: bool,
    /// How far it grows downwards when that is looked at.
    room: u64,
    /// Whether it is the vDSO or its data.
    pub vdso: bool,
}

/// What the kernel says is mapped.
pub fn maps() -> Vec<Mapping> {
    let text = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let line = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        Some(Mapping {
            start: u64::from_str_radix(start, 16).ok()?,
            room: if rest.ends_with("[stack]") { STACK } else { 0 },
            end: u64::from_str_radix(end, 16).ok()?,
            read: rest.starts_with('r'),
            vdso: rest.ends_with("[vdso]") || rest.ends_with("[vvar]"),
        })
    };
    text.lines().filter_map(line).collect()
}

/// Pages that can be read although the kernel does not list them. Found once, before attackers are
/// forked from the process that looks.
static PAGES: [AtomicU64; 1024] = [const { AtomicU64::new(0) }; 1024];
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The stub's readable pages that are known.
pub fn pages() -> Vec<u64> {
    PAGES[..COUNT.load(Ordering::Relaxed)].iter().map(|p| p.load(Ordering::Relaxed)).collect()
}

/// Whether an address is in a page of the stub.
pub fn is_stub(addr: u64) -> bool {
    let known = COUNT.load(Ordering::Relaxed);
    PAGES[..known].iter().any(|page| page.load(Ordering::Relaxed) == addr & !(PAGE - 1))
}

fn note(page: u64) {
    let count = COUNT.load(Ordering::Relaxed);
    if !is_stub(page) && count < PAGES.len() {
        PAGES[count].store(page, Ordering::Relaxed);
        COUNT.store(count + 1, Ordering::Relaxed);
    }
}

fn note_range(range: std::ops::Range<u64>, step: u64, maps: &[Mapping]) {
    let mut at = range.start;
    while at < range.end {
        let listed = maps.iter().any(|m| (m.start - m.room..m.end).contains(&at));
        if !listed && catch::load(at).is_some() {
            note(at);
        }
        at += step;
    }
}

/// Looks around GS; for `everywhere` also in the known places and in steps through all of user
/// space.
pub fn find_pages(everywhere: bool) -> Vec<u64> {
    const BLOCK: u64 = 32 << 10;
    let maps = maps();
    let gs = asm::gs_base() & !(PAGE - 1);
    if catch::load(gs).is_some() {
        note_range(gs.saturating_sub(2 * BLOCK)..gs + 3 * BLOCK, PAGE, &maps);
    }
    if everywhere {
        note_range(USER_END - (2 << 20)..USER_END, PAGE, &maps);
        note_range(LOW_TABLE, PAGE, &maps);
        // The stub goes below the vDSO if that is at the end.
        for m in maps.iter().filter(|m| m.vdso) {
            note_range(m.start - (64 << 10)..m.start, PAGE, &maps);
        }
        note_range(PAGE..2 << 20, PAGE, &maps);
        note_range(2 << 20..4 << 30, 2 << 20, &maps);
        note_range(4 << 30..USER_END, 16 << 30, &maps);
        // From a round address: the region may begin with one.
        note_range(USER_END + PAGE - REGION..USER_END, 256 << 10, &maps);
        note_range(USER_END - (1 << 28)..USER_END, BLOCK, &maps);
        for page in pages() {
            note_range(page.saturating_sub(BLOCK)..page + 2 * BLOCK, PAGE, &maps);
        }
    }
    pages()
}

/// Whether a write of what is there already is let through.
pub fn is_writable(page: u64) -> bool {
    // The end of the page is less likely to be used than its start.
    let at = page + PAGE - 8;
    catch::load(at).is_some_and(|value| catch::store(at, value))
}

/// The stub's pages that the guest can write.
pub fn writable_pages() -> Vec<u64> {
    pages().into_iter().filter(|&page| is_writable(page)).collect()
}

/// The bytes of a page.
pub fn read_page(page: u64) -> Option<[u8; PAGE as usize]> {
    let mut bytes = [0; PAGE as usize];
    catch::copy(page, &mut bytes).then_some(bytes)
}

/// Addresses in the stub's pages where these bytes are.
pub fn find_bytes(needle: &[u8]) -> Vec<u64> {
    let mut found = Vec::new();
    for page in pages() {
        let Some(bytes) = read_page(page) else { continue };
        let at = bytes.windows(needle.len()).enumerate().filter(|(_, w)| *w == needle);
        found.extend(at.map(|(at, _)| page + at as u64));
    }
    found
}

/// Where the stub has a `syscall`, `int 0x80` or `sysenter`, also by accident. At most `limit`, evenly
/// spread: trampolines are alike.
pub fn call_sites(limit: usize) -> Vec<u64> {
    let mut all = find_bytes(&[0x0f, 0x05]);
    all.extend(find_bytes(&[0xcd, 0x80]));
    all.extend(find_bytes(&[0x0f, 0x34]));
    let step = all.len().div_ceil(limit).max(1);
    all.into_iter().step_by(step).collect()
}

/// The numbers that stub code loads before a `syscall`, and that are no system call of Linux.
pub fn doorbells() -> Vec<u64> {
    let mut found = Vec::new();
    for page in pages() {
        let Some(bytes) = read_page(page) else { continue };
        for window in bytes.windows(5).filter(|w| w[0] & 0xf8 == 0xb8) {
            let number = u32::from_le_bytes([window[1], window[2], window[3], window[4]]);
            if number > 600 && !found.contains(&u64::from(number)) && found.len() < 16 {
                found.push(u64::from(number));
            }
        }
    }
    found
}

/// The word after this one in a canary. Nobody but the victim knows its first word, and nobody
/// needs to: five words of which each follows from the one before are no accident.
pub fn successor(word: u64) -> u64 {
    word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407)
}

/// Looks for a canary.
pub fn has_canary(bytes: &[u8]) -> bool {
    let mut run = 0;
    let mut last = 0;
    for word in bytes.chunks_exact(8) {
        let word = u64::from_ne_bytes(word.try_into().unwrap_or_default());
        run = if word == successor(last) { run + 1 } else { 0 };
        last = word;
        if run == 4 {
            return true;
        }
    }
    false
}

/// Looks through a range, as far as it can be read.
pub fn canary_in(range: std::ops::Range<u64>) -> Option<u64> {
    let mut pages = (range.start & !(PAGE - 1)..range.end).step_by(PAGE as usize);
    pages.find(|&page| read_page(page).is_some_and(|bytes| has_canary(&bytes)))
}

/// Looks for a canary in all memory of this process that is known.
pub fn canary_anywhere() -> Option<u64> {
    let listed = maps().into_iter().filter(|m| m.read).map(|m| m.start..m.end);
    let stub = pages().into_iter().map(|page| page..page + PAGE);
    listed.chain(stub).find_map(canary_in)
}
