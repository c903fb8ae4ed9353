//! Job control: groups that stop and go on (`do_signal_stop`, `do_notify_parent_cldstop`).

use std::sync::Arc;

use super::info::cld;
use super::{GroupSignals, SaFlags, SigInfo, SigSet, TaskSignals};
use crate::kernel::signal::action::SIG_IGN;
use crate::kernel::{Events, Task, ThreadGroup, time};

impl ThreadGroup {
    /// SIGCONT was sent: pending stops are off, stopped tasks go on. The signal lock is held.
    pub(super) fn continue_all(&self, group: &mut GroupSignals) {
        group.shared.flush(SigSet::STOP);
        for task in self.threads() {
            let mut own = task.signals.lock();
            own.pending.flush(SigSet::STOP);
            own.clear_stop();
            if std::mem::take(&mut own.stopped) {
                drop(own);
                task.interrupt();
            }
        }
        let why = if group.stopped {
            Some(cld::CONTINUED)
        } else if group.stop_count > 0 {
            Some(cld::STOPPED)
        } else {
            None
        };
        if why.is_some() {
            // The first thread that runs tells the parent.
            group.notify = why;
            group.stopped = false;
            group.continued = true;
            group.stop_count = 0;
            group.code = 0;
            if let Some(task) = self.threads().iter().find(|t| !t.signals.lock().exiting) {
                task.interrupt();
            }
        }
    }

    /// Tells the parent that the process stopped or went on. The family lock is held, no signal
    /// lock is.
    pub(in crate::kernel) fn notify_parent_stop(&self, why: i32) {
        let Some(parent) = self.parent() else { return };
        let status = match why {
            cld::CONTINUED => libc::SIGCONT,
            _ => (self.signals.lock().code & 0x7f) as i32,
        };
        let uid = self.leader().map_or(0, |l| l.cred().uid);
        let times = self.cpu_times().shown();
        let (utime, stime) = (time::clock_t(times.user), time::clock_t(times.system));
        let action = parent.sighand().get(libc::SIGCHLD);
        if action.handler != SIG_IGN && !action.flags.contains(SaFlags::NOCLDSTOP) {
            let info = SigInfo::child(why, self.tgid, uid, status, utime, stime);
            // SIGCHLD is never refused.
            let _ = parent.send_signal(info);
        }
        parent.child_wait.wake(Events::IN);
    }
}

/// The task does its part of a group stop; `true` if it was the last one to
/// (`task_participate_group_stop`).
pub(in crate::kernel) fn participate(group: &mut GroupSignals, own: &mut TaskSignals) -> bool {
    if !std::mem::take(&mut own.stop_pending) {
        return false;
    }
    group.stop_count = group.stop_count.saturating_sub(1);
    if group.stop_count > 0 || group.stopped {
        return false;
    }
    group.stopped = true;
    group.continued = false;
    group.notify = None;
    true
}

/// Begins a group stop because `task` took `signo`. `false` if SIGCONT or an exit came in between.
pub(super) fn begin(task: &Arc<Task>, group: &mut GroupSignals, signo: i32) -> bool {
    {
        let mut own = task.signals.lock();
        if !own.stop_dequeued || group.exiting || group.exec_tid.is_some() {
            return false;
        }
        own.stop_pending = true;
    }
    if !group.stopped {
        group.code = signo as u32;
    }
    group.stop_count = 1;
    for other in task.group.threads() {
        if Arc::ptr_eq(&other, task) {
            continue;
        }
        let mut own = other.signals.lock();
        if own.stopped || own.exiting || own.pending.set().contains(libc::SIGKILL) {
            continue;
        }
        own.stop_pending = true;
        own.stop_dequeued = true;
        group.stop_count += 1;
        drop(own);
        other.interrupt();
    }
    true
}

/// Stops the calling task until SIGCONT or SIGKILL. The group's signal lock is taken over.
pub(super) fn stop_here(task: &Arc<Task>, mut group: parking_lot::MutexGuard<'_, GroupSignals>) {
    let last = {
        let mut own = task.signals.lock();
        let last = participate(&mut group, &mut own);
        own.stopped = true;
        last
    };
    drop(group);
    if last {
        let _family = task.kernel.tasks.family();
        task.group.notify_parent_stop(cld::STOPPED);
    }
    // Killed or continued: both clear `stopped` or leave SIGKILL pending.
    let _ = task.block_killable(|| !task.signals.lock().stopped);
    task.signals.lock().stopped = false;
}
