//! One message queue: its messages, and who waits to send and to receive.
//!
//! Knows no tasks and sleeps for nobody: who must be woken is added to a list that the caller works
//! through without the lock.

use std::collections::VecDeque;
use std::sync::Arc;

use abi::Errno;
use parking_lot::Mutex;

use crate::ipc::ids::{Object, Perm};
use crate::ipc::seconds;
use crate::kernel::Sleeper;
use crate::kmem::KernelMemory;

/// A message.
pub struct Message {
    /// Its type, positive.
    pub kind: i64,
    /// Its text.
    pub text: Vec<u8>,
    /// Counts it.
    pub memory: KernelMemory,
}

/// Which message a receiver wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The first.
    Any,
    /// The first of this type.
    Equal(i64),
    /// The first of another type (`MSG_EXCEPT`).
    NotEqual(i64),
    /// The first of the lowest type that is at most this.
    AtMost(i64),
    /// By its place in the queue (`MSG_COPY`).
    Number(i64),
}

impl Wanted {
    /// What msgrcv(2)'s arguments mean (`convert_mode`).
    pub fn new(kind: i64, flags: i32) -> Wanted {
        match kind {
            _ if flags & libc::MSG_COPY != 0 => Wanted::Number(kind),
            0 => Wanted::Any,
            ..0 => Wanted::AtMost(kind.saturating_neg()),
            _ if flags & libc::MSG_EXCEPT != 0 => Wanted::NotEqual(kind),
            _ => Wanted::Equal(kind),
        }
    }

    fn accepts(self, kind: i64) -> bool {
        match self {
            Wanted::Any | Wanted::Number(_) => true,
            Wanted::Equal(wanted) => kind == wanted,
            Wanted::NotEqual(unwanted) => kind != unwanted,
            Wanted::AtMost(most) => kind <= most,
        }
    }

    /// The place of the message that it picks (`find_msg`).
    pub fn pick<'a>(self, messages: impl Iterator<Item = &'a Message>) -> Option<usize> {
        let mut messages = messages.enumerate().filter(|(_, m)| self.accepts(m.kind));
        match self {
            // The first of those that are equally low.
            Wanted::AtMost(_) => messages.min_by_key(|(at, m)| (m.kind, *at)).map(|(at, _)| at),
            Wanted::Number(number) => {
                usize::try_from(number).ok().and_then(|n| messages.nth(n)).map(|(at, _)| at)
            }
            _ => messages.next().map(|(at, _)| at),
        }
    }
}

/// Somebody who waits for a message.
pub struct Receiver {
    wanted: Wanted,
    /// Longest message that he takes.
    max: usize,
    tid: i32,
    sleeper: Arc<Sleeper>,
    result: Mutex<Option<Result<Message, Errno>>>,
}

impl Receiver {
    /// A task that sleeps on `sleeper`.
    pub fn new(wanted: Wanted, max: usize, tid: i32, sleeper: Arc<Sleeper>) -> Arc<Receiver> {
        Arc::new(Receiver { wanted, max, tid, sleeper, result: Mutex::new(None) })
    }

    /// What came, once.
    pub fn take(&self) -> Option<Result<Message, Errno>> {
        self.result.lock().take()
    }
}

/// Somebody who waits for room.
struct Sender {
    size: usize,
    sleeper: Arc<Sleeper>,
}

/// Whom to wake, once the lock is released.
#[derive(Default)]
#[must_use = "they sleep on otherwise"]
pub struct Wakeups(Vec<Arc<Sleeper>>);

impl Wakeups {
    /// Wakes them.
    pub fn send(self) {
        for sleeper in self.0 {
            sleeper.unpark();
        }
    }
}

/// `struct msg_queue`
pub struct Queue {
    perm: Perm,
    messages: VecDeque<Message>,
    receivers: VecDeque<Arc<Receiver>>,
    senders: Vec<Sender>,
    /// Bytes that are in it, and may be.
    bytes: u64,
    max_bytes: u64,
    stime: i64,
    rtime: i64,
    ctime: i64,
    lspid: i32,
    lrpid: i32,
    _memory: KernelMemory,
}

impl Object for Queue {
    fn perm(&self) -> &Perm {
        &self.perm
    }
    fn perm_mut(&mut self) -> &mut Perm {
        &mut self.perm
    }
}

impl Queue {
    /// An empty one.
    pub fn new(perm: Perm, max_bytes: u64, memory: KernelMemory) -> Queue {
        Queue {
            perm,
            messages: VecDeque::new(),
            receivers: VecDeque::new(),
            senders: Vec::new(),
            bytes: 0,
            max_bytes,
            stime: 0,
            rtime: 0,
            ctime: seconds(),
            lspid: 0,
            lrpid: 0,
            _memory: memory,
        }
    }

