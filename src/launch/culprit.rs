//! Which host call a process was killed for.
//!
//! The kernel tells nobody but its log: a process that dies of `SECCOMP_RET_KILL_PROCESS` leaves a
//! SIGSYS without the `si_syscall` that a handler would see, no core, and a `/proc/PID/syscall` that
//! is empty by the time it is a zombie. A handler or a notification in place of the kill would give
//! a taken-over process time to go on. So the log is read if the caller may read it, which is a
//! matter of `kernel.dmesg_restrict` and of no audit daemon taking the line first.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long the line may take from the kernel's audit thread to its log.
const PATIENCE: Duration = Duration::from_millis(30);
/// Longest record of `/dev/kmsg` (`CONSOLE_EXT_LOG_MAX`).
const RECORD: usize = 8192;
/// `AUDIT_ARCH_X86_64`.
const X86_64: &str = "c000003e";
/// `__X32_SYSCALL_BIT`.
const X32: u64 = 0x4000_0000;

/// The kernel's log, from some moment on.
pub(super) struct Log(File);

impl Log {
    /// What is logged from now on, if the caller may read it.
    pub(super) fn from_now_on() -> Option<Log> {
        let options = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).clone();
        let mut log = options.open("/dev/kmsg").ok()?;
        log.seek(SeekFrom::End(0)).ok()?;
        Some(Log(log))
    }

    /// Name or number of the call that process `pid` was killed for, if the log tells.
    pub(super) fn find(&self, pid: i32) -> Option<String> {
        find(&self.0, pid)
    }
}

fn find(mut log: &File, pid: i32) -> Option<String> {
    let end = Instant::now() + PATIENCE;
    let mut found = None;
    loop {
        while let Some(record) = next(&mut log) {
            // The last one: process ids come round again.
            found = parse(&record, pid).or(found);
        }
        let left = end.saturating_duration_since(Instant::now());
        if found.is_some() || left.is_zero() {
            return found;
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        poll(&mut [PollFd::new(log.as_fd(), PollFlags::POLLIN)], timeout).ok()?;
    }
}

/// The next record, or `None` at the end for now.
fn next(log: &mut &File) -> Option<String> {
    let mut record = [0; RECORD];
    loop {
        match log.read(&mut record) {
            Ok(length) => {
                return Some(String::from_utf8_lossy(record.get(..length)?).into_owned());
            }
            // Overwritten while we read.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(_) => return None,
        }
    }
}

/// A `SECCOMP` record (1326) about that process.
fn parse(record: &str, pid: i32) -> Option<String> {
    if !record.contains("type=1326 ") {
        return None;
    }
    // What a process calls itself may look like other fields; it stands between quotation marks.
    let (before, rest) = record.split_once(" comm=")?;
    let (_, after) = rest.split_once(" sig=")?;
    let field = |text: &str, name: &str| {
        text.split_whitespace().find_map(|word| word.strip_prefix(name).map(str::to_owned))
    };
    if field(before, "pid=")?.parse() != Ok(pid) {
        return None;
    }
    let number: u64 = field(after, "syscall=")?.parse().ok()?;
    if field(after, "arch=")? != X86_64 {
        return Some(format!("32-bit call {number}"));
    }
    if number & X32 != 0 {
        return Some(format!("x32 call {}", number & !X32));
    }
    let entry = sentry::syscalls::entry(number);
    Some(entry.map_or_else(|| format!("call {number}"), |entry| entry.name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read() {
        let line = |comm: &str, pid: i32, arch: &str, call: u64| {
            format!(
                "5,1,2,-;audit: type=1326 audit(1.1:2): auid=4294967295 uid=0 gid=0 ses=1 \
                 pid={pid} comm={comm} exe=\"/x\" sig=31 arch={arch} syscall={call} compat=0 \
                 ip=0x1 code=0x80000000\n"
            )
        };
        let name = |line: &str| parse(line, 7);
        assert_eq!(name(&line("\"x\"", 7, X86_64, 59)).as_deref(), Some("execve"));
        assert_eq!(name(&line("\"x\"", 7, X86_64, 999)).as_deref(), Some("call 999"));
        assert_eq!(name(&line("\"x\"", 7, X86_64, X32 | 59)).as_deref(), Some("x32 call 59"));
        assert_eq!(name(&line("\"x\"", 7, "40000003", 11)).as_deref(), Some("32-bit call 11"));
        assert_eq!(name(&line("\"x\"", 8, X86_64, 59)), None);
        // The process names itself.
        let forged = line("\"a pid=7 syscall=0\"", 8, X86_64, 59);
        assert_eq!(name(&forged), None);
        for odd in ["", "type=1326 ", "type=1326 pid=7 comm=\"x\" sig=31 arch=c000003e syscall=x"] {
            assert_eq!(name(odd), None);
        }
    }
}
