//! One array of semaphores: its values, who waits for them, and what is undone at exit.
//!
//! Knows no tasks and sleeps for nobody: who must be woken is added to a list that the caller works
//! through without the lock.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};

use abi::Errno;
use abi::ipc::SemBuf;

use crate::ipc::ids::{Object, Perm};
use crate::ipc::seconds;
use crate::kernel::Sleeper;
use crate::kmem::KernelMemory;

/// Largest value of a semaphore (`SEMVMX`).
pub const SEMVMX: i32 = 32767;
/// Largest adjustment at exit (`SEMAEM`).
pub const SEMAEM: i32 = SEMVMX;

/// One semaphore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sem {
    /// The value.
    pub value: i32,
    /// The process that changed it last (`GETPID`).
    pub pid: i32,
}

/// A task that waits, and what came of it.
pub struct Waiter {
    result: OnceLock<Result<(), Errno>>,
    sleeper: Arc<Sleeper>,
}

impl Waiter {
    /// Somebody who sleeps on `sleeper`.
    pub fn new(sleeper: Arc<Sleeper>) -> Arc<Waiter> {
        Arc::new(Waiter { result: OnceLock::new(), sleeper })
    }

    /// What came of the operation, once it is over.
    pub fn result(&self) -> Option<Result<(), Errno>> {
        self.result.get().copied()
    }
}

/// Whom to wake, once the lock is released.
#[derive(Default)]
#[must_use = "they sleep on otherwise"]
pub struct Wakeups(Vec<Arc<Waiter>>);

impl Wakeups {
    fn add(&mut self, waiter: Arc<Waiter>, result: Result<(), Errno>) {
        // Nobody else decides: a waiter is in one queue, and was just taken out of it.
        let _ = waiter.result.set(result);
        self.0.push(waiter);
    }

    /// Wakes them.
    pub fn send(self) {
        for waiter in self.0 {
            waiter.sleeper.unpark();
        }
    }
}

/// What semop(2) is to do, all at once.
#[derive(Clone, Debug)]
pub struct Operation {
    /// The operations, which are of semaphores that exist.
    pub ops: Vec<SemBuf>,
    /// Who asks.
    pub pid: i32,
    /// Whose adjustments change with `SEM_UNDO`.
    pub undo: u64,
}

impl Operation {
    fn alters(&self) -> bool {
        self.ops.iter().any(|op| op.op != 0)
    }

    fn is_complex(&self) -> bool {
        self.ops.len() > 1
    }
}

fn has(op: &SemBuf, flag: i32) -> bool {
    i32::from(op.flags) & flag != 0
}

struct Pending {
    operation: Operation,
    /// Which of the operations it waits for.
    blocking: usize,
    waiter: Arc<Waiter>,
}

/// The adjustments that one process has to come.
pub struct Undo {
    adjust: Vec<i16>,
    _memory: KernelMemory,
}

impl Undo {
    /// None so far, for an array of so many semaphores.
    pub fn new(nsems: usize, memory: KernelMemory) -> Undo {
        Undo { adjust: vec![0; nsems], _memory: memory }
    }
}

/// `struct sem_array`
pub struct Array {
    perm: Perm,
    sems: Vec<Sem>,
    otime: i64,
    ctime: i64,
    undo: HashMap<u64, Undo>,
    /// Who waits for zeros only: they change nothing.
    constant: Vec<Pending>,
    /// Who would change something, in the order in which they came.
    alter: VecDeque<Pending>,
    /// Waiters with more than one operation.
    complex: usize,
    _memory: KernelMemory,
}

impl Object for Array {
    fn perm(&self) -> &Perm {
        &self.perm
    }
    fn perm_mut(&mut self) -> &mut Perm {
        &mut self.perm
    }
}

impl Array {
    /// All zero.
    pub fn new(perm: Perm, nsems: usize, memory: KernelMemory) -> Array {
        Array {
            perm,
            sems: vec![Sem::default(); nsems],
            otime: 0,
            ctime: seconds(),
            undo: HashMap::new(),
            constant: Vec::new(),
            alter: VecDeque::new(),
            complex: 0,
            _memory: memory,
        }
    }

