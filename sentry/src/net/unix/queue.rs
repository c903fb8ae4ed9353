//! Messages on their way, and what they cost their sender.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;

use super::UnixSocket;
use super::rights::Rights;
use crate::kernel::{Events, WaitQueue};
use crate::kmem::{self, KernelMemory};
use crate::net::Ucred;

/// What a message costs beside its bytes, as Linux's `truesize` has it for small ones.
const OVERHEAD: usize = 512;

/// What a socket has sent that nobody has read yet.
pub(super) struct Budget {
    used: AtomicUsize,
    limit: AtomicUsize,
    queue: WaitQueue,
}

impl Budget {
    pub(super) fn new(limit: usize, queue: WaitQueue) -> Arc<Budget> {
        Arc::new(Budget { used: AtomicUsize::new(0), limit: AtomicUsize::new(limit), queue })
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    pub(super) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
        self.queue.wake(Events::OUT | Events::WRNORM);
    }

    /// `unix_writable`
    pub(super) fn is_writable(&self) -> bool {
        self.used().saturating_mul(4) <= self.limit()
    }

    /// How many bytes a message may have now; `None` if the buffer is full.
    pub(super) fn room(&self) -> Option<usize> {
        let left = self.limit().checked_sub(self.used())?;
        (left > 0).then(|| left.saturating_sub(OVERHEAD).max(1))
    }

    /// `ENOBUFS` when the sandbox has no memory for it.
    pub(super) fn charge(self: &Arc<Self>, len: usize) -> Result<Charge, Errno> {
        let cost = len + OVERHEAD;
        let memory = kmem::charge(cost).ok_or(Errno::ENOBUFS)?;
        self.used.fetch_add(cost, Ordering::Relaxed);
        Ok(Charge { budget: self.clone(), cost, _memory: memory })
    }
}

/// One message's cost; given back when it is dropped.
pub(super) struct Charge {
    budget: Arc<Budget>,
    cost: usize,
    _memory: KernelMemory,
}

impl Drop for Charge {
    fn drop(&mut self) {
        let before = self.budget.used.fetch_sub(self.cost, Ordering::Relaxed);
        let limit = self.budget.limit();
        if before.saturating_mul(4) > limit && self.budget.is_writable() {
            self.budget.queue.wake(Events::OUT | Events::WRNORM | Events::WRBAND);
        }
    }
}

/// A message, or a piece of a stream.
pub(super) struct Message {
    pub(super) data: Vec<u8>,
    /// How much of a stream's piece was read.
    pub(super) start: usize,
    pub(super) rights: Option<Rights>,
    pub(super) cred: Ucred,
    /// Name of the sender, encoded.
    pub(super) source: Option<Arc<Vec<u8>>>,
    pub(super) _charge: Charge,
}

impl Message {
    pub(super) fn rest(&self) -> &[u8] {
        self.data.get(self.start..).unwrap_or_default()
    }
}

/// What arrives at a socket.
#[derive(Default)]
pub(super) struct Incoming {
    pub(super) messages: VecDeque<Message>,
    /// Connections that wait to be accepted.
    pub(super) pending: VecDeque<Arc<UnixSocket>>,
    /// Who found it full, to be woken when something was taken out.
    pub(super) waiting: Vec<Weak<UnixSocket>>,
    /// Nobody will read any more.
    pub(super) closed: bool,
}

impl Incoming {
    pub(super) fn bytes(&self) -> usize {
        self.messages.iter().map(|m| m.rest().len()).sum()
    }

    /// Notes that `socket` wants to hear when there is room.
    pub(super) fn wait_for_room(&mut self, socket: &Weak<UnixSocket>) {
        self.waiting.retain(|w| w.strong_count() > 0 && !w.ptr_eq(socket));
        self.waiting.push(socket.clone());
    }
}
