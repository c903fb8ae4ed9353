//! Runs rows in a place once and gathers the figures.

use crate::places::Place;
use crate::processes::{Background, pss, tied};
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// What one run of a row gave: a figure, or why there is none.
pub(crate) type Figure = Result<f64, String>;

/// Silence of the measuring program after which its row counts as hung.
const SILENCE: Duration = Duration::from_secs(60);
/// The row of a sandbox's whole life.
pub(crate) const TRUE: &str = "start of true, in full";
/// The row of an idle sandbox's memory.
pub(crate) const MEMORY: &str = "memory at rest, PSS";

/// The rows the measuring program knows.
pub(crate) fn guest_rows(guest: &Path) -> Result<Vec<String>> {
    let out =
        std::process::Command::new(guest).arg("list").output().context("the measuring program")?;
    Ok(String::from_utf8_lossy(&out.stdout).lines().map(str::to_string).collect())
}

/// Runs the measuring program's rows in a place; a row that dies or hangs costs itself only.
pub(crate) fn guest(
    place: &Place,
    guest: &Path,
    rows: &[String],
) -> Result<BTreeMap<String, Figure>> {
    let mut got = BTreeMap::new();
    let mut left = rows.to_vec();
    while !left.is_empty() {
        let at = once(place, guest, "run", &left, &mut got, &mut |_, _| ())?;
        left.retain(|r| !got.contains_key(r));
        match at {
            Some((row, why)) => {
                left.retain(|r| *r != row);
                got.insert(row, Err(why));
            }
            None => {
                for r in left.drain(..) {
                    got.insert(r, Err("it was not measured".into()));
                }
            }
        }
    }
    Ok(got)
}

/// One start, in the program's mode `mode`; the row it ended in and why, if it did not come to its
/// end. `see` is shown each line at once, with the process that was started.
pub(crate) fn once(
    place: &Place,
    guest: &Path,
    mode: &str,
    rows: &[String],
    got: &mut BTreeMap<String, Figure>,
    see: &mut dyn FnMut(&Child, &str),
) -> Result<Option<(String, String)>> {
    let path = place.path_of(guest);
    let mut args = vec![path.as_str(), mode, "/tmp"];
    args.extend(rows.iter().map(String::as_str));
    let mut started = place.command(guest, &args)?;
    let command = &mut started.command;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        tied(command).spawn().with_context(|| format!("cannot start {}", place.name))?;
    let (send, lines) = channel();
    let out = child.stdout.take().context("no pipe")?;
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    let err = child.stderr.take().context("no pipe")?;
    let errors = std::thread::spawn(move || {
        BufReader::new(err).lines().map_while(Result::ok).last().unwrap_or_default()
    });
    let mut at = None;
    let mut hung = false;
    loop {
        match lines.recv_timeout(SILENCE) {
            Ok(line) => {
                see(&child, &line);
                if let Some(row) = line.strip_prefix("begin ") {
                    at = Some(row.to_string());
                    continue;
                }
                let mut words = line.split('\t');
                let (Some(row), Some(ns)) = (words.next(), words.next()) else { continue };
                let figure =
                    ns.parse().map_err(|_| words.next().unwrap_or("no figure").to_string());
                got.insert(row.to_string(), figure);
                at = None;
            }
            Err(RecvTimeoutError::Timeout) => {
                hung = true;
                break;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    if hung {
        kill(&child);
    }
    let status = child.wait()?;
    let _ = reader.join();
    let said = errors.join().unwrap_or_default();
    if hung {
        let row = at.unwrap_or_else(|| rows.first().cloned().unwrap_or_default());
        return Ok(Some((row, "it hung".into())));
    }
    if status.success() {
        return Ok(None);
    }
    let row = at.or_else(|| rows.iter().find(|r| !got.contains_key(*r)).cloned());
    Ok(row.map(|r| (r, format!("{status}: {said}"))))
}

/// The group of a child that leads one.
fn kill(child: &Child) {
    // SAFETY: our own child, not yet waited for.
    unsafe { libc::kill(-(child.id() as i32), libc::SIGKILL) };
}

/// Nanoseconds from starting `true` there until it is over.
pub(crate) fn start_of_true(place: &Place, guest: &Path) -> Result<Figure> {
    let mut started = place.command(guest, &["/bin/true"])?;
    let command = &mut started.command;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let command = tied(command);
    let start = Instant::now();
    let status = command.status()?;
    let took = start.elapsed().as_nanos() as f64;
    Ok(if status.success() { Ok(took) } else { Err(status.to_string()) })
}

/// Bytes of proportional memory over all processes of a place where only `sleep` runs.
pub(crate) fn memory(place: &Place, guest: &Path) -> Result<Figure> {
    let mut started = place.command(guest, &["/bin/sleep", "20"])?;
    let mut sandbox = Background::start(&mut started.command)?;
    std::thread::sleep(Duration::from_millis(1500));
    Ok(match sandbox.child.try_wait()? {
        Some(status) => Err(format!("it ended early: {status}")),
        None => Ok(sandbox.processes().into_iter().map(pss).sum::<u64>() as f64),
    })
}
