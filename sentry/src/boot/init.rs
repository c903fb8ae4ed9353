//! Loads the first program and makes the init process that runs it.

use std::sync::Arc;

use abi::Errno;

use super::control::BootFailure;
use super::spec::{BootSpec, SeccompSpec};
use crate::kernel::clone::{InitParts, start_init};
use crate::kernel::exec::{Program, TaskOpener};
use crate::kernel::seccomp::bpf;
use crate::kernel::seccomp::{self, Filter, FilterFlags, Prepared};
use crate::kernel::session::{ProcessGroup, Session};
use crate::kernel::signal::Sighand;
use crate::kernel::task::TaskParts;
use crate::kernel::thread_group::{RLIM_NLIMITS, Rlimit};
use crate::kernel::{Caps, FdTable, FsContext, Kernel, Task, ThreadGroup};
use crate::loader::{self, Identity, LoadError, Loaded, Personality, Strings};
use crate::mm::{MmContext, MmLimits};
use crate::vfs::namei::{LookupFlags, lookup};
use crate::vfs::{FileDescription, MountNamespace, Path, open};

/// Environments without `PATH` search here, as execvp(3) does.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Not found, and found but not executable: what shells exit with.
const CODE_NOT_FOUND: u8 = 127;
const CODE_NOT_EXECUTABLE: u8 = 126;

/// The limits that Linux gives the first process of a machine of this size, with the spec's on top.
fn rlimits(spec: &BootSpec) -> [Rlimit; RLIM_NLIMITS] {
    const INFINITE: u64 = u64::MAX;
    let mut limits = [Rlimit { soft: INFINITE, hard: INFINITE }; RLIM_NLIMITS];
    let defaults = [
        (libc::RLIMIT_STACK, 8 << 20, INFINITE),
        (libc::RLIMIT_CORE, 0, INFINITE),
        (libc::RLIMIT_NPROC, 4096, 4096),
        (libc::RLIMIT_NOFILE, 1024, 1 << 20),
        (libc::RLIMIT_MEMLOCK, 8 << 20, 8 << 20),
        (libc::RLIMIT_SIGPENDING, 4096, 4096),
        (libc::RLIMIT_MSGQUEUE, 819_200, 819_200),
        (libc::RLIMIT_NICE, 0, 0),
        (libc::RLIMIT_RTPRIO, 0, 0),
    ];
    let files = spec.limits.files.map(|n| (libc::RLIMIT_NOFILE, n, n));
    let own = spec.rlimits.iter().map(|l| (l.resource, l.soft, l.hard));
    for (resource, soft, hard) in defaults.into_iter().chain(files).chain(own) {
        if let Some(limit) = limits.get_mut(resource as usize) {
            *limit = Rlimit { soft, hard };
        }
    }
    limits
}

/// A task that never runs, to open files for before there is an init: Linux's "swapper".
fn swapper(kernel: &Arc<Kernel>, parts: TaskParts, rlimits: [Rlimit; RLIM_NLIMITS]) -> Arc<Task> {
    let pgrp = ProcessGroup::new(0, Session::new(0));
    let group = ThreadGroup::new(0, rlimits, Sighand::new(), pgrp);
    Task::new(kernel.clone(), 0, group, parts)
}

/// Makes init: its files, its program, its task. `before` may give it a terminal.
pub(super) fn start(
    kernel: &Arc<Kernel>,
    mounts: Arc<MountNamespace>,
    spec: &BootSpec,
    files: Arc<FdTable>,
    before: impl FnOnce(&Arc<Task>),
) -> Result<(), BootFailure> {
    let root = mounts.root().map(|root| mounts.over(root));
    let root = root.ok_or_else(|| failure(125, "there is no root".into()))?;
    let cred = Arc::new(spec.credentials());
    let fs = FsContext::new(mounts, root.clone(), root);
    let rlimits = rlimits(spec);
    let no_memory = |what: &str, errno: Errno| failure(125, format!("{what}: {errno}"));
    let limits = MmLimits {
        stack: rlimits[libc::RLIMIT_STACK as usize].soft,
        memlock: rlimits[libc::RLIMIT_MEMLOCK as usize].soft,
        address_space: rlimits[libc::RLIMIT_AS as usize].soft,
        data: rlimits[libc::RLIMIT_DATA as usize].soft,
        ipc_lock: cred.capable(Caps::IPC_LOCK),
    };
    let context = Arc::new(MmContext {
        platform: kernel.platform.clone(),
        memory: kernel.memory.clone(),
        relief: crate::kernel::oom::relief(kernel),
    });
    let parts =
        |mm, comm| TaskParts { cred: cred.clone(), mm, files: files.clone(), fs: fs.clone(), comm };
    let swapper = swapper(kernel, parts(None, [0; 16]), rlimits);

    let cwd = find_cwd(&swapper, &spec.cwd)?;
    fs.set_cwd(cwd);
    let (loaded, comm) = load(&swapper, &context, spec, &limits)?;
    let mut name = [0; 16];
    let len = comm.len().min(15);
    name[..len].copy_from_slice(&comm[..len]);
    let parts = parts(Some(loaded.mm), name);
    let filter = spec.seccomp.as_ref().map(filter).transpose()?;
    let before = |task: &Arc<Task>| {
        // The program is some program, not an init that is written for being one: Ctrl-C, abort()
        // and `kill $$` are to end it as they do outside of the sandbox.
        task.group.signals.lock().unkillable = false;
        if let Some(filter) = filter {
            seccomp::set_first(task, filter);
        }
        before(task);
    };
    start_init(kernel, InitParts { parts, rlimits, regs: loaded.registers }, before)
        .map_err(|errno| no_memory("cannot start the first task", errno))?;
    Ok(())
}

