//! Extended attributes (xattr(7)): who may see and set which (`xattr_permission` of fs/xattr.c).

use std::sync::Arc;

use abi::Errno;
use zerocopy::FromBytes;

use super::{Args, SysResult, user};
use crate::kernel::{Caps, Credentials, Current};
use crate::vfs::{Access, FileType, Inode, LookupFlags, Path, perm};

/// Longest name.
const NAME_MAX: usize = 255;
/// Longest value.
const SIZE_MAX: usize = 65536;

/// What an attribute belongs to.
struct Target {
    inode: Arc<dyn Inode>,
    read_only: bool,
}

impl Target {
    fn new(path: &Path) -> Result<Target, Errno> {
        Ok(Target { inode: path.inode()?, read_only: path.mount.is_read_only() })
    }

    fn at(cur: &Current, dirfd: i32, addr: u64, flags: LookupFlags) -> Result<Target, Errno> {
        Target::new(&user::lookup(cur, dirfd, addr, flags)?)
    }

    fn of(cur: &Current, fd: i32) -> Result<Target, Errno> {
        Target::new(cur.files.get(fd)?.path())
    }
}

/// A name argument: `ERANGE` if it is empty or too long.
fn name(cur: &Current, addr: u64) -> Result<Vec<u8>, Errno> {
    match cur.mm.copy_in_cstr(addr, NAME_MAX + 1) {
        Ok(name) if name.is_empty() => Err(Errno::ERANGE),
        Err(Errno::ENAMETOOLONG) => Err(Errno::ERANGE),
        result => result,
    }
}

fn check(cred: &Credentials, target: &Target, name: &[u8], write: bool) -> Result<(), Errno> {
    may_access(cred, target, name, write)?;
    // A known prefix with nothing behind it.
    if [b"user.".as_slice(), b"trusted.", b"security."].contains(&name) {
        Err(Errno::EINVAL)
    } else {
        Ok(())
    }
}

fn may_access(cred: &Credentials, target: &Target, name: &[u8], write: bool) -> Result<(), Errno> {
    if write && target.read_only {
        return Err(Errno::EROFS);
    }
    if [b"user.".as_slice(), b"trusted.", b"security."].contains(&name) {
        return Err(Errno::EINVAL);
    }
    let refuse = if write { Errno::EPERM } else { Errno::ENODATA };
    if name.starts_with(b"security.") {
        let cap = if name == b"security.capability" { Caps::SETFCAP } else { Caps::SYS_ADMIN };
        return if write && !cred.capable(cap) { Err(Errno::EPERM) } else { Ok(()) };
    }
    if name.starts_with(b"trusted.") {
        return if cred.capable(Caps::SYS_ADMIN) { Ok(()) } else { Err(refuse) };
    }
    if name.starts_with(b"user.") {
        let attr = target.inode.attr()?;
        match target.inode.file_type() {
            FileType::Regular => {}
            FileType::Directory => {
                let sticky = attr.mode & libc::S_ISVTX != 0;
                if sticky && write && !perm::owner_or_capable(cred, &attr) {
                    return Err(Errno::EPERM);
                }
            }
            _ => return Err(refuse),
        }
        return perm::check_attr(cred, &attr, if write { Access::WRITE } else { Access::READ });
    }
    Err(Errno::EOPNOTSUPP)
}

/// What setxattr(2) sets: where the name is, and the value.
struct Value {
    name: u64,
    addr: u64,
    size: usize,
    flags: i32,
}

fn set(cur: &Current, target: impl FnOnce() -> Result<Target, Errno>, v: &Value) -> SysResult {
    if v.flags & !(libc::XATTR_CREATE | libc::XATTR_REPLACE) != 0 {
        return Err(Errno::EINVAL);
    }
    let name = name(cur, v.name)?;
    if v.size > SIZE_MAX {
        return Err(Errno::E2BIG);
    }
    let value = cur.mm.read_array::<u8>(v.addr, v.size)?;
    let target = target()?;
    check(&cur.cred(), &target, &name, true)?;
    target.inode.set_xattr(&name, &value, v.flags)?;
    Ok(0)
}

/// Hands out a value or a list: its length alone if the buffer has none.
fn give(cur: &Current, data: &[u8], addr: u64, size: usize) -> SysResult {
    if size != 0 {
        if data.len() > size {
            return Err(Errno::ERANGE);
        }
        cur.mm.write_bytes(addr, data)?;
    }
    Ok(data.len() as u64)
}

fn get(
    cur: &Current,
    target: impl FnOnce() -> Result<Target, Errno>,
    name_addr: u64,
    addr: u64,
    size: usize,
) -> SysResult {
    let name = name(cur, name_addr)?;
    let target = target()?;
    check(&cur.cred(), &target, &name, false)?;
    give(cur, &target.inode.get_xattr(&name)?, addr, size)
}

fn list(cur: &Current, target: &Target, addr: u64, size: usize) -> SysResult {
    let mut names = target.inode.list_xattr()?;
    if !cur.cred().capable(Caps::SYS_ADMIN) {
        names = names
            .split_inclusive(|&b| b == 0)
            .filter(|name| !name.starts_with(b"trusted."))
            .flatten()
            .copied()
            .collect();
    }
    give(cur, &names, addr, size)
}

