//! Random changes of a tree, on our file systems and on the host's: the same errors, the same tree.

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use abi::Errno;
use platform::MemoryFile;
use proptest::prelude::*;

use super::dirops;
use super::namei::{LookupFlags, WalkContext};
use super::{
    Attr, Dentry, FileSystem, FileType, Inode, Mount, MountFlags, MountNamespace, NodeKind, Path,
};
use crate::fs::overlay::Overlay;
use crate::fs::tmpfs::{TmpFs, TmpfsOptions};
use crate::kernel::{Caps, Credentials};

mod walks;

/// One change, or one look.
#[derive(Clone, Debug)]
enum Op {
    Mkdir(String),
    File(String),
    Symlink(String, String),
    Link(String, String, bool),
    Unlink(String),
    Rmdir(String),
    Rename(String, String, u32),
    Stat(String, bool),
}

/// What a look saw.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    kind: u32,
    nlink: Option<u64>,
    size: Option<u64>,
}

type Outcome = Result<Option<Seen>, Errno>;

/// A tree that changes can be made to.
trait Tree {
    fn apply(&self, op: &Op) -> Outcome;
    /// Every path with its type, sorted; of links the text too.
    fn walk(&self) -> Vec<(Vec<u8>, u32, Vec<u8>)>;
}

/// Directories above the place where paths start, so that a few ".." stay inside.
const NEST: &str = "r1/r2/r3/r4";

struct Host {
    _dir: tempfile::TempDir,
    start: OwnedFd,
    base: std::path::PathBuf,
}

impl Host {
    fn new() -> Host {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join(NEST);
        std::fs::create_dir_all(&base).unwrap();
        let start = std::fs::File::open(&base).unwrap().into();
        Host { _dir: dir, start, base }
    }
}

fn c(path: &str) -> CString {
    CString::new(path).unwrap()
}

fn check(ret: i64) -> Result<(), Errno> {
    if ret < 0 { Err(std::io::Error::last_os_error().into()) } else { Ok(()) }
}

impl Tree for Host {
    fn apply(&self, op: &Op) -> Outcome {
        let d = self.start.as_raw_fd();
        // SAFETY: all pointers are to C strings, or to a `stat`, that live through the calls.
        unsafe {
            let ret: i64 = match op {
                Op::Mkdir(p) => libc::mkdirat(d, c(p).as_ptr(), 0o755).into(),
                Op::File(p) => libc::mknodat(d, c(p).as_ptr(), libc::S_IFREG | 0o644, 0).into(),
                Op::Symlink(t, p) => libc::symlinkat(c(t).as_ptr(), d, c(p).as_ptr()).into(),
                Op::Link(a, b, follow) => {
                    let flags = if *follow { libc::AT_SYMLINK_FOLLOW } else { 0 };
                    libc::linkat(d, c(a).as_ptr(), d, c(b).as_ptr(), flags).into()
                }
                Op::Unlink(p) => libc::unlinkat(d, c(p).as_ptr(), 0).into(),
                Op::Rmdir(p) => libc::unlinkat(d, c(p).as_ptr(), libc::AT_REMOVEDIR).into(),
                Op::Rename(a, b, flags) => {
                    let (a, b) = (c(a), c(b));
                    libc::syscall(libc::SYS_renameat2, d, a.as_ptr(), d, b.as_ptr(), *flags)
                }
                Op::Stat(p, follow) => {
                    let mut stat: libc::stat = std::mem::zeroed();
                    let flags = if *follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
                    check(libc::fstatat(d, c(p).as_ptr(), &mut stat, flags).into())?;
                    let plain = stat.st_mode & libc::S_IFMT != libc::S_IFDIR;
                    return Ok(Some(Seen {
                        kind: stat.st_mode & libc::S_IFMT,
                        nlink: plain.then_some(stat.st_nlink),
                        size: plain.then_some(stat.st_size as u64),
                    }));
                }
            };
            check(ret).map(|()| None)
        }
    }

    fn walk(&self) -> Vec<(Vec<u8>, u32, Vec<u8>)> {
        fn into(dir: &std::path::Path, prefix: &[u8], out: &mut Vec<(Vec<u8>, u32, Vec<u8>)>) {
            for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
                use std::os::unix::fs::MetadataExt;
                let path = [prefix, b"/", entry.file_name().as_bytes()].concat();
                let mode = entry.metadata().unwrap().mode() & libc::S_IFMT;
                let text = std::fs::read_link(entry.path()).ok();
                let text = text.map(|t| t.as_os_str().as_bytes().to_vec()).unwrap_or_default();
                out.push((path.clone(), mode, text));
                if mode == libc::S_IFDIR {
                    into(&entry.path(), &path, out);
                }
            }
        }
        let mut out = Vec::new();
        into(&self.base, b"", &mut out);
        out.sort();
        out
    }
}

