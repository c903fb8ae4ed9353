//! `rsentry` with the test hook of `launch/hook.rs`: only built with the feature `compromised`.

#[path = "main.rs"]
mod command;

use std::process::ExitCode;

fn main() -> ExitCode {
    command::main()
}
