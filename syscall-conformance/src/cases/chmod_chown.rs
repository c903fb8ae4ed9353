//! chmod, chown, umask and what they do to the special bits.

use crate::helpers::*;
use crate::sys::BAD;

cases![
    chmod_values,
    chmod_errors,
    fchmod_forms,
    fchmodat2_flags,
    chown_values,
    chown_errors,
    chown_by_others,
    chown_clears_setid,
    chmod_clears_setgid,
    write_clears_setid,
    umask_effects,
    lchown_on_links,
    group_change_by_owner,
    root_overrides,
];

fn mode(p: &std::ffi::CStr) -> u32 {
    lstat(p).st_mode & 0o7777
}

fn chmod_values() {
    file(c"f", b"");
    for m in [0, 0o777, 0o1644, 0o4755, 0o7777, 0o644] {
        ok!(SYS_chmod, c"f", m);
        assert_eq!(mode(c"f"), m);
    }
    // Bits beyond the twelve are ignored.
    ok!(SYS_chmod, c"f", 0o170_600);
    assert_eq!(lstat(c"f").st_mode, S_IFREG | 0o600);
    ok!(SYS_symlink, c"f", c"l");
    ok!(SYS_chmod, c"l", 0o640);
    assert_eq!(mode(c"f"), 0o640);
}

fn chmod_errors() {
    file(c"f", b"");
    err!(ENOENT: SYS_chmod, c"no", 0o600);
    err!(ENOTDIR: SYS_chmod, c"f/x", 0o600);
    err!(EFAULT: SYS_chmod, BAD, 0o600);
    err!(EBADF: SYS_fchmod, 999, 0o600);
    err!(EBADF: SYS_fchmodat, 999, c"f", 0o600);
    let roots = root();
    need_unprivileged();
    if roots {
        err!(EPERM: SYS_chmod, c"f", 0o600);
    }
    err!(EPERM: SYS_chmod, c"/", 0o777);
}

fn fchmod_forms() {
    let fd = temp(c"f", b"");
    ok!(SYS_fchmod, fd, 0o400);
    assert_eq!(mode(c"f"), 0o400);
    ok!(SYS_fchmodat, AT_FDCWD, c"f", 0o440);
    assert_eq!(mode(c"f"), 0o440);
    // A file opened before stays writable.
    write(fd, b"x");
    let d = open(c".", O_RDONLY, 0);
    ok!(SYS_fchmod, d, 0o700);
}

fn fchmodat2_flags() {
    file(c"f", b"");
    ok!(SYS_symlink, c"f", c"l");
    ok!(SYS_fchmodat2, AT_FDCWD, c"f", 0o600, 0);
    err!(EOPNOTSUPP: SYS_fchmodat2, AT_FDCWD, c"l", 0o600, AT_SYMLINK_NOFOLLOW);
    err!(EINVAL: SYS_fchmodat2, AT_FDCWD, c"f", 0o600, 0x8);
    let fd = open(c"f", O_PATH, 0);
    ok!(SYS_fchmodat2, fd, c"", 0o640, AT_EMPTY_PATH);
    assert_eq!(mode(c"f"), 0o640);
}

fn chown_values() {
    need_cap(CAP_CHOWN);
    file(c"f", b"");
    ok!(SYS_chown, c"f", 1000, 2000);
    assert_eq!((lstat(c"f").st_uid, lstat(c"f").st_gid), (1000, 2000));
    ok!(SYS_chown, c"f", -1, 3000);
    assert_eq!((lstat(c"f").st_uid, lstat(c"f").st_gid), (1000, 3000));
    ok!(SYS_chown, c"f", 1001, -1);
    assert_eq!((lstat(c"f").st_uid, lstat(c"f").st_gid), (1001, 3000));
    ok!(SYS_fchown, open(c"f", O_RDONLY, 0), 5, 6);
    assert_eq!((lstat(c"f").st_uid, lstat(c"f").st_gid), (5, 6));
}

fn chown_errors() {
    file(c"f", b"");
    err!(ENOENT: SYS_chown, c"no", -1, -1);
    err!(EFAULT: SYS_chown, BAD, -1, -1);
    err!(EBADF: SYS_fchown, 999, -1, -1);
    err!(EINVAL: SYS_fchownat, AT_FDCWD, c"f", -1, -1, 0x8);
    err!(ENOENT: SYS_fchownat, AT_FDCWD, c"", -1, -1, 0);
    ok!(SYS_fchownat, open(c"f", O_RDONLY, 0), c"", -1, -1, AT_EMPTY_PATH);
    err!(EBADF: SYS_fchown, open(c"f", O_PATH, 0), -1, -1);
}

