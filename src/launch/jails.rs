//! What each process of a sandbox may do on the host, on one page.

use std::sync::Arc;

use lockdown::cgroup::Cgroup;
use lockdown::{
    AllowList, Argument, Capabilities, Condition, FileAccess, Helped, IdMap, Identity, Jail,
    Labels, Namespaces, Rlimit, Root,
};
use nix::unistd;
use sentry::boot::HostCalls;

use crate::error::Error;
use crate::view::Files;

/// The unprivileged user that a root caller's Sentry becomes.
const NOBODY: u32 = 65534;

/// What the launcher has to give away.
pub(super) struct Caller {
    /// It can write any id map and become any user.
    privileged: bool,
    uid: u32,
    gid: u32,
}

impl Caller {
    /// The calling process.
    pub(super) fn new() -> Result<Caller, Error> {
        let capabilities = lockdown::effective_capabilities()
            .map_err(|error| Error::host("reading /proc/self/status", error))?;
        let needed = Capabilities::SETUID.and(Capabilities::SETGID).and(Capabilities::SYS_ADMIN);
        Ok(Caller {
            privileged: capabilities.has(needed),
            uid: unistd::geteuid().as_raw(),
            gid: unistd::getegid().as_raw(),
        })
    }

    /// Whether it may do on the host what root may.
    pub(super) fn privileged(&self) -> bool {
        self.privileged
    }

    /// The caller's own ids and nothing else, which is all that an unprivileged process may map.
    fn itself(&self) -> Identity {
        Identity {
            uids: IdMap::Single(self.uid),
            gids: IdMap::Single(self.gid),
            become_ids: None,
            drop_groups: false,
        }
    }

    fn nobody(&self) -> Identity {
        let mapped =
            IdMap::launcher_has("uid_map", NOBODY) && IdMap::launcher_has("gid_map", NOBODY);
        if !self.privileged || !mapped {
            return self.itself();
        }
        Identity {
            uids: IdMap::Single(NOBODY),
            gids: IdMap::Single(NOBODY),
            become_ids: Some((NOBODY, NOBODY)),
            drop_groups: true,
        }
    }

    /// The caller, with all owners of files visible if it may: of an unprivileged caller's, the ids
    /// that are subordinate to it. If the guest begins as root, that is the caller.
    fn all_ids(&self, guest: Guest) -> Identity {
        if !self.privileged {
            return self.subordinates(guest);
        }
        Identity {
            uids: IdMap::Identity,
            gids: IdMap::Identity,
            become_ids: None,
            drop_groups: false,
        }
    }
}

/// What the gofer's id map depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guest {
    /// The first program's user is root.
    pub(super) root: bool,
    /// It sees trees that the caller named, whose files may be anybody's.
    pub(super) owners: bool,
}

impl Caller {
    fn subordinates(&self, guest: Guest) -> Identity {
        let alone = self.itself();
        // The helpers take as long as two programs take to start.
        if !guest.owners {
            return alone;
        }
        let inside = |own: u32| if guest.root { 0 } else { own };
        let helped = |found: Option<Helped>, own, alone| {
            found.map_or(alone, |helped| IdMap::Helped(helped, own))
        };
        let uids = Helped::users(self.uid, inside(self.uid));
        let gids = Helped::groups(self.uid, self.gid, inside(self.gid));
        Identity {
            uids: helped(uids, self.uid, alone.uids),
            gids: helped(gids, self.gid, alone.gids),
            ..alone
        }
    }
}

/// Both keep as many descriptors as there are.
const RLIMITS: [Rlimit; 5] = [
    Rlimit::NoCore,
    Rlimit::NoLockedMemory,
    Rlimit::NoQueues,
    Rlimit::NoRealTime,
    Rlimit::MostFiles,
];

/// The Sentry: no files, no network, no capabilities, nobody's user.
pub(super) fn sentry(caller: &Caller, labels: &Labels, cgroup: &Option<Arc<Cgroup>>) -> Jail {
    Jail {
        name: "sentry",
        cgroup: cgroup.clone(),
        // Guests first: the stubs have it, too. Then what they need.
        oom_score: 500,
        // The clocks are the guest's as well, by the vDSO: how long the host is up is not its business.
        namespaces: Namespaces::all() | Namespaces::TIME,
        identity: caller.nobody(),
        root: Root::Empty,
        rlimits: RLIMITS.to_vec(),
        capabilities: Capabilities::NONE,
        labels: labels.clone(),
        files: FileAccess::None,
    }
}

