//! Boots the kernel and sees the sandbox through to its end.

use std::fs::File;
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};

use gofer::client::Client;
use platform::{MemoryFile, Opened, usercopy};

use super::control::{self, BootFailure, Ending, ExitStatus, FromSentry, ToSentry};
use super::mounts::{self, Sources};
use super::spec::{BootFds, BootSpec, ClockChoice, Limits, StraceFilter, TerminalSpec, WindowSize};
use super::{Seal, host_calls, init};
use crate::boot::Cause;
use crate::fs::dev::memory::{MEMORY_MAJOR, MemoryDriver};
use crate::fs::host::{HostStdio, Watcher};
use crate::kernel::signal::SigInfo;
use crate::kernel::{self, Credentials, Ended, FdTable, Kernel, coarse};
use crate::syscalls::strace::Strace;
use crate::tty::console::Console;
use crate::tty::devpts::{AuxDriver, Devpts, SlaveDriver};
use crate::tty::file::{Master, Slave};
use crate::tty::termios::Winsize;
use crate::tty::{SLAVE_MAJOR, TTYAUX_MAJOR};
use crate::vfs::{
    Dentry, FileDescription, FileType, Mount, MountFlags, OpenFlags, Path, limit_open_files,
};

/// Boots the kernel, runs the first program to its end and says on the control channel how it
/// ended.
pub fn run(spec: BootSpec, fds: BootFds, seal: Seal) {
    abort_on_panic();
    let control = match fds.control.try_clone() {
        Ok(control) => control,
        // Nobody to tell: the launcher sees the end of the channel.
        Err(_) => return,
    };
    let tell = |message: &FromSentry| {
        // A launcher that is gone takes the sandbox with it.
        let _ = control::send(&control, message);
    };
    // The gofer ends when this connection does: after a failure has been told, not before, or it would
    // look like the gofer's.
    let gofer = fds.gofer.try_clone();
    match boot(&spec, fds, seal) {
        Err(failure) => tell(&FromSentry::Failed(failure)),
        Ok(running) => {
            drop(gofer);
            tell(&FromSentry::Started { platform: running.kernel.platform.name().into() });
            tell(&FromSentry::Exited(running.wait()));
        }
    }
}

/// A sandbox whose first program runs.
struct Running {
    kernel: Arc<Kernel>,
    console: Option<Arc<Console>>,
    ended: Receiver<Ended>,
}

impl Running {
    /// Waits for the end of the first program, or of the sandbox.
    fn wait(self) -> Ending {
        // The kernel holds the sender for as long as init lives.
        let lost = || Ended {
            status: libc::SIGKILL as u32,
            cause: Cause::Signal,
            usage: self.kernel.usage(),
        };
        let Ended { status, cause, usage } = self.ended.recv().unwrap_or_else(|_| lost());
        if let Some(console) = &self.console {
            console.drain();
        }
        if let Some(audit) = self.kernel.audit.get() {
            audit.finish();
        }
        for (what, count) in self.kernel.platform.counters() {
            tracing::info!(what, count, "platform counter");
        }
        for (nr, count) in self.kernel.unsupported.counts() {
            let name = crate::syscalls::entry(nr).map_or("unknown", |e| e.name);
            tracing::info!(nr, name, count, "unsupported system call, in all");
        }
        let status = match status & 0x7f {
            0 => ExitStatus::Code((status >> 8 & 0xff) as u8),
            signo => ExitStatus::Signal(signo as u8),
        };
        Ending { status, cause, usage }
    }
}

/// A panic anywhere ends the whole sandbox, with what was being done in the report.
fn abort_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        let doing = crate::kernel::current::describe();
        tracing::error!("the kernel panicked: {info}; {doing}");
        std::process::abort();
    }));
}

fn failed(what: &str, error: impl std::fmt::Display) -> BootFailure {
    BootFailure { code: 125, message: format!("{what}: {error}") }
}

