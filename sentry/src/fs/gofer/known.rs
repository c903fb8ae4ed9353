//! What a directory of a shared export knows about its names while it is watched, see
//! [`watch`](super::watch).

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use abi::Errno;
use gofer::wire::types::Attr as HostAttr;

use super::dir::Content;
use super::inode::GoferInode;

/// Questions about names of a directory before it is watched: most are looked through once.
const UNWATCHED: u32 = 2;
/// Questions after a refusal before the next try.
const AFTER_REFUSAL: u32 = 1024;

/// Part of [`Content`].
#[derive(Default)]
pub(super) struct Names {
    watch: State,
    /// What names lead to; `None`: to nothing.
    known: HashMap<Box<[u8]>, Option<Weak<GoferInode>>>,
    /// Attributes of which owner and mode are right.
    access: Option<HostAttr>,
    /// Questions that the gofer had to answer while there was no watch.
    asked: u32,
    /// Whether it was of use since the watches were last looked through.
    used: bool,
    /// Events since it was of use.
    idle_events: u32,
}

#[derive(Clone, Copy, Default)]
enum State {
    #[default]
    Unwatched,
    /// Not to be had; until so many questions were asked, what was just found is believed.
    Refused { until: u32 },
    Watched {
        watch: u32,
        /// Whether an event concerns the name that it tells only.
        exact: bool,
    },
}

impl Names {
    fn is_watched(&self) -> bool {
        matches!(self.watch, State::Watched { .. })
    }

    /// Forgets what is known; returns how many names that were.
    fn forget(&mut self) -> usize {
        self.access = None;
        let n = self.known.len();
        self.known = HashMap::new();
        n
    }

    /// Ends what [`GoferInode::start_watch`] began, when the inode goes. Returns the watch, and how
    /// many names were known.
    pub(super) fn take(&mut self) -> (Option<u32>, usize) {
        let watch = match std::mem::take(&mut self.watch) {
            State::Watched { watch, .. } => Some(watch),
            _ => None,
        };
        (watch, self.forget())
    }

    /// Forgets a name if it leads to an inode that is gone. Returns whether it was known.
    pub(super) fn forget_dead(&mut self, name: &[u8]) -> bool {
        let dead = |w: &Option<Weak<GoferInode>>| w.as_ref().is_some_and(|w| w.strong_count() == 0);
        self.known.get(name).is_some_and(dead) && self.known.remove(name).is_some()
    }
}

impl GoferInode {
    /// Looks at what is known now, all changes that are complete included; `None` if the directory
    /// is not watched.
    fn with_known<T>(&self, f: impl FnOnce(&Names) -> Option<T>) -> Option<T> {
        if !self.content.lock().names.is_watched() {
            return None;
        }
        self.fs.watcher.catch_up();
        let mut content = self.content.lock();
        let names = &mut content.names;
        if !names.is_watched() {
            return None;
        }
        (names.used, names.idle_events) = (true, 0);
        f(names)
    }

    /// What a name leads to, or that it does not exist. `None`: the gofer has to be asked.
    pub(super) fn known(&self, name: &[u8]) -> Option<Result<Arc<GoferInode>, Errno>> {
        self.with_known(|names| match names.known.get(name)? {
            None => Some(Err(Errno::ENOENT)),
            Some(inode) => inode.upgrade().map(Ok),
        })
    }

    /// Attributes of which owner and mode are right.
    pub(super) fn known_access(&self) -> Option<HostAttr> {
        self.with_known(|names| names.access)
    }

