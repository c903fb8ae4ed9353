//! What cases share: files, pipes, children, signal handlers, mappings, clocks.

// The names below shadow the C library's functions of the same name for the cases, which import
// this module whole.
pub(crate) use libc::*;
use std::ffi::CStr;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering::SeqCst};

/// Opens a path relative to the current directory; it must succeed.
#[track_caller]
pub(crate) fn open(path: &CStr, flags: i32, mode: u32) -> i32 {
    match sys!(SYS_openat, libc::AT_FDCWD, path, flags, mode) {
        Ok(fd) => fd as i32,
        Err(e) => panic!("open {path:?}: {}", crate::sys::name(e)),
    }
}

/// Creates a file with the given content.
#[track_caller]
pub(crate) fn file(path: &CStr, content: &[u8]) {
    let fd = open(path, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC, 0o644);
    write(fd, content);
    close(fd);
}

/// A new file open for reading and writing with the given content, its offset at 0.
#[track_caller]
pub(crate) fn temp(path: &CStr, content: &[u8]) -> i32 {
    let fd = open(path, libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC, 0o644);
    write(fd, content);
    ok!(SYS_lseek, fd, 0, libc::SEEK_SET);
    fd
}

/// Closes a descriptor; it must be open.
#[track_caller]
pub(crate) fn close(fd: i32) {
    if let Err(e) = sys!(SYS_close, fd) {
        panic!("close {fd}: {}", crate::sys::name(e));
    }
}

/// Writes everything in one call.
#[track_caller]
pub(crate) fn write(fd: i32, data: &[u8]) {
    match sys!(SYS_write, fd, data, data.len()) {
        Ok(n) => assert_eq!(n, data.len(), "short write"),
        Err(e) => panic!("write to {fd}: {}", crate::sys::name(e)),
    }
}

/// One read of up to `max` bytes.
#[track_caller]
pub(crate) fn read(fd: i32, max: usize) -> Vec<u8> {
    let mut buf = vec![0u8; max];
    match sys!(SYS_read, fd, &mut buf[..], max) {
        Ok(n) => {
            buf.truncate(n);
            buf
        }
        Err(e) => panic!("read from {fd}: {}", crate::sys::name(e)),
    }
}

/// A file's whole content.
#[track_caller]
pub(crate) fn slurp(path: &CStr) -> Vec<u8> {
    let fd = open(path, libc::O_RDONLY, 0);
    let mut all = Vec::new();
    loop {
        let part = read(fd, 65536);
        if part.is_empty() {
            break;
        }
        all.extend(part);
    }
    close(fd);
    all
}

/// A file of /proc as text.
#[track_caller]
pub(crate) fn text(path: &CStr) -> String {
    String::from_utf8_lossy(&slurp(path)).into_owned()
}

/// The value of a line `key:\tvalue` of /proc/self/status.
#[track_caller]
pub(crate) fn status_field(key: &str) -> String {
    let all = text(c"/proc/self/status");
    for line in all.lines() {
        if let Some((k, v)) = line.split_once(':')
            && k == key
        {
            return v.trim().to_string();
        }
    }
    panic!("no {key} in /proc/self/status")
}

/// A pipe: read end, write end.
#[track_caller]
pub(crate) fn pipe(flags: i32) -> (i32, i32) {
    let mut fds = [0i32; 2];
    ok!(SYS_pipe2, &mut fds, flags);
    (fds[0], fds[1])
}

/// A pair of connected Unix sockets.
#[track_caller]
pub(crate) fn socketpair(kind: i32) -> (i32, i32) {
    let mut fds = [0i32; 2];
    ok!(SYS_socketpair, libc::AF_UNIX, kind, 0, &mut fds);
    (fds[0], fds[1])
}

/// Runs `body` in a forked child, which exits with what it returns; the child's pid.
#[track_caller]
pub(crate) fn fork(body: impl FnOnce() -> i32) -> i32 {
    use std::io::Write;
    let _ = std::io::stdout().flush();
    // SAFETY: the child only runs `body` and leaves by `_exit`; cases fork before they start
    // threads, or use nothing in the child that a lost thread could have locked.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", crate::sys::name(crate::sys::errno()));
    if pid == 0 {
        let code = body();
        let _ = std::io::stdout().flush();
        // SAFETY: ends the child.
        unsafe { libc::_exit(code) }
    }
    pid
}

