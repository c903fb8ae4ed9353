//! Runs guest code until it needs the kernel.
//!
//! A [`Platform`] makes address spaces; an [`AddressSpace`] is one host process (a *stub*) whose
//! mappings the Sentry dictates; a [`GuestThread`] is one host thread in it. The Sentry has one
//! host thread per guest thread, which calls [`GuestThread::run`], handles the [`Trap`], and calls
//! it again.
//!
//! All guest memory that is not a mapping of a host file lives in the [`MemoryFile`].
//! Everything that touches guest-writable memory goes through [`usercopy`].
//!
//! Lock order: address-space queue -> memory-file allocator.

use std::any::Any;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

mod arch;
mod choose;
pub mod load;
pub mod memory_file;
pub mod mock;
pub mod notify;
pub mod place;
pub mod ptrace;
mod stub;
#[cfg(test)]
mod tests;
pub mod usercopy;

pub use choose::{Choice, NEEDS, Needs, Opened, open};
pub use memory_file::{Frames, Loan, MemoryFile};

/// Size of a page of guest memory, in bytes.
pub const PAGE_SIZE: u64 = 4096;

/// The general-purpose registers of a guest thread, laid out as `struct user_regs_struct`
/// (`arch/x86/include/asm/user_64.h`).
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
)]
#[repr(C)]
#[allow(missing_docs)] // The names are the hardware's.
pub struct Registers {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// The system call's number while one is being handled, -1 otherwise.
    pub orig_rax: u64,
    pub rip: u64,
    pub cs: u64,
    pub eflags: u64,
    pub rsp: u64,
    pub ss: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub ds: u64,
    pub es: u64,
    pub fs: u64,
    pub gs: u64,
}

/// What a guest may do with a range of its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Prot {
    pub read: bool,
    pub write: bool,
    pub exec: bool,
}

impl Prot {
    /// No access.
    pub const NONE: Prot = Prot { read: false, write: false, exec: false };
    /// Read only.
    pub const READ: Prot = Prot { read: true, write: false, exec: false };
    /// Read and write.
    pub const READ_WRITE: Prot = Prot { read: true, write: true, exec: false };
}

/// Whether guest code can tell the time without asking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clocks {
    /// By the host's vDSO and by the time-stamp counter.
    #[default]
    Native,
    /// No: there is no vDSO, and reading the counter is a general protection fault
    /// ([`Trap::Exception`]) whatever [`GuestThread::set_tsc`] said.
    Trapped,
}

/// Where the bytes of a mapping come from.
#[derive(Clone)]
pub enum Source {
    /// A range of the memory file, starting at this offset. Mapped `MAP_SHARED`.
    Memory {
        /// Offset in the memory file, in bytes, page-aligned.
        offset: u64,
        /// Whether others may write there without changing this mapping.
        shared: bool,
    },
    /// A host file that the gofer donated.
    Host {
        /// The file; kept open for as long as the mapping is queued or present.
        file: Arc<OwnedFd>,
        /// Offset in the file, in bytes, page-aligned.
        offset: u64,
        /// `MAP_SHARED` if set (writes reach the file), else `MAP_PRIVATE`, never written.
        shared: bool,
    },
}

/// Why [`GuestThread::run`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// The guest executed `syscall`. `orig_rax` holds the number, `rip` points behind the
    /// instruction, `rax` is undefined: the Sentry must set it.
    Syscall,
    /// An access to memory that the stub's page tables do not allow (SIGSEGV or SIGBUS on the host
    /// with a valid address). `rip` points at the instruction.
    Fault(Fault),
    /// Any other exception: the signal Linux would raise for it.
    Exception(Exception),
    /// Somebody called [`Kicker::kick`].
    Kicked,
}

/// A page fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The address that was accessed.
    pub addr: u64,
    /// What was tried. Exactly one of write/exec/read is set.
    pub access: Prot,
    /// Whether the host said SIGBUS (a host file shrank under its mapping).
    pub bus: bool,
}

/// An exception other than a page fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// SIGSEGV (general protection), SIGBUS, SIGILL, SIGFPE or SIGTRAP.
    pub signo: i32,
    /// `si_code`.
    pub code: i32,
    /// `si_addr`.
    pub addr: u64,
    /// The hardware's vector, as `sigcontext.trapno` shows it.
    pub trapno: u64,
    /// The hardware's error code, as `sigcontext.err` shows it.
    pub err: u64,
}