fn boot(spec: &BootSpec, mut fds: BootFds, seal: Seal) -> Result<Running, BootFailure> {
    // What needs more of the host than a sealed Sentry has.
    usercopy::install_fault_handler();
    let memory = MemoryFile::new(spec.limits.memory).map_err(|e| failed("guest memory", e))?;
    crate::mm::set_host_areas(spec.host_areas);
    if spec.own_clocks {
        kernel::host::clocks_are_own();
    }
    if spec.clock == ClockChoice::Coarse {
        coarse::enable();
    }
    let opened = platform::open(spec.platform.into(), spec.clock.into(), &memory);
    let Opened { platform, reason } =
        opened.map_err(|e| BootFailure { code: 125, message: e.to_string() })?;
    if let Some(load) = fds.load.take() {
        load.watch();
    }
    let features = platform.features().join(", ");
    tracing::info!(platform = platform.name(), features, reason, "platform chosen");
    let strace = match &spec.strace {
        None => None,
        Some(filter) => {
            let names = match filter {
                StraceFilter::All => &[][..],
                StraceFilter::Only(names) => names,
            };
            let log = fds.log.try_clone().map_err(|e| failed("--strace", e))?;
            let strace = Strace::new(names, File::from(log));
            Some(Arc::new(strace.map_err(|message| BootFailure { code: 125, message })?))
        }
    };
    let watcher = Watcher::new().map_err(|e| failed("epoll", e))?;
    seal(host_calls::sealed(platform.host_calls()))
        .map_err(|message| BootFailure { code: 125, message })?;

    if let Some(files) = spec.limits.files {
        let all = files.saturating_mul(Limits::FILES_FACTOR);
        limit_open_files(usize::try_from(all).unwrap_or(usize::MAX));
    }
    crate::kmem::bind(&memory);
    let (sender, ended) = mpsc::channel();
    let limits = kernel::limits::Limits::new(&spec.limits);
    let kernel = Kernel::new(platform, memory, &spec.hostname, strace, limits, sender);
    let (client, exports) = Client::connect(fds.gofer).map_err(|e| failed("gofer", e))?;
    let devpts = Devpts::new(&kernel);
    let BootFds { stdin, stdout, stderr, log, audit, .. } = fds;
    if let Some(socket) = audit {
        kernel.audit.start(socket);
    }
    // Log lines go to its number for as long as the process lives.
    let _ = log.into_raw_fd();
    let cred = Arc::new(spec.credentials());
    let files = FdTable::new();
    let stdio = Stdio { kernel: &kernel, cred: &cred, watcher: &watcher, files: &files };

    let terminal = match spec.terminal {
        None => {
            for (fd, host) in [(0, stdin), (1, stdout), (2, stderr)] {
                stdio.pass_through(fd, host)?;
            }
            None
        }
        Some(terminal) => {
            if !terminal.stderr {
                stdio.pass_through(2, stderr)?;
            }
            Some((terminal, make_console(&kernel, &devpts, spec, terminal, stdin, stdout)?))
        }
    };
    let console = terminal.as_ref().map(|(_, console)| console.clone());
    register_drivers(&kernel, &devpts, console.as_deref());
    let sources = Sources {
        client,
        exports: exports.into_iter().map(Some).collect(),
        devpts: devpts.clone(),
    };
    let hosts = spec.make_hosts.then(|| mounts::hosts(&spec.hostname));
    let namespace = mounts::compose(&kernel, sources, &spec.mounts, hosts)
        .map_err(|e| BootFailure { code: 125, message: e.to_string() })?;
    if let Some((terminal, console)) = &terminal {
        let fds: &[i32] = if terminal.stderr { &[0, 1, 2] } else { &[0, 1] };
        stdio.attach_terminal(fds, &devpts, console)?;
    }

    watcher.start().map_err(|e| failed("threads", e))?;
    if let Some(console) = &console {
        console.start().map_err(|e| failed("threads", e))?;
    }
    init::start(&kernel, namespace, spec, files.clone(), |task| {
        if let Some(console) = &console {
            console.tty().adopt(task);
        }
    })?;
    listen(fds.control, &kernel, console.clone()).map_err(|e| failed("threads", e))?;
    Ok(Running { kernel, console, ended })
}

fn winsize(size: WindowSize) -> Winsize {
    let WindowSize { rows, cols, xpixel, ypixel } = size;
    Winsize { rows, cols, xpixel, ypixel }
}

fn make_console(
    kernel: &Arc<Kernel>,
    devpts: &Arc<Devpts>,
    spec: &BootSpec,
    terminal: TerminalSpec,
    stdin: std::os::fd::OwnedFd,
    stdout: std::os::fd::OwnedFd,
) -> Result<Arc<Console>, BootFailure> {
    let tty =
        devpts.new_pair(spec.uid, winsize(terminal.size)).map_err(|e| failed("terminal", e))?;
    tty.set_locked(false);
    let master = Master { tty, devpts: devpts.clone() };
    Console::new(kernel, master, stdin, stdout, terminal.foreground)
        .map_err(|e| failed("terminal", e))
}

fn register_drivers(kernel: &Arc<Kernel>, devpts: &Arc<Devpts>, console: Option<&Console>) {
    let memory = MemoryDriver { memory: kernel.memory.clone() };
    kernel.special.register_char(MEMORY_MAJOR, Arc::new(memory));
    kernel.special.register_char(SLAVE_MAJOR, Arc::new(SlaveDriver(devpts.clone())));
    let console = console.map(|c| c.tty().clone());
    let aux = AuxDriver { devpts: devpts.clone(), console };
    kernel.special.register_char(TTYAUX_MAJOR, Arc::new(aux));
}

