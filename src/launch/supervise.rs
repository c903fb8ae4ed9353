//! The launcher's life while a sandbox runs: it passes signals and window sizes in, and watches
//! that all its processes live, or none.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockdown::cgroup::Cgroup;
use lockdown::{Child, Exit};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, raise};
use sentry::boot::control::{BootFailure, Cause, Ending, ExitStatus, FromSentry, ToSentry, Usage};

use super::conversation::Conversation;
use super::culprit;
use super::layers::Status;
use super::signals::{Action, Signals};
use super::terminal::Terminal;
use crate::audit::{Auditor, Verdict};
use crate::error::Error;
use crate::limits::Limits;
use crate::report::{Layers, Report};

/// How long a process that has to end may take for it, in milliseconds.
const EXIT_TIME: i32 = 1000;
/// How long a Sentry may take to stop its tasks before the launcher stops regardless, in
/// milliseconds.
const SUSPEND_TIME: u16 = 1000;

/// How long a Sentry may take to say what was used, once the time is up. A busy machine may let it wait
/// for its turn for some of that.
const REPORT_TIME: Duration = Duration::from_secs(1);
/// Longest name of a platform.
const MAX_PLATFORM: usize = 32;

/// The owner's place among what is waited for.
const OWNER: usize = 4;

/// What is known of a sandbox besides what happens next.
pub(super) struct Watched {
    limits: Limits,
    cgroup: Option<Arc<Cgroup>>,
    not_kept: Vec<String>,
    /// When the program was started; until then, when the sandbox was.
    start: Instant,
    /// The Sentry was told to end the sandbox, for this reason, and has until then to answer.
    told: Option<(Cause, Instant)>,
    platform: String,
    /// Where to see what the processes are locked into, and what was seen.
    statuses: Vec<Status>,
    layers: Vec<Layers>,
    kernel_log: Option<culprit::Log>,
}

impl Watched {
    pub(super) fn new(
        limits: Limits,
        cgroup: Option<Arc<Cgroup>>,
        not_kept: Vec<String>,
        statuses: Vec<Status>,
    ) -> Watched {
        Watched {
            limits,
            cgroup,
            not_kept,
            start: Instant::now(),
            told: None,
            platform: String::new(),
            statuses,
            layers: Vec::new(),
            kernel_log: culprit::Log::from_now_on(),
        }
    }

    /// When something is to be done about the time.
    fn deadline(&self) -> Option<Instant> {
        let answer = self.told.map(|(_, deadline)| deadline);
        answer.or_else(|| self.start.checked_add(self.limits.wall?))
    }

    fn report(&self, ending: Ending, complete: bool) -> Report {
        let Ending { status, mut cause, usage } = ending;
        // Time and policy are the launcher's business alone.
        if let Some((told, _)) = self.told {
            cause = told;
        } else if matches!(cause, Cause::Wall | Cause::Policy) {
            cause = Cause::Signal;
        }
        Report {
            status,
            ended_by: cause,
            exit_code: Report::exit_code_of(status, cause),
            wall: self.start.elapsed(),
            cpu: Duration::from_nanos(usage.guest_ns.saturating_add(usage.kernel_ns)),
            cpu_guest: Duration::from_nanos(usage.guest_ns),
            peak_memory: usage.peak_memory,
            peak_pids: usage.peak_tasks,
            output: usage.output,
            counts: usage.counts,
            oom_kills: usage.oom_kills,
            complete,
            limits: self.limits,
            cgroup: self.cgroup.as_ref().map(|cgroup| cgroup.usage().into()),
            not_kept: self.not_kept.clone(),
            platform: self.platform.clone(),
            layers: self.layers.clone(),
            stdout: Vec::new(),
            stderr: Vec::new(),
        }
    }
}

/// A running sandbox. Dropping it ends it: both processes are killed and reaped.
pub(super) struct Supervisor {
    pub(super) sentry: Child,
    pub(super) gofer: Child,
    pub(super) control: Conversation,
    pub(super) signals: Signals,
    pub(super) terminal: Option<Terminal>,
    /// Connected to whoever wants the sandbox, if that is another process.
    pub(super) owner: Option<OwnedFd>,
    pub(super) watched: Watched,
    pub(super) auditor: Option<Auditor>,
}

/// Which descriptors have something to say.
struct Ready {
    /// None: the time is up.
    nothing: bool,
    signals: bool,
    control: bool,
    sentry: bool,
    gofer: bool,
    owner: bool,
}

