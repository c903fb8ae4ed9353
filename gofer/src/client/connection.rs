//! Connections to the gofer and the pool of them.
//!
//! A connection carries one request at a time and is used by one thread at a time, so nothing has
//! to be dispatched. The pool grows when threads had to wait for a connection. Whatever the gofer
//! does wrong (a short, long, malformed or unexpected reply, the wrong descriptors, none within the
//! deadline, end of the connection) kills the client: every call, running or later, gives `EIO`.
//!
//! Lock order: `pool` and `pending` are leaves; neither is held while a message is on its way.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use abi::Errno;
use parking_lot::{Condvar, Mutex};

use crate::cpu::{Choice, Stay};
use crate::transport;
use crate::wire::cursor::Wire;
use crate::wire::reply::Done;
use crate::wire::request::{Nodes, Request};
use crate::wire::types::NodeId;
use crate::wire::{self, MAX_CLOSE, MAX_MESSAGE, ReplyHeader};

/// Nodes given up that are sent in a message of their own; fewer wait for the next request.
const CLOSE_BATCH: usize = 256;

/// The descriptor that came with a reply.
pub(super) enum Passed {
    /// None, and none was announced.
    Nothing,
    /// This one.
    File(OwnedFd),
    /// One was sent, but this process has no room for it.
    Lost,
}

/// One socket and its buffers.
pub(super) struct Connection {
    socket: Arc<OwnedFd>,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Connection {
    fn new(socket: OwnedFd, deadline: Duration) -> Result<Connection, Errno> {
        transport::set_timeouts(socket.as_fd(), deadline).map_err(Errno::from)?;
        Ok(Connection { socket: Arc::new(socket), input: vec![0; MAX_MESSAGE], output: Vec::new() })
    }
}

/// Connections that nobody uses now.
struct Pool {
    idle: Vec<Connection>,
    /// All that exist, so that they can be shut down.
    sockets: Vec<Weak<OwnedFd>>,
    /// How many may exist.
    max: usize,
}

/// What the handles and the client share.
pub(super) struct Link {
    dead: AtomicBool,
    deadline: Duration,
    next_id: AtomicU32,
    pool: Mutex<Pool>,
    available: Condvar,
    pending: Mutex<Vec<NodeId>>,
    choice: Choice,
}

impl Link {
    pub(super) fn new(socket: OwnedFd, deadline: Duration) -> Result<Link, Errno> {
        let first = Connection::new(socket, deadline)?;
        let sockets = vec![Arc::downgrade(&first.socket)];
        Ok(Link {
            dead: AtomicBool::new(false),
            deadline,
            next_id: AtomicU32::new(1),
            pool: Mutex::new(Pool { idle: vec![first], sockets, max: 1 }),
            available: Condvar::new(),
            pending: Mutex::default(),
            choice: Choice::default(),
        })
    }

    /// Allows up to `max` connections.
    pub(super) fn allow_connections(&self, max: usize) {
        self.pool.lock().max = max.max(1);
    }

    /// Whether the gofer is gone or misbehaved.
    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// How many requests were sent so far.
    pub(super) fn requests(&self) -> u32 {
        self.next_id.load(Ordering::Relaxed).wrapping_sub(1)
    }

    /// Gives up on the gofer; returns `EIO`.
    pub(super) fn kill(&self, why: &str) -> Errno {
        if !self.dead.swap(true, Ordering::AcqRel) {
            tracing::error!("gofer: {why}; its files are gone");
            let pool = self.pool.lock();
            for socket in pool.sockets.iter().filter_map(Weak::upgrade) {
                transport::shutdown(socket.as_fd());
            }
            self.available.notify_all();
        }
        Errno::EIO
    }

    /// Gives up a node, some time soon.
    pub(super) fn release(&self, id: NodeId) {
        if self.is_dead() {
            return;
        }
        let full = {
            let mut pending = self.pending.lock();
            pending.push(id);
            pending.len() >= CLOSE_BATCH
        };
        if full {
            self.send_closes();
        }
    }

    /// Sends a close message, if a connection is free; otherwise the nodes go with the request that
    /// its user sends next.
    fn send_closes(&self) {
        let Some(mut c) = self.pool.lock().idle.pop() else { return };
        let nodes = Nodes(self.take_pending());
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        wire::encode_request(&mut c.output, id, 0, &Request::Close { nodes }, &[]);
        let deadline = Instant::now() + self.deadline;
        let sent = transport::send(c.socket.as_fd(), &c.output, None, Some(deadline));
        self.put(c);
        if sent.is_err() {
            self.kill("it does not take messages");
        }
    }

    fn take_pending(&self) -> Vec<NodeId> {
        let mut pending = self.pending.lock();
        let n = pending.len().min(MAX_CLOSE);
        pending.drain(..n).collect()
    }

    /// Waits for a free connection. Whoever had to wait makes the pool grow.
    fn get(&self) -> Result<Connection, Errno> {
        let deadline = Instant::now() + self.deadline;
        let mut waited = false;
        let (mut c, grow) = {
            let mut pool = self.pool.lock();
            loop {
                if self.is_dead() {
                    return Err(Errno::EIO);
                }
                if let Some(c) = pool.idle.pop() {
                    pool.sockets.retain(|s| s.strong_count() > 0);
                    break (c, waited && pool.sockets.len() < pool.max);
                }
                waited = true;
                if self.available.wait_until(&mut pool, deadline).timed_out() {
                    drop(pool);
                    return Err(self.kill("no connection became free in time"));
                }
            }
        };
        if grow {
            self.grow(&mut c)?;
        }
        Ok(c)
    }

