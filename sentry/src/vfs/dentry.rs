//! The dentry cache: a tree of names over inodes.
//!
//! A dentry keeps its parent alive, a parent its cached children. A dentry without inode is
//! *negative*: the name is known not to exist. Leaves that nobody uses are let go when there are
//! too many ([`MAX_CACHED`]); names and parents change only under [`rename_lock`].
//!
//! Lock order: [`rename_lock`] -> `dir` (parent before child) -> `children` -> `place`, `inode`.
//! The queue of the cache is taken with none of them held but `dir`.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Weak};

use parking_lot::{Mutex, MutexGuard, RwLock};

use super::Inode;
use crate::kmem;

/// How many dentries the cache keeps.
pub const MAX_CACHED: usize = 1 << 17;
/// How many it keeps however little memory there is.
const MIN_CACHED: usize = 1 << 10;
/// What a dentry costs, with its inode and what the gofer has for it.
const COST: u64 = 2 << 10;
/// The part of the limit on memory that the cache may have: it is not counted.
const SHARE: u64 = 20;
/// How many entries of the queue one insertion looks at.
const SHRINK_STEP: usize = 8;

/// One name in the cache.
pub struct Dentry {
    place: RwLock<Place>,
    inode: RwLock<Option<Arc<dyn Inode>>>,
    children: Mutex<Children>,
    /// Shared while a name that is not cached is looked up in this directory; exclusive while the
    /// directory changes (Linux's `i_rwsem`).
    pub(super) dir: RwLock<()>,
    /// How many mounts sit here (in any mount namespace).
    pub(super) mounted: AtomicU32,
    /// Set once the name was removed; `/proc/self/fd` then says "(deleted)".
    unlinked: AtomicBool,
    /// See [`Dentry::forbid_link`].
    no_link: AtomicBool,
    /// Used since the cache last looked.
    referenced: AtomicBool,
}

struct Place {
    parent: Option<Arc<Dentry>>,
    name: Arc<[u8]>,
}

/// Cached children, positive and negative.
type Children = HashMap<Arc<[u8]>, Arc<Dentry>, NameHash>;

/// Hashes names, seeded once per process: quick, and a guest cannot aim for collisions.
#[derive(Clone, Copy, Default)]
struct NameHash;

struct NameHasher(u64);

impl BuildHasher for NameHash {
    type Hasher = NameHasher;
    fn build_hasher(&self) -> NameHasher {
        static SEED: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0u8));
        NameHasher(*SEED)
    }
}

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }
    fn write_u64(&mut self, word: u64) {
        const MULTIPLE: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
        let wide = u128::from(self.0 ^ word).wrapping_mul(MULTIPLE);
        self.0 = (wide >> 64) as u64 ^ wide as u64;
    }
    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

/// Held over renames and whatever else must see places stand still.
pub fn rename_lock() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock()
}

/// The cached dentries, oldest first, for the second-chance replacement.
static QUEUE: Mutex<VecDeque<Weak<Dentry>>> = Mutex::new(VecDeque::new());

