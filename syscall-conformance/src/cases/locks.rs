//! flock, POSIX record locks, open-file-description locks, leases.

use crate::helpers::*;

cases![
    flock_exclusive,
    flock_shared_and_upgrade,
    flock_errors,
    flock_follows_description,
    flock_blocks,
    posix_conflict,
    posix_split_and_merge,
    posix_released_by_any_close,
    posix_not_inherited,
    posix_errors,
    posix_blocks_and_interrupts,
    posix_deadlock,
    posix_whence,
    ofd_locks,
    ofd_and_posix_conflict,
    locks_end_with_process,
];

fn lock(kind: i32, start: i64, len: i64) -> flock {
    flock { l_type: kind as i16, l_whence: SEEK_SET as i16, l_start: start, l_len: len, l_pid: 0 }
}

fn flock_exclusive() {
    let a = temp(c"f", b"");
    let b = open(c"f", O_RDONLY, 0);
    ok!(SYS_flock, a, LOCK_EX);
    err!(EAGAIN: SYS_flock, b, LOCK_EX | LOCK_NB);
    err!(EAGAIN: SYS_flock, b, LOCK_SH | LOCK_NB);
    ok!(SYS_flock, a, LOCK_EX | LOCK_NB);
    ok!(SYS_flock, a, LOCK_UN);
    ok!(SYS_flock, b, LOCK_EX | LOCK_NB);
}

fn flock_shared_and_upgrade() {
    let a = temp(c"f", b"");
    let b = open(c"f", O_RDONLY, 0);
    ok!(SYS_flock, a, LOCK_SH);
    ok!(SYS_flock, b, LOCK_SH | LOCK_NB);
    err!(EAGAIN: SYS_flock, a, LOCK_EX | LOCK_NB);
    // A failed conversion may have lost the old lock; Linux drops it first.
    ok!(SYS_flock, b, LOCK_EX | LOCK_NB);
    ok!(SYS_flock, b, LOCK_SH | LOCK_NB);
    ok!(SYS_flock, a, LOCK_SH | LOCK_NB);
}

fn flock_errors() {
    let a = temp(c"f", b"");
    err!(EINVAL: SYS_flock, a, 0);
    err!(EINVAL: SYS_flock, a, LOCK_SH | LOCK_EX);
    err!(EINVAL: SYS_flock, 999, 77);
    err!(EBADF: SYS_flock, 999, LOCK_EX);
    err!(EBADF: SYS_flock, open(c"f", O_PATH, 0), LOCK_EX);
    ok!(SYS_flock, a, LOCK_UN);
}

fn flock_follows_description() {
    let a = temp(c"f", b"");
    let d = ok!(SYS_dup, a) as i32;
    ok!(SYS_flock, a, LOCK_EX);
    ok!(SYS_flock, d, LOCK_EX | LOCK_NB);
    close(a);
    let b = open(c"f", O_RDONLY, 0);
    err!(EAGAIN: SYS_flock, b, LOCK_EX | LOCK_NB);
    in_child(|| {
        err!(EAGAIN: SYS_flock, open(c"f", O_RDONLY, 0), LOCK_EX | LOCK_NB);
        // A child that unlocks the shared description unlocks it for all.
        ok!(SYS_flock, d, LOCK_UN);
    });
    ok!(SYS_flock, b, LOCK_EX | LOCK_NB);
}

fn flock_blocks() {
    let a = temp(c"f", b"");
    ok!(SYS_flock, a, LOCK_EX);
    let (r, w) = pipe(0);
    let pid = fork(|| {
        let b = open(c"f", O_RDONLY, 0);
        write(w, b"1");
        ok!(SYS_flock, b, LOCK_EX);
        write(w, b"2");
        0
    });
    assert_eq!(read(r, 1), b"1");
    assert_eq!(poll(r, POLLIN, 50), 0);
    ok!(SYS_flock, a, LOCK_UN);
    assert_eq!(read(r, 1), b"2");
    assert_eq!(wait(pid), 0);
}

fn posix_conflict() {
    let fd = temp(c"f", b"0123456789");
    ok!(SYS_fcntl, fd, F_SETLK, &lock(F_WRLCK, 2, 4));
    let me = ok!(SYS_getpid) as i32;
    in_child(|| {
        err!(EAGAIN: SYS_fcntl, fd, F_SETLK, &lock(F_RDLCK, 5, 1));
        err!(EAGAIN: SYS_fcntl, fd, F_SETLK, &lock(F_WRLCK, 0, 0));
        ok!(SYS_fcntl, fd, F_SETLK, &lock(F_WRLCK, 6, 0));
        let mut l = lock(F_WRLCK, 0, 6);
        ok!(SYS_fcntl, fd, F_GETLK, &mut l);
        assert_eq!((i32::from(l.l_type), l.l_start, l.l_len, l.l_pid), (F_WRLCK, 2, 4, me));
        let mut l = lock(F_RDLCK, 0, 2);
        ok!(SYS_fcntl, fd, F_GETLK, &mut l);
        assert_eq!((i32::from(l.l_type), l.l_start, l.l_len), (F_UNLCK, 0, 2));
    });
    // One's own locks are never in the way.
    let mut l = lock(F_WRLCK, 0, 0);
    ok!(SYS_fcntl, fd, F_GETLK, &mut l);
    assert_eq!(i32::from(l.l_type), F_UNLCK);
}

