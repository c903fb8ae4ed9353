//! Hosts that lack what the `notify` platform likes: `rsentry` runs where a filter refuses it. Each
//! run works, on the platform that is left, and the log says which one that is, and why.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Output;

use rsentry_tests::{Sandboxes, finish, text};

/// `SECCOMP_IOCTL_NOTIF_SET_FLAGS`.
const SET_FLAGS: u32 = 0x4008_2104;
/// `personality(2)`: uname tells of Linux 2.6.
const UNAME26: libc::c_ulong = 0x0002_0000;

/// What a call is like that the host refuses.
#[derive(Clone, Copy)]
struct Refusal {
    call: i64,
    /// Which argument is looked at: number, the bits that count, and what they are to be.
    argument: (u32, u32, u32),
    errno: i32,
}

const NOTIFICATION: Refusal = Refusal {
    call: libc::SYS_seccomp,
    // SECCOMP_GET_ACTION_AVAIL
    argument: (0, u32::MAX, 2),
    errno: libc::EOPNOTSUPP,
};
const KILLABLE: Refusal = Refusal {
    call: libc::SYS_seccomp,
    argument: (1, libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV as u32, 1 << 5),
    errno: libc::EINVAL,
};
/// As where somebody has a listener already.
const LISTENER: Refusal = Refusal {
    call: libc::SYS_seccomp,
    argument: (1, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32, 1 << 3),
    errno: libc::EBUSY,
};
const SYNC_WAKE_UP: Refusal =
    Refusal { call: libc::SYS_ioctl, argument: (1, u32::MAX, SET_FLAGS), errno: libc::EINVAL };
const PTRACE: Refusal = Refusal { call: libc::SYS_ptrace, argument: (0, 0, 0), errno: libc::EPERM };

/// A filter that refuses this.
fn filter(refusals: &[Refusal]) -> Vec<libc::sock_filter> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let op = |code, k, jf| libc::sock_filter { code, jt: 0, jf, k };
    let mut filter = Vec::new();
    for &Refusal { call, argument: (number, mask, value), errno } in refusals {
        // Offsets in `struct seccomp_data`.
        filter.extend([
            op(LOAD, 0, 0),
            op(EQUAL, call as u32, 4),
            op(LOAD, 16 + 8 * number, 0),
            op(AND, mask, 0),
            op(EQUAL, value, 1),
            op(RETURN, libc::SECCOMP_RET_ERRNO | errno as u32, 0),
        ]);
    }
    filter.push(op(RETURN, libc::SECCOMP_RET_ALLOW, 0));
    filter
}

/// Gives the calling process a filter.
fn install(filter: &mut [libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program is live and as long as it says.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                0,
                &raw const program,
            ) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Runs a small program where the host refuses this; also says what the log says of the choice.
fn run(platform: &str, refusals: &'static [Refusal], old_name: bool) -> (Output, String) {
    const PROGRAM: &str = "for i in 1 2 3; do echo $(echo $i); done | cat; kill -0 $$";
    let sandboxes = Sandboxes::new();
    let arguments = ["run", "--platform", platform, "--log", "log", "--", "sh", "-c", PROGRAM];
    let mut command = sandboxes.command(&arguments);
    let mut filter = filter(refusals);
    // SAFETY: plain calls, on data that is there already.
    unsafe {
        command.pre_exec(move || {
            if old_name && libc::personality(UNAME26) == -1 {
                return Err(io::Error::last_os_error());
            }
            install(&mut filter)
        });
    }
    let output = finish(command);
    sandboxes.assert_nothing_left();
    let log = std::fs::read_to_string(sandboxes.work().join("log")).unwrap_or_default();
    let chosen = log.lines().find(|line| line.contains("platform chosen")).unwrap_or_default();
    (output, chosen.into())
}

#[track_caller]
fn works(platform: &str, refusals: &'static [Refusal], old_name: bool, says: &[&str]) {
    let (output, chosen) = run(platform, refusals, old_name);
    let story = format!("{}\n{}\n{chosen}", output.status, text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{story}");
    assert_eq!(text(&output.stdout), "1\n2\n3\n", "{story}");
    for part in says {
        assert!(chosen.contains(part), "{part} is not said: {story}");
    }
}

#[track_caller]
fn refused(platform: &str, refusals: &'static [Refusal], says: &[&str]) {
    let (output, _) = run(platform, refusals, false);
    let line = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{line}");
    assert_eq!(line.matches('\n').count(), 1, "{line}");
    for part in says {
        assert!(line.contains(part), "{part} is not said: {line}");
    }
}

#[test]
fn without_user_notification() {
    works("auto", &[NOTIFICATION], false, &["platform=\"ptrace\"", "seccomp user notification"]);
    refused("notify", &[NOTIFICATION], &["platform notify", "seccomp user notification"]);
}

#[test]
fn without_wait_killable() {
    works("auto", &[KILLABLE], false, &["platform=\"ptrace\"", "WAIT_KILLABLE_RECV"]);
    refused("notify", &[KILLABLE], &["platform notify", "WAIT_KILLABLE_RECV"]);
}

#[test]
fn where_somebody_listens_already() {
    works("auto", &[LISTENER], false, &["platform=\"ptrace\"", "listener"]);
    refused("notify", &[LISTENER], &["platform notify", "listener"]);
}

#[test]
fn without_sync_wake_up() {
    works("auto", &[SYNC_WAKE_UP], false, &["platform=\"ptrace\"", "SYNC_WAKE_UP"]);
    works("notify", &[SYNC_WAKE_UP], false, &["platform=\"notify\"", "no sync wake-up"]);
}

#[test]
fn without_ptrace() {
    works("auto", &[PTRACE], false, &["platform=\"notify\"", "fastest"]);
    refused("ptrace", &[PTRACE], &["platform ptrace"]);
    refused("auto", &[PTRACE, NOTIFICATION], &["platform notify", "platform ptrace"]);
}

/// Before 6.11, a listener that nobody can ring any more does not say so to who waits for a ring.
#[test]
fn where_listeners_must_be_polled() {
    for platform in ["auto", "notify"] {
        works(platform, &[], true, &["platform=\"notify\"", "polled listeners"]);
    }
    works("notify", &[SYNC_WAKE_UP], true, &["no sync wake-up", "polled listeners"]);
}
