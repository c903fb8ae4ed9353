//! A lower file that is open for reading.

use std::any::Any;
use std::sync::Arc;

use abi::Errno;

use super::OverlayInode;
use crate::kernel::Current;
use crate::mm::Mappable;
use crate::vfs::{FileOps, Inode, IoDst};

/// Reads the lower file until somebody changes it: from then on the upper one, as overlayfs does.
/// What was mapped stays the lower one's, as there.
pub(super) struct LowerFile {
    inode: Arc<OverlayInode>,
    lower: Box<dyn FileOps>,
}

impl LowerFile {
    pub(super) fn new(inode: Arc<OverlayInode>, lower: Box<dyn FileOps>) -> LowerFile {
        LowerFile { inode, lower }
    }
}

impl FileOps for LowerFile {
    fn read(&self, dst: &mut IoDst<'_>, offset: u64) -> Result<usize, Errno> {
        if self.inode.is_lower() {
            return self.lower.read(dst, offset);
        }
        self.inode.read_at(dst, offset)
    }
    fn seek(&self, current: u64, offset: i64, whence: i32) -> Option<Result<u64, Errno>> {
        // The general code asks the inode for the size.
        if self.inode.is_lower() { self.lower.seek(current, offset, whence) } else { None }
    }
    fn mappable(&self) -> Result<Arc<dyn Mappable>, Errno> {
        self.lower.mappable()
    }
    fn fsync(&self, data_only: bool) -> Result<(), Errno> {
        self.lower.fsync(data_only)
    }
    fn ioctl(&self, cur: &mut Current, cmd: u32, arg: u64) -> Result<i64, Errno> {
        self.lower.ioctl(cur, cmd, arg)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