/// The gofer: the exported trees, no network, and of the caller's power over files what the
/// exports need.
pub(super) fn gofer(
    caller: &Caller,
    files: &Files,
    guest: Guest,
    labels: &Labels,
    cgroup: &Option<Arc<Cgroup>>,
) -> Jail {
    let identity = caller.all_ids(guest);
    // They hold for files whose owner and group the namespace maps: for a caller with subordinate ids,
    // for its own and theirs.
    let others = caller.privileged || matches!(identity.uids, IdMap::Helped(..));
    let capabilities = match (others, files.writable()) {
        // Whoever owns what it maps may do with its files what the caller may.
        (false, _) => Capabilities::NONE,
        (true, false) => Capabilities::DAC_READ_SEARCH,
        (true, true) => Capabilities::DAC_READ_SEARCH
            .and(Capabilities::DAC_OVERRIDE)
            .and(Capabilities::CHOWN)
            .and(Capabilities::FOWNER)
            .and(Capabilities::FSETID),
    };
    Jail {
        name: "gofer",
        cgroup: cgroup.clone(),
        oom_score: 250,
        namespaces: Namespaces::all(),
        identity,
        root: Root::Files(files.view.clone()),
        rlimits: RLIMITS.to_vec(),
        capabilities,
        labels: labels.clone(),
        files: if files.writable() { FileAccess::Write } else { FileAccess::Read },
    }
}

/// Threads, but no processes: `clone` with at least these flags, and no `clone3`, whose flags a
/// filter cannot see.
const THREAD: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD) as u64;
/// What else C libraries make threads with: no namespaces, no tracing.
const THREAD_SETUP: u64 = (libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID
    | libc::CLONE_DETACHED) as u64;
/// No executable memory: neither process runs code that was not there at its start.
const DATA: u64 = (libc::PROT_READ | libc::PROT_WRITE) as u64;
/// What a Sentry on `ptrace` asks of its stubs.
const PTRACE_REQUESTS: &[u32] = &[
    libc::PTRACE_SEIZE,
    libc::PTRACE_INTERRUPT,
    libc::PTRACE_CONT,
    libc::PTRACE_SYSEMU,
    libc::PTRACE_DETACH,
    libc::PTRACE_GETREGS,
    libc::PTRACE_SETREGS,
    libc::PTRACE_GETREGSET,
    libc::PTRACE_SETREGSET,
    libc::PTRACE_GETSIGINFO,
    libc::PTRACE_GETEVENTMSG,
    libc::PTRACE_PEEKDATA,
    libc::PTRACE_POKEDATA,
    0x420e, // PTRACE_GET_SYSCALL_INFO
];

/// Narrows calls that are on both lists. `openat` is answered with an error instead of ending the
/// process: glibc's malloc opens /proc/sys/vm/overcommit_memory the first time a thread's heap
/// shrinks, and goes on well without it.
fn narrowed(calls: AllowList) -> AllowList {
    let thread = [
        Condition(0, Argument::HasBits(THREAD)),
        Condition(0, Argument::Within(THREAD | THREAD_SETUP)),
    ];
    single_threaded(calls)
        .only_if(libc::SYS_clone, &thread)
        .only_if(libc::SYS_prctl, &[Condition(0, Argument::IsInt(libc::PR_SET_NAME as u32))])
}

/// Likewise, what is on all three lists.
fn single_threaded(calls: AllowList) -> AllowList {
    calls
        .absent(&[libc::SYS_clone3, libc::SYS_openat])
        .only_if(libc::SYS_mmap, &[Condition(2, Argument::Within(DATA))])
        .only_if(libc::SYS_mprotect, &[Condition(2, Argument::Within(DATA))])
        .only_if(libc::SYS_fcntl, &[command(libc::F_DUPFD_CLOEXEC)])
        // What std looks at, with debug assertions, before it closes a descriptor.
        .only_if(libc::SYS_fcntl, &[command(libc::F_GETFD)])
        // libc's fstat: of a descriptor, not of a path.
        .only_if(libc::SYS_newfstatat, &[Condition(3, Argument::IsInt(libc::AT_EMPTY_PATH as u32))])
}

