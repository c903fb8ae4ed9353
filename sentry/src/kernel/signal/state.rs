//! What tasks and groups keep about signals.

use super::{Pending, SigInfo, SigSet};

/// sigaltstack(2), of one task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AltStack {
    /// Lowest address.
    pub sp: u64,
    /// `SS_AUTODISARM` or 0, and `SS_DISABLE` without a stack.
    pub flags: u32,
    /// Bytes; 0 means that there is none.
    pub size: u64,
}

/// `SS_ONSTACK`
pub const SS_ONSTACK: u32 = 1;
/// `SS_DISABLE`
pub const SS_DISABLE: u32 = 2;
/// `SS_AUTODISARM`
pub const SS_AUTODISARM: u32 = 1 << 31;
/// Smallest stack, whatever the processor's state needs beyond it.
pub const MINSIGSTKSZ: u64 = 2048;

impl AltStack {
    /// No stack.
    pub const NONE: AltStack = AltStack { sp: 0, flags: SS_DISABLE, size: 0 };

    /// Whether `sp` lies in it, whatever the flags (`__on_sig_stack`).
    pub fn holds(&self, sp: u64) -> bool {
        sp > self.sp && sp.wrapping_sub(self.sp) <= self.size
    }

    /// Whether the task is on it (`on_sig_stack`): an auto-disarmed one is never "in use".
    pub fn in_use(&self, sp: u64) -> bool {
        self.flags & SS_AUTODISARM == 0 && self.holds(sp)
    }

    /// What sigaltstack(2) tells (`sas_ss_flags`).
    pub fn status(&self, sp: u64) -> u32 {
        match self.size {
            0 => SS_DISABLE,
            _ if self.in_use(sp) => SS_ONSTACK,
            _ => 0,
        }
    }
}

/// A task's part. Locked inside its group's signal lock; `blocked` is changed only by the task.
#[derive(Default)]
pub struct TaskSignals {
    /// Sent to this task.
    pub pending: Pending,
    /// The mask.
    pub blocked: SigSet,
    /// The mask as it was while rt_sigtimedwait(2) replaces it.
    pub real_blocked: SigSet,
    /// A group stop waits for this task (`JOBCTL_STOP_PENDING`), which stands for one of
    /// [`GroupSignals::stop_count`] (`JOBCTL_STOP_CONSUME`).
    pub stop_pending: bool,
    /// The task took a stop signal and SIGCONT has not undone it (`JOBCTL_STOP_DEQUEUED`).
    pub stop_dequeued: bool,
    /// It is stopped.
    pub stopped: bool,
    /// It is past taking signals (`PF_EXITING`).
    pub exiting: bool,
}

impl TaskSignals {
    /// Undoes what a stop has begun (`task_clear_jobctl_pending`).
    pub fn clear_stop(&mut self) {
        self.stop_pending = false;
        self.stop_dequeued = false;
    }
}

/// A group's part (the job control half of `struct signal_struct`).
#[derive(Default)]
pub struct GroupSignals {
    /// Sent to the group.
    pub shared: Pending,
    /// All threads are to exit (`SIGNAL_GROUP_EXIT`).
    pub exiting: bool,
    /// Wait status of an exiting group, signal of a stopped one.
    pub code: u32,
    /// All threads are stopped (`SIGNAL_STOP_STOPPED`).
    pub stopped: bool,
    /// Went on since it was last asked about (`SIGNAL_STOP_CONTINUED`).
    pub continued: bool,
    /// The parent is to be told: a `CLD_*` (`SIGNAL_CLD_MASK`).
    pub notify: Option<i32>,
    /// Threads that have yet to stop.
    pub stop_count: u32,
    /// Init's: the default action of signals does not end it (`SIGNAL_UNKILLABLE`).
    pub unkillable: bool,
    /// The thread in execve(2) that all others make room for.
    pub exec_tid: Option<i32>,
    /// The fault that killed it, for the log.
    pub fatal: Option<SigInfo>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alternate_stacks() {
        let stack = AltStack { sp: 0x1000, flags: 0, size: 0x1000 };
        assert!(!stack.in_use(0x1000) && stack.in_use(0x2000) && !stack.in_use(0x2001));
        assert_eq!(stack.status(0x1800), SS_ONSTACK);
        assert_eq!(AltStack { flags: SS_AUTODISARM, ..stack }.status(0x1800), 0);
        assert_eq!(AltStack::NONE.status(0x1800), SS_DISABLE);
    }
}
