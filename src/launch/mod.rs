//! The launcher: makes the gofer and the Sentry, then watches over them.
//!
//! Both are forks of this process, which must be single-threaded: there is no exec to pay for, and
//! the plan is handed over in memory. Whoever dies first takes the others along: the two die with
//! the launcher (`PR_SET_PDEATHSIG`), the launcher ends both when one dies, the Sentry is pid 1 of
//! the pid namespace in which all stubs live.

mod children;
mod conversation;
mod culprit;
mod hook;
mod jails;
mod layers;
mod signals;
mod supervise;
mod terminal;

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use platform::load::HostLoad;

pub(crate) use self::jails::Allowed;

use self::children::Extra;
use self::conversation::Conversation;
use self::hook::Hook;
use self::jails::{Caller, Duties, Guest};
use self::layers::Status;
use self::signals::Signals;
use self::supervise::{Supervisor, Watched};
use self::terminal::Terminal;
use crate::audit::Auditor;
use crate::cgroup::Made;
use crate::error::Error;
use crate::plan::{self, Plan};
use crate::report::Report;
use crate::sandbox::Sandbox;

/// Runs a sandbox to its end, or to the end of whoever has the other end of `owner`. With `confine`,
/// the calling process itself is confined, for good, once the sandbox runs.
pub(crate) fn sandbox(
    sandbox: &Sandbox,
    owner: Option<OwnedFd>,
    confine: bool,
) -> Result<Report, Error> {
    run(plan::make(sandbox)?, owner, confine)
}

fn run(plan: Plan, owner: Option<OwnedFd>, confine: bool) -> Result<Report, Error> {
    check_single_threaded()?;
    check_standard_descriptors()?;
    let caller = Caller::new()?;
    // The Sentry will have no /proc.
    platform::look_around();
    let Plan { mut spec, files, log, limits, labels, cgroup, cgroup_limits, mut auditor } = plan;
    let signals = Signals::block()?;
    let mut terminal = Terminal::find();
    spec.terminal = terminal.as_ref().map(Terminal::spec);

    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|error| Error::host("opening /dev/null", error))?;
    let Made { group, missing } = cgroup.make(&cgroup_limits, caller.privileged())?;
    let cgroup = group.map(Arc::new);
    let (gofer_end, sentry_end) = packets()?;
    let (control, their_control) = packets()?;
    let mut their_audit = None;
    if let Some(auditor) = &mut auditor {
        let (ours, theirs) = packets()?;
        // SAFETY: the process has one thread, as was checked above.
        unsafe { auditor.begin(ours) }?;
        their_audit = Some(theirs);
    }

    let guest = Guest { root: spec.uid == 0, owners: files.named };
    let jail = jails::gofer(&caller, &files, guest, &labels, &cgroup);
    let mut keep = vec![null.as_fd(), null.as_fd(), log.as_fd(), gofer_end.as_fd()];
    let hook = Hook::add(jail.name, &mut keep);
    let one_user = jail.identity.uids != lockdown::IdMap::Identity;
    // SAFETY: the process has one thread, as was checked above, and this one makes no other.
    let gofer = unsafe {
        lockdown::spawn(&jail, &keep, |sealer| {
            children::gofer_main(&files.exports, one_user, sealer, hook)
        })
    }?;

    let jail = jails::sentry(&caller, &labels, &cgroup);
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let mut keep = vec![
        stdin.as_fd(),
        stdout.as_fd(),
        stderr.as_fd(),
        their_control.as_fd(),
        sentry_end.as_fd(),
        log.as_fd(),
    ];
    let load = HostLoad::open();
    let mut add = |fd| {
        keep.push(fd);
        keep.len() as i32 - 1
    };
    let extra = Extra {
        audit: their_audit.as_ref().map(|socket| add(socket.as_fd())),
        load: load.as_ref().map(|load| (add(load.as_fd()), load.cpus())),
    };
    let hook = Hook::add(jail.name, &mut keep);
    if let Some(terminal) = &mut terminal {
        terminal.make_raw();
    }
    // SAFETY: as above.
    let sentry = unsafe {
        lockdown::spawn(&jail, &keep, |sealer| children::sentry_main(spec, extra, sealer, hook))
    };
    let sentry = match sentry {
        Ok(sentry) => sentry,
        Err(error) => {
            drop(gofer.kill());
            drop(gofer.wait());
            return Err(error.into());
        }
    };
    // Only the two processes hold their ends now, so that each sees the other's death.
    drop((gofer_end, sentry_end, their_control, their_audit, load));
    let mut statuses =
        vec![Status::open("sentry", sentry.pid()), Status::open("gofer", gofer.pid())];
    if confine {
        statuses.push(Status::open("launcher", "self"));
    }
    let duties = Duties {
        pid: std::process::id(),
        terminal: terminal.is_some(),
        cgroup: cgroup.is_some(),
        logger: auditor.as_ref().is_some_and(Auditor::sends_to_a_name),
    };
    if let Some(cgroup) = &cgroup {
        cgroup.open();
    }
    let watched = Watched::new(limits, cgroup, missing, statuses);
    let control = Conversation::new(control);
    let mut supervisor =
        Supervisor { sentry, gofer, control, signals, terminal, owner, watched, auditor };
    let confined = if confine { confine_self(duties) } else { Ok(()) };
    let ended = confined.and_then(|()| supervisor.run());
    supervisor.finish(&ended);
    ended
}

/// The launcher's own layers. In debug builds it says which call was not on the list before it ends. In
/// others the kernel's log does, for who may read that: to say it itself, the process would have to live
/// on in a handler (`SECCOMP_RET_TRAP`), where whoever has taken it over can try the next call, and the
/// one that waits for it is not told (`si_syscall` is the handler's alone, and waitid(2) has no such field).
fn confine_self(duties: Duties) -> Result<(), Error> {
    let (keep, calls) = (jails::launcher_capabilities(duties), jails::launcher_calls(duties));
    #[cfg(debug_assertions)]
    let confined = lockdown::confine_and_tell(keep, &calls);
    #[cfg(not(debug_assertions))]
    let confined = lockdown::confine(keep, &calls);
    confined.map_err(|error| Error::Died(format!("the launcher could not confine itself: {error}")))
}

/// A fork of a process with threads may hold their locks, which nobody would ever release.
fn check_single_threaded() -> Result<(), Error> {
    if is_single_threaded()? {
        return Ok(());
    }
    Err(Error::Usage("a sandbox must be started by a process with one thread".into()))
}

/// Whether the calling process has one thread only.
pub(crate) fn is_single_threaded() -> Result<bool, Error> {
    let threads = std::fs::read_dir("/proc/self/task")
        .map_err(|error| Error::host("reading /proc/self/task", error))?;
    Ok(threads.count() == 1)
}

/// The Sentry holds no directory: with one, names on the host could be reached.
fn check_standard_descriptors() -> Result<(), Error> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let all = [("input", stdin.as_fd()), ("output", stdout.as_fd()), ("error", stderr.as_fd())];
    for (name, fd) in all {
        // One that cannot be looked at is no directory.
        let kind = nix::sys::stat::fstat(fd).map_or(0, |stat| stat.st_mode & libc::S_IFMT);
        if kind == libc::S_IFDIR {
            let problem = format!("standard {name} is a directory, which is not passed in");
            return Err(Error::Usage(problem));
        }
    }
    Ok(())
}

/// A pair of connected sockets that keep the borders of messages.
fn packets() -> Result<(OwnedFd, OwnedFd), Error> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .map_err(|error| Error::host("socketpair", error))
}
