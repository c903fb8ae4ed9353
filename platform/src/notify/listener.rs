//! The Sentry's end of a doorbell: a seccomp listener (seccomp_unotify(2)).

use std::os::fd::{AsRawFd, OwnedFd};

use crate::Error;

/// `struct seccomp_notif`.
#[derive(Default)]
#[repr(C)]
struct Notif {
    id: u64,
    pid: u32,
    flags: u32,
    nr: i32,
    arch: u32,
    ip: u64,
    args: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Response {
    id: u64,
    val: i64,
    error: i32,
    flags: u32,
}

const fn ioctl(direction: u64, number: u64, size: usize) -> u64 {
    direction << 30 | (size as u64) << 16 | (b'!' as u64) << 8 | number
}
/// `SECCOMP_IOCTL_NOTIF_RECV`.
pub(super) const RECV: u64 = ioctl(3, 0, size_of::<Notif>());
/// `SECCOMP_IOCTL_NOTIF_SEND`.
pub(super) const SEND: u64 = ioctl(3, 1, size_of::<Response>());
/// `SECCOMP_IOCTL_NOTIF_SET_FLAGS`.
pub(super) const SET_FLAGS: u64 = ioctl(1, 4, size_of::<u64>());
/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`: whom a doorbell or its answer wakes runs on the CPU of who
/// wakes it, which is about to sleep.
const SYNC_WAKE_UP: u64 = 1;

/// `SECCOMP_USER_NOTIF_FLAG_CONTINUE`.
const CONTINUE: u32 = 1;

/// Somebody rang.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring {
    /// To be answered with [`Listener::answer`].
    pub(super) id: u64,
    /// With which number: the doorbell's or another one that goes to listeners.
    pub(super) nr: u32,
    /// Who.
    pub(super) tid: libc::pid_t,
    /// The first two arguments. They come from registers, so that nobody else can have had a hand
    /// in them.
    pub(super) args: [u64; 2],
}

/// See the module.
pub(super) struct Listener {
    fd: OwnedFd,
    /// Whether a host that is asked for a ring says when nobody can ring any more (since 6.11).
    tells_end: bool,
}

impl Listener {
    /// Takes over a descriptor that came from a stub.
    ///
    /// # Errors
    /// If it is not a listener.
    pub(super) fn new(fd: OwnedFd, host: super::probe::Host) -> Result<Listener, Error> {
        let listener = Listener { fd, tells_end: host.listener_tells_end };
        if host.sync_wake_up {
            listener
                .ioctl(SET_FLAGS, SYNC_WAKE_UP as usize)
                .map_err(|e| Error::host("listener", e))?;
        }
        Ok(listener)
    }

    /// Uses `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`. Returns whether the host has it.
    pub(super) fn wake_here(&self) -> bool {
        self.ioctl(SET_FLAGS, SYNC_WAKE_UP as usize).is_ok()
    }

    fn ioctl(&self, command: u64, argument: usize) -> Result<(), i32> {
        // SAFETY: callers pass a number or the address of a live buffer as the command needs.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), command, argument) };
        if result == 0 { Ok(()) } else { Err(crate::errno()) }
    }

    /// Waits until somebody rings.
    ///
    /// # Errors
    /// [`Error::StubGone`] when nobody is left who could.
    pub(super) fn next(&self) -> Result<Ring, Error> {
        loop {
            if !self.tells_end {
                self.poll(-1)?;
            }
            if let Some(ring) = self.receive()? {
                return Ok(ring);
            }
        }
    }

    /// As [`Listener::next`] for so many milliseconds at most, after which there is `None`.
    pub(super) fn next_within(&self, milliseconds: i32) -> Result<Option<Ring>, Error> {
        while self.poll(milliseconds)? {
            if let Some(ring) = self.receive()? {
                return Ok(Some(ring));
            }
        }
        Ok(None)
    }

    /// Takes what was rung. `None` if there is nothing any more.
    fn receive(&self) -> Result<Option<Ring>, Error> {
        let mut notif = Notif::default();
        match self.ioctl(RECV, &raw mut notif as usize) {
            Ok(()) => {
                let Notif { id, pid, nr, args: [a, b, ..], .. } = notif;
                let (nr, tid) = (nr as u32, pid as libc::pid_t);
                Ok(Some(Ring { id, nr, tid, args: [a, b] }))
            }
            // A signal to us.
            Err(libc::EINTR) => Ok(None),
            // Who rang was interrupted in between, or nobody is left.
            Err(libc::ENOENT) => self.poll(0).map(|_| None),
            Err(errno) => Err(Error::host("SECCOMP_IOCTL_NOTIF_RECV", errno)),
        }
    }

    /// Waits for somebody who rings, for so many milliseconds at most. Whether somebody does.
    fn poll(&self, timeout: i32) -> Result<bool, Error> {
        let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: plain system call with a live buffer.
        unsafe { libc::poll(&mut poll, 1, timeout) };
        if poll.revents & libc::POLLIN == 0 && poll.revents & libc::POLLHUP != 0 {
            return Err(Error::StubGone);
        }
        Ok(poll.revents & libc::POLLIN != 0)
    }

    /// Lets who rang go on, with `value` as the doorbell's result. Who is gone or was interrupted
    /// meanwhile does not get it.
    pub(super) fn answer(&self, id: u64, value: i64) {
        self.respond(&Response { id, val: value, error: 0, flags: 0 });
    }

    /// Has the host carry out the call. Its arguments are those that the ring told: they are in
    /// registers.
    pub(super) fn allow(&self, id: u64) {
        self.respond(&Response { id, val: 0, error: 0, flags: CONTINUE });
    }

    fn respond(&self, response: &Response) {
        if let Err(errno) = self.ioctl(SEND, std::ptr::from_ref(response) as usize)
            && errno != libc::ENOENT
        {
            tracing::error!(errno, "SECCOMP_IOCTL_NOTIF_SEND");
        }
    }
}
