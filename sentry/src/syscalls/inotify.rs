//! inotify(7).

use abi::Errno;

use super::{Args, SysResult, user};
use crate::fs::inotify::Inotify;
use crate::kernel::Current;
use crate::vfs::{Access, LookupFlags, perm};

fn create(cur: &Current, flags: i32) -> SysResult {
    if flags & !(libc::IN_NONBLOCK | libc::IN_CLOEXEC) != 0 {
        return Err(Errno::EINVAL);
    }
    let file = Inotify::create(&cur.cred(), flags & libc::IN_NONBLOCK != 0)?;
    user::install(cur, file, flags & libc::IN_CLOEXEC != 0)
}

/// inotify_init(2)
pub fn inotify_init(cur: &mut Current, _: &Args) -> SysResult {
    create(cur, 0)
}

/// inotify_init1(2)
pub fn inotify_init1(cur: &mut Current, args: &Args) -> SysResult {
    create(cur, args.int(0))
}

/// inotify_add_watch(2)
pub fn inotify_add_watch(cur: &mut Current, args: &Args) -> SysResult {
    const MASK_CREATE: u32 = 0x1000_0000;
    let mask = args.uint(2);
    if mask & libc::IN_ALL_EVENTS == 0
        || mask & (MASK_CREATE | libc::IN_MASK_ADD) == MASK_CREATE | libc::IN_MASK_ADD
    {
        return Err(Errno::EINVAL);
    }
    let file = cur.files.get(args.int(0))?;
    let inotify = file.downcast::<Inotify>().ok_or(Errno::EINVAL)?;
    let mut flags = LookupFlags::empty();
    flags.set(LookupFlags::FOLLOW, mask & libc::IN_DONT_FOLLOW == 0);
    flags.set(LookupFlags::DIRECTORY, mask & libc::IN_ONLYDIR != 0);
    let inode = user::lookup(cur, libc::AT_FDCWD, args.u64(1), flags)?.inode()?;
    perm::check(&cur.cred(), &inode, Access::READ)?;
    inotify.watch(&inode, mask).map(|wd| wd as u64)
}

/// inotify_rm_watch(2)
pub fn inotify_rm_watch(cur: &mut Current, args: &Args) -> SysResult {
    let file = cur.files.get(args.int(0))?;
    let inotify = file.downcast::<Inotify>().ok_or(Errno::EINVAL)?;
    inotify.unwatch(args.int(1)).map(|()| 0)
}
