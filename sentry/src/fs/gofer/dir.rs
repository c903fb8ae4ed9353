//! Directories: lookups, with what one round trip brought beyond the name that was asked for, and
//! listings.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::ThreadId;

use abi::Errno;
use gofer::client::{At, DirEntry as HostEntry, Listing as HostListing, Node, Walked};
use gofer::wire::types::FileKind;

use super::inode::{GoferInode, Place};
use super::known::Names;
use super::listing::Listing;
use super::{FRESH_NS, convert};
use crate::kernel::time::monotonic_ns;
use crate::vfs::{DirEntry, DirSink, FileOps, IoDst};
use std::any::Any;

/// Components of the rest of a path that are looked up together with the first.
const MAX_AHEAD: usize = 15;
/// Largest directory whose listing is cached.
const MAX_LISTING: usize = 16_384;

/// Lookups after which a small directory is listed.
const LISTING_MIN: u64 = 8;
/// Bytes of directory size for each further lookup before that.
const LISTING_SHARE: u64 = 400;

/// What a directory knows about its children.
#[derive(Default)]
pub(super) struct Content {
    /// Counts the changes; an answer that was asked for before a change is not cached.
    pub(super) generation: u64,
    /// What the last lookup found behind this directory.
    pub(super) ahead: Option<Ahead>,
    /// What is known while it is watched (shared exports only).
    pub(super) names: Names,
    /// All children (exclusive exports only).
    listing: Option<Cached>,
    /// Whether it has more entries than are cached.
    too_large: bool,
    /// Lookups that the gofer had to answer since the listing was lost.
    lookups: u64,
    /// Inodes in use by name; their places say the same.
    children: HashMap<Box<[u8]>, Weak<GoferInode>>,
}

/// A listing and what changed since.
struct Cached {
    listing: Arc<Listing>,
    /// Names that were removed.
    gone: HashSet<Box<[u8]>>,
    /// Names whose attributes are out of date.
    stale: HashSet<Box<[u8]>>,
}

/// The answer to a lookup that has not been asked for yet.
pub(super) struct Ahead {
    name: Box<[u8]>,
    pub(super) at: u64,
    /// The thread that asked: who asks later than it may know of later changes.
    by: ThreadId,
    found: Result<Box<Found>, Errno>,
}

struct Found {
    node: Node,
    link: Option<Box<[u8]>>,
    next: Option<Ahead>,
}

/// The names in the rest of a path up to the first `.` or `..`.
fn names_ahead(rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    rest.split(|&c| c == b'/')
        .filter(|n| !n.is_empty())
        .take_while(|n| *n != b"." && *n != b".." && n.len() <= crate::vfs::NAME_MAX)
        .take(MAX_AHEAD)
}

