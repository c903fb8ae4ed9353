//! What the Sentry asks.

use super::cursor::{Malformed, Reader, Wire, Writer, put_list, take_list};
use super::types::{Bytes, Name, NodeId, OpenFlags, RenameFlags, SetTime};
use super::{MAX_CLOSE, MAX_UNWATCH, MAX_WALK};

/// Where a file was last known to be: lets the gofer open or change a file through its directory,
/// since a Linux `O_PATH` descriptor alone cannot be reopened without procfs. The gofer checks
/// that the name still leads to the node and answers `ESTALE` if not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location<'a> {
    /// The directory.
    pub dir: NodeId,
    /// The name in it.
    pub name: Name<'a>,
}

impl<'a> Wire<'a> for Location<'a> {
    fn put(&self, w: &mut Writer<'_>) {
        self.dir.put(w);
        self.name.put(w);
    }
    fn take(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(Location { dir: NodeId::take(r)?, name: Name::take(r)? })
    }
}

/// Up to [`MAX_WALK`] path components.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names<'a>(pub Vec<Name<'a>>);

impl<'a> Wire<'a> for Names<'a> {
    fn put(&self, w: &mut Writer<'_>) {
        put_list(w, &self.0);
    }
    fn take(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(Names(take_list(r, MAX_WALK)?))
    }
}

/// Up to [`MAX_CLOSE`] nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nodes(pub Vec<NodeId>);

impl<'a> Wire<'a> for Nodes {
    fn put(&self, w: &mut Writer<'_>) {
        put_list(w, &self.0);
    }
    fn take(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(Nodes(take_list(r, MAX_CLOSE)?))
    }
}

/// Up to [`MAX_UNWATCH`] watch descriptors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watches(pub Vec<u32>);

impl<'a> Wire<'a> for Watches {
    fn put(&self, w: &mut Writer<'_>) {
        put_list(w, &self.0);
    }
    fn take(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(Watches(take_list(r, MAX_UNWATCH)?))
    }
}

/// Who shall own a new file. `None` leaves what the host gives it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// User id in the gofer's user namespace.
    pub uid: Option<u32>,
    /// Group id likewise.
    pub gid: Option<u32>,
}

impl<'a> Wire<'a> for Owner {
    fn put(&self, w: &mut Writer<'_>) {
        self.uid.put(w);
        self.gid.put(w);
    }
    fn take(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(Owner { uid: Wire::take(r)?, gid: Wire::take(r)? })
    }
}

/// The changes of one `setattr`; `None` leaves a value alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Permission bits (07777).
    pub mode: Option<u32>,
    /// Owner and group.
    pub owner: Owner,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change.
    pub mtime: Option<SetTime>,
}

impl<'a> Wire<'a> for Changes {
    fn put(&self, w: &mut Writer<'_>) {
        self.mode.put(w);
        self.owner.put(w);
        self.size.put(w);
        self.atime.put(w);
        self.mtime.put(w);
    }
    fn take(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(Changes {
            mode: Wire::take(r)?,
            owner: Owner::take(r)?,
            size: Wire::take(r)?,
            atime: Wire::take(r)?,
            mtime: Wire::take(r)?,
        })
    }
}

