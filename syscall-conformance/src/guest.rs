//! The guest program: every case of the suite in one binary.
//!
//! `list` prints the cases, `run CASE` runs one in the current directory, `batch DIR SECONDS
//! CASE...` runs each in a process and an empty directory of its own and reports on standard
//! output. The runner links it statically, so that it needs nothing of the sandbox but the kernel.

#[macro_use]
#[path = "guest/sys.rs"]
mod sys;
#[path = "guest/batch.rs"]
mod batch;
mod cases;
#[path = "guest/helpers.rs"]
mod helpers;
#[path = "guest/ipc.rs"]
mod ipc;

use std::process::ExitCode;

/// Exit status of a case that cannot run here; the reason is on standard output.
const SKIPPED: i32 = 77;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["list"] => {
            for (group, cases) in cases::GROUPS {
                for case in *cases {
                    println!("{group}::{}", case.name);
                }
            }
            ExitCode::SUCCESS
        }
        ["run", name] => {
            let Some(case) = cases::find(name) else {
                eprintln!("no case {name}");
                return ExitCode::from(2);
            };
            sys::fail_by_exit();
            helpers::setup();
            (case.run)();
            ExitCode::SUCCESS
        }
        ["batch", dir, seconds, names @ ..] => {
            batch::run(dir, seconds.parse().unwrap_or(10), names);
            ExitCode::SUCCESS
        }
        // What the exec cases start.
        ["echo", rest @ ..] => {
            println!("{}", rest.join(" "));
            ExitCode::SUCCESS
        }
        ["ids"] => {
            cases::creds::print_ids();
            ExitCode::SUCCESS
        }
        ["filtered"] => {
            cases::seccomp::print_filtered();
            ExitCode::SUCCESS
        }
        ["tsc"] => {
            cases::tsc::print_mode();
            ExitCode::SUCCESS
        }
        ["state"] => {
            cases::exec::print_state();
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: list | run CASE | batch DIR SECONDS CASE...");
            ExitCode::from(2)
        }
    }
}