impl GoferInode {
    /// Looks up a name, with the names in `rest` behind it.
    pub(super) fn find_child(&self, name: &[u8], rest: &[u8]) -> Result<Arc<GoferInode>, Errno> {
        if self.kind() != FileKind::Directory {
            return Err(Errno::ENOTDIR);
        }
        if let Some(known) = self.known(name) {
            return known;
        }
        self.watch_if_worth();
        let me = std::thread::current().id();
        let generation = {
            let mut content = self.content.lock();
            if let Some(known) = content.listed(name) {
                let attr = known?;
                drop(content);
                return Ok(self.make_child(name, None, attr));
            }
            if let Some(ahead) = content.ahead.take_if(|a| *a.name == *name) {
                let fresh = monotonic_ns().saturating_sub(ahead.at) < FRESH_NS && ahead.by == me;
                if self.fs.exclusive() || fresh {
                    drop(content);
                    return ahead.found.map(|found| self.accept(name, *found));
                }
            }
            content.lookups += 1;
            content.generation
        };
        if self.listing_pays() && self.load_listing()?.is_some() {
            let known = self.content.lock().listed(name);
            if let Some(attr) = known {
                return attr.map(|attr| self.make_child(name, None, attr));
            }
        }
        let mut names = vec![name];
        names.extend(names_ahead(rest));
        let walked = self.walk(&names)?;
        let (now, mut link) = (monotonic_ns(), walked.link);
        // The error belongs to the name behind the last found. Only absence is worth keeping.
        let failed = walked.error;
        let missing = names.get(walked.found.len()).filter(|_| failed == Some(Errno::ENOENT));
        let ahead = |name: &[u8], found| Ahead { name: name.into(), at: now, by: me, found };
        let mut next = missing.map(|n| ahead(n, Err(Errno::ENOENT)));
        let mut nodes: Vec<Node> = walked.found;
        while let Some(node) = nodes.pop() {
            let found = Found { node, link: link.take(), next: next.take() };
            let Some(name_of) = names.get(nodes.len()) else { break };
            if nodes.is_empty() {
                // A change since the question makes what lies behind doubtful.
                let unchanged = self.content.lock().generation == generation;
                let next = found.next.filter(|_| unchanged);
                let child = self.accept(name, Found { next, ..found });
                self.keep(name, Some(&child), generation);
                return Ok(child);
            }
            next = Some(ahead(name_of, Ok(Box::new(found))));
        }
        if failed == Some(Errno::ENOENT) {
            self.keep(name, None, generation);
        }
        Err(failed.unwrap_or(Errno::EIO))
    }

    /// Whether so many names were looked up one by one that fetching the whole listing, which costs
    /// the host about a tenth of a round trip an entry, is worth it. The size of a directory tells
    /// roughly how many entries it has.
    fn listing_pays(&self) -> bool {
        let content = self.content.lock();
        let (lookups, unknown) = (content.lookups, content.listing.is_none());
        let possible = self.fs.exclusive() && unknown && !content.too_large;
        drop(content);
        possible && lookups > (self.known_size() / LISTING_SHARE).max(LISTING_MIN)
    }

    /// Walks in the gofer; finds the directory itself in the same round trip if need be.
    fn walk(&self, names: &[&[u8]]) -> Result<Walked, Errno> {
        if let Some(handle) = self.handle_if_known() {
            return self.fs.client.walk(&handle, names, None);
        }
        for place in self.places() {
            let above = place.dir.handle()?;
            let mut all: Vec<&[u8]> = vec![&place.name];
            all.extend_from_slice(names);
            let mut walked = self.fs.client.walk(&above, &all, None)?;
            if walked.found.first().is_some_and(|n| n.attr.identity() == self.host_key()) {
                self.take_handle(walked.found.remove(0).handle);
                return Ok(walked);
            }
        }
        Err(Errno::ESTALE)
    }

    /// Lists from the start, looking the directory up in the same round trip if need be.
    fn list_first(&self) -> Result<HostListing, Errno> {
        if let Some(handle) = self.handle_if_known() {
            return self.fs.client.read_dir(&handle, 0, true);
        }
        for place in self.places() {
            let above = place.dir.handle()?;
            let at = At { dir: &above, name: &place.name };
            let (node, listing) = self.fs.client.list_child(at, true)?;
            if node.attr.identity() == self.host_key() {
                self.take_handle(node.handle);
                return Ok(listing);
            }
        }
        Err(Errno::ESTALE)
    }

    /// Makes an inode of what a lookup found.
    fn accept(&self, name: &[u8], found: Found) -> Arc<GoferInode> {
        let attr = found.node.attr;
        let child = self.make_child(name, Some(found.node.handle), attr);
        child.learn(attr);
        child.note_found();
        if let Some(link) = found.link {
            child.set_target(link);
        }
        // A directory that is watched believes what was asked for since only.
        if let Some(next) = found.next
            && child.generation().is_none()
        {
            child.content.lock().ahead = Some(next);
        }
        child
    }

    fn make_child(
        &self,
        name: &[u8],
        handle: Option<gofer::client::Handle>,
        attr: gofer::wire::types::Attr,
    ) -> Arc<GoferInode> {
        let place = self.me.upgrade().map(|dir| Place { dir, name: name.into() });
        GoferInode::find(&self.fs, attr, handle, place)
    }

