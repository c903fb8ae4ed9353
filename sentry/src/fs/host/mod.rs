//! Host files that the sandbox is born with: the caller's standard input, output and error.
//!
//! The host's open file may be shared with other processes of the caller, so its status flags stay
//! as they are; calls on it are made non-blocking one by one. What is waited for is watched by one
//! thread with epoll ([`watcher`]), which sleeps while nobody waits.

mod watcher;

use std::any::Any;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Weak};

use abi::Errno;
use parking_lot::Mutex;

use crate::boot::Cause;
use crate::kernel::time::file_time;
use crate::kernel::{Current, Events, Kernel, WaitQueue};
use crate::tty::termios::Winsize;
use crate::vfs::{
    Attr, FileOps, FileSystem, FileType, Inode, InodeKey, IoDst, IoSrc, OpenArgs, OpenFlags,
    SetAttr, StatFs, mount,
};

pub use watcher::Watcher;

/// Bytes that are moved by one call where the host file might block on more.
const CHUNK: usize = 4096;

/// An open file of the host.
pub struct HostStdio {
    fd: Arc<OwnedFd>,
    kind: FileType,
    /// The host's position as far as we know, for files that have one.
    pos: Mutex<u64>,
    watcher: Arc<Watcher>,
    queue: WaitQueue,
    kernel: Weak<Kernel>,
}

impl HostStdio {
    /// Wraps a host descriptor. What is written there counts as the sandbox's output.
    pub fn new(fd: OwnedFd, watcher: &Arc<Watcher>, kernel: &Arc<Kernel>) -> io::Result<HostStdio> {
        let stat = host_stat(&fd)?;
        let kind = FileType::from_mode(stat.st_mode).unwrap_or(FileType::CharDevice);
        // SAFETY: plain lseek on a descriptor that we own.
        let pos = unsafe { libc::lseek(fd.as_raw_fd(), 0, libc::SEEK_CUR) };
        Ok(HostStdio {
            fd: Arc::new(fd),
            kind,
            pos: Mutex::new(pos.max(0) as u64),
            watcher: watcher.clone(),
            queue: WaitQueue::new(),
            kernel: Arc::downgrade(kernel),
        })
    }

    /// The access mode and status flags that the caller opened it with.
    pub fn access(fd: &OwnedFd) -> io::Result<OpenFlags> {
        // SAFETY: plain fcntl on a descriptor that we own.
        let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
        let flags = u32::try_from(flags).map_err(|_| io::Error::last_os_error())?;
        // Whether calls block is the guest's own choice from here on.
        let access = OpenFlags::WRONLY | OpenFlags::RDWR | OpenFlags::APPEND;
        Ok(OpenFlags::from_bits_truncate(flags) & access)
    }

    /// The host's position, for the new open file to start at.
    pub fn position(&self) -> u64 {
        *self.pos.lock()
    }

    /// The inode to open it under.
    pub fn inode(&self, uid: u32, gid: u32) -> Arc<dyn Inode> {
        Arc::new(StdioInode { fd: self.fd.clone(), kind: self.kind, fs: stdio_fs(), uid, gid })
    }

    fn is_file(&self) -> bool {
        matches!(self.kind, FileType::Regular | FileType::BlockDevice | FileType::Directory)
    }

