//! rename, renameat2, link, symlink, unlink, readlink, mknod.

use crate::helpers::*;
use crate::sys::BAD;
use std::ffi::CString;

cases![
    rename_replaces,
    rename_kinds,
    rename_directories,
    rename_into_itself,
    rename_same_file,
    rename_errors,
    renameat2_noreplace,
    renameat2_exchange,
    renameat2_flags,
    rename_dots,
    rename_open_file,
    link_basics,
    link_errors,
    link_of_symlink,
    linkat_empty_path,
    symlink_errors,
    readlink_forms,
    readlink_errors,
    unlink_errors,
    unlink_trailing_slash,
    sticky_directory,
    mknod_kinds,
    mknod_devices,
    fifo_through_name,
    cross_device,
    rename_updates_times,
];

fn rename_replaces() {
    file(c"a", b"a");
    file(c"b", b"b");
    let old = open(c"b", O_RDONLY, 0);
    ok!(SYS_rename, c"a", c"b");
    assert_eq!(slurp(c"b"), b"a");
    assert_eq!(read(old, 4), b"b");
    assert_eq!(fstat(old).st_nlink, 0);
    err!(ENOENT: SYS_openat, AT_FDCWD, c"a", O_RDONLY, 0);
}

fn rename_kinds() {
    file(c"f", b"");
    ok!(SYS_mkdir, c"d", 0o755);
    err!(EISDIR: SYS_rename, c"f", c"d");
    err!(ENOTDIR: SYS_rename, c"d", c"f");
    ok!(SYS_symlink, c"d", c"l");
    // A link is renamed itself, and replaced itself.
    ok!(SYS_rename, c"f", c"l");
    assert_eq!(lstat(c"l").st_mode & S_IFMT, S_IFREG);
    assert_eq!(lstat(c"d").st_mode & S_IFMT, S_IFDIR);
}

fn rename_directories() {
    ok!(SYS_mkdir, c"a", 0o755);
    file(c"a/f", b"x");
    ok!(SYS_mkdir, c"b", 0o755);
    ok!(SYS_rename, c"a", c"b");
    assert_eq!(slurp(c"b/f"), b"x");
    ok!(SYS_mkdir, c"c", 0o755);
    err!(ENOTEMPTY: SYS_rename, c"c", c"b");
    ok!(SYS_rename, c"b", c"c/");
    ok!(SYS_rename, c"c/", c"new/");
    assert_eq!(slurp(c"new/f"), b"x");
    file(c"g", b"");
    err!(ENOTDIR: SYS_rename, c"g", c"h/");
    err!(ENOTDIR: SYS_rename, c"g/", c"h");
}

fn rename_into_itself() {
    ok!(SYS_mkdir, c"d", 0o755);
    ok!(SYS_mkdir, c"d/e", 0o755);
    err!(EINVAL: SYS_rename, c"d", c"d/e/x");
    err!(EINVAL: SYS_rename, c"d", c"d/x");
    err!(EINVAL: SYS_rename, c"d", c"d/e");
    err!(ENOTEMPTY: SYS_rename, c"d/e", c"d");
    ok!(SYS_rename, c"d", c"d");
}

fn rename_same_file() {
    file(c"a", b"x");
    ok!(SYS_link, c"a", c"b");
    ok!(SYS_rename, c"a", c"b");
    // Two names of one file: nothing happens, both stay.
    assert_eq!(lstat(c"a").st_ino, lstat(c"b").st_ino);
    ok!(SYS_rename, c"a", c"a");
}

fn rename_errors() {
    file(c"f", b"");
    err!(ENOENT: SYS_rename, c"no", c"x");
    err!(ENOENT: SYS_rename, c"f", c"no/x");
    err!(ENOENT: SYS_rename, c"", c"x");
    err!(ENOENT: SYS_rename, c"f", c"");
    err!(ENOTDIR: SYS_rename, c"f/x", c"x");
    err!(ENOTDIR: SYS_rename, c"f", c"f/x");
    err!(EFAULT: SYS_rename, BAD, c"x");
    err!(EFAULT: SYS_rename, c"f", BAD);
    err!(EBADF: SYS_renameat, 999, c"f", AT_FDCWD, c"x");
    err!(EBADF: SYS_renameat, AT_FDCWD, c"f", 999, c"x");
    let long = CString::new("n".repeat(256)).unwrap();
    err!(ENAMETOOLONG: SYS_rename, c"f", long.as_c_str());
}

