//! From what the caller asks for to what is going to be done. Everything is checked here, before
//! the first process is made.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lockdown::Labels;
use nix::unistd;
use sentry::boot::spec::{self, BootSpec};
use sentry::kernel::Caps;

use crate::audit::Auditor;
use crate::cgroup::Cgroup;
use crate::environment;
use crate::error::Error;
use crate::limits::Limits;
use crate::log;
use crate::sandbox::Sandbox;
use crate::seccomp::{self, Guest};
use crate::view::{self, Files};

/// Longest host name, in bytes (`__NEW_UTS_LEN`).
const MAX_HOSTNAME: usize = 64;
/// Most bytes of arguments and environment together: Linux's own bound (`_STK_LIM / 4 * 3`).
const MAX_STRINGS: usize = 6 << 20;

/// Largest memory of a sandbox: what the Sentry can map.
const MOST_MEMORY: u64 = 1 << 40;

/// A sandbox that can be started.
#[derive(Debug)]
pub(crate) struct Plan {
    /// For the Sentry.
    pub(crate) spec: BootSpec,
    /// For the gofer.
    pub(crate) files: Files,
    /// Where log lines go.
    pub(crate) log: OwnedFd,
    /// All limits, those of the profile as well.
    pub(crate) limits: Limits,
    /// What the host's security modules call the processes.
    pub(crate) labels: Labels,
    /// The host's group for all processes.
    pub(crate) cgroup: Cgroup,
    /// What the group keeps: what was asked for, not what is there by default.
    pub(crate) cgroup_limits: Limits,
    /// Who writes audit records, if anybody is to.
    pub(crate) auditor: Option<Auditor>,
}

/// Checks everything, and opens the log file.
pub(crate) fn make(sandbox: &Sandbox) -> Result<Plan, Error> {
    if sandbox.command.is_empty() {
        return Err(Error::Usage("no program given".into()));
    }
    let profile = sandbox.profile.unwrap_or_default();
    let limits = sandbox.limits.or(profile.limits(host_memory()?));
    limits.check()?;
    let (uid, gid, groups) = match sandbox.user.or(profile.user()) {
        Some(user) => (user.uid, user.gid, Vec::new()),
        None => caller()?,
    };
    let home = home(sandbox, uid);
    let mut files = match &sandbox.root {
        Some(root) => Files::with_root(root)?,
        None => Files::of_the_host(&home)?,
    };
    let workdir = match &sandbox.workdir {
        Some(path) => Some(view::guest_path("--workdir", path)?),
        None => None,
    };
    let cwd = match (&sandbox.root, workdir) {
        (Some(_), workdir) => workdir.unwrap_or_else(|| "/".into()),
        (None, Some(workdir)) if !profile.shows_current_directory() => workdir,
        (None, Some(workdir)) => {
            // The current directory is a convenience then: if it cannot be shown, it is not.
            let shown = current_directory().map(|cwd| files.with_current_directory(&cwd, &home));
            drop(shown);
            workdir
        }
        (None, None) if !profile.shows_current_directory() => "/".into(),
        (None, None) => {
            let cwd = current_directory()?;
            files.with_current_directory(&cwd, &home)?;
            cwd
        }
    };
    files.add(&sandbox.binds, &sandbox.tmpfs, current_directory)?;
    let env = environment::build(&home, &sandbox.env, |name| std::env::var_os(name))?;
    let argv: Vec<Vec<u8>> =
        sandbox.command.iter().map(|argument| argument.as_bytes().to_vec()).collect();
    check_strings(argv.iter().chain(&env))?;
    let capabilities = sandbox.capabilities.of_user(uid)?;
    let seccomp = match &sandbox.seccomp {
        Some(path) => {
            let caps = Caps::from_bits_truncate(capabilities.effective);
            Some(seccomp::load(path, &Guest { caps })?)
        }
        None => None,
    };
    let spec = BootSpec {
        argv,
        env,
        cwd: cwd.as_os_str().as_bytes().to_vec(),
        uid,
        gid,
        groups,
        capabilities,
        hostname: hostname(sandbox.hostname.as_deref())?,
        make_hosts: sandbox.root.is_none(),
        mounts: files.mounts.clone(),
        rlimits: Vec::new(),
        platform: sandbox.platform,
        clock: sandbox.clock.unwrap_or(profile.clock()),
        own_clocks: false,
        host_areas: host_areas(),
        strace: sandbox.strace.clone(),
        log_format: sandbox.log_format,
        terminal: None,
        seccomp: seccomp.as_ref().map(|compiled| compiled.spec.clone()),
        limits: for_sentry(&limits),
    };
    let labels = labels(sandbox)?;
    // Last, because these may create files.
    let auditor = Auditor::open(&sandbox.audit, sandbox)?;
    let log = open_log(sandbox.log.as_deref())?;
    log::start(sandbox.log_format, sandbox.log.is_some());
    if let Some(unknown) = seccomp.map(|compiled| compiled.unknown).filter(|u| !u.is_empty()) {
        let names = unknown.join(", ");
        tracing::warn!("--seccomp: unknown system calls are skipped: {names}");
    }
    for (option, name) in sandbox.capabilities.unknown() {
        tracing::warn!("{option}: no capability is called {name:?}: skipped");
    }
    let cgroup_limits = if sandbox.profile.is_some() { limits } else { sandbox.limits };
    let cgroup = sandbox.cgroup.clone();
    Ok(Plan { spec, files, log, limits, labels, cgroup, cgroup_limits, auditor })
}