/// What another process sees of the locks, byte by byte of ten.
fn picture(fd: i32) {
    use std::io::Write;
    let _ = std::io::stdout().flush();
    in_child(|| {
        let mut line = String::new();
        for i in 0..10 {
            let mut l = lock(F_WRLCK, i, 1);
            ok!(SYS_fcntl, fd, F_GETLK, &mut l);
            line.push(match i32::from(l.l_type) {
                F_RDLCK => 'r',
                F_WRLCK => 'w',
                _ => '-',
            });
        }
        println!("{line}");
    });
}

fn posix_split_and_merge() {
    let fd = temp(c"f", b"0123456789");
    ok!(SYS_fcntl, fd, F_SETLK, &lock(F_WRLCK, 0, 10));
    picture(fd);
    ok!(SYS_fcntl, fd, F_SETLK, &lock(F_UNLCK, 3, 2));
    picture(fd);
    ok!(SYS_fcntl, fd, F_SETLK, &lock(F_RDLCK, 4, 4));
    picture(fd);
    ok!(SYS_fcntl, fd, F_SETLK, &lock(F_WRLCK, 5, 1));
    picture(fd);
    ok!(SYS_fcntl, fd, F_SETLK, &lock(F_RDLCK, 0, 0));
    picture(fd);
    in_child(|| {
        let mut l = lock(F_WRLCK, 5, 1);
        ok!(SYS_fcntl, fd, F_GETLK, &mut l);
        assert_eq!((l.l_start, l.l_len), (0, 0), "merged into one up to the end");
    });
    ok!(SYS_fcntl, fd, F_SETLK, &lock(F_UNLCK, 0, 0));
    picture(fd);
}

fn posix_released_by_any_close() {
    let fd = temp(c"f", b"");
    ok!(SYS_fcntl, fd, F_SETLK, &lock(F_WRLCK, 0, 0));
    close(open(c"f", O_RDONLY, 0));
    in_child(|| {
        ok!(SYS_fcntl, fd, F_SETLK, &lock(F_WRLCK, 0, 0));
    });
}

fn posix_not_inherited() {
    let fd = temp(c"f", b"");
    ok!(SYS_fcntl, fd, F_SETLK, &lock(F_WRLCK, 0, 0));
    in_child(|| {
        err!(EAGAIN: SYS_fcntl, fd, F_SETLK, &lock(F_WRLCK, 0, 0));
        ok!(SYS_fcntl, fd, F_SETLK, &lock(F_UNLCK, 0, 0));
        err!(EAGAIN: SYS_fcntl, fd, F_SETLK, &lock(F_WRLCK, 0, 0));
    });
}

fn posix_errors() {
    file(c"f", b"");
    let r = open(c"f", O_RDONLY, 0);
    let w = open(c"f", O_WRONLY, 0);
    err!(EBADF: SYS_fcntl, r, F_SETLK, &lock(F_WRLCK, 0, 0));
    err!(EBADF: SYS_fcntl, w, F_SETLK, &lock(F_RDLCK, 0, 0));
    err!(EINVAL: SYS_fcntl, w, F_SETLK, &lock(77, 0, 0));
    err!(EINVAL: SYS_fcntl, w, F_SETLK, &lock(F_WRLCK, -1, 1));
    err!(EINVAL: SYS_fcntl, w, F_SETLK, &lock(F_WRLCK, 0, -1));
    err!(EINVAL: SYS_fcntl, w, F_GETLK, &lock(F_UNLCK, 0, 1));
    err!(EOVERFLOW: SYS_fcntl, w, F_SETLK, &lock(F_WRLCK, i64::MAX, 2));
    err!(EFAULT: SYS_fcntl, w, F_SETLK, crate::sys::BAD);
    err!(EBADF: SYS_fcntl, 999, F_SETLK, crate::sys::BAD);
    // A negative length counts backwards.
    ok!(SYS_fcntl, w, F_SETLK, &lock(F_WRLCK, 5, -3));
    in_child(|| {
        let mut l = lock(F_WRLCK, 0, 0);
        ok!(SYS_fcntl, w, F_GETLK, &mut l);
        assert_eq!((l.l_start, l.l_len), (2, 3));
    });
}

