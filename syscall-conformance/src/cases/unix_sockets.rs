//! Unix sockets: streams, datagrams, names, ancillary data.

use crate::helpers::*;
use crate::sys::BAD;

cases![
    pair_stream,
    pair_datagram,
    pair_seqpacket,
    pair_errors,
    socket_errors,
    bind_and_connect,
    listener_outlives_what_it_accepted,
    abstract_names,
    bind_errors,
    connect_errors,
    listen_and_backlog,
    accept_forms,
    datagram_by_name,
    names_of_sockets,
    shutdown_forms,
    peer_closes,
    message_flags,
    peek_and_waitall,
    pass_descriptors,
    pass_descriptor_limits,
    pass_descriptor_lost,
    pass_credentials,
    peer_credentials,
    socket_options,
    buffer_full,
    timeouts,
    sendmmsg_recvmmsg,
    scatter_gather,
    descriptor_of_socket_in_flight,
    inet_basics,
];

fn address(path: &[u8]) -> (sockaddr_un, u32) {
    let mut a: sockaddr_un = zeroed();
    a.sun_family = AF_UNIX as u16;
    for (d, s) in a.sun_path.iter_mut().zip(path) {
        *d = *s as c_char;
    }
    (a, 2 + path.len() as u32)
}

fn socket(kind: i32) -> i32 {
    ok!(SYS_socket, AF_UNIX, kind, 0) as i32
}

#[track_caller]
fn listener(path: &[u8], kind: i32) -> i32 {
    let s = socket(kind);
    let (a, n) = address(path);
    ok!(SYS_bind, s, &a, n);
    ok!(SYS_listen, s, 5);
    s
}

fn connect(s: i32, path: &[u8]) -> Result<usize, i32> {
    let (a, n) = address(path);
    sys!(SYS_connect, s, &a, n)
}

fn recv(s: i32, max: usize, flags: i32) -> Result<Vec<u8>, i32> {
    let mut b = vec![0u8; max];
    let n = sys!(SYS_recvfrom, s, &mut b[..], max, flags, 0, 0)?;
    b.truncate(n);
    Ok(b)
}

fn send(s: i32, data: &[u8], flags: i32) -> Result<usize, i32> {
    sys!(SYS_sendto, s, data, data.len(), flags, 0, 0)
}

fn pair_stream() {
    let (a, b) = socketpair(SOCK_STREAM);
    write(a, b"one");
    write(a, b"two");
    assert_eq!(read(b, 4), b"onet");
    assert_eq!(read(b, 9), b"wo");
    write(b, b"back");
    assert_eq!(recv(a, 9, 0).unwrap(), b"back");
    close(a);
    assert_eq!(read(b, 9), b"");
    assert_eq!(send(b, b"x", MSG_NOSIGNAL), Err(EPIPE));
}

fn pair_datagram() {
    let (a, b) = socketpair(SOCK_DGRAM);
    write(a, b"one");
    write(a, b"");
    write(a, b"three");
    assert_eq!(read(b, 9), b"one");
    assert_eq!(read(b, 9), b"");
    assert_eq!(read(b, 2), b"th");
    assert_eq!(recv(b, 9, MSG_DONTWAIT), Err(EAGAIN));
    write(a, b"four");
    // MSG_TRUNC gives the real length.
    let mut small = [0u8; 2];
    assert_eq!(ok!(SYS_recvfrom, b, &mut small, 2, MSG_TRUNC, 0, 0), 4);
    close(a);
    assert_eq!(send(b, b"x", MSG_NOSIGNAL), Err(ECONNREFUSED));
}

fn pair_seqpacket() {
    let (a, b) = socketpair(SOCK_SEQPACKET);
    write(a, b"one");
    write(a, b"two");
    assert_eq!(read(b, 2), b"on");
    assert_eq!(read(b, 9), b"two");
    close(a);
    assert_eq!(read(b, 9), b"");
    assert_eq!(send(b, b"x", MSG_NOSIGNAL), Err(EPIPE));
}

