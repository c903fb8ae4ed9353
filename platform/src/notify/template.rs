//! The template: the process from which all stub processes are cloned, and whose descriptor table
//! their service threads share.
//!
//! It executes orders from a socket: a host call with the Sentry's arguments, or none if the order
//! brings a descriptor. A descriptor stays in the table for as long as the Sentry's own one lives,
//! for the same libraries are mapped again and again; it is closed when the next file arrives after
//! that, or when the table is full. Guest threads have no descriptors.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Weak};

use zerocopy::IntoBytes;

use super::layout::{HOST_END, Layout};
use super::xstate;
use crate::arch::doorbell::{self as code, Constants, scratch};
use crate::arch::doorbell_filter as filter;
use crate::arch::stub::Command;
use crate::memory_file::{Frames, MemoryFile};
use crate::stub::affinity;
use crate::stub::birth::{self, Handlers, Page};
use crate::stub::message::{self, CONTROL_LEN};
use crate::stub::sys::{self, Tid};
use crate::stub::vdso::Vdso;
use crate::{Clocks, Error, PAGE_SIZE};

/// Most donated descriptors in the table; more than a batch of commands can need at once.
const DONATIONS_MAX: usize = code::BATCH_MAX + 32;

/// What guests raise, and the Sentry's kick.
const SIGNALS: &[i32] = &[
    libc::SIGSYS,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGTRAP,
    libc::SIGURG,
];

/// The template process and its descriptors. Behind a lock: one user at a time.
pub(super) struct Template {
    pid: Tid,
    orders: OwnedFd,
    donations: Vec<Donation>,
    clock: u64,
}

struct Donation {
    file: Weak<OwnedFd>,
    fd: u64,
    last_use: u64,
}

impl Template {
    /// Starts it and has it remove the Sentry's memory. The vDSO stays.
    /// Listeners of its descendants will come out of the returned socket.
    pub(super) fn start(
        file: &MemoryFile,
        layout: Layout,
        (clocks, vdso): (Clocks, Option<&Vdso>),
        xstate: &xstate::Layout,
    ) -> Result<(Template, OwnedFd), Error> {
        let (orders, their_orders) = message::socket_pair()?;
        let (births, their_births) = message::socket_pair()?;
        let constants = constants(layout, xstate.mask);
        let scratch = scratch_page(layout);
        let moves = vdso.map_or_else(Vec::new, Vdso::moves);
        let pid = birth::template(&mut birth::Template {
            pages: &[
                Page {
                    at: layout.code(),
                    content: code::code(),
                    prot: libc::PROT_READ | libc::PROT_EXEC,
                    inherited: true,
                },
                Page {
                    at: layout.constants(),
                    content: &constants,
                    prot: libc::PROT_READ,
                    inherited: true,
                },
                Page {
                    at: layout.scratch(),
                    content: &scratch,
                    prot: libc::PROT_READ | libc::PROT_WRITE,
                    inherited: true,
                },
            ],
            entry: layout.code(),
            filter: &mut filter::base(layout.code(), clocks),
            fds: [file.as_fd().as_raw_fd(), their_orders.as_raw_fd(), their_births.as_raw_fd()],
            handlers: Some(Handlers {
                entry: layout.code() + code::signal_offset(),
                restorer: layout.code() + code::restorer_offset(),
                signals: SIGNALS,
            }),
            traceable: false,
            vdso: &moves,
            clocks,
        })?;
        let template = Template { pid, orders, donations: Vec::new(), clock: 0 };
        template.clear(layout, vdso.map(|v| (v.start(), v.len())))?;
        Ok((template, births))
    }

    /// Its process id.
    #[cfg(test)]
    pub(super) fn pid(&self) -> Tid {
        self.pid
    }

    /// Removes everything but the stub's pages and `keep`.
    fn clear(&self, layout: Layout, keep: Option<(u64, u64)>) -> Result<(), Error> {
        let mut kept = vec![(layout.code(), layout.scratch() + PAGE_SIZE)];
        kept.extend(keep.map(|(start, len)| (start, start + len)));
        kept.sort_unstable();
        let mut from = 0;
        for (start, end) in kept.into_iter().chain([(HOST_END, HOST_END)]) {
            if from < start {
                let range = [from, start - from, 0, 0, 0, 0];
                self.call("munmap in the template", Command::new(libc::SYS_munmap, range))?;
            }
            from = end;
        }
        Ok(())
    }

    /// Has it execute one order; returns the host's answer.
    fn order(&self, order: Command, file: Option<&OwnedFd>) -> Result<i64, Error> {
        message::send(&self.orders, order.as_bytes(), file)?;
        let mut answer = [0; 8];
        match message::receive(&self.orders, &mut answer, self.pid)? {
            (8, _) => Ok(i64::from_ne_bytes(answer)),
            _ => Err(Error::StubGone),
        }
    }