fn chown_by_others() {
    file(c"f", b"");
    let roots = root();
    need_unprivileged();
    if roots {
        err!(EPERM: SYS_chown, c"f", 65534, -1);
    }
    close(open(c"mine", O_CREAT | O_RDWR, 0o644));
    err!(EPERM: SYS_chown, c"mine", 0, -1);
    err!(EPERM: SYS_chown, c"mine", -1, 4321);
    let me = ok!(SYS_getuid);
    ok!(SYS_chown, c"mine", me, -1);
}

fn chown_clears_setid() {
    need_cap(CAP_CHOWN);
    file(c"f", b"");
    ok!(SYS_chmod, c"f", 0o6755);
    ok!(SYS_chown, c"f", 7, 7);
    assert_eq!(mode(c"f"), 0o755);
    // Without group execute the set-group-id bit means something else and stays.
    ok!(SYS_chmod, c"f", 0o6745);
    ok!(SYS_chown, c"f", 8, 8);
    println!("{:o}", mode(c"f"));
    ok!(SYS_mkdir, c"d", 0o755);
    ok!(SYS_chmod, c"d", 0o6755);
    ok!(SYS_chown, c"d", 7, 7);
    assert_eq!(mode(c"d"), 0o6755);
}

fn chmod_clears_setgid() {
    need_cap(CAP_CHOWN);
    file(c"f", b"");
    ok!(SYS_chown, c"f", 65534, 4321);
    need_unprivileged();
    // Not a member of the file's group: the bit is dropped silently.
    ok!(SYS_chmod, c"f", 0o2755);
    assert_eq!(mode(c"f"), 0o755);
    ok!(SYS_chmod, c"f", 0o4755);
    assert_eq!(mode(c"f"), 0o4755);
}

fn write_clears_setid() {
    file(c"f", b"");
    ok!(SYS_chmod, c"f", 0o6777);
    need_unprivileged();
    let fd = open(c"f", O_WRONLY, 0);
    assert_eq!(mode(c"f"), 0o6777);
    write(fd, b"x");
    assert_eq!(mode(c"f"), 0o777);
}

fn umask_effects() {
    assert_eq!(ok!(SYS_umask, 0o077), 0o022);
    close(open(c"a", O_CREAT | O_RDWR, 0o666));
    assert_eq!(mode(c"a"), 0o600);
    ok!(SYS_mknod, c"p", S_IFIFO | 0o666, 0);
    assert_eq!(mode(c"p"), 0o600);
    // Only the nine permission bits are kept.
    assert_eq!(ok!(SYS_umask, 0o7777), 0o077);
    assert_eq!(ok!(SYS_umask, 0), 0o777);
    close(open(c"b", O_CREAT | O_RDWR, 0o7777));
    println!("{:o}", mode(c"b"));
    in_child(|| {
        ok!(SYS_umask, 0o111);
    });
    assert_eq!(ok!(SYS_umask, 0), 0);
}

fn lchown_on_links() {
    need_cap(CAP_CHOWN);
    file(c"f", b"");
    ok!(SYS_symlink, c"f", c"l");
    ok!(SYS_lchown, c"l", 9, 9);
    assert_eq!((lstat(c"l").st_uid, lstat(c"f").st_uid), (9, lstat(c".").st_uid));
    ok!(SYS_chown, c"l", 10, 10);
    assert_eq!((lstat(c"l").st_uid, lstat(c"f").st_uid), (9, 10));
    ok!(SYS_fchownat, AT_FDCWD, c"l", 11, 11, AT_SYMLINK_NOFOLLOW);
    assert_eq!(lstat(c"l").st_uid, 11);
}

fn group_change_by_owner() {
    need_cap(CAP_SETUID);
    need_cap(CAP_SETGID);
    need_cap(CAP_CHOWN);
    file(c"f", b"");
    ok!(SYS_chown, c"f", 65534, 65534);
    ok!(SYS_chmod, c".", 0o777);
    ok!(SYS_setgroups, 2, &[100u32, 200u32]);
    ok!(SYS_setresgid, 65534, 65534, 65534);
    ok!(SYS_setresuid, 65534, 65534, 65534);
    ok!(SYS_chown, c"f", -1, 100);
    ok!(SYS_chown, c"f", 65534, 200);
    err!(EPERM: SYS_chown, c"f", -1, 300);
}

fn root_overrides() {
    need_cap(1);
    file(c"f", b"x");
    ok!(SYS_chmod, c"f", 0);
    assert_eq!(slurp(c"f"), b"x");
    file(c"f", b"y");
    ok!(SYS_mkdir, c"d", 0o755);
    ok!(SYS_chmod, c"d", 0);
    file(c"d/x", b"");
    ok!(SYS_unlink, c"d/x");
}