/// What an `fcntl` does.
fn command(command: i32) -> Condition {
    Condition(1, Argument::IsInt(command as u32))
}

/// `setsockopt` of this option of SOL_SOCKET.
fn option(name: i32) -> [Condition; 2] {
    [
        Condition(1, Argument::IsInt(libc::SOL_SOCKET as u32)),
        Condition(2, Argument::IsInt(name as u32)),
    ]
}

/// The host calls of a sealed gofer.
pub(super) fn gofer_calls() -> AllowList {
    // Not datagrams: such a socket could be sent from to any socket that has a name in the trees.
    let local = [
        Condition(0, Argument::IsInt(libc::AF_UNIX as u32)),
        Condition(1, Argument::IsInt((libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC) as u32)),
    ];
    let own = Condition(0, Argument::IsInt(0));
    let mut list = narrowed(AllowList::of(gofer::server::HOST_SYSCALLS))
        .only_if(libc::SYS_socketpair, &local)
        .only_if(libc::SYS_setsockopt, &option(libc::SO_SNDBUF))
        .only_if(libc::SYS_sched_setaffinity, &[own]);
    for &ioctl in gofer::server::HOST_IOCTLS {
        list = list.only_if(libc::SYS_ioctl, &[Condition(1, Argument::IsInt(ioctl))]);
    }
    list
}

/// The host calls of a sealed Sentry, which says what it and its platform need.
pub(super) fn sentry_calls(needed: &HostCalls) -> AllowList {
    // Messages to whom the socket is connected to only.
    let nobody_else = Condition(4, Argument::Is(0));
    let mut list = narrowed(AllowList::of(&needed.calls))
        .only_if(libc::SYS_fcntl, &[command(libc::F_GETFL)])
        .only_if(libc::SYS_sendto, &[nobody_else])
        .only_if(libc::SYS_setsockopt, &option(libc::SO_RCVTIMEO))
        .only_if(libc::SYS_setsockopt, &option(libc::SO_SNDTIMEO));
    for &ioctl in &needed.ioctls {
        list = list.only_if(libc::SYS_ioctl, &[Condition(1, Argument::IsInt(ioctl))]);
    }
    if needed.calls.contains(&libc::SYS_ptrace) {
        for &request in PTRACE_REQUESTS {
            list = list.only_if(libc::SYS_ptrace, &[Condition(0, Argument::Is(request.into()))]);
        }
    }
    list
}

/// What a launcher does that not every one does, once its sandbox runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Duties {
    /// Its own process id.
    pub(super) pid: u32,
    /// Switches the caller's terminal.
    pub(super) terminal: bool,
    /// Removes a control group.
    pub(super) cgroup: bool,
    /// Sends audit records to sockets that have names.
    pub(super) logger: bool,
}

impl Duties {
    /// All of them, and no process in particular.
    const ALL: Duties = Duties { pid: 1, terminal: true, cgroup: true, logger: true };
}

/// What a launcher keeps of root's capabilities: none, unless it has to get past other owners'
/// directories to what it removes, and sends to.
pub(super) fn launcher_capabilities(duties: Duties) -> Capabilities {
    if duties.cgroup || duties.logger { Capabilities::DAC_OVERRIDE } else { Capabilities::NONE }
}

/// What a launcher watches its sandbox with, writes its files with, and ends.
const LAUNCHER: &[i64] = &[
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_recvfrom,
    libc::SYS_shutdown,
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];
/// `TCGETS2` and `TCSETSW2`, which newer C libraries use.
const TERMIOS2: [u32; 2] = [0x802c_542a, 0x402c_542c];

