//! Telling watchers what happens to files (`fsnotify`).
//!
//! Owns the table of marks by inode; its lock is let go before a watcher is told. Without marks an
//! event costs one load.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use abi::Errno;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::kmem::{self, KernelMemory};

use super::{Dentry, FileType, Inode, InodeKey};

/// How many marks there may be (`max_user_watches`).
const MAX_MARKS: usize = 1 << 16;

/// The directory bit of an event (`IN_ISDIR`).
const ISDIR: u32 = libc::IN_ISDIR;

/// Something that has marks on inodes.
pub trait Watcher: Send + Sync {
    /// An event that the mark `wd` asked for. Must not block.
    fn event(&self, wd: i32, mask: u32, cookie: u32, name: &[u8]);
    /// Identity.
    fn id(&self) -> u64;
}

struct Mark {
    watcher: Arc<dyn Watcher>,
    wd: i32,
    mask: u32,
    /// Keeps the inode, and with it its key.
    _inode: Arc<dyn Inode>,
    _memory: KernelMemory,
}

static MARKS: LazyLock<Mutex<HashMap<InodeKey, Vec<Mark>>>> = LazyLock::new(Mutex::default);
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// A number that ties the two events of a rename together.
fn new_cookie() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Marks an inode, or changes a watcher's mark on it (`change` gets the old mask). Returns the
/// mark's number, `wd` if it is new. `ENOSPC`, `ENOMEM`.
pub fn mark(
    watcher: &Arc<dyn Watcher>,
    inode: &Arc<dyn Inode>,
    wd: i32,
    change: impl FnOnce(Option<u32>) -> Result<u32, Errno>,
) -> Result<i32, Errno> {
    let mut table = MARKS.lock();
    let marks = table.entry(inode.key()).or_default();
    if let Some(mark) = marks.iter_mut().find(|m| m.watcher.id() == watcher.id()) {
        mark.mask = change(Some(mark.mask))?;
        return Ok(mark.wd);
    }
    let result = match COUNT.load(Ordering::Relaxed) {
        MAX_MARKS.. => Err(Errno::ENOSPC),
        _ => kmem::charge(kmem::INOTIFY_WATCH).ok_or(Errno::ENOMEM),
    };
    match result.and_then(|memory| change(None).map(|mask| (mask, memory))) {
        Ok((mask, _memory)) => {
            marks.push(Mark { watcher: watcher.clone(), wd, mask, _inode: inode.clone(), _memory });
            COUNT.fetch_add(1, Ordering::Relaxed);
            Ok(wd)
        }
        Err(errno) => {
            if marks.is_empty() {
                table.remove(&inode.key());
            }
            Err(errno)
        }
    }
}

/// Takes away the marks that `which` says (watcher, number); returns whether there were any.
fn unmark_if(which: impl Fn(u64, i32) -> bool) -> bool {
    let mut gone = Vec::new();
    let mut table = MARKS.lock();
    table.retain(|_, marks| {
        let (out, keep) =
            std::mem::take(marks).into_iter().partition(|m: &Mark| which(m.watcher.id(), m.wd));
        *marks = keep;
        gone.extend::<Vec<Mark>>(out);
        !marks.is_empty()
    });
    drop(table);
    COUNT.fetch_sub(gone.len(), Ordering::Relaxed);
    !gone.is_empty()
}

/// Takes a mark away. `EINVAL` if there is none.
pub fn unmark(watcher: u64, wd: i32) -> Result<(), Errno> {
    if unmark_if(|w, d| w == watcher && d == wd) { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Takes all marks of a watcher away.
pub fn unmark_all(watcher: u64) {
    unmark_if(|w, _| w == watcher);
}

/// Whom to tell: a watcher, its mark's number and mask.
type Told = (Arc<dyn Watcher>, i32, u32);

/// Something happened to an inode, or to a name in it.
fn tell(key: InodeKey, mask: u32, cookie: u32, name: &[u8]) {
    let mut told: SmallVec<[Told; 4]> = SmallVec::new();
    {
        let table = MARKS.lock();
        let Some(marks) = table.get(&key) else { return };
        for mark in marks.iter() {
            if mark.mask & mask & libc::IN_ALL_EVENTS != 0 {
                told.push((mark.watcher.clone(), mark.wd, mark.mask));
            }
        }
    }
    for (watcher, wd, wanted) in told {
        watcher.event(wd, mask, cookie, name);
        let once = wanted & libc::IN_ONESHOT != 0;
        if (once || mask & libc::IN_DELETE_SELF != 0) && unmark(watcher.id(), wd).is_ok() {
            watcher.event(wd, libc::IN_IGNORED, 0, b"");
        }
    }
}

fn dir_bit(inode: &Arc<dyn Inode>) -> u32 {
    if inode.file_type() == FileType::Directory { ISDIR } else { 0 }
}

/// Something happened to a file (`IN_OPEN`, `IN_MODIFY`, ...): told to its own watchers and to its
/// directory's.
pub fn file(dentry: &Arc<Dentry>, mask: u32) {
    if COUNT.load(Ordering::Relaxed) == 0 {
        return;
    }
    let Some(inode) = dentry.inode() else { return };
    let mask = mask | dir_bit(&inode);
    if let Some(dir) = dentry.parent().and_then(|p| p.inode())
        && !dentry.is_unlinked()
    {
        tell(dir.key(), mask, 0, &dentry.name());
    }
    tell(inode.key(), mask, 0, b"");
}

/// A name in a directory came or went (`IN_CREATE`, `IN_DELETE`).
pub fn name(dir: &Arc<Dentry>, name: &[u8], inode: &Arc<dyn Inode>, mask: u32) {
    if COUNT.load(Ordering::Relaxed) == 0 {
        return;
    }
    if mask & libc::IN_DELETE != 0 {
        gone(inode);
    }
    if let Some(parent) = dir.inode() {
        tell(parent.key(), mask | dir_bit(inode), 0, name);
    }
}

/// A file lost a name: its links changed, or it is gone.
pub fn gone(inode: &Arc<dyn Inode>) {
    if COUNT.load(Ordering::Relaxed) == 0 {
        return;
    }
    let is_dir = dir_bit(inode) != 0;
    if !is_dir {
        tell(inode.key(), libc::IN_ATTRIB, 0, b"");
    }
    if is_dir || inode.attr().is_ok_and(|attr| attr.nlink == 0) {
        tell(inode.key(), libc::IN_DELETE_SELF, 0, b"");
    }
}

/// A name moved.
pub fn moved(from: (&Arc<Dentry>, &[u8]), to: (&Arc<Dentry>, &[u8]), inode: &Arc<dyn Inode>) {
    if COUNT.load(Ordering::Relaxed) == 0 {
        return;
    }
    let cookie = new_cookie();
    for ((dir, name), mask) in [(from, libc::IN_MOVED_FROM), (to, libc::IN_MOVED_TO)] {
        if let Some(parent) = dir.inode() {
            tell(parent.key(), mask | dir_bit(inode), cookie, name);
        }
    }
    tell(inode.key(), libc::IN_MOVE_SELF, 0, b"");
}
