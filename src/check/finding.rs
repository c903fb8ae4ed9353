//! What was found, and how it is shown.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// Most findings of a report; what is beyond is counted.
const MAX_FINDINGS: usize = 1000;
/// Longest piece of the file that is shown, in characters.
const MAX_QUOTED: usize = 160;

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; weakens nothing by itself.
    Info,
    /// A layer less among several.
    Low,
    /// Widens what an attacker can reach, or lets the host's resources be used up.
    Medium,
    /// One known bug, or one step, away from the host.
    High,
    /// The host is open.
    Critical,
}

impl Severity {
    /// All of them by name, from harmless to bad.
    pub const NAMES: [(&'static str, Severity); 5] = [
        ("info", Severity::Info),
        ("low", Severity::Low),
        ("medium", Severity::Medium),
        ("high", Severity::High),
        ("critical", Severity::Critical),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize].0
    }

    /// What `rsentry check` exits with when this is the worst: 0 for info, 4 for critical.
    pub fn exit_code(self) -> u8 {
        self as u8
    }

    /// One step less bad.
    pub(super) fn lowered(self) -> Severity {
        Self::NAMES[(self as usize).saturating_sub(1)].1
    }
}

/// One thing that weakens the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which kind of thing; stays the same between versions.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// Where, as a JSON pointer; of something missing, where it should be.
    pub at: String,
    /// What it is and why it matters.
    pub why: String,
    /// What to do about it.
    pub fix: String,
}

/// All findings about one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    kind: &'static str,
    findings: Vec<Finding>,
    /// By severity, the left out ones included.
    counts: [usize; 5],
}

impl Report {
    pub(super) fn new(kind: &'static str) -> Report {
        Report { kind, ..Report::default() }
    }

    pub(super) fn add(
        &mut self,
        id: &'static str,
        severity: Severity,
        at: impl Into<String>,
        why: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.counts[severity as usize] += 1;
        if self.findings.len() < MAX_FINDINGS {
            let (at, why, fix) = (at.into(), why.into(), fix.into());
            self.findings.push(Finding { id, severity, at, why, fix });
        }
    }

    /// Bad ones first, else in the order of the file.
    pub(super) fn sorted(mut self) -> Report {
        self.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        self
    }

    /// What was found, the worst first; a thousand at most.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The worst severity of all.
    pub fn worst(&self) -> Option<Severity> {
        let names = Severity::NAMES.iter().rev();
        names.map(|&(_, severity)| severity).find(|&severity| self.counts[severity as usize] > 0)
    }

    fn left_out(&self) -> usize {
        self.counts.iter().sum::<usize>() - self.findings.len()
    }

    /// For people.
    pub(super) fn text(&self, file: &str) -> String {
        let mut out = String::new();
        for finding in &self.findings {
            let Finding { id, severity, at, why, fix } = finding;
            let at = if at.is_empty() { "/" } else { at };
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{:<8}  {id}  {}", severity.name(), escaped(at));
            let _ = writeln!(out, "          {}\n          fix: {}", escaped(why), escaped(fix));
        }
        if self.left_out() > 0 {
            let _ = writeln!(out, "... and {} more", self.left_out());
        }
        let counts: Vec<String> = Severity::NAMES
            .iter()
            .rev()
            .map(|&(name, severity)| (name, self.counts[severity as usize]))
            .filter(|&(_, count)| count > 0)
            .map(|(name, count)| format!("{count} {name}"))
            .collect();
        let counts = if counts.is_empty() { "nothing found".into() } else { counts.join(", ") };
        let _ = writeln!(out, "{} ({}): {counts}", quoted(file), self.kind);
        out
    }

    /// For programs: one object.
    pub(super) fn json(&self, file: &str) -> String {
        let findings: Vec<Value> = self
            .findings
            .iter()
            .map(|finding| {
                json!({
                    "id": finding.id,
                    "severity": finding.severity.name(),
                    "where": finding.at,
                    "why": finding.why,
                    "fix": finding.fix,
                })
            })
            .collect();
        let counts: serde_json::Map<String, Value> = Severity::NAMES
            .iter()
            .map(|&(name, severity)| (name.to_owned(), self.counts[severity as usize].into()))
            .collect();
        let all = json!({
            "file": file,
            "kind": self.kind,
            "worst": self.worst().map(Severity::name),
            "counts": counts,
            "left_out": self.left_out(),
            "findings": findings,
        });
        format!("{all:#}\n")
    }
}

/// A piece of the file: quoted, escaped, and cut to a bearable length.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("'");
    for (i, c) in text.chars().enumerate() {
        if i == MAX_QUOTED {
            out.push_str("...");
            break;
        }
        push_escaped(&mut out, c);
    }
    out.push('\'');
    out
}

/// Nothing in it moves a terminal's cursor or reverses its text.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    text.chars().for_each(|c| push_escaped(&mut out, c));
    out
}

fn push_escaped(out: &mut String, c: char) {
    // escape_debug also escapes quotes and backslashes, which harm nobody.
    match c {
        '\'' | '"' | '\\' => out.push(c),
        _ => out.extend(c.escape_debug()),
    }
}
