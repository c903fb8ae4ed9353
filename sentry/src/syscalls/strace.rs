//! `--strace`: prints system calls with decoded arguments and results, as strace(1) does.
//!
//! Arguments that the call reads are decoded before it runs, buffers that it fills afterwards. One
//! line, one write, so lines of different tasks do not mix.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;

use abi::Errno;

use super::{Arg, Args, Entry, LIMIT, SysResult, TABLE};
use crate::kernel::Current;

/// Bytes of a buffer or string that are shown.
const SHOWN: usize = 32;

/// Which calls are printed, and where to.
pub struct Strace {
    enabled: [bool; LIMIT],
    sink: File,
}

/// A call whose arguments were decoded, and that is running.
pub struct Pending {
    line: String,
    /// The kind and place of arguments that can only be shown afterwards.
    late: Vec<usize>,
    fields: Vec<String>,
}

impl Strace {
    /// Prints the calls in `names` (all if empty) to `sink`. Fails with the first unknown name.
    pub fn new(names: &[String], sink: File) -> Result<Strace, String> {
        let mut enabled = [names.is_empty(); LIMIT];
        for name in names {
            let entry = TABLE
                .iter()
                .find(|e| e.name == name)
                .ok_or_else(|| format!("--strace: unknown system call '{name}'"))?;
            enabled[entry.nr as usize] = true;
        }
        Ok(Strace { enabled, sink })
    }

    /// Whether a call is printed.
    pub fn wants(&self, nr: u64) -> bool {
        usize::try_from(nr).ok().and_then(|nr| self.enabled.get(nr)).copied().unwrap_or(true)
    }

    /// Decodes what can be known before the call runs.
    pub fn enter(&self, cur: &Current, nr: u64, entry: Option<&Entry>, args: &Args) -> Pending {
        let mut line = format!("[{:>5}] ", cur.tid());
        let (mut late, mut fields) = (Vec::new(), Vec::new());
        match entry {
            None => {
                let _ = write!(line, "syscall_{nr:#x}(");
                fields = args.0.iter().map(|a| format!("{a:#x}")).collect();
            }
            Some(entry) => {
                let _ = write!(line, "{}(", entry.name);
                for (i, &(_, kind)) in entry.args.iter().enumerate() {
                    if kind == Arg::OutBuf {
                        late.push(i);
                        fields.push(String::new());
                    } else {
                        let next = args.0.get(i + 1).copied().unwrap_or(0);
                        fields.push(decode(cur, kind, args.u64(i), next));
                    }
                }
            }
        }
        Pending { line, late, fields }
    }

    /// Prints the finished call.
    pub fn exit(&self, cur: &Current, mut pending: Pending, args: &Args, result: &SysResult) {
        for &i in &pending.late {
            pending.fields[i] = match result {
                Ok(n) => buffer(cur, args.u64(i), *n as usize),
                Err(_) => pointer(args.u64(i)),
            };
        }
        let mut line = pending.line;
        let _ = write!(line, "{}) = ", pending.fields.join(", "));
        let _ = match result {
            Ok(value) if *value > 0xffff_ffff => write!(line, "{value:#x}"),
            Ok(value) => write!(line, "{}", *value as i64),
            Err(e) if e.is_restart() => write!(line, "? {} ({})", e.name(), e.message()),
            Err(e) => write!(line, "-1 {} ({})", e.name(), e.message()),
        };
        self.print(line);
    }

    /// Prints a call that does not return: exit, a successful execve.
    pub fn no_return(&self, pending: Pending) {
        self.print(format!("{}{}) = ?", pending.line, pending.fields.join(", ")));
    }

    /// Prints a signal's delivery.
    pub fn signal(&self, tid: i32, text: &str) {
        self.print(format!("[{tid:>5}] --- {text} ---"));
    }

    fn print(&self, mut line: String) {
        line.push('\n');
        // Losing a trace line must not change what the guest sees.
        let _ = (&self.sink).write_all(line.as_bytes());
    }
}

