//! read, write, pread, pwrite and their vectored forms.

use crate::helpers::*;
use crate::sys::{BAD, KERNEL};

cases![
    sequential,
    at_end_and_beyond,
    positioned,
    negative_offset,
    zero_length,
    bad_buffer,
    partial_fault,
    huge_length,
    vectored,
    vectored_limits,
    positioned_vectors,
    v2_flags,
    bad_descriptors,
    sparse_hole_reads_zero,
    file_size_limit,
    read_write_share_offset,
    dev_null_zero_full,
    max_file_offset,
    directory_pread,
];

fn vec_of(parts: &[(usize, usize)]) -> Vec<iovec> {
    parts.iter().map(|(p, l)| iovec { iov_base: *p as *mut c_void, iov_len: *l }).collect()
}

fn sequential() {
    let fd = temp(c"f", b"");
    write(fd, b"hello ");
    write(fd, b"world");
    ok!(SYS_lseek, fd, 3, SEEK_SET);
    assert_eq!(read(fd, 4), b"lo w");
    assert_eq!(read(fd, 100), b"orld");
    assert_eq!(read(fd, 100), b"");
}

fn at_end_and_beyond() {
    let fd = temp(c"f", b"abc");
    let mut b = [0u8; 8];
    assert_eq!(ok!(SYS_pread64, fd, &mut b, 8, 3), 0);
    assert_eq!(ok!(SYS_pread64, fd, &mut b, 8, 1u64 << 40), 0);
    assert_eq!(ok!(SYS_pread64, fd, &mut b, 8, 2), 1);
    assert_eq!(ok!(SYS_pwrite64, fd, b"z", 1, 10), 1);
    assert_eq!(fstat(fd).st_size, 11);
    assert_eq!(slurp(c"f"), b"abc\0\0\0\0\0\0\0z");
}

fn positioned() {
    let fd = temp(c"f", b"0123456789");
    let mut b = [0u8; 4];
    assert_eq!(ok!(SYS_pread64, fd, &mut b, 4, 5), 4);
    assert_eq!(&b, b"5678");
    assert_eq!(ok!(SYS_lseek, fd, 0, SEEK_CUR), 0);
    ok!(SYS_pwrite64, fd, b"XY", 2, 1);
    assert_eq!(read(fd, 20), b"0XY3456789");
    let (r, w) = pipe(0);
    err!(ESPIPE: SYS_pread64, r, &mut b, 4, 0);
    err!(ESPIPE: SYS_pwrite64, w, &b, 4, 0);
    err!(ESPIPE: SYS_pread64, w, &mut b, 4, 0);
}

fn negative_offset() {
    let fd = temp(c"f", b"abc");
    let mut b = [0u8; 4];
    err!(EINVAL: SYS_pread64, fd, &mut b, 4, -1i64);
    err!(EINVAL: SYS_pwrite64, fd, &b, 4, i64::MIN);
    // The offset is looked at before the descriptor.
    err!(EINVAL: SYS_pread64, 999, &mut b, 4, -1i64);
    let v = vec_of(&[(b.as_ptr() as usize, 4)]);
    err!(EINVAL: SYS_preadv, fd, &v[..], 1, -1i64, 0);
}

fn zero_length() {
    let fd = temp(c"f", b"abc");
    assert_eq!(ok!(SYS_read, fd, 0, 0), 0);
    assert_eq!(ok!(SYS_write, fd, 0, 0), 0);
    assert_eq!(ok!(SYS_read, fd, BAD, 0), 0);
    assert_eq!(ok!(SYS_pwrite64, fd, 0, 0, 100), 0);
    assert_eq!(fstat(fd).st_size, 3);
    assert_eq!(ok!(SYS_readv, fd, 0, 0), 0);
    // A kernel address fails even so.
    err!(EFAULT: SYS_read, fd, KERNEL, 0);
    let (r, w) = pipe(0);
    assert_eq!(ok!(SYS_write, w, 0, 0), 0);
    assert_eq!(poll(r, POLLIN, 0), 0);
}

fn bad_buffer() {
    let fd = temp(c"f", b"abc");
    err!(EFAULT: SYS_read, fd, BAD, 3);
    err!(EFAULT: SYS_write, fd, BAD, 3);
    err!(EFAULT: SYS_read, fd, KERNEL, 3);
    assert_eq!(ok!(SYS_lseek, fd, 0, SEEK_CUR), 0);
    let ro = map(PAGE, PROT_READ);
    err!(EFAULT: SYS_read, fd, ro, 3);
    let wo = map(PAGE, PROT_NONE);
    err!(EFAULT: SYS_write, fd, wo, 3);
    // At the end of the file nothing is copied, so nothing faults.
    ok!(SYS_lseek, fd, 0, SEEK_END);
    assert_eq!(ok!(SYS_read, fd, BAD, 3), 0);
    let (r, w) = pipe(0);
    err!(EFAULT: SYS_write, w, BAD, 1);
    write(w, b"x");
    err!(EFAULT: SYS_read, r, BAD, 1);
    assert_eq!(read(r, 4), b"x");
}

