//! Host calls that neither std nor nix wraps. Every `unsafe` of the mount and spawn code that is
//! nothing but a system call is here.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `-1` to `io::Error`.
pub(crate) fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn own(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `prctl(option, a, b, 0, 0)`. Only for options whose arguments are plain numbers.
pub(crate) fn prctl(option: i32, a: u64, b: u64) -> io::Result<i32> {
    // SAFETY: the options used here take no pointers.
    let result = unsafe { libc::prctl(option, a, b, 0u64, 0u64) };
    check(result.into())?;
    Ok(result)
}

/// fsopen(2).
pub(crate) fn fsopen(kind: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: `kind` is a NUL-terminated string.
    own(unsafe {
        libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 1 /* FSOPEN_CLOEXEC */)
    })
}

/// fsconfig(2), `FSCONFIG_SET_STRING`.
pub(crate) fn fsconfig_set(context: BorrowedFd<'_>, key: &CStr, value: &CStr) -> io::Result<()> {
    // SAFETY: both are NUL-terminated strings.
    let result = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            1, // FSCONFIG_SET_STRING
            key.as_ptr(),
            value.as_ptr(),
            0,
        )
    };
    check(result).map(drop)
}

/// fsconfig(2), `FSCONFIG_CMD_CREATE`.
pub(crate) fn fsconfig_create(context: BorrowedFd<'_>) -> io::Result<()> {
    let null = std::ptr::null::<u8>();
    // SAFETY: this command takes no pointers.
    let result =
        unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), 6, null, null, 0) };
    check(result).map(drop)
}

/// fsmount(2).
pub(crate) fn fsmount(context: BorrowedFd<'_>, attributes: u64) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    own(unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            1, /* FSMOUNT_CLOEXEC */
            attributes,
        )
    })
}

/// open_tree(2) with `OPEN_TREE_CLONE | AT_RECURSIVE`: a detached copy of what is at `path`.
pub(crate) fn open_tree_clone(at: BorrowedFd<'_>, path: &CStr) -> io::Result<OwnedFd> {
    const OPEN_TREE_CLONE: i32 = 1;
    const AT_RECURSIVE: i32 = 0x8000;
    let flags = OPEN_TREE_CLONE | AT_RECURSIVE | libc::O_CLOEXEC | libc::AT_NO_AUTOMOUNT;
    // SAFETY: `path` is a NUL-terminated string.
    own(unsafe { libc::syscall(libc::SYS_open_tree, at.as_raw_fd(), path.as_ptr(), flags) })
}

/// move_mount(2) of the detached mount `from` onto what `onto` refers to.
pub(crate) fn move_mount(from: BorrowedFd<'_>, onto: BorrowedFd<'_>) -> io::Result<()> {
    const MOVE_MOUNT_F_EMPTY_PATH: i32 = 4;
    const MOVE_MOUNT_T_EMPTY_PATH: i32 = 0x40;
    // SAFETY: both paths are NUL-terminated strings.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            from.as_raw_fd(),
            c"".as_ptr(),
            onto.as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    };
    check(result).map(drop)
}

/// mount_setattr(2): sets `attributes` on the mount `at`, and below it if `recursive`.
pub(crate) fn mount_setattr(
    at: BorrowedFd<'_>,
    attributes: u64,
    recursive: bool,
) -> io::Result<()> {
    const AT_RECURSIVE: i32 = 0x8000;
    let flags = libc::AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // struct mount_attr: attr_set, attr_clr, propagation, userns_fd.
    let change: [u64; 4] = [attributes, 0, 0, 0];
    // SAFETY: `change` has the layout and size of `struct mount_attr`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            at.as_raw_fd(),
            c"".as_ptr(),
            flags,
            change.as_ptr(),
            size_of_val(&change),
        )
    };
    check(result).map(drop)
}

/// close_range(2) from `first` on.
pub(crate) fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: closes descriptors that no owner in this process uses any more: the caller has just
    // become a fresh process and has put what it keeps below `first`.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// What clone3(2) returned.
pub(crate) enum Cloned {
    /// We are the child.
    Child,
    /// We are the parent.
    Parent {
        /// The child.
        pid: libc::pid_t,
        /// Its pidfd.
        pidfd: OwnedFd,
    },
}

/// A fork with namespace flags and a pidfd.
///
/// # Safety
/// As fork(2): the process must be single-threaded, else the child may only call
/// async-signal-safe functions.
pub(crate) unsafe fn clone_process(namespaces: u64) -> io::Result<Cloned> {
    let mut pidfd: i32 = -1;
    // glibc keeps the thread id in the thread's control block. fork(2) has the kernel put the
    // child's there; so do we. Hosts that cannot tell the address leave a stale id, which only
    // pthread_kill() on the main thread would notice.
    let mut tid_address: u64 = 0;
    // SAFETY: the kernel writes one pointer to `tid_address`.
    let known = unsafe { libc::prctl(libc::PR_GET_TID_ADDRESS, &raw mut tid_address) } == 0;
    let settid = if known {
        (libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID) as u64
    } else {
        tid_address = 0;
        0
    };
    let arguments = libc::clone_args {
        flags: namespaces | libc::CLONE_PIDFD as u64 | settid,
        pidfd: (&raw mut pidfd) as u64,
        child_tid: tid_address,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    // SAFETY: without CLONE_VM this is a fork: the child gets its own copy of the stack. All
    // pointers in `arguments` are valid. That the process is single-threaded is the caller's word.
    let result =
        unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of_val(&arguments)) };
    match check(result)? {
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: the kernel has just made this descriptor for us.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid: pid as libc::pid_t, pidfd })
        }
    }
}

/// pidfd_send_signal(2).
pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signo: i32) -> io::Result<()> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed.
    let result =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signo, info, 0) };
    check(result).map(drop)
}

/// Ends this process at once, without running destructors or exit handlers, which belong to the
/// process that it was forked from.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: always sound.
    unsafe { libc::_exit(code) }
}

/// pidfd_open(2) of the calling process.
pub(crate) fn pidfd_of_self() -> io::Result<OwnedFd> {
    // SAFETY: plain numbers.
    own(unsafe { libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0) })
}

/// pivot_root(".", "."): the current directory becomes the root, and the old root is stacked on
/// top of it.
pub(crate) fn pivot_root_here() -> io::Result<()> {
    let here = c".".as_ptr();
    // SAFETY: both are NUL-terminated strings.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, here, here) }).map(drop)
}

/// openat2(2), `O_PATH`, with `root` as the root directory of the walk, and no magic links.
pub(crate) fn open_in_root(root: BorrowedFd<'_>, path: &CStr) -> io::Result<OwnedFd> {
    // struct open_how: flags, mode, resolve.
    let how: [u64; 3] = [
        (libc::O_PATH | libc::O_CLOEXEC) as u64,
        0,
        libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS,
    ];
    // SAFETY: `path` is NUL-terminated; `how` has the layout and size of `struct open_how`.
    own(unsafe {
        libc::syscall(
            libc::SYS_openat2,
            root.as_raw_fd(),
            path.as_ptr(),
            how.as_ptr(),
            size_of_val(&how),
        )
    })
}
