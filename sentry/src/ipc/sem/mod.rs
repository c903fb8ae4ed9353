//! Semaphores: semget(2), semop(2), semctl(2) (`ipc/sem.c`).
//!
//! [`array`] is one array: what an operation does, who waits, who goes on. Here are the arrays of a
//! sandbox, waiting, and the lists of processes of what is undone when they end.
//!
//! Lock order: [`SemNamespace`]'s lock -> kernel memory. Nobody is woken with it held.

mod array;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::Errno;
use abi::ipc::{IpcPerm, SemBuf, SemInfo, SemidDs};
use parking_lot::Mutex;

use super::current_tgid;
use super::ids::{Get, IPCMNI, Ids, Object, Perm, S_IRUGO, S_IWUGO};
use crate::kernel::{Credentials, Task};
use crate::kmem;
use array::{Array, Operation, SEMAEM, SEMVMX, Sem, Undo, Waiter, Wakeups};

/// What an array costs beside its semaphores.
const ARRAY: usize = 512;
/// What a semaphore costs.
const SEM: usize = size_of::<Sem>();
/// What somebody who waits costs, beside his operations.
const WAITER: usize = 256;
/// Most operations that one call may ever ask for, and semaphores in an array.
const MOST: u32 = 1 << 16;
/// What Linux says that an adjustment takes (`SEMUSZ`).
const SEMUSZ: i32 = 20;

/// `/proc/sys/kernel/sem`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names are Linux's.
pub struct Settings {
    pub semmsl: u32,
    pub semmns: u32,
    pub semopm: u32,
    pub semmni: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { semmsl: 32_000, semmns: 1_024_000_000, semopm: 500, semmni: 32_000 }
    }
}

#[derive(Default)]
struct State {
    ids: Ids<Array>,
    settings: Settings,
    /// Semaphores in all arrays.
    used: u32,
}

/// All arrays.
#[derive(Default)]
pub struct SemNamespace {
    state: Mutex<State>,
    last_list: AtomicU64,
}

/// What is undone when the last task that shares it ends (`struct sem_undo_list`).
pub struct UndoList {
    namespace: Arc<SemNamespace>,
    id: u64,
    used: AtomicBool,
}

impl Drop for UndoList {
    fn drop(&mut self) {
        if *self.used.get_mut() {
            self.namespace.exit(self.id);
        }
    }
}

/// What GETALL and the like ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query {
    /// `GETVAL`
    Value,
    /// `GETPID`
    Pid,
    /// `GETNCNT`
    WaitingForMore,
    /// `GETZCNT`
    WaitingForZero,
}

impl SemNamespace {
    /// semget(2). `ENOENT`, `EEXIST`, `EACCES`; `EINVAL` for numbers out of bounds or beyond an
    /// existing array's; `ENOSPC`, `ENOMEM`.
    pub fn get(&self, get: &Get<'_>, nsems: i32) -> Result<i32, Errno> {
        let mut st = self.state.lock();
        let nsems = u32::try_from(nsems).ok().filter(|n| *n <= st.settings.semmsl);
        let nsems = nsems.ok_or(Errno::EINVAL)?;
        let enough = |array: &Array| match nsems as usize > array.sems().len() {
            true => Err(Errno::EINVAL),
            false => Ok(()),
        };
        if let Some(id) = st.ids.find(get, enough)? {
            return Ok(id);
        }
        if nsems == 0 {
            return Err(Errno::EINVAL);
        }
        let used = st.used.checked_add(nsems).filter(|used| *used <= st.settings.semmns);
        let used = used.ok_or(Errno::ENOSPC)?;
        let memory = kmem::charge(ARRAY + SEM * nsems as usize).ok_or(Errno::ENOMEM)?;
        let limit = st.settings.semmni;
        let id = st.ids.add(get, limit, |perm| Array::new(perm, nsems as usize, memory))?;
        st.used = used;
        Ok(id)
    }

    /// A list for tasks that share it.
    pub fn new_list(self: &Arc<Self>) -> Arc<UndoList> {
        let id = self.last_list.fetch_add(1, Ordering::Relaxed) + 1;
        Arc::new(UndoList { namespace: self.clone(), id, used: AtomicBool::new(false) })
    }

    /// Most operations of one call.
    pub fn max_operations(&self) -> u32 {
        self.state.lock().settings.semopm
    }