/// Why a guest thread cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stub process is gone (killed by the host: OOM, an operator, a broken invariant).
    #[error("the stub process is gone")]
    StubGone,
    /// A host call failed.
    #[error("{what}: {source}")]
    Host {
        /// Which call, for the operator.
        what: &'static str,
        /// The host's answer.
        source: io::Error,
    },
    /// The host does not have what a platform needs. The text says which, and what is missing.
    #[error("{0}")]
    Unavailable(String),
}

impl Error {
    /// A host call failed with this errno.
    pub(crate) fn host(what: &'static str, errno: i32) -> Error {
        Error::Host { what, source: io::Error::from_raw_os_error(errno) }
    }

    /// A host call failed just now.
    pub(crate) fn last(what: &'static str) -> Error {
        Error::Host { what, source: io::Error::last_os_error() }
    }
}

/// The calling thread's errno.
pub(crate) fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Reads what platforms need to know from the host's `/proc`. For a process that is about to fork
/// one without `/proc`, in which a platform is made then.
pub fn look_around() {
    stub::vdso::Vdso::find();
}

/// What [`AddressSpace::cpu_ns`] came to in all address spaces that are gone.
pub fn past_cpu_ns() -> u64 {
    stub::sys::past_cpu_ns()
}

/// The host calls that a platform makes in a Sentry that is locked down, besides those that any
/// Rust program makes (threads, futexes, heap memory, signal return).
#[derive(Clone, Copy, Debug)]
pub struct HostCalls {
    /// Their numbers. Not `ioctl`.
    pub calls: &'static [i64],
    /// The commands of the `ioctl`s among them.
    pub ioctls: &'static [u32],
}

impl HostCalls {
    /// None at all.
    pub const NONE: HostCalls = HostCalls { calls: &[], ioctls: &[] };
}

/// A way to run guest code.
pub trait Platform: Send + Sync {
    /// `"ptrace"`, `"notify"`, `"mock"`.
    fn name(&self) -> &'static str;
    /// The host calls that it makes from now on.
    fn host_calls(&self) -> HostCalls;
    /// What it found on the host that not every host has, for the log: `"vdso"`, for example.
    fn features(&self) -> Vec<String>;
    /// What it counted since it began: `("rings", 17)`, for example. For the log and the bench.
    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
    /// Whether it chooses the CPUs of the Sentry's threads by itself. Else, [`place::Place`] may.
    fn places_threads(&self) -> bool {
        false
    }
    /// A blank address space, with nothing in it but the stub's own pages and the vDSO.
    fn new_address_space(&self) -> Result<Arc<dyn AddressSpace>, Error>;
    /// Lowest and one past the highest address that a guest may map. The stub's own pages lie
    /// outside.
    fn user_range(&self) -> (u64, u64);
    /// The layout of the extended processor state that [`GuestThread::xstate`] returns:
    /// the size in bytes of the XSAVE image, and XCR0.
    fn xstate_layout(&self) -> (usize, u64);
    /// The vDSO that every address space carries, if the platform provides one. Not with
    /// [`Clocks::Trapped`].
    fn vdso(&self) -> Option<VdsoImage>;
}

/// The host's vDSO as the stubs have it. Every fresh address space has it (with the vvar pages
/// before it) at `base`; [`AddressSpace::move_vdso`] puts it elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct VdsoImage {
    /// Address of the first vvar page in a fresh address space.
    pub vvar_base: u64,
    /// Bytes of vvar pages; the code follows directly.
    pub vvar_len: u64,
    /// Bytes of code pages.
    pub code_len: u64,
    /// Where the Sentry itself can read the same code pages (its own vDSO).
    pub sentry_code: *const u8,
}
// SAFETY: `sentry_code` points at the Sentry's own vDSO, mapped read-only for the life of the
// process.
unsafe impl Send for VdsoImage {}
// SAFETY: as above.
unsafe impl Sync for VdsoImage {}

