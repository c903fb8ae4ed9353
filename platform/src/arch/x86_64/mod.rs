//! x86-64: the copy routines with fault fix-up, the stub's code and filter, the decoding of faults.

pub(crate) mod copy;
pub(crate) mod doorbell;
pub(crate) mod doorbell_filter;
pub(crate) mod filter;
pub(crate) mod patch;
pub(crate) mod stub;
pub(crate) mod trap;

/// Leaves the current code for good.
///
/// # Safety
/// There must be code at `entry` that needs nothing of what is there now.
pub(crate) unsafe fn enter(entry: u64) -> ! {
    // SAFETY: the caller's promise.
    unsafe { std::arch::asm!("jmp {}", in(reg) entry, options(noreturn)) }
}
