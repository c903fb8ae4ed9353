//! The `notify` platform: guest code enters the stub by itself, and the stub asks the Sentry over
//! shared memory, with seccomp user notification as the doorbell.
//!
//! # Processes
//! * The *template* is forked while the Sentry is single-threaded. It removes the Sentry's memory
//!   and waits for orders on a socket.
//! * A *stub process* is cloned from it per address space. Its first thread, the *cloner*, makes
//!   threads; the *executor* maps and unmaps. Both do what a page says that no guest can write, and
//!   run no guest code.
//! * A *guest thread* is a thread of it with a doorbell of its own ([`body`]).
//!
//! # How the guest comes to the Sentry
//! A system call raises SIGSYS, by the filter; an exception raises its signal; a kick is SIGURG.
//! The handler is stub code on a stack in the thread's block. A call site that is used often is
//! patched to jump there without a signal. The stub writes registers to the block, sets a word, and
//! spins or rings. It goes on by loading registers from the block in user mode: no signal return.
//!
//! # Why guest code cannot make host calls
//! A call from outside of the stub's code page becomes SIGSYS, whatever it is. From the
//! stub's code page, which the host seals, a guest thread can ring its doorbell or end itself;
//! anything else kills the process ([`crate::arch::doorbell_filter`]). It has no descriptors. What it
//! scribbles over its block comes back to it as its own registers.
//!
//! # Death
//! When the Sentry ends, doorbells return with an error and stubs end themselves, the executor
//! first of all. They have no exit signal, so the Sentry's SIGCHLD disposition does not matter.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::memory_file::MemoryFile;
use crate::stub::nursery::{Maker as _, Nursery};
use crate::stub::vdso::Vdso;
use crate::{AddressSpace, Clocks, Error, HostCalls, Platform, VdsoImage};

mod births;
mod body;
mod layout;
mod listener;
mod patches;
mod probe;
mod process;
mod quiet;
mod space;
mod spin;
mod spread;
mod template;
mod thread;
mod trampolines;
mod xstate;

use births::Births;
use layout::Layout;
use process::Processes;
use spin::Spins;
use template::Template;

/// The default of `vm.mmap_min_addr`.
const USER_START: u64 = 0x1_0000;

/// See the module.
pub struct NotifyPlatform {
    shared: Arc<Shared>,
    wakes_here: bool,
    /// The host's listeners have to be polled.
    polls: bool,
}

/// What all address spaces use.
struct Shared {
    file: Arc<MemoryFile>,
    layout: Layout,
    clocks: Clocks,
    vdso: Option<Vdso>,
    xstate: xstate::Layout,
    clean_xstate: Vec<u8>,
    nursery: Nursery<Processes>,
    template: Arc<Mutex<Template>>,
    births: Arc<Mutex<Births>>,
    spins: Arc<Spins>,
    /// Whether call sites are patched.
    patching: bool,
    patches: Arc<patches::Counts>,
}

impl NotifyPlatform {
    /// Starts the template, and a stub to see whether everything works. To be called while the
    /// process is single-threaded, before its seccomp filter: later, only [`Platform::host_calls`]
    /// are used. Needs `/proc/self/maps`, or [`crate::look_around`] before; guests have no vDSO
    /// without. `file` must be the memory file of all address spaces. `patching`
    /// allows changing guests' code, where they do not see it.
    ///
    /// # Errors
    /// What the host lacks: FSGSBASE, seccomp user notification, or more processes. `EBUSY` inside
    /// a sandbox that has a listener itself.
    pub fn new(
        file: Arc<MemoryFile>,
        patching: bool,
        clocks: Clocks,
    ) -> Result<Arc<NotifyPlatform>, Error> {
        let host = probe::host()?;
        let xstate = xstate::Layout::probe()?;
        let layout = Layout::new();
        let vdso = Vdso::find_for(clocks, layout.parking());
        let (template, births) = Template::start(&file, layout, (clocks, vdso.as_ref()), &xstate)?;
        let template = Arc::new(Mutex::new(template));
        let births = Arc::new(Mutex::new(Births::new(births, layout, host)));
        let spins = Spins::new();
        let maker = Processes {
            file: file.clone(),
            layout,
            template: template.clone(),
            births,
            spins: spins.clone(),
            graves: Arc::default(),
        };
        let births = maker.births.clone();
        let first = maker.make()?;
        let wakes_here = first.0.wake_here() && first.1.wake_here();
        if wakes_here {
            births.lock().set_sync_wake_up();
        }
        Ok(Arc::new(NotifyPlatform {
            wakes_here,
            polls: !host.listener_tells_end,
            shared: Arc::new(Shared {
                file,
                layout,
                clocks,
                vdso,
                clean_xstate: xstate.clean(),
                xstate,
                nursery: Nursery::new(maker, vec![first]),
                template,
                births,
                spins,
                patching,
                patches: Arc::default(),
            }),
        }))
    }

