//! Sending and receiving.

use std::sync::{Arc, Weak};

use abi::Errno;

use super::queue::Message;
use super::rights::{self, Rights};
use super::{Kind, Phase, UnixAddr, UnixSocket};
use crate::kernel::Events;
use crate::net::{MsgFlags, Received, RecvArgs, SendArgs};
use crate::vfs::{IoDst, IoSrc};

/// Largest piece of a stream.
const PIECE: usize = 64 << 10;

/// Reads `len` bytes of a message.
fn take(src: &mut IoSrc<'_>, len: usize) -> Result<Vec<u8>, Errno> {
    let mut data = vec![0; len];
    let got = src.read(&mut data)?;
    data.truncate(got);
    Ok(data)
}

impl UnixSocket {
    fn rights(args: &mut SendArgs<'_>) -> Result<Option<Rights>, Errno> {
        if args.rights.is_empty() {
            return Ok(None);
        }
        let files = std::mem::take(&mut args.rights);
        Rights::new(files, args.task, args.cred.uid).map(Some)
    }

    /// sendmsg(2) of streams (`unix_stream_sendmsg`).
    pub(super) fn send_stream(
        &self,
        src: &mut IoSrc<'_>,
        args: &mut SendArgs<'_>,
    ) -> Result<usize, Errno> {
        let (connected, shut, peer) = {
            let state = self.state.lock();
            (state.phase == Phase::Connected, state.send_shut, state.peer.clone())
        };
        if args.dest.is_some() {
            return Err(if connected { Errno::EISCONN } else { Errno::EOPNOTSUPP });
        }
        let peer = peer.ok_or(Errno::ENOTCONN)?;
        if shut {
            return Err(Errno::EPIPE);
        }
        let Some(peer) = peer.upgrade() else { return Err(Errno::EPIPE) };
        let source = self.source();
        let before = src.done();
        while src.remaining() > 0 {
            let Some(room) = self.budget.room() else {
                let part = src.done() - before;
                // A blocking sender is not done before all is sent.
                return if part > 0 && args.nonblocking { Ok(part) } else { Err(Errno::EAGAIN) };
            };
            if peer.state.lock().receive_shut {
                return Err(Errno::EPIPE);
            }
            let data = take(src, src.remaining().min(room).min(PIECE))?;
            let len = data.len();
            let charge = match self.budget.charge(len) {
                Ok(charge) => charge,
                Err(errno) => {
                    src.unread(len);
                    let part = src.done() - before;
                    return if part > 0 { Ok(part) } else { Err(errno) };
                }
            };
            let rights = Self::rights(args).inspect_err(|_| src.unread(len))?;
            let message = Message {
                data,
                start: 0,
                rights,
                cred: args.cred,
                source: source.clone(),
                _charge: charge,
            };
            if let Err(message) = peer.arrive(message) {
                drop(message);
                src.unread(len);
                return Err(Errno::EPIPE);
            }
        }
        Ok(src.done() - before)
    }

    /// Puts a message into this socket's queue; gives it back if nobody will read it.
    fn arrive(&self, message: Message) -> Result<(), Message> {
        {
            let mut incoming = self.incoming.lock();
            if incoming.closed {
                return Err(message);
            }
            incoming.messages.push_back(message);
        }
        self.queue.wake(Events::IN | Events::RDNORM);
        Ok(())
    }

    /// Where a packet goes.
    fn target(&self, args: &SendArgs<'_>) -> Result<Arc<UnixSocket>, Errno> {
        let (phase, peer) = {
            let state = self.state.lock();
            (state.phase, state.peer.clone())
        };
        if self.kind == Kind::SeqPacket && phase != Phase::Connected {
            return Err(Errno::ENOTCONN);
        }
        if let (Kind::Dgram, Some(dest), Some(task)) = (self.kind, args.dest, args.task) {
            let addr = UnixAddr::decode(dest)?;
            if addr == UnixAddr::Unnamed {
                return Err(Errno::EINVAL);
            }
            let other = self.names.find(task, &addr)?;
            return if other.kind == self.kind { Ok(other) } else { Err(Errno::EPROTOTYPE) };
        }
        match peer.ok_or(Errno::ENOTCONN)?.upgrade() {
            Some(peer) => Ok(peer),
            None if self.kind == Kind::SeqPacket => Err(Errno::EPIPE),
            None => {
                self.state.lock().peer = None;
                Err(Errno::ECONNREFUSED)
            }
        }
    }

