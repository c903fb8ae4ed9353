//! System calls as records.
//!
//! What names the thing that is recorded (a program, an address) is read before the call runs. Other
//! arguments are decoded afterwards, and only if there is a record to make: a guest with several
//! threads can change what they point to meanwhile. What the kernel acted on, it read itself.

use abi::Errno;

use super::address;
use super::class::{self, Class};
use super::record::{Kind, Record, cut};
use super::{Audit, MAX_KNOWN, subject};
use crate::kernel::{Credentials, Current};
use crate::syscalls::{self, Args, SysResult, strace};

/// How many arguments of a program are told.
const MAX_ARGV: u64 = 16;
/// Longest argument of a program that is told, in bytes.
const MAX_ARGUMENT: usize = 64;
/// Requests for more memory than addresses have room for fail everywhere.
const ADDRESS_SPACE: u64 = 1 << 46;

/// What was read before the call.
pub struct Pending {
    what: String,
}

impl Audit {
    /// Before a call: reads what it may change or take away.
    pub fn enter(&self, cur: &Current, nr: u64, args: &Args) -> Option<Pending> {
        let what = match class::class(nr & 0xffff_ffff) {
            Class::Exec { path } => program(cur, args, usize::from(path)),
            Class::Connect | Class::Bind => socket_address(cur, args.u64(1), args.uint(2)),
            Class::SendTo if args.u64(4) != 0 => socket_address(cur, args.u64(4), args.uint(5)),
            _ => return None,
        };
        Some(Pending { what })
    }

    /// After a call.
    pub fn exit(
        &self,
        cur: &Current,
        nr: u64,
        args: &Args,
        pending: Option<Pending>,
        result: &SysResult,
    ) {
        // It will be made again, or has been given up with its task.
        if result.is_err_and(Errno::is_restart) {
            return;
        }
        let nr = nr & 0xffff_ffff;
        let Some((mut kind, what)) = judge(cur, nr, args, result) else { return };
        if kind == Kind::Unsupported && !self.is_news(nr) {
            return;
        }
        let what = match pending {
            Some(pending) if what.is_empty() => pending.what,
            _ => what,
        };
        let socket = what.strip_prefix("unix:").filter(|_| kind == Kind::Connect);
        if result.is_err() && socket.is_some_and(|path| class::is_host_path(path.as_bytes())) {
            kind = Kind::Escape;
        }
        let entry = syscalls::entry(nr);
        let args = match entry {
            Some(entry) => {
                let named = entry.args.iter().enumerate();
                let shown = named.map(|(i, &(name, kind))| {
                    let next = args.0.get(i + 1).copied().unwrap_or(0);
                    (name.to_owned(), cut(strace::decode(cur, kind, args.u64(i), next)))
                });
                // The new program's memory says nothing about the old one's arguments.
                if kind == Kind::Exec && result.is_ok() { Vec::new() } else { shown.collect() }
            }
            None => Vec::new(),
        };
        let record = Record {
            subject: Some(subject(cur)),
            call: entry.map_or_else(|| format!("syscall_{nr:#x}"), |entry| entry.name.to_owned()),
            args,
            outcome: match result {
                Ok(value) => (*value as i64).to_string(),
                Err(errno) => errno.name().to_owned(),
            },
            what: cut(what),
            ..Record::of(kind)
        };
        self.send(record);
    }

    /// Whether this unsupported call is the first of its number. C libraries make the same few at
    /// the start of every program.
    fn is_news(&self, nr: u64) -> bool {
        let mut known = self.known.lock();
        known.len() < MAX_KNOWN && known.insert(nr)
    }
}

