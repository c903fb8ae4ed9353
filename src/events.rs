//! `rsentry events`: follows an audit file, as `tail -f` does, until the sandboxes in it have ended.
//!
//! The file is hostile input, at least as far as guests' strings are in it: lines are bounded, and
//! nothing of them reaches a terminal unescaped.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use sentry::audit::record::Kind;
use serde_json::Value;

use crate::check::escaped;
use crate::error::Error;
use crate::view;

/// Longest line that is looked at, in bytes.
const MAX_LINE: usize = 64 * 1024;
/// Most sandboxes that are kept track of at once.
const MAX_RUNNING: usize = 65_536;

/// One run of `rsentry events`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Events {
    /// The file; `-` is standard input.
    pub file: PathBuf,
    /// Only these kinds of records; all if empty.
    pub kinds: Vec<Kind>,
    /// Only records of this sandbox.
    pub sandbox: Option<String>,
    /// Print records as they are.
    pub json: bool,
    /// Wait for more.
    pub follow: bool,
}

/// Kinds of records by name, separated by commas.
///
/// # Errors
/// Names the option and the kind.
pub(crate) fn kinds(value: &OsStr) -> Result<Vec<Kind>, Error> {
    let text = value.to_string_lossy();
    let one = |name: &str| {
        let found = Kind::NAMES.iter().find(|(known, _)| *known == name);
        found.map(|&(_, kind)| kind).ok_or_else(|| {
            let known = Kind::NAMES.map(|(name, _)| name).join(", ");
            Error::option("--kind", format!("{name:?} is not one of: {known}"))
        })
    };
    text.split(',').map(one).collect()
}

impl Events {
    /// Prints what is in the file and what comes, until all sandboxes that have started in it have
    /// ended.
    ///
    /// # Errors
    /// The file cannot be read, or the output not be written. A reader that is gone is none.
    pub fn run(&self, out: &mut impl Write) -> Result<(), Error> {
        let failed =
            |error: io::Error| Error::Usage(format!("{:?}: {}", self.file, view::plain(&error)));
        match self.copy(out) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(failed),
        }
    }

    fn copy(&self, out: &mut impl Write) -> io::Result<()> {
        let mut lines = Lines::new();
        let mut running = Running::default();
        if self.file.as_os_str() == "-" {
            return self.read(&mut io::stdin().lock(), &mut lines, &mut running, out);
        }
        let watch = Watch::new(&self.file)?;
        let mut file = File::open(&self.file)?;
        loop {
            self.read(&mut file, &mut lines, &mut running, out)?;
            let metadata = file.metadata()?;
            let complete = running.all_ended(self.sandbox.as_deref());
            if !self.follow || complete || !metadata.is_file() || metadata.nlink() == 0 {
                return Ok(());
            }
            let position = file.stream_position()?;
            if metadata.len() < position {
                // Somebody has emptied it.
                file.seek(SeekFrom::Start(0))?;
            } else if metadata.len() == position {
                watch.wait()?;
            }
        }
    }

    /// Everything up to the end of file.
    fn read(
        &self,
        from: &mut impl Read,
        lines: &mut Lines,
        running: &mut Running,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        loop {
            let got = match from.read(&mut buffer) {
                Ok(0) => return out.flush(),
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let bytes = buffer.get(..got).unwrap_or_default();
            for line in lines.feed(bytes) {
                self.line(&line, running, out)?;
            }
        }
    }

    fn line(&self, line: &[u8], running: &mut Running, out: &mut impl Write) -> io::Result<()> {
        // What is torn or foreign is nobody's record.
        let Ok(record) = serde_json::from_slice::<Value>(line) else { return Ok(()) };
        let text = |name: &str| record.get(name).and_then(Value::as_str);
        let (Some(kind), Some(sandbox)) = (text("kind"), text("sandbox")) else { return Ok(()) };
        running.note(kind, sandbox);
        let is_wanted = |name: &str| self.kinds.iter().any(|kind| kind.name() == name);
        let wanted = self.kinds.is_empty()
            || is_wanted(kind)
            || (kind == Kind::Dropped.name() && text("of").is_some_and(is_wanted));
        if !wanted || self.sandbox.as_deref().is_some_and(|wanted| wanted != sandbox) {
            return Ok(());
        }
        if self.json {
            writeln!(out, "{record}")
        } else {
            writeln!(out, "{}", escaped(&render(&record)))
        }
    }
}

/// A record for people.
fn render(record: &Value) -> String {
    let text = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default();
    let number = |name: &str| record.get(name).and_then(Value::as_i64);
    // The date is the file's business.
    let time = text("time").get(11..26).unwrap_or_default();
    let alert = if record.get("alert") == Some(&Value::Bool(true)) { "!" } else { " " };
    let mut line = format!("{time} {} {alert}{:<11}", text("sandbox"), text("kind"));
    if let (Some(pid), Some(tid), Some(uid)) = (number("pid"), number("tid"), number("uid")) {
        line.push_str(&format!(" [{pid}/{tid} {}] uid={uid}", text("comm")));
    }
    let what = text("what");
    if !what.is_empty() {
        line.push_str(&format!(" {what}"));
    }
    let call = text("call");
    if !call.is_empty() {
        let args = record.get("args").and_then(Value::as_object);
        let args: Vec<String> = args
            .into_iter()
            .flatten()
            .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
            .collect();
        line.push_str(&format!(" {call}({})", args.join(", ")));
    }
    let outcome = text("outcome");
    if !outcome.is_empty() {
        line.push_str(&format!(" = {outcome}"));
    }
    if let Some(count) = number("count") {
        line.push_str(&format!(" {count} of {}", text("of")));
    }
    line
}

