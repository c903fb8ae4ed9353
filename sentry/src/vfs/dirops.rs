//! Changes of the tree: create, link, unlink, rename, truncate; with their checks in Linux's order
//! (fs/namei.c).
//!
//! Lock order: [`rename_lock`] -> `dir` of the parents (ancestor first, else by address) -> `dir` of
//! a victim.

use std::sync::Arc;

use abi::Errno;

use super::attr::SetAttr;
use super::dentry::rename_lock;
use super::namei::{Last, LastKind, WalkContext, child_locked};
use super::notify;
use super::perm::{self, Access};
use super::{Attr, Dentry, DentryPolicy, FileType, Inode, NewNode, NodeKind, Path};
use crate::kernel::{Caps, Credentials};

/// `RENAME_NOREPLACE`
pub const RENAME_NOREPLACE: u32 = 1;
/// `RENAME_EXCHANGE`
pub const RENAME_EXCHANGE: u32 = 2;
/// `RENAME_WHITEOUT`
pub const RENAME_WHITEOUT: u32 = 4;

/// Mode and ids of a file to be made.
pub(super) struct NewOwner {
    mode: u32,
    uid: u32,
    gid: u32,
}

impl NewOwner {
    /// Checks that `ctx` may make something in `dir` (whose lock is held), and says whose it will
    /// be (`inode_init_owner`).
    pub(super) fn check(
        ctx: &WalkContext<'_>,
        dir: &Path,
        mode: u32,
        is_dir: bool,
    ) -> Result<NewOwner, Errno> {
        if dir.mount.is_read_only() {
            return Err(Errno::EROFS);
        }
        if dir.dentry.is_unlinked() {
            return Err(Errno::ENOENT);
        }
        let cred = &*ctx.cred;
        let attr = dir.inode()?.attr()?;
        perm::check_attr(cred, &attr, Access::WRITE | Access::EXEC)?;
        Ok(NewOwner::of(cred, &attr, mode, is_dir))
    }

    fn of(cred: &Credentials, dir: &Attr, mut mode: u32, is_dir: bool) -> NewOwner {
        let mut gid = cred.fsgid;
        if dir.mode & libc::S_ISGID != 0 {
            gid = dir.gid;
            let sgid_exec = libc::S_ISGID | libc::S_IXGRP;
            if is_dir {
                mode |= libc::S_ISGID;
            } else if mode & sgid_exec == sgid_exec
                && !cred.in_group(gid)
                && !cred.capable(Caps::FSETID)
            {
                mode &= !libc::S_ISGID;
            }
        }
        NewOwner { mode, uid: cred.fsuid, gid }
    }

    fn node<'n>(&self, kind: NodeKind<'n>) -> NewNode<'n> {
        NewNode { mode: self.mode, uid: self.uid, gid: self.gid, kind }
    }
}

/// Makes the file behind a negative dentry. The directory's lock is held.
pub(super) fn make(
    dir: &Path,
    child: &Arc<Dentry>,
    name: &[u8],
    owner: &NewOwner,
    kind: NodeKind<'_>,
) -> Result<(), Errno> {
    make_by(dir, child, name, owner, kind, |parent, node| parent.create(name, node))
}

