//! clone(2): new tasks, and the host threads that run them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use abi::Errno;
use platform::{GuestThread, Registers};

use super::session::{ProcessGroup, Session};
use super::signal::{AltStack, Sighand, TaskSignals};
use super::task::TaskParts;
use super::thread_group::{RLIM_NLIMITS, Rlimit};
use super::{
    Caps, Current, FdTable, Kernel, Sleeper, Task, ThreadGroup, current, host_threads, oom, pidfd,
};
use crate::kmem;
use crate::mm::MemoryManager;
use crate::rarely::Rarely;
use crate::syscalls::SysResult;

/// `CLONE_*`
#[allow(missing_docs)]
pub mod flags {
    use bitflags::bitflags;

    bitflags! {
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct CloneFlags: u64 {
            const NEWTIME = 0x80;
            const VM = 0x100;
            const FS = 0x200;
            const FILES = 0x400;
            const SIGHAND = 0x800;
            const PIDFD = 0x1000;
            const PTRACE = 0x2000;
            const VFORK = 0x4000;
            const PARENT = 0x8000;
            const THREAD = 0x1_0000;
            const NEWNS = 0x2_0000;
            const SYSVSEM = 0x4_0000;
            const SETTLS = 0x8_0000;
            const PARENT_SETTID = 0x10_0000;
            const CHILD_CLEARTID = 0x20_0000;
            const DETACHED = 0x40_0000;
            const UNTRACED = 0x80_0000;
            const CHILD_SETTID = 0x100_0000;
            const NEWCGROUP = 0x200_0000;
            const NEWUTS = 0x400_0000;
            const NEWIPC = 0x800_0000;
            const NEWUSER = 0x1000_0000;
            const NEWPID = 0x2000_0000;
            const NEWNET = 0x4000_0000;
            const IO = 0x8000_0000;
            const CLEAR_SIGHAND = 0x1_0000_0000;
            const INTO_CGROUP = 0x2_0000_0000;
        }
    }
}

pub use flags::CloneFlags;

impl CloneFlags {
    /// All namespaces but the user's: making one takes `CAP_SYS_ADMIN`.
    pub const NAMESPACES: CloneFlags = CloneFlags::NEWNS
        .union(CloneFlags::NEWUTS)
        .union(CloneFlags::NEWIPC)
        .union(CloneFlags::NEWPID)
        .union(CloneFlags::NEWNET)
        .union(CloneFlags::NEWCGROUP)
        .union(CloneFlags::NEWTIME);
}

/// What is to be made (`struct kernel_clone_args`).
#[derive(Clone, Debug, Default)]
pub struct CloneArgs {
    /// `CLONE_*`, without the exit signal.
    pub flags: CloneFlags,
    /// What the parent gets when the child ends; 0 for nothing.
    pub exit_signal: i32,
    /// The child's stack pointer; 0 for the parent's.
    pub stack: u64,
    /// Where the pidfd goes.
    pub pidfd: u64,
    /// `CLONE_PARENT_SETTID`
    pub parent_tid: u64,
    /// `CLONE_CHILD_SETTID`, `CLONE_CHILD_CLEARTID`
    pub child_tid: u64,
    /// `CLONE_SETTLS`
    pub tls: u64,
    /// The number that it must get.
    pub set_tid: Option<i32>,
}

/// Ends a vfork's wait.
pub struct VforkDone {
    done: AtomicBool,
    parent: Arc<Sleeper>,
}

impl VforkDone {
    fn finish(&self) {
        self.done.store(true, Ordering::Release);
        self.parent.unpark();
    }
}

impl Task {
    /// The task let go of the memory that it borrowed from its parent (`complete_vfork_done`).
    pub(super) fn release_vfork(&self) {
        if let Some(done) = self.vfork_done.lock().take() {
            done.finish();
        }
    }
}

/// What a new host thread starts with.
struct Start {
    task: Arc<Task>,
    mm: Arc<MemoryManager>,
    files: Arc<FdTable>,
    regs: Registers,
    xstate: Option<Vec<u8>>,
    altstack: AltStack,
}

impl Start {
    /// The guest thread, with what is the parent's in it.
    fn dress(&self, guest: &mut dyn GuestThread) -> Result<(), platform::Error> {
        self.xstate.as_ref().map_or(Ok(()), |image| guest.set_xstate(image))
    }

    /// Runs the task on the calling host thread.
    fn run(self, guest: Box<dyn GuestThread>) {
        let Start { task, mm, files, regs, xstate: _, altstack } = self;
        let mut cur = Current::new(task, mm, files, regs, guest);
        cur.inherit_altstack(altstack);
        cur.run();
        current::forget();
    }
}