/// Waits for a child; its wait status.
#[track_caller]
pub(crate) fn wait(pid: i32) -> i32 {
    let mut status = 0i32;
    loop {
        match sys!(SYS_wait4, pid, &mut status, 0, 0) {
            Ok(p) => {
                assert_eq!(p as i32, pid);
                return status;
            }
            Err(libc::EINTR) => {}
            Err(e) => panic!("wait4 {pid}: {}", crate::sys::name(e)),
        }
    }
}

/// Runs `body` in a child, which must not fail.
#[track_caller]
pub(crate) fn in_child(body: impl FnOnce()) {
    let pid = fork(|| {
        body();
        0
    });
    assert_eq!(wait(pid), 0, "the child failed");
}

/// The wait status of a child that runs `body` and exits with its result.
#[track_caller]
pub(crate) fn status_of(body: impl FnOnce() -> i32) -> i32 {
    let pid = fork(body);
    wait(pid)
}

/// The wait status of a child that a signal killed, core flag aside.
pub(crate) fn killed_by(status: i32) -> Option<i32> {
    libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status))
}

/// A new anonymous private mapping.
#[track_caller]
pub(crate) fn map(len: usize, prot: i32) -> usize {
    ok!(SYS_mmap, 0, len, prot, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
}

/// A new anonymous shared mapping, readable and writable.
#[track_caller]
pub(crate) fn map_shared(len: usize) -> usize {
    ok!(
        SYS_mmap,
        0,
        len,
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_SHARED | libc::MAP_ANONYMOUS,
        -1,
        0
    )
}

/// Reads a byte of the case's own memory.
pub(crate) fn peek(at: usize) -> u8 {
    // SAFETY: the case mapped `at`, or wants the fault.
    unsafe { std::ptr::read_volatile(at as *const u8) }
}

/// Writes a byte of the case's own memory.
pub(crate) fn poke(at: usize, value: u8) {
    // SAFETY: as for `peek`.
    unsafe { std::ptr::write_volatile(at as *mut u8, value) }
}

/// A 32-bit word in the case's own memory.
pub(crate) fn word(at: usize) -> &'static std::sync::atomic::AtomicU32 {
    // SAFETY: the case mapped `at`, aligned, and keeps it mapped.
    unsafe { &*(at as *const std::sync::atomic::AtomicU32) }
}

/// What the page size is.
pub(crate) const PAGE: usize = 4096;

/// How often each signal's handler ran, and what its last `siginfo` said.
pub(crate) static COUNT: [AtomicI32; 65] = [const { AtomicI32::new(0) }; 65];
/// The last handled signal's `si_code`.
pub(crate) static CODE: AtomicI32 = AtomicI32::new(0);
/// The last handled signal's `si_pid`.
pub(crate) static SENDER: AtomicI32 = AtomicI32::new(0);
/// The last handled signal's `si_value`.
pub(crate) static VALUE: AtomicU64 = AtomicU64::new(0);
/// The last handled signal's `si_addr`.
pub(crate) static ADDR: AtomicU64 = AtomicU64::new(0);
/// The order in which signals were handled, one decimal pair each.
pub(crate) static ORDER: AtomicU64 = AtomicU64::new(0);

extern "C" fn record(sig: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    COUNT[sig as usize].fetch_add(1, SeqCst);
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler.
    unsafe {
        CODE.store((*info).si_code, SeqCst);
        SENDER.store((*info).si_pid(), SeqCst);
        VALUE.store((*info).si_value().sival_ptr as u64, SeqCst);
        ADDR.store((*info).si_addr() as u64, SeqCst);
    }
    ORDER.store(ORDER.load(SeqCst).wrapping_mul(100) + sig as u64, SeqCst);
}

/// Installs a handler that notes the signal in the statics above.
#[track_caller]
pub(crate) fn on(sig: i32, flags: i32) {
    action(sig, record as *const () as usize, flags | libc::SA_SIGINFO, &[]);
}

