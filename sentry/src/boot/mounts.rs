//! Puts the sandbox's first mounts together, as the boot spec lists them.

use std::sync::Arc;

use abi::Errno;
use gofer::client::{Client, Export};

use super::spec::{MountKind, MountSpec};
use crate::fs::dev::{LINKS, NODES};
use crate::fs::gofer::GoferFs;
use crate::fs::overlay::Overlay;
use crate::fs::proc;
use crate::fs::sys;
use crate::fs::tmpfs::{TmpFs, TmpfsOptions};
use crate::kernel::Kernel;
use crate::tty::devpts::Devpts;
use crate::vfs::{
    Dentry, FileSystem, FileType, Inode, IoSrc, Mount, MountFlags, MountNamespace, NewNode,
    NodeKind, Path,
};

/// What went wrong, and where.
#[derive(Debug, thiserror::Error)]
#[error("mount {dst}: {errno}")]
pub struct MountError {
    /// The mount point, or what was to be made there.
    pub dst: String,
    /// Why.
    pub errno: Errno,
}

/// What the mounts are made of.
pub struct Sources {
    /// Connected to the gofer.
    pub client: Client,
    /// Its exports; taken out as they are mounted.
    pub exports: Vec<Option<Export>>,
    /// The sandbox's pseudo-terminals.
    pub devpts: Arc<Devpts>,
}

/// Makes all mounts. The first one is the root; if that is an overlay, `hosts` is put over its
/// `/etc/hosts`.
pub fn compose(
    kernel: &Arc<Kernel>,
    mut sources: Sources,
    specs: &[MountSpec],
    mut hosts: Option<Vec<u8>>,
) -> Result<Arc<MountNamespace>, MountError> {
    let mut namespace: Option<Arc<MountNamespace>> = None;
    for spec in specs {
        let dst = || String::from_utf8_lossy(&spec.dst).into_owned();
        let fail = |errno| MountError { dst: dst(), errno };
        let mount = make(kernel, &mut sources, &spec.kind, hosts.take()).map_err(fail)?;
        match &namespace {
            None => namespace = Some(MountNamespace::new(mount)),
            Some(namespace) => {
                let is_dir =
                    mount.root.inode().is_some_and(|i| i.file_type() == FileType::Directory);
                let point = make_point(namespace, &spec.dst, is_dir).map_err(fail)?;
                namespace.attach(mount, point);
            }
        }
        if matches!(spec.kind, MountKind::Dev)
            && let Some(namespace) = &namespace
        {
            fill_dev(kernel, &sources.devpts, namespace, &spec.dst).map_err(fail)?;
        }
    }
    namespace.ok_or(MountError { dst: "/".into(), errno: Errno::EINVAL })
}

fn make(
    kernel: &Arc<Kernel>,
    sources: &mut Sources,
    kind: &MountKind,
    hosts: Option<Vec<u8>>,
) -> Result<Arc<Mount>, Errno> {
    const SYSTEM: MountFlags =
        MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
    Ok(match kind {
        MountKind::Gofer { export, overlay, readonly, .. } => {
            let export = sources
                .exports
                .get_mut(*export as usize)
                .and_then(Option::take)
                .ok_or(Errno::ENODEV)?;
            let fs = GoferFs::new(sources.client.clone(), export);
            let root = fs.root()?;
            let flags = if *readonly { MountFlags::RDONLY } else { MountFlags::empty() };
            let flags = flags | MountFlags::RELATIME;
            if *overlay {
                let (_, upper) = tmpfs(kernel, 0o755)?;
                let overlay = Overlay::new(upper, vec![root])?;
                let root = overlay.root()?;
                if let Some(hosts) = hosts {
                    make_hosts(&root, &hosts)?;
                }
                mount_root(overlay, root, "overlay", flags)
            } else {
                mount_root(fs, root, "host", flags)
            }
        }
        MountKind::Tmpfs { mode } => {
            let (fs, root) = tmpfs(kernel, *mode)?;
            mount_root(fs, root, "tmpfs", MountFlags::RELATIME)
        }
        MountKind::Proc => proc::mount(kernel, SYSTEM | MountFlags::RELATIME),
        MountKind::Sys => sys::mount(kernel, SYSTEM | MountFlags::RDONLY | MountFlags::RELATIME),
        MountKind::Dev => {
            let (fs, root) = tmpfs(kernel, 0o755)?;
            mount_root(fs, root, "devtmpfs", MountFlags::NOSUID | MountFlags::RELATIME)
        }
    })
}

