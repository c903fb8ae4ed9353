//! seccomp(2): filters that guests put before their own system calls (`kernel/seccomp.c`).
//!
//! * [`bpf`]: what a filter program may be, and what it says.
//! * [`filter`]: chains of filters, and how tasks come to have them.
//! * [`check`]: what the dispatcher asks before each call.
//! * [`notifier`]: the file through which one task decides another's calls.
//!
//! This is the guest's own protection, of the guest's own tasks. It has nothing to do with the
//! filters that the host puts before stubs, gofer and Sentry.
//!
//! Lock order: a group's signal lock -> a task's filter -> a notifier. Filters are dropped outside of
//! all of them: the last one wakes who polls its listener.

pub mod bpf;
mod check;
mod filter;
mod notifier;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use parking_lot::Mutex;

pub use check::{Verdict, check};
pub use filter::{Filter, FilterFlags, Prepared, may_filter, set_filter, set_first, set_strict};
pub use notifier::{SIZES as NOTIF_SIZES, new_listener};

/// `AUDIT_ARCH_X86_64`
pub const ARCH: u32 = 0xc000_003e;

/// `SECCOMP_MODE_*`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// Every call runs.
    Disabled = 0,
    /// read(2), write(2), _exit(2) and rt_sigreturn(2) run.
    Strict = 1,
    /// Filters decide.
    Filter = 2,
    /// A filter killed the task.
    Dead = 3,
}

/// `SECCOMP_RET_*`: what is to happen to a call, without the 16 bits of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Action {
    KillProcess,
    KillThread,
    Trap,
    Errno,
    UserNotif,
    Trace,
    Log,
    Allow,
}

impl Action {
    /// All of them with their names in /proc/sys/kernel/seccomp, in the order of precedence.
    pub const NAMES: [(Action, &'static str); 8] = [
        (Action::KillProcess, "kill_process"),
        (Action::KillThread, "kill_thread"),
        (Action::Trap, "trap"),
        (Action::Errno, "errno"),
        (Action::UserNotif, "user_notif"),
        (Action::Trace, "trace"),
        (Action::Log, "log"),
        (Action::Allow, "allow"),
    ];

    /// The value that filters return.
    pub const fn value(self) -> u32 {
        match self {
            Action::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
            Action::KillThread => libc::SECCOMP_RET_KILL_THREAD,
            Action::Trap => libc::SECCOMP_RET_TRAP,
            Action::Errno => libc::SECCOMP_RET_ERRNO,
            Action::UserNotif => libc::SECCOMP_RET_USER_NOTIF,
            Action::Trace => libc::SECCOMP_RET_TRACE,
            Action::Log => libc::SECCOMP_RET_LOG,
            Action::Allow => libc::SECCOMP_RET_ALLOW,
        }
    }

    /// The action of that value, if there is one.
    pub fn from_value(value: u32) -> Option<Action> {
        Action::NAMES.iter().map(|(action, _)| *action).find(|action| action.value() == value)
    }

    /// Its bit in a set of actions.
    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// `/proc/sys/kernel/seccomp/actions_logged`
#[derive(Debug)]
pub struct Logged(AtomicU32);

impl Default for Logged {
    fn default() -> Self {
        Logged(AtomicU32::new(0x7f))
    }
}

impl Logged {
    /// The names of those that are logged.
    pub fn names(&self) -> String {
        let set = self.0.load(Ordering::Relaxed);
        let named = Action::NAMES.iter().filter(|(action, _)| set & action.bit() != 0);
        named.map(|(_, name)| *name).collect::<Vec<_>>().join(" ")
    }

    /// Replaces the set by these names. `EINVAL` for one that is unknown or `allow`.
    pub fn set(&self, names: &str) -> Result<(), abi::Errno> {
        let mut set = 0;
        for name in names.split_ascii_whitespace() {
            match Action::NAMES.iter().find(|(_, known)| *known == name) {
                Some((action, _)) if *action != Action::Allow => set |= action.bit(),
                _ => return Err(abi::Errno::EINVAL),
            }
        }
        self.0.store(set, Ordering::Relaxed);
        Ok(())
    }

    fn contains(&self, action: Action) -> bool {
        self.0.load(Ordering::Relaxed) & action.bit() != 0
    }
}

/// A task's mode and filters (`struct seccomp`). Changes under the group's signal lock.
#[derive(Debug)]
pub struct Seccomp {
    mode: AtomicU8,
    count: AtomicU32,
    filter: Mutex<Option<Arc<Filter>>>,
}

impl Default for Seccomp {
    fn default() -> Self {
        Seccomp {
            mode: AtomicU8::new(Mode::Disabled as u8),
            count: AtomicU32::new(0),
            filter: Mutex::new(None),
        }
    }
}

impl Seccomp {
    /// The mode.
    pub fn mode(&self) -> Mode {
        match self.mode.load(Ordering::Acquire) {
            0 => Mode::Disabled,
            1 => Mode::Strict,
            2 => Mode::Filter,
            _ => Mode::Dead,
        }
    }

    /// How many filters there are.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// The newest filter.
    fn filter(&self) -> Option<Arc<Filter>> {
        self.filter.lock().clone()
    }

    /// Whether every call with this number runs, whatever its arguments are.
    pub fn plainly_allows(&self, nr: u64) -> bool {
        match self.mode() {
            Mode::Disabled => true,
            Mode::Filter => {
                self.filter.lock().as_ref().is_some_and(|filter| filter.plainly_allows(nr))
            }
            Mode::Strict | Mode::Dead => false,
        }
    }

    fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::Release);
    }

    /// Puts `filter` in place, and returns what was there: to be dropped without locks.
    #[must_use = "to be dropped outside of the signal lock"]
    fn replace(&self, filter: Arc<Filter>) -> Option<Arc<Filter>> {
        self.count.store(filter.count(), Ordering::Relaxed);
        self.filter.lock().replace(filter)
    }

    /// What a child starts with (`copy_seccomp`). The parent's group's signal lock is held.
    pub fn inherit(&self, parent: &Seccomp) {
        *self.filter.lock() = parent.filter();
        self.count.store(parent.count(), Ordering::Relaxed);
        self.set_mode(parent.mode());
    }

    /// The task exits: its filters are not in use any more (`seccomp_filter_release`).
    pub fn release(&self) {
        let filter = self.filter.lock().take();
        drop(filter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_take_precedence_by_their_signed_value() {
        let values = Action::NAMES.map(|(action, _)| action.value() as i32);
        assert!(values.is_sorted());
        assert!(Action::NAMES.iter().all(|(a, _)| Action::from_value(a.value()) == Some(*a)));
        assert_eq!(Action::from_value(1), None);
    }

    #[test]
    fn logged_actions_have_names() {
        let logged = Logged::default();
        let all = "kill_process kill_thread trap errno user_notif trace log";
        assert_eq!(logged.names(), all);
        assert!(logged.set("trap allow").is_err() && logged.set("tramp").is_err());
        assert_eq!(logged.names(), all);
        logged.set(" errno\ttrap\n").unwrap();
        assert_eq!(logged.names(), "trap errno");
        assert!(logged.contains(Action::Trap) && !logged.contains(Action::Log));
        logged.set("").unwrap();
        assert_eq!(logged.names(), "");
    }
}
