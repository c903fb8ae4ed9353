//! execve's work on memory: from a file and strings to an address space that is ready to run.
//!
//! Two steps, as credentials are decided in between: [`prepare`] follows `#!` lines to the program
//! and reads its headers (what fails there is execve's errno); [`Prepared::load`] makes the new
//! address space. Holds no locks of its own.

use std::sync::Arc;

use abi::Errno;

use crate::mm::FileMapping;
use crate::vfs::FileDescription;

mod auxv;
mod elf;
mod image;
mod script;
mod stack;
mod strings;

#[cfg(test)]
mod tests;

pub use image::{Identity, Loaded, Personality};
pub use strings::{Strings, read_strings};

use elf::Headers;

/// A file that can be executed. Whoever opened it has checked that it is a regular file, that the
/// caller may execute it, and that its mount lets it (`EACCES`).
pub trait ExecFile: Send + Sync {
    /// Reads up to `buf.len()` bytes; fewer at the end of the file only.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno>;
    /// What to map. Executing implies reading; the file is never mapped for writing to it.
    fn mapping(&self) -> FileMapping;
    /// The open file, for /proc/PID/exe.
    fn description(&self) -> Option<Arc<FileDescription>>;
}

/// Opens files for execution, as `open_exec` does: follows symbolic links, with the caller's
/// credentials, root and working directory.
pub trait Opener {
    /// Opens the program or interpreter at `path`.
    fn open_exec(&self, path: &[u8]) -> Result<Arc<dyn ExecFile>, Errno>;
}

/// Why a program was not loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// execve fails with this.
    Errno(Errno),
    /// Linux finds out only when the old program is gone: the process dies of SIGSEGV.
    Fatal(Errno),
}

/// A program and its strings, checked.
pub struct Prepared {
    /// The file that is executed in the end: what set-user-ID bits count of.
    pub file: Arc<dyn ExecFile>,
    /// What /proc/PID/comm is made of, and `AT_EXECFN`: the path given to execve.
    pub filename: Vec<u8>,
    headers: Headers,
    interpreter: Option<(Arc<dyn ExecFile>, Headers)>,
    args: Strings,
    env: Strings,
}

/// How many `#!` lines are followed.
const MAX_REWRITES: usize = 5;
/// `BINPRM_BUF_SIZE`.
const HEAD: usize = 256;

/// Finds out what to execute for `file`, opened at `path`. `inaccessible`: the path will not name
/// the file any more once the program runs (`execveat` on a close-on-exec descriptor), so that no
/// script can be run (`ENOENT`).
///
/// `ENOEXEC` if it is no program, `ELOOP` for too many scripts in a row, `ELIBBAD` for a bad ELF
/// interpreter, `E2BIG` if the strings do not fit; what opening and reading say.
pub fn prepare(
    opener: &dyn Opener,
    file: Arc<dyn ExecFile>,
    path: &[u8],
    inaccessible: bool,
    args: Strings,
    env: Strings,
    stack_limit: u64,
) -> Result<Prepared, Errno> {
    let mut args = args;
    if args.is_empty() {
        // Since Linux 5.18 a program always has an argv[0].
        args.push(b"")?;
    }
    strings::check_total(&args, &env, path, stack_limit)?;
    let mut file = file;
    let mut name = path.to_vec();
    for _ in 0..=MAX_REWRITES {
        let mut head = [0; HEAD];
        file.read_at(0, &mut head)?;
        if !head.starts_with(b"#!") {
            return prepare_elf(opener, file, &head, path, args, env);
        }
        let line = script::parse(&head)?;
        if inaccessible {
            return Err(Errno::ENOENT);
        }
        args.replace_first(&[Some(line.interpreter), line.argument, Some(&name)])?;
        strings::check_total(&args, &env, path, stack_limit)?;
        name = line.interpreter.to_vec();
        file = opener.open_exec(line.interpreter)?;
    }
    Err(Errno::ELOOP)
}

fn prepare_elf(
    opener: &dyn Opener,
    file: Arc<dyn ExecFile>,
    head: &[u8],
    path: &[u8],
    args: Strings,
    env: Strings,
) -> Result<Prepared, Errno> {
    let headers = Headers::read(&*file, head).map_err(|_| Errno::ENOEXEC)?;
    if let Err(errno) = file.mapping().object {
        // `!file->f_op->mmap`.
        return Err(if errno == Errno::ENODEV { Errno::ENOEXEC } else { errno });
    }
    let interpreter = match headers.interpreter(&*file)? {
        Some(path) => {
            let interpreter = opener.open_exec(&path)?;
            let mut head = [0; elf::EHDR_SIZE];
            if interpreter.read_at(0, &mut head)? < head.len() {
                return Err(Errno::EIO);
            }
            let headers = Headers::read(&*interpreter, &head).map_err(|_| Errno::ELIBBAD)?;
            Some((interpreter, headers))
        }
        None => None,
    };
    Ok(Prepared { file, filename: path.to_vec(), headers, interpreter, args, env })
}
