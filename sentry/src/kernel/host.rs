//! What guests are told about the machine.

use std::sync::atomic::{AtomicBool, Ordering};

use super::sched::CpuSet;
use super::time::clock_ns;

/// Set where `CLOCK_BOOTTIME` counts since the sandbox began.
static OWN_CLOCKS: AtomicBool = AtomicBool::new(false);

/// Says that the process is in a time namespace of its own. To be called before the kernel boots.
pub fn clocks_are_own() {
    OWN_CLOCKS.store(true, Ordering::Relaxed);
}

/// Facts that stay the same while the sandbox lives.
pub struct Host {
    /// The host's numbers of the processors that the sandbox may use. Guests see them numbered from
    /// zero.
    pub cpus: Vec<u32>,
    /// When the sandbox booted, in nanoseconds of `CLOCK_BOOTTIME`: 0 if that clock is its own.
    pub boot_ns: u64,
}

impl Host {
    /// Asks the host.
    pub fn probe() -> Host {
        let set = CpuSet::possible();
        let cpus = (0..CpuSet::WORDS as u32 * 64)
            .filter(|&c| set.0[c as usize / 64] >> (c % 64) & 1 == 1)
            .collect();
        let own = OWN_CLOCKS.load(Ordering::Relaxed);
        Host { cpus, boot_ns: if own { 0 } else { clock_ns(libc::CLOCK_BOOTTIME) } }
    }

    /// Nanoseconds since the sandbox booted.
    pub fn uptime_ns(&self) -> u64 {
        clock_ns(libc::CLOCK_BOOTTIME).saturating_sub(self.boot_ns)
    }
}
