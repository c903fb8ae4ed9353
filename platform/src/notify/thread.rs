//! A guest thread.

use std::sync::Arc;

use super::body::{Body, Event};
use super::quiet::Runner;
use super::space::Space;
use crate::arch::doorbell::{self as code, Control, Frame, XSAVE_AREA, Zone};
use crate::arch::filter::AUDIT_ARCH_X86_64;
use crate::arch::stub::{USER_CS, USER_SS};
use crate::arch::trap;
use crate::stub::kick::Kick;
use crate::stub::sys::Tid;
use crate::{Clocks, Error, Exception, Fault, GuestThread, Kicker, Prot, Registers, Trap};

/// The 32-bit user code segment of Linux.
const USER32_CS: u64 = 0x23;
/// First address that is not canonical.
const CANONICAL_END: u64 = 1 << 47;

/// Where the guest's extended state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Xstate {
    /// In the processor, or wherever the host keeps a thread's.
    Live,
    /// In the block, at this offset.
    Saved(u64),
}

/// See the module.
pub(super) struct Thread {
    space: Arc<Space>,
    /// `None` only while it is dropped.
    body: Option<Body>,
    tid: Tid,
    kick: Arc<Kick>,
    runner: Arc<Runner>,
    xstate: Xstate,
    /// What the guest goes on with, or last asked with.
    regs: Registers,
    /// The last request came from a patched call site, and `regs` are as it left them.
    patched: bool,
    /// Whether it is to be able to read the time-stamp counter.
    tsc: bool,
    /// No guest code has run yet.
    is_new: bool,
}

impl Thread {
    pub(super) fn new(space: Arc<Space>, mut body: Body) -> Result<Thread, Error> {
        body.set_answers(&[]);
        let tid = body.tid();
        let kick = Kick::new(space.pid(), tid);
        body.block().set_xstate(&space.shared().clean_xstate)?;
        let runner = space.quiet().enter(tid, &kick);
        Ok(Thread {
            space,
            body: Some(body),
            tid,
            kick,
            runner,
            xstate: Xstate::Saved(XSAVE_AREA),
            regs: Registers::default(),
            patched: false,
            tsc: true,
            is_new: true,
        })
    }

    fn body(&mut self) -> Result<&mut Body, Error> {
        self.body.as_mut().ok_or(Error::StubGone)
    }

    /// Has the thread ask for the time-stamp counter that it is to have, if it has not.
    fn apply_tsc(&mut self) -> Result<(), Error> {
        /// A late kick can come in between, but there is one at most.
        const ATTEMPTS: usize = 3;
        let tsc = self.tsc;
        for _ in 0..ATTEMPTS {
            if self.body()?.has_tsc() == tsc {
                return Ok(());
            }
            self.body()?.ask_for_tsc(tsc)?;
            self.live_on()?;
        }
        // Somebody meddles with the block.
        Err(Error::StubGone)
    }

    /// Waits for the end of what the thread was told to do with its state live.
    fn live_on(&mut self) -> Result<(), Error> {
        if let Event::Kick(frame) = self.body()?.wait()? {
            let frame = self.body()?.block().frame(frame)?;
            if self.xstate == Xstate::Live {
                self.xstate = self.saved_by(&frame)?;
            }
        }
        Ok(())
    }

    /// Lets guest code run until it stops for a reason that concerns the Sentry.
    fn run_guest(&mut self, regs: &mut Registers) -> Result<Trap, Error> {
        self.resume(regs)?;
        loop {
            let trap = match self.body()?.wait()? {
                Event::Request => self.request(regs)?,
                Event::Kick(frame) => self.kicked(frame, regs)?,
            };
            if let Some(trap) = trap {
                self.regs = *regs;
                return Ok(trap);
            }
        }
    }

