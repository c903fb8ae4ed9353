//! Random paths over random trees, as open(2) and openat2(2) walk them, here and by the host: the same
//! error, or the same file, and the same tree afterwards.
//!
//! The host walks with `RESOLVE_IN_ROOT` or `RESOLVE_BENEATH` always, so nothing leaves the test's
//! directory: what here has no scope has the top of that as its root there.

use super::*;
use crate::vfs::dpath::d_path;
use crate::vfs::open::locate;
use crate::vfs::{LookupFlags, OpenFlags};

/// `RESOLVE_*` of openat2(2).
const NO_XDEV: u64 = 1;
const NO_MAGICLINKS: u64 = 2;
const NO_SYMLINKS: u64 = 4;
const BENEATH: u64 = 8;
const IN_ROOT: u64 = 16;

/// What is found: where, and its type.
type Found = Result<(Vec<u8>, u32), Errno>;

#[derive(Clone, Debug)]
enum Step {
    /// With flags of open(2), and `RESOLVE_*` flags.
    Open(String, i32, u64),
    /// A link with this text, and where.
    Symlink(String, String, String),
}

const DIR_ONLY: i32 = libc::O_PATH | libc::O_DIRECTORY;

impl Host {
    fn top(&self) -> OwnedFd {
        std::fs::File::open(self._dir.path()).unwrap().into()
    }