fn remove(
    cur: &Current,
    target: impl FnOnce() -> Result<Target, Errno>,
    name_addr: u64,
) -> SysResult {
    let name = name(cur, name_addr)?;
    let target = target()?;
    check(&cur.cred(), &target, &name, true)?;
    target.inode.remove_xattr(&name)?;
    Ok(0)
}

fn value(args: &Args) -> Value {
    Value { name: args.u64(1), addr: args.u64(2), size: args.size(3), flags: args.int(4) }
}

const FOLLOW: LookupFlags = LookupFlags::FOLLOW;
const NOFOLLOW: LookupFlags = LookupFlags::empty();

/// setxattr(2)
pub fn setxattr(cur: &mut Current, args: &Args) -> SysResult {
    set(cur, || Target::at(cur, libc::AT_FDCWD, args.u64(0), FOLLOW), &value(args))
}

/// lsetxattr(2)
pub fn lsetxattr(cur: &mut Current, args: &Args) -> SysResult {
    set(cur, || Target::at(cur, libc::AT_FDCWD, args.u64(0), NOFOLLOW), &value(args))
}

/// fsetxattr(2)
pub fn fsetxattr(cur: &mut Current, args: &Args) -> SysResult {
    set(cur, || Target::of(cur, args.int(0)), &value(args))
}

/// getxattr(2)
pub fn getxattr(cur: &mut Current, args: &Args) -> SysResult {
    let target = || Target::at(cur, libc::AT_FDCWD, args.u64(0), FOLLOW);
    get(cur, target, args.u64(1), args.u64(2), args.size(3))
}

/// lgetxattr(2)
pub fn lgetxattr(cur: &mut Current, args: &Args) -> SysResult {
    let target = || Target::at(cur, libc::AT_FDCWD, args.u64(0), NOFOLLOW);
    get(cur, target, args.u64(1), args.u64(2), args.size(3))
}

/// fgetxattr(2)
pub fn fgetxattr(cur: &mut Current, args: &Args) -> SysResult {
    get(cur, || Target::of(cur, args.int(0)), args.u64(1), args.u64(2), args.size(3))
}

/// listxattr(2)
pub fn listxattr(cur: &mut Current, args: &Args) -> SysResult {
    let target = Target::at(cur, libc::AT_FDCWD, args.u64(0), FOLLOW)?;
    list(cur, &target, args.u64(1), args.size(2))
}

/// llistxattr(2)
pub fn llistxattr(cur: &mut Current, args: &Args) -> SysResult {
    let target = Target::at(cur, libc::AT_FDCWD, args.u64(0), NOFOLLOW)?;
    list(cur, &target, args.u64(1), args.size(2))
}

/// flistxattr(2)
pub fn flistxattr(cur: &mut Current, args: &Args) -> SysResult {
    list(cur, &Target::of(cur, args.int(0))?, args.u64(1), args.size(2))
}

/// removexattr(2)
pub fn removexattr(cur: &mut Current, args: &Args) -> SysResult {
    remove(cur, || Target::at(cur, libc::AT_FDCWD, args.u64(0), FOLLOW), args.u64(1))
}

/// lremovexattr(2)
pub fn lremovexattr(cur: &mut Current, args: &Args) -> SysResult {
    remove(cur, || Target::at(cur, libc::AT_FDCWD, args.u64(0), NOFOLLOW), args.u64(1))
}

/// fremovexattr(2)
pub fn fremovexattr(cur: &mut Current, args: &Args) -> SysResult {
    remove(cur, || Target::of(cur, args.int(0)), args.u64(1))
}

/// `struct xattr_args`
#[derive(FromBytes)]
#[repr(C)]
struct XattrArgs {
    value: u64,
    size: u32,
    flags: u32,
}

/// The target of a call with `dirfd, path, at_flags`.
fn at_target(cur: &Current, args: &Args) -> Result<Target, Errno> {
    let flags = user::at_flags(args.int(2), libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH)?;
    Target::at(cur, args.int(0), args.u64(1), flags)
}

fn xattr_args(cur: &Current, args: &Args) -> Result<XattrArgs, Errno> {
    match args.size(5) {
        size if size < size_of::<XattrArgs>() => Err(Errno::EINVAL),
        size if size > size_of::<XattrArgs>() => Err(Errno::E2BIG),
        _ => cur.mm.read_obj(args.u64(4)),
    }
}

/// setxattrat(2)
pub fn setxattrat(cur: &mut Current, args: &Args) -> SysResult {
    let x = xattr_args(cur, args)?;
    let flags = i32::try_from(x.flags).map_err(|_| Errno::EINVAL)?;
    let value = Value { name: args.u64(3), addr: x.value, size: x.size as usize, flags };
    set(cur, || at_target(cur, args), &value)
}

/// getxattrat(2)
pub fn getxattrat(cur: &mut Current, args: &Args) -> SysResult {
    let x = xattr_args(cur, args)?;
    if x.flags != 0 {
        return Err(Errno::EINVAL);
    }
    get(cur, || at_target(cur, args), args.u64(3), x.value, x.size as usize)
}

/// listxattrat(2)
pub fn listxattrat(cur: &mut Current, args: &Args) -> SysResult {
    list(cur, &at_target(cur, args)?, args.u64(3), args.size(4))
}

/// removexattrat(2)
pub fn removexattrat(cur: &mut Current, args: &Args) -> SysResult {
    remove(cur, || at_target(cur, args), args.u64(3))
}
