//! The `rsentry` command.

use std::io::Write;
use std::process::ExitCode;

use rsentry::cli::{self, Action};

fn main() -> ExitCode {
    let result = match cli::parse(std::env::args_os()) {
        Action::Print(text) => {
            return match std::io::stdout().write_all(text.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::from(rsentry::Error::OWN_FAILURE),
            };
        }
        Action::Run(sandbox) => sandbox.run(),
        Action::Fail(error) => Err(error),
    };
    match result {
        Ok(status) => ExitCode::from(status.shell_code()),
        Err(error) => {
            // One line and one write, so that it stays whole beside other writers. If stderr is
            // gone there is nobody to tell.
            let line = format!("rsentry: error: {}\n", error.one_line());
            drop(std::io::stderr().write_all(line.as_bytes()));
            ExitCode::from(error.exit_code())
        }
    }
}
