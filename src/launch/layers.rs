//! Which layers are in force around a process: read back from the host, not from what was asked
//! for.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::report::Layers;

/// Most bytes that are read of a `/proc/PID/status`.
const MAX_STATUS: usize = 8192;

/// The open `/proc/PID/status` of a process: the launcher opens nothing once the sandbox runs.
#[derive(Debug)]
pub(super) struct Status {
    process: &'static str,
    file: Option<File>,
    uid_map: Option<File>,
}

impl Status {
    /// Of the process with this id, or of the calling one (`self`).
    pub(super) fn open(process: &'static str, id: impl std::fmt::Display) -> Status {
        let open = |name: &str| File::open(format!("/proc/{id}/{name}")).ok();
        Status { process, file: open("status"), uid_map: open("uid_map") }
    }

    /// What it says now; `None` if the process is gone.
    pub(super) fn read(&self) -> Option<Layers> {
        let mut in_force = in_force(&text(self.file.as_ref()?)?);
        let map = self.uid_map.as_ref().and_then(text).unwrap_or_default();
        in_force.extend(ids(&map).map(str::to_owned));
        Some(Layers { process: self.process.to_owned(), in_force })
    }
}

/// What a file says now, as far as it matters.
fn text(file: &File) -> Option<String> {
    let mut text = vec![0; MAX_STATUS];
    let length = file.read_at(&mut text, 0).ok()?;
    text.truncate(length);
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// What a `uid_map` comes to: one user, or one with those that are subordinate to it. That of the
/// initial namespace, and one just like it, restricts nothing.
fn ids(map: &str) -> Option<&'static str> {
    let line = |line: &str| -> Option<[u32; 3]> {
        let fields: Result<Vec<_>, _> = line.split_whitespace().map(str::parse).collect();
        fields.ok()?.try_into().ok()
    };
    let lines: Vec<_> = map.lines().filter_map(line).collect();
    match lines[..] {
        [[_, _, 1]] => Some("one-id"),
        [_, _, ..] if lines.iter().any(|[inside, outside, _]| inside != outside) => {
            Some("subordinate-ids")
        }
        _ => None,
    }
}

fn in_force(status: &str) -> Vec<String> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim).unwrap_or_default()
    };
    let empty = |set: &str| u64::from_str_radix(field(set), 16) == Ok(0);
    let mut found = Vec::new();
    let mut note = |holds: bool, name: &str| {
        if holds {
            found.push(name.to_owned());
        }
    };
    // One number for each pid namespace that the process is in, seen from here.
    note(field("NSpid").split_whitespace().count() > 1, "pid-namespace");
    let mut uids = field("Uid").split_whitespace().peekable();
    note(uids.peek().is_some() && uids.all(|uid| uid != "0"), "not-root");
    note(status.contains("Groups:") && field("Groups").is_empty(), "no-groups");
    note(["CapPrm", "CapEff", "CapInh", "CapAmb"].into_iter().all(empty), "no-capabilities");
    note(empty("CapBnd"), "no-bounding-set");
    note(field("NoNewPrivs") == "1", "no-new-privileges");
    note(field("Seccomp") == "2", "seccomp");
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_hold_is_not_listed() {
        let locked = "Uid:\t65534\t65534\t65534\t65534\nGroups:\t \nNSpid:\t812\t1\n\
                      CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\n\
                      CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\n\
                      CapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n";
        assert_eq!(in_force(locked).len(), 7);
        let open = "Uid:\t0\t0\t0\t0\nGroups:\t0 1\nNSpid:\t812\nCapInh:\t0\nCapPrm:\t1\n\
                    CapEff:\t1\nCapBnd:\t1\nCapAmb:\t0\nNoNewPrivs:\t0\nSeccomp:\t0\n";
        assert!(in_force(open).is_empty());
        assert!(in_force("").is_empty());
        assert_eq!(ids("  1000  1000  1\n"), Some("one-id"));
        assert_eq!(ids("0 1000 1\n1 100000 65536\n"), Some("subordinate-ids"));
        assert_eq!(ids("0 100000 1000\n1000 1000 1\n"), Some("subordinate-ids"));
        assert_eq!(ids("1000 1000 1\n0 100000 1000\n"), Some("subordinate-ids"));
        assert_eq!(ids("0 0 4294967295\n"), None);
        assert_eq!(ids(""), None);
    }
}
