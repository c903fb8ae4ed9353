//! The time-stamp counter where time is coarse: its instructions trap, and get what the coarse clock
//! shows, in the counter's nominal unit.

use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::LazyLock;
use std::sync::atomic::Ordering;

use platform::Exception;

use super::signal::SigInfo;
use super::{Current, coarse, time};

/// `si_code` of a fault without details.
const SI_KERNEL: i32 = 0x80;
/// General protection.
const VECTOR_GP: u64 = 13;
/// Debug exception.
const VECTOR_DB: u64 = 1;
/// `TRAP_TRACE`
const TRAP_TRACE: i32 = 2;
/// The flag of single steps.
const TF: u64 = 1 << 8;

/// Ticks in a millisecond: what the processor says of its counter, else a thousand million a second.
/// Not measured: crystals differ, so that would tell machines apart.
static TICKS: LazyLock<u64> = LazyLock::new(|| {
    let highest = __cpuid(0).eax;
    if highest >= 0x15 {
        let leaf = __cpuid_count(0x15, 0);
        let ticks = u64::from(leaf.ecx) * u64::from(leaf.ebx);
        if let Some(hertz) = ticks.checked_div(leaf.eax.into()).filter(|&hertz| hertz > 0) {
            return hertz / 1000;
        }
    }
    if highest >= 0x16 {
        let mega = u64::from(__cpuid_count(0x16, 0).eax & 0xffff);
        if mega > 0 {
            return mega * 1000;
        }
    }
    1_000_000
});

/// Answers an instruction that reads the counter, if that is what the exception came of and time is
/// coarse. A thread that gave the counter up gets its signal.
pub(super) fn answers(cur: &mut Current, exception: &Exception) -> bool {
    let fault = exception.signo == libc::SIGSEGV
        && exception.code == SI_KERNEL
        && exception.trapno == VECTOR_GP;
    if !fault || coarse::clock().is_none() || cur.no_tsc.load(Ordering::Relaxed) {
        return false;
    }
    let mut code = [0; 3];
    let rip = cur.regs().rip;
    let read = cur.mm.copy_in(rip, &mut code);
    let len = match code.get(..read) {
        Some([0x0f, 0x31, ..]) => 2,
        Some([0x0f, 0x01, 0xf9]) => {
            cur.regs().rcx = super::sched::current_cpu(cur).into();
            3
        }
        _ => return false,
    };
    let now = u128::from(time::monotonic_ns()) * u128::from(*TICKS) / 1_000_000;
    let regs = cur.regs();
    regs.rax = now as u64 & 0xffff_ffff;
    regs.rdx = (now >> 32) as u64 & 0xffff_ffff;
    regs.rip = rip.wrapping_add(len);
    if regs.eflags & TF != 0 {
        let step = SigInfo::fault(libc::SIGTRAP, TRAP_TRACE, regs.rip);
        cur.trap.trapno = VECTOR_DB;
        cur.task.force_signal(step);
    }
    true
}
