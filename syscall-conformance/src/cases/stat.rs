//! stat, lstat, fstat, newfstatat, statx, statfs, access, utimensat.

use crate::helpers::*;
use crate::sys::BAD;

cases![
    fields,
    kinds,
    at_flags,
    follow_or_not,
    statx_basic,
    statx_errors,
    access_checks,
    access_errors,
    utimensat_values,
    utimensat_errors,
    utimensat_permissions,
    times_follow_operations,
    old_time_calls,
    statfs_fields,
    sync_calls,
    stat_bad_buffer,
    device_numbers,
    blocks_grow,
];

fn fields() {
    file(c"f", b"0123456789");
    let st = lstat(c"f");
    assert_eq!((st.st_size, st.st_nlink, st.st_mode), (10, 1, S_IFREG | 0o644));
    assert_eq!(st.st_uid as usize, ok!(SYS_geteuid));
    assert_eq!(st.st_gid as usize, ok!(SYS_getegid));
    assert!(st.st_blksize >= 512 && st.st_ino != 0);
    assert!((now(CLOCK_REALTIME) / 1_000_000_000) as i64 - st.st_mtime < 5);
    let open_one = fstat(open(c"f", O_RDONLY, 0));
    assert_eq!((open_one.st_ino, open_one.st_dev), (st.st_ino, st.st_dev));
}

fn kinds() {
    for p in [c"/dev/null", c"/proc/self/exe", c"/proc/self", c"/proc/self/fd", c"/", c"/proc/self/fd/0"] {
        println!("{p:?} {:o}", lstat(p).st_mode & S_IFMT);
    }
    let (r, _) = pipe(0);
    let (s, _) = socketpair(SOCK_STREAM);
    println!("pipe {:o} socket {:o}", fstat(r).st_mode, fstat(s).st_mode);
}

fn at_flags() {
    let fd = temp(c"f", b"abc");
    let mut st: stat = zeroed();
    ok!(SYS_newfstatat, fd, c"", &mut st, AT_EMPTY_PATH);
    assert_eq!(st.st_size, 3);
    err!(ENOENT: SYS_newfstatat, fd, c"", &mut st, 0);
    ok!(SYS_newfstatat, AT_FDCWD, c"", &mut st, AT_EMPTY_PATH);
    assert_eq!(st.st_mode & S_IFMT, S_IFDIR);
    err!(EINVAL: SYS_newfstatat, AT_FDCWD, c"f", &mut st, 0x8);
    err!(EBADF: SYS_newfstatat, 999, c"f", &mut st, 0);
    err!(EBADF: SYS_newfstatat, 999, c"", &mut st, AT_EMPTY_PATH);
    err!(ENOTDIR: SYS_newfstatat, fd, c"x", &mut st, 0);
    ok!(SYS_newfstatat, AT_FDCWD, c"f", &mut st, AT_NO_AUTOMOUNT);
}

fn follow_or_not() {
    file(c"f", b"abc");
    ok!(SYS_symlink, c"f", c"l");
    let mut st: stat = zeroed();
    ok!(SYS_stat, c"l", &mut st);
    assert_eq!(st.st_mode & S_IFMT, S_IFREG);
    ok!(SYS_lstat, c"l", &mut st);
    assert_eq!(st.st_mode & S_IFMT, S_IFLNK);
    ok!(SYS_symlink, c".", c"d");
    ok!(SYS_lstat, c"d/", &mut st);
    assert_eq!(st.st_mode & S_IFMT, S_IFDIR);
    err!(ENOTDIR: SYS_stat, c"l/", &mut st);
    err!(ENOENT: SYS_stat, c"nope", &mut st);
}

