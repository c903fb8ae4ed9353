//! Listing directories. No state is kept between requests: a directory is opened, positioned by
//! the cookie, read, and closed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use abi::Errno;

use crate::sys::{self, Component};
use crate::wire::cursor::{Reader, Wire, Writer};
use crate::wire::reply::{DirEntry, ReadDirReply};
use crate::wire::types::{EntryName, FileKind, Name};
use crate::wire::{HEADER, MAX_ENTRIES, MAX_MESSAGE};

use super::filter::Verdict;
use super::node::Node;

/// Bytes asked from the host at a time.
const CHUNK: usize = 32 * 1024;
/// Bytes of a `linux_dirent64` before the name.
const FIXED: usize = 19;
/// Longest encoding of one entry, with a margin.
const MAX_ENTRY: usize = 512;

/// One host directory entry.
struct RawEntry<'a> {
    ino: u64,
    next: u64,
    kind: Option<FileKind>,
    name: &'a [u8],
}

/// Splits a `getdents64` buffer. Ends early at anything malformed.
fn entries(buf: &[u8]) -> impl Iterator<Item = RawEntry<'_>> {
    let mut rest = buf;
    std::iter::from_fn(move || {
        let mut r = Reader::new(rest);
        let (ino, next) = (u64::take(&mut r).ok()?, u64::take(&mut r).ok()?);
        let (len, kind) = (u16::take(&mut r).ok()?, u8::take(&mut r).ok()?);
        let (entry, tail) = rest.split_at_checked(usize::from(len))?;
        let name = entry.get(FIXED..)?.split(|&c| c == 0).next()?;
        rest = tail;
        Some(RawEntry { ino, next, kind: FileKind::from_mode(u32::from(kind) << 12), name })
    })
}

/// Opens a directory for reading, given its `O_PATH` descriptor.
pub(super) fn open_dir(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    sys::open(fd, &Component::dot(), libc::O_RDONLY | libc::O_DIRECTORY, 0)
}

/// All names in a directory but `.` and `..`, at most `budget`, which is reduced.
pub(super) fn names(fd: BorrowedFd<'_>, budget: &mut usize) -> Result<Vec<Box<[u8]>>, Errno> {
    let dir = open_dir(fd)?;
    let mut buf = vec![0; CHUNK];
    let mut out = Vec::new();
    loop {
        let n = sys::get_dents(dir.as_fd(), &mut buf)?;
        if n == 0 {
            return Ok(out);
        }
        for e in entries(buf.get(..n).unwrap_or_default()) {
            if e.name == b"." || e.name == b".." {
                continue;
            }
            if *budget == 0 {
                return Ok(out);
            }
            *budget -= 1;
            out.push(e.name.into());
        }
    }
}

/// Answers one `ReadDir`: as many entries as fit a frame.
pub(super) fn read(node: &Node, cookie: u64, attrs: bool) -> Result<ReadDirReply, Errno> {
    node.check_public(0o4)?;
    let dir = open_dir(node.fd())?;
    if cookie != 0 {
        sys::seek(dir.as_fd(), cookie)?;
    }
    let mut reply = ReadDirReply { node: None, entries: Vec::new(), end: false, next: cookie };
    // The rest of the reply, the node included, with a margin.
    let mut used = HEADER + 256;
    let mut scratch = Vec::with_capacity(MAX_ENTRY);
    let mut buf = vec![0; CHUNK];
    loop {
        let n = sys::get_dents(dir.as_fd(), &mut buf)?;
        if n == 0 {
            reply.end = true;
            return Ok(reply);
        }
        for raw in entries(buf.get(..n).unwrap_or_default()) {
            if used + MAX_ENTRY > MAX_MESSAGE || reply.entries.len() >= MAX_ENTRIES {
                return Ok(reply);
            }
            reply.next = raw.next;
            let Some(entry) = make_entry(node, dir.as_fd(), &raw, attrs) else { continue };
            scratch.clear();
            entry.put(&mut Writer::new(&mut scratch));
            used += scratch.len();
            reply.entries.push(entry);
        }
    }
}

/// Turns a host entry into one for the client; `None` if it is hidden or gone.
fn make_entry(
    node: &Node,
    dir: BorrowedFd<'_>,
    raw: &RawEntry<'_>,
    attrs: bool,
) -> Option<DirEntry> {
    if raw.name == b"." || raw.name == b".." {
        return None;
    }
    let filter = node.filter();
    if let Verdict::Hidden = filter.step(node.progress(), raw.name) {
        return None;
    }
    let suspicious = filter.may_hide_ino(node.identity().0, raw.ino);
    let mut attr = None;
    if attrs || suspicious || raw.kind.is_none() {
        let name = Component::new(Name(raw.name)).ok()?;
        attr = sys::stat_at(dir, &name).ok();
        if attr.as_ref().is_some_and(|a| filter.hides_file(a)) || suspicious && attr.is_none() {
            return None;
        }
    }
    Some(DirEntry {
        ino: raw.ino,
        next: raw.next,
        kind: raw.kind.or(attr.map(|a| a.kind()))?,
        name: EntryName(raw.name.into()),
        attr: attr.filter(|_| attrs),
    })
}
