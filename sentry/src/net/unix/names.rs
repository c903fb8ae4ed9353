//! Which socket has which name: abstract names, and inodes of bound sockets. And all sockets, for
//! /proc/net/unix.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use abi::Errno;
use parking_lot::Mutex;

use super::{UnixAddr, UnixSocket};
use crate::kernel::Task;
use crate::vfs::dirops;
use crate::vfs::namei::{LookupFlags, WalkContext};
use crate::vfs::perm::{self, Access};
use crate::vfs::{FileType, InodeKey, NodeKind, Path};

/// The names of one network namespace.
#[derive(Default)]
pub struct UnixNames {
    inner: Mutex<Names>,
}

#[derive(Default)]
struct Names {
    abstracts: HashMap<Vec<u8>, Weak<UnixSocket>>,
    inodes: HashMap<InodeKey, Weak<UnixSocket>>,
    all: Vec<Weak<UnixSocket>>,
    /// How long `all` may get before somebody looks for dead ones.
    prune_at: usize,
    last_auto: u32,
}

/// A name that a socket is bound to.
pub struct Bound {
    /// As getsockname(2) shows it.
    pub addr: UnixAddr,
    /// Where it lies in the file system; keeps the inode's number from being used again.
    pub path: Option<Path>,
}

impl UnixNames {
    /// Notes a new socket.
    pub(super) fn add(&self, socket: &Arc<UnixSocket>) {
        let mut names = self.inner.lock();
        if names.all.len() >= names.prune_at {
            names.all.retain(|s| s.strong_count() > 0);
            names.prune_at = (names.all.len() * 2).max(64);
        }
        names.all.push(Arc::downgrade(socket));
    }

    /// All sockets.
    pub fn all(&self) -> Vec<Arc<UnixSocket>> {
        self.inner.lock().all.iter().filter_map(Weak::upgrade).collect()
    }

    /// Binds a socket. `EADDRINUSE`, and what making the file says.
    pub(super) fn bind(
        &self,
        task: &Task,
        socket: &Arc<UnixSocket>,
        addr: UnixAddr,
    ) -> Result<Bound, Errno> {
        match addr {
            UnixAddr::Path(path) => {
                let place = make_node(task, &path)?;
                let key = place.inode()?.key();
                self.inner.lock().inodes.insert(key, Arc::downgrade(socket));
                Ok(Bound { addr: UnixAddr::Path(path), path: Some(place) })
            }
            name => self.bind_abstract(socket, name),
        }
    }

    /// Binds a socket to an abstract name, or one that is free. `EADDRINUSE`, `ENOSPC`.
    pub(super) fn bind_abstract(
        &self,
        socket: &Arc<UnixSocket>,
        addr: UnixAddr,
    ) -> Result<Bound, Errno> {
        let mut names = self.inner.lock();
        let free = |names: &Names, name: &Vec<u8>| {
            names.abstracts.get(name).is_none_or(|s| s.strong_count() == 0)
        };
        let name = match addr {
            UnixAddr::Abstract(name) => {
                free(&names, &name).then_some(name).ok_or(Errno::EADDRINUSE)?
            }
            UnixAddr::Path(_) => return Err(Errno::EINVAL),
            // Five hexadecimal digits, as on Linux.
            UnixAddr::Unnamed => (0..1 << 20)
                .find_map(|_| {
                    names.last_auto = (names.last_auto + 1) & 0xfffff;
                    let name = format!("{:05x}", names.last_auto).into_bytes();
                    free(&names, &name).then_some(name)
                })
                .ok_or(Errno::ENOSPC)?,
        };
        names.abstracts.insert(name.clone(), Arc::downgrade(socket));
        Ok(Bound { addr: UnixAddr::Abstract(name), path: None })
    }

    /// Gives a name up, if it is `socket` that it names: an accepted socket shows the name of the one
    /// that listened, and a name whose socket died may have been taken by another.
    pub(super) fn unbind(&self, socket: &Weak<UnixSocket>, bound: &Bound) {
        let mut names = self.inner.lock();
        match (&bound.addr, &bound.path) {
            (UnixAddr::Abstract(name), _)
                if names.abstracts.get(name).is_some_and(|s| Weak::ptr_eq(s, socket)) =>
            {
                names.abstracts.remove(name);
            }
            (_, Some(path)) => {
                if let Ok(key) = path.inode().map(|i| i.key())
                    && names.inodes.get(&key).is_some_and(|s| Weak::ptr_eq(s, socket))
                {
                    names.inodes.remove(&key);
                }
            }
            _ => {}
        }
    }

    /// The socket that an address names. `ECONNREFUSED`, and what walking the path says.
    pub(super) fn find(&self, task: &Task, addr: &UnixAddr) -> Result<Arc<UnixSocket>, Errno> {
        let socket = match addr {
            UnixAddr::Unnamed => None,
            UnixAddr::Abstract(name) => {
                self.inner.lock().abstracts.get(name).and_then(Weak::upgrade)
            }
            UnixAddr::Path(path) => {
                let ctx = WalkContext::of(task);
                let place = ctx.lookup(ctx.cwd.clone(), path, LookupFlags::FOLLOW)?;
                let inode = place.inode()?;
                perm::check(&ctx.cred, &inode, Access::WRITE)?;
                if inode.file_type() != FileType::Socket {
                    return Err(Errno::ECONNREFUSED);
                }
                self.inner.lock().inodes.get(&inode.key()).and_then(Weak::upgrade)
            }
        };
        socket.ok_or(Errno::ECONNREFUSED)
    }
}

/// Makes the file of a bound socket.
fn make_node(task: &Task, path: &[u8]) -> Result<Path, Errno> {
    let ctx = WalkContext::of(task);
    let (dir, last) = ctx.parent(ctx.cwd.clone(), path)?;
    let mode = 0o777 & !task.fs().umask();
    dirops::create(&ctx, &dir, last, mode, NodeKind::Socket).map_err(|errno| match errno {
        Errno::EEXIST => Errno::EADDRINUSE,
        other => other,
    })?;
    ctx.lookup(dir, last.name, LookupFlags::empty())
}
