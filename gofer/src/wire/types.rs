//! The values that messages are made of: node ids, names, attributes, flags.

use abi::Errno;

use super::cursor::{Malformed, Reader, Wire, Writer, wire_struct};
use super::{MAX_LINK, MAX_NAME, MAX_VALUE};

/// Stands for one `O_PATH` descriptor in the gofer. Never zero, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl<'a> Wire<'a> for NodeId {
    fn put(&self, w: &mut Writer<'_>) {
        self.0.put(w);
    }
    fn take(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        match u64::take(r)? {
            0 => Err(Malformed),
            id => Ok(NodeId(id)),
        }
    }
}

/// One path component as the Sentry sends it. The server answers a name that Linux would refuse
/// with the errno ([`Name::check`]); only an absurd length is a protocol error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name<'a>(pub &'a [u8]);

impl Name<'_> {
    /// Whether the server may hand this to the host as one component.
    ///
    /// Errors: `ENOENT` (empty), `ENAMETOOLONG` (over 255 bytes), `EINVAL` (`.`, `..`, `/` or NUL
    /// inside: the Sentry's path walk never sends those).
    pub fn check(&self) -> Result<(), Errno> {
        match self.0 {
            b"" => Err(Errno::ENOENT),
            b"." | b".." => Err(Errno::EINVAL),
            n if n.len() > MAX_NAME => Err(Errno::ENAMETOOLONG),
            n if n.iter().any(|&c| c == b'/' || c == 0) => Err(Errno::EINVAL),
            _ => Ok(()),
        }
    }
}

impl<'a> Wire<'a> for Name<'a> {
    fn put(&self, w: &mut Writer<'_>) {
        put_bytes(w, self.0);
    }
    fn take(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(Name(take_bytes(r, MAX_LINK)?))
    }
}

/// A byte string of at most [`MAX_VALUE`] bytes in a request: a link target, an xattr value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Wire<'a> for Bytes<'a> {
    fn put(&self, w: &mut Writer<'_>) {
        put_long_bytes(w, self.0);
    }
    fn take(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(Bytes(take_long_bytes(r)?))
    }
}

/// A byte string of at most [`MAX_VALUE`] bytes in a reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnedBytes(pub Vec<u8>);

impl<'a> Wire<'a> for OwnedBytes {
    fn put(&self, w: &mut Writer<'_>) {
        put_long_bytes(w, &self.0);
    }
    fn take(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(OwnedBytes(take_long_bytes(r)?.to_vec()))
    }
}

/// The target of a symbolic link: 1 to 4095 bytes, no NUL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkTarget(pub Box<[u8]>);

impl<'a> Wire<'a> for LinkTarget {
    fn put(&self, w: &mut Writer<'_>) {
        put_bytes(w, &self.0);
    }
    fn take(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        let bytes = take_bytes(r, MAX_LINK)?;
        if bytes.is_empty() || bytes.contains(&0) {
            return Err(Malformed);
        }
        Ok(LinkTarget(bytes.into()))
    }
}

/// A directory entry's name as the server sends it: what [`Name::check`] accepts, nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryName(pub Box<[u8]>);

impl<'a> Wire<'a> for EntryName {
    fn put(&self, w: &mut Writer<'_>) {
        put_bytes(w, &self.0);
    }
    fn take(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        let bytes = take_bytes(r, MAX_NAME)?;
        Name(bytes).check().map_err(|_| Malformed)?;
        Ok(EntryName(bytes.into()))
    }
}

/// An export's tag: any bytes, at most [`MAX_NAME`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tag(pub Vec<u8>);

impl<'a> Wire<'a> for Tag {
    fn put(&self, w: &mut Writer<'_>) {
        put_bytes(w, &self.0);
    }
    fn take(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(Tag(take_bytes(r, MAX_NAME)?.to_vec()))
    }
}

fn put_bytes(w: &mut Writer<'_>, bytes: &[u8]) {
    let n = bytes.len().min(usize::from(u16::MAX));
    (n as u16).put(w);
    w.raw(bytes.get(..n).unwrap_or(bytes));
}

