//! How a sandbox starts: what the launcher asks for ([`spec`]) and the channel the two talk over
//! afterwards ([`control`]).
//!
//! The Sentry is a fork of the launcher, pid 1 of its own pid namespace, single-threaded, in an
//! empty root, without capabilities, with `no_new_privs`. What it still has to do with more than
//! its final seccomp allow-list (fork the stub template, probe the host) it does before it calls
//! the [`Seal`] that the launcher hands it; after that, it opens nothing.

pub mod control;
mod host_calls;
mod init;
mod mounts;
mod run;
pub mod spec;

pub use control::{BootFailure, Cause, Counts, Ending, ExitStatus, Usage};
pub use host_calls::{HostCalls, sealed as host_calls};
pub use run::run;
pub use spec::{BootFds, BootSpec};

/// Installs the Sentry's final seccomp allow-list, of these calls. To be called exactly once, while the process is
/// still single-threaded, after the platform forked what must not inherit the list, and before
/// anything that the guest controls is read or run. An error is the one line for the user.
pub type Seal = Box<dyn FnOnce(HostCalls) -> Result<(), String>>;
