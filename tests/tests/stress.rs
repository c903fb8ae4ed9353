//! Storms of signals, processes, threads, mappings and faults: natively, then on every platform,
//! with all CPUs and with one. Each checks its own results; see `src/guest.rs`.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use rsentry_tests::{Sandboxes, finish, text};
use syscall_conformance::build;

/// The guest program of this build.
fn guest() -> &'static Path {
    static GUEST: OnceLock<std::path::PathBuf> = OnceLock::new();
    GUEST.get_or_init(|| {
        let release = !cfg!(debug_assertions);
        build::static_guest("rsentry-tests", "stress-guest", release).expect("the guest is built")
    })
}

/// Keeps a command, and all that comes of it, on the first CPU that this process may use.
fn on_one_cpu(command: &mut Command) {
    // SAFETY: both calls are async-signal-safe, and the set is valid.
    unsafe {
        command.pre_exec(|| {
            let mut all: libc::cpu_set_t = std::mem::zeroed();
            let mut one: libc::cpu_set_t = std::mem::zeroed();
            let size = size_of::<libc::cpu_set_t>();
            if libc::sched_getaffinity(0, size, &mut all) == 0 {
                let bits = 0..8 * size;
                if let Some(first) = bits.into_iter().find(|&cpu| libc::CPU_ISSET(cpu, &all)) {
                    libc::CPU_SET(first, &mut one);
                    if libc::sched_setaffinity(0, size, &one) == 0 {
                        return Ok(());
                    }
                }
            }
            Err(std::io::Error::last_os_error())
        });
    }
}

/// Runs one storm natively, or on this platform.
#[track_caller]
fn storm(name: &str, platform: Option<&str>, one_cpu: bool) {
    let sandboxes = platform.map_or_else(Sandboxes::new, Sandboxes::on);
    let mut command = match platform {
        None => {
            let mut native = Command::new(guest());
            native.stdin(std::process::Stdio::null());
            native.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
            native.args(["run", name]).current_dir(sandboxes.work());
            native
        }
        Some(_) => {
            let folder = guest().parent().expect("the guest is in a folder").display();
            let bind = format!("{folder}:/storm");
            sandboxes.command(&["run", "--ro", &bind, "--", "/storm/stress-guest", "run", name])
        }
    };
    if one_cpu {
        on_one_cpu(&mut command);
    }
    let output = finish(command);
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && said.is_empty(), "{}: {said}", output.status);
    sandboxes.assert_nothing_left();
}

macro_rules! storms {
    ($($name:ident),* $(,)?) => {
        storms! { @with false: $($name),* }

        mod on_one_cpu {
            use super::storm;
            storms! { @with true: $($name),* }
        }

        #[test]
        fn every_storm_is_here() {
            let output = Command::new(guest()).arg("list").output().expect("the guest runs");
            let here = [$(stringify!($name)),*];
            assert_eq!(text(&output.stdout).lines().collect::<Vec<_>>(), here);
        }
    };
    (@with $one_cpu:literal: $($name:ident),*) => {
        mod natively {
            $(#[test]
            fn $name() {
                super::storm(stringify!($name), None, $one_cpu);
            })*
        }

        $(fn $name(platform: &str) {
            storm(stringify!($name), Some(platform), $one_cpu);
        })*

        rsentry_tests::on_every_platform!($($name),*);
    };
}

storms! {
    timer_signals,
    queued_signals,
    interrupted_calls,
    forks,
    spawns,
    sudden_ends,
    stops,
    threads,
    futexes,
    maps,
    write_faults,
    gs_base,
    own_handlers,
    odd_stacks,
    time_stamp_counter,
    changing_code,
    middle_jumps,
}
