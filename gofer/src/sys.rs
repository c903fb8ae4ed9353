//! The host's file calls that the server needs and `std` lacks. Each takes a descriptor and at most
//! one path component; none takes a path. All return the host's errno.

use std::ffi::CStr;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use abi::Errno;
use libc::{c_char, c_int, c_long};

use crate::wire::reply::StatFsReply;
use crate::wire::request::Changes;
use crate::wire::types::{Attr, Name, RawAttr, SetTime, Timestamp};
use crate::wire::{MAX_LINK, MAX_NAME};

/// How every component is resolved: nothing leaves the directory, no symbolic link and no procfs
/// magic link is followed. Mount points are crossed (see `server::walk`).
const RESOLVE: u64 =
    libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS | libc::RESOLVE_NO_SYMLINKS;

/// The error of the last call. That this process has too many files open is the whole system's
/// limit for a guest.
fn last() -> Errno {
    match Errno::from(io::Error::last_os_error()) {
        Errno::EMFILE => Errno::ENFILE,
        e => e,
    }
}

fn check(rc: c_int) -> Result<(), Errno> {
    if rc < 0 { Err(last()) } else { Ok(()) }
}

/// A checked component with a NUL behind it.
pub(crate) struct Component([u8; MAX_NAME + 1]);

impl Component {
    /// Checks the name ([`Name::check`]).
    pub(crate) fn new(name: Name<'_>) -> Result<Component, Errno> {
        name.check()?;
        Component::unchecked(name.0)
    }

    /// `"."`: the directory itself.
    pub(crate) fn dot() -> Component {
        let mut buf = [0; MAX_NAME + 1];
        buf[0] = b'.';
        Component(buf)
    }

    /// Any NUL-free bytes of at most 255: an xattr's name.
    pub(crate) fn unchecked(bytes: &[u8]) -> Result<Component, Errno> {
        if bytes.contains(&0) {
            return Err(Errno::EINVAL);
        }
        let mut buf = [0; MAX_NAME + 1];
        buf.get_mut(..bytes.len())
            .filter(|_| bytes.len() <= MAX_NAME)
            .ok_or(Errno::ENAMETOOLONG)?
            .copy_from_slice(bytes);
        Ok(Component(buf))
    }

    fn ptr(&self) -> *const c_char {
        self.0.as_ptr().cast()
    }
}

/// `openat2(2)` of one component. `O_CLOEXEC`, `O_NOCTTY` and `O_NOFOLLOW` are added.
pub(crate) fn open(
    dir: BorrowedFd<'_>,
    name: &Component,
    flags: c_int,
    mode: u32,
) -> Result<OwnedFd, Errno> {
    // SAFETY: all-zero is a valid open_how.
    let mut how: libc::open_how = unsafe { zeroed() };
    how.flags = (flags | libc::O_CLOEXEC | libc::O_NOFOLLOW) as u64;
    if flags & libc::O_PATH == 0 {
        how.flags |= libc::O_NOCTTY as u64;
    }
    how.mode = u64::from(mode);
    how.resolve = RESOLVE;
    // The host answers EAGAIN when it cannot rule out that a rename elsewhere broke the
    // confinement; a few more tries settle that.
    let mut tries = 0;
    loop {
        // SAFETY: `name` is NUL-terminated; `how` is alive and its size is given.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                dir.as_raw_fd() as c_long,
                name.ptr(),
                &how,
                size_of::<libc::open_how>(),
            )
        };
        if fd >= 0 {
            // SAFETY: the call succeeded; the descriptor is ours.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd as c_int) });
        }
        match last() {
            Errno::EINTR => {}
            Errno::EAGAIN if tries < 32 => tries += 1,
            e => return Err(e),
        }
    }
}

/// Opens the `O_PATH` descriptor of a component.
pub(crate) fn open_path(dir: BorrowedFd<'_>, name: &Component) -> Result<OwnedFd, Errno> {
    open(dir, name, libc::O_PATH, 0)
}

/// What Linux shows for an id that the process's user namespace does not map
/// (`DEFAULT_OVERFLOWUID`).
const OVERFLOW_ID: u32 = 65534;
/// What is shown for it instead.
static FOREIGN_ID: AtomicU32 = AtomicU32::new(OVERFLOW_ID);