impl Dentry {
    /// The root of a file system (name `/`), or a dentry of something that has no name in a tree
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
            children: Mutex::new(HashMap::with_hasher(NameHash)),
            dir: RwLock::new(()),
            mounted: AtomicU32::new(0),
            unlinked: AtomicBool::new(false),
            no_link: AtomicBool::new(false),
            referenced: AtomicBool::new(false),
        })
    }

    /// The inode; `None` if negative.
    pub fn inode(&self) -> Option<Arc<dyn Inode>> {
        self.inode.read().clone()
    }

    /// Looks at the inode without taking a reference. `f` must not change this dentry.
    pub fn with_inode<T>(&self, f: impl FnOnce(Option<&Arc<dyn Inode>>) -> T) -> T {
        f(self.inode.read().as_ref())
    }

    /// Makes the dentry positive or negative.
    pub fn set_inode(&self, inode: Option<Arc<dyn Inode>>) {
        let old = std::mem::replace(&mut *self.inode.write(), inode);
        drop(old);
    }

    /// The parent; `None` at a root.
    pub fn parent(&self) -> Option<Arc<Dentry>> {
        self.place.read().parent.clone()
    }

    /// The last component of its path.
    pub fn name(&self) -> Arc<[u8]> {
        self.place.read().name.clone()
    }

    /// The cached child of this name, positive or negative.
    pub fn cached(&self, name: &[u8]) -> Option<Arc<Dentry>> {
        let children = self.children.lock();
        let child = children.get(name)?;
        if !child.referenced.load(Ordering::Relaxed) {
            child.referenced.store(true, Ordering::Relaxed);
        }
        Some(child.clone())
    }

    /// Puts a child into its parent's table, unless the name is there already; returns what is
    /// there then.
    pub fn add_child(self: &Arc<Self>, child: Arc<Dentry>) -> Arc<Dentry> {
        let name = child.name();
        {
            let mut children = self.children.lock();
            if let Some(there) = children.get(&name) {
                return there.clone();
            }
            children.insert(name, child.clone());
        }
        remember(&child);
        child
    }

    /// Takes a child out of the table, if it is `child` that stands there.
    pub fn remove_child(&self, child: &Arc<Dentry>) {
        let name = child.name();
        let mut children = self.children.lock();
        let gone = match children.get(&name) {
            Some(there) if Arc::ptr_eq(there, child) => children.remove(&name),
            _ => None,
        };
        drop(children);
        drop(gone);
    }

    /// The name `child` is removed: it keeps its inode for who has it open, and a negative dentry
    /// takes its place. The caller holds `dir`.
    pub(super) fn forget_child(self: &Arc<Self>, child: &Arc<Dentry>, keep_negative: bool) {
        child.mark_unlinked();
        self.remove_child(child);
        child.drop_tree();
        if keep_negative {
            self.add_child(Dentry::new_child(self, &child.name(), None));
        }
    }

    /// Empties the tables below this dentry (which hold references to their holder): the directory
    /// or the file system is gone.
    pub(super) fn drop_tree(&self) {
        let mut tables = vec![std::mem::take(&mut *self.children.lock())];
        while let Some(table) = tables.pop() {
            tables.extend(table.values().map(|c| std::mem::take(&mut *c.children.lock())));
        }
    }

    /// Moves `self` to a new parent and name. The caller holds the rename lock and `dir` of both
    /// parents, and has emptied the new place.
    pub(super) fn move_to(self: &Arc<Self>, parent: &Arc<Dentry>, name: &[u8]) {
        if let Some(old) = self.parent() {
            old.remove_child(self);
        }
        *self.place.write() = Place { parent: Some(parent.clone()), name: name.into() };
        parent.children.lock().insert(self.name(), self.clone());
    }

    /// Exchanges the places of two dentries, under the same locks as [`Dentry::move_to`].
    pub(super) fn exchange(self: &Arc<Self>, other: &Arc<Dentry>) {
        let (Some(a), Some(b)) = (self.parent(), other.parent()) else { return };
        let (a_name, b_name) = (self.name(), other.name());
        a.remove_child(self);
        b.remove_child(other);
        self.move_to(&b, &b_name);
        other.move_to(&a, &a_name);
    }

    /// Whether `other` is this dentry or below it.
    pub fn is_ancestor_of(self: &Arc<Self>, other: &Arc<Dentry>) -> bool {
        let mut at = Some(other.clone());
        while let Some(dentry) = at {
            if Arc::ptr_eq(&dentry, self) {
                return true;
            }
            at = dentry.parent();
        }
        false
    }

    /// Whether its name was removed.
    pub fn is_unlinked(&self) -> bool {
        self.unlinked.load(Ordering::Acquire)
    }

    /// Marks the name as removed.
    pub fn mark_unlinked(&self) {
        self.unlinked.store(true, Ordering::Release);
    }

    /// Whether its file may never get a name (`O_TMPFILE` with `O_EXCL`).
    pub(super) fn forbids_link(&self) -> bool {
        self.no_link.load(Ordering::Acquire)
    }

    /// Keeps its file from getting a name.
    pub(super) fn forbid_link(&self) {
        self.no_link.store(true, Ordering::Release);
    }

    /// Whether something may be mounted here.
    pub fn is_mountpoint(&self) -> bool {
        self.mounted.load(Ordering::Acquire) > 0
    }
}

impl Drop for Dentry {
    fn drop(&mut self) {
        // A long chain of parents would otherwise be dropped recursively, one stack frame each.
        let mut parent = self.place.get_mut().parent.take();
        while let Some(dentry) = parent {
            parent = Arc::into_inner(dentry).and_then(|mut d| d.place.get_mut().parent.take());
        }
    }
}

/// How many dentries the cache keeps, with the sandbox's limit on memory.
fn most() -> usize {
    let share = kmem::limit() / SHARE / COST;
    usize::try_from(share).unwrap_or(MAX_CACHED).clamp(MIN_CACHED, MAX_CACHED)
}

/// Notes a dentry in the queue, and lets go of old ones that nobody uses.
fn remember(dentry: &Arc<Dentry>) {
    let mut old: smallvec::SmallVec<[Weak<Dentry>; SHRINK_STEP]> = smallvec::SmallVec::new();
    {
        let mut queue = QUEUE.lock();
        queue.push_back(Arc::downgrade(dentry));
        if queue.len() > most() {
            let n = SHRINK_STEP.min(queue.len());
            old.extend(queue.drain(..n));
        }
    }
    let mut kept: smallvec::SmallVec<[Weak<Dentry>; SHRINK_STEP]> = smallvec::SmallVec::new();
    for weak in old {
        if let Some(dentry) = weak.upgrade()
            && !let_go(&dentry)
        {
            kept.push(weak);
        }
    }
    if !kept.is_empty() {
        QUEUE.lock().extend(kept);
    }
}

/// Drops a dentry from its parent's table if it was not used of late and nobody holds it. Returns
/// whether the queue can forget it.
fn let_go(dentry: &Arc<Dentry>) -> bool {
    if dentry.referenced.swap(false, Ordering::Relaxed) {
        return false;
    }
    let Some(parent) = dentry.parent() else { return true };
    let name = dentry.name();
    let mut children = parent.children.lock();
    match children.get(&name) {
        // One reference is the table's, one ours; children would hold more.
        Some(there) if Arc::ptr_eq(there, dentry) => {
            if Arc::strong_count(dentry) > 2 || dentry.is_mountpoint() {
                return false;
            }
            let gone = children.remove(&name);
            drop(children);
            drop(gone);
            true
        }
        // Unlinked or moved away meanwhile.
        _ => dentry.is_unlinked(),
    }
}
