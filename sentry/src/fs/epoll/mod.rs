//! epoll(7): a set of watched files, and the list of those that had an event.
//!
//! A watch goes onto the ready list when its file's queue is woken, and leaves it when somebody
//! looks and finds nothing; a level-triggered one that had something goes to the end of the list
//! again. So a wait costs what is ready, not what is watched. A watch ends with its open file: it
//! holds a weak reference, and is dropped when somebody comes across it dead.
//!
//! Lock order: [`TOPOLOGY`] -> watches -> ready list -> wait queues. Files are polled and queues are
//! woken with none of them held.

mod topology;
mod watches;

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use parking_lot::Mutex;

use super::anon::{self, AnonKind};
use crate::kernel::{Credentials, Events, Registration, WaitQueue, Wake};
use crate::vfs::{FileDescription, FileOps, OpenFlags};
pub use watches::MAX_USER_WATCHES;
use watches::WatchShare;

/// `EPOLLEXCLUSIVE`
pub const EXCLUSIVE: u32 = 1 << 28;
/// `EPOLLWAKEUP`
pub const WAKEUP: u32 = 1 << 29;
/// `EPOLLONESHOT`
pub const ONESHOT: u32 = 1 << 30;
/// `EPOLLET`
pub const EDGE: u32 = 1 << 31;
/// What is not an event.
const PRIVATE: u32 = EXCLUSIVE | WAKEUP | ONESHOT | EDGE;

/// What is asked of a watch, and what goes back with its events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Events and flags.
    pub events: u32,
    /// The guest's own number.
    pub data: u64,
}

impl Request {
    /// As it is kept: errors and hang-ups are always told.
    fn kept(self) -> Request {
        Request { events: self.events | (Events::ERR | Events::HUP).bits(), ..self }
    }

    /// The events to wait for; `None` once a one-shot watch has fired.
    fn wanted(self) -> Option<Events> {
        let events = Events::from_bits_truncate(self.events & !PRIVATE);
        (self.events & !PRIVATE != 0).then_some(events | Events::ERR | Events::HUP)
    }
}

/// One watched file.
struct Watch {
    this: Weak<Watch>,
    epoll: Weak<Epoll>,
    file: Weak<FileDescription>,
    key: Key,
    request: Mutex<Request>,
    /// Whether it is on the ready list.
    queued: AtomicBool,
    registration: Mutex<Option<Registration>>,
    _share: WatchShare,
}

/// A watch is known by descriptor and open file; a descriptor may be used again.
type Key = (i32, usize);

fn key(fd: i32, file: &Arc<FileDescription>) -> Key {
    (fd, Arc::as_ptr(file) as usize)
}

impl Wake for Watch {
    fn wake(&self, events: Events) {
        if self.request.lock().wanted().is_none_or(|wanted| !wanted.intersects(events)) {
            return;
        }
        if let (Some(epoll), Some(this)) = (self.epoll.upgrade(), self.this.upgrade()) {
            epoll.make_ready(this, false);
            epoll.queue.wake(Events::IN | Events::RDNORM);
        }
    }
}

impl Watch {
    /// What of the request is true of the file now; `None` if the file is gone.
    fn poll(&self) -> Option<Events> {
        let file = self.file.upgrade()?;
        let wanted = self.request.lock().wanted().unwrap_or(Events::empty());
        if wanted.is_empty() { Some(wanted) } else { Some(file.ops().poll() & wanted) }
    }

    /// Leaves the file's queue.
    fn end(&self) {
        drop(self.registration.lock().take());
    }
}

/// An epoll instance.
pub struct Epoll {
    watches: Mutex<HashMap<Key, Arc<Watch>>>,
    ready: Mutex<VecDeque<Arc<Watch>>>,
    queue: WaitQueue,
    /// Instances that watch this one.
    parents: Mutex<Vec<Weak<Epoll>>>,
}

impl Epoll {
    fn new() -> Arc<Epoll> {
        Arc::new(Epoll {
            watches: Mutex::default(),
            ready: Mutex::default(),
            queue: WaitQueue::new(),
            parents: Mutex::default(),
        })
    }

