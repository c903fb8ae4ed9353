//! pipe, splice, tee, vmsplice, sendfile, copy_file_range.

use crate::helpers::*;
use crate::sys::BAD;

cases![
    pipe_flags,
    pipe_ends,
    pipe_capacity,
    pipe_atomic_writes,
    pipe_nonblocking,
    pipe_closed_ends,
    pipe_packet_mode,
    pipe_size,
    pipe_fionread,
    pipe_blocks_and_wakes,
    pipe_errors,
    pipe_through_proc,
    splice_file_and_pipe,
    splice_errors,
    tee_duplicates,
    vmsplice_writes,
    sendfile_forms,
    sendfile_errors,
    copy_file_range_forms,
    copy_file_range_errors,
];

fn pipe_flags() {
    let (r, w) = pipe(O_CLOEXEC | O_NONBLOCK);
    assert_eq!((ok!(SYS_fcntl, r, F_GETFD, 0), ok!(SYS_fcntl, w, F_GETFD, 0)), (1, 1));
    println!("{:#o} {:#o}", ok!(SYS_fcntl, r, F_GETFL, 0), ok!(SYS_fcntl, w, F_GETFL, 0));
    err!(EINVAL: SYS_pipe2, &mut [0i32; 2], O_APPEND);
    err!(EFAULT: SYS_pipe2, BAD, 0);
    assert_eq!(pipe(0).0, w + 1, "a failed pipe takes no descriptors");
}

fn pipe_ends() {
    let (r, w) = pipe(0);
    err!(EBADF: SYS_write, r, b"x", 1);
    err!(EBADF: SYS_read, w, &mut [0u8; 1], 1);
    let st = fstat(r);
    assert_eq!((st.st_mode, st.st_size, st.st_nlink), (S_IFIFO | 0o600, 0, 1));
    assert_eq!(fstat(w).st_ino, st.st_ino);
}

fn pipe_capacity() {
    let (r, w) = pipe(O_NONBLOCK);
    let mut n = 0;
    while sys!(SYS_write, w, &[0u8; 4096], 4096) == Ok(4096) {
        n += 4096;
    }
    assert_eq!(n, 65536);
    assert_eq!(poll(w, POLLOUT, 0), 0);
    read(r, 100);
    // Less than a page is free: no room is reported.
    assert_eq!(poll(w, POLLOUT, 0), 0);
    read(r, 4096);
    assert_eq!(poll(w, POLLOUT, 0), POLLOUT);
}

fn pipe_atomic_writes() {
    let (r, w) = pipe(O_NONBLOCK);
    ok!(SYS_fcntl, w, F_SETPIPE_SZ, PAGE);
    write(w, &[0; 4000]);
    // Up to PIPE_BUF it is all or nothing.
    err!(EAGAIN: SYS_write, w, &[0u8; 200], 200);
    write(w, &[0; 96]);
    read(r, 4096);
    assert_eq!(ok!(SYS_write, w, &[0u8; 5000], 5000), 4096);
}

fn pipe_nonblocking() {
    let (r, w) = pipe(O_NONBLOCK);
    err!(EAGAIN: SYS_read, r, &mut [0u8; 1], 1);
    ok!(SYS_fcntl, r, F_SETFL, 0);
    write(w, b"ab");
    assert_eq!(read(r, 1), b"a");
    ok!(SYS_ioctl, r, FIONBIO, &1i32);
    assert_eq!(read(r, 9), b"b");
    err!(EAGAIN: SYS_read, r, &mut [0u8; 1], 1);
    assert_ne!(ok!(SYS_fcntl, r, F_GETFL, 0) as i32 & O_NONBLOCK, 0);
}

fn pipe_closed_ends() {
    let (r, w) = pipe(0);
    write(w, b"rest");
    close(w);
    assert_eq!(read(r, 2), b"re");
    assert_eq!(read(r, 9), b"st");
    assert_eq!(read(r, 9), b"");
    // An end that a child holds keeps the pipe open.
    let (r, w) = pipe(0);
    let pid = fork(|| {
        nap(30);
        write(w, b"child");
        0
    });
    close(w);
    assert_eq!(read(r, 9), b"child");
    assert_eq!(read(r, 9), b"");
    wait(pid);
}

fn pipe_packet_mode() {
    let (r, w) = pipe(O_DIRECT);
    write(w, b"one");
    write(w, b"two");
    assert_eq!(read(r, 100), b"one");
    // What does not fit the buffer is thrown away.
    assert_eq!(read(r, 1), b"t");
    write(w, b"three");
    assert_eq!(read(r, 100), b"three");
}

