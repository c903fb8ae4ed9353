//! Pending signals of a task or a group (`struct sigpending`).
//!
//! Bounded: an entry with information counts against its user's `RLIMIT_SIGPENDING`; standard
//! signals are pending at most once each.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{SigInfo, SigSet};
use crate::kernel::users::PendingCharge;

/// Something that wants to know when its signal is taken (POSIX timers count overruns then).
pub trait SignalSource: Send + Sync {
    /// The signal was taken; `info` goes to the guest next. Called without locks.
    fn taken(&self, info: &mut SigInfo);
}

/// A queued signal.
pub struct Queued {
    info: SigInfo,
    source: Option<Arc<dyn SignalSource>>,
    _charge: Option<PendingCharge>,
}

impl Queued {
    /// An entry; `charge` is what it costs its user.
    pub fn new(
        info: SigInfo,
        source: Option<Arc<dyn SignalSource>>,
        charge: Option<PendingCharge>,
    ) -> Queued {
        Queued { info, source, _charge: charge }
    }
}

/// A signal that was taken from a queue.
pub struct Taken {
    /// What came with it.
    pub info: SigInfo,
    source: Option<Arc<dyn SignalSource>>,
}

impl Taken {
    /// Tells the source, and gives the final information. Call without locks.
    pub fn finish(mut self) -> SigInfo {
        if let Some(source) = self.source.take() {
            source.taken(&mut self.info);
        }
        self.info
    }
}

/// Signals that were sent and not taken yet.
#[derive(Default)]
pub struct Pending {
    set: SigSet,
    queue: VecDeque<Queued>,
}

impl Pending {
    /// Which signals are pending.
    pub fn set(&self) -> SigSet {
        self.set
    }

    /// Adds a signal; without an entry its information is lost.
    pub fn add(&mut self, signo: i32, entry: Option<Queued>) {
        self.set.insert(signo);
        self.queue.extend(entry);
    }

    /// Whether a signal of this source is queued.
    pub fn has_source(&self, source: &Arc<dyn SignalSource>) -> bool {
        self.queue.iter().any(|q| q.source.as_ref().is_some_and(|s| Arc::ptr_eq(s, source)))
    }

    /// Drops queued signals of a source.
    pub fn drop_source(&mut self, source: &Arc<dyn SignalSource>) {
        let gone = |q: &Queued| q.source.as_ref().is_some_and(|s| Arc::ptr_eq(s, source));
        let Some(signo) = self.queue.iter().find(|q| gone(q)).map(|q| q.info.signo) else { return };
        self.queue.retain(|q| !gone(q));
        if !self.queue.iter().any(|q| q.info.signo == signo) {
            self.set.remove(signo);
        }
    }

    /// Drops signals.
    pub fn flush(&mut self, which: SigSet) {
        if self.set.intersection(which).is_empty() {
            return;
        }
        self.set = self.set.minus(which);
        self.queue.retain(|q| !which.contains(q.info.signo));
    }

    /// The signal that is to be taken next, of those not in `blocked` (`next_signal`): synchronous
    /// ones first, then by number.
    pub fn next(&self, blocked: SigSet) -> Option<i32> {
        let ready = self.set.minus(blocked);
        ready.intersection(SigSet::SYNCHRONOUS).lowest().or(ready.lowest())
    }

    /// Takes the next signal not in `blocked`; of several with one number the oldest.
    pub fn take(&mut self, blocked: SigSet) -> Option<Taken> {
        let signo = self.next(blocked)?;
        let at = self.queue.iter().position(|q| q.info.signo == signo);
        let entry = at.and_then(|at| self.queue.remove(at));
        if !self.queue.iter().any(|q| q.info.signo == signo) {
            self.set.remove(signo);
        }
        Some(match entry {
            Some(entry) => Taken { info: entry.info, source: entry.source },
            // Out of the queue's bounds when it was sent: only the number is left.
            None => Taken { info: SigInfo::user(signo, super::info::SI_USER, 0, 0), source: None },
        })
    }

    /// Takes the oldest synchronous signal that the task itself raised (`dequeue_synchronous_signal`).
    pub fn take_synchronous(&mut self, blocked: SigSet) -> Option<Taken> {
        if self.set.minus(blocked).intersection(SigSet::SYNCHRONOUS).is_empty() {
            return None;
        }
        let at = self.queue.iter().position(|q| {
            q.info.code > 0
                && SigSet::SYNCHRONOUS.contains(q.info.signo)
                && !blocked.contains(q.info.signo)
        })?;
        let entry = self.queue.remove(at)?;
        let signo = entry.info.signo;
        if !self.queue.iter().any(|q| q.info.signo == signo) {
            self.set.remove(signo);
        }
        Some(Taken { info: entry.info, source: entry.source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued(signo: i32, value: u64) -> Option<Queued> {
        Some(Queued::new(
            SigInfo::value(signo, super::super::info::SI_QUEUE, 1, 0, value),
            None,
            None,
        ))
    }

    #[test]
    fn order_is_linuxs() {
        let mut p = Pending::default();
        p.add(40, queued(40, 1));
        p.add(35, queued(35, 2));
        p.add(40, queued(40, 3));
        p.add(libc::SIGTERM, queued(libc::SIGTERM, 4));
        p.add(libc::SIGSEGV, queued(libc::SIGSEGV, 5));
        p.add(libc::SIGHUP, None);
        let order: Vec<(i32, u64)> = std::iter::from_fn(|| p.take(SigSet::EMPTY))
            .map(|t| (t.info.signo, t.info.fields[1]))
            .collect();
        assert_eq!(order, [(11, 5), (1, 0), (15, 4), (35, 2), (40, 1), (40, 3)]);
        assert!(p.set().is_empty());
    }

    #[test]
    fn blocked_signals_stay() {
        let mut p = Pending::default();
        p.add(10, queued(10, 1));
        assert!(p.take(SigSet::of(10)).is_none());
        p.flush(SigSet::of(10));
        assert!(p.take(SigSet::EMPTY).is_none());
    }
}
