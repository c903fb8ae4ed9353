//! Job control at a terminal: whose controlling terminal it is, who is in the foreground, and what
//! happens to those who are not (credentials(7), drivers/tty/tty_jobctrl.c).
//!
//! Lock order: the family lock of the task table -> [`Tty`]'s job lock.

use std::sync::Arc;

use abi::Errno;

use super::pty::Tty;
use crate::kernel::session::ControllingTty;
use crate::kernel::signal::SigInfo;
use crate::kernel::{Caps, Current, Kernel, Task};

/// Numbers of the session that the terminal controls, and of its foreground process group.
#[derive(Debug, Default)]
pub struct JobControl {
    session: Option<i32>,
    foreground: Option<i32>,
}

impl ControllingTty for Tty {
    fn rdev(&self) -> u64 {
        super::slave_rdev(self.index)
    }

    fn foreground(&self) -> Option<i32> {
        self.job.lock().foreground
    }

    fn release(&self) {
        *self.job.lock() = JobControl::default();
    }

    fn as_any(&self) -> &(dyn std::any::Any + Send + Sync) {
        self
    }
}

impl Tty {
    /// Sends a signal to the foreground process group.
    pub(super) fn signal_foreground(&self, signo: i32) {
        let foreground = self.job.lock().foreground;
        if let (Some(kernel), Some(id)) = (self.kernel(), foreground) {
            signal_group(&kernel, id, signo);
        }
    }

    /// The other side is gone for good: the session loses the terminal, its leader gets SIGHUP and
    /// SIGCONT, and so does the foreground group (`__tty_hangup`).
    pub(super) fn hangup(&self, kernel: &Arc<Kernel>) {
        let job = std::mem::take(&mut *self.job.lock());
        if let Some(leader) = job.session.and_then(|id| kernel.tasks.group(id)) {
            leader.pgrp().session.set_tty(None);
            for signo in [libc::SIGHUP, libc::SIGCONT] {
                let _ = leader.send_signal(SigInfo::kernel(signo));
            }
        }
        if let Some(id) = job.foreground {
            signal_group(kernel, id, libc::SIGHUP);
        }
    }

    /// Whether it is the controlling terminal of the task's session.
    pub fn controls(&self, task: &Task) -> bool {
        let tty = task.group.pgrp().session.tty();
        tty.is_some_and(|t| std::ptr::addr_eq(Arc::as_ptr(&t), std::ptr::from_ref(self)))
    }

    /// Before a background process does something to its terminal (`__tty_check_change`): `signo` is
    /// SIGTTOU or SIGTTIN. `ERESTARTSYS` after the signal was sent; `EIO` where it would do no good.
    pub fn check_background(&self, task: &Task, signo: i32) -> Result<(), Errno> {
        if !self.controls(task) {
            return Ok(());
        }
        let pgrp = task.group.pgrp();
        match self.job.lock().foreground {
            Some(id) if id != pgrp.id => {}
            _ => return Ok(()),
        }
        let (ignored, _) = task.group.sighand().ignored_and_caught();
        if ignored.contains(signo) || task.blocked().contains(signo) {
            return if signo == libc::SIGTTIN { Err(Errno::EIO) } else { Ok(()) };
        }
        let orphaned = {
            let _family = task.kernel.tasks.family();
            pgrp.is_orphaned()
        };
        if orphaned {
            return Err(Errno::EIO);
        }
        let _ = pgrp.send_signal(SigInfo::kernel(signo));
        // The signal is for us, too: no blocking call goes on before it was looked at.
        task.interrupt();
        Err(Errno::ERESTARTSYS)
    }

    /// Becomes the controlling terminal of a session leader that has none, at open without
    /// `O_NOCTTY` (`tty_open_proc_set_tty`).
    pub fn adopt(self: &Arc<Self>, task: &Task) {
        let pgrp = task.group.pgrp();
        if pgrp.session.id != task.group.tgid || pgrp.session.tty().is_some() {
            return;
        }
        let mut job = self.job.lock();
        if job.session.is_none() {
            *job = JobControl { session: Some(pgrp.session.id), foreground: Some(pgrp.id) };
            drop(job);
            pgrp.session.set_tty(Some(self.clone()));
        }
    }

    /// TIOCSCTTY.
    pub(super) fn set_controlling(
        self: &Arc<Self>,
        cur: &Current,
        steal: bool,
    ) -> Result<(), Errno> {
        let pgrp = cur.group.pgrp();
        let session = &pgrp.session;
        let is_leader = session.id == cur.group.tgid;
        if is_leader && self.controls(cur) {
            return Ok(());
        }
        if !is_leader || session.tty().is_some() {
            return Err(Errno::EPERM);
        }
        let previous = self.job.lock().session;
        if let Some(id) = previous {
            if !steal || !cur.cred().capable(Caps::SYS_ADMIN) {
                return Err(Errno::EPERM);
            }
            if let Some(leader) = cur.kernel.tasks.group(id) {
                leader.pgrp().session.set_tty(None);
            }
        }
        *self.job.lock() = JobControl { session: Some(session.id), foreground: Some(pgrp.id) };
        session.set_tty(Some(self.clone()));
        Ok(())
    }

    /// TIOCNOTTY: the calling process gives the terminal up; a leader gives it up for its session.
    pub(super) fn give_up(&self, cur: &Current) -> Result<(), Errno> {
        if !self.controls(cur) {
            return Err(Errno::ENOTTY);
        }
        let session = cur.group.pgrp().session.clone();
        if session.id != cur.group.tgid {
            // Linux drops it for this process alone; ours belongs to the session, and a process
            // that is not its leader gets rid of it with setsid(2).
            return Ok(());
        }
        let foreground = std::mem::take(&mut *self.job.lock()).foreground;
        session.set_tty(None);
        for signo in [libc::SIGHUP, libc::SIGCONT] {
            if let Some(id) = foreground {
                signal_group(&cur.kernel, id, signo);
            }
        }
        Ok(())
    }

    /// TIOCSPGRP.
    pub(super) fn set_foreground(&self, cur: &Current, pgid: i32) -> Result<(), Errno> {
        self.check_background(cur, libc::SIGTTOU)?;
        if !self.controls(cur) {
            return Err(Errno::ENOTTY);
        }
        if pgid < 0 {
            return Err(Errno::EINVAL);
        }
        let pgrp = cur.kernel.tasks.pgrp(pgid).ok_or(Errno::ESRCH)?;
        if pgrp.session.id != cur.group.sid() {
            return Err(Errno::EPERM);
        }
        self.job.lock().foreground = Some(pgid);
        Ok(())
    }

    /// The number of the session that it controls (TIOCGSID).
    pub(super) fn session(&self) -> Option<i32> {
        self.job.lock().session
    }
}

fn signal_group(kernel: &Kernel, pgid: i32, signo: i32) {
    if let Some(pgrp) = kernel.tasks.pgrp(pgid) {
        // A group without members has nobody to tell.
        let _ = pgrp.send_signal(SigInfo::kernel(signo));
    }
}
