//! Which retired patches no thread of an address space can be in any more.
//!
//! A thread that runs guest code may be in a trampoline, or return to one from a call. Whenever it is
//! let go on, it goes either where it came from or, if anything was retired since it last did so,
//! to the guest's own address ([`Runner::set_clean`]); a thread that is in the Sentry can therefore
//! be left out. Who runs on without ever asking for anything is kicked, once for each time that
//! its place is wanted.
//!
//! Lock order: a space's mappings -> [`Quiet`] -> the threads' kicks.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::Kicker as _;
use crate::stub::kick::Kick;
use crate::stub::sys::Tid;

/// A guest thread.
pub(super) struct Runner {
    kick: Arc<Kick>,
    /// It is in nothing that was retired up to this number, and cannot come there.
    clean: AtomicU64,
}

impl Runner {
    /// See [`Runner`].
    pub(super) fn clean(&self) -> u64 {
        self.clean.load(Ordering::Relaxed)
    }

    /// It is about to go on at an address of the guest's own, or in a patch that was not retired
    /// when `epoch` was [`Quiet::retired`].
    pub(super) fn set_clean(&self, epoch: u64) {
        self.clean.store(epoch, Ordering::Release);
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Quiet {
    /// Patches that were retired up to this number are not mapped any more.
    retired: AtomicU64,
    /// By host thread.
    runners: Mutex<Runners>,
}

#[derive(Default)]
struct Runners {
    all: HashMap<Tid, Arc<Runner>>,
    /// Laggards were kicked for this number.
    kicked: u64,
}

impl Quiet {
    /// A guest thread that has not run yet.
    pub(super) fn enter(&self, tid: Tid, kick: &Arc<Kick>) -> Arc<Runner> {
        let mut runners = self.runners.lock();
        let clean = AtomicU64::new(self.retired());
        let runner = Arc::new(Runner { kick: kick.clone(), clean });
        runners.all.insert(tid, runner.clone());
        runner
    }

    /// It will not run any more.
    pub(super) fn leave(&self, tid: Tid) {
        self.runners.lock().all.remove(&tid);
    }

    /// Up to which number retired patches are not mapped any more.
    pub(super) fn retired(&self) -> u64 {
        self.retired.load(Ordering::Acquire)
    }

    /// What was retired up to number `epoch` is not mapped any more.
    pub(super) fn set_retired(&self, epoch: u64) {
        self.retired.fetch_max(epoch, Ordering::AcqRel);
    }

    /// Up to which number no thread is in, or can come to, what was retired. `asking` is the thread
    /// of the caller, which is in the Sentry.
    pub(super) fn epoch(&self, asking: &Arc<Runner>) -> u64 {
        let runners = self.runners.lock();
        let retired = self.retired();
        // Who does not run now looks at `retired` before it does: the lock that tells sees to it
        // that it sees at least what is used here.
        let running = runners.all.values().filter(|r| !Arc::ptr_eq(r, asking));
        let oldest = running.filter(|r| r.kick.is_running()).map(|r| r.clean()).min();
        oldest.unwrap_or(retired).min(retired)
    }

    /// Kicks who keeps retired patches from being used again.
    pub(super) fn hurry(&self, asking: &Arc<Runner>) {
        let mut runners = self.runners.lock();
        let retired = self.retired();
        if std::mem::replace(&mut runners.kicked, retired) == retired {
            return;
        }
        for runner in runners.all.values().filter(|r| !Arc::ptr_eq(r, asking)) {
            if runner.clean() < retired && runner.kick.is_running() {
                runner.kick.kick();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_runs_holds_back_who_waits_does_not() {
        let quiet = Quiet::default();
        let kicks: Vec<_> = (0..3).map(|_| Kick::new(0, 0)).collect();
        let runners: Vec<_> = (1..).zip(&kicks).map(|(tid, k)| quiet.enter(tid, k)).collect();
        assert!(kicks[0].start() && kicks[1].start());
        quiet.set_retired(5);
        assert_eq!(quiet.epoch(&runners[0]), 0, "the second runs");
        runners[1].set_clean(3);
        assert_eq!(quiet.epoch(&runners[0]), 3);
        assert_eq!(quiet.epoch(&runners[1]), 0, "the first runs");
        kicks[1].stop();
        assert_eq!(quiet.epoch(&runners[0]), 5);
        assert!(kicks[2].start());
        assert_eq!(quiet.epoch(&runners[0]), 0, "the third has not seen anything yet");
        quiet.leave(3);
        assert_eq!(quiet.epoch(&runners[0]), 5);
        let fourth = Kick::new(0, 0);
        assert_eq!(quiet.enter(4, &fourth).clean(), 5, "it has never run");
        assert!(fourth.start());
        assert_eq!(quiet.epoch(&runners[0]), 5);
    }

    #[test]
    fn laggards_are_kicked_once() {
        let quiet = Quiet::default();
        // A process id that is nobody's.
        let (asking, slow) = (Kick::new(-1, -1), Kick::new(-1, -1));
        let caller = quiet.enter(1, &asking);
        quiet.enter(2, &slow);
        assert!(asking.start() && slow.start());
        quiet.set_retired(2);
        quiet.hurry(&caller);
        assert!(slow.is_wanted() && !asking.is_wanted());
        slow.taken();
        quiet.hurry(&caller);
        assert!(!slow.is_wanted());
        quiet.set_retired(3);
        quiet.hurry(&caller);
        assert!(slow.is_wanted());
    }
}
