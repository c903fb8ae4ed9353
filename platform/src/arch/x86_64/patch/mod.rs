//! Call-site patching: how a `syscall` instruction becomes a jump into the stub. Pure: bytes in,
//! bytes out; no host calls, no state but [`Slots`], no locks.
//!
//! A [`Site`] is a `syscall` with as many of its neighbours as make room for a jump of
//! [`JUMP_LEN`] bytes, or [`JUMP_LEN`] bytes of instructions that lead straight to a `syscall`:
//!
//! ```text
//! offset  0  1  2  3  4  5  6
//!         ff 24 e5 d0 d1 06 00    jmp qword ptr [0x0006d1d0]
//! ```
//!
//! The pointer lies in a *slot* of a table at fixed low addresses ([`TABLE`]) and leads to the
//! site's [`Trampoline`], which repeats the swallowed neighbours around a jump to the stub's common
//! entry.
//!
//! A thread may still come to an instruction that was swallowed: it was interrupted there before
//! the patch, or the guest jumps there. Each such address therefore holds a byte that faults
//! whatever follows it ([`Site::fits`]), so that the thread traps with the address in `rip` and
//! can be sent to the same instruction in the trampoline ([`Trampoline::enter`]). Offset 2 is
//! `in eax, imm8` (#GP: no stub is ever given I/O permissions), offset 5 is `push es` (#UD in 64-bit mode), offsets 3 and 4 are chosen
//! with the slot; a site with a boundary at offset 1 or 6 is refused.
//!
//! What is left to whoever uses this:
//! - the entry gets in rcx the address of a word with the guest's next `rip`, returns to the
//!   address behind that word, and leaves registers as `syscall` would: rcx is that `rip`, r11 the
//!   flags;
//! - a thread that trapped at an address of [`Site::interior`] goes on at [`Trampoline::enter`] of
//!   it; so does one whose `rip` is set to such an address (a call that is restarted, a signal
//!   handler that returns). A site where that happens often is better put back;
//! - a `rip` in a trampoline is seen by nobody: what interrupts a thread there, faults with
//!   [`Memory::Allowed`] included, shows [`Trampoline::leave`] of it;
//! - a slot is written before the site that reads it, and freed when no thread can be at the site
//!   any more;
//! - sites do not clash ([`Site::clashes`]).

mod backward;
mod head;
mod instruction;
mod site;
mod slots;
#[cfg(test)]
mod tests;
mod trampoline;

use std::ops::Range;

pub(crate) use instruction::Memory;
pub(crate) use site::Site;
pub(crate) use slots::Slots;
pub(crate) use trampoline::Trampoline;

/// Bytes of the jump that is written over a site.
pub(crate) const JUMP_LEN: usize = 7;

/// No trampoline is longer than this.
pub(crate) const TRAMPOLINE_LEN: usize = 96;

/// Where the table of pointers lies in every stub. The jump's fixed bytes say so.
pub(crate) const TABLE: Range<u32> = 0x6_0000..0x7_0000;

/// Bytes of a slot: one pointer.
pub(crate) const SLOT_LEN: u32 = 8;

/// Bytes that fault as the first byte of an instruction in 64-bit user mode, whatever follows.
///
/// Each is a whole instruction by itself, so no byte behind it is fetched and the fault is the
/// same at the end of a page. `f4` (`hlt`) is privileged whatever IOPL says, `d6` is reserved as
/// `udb` (Intel SDM vol. 2, "UD"); the others are the one-byte instructions that 64-bit mode
/// took away (`push`/`pop` of es, cs, ss, ds, `daa`, `das`, `aaa`, `aas`, `pusha`, `popa`,
/// `into`). Not here: what IOPL or an I/O bitmap can allow (`in`, `out`, `ins`, `outs`, `cli`,
/// `sti`), what takes operands (`82`, `9a`, `d4`, `ea`), and what has become a prefix since
/// (`62`, `c4`, `c5`, `d5`).
const FAULTING: [u8; 16] = [
    0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x27, 0x2f, 0x37, 0x3f, 0x60, 0x61, 0xce, 0xd6, 0xf4,
];
