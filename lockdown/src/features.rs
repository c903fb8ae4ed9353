//! What the host has of what the layers are made of, as far as one can tell without using it.

use std::fs;

/// Names and what there is, for people and programs.
pub fn host_features() -> Vec<(&'static str, String)> {
    let read = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned());
    let exists = |path: &str| fs::exists(path).unwrap_or(false);
    let landlock = match crate::landlock::host_level() {
        0 => "none".to_owned(),
        level => format!("ABI {level}"),
    };
    vec![
        ("kernel", read("/proc/sys/kernel/osrelease").unwrap_or_default()),
        ("user namespaces", read("/proc/sys/user/max_user_namespaces").unwrap_or("none".into())),
        ("time namespaces", if exists("/proc/self/ns/time") { "yes" } else { "none" }.to_owned()),
        (
            "seccomp",
            read("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_else(|_| "unknown".into()),
        ),
        ("landlock", landlock),
        ("cgroups", crate::cgroup::Host::look().describe()),
        ("lsm", read("/sys/kernel/security/lsm").unwrap_or_else(|_| "unknown".into())),
    ]
}
