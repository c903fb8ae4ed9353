//! mkdir, rmdir, getdents64, getcwd, chdir, chroot.

use crate::helpers::*;
use crate::sys::BAD;
use std::collections::BTreeSet;
use std::ffi::CString;

cases![
    mkdir_errors,
    rmdir_errors,
    mkdir_mode_and_umask,
    link_counts,
    setgid_inherits,
    getdents_lists,
    getdents_small_buffer,
    getdents_types,
    getdents_many,
    getdents_while_changing,
    getdents_of_descriptors_while_closing,
    getcwd_forms,
    chdir_errors,
    fchdir_and_deleted,
    chdir_permission,
    chroot_confines,
    chroot_errors,
    deep_path,
    cwd_is_per_process,
    getdents_removed_directory,
];

/// Names in a directory, by type.
fn list(fd: i32, size: usize) -> Vec<(String, u8)> {
    let mut all = Vec::new();
    let mut buf = vec![0u64; size.div_ceil(8)];
    loop {
        let n = ok!(SYS_getdents64, fd, &mut buf[..], size);
        if n == 0 {
            return all;
        }
        let bytes: Vec<u8> = buf.iter().flat_map(|w| w.to_ne_bytes()).take(n).collect();
        let mut at = 0;
        while at < n {
            let len = u16::from_ne_bytes([bytes[at + 16], bytes[at + 17]]) as usize;
            assert!(len.is_multiple_of(8) && len >= 24, "record length {len}");
            let name = bytes[at + 19..at + len].split(|b| *b == 0).next().unwrap();
            all.push((String::from_utf8_lossy(name).into_owned(), bytes[at + 18]));
            at += len;
        }
    }
}

fn mkdir_errors() {
    ok!(SYS_mkdir, c"d", 0o755);
    err!(EEXIST: SYS_mkdir, c"d", 0o755);
    err!(EEXIST: SYS_mkdir, c"d/", 0o755);
    err!(EEXIST: SYS_mkdir, c".", 0o755);
    err!(EEXIST: SYS_mkdir, c"/", 0o755);
    err!(EEXIST: SYS_mkdir, c"d/..", 0o755);
    err!(ENOENT: SYS_mkdir, c"no/d", 0o755);
    err!(ENOENT: SYS_mkdir, c"", 0o755);
    file(c"f", b"");
    err!(EEXIST: SYS_mkdir, c"f", 0o755);
    err!(ENOTDIR: SYS_mkdir, c"f/d", 0o755);
    ok!(SYS_symlink, c"nowhere", c"l");
    err!(EEXIST: SYS_mkdir, c"l", 0o755);
    err!(EFAULT: SYS_mkdir, BAD, 0o755);
    ok!(SYS_mkdir, c"e//", 0o755);
    err!(EBADF: SYS_mkdirat, 999, c"x", 0o755);
    err!(ENOTDIR: SYS_mkdirat, open(c"f", O_RDONLY, 0), c"x", 0o755);
    let long = CString::new("n".repeat(256)).unwrap();
    err!(ENAMETOOLONG: SYS_mkdir, long.as_c_str(), 0o755);
}

fn rmdir_errors() {
    ok!(SYS_mkdir, c"d", 0o755);
    ok!(SYS_mkdir, c"d/e", 0o755);
    err!(ENOTEMPTY: SYS_rmdir, c"d");
    err!(EINVAL: SYS_rmdir, c"d/e/.");
    err!(ENOTEMPTY: SYS_rmdir, c"d/e/..");
    err!(EINVAL: SYS_rmdir, c".");
    err!(ENOTEMPTY: SYS_rmdir, c"..");
    err!(EBUSY: SYS_rmdir, c"/");
    err!(ENOENT: SYS_rmdir, c"no");
    err!(ENOENT: SYS_rmdir, c"");
    file(c"f", b"");
    err!(ENOTDIR: SYS_rmdir, c"f");
    ok!(SYS_symlink, c"d/e", c"l");
    err!(ENOTDIR: SYS_rmdir, c"l");
    err!(ENOTDIR: SYS_rmdir, c"l/");
    err!(EISDIR: SYS_unlink, c"d");
    err!(EISDIR: SYS_unlinkat, AT_FDCWD, c"d/e", 0);
    err!(EINVAL: SYS_unlinkat, AT_FDCWD, c"d/e", 0x1);
    err!(EINVAL: SYS_unlinkat, AT_FDCWD, c"no", 0x1);
    ok!(SYS_unlinkat, AT_FDCWD, c"d/e/", AT_REMOVEDIR);
    ok!(SYS_rmdir, c"d");
    err!(ENOENT: SYS_rmdir, c"d");
}

