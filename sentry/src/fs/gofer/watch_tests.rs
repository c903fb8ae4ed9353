//! Shared exports: the host changes the tree, and the next lookup has to see it.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::Errno;
use gofer::wire::types::ExportFlags;
use parking_lot::Mutex;

use super::GoferFs;
use super::tests::{mount, new_node};
use crate::vfs::{Inode, NodeKind};

/// Children by directory and name, the latest last.
type Dentries = HashMap<(usize, String), Vec<Arc<dyn Inode>>>;

struct Shared {
    tmp: tempfile::TempDir,
    fs: Arc<GoferFs>,
    root: Arc<dyn Inode>,
    /// Stands for the dentry cache. Keeps directories for good, so that each has its own address.
    dentries: Mutex<Dentries>,
}

impl Shared {
    fn new() -> Shared {
        let tmp = tempfile::tempdir().unwrap();
        let fs = mount(tmp.path(), ExportFlags::empty());
        fs.watcher.begin();
        let root = fs.root().unwrap();
        Shared { tmp, fs, root, dentries: Mutex::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.tmp.path().join(name)
    }

    /// The host's inode number of a path, as a guest finds it who trusts what it may.
    fn look(&self, path: &str) -> Result<u64, Errno> {
        let mut at = self.root.clone();
        for name in path.split('/') {
            let key = (Arc::as_ptr(&at).cast::<u8>() as usize, name.to_owned());
            let cached = self.dentries.lock().get(&key).and_then(|all| all.last().cloned());
            at = match cached.filter(|child| at.revalidate(name.as_bytes(), child)) {
                Some(child) => child,
                None => {
                    let child = at.lookup(name.as_bytes(), b"")?;
                    self.dentries.lock().entry(key).or_default().push(child.clone());
                    child
                }
            };
        }
        Ok(at.key().ino)
    }

    /// Round trips that `f` takes.
    fn trips(&self, f: impl FnOnce(&Self)) -> u32 {
        let before = self.fs.client.requests();
        f(self);
        self.fs.client.requests() - before
    }

    /// Looks names up until the directory is watched.
    fn warm(&self, path: &str) {
        for _ in 0..5 {
            let _ = self.look(path);
        }
    }
}

fn host(path: &Path) -> Result<u64, Errno> {
    fs::symlink_metadata(path).map(|m| m.ino()).map_err(Errno::from)
}

#[test]
fn names_are_answered_without_asking() {
    let s = Shared::new();
    fs::create_dir(s.path("d")).unwrap();
    fs::write(s.path("d/there"), "x").unwrap();
    for path in ["d/there", "d/missing"] {
        s.warm(path);
        let again = |s: &Shared| {
            for _ in 0..1000 {
                assert_eq!(s.look(path), host(&s.path(path)), "{path}");
            }
        };
        assert_eq!(s.trips(again), 0, "{path}");
    }
    let d = s.root.lookup(b"d", b"").unwrap();
    let file = d.lookup(b"there", b"").unwrap();
    let hold = |_: &Shared| {
        for _ in 0..1000 {
            assert!(d.revalidate(b"there", &file));
            assert!(d.access_attr().is_ok());
        }
    };
    assert_eq!(s.trips(hold), 1);
    fs::rename(s.path("d/there"), s.path("d/elsewhere")).unwrap();
    assert!(!d.revalidate(b"there", &file));
    assert!(d.revalidate(b"elsewhere", &file));
    use std::os::unix::fs::PermissionsExt;
    for mode in [0o700, 0o755, 0o711] {
        fs::set_permissions(s.path("d"), fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(d.access_attr().unwrap().mode & 0o777, mode);
    }
}

#[test]
fn a_short_life_makes_no_watches() {
    let tmp = tempfile::tempdir().unwrap();
    let fs = mount(tmp.path(), ExportFlags::empty());
    let root = fs.root().unwrap();
    for _ in 0..200 {
        assert_eq!(root.lookup(b"missing", b"").err(), Some(Errno::ENOENT));
    }
    assert_eq!(fs.watcher.counts(), (0, 0));
    for _ in 0..200 {
        assert_eq!(root.lookup(b"missing", b"").err(), Some(Errno::ENOENT));
    }
    assert_eq!(fs.watcher.counts(), (1, 1));
}

/// xorshift64*
struct Random(u64);

impl Random {
    fn new() -> Random {
        Random(std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 1) | 1)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

fn exchange(a: &Path, b: &Path) -> std::io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let [a, b] = [a, b].map(|path| CString::new(path.as_os_str().as_bytes()).unwrap());
    let (here, how) = (libc::AT_FDCWD, libc::RENAME_EXCHANGE);
    // SAFETY: both strings are NUL-terminated.
    match unsafe { libc::renameat2(here, a.as_ptr(), here, b.as_ptr(), how) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// One change at random of a tree of three directories with four names each.
fn change(s: &Shared, rng: &mut Random) {
    let mut name = || s.path(&format!("d{}/n{}", rng.below(3), rng.below(4)));
    let (a, b) = (name(), name());
    // What does not work at the time does nothing.
    let _ = match rng.below(10) {
        0 => fs::write(&a, "x"),
        1 => fs::remove_file(&a),
        2 => fs::create_dir(&a),
        3 => fs::remove_dir(&a),
        4 | 5 => fs::rename(&a, &b),
        6 => fs::hard_link(&a, &b),
        7 => exchange(&a, &b),
        8 => std::os::unix::fs::symlink("x", &a),
        // A directory goes, and comes again as another.
        _ => {
            let dir = a.parent().unwrap().to_owned();
            let aside = s.path("aside");
            fs::rename(&dir, &aside).and_then(|()| fs::create_dir(&dir)).unwrap();
            if rng.below(2) == 0 {
                let _ = fs::write(&a, "y");
            }
            fs::remove_dir_all(aside)
        }
    };
}

fn agrees(s: &Shared, rounds: usize) {
    let mut rng = Random::new();
    let seed = rng.0;
    for dir in 0..3 {
        fs::create_dir(s.path(&format!("d{dir}"))).unwrap();
    }
    for round in 0..rounds {
        for _ in 0..rng.below(3) {
            change(s, &mut rng);
        }
        for _ in 0..1 + rng.below(5) {
            let path = format!("d{}/n{}", rng.below(3), rng.below(4));
            assert_eq!(s.look(&path), host(&s.path(&path)), "round {round}, {path}, seed {seed:?}");
        }
    }
}

#[test]
fn every_complete_change_is_seen() {
    agrees(&Shared::new(), 5000);
}

#[test]
fn without_watches_too() {
    for most in [0, 1, 2] {
        let s = Shared::new();
        s.fs.watcher.allow(most);
        if most > 0 {
            agrees(&s, 1000);
            assert!(s.fs.watcher.counts().0 <= most);
        } else {
            // What was just found is believed for a moment: as long as before there were watches.
            s.warm("x");
            assert_eq!(s.look("x"), Err(Errno::ENOENT));
            assert_eq!(s.fs.watcher.counts(), (0, 0));
        }
    }
}

#[test]
fn a_queue_that_overflows_loses_nothing() {
    let s = Shared::new();
    let queue = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let queue: usize = queue.trim().parse().unwrap();
    if queue > 100_000 {
        return eprintln!("skipped: a queue of {queue} events is too long to fill");
    }
    fs::create_dir(s.path("d")).unwrap();
    for path in ["d/missing", "d/last", "other"] {
        s.warm(path);
    }
    for i in 0..=queue {
        fs::write(s.path(&format!("d/{}", i % 7)), "").unwrap();
        fs::remove_file(s.path(&format!("d/{}", i % 7))).unwrap();
    }
    // Their events found no room.
    fs::write(s.path("d/last"), "").unwrap();
    fs::write(s.path("other"), "").unwrap();
    for path in ["d/missing", "d/last", "other"] {
        assert_eq!(s.look(path), host(&s.path(path)), "{path}");
    }
    s.warm("d/missing");
    let again = |s: &Shared| (0..100).for_each(|_| assert!(s.look("d/missing").is_err()));
    assert_eq!(s.trips(again), 0, "watched again");
}

#[test]
fn own_changes_leave_the_rest_known() {
    let s = Shared::new();
    fs::create_dir(s.path("d")).unwrap();
    s.warm("d/missing");
    let d = s.root.lookup(b"d", b"").unwrap();
    let work = |_: &Shared| {
        for i in 0..500 {
            let name = format!("f{i}").into_bytes();
            assert_eq!(d.lookup(&name, b"").err(), Some(Errno::ENOENT));
            let file = d.create(&name, &new_node(NodeKind::Regular, 0o644)).unwrap();
            assert_eq!(d.lookup(b"missing", b"").err(), Some(Errno::ENOENT));
            assert!(d.revalidate(&name, &file));
            assert!(d.revalidate(&name, &file));
            d.unlink(&name, &file).unwrap();
        }
    };
    // The first lookup, the creation, the first use of what it made, and the removal. On a file
    // system where a name may have several spellings, the missing one as well.
    let trips = s.trips(work);
    assert!(trips <= 500 * 5 + 50, "{trips}");
    assert_eq!(s.look("d/missing"), Err(Errno::ENOENT));
}

#[test]
fn watches_and_names_are_given_back() {
    let s = Shared::new();
    for i in 0..40 {
        fs::create_dir(s.path(&format!("d{i}"))).unwrap();
        let dir = s.root.lookup(format!("d{i}").as_bytes(), b"").unwrap();
        for j in 0..10 {
            assert!(dir.lookup(format!("m{j}").as_bytes(), b"").is_err());
        }
    }
    // Nobody holds the directories any more.
    let (watches, names) = s.fs.watcher.counts();
    assert!(watches <= 1 && names <= 50, "{watches} {names}");
    // And a churn that nobody looks at costs a directory its watch.
    fs::create_dir(s.path("busy")).unwrap();
    let busy = s.root.lookup(b"busy", b"").unwrap();
    for _ in 0..5 {
        assert!(busy.lookup(b"missing", b"").is_err());
    }
    for _ in 0..400 {
        fs::write(s.path("busy/x"), "").unwrap();
        fs::remove_file(s.path("busy/x")).unwrap();
    }
    let _ = s.look("other");
    assert!(s.fs.watcher.counts().0 <= 1);
    fs::write(s.path("busy/missing"), "").unwrap();
    assert!(busy.lookup(b"missing", b"").is_ok());
}

#[test]
fn several_threads_agree_with_the_host() {
    let s = Shared::new();
    let (made, end) = (AtomicU64::new(0), AtomicBool::new(false));
    fs::create_dir(s.path("d")).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !end.load(Ordering::Acquire) {
                    let before = made.load(Ordering::Acquire);
                    // Made before we looked.
                    let name = format!("d/{before}");
                    assert!(before == 0 || s.look(&name).is_ok(), "{name}");
                    let _ = s.look(&format!("d/{}", before + 1));
                    let _ = s.look(&format!("d/{}", before + 2));
                }
            });
        }
        for i in 1..2000 {
            fs::write(s.path(&format!("d/{i}")), "").unwrap();
            made.store(i, Ordering::Release);
            if i % 16 == 0 {
                std::thread::yield_now();
            }
        }
        end.store(true, Ordering::Release);
    });
}
