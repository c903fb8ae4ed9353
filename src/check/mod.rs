//! `rsentry check`: what weakens a sandbox, said before it runs.
//!
//! Reads an OCI `config.json` or a policy file (TOML), and reports findings: each with an id that stays,
//! a severity, the place as a JSON pointer, why it matters, and the fix. The file is hostile
//! input: its size and depth are bounded, the wrong type somewhere is an error that names the
//! place, and nothing of it reaches the terminal unescaped.

mod finding;
mod node;
mod oci;
mod paths;
mod policy;
mod secrets;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub(crate) use finding::escaped;
pub use finding::{Finding, Report, Severity};

use serde_json::Value;

use crate::error::Error;
use crate::settings::Settings;
use crate::view;

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// One run of `rsentry check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The file to look at; `-` is standard input.
    pub file: PathBuf,
    /// Print JSON instead of text.
    pub json: bool,
    /// Findings below this do not count for the exit code.
    pub fail_on: Severity,
}

impl Check {
    /// Reads and judges the file.
    ///
    /// # Errors
    /// It cannot be read, or it is not what it should be; the text names the place.
    pub fn report(&self) -> Result<Report, Error> {
        let text = self.read()?;
        if self.is_policy(&text) {
            let text = std::str::from_utf8(&text).map_err(|error| self.problem(error))?;
            Settings::from_text(text).map_err(|error| self.problem(error))?;
            let value: Value = toml::from_str(text).map_err(|error| self.problem(error))?;
            return policy::check(&value).map_err(|error| self.problem(error));
        }
        let value = serde_json::from_slice(&text).map_err(|error| self.problem(error))?;
        oci::check(&value).map_err(|error| self.problem(error))
    }

    /// By its name, or if that does not say, by its first character.
    fn is_policy(&self, text: &[u8]) -> bool {
        match self.file.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => true,
            Some("json") => false,
            _ => text.trim_ascii_start().first().is_some_and(|&first| first != b'{'),
        }
    }

    /// What is printed, and the exit code: 0 if nothing is found that counts, else 1 for low, 2 for
    /// medium, 3 for high, 4 for critical.
    ///
    /// # Errors
    /// As [`Check::report`].
    pub fn run(&self) -> Result<(String, u8), Error> {
        let report = self.report()?;
        let code = match report.worst() {
            Some(worst) if worst >= self.fail_on => worst.exit_code(),
            _ => 0,
        };
        let name = self.file.to_string_lossy();
        Ok((if self.json { report.json(&name) } else { report.text(&name) }, code))
    }

    fn problem(&self, problem: impl std::fmt::Display) -> Error {
        Error::Usage(format!("{:?}: {problem}", self.file))
    }

    fn read(&self) -> Result<Vec<u8>, Error> {
        let unreadable = |error: io::Error| self.problem(view::plain(&error));
        let mut text = Vec::new();
        let mut bounded: Box<dyn Read> = if self.file == Path::new("-") {
            Box::new(io::stdin().take(MAX_FILE + 1))
        } else {
            Box::new(File::open(&self.file).map_err(unreadable)?.take(MAX_FILE + 1))
        };
        bounded.read_to_end(&mut text).map_err(unreadable)?;
        if text.len() as u64 > MAX_FILE {
            return Err(self.problem(format_args!("is longer than {MAX_FILE} bytes")));
        }
        Ok(text)
    }
}
