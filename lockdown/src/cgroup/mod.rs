//! A control group for the processes of one sandbox: limits that the host keeps, and what was used.
//!
//! cgroups(7) come as version 2 (one tree), version 1 (a tree for some controllers each) or both;
//! each controller is used where the host has it. [`Cgroup::make`] makes the groups and sets the
//! limits, [`crate::spawn`] puts a process into them before it runs a line of its own, and dropping
//! the [`Cgroup`] removes what was made. A group that is left over because its launcher was killed
//! is empty (the processes died with the launcher) and is removed by the next one that makes a group
//! beside it.

mod host;
mod path;
mod settings;
mod tree;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Layer};

pub use host::Host;
pub use path::CgroupPath;
use tree::Group;

/// What the processes of a group may use together. `None` sets nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory and swap space together; at least `memory`. Without, no swap beyond `memory`
    /// is allowed if that is given.
    pub memory_and_swap: Option<u64>,
    /// Microseconds of processor time in each period, and the period.
    pub cpu_quota: Option<(u64, u64)>,
    /// Share of processor time among neighbours, from 1 to 10,000; 100 is usual.
    pub cpu_weight: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Processors, as a list: `0-2,5`.
    pub cpus: Option<String>,
    /// Memory nodes, likewise.
    pub mems: Option<String>,
    /// Share of input and output, from 1 to 10,000; 100 is usual.
    pub io_weight: Option<u64>,
    /// Limits of devices.
    pub io: Vec<IoLimit>,
}

/// What may be read from and written to a block device, per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoLimit {
    /// The device's numbers.
    pub device: (u32, u32),
    /// Bytes read.
    pub read_bytes: Option<u64>,
    /// Bytes written.
    pub write_bytes: Option<u64>,
    /// Reads.
    pub reads: Option<u64>,
    /// Writes.
    pub writes: Option<u64>,
}

impl Limits {
    /// The controllers that keep these limits.
    fn controllers(&self) -> Vec<Controller> {
        let needed = [
            (Controller::Memory, self.memory.or(self.memory_and_swap).is_some()),
            (Controller::Cpu, self.cpu_quota.is_some() || self.cpu_weight.is_some()),
            (Controller::Pids, self.pids.is_some()),
            (Controller::Cpuset, self.cpus.is_some() || self.mems.is_some()),
            (Controller::Io, self.io_weight.is_some() || !self.io.is_empty()),
        ];
        needed.into_iter().filter(|(_, needed)| *needed).map(|(controller, _)| controller).collect()
    }
}

/// The kernel's parts that keep limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    /// Memory and swap space.
    Memory,
    /// Processor time.
    Cpu,
    /// Numbers of processes.
    Pids,
    /// Placement on processors.
    Cpuset,
    /// Block devices.
    Io,
    /// Counts processor time; of version 1 only.
    Cpuacct,
}

impl Controller {
    /// The name in version 2's `cgroup.controllers`, and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Controller::Memory => "memory",
            Controller::Cpu => "cpu",
            Controller::Pids => "pids",
            Controller::Cpuset => "cpuset",
            Controller::Io => "io",
            Controller::Cpuacct => "cpuacct",
        }
    }

    /// The name as an option of a version 1 mount.
    fn v1_name(self) -> &'static str {
        if self == Controller::Io { "blkio" } else { self.name() }
    }
}

/// Where the group is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Below or beside the launcher's own group, whichever Linux allows.
    Auto,
    /// There, from the top of each tree that is visible.
    At(CgroupPath),
}

/// What was used by the processes of a group, as far as the host counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Most bytes of memory at a time.
    pub peak_memory: Option<u64>,
    /// Processor time in all.
    pub cpu_time: Option<Duration>,
    /// Processes that were killed because the limit of memory was reached.
    pub oom_kills: Option<u64>,
}

/// The groups of one sandbox: one in each tree that is used. Dropping it removes them.
#[derive(Debug)]
pub struct Cgroup {
    groups: Vec<Group>,
}

