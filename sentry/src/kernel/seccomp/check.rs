//! What the filters say about the call that a task is about to make (`__secure_computing`).

use std::sync::atomic::Ordering;

use abi::Errno;

use super::bpf::Data;
use super::notifier::Answer;
use super::{ARCH, Action, Filter, Mode, notifier};
use crate::kernel::Current;
use crate::kernel::signal::SigInfo;
use crate::rarely::Rarely;

/// `MAX_ERRNO`
const MAX_ERRNO: u32 = 4095;

/// What becomes of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is made.
    Run,
    /// It is not made; this is what `rax` holds then.
    Skip(u64),
}

/// Asks the calling task's filters about the call in its registers. May block, when another task is
/// asked.
pub fn check(cur: &mut Current, args: [u64; 6]) -> Verdict {
    match cur.seccomp.mode() {
        Mode::Disabled => Verdict::Run,
        Mode::Filter if cur.seccomp.plainly_allows(number(cur) as u64) => Verdict::Run,
        Mode::Strict => strict(cur),
        Mode::Filter => match cur.seccomp.filter() {
            Some(filter) => filtered(cur, &filter, args),
            // There is no such state.
            None => kill(cur, Action::KillProcess),
        },
        // It exits before it can make another call.
        Mode::Dead => {
            cur.exit_thread(libc::SIGKILL as u32);
            Verdict::Skip(0)
        }
    }
}

/// The number as Linux sees it: an `int`.
fn number(cur: &Current) -> i32 {
    cur.call().0 as i32
}

fn strict(cur: &mut Current) -> Verdict {
    let allowed = [libc::SYS_read, libc::SYS_write, libc::SYS_exit, libc::SYS_rt_sigreturn];
    if allowed.contains(&number(cur).into()) {
        return Verdict::Run;
    }
    log(cur, Action::KillThread, true);
    cur.seccomp.set_mode(Mode::Dead);
    cur.exit_thread(libc::SIGKILL as u32);
    Verdict::Skip(0)
}

fn filtered(cur: &mut Current, filter: &std::sync::Arc<Filter>, args: [u64; 6]) -> Verdict {
    let nr = number(cur);
    let data = Data { nr, arch: ARCH, instruction_pointer: cur.regs().rip, args };
    let (value, by) = filter.run(&data);
    let action = Action::from_value(value & libc::SECCOMP_RET_ACTION_FULL);
    let low = value & libc::SECCOMP_RET_DATA;
    let requested = by.as_ref().is_some_and(|filter| filter.logs());
    let verdict = match (action, by) {
        (Some(Action::Allow), _) => return Verdict::Run,
        (Some(Action::Log), _) => {
            log(cur, Action::Log, true);
            return Verdict::Run;
        }
        (Some(Action::Errno), _) => Verdict::Skip(-i64::from(low.min(MAX_ERRNO)) as u64),
        (Some(Action::Trap), _) => {
            let info = SigInfo::seccomp(cur.regs().rip, nr, ARCH, low as i32);
            // A handler sees the registers as they were before the call.
            let before = Verdict::Skip(cur.call().0);
            cur.task.force_signal(info);
            before
        }
        // Nobody can trace a task.
        (Some(Action::Trace), _) => Verdict::Skip(Errno::ENOSYS.as_return() as u64),
        (Some(Action::UserNotif), Some(by)) => match notifier::ask(cur, &by, data) {
            Answer::Continue => return Verdict::Run,
            Answer::Interrupted => {
                // As any other call that a signal ends.
                return Verdict::Skip(Errno::ERESTARTSYS.as_return() as u64);
            }
            Answer::Value(value) => Verdict::Skip(value),
        },
        (Some(Action::KillThread), _) => return kill(cur, Action::KillThread),
        _ => return kill(cur, Action::KillProcess),
    };
    log(cur, action.unwrap_or(Action::KillProcess), requested);
    // What looks like the result of an interrupted call is none.
    cur.in_syscall = false;
    verdict
}

/// Ends the thread, or the process if it is the last one.
fn kill(cur: &mut Current, action: Action) -> Verdict {
    log(cur, action, true);
    cur.seccomp.set_mode(Mode::Dead);
    let alone = cur.group.live.load(Ordering::Acquire) == 1;
    if action == Action::KillThread && !alone {
        cur.exit_thread(libc::SIGSYS as u32);
    } else {
        cur.group.begin_exit(libc::SIGSYS as u32);
    }
    Verdict::Skip(cur.call().0)
}

/// Says in the log what a filter did (`seccomp_log`).
fn log(cur: &Current, action: Action, requested: bool) {
    static LOGGED: Rarely = Rarely::new();
    if !requested || !cur.kernel.seccomp_logged.contains(action) {
        return;
    }
    if let Some(count) = LOGGED.due() {
        let nr = number(cur);
        let name = crate::syscalls::entry(nr as u32 as u64).map_or("unknown", |entry| entry.name);
        let tid = cur.tid();
        tracing::info!(tid, ?action, nr, name, count, "a guest's seccomp filter");
    }
}
