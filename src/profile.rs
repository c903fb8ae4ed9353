//! Profiles: presets for what the caller does not say.

use std::time::Duration;

use sentry::boot::spec::ClockChoice;
use serde::{Deserialize, Serialize};

use crate::limits::Limits;
use crate::sandbox::User;

/// A preset. Whatever else the caller says goes over it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// For code that one would rather not run at all: an unprivileged user, no current directory,
    /// a tight limit on everything, a coarse clock.
    Strict,
    /// For everyday use: the caller's user and current directory; memory is limited to three
    /// quarters of the host's.
    #[default]
    Standard,
    /// The least in the way: as standard, and limited by nothing but what the kernel can hold.
    Permissive,
}

impl Profile {
    /// All of them, by the names that the command line has for them.
    pub const NAMES: [(&'static str, Profile); 3] = [
        ("strict", Profile::Strict),
        ("standard", Profile::Standard),
        ("permissive", Profile::Permissive),
    ];

    /// Its limits, on a host with so many bytes of memory.
    pub fn limits(self, host_memory: u64) -> Limits {
        // A guest that takes all that it gets leaves the host able to act.
        let standard = Limits { memory: Some(host_memory / 4 * 3), ..Limits::default() };
        match self {
            Profile::Strict => Limits {
                memory: Some((512 << 20).min(host_memory / 4 * 3)),
                cpus: Some(1000),
                pids: Some(64),
                files: Some(256),
                wall: Some(Duration::from_secs(60)),
                cpu_time: Some(Duration::from_secs(60)),
                output: Some(16 << 20),
                tmp_size: Some(64 << 20),
            },
            Profile::Standard => standard,
            Profile::Permissive => Limits { memory: Some(host_memory), ..standard },
        }
    }

    /// Who the program is, if not the caller.
    pub fn user(self) -> Option<User> {
        /// The traditional user without rights.
        const NOBODY: User = User { uid: 65534, gid: 65534 };
        (self == Profile::Strict).then_some(NOBODY)
    }

    /// How exactly the program can tell the time.
    pub fn clock(self) -> ClockChoice {
        match self {
            Profile::Strict => ClockChoice::Coarse,
            Profile::Standard | Profile::Permissive => ClockChoice::Precise,
        }
    }

    /// Whether the program sees the current directory, if it has no root of its own.
    pub fn shows_current_directory(self) -> bool {
        self != Profile::Strict
    }
}
