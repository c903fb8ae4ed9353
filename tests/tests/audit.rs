//! `rsentry check` as a user meets it.

use rsentry_tests::{Sandboxes, text};

/// What runc's own template is judged to be, and what becomes of it.
#[test]
fn check_exits_by_the_worst_finding() {
    let sandboxes = Sandboxes::new();
    let template = include_str!("../../src/check/testdata/runc.json");
    std::fs::write(sandboxes.work().join("config.json"), template).unwrap();
    for (arguments, code) in [
        (&["check", "config.json"][..], 3),
        (&["check", "--fail-on=high", "config.json"], 3),
        (&["check", "--fail-on=critical", "config.json"], 0),
        (&["check", "--fail-on=awful", "config.json"], 125),
        (&["check", "missing.json"], 125),
        (&["check"], 125),
    ] {
        let output = sandboxes.run(arguments);
        let shown = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {shown}");
        if code == 125 {
            assert_eq!(text(&output.stderr).matches('\n').count(), 1, "{shown}");
        } else {
            assert!(shown.contains("/linux/seccomp") && shown.contains("fix: "), "{shown}");
        }
    }
    let output = sandboxes.run(&["check", "--json", "config.json"]);
    let json = text(&output.stdout);
    assert!(json.starts_with('{') && json.contains("\"worst\": \"high\""), "{json}");
}

#[test]
fn check_bounds_and_names_what_is_malformed() {
    let sandboxes = Sandboxes::new();
    let cases = [
        ("long.json", vec![b' '; (4 << 20) + 1], "longer than"),
        ("deep.json", vec![b'['; 1 << 20], "recursion"),
        ("bytes.json", vec![0xff, 0xfe, 0], "bytes.json"),
        ("empty.json", Vec::new(), "empty.json"),
        ("no-oci.json", b"{\"a\": 1}".to_vec(), "ociVersion"),
        ("wrong.json", b"{\"ociVersion\": \"1\", \"mounts\": [{}, 7]}".to_vec(), "/mounts/0"),
    ];
    for (name, content, expected) in cases {
        std::fs::write(sandboxes.work().join(name), content).unwrap();
        let output = sandboxes.run(&["check", name]);
        let line = text(&output.stderr);
        assert_eq!(output.status.code(), Some(125), "{name}: {line}");
        assert!(line.contains(expected) && line.matches('\n').count() == 1, "{name}: {line}");
    }
}