/// From now on, shows `id` in this process where Linux shows the overflow id.
pub(crate) fn show_foreign_ids_as(id: u32) {
    FOREIGN_ID.store(id, Ordering::Relaxed);
}

fn shown(id: u32) -> u32 {
    if id == OVERFLOW_ID { FOREIGN_ID.load(Ordering::Relaxed) } else { id }
}

/// Whether this process's own user or group is the overflow id ("nobody"), so that its files cannot
/// be told from foreign ones.
pub(crate) fn is_nobody() -> bool {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::geteuid() == OVERFLOW_ID || libc::getegid() == OVERFLOW_ID }
}

const STATX_MASK: u32 = libc::STATX_BASIC_STATS | libc::STATX_BTIME | libc::STATX_MNT_ID;

fn statx_call(fd: BorrowedFd<'_>, name: *const c_char, flags: c_int) -> Result<Attr, Errno> {
    // SAFETY: all-zero is a valid statx buffer.
    let mut stx: libc::statx = unsafe { zeroed() };
    // SAFETY: `name` is NUL-terminated and `stx` alive, by the callers below.
    check(unsafe { libc::statx(fd.as_raw_fd(), name, flags, STATX_MASK, &mut stx) })?;
    let time = |t: libc::statx_timestamp| Timestamp { sec: t.tv_sec, nsec: t.tv_nsec };
    let has = |bit: u32| stx.stx_mask & bit != 0;
    let raw = RawAttr {
        dev: libc::makedev(stx.stx_dev_major, stx.stx_dev_minor),
        ino: stx.stx_ino,
        mnt_id: if has(libc::STATX_MNT_ID) { stx.stx_mnt_id } else { 0 },
        mode: u32::from(stx.stx_mode),
        nlink: stx.stx_nlink,
        uid: shown(stx.stx_uid),
        gid: shown(stx.stx_gid),
        rdev: libc::makedev(stx.stx_rdev_major, stx.stx_rdev_minor),
        size: stx.stx_size,
        blocks: stx.stx_blocks,
        blksize: stx.stx_blksize,
        atime: time(stx.stx_atime),
        mtime: time(stx.stx_mtime),
        ctime: time(stx.stx_ctime),
        btime: has(libc::STATX_BTIME).then(|| time(stx.stx_btime)),
        attributes: stx.stx_attributes,
        attributes_mask: stx.stx_attributes_mask,
    };
    Attr::new(raw).ok_or(Errno::EIO)
}

/// `statx(2)` of a descriptor, `O_PATH` or not.
pub(crate) fn stat(fd: BorrowedFd<'_>) -> Result<Attr, Errno> {
    statx_call(fd, c"".as_ptr(), libc::AT_EMPTY_PATH)
}

/// `statx(2)` of a component, not following a symbolic link and triggering no automount.
pub(crate) fn stat_at(dir: BorrowedFd<'_>, name: &Component) -> Result<Attr, Errno> {
    statx_call(dir, name.ptr(), libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT)
}

/// `readlinkat(2)` of a symbolic link's own descriptor.
pub(crate) fn read_link(fd: BorrowedFd<'_>) -> Result<Box<[u8]>, Errno> {
    let mut buf = [0u8; MAX_LINK + 1];
    // SAFETY: `buf` is alive and its length given.
    let n = unsafe {
        libc::readlinkat(fd.as_raw_fd(), c"".as_ptr(), buf.as_mut_ptr().cast(), buf.len())
    };
    match usize::try_from(n) {
        Ok(n) if n == 0 || n > MAX_LINK => Err(Errno::ENAMETOOLONG),
        Ok(n) => Ok(buf.get(..n).ok_or(Errno::EIO)?.into()),
        Err(_) => Err(last()),
    }
}

/// `mkdirat(2)`
pub(crate) fn mkdir(dir: BorrowedFd<'_>, name: &Component, mode: u32) -> Result<(), Errno> {
    // SAFETY: `name` is NUL-terminated.
    check(unsafe { libc::mkdirat(dir.as_raw_fd(), name.ptr(), mode) })
}

/// `mknodat(2)`, never with a device number.
pub(crate) fn mknod(dir: BorrowedFd<'_>, name: &Component, mode: u32) -> Result<(), Errno> {
    // SAFETY: `name` is NUL-terminated.
    check(unsafe { libc::mknodat(dir.as_raw_fd(), name.ptr(), mode, 0) })
}

