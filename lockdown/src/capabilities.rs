//! Capabilities: all five sets.

use std::{fs, io};

use crate::error::{Context, Error, Layer};
use crate::sys::{check, prctl};

/// A set of capabilities, as in `/proc/PID/status`: bit n is capability n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(pub u64);

#[allow(missing_docs)] // The names are Linux's, see capabilities(7).
impl Capabilities {
    pub const NONE: Capabilities = Capabilities(0);
    pub const CHOWN: Capabilities = Capabilities(1 << 0);
    pub const DAC_OVERRIDE: Capabilities = Capabilities(1 << 1);
    pub const DAC_READ_SEARCH: Capabilities = Capabilities(1 << 2);
    pub const FOWNER: Capabilities = Capabilities(1 << 3);
    pub const FSETID: Capabilities = Capabilities(1 << 4);
    pub const SETGID: Capabilities = Capabilities(1 << 6);
    pub const SETUID: Capabilities = Capabilities(1 << 7);
    pub const SYS_ADMIN: Capabilities = Capabilities(1 << 21);
}

impl Capabilities {
    /// The capabilities in either.
    #[must_use]
    pub const fn and(self, other: Capabilities) -> Capabilities {
        Capabilities(self.0 | other.0)
    }

    /// Whether all of `other` are in this set.
    pub const fn has(self, other: Capabilities) -> bool {
        self.0 & other.0 == other.0
    }

    /// Leaves the calling thread with no more than these in the permitted and effective sets, and
    /// nothing in the inheritable and ambient sets. The bounding set of one that may not change it
    /// (without `CAP_SETPCAP`) stays: under `no_new_privs` it gives nothing.
    pub(crate) fn keep_at_most(self) -> Result<(), Error> {
        let has = permitted().context(Layer::Capabilities, "capget")?;
        let kept = Capabilities(has & self.0);
        match kept.keep_only() {
            Err(error) if error.source.raw_os_error() == Some(libc::EPERM) => {
                kept.set_the_other_four()
            }
            other => other,
        }
    }

    /// Leaves the calling thread with these in the permitted and effective sets, and nothing in
    /// the inheritable, ambient and bounding sets.
    pub(crate) fn keep_only(self) -> Result<(), Error> {
        // The kernel may know capabilities that we don't: go on until it says EINVAL.
        for capability in 0..64 {
            match prctl(libc::PR_CAPBSET_DROP, capability, 0) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
                Err(error) => {
                    let what = format!("dropping {capability} from the bounding set");
                    return Err(Error::new(Layer::Capabilities, what, error));
                }
            }
        }
        self.set_the_other_four()
    }

    /// All but the bounding set.
    fn set_the_other_four(self) -> Result<(), Error> {
        prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0)
            .context(Layer::Capabilities, "clearing the ambient set")?;
        set(self.0).context(Layer::Capabilities, "capset")
    }
}

/// What capget(2) and capset(2) take first: version 3, the calling thread.
const HEADER: [u32; 2] = [0x2008_0522, 0];

/// capget(2): the permitted set.
fn permitted() -> io::Result<u64> {
    let mut data = [0u32; 6];
    // SAFETY: both arrays have the layout that version 3 asks for.
    check(unsafe { libc::syscall(libc::SYS_capget, HEADER.as_ptr(), data.as_mut_ptr()) })?;
    Ok(u64::from(data[1]) | u64::from(data[4]) << 32)
}

/// capset(2), version 3: a header, then low and high halves of effective, permitted, inheritable.
fn set(bits: u64) -> io::Result<()> {
    let (low, high) = (bits as u32, (bits >> 32) as u32);
    let data: [u32; 6] = [low, low, 0, high, high, 0];
    // SAFETY: both arrays have the layout that version 3 asks for.
    check(unsafe { libc::syscall(libc::SYS_capset, HEADER.as_ptr(), data.as_ptr()) }).map(drop)
}

/// The calling process's effective capabilities, from `/proc/self/status`.
///
/// # Errors
/// When `/proc` is not mounted or does not say.
pub fn effective() -> io::Result<Capabilities> {
    let status = fs::read_to_string("/proc/self/status")?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .map(Capabilities)
        .ok_or_else(|| io::Error::other("/proc/self/status has no CapEff line"))
}
