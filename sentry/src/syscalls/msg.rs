//! The system calls of System V message queues.

use abi::Errno;
use abi::ipc::MsqidDs;

use super::{Args, SysResult};
use crate::ipc::ids::Get;
use crate::ipc::msg::{Message, Receive, Wanted};
use crate::kernel::Current;

const MSG_STAT: i32 = 11;
const MSG_INFO: i32 = 12;
const MSG_STAT_ANY: i32 = 13;
/// The type that stands before a message's text.
const TYPE: u64 = size_of::<i64>() as u64;

/// msgget(2)
pub fn msgget(cur: &mut Current, args: &Args) -> SysResult {
    let cred = cur.cred();
    let get = Get { cred: &cred, key: args.int(0), flags: args.int(1) };
    cur.kernel.ipc.msg.get(&get).map(|id| id as u64)
}

/// msgsnd(2)
pub fn msgsnd(cur: &mut Current, args: &Args) -> SysResult {
    let (id, msgp, size, flags) = (args.int(0), args.u64(1), args.size(2), args.int(3));
    let kind: i64 = cur.mm.read_obj(msgp)?;
    let msg = &cur.kernel.ipc.msg;
    if size > msg.max_message() || id < 0 || kind < 1 {
        return Err(Errno::EINVAL);
    }
    let text = msgp.checked_add(TYPE).ok_or(Errno::EFAULT)?;
    let message = Message::new(kind, size, |buf| cur.mm.read_bytes(text, buf))?;
    msg.send(&cur.task, id, message, flags & libc::IPC_NOWAIT != 0).map(|()| 0)
}

/// msgrcv(2)
pub fn msgrcv(cur: &mut Current, args: &Args) -> SysResult {
    let (id, msgp, size, kind, flags) =
        (args.int(0), args.u64(1), args.long(2), args.long(3), args.int(4));
    let size = usize::try_from(size).map_err(|_| Errno::EINVAL)?;
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    let has = |flag: i32| flags & flag != 0;
    let mut what = Receive {
        wanted: Wanted::new(kind, flags),
        size,
        cut: has(libc::MSG_NOERROR),
        nowait: has(libc::IPC_NOWAIT),
    };
    let msg = &cur.kernel.ipc.msg;
    let message = if has(libc::MSG_COPY) {
        if has(libc::MSG_EXCEPT) || !has(libc::IPC_NOWAIT) {
            return Err(Errno::EINVAL);
        }
        // Linux makes the copy of what is in the buffer, so that has to be readable.
        what.size = size.min(msg.max_message());
        drop(Message::new(1, what.size, |buf| cur.mm.read_bytes(msgp, buf))?);
        msg.copy(&cur.cred(), id, &what)?
    } else {
        msg.receive(&cur.task, id, &what)?
    };
    // What cannot be copied out is lost.
    let text = message.text.get(..size).unwrap_or(&message.text);
    cur.mm.write_obj(msgp, &message.kind)?;
    cur.mm.write_bytes(msgp.checked_add(TYPE).ok_or(Errno::EFAULT)?, text)?;
    Ok(text.len() as u64)
}

/// msgctl(2)
pub fn msgctl(cur: &mut Current, args: &Args) -> SysResult {
    let (id, cmd, buf) = (args.int(0), args.int(1), args.u64(2));
    if id < 0 || cmd < 0 {
        return Err(Errno::EINVAL);
    }
    let msg = &cur.kernel.ipc.msg;
    let cred = cur.cred();
    match cmd {
        libc::IPC_INFO | MSG_INFO => {
            let (max, info) = msg.info(cmd == MSG_INFO);
            cur.mm.write_obj(buf, &info)?;
            Ok(max.into())
        }
        libc::IPC_STAT => {
            cur.mm.write_obj(buf, &msg.stat(id, &cred)?)?;
            Ok(0)
        }
        MSG_STAT | MSG_STAT_ANY => {
            let (id, stat) = msg.stat_at(id, &cred, cmd == MSG_STAT_ANY)?;
            cur.mm.write_obj(buf, &stat)?;
            Ok(id as u64)
        }
        libc::IPC_SET => {
            let new: MsqidDs = cur.mm.read_obj(buf)?;
            msg.set(id, &cred, &new).map(|()| 0)
        }
        libc::IPC_RMID => msg.remove(id, &cred).map(|()| 0),
        _ => Err(Errno::EINVAL),
    }
}