    /// sendmsg(2) of datagrams and sequenced packets (`unix_dgram_sendmsg`).
    pub(super) fn send_packet(
        &self,
        src: &mut IoSrc<'_>,
        args: &mut SendArgs<'_>,
    ) -> Result<usize, Errno> {
        if self.state.lock().send_shut {
            return Err(Errno::EPIPE);
        }
        let target = self.target(args)?;
        let len = src.remaining();
        if len > self.budget.limit().saturating_sub(32) {
            return Err(Errno::EMSGSIZE);
        }
        if self.budget.used() >= self.budget.limit() {
            return Err(Errno::EAGAIN);
        }
        if self.kind == Kind::Dgram && !self.may_send(&target) {
            return Err(Errno::EPERM);
        }
        if target.incoming.lock().closed {
            return self.refused(args, &target);
        }
        if target.state.lock().receive_shut {
            return Err(Errno::EPIPE);
        }
        let this = self.this.upgrade();
        let to_self = this.as_ref().is_some_and(|this| Arc::ptr_eq(this, &target));
        let counts = self.kind == Kind::Dgram && !to_self && !self.may_send_freely(&target);
        if counts {
            let mut incoming = target.incoming.lock();
            if target.is_full(&incoming) {
                incoming.wait_for_room(&self.this);
                return Err(Errno::EAGAIN);
            }
        }
        let data = take(src, len)?;
        if data.len() < len {
            src.unread(data.len());
            return Err(Errno::EFAULT);
        }
        let charge = self.budget.charge(len).inspect_err(|_| src.unread(len))?;
        let rights = Self::rights(args).inspect_err(|_| src.unread(len))?;
        let message = Message {
            data,
            start: 0,
            rights,
            cred: args.cred,
            source: self.source(),
            _charge: charge,
        };
        match target.arrive(message) {
            Ok(()) => Ok(len),
            Err(_) => {
                src.unread(len);
                self.refused(args, &target)
            }
        }
    }

    /// The other side is closed: a datagram socket forgets it.
    fn refused(&self, args: &SendArgs<'_>, target: &UnixSocket) -> Result<usize, Errno> {
        if self.kind == Kind::SeqPacket {
            return Err(Errno::EPIPE);
        }
        let mut state = self.state.lock();
        if args.dest.is_none() && state.peer.as_ref().is_some_and(|p| Weak::ptr_eq(p, &target.this))
        {
            state.peer = None;
        }
        Err(Errno::ECONNREFUSED)
    }

    /// What to say when nothing is there: an error, the end, or to wait.
    fn nothing_there(&self) -> Result<usize, Errno> {
        let mut state = self.state.lock();
        if let Some(errno) = state.error.take() {
            return Err(errno);
        }
        if state.receive_shut { Ok(0) } else { Err(Errno::EAGAIN) }
    }

