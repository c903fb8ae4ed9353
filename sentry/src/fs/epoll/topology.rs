//! Epoll instances that watch epoll instances: no circles, and not too deep (`ep_loop_check`).

use std::sync::{Arc, Weak};

use abi::Errno;
use parking_lot::{Mutex, MutexGuard};

use super::{Epoll, EpollFile};

/// How many links a chain of instances may have (`EP_MAX_NESTS`).
const MAX_NESTS: usize = 4;

/// Held while instances are linked to each other.
static TOPOLOGY: Mutex<()> = Mutex::new(());

/// Checks that `parent` may watch `child`; the link is to be made with the guard held. `ELOOP`.
pub(super) fn link<'a>(
    parent: &Arc<Epoll>,
    child: &'a Arc<Epoll>,
) -> Result<(&'a Arc<Epoll>, MutexGuard<'static, ()>), Errno> {
    let guard = TOPOLOGY.lock();
    if Arc::ptr_eq(parent, child) {
        return Err(Errno::ELOOP);
    }
    let below = depth_below(child, parent, 0)?;
    let above = depth_above(parent, 0)?;
    if below + 1 + above > MAX_NESTS { Err(Errno::ELOOP) } else { Ok((child, guard)) }
}

/// Forgets that `parent` watches `child` (once).
pub(super) fn unlink(parent: &Arc<Epoll>, child: &Arc<Epoll>) {
    let mut parents = child.parents.lock();
    if let Some(at) = parents.iter().position(|p| std::ptr::eq(p.as_ptr(), Arc::as_ptr(parent))) {
        parents.swap_remove(at);
    }
}

/// The longest chain of instances below; `ELOOP` if `target` is in one.
fn depth_below(epoll: &Arc<Epoll>, target: &Arc<Epoll>, level: usize) -> Result<usize, Errno> {
    if Arc::ptr_eq(epoll, target) || level > MAX_NESTS {
        return Err(Errno::ELOOP);
    }
    let files: Vec<_> = epoll.watches.lock().values().filter_map(|w| w.file.upgrade()).collect();
    let mut depth = 0;
    for file in files {
        if let Some(nested) = file.downcast::<EpollFile>() {
            depth = depth.max(1 + depth_below(&nested.epoll, target, level + 1)?);
        }
    }
    Ok(depth)
}

/// The longest chain of instances above.
fn depth_above(epoll: &Arc<Epoll>, level: usize) -> Result<usize, Errno> {
    if level > MAX_NESTS {
        return Err(Errno::ELOOP);
    }
    let parents: Vec<Arc<Epoll>> = {
        let mut parents = epoll.parents.lock();
        parents.retain(|p| p.strong_count() > 0);
        parents.iter().filter_map(Weak::upgrade).collect()
    };
    let mut depth = 0;
    for parent in parents {
        depth = depth.max(1 + depth_above(&parent, level + 1)?);
    }
    Ok(depth)
}
