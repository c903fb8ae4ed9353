//! Whole files: what runc and docker make, broken ones, random ones.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const RUNC: &str = include_str!("testdata/runc.json");
const DOCKER: &str = include_str!("testdata/docker.json");
const PRIVILEGED: &str = include_str!("testdata/docker-privileged.json");

fn check(text: &str) -> Report {
    oci::check(&serde_json::from_str(text).unwrap()).unwrap()
}

/// Severity, id and place of each.
fn lines(report: &Report) -> String {
    let findings = report.findings().iter();
    findings.map(|f| format!("{} {} {}\n", f.severity.name(), f.id, f.at)).collect()
}

#[test]
fn golden_reports() {
    for (text, golden) in [
        (RUNC, include_str!("testdata/runc.findings")),
        (DOCKER, include_str!("testdata/docker.findings")),
        (PRIVILEGED, include_str!("testdata/docker-privileged.findings")),
    ] {
        let found = lines(&check(text));
        assert_eq!(found, golden, "\n{found}");
    }
}

/// What a policy file is found to be.
fn policy(text: &str) -> String {
    crate::settings::Settings::from_text(text).unwrap();
    lines(&policy::check(&toml::from_str(text).unwrap()).unwrap())
}

#[test]
fn golden_policies() {
    let strict = "profile = 'strict'\nuser = 1000\naudit = 'syslog'\naudit-required = true\n\
                  seccomp = '/etc/rsentry/seccomp.json'\ncgroup = 'auto'\n";
    assert_eq!(policy(strict), "");
    let loose = "profile = 'permissive'\nroot = '/'\nrw = ['/home:/h', 'work', '/srv/log']\n\
                 ro = ['/var/run/docker.sock', '/srv']\nuser = '0:0'\nenv = ['API_TOKEN', 'A=b']\n\
                 memory = '1G'\npids = 'none'\naudit = '/srv/log/audit'\n";
    let expected = "critical mount-host-path /ro/0\ncritical mount-host-path /rw/0\n\
                    high root-host /root\nhigh audit-writable /audit\n\
                    medium profile-permissive /profile\nlow mount-relative-path /rw/1\n\
                    low mount-host-path /rw/2\nlow root-user /user\nlow env-secret /env/0\n\
                    low limit-pids /pids\nlow limit-cpu /cpus\nlow limit-output /output-limit\n\
                    info mount-host-path /ro/1\ninfo cap-default /cap-drop\n\
                    info seccomp-missing /seccomp\ninfo limit-wall /wall\n\
                    info cgroup-missing /cgroup\ninfo limit-io /io-max\ninfo audit-optional /audit\n";
    assert_eq!(policy(loose), expected);
    let rights = "profile = 'strict'\nuser = 1000\naudit = 'syslog'\naudit-required = true\n\
                  cap-add = ['SYS_ADMIN', 'cap_kill', 'ALL']\ncap-drop = ['CAP_MAGIC']\n\
                  cap-ambient = ['KILL']\nseccomp = 'a.json'\ncgroup = 'none'\n\
                  apparmor = 'unconfined'\nselinux-label = 'u:r:spc_t:s0'\n";
    let expected = "low capability /cap-add/0\nlow capability /cap-add/2\nlow cap-unknown /cap-drop/0\n\
                    low seccomp-relative-path /seccomp\nlow cgroup-missing /cgroup\n\
                    low lsm-unconfined /apparmor\nlow lsm-unconfined /selinux-label\n\
                    info capability /cap-add/1\ninfo cap-ambient /cap-ambient/0\n";
    assert_eq!(policy(rights), expected);
    let open = "profile = 'strict'\nuser = 1000\naudit = 'syslog'\naudit-required = true\n\
                rw = ['/srv/x:/x']\nseccomp = '/srv/x/s.json'\nio-weight = 5\n\
                io-max = ['8:0 rbps=1']\n";
    let found = policy(open);
    assert!(found.contains("high seccomp-writable /seccomp\n"), "{found}");
    assert!(!found.contains("cgroup") && !found.contains("limit-io"), "{found}");
    let docs = include_str!("../../docs/audit.md");
    let all = [policy(loose), policy(""), policy(rights), policy(open)].concat();
    for line in all.lines() {
        let id = line.split(' ').nth(1).unwrap();
        assert!(docs.contains(&format!("`{id}`")), "{id}");
    }
}

