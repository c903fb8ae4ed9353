//! Creating, removing and renaming.
//!
//! Names that the filter hides cannot be created (`EACCES`) and do not exist (`ENOENT`).

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use abi::Errno;

use crate::sys::{self, Component};
use crate::wire::reply::NodeInfo;
use crate::wire::request::{Location, Owner};
use crate::wire::types::{Attr, ExportFlags, FileKind, NodeId, OpenFlags, RenameFlags};

use super::filter::Progress;
use super::node::{Node, Table};
use super::walk::{self, child, locate, visible};

const SUID_BITS: u32 = libc::S_ISUID | libc::S_ISGID;

/// The directory and name for something new.
fn place(table: &Table, at: Location<'_>) -> Result<(Arc<Node>, Component, Progress), Errno> {
    let dir = table.get(at.dir)?;
    dir.check_dir()?;
    let name = Component::new(at.name)?;
    dir.check_writable()?;
    let progress = visible(&dir, at.name).map_err(|_| Errno::EACCES)?;
    Ok((dir, name, progress))
}

/// The permission bits of a new file: `EPERM` for set-id bits where the export forbids them.
pub(super) fn file_mode(dir: &Node, mode: u32) -> Result<u32, Errno> {
    if mode & SUID_BITS != 0 && dir.export().flags.contains(ExportFlags::NO_SUID) {
        return Err(Errno::EPERM);
    }
    Ok(mode & 0o7777)
}

/// Gives a new file to its owner. A change of owner clears set-id bits, so the mode is set again.
fn give(
    fd: std::os::fd::BorrowedFd<'_>,
    attr: &Attr,
    owner: Owner,
    mode: u32,
) -> Result<(), Errno> {
    let uid = owner.uid.filter(|&u| u != attr.uid);
    let gid = owner.gid.filter(|&g| g != attr.gid);
    if uid.is_none() && gid.is_none() {
        return Ok(());
    }
    sys::chown(fd, uid, gid)?;
    if mode & SUID_BITS != 0 && attr.kind() == FileKind::Regular {
        sys::chmod(fd, mode)?;
    }
    Ok(())
}

/// Answers `Create`.
pub(super) fn create(
    table: &Table,
    at: Location<'_>,
    mode: u32,
    flags: OpenFlags,
    owner: Owner,
) -> Result<(NodeInfo, OwnedFd), Errno> {
    let (dir, name, progress) = place(table, at)?;
    if !flags.intersects(OpenFlags::READ | OpenFlags::WRITE) {
        return Err(Errno::EINVAL);
    }
    let mode = file_mode(&dir, mode)?;
    let host = walk::host_flags(flags) | libc::O_CREAT | libc::O_EXCL;
    let fd = sys::open(dir.fd(), &name, host, mode)?;
    let finish = || {
        give(fd.as_fd(), &sys::stat(fd.as_fd())?, owner, mode)?;
        let attr = sys::stat(fd.as_fd())?;
        // The node holds the opened file itself: whatever happened to the name meanwhile, it is
        // the file that was created.
        let held = fd.try_clone().map_err(Errno::from)?;
        let node = Node::new(held, dir.export().clone(), progress, &attr);
        Ok(NodeInfo { id: table.insert(Arc::new(node))?, attr })
    };
    match finish() {
        Ok(info) => Ok((info, fd)),
        Err(e) => {
            let _ = sys::unlink(dir.fd(), &name, false);
            Err(e)
        }
    }
}

/// Looks up what was just created under `at`, gives it to its owner and makes it a node. Takes it
/// away again if that fails.
fn adopt(
    table: &Table,
    dir: &Node,
    at: Location<'_>,
    name: &Component,
    kind: FileKind,
    mode: u32,
    owner: Owner,
) -> Result<NodeInfo, Errno> {
    let finish = || {
        let (node, attr) = child(dir, at.name)?;
        if attr.kind() != kind {
            return Err(Errno::ESTALE);
        }
        give(node.fd(), &attr, owner, mode)?;
        let attr = sys::stat(node.fd())?;
        Ok(NodeInfo { id: table.insert(Arc::new(node))?, attr })
    };
    finish().inspect_err(|_| {
        let _ = sys::unlink(dir.fd(), name, kind == FileKind::Directory);
    })
}

/// Answers `Mkdir`.
pub(super) fn mkdir(
    table: &Table,
    at: Location<'_>,
    mode: u32,
    owner: Owner,
) -> Result<NodeInfo, Errno> {
    let (dir, name, _) = place(table, at)?;
    // Set-group-id on a directory is about inheritance, not privilege.
    let mode = mode & 0o7777;
    sys::mkdir(dir.fd(), &name, mode)?;
    adopt(table, &dir, at, &name, FileKind::Directory, mode, owner)
}