    /// Asks the host what is ready.
    fn ready(&self, events: i16) -> i16 {
        let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events, revents: 0 };
        // SAFETY: one valid pollfd; a timeout of 0 does not block.
        let n = unsafe { libc::poll(&mut poll, 1, 0) };
        if n < 0 { 0 } else { poll.revents }
    }

    /// Writes up to `most` bytes.
    fn write_some(&self, src: &mut IoSrc<'_>, offset: u64, most: usize) -> Result<usize, Errno> {
        let fd = self.fd.as_raw_fd();
        if self.is_file() {
            let mut pos = self.pos.lock();
            let n = src.with_iovecs(most, &mut |iov| {
                // SAFETY: the iovecs are valid for reads during the call.
                check(unsafe {
                    if offset == *pos {
                        libc::writev(fd, iov.as_ptr(), iov.len() as i32)
                    } else {
                        libc::pwritev(fd, iov.as_ptr(), iov.len() as i32, offset as i64)
                    }
                })
            })?;
            if offset == *pos {
                *pos += n as u64;
            }
            return Ok(n);
        }
        let mut done = 0;
        while done < most {
            if self.ready(libc::POLLOUT) & (libc::POLLOUT | libc::POLLHUP | libc::POLLERR) == 0 {
                return Err(self.not_ready(Events::WRITABLE));
            }
            // poll promises room for one page in a pipe; more might block.
            let result = src.with_iovecs(CHUNK.min(most - done), &mut |iov| {
                // SAFETY: the iovecs are valid for reads during the call.
                check(unsafe { libc::writev(fd, iov.as_ptr(), iov.len() as i32) })
            });
            match result {
                Ok(n) => done += n,
                Err(Errno::EAGAIN) => return Err(self.not_ready(Events::WRITABLE)),
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    /// `EAGAIN`, after asking to be told when it changes.
    fn not_ready(&self, events: Events) -> Errno {
        self.watcher.watch(self.fd.as_fd(), events, &self.queue);
        Errno::EAGAIN
    }
}

fn host_stat(fd: &OwnedFd) -> io::Result<libc::stat> {
    // SAFETY: an all-zero stat is a valid value, and the host fills it in.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is a valid out-pointer.
    match unsafe { libc::fstat(fd.as_raw_fd(), &mut stat) } {
        0 => Ok(stat),
        _ => Err(io::Error::last_os_error()),
    }
}

fn check(n: isize) -> Result<usize, Errno> {
    usize::try_from(n).map_err(|_| io::Error::last_os_error().into())
}

impl FileOps for HostStdio {
    fn read(&self, dst: &mut IoDst<'_>, offset: u64) -> Result<usize, Errno> {
        let fd = self.fd.as_raw_fd();
        if self.is_file() {
            let mut pos = self.pos.lock();
            let n = dst.with_iovecs(dst.remaining(), &mut |iov| {
                // The host's position moves with the guest's, so that the caller's next program
                // goes on where the guest stopped; a pread elsewhere leaves it alone.
                // SAFETY: the iovecs are valid for writes during the call.
                check(unsafe {
                    if offset == *pos {
                        libc::readv(fd, iov.as_ptr(), iov.len() as i32)
                    } else {
                        libc::preadv(fd, iov.as_ptr(), iov.len() as i32, offset as i64)
                    }
                })
            })?;
            if offset == *pos {
                *pos += n as u64;
            }
            return Ok(n);
        }
        if dst.remaining() == 0 {
            return Ok(0);
        }
        if self.ready(libc::POLLIN) & (libc::POLLIN | libc::POLLHUP | libc::POLLERR) == 0 {
            return Err(self.not_ready(Events::READABLE));
        }
        let result = dst.with_iovecs(dst.remaining(), &mut |iov| {
            // SAFETY: the iovecs are valid for writes during the call. RWF_NOWAIT: somebody else
            // may have taken what poll saw.
            let n =
                unsafe { libc::preadv2(fd, iov.as_ptr(), iov.len() as i32, -1, libc::RWF_NOWAIT) };
            match check(n) {
                Err(Errno::EOPNOTSUPP) => {
                    // SAFETY: as above. A file that has no RWF_NOWAIT is read after poll said that
                    // there is something.
                    check(unsafe { libc::readv(fd, iov.as_ptr(), iov.len() as i32) })
                }
                other => other,
            }
        });
        match result {
            Err(Errno::EAGAIN) => Err(self.not_ready(Events::READABLE)),
            other => other,
        }
    }

    fn write(&self, src: &mut IoSrc<'_>, offset: u64) -> Result<usize, Errno> {
        let kernel = self.kernel.upgrade().ok_or(Errno::EIO)?;
        let (wanted, before) = (src.remaining() as u64, src.done());
        let most = kernel.limits.output.take(wanted);
        if most == 0 && wanted > 0 {
            kernel.end(Cause::Output);
            return Err(Errno::EFBIG);
        }
        let result = self.write_some(src, offset, most as usize);
        let done = (src.done() - before) as u64;
        kernel.limits.output.give_back(most.saturating_sub(done));
        if done == most && most < wanted {
            kernel.end(Cause::Output);
        }
        result
    }

    fn append(&self, src: &mut IoSrc<'_>) -> Result<(usize, u64), Errno> {
        let pos = *self.pos.lock();
        let n = self.write(src, pos)?;
        Ok((n, pos + n as u64))
    }

    fn seekable(&self) -> bool {
        self.is_file()
    }

    fn seek(&self, _: u64, offset: i64, whence: i32) -> Option<Result<u64, Errno>> {
        let mut pos = self.pos.lock();
        // SAFETY: plain lseek on a descriptor that we own.
        let at = unsafe { libc::lseek(self.fd.as_raw_fd(), offset, whence) };
        let result = u64::try_from(at).map_err(|_| io::Error::last_os_error().into());
        if let Ok(at) = result {
            *pos = at;
        }
        Some(result)
    }

    fn poll(&self) -> Events {
        if self.is_file() {
            return Events::IN | Events::OUT | Events::RDNORM | Events::WRNORM;
        }
        let ready = Events::from_bits_truncate(
            self.ready(libc::POLLIN | libc::POLLOUT | libc::POLLPRI | libc::POLLRDHUP) as u32,
        );
        let mut wanted = Events::empty();
        for (bit, class) in [(Events::IN, Events::READABLE), (Events::OUT, Events::WRITABLE)] {
            if !ready.contains(bit) {
                wanted |= class;
            }
        }
        if !wanted.is_empty() && !self.queue.is_empty() {
            self.watcher.watch(self.fd.as_fd(), wanted, &self.queue);
        }
        ready
    }

    fn wait_queue(&self) -> Option<WaitQueue> {
        (!self.is_file()).then(|| self.queue.clone())
    }

    fn ioctl(&self, cur: &mut Current, cmd: u32, arg: u64) -> Result<i64, Errno> {
        let fd = self.fd.as_raw_fd();
        match u64::from(cmd) {
            libc::FIONREAD => {
                let mut n: libc::c_int = 0;
                // SAFETY: FIONREAD writes one int.
                if unsafe { libc::ioctl(fd, libc::FIONREAD, &mut n) } < 0 {
                    return Err(io::Error::last_os_error().into());
                }
                cur.mm.write_obj(arg, &n)?;
            }
            // A terminal that was passed through without one of the sandbox's own: its size may be
            // read, and nothing else of it be touched.
            libc::TIOCGWINSZ => {
                let mut size = Winsize::default();
                // SAFETY: TIOCGWINSZ fills a struct winsize, which `Winsize` is laid out as.
                if unsafe { libc::ioctl(fd, libc::TIOCGWINSZ, &mut size) } < 0 {
                    return Err(io::Error::last_os_error().into());
                }
                cur.mm.write_obj(arg, &size)?;
            }
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }

    fn fsync(&self, data_only: bool) -> Result<(), Errno> {
        let fd = self.fd.as_raw_fd();
        // SAFETY: plain calls on a descriptor that we own.
        let result = unsafe { if data_only { libc::fdatasync(fd) } else { libc::fsync(fd) } };
        if result < 0 { Err(io::Error::last_os_error().into()) } else { Ok(()) }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The file system that these files are in.
struct StdioFs {
    dev: u64,
}

/// One for all.
fn stdio_fs() -> Arc<dyn FileSystem> {
    static FS: std::sync::OnceLock<Arc<StdioFs>> = std::sync::OnceLock::new();
    FS.get_or_init(|| Arc::new(StdioFs { dev: mount::new_device() })).clone()
}

impl FileSystem for StdioFs {
    fn name(&self) -> &'static str {
        "hostfs"
    }
    fn dev(&self) -> u64 {
        self.dev
    }
    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(StatFs { magic: 0x0904_1934, bsize: 4096, namelen: 255, ..StatFs::default() })
    }
}

/// What fstat tells: type and size are the host file's, the rest is made up, so that nothing of the
/// host shows.
struct StdioInode {
    fd: Arc<OwnedFd>,
    kind: FileType,
    fs: Arc<dyn FileSystem>,
    uid: u32,
    gid: u32,
}

impl Inode for StdioInode {
    fn filesystem(&self) -> Arc<dyn FileSystem> {
        self.fs.clone()
    }

    fn key(&self) -> InodeKey {
        InodeKey { dev: self.fs.dev(), ino: self.fd.as_raw_fd() as u64 + 1 }
    }

    fn file_type(&self) -> FileType {
        self.kind
    }

    fn attr(&self) -> Result<Attr, Errno> {
        let stat = host_stat(&self.fd).map_err(Errno::from)?;
        let time = file_time();
        Ok(Attr {
            dev: self.fs.dev(),
            ino: self.key().ino,
            mode: self.kind.mode_bits() | 0o600,
            nlink: 1,
            uid: self.uid,
            gid: self.gid,
            // A character device may be the null device, which programs recognise by number.
            rdev: stat.st_rdev,
            size: stat.st_size.max(0) as u64,
            blksize: stat.st_blksize as u32,
            blocks: stat.st_blocks.max(0) as u64,
            atime: time,
            mtime: time,
            ctime: time,
            btime: None,
        })
    }

    fn set_attr(&self, change: &SetAttr) -> Result<(), Errno> {
        match change.size {
            Some(size) => {
                // SAFETY: plain ftruncate on a descriptor that we own.
                match unsafe { libc::ftruncate(self.fd.as_raw_fd(), size as i64) } {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error().into()),
                }
            }
            None => Err(Errno::EPERM),
        }
    }

    /// Opened again through /proc/self/fd (`/dev/stdout`): the same file of the host.
    fn open(self: Arc<Self>, _: &OpenArgs<'_>) -> Result<Box<dyn FileOps>, Errno> {
        Err(Errno::EACCES)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
