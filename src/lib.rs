//! rsentry as a library: describe a [`Sandbox`], run it.
//!
//! ```no_run
//! let report = rsentry::Sandbox::new(["/bin/echo", "hello"]).run()?;
//! assert!(report.success());
//! # Ok::<(), rsentry::Error>(())
//! ```
//!
//! [`Sandbox::builder`] has all options; [`Builder::run`] says what programs with threads must do,
//! which is to begin their `main` with [`init`].

mod audit;
mod builder;
mod capabilities;
mod cgroup;
mod environment;
mod error;
mod features;
mod helper;
mod kernel_files;
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
pub mod events;
pub mod seccomp;

pub use audit::{Audit, OnAlert, SinkChoice};
pub use builder::{Builder, Input, Output};
pub use capabilities::Capabilities;
pub use cgroup::{Cgroup, CgroupReport};
pub use error::Error;
pub use helper::init;
pub use limits::Limits;
pub use profile::Profile;
pub use report::{Layers, Report, ReportFile};
pub use sandbox::{Bind, Sandbox, User};
pub use sentry::boot::spec::{ClockChoice, LogFormat, PlatformChoice, StraceFilter};
pub use sentry::boot::{Cause, Counts, ExitStatus};
