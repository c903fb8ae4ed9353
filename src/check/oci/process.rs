//! `process`: user, capabilities, privileges, environment.

use super::Context;
use crate::check::finding::Severity::{self, Critical, High, Info, Low, Medium};
use crate::check::finding::{Report, quoted};
use crate::check::node::{Malformed, Node};
use crate::check::secrets;

/// Capabilities without `CAP_`, how bad they are on the host's kernel, and what they allow.
pub(in crate::check) const CAPABILITIES: &[(&str, Severity, &str)] = &[
    ("AUDIT_CONTROL", High, "turns the host's auditing off"),
    ("AUDIT_READ", Medium, "reads the host's audit log"),
    ("AUDIT_WRITE", Low, "writes into the host's audit log"),
    ("BLOCK_SUSPEND", Low, "keeps the host from sleeping"),
    ("BPF", High, "loads eBPF programs into the kernel"),
    ("CHECKPOINT_RESTORE", Medium, "chooses process ids and reads other processes' links"),
    ("CHOWN", Low, "gives files to any user"),
    ("DAC_OVERRIDE", Low, "ignores permission bits"),
    ("DAC_READ_SEARCH", High, "opens files by handle, those outside of the container too"),
    ("FOWNER", Low, "changes files of any owner"),
    ("FSETID", Low, "keeps set-user-ID bits"),
    ("IPC_LOCK", Low, "locks any amount of memory"),
    ("IPC_OWNER", Medium, "reads and writes all System V IPC objects"),
    ("KILL", Info, "signals processes of any user in the container"),
    ("LEASE", Low, "delays others' opening of files"),
    ("LINUX_IMMUTABLE", Medium, "makes files that nobody can remove"),
    ("MAC_ADMIN", High, "changes the rules of security modules"),
    ("MAC_OVERRIDE", High, "ignores the rules of security modules"),
    ("MKNOD", Medium, "makes device files"),
    (
        "NET_ADMIN",
        High,
        "configures network interfaces, filters and sockets; a large part of the kernel",
    ),
    ("NET_BIND_SERVICE", Info, "listens on ports below 1024"),
    ("NET_BROADCAST", Low, "sends broadcasts"),
    ("NET_RAW", Medium, "sends any packet, under any address: spoofing on the container network"),
    ("PERFMON", High, "watches the kernel and all processes"),
    ("SETFCAP", Low, "gives capabilities to files"),
    ("SETGID", Low, "becomes any group"),
    ("SETPCAP", Low, "changes its capability sets"),
    ("SETUID", Low, "becomes any user"),
    ("SYSLOG", Medium, "reads the kernel's log and addresses"),
    ("SYS_ADMIN", Critical, "mounts, namespaces, and most else that root may do: the host is open"),
    ("SYS_BOOT", High, "reboots the host and loads another kernel"),
    ("SYS_CHROOT", Low, "changes its root directory and joins mount namespaces"),
    ("SYS_MODULE", Critical, "loads kernel modules: the host is open"),
    ("SYS_NICE", Low, "takes CPU time from others"),
    ("SYS_PACCT", Low, "configures process accounting"),
    ("SYS_PTRACE", High, "reads and changes other processes"),
    ("SYS_RAWIO", Critical, "reads and writes I/O ports and physical memory: the host is open"),
    ("SYS_RESOURCE", Medium, "ignores quotas and resource limits"),
    ("SYS_TIME", High, "sets the host's clock"),
    ("SYS_TTY_CONFIG", Medium, "hangs up terminals and configures virtual ones"),
    ("WAKE_ALARM", Low, "wakes the host up"),
];

/// SELinux types under which everything is allowed.
pub(in crate::check) const UNCONFINED_TYPES: &[&str] =
    &["spc_t", "unconfined_t", "kernel_t", "init_t"];

/// Sets in the order of how much they matter. Of `bounding` alone, a program gets only what an
/// executable file gives it.
const SETS: &[&str] = &["effective", "permitted", "ambient", "inheritable", "bounding"];

pub(super) fn check(
    process: &Node<'_>,
    context: &Context,
    report: &mut Report,
) -> Result<(), Malformed> {
    if !process.exists() {
        return Ok(());
    }
    user(&process.get("user")?, context, report)?;
    capabilities(&process.get("capabilities")?, context, report)?;
    let privileges = process.get("noNewPrivileges")?;
    if privileges.flag()? != Some(true) {
        report.add(
            "no-new-privileges",
            High,
            privileges.at(),
            "set-user-ID programs and file capabilities raise privileges",
            "set it to true",
        );
    }
    labels(process, report)?;
    limits(process, report)?;
    environment(&process.get("env")?, report)?;
    let terminal = process.get("terminal")?;
    if terminal.flag()? == Some(true) {
        let why =
            "the program gets a terminal; what it prints can act on the caller's terminal emulator";
        report.add(
            "terminal",
            Info,
            terminal.at(),
            why,
            "set it to false for programs that nobody types at",
        );
    }
    Ok(())
}

fn user(user: &Node<'_>, context: &Context, report: &mut Report) -> Result<(), Malformed> {
    let uid = user.get("uid")?;
    if uid.integer()?.unwrap_or(0) == 0 {
        let (severity, why) = if context.user_namespace {
            (Low, "the program runs as root of its user namespace")
        } else {
            (High, "the program runs as root, and without a user namespace that is the host's root")
        };
        report.add("root-user", severity, uid.at(), why, "run it as a user of its own");
    } else {
        let gid = user.get("gid")?;
        if gid.integer()?.unwrap_or(0) == 0 {
            let why = "the program's group is root's, which many files on hosts can be read or written by";
            report.add("root-group", Low, gid.at(), why, "give it a group of its own");
        }
    }
    for group in user.get("additionalGids")?.list()? {
        if group.integer()? == Some(0) {
            let why = "root's group is among the program's supplementary groups";
            report.add("root-group", Low, group.at(), why, "remove it");
        }
    }
    Ok(())
}

