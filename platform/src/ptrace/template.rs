//! The template: the process from which all stub processes are cloned, and whose descriptor table
//! they share.
//!
//! A stub needs a descriptor to map a host file. The template alone receives those, over a
//! socket and into a writable page that no guest code can reach, and all stubs see them because
//! they share its descriptor table (`CLONE_FILES`). Guest code cannot make a host call, so it
//! cannot use them. A descriptor stays in the table for as long as the Sentry's own one lives,
//! for the same libraries are mapped again and again; it is closed when the next file arrives after
//! that, or when the table is full.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Weak};

use super::held::{Held, Layout};
use super::sys::{self, Tid};
use crate::arch::filter::{self, CLONE_PROCESS, CLONE_THREAD};
use crate::arch::stub::{self, Command, FD_DONATIONS, FD_MEMORY};
use crate::memory_file::Frames;
use crate::stub::birth;
use crate::stub::message::{self, CONTROL_LEN, CONTROL_USED};
use crate::stub::vdso::Vdso;
use crate::{Clocks, Error, PAGE_SIZE};

/// Most donated descriptors in the table; more than a batch of commands can need at once.
const DONATIONS_MAX: usize = super::held::BATCH_MAX + 32;

// Where things are on the scratch page: a `struct msghdr` with one iovec, one byte of data, and
// room for one descriptor.
const MSG: u64 = 0;
const MSG_CONTROL_LEN: u64 = MSG + 40;
const MSG_FLAGS: u64 = MSG + 48;
const IOV: u64 = 64;
const DATA: u64 = 96;
const CONTROL: u64 = 128;

/// The template process and its descriptors. Behind a lock: one user at a time.
pub(super) struct Template {
    pid: Tid,
    layout: Layout,
    /// Our end of the socket.
    socket: OwnedFd,
    /// The template's end, kept to take a message back that it failed to fetch.
    other_end: OwnedFd,
    commands: Frames,
    donations: Vec<Donation>,
    clock: u64,
    reaped: bool,
}

struct Donation {
    file: Weak<OwnedFd>,
    fd: u64,
    last_use: u64,
}

impl Template {
    /// Starts it and removes the Sentry's memory from it. The vDSO stays mapped.
    pub(super) fn start(
        layout: Layout,
        end: u64,
        (clocks, vdso): (Clocks, Option<&Vdso>),
        commands: Frames,
        lifeline: &OwnedFd,
    ) -> Result<Template, Error> {
        use std::os::fd::AsFd as _;
        let (socket, other_end) = message::socket_pair()?;
        let memory = commands.file().as_fd().as_raw_fd();
        let moves = vdso.map_or_else(Vec::new, Vdso::moves);
        let pid = birth::template(&mut birth::Template {
            pages: &[
                birth::Page {
                    at: layout.code(),
                    content: stub::code(),
                    prot: libc::PROT_READ | libc::PROT_EXEC,
                    inherited: true,
                },
                birth::Page {
                    at: layout.scratch(),
                    content: &[],
                    prot: libc::PROT_READ | libc::PROT_WRITE,
                    inherited: false,
                },
            ],
            entry: layout.code() + stub::ready_offset(),
            filter: &mut filter::program(layout.code(), clocks),
            fds: [memory, other_end.as_raw_fd(), lifeline.as_raw_fd()],
            handlers: None,
            traceable: true,
            vdso: &moves,
            clocks,
        })?;
        let template = Template {
            pid,
            layout,
            socket,
            other_end,
            commands,
            donations: Vec::new(),
            clock: 0,
            reaped: false,
        };
        let held = Held::seize(pid, layout, sys::OPTIONS)?;
        let unmap =
            |from: u64, to: u64| Command::new(libc::SYS_munmap, [from, to - from, 0, 0, 0, 0]);
        held.call_checked("mmap in the template", map_commands(layout, &template.commands))?;
        // Everything but the stub's pages and the vDSO, which is outside the stub's range.
        let behind_scratch = layout.scratch() + PAGE_SIZE;
        let mut ranges = vec![(0, layout.base), (behind_scratch, end)];
        if let Some((start, len)) = vdso.map(|v| (v.start(), v.len())) {
            ranges = ranges
                .into_iter()
                .flat_map(|(from, to)| {
                    if (from..to).contains(&start) {
                        vec![(from, start), (start + len, to)]
                    } else {
                        vec![(from, to)]
                    }
                })
                .collect();
        }
        for (from, to) in ranges.into_iter().filter(|(from, to)| from < to) {
            held.call_checked("munmap in the template", unmap(from, to))?;
        }
        template.prepare_message(&held)?;
        drop(held);
        Ok(template)
    }

    fn prepare_message(&self, held: &Held) -> Result<(), Error> {
        let scratch = self.layout.scratch();
        let words = [
            (MSG, 0),
            (MSG + 8, 0),
            (MSG + 16, scratch + IOV),
            (MSG + 24, 1),
            (MSG + 32, scratch + CONTROL),
            (IOV, scratch + DATA),
            (IOV + 8, 1),
        ];
        for (at, word) in words {
            held.note(|tid| sys::poke(tid, scratch + at, word))?;
        }
        Ok(())
    }

    /// Its process id.
    #[cfg(test)]
    pub(super) fn pid(&self) -> Tid {
        self.pid
    }

