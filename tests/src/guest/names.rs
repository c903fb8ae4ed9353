//! What a guest finds in a mount that the host changes meanwhile: no storm, for the host has the other
//! half of it.
//!
//! A request is a line on standard input, its words separated by spaces; the answer is one on standard
//! output. `look PATH...` tells an inode number for each path, or `-ERRNO`; `make PATH`, `mkdir PATH`,
//! `remove PATH`, `rmdir PATH` and `move FROM TO` change something and answer `0` or `-ERRNO`; so does
//! `create TIMES PATH`, which opens a file, made if need be, and removes it, again and again until one fails.

use std::fs;
use std::io::{self, BufRead, Write};
use std::os::unix::fs::MetadataExt;

fn number(result: io::Result<u64>) -> String {
    match result {
        Ok(number) => number.to_string(),
        Err(error) => format!("-{}", error.raw_os_error().unwrap_or(0)),
    }
}

/// Through open(2), which goes another way than stat(2) does.
fn opened(path: &str) -> io::Result<u64> {
    fs::File::open(path)?.metadata().map(|m| m.ino())
}

pub fn answer() {
    let mut line = String::new();
    let mut rounds = 0u64;
    while io::stdin().lock().read_line(&mut line).expect("a request") > 0 {
        let words: Vec<&str> = line.split_whitespace().collect();
        rounds += 1;
        let done = |result: io::Result<()>| number(result.map(|()| 0));
        let answer = match words.as_slice() {
            ["look", paths @ ..] => {
                let stat = |path: &&str| match fs::symlink_metadata(path) {
                    Ok(found) if found.is_file() && rounds.is_multiple_of(2) => {
                        number(opened(path))
                    }
                    found => number(found.map(|m| m.ino())),
                };
                paths.iter().map(stat).collect::<Vec<_>>().join(" ")
            }
            ["make", path] => done(fs::File::create_new(path).map(drop)),
            ["create", times, path] => {
                let mut create = fs::File::options();
                create.create(true).truncate(false).write(true);
                let times = times.parse().expect("a number");
                let once = |_: u32| create.open(path).and_then(|_| fs::remove_file(path));
                done((0..times).try_for_each(once))
            }
            ["mkdir", path] => done(fs::create_dir(path)),
            ["remove", path] => done(fs::remove_file(path)),
            ["rmdir", path] => done(fs::remove_dir(path)),
            ["move", from, to] => done(fs::rename(from, to)),
            other => panic!("{other:?}?"),
        };
        let mut out = io::stdout().lock();
        writeln!(out, "{answer}").and_then(|()| out.flush()).expect("an answer");
        line.clear();
    }
}
