//! Epoll instances that watch epoll instances: no circles, not too deep (`ep_loop_check`), and not by
//! too many ways (`reverse_path_check`): an event goes along all of them.
//!
//! Guests draw the graph, so each instance is looked at once, however many ways lead to it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use abi::Errno;
use parking_lot::{Mutex, MutexGuard};

use super::{Epoll, EpollFile};

/// How many links a chain of instances may have (`EP_MAX_NESTS`).
const MAX_NESTS: usize = 4;
/// How many ways of each length an event may take: through one instance, two, ... (`path_limits`).
const WAYS: [usize; MAX_NESTS + 1] = [1000, 500, 100, 50, 10];

/// Held while instances are linked to each other.
static TOPOLOGY: Mutex<()> = Mutex::new(());

/// Checks that `parent` may watch `child`; the link is to be made with the guard held. `ELOOP`;
/// `EINVAL` for too many ways.
pub(super) fn link<'a>(
    parent: &Arc<Epoll>,
    child: &'a Arc<Epoll>,
) -> Result<(&'a Arc<Epoll>, MutexGuard<'static, ()>), Errno> {
    let guard = TOPOLOGY.lock();
    if Arc::ptr_eq(parent, child) {
        return Err(Errno::ELOOP);
    }
    let mut below = HashMap::new();
    let depth = depth_below(child, parent, 0, &mut below)?;
    let mut above = HashMap::new();
    let up = ways_above(parent, 0, &mut above)?;
    let height = up.iter().rposition(|&ways| ways > 0).unwrap_or(0);
    if depth + 1 + height > MAX_NESTS {
        return Err(Errno::ELOOP);
    }
    for (instance, _) in below.values() {
        let through = ways_up_to(instance, child, depth);
        let mut ways = ways_above(instance, 0, &mut above)?;
        for (length, more) in through.iter().enumerate() {
            for (rest, count) in up.iter().enumerate() {
                // From the instance to the child, over the new link, and on from the parent.
                if let Some(sum) = ways.get_mut(length + 1 + rest) {
                    *sum = sum.saturating_add(more.saturating_mul(*count));
                }
            }
        }
        if ways.iter().zip(WAYS).any(|(&count, limit)| count > limit) {
            return Err(Errno::EINVAL);
        }
    }
    Ok((child, guard))
}

/// Forgets that `parent` watches `child` (once).
pub(super) fn unlink(parent: &Arc<Epoll>, child: &Arc<Epoll>) {
    let mut parents = child.parents.lock();
    if let Some(at) = parents.iter().position(|p| std::ptr::eq(p.as_ptr(), Arc::as_ptr(parent))) {
        parents.swap_remove(at);
    }
}

/// What is known of the instances below one, by their addresses: they, and how far down they reach.
type Below = HashMap<usize, (Arc<Epoll>, usize)>;

/// The longest chain of instances below; `ELOOP` if `target` is in one.
fn depth_below(
    epoll: &Arc<Epoll>,
    target: &Arc<Epoll>,
    level: usize,
    known: &mut Below,
) -> Result<usize, Errno> {
    if Arc::ptr_eq(epoll, target) || level > MAX_NESTS {
        return Err(Errno::ELOOP);
    }
    let address = Arc::as_ptr(epoll) as usize;
    if let Some(&(_, depth)) = known.get(&address) {
        return Ok(depth);
    }
    let files: Vec<_> = epoll.watches.lock().values().filter_map(|w| w.file.upgrade()).collect();
    let mut depth = 0;
    for file in files {
        if let Some(nested) = file.downcast::<EpollFile>() {
            depth = depth.max(1 + depth_below(&nested.epoll, target, level + 1, known)?);
        }
    }
    known.insert(address, (epoll.clone(), depth));
    Ok(depth)
}

/// The instances that watch this one.
fn parents(epoll: &Epoll) -> Vec<Arc<Epoll>> {
    let mut parents = epoll.parents.lock();
    parents.retain(|p| p.strong_count() > 0);
    parents.iter().filter_map(Weak::upgrade).collect()
}

/// How many ways of each length lead up from an instance to one that nobody watches; of length 0 is
/// its own, if that is it.
type Ways = [usize; MAX_NESTS + 1];

fn ways_above(
    epoll: &Arc<Epoll>,
    level: usize,
    known: &mut HashMap<usize, Ways>,
) -> Result<Ways, Errno> {
    if level > MAX_NESTS {
        return Err(Errno::ELOOP);
    }
    let address = Arc::as_ptr(epoll) as usize;
    if let Some(ways) = known.get(&address) {
        return Ok(*ways);
    }
    let mut ways = [0usize; MAX_NESTS + 1];
    let parents = parents(epoll);
    if parents.is_empty() {
        ways[0] = 1;
    }
    for parent in parents {
        let above = ways_above(&parent, level + 1, known)?;
        for (sum, more) in ways[1..].iter_mut().zip(above) {
            *sum = sum.saturating_add(more);
        }
    }
    known.insert(address, ways);
    Ok(ways)
}

/// How many ways of each length lead up from an instance to `target`, none longer than `depth`.
fn ways_up_to(epoll: &Arc<Epoll>, target: &Arc<Epoll>, depth: usize) -> Ways {
    let mut ways = [0usize; MAX_NESTS + 1];
    // Each layer: instances, and how many ways lead there.
    let mut layer = HashMap::from([(Arc::as_ptr(epoll) as usize, (epoll.clone(), 1usize))]);
    for slot in ways.iter_mut().take(depth + 1) {
        if let Some((_, count)) = layer.get(&(Arc::as_ptr(target) as usize)) {
            *slot = *count;
        }
        let mut next = HashMap::new();
        for (instance, count) in layer.into_values() {
            for parent in parents(&instance) {
                let entry = next.entry(Arc::as_ptr(&parent) as usize).or_insert((parent, 0usize));
                entry.1 = entry.1.saturating_add(count);
            }
        }
        layer = next;
    }
    ways
}
