//! The end of tasks (`do_exit`): what they let go of, and who is told.
//!
//! A thread that is not its process's leader is gone when it exited. A leader stays as a zombie until all
//! its threads are gone and its parent waited for it; or is gone at once, if the parent ignores
//! SIGCHLD.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::rusage::Usage;
use super::signal::action::SIG_IGN;
use super::signal::info::cld;
use super::signal::{SaFlags, SigInfo, stop};
use super::{Current, Events, Kernel, ProcessGroup, Task, ThreadGroup, futex, oom, time};
use crate::boot::Cause;

/// How long the end of the sandbox waits for tasks that do not react.
const LAST_WAIT: std::time::Duration = std::time::Duration::from_secs(2);

/// Ends the calling task with a wait status.
pub(super) fn exit(cur: Current, status: u32) {
    let task = cur.task.clone();
    exit_signals(&task);
    let status = task.group.exiting().unwrap_or(status);
    let last = task.group.live.fetch_sub(1, Ordering::AcqRel) == 1;
    if last && task.group.did_exec.load(Ordering::Relaxed) {
        task.kernel.memory.note_peak();
        // Asks the host: too dear for each fork.
        task.group.note_rss(cur.mm.memory_use().rss() / 1024);
    }
    release_memory(&task, &cur.mm);
    let leaving = last.then(|| oom::Leaving::new(&task.kernel));
    task.exit_sem();
    task.set_mm(None);
    task.set_files(None);
    task.set_kicker(None);
    task.seccomp.release();
    if last && task.tid_is_init() {
        end_all(&task);
    }
    if last {
        task.group.timers.exit();
        leave_terminal(&task);
    }
    // Ends the stub's thread, and the memory and files if nobody else has them.
    drop(cur);
    drop(leaving);
    task.kernel.ipc.exit_shm(&task);
    notify(&task, status, last);
    if last && task.group.tgid == 1 {
        let cause = match status & 0x7f {
            0 => Cause::Exit,
            _ if task.group.oom_killed.load(Ordering::Relaxed) => Cause::Memory,
            _ => Cause::Signal,
        };
        task.kernel.tell_end(status, cause);
    }
}

impl Task {
    fn tid_is_init(&self) -> bool {
        self.group.tgid == 1
    }
}

/// What must happen while the old memory is still there, at exit and at execve (`mm_release`).
pub(super) fn release_memory(task: &Task, mm: &crate::mm::MemoryManager) {
    let robust = task.robust_list.swap(0, Ordering::Relaxed);
    if robust != 0 {
        futex::exit_robust_list(&task.kernel.futexes, mm, task.tid(), robust);
    }
    let clear = task.clear_child_tid.swap(0, Ordering::Relaxed);
    // Nobody else looks at memory that nobody else has.
    if clear != 0 && task.shares_memory() {
        let _ = mm.write_obj(clear, &0i32);
        task.kernel.futexes.wake_shared(mm, clear, 1);
    }
    task.release_vfork();
}

impl Task {
    /// Whether another task has the same memory.
    fn shares_memory(&self) -> bool {
        // The task's own references: `Task::mm` and `Current::mm`.
        const OWN: usize = 2;
        match self.mm() {
            Some(mm) => Arc::strong_count(&mm) > OWN + 1,
            None => false,
        }
    }
}

/// The task takes no more signals; others of its group may have to take over (`exit_signals`).
fn exit_signals(task: &Arc<Task>) {
    let mut group = task.group.signals.lock();
    let mut own = task.signals.lock();
    own.exiting = true;
    let last = stop::participate(&mut group, &mut own);
    let orphaned = group.shared.set().minus(own.blocked);
    drop(own);
    if !group.exiting && !orphaned.is_empty() {
        for other in task.group.threads() {
            let theirs = other.signals.lock();
            let takes = !theirs.exiting && !orphaned.minus(theirs.blocked).is_empty();
            drop(theirs);
            if takes {
                other.interrupt();
            }
        }
    }
    drop(group);
    if last {
        let _family = task.kernel.tasks.family();
        task.group.notify_parent_stop(cld::STOPPED);
    }
}

/// A session's leader is gone: its terminal is free, the foreground group gets SIGHUP
/// (`disassociate_ctty`).
fn leave_terminal(task: &Task) {
    let session = task.group.pgrp().session.clone();
    if session.id != task.group.tgid {
        return;
    }
    detach_terminal(&task.kernel, &session, true);
}