    /// Lets the guest go on with `regs`.
    fn resume(&mut self, regs: &mut Registers) -> Result<(), Error> {
        // The trampoline that the call came from may be gone.
        let retired = self.space.quiet().retired();
        let stays = retired == self.runner.clean();
        let result_only = Registers { rax: self.regs.rax, orig_rax: self.regs.orig_rax, ..*regs };
        if stays && self.patched && self.xstate == Xstate::Live && result_only == self.regs {
            self.regs.rax = regs.rax;
            let rax = regs.rax;
            let body = self.body()?;
            body.block().set_result(rax)?;
            return body.reply(code::ACTION_RESULT);
        }
        self.patched = false;
        sanitize(regs);
        self.regs = *regs;
        let (xstate, is_new) = (self.xstate, self.is_new);
        let mut load = Registers { rip: self.space.enter(regs.rip), ..*regs };
        if load.rip != regs.rip {
            // The patch may be another thread's of just now, and not be there yet.
            self.space.flush()?;
        }
        self.runner.set_clean(retired);
        let body = self.body()?;
        if load.gs_base == 0 {
            load.gs_base = body.block().addr();
        }
        body.block().set_registers(&load)?;
        match xstate {
            Xstate::Live => body.reply(code::ACTION_LOAD),
            Xstate::Saved(offset) => {
                body.block().load_xstate(offset)?;
                let first = if is_new { code::ACTION_LOAD_FIRST } else { code::ACTION_LOAD_ALL };
                body.reply(first)
            }
        }
    }

    /// A request that stands in the block. `None` if the guest was sent on.
    fn request(&mut self, regs: &mut Registers) -> Result<Option<Trap>, Error> {
        self.is_new = false;
        let kind: u32 = self.body()?.block().get(std::mem::offset_of!(Control, kind))?;
        match kind {
            code::KIND_PATCHED => self.patched_call(regs).map(Some),
            code::KIND_SIGNAL => self.signal(regs),
            _ => Err(Error::StubGone),
        }
    }

    fn patched_call(&mut self, regs: &mut Registers) -> Result<Trap, Error> {
        *regs = self.body()?.block().registers()?;
        (regs.cs, regs.ss, regs.gs_base) = (USER_CS, USER_SS, 0);
        (regs.ds, regs.es, regs.fs, regs.gs) = (0, 0, 0, 0);
        (regs.rcx, regs.r11) = (regs.rip, regs.eflags);
        self.patched = true;
        self.xstate = Xstate::Live;
        Ok(Trap::Syscall)
    }

    /// Takes over what a signal saved.
    fn leave_frame(&mut self, frame: &Frame, regs: &mut Registers) -> Result<(), Error> {
        let len = self.space.shared().clean_xstate.len() as u64;
        let block = self.body()?.block();
        let offset = block.offset_on_stack(frame.context.fpstate, len)?;
        if !offset.is_multiple_of(64) {
            return Err(Error::StubGone);
        }
        let own = block.addr();
        *regs = registers(frame);
        if regs.gs_base == own {
            regs.gs_base = 0;
        }
        self.xstate = Xstate::Saved(offset);
        Ok(())
    }

    fn signal(&mut self, regs: &mut Registers) -> Result<Option<Trap>, Error> {
        let block = self.body()?.block();
        let frame = block.frame(block.get(std::mem::offset_of!(Control, frame))?)?;
        let stepping = frame.signo == libc::SIGTRAP && frame.context.trapno == trap::VECTOR_DB;
        let context = &frame.context;
        match self.zone(context.rip) {
            None => {}
            Some(Zone::Entry { exchanged }) => {
                self.leave_frame(&frame, regs)?;
                let at = if exchanged { regs.r11 } else { regs.rcx };
                return self.space.entered(at, regs).map(|()| Some(Trap::Syscall));
            }
            Some(_) if stepping => {
                self.body()?.reply(code::ACTION_RETURN)?;
                return Ok(None);
            }
            // Stub code does not fail unless the guest tampers with it.
            Some(_) => return Err(Error::StubGone),
        }
        self.leave_frame(&frame, regs)?;
        if let Some((rip, at_call)) = self.space.leave(regs.rip)? {
            if at_call && stepping {
                // The step into the trampoline was one step too many.
                return self.space.entered(regs.rip, regs).map(|()| Some(Trap::Syscall));
            }
            regs.rip = rip;
        } else if matches!(frame.signo, libc::SIGILL | libc::SIGSEGV)
            // Of other signals, the frame has the vector of some earlier exception.
            && matches!(context.trapno, trap::VECTOR_UD | trap::VECTOR_GP)
            && self.space.is_moved(regs.rip)
        {
            self.resume(regs)?;
            return Ok(None);
        }
        let trap = trap(&frame, regs);
        match trap {
            Trap::Syscall => self.space.trapped(regs, &self.runner),
            Trap::Fault(fault) if self.space.bring_vdso(|range| range.contains(&fault.addr)) => {
                self.space.flush()?;
                self.resume(regs)?;
                return Ok(None);
            }
            _ => {}
        }
        Ok(Some(trap))
    }

