//! Seccomp profiles: the OCI runtime specification's `linux.seccomp`, and docker's files, which have
//! conditions on top of it. They become the first process's first filter, which the Sentry evaluates
//! as it does the guest's own ones.
//!
//! * [`profile`]: reading and resolving.
//! * [`compile`]: from rules to a program for `struct seccomp_data`.

mod compile;
mod names;
mod profile;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sentry::boot::spec::SeccompSpec;

use crate::error::Error;
use crate::view::plain;

pub use profile::{Guest, Profile};

/// Longest profile, in bytes.
const MAX_LENGTH: u64 = 1 << 20;

/// What a profile became.
#[derive(Debug)]
pub struct Compiled {
    /// For the Sentry.
    pub spec: SeccompSpec,
    /// Calls that the profile names and that no Linux has, as far as is known.
    pub unknown: Vec<String>,
}

/// Reads, resolves and compiles a profile.
///
/// # Errors
/// What is wrong with it, on one line, naming the field.
pub fn parse(json: &[u8], guest: &Guest) -> Result<Compiled, String> {
    // Messages quote what was written.
    let line = |what: String| what.replace(char::is_control, "?");
    let profile = Profile::parse(json, guest).map_err(line)?;
    let program = compile::compile(&profile)?;
    let spec = SeccompSpec { program, log: profile.log };
    Ok(Compiled { spec, unknown: profile.unknown })
}

/// The profile of `--seccomp`.
pub(crate) fn load(path: &Path, guest: &Guest) -> Result<Compiled, Error> {
    let problem = |problem: &str| Error::option("--seccomp", format!("{path:?}: {problem}"));
    let file = File::open(path).map_err(|e| problem(&plain(&e)))?;
    let mut json = Vec::new();
    file.take(MAX_LENGTH + 1).read_to_end(&mut json).map_err(|e| problem(&plain(&e)))?;
    if json.len() as u64 > MAX_LENGTH {
        return Err(problem("too long"));
    }
    parse(&json, guest).map_err(|what| problem(&what))
}