fn pair_errors() {
    let mut fds = [0i32; 2];
    err!(EOPNOTSUPP: SYS_socketpair, AF_INET, SOCK_STREAM, 0, &mut fds);
    err!(ESOCKTNOSUPPORT: SYS_socketpair, AF_UNIX, SOCK_RDM, 0, &mut fds);
    err!(EPROTONOSUPPORT: SYS_socketpair, AF_UNIX, SOCK_STREAM, 5, &mut fds);
    err!(EFAULT: SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, BAD);
    err!(EINVAL: SYS_socketpair, AF_UNIX, SOCK_STREAM | 0x10000, 0, &mut fds);
    ok!(SYS_socketpair, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 1, &mut fds);
    assert_eq!(ok!(SYS_fcntl, fds[0], F_GETFD, 0), 1);
    err!(EAGAIN: SYS_read, fds[0], &mut [0u8; 1], 1);
}

fn socket_errors() {
    err!(EAFNOSUPPORT: SYS_socket, 99, SOCK_STREAM, 0);
    err!(EAFNOSUPPORT: SYS_socket, -1, SOCK_STREAM, 0);
    err!(EINVAL: SYS_socket, AF_UNIX, 99, 0);
    err!(EINVAL: SYS_socket, AF_UNIX, 0x10000, 0);
    err!(EPROTONOSUPPORT: SYS_socket, AF_UNIX, SOCK_STREAM, 77);
    err!(ENOTSOCK: SYS_listen, 0, 1);
    err!(EBADF: SYS_listen, 999, 1);
    err!(ENOTSOCK: SYS_getsockname, pipe(0).0, 0, 0);
    err!(ENOTSOCK: SYS_sendto, temp(c"f", b""), b"x", 1, 0, 0, 0);
    // A raw Unix socket is a datagram one.
    ok!(SYS_socket, AF_UNIX, SOCK_RAW, 0);
}

fn bind_and_connect() {
    let l = listener(b"sock\0", SOCK_STREAM);
    assert_eq!(lstat(c"sock").st_mode & S_IFMT, S_IFSOCK);
    let c = socket(SOCK_STREAM);
    connect(c, b"sock\0").unwrap();
    write(c, b"early");
    let s = ok!(SYS_accept, l, 0, 0) as i32;
    assert_eq!(read(s, 9), b"early");
    write(s, b"hi");
    assert_eq!(read(c, 9), b"hi");
    assert_eq!(connect(c, b"sock\0"), Err(EISCONN));
    err!(EINVAL: SYS_listen, c, 5);
    // The name outlives the socket, and nobody listens.
    close(l);
    assert_eq!(connect(socket(SOCK_STREAM), b"sock\0"), Err(ECONNREFUSED));
    ok!(SYS_unlink, c"sock");
    assert_eq!(connect(socket(SOCK_STREAM), b"sock\0"), Err(ENOENT));
}

fn listener_outlives_what_it_accepted() {
    for name in [b"sock\0".to_vec(), hidden()] {
        let l = listener(&name, SOCK_STREAM);
        for _ in 0..3 {
            let c = socket(SOCK_STREAM);
            connect(c, &name).unwrap();
            close(ok!(SYS_accept, l, 0, 0) as i32);
            close(c);
        }
        // Those that nobody accepted do not take the name along either.
        let unaccepted = socket(SOCK_STREAM);
        connect(unaccepted, &name).unwrap();
        close(unaccepted);
        connect(socket(SOCK_STREAM), &name).unwrap();
    }
    // The name of a dead socket's file is another's by now.
    let old = listener(b"file\0", SOCK_STREAM);
    ok!(SYS_unlink, c"file");
    let _new = listener(b"file\0", SOCK_STREAM);
    close(old);
    connect(socket(SOCK_STREAM), b"file\0").unwrap();
}

/// A name in the abstract space that nothing else uses.
fn hidden() -> Vec<u8> {
    format!("\0rsentry-case-{}", ok!(SYS_getpid)).into_bytes()
}

fn abstract_names() {
    let l = listener(&hidden(), SOCK_STREAM);
    let c = socket(SOCK_STREAM);
    connect(c, &hidden()).unwrap();
    let (a, n) = address(&hidden());
    err!(EADDRINUSE: SYS_bind, socket(SOCK_STREAM), &a, n);
    // Zeroes at the end are part of the name.
    let mut longer = hidden();
    longer.push(0);
    assert_eq!(connect(socket(SOCK_STREAM), &longer), Err(ECONNREFUSED));
    close(l);
    let l = listener(&hidden(), SOCK_STREAM);
    close(l);
    // Binding to an empty name makes one up.
    let s = socket(SOCK_STREAM);
    ok!(SYS_bind, s, &a, 2);
    let (mut a, mut n) = (address(b"").0, 110u32);
    ok!(SYS_getsockname, s, &mut a, &mut n);
    assert_eq!((n, a.sun_path[0]), (8, 0));
}

