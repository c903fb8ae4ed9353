//! procfs (proc(5)): what programs read about the machine and about tasks.
//!
//! [`system`], [`sysctl`] and [`ipc`] are about the machine, [`task_dir`] builds `/proc/PID`, whose files are
//! in [`status`], [`maps`], [`memory`], [`mounts`] and [`fd`].

mod cpuinfo;
mod fd;
mod ipc;
mod maps;
mod memory;
mod mounts;
mod status;
mod sysctl;
pub mod system;
mod task_dir;

use std::sync::{Arc, Weak};

use abi::Errno;

use super::pseudo::{Directory, Link, Listed, Node, PseudoFs, StaticDir};
use crate::kernel::{Kernel, Task};
use crate::vfs::{Dentry, DentryPolicy, FileType, LinkTarget, Mount, MountFlags};

/// `PROC_SUPER_MAGIC`
const MAGIC: i64 = 0x9fa0;
/// Inode number of the root (`PROC_ROOT_INO`).
const ROOT_INO: u64 = 1;
/// Processes come after this many other entries (`FIRST_PROCESS_ENTRY`).
const FIRST_PROCESS_PLACE: u64 = 256;
/// Fixed files are numbered from here, as Linux does (`PROC_DYNAMIC_FIRST`).
const FIRST_FIXED_INO: u64 = 0xf000_0000;

/// A mount of a new procfs.
pub fn mount(kernel: &Arc<Kernel>, flags: MountFlags) -> Arc<Mount> {
    let fs = PseudoFs::new("proc", MAGIC);
    let mut last = FIRST_FIXED_INO;
    let mut next_ino = || {
        last += 1;
        last
    };
    let sys = sysctl::dir(&fs, &mut next_ino);
    let root = StaticDir::default()
        .with("self", Node::link(&fs, next_ino(), 0o777, SelfLink { thread: false }))
        .with("thread-self", Node::link(&fs, next_ino(), 0o777, SelfLink { thread: true }))
        .with("sys", Node::dir(&fs, next_ino(), 0o555, sys))
        .with("sysvipc", ipc::tables(&fs, &mut next_ino));
    let fixed = system::add(root, &fs, &mut next_ino);
    let root = Root { kernel: Arc::downgrade(kernel), fixed };
    let node = Arc::new(Node::dir(&fs, ROOT_INO, 0o555, root));
    Mount::new(fs, Dentry::root(b"/", node), "proc", flags)
}

/// The root: fixed entries, and a directory for each process.
struct Root {
    kernel: Weak<Kernel>,
    fixed: StaticDir,
}

impl Directory for Root {
    fn lookup(&self, fs: &Arc<PseudoFs>, name: &[u8]) -> Result<Arc<Node>, Errno> {
        if let Some(tid) = parse_number(name) {
            let kernel = self.kernel.upgrade().ok_or(Errno::ENOENT)?;
            let task = kernel.tasks.get(tid).ok_or(Errno::ENOENT)?;
            return Ok(Arc::new(task_dir::node(fs, &task, false)));
        }
        self.fixed.lookup(fs, name)
    }

    fn list(&self) -> Vec<Listed> {
        let mut list = self.fixed.list();
        let tasks = self.kernel.upgrade().map(|k| k.tasks.all()).unwrap_or_default();
        list.extend(tasks.iter().filter(|t| t.group.tgid == t.tid()).map(|t| Listed {
            name: t.tid().to_string().into_bytes(),
            ino: task_dir::ino(t, false, 0),
            kind: FileType::Directory,
        }));
        list
    }

    fn place(&self, index: usize, child: &Listed) -> u64 {
        match parse_number(&child.name) {
            Some(pid) => FIRST_PROCESS_PLACE + pid as u64,
            None => index as u64,
        }
    }

    fn policy(&self) -> DentryPolicy {
        DentryPolicy::Never
    }
}

/// A decimal number as Linux takes it for a name: no sign, no leading zero.
fn parse_number(name: &[u8]) -> Option<i32> {
    if name.is_empty() || name.len() > 10 || name[0] == b'0' && name.len() > 1 {
        return None;
    }
    std::str::from_utf8(name).ok().filter(|s| s.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
}

/// `/proc/self` and `/proc/thread-self`.
struct SelfLink {
    thread: bool,
}

impl Link for SelfLink {
    fn target(&self, task: &Task) -> Result<LinkTarget, Errno> {
        let tgid = task.group.tgid;
        let text = match self.thread {
            false => tgid.to_string(),
            true => format!("{tgid}/task/{}", task.tid()),
        };
        Ok(LinkTarget::Text(text.into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_processes() {
        assert_eq!(parse_number(b"12"), Some(12));
        assert_eq!(parse_number(b"0"), Some(0));
        for bad in ["", "01", "+1", "-1", "1x", "99999999999", "4294967296"] {
            assert_eq!(parse_number(bad.as_bytes()), None, "{bad}");
        }
    }
}
