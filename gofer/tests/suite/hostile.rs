//! Hostile and dying peers, on either side.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use abi::Errno;
use proptest::prelude::*;
use rsentry_gofer::client::{Client, Config};
use rsentry_gofer::server::{self, Filter, Server};
use rsentry_gofer::socket_pair;
use rsentry_gofer::wire::cursor::{Wire, Writer};
use rsentry_gofer::wire::reply::{ExportInfo, HelloReply, NodeInfo, WalkReply};
use rsentry_gofer::wire::request::{Location, Names, Owner, Request};
use rsentry_gofer::wire::types::{Attr, ExportFlags, Name, NodeId, OpenFlags, RawAttr, Tag};
use rsentry_gofer::wire::{self, MAX_MESSAGE, ReplyHeader, RequestFrame};

use crate::common::{export, serve_dir};

pub(crate) fn send(fd: &OwnedFd, bytes: &[u8]) {
    // SAFETY: the buffer is alive and its length given.
    let n = unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
    assert_eq!(n, bytes.len() as isize);
}

/// Receives a frame; empty at the end of the connection.
pub(crate) fn recv(fd: &OwnedFd) -> Vec<u8> {
    let mut buf = vec![0u8; MAX_MESSAGE];
    // SAFETY: the buffer is alive and its length given.
    let n = unsafe { libc::recv(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), 0) };
    buf.truncate(n.max(0) as usize);
    buf
}

pub(crate) fn request(id: u32, request: Request<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    RequestFrame { id, cpu: 0, request, closes: Vec::new() }.encode(&mut out);
    out
}

/// Runs a server over a temporary directory for a raw client; returns how it ended.
fn raw_client(f: impl FnOnce(&OwnedFd)) -> Result<(), server::Error> {
    let tmp = tempfile::tempdir().unwrap();
    std::fs::write(tmp.path().join("f"), "x").unwrap();
    let (ours, theirs) = socket_pair().unwrap();
    let root = export(tmp.path(), ExportFlags::empty(), Filter::none());
    let server = Server::new(vec![root], server::Config::default()).unwrap();
    let thread = std::thread::spawn(move || server.serve(ours));
    f(&theirs);
    drop(theirs);
    thread.join().unwrap()
}

#[test]
fn malformed_requests_end_the_connection() {
    let good = request(7, Request::Hello { version: wire::VERSION });
    let mut long = good.clone();
    long.push(0);
    let mut wrong_op = good.clone();
    wrong_op[8] = 99;
    let mut no_such_cpu = good.clone();
    no_such_cpu[15] = 1;
    let mut closes = good.clone();
    closes[10] = 200;
    let empty: Vec<u8> = vec![1];
    for bad in [long, wrong_op, no_such_cpu, closes, good[..10].to_vec(), empty, vec![0xff; 5000]] {
        let end = raw_client(|fd| {
            send(fd, &bad);
            assert!(recv(fd).is_empty());
        });
        assert!(matches!(end, Err(server::Error::Protocol)), "{bad:?}");
    }
    let end = raw_client(|fd| {
        send(fd, &good);
        assert!(!recv(fd).is_empty());
    });
    end.unwrap();
}

#[test]
fn wild_ids_and_operations_do_no_harm() {
    raw_client(|fd| {
        for (id, dir) in [1, 2, 77, u64::MAX].into_iter().enumerate() {
            let dir = NodeId(dir);
            let at = Location { dir, name: Name(b"f") };
            for r in [
                Request::Stat { node: dir },
                Request::Walk { dir, names: Names(Vec::new()), open: None },
                Request::ReadDir { dir, name: Some(Name(b"f")), cookie: u64::MAX, attrs: true },
                Request::Unlink { at, dir: true },
                Request::Create {
                    at,
                    mode: u32::MAX,
                    flags: OpenFlags::empty(),
                    owner: Owner::default(),
                },
                Request::Open { node: dir, at: Some(at), flags: OpenFlags::empty() },
                Request::StatFs { node: dir },
                Request::Hello { version: 99 },
            ] {
                send(fd, &request(id as u32, r));
                assert!(!recv(fd).is_empty());
            }
        }
    })
    .unwrap();
}

#[test]
fn descriptors_for_the_server_are_refused() {
    let end = raw_client(|fd| {
        let frame = request(1, Request::Hello { version: wire::VERSION });
        send_with_fds(fd, &frame, 3);
        assert!(recv(fd).is_empty());
    });
    assert!(matches!(end, Err(server::Error::Protocol)));
}

