//! The file systems that mount(2) can make, by name. Owns the registry; a leaf lock.

use std::sync::Arc;

use abi::Errno;
use parking_lot::RwLock;

use super::{Dentry, FileSystem};
use crate::fs::tmpfs::{TmpFs, TmpfsOptions};
use crate::kernel::Kernel;

/// What a mount of a new file system starts from.
pub struct NewFs {
    /// The file system.
    pub fs: Arc<dyn FileSystem>,
    /// Its root directory; of a file system that is there already, the same each time.
    pub root: Arc<Dentry>,
}

/// Makes a file system: the kernel, the source and the options of mount(2).
pub type MakeFs = Arc<dyn Fn(&Kernel, &str, &str) -> Result<NewFs, Errno> + Send + Sync>;

/// The registry.
pub struct FsTypes(RwLock<Vec<(&'static str, MakeFs)>>);

impl Default for FsTypes {
    /// tmpfs and mqueue.
    fn default() -> Self {
        let tmpfs: MakeFs = Arc::new(|kernel, _, options| {
            let options = TmpfsOptions::for_kernel(kernel).parse(options)?;
            let (fs, root) = TmpFs::of(kernel, options)?;
            Ok(NewFs { fs, root: Dentry::root(b"/", root) })
        });
        let mqueue: MakeFs = Arc::new(|kernel, _, _| {
            let root = kernel.mqueue_root()?;
            Ok(NewFs { fs: root.mount.fs.clone(), root: root.dentry.clone() })
        });
        FsTypes(RwLock::new(vec![("tmpfs", tmpfs), ("mqueue", mqueue)]))
    }
}

impl FsTypes {
    /// Adds a type, or replaces it.
    pub fn register(&self, name: &'static str, make: MakeFs) {
        let mut types = self.0.write();
        types.retain(|(n, _)| *n != name);
        types.push((name, make));
    }

    /// Makes a file system of a type. `ENODEV` for one that is not known.
    pub fn make(
        &self,
        kernel: &Kernel,
        name: &str,
        source: &str,
        options: &str,
    ) -> Result<NewFs, Errno> {
        let make = self.0.read().iter().find(|(n, _)| *n == name).map(|(_, m)| m.clone());
        make.ok_or(Errno::ENODEV)?(kernel, source, options)
    }

    /// The names, for /proc/filesystems.
    pub fn names(&self) -> Vec<&'static str> {
        self.0.read().iter().map(|(n, _)| *n).collect()
    }
}
