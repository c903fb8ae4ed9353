//! POSIX message queues: one queue, and the limits of all (`ipc/mqueue.c`, mq_overview(7)).
//!
//! Queues are files of [`crate::fs::mqueue`]. A queue hands messages straight to who waits; notification
//! by signal is sent when the first message comes and nobody waits.
//!
//! Lock order: a queue's lock -> kernel memory. Nobody is woken, and no signal sent, with it held.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use parking_lot::Mutex;

use crate::kernel::users::MsgqueueCharge;
use crate::kernel::{Events, SigInfo, Sleeper, Task, ThreadGroup, WaitQueue};
use crate::kmem::{self, KernelMemory};

/// Most messages of a queue, and bytes of a message, whoever makes it (`HARD_MSGMAX`,
/// `HARD_MSGSIZEMAX`).
pub const HARD_MSGMAX: u32 = 65_536;
/// See [`HARD_MSGMAX`].
pub const HARD_MSGSIZEMAX: u32 = 16 << 20;
/// `MIN_MSGSIZEMAX`
pub const MIN_MSGSIZEMAX: u32 = 128;
/// Priorities are below this (`MQ_PRIO_MAX`).
pub const MQ_PRIO_MAX: u32 = 32_768;
/// What a message costs beside its text, as Linux counts it for `RLIMIT_MSGQUEUE`; and a priority.
const MESSAGE: u64 = 48;
const PRIORITY: u64 = 48;
/// What is told of each change: Linux wakes everybody.
const CHANGED: Events = Events::IN.union(Events::RDNORM).union(Events::OUT).union(Events::WRNORM);
/// `SI_MESGQ`
const SI_MESGQ: i32 = -3;

/// `/proc/sys/fs/mqueue`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names are Linux's.
pub struct Settings {
    pub msg_default: u32,
    pub msg_max: u32,
    pub msgsize_default: u32,
    pub msgsize_max: u32,
    pub queues_max: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            msg_default: 10,
            msg_max: 10,
            msgsize_default: 8192,
            msgsize_max: 8192,
            queues_max: 256,
        }
    }
}

/// What all queues of a sandbox share.
#[derive(Default)]
pub struct MqNamespace {
    settings: Mutex<Settings>,
    queues: AtomicU32,
}

/// One queue's share of [`Settings::queues_max`].
struct Counted(Arc<MqNamespace>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.queues.fetch_sub(1, Ordering::Relaxed);
    }
}

impl MqNamespace {
    /// The settings now.
    pub fn settings(&self) -> Settings {
        *self.settings.lock()
    }

    /// Changes the settings. `EINVAL` for what is out of bounds.
    pub fn set_settings(&self, change: impl FnOnce(&mut Settings)) -> Result<(), Errno> {
        let mut settings = self.settings.lock();
        let mut new = *settings;
        change(&mut new);
        let messages = [new.msg_default, new.msg_max];
        let sizes = [new.msgsize_default, new.msgsize_max];
        if !messages.iter().all(|n| (1..=HARD_MSGMAX).contains(n))
            || !sizes.iter().all(|n| (MIN_MSGSIZEMAX..=HARD_MSGSIZEMAX).contains(n))
        {
            return Err(Errno::EINVAL);
        }
        *settings = new;
        Ok(())
    }

    /// Counts a queue. `ENOSPC`, unless the caller may pass the limit.
    fn count(self: &Arc<Self>, privileged: bool) -> Result<Counted, Errno> {
        let max = self.settings().queues_max;
        if self.queues.fetch_add(1, Ordering::Relaxed) >= max && !privileged {
            self.queues.fetch_sub(1, Ordering::Relaxed);
            return Err(Errno::ENOSPC);
        }
        Ok(Counted(self.clone()))
    }
}

/// A message.
pub struct Message {
    /// Its priority; high ones come first.
    pub priority: u32,
    /// Its text.
    pub text: Vec<u8>,
    _memory: KernelMemory,
}

