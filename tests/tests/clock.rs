//! `--clock=coarse`: time in steps of a millisecond, whichever way a program asks for it; and what
//! real programs make of that.

use std::path::Path;
use std::sync::OnceLock;

use rsentry_tests::{Sandboxes, finish, on_every_platform, text};
use syscall_conformance::build;

/// The guest program of this build.
fn guest() -> &'static Path {
    static GUEST: OnceLock<std::path::PathBuf> = OnceLock::new();
    GUEST.get_or_init(|| {
        let release = !cfg!(debug_assertions);
        build::static_guest("rsentry-tests", "stress-guest", release).expect("the guest is built")
    })
}

fn every_way_to_tell_the_time_is_coarse(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let folder = format!("{}:/clock", guest().parent().expect("a folder").display());
    let work = sandboxes.work();
    let rw = work.to_str().expect("a plain name");
    let options = ["run", "--clock=coarse", "--rw", rw, "--workdir", rw, "--ro", &folder];
    let output = sandboxes.run(&[&options[..], &["--", "/clock/stress-guest", "coarse"]].concat());
    assert!(output.status.success(), "{}: {}", output.status, text(&output.stderr));
}

/// Programs with run-time systems that ask for the time all the time. Those that are not installed
/// are left out.
fn real_programs_stand_it(platform: &str) {
    const PROGRAMS: [(&str, &[&str], &str); 3] = [
        (
            "/usr/bin/python3",
            &[
                "-c",
                "import time; time.sleep(.002); print(time.get_clock_info('monotonic').resolution)",
            ],
            "0.001\n",
        ),
        ("/usr/bin/node", &["-e", "setTimeout(() => console.log(Date.now() > 0), 3)"], "true\n"),
        (
            "/usr/bin/perl",
            &["-e", "select(undef, undef, undef, .002); print time > 0, \"\\n\""],
            "1\n",
        ),
    ];
    let sandboxes = Sandboxes::on(platform);
    for (program, arguments, expected) in PROGRAMS {
        if !Path::new(program).exists() {
            eprintln!("skipped: {program} is not installed");
            continue;
        }
        let output =
            sandboxes.run(&[&["run", "--clock=coarse", "--", program], arguments].concat());
        assert!(output.status.success(), "{program}: {}", text(&output.stderr));
        assert_eq!(text(&output.stdout), expected, "{program}");
    }
}

/// The profile strict chooses the coarse clock, unless the caller says otherwise.
fn strict_is_coarse(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let has_vdso = |options: &[&str]| {
        let output = sandboxes.run(&[options, &["--", "cat", "/proc/self/maps"]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).contains("[vdso]")
    };
    assert!(has_vdso(&["run"]));
    assert!(!has_vdso(&["run", "--profile=strict"]));
    assert!(has_vdso(&["run", "--profile=strict", "--clock=precise"]));
}

/// The host's uptime would tell sandboxes of one host from those of others. The host must have been up
/// for longer than a sandbox is for this to be able to fail.
fn the_hosts_uptime_is_not_told(platform: &str) {
    if !Path::new("/proc/self/ns/time").exists() {
        return;
    }
    let sandboxes = Sandboxes::on(platform);
    // Unprivileged callers may not see the build directory.
    let folder = sandboxes.work().join("guest");
    std::fs::create_dir(&folder).expect("a folder");
    let copied = std::process::Command::new("cp").arg(guest()).arg(&folder).status();
    assert!(copied.expect("cp runs").success());
    let folder = format!("{}:/clock", folder.display());
    for clock in ["--clock=precise", "--clock=coarse"] {
        let arguments = ["run", clock, "--ro", &folder, "--", "/clock/stress-guest", "uptime"];
        for (who, command) in sandboxes.callers(&arguments) {
            let output = finish(command);
            assert!(output.status.success(), "{who}, {clock}: {}", text(&output.stderr));
        }
    }
}

on_every_platform!(
    every_way_to_tell_the_time_is_coarse,
    real_programs_stand_it,
    strict_is_coarse,
    the_hosts_uptime_is_not_told,
);
