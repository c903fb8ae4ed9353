//! The cases, one file a group of system calls.
//!
//! A case is a function that asserts what Linux does; it runs alone in its process, in an empty
//! current directory. What it prints must be the same on every run: it is compared.

/// One case.
pub(crate) struct Case {
    /// Its function's name.
    pub(crate) name: &'static str,
    /// Runs it; an assertion that fails ends the process.
    pub(crate) run: fn(),
}

/// A group's table from the names of its functions.
macro_rules! cases {
    ($($f:ident),* $(,)?) => {
        pub(super) const CASES: &[super::Case] =
            &[$(super::Case { name: stringify!($f), run: $f }),*];
    };
}

/// The modules, and the table of groups.
macro_rules! groups {
    ($($group:ident),* $(,)?) => {
        $(pub(crate) mod $group;)*
        /// Every group with its cases.
        pub(crate) const GROUPS: &[(&str, &[Case])] =
            &[$((stringify!($group), $group::CASES)),*];
    };
}

groups!(
    open,
    read_write,
    lseek,
    dirs,
    rename_link,
    stat,
    chmod_chown,
    truncate_fallocate,
    xattrs,
    locks,
    mmap,
    memory,
    fork_wait,
    exec,
    signals,
    threads_futex,
    timers,
    events,
    pipes,
    unix_sockets,
    mqueue,
    msg,
    sem,
    shm,
    tty,
    creds,
    seccomp,
    seccomp_notify,
    system,
    tsc,
);

/// The case of that `group::name`.
pub(crate) fn find(name: &str) -> Option<&'static Case> {
    let (group, case) = name.split_once("::")?;
    let (_, cases) = GROUPS.iter().find(|(g, _)| *g == group)?;
    cases.iter().find(|c| c.name == case)
}
