//! What a sandbox's run came to, and where that is written.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sentry::boot::{Cause, Counts, ExitStatus};
use serde::{Deserialize, Serialize};

use crate::cgroup::CgroupReport;
use crate::error::Error;
use crate::limits::Limits;
use crate::view::plain;

/// What a run came to. As JSON: `rsentry run --report=FILE`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// How the first program ended; by SIGKILL, if a limit ended the sandbox.
    pub status: ExitStatus,
    /// Why the sandbox ended.
    pub ended_by: Cause,
    /// What `rsentry run` exits with.
    pub exit_code: u8,
    /// How long it took, from the start of the program.
    #[serde(rename = "wall_seconds", with = "seconds")]
    pub wall: Duration,
    /// Processor time by the host's account, of guest code and the kernel together.
    #[serde(rename = "cpu_seconds", with = "seconds")]
    pub cpu: Duration,
    /// The part of it that was spent in guest code.
    #[serde(rename = "cpu_guest_seconds", with = "seconds")]
    pub cpu_guest: Duration,
    /// Most bytes of memory in use, files in memory included. Short peaks of less than 1 MiB may be
    /// missed.
    pub peak_memory: u64,
    /// Most processes and threads at once.
    pub peak_pids: u64,
    /// Bytes written to the standard descriptors.
    pub output: u64,
    /// System calls, faults, denials.
    #[serde(flatten)]
    pub counts: Counts,
    /// Processes that were killed because there was no memory left.
    pub oom_kills: u64,
    /// Whether the kernel told what was used. If it had to be killed as it did not answer in time,
    /// all of it is zero.
    pub complete: bool,
    /// The limits that were in force.
    pub limits: Limits,
    /// What the host's control group counted, if there was one.
    pub cgroup: Option<CgroupReport>,
    /// Limits that were asked of a control group and that none keeps.
    pub not_kept: Vec<String>,
    /// How guest code was run.
    pub platform: String,
    /// What each process was locked into.
    pub layers: Vec<Layers>,
    /// What was captured of standard output.
    #[serde(skip)]
    pub stdout: Vec<u8>,
    /// What was captured of standard error.
    #[serde(skip)]
    pub stderr: Vec<u8>,
}

/// The layers around one process of the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers {
    /// `"sentry"`, `"gofer"`.
    pub process: String,
    /// What was found in force, by name.
    pub in_force: Vec<String>,
}

impl Report {
    /// What timeout(1) exits with.
    const CODE_WALL: u8 = 124;
    /// 128 and SIGXCPU, as a shell shows for `ulimit -t`.
    const CODE_CPU: u8 = 128 + libc::SIGXCPU as u8;
    /// 128 and SIGXFSZ, as a shell shows for `ulimit -f`.
    const CODE_OUTPUT: u8 = 128 + libc::SIGXFSZ as u8;

    /// What `rsentry run` exits with.
    pub(crate) fn exit_code_of(status: ExitStatus, cause: Cause) -> u8 {
        match cause {
            Cause::Wall => Self::CODE_WALL,
            Cause::Cpu => Self::CODE_CPU,
            Cause::Output => Self::CODE_OUTPUT,
            // SIGKILL, as from Linux's own out-of-memory killer.
            Cause::Exit | Cause::Signal | Cause::Memory | Cause::Policy => status.shell_code(),
        }
    }

    /// Whether the program exited by itself, with code 0.
    pub fn success(&self) -> bool {
        self.ended_by == Cause::Exit && self.status == ExitStatus::Code(0)
    }
}

/// A file that a report is going to be written to.
#[derive(Debug)]
pub struct ReportFile {
    path: PathBuf,
    file: File,
}

impl ReportFile {
    /// Makes the file, empty, so that what is wrong with it shows before the program runs.
    ///
    /// # Errors
    /// Names `--report` and the file.
    pub fn create(path: &Path) -> Result<ReportFile, Error> {
        let file = File::create(path).map_err(|error| complain(path, &error))?;
        Ok(ReportFile { path: path.to_owned(), file })
    }

    /// Writes the report, or why there is none: `{"error": "..."}`.
    ///
    /// # Errors
    /// Names `--report` and the file.
    pub fn write(mut self, result: &Result<Report, Error>) -> Result<(), Error> {
        let json = match result {
            Ok(report) => serde_json::to_string_pretty(report),
            Err(error) => serde_json::to_string_pretty(
                &serde_json::json!({ "error": error.one_line(), "exit_code": error.exit_code() }),
            ),
        };
        let written = json.map_err(std::io::Error::other).and_then(|mut text| {
            text.push('\n');
            self.file.write_all(text.as_bytes())
        });
        written.map_err(|error| complain(&self.path, &error))
    }
}

fn complain(path: &Path, error: &std::io::Error) -> Error {
    Error::option("--report", format!("{path:?}: {}", plain(error)))
}

/// Durations as seconds.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(time.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(from)?;
        Duration::try_from_secs_f64(seconds).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_say_which_limit_it_was() {
        let killed = ExitStatus::Signal(9);
        for (cause, code) in
            [(Cause::Wall, 124), (Cause::Cpu, 152), (Cause::Output, 153), (Cause::Memory, 137)]
        {
            assert_eq!(Report::exit_code_of(killed, cause), code);
        }
        assert_eq!(Report::exit_code_of(ExitStatus::Code(3), Cause::Exit), 3);
    }
}