fn bind_errors() {
    let s = socket(SOCK_STREAM);
    let (a, n) = address(b"sock\0");
    err!(EINVAL: SYS_bind, s, &a, 200);
    err!(EINVAL: SYS_bind, s, &a, 1);
    err!(EFAULT: SYS_bind, s, BAD, n);
    let mut wrong = a;
    wrong.sun_family = AF_INET as u16;
    err!(EINVAL: SYS_bind, s, &wrong, n);
    let (no, k) = address(b"no/sock\0");
    err!(ENOENT: SYS_bind, s, &no, k);
    ok!(SYS_bind, s, &a, n);
    let (other, k) = address(b"other\0");
    err!(EINVAL: SYS_bind, s, &other, k);
    err!(EADDRINUSE: SYS_bind, socket(SOCK_STREAM), &a, n);
    file(c"f", b"");
    let (f, k) = address(b"f\0");
    err!(EADDRINUSE: SYS_bind, socket(SOCK_STREAM), &f, k);
}

fn connect_errors() {
    file(c"f", b"");
    let l = listener(b"sock\0", SOCK_STREAM);
    let s = socket(SOCK_STREAM);
    assert_eq!(connect(s, b"f\0"), Err(ECONNREFUSED));
    assert_eq!(connect(s, b"no\0"), Err(ENOENT));
    assert_eq!(connect(socket(SOCK_DGRAM), b"sock\0"), Err(EPROTOTYPE));
    assert_eq!(connect(socket(SOCK_SEQPACKET), b"sock\0"), Err(EPROTOTYPE));
    assert_eq!(connect(l, b"sock\0"), Err(EINVAL));
    err!(ENOTCONN: SYS_getpeername, s, &mut [0u8; 110], &mut 110u32);
    assert_eq!(send(s, b"x", MSG_NOSIGNAL), Err(ENOTCONN));
    assert_eq!(recv(s, 1, 0), Err(EINVAL));
    ok!(SYS_chmod, c"sock", 0);
    need_unprivileged();
    assert_eq!(connect(s, b"sock\0"), Err(EACCES));
}

fn listen_and_backlog() {
    let s = socket(SOCK_STREAM);
    err!(EINVAL: SYS_listen, s, 5);
    err!(EINVAL: SYS_accept, s, 0, 0);
    err!(EOPNOTSUPP: SYS_listen, socket(SOCK_DGRAM), 5);
    err!(EOPNOTSUPP: SYS_accept, socket(SOCK_DGRAM), 0, 0);
    let (a, n) = address(b"sock\0");
    ok!(SYS_bind, s, &a, n);
    ok!(SYS_listen, s, 1);
    let mut waiting = Vec::new();
    let e = loop {
        let c = socket(SOCK_STREAM | SOCK_NONBLOCK);
        match connect(c, b"sock\0") {
            Ok(_) => waiting.push(c),
            Err(e) => break e,
        }
        assert!(waiting.len() < 10);
    };
    assert_eq!((waiting.len(), e), (2, EAGAIN));
    assert_eq!(poll(s, POLLIN, 0), POLLIN);
    ok!(SYS_accept, s, 0, 0);
    connect(socket(SOCK_STREAM | SOCK_NONBLOCK), b"sock\0").unwrap();
    // A blocking connect waits for a place.
    let pid = fork(|| i32::from(connect(socket(SOCK_STREAM), b"sock\0").is_err()));
    nap(30);
    ok!(SYS_accept, s, 0, 0);
    assert_eq!(wait(pid), 0);
}

