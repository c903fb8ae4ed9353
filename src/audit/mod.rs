//! The launcher's side of the audit: records of the Sentry and its own, given time, sandbox and
//! number, and written where the caller wants them; and what is done about alerts.
//!
//! The Sentry holds a socket to the launcher and nothing of the sink, so that one which was taken
//! over can neither change what was written, nor write for another sandbox, nor write faster than
//! an honest one could. Nothing here blocks: what the sink does not take yet waits in a bounded
//! queue, what does not fit there is counted.

mod line;
mod options;
mod runner;
mod sink;
mod time;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sentry::audit::limiter::Limiter;
use sentry::audit::record::{Kind, MAX_PACKET, Record, cut};
use sentry::boot::Cause;

pub(crate) use options::id;
pub use options::{Audit, OnAlert, SinkChoice};

use self::runner::Runner;
use self::sink::{Sink, Wrote};
use crate::error::Error;
use crate::report::Report;
use crate::sandbox::Sandbox;

/// Most lines that wait for the sink.
const MAX_QUEUE: usize = 1024;
/// Most packets that are read at a time, before the supervisor has its turn again.
const MAX_PACKETS: usize = 64;
/// Most packets that are read when the sandbox has ended: more than its socket can hold.
const MAX_LAST_PACKETS: usize = 4096;
/// How long a sink may take for the last lines.
const LAST_LINES: Duration = Duration::from_secs(2);
/// How long a lost sink is left alone before it is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// The budgets of an honest Sentry, with some room for different clocks.
const BUDGET_FACTOR: u64 = 2;

/// Why the sandbox has to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// `--on-alert=kill`: this alert.
    Alert(String),
    /// `--audit-required`, and records are being lost.
    SinkLost(String),
}

/// An audit that is on.
#[derive(Debug)]
pub(crate) struct Auditor {
    id: String,
    seq: u64,
    sink: Option<Sink>,
    required: bool,
    /// When the sink failed, and how many lines were lost since.
    lost: Option<(Instant, u64)>,
    queue: VecDeque<Vec<u8>>,
    limiter: Limiter,
    /// From the Sentry; `None` once it has closed its end.
    socket: Option<OwnedFd>,
    log: bool,
    kill: bool,
    runner: Option<Runner>,
    verdict: Option<Verdict>,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Verdict::Alert(what) => write!(f, "alert: {what}"),
            Verdict::SinkLost(what) => f.write_str(what),
        }
    }
}

impl Auditor {
    /// Opens what the caller wants; `None` if that is nothing.
    pub(crate) fn open(options: &Audit, sandbox: &Sandbox) -> Result<Option<Auditor>, Error> {
        let sink = options.sink.as_ref().map(Sink::open).transpose()?;
        if sink.is_none() && options.on_alert.is_empty() {
            return Ok(None);
        }
        let command = options.on_alert.iter().find_map(|action| match action {
            OnAlert::Exec(command) => Some(command.clone()),
            OnAlert::Log | OnAlert::Kill => None,
        });
        let mut auditor = Auditor {
            id: options.id.clone().map_or_else(options::random_id, Ok)?,
            seq: 0,
            sink,
            required: options.required,
            lost: None,
            queue: VecDeque::new(),
            limiter: Limiter::with_factor(BUDGET_FACTOR),
            socket: None,
            log: options.on_alert.contains(&OnAlert::Log),
            kill: options.on_alert.contains(&OnAlert::Kill),
            runner: command.map(Runner::new),
            verdict: None,
        };
        auditor.accept(start(sandbox));
        Ok(Some(auditor))
    }

    /// The launcher's end of the socket that the Sentry gets the other one of. Also makes the
    /// process that runs alert commands.
    ///
    /// # Safety
    /// The process must be single-threaded.
    pub(crate) unsafe fn begin(&mut self, socket: OwnedFd) -> Result<(), Error> {
        self.socket = Some(socket);
        if let Some(runner) = &mut self.runner {
            // SAFETY: by this function's own contract.
            unsafe { runner.start() }?;
        }
        Ok(())
    }

    /// Whether records go to a socket by its name.
    pub(crate) fn sends_to_a_name(&self) -> bool {
        matches!(self.sink, Some(Sink::Syslog(..) | Sink::Journald(..)))
    }

