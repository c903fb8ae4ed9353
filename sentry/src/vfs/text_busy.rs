//! Who writes to a file and who runs it: a program that runs cannot be opened for writing, and a file
//! that is open for writing cannot be run, both `ETXTBSY` (`i_writecount`, `get_write_access` and
//! `deny_write_access` of Linux's `fs.h`).
//!
//! Locks: the counts', alone and briefly.

use std::collections::HashMap;

use abi::Errno;
use parking_lot::Mutex;

use super::{FileType, Inode, InodeKey};

/// Of each file that is written to or run: how many writers (positive) or programs (negative).
static COUNTS: Mutex<Option<HashMap<InodeKey, i64>>> = Mutex::new(None);

/// One writer or one program. It ends when this is dropped.
#[derive(Debug)]
pub struct Hold {
    key: InodeKey,
    step: i64,
}

impl Hold {
    /// A writer. `None` for anything but a regular file.
    ///
    /// # Errors
    /// `ETXTBSY` while it runs.
    pub fn write(inode: &dyn Inode) -> Result<Option<Hold>, Errno> {
        Hold::new(inode, 1)
    }

    /// A program.
    ///
    /// # Errors
    /// `ETXTBSY` while somebody may write.
    pub fn run(inode: &dyn Inode) -> Result<Option<Hold>, Errno> {
        Hold::new(inode, -1)
    }

    fn new(inode: &dyn Inode, step: i64) -> Result<Option<Hold>, Errno> {
        if inode.file_type() != FileType::Regular {
            return Ok(None);
        }
        let key = inode.key();
        let mut counts = COUNTS.lock();
        let count = counts.get_or_insert_default().entry(key).or_insert(0);
        if *count * step < 0 {
            return Err(Errno::ETXTBSY);
        }
        *count += step;
        Ok(Some(Hold { key, step }))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut counts = COUNTS.lock();
        let counts = counts.get_or_insert_default();
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= self.step;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}
