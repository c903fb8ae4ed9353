//! How the template process comes to be: forked from the Sentry while that is still single-threaded
//! and not locked down, stripped of everything, and left asleep in stub code.
//!
//! The child is a copy of a process that may have had other threads, so it makes system calls on
//! prepared data only: no allocation, no locks, no panics.

use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::sys::{self, Tid};
use crate::{Clocks, Error, PAGE_SIZE};

/// Bytes of the stack on which the child sets itself up.
const STACK_LEN: usize = 64 << 10;

/// What a template is like.
pub(crate) struct Template<'a> {
    /// What is mapped for the stub's own use.
    pub(crate) pages: &'a [Page<'a>],
    /// Where it goes on once it is set up, with nothing in its registers. The code there must close
    /// the last descriptor and then wait.
    pub(crate) entry: u64,
    /// The seccomp filter of the template and all that comes of it.
    pub(crate) filter: &'a mut [libc::sock_filter],
    /// Become descriptors 0, 1 and 2.
    pub(crate) fds: [RawFd; 3],
    /// Signals that are handled by stub code.
    pub(crate) handlers: Option<Handlers>,
    /// Whether somebody without privileges may trace it.
    pub(crate) traceable: bool,
    /// Where the vDSO's parts are, where they are to be, and their lengths.
    pub(crate) vdso: &'a [(u64, u64, u64)],
    /// What it and all that comes of it knows of the time.
    pub(crate) clocks: Clocks,
}

/// A page of the template's own.
pub(crate) struct Page<'a> {
    /// Its address.
    pub(crate) at: u64,
    /// What it starts with.
    pub(crate) content: &'a [u8],
    /// `PROT_*` once it is filled; such pages can never be changed again if they are not writable.
    pub(crate) prot: i32,
    /// Whether stub processes have a copy.
    pub(crate) inherited: bool,
}

/// One handler for all these signals, on the alternate stack and without blocking any.
#[derive(Clone, Copy)]
pub(crate) struct Handlers {
    /// Where it begins.
    pub(crate) entry: u64,
    /// What it would return to; it does not.
    pub(crate) restorer: u64,
    /// Which.
    pub(crate) signals: &'static [i32],
}

/// What the child needs, by value.
struct Plan<'a> {
    template: &'a Template<'a>,
    filter: libc::sock_fprog,
    /// Become descriptors 0, 1, 2 and 3.
    fds: [RawFd; 4],
    /// Where the intermediate process leaves the template's id, or a negative errno.
    child: i64,
}

/// The steps of the child; its exit status names the one that failed.
#[derive(Clone, Copy)]
#[repr(i32)]
enum Step {
    Session = 1,
    Signals,
    Limits,
    Descriptors,
    Capabilities,
    Memory,
    Filter,
    Clocks,
}

impl Step {
    fn name(status: i32) -> &'static str {
        match status {
            1 => "setsid of the stub template",
            2 => "signal set-up of the stub template",
            3 => "limits of the stub template",
            4 => "descriptors of the stub template",
            5 => "dropping capabilities of the stub template",
            6 => "memory of the stub template",
            7 => "seccomp filter of the stub template",
            8 => "PR_SET_TSC of the stub template",
            _ => "set-up of the stub template",
        }
    }
}