/// Starts a task on a host thread; its guest thread is there then. `EAGAIN`.
fn spawn(start: Start) -> Result<(), Errno> {
    let refused = |error: platform::Error| {
        static FAILED: Rarely = Rarely::new();
        if let Some(count) = FAILED.due() {
            tracing::warn!(%error, count, "no guest thread");
        }
        Errno::EAGAIN
    };
    let space = start.mm.address_space().clone();
    let Some(mut guest) = space.clone().new_movable_thread().map_err(refused)? else {
        return spawn_bound(start, refused);
    };
    start.dress(guest.as_mut()).map_err(refused)?;
    let threads = start.task.kernel.host_threads.clone();
    threads.run(move || start.run(guest)).map_err(|_| Errno::EAGAIN)
}

/// As [`spawn`], where the host thread must make the guest thread itself: on one of its own, for
/// which the caller waits.
fn spawn_bound(
    start: Start,
    refused: impl Fn(platform::Error) -> Errno + Send + 'static,
) -> Result<(), Errno> {
    let (ready, is_ready) = mpsc::sync_channel(1);
    let name = format!("task {}", start.task.tid());
    let body = move || {
        let made = start.mm.address_space().clone().new_thread().and_then(|mut guest| {
            start.dress(guest.as_mut())?;
            Ok(guest)
        });
        // The parent may have given up on us only if the whole Sentry is going down.
        match made {
            Ok(guest) => {
                let _ = ready.send(Ok(()));
                drop(ready);
                start.run(guest);
            }
            Err(error) => {
                let _ = ready.send(Err(refused(error)));
            }
        }
    };
    let thread = std::thread::Builder::new().name(name).stack_size(host_threads::STACK).spawn(body);
    thread.map_err(|_| Errno::EAGAIN)?;
    is_ready.recv().unwrap_or(Err(Errno::EAGAIN))
}

/// What the first task starts with.
pub struct InitParts {
    /// Everything else.
    pub parts: TaskParts,
    /// Limits.
    pub rlimits: [Rlimit; RLIM_NLIMITS],
    /// Registers.
    pub regs: Registers,
}

/// Makes the init process, number 1, in a session and a process group of its own, and starts it.
/// With `before`, the caller can give the new session its terminal before the guest runs.
///
/// # Errors
/// `EINVAL` without memory; `EAGAIN` or `ENOMEM` if there is no thread for it.
pub fn start_init(
    kernel: &Arc<Kernel>,
    init: InitParts,
    before: impl FnOnce(&Arc<Task>),
) -> Result<Arc<Task>, Errno> {
    let InitParts { parts, rlimits, regs } = init;
    let (mm, files) = (parts.mm.clone().ok_or(Errno::EINVAL)?, parts.files.clone());
    let task = kernel.tasks.insert(None, |tid| {
        let pgrp = ProcessGroup::new(tid, Session::new(tid));
        let group = ThreadGroup::new(tid, rlimits, Sighand::new(), pgrp);
        let task = Task::new(kernel.clone(), tid, group.clone(), parts);
        group.add(&task);
        task
    })?;
    {
        let _family = kernel.tasks.family();
        let pgrp = task.group.pgrp();
        pgrp.add(&task.group);
        kernel.tasks.add_pgrp(&pgrp);
    }
    task.group.note_rss(mm.memory_use().rss() / 1024);
    task.group.watch_cpu_limit(kernel);
    before(&task);
    let start =
        Start { task: task.clone(), mm, files, regs, xstate: None, altstack: AltStack::NONE };
    if let Err(errno) = spawn(start) {
        kernel.tasks.remove(task.tid());
        return Err(errno);
    }
    Ok(task)
}

/// The checks of `copy_process` on flags alone.
fn check_flags(cur: &Current, flags: CloneFlags) -> Result<(), Errno> {
    use CloneFlags as F;
    let both = |a: F, b: F| flags.contains(a) && flags.intersects(b);
    let without = |a: F, b: F| flags.contains(a) && !flags.contains(b);
    if both(F::FS, F::NEWNS | F::NEWUSER)
        || without(F::THREAD, F::SIGHAND)
        || without(F::SIGHAND, F::VM)
        || (flags.contains(F::PARENT) && cur.group.signals.lock().unkillable)
        || both(F::THREAD, F::NEWUSER | F::NEWPID)
        || both(F::SIGHAND, F::CLEAR_SIGHAND)
        || both(F::PIDFD, F::DETACHED)
    {
        return Err(Errno::EINVAL);
    }
    check_namespaces(cur, flags)
}

/// A kernel without namespaces other than the first ones: `EPERM` without the right to make one,
/// `EINVAL` with it.
pub fn check_namespaces(cur: &Current, flags: CloneFlags) -> Result<(), Errno> {
    if flags.contains(CloneFlags::NEWUSER) {
        return Err(Errno::EINVAL);
    }
    if flags.intersects(CloneFlags::NAMESPACES) {
        let admin = cur.cred().capable(Caps::SYS_ADMIN);
        return Err(if admin { Errno::EINVAL } else { Errno::EPERM });
    }
    Ok(())
}

