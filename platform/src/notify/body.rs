//! The host's side of a guest thread: a thread of the stub process, its doorbell, and the block that
//! it shares with the Sentry.
//!
//! A body outlives the guest thread it was made for: it waits at its doorbell for the next one, of
//! the same process or, once [`Body::cleanse`] has taken all that the guest left, of another.
//!
//! The block is hostile: a guest writes there what it likes, whenever it likes. Nothing that is read
//! from it is believed further than the guest's own registers reach.

use std::mem::offset_of;

use parking_lot::Mutex;

use super::births::{Births, Kind};
use super::layout::Layout;
use super::listener::{Listener, Ring};
use super::process::Process;
use super::spin::Spinner;
use crate::arch::doorbell::{
    self as code, BLOCK_LEN, Call, Control, Frame, SIGNAL_STACK, XSAVE_AREA,
};
use crate::arch::filter::tsc_mode;
use crate::arch::stub::{Command, FD_MEMORY};
use crate::memory_file::{Frames, MemoryFile};
use crate::stub::affinity;
use crate::stub::sys::{self, Tid};
use crate::{Error, Registers, usercopy};

/// How often who does not come is kicked again, in milliseconds.
const KICKED: i32 = 20;

/// How long a thread whose guest is gone may take to ring, in milliseconds, to be used again.
const CLEANSED: i32 = 2;

/// See the module.
pub(super) struct Body {
    pid: Tid,
    tid: Tid,
    listener: Listener,
    block: Block,
    /// Its doorbell, which waits to be answered.
    ring: Option<u64>,
    /// It rings, or will: the ring must be answered before anything else comes from it.
    rings: bool,
    spinner: Spinner,
    /// Which system calls the stub answers by itself, and how.
    answers: Vec<(u64, u64)>,
    /// Whether the stub knows `answers`.
    answers_known: bool,
    /// The host's word on the thread's time-stamp counter, `PR_TSC_*`.
    tsc: u64,
    /// The word that it is about to ask for.
    tsc_wanted: Option<u64>,
}

/// What came from a body.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// There is a request in the block.
    Request,
    /// The kick's signal arrived; the frame is at this address.
    Kick(u64),
}

impl Body {
    /// A new thread of `process`.
    ///
    /// # Errors
    /// `ENOMEM`, or what [`Births::make`] gives.
    pub(super) fn new(
        process: &Process,
        births: &Mutex<Births>,
        memory: &std::sync::Arc<MemoryFile>,
        layout: Layout,
        slot: u64,
        spinner: Spinner,
    ) -> Result<Body, Error> {
        let frames = memory
            .allocate(BLOCK_LEN)
            .ok_or_else(|| Error::host("a guest thread", libc::ENOMEM))?;
        let block = Block { addr: layout.block(slot), frames };
        let prot = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        let flags = (libc::MAP_SHARED | libc::MAP_FIXED) as u64;
        let args = [block.addr, BLOCK_LEN, prot, flags, FD_MEMORY, block.frames.offset()];
        if let Err((_, errno)) = process.execute(&[Command::new(libc::SYS_mmap, args)])? {
            return Err(Error::host("mmap of a guest thread's block", errno));
        }
        let born = || {
            // It goes straight to its doorbell.
            block.put(offset_of!(Control, call.state), code::STATE_ASLEEP)?;
            let listener = births.lock().make(process.pid(), process.page(), Kind::Guest(slot))?;
            let ring = listener.next()?;
            Ok((listener, ring))
        };
        let (listener, Ring { id, tid, .. }) = match born() {
            Ok(born) => born,
            Err(error) => {
                // Other threads of the process can reach the block until it is unmapped.
                let unmap = Command::new(libc::SYS_munmap, [block.addr, BLOCK_LEN, 0, 0, 0, 0]);
                if !matches!(process.execute(&[unmap]), Ok(Ok(()))) {
                    process.give_up();
                    process.keep(block.frames);
                }
                return Err(error);
            }
        };
        affinity::run_anywhere(tid);
        let pid = process.pid();
        Ok(Body {
            pid,
            tid,
            listener,
            block,
            ring: Some(id),
            rings: false,
            spinner,
            answers: Vec::new(),
            answers_known: true,
            tsc: tsc_mode(true),
            tsc_wanted: None,
        })
    }

