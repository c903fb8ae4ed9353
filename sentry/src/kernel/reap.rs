//! Waiting for children (wait4(2), waitid(2), `kernel/exit.c`: `do_wait`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;

use super::rusage::Usage;
use super::signal::info::cld;
use super::{Current, Events, ThreadGroup, exit};

#[allow(missing_docs)] // The names are Linux's.
mod bits {
    use bitflags::bitflags;

    bitflags! {
        /// Options of wait4 and waitid.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct WaitOptions: u32 {
            const NOHANG = 1;
            /// `WUNTRACED`, which is `WSTOPPED`.
            const STOPPED = 2;
            const EXITED = 4;
            const CONTINUED = 8;
            const NOWAIT = 0x0100_0000;
            /// `__WNOTHREAD`
            const NOTHREAD = 0x2000_0000;
            /// `__WALL`
            const ALL = 0x4000_0000;
            /// `__WCLONE`
            const CLONE = 0x8000_0000;
        }
    }
}

pub use bits::WaitOptions;

/// Which children count.
#[derive(Clone)]
pub enum Which {
    /// All.
    Any,
    /// The one with this number.
    Process(i32),
    /// Those in this process group.
    Group(i32),
    /// This one (`P_PIDFD`); with a non-blocking pidfd, `EAGAIN` instead of waiting.
    Pidfd(Arc<ThreadGroup>, bool),
}

impl Which {
    fn matches(&self, child: &Arc<ThreadGroup>) -> bool {
        match self {
            Which::Any => true,
            Which::Process(pid) => child.tgid == *pid,
            Which::Group(pgid) => child.pgid() == *pgid,
            Which::Pidfd(group, _) => Arc::ptr_eq(child, group),
        }
    }
}

/// What happened to a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waited {
    /// The child.
    pub pid: i32,
    /// Its real user.
    pub uid: u32,
    /// `CLD_*`
    pub code: i32,
    /// `si_status`: the exit status or the signal.
    pub status: i32,
    /// The status as wait4 gives it.
    pub wstatus: u32,
    /// What the child and those it waited for have used.
    pub usage: Usage,
}

/// Whether a child counts for these options (`eligible_child`).
pub(super) fn eligible(exit_signal: i32, options: WaitOptions) -> bool {
    options.contains(WaitOptions::ALL)
        || (exit_signal != libc::SIGCHLD) == options.contains(WaitOptions::CLONE)
}

/// Waits for a child. `None` with `WNOHANG` when nothing happened. `ECHILD`, `ERESTARTSYS`.
pub fn wait(
    cur: &mut Current,
    which: &Which,
    options: WaitOptions,
) -> Result<Option<Waited>, Errno> {
    if let Some(found) = look(cur, which, options)? {
        return Ok(Some(found));
    }
    if options.contains(WaitOptions::NOHANG) {
        return Ok(None);
    }
    if matches!(which, Which::Pidfd(_, true)) {
        return Err(Errno::EAGAIN);
    }
    let _registration = cur.group.child_wait.register(Events::IN, cur.sleeper.clone());
    let mut interrupted = None;
    loop {
        // A child counts even if a signal (its SIGCHLD, say) ended the sleep.
        if let Some(found) = look(cur, which, options)? {
            return Ok(Some(found));
        }
        if let Some(errno) = interrupted {
            return Err(errno);
        }
        interrupted = cur.block(None).err();
    }
}

/// One look at all children.
fn look(cur: &Current, which: &Which, options: WaitOptions) -> Result<Option<Waited>, Errno> {
    let _family = cur.kernel.tasks.family();
    let mut any = false;
    for child in cur.group.children() {
        let (exit_signal, parent_tid, zombie) = {
            let family = child.family();
            (family.exit_signal, family.parent_tid, family.zombie)
        };
        if !which.matches(&child) || !eligible(exit_signal, options) {
            continue;
        }
        if options.contains(WaitOptions::NOTHREAD) && parent_tid != cur.tid() {
            continue;
        }
        any = true;
        if let Some(status) = zombie {
            if options.contains(WaitOptions::EXITED) {
                return Ok(Some(reap(cur, &child, status, options)));
            }
            continue;
        }
        if let Some(found) = look_stopped(&child, options) {
            return Ok(Some(found));
        }
    }
    if any { Ok(None) } else { Err(Errno::ECHILD) }
}

fn reap(cur: &Current, child: &Arc<ThreadGroup>, status: u32, options: WaitOptions) -> Waited {
    let (code, value) = match status & 0x7f {
        0 => (cld::EXITED, (status >> 8) as i32 & 0xff),
        signal if status & 0x80 != 0 => (cld::DUMPED, signal as i32),
        signal => (cld::KILLED, signal as i32),
    };
    let waited = waited(child, code, value, status, exit::total_usage(child));
    if !options.contains(WaitOptions::NOWAIT) {
        let mut usage = cur.group.children_usage.lock();
        *usage = usage.plus(waited.usage);
        drop(usage);
        exit::release(&cur.kernel, child);
    }
    waited
}

fn look_stopped(child: &Arc<ThreadGroup>, options: WaitOptions) -> Option<Waited> {
    let mut signals = child.signals.lock();
    let keep = options.contains(WaitOptions::NOWAIT);
    if signals.stopped && signals.code != 0 && options.contains(WaitOptions::STOPPED) {
        let signo = signals.code;
        if !keep {
            signals.code = 0;
        }
        drop(signals);
        let wstatus = signo << 8 | 0x7f;
        return Some(waited(child, cld::STOPPED, signo as i32, wstatus, exit::total_usage(child)));
    }
    if signals.continued && options.contains(WaitOptions::CONTINUED) {
        signals.continued = keep;
        drop(signals);
        let usage = exit::total_usage(child);
        return Some(waited(child, cld::CONTINUED, libc::SIGCONT, 0xffff, usage));
    }
    None
}

fn waited(child: &ThreadGroup, code: i32, status: i32, wstatus: u32, usage: Usage) -> Waited {
    let uid = child.leader().map_or(0, |l| l.cred().uid);
    Waited { pid: child.tgid, uid, code, status, wstatus, usage }
}

impl ThreadGroup {
    /// `PR_SET_CHILD_SUBREAPER`
    pub fn set_subreaper(&self, subreaper: bool) {
        self.subreaper.store(subreaper, Ordering::Relaxed);
    }

    /// `PR_GET_CHILD_SUBREAPER`
    pub fn is_subreaper(&self) -> bool {
        self.subreaper.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clone_children_are_a_kind_of_their_own() {
        let none = WaitOptions::empty();
        assert!(eligible(libc::SIGCHLD, none) && !eligible(0, none));
        assert!(!eligible(libc::SIGCHLD, WaitOptions::CLONE) && eligible(0, WaitOptions::CLONE));
        assert!(eligible(libc::SIGUSR1, WaitOptions::ALL | WaitOptions::CLONE));
    }
}
