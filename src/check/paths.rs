//! How much a path of the host gives away.

use super::finding::Severity::{self, Critical, High, Info, Low, Medium};

/// What a mounted host path means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sensitivity {
    /// What is there.
    pub(super) what: &'static str,
    /// How bad it is to show it, and to let it be written.
    pub(super) read_only: Severity,
    pub(super) writable: Severity,
}

/// Pattern (`*` is one component, and a final `$` means not what is below), what it is, how bad it
/// is when only shown and when writable.
const TABLE: &[(&str, &str, Severity, Severity)] = &[
    ("/$", "the whole host", Critical, Critical),
    ("/bin", "the host's programs", Low, Critical),
    ("/sbin", "the host's programs", Low, Critical),
    ("/lib", "the host's libraries", Low, Critical),
    ("/lib64", "the host's libraries", Low, Critical),
    ("/usr", "the host's programs and libraries", Low, Critical),
    ("/lib/modules", "the host's kernel modules", Low, Critical),
    ("/boot", "the host's kernel and boot loader", Low, Critical),
    ("/etc", "the host's configuration", Medium, Critical),
    ("/etc/hosts", "a configuration file without secrets", Info, Medium),
    ("/etc/resolv.conf", "a configuration file without secrets", Info, Medium),
    ("/etc/localtime", "a configuration file without secrets", Info, Medium),
    ("/etc/ssl/certs", "public certificates", Info, High),
    ("/etc/shadow", "password hashes", High, Critical),
    ("/etc/gshadow", "password hashes", High, Critical),
    ("/etc/ssh", "the host's ssh keys", High, Critical),
    ("/etc/ssl/private", "private keys", High, Critical),
    ("/etc/kubernetes", "the cluster's credentials", Critical, Critical),
    ("/etc/rancher", "the cluster's credentials", Critical, Critical),
    (
        "/dev",
        "the host's devices, whose files can be written through a read-only mount",
        Critical,
        Critical,
    ),
    ("/dev/null", "a harmless device", Info, Info),
    ("/dev/zero", "a harmless device", Info, Info),
    ("/dev/random", "a harmless device", Info, Info),
    ("/dev/urandom", "a harmless device", Info, Info),
    ("/dev/shm", "memory that host processes share", Medium, High),
    ("/dev/net/tun", "the device that makes network interfaces", Medium, Medium),
    ("/dev/fuse", "the device that serves file systems", Low, Low),
    ("/dev/kvm", "virtual machines of the host's kernel", Medium, Medium),
    ("/dev/dri", "graphics devices, whose drivers are large", Medium, Medium),
    ("/proc", "the host's processes and kernel settings", High, Critical),
    (
        "/proc/sys/kernel",
        "kernel settings that name programs the host runs as root",
        Medium,
        Critical,
    ),
    ("/proc/sysrq-trigger", "reboots and crashes the host", Low, Critical),
    ("/proc/kcore", "the host's memory", Critical, Critical),
    ("/sys", "the host's devices and kernel settings", Medium, Critical),
    ("/sys/fs/cgroup", "the host's cgroups", Low, High),
    ("/sys/kernel/debug", "the kernel's debugging interfaces", High, Critical),
    ("/sys/kernel/tracing", "the kernel's tracing interfaces", High, Critical),
    ("/sys/fs/bpf", "the host's eBPF programs", Medium, Critical),
    ("/sys/kernel/security", "the settings of security modules", Low, Critical),
    ("/run$", "the sockets of the host's services", High, Critical),
    ("/run", "a service's socket or state", Medium, High),
    (
        "/run/docker.sock",
        "the docker daemon: a container with all rights is one request away",
        Critical,
        Critical,
    ),
    ("/run/docker", "the docker daemon's state", High, Critical),
    (
        "/run/containerd",
        "containerd: a container with all rights is one request away",
        Critical,
        Critical,
    ),
    ("/run/k3s", "containerd: a container with all rights is one request away", Critical, Critical),
    ("/run/crio", "CRI-O: a container with all rights is one request away", Critical, Critical),
    (
        "/run/cri-dockerd.sock",
        "the docker daemon: a container with all rights is one request away",
        Critical,
        Critical,
    ),
    ("/run/podman", "podman: a container with all rights is one request away", Critical, Critical),
    ("/run/user/*/podman", "podman: the user's rights are one request away", Critical, Critical),
    (
        "/run/user/*/docker.sock",
        "docker: the user's rights are one request away",
        Critical,
        Critical,
    ),
    ("/run/user", "a user's session: buses, keyrings, agents", High, High),
    ("/run/systemd", "systemd, which starts programs as root", High, Critical),
    ("/run/systemd/resolve", "resolver configuration", Info, Medium),
    ("/run/dbus", "the system bus, by which services act as root", High, High),
    ("/run/secrets", "secrets of services", High, High),
    ("/run/lock", "lock files", Info, Low),
    ("/run/netns", "names of network namespaces", Low, High),
    ("/var$", "the state of the host's services", High, Critical),
    ("/var/lib$", "the state of the host's services", High, Critical),
    ("/var/lib", "a service's state", Low, Medium),
    ("/var/lib/docker", "all of docker's images and containers", High, Critical),
    ("/var/lib/docker/volumes/*/_data", "a docker volume", Info, Low),
    ("/var/lib/docker/containers/*/hosts", "the container's own file", Info, Info),
    ("/var/lib/docker/containers/*/hostname", "the container's own file", Info, Info),
    ("/var/lib/docker/containers/*/resolv.conf", "the container's own file", Info, Info),
    ("/var/lib/docker/containers/*/mounts", "the container's own directory", Info, Info),
    ("/var/lib/containerd", "all of containerd's images and containers", High, Critical),
    ("/var/lib/containers", "all of podman's images and containers", High, Critical),
    ("/var/lib/containers/storage/volumes/*/_data", "a podman volume", Info, Low),
    ("/var/lib/kubelet", "the kubelet's credentials and all pods' secrets", Critical, Critical),
    ("/var/lib/kubelet/pods/*/volumes", "a pod's volume", Info, Low),
    ("/var/lib/kubelet/pods/*/etc-hosts", "the pod's own file", Info, Low),
    ("/var/lib/kubelet/pods/*/containers", "the container's own file", Info, Low),
    ("/var/lib/etcd", "the cluster's database", Critical, Critical),
    ("/var/log", "the host's logs", Low, Medium),
    ("/var/spool/cron", "programs that the host runs as any user", Low, Critical),
    ("/tmp$", "files and sockets of other users' programs", Medium, High),
    ("/var/tmp$", "files and sockets of other users' programs", Medium, Medium),
    ("/home$", "all users' files", High, Critical),
    ("/home/*$", "a user's files, start-up files and keys included", High, High),
    ("/root", "root's files", Medium, High),
    ("/root$", "root's files, start-up files and keys included", High, Critical),
    ("/home/*/.ssh", "ssh keys", Critical, Critical),
    ("/home/*/.gnupg", "private keys", High, High),
    ("/home/*/.aws", "cloud credentials", High, High),
    ("/home/*/.azure", "cloud credentials", High, High),
    ("/home/*/.config/gcloud", "cloud credentials", High, High),
    ("/home/*/.kube", "a cluster's credentials", High, High),
    ("/home/*/.docker", "registry credentials", High, High),
    ("/home/*/.netrc", "passwords", High, High),
    ("/root/.ssh", "ssh keys", Critical, Critical),
    ("/root/.gnupg", "private keys", High, High),
    ("/root/.aws", "cloud credentials", High, High),
    ("/root/.kube", "a cluster's credentials", High, High),
    ("/root/.docker", "registry credentials", High, High),
];

