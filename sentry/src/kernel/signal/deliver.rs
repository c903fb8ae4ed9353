//! Delivery: what pending signals do to the task before it runs guest code again (`get_signal`,
//! `arch_do_signal_or_restart`).

use abi::Errno;

use super::action::{SIG_DFL, SIG_IGN};
use super::frame::{self, Entry, RtSigFrame, UContext};
use super::queue::Taken;
use super::state::{AltStack, MINSIGSTKSZ, SS_AUTODISARM, SS_DISABLE, SS_ONSTACK};
use super::{SaFlags, SigAction, SigInfo, SigSet, TaskSignals, stop};
use crate::kernel::{Current, GroupSignals, Task};

/// `syscall` is two bytes long: a restart goes back so far.
const SYSCALL_LEN: u64 = 2;
/// Number of restart_syscall(2).
const NR_RESTART_SYSCALL: u64 = 219;

impl Task {
    /// Whether a signal (or what else stops guest code) waits (`recalc_sigpending_tsk`).
    fn wants_attention(&self, group: &GroupSignals, own: &TaskSignals) -> bool {
        let pending = own.pending.set().union(group.shared.set());
        !pending.minus(own.blocked).is_empty()
            || own.stop_pending
            || group.exiting
            || group.exec_tid.is_some_and(|tid| tid != self.tid())
    }

    /// Replaces the mask (`__set_task_blocked`): signals of the group that this task no longer
    /// takes are left to others. Only for the task itself.
    pub fn set_blocked(&self, mask: SigSet) {
        let mask = mask.blockable();
        let group = self.group.signals.lock();
        let mut own = self.signals.lock();
        let newly = mask.minus(own.blocked);
        own.blocked = mask;
        let attention = self.wants_attention(&group, &own);
        let orphaned = group.shared.set().intersection(newly);
        drop(own);
        if !orphaned.is_empty() {
            for other in self.group.threads() {
                let theirs = other.signals.lock();
                let takes = !theirs.exiting && !orphaned.minus(theirs.blocked).is_empty();
                drop(theirs);
                if takes && !std::ptr::eq(&*other, self) {
                    other.interrupt();
                }
            }
        }
        self.set_attention(attention);
    }

    /// Signals that are pending for the task or its group (rt_sigpending(2)).
    pub fn pending_signals(&self) -> SigSet {
        let group = self.group.signals.lock();
        let own = self.signals.lock();
        own.pending.set().union(group.shared.set())
    }

    /// Takes a pending signal of `which`, whatever the mask says (signalfd, rt_sigtimedwait).
    pub fn take_signal(&self, which: SigSet) -> Option<SigInfo> {
        let mut group = self.group.signals.lock();
        let mut own = self.signals.lock();
        let but = SigSet(!which.blockable().0);
        let taken = own.pending.take(but).or_else(|| group.shared.take(but));
        if taken.as_ref().is_some_and(|t| SigSet::STOP.contains(t.info.signo)) {
            own.stop_dequeued = true;
        }
        let attention = self.wants_attention(&group, &own);
        drop(own);
        self.set_attention(attention);
        drop(group);
        taken.map(Taken::finish)
    }
}

impl Current {
    /// Waits for a signal of `which`; `deadline` in nanoseconds of `CLOCK_MONOTONIC`
    /// (`do_sigtimedwait`). `EAGAIN` past it, `EINTR` for any other signal.
    pub fn wait_for_signal(
        &mut self,
        which: SigSet,
        deadline: Option<u64>,
    ) -> Result<SigInfo, Errno> {
        loop {
            if let Some(info) = self.take_signal(which) {
                return Ok(info);
            }
            if deadline == Some(0) {
                return Err(Errno::EAGAIN);
            }
            let slept = self.sleep_unblocked(which, deadline);
            // It may have come at the last moment.
            match (self.take_signal(which), slept) {
                (Some(info), _) => return Ok(info),
                (None, Err(Errno::ETIMEDOUT)) => return Err(Errno::EAGAIN),
                (None, Err(_)) => return Err(Errno::EINTR),
                // Somebody else took it.
                (None, Ok(())) => {}
            }
        }
    }

    /// Sleeps while the signals of `which` count as unblocked, so that they come here.
    fn sleep_unblocked(&mut self, which: SigSet, deadline: Option<u64>) -> Result<(), Errno> {
        let blocked = self.blocked();
        self.set_real_blocked(blocked);
        self.set_blocked(blocked.minus(which));
        let slept = self.block(deadline);
        self.set_real_blocked(SigSet::EMPTY);
        self.set_blocked(blocked);
        slept
    }

    fn set_real_blocked(&self, mask: SigSet) {
        let _group = self.group.signals.lock();
        self.signals.lock().real_blocked = mask;
    }

    /// Puts `mask` in place until the call ends; what was there comes back when it ends, or when a
    /// handler that interrupted it returns (`set_user_sigmask`).
    pub fn set_temporary_mask(&mut self, mask: SigSet) {
        self.saved_mask.get_or_insert(self.task.blocked());
        self.set_blocked(mask);
    }