/// Makes a task (`kernel_clone`); returns its number. Blocks for vfork until the child lets go of
/// the memory.
pub fn clone(cur: &mut Current, args: &CloneArgs) -> SysResult {
    let flags = args.flags;
    check_flags(cur, flags)?;
    // A signal that came before must not find parent and child both.
    if cur.task.interrupted() {
        return Err(Errno::ERESTARTNOINTR);
    }
    let cred = cur.cred();
    let privileged =
        cred.uid == 0 || cred.capable(Caps::SYS_RESOURCE) || cred.capable(Caps::SYS_ADMIN);
    cur.kernel.tasks.check_room()?;
    if !privileged && cur.user().tasks() >= cur.group.rlimit(libc::RLIMIT_NPROC).soft {
        return Err(Errno::EAGAIN);
    }
    if flags.contains(CloneFlags::SETTLS) && args.tls >= cur.kernel.platform.user_range().1 {
        return Err(Errno::EPERM);
    }

    let memory = oom::charge(cur, kmem::TASK)?;
    let mm = match flags.contains(CloneFlags::VM) {
        true => cur.mm.clone(),
        false => oom::insist(cur, || cur.mm.fork())?,
    };
    let files =
        if flags.contains(CloneFlags::FILES) { cur.files.clone() } else { cur.files.fork()? };
    let fs = if flags.contains(CloneFlags::FS) { cur.fs() } else { cur.fs().fork() };
    let xstate = cur.xstate().map_err(|_| Errno::EAGAIN)?;
    let (own, comm) = (Some(mm.clone()), cur.task.comm());
    let parts = TaskParts { cred, mm: own, files: files.clone(), fs, comm };
    let task = link(cur, args, parts)?;
    // Fresh, so nothing is there yet.
    let _ = task.memory.set(memory);

    let mut regs = *cur.regs();
    regs.rax = 0;
    regs.orig_rax = u64::MAX;
    if args.stack != 0 {
        regs.rsp = args.stack;
    }
    if flags.contains(CloneFlags::SETTLS) {
        regs.fs_base = args.tls;
    }
    let keep_stack = flags & (CloneFlags::VM | CloneFlags::VFORK) != CloneFlags::VM;
    let altstack = if keep_stack { cur.saved_altstack() } else { AltStack::NONE };
    let pid = task.tid();
    let vfork = flags
        .contains(CloneFlags::VFORK)
        .then(|| Arc::new(VforkDone { done: AtomicBool::new(false), parent: cur.sleeper.clone() }));
    *task.vfork_done.lock() = vfork.clone();

    let pidfd = match flags.contains(CloneFlags::PIDFD) {
        true => Some(install_pidfd(cur, args, &task).inspect_err(|_| unlink(&task))?),
        false => None,
    };
    if flags.contains(CloneFlags::PARENT_SETTID) {
        // Linux does not look whether that works.
        let _ = cur.mm.write_obj(args.parent_tid, &pid);
    }
    if flags.contains(CloneFlags::CHILD_CLEARTID) {
        task.clear_child_tid.store(args.child_tid, Ordering::Relaxed);
    }
    if flags.contains(CloneFlags::CHILD_SETTID) {
        let _ = mm.write_obj(args.child_tid, &pid);
    }
    if let Err(errno) =
        spawn(Start { task: task.clone(), mm, files, regs, xstate: Some(xstate), altstack })
    {
        if let Some(fd) = pidfd {
            drop(cur.files.remove(fd));
        }
        unlink(&task);
        return Err(errno);
    }
    if let Some(vfork) = vfork {
        // Killed: the child goes on alone.
        let _ = cur.task.block_killable(|| vfork.done.load(Ordering::Acquire));
    }
    Ok(pid as u64)
}

fn install_pidfd(cur: &Current, args: &CloneArgs, task: &Arc<Task>) -> Result<i32, Errno> {
    let file = pidfd::new_file(cur, &task.group, false)?;
    let fd = cur.files.install(file, true, 0, cur.group.nofile())?;
    let at = if args.pidfd != 0 { args.pidfd } else { args.parent_tid };
    cur.mm.write_obj(at, &fd).inspect_err(|_| drop(cur.files.remove(fd)))?;
    Ok(fd)
}