struct Ours {
    ctx: WalkContext<'static>,
}

fn credentials() -> Arc<Credentials> {
    // SAFETY: these calls have no arguments.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    Arc::new(Credentials::new(uid, gid, &[], Caps::all()))
}

fn new_tmpfs() -> (Arc<dyn FileSystem>, Arc<dyn Inode>) {
    let memory = MemoryFile::new(16 << 20).unwrap();
    let cred = credentials();
    let options = TmpfsOptions {
        mode: 0o755,
        uid: cred.fsuid,
        gid: cred.fsgid,
        inodes: 1 << 20,
        ..TmpfsOptions::for_memory(&memory)
    };
    let (fs, root) = TmpFs::new(memory, options).unwrap();
    (fs, root)
}

impl Ours {
    fn new(fs: Arc<dyn FileSystem>, root: Arc<dyn Inode>) -> Ours {
        let mount = Mount::new(fs, Dentry::root(b"/", root), "test", MountFlags::empty());
        let root = mount.root_path();
        let mounts = MountNamespace::new(mount);
        let ctx =
            WalkContext { root: root.clone(), cwd: root, cred: credentials(), mounts, task: None };
        Ours { ctx }
    }

    fn tmpfs() -> Ours {
        let (fs, root) = new_tmpfs();
        Ours::new(fs, root)
    }

    /// Makes the nest, and starts there.
    fn nested(mut self) -> Ours {
        let parts: Vec<&str> = NEST.split('/').collect();
        for n in 1..=parts.len() {
            let result = self.apply(&Op::Mkdir(parts[..n].join("/")));
            assert!(matches!(result, Ok(_) | Err(Errno::EEXIST)), "{result:?}");
        }
        self.ctx.cwd = self.find(NEST, true).unwrap();
        self
    }

    fn find(&self, path: &str, follow: bool) -> Result<Path, Errno> {
        let flags = if follow { LookupFlags::FOLLOW } else { LookupFlags::empty() };
        self.ctx.lookup(self.ctx.cwd.clone(), path.as_bytes(), flags)
    }

    fn create(&self, path: &str, kind: NodeKind<'_>) -> Result<(), Errno> {
        let (dir, last) = self.ctx.parent(self.ctx.cwd.clone(), path.as_bytes())?;
        dirops::create(&self.ctx, &dir, last, 0o755, kind)
    }
}

fn walk_inode(dir: &Arc<dyn Inode>, prefix: &[u8], out: &mut Vec<(Vec<u8>, u32, Vec<u8>)>) {
    let mut names = Vec::new();
    dir.clone()
        .list(&mut |e| {
            if e.name != b"." && e.name != b".." {
                names.push(e.name.to_vec());
            }
            true
        })
        .unwrap();
    for name in names {
        let inode = dir.lookup(&name, b"").unwrap();
        let path = [prefix, b"/", &name].concat();
        let text = inode.readlink().unwrap_or_default();
        out.push((path.clone(), inode.file_type().mode_bits(), text));
        if inode.file_type() == FileType::Directory {
            walk_inode(&inode, &path, out);
        }
    }
}

impl Tree for Ours {
    fn apply(&self, op: &Op) -> Outcome {
        let parent = |p| self.ctx.parent(self.ctx.cwd.clone(), str::as_bytes(p));
        match op {
            Op::Mkdir(p) => self.create(p, NodeKind::Directory)?,
            Op::File(p) => self.create(p, NodeKind::Regular)?,
            Op::Symlink(t, p) => self.create(p, NodeKind::Symlink(t.as_bytes()))?,
            Op::Link(a, b, follow) => {
                let old = self.find(a, *follow)?;
                let (dir, last) = parent(b)?;
                dirops::link(&self.ctx, &old, &dir, last)?;
            }
            Op::Unlink(p) => {
                let (dir, last) = parent(p)?;
                dirops::unlink(&self.ctx, &dir, last)?;
            }
            Op::Rmdir(p) => {
                let (dir, last) = parent(p)?;
                dirops::rmdir(&self.ctx, &dir, last)?;
            }
            Op::Rename(a, b, flags) => {
                let (old_dir, old) = parent(a)?;
                let (new_dir, new) = parent(b)?;
                dirops::rename(&self.ctx, &old_dir, old, &new_dir, new, *flags)?;
            }
            Op::Stat(p, follow) => {
                let attr: Attr = self.find(p, *follow)?.inode()?.attr()?;
                let plain = attr.file_type() != FileType::Directory;
                return Ok(Some(Seen {
                    kind: attr.mode & libc::S_IFMT,
                    nlink: plain.then_some(attr.nlink.into()),
                    size: plain.then_some(attr.size),
                }));
            }
        }
        Ok(None)
    }

