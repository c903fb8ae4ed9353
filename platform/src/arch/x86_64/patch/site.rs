//! Recognising a place that can be patched.

use super::backward::is_boundary;
use super::instruction::movable;
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
    /// swallowed, or one past the replaced bytes if it stays where it is.
    pub(crate) syscall: u64,
    /// The system call's number, if the swallowed bytes set it.
    pub(crate) nr: Option<u32>,
    /// The bytes that are replaced.
    original: Vec<u8>,
    /// Bit n: an original instruction begins at offset n, 0 < n < `JUMP_LEN`.
    boundaries: u8,
}

impl Site {
    /// Recognises the `syscall` instruction at address `syscall`, which trapped with `rax`.
    ///
    /// `code` is what the guest executes at the page of address `page`, or the beginning of it as
    /// far as it can be read; with earlier patches in it, so that sites do not overlap. `None` if
    /// the site is to be left alone.
    ///
    /// Instructions behind the `syscall` are swallowed where that is possible: they are known, for
    /// decoding goes forward. Otherwise the instruction that loaded `rax` is, which is a guess
    /// about what lies before: it is made only if the value is the one that trapped, no prefix
    /// stands before it, and decoding from further back agrees ([`is_boundary`]). If it is wrong
    /// all the same, then this guest executes bytes of the jump as something else, with its own
    /// rights in its own address space, as if it had written them itself.
    pub(crate) fn recognise(code: &[u8], page: u64, syscall: u64, rax: u64) -> Option<Site> {
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
        Self::swallow(code, page, at, at, None).or_else(|| {
            let (start, nr) = load_before(code, at, rax)?;
            Self::swallow(code, page, start, at, Some(nr))
        })
    }

    /// The site that begins at `code[start]` with at most one instruction before the `syscall` at
    /// `code[at]`, and has as many behind it as the jump needs.
    fn swallow(code: &[u8], page: u64, start: usize, at: usize, nr: Option<u32>) -> Option<Site> {
        let mut boundaries = 0;
        let mut end = at;
        while end - start < JUMP_LEN {
            boundaries |= 1 << (end - start);
            end += if end == at { SYSCALL.len() } else { movable(code.get(end..)?)? };
        }
        // The start is none.
        boundaries &= !1;
        let site = Site {
            start: page + start as u64,
            syscall: page + at as u64,
            nr,
            original: code.get(start..end)?.to_vec(),
            boundaries,
        };
        // The jump's bytes there are fixed, and do not fault.
        (!site.begins_at(1) && !site.begins_at(6)).then_some(site)
    }

    /// Whether an original instruction began at this offset, not counting the first.
    fn begins_at(&self, offset: usize) -> bool {
        self.boundaries & 1 << offset != 0
    }

    /// Whether the lowest and the second byte of the slot's address must be among [`FAULTING`].
    pub(super) fn demands(&self) -> (bool, bool) {
        (self.begins_at(3), self.begins_at(4))
    }

    /// How many bytes are replaced, from `start`. At least [`JUMP_LEN`].
    pub(crate) fn len(&self) -> usize {
        self.original.len()
    }

    /// One past the last byte that is replaced.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.len() as u64
    }

    /// The bytes that are replaced.
    pub(crate) fn original(&self) -> &[u8] {
        &self.original
    }

    /// The address behind the `syscall` instruction: where the guest's `rip` is during the call.
    pub(crate) fn next(&self) -> u64 {
        self.syscall + SYSCALL.len() as u64
    }

    /// Addresses within the site, past its start, where an original instruction began.
    pub(crate) fn boundaries(&self) -> impl Iterator<Item = u64> {
        let (start, boundaries) = (self.start, self.boundaries);
        (1..JUMP_LEN).filter(move |n| boundaries & 1 << *n != 0).map(move |n| start + n as u64)
    }

    /// The swallowed instructions before the `syscall`.
    pub(super) fn head(&self) -> &[u8] {
        let len = ((self.syscall - self.start) as usize).min(self.len());
        &self.original[..len]
    }

    /// The swallowed instructions behind it.
    pub(super) fn tail(&self) -> &[u8] {
        let from = ((self.next() - self.start) as usize).min(self.len());
        &self.original[from..]
    }

    /// Whether a slot at this address makes every boundary within the site fault.
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
        let mut bytes = jump(slot).to_vec();
        // What is left of the last swallowed instruction: no boundary is among it.
        bytes.resize(self.len(), 0xcc);
        Some(bytes)
    }
}

/// `jmp qword ptr [slot]`.
fn jump(slot: u32) -> [u8; JUMP_LEN] {
    let [d0, d1, d2, d3] = slot.to_le_bytes();
    [0xff, 0x24, 0xe5, d0, d1, d2, d3]
}

/// The instruction directly before `code[at]` that gave `rax` its value: where it begins, and the
/// value.
fn load_before(code: &[u8], at: usize, rax: u64) -> Option<(usize, u32)> {
    let nr = u32::try_from(rax).ok()?;
    let imm = nr.to_le_bytes();
    let before = code.get(..at)?;
    let len = if before.ends_with(&[0xb8, imm[0], imm[1], imm[2], imm[3]]) {
        // mov $nr, %eax
        5
    } else if nr <= i32::MAX as u32
        && before.ends_with(&[0x48, 0xc7, 0xc0, imm[0], imm[1], imm[2], imm[3]])
    {
        // mov $nr, %rax
        7
    } else if nr == 0 && (before.ends_with(&[0x31, 0xc0]) || before.ends_with(&[0x33, 0xc0])) {
        // xor %eax, %eax
        2
    } else {
        return None;
    };
    let start = at - len;
    let prefixed = may_be_prefix(*code.get(start.checked_sub(1)?)?);
    (!prefixed && is_boundary(code, start)).then_some((start, nr))
}

/// Whether the byte could change what the instruction behind it means.
fn may_be_prefix(byte: u8) -> bool {
    matches!(
        byte,
        0x0f | 0x26
            | 0x2e
            | 0x36
            | 0x3e
            | 0x40..=0x4f
            | 0x62
            | 0x64..=0x67
            | 0xc4
            | 0xc5
            | 0xd5
            | 0xf0
            | 0xf2
            | 0xf3
    )
}
