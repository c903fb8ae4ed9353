//! Changing attributes, extended attributes, flushing.
//!
//! Extended attributes: `user.*` may be read and written, `security.capability` read (exec needs
//! it). All others do not exist for the client: `trusted.*` and `security.*` steer the host's own
//! security modules, and `system.posix_acl_*` would promise rights that the Sentry does not check.
//! Writing `security.capability` is `EPERM`: a guest must not make privileged programs on the host.

use std::os::fd::{AsFd, OwnedFd};

use abi::Errno;

use crate::sys::{self, Component};
use crate::wire::MAX_VALUE;
use crate::wire::request::{Changes, Location};
use crate::wire::types::{Attr, FileKind, Name, NodeId, OpenFlags};

use super::dir::open_dir;
use super::modify::file_mode;
use super::node::{Node, Table};
use super::walk::open_node;

/// Answers `SetAttr`. In Linux's order: size, owner (which clears set-id bits), mode, times.
pub(super) fn set(
    table: &Table,
    node: NodeId,
    at: Option<Location<'_>>,
    c: &Changes,
) -> Result<Attr, Errno> {
    let node = table.get(node)?;
    node.check_writable()?;
    if let Some(size) = c.size {
        let (_, fd) = open_node(table, &node, at, OpenFlags::WRITE)?;
        sys::truncate(fd.as_fd(), size)?;
    }
    if c.owner.uid.is_some() || c.owner.gid.is_some() {
        sys::chown(node.fd(), c.owner.uid, c.owner.gid)?;
    }
    if let Some(mode) = c.mode {
        let mode = match node.kind() {
            FileKind::Symlink => return Err(Errno::EOPNOTSUPP),
            FileKind::Directory => mode & 0o7777,
            _ => file_mode(&node, mode)?,
        };
        match sys::chmod(node.fd(), mode) {
            Err(Errno::ENOSYS) => {
                sys::chmod_open(open_any(table, &node, at)?.as_fd(), mode)?;
            }
            other => other?,
        }
    }
    if c.atime.is_some() || c.mtime.is_some() {
        sys::set_times(node.fd(), c)?;
    }
    sys::stat(node.fd())
}

/// Opens a regular file or a directory for calls that want a real descriptor.
fn open_any(table: &Table, node: &Node, at: Option<Location<'_>>) -> Result<OwnedFd, Errno> {
    if node.kind() == FileKind::Directory {
        return open_dir(node.fd());
    }
    open_node(table, node, at, OpenFlags::READ).map(|(_, fd)| fd)
}

/// What a client may do with an extended attribute.
#[derive(PartialEq, Eq)]
enum Access {
    Full,
    Read,
    None,
}

fn access(name: &[u8]) -> Access {
    match name {
        b"security.capability" => Access::Read,
        n if n.starts_with(b"user.") && n.len() > 5 => Access::Full,
        _ => Access::None,
    }
}

/// Whether files of this kind can have the attributes that we serve (xattr(7)).
fn has_xattrs(node: &Node) -> bool {
    matches!(node.kind(), FileKind::Regular | FileKind::Directory)
}

/// Answers `GetXattr`.
pub(super) fn get_xattr(
    table: &Table,
    node: NodeId,
    at: Option<Location<'_>>,
    name: Name<'_>,
) -> Result<Vec<u8>, Errno> {
    let node = table.get(node)?;
    if access(name.0) == Access::None {
        return Err(Errno::EOPNOTSUPP);
    }
    if !has_xattrs(&node) {
        return Err(Errno::ENODATA);
    }
    let name = Component::unchecked(name.0)?;
    let fd = open_any(table, &node, at)?;
    let mut buf = vec![0; MAX_VALUE];
    let n = sys::get_xattr(fd.as_fd(), &name, &mut buf)?;
    buf.truncate(n);
    Ok(buf)
}

/// Answers `ListXattr`: the names that `GetXattr` serves.
pub(super) fn list_xattr(
    table: &Table,
    node: NodeId,
    at: Option<Location<'_>>,
) -> Result<Vec<u8>, Errno> {
    let node = table.get(node)?;
    if !has_xattrs(&node) {
        return Ok(Vec::new());
    }
    let fd = open_any(table, &node, at)?;
    let mut buf = vec![0; MAX_VALUE];
    let n = sys::list_xattr(fd.as_fd(), &mut buf)?;
    let mut out = Vec::new();
    for name in buf.get(..n).unwrap_or_default().split_inclusive(|&c| c == 0) {
        let bare = name.strip_suffix(&[0]).unwrap_or(name);
        if access(bare) != Access::None {
            out.extend_from_slice(name);
        }
    }
    Ok(out)
}

/// The checks before an extended attribute is changed.
fn check_change(node: &Node, name: Name<'_>) -> Result<Component, Errno> {
    node.check_writable()?;
    match access(name.0) {
        Access::Full => {}
        Access::Read => return Err(Errno::EPERM),
        Access::None => return Err(Errno::EOPNOTSUPP),
    }
    if !has_xattrs(node) {
        return Err(Errno::EPERM);
    }
    Component::unchecked(name.0)
}

/// Answers `SetXattr`.
pub(super) fn set_xattr(
    table: &Table,
    node: NodeId,
    at: Option<Location<'_>>,
    name: Name<'_>,
    value: &[u8],
    flags: u32,
) -> Result<(), Errno> {
    let node = table.get(node)?;
    let name = check_change(&node, name)?;
    if flags > 2 {
        return Err(Errno::EINVAL);
    }
    sys::set_xattr(open_any(table, &node, at)?.as_fd(), &name, value, flags as libc::c_int)
}

/// Answers `RemoveXattr`.
pub(super) fn remove_xattr(
    table: &Table,
    node: NodeId,
    at: Option<Location<'_>>,
    name: Name<'_>,
) -> Result<(), Errno> {
    let node = table.get(node)?;
    let name = check_change(&node, name)?;
    sys::remove_xattr(open_any(table, &node, at)?.as_fd(), &name)
}

/// Answers `Fsync`. `EINVAL` for files that have nothing to flush, as Linux has it.
pub(super) fn fsync(
    table: &Table,
    node: NodeId,
    at: Option<Location<'_>>,
    data_only: bool,
) -> Result<(), Errno> {
    let node = table.get(node)?;
    if !has_xattrs(&node) {
        return Err(Errno::EINVAL);
    }
    sys::sync(open_any(table, &node, at)?.as_fd(), data_only)
}
