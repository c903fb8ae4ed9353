//! What this host can do for the platform.

use crate::Error;

/// What was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Host {
    /// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP` (since 6.6). Known once there is a listener.
    pub(super) sync_wake_up: bool,
    /// A listener without anybody who could ring says so (since 6.11).
    pub(super) listener_tells_end: bool,
}

/// Bit of `AT_HWCAP2`: RDFSBASE and the like work in user mode.
const HWCAP2_FSGSBASE: u64 = 1 << 1;
/// `SECCOMP_GET_ACTION_AVAIL`.
const SECCOMP_GET_ACTION_AVAIL: libc::c_uint = 2;

/// Finds out whether the platform can work at all.
///
/// # Errors
/// What is missing.
pub(super) fn host() -> Result<Host, Error> {
    let missing = |what| Err(Error::host(what, libc::EOPNOTSUPP));
    // SAFETY: reads the auxiliary vector.
    if unsafe { libc::getauxval(libc::AT_HWCAP2) } & HWCAP2_FSGSBASE == 0 {
        return missing("FSGSBASE instructions");
    }
    for action in [libc::SECCOMP_RET_USER_NOTIF, libc::SECCOMP_RET_TRAP] {
        // SAFETY: plain system call that reads a word.
        let result = unsafe {
            libc::syscall(libc::SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &raw const action)
        };
        if result != 0 {
            return missing("seccomp user notification");
        }
    }
    // Unknown flags are refused before the filter is read, which there is none of.
    const NEEDED: libc::c_ulong = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER
        | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW
        | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    // SAFETY: plain system call; there is nothing at the address that it is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            NEEDED,
            std::ptr::null::<u8>(),
        )
    };
    match (result, crate::errno()) {
        (-1, libc::EFAULT) => {}
        (-1, libc::EINVAL) => return missing("seccomp's WAIT_KILLABLE_RECV (Linux 5.19)"),
        (_, errno) => return Err(Error::host("a seccomp listener", errno)),
    }
    Ok(Host { sync_wake_up: false, listener_tells_end: release() >= (6, 11) })
}

/// Version and patch level of the host. What a listener does in the end cannot be tried without
/// giving a process one.
fn release() -> (u32, u32) {
    // SAFETY: all-zero is a valid utsname, which the call fills.
    let name = unsafe {
        let mut name: libc::utsname = std::mem::zeroed();
        libc::uname(&mut name);
        name
    };
    let text: String =
        name.release.iter().map(|&c| c as u8 as char).take_while(|&c| c != '\0').collect();
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
