//! Files of one directory by their plain names, for calls that know no paths (mq_open(2), mq_unlink(2)).

use std::sync::Arc;

use abi::Errno;

use super::dirops::{self, NewOwner};
use super::namei::{Last, LastKind, WalkContext, child_locked};
use super::perm::{self, Access};
use super::{FileDescription, Inode, NewNode, NodeKind, OpenFlags, Path, open};
use crate::kernel::Task;

/// A name that could be a directory's entry (`lookup_one_len`): `EACCES` otherwise.
fn check_name(name: &[u8]) -> Result<(), Errno> {
    match name {
        b"" | b"." | b".." => Err(Errno::EACCES),
        _ if name.contains(&b'/') => Err(Errno::EACCES),
        _ => Ok(()),
    }
}

/// Opens `name` in `dir`, and with `O_CREAT` makes it by `create` if it is not there; `mode` is without
/// the umask.
///
/// # Errors
/// `EACCES`, `ENAMETOOLONG`, `ENOENT`, `EEXIST`, `EINVAL` for no way of access, `EROFS`, what `create`
/// says.
pub fn open_or_create(
    task: &Task,
    dir: &Path,
    name: &[u8],
    flags: OpenFlags,
    mode: u32,
    create: impl FnOnce(&Arc<dyn Inode>, &NewNode<'_>) -> Result<Arc<dyn Inode>, Errno>,
) -> Result<Arc<FileDescription>, Errno> {
    let ctx = WalkContext::of(task);
    check_name(name)?;
    perm::check(&ctx.cred, &dir.inode()?, Access::EXEC)?;
    let place = {
        let _exclusive = dir.dentry.dir.write();
        let child = child_locked(&dir.dentry, name, b"")?;
        match child.inode() {
            None if !flags.contains(OpenFlags::CREAT) => return Err(Errno::ENOENT),
            None => {
                let mode = mode & 0o7777 & !task.fs().umask();
                let owner = NewOwner::check(&ctx, dir, mode, false)?;
                dirops::make_by(dir, &child, name, &owner, NodeKind::Regular, create)?;
            }
            Some(_) if flags.contains(OpenFlags::CREAT | OpenFlags::EXCL) => {
                return Err(Errno::EEXIST);
            }
            Some(inode) => {
                let access = match flags.bits() & 3 {
                    0 => Access::READ,
                    1 => Access::WRITE,
                    2 => Access::READ | Access::WRITE,
                    _ => return Err(Errno::EINVAL),
                };
                perm::check(&ctx.cred, &inode, access)?;
            }
        }
        Path { mount: dir.mount.clone(), dentry: child }
    };
    open::finish(task, &ctx.cred, place, flags)
}

/// Removes `name` from `dir`. `EACCES`, `ENAMETOOLONG`, `ENOENT`, `EPERM`, `EROFS`
pub fn unlink(task: &Task, dir: &Path, name: &[u8]) -> Result<(), Errno> {
    let ctx = WalkContext::of(task);
    check_name(name)?;
    perm::check(&ctx.cred, &dir.inode()?, Access::EXEC)?;
    dirops::unlink(&ctx, dir, Last { kind: LastKind::Normal, name, slash: false })
}