    /// As `IPC_STAT` tells it.
    pub fn to_abi(&self) -> abi::ipc::MsqidDs {
        abi::ipc::MsqidDs {
            perm: self.perm.to_abi(),
            stime: self.stime,
            rtime: self.rtime,
            ctime: self.ctime,
            cbytes: self.bytes,
            qnum: self.messages.len() as u64,
            qbytes: self.max_bytes,
            lspid: self.lspid,
            lrpid: self.lrpid,
            unused: [0; 2],
        }
    }

    /// Whether a message of this size has room.
    pub fn fits(&self, size: usize) -> bool {
        self.bytes.saturating_add(size as u64) <= self.max_bytes
            && (self.messages.len() as u64) < self.max_bytes
    }

    /// Waits for room, until [`Queue::stop_sending`].
    pub fn wait_to_send(&mut self, size: usize, sleeper: &Arc<Sleeper>) {
        self.senders.push(Sender { size, sleeper: sleeper.clone() });
    }

    /// The task waits for room no longer.
    pub fn stop_sending(&mut self, sleeper: &Arc<Sleeper>) {
        self.senders.retain(|sender| !Arc::ptr_eq(&sender.sleeper, sleeper));
    }

    /// Gives a message that fits to the first who waits for it, or else keeps it.
    pub fn send(&mut self, message: Message, pid: i32, wakeups: &mut Wakeups) {
        self.lspid = pid;
        self.stime = seconds();
        let mut at = 0;
        while let Some(receiver) = self.receivers.get(at) {
            if !receiver.wanted.accepts(message.kind) {
                at += 1;
                continue;
            }
            let Some(receiver) = self.receivers.remove(at) else { break };
            wakeups.0.push(receiver.sleeper.clone());
            if receiver.max < message.text.len() {
                *receiver.result.lock() = Some(Err(Errno::E2BIG));
                continue;
            }
            self.lrpid = receiver.tid;
            self.rtime = seconds();
            *receiver.result.lock() = Some(Ok(message));
            return;
        }
        self.bytes += message.text.len() as u64;
        self.messages.push_back(message);
    }

    /// Takes the wanted message out. `None` if there is none; `E2BIG` if it is longer than `max`.
    pub fn receive(
        &mut self,
        wanted: Wanted,
        max: usize,
        pid: i32,
        wakeups: &mut Wakeups,
    ) -> Result<Option<Message>, Errno> {
        let Some(at) = wanted.pick(self.messages.iter()) else { return Ok(None) };
        if self.messages.get(at).is_some_and(|m| m.text.len() > max) {
            return Err(Errno::E2BIG);
        }
        let Some(message) = self.messages.remove(at) else { return Ok(None) };
        self.bytes = self.bytes.saturating_sub(message.text.len() as u64);
        self.rtime = seconds();
        self.lrpid = pid;
        self.wake_senders(wakeups);
        Ok(Some(message))
    }

    /// The message at a place, which stays (`MSG_COPY`): type and text, if the buffer is big enough.
    /// `ENOMSG`; `E2BIG`, or `EINVAL` if the caller wanted it cut.
    pub fn copy(&self, wanted: Wanted, max: usize, cut: bool) -> Result<(i64, Vec<u8>), Errno> {
        let at = wanted.pick(self.messages.iter());
        let message = at.and_then(|at| self.messages.get(at)).ok_or(Errno::ENOMSG)?;
        if message.text.len() > max {
            return Err(if cut { Errno::EINVAL } else { Errno::E2BIG });
        }
        Ok((message.kind, message.text.clone()))
    }

    /// Waits for a message, until [`Queue::stop_receiving`].
    pub fn wait_to_receive(&mut self, receiver: &Arc<Receiver>) {
        self.receivers.push_back(receiver.clone());
    }

    /// The task waits for a message no longer.
    pub fn stop_receiving(&mut self, receiver: &Arc<Receiver>) {
        self.receivers.retain(|other| !Arc::ptr_eq(other, receiver));
    }

    fn wake_senders(&self, wakeups: &mut Wakeups) {
        let fitting = self.senders.iter().filter(|sender| self.fits(sender.size));
        wakeups.0.extend(fitting.map(|sender| sender.sleeper.clone()));
    }

    /// `IPC_SET`, after the permissions: everybody who waits looks again.
    pub fn changed(&mut self, max_bytes: u64, wakeups: &mut Wakeups) {
        self.max_bytes = max_bytes;
        self.ctime = seconds();
        wakeups.0.extend(self.receivers.drain(..).map(|receiver| receiver.sleeper.clone()));
        self.wake_senders(wakeups);
    }

    /// It is removed: nobody waits any more. Senders find that it is gone.
    pub fn remove(self, wakeups: &mut Wakeups) {
        for receiver in self.receivers {
            *receiver.result.lock() = Some(Err(Errno::EIDRM));
            wakeups.0.push(receiver.sleeper.clone());
        }
        wakeups.0.extend(self.senders.into_iter().map(|sender| sender.sleeper));
    }

