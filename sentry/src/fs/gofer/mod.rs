//! The gofer's file system: one export of the host's files as a mountable tree.
//!
//! An inode is a host file, known by a node in the gofer ([`gofer::client::Handle`]). Names and
//! attributes come from the gofer; opened regular files are host descriptors, read, written and
//! mapped here without it.
//!
//! *Exclusive* exports (nobody else changes the tree) are cached without limit of time: the VFS
//! keeps dentries, positive and negative; inodes keep attributes and link targets; directories keep
//! their listing with attributes, from which later lookups are answered without a round trip.
//! In *shared* exports, directories in which names are looked up are watched, and what is known about
//! names, and about who may use the directory, is believed until the host's kernel tells of a change
//! ([`watch`]). Where there is no watch, each use of a name asks again. Other attributes that a round
//! trip brought may be used for [`FRESH_NS`], so that a few system calls in a row on the same file
//! don't ask for each; names too, where no watch is to be had, and before the first was worth it.
//!
//! Host descriptors of regular files stay open for the next open of the same inode, up to
//! [`MAX_OPEN`] of them, or a fraction of what a process may have open here.
//!
//! Ownership: a new file gets the guest's uid and gid if the gofer may give it away, else it
//! belongs to the gofer's user, as on a squashing NFS server.
//!
//! Lock order: watch table -> directory content -> inode attributes -> inode places -> table, open list (leaves).
//! No lock is held during a round trip.

mod convert;
mod dir;
mod file;
mod inode;
mod known;
mod listing;
mod names;
mod node;
mod watch;

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Weak};

use abi::Errno;
use gofer::client::{Client, Export};
use gofer::wire::types::ExportFlags;
use parking_lot::Mutex;

use crate::kmem;
use crate::vfs::attr::MountStatFlags;
use crate::vfs::mount::new_device;
use crate::vfs::{FileSystem, Inode, StatFs};

use inode::GoferInode;
use watch::Watcher;

/// How long what was just learnt about a shared export may be used, in nanoseconds.
const FRESH_NS: u64 = 1_000_000;
/// Host descriptors that are kept open in case the file is opened again.
const MAX_OPEN: usize = 4096;
/// The gofer may hold as many nodes as its process may have descriptors; the Sentry, with the same
/// limit, keeps this fraction of an export's share of them.
const OPEN_FRACTION: usize = 4;
/// Directory entries that all cached listings together may hold.
const MAX_LISTED: usize = 100_000;
/// As many of them as there is memory for: one for so many bytes of the limit, of which it takes
/// less than a twentieth.
const LISTED_SHARE: u64 = 4096;

/// A mounted export.
pub struct GoferFs {
    client: Client,
    watcher: Arc<Watcher>,
    flags: ExportFlags,
    dev: u64,
    /// Inode numbers of files on other host file systems than the root's are made unique with the
    /// index of their device here.
    devices: Mutex<Vec<u64>>,
    root: Mutex<Option<Arc<GoferInode>>>,
    /// Nodes in the gofer that inodes hold, and how many of them are fine.
    handles: AtomicUsize,
    max_handles: usize,
    max_open: usize,
    /// All inodes in use, by host device and inode number.
    inodes: Mutex<HashMap<(u64, u64), Weak<GoferInode>>>,
    /// Inodes with descriptors that are kept, oldest first.
    open: Mutex<VecDeque<Weak<GoferInode>>>,
    listed: Mutex<Listed>,
}

/// Directories with a cached listing, oldest first.
#[derive(Default)]
struct Listed {
    dirs: VecDeque<(Weak<GoferInode>, usize)>,
    entries: usize,
}

/// Connects to the gofer and makes the file system of each export, in the gofer's order. Errors:
/// those of [`Client::connect`].
pub fn connect(socket: OwnedFd) -> Result<Vec<Arc<GoferFs>>, Errno> {
    let (client, exports) = Client::connect(socket)?;
    // Half of what the gofer allows is for nodes on their way to an inode.
    let share = client.max_nodes() / (2 * exports.len().max(1) as u64);
    let watcher = Watcher::new(client.clone());
    let make = |e| GoferFs::with_limit(client.clone(), watcher.clone(), e, share as usize);
    Ok(exports.into_iter().map(make).collect())
}

impl GoferFs {
    /// The file system of an export, as `Client::connect` returned it. Its root is
    /// [`GoferFs::root`], a regular file if the export is one.
    pub fn new(client: Client, export: Export) -> Arc<GoferFs> {
        let max_handles = client.max_nodes() as usize / 2;
        let watcher = Watcher::new(client.clone());
        GoferFs::with_limit(client, watcher, export, max_handles)
    }

