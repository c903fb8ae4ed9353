//! The codec: what is written is read back, and anything may be read without harm.

use proptest::collection::vec;
use proptest::prelude::*;

use super::cursor::{Reader, Wire, Writer};
use super::reply::*;
use super::request::*;
use super::types::*;
use super::*;

/// The owned parts that requests borrow.
#[derive(Clone, Debug)]
struct Parts {
    name: Vec<u8>,
    other: Vec<u8>,
    value: Vec<u8>,
    names: Vec<Vec<u8>>,
    ids: (u64, u64, u64),
    nums: (u32, u32, u64),
    changes: Changes,
    owner: Owner,
    flag: bool,
    at: bool,
}

fn time() -> impl Strategy<Value = Timestamp> {
    (any::<i64>(), 0u32..1_000_000_000).prop_map(|(sec, nsec)| Timestamp { sec, nsec })
}

fn set_time() -> impl Strategy<Value = Option<SetTime>> {
    proptest::option::of(prop_oneof![Just(SetTime::Now), time().prop_map(SetTime::To)])
}

fn owner() -> impl Strategy<Value = Owner> {
    (any::<Option<u32>>(), any::<Option<u32>>()).prop_map(|(uid, gid)| Owner { uid, gid })
}

fn parts() -> impl Strategy<Value = Parts> {
    let changes = (any::<Option<u32>>(), owner(), any::<Option<u64>>(), set_time(), set_time())
        .prop_map(|(mode, owner, size, atime, mtime)| Changes { mode, owner, size, atime, mtime });
    let bytes = || vec(any::<u8>(), 0..300);
    let ids = (1..=u64::MAX, 1..=u64::MAX, 1..=u64::MAX);
    (
        (bytes(), bytes(), vec(any::<u8>(), 0..5000), vec(bytes(), 0..MAX_WALK)),
        ids,
        any::<(u32, u32, u64)>(),
        (changes, owner(), any::<bool>(), any::<bool>()),
    )
        .prop_map(|((name, other, value, names), ids, nums, (changes, owner, flag, at))| {
            Parts { name, other, value, names, ids, nums, changes, owner, flag, at }
        })
}

/// Every request that the parts can make.
fn requests(p: &Parts) -> Vec<Request<'_>> {
    let (a, b, c) = (NodeId(p.ids.0), NodeId(p.ids.1), NodeId(p.ids.2));
    let (name, mode, owner) = (Name(&p.name), p.nums.0, p.owner);
    let here = Location { dir: b, name };
    let there = Location { dir: c, name: Name(&p.other) };
    let at = p.at.then_some(here);
    let flags = OpenFlags::from_bits_truncate(p.nums.1);
    let rename = RenameFlags::from_bits_truncate(p.nums.1);
    let names = Names(p.names.iter().map(|n| Name(n)).collect());
    let value = Bytes(&p.value);
    vec![
        Request::Hello { version: p.nums.0 },
        Request::Connect {},
        Request::Walk { dir: a, names, open: p.flag.then_some(flags) },
        Request::Stat { node: a },
        Request::Open { node: a, at, flags },
        Request::ReadDir { dir: a, name: p.at.then_some(name), cookie: p.nums.2, attrs: p.flag },
        Request::ReadLink { node: a },
        Request::Create { at: here, mode, flags, owner },
        Request::Mkdir { at: here, mode, owner },
        Request::Symlink { at: here, target: value, owner },
        Request::Link { node: a, from: here, at: there },
        Request::Mknod { at: here, mode, owner },
        Request::Unlink { at: here, dir: p.flag },
        Request::Rename { from: here, to: there, flags: rename },
        Request::SetAttr { node: a, at, changes: p.changes },
        Request::GetXattr { node: a, at, name },
        Request::SetXattr { node: a, at, name, value, flags: p.nums.1 },
        Request::ListXattr { node: a, at },
        Request::RemoveXattr { node: a, at, name },
        Request::StatFs { node: a },
        Request::Fsync { node: a, at, data_only: p.flag },
        Request::Close { nodes: Nodes(vec![a, b, c]) },
        Request::Notifier {},
        Request::Watch { dir: a },
        Request::Unwatch { watches: Watches(vec![p.nums.0, p.nums.1]) },
    ]
}

fn attr() -> impl Strategy<Value = Attr> {
    let kinds = prop_oneof![
        Just(libc::S_IFREG),
        Just(libc::S_IFDIR),
        Just(libc::S_IFLNK),
        Just(libc::S_IFIFO),
        Just(libc::S_IFSOCK),
        Just(libc::S_IFCHR),
        Just(libc::S_IFBLK),
    ];
    let nums = any::<(u64, u64, u64, u32, u32, u32, u64, u64, u32, (u64, u64))>();
    let times = (time(), time(), time(), proptest::option::of(time()));
    (kinds, 0u32..0o10000, 0..=i64::MAX as u64, nums, times).prop_map(
        |(kind, mode, size, n, (atime, mtime, ctime, btime))| {
            let raw = RawAttr {
                dev: n.0,
                ino: n.1,
                mnt_id: n.2,
                mode: kind | mode,
                nlink: n.3,
                uid: n.4,
                gid: n.5,
                rdev: n.6,
                size,
                blocks: n.7,
                blksize: n.8,
                atime,
                mtime,
                ctime,
                btime,
                attributes: n.9.0,
                attributes_mask: n.9.1,
            };
            Attr::new(raw).unwrap()
        },
    )
}

