//! Helper processes: how a program with threads, or with other descriptors for the guest than its
//! own, runs sandboxes.
//!
//! The helper is a fresh, single-threaded process: this program again, whose `main` begins with
//! [`init`], or the `rsentry` command. It inherits one end of a socket pair, whose number is its
//! argument, reads the [`Sandbox`] from it, runs it, writes what came of it, and exits. Messages are a
//! length and JSON. Each side takes the other's end of file for its death.
//!
//! The caller trusts the helper, which is its own code; nothing that the guest controls gets there but
//! inside of strings. As the `rsentry` command, a helper confines itself once its sandbox runs.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use sentry::boot::BootFailure;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::builder::{Input, Output};
use crate::error::Error;
use crate::launch;
use crate::report::Report;
use crate::sandbox::Sandbox;

/// A helper's name for itself (`argv[0]`), by which [`init`] knows it.
const NAME: &str = "rsentry-sandbox-helper";
/// Longest message, in bytes: arguments and environment, three to four characters a byte.
const MAX_MESSAGE: u32 = 64 << 20;

/// Whether this program's `main` began with [`init`], so that it can be its own helper.
static INITIALIZED: AtomicBool = AtomicBool::new(false);

/// What came of a sandbox.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Done(Box<Report>),
    Boot(BootFailure),
    Failed(String),
}

/// To be called first thing in the `main` of a program that runs sandboxes from threads, or with
/// captured output: before it starts threads, opens files or prints. In a helper process it runs
/// the sandbox and does not return; in any other it returns at once.
pub fn init() {
    let mut arguments = std::env::args_os();
    if arguments.next().is_none_or(|name| name != NAME) {
        INITIALIZED.store(true, Ordering::Relaxed);
        return;
    }
    let number = arguments.next().and_then(|text| text.to_str()?.parse::<RawFd>().ok());
    let code = match number.filter(|number| *number > libc::STDERR_FILENO) {
        // SAFETY: the process has just begun, and whoever started it says that this descriptor is
        // for it; if there is none, the first use fails.
        Some(number) => serve(unsafe { UnixStream::from_raw_fd(number) }),
        None => Err(io::Error::from_raw_os_error(libc::EINVAL)),
    };
    std::process::exit(match code {
        Ok(()) => 0,
        Err(_) => Error::OWN_FAILURE.into(),
    });
}

/// The helper's life.
fn serve(mut caller: UnixStream) -> io::Result<()> {
    close_on_exec(caller.as_raw_fd(), true)?;
    let sandbox: Sandbox = receive(&mut caller)?;
    let owner = OwnedFd::from(caller.try_clone()?);
    let answer = match launch::sandbox(&sandbox, Some(owner), true) {
        Ok(report) => Answer::Done(Box::new(report)),
        Err(Error::Boot(failure)) => Answer::Boot(failure),
        Err(error) => Answer::Failed(error.to_string()),
    };
    send(&mut caller, &answer)
}

/// Runs a sandbox in a helper process.
pub(crate) fn run(
    sandbox: &Sandbox,
    program: Option<&Path>,
    stdin: Input,
    outputs: [Output; 2],
) -> Result<Report, Error> {
    let program = match program {
        Some(program) => program,
        None if INITIALIZED.load(Ordering::Relaxed) => Path::new("/proc/self/exe"),
        None => {
            return Err(Error::Usage(
                "a process with threads, or that does not pass on its own descriptors, needs a \
                 helper to run a sandbox: call rsentry::init() first thing in main, or name the \
                 rsentry command with Builder::helper"
                    .into(),
            ));
        }
    };
    let failed = |what: &'static str| move |error: io::Error| Error::host(what, error);
    let (mut ours, theirs) = UnixStream::pair().map_err(failed("socketpair"))?;
    let [stdout, stderr] = outputs;
    let (input, bytes) = match stdin {
        Input::Inherit => (Stdio::inherit(), None),
        Input::Null => (Stdio::null(), None),
        Input::Bytes(bytes) => (Stdio::piped(), Some(bytes)),
        Input::File(file) => (file.into(), None),
    };
    let mut command = Command::new(program);
    let number = theirs.as_raw_fd();
    command.arg0(NAME).arg(number.to_string());
    command.stdin(input).stdout(stdio(stdout)).stderr(stdio(stderr));
    // SAFETY: between fork and exec only fcntl(2) is called, on a descriptor that is open.
    unsafe { command.pre_exec(move || close_on_exec(number, false)) };
    let mut child = command.spawn().map_err(failed("starting a helper process"))?;
    drop(theirs);
    let answer = converse(&mut child, &mut ours, sandbox, bytes);
    // Our end is closed first, so that a helper that is still there ends.
    drop(ours);
    let status = child.wait().map_err(failed("waiting for a helper process"))?;
    let (answer, [stdout, stderr]) = answer;
    match answer {
        Ok(Answer::Done(report)) => Ok(Report { stdout, stderr, ..*report }),
        Ok(Answer::Boot(failure)) => Err(failure.into()),
        Ok(Answer::Failed(message)) => Err(Error::Helper(message)),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            Err(Error::Usage(error.to_string()))
        }
        Err(_) => Err(Error::Died(format!("the helper process ended unexpectedly: {status}"))),
    }
}

