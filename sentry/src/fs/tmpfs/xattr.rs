//! Extended attributes of tmpfs. Who may see and set which namespace is the VFS's to check.

use std::sync::atomic::Ordering;

use abi::Errno;

use super::TmpInode;
use crate::kmem::{self, KernelMemory};

/// Bytes of attributes that one file system keeps.
const MAX_BYTES: u64 = 16 << 20;
/// What an attribute costs beyond its name and value.
const OVERHEAD: usize = 64;

fn cost(name: &[u8], value: &[u8]) -> u64 {
    (name.len() + value.len() + OVERHEAD) as u64
}

/// An attribute's value.
pub(super) struct Value {
    bytes: Vec<u8>,
    _memory: KernelMemory,
}

fn known(name: &[u8]) -> bool {
    [b"user.".as_slice(), b"trusted.", b"security."].iter().any(|p| name.starts_with(p))
}

impl TmpInode {
    pub(super) fn xattr_get(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        if !known(name) {
            return Err(Errno::EOPNOTSUPP);
        }
        let meta = self.meta.lock();
        meta.xattrs.get(name).map(|value| value.bytes.clone()).ok_or(Errno::ENODATA)
    }

    pub(super) fn xattr_set(&self, name: &[u8], value: &[u8], flags: i32) -> Result<(), Errno> {
        if !known(name) {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut meta = self.meta.lock();
        let old = meta.xattrs.get(name);
        if flags & libc::XATTR_CREATE != 0 && old.is_some() {
            return Err(Errno::EEXIST);
        }
        if flags & libc::XATTR_REPLACE != 0 && old.is_none() {
            return Err(Errno::ENODATA);
        }
        let freed = old.map_or(0, |v| cost(name, &v.bytes));
        let taken = cost(name, value);
        let memory = kmem::charge(taken as usize).ok_or(Errno::ENOMEM)?;
        let change = |used: u64| {
            used.saturating_sub(freed).checked_add(taken).filter(|used| *used <= MAX_BYTES)
        };
        self.fs
            .xattr_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, change)
            .map_err(|_| Errno::ENOSPC)?;
        let value = Value { bytes: value.to_vec(), _memory: memory };
        meta.xattrs.insert(name.to_vec(), value);
        meta.ctime = crate::kernel::time::file_time();
        Ok(())
    }

    pub(super) fn xattr_list(&self) -> Vec<u8> {
        let meta = self.meta.lock();
        let mut names = Vec::new();
        for name in meta.xattrs.keys() {
            names.extend_from_slice(name);
            names.push(0);
        }
        names
    }

    pub(super) fn xattr_remove(&self, name: &[u8]) -> Result<(), Errno> {
        if !known(name) {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut meta = self.meta.lock();
        let value = meta.xattrs.remove(name).ok_or(Errno::ENODATA)?;
        self.fs.xattr_bytes.fetch_sub(cost(name, &value.bytes), Ordering::Relaxed);
        meta.ctime = crate::kernel::time::file_time();
        Ok(())
    }

    /// Gives back what the attributes cost, when the inode goes.
    pub(super) fn drop_xattrs(&mut self) {
        let bytes = self.meta.get_mut().xattrs.iter().map(|(n, v)| cost(n, &v.bytes)).sum();
        self.fs.xattr_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}
