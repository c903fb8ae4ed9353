//! Starts the fuzzer (`tests/attacks/fuzz`) in a sandbox and judges what became of it.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rsentry_tests::{Sandboxes, text};
use sentry::syscalls::{Support, TABLE};

/// What the guest may take: it has to hit the limits, and the machine has others to bear.
const MEMORY: &str = "--memory=512M";

/// The table of system calls as the guest reads it. Those that do not exist are called seldom.
fn table() -> String {
    let mut lines = String::new();
    for (at, entry) in TABLE.iter().enumerate() {
        if entry.support == Support::Missing && at % 8 != 0 {
            continue;
        }
        let _ = write!(lines, "{} {}", entry.nr, entry.name);
        for (_, kind) in entry.args {
            let _ = write!(lines, " {kind:?}");
        }
        lines.push('\n');
    }
    lines
}

/// Fuzzes on a platform for so long. The error tells the story.
pub fn fuzz(platform: &str, guest: &Path, seed: u64, seconds: u64) -> Result<String, String> {
    let sandboxes = Sandboxes::on(platform);
    let work = sandboxes.work();
    let copied = Command::new("cp").arg(guest).arg(&work).status();
    if !copied.is_ok_and(|status| status.success()) {
        return Err("copying the guest failed".into());
    }
    std::fs::write(work.join("table"), table()).map_err(|e| e.to_string())?;
    let log = work.join("log");
    let to_log = format!("--log={}", log.display());
    let (seed_word, seconds_word) = (seed.to_string(), seconds.to_string());
    let mut command = sandboxes.command(&[
        "run",
        "--user=0:0",
        MEMORY,
        &to_log,
        "--",
        "./attack-guest",
        "fuzz",
        &seed_word,
        &seconds_word,
        "table",
    ]);
    // The guest writes anything to what it has.
    let output = std::fs::File::create(work.join("output")).map_err(|e| e.to_string())?;
    let errors = output.try_clone().map_err(|e| e.to_string())?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .map_err(|e| format!("rsentry: {e}"))?;
    let end = Instant::now() + Duration::from_secs(seconds + 180);
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
            other => {
                drop((other, child.kill(), child.wait()));
                break None;
            }
        }
    };
    let log = std::fs::read(log).map(|bytes| text(&bytes)).unwrap_or_default();
    let output = std::fs::read(work.join("output")).map(|bytes| text(&bytes)).unwrap_or_default();
    // Among what the random calls wrote.
    let said = output.rfind("fuzz: ").map_or("nothing said", |at| output[at..].trim_end());
    let panicked = log.lines().find(|line| line.contains("panicked"));
    if let Some(line) = panicked {
        return Err(format!("seed {seed} on {platform}: {line}"));
    }
    if status.and_then(|status| status.code()) != Some(0) {
        let tail: Vec<&str> =
            log.lines().filter(|line| !line.contains("unsupported")).take(40).collect();
        return Err(format!("seed {seed} on {platform}: {status:?}, {said}\n{}", tail.join("\n")));
    }
    sandboxes.assert_nothing_left();
    Ok(said.to_owned())
}
