//! `cargo run --release -p rsentry-bench`: the side-by-side benchmark of DESIGN section 9.
//!
//! Each repetition visits every place in turn, so that a busy moment hits all of them; the table
//! shows medians and their ratios to native, from this one run.

mod measure;
mod places;
mod report;

use anyhow::Result;
use clap::Parser;
use measure::{Figure, MEMORY, TRUE};
use rsentry_syscall_conformance::build;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

/// Measures rsentry beside the host and every sandbox installed here.
#[derive(Parser)]
struct Options {
    /// Only rows whose name contains this; may be given again.
    #[arg(long, short)]
    filter: Vec<String>,
    /// Only places whose name contains this (native always runs); may be given again.
    #[arg(long)]
    place: Vec<String>,
    /// The platforms to measure; may be given again.
    #[arg(long, default_values_t = ["ptrace".to_string()])]
    platform: Vec<String>,
    /// How often each row is measured in each place.
    #[arg(long, short, default_value_t = 5)]
    repetitions: usize,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// An `rsentry` command to use instead of building one.
    #[arg(long)]
    rsentry: Option<PathBuf>,
}

fn main() -> ExitCode {
    match bench(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(o: &Options) -> Result<()> {
    let release = !cfg!(debug_assertions);
    let guest = build::static_guest(env!("CARGO_PKG_NAME"), "bench-guest", release)?;
    let rsentry = match &o.rsentry {
        Some(path) => Some(path.clone()),
        None => build::rsentry(release).inspect_err(|e| eprintln!("bench: {e:#}")).ok(),
    };
    let (mut places, missing) = places::all(rsentry.as_deref(), &o.platform);
    places.retain(|p| {
        p.is_native() || o.place.is_empty() || o.place.iter().any(|x| p.name.contains(x.as_str()))
    });
    let mut rows = measure::guest_rows(&guest)?;
    rows.extend([TRUE.to_string(), MEMORY.to_string()]);
    rows.retain(|r| o.filter.is_empty() || o.filter.iter().any(|f| r.contains(f.as_str())));
    let inside: Vec<String> = rows.iter().filter(|r| *r != TRUE && *r != MEMORY).cloned().collect();

    let before = report::load();
    let mut figures: BTreeMap<(String, String), Vec<Figure>> = BTreeMap::new();
    for turn in 0..o.repetitions.max(1) {
        for place in &places {
            if !o.json {
                eprintln!("repetition {}: {}", turn + 1, place.name);
            }
            let mut add = |row: &str, f: Figure| {
                figures.entry((row.to_string(), place.name.clone())).or_default().push(f);
            };
            for (row, f) in measure::guest(place, &guest, &inside)? {
                add(&row, f);
            }
            if rows.iter().any(|r| r == TRUE) {
                for _ in 0..3 {
                    add(TRUE, measure::start_of_true(place, &guest)?);
                }
            }
            // Memory does not vary; once is enough.
            if turn == 0 && rows.iter().any(|r| r == MEMORY) {
                add(MEMORY, measure::memory(place, &guest)?);
            }
        }
    }
    let names: Vec<String> = places.into_iter().map(|p| p.name).collect();
    let table =
        report::Table { rows, places: names, figures, missing, before, after: report::load() };
    if o.json {
        table.json()
    } else {
        table.print()
    }
    Ok(())
}
