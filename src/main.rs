//! The `rsentry` command.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use rsentry::cli::{self, Action};
use rsentry::{Builder, Error, Report, ReportFile, Sandbox};

/// Runs a sandbox, and writes the report if somebody wants it. From the sandbox's start on, this
/// process can do little more.
fn run(sandbox: Sandbox, report: Option<&Path>) -> Result<Report, Error> {
    let file = report.map(ReportFile::create).transpose()?;
    let result = Builder::from(sandbox).confine().run();
    match file.map(|file| file.write(&result)) {
        // What went wrong first is what there is to tell.
        Some(Err(error)) => result.and(Err(error)),
        _ => result,
    }
}

/// The command.
pub fn main() -> ExitCode {
    // Helper processes of library users may be made from the command.
    rsentry::init();
    let result = match cli::parse(std::env::args_os()) {
        Action::Print(text) => return print(&text, 0),
        Action::Check(check) => match check.run() {
            Ok((text, code)) => return print(&text, code),
            Err(error) => Err(error),
        },
        Action::Events(events) => match events.run(&mut std::io::stdout().lock()) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => Err(error),
        },
        Action::Run { sandbox, report } => run(*sandbox, report.as_deref()),
        Action::Fail(error) => Err(error),
    };
    match result {
        Ok(report) => ExitCode::from(report.exit_code),
        Err(error) => {
            // One line and one write, so that it stays whole beside other writers. If stderr is
            // gone there is nobody to tell.
            let line = format!("rsentry: error: {}\n", error.one_line());
            drop(std::io::stderr().write_all(line.as_bytes()));
            ExitCode::from(error.exit_code())
        }
    }
}

/// Prints to standard output, and exits with `code` if that worked.
fn print(text: &str, code: u8) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::from(code),
        Err(_) => ExitCode::from(rsentry::Error::OWN_FAILURE),
    }
}
