//! rsentry as a library: describe a [`Sandbox`], run it.
//!
//! ```no_run
//! let status = rsentry::Sandbox::new(["/bin/echo", "hello"]).run()?;
//! assert_eq!(status.shell_code(), 0);
//! # Ok::<(), rsentry::Error>(())
//! ```
//!
//! The process that runs a sandbox must be single-threaded: the gofer and the Sentry are forks of
//! it.

mod environment;
mod error;
mod features;
mod launch;
mod log;
mod plan;
mod sandbox;
mod view;

pub mod check;
pub mod cli;

pub use error::Error;
pub use sandbox::{Bind, Sandbox, User};
pub use sentry::boot::ExitStatus;
pub use sentry::boot::spec::{LogFormat, PlatformChoice, StraceFilter};