/// The labels, if the host has what they need.
fn labels(sandbox: &Sandbox) -> Result<Labels, Error> {
    let labels =
        Labels { apparmor: sandbox.apparmor.clone(), selinux: sandbox.selinux_label.clone() };
    match labels.check() {
        Ok(()) => Ok(labels),
        Err(error) => {
            let selinux = error.layer == lockdown::Layer::SELinux;
            let option = if selinux { "--selinux-label" } else { "--apparmor" };
            Err(Error::option(option, error.to_string()))
        }
    }
}

/// The caller's user, group and supplementary groups.
fn caller() -> Result<(u32, u32, Vec<u32>), Error> {
    let groups = unistd::getgroups().map_err(|error| Error::host("getgroups", error))?;
    let groups = groups.into_iter().map(unistd::Gid::as_raw).collect();
    Ok((unistd::geteuid().as_raw(), unistd::getegid().as_raw(), groups))
}

/// The home directory inside: root's, the caller's own path (there, but empty), or the root.
fn home(sandbox: &Sandbox, uid: u32) -> PathBuf {
    if uid == 0 {
        return "/root".into();
    }
    let own = uid == unistd::geteuid().as_raw() && sandbox.root.is_none();
    std::env::var_os("HOME")
        .filter(|_| own)
        .and_then(|home| view::guest_path("HOME", Path::new(&home)).ok())
        .unwrap_or_else(|| "/".into())
}

fn current_directory() -> Result<PathBuf, Error> {
    std::env::current_dir().map_err(|error| Error::host("finding the current directory", error))
}

fn hostname(name: Option<&OsStr>) -> Result<Vec<u8>, Error> {
    let name = name.unwrap_or(OsStr::new("rsentry")).as_bytes();
    if name.is_empty() || name.len() > MAX_HOSTNAME {
        let problem = format!("a host name has 1 to {MAX_HOSTNAME} bytes, not {}", name.len());
        return Err(Error::option("--hostname", problem));
    }
    Ok(name.to_vec())
}

fn check_strings<'a>(strings: impl Iterator<Item = &'a Vec<u8>>) -> Result<(), Error> {
    let mut total = 0usize;
    for string in strings {
        if string.contains(&0) {
            return Err(Error::Usage("an argument or variable holds a NUL byte".into()));
        }
        total = total.saturating_add(string.len()).saturating_add(1);
    }
    if total > MAX_STRINGS {
        return Err(Error::Usage(format!(
            "arguments and environment take {total} bytes: too long"
        )));
    }
    Ok(())
}

fn host_memory() -> Result<u64, Error> {
    let info =
        nix::sys::sysinfo::sysinfo().map_err(|error| Error::host("asking for memory", error))?;
    Ok(info.ram_total())
}

/// Linux's default where the host does not tell.
fn host_areas() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
    text.trim().parse().unwrap_or(sentry::mm::MAX_MAP_COUNT as u64)
}

/// The limits that the Sentry keeps: all but the wall clock, which is the launcher's.
fn for_sentry(limits: &Limits) -> spec::Limits {
    let bound = |value: Option<u64>| value.filter(|value| *value != u64::MAX);
    let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    spec::Limits {
        // More than the host has is a matter of trust in it, and of address space.
        memory: limits.memory.unwrap_or(u64::MAX).min(MOST_MEMORY),
        cpus: bound(limits.cpus),
        pids: bound(limits.pids),
        files: bound(limits.files),
        cpu_time: bound(limits.cpu_time.map(nanoseconds)),
        output: bound(limits.output),
        tmp_size: bound(limits.tmp_size),
    }
}

fn open_log(path: Option<&Path>) -> Result<OwnedFd, Error> {
    let Some(path) = path else {
        let stderr: io::Result<OwnedFd> = io::stderr().as_fd().try_clone_to_owned();
        return stderr.map_err(|error| Error::host("copying standard error", error));
    };
    let file: io::Result<File> =
        OpenOptions::new().append(true).create(true).mode(0o640).open(path);
    file.map(OwnedFd::from)
        .map_err(|error| Error::option("--log", format!("{path:?}: {}", view::plain(&error))))
}
