//! Chains of filters, and how tasks come to have them (`seccomp_attach_filter`,
//! `seccomp_sync_threads`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use abi::Errno;

use super::bpf::{Data, Insn, Program};
use super::notifier::Notifier;
use super::{ARCH, Action, Mode};
use crate::kernel::{Caps, Current, Task};
use crate::kmem::{self, KernelMemory};

#[allow(missing_docs)] // The names are Linux's.
mod bits {
    use bitflags::bitflags;

    bitflags! {
        /// `SECCOMP_FILTER_FLAG_*`
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct FilterFlags: u64 {
            const TSYNC = 1;
            const LOG = 2;
            const SPEC_ALLOW = 4;
            const NEW_LISTENER = 8;
            const TSYNC_ESRCH = 16;
            const WAIT_KILLABLE_RECV = 32;
        }
    }
}

pub use bits::FilterFlags;

/// Most instructions that one call may have to run through (`MAX_INSNS_PER_PATH`).
const MAX_INSNS_PER_PATH: usize = (1 << 18) / 8;
/// What each filter costs on top of its instructions there.
const FILTER_PENALTY: usize = 4;
/// Most instructions that all filters of the sandbox may have together: 64 MiB.
const MAX_INSNS: usize = 8 << 20;

static INSNS: AtomicUsize = AtomicUsize::new(0);

/// A filter's share of [`MAX_INSNS`], and of the sandbox's memory.
#[derive(Debug)]
struct Charge {
    insns: usize,
    _memory: KernelMemory,
}

impl Charge {
    fn new(insns: usize) -> Result<Charge, Errno> {
        let bytes = insns * size_of::<Insn>() + size_of::<Filter>();
        let memory = kmem::charge(bytes).ok_or(Errno::ENOMEM)?;
        let charge = Charge { insns, _memory: memory };
        if INSNS.fetch_add(insns, Ordering::Relaxed).saturating_add(insns) > MAX_INSNS {
            return Err(Errno::ENOMEM);
        }
        Ok(charge)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        INSNS.fetch_sub(self.insns, Ordering::Relaxed);
    }
}

/// How many call numbers have a bit in [`Filter::allowed`].
const NUMBERS: usize = 512;

/// One filter on top of older ones.
#[derive(Debug)]
pub struct Filter {
    program: Program,
    prev: Option<Arc<Filter>>,
    /// Filters in the chain.
    count: u32,
    /// What the chain counts towards [`MAX_INSNS_PER_PATH`] for the next filter.
    cost: usize,
    /// One bit for each call number: whether the whole chain allows it whatever the arguments are.
    allowed: [u64; NUMBERS / 64],
    log: bool,
    wait_killable: bool,
    notifier: Option<Arc<Notifier>>,
    _charge: Charge,
}

/// A filter that nobody has yet.
pub struct Prepared {
    program: Program,
    charge: Charge,
    log: bool,
    wait_killable: bool,
    notifier: Option<Arc<Notifier>>,
}

impl Prepared {
    /// Of a program. `ENOMEM` when there are too many.
    pub fn new(program: Program, flags: FilterFlags) -> Result<Prepared, Errno> {
        Ok(Prepared {
            charge: Charge::new(program.len())?,
            program,
            log: flags.contains(FilterFlags::LOG),
            wait_killable: flags.contains(FilterFlags::WAIT_KILLABLE_RECV),
            notifier: None,
        })
    }

    /// Gives it a listener's other end.
    pub fn set_notifier(&mut self, notifier: Arc<Notifier>) {
        self.notifier = Some(notifier);
    }

    /// As a chain of its own.
    pub fn alone(self) -> Result<Arc<Filter>, Errno> {
        self.onto(None)
    }

    /// On top of `prev`. `ENOMEM` when the chain gets too long.
    fn onto(self, prev: Option<Arc<Filter>>) -> Result<Arc<Filter>, Errno> {
        let own = self.program.translated_len();
        let below = prev.as_ref().map_or(0, |prev| prev.cost);
        if own.saturating_add(below) > MAX_INSNS_PER_PATH {
            return Err(Errno::ENOMEM);
        }
        let mut allowed = prev.as_ref().map_or([u64::MAX; _], |prev| prev.allowed);
        for (word, bits) in (0i32..).zip(&mut allowed) {
            for bit in 0..64i32 {
                // What an older filter says about a call that it does not plainly allow counts.
                if *bits >> bit & 1 == 1
                    && self.program.constant(word * 64 + bit, ARCH) != Some(Action::Allow.value())
                {
                    *bits &= !(1 << bit);
                }
            }
        }
        Ok(Arc::new(Filter {
            program: self.program,
            count: prev.as_ref().map_or(0, |prev| prev.count).saturating_add(1),
            cost: below.saturating_add(own).saturating_add(FILTER_PENALTY),
            prev,
            allowed,
            log: self.log,
            wait_killable: self.wait_killable,
            notifier: self.notifier,
            _charge: self.charge,
        }))
    }
}

