//! truncate, ftruncate, fallocate.

use crate::helpers::*;
use crate::sys::BAD;

cases![
    grow_and_shrink,
    truncate_errors,
    ftruncate_errors,
    shrink_zeroes_tail,
    fallocate_grows,
    fallocate_keep_size,
    punch_hole,
    zero_range,
    fallocate_errors,
    offset_stays,
    huge_sizes,
];

fn grow_and_shrink() {
    let fd = temp(c"f", b"0123456789");
    ok!(SYS_ftruncate, fd, 4);
    assert_eq!(slurp(c"f"), b"0123");
    ok!(SYS_truncate, c"f", 8);
    assert_eq!(slurp(c"f"), b"0123\0\0\0\0");
    ok!(SYS_truncate, c"f", 0);
    assert_eq!(fstat(fd).st_size, 0);
}

fn truncate_errors() {
    file(c"f", b"x");
    err!(EINVAL: SYS_truncate, c"f", -1i64);
    err!(EINVAL: SYS_truncate, c"no", -1i64);
    err!(ENOENT: SYS_truncate, c"no", 0);
    err!(EISDIR: SYS_truncate, c".", 0);
    err!(ENOTDIR: SYS_truncate, c"f/x", 0);
    err!(EFAULT: SYS_truncate, BAD, 0);
    ok!(SYS_mknod, c"p", S_IFIFO | 0o600, 0);
    err!(EINVAL: SYS_truncate, c"p", 0);
    err!(EINVAL: SYS_truncate, c"/dev/null", 0);
    ok!(SYS_chmod, c"f", 0o444);
    need_unprivileged();
    err!(EACCES: SYS_truncate, c"f", 0);
}

fn ftruncate_errors() {
    file(c"f", b"x");
    let r = open(c"f", O_RDONLY, 0);
    err!(EINVAL: SYS_ftruncate, r, 0);
    err!(EINVAL: SYS_ftruncate, open(c"f", O_RDWR, 0), -1i64);
    err!(EINVAL: SYS_ftruncate, 999, -1i64);
    err!(EBADF: SYS_ftruncate, 999, 0);
    let (_, w) = pipe(0);
    err!(EINVAL: SYS_ftruncate, w, 0);
    err!(EINVAL: SYS_ftruncate, open(c".", O_RDONLY, 0), 0);
}

fn shrink_zeroes_tail() {
    let fd = temp(c"f", &[b'x'; 10000]);
    ok!(SYS_ftruncate, fd, 5000);
    ok!(SYS_ftruncate, fd, 10000);
    let all = slurp(c"f");
    assert!(all[..5000].iter().all(|b| *b == b'x'));
    assert!(all[5000..].iter().all(|b| *b == 0));
}

fn fallocate_grows() {
    let fd = temp(c"f", b"abc");
    ok!(SYS_fallocate, fd, 0, 0, 100);
    assert_eq!(fstat(fd).st_size, 100);
    ok!(SYS_fallocate, fd, 0, 0, 50);
    assert_eq!(fstat(fd).st_size, 100);
    assert_eq!(&slurp(c"f")[..4], b"abc\0");
}

fn fallocate_keep_size() {
    let fd = temp(c"f", b"abc");
    ok!(SYS_fallocate, fd, FALLOC_FL_KEEP_SIZE, 0, 100_000);
    assert_eq!(fstat(fd).st_size, 3);
}

fn punch_hole() {
    let fd = temp(c"f", &[b'x'; 3 * PAGE]);
    ok!(SYS_fallocate, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1000, PAGE);
    let all = slurp(c"f");
    assert_eq!(all.len(), 3 * PAGE);
    assert!(all[1000..1000 + PAGE].iter().all(|b| *b == 0));
    assert!(all[999] == b'x' && all[1000 + PAGE] == b'x');
    err!(EOPNOTSUPP: SYS_fallocate, fd, FALLOC_FL_PUNCH_HOLE, 0, PAGE);
}

fn zero_range() {
    let fd = temp(c"f", &[b'x'; 100]);
    match sys!(SYS_fallocate, fd, FALLOC_FL_ZERO_RANGE, 10, 20) {
        // Not every file system has it; tmpfs has not.
        Err(EOPNOTSUPP) => {}
        Err(e) => panic!("{}", crate::sys::name(e)),
        Ok(_) => assert!(slurp(c"f")[10..30].iter().all(|b| *b == 0)),
    }
    assert_eq!(fstat(fd).st_size, 100);
}

fn fallocate_errors() {
    let fd = temp(c"f", b"");
    err!(EINVAL: SYS_fallocate, fd, 0, -1i64, 10);
    err!(EINVAL: SYS_fallocate, fd, 0, 0, 0);
    err!(EINVAL: SYS_fallocate, fd, 0, 0, -1i64);
    err!(EOPNOTSUPP: SYS_fallocate, fd, 0x4000, 0, 10);
    err!(EBADF: SYS_fallocate, 999, 0, 0, 10);
    err!(EBADF: SYS_fallocate, open(c"f", O_RDONLY, 0), 0, 0, 10);
    err!(EFBIG: SYS_fallocate, fd, 0, i64::MAX, 10);
    let (_, w) = pipe(0);
    err!(ESPIPE: SYS_fallocate, w, 0, 0, 10);
    err!(ENODEV: SYS_fallocate, open(c"/dev/null", O_RDWR, 0), 0, 0, 10);
}

fn offset_stays() {
    let fd = temp(c"f", b"0123456789");
    ok!(SYS_lseek, fd, 8, SEEK_SET);
    ok!(SYS_ftruncate, fd, 2);
    assert_eq!(ok!(SYS_lseek, fd, 0, SEEK_CUR), 8);
    assert_eq!(read(fd, 4), b"");
    write(fd, b"z");
    assert_eq!(slurp(c"f"), b"01\0\0\0\0\0\0z");
}

fn huge_sizes() {
    let fd = temp(c"f", b"");
    ok!(SYS_ftruncate, fd, 1u64 << 40);
    assert_eq!(fstat(fd).st_size, 1 << 40);
    ok!(SYS_pwrite64, fd, b"x", 1, (1u64 << 40) - 1);
    ok!(SYS_ftruncate, fd, 0);
}
