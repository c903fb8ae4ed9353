//! Inodes: a host file, its attributes, its names, and the host descriptors it is open as.

use std::any::Any;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use abi::Errno;
use gofer::client::{Handle, stat_file};
use gofer::wire::request::Changes;
use gofer::wire::types::{Attr as HostAttr, FileKind, OpenFlags as HostOpen};
use parking_lot::Mutex;

use super::dir::{Content, OpenDir};
use super::file::OpenFile;
use super::{FRESH_NS, GoferFs, convert};
use crate::kernel::time::monotonic_ns;
use crate::mm::{HostFile, MappingRegistry};
use crate::vfs::{
    Attr, DentryPolicy, DirSink, FileOps, FileSystem, FileType, Inode, InodeKey, IoDst, NewNode,
    OpenArgs, SetAttr,
};

/// Names that an inode remembers; a file with more hard links is looked up again.
const MAX_PLACES: usize = 8;

/// See the module.
pub(super) struct GoferInode {
    pub(super) fs: Arc<GoferFs>,
    pub(super) me: Weak<GoferInode>,
    kind: FileKind,
    host_key: (u64, u64),
    ino: u64,
    /// `None` while all that is known comes from a directory listing, and after
    /// [`GoferFs::shed`].
    pub(super) handle: Mutex<Option<Arc<Handle>>>,
    pub(super) attr: Mutex<Known>,
    pub(super) places: Mutex<Vec<Place>>,
    /// When the gofer last found it under a name (`CLOCK_MONOTONIC`).
    found: AtomicU64,
    target: OnceLock<Box<[u8]>>,
    files: Mutex<Files>,
    /// Whether it may have been written through a descriptor since `attr` was fetched.
    written: AtomicBool,
    /// Odd: it has no capabilities, and only this sandbox could give it some (every exec asks). The
    /// next even number follows when it may have got some.
    incapable: AtomicU64,
    /// Directories: what is known about children.
    pub(super) content: Mutex<Content>,
    pub(super) mappings: MappingRegistry,
}

/// Attributes and when they were fetched (`CLOCK_MONOTONIC`; 0: to be fetched again).
pub(super) struct Known {
    pub(super) attr: HostAttr,
    pub(super) at: u64,
}

/// A name of the file.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) dir: Arc<GoferInode>,
    pub(super) name: Box<[u8]>,
}

/// The host file, open. `write` can be read, too.
#[derive(Default)]
struct Files {
    read: Option<Arc<HostFile>>,
    write: Option<Arc<HostFile>>,
}

impl GoferInode {
    /// The inode of a host file: the one in use, brought up to date, or a new one. `place` is where
    /// it was found.
    pub(super) fn find(
        fs: &Arc<GoferFs>,
        attr: HostAttr,
        handle: Option<Handle>,
        place: Option<Place>,
    ) -> Arc<GoferInode> {
        let key = attr.identity();
        let old = fs.inodes.lock().get(&key).and_then(Weak::upgrade);
        // A hostile gofer may change a file's type; then it is another file.
        let old = old.filter(|i| i.kind == attr.kind());
        let inode = old.unwrap_or_else(|| GoferInode::insert(fs, attr));
        if let Some(handle) = handle {
            inode.take_handle(handle);
        }
        if let Some(place) = place {
            inode.add_place(place);
        }
        inode
    }

    /// Makes an inode, unless another thread just did.
    fn insert(fs: &Arc<GoferFs>, attr: HostAttr) -> Arc<GoferInode> {
        let key = attr.identity();
        let new = Arc::new_cyclic(|me| GoferInode {
            fs: fs.clone(),
            me: me.clone(),
            kind: attr.kind(),
            host_key: key,
            ino: fs.guest_ino(key.0, key.1),
            handle: Mutex::new(None),
            attr: Mutex::new(Known { attr, at: monotonic_ns().max(1) }),
            places: Mutex::default(),
            found: AtomicU64::new(0),
            target: OnceLock::new(),
            files: Mutex::default(),
            written: AtomicBool::new(false),
            incapable: AtomicU64::new(0),
            content: Mutex::default(),
            mappings: MappingRegistry::new(),
        });
        let raced = {
            let mut table = fs.inodes.lock();
            let other = table.get(&key).and_then(Weak::upgrade);
            if other.as_ref().is_none_or(|o| o.kind != new.kind) {
                table.insert(key, Arc::downgrade(&new));
            }
            other
        };
        // Inodes are dropped without the table's lock: that takes it.
        raced.filter(|o| o.kind == new.kind).unwrap_or(new)
    }

