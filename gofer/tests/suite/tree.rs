//! Malicious trees: nothing outside the export is ever reached, nothing acts or blocks.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use abi::Errno;
use rsentry_gofer::client::At;
use rsentry_gofer::server::Filter;
use rsentry_gofer::wire::request::{Changes, Owner};
use rsentry_gofer::wire::types::{ExportFlags, FileKind, OpenFlags, RenameFlags};

use crate::common::{export, serve, serve_dir};

#[test]
fn links_are_reported_and_never_followed() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(tmp.path().join("secret"), "s").unwrap();
    for (name, target) in
        [("slash", "/"), ("up", ".."), ("file", "../secret"), ("proc", "/proc/self/root")]
    {
        symlink(target, root.join(name)).unwrap();
    }
    let s = serve_dir(&root);
    for name in ["slash", "up", "file", "proc"] {
        let names = [name.as_bytes(), b"etc"];
        let w = s.client.walk(s.root(), &names, Some(OpenFlags::READ)).unwrap();
        assert_eq!(w.found.len(), 1);
        assert_eq!(w.found[0].attr.kind(), FileKind::Symlink);
        assert!(w.file.is_none() && w.link.is_some());
        let node = &w.found[0].handle;
        let r = s.client.open(node, Some(s.at(name)), OpenFlags::READ);
        assert_eq!(r.unwrap_err(), Errno::ELOOP);
        assert_eq!(s.client.walk(node, &[b"etc"], None).unwrap_err(), Errno::ENOTDIR);
        assert_eq!(s.client.read_dir(node, 0, false).unwrap_err(), Errno::ENOTDIR);
        let size = Changes { size: Some(0), ..Changes::default() };
        assert_eq!(s.client.set_attr(node, Some(s.at(name)), size).unwrap_err(), Errno::ELOOP);
        // Creating through a dangling or leading link is refused, too.
        let r = s.client.create(s.at(name), 0o644, OpenFlags::WRITE, Owner::default());
        assert_eq!(r.unwrap_err(), Errno::EEXIST);
    }
    assert_eq!(fs::read(tmp.path().join("secret")).unwrap(), b"s");
}

/// Walks, opens, lists and creates while `swap` changes the tree, for about a second. What is found
/// must never be outside.
fn race(swap: impl Fn(&Path) + Sync) {
    let tmp = tempfile::tempdir().unwrap();
    let (root, outside) = (tmp.path().join("root"), tmp.path().join("outside"));
    for dir in ["a/b", "other/b"] {
        fs::create_dir_all(root.join(dir)).unwrap();
        fs::write(root.join(dir).join("f"), "inside").unwrap();
    }
    fs::create_dir_all(outside.join("b")).unwrap();
    fs::write(outside.join("b/f"), "outside").unwrap();
    let bad = fs::metadata(outside.join("b/f")).unwrap().ino();
    symlink(&outside, root.join("link")).unwrap();
    let s = serve_dir(&root);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                swap(tmp.path());
            }
        });
        let end = Instant::now() + Duration::from_millis(700);
        let mut opened = 0;
        while Instant::now() < end {
            let w = s
                .client
                .walk(s.root(), &[b"a", b"b", b"f"], Some(OpenFlags::READ | OpenFlags::WRITE))
                .unwrap();
            assert!(w.found.iter().all(|n| n.attr.ino != bad));
            if let Some(file) = w.file {
                opened += 1;
                assert_ne!(fs::File::from(file).metadata().unwrap().ino(), bad);
            }
            if let Some(dir) = w.found.get(1).map(|n| &n.handle) {
                let at = At { dir, name: b"new" };
                let _ = s.client.create(at, 0o600, OpenFlags::WRITE, Owner::default());
                let _ = s.client.unlink(at, false);
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(opened > 0);
    });
    assert_eq!(fs::read(outside.join("b/f")).unwrap(), b"outside");
    assert_eq!(fs::read_dir(outside.join("b")).unwrap().count(), 1);
}

#[test]
fn a_directory_swapped_with_a_link_during_walks() {
    race(|tmp| {
        let root = tmp.join("root");
        let _ = fs::rename(root.join("a"), root.join("saved"));
        let _ = fs::rename(root.join("link"), root.join("a"));
        let _ = fs::rename(root.join("a"), root.join("link"));
        let _ = fs::rename(root.join("saved"), root.join("a"));
    });
}

#[test]
fn a_directory_moved_out_during_walks() {
    race(|tmp| {
        // While it is outside, `..` of it is, too; but nobody walks that.
        let _ = fs::rename(tmp.join("root/a"), tmp.join("moved"));
        let _ = fs::rename(tmp.join("moved"), tmp.join("root/a"));
    });
}