    /// What to wait for.
    pub(crate) fn poll_fds(&self) -> Vec<PollFd<'_>> {
        let socket =
            self.socket.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
        let waiting = !self.queue.is_empty() && self.lost.is_none();
        let sink = self.sink.iter().filter(|_| waiting);
        let sink = sink.map(|sink| PollFd::new(sink.as_fd(), PollFlags::POLLOUT));
        socket.chain(sink).collect()
    }

    /// Reads what the Sentry has sent, and writes what the sink takes. Never blocks. Returns why
    /// the sandbox has to end, once.
    pub(crate) fn turn(&mut self) -> Option<Verdict> {
        self.read(MAX_PACKETS);
        self.flush();
        self.verdict.take()
    }

    /// The sandbox has ended: the last records.
    pub(crate) fn end(&mut self, ended: &Result<Report, Error>) {
        self.read(MAX_LAST_PACKETS);
        for (of, count) in self.limiter.drain() {
            self.accept(Record { of: Some(of), count, ..Record::of(Kind::Dropped) });
        }
        for record in last(ended) {
            self.accept(record);
        }
        self.flush_within(LAST_LINES);
        if let Some(runner) = self.runner.take() {
            runner.finish();
        }
    }

    /// Writes what there is, and waits for the sink for so long.
    fn flush_within(&mut self, longest: Duration) {
        let deadline = Instant::now() + longest;
        // What was lost is tried once more.
        if let Some((when, _)) = &mut self.lost {
            *when = Instant::now().checked_sub(RETRY).unwrap_or(*when);
        }
        self.flush();
        while !self.queue.is_empty() && self.lost.is_none() && Instant::now() < deadline {
            let Some(sink) = &self.sink else { break };
            let left = deadline.saturating_duration_since(Instant::now()).as_millis();
            let timeout = PollTimeout::from(u16::try_from(left).unwrap_or(u16::MAX));
            // An error is an interruption, or shows again in writing.
            let _ = poll(&mut [PollFd::new(sink.as_fd(), PollFlags::POLLOUT)], timeout);
            self.flush();
        }
        let before = self.lost.map_or(0, |(_, count)| count);
        let lines = before + self.queue.len() as u64;
        if lines > 0 {
            tracing::warn!(sandbox = self.id, lines, "audit records are lost");
        }
    }

    fn read(&mut self, most: usize) {
        for _ in 0..most {
            let Some(socket) = &self.socket else { return };
            match receive(socket.as_fd()) {
                Ok(Some(packet)) => self.packet(&packet),
                Ok(None) => self.socket = None,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.socket = None,
            }
        }
    }

    /// A packet of the Sentry's, which may have been taken over.
    fn packet(&mut self, packet: &[u8]) {
        let record = serde_json::from_slice::<Record>(packet).ok();
        match record.filter(|record| record.kind.is_sentrys()) {
            Some(record) => self.accept(record),
            None => {
                let what = "the sentry sent an audit record that makes no sense".to_owned();
                self.accept(Record { what, ..Record::of(Kind::Violation) });
            }
        }
    }

    /// Numbers a record, puts it into the queue, and acts on an alert.
    fn accept(&mut self, record: Record) {
        let own = matches!(record.kind, Kind::Start | Kind::End | Kind::Dropped);
        if !own {
            match self.limiter.admit(record.kind) {
                None => return,
                Some(0) => {}
                Some(count) => {
                    let of = Some(record.kind);
                    self.push(&Record { of, count, ..Record::of(Kind::Dropped) });
                }
            }
        }
        let line = self.push(&record);
        if record.kind.is_alert() {
            self.alert(&record, line);
        }
    }

    fn push(&mut self, record: &Record) -> Vec<u8> {
        self.seq += 1;
        let line = line::render(record, &self.id, self.seq, &time::now());
        if self.sink.is_some() {
            if self.queue.len() < MAX_QUEUE {
                self.queue.push_back(line.clone());
            } else {
                self.limiter.drop_more(record.kind, 1);
            }
        }
        line
    }

    fn alert(&mut self, record: &Record, line: Vec<u8>) {
        let summary = line::summary(record);
        if self.log {
            tracing::warn!(sandbox = self.id, "alert: {summary}");
        }
        if let Some(runner) = &mut self.runner
            && !runner.send(&line)
        {
            tracing::warn!(sandbox = self.id, "an alert's command was not run: too many wait");
        }
        if self.kill && self.verdict.is_none() {
            self.verdict = Some(Verdict::Alert(summary));
        }
    }

    /// Writes what the sink takes.
    fn flush(&mut self) {
        let Some(sink) = &mut self.sink else { return };
        if let Some((when, _)) = self.lost
            && when.elapsed() < RETRY
        {
            // What comes meanwhile waits, as far as there is room.
            return;
        }
        while let Some(line) = self.queue.front() {
            match sink.write(line) {
                Ok(Wrote::All) => {
                    self.queue.pop_front();
                    if let Some((_, count)) = self.lost.take() {
                        tracing::warn!(count, "the audit sink takes records again");
                    }
                }
                Ok(Wrote::NotNow) => return,
                Err(error) => {
                    self.sink_lost(&error);
                    return;
                }
            }
        }
    }

    /// The line at the head of the queue could not be written, and is given up.
    fn sink_lost(&mut self, error: &io::Error) {
        self.queue.pop_front();
        let before = self.lost.map_or(0, |(_, count)| count);
        self.lost = Some((Instant::now(), before + 1));
        if before > 0 {
            return;
        }
        let what = cut(format!("audit records are being lost: {error}"));
        tracing::error!(sandbox = self.id, "{what}");
        if self.required {
            self.verdict = Some(Verdict::SinkLost(what.clone()));
        }
        // It is written if the sink recovers.
        self.accept(Record { what, ..Record::of(Kind::SinkLost) });
    }
}

