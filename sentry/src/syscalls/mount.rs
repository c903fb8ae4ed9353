//! mount(2), umount2(2), pivot_root(2).

use std::sync::Arc;

use abi::Errno;

use super::{Args, SysResult, user};
use crate::kernel::{Caps, Current};
use crate::vfs::{Dentry, LookupFlags, Mount, MountFlags, Path, namei};

const MS_REMOUNT: u64 = 32;
const MS_BIND: u64 = 4096;
const MS_MOVE: u64 = 8192;
const MS_REC: u64 = 16384;
const MS_UNBINDABLE: u64 = 1 << 17;
const MS_PRIVATE: u64 = 1 << 18;
const MS_SLAVE: u64 = 1 << 19;
const MS_SHARED: u64 = 1 << 20;
const PROPAGATION: u64 = MS_UNBINDABLE | MS_PRIVATE | MS_SLAVE | MS_SHARED;

/// Old programs put this into the upper half of the flags.
const MS_MGC_VAL: u64 = 0xc0ed_0000;

/// Flags of one mount, of those that mount(2) was given.
fn mount_flags(flags: u64) -> MountFlags {
    let mut mount = MountFlags::from_bits_truncate(flags as u32);
    if !mount.contains(MountFlags::NOATIME) {
        mount |= MountFlags::RELATIME;
    }
    mount
}

/// A string argument that may be null.
fn text(cur: &Current, addr: u64) -> Result<String, Errno> {
    if addr == 0 {
        return Ok(String::new());
    }
    let bytes = cur.mm.copy_in_cstr(addr, crate::mm::PAGE as usize)?;
    String::from_utf8(bytes).map_err(|_| Errno::EINVAL)
}

fn may_mount(cur: &Current) -> Result<(), Errno> {
    if cur.cred().capable(Caps::SYS_ADMIN) { Ok(()) } else { Err(Errno::EPERM) }
}

/// mount(2). All mounts are private: there is no propagation to change.
pub fn mount(cur: &mut Current, args: &Args) -> SysResult {
    let kind = text(cur, args.u64(2))?;
    let source = text(cur, args.u64(0))?;
    let options = if args.u64(4) == 0 { String::new() } else { text(cur, args.u64(4))? };
    let mut flags = args.u64(3);
    if flags & 0xffff_0000 == MS_MGC_VAL {
        flags &= 0xffff;
    }
    let target = user::lookup(cur, libc::AT_FDCWD, args.u64(1), LookupFlags::FOLLOW)?;
    may_mount(cur)?;
    if flags & MS_REMOUNT != 0 {
        return remount(&target, flags);
    }
    if flags & MS_BIND != 0 {
        return bind(cur, &source, &target, flags & MS_REC != 0);
    }
    if flags & PROPAGATION != 0 {
        let one = (flags & PROPAGATION).is_power_of_two();
        if !one || flags & !(PROPAGATION | MS_REC | 0x8000) != 0 || !target.is_mount_root() {
            return Err(Errno::EINVAL);
        }
        // A slave of nobody is private. Sharing and binding bans there are not.
        return if flags & (MS_PRIVATE | MS_SLAVE) != 0 { Ok(0) } else { Err(Errno::EINVAL) };
    }
    if flags & MS_MOVE != 0 {
        let from = namei::lookup(cur, libc::AT_FDCWD, source.as_bytes(), LookupFlags::FOLLOW)?;
        if !from.is_mount_root() || namei::is_dir(&from) != namei::is_dir(&target) {
            return Err(Errno::EINVAL);
        }
        return cur.fs().mounts().relocate(&from.mount, target).map(|()| 0);
    }
    if kind.is_empty() {
        return Err(Errno::EINVAL);
    }
    let new = cur.kernel.fstypes.make(&cur.kernel, &kind, &source, &options)?;
    if !namei::is_dir(&target) {
        return Err(Errno::ENOTDIR);
    }
    let name = if source.is_empty() { "none" } else { &source };
    let mount = Mount::of_guest(new.fs, new.root, name, mount_flags(flags))?;
    attach(cur, mount, target)
}

fn attach(cur: &Current, mount: Arc<Mount>, at: Path) -> SysResult {
    if at.dentry.is_unlinked() {
        return Err(Errno::ENOENT);
    }
    let mounts = cur.fs().mounts();
    if !mounts.contains(&at.mount) {
        return Err(Errno::EINVAL);
    }
    mounts.attach_bounded(mount, at).map(|()| 0)
}

