//! The description of what one process may do, and its application from inside.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::capabilities::Capabilities;
use crate::cgroup::Cgroup;
use crate::error::Error;
use crate::identity::Identity;
use crate::labels::Labels;
use crate::namespaces::Namespaces;
use crate::rlimits::Rlimit;
use crate::seccomp::AllowList;
use crate::view::Root;
use crate::{clocks, landlock, mounts, process};

/// Everything that one process of a sandbox may do on the host, but for the calls that it may make:
/// those it names when it seals itself, see [`Sealer`].
#[derive(Clone, Debug)]
pub struct Jail {
    /// For error messages: `"sentry"`, `"gofer"`.
    pub name: &'static str,
    /// The group whose limits hold for it and all that it makes, from before its first step on.
    pub cgroup: Option<Arc<Cgroup>>,
    /// How much rather the host's OOM killer takes it than the launcher, from 0 to 1000.
    pub oom_score: i32,
    /// Namespaces of its own.
    pub namespaces: Namespaces,
    /// Id maps, user, groups.
    pub identity: Identity,
    /// Its root directory.
    pub root: Root,
    /// Its resource limits.
    pub rlimits: Vec<Rlimit>,
    /// What stays in its permitted and effective sets; the other three sets are empty.
    pub capabilities: Capabilities,
    /// What Linux's security modules call it.
    pub labels: Labels,
    /// What Landlock lets it do with files. Network, signals and abstract sockets are cut off in
    /// any case, where the host's Landlock can.
    pub files: FileAccess,
}

/// Access to files that are opened from now on. Descriptors held already are not affected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileAccess {
    /// None.
    None,
    /// Open and read.
    Read,
    /// All but device nodes.
    Write,
}

impl Jail {
    /// Applies all layers but seccomp, in DESIGN section 7's order. The caller is a fresh process
    /// in its namespaces, with its id maps written and foreign descriptors closed.
    pub(crate) fn enter(&self, launcher: BorrowedFd<'_>) -> Result<(), Error> {
        process::detach()?;
        process::detach_keyring();
        process::raise_oom_score(self.oom_score)?;
        if self.namespaces.has_time() {
            clocks::enter()?;
        }
        // Changing ids makes the process undumpable, and its attributes root's.
        let labels = self.labels.open()?;
        self.identity.assume()?;
        match &self.root {
            Root::Empty => mounts::enter_empty_root()?,
            Root::Files(view) => view.enter()?,
        }
        for limit in &self.rlimits {
            limit.apply()?;
        }
        self.capabilities.keep_only()?;
        // Later than in DESIGN's order, so that a profile need not allow what was done up to here; and
        // before `no_new_privs`, which forbids such changes.
        labels.apply()?;
        process::no_new_privileges()?;
        landlock::restrict(self.files)?;
        // Changing ids made the process undumpable; the Sentry's stubs, its children, must not
        // inherit that, or it could not trace them. `Sealer::seal` undoes this.
        process::dumpable(true)?;
        // Changing credentials also cleared the death signal, so this comes last.
        process::die_with_launcher(launcher)
    }
}

/// Installs the last layer of a jail. Handed to the process in it by [`crate::spawn`].
#[derive(Debug)]
pub struct Sealer(pub(crate) ());

impl Sealer {
    /// Makes the process undumpable and allows it `calls` only from now on. What was forked before
    /// has neither; what is made later inherits both. The process must be single-threaded.
    ///
    /// # Errors
    /// Names the layer that could not be had; the process must end then.
    pub fn seal(self, calls: &AllowList) -> Result<(), Error> {
        process::dumpable(false)?;
        calls.install(seccompiler::SeccompAction::KillProcess)
    }

    /// As [`Sealer::seal`], but the process says which call it was before it ends, so that lists can
    /// be completed without an audit daemon. Somebody who has taken over the process can prevent its
    /// end, so this is for debug builds only.
    ///
    /// # Errors
    /// As [`Sealer::seal`].
    #[cfg(debug_assertions)]
    pub fn seal_and_tell(self, calls: &AllowList) -> Result<(), Error> {
        process::dumpable(false)?;
        calls.install(violation::action())
    }
}

/// Confines the calling process itself, which stays in its namespaces: it gets no new privileges,
/// has `capabilities` at most, and may make `calls` only. It must be single-threaded.
///
/// # Errors
/// Names the layer that could not be had. Some of it may be in force then.
pub fn confine(capabilities: Capabilities, calls: &AllowList) -> Result<(), Error> {
    process::no_new_privileges()?;
    capabilities.keep_at_most()?;
    calls.install(seccompiler::SeccompAction::KillProcess)
}

/// As [`confine`]; what becomes of a call that is not on the list is [`Sealer::seal_and_tell`]'s.
///
/// # Errors
/// As [`confine`].
#[cfg(debug_assertions)]
pub fn confine_and_tell(capabilities: Capabilities, calls: &AllowList) -> Result<(), Error> {
    process::no_new_privileges()?;
    capabilities.keep_at_most()?;
    calls.install(violation::action())
}

/// A handler that says which call it was.
#[cfg(debug_assertions)]
mod violation {
    use crate::sys;

    pub(super) fn action() -> seccompiler::SeccompAction {
        // SAFETY: `report` is an `extern "C"` handler with the SA_SIGINFO signature, and the
        // struct is fully initialized.
        let result = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = report as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut())
        };
        if result == 0 {
            seccompiler::SeccompAction::Trap
        } else {
            seccompiler::SeccompAction::KillProcess
        }
    }

    extern "C" fn report(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // `si_syscall` lies behind si_signo, si_errno, si_code, padding and si_call_addr.
        // SAFETY: the kernel filled in `info` for a SIGSYS: 128 readable bytes.
        let call = unsafe { info.cast::<i32>().add(6).read() };
        let mut line = *b"rsentry: seccomp: host call ... is not on the allow-list\n";
        let mut rest = call;
        for at in (28..31).rev() {
            line[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        // SAFETY: `line` is valid for reads of its length; write is async-signal-safe.
        unsafe { libc::write(2, line.as_ptr().cast(), line.len()) };
        sys::exit_now(125);
    }
}
