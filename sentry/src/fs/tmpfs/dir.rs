//! Directories of tmpfs.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use abi::Errno;
use parking_lot::Mutex;

use super::TmpInode;
use super::inode::Body;
use crate::vfs::{Dentry, DirEntry, DirSink, FileOps, FileType, Inode};

/// What each entry counts in a directory's size, as on Linux.
const ENTRY_SIZE: u64 = 20;
/// Cookies of "." and ".."; the first of a name comes behind them.
pub(super) const FIRST: u64 = 2;

/// The names in a directory, each with a cookie that stays its own for as long as it is there, so
/// that a listing that is interrupted goes on where it was.
pub(super) struct Names(Mutex<Inner>);

struct Inner {
    by_name: HashMap<Arc<[u8]>, (u64, Arc<TmpInode>)>,
    by_cookie: BTreeMap<u64, Arc<[u8]>>,
    next: u64,
}

impl Default for Names {
    fn default() -> Self {
        let inner = Inner { by_name: HashMap::new(), by_cookie: BTreeMap::new(), next: FIRST };
        Names(Mutex::new(inner))
    }
}

impl Names {
    pub fn get(&self, name: &[u8]) -> Result<Arc<TmpInode>, Errno> {
        self.0.lock().by_name.get(name).map(|(_, i)| i.clone()).ok_or(Errno::ENOENT)
    }

    pub fn insert(&self, name: &[u8], inode: &Arc<TmpInode>) -> Result<(), Errno> {
        let mut inner = self.0.lock();
        if inner.by_name.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let cookie = inner.next;
        inner.next += 1;
        let name: Arc<[u8]> = name.into();
        inner.by_cookie.insert(cookie, name.clone());
        inner.by_name.insert(name, (cookie, inode.clone()));
        Ok(())
    }

    /// Lists from a cookie on; returns the one to go on with.
    pub fn list(&self, from: u64, sink: &mut DirSink<'_>) -> u64 {
        let inner = self.0.lock();
        let mut pos = from;
        for (&cookie, name) in inner.by_cookie.range(from..) {
            let Some((_, inode)) = inner.by_name.get(name) else { continue };
            let next = cookie + 1;
            if !sink(DirEntry { ino: inode.ino, next, kind: Some(inode.file_type()), name }) {
                break;
            }
            pos = next;
        }
        pos
    }

    pub fn remove(&self, name: &[u8]) -> Result<Arc<TmpInode>, Errno> {
        let mut inner = self.0.lock();
        let (cookie, inode) = inner.by_name.remove(name).ok_or(Errno::ENOENT)?;
        inner.by_cookie.remove(&cookie);
        Ok(inode)
    }

    pub fn is_empty(&self) -> bool {
        self.0.lock().by_name.is_empty()
    }

    pub fn size(&self) -> u64 {
        (self.0.lock().by_name.len() as u64 + 2) * ENTRY_SIZE
    }
}

impl Drop for Names {
    /// A deep tree must not be dropped recursively, one stack frame a level.
    fn drop(&mut self) {
        let mut tables = vec![std::mem::take(&mut self.0.get_mut().by_name)];
        while let Some(table) = tables.pop() {
            for (_, inode) in table.into_values() {
                if let Some(mut inode) = Arc::into_inner(inode)
                    && let Body::Directory(names) = &mut inode.body
                {
                    tables.push(std::mem::take(&mut names.0.get_mut().by_name));
                }
            }
        }
    }
}

/// Renames, or exchanges; the VFS holds the locks of both directories.
pub(super) fn rename(
    old_dir: &TmpInode,
    name: &[u8],
    new_dir: &TmpInode,
    new_name: &[u8],
    exchange: bool,
) -> Result<(), Errno> {
    let (old_names, new_names) = (old_dir.names()?, new_dir.names()?);
    let moved = old_names.get(name)?;
    let there = new_names.get(new_name).ok();
    let is_dir = |i: &TmpInode| i.file_type() == FileType::Directory;
    match &there {
        None if exchange => return Err(Errno::ENOENT),
        Some(victim) if !exchange && is_dir(victim) && !victim.names()?.is_empty() => {
            return Err(Errno::ENOTEMPTY);
        }
        _ => {}
    }
    old_names.remove(name)?;
    if let Some(other) = &there {
        new_names.remove(new_name)?;
        if exchange {
            old_names.insert(name, other)?;
        } else {
            other.change_links(if is_dir(other) { -2 } else { -1 });
        }
    }
    new_names.insert(new_name, &moved)?;
    // Each subdirectory is a link to its parent.
    let from_old =
        i32::from(is_dir(&moved)) - i32::from(exchange && there.as_deref().is_some_and(is_dir));
    let from_new = -i32::from(is_dir(&moved)) + i32::from(there.as_deref().is_some_and(is_dir));
    if !std::ptr::eq(old_dir, new_dir) {
        old_dir.change_links(-from_old);
        new_dir.change_links(-from_new);
    } else if !exchange && there.as_deref().is_some_and(is_dir) {
        old_dir.change_links(-1);
    }
    moved.change_links(0);
    if let Some(other) = there.filter(|_| exchange) {
        other.change_links(0);
    }
    old_dir.touch_modified();
    new_dir.touch_modified();
    Ok(())
}

/// An open directory.
pub(super) struct DirFile {
    inode: Arc<TmpInode>,
    dentry: Arc<Dentry>,
    atime: bool,
}

impl DirFile {
    pub fn new(inode: Arc<TmpInode>, dentry: Arc<Dentry>, atime: bool) -> DirFile {
        DirFile { inode, dentry, atime }
    }

    fn parent_ino(&self) -> u64 {
        let parent = self.dentry.parent().and_then(|p| p.inode());
        parent.map_or(self.inode.ino, |i| i.key().ino)
    }
}

impl FileOps for DirFile {
    fn read(&self, _: &mut crate::vfs::IoDst<'_>, _: u64) -> Result<usize, Errno> {
        Err(Errno::EISDIR)
    }
    fn read_dir(&self, pos: &mut u64, sink: &mut DirSink<'_>) -> Result<(), Errno> {
        if self.atime {
            self.inode.touch_accessed();
        }
        let dots: [(&[u8], u64); 2] = [(b".", self.inode.ino), (b"..", self.parent_ino())];
        for (cookie, (name, ino)) in (0..).zip(dots) {
            if *pos == cookie {
                let kind = Some(FileType::Directory);
                if !sink(DirEntry { ino, next: cookie + 1, kind, name }) {
                    return Ok(());
                }
                *pos = cookie + 1;
            }
        }
        *pos = self.inode.names()?.list(*pos, sink);
        Ok(())
    }
    fn fsync(&self, _: bool) -> Result<(), Errno> {
        Ok(())
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