    /// The kick's signal came; whatever the thread was doing then, it rings now.
    fn kicked(&mut self, frame: u64, regs: &mut Registers) -> Result<Option<Trap>, Error> {
        let frame = self.body()?.block().frame(frame)?;
        match self.zone(frame.context.rip) {
            None => {
                self.is_new = false;
                self.leave_frame(&frame, regs)?;
                if let Some((rip, _)) = self.space.leave(regs.rip)? {
                    regs.rip = rip;
                }
                Ok(Some(self.kick.taken()))
            }
            Some(Zone::Foreign) => Err(Error::StubGone),
            // A request is under way: let it come. The kick is reported after it.
            Some(Zone::Entry { .. } | Zone::Asking | Zone::Returning) => {
                self.body()?.dismiss()?;
                Ok(None)
            }
            Some(Zone::Answering) => {
                let trap = self.patched_call(regs)?;
                (regs.rax, self.xstate) = (regs.orig_rax, self.saved_by(&frame)?);
                // Not in the block yet.
                regs.fs_base = frame.fs_base;
                Ok(Some(trap))
            }
            Some(Zone::Waiting) if self.body()?.asks()? => {
                let trap = self.request(regs)?;
                if self.xstate == Xstate::Live {
                    self.xstate = self.saved_by(&frame)?;
                }
                Ok(trap)
            }
            // It has not got to the guest's code since it was last sent there.
            Some(zone) => {
                *regs = self.regs;
                self.patched = false;
                if self.xstate == Xstate::Live || zone == Zone::Leaving {
                    self.xstate = self.saved_by(&frame)?;
                }
                Ok(Some(self.kick.taken()))
            }
        }
    }

    /// Where a signal saved the extended state.
    fn saved_by(&mut self, frame: &Frame) -> Result<Xstate, Error> {
        let mut ignored = Registers::default();
        self.leave_frame(frame, &mut ignored)?;
        Ok(self.xstate)
    }

    fn zone(&self, rip: u64) -> Option<Zone> {
        code::zone(rip.wrapping_sub(self.space.shared().layout.code()))
    }

    /// Has the thread save the live state, and says where. It stays live, unless a late kick did
    /// it: that one interrupts the doorbell, or what follows it, so the frame holds the same state.
    fn save(&mut self) -> Result<u64, Error> {
        self.body()?.reply(code::ACTION_SAVE)?;
        self.live_on()?;
        Ok(match self.xstate {
            Xstate::Live => XSAVE_AREA,
            Xstate::Saved(offset) => offset,
        })
    }
}

/// Makes registers loadable that no Linux program can have.
fn sanitize(regs: &mut Registers) {
    let user = |base: u64| if base < super::layout::HOST_END { base } else { 0 };
    regs.fs_base = user(regs.fs_base);
    regs.gs_base = user(regs.gs_base);
    if regs.cs != USER32_CS || regs.ss != USER_SS {
        regs.cs = USER_CS;
    }
    regs.ss = USER_SS;
}

