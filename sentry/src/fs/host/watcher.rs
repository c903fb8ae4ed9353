//! Watches host descriptors for tasks that sleep on them: one thread in epoll_wait(2).
//!
//! A watch is one shot, and made by who found the descriptor not ready; nothing runs while nobody
//! waits.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::kernel::{Events, WaitQueue};

/// The watcher; its thread lives as long as the process.
pub struct Watcher {
    epoll: OwnedFd,
    watched: Mutex<HashMap<i32, Watch>>,
}

struct Watch {
    queue: WaitQueue,
    events: Events,
}

impl Watcher {
    /// Makes a watcher without its thread; call [`Watcher::start`] once threads may be made.
    pub fn new() -> io::Result<Arc<Watcher>> {
        // SAFETY: plain call.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Arc::new(Watcher { epoll, watched: Mutex::default() }))
    }

    /// Starts the thread.
    pub fn start(self: &Arc<Self>) -> io::Result<()> {
        let this = self.clone();
        std::thread::Builder::new()
            .name("host-watcher".into())
            .stack_size(64 * 1024)
            .spawn(move || this.run())
            .map(|_| ())
    }

    /// Wakes `queue` once any of `events` becomes true of `fd`. A descriptor that epoll does not
    /// take is always ready.
    pub fn watch(&self, fd: BorrowedFd<'_>, events: Events, queue: &WaitQueue) {
        let raw = fd.as_raw_fd();
        let mut watched = self.watched.lock();
        let known = watched.contains_key(&raw);
        let watch = watched
            .entry(raw)
            .or_insert_with(|| Watch { queue: queue.clone(), events: Events::empty() });
        watch.events |= events;
        let op = if known { libc::EPOLL_CTL_MOD } else { libc::EPOLL_CTL_ADD };
        let bits = (watch.events & (Events::IN | Events::OUT | Events::PRI | Events::RDHUP)).bits();
        let mut event =
            libc::epoll_event { events: bits | libc::EPOLLONESHOT as u32, u64: raw as u64 };
        // SAFETY: `event` is valid.
        let result = unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), op, raw, &mut event) };
        if result < 0 {
            watched.remove(&raw);
            drop(watched);
            queue.wake(events);
        }
    }

    fn run(&self) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 8];
        loop {
            // SAFETY: the buffer is valid for its length.
            let n = unsafe {
                libc::epoll_wait(
                    self.epoll.as_raw_fd(),
                    events.as_mut_ptr(),
                    events.len() as i32,
                    -1,
                )
            };
            if n < 0 {
                if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                tracing::error!("epoll_wait: {}", io::Error::last_os_error());
                return;
            }
            for event in &events[..n as usize] {
                let (raw, ready) = (event.u64 as i32, event.events);
                let queue = self.watched.lock().get_mut(&raw).map(|watch| {
                    watch.events = Events::empty();
                    watch.queue.clone()
                });
                if let Some(queue) = queue {
                    queue.wake(Events::from_bits_truncate(ready) | Events::RDNORM | Events::WRNORM);
                }
            }
        }
    }
}