/// Sends a frame with `n` descriptors (copies of the socket).
pub(crate) fn send_with_fds(fd: &OwnedFd, frame: &[u8], n: usize) {
    send_fds(fd, frame, &vec![fd.as_raw_fd(); n]);
}

/// Sends a frame with these descriptors, if somebody is there.
pub(crate) fn send_fds(fd: &OwnedFd, frame: &[u8], fds: &[i32]) {
    let mut control = [0u64; 160];
    let mut iov = libc::iovec { iov_base: frame.as_ptr().cast_mut().cast(), iov_len: frame.len() };
    // SAFETY: all-zero is a valid msghdr; every pointer in it is to a live local, `control` has
    // room for the 253 descriptors that the host allows.
    unsafe {
        let mut msg: libc::msghdr = std::mem::zeroed();
        msg.msg_iov = &mut iov;
        msg.msg_iovlen = 1;
        if !fds.is_empty() {
            assert!(fds.len() <= 253);
            msg.msg_control = control.as_mut_ptr().cast();
            msg.msg_controllen = libc::CMSG_SPACE(4 * fds.len() as u32) as usize;
            let c = libc::CMSG_FIRSTHDR(&msg);
            (*c).cmsg_level = libc::SOL_SOCKET;
            (*c).cmsg_type = libc::SCM_RIGHTS;
            (*c).cmsg_len = libc::CMSG_LEN(4 * fds.len() as u32) as usize;
            for (i, &fd) in fds.iter().enumerate() {
                libc::CMSG_DATA(c).cast::<i32>().add(i).write_unaligned(fd);
            }
        }
        libc::sendmsg(fd.as_raw_fd(), &msg, libc::MSG_NOSIGNAL);
    }
}

fn attr(mode: u32) -> Attr {
    Attr::new(RawAttr { mode, dev: 1, ino: 2, ..RawAttr::default() }).unwrap()
}

pub(crate) fn reply(id: u32, op: u16, fds: u16, body: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut out = Vec::new();
    ReplyHeader { id, op, fds, errno: 0 }.start(&mut out);
    body(&mut Writer::new(&mut out));
    wire::patch_len(&mut out);
    out
}

pub(crate) fn hello(frame: &[u8]) -> Vec<u8> {
    let request = RequestFrame::decode(frame).unwrap();
    let export = ExportInfo {
        tag: Tag(Vec::new()),
        flags: ExportFlags::empty(),
        root: NodeId(1),
        attr: attr(libc::S_IFDIR | 0o755),
    };
    let hello = HelloReply {
        version: wire::VERSION,
        max_nodes: 10,
        max_connections: 1,
        exports: vec![export],
    };
    reply(request.id, request.request.op(), 0, |w| hello.put(w))
}

/// Plays a server that answers the hello and then does `f` with the first request. The client must
/// get an error from a walk with open, and be dead, without waiting for the deadline.
fn hostile_server(f: impl FnOnce(&OwnedFd, &[u8]) + Send + 'static) {
    let deadline = Duration::from_secs(60);
    let took = hostile_server_within(deadline, f);
    assert!(took < deadline / 2, "{took:?}");
}

/// The same with a deadline; how long it took.
fn hostile_server_within(
    deadline: Duration,
    f: impl FnOnce(&OwnedFd, &[u8]) + Send + 'static,
) -> Duration {
    let (ours, theirs) = socket_pair().unwrap();
    let thread = std::thread::spawn(move || {
        let first = recv(&ours);
        send(&ours, &hello(&first));
        let request = recv(&ours);
        f(&ours, &request);
    });
    let start = Instant::now();
    let config = Config { deadline, max_connections: 4 };
    let (client, exports) = Client::connect_with(theirs, config).unwrap();
    let root = &exports[0].root.handle;
    let r = client.walk(root, &[b"a", b"b"], Some(OpenFlags::READ));
    assert_eq!(r.unwrap_err(), Errno::EIO);
    assert!(client.is_dead());
    assert_eq!(client.stat(root).unwrap_err(), Errno::EIO);
    let took = start.elapsed();
    drop((exports, client));
    thread.join().unwrap();
    took
}

#[test]
fn a_server_that_hangs_up() {
    hostile_server(|_, _| {});
}

