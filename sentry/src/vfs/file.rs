//! Open files: [`FileOps`] is what a kind of file can do, [`FileDescription`] is one open file.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use abi::Errno;
use parking_lot::Mutex;

use super::locks::{self, Owner};
use super::text_busy::Hold;
use super::{Attr, FileType, Inode, IoDst, IoSrc, Path, SetAttr};
use crate::kernel::{Credentials, Current, Events, Kernel, WaitQueue, fasync};
use crate::kmem::{self, KernelMemory};
use crate::mm::Mappable;

#[allow(missing_docs)] // The names are Linux's.
mod bits {
    use bitflags::bitflags;

    bitflags! {
        /// The flags of open(2), x86-64 values.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct OpenFlags: u32 {
            const WRONLY = 1;
            const RDWR = 2;
            const CREAT = 0o100;
            const EXCL = 0o200;
            const NOCTTY = 0o400;
            const TRUNC = 0o1000;
            const APPEND = 0o2000;
            const NONBLOCK = 0o4000;
            const DSYNC = 0o10000;
            const ASYNC = 0o20000;
            const DIRECT = 0o40000;
            const LARGEFILE = 0o100000;
            const DIRECTORY = 0o200000;
            const NOFOLLOW = 0o400000;
            const NOATIME = 0o1000000;
            const CLOEXEC = 0o2000000;
            const SYNC = 0o4000000 | 0o10000;
            const PATH = 0o10000000;
            const TMPFILE = 0o20000000 | 0o200000;
        }
    }
}

pub use bits::OpenFlags;

impl OpenFlags {
    /// What fcntl(F_SETFL) may change.
    pub const SETTABLE: OpenFlags = Self::APPEND
        .union(Self::NONBLOCK)
        .union(Self::ASYNC)
        .union(Self::DIRECT)
        .union(Self::NOATIME);

    /// Whether the access mode lets one read.
    pub fn readable(self) -> bool {
        !self.contains(Self::PATH) && matches!(self.bits() & 3, 0 | 2)
    }

    /// Whether the access mode lets one write.
    pub fn writable(self) -> bool {
        !self.contains(Self::PATH) && matches!(self.bits() & 3, 1 | 2)
    }
}

/// One name that getdents64(2) returns.
pub struct DirEntry<'a> {
    /// Inode number.
    pub ino: u64,
    /// Where to go on behind this entry (`d_off`).
    pub next: u64,
    /// Type, if known.
    pub kind: Option<FileType>,
    /// Name.
    pub name: &'a [u8],
}

/// Takes directory entries; `false` means full, and the entry was not taken.
pub type DirSink<'a> = dyn FnMut(DirEntry<'_>) -> bool + 'a;

