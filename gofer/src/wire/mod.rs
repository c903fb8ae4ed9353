//! The protocol: frames, requests, replies.
//!
//! A frame is one `SOCK_SEQPACKET` message of at most [`MAX_MESSAGE`] bytes: a 16-byte header and a
//! body, little-endian, no padding. A connection carries one request at a time; the client opens
//! several connections to have several in flight. Descriptors travel by `SCM_RIGHTS`, from the
//! server only, at most one a reply.
//!
//! Request header: length u32 (of the whole frame), id u32, operation u16, closes u16, CPU u32
//! (where the client waits, plus one; 0: unsaid).
//! Behind the body stand `closes` node ids (u64) that the client gives up; the server closes them
//! after it has answered.
//!
//! Reply header: length u32, id u32, operation u16, descriptors u16, errno u32 (0: success).
//!
//! Everything else about a frame is an error of the peer, after which the connection is closed.

pub mod cursor;
pub mod reply;
pub mod request;
pub mod types;

use crate::cpu::MAX_HINT;

use cursor::{Malformed, Reader, Wire, Writer};
use types::NodeId;

/// The version that this code speaks. Both sides come from one binary, so there is only one.
pub const VERSION: u32 = 2;
/// Longest frame in bytes.
pub const MAX_MESSAGE: usize = 128 * 1024;
/// Bytes of a frame header.
pub const HEADER: usize = 16;
/// Longest file name (`NAME_MAX`).
pub const MAX_NAME: usize = 255;
/// Longest link target (`PATH_MAX` without the NUL).
pub const MAX_LINK: usize = 4095;
/// Longest xattr value or name list (`XATTR_SIZE_MAX`).
pub const MAX_VALUE: usize = 65536;
/// Most components in one walk.
pub const MAX_WALK: usize = 64;
/// Most nodes in one close list.
pub const MAX_CLOSE: usize = 1024;
/// Most watches in one list.
pub const MAX_UNWATCH: usize = 256;
/// Most entries in one directory reply.
pub const MAX_ENTRIES: usize = 8192;
/// Most exports of one gofer.
pub const MAX_EXPORTS: usize = 256;

/// A decoded request frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestFrame<'a> {
    /// Echoed in the reply.
    pub id: u32,
    /// The CPU on which the client waits, plus one; 0: unsaid.
    pub cpu: u32,
    /// What is asked.
    pub request: request::Request<'a>,
    /// Nodes to give up afterwards.
    pub closes: Vec<NodeId>,
}

impl<'a> RequestFrame<'a> {
    /// Encodes into `out`, which is cleared first.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_request(out, self.id, self.cpu, &self.request, &self.closes);
    }

    /// Decodes one frame; the slice must be exactly one frame.
    pub fn decode(frame: &'a [u8]) -> Result<RequestFrame<'a>, Malformed> {
        let mut r = Reader::new(frame);
        let (len, id) = (u32::take(&mut r)?, u32::take(&mut r)?);
        let (op, closes) = (u16::take(&mut r)?, usize::from(u16::take(&mut r)?));
        let cpu = u32::take(&mut r)?;
        if len as usize != frame.len()
            || frame.len() > MAX_MESSAGE
            || cpu > MAX_HINT
            || closes > MAX_CLOSE
        {
            return Err(Malformed);
        }
        let request = request::Request::take(op, &mut r)?;
        if r.remaining() != closes * 8 {
            return Err(Malformed);
        }
        let mut list = Vec::with_capacity(closes);
        for _ in 0..closes {
            list.push(NodeId::take(&mut r)?);
        }
        r.finish()?;
        Ok(RequestFrame { id, cpu, request, closes: list })
    }
}

/// Encodes a request frame into `out`, which is cleared first. At most [`MAX_CLOSE`] of `closes`
/// are taken.
pub fn encode_request(
    out: &mut Vec<u8>,
    id: u32,
    cpu: u32,
    request: &request::Request<'_>,
    closes: &[NodeId],
) {
    out.clear();
    let closes = closes.get(..MAX_CLOSE).unwrap_or(closes);
    let mut w = Writer::new(out);
    0u32.put(&mut w);
    id.put(&mut w);
    request.op().put(&mut w);
    (closes.len() as u16).put(&mut w);
    cpu.put(&mut w);
    request.put(&mut w);
    for id in closes {
        id.put(&mut w);
    }
    patch_len(out);
}

/// The header of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyHeader {
    /// The request's id.
    pub id: u32,
    /// The request's operation.
    pub op: u16,
    /// How many descriptors come with it.
    pub fds: u16,
    /// 0, or why the request failed; the body is empty then.
    pub errno: u32,
}

impl ReplyHeader {
    /// Splits a reply frame into header and body reader.
    pub fn decode(frame: &[u8]) -> Result<(ReplyHeader, Reader<'_>), Malformed> {
        let mut r = Reader::new(frame);
        let len = u32::take(&mut r)?;
        let header = ReplyHeader {
            id: u32::take(&mut r)?,
            op: u16::take(&mut r)?,
            fds: u16::take(&mut r)?,
            errno: u32::take(&mut r)?,
        };
        let sane = len as usize == frame.len() && frame.len() <= MAX_MESSAGE && header.errno < 4096;
        if sane { Ok((header, r)) } else { Err(Malformed) }
    }

    /// Starts a reply frame in `out`; the body is appended behind, then [`patch_len`] called.
    pub fn start(&self, out: &mut Vec<u8>) {
        out.clear();
        let mut w = Writer::new(out);
        0u32.put(&mut w);
        self.id.put(&mut w);
        self.op.put(&mut w);
        self.fds.put(&mut w);
        self.errno.put(&mut w);
    }
}

/// Writes the length of the finished frame into its header.
pub fn patch_len(out: &mut [u8]) {
    let len = (out.len() as u32).to_le_bytes();
    if let Some(field) = out.get_mut(..4) {
        field.copy_from_slice(&len);
    }
}

#[cfg(test)]
mod tests;
