//! Directories of an overlay: finding, making, removing and renaming names, and merged listings.

use std::collections::HashSet;
use std::sync::{Arc, Weak};

use abi::Errno;
use parking_lot::Mutex;

use super::OverlayInode;
use super::inode::Layers;
use crate::kmem::{self, KernelMemory};
use crate::vfs::{DirEntry, DirSink, FileOps, FileType, Inode, InodeKey, IoDst, NewNode, NodeKind};

const WHITEOUT: NewNode<'static> =
    NewNode { mode: 0, uid: 0, gid: 0, kind: NodeKind::CharDevice(0) };

fn is_whiteout(inode: &Arc<dyn Inode>) -> bool {
    inode.file_type() == FileType::CharDevice && inode.attr().is_ok_and(|a| a.rdev == 0)
}

fn as_overlay(inode: &Arc<dyn Inode>) -> Result<&OverlayInode, Errno> {
    inode.as_any().downcast_ref().ok_or(Errno::EXDEV)
}

/// What an upper directory says about a name.
enum UpperEntry {
    Missing,
    Whiteout(Arc<dyn Inode>),
    There(Arc<dyn Inode>),
}

impl Layers {
    fn upper_entry(&self, name: &[u8], rest: &[u8]) -> Result<UpperEntry, Errno> {
        let Some(upper) = &self.upper else { return Ok(UpperEntry::Missing) };
        match upper.lookup(name, rest) {
            Ok(inode) if is_whiteout(&inode) => Ok(UpperEntry::Whiteout(inode)),
            Ok(inode) => Ok(UpperEntry::There(inode)),
            Err(Errno::ENOENT) => Ok(UpperEntry::Missing),
            Err(errno) => Err(errno),
        }
    }

    /// The name in the lower layers: a file in the topmost that has it, a directory in all up to the
    /// first that has something else.
    fn lower_entries(&self, name: &[u8], rest: &[u8]) -> Result<Vec<Arc<dyn Inode>>, Errno> {
        let mut found: Vec<Arc<dyn Inode>> = Vec::new();
        for lower in &self.lowers {
            let inode = match lower.lookup(name, rest) {
                Ok(inode) => inode,
                Err(Errno::ENOENT) => continue,
                Err(errno) => return Err(errno),
            };
            if is_whiteout(&inode) {
                break;
            }
            let is_dir = inode.file_type() == FileType::Directory;
            if found.is_empty() || is_dir {
                found.push(inode);
            }
            if !is_dir {
                break;
            }
        }
        Ok(found)
    }
}

impl OverlayInode {
    fn me(&self) -> Result<Arc<OverlayInode>, Errno> {
        self.fs.inodes.lock().get(&self.identity).and_then(Weak::upgrade).ok_or(Errno::ESTALE)
    }

    pub(super) fn find_child(&self, name: &[u8], rest: &[u8]) -> Result<Arc<OverlayInode>, Errno> {
        let layers = self.layers.read();
        let (upper, lowers) = match layers.upper_entry(name, rest)? {
            UpperEntry::Whiteout(_) => return Err(Errno::ENOENT),
            UpperEntry::There(upper) => {
                let origin = self.fs.origin(&upper);
                (Some(upper), origin.map(|o| o.lowers.clone()).unwrap_or_default())
            }
            UpperEntry::Missing => {
                let lowers = layers.lower_entries(name, rest)?;
                let first = lowers.first().ok_or(Errno::ENOENT)?;
                // Another name of it may have been copied up.
                let upper = self.fs.index.lock().get(&first.key()).cloned();
                (upper, lowers)
            }
        };
        drop(layers);
        OverlayInode::find(&self.fs, upper, lowers, Some((self.me()?, name)))
    }

    /// Makes room for a new upper entry: takes a whiteout away. Returns whether there was one.
    fn clear_whiteout(&self, upper: &Arc<dyn Inode>, name: &[u8]) -> Result<bool, Errno> {
        match self.layers.read().upper_entry(name, b"")? {
            UpperEntry::Whiteout(inode) => upper.unlink(name, &inode).map(|()| true),
            _ => Ok(false),
        }
    }

    /// Hides a lower entry, if there is one.
    fn hide(&self, upper: &Arc<dyn Inode>, name: &[u8]) -> Result<(), Errno> {
        if self.layers.read().lower_entries(name, b"")?.is_empty() {
            return Ok(());
        }
        upper.create(name, &WHITEOUT).map(drop)
    }