impl Message {
    /// A message, counted as the kernel's memory. `ENOMEM`
    pub fn new(
        priority: u32,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), Errno>,
    ) -> Result<Message, Errno> {
        let memory = kmem::charge((MESSAGE as usize).saturating_add(len)).ok_or(Errno::ENOMEM)?;
        let mut text = vec![0; len];
        fill(&mut text)?;
        Ok(Message { priority, text, _memory: memory })
    }
}

/// Somebody who waits: to send what is here, or to receive what comes here.
struct Waiter {
    sleeper: Arc<Sleeper>,
    message: Mutex<Option<Message>>,
}

/// How a process wants to hear of the first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    /// Not at all (`SIGEV_NONE`).
    None,
    /// By a signal with a value; none if the number is 0.
    Signal(i32, u64),
}

struct Registered {
    owner: Weak<ThreadGroup>,
    tgid: i32,
    exec_id: u64,
    notify: Notify,
}

#[derive(Default)]
struct State {
    messages: BTreeMap<u32, VecDeque<Message>>,
    count: usize,
    bytes: u64,
    senders: VecDeque<Arc<Waiter>>,
    receivers: VecDeque<Arc<Waiter>>,
    notify: Option<Registered>,
}

/// Attributes that mq_open(3) may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names are Linux's.
pub struct QueueAttr {
    pub maxmsg: i64,
    pub msgsize: i64,
}

/// A queue.
pub struct Queue {
    maxmsg: usize,
    msgsize: usize,
    state: Mutex<State>,
    events: WaitQueue,
    _counted: Counted,
    _charge: MsgqueueCharge,
}

impl Queue {
    /// A queue that `task` makes (`mqueue_get_inode`).
    ///
    /// # Errors
    /// `ENOSPC` for too many queues, `EINVAL` for attributes out of bounds, `EOVERFLOW`, `EMFILE` past
    /// `RLIMIT_MSGQUEUE`.
    pub fn new(
        task: &Task,
        namespace: &Arc<MqNamespace>,
        attr: Option<QueueAttr>,
    ) -> Result<Queue, Errno> {
        let cred = task.cred();
        let privileged = cred.capable(crate::kernel::Caps::SYS_RESOURCE);
        let counted = namespace.count(privileged)?;
        let settings = namespace.settings();
        let attr = attr.unwrap_or(QueueAttr {
            maxmsg: settings.msg_max.min(settings.msg_default).into(),
            msgsize: settings.msgsize_max.min(settings.msgsize_default).into(),
        });
        let (maxmsg, msgsize) = match privileged {
            true => (HARD_MSGMAX, HARD_MSGSIZEMAX),
            false => (settings.msg_max, settings.msgsize_max),
        };
        if !(1..=maxmsg.into()).contains(&attr.maxmsg)
            || !(1..=msgsize.into()).contains(&attr.msgsize)
        {
            return Err(Errno::EINVAL);
        }
        let (maxmsg, msgsize) = (attr.maxmsg as u64, attr.msgsize as u64);
        let limit = task.group.rlimit(libc::RLIMIT_MSGQUEUE).soft;
        let charge = task.user().charge_msgqueue(cost(maxmsg, msgsize), limit);
        Ok(Queue {
            maxmsg: maxmsg as usize,
            msgsize: msgsize as usize,
            state: Mutex::default(),
            events: WaitQueue::new(),
            _counted: counted,
            _charge: charge.ok_or(Errno::EMFILE)?,
        })
    }

    /// Most messages, longest message, and messages now.
    pub fn attr(&self) -> (usize, usize, usize) {
        (self.maxmsg, self.msgsize, self.state.lock().count)
    }

    /// Where [`Queue::poll`]'s changes are announced.
    pub fn events(&self) -> &WaitQueue {
        &self.events
    }

    /// What is ready.
    pub fn poll(&self) -> Events {
        let count = self.state.lock().count;
        let mut events = Events::empty();
        if count > 0 {
            events |= Events::IN | Events::RDNORM;
        }
        if count < self.maxmsg {
            events |= Events::OUT | Events::WRNORM;
        }
        events
    }