    /// The semaphores.
    pub fn sems(&self) -> &[Sem] {
        &self.sems
    }

    /// When semop(2) last did something, and when it was last changed otherwise.
    pub fn times(&self) -> (i64, i64) {
        (self.otime, self.ctime)
    }

    /// It was changed now.
    pub fn touch(&mut self) {
        self.ctime = seconds();
    }

    /// Whether adjustments of `undo` are kept already.
    pub fn has_undo(&self, undo: u64) -> bool {
        self.undo.contains_key(&undo)
    }

    /// Keeps adjustments from now on.
    pub fn add_undo(&mut self, undo: u64, adjust: Undo) {
        self.undo.insert(undo, adjust);
    }

    /// Does all operations, and what others waited for; or queues the caller. `EAGAIN`, `ERANGE`
    pub fn operate(
        &mut self,
        operation: Operation,
        waiter: &Arc<Waiter>,
        wakeups: &mut Wakeups,
    ) -> Result<bool, Errno> {
        match attempt(&mut self.sems, &mut self.undo, &operation)? {
            None => {
                self.otime = seconds();
                if operation.alters() {
                    self.changed(Some(&operation.ops), wakeups);
                }
                Ok(true)
            }
            Some(blocking) => {
                self.complex += usize::from(operation.is_complex());
                let alters = operation.alters();
                let pending = Pending { operation, blocking, waiter: waiter.clone() };
                match alters {
                    true => self.alter.push_back(pending),
                    false => self.constant.push(pending),
                }
                Ok(false)
            }
        }
    }

    /// Takes somebody out of the queues who does not wait any longer.
    pub fn forget(&mut self, waiter: &Arc<Waiter>) {
        let is_it = |pending: &Pending| Arc::ptr_eq(&pending.waiter, waiter);
        let found = match self.alter.iter().position(is_it) {
            Some(at) => self.alter.remove(at),
            None => self.constant.iter().position(is_it).map(|at| self.constant.remove(at)),
        };
        if let Some(pending) = found {
            self.complex -= usize::from(pending.operation.is_complex());
        }
    }

    /// Values have changed, those of `ops` or any: lets go who can go on (`do_smart_update`).
    fn changed(&mut self, ops: Option<&[SemBuf]>, wakeups: &mut Wakeups) {
        let mut completed = self.zeros(ops, wakeups);
        let mut at = 0;
        while at < self.alter.len() {
            let Some(pending) = self.alter.get_mut(at) else { break };
            let result = match attempt(&mut self.sems, &mut self.undo, &pending.operation) {
                Ok(Some(blocking)) => {
                    pending.blocking = blocking;
                    at += 1;
                    continue;
                }
                Ok(None) => Ok(()),
                Err(errno) => Err(errno),
            };
            // With several operations at once about, those before may be able to go on as well.
            let restart = result.is_ok() && self.complex > 0;
            let Some(pending) = self.alter.remove(at) else { break };
            self.complex -= usize::from(pending.operation.is_complex());
            if result.is_ok() {
                completed = true;
                self.zeros(Some(&pending.operation.ops), wakeups);
            }
            wakeups.add(pending.waiter, result);
            if restart {
                at = 0;
            }
        }
        if completed {
            self.otime = seconds();
        }
    }

    /// Lets go who waited for zeros, if one of the changed values is zero. Whether there was any.
    fn zeros(&mut self, ops: Option<&[SemBuf]>, wakeups: &mut Wakeups) -> bool {
        let zero = |num: usize| self.sems.get(num).is_some_and(|sem| sem.value == 0);
        let any = match ops {
            Some(ops) => ops.iter().any(|op| zero(usize::from(op.num))),
            None => (0..self.sems.len()).any(zero),
        };
        if !any || self.constant.is_empty() {
            return false;
        }
        let mut completed = false;
        for mut pending in std::mem::take(&mut self.constant) {
            match attempt(&mut self.sems, &mut self.undo, &pending.operation) {
                Ok(Some(blocking)) => {
                    pending.blocking = blocking;
                    self.constant.push(pending);
                }
                done => {
                    completed |= done.is_ok();
                    self.complex -= usize::from(pending.operation.is_complex());
                    wakeups.add(pending.waiter, done.map(|_| ()));
                }
            }
        }
        completed
    }

