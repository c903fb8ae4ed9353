//! The guest's half of a race against the gofer: `attack-guest race SECONDS`, in a directory of the
//! host that can be written, while the host swaps `d` (a directory) for symbolic links to directories
//! outside, and moves directories away that are being walked. Whatever is opened must be inside.

use std::fs;
use std::io::Read;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use super::share::now;

/// What the files outside begin with.
const OUTSIDE: &str = "outside";

/// The ways of one round; returns where something of the outside was seen.
fn round(number: u64) -> Option<&'static str> {
    let names = ["d/secret", "d/e/secret", "d/../d/secret", "d/e/../secret", "d/e/../../d/secret"];
    for name in names {
        let mut text = String::new();
        if fs::File::open(name).and_then(|mut file| file.read_to_string(&mut text)).is_ok()
            && text.starts_with(OUTSIDE)
        {
            return Some(name);
        }
        if fs::metadata(name).is_ok_and(|m| m.len() == OUTSIDE.len() as u64) {
            return Some("a size");
        }
    }
    // What is made, renamed or removed must not be outside: the host looks for it there.
    let made = format!("d/made-{number}");
    let moved = format!("d/e/moved-{number}");
    drop(fs::write(&made, "guest"));
    drop(fs::rename(&made, &moved));
    drop(fs::hard_link("d/secret", &made));
    drop(fs::create_dir(format!("d/made-dir-{number}")));
    drop(fs::remove_dir(format!("d/made-dir-{number}")));
    drop(fs::remove_file(&moved));
    drop(fs::remove_file(&made));
    drop(fs::remove_file("d/precious"));
    drop(std::os::unix::fs::symlink("/", format!("d/link-{number}")));
    drop(fs::remove_file(format!("d/link-{number}")));
    for entry in fs::read_dir("d").into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(OUTSIDE) {
            return Some("a listing");
        }
    }
    None
}

/// A working directory that moves under one's feet: `..` of it must not lead out.
fn wander() -> Option<&'static str> {
    let home = std::env::current_dir().ok()?;
    if std::env::set_current_dir("d/e").is_ok() {
        for name in ["../../../outside/secret", "../../outside/secret", "../outside/secret"] {
            if fs::read_to_string(name).is_ok_and(|text| text.starts_with(OUTSIDE)) {
                return Some("dot-dot");
            }
        }
        drop(std::env::set_current_dir(home));
    }
    None
}

/// Races for so long; fails if it got out.
pub fn run(seconds: &str) -> ExitCode {
    let Ok(seconds) = seconds.parse::<u64>() else { return ExitCode::from(2) };
    let (start, rounds) = (now(), AtomicU64::new(0));
    let seen = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|thread| {
                let rounds = &rounds;
                scope.spawn(move || {
                    while now() - start < seconds * 1000 {
                        let number = rounds.fetch_add(1, Ordering::Relaxed);
                        // The working directory is one for all threads.
                        let out =
                            round(number).or_else(|| if thread == 0 { wander() } else { None });
                        if out.is_some() {
                            return out;
                        }
                    }
                    None
                })
            })
            .collect();
        threads.into_iter().find_map(|thread| thread.join().unwrap_or(Some("a panic")))
    });
    println!("race: {} rounds", rounds.load(Ordering::Relaxed));
    match seen {
        None => ExitCode::SUCCESS,
        Some(where_) => {
            eprintln!("race: {where_} leads outside");
            ExitCode::FAILURE
        }
    }
}
