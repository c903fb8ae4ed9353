//! The instructions before a `syscall`.

use super::JUMP_LEN;
use super::backward::is_boundary;
use super::instruction::{LONGEST, Memory, Rax, effect_on_rax, movable};

/// The instructions before a `syscall` that its trampoline repeats. Grows backward.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    /// Where the first begins; where the `syscall` does if there is none.
    pub(super) start: usize,
    /// Bit n: an instruction begins n bytes behind `start`, the `syscall` included.
    pub(super) boundaries: u32,
    /// The system call's number, if they set it.
    pub(super) nr: Option<u32>,
    /// Whether one of them writes rax.
    writes_rax: bool,
}

impl Head {
    /// No instruction.
    pub(super) fn empty(at: usize) -> Head {
        Head { start: at, boundaries: 1, nr: None, writes_rax: false }
    }

    /// One more instruction in front of the `syscall` at `code[at]`, which trapped with `rax`.
    /// `None` if there is room for the jump already, if there is no telling what stands there, if
    /// it cannot be moved, or if it would have made rax something else.
    pub(super) fn longer(self, code: &[u8], at: usize, rax: u64, memory: Memory) -> Option<Head> {
        if at - self.start >= JUMP_LEN {
            return None;
        }
        let mut found = None;
        for start in self.start.saturating_sub(LONGEST)..self.start {
            let Some(instruction) = code.get(start..).and_then(|c| movable(c, memory)) else {
                continue;
            };
            if start + instruction.len() == self.start && is_boundary(code, start) {
                // Two that end at one place cannot both be.
                if found.replace((start, instruction)).is_some() {
                    return None;
                }
            }
        }
        let (start, instruction) = found?;
        if may_be_prefix(*code.get(start.checked_sub(1)?)?) {
            return None;
        }
        let boundaries = self.boundaries << instruction.len() | 1;
        let mut head = Head { start, boundaries, ..self };
        if !self.writes_rax {
            let effect = effect_on_rax(&instruction);
            head.writes_rax = effect != Rax::Kept;
            if let Rax::Set(value) = effect {
                if value != rax {
                    return None;
                }
                head.nr = u32::try_from(value).ok();
            }
        }
        Some(head)
    }
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