/// One guest address space.
///
/// `map`, `unmap` and `protect` are *queued*, in order: they take effect before any thread of this
/// space executes another guest instruction after its own trap. [`AddressSpace::sync`] waits until
/// they hold for every thread. They may be called from any Sentry thread. Ranges are page-aligned,
/// non-empty, and inside [`Platform::user_range`]; the caller has checked that.
pub trait AddressSpace: Send + Sync {
    /// Maps `len` bytes at `addr`, replacing what is there. `populate` asks for page tables to be
    /// filled for pages that are present in the source already.
    fn map(&self, addr: u64, len: u64, prot: Prot, source: Source, populate: bool);
    /// Unmaps a range. `keep` is dropped once no thread can reach the range any more: hand the
    /// [`Frames`] that backed it over here, so that they are not reused too early.
    fn unmap(&self, addr: u64, len: u64, keep: Option<Box<dyn Any + Send>>);
    /// Changes the access of mapped pages in a range. Holes are skipped.
    fn protect(&self, addr: u64, len: u64, prot: Prot);
    /// The Sentry has written to memory in a range that the guest itself may not write, and may have
    /// changed code there. As with the others: what the guest executes once this holds is new.
    fn rewritten(&self, addr: u64, len: u64) {
        let _ = (addr, len);
    }
    /// Moves vvar and vDSO of a fresh address space so that vvar starts at `vvar_base`.
    fn move_vdso(&self, vvar_base: u64);
    /// Removes the vDSO (the guest unmapped it).
    fn unmap_vdso(&self);
    /// Drops `keep` once everything queued so far holds for every thread.
    fn defer(&self, keep: Box<dyn Any + Send>);
    /// Returns when no thread of this space can execute a guest instruction under mappings older
    /// than what was queued before the call. Kicks running threads if it has to. May block for as
    /// long as that takes; never for a guest's pleasure.
    fn sync(&self);
    /// The last guest thread is gone, and the last reference about to be dropped. Takes `rest`, what
    /// backed the mappings, to drop it once nothing can reach it any more, if that happens later and
    /// elsewhere; hands it back where it holds when the last reference was dropped.
    fn leave(&self, rest: Box<dyn Any + Send>) -> Option<Box<dyn Any + Send>> {
        Some(rest)
    }
    /// Takes over what the platform found out about the code of the address space that this one is a
    /// copy of. To be called once everything is mapped as it is there, before code runs.
    fn inherit(&self, parent: &dyn AddressSpace) {
        let _ = parent;
    }
    /// Processor time that the guest threads of this space have had so far, by the host's account,
    /// in nanoseconds.
    fn cpu_ns(&self) -> u64 {
        0
    }
    /// The platform's own type, for [`AddressSpace::inherit`].
    fn as_any(&self) -> Option<&dyn Any> {
        None
    }
    /// As [`AddressSpace::new_thread`], but any host thread may run it. `None` where the platform has
    /// no such guest threads.
    fn new_movable_thread(self: Arc<Self>) -> Result<Option<Box<dyn GuestThread + Send>>, Error> {
        Ok(None)
    }
    /// A new, stopped guest thread, to be run by the calling host thread only. It keeps the `Arc`
    /// for as long as it can execute guest code, so that counting tells who could.
    fn new_thread(self: Arc<Self>) -> Result<Box<dyn GuestThread>, Error>;
}

/// One guest thread. Bound to the host thread that created it, unless it is a movable one; dropping
/// it ends the stub thread.
pub trait GuestThread {
    /// Runs guest code with `regs` until it traps; `regs` then holds the guest's registers. After
    /// [`Trap::Syscall`], only the call's number (orig_rax, rax) and its six arguments need be there:
    /// before the caller looks at others, or changes any but rax, it is to [complete](Self::complete)
    /// them. Most calls need no more, and the rest costs.
    ///
    /// Applies queued commands of the address space first. A `kick` that came while the thread was
    /// not running makes the next `run` return [`Trap::Kicked`] at once.
    fn run(&mut self, regs: &mut Registers) -> Result<Trap, Error>;
    /// Fills in what [`GuestThread::run`] left out of `regs`; rax stays. May be called again.
    fn complete(&mut self, regs: &mut Registers) -> Result<(), Error> {
        let _ = regs;
        Ok(())
    }
    /// A handle that other threads use to get this one back into the Sentry.
    fn kicker(&self) -> Arc<dyn Kicker>;
    /// From now on, the platform may answer these system calls (number, result) by itself, and no
    /// others. At first it answers none.
    fn set_answers(&mut self, answers: &[(u64, u64)]) -> Result<(), Error> {
        let _ = answers;
        Ok(())
    }
    /// Whether the guest may read the time-stamp counter from now on (`PR_SET_TSC`). At first it
    /// may; otherwise RDTSC and RDTSCP are general protection faults: [`Trap::Exception`]. With
    /// [`Clocks::Trapped`] they are in any case.
    fn set_tsc(&mut self, readable: bool);
    /// Reads the extended state (x87, SSE, AVX, ...) as an XSAVE image in standard format.
    fn xstate(&mut self) -> Result<Vec<u8>, Error>;
    /// Replaces the extended state. The host validates it: a malformed image gives an error and
    /// leaves the state as it was.
    fn set_xstate(&mut self, image: &[u8]) -> Result<(), Error>;
}

/// Gets a running guest thread back into the Sentry. Never blocks.
pub trait Kicker: Send + Sync {
    /// Makes the current or next `run` of the thread return [`Trap::Kicked`].
    fn kick(&self);
}