impl Supervisor {
    /// Waits for the end of the first program.
    pub(super) fn run(&mut self) -> Result<Report, Error> {
        let mut suspending = false;
        loop {
            let ready = self.wait(self.timeout(suspending))?;
            if let Some(verdict) = self.auditor.as_mut().and_then(Auditor::turn) {
                self.end_by_policy(&verdict);
            }
            // What the Sentry has said counts before what has become of the processes, but nothing
            // that it says keeps the launcher from looking at the time.
            if ready.control {
                match self.control.hear()? {
                    Some(FromSentry::Exited(ending)) => {
                        let report = self.watched.report(ending, true);
                        if self.gofer.ends_within(0) {
                            return self.gofer_first().map_or(Ok(report), Err);
                        }
                        return self.killed_by_its_filter().map_or(Ok(report), Err);
                    }
                    Some(FromSentry::Failed(failure)) => {
                        // Without its gofer a Sentry fails for odd reasons.
                        drop(self.sentry.kill());
                        let gofer = self.gofer.ends_within(EXIT_TIME);
                        let reason = gofer.then(|| self.gofer_first()).flatten();
                        return Err(reason.unwrap_or_else(|| trustworthy(failure).into()));
                    }
                    Some(FromSentry::Suspended) => {
                        // It may come late, when the launcher has stopped and gone on already.
                        if std::mem::replace(&mut suspending, false) {
                            self.stop()?;
                        }
                    }
                    Some(FromSentry::Started { platform }) => self.started(platform),
                    None => return Err(self.end(&self.sentry)),
                }
            } else if ready.sentry {
                return Err(self.end(&self.sentry));
            } else if ready.gofer {
                return Err(self.gofer_gone());
            } else if ready.owner {
                return Err(Error::Died("whoever wanted the sandbox is gone".into()));
            } else if suspending && ready.nothing {
                suspending = false;
                self.stop()?;
            }
            if let Some(report) = self.check_time() {
                return Ok(report);
            }
            self.control.flush();
            if ready.signals {
                suspending |= self.handle_signals()?;
            }
        }
    }

    /// The program runs: its time begins.
    fn started(&mut self, platform: String) {
        self.watched.start = Instant::now();
        self.watched.platform = platform.chars().take(MAX_PLATFORM).collect();
        self.watched.layers = self.watched.statuses.iter().filter_map(Status::read).collect();
    }

    /// Acts when the time is up: first the Sentry is asked to end the sandbox and say what it used;
    /// a report means that it did not answer.
    fn check_time(&mut self) -> Option<Report> {
        if self.watched.deadline().is_none_or(|deadline| Instant::now() < deadline) {
            return None;
        }
        let Some((cause, _)) = self.watched.told else {
            self.tell_to_end(Cause::Wall);
            return None;
        };
        let status = ExitStatus::Signal(libc::SIGKILL as u8);
        let ending = Ending { status, cause, usage: Usage::default() };
        Some(self.watched.report(ending, false))
    }

    /// Asks the Sentry to end the sandbox; the first reason counts.
    fn tell_to_end(&mut self, cause: Cause) {
        if self.watched.told.is_none() {
            self.watched.told = Some((cause, Instant::now() + REPORT_TIME));
            self.control.tell(ToSentry::End(cause));
        }
    }

    /// The audit says that the sandbox has to end.
    fn end_by_policy(&mut self, verdict: &Verdict) {
        tracing::error!("the sandbox is killed by policy: {verdict}");
        self.tell_to_end(Cause::Policy);
    }

