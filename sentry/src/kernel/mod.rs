//! The kernel proper: tasks, thread groups, credentials, signals, time, waiting.
//!
//! * [`Task`] is what other tasks may see of a thread, always behind an [`Arc`]; [`Current`] is the
//!   part that only its own host thread touches (registers, the guest thread).
//! * [`ThreadGroup`] is a process. The [`TaskTable`] knows all by number.
//!
//! Lock order: family lock -> task table -> a group's signal lock -> task signals -> wait queues.
//! `mm`, `files` and `fs` of a task are leaves: take, clone the `Arc`, let go.

pub mod clone;
pub mod coarse;
pub mod cpu_budget;
pub mod cpu_clock;
pub mod cpu_limit;
pub mod cred;
pub mod cred_exec;
pub mod cred_set;
pub mod current;
pub mod exec;
pub mod exit;
pub mod fasync;
pub mod fd_table;
pub mod fs_context;
pub mod futex;
pub mod host;
mod host_threads;
pub mod limits;
pub mod oom;
pub mod pidfd;
pub mod poll;
pub mod posix_timer;
pub mod reap;
pub mod rusage;
pub mod sched;
pub mod seccomp;
pub mod session;
pub mod signal;
pub mod signal_timer;
pub mod task;
pub mod task_table;
pub mod thread_group;
pub mod time;
pub mod timer;
mod tsc;
pub mod unsupported;
pub mod users;
pub mod version;
pub mod wait;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use parking_lot::Mutex;
use platform::{MemoryFile, Platform};

use crate::boot::Cause;
use crate::boot::control::Usage;
use crate::syscalls::strace::Strace;

pub use cred::{Caps, Credentials, Groups};
pub use current::Current;
pub use fd_table::FdTable;
pub use fs_context::FsContext;
pub use session::{ControllingTty, ProcessGroup, Session};
pub use signal::{GroupSignals, SigInfo, SigSet};
pub use task::Task;
pub use task_table::TaskTable;
pub use thread_group::ThreadGroup;
pub use wait::{Events, Registration, Sleeper, WaitQueue, Wake};

/// The whole kernel; one per sandbox.
pub struct Kernel {
    /// Runs guest code.
    pub platform: Arc<dyn Platform>,
    /// Holds guest memory.
    pub memory: Arc<MemoryFile>,
    /// All tasks by number.
    pub tasks: TaskTable,
    /// Names of Unix sockets.
    pub unix: Arc<crate::net::unix::UnixNames>,
    /// System V IPC.
    pub ipc: crate::ipc::IpcNamespace,
    /// What tasks run on.
    pub host_threads: host_threads::HostThreads,
    /// Fires timers.
    pub timers: timer::TimerService,
    /// What each user has in use.
    pub users: users::Users,
    /// What the sandbox as a whole may use, and has used.
    pub limits: limits::Limits,
    /// Who was killed for memory.
    pub oom: oom::OomKiller,
    /// Who waits on which word of memory.
    pub futexes: futex::FutexTable,
    /// Calls that were asked for and are not there.
    pub unsupported: unsupported::Unsupported,
    /// Prints system calls, if somebody asked for it.
    pub strace: Option<Arc<Strace>>,
    /// Which actions of guests' seccomp filters are logged.
    pub seccomp_logged: seccomp::Logged,
    /// Tells the launcher what happens, if somebody asked for it.
    pub audit: crate::audit::Slot,
    /// The machine as guests see it.
    pub host: host::Host,
    /// The names that uname(2) tells.
    pub uts: Mutex<Uts>,
    /// Where memfds live.
    pub memfds: crate::fs::tmpfs::memfd::MemfdMount,
    /// Where POSIX message queues live.
    pub mqueues: crate::fs::mqueue::MqueueMount,
    /// What mount(2) can mount.
    pub fstypes: crate::vfs::fstypes::FsTypes,
    /// What opens device nodes and named pipes.
    pub special: crate::vfs::special::Special,
    /// Told when the sandbox has ended.
    ended: Mutex<Option<std::sync::mpsc::Sender<Ended>>>,
}

/// The end of the sandbox: the wait status of init, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// As wait4(2) has it.
    pub status: u32,
    /// Why.
    pub cause: Cause,
    /// What the sandbox had used up to then.
    pub usage: Usage,
}

/// Node and domain name.
#[derive(Clone, Debug)]
pub struct Uts {
    /// `nodename`
    pub nodename: Vec<u8>,
    /// `domainname`
    pub domainname: Vec<u8>,
}

impl Kernel {
    /// A kernel without tasks. `ended` is told how the first process ended, or that a limit was hit.
    pub fn new(
        platform: Arc<dyn Platform>,
        memory: Arc<MemoryFile>,
        hostname: &[u8],
        strace: Option<Arc<Strace>>,
        limits: limits::Limits,
        ended: std::sync::mpsc::Sender<Ended>,
    ) -> Arc<Kernel> {
        let kernel = Arc::new(Kernel {
            platform,
            memory,
            tasks: TaskTable::new(limits.tasks()),
            limits,
            unix: Arc::default(),
            ipc: Default::default(),
            host_threads: Default::default(),
            timers: timer::TimerService::default(),
            users: users::Users::default(),
            oom: Default::default(),
            futexes: futex::FutexTable::default(),
            unsupported: unsupported::Unsupported::default(),
            strace,
            seccomp_logged: seccomp::Logged::default(),
            audit: Default::default(),
            host: host::Host::probe(),
            uts: Mutex::new(Uts { nodename: hostname.to_vec(), domainname: b"(none)".to_vec() }),
            memfds: Default::default(),
            mqueues: Default::default(),
            fstypes: Default::default(),
            special: Default::default(),
            ended: Mutex::new(Some(ended)),
        });
        if let Some(cpu) = &kernel.limits.cpu {
            cpu.bind(&kernel);
        }
        kernel
    }

    /// The sandbox has ended; the first to say so counts.
    pub(crate) fn tell_end(&self, status: u32, cause: Cause) {
        // Before anybody is killed: the time of who is on his way out is in no account for a moment.
        let usage = self.usage();
        if let Some(sender) = self.ended.lock().take() {
            // A receiver that is gone means that the sandbox is being torn down already.
            let _ = sender.send(Ended { status, cause, usage });
        }
    }
}