    /// Counts a question about a name, and has the directory watched if there were enough.
    pub(super) fn watch_if_worth(&self) {
        if self.fs.exclusive() || !self.fs.watcher.count_question() {
            return;
        }
        {
            let names = &mut self.content.lock().names;
            if names.is_watched() {
                return;
            }
            names.asked = names.asked.saturating_add(1);
            let worth = match names.watch {
                State::Refused { until } => names.asked >= until,
                _ => names.asked > UNWATCHED,
            };
            if !worth {
                return;
            }
        }
        let Some(me) = self.me.upgrade() else { return };
        let Err(error) = self.fs.watcher.watch(&me) else { return };
        // Bad luck, not a refusal.
        if error == Errno::EAGAIN {
            return;
        }
        let names = &mut self.content.lock().names;
        // Another thread may have had more luck.
        if !names.is_watched() {
            names.watch = State::Refused { until: names.asked.saturating_add(AFTER_REFUSAL) };
        }
    }

    /// Whether what was found a moment ago has to do, because there is no watch to be had, or not
    /// yet.
    pub(super) fn has_no_watch(&self) -> bool {
        !self.fs.watcher.has_begun()
            || matches!(self.content.lock().names.watch, State::Refused { .. })
    }

    /// The directory is watched from now on. The table's lock is held.
    pub(super) fn start_watch(&self, watch: u32, exact: bool) {
        let forgotten = {
            let mut content = self.content.lock();
            // What was asked before is not kept.
            content.generation += 1;
            content.names.watch = State::Watched { watch, exact };
            (content.names.used, content.names.idle_events) = (true, 0);
            content.names.forget()
        };
        self.fs.watcher.uncount_names(forgotten);
    }

    /// It no longer is. The table's lock is held.
    pub(super) fn end_watch(&self) {
        let forgotten = {
            let mut content = self.content.lock();
            content.doubt();
            content.names.asked = 0;
            content.names.take().1
        };
        self.fs.watcher.uncount_names(forgotten);
    }

    /// An event came: a name changed, or (without a name) the directory itself. Returns how many
    /// came since it was of use. The table's lock is held.
    pub(super) fn note_event(&self, mask: u32, name: &[u8]) -> u32 {
        let mut content = self.content.lock();
        let names = &mut content.names;
        names.idle_events = names.idle_events.saturating_add(1);
        let idle = names.idle_events;
        // The attributes of a child are not known here.
        if mask & libc::IN_ATTRIB != 0 && !name.is_empty() {
            return idle;
        }
        let exact = matches!(names.watch, State::Watched { exact: true, .. });
        let forgotten = if exact && !name.is_empty() {
            usize::from(names.known.remove(name).is_some())
        } else {
            names.forget()
        };
        content.doubt();
        drop(content);
        self.fs.watcher.uncount_names(forgotten);
        idle
    }

    /// Whether it was of use since the last call.
    pub(super) fn was_asked(&self) -> bool {
        std::mem::take(&mut self.content.lock().names.used)
    }

    /// What answers that are asked for now have to be kept with; `None` if none is kept.
    pub(super) fn generation(&self) -> Option<u64> {
        let content = self.content.lock();
        content.names.is_watched().then_some(content.generation)
    }

    /// Keeps what the gofer said about a name, unless something changed since it was asked.
    pub(super) fn keep(&self, name: &[u8], found: Option<&Arc<GoferInode>>, generation: u64) {
        if self.generation() != Some(generation) || !self.fs.watcher.count_name() {
            return;
        }
        let known = found.map(Arc::downgrade);
        let mut content = self.content.lock();
        let unchanged = content.names.is_watched() && content.generation == generation;
        let new = unchanged && content.names.known.insert(name.into(), known).is_none();
        drop(content);
        if !new {
            self.fs.watcher.uncount_names(1);
        }
    }

    /// Keeps who may use the directory, likewise.
    pub(super) fn keep_access(&self, attr: HostAttr, generation: u64) {
        let mut content = self.content.lock();
        if content.names.is_watched() && content.generation == generation {
            content.names.access = Some(attr);
        }
    }
}

impl Content {
    /// Makes answers that are on their way, or were not asked for yet, worthless.
    fn doubt(&mut self) {
        self.generation += 1;
        if let Some(ahead) = &mut self.ahead {
            ahead.at = 0;
        }
    }
}