    fn put(&self, c: Connection) {
        self.pool.lock().idle.push(c);
        self.available.notify_one();
    }

    /// Asks for a further connection over `c` and adds it to the pool. That the gofer refuses is no
    /// error: the pool just stays as it is.
    fn grow(&self, c: &mut Connection) -> Result<(), Errno> {
        match self.exchange::<Done>(c, &Request::Connect {}) {
            Ok((_, Passed::File(socket))) => {
                let new = Connection::new(socket, self.deadline)
                    .map_err(|_| self.kill("it passed something that is no socket"))?;
                let mut pool = self.pool.lock();
                pool.sockets.push(Arc::downgrade(&new.socket));
                pool.idle.push(new);
                drop(pool);
                self.available.notify_one();
                // It may have been killed since, without this socket.
                if self.is_dead() { Err(Errno::EIO) } else { Ok(()) }
            }
            Ok((_, Passed::Nothing)) => Err(self.kill("it passed no socket")),
            Err(_) if self.is_dead() => Err(Errno::EIO),
            Ok((_, Passed::Lost)) | Err(_) => {
                let mut pool = self.pool.lock();
                pool.max = pool.sockets.len();
                Ok(())
            }
        }
    }

    /// One round trip. Returns the reply and the descriptor that came with it.
    pub(super) fn call<T: for<'a> Wire<'a>>(
        &self,
        request: &Request<'_>,
    ) -> Result<(T, Passed), Errno> {
        let mut c = self.get()?;
        let result = self.exchange(&mut c, request);
        self.put(c);
        result
    }

    /// [`Link::call`] for requests whose replies carry no descriptor.
    pub(super) fn ask<T: for<'a> Wire<'a>>(&self, request: &Request<'_>) -> Result<T, Errno> {
        match self.call(request)? {
            (reply, Passed::Nothing) => Ok(reply),
            _ => Err(self.kill("it passed a descriptor that nobody asked for")),
        }
    }

    /// [`Link::call`] for requests whose replies carry a descriptor; `ENFILE` instead of it if this
    /// process has no room for it.
    pub(super) fn ask_fd<T: for<'a> Wire<'a>>(
        &self,
        request: &Request<'_>,
    ) -> Result<(T, Result<OwnedFd, Errno>), Errno> {
        match self.call(request)? {
            (reply, Passed::File(fd)) => Ok((reply, Ok(fd))),
            (reply, Passed::Lost) => Ok((reply, Err(Errno::ENFILE))),
            (_, Passed::Nothing) => Err(self.kill("it passed no descriptor")),
        }
    }

    fn exchange<T: for<'a> Wire<'a>>(
        &self,
        c: &mut Connection,
        request: &Request<'_>,
    ) -> Result<(T, Passed), Errno> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let closes = self.take_pending();
        let stay = self.choice.together().then(Stay::here);
        let cpu = stay.as_ref().map_or(0, Stay::hint);
        wire::encode_request(&mut c.output, id, cpu, request, &closes);
        if c.output.len() > MAX_MESSAGE {
            self.pending.lock().extend(closes);
            return Err(Errno::E2BIG);
        }
        let start = Instant::now();
        let deadline = Some(start + self.deadline);
        if let Err(e) = transport::send(c.socket.as_fd(), &c.output, None, deadline) {
            return Err(self.kill(&format!("sending failed: {e}")));
        }
        let mut got = match transport::recv(c.socket.as_fd(), &mut c.input, true, deadline) {
            Ok(got) => got,
            Err(e) => return Err(self.kill(&format!("no answer: {e}"))),
        };
        self.choice.note(stay.is_some(), start.elapsed());
        drop(stay);
        if got.len == 0 {
            return Err(self.kill("it closed the connection"));
        }
        if got.truncated {
            return Err(self.kill("it sent an overlong reply"));
        }
        let frame = c.input.get(..got.len).unwrap_or_default();
        let malformed = || self.kill("it sent a malformed reply");
        let (header, mut body) = ReplyHeader::decode(frame).map_err(|_| malformed())?;
        if header.id != id || header.op != request.op() {
            return Err(self.kill("it answered something that was not asked"));
        }
        let passed = match (header.fds, got.fds.len()) {
            (0, 0) if !got.lost_fds => Passed::Nothing,
            (1, 0) if got.lost_fds => Passed::Lost,
            (1, 1) => got.fds.pop().map_or(Passed::Lost, Passed::File),
            _ => return Err(self.kill("it passed the wrong number of descriptors")),
        };
        if header.errno != 0 {
            if body.remaining() != 0 || header.fds != 0 {
                return Err(malformed());
            }
            return Err(Errno::from_raw(header.errno as i32));
        }
        let reply = T::take(&mut body).map_err(|_| malformed())?;
        body.finish().map_err(|_| malformed())?;
        Ok((reply, passed))
    }
}
