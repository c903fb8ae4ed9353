//! A taken-over Sentry talks to the launcher, or does not: whatever it does there, the launcher ends
//! the sandbox with a clear word, in time, and the audit says so.

use std::process::Command;
use std::time::{Duration, Instant};

use rsentry_tests::{Inside, Lag, Sandboxes, wait};
use serde_json::Value;

use super::{HEADER, TEXT};

/// The Sentry's end of the channel.
const CONTROL: u64 = 3;
/// Longest packet that the launcher takes.
const MAX_PACKET: usize = 16 * 1024;

/// Sends one packet to the launcher, with copies of that descriptor.
fn say(inside: &mut Inside, packet: &[u8], fds: &[u32]) {
    let text = inside.put(TEXT, packet);
    let part = inside.put_words(0x10000, &[text, packet.len() as u64]);
    let mut header = [0, 0, part, 1, 0, 0, 0];
    if !fds.is_empty() {
        let size = 16 + 4 * fds.len() as u64;
        // SOL_SOCKET, SCM_RIGHTS.
        let mut rights = [size.to_le_bytes(), (1u64 | 1 << 32).to_le_bytes()].concat();
        rights.extend(fds.iter().flat_map(|fd| fd.to_le_bytes()));
        header[4] = inside.put(0x11000, &rights);
        header[5] = size.next_multiple_of(8);
    }
    let header = inside.put_words(HEADER + 0x8000, &header);
    // It may be killed before it can tell the result.
    drop(inside.try_call(libc::SYS_sendmsg, &[CONTROL, header, 0]));
}

/// Not later than that, but for the time that the machine had none for anybody.
#[track_caller]
fn assert_prompt(start: Instant, within: Duration, lag: Lag, what: &str) {
    let (took, lag) = (start.elapsed(), lag.total());
    assert!(took < within + lag, "{what}: {took:?} ({lag:?} late)");
}

