//! What the caller wants of the audit.

use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Longest name of a sandbox.
const MAX_ID: usize = 64;
/// Where the system's logger and journal listen.
const SYSLOG: &str = "/dev/log";
const JOURNALD: &str = "/run/systemd/journal/socket";

/// The options about the audit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Where records go.
    pub sink: Option<SinkChoice>,
    /// End the sandbox if records cannot be written.
    pub required: bool,
    /// What is done about alerts; each at most once.
    pub on_alert: Vec<OnAlert>,
    /// The sandbox's name in records; a random one if not given.
    pub id: Option<String>,
}

/// Where records go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SinkChoice {
    /// Appended to this file.
    File(PathBuf),
    /// Written to this descriptor of the caller's.
    Descriptor(RawFd),
    /// The system's logger, at this socket.
    Syslog(PathBuf),
    /// systemd's journal, at this socket.
    Journald(PathBuf),
}

/// What is done about an alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnAlert {
    /// A line on the log.
    Log,
    /// The sandbox ends.
    Kill,
    /// This command is run by `/bin/sh` on the host, with the record on its standard input.
    Exec(OsString),
}

impl SinkChoice {
    /// `FILE`, `fd:N`, `syslog[:SOCKET]` or `journald[:SOCKET]`.
    ///
    /// # Errors
    /// Names the option.
    pub fn parse(value: &OsStr) -> Result<SinkChoice, Error> {
        let problem = |text: &str| Err(Error::option("--audit", format!("{value:?}: {text}")));
        let bytes = value.as_bytes();
        let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
        if bytes.is_empty() {
            return problem("no file given");
        }
        if let Some(number) = bytes.strip_prefix(b"fd:") {
            let number = std::str::from_utf8(number).ok().and_then(|text| text.parse().ok());
            return match number {
                Some(number) if number >= 0 => Ok(SinkChoice::Descriptor(number)),
                _ => problem("the part after 'fd:' is not a descriptor's number"),
            };
        }
        for (name, standard) in [("syslog", SYSLOG), ("journald", JOURNALD)] {
            let socket = match bytes.strip_prefix(name.as_bytes()) {
                Some(b"") => PathBuf::from(standard),
                Some([b':', rest @ ..]) if rest.starts_with(b"/") => path(rest),
                Some([b':', ..]) => return problem("the socket must be an absolute path"),
                _ => continue,
            };
            return Ok(match name {
                "syslog" => SinkChoice::Syslog(socket),
                _ => SinkChoice::Journald(socket),
            });
        }
        Ok(SinkChoice::File(path(bytes)))
    }
}

impl OnAlert {
    /// All actions; one command at most.
    ///
    /// # Errors
    /// Names the option.
    pub(crate) fn parse_all<'a>(
        values: impl Iterator<Item = &'a OsStr>,
    ) -> Result<Vec<OnAlert>, Error> {
        let mut all = Vec::new();
        for value in values {
            let action = OnAlert::parse(value)?;
            if all.contains(&action) {
                continue;
            }
            if let OnAlert::Exec(_) = action
                && all.iter().any(|other| matches!(other, OnAlert::Exec(_)))
            {
                return Err(Error::option("--on-alert", "there can be one command only"));
            }
            all.push(action);
        }
        Ok(all)
    }

    /// `log`, `kill` or `exec:CMD`.
    ///
    /// # Errors
    /// Names the option.
    pub fn parse(value: &OsStr) -> Result<OnAlert, Error> {
        match value.as_bytes() {
            b"log" => Ok(OnAlert::Log),
            b"kill" => Ok(OnAlert::Kill),
            bytes => match bytes.strip_prefix(b"exec:") {
                Some(command) if !command.is_empty() => {
                    Ok(OnAlert::Exec(OsStr::from_bytes(command).to_owned()))
                }
                _ => {
                    let problem = format!("{value:?} is not one of: log, kill, exec:CMD");
                    Err(Error::option("--on-alert", problem))
                }
            },
        }
    }
}

/// A sandbox's name: letters, digits, `_`, `.`, `-`.
///
/// # Errors
/// Names the option.
pub(crate) fn id(value: &OsStr) -> Result<String, Error> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    match value.to_str() {
        Some(id) if (1..=MAX_ID).contains(&id.len()) && id.bytes().all(fine) => Ok(id.to_owned()),
        _ => {
            let problem =
                format!("{value:?} is not 1 to {MAX_ID} of letters, digits, '_', '.', '-'");
            Err(Error::option("--id", problem))
        }
    }
}

/// A name that nobody else has.
pub(super) fn random_id() -> Result<String, Error> {
    let mut bytes = [0u8; 6];
    // SAFETY: `bytes` is valid for writes of its length.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got != bytes.len() as isize {
        return Err(Error::host("getrandom", std::io::Error::last_os_error()));
    }
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sinks_have_their_names() {
        let parse = |text: &str| SinkChoice::parse(OsStr::new(text)).ok();
        assert_eq!(parse("a/b"), Some(SinkChoice::File("a/b".into())));
        assert_eq!(parse("./syslog"), Some(SinkChoice::File("./syslog".into())));
        assert_eq!(parse("syslogs"), Some(SinkChoice::File("syslogs".into())));
        assert_eq!(parse("fd:7"), Some(SinkChoice::Descriptor(7)));
        assert_eq!(parse("syslog"), Some(SinkChoice::Syslog(SYSLOG.into())));
        assert_eq!(parse("journald:/x"), Some(SinkChoice::Journald("/x".into())));
        for bad in ["", "fd:", "fd:-1", "fd:x", "fd:99999999999", "syslog:x", "journald:"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn actions_and_ids_are_checked() {
        let parse = |text: &str| OnAlert::parse(OsStr::new(text)).ok();
        assert_eq!(parse("kill"), Some(OnAlert::Kill));
        assert_eq!(parse("exec:a b"), Some(OnAlert::Exec("a b".into())));
        assert!(parse("exec:").is_none() && parse("shout").is_none());
        assert!(id(OsStr::new("job-7.a_b")).is_ok());
        for bad in ["", "a b", "a/b", "a\n", "é", &"x".repeat(65)] {
            assert!(id(OsStr::new(bad)).is_err(), "{bad}");
        }
        assert_ne!(random_id().unwrap(), random_id().unwrap());
    }
}
