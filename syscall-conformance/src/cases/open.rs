//! open, openat, openat2, creat, close, close_range, dup.

use crate::helpers::*;

cases![
    missing_is_enoent,
    create_exclusive,
    directory_flag,
    directory_for_writing,
    trailing_slash,
    nofollow,
    symlink_loop,
    name_too_long,
    bad_pointers,
    empty_path,
    not_a_directory_prefix,
    path_flag,
    truncate,
    append_writes_at_end,
    lowest_descriptor,
    descriptor_flags,
    access_mode_checks,
    tmpfile,
    openat_ignores_dirfd_for_absolute,
    openat_bad_dirfd,
    openat2_resolve,
    openat2_strict,
    dup_family,
    close_twice,
    close_range_flags,
    too_many_files,
    creat_is_open,
    proc_self_fd_reopen,
    dangling_symlink_creates,
    unlinked_file_lives,
    permission_denied,
];

fn missing_is_enoent() {
    err!(ENOENT: SYS_openat, AT_FDCWD, c"nope", O_RDONLY, 0);
    err!(ENOENT: SYS_openat, AT_FDCWD, c"nope/x", O_RDWR | O_CREAT, 0o644);
    err!(ENOENT: SYS_open, c"", O_RDONLY, 0);
}

fn create_exclusive() {
    close(open(c"f", O_CREAT | O_EXCL | O_RDWR, 0o600));
    err!(EEXIST: SYS_openat, AT_FDCWD, c"f", O_CREAT | O_EXCL | O_RDWR, 0o600);
    ok!(SYS_symlink, c"nowhere", c"dangling");
    err!(EEXIST: SYS_openat, AT_FDCWD, c"dangling", O_CREAT | O_EXCL | O_RDWR, 0o600);
    err!(EEXIST: SYS_openat, AT_FDCWD, c".", O_CREAT | O_EXCL | O_RDWR, 0o600);
    assert_eq!(lstat(c"f").st_mode & 0o7777, 0o600);
}

fn directory_flag() {
    file(c"f", b"");
    err!(ENOTDIR: SYS_openat, AT_FDCWD, c"f", O_DIRECTORY, 0);
    close(open(c".", O_DIRECTORY | O_RDONLY, 0));
    err!(EINVAL: SYS_openat, AT_FDCWD, c"new", O_DIRECTORY | O_CREAT | O_RDWR, 0o644);
    err!(ENOENT: SYS_openat, AT_FDCWD, c"new", O_RDONLY, 0);
}

fn directory_for_writing() {
    err!(EISDIR: SYS_openat, AT_FDCWD, c".", O_WRONLY, 0);
    err!(EISDIR: SYS_openat, AT_FDCWD, c".", O_RDWR, 0);
    err!(EISDIR: SYS_openat, AT_FDCWD, c".", O_RDONLY | O_CREAT, 0o644);
    err!(EISDIR: SYS_openat, AT_FDCWD, c".", O_RDONLY | O_TRUNC, 0);
    let fd = open(c".", O_RDONLY, 0);
    let mut b = [0u8; 4];
    err!(EISDIR: SYS_read, fd, &mut b, 4);
    err!(EBADF: SYS_write, fd, &b, 4);
}

fn trailing_slash() {
    file(c"f", b"");
    err!(ENOTDIR: SYS_openat, AT_FDCWD, c"f/", O_RDONLY, 0);
    err!(EISDIR: SYS_openat, AT_FDCWD, c"new/", O_CREAT | O_RDWR, 0o644);
    err!(ENOENT: SYS_openat, AT_FDCWD, c"new/", O_RDONLY, 0);
    ok!(SYS_mkdir, c"d", 0o755);
    close(open(c"d///", O_RDONLY, 0));
    close(open(c"./d/./../f", O_RDONLY, 0));
    err!(ENOTDIR: SYS_openat, AT_FDCWD, c"f/..", O_RDONLY, 0);
    err!(ENOTDIR: SYS_openat, AT_FDCWD, c"f/.", O_RDONLY, 0);
}