#[test]
fn the_documentation_lists_the_findings() {
    let docs = include_str!("../../docs/audit.md");
    for text in [RUNC, DOCKER, PRIVILEGED] {
        for finding in check(text).findings() {
            assert!(docs.contains(&format!("`{}`", finding.id)), "{}", finding.id);
        }
    }
}

/// A configuration with nothing to say about.
fn strict() -> Value {
    let mut value: Value = serde_json::from_str(RUNC).unwrap();
    let none: [&str; 0] = [];
    let process = &mut value["process"];
    process["user"] = json!({"uid": 1000, "gid": 1000});
    process["terminal"] = json!(false);
    process["capabilities"] = json!({"bounding": none, "effective": none});
    process["apparmorProfile"] = json!("docker-default");
    let linux = &mut value["linux"];
    linux["resources"]["memory"] = json!({"limit": 1 << 26, "swap": 1 << 26});
    linux["resources"]["pids"] = json!({"limit": 64});
    linux["resources"]["cpu"] = json!({"quota": 50000, "period": 100_000});
    let namespaces = linux["namespaces"].as_array_mut().unwrap();
    namespaces.extend([json!({"type": "user"}), json!({"type": "cgroup"})]);
    linux["uidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    linux["gidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    linux["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{"names": ["read", "write", "exit"], "action": "SCMP_ACT_ALLOW"}],
    });
    value
}

#[test]
fn a_strict_configuration_has_no_findings() {
    let report = oci::check(&strict()).unwrap();
    assert_eq!(lines(&report), "");
    assert_eq!(report.worst(), None);
}

