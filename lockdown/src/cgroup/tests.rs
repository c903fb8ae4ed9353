//! On directories that look like cgroups. The real ones are tested from outside, with real
//! processes (`tests/tests/cgroup.rs`).

use std::fs;
use std::path::Path;

use super::settings::settings;
use super::*;

const V2_ONLY: &str =
    "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
const HYBRID: &str = "\
30 23 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
34 30 0:30 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio
35 30 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
36 30 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";

fn host(mounts: &str, own: &str, v2: &str) -> Host {
    Host::parse(mounts, own, |_| v2.to_owned())
}

#[test]
fn trees_are_found_with_the_callers_place_in_them() {
    let host =
        host(V2_ONLY, "0::/user.slice/x.scope\n", "cpuset cpu io memory hugetlb pids rdma misc");
    let [tree] = host.trees() else { panic!("{host:?}") };
    assert!(tree.is_v2() && tree.has(Controller::Io) && !tree.has(Controller::Cpuacct));
    assert_eq!(tree.own, Path::new("/sys/fs/cgroup/user.slice/x.scope"));
    assert_eq!(host.describe(), "v2 (memory cpu pids cpuset io)");
}

#[test]
fn the_hybrid_has_each_controller_once_and_a_tree_without_any() {
    let own = "4:memory:/docker/x/y\n3:cpu,cpuacct:/\n2:blkio:/z\n1:name=systemd:/\n0::/\n";
    let host = host(HYBRID, own, "");
    let tops: Vec<_> = host.trees().iter().map(|tree| tree.top.to_str().unwrap()).collect();
    let names = ["cpu", "memory", "blkio", "unified"].map(|name| format!("/sys/fs/cgroup/{name}"));
    assert_eq!(tops, names);
    // What is mounted is a part of the tree.
    assert_eq!(host.trees()[1].own, Path::new("/sys/fs/cgroup/memory/y"));
    assert_eq!(host.trees()[2].own, Path::new("/sys/fs/cgroup/blkio/z"));
    assert!(host.trees()[2].has(Controller::Io));
    assert_eq!(host.describe(), "v2 (none), v1 (cpu cpuacct memory io)");
    assert_eq!(Host::parse("", "", |_| String::new()).describe(), "none");
}

#[test]
fn a_place_outside_of_what_is_visible_is_the_top() {
    let host = host(V2_ONLY, "0::/../../x\n", "memory");
    assert_eq!(host.trees()[0].own, Path::new("/sys/fs/cgroup"));
}

fn all_limits() -> Limits {
    Limits {
        memory: Some(1 << 20),
        memory_and_swap: Some(3 << 20),
        cpu_quota: Some((150_000, 100_000)),
        cpu_weight: Some(100),
        pids: Some(7),
        cpus: Some("0-1".into()),
        mems: Some("0".into()),
        io_weight: Some(5),
        io: vec![IoLimit {
            device: (8, 16),
            read_bytes: Some(1000),
            writes: Some(u64::MAX),
            ..IoLimit::default()
        }],
    }
}

fn lines(version_2: bool, limits: &Limits) -> Vec<String> {
    let all = settings(version_2, &limits.controllers(), limits);
    all.into_iter().map(|(file, value)| format!("{file} {value}")).collect()
}

#[test]
fn limits_of_version_2() {
    let expected = [
        "memory.max 1048576",
        "memory.swap.max 2097152",
        "cpu.max 150000 100000",
        "cpu.weight 100",
        "pids.max 7",
        "cpuset.cpus 0-1",
        "cpuset.mems 0",
        "io.weight|io.bfq.weight default 5",
        "io.max 8:16 rbps=1000 wiops=max",
    ];
    assert_eq!(lines(true, &all_limits()), expected);
    // Memory alone means no swap space.
    let memory = Limits { memory: Some(4096), ..Limits::default() };
    assert_eq!(lines(true, &memory), ["memory.max 4096", "memory.swap.max 0"]);
    let none = Limits { memory: Some(u64::MAX), pids: Some(u64::MAX), ..Limits::default() };
    assert_eq!(lines(true, &none), ["memory.max max", "memory.swap.max max", "pids.max max"]);
}

#[test]
fn limits_of_version_1() {
    let expected = [
        "memory.limit_in_bytes 1048576",
        "memory.memsw.limit_in_bytes 3145728",
        "cpu.cfs_period_us 100000",
        "cpu.cfs_quota_us 150000",
        "cpu.shares 2597",
        "pids.max 7",
        "cpuset.cpus 0-1",
        "cpuset.mems 0",
        "blkio.weight|blkio.bfq.weight 10",
        "blkio.throttle.read_bps_device 8:16 1000",
        "blkio.throttle.write_iops_device 8:16 0",
    ];
    assert_eq!(lines(false, &all_limits()), expected);
    for (weight, shares) in [(1, 2), (10_000, 262_144), (20_000, 262_144)] {
        let limits = Limits { cpu_weight: Some(weight), ..Limits::default() };
        assert_eq!(lines(false, &limits), [format!("cpu.shares {shares}")]);
    }
}

