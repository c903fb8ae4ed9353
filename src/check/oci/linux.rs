//! `linux`: namespaces, id maps, masked paths, propagation, sysctls.

use super::Context;
use crate::check::finding::Severity::{self, Critical, High, Info, Low, Medium};
use crate::check::finding::{Report, quoted};
use crate::check::node::{Malformed, Node};
use crate::check::paths::{normalized, within};

/// Namespaces, how bad it is to have none of one's own, and what is shared then.
const NAMESPACES: &[(&str, Severity, &str)] = &[
    ("user", Medium, "ids and capabilities are the host's"),
    ("pid", High, "it sees the host's processes, and can signal those of its user"),
    (
        "network",
        High,
        "it uses the host's network: its addresses, its services on localhost, its abstract sockets",
    ),
    ("mount", Critical, "it has the host's mounts"),
    ("ipc", Medium, "it shares System V IPC and POSIX message queues with the host"),
    ("uts", Low, "it has the host's name, and may change it if it has CAP_SYS_ADMIN"),
    ("cgroup", Low, "it sees the host's cgroup paths"),
];

/// Looks at the namespaces, and says which ones there are.
pub(super) fn namespaces(linux: &Node<'_>, report: &mut Report) -> Result<Context, Malformed> {
    let list = linux.get("namespaces")?;
    let mut own = Vec::new();
    for namespace in list.list()? {
        let kind = namespace.get("type")?;
        let Some(name) = kind.text()? else {
            return Err(kind.malformed("missing: which namespace?"));
        };
        if name != "time" && !NAMESPACES.iter().any(|entry| entry.0 == name) {
            return Err(kind.malformed(format!("{} is not a kind of namespace", quoted(name))));
        }
        let path = namespace.get("path")?;
        let of_host = match path.text_or_empty()? {
            "" => false,
            text => joined(name, text, &path, report),
        };
        if !of_host {
            own.push(name);
        }
    }
    for &(name, severity, shared) in NAMESPACES {
        let joined_by_path = list
            .list()?
            .iter()
            .any(|namespace| namespace.get("type").and_then(|kind| kind.text()) == Ok(Some(name)));
        if !own.contains(&name) && !joined_by_path {
            let why = format!("no {name} namespace of its own: {shared}");
            let fix = format!("add {{\"type\": \"{name}\"}} to the list");
            report.add("namespace-missing", severity, list.at(), why, fix);
        }
    }
    let user_namespace = own.contains(&"user");
    if user_namespace {
        id_maps(linux, report)?;
    }
    Ok(Context {
        user_namespace,
        network_namespace: own.contains(&"network"),
        ipc_namespace: own.contains(&"ipc"),
        uts_namespace: own.contains(&"uts"),
        cgroup_namespace: own.contains(&"cgroup"),
    })
}

/// Reports a namespace that is joined by path. Returns whether it is the host's.
fn joined(name: &str, path: &str, at: &Node<'_>, report: &mut Report) -> bool {
    let shown = quoted(path);
    if let ["proc", "1" | "self" | "thread-self", "ns", _] = normalized(path)[..] {
        let shared = NAMESPACES.iter().find(|entry| entry.0 == name);
        let (severity, what) = shared.map_or((Low, ""), |entry| (entry.1, entry.2));
        let why = format!("joins the host's {name} namespace by {shown}: {what}");
        report.add("namespace-host", severity, at.at(), why, "remove the path");
        return true;
    }
    // What pods do with network and IPC; of others it is rarer, and gives more away.
    let severity = if matches!(name, "network" | "ipc" | "uts") { Info } else { Medium };
    let why = format!(
        "joins the {name} namespace that {shown} names, and shares it with whoever else is in it"
    );
    report.add(
        "namespace-joined",
        severity,
        at.at(),
        why,
        "remove the path unless they trust each other",
    );
    false
}

fn id_maps(linux: &Node<'_>, report: &mut Report) -> Result<(), Malformed> {
    for map in ["uidMappings", "gidMappings"] {
        for mapping in linux.get(map)?.list()? {
            let number = |key: &str| -> Result<i128, Malformed> {
                let node = mapping.get(key)?;
                match node.integer()? {
                    Some(id) if (0..=i128::from(u32::MAX)).contains(&id) => Ok(id),
                    Some(_) => Err(node.malformed("must be a number below 2^32")),
                    None => Err(node.malformed("missing")),
                }
            };
            let (inside, outside, size) =
                (number("containerID")?, number("hostID")?, number("size")?);
            if outside == 0 && size > 0 {
                let why = format!(
                    "id {inside} inside is the host's root: the user namespace protects no file of root's"
                );
                report.add(
                    "id-map-root",
                    High,
                    mapping.at(),
                    why,
                    "map to ids that nobody else uses",
                );
            }
        }
    }
    Ok(())
}