fn nofollow() {
    file(c"f", b"");
    ok!(SYS_symlink, c"f", c"l");
    err!(ELOOP: SYS_openat, AT_FDCWD, c"l", O_RDONLY | O_NOFOLLOW, 0);
    close(open(c"l", O_RDONLY, 0));
    let fd = open(c"l", O_PATH | O_NOFOLLOW, 0);
    assert_eq!(fstat(fd).st_mode & S_IFMT, S_IFLNK);
    ok!(SYS_mkdir, c"d", 0o755);
    ok!(SYS_symlink, c"d", c"ld");
    err!(ENOTDIR: SYS_openat, AT_FDCWD, c"ld", O_RDONLY | O_NOFOLLOW | O_DIRECTORY, 0);
    close(open(c"ld/", O_RDONLY | O_NOFOLLOW, 0));
    // Slashes have links followed, the next ones as well.
    ok!(SYS_symlink, c"ld", c"lld");
    close(open(c"lld/", O_RDONLY | O_NOFOLLOW, 0));
    ok!(SYS_symlink, c"self", c"self");
    err!(ELOOP: SYS_openat, AT_FDCWD, c"self/", O_RDONLY | O_NOFOLLOW, 0);
}

fn symlink_loop() {
    ok!(SYS_symlink, c"b", c"a");
    ok!(SYS_symlink, c"a", c"b");
    err!(ELOOP: SYS_openat, AT_FDCWD, c"a", O_RDONLY, 0);
    err!(ELOOP: SYS_openat, AT_FDCWD, c"a", O_RDWR | O_CREAT, 0o644);
    // Forty links in a row are followed, one more is too many.
    file(c"s0", b"");
    for i in 1..=41 {
        let to = std::ffi::CString::new(format!("s{}", i - 1)).unwrap();
        let at = std::ffi::CString::new(format!("s{i}")).unwrap();
        ok!(SYS_symlink, to.as_c_str(), at.as_c_str());
    }
    close(open(c"s40", O_RDONLY, 0));
    err!(ELOOP: SYS_openat, AT_FDCWD, c"s41", O_RDONLY, 0);
}

fn name_too_long() {
    let fits = std::ffi::CString::new("n".repeat(255)).unwrap();
    let over = std::ffi::CString::new("n".repeat(256)).unwrap();
    close(open(&fits, O_CREAT | O_RDWR, 0o644));
    err!(ENAMETOOLONG: SYS_openat, AT_FDCWD, over.as_c_str(), O_CREAT | O_RDWR, 0o644);
    // A path may have 4095 bytes and its terminator.
    let path = std::ffi::CString::new("./".repeat(2047) + ".").unwrap();
    assert_eq!(path.as_bytes().len(), 4095);
    close(open(&path, O_RDONLY, 0));
    let path = std::ffi::CString::new("./".repeat(2048)).unwrap();
    err!(ENAMETOOLONG: SYS_openat, AT_FDCWD, path.as_c_str(), O_RDONLY, 0);
}

fn bad_pointers() {
    err!(EFAULT: SYS_openat, AT_FDCWD, 0, O_RDONLY, 0);
    err!(EFAULT: SYS_openat, AT_FDCWD, crate::sys::BAD, O_RDONLY, 0);
    err!(EFAULT: SYS_openat, AT_FDCWD, crate::sys::KERNEL, O_RDONLY, 0);
    err!(EFAULT: SYS_openat, -1, crate::sys::BAD, O_RDONLY, 0);
    // A path that ends right at an unmapped page is read only as far as its terminator.
    let at = map(2 * PAGE, PROT_READ | PROT_WRITE);
    ok!(SYS_munmap, at + PAGE, PAGE);
    poke(at + PAGE - 2, b'.');
    poke(at + PAGE - 1, 0);
    let fd = ok!(SYS_openat, AT_FDCWD, at + PAGE - 2, O_RDONLY, 0);
    close(fd as i32);
    poke(at + PAGE - 1, b'x');
    err!(EFAULT: SYS_openat, AT_FDCWD, at + PAGE - 2, O_RDONLY, 0);
}