/// Makes `/etc/hosts` in a root that has none. Where it cannot be, because the root is an odd one, there
/// is none.
fn make_hosts(root: &Arc<dyn Inode>, text: &[u8]) -> Result<(), Errno> {
    let new = |mode, kind| NewNode { mode, uid: 0, gid: 0, kind };
    let etc = match root.lookup(b"etc", b"") {
        Ok(etc) if etc.file_type() == FileType::Directory => etc,
        Ok(_) => return Ok(()),
        Err(Errno::ENOENT) => root.create(b"etc", &new(0o755, NodeKind::Directory))?,
        Err(errno) => return Err(errno),
    };
    let hosts = match etc.create(b"hosts", &new(0o644, NodeKind::Regular)) {
        Err(Errno::EEXIST) => return Ok(()),
        made => made?,
    };
    hosts.write_at(&mut IoSrc::kernel(text), 0).map(drop)
}

/// The text of `/etc/hosts`: names without a server, the sandbox's own among them.
pub fn hosts(hostname: &[u8]) -> Vec<u8> {
    const LOCAL: &[u8] = b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
    // A name may be anything; one that would not be a name here is left out.
    let is_name = |b: &u8| b.is_ascii_alphanumeric() || b"-._".contains(b);
    let own: &[&[u8]] =
        if hostname.iter().all(is_name) { &[b"127.0.1.1\t", hostname, b"\n"] } else { &[] };
    [LOCAL, &own.concat()].concat()
}

fn tmpfs(kernel: &Arc<Kernel>, mode: u32) -> Result<(Arc<TmpFs>, Arc<dyn Inode>), Errno> {
    TmpFs::of(kernel, TmpfsOptions { mode, ..TmpfsOptions::for_kernel(kernel) })
}

fn mount_root(
    fs: Arc<dyn FileSystem>,
    root: Arc<dyn Inode>,
    source: &str,
    flags: MountFlags,
) -> Arc<Mount> {
    Mount::new(fs, Dentry::root(b"/", root), source, flags)
}

/// Walks to a mount point, and makes what is missing on the way (root's, mode 0755): the spec says
/// that mount points appear. No symbolic links are followed: `dst` is as the launcher resolved it.
fn make_point(namespace: &Arc<MountNamespace>, dst: &[u8], dir: bool) -> Result<Path, Errno> {
    let mut at = namespace.over(namespace.root().ok_or(Errno::ENOENT)?);
    let mut names = dst.split(|&b| b == b'/').filter(|name| !name.is_empty()).peekable();
    while let Some(name) = names.next() {
        let last = names.peek().is_none();
        let kind = if last && !dir { NodeKind::Regular } else { NodeKind::Directory };
        at = namespace.over(child(&at, name, 0o755, kind)?);
    }
    Ok(at)
}

/// The child of a directory, made if it is not there.
fn child(at: &Path, name: &[u8], mode: u32, kind: NodeKind<'_>) -> Result<Path, Errno> {
    let parent = at.inode()?;
    let inode = match parent.lookup(name, b"") {
        Ok(inode) => inode,
        Err(Errno::ENOENT) => parent.create(name, &NewNode { mode, uid: 0, gid: 0, kind })?,
        Err(errno) => return Err(errno),
    };
    let dentry = match at.dentry.cached(name) {
        Some(dentry) => dentry,
        None => at.dentry.add_child(Dentry::new_child(&at.dentry, name, Some(inode))),
    };
    Ok(Path { mount: at.mount.clone(), dentry })
}

/// Device nodes, links, `pts`, `shm` and `mqueue` of a fresh `/dev`.
fn fill_dev(
    kernel: &Arc<Kernel>,
    devpts: &Arc<Devpts>,
    namespace: &Arc<MountNamespace>,
    dst: &[u8],
) -> Result<(), Errno> {
    let dev = make_point(namespace, dst, true)?;
    for node in NODES {
        child(&dev, node.name.as_bytes(), node.mode, NodeKind::CharDevice(node.rdev))?;
    }
    for (name, text) in LINKS {
        child(&dev, name.as_bytes(), 0o777, NodeKind::Symlink(text.as_bytes()))?;
    }
    let pts = child(&dev, b"pts", 0o755, NodeKind::Directory)?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::RELATIME;
    namespace.attach(devpts.mount(flags), pts);
    let shm = child(&dev, b"shm", 0o1777, NodeKind::Directory)?;
    let (fs, root) = tmpfs(kernel, 0o1777)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::RELATIME;
    namespace.attach(mount_root(fs, root, "shm", flags), shm);
    let queues = child(&dev, b"mqueue", 0o755, NodeKind::Directory)?;
    let root = kernel.mqueue_root().cloned()?;
    let flags = flags | MountFlags::NOEXEC;
    let mount = Mount::new(root.mount.fs.clone(), root.dentry, "mqueue", flags);
    namespace.attach(mount, queues);
    Ok(())
}
