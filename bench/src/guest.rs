//! The measuring program: runs the rows it is told to, below the folder it is told to, and prints
//! `begin ROW`, then `ROW<TAB>NANOSECONDS` or `ROW<TAB>-<TAB>REASON`, one a line.
//!
//! It is the same static binary natively, in rsentry and in each peer. `list` prints its rows, `burn`
//! keeps a CPU busy. `watch` is `run` for somebody who looks on from outside: rows last longer, and a
//! line `measure N` says that the next N operations are measured.

#[path = "guest/compute.rs"]
mod compute;
#[path = "guest/files.rs"]
mod files;
#[path = "guest/memory.rs"]
mod memory;
#[path = "guest/pingpong.rs"]
mod pingpong;
#[path = "guest/process.rs"]
mod process;
#[path = "guest/programs.rs"]
mod programs;
#[path = "guest/timing.rs"]
mod timing;
#[path = "guest/trivial.rs"]
mod trivial;

use std::io::Write;
use std::process::ExitCode;

/// One row: its name, and the function that gives nanoseconds an operation, or why it cannot.
type Row = (&'static str, fn() -> Result<f64, String>);

fn rows() -> impl Iterator<Item = &'static Row> {
    [
        trivial::ROWS,
        files::ROWS,
        memory::ROWS,
        process::ROWS,
        pingpong::ROWS,
        compute::ROWS,
        programs::ROWS,
    ]
    .into_iter()
    .flatten()
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.split_first().map(|(a, rest)| (a.as_str(), rest)) {
        Some(("list", _)) => {
            for (name, _) in rows() {
                println!("{name}");
            }
            ExitCode::SUCCESS
        }
        // What the exec rows start.
        Some(("exit", _)) => ExitCode::SUCCESS,
        Some(("burn", _)) => compute::burn(),
        Some((mode @ ("run" | "watch"), [dir, names @ ..])) => {
            if mode == "watch" {
                timing::watched();
            }
            if let Err(e) = run(dir, names) {
                eprintln!("bench-guest: {dir}: {e}");
                return ExitCode::FAILURE;
            }
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: list | burn | run DIR ROW... | watch DIR ROW...");
            ExitCode::from(2)
        }
    }
}

fn run(dir: &str, names: &[String]) -> std::io::Result<()> {
    for (name, measure) in rows().filter(|(n, _)| names.iter().any(|x| x == n)) {
        let place = format!("{dir}/bench-{}", std::process::id());
        std::fs::create_dir_all(&place)?;
        std::env::set_current_dir(&place)?;
        println!("begin {name}");
        match measure() {
            Ok(ns) => println!("{name}\t{ns:.1}"),
            Err(why) => println!("{name}\t-\t{}", why.replace('\n', " ")),
        }
        std::io::stdout().flush()?;
        timing::linger();
        std::env::set_current_dir("/")?;
        std::fs::remove_dir_all(&place)?;
    }
    Ok(())
}
