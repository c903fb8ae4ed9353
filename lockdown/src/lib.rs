//! The host-facing side: what each process of a sandbox may still do on the host.
//!
//! One [`Jail`] describes one process (the gofer, the Sentry) on one page. [`spawn`] makes the
//! process in it and applies the layers in DESIGN section 7's order; the process itself installs
//! the last one, seccomp, with [`Sealer::seal`] once it has done what it needs more for.
//!
//! Each layer is a small module with nothing but that layer in it. Errors name the layer.
//! The launcher must be single-threaded when it calls [`spawn`]: the child is a fork of it.

mod capabilities;
pub mod cgroup;
pub mod clocks;
mod descriptors;
mod error;
mod features;
mod identity;
mod jail;
mod labels;
mod landlock;
mod mounts;
mod namespaces;
mod process;
mod rlimits;
mod seccomp;
mod spawn;
mod subids;
mod sys;
mod view;

pub use capabilities::{Capabilities, effective as effective_capabilities};
pub use error::{Error, Layer};
pub use features::host_features;
pub use identity::{IdMap, Identity};
#[cfg(debug_assertions)]
pub use jail::confine_and_tell;
pub use jail::{FileAccess, Jail, Sealer, confine};
pub use labels::Labels;
pub use namespaces::Namespaces;
pub use process::wipe_environment;
pub use rlimits::Rlimit;
pub use seccomp::{AllowList, Argument, Condition, Verdict, interpret};
pub use spawn::{Child, Exit, spawn};
pub use subids::{Helped, Range};
pub use view::{Bind, Root, View};
