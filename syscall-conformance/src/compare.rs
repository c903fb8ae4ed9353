//! Selects cases, runs them in both places in parallel and judges the pairs.

use crate::place::{Outcome, Place, Sandbox, Verdict};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What to run, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The guest program.
    pub guest: PathBuf,
    /// Parts of case names; none means every case.
    pub filters: Vec<String>,
    /// Batches at a time, in each place.
    pub jobs: usize,
    /// The sandbox; `None` runs natively only.
    pub sandbox: Option<Sandbox>,
    /// The folder native cases run below.
    pub native_dir: PathBuf,
}

/// One case's judgement.
#[derive(Clone, Debug)]
pub struct Judged {
    /// `group::case`.
    pub name: String,
    /// The judgement; a failure says what differed.
    pub verdict: Verdict,
}

/// The cases whose names contain one of the filters.
pub fn select(guest: &Path, filters: &[String]) -> Result<Vec<String>> {
    let out = Command::new(guest)
        .arg("list")
        .output()
        .with_context(|| format!("cannot start {}", guest.display()))?;
    let all = String::from_utf8_lossy(&out.stdout).into_owned();
    let names: Vec<String> = all
        .lines()
        .filter(|n| filters.is_empty() || filters.iter().any(|f| n.contains(f.as_str())))
        .map(str::to_string)
        .collect();
    if names.is_empty() {
        bail!("no case matches");
    }
    Ok(names)
}

/// Runs the plan; one judgement a case, by name.
pub fn run(plan: &Plan) -> Result<Vec<Judged>> {
    let names = select(&plan.guest, &plan.filters)?;
    let native = spread(&Place::Native(plan.native_dir.clone()), plan, &names)?;
    let inside = match &plan.sandbox {
        // A case that fails natively says nothing about the sandbox.
        Some(s) => {
            let sound: Vec<String> = names
                .iter()
                .filter(|n| native.get(*n).is_some_and(|o| o.verdict == Verdict::Pass))
                .cloned()
                .collect();
            Some(spread(&Place::Sandbox(s.clone()), plan, &sound)?)
        }
        None => None,
    };
    Ok(names
        .into_iter()
        .map(|name| {
            let verdict = judge(native.get(&name), inside.as_ref().map(|i| i.get(&name)));
            Judged { name, verdict }
        })
        .collect())
}

/// Deals the cases out to `jobs` batches and gathers their outcomes.
fn spread(place: &Place, plan: &Plan, names: &[String]) -> Result<BTreeMap<String, Outcome>> {
    let jobs = plan.jobs.clamp(1, names.len().max(1));
    let hands: Vec<Vec<String>> =
        (0..jobs).map(|j| names.iter().skip(j).step_by(jobs).cloned().collect()).collect();
    let mut all = BTreeMap::new();
    std::thread::scope(|scope| {
        let running: Vec<_> =
            hands.iter().map(|hand| scope.spawn(|| place.run(&plan.guest, hand))).collect();
        for r in running {
            all.extend(r.join().map_err(|_| anyhow::anyhow!("a batch's thread panicked"))??);
        }
        Ok(all)
    })
}

/// `inside` is `None` when there is no sandbox in the plan.
fn judge(native: Option<&Outcome>, inside: Option<Option<&Outcome>>) -> Verdict {
    let Some(native) = native else { return Verdict::Fail("it was not run natively".into()) };
    match (&native.verdict, inside) {
        (Verdict::Fail(why), _) => Verdict::Fail(format!("NATIVELY: {why}")),
        (Verdict::Skip(why), _) => Verdict::Skip(why.clone()),
        (Verdict::Pass, None) => Verdict::Pass,
        (Verdict::Pass, Some(None)) => Verdict::Fail("it was not run in the sandbox".into()),
        (Verdict::Pass, Some(Some(o))) => match &o.verdict {
            Verdict::Pass if o.transcript == native.transcript => Verdict::Pass,
            Verdict::Pass => Verdict::Fail(difference(&native.transcript, &o.transcript)),
            Verdict::Skip(why) => Verdict::Skip(format!("in the sandbox: {why}")),
            Verdict::Fail(why) => Verdict::Fail(why.clone()),
        },
    }
}

/// The first line in which two transcripts differ.
fn difference(native: &str, inside: &str) -> String {
    let (mut a, mut b) = (native.lines(), inside.lines());
    for line in 1.. {
        match (a.next(), b.next()) {
            (None, None) => break,
            (x, y) if x == y => {}
            (x, y) => {
                let (x, y) = (x.unwrap_or("(end)"), y.unwrap_or("(end)"));
                return format!("output line {line}: native {x:?}, sandbox {y:?}");
            }
        }
    }
    "outputs differ in line ends".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(transcript: &str) -> Outcome {
        Outcome { verdict: Verdict::Pass, transcript: transcript.into() }
    }

    #[test]
    fn equal_transcripts_pass_and_others_fail() {
        assert_eq!(judge(Some(&pass("a\n")), Some(Some(&pass("a\n")))), Verdict::Pass);
        let Verdict::Fail(why) = judge(Some(&pass("a\nb\n")), Some(Some(&pass("a\nc\n")))) else {
            panic!("a difference passed");
        };
        assert!(why.contains("line 2") && why.contains("\"b\"") && why.contains("\"c\""));
    }

    #[test]
    fn a_native_failure_is_the_cases_own() {
        let bad = Outcome { verdict: Verdict::Fail("x".into()), transcript: String::new() };
        assert!(matches!(judge(Some(&bad), None), Verdict::Fail(w) if w.starts_with("NATIVELY")));
        assert!(matches!(judge(Some(&pass("")), Some(None)), Verdict::Fail(_)));
    }
}
