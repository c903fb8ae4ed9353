//! What the Sentry tells the launcher: one JSON object per packet of a `SOCK_SEQPACKET` socket.
//!
//! The launcher treats it as hostile: bounded size, unknown fields and kinds are refused. Strings
//! are the guest's, cut to bounded lengths.

use serde::{Deserialize, Serialize};

/// Longest packet, in bytes. A record of the Sentry's is shorter, see [`MAX_TEXT`].
pub const MAX_PACKET: usize = 16 * 1024;
/// Longest string of a record, in characters.
pub const MAX_TEXT: usize = 400;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The sandbox starts.
    Start,
    /// The sandbox has ended.
    End,
    /// A program was executed, or could not be for another reason than that it is not there.
    Exec,
    /// A call to change user, groups or capabilities.
    Credentials,
    /// A call was answered with `EPERM` or `EACCES`.
    Denied,
    /// A call that does not exist.
    Unsupported,
    /// Something that only makes sense to somebody who wants out.
    Escape,
    /// A mount was made or removed, inside the sandbox.
    Mount,
    /// connect(2), or sending to an address.
    Connect,
    /// bind(2)
    Bind,
    /// A limit was hit.
    Limit,
    /// Records of another kind were dropped.
    Dropped,
    /// Records could not be written to where the caller wants them.
    SinkLost,
    /// A process of the sandbox made a host call that is not on its list, or broke the protocol.
    Violation,
}

impl Kind {
    /// All of them, by the names that they have in the file.
    pub const NAMES: [(&'static str, Kind); 14] = [
        ("start", Kind::Start),
        ("end", Kind::End),
        ("exec", Kind::Exec),
        ("credentials", Kind::Credentials),
        ("denied", Kind::Denied),
        ("unsupported", Kind::Unsupported),
        ("escape", Kind::Escape),
        ("mount", Kind::Mount),
        ("connect", Kind::Connect),
        ("bind", Kind::Bind),
        ("limit", Kind::Limit),
        ("dropped", Kind::Dropped),
        ("sink-lost", Kind::SinkLost),
        ("violation", Kind::Violation),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize].0
    }

    /// Whether the Sentry may send it: the others are the launcher's own.
    pub fn is_sentrys(self) -> bool {
        !matches!(self, Kind::Start | Kind::End | Kind::SinkLost | Kind::Violation)
    }

    /// Whether it is an alert.
    pub fn is_alert(self) -> bool {
        matches!(self, Kind::Escape | Kind::Limit | Kind::SinkLost | Kind::Violation)
    }
}

/// The task that did it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// Process id inside.
    pub pid: i32,
    /// Thread id inside.
    pub tid: i32,
    /// Its name.
    pub comm: String,
    /// Real user.
    pub uid: u32,
    /// Effective user.
    pub euid: u32,
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// What it is about.
    pub kind: Kind,
    /// Who did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Subject>,
    /// The system call.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub call: String,
    /// Its arguments by name, as `--strace` shows them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<(String, String)>,
    /// What it was answered: a number, or an errno's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub outcome: String,
    /// Which limit, which kind of escape, which address, ...
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub what: String,
    /// Of dropped records: their kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<Kind>,
    /// Of dropped records: how many.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub count: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Record {
    /// An empty one.
    pub fn of(kind: Kind) -> Record {
        Record {
            kind,
            subject: None,
            call: String::new(),
            args: Vec::new(),
            outcome: String::new(),
            what: String::new(),
            of: None,
            count: 0,
        }
    }
}

/// Cuts a string to [`MAX_TEXT`] characters.
pub fn cut(mut text: String) -> String {
    if let Some((at, _)) = text.char_indices().nth(MAX_TEXT) {
        text.truncate(at);
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn kinds_have_the_names_that_they_are_written_with() {
        for (i, (name, kind)) in Kind::NAMES.into_iter().enumerate() {
            assert_eq!(kind as usize, i);
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{name}\""));
        }
    }

    #[test]
    fn the_longest_record_fits_into_a_packet() {
        // Nothing that is shown holds control characters, but for names of 15 bytes. Backslashes
        // take two bytes in JSON.
        let text = cut("\\".repeat(5000));
        let record = Record {
            subject: Some(Subject { comm: "\u{1}".repeat(15), ..Subject::default() }),
            call: text.clone(),
            args: vec![("name".into(), text.clone()); 6],
            outcome: "ENOTRECOVERABLE".into(),
            what: text,
            ..Record::of(Kind::Escape)
        };
        assert!(serde_json::to_vec(&record).unwrap().len() < MAX_PACKET);
    }

    proptest! {
        #[test]
        fn records_survive_the_way(text in ".*", count: u64, pid: i32) {
            let subject = Some(Subject { pid, comm: text.clone(), ..Subject::default() });
            let args = vec![("path".to_owned(), text.clone())];
            let record = Record { subject, args, count, what: text, ..Record::of(Kind::Exec) };
            let packet = serde_json::to_vec(&record).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Record>(&packet).unwrap(), record);
        }
    }
}
