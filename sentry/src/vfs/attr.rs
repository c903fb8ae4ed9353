//! File attributes, in the units of statx(2).

use bitflags::bitflags;

/// Seconds and nanoseconds since the epoch (or of a duration).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timespec {
    /// Whole seconds.
    pub sec: i64,
    /// 0..1_000_000_000.
    pub nsec: u32,
}

/// The type of a file: the `S_IFMT` bits of its mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum FileType {
    Regular,
    Directory,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
    Socket,
}

impl FileType {
    /// The `S_IFMT` bits.
    pub const fn mode_bits(self) -> u32 {
        match self {
            FileType::Regular => libc::S_IFREG,
            FileType::Directory => libc::S_IFDIR,
            FileType::Symlink => libc::S_IFLNK,
            FileType::CharDevice => libc::S_IFCHR,
            FileType::BlockDevice => libc::S_IFBLK,
            FileType::Fifo => libc::S_IFIFO,
            FileType::Socket => libc::S_IFSOCK,
        }
    }

    /// From the `S_IFMT` bits of a mode.
    pub const fn from_mode(mode: u32) -> Option<FileType> {
        Some(match mode & libc::S_IFMT {
            libc::S_IFREG => FileType::Regular,
            libc::S_IFDIR => FileType::Directory,
            libc::S_IFLNK => FileType::Symlink,
            libc::S_IFCHR => FileType::CharDevice,
            libc::S_IFBLK => FileType::BlockDevice,
            libc::S_IFIFO => FileType::Fifo,
            libc::S_IFSOCK => FileType::Socket,
            _ => return None,
        })
    }

    /// `d_type` of getdents64(2).
    pub const fn dirent_type(self) -> u8 {
        (self.mode_bits() >> 12) as u8
    }
}

/// What stat(2) tells about an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Device number of the file system (`st_dev`).
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Number of hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device that a device node stands for.
    pub rdev: u64,
    /// Bytes.
    pub size: u64,
    /// Preferred size of a transfer.
    pub blksize: u32,
    /// 512-byte units in use.
    pub blocks: u64,
    /// Last access.
    pub atime: Timespec,
    /// Last change of content.
    pub mtime: Timespec,
    /// Last change of attributes.
    pub ctime: Timespec,
    /// Creation, where the file system keeps it.
    pub btime: Option<Timespec>,
}

impl Attr {
    /// The file's type.
    pub fn file_type(&self) -> FileType {
        FileType::from_mode(self.mode).unwrap_or(FileType::Regular)
    }
}

/// The changes of chmod, chown, truncate and utimensat. Permission has been checked by the caller;
/// the file system only does it and updates ctime.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// New permission bits (07777).
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New size.
    pub size: Option<u64>,
    /// New access time.
    pub atime: Option<SetTime>,
    /// New modification time.
    pub mtime: Option<SetTime>,
}

impl SetAttr {
    /// Makes the changes in attributes that are kept in memory (all but the size), and updates
    /// ctime.
    pub fn apply(&self, attr: &mut Attr, now: Timespec) {
        let time = |t: SetTime| match t {
            SetTime::Now => now,
            SetTime::At(t) => t,
        };
        if let Some(mode) = self.mode {
            attr.mode = attr.mode & libc::S_IFMT | mode & 0o7777;
        }
        attr.uid = self.uid.unwrap_or(attr.uid);
        attr.gid = self.gid.unwrap_or(attr.gid);
        attr.atime = self.atime.map_or(attr.atime, time);
        attr.mtime = self.mtime.map_or(attr.mtime, time);
        attr.ctime = now;
    }
}

/// A new timestamp.
#[derive(Clone, Copy, Debug)]
pub enum SetTime {
    /// The clock's (`UTIME_NOW`).
    Now,
    /// This one.
    At(Timespec),
}

/// What statfs(2) tells.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)] // The names are statfs(2)'s.
pub struct StatFs {
    pub magic: i64,
    pub bsize: i64,
    pub blocks: u64,
    pub bfree: u64,
    pub bavail: u64,
    pub files: u64,
    pub ffree: u64,
    pub namelen: i64,
    pub flags: MountStatFlags,
}

bitflags! {
    /// `f_flags` of statfs(2).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct MountStatFlags: i64 {
        /// Read-only.
        const RDONLY = 1;
        /// Set-user-id bits are ignored.
        const NOSUID = 2;
        /// No device files.
        const NODEV = 4;
        /// No execution.
        const NOEXEC = 8;
        /// The field is valid.
        const VALID = 0x20;
        /// Access times are not updated.
        const NOATIME = 0x400;
        /// Access times are updated as mtime needs it.
        const RELATIME = 0x1000;
    }
}
