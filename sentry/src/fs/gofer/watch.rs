//! Watches: how what is known about names in a shared export stays right without asking.
//!
//! A directory in which names are looked up more than once is watched by the host's kernel
//! (inotify(7), through the gofer). The kernel queues an event before the call that changes a
//! directory returns, so whoever reads the queue before it believes what is known about a name sees
//! every change that was complete when it began. [`Watcher::catch_up`] does that: one host call if
//! nothing happened.
//!
//! The order that makes it right: the watch is there before the question whose answer is kept
//! ([`Watcher::watch`]), and an answer is kept only if no event came in between
//! (`Content::generation`). Events of a watch that the gofer has added, but which is not in the table
//! yet, are *strays*: the watch is given up again. Where an event may have been lost (overflow), all
//! watches are given up. Watches are counted; the ones not used for longest go first, as do those of
//! directories that change a lot and are not asked about. Where there is no watch, names are asked for
//! each time.
//!
//! Attributes of files are not covered: a file may be changed under another name.
//!
//! Lock order: table -> directory content. No directory is let go of with the table's lock held.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use abi::Errno;
use gofer::client::Client;
use gofer::wire::MAX_UNWATCH;
use parking_lot::RwLock;

use super::inode::GoferInode;
use crate::kernel::current;
use crate::kmem;

/// Questions about names before the first directory is watched. The host takes 10 to 25 ms to close an
/// instance that has had watches, and a sandbox's end has to wait for that: by now, as much time was
/// spent asking.
const WORTH: u32 = 256;
/// Most directories that are watched at once.
const MAX_WATCHES: usize = 1024;
/// How many are given up at once when there are too many.
const EVICT: usize = 32;
/// Names that all watched directories together may know.
const MAX_NAMES: usize = 1 << 16;
/// As many of them as there is memory for: one for so many bytes of the limit.
const NAMES_SHARE: u64 = 8192;
/// Events of a directory without a question in between after which it is not worth its watch.
const MAX_IDLE_EVENTS: u32 = 256;
/// Strays that are remembered.
const MAX_STRAYS: usize = 256;
/// Bytes of events read at a time; the longest event has 272.
const CHUNK: usize = 16 * 1024;
/// Bytes of an event before its name.
const HEADER: usize = 16;

thread_local! {
    /// The system call in which the thread last caught up, and with which watcher.
    static CAUGHT_UP: Cell<(u64, usize)> = const { Cell::new((0, 0)) };
}

/// The calling thread changed something: its system call has to see that.
pub(super) fn note_own_change() {
    CAUGHT_UP.set((0, 0));
}

/// The watches of one gofer's exports.
pub(super) struct Watcher {
    client: Client,
    /// `None` in it: there is none to be had.
    notifier: OnceLock<Option<OwnedFd>>,
    table: RwLock<Table>,
    names: AtomicUsize,
    /// Questions about names until [`WORTH`].
    asked: AtomicU32,
}

struct Table {
    dirs: HashMap<u32, Weak<GoferInode>>,
    /// The watches, oldest first; some may be gone.
    order: VecDeque<u32>,
    /// How many there may be: fewer once the host's user has no more.
    most: usize,
    /// Threads between asking for a watch and entering it here.
    adding: usize,
    /// Watches of events that came meanwhile and belong to none; `None`: too many.
    strays: Option<Vec<u32>>,
    /// To be ended in the gofer.
    ended: Vec<u32>,
}

/// What an event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Event<'a> {
    watch: u32,
    mask: u32,
    name: &'a [u8],
}

/// Splits what was read from the notifier. Ends early at anything malformed, which only a hostile
/// gofer can have sent.
fn events(mut rest: &[u8]) -> impl Iterator<Item = Event<'_>> {
    std::iter::from_fn(move || {
        let (header, tail) = rest.split_first_chunk::<HEADER>()?;
        let [watch, mask, _, len] = std::array::from_fn(|i| {
            let word = header.as_chunks().0.get(i).copied().unwrap_or_default();
            u32::from_ne_bytes(word)
        });
        let (name, tail) = tail.split_at_checked(len as usize)?;
        rest = tail;
        Some(Event { watch, mask, name: name.split(|&c| c == 0).next()? })
    })
}

impl Watcher {
    pub(super) fn new(client: Client) -> Arc<Watcher> {
        let table = Table {
            dirs: HashMap::new(),
            order: VecDeque::new(),
            most: MAX_WATCHES,
            adding: 0,
            strays: Some(Vec::new()),
            ended: Vec::new(),
        };
        Arc::new(Watcher {
            client,
            notifier: OnceLock::new(),
            table: RwLock::new(table),
            names: AtomicUsize::new(0),
            asked: AtomicU32::new(0),
        })
    }

    /// The notifier, asked for once. `EMFILE` if there is none.
    fn notifier(&self) -> Result<&OwnedFd, Errno> {
        let ask = || {
            let asked = self.client.notifier();
            asked.inspect_err(|e| tracing::info!("shared mounts are not watched: {e:?}")).ok()
        };
        self.notifier.get_or_init(ask).as_ref().ok_or(Errno::EMFILE)
    }

