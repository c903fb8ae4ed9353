//! Overlay: a writable upper tree over read-only lower ones, seen as one (Linux's overlayfs).
//!
//! The upper layer is always born empty and belongs to this overlay alone. So what an upper entry
//! stands for (which inode number the guest saw before it was copied up, which lower directories it
//! is merged with) is kept in memory, in [`Overlay::origins`], and not in extended attributes; and a
//! directory that was renamed still knows its lower ones. A name that was removed is hidden by a
//! whiteout in the upper directory: a character device 0/0.
//!
//! One [`OverlayInode`] stands for a file however often it is looked up, before and after it is
//! copied up; a file that was opened read-only before reads the upper one from then on.
//!
//! Lock order: `structure` (changes of names, and copy-up) -> an inode's layers -> tables (leaves)
//! -> the layers' own locks.

mod copy_up;
mod dir;
mod file;
mod inode;

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use abi::Errno;
use parking_lot::Mutex;

use crate::vfs::{FileSystem, Inode, InodeKey, StatFs, mount};

pub use inode::OverlayInode;

/// `OVERLAYFS_SUPER_MAGIC`
const MAGIC: i64 = 0x794c_7630;

/// A mounted overlay.
pub struct Overlay {
    dev: u64,
    /// Device of the upper layer, whose inode numbers are made different from the lower ones'.
    upper: Arc<dyn Inode>,
    lower_devs: Vec<u64>,
    root: Mutex<Option<Arc<OverlayInode>>>,
    /// Inodes in use, by what they stand for.
    inodes: Mutex<HashMap<InodeKey, Weak<OverlayInode>>>,
    /// What upper inodes were before they were copied up.
    origins: Mutex<HashMap<InodeKey, Arc<Origin>>>,
    /// Upper inodes of lower files that have several names, by the lower inode.
    index: Mutex<HashMap<InodeKey, Arc<dyn Inode>>>,
    /// Held over every change of names and every copy-up.
    structure: Mutex<()>,
}

/// What an upper inode was copied from.
struct Origin {
    /// The topmost lower inode.
    key: InodeKey,
    /// Lower directories that it is merged with, topmost first; of a file, the file.
    lowers: Vec<Arc<dyn Inode>>,
}

impl Overlay {
    /// An overlay of an empty `upper` directory, which nobody else uses, over `lowers`, topmost
    /// first. The lower roots are all directories, or the one lower is a single file.
    pub fn new(upper: Arc<dyn Inode>, lowers: Vec<Arc<dyn Inode>>) -> Result<Arc<Overlay>, Errno> {
        let first = lowers.first().ok_or(Errno::EINVAL)?;
        let is_dir = first.file_type() == crate::vfs::FileType::Directory;
        let overlay = Arc::new(Overlay {
            dev: mount::new_device(),
            upper: upper.clone(),
            lower_devs: lowers.iter().map(|l| l.key().dev).collect(),
            root: Mutex::new(None),
            inodes: Mutex::default(),
            origins: Mutex::default(),
            index: Mutex::default(),
            structure: Mutex::new(()),
        });
        if is_dir {
            // The root is there in both layers, and looks as the lower one does.
            let origin = Arc::new(Origin { key: first.key(), lowers: lowers.clone() });
            overlay.origins.lock().insert(upper.key(), origin);
            copy_up::copy_attributes(first, &upper)?;
        }
        let upper = is_dir.then_some(upper);
        let root = OverlayInode::find(&overlay, upper, lowers, None)?;
        *overlay.root.lock() = Some(root);
        Ok(overlay)
    }

    /// The root. `EIO` after [`Overlay::forget`].
    pub fn root(&self) -> Result<Arc<dyn Inode>, Errno> {
        self.root.lock().clone().map(|r| r as Arc<dyn Inode>).ok_or(Errno::EIO)
    }

    /// Breaks the cycle between the file system and its root: to be called when the last mount of
    /// it is gone.
    pub fn forget(&self) {
        let root = self.root.lock().take();
        drop(root);
    }

    /// The guest's inode number for what a key of a layer stands for: layers of different devices
    /// are kept apart by the upper bits.
    fn guest_ino(&self, key: InodeKey) -> u64 {
        let layer = match self.lower_devs.iter().position(|&dev| dev == key.dev) {
            Some(i) => i as u64,
            None => self.lower_devs.len() as u64,
        };
        key.ino ^ (layer << 56)
    }

    fn origin(&self, upper: &Arc<dyn Inode>) -> Option<Arc<Origin>> {
        self.origins.lock().get(&upper.key()).cloned()
    }

    /// An upper inode lost its last name.
    fn forget_upper(&self, upper: &Arc<dyn Inode>) {
        if let Some(origin) = self.origins.lock().remove(&upper.key()) {
            self.index.lock().remove(&origin.key);
        }
    }
}

impl FileSystem for Overlay {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn dev(&self) -> u64 {
        self.dev
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(StatFs { magic: MAGIC, ..self.upper.filesystem().statfs()? })
    }
}
