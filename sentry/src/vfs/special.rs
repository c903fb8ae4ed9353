//! Opening what is not a file: device nodes by their number, named pipes.
//!
//! Owns the registry that drivers put themselves into at boot; read-mostly, a leaf lock.

use std::sync::Arc;

use abi::Errno;
use parking_lot::RwLock;

use super::{FileOps, FileType, OpenArgs};
use crate::fs::pipe::open_fifo;

/// A character device driver.
pub trait DeviceDriver: Send + Sync {
    /// Opens the device `rdev` (`makedev`). `ENXIO` if there is none of this minor number. May
    /// block through `args.task`.
    fn open(&self, rdev: u64, args: &OpenArgs<'_>) -> Result<Box<dyn FileOps>, Errno>;
}

/// The drivers.
#[derive(Default)]
pub struct Special {
    chars: RwLock<Vec<(u32, Arc<dyn DeviceDriver>)>>,
}

impl Special {
    /// Registers the driver of a major number; a later one replaces an earlier one.
    pub fn register_char(&self, major: u32, driver: Arc<dyn DeviceDriver>) {
        let mut chars = self.chars.write();
        chars.retain(|(m, _)| *m != major);
        chars.push((major, driver));
    }

    /// Opens the special file that `args.path` names; blocks for fifo(7)'s rendezvous. `ENXIO` for sockets and where there is no
    /// driver.
    pub fn open(&self, args: &OpenArgs<'_>) -> Result<Box<dyn FileOps>, Errno> {
        let inode = args.path.inode()?;
        match inode.file_type() {
            FileType::Fifo => Ok(Box::new(open_fifo(args.task, inode.key(), args.flags)?)),
            FileType::CharDevice => {
                let rdev = inode.attr()?.rdev;
                let major = libc::major(rdev);
                let driver =
                    self.chars.read().iter().find(|(m, _)| *m == major).map(|(_, d)| d.clone());
                driver.ok_or(Errno::ENXIO)?.open(rdev, args)
            }
            _ => Err(Errno::ENXIO),
        }
    }
}
