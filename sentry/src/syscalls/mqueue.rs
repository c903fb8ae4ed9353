//! The system calls of POSIX message queues.

use std::sync::Arc;

use abi::Errno;
use abi::ipc::MqAttr;
use abi::time::Timespec;

use super::{Args, SysResult, user};
use crate::fs::mqueue::{self, OpenQueue};
use crate::ipc::mq::{MQ_PRIO_MAX, Message, Notify, QueueAttr};
use crate::kernel::Current;
use crate::kernel::time::{FOREVER, HostClock};
use crate::vfs::{FileDescription, OpenFlags, by_name};

/// Length of what a `SIGEV_THREAD` sends through a netlink socket (`NOTIFY_COOKIE_LEN`).
const COOKIE: usize = 32;
/// Highest signal number.
const NSIG: i32 = 64;

/// An open message queue.
struct Descriptor(Arc<FileDescription>);

impl Descriptor {
    /// `EBADF` for what is none.
    fn get(cur: &Current, fd: i32) -> Result<Descriptor, Errno> {
        let file = cur.files.get(fd)?;
        file.downcast::<OpenQueue>().ok_or(Errno::EBADF)?;
        Ok(Descriptor(file))
    }

    fn open(&self) -> Result<&OpenQueue, Errno> {
        self.0.downcast::<OpenQueue>().ok_or(Errno::EBADF)
    }
}

/// mq_open(2). The library takes the slash off the name.
pub fn mq_open(cur: &mut Current, args: &Args) -> SysResult {
    let flags = OpenFlags::from_bits_truncate(args.uint(1));
    let attr = match args.u64(3) {
        0 => None,
        at => Some(cur.mm.read_obj::<MqAttr>(at)?),
    };
    let attr = attr.map(|a| QueueAttr { maxmsg: a.maxmsg, msgsize: a.msgsize });
    let name = user::path(cur, args.u64(0))?;
    if name.is_empty() {
        return Err(Errno::ENOENT);
    }
    cur.files.check_room(cur.group.nofile())?;
    let root = cur.kernel.mqueue_root()?;
    let task = &cur.task;
    let file = by_name::open_or_create(task, root, &name, flags, args.uint(2), |root, node| {
        mqueue::create_queue(task, root, &name, node, attr)
    })?;
    // Such descriptors are always closed on execve.
    cur.files.install(file, true, 0, cur.group.nofile()).map(|fd| fd as u64)
}

/// mq_unlink(2)
pub fn mq_unlink(cur: &mut Current, args: &Args) -> SysResult {
    let name = user::path(cur, args.u64(0))?;
    if name.is_empty() {
        return Err(Errno::ENOENT);
    }
    by_name::unlink(&cur.task, cur.kernel.mqueue_root()?, &name).map(|()| 0)
}

/// When a call stops waiting: a moment of `CLOCK_REALTIME`, or never.
fn timeout(cur: &Current, addr: u64) -> Result<Option<u64>, Errno> {
    match addr {
        0 => Ok(None),
        at => cur.mm.read_obj::<Timespec>(at)?.to_ns().ok_or(Errno::EINVAL).map(Some),
    }
}

/// Sleeps until woken. `ERESTARTSYS`; `ETIMEDOUT` once the moment has come.
fn block(cur: &Current, until: Option<u64>) -> Result<(), Errno> {
    let clock = HostClock::REALTIME;
    let deadline = until.map(|at| clock.to_monotonic(at)).filter(|&at| at < FOREVER);
    match cur.block(deadline) {
        // The clock was set back meanwhile.
        Err(Errno::ETIMEDOUT) if until.is_some_and(|at| clock.now() < at) => Ok(()),
        other => other,
    }
}

/// mq_timedsend(2)
pub fn mq_timedsend(cur: &mut Current, args: &Args) -> SysResult {
    let (text, len, priority) = (args.u64(1), args.size(2), args.uint(3));
    let until = timeout(cur, args.u64(4))?;
    if priority >= MQ_PRIO_MAX {
        return Err(Errno::EINVAL);
    }
    let descriptor = Descriptor::get(cur, args.int(0))?;
    if !descriptor.0.flags().writable() {
        return Err(Errno::EBADF);
    }
    let open = descriptor.open()?;
    let queue = open.queue()?;
    if len > queue.attr().1 {
        return Err(Errno::EMSGSIZE);
    }
    let message = Message::new(priority, len, |buf| cur.mm.read_bytes(text, buf))?;
    queue.send(&cur.task, message, descriptor.0.nonblocking(), || block(cur, until))?;
    open.touch();
    Ok(0)
}