    fn make_ready(&self, watch: Arc<Watch>, front: bool) {
        if !watch.queued.swap(true, Ordering::AcqRel) {
            let mut ready = self.ready.lock();
            if front { ready.push_front(watch) } else { ready.push_back(watch) }
        }
    }

    /// Takes the first of the ready list. From here on, a wake-up puts it back.
    fn pop_ready(&self) -> Option<Arc<Watch>> {
        let watch = self.ready.lock().pop_front()?;
        watch.queued.store(false, Ordering::Release);
        Some(watch)
    }

    fn remove(&self, key: Key) -> Option<Arc<Watch>> {
        let watch = self.watches.lock().remove(&key)?;
        watch.end();
        Some(watch)
    }

    /// Drops the watches of files that are gone.
    fn prune(&self) {
        let mut dead = Vec::new();
        self.watches.lock().retain(|_, watch| {
            let alive = watch.file.strong_count() > 0;
            if !alive {
                dead.push(watch.clone());
            }
            alive
        });
        dead.iter().for_each(|watch| watch.end());
        self.ready.lock().retain(|watch| watch.file.strong_count() > 0);
    }

    /// `EPOLL_CTL_ADD`. `EEXIST`, `ENOSPC`; `ELOOP` for epoll instances in a circle or too deep.
    pub fn add(
        self: &Arc<Self>,
        fd: i32,
        file: &Arc<FileDescription>,
        request: Request,
        cred: &Credentials,
    ) -> Result<(), Errno> {
        let queue = file.ops().wait_queue().ok_or(Errno::EPERM)?;
        let nested = file.downcast::<EpollFile>().map(|e| &e.epoll);
        let topology = nested.map(|child| topology::link(self, child)).transpose()?;
        let key = key(fd, file);
        if self.watches.lock().get(&key).is_some_and(|w| w.file.strong_count() > 0) {
            return Err(Errno::EEXIST);
        }
        let share = WatchShare::new(cred.uid).or_else(|errno| {
            self.prune();
            WatchShare::new(cred.uid).map_err(|_| errno)
        })?;
        let watch = Arc::new_cyclic(|this| Watch {
            this: this.clone(),
            epoll: Arc::downgrade(self),
            file: Arc::downgrade(file),
            key,
            request: Mutex::new(request.kept()),
            queued: AtomicBool::new(false),
            registration: Mutex::default(),
            _share: share,
        });
        let (stale, crowded) = {
            let mut watches = self.watches.lock();
            if watches.get(&key).is_some_and(|w| w.file.strong_count() > 0) {
                return Err(Errno::EEXIST);
            }
            let stale = watches.insert(key, watch.clone());
            (stale, watches.len() == watches.capacity())
        };
        if let Some(stale) = stale {
            stale.end();
        }
        if let Some((child, _guard)) = topology {
            child.parents.lock().push(Arc::downgrade(self));
        }
        // For all events, not only those asked for now: EPOLL_CTL_MOD may ask for others.
        *watch.registration.lock() = Some(queue.register(Events::all(), watch.clone()));
        if crowded {
            self.prune();
        }
        self.announce(watch);
        Ok(())
    }

    /// Puts a new or changed watch on the ready list if its file has something already.
    fn announce(&self, watch: Arc<Watch>) {
        if watch.poll().is_some_and(|events| !events.is_empty()) {
            self.make_ready(watch, false);
            self.queue.wake(Events::IN | Events::RDNORM);
        }
    }

    /// `EPOLL_CTL_MOD`. `ENOENT`; `EINVAL` for an exclusive watch.
    pub fn modify(
        &self,
        fd: i32,
        file: &Arc<FileDescription>,
        request: Request,
    ) -> Result<(), Errno> {
        let watch = self.find(fd, file)?;
        {
            let mut old = watch.request.lock();
            if old.events & EXCLUSIVE != 0 {
                return Err(Errno::EINVAL);
            }
            *old = request.kept();
        }
        self.announce(watch);
        Ok(())
    }

    /// `EPOLL_CTL_DEL`. `ENOENT`.
    pub fn delete(self: &Arc<Self>, fd: i32, file: &Arc<FileDescription>) -> Result<(), Errno> {
        self.find(fd, file)?;
        if let Some(watch) = self.remove(key(fd, file)) {
            self.ready.lock().retain(|w| !Arc::ptr_eq(w, &watch));
        }
        if let Some(child) = file.downcast::<EpollFile>() {
            topology::unlink(self, &child.epoll);
        }
        Ok(())
    }

