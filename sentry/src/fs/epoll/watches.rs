//! How many watches a user may have (`/proc/sys/fs/epoll/max_user_watches`).

use std::collections::HashMap;

use abi::Errno;
use parking_lot::Mutex;

use crate::kmem::{self, KernelMemory};

/// The limit of one user.
pub const MAX_USER_WATCHES: usize = 262_144;

static COUNTS: Mutex<Option<HashMap<u32, usize>>> = Mutex::new(None);

/// One watch of a user.
pub(super) struct WatchShare {
    uid: u32,
    _memory: KernelMemory,
}

impl WatchShare {
    /// `ENOSPC` past the limit, `ENOMEM`.
    pub(super) fn new(uid: u32) -> Result<WatchShare, Errno> {
        let mut counts = COUNTS.lock();
        let count = counts.get_or_insert_default().entry(uid).or_default();
        if *count >= MAX_USER_WATCHES {
            return Err(Errno::ENOSPC);
        }
        let memory = kmem::charge(kmem::EPOLL_WATCH).ok_or(Errno::ENOMEM)?;
        *count += 1;
        Ok(WatchShare { uid, _memory: memory })
    }
}

impl Drop for WatchShare {
    fn drop(&mut self) {
        let mut counts = COUNTS.lock();
        let counts = counts.get_or_insert_default();
        if let Some(count) = counts.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.uid);
            }
        }
    }
}