    /// The host's device and inode number.
    pub(super) fn host_key(&self) -> (u64, u64) {
        self.host_key
    }

    /// The inode number that guests see.
    pub(super) fn ino(&self) -> u64 {
        self.ino
    }

    /// The size when it was last heard of.
    pub(super) fn known_size(&self) -> u64 {
        self.attr.lock().attr.size
    }

    pub(super) fn kind(&self) -> FileKind {
        self.kind
    }

    pub(super) fn add_place(&self, place: Place) {
        place.dir.note_child(&place.name, &self.me);
        let mut places = self.places.lock();
        let same = |p: &Place| Arc::ptr_eq(&p.dir, &place.dir) && p.name == place.name;
        if places.iter().any(same) || places.len() >= MAX_PLACES {
            drop(places);
            return drop(place);
        }
        places.push(place);
    }

    pub(super) fn remove_place(&self, dir: &GoferInode, name: &[u8]) {
        dir.forget_child(name, Some(self));
        let mut gone = Vec::new();
        let mut places = self.places.lock();
        let mut i = 0;
        while let Some(p) = places.get(i) {
            if std::ptr::eq(Arc::as_ptr(&p.dir), dir) && *p.name == *name {
                gone.push(places.swap_remove(i));
            } else {
                i += 1;
            }
        }
        drop(places);
    }

    pub(super) fn places(&self) -> Vec<Place> {
        self.places.lock().clone()
    }

    /// The directory that it was found in first; a root is its own.
    pub(super) fn parent(&self) -> Option<Arc<GoferInode>> {
        self.places.lock().first().map(|p| p.dir.clone())
    }

    /// Notes the text of a symbolic link.
    pub(super) fn set_target(&self, target: Box<[u8]>) {
        let _ = self.target.set(target);
    }

    /// Notes that a lookup just led here.
    pub(super) fn note_found(&self) {
        self.found.store(monotonic_ns(), Ordering::Relaxed);
    }

    /// Whether it is known as `name` in `dir`.
    fn is_at(&self, dir: &GoferInode, name: &[u8]) -> bool {
        let here = |p: &Place| std::ptr::eq(Arc::as_ptr(&p.dir), dir) && *p.name == *name;
        self.places.lock().iter().any(here)
    }

    /// Stores attributes that just came from the host.
    pub(super) fn learn(&self, attr: HostAttr) {
        if attr.identity() == self.host_key && attr.kind() == self.kind {
            *self.attr.lock() = Known { attr, at: monotonic_ns().max(1) };
        }
    }

    /// Makes the next [`Inode::attr`] ask the host, and the listings it is in forget it.
    pub(super) fn changed(&self) {
        self.attr.lock().at = 0;
        self.forget_in_listings();
    }

    pub(super) fn forget_in_listings(&self) {
        for place in self.places() {
            place.dir.forget_attr(&place.name);
        }
    }

    /// Notes a write through a descriptor.
    pub(super) fn note_written(&self) {
        if !self.written.swap(true, Ordering::AcqRel) {
            self.forget_in_listings();
        }
    }

    /// Attributes of an open file straight from the host, but for its owner: the Sentry's user
    /// namespace does not know the ids that the gofer's does.
    fn stat_open(&self, file: &HostFile) -> Result<HostAttr, Errno> {
        let mut raw = *stat_file(file.fd().as_fd())?;
        let known = self.attr.lock().attr;
        (raw.uid, raw.gid) = (known.uid, known.gid);
        HostAttr::new(raw).ok_or(Errno::EIO)
    }

