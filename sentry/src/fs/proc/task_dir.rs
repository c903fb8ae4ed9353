//! `/proc/PID` and `/proc/PID/task/TID`: which files there are, and who may look at them.

use std::sync::{Arc, Weak};

use abi::Errno;

use super::{fd, maps, memory, mounts, parse_number, status};
use crate::fs::pseudo::{Content, Directory, Link, Listed, Node, PseudoFs};
use crate::kernel::{Caps, Task, ThreadGroup};
use crate::vfs::{DentryPolicy, FileOps, FileType, LinkTarget, OpenArgs};

/// The inode number of entry `index` of a task's directory; 0 is the directory itself.
pub(super) fn ino(task: &Task, as_thread: bool, index: u64) -> u64 {
    // Below the fixed files' numbers, and different for PID and PID/task/TID.
    0x1_0000_0000 + (task.tid() as u64) * 0x10_0000 + u64::from(as_thread) * 0x8_0000 + index
}

/// The directory of a task: of its process, or (`as_thread`) below `task/`.
pub(super) fn node(fs: &Arc<PseudoFs>, task: &Arc<Task>, as_thread: bool) -> Node {
    let dir = TaskDir { task: Arc::downgrade(task), as_thread };
    Node::dir(fs, ino(task, as_thread, 0), 0o555, dir).owned_by(task)
}

/// Whether `reader` may see what is inside `task` (`ptrace_may_access` with `PTRACE_MODE_FSCREDS`).
pub(super) fn may_inspect(reader: &Task, task: &Task) -> bool {
    if reader.group.tgid == task.group.tgid {
        return true;
    }
    let (r, t) = (reader.cred(), task.cred());
    let same = [t.uid, t.euid, t.suid].iter().all(|&id| id == r.fsuid)
        && [t.gid, t.egid, t.sgid].iter().all(|&id| id == r.fsgid);
    let weaker = r.permitted.contains(t.permitted);
    r.capable(Caps::SYS_PTRACE) || (same && weaker && task.group.dumpable() == 1)
}

type Text = fn(&Arc<Task>, &Task) -> Result<Vec<u8>, Errno>;

enum Entry {
    /// Name, mode, needs [`may_inspect`], content.
    Text(u32, bool, Text),
    Comm,
    OomScoreAdj,
    Mem,
    Fd,
    FdInfo,
    Tasks,
    Net,
    Ns,
    Cwd,
    Root,
    Exe,
}

/// The entries; a thread's directory lacks those marked `true`.
const ENTRIES: &[(&str, bool, Entry)] = &[
    ("auxv", false, Entry::Text(0o400, true, memory::auxv)),
    ("cgroup", false, Entry::Text(0o444, false, status::cgroup)),
    ("cmdline", false, Entry::Text(0o444, false, memory::cmdline)),
    ("comm", false, Entry::Comm),
    ("cwd", false, Entry::Cwd),
    ("environ", false, Entry::Text(0o400, true, memory::environ)),
    ("exe", false, Entry::Exe),
    ("fd", false, Entry::Fd),
    ("fdinfo", false, Entry::FdInfo),
    ("gid_map", false, Entry::Text(0o444, false, status::id_map)),
    ("limits", false, Entry::Text(0o444, false, status::limits)),
    ("loginuid", false, Entry::Text(0o444, false, status::loginuid)),
    ("maps", false, Entry::Text(0o444, true, maps::maps)),
    ("mem", false, Entry::Mem),
    ("mountinfo", false, Entry::Text(0o444, false, mounts::mountinfo)),
    ("mounts", false, Entry::Text(0o444, false, mounts::mounts)),
    ("mountstats", true, Entry::Text(0o400, false, mounts::mountstats)),
    ("net", false, Entry::Net),
    ("ns", false, Entry::Ns),
    ("oom_score", false, Entry::Text(0o444, false, status::oom_score)),
    ("oom_score_adj", false, Entry::OomScoreAdj),
    ("personality", false, Entry::Text(0o400, true, status::personality)),
    ("root", false, Entry::Root),
    ("sessionid", false, Entry::Text(0o444, false, status::loginuid)),
    ("setgroups", true, Entry::Text(0o444, false, status::setgroups)),
    ("smaps", false, Entry::Text(0o444, true, maps::smaps)),
    ("smaps_rollup", true, Entry::Text(0o444, true, maps::smaps_rollup)),
    ("stat", false, Entry::Text(0o444, false, status::stat)),
    ("statm", false, Entry::Text(0o444, false, status::statm)),
    ("status", false, Entry::Text(0o444, false, status::status)),
    ("task", true, Entry::Tasks),
    ("uid_map", false, Entry::Text(0o444, false, status::id_map)),
    ("wchan", false, Entry::Text(0o444, false, status::wchan)),
];

struct TaskDir {
    task: Weak<Task>,
    as_thread: bool,
}

impl TaskDir {
    fn entries(&self) -> impl Iterator<Item = (u64, &'static str, &'static Entry)> {
        let as_thread = self.as_thread;
        let numbered = ENTRIES.iter().zip(1..);
        numbered.filter(move |(e, _)| !(as_thread && e.1)).map(|(e, i)| (i, e.0, &e.2))
    }
}

