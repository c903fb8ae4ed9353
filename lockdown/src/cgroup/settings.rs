//! How limits are written in either version.

use super::{Controller, Limits};

/// The control files to write, and what; alternatives of a file's name are separated by `|`.
pub(super) fn settings(
    version_2: bool,
    wanted: &[Controller],
    limits: &Limits,
) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut set = |file: &str, value: String| all.push((file.to_owned(), value));
    let number = |value: u64| if value == u64::MAX { None } else { Some(value) };
    let v2 = |value: u64| number(value).map_or("max".into(), |value| value.to_string());
    let v1 = |value: u64| number(value).map_or("-1".into(), |value| value.to_string());
    for controller in wanted {
        match (controller, version_2) {
            (Controller::Memory, true) => {
                // Version 2 counts swap space by itself.
                let memory = limits.memory.unwrap_or(u64::MAX);
                let both = limits.memory_and_swap.unwrap_or(memory);
                set("memory.max", v2(memory));
                let swap = if both == u64::MAX { both } else { both.saturating_sub(memory) };
                set("memory.swap.max", v2(swap));
            }
            (Controller::Memory, false) => {
                let memory = limits.memory.unwrap_or(u64::MAX);
                let both = limits.memory_and_swap.unwrap_or(memory).max(memory);
                set("memory.limit_in_bytes", v1(memory));
                set("memory.memsw.limit_in_bytes", v1(both));
            }
            (Controller::Cpu, true) => {
                if let Some((quota, period)) = limits.cpu_quota {
                    set("cpu.max", format!("{} {period}", v2(quota)));
                }
                if let Some(weight) = limits.cpu_weight {
                    set("cpu.weight", weight.to_string());
                }
            }
            (Controller::Cpu, false) => {
                if let Some((quota, period)) = limits.cpu_quota {
                    set("cpu.cfs_period_us", period.to_string());
                    set("cpu.cfs_quota_us", v1(quota));
                }
                if let Some(weight) = limits.cpu_weight {
                    set("cpu.shares", shares(weight).to_string());
                }
            }
            (Controller::Pids, _) => {
                if let Some(pids) = limits.pids {
                    set("pids.max", v2(pids));
                }
            }
            (Controller::Cpuset, _) => {
                if let Some(cpus) = &limits.cpus {
                    set("cpuset.cpus", cpus.clone());
                }
                if let Some(mems) = &limits.mems {
                    set("cpuset.mems", mems.clone());
                }
            }
            (Controller::Io, true) => {
                if let Some(weight) = limits.io_weight {
                    set("io.weight|io.bfq.weight", format!("default {weight}"));
                }
                for limit in &limits.io {
                    let (major, minor) = limit.device;
                    let mut line = format!("{major}:{minor}");
                    for (name, value) in [
                        ("rbps", limit.read_bytes),
                        ("wbps", limit.write_bytes),
                        ("riops", limit.reads),
                        ("wiops", limit.writes),
                    ] {
                        if let Some(value) = value {
                            line += &format!(" {name}={}", v2(value));
                        }
                    }
                    set("io.max", line);
                }
            }
            (Controller::Io, false) => {
                if let Some(weight) = limits.io_weight {
                    // From 10 to 1000 there.
                    let weight = weight.clamp(10, 1000);
                    set("blkio.weight|blkio.bfq.weight", weight.to_string());
                }
                for limit in &limits.io {
                    let (major, minor) = limit.device;
                    for (name, value) in [
                        ("read_bps", limit.read_bytes),
                        ("write_bps", limit.write_bytes),
                        ("read_iops", limit.reads),
                        ("write_iops", limit.writes),
                    ] {
                        if let Some(value) = value {
                            // No limit is 0 there.
                            let value = number(value).unwrap_or(0);
                            set(
                                &format!("blkio.throttle.{name}_device"),
                                format!("{major}:{minor} {value}"),
                            );
                        }
                    }
                }
            }
            (Controller::Cpuacct, _) => {}
        }
    }
    all
}

/// Version 1's shares, from 2 to 262,144, for a weight: the reverse of what OCI runtimes do to
/// configurations that were written for version 1.
fn shares(weight: u64) -> u64 {
    2 + (weight.clamp(1, 10_000) - 1) * 262_142 / 9_999
}
