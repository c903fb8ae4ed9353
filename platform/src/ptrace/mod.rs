//! The `ptrace` platform: stub processes traced with `PTRACE_SYSEMU`.
//!
//! # Processes
//! * The *template* is forked while the Sentry is single-threaded. It unmaps everything but the
//!   stub's pages, vvar and the vDSO, closes all descriptors but the memory file, a socket and a
//!   lifeline pipe, gives up capabilities, installs the stubs' seccomp filter, and sleeps.
//! * A *stub process* is cloned from it (`CLONE_PARENT`: it is the Sentry's child) per address
//!   space. Its first thread sleeps for ever. Its second one, the *manager*, never runs guest code
//!   and sleeps untraced; host threads of the Sentry seize it to map memory or to clone guest
//!   threads.
//! * A *guest thread* is traced by the host thread that made it, from its birth to its end.
//!
//! # Why guest code cannot make host calls
//! Guest threads run under `PTRACE_SYSEMU` only: system calls of any kind stop before the host
//! looks at them. `PTRACE_CONT` is used for stub code alone, with registers that the Sentry set;
//! that code reads its commands from a page that the guest can neither write nor remap. The
//! vsyscall page bypasses ptrace but not the filter, which raises SIGSYS there. The filter allows
//! the handful of calls that stub code makes, from the stub's code page only.
//!
//! # Death
//! Stubs end when the Sentry ends: a traced one by `PTRACE_O_EXITKILL`, a sleeping one because its
//! read from the lifeline returns. They have no exit signal, so the Sentry's SIGCHLD disposition
//! does not matter, and they are not in the terminal's process group.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::memory_file::{Frames, MemoryFile};
use crate::stub::nursery::Nursery;
use crate::stub::vdso::Vdso;
use crate::{AddressSpace, Clocks, Error, HostCalls, PAGE_SIZE, Platform, VdsoImage};

mod cpu;
mod held;
mod space;
mod stub;
mod sys;
mod template;
mod thread;

use held::Layout;
use stub::Stubs;
use template::Template;

/// One past the highest user address of Linux on x86-64 with four-level page tables
/// (`TASK_SIZE_MAX`).
const USER_END: u64 = 0x7fff_ffff_f000;
/// The default of `vm.mmap_min_addr`.
const USER_START: u64 = 0x1_0000;
/// Largest extended state that Linux has.
const XSTATE_MAX: usize = 16 << 10;

/// See the module.
pub struct PtracePlatform {
    shared: Arc<Shared>,
}

/// What all address spaces use.
struct Shared {
    layout: Layout,
    clocks: Clocks,
    vdso: Option<Vdso>,
    clean_xstate: Vec<u8>,
    xcr0: u64,
    cpus: Arc<cpu::Cpus>,
    template: Arc<Mutex<Template>>,
    nursery: Nursery<Stubs>,
    /// Stubs read end-of-file from the other end once this is closed.
    _lifeline: OwnedFd,
}

impl PtracePlatform {
    /// Starts the template. To be called while the process is single-threaded, after the last
    /// change of its user ids and *after* it entered its Landlock domain (a tracer must have its
    /// tracee's ids, and be in a domain that encloses its tracee's), but before its seccomp filter:
    /// later, only [`Platform::host_calls`] are used. Needs `/proc/self/maps`, or
    /// [`crate::look_around`] before; guests have no vDSO without. `file` must be the memory file of
    /// all address spaces.
    ///
    /// # Errors
    /// What the host refuses: no ptrace (Yama's `ptrace_scope` above 1, an outer seccomp filter),
    /// no seccomp, no more processes.
    pub fn new(file: Arc<MemoryFile>, clocks: Clocks) -> Result<Arc<PtracePlatform>, Error> {
        let layout = Layout { base: USER_END - Layout::LEN };
        let vdso = Vdso::find_for(clocks, layout.parking());
        let commands = page(&file)?;
        let (reader, lifeline) = sys::pipe()?;
        let clocks = (clocks, vdso.as_ref());
        let mut template = Template::start(layout, USER_END, clocks, commands, &reader)?;
        let (clean_xstate, xcr0) = clean_xstate(&mut template)?;
        let template = Arc::new(Mutex::new(template));
        Ok(Arc::new(PtracePlatform {
            shared: Arc::new(Shared {
                nursery: Nursery::new(Stubs { file, template: template.clone() }, Vec::new()),
                layout,
                clocks: clocks.0,
                vdso,
                clean_xstate,
                xcr0,
                cpus: cpu::Cpus::new(),
                template,
                _lifeline: lifeline,
            }),
        }))
    }
}

