//! Peers that answer anything at all, flood, or do not read: on either side nobody panics, waits
//! without end, or keeps descriptors that nobody asked for.

use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use abi::Errno;
use proptest::prelude::*;
use rsentry_gofer::client::{At, Client, Config};
use rsentry_gofer::server::{self, Filter, Server};
use rsentry_gofer::socket_pair;
use rsentry_gofer::wire::request::{Names, Request};
use rsentry_gofer::wire::types::{ExportFlags, NodeId, OpenFlags};
use rsentry_gofer::wire::{self, MAX_MESSAGE, ReplyHeader, RequestFrame};

use crate::common::export;
use crate::hostile::{hello, recv, reply, request, send, send_fds};

/// Long for a test, short for a person.
const PROMPT: Duration = Duration::from_secs(30);
/// How long a client waits that is let down: nothing here takes as long.
const DEADLINE: Duration = Duration::from_secs(60);

/// Sends if there is room; whether there was.
fn try_send(fd: &OwnedFd, bytes: &[u8]) -> bool {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the buffer is alive and its length given.
    unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) >= 0 }
}

/// A client of a server that answers the hello, then each request by `answer`, until that says no.
fn with_server<T>(
    mut answer: impl FnMut(&OwnedFd, &[u8]) -> bool + Send + 'static,
    work: impl FnOnce(&Client, At<'_>) -> T,
) -> T {
    let (ours, theirs) = socket_pair().unwrap();
    let thread = std::thread::spawn(move || {
        let first = recv(&ours);
        send(&ours, &hello(&first));
        loop {
            let frame = recv(&ours);
            if frame.is_empty() || !answer(&ours, &frame) {
                return;
            }
        }
    });
    let config = Config { deadline: DEADLINE, max_connections: 1 };
    let (client, exports) = Client::connect_with(theirs, config).unwrap();
    let result = work(&client, At { dir: &exports[0].root.handle, name: b"a" });
    drop((exports, client));
    thread.join().unwrap();
    result
}

/// One of each kind of question that is answered with more than a number.
fn ask_everything(client: &Client, at: At<'_>) {
    let root = at.dir;
    drop(client.walk(root, &[b"a", b"b", b"c"], Some(OpenFlags::READ)));
    let _ = client.stat(root);
    drop(client.open(root, Some(at), OpenFlags::READ));
    drop(client.read_dir(root, 0, true));
    drop(client.read_dir(root, u64::MAX, false));
    drop(client.list_child(at, true));
    drop(client.read_link(root));
    drop(client.mkdir(at, 0o700, Default::default()));
    drop(client.list_xattr(root, None));
    let _ = client.stat_fs(root);
}

/// The rest of what a server says: whatever number it is, and announces.
#[derive(Clone, Debug)]
struct Answer {
    body: Vec<u8>,
    errno: u32,
    announced: u16,
    sent: usize,
}

fn answer() -> impl Strategy<Value = Answer> {
    let byte = prop_oneof![3 => Just(0u8), 2 => Just(1), 1 => Just(b'a'), 1 => any::<u8>()];
    let body = proptest::collection::vec(byte, 0..400);
    let few = || prop_oneof![4 => Just(0u16), 1 => 1..4u16, 1 => any::<u16>()];
    (body, few(), few(), prop_oneof![3 => Just(0usize), 1 => 1..4usize, 1 => Just(100usize)])
        .prop_map(|(body, errno, announced, sent)| Answer {
            body,
            errno: errno.into(),
            announced,
            sent,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever a server answers, the client gets on or is dead; nothing that was sent along stays.
    #[test]
    fn the_client_survives_any_answers(answers in proptest::collection::vec(answer(), 1..12)) {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let start = Instant::now();
        let mut left = answers.into_iter();
        with_server(
            move |fd, frame| {
                let Some(answer) = left.next() else { return false };
                let Ok(asked) = RequestFrame::decode(frame) else { return false };
                let (id, op, fds) = (asked.id, asked.request.op(), answer.announced);
                let mut out = Vec::new();
                ReplyHeader { id, op, fds, errno: answer.errno }.start(&mut out);
                out.extend_from_slice(&answer.body);
                wire::patch_len(&mut out);
                send_fds(fd, &out, &vec![writer.as_raw_fd(); answer.sent]);
                true
            },
            ask_everything,
        );
        prop_assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
        // The server's own copy is gone with its thread: at the end, nobody has one.
        prop_assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn a_server_that_talks_without_being_asked() {
    let start = Instant::now();
    with_server(
        |fd, frame| {
            let asked = RequestFrame::decode(frame).unwrap();
            let unasked = reply(asked.id.wrapping_add(7), asked.request.op(), 0, |_| {});
            // Until the queue is full, and again whenever there is room.
            let end = Instant::now() + Duration::from_millis(300);
            while Instant::now() < end {
                try_send(fd, &unasked);
            }
            false
        },
        |client, at| {
            assert_eq!(client.stat(at.dir).unwrap_err(), Errno::EIO);
            assert!(client.is_dead());
        },
    );
    assert!(start.elapsed() < PROMPT);
}

/// Descriptors that nobody asked for, with an answer that makes no sense.
#[test]
fn descriptors_of_a_hostile_server_are_closed() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    with_server(
        move |fd, _| {
            send_fds(fd, b"rubbish", &[writer.as_raw_fd(); 250]);
            false
        },
        |client, at| assert_eq!(client.stat(at.dir).unwrap_err(), Errno::EIO),
    );
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}

/// Runs a server over a temporary directory for a raw client, and waits for its end, promptly.
fn raw_server(work: impl FnOnce(&OwnedFd)) -> Result<(), server::Error> {
    let directory = tempfile::tempdir().unwrap();
    for n in 0..200 {
        std::fs::write(directory.path().join(format!("a-long-name-of-a-file-{n:0100}")), "")
            .unwrap();
    }
    let (ours, theirs) = socket_pair().unwrap();
    let root = export(directory.path(), ExportFlags::empty(), Filter::none());
    let server = Server::new(vec![root], server::Config::default()).unwrap();
    let thread = std::thread::spawn(move || server.serve(ours));
    work(&theirs);
    drop(theirs);
    let start = Instant::now();
    let end = thread.join().unwrap();
    assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    end
}

/// A client that asks and does not read: the server waits for it, and ends with it.
#[test]
fn a_client_that_does_not_read() {
    let end = raw_server(|fd| {
        send(fd, &request(0, Request::Hello { version: wire::VERSION }));
        let dir = NodeId(1);
        let list = request(1, Request::ReadDir { dir, name: None, cookie: 0, attrs: true });
        let end = Instant::now() + Duration::from_millis(300);
        while Instant::now() < end {
            if !try_send(fd, &list) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    });
    // Nobody is there to be answered.
    assert!(matches!(end, Ok(()) | Err(server::Error::Connection(_))), "{end:?}");
}

/// A client that hoards what it opens, and never reads the descriptors: they are in flight, which
/// the host bounds; the server lives until it hangs up.
#[test]
fn a_client_that_hoards_descriptors() {
    let end = raw_server(|fd| {
        send(fd, &request(0, Request::Hello { version: wire::VERSION }));
        let dir = NodeId(1);
        let open = request(2, Request::Open { node: dir, at: None, flags: OpenFlags::READ });
        let walk = request(3, Request::Walk { dir, names: Names(vec![]), open: None });
        for _ in 0..5000 {
            if !try_send(fd, &open) || !try_send(fd, &walk) {
                break;
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    });
    assert!(matches!(end, Ok(()) | Err(server::Error::Connection(_))), "{end:?}");
}

/// Lengths that are forged: the packet's own is what counts.
#[test]
fn forged_lengths() {
    for forged in [0, 1, 15, 17, MAX_MESSAGE as u32, u32::MAX / 2, u32::MAX] {
        let end = raw_server(|fd| {
            let mut frame = request(7, Request::Hello { version: wire::VERSION });
            frame[..4].copy_from_slice(&forged.to_le_bytes());
            send(fd, &frame);
            assert!(recv(fd).is_empty());
        });
        assert!(matches!(end, Err(server::Error::Protocol)), "{forged}");
        let start = Instant::now();
        with_server(
            move |fd, frame| {
                let asked = RequestFrame::decode(frame).unwrap();
                let mut out = reply(asked.id, asked.request.op(), 0, |_| {});
                out[..4].copy_from_slice(&forged.to_le_bytes());
                send(fd, &out);
                true
            },
            |client, at| assert_eq!(client.stat(at.dir).unwrap_err(), Errno::EIO),
        );
        assert!(start.elapsed() < PROMPT);
    }
}