impl Directory for TaskDir {
    fn lookup(&self, fs: &Arc<PseudoFs>, name: &[u8]) -> Result<Arc<Node>, Errno> {
        let task = self.task.upgrade().ok_or(Errno::ESRCH)?;
        let (index, _, entry) =
            self.entries().find(|e| e.1.as_bytes() == name).ok_or(Errno::ENOENT)?;
        let ino = ino(&task, self.as_thread, index * 0x400);
        let weak = self.task.clone();
        let node = match entry {
            Entry::Text(mode, guarded, text) => {
                Node::file(fs, ino, *mode, TaskText { task: weak, guarded: *guarded, text: *text })
            }
            Entry::Comm => Node::file(fs, ino, 0o644, status::Comm(weak)),
            Entry::OomScoreAdj => Node::file(fs, ino, 0o644, status::OomScoreAdj(weak)),
            Entry::Mem => Node::file(fs, ino, 0o600, memory::Mem(weak)),
            Entry::Fd => Node::dir(fs, ino, 0o500, fd::FdDir { task: weak, info: false, ino }),
            Entry::FdInfo => Node::dir(fs, ino, 0o555, fd::FdDir { task: weak, info: true, ino }),
            Entry::Tasks => Node::dir(fs, ino, 0o555, Tasks(weak)),
            Entry::Net => Node::dir(fs, ino, 0o555, status::net_dir(fs, ino)),
            Entry::Ns => Node::dir(fs, ino, 0o511, status::Namespaces { task: weak, ino }),
            Entry::Cwd => Node::link(fs, ino, 0o777, PathLink { task: weak, which: Which::Cwd }),
            Entry::Root => Node::link(fs, ino, 0o777, PathLink { task: weak, which: Which::Root }),
            Entry::Exe => Node::link(fs, ino, 0o777, PathLink { task: weak, which: Which::Exe }),
        };
        Ok(Arc::new(node.owned_by(&task)))
    }

    fn list(&self) -> Vec<Listed> {
        let Some(task) = self.task.upgrade() else { return Vec::new() };
        self.entries()
            .map(|(index, name, entry)| Listed {
                name: name.as_bytes().to_vec(),
                ino: ino(&task, self.as_thread, index * 0x400),
                kind: match entry {
                    Entry::Fd | Entry::FdInfo | Entry::Tasks | Entry::Net | Entry::Ns => {
                        FileType::Directory
                    }
                    Entry::Cwd | Entry::Root | Entry::Exe => FileType::Symlink,
                    _ => FileType::Regular,
                },
            })
            .collect()
    }

    fn process(&self) -> Result<Arc<ThreadGroup>, Errno> {
        if self.as_thread {
            return Err(Errno::EBADF);
        }
        Ok(self.task.upgrade().ok_or(Errno::ESRCH)?.group.clone())
    }

    fn policy(&self) -> DentryPolicy {
        DentryPolicy::Never
    }

    fn nlink(&self) -> u32 {
        9
    }
}

/// A text file about a task.
struct TaskText {
    task: Weak<Task>,
    guarded: bool,
    text: Text,
}

impl Content for TaskText {
    fn read(&self, reader: &Task) -> Result<Vec<u8>, Errno> {
        (self.text)(&self.task.upgrade().ok_or(Errno::ESRCH)?, reader)
    }

    fn open(&self, args: &OpenArgs<'_>) -> Result<Option<Box<dyn FileOps>>, Errno> {
        let task = self.task.upgrade().ok_or(Errno::ESRCH)?;
        if self.guarded && !may_inspect(args.task, &task) {
            return Err(Errno::EACCES);
        }
        Ok(None)
    }
}

/// `/proc/PID/task`
struct Tasks(Weak<Task>);

impl Directory for Tasks {
    fn lookup(&self, fs: &Arc<PseudoFs>, name: &[u8]) -> Result<Arc<Node>, Errno> {
        let group = self.0.upgrade().ok_or(Errno::ENOENT)?.group.clone();
        let tid = parse_number(name).ok_or(Errno::ENOENT)?;
        let threads = group.threads();
        let task = threads.iter().find(|t| t.tid() == tid).ok_or(Errno::ENOENT)?;
        Ok(Arc::new(node(fs, task, true)))
    }

    fn list(&self) -> Vec<Listed> {
        let mut threads = self.0.upgrade().map(|t| t.group.threads()).unwrap_or_default();
        threads.sort_unstable_by_key(|t| t.tid());
        let entry = |t: &Arc<Task>| Listed {
            name: t.tid().to_string().into_bytes(),
            ino: ino(t, true, 0),
            kind: FileType::Directory,
        };
        threads.iter().map(entry).collect()
    }

    fn place(&self, _: usize, child: &Listed) -> u64 {
        parse_number(&child.name).map_or(0, |tid| tid as u64)
    }

    fn nlink(&self) -> u32 {
        2 + self.0.upgrade().map_or(0, |t| t.group.thread_count()) as u32
    }
}

enum Which {
    Cwd,
    Root,
    Exe,
}

/// `cwd`, `root` and `exe`: magic links.
struct PathLink {
    task: Weak<Task>,
    which: Which,
}

impl Link for PathLink {
    fn target(&self, reader: &Task) -> Result<LinkTarget, Errno> {
        let task = self.task.upgrade().ok_or(Errno::ESRCH)?;
        if !may_inspect(reader, &task) {
            return Err(Errno::EACCES);
        }
        Ok(LinkTarget::Jump(match self.which {
            Which::Cwd => task.fs().cwd(),
            Which::Root => task.fs().root(),
            Which::Exe => task
                .mm()
                .and_then(|mm| mm.exec_info().exe)
                .map(|exe| exe.path().clone())
                .ok_or(Errno::ENOENT)?,
        }))
    }
}