/// `symlinkat(2)`
pub(crate) fn symlink(target: &CStr, dir: BorrowedFd<'_>, name: &Component) -> Result<(), Errno> {
    // SAFETY: both strings are NUL-terminated.
    check(unsafe { libc::symlinkat(target.as_ptr(), dir.as_raw_fd(), name.ptr()) })
}

/// `linkat(2)` of an `O_PATH` descriptor (`AT_EMPTY_PATH`). The host may answer `ENOENT` when it
/// wants a capability for that.
pub(crate) fn link_fd(
    fd: BorrowedFd<'_>,
    dir: BorrowedFd<'_>,
    name: &Component,
) -> Result<(), Errno> {
    // SAFETY: both strings are NUL-terminated.
    check(unsafe {
        libc::linkat(fd.as_raw_fd(), c"".as_ptr(), dir.as_raw_fd(), name.ptr(), libc::AT_EMPTY_PATH)
    })
}

/// `linkat(2)` by name, not following a symbolic link.
pub(crate) fn link_at(
    from: BorrowedFd<'_>,
    old: &Component,
    to: BorrowedFd<'_>,
    new: &Component,
) -> Result<(), Errno> {
    // SAFETY: both strings are NUL-terminated.
    check(unsafe { libc::linkat(from.as_raw_fd(), old.ptr(), to.as_raw_fd(), new.ptr(), 0) })
}

/// `unlinkat(2)`
pub(crate) fn unlink(dir: BorrowedFd<'_>, name: &Component, rmdir: bool) -> Result<(), Errno> {
    let flags = if rmdir { libc::AT_REMOVEDIR } else { 0 };
    // SAFETY: `name` is NUL-terminated.
    check(unsafe { libc::unlinkat(dir.as_raw_fd(), name.ptr(), flags) })
}

/// `renameat2(2)`. The raw call: glibc turns one without flags into `renameat`, which is not on the
/// list of calls.
pub(crate) fn rename(
    from: BorrowedFd<'_>,
    old: &Component,
    to: BorrowedFd<'_>,
    new: &Component,
    flags: u32,
) -> Result<(), Errno> {
    // SAFETY: both strings are NUL-terminated.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            from.as_raw_fd() as c_long,
            old.ptr(),
            to.as_raw_fd() as c_long,
            new.ptr(),
            flags as c_long,
        )
    };
    if rc < 0 { Err(last()) } else { Ok(()) }
}

/// `fchownat(2)` of a descriptor, `O_PATH` or not.
pub(crate) fn chown(fd: BorrowedFd<'_>, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
    let (uid, gid) = (uid.unwrap_or(u32::MAX), gid.unwrap_or(u32::MAX));
    // SAFETY: the string is NUL-terminated.
    check(unsafe { libc::fchownat(fd.as_raw_fd(), c"".as_ptr(), uid, gid, libc::AT_EMPTY_PATH) })
}

/// `fchmodat2(2)` of a descriptor, `O_PATH` or not. `ENOSYS` before Linux 6.6.
pub(crate) fn chmod(fd: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    // SAFETY: the string is NUL-terminated; the other arguments are numbers.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_fchmodat2,
            fd.as_raw_fd() as c_long,
            c"".as_ptr(),
            mode as c_long,
            libc::AT_EMPTY_PATH as c_long,
        )
    };
    if rc < 0 { Err(last()) } else { Ok(()) }
}

/// `fchmod(2)` of an opened descriptor.
pub(crate) fn chmod_open(fd: BorrowedFd<'_>, mode: u32) -> Result<(), Errno> {
    // SAFETY: only numbers.
    check(unsafe { libc::fchmod(fd.as_raw_fd(), mode) })
}

/// `utimensat(2)` of a descriptor, `O_PATH` or not.
pub(crate) fn set_times(fd: BorrowedFd<'_>, changes: &Changes) -> Result<(), Errno> {
    let spec = |t: Option<SetTime>| match t {
        None => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT },
        Some(SetTime::Now) => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_NOW },
        Some(SetTime::To(t)) => libc::timespec { tv_sec: t.sec, tv_nsec: i64::from(t.nsec) },
    };
    let times = [spec(changes.atime), spec(changes.mtime)];
    // SAFETY: the string is NUL-terminated; `times` has the two elements that the call reads. The
    // raw call, because the C library refuses an empty path.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_utimensat,
            fd.as_raw_fd() as c_long,
            c"".as_ptr(),
            times.as_ptr(),
            libc::AT_EMPTY_PATH as c_long,
        )
    };
    if rc < 0 { Err(last()) } else { Ok(()) }
}