    pub(super) fn create_child(
        &self,
        name: &[u8],
        node: &NewNode<'_>,
    ) -> Result<Arc<dyn Inode>, Errno> {
        if matches!(node.kind, NodeKind::CharDevice(0)) {
            // Reserved: it would hide the name.
            return Err(Errno::EPERM);
        }
        let structure = self.fs.structure.lock();
        let upper = self.copy_up_locked(None, &structure)?;
        let hidden = self.clear_whiteout(&upper, name)?;
        match upper.create(name, node) {
            Ok(inode) => {
                let place = Some((self.me()?, name));
                Ok(OverlayInode::find(&self.fs, Some(inode), Vec::new(), place)?)
            }
            Err(errno) => {
                if hidden {
                    upper.create(name, &WHITEOUT)?;
                }
                Err(errno)
            }
        }
    }

    pub(super) fn link_child(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<(), Errno> {
        let target = as_overlay(target)?;
        let structure = self.fs.structure.lock();
        let from = target.copy_up_locked(None, &structure)?;
        let upper = self.copy_up_locked(None, &structure)?;
        let hidden = self.clear_whiteout(&upper, name)?;
        if let Err(errno) = upper.link(name, &from) {
            if hidden {
                upper.create(name, &WHITEOUT)?;
            }
            return Err(errno);
        }
        target.count_link(1);
        target.place.lock().get_or_insert((self.me()?, name.into()));
        Ok(())
    }

    /// unlink and rmdir.
    pub(super) fn remove_child(&self, name: &[u8], victim: &Arc<dyn Inode>) -> Result<(), Errno> {
        let victim = as_overlay(victim)?;
        let structure = self.fs.structure.lock();
        if victim.file_type() == FileType::Directory {
            victim.empty_out()?;
        }
        let upper = self.copy_up_locked(None, &structure)?;
        self.remove_upper(&upper, name)?;
        self.hide(&upper, name)?;
        victim.count_link(-1);
        let mut place = victim.place.lock();
        let here =
            |p: &(Arc<OverlayInode>, Box<[u8]>)| p.0.identity == self.identity && *p.1 == *name;
        if place.as_ref().is_some_and(here) {
            *place = None;
        }
        Ok(())
    }

    /// Removes an upper entry, if there is one.
    fn remove_upper(&self, upper: &Arc<dyn Inode>, name: &[u8]) -> Result<(), Errno> {
        if let UpperEntry::There(inode) = self.layers.read().upper_entry(name, b"")? {
            if inode.file_type() == FileType::Directory {
                upper.rmdir(name, &inode)?;
            } else {
                upper.unlink(name, &inode)?;
            }
            if inode.file_type() == FileType::Directory
                || inode.attr().is_ok_and(|attr| attr.nlink == 0)
            {
                self.fs.forget_upper(&inode);
            }
        }
        Ok(())
    }

    /// `ENOTEMPTY` if the directory shows anything; else takes the whiteouts out of its upper part.
    fn empty_out(&self) -> Result<(), Errno> {
        if !self.merged()?.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        let Some(upper) = self.upper() else { return Ok(()) };
        for entry in list(&upper)? {
            let inode = upper.lookup(&entry.name, b"")?;
            upper.unlink(&entry.name, &inode)?;
        }
        Ok(())
    }

    pub(super) fn rename_child(
        &self,
        name: &[u8],
        new_dir: &Arc<dyn Inode>,
        new_name: &[u8],
        exchange: bool,
    ) -> Result<(), Errno> {
        let to = as_overlay(new_dir)?;
        let structure = self.fs.structure.lock();
        let moved = self.find_child(name, b"")?;
        let replaced = match to.find_child(new_name, b"") {
            Ok(inode) => Some(inode),
            Err(Errno::ENOENT) => None,
            Err(errno) => return Err(errno),
        };
        if let Some(replaced) = &replaced
            && replaced.file_type() == FileType::Directory
            && !exchange
        {
            replaced.empty_out()?;
        }
        moved.copy_up_at(self, name, &structure)?;
        if let (Some(other), true) = (&replaced, exchange) {
            other.copy_up_at(to, new_name, &structure)?;
        }
        let from_upper = self.copy_up_locked(None, &structure)?;
        let to_upper = to.copy_up_locked(None, &structure)?;
        let hidden = to.clear_whiteout(&to_upper, new_name)?;
        if let Err(errno) = from_upper.rename(name, &to_upper, new_name, exchange) {
            if hidden {
                to_upper.create(new_name, &WHITEOUT)?;
            }
            return Err(errno);
        }
        *moved.place.lock() = Some((to.me()?, new_name.into()));
        match replaced {
            Some(other) if exchange => *other.place.lock() = Some((self.me()?, name.into())),
            Some(other) => {
                other.count_link(-1);
                *other.place.lock() = None;
            }
            None => {}
        }
        if !exchange {
            self.hide(&from_upper, name)?;
        }
        Ok(())
    }

    /// Copies up, and sees to it that this name of it is in the upper layer: a file with several
    /// names may have been copied up under another.
    fn copy_up_at(
        &self,
        dir: &OverlayInode,
        name: &[u8],
        structure: &parking_lot::MutexGuard<'_, ()>,
    ) -> Result<(), Errno> {
        let upper = self.copy_up_locked(None, structure)?;
        let dir_upper = dir.copy_up_locked(None, structure)?;
        if let UpperEntry::Missing = dir.layers.read().upper_entry(name, b"")? {
            dir_upper.link(name, &upper)?;
        }
        Ok(())
    }

    /// What the directory shows, without the dots.
    fn merged(&self) -> Result<Vec<Listed>, Errno> {
        let layers = self.layers.read();
        let mut out = Vec::new();
        let mut seen: HashSet<Vec<u8>> = HashSet::new();
        let alone = layers.lowers.is_empty();
        if let Some(upper) = &layers.upper {
            for mut entry in list(upper)? {
                if entry.kind == Some(FileType::CharDevice)
                    && upper.lookup(&entry.name, b"").is_ok_and(|i| is_whiteout(&i))
                {
                    seen.insert(entry.name);
                    continue;
                }
                let key = InodeKey { dev: upper.key().dev, ino: entry.ino };
                let key = self.fs.origins.lock().get(&key).map_or(key, |o| o.key);
                entry.ino = self.fs.guest_ino(key);
                if !alone {
                    seen.insert(entry.name.clone());
                }
                out.push(entry);
            }
        }
        let last = layers.lowers.len().saturating_sub(1);
        for (i, lower) in layers.lowers.iter().enumerate() {
            for mut entry in list(lower)? {
                if seen.contains(&entry.name) {
                    continue;
                }
                if i < last {
                    seen.insert(entry.name.clone());
                }
                entry.ino = self.fs.guest_ino(InodeKey { dev: lower.key().dev, ino: entry.ino });
                out.push(entry);
            }
        }
        Ok(out)
    }
}

/// One name of a listing.
struct Listed {
    name: Vec<u8>,
    ino: u64,
    kind: Option<FileType>,
}

/// All names of a layer's directory but the dots.
fn list(dir: &Arc<dyn Inode>) -> Result<Vec<Listed>, Errno> {
    let mut out = Vec::new();

    dir.clone().list(&mut |entry: DirEntry<'_>| {
        if entry.name != b"." && entry.name != b".." {
            let name = entry.name.to_vec();
            out.push(Listed { name, ino: entry.ino, kind: entry.kind });
        }
        true
    })?;
    Ok(out)
}