/// The first record: what was asked for.
fn start(sandbox: &Sandbox) -> Record {
    let words = sandbox.command.iter().map(|word| format!("{word:?}"));
    let mut args = vec![("launcher".to_owned(), std::process::id().to_string())];
    if let Some(root) = &sandbox.root {
        args.push(("root".into(), cut(root.display().to_string())));
    }
    if let Some(user) = sandbox.user {
        args.push(("user".into(), format!("{}:{}", user.uid, user.gid)));
    }
    let writable: Vec<String> = sandbox
        .binds
        .iter()
        .filter(|b| b.writable)
        .map(|b| b.source.display().to_string())
        .collect();
    if !writable.is_empty() {
        args.push(("rw".into(), cut(writable.join(" "))));
    }
    Record { what: cut(words.collect::<Vec<_>>().join(" ")), args, ..Record::of(Kind::Start) }
}

/// The last records: a limit that ended it, a process that was taken over; and how it ended.
fn last(ended: &Result<Report, Error>) -> Vec<Record> {
    let mut records = Vec::new();
    let (what, outcome) = match ended {
        Ok(report) => {
            let limit = match report.ended_by {
                Cause::Wall => "wall",
                Cause::Cpu => "cpu-time",
                Cause::Output => "output",
                Cause::Memory => "memory",
                Cause::Exit | Cause::Signal | Cause::Policy => "",
            };
            if !limit.is_empty() {
                records.push(Record { what: limit.into(), ..Record::of(Kind::Limit) });
            }
            let why = match report.ended_by {
                Cause::Exit => "exit",
                Cause::Signal => "signal",
                Cause::Policy => "policy",
                _ => "limit",
            };
            (why.to_owned(), report.exit_code.to_string())
        }
        Err(error) => {
            let what = cut(error.one_line());
            if let Error::Violation(_) = error {
                records.push(Record { what: what.clone(), ..Record::of(Kind::Violation) });
            }
            (what, error.exit_code().to_string())
        }
    };
    records.push(Record { what, outcome, ..Record::of(Kind::End) });
    records
}

/// One packet, `None` at the end. One that is too long is cut, and makes no sense then.
fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0; MAX_PACKET];
    // SAFETY: `buffer` is valid for writes of its length.
    let got = unsafe {
        let flags = libc::MSG_DONTWAIT;
        libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), flags)
    };
    let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
    buffer.truncate(got);
    Ok((got > 0).then_some(buffer))
}