fn statx_basic() {
    file(c"f", b"abc");
    let mut sx: statx = zeroed();
    ok!(SYS_statx, AT_FDCWD, c"f", 0, STATX_BASIC_STATS, &mut sx);
    assert_eq!(sx.stx_mask & STATX_BASIC_STATS, STATX_BASIC_STATS);
    assert_eq!((sx.stx_size, sx.stx_nlink, i32::from(sx.stx_mode)), (3, 1, (S_IFREG | 0o644) as i32));
    let st = lstat(c"f");
    assert_eq!(sx.stx_ino, st.st_ino);
    assert_eq!(makedev(sx.stx_dev_major, sx.stx_dev_minor), st.st_dev);
    ok!(SYS_symlink, c"f", c"l");
    ok!(SYS_statx, AT_FDCWD, c"l", AT_SYMLINK_NOFOLLOW, STATX_TYPE, &mut sx);
    assert_eq!(u32::from(sx.stx_mode) & S_IFMT, S_IFLNK);
    ok!(SYS_statx, open(c"f", O_RDONLY, 0), c"", AT_EMPTY_PATH, 0, &mut sx);
    assert_eq!(sx.stx_size, 3);
}

fn statx_errors() {
    let mut sx: statx = zeroed();
    err!(EINVAL: SYS_statx, AT_FDCWD, c".", 0x8, 0, &mut sx);
    err!(EINVAL: SYS_statx, AT_FDCWD, c".", 0, STATX__RESERVED as u32, &mut sx);
    err!(EINVAL: SYS_statx, AT_FDCWD, c".", AT_STATX_FORCE_SYNC | AT_STATX_DONT_SYNC, 0, &mut sx);
    err!(ENOENT: SYS_statx, AT_FDCWD, c"no", 0, 0, &mut sx);
    err!(EFAULT: SYS_statx, AT_FDCWD, c".", 0, 0, BAD);
    err!(EBADF: SYS_statx, 999, c"x", 0, 0, &mut sx);
}

fn access_checks() {
    file(c"f", b"");
    ok!(SYS_chmod, c"f", 0o444);
    ok!(SYS_access, c"f", F_OK);
    ok!(SYS_access, c"f", R_OK);
    if root() && caps() & 2 != 0 {
        ok!(SYS_access, c"f", R_OK | W_OK);
        // Even root needs one execute bit.
        err!(EACCES: SYS_access, c"f", X_OK);
    }
    need_unprivileged();
    err!(EACCES: SYS_access, c"f", W_OK);
    err!(EACCES: SYS_access, c"f", R_OK | X_OK);
    ok!(SYS_access, c"f", R_OK);
}

fn access_errors() {
    file(c"f", b"");
    err!(EINVAL: SYS_access, c"f", 8);
    err!(EINVAL: SYS_access, c"no", -1);
    err!(ENOENT: SYS_access, c"no", F_OK);
    err!(ENOTDIR: SYS_access, c"f/x", F_OK);
    err!(EFAULT: SYS_access, BAD, F_OK);
    ok!(SYS_symlink, c"no", c"l");
    err!(ENOENT: SYS_access, c"l", F_OK);
    ok!(SYS_faccessat2, AT_FDCWD, c"l", F_OK, AT_SYMLINK_NOFOLLOW);
    ok!(SYS_faccessat2, AT_FDCWD, c"f", R_OK, AT_EACCESS);
    ok!(SYS_faccessat2, open(c"f", O_RDONLY, 0), c"", R_OK, AT_EMPTY_PATH);
    err!(EINVAL: SYS_faccessat2, AT_FDCWD, c"f", R_OK, 0x1);
    err!(EBADF: SYS_faccessat, 999, c"f", R_OK);
}

