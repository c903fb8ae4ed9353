//! Open files on their way in messages (`SCM_RIGHTS`): how many there may be, and what becomes of
//! sockets that only their own messages hold on to (`net/unix/garbage.c`).
//!
//! Lock order: the in-flight table -> a socket's incoming queue. Messages that carry files are taken
//! out of a queue with the table locked, so that the collector sees every file either in a queue or
//! counted out.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use abi::Errno;
use parking_lot::{Mutex, MutexGuard};

use super::UnixSocket;
use super::queue::Message;
use crate::kernel::{Caps, Task};
use crate::net::SocketFile;
use crate::vfs::FileDescription;

/// Most files in flight altogether, the privileged users' too.
const MAX_IN_FLIGHT: usize = 65536;
/// How many sockets in flight one socket that is closed or sent pays the inspection of.
const CREDIT: usize = 64;

#[derive(Default)]
pub(super) struct InFlight {
    /// Files in flight of each user.
    by_user: HashMap<u32, usize>,
    all: usize,
    /// The Unix sockets among them.
    sockets: HashMap<usize, Entry>,
    /// What was done since the last collection, so that collecting costs no more than that.
    credit: usize,
}

struct Entry {
    file: Weak<FileDescription>,
    count: usize,
}

static IN_FLIGHT: Mutex<Option<InFlight>> = Mutex::new(None);

/// Held while messages that carry files are taken out of a queue.
pub(super) fn lock() -> MutexGuard<'static, Option<InFlight>> {
    IN_FLIGHT.lock()
}

/// The Unix socket behind a file.
fn socket_of(file: &FileDescription) -> Option<&UnixSocket> {
    file.downcast::<SocketFile>()?.socket().as_any().downcast_ref()
}

/// Files in flight.
pub(super) struct Rights {
    files: Vec<Arc<FileDescription>>,
    uid: u32,
}

impl Rights {
    /// Sends `files` off. `ETOOMANYREFS` when the user has too many in flight.
    pub(super) fn new(
        files: Vec<Arc<FileDescription>>,
        task: Option<&Task>,
        uid: u32,
    ) -> Result<Rights, Errno> {
        if files.iter().any(|file| socket_of(file).is_some()) {
            collect_sometimes();
        }
        let mut table = IN_FLIGHT.lock();
        let table = table.get_or_insert_default();
        let used = table.by_user.get(&uid).copied().unwrap_or(0);
        let limited = task.is_some_and(|t| {
            let cred = t.cred();
            used as u64 > t.group.nofile()
                && !cred.capable(Caps::SYS_RESOURCE)
                && !cred.capable(Caps::SYS_ADMIN)
        });
        if limited || table.all + files.len() > MAX_IN_FLIGHT {
            return Err(Errno::ETOOMANYREFS);
        }
        table.all += files.len();
        *table.by_user.entry(uid).or_default() += files.len();
        for file in files.iter().filter(|f| socket_of(f).is_some()) {
            let key = Arc::as_ptr(file) as usize;
            let entry = table.sockets.entry(key);
            entry.or_insert_with(|| Entry { file: Arc::downgrade(file), count: 0 }).count += 1;
        }
        Ok(Rights { files, uid })
    }

    /// Second references to the files (`MSG_PEEK`).
    pub(super) fn files(&self) -> Vec<Arc<FileDescription>> {
        self.files.clone()
    }

    /// The files, which are not in flight any more.
    pub(super) fn take(mut self, table: &mut Option<InFlight>) -> Vec<Arc<FileDescription>> {
        self.land(table);
        std::mem::take(&mut self.files)
    }

    fn land(&self, table: &mut Option<InFlight>) {
        let Some(table) = table else { return };
        table.all = table.all.saturating_sub(self.files.len());
        if let Some(count) = table.by_user.get_mut(&self.uid) {
            *count = count.saturating_sub(self.files.len());
            if *count == 0 {
                table.by_user.remove(&self.uid);
            }
        }
        for file in &self.files {
            let key = Arc::as_ptr(file) as usize;
            if let Some(entry) = table.sockets.get_mut(&key) {
                entry.count -= 1;
                if entry.count == 0 {
                    table.sockets.remove(&key);
                }
            }
        }
    }
}