/// The host calls of a launcher once its sandbox runs. It signals and waits for nobody but by
/// pidfds, which it has of its own processes only; nothing is opened, connected or started.
pub(super) fn launcher_calls(duties: Duties) -> AllowList {
    let itself = Condition(0, Argument::IsInt(duties.pid));
    let kill = [Condition(1, Argument::IsInt(libc::SIGKILL as u32)), Condition(2, Argument::Is(0))];
    let child = Condition(0, Argument::IsInt(libc::P_PIDFD));
    let mut list = single_threaded(AllowList::of(LAUNCHER))
        .only_if(libc::SYS_fcntl, &[command(libc::F_GETFL)])
        .only_if(libc::SYS_pidfd_send_signal, &kill)
        .only_if(libc::SYS_waitid, &[child])
        .only_if(libc::SYS_tgkill, &[itself]);
    list = if duties.logger {
        list.and(&[libc::SYS_sendto])
    } else {
        list.only_if(libc::SYS_sendto, &[Condition(4, Argument::Is(0))])
    };
    if duties.cgroup {
        // Only directories that are empty.
        list = list.and(&[libc::SYS_rmdir]);
    }
    if duties.terminal {
        let modes = [libc::TCGETS as u32, libc::TCSETSW as u32];
        let others = [libc::TIOCGWINSZ as u32, libc::TIOCGPGRP as u32];
        for ioctl in modes.into_iter().chain(TERMIOS2).chain(others) {
            list = list.only_if(libc::SYS_ioctl, &[Condition(1, Argument::IsInt(ioctl))]);
        }
        list = list.and(&[libc::SYS_getpgrp]);
    }
    list
}

/// What one process may call, for whoever lists it.
#[derive(Clone, Debug)]
pub(crate) struct Allowed {
    /// `launcher`, `sentry/notify`, `gofer`, `stub/notify`, ...
    pub(crate) process: String,
    /// Numbers of calls, in ascending order.
    pub(crate) calls: Vec<i64>,
}

