//! Runs cases one after another, each in a process, session and directory of its own.
//!
//! One line a case on standard output: `begin NAME`, then
//! `end NAME STATUS OUT ERR` with the wait status (or `timeout`) and both outputs in hex.

use crate::helpers::bit;
use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What of a case's output is passed on.
const OUTPUT_MAX: usize = 64 * 1024;

/// Runs the cases below `dir`.
pub(crate) fn run(dir: &str, seconds: i64, names: &[&str]) {
    // SAFETY: plain signal-mask and umask calls.
    unsafe {
        let set = bit(libc::SIGCHLD);
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_BLOCK, &set, 0, 8);
        libc::umask(0o022);
    }
    for name in names {
        println!("begin {name}");
        let line = match one(Path::new(dir), seconds, name) {
            Ok(line) => line,
            Err(e) => format!("end {name} error - {}", hex(e.to_string().as_bytes())),
        };
        println!("{line}");
    }
}

fn one(dir: &Path, seconds: i64, name: &str) -> std::io::Result<String> {
    let place = dir.join(format!("case-{}-{}", std::process::id(), name.replace("::", "-")));
    let (out, err) = (place.join("out"), place.join("err"));
    let work = place.join("work");
    fs::create_dir_all(&work)?;
    let streams = [fs::File::open("/dev/null")?, fs::File::create(&out)?, fs::File::create(&err)?];
    let pid = start(name, &work, &streams)?;
    let status = wait(pid, seconds);
    // SAFETY: the case's own process group, which it leads: strays of it end here.
    unsafe { libc::kill(-pid, libc::SIGKILL) };
    let (out, err) = (fs::read(&out)?, fs::read(&err)?);
    let _ = std::io::stdout().flush();
    // Cases may leave unreadable directories; what stays goes with the whole directory.
    let _ = fs::remove_dir_all(&place);
    Ok(format!("end {name} {status} {} {}", hex(&out), hex(&err)))
}

/// Starts a case as a session of its own. By hand and not by the standard library, which uses more of
/// the kernel than has to work for most cases.
fn start(name: &str, work: &Path, streams: &[fs::File; 3]) -> std::io::Result<i32> {
    use std::os::unix::ffi::OsStringExt;
    // By the name it was started with: the runner's is absolute, and /proc may be what is broken.
    let program = std::env::args_os().next().unwrap_or_default().into_vec();
    let program = CString::new(program)?;
    let (name, work) = (CString::new(name)?, CString::new(work.as_os_str().as_bytes())?);
    let args = [program.as_ptr(), c"run".as_ptr(), name.as_ptr(), std::ptr::null()];
    // SAFETY: this process has one thread; the child makes system calls only, with pointers that
    // live, and leaves by exec or _exit.
    unsafe {
        let pid = libc::fork();
        if pid == -1 {
            return Err(std::io::Error::last_os_error());
        }
        if pid == 0 {
            libc::setsid();
            let none = 0u64;
            libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &none, 0, 8);
            // Dispositions that whoever started us ignores would be inherited.
            let default = [0usize; 4];
            for signal in 1..=64 {
                libc::syscall(libc::SYS_rt_sigaction, signal, &default, 0, 8);
            }
            for (fd, file) in (0..).zip(streams) {
                libc::dup2(file.as_raw_fd(), fd);
            }
            libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0);
            if libc::chdir(work.as_ptr()) == 0 {
                libc::execv(program.as_ptr(), args.as_ptr());
            }
            libc::_exit(2);
        }
        Ok(pid)
    }
}

fn wait(pid: i32, seconds: i64) -> String {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(seconds as u64);
    loop {
        let mut status = 0;
        // SAFETY: waiting for our own child with valid pointers; the mask holds SIGCHLD back.
        unsafe {
            let got = libc::waitpid(pid, &mut status, libc::WNOHANG);
            if got != 0 {
                return status.to_string();
            }
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                libc::kill(-pid, libc::SIGKILL);
                libc::kill(pid, libc::SIGKILL);
                libc::waitpid(pid, &mut status, 0);
                return "timeout".into();
            }
            let t = libc::timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let set = bit(libc::SIGCHLD);
            libc::syscall(libc::SYS_rt_sigtimedwait, &set, 0, &t, 8);
        }
    }
}

/// Bytes in hex; `-` for none, so that a field is never empty.
fn hex(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "-".into();
    }
    bytes.iter().take(OUTPUT_MAX).map(|b| format!("{b:02x}")).collect()
}