/// Makes the task and gives it its place: a thread in the caller's group, or a process among the
/// caller's children.
fn link(cur: &Current, args: &CloneArgs, parts: TaskParts) -> Result<Arc<Task>, Errno> {
    let flags = args.flags;
    let kernel = cur.kernel.clone();
    let parent = &cur.task;
    let _family = kernel.tasks.family();
    // A signal to many, which is sent under that lock, has reached the parent before there was a
    // child, or will reach both: no family of forking processes outlives a kill(-1).
    if parent.interrupted() {
        return Err(Errno::ERESTARTNOINTR);
    }
    let task = kernel.tasks.insert(args.set_tid, |tid| {
        let group = if flags.contains(CloneFlags::THREAD) {
            parent.group.clone()
        } else {
            let sighand = match flags.contains(CloneFlags::SIGHAND) {
                true => parent.group.sighand(),
                false => parent.group.sighand().fork(flags.contains(CloneFlags::CLEAR_SIGHAND)),
            };
            ThreadGroup::new(tid, parent.group.rlimits(), sighand, parent.group.pgrp())
        };
        let task = Task::new(kernel.clone(), tid, group, parts);
        inherit(parent, &task);
        if flags.contains(CloneFlags::SYSVSEM) {
            parent.share_sem_undo(&task);
        }
        task
    })?;
    if flags.contains(CloneFlags::THREAD) {
        // The group may be exiting or making room for execve: its signal lock decides.
        let signals = parent.group.signals.lock();
        if signals.exiting || signals.exec_tid.is_some() {
            drop(signals);
            kernel.tasks.remove(task.tid());
            return Err(Errno::ERESTARTNOINTR);
        }
        if signals.stop_count > 0 || signals.stopped {
            task.signals.lock().stop_pending = false;
        }
        inherit_seccomp(parent, &task);
        task.group.add(&task);
        return Ok(task);
    }
    {
        let _signals = parent.group.signals.lock();
        inherit_seccomp(parent, &task);
    }
    let group = &task.group;
    group.add(&task);
    group.set_dumpable(parent.group.dumpable());
    group.note_rss(parent.group.noted_rss());
    group.set_thp_disabled(parent.group.thp_disabled());
    let score = parent.group.oom_score_adj.load(Ordering::Relaxed);
    group.oom_score_adj.store(score, Ordering::Relaxed);
    let (real_parent, exit_signal) = match flags.contains(CloneFlags::PARENT) {
        true => (parent.group.parent(), parent.group.family().exit_signal),
        false => (Some(parent.group.clone()), args.exit_signal),
    };
    let mut family = group.family();
    family.exit_signal = exit_signal;
    if let Some(real_parent) = real_parent {
        family.parent = Arc::downgrade(&real_parent);
        family.parent_tid = match flags.contains(CloneFlags::PARENT) {
            true => parent.group.family().parent_tid,
            false => parent.tid(),
        };
        family.parent_exec_id = real_parent.exec_id.load(Ordering::Relaxed);
        real_parent.family().children.push(group.clone());
    }
    family.pgrp.add(group);
    drop(family);
    group.watch_cpu_limit(&kernel);
    Ok(task)
}

/// What a child has from the task that makes it.
fn inherit(parent: &Task, child: &Task) {
    *child.signals.lock() =
        TaskSignals { blocked: parent.signals.lock().blocked, ..TaskSignals::default() };
    let mut sched = *parent.sched.lock();
    let mut nice = parent.nice.load(Ordering::Relaxed);
    if std::mem::take(&mut sched.reset_on_fork) {
        if matches!(sched.policy, libc::SCHED_FIFO | libc::SCHED_RR) {
            sched.policy = libc::SCHED_OTHER;
            sched.priority = 0;
            nice = 0;
        }
        nice = nice.max(0);
    }
    *child.sched.lock() = sched;
    child.nice.store(nice, Ordering::Relaxed);
    child.ioprio.store(parent.ioprio.load(Ordering::Relaxed), Ordering::Relaxed);
    child.personality.store(parent.personality.load(Ordering::Relaxed), Ordering::Relaxed);
    child.no_tsc.store(parent.no_tsc.load(Ordering::Relaxed), Ordering::Relaxed);
    let slack = parent.timer_slack[0].load(Ordering::Relaxed);
    child.timer_slack.iter().for_each(|s| s.store(slack, Ordering::Relaxed));
}

/// The parent's filters. Under its group's signal lock: with it, another thread gives filters to all.
fn inherit_seccomp(parent: &Task, child: &Task) {
    child.seccomp.inherit(&parent.seccomp);
    if parent.cred().no_new_privs {
        child.set_no_new_privs();
    }
}

/// Takes back what [`link`] did, for a child that never ran.
fn unlink(task: &Arc<Task>) {
    let kernel = &task.kernel;
    let _family = kernel.tasks.family();
    let group = &task.group;
    group.remove(task);
    if task.is_leader() {
        if let Some(parent) = group.parent() {
            parent.family().children.retain(|c| c.tgid != group.tgid);
        }
        group.pgrp().remove(group.tgid);
    } else {
        group.live.fetch_sub(1, Ordering::AcqRel);
    }
    kernel.tasks.remove(task.tid());
    task.dead.store(true, Ordering::Release);
}
