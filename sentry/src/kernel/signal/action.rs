//! Dispositions (sigaction(2)).

use std::sync::Arc;

use parking_lot::Mutex;

use super::{NSIG, SigSet};

#[allow(missing_docs)] // The names are Linux's.
mod bits {
    use bitflags::bitflags;

    bitflags! {
        /// `sa_flags`
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct SaFlags: u64 {
            const NOCLDSTOP = 1;
            const NOCLDWAIT = 2;
            const SIGINFO = 4;
            const UNSUPPORTED = 0x400;
            const EXPOSE_TAGBITS = 0x800;
            const RESTORER = 0x0400_0000;
            const ONSTACK = 0x0800_0000;
            const RESTART = 0x1000_0000;
            const NODEFER = 0x4000_0000;
            const RESETHAND = 0x8000_0000;
        }
    }
}

pub use bits::SaFlags;

/// `SIG_DFL`
pub const SIG_DFL: u64 = 0;
/// `SIG_IGN`
pub const SIG_IGN: u64 = 1;

/// What a signal does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SigAction {
    /// `SIG_DFL`, `SIG_IGN` or an address.
    pub handler: u64,
    /// Flags.
    pub flags: SaFlags,
    /// Where the handler returns to.
    pub restorer: u64,
    /// Blocked while the handler runs.
    pub mask: SigSet,
}

impl SigAction {
    /// Whether a signal with this action is thrown away (`sig_handler_ignored`).
    pub fn ignores(&self, signo: i32) -> bool {
        self.handler == SIG_IGN || (self.handler == SIG_DFL && SigSet::IGNORE.contains(signo))
    }
}

/// The dispositions of a thread group (`struct sighand_struct`).
pub struct Sighand {
    actions: Mutex<[SigAction; NSIG as usize]>,
}

impl Sighand {
    /// All default.
    pub fn new() -> Arc<Sighand> {
        Arc::new(Sighand { actions: Mutex::new([SigAction::default(); NSIG as usize]) })
    }

    /// A copy, as fork makes it. `clear`: `CLONE_CLEAR_SIGHAND`, only what is ignored stays.
    pub fn fork(&self, clear: bool) -> Arc<Sighand> {
        let mut actions = *self.actions.lock();
        if clear {
            reset(&mut actions);
        }
        Arc::new(Sighand { actions: Mutex::new(actions) })
    }

    /// What a signal does.
    pub fn get(&self, signo: i32) -> SigAction {
        self.actions.lock().get(signo.wrapping_sub(1) as usize).copied().unwrap_or_default()
    }

    /// Changes what a signal does.
    pub fn set(&self, signo: i32, action: SigAction) {
        if let Some(slot) = self.actions.lock().get_mut(signo.wrapping_sub(1) as usize) {
            *slot = action;
        }
    }

    /// Handlers are gone with the old program; what was ignored stays so (`flush_signal_handlers`).
    pub fn reset(&self) {
        reset(&mut self.actions.lock());
    }

    /// Which signals have `SIG_IGN`, and which a handler (/proc/PID/status).
    pub fn ignored_and_caught(&self) -> (SigSet, SigSet) {
        let (mut ignored, mut caught) = (SigSet::EMPTY, SigSet::EMPTY);
        for (signo, action) in (1..).zip(self.actions.lock().iter()) {
            match action.handler {
                SIG_DFL => {}
                SIG_IGN => ignored.insert(signo),
                _ => caught.insert(signo),
            }
        }
        (ignored, caught)
    }
}

fn reset(actions: &mut [SigAction; NSIG as usize]) {
    for action in actions {
        let handler = if action.handler == SIG_IGN { SIG_IGN } else { SIG_DFL };
        *action = SigAction { handler, ..SigAction::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exec_keeps_what_is_ignored() {
        let table = Sighand::new();
        table.set(10, SigAction { handler: 0x1000, mask: SigSet(7), ..SigAction::default() });
        table.set(12, SigAction { handler: SIG_IGN, mask: SigSet(7), ..SigAction::default() });
        assert_eq!(table.ignored_and_caught(), (SigSet::of(12), SigSet::of(10)));
        table.reset();
        assert_eq!(table.get(10), SigAction::default());
        assert_eq!(table.get(12), SigAction { handler: SIG_IGN, ..SigAction::default() });
        assert_eq!(table.get(0), SigAction::default());
    }
}
