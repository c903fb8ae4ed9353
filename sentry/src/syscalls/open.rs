//! open(2), close(2), dup(2) and their kin.

use abi::Errno;
use zerocopy::{FromBytes, IntoBytes};

use super::{Args, SysResult, user};
use crate::kernel::Current;
use crate::vfs::{LookupFlags, OpenFlags, open as vfs_open};

/// All flags that open(2) knows; others are ignored by it, and refused by openat2(2).
const VALID: u32 = 0o37777703;

fn do_open(cur: &mut Current, dirfd: i32, addr: u64, flags: u32, mode: u32) -> SysResult {
    let path = user::path(cur, addr)?;
    let mut flags = OpenFlags::from_bits_retain(flags & VALID);
    if !flags.contains(OpenFlags::PATH) {
        flags |= OpenFlags::LARGEFILE;
    }
    vfs_open::check_flags(flags)?;
    cur.files.check_room(cur.group.nofile())?;
    let file = vfs_open::open(cur, dirfd, &path, flags, mode & 0o7777)?;
    user::install(cur, file, user::cloexec(flags))
}

/// open(2)
pub fn open(cur: &mut Current, args: &Args) -> SysResult {
    do_open(cur, libc::AT_FDCWD, args.u64(0), args.uint(1), args.uint(2))
}

/// openat(2)
pub fn openat(cur: &mut Current, args: &Args) -> SysResult {
    do_open(cur, args.int(0), args.u64(1), args.uint(2), args.uint(3))
}

/// creat(2)
pub fn creat(cur: &mut Current, args: &Args) -> SysResult {
    let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
    do_open(cur, libc::AT_FDCWD, args.u64(0), flags as u32, args.uint(1))
}

/// `struct open_how`
#[derive(FromBytes, IntoBytes, Clone, Copy)]
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// Reads a struct that may be longer than what we know, if the rest is zero (`copy_struct_from_user`).
fn read_how(cur: &Current, addr: u64, size: usize) -> Result<OpenHow, Errno> {
    const KNOWN: usize = size_of::<OpenHow>();
    if size < KNOWN {
        return Err(Errno::EINVAL);
    }
    if size > crate::mm::PAGE as usize {
        return Err(Errno::E2BIG);
    }
    let bytes = cur.mm.read_array::<u8>(addr, size)?;
    let (known, rest) = bytes.split_at(KNOWN);
    if rest.iter().any(|&b| b != 0) {
        return Err(Errno::E2BIG);
    }
    OpenHow::read_from_bytes(known).map_err(|_| Errno::EFAULT)
}

/// openat2(2)
pub fn openat2(cur: &mut Current, args: &Args) -> SysResult {
    const RESOLVE: [(u64, LookupFlags); 6] = [
        (0x01, LookupFlags::NO_XDEV),
        (0x02, LookupFlags::NO_MAGICLINKS),
        (0x04, LookupFlags::NO_SYMLINKS),
        (0x08, LookupFlags::BENEATH),
        (0x10, LookupFlags::IN_ROOT),
        (0x20, LookupFlags::CACHED),
    ];
    let how = read_how(cur, args.u64(2), args.size(3))?;
    let raw = u32::try_from(how.flags).map_err(|_| Errno::EINVAL)?;
    let flags = OpenFlags::from_bits_retain(raw);
    let creates = flags.contains(OpenFlags::CREAT) || flags.contains(OpenFlags::TMPFILE);
    let path_only = OpenFlags::PATH | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW;
    if raw & !VALID != 0
        || how.resolve & !0x3f != 0
        || how.resolve & 0x18 == 0x18
        || how.mode & !0o7777 != 0
        || how.mode != 0 && !creates
        || flags.contains(OpenFlags::PATH) && !(path_only | OpenFlags::CLOEXEC).contains(flags)
    {
        return Err(Errno::EINVAL);
    }
    let resolve = RESOLVE
        .iter()
        .filter(|(bit, _)| how.resolve & bit != 0)
        .fold(LookupFlags::empty(), |all, (_, flag)| all | *flag);
    let changes =
        flags.intersects(OpenFlags::CREAT | OpenFlags::TRUNC) || flags.contains(OpenFlags::TMPFILE);
    if resolve.contains(LookupFlags::CACHED) && changes {
        return Err(Errno::EAGAIN);
    }
    let path = user::path(cur, args.u64(1))?;
    vfs_open::check_flags(flags)?;
    cur.files.check_room(cur.group.nofile())?;
    let file = vfs_open::open_how(cur, args.int(0), &path, flags, how.mode as u32, resolve)?;
    user::install(cur, file, user::cloexec(flags))
}

/// close(2)
pub fn close(cur: &mut Current, args: &Args) -> SysResult {
    match cur.files.close(args.int(0)) {
        // The descriptor is gone already, so the call cannot be restarted.
        Err(errno) if errno.is_restart() => Err(Errno::EINTR),
        result => result.map(|()| 0),
    }
}

/// close_range(2)
pub fn close_range(cur: &mut Current, args: &Args) -> SysResult {
    const UNSHARE: u32 = 2;
    const CLOEXEC: u32 = 4;
    let (first, last, flags) = (args.uint(0), args.uint(1), args.uint(2));
    if flags & !(UNSHARE | CLOEXEC) != 0 || first > last {
        return Err(Errno::EINVAL);
    }
    if flags & UNSHARE != 0 {
        let own = cur.files.fork()?;
        cur.task.set_files(Some(own.clone()));
        cur.files = own;
    }
    let inside = |fd: i32| (first..=last).contains(&(fd as u32));
    if flags & CLOEXEC != 0 {
        for fd in cur.files.fds().into_iter().filter(|&fd| inside(fd)) {
            // Another thread may have closed it meanwhile.
            let _ = cur.files.set_cloexec(fd, true);
        }
    } else {
        drop(cur.files.remove_if(|fd, _| inside(fd)));
    }
    Ok(0)
}

/// dup(2)
pub fn dup(cur: &mut Current, args: &Args) -> SysResult {
    let file = cur.files.get_raw(args.int(0))?;
    user::install(cur, file, false)
}

/// dup2(2)
pub fn dup2(cur: &mut Current, args: &Args) -> SysResult {
    let (old, new) = (args.int(0), args.int(1));
    if old == new {
        return cur.files.get_raw(old).map(|_| new as u64);
    }
    replace(cur, old, new, false)
}

/// dup3(2)
pub fn dup3(cur: &mut Current, args: &Args) -> SysResult {
    let (old, new) = (args.int(0), args.int(1));
    let flags = args.int(2);
    if flags & !libc::O_CLOEXEC != 0 || old == new {
        return Err(Errno::EINVAL);
    }
    replace(cur, old, new, flags != 0)
}

fn replace(cur: &mut Current, old: i32, new: i32, cloexec: bool) -> SysResult {
    let limit = cur.group.nofile();
    if new < 0 || new as u64 >= limit {
        return Err(Errno::EBADF);
    }
    let file = cur.files.get_raw(old)?;
    cur.files.replace(new, file, cloexec, limit)?;
    Ok(new as u64)
}
