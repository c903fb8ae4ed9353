//! What a program can read tells it nothing about which host it is on.

use std::collections::BTreeMap;
use std::fs;

use rsentry_tests::{Sandboxes, finish, on_every_platform, text};

/// What tells this host from others, as far as it has it; by what it is. Short texts, which may stand
/// anywhere by chance, are left out.
fn traits() -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut note = |what: &str, value: &str| {
        let value = value.trim();
        if value.len() > 5 {
            all.insert(what.to_owned(), value.as_bytes().to_vec());
        }
    };
    for path in [
        "/proc/sys/kernel/random/boot_id",
        "/etc/machine-id",
        "/sys/class/dmi/id/product_uuid",
        "/proc/sys/kernel/osrelease",
        "/proc/version",
        "/proc/cmdline",
        "/etc/hostname",
    ] {
        note(path, &fs::read_to_string(path).unwrap_or_default());
    }
    // The build: "#1 SMP PREEMPT_DYNAMIC" and the like say little.
    let build = fs::read_to_string("/proc/sys/kernel/version").unwrap_or_default();
    note("version", build.split("DYNAMIC").nth(1).unwrap_or_default());
    for line in fs::read_to_string("/proc/self/cgroup").unwrap_or_default().lines() {
        let path = line.splitn(3, ':').nth(2).unwrap_or_default();
        note("control group", path);
    }
    for line in fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines() {
        let source = line.split(" - ").nth(1).and_then(|rest| rest.split(' ').nth(1));
        if let Some(source) = source.filter(|source| source.starts_with("/dev/")) {
            note(&format!("source {source}"), source);
        }
    }
    all
}

fn nothing_tells_the_host(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let script = "uname -a; hostname; cat /etc/hosts /etc/fstab /etc/mtab; \
                  find /proc /sys -type f ! -name mem ! -name exe ! -name environ ! -name cmdline \
                  -exec head -q -c 8000 {} +; cat /proc/cmdline; df; ls -ld /proc/self/ns/*";
    for (who, mut command) in sandboxes.callers(&["run", "sh", "-c", script]) {
        command.env_remove("HOSTNAME");
        let output = finish(command);
        let seen = output.stdout;
        assert!(seen.len() > 10_000, "{who}: {}", text(&output.stderr));
        for (what, value) in traits() {
            let found = seen.windows(value.len()).any(|part| part == value);
            assert!(!found, "{who}: {what} is told: {}", String::from_utf8_lossy(&value));
        }
    }
    sandboxes.assert_nothing_left();
}

/// `/etc/hosts` is about the sandbox, with names that resolve.
fn hosts_are_the_sandboxs(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let arguments = ["run", "--hostname", "the-box", "cat", "/etc/hosts"];
    let hosts = text(&sandboxes.run(&arguments).stdout);
    assert!(hosts.contains("127.0.0.1\tlocalhost\n"), "{hosts}");
    assert!(hosts.contains("127.0.1.1\tthe-box\n") && hosts.lines().count() == 3, "{hosts}");
    // The rest of the directory is there still.
    let release = sandboxes.run(&["run", "sh", "-c", "uname -r; cat /proc/sys/kernel/osrelease"]);
    let lines = text(&release.stdout);
    let mut lines = lines.lines();
    assert_eq!(lines.next(), lines.next());
    let passwd = sandboxes.run(&["run", "cat", "/etc/passwd"]);
    assert_eq!(text(&passwd.stdout), fs::read_to_string("/etc/passwd").unwrap());
}

on_every_platform!(nothing_tells_the_host, hosts_are_the_sandboxs);
