//! Pseudo-terminals (pty(7)): a master and a slave side with the line discipline between them.
//!
//! A [`Tty`] is the pair. Its lock is innermost but for the wait queues'; signals are sent with the
//! lock released.

use std::sync::{Arc, Weak};

use abi::Errno;
use parking_lot::Mutex;

use super::job::JobControl;
use super::ldisc::{Effects, LineDiscipline, OUTPUT_MAX};
use super::termios::{Termios, Winsize};
use crate::kernel::time::monotonic_ns;
use crate::kernel::timer::{Expire, TimerId};
use crate::kernel::{Events, Kernel, WaitQueue};
use crate::kmem::{self, KernelMemory};

/// `TIOCPKT_*` of ioctl_tty(2).
mod packet {
    pub(super) const FLUSHREAD: u8 = 1;
    pub(super) const FLUSHWRITE: u8 = 2;
    pub(super) const STOP: u8 = 4;
    pub(super) const START: u8 = 8;
    pub(super) const NOSTOP: u8 = 16;
    pub(super) const DOSTOP: u8 = 32;
}

/// A pseudo-terminal.
pub struct Tty {
    /// Its number: the slave is `/dev/pts/INDEX`.
    pub index: u32,
    kernel: Weak<Kernel>,
    state: Mutex<State>,
    /// Session and foreground process group.
    pub(super) job: Mutex<JobControl>,
    slave_queue: WaitQueue,
    master_queue: WaitQueue,
    /// Ends raw reads (`VTIME`).
    read_timer: TimerId,
    this: Weak<Tty>,
    _memory: KernelMemory,
}

struct State {
    ldisc: LineDiscipline,
    winsize: Winsize,
    /// Slave descriptions that are open, and whether there ever was one.
    slaves: usize,
    slave_seen: bool,
    master_open: bool,
    /// TIOCSPTLCK: the slave cannot be opened.
    locked: bool,
    /// TIOCEXCL: nobody else may open it.
    exclusive: bool,
    /// TIOCPKT and the events that the next packet tells.
    packet_mode: bool,
    packet_events: u8,
    /// A raw read's clock runs.
    timer_armed: bool,
    /// It ran out: the next read takes what is there.
    timed_out: bool,
}

impl Tty {
    /// A pair whose master is open and whose slave is locked until `TIOCSPTLCK`. `ENOMEM`
    pub fn new(kernel: &Arc<Kernel>, index: u32, winsize: Winsize) -> Result<Arc<Tty>, Errno> {
        let memory = kmem::charge(kmem::PTY).ok_or(Errno::ENOMEM)?;
        Ok(Arc::new_cyclic(|this| Tty {
            index,
            kernel: Arc::downgrade(kernel),
            state: Mutex::new(State {
                ldisc: LineDiscipline::default(),
                winsize,
                slaves: 0,
                slave_seen: false,
                master_open: true,
                locked: true,
                exclusive: false,
                packet_mode: false,
                packet_events: 0,
                timer_armed: false,
                timed_out: false,
            }),
            job: Mutex::new(JobControl::default()),
            slave_queue: WaitQueue::new(),
            master_queue: WaitQueue::new(),
            read_timer: kernel.timers.new_id(),
            this: this.clone(),
            _memory: memory,
        }))
    }

    /// Where changes of the slave's readiness are announced.
    pub fn slave_queue(&self) -> &WaitQueue {
        &self.slave_queue
    }

    /// Where changes of the master's readiness are announced.
    pub fn master_queue(&self) -> &WaitQueue {
        &self.master_queue
    }

    /// Opens the slave side. `EIO` if it is locked or the master is gone, `EBUSY` if exclusive.
    pub fn open_slave(&self, privileged: bool) -> Result<(), Errno> {
        let mut state = self.state.lock();
        if state.locked || !state.master_open {
            return Err(Errno::EIO);
        }
        if state.exclusive && state.slaves > 0 && !privileged {
            return Err(Errno::EBUSY);
        }
        state.slaves += 1;
        state.slave_seen = true;
        Ok(())
    }

    /// The last reference to a slave description is gone.
    pub fn close_slave(&self) {
        let mut state = self.state.lock();
        state.slaves = state.slaves.saturating_sub(1);
        if state.slaves == 0 {
            state.exclusive = false;
            drop(state);
            self.master_queue.wake(Events::HUP | Events::IN);
        }
    }

    /// The master is closed: the terminal is hung up.
    pub fn close_master(&self) {
        self.state.lock().master_open = false;
        self.slave_queue.wake(Events::HUP | Events::IN | Events::OUT);
        if let Some(kernel) = self.kernel.upgrade() {
            self.hangup(&kernel);
        }
    }

