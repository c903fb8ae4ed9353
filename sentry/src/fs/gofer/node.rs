//! An inode's node in the gofer: found when it is needed, given up when there are too many.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;
use gofer::client::{At, Handle};

use super::GoferFs;
use super::inode::{GoferInode, Place};

impl GoferInode {
    /// The node in the gofer. If it is not known, because the inode comes from a listing or the
    /// node was given up, it is looked up from the nearest directory whose node is known, in one
    /// round trip. `ESTALE` if the file is no longer where it was.
    pub(super) fn handle(&self) -> Result<Arc<Handle>, Errno> {
        if let Some(handle) = self.handle_if_known() {
            return Ok(handle);
        }
        for place in self.places() {
            if let Some(handle) = self.handle_at(place)? {
                return Ok(handle);
            }
        }
        Err(Errno::ESTALE)
    }

    /// [`Self::handle`] through one of the places; `None` if it is not there.
    fn handle_at(&self, place: Place) -> Result<Option<Arc<Handle>>, Errno> {
        let (mut dirs, mut names) = (Vec::new(), vec![place.name]);
        let mut dir = place.dir;
        let start = loop {
            if let Some(handle) = dir.handle_if_known() {
                break handle;
            }
            let up = dir.places.lock().first().cloned().ok_or(Errno::ESTALE)?;
            names.push(up.name);
            dirs.push(std::mem::replace(&mut dir, up.dir));
        };
        let names: Vec<&[u8]> = names.iter().rev().map(|n| &**n).collect();
        let walked = self.fs.client.walk(&start, &names, None)?;
        if walked.found.len() != names.len() {
            return Ok(None);
        }
        let inodes = dirs.iter().rev().map(|d| &**d).chain([self]);
        let mut last = None;
        for (node, inode) in walked.found.into_iter().zip(inodes) {
            if node.attr.identity() != inode.host_key() {
                return Ok(None);
            }
            last = Some(inode.take_handle(node.handle));
        }
        if let Some(target) = walked.link {
            self.set_target(target);
        }
        Ok(last)
    }

    /// The node, if it is known without asking.
    pub(super) fn handle_if_known(&self) -> Option<Arc<Handle>> {
        self.handle.lock().clone()
    }

    /// Notes the node, unless one is known already.
    pub(super) fn take_handle(&self, handle: Handle) -> Arc<Handle> {
        let (handle, new) = {
            let mut known = self.handle.lock();
            let new = known.is_none();
            (known.get_or_insert_with(|| Arc::new(handle)).clone(), new)
        };
        if new {
            self.fs.count_handle();
        }
        handle
    }

    /// Gives the node up if it can be found again and nobody uses it now.
    fn shed_handle(&self) {
        if self.places.lock().is_empty() {
            return;
        }
        let idle = self.handle.lock().take_if(|h| Arc::strong_count(h) == 1);
        if idle.is_some() {
            self.fs.handles.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Runs `f` with the places at which the gofer may find the file, until one is right.
    pub(super) fn at_places<T>(
        &self,
        mut f: impl FnMut(&Handle, Option<At<'_>>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let handle = self.handle()?;
        let places = self.places();
        if places.is_empty() {
            return f(&handle, None);
        }
        let mut result = Err(Errno::ESTALE);
        for place in places {
            let dir = place.dir.handle()?;
            result = f(&handle, Some(At { dir: &dir, name: &place.name }));
            if !matches!(result, Err(Errno::ESTALE | Errno::ENOENT)) {
                break;
            }
        }
        result
    }
}

impl GoferFs {
    /// Counts a node; beyond this file system's share of what the gofer allows, all that are idle
    /// are given up.
    fn count_handle(&self) {
        let n = self.handles.fetch_add(1, Ordering::Relaxed) + 1;
        // Should most be in use after all, not each new one shall go through all inodes.
        if n > self.max_handles && n.is_multiple_of(SHED_STEP) {
            self.shed();
        }
    }

    /// Gives up all idle nodes but the root's.
    pub(super) fn shed(&self) {
        let inodes: Vec<_> =
            self.inodes.lock().values().filter_map(std::sync::Weak::upgrade).collect();
        for inode in &inodes {
            inode.shed_handle();
        }
    }
}

/// See [`GoferFs::count_handle`].
const SHED_STEP: usize = 64;