fn accept_forms() {
    let l = listener(b"sock\0", SOCK_STREAM);
    ok!(SYS_fcntl, l, F_SETFL, O_NONBLOCK);
    err!(EAGAIN: SYS_accept, l, 0, 0);
    err!(EINVAL: SYS_accept4, l, 0, 0, 1);
    let c = socket(SOCK_STREAM);
    connect(c, b"sock\0").unwrap();
    let (mut a, mut n) = (address(b"").0, 110u32);
    let s = ok!(SYS_accept4, l, &mut a, &mut n, SOCK_NONBLOCK | SOCK_CLOEXEC) as i32;
    assert_eq!((n, a.sun_family), (2, AF_UNIX as u16));
    assert_eq!(ok!(SYS_fcntl, s, F_GETFD, 0), 1);
    err!(EAGAIN: SYS_read, s, &mut [0u8; 1], 1);
    let pid = fork(|| {
        nap(30);
        i32::from(connect(socket(SOCK_STREAM), b"sock\0").is_err())
    });
    ok!(SYS_fcntl, l, F_SETFL, 0);
    ok!(SYS_accept, l, 0, 0);
    wait(pid);
}

fn datagram_by_name() {
    let s = socket(SOCK_DGRAM);
    let (a, n) = address(b"one\0");
    ok!(SYS_bind, s, &a, n);
    let c = socket(SOCK_DGRAM);
    let (b, m) = address(b"two\0");
    ok!(SYS_bind, c, &b, m);
    ok!(SYS_sendto, c, b"hello", 5, 0, &a, n);
    let (mut from, mut k) = (address(b"").0, 110u32);
    let mut data = [0u8; 9];
    assert_eq!(ok!(SYS_recvfrom, s, &mut data, 9, 0, &mut from, &mut k), 5);
    assert_eq!((k, &from.sun_path[..4]), (6, &b.sun_path[..4]));
    err!(ENOTCONN: SYS_sendto, c, b"x", 1, 0, 0, 0);
    ok!(SYS_connect, c, &a, n);
    write(c, b"connected");
    assert_eq!(read(s, 9), b"connected");
    // A connected datagram socket hears its peer only.
    let other = socket(SOCK_DGRAM);
    ok!(SYS_connect, s, &b, m);
    err!(EPERM: SYS_sendto, other, b"x", 1, 0, &a, n);
    let (gone, k) = address(b"gone\0");
    err!(ENOENT: SYS_sendto, other, b"x", 1, 0, &gone, k);
}

fn names_of_sockets() {
    let l = listener(b"sock\0", SOCK_STREAM);
    let c = socket(SOCK_STREAM);
    connect(c, b"sock\0").unwrap();
    let s = ok!(SYS_accept, l, 0, 0) as i32;
    for fd in [l, c, s] {
        let (mut a, mut n) = (address(b"").0, 110u32);
        ok!(SYS_getsockname, fd, &mut a, &mut n);
        let (mut p, mut m) = (address(b"").0, 110u32);
        let peer = sys!(SYS_getpeername, fd, &mut p, &mut m).err();
        println!("{n} {peer:?} {m}");
    }
    // A short buffer is filled as far as it goes; the length is the real one.
    let (mut a, mut n) = (address(b"").0, 4u32);
    ok!(SYS_getsockname, l, &mut a, &mut n);
    assert_eq!((n, a.sun_path[1], a.sun_path[2]), (7, b'o' as c_char, 0));
    err!(EINVAL: SYS_getsockname, l, &mut a, &mut -1i32);
    err!(EFAULT: SYS_getsockname, l, &mut a, BAD);
}

fn shutdown_forms() {
    let (a, b) = socketpair(SOCK_STREAM);
    err!(EINVAL: SYS_shutdown, a, 3);
    write(a, b"last");
    ok!(SYS_shutdown, a, SHUT_WR);
    assert_eq!(send(a, b"x", MSG_NOSIGNAL), Err(EPIPE));
    assert_eq!(read(b, 9), b"last");
    assert_eq!(read(b, 9), b"");
    write(b, b"still");
    assert_eq!(read(a, 9), b"still");
    assert_eq!(poll(b, POLLIN | POLLRDHUP, 0), POLLIN | POLLRDHUP);
    ok!(SYS_shutdown, a, SHUT_RD);
    assert_eq!(read(a, 9), b"");
    assert_eq!(send(b, b"x", MSG_NOSIGNAL), Err(EPIPE));
}

