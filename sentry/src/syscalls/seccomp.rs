//! seccomp(2), and what prctl(2) has of it.

use abi::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Args, SysResult};
use crate::kernel::Current;
use crate::kernel::seccomp::bpf::{Insn, MAX_INSNS, Program};
use crate::kernel::seccomp::{
    Action, FilterFlags, NOTIF_SIZES, Prepared, may_filter, new_listener, set_filter, set_strict,
};

/// `struct sock_fprog`
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Fprog {
    len: u16,
    pad: [u16; 3],
    filter: u64,
}

/// seccomp(2)
pub fn seccomp(cur: &mut Current, args: &Args) -> SysResult {
    let (flags, at) = (args.uint(1), args.u64(2));
    match args.uint(0) {
        libc::SECCOMP_SET_MODE_STRICT => {
            if flags != 0 || at != 0 {
                return Err(Errno::EINVAL);
            }
            set_strict(cur).map(|()| 0)
        }
        libc::SECCOMP_SET_MODE_FILTER => filter(cur, flags.into(), at),
        libc::SECCOMP_GET_ACTION_AVAIL if flags == 0 => {
            let action: u32 = cur.mm.read_obj(at)?;
            Action::from_value(action).map(|_| 0).ok_or(Errno::EOPNOTSUPP)
        }
        libc::SECCOMP_GET_NOTIF_SIZES if flags == 0 => {
            cur.mm.write_obj(at, &NOTIF_SIZES).map(|()| 0)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// `PR_SET_SECCOMP`
pub(super) fn prctl_set(cur: &mut Current, mode: u64, at: u64) -> SysResult {
    match mode {
        1 => set_strict(cur).map(|()| 0),
        2 => filter(cur, 0, at),
        _ => Err(Errno::EINVAL),
    }
}

/// `seccomp_set_mode_filter`
fn filter(cur: &mut Current, flags: u64, at: u64) -> SysResult {
    let flags = FilterFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    let has = |flag| flags.contains(flag);
    let listens = has(FilterFlags::NEW_LISTENER);
    // One number cannot be both a descriptor and the thread that cannot follow.
    if has(FilterFlags::TSYNC) && listens && !has(FilterFlags::TSYNC_ESRCH)
        || has(FilterFlags::WAIT_KILLABLE_RECV) && !listens
    {
        return Err(Errno::EINVAL);
    }
    let fprog: Fprog = cur.mm.read_obj(at)?;
    let len = usize::from(fprog.len);
    if len == 0 || len > MAX_INSNS {
        return Err(Errno::EINVAL);
    }
    may_filter(cur)?;
    if fprog.filter == 0 {
        return Err(Errno::EINVAL);
    }
    let insns: Vec<Insn> = cur.mm.read_array(fprog.filter, len)?;
    let mut prepared = Prepared::new(Program::new(insns)?, flags)?;
    if !listens {
        return set_filter(cur, prepared, flags).map(|failed| failed.unwrap_or(0) as u64);
    }
    cur.files.check_room(cur.group.nofile())?;
    let (file, notifier) = new_listener(cur.cred())?;
    prepared.set_notifier(notifier);
    // Nobody can have used it when it goes again.
    let fd = cur.files.install(file, true, 0, cur.group.nofile())?;
    match set_filter(cur, prepared, flags) {
        Ok(_) => Ok(fd as u64),
        Err(errno) => {
            drop(cur.files.remove(fd));
            Err(errno)
        }
    }
}
