//! Every request once or more, against a real directory.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use crate::common::{export, serve, serve_dir, serve_with};
use abi::Errno;
use rsentry_gofer::client::At;
use rsentry_gofer::server::Filter;
use rsentry_gofer::wire::request::{Changes, Owner};
use rsentry_gofer::wire::types::{
    ExportFlags, FileKind, OpenFlags, RenameFlags, SetTime, Timestamp,
};

#[test]
fn walk_stat_open_in_one_round_trip() {
    let tmp = tempfile::tempdir().unwrap();
    fs::create_dir_all(tmp.path().join("a/b")).unwrap();
    fs::write(tmp.path().join("a/b/f"), "hello").unwrap();
    symlink("b/f", tmp.path().join("a/l")).unwrap();
    let s = serve_dir(tmp.path());
    let w = s.client.walk(s.root(), &[b"a", b"b", b"f"], Some(OpenFlags::READ)).unwrap();
    assert_eq!(w.found.len(), 3);
    assert_eq!((w.error, &w.link), (None, &None));
    let meta = fs::metadata(tmp.path().join("a/b/f")).unwrap();
    let attr = w.found[2].attr;
    assert_eq!((attr.ino, attr.dev, attr.size), (meta.ino(), meta.dev(), 5));
    assert_eq!((attr.mode, attr.nlink, attr.blocks), (meta.mode(), 1, meta.blocks()));
    assert_eq!((attr.mtime.sec, i64::from(attr.mtime.nsec)), (meta.mtime(), meta.mtime_nsec()));
    let mut text = String::new();
    fs::File::from(w.file.unwrap()).read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");

    let w = s.client.walk(s.root(), &[b"a", b"x", b"y"], Some(OpenFlags::READ)).unwrap();
    assert_eq!((w.found.len(), w.error), (1, Some(Errno::ENOENT)));
    let w = s.client.walk(s.root(), &[b"a", b"l", b"y"], Some(OpenFlags::READ)).unwrap();
    assert_eq!((w.found.len(), w.error, w.link.as_deref()), (2, None, Some(&b"b/f"[..])));
    assert!(w.file.is_none());
    let w = s.client.walk(s.root(), &[b"a", b"b", b"f", b"y"], None).unwrap();
    assert_eq!((w.found.len(), w.error), (3, Some(Errno::ENOTDIR)));
    assert_eq!(s.client.walk(&w.found[2].handle, &[b"x"], None).unwrap_err(), Errno::ENOTDIR);
    assert_eq!(&*s.client.read_link(&s.find("a/l").handle).unwrap(), b"b/f");
    assert_eq!(s.client.read_link(&s.find("a").handle).unwrap_err(), Errno::EINVAL);
}

#[test]
fn bad_names_are_refused() {
    let tmp = tempfile::tempdir().unwrap();
    let s = serve_dir(tmp.path());
    let long = [b'x'; 256];
    for (name, errno) in [
        (&b""[..], Errno::ENOENT),
        (b".", Errno::EINVAL),
        (b"..", Errno::EINVAL),
        (b"a/b", Errno::EINVAL),
        (b"/", Errno::EINVAL),
        (b"a\0b", Errno::EINVAL),
        (&long, Errno::ENAMETOOLONG),
    ] {
        let at = At { dir: s.root(), name };
        let owner = Owner::default();
        let w = s.client.walk(s.root(), &[name], None).unwrap();
        assert_eq!((w.found.len(), w.error), (0, Some(errno)));
        assert_eq!(s.client.mkdir(at, 0o755, owner).unwrap_err(), errno);
        assert_eq!(s.client.unlink(at, false).unwrap_err(), errno);
        assert_eq!(s.client.create(at, 0o644, OpenFlags::WRITE, owner).unwrap_err(), errno);
        let r = s.client.rename(s.at("ok"), at, RenameFlags::empty());
        assert_eq!(r.unwrap_err(), errno);
    }
}