    fn call(&self, what: &'static str, order: Command) -> Result<i64, Error> {
        match self.order(order, None)? {
            result @ -4095..0 => Err(Error::host(what, -result as i32)),
            result => Ok(result),
        }
    }

    /// A new process with `commands` as its command page, of which only the cloner runs.
    pub(super) fn spawn(&self, commands: &Frames) -> Result<Tid, Error> {
        let flags = [filter::CLONE_PROCESS, 0, 0, 0, 0, 0];
        let order = Command::with_parameter(libc::SYS_clone, flags, commands.offset());
        affinity::bring_here(self.pid);
        Ok(self.call("clone of a stub", order)? as Tid)
    }

    /// The descriptor under which service threads have `file`. It stays valid at least until as
    /// many other files were asked for as a batch has commands.
    pub(super) fn descriptor(&mut self, file: &Arc<OwnedFd>) -> Result<u64, Error> {
        self.clock += 1;
        let now = self.clock;
        let wanted = Arc::as_ptr(file);
        if let Some(known) = self.donations.iter_mut().find(|d| d.file.as_ptr() == wanted) {
            known.last_use = now;
            return Ok(known.fd);
        }
        self.close_unused()?;
        let fd = match self.order(Command::new(code::ORDER_DONATION, [0; 6]), Some(file))? {
            result @ -4095..0 => {
                return Err(Error::host("descriptor for a stub", -result as i32));
            }
            fd => fd as u64,
        };
        self.donations.push(Donation { file: Arc::downgrade(file), fd, last_use: now });
        Ok(fd)
    }

    /// Closes descriptors of files that the Sentry closed, and makes room for one more.
    fn close_unused(&mut self) -> Result<(), Error> {
        let (mut unused, mut kept): (Vec<Donation>, Vec<Donation>) =
            std::mem::take(&mut self.donations)
                .into_iter()
                .partition(|d| d.file.strong_count() == 0);
        let oldest = kept.iter().enumerate().min_by_key(|(_, d)| d.last_use).map(|(i, _)| i);
        if let Some(oldest) = oldest.filter(|_| kept.len() >= DONATIONS_MAX) {
            unused.push(kept.swap_remove(oldest));
        }
        self.donations = kept;
        for donation in unused {
            let close = Command::new(libc::SYS_close, [donation.fd, 0, 0, 0, 0, 0]);
            self.call("close in the template", close)?;
        }
        Ok(())
    }
}

impl Drop for Template {
    fn drop(&mut self) {
        sys::kill(self.pid, libc::SIGKILL);
        sys::reap(self.pid);
    }
}

/// The content of the page at [`Layout::constants`].
fn constants(layout: Layout, xstate_mask: u64) -> Vec<u8> {
    let listener = filter::listener();
    let closed = filter::closed(layout.code());
    let programs = layout.constants() + size_of::<Constants>() as u64;
    let after = programs + (listener.len() * 8) as u64;
    let constants = Constants {
        xstate_mask,
        first_birth: [5, 0],
        listener: [listener.len() as u64, programs],
        closed: [closed.len() as u64, after],
    };
    let mut page = constants.as_bytes().to_vec();
    for instruction in listener.iter().chain(&closed) {
        page.extend(instruction.code.to_ne_bytes());
        page.extend([instruction.jt, instruction.jf]);
        page.extend(instruction.k.to_ne_bytes());
    }
    page
}

/// What the page at [`Layout::scratch`] starts with: headers of the messages that the code there
/// sends and receives.
fn scratch_page(layout: Layout) -> Vec<u8> {
    let mut page = vec![0; PAGE_SIZE as usize];
    let at = |offset: u64| layout.scratch() + offset;
    let mut put = |offset: u64, words: &[u64]| {
        page[offset as usize..][..words.len() * 8].copy_from_slice(words.as_bytes());
    };
    // Name, its length, iovec, how many, control part, its length, flags.
    put(scratch::MESSAGE, &[0, 0, at(scratch::IOV), 1, at(scratch::CONTROL), CONTROL_LEN, 0]);
    put(scratch::IOV, &[at(scratch::ORDER), size_of::<Command>() as u64]);
    let control = at(scratch::LISTENER_CONTROL);
    put(scratch::LISTENER_MESSAGE, &[0, 0, at(scratch::LISTENER_IOV), 1, control, CONTROL_LEN, 0]);
    let id = layout.commands() + std::mem::offset_of!(code::BirthRecord, id) as u64;
    put(scratch::LISTENER_IOV, &[id, 8]);
    put(scratch::LISTENER_CONTROL, &super::births::control(0));
    page
}