/// Which sandboxes have started and not ended.
#[derive(Default)]
struct Running {
    now: BTreeSet<String>,
    ended: BTreeSet<String>,
}

impl Running {
    fn note(&mut self, kind: &str, sandbox: &str) {
        let bounded = |set: &BTreeSet<String>| set.len() < MAX_RUNNING;
        if kind == Kind::Start.name() && bounded(&self.now) {
            self.now.insert(sandbox.to_owned());
        } else if kind == Kind::End.name() && bounded(&self.ended) {
            self.now.remove(sandbox);
            self.ended.insert(sandbox.to_owned());
        }
    }

    /// Whether this one has ended, or if it is any, all that have started.
    fn all_ended(&self, sandbox: Option<&str>) -> bool {
        match sandbox {
            Some(sandbox) => self.ended.contains(sandbox) && !self.now.contains(sandbox),
            None => self.now.is_empty() && !self.ended.is_empty(),
        }
    }
}

/// Puts lines together. Of ones that are too long, nothing is kept.
struct Lines {
    part: Vec<u8>,
    too_long: bool,
}

impl Lines {
    fn new() -> Lines {
        Lines { part: Vec::new(), too_long: false }
    }

    /// The lines that these bytes complete.
    fn feed(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut complete = Vec::new();
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (piece, ends) = match piece.strip_suffix(b"\n") {
                Some(piece) => (piece, true),
                None => (piece, false),
            };
            self.too_long |= self.part.len() + piece.len() > MAX_LINE;
            if self.too_long {
                self.part.clear();
            } else {
                self.part.extend_from_slice(piece);
            }
            if ends {
                let line = std::mem::take(&mut self.part);
                if !std::mem::take(&mut self.too_long) {
                    complete.push(line);
                }
            }
        }
        complete
    }
}

/// Waits for changes of a file (inotify(7)).
struct Watch(OwnedFd);

impl Watch {
    fn new(path: &std::path::Path) -> io::Result<Watch> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: takes flags only.
        let fd = unsafe { libc::inotify_init1(libc::IN_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh descriptor that nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let events = libc::IN_MODIFY | libc::IN_ATTRIB;
        // SAFETY: `path` is a valid C string.
        if unsafe { libc::inotify_add_watch(fd.as_raw_fd(), path.as_ptr(), events) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Watch(fd))
    }

    /// Blocks until something has changed since the last time.
    fn wait(&self) -> io::Result<()> {
        // Room for many events; which they are does not matter.
        let mut buffer = [0u8; 4096];
        // SAFETY: `buffer` is valid for writes of its length.
        let got =
            unsafe { libc::read(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        match got {
            ..0 => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
                error => Err(error),
            },
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(file: PathBuf) -> Events {
        Events { file, kinds: Vec::new(), sandbox: None, json: false, follow: true }
    }

    fn line(kind: &str, sandbox: &str, more: &str) -> String {
        format!(
            "{{\"time\":\"2026-01-02T03:04:05.678901Z\",\"sandbox\":\"{sandbox}\",\"kind\":\"{kind}\"{more}}}\n"
        )
    }

    #[test]
    fn following_ends_with_the_last_sandbox() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit");
        std::fs::write(&path, line("start", "a", "") + &line("start", "b", "")).unwrap();
        let follower = std::thread::spawn({
            let events = events(path.clone());
            move || {
                let mut out = Vec::new();
                events.run(&mut out).unwrap();
                String::from_utf8(out).unwrap()
            }
        });
        let mut file = File::options().append(true).open(&path).unwrap();
        for text in [line("end", "a", ""), "{torn\n".into(), line("end", "b", "")] {
            let (one, two) = text.split_at(text.len() / 2);
            file.write_all(one.as_bytes()).unwrap();
            file.write_all(two.as_bytes()).unwrap();
        }
        let out = follower.join().unwrap();
        assert_eq!(out.lines().count(), 4, "{out}");
        assert!(out.starts_with("03:04:05.678901 a  start"), "{out}");
    }

    #[test]
    fn filters_choose_kinds_and_sandboxes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit");
        let text = line("start", "a", "")
            + &line("denied", "a", ",\"call\":\"x\",\"args\":{\"p\":\"\\u001b\\u202e\"}")
            + &line("dropped", "a", ",\"of\":\"denied\",\"count\":7")
            + &line("dropped", "a", ",\"of\":\"exec\",\"count\":7")
            + &line("denied", "b", "")
            + &line("end", "a", "");
        std::fs::write(&path, text).unwrap();
        let kinds = vec![Kind::Denied];
        let events = Events { kinds, sandbox: Some("a".into()), ..events(path) };
        let mut out = Vec::new();
        events.run(&mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert_eq!(out.lines().count(), 2, "{out}");
        assert!(out.contains("x(p=\\u{1b}\\u{202e})") && out.contains("7 of denied"), "{out}");
    }

    #[test]
    fn lines_are_bounded() {
        let mut lines = Lines::new();
        assert!(lines.feed(&vec![b'x'; MAX_LINE]).is_empty());
        assert!(lines.feed(&vec![b'x'; MAX_LINE]).is_empty());
        assert_eq!(lines.feed(b"\nab\nc"), [b"ab".to_vec()]);
        assert_eq!(lines.feed(b"d\n"), [b"cd".to_vec()]);
    }

    #[test]
    fn unknown_kinds_are_named() {
        assert_eq!(kinds(OsStr::new("exec,limit")).unwrap(), [Kind::Exec, Kind::Limit]);
        assert!(kinds(OsStr::new("exec,exce")).unwrap_err().to_string().contains("exce"));
    }
}
