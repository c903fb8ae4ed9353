//! Names: link, symlink, readlink, unlink, rename.

use abi::Errno;

use super::{Args, SysResult, dirs, user};
use crate::kernel::{Caps, Current};
use crate::vfs::{
    FileType, LinkTarget, LookupFlags, NodeKind, PATH_MAX, WalkContext, dirops, dpath,
};

fn do_link(cur: &Current, old: (i32, u64), new: (i32, u64), flags: i32) -> SysResult {
    if flags & !(libc::AT_SYMLINK_FOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let ctx = WalkContext::of(cur);
    let mut lookup = LookupFlags::empty();
    lookup.set(LookupFlags::FOLLOW, flags & libc::AT_SYMLINK_FOLLOW != 0);
    if flags & libc::AT_EMPTY_PATH != 0 {
        lookup |= LookupFlags::EMPTY;
    }
    let old_path = user::path(cur, old.1)?;
    if old_path.is_empty() && lookup.contains(LookupFlags::EMPTY) && old.0 != libc::AT_FDCWD {
        // Whoever opened the file may link it; others need to be able to search anywhere.
        let same = std::sync::Arc::ptr_eq(cur.files.get_raw(old.0)?.cred(), &ctx.cred);
        if !same && !ctx.cred.capable(Caps::DAC_READ_SEARCH) {
            return Err(Errno::ENOENT);
        }
    }
    let new_path = user::path(cur, new.1)?;
    let target = ctx.lookup(ctx.start(old.0, &old_path)?, &old_path, lookup)?;
    let (dir, last) = ctx.parent(ctx.start(new.0, &new_path)?, &new_path)?;
    dirops::link(&ctx, &target, &dir, last)?;
    Ok(0)
}

/// link(2)
pub fn link(cur: &mut Current, args: &Args) -> SysResult {
    do_link(cur, (libc::AT_FDCWD, args.u64(0)), (libc::AT_FDCWD, args.u64(1)), 0)
}

/// linkat(2)
pub fn linkat(cur: &mut Current, args: &Args) -> SysResult {
    do_link(cur, (args.int(0), args.u64(1)), (args.int(2), args.u64(3)), args.int(4))
}

fn do_symlink(cur: &Current, target: u64, dirfd: i32, addr: u64) -> SysResult {
    let target = user::path(cur, target)?;
    if target.is_empty() {
        return Err(Errno::ENOENT);
    }
    let path = user::path(cur, addr)?;
    dirs::create(cur, dirfd, &path, 0o777, NodeKind::Symlink(&target))
}

/// symlink(2)
pub fn symlink(cur: &mut Current, args: &Args) -> SysResult {
    do_symlink(cur, args.u64(0), libc::AT_FDCWD, args.u64(1))
}

/// symlinkat(2)
pub fn symlinkat(cur: &mut Current, args: &Args) -> SysResult {
    do_symlink(cur, args.u64(0), args.int(1), args.u64(2))
}

fn do_readlink(cur: &Current, dirfd: i32, addr: u64, buf: u64, size: i32) -> SysResult {
    if size <= 0 {
        return Err(Errno::EINVAL);
    }
    let path = user::path(cur, addr)?;
    let place = crate::vfs::namei::lookup(cur, dirfd, &path, LookupFlags::EMPTY)?;
    let inode = place.inode()?;
    if inode.file_type() != FileType::Symlink {
        return Err(if path.is_empty() { Errno::ENOENT } else { Errno::EINVAL });
    }
    let mut text = match inode.follow(cur)? {
        LinkTarget::Text(text) => text,
        LinkTarget::Jump(to) => dpath::d_path(&to, &cur.fs().root()),
    };
    text.truncate((size as usize).min(PATH_MAX));
    cur.mm.write_bytes(buf, &text)?;
    Ok(text.len() as u64)
}

/// readlink(2)
pub fn readlink(cur: &mut Current, args: &Args) -> SysResult {
    do_readlink(cur, libc::AT_FDCWD, args.u64(0), args.u64(1), args.int(2))
}

/// readlinkat(2)
pub fn readlinkat(cur: &mut Current, args: &Args) -> SysResult {
    do_readlink(cur, args.int(0), args.u64(1), args.u64(2), args.int(3))
}

fn do_unlink(cur: &Current, dirfd: i32, addr: u64, dir: bool) -> SysResult {
    let path = user::path(cur, addr)?;
    let ctx = WalkContext::of(cur);
    let (parent, last) = ctx.parent(ctx.start(dirfd, &path)?, &path)?;
    if dir {
        dirops::rmdir(&ctx, &parent, last)?;
    } else {
        dirops::unlink(&ctx, &parent, last)?;
    }
    Ok(0)
}

/// unlink(2)
pub fn unlink(cur: &mut Current, args: &Args) -> SysResult {
    do_unlink(cur, libc::AT_FDCWD, args.u64(0), false)
}

/// rmdir(2)
pub fn rmdir(cur: &mut Current, args: &Args) -> SysResult {
    do_unlink(cur, libc::AT_FDCWD, args.u64(0), true)
}

/// unlinkat(2)
pub fn unlinkat(cur: &mut Current, args: &Args) -> SysResult {
    let flags = args.int(2);
    if flags & !libc::AT_REMOVEDIR != 0 {
        return Err(Errno::EINVAL);
    }
    do_unlink(cur, args.int(0), args.u64(1), flags != 0)
}

fn do_rename(cur: &Current, old: (i32, u64), new: (i32, u64), flags: u32) -> SysResult {
    use dirops::{RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT};
    if flags & !(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT) != 0
        || flags & RENAME_EXCHANGE != 0 && flags != RENAME_EXCHANGE
    {
        return Err(Errno::EINVAL);
    }
    let old_path = user::path(cur, old.1)?;
    let new_path = user::path(cur, new.1)?;
    let ctx = WalkContext::of(cur);
    let (old_dir, old_last) = ctx.parent(ctx.start(old.0, &old_path)?, &old_path)?;
    let (new_dir, new_last) = ctx.parent(ctx.start(new.0, &new_path)?, &new_path)?;
    dirops::rename(&ctx, &old_dir, old_last, &new_dir, new_last, flags)?;
    Ok(0)
}

/// rename(2)
pub fn rename(cur: &mut Current, args: &Args) -> SysResult {
    do_rename(cur, (libc::AT_FDCWD, args.u64(0)), (libc::AT_FDCWD, args.u64(1)), 0)
}

/// renameat(2)
pub fn renameat(cur: &mut Current, args: &Args) -> SysResult {
    do_rename(cur, (args.int(0), args.u64(1)), (args.int(2), args.u64(3)), 0)
}

/// renameat2(2)
pub fn renameat2(cur: &mut Current, args: &Args) -> SysResult {
    do_rename(cur, (args.int(0), args.u64(1)), (args.int(2), args.u64(3)), args.uint(4))
}