    fn find(&self, fd: i32, file: &Arc<FileDescription>) -> Result<Arc<Watch>, Errno> {
        let watches = self.watches.lock();
        let watch = watches.get(&key(fd, file)).ok_or(Errno::ENOENT)?;
        if watch.file.strong_count() == 0 { Err(Errno::ENOENT) } else { Ok(watch.clone()) }
    }

    /// Gives up to `max` ready watches to `sink`; if that says no, the watch stays ready and it
    /// ends. Returns how many were given.
    pub fn collect(
        &self,
        max: usize,
        mut sink: impl FnMut(usize, Events, u64) -> Result<(), Errno>,
    ) -> Result<usize, Errno> {
        let mut left = self.ready.lock().len();
        let mut count = 0;
        while left > 0 && count < max {
            left -= 1;
            let Some(watch) = self.pop_ready() else { break };
            let Some(events) = watch.poll() else {
                self.remove(watch.key);
                continue;
            };
            if events.is_empty() {
                continue;
            }
            let request = *watch.request.lock();
            if let Err(errno) = sink(count, events, request.data) {
                self.make_ready(watch, true);
                return if count > 0 { Ok(count) } else { Err(errno) };
            }
            count += 1;
            if request.events & ONESHOT != 0 {
                watch.request.lock().events &= PRIVATE;
            } else if request.events & EDGE == 0 {
                self.make_ready(watch, false);
            }
        }
        Ok(count)
    }

    /// Whether a wait would find something at once.
    fn has_ready(&self) -> bool {
        let mut left = self.ready.lock().len();
        while left > 0 {
            left -= 1;
            let Some(watch) = self.pop_ready() else { break };
            match watch.poll() {
                None => drop(self.remove(watch.key)),
                Some(events) if events.is_empty() => {}
                Some(_) => {
                    self.make_ready(watch, true);
                    return true;
                }
            }
        }
        false
    }

    /// Where waiters sleep. Each wake-up wakes one of the exclusive ones: who leaves calls
    /// [`Epoll::pass_on`].
    pub fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    /// Wakes the next waiter if something is left for it.
    pub fn pass_on(&self) {
        if !self.queue.is_empty() && !self.ready.lock().is_empty() {
            self.queue.wake(Events::IN | Events::RDNORM);
        }
    }

    /// Descriptor, events and data of each watch (`/proc/PID/fdinfo`).
    pub fn watched(&self) -> Vec<(i32, Request)> {
        let watches = self.watches.lock();
        let alive = watches.values().filter(|w| w.file.strong_count() > 0);
        alive.map(|w| (w.key.0, *w.request.lock())).collect()
    }
}

/// The open file of an epoll instance.
pub struct EpollFile {
    epoll: Arc<Epoll>,
}

impl EpollFile {
    /// The instance.
    pub fn epoll(&self) -> &Arc<Epoll> {
        &self.epoll
    }
}

impl Drop for EpollFile {
    fn drop(&mut self) {
        // Watches hold on to their files' queues, and those to the watches.
        let watches = std::mem::take(&mut *self.epoll.watches.lock());
        watches.values().for_each(|watch| watch.end());
        self.epoll.ready.lock().clear();
    }
}

impl FileOps for EpollFile {
    fn seekable(&self) -> bool {
        false
    }

    /// Allowed, and without effect (`noop_llseek`).
    fn seek(&self, _: u64, _: i64, _: i32) -> Option<Result<u64, Errno>> {
        Some(Ok(0))
    }
    fn poll(&self) -> Events {
        if self.epoll.has_ready() { Events::IN | Events::RDNORM } else { Events::empty() }
    }
    fn wait_queue(&self) -> Option<WaitQueue> {
        Some(self.epoll.queue.clone())
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A new epoll instance.
pub fn new_epoll(cred: Arc<Credentials>) -> Result<Arc<FileDescription>, Errno> {
    let ops = Box::new(EpollFile { epoll: Epoll::new() });
    anon::new_file(cred, AnonKind::Inode("[eventpoll]"), ops, OpenFlags::RDWR)
}

#[cfg(test)]
mod tests;
