//! Recognising a place that can be patched.

use super::head::Head;
use super::instruction::{Memory, movable};
use super::{FAULTING, JUMP_LEN, SLOT_LEN, TABLE};
use crate::PAGE_SIZE;

const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// `rt_sigreturn`'s number.
const RT_SIGRETURN: u64 = 15;
/// One past the highest address of a guest: with it, no sum here overflows.
const TOP: u64 = 1 << 47;

/// A site that can be patched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Site {
    /// Address of the first byte that is replaced.
    pub(crate) start: u64,
    /// Address of the `syscall` instruction: `start`, or later if instructions before it are
    /// swallowed. If these make room enough it stays where it is, behind the replaced bytes.
    pub(crate) syscall: u64,
    /// The system call's number, if the swallowed instructions set it. Holds for threads that
    /// come from `start`; one that enters the site at `syscall` brings its own.
    pub(crate) nr: Option<u32>,
    /// What the trampoline stands for: the replaced bytes, and those up to the `syscall` and with
    /// it if it lies behind them.
    code: Vec<u8>,
    /// How many of them are replaced.
    len: usize,
    /// Bit n: an instruction begins at `code[n]`.
    boundaries: u32,
}

impl Site {
    /// Recognises the `syscall` instruction at address `syscall`, which trapped with `rax`.
    ///
    /// `code` is what the guest executes at the page of address `page`, or the beginning of it as
    /// far as it can be read, with earlier patches in it. `None` if the site is to be left alone.
    /// The caller sees to it that it does not clash with another ([`Site::clashes`]): code that
    /// decodes in two ways, depending on where one begins, can have sites that overlap.
    ///
    /// Instructions behind the `syscall` are swallowed if they make room enough: they are known,
    /// for decoding goes forward. Otherwise so are instructions before it, as few as will do.
    /// Which these are is a guess, made only if decoding from further back agrees, no prefix
    /// stands before the first, and `rax` is what they would have made it. If it is wrong all the
    /// same, then this guest executes bytes of the jump as something else, with its own rights in
    /// its own address space, as if it had written them itself.
    pub(crate) fn recognise(
        code: &[u8],
        page: u64,
        syscall: u64,
        rax: u64,
        memory: Memory,
    ) -> Option<Site> {
        if !page.is_multiple_of(PAGE_SIZE) || page >= TOP {
            return None;
        }
        let code = &code[..code.len().min(PAGE_SIZE as usize)];
        let at = usize::try_from(syscall.checked_sub(page)?).ok()?;
        if !code.get(at..)?.starts_with(&SYSCALL) {
            return None;
        }
        // Unwinders know a signal frame by the bytes at its return address (libgcc's
        // `x86_64_fallback_frame_state`, gdb's `amd64_linux_sigtramp_p`).
        if rax == RT_SIGRETURN {
            return None;
        }
        let search = |memory| {
            let mut head = Head::empty(at);
            loop {
                if let Some(site) = Self::swallow(code, page, &head, at, memory) {
                    return Some(site);
                }
                head = head.longer(code, at, rax, memory)?;
            }
        };
        // What cannot fault is preferred.
        search(Memory::Refused).or_else(|| match memory {
            Memory::Refused => None,
            Memory::Allowed => search(memory),
        })
    }

    /// The site of the `syscall` at `code[at]` with this head, and as many instructions behind it
    /// as the jump needs.
    fn swallow(code: &[u8], page: u64, head: &Head, at: usize, memory: Memory) -> Option<Site> {
        let mut boundaries = head.boundaries;
        let mut end = at + SYSCALL.len();
        // The end of what is replaced, if the `syscall` is not.
        let mut len = (JUMP_LEN..=at - head.start).find(|n| boundaries & 1 << n != 0);
        while len.is_none() {
            if end - head.start >= JUMP_LEN {
                len = Some(end - head.start);
            } else {
                boundaries |= 1 << (end - head.start);
                end += movable(code.get(end..)?, memory)?.len();
            }
        }
        let site = Site {
            start: page + head.start as u64,
            syscall: page + at as u64,
            nr: head.nr,
            code: code.get(head.start..end)?.to_vec(),
            len: len?,
            boundaries,
        };
        // The jump's bytes there are fixed, and do not fault.
        (!site.begins_at(1) && !site.begins_at(6)).then_some(site)
    }

    /// Whether an original instruction began at this offset.
    fn begins_at(&self, offset: usize) -> bool {
        self.boundaries & 1 << offset != 0
    }

    /// Whether the lowest and the second byte of the slot's address must be among [`FAULTING`].
    pub(super) fn demands(&self) -> (bool, bool) {
        (self.begins_at(3), self.begins_at(4))
    }

    /// How many bytes are replaced, from `start`. At least [`JUMP_LEN`].
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// One past the last byte that is replaced.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.len as u64
    }

    /// The bytes that are replaced.
    #[cfg(test)]
    pub(crate) fn original(&self) -> &[u8] {
        &self.code[..self.len]
    }

    /// The address behind the `syscall` instruction: where the guest's `rip` is during the call.
    pub(crate) fn next(&self) -> u64 {
        self.syscall + SYSCALL.len() as u64
    }

    /// Where the guest goes on after the trampoline.
    pub(crate) fn resume(&self) -> u64 {
        self.start + self.code.len() as u64
    }

    /// Addresses within the replaced bytes, past the first, where an original instruction began:
    /// a thread that comes there traps.
    pub(crate) fn interior(&self) -> impl Iterator<Item = u64> {
        self.instructions().filter(|a| (self.start + 1..self.end()).contains(a))
    }

    /// Addresses of all instructions that the trampoline stands for.
    pub(super) fn instructions(&self) -> impl Iterator<Item = u64> {
        (0..self.code.len()).filter(|n| self.begins_at(*n)).map(|n| self.start + n as u64)
    }

    /// The instructions before the `syscall`.
    pub(super) fn head(&self) -> &[u8] {
        &self.code[..(self.syscall - self.start) as usize]
    }

    /// The instructions behind it.
    pub(super) fn tail(&self) -> &[u8] {
        &self.code[(self.next() - self.start) as usize..]
    }

    /// Whether the two must not be patched both: one would be written into the other, or the
    /// trampoline of one would return to an address that traps in the other.
    pub(crate) fn clashes(&self, other: &Site) -> bool {
        let overlap = self.start < other.end() && other.start < self.end();
        overlap
            || self.interior().any(|a| a == other.resume())
            || other.interior().any(|a| a == self.resume())
    }

    /// Whether a slot at this address makes every address of [`Site::interior`] fault.
    pub(crate) fn fits(&self, slot: u32) -> bool {
        let [d0, d1, ..] = slot.to_le_bytes();
        let (low, high) = self.demands();
        (TABLE.start..=TABLE.end - SLOT_LEN).contains(&slot)
            && (!low || FAULTING.contains(&d0))
            && (!high || FAULTING.contains(&d1))
    }

    /// What to write at `start`, [`Site::len`] bytes, for a pointer that lies at `slot`. `None` if
    /// the slot does not fit.
    pub(crate) fn patched(&self, slot: u32) -> Option<Vec<u8>> {
        if !self.fits(slot) {
            return None;
        }
        let [d0, d1, d2, d3] = slot.to_le_bytes();
        // jmp qword ptr [slot]
        let mut bytes = vec![0xff, 0x24, 0xe5, d0, d1, d2, d3];
        // What is left of the last swallowed instruction: none begins there.
        bytes.resize(self.len, 0xcc);
        Some(bytes)
    }
}