    /// semtimedop(2) of a task; `deadline` on `CLOCK_MONOTONIC`. Blocks.
    ///
    /// # Errors
    /// `EINVAL`, `EFBIG`, `EACCES`, `ENOMEM`, `ERANGE`; `EAGAIN` without waiting or past the deadline;
    /// `EIDRM` when the array is removed; `EINTR`, which restarts nothing.
    pub fn operate(
        self: &Arc<Self>,
        task: &Task,
        id: i32,
        ops: Vec<SemBuf>,
        deadline: Option<u64>,
    ) -> Result<(), Errno> {
        let cred = task.cred();
        let undo = ops.iter().any(|op| i32::from(op.flags) & libc::SEM_UNDO != 0);
        let list = undo.then(|| task.sem_undo_list());
        let alters = ops.iter().any(|op| op.op != 0);
        let last = ops.iter().map(|op| usize::from(op.num)).max().unwrap_or(0);
        let _memory = kmem::charge(WAITER + size_of_val(&ops[..])).ok_or(Errno::ENOMEM)?;
        let waiter = Waiter::new(task.sleeper.clone());
        let mut wakeups = Wakeups::default();
        let done = {
            let mut st = self.state.lock();
            let array = st.ids.get_mut(id)?;
            if let Some(list) = &list {
                list.cover(array)?;
            }
            if last >= array.sems().len() {
                return Err(Errno::EFBIG);
            }
            array.perm().check(&cred, if alters { S_IWUGO } else { S_IRUGO })?;
            let undo = list.as_ref().map_or(0, |list| list.id);
            let operation = Operation { ops, pid: task.group.tgid, undo };
            array.operate(operation, &waiter, &mut wakeups)
        };
        wakeups.send();
        if done? {
            return Ok(());
        }
        self.wait(task, id, &waiter, deadline)
    }

    fn wait(
        &self,
        task: &Task,
        id: i32,
        waiter: &Arc<Waiter>,
        deadline: Option<u64>,
    ) -> Result<(), Errno> {
        loop {
            let slept = task.block(deadline);
            if let Some(result) = waiter.result() {
                return result;
            }
            let Err(errno) = slept else { continue };
            let mut st = self.state.lock();
            // It may have been decided just now.
            if let Some(result) = waiter.result() {
                return result;
            }
            if let Ok(array) = st.ids.get_mut(id) {
                array.forget(waiter);
            }
            return Err(match errno {
                Errno::ETIMEDOUT => Errno::EAGAIN,
                _ => Errno::EINTR,
            });
        }
    }

    /// The last task of a list is gone.
    fn exit(&self, list: u64) {
        let pid = current_tgid();
        let mut wakeups = Wakeups::default();
        for array in self.state.lock().ids.iter_mut() {
            array.exit(list, pid, &mut wakeups);
        }
        wakeups.send();
    }

    /// `IPC_INFO`, or `SEM_INFO` with what is in use; and the highest index in use.
    pub fn info(&self, usage: bool) -> (u32, SemInfo) {
        let st = self.state.lock();
        let Settings { semmsl, semmns, semopm, semmni } = st.settings;
        let (default, ids) = (Settings::default(), st.ids.len() as i32);
        let info = SemInfo {
            semmap: default.semmns as i32,
            semmni: semmni as i32,
            semmns: semmns as i32,
            semmnu: default.semmns as i32,
            semmsl: semmsl as i32,
            semopm: semopm as i32,
            semume: default.semopm as i32,
            semusz: if usage { ids } else { SEMUSZ },
            semvmx: SEMVMX,
            semaem: if usage { st.used as i32 } else { SEMAEM },
        };
        (st.ids.max_index(), info)
    }

    /// `IPC_STAT`. `EINVAL`, `EACCES`
    pub fn stat(&self, id: i32, cred: &Credentials) -> Result<SemidDs, Errno> {
        let st = self.state.lock();
        let array = st.ids.readable(id, cred)?;
        Ok(to_abi(array))
    }

    /// `SEM_STAT`, and `SEM_STAT_ANY` which asks for no permission: the identifier as well.
    pub fn stat_at(
        &self,
        index: i32,
        cred: &Credentials,
        any: bool,
    ) -> Result<(i32, SemidDs), Errno> {
        let st = self.state.lock();
        let array = st.ids.readable_at(index, cred, any)?;
        Ok((array.perm().id, to_abi(array)))
    }

    /// `IPC_SET`. `EINVAL`, `EPERM`
    pub fn set(&self, id: i32, cred: &Credentials, perm: &IpcPerm) -> Result<(), Errno> {
        let mut st = self.state.lock();
        let array = st.ids.controlled(id, cred)?;
        array.perm_mut().update(perm)?;
        array.touch();
        Ok(())
    }

    /// `IPC_RMID`: who waits gets `EIDRM`. `EINVAL`, `EPERM`
    pub fn remove(&self, id: i32, cred: &Credentials) -> Result<(), Errno> {
        let mut wakeups = Wakeups::default();
        {
            let mut st = self.state.lock();
            st.ids.controlled(id, cred)?;
            if let Some(array) = st.ids.remove(id) {
                st.used = st.used.saturating_sub(array.sems().len() as u32);
                array.remove(&mut wakeups);
            }
        }
        wakeups.send();
        Ok(())
    }

