//! `rsentry run` refuses bad requests with one line, the right exit code, and nothing left behind.

use rsentry_tests::{Sandboxes, finish, text};

/// Arguments, exit code, and what the line must name.
const REFUSED: &[(&[&str], i32, &str)] = &[
    (&[], 125, "no command"),
    (&["jump"], 125, "jump"),
    (&["run"], 125, "no program"),
    (&["run", "--"], 125, "no program"),
    (&["run", "--nonsense", "true"], 125, "--nonsense"),
    (&["run", "-z", "true"], 125, "-z"),
    (&["run", "--root"], 125, "--root"),
    (&["run", "--root", "/no/such/directory", "true"], 125, "/no/such/directory"),
    (&["run", "--root", "/etc/passwd", "true"], 125, "/etc/passwd"),
    (&["run", "--ro", "/no/such/file", "true"], 125, "/no/such/file"),
    (&["run", "--ro", "/etc:relative", "true"], 125, "--ro"),
    (&["run", "--ro", ":/x", "true"], 125, "--ro"),
    (&["run", "--ro", "/etc:/", "true"], 125, "--ro"),
    (&["run", "--ro", "/etc:/proc/x", "true"], 125, "/proc/x"),
    (&["run", "--rw", "/dev/null:/x", "true"], 125, "/dev/null"),
    (&["run", "--rw", "/no\nsuch", "true"], 125, "such"),
    (&["run", "--ro", "/etc:/x", "--rw", "/usr:/x/.", "true"], 125, "/x"),
    (&["run", "--tmpfs", "relative", "true"], 125, "--tmpfs"),
    (&["run", "--env", "=x", "true"], 125, "--env"),
    (&["run", "--env", "SURELY_NOT_SET_ANYWHERE", "true"], 125, "SURELY_NOT_SET_ANYWHERE"),
    (&["run", "--workdir", "relative", "true"], 125, "--workdir"),
    (&["run", "--user", "somebody", "true"], 125, "--user"),
    (&["run", "--user", "1:4294967295", "true"], 125, "--user"),
    (&["run", "--cap-add", "CAP_MAGIC", "true"], 125, "CAP_MAGIC"),
    (&["run", "--cap-add=KILL", "--cap-drop=cap_kill", "true"], 125, "--cap-drop: CAP_KILL"),
    (&["run", "--user=5", "--cap-ambient=KILL", "true"], 125, "--cap-ambient: CAP_KILL"),
    (&["run", "--apparmor=no such profile", "true"], 125, "--apparmor: AppArmor"),
    (&["run", "--selinux-label=", "true"], 125, "--selinux-label: SELinux"),
    (&["run", "--hostname", "", "true"], 125, "--hostname"),
    (&["run", "--platform", "magic", "true"], 125, "magic"),
    (&["run", "--strace=read,", "true"], 125, "--strace"),
    (&["run", "--log", "/no/such/directory/log", "true"], 125, "/no/such/directory/log"),
    (&["run", "--log-format", "xml", "true"], 125, "xml"),
];

#[test]
fn bad_requests_get_one_line_that_names_them() {
    let sandboxes = Sandboxes::new();
    for &(arguments, code, name) in REFUSED {
        for (who, command) in sandboxes.callers(arguments) {
            let output = finish(command);
            let line = text(&output.stderr);
            let what = format!("{arguments:?} as {who}: {line:?}");
            assert_eq!(output.status.code(), Some(code), "{what}");
            assert!(output.stdout.is_empty(), "{what}");
            assert_eq!(line.matches('\n').count(), 1, "{what}");
            assert!(line.starts_with("rsentry: error: ") && line.contains(name), "{what}");
        }
    }
    sandboxes.assert_nothing_left();
    let files: Vec<_> = std::fs::read_dir(sandboxes.work()).unwrap().collect();
    assert!(files.is_empty(), "files were left behind: {files:?}");
}

