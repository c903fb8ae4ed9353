//! A policy file of rsentry's own (`rsentry run --policy`): the names are those of the options.
//!
//! Severities take the Sentry for granted: what a profile of rsentry leaves open is a smaller thing
//! than the same of a container on the host's kernel.

use serde_json::Value;

use super::finding::Severity::{self, High, Info, Low, Medium};
use super::finding::{Report, quoted};
use super::node::{Malformed, Node};
use super::oci::{CAPABILITIES, UNCONFINED_TYPES};
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
    capabilities(&root, is_root, &mut report)?;
    seccomp(&root, &mut report)?;
    limits(&root, strict, &mut report)?;
    cgroup(&root, &mut report)?;
    labels(&root, &mut report)?;
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

/// What they are worth in the sandbox's own kernel: they reach more of the Sentry, and nothing of the
/// host.
fn capabilities(root: &Node<'_>, is_root: bool, report: &mut Report) -> Result<(), Malformed> {
    let mut dropped_all = false;
    for option in ["cap-add", "cap-drop", "cap-ambient"] {
        for (name, at) in root.get(option)?.texts()? {
            let upper = name.to_ascii_uppercase();
            let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
            let known = CAPABILITIES.iter().find(|entry| entry.0 == short);
            match (option, known) {
                ("cap-drop", _) if short == "ALL" => dropped_all = true,
                (_, None) if short != "ALL" => {
                    let why = format!("{} is no capability that is known", quoted(name));
                    report.add("cap-unknown", Low, at.at(), why, "correct the name, or remove it");
                }
                ("cap-add", None) => {
                    let why = "the program has all capabilities inside";
                    report.add("capability", Low, at.at(), why, "name those that it needs");
                }
                ("cap-add", Some((name, severity, allows))) => {
                    let severity = if *severity >= High { Low } else { Info };
                    let why = format!("CAP_{name}, of the sandbox's own things: {allows}");
                    report.add("capability", severity, at.at(), why, "do not add it");
                }
                ("cap-ambient", _) => {
                    let why = "ambient capabilities stay when any program is executed as any user";
                    report.add("cap-ambient", Info, at.at(), why, "do not make it ambient");
                }
                _ => {}
            }
        }
    }
    if is_root && !dropped_all {
        let node = root.get("cap-drop")?;
        let why = "the program is root inside and keeps all capabilities that are not dropped";
        report.add("cap-default", Info, node.at(), why, "drop ALL, and add those that it needs");
    }
    Ok(())
}

/// The file itself is judged when it is used: it has to be there and in order for the sandbox to start.
fn seccomp(root: &Node<'_>, report: &mut Report) -> Result<(), Malformed> {
    let node = root.get("seccomp")?;
    let path = node.text_or_empty()?;
    if !node.exists() {
        let why = "the program may make all system calls that the Sentry has";
        let fix = "name a profile: docker's default one will do for most";
        report.add("seccomp-missing", Info, node.at(), why, fix);
    } else if !path.starts_with('/') {
        let why = format!("{} depends on where rsentry is started", quoted(path));
        report.add("seccomp-relative-path", Low, node.at(), why, "use an absolute path");
    }
    for (bind, _) in root.get("rw")?.texts()? {
        let source = source(bind);
        if path.starts_with('/') && source.starts_with('/') && within(path, source) {
            let why = format!("the program can write to {} by {}", quoted(path), quoted(bind));
            report.add("seccomp-writable", High, node.at(), why, "put it somewhere else");
        }
    }
    Ok(())
}

/// The second line of limits: around the Sentry, the gofer and the stubs.
fn cgroup(root: &Node<'_>, report: &mut Report) -> Result<(), Malformed> {
    let place = root.get("cgroup")?;
    let path = place.text_or_empty()?;
    let mut others = false;
    for name in ["cpuset", "cpu-weight", "io-weight", "io-max"] {
        others |= root.get(name)?.exists();
    }
    if path == "none" {
        let why = "the host's control group is switched off: if the Sentry is taken over, it keeps no limits";
        report.add("cgroup-missing", Low, place.at(), why, "use auto, or a path");
    } else if !place.exists() && !others {
        let why = "no control group: if the Sentry is taken over, it keeps no limits";
        report.add("cgroup-missing", Info, place.at(), why, "set it to auto");
    }
    let writable = !root.get("rw")?.texts()?.is_empty();
    let limits = root.get("io-max")?;
    if writable && !limits.exists() {
        let why = "what it reads and writes by rw is not limited";
        report.add("limit-io", Info, limits.at(), why, "limit the device that rw is on");
    }
    Ok(())
}

/// Layers of the host's around the Sentry and the gofer, which do well without.
fn labels(root: &Node<'_>, report: &mut Report) -> Result<(), Malformed> {
    for (name, open) in [("apparmor", &["unconfined"][..]), ("selinux-label", UNCONFINED_TYPES)] {
        let node = root.get(name)?;
        let text = node.text_or_empty()?;
        if open.iter().any(|open| text.split(':').any(|part| part == *open)) {
            let why = format!("{} confines nothing", quoted(text));
            report.add(
                "lsm-unconfined",
                Low,
                node.at(),
                why,
                "name one that does, or leave it out",
            );
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
