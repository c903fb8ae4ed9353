//! The stress suite's guest program: `list` prints its storms, `run STORM` runs one; `coarse` and
//! `uptime` look at clocks, `names` at files on request.
//!
//! Linked statically, so that it needs nothing of the sandbox but the kernel. It ends with status 0
//! if everything was as Linux has it, natively as well as inside, and otherwise with one line on
//! standard error. Being a guest, it contains assembly: `guest/registers.rs`, and nothing else.

#[path = "guest/clock.rs"]
mod clock;
#[path = "guest/code.rs"]
mod code;
#[path = "guest/memory.rs"]
mod memory;
#[path = "guest/names.rs"]
mod names;
#[path = "guest/processes.rs"]
mod processes;
#[path = "guest/registers.rs"]
mod registers;
#[path = "guest/signals.rs"]
mod signals;
#[path = "guest/state.rs"]
mod state;
#[path = "guest/sys.rs"]
mod sys;
#[path = "guest/threads.rs"]
mod threads;

use std::process::ExitCode;

const STORMS: &[(&str, fn())] = &[
    ("timer_signals", signals::timer_signals),
    ("queued_signals", signals::queued_signals),
    ("interrupted_calls", signals::interrupted_calls),
    ("forks", processes::forks),
    ("spawns", processes::spawns),
    ("sudden_ends", processes::sudden_ends),
    ("stops", processes::stops),
    ("threads", threads::threads),
    ("futexes", threads::futexes),
    ("maps", memory::maps),
    ("write_faults", memory::write_faults),
    ("gs_base", state::gs_base),
    ("own_handlers", state::own_handlers),
    ("odd_stacks", state::odd_stacks),
    ("time_stamp_counter", state::time_stamp_counter),
    ("changing_code", code::changing_code),
    ("middle_jumps", code::middle_jumps),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["list"] => {
            STORMS.iter().for_each(|(name, _)| println!("{name}"));
            ExitCode::SUCCESS
        }
        ["run", name] => match STORMS.iter().find(|(known, _)| known == name) {
            Some((_, storm)) => {
                sys::fail_by_exit();
                storm();
                ExitCode::SUCCESS
            }
            None => {
                eprintln!("no storm {name}");
                ExitCode::from(2)
            }
        },
        ["coarse"] => {
            sys::fail_by_exit();
            clock::coarse();
            ExitCode::SUCCESS
        }
        ["uptime"] => {
            sys::fail_by_exit();
            clock::uptime();
            ExitCode::SUCCESS
        }
        ["names"] => {
            sys::fail_by_exit();
            names::answer();
            ExitCode::SUCCESS
        }
        // What the storms execute.
        ["exit", code] => ExitCode::from(code.parse::<u8>().unwrap_or(1)),
        _ => {
            eprintln!("usage: list | run STORM | coarse | uptime | names | exit CODE");
            ExitCode::from(2)
        }
    }
}