fn pipe_size() {
    let (r, w) = pipe(0);
    assert_eq!(ok!(SYS_fcntl, r, F_GETPIPE_SZ, 0), 65536);
    assert_eq!(ok!(SYS_fcntl, w, F_SETPIPE_SZ, 5000), 8192);
    assert_eq!(ok!(SYS_fcntl, r, F_GETPIPE_SZ, 0), 8192);
    assert_eq!(ok!(SYS_fcntl, r, F_SETPIPE_SZ, 0), 4096);
    ok!(SYS_fcntl, r, F_SETPIPE_SZ, 1 << 20);
    write(w, &[0; 8192]);
    err!(EBUSY: SYS_fcntl, w, F_SETPIPE_SZ, 4096);
    err!(EBADF: SYS_fcntl, temp(c"f", b""), F_GETPIPE_SZ, 0);
    need_unprivileged();
    err!(EPERM: SYS_fcntl, w, F_SETPIPE_SZ, 1 << 21);
}

fn pipe_fionread() {
    let (r, w) = pipe(0);
    let mut n = 9i32;
    ok!(SYS_ioctl, r, FIONREAD, &mut n);
    assert_eq!(n, 0);
    write(w, b"hello");
    ok!(SYS_ioctl, r, FIONREAD, &mut n);
    assert_eq!(n, 5);
    err!(ENOTTY: SYS_ioctl, r, TCGETS, &mut n);
    err!(EFAULT: SYS_ioctl, r, FIONREAD, BAD);
}

fn pipe_blocks_and_wakes() {
    let (r, w) = pipe(0);
    // More than fits, against a slow reader.
    let pid = fork(|| {
        let data: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        write(w, &data);
        0
    });
    close(w);
    let mut got = Vec::new();
    loop {
        let part = read(r, 7777);
        if part.is_empty() {
            break;
        }
        got.extend(part);
    }
    assert_eq!(got.len(), 200_000);
    assert!(got.iter().enumerate().all(|(i, b)| *b == (i % 251) as u8));
    assert_eq!(wait(pid), 0);
}

fn pipe_errors() {
    let (r, w) = pipe(0);
    err!(EFAULT: SYS_write, w, BAD, 1);
    write(w, b"abc");
    err!(EFAULT: SYS_read, r, BAD, 1);
    assert_eq!(read(r, 9), b"abc");
    err!(EINVAL: SYS_fsync, r);
}

fn pipe_through_proc() {
    let (r, w) = pipe(0);
    let name = std::ffi::CString::new(format!("/proc/self/fd/{r}")).unwrap();
    let again = open(&name, O_WRONLY, 0);
    write(again, b"x");
    assert_eq!(read(r, 4), b"x");
    let mut b = [0u8; 64];
    let n = ok!(SYS_readlink, name.as_c_str(), &mut b, 64);
    assert_eq!(String::from_utf8_lossy(&b[..n]), format!("pipe:[{}]", fstat(w).st_ino));
}

fn splice_file_and_pipe() {
    let fd = temp(c"f", b"0123456789");
    let (r, w) = pipe(0);
    assert_eq!(ok!(SYS_splice, fd, 0, w, 0, 4, 0), 4);
    assert_eq!(read(r, 9), b"0123");
    let mut off = 8i64;
    assert_eq!(ok!(SYS_splice, fd, &mut off, w, 0, 100, 0), 2);
    assert_eq!(off, 10);
    assert_eq!(ok!(SYS_lseek, fd, 0, SEEK_CUR), 4);
    let out = temp(c"g", b"..........");
    let mut off = 3i64;
    assert_eq!(ok!(SYS_splice, r, 0, out, &mut off, 100, 0), 2);
    assert_eq!(slurp(c"g"), b"...89.....");
    assert_eq!(ok!(SYS_splice, fd, 0, w, 0, 0, 0), 0);
    let (r2, w2) = pipe(0);
    write(w, b"through");
    assert_eq!(ok!(SYS_splice, r, 0, w2, 0, 100, 0), 7);
    assert_eq!(read(r2, 100), b"through");
    close(w);
    assert_eq!(ok!(SYS_splice, r, 0, w2, 0, 100, 0), 0);
}

fn splice_errors() {
    let fd = temp(c"f", b"0123456789");
    let (r, w) = pipe(0);
    err!(EINVAL: SYS_splice, fd, 0, temp(c"g", b""), 0, 4, 0);
    err!(ESPIPE: SYS_splice, r, &mut 0i64, fd, 0, 4, 0);
    err!(EBADF: SYS_splice, 999, 0, w, 0, 4, 0);
    err!(EBADF: SYS_splice, w, 0, r, 0, 4, 0);
    err!(EINVAL: SYS_splice, fd, 0, w, 0, 4, 0x100);
    err!(EFAULT: SYS_splice, fd, BAD, w, 0, 4, 0);
    err!(EAGAIN: SYS_splice, r, 0, fd, 0, 4, SPLICE_F_NONBLOCK);
    err!(EINVAL: SYS_splice, r, 0, w, 0, 4, 0);
    err!(EINVAL: SYS_splice, r, 0, open(c"f", O_WRONLY | O_APPEND, 0), 0, 4, 0);
}

