//! AF_UNIX sockets (unix(7)): streams, datagrams and sequenced packets.
//!
//! Each socket has a queue of what arrives; sending puts a message into the other's, paid for from
//! the sender's send buffer until it is read. Sockets know each other weakly.

mod addr;
mod connect;
mod names;
mod proc;
mod queue;
mod rights;
mod transfer;

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use abi::Errno;
use parking_lot::Mutex;

use super::options::{DEFAULT_BUFFER, Options};
use super::{MsgFlags, Received, RecvArgs, SendArgs, Shutdown, Socket, Ucred};
use crate::kernel::{Events, Task, WaitQueue};
use crate::kmem::{self, KernelMemory};
use crate::vfs::{IoDst, IoSrc};

pub use addr::UnixAddr;
use names::Bound;
pub use names::UnixNames;
pub use proc::proc_net_unix;
use queue::{Budget, Incoming, Message};

/// `/proc/sys/net/core/somaxconn`
pub const SOMAXCONN: u32 = 4096;
/// `/proc/sys/net/unix/max_dgram_qlen`
pub const MAX_DGRAM_QLEN: usize = 512;

/// The types of Unix sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `SOCK_STREAM`
    Stream,
    /// `SOCK_DGRAM`
    Dgram,
    /// `SOCK_SEQPACKET`
    SeqPacket,
}

impl Kind {
    fn connects(self) -> bool {
        self != Kind::Dgram
    }
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Listening { backlog: usize },
    Connected,
}

struct State {
    phase: Phase,
    bound: Option<Arc<Bound>>,
    peer: Option<Weak<UnixSocket>>,
    peer_cred: Option<Ucred>,
    receive_shut: bool,
    send_shut: bool,
    error: Option<Errno>,
    /// A bind is under way.
    binding: bool,
}

/// One socket.
pub struct UnixSocket {
    this: Weak<UnixSocket>,
    names: Arc<UnixNames>,
    kind: Kind,
    ino: AtomicU64,
    state: Mutex<State>,
    incoming: Mutex<Incoming>,
    queue: WaitQueue,
    budget: Arc<Budget>,
    options: Options,
    _memory: KernelMemory,
}

impl UnixSocket {
    /// A new, unconnected socket. `ENOMEM`
    pub fn new(names: &Arc<UnixNames>, kind: Kind) -> Result<Arc<UnixSocket>, Errno> {
        let memory = kmem::charge(kmem::SOCKET).ok_or(Errno::ENOMEM)?;
        let queue = WaitQueue::new();
        let socket = Arc::new_cyclic(|this| UnixSocket {
            this: this.clone(),
            names: names.clone(),
            kind,
            ino: AtomicU64::new(0),
            state: Mutex::new(State {
                phase: Phase::Idle,
                bound: None,
                peer: None,
                peer_cred: None,
                receive_shut: false,
                send_shut: false,
                error: None,
                binding: false,
            }),
            incoming: Mutex::default(),
            budget: Budget::new(DEFAULT_BUFFER as usize, queue.clone()),
            queue,
            options: Options::default(),
            _memory: memory,
        });
        names.add(&socket);
        Ok(socket)
    }

    /// Two sockets that are connected to each other (socketpair(2)). `ENOMEM`
    pub fn pair(
        names: &Arc<UnixNames>,
        kind: Kind,
        cred: Ucred,
    ) -> Result<[Arc<UnixSocket>; 2], Errno> {
        let pair = [UnixSocket::new(names, kind)?, UnixSocket::new(names, kind)?];
        let [a, b] = &pair;
        for (one, other) in [(a, b), (b, a)] {
            let mut state = one.state.lock();
            state.phase = Phase::Connected;
            state.peer = Some(Arc::downgrade(other));
            state.peer_cred = Some(cred);
        }
        Ok(pair)
    }

    /// The socket at the other end, while there is one.
    fn peer(&self) -> Option<Arc<UnixSocket>> {
        self.state.lock().peer.as_ref().and_then(Weak::upgrade)
    }

    fn address(&self) -> UnixAddr {
        let bound = self.state.lock().bound.clone();
        bound.map_or(UnixAddr::Unnamed, |b| b.addr.clone())
    }

    /// Its name for messages; `None` if it has none.
    fn source(&self) -> Option<Arc<Vec<u8>>> {
        let bound = self.state.lock().bound.clone()?;
        Some(Arc::new(bound.addr.encode()))
    }