fn partial_fault() {
    let at = map(2 * PAGE, PROT_READ | PROT_WRITE);
    ok!(SYS_munmap, at + PAGE, PAGE);
    let fd = temp(c"f", &[b'a'; 3 * PAGE]);
    let n = ok!(SYS_read, fd, at + PAGE - 100, 1000);
    assert_eq!(n, 100, "a read into half a buffer is short");
    assert_eq!(ok!(SYS_lseek, fd, 0, SEEK_CUR), 100);
    let n = ok!(SYS_write, fd, at + PAGE - 100, 1000);
    assert_eq!(n, 100);
    assert_eq!(ok!(SYS_lseek, fd, 0, SEEK_CUR), 200);
}

fn huge_length() {
    let fd = temp(c"f", b"abc");
    let mut b = [0u8; 16];
    // Capped at 0x7ffff000, or refused where the range leaves the address space.
    err!(EFAULT: SYS_read, fd, &mut b, -1i64);
    err!(EFAULT: SYS_write, fd, &b, i64::MAX);
    let at = map(PAGE, PROT_READ | PROT_WRITE);
    assert_eq!(ok!(SYS_read, fd, at, 0x1_0000_0000u64), 3);
}

fn vectored() {
    let fd = temp(c"f", b"");
    let (a, b, c) = (*b"abc", *b"", *b"defg");
    let v = vec_of(&[(a.as_ptr() as usize, 3), (b.as_ptr() as usize, 0), (c.as_ptr() as usize, 4)]);
    assert_eq!(ok!(SYS_writev, fd, &v[..], 3), 7);
    ok!(SYS_lseek, fd, 1, SEEK_SET);
    let (mut x, mut y) = ([0u8; 2], [0u8; 10]);
    let v = vec_of(&[(x.as_mut_ptr() as usize, 2), (y.as_mut_ptr() as usize, 10)]);
    assert_eq!(ok!(SYS_readv, fd, &v[..], 2), 6);
    assert_eq!((&x, &y[..4]), (b"bc", &b"defg"[..]));
    // A later entry that faults shortens the transfer.
    let v = vec_of(&[(a.as_ptr() as usize, 3), (BAD, 4)]);
    assert_eq!(ok!(SYS_writev, fd, &v[..], 2), 3);
    let v = vec_of(&[(BAD, 4), (a.as_ptr() as usize, 3)]);
    err!(EFAULT: SYS_writev, fd, &v[..], 2);
}

fn vectored_limits() {
    let fd = temp(c"f", b"");
    let a = *b"abc";
    let v = vec_of(&vec![(a.as_ptr() as usize, 1); 1025]);
    assert_eq!(ok!(SYS_writev, fd, &v[..], 1024), 1024);
    err!(EINVAL: SYS_writev, fd, &v[..], 1025);
    err!(EINVAL: SYS_writev, fd, &v[..], -1);
    err!(EFAULT: SYS_writev, fd, BAD, 1);
    err!(EBADF: SYS_writev, 999, BAD, 1025);
    let v = vec_of(&[(a.as_ptr() as usize, usize::MAX)]);
    err!(EINVAL: SYS_writev, fd, &v[..], 1);
    let v = vec_of(&[(a.as_ptr() as usize, 1), (a.as_ptr() as usize, 1 << 63)]);
    err!(EINVAL: SYS_writev, fd, &v[..], 2);
}

fn positioned_vectors() {
    let fd = temp(c"f", b"0123456789");
    let (mut x, mut y) = ([0u8; 2], [0u8; 3]);
    let v = vec_of(&[(x.as_mut_ptr() as usize, 2), (y.as_mut_ptr() as usize, 3)]);
    assert_eq!(ok!(SYS_preadv, fd, &v[..], 2, 4, 0), 5);
    assert_eq!((&x, &y), (b"45", b"678"));
    assert_eq!(ok!(SYS_pwritev, fd, &v[..], 2, 0, 0), 5);
    assert_eq!(ok!(SYS_lseek, fd, 0, SEEK_CUR), 0);
    assert_eq!(read(fd, 20), b"4567856789");
    let (r, _w) = pipe(0);
    err!(ESPIPE: SYS_preadv, r, &v[..], 2, 0, 0);
}

