//! `RLIMIT_CPU`: SIGXCPU each second beyond the soft limit, SIGKILL at the hard one
//! (`check_process_timers`).
//!
//! A timer fires when the process can have reached its limit at the earliest, with all its threads
//! running all the time, and looks.

use std::sync::{Arc, Weak};

use super::signal::SigInfo;
use super::thread_group::Rlimit;
use super::time::monotonic_ns;
use super::timer::{Expire, TimerId};
use super::{Kernel, ThreadGroup};
use crate::rarely::Rarely;

const SECOND: u64 = 1_000_000_000;
/// How exactly a limit is kept: a tick.
const TICK: u64 = 4_000_000;

/// The timer of one process.
pub struct CpuLimit {
    kernel: Weak<Kernel>,
    group: Weak<ThreadGroup>,
    id: TimerId,
}

/// What is to be done about the time used so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Kill,
    /// SIGXCPU, and a soft limit one second higher.
    Warn,
    /// Look again when so much more was used; `None` for never.
    Wait(Option<u64>),
}

fn judge(used: u64, limit: Rlimit) -> Verdict {
    let reached = |seconds: u64| seconds != u64::MAX && used >= seconds.saturating_mul(SECOND);
    if reached(limit.hard) {
        Verdict::Kill
    } else if reached(limit.soft) {
        Verdict::Warn
    } else {
        let next = limit.soft.min(limit.hard);
        Verdict::Wait((next != u64::MAX).then(|| next.saturating_mul(SECOND) - used))
    }
}

impl Expire for CpuLimit {
    fn expire(self: Arc<Self>) {
        let (Some(kernel), Some(group)) = (self.kernel.upgrade(), self.group.upgrade()) else {
            return;
        };
        loop {
            match judge(group.cpu_times().total(), group.rlimit(libc::RLIMIT_CPU)) {
                Verdict::Kill => {
                    // SIGKILL is never refused.
                    let _ = group.send_signal(SigInfo::kernel(libc::SIGKILL));
                    return;
                }
                Verdict::Warn => {
                    group.change_rlimit(libc::RLIMIT_CPU, |l| l.soft = l.soft.saturating_add(1));
                    // A standard signal is never refused.
                    let _ = group.send_signal(SigInfo::kernel(libc::SIGXCPU));
                }
                Verdict::Wait(None) => return,
                Verdict::Wait(Some(left)) => {
                    let pace = left / group.thread_count().max(1) as u64;
                    let at = monotonic_ns().saturating_add(pace.max(TICK));
                    let target: Weak<dyn Expire> = Arc::downgrade(&(self.clone() as Arc<_>));
                    if let Err(errno) = kernel.timers.arm(self.id, at, target) {
                        static FAILED: Rarely = Rarely::new();
                        if let Some(count) = FAILED.due() {
                            tracing::warn!(%errno, count, "no timer for RLIMIT_CPU");
                        }
                    }
                    return;
                }
            }
        }
    }
}

impl ThreadGroup {
    /// Sees to it that `RLIMIT_CPU` is kept; to be called when it was set or inherited.
    pub fn watch_cpu_limit(self: &Arc<Self>, kernel: &Arc<Kernel>) {
        if self.rlimit(libc::RLIMIT_CPU).soft == u64::MAX {
            return;
        }
        let limit = self.cpu_limit.get_or_init(|| {
            Arc::new(CpuLimit {
                kernel: Arc::downgrade(kernel),
                group: Arc::downgrade(self),
                id: kernel.timers.new_id(),
            })
        });
        limit.clone().expire();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_judged_in_order() {
        let limit = |soft, hard| Rlimit { soft, hard };
        assert_eq!(judge(5, limit(u64::MAX, u64::MAX)), Verdict::Wait(None));
        assert_eq!(judge(SECOND / 2, limit(1, 3)), Verdict::Wait(Some(SECOND / 2)));
        assert_eq!(judge(SECOND, limit(1, 3)), Verdict::Warn);
        assert_eq!(judge(3 * SECOND, limit(4, 3)), Verdict::Kill);
    }
}