/// As [`make`], by a way of the file system's own.
pub(super) fn make_by(
    dir: &Path,
    child: &Arc<Dentry>,
    name: &[u8],
    owner: &NewOwner,
    kind: NodeKind<'_>,
    create: impl FnOnce(&Arc<dyn Inode>, &NewNode<'_>) -> Result<Arc<dyn Inode>, Errno>,
) -> Result<(), Errno> {
    let parent = dir.inode()?;
    let inode = create(&parent, &owner.node(kind))?;
    settle(dir, child, inode.clone());
    notify::name(&dir.dentry, name, &inode, libc::IN_CREATE);
    Ok(())
}

/// Makes a negative dentry positive and findable.
fn settle(dir: &Path, child: &Arc<Dentry>, inode: Arc<dyn Inode>) {
    child.set_inode(Some(inode));
    if caches(&dir.dentry) {
        dir.dentry.add_child(child.clone());
    }
}

fn caches(dir: &Arc<Dentry>) -> bool {
    dir.with_inode(|i| i.is_some_and(|i| i.dentry_policy() != DentryPolicy::Never))
}

fn keeps_negative(dir: &Arc<Dentry>) -> bool {
    dir.with_inode(|i| i.is_some_and(|i| i.dentry_policy() == DentryPolicy::Cache))
}

/// mkdir(2), mknod(2), symlink(2): makes `last` in `dir`. `mode` has the umask applied.
pub fn create(
    ctx: &WalkContext<'_>,
    dir: &Path,
    last: Last<'_>,
    mode: u32,
    kind: NodeKind<'_>,
) -> Result<(), Errno> {
    let is_dir = matches!(kind, NodeKind::Directory);
    let _exclusive = dir.dentry.dir.write();
    let child = vacant(dir, last, is_dir)?;
    let owner = NewOwner::check(ctx, dir, mode, is_dir)?;
    let is_device = match kind {
        // Anybody may make a whiteout.
        NodeKind::CharDevice(rdev) => rdev != 0,
        NodeKind::BlockDevice(_) => true,
        _ => false,
    };
    if is_device && !ctx.cred.capable(Caps::MKNOD) {
        return Err(Errno::EPERM);
    }
    make(dir, &child, last.name, &owner, kind)
}

/// The negative dentry for a new name, with the checks of `filename_create`.
fn vacant(dir: &Path, last: Last<'_>, is_dir: bool) -> Result<Arc<Dentry>, Errno> {
    if last.kind != LastKind::Normal {
        return Err(Errno::EEXIST);
    }
    let child = child_locked(&dir.dentry, last.name, b"")?;
    if child.with_inode(|i| i.is_some()) {
        return Err(Errno::EEXIST);
    }
    if last.slash && !is_dir {
        return Err(Errno::ENOENT);
    }
    Ok(child)
}

/// link(2): `last` in `dir` becomes another name of `old`.
pub fn link(ctx: &WalkContext<'_>, old: &Path, dir: &Path, last: Last<'_>) -> Result<(), Errno> {
    let _exclusive = dir.dentry.dir.write();
    let child = vacant(dir, last, false)?;
    if !Arc::ptr_eq(&old.mount, &dir.mount) {
        return Err(Errno::EXDEV);
    }
    NewOwner::check(ctx, dir, 0, false)?;
    let target = old.inode()?;
    if target.file_type() == FileType::Directory {
        return Err(Errno::EPERM);
    }
    if old.dentry.forbids_link() {
        return Err(Errno::ENOENT);
    }
    dir.inode()?.link(last.name, &target)?;
    settle(dir, &child, target.clone());
    notify::name(&dir.dentry, last.name, &target, libc::IN_CREATE);
    Ok(())
}

/// `O_TMPFILE`: a file without a name in the directory's file system.
pub(super) fn tmpfile(ctx: &WalkContext<'_>, dir: &Path, mode: u32) -> Result<Path, Errno> {
    if dir.mount.is_read_only() {
        return Err(Errno::EROFS);
    }
    let parent = dir.inode()?;
    if parent.file_type() != FileType::Directory {
        return Err(Errno::ENOTDIR);
    }
    let attr = parent.attr()?;
    perm::check_attr(&ctx.cred, &attr, Access::WRITE | Access::EXEC)?;
    let owner = NewOwner::of(&ctx.cred, &attr, mode & 0o7777, false);
    let inode = parent.tmpfile(&owner.node(NodeKind::Regular))?;
    let name = format!("#{}", inode.key().ino);
    let dentry = Dentry::new_child(&dir.dentry, name.as_bytes(), Some(inode));
    dentry.mark_unlinked();
    Ok(Path { mount: dir.mount.clone(), dentry })
}

/// Whether `victim` may be removed from `dir` (`may_delete`).
fn may_delete(
    cred: &Credentials,
    dir: &Path,
    victim: &Arc<dyn Inode>,
    as_dir: bool,
) -> Result<(), Errno> {
    let attr = dir.inode()?.attr()?;
    perm::check_attr(cred, &attr, Access::WRITE | Access::EXEC)?;
    if perm::sticky_forbids(cred, &attr, &victim.attr()?) {
        return Err(Errno::EPERM);
    }
    let is_dir = victim.file_type() == FileType::Directory;
    match (as_dir, is_dir) {
        (true, false) => Err(Errno::ENOTDIR),
        (false, true) => Err(Errno::EISDIR),
        _ if dir.dentry.is_unlinked() => Err(Errno::ENOENT),
        _ => Ok(()),
    }
}

/// unlink(2)
pub fn unlink(ctx: &WalkContext<'_>, dir: &Path, last: Last<'_>) -> Result<(), Errno> {
    if last.kind != LastKind::Normal {
        return Err(Errno::EISDIR);
    }
    if dir.mount.is_read_only() {
        return Err(Errno::EROFS);
    }
    let exclusive = dir.dentry.dir.write();
    let child = child_locked(&dir.dentry, last.name, b"")?;
    let victim = child.inode().ok_or(Errno::ENOENT)?;
    if last.slash {
        let is_dir = victim.file_type() == FileType::Directory;
        return Err(if is_dir { Errno::EISDIR } else { Errno::ENOTDIR });
    }
    may_delete(&ctx.cred, dir, &victim, false)?;
    if child.is_mountpoint() {
        return Err(Errno::EBUSY);
    }
    dir.inode()?.unlink(last.name, &victim)?;
    dir.dentry.forget_child(&child, keeps_negative(&dir.dentry));
    drop(exclusive);
    notify::name(&dir.dentry, last.name, &victim, libc::IN_DELETE);
    // Freeing the file's pages, if this was the last reference, needs no lock.
    drop((child, victim));
    Ok(())
}

/// rmdir(2)
pub fn rmdir(ctx: &WalkContext<'_>, dir: &Path, last: Last<'_>) -> Result<(), Errno> {
    match last.kind {
        LastKind::Normal => {}
        LastKind::Dot => return Err(Errno::EINVAL),
        LastKind::DotDot => return Err(Errno::ENOTEMPTY),
        LastKind::Root => return Err(Errno::EBUSY),
    }
    if dir.mount.is_read_only() {
        return Err(Errno::EROFS);
    }
    let _exclusive = dir.dentry.dir.write();
    let child = child_locked(&dir.dentry, last.name, b"")?;
    let victim = child.inode().ok_or(Errno::ENOENT)?;
    may_delete(&ctx.cred, dir, &victim, true)?;
    if child.is_mountpoint() {
        return Err(Errno::EBUSY);
    }
    // Keeps others from making something in it meanwhile.
    let _victim_exclusive = child.dir.write();
    dir.inode()?.rmdir(last.name, &victim)?;
    dir.dentry.forget_child(&child, keeps_negative(&dir.dentry));
    notify::name(&dir.dentry, last.name, &victim, libc::IN_DELETE);
    Ok(())
}

/// renameat2(2): `old_last` in `old_dir` to `new_last` in `new_dir`.
pub fn rename(
    ctx: &WalkContext<'_>,
    old_dir: &Path,
    old_last: Last<'_>,
    new_dir: &Path,
    new_last: Last<'_>,
    flags: u32,
) -> Result<(), Errno> {
    let (noreplace, exchange) = (flags & RENAME_NOREPLACE != 0, flags & RENAME_EXCHANGE != 0);
    if !Arc::ptr_eq(&old_dir.mount, &new_dir.mount) {
        return Err(Errno::EXDEV);
    }
    if old_last.kind != LastKind::Normal {
        return Err(Errno::EBUSY);
    }
    if new_last.kind != LastKind::Normal {
        return Err(if noreplace { Errno::EEXIST } else { Errno::EBUSY });
    }
    if old_dir.mount.is_read_only() {
        return Err(Errno::EROFS);
    }
    let _rename = rename_lock();
    let (first, second) = ordered(&old_dir.dentry, &new_dir.dentry);
    let _first = first.dir.write();
    let _second = second.map(|d| d.dir.write());

    let old = child_locked(&old_dir.dentry, old_last.name, b"")?;
    let old_inode = old.inode().ok_or(Errno::ENOENT)?;
    let new = child_locked(&new_dir.dentry, new_last.name, b"")?;
    let new_inode = new.inode();
    let is_dir = |i: &Arc<dyn Inode>| i.file_type() == FileType::Directory;
    if noreplace && new_inode.is_some() {
        return Err(Errno::EEXIST);
    }
    if exchange {
        let new_is_dir = is_dir(new_inode.as_ref().ok_or(Errno::ENOENT)?);
        if !new_is_dir && new_last.slash {
            return Err(Errno::ENOTDIR);
        }
    }
    if !is_dir(&old_inode) && (old_last.slash || !exchange && new_last.slash) {
        return Err(Errno::ENOTDIR);
    }
    if old.is_ancestor_of(&new_dir.dentry) {
        return Err(Errno::EINVAL);
    }
    if new.is_ancestor_of(&old_dir.dentry) {
        return Err(if exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
    }
    if new_inode.as_ref().is_some_and(|n| n.key() == old_inode.key()) {
        return Ok(());
    }
    may_delete(&ctx.cred, old_dir, &old_inode, is_dir(&old_inode))?;
    match &new_inode {
        None => {
            NewOwner::check(ctx, new_dir, 0, false)?;
        }
        Some(n) => {
            let as_dir = if exchange { is_dir(n) } else { is_dir(&old_inode) };
            may_delete(&ctx.cred, new_dir, n, as_dir)?;
        }
    }
    if !Arc::ptr_eq(&old_dir.dentry, &new_dir.dentry) {
        // Moving a directory changes its "..".
        if is_dir(&old_inode) {
            perm::check(&ctx.cred, &old_inode, Access::WRITE)?;
        }
        if let Some(n) = new_inode.as_ref().filter(|n| exchange && is_dir(n)) {
            perm::check(&ctx.cred, n, Access::WRITE)?;
        }
    }
    if old.is_mountpoint() || new.is_mountpoint() {
        return Err(Errno::EBUSY);
    }
    let victim_lock =
        new_inode.as_ref().filter(|n| !exchange && is_dir(n)).map(|_| new.dir.write());
    let target_dir = new_dir.inode()?;
    old_dir.inode()?.rename(old_last.name, &target_dir, new_last.name, exchange)?;
    drop(victim_lock);
    if exchange {
        old.exchange(&new);
    } else {
        new_dir.dentry.remove_child(&new);
        if new_inode.is_some() {
            new.mark_unlinked();
            new.drop_tree();
        }
        old.move_to(&new_dir.dentry, new_last.name);
        if flags & RENAME_WHITEOUT != 0 {
            let node = NewNode { mode: 0, uid: 0, gid: 0, kind: NodeKind::CharDevice(0) };
            let whiteout = old_dir.inode()?.create(old_last.name, &node)?;
            let dentry = Dentry::new_child(&old_dir.dentry, old_last.name, Some(whiteout));
            old_dir.dentry.add_child(dentry);
        } else if keeps_negative(&old_dir.dentry) {
            old_dir.dentry.add_child(Dentry::new_child(&old_dir.dentry, old_last.name, None));
        }
    }
    let (from, to) = ((&old_dir.dentry, old_last.name), (&new_dir.dentry, new_last.name));
    notify::moved(from, to, &old_inode);
    if let Some(other) = &new_inode {
        if exchange {
            notify::moved(to, from, other);
        } else {
            notify::gone(other);
        }
    }
    Ok(())
}

/// Two directories in the order in which they are locked.
fn ordered<'d>(
    a: &'d Arc<Dentry>,
    b: &'d Arc<Dentry>,
) -> (&'d Arc<Dentry>, Option<&'d Arc<Dentry>>) {
    if Arc::ptr_eq(a, b) {
        return (a, None);
    }
    let b_first = b.is_ancestor_of(a) || !a.is_ancestor_of(b) && Arc::as_ptr(b) < Arc::as_ptr(a);
    if b_first { (b, Some(a)) } else { (a, Some(b)) }
}

/// The set-id bits that a change of content takes away (`setattr_should_drop_suidgid`): the new
/// mode, if it differs.
pub fn without_privileges(cred: &Credentials, attr: &Attr) -> Option<u32> {
    let set_ids = libc::S_ISUID | libc::S_ISGID;
    if attr.mode & set_ids == 0
        || attr.file_type() != FileType::Regular
        || cred.capable(Caps::FSETID)
    {
        return None;
    }
    let mut mode = attr.mode & 0o7777 & !libc::S_ISUID;
    if attr.mode & libc::S_IXGRP != 0 || !cred.in_group(attr.gid) {
        mode &= !libc::S_ISGID;
    }
    (mode != attr.mode & 0o7777).then_some(mode)
}

/// Changes a file's size, and takes its set-id bits (`do_truncate`). Access has been checked.
pub fn truncate_inode(cred: &Credentials, inode: &Arc<dyn Inode>, size: u64) -> Result<(), Errno> {
    let mode = without_privileges(cred, &inode.attr()?);
    inode.set_attr(&SetAttr { size: Some(size), mode, ..SetAttr::default() })
}
