//! `/proc/PID/fd` and `fdinfo`.

use std::fmt::Write as _;
use std::sync::{Arc, Weak};

use abi::Errno;

use super::parse_number;
use super::task_dir::may_inspect;
use crate::fs::pseudo::{Content, Directory, Link, Listed, Node, PseudoFs};
use crate::kernel::Task;
use crate::vfs::{DentryPolicy, FileDescription, FileType, LinkTarget, OpenFlags};

/// `fd`, or `fdinfo` if `info`.
pub(super) struct FdDir {
    pub(super) task: Weak<Task>,
    pub(super) info: bool,
    /// The directory's own inode number; its entries follow.
    pub(super) ino: u64,
}

fn file(task: &Weak<Task>, fd: i32) -> Result<(Arc<FileDescription>, bool), Errno> {
    let task = task.upgrade().ok_or(Errno::ENOENT)?;
    task.files().ok_or(Errno::ENOENT)?.get_with_flag(fd).map_err(|_| Errno::ENOENT)
}

impl Directory for FdDir {
    fn lookup(&self, fs: &Arc<PseudoFs>, name: &[u8]) -> Result<Arc<Node>, Errno> {
        let task = self.task.upgrade().ok_or(Errno::ENOENT)?;
        let fd = parse_number(name).ok_or(Errno::ENOENT)?;
        let (open, _) = file(&self.task, fd)?;
        let ino = self.ino + 1 + (fd as u64 & 0x1ff);
        let weak = self.task.clone();
        let node = if self.info {
            Node::file(fs, ino, 0o400, FdInfo { task: weak, fd })
        } else {
            let flags = open.flags();
            let path_only = flags.contains(OpenFlags::PATH);
            let read = if flags.readable() || path_only { 0o500 } else { 0o100 };
            let write = if flags.writable() || path_only { 0o300 } else { 0o100 };
            Node::link(fs, ino, read | write, FdLink { task: weak, fd })
        };
        Ok(Arc::new(node.owned_by(&task)))
    }

    fn list(&self) -> Vec<Listed> {
        let files = self.task.upgrade().and_then(|t| t.files());
        let kind = if self.info { FileType::Regular } else { FileType::Symlink };
        let entry = |fd: i32| Listed {
            name: fd.to_string().into_bytes(),
            ino: self.ino + 1 + (fd as u64 & 0x1ff),
            kind,
        };
        files.map(|f| f.fds().into_iter().map(entry).collect()).unwrap_or_default()
    }

    fn place(&self, _: usize, child: &Listed) -> u64 {
        parse_number(&child.name).map_or(0, |fd| fd as u64)
    }

    fn policy(&self) -> DentryPolicy {
        DentryPolicy::Never
    }
}

struct FdLink {
    task: Weak<Task>,
    fd: i32,
}

impl Link for FdLink {
    fn target(&self, reader: &Task) -> Result<LinkTarget, Errno> {
        let task = self.task.upgrade().ok_or(Errno::ENOENT)?;
        if !may_inspect(reader, &task) {
            return Err(Errno::EACCES);
        }
        Ok(LinkTarget::Jump(file(&self.task, self.fd)?.0.path().clone()))
    }
}

struct FdInfo {
    task: Weak<Task>,
    fd: i32,
}

impl Content for FdInfo {
    fn read(&self, _: &Task) -> Result<Vec<u8>, Errno> {
        let (open, cloexec) = file(&self.task, self.fd)?;
        let mut flags = open.flags();
        flags.set(OpenFlags::CLOEXEC, cloexec);
        let pos = *open.pos().lock();
        let mut out = format!(
            "pos:\t{pos}\nflags:\t0{:o}\nmnt_id:\t{}\n",
            flags.bits(),
            open.path().mount.id
        );
        if let Ok(inode) = open.inode() {
            let _ = writeln!(out, "ino:\t{}", inode.key().ino);
        }
        open.ops().fd_info(&mut out);
        Ok(out.into_bytes())
    }
}
