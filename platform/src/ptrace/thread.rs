//! A guest thread: one host thread of a stub process, traced by the host thread that made it.

use std::rc::Rc;
use std::sync::Arc;

use std::cell::Cell;

use super::cpu::Slot;
use super::held::Stopped;
use super::space::{self, Space};
use super::sys::{self, Gone, Stop};
use crate::arch::stub::Command;
use crate::arch::{filter, stub, trap};
use crate::stub::kick::Kick;
use crate::{Clocks, Error, Fault, GuestThread, Kicker, Registers, Trap};

/// `si_code` of SIGSEGV for a page fault: `SEGV_MAPERR`, `SEGV_ACCERR`, `SEGV_PKUERR`.
const PAGE_FAULTS: [i32; 3] = [1, 2, 4];
/// `si_code` of SIGBUS for a missing page: `BUS_ADRERR`, `BUS_MCEERR_AR`.
const BUS_FAULTS: [i32; 2] = [2, 4];
/// `si_code` of a SIGSYS that seccomp sent.
const SYS_SECCOMP: i32 = 1;

/// See the module.
pub(super) struct Thread {
    space: Arc<Space>,
    stopped: Rc<Stopped>,
    kick: Arc<Kick>,
    slot: Arc<Slot>,
    /// Whether it is to be able to read the time-stamp counter, and whether it is.
    tsc: bool,
    host_tsc: Cell<bool>,
}

impl Thread {
    pub(super) fn new(space: Arc<Space>, stopped: Rc<Stopped>, place: usize) -> Thread {
        let tid = stopped.tid();
        let slot = space.shared().cpus.add(tid, place);
        let kick = Kick::new(space.pid(), tid);
        Thread { space, stopped, kick, slot, tsc: true, host_tsc: Cell::new(true) }
    }

    /// Has the thread change what it may, if that is due.
    fn apply_tsc(&self) -> Result<(), Error> {
        if self.tsc == self.host_tsc.get() {
            return Ok(());
        }
        let mode = filter::tsc_mode(self.tsc);
        let args = [libc::PR_SET_TSC as u64, mode, 0, 0, 0, 0];
        self.stopped.call_checked("PR_SET_TSC", Command::new(libc::SYS_prctl, args))?;
        self.host_tsc.set(self.tsc);
        Ok(())
    }

    /// Gives a new thread the state that Linux gives a new program: it was cloned with its
    /// manager's, which goes back to the Sentry's.
    pub(super) fn reset_xstate(&self) -> Result<(), Error> {
        self.write_xstate(&self.space.shared().clean_xstate)
    }

    fn write_xstate(&self, image: &[u8]) -> Result<(), Error> {
        if self.stopped.gone().is_some() {
            return Err(Error::StubGone);
        }
        sys::set_xstate(self.stopped.tid(), image)
    }

    fn load(&self, regs: &Registers) -> Result<(), Gone> {
        // The host must restart no system call on its own, whatever rax holds.
        let mut regs = Registers { orig_rax: u64::MAX, ..*regs };
        if self.stopped.note(|tid| sys::set_registers(tid, &regs))? {
            return Ok(());
        }
        // Values that no Linux program can have, or only by WRFSBASE and the like with an address
        // of the kernel's: those bases are lost, as they would be to a debugger.
        let user = |base: u64| if base < super::USER_END { base } else { 0 };
        regs.fs_base = user(regs.fs_base);
        regs.gs_base = user(regs.gs_base);
        (regs.cs, regs.ss) = (stub::USER_CS, stub::USER_SS);
        (regs.ds, regs.es, regs.fs, regs.gs) = (0, 0, 0, 0);
        if self.stopped.note(|tid| sys::set_registers(tid, &regs))? {
            return Ok(());
        }
        Err(Gone::Dying)
    }

    /// Lets guest code run until it stops for a reason that concerns the Sentry.
    fn run_guest(&self, regs: &mut Registers) -> Result<Trap, Gone> {
        loop {
            self.stopped.note(sys::sysemu)?;
            let stop = self.stopped.note(sys::wait)?;
            match stop {
                Stop::Syscall => {
                    self.stopped.note(|tid| sys::registers(tid, regs))?;
                    return self.syscall(regs);
                }
                Stop::Signal(signal) => {
                    if let Some(trap) = self.signal(signal, regs)? {
                        return Ok(trap);
                    }
                }
                // A group stop by a stranger's SIGSTOP: guests are not stopped that way.
                Stop::Event(_) => {}
            }
        }
    }

    fn syscall(&self, regs: &mut Registers) -> Result<Trap, Gone> {
        if trap::is_plain_syscall(regs) || self.stopped.note(sys::is_native_syscall)? {
            return Ok(Trap::Syscall);
        }
        Ok(Trap::Exception(trap::refuse_compat_syscall(regs)))
    }