#[test]
fn create_write_rename_link_unlink() {
    let tmp = tempfile::tempdir().unwrap();
    let s = serve_dir(tmp.path());
    let owner = Owner::default();
    let (node, fd) =
        s.client.create(s.at("f"), 0o640, OpenFlags::READ | OpenFlags::WRITE, owner).unwrap();
    assert_eq!(node.attr.mode, libc::S_IFREG | 0o640);
    fs::File::from(fd).write_all(b"data").unwrap();
    assert_eq!(s.client.stat(&node.handle).unwrap().size, 4);
    let again = s.client.create(s.at("f"), 0o640, OpenFlags::WRITE, owner);
    assert_eq!(again.unwrap_err(), Errno::EEXIST);

    s.client.mkdir(s.at("d"), 0o700, owner).unwrap();
    let d = s.find("d");
    let to = At { dir: &d.handle, name: b"g" };
    s.client.rename(s.at("f"), to, RenameFlags::empty()).unwrap();
    assert_eq!(fs::read(tmp.path().join("d/g")).unwrap(), b"data");
    // The node is the same file still; its old name leads nowhere.
    assert_eq!(s.client.stat(&node.handle).unwrap().size, 4);
    let r = s.client.open(&node.handle, Some(s.at("f")), OpenFlags::READ);
    assert!(matches!(r.unwrap_err(), Errno::ESTALE | Errno::ENOENT));
    s.client.open(&node.handle, Some(to), OpenFlags::READ).unwrap();

    let attr = s.client.link(&node.handle, to, s.at("h")).unwrap();
    assert_eq!(attr.nlink, 2);
    let flags = RenameFlags::NOREPLACE;
    assert_eq!(s.client.rename(to, s.at("h"), flags).unwrap_err(), Errno::EEXIST);
    s.client.rename(s.at("d"), s.at("h"), RenameFlags::EXCHANGE).unwrap();
    assert!(tmp.path().join("h").is_dir());
    assert_eq!(s.client.unlink(s.at("h"), true).unwrap_err(), Errno::ENOTEMPTY);
    assert_eq!(s.client.unlink(s.at("h"), false).unwrap_err(), Errno::EISDIR);
    s.client.unlink(to, false).unwrap();
    s.client.unlink(s.at("h"), true).unwrap();
    s.client.unlink(s.at("d"), false).unwrap();
    assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 0);
    // An unlinked file is still there for its node.
    assert_eq!(s.client.stat(&node.handle).unwrap().nlink, 0);

    s.client.symlink(s.at("l"), b"/etc/passwd", owner).unwrap();
    assert_eq!(fs::read_link(tmp.path().join("l")).unwrap().to_str(), Some("/etc/passwd"));
    s.client.mknod(s.at("p"), libc::S_IFIFO | 0o600, owner).unwrap();
    assert_eq!(s.find("p").attr.kind(), FileKind::Fifo);
    for kind in [libc::S_IFCHR, libc::S_IFBLK] {
        let r = s.client.mknod(s.at("c"), kind | 0o600, owner);
        assert_eq!(r.unwrap_err(), Errno::EPERM);
    }
}

#[test]
fn attributes() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("f");
    fs::write(&path, "0123456789").unwrap();
    fs::create_dir(tmp.path().join("d")).unwrap();
    symlink("f", tmp.path().join("l")).unwrap();
    let s = serve_dir(tmp.path());
    let f = s.find("f");
    let time = Timestamp { sec: 1_000_000_000, nsec: 123_456_789 };
    let changes = Changes {
        mode: Some(0o600),
        size: Some(3),
        atime: Some(SetTime::To(time)),
        mtime: Some(SetTime::Now),
        ..Changes::default()
    };
    let attr = s.client.set_attr(&f.handle, Some(s.at("f")), changes).unwrap();
    assert_eq!((attr.size, attr.mode & 0o7777, attr.atime), (3, 0o600, time));
    assert!(attr.mtime.sec > 1_600_000_000);
    let without = s.client.set_attr(&f.handle, None, changes);
    assert_eq!(without.unwrap_err(), Errno::ESTALE);

    // A symbolic link is changed itself, never what it leads to.
    let l = s.find("l");
    let times = Changes { mtime: Some(SetTime::To(time)), ..Changes::default() };
    assert_eq!(s.client.set_attr(&l.handle, None, times).unwrap().mtime, time);
    assert_ne!(fs::metadata(&path).unwrap().mtime(), time.sec);
    let mode = Changes { mode: Some(0o777), ..Changes::default() };
    assert_eq!(s.client.set_attr(&l.handle, None, mode).unwrap_err(), Errno::EOPNOTSUPP);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);

    // Extended attributes, where the file system has them.
    let at = Some(s.at("f"));
    match s.client.set_xattr(&f.handle, at, b"user.k", b"v", 0) {
        Err(Errno::EOPNOTSUPP) => {}
        r => {
            r.unwrap();
            assert_eq!(s.client.get_xattr(&f.handle, at, b"user.k").unwrap(), b"v");
            assert_eq!(s.client.list_xattr(&f.handle, at).unwrap(), b"user.k\0");
            let again = s.client.set_xattr(&f.handle, at, b"user.k", b"v", 1);
            assert_eq!(again.unwrap_err(), Errno::EEXIST);
            s.client.remove_xattr(&f.handle, at, b"user.k").unwrap();
            let gone = s.client.get_xattr(&f.handle, at, b"user.k");
            assert_eq!(gone.unwrap_err(), Errno::ENODATA);
        }
    }
    for (name, errno) in [
        (&b"security.capability"[..], Errno::EPERM),
        (b"security.selinux", Errno::EOPNOTSUPP),
        (b"trusted.overlay.opaque", Errno::EOPNOTSUPP),
        (b"system.posix_acl_access", Errno::EOPNOTSUPP),
        (b"user.", Errno::EOPNOTSUPP),
        (b"", Errno::ERANGE),
    ] {
        assert_eq!(s.client.set_xattr(&f.handle, at, name, b"v", 0).unwrap_err(), errno);
    }

    s.client.fsync(&f.handle, at, true).unwrap();
    s.client.fsync(&s.find("d").handle, None, false).unwrap();
    assert!(s.client.stat_fs(s.root()).unwrap().blocks > 0);
}