    /// Counts a question about a name; returns whether there were so many that watches are worth it.
    pub(super) fn count_question(&self) -> bool {
        let begun = self.has_begun();
        if !begun {
            self.asked.fetch_add(1, Ordering::Relaxed);
        }
        begun
    }

    /// Whether directories are watched by now. Before that, what was just found is believed for a
    /// moment.
    pub(super) fn has_begun(&self) -> bool {
        self.asked.load(Ordering::Relaxed) >= WORTH
    }

    /// Applies the events of all changes that are complete; within one system call, of those that were
    /// when this was first called.
    pub(super) fn catch_up(&self) {
        let Some(Some(notifier)) = self.notifier.get() else { return };
        let call = (current::call_number(), std::ptr::from_ref(self).addr());
        if call.0 != 0 && CAUGHT_UP.replace(call) == call {
            return;
        }
        {
            // Whoever reads events holds the lock until they are applied.
            let _table = self.table.read();
            if pending(notifier) == Some(0) {
                return;
            }
        }
        let mut dirs = Vec::new();
        let mut table = self.table.write();
        match pending(notifier) {
            Some(bytes) => table.read_events(notifier, bytes, &mut dirs),
            None => table.end_all(&mut dirs),
        }
        drop(table);
    }

    /// Has `dir` watched; from then on it keeps what is learnt about names. One round trip, or two.
    /// Errors: those of [`Client::watch`]; `EAGAIN` if something came in between.
    pub(super) fn watch(&self, dir: &Arc<GoferInode>) -> Result<(), Errno> {
        self.notifier()?;
        self.make_room()?;
        let handle = dir.handle()?;
        self.table.write().adding += 1;
        let answer = self.client.watch(&handle);
        let mut table = self.table.write();
        table.adding -= 1;
        let strays =
            if table.adding == 0 { table.strays.replace(Vec::new()) } else { table.strays.clone() };
        match answer {
            Ok(answer) => {
                let watch = answer.watch;
                if table.dirs.contains_key(&watch) {
                    return Err(Errno::EAGAIN);
                }
                if strays.is_none_or(|s| s.contains(&watch)) {
                    table.ended.push(watch);
                    return Err(Errno::EAGAIN);
                }
                table.dirs.insert(watch, dir.me.clone());
                table.order.push_back(watch);
                if table.order.len() > 2 * MAX_WATCHES {
                    let Table { order, dirs, .. } = &mut *table;
                    order.retain(|watch| dirs.contains_key(watch));
                }
                dir.start_watch(watch, answer.exact);
                Ok(())
            }
            // Perhaps as one of those that were to be ended.
            Err(Errno::EEXIST) if !table.ended.is_empty() => {
                let ended = table.take_ended();
                drop(table);
                self.client.unwatch(ended)?;
                Err(Errno::EAGAIN)
            }
            Err(e) => {
                // The host's limit: what there is must do.
                if e == Errno::ENOSPC || e == Errno::ENOMEM {
                    table.most = table.dirs.len();
                }
                Err(e)
            }
        }
    }

    /// Ends watches that are not needed, if there are too many. `ENOSPC` if there may be none.
    fn make_room(&self) -> Result<(), Errno> {
        let mut dirs = Vec::new();
        let ended = {
            let mut table = self.table.write();
            if table.most == 0 {
                return Err(Errno::ENOSPC);
            }
            if table.dirs.len() >= table.most {
                table.evict(&mut dirs);
            }
            if table.ended.len() < EVICT && table.dirs.len() + table.ended.len() < table.most {
                return Ok(());
            }
            table.take_ended()
        };
        drop(dirs);
        self.client.unwatch(ended)
    }

    /// A directory that was watched is gone.
    pub(super) fn gone(&self, watch: u32) {
        let mut table = self.table.write();
        if table.dirs.remove(&watch).is_some() {
            table.ended.push(watch);
        }
    }

    /// Whether one more name may be known. If not, some directories forget theirs.
    pub(super) fn count_name(&self) -> bool {
        let most = usize::try_from(kmem::limit() / NAMES_SHARE).unwrap_or(MAX_NAMES);
        if self.names.fetch_add(1, Ordering::Relaxed) < most.min(MAX_NAMES) {
            return true;
        }
        self.names.fetch_sub(1, Ordering::Relaxed);
        let mut dirs = Vec::new();
        self.table.write().evict(&mut dirs);
        false
    }

    /// So many names are no longer known.
    pub(super) fn uncount_names(&self, n: usize) {
        self.names.fetch_sub(n, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.table.read().dirs.len(), self.names.load(Ordering::Relaxed))
    }

    /// As if many names had been looked up.
    #[cfg(test)]
    pub(super) fn begin(&self) {
        self.asked.store(WORTH, Ordering::Relaxed);
    }

    /// As if the host's user could have no more watches.
    #[cfg(test)]
    pub(super) fn allow(&self, most: usize) {
        self.table.write().most = most;
    }
}