    fn host_attr(&self) -> Result<HostAttr, Errno> {
        let file = {
            let files = self.files.lock();
            files.write.clone().or_else(|| {
                // What is only read here does not change under an exclusive export.
                files.read.clone().filter(|_| !self.fs.exclusive())
            })
        };
        if let Some(file) = file {
            return self.stat_open(&file);
        }
        {
            let known = self.attr.lock();
            let fresh = || monotonic_ns().saturating_sub(known.at) < FRESH_NS;
            if known.at != 0 && (self.fs.exclusive() || fresh()) {
                return Ok(known.attr);
            }
        }
        let attr = self.fs.client.stat(&*self.handle()?)?;
        self.learn(attr);
        Ok(attr)
    }

    /// The host's attributes as guests see them.
    fn guest_attr(&self, a: HostAttr) -> Attr {
        Attr {
            dev: self.fs.dev,
            ino: self.ino,
            mode: a.mode,
            nlink: a.nlink,
            uid: a.uid,
            gid: a.gid,
            rdev: a.rdev,
            size: a.size,
            blksize: a.blksize,
            blocks: a.blocks,
            atime: convert::time(a.atime),
            mtime: convert::time(a.mtime),
            ctime: convert::time(a.ctime),
            btime: a.btime.map(convert::time),
        }
    }

    /// The host file for reading, opened if need be.
    pub(super) fn open_read(&self) -> Result<Arc<HostFile>, Errno> {
        {
            let files = self.files.lock();
            if let Some(file) = files.read.as_ref().or(files.write.as_ref()) {
                return Ok(file.clone());
            }
        }
        let fd = self.open_host(HostOpen::READ)?;
        let file = HostFile::new(Arc::new(fd), false);
        self.files.lock().read = Some(file.clone());
        self.fs.note_open(&self.me);
        Ok(file)
    }

    /// The host file for reading and writing, opened if need be.
    pub(super) fn open_write(&self) -> Result<Arc<HostFile>, Errno> {
        if let Some(file) = self.files.lock().write.clone() {
            return Ok(file);
        }
        let fd = self.open_host(HostOpen::READ | HostOpen::WRITE)?;
        Ok(self.keep_writable(fd))
    }

    pub(super) fn keep_writable(&self, fd: OwnedFd) -> Arc<HostFile> {
        let file = HostFile::new(Arc::new(fd), true);
        self.files.lock().write = Some(file.clone());
        self.forget_in_listings();
        self.fs.note_open(&self.me);
        file
    }

    /// Opens the host file. If descriptors have run out, those that are kept for nobody go first.
    fn open_host(&self, flags: HostOpen) -> Result<OwnedFd, Errno> {
        self.try_open_host(flags).or_else(|e| match e {
            Errno::ENFILE if self.fs.close_all_unused() => self.try_open_host(flags),
            e => Err(e),
        })
    }

    fn try_open_host(&self, flags: HostOpen) -> Result<OwnedFd, Errno> {
        let handle = self.handle.lock().clone();
        if handle.is_some() {
            return self.at_places(|handle, at| self.fs.client.open(handle, at, flags)).map(
                |(fd, attr)| {
                    self.learn(attr);
                    fd
                },
            );
        }
        // Known from a listing only: look it up and open it in one round trip.
        for place in self.places() {
            let dir = place.dir.handle()?;
            let mut walked = self.fs.client.walk(&dir, &[&place.name], Some(flags))?;
            let Some(node) = walked.found.pop() else { continue };
            if node.attr.identity() != self.host_key {
                continue;
            }
            self.take_handle(node.handle);
            self.learn(node.attr);
            return walked.file.ok_or(walked.error.unwrap_or(Errno::EIO));
        }
        Err(Errno::ESTALE)
    }

    /// The host file for writing only, for a file that the gofer may not read. Not kept.
    pub(super) fn open_write_only(&self) -> Result<Arc<HostFile>, Errno> {
        let fd = self.open_host(HostOpen::WRITE)?;
        Ok(HostFile::new(Arc::new(fd), true))
    }

    /// Closes kept descriptors that nobody uses.
    pub(super) fn close_unused(&self) {
        let unused = |f: &mut Option<Arc<HostFile>>| {
            f.take_if(|f| Arc::strong_count(f) == 1 && Arc::strong_count(f.fd()) == 1)
        };
        let (read, write) = {
            let mut files = self.files.lock();
            (unused(&mut files.read), unused(&mut files.write))
        };
        if let Some(attr) = write.as_ref().and_then(|f| self.stat_open(f).ok()) {
            self.learn(attr);
            self.written.store(false, Ordering::Release);
        }
        drop((read, write));
    }

