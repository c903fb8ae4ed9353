//! The dentry cache: a tree of names over inodes.
//!
//! A dentry keeps its parent alive, a parent its cached children (bounded, see `vfs::namei`). A
//! dentry without inode is *negative*: the name is known not to exist. Names and parents change
//! only under the kernel's rename lock.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::{Mutex, RwLock};

use super::Inode;

/// One name in the cache.
pub struct Dentry {
    place: RwLock<Place>,
    inode: RwLock<Option<Arc<dyn Inode>>>,
    /// Cached children, positive and negative.
    pub(super) children: Mutex<HashMap<Box<[u8]>, Arc<Dentry>>>,
    /// How many mounts sit here (in any mount namespace).
    pub(super) mounted: AtomicU32,
    /// Set once the name was removed; `/proc/self/fd` then says "(deleted)".
    unlinked: AtomicBool,
}

struct Place {
    parent: Option<Arc<Dentry>>,
    name: Arc<[u8]>,
}

impl Dentry {
    /// The root of a file system, or a dentry of something that has no name in a tree
    /// (`pipe:[12]`).
    pub fn root(name: &[u8], inode: Arc<dyn Inode>) -> Arc<Dentry> {
        Dentry::make(None, name, Some(inode))
    }

    /// A child that is not in its parent's table yet. `None` makes a negative one.
    pub fn new_child(
        parent: &Arc<Dentry>,
        name: &[u8],
        inode: Option<Arc<dyn Inode>>,
    ) -> Arc<Dentry> {
        Dentry::make(Some(parent.clone()), name, inode)
    }

    fn make(
        parent: Option<Arc<Dentry>>,
        name: &[u8],
        inode: Option<Arc<dyn Inode>>,
    ) -> Arc<Dentry> {
        Arc::new(Dentry {
            place: RwLock::new(Place { parent, name: name.into() }),
            inode: RwLock::new(inode),
            children: Mutex::new(HashMap::new()),
            mounted: AtomicU32::new(0),
            unlinked: AtomicBool::new(false),
        })
    }

    /// The inode; `None` if negative.
    pub fn inode(&self) -> Option<Arc<dyn Inode>> {
        self.inode.read().clone()
    }

    /// Makes the dentry positive or negative.
    pub fn set_inode(&self, inode: Option<Arc<dyn Inode>>) {
        *self.inode.write() = inode;
    }

    /// The parent; `None` at a root.
    pub fn parent(&self) -> Option<Arc<Dentry>> {
        self.place.read().parent.clone()
    }

    /// The last component of its path.
    pub fn name(&self) -> Arc<[u8]> {
        self.place.read().name.clone()
    }

    /// Moves the dentry to a new place. The caller holds the rename lock and fixes both tables.
    pub fn set_place(&self, parent: Arc<Dentry>, name: &[u8]) {
        *self.place.write() = Place { parent: Some(parent), name: name.into() };
    }

    /// Whether its name was removed.
    pub fn is_unlinked(&self) -> bool {
        self.unlinked.load(Ordering::Acquire)
    }

    /// Marks the name as removed.
    pub fn mark_unlinked(&self) {
        self.unlinked.store(true, Ordering::Release);
    }

    /// Whether something may be mounted here.
    pub fn is_mountpoint(&self) -> bool {
        self.mounted.load(Ordering::Acquire) > 0
    }
}
