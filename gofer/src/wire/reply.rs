//! What the gofer answers. Each request has one reply type; an error has an errno in the header
//! and no body.

use super::cursor::{Malformed, Reader, Wire, Writer, put_list, take_list, wire_struct};
use super::types::{Attr, EntryName, ExportFlags, FileKind, LinkTarget, NodeId, OwnedBytes, Tag};
use super::{MAX_ENTRIES, MAX_EXPORTS, MAX_WALK};

wire_struct! {
    /// One export in the hello reply.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct ExportInfo {
        /// What the launcher called it: by convention the guest's mount point.
        tag: Tag,
        /// What it allows.
        flags: ExportFlags,
        /// Its root.
        root: NodeId,
        /// The root's attributes.
        attr: Attr,
    }
}

/// Answer to `Hello`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloReply {
    /// The version that both sides speak.
    pub version: u32,
    /// How many nodes the client may hold at once; beyond it walks fail with `ENFILE`.
    pub max_nodes: u64,
    /// How many connections the server serves at once.
    pub max_connections: u32,
    /// The exports, in the launcher's order.
    pub exports: Vec<ExportInfo>,
}

impl<'a> Wire<'a> for HelloReply {
    fn put(&self, w: &mut Writer<'_>) {
        self.version.put(w);
        self.max_nodes.put(w);
        self.max_connections.put(w);
        put_list(w, &self.exports);
    }
    fn take(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(HelloReply {
            version: u32::take(r)?,
            max_nodes: u64::take(r)?,
            max_connections: u32::take(r)?,
            exports: take_list(r, MAX_EXPORTS)?,
        })
    }
}

wire_struct! {
    /// A node and what it is.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct NodeInfo {
        /// Its id; the client must close it.
        id: NodeId,
        /// Its attributes.
        attr: Attr,
    }
}

/// Answer to `Walk`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalkReply {
    /// The components that were found, in order; at most as many as were asked for.
    pub found: Vec<NodeInfo>,
    /// Why the component after the last found one could not be looked up, or why the last could
    /// not be opened; 0 if neither failed.
    pub errno: u32,
    /// The target, if the last found one is a symbolic link.
    pub link: Option<LinkTarget>,
    /// Whether the reply carries the opened file.
    pub opened: bool,
}

impl<'a> Wire<'a> for WalkReply {
    fn put(&self, w: &mut Writer<'_>) {
        put_list(w, &self.found);
        self.errno.put(w);
        self.link.put(w);
        self.opened.put(w);
    }
    fn take(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(WalkReply {
            found: take_list(r, MAX_WALK)?,
            errno: u32::take(r)?,
            link: Wire::take(r)?,
            opened: bool::take(r)?,
        })
    }
}

wire_struct! {
    /// Answer to `Stat`, `Open` and `SetAttr`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct AttrReply {
        /// The attributes, after the change.
        attr: Attr,
    }
}

wire_struct! {
    /// One directory entry. `.` and `..` are left out.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct DirEntry {
        /// Inode number; at a mount point that of the covered directory, as Linux has it.
        ino: u64,
        /// The cookie that continues behind this entry.
        next: u64,
        /// What it is.
        kind: FileKind,
        /// The name.
        name: EntryName,
        /// Attributes, if asked for and the entry still existed.
        attr: Option<Attr>,
    }
}

/// Answer to `ReadDir`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadDirReply {
    /// The directory, if it was named.
    pub node: Option<NodeInfo>,
    /// Entries in the host's order.
    pub entries: Vec<DirEntry>,
    /// Whether the directory is at its end.
    pub end: bool,
    /// Where to go on.
    pub next: u64,
}

impl<'a> Wire<'a> for ReadDirReply {
    fn put(&self, w: &mut Writer<'_>) {
        self.node.put(w);
        put_list(w, &self.entries);
        self.end.put(w);
        self.next.put(w);
    }
    fn take(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(ReadDirReply {
            node: Wire::take(r)?,
            entries: take_list(r, MAX_ENTRIES)?,
            end: bool::take(r)?,
            next: u64::take(r)?,
        })
    }
}

wire_struct! {
    /// Answer to `ReadLink`.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct LinkReply {
        /// The target.
        target: LinkTarget,
    }
}

wire_struct! {
    /// Answer to `GetXattr` (the value) and `ListXattr` (names, each ended by NUL).
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct BytesReply {
        /// The bytes.
        bytes: OwnedBytes,
    }
}

wire_struct! {
    /// Answer to `StatFs`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct StatFsReply {
        /// Magic number of the file system.
        fs_type: u64,
        /// Block size.
        bsize: u64,
        /// Fragment size.
        frsize: u64,
        /// Blocks.
        blocks: u64,
        /// Free blocks.
        bfree: u64,
        /// Free blocks for unprivileged users.
        bavail: u64,
        /// Inodes.
        files: u64,
        /// Free inodes.
        ffree: u64,
        /// Longest name.
        namelen: u64,
        /// Mount flags (`ST_*`).
        flags: u64,
    }
}

wire_struct! {
    /// Answer to `Watch`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct WatchReply {
        /// The watch descriptor, by which events name the directory.
        watch: u32,
        /// Whether an event tells all that it means: a name is one file's in one spelling only.
        exact: bool,
    }
}

wire_struct! {
    /// Answer to requests that only succeed or fail.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Done {}
}
