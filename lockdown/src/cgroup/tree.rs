//! One group in one tree.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::host::Tree;
use super::settings::settings;
use super::{Controller, Limits, Place, Usage};
use crate::error::{Context, Error, Layer};

/// What the names of groups begin with that [`Place::Auto`] makes.
const PREFIX: &str = "rsentry-";
/// Most bytes of a file that is read at the end.
const MAX_FILE: usize = 4096;
/// How long the last process of a group may take to go: on a busy host, whoever was killed waits for
/// its turn to die.
const PATIENCE: Duration = Duration::from_secs(10);

/// A directory of a tree, with the limits of one sandbox.
#[derive(Debug)]
pub(super) struct Group {
    directory: PathBuf,
    version_2: bool,
    /// What was made, parents first.
    made: Vec<PathBuf>,
    open: OnceLock<Open>,
}

/// Files of a group that are read when nothing can be opened any more. Not all groups have all.
#[derive(Debug)]
struct Open {
    peak_memory: Option<File>,
    cpu_time: Option<File>,
    oom_kills: Option<File>,
    events: Option<File>,
}

impl Open {
    fn of(directory: &Path, version_2: bool) -> Open {
        let open = |names: [&str; 2]| {
            let [version_1, name] = names;
            let name = if version_2 { name } else { version_1 };
            File::open(directory.join(name)).ok()
        };
        Open {
            peak_memory: open(["memory.max_usage_in_bytes", "memory.peak"]),
            cpu_time: open(["cpuacct.usage", "cpu.stat"]),
            oom_kills: open(["memory.oom_control", "memory.events"]),
            events: File::open(directory.join("cgroup.events")).ok(),
        }
    }
}

impl Group {
    /// Makes a group in which `wanted` keep their limits.
    pub(super) fn make(
        tree: &Tree,
        place: &Place,
        name: &str,
        wanted: &[Controller],
        limits: &Limits,
    ) -> Result<Group, Error> {
        let mut last = None;
        for directory in candidates(tree, place, name) {
            let mut group = Group {
                directory,
                version_2: tree.is_v2(),
                made: Vec::new(),
                open: OnceLock::new(),
            };
            // A group that fails is dropped, and with it removed.
            match group.set_up(tree, wanted, limits) {
                Ok(()) => return Ok(group),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| super::unavailable("no place for a cgroup".into())))
    }

    fn set_up(&mut self, tree: &Tree, wanted: &[Controller], limits: &Limits) -> Result<(), Error> {
        if let Some(parent) = self.directory.parent() {
            sweep(parent);
        }
        let below = self.directory.strip_prefix(&tree.top).unwrap_or(Path::new("")).to_owned();
        let mut at = tree.top.clone();
        for part in below.iter() {
            if tree.is_v2() {
                // Where it is not allowed it may have been done already; the leaf tells.
                enable(&at, wanted);
            }
            let parent = at.clone();
            at.push(part);
            match fs::create_dir(&at) {
                Ok(()) => self.made.push(at.clone()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => {
                    return Err(error).context(Layer::Cgroup, format!("making {}", at.display()));
                }
            }
            if tree.has(Controller::Cpuset) && !tree.is_v2() {
                // Version 1 makes groups that no process can enter until this is set.
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    let value = read(&parent, file).unwrap_or_default();
                    write(&at, file, value.trim())?;
                }
            }
        }
        if tree.is_v2() {
            let has = read(&at, "cgroup.controllers").unwrap_or_default();
            for controller in wanted {
                if !has.split_whitespace().any(|name| name == controller.name()) {
                    let what = format!("{}: no {} controller", at.display(), controller.name());
                    return Err(super::unavailable(what));
                }
            }
        }
        self.check_empty()?;
        self.check_entry(tree)?;
        for (file, value) in settings(tree.is_v2(), wanted, limits) {
            self.set(&file, &value)?;
        }
        Ok(())
    }

    /// A group that was there before may hold no process: limits would hold for strangers.
    fn check_empty(&self) -> Result<(), Error> {
        let held = read(&self.directory, "cgroup.procs").unwrap_or_default();
        if held.trim().is_empty() {
            return Ok(());
        }
        let busy = io::Error::from_raw_os_error(libc::EBUSY);
        Err(busy).context(Layer::Cgroup, format!("{} is in use", self.directory.display()))
    }

    /// Linux's rule for moving a process between groups of version 2: the mover must be allowed to
    /// write to the `cgroup.procs` of what is above both, as well.
    fn check_entry(&self, tree: &Tree) -> Result<(), Error> {
        if !tree.is_v2() {
            return Ok(());
        }
        let common = self.directory.ancestors().find(|above| tree.own.starts_with(above));
        for directory in [Some(self.directory.as_path()), common].into_iter().flatten() {
            let file = directory.join("cgroup.procs");
            OpenOptions::new()
                .write(true)
                .open(&file)
                .context(Layer::Cgroup, format!("opening {}", file.display()))?;
        }
        Ok(())
    }

    /// Writes a control file. Alternatives that depend on the host's settings are tried in turn.
    fn set(&self, file: &str, value: &str) -> Result<(), Error> {
        let there = |name: &&str| self.directory.join(name).exists();
        match file.split('|').find(there) {
            Some(name) => write(&self.directory, name, value),
            // Swap space that is not counted is not limited either; there may be none.
            None if file.contains("memsw") || file.contains("swap") => Ok(()),
            None => {
                let what = format!("{}: no {file}", self.directory.display());
                Err(super::unavailable(what))
            }
        }
    }

