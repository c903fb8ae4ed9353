//! Two tasks that wake each other: nanoseconds a round trip.

use crate::Row;
use crate::timing::{check, each, many};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// The rows of this group.
pub(crate) const ROWS: &[Row] = &[
    ("pipe ping-pong", pipes),
    ("unix socket ping-pong", unix),
    ("futex ping-pong", futex),
    ("TCP ping-pong", tcp),
    ("TCP connect+accept+close", tcp_connect),
];

fn byte_in(fd: i32) -> bool {
    let mut b = 0u8;
    // SAFETY: a valid pointer.
    unsafe { libc::read(fd, (&raw mut b).cast(), 1) == 1 }
}

fn byte_out(fd: i32) {
    let b = 1u8;
    // SAFETY: a valid pointer.
    unsafe { check(libc::write(fd, (&raw const b).cast(), 1)) };
}

/// Starts a child that answers each byte from `from` with one to `to`, until the end of file.
fn echo(from: i32, to: i32, close: &[i32]) -> i32 {
    // SAFETY: the child uses its descriptors only and leaves.
    unsafe {
        let pid = check(libc::fork());
        if pid == 0 {
            for fd in close {
                libc::close(*fd);
            }
            while byte_in(from) {
                byte_out(to);
            }
            libc::_exit(0);
        }
        pid
    }
}

fn finish(pid: i32, close: &[i32]) {
    // SAFETY: descriptors and a child of ours.
    unsafe {
        for fd in close {
            libc::close(*fd);
        }
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
}

fn round(from: i32, to: i32) -> f64 {
    each(|| {
        byte_out(to);
        assert!(byte_in(from), "the other side is gone");
    })
}

fn pipes() -> Result<f64, String> {
    let (mut a, mut b) = ([0; 2], [0; 2]);
    // SAFETY: room for two descriptors each.
    unsafe {
        check(libc::pipe(a.as_mut_ptr()));
        check(libc::pipe(b.as_mut_ptr()));
    }
    let pid = echo(a[0], b[1], &[a[1], b[0]]);
    let ns = round(b[0], a[1]);
    finish(pid, &[a[0], a[1], b[0], b[1]]);
    Ok(ns)
}

fn unix() -> Result<f64, String> {
    let mut s = [0; 2];
    // SAFETY: room for two descriptors.
    unsafe { check(libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, s.as_mut_ptr())) };
    let pid = echo(s[0], s[0], &[s[1]]);
    let ns = round(s[1], s[1]);
    finish(pid, &[s[0], s[1]]);
    Ok(ns)
}

fn futex() -> Result<f64, String> {
    static WORD: AtomicU32 = AtomicU32::new(0);
    const STOP: u32 = u32::MAX;
    fn call(op: i32, val: u32) {
        // SAFETY: the word is static.
        unsafe { libc::syscall(libc::SYS_futex, WORD.as_ptr(), op | 128, val, 0, 0, 0) };
    }
    /// Hands the word over as `to` and sleeps until it is no longer that.
    fn pass(to: u32) {
        WORD.store(to, SeqCst);
        call(libc::FUTEX_WAKE, 1);
        while WORD.load(SeqCst) == to {
            call(libc::FUTEX_WAIT, to);
        }
    }
    WORD.store(0, SeqCst);
    let other = std::thread::spawn(|| {
        while WORD.load(SeqCst) == 0 {
            call(libc::FUTEX_WAIT, 0);
        }
        while WORD.load(SeqCst) != STOP {
            pass(2);
        }
    });
    let ns = many(|n| {
        for _ in 0..n {
            pass(1);
        }
    });
    WORD.store(STOP, SeqCst);
    call(libc::FUTEX_WAKE, 1);
    other.join().map_err(|_| "the other thread failed".to_string())?;
    Ok(ns)
}

/// A listening socket of the loopback interface, and its address.
fn listener() -> Result<(std::net::TcpListener, std::net::SocketAddr), String> {
    let l = std::net::TcpListener::bind("127.0.0.1:0").map_err(|e| format!("no TCP: {e}"))?;
    let a = l.local_addr().map_err(|e| e.to_string())?;
    Ok((l, a))
}

fn tcp() -> Result<f64, String> {
    use std::os::fd::AsRawFd;
    let (l, a) = listener()?;
    let c = std::net::TcpStream::connect(a).map_err(|e| e.to_string())?;
    let (s, _) = l.accept().map_err(|e| e.to_string())?;
    c.set_nodelay(true).map_err(|e| e.to_string())?;
    s.set_nodelay(true).map_err(|e| e.to_string())?;
    let pid = echo(s.as_raw_fd(), s.as_raw_fd(), &[c.as_raw_fd()]);
    let ns = round(c.as_raw_fd(), c.as_raw_fd());
    drop(c);
    drop(s);
    finish(pid, &[]);
    Ok(ns)
}

fn tcp_connect() -> Result<f64, String> {
    let (l, a) = listener()?;
    let mut failed = None;
    let ns = each(|| {
        let r = std::net::TcpStream::connect(a).and_then(|c| l.accept().map(|s| (c, s)));
        match r {
            Ok((c, (s, _))) => {
                // A reset on close leaves no port in TIME_WAIT.
                let linger = libc::linger { l_onoff: 1, l_linger: 0 };
                use std::os::fd::AsRawFd;
                // SAFETY: a valid pointer and length.
                unsafe {
                    libc::setsockopt(
                        c.as_raw_fd(),
                        libc::SOL_SOCKET,
                        libc::SO_LINGER,
                        (&raw const linger).cast(),
                        size_of::<libc::linger>() as u32,
                    )
                };
                drop(c);
                drop(s);
            }
            Err(e) => failed = Some(e.to_string()),
        }
    });
    failed.map_or(Ok(ns), Err)
}