impl Drop for Rights {
    fn drop(&mut self) {
        if !self.files.is_empty() {
            self.land(&mut IN_FLIGHT.lock());
            drop_files(std::mem::take(&mut self.files));
        }
    }
}

thread_local! {
    /// Files that this thread is to drop; there while it drops some.
    static DROPPING: RefCell<Option<Vec<Arc<FileDescription>>>> = const { RefCell::new(None) };
}

/// Drops files one after another: a file may be a socket whose messages carry files, and so on, as
/// deep as a guest likes, which the stack must not follow.
fn drop_files(files: Vec<Arc<FileDescription>>) {
    let nested = DROPPING.with_borrow_mut(|dropping| match dropping {
        Some(list) => {
            list.extend(files);
            true
        }
        None => {
            *dropping = Some(files);
            false
        }
    });
    if nested {
        return;
    }
    loop {
        match DROPPING.with_borrow_mut(|dropping| dropping.as_mut().and_then(Vec::pop)) {
            Some(file) => drop(file),
            None => {
                DROPPING.with_borrow_mut(|dropping| *dropping = None);
                break;
            }
        }
    }
}

/// The sockets in flight that wait in the queues of `socket`.
fn carried(socket: &UnixSocket, out: &mut Vec<usize>) {
    let incoming = socket.incoming.lock();
    for message in &incoming.messages {
        if let Some(rights) = &message.rights {
            let sockets = rights.files.iter().filter(|f| socket_of(f).is_some());
            out.extend(sockets.map(|f| Arc::as_ptr(f) as usize));
        }
    }
    let pending: Vec<_> = incoming.pending.iter().cloned().collect();
    drop(incoming);
    for socket in pending {
        carried(&socket, out);
    }
}

/// Collects once enough has happened since the last time, and not within a collection.
pub(super) fn collect_sometimes() {
    let nested = DROPPING.with_borrow(Option::is_some);
    let due = IN_FLIGHT.lock().as_mut().is_some_and(|table| {
        table.credit = table.credit.saturating_add(CREDIT);
        !nested && !table.sockets.is_empty() && table.credit >= table.sockets.len()
    });
    if due {
        collect();
    }
}

/// Empties the queues of sockets that nobody can reach any more: all references to them are in
/// messages that wait at such sockets.
pub(super) fn collect() {
    let mut table = IN_FLIGHT.lock();
    if let Some(inner) = table.as_mut() {
        inner.credit = 0;
    }
    let Some(inner) = table.as_ref().filter(|t| !t.sockets.is_empty()) else { return };
    // Only messages hold on to these. A reference that somebody takes meanwhile makes the count
    // higher, never lower: then the socket counts as alive.
    let mut suspects: HashMap<usize, (Arc<FileDescription>, Vec<usize>)> = HashMap::new();
    for (&key, entry) in &inner.sockets {
        if entry.file.strong_count() == entry.count
            && let Some(file) = entry.file.upgrade()
        {
            suspects.insert(key, (file, Vec::new()));
        }
    }
    let mut internal: HashMap<usize, usize> = HashMap::new();
    for (file, children) in suspects.values_mut() {
        if let Some(socket) = socket_of(file) {
            carried(socket, children);
        }
        for child in children.iter() {
            *internal.entry(*child).or_default() += 1;
        }
    }
    // Alive: those that a message elsewhere holds, and what can be reached from them.
    let count_of = |key: &usize| inner.sockets.get(key).map_or(0, |e| e.count);
    let mut alive: Vec<usize> = suspects
        .keys()
        .filter(|key| internal.get(key).copied().unwrap_or(0) < count_of(key))
        .copied()
        .collect();
    let mut seen: HashSet<usize> = alive.iter().copied().collect();
    while let Some(key) = alive.pop() {
        let Some((_, children)) = suspects.get(&key) else { continue };
        alive.extend(children.iter().copied().filter(|child| seen.insert(*child)));
    }
    let mut garbage: Vec<Message> = Vec::new();
    for (key, (file, _)) in &suspects {
        if !seen.contains(key)
            && let Some(socket) = socket_of(file)
        {
            socket.take_messages(&mut garbage);
        }
    }
    drop(table);
    drop(garbage);
    drop(suspects);
}