fn entry() -> impl Strategy<Value = DirEntry> {
    let name = vec(1u8..=255, 1..=MAX_NAME)
        .prop_filter("a name", |n| Name(n).check().is_ok())
        .prop_map(|n| EntryName(n.into()));
    (any::<(u64, u64)>(), name, proptest::option::of(attr())).prop_map(
        |((ino, next), name, attr)| DirEntry { ino, next, kind: FileKind::Fifo, name, attr },
    )
}

fn round_trip<T: for<'a> Wire<'a> + PartialEq + std::fmt::Debug>(value: &T) {
    let mut out = Vec::new();
    value.put(&mut Writer::new(&mut out));
    let mut r = Reader::new(&out);
    assert_eq!(&T::take(&mut r).unwrap(), value);
    r.finish().unwrap();
    // Every shorter message is malformed.
    for cut in (0..out.len()).rev().take(40) {
        let mut r = Reader::new(&out[..cut]);
        assert!(T::take(&mut r).and_then(|_| r.finish()).is_err());
    }
}

/// Decodes bytes as every message there is.
fn decode_all(bytes: &[u8]) {
    let _ = RequestFrame::decode(bytes);
    for op in 0..40 {
        let _ = Request::take(op, &mut Reader::new(bytes));
    }
    let _ = ReplyHeader::decode(bytes);
    let _ = HelloReply::take(&mut Reader::new(bytes));
    let _ = WalkReply::take(&mut Reader::new(bytes));
    let _ = ReadDirReply::take(&mut Reader::new(bytes));
    let _ = NodeInfo::take(&mut Reader::new(bytes));
    let _ = AttrReply::take(&mut Reader::new(bytes));
    let _ = LinkReply::take(&mut Reader::new(bytes));
    let _ = BytesReply::take(&mut Reader::new(bytes));
    let _ = StatFsReply::take(&mut Reader::new(bytes));
    let _ = WatchReply::take(&mut Reader::new(bytes));
}

proptest! {
    #[test]
    fn requests_round_trip(p in parts(), id in any::<u32>(), cpu in 0..=MAX_HINT, closes in vec(1..=u64::MAX, 0..20)) {
        let closes: Vec<NodeId> = closes.into_iter().map(NodeId).collect();
        for request in requests(&p) {
            let frame = RequestFrame { id, cpu, request, closes: closes.clone() };
            let mut out = Vec::new();
            frame.encode(&mut out);
            prop_assert!(out.len() <= MAX_MESSAGE);
            prop_assert_eq!(&RequestFrame::decode(&out).unwrap(), &frame);
            prop_assert!(RequestFrame::decode(&out[..out.len() - 1]).is_err());
            out.push(0);
            prop_assert!(RequestFrame::decode(&out).is_err());
        }
    }

    #[test]
    fn replies_round_trip(
        attrs in vec(attr(), 1..5),
        entries in vec(entry(), 0..5),
        link in proptest::option::of(vec(1u8..=255, 1..=MAX_LINK)),
        bytes in vec(any::<u8>(), 0..1000),
        (errno, opened, n) in any::<(u32, bool, u64)>(),
    ) {
        let found: Vec<NodeInfo> =
            attrs.iter().map(|&attr| NodeInfo { id: NodeId(n | 1), attr }).collect();
        let link = link.map(|l| LinkTarget(l.into()));
        if let Some(target) = link.clone() {
            round_trip(&LinkReply { target });
        }
        round_trip(&WalkReply { found: found.clone(), errno, link, opened });
        round_trip(&found[0]);
        round_trip(&AttrReply { attr: attrs[0] });
        let node = found.first().copied();
        round_trip(&ReadDirReply { node, entries, end: opened, next: n });
        round_trip(&BytesReply { bytes: OwnedBytes(bytes) });
        round_trip(&StatFsReply { blocks: n, ..StatFsReply::default() });
        round_trip(&WatchReply { watch: errno, exact: opened });
        let export = ExportInfo {
            tag: Tag(b"/mnt".to_vec()),
            flags: ExportFlags::from_bits_truncate(errno),
            root: NodeId(n | 1),
            attr: attrs[0],
        };
        let (max_nodes, exports) = (n, vec![export]);
        round_trip(&HelloReply { version: errno, max_nodes, max_connections: errno, exports });
    }

    #[test]
    fn any_bytes_are_decoded_without_harm(bytes in vec(any::<u8>(), 0..2000)) {
        decode_all(&bytes);
    }

    /// Valid frames with a few bytes changed reach deeper than noise.
    #[test]
    fn damaged_frames_are_decoded_without_harm(
        p in parts(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        for request in requests(&p) {
            let mut out = Vec::new();
            RequestFrame { id: 1, cpu: 0, request, closes: Vec::new() }.encode(&mut out);
            for (at, byte) in &damage {
                let at = at.index(out.len());
                out[at] = *byte;
            }
            decode_all(&out);
            decode_all(&out[HEADER..]);
        }
    }
}

#[test]
fn counts_do_not_allocate() {
    // A list that claims 65,535 elements with nothing behind it.
    let bytes = [0xff; 2];
    assert!(Names::take(&mut Reader::new(&bytes)).is_err());
    assert!(ReadDirReply::take(&mut Reader::new(&bytes)).is_err());
}

#[test]
fn names_that_the_client_must_not_see() {
    for name in [&b""[..], b".", b"..", b"a/b", b"a\0"] {
        let mut out = Vec::new();
        EntryName(name.into()).put(&mut Writer::new(&mut out));
        assert!(EntryName::take(&mut Reader::new(&out)).is_err());
    }
}
