use super::*;
use crate::fs::anon::{AnonKind, new_path};
use crate::kernel::{Caps, Credentials};
use crate::net::SocketFile;
use crate::vfs::{FileDescription, OpenFlags};

const ME: Ucred = Ucred { pid: 7, uid: 0, gid: 0 };

fn pair(kind: Kind) -> [Arc<UnixSocket>; 2] {
    UnixSocket::pair(&Arc::default(), kind, ME).unwrap()
}

fn send_with(
    socket: &UnixSocket,
    data: &[u8],
    rights: Vec<Arc<FileDescription>>,
) -> Result<usize, Errno> {
    let mut args = SendArgs {
        flags: MsgFlags::empty(),
        nonblocking: true,
        dest: None,
        rights,
        cred: ME,
        task: None,
    };
    socket.send(&mut IoSrc::kernel(data), &mut args)
}

fn send(socket: &UnixSocket, data: &[u8]) -> Result<usize, Errno> {
    send_with(socket, data, Vec::new())
}

fn recv_flags(
    socket: &UnixSocket,
    len: usize,
    flags: MsgFlags,
) -> Result<(Vec<u8>, Received), Errno> {
    let mut buf = vec![0; len];
    let mut out = Received::default();
    let args = RecvArgs { flags, nonblocking: true };
    let n = socket.recv(&mut IoDst::kernel(&mut buf), args, &mut out)?;
    buf.truncate(n);
    Ok((buf, out))
}

fn recv(socket: &UnixSocket, len: usize) -> Result<Vec<u8>, Errno> {
    recv_flags(socket, len, MsgFlags::empty()).map(|r| r.0)
}

fn file(socket: &Arc<UnixSocket>) -> Arc<FileDescription> {
    let cred = Arc::new(Credentials::new(0, 0, &[], Caps::all()));
    let path = new_path(AnonKind::Socket, &cred);
    let ops = SocketFile::for_tests(socket.clone(), ME);
    FileDescription::new(Box::new(ops), path, OpenFlags::RDWR, cred).unwrap()
}

#[test]
fn streams_join_and_split() {
    let [a, b] = pair(Kind::Stream);
    assert_eq!(recv(&b, 1), Err(Errno::EAGAIN));
    assert_eq!((send(&a, b"hello "), send(&a, b"world")), (Ok(6), Ok(5)));
    assert_eq!(recv_flags(&b, 20, MsgFlags::PEEK).unwrap().0, b"hello world");
    assert_eq!(recv(&b, 8), Ok(b"hello wo".to_vec()));
    assert_eq!(b.readable_len(), Ok(3));
    assert_eq!(recv(&b, 8), Ok(b"rld".to_vec()));
    assert_eq!(a.unsent_len(), 0);
}

#[test]
fn packets_stay_apart() {
    for kind in [Kind::Dgram, Kind::SeqPacket] {
        let [a, b] = pair(kind);
        send(&a, b"first").unwrap();
        send(&a, b"").unwrap();
        let (data, out) = recv_flags(&b, 2, MsgFlags::empty()).unwrap();
        assert_eq!((data.as_slice(), out.len, out.flags), (&b"fi"[..], 5, MsgFlags::TRUNC));
        assert_eq!(recv(&b, 9), Ok(vec![]));
        assert_eq!(recv(&b, 9), Err(Errno::EAGAIN));
        assert_eq!(send(&a, &vec![0; 300_000]), Err(Errno::EMSGSIZE));
    }
}

#[test]
fn the_send_buffer_is_a_bound() {
    let [a, b] = pair(Kind::Stream);
    let data = vec![1; 1 << 20];
    let mut total = 0;
    while let Ok(n) = send(&a, &data) {
        total += n;
    }
    assert!(total <= DEFAULT_BUFFER as usize && total > 150_000, "{total}");
    assert!(!a.poll().contains(Events::OUT));
    assert_eq!(recv(&b, 1 << 20).map(|d| d.len()), Ok(total));
    assert!(a.poll().contains(Events::OUT));
}

