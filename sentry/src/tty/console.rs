//! The sandbox's own terminal: a pty whose master side is joined to the caller's terminal.
//!
//! Two threads copy, one per direction; both sleep while nothing moves. The launcher has put the
//! caller's terminal into raw mode, so the guest's line discipline is the only one.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use parking_lot::Mutex;

use super::file::Master;
use super::pty::Tty;
use crate::boot::Cause;
use crate::kernel::{Events, Kernel, Sleeper};

const CHUNK: usize = 4096;

/// The joined terminals.
pub struct Console {
    master: Master,
    input: OwnedFd,
    output: Mutex<OwnedFd>,
    /// Whether the caller's terminal may be read: the launcher is its foreground job.
    foreground: AtomicBool,
    /// Ends the input thread's poll when `foreground` changes.
    changed: OwnedFd,
    /// Wakes the output thread.
    writer: Arc<Sleeper>,
    /// Whose output it is.
    kernel: Weak<Kernel>,
}

impl Console {
    /// Joins a master to the caller's terminal; call [`Console::start`] once threads may be made.
    pub fn new(
        kernel: &Arc<Kernel>,
        master: Master,
        input: OwnedFd,
        output: OwnedFd,
        foreground: bool,
    ) -> io::Result<Arc<Console>> {
        // SAFETY: plain call.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let changed = unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) };
        Ok(Arc::new(Console {
            master,
            input,
            output: Mutex::new(output),
            foreground: AtomicBool::new(foreground),
            changed,
            writer: Arc::default(),
            kernel: Arc::downgrade(kernel),
        }))
    }

    /// The guest's terminal.
    pub fn tty(&self) -> &Arc<Tty> {
        &self.master.tty
    }

    /// Starts the two threads.
    pub fn start(self: &Arc<Self>) -> io::Result<()> {
        let spawn = |name: &str, run: fn(&Console)| {
            let this = self.clone();
            let builder = std::thread::Builder::new().name(name.into()).stack_size(64 * 1024);
            builder.spawn(move || run(&this)).map(|_| ())
        };
        spawn("console-in", Console::copy_input)?;
        spawn("console-out", Console::copy_output)
    }

    /// Lets the caller's terminal be read, or not.
    pub fn set_foreground(&self, foreground: bool) {
        self.foreground.store(foreground, Ordering::SeqCst);
        let one = 1u64.to_ne_bytes();
        // SAFETY: `one` is valid for reads. A full counter wakes just as well.
        unsafe { libc::write(self.changed.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Copies what programs wrote so far to the caller's terminal.
    pub fn drain(&self) {
        let output = self.output.lock();
        while let Ok(bytes) = self.master.tty.master_read(CHUNK) {
            let Some(kernel) = self.kernel.upgrade() else { break };
            let most = kernel.limits.output.take(bytes.len() as u64) as usize;
            let allowed = bytes.get(..most).unwrap_or(&bytes);
            if write_all(&output, allowed).is_err() {
                break;
            }
            if most < bytes.len() {
                kernel.end(Cause::Output);
                break;
            }
        }
    }

    fn copy_output(&self) {
        self.writer.bind();
        let queue = self.master.tty.master_queue().clone();
        let _registration = queue.register(Events::IN, self.writer.clone());
        loop {
            self.drain();
            self.writer.park(None);
        }
    }

    fn copy_input(&self) {
        let sleeper = Arc::new(Sleeper::default());
        sleeper.bind();
        let queue = self.master.tty.master_queue().clone();
        let _registration = queue.register(Events::OUT, sleeper.clone());
        let mut buf = [0; CHUNK];
        while let Some(n) = self.read_input(&mut buf) {
            let mut rest = &buf[..n];
            while !rest.is_empty() {
                match self.master.tty.master_write(rest) {
                    Ok(taken) => rest = &rest[taken..],
                    Err(Errno::EAGAIN) => {
                        sleeper.park(None);
                    }
                    Err(_) => return,
                }
            }
        }
        // The caller's terminal is gone: so is the guest's.
        self.master.tty.close_master();
    }

    /// Reads from the caller's terminal while that is allowed; `None` at its end.
    fn read_input(&self, buf: &mut [u8]) -> Option<usize> {
        loop {
            let input =
                if self.foreground.load(Ordering::SeqCst) { self.input.as_raw_fd() } else { -1 };
            let watch = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            let mut fds = [watch(input), watch(self.changed.as_raw_fd())];
            // SAFETY: two valid pollfds.
            let n = unsafe { libc::poll(fds.as_mut_ptr(), 2, -1) };
            if n < 0 {
                if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return None;
            }
            if fds[1].revents != 0 {
                let mut count = [0u8; 8];
                // SAFETY: `count` is valid for writes.
                unsafe { libc::read(fds[1].fd, count.as_mut_ptr().cast(), count.len()) };
            } else if fds[0].revents != 0 {
                // SAFETY: `buf` is valid for writes of its length.
                let n = unsafe { libc::read(input, buf.as_mut_ptr().cast(), buf.len()) };
                match usize::try_from(n) {
                    Ok(0) => return None,
                    Ok(n) => return Some(n),
                    Err(_) => match io::Error::last_os_error().raw_os_error() {
                        Some(libc::EINTR | libc::EAGAIN) => continue,
                        _ => return None,
                    },
                }
            }
        }
    }
}

fn write_all(fd: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        // SAFETY: `bytes` is valid for reads of its length.
        let n = unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
        match usize::try_from(n) {
            Ok(n) => bytes = &bytes[n..],
            Err(_) => {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => {
                        let mut poll =
                            libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
                        // SAFETY: one valid pollfd.
                        unsafe { libc::poll(&mut poll, 1, -1) };
                    }
                    _ => return Err(error),
                }
            }
        }
    }
    Ok(())
}