fn peer_closes() {
    let (a, b) = socketpair(SOCK_STREAM);
    write(a, b"unread by b");
    write(b, b"unread by a");
    close(b);
    // Data that b never read makes it a reset, once what it sent is read.
    assert_eq!(recv(a, 99, 0).unwrap(), b"unread by a");
    assert_eq!(recv(a, 99, 0), Err(ECONNRESET));
    let (a, b) = socketpair(SOCK_STREAM);
    write(b, b"rest");
    close(b);
    assert_eq!(recv(a, 99, 0).unwrap(), b"rest");
    assert_eq!(recv(a, 99, 0).unwrap(), b"");
    on(SIGPIPE, 0);
    err!(EPIPE: SYS_write, a, b"x", 1);
    assert_eq!(count(SIGPIPE), 1);
}

fn message_flags() {
    let (a, b) = socketpair(SOCK_DGRAM);
    assert_eq!(recv(b, 9, MSG_DONTWAIT), Err(EAGAIN));
    write(a, b"datagram");
    let mut small = [0u8; 3];
    let v = iovec { iov_base: small.as_mut_ptr().cast(), iov_len: 3 };
    let mut h: msghdr = zeroed();
    h.msg_iov = (&raw const v).cast_mut();
    h.msg_iovlen = 1;
    assert_eq!(ok!(SYS_recvmsg, b, &mut h, 0), 3);
    assert_eq!(h.msg_flags & MSG_TRUNC, MSG_TRUNC);
    h.msg_iovlen = 1025;
    err!(EMSGSIZE: SYS_recvmsg, b, &mut h, 0);
    err!(EMSGSIZE: SYS_sendmsg, a, &h, 0);
    err!(EFAULT: SYS_sendmsg, a, BAD, 0);
    assert_eq!(send(a, b"x", MSG_OOB), Err(EOPNOTSUPP));
}

fn peek_and_waitall() {
    let (a, b) = socketpair(SOCK_STREAM);
    write(a, b"peek");
    assert_eq!(recv(b, 2, MSG_PEEK).unwrap(), b"pe");
    assert_eq!(recv(b, 9, MSG_PEEK).unwrap(), b"peek");
    assert_eq!(recv(b, 9, 0).unwrap(), b"peek");
    let pid = fork(|| {
        write(a, b"one");
        nap(20);
        write(a, b"two");
        0
    });
    assert_eq!(recv(b, 6, MSG_WAITALL).unwrap(), b"onetwo");
    wait(pid);
    let mut n = 0i32;
    write(a, b"12345");
    ok!(SYS_ioctl, b, FIONREAD, &mut n);
    assert_eq!(n, 5);
}

/// Sends a byte with descriptors.
fn send_fds(s: i32, fds: &[i32]) -> Result<usize, i32> {
    let mut control = vec![0u64; 2 + fds.len().div_ceil(2)];
    control[0] = 16 + 4 * fds.len() as u64;
    control[1] = SOL_SOCKET as u64 | (SCM_RIGHTS as u64) << 32;
    // SAFETY: the buffer has room for the descriptors behind its header.
    unsafe {
        std::ptr::copy_nonoverlapping(fds.as_ptr(), control.as_mut_ptr().add(2).cast(), fds.len());
    }
    let byte = [b'f'];
    let v = iovec { iov_base: byte.as_ptr() as *mut c_void, iov_len: 1 };
    let mut h: msghdr = zeroed();
    h.msg_iov = (&raw const v).cast_mut();
    h.msg_iovlen = 1;
    h.msg_control = control.as_mut_ptr().cast();
    h.msg_controllen = 16 + 4 * fds.len();
    sys!(SYS_sendmsg, s, &h, 0)
}

/// Receives a byte with descriptors; also the message's flags.
fn recv_fds(s: i32, room: usize, flags: i32) -> (Vec<i32>, i32) {
    let mut control = vec![0u64; 2 + room.div_ceil(2)];
    let mut byte = [0u8];
    let v = iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut h: msghdr = zeroed();
    h.msg_iov = (&raw const v).cast_mut();
    h.msg_iovlen = 1;
    h.msg_control = control.as_mut_ptr().cast();
    h.msg_controllen = 16 + 4 * room;
    ok!(SYS_recvmsg, s, &mut h, flags);
    let mut fds = Vec::new();
    if h.msg_controllen >= 16 {
        let n = (control[0] as usize - 16) / 4;
        for i in 0..n {
            // SAFETY: within the buffer the kernel filled.
            fds.push(unsafe { *control.as_ptr().add(2).cast::<i32>().add(i) });
        }
    }
    (fds, h.msg_flags)
}

