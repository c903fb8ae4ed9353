//! signalfd(2).

use abi::Errno;

use super::pipe::install;
use super::{Args, SysResult};
use crate::fs::signalfd::{SignalFd, new_signalfd};
use crate::kernel::Current;
use crate::kernel::signal::SigSet;
use crate::vfs::OpenFlags;

/// signalfd(2)
pub fn signalfd(cur: &mut Current, args: &Args) -> SysResult {
    make(cur, args, 0)
}

/// signalfd4(2)
pub fn signalfd4(cur: &mut Current, args: &Args) -> SysResult {
    make(cur, args, args.uint(3))
}

fn make(cur: &mut Current, args: &Args, flags: u32) -> SysResult {
    if args.size(2) != size_of::<SigSet>() {
        return Err(Errno::EINVAL);
    }
    let mask: SigSet = cur.mm.read_obj(args.u64(1))?;
    let flags = OpenFlags::from_bits_retain(flags);
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(flags) {
        return Err(Errno::EINVAL);
    }
    if args.int(0) == -1 {
        let file = new_signalfd(cur.cred(), mask, flags & OpenFlags::NONBLOCK)?;
        return install(cur, file, flags);
    }
    let file = cur.files.get(args.int(0))?;
    file.downcast::<SignalFd>().ok_or(Errno::EINVAL)?.set_mask(mask);
    Ok(args.int(0) as u64)
}
