//! The file system over a real gofer in another thread.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;
use gofer::client::Client;
use gofer::server::{Export, Filter, serve};
use gofer::wire::types::ExportFlags;

use super::GoferFs;
use super::dir::OpenDir;
use super::file::OpenFile;
use super::inode::GoferInode;
use crate::vfs::{
    FileOps, FileSystem, FileType, Inode, IoDst, IoSrc, NewNode, NodeKind, OpenFlags, SetAttr,
};

pub(super) fn mount(path: &Path, flags: ExportFlags) -> Arc<GoferFs> {
    let (ours, theirs) = gofer::socket_pair().unwrap();
    let root = fs::File::open(path).unwrap().into();
    let export = Export { root, tag: b"/".to_vec(), flags, filter: Filter::none() };
    std::thread::spawn(move || serve(vec![export], ours));
    let (client, mut exports) = Client::connect(theirs).unwrap();
    GoferFs::new(client, exports.remove(0))
}

const BOTH: [ExportFlags; 2] = [ExportFlags::EXCLUSIVE, ExportFlags::empty()];

fn walk(fs: &GoferFs, path: &str) -> Result<Arc<dyn Inode>, Errno> {
    let mut at = fs.root()?;
    let mut rest = path;
    while !rest.is_empty() {
        let (name, tail) = rest.split_once('/').unwrap_or((rest, ""));
        at = at.lookup(name.as_bytes(), tail.as_bytes())?;
        rest = tail;
    }
    Ok(at)
}

fn inode(fs: &GoferFs, path: &str) -> Arc<GoferInode> {
    let found = walk(fs, path).unwrap();
    found.as_any().downcast_ref::<GoferInode>().unwrap().me.upgrade().unwrap()
}

fn open(fs: &GoferFs, path: &str, flags: OpenFlags) -> Box<dyn FileOps> {
    OpenFile::open(inode(fs, path), flags).unwrap()
}

fn list(fs: &GoferFs, path: &str) -> Vec<String> {
    let dir = OpenDir::new(inode(fs, path));
    let (mut pos, mut names) = (0, Vec::new());
    loop {
        let before = names.len();
        // Small replies, so that positions matter.
        dir.read_dir(&mut pos, &mut |e| {
            if names.len() - before == 3 {
                return false;
            }
            names.push(String::from_utf8(e.name.to_vec()).unwrap());
            true
        })
        .unwrap();
        if names.len() == before {
            names.sort();
            return names;
        }
    }
}

pub(super) fn new_node(kind: NodeKind<'_>, mode: u32) -> NewNode<'_> {
    let (uid, gid) = (nix_uid(), nix_gid());
    NewNode { mode, uid, gid, kind }
}

fn nix_uid() -> u32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::geteuid() }
}

fn nix_gid() -> u32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::getegid() }
}

#[test]
fn lookups_reads_and_listings() {
    for flags in BOTH {
        let tmp = tempfile::tempdir().unwrap();
        fs::create_dir_all(tmp.path().join("a/b/c")).unwrap();
        fs::write(tmp.path().join("a/b/c/f"), "hello world").unwrap();
        std::os::unix::fs::symlink("b/c", tmp.path().join("a/l")).unwrap();
        for i in 0..10 {
            fs::write(tmp.path().join(format!("a/n{i}")), "x").unwrap();
        }
        let m = mount(tmp.path(), flags);
        assert_eq!(walk(&m, "a/b/c/f").unwrap().attr().unwrap().size, 11);
        assert_eq!(walk(&m, "a/x/c/f").err(), Some(Errno::ENOENT));
        assert_eq!(walk(&m, "a/b/c/f/g").err(), Some(Errno::ENOTDIR));
        assert_eq!(walk(&m, "a/l").unwrap().readlink().unwrap(), b"b/c");
        assert!(Arc::ptr_eq(&inode(&m, "a/b"), &inode(&m, "a/b")));

        let f = open(&m, "a/b/c/f", OpenFlags::empty());
        let mut buf = [0; 32];
        let mut dst = IoDst::kernel(&mut buf);
        assert_eq!(f.read(&mut dst, 6), Ok(5));
        assert_eq!(&buf[..5], b"world");
        assert_eq!(f.read(&mut IoDst::kernel(&mut buf), 11), Ok(0));
        let past = f.read(&mut IoDst::kernel(&mut buf), u64::MAX);
        assert_eq!(past, Err(Errno::EINVAL));

        let mut expected: Vec<String> = (0..10).map(|i| format!("n{i}")).collect();
        expected.extend([".", "..", "b", "l"].map(String::from));
        expected.sort();
        assert_eq!(list(&m, "a"), expected);
        // From the cached listing, where there is one.
        assert_eq!(walk(&m, "a/n3").unwrap().attr().unwrap().size, 1);
        assert_eq!(walk(&m, "a/n3").unwrap().file_type(), FileType::Regular);
        assert_eq!(walk(&m, "a/missing").err(), Some(Errno::ENOENT));
        assert_eq!(walk(&m, "a/l").unwrap().readlink().unwrap(), b"b/c");
        let f = open(&m, "a/n4", OpenFlags::empty());
        assert_eq!(f.read(&mut IoDst::kernel(&mut buf), 0), Ok(1));
    }
}