fn renameat2_noreplace() {
    file(c"a", b"a");
    file(c"b", b"b");
    err!(EEXIST: SYS_renameat2, AT_FDCWD, c"a", AT_FDCWD, c"b", RENAME_NOREPLACE);
    err!(EEXIST: SYS_renameat2, AT_FDCWD, c"a", AT_FDCWD, c"a", RENAME_NOREPLACE);
    err!(ENOENT: SYS_renameat2, AT_FDCWD, c"no", AT_FDCWD, c"b", RENAME_NOREPLACE);
    ok!(SYS_renameat2, AT_FDCWD, c"a", AT_FDCWD, c"c", RENAME_NOREPLACE);
    assert_eq!(slurp(c"c"), b"a");
}

fn renameat2_exchange() {
    file(c"a", b"a");
    ok!(SYS_mkdir, c"d", 0o755);
    file(c"d/in", b"in");
    ok!(SYS_renameat2, AT_FDCWD, c"a", AT_FDCWD, c"d", RENAME_EXCHANGE);
    assert_eq!(slurp(c"d"), b"a");
    assert_eq!(slurp(c"a/in"), b"in");
    err!(ENOENT: SYS_renameat2, AT_FDCWD, c"a", AT_FDCWD, c"no", RENAME_EXCHANGE);
    err!(EINVAL: SYS_renameat2, AT_FDCWD, c"a", AT_FDCWD, c"a/in", RENAME_EXCHANGE);
}

fn renameat2_flags() {
    file(c"a", b"");
    file(c"b", b"");
    err!(EINVAL: SYS_renameat2, AT_FDCWD, c"a", AT_FDCWD, c"b", RENAME_NOREPLACE | RENAME_EXCHANGE);
    err!(EINVAL: SYS_renameat2, AT_FDCWD, c"a", AT_FDCWD, c"b", RENAME_EXCHANGE | RENAME_WHITEOUT);
    err!(EINVAL: SYS_renameat2, AT_FDCWD, c"no", AT_FDCWD, c"b", 0x80);
}

fn rename_dots() {
    ok!(SYS_mkdir, c"d", 0o755);
    ok!(SYS_mkdir, c"d/e", 0o755);
    err!(EBUSY: SYS_rename, c"d/.", c"x");
    err!(EBUSY: SYS_rename, c"d/e/..", c"x");
    err!(EBUSY: SYS_rename, c"d", c"d/..");
    err!(EBUSY: SYS_rename, c"d/e", c".");
    err!(EEXIST: SYS_renameat2, AT_FDCWD, c"d", AT_FDCWD, c"d/.", RENAME_NOREPLACE);
}

fn rename_open_file() {
    let fd = temp(c"a", b"abc");
    ok!(SYS_mkdir, c"d", 0o755);
    ok!(SYS_rename, c"a", c"d/b");
    write(fd, b"X");
    assert_eq!(slurp(c"d/b"), b"Xbc");
    let name = CString::new(format!("/proc/self/fd/{fd}")).unwrap();
    let mut b = [0u8; 4096];
    let n = ok!(SYS_readlink, name.as_c_str(), &mut b, 4096);
    assert!(b[..n].ends_with(b"/d/b"));
}

fn link_basics() {
    file(c"a", b"x");
    ok!(SYS_link, c"a", c"b");
    assert_eq!(lstat(c"a").st_nlink, 2);
    assert_eq!(lstat(c"a").st_ino, lstat(c"b").st_ino);
    file(c"b", b"new");
    assert_eq!(slurp(c"a"), b"new");
    ok!(SYS_unlink, c"a");
    assert_eq!(lstat(c"b").st_nlink, 1);
}

fn link_errors() {
    file(c"a", b"");
    file(c"b", b"");
    ok!(SYS_mkdir, c"d", 0o755);
    err!(EEXIST: SYS_link, c"a", c"b");
    err!(EEXIST: SYS_link, c"a", c"a");
    err!(EEXIST: SYS_link, c"a", c"d");
    err!(ENOENT: SYS_link, c"no", c"x");
    err!(ENOENT: SYS_link, c"a", c"no/x");
    err!(ENOENT: SYS_link, c"a", c"x/");
    err!(EPERM: SYS_link, c"d", c"x");
    err!(ENOTDIR: SYS_link, c"a/x", c"x");
    err!(EEXIST: SYS_link, c"d", c"b");
    err!(EFAULT: SYS_link, c"a", BAD);
    err!(EINVAL: SYS_linkat, AT_FDCWD, c"a", AT_FDCWD, c"x", 0x1);
    err!(EINVAL: SYS_linkat, AT_FDCWD, BAD, AT_FDCWD, c"x", 0x1);
}

fn link_of_symlink() {
    file(c"f", b"");
    ok!(SYS_symlink, c"f", c"l");
    ok!(SYS_link, c"l", c"l2");
    assert_eq!(lstat(c"l2").st_mode & S_IFMT, S_IFLNK);
    assert_eq!(lstat(c"l").st_nlink, 2);
    ok!(SYS_linkat, AT_FDCWD, c"l", AT_FDCWD, c"f2", AT_SYMLINK_FOLLOW);
    assert_eq!(lstat(c"f2").st_ino, lstat(c"f").st_ino);
}

