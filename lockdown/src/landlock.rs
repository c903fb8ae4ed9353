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

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::net::{TcpListener, TcpStream};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

    use super::*;
    use crate::process;

    /// Landlock holds for a thread and what it makes: each test has one to spare.
    fn restricted<T: Send + 'static>(
        access: FileAccess,
        then: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        if host_level() == 0 {
            eprintln!("skipped: the host has no Landlock");
            return None;
        }
        let thread = std::thread::spawn(move || {
            process::no_new_privileges().unwrap();
            assert!(restrict(access).unwrap());
            then()
        });
        Some(thread.join().unwrap())
    }

    #[test]
    fn no_files() {
        let results = restricted(FileAccess::None, || {
            [File::open("/etc/passwd").is_ok(), fs::read_dir("/").is_ok()]
        });
        assert!(results.is_none_or(|results| results == [false; 2]));
    }

    #[test]
    fn files_to_read_and_not_to_write() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "x").unwrap();
        let results = restricted(FileAccess::Read, move || {
            [
                fs::read(&file).is_ok(),
                fs::write(&file, "y").is_ok(),
                fs::create_dir(file.with_extension("new")).is_ok(),
                fs::remove_file(&file).is_ok(),
            ]
        });
        assert!(results.is_none_or(|results| results == [true, false, false, false]));
    }

    #[test]
    fn writing_means_no_device_nodes() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        let results = restricted(FileAccess::Write, move || {
            let node = std::ffi::CString::new(file.with_extension("node").to_str().unwrap());
            // SAFETY: a NUL-terminated string.
            let made = unsafe { libc::mknod(node.unwrap().as_ptr(), libc::S_IFCHR | 0o600, 0x103) };
            [fs::write(&file, "y").is_ok(), made == 0]
        });
        assert!(results.is_none_or(|results| results == [true, false]));
    }

    #[test]
    fn nobody_outside_is_reached() {
        let name = format!("rsentry-landlock-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let _listener = UnixListener::bind_addr(&address).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        let parent = std::os::unix::process::parent_id() as i32;
        let level = host_level();
        let results = restricted(FileAccess::None, move || {
            // SAFETY: plain numbers; signal 0 is sent to nobody.
            let signalled = unsafe { libc::kill(parent, 0) } == 0;
            [
                level >= 4 && TcpStream::connect(("127.0.0.1", port)).is_ok(),
                level >= 6 && UnixStream::connect_addr(&address).is_ok(),
                level >= 6 && signalled,
            ]
        });
        assert!(results.is_none_or(|results| results == [false; 3]));
    }
}