fn mkdir_mode_and_umask() {
    ok!(SYS_umask, 0o027);
    ok!(SYS_mkdir, c"a", 0o777);
    assert_eq!(lstat(c"a").st_mode & 0o7777, 0o750);
    ok!(SYS_umask, 0);
    ok!(SYS_mkdir, c"b", 0o7777);
    // mkdir takes the sticky bit, not the set-id bits.
    assert_eq!(lstat(c"b").st_mode & 0o7777, 0o1777);
}

fn link_counts() {
    ok!(SYS_mkdir, c"d", 0o755);
    assert_eq!(lstat(c"d").st_nlink, 2);
    ok!(SYS_mkdir, c"d/a", 0o755);
    ok!(SYS_mkdir, c"d/b", 0o755);
    file(c"d/f", b"");
    assert_eq!(lstat(c"d").st_nlink, 4);
    ok!(SYS_rmdir, c"d/a");
    assert_eq!(lstat(c"d").st_nlink, 3);
    ok!(SYS_rename, c"d/b", c"b");
    assert_eq!(lstat(c"d").st_nlink, 2);
    err!(EPERM: SYS_link, c"d", c"d2");
}

fn setgid_inherits() {
    need_cap(CAP_CHOWN);
    ok!(SYS_mkdir, c"d", 0o755);
    ok!(SYS_chown, c"d", 0, 1234);
    ok!(SYS_chmod, c"d", 0o2755);
    file(c"d/f", b"");
    ok!(SYS_mkdir, c"d/e", 0o700);
    assert_eq!(lstat(c"d/f").st_gid, 1234);
    assert_eq!(lstat(c"d/e").st_gid, 1234);
    assert_eq!(lstat(c"d/e").st_mode & 0o7777, 0o2700);
}

fn getdents_lists() {
    for n in [c"a", c"b", c".hidden"] {
        file(n, b"");
    }
    let names: BTreeSet<String> = list(open(c".", O_RDONLY, 0), 4096).into_iter().map(|e| e.0).collect();
    println!("{names:?}");
    assert_eq!(names.len(), 5);
    let mut b = [0u64; 8];
    err!(EBADF: SYS_getdents64, 999, &mut b, 64);
    file(c"f", b"");
    err!(ENOTDIR: SYS_getdents64, open(c"f", O_RDONLY, 0), &mut b, 64);
}

fn getdents_small_buffer() {
    file(c"a-name-that-is-not-short", b"");
    let fd = open(c".", O_RDONLY, 0);
    let mut b = [0u64; 512];
    err!(EINVAL: SYS_getdents64, fd, &mut b, 1);
    err!(EINVAL: SYS_getdents64, fd, &mut b, 23);
    err!(EFAULT: SYS_getdents64, fd, BAD, 4096);
    // One record at a time, through a buffer for one.
    let all: BTreeSet<String> = list(fd, 48).into_iter().map(|e| e.0).collect();
    println!("{all:?}");
}

fn getdents_types() {
    file(c"file", b"");
    ok!(SYS_mkdir, c"dir", 0o755);
    ok!(SYS_symlink, c"x", c"link");
    ok!(SYS_mknod, c"fifo", S_IFIFO | 0o644, 0);
    let mut all = list(open(c".", O_RDONLY, 0), 4096);
    all.sort();
    println!("{all:?}");
}

fn getdents_many() {
    for i in 0..1000 {
        file(&CString::new(format!("file-{i}")).unwrap(), b"");
    }
    let fd = open(c".", O_RDONLY, 0);
    let all = list(fd, 1024);
    assert_eq!(all.len(), 1002);
    let names: BTreeSet<_> = all.into_iter().collect();
    assert_eq!(names.len(), 1002, "a name came twice");
}

