//! Connecting and accepting.

use std::sync::{Arc, Weak};

use abi::Errno;

use super::{Kind, Phase, UnixAddr, UnixSocket};
use crate::kernel::{Events, Task};
use crate::net::{Socket, Ucred};

impl UnixSocket {
    /// Gives a socket that wants credentials a name first, so that others can answer it.
    fn autobind(&self, task: &Task) -> Result<(), Errno> {
        if self.options.is_on(libc::SO_PASSCRED) && self.state.lock().bound.is_none() {
            self.bind(task, &UnixAddr::Unnamed.encode())?;
        }
        Ok(())
    }

    /// connect(2) of streams and sequenced packets (`unix_stream_connect`).
    pub(super) fn connect_stream(&self, task: &Task, addr: &[u8]) -> Result<(), Errno> {
        let addr = UnixAddr::decode(addr)?;
        if addr == UnixAddr::Unnamed {
            return Err(Errno::EINVAL);
        }
        self.autobind(task)?;
        let this = self.this.upgrade().ok_or(Errno::EINVAL)?;
        let other = self.names.find(task, &addr)?;
        if other.kind != self.kind {
            return Err(Errno::EPROTOTYPE);
        }
        let (listening, shut, listener_cred, bound) = {
            let state = other.state.lock();
            let listening = matches!(state.phase, Phase::Listening { .. });
            (listening, state.receive_shut, state.peer_cred, state.bound.clone())
        };
        if !listening || shut {
            return Err(Errno::ECONNREFUSED);
        }
        match self.state.lock().phase {
            Phase::Idle => {}
            Phase::Connected => return Err(Errno::EISCONN),
            Phase::Listening { .. } => return Err(Errno::EINVAL),
        }
        let server = UnixSocket::new(&self.names, self.kind)?;
        server.options.inherit(&other.options);
        server.send_buffer_changed();
        {
            let mut state = server.state.lock();
            state.phase = Phase::Connected;
            state.peer = Some(Arc::downgrade(&this));
            state.peer_cred = Some(Ucred::effective(task));
            state.bound = bound;
        }
        {
            let mut incoming = other.incoming.lock();
            if incoming.closed {
                return Err(Errno::ECONNREFUSED);
            }
            if other.is_full(&incoming) {
                incoming.wait_for_room(&self.this);
                return Err(Errno::EAGAIN);
            }
            let mut state = self.state.lock();
            if state.phase != Phase::Idle {
                return Err(Errno::EISCONN);
            }
            state.phase = Phase::Connected;
            state.peer = Some(Arc::downgrade(&server));
            state.peer_cred = listener_cred;
            drop(state);
            incoming.pending.push_back(server);
        }
        other.queue.wake(Events::IN | Events::RDNORM);
        self.queue.wake(Events::OUT | Events::WRNORM);
        Ok(())
    }

    /// connect(2) of datagram sockets: sets, changes or clears (`AF_UNSPEC`) where messages go.
    pub(super) fn connect_dgram(&self, task: &Task, addr: &[u8]) -> Result<(), Errno> {
        let family = addr.first_chunk::<2>().map(|b| u16::from_ne_bytes(*b));
        if family == Some(libc::AF_UNSPEC as u16) {
            let mut state = self.state.lock();
            state.peer = None;
            state.phase = Phase::Idle;
            return Ok(());
        }
        let addr = UnixAddr::decode(addr)?;
        if addr == UnixAddr::Unnamed {
            return Err(Errno::EINVAL);
        }
        self.autobind(task)?;
        let other = self.names.find(task, &addr)?;
        if other.kind != self.kind {
            return Err(Errno::EPROTOTYPE);
        }
        if !self.may_send(&other) {
            return Err(Errno::EPERM);
        }
        let mut state = self.state.lock();
        state.peer = Some(Arc::downgrade(&other));
        state.phase = Phase::Connected;
        drop(state);
        self.wake_all();
        Ok(())
    }

    /// Whether `other` takes messages from here: it is connected to nobody else (`unix_may_send`).
    pub(super) fn may_send(&self, other: &UnixSocket) -> bool {
        let state = other.state.lock();
        state.peer.as_ref().is_none_or(|p| Weak::ptr_eq(p, &self.this))
    }

    /// Whether the length of `other`'s queue does not matter: the two are connected to each other.
    pub(super) fn may_send_freely(&self, other: &UnixSocket) -> bool {
        let state = other.state.lock();
        state.peer.as_ref().is_some_and(|p| Weak::ptr_eq(p, &self.this))
    }

    pub(super) fn accept_stream(&self) -> Result<Arc<dyn Socket>, Errno> {
        if self.kind == Kind::Dgram {
            return Err(Errno::EOPNOTSUPP);
        }
        {
            let state = self.state.lock();
            if !matches!(state.phase, Phase::Listening { .. }) {
                return Err(Errno::EINVAL);
            }
            if state.receive_shut && self.incoming.lock().pending.is_empty() {
                return Err(Errno::EINVAL);
            }
        }
        let (socket, waiting) = {
            let mut incoming = self.incoming.lock();
            let socket = incoming.pending.pop_front().ok_or(Errno::EAGAIN)?;
            (socket, std::mem::take(&mut incoming.waiting))
        };
        Self::wake_waiting(waiting);
        Ok(socket)
    }
}