    fn wake_all(&self) {
        self.queue.wake(Events::all());
    }

    /// Wakes those who found the queue full.
    fn wake_waiting(waiting: Vec<Weak<UnixSocket>>) {
        for socket in waiting.iter().filter_map(Weak::upgrade) {
            socket.queue.wake(Events::OUT | Events::WRNORM | Events::WRBAND);
        }
    }

    /// Empties the queue into `out` (the collector's).
    fn take_messages(&self, out: &mut Vec<Message>) {
        out.extend(self.incoming.lock().messages.drain(..));
    }

    /// Ends the connection from this side: `error` is what the other side is told.
    fn hang_up(&self, reset: bool) {
        if !self.kind.connects() {
            return;
        }
        if let Some(peer) = self.peer() {
            {
                let mut state = peer.state.lock();
                (state.receive_shut, state.send_shut) = (true, true);
                if reset {
                    state.error = Some(Errno::ECONNRESET);
                }
            }
            peer.wake_all();
        }
    }

    fn is_full(&self, incoming: &Incoming) -> bool {
        match self.state.lock().phase {
            Phase::Listening { backlog } => incoming.pending.len() > backlog,
            _ => self.kind == Kind::Dgram && incoming.messages.len() >= MAX_DGRAM_QLEN,
        }
    }
}

impl Socket for UnixSocket {
    fn domain(&self) -> i32 {
        libc::AF_UNIX
    }

    fn kind(&self) -> i32 {
        match self.kind {
            Kind::Stream => libc::SOCK_STREAM,
            Kind::Dgram => libc::SOCK_DGRAM,
            Kind::SeqPacket => libc::SOCK_SEQPACKET,
        }
    }

    fn options(&self) -> &Options {
        &self.options
    }

    fn set_ino(&self, ino: u64) {
        self.ino.store(ino, Ordering::Relaxed);
    }

    fn bind(&self, task: &Task, addr: &[u8]) -> Result<(), Errno> {
        let addr = UnixAddr::decode(addr)?;
        {
            let mut state = self.state.lock();
            if state.bound.is_some() || state.binding {
                return match addr {
                    // Choosing a name again is fine (`unix_autobind`).
                    UnixAddr::Unnamed => Ok(()),
                    _ => Err(Errno::EINVAL),
                };
            }
            state.binding = true;
        }
        let this = self.this.upgrade().ok_or(Errno::EINVAL)?;
        let result = self.names.bind(task, &this, addr);
        let mut state = self.state.lock();
        state.binding = false;
        state.bound = Some(Arc::new(result?));
        Ok(())
    }

    fn connect(&self, task: &Task, addr: &[u8]) -> Result<(), Errno> {
        if self.kind.connects() {
            self.connect_stream(task, addr)
        } else {
            self.connect_dgram(task, addr)
        }
    }

