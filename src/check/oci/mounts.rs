//! `mounts`: what of the host is shown, and how.

use super::Context;
use crate::check::finding::Severity::{Critical, High, Info, Low, Medium};
use crate::check::finding::{Report, quoted};
use crate::check::node::{Malformed, Node};
use crate::check::paths::{normalized, sensitivity, within};

/// File systems by which the whole kernel is read or steered.
const KERNEL_FILE_SYSTEMS: &[&str] =
    &["debugfs", "tracefs", "securityfs", "configfs", "bpf", "binfmt_misc", "efivarfs", "pstore"];

pub(super) fn check(
    mounts: &Node<'_>,
    context: &Context,
    report: &mut Report,
) -> Result<(), Malformed> {
    for mount in mounts.list()? {
        let destination = mount.get("destination")?;
        let Some(at) = destination.text()? else {
            return Err(destination.malformed("missing: where is it mounted?"));
        };
        let source = mount.get("source")?;
        let options: Vec<&str> =
            mount.get("options")?.texts()?.into_iter().map(|option| option.0).collect();
        let mount = Mount {
            at: mount.at(),
            destination: at,
            kind: mount.get("type")?.text_or_empty()?,
            source: source.text_or_empty()?,
            options,
        };
        mount.check(context, report);
    }
    Ok(())
}

struct Mount<'a> {
    /// Its place in the file.
    at: &'a str,
    destination: &'a str,
    kind: &'a str,
    source: &'a str,
    options: Vec<&'a str>,
}

impl Mount<'_> {
    fn has(&self, option: &str) -> bool {
        self.options.contains(&option)
    }

    /// The last one of `ro` and `rw` counts.
    fn writable(&self) -> bool {
        let last = self.options.iter().rev().find(|option| matches!(**option, "ro" | "rw" | "rro"));
        last.is_none_or(|option| *option == "rw")
    }

    fn is_bind(&self) -> bool {
        self.kind == "bind" || self.has("bind") || self.has("rbind")
    }

    fn check(&self, context: &Context, report: &mut Report) {
        if self.is_bind() {
            self.host_path(report);
        } else {
            self.file_system(context, report);
        }
        self.flags(report);
        if self.has("shared") || self.has("rshared") {
            let why = format!(
                "mounts that are made below {} appear on the host",
                quoted(self.destination)
            );
            report.add("mount-shared", High, self.at, why, "use private or rprivate");
        }
    }

    fn host_path(&self, report: &mut Report) {
        let (source, destination) = (quoted(self.source), quoted(self.destination));
        if !self.source.starts_with('/') {
            let severity = if self.writable() { Low } else { Info };
            let why = format!("{source} of the bundle is shown at {destination}");
            report.add(
                "mount-bundle-path",
                severity,
                self.at,
                why,
                "make sure that nothing in the bundle is meant for others",
            );
            return;
        }
        let found = sensitivity(self.source);
        let (severity, how, fix) = if self.writable() {
            let bad_anyway = found.read_only >= High;
            let fix = if bad_anyway { "do not mount it" } else { "do not mount it, or read-only" };
            (found.writable, "can be written", fix)
        } else {
            (found.read_only, "is shown read-only", "do not mount it")
        };
        let what = found.what;
        let why = format!("the host's {source} {how} at {destination}: {what}");
        report.add("mount-host-path", severity, self.at, why, fix);
    }

    fn file_system(&self, context: &Context, report: &mut Report) {
        let destination = quoted(self.destination);
        match self.kind {
            "sysfs" if self.writable() => {
                let why =
                    format!("sysfs at {destination} can be written: it steers the host's devices");
                report.add("mount-kernel-writable", High, self.at, why, "add the option ro");
            }
            "cgroup" | "cgroup2" if self.writable() => {
                let severity = if context.cgroup_namespace { Medium } else { High };
                let why = format!(
                    "the cgroup file system at {destination} can be written: limits can be lifted, and with version 1 a release_agent named, which the host runs as root"
                );
                report.add("mount-kernel-writable", severity, self.at, why, "add the option ro");
            }
            "devtmpfs" => {
                let why = format!("devtmpfs at {destination} has all devices of the host");
                report.add(
                    "mount-devtmpfs",
                    Critical,
                    self.at,
                    why,
                    "mount a tmpfs, and list the devices that are needed",
                );
            }
            kind if KERNEL_FILE_SYSTEMS.contains(&kind) => {
                let severity = if self.writable() { High } else { Medium };
                let why = format!("{kind} at {destination} is about the whole kernel");
                report.add("mount-kernel", severity, self.at, why, "remove it");
            }
            "tmpfs" | "ramfs" => {
                let bounded = self
                    .options
                    .iter()
                    .any(|o| o.starts_with("size=") || o.starts_with("nr_blocks="));
                if !bounded || self.kind == "ramfs" {
                    let why = format!(
                        "{destination} takes any amount of memory, up to the container's limit"
                    );
                    report.add(
                        "mount-unbounded",
                        Low,
                        self.at,
                        why,
                        "use a tmpfs with the option size=",
                    );
                }
            }
            _ if within(self.source, "/dev") && self.source.starts_with("/dev/") => {
                let why = format!(
                    "the host's device {} is mounted at {destination}: the kernel parses what an attacker wrote to it",
                    quoted(self.source)
                );
                report.add(
                    "mount-device",
                    High,
                    self.at,
                    why,
                    "have the host mount it, and bind it",
                );
            }
            _ => {}
        }
    }

    /// `nosuid`, `nodev`, `noexec` where they cost nothing.
    fn flags(&self, report: &mut Report) {
        let below_dev = within(self.destination, "/dev");
        // runc mounts procfs so in any case.
        let kernel_own = matches!(self.kind, "proc" | "devpts" | "cgroup" | "cgroup2");
        if kernel_own {
            return;
        }
        let destination = quoted(self.destination);
        if !self.has("nosuid") {
            let why = format!("set-user-ID programs below {destination} count");
            report.add("mount-suid", Low, self.at, why, "add the option nosuid");
        }
        if !self.has("nodev") && !below_dev {
            let why = format!("device files below {destination} count");
            report.add("mount-dev", Low, self.at, why, "add the option nodev");
        }
        let is_dev = normalized(self.destination) == ["dev"];
        if self.writable() && !self.has("noexec") && !is_dev {
            let why = format!("what is written below {destination} can be executed");
            report.add(
                "mount-exec",
                Info,
                self.at,
                why,
                "add the option noexec if no programs belong there",
            );
        }
    }
}