/// Takes the controlling terminal away from a session. `exiting`: its leader exits, which does not
/// send SIGCONT.
pub fn detach_terminal(kernel: &Kernel, session: &super::Session, exiting: bool) {
    let Some(tty) = session.set_tty(None) else { return };
    let foreground = tty.foreground().and_then(|id| kernel.tasks.pgrp(id));
    tty.release();
    if let Some(pgrp) = foreground {
        // An empty group has nobody to tell.
        let _ = pgrp.send_signal(SigInfo::kernel(libc::SIGHUP));
        if !exiting {
            let _ = pgrp.send_signal(SigInfo::kernel(libc::SIGCONT));
        }
    }
}

/// Init is gone: everybody goes (`zap_pid_ns_processes`).
fn end_all(init: &Arc<Task>) {
    let kernel = &init.kernel;
    kernel.tasks.close();
    for task in kernel.tasks.all() {
        if !Arc::ptr_eq(&task.group, &init.group) {
            task.group.begin_exit(libc::SIGKILL as u32);
        }
    }
    let deadline = time::monotonic_ns() + LAST_WAIT.as_nanos() as u64;
    let _registration = init.group.child_wait.register(Events::IN, init.sleeper.clone());
    while time::monotonic_ns() < deadline {
        let others =
            kernel.tasks.all().iter().any(|t| !Arc::ptr_eq(&t.group, &init.group) && !t.is_dead());
        if !others {
            return;
        }
        init.sleeper.park(Some(deadline));
    }
    tracing::warn!("tasks do not end");
}

/// Tells everybody who is to know (`exit_notify`).
fn notify(task: &Arc<Task>, status: u32, last: bool) {
    let kernel = task.kernel.clone();
    let group = task.group.clone();
    let _family = kernel.tasks.family();
    if task.is_leader() {
        *group.leader_status.lock() = Some(status);
    }
    forget_children(&kernel, task, last);
    if last {
        orphan_check(&group.pgrp(), Some(group.tgid), group.parent().as_deref());
    }
    // The group's own past counts the thread's time from here on.
    let left = group.remove(task);
    kernel.limits.task_gone(task, || task.dead.store(true, Ordering::Release));
    if !task.is_leader() {
        kernel.tasks.remove(task.tid());
    }
    if left == 0 {
        finish_group(&kernel, &group);
    }
    group.exit_wait.wake(Events::IN);
    if group.tgid != 1
        && let Some(init) = kernel.tasks.group(1)
        && init.signals.lock().exiting
    {
        init.child_wait.wake(Events::IN);
    }
}

/// All threads are gone: the parent is told, or nobody wants to know.
fn finish_group(kernel: &Kernel, group: &Arc<ThreadGroup>) {
    let status = match group.exiting() {
        Some(code) => code,
        None => group.leader_status.lock().unwrap_or(0),
    };
    group.family().zombie = Some(status);
    if notify_parent(group, status) {
        release(kernel, group);
    }
    group.exit_wait.wake(Events::IN | Events::RDNORM);
}

/// `do_notify_parent`; whether nobody will wait for the process.
fn notify_parent(group: &Arc<ThreadGroup>, status: u32) -> bool {
    let Some(parent) = group.parent() else { return false };
    let mut signo = {
        let family = group.family();
        let same = family.parent_exec_id == parent.exec_id.load(Ordering::Relaxed);
        // A parent with another program is not asked what it wanted.
        if same || family.exit_signal <= 0 { family.exit_signal } else { libc::SIGCHLD }
    };
    let (code, value) = match status & 0x7f {
        0 => (cld::EXITED, (status >> 8) as i32 & 0xff),
        signal if status & 0x80 != 0 => (cld::DUMPED, signal as i32),
        signal => (cld::KILLED, signal as i32),
    };
    let times = group.cpu_times().shown();
    let uid = group.leader().map_or(0, |l| l.cred().uid);
    let (utime, stime) = (time::clock_t(times.user), time::clock_t(times.system));
    let mut info = SigInfo::child(code, group.tgid, uid, value, utime, stime);
    let mut autoreap = false;
    if signo == libc::SIGCHLD {
        let action = parent.sighand().get(libc::SIGCHLD);
        if action.handler == SIG_IGN || action.flags.contains(SaFlags::NOCLDWAIT) {
            autoreap = true;
            if action.handler == SIG_IGN {
                signo = 0;
            }
        }
    }
    if signo > 0 {
        info.signo = signo;
        // A full queue loses the signal, not the zombie.
        let _ = parent.send_signal(info);
    }
    parent.child_wait.wake(Events::IN);
    autoreap
}

