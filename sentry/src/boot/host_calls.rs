//! The host calls of a sealed Sentry.

/// What a sealed Sentry may ask of the host: its own calls, and those of its platform.
#[derive(Clone, Debug)]
pub struct HostCalls {
    /// The calls' numbers, `ioctl` not among them. The launcher narrows some to safe arguments:
    /// `clone` to threads, `mmap` and `mprotect` to memory that is not executable, `prctl` to
    /// naming threads, `setsockopt` to SOL_SOCKET. `clone3` is absent (ENOSYS), so that libc uses
    /// `clone`.
    pub calls: Vec<i64>,
    /// The commands that `ioctl` may be called with.
    pub ioctls: Vec<u32>,
}

/// The calls of a Sentry on a platform that makes these.
pub fn sealed(platform: platform::HostCalls) -> HostCalls {
    HostCalls {
        calls: [HOST_SYSCALLS, platform.calls].concat(),
        ioctls: [IOCTLS, platform.ioctls].concat(),
    }
}

/// What guests may ask of a standard descriptor that was passed through.
const IOCTLS: &[u32] = &[libc::FIONREAD as u32, libc::TIOCGWINSZ as u32];

/// Every host call that the Sentry makes on any platform.
const HOST_SYSCALLS: &[i64] = &[
    // Files, pipes and terminals that it was handed.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx, // Of descriptors; there is nothing else to name.
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_fcntl,
    libc::SYS_close,
    libc::SYS_poll,
    // The gofer and the launcher.
    libc::SYS_sendmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_shutdown,
    libc::SYS_setsockopt,        // Timeouts of connections to the gofer.
    libc::SYS_sched_setaffinity, // Of a thread that waits for the gofer.
    // Memory.
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_brk,
    libc::SYS_membarrier,
    // Threads and waiting.
    libc::SYS_clone,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sigaltstack,
    libc::SYS_futex,
    libc::SYS_eventfd2,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_prctl,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_restart_syscall,
    // Signals among its own threads, and its own end (`abort`).
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_tgkill,
    // Clocks and chance.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
];