    /// The best descriptor for a mapping: writable if there is one.
    pub(super) fn mapped_file(&self) -> Result<Arc<HostFile>, Errno> {
        if let Some(file) = self.files.lock().write.clone() {
            return Ok(file);
        }
        self.open_read()
    }

    /// Flushes what was written through here.
    pub(super) fn sync_written(&self) -> Result<(), Errno> {
        let file = self.files.lock().write.clone();
        file.map_or(Ok(()), |file| super::file::sync(&file, false))
    }
}

impl Drop for GoferInode {
    fn drop(&mut self) {
        if self.handle.get_mut().is_some() {
            self.fs.handles.fetch_sub(1, Ordering::Relaxed);
        }
        {
            let mut table = self.fs.inodes.lock();
            if table.get(&self.host_key).is_some_and(|w| w.strong_count() == 0) {
                table.remove(&self.host_key);
            }
        }
        // Directories hang on to their parents; a deep tree must not recurse as deep here.
        let (watch, names) = self.content.get_mut().names.take();
        self.fs.watcher.uncount_names(names);
        if let Some(watch) = watch {
            self.fs.watcher.gone(watch);
        }
        let mut up = std::mem::take(self.places.get_mut());
        while let Some(place) = up.pop() {
            place.dir.forget_child(&place.name, None);
            if let Some(mut gone) = Arc::into_inner(place.dir) {
                up.append(gone.places.get_mut());
            }
        }
    }
}

impl Inode for GoferInode {
    fn filesystem(&self) -> Arc<dyn FileSystem> {
        self.fs.clone()
    }

    fn key(&self) -> InodeKey {
        InodeKey { dev: self.fs.dev, ino: self.ino }
    }

    fn file_type(&self) -> FileType {
        convert::file_type(self.kind)
    }

    fn attr(&self) -> Result<Attr, Errno> {
        self.host_attr().map(|attr| self.guest_attr(attr))
    }