/// The process is gone for good (`release_task`). The family lock is held.
pub(super) fn release(kernel: &Kernel, group: &Arc<ThreadGroup>) {
    kernel.tasks.remove(group.tgid);
    let (parent, pgrp) = {
        let family = group.family();
        (family.parent.upgrade(), family.pgrp.clone())
    };
    pgrp.remove(group.tgid);
    if let Some(parent) = parent {
        parent.family().children.retain(|c| !Arc::ptr_eq(c, group));
    }
}

/// What a process and the children it waited for have used.
pub fn total_usage(group: &ThreadGroup) -> Usage {
    let own = Usage { cpu: group.cpu_times(), max_rss: group.max_rss(), ..Usage::default() };
    own.plus(*group.children_usage.lock())
}

/// The children of an exiting thread get another parent (`forget_original_parent`).
fn forget_children(kernel: &Kernel, task: &Arc<Task>, last: bool) {
    let group = &task.group;
    let children = group.children();
    if children.is_empty() {
        return;
    }
    let tid = task.tid();
    if !last {
        let heir = group.threads().into_iter().find(|t| !t.signals.lock().exiting);
        let Some(heir) = heir else { return };
        for child in children {
            let mut family = child.family();
            if family.parent_tid == tid {
                family.parent_tid = heir.tid();
                drop(family);
                parent_died(&child);
            }
        }
        return;
    }
    let Some(reaper) = find_reaper(kernel, group) else { return };
    let reaper_tid = reaper
        .threads()
        .iter()
        .find(|t| !t.signals.lock().exiting)
        .map_or(reaper.tgid, |t| t.tid());
    group.family().children.clear();
    for child in children {
        let zombie = {
            let mut family = child.family();
            family.parent = Arc::downgrade(&reaper);
            family.parent_tid = reaper_tid;
            family.parent_exec_id = reaper.exec_id.load(Ordering::Relaxed);
            family.exit_signal = libc::SIGCHLD;
            family.zombie
        };
        reaper.family().children.push(child.clone());
        parent_died(&child);
        if let Some(status) = zombie
            && notify_parent(&child, status)
        {
            release(kernel, &child);
        }
        // The child's group may have lost the last parent that could continue it.
        let theirs = child.pgrp();
        if theirs.id != group.pgid() && theirs.session.id == group.sid() {
            orphan_check(&theirs, None, Some(group));
        }
    }
}

/// `PR_SET_PDEATHSIG`
fn parent_died(child: &Arc<ThreadGroup>) {
    for thread in child.threads() {
        let signo = thread.pdeath_signal.load(Ordering::Relaxed);
        if signo != 0 {
            // A full queue loses it.
            let _ = child.send_signal(SigInfo::user(signo, 0, 0, 0));
        }
    }
}

/// Who gets the children of a process without threads (`find_new_reaper`).
fn find_reaper(kernel: &Kernel, group: &ThreadGroup) -> Option<Arc<ThreadGroup>> {
    let mut next = group.parent();
    while let Some(candidate) = next {
        if candidate.subreaper.load(Ordering::Relaxed) && candidate.has_live_thread() {
            return Some(candidate);
        }
        next = candidate.parent();
    }
    kernel.tasks.group(1).filter(|init| init.tgid != group.tgid)
}

impl ThreadGroup {
    fn has_live_thread(&self) -> bool {
        self.threads().iter().any(|t| !t.signals.lock().exiting)
    }
}

/// A group that was not orphaned becomes so and has stopped members: they get SIGHUP and SIGCONT
/// (`kill_orphaned_pgrp`). `without` counts as gone already; `parent` is who linked the group to its
/// session.
fn orphan_check(pgrp: &Arc<ProcessGroup>, without: Option<i32>, parent: Option<&ThreadGroup>) {
    let Some(parent) = parent else { return };
    let linked = without.is_none() || (parent.pgid() != pgrp.id && parent.sid() == pgrp.session.id);
    if linked && pgrp.is_orphaned_without(without) && pgrp.has_stopped() {
        // Its members exist, being stopped.
        let _ = pgrp.send_signal(SigInfo::kernel(libc::SIGHUP));
        let _ = pgrp.send_signal(SigInfo::kernel(libc::SIGCONT));
    }
}

impl Task {
    /// Whether nobody in the session could continue the task's process group
    /// (`is_current_pgrp_orphaned`).
    pub fn is_pgrp_orphaned(&self) -> bool {
        let _family = self.kernel.tasks.family();
        self.group.pgrp().is_orphaned_without(None)
    }
}