    /// How many tasks wait for semaphore `num` to become zero, or else to grow (`GETZCNT`, `GETNCNT`):
    /// each waits for one only, the first that it cannot pass.
    pub fn waiting(&self, num: usize, zero: bool) -> usize {
        let waits = |pending: &&Pending| {
            let op = pending.operation.ops.get(pending.blocking);
            op.is_some_and(|op| {
                usize::from(op.num) == num && if zero { op.op == 0 } else { op.op < 0 }
            })
        };
        self.constant.iter().filter(waits).count() + self.alter.iter().filter(waits).count()
    }

    /// `SETVAL`, of a semaphore and a value that there is.
    pub fn set(&mut self, num: usize, value: i32, pid: i32, wakeups: &mut Wakeups) {
        for undo in self.undo.values_mut() {
            if let Some(adjust) = undo.adjust.get_mut(num) {
                *adjust = 0;
            }
        }
        if let Some(sem) = self.sems.get_mut(num) {
            *sem = Sem { value, pid };
        }
        self.touch();
        self.changed(None, wakeups);
    }

    /// `SETALL`, with as many values as there are semaphores.
    pub fn set_all(&mut self, values: &[u16], pid: i32, wakeups: &mut Wakeups) {
        for undo in self.undo.values_mut() {
            undo.adjust.fill(0);
        }
        for (sem, &value) in self.sems.iter_mut().zip(values) {
            *sem = Sem { value: value.into(), pid };
        }
        self.touch();
        self.changed(None, wakeups);
    }

    /// A process is gone: does what is undone then (`exit_sem`). Values stay in their bounds.
    pub fn exit(&mut self, undo: u64, pid: i32, wakeups: &mut Wakeups) {
        let Some(undo) = self.undo.remove(&undo) else { return };
        for (sem, &adjust) in self.sems.iter_mut().zip(&undo.adjust) {
            if adjust != 0 {
                sem.value = (sem.value + i32::from(adjust)).clamp(0, SEMVMX);
                sem.pid = pid;
            }
        }
        self.otime = seconds();
        self.changed(None, wakeups);
    }

    /// It is removed: nobody waits any more.
    pub fn remove(self, wakeups: &mut Wakeups) {
        for pending in self.constant.into_iter().chain(self.alter) {
            wakeups.add(pending.waiter, Err(Errno::EIDRM));
        }
    }
}

