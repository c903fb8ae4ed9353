//! `cargo run --release -p rsentry-bench`: the side-by-side benchmark of DESIGN section 9.
//!
//! A few rows at a time are measured in every place in turn, so that a busy moment hits all places;
//! the table shows medians and their ratios to native, from this one run.

mod breakdown;
mod budget;
mod idle;
mod load;
mod measure;
mod places;
mod processes;
mod report;

use anyhow::Result;
use clap::Parser;
use load::Load;
use measure::{Figure, MEMORY, TRUE};
use places::Place;
use report::Table;
use rsentry_syscall_conformance::build;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
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
    /// The platforms to measure [default: all that start here]; may be given again.
    #[arg(long)]
    platform: Vec<String>,
    /// What else the machine does meanwhile; may be given again. Peers are measured under a load
    /// only when named with --place.
    #[arg(long, value_enum, default_value = "none")]
    load: Vec<Load>,
    /// How often each row is measured in each place.
    #[arg(long, short, default_value_t = 5)]
    repetitions: usize,
    /// Instead: the CPU time and memory of idle sandboxes.
    #[arg(long)]
    idle: bool,
    /// Instead: where the time of each row goes.
    #[arg(long = "where", conflicts_with_all = ["idle", "json"])]
    breakdown: bool,
    /// Print JSON instead of tables.
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
    let named = |p: &Place| o.place.iter().any(|x| p.name.contains(x.as_str()));
    places.retain(|p| p.is_native() || o.place.is_empty() || named(p));
    if o.idle {
        places.retain(|p| !p.is_native());
        return idle::report(&places, &guest, o.json);
    }
    let mut rows = measure::guest_rows(&guest)?;
    rows.extend([TRUE.to_string(), MEMORY.to_string()]);
    rows.retain(|r| o.filter.is_empty() || o.filter.iter().any(|f| r.contains(f.as_str())));
    if o.breakdown {
        rows.retain(|r| *r != TRUE && *r != MEMORY);
        places.retain(|p| p.is_native() || p.is_rsentry() || named(p));
        return breakdown::report(&places, &guest, &rows);
    }
    let mut tables = Vec::new();
    for load in Load::expand(&o.load) {
        let mut places = places.clone();
        places.retain(|p| load == Load::None || p.is_native() || p.is_rsentry() || named(p));
        let before = report::load_average();
        let held = load.hold(&guest)?;
        let figures = measured(o, load, &places, &guest, &rows)?;
        drop(held);
        let table = Table {
            load,
            rows: rows.clone(),
            places: places.into_iter().map(|p| p.name).collect(),
            figures,
            missing: missing.clone(),
            before,
            after: report::load_average(),
        };
        if o.json {
            tables.push(table.json());
        } else {
            table.print();
            println!();
        }
    }
    if o.json {
        println!("{:#}", serde_json::json!({ "tables": tables }));
    }
    Ok(())
}

/// How many rows are measured in one place before the next has its turn.
const TOGETHER: usize = 5;

/// Every figure of one table.
fn measured(
    o: &Options,
    load: Load,
    places: &[Place],
    guest: &Path,
    rows: &[String],
) -> Result<BTreeMap<(String, String), Vec<Figure>>> {
    let inside: Vec<String> = rows.iter().filter(|r| *r != TRUE && *r != MEMORY).cloned().collect();
    let has = |row: &str| rows.iter().any(|r| r == row);
    let mut figures: BTreeMap<(String, String), Vec<Figure>> = BTreeMap::new();
    for turn in 0..o.repetitions.max(1) {
        if !o.json {
            eprintln!("load {}, repetition {}", load.name(), turn + 1);
        }
        for some in inside.chunks(TOGETHER) {
            for place in places {
                for (row, f) in measure::guest(place, guest, some)? {
                    figures.entry((row, place.name.clone())).or_default().push(f);
                }
            }
        }
        for place in places {
            let mut add = |row: &str, f: Figure| {
                figures.entry((row.to_string(), place.name.clone())).or_default().push(f);
            };
            if has(TRUE) {
                for _ in 0..3 {
                    add(TRUE, measure::start_of_true(place, guest)?);
                }
            }
            // Memory does not vary; once is enough.
            if turn == 0 && has(MEMORY) {
                add(MEMORY, measure::memory(place, guest)?);
            }
        }
    }
    Ok(figures)
}
