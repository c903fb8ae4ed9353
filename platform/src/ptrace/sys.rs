//! ptrace(2), wait4(2) and friends, typed. No state.
//!
//! Everything here must be called on the host thread that traces `tid`, except [`kill`],
//! [`tgkill`] and [`reap`].

pub(super) use crate::stub::sys::*;
use crate::{Error, Registers};

/// `NT_X86_XSTATE` of `<linux/elf.h>`.
const NT_X86_XSTATE: usize = 0x202;
const PTRACE_GET_SYSCALL_INFO: libc::c_uint = 0x420e;
/// `AUDIT_ARCH_X86_64` of `<linux/audit.h>`.
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

/// Options for stubs that must die with their tracer and tell system calls from traps.
pub(super) const OPTIONS: i32 = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
/// The same, with new tasks attached to the tracer as well.
pub(super) const OPTIONS_CLONE: i32 = OPTIONS | libc::PTRACE_O_TRACECLONE;

/// The tracee died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gone {
    /// Somebody must still wait for it.
    Dying,
    /// Its id may belong to somebody else by now.
    Reaped,
}

impl From<Gone> for Error {
    fn from(_: Gone) -> Error {
        Error::StubGone
    }
}

/// Why a tracee stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// At the entry of a system call.
    Syscall,
    /// A signal is about to be delivered.
    Signal(i32),
    /// A `PTRACE_EVENT_*` stop.
    Event(i32),
}

fn ptrace(request: libc::c_uint, tid: Tid, addr: usize, data: usize) -> Result<i64, i32> {
    // SAFETY: callers pass addresses of live buffers of the size that the request needs.
    let result = unsafe { libc::ptrace(request, tid, addr, data) };
    if result == -1 { Err(crate::errno()) } else { Ok(result) }
}

/// As [`ptrace`] for a stopped tracee of ours: the only thing that can go wrong is its death.
fn ptrace_stopped(request: libc::c_uint, tid: Tid, addr: usize, data: usize) -> Result<(), Gone> {
    ptrace(request, tid, addr, data).map(|_| ()).map_err(|_| Gone::Dying)
}

/// Becomes the tracer of a running thread.
pub(super) fn seize(tid: Tid, options: i32) -> Result<(), Error> {
    ptrace(libc::PTRACE_SEIZE, tid, 0, options as usize).map(|_| ()).map_err(|errno| match errno {
        libc::ESRCH => Error::StubGone,
        errno => Error::host("PTRACE_SEIZE", errno),
    })
}

/// Asks for a [`Stop::Event`] of a seized thread.
pub(super) fn interrupt(tid: Tid) -> Result<(), Gone> {
    ptrace_stopped(libc::PTRACE_INTERRUPT, tid, 0, 0)
}

/// Lets a stopped thread go on, with its host calls going to the host.
pub(super) fn cont(tid: Tid) -> Result<(), Gone> {
    ptrace_stopped(libc::PTRACE_CONT, tid, 0, 0)
}

/// Lets a stopped thread go on until its next system call, which the host does not execute.
pub(super) fn sysemu(tid: Tid) -> Result<(), Gone> {
    ptrace_stopped(libc::PTRACE_SYSEMU, tid, 0, 0)
}

/// Lets a stopped thread go on, untraced.
pub(super) fn detach(tid: Tid) -> Result<(), Gone> {
    ptrace_stopped(libc::PTRACE_DETACH, tid, 0, 0)
}

pub(super) fn registers(tid: Tid, regs: &mut Registers) -> Result<(), Gone> {
    ptrace_stopped(libc::PTRACE_GETREGS, tid, 0, &raw mut *regs as usize)
}

/// Sets all general registers. `Ok(false)` if the host finds a value unacceptable (a segment
/// selector, or a segment base outside user space); some registers are then set.
pub(super) fn set_registers(tid: Tid, regs: &Registers) -> Result<bool, Gone> {
    match ptrace(libc::PTRACE_SETREGS, tid, 0, &raw const *regs as usize) {
        Ok(_) => Ok(true),
        Err(libc::EIO) => Ok(false),
        Err(_) => Err(Gone::Dying),
    }
}

/// The signal of a [`Stop::Signal`].
pub(super) fn signal_info(tid: Tid) -> Result<libc::siginfo_t, Gone> {
    // SAFETY: all-zero is a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    ptrace_stopped(libc::PTRACE_GETSIGINFO, tid, 0, &raw mut info as usize)?;
    Ok(info)
}

/// The message of a [`Stop::Event`]: the new task's id for a clone.
pub(super) fn event_message(tid: Tid) -> Result<u64, Gone> {
    let mut message: libc::c_ulong = 0;
    ptrace_stopped(libc::PTRACE_GETEVENTMSG, tid, 0, &raw mut message as usize)?;
    Ok(message)
}

