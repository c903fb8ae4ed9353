//! Where cases run: a started batch of the guest program, natively or in a sandbox, and its report.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// How one case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It ran through.
    Pass,
    /// It said that it cannot run here, and why.
    Skip(String),
    /// An assertion failed, a signal came, time ran out, or the place itself died.
    Fail(String),
}

/// One case's verdict and what it printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub verdict: Verdict,
    /// Its standard output, compared between places.
    pub transcript: String,
}

impl Outcome {
    fn fail(why: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail(why.into()), transcript: String::new() }
    }
}

/// A place to run cases in.
#[derive(Clone, Debug)]
pub enum Place {
    /// The host's kernel, below this folder.
    Native(PathBuf),
    /// A sandbox.
    Sandbox(Sandbox),
}

/// How sandboxes are started.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// The `rsentry` command.
    pub rsentry: PathBuf,
    /// `--platform`, if any.
    pub platform: Option<String>,
    /// Further arguments for `rsentry run`.
    pub extra: Vec<String>,
    /// The folder inside that cases run below.
    pub dir: String,
}

/// What each case may take inside, in seconds. They take a few milliseconds on a machine of their own.
const CASE_SECONDS: u64 = 60;
/// Silence after which a batch counts as dead: the case's own limit, and time to start and end.
const SILENCE: Duration = Duration::from_secs(CASE_SECONDS + 60);
/// Where the guest program's folder appears inside the sandbox.
const GUEST_DIR: &str = "/conformance";

impl Place {
    fn command(&self, guest: &Path, names: &[String]) -> Command {
        let mut command = match self {
            Place::Native(dir) => {
                let mut c = Command::new(guest);
                c.arg("batch").arg(dir);
                c
            }
            Place::Sandbox(s) => {
                let folder = guest.parent().unwrap_or(Path::new("/"));
                let file = guest.file_name().unwrap_or_default().to_string_lossy();
                let mut c = Command::new(&s.rsentry);
                c.arg("run");
                if let Some(platform) = &s.platform {
                    c.arg("--platform").arg(platform);
                }
                c.args(&s.extra);
                c.arg("--ro").arg(format!("{}:{GUEST_DIR}", folder.display()));
                c.arg("--").arg(format!("{GUEST_DIR}/{file}")).arg("batch").arg(&s.dir);
                c
            }
        };
        command.arg(CASE_SECONDS.to_string()).args(names);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0);
        command
    }

    /// Runs all named cases. When the batch dies on the way, the case it was at fails and a new
    /// batch takes the rest.
    pub fn run(&self, guest: &Path, names: &[String]) -> Result<BTreeMap<String, Outcome>> {
        let mut done = BTreeMap::new();
        let mut left: Vec<String> = names.to_vec();
        while !left.is_empty() {
            let before = done.len();
            let why = self.batch(guest, &left, &mut done)?;
            left.retain(|n| !done.contains_key(n));
            // It died before the first case: so it will again.
            if done.len() == before {
                for n in left.drain(..) {
                    done.insert(n, Outcome::fail(format!("no case could be started: {why}")));
                }
            }
        }
        Ok(done)
    }

    fn batch(
        &self,
        guest: &Path,
        names: &[String],
        done: &mut BTreeMap<String, Outcome>,
    ) -> Result<String> {
        let mut command = self.command(guest, names);
        let mut child =
            command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))?;
        let (send, lines) = channel();
        let out = child.stdout.take().context("no pipe from the batch")?;
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let err = child.stderr.take().context("no pipe from the batch")?;
        let errors = std::thread::spawn(move || {
            let lines: Vec<String> = BufReader::new(err).lines().map_while(Result::ok).collect();
            lines[lines.len().saturating_sub(6)..].join(" | ")
        });

        let mut at: Option<String> = None;
        let mut hung = false;
        loop {
            match lines.recv_timeout(SILENCE) {
                Ok(line) => {
                    let words: Vec<&str> = line.split(' ').collect();
                    match words.as_slice() {
                        ["begin", name] => at = Some((*name).to_string()),
                        ["end", name, status, out, err] => {
                            at = None;
                            done.insert((*name).to_string(), outcome(status, out, err));
                        }
                        _ => {}
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    hung = true;
                    break;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let end = if hung { kill(&mut child) } else { format!("{}", child.wait()?) };
        let _ = reader.join();
        let said = errors.join().unwrap_or_default();
        let how = if hung { "hung" } else { "ended early" };
        let why = format!("the whole batch {how} ({end}); it said: {said}");
        if let Some(name) = at {
            done.insert(name, Outcome::fail(why.clone()));
        }
        Ok(why)
    }
}

/// Ends a batch with its process group, which it leads.
fn kill(child: &mut Child) -> String {
    // SAFETY: the group of a child we started and have not yet waited for.
    unsafe { libc::kill(-(child.id() as i32), libc::SIGKILL) };
    child.wait().map(|s| s.to_string()).unwrap_or_default()
}

fn outcome(status: &str, out: &str, err: &str) -> Outcome {
    let transcript = unhex(out);
    let said = unhex(err);
    let verdict = match status.parse::<i32>() {
        Ok(0) => Verdict::Pass,
        Ok(s) if libc::WIFEXITED(s) && libc::WEXITSTATUS(s) == 77 => {
            Verdict::Skip(transcript.lines().last().unwrap_or_default().to_string())
        }
        Ok(s) if libc::WIFSIGNALED(s) => {
            Verdict::Fail(format!("killed by signal {}; {}", libc::WTERMSIG(s), said.trim()))
        }
        Ok(s) if said.is_empty() => Verdict::Fail(format!("exit {}", libc::WEXITSTATUS(s))),
        Ok(_) => Verdict::Fail(said.trim().replace('\n', " | ")),
        Err(_) => Verdict::Fail(format!("{status}; {}", said.trim().replace('\n', " | "))),
    };
    Outcome { verdict, transcript }
}

fn unhex(text: &str) -> String {
    let digits: Vec<u8> =
        text.bytes().filter_map(|b| (b as char).to_digit(16)).map(|d| d as u8).collect();
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|p| p[0] << 4 | p[1]).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcome_decodes_status_and_hex() {
        assert_eq!(outcome("0", "6869", "-").transcript, "hi");
        assert_eq!(outcome("0", "-", "-").verdict, Verdict::Pass);
        assert_eq!(outcome("19712", "6e6f", "-").verdict, Verdict::Skip("no".into()));
        assert!(
            matches!(outcome("9", "-", "-").verdict, Verdict::Fail(m) if m.contains("signal 9"))
        );
        assert!(
            matches!(outcome("timeout", "-", "-").verdict, Verdict::Fail(m) if m.contains("timeout"))
        );
    }
}
