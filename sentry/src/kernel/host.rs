//! What guests are told about the machine.

use super::sched::CpuSet;
use super::time::clock_ns;

/// Facts that stay the same while the sandbox lives.
pub struct Host {
    /// The host's numbers of the processors that the sandbox may use. Guests see them numbered from
    /// zero.
    pub cpus: Vec<u32>,
    /// When the sandbox booted, in nanoseconds of `CLOCK_BOOTTIME`.
    pub boot_ns: u64,
}

impl Host {
    /// Asks the host.
    pub fn probe() -> Host {
        let set = CpuSet::possible();
        let cpus = (0..CpuSet::WORDS as u32 * 64)
            .filter(|&c| set.0[c as usize / 64] >> (c % 64) & 1 == 1)
            .collect();
        Host { cpus, boot_ns: clock_ns(libc::CLOCK_BOOTTIME) }
    }

    /// Nanoseconds since the sandbox booted.
    pub fn uptime_ns(&self) -> u64 {
        clock_ns(libc::CLOCK_BOOTTIME).saturating_sub(self.boot_ns)
    }
}
