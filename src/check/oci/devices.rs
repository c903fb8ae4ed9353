//! `linux.devices` and `linux.resources.devices`: which devices there are, and which may be used.

use crate::check::finding::Severity::{self, Critical, High, Info, Low, Medium};
use crate::check::finding::{Report, quoted};
use crate::check::node::{Malformed, Node};
use crate::check::paths::normalized;

/// What a device is good for.
#[derive(Clone, Copy)]
struct Known {
    what: &'static str,
    severity: Severity,
}

/// By type and numbers; `None` is any minor number.
const DEVICES: &[(char, i128, Option<i128>, &str, Severity)] = &[
    ('c', 1, Some(1), "physical memory", Critical),
    ('c', 1, Some(2), "kernel memory", Critical),
    ('c', 1, Some(3), "null", Info),
    ('c', 1, Some(4), "I/O ports", Critical),
    ('c', 1, Some(5), "zero", Info),
    ('c', 1, Some(7), "full", Info),
    ('c', 1, Some(8), "random", Info),
    ('c', 1, Some(9), "urandom", Info),
    ('c', 1, Some(11), "the kernel's log", High),
    ('c', 5, Some(0), "the own terminal", Info),
    ('c', 5, Some(1), "the console", Low),
    ('c', 5, Some(2), "new terminals", Info),
    ('c', 136, None, "terminals", Info),
    ('c', 4, None, "the host's virtual and serial terminals", High),
    ('c', 7, None, "the host's screens", High),
    ('c', 10, Some(200), "new network interfaces", Medium),
    ('c', 10, Some(223), "input events: keystrokes for the host", Critical),
    ('c', 10, Some(229), "file systems of its own (FUSE)", Low),
    ('c', 10, Some(232), "virtual machines (KVM)", Medium),
    ('c', 10, Some(237), "loop devices", High),
    ('c', 10, Some(238), "vhost: the kernel's network for virtual machines", Medium),
    ('c', 13, None, "the host's keyboards and mice", High),
    ('c', 21, None, "raw SCSI commands to the host's disks", Critical),
    ('c', 29, None, "the host's screen", High),
    ('c', 195, None, "graphics (NVIDIA), whose drivers are large", Medium),
    ('c', 226, None, "graphics, whose drivers are large", Medium),
];

fn known(kind: char, major: Option<i128>, minor: Option<i128>) -> Known {
    let exact = DEVICES.iter().filter(|(k, major_, minor_, ..)| {
        *k == kind && Some(*major_) == major && (minor_.is_none() || *minor_ == minor)
    });
    // Without a minor number it is all of the major's.
    let all = DEVICES
        .iter()
        .filter(|(k, major_, ..)| *k == kind && minor.is_none() && Some(*major_) == major);
    let found = exact.chain(all).max_by_key(|entry| entry.4);
    match found {
        Some(&(_, _, _, what, severity)) => Known { what, severity },
        None if kind == 'b' => Known { what: "the host's disks", severity: Critical },
        None if major.is_none() => Known { what: "all character devices", severity: Critical },
        None => Known { what: "a device of the host", severity: Medium },
    }
}

pub(super) fn check(linux: &Node<'_>, report: &mut Report) -> Result<(), Malformed> {
    for device in linux.get("devices")?.list()? {
        let path = device.get("path")?;
        let Some(text) = path.text()? else {
            return Err(path.malformed("missing: where is the device?"));
        };
        let kind = device_type(&device.get("type")?)?;
        if kind == 'p' {
            continue;
        }
        let Known { what, severity } =
            known(kind, number(&device, "major")?, number(&device, "minor")?);
        if severity > Info {
            let why = format!("the device {} is there: {what}", quoted(text));
            report.add(
                "device",
                severity,
                device.at(),
                why,
                "remove it unless the program needs it",
            );
        }
        if normalized(text).first() != Some(&"dev") {
            let why =
                format!("the device {} is outside of /dev, where nobody expects one", quoted(text));
            report.add("device-outside-dev", Low, path.at(), why, "put it into /dev");
        }
        let mode = device.get("fileMode")?;
        if mode.integer()?.unwrap_or(0) & 0o002 != 0 && severity > Info {
            let why = format!("every user inside may write to the device {}", quoted(text));
            report.add(
                "device-world-writable",
                Low,
                mode.at(),
                why,
                "take write permission from others",
            );
        }
    }
    rules(&linux.get("resources")?.get("devices")?, report)
}

/// The rules are applied in order: one that denies everything undoes all before it.
fn rules(list: &Node<'_>, report: &mut Report) -> Result<(), Malformed> {
    let mut allowed = Vec::new();
    let mut denied = false;
    for rule in list.list()? {
        let allow = rule.get("allow")?;
        let Some(allow) = allow.flag()? else {
            return Err(allow.malformed("missing: is it allowed or denied?"));
        };
        let kind = match rule.get("type")?.text_or_empty()? {
            "" => 'a',
            _ => device_type(&rule.get("type")?)?,
        };
        let (major, minor) = (number(&rule, "major")?, number(&rule, "minor")?);
        let access = rule.get("access")?.text_or_empty()?;
        let all = kind == 'a' && major.is_none() && minor.is_none();
        if allow {
            allowed.push((rule.at().to_owned(), kind, major, minor, access, all));
        } else if all && (access.is_empty() || ['r', 'w', 'm'].iter().all(|&c| access.contains(c)))
        {
            allowed.clear();
            denied = true;
        }
    }
    if !denied {
        let why = "no rule denies all devices first: what is allowed is up to the runtime";
        report.add(
            "device-rules-open",
            Low,
            list.at(),
            why,
            "begin the list with {\"allow\": false, \"access\": \"rwm\"}",
        );
    }
    for (at, kind, major, minor, access, all) in allowed {
        // Making the device file alone opens nothing.
        if access == "m" {
            continue;
        }
        if all {
            let why = "all devices are allowed: disks and memory of the host with them";
            report.add("device-rules-all", Critical, at, why, "allow single devices");
            continue;
        }
        let Known { what, severity } = known(kind, major, minor);
        if severity > Info {
            let show = |n: Option<i128>| n.map_or("*".to_owned(), |n| n.to_string());
            let why =
                format!("the devices {kind} {}:{} are allowed: {what}", show(major), show(minor));
            report.add(
                "device-allowed",
                severity,
                at,
                why,
                "remove the rule unless the program needs it",
            );
        }
    }
    Ok(())
}

fn device_type(node: &Node<'_>) -> Result<char, Malformed> {
    match node.text_or_empty()? {
        "a" => Ok('a'),
        "b" => Ok('b'),
        "c" | "u" => Ok('c'),
        "p" => Ok('p'),
        other => Err(node.malformed(format!("{} is not one of: a, b, c, u, p", quoted(other)))),
    }
}

/// A device number; -1 means any, as nothing does.
fn number(node: &Node<'_>, key: &str) -> Result<Option<i128>, Malformed> {
    let node = node.get(key)?;
    match node.integer()? {
        Some(-1) | None => Ok(None),
        Some(number) if (0..=i128::from(u32::MAX)).contains(&number) => Ok(Some(number)),
        Some(_) => Err(node.malformed("must be a number below 2^32")),
    }
}