/// The filter that the sandbox is to start with. The launcher has made it, but it is checked here.
fn filter(spec: &SeccompSpec) -> Result<Arc<Filter>, BootFailure> {
    let flags = if spec.log { FilterFlags::LOG } else { FilterFlags::empty() };
    bpf::Program::new(spec.program.clone())
        .and_then(|program| Prepared::new(program, flags)?.alone())
        .map_err(|errno| failure(125, format!("seccomp profile: {errno}")))
}

fn failure(code: u8, message: String) -> BootFailure {
    BootFailure { code, message }
}

fn find_cwd(task: &Arc<Task>, cwd: &[u8]) -> Result<Path, BootFailure> {
    let flags = LookupFlags::FOLLOW | LookupFlags::DIRECTORY;
    lookup(task, libc::AT_FDCWD, cwd, flags).map_err(|errno| {
        failure(125, format!("working directory {}: {errno}", String::from_utf8_lossy(cwd)))
    })
}

/// Finds the program as execvp(3) does, and loads it.
fn load(
    task: &Arc<Task>,
    context: &Arc<MmContext>,
    spec: &BootSpec,
    limits: &MmLimits,
) -> Result<(Loaded, Vec<u8>), BootFailure> {
    let name = spec.argv.first().ok_or_else(|| failure(125, "no program".into()))?;
    let shown = String::from_utf8_lossy(name).into_owned();
    let say = |errno: Errno| {
        let code = match errno {
            Errno::ENOENT | Errno::ENOTDIR => CODE_NOT_FOUND,
            _ => CODE_NOT_EXECUTABLE,
        };
        let text = match errno {
            Errno::ENOENT if !name.contains(&b'/') => "command not found".to_owned(),
            other => other.message().to_owned(),
        };
        failure(code, format!("{shown}: {text}"))
    };
    let (file, path) = find_program(task, name, &spec.env).map_err(say)?;
    let strings = |list: &[Vec<u8>]| Strings::new(list.iter().map(Vec::as_slice));
    let args = strings(&spec.argv).map_err(say)?;
    let env = strings(&spec.env).map_err(say)?;
    let opener = TaskOpener(task);
    let program = Arc::new(Program(file));
    let prepared =
        loader::prepare(&opener, program, &path, false, args, env, limits.stack).map_err(say)?;
    let identity =
        Identity { uid: spec.uid, euid: spec.uid, gid: spec.gid, egid: spec.gid, secure: false };
    let loaded = prepared.load(context, limits, &identity, Personality::default());
    let loaded = loaded.map_err(|error| match error {
        LoadError::Errno(errno) | LoadError::Fatal(errno) => say(errno),
    })?;
    let comm = path.rsplit(|&b| b == b'/').next().unwrap_or(&path).to_vec();
    Ok((loaded, comm))
}

fn find_program(
    task: &Arc<Task>,
    name: &[u8],
    env: &[Vec<u8>],
) -> Result<(Arc<FileDescription>, Vec<u8>), Errno> {
    let try_open = |path: &[u8]| {
        open::open_exec(task, libc::AT_FDCWD, path, LookupFlags::FOLLOW)
            .map(|file| (file, path.to_vec()))
    };
    if name.contains(&b'/') {
        return try_open(name);
    }
    if name.is_empty() {
        return Err(Errno::ENOENT);
    }
    let path = env.iter().find_map(|e| e.strip_prefix(b"PATH=")).unwrap_or(DEFAULT_PATH);
    // As execvp: one that may not be executed is remembered, but a later one may do.
    let mut error = Errno::ENOENT;
    for dir in path.split(|&b| b == b':') {
        let dir = if dir.is_empty() { &b"."[..] } else { dir };
        let full = [dir, b"/", name].concat();
        match try_open(&full) {
            Ok(found) => return Ok(found),
            Err(Errno::EACCES) => error = Errno::EACCES,
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Err(error)
}