/// Sends the request, and feeds and drains the pipes until the answer is there.
fn converse(
    child: &mut Child,
    socket: &mut UnixStream,
    sandbox: &Sandbox,
    input: Option<Vec<u8>>,
) -> (io::Result<Answer>, [Vec<u8>; 2]) {
    let stdin = child.stdin.take();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if let (Some(mut stdin), Some(bytes)) = (stdin, input) {
                // A program need not read all of it.
                drop(stdin.write_all(&bytes));
            }
        });
        let stdout = scope.spawn(move || capture(stdout));
        let stderr = scope.spawn(move || capture(stderr));
        let answer = send(socket, sandbox).and_then(|()| receive(socket));
        if answer.is_err() {
            // It may wait for us; without it, the pipes end. An error means that it is gone.
            drop(child.kill());
        }
        let collect =
            |thread: std::thread::ScopedJoinHandle<'_, _>| thread.join().unwrap_or_default();
        (answer, [collect(stdout), collect(stderr)])
    })
}

/// Reads to the end, and keeps what [`Output::MOST`] allows.
fn capture(from: Option<impl Read>) -> Vec<u8> {
    let mut kept = Vec::new();
    if let Some(mut from) = from {
        // What was read before an error is what there is.
        drop(from.by_ref().take(Output::MOST).read_to_end(&mut kept));
        drop(io::copy(&mut from, &mut io::sink()));
    }
    kept
}

fn stdio(output: Output) -> Stdio {
    match output {
        Output::Inherit => Stdio::inherit(),
        Output::Null => Stdio::null(),
        Output::Capture => Stdio::piped(),
        Output::File(file) => file.into(),
    }
}

fn close_on_exec(fd: RawFd, close: bool) -> io::Result<()> {
    let flags = if close { libc::FD_CLOEXEC } else { 0 };
    // SAFETY: plain system call.
    match unsafe { libc::fcntl(fd, libc::F_SETFD, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `InvalidInput` if the message cannot be written as JSON, or is too long.
fn send<T: Serialize>(socket: &mut UnixStream, message: &T) -> io::Result<()> {
    let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidInput, error);
    let bytes = serde_json::to_vec(message).map_err(|error| invalid(error.to_string()))?;
    let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= MAX_MESSAGE);
    let length = length.ok_or_else(|| invalid("the description is too long".into()))?;
    socket.write_all(&length.to_ne_bytes())?;
    socket.write_all(&bytes)
}

fn receive<T: DeserializeOwned>(socket: &mut UnixStream) -> io::Result<T> {
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let length = u32::from_ne_bytes(length);
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    if length > MAX_MESSAGE {
        return Err(invalid("a message is too long"));
    }
    let mut bytes = Vec::new();
    socket.take(length.into()).read_to_end(&mut bytes)?;
    serde_json::from_slice(&bytes).map_err(|error| invalid(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn descriptions_and_answers_travel_unchanged() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let odd = std::ffi::OsString::from_vec(vec![b'a', 0xff]);
        let sandbox = Sandbox::builder([odd]).memory(1 << 30).read_only("/a", "/b").build();
        send(&mut ours, &sandbox).unwrap();
        let back: Sandbox = receive(&mut theirs).unwrap();
        assert_eq!(format!("{back:?}"), format!("{sandbox:?}"));
        drop(ours);
        assert!(receive::<Answer>(&mut theirs).is_err());
    }

    #[test]
    fn cut_and_huge_messages_are_errors() {
        for bytes in [&[9, 0, 0, 0, b'{'][..], &[255; 4], &[2, 0, 0, 0, b'{', b'x']] {
            let (mut ours, mut theirs) = UnixStream::pair().unwrap();
            ours.write_all(bytes).unwrap();
            drop(ours);
            assert!(receive::<Sandbox>(&mut theirs).is_err());
        }
    }
}