fn capabilities(sets: &Node<'_>, context: &Context, report: &mut Report) -> Result<(), Malformed> {
    let mut seen: Vec<String> = Vec::new();
    for &set in SETS {
        let node = sets.get(set)?;
        let names = node.texts()?;
        if set == "ambient" && !names.is_empty() {
            let why = "ambient capabilities stay when any program is executed as any user";
            report.add("cap-ambient", Medium, node.at(), why, "make the set empty");
        }
        if set == "inheritable" && !names.is_empty() {
            let why = "inheritable capabilities are given to programs whose files ask for them (CVE-2022-24769)";
            report.add("cap-inheritable", Low, node.at(), why, "make the set empty");
        }
        for (name, at) in names {
            let upper = name.to_ascii_uppercase();
            let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
            if seen.iter().any(|other| other == short) {
                continue;
            }
            let known = CAPABILITIES.iter().find(|entry| entry.0 == short);
            let Some(&(known, severity, allows)) = known else {
                let why = format!("{} is no capability that is known", quoted(name));
                report.add("cap-unknown", Low, at.at(), why, "correct the name, or remove it");
                continue;
            };
            // Once each, by the set that gives most.
            seen.push(short.to_owned());
            let mut severity = severity;
            if context.user_namespace {
                severity = severity.lowered();
            }
            let how = match set {
                "bounding" | "inheritable" => {
                    severity = severity.lowered();
                    ", if a file gives it"
                }
                _ => "",
            };
            let why = format!("CAP_{known} {allows}{how}");
            report.add("capability", severity, at.at(), why, "drop it from all sets");
        }
    }
    Ok(())
}

fn labels(process: &Node<'_>, report: &mut Report) -> Result<(), Malformed> {
    let (apparmor, selinux) = (process.get("apparmorProfile")?, process.get("selinuxLabel")?);
    let (profile, label) = (apparmor.text_or_empty()?, selinux.text_or_empty()?);
    let open_label =
        UNCONFINED_TYPES.iter().any(|domain| label.split(':').any(|part| part == *domain));
    if profile == "unconfined" {
        let why = "AppArmor is switched off";
        report.add(
            "lsm-unconfined",
            Medium,
            apparmor.at(),
            why,
            "name a profile, such as the engine's default",
        );
    } else if open_label {
        let why = format!("{} is a label that SELinux confines nothing of", quoted(label));
        report.add(
            "lsm-unconfined",
            Medium,
            selinux.at(),
            why,
            "use a container's type, such as container_t",
        );
    } else if profile.is_empty() && label.is_empty() {
        let why = "neither an AppArmor profile nor an SELinux label: no security module confines the program";
        report.add("lsm-missing", Medium, apparmor.at(), why, "name a profile or a label");
    }
    Ok(())
}

fn limits(process: &Node<'_>, report: &mut Report) -> Result<(), Malformed> {
    let score = process.get("oomScoreAdj")?;
    match score.integer()? {
        Some(adj) if !(-1000..=1000).contains(&adj) => {
            return Err(score.malformed("must be from -1000 to 1000"));
        }
        Some(adj) if adj <= -500 => {
            let why = "when memory runs out, the host kills almost everything else first";
            report.add("oom-score", High, score.at(), why, "set it to 0 or more");
        }
        Some(adj) if adj < 0 => {
            let why = "when memory runs out, the host kills other processes before the program";
            report.add("oom-score", Low, score.at(), why, "set it to 0 or more");
        }
        _ => {}
    }
    for limit in process.get("rlimits")?.list()? {
        let kind = limit.get("type")?;
        let hard = limit.get("hard")?.integer()?.unwrap_or(0);
        let unlimited = hard >= i128::from(u64::MAX);
        match kind.text()? {
            None => return Err(kind.malformed("missing: which limit?")),
            Some("RLIMIT_CORE") if hard > 0 => {
                let why = "core dumps: the program's memory lands on disk, by whatever the host's core_pattern names";
                report.add("rlimit-core", Low, limit.at(), why, "set it to 0");
            }
            Some("RLIMIT_NPROC" | "RLIMIT_NOFILE" | "RLIMIT_MEMLOCK") if unlimited => {
                let why = format!("{} is unlimited", kind.text_or_empty()?);
                report.add("rlimit-unlimited", Low, limit.at(), why, "give it a number");
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn environment(env: &Node<'_>, report: &mut Report) -> Result<(), Malformed> {
    for (variable, at) in env.texts()? {
        if let Some(name) = secrets::in_variable(variable, false) {
            let why = format!(
                "{} looks like a secret, which all of the program's children inherit",
                quoted(name)
            );
            report.add(
                "env-secret",
                Low,
                at.at(),
                why,
                "hand secrets over in a file that only the program can read",
            );
        }
        let name = variable.split('=').next().unwrap_or_default();
        if matches!(name, "LD_PRELOAD" | "LD_LIBRARY_PATH" | "LD_AUDIT") {
            let why = format!("{name} makes every program load code from elsewhere");
            report.add("env-loader", Low, at.at(), why, "remove it unless it is needed");
        }
    }
    Ok(())
}