/// Paths of procfs and sysfs that are to be masked, and how bad it is if they are not.
const MASKED: &[(&str, Severity)] = &[
    ("/proc/acpi", Low),
    ("/proc/asound", Low),
    ("/proc/kcore", High),
    ("/proc/keys", Medium),
    ("/proc/latency_stats", Low),
    ("/proc/timer_list", Low),
    ("/proc/timer_stats", Low),
    ("/proc/sched_debug", Low),
    ("/proc/scsi", Low),
    ("/sys/firmware", Low),
];

/// Paths that are to be read-only.
const READ_ONLY: &[(&str, Severity)] = &[
    ("/proc/bus", Medium),
    ("/proc/fs", Medium),
    ("/proc/irq", Medium),
    ("/proc/sys", High),
    ("/proc/sysrq-trigger", High),
];

/// Settings that are the namespace's own and harmless.
const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// All but namespaces, devices, resources and seccomp.
pub(super) fn check(
    root: &Node<'_>,
    context: &Context,
    report: &mut Report,
) -> Result<(), Malformed> {
    let linux = root.get("linux")?;
    hidden_paths(root, &linux, report)?;
    let propagation = linux.get("rootfsPropagation")?;
    match propagation.text_or_empty()? {
        "shared" | "rshared" => {
            let why = "mounts that are made inside appear on the host";
            report.add("rootfs-propagation", High, propagation.at(), why, "use private, or slave");
        }
        "" | "private" | "rprivate" | "unbindable" | "runbindable" => {}
        "slave" | "rslave" => {
            let why = "mounts that are made on the host appear inside";
            report.add(
                "rootfs-propagation",
                Info,
                propagation.at(),
                why,
                "use private if that is not needed",
            );
        }
        other => {
            return Err(propagation.malformed(format!("{} is not a propagation", quoted(other))));
        }
    }
    for (name, value) in linux.get("sysctl")?.members()? {
        value.text()?;
        sysctl(name, &value, context, report);
    }
    Ok(())
}

fn hidden_paths(root: &Node<'_>, linux: &Node<'_>, report: &mut Report) -> Result<(), Malformed> {
    let (masked, read_only) = (linux.get("maskedPaths")?, linux.get("readonlyPaths")?);
    let (hidden, fixed) = (masked.texts()?, read_only.texts()?);
    let mut mounted = Vec::new();
    for mount in root.get("mounts")?.list()? {
        let destination = mount.get("destination")?.text_or_empty()?;
        let options = mount.get("options")?.texts()?;
        mounted.push((destination, options.iter().any(|option| option.0 == "ro")));
    }
    let there = |path: &str| mounted.iter().any(|(at, _)| *at != "/" && within(path, at));
    let covered = |path: &str, list: &[(&str, Node<'_>)]| list.iter().any(|(p, _)| within(path, p));
    for &(path, severity) in MASKED {
        if there(path) && !covered(path, &hidden) {
            let why = format!("{path} is not masked, and tells about the host");
            report.add(
                "path-unmasked",
                severity,
                masked.at(),
                why,
                format!("add {path} to the list"),
            );
        }
    }
    for &(path, severity) in READ_ONLY {
        let by_mount = mounted.iter().any(|&(at, ro)| ro && at != "/" && within(path, at));
        if there(path) && !by_mount && !covered(path, &fixed) && !covered(path, &hidden) {
            let why =
                format!("{path} is not read-only: root inside changes the host's settings by it");
            report.add(
                "path-writable",
                severity,
                read_only.at(),
                why,
                format!("add {path} to the list"),
            );
        }
    }
    Ok(())
}

fn sysctl(name: &str, at: &Node<'_>, context: &Context, report: &mut Report) {
    let dotted = name.replace('/', ".");
    let shown = quoted(name);
    let own = if dotted.starts_with("net.") {
        Some(context.network_namespace)
    } else if ["kernel.msg", "kernel.sem", "kernel.shm", "fs.mqueue."]
        .iter()
        .any(|prefix| dotted.starts_with(prefix))
    {
        Some(context.ipc_namespace)
    } else if matches!(dotted.as_str(), "kernel.hostname" | "kernel.domainname") {
        Some(context.uts_namespace)
    } else {
        None
    };
    match own {
        Some(true) if SAFE_SYSCTLS.contains(&dotted.as_str()) => {}
        Some(true) => {
            let why =
                format!("{shown} is the namespace's own setting, but not on the list of safe ones");
            report.add("sysctl-unsafe", Low, at.at(), why, "remove it unless it is needed");
        }
        Some(false) => {
            let why = format!(
                "{shown} changes the host's setting: there is no namespace of its own for it"
            );
            report.add(
                "sysctl-host",
                High,
                at.at(),
                why,
                "add the namespace, or remove the setting",
            );
        }
        None => {
            let program = ["kernel.core_pattern", "kernel.modprobe", "kernel.hotplug"];
            let runs = program.contains(&dotted.as_str());
            let (severity, what) = if runs {
                (Critical, "names a program that the host runs as root")
            } else {
                (High, "is the host's setting")
            };
            report.add("sysctl-host", severity, at.at(), format!("{shown} {what}"), "remove it");
        }
    }
}