    fn walk(&self) -> Vec<(Vec<u8>, u32, Vec<u8>)> {
        let mut out = Vec::new();
        walk_inode(&self.ctx.cwd.inode().unwrap(), b"", &mut out);
        out.sort();
        out
    }
}

/// A path of few names, so that they meet; at most two "..".
fn path() -> impl Strategy<Value = String> {
    let name = || prop_oneof![8 => "[abc]", 1 => Just(".".to_owned()), 1 => Just("..".to_owned())];
    let slash = prop_oneof![6 => Just(""), 1 => Just("/"), 1 => Just("//")];
    (proptest::collection::vec(name(), 1..4), slash).prop_filter_map(
        "too far up",
        |(parts, end)| {
            let up = parts.iter().filter(|p| *p == "..").count();
            (up <= 2).then(|| parts.join("/") + end)
        },
    )
}

fn op() -> impl Strategy<Value = Op> {
    // Targets without "..": chains of links must not lead out.
    let target = "[abc](/[abc]){0,2}/?";
    prop_oneof![
        3 => path().prop_map(Op::Mkdir),
        3 => path().prop_map(Op::File),
        2 => (target, path()).prop_map(|(t, p)| Op::Symlink(t, p)),
        2 => (path(), path(), any::<bool>()).prop_map(|(a, b, f)| Op::Link(a, b, f)),
        2 => path().prop_map(Op::Unlink),
        2 => path().prop_map(Op::Rmdir),
        5 => (path(), path(), 0..3u32).prop_map(|(a, b, f)| Op::Rename(a, b, f)),
        4 => (path(), any::<bool>()).prop_map(|(p, f)| Op::Stat(p, f)),
    ]
}

fn compare(ours: &dyn Tree, host: &dyn Tree, ops: &[Op]) -> Result<(), TestCaseError> {
    for (i, op) in ops.iter().enumerate() {
        let (a, b) = (ours.apply(op), host.apply(op));
        prop_assert_eq!(a, b, "operation {} of {:?}", i, ops);
    }
    prop_assert_eq!(ours.walk(), host.walk(), "after {:?}", ops);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn tmpfs_is_as_the_host(ops in proptest::collection::vec(op(), 1..50)) {
        compare(&Ours::tmpfs().nested(), &Host::new(), &ops)?;
    }

    /// What was there before is the lower layer.
    #[test]
    fn overlay_is_as_the_host(
        before in proptest::collection::vec(op(), 0..30),
        after in proptest::collection::vec(op(), 1..40),
    ) {
        let host = Host::new();
        let lower = Ours::tmpfs().nested();
        compare(&lower, &host, &before)?;
        let (_upper_fs, upper) = new_tmpfs();
        let overlay = Overlay::new(upper, vec![lower.ctx.root.inode().unwrap()]).unwrap();
        let root = overlay.root().unwrap();
        let lower_before = lower.walk();
        let ours = Ours::new(overlay.clone(), root).nested();
        prop_assert_eq!(ours.walk(), host.walk());
        compare(&ours, &host, &after)?;
        prop_assert_eq!(lower.walk(), lower_before, "the lower layer changed");
        overlay.forget();
    }
}

#[test]
fn long_names_and_loops() {
    let ours = Ours::tmpfs();
    let long = "n".repeat(256);
    let stat = |p: &str| ours.apply(&Op::Stat(p.into(), true)).map(|_| ());
    assert_eq!(stat(&long), Err(Errno::ENAMETOOLONG));
    assert_eq!(stat(&long[..255]), Err(Errno::ENOENT));
    assert_eq!(stat(""), Err(Errno::ENOENT));
    assert_eq!(stat(&"a/".repeat(2048)), Err(Errno::ENAMETOOLONG));
    ours.apply(&Op::Symlink("l".into(), "l".into())).unwrap();
    assert_eq!(stat("l"), Err(Errno::ELOOP));
    // Forty links in a row are fine, one more is not.
    ours.apply(&Op::File("end".into())).unwrap();
    ours.apply(&Op::Symlink("end".into(), "l0".into())).unwrap();
    for n in 1..=40 {
        ours.apply(&Op::Symlink(format!("l{}", n - 1), format!("l{n}"))).unwrap();
    }
    assert_eq!(stat("l39"), Ok(()));
    assert_eq!(stat("l40"), Err(Errno::ELOOP));
}

