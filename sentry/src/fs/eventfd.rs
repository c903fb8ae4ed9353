//! eventfd(2): a counter as a file.
//!
//! Lock order: the counter is innermost; the queue is woken with it unlocked.

use std::any::Any;
use std::sync::Arc;

use abi::Errno;
use parking_lot::Mutex;

use super::anon::{self, AnonKind};
use crate::kernel::{Credentials, Events, WaitQueue};
use crate::vfs::{FileDescription, FileOps, IoDst, IoSrc, OpenFlags};

/// The counter of an eventfd.
pub struct EventFd {
    count: Mutex<u64>,
    semaphore: bool,
    queue: WaitQueue,
}

impl EventFd {
    /// Adds `n`, staying below the maximum (`eventfd_signal`).
    pub fn signal(&self, n: u64) {
        {
            let mut count = self.count.lock();
            *count = count.saturating_add(n).min(u64::MAX - 1);
        }
        self.queue.wake(Events::IN | Events::RDNORM);
    }

    /// The counter now (`/proc/PID/fdinfo`).
    pub fn count(&self) -> u64 {
        *self.count.lock()
    }
}

impl FileOps for EventFd {
    fn read(&self, dst: &mut IoDst<'_>, _: u64) -> Result<usize, Errno> {
        if dst.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let value = {
            let mut count = self.count.lock();
            if *count == 0 {
                return Err(Errno::EAGAIN);
            }
            let value = if self.semaphore { 1 } else { *count };
            *count -= value;
            value
        };
        self.queue.wake(Events::OUT | Events::WRNORM);
        match dst.write(&value.to_ne_bytes())? {
            8 => Ok(8),
            _ => Err(Errno::EFAULT),
        }
    }

    fn write(&self, src: &mut IoSrc<'_>, _: u64) -> Result<usize, Errno> {
        if src.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let mut bytes = [0; 8];
        let got = src.read(&mut bytes)?;
        if got < 8 {
            src.unread(got);
            return Err(Errno::EFAULT);
        }
        let value = u64::from_ne_bytes(bytes);
        if value == u64::MAX {
            src.unread(8);
            return Err(Errno::EINVAL);
        }
        {
            let mut count = self.count.lock();
            if u64::MAX - 1 - *count < value {
                src.unread(8);
                return Err(Errno::EAGAIN);
            }
            *count += value;
        }
        self.queue.wake(Events::IN | Events::RDNORM);
        Ok(8)
    }

    fn seekable(&self) -> bool {
        false
    }

    /// Allowed, and without effect (`noop_llseek`).
    fn seek(&self, _: u64, _: i64, _: i32) -> Option<Result<u64, Errno>> {
        Some(Ok(0))
    }

    fn poll(&self) -> Events {
        let count = *self.count.lock();
        let mut events = Events::empty();
        if count > 0 {
            events |= Events::IN | Events::RDNORM;
        }
        if count == u64::MAX {
            events |= Events::ERR;
        }
        if count < u64::MAX - 1 {
            events |= Events::OUT | Events::WRNORM;
        }
        events
    }

    fn wait_queue(&self) -> Option<WaitQueue> {
        Some(self.queue.clone())
    }

    fn fd_info(&self, out: &mut String) {
        out.push_str(&format!("eventfd-count: {:16x}\n", self.count()));
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A new eventfd. `flags`: `O_NONBLOCK`.
pub fn new_eventfd(
    cred: Arc<Credentials>,
    count: u32,
    semaphore: bool,
    flags: OpenFlags,
) -> Result<Arc<FileDescription>, Errno> {
    let ops = EventFd { count: Mutex::new(u64::from(count)), semaphore, queue: WaitQueue::new() };
    anon::new_file(cred, AnonKind::Inode("[eventfd]"), Box::new(ops), OpenFlags::RDWR | flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eventfd(count: u64, semaphore: bool) -> EventFd {
        EventFd { count: Mutex::new(count), semaphore, queue: WaitQueue::new() }
    }

    fn read(e: &EventFd) -> Result<u64, Errno> {
        let mut buf = [0; 8];
        e.read(&mut IoDst::kernel(&mut buf), 0)?;
        Ok(u64::from_ne_bytes(buf))
    }

    fn write(e: &EventFd, n: u64) -> Result<usize, Errno> {
        e.write(&mut IoSrc::kernel(&n.to_ne_bytes()), 0)
    }

    #[test]
    fn counts_and_saturates() {
        let e = eventfd(0, false);
        assert_eq!(read(&e), Err(Errno::EAGAIN));
        assert_eq!(write(&e, 3), Ok(8));
        assert_eq!(write(&e, u64::MAX), Err(Errno::EINVAL));
        assert_eq!(write(&e, u64::MAX - 4), Ok(8));
        assert_eq!(e.poll(), Events::IN | Events::RDNORM);
        assert_eq!(write(&e, 1), Err(Errno::EAGAIN));
        assert_eq!(read(&e), Ok(u64::MAX - 1));
        assert_eq!(e.write(&mut IoSrc::kernel(b"short"), 0), Err(Errno::EINVAL));
        // What was refused was not taken.
        let mut src = IoSrc::kernel(&[0xff; 8]);
        assert_eq!((e.write(&mut src, 0), src.done()), (Err(Errno::EINVAL), 0));
    }

    #[test]
    fn semaphores_give_one() {
        let e = eventfd(2, true);
        assert_eq!((read(&e), read(&e), read(&e)), (Ok(1), Ok(1), Err(Errno::EAGAIN)));
    }
}
