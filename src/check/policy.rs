//! A policy file of rsentry's own (`rsentry run --policy`): the names are those of the options.
//!
//! Severities take the Sentry for granted: what a profile of rsentry leaves open is a smaller thing
//! than the same of a container on the host's kernel.

use serde_json::Value;

use super::finding::Severity::{self, High, Info, Low, Medium};
use super::finding::{Report, quoted};
use super::node::{Malformed, Node};
use super::paths::{normalized, sensitivity, within};
use super::secrets;

/// Judges a policy file that has been found to be well-formed.
pub(super) fn check(value: &Value) -> Result<Report, Malformed> {
    let mut report = Report::new("rsentry policy");
    let root = Node::root(value);
    let profile = root.get("profile")?;
    let strict = profile.text_or_empty()? == "strict";
    if profile.text_or_empty()? == "permissive" {
        let why = "the profile permissive limits nothing but what the host does not have";
        report.add("profile-permissive", Medium, profile.at(), why, "use strict or standard");
    }
    files(&root, strict, &mut report)?;
    let user = root.get("user")?;
    let is_root = text(&user).is_some_and(|user| user.split(':').next() == Some("0"));
    if is_root {
        let why =
            "the program is root inside: it can mount, change ids and reach more of the Sentry";
        report.add("root-user", Low, user.at(), why, "give it a user of its own");
    } else if !user.exists() && !strict {
        let why = "the program has the caller's user: root's, if root runs it";
        report.add("root-user", Info, user.at(), why, "name a user");
    }
    for (variable, at) in root.get("env")?.texts()? {
        if let Some(name) = secrets::in_variable(variable, true) {
            let why = format!("{} looks like a secret, which the program gets", quoted(name));
            report.add(
                "env-secret",
                Low,
                at.at(),
                why,
                "hand secrets over in a file that only the program can read",
            );
        }
    }
    limits(&root, strict, &mut report)?;
    audit(&root, &mut report)?;
    Ok(report.sorted())
}

/// A string or a number, as text.
fn text(node: &Node<'_>) -> Option<String> {
    match (node.text(), node.integer()) {
        (Ok(Some(text)), _) => Some(text.to_owned()),
        (_, Ok(Some(number))) => Some(number.to_string()),
        _ => None,
    }
}

/// `SRC[:DST]`, split where `rsentry run` does.
fn source(bind: &str) -> &str {
    bind.rfind(":/").and_then(|at| bind.get(..at)).unwrap_or(bind)
}

fn files(root: &Node<'_>, strict: bool, report: &mut Report) -> Result<(), Malformed> {
    let directory = root.get("root")?;
    let path = directory.text_or_empty()?;
    if path.starts_with('/') && normalized(path).is_empty() {
        let why = "the program sees all of the host's files";
        report.add(
            "root-host",
            High,
            directory.at(),
            why,
            "leave it out, or name a root file system of its own",
        );
    } else if path.is_empty() && !strict {
        let why = "the program sees the directory that it is started in, whatever that is";
        report.add(
            "current-directory",
            Info,
            directory.at(),
            why,
            "name a root, or use the profile strict",
        );
    }
    for (option, writable) in [("ro", false), ("rw", true)] {
        for (bind, at) in root.get(option)?.texts()? {
            let source = source(bind);
            let shown = quoted(source);
            if !source.starts_with('/') {
                let severity = if writable { Low } else { Info };
                let why = format!("{shown} depends on where rsentry is started");
                report.add("mount-relative-path", severity, at.at(), why, "use an absolute path");
                continue;
            }
            let found = sensitivity(source);
            let (severity, how, fix): (Severity, _, _) = match (writable, found.read_only >= High) {
                (true, true) => (found.writable, "can be written", "do not show it"),
                (true, false) => (found.writable, "can be written", "do not show it, or by ro"),
                (false, _) => (found.read_only, "is shown", "do not show it"),
            };
            let why = format!("the host's {shown} {how}: {}", found.what);
            report.add("mount-host-path", severity, at.at(), why, fix);
        }
    }
    Ok(())
}

fn limits(root: &Node<'_>, strict: bool, report: &mut Report) -> Result<(), Malformed> {
    for (name, id, severity, why) in [
        (
            "memory",
            "limit-memory",
            Low,
            "memory is limited to three quarters of the host's at best",
        ),
        ("pids", "limit-pids", Low, "processes are limited by what the Sentry can hold only"),
        ("cpus", "limit-cpu", Low, "processor time is not limited"),
        (
            "output-limit",
            "limit-output",
            Low,
            "output is not limited: it can fill the disk that it goes to",
        ),
        ("wall", "limit-wall", Info, "it may run for ever"),
    ] {
        let node = root.get(name)?;
        // The profile strict has limits of its own, which a policy can lift.
        let limited = match text(&node) {
            Some(value) => value != "none",
            None => strict || node.exists(),
        };
        if !limited {
            report.add(id, severity, node.at(), why, "set it, or use the profile strict");
        }
    }
    Ok(())
}

fn audit(root: &Node<'_>, report: &mut Report) -> Result<(), Malformed> {
    let audit = root.get("audit")?;
    if !audit.exists() {
        let why = "nothing is recorded of what the program tries";
        report.add("audit-off", Info, audit.at(), why, "name a file, syslog or journald");
    } else if root.get("audit-required")?.flag()? != Some(true) {
        let why = "the program goes on when records cannot be written";
        report.add("audit-optional", Info, audit.at(), why, "set audit-required to true");
    }
    let writable = root.get("rw")?.texts()?;
    for name in ["audit", "log", "report"] {
        let node = root.get(name)?;
        let path = node.text_or_empty()?;
        let shown = writable.iter().find(|(bind, _)| {
            let source = source(bind);
            path.starts_with('/') && source.starts_with('/') && within(path, source)
        });
        if let Some((bind, _)) = shown {
            let why = format!("the program can write to {} by {}", quoted(path), quoted(bind));
            report.add("audit-writable", High, node.at(), why, "put it somewhere else");
        }
    }
    Ok(())
}