    /// `None` if the signal is not the guest's doing.
    fn signal(&self, signal: i32, regs: &mut Registers) -> Result<Option<Trap>, Gone> {
        let info = self.stopped.note(sys::signal_info)?;
        if signal == libc::SIGURG && self.kick.is_wanted() {
            self.stopped.note(|tid| sys::registers(tid, regs))?;
            return Ok(Some(self.kick.taken()));
        }
        // Exceptions have a positive code; who uses kill(2) or the like has not.
        let code = info.si_code;
        if code <= 0 {
            return Ok(None);
        }
        // SAFETY: the field is read for signals that have it, below.
        let addr = unsafe { info.si_addr() as u64 };
        match (signal, code) {
            (libc::SIGSEGV, _) if PAGE_FAULTS.contains(&code) => self.fault(addr, false, regs),
            (libc::SIGBUS, _) if BUS_FAULTS.contains(&code) => self.fault(addr, true, regs),
            (libc::SIGSYS, SYS_SECCOMP) => self.vsyscall(&info, regs),
            (libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE | libc::SIGTRAP, _) => {
                self.stopped.note(|tid| sys::registers(tid, regs))?;
                let bytes = self.instruction(regs.rip);
                Ok(Some(Trap::Exception(trap::exception(regs, signal, code, addr, &bytes))))
            }
            _ => Ok(None),
        }
    }

    fn fault(&self, addr: u64, bus: bool, regs: &mut Registers) -> Result<Option<Trap>, Gone> {
        self.stopped.note(|tid| sys::registers(tid, regs))?;
        let access = trap::access_of(regs, &self.instruction(regs.rip), addr);
        Ok(Some(Trap::Fault(Fault { addr, access, bus })))
    }

    /// The guest called the vsyscall page. The host has executed its `ret` already, and the filter
    /// kept it from making the call.
    fn vsyscall(&self, info: &libc::siginfo_t, regs: &mut Registers) -> Result<Option<Trap>, Gone> {
        // `struct { void *_call_addr; int _syscall; unsigned _arch; }` behind the 16-byte head.
        // SAFETY: inside siginfo_t, which is 128 bytes and 8-aligned.
        let nr = unsafe { (&raw const *info).cast::<i32>().add(6).read() };
        if !filter::VSYSCALLS.contains(&i64::from(nr)) {
            return Ok(None);
        }
        self.stopped.note(|tid| sys::registers(tid, regs))?;
        regs.orig_rax = nr as u64;
        Ok(Some(Trap::Syscall))
    }

    /// The bytes at `rip`, as many as there are and as an instruction can have.
    fn instruction(&self, rip: u64) -> Vec<u8> {
        let tid = self.stopped.tid();
        let mut bytes = Vec::with_capacity(16);
        if let Some(word) = sys::peek(tid, rip) {
            bytes.extend(word.to_le_bytes());
            // Most instructions are short, and a look costs a microsecond.
            if trap::is_complete(&bytes) {
                return bytes;
            }
        }
        let next = rip.wrapping_add(bytes.len() as u64);
        if let Some(word) = sys::peek(tid, next) {
            bytes.extend(word.to_le_bytes());
        } else {
            // The word reaches into a page that is not there; the bytes before it count.
            let left = (next.wrapping_neg() % crate::PAGE_SIZE) as usize;
            if (1..8).contains(&left)
                && let Some(word) = sys::peek(tid, next.wrapping_sub(8 - left as u64))
            {
                bytes.extend(&word.to_le_bytes()[8 - left..]);
            }
        }
        bytes.truncate(trap::INSTRUCTION_MAX);
        bytes
    }
}

impl GuestThread for Thread {
    fn run(&mut self, regs: &mut Registers) -> Result<Trap, Error> {
        self.space.flush(&self.stopped)?;
        self.apply_tsc()?;
        if !self.kick.start() {
            return Ok(Trap::Kicked);
        }
        let cpus = &self.space.shared().cpus;
        cpus.enter(&self.slot);
        let result = self.load(regs).and_then(|()| self.run_guest(regs));
        cpus.leave(&self.slot);
        self.kick.stop();
        Ok(result?)
    }

    fn kicker(&self) -> Arc<dyn Kicker> {
        self.kick.clone()
    }

    fn set_tsc(&mut self, readable: bool) {
        if self.space.shared().clocks == Clocks::Native {
            self.tsc = readable;
        }
    }

    fn xstate(&mut self) -> Result<Vec<u8>, Error> {
        let mut image = vec![0; self.space.shared().clean_xstate.len()];
        let len = self.stopped.note(|tid| sys::xstate(tid, &mut image))?;
        image.truncate(len);
        Ok(image)
    }

    fn set_xstate(&mut self, image: &[u8]) -> Result<(), Error> {
        self.write_xstate(image)
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        let cpus = &self.space.shared().cpus;
        cpus.remove(&self.slot);
        if space::forget(&self.stopped) {
            cpus.unsettle();
        }
        self.stopped.exit();
    }
}