/// A directory that looks like a group of version 2.
fn fake_v2(directory: &Path, controllers: &str) {
    fs::create_dir_all(directory).unwrap();
    for (file, text) in [
        ("cgroup.controllers", controllers),
        ("cgroup.subtree_control", ""),
        ("cgroup.procs", ""),
        ("memory.max", "max"),
        ("memory.swap.max", "max"),
        ("pids.max", "max"),
        ("memory.peak", "4096\n"),
        ("memory.events", "low 0\noom 2\noom_kill 1\noom_group_kill 0\n"),
        ("cpu.stat", "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n"),
    ] {
        fs::write(directory.join(file), text).unwrap();
    }
}

fn fake_host(directory: &Path, own: &str, controllers: &str) -> Host {
    let mount = format!("1 2 0:3 / {} rw - cgroup2 cgroup2 rw", directory.display());
    Host::parse(&mount, &format!("0::{own}\n"), |_| controllers.to_owned())
}

#[test]
fn a_group_is_set_up_entered_and_read() {
    let directory = tempfile::tempdir().unwrap();
    let top = directory.path();
    fake_v2(top, "memory pids");
    fake_v2(&top.join("a.slice"), "memory pids");
    let leaf = top.join("a.slice/a-b.slice");
    fake_v2(&leaf, "memory pids");
    let host = fake_host(top, "/elsewhere", "memory pids");
    let place = Place::At(CgroupPath::parse("a-b.slice").unwrap());
    let limits = Limits { memory: Some(1 << 30), pids: Some(5), ..Limits::default() };
    let made = Cgroup::make(&host, &place, "x", &limits, true).unwrap();
    let cgroup = made.cgroup.unwrap();
    assert!(made.missing.is_empty());
    assert_eq!(cgroup.directories(), std::slice::from_ref(&leaf));
    let read = |file: &str| fs::read_to_string(leaf.join(file)).unwrap();
    assert_eq!((read("memory.max"), read("pids.max")), ("1073741824".into(), "5".into()));
    let asked = fs::read_to_string(top.join("a.slice/cgroup.subtree_control")).unwrap();
    assert_eq!(asked, "+pids", "each controller is asked for by a write of its own");
    cgroup.enter(4711).unwrap();
    assert_eq!(read("cgroup.procs"), "4711");
    let expected = Usage {
        peak_memory: Some(4096),
        cpu_time: Some(Duration::from_micros(1500)),
        oom_kills: Some(1),
    };
    assert_eq!(cgroup.usage(), expected);
    // Somebody is in it now.
    let error = Cgroup::make(&host, &place, "x", &limits, true).unwrap_err();
    assert!(error.to_string().contains("is in use"), "{error}");
    drop(cgroup);
    assert!(leaf.exists(), "what was there before stays");
}

#[test]
fn a_missing_controller_is_an_error_or_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    fake_v2(directory.path(), "pids");
    let host = fake_host(directory.path(), "/", "pids");
    let limits = Limits { memory: Some(1 << 30), ..Limits::default() };
    let error = Cgroup::make(&host, &Place::Auto, "x", &limits, true).unwrap_err().to_string();
    assert!(error.starts_with("cgroup: memory: the host has no such cgroup controller"), "{error}");
    let made = Cgroup::make(&host, &Place::Auto, "x", &limits, false).unwrap();
    assert_eq!(made.missing, ["memory: the host has no such cgroup controller"]);
    // The host has it, but nobody gave it to the caller.
    let limits = Limits { pids: Some(1), ..Limits::default() };
    fs::create_dir(directory.path().join("own")).unwrap();
    let host = fake_host(directory.path(), "/own", "pids");
    let made = Cgroup::make(&host, &Place::Auto, "x", &limits, false).unwrap();
    assert!(made.cgroup.is_none());
    assert!(made.missing[0].starts_with("pids: no cgroup was delegated"), "{:?}", made.missing);
    assert!(!directory.path().join("own/x").exists(), "what failed is removed");
    assert!(!directory.path().join("x").exists(), "what failed is removed");
}

#[test]
fn groups_of_dead_launchers_are_swept() {
    let directory = tempfile::tempdir().unwrap();
    let own = Cgroup::own_name().unwrap();
    let (prefix, start) = own.rsplit_once('-').unwrap();
    let dead = format!("{prefix}-{}", start.parse::<u64>().unwrap() + 1);
    let foreign = format!("rsentry-1-{}-1", std::process::id());
    for name in [&own, &dead, &foreign, &"rsentry-x".to_owned(), &"other".to_owned()] {
        fs::create_dir(directory.path().join(name)).unwrap();
    }
    super::tree::sweep(directory.path());
    let left = |name: &str| directory.path().join(name).exists();
    assert!(left(&own) && left(&foreign) && left("rsentry-x") && left("other"));
    assert!(!left(&dead));
}
