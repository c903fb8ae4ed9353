//! The guest's environment: built from scratch, so that the caller's secrets (tokens, agent
//! sockets, ...) stay outside unless `--env` names them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use crate::error::Error;

/// What a root login on Debian has; harmless for other users.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The caller's variables that say how to talk to a person, and nothing about the caller else.
const PASSED_ON: &[&str] = &[
    "TERM",
    "COLORTERM",
    "NO_COLOR",
    "TZ",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_ADDRESS",
    "LC_COLLATE",
    "LC_CTYPE",
    "LC_IDENTIFICATION",
    "LC_MEASUREMENT",
    "LC_MESSAGES",
    "LC_MONETARY",
    "LC_NAME",
    "LC_NUMERIC",
    "LC_PAPER",
    "LC_TELEPHONE",
    "LC_TIME",
];

/// The environment as `NAME=value` strings: `PATH` and `HOME`, what [`PASSED_ON`] lists of
/// `caller`'s, and what was `asked` for, which wins.
pub(crate) fn build(
    home: &Path,
    asked: &[(OsString, Option<OsString>)],
    caller: impl Fn(&OsStr) -> Option<OsString>,
) -> Result<Vec<Vec<u8>>, Error> {
    let mut all: Vec<(OsString, OsString)> =
        vec![("PATH".into(), PATH.into()), ("HOME".into(), home.into())];
    for &name in PASSED_ON {
        if let Some(value) = caller(OsStr::new(name)) {
            all.push((name.into(), value));
        }
    }
    for (name, value) in asked {
        let Some(value) = value.clone().or_else(|| caller(name)) else {
            return Err(Error::option("--env", format!("{name:?} is not set here")));
        };
        all.retain(|(other, _)| other != name);
        all.push((name.clone(), value));
    }
    Ok(all.into_iter().map(join).collect())
}

fn join((name, value): (OsString, OsString)) -> Vec<u8> {
    let mut entry = name.into_vec();
    entry.push(b'=');
    entry.extend_from_slice(value.as_bytes());
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(asked: &[(&str, Option<&str>)]) -> Result<Vec<String>, Error> {
        let asked: Vec<_> =
            asked.iter().map(|(name, value)| (name.into(), value.map(Into::into))).collect();
        let caller = |name: &OsStr| match name.to_str() {
            Some("TERM") => Some("xterm".into()),
            Some("SECRET") => Some("token".into()),
            Some("PATH") => Some("/caller".into()),
            _ => None,
        };
        let all = build(Path::new("/root"), &asked, caller)?;
        Ok(all.into_iter().map(|entry| String::from_utf8(entry).unwrap()).collect())
    }

    #[test]
    fn nothing_of_the_callers_but_how_to_talk_to_a_person() {
        let path = format!("PATH={PATH}");
        assert_eq!(built(&[]).unwrap(), [path.as_str(), "HOME=/root", "TERM=xterm"]);
    }

    #[test]
    fn what_is_asked_for_wins() {
        let all = built(&[("SECRET", None), ("TERM", Some("dumb")), ("A", Some("b=c"))]).unwrap();
        assert_eq!(all[2..], ["SECRET=token", "TERM=dumb", "A=b=c"]);
        let text = built(&[("MISSING", None)]).unwrap_err().to_string();
        assert_eq!(text, "--env: \"MISSING\" is not set here");
    }
}
