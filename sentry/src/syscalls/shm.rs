//! The system calls of System V shared memory.

use abi::Errno;
use abi::ipc::ShmidDs;

use super::mm::limits;
use super::{Args, SysResult};
use crate::ipc::ids::Get;
use crate::ipc::shm::NewSegment;
use crate::kernel::Current;
use crate::mm::{FileMapping, MmapRequest, PAGE};

/// `SHM_INFO`, `SHM_STAT_ANY`; the others are in libc.
const SHM_INFO: i32 = 14;
const SHM_STAT: i32 = 13;
const SHM_STAT_ANY: i32 = 15;

/// shmget(2)
pub fn shmget(cur: &mut Current, args: &Args) -> SysResult {
    let cred = cur.cred();
    let get = Get { cred: &cred, key: args.int(0), flags: args.int(2) };
    let new = NewSegment { memory: &cur.kernel.memory, creator: &cur.task, size: args.u64(1) };
    cur.kernel.ipc.shm.get(&get, &new).map(|id| id as u64)
}

/// shmat(2)
pub fn shmat(cur: &mut Current, args: &Args) -> SysResult {
    let (id, mut addr, shmflg) = (args.int(0), args.u64(1), args.int(2));
    let has = |flag: i32| shmflg & flag != 0;
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    let mut flags = libc::MAP_SHARED;
    if addr == 0 {
        if has(libc::SHM_REMAP) {
            return Err(Errno::EINVAL);
        }
    } else {
        if !addr.is_multiple_of(PAGE) {
            if !has(libc::SHM_RND) {
                return Err(Errno::EINVAL);
            }
            addr &= !(PAGE - 1);
            if addr == 0 && has(libc::SHM_REMAP) {
                return Err(Errno::EINVAL);
            }
        }
        flags |= libc::MAP_FIXED;
    }
    let write = !has(libc::SHM_RDONLY);
    let exec = has(libc::SHM_EXEC);
    let attachment = cur.kernel.ipc.shm.attach(id, &cur.cred(), write, exec)?;
    let exclusive = addr != 0 && !has(libc::SHM_REMAP);
    if exclusive {
        if addr.checked_add(attachment.size).is_none() {
            return Err(Errno::EINVAL);
        }
        flags = libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE;
    }
    let access = |wanted, prot: i32| if wanted { prot } else { 0 };
    let request = MmapRequest {
        addr,
        len: attachment.size,
        prot: (libc::PROT_READ | access(write, libc::PROT_WRITE) | access(exec, libc::PROT_EXEC))
            as u32,
        flags: flags as u32,
        offset: 0,
        file: Some(FileMapping {
            object: Ok(attachment.object.clone()),
            file: None,
            readable: true,
            writable: write,
            append_only: false,
            noexec: false,
            area: Some(attachment.area.clone()),
        }),
    };
    cur.mm.mmap(&request, &limits(cur)).map_err(|errno| match errno {
        Errno::EEXIST => Errno::EINVAL,
        errno => errno,
    })
}

/// shmdt(2)
pub fn shmdt(cur: &mut Current, args: &Args) -> SysResult {
    cur.mm.detach(args.u64(0)).map(|()| 0)
}

/// shmctl(2)
pub fn shmctl(cur: &mut Current, args: &Args) -> SysResult {
    let (id, cmd, buf) = (args.int(0), args.int(1), args.u64(2));
    if id < 0 || cmd < 0 {
        return Err(Errno::EINVAL);
    }
    let shm = &cur.kernel.ipc.shm;
    let cred = cur.cred();
    match cmd {
        libc::IPC_INFO => {
            let (max, limits) = shm.limits();
            cur.mm.write_obj(buf, &limits)?;
            Ok(max.into())
        }
        SHM_INFO => {
            let (max, usage) = shm.usage();
            cur.mm.write_obj(buf, &usage)?;
            Ok(max.into())
        }
        libc::IPC_STAT => {
            cur.mm.write_obj(buf, &shm.stat(id, &cred)?)?;
            Ok(0)
        }
        SHM_STAT | SHM_STAT_ANY => {
            let (id, stat) = shm.stat_at(id, &cred, cmd == SHM_STAT_ANY)?;
            cur.mm.write_obj(buf, &stat)?;
            Ok(id as u64)
        }
        libc::IPC_SET => {
            let new: ShmidDs = cur.mm.read_obj(buf)?;
            shm.set(id, &cred, &new.perm).map(|()| 0)
        }
        libc::IPC_RMID => shm.remove(id, &cred).map(|()| 0),
        libc::SHM_LOCK | libc::SHM_UNLOCK => {
            let limit = cur.group.rlimit(libc::RLIMIT_MEMLOCK).soft;
            shm.lock(id, &cred, limit, cred.uid, cmd == libc::SHM_LOCK).map(|()| 0)
        }
        _ => Err(Errno::EINVAL),
    }
}