    /// The end of a call with a temporary mask: restores it now unless `interrupted`, so that the
    /// handler runs under the temporary one (`restore_saved_sigmask_unless`).
    pub fn restore_mask_unless(&mut self, interrupted: bool) {
        if !interrupted && let Some(mask) = self.saved_mask.take() {
            self.set_blocked(mask);
        }
    }

    /// Sees to signals, stops and exits before guest code goes on; finishes an interrupted call.
    pub(in crate::kernel) fn handle_signals(&mut self) {
        while let Some((info, action)) = self.next_signal() {
            self.finish_call(Some(&action));
            if let Err(Errno::EFAULT) = self.enter_handler(&info, &action) {
                self.task.force_sigsegv(info.signo);
            }
        }
        if !self.has_exited() {
            self.finish_call(None);
            self.restore_mask_unless(false);
        }
    }

    /// Takes signals until one has a handler; does the default actions of the others.
    fn next_signal(&mut self) -> Option<(SigInfo, SigAction)> {
        let task = self.task.clone();
        loop {
            let mut group = task.group.signals.lock();
            if let Some(why) = group.notify.take() {
                drop(group);
                let _family = task.kernel.tasks.family();
                task.group.notify_parent_stop(why);
                continue;
            }
            if group.exiting {
                self.exit_thread(group.code);
                return None;
            }
            if group.exec_tid.is_some_and(|tid| tid != task.tid()) {
                self.exit_thread(0);
                return None;
            }
            let mut own = task.signals.lock();
            if own.stop_pending {
                drop(own);
                stop::stop_here(&task, group);
                continue;
            }
            let blocked = own.blocked;
            let taken = own
                .pending
                .take_synchronous(blocked)
                .or_else(|| own.pending.take(blocked))
                .or_else(|| group.shared.take(blocked));
            let Some(taken) = taken else {
                let attention = task.wants_attention(&group, &own);
                task.set_attention(attention);
                return None;
            };
            let signo = taken.info.signo;
            if SigSet::STOP.contains(signo) {
                own.stop_dequeued = true;
            }
            drop(own);
            let sighand = task.group.sighand();
            let action = sighand.get(signo);
            match action.handler {
                SIG_IGN => {}
                SIG_DFL if SigSet::IGNORE.contains(signo) => {}
                SIG_DFL if group.unkillable && !SigSet::UNBLOCKABLE.contains(signo) => {}
                SIG_DFL if SigSet::STOP.contains(signo) => {
                    if signo != libc::SIGSTOP {
                        // Nobody could continue a process of an orphaned group.
                        drop(group);
                        if task.is_pgrp_orphaned() {
                            continue;
                        }
                        group = task.group.signals.lock();
                    }
                    stop::begin(&task, &mut group, signo);
                }
                SIG_DFL => {
                    drop(group);
                    let info = taken.finish();
                    tracing::debug!(
                        tid = task.tid(),
                        signo,
                        code = info.code,
                        "killed by a signal"
                    );
                    task.group.begin_exit(signo as u32);
                }
                _ => {
                    if action.flags.contains(SaFlags::RESETHAND) {
                        sighand.set(signo, SigAction { handler: SIG_DFL, ..action });
                    }
                    drop(group);
                    return Some((taken.finish(), action));
                }
            }
        }
    }

    /// Turns the result of an interrupted call into `EINTR` or a restart, depending on the handler
    /// that is to run, if any.
    fn finish_call(&mut self, handler: Option<&SigAction>) {
        if !std::mem::take(&mut self.in_syscall) {
            return;
        }
        let result = self.result() as i64;
        if !(-4095..0).contains(&result) {
            return;
        }
        let call = self.call().0;
        let number = match (Errno::from_raw(-result as i32), handler) {
            (Errno::ERESTARTNOINTR, _) => call,
            (Errno::ERESTARTSYS, Some(h)) if h.flags.contains(SaFlags::RESTART) => call,
            (Errno::ERESTARTSYS | Errno::ERESTARTNOHAND, None) => call,
            (Errno::ERESTART_RESTARTBLOCK, None) => NR_RESTART_SYSCALL,
            (
                Errno::ERESTARTSYS | Errno::ERESTARTNOHAND | Errno::ERESTART_RESTARTBLOCK,
                Some(_),
            ) => {
                self.set_result(Errno::EINTR.as_return() as u64);
                return;
            }
            _ => return,
        };
        self.set_result(number);
        let regs = self.regs();
        regs.rip = regs.rip.wrapping_sub(SYSCALL_LEN);
    }

