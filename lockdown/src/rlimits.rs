//! Resource limits.

use crate::error::{Context, Error, Layer};
use crate::sys::check;

/// A host resource limit, soft and hard alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rlimit {
    /// No core dumps: they would hold guest memory, and land on the host's disk.
    NoCore,
    /// As many descriptors as the hard limit allows.
    MostFiles,
    /// At most this many descriptors.
    Files(u64),
    /// No locked memory.
    NoLockedMemory,
    /// No POSIX message queues.
    NoQueues,
    /// No real-time priority.
    NoRealTime,
}

impl Rlimit {
    pub(crate) fn apply(self) -> Result<(), Error> {
        let (resource, name, value) = match self {
            Rlimit::NoCore => (libc::RLIMIT_CORE, "RLIMIT_CORE", Some(0)),
            Rlimit::MostFiles => (libc::RLIMIT_NOFILE, "RLIMIT_NOFILE", None),
            Rlimit::Files(count) => (libc::RLIMIT_NOFILE, "RLIMIT_NOFILE", Some(count)),
            Rlimit::NoLockedMemory => (libc::RLIMIT_MEMLOCK, "RLIMIT_MEMLOCK", Some(0)),
            Rlimit::NoQueues => (libc::RLIMIT_MSGQUEUE, "RLIMIT_MSGQUEUE", Some(0)),
            Rlimit::NoRealTime => (libc::RLIMIT_RTPRIO, "RLIMIT_RTPRIO", Some(0)),
        };
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is valid for writes.
        check(unsafe { libc::getrlimit(resource, &raw mut limit) }.into())
            .context(Layer::Rlimits, format!("getrlimit {name}"))?;
        let hard = value.unwrap_or(limit.rlim_max).min(limit.rlim_max);
        limit = libc::rlimit { rlim_cur: hard, rlim_max: hard };
        // SAFETY: `limit` is valid for reads.
        check(unsafe { libc::setrlimit(resource, &raw const limit) }.into())
            .context(Layer::Rlimits, format!("setrlimit {name}"))
            .map(drop)
    }
}