fn getdents_while_changing() {
    for i in 0..100 {
        file(&CString::new(format!("old-{i}")).unwrap(), b"");
    }
    let fd = open(c".", O_RDONLY, 0);
    let mut b = [0u64; 64];
    assert!(ok!(SYS_getdents64, fd, &mut b, 512) > 0);
    file(c"new", b"");
    ok!(SYS_unlink, c"old-99");
    let rest = list(fd, 512);
    let unique: BTreeSet<_> = rest.iter().cloned().collect();
    assert_eq!(rest.len(), unique.len(), "a name came twice");
    // Everything removed while reading must still work.
    ok!(SYS_lseek, fd, 0, SEEK_SET);
    assert!(ok!(SYS_getdents64, fd, &mut b, 512) > 0);
    for i in 0..99 {
        ok!(SYS_unlink, CString::new(format!("old-{i}")).unwrap().as_c_str());
    }
    let rest = list(fd, 512);
    assert!(rest.len() <= 1 + 99);
    ok!(SYS_lseek, fd, 0, SEEK_SET);
    assert_eq!(list(fd, 512).len(), 3);
}

fn getdents_of_descriptors_while_closing() {
    let first = ok!(SYS_fcntl, 0, F_DUPFD, 100) as i32;
    for _ in 0..30 {
        ok!(SYS_fcntl, 0, F_DUPFD, first);
    }
    let fd = open(c"/proc/self/fd", O_RDONLY, 0);
    let mut b = [0u64; 12];
    loop {
        let n = ok!(SYS_getdents64, fd, &mut b, 96);
        if n == 0 {
            break;
        }
        let bytes: Vec<u8> = b.iter().flat_map(|w| w.to_ne_bytes()).take(n).collect();
        let mut at = 0;
        while at < n {
            let len = u16::from_ne_bytes([bytes[at + 16], bytes[at + 17]]) as usize;
            let name = bytes[at + 19..at + len].split(|b| *b == 0).next().unwrap();
            match std::str::from_utf8(name).unwrap().parse() {
                Ok(open) if open >= first => close(open),
                _ => {}
            }
            at += len;
        }
    }
    for closed in first..=first + 30 {
        err!(EBADF: SYS_fcntl, closed, F_GETFD, 0);
    }
}

fn cwd() -> String {
    let mut b = [0u8; 4096];
    let n = ok!(SYS_getcwd, &mut b, 4096);
    assert_eq!(b[n - 1], 0);
    String::from_utf8_lossy(&b[..n - 1]).into_owned()
}

fn getcwd_forms() {
    let here = cwd();
    ok!(SYS_mkdir, c"d", 0o755);
    ok!(SYS_chdir, c"d/../d/.");
    assert_eq!(cwd(), format!("{here}/d"));
    let mut b = [0u8; 4096];
    err!(ERANGE: SYS_getcwd, &mut b, 1);
    err!(ERANGE: SYS_getcwd, &mut b, 0);
    err!(ERANGE: SYS_getcwd, &mut b, here.len() + 2);
    assert_eq!(ok!(SYS_getcwd, &mut b, here.len() + 3), here.len() + 3);
    err!(EFAULT: SYS_getcwd, BAD, 4096);
    ok!(SYS_symlink, c".", c"l");
    ok!(SYS_chdir, c"l");
    assert_eq!(cwd(), format!("{here}/d"));
    ok!(SYS_chdir, c"/");
    assert_eq!(cwd(), "/");
    ok!(SYS_chdir, c"../../..");
    assert_eq!(cwd(), "/");
}

fn chdir_errors() {
    file(c"f", b"");
    err!(ENOENT: SYS_chdir, c"no");
    err!(ENOENT: SYS_chdir, c"");
    err!(ENOTDIR: SYS_chdir, c"f");
    err!(EFAULT: SYS_chdir, BAD);
    err!(EBADF: SYS_fchdir, 999);
    err!(ENOTDIR: SYS_fchdir, open(c"f", O_RDONLY, 0));
    ok!(SYS_fchdir, open(c"..", O_PATH, 0));
}

