//! `cargo run -p rsentry-syscall-conformance`: the suite's command line.

use anyhow::{Result, bail};
use clap::Parser;
use rsentry_syscall_conformance::build;
use rsentry_syscall_conformance::compare::{Judged, Plan, run, select};
use rsentry_syscall_conformance::place::{Sandbox, Verdict};
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs the system-call cases natively and in the sandbox and compares them.
#[derive(Parser)]
struct Options {
    /// Only cases whose name contains this; may be given again.
    #[arg(long, short)]
    filter: Vec<String>,
    /// The sandbox's platform.
    #[arg(long)]
    platform: Option<String>,
    /// Run natively only.
    #[arg(long)]
    native_only: bool,
    /// Batches at a time.
    #[arg(long, short, default_value_t = 2)]
    jobs: usize,
    /// Print the names of the cases and end.
    #[arg(long)]
    list: bool,
    /// Print only what failed, and the sums.
    #[arg(long, short)]
    quiet: bool,
    /// An `rsentry` command to use instead of building one.
    #[arg(long)]
    rsentry: Option<PathBuf>,
    /// A further argument for `rsentry run`; may be given again.
    #[arg(long, allow_hyphen_values = true)]
    run_arg: Vec<String>,
    /// A guest program to use instead of building one.
    #[arg(long)]
    guest: Option<PathBuf>,
    /// The folder that native cases run below.
    #[arg(long, default_value = "/tmp")]
    native_dir: PathBuf,
    /// The folder inside the sandbox that cases run below.
    #[arg(long, default_value = "/tmp")]
    sandbox_dir: String,
}

fn main() -> ExitCode {
    match suite(Options::parse()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("conformance: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn suite(o: Options) -> Result<ExitCode> {
    let release = !cfg!(debug_assertions);
    let guest = match o.guest {
        // The cases run in other folders.
        Some(path) => path.canonicalize()?,
        None => build::static_guest(env!("CARGO_PKG_NAME"), "conformance-guest", release)?,
    };
    if o.list {
        for name in select(&guest, &o.filter)? {
            println!("{name}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let sandbox = if o.native_only {
        None
    } else {
        let rsentry = match o.rsentry {
            Some(path) => path,
            None => build::rsentry(release)?,
        };
        Some(Sandbox { rsentry, platform: o.platform, extra: o.run_arg, dir: o.sandbox_dir })
    };
    if !o.native_dir.is_dir() {
        bail!("{} is not a folder", o.native_dir.display());
    }
    let plan = Plan { guest, filters: o.filter, jobs: o.jobs, sandbox, native_dir: o.native_dir };
    Ok(print(&run(&plan)?, o.quiet))
}

fn print(results: &[Judged], quiet: bool) -> ExitCode {
    let width = results.iter().map(|r| r.name.len()).max().unwrap_or(0);
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for r in results {
        let (word, why) = match &r.verdict {
            Verdict::Pass => {
                passed += 1;
                ("pass", "")
            }
            Verdict::Fail(why) => {
                failed += 1;
                ("FAIL", why.as_str())
            }
            Verdict::Skip(why) => {
                skipped += 1;
                ("skip", why.as_str())
            }
        };
        if !quiet || word == "FAIL" {
            println!("{:width$}  {word}  {why}", r.name);
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