/// What kind of record a call is worth, and what is to be said about it.
fn judge(cur: &Current, nr: u64, args: &Args, result: &SysResult) -> Option<(Kind, String)> {
    let errno = result.as_ref().err().copied();
    let refused =
        matches!(errno, Some(Errno::EPERM | Errno::EACCES | Errno::ENOSYS | Errno::EINVAL));
    let escape = |what: &str| Some((Kind::Escape, what.to_owned()));
    let special = match class::class(nr) {
        Class::Plain | Class::Fork => None,
        Class::Exec { .. } => {
            let missing = matches!(errno, Some(Errno::ENOENT | Errno::ENOTDIR));
            return (!missing).then(|| (Kind::Exec, String::new()));
        }
        Class::Credentials => Some((Kind::Credentials, describe(&cur.cred()))),
        Class::Prctl => class::changes_capabilities(args.int(0))
            .then(|| (Kind::Credentials, describe(&cur.cred()))),
        Class::Connect => Some((Kind::Connect, String::new())),
        Class::SendTo => (args.u64(4) != 0).then(|| (Kind::Connect, String::new())),
        Class::Bind => Some((Kind::Bind, String::new())),
        Class::Mount if refused => escape("mount"),
        Class::Mount => result.is_ok().then(|| (Kind::Mount, String::new())),
        Class::Escape(what) => escape(what),
        Class::EscapeIfRefused(what) => refused.then(|| escape(what)).flatten(),
        Class::Namespaces { flags } => (args.u64(usize::from(flags)) & class::NEW_NAMESPACES != 0)
            .then(|| escape("namespace"))
            .flatten(),
        Class::Clone3 => {
            let flags = cur.mm.read_obj::<u64>(args.u64(0)).unwrap_or(0);
            (flags & class::NEW_NAMESPACES != 0).then(|| escape("namespace")).flatten()
        }
        Class::Socket => class::socket_escape(args.int(0), args.int(1)).and_then(escape),
        Class::Ptrace => {
            const TRACEME: u64 = 0;
            (refused && args.u64(0) != TRACEME).then(|| escape("ptrace")).flatten()
        }
        Class::Mknod { mode } => {
            let kind = args.uint(usize::from(mode)) & libc::S_IFMT;
            let device = matches!(kind, libc::S_IFCHR | libc::S_IFBLK);
            (device && refused).then(|| escape("device")).flatten()
        }
        Class::Ioctl => {
            class::is_terminal_input(args.uint(1)).then(|| escape("terminal-input")).flatten()
        }
        Class::Path { path } => errno.is_some().then(|| host_path(cur, args, path)).flatten(),
        Class::Memory { length } => {
            let possible = args.u64(usize::from(length)) < ADDRESS_SPACE;
            (possible && errno == Some(Errno::ENOMEM)).then(|| (Kind::Limit, "memory".to_owned()))
        }
    };
    special.or_else(|| failure(nr, errno?))
}

/// What a failed call of no special class is worth.
fn failure(nr: u64, errno: Errno) -> Option<(Kind, String)> {
    let makes_tasks =
        matches!(class::class(nr), Class::Fork | Class::Clone3 | Class::Namespaces { .. });
    const MAKES_IPC: [i64; 4] =
        [libc::SYS_shmget, libc::SYS_semget, libc::SYS_msgget, libc::SYS_mq_open];
    let limit = match errno {
        Errno::EMFILE | Errno::ENFILE => "files",
        Errno::ENOSPC if MAKES_IPC.contains(&(nr as i64)) => "ipc",
        Errno::ENOSPC | Errno::EDQUOT => "disk",
        Errno::EAGAIN if makes_tasks => "pids",
        Errno::ENOMEM if makes_tasks => "memory",
        Errno::EPERM | Errno::EACCES => return Some((Kind::Denied, String::new())),
        // Of calls that exist, ENOSYS is about what they were asked.
        Errno::ENOSYS if syscalls::entry(nr).is_none_or(|entry| entry.handler.is_none()) => {
            return Some((Kind::Unsupported, String::new()));
        }
        _ => return None,
    };
    Some((Kind::Limit, limit.to_owned()))
}

