//! What the system as a whole tells: uname(2), sysinfo(2), getrandom(2), reboot(2).

use abi::Errno;

use super::{Args, SysResult};
use crate::kernel::{Caps, Current, version};
use crate::mm::random_bytes;

/// Length of a field of `struct utsname`, with the NUL.
const UTS_LEN: usize = 65;

/// uname(2)
pub fn uname(cur: &mut Current, args: &Args) -> SysResult {
    let names = cur.kernel.uts.lock().clone();
    let fields: [&[u8]; 6] = [
        b"Linux",
        &names.nodename,
        version::RELEASE.as_bytes(),
        version::VERSION.as_bytes(),
        b"x86_64",
        &names.domainname,
    ];
    let mut out = [0u8; UTS_LEN * 6];
    for (slot, field) in out.chunks_exact_mut(UTS_LEN).zip(fields) {
        let len = field.len().min(UTS_LEN - 1);
        slot[..len].copy_from_slice(&field[..len]);
    }
    cur.mm.write_bytes(args.u64(0), &out)?;
    Ok(0)
}

/// Reads a name for sethostname and setdomainname.
fn read_name(cur: &Current, args: &Args) -> Result<Vec<u8>, Errno> {
    if !cur.cred().capable(Caps::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    let len = usize::try_from(args.int(1)).map_err(|_| Errno::EINVAL)?;
    if len >= UTS_LEN {
        return Err(Errno::EINVAL);
    }
    let mut name = vec![0; len];
    cur.mm.read_bytes(args.u64(0), &mut name)?;
    name.truncate(name.iter().position(|&b| b == 0).unwrap_or(len));
    Ok(name)
}

/// sethostname(2)
pub fn sethostname(cur: &mut Current, args: &Args) -> SysResult {
    let name = read_name(cur, args)?;
    cur.kernel.uts.lock().nodename = name;
    Ok(0)
}

/// setdomainname(2)
pub fn setdomainname(cur: &mut Current, args: &Args) -> SysResult {
    let name = read_name(cur, args)?;
    cur.kernel.uts.lock().domainname = name;
    Ok(0)
}

/// sysinfo(2)
pub fn sysinfo(cur: &mut Current, args: &Args) -> SysResult {
    let memory = &cur.kernel.memory;
    let (total, free) = (memory.limit(), memory.limit().saturating_sub(memory.used()));
    let mut out = [0u64; 14];
    out[0] = cur.kernel.host.uptime_ns() / 1_000_000_000;
    out[4] = total;
    out[5] = free;
    // `procs` is a short, with padding behind it.
    out[10] = (cur.kernel.tasks.count().0 as u64).min(u16::MAX as u64);
    // `mem_unit`: bytes.
    out[13] = 1;
    cur.mm.write_obj(args.u64(0), &out)?;
    Ok(0)
}

/// getrandom(2)
pub fn getrandom(cur: &mut Current, args: &Args) -> SysResult {
    const CHUNK: usize = 4096;
    /// `MAX_RW_COUNT`, as for any read.
    const MAX: usize = 0x7fff_f000;
    let flags = args.uint(2);
    let both = libc::GRND_RANDOM | libc::GRND_INSECURE;
    if flags & !(libc::GRND_NONBLOCK | both) != 0 || flags & both == both {
        return Err(Errno::EINVAL);
    }
    let len = args.size(1).min(MAX);
    let mut buf = [0; CHUNK];
    let mut done = 0;
    while done < len {
        let part = &mut buf[..(len - done).min(CHUNK)];
        random_bytes(part);
        let got = cur.mm.copy_out(args.u64(0).wrapping_add(done as u64), part);
        done += got;
        if got < part.len() {
            break;
        }
        if cur.task.interrupted() {
            break;
        }
    }
    if done == 0 && len > 0 { Err(Errno::EFAULT) } else { Ok(done as u64) }
}

/// reboot(2), as in a pid namespace: init dies (`reboot_pid_ns`).
pub fn reboot(cur: &mut Current, args: &Args) -> SysResult {
    const MAGIC1: u32 = 0xfee1_dead;
    const MAGIC2: [u32; 4] = [672_274_793, 85_072_278, 369_367_448, 537_993_216];
    const RESTART: u32 = 0x0123_4567;
    const RESTART2: u32 = 0xa1b2_c3d4;
    const HALT: u32 = 0xcdef_0123;
    const POWER_OFF: u32 = 0x4321_fedc;
    if !cur.cred().capable(Caps::SYS_BOOT) {
        return Err(Errno::EPERM);
    }
    if args.uint(0) != MAGIC1 || !MAGIC2.contains(&args.uint(1)) {
        return Err(Errno::EINVAL);
    }
    let signal = match args.uint(2) {
        RESTART | RESTART2 => libc::SIGHUP,
        HALT | POWER_OFF => libc::SIGINT,
        _ => return Err(Errno::EINVAL),
    };
    if let Some(init) = cur.kernel.tasks.group(1) {
        init.begin_exit(signal as u32);
    }
    cur.exit_thread(0);
    Ok(0)
}
