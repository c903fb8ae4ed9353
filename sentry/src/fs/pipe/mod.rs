//! Pipes and FIFOs (pipe(7), fifo(7)).
//!
//! A [`Pipe`] is the ring with its counts of readers and writers; a [`PipeEnd`] is one open file on
//! it. FIFOs find their pipe by the inode's key.
//!
//! Lock order: FIFO registry -> a pipe's state -> `MemoryManager::state`; wait queues are woken with
//! the state unlocked.

mod fifo;
mod quota;
mod ring;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use abi::Errno;
use parking_lot::Mutex;

use crate::kernel::{Credentials, Current, Events, WaitQueue};
use crate::vfs::{FileDescription, FileOps, InodeKey, IoDst, IoSrc, OpenFlags};

use super::anon::{self, AnonKind};
pub use fifo::open_fifo;
pub use quota::{MAX_SIZE, USER_PAGES_SOFT};
pub use ring::PAGE;
use ring::Ring;

/// What both ends share.
pub struct Pipe {
    state: Mutex<State>,
    queue: WaitQueue,
    /// Somebody polled it: then every write is announced, as Linux does for the sake of programs
    /// that use `EPOLLET` wrongly.
    polled: AtomicBool,
    /// The FIFO it belongs to.
    fifo: Option<InodeKey>,
}

struct State {
    ring: Ring,
    share: quota::Share,
    readers: u32,
    writers: u32,
    /// How many ever opened it (`r_counter`, `w_counter`).
    reader_opens: u64,
    writer_opens: u64,
}

impl Pipe {
    fn new(cred: &Credentials, fifo: Option<InodeKey>) -> Result<Arc<Pipe>, Errno> {
        let share = quota::Share::new(cred)?;
        let state = State {
            ring: Ring::new(share.pages()),
            share,
            readers: 0,
            writers: 0,
            reader_opens: 0,
            writer_opens: 0,
        };
        Ok(Arc::new(Pipe {
            state: Mutex::new(state),
            queue: WaitQueue::new(),
            polled: AtomicBool::new(false),
            fifo,
        }))
    }

    /// Bytes to be read.
    pub fn len(&self) -> usize {
        self.state.lock().ring.len()
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.state.lock().ring.is_empty()
    }

    /// Bytes that can be written now; `EPIPE` without readers.
    pub fn space(&self) -> Result<usize, Errno> {
        let state = self.state.lock();
        if state.readers == 0 { Err(Errno::EPIPE) } else { Ok(state.ring.space()) }
    }

    /// Whether there are writers.
    pub fn has_writers(&self) -> bool {
        self.state.lock().writers > 0
    }

    /// A copy of the first `max` bytes, which stay (tee(2)).
    pub fn peek(&self, max: usize) -> Vec<u8> {
        self.state.lock().ring.peek(max)
    }

    /// The capacity in bytes (F_GETPIPE_SZ).
    pub fn capacity(&self) -> usize {
        self.state.lock().ring.slots() * PAGE
    }

    /// F_SETPIPE_SZ: makes the capacity at least `size` bytes; returns what it is then. `EINVAL`,
    /// `EPERM` past the limits, `EBUSY` if more is in it.
    pub fn set_capacity(&self, size: u32, cred: &Credentials) -> Result<usize, Errno> {
        if size > 1 << 31 {
            return Err(Errno::EINVAL);
        }
        let pages = (size as usize).max(1).next_power_of_two().div_ceil(PAGE);
        let mut state = self.state.lock();
        let was_full = state.ring.is_full();
        let before = state.share.pages();
        if pages < state.ring.used_slots() {
            return Err(Errno::EBUSY);
        }
        state.share.resize(pages, cred)?;
        if let Err(errno) = state.ring.resize(pages) {
            state.share.resize(before, cred)?;
            return Err(errno);
        }
        let wake = was_full && !state.ring.is_full();
        drop(state);
        if wake {
            self.queue.wake(Events::OUT | Events::WRNORM);
        }
        Ok(pages * PAGE)
    }

    fn open(self: &Arc<Self>, flags: OpenFlags) -> PipeEnd {
        let mut state = self.state.lock();
        state.readers += u32::from(flags.readable());
        state.writers += u32::from(flags.writable());
        state.reader_opens += u64::from(flags.readable());
        state.writer_opens += u64::from(flags.writable());
        // What a reader that does not wait for a writer may not take for a hang-up.
        let writer_opens_before =
            if flags.readable() && state.writers == 0 { Some(state.writer_opens) } else { None };
        drop(state);
        self.queue.wake(Events::all());
        let end = PipeEnd {
            pipe: self.clone(),
            readable: flags.readable(),
            writable: flags.writable(),
            nonblocking: AtomicBool::new(false),
            packets: AtomicBool::new(false),
            no_hangup_at: writer_opens_before,
        };
        end.flags_changed(flags);
        end
    }
}

