//! Directories: listing, the current one, the root, making and removing.

use abi::Errno;

use super::{Args, SysResult, user};
use crate::kernel::{Caps, Current};
use crate::vfs::{
    Access, DirEntry, FileType, LookupFlags, NodeKind, PATH_MAX, Path, WalkContext, dirops, dpath,
    perm,
};

/// The most that one getdents64(2) fills, whatever the guest's buffer.
const MAX_LISTING: usize = 128 << 10;
/// Bytes before the name in `struct linux_dirent64` and `struct linux_dirent`.
const HEADER64: usize = 19;
const HEADER: usize = 18;

/// Appends one record; `false` if it does not fit into `max`.
fn push_entry(out: &mut Vec<u8>, max: usize, entry: &DirEntry<'_>, wide: bool) -> bool {
    let kind = entry.kind.map_or(libc::DT_UNKNOWN, FileType::dirent_type);
    // Name and NUL; the old form has the type in its last byte.
    let header = if wide { HEADER64 } else { HEADER };
    let len = (header + entry.name.len() + if wide { 1 } else { 2 }).next_multiple_of(8);
    if out.len() + len > max {
        return false;
    }
    let start = out.len();
    out.extend_from_slice(&entry.ino.to_ne_bytes());
    out.extend_from_slice(&(entry.next as i64).to_ne_bytes());
    out.extend_from_slice(&(len as u16).to_ne_bytes());
    if wide {
        out.push(kind);
    }
    out.extend_from_slice(entry.name);
    out.resize(start + len, 0);
    if !wide && let Some(last) = out.last_mut() {
        *last = kind;
    }
    true
}

fn list(cur: &Current, args: &Args, wide: bool) -> SysResult {
    let file = cur.files.get(args.int(0))?;
    let max = (args.uint(2) as usize).min(MAX_LISTING);
    let dir = &file.path().dentry;
    if dir.with_inode(|i| i.is_none_or(|i| i.file_type() != FileType::Directory)) {
        return Err(Errno::ENOTDIR);
    }
    let mut out = Vec::with_capacity(max.min(32 << 10));
    let mut too_small = false;
    {
        let mut pos = file.pos().lock();
        if dir.is_unlinked() {
            return Err(Errno::ENOENT);
        }
        let before = *pos;
        let result = file.ops().read_dir(&mut pos, &mut |entry| {
            let taken = push_entry(&mut out, max, &entry, wide);
            too_small |= !taken;
            taken
        });
        if out.is_empty() {
            result?;
            if too_small {
                return Err(Errno::EINVAL);
            }
        }
        if cur.mm.write_bytes(args.u64(1), &out).is_err() {
            *pos = before;
            return Err(Errno::EFAULT);
        }
    }
    Ok(out.len() as u64)
}

/// getdents64(2)
pub fn getdents64(cur: &mut Current, args: &Args) -> SysResult {
    list(cur, args, true)
}

/// getdents(2)
pub fn getdents(cur: &mut Current, args: &Args) -> SysResult {
    list(cur, args, false)
}

/// getcwd(2): returns the length with the NUL.
pub fn getcwd(cur: &mut Current, args: &Args) -> SysResult {
    let (root, cwd, _) = cur.fs().walk_base();
    let mut text = dpath::cwd_path(&cwd, &root)?;
    text.push(0);
    if text.len() > PATH_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    if text.len() > args.size(1) {
        return Err(Errno::ERANGE);
    }
    cur.mm.write_bytes(args.u64(0), &text)?;
    Ok(text.len() as u64)
}

/// Whether the caller may make a directory its current one or its root.
fn may_enter(cur: &Current, place: &Path) -> Result<(), Errno> {
    let inode = place.inode()?;
    if inode.file_type() != FileType::Directory {
        return Err(Errno::ENOTDIR);
    }
    perm::check(&cur.cred(), &inode, Access::EXEC)
}

/// chdir(2)
pub fn chdir(cur: &mut Current, args: &Args) -> SysResult {
    let flags = LookupFlags::FOLLOW | LookupFlags::DIRECTORY;
    let place = user::lookup(cur, libc::AT_FDCWD, args.u64(0), flags)?;
    may_enter(cur, &place)?;
    cur.fs().set_cwd(place);
    Ok(0)
}

