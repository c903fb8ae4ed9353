//! The host's cgroup of a sandbox: where it is, and what it keeps.
//!
//! The Sentry keeps the limits of what the program itself uses. The cgroup is the second line, around
//! the Sentry, the gofer and the stubs as well, and has what only the host can do: placement on
//! processors, and weights.

use std::time::Duration;

use lockdown::cgroup::{self, CgroupPath, Host, IoLimit, Place, Usage};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::limits::Limits;

/// Microseconds of a period of processor time.
const PERIOD: u64 = 100_000;
/// Least microseconds of processor time in a period that Linux takes.
const LEAST_QUOTA: u64 = 1000;
/// Memory of the sandbox's processes besides what the program uses.
const OWN_MEMORY: u64 = 128 << 20;
/// Host tasks besides those that the program's own make.
const OWN_TASKS: u64 = 128;
/// Host tasks for a task of the program: it, its thread in the Sentry, two of its process's stub.
const TASKS_EACH: u64 = 4;

/// What of a sandbox the host's control groups see to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// `none`, `auto`, a path, or systemd's `SLICE:PREFIX:NAME`. Without, there is a group if
    /// anything below is given.
    pub place: Option<String>,
    /// The processors that everything runs on: `0-2,5`.
    pub cpuset: Option<String>,
    /// Share of processor time among neighbours, from 1 to 10,000; 100 is usual.
    pub cpu_weight: Option<u64>,
    /// Share of input and output, likewise.
    pub io_weight: Option<u64>,
    /// Limits of devices: `8:16 rbps=1048576 wiops=100`, as in Linux's `io.max`.
    pub io_max: Vec<String>,
}

/// A group that was made, or not.
#[derive(Debug, Default)]
pub(crate) struct Made {
    pub(crate) group: Option<cgroup::Cgroup>,
    pub(crate) missing: Vec<String>,
}

/// What a cgroup counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupReport {
    /// Most bytes of memory at a time, of all the sandbox's processes.
    pub peak_memory: Option<u64>,
    /// Microseconds of processor time, likewise.
    pub cpu_microseconds: Option<u64>,
    /// Processes that the host killed because the group's memory was used up.
    pub oom_kills: Option<u64>,
}

impl From<Usage> for CgroupReport {
    fn from(usage: Usage) -> CgroupReport {
        let microseconds = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        CgroupReport {
            peak_memory: usage.peak_memory,
            cpu_microseconds: usage.cpu_time.map(microseconds),
            oom_kills: usage.oom_kills,
        }
    }
}

impl Cgroup {
    /// Where the group is to be, if there is to be one.
    pub(crate) fn place(&self) -> Result<Option<Place>, Error> {
        let asked = self.cpuset.is_some()
            || self.cpu_weight.is_some()
            || self.io_weight.is_some()
            || !self.io_max.is_empty();
        match self.place.as_deref() {
            None if asked => Ok(Some(Place::Auto)),
            None => Ok(None),
            Some("none") if asked => {
                let problem = "none, but --cpuset, --cpu-weight, --io-weight, --io-max need one";
                Err(Error::option("--cgroup", problem))
            }
            Some("none") => Ok(None),
            Some("auto") => Ok(Some(Place::Auto)),
            Some(path) => CgroupPath::parse(path)
                .map(|path| Some(Place::At(path)))
                .map_err(|problem| Error::option("--cgroup", format!("{path:?}: {problem}"))),
        }
    }

    /// What the group keeps. The program's own limits leave room for the sandbox's processes.
    pub(crate) fn limits(&self, limits: &Limits) -> Result<cgroup::Limits, Error> {
        let bound = |value: Option<u64>| value.filter(|value| *value != u64::MAX);
        for (option, weight) in [("--cpu-weight", self.cpu_weight), ("--io-weight", self.io_weight)]
        {
            if weight.is_some_and(|weight| !(1..=10_000).contains(&weight)) {
                return Err(Error::option(option, "must be from 1 to 10000"));
            }
        }
        if let Some(list) = &self.cpuset {
            check_list(list)?;
        }
        let memory = bound(limits.memory)
            .map(|bytes| bytes.saturating_add(bytes / 8).saturating_add(OWN_MEMORY));
        let quota = |cpus: u64| cpus.saturating_mul(PERIOD / 1000).max(LEAST_QUOTA);
        Ok(cgroup::Limits {
            memory,
            memory_and_swap: memory,
            cpu_quota: bound(limits.cpus).map(|cpus| (quota(cpus), PERIOD)),
            cpu_weight: self.cpu_weight,
            pids: bound(limits.pids)
                .map(|pids| pids.saturating_mul(TASKS_EACH).saturating_add(OWN_TASKS)),
            cpus: self.cpuset.clone(),
            mems: None,
            io_weight: self.io_weight,
            io: self.io_max.iter().map(|text| io_limit(text)).collect::<Result<_, _>>()?,
        })
    }

