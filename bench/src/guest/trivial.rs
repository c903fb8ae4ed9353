//! Calls that do next to nothing: what entering the kernel costs.

use crate::Row;
use crate::timing::{check, each};

/// The rows of this group.
pub(crate) const ROWS: &[Row] = &[
    ("getpid", getpid),
    ("getpid by syscall(2)", getpid_generic),
    ("getppid", getppid),
    ("getppid by syscall(2)", getppid_generic),
    ("fcntl(F_GETFD)", fcntl),
    ("fcntl(F_GETFD) by syscall(2)", fcntl_generic),
    ("clock_gettime", clock_gettime),
    ("clock_gettime by syscall(2)", clock_gettime_generic),
    ("read 1 byte", read_byte),
    ("write 1 byte", write_byte),
    ("futex wake, no waiter", futex_wake),
    ("epoll+eventfd, 3 calls", epoll_eventfd),
];

fn getpid() -> Result<f64, String> {
    // SAFETY: getpid touches no memory; so below.
    Ok(each(|| unsafe {
        std::hint::black_box(libc::getpid());
    }))
}

fn getpid_generic() -> Result<f64, String> {
    // SAFETY: as above.
    Ok(each(|| unsafe {
        std::hint::black_box(libc::syscall(libc::SYS_getpid));
    }))
}

fn getppid() -> Result<f64, String> {
    // SAFETY: as above.
    Ok(each(|| unsafe {
        std::hint::black_box(libc::getppid());
    }))
}

fn getppid_generic() -> Result<f64, String> {
    // SAFETY: as above.
    Ok(each(|| unsafe {
        std::hint::black_box(libc::syscall(libc::SYS_getppid));
    }))
}

/// A call that needs the kernel's own state, so that nothing can answer it on the way there.
fn fcntl() -> Result<f64, String> {
    // SAFETY: no memory is touched; so below.
    Ok(each(|| unsafe {
        check(libc::fcntl(1, libc::F_GETFD));
    }))
}

fn fcntl_generic() -> Result<f64, String> {
    // SAFETY: as above.
    Ok(each(|| unsafe {
        check(libc::syscall(libc::SYS_fcntl, 1, libc::F_GETFD));
    }))
}

fn clock_gettime() -> Result<f64, String> {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid pointer.
    Ok(each(|| unsafe {
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut t);
    }))
}

fn clock_gettime_generic() -> Result<f64, String> {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid pointer.
    Ok(each(|| unsafe {
        check(libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &raw mut t));
    }))
}

fn read_byte() -> Result<f64, String> {
    let mut b = 0u8;
    // SAFETY: valid pointers, a descriptor of our own.
    unsafe {
        let fd = check(libc::open(c"/dev/zero".as_ptr(), libc::O_RDONLY));
        let ns = each(|| {
            check(libc::read(fd, (&raw mut b).cast(), 1));
        });
        libc::close(fd);
        Ok(ns)
    }
}

fn write_byte() -> Result<f64, String> {
    let b = 0u8;
    // SAFETY: as above.
    unsafe {
        let fd = check(libc::open(c"/dev/null".as_ptr(), libc::O_WRONLY));
        let ns = each(|| {
            check(libc::write(fd, (&raw const b).cast(), 1));
        });
        libc::close(fd);
        Ok(ns)
    }
}

fn futex_wake() -> Result<f64, String> {
    let word = 0u32;
    const WAKE_PRIVATE: i32 = 1 | 128;
    // SAFETY: the word outlives the calls.
    Ok(each(|| unsafe {
        check(libc::syscall(libc::SYS_futex, &raw const word, WAKE_PRIVATE, 1, 0, 0, 0));
    }))
}

fn epoll_eventfd() -> Result<f64, String> {
    // SAFETY: valid pointers, descriptors of our own.
    unsafe {
        let ep = check(libc::epoll_create1(0));
        let ev = check(libc::eventfd(0, libc::EFD_NONBLOCK));
        let mut e = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 1 };
        check(libc::epoll_ctl(ep, libc::EPOLL_CTL_ADD, ev, &mut e));
        let mut n = 1u64;
        let ns = each(|| {
            check(libc::write(ev, (&raw const n).cast(), 8));
            check(libc::epoll_wait(ep, &mut e, 1, -1));
            check(libc::read(ev, (&raw mut n).cast(), 8));
        });
        libc::close(ev);
        libc::close(ep);
        Ok(ns)
    }
}
