//! Looking up names and opening files.
//!
//! Each component is opened by itself (`O_PATH`, below the directory's descriptor, no links
//! followed), so a rename during the walk can at worst move the client within what it was already
//! shown. Mount points below an export's root are crossed, because an export is often put together
//! from bind mounts; kernel file systems behind them are refused.
//!
//! An `O_PATH` descriptor of a regular file cannot be reopened without procfs, so a file is opened
//! by its directory and name, and the result compared with the node. If the file has moved
//! meanwhile the answer is `ESTALE`, and the client looks it up again. Directories are opened
//! through `"."` of their own descriptor, which always works.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use abi::Errno;

use crate::sys::{self, Component};
use crate::wire::reply::{NodeInfo, WalkReply};
use crate::wire::request::Location;
use crate::wire::types::{Attr, ExportFlags, FileKind, LinkTarget, Name, NodeId, OpenFlags};

use super::export::is_kernel_interface;
use super::filter::{Progress, Verdict};
use super::node::{Node, Table};

/// What the filter leaves of a name in a directory: the progress behind it, or `ENOENT`.
pub(super) fn visible(dir: &Node, name: Name<'_>) -> Result<Progress, Errno> {
    match dir.filter().step(dir.progress(), name.0) {
        Verdict::Hidden => Err(Errno::ENOENT),
        Verdict::Visible(progress) => Ok(progress),
    }
}

/// Looks up one component. Errors: those of [`Name::check`], `ENOTDIR`, `ENOENT` (missing or
/// hidden), `EACCES` (a kernel file system, or a directory that is not public), the host's.
pub(super) fn child(dir: &Node, name: Name<'_>) -> Result<(Node, Attr), Errno> {
    dir.check_dir()?;
    let component = Component::new(name)?;
    dir.check_public(0o1)?;
    let progress = visible(dir, name)?;
    let fd = sys::open_path(dir.fd(), &component)?;
    let attr = sys::stat(fd.as_fd())?;
    let crossed = attr.mnt_id != dir.mnt_id() || attr.dev != dir.identity().0;
    if crossed && is_kernel_interface(sys::stat_fs(fd.as_fd())?.fs_type) {
        return Err(Errno::EACCES);
    }
    if dir.filter().hides_file(&attr) {
        return Err(Errno::ENOENT);
    }
    Ok((Node::new(fd, dir.export().clone(), progress, &attr), attr))
}

