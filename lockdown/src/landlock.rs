//! Landlock, where the host has it.

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};

use crate::error::{Error, Layer};
use crate::jail::FileAccess;

/// The newest level that the rules below were written against. Older hosts get what they have.
const LEVEL: ABI = ABI::V6;

/// The ABI level of the host's Landlock; 0 is none.
pub(crate) fn host_level() -> i32 {
    const VERSION: u32 = 1; // LANDLOCK_CREATE_RULESET_VERSION
    let nothing = std::ptr::null::<u8>();
    // SAFETY: with this flag the call reads no memory.
    let level =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0usize, VERSION) };
    i32::try_from(level).unwrap_or(0).max(0)
}

/// Restricts the calling process, and all that it makes, for good. Needs `no_new_privs`.
/// Returns whether the host enforces any of it.
pub(crate) fn restrict(access: FileAccess) -> Result<bool, Error> {
    let failed = |what: &str, error: landlock::RulesetError| {
        Error::new(Layer::Landlock, what, std::io::Error::other(error))
    };
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LEVEL))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(LEVEL)))
        .and_then(|rules| rules.scope(Scope::AbstractUnixSocket | Scope::Signal))
        .and_then(Ruleset::create)
        .map_err(|error| failed("ruleset", error))?;
    let rules = match access {
        FileAccess::None => rules,
        FileAccess::Read => allow(rules, AccessFs::from_read(LEVEL))?,
        // Device nodes are of no use on the gofer's `nodev` mounts, and are never asked for.
        FileAccess::Write => {
            let devices = AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev;
            allow(rules, AccessFs::from_all(LEVEL) & !devices)?
        }
    };
    let RestrictionStatus { ruleset, .. } =
        rules.restrict_self().map_err(|error| failed("restrict_self", error))?;
    Ok(ruleset != RulesetStatus::NotEnforced)
}

fn allow(
    rules: landlock::RulesetCreated,
    access: landlock::BitFlags<AccessFs>,
) -> Result<landlock::RulesetCreated, Error> {
    let root = PathFd::new("/")
        .map_err(|error| Error::new(Layer::Landlock, "/", std::io::Error::other(error)))?;
    rules
        .add_rule(PathBeneath::new(root, access))
        .map_err(|error| Error::new(Layer::Landlock, "rule for /", std::io::Error::other(error)))
}
