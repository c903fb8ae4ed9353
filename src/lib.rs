//! rsentry as a library: describe a [`Sandbox`], run it.
//!
//! ```no_run
//! let report = rsentry::Sandbox::new(["/bin/echo", "hello"]).run()?;
//! assert!(report.success());
//! # Ok::<(), rsentry::Error>(())
//! ```
//!
//! The process that runs a sandbox must be single-threaded: the gofer and the Sentry are forks of
//! it.

mod environment;
mod error;
mod features;
mod launch;
mod limits;
mod log;
mod plan;
mod profile;
mod report;
mod sandbox;
mod settings;
mod view;

pub mod check;
pub mod cli;

pub use error::Error;
pub use limits::Limits;
pub use profile::Profile;
pub use report::{Layers, Report, ReportFile};
pub use sandbox::{Bind, Sandbox, User};
pub use sentry::boot::spec::{LogFormat, PlatformChoice, StraceFilter};
pub use sentry::boot::{Cause, Counts, ExitStatus};