#[cfg(test)]
impl PtracePlatform {
    /// The template's process id.
    pub(crate) fn template(&self) -> crate::stub::sys::Tid {
        self.shared.template.lock().pid()
    }
}

impl Platform for PtracePlatform {
    fn name(&self) -> &'static str {
        "ptrace"
    }

    fn host_calls(&self) -> HostCalls {
        HOST_CALLS
    }

    fn places_threads(&self) -> bool {
        true
    }

    fn features(&self) -> Vec<String> {
        let vdso = if self.shared.vdso.is_some() { "vdso" } else { "no vdso" };
        vec![vdso.into(), format!("xcr0 {:#x}", self.shared.xcr0)]
    }

    fn new_address_space(&self) -> Result<Arc<dyn AddressSpace>, Error> {
        Ok(Arc::new(space::Space::new(self.shared.clone())?))
    }

    fn user_range(&self) -> (u64, u64) {
        (USER_START, self.shared.layout.base)
    }

    fn xstate_layout(&self) -> (usize, u64) {
        (self.shared.clean_xstate.len(), self.shared.xcr0)
    }

    fn vdso(&self) -> Option<VdsoImage> {
        self.shared.vdso.as_ref().and_then(Vdso::image)
    }
}

fn page(file: &Arc<MemoryFile>) -> Result<Frames, Error> {
    file.allocate(PAGE_SIZE).ok_or_else(|| Error::host("a command page", libc::ENOMEM))
}

/// The extended state of a fresh program, and XCR0. The template tells the size.
fn clean_xstate(template: &mut Template) -> Result<(Vec<u8>, u64), Error> {
    // Offsets in an XSAVE image: control words of x87 and SSE, then what Linux puts into the
    // bytes that the processor leaves to software (`xfeatures` of the host), then XSTATE_BV.
    const FCW: usize = 0;
    const MXCSR: usize = 24;
    const HOST_FEATURES: usize = 464;
    const XSTATE_BV: usize = 512;
    let mut image = vec![0; XSTATE_MAX];
    let len = template.read_xstate(&mut image)?;
    if len < XSTATE_BV + 64 {
        return Err(Error::host("extended processor state", libc::EOPNOTSUPP));
    }
    let mut word = [0; 8];
    word.copy_from_slice(&image[HOST_FEATURES..HOST_FEATURES + 8]);
    let xcr0 = u64::from_le_bytes(word);
    let mut clean = vec![0; len];
    clean[FCW..FCW + 2].copy_from_slice(&0x37fu16.to_le_bytes());
    clean[MXCSR..MXCSR + 4].copy_from_slice(&0x1f80u32.to_le_bytes());
    // x87 and SSE are in the image, everything else is in its initial state.
    clean[XSTATE_BV] = 3;
    Ok((clean, xcr0))
}

/// The host calls that this platform makes after [`PtracePlatform::new`], for the Sentry's own
/// filter; those that any Rust program makes (futex, mmap of heap memory, clone of threads,
/// sigaltstack, ...) are not listed.
///
/// | call | for |
/// |---|---|
/// | `ptrace` | SEIZE, INTERRUPT, CONT, SYSEMU, DETACH, GETREGS, SETREGS, GETREGSET, SETREGSET, GETSIGINFO, GETEVENTMSG, PEEKDATA, POKEDATA, GET_SYSCALL_INFO |
/// | `wait4`, `waitid` | stops and deaths of stubs |
/// | `kill`, `tgkill` | SIGKILL to a stub process; SIGURG to a guest thread (a kick) |
/// | `sched_setaffinity`, `getcpu` | pairs on one CPU |
/// | `sendmsg` | one descriptor at a time over the socket to the template |
/// | `recvfrom` | taking such a message back after a failure |
/// | `fallocate`, `lseek`, `fstat`, `statx` | the memory file |
/// | `clock_nanosleep` | the balancer and the memory file's reclaimer |
/// | `close` | the socket and the lifeline at the end |
const HOST_SYSCALLS: &[i64] = &[
    libc::SYS_ptrace,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_kill,
    libc::SYS_tgkill,
    libc::SYS_sched_setaffinity,
    libc::SYS_getcpu,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_fallocate,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_statx,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
];

/// See [`Platform::host_calls`].
pub(crate) const HOST_CALLS: HostCalls = HostCalls { calls: HOST_SYSCALLS, ioctls: &[] };
