//! How a running guest thread is brought back into the Sentry: SIGURG to its host thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::sys::{self, Tid};
use crate::{Kicker, Trap};

/// How other threads get this one back.
pub(crate) struct Kick {
    pid: Tid,
    tid: Tid,
    /// A kick that no `run` has reported yet.
    wanted: AtomicBool,
    /// Whether guest code may be running, so that a signal is needed. Held while the signal is
    /// sent: afterwards the thread may carry another guest thread.
    running: Mutex<bool>,
}

impl Kick {
    /// Of a thread that does not run yet.
    pub(crate) fn new(pid: Tid, tid: Tid) -> Arc<Kick> {
        let (wanted, running) = (AtomicBool::new(false), Mutex::new(false));
        Arc::new(Kick { pid, tid, wanted, running })
    }

    /// False if there was a kick, which is then answered.
    pub(crate) fn start(&self) -> bool {
        let mut running = self.running.lock();
        if self.wanted.swap(false, Ordering::AcqRel) {
            return false;
        }
        *running = true;
        true
    }

    /// As if guest code might be running, whether or not there was a kick; returns whether there was.
    pub(crate) fn open(&self) -> bool {
        let mut running = self.running.lock();
        *running = true;
        self.is_wanted()
    }

    /// Guest code does not run any more.
    pub(crate) fn stop(&self) {
        *self.running.lock() = false;
    }

    /// Whether guest code may be running.
    pub(crate) fn is_running(&self) -> bool {
        *self.running.lock()
    }

    /// Whether there was a kick that was not reported.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    /// Reports a kick that has arrived.
    pub(crate) fn taken(&self) -> Trap {
        self.wanted.store(false, Ordering::Release);
        Trap::Kicked
    }
}

impl Kicker for Kick {
    fn kick(&self) {
        let running = self.running.lock();
        // A second kick before the first is reported adds nothing.
        if !self.wanted.swap(true, Ordering::AcqRel) && *running {
            sys::tgkill(self.pid, self.tid, libc::SIGURG);
        }
    }
}