/// Starts the template. It still has a copy of all the Sentry's memory; the caller has it removed.
pub(crate) fn template(template: &mut Template<'_>) -> Result<Tid, Error> {
    let (ready, child_ready): (OwnedFd, OwnedFd) = sys::pipe()?;
    let filter = libc::sock_fprog {
        len: template.filter.len() as u16,
        filter: template.filter.as_mut_ptr(),
    };
    let [a, b, c] = template.fds;
    let fds = [a, b, c, child_ready.as_raw_fd()];
    let mut plan = Plan { template, filter, fds, child: 0 };
    let mut stack = vec![0u128; STACK_LEN / 16];
    // Two steps: a child that shares our memory loses the restartable-sequence area that libc
    // registered, which a plain fork would inherit and the host would go on writing to.
    // SAFETY: `intermediate` gets a stack of its own and, by CLONE_VFORK, `plan` to itself; this
    // thread sleeps until it is done.
    let helper = unsafe {
        libc::clone(
            intermediate,
            stack.as_mut_ptr().add(stack.len()).cast(),
            libc::CLONE_VM | libc::CLONE_VFORK,
            (&raw mut plan).cast(),
        )
    };
    if helper < 0 {
        return Err(Error::last("clone of the stub template"));
    }
    sys::reap(helper);
    // SAFETY: initialised above; written by `intermediate`, which is gone.
    let pid = unsafe { (&raw const plan.child).read_volatile() };
    if pid <= 0 {
        return Err(Error::host("clone of the stub template", -pid as i32));
    }
    let pid = pid as Tid;
    drop(child_ready);
    // End of file comes when the child closed its end, as its last step, or when it is dead.
    let mut none = Vec::new();
    std::fs::File::from(ready)
        .read_to_end(&mut none)
        .map_err(|e| Error::Host { what: "read from the stub template", source: e })?;
    let mut status = 0;
    // SAFETY: plain system call with a live buffer.
    match unsafe { libc::waitpid(pid, &mut status, libc::__WALL | libc::WNOHANG) } {
        0 => Ok(pid),
        _ if libc::WIFEXITED(status) => Err(Error::Host {
            what: Step::name(libc::WEXITSTATUS(status)),
            source: std::io::Error::other("failed in the child"),
        }),
        _ => Err(Error::StubGone),
    }
}

/// Shares the Sentry's memory; makes the template, which does not.
extern "C" fn intermediate(plan: *mut libc::c_void) -> i32 {
    let plan = plan.cast::<Plan<'_>>();
    // SAFETY: a raw clone without a new stack continues both on this one, the child on its copy.
    // CLONE_PARENT makes the template a child of the Sentry, and hands on the exit signal: none, so
    // that the Sentry's SIGCHLD disposition does not matter.
    unsafe {
        let pid = libc::syscall(libc::SYS_clone, libc::CLONE_PARENT, 0, 0, 0, 0);
        if pid == 0 {
            become_template(&*plan);
        }
        let outcome = if pid < 0 { -i64::from(*libc::__errno_location()) } else { pid };
        (&raw mut (*plan).child).write_volatile(outcome);
    }
    0
}

fn become_template(plan: &Plan<'_>) -> ! {
    // SAFETY: the calls below change this process only, which is about to lose all it has.
    unsafe {
        let step = match set_up(plan) {
            Ok(()) => crate::arch::enter(plan.template.entry),
            Err(step) => step,
        };
        libc::_exit(step as i32)
    }
}

/// # Safety
/// Only in the template: it takes its process apart.
unsafe fn set_up(plan: &Plan<'_>) -> Result<(), Step> {
    let check = |ok: bool, step: Step| if ok { Ok(()) } else { Err(step) };
    // SAFETY: as the caller promises; all buffers are live.
    unsafe {
        // Away from the terminal's process group: its Ctrl-C is for the Sentry.
        check(libc::setsid() >= 0, Step::Session)?;
        reset_signals(plan.template.handlers).map_err(|()| Step::Signals)?;
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        check(libc::setrlimit(libc::RLIMIT_CORE, &none) == 0, Step::Limits)?;
        libc::prctl(libc::PR_SET_NAME, c"rsentry-stub".as_ptr());
        move_descriptors(&plan.fds).map_err(|()| Step::Descriptors)?;
        check(drop_capabilities(), Step::Capabilities)?;
        let traceable = libc::c_ulong::from(plan.template.traceable);
        // Otherwise the Sentry could not trace it after a change of user ids.
        check(libc::prctl(libc::PR_SET_DUMPABLE, traceable, 0, 0, 0) == 0, Step::Capabilities)?;
        for &(from, to, len) in plan.template.vdso {
            check(move_vdso(from, to, len), Step::Memory)?;
        }
        for page in plan.template.pages {
            check(map(page), Step::Memory)?;
        }
        if plan.template.clocks == Clocks::Trapped {
            let trapped = libc::prctl(libc::PR_SET_TSC, libc::PR_TSC_SIGSEGV, 0, 0, 0);
            check(trapped == 0, Step::Clocks)?;
        }
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, Step::Filter)?;
        check(
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                // Guest code must not run with speculation switched off on our account.
                libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
                &raw const plan.filter,
            ) == 0,
            Step::Filter,
        )
    }
}