/// What [`Cgroup::make`] could do.
#[derive(Debug)]
pub struct Made {
    /// The group, if there is any.
    pub cgroup: Option<Cgroup>,
    /// Limits that nobody keeps, each in a few words. Only of an unprivileged caller: all else is an
    /// error.
    pub missing: Vec<String>,
}

impl Cgroup {
    /// Makes a group with these limits. `name` is its name if the place is [`Place::Auto`]; it
    /// should come from [`Cgroup::own_name`].
    ///
    /// Where an unprivileged caller has no group that was delegated to it, [`Place::Auto`] does
    /// without; what is not kept then is in [`Made::missing`].
    ///
    /// # Errors
    /// When a limit cannot be set, naming the file; when a controller is not there.
    pub fn make(
        host: &Host,
        place: &Place,
        name: &str,
        limits: &Limits,
        privileged: bool,
    ) -> Result<Made, Error> {
        let mut cgroup = Cgroup { groups: Vec::new() };
        let mut missing = Vec::new();
        let lenient = !privileged && *place == Place::Auto;
        let needed = limits.controllers();
        for tree in host.trees() {
            let wanted: Vec<Controller> = needed.iter().copied().filter(|&c| tree.has(c)).collect();
            // What is only counted is not worth a failure.
            let counts =
                tree.is_v2() || tree.has(Controller::Cpuacct) || tree.has(Controller::Memory);
            if wanted.is_empty() && !counts {
                continue;
            }
            match Group::make(tree, place, name, &wanted, limits) {
                Ok(group) => cgroup.groups.push(group),
                Err(_) if wanted.is_empty() => {}
                Err(error) if lenient => missing.extend(wanted.iter().map(|controller| {
                    let (name, source) = (controller.name(), &error.source);
                    format!("{name}: no cgroup was delegated to the caller ({source})")
                })),
                Err(error) => return Err(error),
            }
        }
        for controller in needed {
            if !host.trees().iter().any(|tree| tree.has(controller)) {
                let text = format!("{}: the host has no such cgroup controller", controller.name());
                if !lenient {
                    return Err(unavailable(text));
                }
                missing.push(text);
            }
        }
        Ok(Made { cgroup: (!cgroup.groups.is_empty()).then_some(cgroup), missing })
    }

    /// A name for a group of the calling process, by which others can tell whether that still lives.
    ///
    /// # Errors
    /// When `/proc` does not say when the process was started.
    pub fn own_name() -> Result<String, Error> {
        tree::own_name().map_err(|error| Error::new(Layer::Cgroup, "reading /proc/self", error))
    }

    /// Puts a process into the group.
    ///
    /// # Errors
    /// The host's, naming the file.
    pub fn enter(&self, pid: libc::pid_t) -> Result<(), Error> {
        self.groups.iter().try_for_each(|group| group.enter(pid))
    }

    /// Opens what [`Cgroup::usage`] and the removal read, for a process that can open nothing when
    /// it comes to that.
    pub fn open(&self) {
        self.groups.iter().for_each(Group::open);
    }

    /// What the processes have used up to now, or all in all once they are gone.
    pub fn usage(&self) -> Usage {
        let mut all = Usage::default();
        for group in &self.groups {
            let Usage { peak_memory, cpu_time, oom_kills } = group.usage();
            all.peak_memory = all.peak_memory.or(peak_memory);
            all.cpu_time = all.cpu_time.or(cpu_time);
            all.oom_kills = all.oom_kills.or(oom_kills);
        }
        all
    }

    /// The directories of the groups, for messages and tests.
    pub fn directories(&self) -> Vec<PathBuf> {
        self.groups.iter().map(|group| group.directory().to_owned()).collect()
    }
}

fn unavailable(what: String) -> Error {
    Error::new(Layer::Cgroup, what, io::Error::from_raw_os_error(libc::EOPNOTSUPP))
}

#[cfg(test)]
mod tests;