/// What is not in the table: somebody's files.
const OTHER: Sensitivity =
    Sensitivity { what: "files of the host", read_only: Info, writable: Low };

/// Judges an absolute host path as the kernel would resolve it without links, `/var/run` being
/// `/run`. A directory counts as much as the worst of what lies in it.
pub(super) fn sensitivity(path: &str) -> Sensitivity {
    let components = normalized(path);
    let mut at_or_above: Option<((usize, usize, bool), Sensitivity)> = None;
    let mut below: Option<Sensitivity> = None;
    for &(pattern, what, read_only, writable) in TABLE {
        let (pattern, exact) =
            pattern.strip_suffix('$').map_or((pattern, false), |pattern| (pattern, true));
        let wanted: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty()).collect();
        let common = wanted.iter().zip(&components);
        if !common.clone().all(|(want, have)| *want == "*" || want == have) {
            continue;
        }
        let found = Sensitivity { what, read_only, writable };
        if wanted.len() > components.len() {
            // With `*`, only the likes of a home directory are meant, not whatever is not there.
            if below.is_none_or(|worst| (worst.writable, worst.read_only) < (writable, read_only)) {
                below = Some(found);
            }
        } else if !exact || wanted.len() == components.len() {
            let literal = common.filter(|(want, _)| **want != "*").count();
            let rank = (wanted.len(), literal, exact);
            if at_or_above.is_none_or(|(best, _)| best < rank) {
                at_or_above = Some((rank, found));
            }
        }
    }
    let own = at_or_above.map_or(OTHER, |(_, found)| found);
    match below {
        Some(inner) => Sensitivity {
            what: if inner.writable > own.writable { inner.what } else { own.what },
            read_only: own.read_only.max(inner.read_only),
            writable: own.writable.max(inner.writable),
        },
        None => own,
    }
}