#[test]
fn truncating_open() {
    let tmp = tempfile::tempdir().unwrap();
    fs::write(tmp.path().join("f"), "0123").unwrap();
    let s = serve_dir(tmp.path());
    let flags = Some(OpenFlags::WRITE | OpenFlags::TRUNCATE);
    let w = s.client.walk(s.root(), &[b"f"], flags).unwrap();
    assert_eq!(w.found[0].attr.size, 0);
    assert!(w.file.is_some());
    assert_eq!(fs::metadata(tmp.path().join("f")).unwrap().len(), 0);
}

#[test]
fn read_only_exports_refuse_each_change() {
    let tmp = tempfile::tempdir().unwrap();
    fs::write(tmp.path().join("f"), "x").unwrap();
    fs::create_dir(tmp.path().join("d")).unwrap();
    let s = serve(vec![export(tmp.path(), ExportFlags::READ_ONLY, Filter::none())]);
    assert_eq!(s.exports[0].flags, ExportFlags::READ_ONLY);
    let (c, o) = (&s.client, Owner::default());
    let f = s.find("f");
    let at = Some(s.at("f"));
    let size = Changes { size: Some(0), ..Changes::default() };
    let results = [
        c.open(&f.handle, at, OpenFlags::WRITE).map(|_| ()),
        c.open(&f.handle, at, OpenFlags::READ | OpenFlags::TRUNCATE).map(|_| ()),
        c.create(s.at("n"), 0o644, OpenFlags::READ, o).map(|_| ()),
        c.mkdir(s.at("n"), 0o755, o).map(|_| ()),
        c.symlink(s.at("n"), b"x", o).map(|_| ()),
        c.mknod(s.at("n"), libc::S_IFIFO, o).map(|_| ()),
        c.link(&f.handle, s.at("f"), s.at("n")).map(|_| ()),
        c.unlink(s.at("f"), false),
        c.unlink(s.at("d"), true),
        c.rename(s.at("f"), s.at("n"), RenameFlags::empty()),
        c.set_attr(&f.handle, at, size).map(|_| ()),
        c.set_attr(&f.handle, at, Changes::default()).map(|_| ()),
        c.set_xattr(&f.handle, at, b"user.x", b"", 0),
        c.remove_xattr(&f.handle, at, b"user.x"),
    ];
    for (i, r) in results.into_iter().enumerate() {
        assert_eq!(r.unwrap_err(), Errno::EROFS, "operation {i}");
    }
    c.open(&f.handle, at, OpenFlags::READ).unwrap();
}

