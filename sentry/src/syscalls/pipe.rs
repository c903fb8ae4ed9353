//! pipe(2), eventfd(2).

use std::sync::Arc;

use abi::Errno;

use super::{Args, SysResult};
use crate::fs::{eventfd, pipe as pipefs};
use crate::kernel::Current;
use crate::vfs::{FileDescription, OpenFlags};

/// Installs a new file at the lowest free descriptor.
pub(super) fn install(cur: &Current, file: Arc<FileDescription>, flags: OpenFlags) -> SysResult {
    let cloexec = flags.contains(OpenFlags::CLOEXEC);
    cur.files.install(file, cloexec, 0, cur.group.nofile()).map(|fd| fd as u64)
}

/// Installs two files and writes their descriptors to `addr`; all or nothing.
pub(super) fn install_pair(
    cur: &Current,
    files: [Arc<FileDescription>; 2],
    flags: OpenFlags,
    addr: u64,
) -> SysResult {
    let [first, second] = files;
    let a = install(cur, first, flags)? as i32;
    let b = match install(cur, second, flags) {
        Ok(b) => b as i32,
        Err(errno) => {
            // It may be gone: another thread can close any descriptor.
            drop(cur.files.remove(a));
            return Err(errno);
        }
    };
    if let Err(errno) = cur.mm.write_obj(addr, &[a, b]) {
        drop((cur.files.remove(a), cur.files.remove(b)));
        return Err(errno);
    }
    Ok(0)
}

fn new_pipe(cur: &Current, addr: u64, flags: OpenFlags) -> SysResult {
    let files = pipefs::new_pipe(&cur.cred(), flags - OpenFlags::CLOEXEC)?;
    install_pair(cur, files, flags, addr)
}

/// pipe(2)
pub fn pipe(cur: &mut Current, args: &Args) -> SysResult {
    new_pipe(cur, args.u64(0), OpenFlags::empty())
}

/// pipe2(2)
pub fn pipe2(cur: &mut Current, args: &Args) -> SysResult {
    let flags = OpenFlags::from_bits_retain(args.uint(1));
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK | OpenFlags::DIRECT).contains(flags) {
        return Err(Errno::EINVAL);
    }
    new_pipe(cur, args.u64(0), flags)
}

/// eventfd(2)
pub fn eventfd(cur: &mut Current, args: &Args) -> SysResult {
    new_eventfd(cur, args.uint(0), 0)
}

/// eventfd2(2)
pub fn eventfd2(cur: &mut Current, args: &Args) -> SysResult {
    new_eventfd(cur, args.uint(0), args.uint(1))
}

fn new_eventfd(cur: &Current, count: u32, flags: u32) -> SysResult {
    const SEMAPHORE: u32 = 1;
    let open = OpenFlags::from_bits_retain(flags & !SEMAPHORE);
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(open) {
        return Err(Errno::EINVAL);
    }
    let semaphore = flags & SEMAPHORE != 0;
    let file = eventfd::new_eventfd(cur.cred(), count, semaphore, open & OpenFlags::NONBLOCK)?;
    install(cur, file, open)
}
