//! The system calls of System V semaphores.

use abi::Errno;
use abi::ipc::{SemBuf, SemidDs};

use super::{Args, SysResult};
use crate::ipc::ids::Get;
use crate::ipc::sem::Query;
use crate::kernel::Current;

const GETPID: i32 = 11;
const GETVAL: i32 = 12;
const GETALL: i32 = 13;
const GETNCNT: i32 = 14;
const GETZCNT: i32 = 15;
const SETVAL: i32 = 16;
const SETALL: i32 = 17;
const SEM_STAT: i32 = 18;
const SEM_INFO: i32 = 19;
const SEM_STAT_ANY: i32 = 20;

/// semget(2)
pub fn semget(cur: &mut Current, args: &Args) -> SysResult {
    let cred = cur.cred();
    let get = Get { cred: &cred, key: args.int(0), flags: args.int(2) };
    cur.kernel.ipc.sem.get(&get, args.int(1)).map(|id| id as u64)
}

/// semop(2)
pub fn semop(cur: &mut Current, args: &Args) -> SysResult {
    semtimedop(cur, &Args([args.u64(0), args.u64(1), args.u64(2), 0, 0, 0]))
}

/// semtimedop(2)
pub fn semtimedop(cur: &mut Current, args: &Args) -> SysResult {
    let (id, nsops) = (args.int(0), args.uint(2));
    let sem = cur.kernel.ipc.sem.clone();
    // Its address is looked at first, its value after the operations.
    let timeout = match args.u64(3) {
        0 => None,
        at => Some(cur.mm.read_obj::<abi::time::Timespec>(at)?),
    };
    if nsops > sem.max_operations() {
        return Err(Errno::E2BIG);
    }
    if nsops < 1 {
        return Err(Errno::EINVAL);
    }
    let ops: Vec<SemBuf> = cur.mm.read_array(args.u64(1), nsops as usize)?;
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    let deadline = match timeout {
        None => None,
        Some(timeout) => super::time::deadline_in(timeout.to_ns().ok_or(Errno::EINVAL)?),
    };
    sem.operate(&cur.task, id, ops, deadline).map(|()| 0)
}

/// semctl(2)
pub fn semctl(cur: &mut Current, args: &Args) -> SysResult {
    let (id, num, cmd, arg) = (args.int(0), args.int(1), args.int(2), args.u64(3));
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    let sem = cur.kernel.ipc.sem.clone();
    let cred = cur.cred();
    let query = |what| sem.query(id, &cred, num, what);
    match cmd {
        libc::IPC_INFO | SEM_INFO => {
            let (max, info) = sem.info(cmd == SEM_INFO);
            cur.mm.write_obj(arg, &info)?;
            Ok(max.into())
        }
        libc::IPC_STAT => {
            cur.mm.write_obj(arg, &sem.stat(id, &cred)?)?;
            Ok(0)
        }
        SEM_STAT | SEM_STAT_ANY => {
            let (id, stat) = sem.stat_at(id, &cred, cmd == SEM_STAT_ANY)?;
            cur.mm.write_obj(arg, &stat)?;
            Ok(id as u64)
        }
        GETVAL => query(Query::Value),
        GETPID => query(Query::Pid),
        GETNCNT => query(Query::WaitingForMore),
        GETZCNT => query(Query::WaitingForZero),
        GETALL => {
            cur.mm.write_obj(arg, sem.values(id, &cred)?.as_slice())?;
            Ok(0)
        }
        SETALL => {
            let count = sem.count_to_set(id, &cred)?;
            let values: Vec<u16> = cur.mm.read_array(arg, count)?;
            sem.set_values(id, cur.group.tgid, &values).map(|()| 0)
        }
        SETVAL => sem.set_value(id, &cred, cur.group.tgid, num, arg as i32).map(|()| 0),
        libc::IPC_SET => {
            let new: SemidDs = cur.mm.read_obj(arg)?;
            sem.set(id, &cred, &new.perm).map(|()| 0)
        }
        libc::IPC_RMID => sem.remove(id, &cred).map(|()| 0),
        _ => Err(Errno::EINVAL),
    }
}