#[test]
fn an_exclusive_listing_answers_without_the_gofer() {
    let tmp = tempfile::tempdir().unwrap();
    fs::create_dir(tmp.path().join("d")).unwrap();
    fs::write(tmp.path().join("d/f"), "x").unwrap();
    let m = mount(tmp.path(), ExportFlags::EXCLUSIVE);
    let d = inode(&m, "d");
    list(&m, "d");
    // Behind the back of an exclusive export: what is cached still holds.
    fs::remove_dir_all(tmp.path().join("d")).unwrap();
    assert_eq!(d.lookup(b"f", b"").unwrap().attr().unwrap().size, 1);
    assert_eq!(d.lookup(b"g", b"").err(), Some(Errno::ENOENT));
}

#[test]
fn many_lookups_fetch_the_listing() {
    let tmp = tempfile::tempdir().unwrap();
    fs::create_dir_all(tmp.path().join("d/sub")).unwrap();
    fs::write(tmp.path().join("d/sub/f"), "xyz").unwrap();
    fs::write(tmp.path().join("d/f"), "x").unwrap();
    let m = mount(tmp.path(), ExportFlags::EXCLUSIVE);
    let d = inode(&m, "d");
    for i in 0..200 {
        assert_eq!(d.lookup(format!("no{i}").as_bytes(), b"").err(), Some(Errno::ENOENT));
    }
    // A directory that is known from the listing only is looked up with what is in it.
    assert_eq!(walk(&m, "d/sub/f").unwrap().attr().unwrap().size, 3);
    drop(walk(&m, "d/sub"));
    assert_eq!(list(&m, "d/sub"), [".", "..", "f"]);
    fs::remove_dir_all(tmp.path().join("d")).unwrap();
    assert_eq!(d.lookup(b"f", b"").unwrap().attr().unwrap().size, 1);
    assert_eq!(d.lookup(b"sub", b"").unwrap().lookup(b"f", b"").err(), Some(Errno::ESTALE));
}

#[test]
fn a_shared_export_notices_changes() {
    let tmp = tempfile::tempdir().unwrap();
    fs::write(tmp.path().join("f"), "x").unwrap();
    let m = mount(tmp.path(), ExportFlags::empty());
    let root = m.root().unwrap();
    let f = root.lookup(b"f", b"").unwrap();
    assert!(root.revalidate(b"f", &f));
    fs::write(tmp.path().join("f"), "xyz").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(3));
    assert_eq!(f.attr().unwrap().size, 3);
    fs::write(tmp.path().join("g"), "new").unwrap();
    fs::rename(tmp.path().join("g"), tmp.path().join("f")).unwrap();
    assert!(!root.revalidate(b"f", &f));
    fs::remove_file(tmp.path().join("f")).unwrap();
    assert!(!root.revalidate(b"f", &f));
    assert_eq!(root.lookup(b"f", b"").err(), Some(Errno::ENOENT));
}

#[test]
fn changes_are_seen_at_once() {
    for flags in BOTH {
        let tmp = tempfile::tempdir().unwrap();
        fs::write(tmp.path().join("old"), "x").unwrap();
        let m = mount(tmp.path(), flags);
        let root = m.root().unwrap();
        list(&m, "");
        let f = root.create(b"f", &new_node(NodeKind::Regular, 0o644)).unwrap();
        assert_eq!(f.attr().unwrap().mode, libc::S_IFREG | 0o644);
        assert_eq!(list(&m, ""), [".", "..", "f", "old"]);
        let w = open(&m, "f", OpenFlags::RDWR);
        assert_eq!(w.write(&mut IoSrc::kernel(b"abc"), 2), Ok(3));
        assert_eq!(w.append(&mut IoSrc::kernel(b"de")), Ok((2, 7)));
        assert_eq!(f.attr().unwrap().size, 7);
        assert_eq!(fs::read(tmp.path().join("f")).unwrap(), b"\0\0abcde");
        f.set_attr(&SetAttr { size: Some(4), mode: Some(0o600), ..SetAttr::default() }).unwrap();
        let attr = f.attr().unwrap();
        assert_eq!((attr.size, attr.mode & 0o7777), (4, 0o600));

        let d = root.create(b"d", &new_node(NodeKind::Directory, 0o755)).unwrap();
        root.rename(b"f", &d, b"g", false).unwrap();
        assert_eq!(walk(&m, "f").err(), Some(Errno::ENOENT));
        assert!(Arc::ptr_eq(&walk(&m, "d/g").unwrap(), &f));
        // The place went with it: it can be opened anew.
        inode(&m, "d/g").close_unused();
        drop(w);
        inode(&m, "d/g").close_unused();
        let mut buf = [0; 8];
        let r = open(&m, "d/g", OpenFlags::empty());
        assert_eq!(r.read(&mut IoDst::kernel(&mut buf), 0), Ok(4));

        root.link(b"h", &f).unwrap();
        assert_eq!(f.attr().unwrap().nlink, 2);
        root.rename(b"old", &root, b"h", true).unwrap();
        assert_eq!(walk(&m, "h").unwrap().attr().unwrap().size, 1);
        assert!(Arc::ptr_eq(&walk(&m, "old").unwrap(), &f));
        list(&m, "");
        root.unlink(b"old", &f).unwrap();
        assert_eq!(f.attr().unwrap().nlink, 1);
        assert_eq!(list(&m, ""), [".", "..", "d", "h"]);
        assert_eq!(root.rmdir(b"d", &d).err(), Some(Errno::ENOTEMPTY));
        d.unlink(b"g", &f).unwrap();
        root.rmdir(b"d", &d).unwrap();
        assert_eq!(walk(&m, "d").err(), Some(Errno::ENOENT));
        assert_eq!(f.attr().unwrap().nlink, 0);
        let text = NodeKind::Symlink(b"target");
        let l = root.create(b"l", &new_node(text, 0o777)).unwrap();
        assert_eq!(l.readlink().unwrap(), b"target");
        let p = root.create(b"p", &new_node(NodeKind::Fifo, 0o600)).unwrap();
        assert_eq!(p.file_type(), FileType::Fifo);
        m.sync().unwrap();
    }
}

