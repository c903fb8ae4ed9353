//! What the host's `/proc` says about processes and mounts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// A process of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its parent's id.
    pub parent: u32,
    /// `comm`.
    pub name: String,
}

impl Process {
    /// All processes that there are.
    pub fn all() -> Vec<Process> {
        let entries = fs::read_dir("/proc").expect("/proc is there");
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter_map(Process::get).collect()
    }

    /// This process, if it is there and not a zombie.
    pub fn get(pid: u32) -> Option<Process> {
        let status = status(pid)?;
        if status.get("State")?.starts_with('Z') {
            return None;
        }
        let parent = status.get("PPid")?.parse().ok()?;
        Some(Process { pid, parent, name: status.get("Name")?.clone() })
    }

    /// The children.
    pub fn children(pid: u32) -> Vec<Process> {
        Process::all().into_iter().filter(|process| process.parent == pid).collect()
    }

    /// A field of `/proc/PID/status`.
    #[track_caller]
    pub fn field(&self, name: &str) -> String {
        let status = status(self.pid).expect("the process is there");
        status.get(name).unwrap_or_else(|| panic!("no field {name}")).clone()
    }

    /// What `/proc/PID/ns/NAME` refers to.
    #[track_caller]
    pub fn namespace(&self, name: &str) -> String {
        let path = format!("/proc/{}/ns/{name}", self.pid);
        let link = fs::read_link(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        link.to_string_lossy().into_owned()
    }

    /// What the descriptors refer to, by number.
    #[track_caller]
    pub fn descriptors(&self) -> BTreeMap<u32, String> {
        let path = format!("/proc/{}/fd", self.pid);
        let entries = fs::read_dir(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        entries
            .flatten()
            .filter_map(|entry| {
                let number = entry.file_name().to_str()?.parse().ok()?;
                Some((number, fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned()))
            })
            .collect()
    }

    /// Its mounts: where, and with which options and file system.
    #[track_caller]
    pub fn mounts(&self) -> Vec<(String, String)> {
        let path = format!("/proc/{}/mountinfo", self.pid);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let mount = |line: &str| {
            let fields: Vec<&str> = line.split(' ').collect();
            let rest = fields.get(5..).unwrap_or_default().join(" ");
            (fields.get(4).copied().unwrap_or_default().to_owned(), rest)
        };
        text.lines().map(mount).collect()
    }
}

fn status(pid: u32) -> Option<BTreeMap<String, String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.trim().to_owned()))
    };
    Some(text.lines().filter_map(field).collect())
}

/// The mounts of the test's own namespace at some time.
#[derive(Clone, Debug)]
pub struct Mounts(BTreeSet<String>);

impl Mounts {
    /// The mounts that there are.
    pub fn now() -> Mounts {
        let text = fs::read_to_string("/proc/self/mountinfo").expect("/proc is there");
        Mounts(text.lines().map(str::to_owned).collect())
    }

    /// Checks that there are no others now, but for what the host mounts by itself when somebody
    /// looks there (tracefs).
    #[track_caller]
    pub fn assert_none_added(&self) {
        let now = Mounts::now().0;
        let added = now.difference(&self.0).filter(|mount| !mount.contains(" - tracefs "));
        let added: Vec<&String> = added.collect();
        assert!(added.is_empty(), "mounts were left behind: {added:?}");
    }
}
