//! Message queues: msgget(2), msgsnd(2), msgrcv(2), msgctl(2) (`ipc/msg.c`).
//!
//! [`queue`] is one queue: what fits, who gets what. Here are the queues of a sandbox, and waiting.
//!
//! Lock order: [`MsgNamespace`]'s lock -> a receiver's result, kernel memory. Nobody is woken with it
//! held.

mod queue;

use abi::Errno;
use abi::ipc::{MsgInfo, MsqidDs};
use parking_lot::Mutex;

use super::ids::{Get, IPCMNI, Ids, Object, Perm, S_IRUGO, S_IWUGO};
use crate::kernel::{Caps, Credentials, Task};
use crate::kmem;
use queue::{Queue, Receiver, Wakeups};

pub use queue::{Message, Wanted};

/// What a queue costs beside its messages.
const QUEUE: usize = 512;
/// What a message costs beside its text.
const MESSAGE: usize = 96;

/// `/proc/sys/kernel/msg*`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names are Linux's.
pub struct Settings {
    pub msgmax: u32,
    pub msgmnb: u32,
    pub msgmni: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { msgmax: 8192, msgmnb: 16384, msgmni: 32_000 }
    }
}

#[derive(Default)]
struct State {
    ids: Ids<Queue>,
    settings: Settings,
}

/// All queues.
#[derive(Default)]
pub struct MsgNamespace {
    state: Mutex<State>,
}

impl Message {
    /// A message, counted as the kernel's memory. `ENOMEM`
    pub fn new(
        kind: i64,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), Errno>,
    ) -> Result<Message, Errno> {
        let memory = kmem::charge(MESSAGE.saturating_add(len)).ok_or(Errno::ENOMEM)?;
        let mut text = vec![0; len];
        fill(&mut text)?;
        Ok(Message { kind, text, memory })
    }
}

/// What msgrcv(2) asks for.
#[derive(Clone, Copy, Debug)]
pub struct Receive {
    /// Which message.
    pub wanted: Wanted,
    /// Size of the buffer.
    pub size: usize,
    /// Longer messages are cut (`MSG_NOERROR`).
    pub cut: bool,
    /// `IPC_NOWAIT`
    pub nowait: bool,
}

impl Receive {
    fn max(&self) -> usize {
        if self.cut { usize::MAX } else { self.size }
    }
}

impl MsgNamespace {
    /// msgget(2). `ENOENT`, `EEXIST`, `EACCES`, `ENOSPC`, `ENOMEM`
    pub fn get(&self, get: &Get<'_>) -> Result<i32, Errno> {
        let mut st = self.state.lock();
        if let Some(id) = st.ids.find(get, |_| Ok(()))? {
            return Ok(id);
        }
        let memory = kmem::charge(QUEUE).ok_or(Errno::ENOMEM)?;
        let Settings { msgmnb, msgmni, .. } = st.settings;
        st.ids.add(get, msgmni, |perm| Queue::new(perm, msgmnb.into(), memory))
    }

    /// Longest message.
    pub fn max_message(&self) -> usize {
        self.state.lock().settings.msgmax as usize
    }

    /// msgsnd(2). Blocks until there is room.
    ///
    /// # Errors
    /// `EINVAL`, `EACCES`; `EAGAIN` without waiting; `EIDRM` when the queue is removed meanwhile;
    /// `ERESTARTNOHAND`.
    pub fn send(&self, task: &Task, id: i32, message: Message, nowait: bool) -> Result<(), Errno> {
        let cred = task.cred();
        let size = message.text.len();
        let mut gone = Errno::EINVAL;
        loop {
            let mut st = self.state.lock();
            let queue = st.ids.get_mut(id).map_err(|_| gone)?;
            queue.perm().check(&cred, S_IWUGO)?;
            if queue.fits(size) {
                let mut wakeups = Wakeups::default();
                queue.send(message, task.group.tgid, &mut wakeups);
                drop(st);
                wakeups.send();
                return Ok(());
            }
            if nowait {
                return Err(Errno::EAGAIN);
            }
            queue.wait_to_send(size, &task.sleeper);
            drop(st);
            let slept = task.block(None);
            gone = Errno::EIDRM;
            let mut st = self.state.lock();
            st.ids.get_mut(id).map_err(|_| gone)?.stop_sending(&task.sleeper);
            if slept.is_err() {
                return Err(Errno::ERESTARTNOHAND);
            }
        }
    }

    /// msgrcv(2) without `MSG_COPY`. Blocks until there is a message.
    ///
    /// # Errors
    /// `EINVAL`, `EACCES`, `E2BIG`; `ENOMSG` without waiting; `EIDRM` when the queue is removed
    /// meanwhile; `ERESTARTNOHAND`.
    pub fn receive(&self, task: &Task, id: i32, what: &Receive) -> Result<Message, Errno> {
        let cred = task.cred();
        let mut gone = Errno::EINVAL;
        loop {
            let mut wakeups = Wakeups::default();
            let mut st = self.state.lock();
            let queue = st.ids.get_mut(id).map_err(|_| gone)?;
            queue.perm().check(&cred, S_IRUGO)?;
            let found = queue.receive(what.wanted, what.max(), task.group.tgid, &mut wakeups)?;
            if let Some(message) = found {
                drop(st);
                wakeups.send();
                return Ok(message);
            }
            if what.nowait {
                return Err(Errno::ENOMSG);
            }
            let sleeper = task.sleeper.clone();
            let receiver = Receiver::new(what.wanted, what.max(), task.tid(), sleeper);
            queue.wait_to_receive(&receiver);
            drop(st);
            let slept = task.block(None);
            gone = Errno::EIDRM;
            let mut st = self.state.lock();
            if let Some(result) = receiver.take() {
                return result;
            }
            st.ids.get_mut(id).map_err(|_| gone)?.stop_receiving(&receiver);
            if slept.is_err() {
                return Err(Errno::ERESTARTNOHAND);
            }
        }
    }