/// Answers `Walk`.
pub(super) fn walk(
    table: &Table,
    dir: NodeId,
    names: &[Name<'_>],
    flags: Option<OpenFlags>,
) -> Result<(WalkReply, Option<OwnedFd>), Errno> {
    let mut dir = table.get(dir)?;
    dir.check_dir()?;
    let mut reply = WalkReply { found: Vec::new(), errno: 0, link: None, opened: false };
    let mut opened = None;
    for (i, &name) in names.iter().enumerate() {
        let (node, attr) = match child(&dir, name) {
            Ok(found) => found,
            Err(e) => {
                reply.errno = e.raw() as u32;
                break;
            }
        };
        let node = Arc::new(node);
        match table.insert(node.clone()) {
            Ok(id) => reply.found.push(NodeInfo { id, attr }),
            Err(e) => {
                reply.errno = e.raw() as u32;
                break;
            }
        }
        let last = i + 1 == names.len();
        match node.kind() {
            FileKind::Directory if !last => dir = node,
            FileKind::Symlink => {
                match sys::read_link(node.fd()) {
                    Ok(target) => reply.link = Some(LinkTarget(target)),
                    Err(e) => reply.errno = e.raw() as u32,
                }
                break;
            }
            _ if !last => {
                reply.errno = Errno::ENOTDIR.raw() as u32;
                break;
            }
            FileKind::Regular => {
                let Some(flags) = flags else { break };
                match Component::new(name).and_then(|c| open_named(&dir, &c, &node, flags)) {
                    Ok((attr, fd)) => {
                        if let Some(last) = reply.found.last_mut() {
                            last.attr = attr;
                        }
                        opened = Some(fd);
                        reply.opened = true;
                    }
                    Err(e) => reply.errno = e.raw() as u32,
                }
            }
            _ => {}
        }
    }
    Ok((reply, opened))
}

/// The directory and the checked name of a location, which must be in the same export as `node`.
/// `ENOENT` if the filter hides it.
pub(super) fn locate(
    table: &Table,
    at: Location<'_>,
    node: Option<&Node>,
) -> Result<(Arc<Node>, Component), Errno> {
    let dir = table.get(at.dir)?;
    dir.check_dir()?;
    let name = Component::new(at.name)?;
    if node.is_some_and(|n| !Arc::ptr_eq(n.export(), dir.export())) {
        return Err(Errno::EXDEV);
    }
    visible(&dir, at.name)?;
    Ok((dir, name))
}

/// Answers `Open`. Only regular files are opened: `EISDIR` for a directory, `ELOOP` for a symbolic
/// link, `ENXIO` for a FIFO or socket, `EACCES` for a device (as on a mount with `nodev`).
pub(super) fn open(
    table: &Table,
    node: NodeId,
    at: Option<Location<'_>>,
    flags: OpenFlags,
) -> Result<(Attr, OwnedFd), Errno> {
    open_node(table, &*table.get(node)?, at, flags)
}

/// Opens a regular file, by its location or as the single file of its export. Returns what it is now.
pub(super) fn open_node(
    table: &Table,
    node: &Node,
    at: Option<Location<'_>>,
    flags: OpenFlags,
) -> Result<(Attr, OwnedFd), Errno> {
    match node.kind() {
        FileKind::Regular => {}
        FileKind::Directory => return Err(Errno::EISDIR),
        FileKind::Symlink => return Err(Errno::ELOOP),
        FileKind::Fifo | FileKind::Socket => return Err(Errno::ENXIO),
        FileKind::CharDevice | FileKind::BlockDevice => return Err(Errno::EACCES),
    }
    if node.export().flags.contains(ExportFlags::SINGLE_FILE) {
        check_flags(node, flags)?;
        let fd = node.export().root.try_clone().map_err(Errno::from)?;
        if flags.contains(OpenFlags::TRUNCATE) {
            sys::truncate(fd.as_fd(), 0)?;
        }
        return Ok((sys::stat(fd.as_fd())?, fd));
    }
    let (dir, name) = locate(table, at.ok_or(Errno::ESTALE)?, Some(node))?;
    // Look before opening: the name may lead to a FIFO or a device by now, whose opening acts.
    if sys::stat_at(dir.fd(), &name)?.identity() != node.identity() {
        return Err(Errno::ESTALE);
    }
    open_named(&dir, &name, node, flags)
}

fn check_flags(node: &Node, flags: OpenFlags) -> Result<(), Errno> {
    if !flags.intersects(OpenFlags::READ | OpenFlags::WRITE) {
        return Err(Errno::EINVAL);
    }
    if flags.mutates() {
        node.check_writable()?;
    }
    node.check_public(0o4)
}

/// `open(2)` flags for ours.
pub(super) fn host_flags(flags: OpenFlags) -> libc::c_int {
    let mut host = match (flags.contains(OpenFlags::READ), flags.contains(OpenFlags::WRITE)) {
        (true, true) => libc::O_RDWR,
        (false, true) => libc::O_WRONLY,
        _ => libc::O_RDONLY,
    };
    // O_NONBLOCK: should the name lead to a FIFO after all, the open does not wait.
    host |= libc::O_NONBLOCK;
    for (ours, theirs) in [
        (OpenFlags::APPEND, libc::O_APPEND),
        (OpenFlags::SYNC, libc::O_SYNC),
        (OpenFlags::DSYNC, libc::O_DSYNC),
    ] {
        if flags.contains(ours) {
            host |= theirs;
        }
    }
    host
}

/// Opens `name` in `dir` and checks that it is the regular file `node`: `ESTALE` if not. Returns what
/// it is now.
fn open_named(
    dir: &Node,
    name: &Component,
    node: &Node,
    flags: OpenFlags,
) -> Result<(Attr, OwnedFd), Errno> {
    check_flags(node, flags)?;
    let fd = match sys::open(dir.fd(), name, host_flags(flags), 0) {
        // A symbolic link stands there now, or nothing.
        Err(Errno::ELOOP | Errno::ENOENT) => return Err(Errno::ESTALE),
        other => other?,
    };
    let attr = sys::stat(fd.as_fd())?;
    if attr.kind() != FileKind::Regular || attr.identity() != node.identity() {
        return Err(Errno::ESTALE);
    }
    if !flags.contains(OpenFlags::TRUNCATE) {
        return Ok((attr, fd));
    }
    // Not by O_TRUNC: that would cut a wrong file before it is recognised as such.
    if flags.contains(OpenFlags::WRITE) {
        sys::truncate(fd.as_fd(), 0)?;
    } else {
        let writable = sys::open(dir.fd(), name, libc::O_WRONLY | libc::O_NONBLOCK, 0)?;
        if sys::stat(writable.as_fd())?.identity() != node.identity() {
            return Err(Errno::ESTALE);
        }
        sys::truncate(writable.as_fd(), 0)?;
    }
    Ok((sys::stat(fd.as_fd())?, fd))
}