fn fchdir_and_deleted() {
    let here = cwd();
    let back = open(c".", O_RDONLY, 0);
    ok!(SYS_mkdir, c"d", 0o755);
    ok!(SYS_chdir, c"d");
    ok!(SYS_rmdir, c"../d");
    err!(ENOENT: SYS_getcwd, &mut [0u8; 4096], 4096);
    err!(ENOENT: SYS_mkdir, c"x", 0o755);
    err!(ENOENT: SYS_openat, AT_FDCWD, c"x", O_RDWR | O_CREAT, 0o644);
    close(open(c".", O_RDONLY, 0));
    assert_eq!(fstat(open(c".", O_RDONLY, 0)).st_nlink, 0);
    let mut b = [0u8; 4096];
    let n = ok!(SYS_readlink, c"/proc/self/cwd", &mut b, 4096);
    assert_eq!(String::from_utf8_lossy(&b[..n]), format!("{here}/d (deleted)"));
    // `..` of a deleted directory still is its parent.
    close(open(c"../", O_RDONLY, 0));
    ok!(SYS_fchdir, back);
    assert_eq!(cwd(), here);
}

fn chdir_permission() {
    ok!(SYS_mkdir, c"x", 0o755);
    ok!(SYS_chmod, c"x", 0o666);
    need_unprivileged();
    err!(EACCES: SYS_chdir, c"x");
    err!(EACCES: SYS_chdir, c"x/..");
    let fd = open(c"x", O_RDONLY, 0);
    err!(EACCES: SYS_fchdir, fd);
}

fn chroot_confines() {
    need_cap(CAP_SYS_CHROOT);
    ok!(SYS_mkdir, c"r", 0o755);
    ok!(SYS_mkdir, c"r/in", 0o755);
    file(c"r/f", b"inside");
    file(c"f", b"outside");
    ok!(SYS_symlink, c"/f", c"r/l");
    ok!(SYS_symlink, c"../../f", c"r/up");
    let out = open(c".", O_RDONLY, 0);
    ok!(SYS_chroot, c"r");
    assert_eq!(slurp(c"/f"), b"inside");
    assert_eq!(slurp(c"/l"), b"inside");
    assert_eq!(slurp(c"/up"), b"inside");
    assert_eq!(slurp(c"/in/../../../f"), b"inside");
    // The current directory stays outside until it is changed.
    assert_eq!(slurp(c"f"), b"outside");
    let mut b = [0u8; 4096];
    let n = ok!(SYS_getcwd, &mut b, 4096);
    assert!(b[..n].starts_with(b"(unreachable)/"));
    ok!(SYS_chdir, c"/in");
    assert_eq!(cwd(), "/in");
    assert_eq!(slurp(c"../f"), b"inside");
    ok!(SYS_fchdir, out);
    assert_eq!(slurp(c"f"), b"outside");
}

fn chroot_errors() {
    file(c"f", b"");
    err!(ENOENT: SYS_chroot, c"no");
    err!(ENOTDIR: SYS_chroot, c"f");
    err!(EFAULT: SYS_chroot, BAD);
    need_unprivileged();
    err!(EPERM: SYS_chroot, c".");
    // The path is looked at first.
    err!(ENOENT: SYS_chroot, c"no");
}

fn deep_path() {
    let here = cwd();
    for _ in 0..40 {
        ok!(SYS_mkdir, c"a-directory-name-of-some-length-so-that-the-path-grows", 0o755);
        ok!(SYS_chdir, c"a-directory-name-of-some-length-so-that-the-path-grows");
    }
    assert_eq!(cwd().len(), here.len() + 40 * 55);
    for _ in 0..40 {
        ok!(SYS_chdir, c"..");
        ok!(SYS_rmdir, c"a-directory-name-of-some-length-so-that-the-path-grows");
    }
    assert_eq!(cwd(), here);
}

fn cwd_is_per_process() {
    let here = cwd();
    in_child(|| {
        ok!(SYS_chdir, c"/");
    });
    assert_eq!(cwd(), here);
    // Threads share it, until one unshares.
    let h = here.clone();
    std::thread::spawn(move || {
        ok!(SYS_chdir, c"/");
        ok!(SYS_unshare, CLONE_FS);
        let back = CString::new(h).unwrap();
        ok!(SYS_chdir, back.as_c_str());
    })
    .join()
    .unwrap();
    assert_eq!(cwd(), "/");
}

fn getdents_removed_directory() {
    ok!(SYS_mkdir, c"d", 0o755);
    let fd = open(c"d", O_RDONLY, 0);
    ok!(SYS_rmdir, c"d");
    let mut b = [0u64; 64];
    match sys!(SYS_getdents64, fd, &mut b, 512) {
        Err(ENOENT) => {}
        r => panic!("{r:?}"),
    }
}