/// Gives the first process its standard descriptors.
struct Stdio<'a> {
    kernel: &'a Arc<Kernel>,
    cred: &'a Arc<Credentials>,
    watcher: &'a Arc<Watcher>,
    files: &'a FdTable,
}

impl Stdio<'_> {
    /// The caller's own descriptor.
    fn pass_through(&self, fd: i32, host: std::os::fd::OwnedFd) -> Result<(), BootFailure> {
        let fail = |e: std::io::Error| failed("standard descriptors", e);
        let access = HostStdio::access(&host).map_err(fail)?;
        let file = HostStdio::new(host, self.watcher, self.kernel).map_err(fail)?;
        let start = file.position();
        let inode = file.inode(self.cred.uid, self.cred.gid);
        let fs = inode.filesystem();
        let name = match inode.file_type() {
            FileType::Fifo => format!("pipe:[{}]", inode.key().ino),
            FileType::Socket => format!("socket:[{}]", inode.key().ino),
            _ => format!("host:[{fd}]"),
        };
        // A thing without a tree: its dentry is not the root of its mount.
        let mount = Mount::new(fs, Dentry::root(b"/", inode.clone()), "host", MountFlags::empty());
        let dentry = Dentry::root(name.as_bytes(), inode);
        let ops = Box::new(file);
        let description =
            FileDescription::new(ops, Path { mount, dentry }, access, self.cred.clone());
        let description = description.map_err(|e| failed("standard descriptors", e))?;
        *description.pos().lock() = start;
        self.install(fd, description)
    }

    /// The sandbox's terminal, one open file for all.
    fn attach_terminal(
        &self,
        fds: &[i32],
        devpts: &Arc<Devpts>,
        console: &Console,
    ) -> Result<(), BootFailure> {
        let fail = |e| failed("terminal", e);
        let slave = Slave::open(console.tty(), true).map_err(fail)?;
        let path = devpts
            .path_of(console.tty().index)
            .ok_or_else(|| failed("terminal", "/dev/pts is not mounted"))?;
        let ops = Box::new(slave);
        let file = FileDescription::new(ops, path, OpenFlags::RDWR, self.cred.clone());
        let file = file.map_err(fail)?;
        for &fd in fds {
            self.install(fd, file.clone())?;
        }
        Ok(())
    }

    fn install(&self, fd: i32, file: Arc<FileDescription>) -> Result<(), BootFailure> {
        self.files
            .replace(fd, file, false, u64::MAX)
            .map(drop)
            .map_err(|e| failed("standard descriptors", e))
    }
}

/// Does what the launcher says, on a thread of its own.
fn listen(
    control: std::os::fd::OwnedFd,
    kernel: &Arc<Kernel>,
    console: Option<Arc<Console>>,
) -> std::io::Result<()> {
    let kernel = kernel.clone();
    let builder = std::thread::Builder::new().name("control".into()).stack_size(128 * 1024);
    builder.spawn(move || {
        loop {
            match control::receive::<ToSentry>(&control) {
                Ok(Some(message)) => obey(&kernel, console.as_deref(), &control, message),
                // The launcher is gone, or talks nonsense: no sandbox without it.
                Ok(None) | Err(_) => std::process::exit(1),
            }
        }
    })?;
    Ok(())
}

fn obey(
    kernel: &Arc<Kernel>,
    console: Option<&Console>,
    control: &std::os::fd::OwnedFd,
    message: ToSentry,
) {
    match message {
        ToSentry::Signal(signo) if (1..=64).contains(&signo) => {
            if let Some(init) = kernel.tasks.group(1) {
                // As a signal from outside of a pid namespace: it reaches init whatever it is.
                let _ = init.send_signal(SigInfo::kernel(signo));
            }
        }
        ToSentry::Signal(_) => {}
        ToSentry::WindowSize(size) => {
            if let Some(console) = console {
                console.tty().set_winsize(winsize(size));
            }
        }
        ToSentry::Suspend => {
            if let Some(console) = console {
                console.set_foreground(false);
                console.drain();
            }
            signal_all(kernel, libc::SIGSTOP);
            let _ = control::send(control, &FromSentry::Suspended);
        }
        ToSentry::End(cause) => kernel.end(cause),
        ToSentry::Resume { foreground } => {
            signal_all(kernel, libc::SIGCONT);
            if let Some(console) = console {
                console.set_foreground(foreground);
            }
        }
    }
}

fn signal_all(kernel: &Arc<Kernel>, signo: i32) {
    for group in kernel.tasks.groups() {
        let _ = group.send_signal(SigInfo::kernel(signo));
    }
}
