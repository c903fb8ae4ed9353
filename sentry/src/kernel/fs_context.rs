//! Root, current directory, umask and mounts of a task (`struct fs_struct` and the mount
//! namespace), shared by `CLONE_FS`.

use std::sync::Arc;

use parking_lot::RwLock;

use crate::vfs::{MountNamespace, Path};

/// Where path walks start.
pub struct FsContext {
    inner: RwLock<Inner>,
}

#[derive(Clone)]
struct Inner {
    root: Path,
    cwd: Path,
    umask: u32,
    mounts: Arc<MountNamespace>,
}

impl FsContext {
    /// A context in `mounts`, with umask 022.
    pub fn new(mounts: Arc<MountNamespace>, root: Path, cwd: Path) -> Arc<FsContext> {
        Arc::new(FsContext { inner: RwLock::new(Inner { root, cwd, umask: 0o022, mounts }) })
    }

    /// A copy, as fork makes it.
    pub fn fork(&self) -> Arc<FsContext> {
        Arc::new(FsContext { inner: RwLock::new(self.inner.read().clone()) })
    }

    /// The root directory.
    pub fn root(&self) -> Path {
        self.inner.read().root.clone()
    }

    /// The current directory.
    pub fn cwd(&self) -> Path {
        self.inner.read().cwd.clone()
    }

    /// What a path walk needs: root, current directory, mounts.
    pub fn walk_base(&self) -> (Path, Path, Arc<MountNamespace>) {
        let inner = self.inner.read();
        (inner.root.clone(), inner.cwd.clone(), inner.mounts.clone())
    }

    /// The umask.
    pub fn umask(&self) -> u32 {
        self.inner.read().umask
    }

    /// The mount namespace.
    pub fn mounts(&self) -> Arc<MountNamespace> {
        self.inner.read().mounts.clone()
    }

    /// chroot(2).
    pub fn set_root(&self, root: Path) {
        self.inner.write().root = root;
    }

    /// chdir(2).
    pub fn set_cwd(&self, cwd: Path) {
        self.inner.write().cwd = cwd;
    }

    /// umask(2); returns the old one.
    pub fn set_umask(&self, umask: u32) -> u32 {
        std::mem::replace(&mut self.inner.write().umask, umask & 0o777)
    }
}
