//! `linux.resources`: what keeps the container from using the host up.

use crate::check::finding::Report;
use crate::check::finding::Severity::{Low, Medium};
use crate::check::node::{Malformed, Node};

pub(super) fn check(resources: &Node<'_>, report: &mut Report) -> Result<(), Malformed> {
    let unified = resources.get("unified")?;
    // A cgroup v2 setting that is a limit: `max` is none.
    let by_name = |name: &str| -> Result<bool, Malformed> {
        let text = unified.get(name)?.text_or_empty()?;
        Ok(!text.trim().is_empty() && !text.trim_start().starts_with("max"))
    };

    let memory = resources.get("memory")?;
    let limit = memory.get("limit")?;
    let bounded = limit.integer()?.is_some_and(|bytes| bytes > 0) || by_name("memory.max")?;
    if !bounded {
        let why = "memory is not limited: the container can take all of the host's";
        report.add(
            "limit-memory",
            Medium,
            limit.at(),
            why,
            "set it to what the program needs, in bytes",
        );
    }
    let swap = memory.get("swap")?;
    let all_swap = swap.integer()?.is_some_and(|bytes| bytes < 0);
    if bounded && all_swap {
        let why = "swap is not limited";
        report.add("limit-swap", Low, swap.at(), why, "set it to the memory limit");
    }
    let killer = memory.get("disableOOMKiller")?;
    if killer.flag()? == Some(true) {
        let why = "at its memory limit the container hangs instead of being killed; without a limit, the host does";
        report.add("oom-killer-off", Medium, killer.at(), why, "set it to false");
    }

    let pids = resources.get("pids")?.get("limit")?;
    if pids.integer()?.is_none_or(|limit| limit <= 0) && !by_name("pids.max")? {
        let why = "the number of processes is not limited: a fork bomb takes the host along";
        report.add(
            "limit-pids",
            Medium,
            pids.at(),
            why,
            "set it, to some hundreds for most programs",
        );
    }

    let cpu = resources.get("cpu")?;
    let quota = cpu.get("quota")?;
    let cpus = cpu.get("cpus")?;
    let bounded = quota.integer()?.is_some_and(|quota| quota > 0)
        || !cpus.text_or_empty()?.is_empty()
        || by_name("cpu.max")?
        || by_name("cpuset.cpus")?;
    if !bounded {
        let why = "CPU time is not limited";
        report.add("limit-cpu", Low, quota.at(), why, "set quota and period, or cpus");
    }
    let realtime = cpu.get("realtimeRuntime")?;
    if realtime.integer()?.is_some_and(|time| time > 0) {
        let why = "real-time scheduling is allowed, which nothing else on the host comes before";
        report.add("cpu-realtime", Medium, realtime.at(), why, "remove it unless it is needed");
    }
    Ok(())
}