/// What an open file can do. Nothing here blocks on other guests: `EAGAIN` instead.
///
/// For files that have no position (pipes, sockets, ttys) `offset` is meaningless and
/// [`FileOps::seekable`] is false.
pub trait FileOps: Send + Sync + Any {
    /// Reads at `offset`; 0 at the end.
    fn read(&self, dst: &mut IoDst<'_>, offset: u64) -> Result<usize, Errno> {
        let _ = (dst, offset);
        Err(Errno::EINVAL)
    }
    /// Writes at `offset`. A file that must take all of what a blocking writer gives (a pipe) says
    /// `EAGAIN` after it took a part; `src.done()` tells how much (`Task::block_write`). What is
    /// refused must not have been taken from `src` (`IoSrc::unread`).
    fn write(&self, src: &mut IoSrc<'_>, offset: u64) -> Result<usize, Errno> {
        let _ = (src, offset);
        Err(Errno::EINVAL)
    }
    /// Writes at the end, atomically against other writers; returns the count and where the end is
    /// now (`O_APPEND`).
    fn append(&self, src: &mut IoSrc<'_>) -> Result<(usize, u64), Errno> {
        self.write(src, 0).map(|n| (n, 0))
    }
    /// Whether it has a position (lseek, pread; `ESPIPE` otherwise).
    fn seekable(&self) -> bool {
        true
    }
    /// lseek(2) for what the general code cannot do: `SEEK_DATA`, `SEEK_HOLE`, directories.
    /// `None` leaves it to the general code.
    fn seek(&self, current: u64, offset: i64, whence: i32) -> Option<Result<u64, Errno>> {
        let _ = (current, offset, whence);
        None
    }
    /// Lists entries from the cookie `pos` on, and advances it.
    fn read_dir(&self, pos: &mut u64, sink: &mut DirSink<'_>) -> Result<(), Errno> {
        let _ = (pos, sink);
        Err(Errno::ENOTDIR)
    }
    /// Attributes, when they are not the inode's own (fstat).
    fn attr(&self) -> Option<Result<Attr, Errno>> {
        None
    }
    /// fstat-like changes through the open file (ftruncate), when they differ from the inode's.
    fn set_attr(&self, change: &SetAttr) -> Option<Result<(), Errno>> {
        let _ = change;
        None
    }
    /// What is ready now.
    fn poll(&self) -> Events {
        Events::IN | Events::OUT | Events::RDNORM | Events::WRNORM
    }
    /// Where changes of [`FileOps::poll`] are announced; `None` for what is always ready (epoll_ctl
    /// then says `EPERM`).
    fn wait_queue(&self) -> Option<WaitQueue> {
        None
    }
    /// How long a call on it waits at most, in nanoseconds (`SO_RCVTIMEO`, `SO_SNDTIMEO`).
    fn timeout(&self, write: bool) -> Option<u64> {
        let _ = write;
        None
    }
    /// ioctl(2); the return value of a success goes to the guest.
    fn ioctl(&self, cur: &mut Current, cmd: u32, arg: u64) -> Result<i64, Errno> {
        let _ = (cur, cmd, arg);
        Err(Errno::ENOTTY)
    }
    /// What mmap(2) maps.
    fn mappable(&self) -> Result<Arc<dyn Mappable>, Errno> {
        Err(Errno::ENODEV)
    }
    /// fsync(2), fdatasync(2).
    fn fsync(&self, data_only: bool) -> Result<(), Errno> {
        let _ = data_only;
        Err(Errno::EINVAL)
    }
    /// fallocate(2); `mode` is its flags.
    fn fallocate(&self, mode: i32, offset: u64, len: u64) -> Result<(), Errno> {
        let _ = (mode, offset, len);
        Err(Errno::EOPNOTSUPP)
    }
    /// Called at each close(2) of a descriptor for it.
    fn flush(&self) -> Result<(), Errno> {
        Ok(())
    }
    /// Told when F_SETFL changes status flags.
    fn flags_changed(&self, flags: OpenFlags) {
        let _ = flags;
    }
    /// Adds what /proc/PID/fdinfo tells beyond position and flags.
    fn fd_info(&self, out: &mut String) {
        let _ = out;
    }
    /// For downcasts (sockets, ttys, epoll, ...).
    fn as_any(&self) -> &dyn Any;
}

/// One open file: what descriptors refer to.
pub struct FileDescription {
    ops: Box<dyn FileOps>,
    path: Path,
    flags: AtomicU32,
    pos: Mutex<u64>,
    cred: Arc<Credentials>,
    owner: Mutex<FileOwner>,
    id: u64,
    /// Whether it may own locks.
    locked: AtomicBool,
    /// What it stands for as a writer, or as a program.
    hold: Mutex<Option<Hold>>,
    /// With `O_ASYNC`.
    signals: Mutex<Option<fasync::Armed>>,
    _counted: OpenFiles,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// How many open files there may be at most.
pub const MAX_OPEN_FILES: usize = 1 << 20;

static OPEN_FILES: AtomicUsize = AtomicUsize::new(0);
static OPEN_FILES_LIMIT: AtomicUsize = AtomicUsize::new(MAX_OPEN_FILES);

/// Says how many open files there may be, at most [`MAX_OPEN_FILES`].
pub fn limit_open_files(limit: usize) {
    OPEN_FILES_LIMIT.store(limit.min(MAX_OPEN_FILES), Ordering::Relaxed);
}

/// How many open files there may be (`/proc/sys/fs/file-max`).
pub fn open_file_limit() -> usize {
    OPEN_FILES_LIMIT.load(Ordering::Relaxed)
}

/// One open file's share of [`open_file_limit`].
struct OpenFiles {
    _memory: KernelMemory,
}

impl OpenFiles {
    fn count() -> Result<OpenFiles, Errno> {
        if OPEN_FILES.fetch_add(1, Ordering::Relaxed) >= open_file_limit() {
            OPEN_FILES.fetch_sub(1, Ordering::Relaxed);
            return Err(Errno::ENFILE);
        }
        let Some(memory) = kmem::charge(kmem::OPEN_FILE) else {
            OPEN_FILES.fetch_sub(1, Ordering::Relaxed);
            return Err(Errno::ENOMEM);
        };
        Ok(OpenFiles { _memory: memory })
    }
}

impl Drop for OpenFiles {
    fn drop(&mut self) {
        OPEN_FILES.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many open files there are (`/proc/sys/fs/file-nr`).
pub fn open_file_count() -> usize {
    OPEN_FILES.load(Ordering::Relaxed)
}

/// Who gets SIGIO (F_SETOWN_EX, F_SETSIG).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileOwner {
    /// `F_OWNER_TID`, `F_OWNER_PID` or `F_OWNER_PGRP`.
    pub kind: i32,
    /// The id; 0 for nobody.
    pub id: i32,
    /// The signal; 0 means SIGIO.
    pub signal: i32,
    /// Real and effective user of who named the owner.
    pub uid: u32,
    /// See `uid`.
    pub euid: u32,
}

impl FileDescription {
    /// An open file with position 0. `flags` without `O_CREAT`, `O_EXCL`, `O_TRUNC`, `O_NOCTTY`,
    /// `O_CLOEXEC`. `ENFILE` when there are too many.
    pub fn new(
        ops: Box<dyn FileOps>,
        path: Path,
        flags: OpenFlags,
        cred: Arc<Credentials>,
    ) -> Result<Arc<Self>, Errno> {
        let counted = OpenFiles::count()?;
        let gone = OpenFlags::CREAT
            | OpenFlags::EXCL
            | OpenFlags::TRUNC
            | OpenFlags::NOCTTY
            | OpenFlags::CLOEXEC;
        Ok(Arc::new(FileDescription {
            ops,
            path,
            flags: AtomicU32::new((flags - gone).bits()),
            pos: Mutex::new(0),
            cred,
            owner: Mutex::new(FileOwner::default()),
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            locked: AtomicBool::new(false),
            hold: Mutex::new(None),
            signals: Mutex::new(None),
            _counted: counted,
        }))
    }