fn pass_descriptors() {
    let (a, b) = socketpair(SOCK_STREAM);
    let fd = temp(c"f", b"0123456789");
    read(fd, 3);
    send_fds(a, &[fd, pipe(0).0]).unwrap();
    let (got, flags) = recv_fds(b, 2, 0);
    assert_eq!((got.len(), flags), (2, 0));
    // The same open file, with its offset.
    assert_eq!(read(got[0], 2), b"34");
    assert_eq!(ok!(SYS_lseek, fd, 0, SEEK_CUR), 5);
    assert_eq!(ok!(SYS_fcntl, got[0], F_GETFD, 0), 0);
    send_fds(a, &[fd]).unwrap();
    let (got, _) = recv_fds(b, 2, MSG_CMSG_CLOEXEC);
    assert_eq!(ok!(SYS_fcntl, got[0], F_GETFD, 0), 1);
    // Across fork, and of a closed descriptor.
    let pid = fork(|| {
        let secret = temp(c"g", b"secret");
        send_fds(a, &[secret]).unwrap();
        close(secret);
        0
    });
    wait(pid);
    let (got, _) = recv_fds(b, 1, 0);
    assert_eq!(read(got[0], 9), b"secret");
}

fn pass_descriptor_limits() {
    let (a, b) = socketpair(SOCK_STREAM);
    assert_eq!(send_fds(a, &[999]), Err(EBADF));
    assert_eq!(send_fds(a, &[a; 254]), Err(EINVAL));
    send_fds(a, &[0; 253]).unwrap();
    let (got, flags) = recv_fds(b, 253, 0);
    assert_eq!((got.len(), flags), (253, 0));
    for fd in got {
        close(fd);
    }
    // Too small a buffer loses the rest, and says so.
    send_fds(a, &[0, 0, 0]).unwrap();
    let before = open(c".", O_RDONLY, 0);
    let (got, flags) = recv_fds(b, 1, 0);
    assert_eq!((got.len(), flags), (1, MSG_CTRUNC));
    assert_eq!(got[0], before + 1);
    assert_eq!(open(c".", O_RDONLY, 0), before + 2, "nothing else was installed");
}

fn pass_descriptor_lost() {
    let (a, b) = socketpair(SOCK_STREAM);
    let (r, w) = pipe(0);
    send_fds(a, &[w]).unwrap();
    close(w);
    assert_eq!(poll(r, POLLIN, 0), 0);
    // Read without room for it: the descriptor is closed with the message.
    assert_eq!(read(b, 1), b"f");
    assert_eq!(read(r, 1), b"");
    let (r, w) = pipe(0);
    send_fds(a, &[w]).unwrap();
    close(w);
    close(a);
    close(b);
    assert_eq!(read(r, 1), b"");
}

fn pass_credentials() {
    let (a, b) = socketpair(SOCK_DGRAM);
    ok!(SYS_setsockopt, b, SOL_SOCKET, SO_PASSCRED, &1i32, 4);
    let pid = fork(|| {
        write(a, b"x");
        0
    });
    wait(pid);
    let mut control = [0u32; 16];
    let mut byte = [0u8];
    let v = iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut h: msghdr = zeroed();
    h.msg_iov = (&raw const v).cast_mut();
    h.msg_iovlen = 1;
    h.msg_control = control.as_mut_ptr().cast();
    h.msg_controllen = 64;
    ok!(SYS_recvmsg, b, &mut h, 0);
    assert_eq!((control[0], control[2], control[3]), (28, SOL_SOCKET as u32, SCM_CREDENTIALS as u32));
    assert_eq!((control[4], control[5] as usize), (pid as u32, ok!(SYS_getuid)));
}