/// `ftruncate(2)`
pub(crate) fn truncate(fd: BorrowedFd<'_>, size: u64) -> Result<(), Errno> {
    let size = i64::try_from(size).map_err(|_| Errno::EINVAL)?;
    // SAFETY: only numbers.
    check(unsafe { libc::ftruncate(fd.as_raw_fd(), size) })
}

/// `fsync(2)` or `fdatasync(2)`
pub(crate) fn sync(fd: BorrowedFd<'_>, data_only: bool) -> Result<(), Errno> {
    // SAFETY: only numbers.
    check(unsafe {
        if data_only { libc::fdatasync(fd.as_raw_fd()) } else { libc::fsync(fd.as_raw_fd()) }
    })
}

/// `fgetxattr(2)`. `buf` has room for the longest value.
pub(crate) fn get_xattr(
    fd: BorrowedFd<'_>,
    name: &Component,
    buf: &mut [u8],
) -> Result<usize, Errno> {
    // SAFETY: `name` is NUL-terminated; `buf` is alive and its length given.
    let n =
        unsafe { libc::fgetxattr(fd.as_raw_fd(), name.ptr(), buf.as_mut_ptr().cast(), buf.len()) };
    usize::try_from(n).map_err(|_| last())
}

/// `fsetxattr(2)`
pub(crate) fn set_xattr(
    fd: BorrowedFd<'_>,
    name: &Component,
    value: &[u8],
    flags: c_int,
) -> Result<(), Errno> {
    // SAFETY: `name` is NUL-terminated; `value` is alive and its length given.
    check(unsafe {
        libc::fsetxattr(fd.as_raw_fd(), name.ptr(), value.as_ptr().cast(), value.len(), flags)
    })
}

/// `flistxattr(2)`
pub(crate) fn list_xattr(fd: BorrowedFd<'_>, buf: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: `buf` is alive and its length given.
    let n = unsafe { libc::flistxattr(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) };
    usize::try_from(n).map_err(|_| last())
}

/// `fremovexattr(2)`
pub(crate) fn remove_xattr(fd: BorrowedFd<'_>, name: &Component) -> Result<(), Errno> {
    // SAFETY: `name` is NUL-terminated.
    check(unsafe { libc::fremovexattr(fd.as_raw_fd(), name.ptr()) })
}

/// `fstatfs(2)`, also of an `O_PATH` descriptor.
pub(crate) fn stat_fs(fd: BorrowedFd<'_>) -> Result<StatFsReply, Errno> {
    // `struct statfs` of x86-64 as 15 words, because libc's has no flags.
    let mut s = [0u64; 15];
    // SAFETY: `s` is as large as the kernel's struct (120 bytes).
    let rc = unsafe { libc::syscall(libc::SYS_fstatfs, fd.as_raw_fd() as c_long, s.as_mut_ptr()) };
    if rc < 0 {
        return Err(last());
    }
    let [fs_type, bsize, blocks, bfree, bavail, files, ffree, _fsid, namelen, frsize, flags, ..] =
        s;
    Ok(StatFsReply { fs_type, bsize, frsize, blocks, bfree, bavail, files, ffree, namelen, flags })
}

/// `lseek(2)` with `SEEK_SET`, for directory cookies.
pub(crate) fn seek(fd: BorrowedFd<'_>, to: u64) -> Result<(), Errno> {
    // SAFETY: only numbers.
    let rc = unsafe { libc::lseek(fd.as_raw_fd(), to as i64, libc::SEEK_SET) };
    if rc < 0 { Err(last()) } else { Ok(()) }
}

/// `getdents64(2)`; returns the bytes filled, 0 at the end.
pub(crate) fn get_dents(fd: BorrowedFd<'_>, buf: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: `buf` is alive and its length given.
    let n = unsafe {
        libc::syscall(libc::SYS_getdents64, fd.as_raw_fd() as c_long, buf.as_mut_ptr(), buf.len())
    };
    usize::try_from(n).map_err(|_| last())
}