    pub(super) fn enter(&self, pid: libc::pid_t) -> Result<(), Error> {
        write(&self.directory, "cgroup.procs", &pid.to_string())
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Opens what is read at the end.
    pub(super) fn open(&self) {
        self.opened();
    }

    fn opened(&self) -> &Open {
        self.open.get_or_init(|| Open::of(&self.directory, self.version_2))
    }

    pub(super) fn usage(&self) -> Usage {
        let number = |file: &Option<File>| again(file.as_ref()?)?.trim().parse::<u64>().ok();
        let field = |file: &Option<File>, name: &str| {
            let text = again(file.as_ref()?)?;
            let mut lines = text.lines().filter_map(|line| line.split_once(' '));
            lines.find(|(key, _)| *key == name)?.1.trim().parse::<u64>().ok()
        };
        let Open { peak_memory, cpu_time, oom_kills, .. } = self.opened();
        Usage {
            peak_memory: number(peak_memory),
            cpu_time: if self.version_2 {
                field(cpu_time, "usage_usec").map(Duration::from_micros)
            } else {
                number(cpu_time).map(Duration::from_nanos)
            },
            oom_kills: field(oom_kills, "oom_kill"),
        }
    }

    /// Waits until no process is left. Version 1 cannot be waited for.
    fn wait_until_empty(&self) {
        let Some(events) = &self.opened().events else { return };
        let end = Instant::now() + PATIENCE;
        loop {
            // Read before the wait: a change in between ends that at once.
            let text = again(events).unwrap_or_default();
            let left = end.saturating_duration_since(Instant::now()).as_millis();
            if !text.contains("populated 1") || left == 0 {
                return;
            }
            let mut poll =
                libc::pollfd { fd: events.as_raw_fd(), events: libc::POLLPRI, revents: 0 };
            // SAFETY: one valid pollfd.
            unsafe { libc::poll(&raw mut poll, 1, i32::try_from(left).unwrap_or(0)) };
        }
    }
}

/// What an open file says now.
fn again(file: &File) -> Option<String> {
    let mut text = vec![0; MAX_FILE];
    let length = file.read_at(&mut text, 0).ok()?;
    text.truncate(length);
    String::from_utf8(text).ok()
}

impl Drop for Group {
    /// Its processes have been waited for by now; the last ones may still be on their way out.
    fn drop(&mut self) {
        for directory in self.made.iter().rev() {
            match fs::remove_dir(directory) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    self.wait_until_empty();
                    // What is left then, the next launcher sweeps.
                    let _ = fs::remove_dir(directory);
                }
                // Not ours any more, or gone.
                _ => {}
            }
        }
    }
}

/// Where a group may be, the better ones first. A group of version 2 that holds processes may not
/// give controllers to groups below, so an own group of the caller's (a terminal's, a service's) is
/// no parent: beside it is the next best place, if that was delegated. In version 1, below the own
/// group is where its limits hold as well.
fn candidates(tree: &Tree, place: &Place, name: &str) -> Vec<PathBuf> {
    match place {
        Place::At(path) => vec![tree.top.join(path.relative())],
        Place::Auto if tree.is_v2() => {
            let beside = tree.own.parent().filter(|above| above.starts_with(&tree.top));
            let below = Some(tree.own.as_path());
            [below, beside].into_iter().flatten().map(|above| above.join(name)).collect()
        }
        Place::Auto => vec![tree.own.join(name)],
    }
}

/// Lets the groups below `directory` have `controllers`, as far as it is allowed.
fn enable(directory: &Path, controllers: &[Controller]) {
    let enabled = read(directory, "cgroup.subtree_control").unwrap_or_default();
    for controller in controllers {
        let name = controller.name();
        if !enabled.split_whitespace().any(|other| other == name) {
            let _ = write(directory, "cgroup.subtree_control", &format!("+{name}"));
        }
    }
}

/// Removes groups whose launcher is gone: those of this pid namespace.
pub(super) fn sweep(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let Ok(namespace) = namespace() else { return };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    for name in names {
        let Some(owner) = name.strip_prefix(PREFIX) else { continue };
        let Some(owner) = owner.strip_prefix(&format!("{namespace}-")) else { continue };
        let Some((pid, start)) = owner.split_once('-') else { continue };
        let alive = start_of(pid).is_ok_and(|lives_since| lives_since == start);
        if !alive && pid.bytes().all(|byte| byte.is_ascii_digit()) {
            // Fails while there is anything in it.
            let _ = fs::remove_dir(directory.join(&name));
        }
    }
}

pub(super) fn own_name() -> io::Result<String> {
    let pid = std::process::id().to_string();
    Ok(format!("{PREFIX}{}-{pid}-{}", namespace()?, start_of(&pid)?))
}

/// The number of the calling process's pid namespace.
fn namespace() -> io::Result<u64> {
    Ok(fs::metadata("/proc/self/ns/pid")?.ino())
}

/// When a process was started, as `/proc/PID/stat` says it.
fn start_of(pid: &str) -> io::Result<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything; 19 more fields lie between it and the time.
    let rest = stat.rsplit_once(')').map(|(_, rest)| rest);
    let start = rest.and_then(|rest| rest.split_whitespace().nth(19));
    start.map(str::to_owned).ok_or_else(|| io::Error::other("no start time"))
}

fn read(directory: &Path, file: &str) -> io::Result<String> {
    fs::read_to_string(directory.join(file))
}

/// One write(2) to a file that is there.
fn write(directory: &Path, file: &str, value: &str) -> Result<(), Error> {
    let path = directory.join(file);
    OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(&path)
        .and_then(|mut open| open.write_all(value.as_bytes()))
        .context(Layer::Cgroup, format!("writing {value:?} to {}", path.display()))
}
