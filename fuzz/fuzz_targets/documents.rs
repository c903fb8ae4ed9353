//! Files that people hand over: policies (TOML), OCI configurations (JSON) and audit logs. `rsentry
//! check` and `rsentry events` read them or complain in a line; a log's strings send nothing to the
//! terminal. The first byte chooses.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use rsentry::check::{Check, Severity};
use rsentry::events::Events;

static FILE: LazyLock<PathBuf> =
    LazyLock::new(|| std::env::temp_dir().join(format!("rsentry-fuzz-{}", std::process::id())));

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else { return };
    std::fs::write(&*FILE, rest).expect("a file");
    let file = FILE.clone();
    if kind % 2 == 0 {
        let check = Check { file, json: kind % 4 == 0, fail_on: Severity::Low };
        match check.run() {
            Ok((text, code)) => assert!(code <= 4 && !text.is_empty()),
            Err(error) => assert!(!error.one_line().contains('\n')),
        }
        return;
    }
    let (kinds, sandbox) = (Vec::new(), None);
    let mut out = Vec::new();
    let events = Events { file, kinds, sandbox, json: false, follow: false };
    events.run(&mut out).expect("a file that is there");
    let text = String::from_utf8(out).expect("text");
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
});