    /// Notes that `child` is in use as `name` here.
    pub(super) fn note_child(&self, name: &[u8], child: &Weak<GoferInode>) {
        self.content.lock().children.insert(name.into(), child.clone());
    }

    /// Undoes [`Self::note_child`] for `child`, or for an inode that is gone.
    pub(super) fn forget_child(&self, name: &[u8], child: Option<&GoferInode>) {
        let mut content = self.content.lock();
        let is_it = |w: &Weak<GoferInode>| {
            w.strong_count() == 0 || child.is_some_and(|c| std::ptr::eq(w.as_ptr(), c))
        };
        if content.children.get(name).is_some_and(is_it) {
            content.children.remove(name);
        }
        let unknown = content.names.forget_dead(name);
        drop(content);
        self.fs.watcher.uncount_names(usize::from(unknown));
    }

    /// The inode in use as `name` here.
    pub(super) fn child_in_use(&self, name: &[u8]) -> Option<Arc<GoferInode>> {
        self.content.lock().children.get(name).and_then(Weak::upgrade)
    }

    /// Drops what is known about children: a name came, or everything is in doubt.
    pub(super) fn forget_listing(&self) {
        let old = {
            let mut content = self.content.lock();
            content.generation += 1;
            content.too_large = false;
            content.lookups = 0;
            (content.ahead.take(), content.listing.take())
        };
        drop(old);
    }

    /// A name went.
    pub(super) fn forget_name(&self, name: &[u8]) {
        let mut content = self.content.lock();
        content.generation += 1;
        let ahead = content.ahead.take();
        if let Some(cached) = &mut content.listing {
            cached.gone.insert(name.into());
        }
        drop(content);
        drop(ahead);
    }

    /// The attributes of a child changed.
    pub(super) fn forget_attr(&self, name: &[u8]) {
        let mut content = self.content.lock();
        content.generation += 1;
        if let Some(cached) = &mut content.listing {
            cached.stale.insert(name.into());
        }
    }

    /// Fetches and caches the whole listing, if that is allowed and it is not too large.
    fn load_listing(&self) -> Result<Option<Arc<Listing>>, Errno> {
        let generation = {
            let content = self.content.lock();
            if let Some(cached) = content.listing.as_ref().filter(|c| c.gone.is_empty()) {
                return Ok(Some(cached.listing.clone()));
            }
            if !self.fs.exclusive() || content.too_large {
                return Ok(None);
            }
            content.generation
        };
        let mut part = self.list_first()?;
        let mut entries = Vec::new();
        loop {
            entries.append(&mut part.entries);
            if entries.len() > MAX_LISTING {
                self.content.lock().too_large = true;
                return Ok(None);
            }
            if part.end {
                break;
            }
            part = self.fs.client.read_dir(&*self.handle()?, part.next, true)?;
        }
        let Some(listing) = Listing::new(entries).map(Arc::new) else { return Ok(None) };
        let old = {
            let mut content = self.content.lock();
            if content.generation != generation {
                return Ok(Some(listing));
            }
            content.listing.replace(Cached {
                listing: listing.clone(),
                gone: HashSet::new(),
                stale: HashSet::new(),
            })
        };
        drop(old);
        self.fs.note_listing(&self.me, listing.len());
        Ok(Some(listing))
    }
}

impl Content {
    /// What the cached listing says about a name: its attributes or `ENOENT`; `None` if there is no
    /// listing, or it does not know enough.
    fn listed(&self, name: &[u8]) -> Option<Result<gofer::wire::types::Attr, Errno>> {
        let cached = self.listing.as_ref()?;
        if cached.gone.contains(name) {
            return Some(Err(Errno::ENOENT));
        }
        let Some(entry) = cached.listing.find(name) else { return Some(Err(Errno::ENOENT)) };
        let attr = entry.attr.filter(|_| !cached.stale.contains(name))?;
        // The other names of a hard link may have changed it without a note here.
        let sole = attr.nlink == 1 || attr.kind() == FileKind::Directory;
        sole.then_some(Ok(attr))
    }
}