#[test]
fn listings() {
    let tmp = tempfile::tempdir().unwrap();
    let mut names: Vec<String> = (0..3000).map(|i| format!("file-{i:05}")).collect();
    for n in &names {
        fs::write(tmp.path().join(n), "").unwrap();
    }
    let s = serve_dir(tmp.path());
    for attrs in [false, true] {
        let (mut seen, mut cookie, mut trips) = (Vec::new(), 0, 0);
        loop {
            let l = s.client.read_dir(s.root(), cookie, attrs).unwrap();
            trips += 1;
            for e in l.entries {
                assert_eq!((e.kind, e.attr.is_some()), (FileKind::Regular, attrs));
                assert!(e.attr.is_none_or(|a| a.ino == e.ino));
                seen.push(String::from_utf8(e.name.0.to_vec()).unwrap());
            }
            cookie = l.next;
            if l.end {
                break;
            }
        }
        seen.sort();
        names.sort();
        assert_eq!(seen, names);
        assert!(trips <= 7, "{trips} round trips");
    }
    assert_eq!(
        s.client.read_dir(&s.find("file-00000").handle, 0, false).unwrap_err(),
        Errno::ENOTDIR
    );
}

#[test]
fn lookup_and_listing_in_one() {
    let tmp = tempfile::tempdir().unwrap();
    fs::create_dir(tmp.path().join("d")).unwrap();
    fs::write(tmp.path().join("d/f"), "x").unwrap();
    let s = serve_dir(tmp.path());
    let (node, l) = s.client.list_child(s.at("d"), true).unwrap();
    assert_eq!((l.entries.len(), l.end), (1, true));
    assert_eq!(s.client.stat(&node.handle).unwrap().ino, node.attr.ino);
    let file = At { dir: &node.handle, name: b"f" };
    assert_eq!(s.client.list_child(file, true).unwrap_err(), Errno::ENOTDIR);
    assert_eq!(s.client.list_child(s.at("x"), true).unwrap_err(), Errno::ENOENT);
}

#[test]
fn single_file_export() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("f");
    fs::write(&path, "hello").unwrap();
    let s = serve(vec![export(&path, ExportFlags::READ_ONLY, Filter::none())]);
    assert!(s.exports[0].flags.contains(ExportFlags::SINGLE_FILE));
    let (fd, attr) = s.client.open(s.root(), None, OpenFlags::READ).unwrap();
    assert_eq!(attr.size, 5);
    let mut text = String::new();
    fs::File::from(fd).read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    assert_eq!(s.client.open(s.root(), None, OpenFlags::WRITE).unwrap_err(), Errno::EROFS);
    assert_eq!(s.client.walk(s.root(), &[b".."], None).unwrap_err(), Errno::ENOTDIR);
}

#[test]
fn set_id_bits_can_be_forbidden() {
    let tmp = tempfile::tempdir().unwrap();
    let s = serve(vec![export(tmp.path(), ExportFlags::NO_SUID, Filter::none())]);
    let o = Owner::default();
    let r = s.client.create(s.at("s"), 0o4755, OpenFlags::WRITE, o);
    assert_eq!(r.unwrap_err(), Errno::EPERM);
    let (f, _) = s.client.create(s.at("f"), 0o755, OpenFlags::WRITE, o).unwrap();
    let suid = Changes { mode: Some(0o4755), ..Changes::default() };
    let r = s.client.set_attr(&f.handle, Some(s.at("f")), suid);
    assert_eq!(r.unwrap_err(), Errno::EPERM);
    s.client.mkdir(s.at("d"), 0o2755, o).unwrap();
}

#[test]
fn the_server_ends_with_its_client() {
    let tmp = tempfile::tempdir().unwrap();
    let s = serve_dir(tmp.path());
    s.client.stat(s.root()).unwrap();
    s.finish();
}

#[test]
fn handles_are_bounded_and_come_back() {
    let tmp = tempfile::tempdir().unwrap();
    fs::write(tmp.path().join("f"), "").unwrap();
    let config = rsentry_gofer::server::Config { max_nodes: 20, ..Default::default() };
    let root = export(tmp.path(), ExportFlags::empty(), Filter::none());
    let s = serve_with(vec![root], config);
    assert_eq!(s.client.max_nodes(), 20);
    let held: Vec<_> = (0..19).map(|_| s.find("f")).collect();
    let w = s.client.walk(s.root(), &[b"f"], None).unwrap();
    assert_eq!((w.found.len(), w.error), (0, Some(Errno::ENFILE)));
    drop(held);
    // The closes travel with this request and are carried out after it.
    s.client.stat(s.root()).unwrap();
    for _ in 0..1000 {
        s.find("f");
    }
}