    /// What reading the file tells.
    pub fn text(&self) -> String {
        let st = self.state.lock();
        let (mut kind, mut signo, mut pid) = (0, 0, 0);
        if let Some(registered) = &st.notify {
            pid = registered.tgid;
            match registered.notify {
                Notify::None => kind = libc::SIGEV_NONE,
                Notify::Signal(number, _) => (kind, signo) = (libc::SIGEV_SIGNAL, number),
            }
        }
        format!("QSIZE:{:<10} NOTIFY:{kind:<5} SIGNO:{signo:<5} NOTIFY_PID:{pid:<6}\n", st.bytes)
    }

    /// mq_timedsend(2) of a message that is short enough. `block` sleeps, and says why if not because
    /// it was woken.
    ///
    /// # Errors
    /// `EAGAIN` if it is full and `nonblocking`, what `block` says.
    pub fn send(
        &self,
        task: &Task,
        message: Message,
        nonblocking: bool,
        block: impl Fn() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mut st = self.state.lock();
        if st.count < self.maxmsg {
            if let Some(receiver) = st.receivers.pop_front() {
                *receiver.message.lock() = Some(message);
                drop(st);
                receiver.sleeper.unpark();
                return Ok(());
            }
            let notify = if st.count == 0 { st.notify.take() } else { None };
            st.insert(message);
            drop(st);
            if let Some(registered) = notify {
                registered.tell(task);
            }
            self.events.wake(CHANGED);
            return Ok(());
        }
        if nonblocking {
            return Err(Errno::EAGAIN);
        }
        let waiter = Waiter::new(task, Some(message));
        st.senders.push_back(waiter.clone());
        drop(st);
        self.wait(&waiter, block, |waiter| waiter.message.lock().is_none(), |st| &mut st.senders)
    }

    /// mq_timedreceive(2): the first of the messages with the highest priority. `block` as above.
    ///
    /// # Errors
    /// `EAGAIN` if there is none and `nonblocking`, what `block` says.
    pub fn receive(
        &self,
        task: &Task,
        nonblocking: bool,
        block: impl Fn() -> Result<(), Errno>,
    ) -> Result<Message, Errno> {
        let mut st = self.state.lock();
        if let Some(message) = st.take() {
            // There is room for who waited longest.
            let sender = st.senders.pop_front();
            if let Some(theirs) = sender.as_ref().and_then(|sender| sender.message.lock().take()) {
                st.insert(theirs);
            }
            drop(st);
            match sender {
                Some(sender) => sender.sleeper.unpark(),
                None => self.events.wake(CHANGED),
            }
            return Ok(message);
        }
        if nonblocking {
            return Err(Errno::EAGAIN);
        }
        let waiter = Waiter::new(task, None);
        st.receivers.push_back(waiter.clone());
        drop(st);
        let came = |waiter: &Waiter| waiter.message.lock().is_some();
        self.wait(&waiter, block, came, |st| &mut st.receivers)?;
        let message = waiter.message.lock().take();
        message.ok_or(Errno::EINTR)
    }

    fn wait(
        &self,
        waiter: &Arc<Waiter>,
        block: impl Fn() -> Result<(), Errno>,
        done: impl Fn(&Waiter) -> bool,
        queue: impl Fn(&mut State) -> &mut VecDeque<Arc<Waiter>>,
    ) -> Result<(), Errno> {
        loop {
            let slept = block();
            if done(waiter) {
                return Ok(());
            }
            let Err(errno) = slept else { continue };
            let mut st = self.state.lock();
            // It may have been done just now.
            if done(waiter) {
                return Ok(());
            }
            queue(&mut st).retain(|other| !Arc::ptr_eq(other, waiter));
            return Err(errno);
        }
    }

    /// mq_notify(2): the process hears of the first message, once. `EBUSY` if one does already.
    pub fn register(&self, owner: &Arc<ThreadGroup>, notify: Notify) -> Result<(), Errno> {
        let mut st = self.state.lock();
        if st.notify.is_some() {
            return Err(Errno::EBUSY);
        }
        let (tgid, exec_id) = (owner.tgid, owner.exec_id.load(Ordering::Relaxed));
        st.notify = Some(Registered { owner: Arc::downgrade(owner), tgid, exec_id, notify });
        Ok(())
    }

