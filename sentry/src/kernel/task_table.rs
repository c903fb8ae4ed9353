//! All tasks by number (the pid namespace).

use std::collections::BTreeMap;
use std::sync::Arc;

use abi::Errno;
use parking_lot::RwLock;

use super::{Task, ThreadGroup};

/// How many tasks there may be at once (`/proc/sys/kernel/threads-max`).
pub const MAX_TASKS: usize = 4096;
/// Numbers are below this (`/proc/sys/kernel/pid_max`).
pub const PID_MAX: i32 = 32768;

/// The numbering of tasks.
#[derive(Default)]
pub struct TaskTable {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    tasks: BTreeMap<i32, Arc<Task>>,
    last: i32,
}

impl TaskTable {
    /// Makes a task with the next free number. `EAGAIN` when there are too many.
    pub fn insert(&self, make: impl FnOnce(i32) -> Arc<Task>) -> Result<Arc<Task>, Errno> {
        let mut inner = self.inner.write();
        if inner.tasks.len() >= MAX_TASKS {
            return Err(Errno::EAGAIN);
        }
        let mut tid = inner.last;
        loop {
            tid = if tid + 1 >= PID_MAX { 300 } else { tid + 1 };
            if !inner.tasks.contains_key(&tid) {
                break;
            }
        }
        inner.last = tid;
        let task = make(tid);
        inner.tasks.insert(tid, task.clone());
        Ok(task)
    }

    /// Forgets a task.
    pub fn remove(&self, tid: i32) {
        self.inner.write().tasks.remove(&tid);
    }

    /// The task with this number.
    pub fn get(&self, tid: i32) -> Option<Arc<Task>> {
        self.inner.read().tasks.get(&tid).cloned()
    }

    /// The thread group with this number.
    pub fn group(&self, tgid: i32) -> Option<Arc<ThreadGroup>> {
        self.get(tgid).map(|t| t.group.clone()).filter(|g| g.tgid == tgid)
    }

    /// All tasks, by number.
    pub fn all(&self) -> Vec<Arc<Task>> {
        self.inner.read().tasks.values().cloned().collect()
    }
}