/// What is changed in the strict configuration, and what is found then.
#[test]
fn every_weakness_is_found_where_it_is() {
    let cases: &[(&str, Value, &str)] = &[
        (
            "/process/noNewPrivileges",
            json!(false),
            "high no-new-privileges /process/noNewPrivileges",
        ),
        ("/process/user/uid", json!(0), "low root-user /process/user/uid"),
        (
            "/process/capabilities/effective",
            json!(["CAP_SYS_ADMIN"]),
            "high capability /process/capabilities/effective/0",
        ),
        (
            "/process/capabilities/bounding",
            json!(["sys_admin"]),
            "medium capability /process/capabilities/bounding/0",
        ),
        (
            "/process/capabilities/effective",
            json!(["CAP_NOPE"]),
            "low cap-unknown /process/capabilities/effective/0",
        ),
        (
            "/process/apparmorProfile",
            json!("unconfined"),
            "medium lsm-unconfined /process/apparmorProfile",
        ),
        ("/process/apparmorProfile", json!(""), "medium lsm-missing /process/apparmorProfile"),
        ("/process/env", json!(["DB_PASSWORD=x"]), "low env-secret /process/env/0"),
        ("/root/readonly", json!(false), "medium root-writable /root/readonly"),
        ("/root/path", json!("/tmp/.."), "critical root-host /root/path"),
        (
            "/linux/namespaces/1",
            json!({"type": "network", "path": "/proc/1/ns/net"}),
            "high namespace-host /linux/namespaces/1/path",
        ),
        (
            "/linux/namespaces/1",
            json!({"type": "network", "path": "/run/netns/x"}),
            "info namespace-joined /linux/namespaces/1/path",
        ),
        ("/linux/namespaces/1", json!({"type": "pid"}), "high namespace-missing /linux/namespaces"),
        ("/linux/uidMappings/0/hostID", json!(0), "high id-map-root /linux/uidMappings/0"),
        ("/linux/maskedPaths/2", json!("/proc/nope"), "high path-unmasked /linux/maskedPaths"),
        ("/linux/readonlyPaths/3", json!("/proc/nope"), "high path-writable /linux/readonlyPaths"),
        (
            "/linux/resources/memory/limit",
            json!(-1),
            "medium limit-memory /linux/resources/memory/limit",
        ),
        ("/linux/resources/memory/swap", json!(-1), "low limit-swap /linux/resources/memory/swap"),
        ("/linux/resources/pids/limit", json!(0), "medium limit-pids /linux/resources/pids/limit"),
        ("/linux/resources/cpu/quota", json!(-1), "low limit-cpu /linux/resources/cpu/quota"),
        (
            "/linux/resources/devices/0",
            json!({"allow": true, "access": "rwm"}),
            "critical device-rules-all /linux/resources/devices/0",
        ),
        (
            "/linux/resources/devices/0",
            json!({"allow": false, "access": "w"}),
            "low device-rules-open /linux/resources/devices",
        ),
        (
            "/linux/seccomp/defaultAction",
            json!("SCMP_ACT_ALLOW"),
            "high seccomp-default-allow /linux/seccomp/defaultAction",
        ),
        (
            "/linux/seccomp/syscalls/0/names/1",
            json!("init_module"),
            "critical seccomp-call /linux/seccomp/syscalls/0/names/1",
        ),
        ("/linux/seccomp", Value::Null, "high seccomp-missing /linux/seccomp"),
        (
            "/mounts/5/options",
            json!(["nosuid", "nodev", "noexec"]),
            "high mount-kernel-writable /mounts/5",
        ),
        (
            "/mounts/5",
            json!({"destination": "/s", "type": "bind", "source": "/var/run/docker.sock", "options": ["ro", "nosuid", "nodev"]}),
            "critical mount-host-path /mounts/5",
        ),
        (
            "/mounts/5",
            json!({"destination": "/s", "source": "/srv", "options": ["rbind", "rshared", "ro", "nosuid", "nodev"]}),
            "high mount-shared /mounts/5",
        ),
        ("/mounts/3/options", json!(["nosuid", "noexec", "size=1"]), ""),
        ("/mounts/3/options", json!(["nodev", "noexec", "size=1"]), "low mount-suid /mounts/3"),
    ];
    for (pointer, change, expected) in cases {
        let mut value = strict();
        *value.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = change.clone();
        let found = lines(&oci::check(&value).unwrap());
        let there = found.lines().any(|line| line == *expected);
        assert!(there || (expected.is_empty() && found.is_empty()), "{pointer}: {found}");
    }
    for (key, change, expected) in [
        (
            "hooks",
            json!({"poststop": [{"path": "/tmp/x"}]}),
            "critical hook-replaceable /hooks/poststop/0/path",
        ),
        ("hooks", json!({"prestart": [{"path": "/usr/bin/x"}]}), "low hook /hooks/prestart/0/path"),
    ] {
        let mut value = strict();
        value[key] = change;
        let found = lines(&oci::check(&value).unwrap());
        assert_eq!(found.trim_end(), expected);
    }
    for (key, change, expected) in [
        (
            "sysctl",
            json!({"kernel.core_pattern": "|/x"}),
            "critical sysctl-host /linux/sysctl/kernel.core_pattern",
        ),
        (
            "sysctl",
            json!({"net.ipv4.ip_forward": "1"}),
            "low sysctl-unsafe /linux/sysctl/net.ipv4.ip_forward",
        ),
        ("sysctl", json!({"net.ipv4.tcp_syncookies": "1"}), ""),
        ("rootfsPropagation", json!("rshared"), "high rootfs-propagation /linux/rootfsPropagation"),
        (
            "devices",
            json!([{"path": "/dev/mem", "type": "c", "major": 1, "minor": 1}]),
            "critical device /linux/devices/0",
        ),
        (
            "devices",
            json!([{"path": "/dev/sda", "type": "b", "major": 8, "minor": 0}]),
            "critical device /linux/devices/0",
        ),
        ("devices", json!([{"path": "/dev/null", "type": "c", "major": 1, "minor": 3}]), ""),
    ] {
        let mut value = strict();
        value["linux"][key] = change;
        let found = lines(&oci::check(&value).unwrap());
        assert_eq!(found.trim_end(), expected);
    }
    let mut value = strict();
    value["process"]["oomScoreAdj"] = json!(-999);
    assert_eq!(lines(&oci::check(&value).unwrap()), "high oom-score /process/oomScoreAdj\n");
}