    /// Whether a doorbell wakes the Sentry on the guest's CPU. Otherwise it is slow.
    pub fn wakes_here(&self) -> bool {
        self.wakes_here
    }
}

/// Where the first guest thread of a process has its block.
#[cfg(test)]
pub(crate) fn first_block() -> u64 {
    Layout::new().block(0)
}

#[cfg(test)]
impl NotifyPlatform {
    /// The template's process id.
    pub(crate) fn template(&self) -> crate::stub::sys::Tid {
        self.shared.template.lock().pid()
    }
}

impl Platform for NotifyPlatform {
    fn name(&self) -> &'static str {
        "notify"
    }

    fn host_calls(&self) -> HostCalls {
        HOST_CALLS
    }

    fn features(&self) -> Vec<String> {
        let vdso = if self.shared.vdso.is_some() { "vdso" } else { "no vdso" };
        let wakes = if self.wakes_here { "sync wake-up" } else { "no sync wake-up" };
        let patches = if self.shared.patching { "patching" } else { "no patching" };
        let polls = self.polls.then(|| "polled listeners".into());
        let xcr0 = format!("xcr0 {:#x}", self.shared.xstate.mask);
        [vdso.into(), wakes.into(), patches.into()].into_iter().chain(polls).chain([xcr0]).collect()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut counters = self.shared.spins.counters();
        counters.extend(self.shared.patches.counters());
        counters
    }

    fn new_address_space(&self) -> Result<Arc<dyn AddressSpace>, Error> {
        Ok(Arc::new(space::Space::new(self.shared.clone())?))
    }

    fn user_range(&self) -> (u64, u64) {
        (USER_START, layout::USER_END)
    }

    fn xstate_layout(&self) -> (usize, u64) {
        (self.shared.xstate.len, self.shared.xstate.mask)
    }

    fn vdso(&self) -> Option<VdsoImage> {
        self.shared.vdso.as_ref().and_then(Vdso::image)
    }
}

/// The host calls that this platform makes after [`NotifyPlatform::new`], for the Sentry's own
/// filter; those that any Rust program makes (futex, mmap of heap memory, clone of threads,
/// sigaltstack, ...) are not listed.
///
/// | call | for |
/// |---|---|
/// | `wait4`, `waitid` | deaths of stubs |
/// | `kill`, `tgkill` | SIGKILL to a stub process; SIGURG to a guest thread (a kick) |
/// | `sendmsg`, `recvmsg`, `poll` | orders to the template, listeners from stubs |
/// | `sched_setaffinity`, `getcpu` | a CPU of its own for a guest thread that looks for replies |
/// | `fallocate`, `lseek`, `fstat`, `statx` | the memory file |
/// | `clock_nanosleep` | the memory file's reclaimer |
/// | `close` | sockets and listeners |
const HOST_SYSCALLS: &[i64] = &[
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_kill,
    libc::SYS_tgkill,
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_poll,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_yield,
    libc::SYS_getcpu,
    libc::SYS_fallocate,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_statx,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
];

/// See [`Platform::host_calls`].
pub(crate) const HOST_CALLS: HostCalls = HostCalls { calls: HOST_SYSCALLS, ioctls: IOCTLS };

/// The commands to listeners: receiving and answering doorbells.
const IOCTLS: &[u32] = &[listener::RECV as u32, listener::SEND as u32, listener::SET_FLAGS as u32];
