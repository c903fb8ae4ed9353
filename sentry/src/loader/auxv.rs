//! What the auxiliary vector says of the machine.

use crate::mm::PAGE;

/// Numbers of entries that the libc crate does not name.
pub(super) const AT_MINSIGSTKSZ: u64 = 51;
/// `USER_HZ`.
pub(super) const CLOCK_TICKS: u64 = 100;
/// `AT_PLATFORM`.
pub(super) const PLATFORM: &[u8] = b"x86_64\0";

/// `AT_HWCAP`, `AT_HWCAP2` and `AT_MINSIGSTKSZ`. The guest runs on the host's processor with the
/// host kernel's settings, and its signal frames have the host's format: the host's values hold.
pub(super) fn machine() -> [(u64, u64); 4] {
    // SAFETY: getauxval only reads what the host passed to this process.
    let host = |entry: u64| (entry, unsafe { libc::getauxval(entry) });
    [host(AT_MINSIGSTKSZ), host(libc::AT_HWCAP), host(libc::AT_HWCAP2), (libc::AT_PAGESZ, PAGE)]
}