fn take_bytes<'a>(r: &mut Reader<'a>, max: usize) -> Result<&'a [u8], Malformed> {
    let n = usize::from(u16::take(r)?);
    if n > max {
        return Err(Malformed);
    }
    r.raw(n)
}

fn put_long_bytes(w: &mut Writer<'_>, bytes: &[u8]) {
    let n = bytes.len().min(MAX_VALUE);
    (n as u32).put(w);
    w.raw(bytes.get(..n).unwrap_or(bytes));
}

fn take_long_bytes<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    let n = u32::take(r)? as usize;
    if n > MAX_VALUE {
        return Err(Malformed);
    }
    r.raw(n)
}

/// A point in time, as statx(2) gives it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds since the epoch.
    pub sec: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nsec: u32,
}

impl<'a> Wire<'a> for Timestamp {
    fn put(&self, w: &mut Writer<'_>) {
        self.sec.put(w);
        self.nsec.put(w);
    }
    fn take(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        let t = Timestamp { sec: i64::take(r)?, nsec: u32::take(r)? };
        if t.nsec < 1_000_000_000 { Ok(t) } else { Err(Malformed) }
    }
}

/// A new value for a time stamp, as utimensat(2) takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// `UTIME_NOW`: the host's clock.
    Now,
    /// This time.
    To(Timestamp),
}

impl<'a> Wire<'a> for SetTime {
    fn put(&self, w: &mut Writer<'_>) {
        match self {
            SetTime::Now => None,
            SetTime::To(t) => Some(*t),
        }
        .put(w);
    }
    fn take(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        Ok(<Option<Timestamp> as Wire>::take(r)?.map_or(SetTime::Now, SetTime::To))
    }
}

/// What a file is: the `S_IFMT` bits of its mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// `S_IFREG`
    Regular,
    /// `S_IFDIR`
    Directory,
    /// `S_IFLNK`
    Symlink,
    /// `S_IFIFO`
    Fifo,
    /// `S_IFSOCK`
    Socket,
    /// `S_IFCHR`
    CharDevice,
    /// `S_IFBLK`
    BlockDevice,
}

impl FileKind {
    /// From the type bits of a mode; `None` for a type that Linux does not have.
    pub fn from_mode(mode: u32) -> Option<FileKind> {
        Some(match mode & libc::S_IFMT {
            libc::S_IFREG => FileKind::Regular,
            libc::S_IFDIR => FileKind::Directory,
            libc::S_IFLNK => FileKind::Symlink,
            libc::S_IFIFO => FileKind::Fifo,
            libc::S_IFSOCK => FileKind::Socket,
            libc::S_IFCHR => FileKind::CharDevice,
            libc::S_IFBLK => FileKind::BlockDevice,
            _ => return None,
        })
    }

    /// The type bits for a mode.
    pub fn mode_bits(self) -> u32 {
        match self {
            FileKind::Regular => libc::S_IFREG,
            FileKind::Directory => libc::S_IFDIR,
            FileKind::Symlink => libc::S_IFLNK,
            FileKind::Fifo => libc::S_IFIFO,
            FileKind::Socket => libc::S_IFSOCK,
            FileKind::CharDevice => libc::S_IFCHR,
            FileKind::BlockDevice => libc::S_IFBLK,
        }
    }

    /// `DT_*`, as getdents64(2) shows it.
    pub fn dirent_type(self) -> u8 {
        (self.mode_bits() >> 12) as u8
    }
}

impl<'a> Wire<'a> for FileKind {
    fn put(&self, w: &mut Writer<'_>) {
        self.dirent_type().put(w);
    }
    fn take(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        FileKind::from_mode(u32::from(u8::take(r)?) << 12).ok_or(Malformed)
    }
}