#[test]
fn special_files_are_not_opened() {
    let tmp = tempfile::tempdir().unwrap();
    let s = serve_dir(tmp.path());
    s.client.mknod(s.at("fifo"), libc::S_IFIFO | 0o666, Owner::default()).unwrap();
    s.client.mknod(s.at("sock"), libc::S_IFSOCK | 0o666, Owner::default()).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(tmp.path().join("live")).unwrap();
    let mut cases = vec![
        ("fifo", FileKind::Fifo, Errno::ENXIO),
        ("sock", FileKind::Socket, Errno::ENXIO),
        ("live", FileKind::Socket, Errno::ENXIO),
    ];
    let null = std::ffi::CString::new(tmp.path().join("null").as_os_str().as_bytes()).unwrap();
    // SAFETY: the path is NUL-terminated. Only root may; others skip the case.
    if unsafe { libc::mknod(null.as_ptr(), libc::S_IFCHR | 0o666, libc::makedev(1, 3)) } == 0 {
        cases.push(("null", FileKind::CharDevice, Errno::EACCES));
    }
    for (name, kind, errno) in cases {
        for flags in [OpenFlags::READ, OpenFlags::WRITE, OpenFlags::READ | OpenFlags::WRITE] {
            let w = s.client.walk(s.root(), &[name.as_bytes()], Some(flags)).unwrap();
            assert_eq!((w.found[0].attr.kind(), w.file.is_none()), (kind, true));
            let r = s.client.open(&w.found[0].handle, Some(s.at(name)), flags);
            assert_eq!(r.unwrap_err(), errno, "{name}");
        }
    }
}

#[test]
fn a_file_replaced_by_another_is_stale() {
    let tmp = tempfile::tempdir().unwrap();
    fs::write(tmp.path().join("f"), "old").unwrap();
    let s = serve_dir(tmp.path());
    let f = s.find("f");
    fs::write(tmp.path().join("g"), "new").unwrap();
    fs::rename(tmp.path().join("g"), tmp.path().join("f")).unwrap();
    let at = Some(s.at("f"));
    let flags = OpenFlags::WRITE | OpenFlags::TRUNCATE;
    assert_eq!(s.client.open(&f.handle, at, flags).unwrap_err(), Errno::ESTALE);
    let size = Changes { size: Some(0), ..Changes::default() };
    assert_eq!(s.client.set_attr(&f.handle, at, size).unwrap_err(), Errno::ESTALE);
    assert_eq!(fs::read(tmp.path().join("f")).unwrap(), b"new");
    // A FIFO in its place neither blocks nor opens.
    fs::remove_file(tmp.path().join("f")).unwrap();
    s.client.mknod(s.at("f"), libc::S_IFIFO | 0o666, Owner::default()).unwrap();
    let r = s.client.open(&f.handle, at, OpenFlags::READ);
    assert_eq!(r.unwrap_err(), Errno::ESTALE);
}

#[test]
fn odd_names_and_deep_trees() {
    let tmp = tempfile::tempdir().unwrap();
    let s = serve_dir(tmp.path());
    let long = [b'n'; 255];
    let odd: &[&[u8]] = &[&long, b"\xff\xfe\x80", b"a b\n\t\x01", b"...", b"-rf *", b"\\"];
    for name in odd {
        let at = At { dir: s.root(), name };
        s.client.create(at, 0o600, OpenFlags::WRITE, Owner::default()).unwrap();
        let w = s.client.walk(s.root(), &[name], Some(OpenFlags::READ)).unwrap();
        assert!(w.file.is_some());
    }
    let l = s.client.read_dir(s.root(), 0, true).unwrap();
    let mut names: Vec<_> = l.entries.iter().map(|e| &*e.name.0).collect();
    let mut expected = odd.to_vec();
    names.sort();
    expected.sort();
    assert_eq!(names, expected);
    for name in odd {
        s.client.unlink(At { dir: s.root(), name }, false).unwrap();
    }

    // 40 levels of 200 bytes: twice PATH_MAX.
    let name = [b'd'; 200];
    let top = s.client.mkdir(s.at("top"), 0o755, Owner::default()).unwrap();
    let mut dirs: Vec<rsentry_gofer::client::Node> = vec![top];
    for _ in 0..40 {
        let dir = &dirs.last().unwrap().handle;
        let node = s.client.mkdir(At { dir, name: &name }, 0o755, Owner::default()).unwrap();
        dirs.push(node);
    }
    let path: Vec<&[u8]> = vec![&name; 40];
    let w = s.client.walk(&dirs[0].handle, &path, None).unwrap();
    assert_eq!((w.found.len(), w.error), (40, None));
    // More components than one message takes.
    let longer: Vec<&[u8]> = vec![&name; 100];
    let w = s.client.walk(&dirs[0].handle, &longer, None).unwrap();
    assert_eq!((w.found.len(), w.error), (40, Some(Errno::ENOENT)));
    while let Some(node) = dirs.pop() {
        drop(node);
        if let Some(parent) = dirs.last() {
            s.client.unlink(At { dir: &parent.handle, name: &name }, true).unwrap();
        }
    }
}

