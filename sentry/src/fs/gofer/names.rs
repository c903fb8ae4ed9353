//! Making, linking, removing and renaming.
//!
//! The gofer does it; then listings forget what is no longer so, and the inodes concerned learn
//! their new places.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use abi::Errno;
use gofer::client::{At, Node};
use gofer::wire::request::Owner;
use gofer::wire::types::{Attr as HostAttr, OpenFlags as HostOpen, RenameFlags};

use super::inode::{GoferInode, Place};
use super::watch::note_own_change;
use crate::kernel::time::file_time;
use crate::vfs::{Inode, NewNode, NodeKind};

impl GoferInode {
    /// `Inode::create`
    pub(super) fn create_child(
        &self,
        name: &[u8],
        new: &NewNode<'_>,
    ) -> Result<Arc<GoferInode>, Errno> {
        let dir = self.handle()?;
        let at = At { dir: &dir, name };
        let owner = Owner { uid: Some(new.uid), gid: Some(new.gid) };
        // For the owner's sake (who may not be given files, or is not mapped on the host): try as the
        // gofer's own user.
        let made = match self.create_at(at, new, owner) {
            Err(Errno::EPERM | Errno::EINVAL) => self.create_at(at, new, Owner::default()),
            other => other,
        };
        let (node, fd) = made.inspect_err(|_| self.names_changed())?;
        let inode = self.adopt(name, node)?;
        if let Some(fd) = fd {
            inode.keep_writable(fd);
        }
        Ok(inode)
    }

    /// `Inode::link`
    pub(super) fn link_child(&self, name: &[u8], target: &GoferInode) -> Result<(), Errno> {
        let dir = self.handle()?;
        let new = At { dir: &dir, name };
        let result = target.at_places(|handle, from| {
            let from = from.ok_or(Errno::ENOENT)?;
            self.fs.client.link(handle, from, new)
        });
        self.names_changed();
        let attr = result?;
        target.forget_in_listings();
        target.learn(attr);
        target.add_place(Place { dir: self.me.upgrade().ok_or(Errno::EIO)?, name: name.into() });
        Ok(())
    }

    /// `Inode::unlink` and `Inode::rmdir`
    pub(super) fn remove_child(
        &self,
        name: &[u8],
        victim: &Arc<dyn Inode>,
        rmdir: bool,
    ) -> Result<(), Errno> {
        let dir = self.handle()?;
        self.fs.client.unlink(At { dir: &dir, name }, rmdir)?;
        self.lost_name(name, victim);
        Ok(())
    }

    /// Makes an inode for something that was created here.
    fn adopt(&self, name: &[u8], node: Node) -> Result<Arc<GoferInode>, Errno> {
        let dir = self.me.upgrade().ok_or(Errno::EIO)?;
        self.names_changed();
        let place = Place { dir, name: name.into() };
        Ok(GoferInode::find(&self.fs, node.attr, Some(node.handle), Some(place)))
    }

    /// A name in this directory appeared or went.
    fn names_changed(&self) {
        note_own_change();
        self.forget_listing();
        self.changed();
    }

    /// A name of `victim` here is gone.
    fn lost_name(&self, name: &[u8], victim: &Arc<dyn Inode>) {
        note_own_change();
        self.forget_name(name);
        self.changed();
        if let Some(victim) = victim.as_any().downcast_ref::<GoferInode>() {
            victim.lost_place(self, name);
        }
    }

    fn lost_place(&self, dir: &GoferInode, name: &[u8]) {
        self.forget_in_listings();
        self.remove_place(dir, name);
        let lazy = self.handle.lock().is_none();
        let mut known = self.attr.lock();
        if lazy {
            // There is nothing left to ask the gofer with; what is known is still right but for
            // this.
            let mut raw = *known.attr;
            raw.nlink = raw.nlink.saturating_sub(1);
            let now = file_time();
            (raw.ctime.sec, raw.ctime.nsec) = (now.sec, now.nsec);
            known.attr = HostAttr::new(raw).unwrap_or(known.attr);
        } else {
            known.at = 0;
        }
    }

    /// One attempt of [`Self::create_child`].
    fn create_at(
        &self,
        at: At<'_>,
        new: &NewNode<'_>,
        owner: Owner,
    ) -> Result<(Node, Option<OwnedFd>), Errno> {
        let c = &self.fs.client;
        Ok(match new.kind {
            NodeKind::Regular => {
                let flags = HostOpen::READ | HostOpen::WRITE;
                let (node, fd) = c.create(at, new.mode, flags, owner)?;
                (node, Some(fd))
            }
            NodeKind::Directory => (c.mkdir(at, new.mode, owner)?, None),
            NodeKind::Symlink(text) => (c.symlink(at, text, owner)?, None),
            NodeKind::Fifo => (c.mknod(at, libc::S_IFIFO | new.mode, owner)?, None),
            NodeKind::Socket => (c.mknod(at, libc::S_IFSOCK | new.mode, owner)?, None),
            NodeKind::CharDevice(_) | NodeKind::BlockDevice(_) => return Err(Errno::EPERM),
        })
    }

    /// `Inode::rename`
    pub(super) fn rename_child(
        &self,
        name: &[u8],
        new_dir: &GoferInode,
        new_name: &[u8],
        exchange: bool,
    ) -> Result<(), Errno> {
        let (from, to) = (self.handle()?, new_dir.handle()?);
        let moved = self.child_in_use(name);
        let other = new_dir.child_in_use(new_name);
        let flags = if exchange { RenameFlags::EXCHANGE } else { RenameFlags::empty() };
        let from_at = At { dir: &from, name };
        let to_at = At { dir: &to, name: new_name };
        let result = self.fs.client.rename(from_at, to_at, flags);
        self.names_changed();
        new_dir.names_changed();
        result?;
        let here = Place { dir: self.me.upgrade().ok_or(Errno::EIO)?, name: name.into() };
        let there = Place { dir: new_dir.me.upgrade().ok_or(Errno::EIO)?, name: new_name.into() };
        let same = match (&moved, &other) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        // Two names of one file: Linux leaves both.
        if same {
            return Ok(());
        }
        if let Some(other) = other {
            other.lost_place(new_dir, new_name);
            if exchange {
                other.attr.lock().at = 0;
                other.add_place(here);
            }
        }
        if let Some(moved) = moved {
            moved.remove_place(self, name);
            moved.add_place(there);
            moved.attr.lock().at = 0;
        }
        Ok(())
    }
}