/// Default actions but for `handlers`, nothing blocked, no alternate stack.
unsafe fn reset_signals(handlers: Option<Handlers>) -> Result<(), ()> {
    // SAFETY: all-zero is SIG_DFL, an empty mask, and a valid stack_t.
    unsafe {
        let action: libc::sigaction = std::mem::zeroed();
        for signal in 1..=64 {
            if signal != libc::SIGKILL && signal != libc::SIGSTOP {
                libc::sigaction(signal, &action, std::ptr::null_mut());
            }
        }
        if let Some(handlers) = handlers
            && !install(handlers)
        {
            return Err(());
        }
        let mask: libc::sigset_t = std::mem::zeroed();
        if libc::sigprocmask(libc::SIG_SETMASK, &mask, std::ptr::null_mut()) != 0 {
            return Err(());
        }
        let mut stack: libc::stack_t = std::mem::zeroed();
        stack.ss_flags = libc::SS_DISABLE;
        libc::sigaltstack(&stack, std::ptr::null_mut());
    }
    Ok(())
}

/// Moves `fds` to 0, 1, 2, ... and closes all others.
unsafe fn move_descriptors(fds: &[RawFd; 4]) -> Result<(), ()> {
    let first_other = fds.len() as i32;
    let mut copies = [-1; 4];
    // SAFETY: plain system calls on this process's own table.
    unsafe {
        for (copy, &fd) in copies.iter_mut().zip(fds) {
            *copy = libc::fcntl(fd, libc::F_DUPFD, first_other);
            if *copy < 0 {
                return Err(());
            }
        }
        for (target, &copy) in copies.iter().enumerate() {
            if libc::dup2(copy, target as i32) < 0 {
                return Err(());
            }
        }
        if libc::syscall(libc::SYS_close_range, first_other, u32::MAX, 0) != 0 {
            return Err(());
        }
    }
    Ok(())
}

unsafe fn drop_capabilities() -> bool {
    // `struct __user_cap_header_struct` with _LINUX_CAPABILITY_VERSION_3, and two empty
    // `__user_cap_data_struct`.
    let header = [0x2008_0522u32, 0];
    let data = [0u32; 6];
    // SAFETY: both have the layout that version 3 prescribes.
    unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) == 0 }
}

/// Past libc, whose restorer is about to be unmapped.
unsafe fn install(handlers: Handlers) -> bool {
    const SA_RESTORER: u64 = 0x0400_0000;
    let flags = (libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER | libc::SA_RESTART) as u64;
    // The host's `struct sigaction`: handler, flags, restorer, mask.
    let action = [handlers.entry, flags | SA_RESTORER, handlers.restorer, 0];
    handlers.signals.iter().all(|&signal| {
        // SAFETY: the action is live and laid out as the host has it; the set has 8 bytes.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), 0usize, 8usize) == 0
        }
    })
}

/// Moves a part of the vDSO to where stubs have it. Each is a mapping of its own.
unsafe fn move_vdso(from: u64, to: u64, len: u64) -> bool {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: this process asks for the time by the vDSO no more, and hosts put nothing at `to`.
    unsafe {
        let to = to as *mut libc::c_void;
        libc::mremap(from as *mut _, len as usize, len as usize, flags, to) == to
    }
}

/// Maps and fills one of the stub's own pages.
unsafe fn map(page: &Page<'_>) -> bool {
    let len = PAGE_SIZE as usize;
    // SAFETY: the stub's range is ours; whatever lies there is a copy that goes away anyhow, and
    // nothing that runs from here on is in it (the caller's stack comes from the heap). The page is
    // mapped writable when it is filled.
    unsafe {
        let at = libc::mmap(
            page.at as *mut libc::c_void,
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
            -1,
            0,
        );
        if at == libc::MAP_FAILED || page.content.len() > len {
            return false;
        }
        std::ptr::copy_nonoverlapping(page.content.as_ptr(), at.cast(), page.content.len());
        if libc::mprotect(at, len, page.prot) != 0
            || !page.inherited && libc::madvise(at, len, libc::MADV_DONTFORK) != 0
        {
            return false;
        }
        if page.prot & libc::PROT_WRITE == 0 {
            // A host before 6.10 cannot seal.
            libc::syscall(libc::SYS_mseal, at, len, 0);
        }
        true
    }
}