/// One open file on a pipe.
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    readable: bool,
    writable: bool,
    nonblocking: AtomicBool,
    packets: AtomicBool,
    no_hangup_at: Option<u64>,
}

impl PipeEnd {
    /// The pipe.
    pub fn pipe(&self) -> &Arc<Pipe> {
        &self.pipe
    }
}

impl FileOps for PipeEnd {
    fn read(&self, dst: &mut IoDst<'_>, _: u64) -> Result<usize, Errno> {
        if dst.remaining() == 0 {
            return Ok(0);
        }
        let mut state = self.pipe.state.lock();
        if state.ring.is_empty() {
            return if state.writers == 0 { Ok(0) } else { Err(Errno::EAGAIN) };
        }
        let was_full = state.ring.is_full();
        let result = state.ring.read(dst);
        let wake = was_full && !state.ring.is_full();
        drop(state);
        if wake {
            self.pipe.queue.wake(Events::OUT | Events::WRNORM);
        }
        result
    }

    /// Takes everything from a blocking writer: `EAGAIN` after a part (`src.done()` tells).
    fn write(&self, src: &mut IoSrc<'_>, _: u64) -> Result<usize, Errno> {
        if src.remaining() == 0 {
            return Ok(0);
        }
        let mut state = self.pipe.state.lock();
        if state.readers == 0 {
            return Err(Errno::EPIPE);
        }
        let was_empty = state.ring.is_empty();
        let result = state.ring.write(src, self.packets.load(Ordering::Relaxed));
        drop(state);
        let n = result?;
        if n > 0 && (was_empty || self.pipe.polled.load(Ordering::Relaxed)) {
            self.pipe.queue.wake(Events::IN | Events::RDNORM);
        }
        if n == 0 || (src.remaining() > 0 && !self.nonblocking.load(Ordering::Relaxed)) {
            return Err(Errno::EAGAIN);
        }
        Ok(n)
    }

    fn seekable(&self) -> bool {
        false
    }

    fn poll(&self) -> Events {
        self.pipe.polled.store(true, Ordering::Relaxed);
        let state = self.pipe.state.lock();
        let mut events = Events::empty();
        if self.readable {
            if !state.ring.is_empty() {
                events |= Events::IN | Events::RDNORM;
            }
            if state.writers == 0 && self.no_hangup_at != Some(state.writer_opens) {
                events |= Events::HUP;
            }
        }
        if self.writable {
            if !state.ring.is_full() {
                events |= Events::OUT | Events::WRNORM;
            }
            if state.readers == 0 {
                events |= Events::ERR;
            }
        }
        events
    }

    fn wait_queue(&self) -> Option<WaitQueue> {
        Some(self.pipe.queue.clone())
    }

    fn ioctl(&self, cur: &mut Current, cmd: u32, arg: u64) -> Result<i64, Errno> {
        if cmd != libc::FIONREAD as u32 {
            return Err(Errno::ENOTTY);
        }
        let len = i32::try_from(self.pipe.len()).unwrap_or(i32::MAX);
        cur.mm.write_obj(arg, &len)?;
        Ok(0)
    }

    fn flags_changed(&self, flags: OpenFlags) {
        self.nonblocking.store(flags.contains(OpenFlags::NONBLOCK), Ordering::Relaxed);
        self.packets.store(flags.contains(OpenFlags::DIRECT), Ordering::Relaxed);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        let mut state = self.pipe.state.lock();
        state.readers -= u32::from(self.readable);
        state.writers -= u32::from(self.writable);
        let gone = state.readers == 0 || state.writers == 0;
        let unused = state.readers == 0 && state.writers == 0;
        drop(state);
        if unused {
            fifo::forget(&self.pipe);
        } else if gone {
            self.pipe.queue.wake(
                Events::IN
                    | Events::OUT
                    | Events::RDNORM
                    | Events::WRNORM
                    | Events::ERR
                    | Events::HUP,
            );
        }
    }
}

