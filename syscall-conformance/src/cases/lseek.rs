//! lseek.

use crate::helpers::*;

cases![set_cur_end, negative_result, bad_whence, pipes_and_sockets, data_and_hole, overflow, directory_rewind];

fn set_cur_end() {
    let fd = temp(c"f", b"0123456789");
    assert_eq!(ok!(SYS_lseek, fd, 4, SEEK_SET), 4);
    assert_eq!(ok!(SYS_lseek, fd, 3, SEEK_CUR), 7);
    assert_eq!(ok!(SYS_lseek, fd, -2i64, SEEK_END), 8);
    assert_eq!(ok!(SYS_lseek, fd, 100, SEEK_END), 110);
    assert_eq!(fstat(fd).st_size, 10);
    write(fd, b"x");
    assert_eq!(fstat(fd).st_size, 111);
}

fn negative_result() {
    let fd = temp(c"f", b"0123456789");
    err!(EINVAL: SYS_lseek, fd, -1i64, SEEK_SET);
    err!(EINVAL: SYS_lseek, fd, -11i64, SEEK_END);
    err!(EINVAL: SYS_lseek, fd, -1i64, SEEK_CUR);
    assert_eq!(ok!(SYS_lseek, fd, 0, SEEK_CUR), 0);
}

fn bad_whence() {
    let fd = temp(c"f", b"");
    err!(EINVAL: SYS_lseek, fd, 0, 5);
    err!(EINVAL: SYS_lseek, fd, 0, -1);
    err!(EBADF: SYS_lseek, 999, 0, 5);
}

fn pipes_and_sockets() {
    let (r, w) = pipe(0);
    err!(ESPIPE: SYS_lseek, r, 0, SEEK_SET);
    err!(ESPIPE: SYS_lseek, w, 0, SEEK_CUR);
    err!(EINVAL: SYS_lseek, r, 0, 99);
    let (a, _) = socketpair(SOCK_STREAM);
    err!(ESPIPE: SYS_lseek, a, 0, SEEK_END);
}

fn data_and_hole() {
    let fd = temp(c"f", b"");
    ok!(SYS_pwrite64, fd, &[b'd'; 65536], 65536, 1 << 20);
    ok!(SYS_ftruncate, fd, 1 << 21);
    let size = 1u64 << 21;
    // A file system may know no holes; then everything is data up to the end.
    let data = ok!(SYS_lseek, fd, 0, SEEK_DATA);
    assert!(data == 0 || data == 1 << 20);
    let hole = ok!(SYS_lseek, fd, 1 << 20, SEEK_HOLE) as u64;
    assert!(hole == (1 << 20) + 65536 || hole == size);
    err!(ENXIO: SYS_lseek, fd, size, SEEK_DATA);
    err!(ENXIO: SYS_lseek, fd, size, SEEK_HOLE);
    err!(ENXIO: SYS_lseek, fd, -1i64, SEEK_DATA);
    let full = temp(c"g", b"abc");
    assert_eq!(ok!(SYS_lseek, full, 1, SEEK_DATA), 1);
    assert_eq!(ok!(SYS_lseek, full, 1, SEEK_HOLE), 3);
}

fn overflow() {
    let fd = temp(c"f", b"0123456789");
    ok!(SYS_lseek, fd, 1, SEEK_SET);
    match sys!(SYS_lseek, fd, i64::MAX, SEEK_CUR) {
        Err(EOVERFLOW | EINVAL) => {}
        r => panic!("{r:?}"),
    }
    assert_eq!(ok!(SYS_lseek, fd, 0, SEEK_CUR), 1);
}

fn directory_rewind() {
    file(c"f", b"");
    let fd = open(c".", O_RDONLY, 0);
    let mut b = [0u64; 512];
    let n = ok!(SYS_getdents64, fd, &mut b, 4096);
    assert!(n > 0);
    assert_eq!(ok!(SYS_getdents64, fd, &mut b, 4096), 0);
    assert_eq!(ok!(SYS_lseek, fd, 0, SEEK_SET), 0);
    assert_eq!(ok!(SYS_getdents64, fd, &mut b, 4096), n);
}