/// Components without `.`, `..` and empty ones.
pub(super) fn normalized(path: &str) -> Vec<&str> {
    let mut components = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(components.pop()),
            part => components.push(part),
        }
    }
    if components.starts_with(&["var", "run"]) {
        components.remove(0);
    }
    components
}

/// Whether `path` is `above`, or below it.
pub(super) fn within(path: &str, above: &str) -> bool {
    normalized(path).starts_with(&normalized(above))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_what_they_lead_to() {
        for (path, read_only, writable) in [
            ("/", Critical, Critical),
            ("//etc/../", Critical, Critical),
            ("/etc", High.max(Critical), Critical), // It holds the cluster's credentials.
            ("/etc/nginx", Medium, Critical),
            ("/etc/hosts", Info, Medium),
            ("/var/run/docker.sock", Critical, Critical),
            ("/run/../var//run/./docker.sock", Critical, Critical),
            ("/var/run", Critical, Critical),
            ("/home/me/.ssh/id_ed25519", Critical, Critical),
            ("/home/me/src", Info, Low),
            ("/home/me", Critical, Critical),
            ("/srv/data", Info, Low),
            ("/dev/null", Info, Info),
            ("/dev/sda", Critical, Critical),
            ("/var/lib/docker/volumes/x/_data", Info, Low),
            ("/usr/share/zoneinfo", Low, Critical),
        ] {
            let found = sensitivity(path);
            assert_eq!((found.read_only, found.writable), (read_only, writable), "{path}");
        }
    }

    #[test]
    fn every_pattern_finds_itself() {
        for &(pattern, what, ..) in TABLE {
            let path = pattern.trim_end_matches('$').replace('*', "x");
            let found = sensitivity(&path);
            let listed = TABLE.iter().find(|entry| entry.1 == what).unwrap();
            assert!(found.writable >= listed.3 || found.what == what, "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn a_directory_is_no_better_than_a_table_entry_in_it(index in 0..TABLE.len(), up in 1usize..4) {
            let (pattern, _, read_only, writable) = TABLE[index];
            let path = pattern.trim_end_matches('$').replace('*', "x");
            let parts = normalized(&path);
            let above = format!("/{}", parts[..parts.len().saturating_sub(up)].join("/"));
            let found = sensitivity(&above);
            prop_assert!(found.read_only >= read_only && found.writable >= writable, "{}", above);
        }

        #[test]
        fn any_text_is_a_path(path in ".*") {
            sensitivity(&path);
        }
    }
}