/// fchdir(2)
pub fn fchdir(cur: &mut Current, args: &Args) -> SysResult {
    let file = cur.files.get_raw(args.int(0))?;
    may_enter(cur, file.path())?;
    cur.fs().set_cwd(file.path().clone());
    Ok(0)
}

/// chroot(2)
pub fn chroot(cur: &mut Current, args: &Args) -> SysResult {
    let flags = LookupFlags::FOLLOW | LookupFlags::DIRECTORY;
    let place = user::lookup(cur, libc::AT_FDCWD, args.u64(0), flags)?;
    may_enter(cur, &place)?;
    if !cur.cred().capable(Caps::SYS_CHROOT) {
        return Err(Errno::EPERM);
    }
    cur.fs().set_root(place);
    Ok(0)
}

/// umask(2)
pub fn umask(cur: &mut Current, args: &Args) -> SysResult {
    Ok(cur.fs().set_umask(args.uint(0)).into())
}

/// Makes something at a path. `mode` is before the umask.
pub(super) fn create(
    cur: &Current,
    dirfd: i32,
    path: &[u8],
    mode: u32,
    kind: NodeKind<'_>,
) -> SysResult {
    let ctx = WalkContext::of(cur);
    let start = ctx.start(dirfd, path)?;
    let (dir, last) = ctx.parent(start, path)?;
    dirops::create(&ctx, &dir, last, mode & !cur.fs().umask(), kind)?;
    Ok(0)
}

fn do_mkdir(cur: &Current, dirfd: i32, addr: u64, mode: u32) -> SysResult {
    let path = user::path(cur, addr)?;
    create(cur, dirfd, &path, mode & 0o1777, NodeKind::Directory)
}

/// mkdir(2)
pub fn mkdir(cur: &mut Current, args: &Args) -> SysResult {
    do_mkdir(cur, libc::AT_FDCWD, args.u64(0), args.uint(1))
}

/// mkdirat(2)
pub fn mkdirat(cur: &mut Current, args: &Args) -> SysResult {
    do_mkdir(cur, args.int(0), args.u64(1), args.uint(2))
}

/// A device number as mknod(2) encodes it (`new_decode_dev`).
fn decode_dev(dev: u32) -> u64 {
    libc::makedev((dev & 0xf_ff00) >> 8, dev & 0xff | (dev >> 12) & 0xf_ff00)
}

fn do_mknod(cur: &Current, dirfd: i32, addr: u64, mode: u32, dev: u32) -> SysResult {
    let kind = match mode & libc::S_IFMT {
        0 | libc::S_IFREG => NodeKind::Regular,
        libc::S_IFCHR => NodeKind::CharDevice(decode_dev(dev)),
        libc::S_IFBLK => NodeKind::BlockDevice(decode_dev(dev)),
        libc::S_IFIFO => NodeKind::Fifo,
        libc::S_IFSOCK => NodeKind::Socket,
        libc::S_IFDIR => return Err(Errno::EPERM),
        _ => return Err(Errno::EINVAL),
    };
    let path = user::path(cur, addr)?;
    create(cur, dirfd, &path, mode & 0o7777, kind)
}

/// mknod(2)
pub fn mknod(cur: &mut Current, args: &Args) -> SysResult {
    do_mknod(cur, libc::AT_FDCWD, args.u64(0), args.uint(1), args.uint(2))
}

/// mknodat(2)
pub fn mknodat(cur: &mut Current, args: &Args) -> SysResult {
    do_mknod(cur, args.int(0), args.u64(1), args.uint(2), args.uint(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_aligned_and_bounded() {
        let entry = DirEntry { ino: 7, next: 3, kind: Some(FileType::Regular), name: b"abcde" };
        let mut out = Vec::new();
        assert!(push_entry(&mut out, 32, &entry, true));
        assert_eq!(out.len(), 32);
        assert_eq!(out[16..18], 32u16.to_ne_bytes());
        assert_eq!((out[18], &out[19..25]), (libc::DT_REG, b"abcde\0".as_slice()));
        assert!(!push_entry(&mut out, 63, &entry, true));
        let mut old = Vec::new();
        assert!(push_entry(&mut old, 32, &entry, false));
        assert_eq!((&old[18..24], old[31]), (b"abcde\0".as_slice(), libc::DT_REG));
    }
}