#[test]
fn unlinked_while_known_from_a_listing_only() {
    let tmp = tempfile::tempdir().unwrap();
    fs::write(tmp.path().join("f"), "x").unwrap();
    let m = mount(tmp.path(), ExportFlags::EXCLUSIVE);
    list(&m, "");
    let root = m.root().unwrap();
    let f = walk(&m, "f").unwrap();
    root.unlink(b"f", &f).unwrap();
    assert_eq!(f.attr().unwrap().nlink, 0);
    assert_eq!(walk(&m, "f").err(), Some(Errno::ENOENT));
}

#[test]
fn inodes_go_when_nobody_uses_them() {
    let tmp = tempfile::tempdir().unwrap();
    let deep = (0..300).fold(tmp.path().to_path_buf(), |p, _| p.join("d"));
    fs::create_dir_all(&deep).unwrap();
    let m = mount(tmp.path(), ExportFlags::EXCLUSIVE);
    let path = vec!["d"; 300].join("/");
    let bottom = walk(&m, &path).unwrap();
    assert_eq!(m.inodes.lock().len(), 301);
    drop(bottom);
    assert_eq!(m.inodes.lock().len(), 1);
}

#[test]
fn a_dead_gofer_gives_eio() {
    let tmp = tempfile::tempdir().unwrap();
    fs::write(tmp.path().join("f"), "x").unwrap();
    let (ours, theirs) = gofer::socket_pair().unwrap();
    let root = fs::File::open(tmp.path()).unwrap().into();
    let export =
        Export { root, tag: Vec::new(), flags: ExportFlags::EXCLUSIVE, filter: Filter::none() };
    let stop = ours.try_clone().unwrap();
    std::thread::spawn(move || serve(vec![export], ours));
    let (client, mut exports) = Client::connect(theirs).unwrap();
    let m = GoferFs::new(client, exports.remove(0));
    let f = open(&m, "f", OpenFlags::empty());
    // SAFETY: only numbers.
    unsafe { libc::shutdown(std::os::fd::AsRawFd::as_raw_fd(&stop), libc::SHUT_RDWR) };
    assert_eq!(walk(&m, "other").err(), Some(Errno::EIO));
    // What is open stays readable.
    let mut buf = [0; 8];
    assert_eq!(f.read(&mut IoDst::kernel(&mut buf), 0), Ok(1));
}

#[test]
fn nodes_are_given_up_and_found_again() {
    for flags in BOTH {
        let tmp = tempfile::tempdir().unwrap();
        fs::create_dir_all(tmp.path().join("a/b/c")).unwrap();
        fs::write(tmp.path().join("a/b/c/f"), "x").unwrap();
        std::os::unix::fs::symlink("f", tmp.path().join("a/b/c/l")).unwrap();
        let m = mount(tmp.path(), flags);
        let held = (inode(&m, "a/b/c"), inode(&m, "a/b/c/f"), inode(&m, "a/b/c/l"));
        assert_eq!(m.handles.load(Ordering::Relaxed), 6);
        m.shed();
        assert_eq!(m.handles.load(Ordering::Relaxed), 1);
        let f = OpenFile::open(held.1.clone(), OpenFlags::RDWR).unwrap();
        assert_eq!(f.write(&mut IoSrc::kernel(b"yz"), 0), Ok(2));
        m.shed();
        assert_eq!(held.2.readlink().unwrap(), b"f");
        assert_eq!(list(&m, "a/b/c"), [".", "..", "f", "l"]);
        m.shed();
        let dir = m.root().unwrap().lookup(b"a", b"").unwrap();
        m.shed();
        dir.create(b"new", &new_node(NodeKind::Directory, 0o755)).unwrap();
        m.shed();
        fs::rename(tmp.path().join("a"), tmp.path().join("z")).unwrap();
        assert_eq!(held.0.handle().err(), Some(Errno::ESTALE));
    }
}