fn v2_flags() {
    let fd = temp(c"f", b"0123456789");
    let mut x = [0u8; 3];
    let v = vec_of(&[(x.as_mut_ptr() as usize, 3)]);
    // An offset of -1 means the current one.
    assert_eq!(ok!(SYS_preadv2, fd, &v[..], 1, -1i64, -1i64, 0), 3);
    assert_eq!(ok!(SYS_lseek, fd, 0, SEEK_CUR), 3);
    err!(EOPNOTSUPP: SYS_preadv2, fd, &v[..], 1, 0, 0, 1 << 30);
    err!(EINVAL: SYS_preadv2, fd, &v[..], 1, -2i64, -1i64, 0);
    assert_eq!(ok!(SYS_pwritev2, fd, &v[..], 1, 0, 0, RWF_APPEND), 3);
    assert_eq!(fstat(fd).st_size, 13);
    let (r, w) = pipe(0);
    err!(EAGAIN: SYS_preadv2, r, &v[..], 1, -1i64, -1i64, RWF_NOWAIT);
    write(w, b"q");
    assert_eq!(ok!(SYS_preadv2, r, &v[..], 1, -1i64, -1i64, RWF_NOWAIT), 1);
}

fn bad_descriptors() {
    let mut b = [0u8; 4];
    for fd in [-1, 999, i32::MAX] {
        err!(EBADF: SYS_read, fd, &mut b, 4);
        err!(EBADF: SYS_write, fd, BAD, 4);
        err!(EBADF: SYS_pread64, fd, &mut b, 4, 0);
        err!(EBADF: SYS_readv, fd, BAD, 1);
    }
}

fn sparse_hole_reads_zero() {
    let fd = temp(c"f", b"");
    ok!(SYS_pwrite64, fd, b"end", 3, 1 << 20);
    let mut b = [1u8; 4096];
    assert_eq!(ok!(SYS_pread64, fd, &mut b, 4096, 500_000), 4096);
    assert!(b.iter().all(|x| *x == 0));
    assert_eq!(ok!(SYS_pread64, fd, &mut b, 4096, (1 << 20) - 2), 5);
    assert_eq!(&b[..5], b"\0\0end");
}

fn file_size_limit() {
    let lim = rlimit { rlim_cur: 100, rlim_max: 100 };
    let fd = temp(c"f", &[b'x'; 95]);
    ok!(SYS_lseek, fd, 0, SEEK_END);
    ok!(SYS_setrlimit, RLIMIT_FSIZE, &lim);
    on(SIGXFSZ, 0);
    assert_eq!(ok!(SYS_write, fd, b"0123456789", 10), 5);
    assert_eq!(count(SIGXFSZ), 0);
    err!(EFBIG: SYS_write, fd, b"x", 1);
    assert_eq!(count(SIGXFSZ), 1);
    err!(EFBIG: SYS_ftruncate, fd, 101);
    assert_eq!(count(SIGXFSZ), 2);
    ok!(SYS_ftruncate, fd, 100);
    let status = status_of(|| {
        action(SIGXFSZ, SIG_DFL, 0, &[]);
        write(fd, b"x");
        0
    });
    assert_eq!(killed_by(status), Some(SIGXFSZ));
}

fn read_write_share_offset() {
    let fd = temp(c"f", b"abcdef");
    read(fd, 2);
    write(fd, b"X");
    assert_eq!(read(fd, 10), b"def");
    in_child(|| {
        ok!(SYS_lseek, fd, 1, SEEK_SET);
    });
    assert_eq!(read(fd, 2), b"bX");
}

fn dev_null_zero_full() {
    let null = open(c"/dev/null", O_RDWR, 0);
    assert_eq!(read(null, 10), b"");
    write(null, b"gone");
    assert_eq!(ok!(SYS_lseek, null, 77, SEEK_SET), 0);
    // The sink never looks at the data.
    assert_eq!(ok!(SYS_write, null, BAD, 5), 5);
    let zero = open(c"/dev/zero", O_RDWR, 0);
    assert_eq!(read(zero, 10), [0; 10]);
    assert_eq!(ok!(SYS_write, zero, BAD, 5), 5);
    let full = open(c"/dev/full", O_RDWR, 0);
    assert_eq!(read(full, 10), [0; 10]);
    err!(ENOSPC: SYS_write, full, b"x", 1);
    let random = open(c"/dev/urandom", O_RDONLY, 0);
    assert_ne!(read(random, 32), read(random, 32));
}

fn max_file_offset() {
    let fd = temp(c"f", b"");
    let mut b = [0u8; 4];
    assert_eq!(ok!(SYS_pread64, fd, &mut b, 4, i64::MAX - 4), 0);
    match sys!(SYS_pwrite64, fd, b"abcd", 4, i64::MAX - 2) {
        Err(EFBIG | EINVAL) => {}
        r => panic!("{r:?}"),
    }
    assert_eq!(fstat(fd).st_size, 0);
}

fn directory_pread() {
    let fd = open(c".", O_RDONLY, 0);
    let mut b = [0u8; 4];
    err!(EISDIR: SYS_pread64, fd, &mut b, 4, 0);
    err!(EISDIR: SYS_read, fd, BAD, 4);
}