    /// How long nothing has to be done if nothing happens.
    fn timeout(&self, suspending: bool) -> PollTimeout {
        let suspend = suspending.then(|| Duration::from_millis(SUSPEND_TIME.into()));
        let left = self.watched.deadline().map(|at| at.saturating_duration_since(Instant::now()));
        let Some(time) = suspend.into_iter().chain(left).min() else { return PollTimeout::NONE };
        // Rounded up, so that the time has come afterwards.
        let milliseconds = time.as_millis().saturating_add(1);
        PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX)
    }

    /// Why the gofer has ended. It does so by itself when the Sentry's end of their socket closes, which
    /// happens before the Sentry is seen to be gone.
    fn gofer_gone(&self) -> Error {
        let exit = self.gofer.wait();
        if matches!(exit, Ok(Exit::Code(0))) && self.sentry.ends_within(EXIT_TIME) {
            return self.end(&self.sentry);
        }
        self.died(&self.gofer, exit)
    }

    /// The gofer's own failure, now that it has ended: if it did not just follow the Sentry.
    fn gofer_first(&self) -> Option<Error> {
        match self.gofer.wait() {
            Ok(Exit::Code(0)) => None,
            exit => Some(self.died(&self.gofer, exit)),
        }
    }

    /// Ends both, and says if one was on its way out already because of a host call that it made:
    /// the other's end of a socket closes before its process is gone.
    fn killed_by_its_filter(&self) -> Option<Error> {
        let mut reason = None;
        for child in [&self.gofer, &self.sentry] {
            drop(child.kill());
            let exit = child.wait();
            if matches!(exit, Ok(Exit::Signal(libc::SIGSYS))) {
                reason = Some(self.died(child, exit));
            }
        }
        reason
    }

    fn wait(&self, timeout: PollTimeout) -> Result<Ready, Error> {
        let (control, waiting) = self.control.fd();
        let room = if waiting { PollFlags::POLLOUT } else { PollFlags::empty() };
        let mut fds = vec![
            PollFd::new(self.signals.fd().as_fd(), PollFlags::POLLIN),
            PollFd::new(control, PollFlags::POLLIN | room),
            PollFd::new(self.sentry.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.gofer.as_fd(), PollFlags::POLLIN),
        ];
        let owners = self.owner.iter();
        // Whatever comes: it has said all that it has to say.
        fds.extend(owners.map(|owner| PollFd::new(owner.as_fd(), PollFlags::POLLIN)));
        let others = fds.len();
        fds.extend(self.auditor.iter().flat_map(Auditor::poll_fds));
        loop {
            match poll(&mut fds, timeout) {
                Ok(_) => break,
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(Error::host("poll", error)),
            }
        }
        let ready = |at: usize| fds.get(at).is_some_and(|fd| fd.any() == Some(true));
        Ok(Ready {
            nothing: !(0..fds.len()).any(ready),
            signals: ready(0),
            control: fds[1].revents().is_some_and(|events| events != PollFlags::POLLOUT)
                && ready(1),
            sentry: ready(2),
            gofer: ready(3),
            owner: others > OWNER && ready(OWNER),
        })
    }

    /// Acts on all pending signals. Returns whether the Sentry was asked to suspend the tasks.
    fn handle_signals(&mut self) -> Result<bool, Error> {
        let mut suspending = false;
        while let Some(action) = self.signals.next()? {
            match action {
                Action::Forward(signo) => self.control.tell(ToSentry::Signal(signo)),
                Action::Resize => {
                    if let Some(terminal) = &self.terminal {
                        self.control.tell(ToSentry::WindowSize(terminal.size()));
                    }
                }
                Action::Stop => {
                    self.control.tell(ToSentry::Suspend);
                    suspending = true;
                }
                Action::Continue => {
                    if let Some(terminal) = &mut self.terminal {
                        terminal.make_raw();
                        // The window may have changed its size meanwhile.
                        let size = terminal.size();
                        self.control.tell(ToSentry::WindowSize(size));
                    }
                    let foreground = self.terminal.as_ref().is_none_or(Terminal::foreground);
                    self.control.tell(ToSentry::Resume { foreground });
                }
            }
        }
        Ok(suspending)
    }

    /// Stops the launcher itself, so that the caller's shell takes over, until SIGCONT.
    fn stop(&mut self) -> Result<(), Error> {
        if let Some(terminal) = &mut self.terminal {
            terminal.restore();
        }
        raise(Signal::SIGSTOP).map_err(|error| Error::host("stopping", error))
    }

    /// Writes the audit's last records: how the sandbox has ended.
    pub(super) fn finish(&mut self, ended: &Result<Report, Error>) {
        let Some(mut auditor) = self.auditor.take() else { return };
        // What they still had to say is in the audit's socket.
        for child in [&self.sentry, &self.gofer] {
            drop(child.kill());
        }
        auditor.end(ended);
    }

    /// Waits for a process that is gone, or on its way out (its end of the channel closes first), and
    /// says why.
    fn end(&self, child: &Child) -> Error {
        if child.ends_within(EXIT_TIME) {
            return self.died(child, child.wait());
        }
        drop((child.kill(), child.wait()));
        Error::Died(format!(
            "the {} hung up on the launcher without a word, and had to be killed",
            child.name()
        ))
    }

    /// Why a process is gone that should not be.
    fn died(&self, child: &Child, exit: std::io::Result<Exit>) -> Error {
        if let Some(reason) = child.failure() {
            return Error::Died(format!("{}: {reason}", child.name()));
        }
        let how = match exit {
            Ok(Exit::Code(code)) => format!("exited unexpectedly with code {code}"),
            Ok(Exit::Signal(libc::SIGSYS)) => {
                let log = self.watched.kernel_log.as_ref();
                let call = log
                    .and_then(|log| log.find(child.pid()))
                    .map_or_else(String::new, |it| format!(" ({it})"));
                let how = format!("made a host call{call} that is not on its seccomp allow-list");
                return Error::Violation(format!("the {} was killed: it {how}", child.name()));
            }
            Ok(Exit::Signal(signo)) => format!("was killed by signal {signo}"),
            Err(error) => format!("cannot be waited for: {error}"),
        };
        Error::Died(format!("the {} {how}", child.name()))
    }
}

/// A taken-over Sentry must not make a failure look like success, or like the program's own exit.
fn trustworthy(failure: BootFailure) -> BootFailure {
    let code = if matches!(failure.code, 126 | 127) { failure.code } else { Error::OWN_FAILURE };
    BootFailure { code, ..failure }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        for child in [&self.sentry, &self.gofer] {
            // Errors mean that it is gone and reaped.
            drop(child.kill());
            drop(child.wait());
        }
    }
}