macro_rules! requests {
    ($($(#[$meta:meta])* $op:literal $name:ident {
        $($(#[$fmeta:meta])* $field:ident: $t:ty,)*
    })*) => {
        /// One request. The operation number stands in the frame header.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Request<'a> {
            $($(#[$meta])* $name { $($(#[$fmeta])* $field: $t,)* },)*
        }

        impl<'a> Request<'a> {
            /// The operation number.
            pub fn op(&self) -> u16 {
                match self { $(Request::$name { .. } => $op,)* }
            }

            /// Appends the body.
            pub fn put(&self, w: &mut Writer<'_>) {
                match self { $(Request::$name { $($field,)* } => { $($field.put(w);)* })* }
            }

            /// Reads the body of operation `op`.
            pub fn take(op: u16, r: &mut Reader<'a>) -> Result<Request<'a>, Malformed> {
                match op {
                    $($op => Ok(Request::$name { $($field: <$t as Wire<'a>>::take(r)?,)* }),)*
                    _ => Err(Malformed),
                }
            }
        }
    };
}

requests! {
    /// First on a connection set: agrees on the version, lists the exports.
    1 Hello {
        /// The client's protocol version.
        version: u32,
    }
    /// Asks for a further connection; the reply carries its socket.
    2 Connect {}
    /// Looks up several components at once, from `dir` on. Stops at the first that is missing, a
    /// symbolic link, or not a directory. If all were found and the last is a regular file, it is
    /// opened as `open` says.
    3 Walk {
        /// Where to start.
        dir: NodeId,
        /// The components.
        names: Names<'a>,
        /// Open what was found.
        open: Option<OpenFlags>,
    }
    /// Attributes.
    4 Stat {
        /// Of this node.
        node: NodeId,
    }
    /// Opens a regular file; the reply carries the descriptor.
    5 Open {
        /// The file.
        node: NodeId,
        /// Where it is. Not needed for an export that is a single file.
        at: Option<Location<'a>>,
        /// How.
        flags: OpenFlags,
    }
    /// Lists a directory.
    6 ReadDir {
        /// The directory.
        dir: NodeId,
        /// List this child of it instead; the reply tells the child's node.
        name: Option<Name<'a>>,
        /// Where to go on: 0, or the `next` of an earlier entry.
        cookie: u64,
        /// Whether to include attributes.
        attrs: bool,
    }
    /// Reads a symbolic link.
    7 ReadLink {
        /// The link.
        node: NodeId,
    }
    /// Creates a regular file, which must not exist, and opens it.
    8 Create {
        /// Where.
        at: Location<'a>,
        /// Permission bits; no umask is applied.
        mode: u32,
        /// How to open it.
        flags: OpenFlags,
        /// Whose it shall be.
        owner: Owner,
    }
    /// Creates a directory.
    9 Mkdir {
        /// Where.
        at: Location<'a>,
        /// Permission bits.
        mode: u32,
        /// Whose it shall be.
        owner: Owner,
    }
    /// Creates a symbolic link.
    10 Symlink {
        /// Where.
        at: Location<'a>,
        /// What it says.
        target: Bytes<'a>,
        /// Whose it shall be.
        owner: Owner,
    }
    /// Creates a hard link.
    11 Link {
        /// The file.
        node: NodeId,
        /// Where it is now.
        from: Location<'a>,
        /// The new name.
        at: Location<'a>,
    }
    /// Creates a regular file, a FIFO or a socket node without opening it.
    12 Mknod {
        /// Where.
        at: Location<'a>,
        /// Type and permission bits.
        mode: u32,
        /// Whose it shall be.
        owner: Owner,
    }
    /// Removes a name.
    13 Unlink {
        /// Which.
        at: Location<'a>,
        /// `AT_REMOVEDIR`.
        dir: bool,
    }
    /// Renames.
    14 Rename {
        /// The old name.
        from: Location<'a>,
        /// The new name.
        to: Location<'a>,
        /// Variants.
        flags: RenameFlags,
    }
    /// Changes attributes.
    15 SetAttr {
        /// The file.
        node: NodeId,
        /// Where it is; needed to change the size, and the mode on hosts before Linux 6.6.
        at: Option<Location<'a>>,
        /// What to change.
        changes: Changes,
    }
    /// Reads an extended attribute.
    16 GetXattr {
        /// The file.
        node: NodeId,
        /// Where it is; needed for regular files.
        at: Option<Location<'a>>,
        /// The attribute.
        name: Name<'a>,
    }
    /// Writes an extended attribute.
    17 SetXattr {
        /// The file.
        node: NodeId,
        /// As in `GetXattr`.
        at: Option<Location<'a>>,
        /// The attribute.
        name: Name<'a>,
        /// Its value.
        value: Bytes<'a>,
        /// `XATTR_CREATE` (1) or `XATTR_REPLACE` (2).
        flags: u32,
    }
    /// Names the extended attributes.
    18 ListXattr {
        /// The file.
        node: NodeId,
        /// As in `GetXattr`.
        at: Option<Location<'a>>,
    }
    /// Removes an extended attribute.
    19 RemoveXattr {
        /// The file.
        node: NodeId,
        /// As in `GetXattr`.
        at: Option<Location<'a>>,
        /// The attribute.
        name: Name<'a>,
    }
    /// Figures of the file system.
    20 StatFs {
        /// Any node on it.
        node: NodeId,
    }
    /// Flushes a file or directory to storage.
    21 Fsync {
        /// The node.
        node: NodeId,
        /// Where it is; not needed for directories.
        at: Option<Location<'a>>,
        /// `fdatasync` instead of `fsync`.
        data_only: bool,
    }
    /// Gives up nodes. The only request without a reply.
    22 Close {
        /// Which.
        nodes: Nodes,
    }
    /// Asks for the inotify(7) instance that [`Request::Watch`] adds to; the reply carries it.
    23 Notifier {}
    /// From now on, changes of a directory's names, owner and mode are told by the instance.
    24 Watch {
        /// The directory.
        dir: NodeId,
    }
    /// Ends watches; unknown ones mean nothing.
    25 Unwatch {
        /// Which.
        watches: Watches,
    }
}