impl Allowed {
    /// All processes, on all platforms.
    pub(crate) fn all() -> Vec<Allowed> {
        let list =
            |process: String, list: &AllowList| Allowed { process, calls: list.calls().collect() };
        let mut all = vec![
            list("launcher".into(), &launcher_calls(Duties::ALL)),
            list("gofer".into(), &gofer_calls()),
        ];
        for needs in platform::NEEDS {
            let calls = sentry_calls(&sentry::boot::host_calls(needs.sentry));
            all.push(list(format!("sentry/{}", needs.name), &calls));
            all.push(list(format!("stub/{}", needs.name), &AllowList::of(needs.stub)));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockdown::{Verdict, interpret};
    use proptest::prelude::*;

    const X86_64: u32 = 0xc000_003e;
    const I386: u32 = 0x4000_0003;
    const ALLOW: u32 = 0x7fff_0000;
    const KILL_PROCESS: u32 = 0x8000_0000;
    const ABSENT: u32 = 0x0005_0000 | libc::ENOSYS as u32;
    /// More calls than any kernel has, and both ends of what x32 uses.
    const NUMBERS: std::ops::Range<i64> = 0..1100;

    fn lists() -> Vec<AllowList> {
        let sentries =
            platform::NEEDS.map(|needs| sentry_calls(&sentry::boot::host_calls(needs.sentry)));
        let few = Duties { pid: 7, terminal: false, cgroup: false, logger: false };
        let launchers = [few, Duties::ALL].map(launcher_calls);
        [vec![gofer_calls()], launchers.to_vec(), sentries.to_vec()].concat()
    }

    /// The strictest answer of a list's filters.
    fn answer(list: &AllowList, arch: u32, call: u32, arguments: [u64; 6]) -> u32 {
        let programs = list.programs().unwrap();
        let answers = programs.iter().map(|one| interpret(one, arch, call, arguments));
        // Kill is negative; of the others the smaller one is the stricter one.
        answers.min_by_key(|&answer| answer as i32).unwrap()
    }

    /// Values that arguments are compared with, their neighbours, and any.
    fn argument() -> impl Strategy<Value = u64> {
        let known = [
            0,
            1,
            3,
            7,
            THREAD,
            THREAD | THREAD_SETUP,
            THREAD | libc::CLONE_NEWUSER as u64,
            libc::SIGCHLD as u64,
            libc::TIOCSTI,
            libc::FIONREAD,
            0x4206,
            0x420e,
            0x1000,
            libc::F_DUPFD_CLOEXEC as u64,
            libc::F_GETFL as u64,
            (libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC) as u64,
            libc::P_PIDFD.into(),
            libc::SIGKILL as u64,
            libc::TCGETS,
            libc::TIOCGPGRP,
            TERMIOS2[0].into(),
        ];
        (prop::sample::select(known.to_vec()), any::<u64>(), 0u8..6).prop_map(
            |(known, any, how)| match how {
                0 => any,
                1 => known | any << 32,
                2 => known ^ 1 << (any % 64),
                _ => known,
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn filters_do_what_the_lists_say(arguments in prop::array::uniform6(argument())) {
            for list in lists() {
                for call in NUMBERS {
                    let expected = match list.verdict(call, arguments) {
                        Verdict::Allow => ALLOW,
                        Verdict::Absent => ABSENT,
                        Verdict::Kill => KILL_PROCESS,
                    };
                    prop_assert_eq!(answer(&list, X86_64, call as u32, arguments), expected);
                }
            }
        }

        #[test]
        fn other_ways_into_the_kernel_are_closed(
            arguments in prop::array::uniform6(argument()), number: u32,
        ) {
            for list in lists() {
                for call in NUMBERS.map(|call| call as u32).chain([number]) {
                    let x32 = call | 0x4000_0000;
                    prop_assert_eq!(answer(&list, X86_64, x32, arguments), KILL_PROCESS);
                    prop_assert_eq!(answer(&list, I386, call, arguments), KILL_PROCESS);
                }
            }
        }
    }

    #[test]
    fn a_launcher_reaches_only_its_own_processes() {
        let all = launcher_calls(Duties::ALL);
        let few = launcher_calls(Duties { pid: 7, terminal: false, cgroup: false, logger: false });
        for list in [&all, &few] {
            for call in [libc::SYS_kill, libc::SYS_tkill, libc::SYS_clone, libc::SYS_unlinkat] {
                assert_eq!(list.verdict(call, [0; 6]), Verdict::Kill, "{call}");
            }
        }
        let stop = libc::SIGSTOP as u64;
        assert_eq!(few.verdict(libc::SYS_tgkill, [7, 7, stop, 0, 0, 0]), Verdict::Allow);
        assert_eq!(few.verdict(libc::SYS_tgkill, [8, 8, stop, 0, 0, 0]), Verdict::Kill);
        assert_eq!(few.verdict(libc::SYS_pidfd_send_signal, [3, stop, 0, 0, 0, 0]), Verdict::Kill);
        // Without the duty there is no such call.
        for call in [libc::SYS_rmdir, libc::SYS_ioctl] {
            assert_eq!(few.verdict(call, [0, libc::TCGETS, 0, 0, 0, 0]), Verdict::Kill, "{call}");
        }
        assert_eq!(few.verdict(libc::SYS_sendto, [3, 0, 0, 0, 1, 1]), Verdict::Kill);
    }

    #[test]
    fn what_must_never_be_allowed_is_not() {
        let int = |value: i32| value as u32 as u64;
        for list in lists() {
            for call in [
                libc::SYS_execve,
                libc::SYS_execveat,
                libc::SYS_fork,
                libc::SYS_vfork,
                libc::SYS_open,
                libc::SYS_connect,
                libc::SYS_socket,
                libc::SYS_bind,
                libc::SYS_mount,
                libc::SYS_setns,
                libc::SYS_unshare,
                libc::SYS_bpf,
                libc::SYS_io_uring_setup,
                libc::SYS_userfaultfd,
                libc::SYS_perf_event_open,
                libc::SYS_keyctl,
                libc::SYS_process_vm_writev,
                libc::SYS_pidfd_open,
                libc::SYS_pidfd_getfd,
                libc::SYS_open_by_handle_at,
                libc::SYS_seccomp,
                libc::SYS_setuid,
                libc::SYS_chroot,
            ] {
                assert_eq!(list.verdict(call, [0; 6]), Verdict::Kill, "{call}");
            }
            for (call, arguments) in [
                (libc::SYS_clone, [int(libc::SIGCHLD), 0, 0]),
                (libc::SYS_mmap, [0, 4096, int(libc::PROT_EXEC)]),
                (libc::SYS_mprotect, [0, 4096, int(libc::PROT_EXEC | libc::PROT_READ)]),
                (libc::SYS_ioctl, [0, libc::TIOCSTI, 0]),
                (libc::SYS_prctl, [int(libc::PR_SET_DUMPABLE), 1, 0]),
            ] {
                let [a, b, c] = arguments;
                assert_eq!(list.verdict(call, [a, b, c, 0, 0, 0]), Verdict::Kill, "{call}");
            }
        }
    }
}