#[test]
fn hidden_files_do_not_exist() {
    let tmp = tempfile::tempdir().unwrap();
    let etc = tmp.path().join("etc");
    fs::create_dir_all(etc.join("ssl/private")).unwrap();
    for f in ["shadow", "passwd", "ssl/private/key"] {
        fs::write(etc.join(f), "x").unwrap();
    }
    fs::hard_link(etc.join("shadow"), etc.join("alias")).unwrap();
    let s = serve(vec![export(tmp.path(), ExportFlags::empty(), Filter::host_secrets())]);
    let dir = s.find("etc");
    let at = |name: &'static str| At { dir: &dir.handle, name: name.as_bytes() };
    for name in ["shadow", "alias"] {
        let w = s.client.walk(&dir.handle, &[name.as_bytes()], Some(OpenFlags::READ)).unwrap();
        assert_eq!((w.found.len(), w.error), (0, Some(Errno::ENOENT)), "{name}");
        assert_eq!(s.client.unlink(at(name), false).unwrap_err(), Errno::ENOENT);
        let r = s.client.rename(at(name), at("x"), RenameFlags::empty());
        assert_eq!(r.unwrap_err(), Errno::ENOENT);
        let r = s.client.rename(at("passwd"), at(name), RenameFlags::empty());
        assert_eq!(r.unwrap_err(), Errno::EACCES);
    }
    let w = s.client.walk(&dir.handle, &[b"ssl", b"private", b"key"], None).unwrap();
    assert_eq!((w.found.len(), w.error), (1, Some(Errno::ENOENT)));
    for attrs in [false, true] {
        let l = s.client.read_dir(&dir.handle, 0, attrs).unwrap();
        let mut names: Vec<_> = l.entries.iter().map(|e| &*e.name.0).collect();
        names.sort();
        assert_eq!(names, [&b"passwd"[..], b"ssl"]);
    }
    let ssl = s.find("etc/ssl");
    let private = At { dir: &ssl.handle, name: b"private" };
    assert_eq!(s.client.list_child(private, true).unwrap_err(), Errno::ENOENT);
    let r = s.client.create(at("shadow"), 0o600, OpenFlags::WRITE, Owner::default());
    assert_eq!(r.unwrap_err(), Errno::EACCES);
    // A file that is replaced stays hidden, and the way to it cannot be renamed.
    fs::write(etc.join("new"), "y").unwrap();
    fs::rename(etc.join("new"), etc.join("shadow")).unwrap();
    let w = s.client.walk(&dir.handle, &[b"shadow"], None).unwrap();
    assert_eq!(w.error, Some(Errno::ENOENT));
    let r = s.client.rename(s.at("etc"), s.at("cte"), RenameFlags::empty());
    assert_eq!(r.unwrap_err(), Errno::EACCES);
}

#[test]
fn what_is_not_public_is_not_opened() {
    use std::os::unix::fs::PermissionsExt;
    let tmp = tempfile::tempdir().unwrap();
    let set = |name: &str, mode| {
        fs::set_permissions(tmp.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    fs::create_dir(tmp.path().join("d")).unwrap();
    for f in ["open", "closed", "d/f"] {
        fs::write(tmp.path().join(f), "x").unwrap();
    }
    set("open", 0o644);
    set("closed", 0o640);
    set("d", 0o750);
    set(".", 0o755);
    let flags = ExportFlags::READ_ONLY | ExportFlags::PUBLIC_ONLY;
    let s = serve(vec![export(tmp.path(), flags, Filter::none())]);
    let open = |name: &str| {
        let w = s.client.walk(s.root(), &[name.as_bytes()], Some(OpenFlags::READ)).unwrap();
        (w.file.is_some(), w.error)
    };
    assert_eq!(open("open"), (true, None));
    assert_eq!(open("closed"), (false, Some(Errno::EACCES)));
    let w = s.client.walk(s.root(), &[b"d", b"f"], None).unwrap();
    assert_eq!((w.found.len(), w.error), (1, Some(Errno::EACCES)));
    assert_eq!(s.client.read_dir(&s.find("d").handle, 0, false).unwrap_err(), Errno::EACCES);
}

#[test]
fn kernel_file_systems_are_not_served() {
    use rsentry_gofer::server::{Config, Server};
    for path in ["/proc", "/sys"] {
        let e = export(Path::new(path), ExportFlags::READ_ONLY, Filter::none());
        assert!(Server::new(vec![e], Config::default()).is_err(), "{path}");
    }
    let s = serve(vec![export(Path::new("/"), ExportFlags::READ_ONLY, Filter::none())]);
    let w = s.client.walk(s.root(), &[b"proc", b"1", b"root"], None).unwrap();
    assert_eq!((w.found.len(), w.error), (0, Some(Errno::EACCES)));
}