/// Each on a host without that layer.
#[test]
fn labels_of_layers_that_the_host_lacks_are_refused() {
    let sandboxes = Sandboxes::new();
    for (option, layer, place) in [
        ("--apparmor=some-profile", "AppArmor", "/sys/module/apparmor"),
        ("--selinux-label=system_u:system_r:container_t:s0", "SELinux", "/sys/fs/selinux/enforce"),
    ] {
        if std::path::Path::new(place).exists() {
            eprintln!("skipped: this host has {layer}");
            continue;
        }
        let output = sandboxes.run(&["run", option, "true"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{said}");
        assert!(said.contains(layer) && said.contains("this host has it not enabled"), "{said}");
    }
}

#[test]
fn refused_requests_do_not_create_the_log_file() {
    let sandboxes = Sandboxes::new();
    let output = sandboxes.run(&["run", "--log", "log", "--root", "/no/such", "true"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(!sandboxes.work().join("log").exists());
}

#[test]
fn the_log_says_which_platform_was_chosen_and_why() {
    let sandboxes = Sandboxes::new();
    for (choice, why) in [("ptrace", "asked for"), ("auto", "notify")] {
        let output = sandboxes.run(&["run", "--platform", choice, "--log", choice, "true"]);
        assert_eq!(output.status.code(), Some(0), "{choice}: {}", text(&output.stderr));
        let log = std::fs::read_to_string(sandboxes.work().join(choice)).unwrap();
        let line = log.lines().find(|line| line.contains("platform chosen")).expect("the line");
        assert!(line.contains("features=") && line.contains(why), "{choice}: {line}");
    }
}

#[test]
fn help_and_version_go_to_standard_output() {
    let sandboxes = Sandboxes::new();
    for (arguments, expected) in [
        (&["--version"][..], concat!("rsentry ", env!("CARGO_PKG_VERSION"))),
        (&["--help"], "Usage: rsentry COMMAND"),
        (&["run", "--help"], "rsentry run [OPTIONS] [--] CMD [ARG...]"),
    ] {
        let output = sandboxes.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(output.stderr.is_empty(), "{arguments:?}");
        assert!(text(&output.stdout).contains(expected), "{arguments:?}");
    }
}

fn programs_that_cannot_be_started_are_named(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    std::fs::write(sandboxes.work().join("data"), "no program\n").unwrap();
    for (arguments, code, name) in [
        (&["run", "no-such-program"][..], 127, "no-such-program"),
        (&["run", "/no/such/program"], 127, "/no/such/program"),
        (&["run", "./data"], 126, "./data"),
        (&["run", "/etc"], 126, "/etc"),
        (&["run", "--workdir", "/no/such/place", "true"], 125, "/no/such/place"),
        (&["run", "--strace=nonsense", "true"], 125, "nonsense"),
    ] {
        for (who, command) in sandboxes.callers(arguments) {
            let output = finish(command);
            let line = text(&output.stderr);
            let what = format!("{arguments:?} as {who}: {line:?}");
            assert_eq!(output.status.code(), Some(code), "{what}");
            assert_eq!(line.matches('\n').count(), 1, "{what}");
            assert!(line.contains(name), "{what}");
        }
    }
    sandboxes.assert_nothing_left();
}

/// `CapInh` to `CapAmb` of a program that another program has started.
fn capabilities_are_the_programs(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    let policy = sandboxes.work().join("policy.toml");
    std::fs::write(&policy, "cap-drop = ['all', 'CAP_FROM_THE_FUTURE']\n").unwrap();
    let policy = format!("--policy={}", policy.display());
    let all = "000001ffffffffff";
    let none = "0000000000000000";
    // CHOWN, and what is left without it.
    let (one, most) = ("0000000000000001", "000001fffffffffe");
    for (options, expected) in [
        (&["--user=0"][..], [none, all, all, all, none]),
        (&["--user=5"], [none, none, none, all, none]),
        (&["--user=0", "--cap-drop=CHOWN"], [none, most, most, most, none]),
        (&["--user=0", "--cap-drop=ALL", "--cap-add=cap_chown"], [none, one, one, one, none]),
        (&["--user=0", "--cap-ambient=CHOWN"], [one, all, all, all, one]),
        (&["--user=5", "--cap-add=CHOWN"], [one, one, one, all, one]),
        (&["--user=0", &policy, "--cap-add=CHOWN"], [none, one, one, one, none]),
    ] {
        let script = "sed -n 's/^Cap...:.//p' /proc/self/status; :";
        let arguments = [&["run"], options, &["sh", "-c", script]].concat();
        let output = sandboxes.run(&arguments);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(stdout.lines().collect::<Vec<_>>(), expected, "{options:?}: {stderr}");
        let warns = options.contains(&policy.as_str());
        assert_eq!(stderr.contains("CAP_FROM_THE_FUTURE"), warns, "{options:?}: {stderr}");
    }
    // They are there to be used, and gone for good.
    let script = "chown 7 /tmp && stat -c %u /tmp; mount -t tmpfs x /mnt 2>&1";
    let output = sandboxes.run(&["run", "--user=0", "--cap-drop=SYS_ADMIN", "sh", "-c", script]);
    let said = text(&output.stdout);
    assert!(said.starts_with("7\n") && said.contains("permi"), "{said}");
}

fn options_have_their_effect_inside(platform: &str) {
    let sandboxes = Sandboxes::on(platform);
    std::fs::write(sandboxes.work().join("file"), "from the host\n").unwrap();
    let work = sandboxes.work().canonicalize().unwrap();
    let work = work.to_str().unwrap();
    let rw = format!("{work}:/shared");
    for (arguments, expected) in [
        (&["run", "pwd"][..], format!("{work}\n")),
        (&["run", "cat", "file"], "from the host\n".into()),
        (&["run", "sh", "-c", "echo new > file; cat file"], "new\n".into()),
        (&["run", "cat", "file"], "from the host\n".into()),
        (&["run", "--workdir", "/usr/../etc", "pwd"], "/etc\n".into()),
        (&["run", "--hostname", "box", "uname", "-n"], "box\n".into()),
        (&["run", "--user", "12:34", "sh", "-c", "id -u; id -g; id -G"], "12\n34\n34\n".into()),
        (&["run", "--env", "A=b c", "sh", "-c", "echo \"$A\""], "b c\n".into()),
        (&["run", "--tmpfs", "/x/y", "sh", "-c", "ls /x/y; touch /x/y/z; ls /x/y"], "z\n".into()),
        (
            &["run", "--ro", "/etc/passwd:/x", "sh", "-c", "cmp /x /etc/passwd && echo same"],
            "same\n".into(),
        ),
        (
            &["run", "--ro", "/etc:/x", "sh", "-c", "touch /x/y 2>/dev/null || echo refused"],
            "refused\n".into(),
        ),
        (&["run", "--root", "/usr", "/bin/sh", "-c", "pwd; ls -d /share"], "/\n/share\n".into()),
        (
            &["run", "sh", "-c", "cat /etc/shadow 2>/dev/null; ls /root /home /tmp | wc -w"],
            "3\n".into(),
        ),
        (
            &["run", "--rw", &rw, "sh", "-c", "echo kept > /shared/kept; cat /shared/kept"],
            "kept\n".into(),
        ),
    ] {
        let output = finish(sandboxes.command(arguments));
        assert_eq!(text(&output.stdout), expected, "{arguments:?}: {}", text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
    }
    let kept = std::fs::read_to_string(sandboxes.work().join("kept")).unwrap();
    assert_eq!(kept, "kept\n", "--rw reaches the host");
    let file = std::fs::read_to_string(sandboxes.work().join("file")).unwrap();
    assert_eq!(file, "from the host\n", "writes without --rw do not");
    sandboxes.assert_nothing_left();
}

rsentry_tests::on_every_platform! {
    capabilities_are_the_programs,
    programs_that_cannot_be_started_are_named,
    options_have_their_effect_inside,
}
