//! Watches of directories, so that the client may believe what it was told about names until the
//! host's kernel says that they changed (inotify(7)).
//!
//! The events go from the kernel straight to the client, which holds a duplicate of the instance's
//! descriptor; adding takes a path, so it is done here. What an event tells is a name in a directory:
//! a directory whose names the client may not all see is not watched (an export that hides
//! something, a directory that is not public).
//!
//! Owns the instance and the list of its watches. One lock, a leaf; the working directory, which
//! inotify_add_watch(2) needs as it has no variant that takes a descriptor, has a lock of its own.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};

use abi::Errno;
use parking_lot::Mutex;

use crate::sys;
use crate::wire::reply::WatchReply;
use crate::wire::types::{ExportFlags, NodeId};

use super::dir::open_dir;
use super::node::{Node, Table};

/// Most watches of one gofer. The client keeps fewer; the host's user has some 8,000 at least.
const MAX_WATCHES: usize = 2048;
/// Search and read permission for everybody.
const PUBLIC: u32 = 0o5;

/// The working directory belongs to the process, and a test has several gofers in one.
static WORKING_DIRECTORY: Mutex<()> = Mutex::new(());

/// See the module.
pub(super) struct Watches {
    /// The working directory outside of [`Watches::add`].
    home: Option<OwnedFd>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    notifier: Option<OwnedFd>,
    added: HashSet<u32>,
}

/// What is known about a kind of file system.
enum Names {
    /// Not that each change of a directory is told here.
    Unsure,
    /// All changes are told, but a name may have several spellings.
    Told,
    /// Likewise, and names are bytes unless a directory is marked otherwise.
    Bytes,
}

/// A watch sees the changes that are made through this kernel's inode. That is all of them on a
/// local file system that is mounted once; not on network file systems, FUSE, 9p or cluster file
/// systems, where others change the tree, nor on those whose directories the kernel fills itself.
/// Numbers from `linux/magic.h`.
fn names(fs_type: u64) -> Names {
    match fs_type {
        0xef53 // ext2, ext3, ext4
        | 0x9123_683e // btrfs
        | 0xf2f5_2010 // f2fs
        | 0x0102_1994 // tmpfs
            => Names::Bytes,
        // Made with "version=ci", it folds ASCII in all directories and does not say so.
        0x5846_5342 => Names::Told,
        // Changes go through the overlay's inode, which stays the same at a copy-up (it is hashed by
        // the lower one "for fsnotify"); its documentation forbids those that go around it. Its
        // layers may fold cases.
        0x794c_7630 => Names::Told,
        _ => Names::Unsure,
    }
}

impl Watches {
    /// None yet. Takes the working directory as it is.
    pub(super) fn new() -> Watches {
        Watches { home: sys::working_directory(), state: Mutex::default() }
    }

    /// Answers `Notifier`: the instance, made when it is first asked for. `EMFILE` if the host's
    /// user has as many as `fs.inotify.max_user_instances` allows.
    pub(super) fn notifier(&self) -> Result<OwnedFd, Errno> {
        let mut state = self.state.lock();
        if state.notifier.is_none() {
            state.notifier = Some(sys::inotify()?);
        }
        let notifier = state.notifier.as_ref().ok_or(Errno::EMFILE)?;
        notifier.try_clone().map_err(Errno::from)
    }

    /// Answers `Watch`. Errors: `EOPNOTSUPP` (this directory is not to be watched), `EINVAL` (nobody
    /// asked for the notifier), `EEXIST` (it is watched), `ENOSPC` (too many), the host's.
    pub(super) fn add(&self, table: &Table, dir: NodeId) -> Result<WatchReply, Errno> {
        let dir = table.get(dir)?;
        dir.check_dir()?;
        let exact = told_exactly(&dir)?;
        let mut state = self.state.lock();
        let State { notifier, added } = &mut *state;
        let notifier = notifier.as_ref().ok_or(Errno::EINVAL)?;
        let home = self.home.as_ref().ok_or(Errno::EOPNOTSUPP)?;
        if added.len() >= MAX_WATCHES {
            return Err(Errno::ENOSPC);
        }
        let watch = {
            let _alone = WORKING_DIRECTORY.lock();
            sys::enter(dir.fd())?;
            let watch = sys::watch_working_directory(notifier.as_fd());
            sys::enter(home.as_fd())?;
            watch?
        };
        added.insert(watch);
        Ok(WatchReply { watch, exact })
    }

    /// Answers `Unwatch`.
    pub(super) fn remove(&self, watches: &[u32]) {
        let mut state = self.state.lock();
        let State { notifier: Some(notifier), added } = &mut *state else { return };
        for watch in watches {
            // The kernel has removed those of directories that are gone.
            if added.remove(watch) {
                sys::unwatch(notifier.as_fd(), *watch);
            }
        }
    }
}

/// Whether the directory may be watched, and whether its names are plain bytes.
fn told_exactly(dir: &Node) -> Result<bool, Errno> {
    // Of an exclusive export all is believed as it is.
    if dir.export().flags.contains(ExportFlags::EXCLUSIVE) || !dir.filter().hides_nothing() {
        return Err(Errno::EOPNOTSUPP);
    }
    dir.check_public(PUBLIC)?;
    let names = names(sys::stat_fs(dir.fd())?.fs_type);
    // Without its key, an encrypted directory has other names; no event tells that the key came.
    if sys::stat(dir.fd())?.attributes & libc::STATX_ATTR_ENCRYPTED as u64 != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    match names {
        Names::Unsure => Err(Errno::EOPNOTSUPP),
        Names::Told => Ok(false),
        Names::Bytes => {
            let open = open_dir(dir.fd())?;
            match sys::folds_case(open.as_fd()) {
                Ok(folds) => Ok(!folds),
                // A file system without such marks.
                Err(Errno::ENOTTY | Errno::EOPNOTSUPP) => Ok(true),
                Err(e) => Err(e),
            }
        }
    }
}