#[test]
fn what_is_malformed_is_named() {
    for (pointer, change, expected) in [
        ("/ociVersion", Value::Null, "ociVersion"),
        ("/process", json!([]), "'/process'"),
        ("/process/user/uid", json!("root"), "/process/user/uid"),
        ("/process/noNewPrivileges", json!("yes"), "/process/noNewPrivileges"),
        ("/process/capabilities/effective", json!([1]), "/process/capabilities/effective/0"),
        ("/mounts", json!({}), "/mounts"),
        ("/mounts/0/destination", Value::Null, "/mounts/0/destination"),
        ("/linux/namespaces/0/type", json!("pidd"), "'pidd'"),
        ("/linux/seccomp/defaultAction", json!("ALLOW"), "/linux/seccomp/defaultAction"),
        ("/linux/uidMappings/0/size", json!(-1), "/linux/uidMappings/0/size"),
        ("/linux/resources/devices/0/allow", json!(0), "/linux/resources/devices/0/allow"),
    ] {
        let mut value = strict();
        *value.pointer_mut(pointer).unwrap() = change;
        let error = oci::check(&value).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn nothing_of_the_file_reaches_the_terminal_unescaped() {
    let mut value = strict();
    let evil = "/dev/\u{1b}[2J\u{202e}\n".to_owned() + &"x".repeat(10_000);
    value["mounts"][0]["type"] = json!("bind");
    value["mounts"][0]["source"] = json!(evil);
    value["linux"]["sysctl"] = json!({evil: "1"});
    let report = oci::check(&value).unwrap();
    let text = report.text("\u{1b}c");
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()) && !text.contains('\u{202e}'));
    let mut value = strict();
    value["linux"]["namespaces"][0]["type"] = json!("\u{1b}[2J");
    let error = oci::check(&value).unwrap_err().to_string();
    assert!(!error.contains('\u{1b}'), "{error}");
}

#[test]
fn reports_are_bounded_and_still_know_the_worst() {
    let mut value = strict();
    let mut env: Vec<String> = (0..5000).map(|i| format!("TOKEN{i}=x")).collect();
    env.push("x".into());
    value["process"]["env"] = json!(env);
    value["linux"]["rootfsPropagation"] = json!("shared");
    let report = oci::check(&value).unwrap();
    assert_eq!(report.findings().len(), 1000);
    assert_eq!(report.worst(), Some(Severity::High));
    assert!(report.text("x").contains("4001 more"));
    let json: Value = serde_json::from_str(&report.json("x")).unwrap();
    assert_eq!(json["left_out"], 4001);
    assert_eq!(json["counts"]["low"], 5000);
}

/// Any JSON of a few levels.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(|n| json!(n)),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(".{0,8}", inner, 0..5).prop_map(|map| json!(map)),
        ]
    })
}

/// All places of a value.
fn places(value: &Value, at: String, all: &mut Vec<String>) {
    match value {
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, v)| places(v, format!("{at}/{i}"), all));
        }
        Value::Object(map) => map.iter().for_each(|(key, v)| {
            let key = key.replace('~', "~0").replace('/', "~1");
            places(v, format!("{at}/{key}"), all);
        }),
        _ => {}
    }
    all.push(at);
}

proptest! {
    /// Whatever stands anywhere in a sensible file: a report or an error, and every finding names
    /// a place, or where something should be.
    #[test]
    fn anything_anywhere(index in any::<prop::sample::Index>(), docker: bool, junk in any_json()) {
        let mut value: Value = serde_json::from_str(if docker { DOCKER } else { RUNC }).unwrap();
        let mut all = Vec::new();
        places(&value, String::new(), &mut all);
        let place = index.get(&all);
        *value.pointer_mut(place).unwrap() = junk;
        match oci::check(&value) {
            Ok(report) => {
                for finding in report.findings() {
                    prop_assert!(finding.at.is_empty() || finding.at.starts_with('/'));
                }
                prop_assert!(serde_json::from_str::<Value>(&report.json("x")).is_ok());
                report.text("x");
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