/// pipe2(2): the reading and the writing end. `flags`: `O_NONBLOCK`, `O_DIRECT`.
pub fn new_pipe(
    cred: &Arc<Credentials>,
    flags: OpenFlags,
) -> Result<[Arc<FileDescription>; 2], Errno> {
    let pipe = Pipe::new(cred, None)?;
    let again = pipe.clone();
    // Unlike a FIFO's, this open does not wait for the other side.
    let reopen = Box::new(move |flags| Box::new(again.open(flags)) as Box<dyn FileOps>);
    let path = anon::new_reopenable(AnonKind::Pipe, cred, reopen);
    let read = pipe.open(flags & OpenFlags::NONBLOCK);
    let write = pipe.open(OpenFlags::WRONLY | flags);
    let read_flags = flags & OpenFlags::NONBLOCK;
    Ok([
        FileDescription::new(Box::new(read), path.clone(), read_flags, cred.clone())?,
        FileDescription::new(Box::new(write), path, OpenFlags::WRONLY | flags, cred.clone())?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Caps;

    fn ends(flags: OpenFlags) -> (PipeEnd, PipeEnd) {
        let pipe = Pipe::new(&Credentials::new(0, 0, &[], Caps::all()), None).unwrap();
        let read = pipe.open(OpenFlags::empty());
        (read, pipe.open(OpenFlags::WRONLY | flags))
    }

    fn read(end: &PipeEnd, len: usize) -> Result<Vec<u8>, Errno> {
        let mut buf = vec![0; len];
        let n = end.read(&mut IoDst::kernel(&mut buf), 0)?;
        buf.truncate(n);
        Ok(buf)
    }

    #[test]
    fn ends_of_file_and_broken_pipes() {
        let (r, w) = ends(OpenFlags::empty());
        assert_eq!(read(&r, 1), Err(Errno::EAGAIN));
        assert_eq!(w.write(&mut IoSrc::kernel(b"abc"), 0), Ok(3));
        assert_eq!(r.poll(), Events::IN | Events::RDNORM);
        drop(w);
        assert_eq!(r.poll(), Events::IN | Events::RDNORM | Events::HUP);
        assert_eq!(read(&r, 9), Ok(b"abc".to_vec()));
        assert_eq!(read(&r, 9), Ok(vec![]));
        let (r, w) = ends(OpenFlags::empty());
        drop(r);
        assert_eq!(w.write(&mut IoSrc::kernel(b"abc"), 0), Err(Errno::EPIPE));
        assert!(w.poll().contains(Events::ERR));
    }

    #[test]
    fn blocking_writers_are_taken_whole() {
        let (r, w) = ends(OpenFlags::empty());
        let data = [7; 100_000];
        let mut src = IoSrc::kernel(&data);
        assert_eq!(w.write(&mut src, 0), Err(Errno::EAGAIN));
        assert_eq!(src.done(), 65536);
        assert!(!w.poll().contains(Events::OUT));
        assert_eq!(read(&r, 65536).map(|v| v.len()), Ok(65536));
        assert_eq!(w.write(&mut src, 0), Ok(100_000 - 65536));
        w.flags_changed(OpenFlags::NONBLOCK);
        assert_eq!(w.write(&mut IoSrc::kernel(&data), 0), Ok(1696 + 28672));
        assert_eq!(w.write(&mut IoSrc::kernel(b"x"), 0), Err(Errno::EAGAIN));
    }

    #[test]
    fn capacity_follows_the_rules() {
        let (r, w) = ends(OpenFlags::empty());
        let user = Credentials::new(1, 1, &[], Caps::empty());
        assert_eq!(r.pipe.capacity(), 65536);
        assert_eq!(r.pipe.set_capacity(5000, &user), Ok(8192));
        assert_eq!(r.pipe.set_capacity(0, &user), Ok(4096));
        assert_eq!(r.pipe.set_capacity((1 << 20) + 1, &user), Err(Errno::EPERM));
        assert_eq!(r.pipe.set_capacity((1 << 31) + 1, &user), Err(Errno::EINVAL));
        assert_eq!(r.pipe.set_capacity(8192, &user), Ok(8192));
        w.write(&mut IoSrc::kernel(&[0; 8192]), 0).unwrap();
        assert_eq!(r.pipe.set_capacity(4096, &user), Err(Errno::EBUSY));
    }

    #[test]
    fn packets() {
        let (r, w) = ends(OpenFlags::DIRECT);
        w.write(&mut IoSrc::kernel(b"one"), 0).unwrap();
        w.write(&mut IoSrc::kernel(b"two"), 0).unwrap();
        assert_eq!(read(&r, 2), Ok(b"on".to_vec()));
        assert_eq!(read(&r, 9), Ok(b"two".to_vec()));
    }
}
