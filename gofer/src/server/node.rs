//! Nodes: what the client's ids stand for, and the table of them.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use parking_lot::RwLock;

use crate::wire::types::{Attr, ExportFlags, FileKind, NodeId};

use super::export::ExportState;
use super::filter::{Compiled, Progress};

/// One file that the client knows. Holds it by descriptor, so it stays the same file whatever
/// happens to its names.
pub(super) struct Node {
    fd: OwnedFd,
    export: Arc<ExportState>,
    progress: Progress,
    kind: FileKind,
    identity: (u64, u64),
    mnt_id: u64,
    mode: u32,
}

impl Node {
    /// A node for a file that was just found or created.
    pub(super) fn new(
        fd: OwnedFd,
        export: Arc<ExportState>,
        progress: Progress,
        attr: &Attr,
    ) -> Node {
        Node {
            fd,
            export,
            progress,
            kind: attr.kind(),
            identity: attr.identity(),
            mnt_id: attr.mnt_id,
            mode: attr.mode,
        }
    }

    /// The descriptor; `O_PATH` unless the file was created through this gofer.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The export it belongs to.
    pub(super) fn export(&self) -> &Arc<ExportState> {
        &self.export
    }

    /// The export's filter.
    pub(super) fn filter(&self) -> &Compiled {
        &self.export.filter
    }

    /// How far the filter's patterns match on the way here.
    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// What it is.
    pub(super) fn kind(&self) -> FileKind {
        self.kind
    }

    /// Device and inode number.
    pub(super) fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// The mount it was reached on.
    pub(super) fn mnt_id(&self) -> u64 {
        self.mnt_id
    }

    /// Refuses changes in a read-only export.
    pub(super) fn check_writable(&self) -> Result<(), Errno> {
        if self.export.flags.contains(ExportFlags::READ_ONLY) { Err(Errno::EROFS) } else { Ok(()) }
    }

    /// In an export that shows public files only, refuses what other users of the host may not do
    /// (`bits`: 4 read, 1 search).
    pub(super) fn check_public(&self, bits: u32) -> Result<(), Errno> {
        if self.export.flags.contains(ExportFlags::PUBLIC_ONLY) && self.mode & bits != bits {
            return Err(Errno::EACCES);
        }
        Ok(())
    }

    /// Refuses anything but a directory.
    pub(super) fn check_dir(&self) -> Result<(), Errno> {
        if self.kind == FileKind::Directory { Ok(()) } else { Err(Errno::ENOTDIR) }
    }
}

/// The nodes that one client holds, over all its connections. Ids count up and are never reused,
/// so a stale id is noticed.
pub(super) struct Table {
    nodes: RwLock<HashMap<u64, Arc<Node>>>,
    next: AtomicU64,
    max: usize,
}

impl Table {
    /// An empty table for at most `max` nodes.
    pub(super) fn new(max: usize) -> Table {
        Table { nodes: RwLock::new(HashMap::new()), next: AtomicU64::new(1), max }
    }

    /// The limit.
    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// Adds a node. `ENFILE` if the client holds too many.
    pub(super) fn insert(&self, node: Arc<Node>) -> Result<NodeId, Errno> {
        let mut nodes = self.nodes.write();
        if nodes.len() >= self.max {
            return Err(Errno::ENFILE);
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        nodes.insert(id, node);
        Ok(NodeId(id))
    }

    /// The node of an id. `ESTALE` if there is none.
    pub(super) fn get(&self, id: NodeId) -> Result<Arc<Node>, Errno> {
        self.nodes.read().get(&id.0).cloned().ok_or(Errno::ESTALE)
    }

    /// Forgets nodes; unknown ids mean nothing.
    pub(super) fn remove(&self, ids: &[NodeId]) {
        let mut gone = Vec::with_capacity(ids.len());
        {
            let mut nodes = self.nodes.write();
            gone.extend(ids.iter().filter_map(|id| nodes.remove(&id.0)));
        }
        // Closing happens here, without the lock.
        drop(gone);
    }
}