    fn open(&self, path: &str, flags: i32, resolve: u64) -> Result<OwnedFd, Errno> {
        let (dir, path, resolve) = match resolve & (BENEATH | IN_ROOT) {
            0 if path.starts_with('/') => (self.top(), path.to_owned(), resolve | IN_ROOT),
            0 => (self.top(), format!("{NEST}/{path}"), resolve | IN_ROOT),
            _ => (self.start.try_clone().unwrap(), path.to_owned(), resolve),
        };
        let mode = if flags & libc::O_CREAT != 0 { 0o644 } else { 0 };
        let how = [(flags | libc::O_CLOEXEC) as u64, mode, resolve];
        let path = c(&path);
        loop {
            let (how, size) = (&raw const how, size_of_val(&how));
            // SAFETY: a string that ends, and a `struct open_how`; the descriptor is a new one.
            let fd = unsafe {
                libc::syscall(libc::SYS_openat2, dir.as_raw_fd(), path.as_ptr(), how, size)
            };
            match check(fd) {
                // SAFETY: as above.
                Ok(()) => return Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
                // Somebody else on the host renamed or mounted something meanwhile.
                Err(Errno::EAGAIN) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    fn seen(&self, fd: &OwnedFd) -> (Vec<u8>, u32) {
        let place = |fd: &OwnedFd| {
            let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
            link.into_os_string().into_encoded_bytes()
        };
        let (top, at) = (place(&self.top()), place(fd));
        let below = at.strip_prefix(&top[..]).expect("nothing leads out");
        let below = if below.is_empty() { b"/" } else { below };
        // SAFETY: an all-zero `stat` is valid, and written to.
        let mode = unsafe {
            let mut stat: libc::stat = std::mem::zeroed();
            assert_eq!(libc::fstat(fd.as_raw_fd(), &mut stat), 0);
            stat.st_mode
        };
        (below.to_vec(), mode & libc::S_IFMT)
    }

    fn step(&self, step: &Step) -> Found {
        match step {
            Step::Open(path, flags, resolve) => {
                self.open(path, *flags, *resolve).map(|fd| self.seen(&fd))
            }
            Step::Symlink(text, dir, name) => {
                let dir = self.open(dir, DIR_ONLY, 0)?;
                // SAFETY: strings that end.
                let made =
                    unsafe { libc::symlinkat(c(text).as_ptr(), dir.as_raw_fd(), c(name).as_ptr()) };
                check(made.into()).map(|()| self.seen(&dir))
            }
        }
    }
}

impl Ours {
    fn open(&self, path: &str, flags: i32, resolve: u64) -> Result<Path, Errno> {
        let pairs = [
            (NO_XDEV, LookupFlags::NO_XDEV),
            (NO_MAGICLINKS, LookupFlags::NO_MAGICLINKS),
            (NO_SYMLINKS, LookupFlags::NO_SYMLINKS),
            (BENEATH, LookupFlags::BENEATH),
            (IN_ROOT, LookupFlags::IN_ROOT),
        ];
        let chosen = pairs.iter().filter(|(bit, _)| resolve & bit != 0);
        let resolve = chosen.fold(LookupFlags::empty(), |all, (_, flag)| all | *flag);
        let flags = OpenFlags::from_bits_retain(flags as u32);
        let (place, _) = locate(&self.ctx, libc::AT_FDCWD, path.as_bytes(), flags, 0o644, resolve)?;
        Ok(place)
    }

    fn seen(&self, place: &Path) -> (Vec<u8>, u32) {
        let kind = place.inode().unwrap().file_type().mode_bits();
        (d_path(place, &self.ctx.root), kind)
    }

    fn step(&self, step: &Step) -> Found {
        match step {
            Step::Open(path, flags, resolve) => {
                self.open(path, *flags, *resolve).map(|place| self.seen(&place))
            }
            Step::Symlink(text, dir, name) => {
                let dir = self.open(dir, DIR_ONLY, 0)?;
                let (dir, last) = self.ctx.parent(dir, name.as_bytes())?;
                dirops::create(&self.ctx, &dir, last, 0o777, NodeKind::Symlink(text.as_bytes()))?;
                Ok(self.seen(&dir))
            }
        }
    }
}

/// Anything that can stand between slashes.
fn component() -> impl Strategy<Value = String> {
    prop_oneof![
        16 => "[abc]",
        4 => Just("..".to_owned()),
        2 => Just(".".to_owned()),
        1 => Just(String::new()),
        1 => "r[1-4]",
        1 => prop_oneof![Just(255), Just(256)].prop_map(|n| "n".repeat(n)),
    ]
}

/// Any path, absolute or not, with slashes at the end or not; now and then a very long one.
fn any_path() -> impl Strategy<Value = String> {
    let parts = proptest::collection::vec(component(), 1..6);
    let start = prop_oneof![6 => Just(""), 1 => Just("/"), 1 => Just("//")];
    let end = prop_oneof![6 => Just(""), 1 => Just("/"), 1 => Just("//"), 1 => Just("/.")];
    let pad = prop_oneof![60 => Just(0), 1 => Just(1000), 1 => Just(3000)];
    (start, parts, end, pad).prop_filter_map("empty", |(start, parts, end, pad)| {
        let path = start.to_owned() + &"./".repeat(pad) + &parts.join("/") + end;
        (!path.is_empty()).then_some(path)
    })
}

fn flags() -> impl Strategy<Value = i32> {
    let any_of = |bits: &'static [i32]| {
        proptest::sample::subsequence(bits, 0..=bits.len())
            .prop_map(|bits| bits.iter().fold(0, |all, bit| all | bit))
    };
    let access = prop_oneof![Just(libc::O_RDONLY), Just(libc::O_WRONLY), Just(libc::O_RDWR)];
    let most =
        any_of(&[libc::O_CREAT, libc::O_EXCL, libc::O_TRUNC, libc::O_DIRECTORY, libc::O_NOFOLLOW]);
    prop_oneof![
        2 => (access, most).prop_map(|(access, flags)| access | flags),
        1 => any_of(&[libc::O_DIRECTORY, libc::O_NOFOLLOW]).prop_map(|flags| flags | libc::O_PATH),
    ]
}

fn resolve() -> impl Strategy<Value = u64> {
    let scope = prop_oneof![2 => Just(0), 1 => Just(BENEATH), 1 => Just(IN_ROOT)];
    let links = prop_oneof![3 => Just(0), 1 => Just(NO_SYMLINKS)];
    let others = prop_oneof![2 => Just(0), 1 => Just(NO_XDEV), 1 => Just(NO_MAGICLINKS)];
    (scope, links, others).prop_map(|(a, b, c)| a | b | c)
}

fn step() -> impl Strategy<Value = Step> {
    // Not so long that a file system of the host's would refuse it as a link.
    let text = any_path().prop_filter("long", |text| text.len() < 600);
    prop_oneof![
        3 => (any_path(), flags(), resolve()).prop_map(|(p, f, r)| Step::Open(p, f, r)),
        1 => (text, any_path(), "[abc]").prop_map(|(t, d, n)| Step::Symlink(t, d, n)),
    ]
}

fn compare_walks(ours: &Ours, host: &Host, steps: &[Step]) -> Result<(), TestCaseError> {
    for (i, step) in steps.iter().enumerate() {
        prop_assert_eq!(ours.step(step), host.step(step), "step {} of {:?}", i, steps);
    }
    prop_assert_eq!(ours.walk(), host.walk(), "after {:?}", steps);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn tmpfs_is_walked_as_by_the_host(
        tree in proptest::collection::vec(op(), 0..20),
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let (ours, host) = (Ours::tmpfs().nested(), Host::new());
        compare(&ours, &host, &tree)?;
        compare_walks(&ours, &host, &steps)?;
    }

    /// With one part of the tree and of the walks in the lower layer.
    #[test]
    fn overlays_are_walked_as_by_the_host(
        tree in proptest::collection::vec(op(), 0..20),
        before in proptest::collection::vec(step(), 0..20),
        after in proptest::collection::vec(step(), 1..40),
    ) {
        let (lower, host) = (Ours::tmpfs().nested(), Host::new());
        compare(&lower, &host, &tree)?;
        compare_walks(&lower, &host, &before)?;
        let (_upper_fs, upper) = new_tmpfs();
        let overlay = Overlay::new(upper, vec![lower.ctx.root.inode().unwrap()]).unwrap();
        let root = overlay.root().unwrap();
        let ours = Ours::new(overlay.clone(), root).nested();
        compare_walks(&ours, &host, &after)?;
        overlay.forget();
    }
}