/// An argument, as the call finds it.
pub(crate) fn decode(cur: &Current, kind: Arg, value: u64, next: u64) -> String {
    match kind {
        Arg::Fd | Arg::Int => format!("{}", value as i32 as i64),
        Arg::AtFd if value as i32 == libc::AT_FDCWD => "AT_FDCWD".into(),
        Arg::AtFd => format!("{}", value as i32),
        Arg::Uint => format!("{}", value as u32),
        Arg::Size => format!("{value}"),
        Arg::Mode | Arg::Oct => format!("{:#o}", value as u32),
        Arg::Path | Arg::Str => string(cur, value),
        Arg::InBuf => buffer(cur, value, next as usize),
        Arg::OpenFlags => open_flags(value as u32),
        Arg::AtFlags => names(value, AT_FLAGS),
        Arg::CloneFlags => names(value & !0xff, CLONE_FLAGS) + &signal_suffix(value & 0xff),
        Arg::Prot => names(value, PROT),
        Arg::MapFlags => names(value, MAP_FLAGS),
        Arg::Signal => signal_name(value as i32),
        Arg::SigSet => signal_set(cur, value),
        Arg::SigHow => choice(value, &["SIG_BLOCK", "SIG_UNBLOCK", "SIG_SETMASK"]),
        Arg::Whence => {
            choice(value, &["SEEK_SET", "SEEK_CUR", "SEEK_END", "SEEK_DATA", "SEEK_HOLE"])
        }
        Arg::Clock => choice(value, CLOCKS),
        Arg::Fcntl => choice(value, FCNTL),
        Arg::FutexOp => {
            let private = if value & 128 != 0 { "_PRIVATE" } else { "" };
            let realtime = if value & 256 != 0 { "|FUTEX_CLOCK_REALTIME" } else { "" };
            format!("{}{private}{realtime}", choice(value & !(128 | 256), FUTEX_OPS))
        }
        Arg::Timespec => timespec(cur, value),
        Arg::Ptr | Arg::OutBuf => pointer(value),
        Arg::Hex => format!("{value:#x}"),
    }
}

fn pointer(value: u64) -> String {
    if value == 0 { "NULL".into() } else { format!("{value:#x}") }
}

fn choice(value: u64, names: &[&str]) -> String {
    usize::try_from(value)
        .ok()
        .and_then(|i| names.get(i))
        .filter(|n| !n.is_empty())
        .map_or_else(|| format!("{value:#x}"), |n| (*n).to_owned())
}

fn names(value: u64, table: &[(u64, &str)]) -> String {
    let mut rest = value;
    let mut out = Vec::new();
    for &(bits, name) in table {
        if bits != 0 && rest & bits == bits {
            out.push(name.to_owned());
            rest &= !bits;
        }
    }
    if rest != 0 || out.is_empty() {
        let zero = table.iter().find(|t| t.0 == 0).filter(|_| rest == 0);
        out.push(zero.map_or_else(|| format!("{rest:#x}"), |t| t.1.to_owned()));
    }
    out.join("|")
}

fn open_flags(value: u32) -> String {
    let access = ["O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE"][(value & 3) as usize];
    let rest = u64::from(value & !3);
    if rest == 0 { access.into() } else { format!("{access}|{}", names(rest, OPEN_FLAGS)) }
}

fn signal_suffix(value: u64) -> String {
    if value == 0 { String::new() } else { format!("|{}", signal_name(value as i32)) }
}

/// `SIGINT` for 2.
pub fn signal_name(signo: i32) -> String {
    match signo {
        1..=31 => SIGNALS[signo as usize - 1].to_owned(),
        32..=64 => format!("SIGRT_{}", signo - 32),
        _ => format!("{signo}"),
    }
}

fn signal_set(cur: &Current, addr: u64) -> String {
    if addr == 0 {
        return "NULL".into();
    }
    match cur.mm.read_obj::<u64>(addr) {
        Err(_) => pointer(addr),
        Ok(set) => {
            let (prefix, shown) = if set.count_ones() > 32 { ("~", !set) } else { ("", set) };
            let list: Vec<_> = (1..=64)
                .filter(|n| shown >> (n - 1) & 1 == 1)
                .map(|n| signal_name(n).trim_start_matches("SIG").to_owned())
                .collect();
            format!("{prefix}[{}]", list.join(" "))
        }
    }
}