    /// Makes the group, if there is to be one.
    pub(crate) fn make(&self, limits: &Limits, privileged: bool) -> Result<Made, Error> {
        let Some(place) = self.place()? else { return Ok(Made::default()) };
        let limits = self.limits(limits)?;
        let name = cgroup::Cgroup::own_name()?;
        let made = cgroup::Cgroup::make(&Host::look(), &place, &name, &limits, privileged)?;
        for missing in &made.missing {
            tracing::warn!("no cgroup keeps a limit: {missing}");
        }
        Ok(Made { group: made.cgroup, missing: made.missing })
    }
}

/// A list of processors: `0-2,5`.
fn check_list(list: &str) -> Result<(), Error> {
    let number = |text: &str| text.parse::<u32>().ok().filter(|_| !text.starts_with('+'));
    let good = list.split(',').all(|range| match range.split_once('-') {
        None => number(range).is_some(),
        Some((from, to)) => number(from).zip(number(to)).is_some_and(|(from, to)| from <= to),
    });
    if good {
        Ok(())
    } else {
        Err(Error::option("--cpuset", format!("{list:?} is not like 0-2,5")))
    }
}

fn io_limit(text: &str) -> Result<IoLimit, Error> {
    let bad =
        || Error::option("--io-max", format!("{text:?} is not like 8:16 rbps=1048576 wiops=100"));
    let mut words = text.split_whitespace();
    let device = words.next().and_then(|device| device.split_once(':')).ok_or_else(bad)?;
    let device = device.0.parse().ok().zip(device.1.parse().ok()).ok_or_else(bad)?;
    let mut limit = IoLimit { device, ..IoLimit::default() };
    for word in words {
        let (name, value) = word.split_once('=').ok_or_else(bad)?;
        let value = if value == "max" { u64::MAX } else { value.parse().map_err(|_| bad())? };
        let field = match name {
            "rbps" => &mut limit.read_bytes,
            "wbps" => &mut limit.write_bytes,
            "riops" => &mut limit.reads,
            "wiops" => &mut limit.writes,
            _ => return Err(bad()),
        };
        *field = Some(value);
    }
    Ok(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_group_if_anything_needs_one() {
        let place = |cgroup: &Cgroup| cgroup.place().map_err(|error| error.to_string());
        assert_eq!(place(&Cgroup::default()), Ok(None));
        let weight = Cgroup { cpu_weight: Some(7), ..Cgroup::default() };
        assert_eq!(place(&weight), Ok(Some(Place::Auto)));
        let at = |text: &str| Cgroup { place: Some(text.into()), ..Cgroup::default() };
        assert_eq!(place(&at("auto")), Ok(Some(Place::Auto)));
        assert_eq!(place(&at("none")), Ok(None));
        assert!(matches!(place(&at("a-b.slice:x:y")), Ok(Some(Place::At(_)))));
        assert!(place(&at("../x")).unwrap_err().starts_with("--cgroup: "));
        assert!(place(&Cgroup { place: Some("none".into()), ..weight }).is_err());
    }

    #[test]
    fn a_programs_limits_leave_room_for_the_sandbox() {
        let limits =
            Limits { memory: Some(64 << 20), cpus: Some(500), pids: Some(10), ..Limits::default() };
        let all = Cgroup::default().limits(&limits).unwrap();
        assert_eq!(all.memory, Some((72 << 20) + OWN_MEMORY));
        assert_eq!(all.cpu_quota, Some((50_000, 100_000)));
        assert_eq!(all.pids, Some(168));
        let none = Limits { memory: Some(u64::MAX), pids: Some(u64::MAX), ..Limits::default() };
        assert_eq!(Cgroup::default().limits(&none).unwrap(), cgroup::Limits::default());
    }

    #[test]
    fn what_is_malformed_is_refused() {
        let check = |cgroup: Cgroup| cgroup.limits(&Limits::default()).is_ok();
        let cpuset = |list: &str| check(Cgroup { cpuset: Some(list.into()), ..Cgroup::default() });
        assert!(cpuset("0") && cpuset("0-2,5"));
        assert!(!cpuset("") && !cpuset("2-1") && !cpuset("0,") && !cpuset("+1") && !cpuset("a"));
        let io = |text: &str| check(Cgroup { io_max: vec![text.into()], ..Cgroup::default() });
        assert!(io("8:16 rbps=5 wiops=max") && io("8:0"));
        assert!(!io("") && !io("8") && !io("8:0 x=1") && !io("8:0 rbps") && !io("8:0 rbps=-1"));
        assert!(!check(Cgroup { cpu_weight: Some(0), ..Cgroup::default() }));
    }
}
