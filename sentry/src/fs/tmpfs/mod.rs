//! tmpfs: files in the sandbox's memory file (tmpfs(5), mm/shmem.c).
//!
//! Content lives in [`ShmemObject`]s, names and attributes on the Sentry's heap; bytes, inodes and
//! attribute space are bounded per file system (`ENOSPC`).
//!
//! Lock order: a file's `io` -> `MemoryManager::state` -> the object; a directory's `names` and an
//! inode's `meta` are leaves and are never held together with another inode's.

mod dir;
mod file;
mod inode;
pub mod memfd;
mod xattr;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::Errno;
use platform::MemoryFile;

use crate::kernel::Kernel;
use crate::kmem::{self, KernelMemory};
use crate::mm::Quota;
use crate::vfs::{FileSystem, Inode, NewNode, NodeKind, StatFs, mount};

pub use file::{OpenFile, seal};
pub use inode::TmpInode;

const PAGE: u64 = platform::PAGE_SIZE;

/// Limits and the root's attributes (tmpfs(5)'s mount options).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TmpfsOptions {
    /// Bytes of content.
    pub size: u64,
    /// Files of any kind.
    pub inodes: u64,
    /// Permission bits of the root.
    pub mode: u32,
    /// Owner of the root.
    pub uid: u32,
    /// Group of the root.
    pub gid: u32,
}

impl TmpfsOptions {
    /// Half of the memory file, and a file for each two pages of it, a million at most; a root that
    /// everybody may write to.
    pub fn for_memory(memory: &MemoryFile) -> TmpfsOptions {
        let size = (memory.limit() / 2).max(PAGE);
        let inodes = (memory.limit() / PAGE / 2).clamp(1, 1 << 20);
        TmpfsOptions { size, inodes, mode: 0o1777, uid: 0, gid: 0 }
    }

    /// What a file system of this kernel starts from: as above, or as big as all of them together
    /// may be.
    pub fn for_kernel(kernel: &Kernel) -> TmpfsOptions {
        let mut options = TmpfsOptions::for_memory(&kernel.memory);
        if let Some(tmp) = kernel.limits.tmp() {
            options.size = tmp.limit();
        }
        options
    }

    /// Changes what the options of a mount(2) say: `"size=64k,nr_inodes=100,mode=755"`. `EINVAL`
    /// for what is not known or not a number.
    pub fn parse(mut self, text: &str) -> Result<TmpfsOptions, Errno> {
        for option in text.split(',').filter(|o| !o.is_empty()) {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            match key {
                "size" => self.size = self.parse_size(value)?.min(self.size),
                "nr_blocks" => {
                    let blocks = parse_scaled(value)?;
                    self.size = blocks.checked_mul(PAGE).ok_or(Errno::EINVAL)?.min(self.size);
                }
                "nr_inodes" => self.inodes = parse_scaled(value)?.min(self.inodes),
                "mode" => {
                    self.mode = u32::from_str_radix(value, 8).map_err(|_| Errno::EINVAL)? & 0o7777;
                }
                "uid" => self.uid = value.parse().map_err(|_| Errno::EINVAL)?,
                "gid" => self.gid = value.parse().map_err(|_| Errno::EINVAL)?,
                // Where pages lie, and whether inode numbers are wide, is nothing one could see.
                "huge" | "mpol" | "inode32" | "inode64" | "noswap" => {}
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(self)
    }

    fn parse_size(&self, value: &str) -> Result<u64, Errno> {
        match value.strip_suffix('%') {
            Some(percent) => {
                let percent: u64 = percent.parse().map_err(|_| Errno::EINVAL)?;
                // The default is half of all there is.
                Ok(self.size.saturating_mul(2) / 100 * percent.min(100))
            }
            None => match parse_scaled(value)? {
                // As on Linux, no limit of its own.
                0 => Ok(u64::MAX),
                size => Ok(size.next_multiple_of(PAGE)),
            },
        }
    }
}

/// A number with an optional `k`, `m`, `g`.
fn parse_scaled(text: &str) -> Result<u64, Errno> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        _ => return Err(Errno::EINVAL),
    };
    let number: u64 = digits.parse().map_err(|_| Errno::EINVAL)?;
    number.checked_mul(1 << shift).filter(|n| *n <= i64::MAX as u64).ok_or(Errno::EINVAL)
}

/// A tmpfs instance.
pub struct TmpFs {
    dev: u64,
    memory: Arc<MemoryFile>,
    quota: Arc<Quota>,
    options: TmpfsOptions,
    inodes: AtomicU64,
    next_ino: AtomicU64,
    xattr_bytes: AtomicU64,
}

impl TmpFs {
    /// A file system, and its root directory.
    pub fn new(
        memory: Arc<MemoryFile>,
        options: TmpfsOptions,
    ) -> Result<(Arc<TmpFs>, Arc<dyn Inode>), Errno> {
        TmpFs::within(memory, options, None)
    }

    /// One of a kernel, whose content counts for what all of them may hold together.
    pub fn of(
        kernel: &Kernel,
        options: TmpfsOptions,
    ) -> Result<(Arc<TmpFs>, Arc<dyn Inode>), Errno> {
        TmpFs::within(kernel.memory.clone(), options, kernel.limits.tmp().cloned())
    }

    fn within(
        memory: Arc<MemoryFile>,
        options: TmpfsOptions,
        whole: Option<Arc<Quota>>,
    ) -> Result<(Arc<TmpFs>, Arc<dyn Inode>), Errno> {
        let fs = Arc::new(TmpFs {
            dev: mount::new_device(),
            memory,
            quota: Quota::within(options.size, whole),
            options,
            inodes: AtomicU64::new(0),
            next_ino: AtomicU64::new(1),
            xattr_bytes: AtomicU64::new(0),
        });
        let root = NewNode {
            mode: options.mode,
            uid: options.uid,
            gid: options.gid,
            kind: NodeKind::Directory,
        };
        let root = TmpInode::new(&fs, &root)?;
        Ok((fs, root))
    }

    /// Counts a new inode, and gives its number and its memory. `ENOSPC`, `ENOMEM`.
    fn take_inode(&self) -> Result<(u64, KernelMemory), Errno> {
        let memory = kmem::charge(kmem::INODE).ok_or(Errno::ENOMEM)?;
        let limit = self.options.inodes;
        let more = |n| if n < limit { Some(n + 1) } else { None };
        self.inodes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .map_err(|_| Errno::ENOSPC)?;
        Ok((self.next_ino.fetch_add(1, Ordering::Relaxed), memory))
    }
}

impl FileSystem for TmpFs {
    fn name(&self) -> &'static str {
        "tmpfs"
    }
    fn dev(&self) -> u64 {
        self.dev
    }
    fn statfs(&self) -> Result<StatFs, Errno> {
        let blocks = self.quota.limit() / PAGE;
        let free = self.quota.left() / PAGE;
        let files = self.options.inodes;
        Ok(StatFs {
            magic: 0x0102_1994,
            bsize: PAGE as i64,
            blocks,
            bfree: free,
            bavail: free,
            files,
            ffree: files.saturating_sub(self.inodes.load(Ordering::Relaxed)),
            namelen: 255,
            ..StatFs::default()
        })
    }
    fn options(&self) -> String {
        let o = &self.options;
        let mut text = format!("size={}k,nr_inodes={}", o.size / 1024, o.inodes);
        if o.mode != 0o1777 {
            text += &format!(",mode={:o}", o.mode);
        }
        text
    }
}
