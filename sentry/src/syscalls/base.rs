//! The few calls that the smallest program needs, until their topics have files of their own.

use abi::Errno;

use super::{Args, SysResult};
use crate::kernel::Current;

/// getpid(2)
pub fn getpid(cur: &mut Current, _: &Args) -> SysResult {
    Ok(cur.group.tgid as u64)
}

/// gettid(2)
pub fn gettid(cur: &mut Current, _: &Args) -> SysResult {
    Ok(cur.tid() as u64)
}

/// exit(2)
pub fn exit(cur: &mut Current, args: &Args) -> SysResult {
    cur.exit_thread(((args.int(0) & 0xff) as u32) << 8);
    Ok(0)
}

/// exit_group(2)
pub fn exit_group(cur: &mut Current, args: &Args) -> SysResult {
    cur.group.begin_exit(((args.int(0) & 0xff) as u32) << 8);
    Ok(0)
}

/// arch_prctl(2): the segment bases.
pub fn arch_prctl(cur: &mut Current, args: &Args) -> SysResult {
    const ARCH_SET_GS: u64 = 0x1001;
    const ARCH_SET_FS: u64 = 0x1002;
    const ARCH_GET_FS: u64 = 0x1003;
    const ARCH_GET_GS: u64 = 0x1004;
    let addr = args.u64(1);
    match args.u64(0) {
        ARCH_SET_GS | ARCH_SET_FS if addr >= cur.kernel.platform.user_range().1 => {
            return Err(Errno::EPERM);
        }
        ARCH_SET_GS => cur.regs.gs_base = addr,
        ARCH_SET_FS => cur.regs.fs_base = addr,
        ARCH_GET_FS => cur.mm.write_obj(addr, &cur.regs.fs_base)?,
        ARCH_GET_GS => cur.mm.write_obj(addr, &cur.regs.gs_base)?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}
