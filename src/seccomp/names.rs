//! Names of system calls.

/// The number of a call of x86-64.
pub(super) fn number(name: &str) -> Option<u32> {
    sentry::syscalls::TABLE.iter().find(|entry| entry.name == name).map(|entry| entry.nr)
}

/// Calls that only other architectures have, besides variants for larger numbers and times.
const ELSEWHERE: [&str; 46] = [
    "_llseek",
    "_newselect",
    "arm_fadvise64_64",
    "arm_sync_file_range",
    "atomic_barrier",
    "atomic_cmpxchg_32",
    "bdflush",
    "break",
    "breakpoint",
    "cachectl",
    "cacheflush",
    "epoll_ctl_old",
    "epoll_wait_old",
    "ftime",
    "getpagesize",
    "gtty",
    "idle",
    "ipc",
    "lock",
    "mmap2",
    "mpx",
    "nice",
    "oldfstat",
    "oldlstat",
    "oldolduname",
    "oldstat",
    "olduname",
    "prof",
    "profil",
    "readdir",
    "recv",
    "send",
    "set_tls",
    "sgetmask",
    "signal",
    "sigaction",
    "sigpending",
    "sigprocmask",
    "sigreturn",
    "sigsuspend",
    "socketcall",
    "ssetmask",
    "stime",
    "swapcontext",
    "sync_file_range2",
    "waitpid",
];

/// Whether some architecture has a call of that name, though x86-64 has not: profiles list them all.
pub(super) fn is_foreign(name: &str) -> bool {
    const PREFIXES: [&str; 7] =
        ["arm_", "s390_", "riscv_", "sparc_", "spu_", "subpage_", "pciconfig_"];
    const SUFFIXES: [&str; 4] = ["_time64", "_64", "64", "32"];
    let variant = |suffix: &&str| {
        name.strip_suffix(*suffix).is_some_and(|stem| number(stem).is_some() || stem == "fstatat")
    };
    ELSEWHERE.contains(&name)
        || matches!(name, "ugetrlimit" | "umount" | "usr26" | "usr32" | "get_tls")
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || SUFFIXES.iter().any(variant)
}