    /// Reads on the master side: what programs wrote. `EIO` once all slaves are closed.
    pub fn master_read(&self, max: usize) -> Result<Vec<u8>, Errno> {
        let mut state = self.state.lock();
        let mut out = Vec::new();
        if state.packet_mode {
            let events = std::mem::take(&mut state.packet_events);
            if events != 0 {
                return Ok(vec![events]);
            }
            out.push(0);
        }
        let room = max.saturating_sub(out.len());
        let was_full = !state.ldisc.writable();
        out.extend(state.ldisc.take_output(room));
        if out.len() <= usize::from(state.packet_mode) {
            return Err(if state.slave_seen && state.slaves == 0 {
                Errno::EIO
            } else {
                Errno::EAGAIN
            });
        }
        // Writers are woken once half of the room is back, not for every byte.
        let wake = was_full || state.ldisc.output_len() < OUTPUT_MAX / 2;
        drop(state);
        if wake {
            self.slave_queue.wake(Events::OUT | Events::WRNORM);
        }
        Ok(out)
    }

    /// Writes on the master side: somebody types. Returns the bytes taken.
    pub fn master_write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let mut state = self.state.lock();
        let room = state.ldisc.input_room().min(bytes.len());
        if room == 0 && !bytes.is_empty() {
            return Err(Errno::EAGAIN);
        }
        let effects = state.ldisc.receive(&bytes[..room]);
        drop(state);
        self.apply(effects);
        Ok(room)
    }

    /// What is ready on the master side.
    pub fn master_poll(&self) -> Events {
        let state = self.state.lock();
        let mut events = Events::empty();
        if state.ldisc.output_len() > 0 || state.packet_events != 0 {
            events |= Events::IN | Events::RDNORM;
        }
        if state.packet_mode && state.packet_events != 0 {
            events |= Events::PRI;
        }
        if state.ldisc.input_room() > 0 {
            events |= Events::OUT | Events::WRNORM;
        }
        if state.slave_seen && state.slaves == 0 {
            events |= Events::HUP;
        }
        events
    }

    /// Reads on the slave side. Empty is the end of file.
    pub fn slave_read(&self, max: usize) -> Result<Vec<u8>, Errno> {
        let mut state = self.state.lock();
        let termios = *state.ldisc.termios();
        let (vmin, vtime) = (usize::from(termios.cc[libc::VMIN]), termios.cc[libc::VTIME]);
        let timed_out = std::mem::take(&mut state.timed_out);
        let min = match (vmin, timed_out) {
            (_, true) => 0,
            (0, false) => usize::from(vtime > 0).min(max),
            (vmin, false) => vmin.min(max),
        };
        match state.ldisc.read(max, min) {
            Some(bytes) => {
                if std::mem::take(&mut state.timer_armed)
                    && let Some(kernel) = self.kernel.upgrade()
                {
                    kernel.timers.disarm(self.read_timer);
                }
                drop(state);
                self.master_queue.wake(Events::OUT | Events::WRNORM);
                Ok(bytes)
            }
            None if !state.master_open => Ok(Vec::new()),
            None => {
                self.start_read_timer(&mut state);
                Err(Errno::EAGAIN)
            }
        }
    }

    /// Starts the clock of a raw read that waits (`VTIME`, tenths of a second): for the first byte if
    /// `VMIN` is 0, else anew once there are bytes.
    fn start_read_timer(&self, state: &mut State) {
        let termios = state.ldisc.termios();
        let tenths = u64::from(termios.cc[libc::VTIME]);
        let from_start = termios.cc[libc::VMIN] == 0;
        let waits = from_start || state.ldisc.readable() > 0;
        if termios.local(libc::ICANON) || tenths == 0 || !waits || (from_start && state.timer_armed)
        {
            return;
        }
        let (Some(kernel), Some(this)) = (self.kernel.upgrade(), self.this.upgrade()) else {
            return;
        };
        let at = monotonic_ns() + tenths * 100_000_000;
        let target: Weak<dyn Expire> = Arc::downgrade(&(this as Arc<dyn Expire>));
        // Without a timer the read waits on, as for an endless VTIME.
        state.timer_armed = kernel.timers.arm(self.read_timer, at, target).is_ok();
    }

    /// Writes on the slave side. Returns the bytes taken.
    pub fn slave_write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let mut state = self.state.lock();
        if !state.master_open {
            return Err(Errno::EIO);
        }
        let taken = state.ldisc.write(bytes);
        drop(state);
        if taken == 0 && !bytes.is_empty() {
            return Err(Errno::EAGAIN);
        }
        self.master_queue.wake(Events::IN | Events::RDNORM);
        Ok(taken)
    }

    /// What is ready on the slave side.
    pub fn slave_poll(&self) -> Events {
        let state = self.state.lock();
        let mut events = Events::empty();
        if !state.master_open {
            return Events::IN
                | Events::RDNORM
                | Events::OUT
                | Events::WRNORM
                | Events::HUP
                | Events::ERR;
        }
        if state.ldisc.has_input() {
            events |= Events::IN | Events::RDNORM;
        }
        if state.ldisc.writable() {
            events |= Events::OUT | Events::WRNORM;
        }
        events
    }

    /// The settings.
    pub fn termios(&self) -> Termios {
        *self.state.lock().ldisc.termios()
    }

    /// Changes the settings; `flush` drops unread input first (TCSETSF).
    pub fn set_termios(&self, new: Termios, flush: bool) {
        let mut state = self.state.lock();
        if flush {
            state.ldisc.flush_input();
        }
        let old = *state.ldisc.termios();
        let effects = state.ldisc.set_termios(new);
        if old.input(libc::IXON) != new.input(libc::IXON) {
            let event = if new.input(libc::IXON) { packet::DOSTOP } else { packet::NOSTOP };
            self.note_packet(&mut state, event);
        }
        drop(state);
        self.apply(effects);
    }

    /// The window size.
    pub fn winsize(&self) -> Winsize {
        self.state.lock().winsize
    }

    /// Changes the window size; the foreground process group hears of it (SIGWINCH).
    pub fn set_winsize(&self, size: Winsize) {
        let changed = {
            let mut state = self.state.lock();
            std::mem::replace(&mut state.winsize, size) != size
        };
        if changed {
            self.signal_foreground(libc::SIGWINCH);
        }
    }

    /// Bytes that the slave (`FIONREAD`) or the master could read, and that wait to go out.
    pub fn queued(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.ldisc.readable(), state.ldisc.output_len())
    }

    /// tcflush(3).
    pub fn flush(&self, input: bool, output: bool) {
        let mut state = self.state.lock();
        if input {
            state.ldisc.flush_input();
            self.note_packet(&mut state, packet::FLUSHREAD);
        }
        if output {
            state.ldisc.flush_output();
            self.note_packet(&mut state, packet::FLUSHWRITE);
        }
        drop(state);
        self.apply(Effects { writable: true, ..Effects::default() });
    }

    /// tcflow(3): stops or restarts output.
    pub fn set_stopped(&self, stopped: bool) {
        let mut state = self.state.lock();
        state.ldisc.set_stopped(stopped);
        self.note_packet(&mut state, if stopped { packet::STOP } else { packet::START });
        drop(state);
        self.apply(Effects { writable: !stopped, output: !stopped, ..Effects::default() });
    }

    /// TIOCSPTLCK.
    pub fn set_locked(&self, locked: bool) {
        self.state.lock().locked = locked;
    }

    /// TIOCGPTLCK.
    pub fn locked(&self) -> bool {
        self.state.lock().locked
    }

    /// Whether the master is closed.
    pub fn hung_up(&self) -> bool {
        !self.state.lock().master_open
    }

    /// TIOCGEXCL.
    pub fn exclusive(&self) -> bool {
        self.state.lock().exclusive
    }

    /// TIOCEXCL, TIOCNXCL.
    pub fn set_exclusive(&self, exclusive: bool) {
        self.state.lock().exclusive = exclusive;
    }

    /// TIOCPKT.
    pub fn set_packet_mode(&self, on: bool) {
        let mut state = self.state.lock();
        state.packet_mode = on;
        state.packet_events = 0;
    }

    /// TIOCGPKT.
    pub fn packet_mode(&self) -> bool {
        self.state.lock().packet_mode
    }

    fn note_packet(&self, state: &mut State, event: u8) {
        if state.packet_mode {
            state.packet_events |= event;
            self.master_queue.wake(Events::IN | Events::PRI);
        }
    }

    fn apply(&self, effects: Effects) {
        if effects.output {
            self.master_queue.wake(Events::IN | Events::RDNORM);
        }
        let mut slave = Events::empty();
        if effects.readable {
            slave |= Events::IN | Events::RDNORM;
        }
        if effects.writable {
            slave |= Events::OUT | Events::WRNORM;
        }
        if !slave.is_empty() {
            self.slave_queue.wake(slave);
        }
        if let Some(signo) = effects.signal {
            self.signal_foreground(signo);
        }
    }

    /// The kernel, unless it is being torn down.
    pub(super) fn kernel(&self) -> Option<Arc<Kernel>> {
        self.kernel.upgrade()
    }
}

impl Expire for Tty {
    fn expire(self: Arc<Self>) {
        let mut state = self.state.lock();
        state.timer_armed = false;
        state.timed_out = true;
        drop(state);
        self.slave_queue.wake(Events::IN | Events::RDNORM);
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        if let Some(kernel) = self.kernel.upgrade() {
            kernel.timers.disarm(self.read_timer);
        }
    }
}
