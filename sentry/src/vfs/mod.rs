//! The virtual file system, after Linux: mounts, dentries, inodes, file descriptions, with a trait
//! for what a file system has to provide. Path walking is written once, in [`namei`].
//!
//! * [`Inode`] is a file as a file system knows it; [`Dentry`] is a name for one in the cache;
//!   [`Mount`] puts a tree of dentries somewhere; [`Path`] is a (mount, dentry) pair.
//! * [`FileDescription`] is what open(2) makes: [`FileOps`] plus position and status flags.
//! * All operations are non-blocking and say `EAGAIN`; who wants to wait uses [`FileOps::poll`] and
//!   [`FileOps::wait_queue`] through `Task::block_on`.
//!
//! Lock order: rename lock -> mount table -> a directory's `dir` (parent before child) -> file system
//! internals -> dentry internals -> wait queues.

pub mod attr;
pub mod by_name;
pub mod dentry;
pub mod dirops;
pub mod dpath;
pub mod file;
pub mod fstypes;
pub mod inode;
pub mod io;
mod lock_ranges;
pub mod locks;
pub mod mount;
pub mod namei;
pub mod notify;
pub mod open;
pub mod perm;
pub mod special;
pub mod text_busy;

pub use attr::{Attr, FileType, SetAttr, StatFs, Timespec};
pub use dentry::Dentry;
pub use file::{
    DirEntry, DirSink, FileDescription, FileOps, OpenFlags, limit_open_files, open_file_limit,
};
pub use inode::{
    DentryPolicy, FileSystem, Inode, InodeKey, LinkTarget, NewNode, NodeKind, OpenArgs,
};
pub use io::{IoDst, IoSrc};
pub use mount::{Mount, MountFlags, MountNamespace, Path};
pub use namei::{LookupFlags, WalkContext};
pub use perm::Access;

/// Longest file name, in bytes.
pub const NAME_MAX: usize = 255;
/// Longest path that a system call takes, with the terminating NUL.
pub const PATH_MAX: usize = 4096;

#[cfg(test)]
mod tests;
