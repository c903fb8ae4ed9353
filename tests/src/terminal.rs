//! A terminal with a person at it: the master side of a pty.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use crate::PATIENCE;

/// A pty, and what has appeared on it.
#[derive(Debug)]
pub struct Terminal {
    master: File,
    slave: OwnedFd,
    output: Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    /// A pty with this window size.
    pub fn new(rows: u16, cols: u16) -> Terminal {
        let (mut master, mut slave) = (-1, -1);
        let size = libc::winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        let null = std::ptr::null_mut();
        // SAFETY: the two numbers and the size are valid; no name and no mode are asked for.
        let result =
            unsafe { libc::openpty(&raw mut master, &raw mut slave, null, null.cast(), &size) };
        assert_eq!(result, 0, "openpty");
        // SAFETY: fresh descriptors that nobody else owns.
        let (master, slave) = unsafe { (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
        for fd in [master.as_raw_fd(), slave.as_raw_fd()] {
            // SAFETY: plain numbers.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
        let (sender, output) = channel();
        let mut reader = master.try_clone().expect("a second descriptor");
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // EIO says that the last slave was closed.
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Terminal { master, slave, output, seen: String::new() }
    }

    /// Starts a command with the terminal as its controlling terminal, in the foreground.
    pub fn spawn(&self, mut command: Command) -> Child {
        use std::os::unix::process::CommandExt;
        let stdio = || Stdio::from(self.slave.try_clone().expect("a second descriptor"));
        command.stdin(stdio()).stdout(stdio()).stderr(stdio());
        // SAFETY: setsid and ioctl are async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() == -1 || libc::ioctl(0, libc::TIOCSCTTY, 0) == -1 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        command.spawn().expect("the command starts")
    }

    /// Types something.
    pub fn send(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("the terminal takes input");
    }

    /// Waits until `text` has appeared since the last call, and returns all that has up to it.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        let start = Instant::now();
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            let left = PATIENCE.saturating_sub(start.elapsed());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("{text:?} did not appear; what did: {:?}", self.seen),
            }
        }
    }

    /// Changes the window size; the foreground job gets SIGWINCH.
    pub fn resize(&self, rows: u16, cols: u16) {
        let size = libc::winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCSWINSZ reads a `struct winsize`.
        let result =
            unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(result, 0, "TIOCSWINSZ");
    }

    /// Whether the terminal edits lines and echoes, as terminals do that nobody put in raw mode.
    pub fn is_cooked(&self) -> bool {
        // SAFETY: an all-zero termios is a valid value, and tcgetattr writes it.
        let mode = unsafe {
            let mut mode: libc::termios = std::mem::zeroed();
            assert_eq!(libc::tcgetattr(self.slave.as_raw_fd(), &raw mut mode), 0, "tcgetattr");
            mode
        };
        let all = libc::ICANON | libc::ECHO | libc::ISIG;
        mode.c_lflag & all == all
    }
}
