//! execve(2) and execveat(2).

use abi::Errno;

use super::{Args, SysResult};
use crate::kernel::Current;
use crate::kernel::exec::{self, ExecRequest};
use crate::loader;
use crate::vfs::{LookupFlags, PATH_MAX, open};

/// execve(2)
pub fn execve(cur: &mut Current, args: &Args) -> SysResult {
    let path = cur.mm.copy_in_cstr(args.u64(0), PATH_MAX)?;
    run(cur, libc::AT_FDCWD, path, args.u64(1), args.u64(2), 0)
}

/// execveat(2)
pub fn execveat(cur: &mut Current, args: &Args) -> SysResult {
    let flags = args.int(4);
    let path = cur.mm.copy_in_cstr(args.u64(1), PATH_MAX)?;
    run(cur, args.int(0), path, args.u64(2), args.u64(3), flags)
}

fn run(
    cur: &mut Current,
    dirfd: i32,
    path: Vec<u8>,
    argv: u64,
    envp: u64,
    flags: i32,
) -> SysResult {
    if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let mut lookup = LookupFlags::empty();
    lookup.set(LookupFlags::FOLLOW, flags & libc::AT_SYMLINK_NOFOLLOW == 0);
    lookup.set(LookupFlags::EMPTY, flags & libc::AT_EMPTY_PATH != 0);
    let file = open::open_exec(&cur.task, dirfd, &path, lookup)?;
    let by_fd = dirfd != libc::AT_FDCWD && !path.starts_with(b"/");
    let mut inaccessible = false;
    let name = if by_fd {
        inaccessible = cur.files.get_with_flag(dirfd).is_ok_and(|(_, cloexec)| cloexec);
        let mut name = format!("/dev/fd/{dirfd}").into_bytes();
        if !path.is_empty() {
            name.push(b'/');
            name.extend_from_slice(&path);
        }
        name
    } else {
        path
    };
    let comm = name.rsplit(|&b| b == b'/').next().unwrap_or_default().to_vec();
    let args = loader::read_strings(&cur.mm, argv)?;
    let env = loader::read_strings(&cur.mm, envp)?;
    exec::execve(cur, ExecRequest { file, name, comm, inaccessible, args, env })?;
    Ok(0)
}