    /// Uses `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`. Returns whether the host has it.
    pub(super) fn wake_here(&self) -> bool {
        self.listener.wake_here()
    }

    /// Its host thread.
    pub(super) fn tid(&self) -> Tid {
        self.tid
    }

    /// Its block.
    pub(super) fn block(&self) -> &Block {
        &self.block
    }

    /// Lets it act on what is in the block.
    pub(super) fn reply(&mut self, action: u16) -> Result<(), Error> {
        if !self.answers_known {
            self.show_answers()?;
        }
        // Only with a guest that is known to sleep until it is answered.
        self.spinner.replies(self.tid, self.ring.is_some());
        if let Some(patience) = self.spinner.patience() {
            self.set_patience(patience)?;
        }
        let before = self.block.answer(action)?;
        match self.ring.take() {
            Some(ring) => self.listener.answer(ring, code::ANSWER_REPLY),
            None => self.rings = before == code::STATE_ASLEEP,
        }
        if self.rings {
            // It went to sleep, so this took long.
            if !self.spinner.forgives() {
                self.sleep()?;
            }
        }
        Ok(())
    }

    /// Its guest code may begin to run, or does not run any more.
    pub(super) fn set_running(&mut self, runs: bool) {
        self.spinner.set_running(runs);
    }

    /// How often the guest may look for a reply before it rings.
    fn set_patience(&self, patience: u32) -> Result<(), Error> {
        self.block.swap(offset_of!(Control, patience), patience).map(drop)
    }

    /// Which system calls (number, result) the stub answers by itself. Those that it has no room for
    /// come to the Sentry as before.
    pub(super) fn set_answers(&mut self, answers: &[(u64, u64)]) {
        self.answers.clear();
        self.answers.extend_from_slice(answers);
        self.answers_known = false;
    }

    fn show_answers(&mut self) -> Result<(), Error> {
        let mut index = [0u8; code::ANSWERS_MAX];
        for (i, (nr, value)) in (1..code::ANSWER_VALUES).zip(&self.answers) {
            let place = usize::try_from(*nr).ok().and_then(|nr| index.get_mut(nr));
            if let Some(place) = place {
                *place = i as u8;
                self.block.put(offset_of!(Control, answers) + 8 * i, *value)?;
            }
        }
        self.block.put(offset_of!(Control, answered), index)?;
        self.answers_known = true;
        Ok(())
    }

    /// From now on, whoever waits sleeps: a request that is made later rings. To be called as well
    /// when the calling host thread is about to do something else.
    pub(super) fn sleep(&mut self) -> Result<(), Error> {
        if self.spinner.is_looking() {
            self.set_patience(0)?;
            self.spinner.stop();
        }
        Ok(())
    }

    /// Whether the thread can read the time-stamp counter.
    pub(super) fn has_tsc(&self) -> bool {
        self.tsc == tsc_mode(true)
    }

    /// Has it ask the host for its time-stamp counter, or for none. What comes next tells whether it
    /// got there: [`Body::has_tsc`] is right before anything else comes from it.
    pub(super) fn ask_for_tsc(&mut self, readable: bool) -> Result<(), Error> {
        let mode = tsc_mode(readable);
        self.block.put(offset_of!(Control, argument), mode as u32)?;
        self.tsc_wanted = Some(mode);
        self.reply(code::ACTION_TSC)
    }

    /// A call that is no doorbell waits for permission. Only the one that was ordered gets it.
    fn permit(&mut self, ring: &Ring) -> Result<(), Error> {
        let prctl = ring.nr == libc::SYS_prctl as u32;
        match (self.tsc_wanted.take(), ring.args) {
            (Some(mode), [option, asked])
                if prctl && option == libc::PR_SET_TSC as u64 && asked == mode =>
            {
                self.listener.allow(ring.id);
                self.tsc = mode;
                Ok(())
            }
            _ => Err(Error::StubGone),
        }
    }