fn utimensat_values() {
    file(c"f", b"");
    let t = |s, n| timespec { tv_sec: s, tv_nsec: n };
    ok!(SYS_utimensat, AT_FDCWD, c"f", &[t(1000, 123), t(2000, 456)], 0);
    let st = lstat(c"f");
    assert_eq!((st.st_atime, st.st_atime_nsec, st.st_mtime, st.st_mtime_nsec), (1000, 123, 2000, 456));
    ok!(SYS_utimensat, AT_FDCWD, c"f", &[t(0, UTIME_OMIT), t(3000, 0)], 0);
    let st = lstat(c"f");
    assert_eq!((st.st_atime, st.st_mtime, st.st_mtime_nsec), (1000, 3000, 0));
    ok!(SYS_utimensat, AT_FDCWD, c"f", &[t(0, UTIME_NOW), t(0, UTIME_OMIT)], 0);
    assert!(lstat(c"f").st_atime > 1_000_000_000);
    assert_eq!(lstat(c"f").st_mtime, 3000);
    ok!(SYS_symlink, c"f", c"l");
    ok!(SYS_utimensat, AT_FDCWD, c"l", &[t(7, 0), t(8, 0)], AT_SYMLINK_NOFOLLOW);
    assert_eq!(lstat(c"l").st_mtime, 8);
    assert_eq!(lstat(c"f").st_mtime, 3000);
    let fd = open(c"f", O_RDONLY, 0);
    ok!(SYS_utimensat, fd, 0, &[t(7, 0), t(9, 0)], 0);
    assert_eq!(fstat(fd).st_mtime, 9);
    ok!(SYS_utimensat, fd, 0, 0, 0);
    assert!(fstat(fd).st_mtime > 1_000_000_000);
}

fn utimensat_errors() {
    file(c"f", b"");
    let t = |n| [timespec { tv_sec: 0, tv_nsec: n }, timespec { tv_sec: 0, tv_nsec: 0 }];
    err!(EINVAL: SYS_utimensat, AT_FDCWD, c"f", &t(1_000_000_000), 0);
    err!(EINVAL: SYS_utimensat, AT_FDCWD, c"f", &t(-1), 0);
    err!(EINVAL: SYS_utimensat, AT_FDCWD, c"f", &t(0), 0x8);
    err!(ENOENT: SYS_utimensat, AT_FDCWD, c"no", &t(0), 0);
    err!(EFAULT: SYS_utimensat, AT_FDCWD, c"f", BAD, 0);
    err!(EFAULT: SYS_utimensat, AT_FDCWD, 0, &t(0), 0);
    err!(EBADF: SYS_utimensat, 999, 0, &t(0), 0);
    let omit = [timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }; 2];
    // With nothing to set not even the path is looked at.
    ok!(SYS_utimensat, AT_FDCWD, c"no", &omit, 0);
}

fn utimensat_permissions() {
    file(c"f", b"");
    file(c"w", b"");
    ok!(SYS_chmod, c"w", 0o666);
    let not_mine = root();
    need_unprivileged();
    if !not_mine {
        skip!("the file is the caller's own");
    }
    let t = [timespec { tv_sec: 1, tv_nsec: 0 }; 2];
    err!(EPERM: SYS_utimensat, AT_FDCWD, c"w", &t, 0);
    ok!(SYS_utimensat, AT_FDCWD, c"w", 0, 0);
    err!(EACCES: SYS_utimensat, AT_FDCWD, c"f", 0, 0);
    err!(EPERM: SYS_utimensat, AT_FDCWD, c"f", &t, 0);
}

fn times_follow_operations() {
    let fd = temp(c"f", b"abc");
    let old = [timespec { tv_sec: 1000, tv_nsec: 0 }; 2];
    let reset = || {
        ok!(SYS_utimensat, fd, 0, &old, 0);
    };
    reset();
    write(fd, b"x");
    assert!(fstat(fd).st_mtime > 1000 && fstat(fd).st_atime == 1000);
    reset();
    ok!(SYS_ftruncate, fd, 1);
    assert!(fstat(fd).st_mtime > 1000);
    reset();
    ok!(SYS_fchmod, fd, 0o600);
    assert!(fstat(fd).st_mtime == 1000 && fstat(fd).st_ctime > 1000);
    ok!(SYS_mkdir, c"d", 0o755);
    ok!(SYS_utimensat, AT_FDCWD, c"d", &old, 0);
    file(c"d/x", b"");
    assert!(lstat(c"d").st_mtime > 1000);
    ok!(SYS_utimensat, AT_FDCWD, c"d", &old, 0);
    file(c"d/x", b"content of an existing file");
    assert_eq!(lstat(c"d").st_mtime, 1000);
    ok!(SYS_unlink, c"d/x");
    assert!(lstat(c"d").st_mtime > 1000);
}