wire_struct! {
    /// Everything that stat(2) and statx(2) say about a file. Numbers are the host's.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct RawAttr {
        /// Device of the file system, as `makedev(3)` packs it.
        dev: u64,
        /// Inode number.
        ino: u64,
        /// Id of the mount in the gofer's namespace; tells mount crossings apart.
        mnt_id: u64,
        /// Type and permission bits.
        mode: u32,
        /// Hard links.
        nlink: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Device number of a device node.
        rdev: u64,
        /// Size in bytes, at most `i64::MAX`.
        size: u64,
        /// Blocks of 512 bytes.
        blocks: u64,
        /// Preferred block size for I/O.
        blksize: u32,
        /// Last access.
        atime: Timestamp,
        /// Last change of the content.
        mtime: Timestamp,
        /// Last change of the inode.
        ctime: Timestamp,
        /// Creation; `None` where the file system does not know.
        btime: Option<Timestamp>,
        /// `stx_attributes`.
        attributes: u64,
        /// `stx_attributes_mask`.
        attributes_mask: u64,
    }
}

/// [`RawAttr`] with a checked type and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    raw: RawAttr,
    kind: FileKind,
}

impl Attr {
    /// Checks that the type is one of Linux's and the size fits `off_t`.
    pub fn new(raw: RawAttr) -> Option<Attr> {
        let kind = FileKind::from_mode(raw.mode)?;
        if raw.size > i64::MAX as u64 {
            return None;
        }
        Some(Attr { raw, kind })
    }

    /// What the file is.
    pub fn kind(&self) -> FileKind {
        self.kind
    }

    /// Device and inode number, which identify a file while it exists.
    pub fn identity(&self) -> (u64, u64) {
        (self.raw.dev, self.raw.ino)
    }
}

impl std::ops::Deref for Attr {
    type Target = RawAttr;
    fn deref(&self) -> &RawAttr {
        &self.raw
    }
}

impl<'a> Wire<'a> for Attr {
    fn put(&self, w: &mut Writer<'_>) {
        self.raw.put(w);
    }
    fn take(r: &mut Reader<'a>) -> Result<Self, Malformed> {
        Attr::new(RawAttr::take(r)?).ok_or(Malformed)
    }
}

bitflags::bitflags! {
    /// What an export allows, as the client is told in the hello reply.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct ExportFlags: u32 {
        /// Each mutating call is refused with `EROFS`.
        const READ_ONLY = 1;
        /// Nobody but this sandbox changes the tree while it runs, so the Sentry may cache names
        /// and attributes without asking again.
        const EXCLUSIVE = 2;
        /// Set-user-id and set-group-id bits cannot be put on files (`EPERM`).
        const NO_SUID = 4;
        /// Regular files and directories that not everybody on the host may read are not opened
        /// (`EACCES`): keeps the secrets of a host's `/etc` from a guest when the gofer is root.
        const PUBLIC_ONLY = 8;
        /// The root is a single file, not a directory.
        const SINGLE_FILE = 16;
    }

    /// How a file is opened. Bits outside are a protocol error.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct OpenFlags: u32 {
        /// For reading.
        const READ = 1;
        /// For writing.
        const WRITE = 2;
        /// `O_TRUNC`, done after the file's identity was checked.
        const TRUNCATE = 4;
        /// `O_APPEND`.
        const APPEND = 8;
        /// `O_SYNC`.
        const SYNC = 16;
        /// `O_DSYNC`.
        const DSYNC = 32;
    }

    /// `renameat2(2)` flags; the values are the host's.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct RenameFlags: u32 {
        /// `RENAME_NOREPLACE`
        const NOREPLACE = 1;
        /// `RENAME_EXCHANGE`
        const EXCHANGE = 2;
    }
}

macro_rules! wire_flags {
    ($($t:ty),*) => {$(
        impl<'a> Wire<'a> for $t {
            fn put(&self, w: &mut Writer<'_>) {
                self.bits().put(w);
            }
            fn take(r: &mut Reader<'a>) -> Result<Self, Malformed> {
                <$t>::from_bits(u32::take(r)?).ok_or(Malformed)
            }
        }
    )*};
}
wire_flags!(ExportFlags, OpenFlags, RenameFlags);

impl OpenFlags {
    /// Whether the open can change the file.
    pub fn mutates(self) -> bool {
        self.intersects(OpenFlags::WRITE | OpenFlags::TRUNCATE)
    }
}
