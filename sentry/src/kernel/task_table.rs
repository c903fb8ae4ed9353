//! All tasks by number (the pid namespace), and the family tree of processes.
//!
//! A number is in use as long as a task, a process group or a session has it.
//!
//! Lock order: the family lock -> the table -> everything of single groups and tasks.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use abi::Errno;
use parking_lot::{Mutex, MutexGuard, RwLock};

use super::session::ProcessGroup;
use super::{Task, ThreadGroup};

/// How many tasks there may be at once at most (`/proc/sys/kernel/threads-max`).
pub const MAX_TASKS: usize = 4096;
/// Numbers are below this (`/proc/sys/kernel/pid_max`).
pub const PID_MAX: i32 = 32768;
/// Where numbers start again after [`PID_MAX`] (`RESERVED_PIDS`).
const RESERVED_PIDS: i32 = 300;

/// The numbering of tasks.
pub struct TaskTable {
    family: Mutex<()>,
    /// How many tasks there may be at once.
    limit: usize,
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    tasks: BTreeMap<i32, Arc<Task>>,
    pgrps: HashMap<i32, Weak<ProcessGroup>>,
    last: i32,
    /// The most tasks there ever were.
    peak: usize,
    /// Init is gone: nobody is born any more.
    closed: bool,
}

impl Inner {
    fn in_use(&self, number: i32) -> bool {
        self.tasks.contains_key(&number)
            || self
                .pgrps
                .values()
                .filter_map(Weak::upgrade)
                .any(|p| (p.id == number || p.session.id == number) && !p.is_empty())
    }
}

impl TaskTable {
    /// A table for at most `limit` tasks at once.
    pub fn new(limit: usize) -> TaskTable {
        TaskTable { family: Mutex::default(), limit, inner: RwLock::default() }
    }

    /// How many tasks there may be at once.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The most tasks there ever were at once.
    pub fn peak(&self) -> usize {
        self.inner.read().peak
    }

    /// `EAGAIN` if there is no room for one more: clone(2) finds out before it copies anything.
    pub fn check_room(&self) -> Result<(), Errno> {
        if self.inner.read().tasks.len() >= self.limit { Err(Errno::EAGAIN) } else { Ok(()) }
    }

    /// The family lock (Linux's `tasklist_lock`): parents, children, process groups, sessions and
    /// exits change only under it.
    pub fn family(&self) -> MutexGuard<'_, ()> {
        self.family.lock()
    }

    /// Makes a task with the next free number. `EAGAIN` when there are too many, `ENOMEM` when init
    /// is gone (pid_namespaces(7)). With `wanted`, it gets that number: `EEXIST` if it is in use,
    /// `EINVAL` if it is no number for a task.
    pub fn insert(
        &self,
        wanted: Option<i32>,
        make: impl FnOnce(i32) -> Arc<Task>,
    ) -> Result<Arc<Task>, Errno> {
        let mut inner = self.inner.write();
        if inner.closed {
            return Err(Errno::ENOMEM);
        }
        if inner.tasks.len() >= self.limit {
            return Err(Errno::EAGAIN);
        }
        let tid = match wanted {
            Some(tid) if !(1..PID_MAX).contains(&tid) => return Err(Errno::EINVAL),
            Some(tid) if inner.in_use(tid) => return Err(Errno::EEXIST),
            Some(tid) => tid,
            None => {
                let mut tid = inner.last;
                loop {
                    tid = if tid + 1 >= PID_MAX { RESERVED_PIDS } else { tid + 1 };
                    if !inner.in_use(tid) {
                        break;
                    }
                }
                inner.last = tid;
                tid
            }
        };
        let task = make(tid);
        inner.tasks.insert(tid, task.clone());
        inner.peak = inner.peak.max(inner.tasks.len());
        Ok(task)
    }

    /// Forgets a task.
    pub fn remove(&self, tid: i32) {
        self.inner.write().tasks.remove(&tid);
    }

    /// `task` takes over the number `to` from whoever has it (execve in a thread); returns that one.
    pub(super) fn renumber(&self, task: &Arc<Task>, to: i32) -> Option<Arc<Task>> {
        let mut inner = self.inner.write();
        inner.tasks.remove(&task.tid());
        task.set_tid(to);
        inner.tasks.insert(to, task.clone())
    }

    /// The task with this number.
    pub fn get(&self, tid: i32) -> Option<Arc<Task>> {
        self.inner.read().tasks.get(&tid).cloned()
    }

    /// The thread group with this number.
    pub fn group(&self, tgid: i32) -> Option<Arc<ThreadGroup>> {
        self.get(tgid).map(|t| t.group.clone()).filter(|g| g.tgid == tgid)
    }

    /// The process group with this number.
    pub fn pgrp(&self, id: i32) -> Option<Arc<ProcessGroup>> {
        let pgrp = self.inner.read().pgrps.get(&id).and_then(Weak::upgrade);
        pgrp.filter(|p| !p.is_empty())
    }

    /// Makes a process group known.
    pub(super) fn add_pgrp(&self, pgrp: &Arc<ProcessGroup>) {
        let mut inner = self.inner.write();
        if inner.pgrps.len() == inner.pgrps.capacity() {
            inner.pgrps.retain(|_, p| p.strong_count() > 0);
        }
        inner.pgrps.insert(pgrp.id, Arc::downgrade(pgrp));
    }

    /// All tasks, by number.
    pub fn all(&self) -> Vec<Arc<Task>> {
        self.inner.read().tasks.values().cloned().collect()
    }

    /// All processes, by number.
    pub fn groups(&self) -> Vec<Arc<ThreadGroup>> {
        let inner = self.inner.read();
        inner.tasks.values().filter(|t| t.is_leader()).map(|t| t.group.clone()).collect()
    }

    /// How many tasks there are, and the last number given out.
    pub fn count(&self) -> (usize, i32) {
        let inner = self.inner.read();
        (inner.tasks.len(), inner.last)
    }

    /// No task is made any more.
    pub(super) fn close(&self) {
        self.inner.write().closed = true;
    }
}
