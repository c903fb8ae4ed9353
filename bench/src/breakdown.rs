//! `--where`: where the time of a row goes, process by process and, with perf, function by function.

use crate::measure;
use crate::places::Place;
use crate::processes::{Used, name, parent, tied, tree, used};
use crate::report::{markdown, time};
use anyhow::Result;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// What a sandbox's processes are for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    /// They run the guest's code: all processes, where the place is not rsentry.
    Guest,
    Sentry,
    /// The gofer and the launcher.
    Host,
}

type Snapshot = BTreeMap<Role, Used>;

/// Measures and prints each row in each place.
pub(crate) fn report(places: &[Place], guest: &Path, rows: &[String]) -> Result<()> {
    let head = [
        "what",
        "where",
        "in all",
        "guest user",
        "guest system",
        "Sentry user",
        "Sentry system",
        "gofer",
        "switches",
    ];
    let mut lines = Vec::new();
    let mut profiles = Vec::new();
    for row in rows {
        for place in places {
            lines.push(line(place, guest, row)?);
            if place.is_rsentry() {
                profiles.push(format!("{row}, {}:\n{}", place.name, profile(place, guest, row)?));
            }
        }
    }
    println!(
        "An operation on average; CPU time from /proc, so its parts are good to some percent.\n"
    );
    print!("{}", markdown(head.map(String::from).to_vec(), lines));
    for p in &profiles {
        println!("\n{p}");
    }
    Ok(())
}

fn line(place: &Place, guest: &Path, row: &String) -> Result<Vec<String>> {
    let mut got = BTreeMap::new();
    let mut begun = (1.0, Snapshot::new());
    let mut ended = Snapshot::new();
    let failed = measure::once(
        place,
        guest,
        "watch",
        std::slice::from_ref(row),
        &mut got,
        &mut |child, line| match line.strip_prefix("measure ") {
            // The last batch is the one that counts.
            Some(n) => begun = (n.parse().unwrap_or(1.0), snapshot(place, child)),
            None if line.starts_with(row.as_str()) => ended = snapshot(place, child),
            None => {}
        },
    )?;
    let mut cells = vec![row.clone(), place.name.clone()];
    match (failed, got.remove(row)) {
        (None, Some(Ok(ns))) => {
            let (n, begun) = begun;
            let spent = |role: Role, f: fn(&Used) -> f64| {
                let at = |s: &Snapshot| s.get(&role).map_or(0.0, f);
                (at(&ended) - at(&begun)).max(0.0) / n
            };
            let switches =
                [Role::Guest, Role::Sentry, Role::Host].map(|r| spent(r, |u| u.switches));
            cells.extend(
                [
                    ns,
                    spent(Role::Guest, |u| u.user),
                    spent(Role::Guest, |u| u.system),
                    spent(Role::Sentry, |u| u.user),
                    spent(Role::Sentry, |u| u.system),
                    spent(Role::Host, |u| u.user + u.system),
                ]
                .map(time),
            );
            cells.push(format!("{:.2}", switches.iter().sum::<f64>()));
        }
        (Some((_, why)), _) | (None, Some(Err(why))) => {
            cells.push(why);
            cells.resize(9, String::new());
        }
        (None, None) => cells.resize(9, String::new()),
    }
    Ok(cells)
}

fn snapshot(place: &Place, child: &Child) -> Snapshot {
    let pids = tree(child.id() as i32);
    let stub = |p: i32| name(p) == "rsentry-stub";
    let mut by_role = Snapshot::new();
    for &pid in &pids {
        let role = match place.is_rsentry() {
            false => Role::Guest,
            true if stub(pid) => Role::Guest,
            true if pids.iter().any(|p| stub(*p) && parent(*p) == Some(pid)) => Role::Sentry,
            true => Role::Host,
        };
        let u = used(pid);
        let sum = by_role.entry(role).or_default();
        sum.user += u.user;
        sum.system += u.system;
        sum.switches += u.switches;
        // Whose children are gone, those ran the guest; ticks are not told apart.
        by_role.entry(Role::Guest).or_default().system += u.children;
    }
    by_role
}

/// The functions that most of the time is spent in, by process.
fn profile(place: &Place, guest: &Path, row: &String) -> Result<String> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("perf.data");
    let mut perf: Option<Result<Child, String>> = None;
    let mut got = BTreeMap::new();
    measure::once(
        place,
        guest,
        "watch",
        std::slice::from_ref(row),
        &mut got,
        &mut |child, line| {
            if line.starts_with("measure ") && perf.is_none() {
                perf = Some(record(child, &data));
            } else if line.starts_with(row.as_str())
                && let Some(Ok(perf)) = &mut perf
            {
                // SAFETY: our own child, not yet waited for.
                unsafe { libc::kill(perf.id() as i32, libc::SIGINT) };
                let _ = perf.wait();
            }
        },
    )?;
    match perf {
        Some(Ok(_)) => {}
        Some(Err(why)) => return Ok(format!("no profile: {why}")),
        None => return Ok("no profile: the row did not run".into()),
    }
    let out = Command::new("perf")
        .args(["report", "--stdio", "--no-children", "--percent-limit", "1"])
        .args(["--fields", "overhead,comm,dso,symbol", "-i"])
        .arg(&data)
        .stderr(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&out.stdout);
    let lines = text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()).take(25);
    let lines: Vec<&str> = lines.map(str::trim_end).collect();
    Ok(if lines.is_empty() { "no profile: perf saw nothing".into() } else { lines.join("\n") })
}

fn record(child: &Child, data: &Path) -> Result<Child, String> {
    let pids: Vec<String> = tree(child.id() as i32).iter().map(i32::to_string).collect();
    let mut perf = Command::new("perf");
    perf.args(["record", "-q", "-e", "cpu-clock", "-F", "1999", "-p", &pids.join(",")]);
    perf.arg("-o").arg(data).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    tied(&mut perf).spawn().map_err(|e| format!("perf: {e}"))
}