    /// It writes, or runs, for as long as it is open, or up to the next call.
    pub fn set_hold(&self, hold: Option<Hold>) {
        *self.hold.lock() = hold;
    }

    /// What it can do.
    pub fn ops(&self) -> &dyn FileOps {
        &*self.ops
    }

    /// The operations as their concrete type.
    pub fn downcast<T: FileOps>(&self) -> Option<&T> {
        self.ops.as_any().downcast_ref()
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its inode.
    pub fn inode(&self) -> Result<Arc<dyn Inode>, Errno> {
        self.path.inode()
    }

    /// Access mode and status flags.
    pub fn flags(&self) -> OpenFlags {
        OpenFlags::from_bits_retain(self.flags.load(Ordering::Acquire))
    }

    /// F_SETFL: replaces the settable flags.
    pub fn set_flags(self: &Arc<Self>, kernel: &Arc<Kernel>, fd: i32, flags: OpenFlags) {
        let keep = self.flags() - OpenFlags::SETTABLE;
        let new = keep | (flags & OpenFlags::SETTABLE);
        self.flags.store(new.bits(), Ordering::Release);
        self.ops.flags_changed(new);
        let mut signals = self.signals.lock();
        match new.contains(OpenFlags::ASYNC) {
            false => *signals = None,
            true if signals.is_none() => *signals = fasync::Armed::new(kernel, self, fd),
            true => {}
        }
    }

    /// Whether calls on it must not block.
    pub fn nonblocking(&self) -> bool {
        self.flags().contains(OpenFlags::NONBLOCK)
    }

    /// The position; hold the lock over a read or write that uses it.
    pub fn pos(&self) -> &Mutex<u64> {
        &self.pos
    }

    /// The opener's credentials.
    pub fn cred(&self) -> &Arc<Credentials> {
        &self.cred
    }

    /// A descriptor of the table `files` for it was closed: the process's record locks on the inode
    /// go, whichever descriptor they were set through, and the file is flushed.
    pub fn closed(&self, files: u64) -> Result<(), Errno> {
        if locks::any()
            && let Some(inode) = self.path.dentry.inode()
        {
            locks::release(inode.key(), Owner::Files(files));
        }
        self.ops.flush()
    }

    /// The owner of its own locks (flock(2), `F_OFD_SETLK`); they go with its last reference.
    pub fn lock_owner(&self) -> Owner {
        self.locked.store(true, Ordering::Relaxed);
        Owner::File(self.id)
    }

    /// Who gets SIGIO.
    pub fn owner(&self) -> &Mutex<FileOwner> {
        &self.owner
    }

    /// Attributes (fstat).
    pub fn attr(&self) -> Result<Attr, Errno> {
        match self.ops.attr() {
            Some(attr) => attr,
            None => self.inode()?.attr(),
        }
    }
}

impl Drop for FileDescription {
    fn drop(&mut self) {
        let flags = self.flags();
        if !flags.contains(OpenFlags::PATH) {
            let wrote = flags.writable();
            let event = if wrote { libc::IN_CLOSE_WRITE } else { libc::IN_CLOSE_NOWRITE };
            super::notify::file(&self.path.dentry, event);
        }
        if *self.locked.get_mut()
            && let Some(inode) = self.path.dentry.inode()
        {
            locks::release(inode.key(), Owner::File(self.id));
        }
    }
}
