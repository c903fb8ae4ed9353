//! A tool for a language model: runs python that the model wrote, and gives back what it printed and
//! what it took, as one JSON object.
//!
//! ```sh
//! echo 'print(6 * 7)' | cargo run --release --example python_tool
//! cargo run --release --example python_tool -- FILE.py
//! ```
//!
//! The code has no network, no files but the system's and its own, no user's rights, and the limits
//! below. Whatever it does, this program's answer is JSON and its exit status 0; it fails only if
//! there could be no sandbox.

use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use rsentry::{Error, Input, Output, Profile, Report, Sandbox};

/// Longest code, in bytes.
const MAX_CODE: u64 = 1 << 20;
/// What a model is shown of each of the outputs, in bytes.
const SHOWN: usize = 16 << 10;

fn main() -> ExitCode {
    // This program is its own helper; see `Builder::run`.
    rsentry::init();
    match code().map_err(|error| error.to_string()).and_then(|code| {
        let report = run(&code).map_err(|error| error.one_line())?;
        serde_json::to_string_pretty(&answer(&report)).map_err(|error| error.to_string())
    }) {
        Ok(json) => {
            println!("{json}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("python_tool: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The code: a file's, or standard input's.
fn code() -> std::io::Result<Vec<u8>> {
    let mut code = Vec::new();
    let from: Box<dyn Read> = match std::env::args_os().nth(1) {
        Some(path) => Box::new(std::fs::File::open(path)?),
        None => Box::new(std::io::stdin()),
    };
    from.take(MAX_CODE).read_to_end(&mut code)?;
    Ok(code)
}

/// Runs it: as standard input, so that nothing needs to be written anywhere.
fn run(code: &[u8]) -> Result<Report, Error> {
    Sandbox::builder(["python3", "-I", "-"])
        .profile(Profile::Strict)
        .workdir("/tmp")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .memory(256 << 20)
        .pids(32)
        .wall(Duration::from_secs(30))
        .cpu_time(Duration::from_secs(5))
        .output_limit(1 << 20)
        .stdin(Input::Bytes(code.to_vec()))
        .stdout(Output::Capture)
        .stderr(Output::Capture)
        .run()
}

/// What the model gets to see.
fn answer(report: &Report) -> serde_json::Value {
    serde_json::json!({
        "stdout": shown(&report.stdout),
        "stderr": shown(&report.stderr),
        "report": report,
    })
}

fn shown(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output.get(..SHOWN).unwrap_or(output)).into_owned();
    match output.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => format!("{text}\n[{more} more bytes]"),
        _ => text,
    }
}