    /// Makes a frame and enters the handler (`handle_signal`). `EFAULT` if there is no room.
    fn enter_handler(&mut self, info: &SigInfo, action: &SigAction) -> Result<(), Errno> {
        let (xstate_size, xcr0) = self.kernel.platform.xstate_layout();
        // x86-64 has no other way back.
        if !action.flags.contains(SaFlags::RESTORER) {
            return Err(Errno::EFAULT);
        }
        let mut regs = *self.regs();
        let at =
            frame::place(regs.rsp, action, &self.altstack, xstate_size).ok_or(Errno::EFAULT)?;
        let blocked = self.task.blocked();
        let mask = self.saved_mask.unwrap_or(blocked);
        let state = self.guest.xstate().map_err(|_| Errno::EFAULT)?;
        let initial = frame::initial_image(&state);
        let image = frame::image_for_frame(state, xcr0);
        if self.mm.copy_out(at.fpstate, &image) != image.len() {
            return Err(Errno::EFAULT);
        }
        let entry = Entry { info, action, mask, stack: &self.altstack, trap: &self.trap };
        let built = frame::build(&mut regs, &entry, at);
        self.mm.write_obj::<RtSigFrame>(at.frame, &built)?;
        if self.guest.set_xstate(&initial).is_err() {
            return Err(Errno::EFAULT);
        }
        *self.regs() = regs;
        if self.altstack.flags & SS_AUTODISARM != 0 {
            self.altstack = AltStack::NONE;
        }
        self.saved_mask = None;
        let mut new = blocked.union(action.mask);
        if !action.flags.contains(SaFlags::NODEFER) {
            new.insert(info.signo);
        }
        self.set_blocked(new);
        Ok(())
    }

    /// rt_sigreturn(2): restores what the frame at the stack pointer holds. A bad frame is SIGSEGV.
    pub fn sigreturn(&mut self) -> u64 {
        self.in_syscall = false;
        if self.restore_frame().is_err() {
            self.task.force_signal(SigInfo::kernel(libc::SIGSEGV));
            return 0;
        }
        self.result()
    }

    fn restore_frame(&mut self) -> Result<(), Errno> {
        // The handler's `ret` took the return address off.
        let mut regs = *self.regs();
        let at = regs.rsp.wrapping_sub(8);
        let uc_at = at.wrapping_add(std::mem::offset_of!(RtSigFrame, uc) as u64);
        let uc: UContext = self.mm.read_obj(uc_at)?;
        self.set_blocked(uc.sigmask);
        if !frame::restore(&mut regs, &uc) {
            return Err(Errno::EFAULT);
        }
        self.restore_xstate(uc.mcontext.fpstate)?;
        *self.regs() = regs;
        // Errors in the stack are none of the frame's.
        let _ = self.set_altstack(&uc.stack, regs.rsp);
        let _ = self.take_restart();
        Ok(())
    }

    fn restore_xstate(&mut self, at: u64) -> Result<(), Errno> {
        let (size, xcr0) = self.kernel.platform.xstate_layout();
        let image = if at == 0 {
            let now = self.guest.xstate().map_err(|_| Errno::EFAULT)?;
            frame::initial_image(&now)
        } else {
            if !at.is_multiple_of(64) {
                return Err(Errno::EFAULT);
            }
            let mut raw = vec![0; size + 4];
            let got = self.mm.copy_in(at, &mut raw);
            raw.truncate(got);
            frame::image_from_frame(&raw, size, xcr0).ok_or(Errno::EFAULT)?
        };
        self.guest.set_xstate(&image).map_err(|_| Errno::EFAULT)
    }

    /// The alternate stack as sigaltstack(2) tells it.
    pub fn altstack(&mut self) -> frame::UserStack {
        let rsp = self.regs().rsp;
        let status = self.altstack.status(rsp);
        let flags = status | self.altstack.flags & SS_AUTODISARM;
        frame::UserStack::new(self.altstack.sp, flags, self.altstack.size)
    }

    /// Changes the alternate stack; `rsp` is the guest's stack pointer (`do_sigaltstack`). `EPERM`
    /// while it is in use, `EINVAL`, `ENOMEM` if it is too small.
    pub fn set_altstack(&mut self, new: &frame::UserStack, rsp: u64) -> Result<(), Errno> {
        if self.altstack.in_use(rsp) {
            return Err(Errno::EPERM);
        }
        let mode = new.flags & !SS_AUTODISARM;
        if new.flags & !frame::SS_FLAGS != 0 || !matches!(mode, 0 | SS_ONSTACK | SS_DISABLE) {
            return Err(Errno::EINVAL);
        }
        if mode == SS_DISABLE {
            self.altstack = AltStack { sp: 0, flags: new.flags, size: 0 };
            return Ok(());
        }
        if new.size < MINSIGSTKSZ {
            return Err(Errno::ENOMEM);
        }
        self.altstack = AltStack { sp: new.sp, flags: new.flags, size: new.size };
        Ok(())
    }

    /// Forgets the alternate stack (execve, clone with its own memory map).
    pub(in crate::kernel) fn clear_altstack(&mut self) {
        self.altstack = AltStack::NONE;
    }
}