impl Table {
    /// Some of those that the gofer has to end.
    fn take_ended(&mut self) -> Vec<u32> {
        let n = self.ended.len().min(MAX_UNWATCH);
        self.ended.drain(..n).collect()
    }

    /// Reads `bytes` of events, as many as there were, and applies them. The directories are put
    /// into `dirs`, to be let go of later.
    fn read_events(&mut self, notifier: &OwnedFd, bytes: usize, dirs: &mut Vec<Arc<GoferInode>>) {
        let mut buf = [0u8; CHUNK];
        let mut done = 0;
        while done < bytes {
            // SAFETY: `buf` is alive and its length given.
            let n = unsafe { libc::read(notifier.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) };
            let Some(read) = usize::try_from(n).ok().and_then(|n| buf.get(..n)) else {
                let error = std::io::Error::last_os_error();
                match error.kind() {
                    std::io::ErrorKind::Interrupted => continue,
                    std::io::ErrorKind::WouldBlock => return,
                    _ => return self.end_all(dirs),
                }
            };
            if read.is_empty() {
                return self.end_all(dirs);
            }
            done += read.len();
            events(read).for_each(|event| self.apply(event, dirs));
        }
    }

    fn apply(&mut self, event: Event<'_>, dirs: &mut Vec<Arc<GoferInode>>) {
        if event.mask & libc::IN_Q_OVERFLOW != 0 {
            return self.end_all(dirs);
        }
        let Some(dir) = self.dirs.get(&event.watch) else {
            if self.adding > 0 {
                match &mut self.strays {
                    Some(strays) if strays.len() < MAX_STRAYS => strays.push(event.watch),
                    strays => *strays = None,
                }
            }
            return;
        };
        let dir = dir.upgrade();
        let over = event.mask & (libc::IN_IGNORED | libc::IN_UNMOUNT) != 0;
        let keep = match &dir {
            Some(dir) if !over => dir.note_event(event.mask, event.name) < MAX_IDLE_EVENTS,
            _ => false,
        };
        if !keep {
            self.dirs.remove(&event.watch);
            self.ended.push(event.watch);
            if let Some(dir) = &dir {
                dir.end_watch();
            }
        }
        // Many events in a row are one directory's.
        if let Some(dir) = dir
            && dirs.last().is_none_or(|last| !Arc::ptr_eq(last, &dir))
        {
            dirs.push(dir);
        }
    }

    /// Ends all watches: events may have been lost.
    fn end_all(&mut self, dirs: &mut Vec<Arc<GoferInode>>) {
        for (watch, dir) in self.dirs.drain() {
            self.ended.push(watch);
            if let Some(dir) = dir.upgrade() {
                dir.end_watch();
                dirs.push(dir);
            }
        }
        self.order.clear();
        if self.adding > 0 {
            self.strays = None;
        }
    }

    /// Ends the watches of [`EVICT`] directories that were not asked about of late.
    fn evict(&mut self, dirs: &mut Vec<Arc<GoferInode>>) {
        let mut left = EVICT;
        for _ in 0..2 * self.order.len() {
            if left == 0 {
                break;
            }
            let Some(watch) = self.order.pop_front() else { break };
            let Some(dir) = self.dirs.get(&watch) else { continue };
            let dir = dir.upgrade();
            if dir.as_ref().is_some_and(|d| d.was_asked()) {
                self.order.push_back(watch);
            } else {
                self.dirs.remove(&watch);
                self.ended.push(watch);
                left -= 1;
                if let Some(dir) = &dir {
                    dir.end_watch();
                }
            }
            dirs.extend(dir);
        }
    }
}

/// Bytes of events that wait to be read; `None` if the notifier is none.
fn pending(notifier: &OwnedFd) -> Option<usize> {
    let mut n: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int.
    let rc = unsafe { libc::ioctl(notifier.as_raw_fd(), libc::FIONREAD, &mut n) };
    usize::try_from(n).ok().filter(|_| rc == 0)
}

#[cfg(test)]
mod tests {
    use super::{Event, events};

    fn raw(watch: u32, mask: u32, name: &[u8], len: u32) -> Vec<u8> {
        let words = [watch, mask, 0, len].map(u32::to_ne_bytes).concat();
        [&words[..], name].concat()
    }

    #[test]
    fn events_are_split() {
        let bytes = [raw(1, 256, b"ab\0\0", 4), raw(2, 512, b"", 0)].concat();
        let found: Vec<Event<'_>> = events(&bytes).collect();
        let expected =
            [Event { watch: 1, mask: 256, name: b"ab" }, Event { watch: 2, mask: 512, name: b"" }];
        assert_eq!(found, expected);
    }

    #[test]
    fn nonsense_ends_them() {
        assert_eq!(events(&raw(1, 2, b"ab", 3)).count(), 0);
        assert_eq!(events(&raw(1, 2, b"ab", u32::MAX)).count(), 0);
        assert_eq!(events(&[0xff; 15]).count(), 0);
    }
}