fn timespec(cur: &Current, addr: u64) -> String {
    if addr == 0 {
        return "NULL".into();
    }
    match cur.mm.read_obj::<[i64; 2]>(addr) {
        Ok([sec, nsec]) => format!("{{tv_sec={sec}, tv_nsec={nsec}}}"),
        Err(_) => pointer(addr),
    }
}

fn string(cur: &Current, addr: u64) -> String {
    if addr == 0 {
        return "NULL".into();
    }
    match cur.mm.copy_in_cstr(addr, crate::vfs::PATH_MAX) {
        Ok(bytes) => quote(&bytes, bytes.len()),
        Err(Errno::ENAMETOOLONG) => buffer(cur, addr, crate::vfs::PATH_MAX),
        Err(_) => pointer(addr),
    }
}

fn buffer(cur: &Current, addr: u64, len: usize) -> String {
    let mut bytes = [0u8; SHOWN];
    let want = len.min(SHOWN);
    let got = cur.mm.copy_in(addr, &mut bytes[..want]);
    if got < want { pointer(addr) } else { quote(&bytes[..got], len) }
}

/// A string or buffer of which there are `full` bytes.
pub(crate) fn quote(bytes: &[u8], full: usize) -> String {
    let mut out = String::from("\"");
    for &byte in bytes {
        let _ = match byte {
            b'"' => write!(out, "\\\""),
            b'\\' => write!(out, "\\\\"),
            b'\n' => write!(out, "\\n"),
            b'\r' => write!(out, "\\r"),
            b'\t' => write!(out, "\\t"),
            0x20..=0x7e => write!(out, "{}", byte as char),
            _ => write!(out, "\\x{byte:02x}"),
        };
    }
    out.push('"');
    if full > bytes.len() {
        out.push_str("...");
    }
    out
}

