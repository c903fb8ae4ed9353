//! Fuzzes the system calls for as long as asked for:
//!
//!     cargo run -p rsentry-tests --example fuzz -- --seconds 3600 [--seed 7] [--platform ptrace]
//!
//! In rounds of a minute, each with the next seed, on both platforms in turn if none is named. Ends
//! at the first failure, with the seed and what the Sentry was doing.

#[path = "../tests/fuzz/run.rs"]
mod run;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use syscall_conformance::build;

/// The value of an option.
fn option(name: &str) -> Option<String> {
    let mut words = std::env::args().skip_while(|word| word != name);
    words.nth(1)
}

fn main() -> ExitCode {
    let number = |name: &str| option(name).and_then(|value| value.parse::<u64>().ok());
    let (seconds, seed) = (number("--seconds").unwrap_or(60), number("--seed").unwrap_or(1));
    let platforms =
        option("--platform").map_or(vec!["notify".into(), "ptrace".into()], |p| vec![p]);
    let guest = match build::static_guest("rsentry-tests", "attack-guest", false) {
        Ok(guest) => guest,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut round = 0;
    loop {
        let left = end.saturating_duration_since(Instant::now()).as_secs();
        if left == 0 {
            return ExitCode::SUCCESS;
        }
        let platform: &String = &platforms[round as usize % platforms.len()];
        println!("seed {} on {platform}", seed + round);
        match run::fuzz(platform, &guest, seed + round, left.min(60)) {
            Ok(said) => println!("{said}"),
            Err(why) => {
                eprintln!("{why}");
                return ExitCode::FAILURE;
            }
        }
        round += 1;
    }
}