/// Whether a [`Stop::Syscall`] is a 64-bit system call.
pub(super) fn is_native_syscall(tid: Tid) -> Result<bool, Gone> {
    // `struct ptrace_syscall_info`: the architecture stands at offset 4.
    let mut info = [0u32; 22];
    match ptrace(PTRACE_GET_SYSCALL_INFO, tid, size_of_val(&info), &raw mut info as usize) {
        Ok(_) => Ok(info[1] == AUDIT_ARCH_X86_64),
        Err(libc::ESRCH) => Err(Gone::Dying),
        // A host before 5.3 cannot tell; then it is none of ours.
        Err(_) => Ok(false),
    }
}

/// Reads a word of the tracee's memory. `None` if it cannot be read.
pub(super) fn peek(tid: Tid, addr: u64) -> Option<u64> {
    let mut word = 0u64;
    // SAFETY: the raw system call (unlike libc's wrapper) stores the word at the address in
    // its last argument.
    let result =
        unsafe { libc::syscall(libc::SYS_ptrace, libc::PTRACE_PEEKDATA, tid, addr, &raw mut word) };
    (result == 0).then_some(word)
}

/// Writes a word of the tracee's memory.
pub(super) fn poke(tid: Tid, addr: u64, word: u64) -> Result<(), Gone> {
    ptrace_stopped(libc::PTRACE_POKEDATA, tid, addr as usize, word as usize)
}

/// Reads the extended state into `image`; returns its size.
pub(super) fn xstate(tid: Tid, image: &mut [u8]) -> Result<usize, Gone> {
    let mut iov = libc::iovec { iov_base: image.as_mut_ptr().cast(), iov_len: image.len() };
    ptrace_stopped(libc::PTRACE_GETREGSET, tid, NT_X86_XSTATE, &raw mut iov as usize)?;
    Ok(iov.iov_len)
}

/// Sets the extended state, which the host validates.
pub(super) fn set_xstate(tid: Tid, image: &[u8]) -> Result<(), Error> {
    let mut iov = libc::iovec { iov_base: image.as_ptr() as *mut _, iov_len: image.len() };
    match ptrace(libc::PTRACE_SETREGSET, tid, NT_X86_XSTATE, &raw mut iov as usize) {
        Ok(_) => Ok(()),
        Err(libc::ESRCH) => Err(Error::StubGone),
        Err(errno) => Err(Error::host("PTRACE_SETREGSET", errno)),
    }
}

/// As [`wait`] for a thread that may just have cloned another one. If both are killed before the
/// clone is reported, nobody knows the other one, and yet a leader cannot be waited for until that
/// is reaped. So it never waits for `tid` alone: the kill may come at any moment, also after a stop was
/// seen.
pub(super) fn wait_cloning(tid: Tid) -> Result<Stop, Gone> {
    let any = libc::WEXITED | libc::WSTOPPED | libc::WNOWAIT | libc::__WALL | libc::__WNOTHREAD;
    loop {
        // SAFETY: all-zero is a valid siginfo_t, which the call fills.
        let (who, dead) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            if libc::waitid(libc::P_ALL, 0, &mut info, any) != 0 && crate::errno() != libc::EINTR {
                return Err(Gone::Reaped);
            }
            let dead = [libc::CLD_EXITED, libc::CLD_KILLED, libc::CLD_DUMPED];
            (info.si_pid(), dead.contains(&info.si_code))
        };
        if dead && who != tid {
            try_reap(who);
        } else if let Some(result) = wait_with(tid, libc::WNOHANG) {
            return result;
        } else {
            // The new thread's first stop is there already; that of `tid` is about to be.
            std::thread::yield_now();
        }
    }
}

/// Waits until `tid` stops. When it died instead, it is reaped (unless it leads a group that still
/// has threads).
pub(super) fn wait(tid: Tid) -> Result<Stop, Gone> {
    wait_with(tid, 0).unwrap_or(Err(Gone::Reaped))
}

/// As [`wait`], with more flags. `None` if with `WNOHANG` there is nothing to tell.
fn wait_with(tid: Tid, flags: libc::c_int) -> Option<Result<Stop, Gone>> {
    let flags = flags | libc::__WALL;
    let mut status = 0;
    loop {
        // SAFETY: plain system call with a live buffer.
        match unsafe { libc::wait4(tid, &mut status, flags, std::ptr::null_mut()) } {
            0 => return None,
            result if result == tid => break,
            -1 if crate::errno() == libc::EINTR => {}
            _ => return Some(Err(Gone::Reaped)),
        }
    }
    if !libc::WIFSTOPPED(status) {
        return Some(Err(Gone::Reaped));
    }
    let signal = libc::WSTOPSIG(status);
    Some(Ok(match (status >> 16, signal) {
        (0, s) if s == libc::SIGTRAP | 0x80 => Stop::Syscall,
        (0, s) => Stop::Signal(s),
        (event, _) => Stop::Event(event),
    }))
}
