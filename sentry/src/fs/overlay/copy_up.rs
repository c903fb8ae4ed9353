//! Copy-up: a lower file gets an upper one that takes its place, before it is changed.

use std::sync::Arc;

use abi::Errno;
use parking_lot::MutexGuard;

use super::{Origin, OverlayInode};
use crate::vfs::attr::SetTime;
use crate::vfs::{FileType, Inode, IoDst, IoSrc, NewNode, NodeKind, SetAttr};

/// Content is copied in pieces of this many bytes.
const CHUNK: usize = 256 * 1024;

/// Gives `to` the owner, mode, times and extended attributes of `from`.
pub(super) fn copy_attributes(from: &Arc<dyn Inode>, to: &Arc<dyn Inode>) -> Result<(), Errno> {
    let attr = from.attr()?;
    let names = from.list_xattr().unwrap_or_default();
    for name in names.split(|&b| b == 0).filter(|name| !name.is_empty()) {
        match from.get_xattr(name).and_then(|value| to.set_xattr(name, &value, 0)) {
            // Gone in the meantime, or of a kind that the upper layer does not keep.
            Ok(()) | Err(Errno::ENODATA | Errno::EOPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
    }
    let is_link = from.file_type() == FileType::Symlink;
    to.set_attr(&SetAttr {
        mode: (!is_link).then_some(attr.mode & 0o7777),
        uid: Some(attr.uid),
        gid: Some(attr.gid),
        size: None,
        atime: Some(SetTime::At(attr.atime)),
        mtime: Some(SetTime::At(attr.mtime)),
    })
}

impl OverlayInode {
    /// The upper inode; makes it if there is none yet. `size` is what the file is about to be cut
    /// to: content past it is not copied.
    pub(super) fn copy_up(&self, size: Option<u64>) -> Result<Arc<dyn Inode>, Errno> {
        if let Some(upper) = self.upper() {
            return Ok(upper);
        }
        let guard = self.fs.structure.lock();
        self.copy_up_locked(size, &guard)
    }

    /// As [`OverlayInode::copy_up`], with the structure lock held.
    pub(super) fn copy_up_locked(
        &self,
        size: Option<u64>,
        structure: &MutexGuard<'_, ()>,
    ) -> Result<Arc<dyn Inode>, Errno> {
        debug_assert!(std::ptr::eq(MutexGuard::mutex(structure), &self.fs.structure));
        let lower = {
            let layers = self.layers.read();
            match (&layers.upper, layers.lowers.first()) {
                (Some(upper), _) => return Ok(upper.clone()),
                (None, Some(lower)) => lower.clone(),
                (None, None) => return Err(Errno::EIO),
            }
        };
        let place = self.place.lock().clone();
        let parent = match &place {
            Some((dir, _)) => dir.copy_up_locked(None, structure)?,
            None => self.fs.upper.clone(),
        };
        let upper = match &place {
            Some((_, name)) => self.make_upper(&lower, &parent, Some(name), size)?,
            None => self.make_upper(&lower, &parent, None, size)?,
        };
        let mut layers = self.layers.write();
        let origin = Origin { key: lower.key(), lowers: layers.lowers.clone() };
        self.fs.origins.lock().insert(upper.key(), Arc::new(origin));
        if lower.attr().is_ok_and(|a| a.nlink > 1) && lower.file_type() != FileType::Directory {
            self.fs.index.lock().insert(lower.key(), upper.clone());
        }
        layers.upper = Some(upper.clone());
        Ok(upper)
    }

    /// Makes the upper inode, complete before it gets its name.
    fn make_upper(
        &self,
        lower: &Arc<dyn Inode>,
        parent: &Arc<dyn Inode>,
        name: Option<&[u8]>,
        size: Option<u64>,
    ) -> Result<Arc<dyn Inode>, Errno> {
        let attr = lower.attr()?;
        let parent_times = parent.attr()?;
        let target;
        let kind = match lower.file_type() {
            FileType::Regular => NodeKind::Regular,
            FileType::Directory => NodeKind::Directory,
            FileType::Symlink => {
                target = lower.readlink()?;
                NodeKind::Symlink(&target)
            }
            FileType::Fifo => NodeKind::Fifo,
            FileType::Socket => NodeKind::Socket,
            FileType::CharDevice => NodeKind::CharDevice(attr.rdev),
            FileType::BlockDevice => NodeKind::BlockDevice(attr.rdev),
        };
        let node = NewNode { mode: attr.mode & 0o7777, uid: attr.uid, gid: attr.gid, kind };
        let upper = if lower.file_type() == FileType::Regular {
            let upper = parent.tmpfile(&node)?;
            copy_content(lower, &upper, size.unwrap_or(u64::MAX).min(attr.size))?;
            copy_attributes(lower, &upper)?;
            if let Some(name) = name {
                parent.link(name, &upper)?;
            }
            upper
        } else {
            // A thing without a name cannot be given one: nobody can change it any more, either.
            let upper = parent.create(name.ok_or(Errno::ESTALE)?, &node)?;
            copy_attributes(lower, &upper)?;
            upper
        };
        // The guest did not touch the directory.
        parent.set_attr(&SetAttr {
            atime: Some(SetTime::At(parent_times.atime)),
            mtime: Some(SetTime::At(parent_times.mtime)),
            ..SetAttr::default()
        })?;
        Ok(upper)
    }
}

fn copy_content(from: &Arc<dyn Inode>, to: &Arc<dyn Inode>, size: u64) -> Result<(), Errno> {
    let mut buf = vec![0; CHUNK.min(usize::try_from(size).unwrap_or(CHUNK))];
    let mut done = 0;
    while done < size {
        let want = usize::try_from(size - done).unwrap_or(CHUNK).min(buf.len());
        let got = from.read_at(&mut IoDst::kernel(&mut buf[..want]), done)?;
        if got == 0 {
            break;
        }
        let mut src = IoSrc::kernel(&buf[..got]);
        while src.remaining() > 0 {
            let at = done + src.done() as u64;
            if to.write_at(&mut src, at)? == 0 {
                return Err(Errno::EIO);
            }
        }
        done += got as u64;
    }
    Ok(())
}
