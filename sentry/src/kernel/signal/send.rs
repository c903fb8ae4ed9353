//! Sending: who gets a signal (`kernel/signal.c`: `send_signal_locked`, `complete_signal`).

use std::sync::Arc;

use abi::Errno;

use super::queue::Queued;
use super::{GroupSignals, SIGRTMIN, SigAction, SigInfo, SigSet, SignalSource, TaskSignals};
use crate::kernel::signal::action::{SIG_DFL, SIG_IGN};
use crate::kernel::{Caps, Credentials, Events, Task};

impl Task {
    /// Sends a signal of the kernel's, or one whose permission was checked, to this task alone.
    /// `EAGAIN` when a real-time signal finds the queue full.
    pub fn send_signal(self: &Arc<Self>, info: SigInfo) -> Result<(), Errno> {
        self.send(false, info, None).map(drop)
    }

    /// Sends a timer's signal to this task; `false` if the timer's last one is still queued.
    pub fn send_source(self: &Arc<Self>, info: SigInfo, source: Arc<dyn SignalSource>) -> bool {
        self.send(false, info, Some(source)).unwrap_or(false)
    }

    /// Sends `info.signo` to the task, or with `shared` to its whole group. Returns whether it was
    /// not there already (for sources).
    pub(in crate::kernel) fn send(
        self: &Arc<Self>,
        shared: bool,
        info: SigInfo,
        source: Option<Arc<dyn SignalSource>>,
    ) -> Result<bool, Errno> {
        let signo = info.signo;
        let mut group = self.group.signals.lock();
        if !self.prepare(&mut group, signo, !info.from_user()) {
            return Ok(true);
        }
        let already = |pending: &super::Pending| {
            (signo < SIGRTMIN && pending.set().contains(signo))
                || source.as_ref().is_some_and(|s| pending.has_source(s))
        };
        let mut own = self.signals.lock();
        let pending = if shared { &mut group.shared } else { &mut own.pending };
        if already(pending) {
            return Ok(source.is_none());
        }
        let entry = if signo == libc::SIGKILL {
            None
        } else {
            // Standard signals of the kernel and of kill(2) do not count against the limit.
            let limit = if source.is_some() || (signo < SIGRTMIN && info.code >= 0) {
                u64::MAX
            } else {
                self.group.rlimit(libc::RLIMIT_SIGPENDING).soft
            };
            match self.user().charge_pending(limit) {
                Some(charge) => Some(Queued::new(info, source, Some(charge))),
                None if signo >= SIGRTMIN && info.code != super::info::SI_USER => {
                    return Err(Errno::EAGAIN);
                }
                None => None,
            }
        };
        pending.add(signo, entry);
        drop(own);
        self.complete(&mut group, signo, shared);
        drop(group);
        self.group.signal_wait.wake(Events::IN | Events::RDNORM);
        Ok(true)
    }

    /// What a signal does at once, whether it is blocked or not: stop signals and SIGCONT cancel
    /// each other. Returns whether it is to be queued (`prepare_signal`).
    fn prepare(&self, group: &mut GroupSignals, signo: i32, force: bool) -> bool {
        if group.exiting {
            return false;
        }
        if SigSet::STOP.contains(signo) {
            group.shared.flush(SigSet::of(libc::SIGCONT));
            for task in self.group.threads() {
                task.signals.lock().pending.flush(SigSet::of(libc::SIGCONT));
            }
        } else if signo == libc::SIGCONT {
            self.group.continue_all(group);
        }
        !self.ignores(group, signo, force)
    }

    /// `sig_ignored`
    fn ignores(&self, group: &GroupSignals, signo: i32, force: bool) -> bool {
        let own = self.signals.lock();
        if own.blocked.union(own.real_blocked).contains(signo) {
            return false;
        }
        let action = self.group.sighand().get(signo);
        let immune = group.unkillable
            && action.handler == SIG_DFL
            && !(force && SigSet::UNBLOCKABLE.contains(signo));
        immune || action.ignores(signo)
    }

    /// `wants_signal`
    fn wants(&self, own: &TaskSignals, signo: i32) -> bool {
        if own.blocked.contains(signo) || own.exiting {
            return false;
        }
        signo == libc::SIGKILL || (!own.stopped && !self.interrupted())
    }

    /// Finds a task that takes the queued signal and wakes it; a signal that kills does so now.
    fn complete(self: &Arc<Self>, group: &mut GroupSignals, signo: i32, shared: bool) {
        let target = if self.wants(&self.signals.lock(), signo) {
            Some(self.clone())
        } else if shared {
            self.group.threads().into_iter().find(|t| t.wants(&t.signals.lock(), signo))
        } else {
            None
        };
        let Some(target) = target else { return };
        let action = self.group.sighand().get(signo);
        let fatal = action.handler == SIG_DFL
            && !SigSet::IGNORE.union(SigSet::STOP).contains(signo)
            && !group.exiting
            && !target.signals.lock().real_blocked.contains(signo);
        // A signal that dumps core is left to its taker, which knows the limit.
        if fatal && !SigSet::COREDUMP.contains(signo) {
            group.exiting = true;
            group.code = signo as u32;
            group.stop_count = 0;
            self.group.kill_threads(None);
            return;
        }
        target.interrupt();
    }

    /// A signal that the task's own code caused: it cannot be blocked or ignored
    /// (`force_sig_info_to_task`). Only for the task itself.
    pub fn force_signal(self: &Arc<Self>, info: SigInfo) {
        {
            let mut group = self.group.signals.lock();
            let mut own = self.signals.lock();
            let sighand = self.group.sighand();
            let action = sighand.get(info.signo);
            let blocked = own.blocked.contains(info.signo);
            if blocked || action.handler == SIG_IGN {
                sighand.set(info.signo, SigAction { handler: SIG_DFL, ..action });
                own.blocked.remove(info.signo);
            }
            if sighand.get(info.signo).handler == SIG_DFL {
                group.unkillable = false;
            }
        }
        // A standard signal is never refused.
        let _ = self.send(false, info, None);
        let _group = self.group.signals.lock();
        self.interrupt();
    }

    /// SIGSEGV that no handler of SIGSEGV may see if `signo` itself was SIGSEGV (`force_sigsegv`).
    pub fn force_sigsegv(self: &Arc<Self>, signo: i32) {
        if signo == libc::SIGSEGV {
            let sighand = self.group.sighand();
            sighand.set(signo, SigAction { handler: SIG_DFL, ..sighand.get(signo) });
        }
        self.force_signal(SigInfo::kernel(libc::SIGSEGV));
    }

    /// Whether `sender` may send `signo` to this task (`check_kill_permission`, kill(2)). `EPERM`.
    pub fn may_signal(&self, sender: &Task, signo: i32) -> Result<(), Errno> {
        if Arc::ptr_eq(&self.group, &sender.group)
            || kill_ok(&sender.cred(), &self.cred())
            || (signo == libc::SIGCONT && sender.group.sid() == self.group.sid())
        {
            return Ok(());
        }
        Err(Errno::EPERM)
    }
}

/// `kill_ok_by_cred`
fn kill_ok(sender: &Credentials, target: &Credentials) -> bool {
    [sender.euid, sender.uid].iter().any(|id| [target.suid, target.uid].contains(id))
        || sender.capable(Caps::KILL)
}
