//! An OCI runtime configuration (`config.json`), section by section.
//!
//! Severities are those of a container on the host's kernel, which is what such a file describes;
//! under rsentry the guest's kernel is the Sentry, and what remains is defence in depth.

mod devices;
mod linux;
mod mounts;
mod process;
mod resources;
mod seccomp;

use serde_json::Value;

pub(super) use process::{CAPABILITIES, UNCONFINED_TYPES};

use super::finding::Severity::{Critical, Info, Low, Medium};
use super::finding::{Report, quoted};
use super::node::{Malformed, Node};
use super::paths::{normalized, within};

/// What several sections ask about.
#[derive(Clone, Copy, Debug)]
struct Context {
    /// There is a user namespace, so that capabilities count for the container's own things only.
    user_namespace: bool,
    /// There is a network namespace of its own.
    network_namespace: bool,
    /// Likewise IPC.
    ipc_namespace: bool,
    /// Likewise UTS.
    uts_namespace: bool,
    /// Likewise cgroup.
    cgroup_namespace: bool,
}

/// Judges a configuration.
pub(super) fn check(value: &Value) -> Result<Report, Malformed> {
    let mut report = Report::new("OCI config.json");
    let root = Node::root(value);
    let version = root.get("ociVersion")?;
    if version.text()?.is_none() {
        return Err(version.malformed("missing; is this an OCI config.json?"));
    }
    let linux = root.get("linux")?;
    let context = linux::namespaces(&linux, &mut report)?;
    process::check(&root.get("process")?, &context, &mut report)?;
    root_directory(&root.get("root")?, &mut report)?;
    mounts::check(&root.get("mounts")?, &context, &mut report)?;
    linux::check(&root, &context, &mut report)?;
    devices::check(&linux, &mut report)?;
    resources::check(&linux.get("resources")?, &mut report)?;
    seccomp::check(&linux.get("seccomp")?, &mut report)?;
    hooks(&root.get("hooks")?, &mut report)?;
    Ok(report.sorted())
}

fn root_directory(root: &Node<'_>, report: &mut Report) -> Result<(), Malformed> {
    let path = root.get("path")?;
    if let Some(text) = path.text()?
        && text.starts_with('/')
        && normalized(text).is_empty()
    {
        let why = "the container's root directory is the host's: it sees all of its files";
        report.add("root-host", Critical, path.at(), why, "give it a root file system of its own");
    }
    let readonly = root.get("readonly")?;
    if root.exists() && readonly.flag()? != Some(true) {
        report.add(
            "root-writable",
            Medium,
            readonly.at(),
            "the root file system can be written: an attacker can change the programs in it, and stay",
            "set it to true, and mount a tmpfs or a volume where the program has to write",
        );
    }
    Ok(())
}

/// Kinds of hooks, and whether they run with the host's rights.
const HOOKS: &[(&str, bool)] = &[
    ("prestart", true),
    ("createRuntime", true),
    ("createContainer", true),
    ("startContainer", false),
    ("poststart", true),
    ("poststop", true),
];

fn hooks(hooks: &Node<'_>, report: &mut Report) -> Result<(), Malformed> {
    for &(kind, on_host) in HOOKS {
        for hook in hooks.get(kind)?.list()? {
            let path = hook.get("path")?;
            let Some(text) = path.text()? else {
                return Err(path.malformed("missing: a hook needs a program"));
            };
            if !text.starts_with('/') {
                return Err(path.malformed("a hook's program must be an absolute path"));
            }
            let shown = quoted(text);
            let shared = ["/tmp", "/var/tmp", "/dev/shm"].iter().any(|dir| within(text, dir));
            if !on_host {
                let why = format!("{shown} runs inside before the program does");
                report.add("hook", Info, path.at(), why, "make sure that it is meant to be there");
            } else if shared {
                let why = format!(
                    "{shown} runs on the host with the runtime's rights, and lies in a directory \
                     that everybody can write to"
                );
                report.add(
                    "hook-replaceable",
                    Critical,
                    path.at(),
                    why,
                    "move it to a directory that only root can write to",
                );
            } else {
                let why = format!("{shown} runs on the host with the runtime's rights");
                report.add(
                    "hook",
                    Low,
                    path.at(),
                    why,
                    "remove it unless it is needed; make sure that only root can change it",
                );
            }
        }
    }
    Ok(())
}
