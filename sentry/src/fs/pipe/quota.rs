//! How many pages pipes may hold, by user (`/proc/sys/fs/pipe-*`) and in all.

use std::collections::HashMap;

use abi::Errno;
use parking_lot::Mutex;

use crate::kernel::{Caps, Credentials};

/// Pages of a new pipe.
pub const DEFAULT_SLOTS: usize = 16;
/// Pages of a new pipe of a user who has too many (`PIPE_MIN_DEF_BUFFERS`).
const MIN_SLOTS: usize = 2;
/// `/proc/sys/fs/pipe-max-size`, in bytes.
pub const MAX_SIZE: usize = 1 << 20;
/// `/proc/sys/fs/pipe-user-pages-soft`
pub const USER_PAGES_SOFT: usize = 16384;
/// What all pipes together may hold, the privileged ones too: 256 MiB of the Sentry's memory.
const ALL_PAGES: usize = 65536;

#[derive(Default)]
struct Counts {
    by_user: HashMap<u32, usize>,
    all: usize,
}

static COUNTS: Mutex<Option<Counts>> = Mutex::new(None);

/// A pipe's share.
pub struct Share {
    uid: u32,
    pages: usize,
}

fn privileged(cred: &Credentials) -> bool {
    cred.capable(Caps::SYS_RESOURCE) || cred.capable(Caps::SYS_ADMIN)
}

impl Share {
    /// For a new pipe. `ENFILE` when even a small one is too much.
    pub fn new(cred: &Credentials) -> Result<Share, Errno> {
        let mut counts = COUNTS.lock();
        let counts = counts.get_or_insert_default();
        let used = counts.by_user.get(&cred.uid).copied().unwrap_or(0);
        let over = counts.all + DEFAULT_SLOTS > ALL_PAGES
            || (used + DEFAULT_SLOTS > USER_PAGES_SOFT && !privileged(cred));
        let pages = if over { MIN_SLOTS } else { DEFAULT_SLOTS };
        // Small pipes are allowed beyond the bound, so that programs can go on, but not for ever.
        if counts.all + pages > ALL_PAGES * 2 {
            return Err(Errno::ENFILE);
        }
        *counts.by_user.entry(cred.uid).or_default() += pages;
        counts.all += pages;
        Ok(Share { uid: cred.uid, pages })
    }

    /// How many pages it is.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Changes it to `pages` (`pipe_set_size`). `EPERM` past the limits.
    pub fn resize(&mut self, pages: usize, cred: &Credentials) -> Result<(), Errno> {
        if pages > self.pages
            && pages * super::ring::PAGE > MAX_SIZE
            && !cred.capable(Caps::SYS_RESOURCE)
        {
            return Err(Errno::EPERM);
        }
        let mut counts = COUNTS.lock();
        let counts = counts.get_or_insert_default();
        let user = counts.by_user.entry(self.uid).or_default();
        let (new_user, new_all) = (*user - self.pages + pages, counts.all - self.pages + pages);
        if pages > self.pages
            && (new_all > ALL_PAGES || (new_user > USER_PAGES_SOFT && !privileged(cred)))
        {
            return Err(Errno::EPERM);
        }
        (*user, counts.all) = (new_user, new_all);
        self.pages = pages;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut counts = COUNTS.lock();
        let counts = counts.get_or_insert_default();
        counts.all -= self.pages;
        if let Some(user) = counts.by_user.get_mut(&self.uid) {
            *user -= self.pages;
            if *user == 0 {
                counts.by_user.remove(&self.uid);
            }
        }
    }
}