    /// recvmsg(2) of streams (`unix_stream_read_generic`): joins pieces, but not those of different
    /// senders if credentials are asked for, and nothing behind open files.
    pub(super) fn recv_stream(
        &self,
        dst: &mut IoDst<'_>,
        args: RecvArgs,
        out: &mut Received,
    ) -> Result<usize, Errno> {
        if self.state.lock().phase != Phase::Connected {
            return Err(Errno::EINVAL);
        }
        let pass_cred = self.options.is_on(libc::SO_PASSCRED);
        let peek = args.flags.contains(MsgFlags::PEEK);
        let wait_all = args.flags.contains(MsgFlags::WAITALL) && !args.nonblocking && !peek;
        let before = dst.done();
        // Taking open files out of the queue needs the table: see `rights`.
        let mut table = None;
        let mut skip = 0;
        let mut finished = Vec::new();
        let mut ended = false;
        loop {
            let mut incoming = self.incoming.lock();
            let Some(message) = incoming.messages.get_mut(skip) else { break };
            if dst.remaining() == 0 {
                break;
            }
            if message.rights.is_some() && table.is_none() {
                drop(incoming);
                table = Some(rights::lock());
                continue;
            }
            if pass_cred && out.cred.is_some_and(|cred| cred != message.cred) {
                ended = true;
                break;
            }
            let rest = message.rest();
            let want = rest.len().min(dst.remaining());
            let got = match dst.write(rest.get(..want).unwrap_or_default()) {
                Ok(got) => got,
                Err(errno) if dst.done() == before => return Err(errno),
                Err(_) => break,
            };
            if pass_cred {
                out.cred = Some(message.cred);
            }
            if out.source.is_none() {
                out.source = message.source.as_ref().map(|s| s.to_vec());
            }
            let has_rights = message.rights.is_some();
            if peek {
                out.rights.extend(message.rights.as_ref().map(Rights::files).unwrap_or_default());
                skip += 1;
            } else {
                message.start += got;
                if let (Some(rights), Some(table)) = (message.rights.take(), table.as_mut()) {
                    out.rights.extend(rights.take(table));
                }
                if message.rest().is_empty() {
                    finished.extend(incoming.messages.pop_front());
                }
            }
            drop(incoming);
            if has_rights {
                ended = true;
                break;
            }
            if got < want {
                break;
            }
        }
        drop(table);
        // Gives the room back to the sender, who may wake: nothing is locked here.
        drop(finished);
        let count = dst.done() - before;
        out.len += count;
        if count == 0 && dst.remaining() > 0 && !ended {
            return self.nothing_there();
        }
        if wait_all && dst.remaining() > 0 && !ended && !self.state.lock().receive_shut {
            return Err(Errno::EAGAIN);
        }
        Ok(count)
    }

    /// recvmsg(2) of datagrams and sequenced packets (`unix_dgram_recvmsg`).
    pub(super) fn recv_packet(
        &self,
        dst: &mut IoDst<'_>,
        args: RecvArgs,
        out: &mut Received,
    ) -> Result<usize, Errno> {
        if self.kind == Kind::SeqPacket && self.state.lock().phase != Phase::Connected {
            return Err(Errno::ENOTCONN);
        }
        let peek = args.flags.contains(MsgFlags::PEEK);
        let mut table = None;
        let mut incoming = self.incoming.lock();
        // Another reader may be quicker: look again with the table locked.
        while table.is_none() && incoming.messages.front().is_some_and(|m| m.rights.is_some()) {
            drop(incoming);
            table = Some(rights::lock());
            incoming = self.incoming.lock();
        }
        let Some(first) = incoming.messages.front() else {
            drop(incoming);
            return self.nothing_there();
        };
        let want = first.data.len().min(dst.remaining());
        let got = dst.write(first.data.get(..want).unwrap_or_default())?;
        out.len = first.data.len();
        if out.len > got {
            out.flags |= MsgFlags::TRUNC;
        }
        out.source = first.source.as_ref().map(|s| s.to_vec());
        if self.options.is_on(libc::SO_PASSCRED) {
            out.cred = Some(first.cred);
        }
        if peek {
            out.rights = first.rights.as_ref().map(Rights::files).unwrap_or_default();
            return Ok(got);
        }
        let message = incoming.messages.pop_front();
        let waiting = std::mem::take(&mut incoming.waiting);
        drop(incoming);
        if let Some(mut message) = message {
            if let (Some(rights), Some(table)) = (message.rights.take(), table.as_mut()) {
                out.rights = rights.take(table);
            }
            drop(table);
            drop(message);
        }
        Self::wake_waiting(waiting);
        Ok(got)
    }
}