/// Answers `Symlink`.
pub(super) fn symlink(
    table: &Table,
    at: Location<'_>,
    target: &[u8],
    owner: Owner,
) -> Result<NodeInfo, Errno> {
    let (dir, name, _) = place(table, at)?;
    if target.is_empty() {
        return Err(Errno::ENOENT);
    }
    let target = CString::new(target).map_err(|_| Errno::EINVAL)?;
    sys::symlink(&target, dir.fd(), &name)?;
    adopt(table, &dir, at, &name, FileKind::Symlink, 0, owner)
}

/// Answers `Mknod`. `EPERM` for devices, `EINVAL` for types that mknod(2) does not make.
pub(super) fn mknod(
    table: &Table,
    at: Location<'_>,
    mode: u32,
    owner: Owner,
) -> Result<NodeInfo, Errno> {
    let (dir, name, _) = place(table, at)?;
    let kind = match FileKind::from_mode(mode) {
        Some(k @ (FileKind::Regular | FileKind::Fifo | FileKind::Socket)) => k,
        Some(FileKind::CharDevice | FileKind::BlockDevice | FileKind::Directory) => {
            return Err(Errno::EPERM);
        }
        Some(FileKind::Symlink) | None => return Err(Errno::EINVAL),
    };
    let bits = file_mode(&dir, mode)?;
    sys::mknod(dir.fd(), &name, kind.mode_bits() | bits)?;
    adopt(table, &dir, at, &name, kind, bits, owner)
}

/// Answers `Link`. The source is linked by its descriptor; where the host wants a capability for
/// that, by its location, and what was linked is checked afterwards (`ESTALE` if another file).
pub(super) fn link(
    table: &Table,
    node: NodeId,
    from: Location<'_>,
    at: Location<'_>,
) -> Result<Attr, Errno> {
    let node = table.get(node)?;
    let (dir, name, _) = place(table, at)?;
    if !Arc::ptr_eq(node.export(), dir.export()) {
        return Err(Errno::EXDEV);
    }
    match node.kind() {
        FileKind::Directory => return Err(Errno::EPERM),
        FileKind::CharDevice | FileKind::BlockDevice => return Err(Errno::EPERM),
        _ => {}
    }
    match sys::link_fd(node.fd(), dir.fd(), &name) {
        Err(Errno::ENOENT | Errno::EPERM | Errno::EACCES | Errno::EINVAL) => {
            let (old_dir, old) = locate(table, from, Some(&node))?;
            sys::link_at(old_dir.fd(), &old, dir.fd(), &name)?;
            if sys::stat_at(dir.fd(), &name)?.identity() != node.identity() {
                let _ = sys::unlink(dir.fd(), &name, false);
                return Err(Errno::ESTALE);
            }
        }
        other => other?,
    }
    sys::stat(node.fd())
}

/// Answers `Unlink`.
pub(super) fn unlink(table: &Table, at: Location<'_>, rmdir: bool) -> Result<(), Errno> {
    let (dir, name) = locate(table, at, None)?;
    dir.check_writable()?;
    refuse_hidden_file(&dir, &name, Errno::ENOENT)?;
    sys::unlink(dir.fd(), &name, rmdir)
}

/// Refuses a name that leads to a file which the filter hides by identity.
fn refuse_hidden_file(dir: &Node, name: &Component, error: Errno) -> Result<(), Errno> {
    match sys::stat_at(dir.fd(), name) {
        Ok(attr) if dir.filter().hides_file(&attr) => Err(error),
        _ => Ok(()),
    }
}

/// Answers `Rename`.
pub(super) fn rename(
    table: &Table,
    from: Location<'_>,
    to: Location<'_>,
    flags: RenameFlags,
) -> Result<(), Errno> {
    let (old_dir, old) = locate(table, from, None)?;
    old_dir.check_writable()?;
    let (new_dir, new, new_progress) = place(table, to)?;
    if !Arc::ptr_eq(old_dir.export(), new_dir.export()) {
        return Err(Errno::EXDEV);
    }
    let filter = old_dir.filter();
    let old_progress = visible(&old_dir, from.name)?;
    if filter.is_anchor(&old_progress) || filter.is_anchor(&new_progress) {
        return Err(Errno::EACCES);
    }
    refuse_hidden_file(&old_dir, &old, Errno::ENOENT)?;
    refuse_hidden_file(&new_dir, &new, Errno::EACCES)?;
    sys::rename(old_dir.fd(), &old, new_dir.fd(), &new, flags.bits())
}
