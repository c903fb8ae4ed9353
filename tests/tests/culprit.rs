//! The launcher says which host call a process was killed for, where the kernel's log can be read.
//! A program of its own, because the kernel drops such lines when there are many at a time.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Instant;

use rsentry_tests::{Inside, PATIENCE, Sandboxes};

#[test]
fn the_call_is_named() {
    let log = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg");
    let logged = std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_logged");
    if log.is_err() || !logged.is_ok_and(|actions| actions.contains("kill_process")) {
        eprintln!("skipped: the kernel's log cannot be read, or has no such lines");
        return;
    }
    let sandboxes = Sandboxes::compromised("auto");
    let start = Instant::now();
    loop {
        let mut inside = Inside::early(sandboxes.command(&["run", "--", "cat"]), "sentry");
        assert!(inside.try_call(libc::SYS_execve, &[]).is_err());
        let complaint = inside.complaint();
        if complaint.contains("it made a host call (execve) that is not on its seccomp") {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "never named: {complaint}");
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    sandboxes.assert_nothing_left();
}