const SIGNALS: [&str; 31] = [
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

const CLOCKS: &[&str] = &[
    "CLOCK_REALTIME",
    "CLOCK_MONOTONIC",
    "CLOCK_PROCESS_CPUTIME_ID",
    "CLOCK_THREAD_CPUTIME_ID",
    "CLOCK_MONOTONIC_RAW",
    "CLOCK_REALTIME_COARSE",
    "CLOCK_MONOTONIC_COARSE",
    "CLOCK_BOOTTIME",
    "CLOCK_REALTIME_ALARM",
    "CLOCK_BOOTTIME_ALARM",
    "",
    "CLOCK_TAI",
];

const FCNTL: &[&str] = &[
    "F_DUPFD", "F_GETFD", "F_SETFD", "F_GETFL", "F_SETFL", "F_GETLK", "F_SETLK", "F_SETLKW",
    "F_SETOWN", "F_GETOWN", "F_SETSIG", "F_GETSIG",
];

const FUTEX_OPS: &[&str] = &[
    "FUTEX_WAIT",
    "FUTEX_WAKE",
    "FUTEX_FD",
    "FUTEX_REQUEUE",
    "FUTEX_CMP_REQUEUE",
    "FUTEX_WAKE_OP",
    "FUTEX_LOCK_PI",
    "FUTEX_UNLOCK_PI",
    "FUTEX_TRYLOCK_PI",
    "FUTEX_WAIT_BITSET",
    "FUTEX_WAKE_BITSET",
    "FUTEX_WAIT_REQUEUE_PI",
    "FUTEX_CMP_REQUEUE_PI",
    "FUTEX_LOCK_PI2",
];

const OPEN_FLAGS: &[(u64, &str)] = &[
    (0o20200000, "O_TMPFILE"),
    (0o4010000, "O_SYNC"),
    (0o100, "O_CREAT"),
    (0o200, "O_EXCL"),
    (0o400, "O_NOCTTY"),
    (0o1000, "O_TRUNC"),
    (0o2000, "O_APPEND"),
    (0o4000, "O_NONBLOCK"),
    (0o10000, "O_DSYNC"),
    (0o20000, "O_ASYNC"),
    (0o40000, "O_DIRECT"),
    (0o100000, "O_LARGEFILE"),
    (0o200000, "O_DIRECTORY"),
    (0o400000, "O_NOFOLLOW"),
    (0o1000000, "O_NOATIME"),
    (0o2000000, "O_CLOEXEC"),
    (0o10000000, "O_PATH"),
];

const AT_FLAGS: &[(u64, &str)] = &[
    (0, "0"),
    (0x100, "AT_SYMLINK_NOFOLLOW"),
    (0x200, "AT_REMOVEDIR"),
    (0x400, "AT_SYMLINK_FOLLOW"),
    (0x800, "AT_NO_AUTOMOUNT"),
    (0x1000, "AT_EMPTY_PATH"),
];

const PROT: &[(u64, &str)] = &[
    (0, "PROT_NONE"),
    (1, "PROT_READ"),
    (2, "PROT_WRITE"),
    (4, "PROT_EXEC"),
    (0x0100_0000, "PROT_GROWSDOWN"),
    (0x0200_0000, "PROT_GROWSUP"),
];

const MAP_FLAGS: &[(u64, &str)] = &[
    (3, "MAP_SHARED_VALIDATE"),
    (1, "MAP_SHARED"),
    (2, "MAP_PRIVATE"),
    (0x10, "MAP_FIXED"),
    (0x20, "MAP_ANONYMOUS"),
    (0x40, "MAP_32BIT"),
    (0x100, "MAP_GROWSDOWN"),
    (0x800, "MAP_DENYWRITE"),
    (0x2000, "MAP_LOCKED"),
    (0x4000, "MAP_NORESERVE"),
    (0x8000, "MAP_POPULATE"),
    (0x10000, "MAP_NONBLOCK"),
    (0x20000, "MAP_STACK"),
    (0x40000, "MAP_HUGETLB"),
    (0x10_0000, "MAP_FIXED_NOREPLACE"),
];

const CLONE_FLAGS: &[(u64, &str)] = &[
    (0, "0"),
    (0x100, "CLONE_VM"),
    (0x200, "CLONE_FS"),
    (0x400, "CLONE_FILES"),
    (0x800, "CLONE_SIGHAND"),
    (0x1000, "CLONE_PIDFD"),
    (0x2000, "CLONE_PTRACE"),
    (0x4000, "CLONE_VFORK"),
    (0x8000, "CLONE_PARENT"),
    (0x1_0000, "CLONE_THREAD"),
    (0x2_0000, "CLONE_NEWNS"),
    (0x4_0000, "CLONE_SYSVSEM"),
    (0x8_0000, "CLONE_SETTLS"),
    (0x10_0000, "CLONE_PARENT_SETTID"),
    (0x20_0000, "CLONE_CHILD_CLEARTID"),
    (0x80_0000, "CLONE_UNTRACED"),
    (0x100_0000, "CLONE_CHILD_SETTID"),
    (0x200_0000, "CLONE_NEWCGROUP"),
    (0x400_0000, "CLONE_NEWUTS"),
    (0x800_0000, "CLONE_NEWIPC"),
    (0x1000_0000, "CLONE_NEWUSER"),
    (0x2000_0000, "CLONE_NEWPID"),
    (0x4000_0000, "CLONE_NEWNET"),
    (0x8000_0000, "CLONE_IO"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_read_like_strace() {
        assert_eq!(open_flags(0o2000000), "O_RDONLY|O_CLOEXEC");
        assert_eq!(open_flags(0o1101), "O_WRONLY|O_CREAT|O_TRUNC");
        assert_eq!(names(3, PROT), "PROT_READ|PROT_WRITE");
        assert_eq!(names(0, PROT), "PROT_NONE");
        assert_eq!(names(0x22, MAP_FLAGS), "MAP_PRIVATE|MAP_ANONYMOUS");
        assert_eq!(signal_name(9), "SIGKILL");
        assert_eq!(quote(b"a\n\x01", 9), "\"a\\n\\x01\"...");
    }

    #[test]
    fn unknown_names_are_refused() {
        let sink = || File::open("/dev/null").unwrap();
        let error = Strace::new(&["opne".into()], sink()).err().unwrap();
        assert!(error.contains("'opne'"));
        let strace = Strace::new(&["read".into()], sink()).unwrap();
        assert!(strace.wants(0) && !strace.wants(1));
    }
}