fn old_time_calls() {
    file(c"f", b"");
    let b = utimbuf { actime: 11, modtime: 22 };
    ok!(SYS_utime, c"f", &b);
    assert_eq!((lstat(c"f").st_atime, lstat(c"f").st_mtime), (11, 22));
    let tv = [timeval { tv_sec: 33, tv_usec: 5 }, timeval { tv_sec: 44, tv_usec: 6 }];
    ok!(SYS_utimes, c"f", &tv);
    assert_eq!((lstat(c"f").st_mtime, lstat(c"f").st_mtime_nsec), (44, 6000));
    let bad = [timeval { tv_sec: 0, tv_usec: 1_000_000 }; 2];
    err!(EINVAL: SYS_utimes, c"f", &bad);
    ok!(SYS_futimesat, AT_FDCWD, c"f", &tv);
}

fn statfs_fields() {
    let mut s: statfs = zeroed();
    ok!(SYS_statfs, c".", &mut s);
    assert!(s.f_bsize > 0 && s.f_namelen == 255);
    ok!(SYS_statfs, c"/proc", &mut s);
    println!("{:#x} {}", s.f_type, s.f_bsize);
    let (r, _) = pipe(0);
    ok!(SYS_fstatfs, r, &mut s);
    println!("{:#x}", s.f_type);
    err!(ENOENT: SYS_statfs, c"no", &mut s);
    err!(EFAULT: SYS_statfs, c".", BAD);
    err!(EBADF: SYS_fstatfs, 999, &mut s);
}

fn sync_calls() {
    let fd = temp(c"f", b"x");
    ok!(SYS_fsync, fd);
    ok!(SYS_fdatasync, fd);
    ok!(SYS_syncfs, fd);
    ok!(SYS_sync_file_range, fd, 0, 0, 0);
    err!(EINVAL: SYS_sync_file_range, fd, -1i64, 0, 0);
    err!(EINVAL: SYS_sync_file_range, fd, 0, 0, 0x80);
    err!(EBADF: SYS_fsync, 999);
    let (r, _) = pipe(0);
    err!(EINVAL: SYS_fsync, r);
    err!(ESPIPE: SYS_sync_file_range, r, 0, 0, 0);
    ok!(SYS_fsync, open(c".", O_RDONLY, 0));
}

fn stat_bad_buffer() {
    err!(EFAULT: SYS_stat, c".", BAD);
    err!(EFAULT: SYS_stat, BAD, BAD);
    err!(EFAULT: SYS_fstat, 0, BAD);
    err!(EBADF: SYS_fstat, 999, BAD);
    err!(ENOENT: SYS_stat, c"no", BAD);
}

fn device_numbers() {
    for (p, major_no, minor_no) in [(c"/dev/null", 1, 3), (c"/dev/zero", 1, 5), (c"/dev/urandom", 1, 9), (c"/dev/tty", 5, 0)] {
        let st = lstat(p);
        assert_eq!(st.st_mode & S_IFMT, S_IFCHR);
        assert_eq!(st.st_rdev, makedev(major_no, minor_no), "{p:?}");
    }
}

fn blocks_grow() {
    let fd = temp(c"f", b"");
    assert_eq!(fstat(fd).st_blocks, 0);
    write(fd, &[1; 65536]);
    ok!(SYS_fsync, fd);
    assert!(fstat(fd).st_blocks >= 128);
    ok!(SYS_ftruncate, fd, 1 << 30);
    assert!(fstat(fd).st_blocks < 100_000, "a hole takes no blocks");
}