    fn access_attr(&self) -> Result<Attr, Errno> {
        if let Some(attr) = self.known_access() {
            return Ok(self.guest_attr(attr));
        }
        let Some(generation) = self.generation() else { return self.attr() };
        let attr = self.fs.client.stat(&*self.handle()?)?;
        self.learn(attr);
        self.keep_access(attr, generation);
        Ok(self.guest_attr(attr))
    }

    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        let mut changes = convert::changes(change);
        let old_size = change.size.map(|_| self.host_attr().map_or(u64::MAX, |a| a.size));
        let local = self.files.lock().write.clone();
        if let (Some(size), Some(file)) = (change.size, &local) {
            super::file::truncate(file, size)?;
            changes.size = None;
        }
        if changes != Changes::default() {
            let attr = self.at_places(|h, at| self.fs.client.set_attr(h, at, changes))?;
            self.learn(attr);
        } else {
            self.attr.lock().at = 0;
        }
        self.forget_in_listings();
        if let (Some(new), Some(old)) = (change.size, old_size)
            && new < old
        {
            self.mappings.invalidate(self, super::file::page_up(new)..!0xfff, true);
        }
        Ok(())
    }

    fn lookup(&self, name: &[u8], rest: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        self.find_child(name, rest).map(|i| i as Arc<dyn Inode>)
    }

    fn dentry_policy(&self) -> DentryPolicy {
        if self.fs.exclusive() { DentryPolicy::Cache } else { DentryPolicy::Revalidate }
    }

    fn revalidate(&self, name: &[u8], child: &Arc<dyn Inode>) -> bool {
        let Some(child) = child.as_any().downcast_ref::<GoferInode>() else { return false };
        if let Some(known) = self.known(name) {
            return known.is_ok_and(|now| std::ptr::eq(Arc::as_ptr(&now), child));
        }
        let age = monotonic_ns().saturating_sub(child.found.load(Ordering::Relaxed));
        if age < FRESH_NS && self.has_no_watch() && child.is_at(self, name) {
            return true;
        }
        self.find_child(name, b"").is_ok_and(|now| std::ptr::eq(Arc::as_ptr(&now), child))
    }

    fn create(&self, name: &[u8], new: &NewNode<'_>) -> Result<Arc<dyn Inode>, Errno> {
        self.create_child(name, new).map(|i| i as Arc<dyn Inode>)
    }

    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<(), Errno> {
        self.link_child(name, target.as_any().downcast_ref().ok_or(Errno::EXDEV)?)
    }

    fn unlink(&self, name: &[u8], victim: &Arc<dyn Inode>) -> Result<(), Errno> {
        self.remove_child(name, victim, false)
    }

    fn rmdir(&self, name: &[u8], victim: &Arc<dyn Inode>) -> Result<(), Errno> {
        self.remove_child(name, victim, true)
    }

    fn rename(
        &self,
        name: &[u8],
        new_dir: &Arc<dyn Inode>,
        new_name: &[u8],
        exchange: bool,
    ) -> Result<(), Errno> {
        let new_dir = new_dir.as_any().downcast_ref().ok_or(Errno::EXDEV)?;
        self.rename_child(name, new_dir, new_name, exchange)
    }

    fn readlink(&self) -> Result<Vec<u8>, Errno> {
        if self.kind != FileKind::Symlink {
            return Err(Errno::EINVAL);
        }
        // The text of a link never changes.
        if let Some(target) = self.target.get() {
            return Ok(target.to_vec());
        }
        let handle = self.handle()?;
        if let Some(target) = self.target.get() {
            return Ok(target.to_vec());
        }
        let target = self.fs.client.read_link(&handle)?;
        Ok(self.target.get_or_init(|| target).to_vec())
    }

    fn open(self: Arc<Self>, args: &OpenArgs<'_>) -> Result<Box<dyn FileOps>, Errno> {
        match self.kind {
            FileKind::Directory => Ok(Box::new(OpenDir::new(self))),
            FileKind::Regular => OpenFile::open(self, args.flags),
            FileKind::Symlink => Err(Errno::ELOOP),
            _ => Err(Errno::ENXIO),
        }
    }

    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        check_xattr(name)?;
        let capability = name == CAPABILITY;
        let known = self.incapable.load(Ordering::Acquire);
        if capability && known % 2 == 1 {
            return Err(Errno::ENODATA);
        }
        let value = self.at_places(|handle, at| self.fs.client.get_xattr(handle, at, name));
        if capability && value == Err(Errno::ENODATA) && self.fs.exclusive() {
            // Unless it was given some meanwhile.
            let order = (Ordering::AcqRel, Ordering::Relaxed);
            let _ = self.incapable.compare_exchange(known, known + 1, order.0, order.1);
        }
        value
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: i32) -> Result<(), Errno> {
        check_xattr(name)?;
        let flags = u32::try_from(flags).map_err(|_| Errno::EINVAL)?;
        let set = self.at_places(|h, at| self.fs.client.set_xattr(h, at, name, value, flags));
        if name == CAPABILITY {
            let even = |known: u64| Some((known | 1) + 1);
            let _ = self.incapable.fetch_update(Ordering::AcqRel, Ordering::Acquire, even);
        }
        set?;
        self.changed();
        Ok(())
    }

    fn list_xattr(&self) -> Result<Vec<u8>, Errno> {
        self.at_places(|handle, at| self.fs.client.list_xattr(handle, at))
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        check_xattr(name)?;
        self.at_places(|handle, at| self.fs.client.remove_xattr(handle, at, name))?;
        self.changed();
        Ok(())
    }

    fn read_at(&self, dst: &mut IoDst<'_>, offset: u64) -> Result<usize, Errno> {
        match self.kind {
            FileKind::Regular => super::file::read(&*self.open_read()?, dst, offset),
            FileKind::Directory => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    fn list(self: Arc<Self>, sink: &mut DirSink<'_>) -> Result<(), Errno> {
        OpenDir::new(self).read_dir(&mut 0, sink)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The attribute with a program's capabilities (capabilities(7)).
const CAPABILITY: &[u8] = b"security.capability";

/// Answers for what the gofer never serves, without asking it: `ls -l` asks for each file.
fn check_xattr(name: &[u8]) -> Result<(), Errno> {
    if name.starts_with(b"user.") || name == CAPABILITY { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
}