    /// The process wants to hear no more, if it did; so after any close of the queue, too.
    pub fn unregister(&self, tgid: i32) -> bool {
        let mut st = self.state.lock();
        let is_owner = st.notify.as_ref().is_some_and(|r| r.tgid == tgid);
        let gone = if is_owner { st.notify.take() } else { None };
        drop(st);
        gone.is_some()
    }
}

/// What a queue counts for `RLIMIT_MSGQUEUE`.
fn cost(maxmsg: u64, msgsize: u64) -> u64 {
    let records = maxmsg * MESSAGE + maxmsg.min(MQ_PRIO_MAX.into()) * PRIORITY;
    maxmsg.saturating_mul(msgsize).saturating_add(records)
}

impl Waiter {
    fn new(task: &Task, message: Option<Message>) -> Arc<Waiter> {
        Arc::new(Waiter { sleeper: task.sleeper.clone(), message: Mutex::new(message) })
    }
}

impl State {
    fn insert(&mut self, message: Message) {
        self.count += 1;
        self.bytes += message.text.len() as u64;
        self.messages.entry(message.priority).or_default().push_back(message);
    }

    fn take(&mut self) -> Option<Message> {
        let mut highest = self.messages.last_entry()?;
        let message = highest.get_mut().pop_front()?;
        if highest.get().is_empty() {
            highest.remove();
        }
        self.count -= 1;
        self.bytes -= message.text.len() as u64;
        Some(message)
    }
}

impl Registered {
    /// Tells that `sender` sent the first message (`__do_notify`).
    fn tell(self, sender: &Task) {
        let Notify::Signal(signo, value) = self.notify else { return };
        let Some(owner) = self.owner.upgrade() else { return };
        // Another program is not told.
        if signo == 0 || owner.exec_id.load(Ordering::Relaxed) != self.exec_id {
            return;
        }
        let uid = sender.cred().uid;
        let info = SigInfo::value(signo, SI_MESGQ, sender.group.tgid, uid, value);
        // A full queue of signals loses it.
        let _ = owner.send_signal(info);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(priority: u32, text: &[u8]) -> Message {
        let fill = |buf: &mut [u8]| {
            buf.copy_from_slice(text);
            Ok(())
        };
        Message::new(priority, text.len(), fill).unwrap()
    }

    #[test]
    fn high_priorities_come_first_and_then_the_oldest() {
        let mut st = State::default();
        for (priority, text) in [(1, "a"), (9, "b"), (1, "c"), (9, "d"), (0, "e")] {
            st.insert(message(priority, text.as_bytes()));
        }
        assert_eq!((st.count, st.bytes), (5, 5));
        let order: Vec<u8> = std::iter::from_fn(|| st.take()).map(|m| m.text[0]).collect();
        assert_eq!(order, b"bdace");
        assert_eq!((st.count, st.bytes, st.messages.len()), (0, 0, 0));
    }

    #[test]
    fn costs_are_linuxs() {
        assert_eq!(cost(10, 8192), 10 * (8192 + 96));
        assert_eq!(cost(65_536, 1), 65_536 * 49 + 32_768 * 48);
    }

    #[test]
    fn settings_have_bounds() {
        let ns = MqNamespace::default();
        assert!(ns.set_settings(|s| s.msg_max = 0).is_err());
        assert!(ns.set_settings(|s| s.msgsize_max = 127).is_err());
        assert!(ns.set_settings(|s| s.msgsize_default = HARD_MSGSIZEMAX + 1).is_err());
        assert!(ns.set_settings(|s| s.msg_max = HARD_MSGMAX).is_ok());
        assert_eq!(ns.settings().msg_max, HARD_MSGMAX);
    }

    #[test]
    fn queues_are_counted() {
        let ns = Arc::new(MqNamespace::default());
        assert!(ns.set_settings(|s| s.queues_max = 1).is_ok());
        let one = ns.count(false).unwrap();
        assert_eq!(ns.count(false).err(), Some(Errno::ENOSPC));
        assert!(ns.count(true).is_ok());
        drop(one);
        assert!(ns.count(false).is_ok());
    }
}