fn tee_duplicates() {
    let (r, w) = pipe(0);
    let (r2, w2) = pipe(0);
    write(w, b"data");
    assert_eq!(ok!(SYS_tee, r, w2, 100, 0), 4);
    assert_eq!((read(r, 9), read(r2, 9)), (b"data".to_vec(), b"data".to_vec()));
    err!(EAGAIN: SYS_tee, r, w2, 100, SPLICE_F_NONBLOCK);
    err!(EINVAL: SYS_tee, r, w, 100, 0);
    err!(EINVAL: SYS_tee, temp(c"f", b""), w, 100, 0);
    close(w);
    assert_eq!(ok!(SYS_tee, r, w2, 100, 0), 0);
}

fn vmsplice_writes() {
    let (r, w) = pipe(0);
    let data = *b"spliced";
    let v = iovec { iov_base: data.as_ptr() as *mut c_void, iov_len: 7 };
    assert_eq!(ok!(SYS_vmsplice, w, &v, 1, 0), 7);
    assert_eq!(read(r, 9), b"spliced");
    err!(EBADF: SYS_vmsplice, temp(c"f", b""), &v, 1, 0);
    err!(EINVAL: SYS_vmsplice, w, &v, 1, 0x100);
}

fn sendfile_forms() {
    let fd = temp(c"f", b"0123456789");
    let out = temp(c"g", b"");
    assert_eq!(ok!(SYS_sendfile, out, fd, 0, 4), 4);
    assert_eq!(ok!(SYS_lseek, fd, 0, SEEK_CUR), 4);
    let mut off = 8i64;
    assert_eq!(ok!(SYS_sendfile, out, fd, &mut off, 100), 2);
    assert_eq!((off, ok!(SYS_lseek, fd, 0, SEEK_CUR)), (10, 4));
    assert_eq!(slurp(c"g"), b"012389");
    assert_eq!(ok!(SYS_sendfile, out, fd, &mut off, 100), 0);
    let (r, w) = pipe(0);
    assert_eq!(ok!(SYS_sendfile, w, fd, 0, 3), 3);
    assert_eq!(read(r, 9), b"456");
    let (a, b) = socketpair(SOCK_STREAM);
    assert_eq!(ok!(SYS_sendfile, a, fd, 0, 3), 3);
    assert_eq!(read(b, 9), b"789");
}

fn sendfile_errors() {
    let fd = temp(c"f", b"0123456789");
    let (r, w) = pipe(0);
    err!(EBADF: SYS_sendfile, w, 999, 0, 4);
    err!(EBADF: SYS_sendfile, 999, fd, 0, 4);
    err!(EBADF: SYS_sendfile, w, open(c"f", O_WRONLY, 0), 0, 4);
    err!(EBADF: SYS_sendfile, r, fd, 0, 4);
    err!(EFAULT: SYS_sendfile, w, fd, BAD, 4);
    err!(EINVAL: SYS_sendfile, w, fd, &mut -1i64, 4);
    err!(EINVAL: SYS_sendfile, open(c"f", O_WRONLY | O_APPEND, 0), fd, 0, 4);
}

fn copy_file_range_forms() {
    let fd = temp(c"f", b"0123456789");
    let out = temp(c"g", b"");
    assert_eq!(ok!(SYS_copy_file_range, fd, 0, out, 0, 4, 0), 4);
    let (mut i, mut o) = (6i64, 1i64);
    assert_eq!(ok!(SYS_copy_file_range, fd, &mut i, out, &mut o, 100, 0), 4);
    assert_eq!((i, o), (10, 5));
    assert_eq!(slurp(c"g"), b"06789");
    assert_eq!(ok!(SYS_lseek, out, 0, SEEK_CUR), 4);
    assert_eq!(ok!(SYS_copy_file_range, fd, &mut i, out, &mut o, 100, 0), 0);
    // Within one file, where the ranges do not meet.
    let (mut i, mut o) = (0i64, 10i64);
    assert_eq!(ok!(SYS_copy_file_range, fd, &mut i, fd, &mut o, 3, 0), 3);
    assert_eq!(slurp(c"f"), b"0123456789012");
}

fn copy_file_range_errors() {
    let fd = temp(c"f", b"0123456789");
    let out = temp(c"g", b"");
    err!(EINVAL: SYS_copy_file_range, fd, 0, out, 0, 4, 1);
    err!(EBADF: SYS_copy_file_range, 999, 0, out, 0, 4, 0);
    err!(EBADF: SYS_copy_file_range, open(c"f", O_WRONLY, 0), 0, out, 0, 4, 0);
    err!(EBADF: SYS_copy_file_range, fd, 0, open(c"g", O_RDONLY, 0), 0, 4, 0);
    err!(EBADF: SYS_copy_file_range, fd, 0, open(c"g", O_WRONLY | O_APPEND, 0), 0, 4, 0);
    err!(EISDIR: SYS_copy_file_range, open(c".", O_RDONLY, 0), 0, out, 0, 4, 0);
    err!(EINVAL: SYS_copy_file_range, pipe(0).0, 0, out, 0, 4, 0);
    let (mut i, mut o) = (0i64, 2i64);
    err!(EINVAL: SYS_copy_file_range, fd, &mut i, fd, &mut o, 4, 0);
    err!(EFAULT: SYS_copy_file_range, fd, BAD, out, 0, 4, 0);
}