fn peer_credentials() {
    let (a, _b) = socketpair(SOCK_STREAM);
    let mut cred = [0u32; 3];
    let mut n = 12u32;
    ok!(SYS_getsockopt, a, SOL_SOCKET, SO_PEERCRED, &mut cred, &mut n);
    assert_eq!((cred[0] as usize, cred[1] as usize, n), (ok!(SYS_getpid), ok!(SYS_geteuid), 12));
    let l = listener(b"sock\0", SOCK_STREAM);
    let pid = fork(|| {
        let c = socket(SOCK_STREAM);
        connect(c, b"sock\0").unwrap();
        read(c, 1);
        0
    });
    let s = ok!(SYS_accept, l, 0, 0) as i32;
    ok!(SYS_getsockopt, s, SOL_SOCKET, SO_PEERCRED, &mut cred, &mut n);
    assert_eq!(cred[0], pid as u32);
    write(s, b"x");
    wait(pid);
}

fn option(s: i32, name: i32) -> i32 {
    let (mut v, mut n) = (-1i32, 4u32);
    ok!(SYS_getsockopt, s, SOL_SOCKET, name, &mut v, &mut n);
    assert_eq!(n, 4);
    v
}

fn socket_options() {
    let s = socket(SOCK_STREAM);
    assert_eq!(option(s, SO_TYPE), SOCK_STREAM);
    assert_eq!(option(s, SO_DOMAIN), AF_UNIX);
    assert_eq!(option(s, SO_ERROR), 0);
    assert_eq!(option(s, SO_ACCEPTCONN), 0);
    let (a, n) = address(b"sock\0");
    ok!(SYS_bind, s, &a, n);
    ok!(SYS_listen, s, 1);
    assert_eq!(option(s, SO_ACCEPTCONN), 1);
    ok!(SYS_setsockopt, s, SOL_SOCKET, SO_REUSEADDR, &1i32, 4);
    assert_eq!(option(s, SO_REUSEADDR), 1);
    // The kernel doubles what is asked.
    ok!(SYS_setsockopt, s, SOL_SOCKET, SO_SNDBUF, &10_000i32, 4);
    assert_eq!(option(s, SO_SNDBUF), 20_000);
    err!(ENOPROTOOPT: SYS_setsockopt, s, SOL_SOCKET, 9999, &1i32, 4);
    err!(EINVAL: SYS_setsockopt, s, SOL_SOCKET, SO_REUSEADDR, &1i32, 3);
    err!(EFAULT: SYS_setsockopt, s, SOL_SOCKET, SO_REUSEADDR, BAD, 4);
    err!(ENOPROTOOPT: SYS_getsockopt, s, SOL_SOCKET, 9999, &mut 0i32, &mut 4u32);
    err!(EOPNOTSUPP: SYS_setsockopt, s, IPPROTO_TCP, TCP_NODELAY, &1i32, 4);
    err!(ENOTSOCK: SYS_getsockopt, 0, SOL_SOCKET, SO_TYPE, &mut 0i32, &mut 4u32);
}

fn buffer_full() {
    let (a, b) = socketpair(SOCK_STREAM | SOCK_NONBLOCK);
    let mut n = 0usize;
    loop {
        match sys!(SYS_write, a, &[7u8; 4096], 4096) {
            Ok(k) => n += k,
            Err(e) => {
                assert_eq!(e, EAGAIN);
                break;
            }
        }
        assert!(n < 100 << 20);
    }
    assert!(n >= 65536);
    assert_eq!(poll(a, POLLOUT, 0), 0);
    let mut got = 0;
    while let Ok(k) = sys!(SYS_read, b, &mut [0u8; 65536][..], 65536) {
        got += k;
    }
    assert_eq!(got, n);
    assert_eq!(poll(a, POLLOUT, 0), POLLOUT);
    let (a, _b) = socketpair(SOCK_DGRAM | SOCK_NONBLOCK);
    err!(EMSGSIZE: SYS_write, a, map(64 << 20, PROT_READ), 64 << 20);
    let mut n = 0;
    while sys!(SYS_write, a, b"x", 1).is_ok() {
        n += 1;
        assert!(n < 10_000);
    }
    assert!(n >= 10);
}

