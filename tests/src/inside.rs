//! A sandbox whose Sentry or gofer does what the test says: the other end of `src/launch/hook.rs`.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use crate::{PATIENCE, Process, Sandboxes, wait};

/// The hook's requests.
const CALL: u64 = 0;
const CALL_32: u64 = 1;
const PEEK: u64 = 2;
const POKE: u64 = 3;

/// What the first program is: it says that it runs, and waits for the end of its input.
const PROGRAM: [&str; 3] = ["sh", "-c", "echo ready; exec cat"];

/// A taken-over process. Calls take place in it.
#[derive(Debug)]
pub struct Inside {
    launcher: Child,
    socket: UnixStream,
    /// Address of the memory that the test may use in it.
    pub scratch: u64,
}

/// The process is gone.
#[derive(Debug)]
pub struct Dead;

impl Inside {
    /// Takes over `process` as soon as it is sealed.
    pub fn early(command: Command, process: &str) -> Inside {
        Inside::start(command, process)
    }

    /// Takes over `process` of a sandbox whose guest runs.
    pub fn running(sandboxes: &Sandboxes, unprivileged: bool, process: &str) -> Inside {
        let arguments: Vec<&str> = ["run", "--"].into_iter().chain(PROGRAM).collect();
        let command = if unprivileged {
            sandboxes.unprivileged(&arguments)
        } else {
            sandboxes.command(&arguments)
        };
        Inside::ready(command, process)
    }

    /// As [`Inside::running`], with a command whose guest prints "ready" first.
    pub fn ready(command: Command, process: &str) -> Inside {
        let mut inside = Inside::start(command, process);
        let mut line = [0; 6];
        let stdout = inside.launcher.stdout.as_mut().expect("a pipe");
        stdout.read_exact(&mut line).expect("the guest runs");
        assert_eq!(&line, b"ready\n");
        inside
    }

    fn start(mut command: Command, process: &str) -> Inside {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        ours.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let fd = theirs.as_raw_fd();
        command.env("RSENTRY_COMPROMISED", format!("{process}:{fd}"));
        command.stdin(Stdio::piped());
        // SAFETY: fcntl is async-signal-safe; in the child only, so that nobody else inherits it.
        unsafe {
            command.pre_exec(move || match libc::fcntl(fd, libc::F_SETFD, 0) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        let launcher = command.spawn().expect("rsentry starts");
        drop(theirs);
        let mut inside = Inside { launcher, socket: ours, scratch: 0 };
        inside.scratch = inside.word().expect("the hook says where its memory is");
        inside
    }

    /// The launcher's process id.
    pub fn launcher(&self) -> u32 {
        self.launcher.id()
    }

    /// The two processes.
    pub fn processes(&self) -> Vec<Process> {
        Process::children(self.launcher.id())
    }

    /// A host call with these arguments; the others are 0. Negative results are errnos.
    pub fn try_call(&mut self, nr: i64, arguments: &[u64]) -> Result<i64, Dead> {
        let mut request = [CALL, nr as u64, 0, 0, 0, 0, 0, 0];
        request[2..2 + arguments.len()].copy_from_slice(arguments);
        self.request(request).map(|word| word as i64)
    }

    /// A host call that must not end the process.
    #[track_caller]
    pub fn call(&mut self, nr: i64, arguments: &[u64]) -> i64 {
        match self.try_call(nr, arguments) {
            Ok(result) => result,
            Err(Dead) => panic!("call {nr} with {arguments:x?} ended the process"),
        }
    }

    /// A host call by the 32-bit entry.
    pub fn try_call_32(&mut self, nr: u32) -> Result<i64, Dead> {
        self.request([CALL_32, nr.into(), 0, 0, 0, 0, 0, 0]).map(|word| word as i64)
    }

    /// Writes to the process's memory, at an offset of the scratch area; returns the address.
    #[track_caller]
    pub fn put(&mut self, offset: u64, bytes: &[u8]) -> u64 {
        let address = self.scratch + offset;
        let request = [POKE, address, bytes.len() as u64, 0, 0, 0, 0, 0];
        let bytes: Vec<u8> = request
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .chain(bytes.iter().copied())
            .collect();
        self.socket.write_all(&bytes).expect("the process lives");
        self.word().expect("the process lives");
        address
    }

    /// Words likewise.
    #[track_caller]
    pub fn put_words(&mut self, offset: u64, words: &[u64]) -> u64 {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.put(offset, &bytes)
    }

    /// A path or another string.
    #[track_caller]
    pub fn put_string(&mut self, offset: u64, text: &str) -> u64 {
        self.put(offset, &[text.as_bytes(), b"\0"].concat())
    }

    /// Reads the process's memory.
    #[track_caller]
    pub fn get(&mut self, address: u64, length: usize) -> Vec<u8> {
        self.send([PEEK, address, length as u64, 0, 0, 0, 0, 0]).expect("the process lives");
        let mut bytes = vec![0; length];
        self.socket.read_exact(&mut bytes).expect("the process lives");
        bytes
    }

    /// Waits for the launcher, which must complain, and returns what it says.
    #[track_caller]
    pub fn complaint(mut self) -> String {
        let status = wait(&mut self.launcher);
        let mut text = String::new();
        let stderr = self.launcher.stderr.as_mut().expect("a pipe");
        stderr.read_to_string(&mut text).expect("text");
        assert_eq!(status.code(), Some(125), "{text}");
        text
    }

    /// Ends the guest's input, and with it the sandbox, which must still be in order.
    #[track_caller]
    pub fn stop(mut self) {
        drop(self.launcher.stdin.take());
        let status = wait(&mut self.launcher);
        let mut text = String::new();
        let stderr = self.launcher.stderr.as_mut().expect("a pipe");
        stderr.read_to_string(&mut text).expect("text");
        assert_eq!(status.code(), Some(0), "{text}");
    }

    /// Kills the launcher, and with it everything.
    pub fn kill(mut self) {
        self.launcher.kill().expect("it lives");
        self.launcher.wait().expect("it is ours");
    }

    fn send(&mut self, request: [u64; 8]) -> Result<(), Dead> {
        let bytes: Vec<u8> = request.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.socket.write_all(&bytes).map_err(|_| Dead)
    }

    fn request(&mut self, request: [u64; 8]) -> Result<u64, Dead> {
        self.send(request)?;
        self.word()
    }

    /// The answer. A process that neither answers nor dies has been made to sleep, which is a
    /// mistake in the test.
    fn word(&mut self) -> Result<u64, Dead> {
        let mut bytes = [0; 8];
        match self.socket.read_exact(&mut bytes) {
            Ok(()) => Ok(u64::from_le_bytes(bytes)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("no answer"),
            Err(_) => Err(Dead),
        }
    }
}