fn linkat_empty_path() {
    let fd = temp(c"f", b"x");
    err!(ENOENT: SYS_linkat, fd, c"", AT_FDCWD, c"g", 0);
    if caps() & 4 != 0 {
        ok!(SYS_linkat, fd, c"", AT_FDCWD, c"g", AT_EMPTY_PATH);
        assert_eq!(slurp(c"g"), b"x");
    }
    ok!(SYS_unlink, c"f");
    let _ = sys!(SYS_unlink, c"g");
    err!(ENOENT: SYS_linkat, fd, c"", AT_FDCWD, c"h", AT_EMPTY_PATH);
}

fn symlink_errors() {
    file(c"f", b"");
    err!(EEXIST: SYS_symlink, c"x", c"f");
    err!(EEXIST: SYS_symlink, c"x", c".");
    err!(ENOENT: SYS_symlink, c"", c"l");
    err!(ENOENT: SYS_symlink, c"x", c"");
    err!(ENOENT: SYS_symlink, c"x", c"no/l");
    err!(ENOENT: SYS_symlink, c"x", c"l/");
    err!(ENOTDIR: SYS_symlink, c"x", c"f/l");
    err!(EFAULT: SYS_symlink, BAD, c"l");
    let fits = CString::new("t".repeat(4095)).unwrap();
    let over = CString::new("t".repeat(4096)).unwrap();
    ok!(SYS_symlink, fits.as_c_str(), c"long");
    assert_eq!(lstat(c"long").st_size, 4095);
    err!(ENAMETOOLONG: SYS_symlink, over.as_c_str(), c"longer");
    err!(ENAMETOOLONG: SYS_openat, AT_FDCWD, c"long", O_RDONLY, 0);
}

fn readlink_forms() {
    ok!(SYS_symlink, c"some/target", c"l");
    let mut b = [b'#'; 32];
    assert_eq!(ok!(SYS_readlink, c"l", &mut b, 32), 11);
    assert_eq!(&b[..13], b"some/target##");
    // Cut off without notice, and no terminator.
    b = [b'#'; 32];
    assert_eq!(ok!(SYS_readlink, c"l", &mut b, 4), 4);
    assert_eq!(&b[..6], b"some##");
    let fd = open(c"l", O_PATH | O_NOFOLLOW, 0);
    assert_eq!(ok!(SYS_readlinkat, fd, c"", &mut b, 32), 11);
    let st = lstat(c"l");
    assert_eq!((st.st_mode, st.st_size), (S_IFLNK | 0o777, 11));
}

fn readlink_errors() {
    file(c"f", b"");
    ok!(SYS_symlink, c"f", c"l");
    let mut b = [0u8; 8];
    err!(EINVAL: SYS_readlink, c"f", &mut b, 8);
    err!(EINVAL: SYS_readlink, c".", &mut b, 8);
    err!(EINVAL: SYS_readlink, c"l", &mut b, 0);
    err!(EINVAL: SYS_readlink, c"l", &mut b, -1);
    err!(EINVAL: SYS_readlink, c"no", &mut b, 0);
    err!(ENOENT: SYS_readlink, c"no", &mut b, 8);
    err!(ENOENT: SYS_readlink, c"", &mut b, 8);
    err!(EFAULT: SYS_readlink, c"l", BAD, 8);
    err!(ENOTDIR: SYS_readlink, c"l/", &mut b, 8);
    let fd = open(c"f", O_RDONLY, 0);
    err!(ENOENT: SYS_readlinkat, fd, c"", &mut b, 8);
    err!(ENOTDIR: SYS_readlinkat, fd, c"l", &mut b, 8);
}

fn unlink_errors() {
    file(c"f", b"");
    err!(ENOENT: SYS_unlink, c"no");
    err!(ENOENT: SYS_unlink, c"");
    err!(ENOTDIR: SYS_unlink, c"f/x");
    err!(EISDIR: SYS_unlink, c".");
    err!(EISDIR: SYS_unlink, c"/");
    err!(EFAULT: SYS_unlink, BAD);
    err!(ENOTDIR: SYS_unlinkat, AT_FDCWD, c"f", AT_REMOVEDIR);
    err!(EBADF: SYS_unlinkat, 999, c"f", 0);
    ok!(SYS_unlink, c"f");
}

