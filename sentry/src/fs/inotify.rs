//! inotify(7): a queue of what happened to watched files.
//!
//! Lock order: the table of marks ([`notify`]) is not held when an event arrives; the queue's lock
//! is a leaf, and waiters are woken with it unlocked.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};

use abi::Errno;
use parking_lot::Mutex;

use super::anon::{self, AnonKind};
use crate::kernel::{Credentials, Current, Events, WaitQueue};
use crate::kmem::{self, KernelMemory};
use crate::vfs::notify::{self, Watcher};
use crate::vfs::{FileDescription, FileOps, Inode, IoDst, OpenFlags};

/// How many instances there may be (`max_user_instances`).
const MAX_INSTANCES: usize = 1024;
/// How many events wait at most (`max_queued_events`).
const MAX_QUEUED: usize = 16384;
/// Bytes before the name in `struct inotify_event`.
const HEADER: usize = 16;

static INSTANCES: AtomicUsize = AtomicUsize::new(0);
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

#[derive(PartialEq, Eq)]
struct Event {
    wd: i32,
    mask: u32,
    cookie: u32,
    name: Box<[u8]>,
}

impl Event {
    /// The size of the record: names are padded to the header's size.
    fn len(&self) -> usize {
        let name = if self.name.is_empty() { 0 } else { self.name.len() + 1 };
        HEADER + name.next_multiple_of(HEADER)
    }

    fn encode(&self) -> Vec<u8> {
        let len = self.len();
        let mut out = Vec::with_capacity(len);
        out.extend_from_slice(&self.wd.to_ne_bytes());
        out.extend_from_slice(&self.mask.to_ne_bytes());
        out.extend_from_slice(&self.cookie.to_ne_bytes());
        out.extend_from_slice(&((len - HEADER) as u32).to_ne_bytes());
        out.extend_from_slice(&self.name);
        out.resize(len, 0);
        out
    }
}

/// What the open file and the marks share.
struct Instance {
    id: u64,
    next_wd: AtomicI32,
    queued: Mutex<VecDeque<(Event, Option<KernelMemory>)>>,
    queue: WaitQueue,
}

impl Watcher for Instance {
    fn event(&self, wd: i32, mask: u32, cookie: u32, name: &[u8]) {
        {
            let mut queued = self.queued.lock();
            let mut event = Event { wd, mask, cookie, name: name.into() };
            let mut memory = None;
            if queued.len() < MAX_QUEUED {
                memory = kmem::charge(kmem::INOTIFY_EVENT + name.len());
            }
            if memory.is_none() {
                event = Event { wd: -1, mask: libc::IN_Q_OVERFLOW, cookie: 0, name: [].into() };
            }
            // What says the same as the last one says nothing.
            if queued.back().is_some_and(|(last, _)| *last == event) {
                return;
            }
            queued.push_back((event, memory));
        }
        self.queue.wake(Events::IN | Events::RDNORM);
    }

    fn id(&self) -> u64 {
        self.id
    }
}

/// An inotify instance's open file.
pub struct Inotify(Arc<Instance>);

impl Inotify {
    /// inotify_init1(2). `EMFILE` when there are too many.
    pub fn create(cred: &Arc<Credentials>, nonblock: bool) -> Result<Arc<FileDescription>, Errno> {
        if INSTANCES.fetch_add(1, Ordering::Relaxed) >= MAX_INSTANCES {
            INSTANCES.fetch_sub(1, Ordering::Relaxed);
            return Err(Errno::EMFILE);
        }
        let ops = Inotify(Arc::new(Instance {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            next_wd: AtomicI32::new(1),
            queued: Mutex::default(),
            queue: WaitQueue::new(),
        }));
        let flags = if nonblock { OpenFlags::NONBLOCK } else { OpenFlags::empty() };
        anon::new_file(cred.clone(), AnonKind::Inode("inotify"), Box::new(ops), flags)
    }

    /// Watches an inode; returns the watch's number. `EEXIST` with `IN_MASK_CREATE` if it is
    /// watched already.
    pub fn watch(&self, inode: &Arc<dyn Inode>, mask: u32) -> Result<i32, Errno> {
        const MASK_CREATE: u32 = 0x1000_0000;
        let watcher: Arc<dyn Watcher> = self.0.clone();
        let wd = self.0.next_wd.fetch_add(1, Ordering::Relaxed);
        notify::mark(&watcher, inode, wd, |old| match old {
            Some(_) if mask & MASK_CREATE != 0 => Err(Errno::EEXIST),
            Some(old) if mask & libc::IN_MASK_ADD != 0 => Ok(old | mask),
            _ => Ok(mask),
        })
    }

    /// inotify_rm_watch(2)
    pub fn unwatch(&self, wd: i32) -> Result<(), Errno> {
        notify::unmark(self.0.id, wd)?;
        self.0.event(wd, libc::IN_IGNORED, 0, b"");
        Ok(())
    }
}

impl Drop for Inotify {
    fn drop(&mut self) {
        notify::unmark_all(self.0.id);
        INSTANCES.fetch_sub(1, Ordering::Relaxed);
    }
}

impl FileOps for Inotify {
    fn read(&self, dst: &mut IoDst<'_>, _: u64) -> Result<usize, Errno> {
        let mut done = 0;
        loop {
            let mut queued = self.0.queued.lock();
            let Some((next, _)) = queued.front() else { break };
            if next.len() > dst.remaining() {
                if done == 0 {
                    return Err(Errno::EINVAL);
                }
                break;
            }
            let Some((event, _)) = queued.pop_front() else { break };
            drop(queued);
            done += dst.write(&event.encode())?;
        }
        if done == 0 { Err(Errno::EAGAIN) } else { Ok(done) }
    }

    fn seekable(&self) -> bool {
        false
    }

    fn poll(&self) -> Events {
        if self.0.queued.lock().is_empty() { Events::empty() } else { Events::IN | Events::RDNORM }
    }

    fn wait_queue(&self) -> Option<WaitQueue> {
        Some(self.0.queue.clone())
    }

    fn ioctl(&self, cur: &mut Current, cmd: u32, arg: u64) -> Result<i64, Errno> {
        if cmd != libc::FIONREAD as u32 {
            return Err(Errno::ENOTTY);
        }
        let bytes: usize = self.0.queued.lock().iter().map(|(event, _)| event.len()).sum();
        cur.mm.write_obj(arg, &i32::try_from(bytes).unwrap_or(i32::MAX))?;
        Ok(0)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_padded() {
        let event = |name: &[u8]| Event { wd: 3, mask: 2, cookie: 0, name: name.into() };
        assert_eq!(event(b"").encode().len(), 16);
        assert_eq!(event(&[b'n'; 15]).encode().len(), 32);
        let bytes = event(&[b'n'; 16]).encode();
        assert_eq!((bytes.len(), bytes[12]), (48, 32));
    }
}