    fn listen(&self, task: &Task, backlog: i32) -> Result<(), Errno> {
        if !self.kind.connects() {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut state = self.state.lock();
        if state.bound.is_none() || state.phase == Phase::Connected {
            return Err(Errno::EINVAL);
        }
        let backlog = (backlog as u32).min(SOMAXCONN) as usize;
        state.phase = Phase::Listening { backlog };
        state.peer_cred = Some(Ucred::effective(task));
        drop(state);
        let waiting = std::mem::take(&mut self.incoming.lock().waiting);
        Self::wake_waiting(waiting);
        Ok(())
    }

    fn accept(&self) -> Result<Arc<dyn Socket>, Errno> {
        self.accept_stream()
    }

    fn send(&self, src: &mut IoSrc<'_>, args: &mut SendArgs<'_>) -> Result<usize, Errno> {
        if args.flags.contains(MsgFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        match self.kind {
            Kind::Stream => self.send_stream(src, args),
            Kind::Dgram | Kind::SeqPacket => self.send_packet(src, args),
        }
    }

    fn recv(
        &self,
        dst: &mut IoDst<'_>,
        args: RecvArgs,
        out: &mut Received,
    ) -> Result<usize, Errno> {
        if args.flags.contains(MsgFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        match self.kind {
            Kind::Stream => self.recv_stream(dst, args, out),
            Kind::Dgram | Kind::SeqPacket => self.recv_packet(dst, args, out),
        }
    }

    fn shutdown(&self, how: Shutdown) -> Result<(), Errno> {
        let peer = {
            let mut state = self.state.lock();
            state.receive_shut |= how.read;
            state.send_shut |= how.write;
            state.peer.as_ref().and_then(Weak::upgrade)
        };
        if let Some(peer) = peer.filter(|_| self.kind.connects()) {
            {
                let mut state = peer.state.lock();
                state.receive_shut |= how.write;
                state.send_shut |= how.read;
            }
            peer.wake_all();
        }
        self.wake_all();
        Ok(())
    }

    fn name(&self) -> Vec<u8> {
        self.address().encode()
    }

    fn peer_name(&self) -> Result<Vec<u8>, Errno> {
        match self.peer() {
            Some(peer) => Ok(peer.address().encode()),
            // It was there once.
            None if self.kind.connects() && self.state.lock().phase == Phase::Connected => {
                Ok(UnixAddr::Unnamed.encode())
            }
            None => Err(Errno::ENOTCONN),
        }
    }

    fn get_option(&self, level: i32, _: i32) -> Result<Vec<u8>, Errno> {
        Err(if level == libc::SOL_SOCKET { Errno::ENOPROTOOPT } else { Errno::EOPNOTSUPP })
    }

    fn set_option(&self, level: i32, _: i32, _: &[u8]) -> Result<(), Errno> {
        Err(if level == libc::SOL_SOCKET { Errno::ENOPROTOOPT } else { Errno::EOPNOTSUPP })
    }

    fn take_error(&self) -> Option<Errno> {
        self.state.lock().error.take()
    }

    fn is_listening(&self) -> bool {
        matches!(self.state.lock().phase, Phase::Listening { .. })
    }

    fn peer_cred(&self) -> Ucred {
        self.state.lock().peer_cred.unwrap_or(Ucred::NOBODY)
    }

    fn send_buffer_changed(&self) {
        self.budget.set_limit(self.options.send_buffer());
    }

    fn readable_len(&self) -> Result<usize, Errno> {
        if self.is_listening() {
            return Err(Errno::EINVAL);
        }
        let incoming = self.incoming.lock();
        Ok(match self.kind {
            Kind::Dgram => incoming.messages.front().map_or(0, |m| m.rest().len()),
            Kind::Stream | Kind::SeqPacket => incoming.bytes(),
        })
    }

    fn unsent_len(&self) -> usize {
        self.budget.used()
    }

    fn poll(&self) -> Events {
        let has_input = {
            let incoming = self.incoming.lock();
            !incoming.messages.is_empty() || !incoming.pending.is_empty()
        };
        let state = self.state.lock();
        let mut events = Events::empty();
        if state.error.is_some() {
            events |= Events::ERR;
        }
        if state.receive_shut && state.send_shut {
            events |= Events::HUP;
        }
        if state.receive_shut {
            events |= Events::RDHUP | Events::IN | Events::RDNORM;
        }
        if has_input {
            events |= Events::IN | Events::RDNORM;
        }
        if self.kind.connects() && state.phase == Phase::Idle {
            events |= Events::HUP;
        }
        let listening = matches!(state.phase, Phase::Listening { .. });
        let peer = state.peer.clone();
        drop(state);
        let mut writable = !listening && self.budget.is_writable();
        if writable
            && self.kind == Kind::Dgram
            && let Some(peer) = peer.and_then(|p| p.upgrade())
            && !self.may_send_freely(&peer)
        {
            let mut incoming = peer.incoming.lock();
            if peer.is_full(&incoming) {
                incoming.wait_for_room(&self.this);
                writable = false;
            }
        }
        if writable {
            events |= Events::OUT | Events::WRNORM | Events::WRBAND;
        }
        events
    }

    fn wait_queue(&self) -> WaitQueue {
        self.queue.clone()
    }

    fn release(&self) {
        let bound = self.state.lock().bound.clone();
        if let Some(bound) = bound {
            self.names.unbind(&self.this, &bound);
        }
        let (messages, pending, waiting) = {
            let mut incoming = self.incoming.lock();
            incoming.closed = true;
            (
                std::mem::take(&mut incoming.messages),
                std::mem::take(&mut incoming.pending),
                std::mem::take(&mut incoming.waiting),
            )
        };
        self.hang_up(!messages.is_empty());
        {
            let mut state = self.state.lock();
            (state.receive_shut, state.send_shut) = (true, true);
        }
        for socket in pending {
            socket.hang_up(true);
            socket.release();
        }
        Self::wake_waiting(waiting);
        self.wake_all();
        drop(messages);
        rights::collect_sometimes();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests;
