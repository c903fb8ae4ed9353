//! A guest thread.

use std::sync::Arc;

use super::body::{Body, Event};
use super::quiet::Runner;
use super::space::Space;
use crate::arch::doorbell::{self as code, Control, Frame, Held, XSAVE_AREA, Zone};
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

/// How many signals can come while others are being handled: the stack has room for no more.
const NESTED_MAX: usize = 8;
/// Bytes of a [`Frame`] before what the host put there: the segment bases.
const FRAME_BASES: u64 = 16;

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
    /// Of `regs`, only what a call is made of is known so far. The rest is in the block.
    partial: bool,
    /// Whether it is to be able to read the time-stamp counter.
    tsc: bool,
    /// No guest code has run yet.
    is_new: bool,
    /// Signals came time after time before it got to the guest's code: there is little room left for
    /// more of them.
    is_deep: bool,
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
            partial: false,
            tsc: true,
            is_new: true,
            is_deep: false,
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

    /// Has the thread give up its signal stack, if there is little left of it: nothing else that
    /// lies there is needed once the extended state is elsewhere.
    fn unwind(&mut self) -> Result<(), Error> {
        // As above.
        const ATTEMPTS: usize = 3;
        if !self.is_deep {
            return Ok(());
        }
        let offset = self.save_if_live()?;
        if offset != XSAVE_AREA {
            let len = self.space.shared().clean_xstate.len();
            let block = self.body()?.block();
            block.set_xstate(&block.xstate(offset, len)?)?;
        }
        self.xstate = Xstate::Saved(XSAVE_AREA);
        self.patched = false;
        for _ in 0..ATTEMPTS {
            self.body()?.reply(code::ACTION_UNWIND)?;
            if let Event::Request = self.wait_for_stub()? {
                self.is_deep = false;
                return Ok(());
            }
        }
        Err(Error::StubGone)
    }

    /// Waits for the end of what the stub's code was told to do. Whether it is that code which was
    /// told, only the guest knows, which may have rung itself: a kick gets it back here, too.
    fn wait_for_stub(&mut self) -> Result<Event, Error> {
        let was_kicked = self.kick.open();
        let event = self.body().and_then(|body| match was_kicked {
            // Nobody will do so again.
            true => body.wait_kicking(),
            false => body.wait(),
        });
        self.kick.stop();
        event
    }

    /// Waits for the end of what the thread was told to do with its state live.
    fn live_on(&mut self) -> Result<(), Error> {
        if let Event::Kick(frame) = self.wait_for_stub()? {
            let frame = self.body()?.block().frame(frame)?;
            if self.xstate == Xstate::Live {
                self.xstate = self.saved_by(&frame)?;
            }
        }
        Ok(())
    }

    /// Lets guest code run until it stops for a reason that concerns the Sentry.
    fn run_guest(&mut self, regs: &mut Registers) -> Result<Trap, Error> {
        self.body()?.set_running(true);
        self.resume(regs)?;
        loop {
            let trap = match self.body()?.wait()? {
                Event::Request => self.request(regs, false)?,
                Event::Kick(frame) => self.kicked(frame, regs)?,
            };
            if let Some(trap) = trap {
                if !self.partial {
                    self.regs = *regs;
                }
                return Ok(trap);
            }
        }
    }

    /// Lets the guest go on with `regs`.
    fn resume(&mut self, regs: &mut Registers) -> Result<(), Error> {
        // The trampoline that the call came from may be gone.
        let retired = self.space.quiet().retired();
        let stays = retired == self.runner.clean();
        if stays && self.patched && self.xstate == Xstate::Live && self.changed_result_only(regs) {
            self.regs.rax = regs.rax;
            let rax = regs.rax;
            let body = self.body()?;
            body.block().set_result(rax)?;
            return body.reply(code::ACTION_RESULT);
        }
        self.fill_in(regs)?;
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

    /// Whether these are what the guest asked with, but for the result. As long as not all of them are
    /// known, nothing else can have been changed.
    fn changed_result_only(&self, regs: &Registers) -> bool {
        self.partial || {
            let (rax, orig_rax) = (self.regs.rax, self.regs.orig_rax);
            Registers { rax, orig_rax, ..*regs } == self.regs
        }
    }

    /// Completes the registers of a call of which only the call itself is known.
    fn fill_in(&mut self, regs: &mut Registers) -> Result<(), Error> {
        if self.partial {
            let Registers { orig_rax, rax, rdi, rsi, rdx, r10, r8, r9, .. } = self.regs;
            let all = call_registers(self.body()?.block().registers()?);
            self.regs = Registers { orig_rax, rax, rdi, rsi, rdx, r10, r8, r9, ..all };
            self.partial = false;
            *regs = Registers { rax: regs.rax, ..self.regs };
        }
        Ok(())
    }

    /// A request that stands in the block. `None` if the guest was sent on, which it is not after a
    /// kick.
    fn request(&mut self, regs: &mut Registers, kicked: bool) -> Result<Option<Trap>, Error> {
        self.is_new = false;
        let call = self.body()?.block().call()?;
        match call.kind {
            code::KIND_PATCHED => {
                (self.patched, self.partial, self.xstate) = (true, true, Xstate::Live);
                let [rdi, rsi, rdx, r10, r8, r9] = call.args;
                for regs in [&mut self.regs, regs] {
                    (regs.orig_rax, regs.rax) = (call.rax, call.rax);
                    (regs.rdi, regs.rsi, regs.rdx) = (rdi, rsi, rdx);
                    (regs.r10, regs.r8, regs.r9) = (r10, r8, r9);
                }
                Ok(Some(Trap::Syscall))
            }
            code::KIND_SIGNAL => {
                self.partial = false;
                let block = self.body()?.block();
                let frame = block.frame(block.get(std::mem::offset_of!(Control, frame))?)?;
                self.signal(&frame, regs, kicked)
            }
            _ => Err(Error::StubGone),
        }
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

    fn signal(
        &mut self,
        frame: &Frame,
        regs: &mut Registers,
        kicked: bool,
    ) -> Result<Option<Trap>, Error> {
        let stepping = frame.signo == libc::SIGTRAP && frame.context.trapno == trap::VECTOR_DB;
        let context = &frame.context;
        match self.zone(context.rip) {
            None => {}
            Some(Zone::Entry { exchanged }) => {
                return self.entering(exchanged, frame, regs).map(Some);
            }
            // Who is kicked there could step on for ever.
            Some(_) if stepping && !kicked => {
                self.body()?.reply(code::ACTION_RETURN)?;
                return Ok(None);
            }
            // Stub code does not fail unless the guest tampers with it.
            Some(_) => return Err(Error::StubGone),
        }
        self.leave_frame(frame, regs)?;
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
            if kicked {
                return Ok(Some(self.kick.taken()));
            }
            self.resume(regs)?;
            return Ok(None);
        }
        let trap = trap(frame, regs);
        match trap {
            Trap::Syscall => self.space.trapped(regs, &self.runner),
            Trap::Fault(fault) if self.space.bring_vdso(|range| range.contains(&fault.addr)) => {
                self.space.flush()?;
                if kicked {
                    return Ok(Some(self.kick.taken()));
                }
                self.resume(regs)?;
                return Ok(None);
            }
            _ => {}
        }
        Ok(Some(trap))
    }

    /// The kick's signal came; whatever the thread was doing then, it rings now.
    ///
    /// Wherever that is in the stub's code, it never goes on there: it would be the guest's choice
    /// when it comes out. What it was about to do is done for it.
    fn kicked(&mut self, frame: u64, regs: &mut Registers) -> Result<Option<Trap>, Error> {
        self.is_deep = self.body()?.block().is_deep(frame);
        let mut frame = self.body()?.block().frame(frame)?;
        for _ in 0..NESTED_MAX {
            let context = &frame.context;
            frame = match self.zone(context.rip) {
                Some(Zone::Entering { exchanged, pushed }) => {
                    let at = context.rsp.wrapping_sub(FRAME_BASES).wrapping_add(pushed);
                    let mut entered = self.body()?.block().frame(at)?;
                    if pushed < FRAME_BASES {
                        entered.fs_base = frame.fs_base;
                        entered.gs_base = if exchanged { context.rcx } else { frame.gs_base };
                    }
                    if entered.signo != libc::SIGURG {
                        self.partial = false;
                        return self.signal(&entered, regs, true);
                    }
                    entered
                }
                // Interrupted before the Sentry took notice.
                Some(Zone::Rung) if context.rax != code::ANSWER_REPLY as u64 => {
                    self.body()?.block().frame(context.rsp)?
                }
                Some(Zone::Returning(held)) => {
                    let at = match held {
                        Held::Stack => context.rsp,
                        Held::Base => context.rbx,
                        Held::Behind => context.rsp.wrapping_add(code::IRET_LEN),
                    };
                    self.body()?.block().frame(at)?
                }
                zone => return self.kicked_at(zone, &frame, regs),
            };
        }
        Err(Error::StubGone)
    }

    /// A kick came where no signal had come before.
    fn kicked_at(
        &mut self,
        zone: Option<Zone>,
        frame: &Frame,
        regs: &mut Registers,
    ) -> Result<Option<Trap>, Error> {
        if let None | Some(Zone::Entry { .. } | Zone::Saving | Zone::Answering) = zone {
            // It went on with what it was last sent.
            self.partial = false;
        }
        match zone {
            None => {
                self.is_new = false;
                self.leave_frame(frame, regs)?;
                if let Some((rip, _)) = self.space.leave(regs.rip)? {
                    regs.rip = rip;
                }
                Ok(Some(self.kick.taken()))
            }
            Some(Zone::Foreign) => Err(Error::StubGone),
            // The kick is reported after the request, of this arm and the next ones.
            Some(Zone::Entry { exchanged }) => self.entering(exchanged, frame, regs).map(Some),
            Some(Zone::Saving) => {
                self.leave_frame(frame, regs)?;
                let saved = self.body()?.block().registers()?;
                (regs.orig_rax, regs.rip, regs.rsp) = (regs.rax, regs.rcx, saved.rsp);
                regs.r11 = regs.eflags;
                Ok(Some(Trap::Syscall))
            }
            Some(Zone::Answering) => {
                *regs = call_registers(self.body()?.block().registers()?);
                (regs.rax, self.xstate) = (regs.orig_rax, self.saved_by(frame)?);
                // Not in the block yet.
                regs.fs_base = frame.fs_base;
                Ok(Some(Trap::Syscall))
            }
            Some(Zone::Asking) => self.asking(frame, regs),
            Some(Zone::Waiting) if self.body()?.asks()? => self.asking(frame, regs),
            // It has not got to the guest's code since it was last sent there.
            Some(zone) => {
                self.fill_in(regs)?;
                *regs = self.regs;
                self.patched = false;
                if self.xstate == Xstate::Live || zone == Zone::Leaving {
                    self.xstate = self.saved_by(frame)?;
                }
                Ok(Some(self.kick.taken()))
            }
        }
    }

    /// What a thread asks for that was interrupted when it did.
    fn asking(&mut self, frame: &Frame, regs: &mut Registers) -> Result<Option<Trap>, Error> {
        let trap = self.request(regs, true)?;
        if self.xstate == Xstate::Live {
            self.xstate = self.saved_by(frame)?;
        }
        Ok(trap)
    }

    /// A thread that was interrupted on its way into the stub from a patched call site.
    fn entering(
        &mut self,
        exchanged: bool,
        frame: &Frame,
        regs: &mut Registers,
    ) -> Result<Trap, Error> {
        self.leave_frame(frame, regs)?;
        let at = if exchanged { regs.r11 } else { regs.rcx };
        self.space.entered(at, regs).map(|()| Trap::Syscall)
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

    /// Where the extended state is, which may be live still.
    fn save_if_live(&mut self) -> Result<u64, Error> {
        match self.xstate {
            Xstate::Saved(offset) => Ok(offset),
            Xstate::Live => self.save(),
        }
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

/// The registers of a call from a patched call site: Linux leaves its own in rcx and r11.
fn call_registers(saved: Registers) -> Registers {
    Registers {
        cs: USER_CS,
        ss: USER_SS,
        gs_base: 0,
        ds: 0,
        es: 0,
        fs: 0,
        gs: 0,
        rcx: saved.rip,
        r11: saved.eflags,
        ..saved
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
        self.apply_tsc().and_then(|()| self.unwind()).inspect_err(|_| self.space.give_up())?;
        if !self.kick.start() {
            return Ok(Trap::Kicked);
        }
        if regs.rip >= CANONICAL_END {
            self.kick.stop();
            return Ok(Trap::Exception(trap::wild_jump()));
        }
        let result = self.run_guest(regs);
        if let Some(body) = &mut self.body {
            body.set_running(false);
        }
        self.kick.stop();
        result.inspect_err(|_| self.space.give_up())
    }

    fn complete(&mut self, regs: &mut Registers) -> Result<(), Error> {
        self.fill_in(regs)
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
        let offset = self.save_if_live().inspect_err(|_| self.space.give_up())?;
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
