//! Programs that attack the sandbox they run in: one static binary, one module an attack class.
//!
//! `attack-guest CLASS [ATTACK]` is to be the sandbox's first process, as root inside. It starts a
//! *victim* of one user, then attackers of another; it exits with success if every attack ended as
//! it must and nobody else was touched. `attack-guest list` prints the classes.

mod asm;
mod calls;
mod catch;
mod cpu;
mod doorbell;
mod evade;
mod exhaust;
mod health;
mod jump;
mod patch;
mod probe;
mod remap;
mod scan;
mod scribble;
mod share;
mod supervisor;
mod victim;

use std::process::ExitCode;

const CLASSES: &[(&str, &[supervisor::Attack])] = &[
    ("calls", calls::ATTACKS),
    ("cpu", cpu::ATTACKS),
    ("doorbell", doorbell::ATTACKS),
    ("evade", evade::ATTACKS),
    ("exhaust", exhaust::ATTACKS),
    ("jump", jump::ATTACKS),
    ("patch", patch::ATTACKS),
    ("remap", remap::ATTACKS),
    ("scan", scan::ATTACKS),
    ("scribble", scribble::ATTACKS),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let (class, only) = match words.as_slice() {
        ["list"] => {
            for (name, _) in CLASSES {
                println!("{name}");
            }
            return ExitCode::SUCCESS;
        }
        [class] => (*class, None),
        [class, only] => (*class, Some(*only)),
        _ => ("", None),
    };
    let Some((_, attacks)) = CLASSES.iter().find(|(name, _)| *name == class) else {
        eprintln!("usage: attack-guest list | CLASS [ATTACK]");
        return ExitCode::from(2);
    };
    match supervisor::run(class, attacks, only) {
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