#[test]
fn a_server_that_stops() {
    // Until the client has given up.
    let took = hostile_server_within(Duration::from_secs(2), |fd, _| while !recv(fd).is_empty() {});
    assert!(took >= Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_server_that_sends_rubbish() {
    hostile_server(|fd, _| send(fd, b"rubbish"));
    hostile_server(|fd, _| send(fd, &[0xff; MAX_MESSAGE]));
    hostile_server(send);
}

#[test]
fn a_server_that_answers_something_else() {
    let answer = |id_off: u32, op_off: u16, fds: u16, sent: usize, walk: WalkReply| {
        hostile_server(move |fd, frame| {
            let r = RequestFrame::decode(frame).unwrap();
            let (id, op) = (r.id.wrapping_add(id_off), r.request.op() + op_off);
            let frame = reply(id, op, fds, |w| walk.put(w));
            if sent == 0 { send(fd, &frame) } else { send_with_fds(fd, &frame, sent) }
        });
    };
    let node = |n| NodeInfo { id: NodeId(n), attr: attr(libc::S_IFDIR) };
    let file = NodeInfo { id: NodeId(9), attr: attr(libc::S_IFREG) };
    let walk = |found: Vec<NodeInfo>| WalkReply { found, errno: 0, link: None, opened: false };
    answer(1, 0, 0, 0, walk(vec![node(2), file]));
    answer(0, 1, 0, 0, walk(vec![node(2), file]));
    // More components than asked for, too few without a reason, and nonsense in between.
    answer(0, 0, 0, 0, walk(vec![node(2), node(3), node(4)]));
    answer(0, 0, 0, 0, walk(vec![node(2)]));
    answer(0, 0, 0, 0, walk(vec![file, node(3)]));
    // Descriptors: announced and missing, there and not announced, too many, not a file.
    answer(0, 0, 1, 0, WalkReply { opened: true, ..walk(vec![node(2), file]) });
    answer(0, 0, 0, 1, walk(vec![node(2), file]));
    answer(0, 0, 1, 1, walk(vec![node(2), file]));
    answer(0, 0, 100, 100, WalkReply { opened: true, ..walk(vec![node(2), file]) });
    answer(0, 0, 1, 1, WalkReply { opened: true, ..walk(vec![node(2), file]) });
}

#[test]
fn a_server_that_dies_with_many_callers() {
    let (ours, theirs) = socket_pair().unwrap();
    let thread = std::thread::spawn(move || {
        let first = recv(&ours);
        send(&ours, &hello(&first));
        recv(&ours);
        std::thread::sleep(Duration::from_millis(50));
    });
    let (client, exports) = Client::connect(theirs).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                assert_eq!(client.stat(&exports[0].root.handle).unwrap_err(), Errno::EIO);
            });
        }
    });
    thread.join().unwrap();
}

#[test]
fn eight_threads_at_once() {
    let tmp = tempfile::tempdir().unwrap();
    for t in 0..8 {
        std::fs::create_dir(tmp.path().join(format!("d{t}"))).unwrap();
        std::fs::write(tmp.path().join(format!("d{t}/f")), vec![b'x'; t + 1]).unwrap();
    }
    let s = serve_dir(tmp.path());
    std::thread::scope(|scope| {
        for t in 0..8 {
            let s = &s;
            scope.spawn(move || {
                let dir = format!("d{t}");
                for _ in 0..200 {
                    let w = s
                        .client
                        .walk(s.root(), &[dir.as_bytes(), b"f"], Some(OpenFlags::READ))
                        .unwrap();
                    assert_eq!(w.found[1].attr.size, t as u64 + 1);
                    assert!(w.file.is_some());
                }
            });
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever frames a client sends, the server answers or hangs up; it never panics or blocks.
    #[test]
    fn the_server_survives_any_frames(
        frames in proptest::collection::vec(frame(), 1..20)
    ) {
        let end = raw_client(|fd| {
            for f in &frames {
                // SAFETY: the buffer is alive and its length given.
                let sent = unsafe {
                    libc::send(fd.as_raw_fd(), f.as_ptr().cast(), f.len(), libc::MSG_NOSIGNAL)
                };
                if sent < 0 {
                    break;
                }
                // Close has no answer.
                if f.get(8) != Some(&22) && recv(fd).is_empty() {
                    break;
                }
            }
        });
        let protocol = matches!(end, Err(server::Error::Protocol));
        prop_assert!(end.is_ok() || protocol);
    }
}

/// A frame with a right header and any body, for small operation numbers and node ids.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let body =
        proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(b'f'), any::<u8>()], 0..64);
    (1u16..24, body).prop_map(|(op, body)| {
        let mut f = Vec::new();
        f.extend_from_slice(&((16 + body.len()) as u32).to_le_bytes());
        f.extend_from_slice(&1u32.to_le_bytes());
        f.extend_from_slice(&op.to_le_bytes());
        f.extend_from_slice(&[0; 6]);
        f.extend_from_slice(&body);
        f
    })
}