fn remount(target: &Path, flags: u64) -> SysResult {
    if !target.is_mount_root() {
        return Err(Errno::EINVAL);
    }
    target.mount.set_flags(mount_flags(flags));
    Ok(0)
}

fn bind(cur: &Current, source: &str, target: &Path, recursive: bool) -> SysResult {
    let from = namei::lookup(cur, libc::AT_FDCWD, source.as_bytes(), LookupFlags::FOLLOW)?;
    let mounts = cur.fs().mounts();
    if namei::is_dir(&from) != namei::is_dir(target) {
        return Err(Errno::ENOTDIR);
    }
    if !mounts.contains(&from.mount) || !mounts.contains(&target.mount) {
        return Err(Errno::EINVAL);
    }
    let copy = |of: &Arc<Mount>, root: &Arc<Dentry>| {
        Mount::of_guest(of.fs.clone(), root.clone(), &of.source, of.flags())
    };
    let top = copy(&from.mount, &from.dentry)?;
    let below = if recursive { mounts.mounts_below(&from) } else { Vec::new() };
    attach(cur, top.clone(), target.clone())?;
    let mut pairs = vec![(from.mount.clone(), top)];
    for old in below {
        let Some(point) = old.point() else { continue };
        let Some((_, parent)) = pairs.iter().find(|(m, _)| Arc::ptr_eq(m, &point.mount)) else {
            continue;
        };
        let new = copy(&old, &old.root)?;
        let at = Path { mount: parent.clone(), dentry: point.dentry };
        mounts.attach_bounded(new.clone(), at)?;
        pairs.push((old, new));
    }
    Ok(0)
}

/// umount2(2)
pub fn umount2(cur: &mut Current, args: &Args) -> SysResult {
    const MNT_DETACH: u32 = 2;
    const MNT_EXPIRE: u32 = 4;
    const UMOUNT_NOFOLLOW: u32 = 8;
    let flags = args.uint(1);
    if flags & !(1 | MNT_DETACH | MNT_EXPIRE | UMOUNT_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL);
    }
    let mut lookup = LookupFlags::empty();
    lookup.set(LookupFlags::FOLLOW, flags & UMOUNT_NOFOLLOW == 0);
    let place = user::lookup(cur, libc::AT_FDCWD, args.u64(0), lookup)?;
    if !place.is_mount_root() {
        return Err(Errno::EINVAL);
    }
    may_mount(cur)?;
    if flags & MNT_EXPIRE != 0 {
        // Expiry is a mark that the next use takes away; nothing here keeps such marks.
        return Err(Errno::EINVAL);
    }
    cur.fs().mounts().unmount(&place.mount, flags & MNT_DETACH != 0).map(|()| 0)
}

/// pivot_root(2)
pub fn pivot_root(cur: &mut Current, args: &Args) -> SysResult {
    may_mount(cur)?;
    let flags = LookupFlags::FOLLOW | LookupFlags::DIRECTORY;
    let new = user::lookup(cur, libc::AT_FDCWD, args.u64(0), flags)?;
    let put_old = user::lookup(cur, libc::AT_FDCWD, args.u64(1), flags)?;
    let fs = cur.fs();
    let (root, mounts) = (fs.root(), fs.mounts());
    if !mounts.contains(&new.mount) || !mounts.contains(&root.mount) {
        return Err(Errno::EINVAL);
    }
    if Arc::ptr_eq(&new.mount, &root.mount) || Arc::ptr_eq(&put_old.mount, &root.mount) {
        return Err(Errno::EBUSY);
    }
    if !root.is_mount_root() || !new.is_mount_root() {
        return Err(Errno::EINVAL);
    }
    // The old root must end up below the new one.
    let mut up = put_old.clone();
    while !Arc::ptr_eq(&up.mount, &new.mount) {
        up = up.mount.point().ok_or(Errno::EINVAL)?;
    }
    if !new.dentry.is_ancestor_of(&up.dentry) {
        return Err(Errno::EINVAL);
    }
    mounts.pivot(&new.mount, put_old)?;
    for task in cur.kernel.tasks.all() {
        let fs = task.fs();
        if fs.root().same(&root) {
            fs.set_root(new.clone());
        }
        if fs.cwd().same(&root) {
            fs.set_cwd(new.clone());
        }
    }
    Ok(0)
}