/// An open directory: a listing that is made when it is first read, and again after a rewind.
pub(super) struct OpenDir {
    inode: Arc<OverlayInode>,
    list: Mutex<Option<(Vec<Listed>, KernelMemory)>>,
}

impl OpenDir {
    pub(super) fn new(inode: Arc<OverlayInode>) -> OpenDir {
        OpenDir { inode, list: Mutex::new(None) }
    }

    fn parent_ino(&self) -> u64 {
        let place = self.inode.place.lock();
        place.as_ref().map_or(self.inode.key().ino, |(dir, _)| dir.key().ino)
    }
}

impl FileOps for OpenDir {
    fn read(&self, _: &mut IoDst<'_>, _: u64) -> Result<usize, Errno> {
        Err(Errno::EISDIR)
    }

    fn read_dir(&self, pos: &mut u64, sink: &mut DirSink<'_>) -> Result<(), Errno> {
        let mut list = self.list.lock();
        if *pos == 0 || list.is_none() {
            *list = None;
            let mut made = self.inode.merged()?;
            made.shrink_to_fit();
            let names: usize = made.iter().map(|entry| entry.name.len().next_multiple_of(16)).sum();
            let bytes = names + made.len() * (size_of::<Listed>() + 16);
            let memory = kmem::charge(bytes).ok_or(Errno::ENOMEM)?;
            *list = Some((made, memory));
        }
        let list = list.as_ref().map(|(list, _)| &list[..]).unwrap_or_default();
        let directory = Some(FileType::Directory);
        while let Ok(at) = usize::try_from(*pos) {
            let next = *pos + 1;
            let entry = match at {
                0 => DirEntry { ino: self.inode.key().ino, next, kind: directory, name: b"." },
                1 => DirEntry { ino: self.parent_ino(), next, kind: directory, name: b".." },
                _ => match list.get(at - 2) {
                    Some(e) => DirEntry { ino: e.ino, next, kind: e.kind, name: &e.name },
                    None => break,
                },
            };
            if !sink(entry) {
                break;
            }
            *pos = next;
        }
        Ok(())
    }

    fn fsync(&self, _: bool) -> Result<(), Errno> {
        Ok(())
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
