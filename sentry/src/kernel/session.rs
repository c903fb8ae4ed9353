//! Process groups and sessions (credentials(7), setsid(2)).
//!
//! Lock order: the family lock ([`super::TaskTable::family`]) -> a group's members; a session's
//! terminal is a leaf.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use abi::Errno;
use parking_lot::Mutex;

use super::signal::SigInfo;
use super::{Task, ThreadGroup};

/// What a session needs of its controlling terminal.
pub trait ControllingTty: Send + Sync {
    /// Device number, as /proc/PID/stat shows it.
    fn rdev(&self) -> u64;
    /// The foreground process group; `None` if there is none.
    fn foreground(&self) -> Option<i32>;
    /// The terminal is no longer anybody's controlling terminal: forget session and foreground
    /// group. Must not call back into sessions.
    fn release(&self);
    /// For downcasts.
    fn as_any(&self) -> &(dyn std::any::Any + Send + Sync);
}

/// A session.
pub struct Session {
    /// Its number: its leader's.
    pub id: i32,
    tty: Mutex<Option<Arc<dyn ControllingTty>>>,
}

impl Session {
    /// A session without a terminal.
    pub fn new(id: i32) -> Arc<Session> {
        Arc::new(Session { id, tty: Mutex::new(None) })
    }

    /// The controlling terminal.
    pub fn tty(&self) -> Option<Arc<dyn ControllingTty>> {
        self.tty.lock().clone()
    }

    /// Makes `tty` the controlling terminal, or takes it away; returns the old one.
    pub fn set_tty(&self, tty: Option<Arc<dyn ControllingTty>>) -> Option<Arc<dyn ControllingTty>> {
        std::mem::replace(&mut *self.tty.lock(), tty)
    }
}

/// A process group.
pub struct ProcessGroup {
    /// Its number.
    pub id: i32,
    /// The session it belongs to.
    pub session: Arc<Session>,
    members: Mutex<Vec<Weak<ThreadGroup>>>,
}

impl ProcessGroup {
    /// An empty group.
    pub fn new(id: i32, session: Arc<Session>) -> Arc<ProcessGroup> {
        Arc::new(ProcessGroup { id, session, members: Mutex::new(Vec::new()) })
    }

    /// The processes in it, zombies included.
    pub fn members(&self) -> Vec<Arc<ThreadGroup>> {
        self.members.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether it has no members any more.
    pub fn is_empty(&self) -> bool {
        self.members.lock().is_empty()
    }

    /// Adds a process. The family lock is held.
    pub(super) fn add(&self, group: &Arc<ThreadGroup>) {
        self.members.lock().push(Arc::downgrade(group));
    }

    /// Removes a process. The family lock is held.
    pub(super) fn remove(&self, tgid: i32) {
        self.members.lock().retain(|m| m.upgrade().is_some_and(|m| m.tgid != tgid));
    }

    /// Sends a signal of the kernel's to all members (`kill_pgrp`). `ESRCH` without members.
    pub fn send_signal(&self, info: SigInfo) -> Result<(), Errno> {
        let members = self.members();
        for member in &members {
            // A member that is out of queue space loses the signal, as on Linux.
            let _ = member.send_signal(info);
        }
        if members.is_empty() { Err(Errno::ESRCH) } else { Ok(()) }
    }

    /// Whether nobody in the session could continue its members (`is_current_pgrp_orphaned`). The
    /// family lock is held.
    pub fn is_orphaned(&self) -> bool {
        self.is_orphaned_without(None)
    }

    /// Whether no member has a parent in another group of the same session
    /// (`will_become_orphaned_pgrp`). `ignoring` counts as gone already. The family lock is held.
    pub(super) fn is_orphaned_without(&self, ignoring: Option<i32>) -> bool {
        self.members().iter().all(|member| {
            if Some(member.tgid) == ignoring || member.is_zombie() {
                return true;
            }
            let Some(parent) = member.parent() else { return true };
            let theirs = parent.pgrp();
            theirs.id == self.id || theirs.session.id != self.session.id
        })
    }

    /// Whether a member is stopped.
    pub(super) fn has_stopped(&self) -> bool {
        self.members().iter().any(|m| m.signals.lock().stopped)
    }
}

/// setpgid(2): puts a process (0: the caller) into a group (0: one of its own).
pub fn setpgid(caller: &Task, pid: i32, pgid: i32) -> Result<(), Errno> {
    let pid = if pid == 0 { caller.group.tgid } else { pid };
    let pgid = if pgid == 0 { pid } else { pgid };
    if pgid < 0 {
        return Err(Errno::EINVAL);
    }
    let tasks = &caller.kernel.tasks;
    let _family = tasks.family();
    let task = tasks.get(pid).ok_or(Errno::ESRCH)?;
    if !task.is_leader() {
        return Err(Errno::EINVAL);
    }
    let group = &task.group;
    let session = caller.group.pgrp().session.clone();
    if group.parent().is_some_and(|p| Arc::ptr_eq(&p, &caller.group)) {
        if group.sid() != session.id {
            return Err(Errno::EPERM);
        }
        if group.did_exec.load(Ordering::Relaxed) {
            return Err(Errno::EACCES);
        }
    } else if !Arc::ptr_eq(group, &caller.group) {
        return Err(Errno::ESRCH);
    }
    if group.sid() == group.tgid {
        return Err(Errno::EPERM);
    }
    let pgrp = match tasks.pgrp(pgid) {
        Some(pgrp) if pgrp.session.id == session.id => pgrp,
        None if pgid == pid => {
            let pgrp = ProcessGroup::new(pgid, session);
            tasks.add_pgrp(&pgrp);
            pgrp
        }
        _ => return Err(Errno::EPERM),
    };
    group.join(pgrp);
    Ok(())
}

/// setsid(2): a session and a group of the caller's own.
pub fn setsid(caller: &Task) -> Result<i32, Errno> {
    let tasks = &caller.kernel.tasks;
    let _family = tasks.family();
    let id = caller.group.tgid;
    if caller.group.sid() == id || tasks.pgrp(id).is_some() {
        return Err(Errno::EPERM);
    }
    let pgrp = ProcessGroup::new(id, Session::new(id));
    tasks.add_pgrp(&pgrp);
    caller.group.join(pgrp);
    Ok(id)
}

impl ThreadGroup {
    /// Moves to another process group. The family lock is held.
    fn join(self: &Arc<Self>, pgrp: Arc<ProcessGroup>) {
        let old = std::mem::replace(&mut self.family().pgrp, pgrp.clone());
        // In this order, as it may be the same one.
        old.remove(self.tgid);
        pgrp.add(self);
    }
}
