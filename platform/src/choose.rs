//! Opens the platform that the user asked for, or the best one that works on this host.
//!
//! The one place that knows which platforms there are and in which order they are preferred.

use std::fmt;
use std::sync::Arc;

use crate::memory_file::MemoryFile;
use crate::notify::NotifyPlatform;
use crate::ptrace::PtracePlatform;
use crate::{Clocks, Error, HostCalls, Platform, arch};

/// What a platform asks of the host, whether or not it works here: for whoever lists it.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// [`Platform::name`].
    pub name: &'static str,
    /// [`Platform::host_calls`].
    pub sentry: HostCalls,
    /// The host calls that its stubs' filters allow the stub's own code; none to other code.
    pub stub: &'static [i64],
}

/// All platforms, the preferred one first.
pub const NEEDS: [Needs; 2] = [
    Needs { name: "notify", sentry: crate::notify::HOST_CALLS, stub: arch::doorbell_filter::CALLS },
    Needs { name: "ptrace", sentry: crate::ptrace::HOST_CALLS, stub: arch::filter::CALLS },
];

/// Which platform the user asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The best one that works on this host.
    #[default]
    Auto,
    /// `PTRACE_SYSEMU`: slow, and works wherever ptrace does.
    Ptrace,
    /// Seccomp user notification.
    Notify {
        /// Whether call sites may be patched, which makes calls several times quicker.
        patching: bool,
    },
}

/// A platform that works, and why it is this one.
pub struct Opened {
    /// The platform.
    pub platform: Arc<dyn Platform>,
    /// Why it was chosen, and what kept better ones from being so.
    pub reason: String,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("platform", &self.platform.name())
            .field("reason", &self.reason)
            .finish()
    }
}

/// Opens a platform. To be called while the process is single-threaded, after the last change of
/// its user ids and after it entered its Landlock domain, but before its seccomp filter: later,
/// the platform makes the calls of [`Platform::host_calls`] only. Needs [`crate::look_around`]
/// before, in this process or in the one that it is a fork of. `file` must be the memory file of
/// all address spaces.
///
/// # Errors
/// What the host refuses: of the platform that was asked for, or, for [`Choice::Auto`], of all.
pub fn open(choice: Choice, clocks: Clocks, file: &Arc<MemoryFile>) -> Result<Opened, Error> {
    choose(choice, || notify(choice, clocks, file), || ptrace(clocks, file))
}

type Attempt = Result<Arc<dyn Platform>, Error>;

fn ptrace(clocks: Clocks, file: &Arc<MemoryFile>) -> Attempt {
    PtracePlatform::new(file.clone(), clocks).map(|platform| platform as Arc<dyn Platform>)
}

/// Probes the host for what `notify` needs and opens it. A failure must leave nothing behind:
/// `ptrace` is tried next, in the same process.
fn notify(choice: Choice, clocks: Clocks, file: &Arc<MemoryFile>) -> Attempt {
    let patching = !matches!(choice, Choice::Notify { patching: false });
    let platform = NotifyPlatform::new(file.clone(), patching, clocks)?;
    if choice == Choice::Auto && !platform.wakes_here() {
        let missing = "the host has no SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP, so ptrace is faster";
        return Err(Error::Unavailable(missing.into()));
    }
    Ok(platform)
}

fn choose(
    choice: Choice,
    notify: impl FnOnce() -> Attempt,
    ptrace: impl FnOnce() -> Attempt,
) -> Result<Opened, Error> {
    let asked = |platform| Opened { platform, reason: "it was asked for".into() };
    match choice {
        Choice::Notify { .. } => notify().map(asked).map_err(|error| named("notify", error)),
        Choice::Ptrace => ptrace().map(asked).map_err(|error| named("ptrace", error)),
        Choice::Auto => {
            let missing = match notify() {
                Ok(platform) => {
                    return Ok(Opened { platform, reason: "it is the fastest one".into() });
                }
                Err(error) => named("notify", error).to_string(),
            };
            match ptrace() {
                Ok(platform) => Ok(Opened { platform, reason: missing }),
                Err(error) => {
                    let both = format!("{missing}; {}", named("ptrace", error));
                    Err(Error::Unavailable(both))
                }
            }
        }
    }
}

/// The same error, with the name of the platform that it is about.
fn named(platform: &str, error: Error) -> Error {
    Error::Unavailable(format!("platform {platform}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::{MockPlatform, Script};

    fn works() -> Attempt {
        Ok(MockPlatform::new(MemoryFile::new(1 << 20)?, Script::default()))
    }

    fn refused() -> Attempt {
        Err(Error::host("PTRACE_SEIZE", libc::EPERM))
    }

    fn old_kernel() -> Attempt {
        Err(Error::Unavailable("the host has no user notification".into()))
    }

    fn untouched() -> Attempt {
        panic!("a platform was tried that nobody asked for")
    }

    #[test]
    fn the_better_one_is_taken_and_the_other_left_alone() {
        let opened = choose(Choice::Auto, works, untouched).unwrap();
        assert_eq!(opened.reason, "it is the fastest one");
        assert!(choose(Choice::Notify { patching: true }, works, untouched).is_ok());
        assert!(choose(Choice::Ptrace, untouched, works).is_ok());
    }

    #[test]
    fn what_kept_the_better_one_from_being_taken_is_said() {
        let opened = choose(Choice::Auto, old_kernel, works).unwrap();
        assert_eq!(opened.reason, "platform notify: the host has no user notification");
    }

    #[test]
    fn what_was_asked_for_is_had_or_refused_with_the_reason() {
        let error = choose(Choice::Notify { patching: true }, old_kernel, untouched).unwrap_err();
        assert_eq!(error.to_string(), "platform notify: the host has no user notification");
        let error = choose(Choice::Ptrace, untouched, refused).unwrap_err().to_string();
        assert!(error.starts_with("platform ptrace: PTRACE_SEIZE: "), "{error}");
        let error = choose(Choice::Auto, old_kernel, refused).unwrap_err().to_string();
        assert!(error.contains("notification; platform ptrace: PTRACE_SEIZE"), "{error}");
    }
}