impl Filter {
    /// How many filters the chain has.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Whether the chain allows every call with that number (`seccomp_cache_check_allow`).
    pub(super) fn plainly_allows(&self, nr: u64) -> bool {
        let Ok(nr) = usize::try_from(nr) else { return false };
        self.allowed.get(nr / 64).is_some_and(|bits| bits >> (nr % 64) & 1 == 1)
    }

    /// Asks all filters; the strictest answer counts, and of equal ones the newest's. With it, the
    /// filter that gave it: none if all of them allow the call (`seccomp_run_filters`).
    pub(super) fn run(self: &Arc<Self>, data: &Data) -> (u32, Option<Arc<Filter>>) {
        let action = |value: u32| (value & libc::SECCOMP_RET_ACTION_FULL) as i32;
        let (mut strictest, mut by) = (Action::Allow.value(), None);
        let mut next = Some(self);
        while let Some(filter) = next {
            let value = filter.program.run(data);
            if action(value) < action(strictest) {
                (strictest, by) = (value, Some(filter));
            }
            next = filter.prev.as_ref();
        }
        (strictest, by.cloned())
    }

    /// `SECCOMP_FILTER_FLAG_LOG`
    pub(super) fn logs(&self) -> bool {
        self.log
    }

    /// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`
    pub(super) fn waits_killable(&self) -> bool {
        self.wait_killable
    }

    /// Its listener's other end.
    pub(super) fn notifier(&self) -> Option<&Arc<Notifier>> {
        self.notifier.as_ref()
    }

    fn ancestors(&self) -> impl Iterator<Item = &Filter> {
        std::iter::successors(Some(self), |filter| filter.prev.as_deref())
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        if let Some(notifier) = &self.notifier {
            notifier.orphan();
        }
        // One after the other: a chain can be longer than a stack is deep.
        let mut next = self.prev.take();
        while let Some(filter) = next {
            next = Arc::into_inner(filter).and_then(|mut filter| filter.prev.take());
        }
    }
}

