//! The whole suite against the sandbox, for CI: every case must do inside what it does natively.

use rsentry_syscall_conformance::build;
use rsentry_syscall_conformance::compare::{Judged, Plan, run};
use rsentry_syscall_conformance::place::{Sandbox, Verdict};
use std::path::Path;

fn failures(results: &[Judged]) -> Vec<String> {
    results
        .iter()
        .filter_map(|r| match &r.verdict {
            Verdict::Fail(why) => Some(format!("{}: {why}", r.name)),
            _ => None,
        })
        .collect()
}

/// Runs every case, natively below `home` and in the sandbox if one is given.
fn suite(home: &Path, sandbox: Option<Sandbox>) {
    let guest =
        build::static_guest("rsentry-syscall-conformance", "conformance-guest", false).unwrap();
    let plan =
        Plan { guest, filters: Vec::new(), jobs: 2, sandbox, native_dir: home.to_path_buf() };
    let failed = failures(&run(&plan).unwrap());
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn every_case_passes_natively() {
    suite(tempfile::tempdir().unwrap().path(), None);
}

fn every_case_does_the_same_in_the_sandbox(platform: &str) {
    let sandbox = Sandbox {
        rsentry: build::rsentry(false).unwrap(),
        platform: Some(platform.into()),
        extra: Vec::new(),
        dir: "/tmp".into(),
    };
    suite(tempfile::tempdir().unwrap().path(), Some(sandbox));
}

rsentry_syscall_conformance::on_every_platform!(every_case_does_the_same_in_the_sandbox);