#[test]
fn closing_and_shutting_down() {
    let [a, b] = pair(Kind::Stream);
    send(&a, b"x").unwrap();
    a.shutdown(Shutdown { read: false, write: true }).unwrap();
    assert_eq!(send(&a, b"x"), Err(Errno::EPIPE));
    assert!(b.poll().contains(Events::RDHUP) && !b.poll().contains(Events::HUP));
    assert_eq!((recv(&b, 9), recv(&b, 9)), (Ok(b"x".to_vec()), Ok(vec![])));
    send(&b, b"unread").unwrap();
    a.release();
    assert!(b.poll().contains(Events::HUP | Events::ERR));
    assert_eq!(recv(&b, 9), Err(Errno::ECONNRESET));
    assert_eq!(recv(&b, 9), Ok(vec![]));
    assert_eq!(send(&b, b"x"), Err(Errno::EPIPE));
}

#[test]
fn files_travel_and_stop_a_read() {
    let [a, b] = pair(Kind::Stream);
    let [c, _d] = pair(Kind::Stream);
    let passenger = file(&c);
    send(&a, b"1").unwrap();
    send_with(&a, b"2", vec![passenger.clone()]).unwrap();
    send(&a, b"3").unwrap();
    let (data, out) = recv_flags(&b, 9, MsgFlags::empty()).unwrap();
    assert_eq!((data.as_slice(), out.rights.len()), (&b"12"[..], 1));
    assert!(Arc::ptr_eq(&out.rights[0], &passenger));
    assert_eq!(recv(&b, 9), Ok(b"3".to_vec()));
}

/// Whether the socket's messages are gone without anybody reading them.
fn is_empty(socket: &UnixSocket) -> bool {
    socket.incoming.lock().messages.is_empty()
}

#[test]
fn circles_of_messages_are_collected() {
    let [a, b] = pair(Kind::Dgram);
    let (file_a, file_b) = (file(&a), file(&b));
    // Each waits in the queue of the other.
    send_with(&a, b"b", vec![file_a.clone()]).unwrap();
    send_with(&b, b"a", vec![file_b.clone()]).unwrap();
    rights::collect();
    assert!(!is_empty(&a) && !is_empty(&b));
    drop(file_a);
    rights::collect();
    assert!(!is_empty(&a) && !is_empty(&b), "file_b still reaches all");
    let weak = Arc::downgrade(&file_b);
    drop(file_b);
    rights::collect();
    assert!(is_empty(&a) && is_empty(&b));
    assert_eq!(weak.strong_count(), 0);
}

#[test]
fn deep_chains_do_not_use_the_stack() {
    let [first, keep] = pair(Kind::Dgram);
    let mut last = file(&first);
    let mut ends = vec![keep];
    for _ in 0..10_000 {
        let [a, b] = pair(Kind::Dgram);
        // `last` waits in the queue of `b`.
        send_with(&a, b"x", vec![last]).unwrap();
        last = file(&b);
        ends.push(a);
    }
    drop(last);
    assert_eq!(send(&ends[0], b"x"), Err(Errno::ECONNREFUSED));
}

#[test]
fn names_are_unique_and_come_back() {
    let names: Arc<UnixNames> = Arc::default();
    let [a, b] = [0; 2].map(|_| UnixSocket::new(&names, Kind::Stream).unwrap());
    let name = UnixAddr::Abstract(b"n".to_vec());
    let bound = names.bind_abstract(&a, name.clone()).unwrap();
    assert_eq!(names.bind_abstract(&b, name.clone()).err(), Some(Errno::EADDRINUSE));
    names.unbind(&Arc::downgrade(&b), &bound);
    assert_eq!(names.bind_abstract(&b, name.clone()).err(), Some(Errno::EADDRINUSE));
    names.unbind(&Arc::downgrade(&a), &bound);
    assert!(names.bind_abstract(&b, name).is_ok());
    let auto = names.bind_abstract(&a, UnixAddr::Unnamed).unwrap();
    assert_eq!(auto.addr, UnixAddr::Abstract(b"00001".to_vec()));
}