/// Installs any disposition through the C library, which supplies the restorer.
#[track_caller]
pub(crate) fn action(sig: i32, handler: usize, flags: i32, mask: &[i32]) {
    // SAFETY: all-zero is a valid sigaction, filled in below; handlers are async-signal-safe.
    unsafe {
        let mut act: libc::sigaction = std::mem::zeroed();
        act.sa_sigaction = handler;
        act.sa_flags = flags;
        for s in mask {
            libc::sigaddset(&mut act.sa_mask, *s);
        }
        assert_eq!(libc::sigaction(sig, &act, std::ptr::null_mut()), 0, "sigaction {sig}");
    }
}

/// How often the recording handler saw the signal.
pub(crate) fn count(sig: i32) -> i32 {
    COUNT[sig as usize].load(SeqCst)
}

/// The bit of a signal in a kernel signal set.
pub(crate) const fn bit(sig: i32) -> u64 {
    1 << (sig - 1)
}

/// Changes the calling thread's mask; the old one.
#[track_caller]
pub(crate) fn sigmask(how: i32, set: u64) -> u64 {
    let mut old = 0u64;
    ok!(SYS_rt_sigprocmask, how, &set, &mut old, 8);
    old
}

/// The page through which a faulting child reports.
static PLACE: AtomicU64 = AtomicU64::new(0);

/// Prepares a process for a case: what the Rust runtime changed is undone, and the page for
/// `fault` is mapped before a case can free an address it would take.
pub(crate) fn setup() {
    action(SIGPIPE, SIG_DFL, 0, &[]);
    PLACE.store(map_shared(PAGE) as u64, SeqCst);
}

/// What a fault in `body` reports: signal, si_code, si_addr; `None` when it does not fault.
#[track_caller]
pub(crate) fn fault(body: impl FnOnce()) -> Option<(i32, i32, usize)> {
    extern "C" fn handler(sig: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: PLACE is a shared mapping of a page, the siginfo is the kernel's; then it leaves.
        unsafe {
            let at = PLACE.load(SeqCst) as *mut u64;
            at.write(sig as u64);
            at.add(1).write((*info).si_code as u64);
            at.add(2).write((*info).si_addr() as u64);
            libc::_exit(99);
        }
    }
    let page = PLACE.load(SeqCst) as usize;
    let status = status_of(|| {
        for sig in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP] {
            action(sig, handler as *const () as usize, libc::SA_SIGINFO, &[]);
        }
        body();
        0
    });
    let at = page as *const u64;
    // SAFETY: the mapping above; the child is gone.
    let got = unsafe { (at.read(), at.add(1).read(), at.add(2).read()) };
    if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0 {
        return None;
    }
    assert!(
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 99,
        "the faulting child ended with status {status:#x}"
    );
    Some((got.0 as i32, got.1 as i32, got.2 as usize))
}

/// A clock's time in nanoseconds.
#[track_caller]
pub(crate) fn now(clock: i32) -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    ok!(SYS_clock_gettime, clock, &mut t);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// The monotonic clock.
#[track_caller]
pub(crate) fn mono() -> u64 {
    now(libc::CLOCK_MONOTONIC)
}

/// A timespec of so many milliseconds.
pub(crate) const fn ms(n: i64) -> libc::timespec {
    libc::timespec { tv_sec: n / 1000, tv_nsec: (n % 1000) * 1_000_000 }
}

/// Sleeps, for cases that let something else happen first.
pub(crate) fn nap(n: u64) {
    std::thread::sleep(std::time::Duration::from_millis(n));
}

/// The states of a process's tasks but for one, as /proc shows them; none if it is gone.
fn states(pid: i32, but: i32) -> Vec<char> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let ids = tasks.flatten().filter_map(|t| t.file_name().to_str()?.parse::<i32>().ok());
    let state = |tid| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
        text.rsplit_once(") ")?.1.chars().next()
    };
    ids.filter(|&tid| tid != but).filter_map(state).collect()
}