/// mq_timedreceive(2)
pub fn mq_timedreceive(cur: &mut Current, args: &Args) -> SysResult {
    let (text, len, priority) = (args.u64(1), args.size(2), args.u64(3));
    let until = timeout(cur, args.u64(4))?;
    let descriptor = Descriptor::get(cur, args.int(0))?;
    if !descriptor.0.flags().readable() {
        return Err(Errno::EBADF);
    }
    let open = descriptor.open()?;
    let queue = open.queue()?;
    if len < queue.attr().1 {
        return Err(Errno::EMSGSIZE);
    }
    let message = queue.receive(&cur.task, descriptor.0.nonblocking(), || block(cur, until))?;
    open.touch();
    // What cannot be copied out is lost.
    if priority != 0 {
        cur.mm.write_obj(priority, &message.priority)?;
    }
    cur.mm.write_bytes(text, &message.text)?;
    Ok(message.text.len() as u64)
}

/// mq_notify(2). There are no netlink sockets, which the C library's `SIGEV_THREAD` needs.
pub fn mq_notify(cur: &mut Current, args: &Args) -> SysResult {
    let notify = match args.u64(1) {
        0 => None,
        at => {
            let [value, numbers]: [u64; 2] = cur.mm.read_obj::<[[u64; 2]; 4]>(at)?[0];
            let (signo, kind) = (numbers as i32, (numbers >> 32) as i32);
            Some(match kind {
                libc::SIGEV_NONE => Notify::None,
                // As Linux checks it: 0 is taken, and no signal comes.
                libc::SIGEV_SIGNAL if (0..=NSIG).contains(&signo) => Notify::Signal(signo, value),
                libc::SIGEV_THREAD => {
                    cur.mm.read_bytes(value, &mut [0; COOKIE])?;
                    let file = cur.files.get(signo)?;
                    let is_socket = file.inode()?.file_type() == crate::vfs::FileType::Socket;
                    return Err(if is_socket { Errno::EINVAL } else { Errno::ENOTSOCK });
                }
                _ => return Err(Errno::EINVAL),
            })
        }
    };
    let descriptor = Descriptor::get(cur, args.int(0))?;
    let open = descriptor.open()?;
    match notify {
        Some(notify) => {
            open.queue()?.register(&cur.group, notify)?;
            open.touch();
        }
        None => {
            if open.queue()?.unregister(cur.group.tgid) {
                open.touch();
            }
        }
    }
    Ok(0)
}

/// mq_getsetattr(2)
pub fn mq_getsetattr(cur: &mut Current, args: &Args) -> SysResult {
    let nonblock = i64::from(libc::O_NONBLOCK);
    let new = match args.u64(1) {
        0 => None,
        at => Some(cur.mm.read_obj::<MqAttr>(at)?),
    };
    if new.is_some_and(|new| new.flags & !nonblock != 0) {
        return Err(Errno::EINVAL);
    }
    let fd = args.int(0);
    let descriptor = Descriptor::get(cur, fd)?;
    let open = descriptor.open()?;
    let (maxmsg, msgsize, curmsgs) = open.queue()?.attr();
    let flags = descriptor.0.flags();
    let old = MqAttr {
        flags: if flags.contains(OpenFlags::NONBLOCK) { nonblock } else { 0 },
        maxmsg: maxmsg as i64,
        msgsize: msgsize as i64,
        curmsgs: curmsgs as i64,
        reserved: [0; 4],
    };
    if let Some(new) = new {
        let mut flags = flags;
        flags.set(OpenFlags::NONBLOCK, new.flags & nonblock != 0);
        descriptor.0.set_flags(&cur.kernel, fd, flags);
        open.touch();
    }
    if args.u64(2) != 0 {
        cur.mm.write_obj(args.u64(2), &old)?;
    }
    Ok(0)
}
