//! Random system calls for as long as CI has time for it; `cargo run -p rsentry-tests --example fuzz`
//! is the same for hours. `SEED` in the environment repeats a run, as far as threads let it.

mod run;

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use syscall_conformance::build;

/// On each platform, in seconds.
const TIME: u64 = 60;

fn guest() -> &'static PathBuf {
    static GUEST: OnceLock<PathBuf> = OnceLock::new();
    GUEST.get_or_init(|| {
        build::static_guest("rsentry-tests", "attack-guest", false).expect("the guest builds")
    })
}

fn random_calls(platform: &str) {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_secs())
    });
    println!("SEED={seed}");
    match run::fuzz(platform, guest(), seed, TIME) {
        Ok(said) => println!("{said}"),
        Err(why) => panic!("{why}"),
    }
}

rsentry_tests::on_every_platform! { random_calls }
