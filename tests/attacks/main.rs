//! Programs that attack the sandbox they run in: one static binary, one module an attack class.
//!
//! `attack-guest CLASS [ATTACK]` is to be the sandbox's first process, as root inside. It starts a
//! *victim* of one user, then attackers of another; it exits with success if every attack ended as
//! it must and nobody else was touched. `attack-guest list` prints the classes.
//!
//! Two kinds of classes: those that attack the stub they run in, and those that go through system
//! calls (`tests/tests/attacks.rs` has prepared things on the host for some of these).

mod asm;
mod bombs;
mod calls;
mod catch;
mod concert;
mod cpu;
mod devices;
mod doorbell;
mod escape;
mod evade;
mod exhaust;
mod fuzz;
mod health;
mod hogs;
mod hold;
mod jump;
mod objects;
mod patch;
mod probe;
mod race;
mod remap;
mod scan;
mod scribble;
mod share;
mod supervisor;
mod victim;

use std::process::ExitCode;

use Target::{Kernel, Stub};
use supervisor::USER;

/// What attacks are aimed at: the stub, whose pages have to be found first, or the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    /// Machine code and memory of the stub.
    Stub,
    /// What lies behind system calls.
    Kernel,
}

/// A class: its name, its target, the user that its attackers are, and they.
type Class = (&'static str, Target, u32, &'static [supervisor::Attack]);

const CLASSES: &[Class] = &[
    ("calls", Stub, USER, calls::ATTACKS),
    ("cpu", Stub, USER, cpu::ATTACKS),
    ("doorbell", Stub, USER, doorbell::ATTACKS),
    ("evade", Stub, USER, evade::ATTACKS),
    ("exhaust", Stub, USER, exhaust::ATTACKS),
    ("jump", Stub, USER, jump::ATTACKS),
    ("patch", Stub, USER, patch::ATTACKS),
    ("remap", Stub, USER, remap::ATTACKS),
    ("scan", Stub, USER, scan::ATTACKS),
    ("scribble", Stub, USER, scribble::ATTACKS),
    ("bombs", Kernel, USER, bombs::ATTACKS),
    ("objects", Kernel, USER, objects::ATTACKS),
    ("escape", Kernel, 0, escape::ATTACKS),
    ("escape_unprivileged", Kernel, USER, escape::ATTACKS),
    ("devices", Kernel, 0, devices::ATTACKS),
    ("hogs", Kernel, USER, hogs::ATTACKS),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let (class, only) = match words.as_slice() {
        ["list"] => {
            for (name, ..) in CLASSES {
                println!("{name}");
            }
            return ExitCode::SUCCESS;
        }
        ["fuzz", seed, seconds, table] => return fuzz::run(seed, seconds, table),
        ["race", seconds] => return race::run(seconds),
        ["hold", what] => return hold::run(what),
        ["guest", what] => return concert::run(what),
        [class] => (*class, None),
        [class, only] => (*class, Some(*only)),
        _ => ("", None),
    };
    let Some((_, target, user, attacks)) = CLASSES.iter().find(|(name, ..)| *name == class) else {
        eprintln!("usage: attack-guest list | CLASS [ATTACK]");
        return ExitCode::from(2);
    };
    match supervisor::run(class, *target, *user, attacks, only) {
        Ok(()) => {
            println!("{class}: everything else is intact");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{class}: {why}");
            ExitCode::FAILURE
        }
    }
}