/// An open directory. Positions: 0 is before `.`, 1 before `..`, [`FIRST`] before the first entry,
/// others are the host's cookies. (Linux's file systems use cookies above 2 behind an entry.)
pub(super) struct OpenDir {
    inode: Arc<GoferInode>,
    /// Where in the cached listing the last read ended.
    hint: AtomicUsize,
}

const FIRST: u64 = 2;

impl OpenDir {
    pub(super) fn new(inode: Arc<GoferInode>) -> OpenDir {
        OpenDir { inode, hint: AtomicUsize::new(0) }
    }

    fn emit(&self, entry: &HostEntry, sink: &mut DirSink<'_>) -> bool {
        let dev = entry.attr.map_or(self.inode.host_key().0, |a| a.dev);
        let ino = entry.attr.map_or(entry.ino, |a| a.ino);
        sink(DirEntry {
            ino: self.inode.fs.guest_ino(dev, ino),
            next: entry.next,
            kind: Some(convert::file_type(entry.kind)),
            name: &entry.name.0,
        })
    }

    /// Where position `pos` is in the listing; `None` if no entry ends there.
    fn index_of(&self, listing: &Listing, pos: u64) -> Option<usize> {
        if pos == FIRST {
            return Some(0);
        }
        let hint = self.hint.load(Ordering::Relaxed);
        let ends_at = |i: usize| {
            i.checked_sub(1).and_then(|i| listing.from(i).first()).is_some_and(|e| e.next == pos)
        };
        if ends_at(hint) {
            return Some(hint);
        }
        (1..=listing.len()).find(|&i| ends_at(i))
    }
}

impl FileOps for OpenDir {
    fn read(&self, _: &mut IoDst<'_>, _: u64) -> Result<usize, Errno> {
        Err(Errno::EISDIR)
    }

    fn read_dir(&self, pos: &mut u64, sink: &mut DirSink<'_>) -> Result<(), Errno> {
        let parent = || self.inode.parent().map_or(self.inode.ino(), |p| p.ino());
        while *pos < FIRST {
            let (ino, name) =
                if *pos == 0 { (self.inode.ino(), &b"."[..]) } else { (parent(), &b".."[..]) };
            let kind = Some(crate::vfs::FileType::Directory);
            if !sink(DirEntry { ino, next: *pos + 1, kind, name }) {
                return Ok(());
            }
            *pos += 1;
        }
        if let Some(listing) = self.inode.load_listing()?
            && let Some(start) = self.index_of(&listing, *pos)
        {
            for (i, entry) in listing.from(start).iter().enumerate() {
                if !self.emit(entry, sink) {
                    return Ok(());
                }
                *pos = entry.next;
                self.hint.store(start + i + 1, Ordering::Relaxed);
            }
            return Ok(());
        }
        let handle = self.inode.handle()?;
        loop {
            let cookie = if *pos == FIRST { 0 } else { *pos };
            let part = self.inode.fs.client.read_dir(&handle, cookie, false)?;
            for entry in &part.entries {
                if !self.emit(entry, sink) {
                    return Ok(());
                }
                *pos = entry.next;
            }
            if part.end {
                return Ok(());
            }
            *pos = part.next;
        }
    }

    fn fsync(&self, data_only: bool) -> Result<(), Errno> {
        self.inode.fs.client.fsync(&*self.inode.handle()?, None, data_only)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::names_ahead;

    #[test]
    fn the_rest_of_a_path() {
        let names = |rest: &'static [u8]| names_ahead(rest).collect::<Vec<_>>();
        assert_eq!(names(b"/b//c/"), [&b"b"[..], b"c"]);
        assert_eq!(names(b"b/../c"), [&b"b"[..]]);
        assert!(names(b"./b").is_empty());
        assert_eq!(names_ahead(&b"x/".repeat(100)).count(), super::MAX_AHEAD);
    }
}
