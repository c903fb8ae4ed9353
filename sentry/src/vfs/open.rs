//! open(2) and its kin (`do_open` and `open_last_lookups` of fs/namei.c).

use std::any::Any;
use std::borrow::Cow;
use std::sync::Arc;

use abi::Errno;

use super::dirops::{self, NewOwner};
use super::namei::{LastKind, LookupFlags, WalkContext, Walker, child_locked, is_dir};
use super::notify;
use super::perm::{self, Access};
use super::text_busy::Hold;
use super::{
    Dentry, FileDescription, FileOps, FileType, Inode, MountFlags, NodeKind, OpenArgs, OpenFlags,
    PATH_MAX, Path,
};
use crate::kernel::{Credentials, Task};

/// An `O_PATH` file: a place, nothing more.
struct Place;

impl FileOps for Place {
    fn seekable(&self) -> bool {
        false
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Checks the combination of flags as `build_open_flags` does. `EINVAL`.
pub fn check_flags(flags: OpenFlags) -> Result<(), Errno> {
    let tmpfile = OpenFlags::TMPFILE - OpenFlags::DIRECTORY;
    if flags.intersects(tmpfile) {
        let with_dir = flags.contains(OpenFlags::DIRECTORY);
        if !with_dir || flags.contains(OpenFlags::CREAT) || !flags.writable() {
            return Err(Errno::EINVAL);
        }
    } else if flags.contains(OpenFlags::CREAT | OpenFlags::DIRECTORY) {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// How many times in a row the host may make a file and remove it again just when a guest is about to.
const OUTRUN: u32 = 100;

/// Opens `path` for a system call. `mode` counts for `O_CREAT` and `O_TMPFILE`. May block (named
/// pipes).
pub fn open(
    task: &Task,
    dirfd: i32,
    path: &[u8],
    flags: OpenFlags,
    mode: u32,
) -> Result<Arc<FileDescription>, Errno> {
    open_how(task, dirfd, path, flags, mode, LookupFlags::empty())
}

/// As [`open`], with the restrictions of openat2(2).
pub fn open_how(
    task: &Task,
    dirfd: i32,
    path: &[u8],
    flags: OpenFlags,
    mode: u32,
    resolve: LookupFlags,
) -> Result<Arc<FileDescription>, Errno> {
    let ctx = WalkContext::of(task);
    let (place, created) = locate(&ctx, dirfd, path, flags, mode, resolve)?;
    if flags.contains(OpenFlags::PATH) {
        let keep = OpenFlags::PATH | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW;
        return FileDescription::new(Box::new(Place), place, flags & keep, ctx.cred.clone());
    }
    if flags.contains(OpenFlags::TMPFILE) {
        let place = dirops::tmpfile(&ctx, &place, mode & !task.fs().umask())?;
        if flags.contains(OpenFlags::EXCL) {
            place.dentry.forbid_link();
        }
        return finish(task, &ctx.cred, place, flags - OpenFlags::TMPFILE);
    }
    let inode = place.inode()?;
    let truncate =
        flags.contains(OpenFlags::TRUNC) && !created && inode.file_type() == FileType::Regular;
    let file = finish(task, &ctx.cred, place, flags)?;
    if truncate {
        let _hold = Hold::write(&*inode)?;
        dirops::truncate_inode(&ctx.cred, &inode, 0)?;
        notify::file(&file.path().dentry, libc::IN_MODIFY);
    }
    Ok(file)
}

/// What is to be opened: for `O_TMPFILE`, the directory. Regular files are made where `O_CREAT` says so,
/// which is told; access to others is checked.
pub(super) fn locate(
    ctx: &WalkContext<'_>,
    dirfd: i32,
    path: &[u8],
    flags: OpenFlags,
    mode: u32,
    resolve: LookupFlags,
) -> Result<(Path, bool), Errno> {
    check_flags(flags)?;
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    if path.len() >= PATH_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    let scoped = resolve.intersects(LookupFlags::BENEATH | LookupFlags::IN_ROOT);
    // Within a scope, `/` is the directory itself.
    let start = ctx.start(dirfd, if scoped { b"" } else { path })?;
    if flags.intersects(OpenFlags::PATH | (OpenFlags::TMPFILE - OpenFlags::DIRECTORY)) {
        let mut lookup = resolve;
        lookup.set(LookupFlags::FOLLOW, !flags.contains(OpenFlags::NOFOLLOW));
        lookup.set(LookupFlags::DIRECTORY, flags.contains(OpenFlags::DIRECTORY));
        return ctx.lookup(start, path, lookup).map(|place| (place, false));
    }
    let (place, created) = resolve_last(ctx, start, path, flags, mode, resolve)?;
    if flags.contains(OpenFlags::CREAT) {
        if flags.contains(OpenFlags::EXCL) && !created {
            return Err(Errno::EEXIST);
        }
        if is_dir(&place) {
            return Err(Errno::EISDIR);
        }
    }
    if !created {
        may_open(&ctx.cred, &place, &place.inode()?, flags)?;
    }
    Ok((place, created))
}

/// Walks to the last component, and creates it if `O_CREAT` says so and it is not there.
fn resolve_last(
    ctx: &WalkContext<'_>,
    start: Path,
    path: &[u8],
    flags: OpenFlags,
    mode: u32,
    resolve: LookupFlags,
) -> Result<(Path, bool), Errno> {
    let create = flags.contains(OpenFlags::CREAT);
    let no_follow =
        flags.contains(OpenFlags::NOFOLLOW) || create && flags.contains(OpenFlags::EXCL);
    let mut follow = !no_follow;
    let mut must_be_dir = flags.contains(OpenFlags::DIRECTORY);
    let mut walker = Walker::new(ctx, start, resolve);
    let mut text = Cow::Borrowed(path);
    let created = loop {
        let last = walker.walk_parent(&text)?;
        must_be_dir |= last.slash && last.kind == LastKind::Normal;
        if last.kind != LastKind::Normal {
            walker.step_last(last, true)?;
            break false;
        }
        if create && last.slash {
            return Err(Errno::EISDIR);
        }
        // From here on: also what the link leads to, if that is one.
        follow |= last.slash;
        let mut child = walker.child(last.name, b"")?;
        let mut created = false;
        if create && child.with_inode(|i| i.is_none()) {
            let exclusive = flags.contains(OpenFlags::EXCL);
            (child, created) = create_file(ctx, &walker.at, last.name, mode, exclusive)?;
        }
        match walker.enter(child, follow)? {
            Some(link) => text = Cow::Owned(link),
            None => break created,
        }
    };
    if must_be_dir && !is_dir(&walker.at) {
        return Err(Errno::ENOTDIR);
    }
    Ok((walker.at, created))
}

/// Creates a regular file unless somebody else was quicker. That may be somebody whom the directory's
/// lock does not keep out, between the look and the creation: the host. What is there then is opened like
/// anything else, unless nothing may be there.
fn create_file(
    ctx: &WalkContext<'_>,
    dir: &Path,
    name: &[u8],
    mode: u32,
    exclusive: bool,
) -> Result<(Arc<Dentry>, bool), Errno> {
    let _lock = dir.dentry.dir.write();
    let umask = ctx.task.map_or(0, |t| t.fs().umask());
    let mut quicker = 0;
    loop {
        let child = child_locked(&dir.dentry, name, b"")?;
        if child.with_inode(|i| i.is_some()) {
            return Ok((child, false));
        }
        let owner = NewOwner::check(ctx, dir, mode & 0o7777 & !umask, false)?;
        match dirops::make(dir, &child, name, &owner, NodeKind::Regular) {
            Err(Errno::EEXIST) if !exclusive && quicker < OUTRUN => {
                quicker += 1;
                dir.dentry.remove_child(&child);
            }
            made => return made.map(|()| (child, true)),
        }
    }
}

/// The checks on what is opened, by its type and permissions (`may_open`).
fn may_open(
    cred: &Credentials,
    place: &Path,
    inode: &Arc<dyn Inode>,
    flags: OpenFlags,
) -> Result<(), Errno> {
    let mut access = match flags.bits() & 3 {
        0 => Access::READ,
        1 => Access::WRITE,
        _ => Access::READ | Access::WRITE,
    };
    if flags.contains(OpenFlags::TRUNC) {
        access |= Access::WRITE;
    }
    let kind = inode.file_type();
    let writes = access.contains(Access::WRITE);
    match kind {
        FileType::Symlink => return Err(Errno::ELOOP),
        FileType::Directory if writes => return Err(Errno::EISDIR),
        FileType::CharDevice | FileType::BlockDevice
            if place.mount.flags().contains(MountFlags::NODEV) =>
        {
            return Err(Errno::EACCES);
        }
        FileType::Regular if writes && place.mount.is_read_only() => {
            // An O_TRUNC asks for write access to the mount before anything else; otherwise what
            // the permissions say comes first.
            if !flags.contains(OpenFlags::TRUNC) {
                perm::check(cred, inode, access)?;
            }
            return Err(Errno::EROFS);
        }
        _ => {}
    }
    let attr = inode.attr()?;
    perm::check_attr(cred, &attr, access)?;
    if flags.contains(OpenFlags::NOATIME) && !perm::owner_or_capable(cred, &attr) {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// Makes the open file. Access has been checked.
pub fn finish(
    task: &Task,
    cred: &Arc<Credentials>,
    place: Path,
    flags: OpenFlags,
) -> Result<Arc<FileDescription>, Errno> {
    let args = OpenArgs { flags, cred, path: &place, task };
    let inode = place.inode()?;
    let hold = if flags.writable() { Hold::write(&*inode)? } else { None };
    let ops = match inode.file_type() {
        FileType::Regular | FileType::Directory => inode.open(&args)?,
        FileType::Symlink => return Err(Errno::ELOOP),
        _ => match inode.open_special(&args) {
            Some(result) => result?,
            None => task.kernel.special.open(&args)?,
        },
    };
    let file = FileDescription::new(ops, place, flags, cred.clone())?;
    file.set_hold(hold);
    notify::file(&file.path().dentry, libc::IN_OPEN);
    Ok(file)
}

/// Opens a program for execve(2) (`do_open_execat`): `EACCES` for what is not a regular file, not
/// executable, or on a mount without execution; `ETXTBSY` if somebody may write to it, and nobody can
/// while the result is open.
pub fn open_exec(
    task: &Task,
    dirfd: i32,
    path: &[u8],
    lookup: LookupFlags,
) -> Result<Arc<FileDescription>, Errno> {
    let ctx = WalkContext::of(task);
    let start = ctx.start(dirfd, path)?;
    let place = ctx.lookup(start, path, lookup)?;
    let inode = place.inode()?;
    match inode.file_type() {
        FileType::Regular => {}
        FileType::Symlink => return Err(Errno::ELOOP),
        _ => return Err(Errno::EACCES),
    }
    if place.mount.flags().contains(MountFlags::NOEXEC) {
        return Err(Errno::EACCES);
    }
    perm::check(&ctx.cred, &inode, Access::EXEC)?;
    let hold = Hold::run(&*inode)?;
    let file = finish(task, &ctx.cred, place, OpenFlags::empty())?;
    file.set_hold(hold);
    Ok(file)
}
