//! `--idle`: what sandboxes cost in which nothing happens.

use crate::places::Place;
use crate::processes::{Background, pss, ran};
use anyhow::Result;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// How many sandboxes stand idle at a time.
const COUNTS: [usize; 2] = [1, 50];
/// How long they are watched.
const WATCHED: Duration = Duration::from_secs(10);

/// What some idle sandboxes of one place cost.
struct Idle {
    place: String,
    sandboxes: usize,
    /// How many of them still ran in the end.
    alive: usize,
    processes: usize,
    cpu_ms: f64,
    pss: u64,
}

/// Measures and prints each place.
pub(crate) fn report(places: &[Place], guest: &Path, as_json: bool) -> Result<()> {
    let mut all = Vec::new();
    for place in places {
        for n in COUNTS {
            all.push(measure(place, guest, n)?);
        }
    }
    if as_json {
        println!("{:#}", json!({ "idle": all.iter().map(Idle::json).collect::<Vec<_>>() }));
        return Ok(());
    }
    println!("| sandboxes that sleep | processes | CPU over {} s | PSS |", WATCHED.as_secs());
    println!("|---|---|---|---|");
    for i in &all {
        let dead = i.sandboxes - i.alive;
        let note = if dead > 0 { format!(" ({dead} died)") } else { String::new() };
        println!(
            "| {}, {}{note} | {} | {:.1} ms | {:.1} MiB |",
            i.place,
            i.sandboxes,
            i.processes,
            i.cpu_ms,
            i.pss as f64 / f64::from(1 << 20)
        );
    }
    Ok(())
}

impl Idle {
    fn json(&self) -> Value {
        json!({
            "place": self.place, "sandboxes": self.sandboxes, "alive": self.alive,
            "processes": self.processes, "seconds": WATCHED.as_secs(),
            "cpu_ms": self.cpu_ms, "pss": self.pss,
        })
    }
}

fn measure(place: &Place, guest: &Path, sandboxes: usize) -> Result<Idle> {
    // Bundles must outlive what runs in them.
    let mut bundles = Vec::new();
    let mut running: Vec<Background> = Vec::new();
    for _ in 0..sandboxes {
        let mut started = place.command(guest, &["/bin/sleep", "600"])?;
        running.push(Background::start(&mut started.command)?);
        bundles.push(started);
    }
    // Starting is not idling.
    std::thread::sleep(Duration::from_secs(2) + Duration::from_millis(40) * sandboxes as u32);
    let pids: Vec<i32> = running.iter().flat_map(Background::processes).collect();
    let cpu = || pids.iter().map(|p| ran(*p)).sum::<u64>();
    let before = cpu();
    std::thread::sleep(WATCHED);
    let cpu_ms = cpu().saturating_sub(before) as f64 / 1e6;
    let pss = pids.iter().map(|p| pss(*p)).sum();
    let alive = running.iter_mut().map(|r| r.child.try_wait()).filter(|s| matches!(s, Ok(None)));
    let alive = alive.count();
    Ok(Idle { place: place.name.clone(), sandboxes, alive, processes: pids.len(), cpu_ms, pss })
}