    /// Takes from it all that its guest, which is gone, left in its registers and its block: the
    /// thread waits at its doorbell as one that was just made.
    ///
    /// Where it waits now, and with which registers, is the guest's choice: it may have jumped into
    /// the stub's code. But it runs no code there while it waits, and a signal takes it to the
    /// handler on the stack in the block, which knows the block by that. It never comes back.
    ///
    /// # Errors
    /// [`Error::StubGone`] when it does not do that within [`CLEANSED`].
    pub(super) fn cleanse(&mut self) -> Result<(), Error> {
        self.sleep()?;
        let next = |listener: &Listener| listener.next_within(CLEANSED)?.ok_or(Error::StubGone);
        let ring = match self.ring.take() {
            Some(ring) => ring,
            None => next(&self.listener)?.id,
        };
        // It is woken by the answer only, and comes to the handler first of all.
        sys::tgkill(self.pid, self.tid, libc::SIGURG);
        self.listener.answer(ring, code::ANSWER_REPLY);
        let ring = next(&self.listener)?;
        if ring.nr != code::DOORBELL || ring.args[0] != code::RING_KICK {
            return Err(Error::StubGone);
        }
        self.block.clear()?;
        self.block.put(offset_of!(Control, call.state), code::STATE_ASLEEP)?;
        (self.ring, self.rings) = (Some(ring.id), false);
        self.answers_known = false;
        Ok(())
    }

    /// Whether a request stands in the block.
    pub(super) fn asks(&self) -> Result<bool, Error> {
        self.block.asks()
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// [`Error::StubGone`] when the thread is gone.
    pub(super) fn wait(&mut self) -> Result<Event, Error> {
        self.wait_for(false)
    }

    /// As [`Body::wait`], but kicks it if it does not come soon.
    ///
    /// # Errors
    /// As [`Body::wait`].
    pub(super) fn wait_kicking(&mut self) -> Result<Event, Error> {
        self.wait_for(true)
    }

    fn wait_for(&mut self, kicking: bool) -> Result<Event, Error> {
        let event = self.wait_for_event(kicking)?;
        self.tsc_wanted = None;
        self.spinner.came();
        if matches!(event, Event::Request) {
            self.spinner.asked();
        }
        Ok(event)
    }

    fn wait_for_event(&mut self, kicking: bool) -> Result<Event, Error> {
        loop {
            if self.spinner.is_looking() && !self.rings {
                let block = &self.block;
                if self.spinner.look(|| block.asks())? {
                    return Ok(Event::Request);
                }
                self.sleep()?;
            }
            // Where it sleeps, or is about to, its ring is to be taken with the request: who is not
            // known to wait for an answer never gets to look.
            if !self.rings && self.block.state()? == code::STATE_REQUEST {
                return Ok(Event::Request);
            }
            let ring = match kicking {
                false => self.listener.next()?,
                true => match self.listener.next_within(KICKED)? {
                    Some(ring) => ring,
                    None => {
                        sys::tgkill(self.pid, self.tid, libc::SIGURG);
                        continue;
                    }
                },
            };
            if ring.nr != code::DOORBELL {
                self.permit(&ring)?;
                continue;
            }
            self.rings = false;
            if ring.args[0] == code::RING_KICK {
                self.ring = Some(ring.id);
                return Ok(Event::Kick(ring.args[1]));
            }
            if self.asks()? {
                self.ring = Some(ring.id);
                return Ok(Event::Request);
            }
            // For a request that was answered while it went to sleep, or for nothing.
            self.listener.answer(ring.id, code::ANSWER_REPLY);
        }
    }
}

/// Memory that a guest thread shares with the Sentry.
pub(super) struct Block {
    /// Its address in the stub.
    addr: u64,
    frames: Frames,
}

impl Block {
    pub(super) fn addr(&self) -> u64 {
        self.addr
    }

    /// Reads `bytes` from `offset`, which with the length is inside.
    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        debug_assert!(offset + bytes.len() as u64 <= BLOCK_LEN);
        // SAFETY: inside the frames, `bytes` is live.
        let read = unsafe {
            usercopy::copy_from(
                bytes.as_mut_ptr(),
                self.frames.ptr().add(offset as usize),
                bytes.len(),
            )
        };
        // The host is out of memory.
        if read < bytes.len() { Err(Error::StubGone) } else { Ok(()) }
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        debug_assert!(offset + bytes.len() as u64 <= BLOCK_LEN);
        // SAFETY: inside the frames, `bytes` is live.
        let written = unsafe {
            usercopy::copy_to(self.frames.ptr().add(offset as usize), bytes.as_ptr(), bytes.len())
        };
        if written < bytes.len() { Err(Error::StubGone) } else { Ok(()) }
    }