#[test]
fn the_launcher_bears_no_nonsense() {
    let sandboxes = Sandboxes::compromised("auto");
    let started = br#"{"started":{"platform":"notify"}}"#;
    let failed = br#"{"failed":{"code":0,"message":"\u001b[2Jfine"}}"#;
    let huge = vec![b' '; MAX_PACKET + 1];
    let deep = vec![b'['; MAX_PACKET];
    let forged = br#"{"exited":{"status":{"code":256},"cause":"exit","usage":{}}}"#;
    let words: [(&[u8], &[u32], &str); 10] = [
        (started, &[], "the sentry said that the program was started, again"),
        (started, &[0; 253], "the sentry said that the program was started, again"),
        (failed, &[], "the sentry said that the start had failed, later"),
        (br#""suspended""#, &[], "the sentry said that it was suspended, unasked"),
        (b"", &[], "the sentry sent nonsense: empty"),
        (&started[..20], &[], "the sentry sent nonsense"),
        (&huge, &[], "the sentry sent nonsense: control packet too long"),
        (&deep, &[], "the sentry sent nonsense"),
        (forged, &[], "the sentry sent nonsense"),
        (br#"{"kill":1}"#, &[1, 2], "the sentry sent nonsense: unknown variant"),
    ];
    for (packet, fds, expected) in words {
        let mut inside = Inside::running(&sandboxes, false, "sentry");
        let (start, lag) = (Instant::now(), Lag::watch());
        say(&mut inside, packet, fds);
        let complaint = inside.complaint();
        assert!(complaint.contains(expected), "{complaint}");
        assert!(!complaint.contains("panicked") && !complaint.contains('\x1b'), "{complaint}");
        assert_prompt(start, Duration::from_secs(10), lag, expected);
    }
    sandboxes.assert_nothing_left();
}

/// It hangs up on everybody and lives on.
#[test]
fn the_launcher_ends_who_hangs_up() {
    for process in ["sentry", "gofer"] {
        let sandboxes = Sandboxes::compromised("auto");
        let mut inside = Inside::running(&sandboxes, false, process);
        let (start, lag) = (Instant::now(), Lag::watch());
        for fd in 3..512u64 {
            // Not the test's own, which answers.
            let name = inside.call(libc::SYS_fcntl, &[fd, libc::F_GETFD as u64]);
            if name >= 0
                && !is_hooks(&mut inside, fd)
                && inside.try_call(libc::SYS_close, &[fd]).is_err()
            {
                break;
            }
        }
        let complaint = inside.complaint();
        assert!(complaint.contains(process) || complaint.contains("gofer"), "{complaint}");
        assert_prompt(start, Duration::from_secs(20), lag, process);
        sandboxes.assert_nothing_left();
    }
}

/// The only stream socket is the test's.
fn is_hooks(inside: &mut Inside, fd: u64) -> bool {
    let value = inside.scratch + 0x12000;
    let length = inside.put_words(0x12100, &[4]);
    let arguments = [fd, libc::SOL_SOCKET as u64, libc::SO_TYPE as u64, value, length];
    match inside.try_call(libc::SYS_getsockopt, &arguments) {
        Ok(0) => inside.get(value, 4) == libc::SOCK_STREAM.to_le_bytes(),
        _ => false,
    }
}

/// It reads nothing, while the caller has much to say: the time limit holds.
#[test]
fn a_deaf_sentry_cannot_hold_the_launcher_up() {
    let sandboxes = Sandboxes::new();
    let mut command = sandboxes.command(&["run", "--wall=2", "sh", "-c", "echo up; sleep 100"]);
    let mut launcher = command.spawn().expect("rsentry starts");
    let mut up = [0; 3];
    std::io::Read::read_exact(launcher.stdout.as_mut().expect("a pipe"), &mut up).expect("up");
    let (start, lag) = (Instant::now(), Lag::watch());
    let children = rsentry_tests::Process::children(launcher.id());
    assert!(children.len() >= 2);
    for child in children {
        // SAFETY: processes of our own sandbox; a signal has no other arguments.
        assert_eq!(unsafe { libc::kill(child.pid as i32, libc::SIGSTOP) }, 0);
    }
    // More than the channel takes, whatever its size.
    while start.elapsed() < Duration::from_secs(1) {
        for signo in [libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM, libc::SIGHUP] {
            // SAFETY: as above.
            unsafe { libc::kill(launcher.id() as i32, signo) };
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    let status = wait(&mut launcher);
    assert_eq!(status.code(), Some(124));
    assert_prompt(start, Duration::from_secs(10), lag, "deaf");
    sandboxes.assert_nothing_left();
}

/// The records of an audit.
fn records(sandboxes: &Sandboxes, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(sandboxes.work().join(name)).expect("an audit");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// With the audit and a command for alerts; whatever `deed` does is a violation of that process.
fn violation(process: &str, deed: impl Fn(&mut Inside), expected: &str) {
    let sandboxes = Sandboxes::compromised("auto");
    let options = ["--audit=audit", "--on-alert=log", "--on-alert=exec:cat >> alerts"];
    let arguments: Vec<&str> = ["run"]
        .into_iter()
        .chain(options)
        .chain(["--", "sh", "-c", "echo ready; exec cat"])
        .collect();
    let command: Command = sandboxes.command(&arguments);
    let mut inside = Inside::ready(command, process);
    deed(&mut inside);
    let complaint = inside.complaint();
    assert!(complaint.contains("alert: violation"), "{complaint}");
    let records = records(&sandboxes, "audit");
    let kinds: Vec<&str> = records.iter().filter_map(|record| record["kind"].as_str()).collect();
    let [.., "violation", "end"] = kinds[..] else { panic!("{kinds:?}") };
    let violation = &records[records.len() - 2];
    assert_eq!(violation["alert"], true, "{violation}");
    assert!(violation["what"].as_str().is_some_and(|what| what.contains(expected)), "{violation}");
    assert_eq!(records[records.len() - 1]["outcome"], "125");
    let alerts = self::records(&sandboxes, "alerts");
    assert_eq!(&alerts[..], std::slice::from_ref(violation), "the command got the same line");
    sandboxes.assert_nothing_left();
}

/// A process that dies of its filter is in the audit, and in the alert.
#[test]
fn the_audit_tells_of_violations() {
    let execve = |inside: &mut Inside| drop(inside.try_call(libc::SYS_execve, &[]));
    violation("sentry", execve, "the sentry was killed: it made a host call");
    violation("gofer", execve, "the gofer was killed: it made a host call");
    let nonsense = |inside: &mut Inside| say(inside, b"{}", &[]);
    violation("sentry", nonsense, "the sentry sent nonsense");
}
