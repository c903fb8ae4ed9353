//! A stub process of this platform.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::sys::{self, Tid};
use super::template::Template;
use crate::memory_file::{Frames, MemoryFile};
use crate::stub::nursery::Maker;
use crate::{Error, PAGE_SIZE};

/// A stub process. Ended and reaped when dropped, by which time its guest threads must be gone.
pub(super) struct Stub {
    pid: Tid,
    manager: Tid,
    commands: Frames,
    /// It was found dead and reaped: the ids may be somebody else's.
    reaped: bool,
    /// It died while a thread of it was being made.
    orphaned: AtomicBool,
}

impl Stub {
    /// Its process id.
    pub(super) fn pid(&self) -> Tid {
        self.pid
    }

    /// Its manager thread.
    pub(super) fn manager(&self) -> Tid {
        self.manager
    }

    /// What is mapped as its command page.
    pub(super) fn commands(&self) -> &Frames {
        &self.commands
    }

    /// It died under a clone, perhaps with a new thread that nobody heard of. That one is reaped by
    /// the host when the host thread that would have become its tracer ends.
    pub(super) fn set_orphaned(&self) {
        self.orphaned.store(true, Ordering::Relaxed);
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        let pid = self.pid;
        if self.reaped {
            return;
        }
        sys::note_cpu(pid);
        sys::kill(pid, libc::SIGKILL);
        if *self.orphaned.get_mut() {
            // The caller may be the one whose end must be waited for.
            let waiting = std::thread::Builder::new().name("reaper".into());
            if let Err(error) = waiting.spawn(move || sys::reap(pid)) {
                tracing::warn!(%error, pid, "a dead stub stays unreaped");
            }
        } else {
            sys::reap(pid);
        }
    }
}

/// Makes them.
pub(super) struct Stubs {
    pub(super) file: Arc<MemoryFile>,
    pub(super) template: Arc<Mutex<Template>>,
}

impl Maker for Stubs {
    type Stub = Stub;
    /// What a guest had is never used again.
    type Remains = std::convert::Infallible;

    fn make(&self) -> Result<Stub, Error> {
        let commands = self
            .file
            .allocate(PAGE_SIZE)
            .ok_or_else(|| Error::host("a command page", libc::ENOMEM))?;
        let (pid, manager) = self.template.lock().spawn(&commands)?;
        Ok(Stub { pid, manager, commands, reaped: false, orphaned: AtomicBool::new(false) })
    }

    fn revive(remains: Self::Remains) -> Option<Stub> {
        match remains {}
    }

    fn check(mut stub: Stub) -> Option<Stub> {
        stub.reaped = sys::try_reap(stub.pid);
        (!stub.reaped).then_some(stub)
    }

    fn settle(&self) {
        crate::stub::affinity::run_anywhere(0);
    }
}
