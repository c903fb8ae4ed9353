//! The process's mount namespace: a small tmpfs becomes the root, and the host's tree is taken
//! away.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::error::{Context, Error, Layer};
use crate::sys;

/// `MOUNT_ATTR_*` of mount_setattr(2).
pub(crate) mod attribute {
    pub(crate) const RDONLY: u64 = 0x1;
    pub(crate) const NOSUID: u64 = 0x2;
    pub(crate) const NODEV: u64 = 0x4;
    pub(crate) const NOEXEC: u64 = 0x8;
    pub(crate) const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// Cuts mount propagation in both directions.
pub(crate) fn make_private() -> Result<(), Error> {
    let none = std::ptr::null();
    let flags = libc::MS_REC | libc::MS_PRIVATE | libc::MS_SILENT;
    // SAFETY: propagation changes read the target only.
    sys::check(unsafe { libc::mount(none, c"/".as_ptr(), none, flags, std::ptr::null()) }.into())
        .context(Layer::Mounts, "making the mounts private")
        .map(drop)
}

/// A tmpfs, mounted nowhere yet.
pub(crate) fn new_tmpfs(options: &[(&CStr, &CStr)], attributes: u64) -> Result<OwnedFd, Error> {
    let make = || -> io::Result<OwnedFd> {
        let context = sys::fsopen(c"tmpfs")?;
        for (key, value) in options {
            sys::fsconfig_set(context.as_fd(), key, value)?;
        }
        sys::fsconfig_create(context.as_fd())?;
        sys::fsmount(context.as_fd(), attributes)
    };
    make().context(Layer::Mounts, "making a tmpfs")
}

/// Puts `mount` on top of the current root directory, so that it is part of this namespace and
/// can be filled and pivoted into.
pub(crate) fn attach_on_root(mount: BorrowedFd<'_>) -> Result<(), Error> {
    let root = File::open("/").context(Layer::Mounts, "opening /")?;
    sys::move_mount(mount, root.as_fd()).context(Layer::Mounts, "mounting the new root")
}

/// Makes the attached mount `root` the root directory, and unmounts all else.
pub(crate) fn pivot_into(root: BorrowedFd<'_>) -> Result<(), Error> {
    // SAFETY: takes a descriptor only.
    sys::check(unsafe { libc::fchdir(root.as_raw_fd()) }.into())
        .context(Layer::Mounts, "entering the new root")?;
    sys::pivot_root_here().context(Layer::Mounts, "pivot_root")?;
    // SAFETY: a NUL-terminated string. The old root lies on top of the new one, so "." is it.
    sys::check(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) }.into())
        .context(Layer::Mounts, "unmounting the host's root")?;
    // SAFETY: a NUL-terminated string.
    sys::check(unsafe { libc::chdir(c"/".as_ptr()) }.into())
        .context(Layer::Mounts, "chdir /")
        .map(drop)
}

/// An empty, read-only root directory, and nothing else in sight.
pub(crate) fn enter_empty_root() -> Result<(), Error> {
    make_private()?;
    let everything = attribute::RDONLY
        | attribute::NOSUID
        | attribute::NODEV
        | attribute::NOEXEC
        | attribute::NOSYMFOLLOW;
    let options = [(c"mode", c"0555"), (c"size", c"4096"), (c"nr_inodes", c"1")];
    let root = new_tmpfs(&options, everything)?;
    attach_on_root(root.as_fd())?;
    pivot_into(root.as_fd())
}