/// The guest's registers when a signal came.
fn registers(frame: &Frame) -> Registers {
    let c = &frame.context;
    Registers {
        r15: c.r15,
        r14: c.r14,
        r13: c.r13,
        r12: c.r12,
        rbp: c.rbp,
        rbx: c.rbx,
        r11: c.r11,
        r10: c.r10,
        r9: c.r9,
        r8: c.r8,
        rax: c.rax,
        rcx: c.rcx,
        rdx: c.rdx,
        rsi: c.rsi,
        rdi: c.rdi,
        orig_rax: u64::MAX,
        rip: c.rip,
        cs: u64::from(c.cs),
        eflags: c.eflags,
        rsp: c.rsp,
        ss: u64::from(c.ss),
        fs_base: frame.fs_base,
        gs_base: frame.gs_base,
        ..Registers::default()
    }
}

/// What a signal in guest code means.
fn trap(frame: &Frame, regs: &mut Registers) -> Trap {
    /// `si_code` of a SIGSYS that seccomp sent.
    const SYS_SECCOMP: i32 = 1;
    // Error code of a page fault (Intel SDM volume 3, 4.7).
    const WRITE: u64 = 2;
    const FETCH: u64 = 16;
    let context = &frame.context;
    match frame.signo {
        libc::SIGSYS if frame.code == SYS_SECCOMP => {
            regs.orig_rax = regs.rax;
            if frame.arch != AUDIT_ARCH_X86_64 {
                return Trap::Exception(trap::refuse_compat_syscall(regs));
            }
            Trap::Syscall
        }
        libc::SIGSEGV | libc::SIGBUS if context.trapno == trap::VECTOR_PF => {
            let access = Prot {
                read: context.err & (WRITE | FETCH) == 0,
                write: context.err & WRITE != 0,
                exec: context.err & FETCH != 0 && context.err & WRITE == 0,
            };
            Trap::Fault(Fault { addr: context.cr2, access, bus: frame.signo == libc::SIGBUS })
        }
        signo => Trap::Exception(Exception {
            signo,
            code: frame.code,
            addr: frame.addr,
            trapno: context.trapno,
            err: context.err,
        }),
    }
}

impl GuestThread for Thread {
    fn run(&mut self, regs: &mut Registers) -> Result<Trap, Error> {
        self.space.flush()?;
        self.apply_tsc().inspect_err(|_| self.space.give_up())?;
        if !self.kick.start() {
            return Ok(Trap::Kicked);
        }
        if regs.rip >= CANONICAL_END {
            self.kick.stop();
            return Ok(Trap::Exception(trap::wild_jump()));
        }
        let spins = self.space.shared().spins.clone();
        spins.enter();
        let result = self.run_guest(regs);
        spins.leave();
        self.kick.stop();
        result.inspect_err(|_| self.space.give_up())
    }

    fn kicker(&self) -> Arc<dyn Kicker> {
        self.kick.clone()
    }

    fn set_answers(&mut self, answers: &[(u64, u64)]) -> Result<(), Error> {
        self.body()?.set_answers(answers);
        Ok(())
    }

    fn set_tsc(&mut self, readable: bool) {
        if self.space.shared().clocks == Clocks::Native {
            self.tsc = readable;
        }
    }

    fn xstate(&mut self) -> Result<Vec<u8>, Error> {
        self.space.alive()?;
        let len = self.space.shared().clean_xstate.len();
        let offset = match self.xstate {
            Xstate::Saved(offset) => offset,
            Xstate::Live => self.save().inspect_err(|_| self.space.give_up())?,
        };
        self.body()?.block().xstate(offset, len)
    }

    fn set_xstate(&mut self, image: &[u8]) -> Result<(), Error> {
        if !self.space.shared().xstate.is_valid(image) {
            return Err(Error::host("extended processor state", libc::EINVAL));
        }
        self.body()?.block().set_xstate(image)?;
        self.xstate = Xstate::Saved(XSAVE_AREA);
        Ok(())
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some(body) = self.body.take() {
            // Before somebody else can be this host thread's guest.
            self.space.quiet().leave(self.tid);
            self.space.put_back(body);
        }
    }
}