fn host_path(cur: &Current, args: &Args, path: u8) -> Option<(Kind, String)> {
    let addr = args.u64(usize::from(path));
    let path = cur.mm.copy_in_cstr(addr, crate::vfs::PATH_MAX).ok()?;
    class::is_host_path(&path).then(|| (Kind::Escape, "host-file".to_owned()))
}

/// Ids and capabilities as they are now.
fn describe(cred: &Credentials) -> String {
    let Credentials { uid, euid, suid, fsuid, gid, egid, sgid, fsgid, .. } = cred;
    let groups: Vec<String> = cred.groups.iter().take(8).map(u32::to_string).collect();
    let more = if cred.groups.len() > groups.len() { ",..." } else { "" };
    format!(
        "uid={uid}/{euid}/{suid}/{fsuid} gid={gid}/{egid}/{sgid}/{fsgid} groups={}{more} \
         permitted={:#x} effective={:#x} bounding={:#x} ambient={:#x} no_new_privs={}",
        groups.join(","),
        cred.permitted.bits(),
        cred.effective.bits(),
        cred.bounding.bits(),
        cred.ambient.bits(),
        u8::from(cred.no_new_privs),
    )
}

/// A program and its arguments, quoted.
fn program(cur: &Current, args: &Args, path: usize) -> String {
    let mut text = quoted(cur, args.u64(path), crate::vfs::PATH_MAX);
    let argv = args.u64(path + 1);
    for i in 0..MAX_ARGV {
        let pointer = argv.checked_add(i * 8).map(|at| cur.mm.read_obj::<u64>(at));
        let Some(Ok(pointer)) = pointer else { break };
        if pointer == 0 {
            return text;
        }
        text.push(' ');
        text.push_str(&quoted(cur, pointer, MAX_ARGUMENT));
    }
    text + " ..."
}

fn quoted(cur: &Current, addr: u64, max: usize) -> String {
    let mut bytes = vec![0; max];
    let got = cur.mm.copy_in(addr, &mut bytes);
    let bytes = bytes.get(..got).unwrap_or_default();
    match bytes.iter().position(|&byte| byte == 0) {
        Some(end) => strace::quote(bytes.get(..end).unwrap_or_default(), end),
        None => strace::quote(bytes, usize::MAX),
    }
}

fn socket_address(cur: &Current, addr: u64, length: u32) -> String {
    let mut bytes = [0; address::MAX_ADDRESS];
    let length = (length as usize).min(bytes.len());
    let got = cur.mm.copy_in(addr, &mut bytes[..length]);
    address::describe(bytes.get(..got).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_limits_denials_or_missing_calls() {
        let kind = |nr: i64, errno| failure(nr as u64, errno);
        let limit = |name: &str| Some((Kind::Limit, name.to_owned()));
        assert_eq!(kind(libc::SYS_openat, Errno::EMFILE), limit("files"));
        assert_eq!(kind(libc::SYS_write, Errno::ENOSPC), limit("disk"));
        assert_eq!(kind(libc::SYS_semget, Errno::ENOSPC), limit("ipc"));
        assert_eq!(kind(libc::SYS_fork, Errno::EAGAIN), limit("pids"));
        assert_eq!(kind(libc::SYS_read, Errno::EAGAIN), None);
        assert_eq!(kind(libc::SYS_unlink, Errno::EACCES), Some((Kind::Denied, String::new())));
        let missing = Some((Kind::Unsupported, String::new()));
        let without = (0..500)
            .find(|&nr| crate::syscalls::entry(nr).is_some_and(|entry| entry.handler.is_none()));
        assert_eq!(without.map(|nr| kind(nr as i64, Errno::ENOSYS)), Some(missing.clone()));
        assert_eq!(kind(9999, Errno::ENOSYS), missing);
        assert_eq!(kind(libc::SYS_read, Errno::ENOSYS), None);
        assert_eq!(kind(libc::SYS_read, Errno::EBADF), None);
    }
}