    /// Takes control of the template on the calling host thread.
    pub(super) fn hold(&mut self, options: i32) -> Result<TemplateHold<'_>, Error> {
        if self.reaped {
            return Err(Error::StubGone);
        }
        let held = Held::seize(self.pid, self.layout, options)?;
        Ok(TemplateHold { template: self, held })
    }

    /// Reads the template's extended state into `image`; returns its size.
    pub(super) fn read_xstate(&mut self, image: &mut [u8]) -> Result<usize, Error> {
        let hold = self.hold(sys::OPTIONS)?;
        Ok(hold.held.note(|tid| sys::xstate(tid, image))?)
    }

    /// A blank stub process that is asleep, with `commands` mapped as its command page. Returns its
    /// id and its manager's.
    ///
    /// The manager is not the leader of the process: a leader's death cannot be waited for while
    /// other threads of it are still to be reaped, and those may be somebody else's, who
    /// waits for the manager.
    pub(super) fn spawn(&mut self, commands: &Frames) -> Result<(Tid, Tid), Error> {
        let layout = self.layout;
        let hold = self.hold(sys::OPTIONS_CLONE)?;
        let leader = Held::newborn(hold.held.clone_task(CLONE_PROCESS, true)?);
        let manager = leader
            .call_checked("mmap of the command page", map_commands(layout, commands))
            .and_then(|_| leader.clone_task(CLONE_THREAD, false));
        match manager {
            Ok(manager) => Ok((leader.tid(), Held::newborn(manager).tid())),
            Err(error) => {
                leader.abandon();
                Err(error)
            }
        }
    }
}

impl Drop for Template {
    fn drop(&mut self) {
        if !self.reaped {
            sys::kill(self.pid, libc::SIGKILL);
            sys::reap(self.pid);
        }
    }
}

/// The template under the calling host thread's control.
pub(super) struct TemplateHold<'a> {
    template: &'a mut Template,
    held: Held,
}

impl TemplateHold<'_> {
    /// The descriptor under which all stubs have `file`. It stays valid at least until as many
    /// other files were asked for as a batch has commands.
    pub(super) fn descriptor(&mut self, file: &Arc<OwnedFd>) -> Result<u64, Error> {
        self.template.clock += 1;
        let now = self.template.clock;
        self.drop_unused()?;
        self.make_room()?;
        let fd = self.receive(file)?;
        self.template.donations.push(Donation { file: Arc::downgrade(file), fd, last_use: now });
        Ok(fd)
    }

    /// Closes descriptors of files that the Sentry closed.
    fn drop_unused(&mut self) -> Result<(), Error> {
        let (unused, kept) = std::mem::take(&mut self.template.donations)
            .into_iter()
            .partition(|d| d.file.strong_count() == 0);
        self.template.donations = kept;
        unused.iter().try_for_each(|d: &Donation| self.close(d.fd))
    }

    fn make_room(&mut self) -> Result<(), Error> {
        let donations = &mut self.template.donations;
        if donations.len() < DONATIONS_MAX {
            return Ok(());
        }
        let oldest = donations.iter().enumerate().min_by_key(|(_, d)| d.last_use).map(|(i, _)| i);
        match oldest {
            Some(index) => {
                let fd = donations.swap_remove(index).fd;
                self.close(fd)
            }
            None => Ok(()),
        }
    }

    fn close(&self, fd: u64) -> Result<(), Error> {
        self.held.call(Command::new(libc::SYS_close, [fd, 0, 0, 0, 0, 0]))?;
        Ok(())
    }

    fn receive(&self, file: &OwnedFd) -> Result<u64, Error> {
        let scratch = self.template.layout.scratch();
        self.held.note(|tid| sys::poke(tid, scratch + MSG_CONTROL_LEN, CONTROL_LEN))?;
        self.held.note(|tid| sys::poke(tid, scratch + MSG_FLAGS, 0))?;
        message::send(&self.template.socket, &[0], Some(file))?;
        let command = Command::new(libc::SYS_recvmsg, [FD_DONATIONS, scratch + MSG, 0, 0, 0, 0]);
        let received = self.held.call_checked("recvmsg in the template", command);
        let word = |at| sys::peek(self.held.tid(), scratch + at).ok_or(Error::StubGone);
        match received {
            // The length says whether a descriptor came; the host drops it if the table is full.
            Ok(_) if word(CONTROL)? == CONTROL_USED => Ok(word(CONTROL + 16)? & 0xffff_ffff),
            Ok(_) => Err(Error::host("descriptor for a stub", libc::EMFILE)),
            Err(error) => {
                // The message must not be taken for the next one.
                discard_message(&self.template.other_end);
                Err(error)
            }
        }
    }
}

impl Drop for TemplateHold<'_> {
    fn drop(&mut self) {
        if self.held.gone() == Some(sys::Gone::Reaped) {
            self.template.reaped = true;
        }
    }
}

impl Template {
    /// The descriptor of a file that was donated before.
    pub(super) fn known_descriptor(&mut self, file: &Arc<OwnedFd>) -> Option<u64> {
        self.clock += 1;
        let wanted = Arc::as_ptr(file);
        let known = self.donations.iter_mut().find(|d| d.file.as_ptr() == wanted)?;
        known.last_use = self.clock;
        Some(known.fd)
    }
}

fn map_commands(layout: Layout, commands: &Frames) -> Command {
    Command::new(
        libc::SYS_mmap,
        [
            layout.commands(),
            PAGE_SIZE,
            libc::PROT_READ as u64,
            (libc::MAP_SHARED | libc::MAP_FIXED) as u64,
            FD_MEMORY,
            commands.offset(),
        ],
    )
}

/// Throws away what is queued on the template's end. Descriptors in it are closed, for there is no
/// room to receive them.
fn discard_message(socket: &OwnedFd) {
    let mut data = 0u8;
    // SAFETY: plain system call with a live buffer.
    unsafe {
        libc::recv(socket.as_raw_fd(), (&raw mut data).cast(), 1, libc::MSG_DONTWAIT);
    }
}
