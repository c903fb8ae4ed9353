//! System V IPC: shared memory, semaphores, message queues (sysvipc(7)); POSIX message queues.
//!
//! What the first three have in common is in [`ids`]: identifiers, keys, permissions. A sandbox has one
//! namespace.
//!
//! Lock order: `MemoryManager::state` -> one of the three namespaces' locks, which are never held
//! together, nor while guest memory is looked at or somebody is woken.

pub mod ids;
pub mod mq;
pub mod msg;
pub mod sem;
pub mod shm;

use std::sync::Arc;

use crate::kernel::Task;
use crate::kernel::time::clock_ns;

/// The sandbox's IPC namespace (ipc_namespaces(7)).
#[derive(Default)]
pub struct IpcNamespace {
    /// Shared memory.
    pub shm: Arc<shm::ShmNamespace>,
    /// Semaphores.
    pub sem: Arc<sem::SemNamespace>,
    /// Message queues.
    pub msg: msg::MsgNamespace,
    /// POSIX message queues.
    pub mq: Arc<mq::MqNamespace>,
}

impl IpcNamespace {
    /// A task has let go of its memory (`exit_shm`).
    pub fn exit_shm(&self, task: &Arc<Task>) {
        self.shm.exit(task);
    }
}

/// Now, as the objects tell it: in seconds.
fn seconds() -> i64 {
    (clock_ns(libc::CLOCK_REALTIME) / 1_000_000_000) as i64
}

/// The process that the calling host thread runs; 0 on the kernel's own threads.
fn current_tgid() -> i32 {
    crate::kernel::current::current_task().map_or(0, |task| task.group.tgid)
}