    /// Number of messages, and of their bytes.
    pub fn size(&self) -> (usize, u64) {
        (self.messages.len(), self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kmem;
    use proptest::prelude::*;

    fn message(kind: i64, text: &[u8]) -> Message {
        Message { kind, text: text.to_vec(), memory: kmem::charge(1).unwrap() }
    }

    fn queue(max_bytes: u64) -> Queue {
        let perm = Perm { id: 0, key: 0, uid: 0, gid: 0, cuid: 0, cgid: 0, mode: 0, seq: 0 };
        Queue::new(perm, max_bytes, kmem::charge(1).unwrap())
    }

    fn wakes(f: impl FnOnce(&mut Wakeups)) -> usize {
        let mut wakeups = Wakeups::default();
        f(&mut wakeups);
        wakeups.0.len()
    }

    fn waits(queue: &mut Queue, wanted: Wanted, max: usize) -> Arc<Receiver> {
        let receiver = Receiver::new(wanted, max, 5, Arc::default());
        queue.wait_to_receive(&receiver);
        receiver
    }

    #[test]
    fn types_mean_what_msgrcv_says() {
        assert_eq!(Wanted::new(0, libc::MSG_EXCEPT), Wanted::Any);
        assert_eq!(Wanted::new(3, 0), Wanted::Equal(3));
        assert_eq!(Wanted::new(3, libc::MSG_EXCEPT), Wanted::NotEqual(3));
        assert_eq!(Wanted::new(-3, libc::MSG_EXCEPT), Wanted::AtMost(3));
        assert_eq!(Wanted::new(i64::MIN, 0), Wanted::AtMost(i64::MAX));
        assert_eq!(Wanted::new(-3, libc::MSG_COPY), Wanted::Number(-3));
    }

    #[test]
    fn a_message_goes_to_the_first_who_wants_it() {
        let mut q = queue(100);
        let other = waits(&mut q, Wanted::Equal(2), 10);
        let short = waits(&mut q, Wanted::AtMost(9), 2);
        let first = waits(&mut q, Wanted::NotEqual(2), 10);
        let second = waits(&mut q, Wanted::Any, 10);
        assert_eq!(wakes(|w| q.send(message(7, b"abc"), 1, w)), 2);
        assert_eq!(short.take().map(|r| r.err()), Some(Some(Errno::E2BIG)));
        assert_eq!(first.take().map(|r| r.unwrap().text), Some(b"abc".to_vec()));
        assert!(other.take().is_none() && second.take().is_none());
        assert_eq!((q.size(), q.lrpid, q.receivers.len()), ((0, 0), 5, 2));
        q.stop_receiving(&other);
        assert_eq!(wakes(|w| q.send(message(2, b""), 1, w)), 1);
        assert!(second.take().is_some() && other.take().is_none());
    }

    #[test]
    fn room_is_bytes_and_messages() {
        let mut q = queue(3);
        assert!(q.fits(3) && !q.fits(4));
        for _ in 0..3 {
            assert!(q.fits(0));
            assert_eq!(wakes(|w| q.send(message(1, b""), 1, w)), 0);
        }
        assert!(!q.fits(0));
        let (small, big) = (Arc::default(), Arc::default());
        q.wait_to_send(0, &small);
        q.wait_to_send(9, &big);
        let taken = wakes(|w| assert!(q.receive(Wanted::Any, 9, 1, w).unwrap().is_some()));
        assert_eq!((taken, q.size()), (1, (2, 0)));
        assert_eq!(wakes(|w| q.changed(20, w)), 2);
        q.stop_sending(&big);
        assert_eq!(wakes(|w| q.remove(w)), 1);
    }

    #[test]
    fn copies_stay_and_long_ones_are_refused() {
        let mut q = queue(100);
        let _ = wakes(|w| {
            q.send(message(4, b"one"), 1, w);
            q.send(message(5, b"three"), 1, w);
        });
        assert_eq!(q.copy(Wanted::Number(1), 5, false), Ok((5, b"three".to_vec())));
        assert_eq!(q.copy(Wanted::Number(1), 4, false), Err(Errno::E2BIG));
        assert_eq!(q.copy(Wanted::Number(1), 4, true), Err(Errno::EINVAL));
        for number in [2, -1, i64::MIN, i64::MAX] {
            assert_eq!(q.copy(Wanted::Number(number), 9, false), Err(Errno::ENOMSG));
        }
        let refused = q.receive(Wanted::Equal(5), 4, 1, &mut Wakeups::default());
        assert_eq!(refused.err(), Some(Errno::E2BIG));
        assert_eq!(q.size(), (2, 8));
    }

    proptest! {
        /// The lowest type wins, and among equals who came first; as Linux's loop finds it.
        #[test]
        fn at_most_picks_as_linux_does(kinds in prop::collection::vec(1..6i64, 0..12), most in 1..7i64) {
            let messages: Vec<Message> = kinds.iter().map(|kind| message(*kind, b"")).collect();
            let (mut bound, mut found) = (most, None);
            for (at, &kind) in kinds.iter().enumerate() {
                if kind <= bound {
                    found = Some(at);
                    bound = kind - 1;
                }
            }
            prop_assert_eq!(Wanted::AtMost(most).pick(messages.iter()), found);
        }
    }
}
