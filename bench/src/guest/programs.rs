//! Real programs, started from inside: nanoseconds from start to end.

use crate::Row;
use crate::timing::few;
use std::fmt::Write as _;
use std::process::{Command, Stdio};

/// The rows of this group.
pub(crate) const ROWS: &[Row] = &[
    ("python3 start", python),
    ("gcc -O1", gcc),
    ("python3 -m compileall", compileall),
    ("find /usr/lib", find),
    ("git status", git_status),
    ("tar of /usr/include", tar),
    ("sh, 100 times true", sh_loop),
    ("sqlite, 1 transaction", sqlite_one),
    ("sqlite, 200 transactions", sqlite_many),
];

/// Where programs are looked for, everywhere the same.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let found = PATH
        .split(':')
        .map(|d| format!("{d}/{program}"))
        .find(|p| std::path::Path::new(p).exists());
    let Some(path) = found else { return Err(format!("no {program} here")) };
    let out = Command::new(path)
        .args(args)
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/tmp")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|e| format!("{program}: {e}"))?;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr);
    Err(format!("{program}: {}: {}", out.status, said.lines().last().unwrap_or_default()))
}

fn python() -> Result<f64, String> {
    run("python3", &["-S", "-c", "pass"])?;
    few(5, || run("python3", &["-S", "-c", "pass"]))
}

fn gcc() -> Result<f64, String> {
    let mut c = String::from("#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n");
    for i in 0..200 {
        let _ = writeln!(
            c,
            "int f{i}(int a, int b) {{ int s = 0; for (int i = a; i < b; i++) s += i * {i} % 7; return s; }}"
        );
    }
    c.push_str("int main(void) { printf(\"%d\\n\", f1(1, 9)); return 0; }\n");
    std::fs::write("program.c", c).map_err(|e| e.to_string())?;
    let args = ["-O1", "-o", "program", "program.c"];
    run("gcc", &args)?;
    few(3, || run("gcc", &args))
}

/// Compiles copies of some packages of Python's own library.
fn compileall() -> Result<f64, String> {
    let no_library = || "no library of python3 here".to_string();
    let lib = std::fs::read_dir("/usr/lib").map_err(|e| e.to_string())?;
    let python = lib
        .filter_map(|e| Some(e.ok()?.path()))
        .find(|p| p.join("asyncio/events.py").exists())
        .ok_or_else(no_library)?;
    for package in ["asyncio", "email"] {
        std::fs::create_dir(package).map_err(|e| e.to_string())?;
        for file in std::fs::read_dir(python.join(package)).map_err(|e| e.to_string())? {
            let file = file.map_err(|e| e.to_string())?;
            if file.path().extension().is_some_and(|x| x == "py") {
                let to = std::path::Path::new(package).join(file.file_name());
                std::fs::copy(file.path(), to).map_err(|e| e.to_string())?;
            }
        }
    }
    let args = ["-m", "compileall", "-q", "-f", "asyncio", "email"];
    run("python3", &args)?;
    few(3, || run("python3", &args))
}

fn find() -> Result<f64, String> {
    let args = ["/usr/lib", "-xdev", "-newer", "/usr/bin/env"];
    run("find", &args)?;
    few(3, || run("find", &args))
}

fn git_status() -> Result<f64, String> {
    for d in 0..20 {
        std::fs::create_dir(format!("d{d}")).map_err(|e| e.to_string())?;
        for f in 0..25 {
            std::fs::write(format!("d{d}/f{f}"), format!("{d} {f}\n"))
                .map_err(|e| e.to_string())?;
        }
    }
    run("git", &["init", "-q", "."])?;
    run("git", &["add", "."])?;
    run("git", &["status"])?;
    few(5, || run("git", &["status"]))
}

fn tar() -> Result<f64, String> {
    let args = ["-c", "tar cf - /usr/include 2>/dev/null | cat >/dev/null"];
    run("sh", &args)?;
    few(3, || run("sh", &args))
}

fn sh_loop() -> Result<f64, String> {
    let args = ["-c", "i=0; while [ $i -lt 100 ]; do /bin/true; i=$((i+1)); done"];
    run("sh", &args)?;
    few(3, || run("sh", &args))
}

/// Transactions of one insertion each, into a new database, measured `times` times.
fn sqlite(transactions: usize, times: usize) -> Result<f64, String> {
    let mut sql = String::from("create table t (a integer primary key, b text);");
    for i in 0..transactions {
        let _ = write!(sql, "begin; insert into t (b) values ('row {i}'); commit;");
    }
    let fresh = || {
        let _ = std::fs::remove_file("data.db");
        run("sqlite3", &["data.db", &sql])
    };
    few(times, fresh)
}

fn sqlite_one() -> Result<f64, String> {
    sqlite(1, 5)
}

fn sqlite_many() -> Result<f64, String> {
    sqlite(200, 1)
}
