//! What each user has in use of what is limited per user: tasks (`RLIMIT_NPROC`), queued signals
//! (`RLIMIT_SIGPENDING`), bytes of message queues (`RLIMIT_MSGQUEUE`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::kmem::{self, KernelMemory};

/// A user's counts.
#[derive(Default)]
pub struct User {
    pending: AtomicU64,
    tasks: AtomicU64,
    msgqueue: AtomicU64,
}

impl User {
    /// Queued signals.
    pub fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }

    /// Tasks.
    pub fn tasks(&self) -> u64 {
        self.tasks.load(Ordering::Relaxed)
    }

    /// Counts one queued signal, unless there are `limit` already or there is no memory.
    pub fn charge_pending(self: &Arc<User>, limit: u64) -> Option<PendingCharge> {
        if self.pending.fetch_add(1, Ordering::Relaxed) >= limit {
            self.pending.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        // Dropping it counts it down again.
        let mut charge = PendingCharge { user: self.clone(), _memory: None };
        charge._memory = Some(kmem::charge(kmem::SIGNAL)?);
        Some(charge)
    }

    /// Counts so many bytes of message queues, unless that makes more than `limit`.
    pub fn charge_msgqueue(self: &Arc<User>, bytes: u64, limit: u64) -> Option<MsgqueueCharge> {
        let more = |used: u64| used.checked_add(bytes).filter(|used| *used <= limit);
        self.msgqueue.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(MsgqueueCharge { user: self.clone(), bytes })
    }

    /// Counts one task.
    pub fn charge_task(self: &Arc<User>) -> TaskCharge {
        self.tasks.fetch_add(1, Ordering::Relaxed);
        TaskCharge(self.clone())
    }
}

/// One queued signal of a user, until dropped.
pub struct PendingCharge {
    user: Arc<User>,
    _memory: Option<KernelMemory>,
}

impl Drop for PendingCharge {
    fn drop(&mut self) {
        self.user.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Some of a user's bytes of message queues, until dropped.
pub struct MsgqueueCharge {
    user: Arc<User>,
    bytes: u64,
}

impl Drop for MsgqueueCharge {
    fn drop(&mut self) {
        self.user.msgqueue.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// One task of a user, until dropped.
pub struct TaskCharge(Arc<User>);

impl TaskCharge {
    /// Whose it is.
    pub fn user(&self) -> &Arc<User> {
        &self.0
    }
}

impl Drop for TaskCharge {
    fn drop(&mut self) {
        self.0.tasks.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All users by real uid; those without tasks and signals are forgotten.
#[derive(Default)]
pub struct Users {
    map: Mutex<HashMap<u32, Weak<User>>>,
}

impl Users {
    /// The counts of a user.
    pub fn get(&self, uid: u32) -> Arc<User> {
        let mut map = self.map.lock();
        if let Some(user) = map.get(&uid).and_then(Weak::upgrade) {
            return user;
        }
        if map.len() == map.capacity() {
            map.retain(|_, user| user.strong_count() > 0);
        }
        let user = Arc::new(User::default());
        map.insert(uid, Arc::downgrade(&user));
        user
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_are_given_back() {
        let users = Users::default();
        let user = users.get(5);
        let first = user.charge_pending(1);
        assert!(first.is_some() && user.charge_pending(1).is_none());
        drop(first);
        assert_eq!(user.pending(), 0);
        let task = users.get(5).charge_task();
        assert_eq!(user.tasks(), 1);
        drop(task);
        assert_eq!(user.tasks(), 0);
        drop(user);
        for uid in 0..100 {
            users.get(uid);
        }
        assert!(users.map.lock().len() < 100);
    }
}
