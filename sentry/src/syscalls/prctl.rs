//! prctl(2).

use std::sync::atomic::Ordering;

use abi::Errno;

use super::cred::commit;
use super::{Args, SysResult};
use crate::kernel::cred_exec::securebits;
use crate::kernel::{Caps, Credentials, Current, cred_set};

/// `PR_SET_VMA`
const PR_SET_VMA: i32 = 0x53564d41;
/// `PR_GET_TID_ADDRESS`
const PR_GET_TID_ADDRESS: i32 = 40;
/// `PR_GET_MDWE`
const PR_GET_MDWE: i32 = 66;

fn yes_no(value: bool) -> SysResult {
    Ok(u64::from(value))
}

/// `EINVAL` unless the arguments from `from` on are 0.
fn rest_zero(args: &Args, from: usize) -> Result<(), Errno> {
    if (from..5).all(|n| args.u64(n) == 0) { Ok(()) } else { Err(Errno::EINVAL) }
}

/// A capability argument.
fn cap(number: u64) -> Result<Caps, Errno> {
    let bit = u32::try_from(number).ok().and_then(|n| 1u64.checked_shl(n));
    bit.and_then(Caps::from_bits).ok_or(Errno::EINVAL)
}

/// prctl(2)
pub fn prctl(cur: &mut Current, args: &Args) -> SysResult {
    let cred = cur.cred();
    let arg2 = args.u64(1);
    match args.int(0) {
        libc::PR_SET_PDEATHSIG => {
            if arg2 > 64 {
                return Err(Errno::EINVAL);
            }
            cur.set_pdeath_signal(arg2 as i32);
            Ok(0)
        }
        libc::PR_GET_PDEATHSIG => {
            cur.mm.write_obj(arg2, &cur.pdeath_signal())?;
            Ok(0)
        }
        libc::PR_GET_DUMPABLE => Ok(cur.group.dumpable() as u64),
        libc::PR_SET_DUMPABLE => {
            if arg2 > 1 {
                return Err(Errno::EINVAL);
            }
            cur.group.set_dumpable(arg2 as i32);
            Ok(0)
        }
        libc::PR_GET_KEEPCAPS => yes_no(cred.securebits & securebits::KEEP_CAPS != 0),
        libc::PR_SET_KEEPCAPS => set_keepcaps(cur, &cred, arg2),
        // Statistical timing is all there is.
        libc::PR_GET_TIMING => Ok(0),
        libc::PR_SET_TIMING if arg2 == 0 => Ok(0),
        libc::PR_SET_NAME => set_name(cur, arg2),
        libc::PR_GET_NAME => {
            cur.mm.write_obj(arg2, &cur.task.comm())?;
            Ok(0)
        }
        libc::PR_GET_SECCOMP => Ok(cur.seccomp.mode() as u64),
        libc::PR_SET_SECCOMP => super::seccomp::prctl_set(cur, arg2, args.u64(2)),
        libc::PR_CAPBSET_READ => yes_no(cred.bounding.contains(cap(arg2)?)),
        libc::PR_CAPBSET_DROP => {
            if !cred.capable(Caps::SETPCAP) {
                return Err(Errno::EPERM);
            }
            let bounding = cred.bounding - cap(arg2)?;
            commit(cur, Credentials { bounding, ..(*cred).clone() });
            Ok(0)
        }
        libc::PR_GET_TSC => {
            let fault = cur.no_tsc.load(Ordering::Relaxed);
            let mode = if fault { libc::PR_TSC_SIGSEGV } else { libc::PR_TSC_ENABLE };
            cur.mm.write_obj(arg2, &mode)?;
            Ok(0)
        }
        libc::PR_SET_TSC => set_tsc(cur, arg2),
        libc::PR_GET_SECUREBITS => Ok(cred.securebits as u64),
        libc::PR_SET_SECUREBITS => {
            let new = cred_set::set_securebits(&cred, arg2)?;
            commit(cur, new);
            Ok(0)
        }
        libc::PR_GET_TIMERSLACK => Ok(cur.timer_slack[0].load(Ordering::Relaxed)),
        libc::PR_SET_TIMERSLACK => {
            let default = cur.timer_slack[1].load(Ordering::Relaxed);
            let slack = if arg2 as i64 <= 0 { default } else { arg2 };
            cur.timer_slack[0].store(slack, Ordering::Relaxed);
            Ok(0)
        }
        libc::PR_SET_MM => {
            let capable = cred.capable(Caps::SYS_RESOURCE);
            Err(if capable || args.u64(4) != 0 { Errno::EINVAL } else { Errno::EPERM })
        }
        libc::PR_SET_CHILD_SUBREAPER => {
            cur.group.set_subreaper(arg2 != 0);
            Ok(0)
        }
        libc::PR_GET_CHILD_SUBREAPER => {
            cur.mm.write_obj(arg2, &i32::from(cur.group.is_subreaper()))?;
            Ok(0)
        }
        libc::PR_SET_NO_NEW_PRIVS => {
            if arg2 != 1 {
                return Err(Errno::EINVAL);
            }
            rest_zero(args, 2)?;
            if !cred.no_new_privs {
                commit(cur, Credentials { no_new_privs: true, ..(*cred).clone() });
            }
            Ok(0)
        }
        libc::PR_GET_NO_NEW_PRIVS => {
            rest_zero(args, 1)?;
            yes_no(cred.no_new_privs)
        }
        PR_GET_TID_ADDRESS => {
            cur.mm.write_obj(arg2, &cur.clear_child_tid.load(Ordering::Relaxed))?;
            Ok(0)
        }
        libc::PR_SET_THP_DISABLE => {
            rest_zero(args, 2)?;
            cur.group.set_thp_disabled(arg2 != 0);
            Ok(0)
        }
        libc::PR_GET_THP_DISABLE => {
            rest_zero(args, 1)?;
            yes_no(cur.group.thp_disabled())
        }
        libc::PR_CAP_AMBIENT => ambient(cur, &cred, args),
        PR_SET_VMA => set_vma(cur, args),
        PR_GET_MDWE => {
            rest_zero(args, 1)?;
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

fn set_keepcaps(cur: &Current, cred: &Credentials, value: u64) -> SysResult {
    if value > 1 {
        return Err(Errno::EINVAL);
    }
    if cred.securebits & securebits::KEEP_CAPS_LOCKED != 0 {
        return Err(Errno::EPERM);
    }
    let mut new = cred.clone();
    new.securebits &= !securebits::KEEP_CAPS;
    if value == 1 {
        new.securebits |= securebits::KEEP_CAPS;
    }
    commit(cur, new);
    Ok(0)
}

/// As `set_tsc_mode`, which looks at the lower half of its argument.
fn set_tsc(cur: &mut Current, mode: u64) -> SysResult {
    match mode as i32 {
        libc::PR_TSC_ENABLE => cur.set_tsc(true),
        libc::PR_TSC_SIGSEGV => cur.set_tsc(false),
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

fn set_name(cur: &Current, addr: u64) -> SysResult {
    let mut name = [0; 15];
    let got = cur.mm.copy_in(addr, &mut name);
    if got < name.len() && !name[..got].contains(&0) {
        return Err(Errno::EFAULT);
    }
    cur.task.set_comm(&name);
    Ok(0)
}

fn ambient(cur: &Current, cred: &Credentials, args: &Args) -> SysResult {
    let option = args.int(1);
    if option == libc::PR_CAP_AMBIENT_CLEAR_ALL {
        rest_zero(args, 2)?;
        commit(cur, Credentials { ambient: Caps::empty(), ..cred.clone() });
        return Ok(0);
    }
    rest_zero(args, 3)?;
    let cap = cap(args.u64(2))?;
    let ambient = match option {
        libc::PR_CAP_AMBIENT_IS_SET => return yes_no(cred.ambient.contains(cap)),
        libc::PR_CAP_AMBIENT_LOWER => cred.ambient - cap,
        libc::PR_CAP_AMBIENT_RAISE => {
            if !cred.permitted.contains(cap)
                || !cred.inheritable.contains(cap)
                || cred.securebits & securebits::NO_CAP_AMBIENT_RAISE != 0
            {
                return Err(Errno::EPERM);
            }
            cred.ambient | cap
        }
        _ => return Err(Errno::EINVAL),
    };
    commit(cur, Credentials { ambient, ..cred.clone() });
    Ok(0)
}

/// `PR_SET_VMA_ANON_NAME`
fn set_vma(cur: &Current, args: &Args) -> SysResult {
    const ANON_NAME: u64 = 0;
    const NAME_MAX: usize = 80;
    let (addr, len) = (args.u64(2), args.u64(3));
    if args.u64(1) != ANON_NAME {
        return Err(Errno::EINVAL);
    }
    let name = match args.u64(4) {
        0 => None,
        at => {
            let name = cur.mm.copy_in_cstr(at, NAME_MAX).map_err(|errno| match errno {
                Errno::ENAMETOOLONG => Errno::EINVAL,
                errno => errno,
            })?;
            let valid = name.iter().all(|b| (0x20..0x7f).contains(b) && !b"\\`$[]".contains(b));
            if !valid {
                return Err(Errno::EINVAL);
            }
            Some(String::from_utf8(name).map_err(|_| Errno::EINVAL)?)
        }
    };
    let len = crate::mm::page_up(len).ok_or(Errno::EINVAL)?;
    let end = addr.checked_add(len).ok_or(Errno::EINVAL)?;
    if !addr.is_multiple_of(crate::mm::PAGE) {
        return Err(Errno::EINVAL);
    }
    if len == 0 {
        return Ok(0);
    }
    cur.mm.set_anon_name(addr..end, name.as_deref())?;
    Ok(0)
}
