//! A judge: runs programs on test cases in parallel, each run in a sandbox of its own, and says what
//! it thinks of them.
//!
//! ```sh
//! cargo run --release --example judge -- TESTS PROGRAM...
//! ```
//!
//! `TESTS` is a directory of `NAME.in` and `NAME.out`. A `PROGRAM` is a `.py` file (run by python3), a
//! `.sh` file (run by sh), a `.c` file (compiled by cc, in a sandbox as well), or an executable. One
//! line a program and test: the verdict, the processor time, the memory.
//!
//! | verdict | meaning |
//! |---|---|
//! | AC | accepted |
//! | WA | the output is another one |
//! | TLE | the time was up |
//! | MLE | there was no memory left |
//! | OLE | it wrote too much |
//! | RE | it failed: another exit code than 0, or a signal |
//! | CE | it does not compile |

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rsentry::{Builder, Cause, Error, Input, Output, Profile, Report, Sandbox};

const CPU_TIME: Duration = Duration::from_secs(1);
/// A program that sleeps is too slow, too.
const WALL: Duration = Duration::from_secs(20);
const MEMORY: u64 = 64 << 20;
const OUTPUT: u64 = 1 << 20;

/// Where the program lies inside.
const PLACE: &str = "/judge";

fn main() -> ExitCode {
    // This program is its own helper; see `Builder::run`.
    rsentry::init();
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let Some(tests) = arguments.next() else {
        eprintln!("usage: judge TESTS PROGRAM...");
        return ExitCode::from(2);
    };
    let programs: Vec<PathBuf> = arguments.collect();
    match judge(&tests, &programs) {
        Ok(lines) => {
            lines.iter().for_each(|line| println!("{line}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("judge: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One test: its name, what is read, what is to be written.
struct Case {
    name: String,
    input: Vec<u8>,
    expected: Vec<u8>,
}

/// A program that is ready to run, or why it is not.
struct Program {
    name: String,
    /// On the host, and the command that runs it inside.
    ready: Result<(PathBuf, Vec<String>), &'static str>,
}

fn judge(tests: &Path, programs: &[PathBuf]) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let cases = cases(tests)?;
    let scratch = tempfile::tempdir()?;
    let programs: Vec<Program> =
        programs.iter().map(|path| prepare(path, scratch.path())).collect::<Result<_, _>>()?;
    let jobs: Vec<(&Program, &Case)> =
        programs.iter().flat_map(|program| cases.iter().map(move |case| (program, case))).collect();
    let lines = Mutex::new(vec![String::new(); jobs.len()]);
    let next = AtomicUsize::new(0);
    let workers = std::thread::available_parallelism()?.get();
    let work = || -> Result<(), Error> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some((program, case)) = jobs.get(number) else { return Ok(()) };
            let line = run(program, case)?;
            lines.lock().unwrap_or_else(|e| e.into_inner())[number] = line;
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker
                .join()
                .map_err(|_| "a worker panicked")?
                .map_err(Box::<dyn std::error::Error>::from)
        })
    })?;
    Ok(lines.into_inner().unwrap_or_else(|e| e.into_inner()))
}

/// Reads all tests, in the order of their names.
fn cases(directory: &Path) -> std::io::Result<Vec<Case>> {
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "in") {
            let expected = std::fs::read(path.with_extension("out"))?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            cases.push(Case { name, input: std::fs::read(&path)?, expected });
        }
    }
    cases.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(cases)
}

/// Finds out how to run a program; compiles it if that is needed.
fn prepare(path: &Path, scratch: &Path) -> Result<Program, Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let command = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let ready = match path.extension().and_then(|extension| extension.to_str()) {
        Some("py") => Ok((path.to_owned(), command(&["python3", PLACE]))),
        Some("sh") => Ok((path.to_owned(), command(&["sh", PLACE]))),
        Some("c") => match compile(path, &scratch.join(&name))? {
            Some(binary) => Ok((binary, command(&[PLACE]))),
            None => Err("CE"),
        },
        _ => Ok((path.to_owned(), command(&[PLACE]))),
    };
    Ok(Program { name, ready })
}

/// Compiles a C program in a sandbox. Compilers are programs that read what somebody wrote, too.
fn compile(source: &Path, directory: &Path) -> Result<Option<PathBuf>, Error> {
    let failed = |error: std::io::Error| Error::Usage(format!("{directory:?}: {error}"));
    std::fs::create_dir(directory).map_err(failed)?;
    let report = Sandbox::builder(["cc", "-O2", "-o", "/out/program", "/source.c"])
        .profile(Profile::Standard)
        .read_only(source, "/source.c")
        .read_write(directory, "/out")
        .memory(1 << 30)
        .wall(Duration::from_secs(30))
        .stdin(Input::Null)
        .stdout(Output::Null)
        .stderr(Output::Null)
        .run()?;
    Ok(report.success().then(|| directory.join("program")))
}

/// Runs a program on a test: one line of the result.
fn run(program: &Program, case: &Case) -> Result<String, Error> {
    let (verdict, report) = match &program.ready {
        Err(verdict) => (*verdict, None),
        Ok((path, command)) => {
            let report = sandbox(path, command).stdin(Input::Bytes(case.input.clone())).run()?;
            (verdict(&report, &case.expected), Some(report))
        }
    };
    let used = report.map_or(String::new(), |report| {
        format!(
            " {:.3} s {:.1} MiB",
            report.cpu.as_secs_f64(),
            report.peak_memory as f64 / 1048576.0
        )
    });
    Ok(format!("{} {} {verdict}{used}", program.name, case.name))
}

fn sandbox(path: &Path, command: &[String]) -> Builder {
    Sandbox::builder(command)
        .profile(Profile::Strict)
        .read_only(path, PLACE)
        .cpu_time(CPU_TIME)
        .wall(WALL)
        .memory(MEMORY)
        .output_limit(OUTPUT)
        .stdout(Output::Capture)
        .stderr(Output::Null)
}

fn verdict(report: &Report, expected: &[u8]) -> &'static str {
    match report.ended_by {
        Cause::Wall | Cause::Cpu => "TLE",
        Cause::Output => "OLE",
        Cause::Memory => "MLE",
        // A program that was refused memory fails in its own way.
        _ if !report.success() && starved(report) => "MLE",
        _ if !report.success() => "RE",
        _ if same(&report.stdout, expected) => "AC",
        _ => "WA",
    }
}

/// Whether it came close to its limit, or one of its processes was killed for want of memory.
fn starved(report: &Report) -> bool {
    report.oom_kills > 0 || report.peak_memory >= MEMORY / 10 * 9
}

/// Whether two outputs are the same but for blanks at the ends of lines, and empty lines at the end.
fn same(one: &[u8], other: &[u8]) -> bool {
    let lines = |text: &[u8]| -> Vec<Vec<u8>> {
        let mut lines: Vec<Vec<u8>> =
            text.split(|b| *b == b'\n').map(|line| line.trim_ascii_end().to_vec()).collect();
        while lines.last().is_some_and(Vec::is_empty) {
            lines.pop();
        }
        lines
    };
    lines(one) == lines(other)
}