/// Waits until all of a process's tasks but one sleep. Whoever is about to make a call that blocks
/// is in it then, however long the machine let it wait on its way. False if the process is gone.
pub(crate) fn asleep(pid: i32, but: i32) -> bool {
    loop {
        let states = states(pid, but);
        if states.iter().all(|&state| state == 'S') {
            return !states.is_empty();
        }
        nap(1);
    }
}

/// A thread that says when it runs; what it does next is `body`.
pub(crate) fn starts<T: Send + 'static>(
    body: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let (says, hears) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let _ = says.send(());
        body()
    });
    let _ = hears.recv();
    thread
}

/// Waits until the other threads of this process sleep: to be used after [`starts`].
pub(crate) fn settle() {
    let me = ok!(SYS_gettid) as i32;
    assert!(asleep(ok!(SYS_getpid) as i32, me), "there are no others");
}

/// Sends a signal to this process from a child, after so many milliseconds and not before its other
/// threads and this one sleep.
pub(crate) fn soon(sig: i32, after: u64) -> i32 {
    let pid = ok!(SYS_getpid) as i32;
    fork(move || {
        nap(after);
        if asleep(pid, 0) {
            ok!(SYS_kill, pid, sig);
        }
        0
    })
}

/// A timer signal that comes again and again: who is late for the first is interrupted by another.
#[track_caller]
pub(crate) fn alarm_often(milliseconds: i64) {
    let each = timeval { tv_sec: 0, tv_usec: milliseconds * 1000 };
    ok!(SYS_setitimer, ITIMER_REAL, &itimerval { it_interval: each, it_value: each }, 0);
}

/// Whether the effective user is root.
pub(crate) fn root() -> bool {
    sys!(SYS_geteuid) == Ok(0)
}

/// The caller's effective capabilities.
pub(crate) fn caps() -> u64 {
    let mut d = [0u32; 6];
    ok!(SYS_capget, &[0x2008_0522u32, 0], &mut d);
    u64::from(d[0]) | u64::from(d[3]) << 32
}

/// Skips the case unless the capability is effective.
pub(crate) fn need_cap(cap: u32) {
    if caps() & (1 << cap) == 0 {
        skip!("needs capability {cap}");
    }
}

/// Skips the case when the caller is privileged: it is about what others may not do.
pub(crate) fn need_unprivileged() {
    if !root() {
        return;
    }
    need_cap(CAP_SETUID);
    need_cap(CAP_SETGID);
    ok!(SYS_chmod, c".", 0o777);
    ok!(SYS_setgroups, 0, 0);
    ok!(SYS_setresgid, 65534, 65534, 65534);
    ok!(SYS_setresuid, 65534, 65534, 65534);
}

pub(crate) const CAP_CHOWN: u32 = 0;
pub(crate) const CAP_SETGID: u32 = 6;
pub(crate) const CAP_SETUID: u32 = 7;
pub(crate) const CAP_SYS_CHROOT: u32 = 18;

/// Metadata of a path, links not followed.
#[track_caller]
pub(crate) fn lstat(path: &CStr) -> libc::stat {
    // SAFETY: all-zero is a valid stat.
    let mut st: libc::stat = unsafe { std::mem::zeroed() };
    ok!(SYS_newfstatat, libc::AT_FDCWD, path, &mut st, libc::AT_SYMLINK_NOFOLLOW);
    st
}

/// Metadata of an open file.
#[track_caller]
pub(crate) fn fstat(fd: i32) -> libc::stat {
    // SAFETY: all-zero is a valid stat.
    let mut st: libc::stat = unsafe { std::mem::zeroed() };
    ok!(SYS_fstat, fd, &mut st);
    st
}

/// All-zero values of plain C structures.
pub(crate) fn zeroed<T: Copy>() -> T {
    // SAFETY: used with plain C structures of integers and raw pointers only.
    unsafe { std::mem::zeroed() }
}

/// Whether poll reports one of `events` on the descriptor within `timeout` ms; the events.
#[track_caller]
pub(crate) fn poll(fd: i32, events: i16, timeout: i32) -> i16 {
    let mut p = libc::pollfd { fd, events, revents: 0 };
    ok!(SYS_poll, &mut p, 1, timeout);
    p.revents
}