fn posix_blocks_and_interrupts() {
    let fd = temp(c"f", b"");
    ok!(SYS_fcntl, fd, F_SETLK, &lock(F_WRLCK, 0, 0));
    let (r, w) = pipe(0);
    let pid = fork(|| {
        on(SIGUSR1, 0);
        write(w, b"1");
        err!(EINTR: SYS_fcntl, fd, F_SETLKW, &lock(F_WRLCK, 0, 0));
        write(w, b"2");
        ok!(SYS_fcntl, fd, F_SETLKW, &lock(F_WRLCK, 0, 0));
        write(w, b"3");
        0
    });
    assert_eq!(read(r, 1), b"1");
    assert!(asleep(pid, 0));
    ok!(SYS_kill, pid, SIGUSR1);
    assert_eq!(read(r, 1), b"2");
    assert_eq!(poll(r, POLLIN, 30), 0);
    ok!(SYS_fcntl, fd, F_SETLK, &lock(F_UNLCK, 0, 0));
    assert_eq!(read(r, 1), b"3");
    assert_eq!(wait(pid), 0);
}

fn posix_deadlock() {
    let fd = temp(c"f", b"");
    ok!(SYS_fcntl, fd, F_SETLK, &lock(F_WRLCK, 0, 1));
    let (r, w) = pipe(0);
    let pid = fork(|| {
        ok!(SYS_fcntl, fd, F_SETLK, &lock(F_WRLCK, 1, 1));
        write(w, b"1");
        ok!(SYS_fcntl, fd, F_SETLKW, &lock(F_WRLCK, 0, 1));
        0
    });
    assert_eq!(read(r, 1), b"1");
    assert!(asleep(pid, 0));
    err!(EDEADLK: SYS_fcntl, fd, F_SETLKW, &lock(F_WRLCK, 1, 1));
    ok!(SYS_fcntl, fd, F_SETLK, &lock(F_UNLCK, 0, 1));
    assert_eq!(wait(pid), 0);
}

fn posix_whence() {
    let fd = temp(c"f", b"0123456789");
    ok!(SYS_lseek, fd, 3, SEEK_SET);
    let mut l = lock(F_WRLCK, 1, 2);
    l.l_whence = SEEK_CUR as i16;
    ok!(SYS_fcntl, fd, F_SETLK, &l);
    l = lock(F_WRLCK, -2, 0);
    l.l_whence = SEEK_END as i16;
    ok!(SYS_fcntl, fd, F_SETLK, &l);
    picture(fd);
    l.l_whence = 9;
    err!(EINVAL: SYS_fcntl, fd, F_SETLK, &l);
}

fn ofd_locks() {
    let a = temp(c"f", b"");
    let b = open(c"f", O_RDWR, 0);
    ok!(SYS_fcntl, a, F_OFD_SETLK, &lock(F_WRLCK, 0, 10));
    err!(EAGAIN: SYS_fcntl, b, F_OFD_SETLK, &lock(F_WRLCK, 5, 1));
    let mut l = lock(F_WRLCK, 0, 0);
    ok!(SYS_fcntl, b, F_OFD_GETLK, &mut l);
    assert_eq!((l.l_start, l.l_len, l.l_pid), (0, 10, -1));
    l.l_pid = 1;
    err!(EINVAL: SYS_fcntl, b, F_OFD_SETLK, &l);
    // Closing another description does not release it, and children share it.
    close(open(c"f", O_RDONLY, 0));
    in_child(|| {
        ok!(SYS_fcntl, a, F_OFD_SETLK, &lock(F_WRLCK, 0, 10));
    });
    err!(EAGAIN: SYS_fcntl, b, F_OFD_SETLK, &lock(F_RDLCK, 5, 1));
    close(a);
    ok!(SYS_fcntl, b, F_OFD_SETLK, &lock(F_WRLCK, 5, 1));
}

fn ofd_and_posix_conflict() {
    let a = temp(c"f", b"");
    ok!(SYS_fcntl, a, F_SETLK, &lock(F_WRLCK, 0, 0));
    err!(EAGAIN: SYS_fcntl, a, F_OFD_SETLK, &lock(F_WRLCK, 0, 0));
    // flock is another world.
    ok!(SYS_flock, a, LOCK_EX | LOCK_NB);
}

fn locks_end_with_process() {
    let fd = temp(c"f", b"");
    let (r, w) = pipe(0);
    let pid = fork(|| {
        ok!(SYS_fcntl, fd, F_SETLK, &lock(F_WRLCK, 0, 0));
        write(w, b"1");
        loop {
            nap(1000);
        }
    });
    read(r, 1);
    err!(EAGAIN: SYS_fcntl, fd, F_SETLK, &lock(F_WRLCK, 0, 0));
    ok!(SYS_kill, pid, SIGKILL);
    wait(pid);
    ok!(SYS_fcntl, fd, F_SETLK, &lock(F_WRLCK, 0, 0));
}
