//! Where lines go.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::options::SinkChoice;
use crate::error::Error;
use crate::view;

/// Facility `authpriv`, severity `info`, as syslog(3) numbers them.
const PRIORITY: u8 = 10 << 3 | SEVERITY;
const SEVERITY: u8 = 6;

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrote {
    /// It is written.
    All,
    /// The sink takes no more now, or took only a part of the line.
    NotNow,
}

/// An open sink.
#[derive(Debug)]
pub(super) enum Sink {
    /// A file, pipe or terminal, and how much of the line at hand it has.
    Stream(OwnedFd, usize),
    /// The system's logger.
    Syslog(UnixDatagram, PathBuf),
    /// systemd's journal.
    Journald(UnixDatagram, PathBuf),
}

impl Sink {
    /// Opens it; a file is made if there is none, and only ever appended to.
    pub(super) fn open(choice: &SinkChoice) -> Result<Sink, Error> {
        let failed = |what: &dyn std::fmt::Debug, error: &io::Error| {
            Error::option("--audit", format!("{what:?}: {}", view::plain(error)))
        };
        match choice {
            SinkChoice::File(path) => {
                // O_NONBLOCK for named pipes: without a reader that is an error.
                let file = OpenOptions::new()
                    .append(true)
                    .create(true)
                    .mode(0o600)
                    .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
                    .open(path)
                    .map_err(|error| failed(path, &error))?;
                Ok(Sink::Stream(file.into(), 0))
            }
            SinkChoice::Descriptor(number) => {
                let name = format!("fd:{number}");
                let fd = duplicate(*number).map_err(|error| failed(&name, &error))?;
                Ok(Sink::Stream(fd, 0))
            }
            SinkChoice::Syslog(path) | SinkChoice::Journald(path) => {
                let socket = datagram(path).map_err(|error| failed(path, &error))?;
                Ok(match choice {
                    SinkChoice::Syslog(_) => Sink::Syslog(socket, path.clone()),
                    _ => Sink::Journald(socket, path.clone()),
                })
            }
        }
    }

    /// Writes a line, or goes on with it. Does not block.
    pub(super) fn write(&mut self, line: &[u8]) -> io::Result<Wrote> {
        match self {
            Sink::Stream(fd, done) => {
                while *done < line.len() {
                    if !is_ready(fd.as_fd())? {
                        return Ok(Wrote::NotNow);
                    }
                    match write_some(fd.as_fd(), &line[*done..]) {
                        Ok(count) => *done += count,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            return Ok(Wrote::NotNow);
                        }
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => {
                            // The next line must not go on where this one broke off.
                            if *done > 0 {
                                let _ = write_some(fd.as_fd(), b"\n");
                            }
                            *done = 0;
                            return Err(error);
                        }
                    }
                }
                *done = 0;
                Ok(Wrote::All)
            }
            Sink::Syslog(socket, path) => {
                let prefix = format!("<{PRIORITY}>rsentry[{}]: ", std::process::id());
                send(socket, path, &[prefix.as_bytes(), without_newline(line)].concat())
            }
            Sink::Journald(socket, path) => {
                let fields = format!("SYSLOG_IDENTIFIER=rsentry\nPRIORITY={SEVERITY}\nMESSAGE=");
                send(socket, path, &[fields.as_bytes(), without_newline(line), b"\n"].concat())
            }
        }
    }
}

impl AsFd for Sink {
    /// Polls writable when it takes more.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Sink::Stream(fd, _) => fd.as_fd(),
            Sink::Syslog(socket, _) | Sink::Journald(socket, _) => socket.as_fd(),
        }
    }
}

fn without_newline(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\n").unwrap_or(line)
}

/// A descriptor of the caller's, if it can be written to. Its flags are shared with whoever else
/// has it, and stay as they are.
fn duplicate(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: fcntl with these commands takes numbers only.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & libc::O_ACCMODE == libc::O_RDONLY || flags & libc::O_PATH != 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: as above.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// A socket to send from. That somebody listens is checked now.
fn datagram(path: &Path) -> io::Result<UnixDatagram> {
    if !std::fs::metadata(path)?.file_type().is_socket() {
        return Err(io::Error::from_raw_os_error(libc::ENOTSOCK));
    }
    UnixDatagram::unbound()?.connect(path)?;
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// To the path and not to a connection: the logger may be started anew.
fn send(socket: &UnixDatagram, path: &Path, message: &[u8]) -> io::Result<Wrote> {
    match socket.send_to(message, path) {
        Ok(_) => Ok(Wrote::All),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Wrote::NotNow),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Wrote::NotNow),
        Err(error) => Err(error),
    }
}

/// Whether a write would not block; of a broken pipe, too, so that the write says so.
fn is_ready(fd: BorrowedFd<'_>) -> io::Result<bool> {
    match poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], PollTimeout::ZERO) {
        Ok(count) => Ok(count > 0),
        Err(nix::Error::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// At most what a pipe that polls writable takes without blocking.
fn write_some(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let bytes = bytes.get(..libc::PIPE_BUF).filter(|_| !is_file(fd)).unwrap_or(bytes);
    // SAFETY: `bytes` is valid for reads of its length.
    let count = unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
    match usize::try_from(count) {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        Ok(count) => Ok(count),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

fn is_file(fd: BorrowedFd<'_>) -> bool {
    let kind = libc::S_IFMT;
    nix::sys::stat::fstat(fd).is_ok_and(|stat| stat.st_mode & kind == libc::S_IFREG)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_full_pipe_does_not_block_and_loses_nothing() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut sink = Sink::Stream(writer.into(), 0);
        let line = vec![b'x'; 5000];
        let mut taken = 0;
        while sink.write(&line).unwrap() == Wrote::All {
            taken += 1;
        }
        assert!((8..40).contains(&taken), "{taken}");
        let mut some = vec![0; 20_000];
        reader.read_exact(&mut some).unwrap();
        assert_eq!(sink.write(&line).unwrap(), Wrote::All);
        drop(sink);
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        assert_eq!(some.len() + rest.len(), (taken + 1) * line.len());
    }

    #[test]
    fn losing_the_reader_is_an_error() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut sink = Sink::Stream(writer.into(), 0);
        assert_eq!(sink.write(b"x\n").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        let mut full = Sink::open(&SinkChoice::File("/dev/full".into())).unwrap();
        assert_eq!(full.write(b"x\n").unwrap_err().kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn loggers_get_a_datagram_a_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let listener = UnixDatagram::bind(&path).unwrap();
        let mut buffer = [0; 200];
        let mut message = |choice: SinkChoice| {
            let mut sink = Sink::open(&choice).unwrap();
            assert_eq!(sink.write(b"{\"a\":1}\n").unwrap(), Wrote::All);
            let length = listener.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        let text = message(SinkChoice::Syslog(path.clone()));
        assert!(text.starts_with("<86>rsentry[") && text.ends_with("]: {\"a\":1}"), "{text}");
        let text = message(SinkChoice::Journald(path.clone()));
        assert!(text.ends_with("PRIORITY=6\nMESSAGE={\"a\":1}\n"), "{text}");
    }

    #[test]
    fn what_cannot_be_written_to_is_refused() {
        for choice in [
            SinkChoice::Descriptor(9999),
            SinkChoice::File("/no/such/directory/x".into()),
            SinkChoice::File("/".into()),
            SinkChoice::Syslog("/dev/null".into()),
            SinkChoice::Journald("/no/such/socket".into()),
        ] {
            let error = Sink::open(&choice).unwrap_err().to_string();
            assert!(error.starts_with("--audit"), "{error}");
        }
    }
}