    /// What is asked of one semaphore. `EINVAL`, `EACCES`
    pub fn query(&self, id: i32, cred: &Credentials, num: i32, what: Query) -> Result<u64, Errno> {
        let st = self.state.lock();
        let array = st.ids.readable(id, cred)?;
        let num = usize::try_from(num).map_err(|_| Errno::EINVAL)?;
        let sem = array.sems().get(num).ok_or(Errno::EINVAL)?;
        Ok(match what {
            Query::Value => sem.value as u64,
            Query::Pid => sem.pid as u64,
            Query::WaitingForMore => array.waiting(num, false) as u64,
            Query::WaitingForZero => array.waiting(num, true) as u64,
        })
    }

    /// `GETALL`. `EINVAL`, `EACCES`
    pub fn values(&self, id: i32, cred: &Credentials) -> Result<Vec<u16>, Errno> {
        let st = self.state.lock();
        let array = st.ids.readable(id, cred)?;
        Ok(array.sems().iter().map(|sem| sem.value as u16).collect())
    }

    /// How many values `SETALL` takes of a caller. `EINVAL`, `EACCES`
    pub fn count_to_set(&self, id: i32, cred: &Credentials) -> Result<usize, Errno> {
        let st = self.state.lock();
        let array = st.ids.get(id)?;
        array.perm().check(cred, S_IWUGO)?;
        Ok(array.sems().len())
    }

    /// `SETALL`, after [`SemNamespace::count_to_set`]. `ERANGE`; `EIDRM` if it was removed meanwhile.
    pub fn set_values(&self, id: i32, pid: i32, values: &[u16]) -> Result<(), Errno> {
        if values.iter().any(|&value| i32::from(value) > SEMVMX) {
            return Err(Errno::ERANGE);
        }
        let mut wakeups = Wakeups::default();
        {
            let mut st = self.state.lock();
            let array = st.ids.get_mut(id).map_err(|_| Errno::EIDRM)?;
            array.set_all(values, pid, &mut wakeups);
        }
        wakeups.send();
        Ok(())
    }

    /// `SETVAL`. `ERANGE`, `EINVAL`, `EACCES`
    pub fn set_value(
        &self,
        id: i32,
        cred: &Credentials,
        pid: i32,
        num: i32,
        value: i32,
    ) -> Result<(), Errno> {
        if !(0..=SEMVMX).contains(&value) {
            return Err(Errno::ERANGE);
        }
        let mut wakeups = Wakeups::default();
        {
            let mut st = self.state.lock();
            let array = st.ids.get_mut(id)?;
            let num = usize::try_from(num).ok().filter(|num| *num < array.sems().len());
            let num = num.ok_or(Errno::EINVAL)?;
            array.perm().check(cred, S_IWUGO)?;
            array.set(num, value, pid, &mut wakeups);
        }
        wakeups.send();
        Ok(())
    }

    /// The settings now.
    pub fn settings(&self) -> Settings {
        self.state.lock().settings
    }

    /// Changes the settings. `EINVAL` for what is out of bounds.
    pub fn set_settings(&self, new: Settings) -> Result<(), Errno> {
        if new.semmni > IPCMNI || new.semmsl > MOST || new.semopm > MOST {
            return Err(Errno::EINVAL);
        }
        self.state.lock().settings = new;
        Ok(())
    }

    /// `/proc/sysvipc/sem`
    pub fn table(&self) -> String {
        use std::fmt::Write as _;
        let mut out = String::from(
            "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n",
        );
        for array in self.state.lock().ids.iter() {
            let Perm { key, id, mode, uid, gid, cuid, cgid, .. } = *array.perm();
            let (otime, ctime) = array.times();
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "{key:10} {id:10}  {mode:4o} {:10} {uid:5} {gid:5} {cuid:5} {cgid:5} {otime:10} \
                 {ctime:10}",
                array.sems().len(),
            );
        }
        out
    }
}

fn to_abi(array: &Array) -> SemidDs {
    let (otime, ctime) = array.times();
    let nsems = array.sems().len() as u64;
    SemidDs { perm: array.perm().to_abi(), otime, ctime, nsems, ..Default::default() }
}

impl UndoList {
    /// Makes room for adjustments of an array's semaphores. `ENOMEM`
    fn cover(&self, array: &mut Array) -> Result<(), Errno> {
        if array.has_undo(self.id) {
            return Ok(());
        }
        let nsems = array.sems().len();
        let memory = kmem::charge(ARRAY + size_of::<i16>() * nsems).ok_or(Errno::ENOMEM)?;
        array.add_undo(self.id, Undo::new(nsems, memory));
        self.used.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Task {
    /// What is undone when it ends, which it may share (`CLONE_SYSVSEM`).
    fn sem_undo_list(&self) -> Arc<UndoList> {
        let mut list = self.sem_undo.lock();
        list.get_or_insert_with(|| self.kernel.ipc.sem.new_list()).clone()
    }

    /// Another task shares the list from now on.
    pub fn share_sem_undo(&self, with: &Task) {
        *with.sem_undo.lock() = Some(self.sem_undo_list());
    }

    /// Lets go of the list; the last one to do so undoes (`exit_sem`).
    pub fn exit_sem(&self) {
        let list = self.sem_undo.lock().take();
        drop(list);
    }
}