/// `perform_atomic_semop`: does all operations or none. The number of the one that has to wait if
/// there is one; `EAGAIN` if that one does not want to, `ERANGE` for values out of bounds.
fn attempt(
    sems: &mut [Sem],
    undo: &mut HashMap<u64, Undo>,
    operation: &Operation,
) -> Result<Option<usize>, Errno> {
    let mut adjust = undo.get_mut(&operation.undo).map(|undo| &mut undo.adjust);
    let mut done = 0;
    let mut outcome = Ok(None);
    for (at, op) in operation.ops.iter().enumerate() {
        let num = usize::from(op.num);
        let Some(sem) = sems.get_mut(num) else {
            outcome = Err(Errno::EFBIG);
            break;
        };
        let value = sem.value + i32::from(op.op);
        if op.op == 0 && sem.value != 0 || value < 0 {
            let nowait = has(op, libc::IPC_NOWAIT);
            outcome = if nowait { Err(Errno::EAGAIN) } else { Ok(Some(at)) };
            break;
        }
        if value > SEMVMX {
            outcome = Err(Errno::ERANGE);
            break;
        }
        if has(op, libc::SEM_UNDO)
            && let Some(adjust) = adjust.as_mut().and_then(|adjust| adjust.get_mut(num))
        {
            let Ok(new) = i16::try_from(i32::from(*adjust) - i32::from(op.op)) else {
                outcome = Err(Errno::ERANGE);
                break;
            };
            *adjust = new;
        }
        sem.value = value;
        done = at + 1;
    }
    if outcome == Ok(None) {
        for op in &operation.ops {
            if let Some(sem) = sems.get_mut(usize::from(op.num)) {
                sem.pid = operation.pid;
            }
        }
        return outcome;
    }
    for op in operation.ops.iter().take(done) {
        let num = usize::from(op.num);
        if let Some(sem) = sems.get_mut(num) {
            sem.value -= i32::from(op.op);
        }
        if has(op, libc::SEM_UNDO)
            && let Some(adjust) = adjust.as_mut().and_then(|adjust| adjust.get_mut(num))
        {
            *adjust = adjust.wrapping_add(op.op);
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::ids::Perm;
    use crate::kmem;
    use proptest::prelude::*;

    fn array(values: &[i32]) -> Array {
        let perm = Perm { id: 0, key: 0, uid: 0, gid: 0, cuid: 0, cgid: 0, mode: 0, seq: 0 };
        let mut array = Array::new(perm, values.len(), kmem::charge(1).unwrap());
        for (sem, &value) in array.sems.iter_mut().zip(values) {
            sem.value = value;
        }
        array
    }

    fn op(num: u16, op: i16) -> SemBuf {
        SemBuf { num, op, flags: 0 }
    }

    fn flagged(num: u16, op: i16, flags: i32) -> SemBuf {
        SemBuf { num, op, flags: flags as i16 }
    }

    /// Whether it was done at once, who waits otherwise, and how many it let go.
    fn run(array: &mut Array, ops: &[SemBuf]) -> Result<(bool, Arc<Waiter>, usize), Errno> {
        let waiter = Waiter::new(Arc::default());
        let mut wakeups = Wakeups::default();
        let operation = Operation { ops: ops.to_vec(), pid: 1, undo: 1 };
        let done = array.operate(operation, &waiter, &mut wakeups)?;
        Ok((done, waiter, wakeups.0.len()))
    }

    fn values(array: &Array) -> Vec<i32> {
        array.sems.iter().map(|sem| sem.value).collect()
    }

    #[test]
    fn all_or_nothing() {
        let mut a = array(&[1, 0, 5]);
        let (done, waiter, _) = run(&mut a, &[op(0, -1), op(2, 3), op(1, -1)]).unwrap();
        assert!(!done && waiter.result().is_none());
        assert_eq!((values(&a), a.waiting(1, false), a.waiting(0, false)), (vec![1, 0, 5], 1, 0));
        assert_eq!(run(&mut a, &[op(1, 1)]).unwrap().2, 1);
        assert_eq!((values(&a), waiter.result()), (vec![0, 0, 8], Some(Ok(()))));
        assert_eq!(a.complex, 0);
    }

    #[test]
    fn operations_on_one_semaphore_follow_each_other() {
        let mut a = array(&[0]);
        assert!(run(&mut a, &[op(0, 0), op(0, 2), op(0, -1)]).unwrap().0);
        assert_eq!(values(&a), [1]);
        let refused = run(&mut a, &[op(0, -1), op(0, 0), flagged(0, -1, libc::IPC_NOWAIT)]);
        assert_eq!(refused.err(), Some(Errno::EAGAIN));
        assert_eq!(run(&mut a, &[op(0, 32767)]).err(), Some(Errno::ERANGE));
        assert_eq!(values(&a), [1]);
    }

    #[test]
    fn who_came_first_goes_first_unless_he_cannot() {
        let mut a = array(&[0]);
        let big = run(&mut a, &[op(0, -3)]).unwrap().1;
        let small = run(&mut a, &[op(0, -1)]).unwrap().1;
        let also = run(&mut a, &[op(0, -1)]).unwrap().1;
        let mut wakeups = Wakeups::default();
        a.set(0, 1, 9, &mut wakeups);
        assert!(big.result().is_none() && small.result().is_some() && also.result().is_none());
        a.set(0, 3, 9, &mut wakeups);
        assert!(big.result().is_some() && also.result().is_none());
        assert_eq!((values(&a), a.sems[0].pid), (vec![0], 1));
        a.forget(&also);
        assert!(a.alter.is_empty());
    }

    #[test]
    fn a_zero_in_passing_counts() {
        let mut a = array(&[1]);
        let zero = run(&mut a, &[op(0, 0)]).unwrap().1;
        // Who waits for zeros comes before who would change them again.
        let taker = run(&mut a, &[op(0, -2)]).unwrap().1;
        assert_eq!(a.waiting(0, true), 1);
        assert_eq!(run(&mut a, &[op(0, 1)]).unwrap().2, 2);
        assert!(zero.result().is_some() && taker.result().is_some());
    }

    #[test]
    fn exit_undoes_within_bounds() {
        let mut a = array(&[5, 0]);
        a.add_undo(1, Undo::new(2, kmem::charge(1).unwrap()));
        run(&mut a, &[flagged(0, -4, libc::SEM_UNDO), flagged(1, 9, libc::SEM_UNDO)]).unwrap();
        assert_eq!(values(&a), [1, 9]);
        // Not enough is left to take all of it back.
        run(&mut a, &[op(1, -6)]).unwrap();
        let waiter = run(&mut a, &[op(0, -5)]).unwrap().1;
        let mut wakeups = Wakeups::default();
        a.exit(1, 77, &mut wakeups);
        assert_eq!((values(&a), waiter.result()), (vec![0, 0], Some(Ok(()))));
        assert_eq!(a.sems[1].pid, 77);
        assert!(!a.has_undo(1));
    }

    #[test]
    fn adjustments_have_bounds_and_are_forgotten() {
        let mut a = array(&[0, 0]);
        a.add_undo(1, Undo::new(2, kmem::charge(1).unwrap()));
        run(&mut a, &[flagged(0, 32767, libc::SEM_UNDO)]).unwrap();
        run(&mut a, &[op(0, -32767)]).unwrap();
        assert!(run(&mut a, &[flagged(0, 1, libc::SEM_UNDO)]).is_ok());
        let past = run(&mut a, &[op(0, 5), flagged(0, 1, libc::SEM_UNDO)]);
        assert_eq!(past.err(), Some(Errno::ERANGE));
        assert_eq!(values(&a), [1, 0]);
        let mut wakeups = Wakeups::default();
        a.set(0, 3, 1, &mut wakeups);
        a.exit(1, 1, &mut wakeups);
        assert_eq!(values(&a), [3, 0]);
    }

    #[test]
    fn removal_ends_all_waits() {
        let mut a = array(&[1]);
        let waiters = [run(&mut a, &[op(0, 0)]).unwrap().1, run(&mut a, &[op(0, -2)]).unwrap().1];
        let mut wakeups = Wakeups::default();
        a.remove(&mut wakeups);
        assert!(waiters.iter().all(|w| w.result() == Some(Err(Errno::EIDRM))));
    }

    proptest! {
        /// Nobody waits who could go on, and values stay in their bounds.
        #[test]
        fn nobody_is_forgotten(
            all in prop::collection::vec(prop::collection::vec((0..3u16, -3..4i16), 1..4), 1..40)
        ) {
            let mut a = array(&[0, 1, 2]);
            for ops in all {
                let ops: Vec<SemBuf> = ops.into_iter().map(|(num, by)| op(num, by)).collect();
                let _ = run(&mut a, &ops);
                prop_assert!(values(&a).iter().all(|v| (0..=SEMVMX).contains(v)));
                let waiting: Vec<Operation> = a.constant.iter().chain(&a.alter)
                    .map(|pending| pending.operation.clone()).collect();
                let complex = waiting.iter().filter(|w| w.is_complex()).count();
                prop_assert_eq!(a.complex, complex);
                for operation in waiting {
                    let before = values(&a);
                    let outcome = attempt(&mut a.sems, &mut a.undo, &operation);
                    prop_assert!(matches!(outcome, Ok(Some(_))));
                    prop_assert_eq!(values(&a), before);
                }
            }
        }
    }
}
