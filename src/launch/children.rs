//! What runs in the gofer's and the Sentry's processes, once their jails are around them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use gofer::server;
use gofer::wire::types::ExportFlags;
use lockdown::{AllowList, Sealer};
use platform::load::HostLoad;
use sentry::boot::HostCalls;
use sentry::boot::spec::{BootFds, BootSpec};

use super::hook::Hook;
use super::jails;
use crate::log;
use crate::view::Export;

/// The gofer's descriptors: nothing to read, nothing to write, errors, the Sentry.
pub(super) mod gofer_fd {
    pub(in super::super) const STDERR: i32 = 2;
    pub(in super::super) const SOCKET: i32 = 3;
}

/// The Sentry's descriptors: the caller's three, then these.
pub(super) mod sentry_fd {
    pub(in super::super) const CONTROL: i32 = 3;
    pub(in super::super) const GOFER: i32 = 4;
    pub(in super::super) const LOG: i32 = 5;
}

/// Where the Sentry finds what not every one has.
pub(super) struct Extra {
    /// If there is an audit.
    pub(super) audit: Option<RawFd>,
    /// What tells the host's load, and how many CPUs it has.
    pub(super) load: Option<(RawFd, usize)>,
}

/// Takes ownership of a descriptor that `lockdown` put in its place.
fn take(fd: RawFd) -> OwnedFd {
    // SAFETY: only called once per descriptor, first thing in a new process whose descriptors were
    // laid out by `lockdown::spawn` and belong to nobody yet.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Serves `exports` until the Sentry is gone. `one_user` says that the user namespace maps one user
/// only. Returns the exit code.
pub(super) fn gofer_main(exports: &[Export], one_user: bool, sealer: Sealer, hook: Hook) -> u8 {
    bound_malloc();
    log::use_descriptor(gofer_fd::STDERR);
    let socket = take(gofer_fd::SOCKET);
    let config = server::Config { foreign_ids: one_user.then_some(0), ..server::Config::default() };
    match serve(exports, config, socket, sealer, hook) {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!("gofer: {error}");
            1
        }
    }
}

fn serve(
    exports: &[Export],
    config: server::Config,
    socket: OwnedFd,
    sealer: Sealer,
    hook: Hook,
) -> Result<(), String> {
    let mut opened = Vec::with_capacity(exports.len());
    for (index, export) in exports.iter().enumerate() {
        let what = |error: io::Error| format!("{:?}: {error}", export.destination);
        opened.push(open(index, export).map_err(what)?);
    }
    let server = server::Server::new(opened, config).map_err(|error| error.to_string())?;
    seal(sealer, &jails::gofer_calls())?;
    hook.start();
    server.serve(socket).map_err(|error| error.to_string())
}

fn open(index: usize, export: &Export) -> io::Result<server::Export> {
    let path = format!("/{index}");
    let root = if export.file {
        OpenOptions::new().read(true).write(export.writable).open(path)?
    } else {
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW;
        OpenOptions::new().read(true).custom_flags(flags).open(path)?
    };
    let mut flags = ExportFlags::NO_SUID;
    if !export.writable {
        flags |= ExportFlags::READ_ONLY;
    }
    if export.overlay {
        flags |= ExportFlags::EXCLUSIVE;
    }
    let mut filter = server::Filter::none();
    if export.system {
        filter = server::Filter::host_secrets();
        // An unprivileged gofer cannot read more than its caller may, anyway.
        if nix::unistd::geteuid().is_root() {
            flags |= ExportFlags::PUBLIC_ONLY;
        }
    }
    for pattern in export.hidden {
        filter = filter.hide(pattern);
    }
    let tag = export.destination.as_os_str().as_encoded_bytes().to_vec();
    Ok(server::Export { root: File::into(root), tag, flags, filter })
}

/// Says how many arenas malloc may have, and that what is long is the host's to keep. Left to itself,
/// glibc asks the host how many processors there are when the second thread allocates: by opening a
/// file, which a locked-down process cannot. And it takes what is long from its arenas from the second
/// time on, where it stays when freed, so that guests could take more than they pay for.
fn bound_malloc() {
    const ARENAS: i32 = 4;
    const LONG: i32 = 128 << 10;
    // SAFETY: mallopt has no preconditions.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LONG);
    }
}

/// Runs the kernel until the first program ends. Returns the exit code of the process, which says
/// nothing: the launcher goes by the messages on the control channel.
pub(super) fn sentry_main(mut spec: BootSpec, extra: Extra, sealer: Sealer, hook: Hook) -> u8 {
    bound_malloc();
    spec.own_clocks = lockdown::clocks::are_own();
    log::use_descriptor(sentry_fd::LOG);
    let fds = BootFds {
        stdin: take(libc::STDIN_FILENO),
        stdout: take(libc::STDOUT_FILENO),
        stderr: take(libc::STDERR_FILENO),
        control: take(sentry_fd::CONTROL),
        gofer: take(sentry_fd::GOFER),
        log: take(sentry_fd::LOG),
        audit: extra.audit.map(take),
        load: extra.load.map(|(fd, cpus)| HostLoad::new(take(fd), cpus)),
    };
    let seal = Box::new(move |calls: HostCalls| {
        seal(sealer, &jails::sentry_calls(&calls))?;
        hook.start();
        Ok(())
    });
    sentry::boot::run(spec, fds, seal);
    0
}

/// The last layer. In debug builds the process says which call was not on the list before it ends.
fn seal(sealer: Sealer, calls: &AllowList) -> Result<(), String> {
    #[cfg(all(debug_assertions, not(feature = "compromised")))]
    let sealed = sealer.seal_and_tell(calls);
    #[cfg(not(all(debug_assertions, not(feature = "compromised"))))]
    let sealed = sealer.seal(calls);
    sealed.map_err(|error| error.to_string())
}
