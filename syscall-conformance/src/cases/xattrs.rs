//! Extended attributes.

use crate::helpers::*;
use crate::sys::BAD;
use std::ffi::CString;

cases![set_get_list_remove, create_and_replace, sizes, names, other_kinds, errors];

fn supported() {
    file(c"f", b"");
    if let Err(EOPNOTSUPP) = sys!(SYS_setxattr, c"f", c"user.probe", b"1", 1, 0) {
        skip!("the file system has no user attributes");
    }
    ok!(SYS_removexattr, c"f", c"user.probe");
}

fn set_get_list_remove() {
    supported();
    ok!(SYS_setxattr, c"f", c"user.a", b"value", 5, 0);
    ok!(SYS_setxattr, c"f", c"user.b", 0, 0, 0);
    let mut b = [0u8; 64];
    assert_eq!(ok!(SYS_getxattr, c"f", c"user.a", &mut b, 64), 5);
    assert_eq!(&b[..5], b"value");
    assert_eq!(ok!(SYS_getxattr, c"f", c"user.b", &mut b, 64), 0);
    assert_eq!(ok!(SYS_listxattr, c"f", 0, 0), 14);
    assert_eq!(ok!(SYS_listxattr, c"f", &mut b, 64), 14);
    let mut names: Vec<&[u8]> = b[..14].split(|c| *c == 0).filter(|n| !n.is_empty()).collect();
    names.sort();
    assert_eq!(names, [b"user.a", b"user.b"]);
    ok!(SYS_removexattr, c"f", c"user.a");
    err!(ENODATA: SYS_getxattr, c"f", c"user.a", &mut b, 64);
    err!(ENODATA: SYS_removexattr, c"f", c"user.a");
    let fd = open(c"f", O_RDONLY, 0);
    ok!(SYS_fsetxattr, fd, c"user.c", b"x", 1, 0);
    assert_eq!(ok!(SYS_fgetxattr, fd, c"user.c", &mut b, 64), 1);
    assert_eq!(ok!(SYS_flistxattr, fd, 0, 0), 14);
    ok!(SYS_fremovexattr, fd, c"user.c");
}

fn create_and_replace() {
    supported();
    err!(ENODATA: SYS_setxattr, c"f", c"user.a", b"1", 1, XATTR_REPLACE);
    ok!(SYS_setxattr, c"f", c"user.a", b"1", 1, XATTR_CREATE);
    err!(EEXIST: SYS_setxattr, c"f", c"user.a", b"2", 1, XATTR_CREATE);
    ok!(SYS_setxattr, c"f", c"user.a", b"three", 5, XATTR_REPLACE);
    assert_eq!(ok!(SYS_getxattr, c"f", c"user.a", 0, 0), 5);
    err!(EINVAL: SYS_setxattr, c"f", c"user.a", b"1", 1, 8);
}

fn sizes() {
    supported();
    ok!(SYS_setxattr, c"f", c"user.a", b"value", 5, 0);
    let mut b = [0u8; 64];
    err!(ERANGE: SYS_getxattr, c"f", c"user.a", &mut b, 4);
    err!(ERANGE: SYS_listxattr, c"f", &mut b, 3);
    err!(E2BIG: SYS_setxattr, c"f", c"user.a", &mut b, 65537, 0);
    err!(EFAULT: SYS_setxattr, c"f", c"user.a", BAD, 5, 0);
    err!(EFAULT: SYS_getxattr, c"f", c"user.a", BAD, 5);
}

fn names() {
    supported();
    let long = CString::new("user.".to_string() + &"n".repeat(250)).unwrap();
    let over = CString::new("user.".to_string() + &"n".repeat(251)).unwrap();
    ok!(SYS_setxattr, c"f", long.as_c_str(), b"1", 1, 0);
    err!(ERANGE: SYS_setxattr, c"f", over.as_c_str(), b"1", 1, 0);
    err!(ERANGE: SYS_setxattr, c"f", c"", b"1", 1, 0);
    err!(EOPNOTSUPP: SYS_setxattr, c"f", c"nonsense", b"1", 1, 0);
    err!(EOPNOTSUPP: SYS_setxattr, c"f", c"what.ever", b"1", 1, 0);
    err!(EINVAL: SYS_setxattr, c"f", c"user.", b"1", 1, 0);
}

fn other_kinds() {
    supported();
    ok!(SYS_mkdir, c"d", 0o755);
    ok!(SYS_setxattr, c"d", c"user.a", b"1", 1, 0);
    ok!(SYS_symlink, c"nowhere", c"l");
    err!(ENOENT: SYS_setxattr, c"l", c"user.a", b"1", 1, 0);
    err!(EPERM: SYS_lsetxattr, c"l", c"user.a", b"1", 1, 0);
    err!(ENODATA: SYS_lgetxattr, c"l", c"user.a", 0, 0);
    ok!(SYS_mknod, c"p", S_IFIFO | 0o600, 0);
    err!(EPERM: SYS_setxattr, c"p", c"user.a", b"1", 1, 0);
}

fn errors() {
    file(c"f", b"");
    let mut b = [0u8; 8];
    err!(ENOENT: SYS_getxattr, c"no", c"user.a", &mut b, 8);
    err!(EFAULT: SYS_getxattr, c"f", BAD, &mut b, 8);
    err!(EBADF: SYS_fgetxattr, 999, c"user.a", &mut b, 8);
    err!(EBADF: SYS_fsetxattr, open(c"f", O_PATH, 0), c"user.a", &b, 1, 0);
    match sys!(SYS_getxattr, c"f", c"user.none", &mut b, 8) {
        Err(ENODATA | EOPNOTSUPP) => {}
        r => panic!("{r:?}"),
    }
    need_unprivileged();
    err!(EPERM: SYS_setxattr, c"f", c"trusted.a", b"1", 1, 0);
    err!(ENODATA: SYS_getxattr, c"f", c"trusted.a", &mut b, 8);
}
