//! The whole suite against the sandbox, for CI: every case must do inside what it does natively.

use rsentry_syscall_conformance::build;
use rsentry_syscall_conformance::compare::{Judged, Plan, run};
use rsentry_syscall_conformance::place::Verdict;

fn failures(results: &[Judged]) -> Vec<String> {
    results
        .iter()
        .filter_map(|r| match &r.verdict {
            Verdict::Fail(why) => Some(format!("{}: {why}", r.name)),
            _ => None,
        })
        .collect()
}

#[test]
fn every_case_passes_natively() {
    let home = tempfile::tempdir().unwrap();
    let guest =
        build::static_guest("rsentry-syscall-conformance", "conformance-guest", false).unwrap();
    let plan = Plan {
        guest,
        filters: Vec::new(),
        jobs: 2,
        sandbox: None,
        native_dir: home.path().to_path_buf(),
    };
    let results = run(&plan).unwrap();
    let failed = failures(&results);
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}