fn timeouts() {
    let (a, _b) = socketpair(SOCK_STREAM);
    ok!(SYS_setsockopt, a, SOL_SOCKET, SO_RCVTIMEO, &timeval { tv_sec: 0, tv_usec: 30_000 }, 16);
    let before = mono();
    assert_eq!(recv(a, 1, 0), Err(EAGAIN));
    assert!(mono() - before >= 29_000_000);
    err!(EDOM: SYS_setsockopt, a, SOL_SOCKET, SO_RCVTIMEO, &timeval { tv_sec: 0, tv_usec: 1_000_000 }, 16);
}

fn sendmmsg_recvmmsg() {
    let (a, b) = socketpair(SOCK_DGRAM);
    let parts = [*b"aa", *b"bb", *b"cc"];
    let vs: Vec<iovec> =
        parts.iter().map(|p| iovec { iov_base: p.as_ptr() as *mut c_void, iov_len: 2 }).collect();
    let mut hs: Vec<mmsghdr> = vs
        .iter()
        .map(|v| {
            let mut h: mmsghdr = zeroed();
            h.msg_hdr.msg_iov = std::ptr::from_ref(v).cast_mut();
            h.msg_hdr.msg_iovlen = 1;
            h
        })
        .collect();
    assert_eq!(ok!(SYS_sendmmsg, a, &mut hs[..], 3, 0), 3);
    assert_eq!(hs[2].msg_len, 2);
    let mut room = [[0u8; 4]; 3];
    let vs: Vec<iovec> =
        room.iter_mut().map(|p| iovec { iov_base: p.as_mut_ptr().cast(), iov_len: 4 }).collect();
    for (h, v) in hs.iter_mut().zip(&vs) {
        h.msg_hdr.msg_iov = std::ptr::from_ref(v).cast_mut();
    }
    assert_eq!(ok!(SYS_recvmmsg, b, &mut hs[..], 3, MSG_DONTWAIT, 0), 3);
    assert_eq!(room, [*b"aa\0\0", *b"bb\0\0", *b"cc\0\0"]);
    err!(EAGAIN: SYS_recvmmsg, b, &mut hs[..], 3, MSG_DONTWAIT, 0);
}

fn scatter_gather() {
    let (a, b) = socketpair(SOCK_STREAM);
    let parts = [*b"ab", *b"cd"];
    let v: Vec<iovec> =
        parts.iter().map(|p| iovec { iov_base: p.as_ptr() as *mut c_void, iov_len: 2 }).collect();
    assert_eq!(ok!(SYS_writev, a, &v[..], 2), 4);
    let mut room = [[0u8; 3]; 2];
    let v: Vec<iovec> =
        room.iter_mut().map(|p| iovec { iov_base: p.as_mut_ptr().cast(), iov_len: 3 }).collect();
    assert_eq!(ok!(SYS_readv, b, &v[..], 2), 4);
    assert_eq!(room, [*b"abc", *b"d\0\0"]);
}

fn descriptor_of_socket_in_flight() {
    // Sockets that hold each other in flight must not stop anything.
    for _ in 0..20 {
        let (a, b) = socketpair(SOCK_STREAM);
        send_fds(a, &[b]).unwrap();
        send_fds(b, &[a]).unwrap();
        close(a);
        close(b);
    }
    let (a, b) = socketpair(SOCK_STREAM);
    send_fds(a, &[a, b]).unwrap();
    assert_eq!(recv_fds(b, 2, 0).0.len(), 2);
}

fn inet_basics() {
    let s = match sys!(SYS_socket, AF_INET, SOCK_STREAM, 0) {
        Err(EAFNOSUPPORT) => skip!("no internet sockets"),
        r => r.unwrap() as i32,
    };
    let a = sockaddr_in {
        sin_family: AF_INET as u16,
        sin_port: 0,
        sin_addr: in_addr { s_addr: 0x0100_007f },
        sin_zero: [0; 8],
    };
    ok!(SYS_bind, s, &a, 16);
    ok!(SYS_listen, s, 1);
    let (mut b, mut n) = (a, 16u32);
    ok!(SYS_getsockname, s, &mut b, &mut n);
    assert_ne!(b.sin_port, 0);
    let c = ok!(SYS_socket, AF_INET, SOCK_STREAM, 0) as i32;
    ok!(SYS_connect, c, &b, 16);
    let t = ok!(SYS_accept, s, 0, 0) as i32;
    write(c, b"hello");
    assert_eq!(read(t, 9), b"hello");
}