/// The working directory; `None` if it cannot be opened.
pub(crate) fn working_directory() -> Option<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let dir = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(".");
    dir.ok().map(OwnedFd::from)
}

/// `fchdir(2)`, also to an `O_PATH` descriptor.
pub(crate) fn enter(dir: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: only numbers.
    check(unsafe { libc::fchdir(dir.as_raw_fd()) })
}

/// A new inotify(7) instance that does not block.
pub(crate) fn inotify() -> Result<OwnedFd, Errno> {
    // SAFETY: only numbers.
    let fd = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
    check(fd)?;
    // SAFETY: the call succeeded; the descriptor is ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What is told of a watched directory: its names, and who may use them.
const WATCHED: u32 =
    libc::IN_CREATE | libc::IN_DELETE | libc::IN_MOVED_FROM | libc::IN_MOVED_TO | libc::IN_ATTRIB;

/// `inotify_add_watch(2)` of the working directory. `EEXIST` if it is watched already: a watch is
/// one node's, so that who ends it knows that nobody else relies on it.
pub(crate) fn watch_working_directory(notifier: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mask = WATCHED | libc::IN_ONLYDIR | libc::IN_MASK_CREATE;
    // SAFETY: the string is NUL-terminated.
    let watch = unsafe { libc::inotify_add_watch(notifier.as_raw_fd(), c".".as_ptr(), mask) };
    u32::try_from(watch).map_err(|_| last())
}

/// `inotify_rm_watch(2)`. An error means that it is gone already.
pub(crate) fn unwatch(notifier: BorrowedFd<'_>, watch: u32) {
    // SAFETY: only numbers.
    unsafe { libc::inotify_rm_watch(notifier.as_raw_fd(), watch as c_int) };
}

/// `FS_IOC_GETFLAGS`
pub(crate) const GET_FLAGS: u32 = 0x8008_6601;
/// `FS_CASEFOLD_FL`
const CASEFOLD: c_int = 0x4000_0000;

/// Whether a directory, opened for reading, takes different spellings for one name.
pub(crate) fn folds_case(dir: BorrowedFd<'_>) -> Result<bool, Errno> {
    // The kernel writes an int, though the request's number says long.
    let mut flags = [0 as c_int; 2];
    // SAFETY: `flags` has room for what the call writes.
    check(unsafe { libc::ioctl(dir.as_raw_fd(), GET_FLAGS.into(), flags.as_mut_ptr()) })?;
    Ok(flags[0] & CASEFOLD != 0)
}

/// Whether a descriptor is of an inode without a type, as inotify instances are, and does not block.
pub(crate) fn is_notifier(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: all-zero is a valid statx buffer.
    let mut stx: libc::statx = unsafe { zeroed() };
    let (name, flags) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
    // SAFETY: `name` is NUL-terminated and `stx` alive.
    let rc = unsafe { libc::statx(fd.as_raw_fd(), name, flags, libc::STATX_TYPE, &mut stx) };
    // SAFETY: only numbers.
    let open = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    rc == 0 && u32::from(stx.stx_mode) & libc::S_IFMT == 0 && open & libc::O_NONBLOCK != 0
}

/// Sets the process's umask to zero: modes come complete from the Sentry.
pub(crate) fn clear_umask() {
    // SAFETY: only numbers.
    unsafe { libc::umask(0) };
}

/// Bounds the number of malloc's arenas. Without a bound, glibc reads the number of CPUs from /sys
/// when some threads have arenas, which a jailed process must not.
pub(crate) fn bound_arenas(max: c_int) {
    // SAFETY: only numbers.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, max) };
}

/// Raises the limit of open descriptors as far as the process may, and returns it.
pub(crate) fn raise_descriptor_limit() -> u64 {
    let mut lim = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `lim` is alive in both calls.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut lim) != 0 {
            return 1024;
        }
        let raised = libc::rlimit { rlim_cur: lim.rlim_max, ..lim };
        if lim.rlim_cur < lim.rlim_max && libc::setrlimit(libc::RLIMIT_NOFILE, &raised) == 0 {
            return raised.rlim_cur;
        }
    }
    lim.rlim_cur
}