fn empty_path() {
    err!(ENOENT: SYS_openat, AT_FDCWD, c"", O_RDONLY, 0);
    err!(ENOENT: SYS_openat, -1, c"", O_RDONLY, 0);
    err!(ENOENT: SYS_openat, AT_FDCWD, c"", O_CREAT | O_RDWR, 0o644);
}

fn not_a_directory_prefix() {
    file(c"f", b"");
    err!(ENOTDIR: SYS_openat, AT_FDCWD, c"f/x", O_RDONLY, 0);
    err!(ENOTDIR: SYS_openat, AT_FDCWD, c"f/x", O_CREAT | O_RDWR, 0o644);
    let fd = open(c"f", O_RDONLY, 0);
    err!(ENOTDIR: SYS_openat, fd, c"x", O_RDONLY, 0);
    // Only the first error on the way counts.
    err!(ENOENT: SYS_openat, AT_FDCWD, c"nope/../f/x", O_RDONLY, 0);
}

fn path_flag() {
    file(c"f", b"abc");
    // O_PATH drops every flag but O_CLOEXEC, O_DIRECTORY and O_NOFOLLOW.
    let fd = open(c"f", O_PATH | O_TRUNC | O_CREAT | O_EXCL | O_WRONLY, 0);
    assert_eq!(fstat(fd).st_size, 3);
    let mut b = [0u8; 4];
    err!(EBADF: SYS_read, fd, &mut b, 4);
    err!(EBADF: SYS_write, fd, &b, 4);
    err!(EBADF: SYS_lseek, fd, 0, SEEK_SET);
    err!(EBADF: SYS_ftruncate, fd, 0);
    err!(EBADF: SYS_fchmod, fd, 0o600);
    err!(EBADF: SYS_fsync, fd);
    err!(EBADF: SYS_mmap, 0, PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
    err!(EBADF: SYS_ioctl, fd, FIONREAD, &mut b);
    assert_eq!(ok!(SYS_fcntl, fd, F_GETFL, 0) as i32 & O_PATH, O_PATH);
    ok!(SYS_fcntl, fd, F_GETFD, 0);
    err!(EBADF: SYS_fcntl, fd, F_SETFL, O_APPEND);
    let d = open(c".", O_PATH | O_DIRECTORY, 0);
    let f = ok!(SYS_openat, d, c"f", O_RDONLY, 0) as i32;
    assert_eq!(read(f, 10), b"abc");
    err!(EBADF: SYS_getdents64, d, &mut b, 4);
}

fn truncate() {
    file(c"f", b"abc");
    close(open(c"f", O_RDONLY, 0));
    assert_eq!(lstat(c"f").st_size, 3);
    close(open(c"f", O_WRONLY | O_TRUNC, 0));
    assert_eq!(lstat(c"f").st_size, 0);
    // The mode counts for a new file only.
    close(open(c"f", O_WRONLY | O_TRUNC | O_CREAT, 0o777));
    assert_eq!(lstat(c"f").st_mode & 0o7777, 0o644);
}

fn append_writes_at_end() {
    file(c"f", b"abc");
    let fd = open(c"f", O_RDWR | O_APPEND, 0);
    ok!(SYS_lseek, fd, 0, SEEK_SET);
    write(fd, b"d");
    assert_eq!(ok!(SYS_lseek, fd, 0, SEEK_CUR), 4);
    // Linux's pwrite appends too, whatever the offset.
    ok!(SYS_pwrite64, fd, b"e", 1, 0);
    assert_eq!(slurp(c"f"), b"abcde");
    ok!(SYS_fcntl, fd, F_SETFL, 0);
    ok!(SYS_pwrite64, fd, b"A", 1, 0);
    assert_eq!(slurp(c"f"), b"Abcde");
}

fn lowest_descriptor() {
    let a = open(c".", O_RDONLY, 0);
    let b = open(c".", O_RDONLY, 0);
    let c = open(c".", O_RDONLY, 0);
    assert!(a < b && b < c);
    close(b);
    close(a);
    assert_eq!(open(c".", O_RDONLY, 0), a);
    assert_eq!(open(c".", O_RDONLY, 0), b);
    assert_eq!(ok!(SYS_fcntl, c, F_DUPFD, 50), 50);
    assert_eq!(ok!(SYS_fcntl, c, F_DUPFD, 50), 51);
}

fn descriptor_flags() {
    let fd = open(c"f", O_RDWR | O_CREAT | O_CLOEXEC | O_APPEND | O_NONBLOCK, 0o644);
    assert_eq!(ok!(SYS_fcntl, fd, F_GETFD, 0) as i32, FD_CLOEXEC);
    ok!(SYS_fcntl, fd, F_SETFD, 0);
    assert_eq!(ok!(SYS_fcntl, fd, F_GETFD, 0), 0);
    let all = O_RDWR | O_APPEND | O_NONBLOCK | 0o100000;
    println!("{:#o}", ok!(SYS_fcntl, fd, F_GETFL, 0));
    assert_eq!(ok!(SYS_fcntl, fd, F_GETFL, 0) as i32, all);
    // F_SETFL cannot change the access mode or creation flags.
    ok!(SYS_fcntl, fd, F_SETFL, O_WRONLY | O_EXCL | O_TRUNC);
    assert_eq!(ok!(SYS_fcntl, fd, F_GETFL, 0) as i32, O_RDWR | 0o100000);
    err!(EINVAL: SYS_fcntl, fd, 9999, 0);
    err!(EBADF: SYS_fcntl, 999, 9999, 0);
}

fn access_mode_checks() {
    file(c"f", b"abc");
    let r = open(c"f", O_RDONLY, 0);
    let w = open(c"f", O_WRONLY, 0);
    let mut b = [0u8; 4];
    err!(EBADF: SYS_write, r, &b, 1);
    err!(EBADF: SYS_read, w, &mut b, 1);
    // The access mode is checked before length and pointer.
    err!(EBADF: SYS_write, r, crate::sys::BAD, 0);
    err!(EBADF: SYS_read, w, crate::sys::KERNEL, 1);
    // Access mode 3 means neither reading nor writing.
    let n = open(c"f", 3, 0);
    err!(EBADF: SYS_read, n, &mut b, 1);
    err!(EBADF: SYS_write, n, &b, 1);
}

fn tmpfile() {
    match sys!(SYS_openat, AT_FDCWD, c".", O_TMPFILE | O_RDWR, 0o600) {
        Err(EOPNOTSUPP) => skip!("the file system has no O_TMPFILE"),
        Err(e) => panic!("{}", crate::sys::name(e)),
        Ok(fd) => {
            let st = fstat(fd as i32);
            assert_eq!((st.st_nlink, st.st_mode), (0, S_IFREG | 0o600));
            write(fd as i32, b"x");
            let name = std::ffi::CString::new(format!("/proc/self/fd/{fd}")).unwrap();
            ok!(SYS_linkat, AT_FDCWD, name.as_c_str(), AT_FDCWD, c"now", AT_SYMLINK_FOLLOW);
            assert_eq!(slurp(c"now"), b"x");
        }
    }
    err!(EINVAL: SYS_openat, AT_FDCWD, c".", O_TMPFILE | O_RDONLY, 0o600);
    err!(ENOTDIR: SYS_openat, AT_FDCWD, c"now", O_TMPFILE | O_RDWR, 0o600);
    let fd = open(c".", O_TMPFILE | O_RDWR | O_EXCL, 0o600);
    let name = std::ffi::CString::new(format!("/proc/self/fd/{fd}")).unwrap();
    err!(ENOENT: SYS_linkat, AT_FDCWD, name.as_c_str(), AT_FDCWD, c"no", AT_SYMLINK_FOLLOW);
}

fn openat_ignores_dirfd_for_absolute() {
    close(ok!(SYS_openat, -1, c"/", O_RDONLY, 0) as i32);
    close(ok!(SYS_openat, 9999, c"/proc/self/stat", O_RDONLY, 0) as i32);
}

fn openat_bad_dirfd() {
    err!(EBADF: SYS_openat, -1, c"x", O_RDONLY, 0);
    err!(EBADF: SYS_openat, 9999, c".", O_RDONLY, 0);
    err!(ENOTDIR: SYS_openat, pipe(0).0, c"x", O_RDONLY, 0);
    let gone = open(c".", O_RDONLY, 0);
    ok!(SYS_mkdir, c"d", 0o755);
    let d = open(c"d", O_RDONLY, 0);
    ok!(SYS_rmdir, c"d");
    err!(ENOENT: SYS_openat, d, c"x", O_CREAT | O_RDWR, 0o644);
    close(ok!(SYS_openat, d, c".", O_RDONLY, 0) as i32);
    close(gone);
}

#[repr(C)]
struct How {
    flags: u64,
    mode: u64,
    resolve: u64,
}

fn openat2_resolve() {
    ok!(SYS_mkdir, c"d", 0o755);
    file(c"d/f", b"");
    file(c"up", b"");
    ok!(SYS_symlink, c"../up", c"d/out");
    ok!(SYS_symlink, c"/", c"d/abs");
    ok!(SYS_symlink, c"f", c"d/in");
    let d = open(c"d", O_RDONLY, 0);
    let with = |resolve: u64| How { flags: 0, mode: 0, resolve };
    let (no_magic, no_links, beneath, in_root) = (2u64, 4u64, 8u64, 0x10u64);
    let go = |path: &std::ffi::CStr, resolve| sys!(SYS_openat2, d, path, &with(resolve), 24);
    assert_eq!(go(c"../up", beneath), Err(EXDEV));
    assert_eq!(go(c"out", beneath), Err(EXDEV));
    assert_eq!(go(c"/", beneath), Err(EXDEV));
    assert_eq!(go(c"abs", beneath), Err(EXDEV));
    assert!(go(c"in", beneath).is_ok());
    assert_eq!(go(c"in", no_links), Err(ELOOP));
    assert!(go(c"f", no_links).is_ok());
    assert!(go(c"/f", in_root).is_ok());
    assert!(go(c"../../f", in_root).is_ok());
    assert_eq!(go(c"out", in_root), Err(ENOENT));
    assert!(go(c"abs/f", in_root).is_ok());
    assert_eq!(go(c"/proc/self/fd/0", no_magic), Err(ELOOP));
}

fn openat2_strict() {
    let how = |flags: i32, mode: u64, resolve: u64| How { flags: flags as u64, mode, resolve };
    let go = |h: &How, size: usize| sys!(SYS_openat2, AT_FDCWD, c"f", h, size);
    file(c"f", b"");
    assert!(go(&how(O_RDONLY, 0, 0), 24).is_ok());
    assert_eq!(go(&how(O_RDONLY, 0, 0), 23), Err(EINVAL));
    assert_eq!(go(&how(O_RDONLY, 0, 0), 0), Err(EINVAL));
    assert_eq!(go(&how(O_RDONLY, 0o644, 0), 24), Err(EINVAL));
    assert_eq!(go(&how(O_CREAT, 0o1_7777_7777, 0), 24), Err(EINVAL));
    assert_eq!(go(&how(1 << 30, 0, 0), 24), Err(EINVAL));
    assert_eq!(go(&how(O_RDONLY, 0, 1 << 30), 24), Err(EINVAL));
    assert_eq!(go(&how(O_RDONLY, 0, 0x18), 24), Err(EINVAL));
    assert_eq!(go(&how(O_PATH | O_TRUNC, 0, 0), 24), Err(EINVAL));
    assert_eq!(sys!(SYS_openat2, AT_FDCWD, c"f", crate::sys::BAD, 24), Err(EFAULT));
    // A longer structure is fine as long as what the kernel does not know is zero.
    let mut long = [0u64; 4];
    assert!(sys!(SYS_openat2, AT_FDCWD, c"f", &long, 32).is_ok());
    long[3] = 1;
    assert_eq!(sys!(SYS_openat2, AT_FDCWD, c"f", &long, 32), Err(E2BIG));
    assert_eq!(sys!(SYS_openat2, AT_FDCWD, c"f", &long, 4097), Err(E2BIG));
}

fn dup_family() {
    let fd = temp(c"f", b"abcdef");
    let d = ok!(SYS_dup, fd) as i32;
    read(fd, 2);
    assert_eq!(read(d, 2), b"cd");
    assert_eq!(ok!(SYS_dup2, fd, 60), 60);
    assert_eq!(ok!(SYS_dup2, fd, fd) as i32, fd);
    err!(EBADF: SYS_dup2, 999, 999);
    err!(EBADF: SYS_dup2, fd, -1);
    err!(EBADF: SYS_dup2, fd, 1 << 30);
    err!(EINVAL: SYS_dup3, fd, fd, 0);
    err!(EINVAL: SYS_dup3, 999, 999, 0);
    err!(EINVAL: SYS_dup3, fd, 61, O_APPEND);
    err!(EBADF: SYS_dup3, 999, 61, 0);
    ok!(SYS_dup3, fd, 61, O_CLOEXEC);
    assert_eq!(ok!(SYS_fcntl, 61, F_GETFD, 0), 1);
    assert_eq!(ok!(SYS_fcntl, 60, F_GETFD, 0), 0);
    assert_eq!(ok!(SYS_fcntl, ok!(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 70), F_GETFD, 0), 1);
    err!(EINVAL: SYS_fcntl, fd, F_DUPFD, -1);
    err!(EINVAL: SYS_fcntl, fd, F_DUPFD, 1 << 30);
    err!(EBADF: SYS_dup, -1);
}

fn close_twice() {
    let fd = open(c".", O_RDONLY, 0);
    close(fd);
    err!(EBADF: SYS_close, fd);
    err!(EBADF: SYS_close, -1);
    err!(EBADF: SYS_close, i32::MAX);
}

fn close_range_flags() {
    for fd in [40, 42, 45] {
        ok!(SYS_dup2, 0, fd);
    }
    err!(EINVAL: SYS_close_range, 45, 40, 0);
    err!(EINVAL: SYS_close_range, 40, 45, 1);
    ok!(SYS_close_range, 40, 42, 4);
    assert_eq!(ok!(SYS_fcntl, 40, F_GETFD, 0), 1);
    assert_eq!(ok!(SYS_fcntl, 45, F_GETFD, 0), 0);
    ok!(SYS_close_range, 41, u32::MAX, 0);
    ok!(SYS_fcntl, 40, F_GETFD, 0);
    err!(EBADF: SYS_fcntl, 42, F_GETFD, 0);
    err!(EBADF: SYS_fcntl, 45, F_GETFD, 0);
    // With CLOSE_RANGE_UNSHARE as well.
    ok!(SYS_close_range, 3, u32::MAX, 2);
    err!(EBADF: SYS_fcntl, 40, F_GETFD, 0);
}

fn too_many_files() {
    let mut lim = rlimit { rlim_cur: 0, rlim_max: 0 };
    ok!(SYS_getrlimit, RLIMIT_NOFILE, &mut lim);
    lim.rlim_cur = 10;
    ok!(SYS_setrlimit, RLIMIT_NOFILE, &lim);
    let mut n = 0;
    let e = loop {
        match sys!(SYS_openat, AT_FDCWD, c".", O_RDONLY, 0) {
            Ok(fd) => assert!(fd < 10),
            Err(e) => break e,
        }
        n += 1;
        assert!(n < 100);
    };
    assert_eq!(e, EMFILE);
    err!(EMFILE: SYS_dup, 0);
    err!(EMFILE: SYS_pipe2, &mut [0i32; 2], 0);
    err!(EBADF: SYS_dup2, 0, 10);
    err!(EINVAL: SYS_fcntl, 0, F_DUPFD, 10);
    ok!(SYS_dup2, 0, 9);
    // A full table is found before the path is looked at.
    err!(EMFILE: SYS_openat, AT_FDCWD, c"nope", O_RDONLY, 0);
    err!(EMFILE: SYS_openat, AT_FDCWD, c"new", O_RDWR | O_CREAT, 0o644);
    err!(ENOENT: SYS_newfstatat, AT_FDCWD, c"new", &mut zeroed::<stat>(), 0);
}

fn creat_is_open() {
    let fd = ok!(SYS_creat, c"f", 0o640) as i32;
    write(fd, b"x");
    err!(EBADF: SYS_read, fd, &mut [0u8; 1], 1);
    ok!(SYS_creat, c"f", 0o777);
    assert_eq!((lstat(c"f").st_size, lstat(c"f").st_mode & 0o7777), (0, 0o640));
}

fn proc_self_fd_reopen() {
    let fd = temp(c"f", b"abc");
    read(fd, 3);
    let name = std::ffi::CString::new(format!("/proc/self/fd/{fd}")).unwrap();
    let again = open(&name, O_RDONLY, 0);
    assert_eq!(read(again, 3), b"abc");
    ok!(SYS_unlink, c"f");
    let again = open(&name, O_RDONLY, 0);
    assert_eq!(read(again, 3), b"abc");
    let mut b = [0u8; 200];
    let n = ok!(SYS_readlinkat, AT_FDCWD, name.as_c_str(), &mut b, 200);
    assert!(b[..n].ends_with(b"/f (deleted)"));
    err!(ENOENT: SYS_openat, AT_FDCWD, c"/proc/self/fd/999", O_RDONLY, 0);
}

fn dangling_symlink_creates() {
    ok!(SYS_symlink, c"target", c"l");
    let fd = open(c"l", O_CREAT | O_RDWR, 0o644);
    write(fd, b"x");
    assert_eq!(slurp(c"target"), b"x");
    ok!(SYS_symlink, c"nodir/target", c"l2");
    err!(ENOENT: SYS_openat, AT_FDCWD, c"l2", O_CREAT | O_RDWR, 0o644);
    err!(ENOENT: SYS_openat, AT_FDCWD, c"l2", O_RDONLY, 0);
}

fn unlinked_file_lives() {
    let fd = temp(c"f", b"abc");
    ok!(SYS_unlink, c"f");
    assert_eq!(fstat(fd).st_nlink, 0);
    assert_eq!(read(fd, 3), b"abc");
    write(fd, b"def");
    ok!(SYS_lseek, fd, 0, SEEK_SET);
    assert_eq!(read(fd, 10), b"abcdef");
    file(c"f", b"new");
    assert_eq!(fstat(fd).st_size, 6);
}

fn permission_denied() {
    file(c"no", b"");
    ok!(SYS_chmod, c"no", 0);
    ok!(SYS_mkdir, c"closed", 0o755);
    file(c"closed/f", b"");
    ok!(SYS_chmod, c"closed", 0o600);
    need_unprivileged();
    err!(EACCES: SYS_openat, AT_FDCWD, c"no", O_RDONLY, 0);
    err!(EACCES: SYS_openat, AT_FDCWD, c"no", O_WRONLY, 0);
    err!(EACCES: SYS_openat, AT_FDCWD, c"closed/f", O_RDONLY, 0);
    err!(EACCES: SYS_openat, AT_FDCWD, c"closed/nope", O_RDONLY, 0);
    close(open(c"no", O_PATH, 0));
    err!(EACCES: SYS_openat, AT_FDCWD, c"closed/../no", O_RDONLY, 0);
}