    /// Fills it with zeroes.
    fn clear(&self) -> Result<(), Error> {
        static ZEROES: [u8; BLOCK_LEN as usize] = [0; BLOCK_LEN as usize];
        self.write(0, &ZEROES)
    }

    /// Reads a field of [`Control`].
    pub(super) fn get<T: zerocopy::FromBytes + zerocopy::IntoBytes>(
        &self,
        offset: usize,
    ) -> Result<T, Error> {
        let mut value = T::new_zeroed();
        self.read(offset as u64, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Writes a field of [`Control`].
    pub(super) fn put<T: zerocopy::IntoBytes + zerocopy::Immutable>(
        &self,
        offset: usize,
        value: T,
    ) -> Result<(), Error> {
        self.write(offset as u64, value.as_bytes())
    }

    /// Replaces a word of [`Control`].
    fn swap(&self, offset: usize, value: u32) -> Result<u32, Error> {
        // SAFETY: inside the frames, aligned.
        unsafe { usercopy::swap_u32(self.frames.ptr().add(offset), value) }.ok_or(Error::StubGone)
    }

    /// There is an answer. Returns the state before.
    fn answer(&self, action: u16) -> Result<u32, Error> {
        let word = u64::from(code::STATE_REPLY) | u64::from(action) << 32;
        // SAFETY: inside the frames, aligned.
        let before = unsafe { usercopy::swap_u64(self.frames.ptr(), word) };
        before.map(|before| before as u32).ok_or(Error::StubGone)
    }

    fn state(&self) -> Result<u32, Error> {
        // SAFETY: inside the frames.
        let state =
            unsafe { usercopy::load_u32(self.frames.ptr().add(offset_of!(Control, call.state))) };
        state.ok_or(Error::StubGone)
    }

    /// Whether a request stands.
    fn asks(&self) -> Result<bool, Error> {
        self.state().map(|state| state == code::STATE_REQUEST || state == code::STATE_ASLEEP)
    }

    /// What the last request is; all of it, if it is a system call from a patched call site.
    pub(super) fn call(&self) -> Result<Call, Error> {
        self.get(offset_of!(Control, call))
    }

    /// The registers at the last request of a patched call site.
    pub(super) fn registers(&self) -> Result<Registers, Error> {
        self.get(offset_of!(Control, regs))
    }

    /// The registers to go on with.
    pub(super) fn set_registers(&self, regs: &Registers) -> Result<(), Error> {
        self.put(offset_of!(Control, regs), *regs)
    }

    /// The result of a patched call, if nothing else changes.
    pub(super) fn set_result(&self, rax: u64) -> Result<(), Error> {
        self.put(offset_of!(Control, call.rax), rax)
    }

    /// Reads the signal frame at an address of the guest's choice.
    pub(super) fn frame(&self, addr: u64) -> Result<Frame, Error> {
        let offset = self.offset_on_stack(addr, size_of::<Frame>() as u64)?;
        self.get(offset as usize)
    }

    /// Whether a signal frame at this address has used up half of the signal stack.
    pub(super) fn is_deep(&self, addr: u64) -> bool {
        addr.wrapping_sub(self.addr) < SIGNAL_STACK + (BLOCK_LEN - SIGNAL_STACK) / 2
    }

    /// The offset of `len` bytes at an address on the signal stack.
    ///
    /// # Errors
    /// [`Error::StubGone`] if they are not there: the stub was meddled with, and must go.
    pub(super) fn offset_on_stack(&self, addr: u64, len: u64) -> Result<u64, Error> {
        let offset = addr.wrapping_sub(self.addr);
        if offset < SIGNAL_STACK || offset > BLOCK_LEN - len {
            return Err(Error::StubGone);
        }
        Ok(offset)
    }

    /// Reads extended state.
    pub(super) fn xstate(&self, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
        let mut image = vec![0; len];
        self.read(offset, &mut image)?;
        Ok(image)
    }

    /// Puts extended state where it can be loaded from.
    pub(super) fn set_xstate(&self, image: &[u8]) -> Result<(), Error> {
        self.write(XSAVE_AREA, image)
    }

    /// Has the thread load the extended state at `offset` with its next registers.
    pub(super) fn load_xstate(&self, offset: u64) -> Result<(), Error> {
        self.put(offset_of!(Control, xstate), self.addr + offset)
    }
}