    /// msgrcv(2) with `MSG_COPY`. `EINVAL`, `EACCES`, `E2BIG`, `ENOMSG`
    pub fn copy(&self, cred: &Credentials, id: i32, what: &Receive) -> Result<Message, Errno> {
        let st = self.state.lock();
        let queue = st.ids.readable(id, cred)?;
        let (kind, text) = queue.copy(what.wanted, what.size, what.cut)?;
        let memory = kmem::charge(MESSAGE.saturating_add(text.len())).ok_or(Errno::ENOMEM)?;
        Ok(Message { kind, text, memory })
    }

    /// `IPC_INFO`, or `MSG_INFO` with what is in use; and the highest index in use.
    pub fn info(&self, usage: bool) -> (u32, MsgInfo) {
        const MSGSSZ: i32 = 16;
        let st = self.state.lock();
        let Settings { msgmax, msgmnb, msgmni } = st.settings;
        let mut info = MsgInfo {
            msgmax: msgmax as i32,
            msgmnb: msgmnb as i32,
            msgmni: msgmni as i32,
            msgssz: MSGSSZ,
            msgseg: u16::MAX,
            ..Default::default()
        };
        if usage {
            let sizes = st.ids.iter().map(Queue::size);
            let (messages, bytes) =
                sizes.fold((0, 0), |(n, bytes), (more, size)| (n + more, bytes + size));
            info.msgpool = st.ids.len() as i32;
            info.msgmap = i32::try_from(messages).unwrap_or(i32::MAX);
            info.msgtql = i32::try_from(bytes).unwrap_or(i32::MAX);
        } else {
            let default = Settings::default();
            info.msgmap = default.msgmnb as i32;
            info.msgpool = (default.msgmni * (default.msgmnb / 1024)) as i32;
            info.msgtql = default.msgmnb as i32;
        }
        (st.ids.max_index(), info)
    }

    /// `IPC_STAT`. `EINVAL`, `EACCES`
    pub fn stat(&self, id: i32, cred: &Credentials) -> Result<MsqidDs, Errno> {
        let st = self.state.lock();
        let queue = st.ids.readable(id, cred)?;
        Ok(queue.to_abi())
    }

    /// `MSG_STAT`, and `MSG_STAT_ANY` which asks for no permission: the identifier as well.
    pub fn stat_at(
        &self,
        index: i32,
        cred: &Credentials,
        any: bool,
    ) -> Result<(i32, MsqidDs), Errno> {
        let st = self.state.lock();
        let queue = st.ids.readable_at(index, cred, any)?;
        Ok((queue.perm().id, queue.to_abi()))
    }

    /// `IPC_SET`. `EINVAL`, `EPERM`
    pub fn set(&self, id: i32, cred: &Credentials, new: &MsqidDs) -> Result<(), Errno> {
        let mut wakeups = Wakeups::default();
        {
            let mut st = self.state.lock();
            let most = u64::from(st.settings.msgmnb);
            let queue = st.ids.controlled(id, cred)?;
            if new.qbytes > most && !cred.capable(Caps::SYS_RESOURCE) {
                return Err(Errno::EPERM);
            }
            queue.perm_mut().update(&new.perm)?;
            queue.changed(new.qbytes, &mut wakeups);
        }
        wakeups.send();
        Ok(())
    }

    /// `IPC_RMID`: who waits gets `EIDRM`. `EINVAL`, `EPERM`
    pub fn remove(&self, id: i32, cred: &Credentials) -> Result<(), Errno> {
        let mut wakeups = Wakeups::default();
        let queue = {
            let mut st = self.state.lock();
            st.ids.controlled(id, cred)?;
            st.ids.remove(id)
        };
        if let Some(queue) = queue {
            queue.remove(&mut wakeups);
        }
        wakeups.send();
        Ok(())
    }

    /// The settings now.
    pub fn settings(&self) -> Settings {
        self.state.lock().settings
    }

    /// Changes the settings. `EINVAL` for more queues than there are identifiers.
    pub fn set_settings(&self, change: impl FnOnce(&mut Settings)) -> Result<(), Errno> {
        let mut st = self.state.lock();
        let mut settings = st.settings;
        change(&mut settings);
        if settings.msgmni > IPCMNI {
            return Err(Errno::EINVAL);
        }
        st.settings = settings;
        Ok(())
    }

    /// `/proc/sysvipc/msg`
    pub fn table(&self) -> String {
        use std::fmt::Write as _;
        let mut out = String::from(
            "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      \
             stime      rtime      ctime\n",
        );
        for queue in self.state.lock().ids.iter() {
            let Perm { key, id, mode, uid, gid, cuid, cgid, .. } = *queue.perm();
            let q = queue.to_abi();
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "{key:10} {id:10}  {mode:4o}  {:10} {:10} {:5} {:5} {uid:5} {gid:5} {cuid:5} {cgid:5} \
                 {:10} {:10} {:10}",
                q.cbytes, q.qnum, q.lspid, q.lrpid, q.stime, q.rtime, q.ctime,
            );
        }
        out
    }
}
