//! A record as a line of the audit file.

use sentry::audit::record::{Kind, Record, cut};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// Most arguments of a call.
const MAX_ARGS: usize = 8;

/// One JSON object, and the end of the line. What comes from the Sentry is cut to the lengths of an
/// honest one.
pub(super) fn render(record: &Record, sandbox: &str, seq: u64, time: &str) -> Vec<u8> {
    let line = Line {
        time,
        sandbox,
        seq,
        kind: record.kind.name(),
        alert: record.kind.is_alert(),
        subject: record.subject.as_ref().map(|subject| Subject {
            pid: subject.pid,
            tid: subject.tid,
            comm: short(&subject.comm),
            uid: subject.uid,
            euid: subject.euid,
        }),
        call: short(&record.call),
        args: Args(record.args.iter().take(MAX_ARGS).map(|(n, v)| (short(n), short(v))).collect()),
        outcome: short(&record.outcome),
        what: short(&record.what),
        of: record.of.map(Kind::name),
        count: record.count,
    };
    // Maps of strings and numbers always can be serialized.
    let mut text = serde_json::to_vec(&line).unwrap_or_default();
    text.push(b'\n');
    text
}

/// A line for people, without control characters.
pub(super) fn summary(record: &Record) -> String {
    let mut text = record.kind.name().to_owned();
    for (name, value) in
        [("", &record.what), ("call=", &record.call), ("outcome=", &record.outcome)]
    {
        if !value.is_empty() {
            text.push_str(&format!(" {name}{}", short(value)));
        }
    }
    if let Some(subject) = &record.subject {
        text.push_str(&format!(" pid={} comm={}", subject.pid, short(&subject.comm)));
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn short(text: &str) -> String {
    cut(text.to_owned())
}

#[derive(Serialize)]
struct Line<'a> {
    time: &'a str,
    sandbox: &'a str,
    seq: u64,
    kind: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    alert: bool,
    #[serde(flatten)]
    subject: Option<Subject>,
    #[serde(skip_serializing_if = "String::is_empty")]
    call: String,
    #[serde(skip_serializing_if = "Args::is_empty")]
    args: Args,
    #[serde(skip_serializing_if = "String::is_empty")]
    outcome: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<&'a str>,
    #[serde(skip_serializing_if = "is_zero")]
    count: u64,
}

#[derive(Serialize)]
struct Subject {
    pid: i32,
    tid: i32,
    comm: String,
    uid: u32,
    euid: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// An object that keeps its order.
struct Args(Vec<(String, String)>);

impl Args {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Args {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn lines_are_one_object_each_whatever_the_guest_says() {
        let evil = "\"}\n{\"kind\":\"end\",\"sandbox\":\"other\u{1b}[2J".to_owned();
        let record = Record {
            call: evil.clone(),
            args: vec![(evil.clone(), evil.clone()); 100],
            what: evil.clone() + &"x".repeat(10_000),
            ..Record::of(Kind::Denied)
        };
        let line = render(&record, "mine", 7, "now");
        assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
        assert!(line.len() < 8000 && !line.contains(&0x1b));
        let value: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!((&value["sandbox"], &value["kind"]), (&"mine".into(), &"denied".into()));
        assert_eq!(value["call"], evil.as_str());
        assert!(!summary(&record).contains(char::is_control));
    }
}