#[test]
fn mounts_cover_and_dot_dot_leaves_them() {
    let ours = Ours::tmpfs();
    ours.apply(&Op::Mkdir("m".into())).unwrap();
    ours.apply(&Op::File("m/below".into())).unwrap();
    let at = ours.find("m", true).unwrap();
    let (fs, root) = new_tmpfs();
    let mount = Mount::new(fs, Dentry::root(b"/", root), "x", MountFlags::empty());
    ours.ctx.mounts.attach(mount.clone(), at.clone());
    assert_eq!(ours.find("m/below", true).err(), Some(Errno::ENOENT));
    assert!(ours.find("m/..", true).unwrap().same(&ours.ctx.root));
    assert!(ours.find("m/../..", true).unwrap().same(&ours.ctx.root));
    ours.apply(&Op::Mkdir("m/d".into())).unwrap();
    let inside = ours.find("m/d", true).unwrap();
    assert_eq!(super::dpath::d_path(&inside, &ours.ctx.root), b"/m/d");
    assert_eq!(ours.apply(&Op::Rmdir("m".into())), Err(Errno::EBUSY));
    assert_eq!(ours.apply(&Op::Rename("m/d".into(), "d".into(), 0)), Err(Errno::EXDEV));
    // In use: `inside` refers to it.
    assert_eq!(ours.ctx.mounts.unmount(&mount, false), Err(Errno::EBUSY));
    assert_eq!(ours.ctx.mounts.unmount(&mount, true), Ok(()));
    ours.find("m/below", true).unwrap();
    let cwd = super::dpath::cwd_path(&inside, &ours.ctx.root).unwrap();
    assert_eq!(cwd, b"(unreachable)/d");
}

#[test]
fn scoped_lookups_stay_inside() {
    let ours = Ours::tmpfs();
    for op in [
        Op::Mkdir("d".into()),
        Op::File("out".into()),
        Op::File("d/in".into()),
        Op::Symlink("/in".into(), "d/abs".into()),
        Op::Symlink("../out".into(), "d/up".into()),
    ] {
        ours.apply(&op).unwrap();
    }
    let d = ours.find("d", true).unwrap();
    let open = |path: &[u8], flags| {
        ours.ctx.lookup(d.clone(), path, LookupFlags::FOLLOW | flags).map(|_| ())
    };
    assert_eq!(open(b"in", LookupFlags::BENEATH), Ok(()));
    assert_eq!(open(b"../out", LookupFlags::BENEATH), Err(Errno::EXDEV));
    assert_eq!(open(b"up", LookupFlags::BENEATH), Err(Errno::EXDEV));
    assert_eq!(open(b"abs", LookupFlags::BENEATH), Err(Errno::EXDEV));
    assert_eq!(open(b"abs", LookupFlags::IN_ROOT), Ok(()));
    assert_eq!(open(b"up", LookupFlags::IN_ROOT), Err(Errno::ENOENT));
    assert_eq!(open(b"abs", LookupFlags::NO_SYMLINKS), Err(Errno::ELOOP));
}

#[test]
fn removed_directories_take_nothing_new() {
    let mut ours = Ours::tmpfs();
    ours.apply(&Op::Mkdir("d".into())).unwrap();
    let d = ours.find("d", true).unwrap();
    ours.apply(&Op::Rmdir("d".into())).unwrap();
    assert_eq!(super::dpath::cwd_path(&d, &ours.ctx.root), Err(Errno::ENOENT));
    assert_eq!(super::dpath::d_path(&d, &ours.ctx.root), b"/d (deleted)");
    ours.ctx.cwd = d;
    assert_eq!(ours.apply(&Op::File("x".into())), Err(Errno::ENOENT));
    assert_eq!(ours.apply(&Op::Stat("x".into(), true)), Err(Errno::ENOENT));
    assert!(ours.apply(&Op::Stat("..".into(), true)).is_ok());
}

#[test]
fn deep_trees_are_dropped_without_recursion() {
    let mut ours = Ours::tmpfs();
    let root = ours.ctx.cwd.clone();
    for _ in 0..100_000 {
        ours.apply(&Op::Mkdir("d".into())).unwrap();
        ours.ctx.cwd = ours.find("d", true).unwrap();
    }
    ours.ctx.cwd = root;
    drop(ours);
}