    fn with_limit(
        client: Client,
        watcher: Arc<Watcher>,
        export: Export,
        max_handles: usize,
    ) -> Arc<GoferFs> {
        let fs = Arc::new(GoferFs {
            client,
            watcher,
            flags: export.flags,
            dev: new_device(),
            devices: Mutex::new(vec![export.root.attr.dev]),
            root: Mutex::new(None),
            handles: AtomicUsize::new(0),
            max_handles,
            max_open: (max_handles / OPEN_FRACTION).min(MAX_OPEN),
            inodes: Mutex::default(),
            open: Mutex::default(),
            listed: Mutex::default(),
        });
        let root = GoferInode::find(&fs, export.root.attr, Some(export.root.handle), None);
        *fs.root.lock() = Some(root);
        fs
    }

    /// The root. `EIO` after [`GoferFs::forget`].
    pub fn root(&self) -> Result<Arc<dyn Inode>, Errno> {
        self.root.lock().clone().map(|r| r as Arc<dyn Inode>).ok_or(Errno::EIO)
    }

    /// Breaks the cycle between the file system and its root: to be called when the last mount of
    /// it is gone.
    pub fn forget(&self) {
        let root = self.root.lock().take();
        drop(root);
    }

    /// Whether nobody but this sandbox changes the files.
    fn exclusive(&self) -> bool {
        self.flags.contains(ExportFlags::EXCLUSIVE)
    }

    /// The guest's inode number for a host file.
    fn guest_ino(&self, dev: u64, ino: u64) -> u64 {
        let mut devices = self.devices.lock();
        let index = match devices.iter().position(|&d| d == dev) {
            Some(i) => i,
            None => {
                devices.push(dev);
                devices.len() - 1
            }
        };
        ino ^ (index as u64).rotate_right(16)
    }

    /// Notes that `inode` keeps a host descriptor; the oldest lose theirs.
    fn note_open(&self, inode: &Weak<GoferInode>) {
        let old = {
            let mut open = self.open.lock();
            open.push_back(inode.clone());
            if open.len() > self.max_open { open.pop_front() } else { None }
        };
        if let Some(old) = old.and_then(|o| o.upgrade()) {
            old.close_unused();
        }
    }

    /// Closes all descriptors that are only kept. Returns whether there may have been any.
    fn close_all_unused(&self) -> bool {
        let kept = std::mem::take(&mut *self.open.lock());
        kept.iter().filter_map(Weak::upgrade).for_each(|inode| inode.close_unused());
        !kept.is_empty()
    }

    /// Notes that `dir` keeps a listing of `entries`; the oldest lose theirs.
    fn note_listing(&self, dir: &Weak<GoferInode>, entries: usize) {
        let mut old = Vec::new();
        {
            let mut listed = self.listed.lock();
            listed.dirs.push_back((dir.clone(), entries));
            listed.entries += entries;
            let most = usize::try_from(kmem::limit() / LISTED_SHARE).unwrap_or(MAX_LISTED);
            while listed.entries > most.min(MAX_LISTED) && listed.dirs.len() > 1 {
                let Some((dir, entries)) = listed.dirs.pop_front() else { break };
                listed.entries -= entries;
                old.push(dir);
            }
        }
        for dir in old.iter().filter_map(Weak::upgrade) {
            dir.forget_listing();
        }
    }
}

impl FileSystem for GoferFs {
    fn name(&self) -> &'static str {
        "gofer"
    }

    fn dev(&self) -> u64 {
        self.dev
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        let root = self.root.lock().clone().ok_or(Errno::EIO)?;
        let s = self.client.stat_fs(&*root.handle()?)?;
        Ok(StatFs {
            magic: s.fs_type as i64,
            bsize: s.bsize as i64,
            blocks: s.blocks,
            bfree: s.bfree,
            bavail: s.bavail,
            files: s.files,
            ffree: s.ffree,
            namelen: s.namelen as i64,
            flags: MountStatFlags::empty(),
        })
    }

    fn options(&self) -> String {
        if self.exclusive() { "cache=exclusive" } else { "cache=shared" }.to_owned()
    }

    fn sync(&self) -> Result<(), Errno> {
        let inodes: Vec<_> = self.inodes.lock().values().filter_map(Weak::upgrade).collect();
        inodes.iter().try_for_each(|inode| inode.sync_written())
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod watch_tests;