/// Whether a task in `now` may go to `mode` (`seccomp_may_assign_mode`).
fn may_assign(now: Mode, mode: Mode) -> Result<(), Errno> {
    if now == Mode::Disabled || now == mode { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Strict mode for the calling task, which takes its time-stamp counter away as well. `EINVAL` if it
/// has filters.
pub fn set_strict(cur: &mut Current) -> Result<(), Errno> {
    {
        let _signals = cur.group.signals.lock();
        may_assign(cur.seccomp.mode(), Mode::Strict)?;
        cur.seccomp.set_mode(Mode::Strict);
        cur.task.ids_changed.store(true, Ordering::SeqCst);
    }
    cur.set_tsc(false);
    Ok(())
}

/// `EACCES` for who could fool a set-uid program with a filter.
pub fn may_filter(task: &Task) -> Result<(), Errno> {
    let cred = task.cred();
    if cred.no_new_privs || cred.capable(Caps::SYS_ADMIN) { Ok(()) } else { Err(Errno::EACCES) }
}

/// Puts a filter before the calling task's calls, and with `TSYNC` before all its process's.
///
/// Returns the number of a thread that cannot follow, if there is one; then nothing was done.
/// `EINVAL` in strict mode, `EBUSY` for a second listener, `ENOMEM` for a chain that gets too long,
/// `ESRCH` for a thread that cannot follow with `TSYNC_ESRCH`.
pub fn set_filter(
    cur: &Current,
    prepared: Prepared,
    flags: FilterFlags,
) -> Result<Option<i32>, Errno> {
    let task = &cur.task;
    let others: Vec<Arc<Task>>;
    let mut gone = Vec::new();
    {
        let signals = task.group.signals.lock();
        may_assign(task.seccomp.mode(), Mode::Filter)?;
        let prev = task.seccomp.filter();
        let listens = |filter: &Arc<Filter>| filter.ancestors().any(|f| f.notifier.is_some());
        if prepared.notifier.is_some() && prev.as_ref().is_some_and(listens) {
            return Err(Errno::EBUSY);
        }
        let filter = prepared.onto(prev.clone())?;
        others = match flags.contains(FilterFlags::TSYNC) {
            true => other_threads(task),
            false => Vec::new(),
        };
        if let Some(failed) = others.iter().find(|other| !can_follow(other, prev.as_ref())) {
            let tid = failed.tid();
            drop(signals);
            let esrch = flags.contains(FilterFlags::TSYNC_ESRCH);
            return if esrch { Err(Errno::ESRCH) } else { Ok(Some(tid)) };
        }
        let no_new_privs = task.cred().no_new_privs;
        for other in others.iter().chain([task]) {
            gone.push(other.seccomp.replace(filter.clone()));
            // Or who may not filter set-uid programs has a thread do it that may.
            if no_new_privs {
                other.set_no_new_privs();
            }
            other.seccomp.set_mode(Mode::Filter);
            other.ids_changed.store(true, Ordering::SeqCst);
        }
    }
    drop(gone);
    for other in &others {
        task.recall(other);
    }
    Ok(None)
}

/// Puts a filter before the calls of a task that does not run yet.
pub fn set_first(task: &Task, filter: Arc<Filter>) {
    drop(task.seccomp.replace(filter));
    task.seccomp.set_mode(Mode::Filter);
    task.ids_changed.store(true, Ordering::SeqCst);
}

/// The process's other threads that have not begun to exit. Its signal lock is held.
fn other_threads(task: &Arc<Task>) -> Vec<Arc<Task>> {
    let mut threads = task.group.threads();
    threads.retain(|t| !Arc::ptr_eq(t, task) && !t.signals.lock().exiting);
    threads
}

/// Whether a thread can get the filters of another that has `caller` (`seccomp_can_sync_threads`).
fn can_follow(thread: &Task, caller: Option<&Arc<Filter>>) -> bool {
    match thread.seccomp.mode() {
        Mode::Disabled => true,
        Mode::Filter => match thread.seccomp.filter() {
            None => true,
            Some(own) => {
                caller.is_some_and(|caller| caller.ancestors().any(|f| std::ptr::eq(f, &*own)))
            }
        },
        Mode::Strict | Mode::Dead => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::bpf::code;
    use super::*;

    fn ret(value: u32) -> Insn {
        Insn { code: code::RET_K, jt: 0, jf: 0, k: value }
    }

    /// `value` for call `nr`, else allowed.
    fn one(nr: u32, value: u32) -> Vec<Insn> {
        let load = Insn { code: code::LD_W_ABS, jt: 0, jf: 0, k: 0 };
        let test = Insn { code: code::JEQ_K, jt: 0, jf: 1, k: nr };
        vec![load, test, ret(value), ret(Action::Allow.value())]
    }

    fn onto(prev: Option<Arc<Filter>>, insns: Vec<Insn>) -> Result<Arc<Filter>, Errno> {
        Prepared::new(Program::new(insns).unwrap(), FilterFlags::empty())?.onto(prev)
    }

    #[test]
    fn the_strictest_and_then_the_newest_counts() {
        let values = [(Action::Errno, 1), (Action::Trap, 2), (Action::Trap, 3), (Action::Trace, 4)];
        let mut top = None;
        let mut chain = Vec::new();
        for (action, data) in values {
            top = Some(onto(top, vec![ret(action.value() | data)]).unwrap());
            chain.extend(top.clone());
        }
        let (value, by) = top.unwrap().run(&Data::default());
        assert_eq!(value, Action::Trap.value() | 3);
        assert!(Arc::ptr_eq(&by.unwrap(), &chain[2]));
        let allowing = onto(None, vec![ret(Action::Allow.value() | 7)]).unwrap();
        let (value, by) = allowing.run(&Data::default());
        assert!(value == Action::Allow.value() && by.is_none());
        // An action that does not exist is stricter than most.
        let odd = onto(Some(allowing), vec![ret(0x1_0000)]).unwrap();
        assert_eq!(odd.run(&Data::default()).0, 0x1_0000);
    }

    #[test]
    fn what_any_filter_looks_into_is_not_plainly_allowed() {
        let first = onto(None, one(39, Action::Log.value())).unwrap();
        assert!(first.plainly_allows(40) && !first.plainly_allows(39));
        assert!(!first.plainly_allows(u64::MAX) && !first.plainly_allows(NUMBERS as u64));
        let by_argument =
            vec![Insn { code: code::LD_W_ABS, jt: 0, jf: 0, k: 16 }, ret(Action::Allow.value())];
        let second = onto(Some(first), by_argument).unwrap();
        assert!((0..NUMBERS as u64).all(|nr| !second.plainly_allows(nr)));
    }

    #[test]
    fn chains_end_where_linux_ends_them() {
        let long = vec![ret(Action::Allow.value()); 4095];
        let mut top = None;
        // 4095 returns are 8193 of Linux's instructions.
        for _ in 0..3 {
            top = Some(onto(top, long.clone()).unwrap());
        }
        assert_eq!(onto(top.clone(), long).unwrap_err(), Errno::ENOMEM);
        let mut left = MAX_INSNS_PER_PATH - top.as_ref().map_or(0, |t| t.cost);
        while let Ok(filter) = onto(top.clone(), vec![ret(Action::Allow.value())]) {
            top = Some(filter);
            left = left.saturating_sub(9);
        }
        assert!(left < 5, "{left}");
        assert!(top.is_some_and(|t| t.count() > 800));
    }
}