fn unlink_trailing_slash() {
    file(c"f", b"");
    ok!(SYS_mkdir, c"d", 0o755);
    ok!(SYS_symlink, c"d", c"l");
    err!(ENOTDIR: SYS_unlink, c"f/");
    err!(EISDIR: SYS_unlink, c"d/");
    err!(ENOTDIR: SYS_unlink, c"l/");
    err!(ENOENT: SYS_unlink, c"no/");
    ok!(SYS_unlink, c"l");
    lstat(c"d");
}

fn sticky_directory() {
    need_cap(CAP_CHOWN);
    ok!(SYS_mkdir, c"t", 0o777);
    ok!(SYS_chmod, c"t", 0o1777);
    file(c"t/roots", b"");
    file(c"t/mine", b"");
    ok!(SYS_chown, c"t/mine", 65534, 65534);
    need_unprivileged();
    err!(EPERM: SYS_unlink, c"t/roots");
    err!(EPERM: SYS_rename, c"t/roots", c"t/x");
    err!(EPERM: SYS_rename, c"t/mine", c"t/roots");
    ok!(SYS_rename, c"t/mine", c"t/x");
    ok!(SYS_unlink, c"t/x");
}

fn mknod_kinds() {
    ok!(SYS_mknod, c"plain", 0o640, 0);
    assert_eq!(lstat(c"plain").st_mode, S_IFREG | 0o640);
    ok!(SYS_mknod, c"reg", S_IFREG | 0o600, 0);
    ok!(SYS_mknod, c"fifo", S_IFIFO | 0o600, 0);
    ok!(SYS_mknod, c"sock", S_IFSOCK | 0o600, 0);
    assert_eq!(lstat(c"fifo").st_mode, S_IFIFO | 0o600);
    assert_eq!(lstat(c"sock").st_mode, S_IFSOCK | 0o600);
    err!(EPERM: SYS_mknod, c"d", S_IFDIR | 0o700, 0);
    err!(EINVAL: SYS_mknod, c"l", S_IFLNK | 0o700, 0);
    err!(EEXIST: SYS_mknod, c"reg", S_IFREG | 0o600, 0);
    err!(ENOENT: SYS_mknod, c"no/x", S_IFREG | 0o600, 0);
    err!(ENXIO: SYS_openat, AT_FDCWD, c"sock", O_RDONLY, 0);
}

fn mknod_devices() {
    need_unprivileged();
    err!(EPERM: SYS_mknod, c"c", S_IFCHR | 0o600, makedev(1, 3));
    err!(EPERM: SYS_mknod, c"b", S_IFBLK | 0o600, makedev(8, 0));
    // Overlay's whiteout is no device that could be used.
    ok!(SYS_mknod, c"w", S_IFCHR | 0o600, 0);
    err!(ENXIO: SYS_openat, AT_FDCWD, c"w", O_RDONLY, 0);
}

fn fifo_through_name() {
    ok!(SYS_mknod, c"p", S_IFIFO | 0o644, 0);
    err!(ENXIO: SYS_openat, AT_FDCWD, c"p", O_WRONLY | O_NONBLOCK, 0);
    let r = open(c"p", O_RDONLY | O_NONBLOCK, 0);
    let w = open(c"p", O_WRONLY | O_NONBLOCK, 0);
    write(w, b"hi");
    assert_eq!(read(r, 8), b"hi");
    close(w);
    assert_eq!(read(r, 8), b"");
    close(r);
    // A blocking open waits for the other side.
    let pid = fork(|| {
        let w = open(c"p", O_WRONLY, 0);
        write(w, b"met");
        0
    });
    let r = open(c"p", O_RDONLY, 0);
    assert_eq!(read(r, 8), b"met");
    assert_eq!(wait(pid), 0);
    let both = open(c"p", O_RDWR, 0);
    write(both, b"x");
    assert_eq!(read(both, 1), b"x");
}

fn cross_device() {
    file(c"f", b"");
    err!(EXDEV: SYS_rename, c"f", c"/proc/x");
    err!(EXDEV: SYS_link, c"/proc/self/stat", c"x");
    err!(EXDEV: SYS_rename, c"/proc/self/stat", c"x");
}

fn rename_updates_times() {
    ok!(SYS_mkdir, c"d", 0o755);
    ok!(SYS_mkdir, c"e", 0o755);
    file(c"d/f", b"");
    let before = (lstat(c"d"), lstat(c"e"), lstat(c"d/f"));
    nap(30);
    ok!(SYS_rename, c"d/f", c"e/f");
    let after = (lstat(c"d"), lstat(c"e"), lstat(c"e/f"));
    let t = |s: &stat| (s.st_mtime, s.st_mtime_nsec);
    let c = |s: &stat| (s.st_ctime, s.st_ctime_nsec);
    assert!(t(&after.0) > t(&before.0) && t(&after.1) > t(&before.1));
    assert!(t(&after.2) == t(&before.2) && c(&after.2) > c(&before.2));
}
