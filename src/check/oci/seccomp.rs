//! `linux.seccomp`: which system calls are let through.

use crate::check::finding::Severity::{self, Critical, High, Info, Low, Medium};
use crate::check::finding::{Report, quoted};
use crate::check::node::{Malformed, Node};

/// Calls that containers seldom need, how bad it is to allow them, and what they are.
const DANGEROUS: &[(&str, Severity, &str)] = &[
    ("acct", Medium, "process accounting of the host"),
    ("add_key", Medium, "the kernel's keyrings, which are not namespaced"),
    ("bpf", High, "loads programs into the kernel"),
    ("clock_settime", Medium, "sets the host's clock"),
    ("create_module", Critical, "loads kernel modules"),
    ("delete_module", High, "removes kernel modules"),
    ("finit_module", Critical, "loads kernel modules"),
    ("fsconfig", High, "mounts"),
    ("fsmount", High, "mounts"),
    ("fsopen", High, "mounts"),
    ("init_module", Critical, "loads kernel modules"),
    ("io_uring_enter", Medium, "runs calls past seccomp; source of many kernel bugs"),
    ("io_uring_register", Medium, "runs calls past seccomp; source of many kernel bugs"),
    ("io_uring_setup", Medium, "runs calls past seccomp; source of many kernel bugs"),
    ("ioperm", High, "I/O ports"),
    ("iopl", High, "I/O ports"),
    ("kcmp", Low, "compares what processes share"),
    ("kexec_file_load", Critical, "loads another kernel"),
    ("kexec_load", Critical, "loads another kernel"),
    ("keyctl", Medium, "the kernel's keyrings, which are not namespaced"),
    ("lookup_dcookie", Medium, "names of files by the profiler's cookies"),
    ("mbind", Info, "placement of memory"),
    ("mount", High, "mounts"),
    ("mount_setattr", High, "changes the flags of mounts"),
    ("move_mount", High, "mounts"),
    ("move_pages", Low, "placement of other processes' memory"),
    ("name_to_handle_at", Low, "handles of files, for open_by_handle_at"),
    ("nfsservctl", Medium, "the kernel's NFS server"),
    ("open_by_handle_at", High, "opens files outside of the container"),
    ("open_tree", Medium, "copies mounts"),
    ("perf_event_open", High, "watches the kernel; source of many kernel bugs"),
    ("pidfd_getfd", Medium, "takes other processes' open files"),
    ("pivot_root", High, "changes the root of the mount namespace"),
    ("process_vm_readv", Low, "reads other processes' memory"),
    ("process_vm_writev", Low, "writes other processes' memory"),
    ("ptrace", Low, "traces other processes"),
    ("quotactl", Medium, "disk quotas of the host"),
    ("reboot", High, "reboots"),
    ("request_key", Medium, "the kernel's keyrings, which are not namespaced"),
    ("setns", High, "joins other namespaces"),
    ("settimeofday", Medium, "sets the host's clock"),
    ("stime", Medium, "sets the host's clock"),
    ("swapoff", High, "the host's swap"),
    ("swapon", High, "the host's swap"),
    ("syslog", Low, "the kernel's log"),
    ("umount", High, "unmounts what hides things"),
    ("umount2", High, "unmounts what hides things"),
    ("unshare", Medium, "makes namespaces, in which much more of the kernel can be reached"),
    ("uselib", Low, "an obsolete loader"),
    ("userfaultfd", Medium, "stops the kernel in the middle of copies; helps to exploit its bugs"),
    ("vhangup", Low, "hangs up terminals"),
    ("vm86", Low, "16-bit code"),
    ("vm86old", Low, "16-bit code"),
];

const ACTIONS: &[&str] = &[
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
];

/// Actions by which a call is made.
fn lets_through(action: &str) -> bool {
    matches!(action, "SCMP_ACT_ALLOW" | "SCMP_ACT_LOG")
}

fn action<'a>(node: &Node<'a>) -> Result<&'a str, Malformed> {
    match node.text()? {
        Some(action) if ACTIONS.contains(&action) => Ok(action),
        Some(other) => Err(node.malformed(format!("{} is not an action", quoted(other)))),
        None => Err(node.malformed("missing: which action?")),
    }
}

pub(super) fn check(seccomp: &Node<'_>, report: &mut Report) -> Result<(), Malformed> {
    if !seccomp.exists() {
        let why = "no seccomp profile: all of the kernel's system calls can be attacked";
        report.add(
            "seccomp-missing",
            High,
            seccomp.at(),
            why,
            "use an allow-list, such as docker's default profile",
        );
        return Ok(());
    }
    let default = seccomp.get("defaultAction")?;
    if lets_through(action(&default)?) {
        let why = "calls that the profile does not name are allowed, those of future kernels too";
        report.add(
            "seccomp-default-allow",
            High,
            default.at(),
            why,
            "use SCMP_ACT_ERRNO, and list what is allowed",
        );
    }
    for (name, at) in seccomp.get("flags")?.texts()? {
        if name == "SECCOMP_FILTER_FLAG_SPEC_ALLOW" {
            let why = "switches the mitigation of speculative store bypass off";
            report.add("seccomp-spec-allow", Low, at.at(), why, "remove it");
        }
    }
    let listener = seccomp.get("listenerPath")?;
    if !listener.text_or_empty()?.is_empty() {
        let why = format!(
            "what listens at {} decides about calls, and can be confused by their changing arguments",
            quoted(listener.text_or_empty()?)
        );
        report.add(
            "seccomp-listener",
            Low,
            listener.at(),
            why,
            "make sure that it only ever denies, or makes the call itself",
        );
    }
    rules(&seccomp.get("syscalls")?, report)
}

fn rules(list: &Node<'_>, report: &mut Report) -> Result<(), Malformed> {
    let mut seen = Vec::new();
    for rule in list.list()? {
        let action = action(&rule.get("action")?)?;
        let arguments = !rule.get("args")?.list()?.is_empty();
        let names = rule.get("names")?;
        if names.list()?.is_empty() {
            return Err(names.malformed("missing: which calls?"));
        }
        for (name, at) in names.texts()? {
            let Some(&(name, severity, what)) = DANGEROUS.iter().find(|entry| entry.0 == name)
            else {
                continue;
            };
            if seen.contains(&name) {
                continue;
            }
            let (severity, how) = match action {
                action if lets_through(action) && arguments => {
                    (severity.lowered(), "is allowed for some arguments")
                }
                action if lets_through(action) => (severity, "is allowed"),
                "SCMP_ACT_TRACE" | "SCMP_ACT_NOTIFY" => {
                    (severity.lowered(), "is left to another process")
                }
                _ => continue,
            };
            seen.push(name);
            let why = format!("{name} {how}: {what}");
            report.add(
                "seccomp-call",
                severity,
                at.at(),
                why,
                "take it off the list unless the program needs it",
            );
        }
    }
    Ok(())
}
