//! The Sentry's own memory, as far as guests can make it grow: it counts for the sandbox's limit, as
//! kernel memory does for a memory cgroup's.
//!
//! Counted are what is many or big: tasks, address spaces and their areas, tables of descriptors, open
//! files, sockets, terminals, inodes in memory and their attributes, watches and their events, timers, locks, queued signals, lists of
//! groups, arguments of programs, seccomp filters, mounts, objects of IPC, and the bytes in pipes, sockets and messages. What else there
//! is has bounds of its own; those of caches depend on the limit ([`limit`]). The figures are what
//! `tests/tests/footprint.rs` measures on the host.
//!
//! Lock order: the memory file's allocator, innermost.

use std::sync::{Arc, OnceLock};

use platform::MemoryFile;

/// What a task costs: its host thread's stack and records, the host's kernel stacks.
pub const TASK: usize = 64 << 10;
/// What an address space costs: the stub process's records and first page tables.
pub const ADDRESS_SPACE: usize = 64 << 10;
/// What an open file costs, with its place in a table.
pub const OPEN_FILE: usize = 1 << 10;
/// What a socket costs beside its open file, with its address.
pub const SOCKET: usize = 512;
/// What a pseudo-terminal costs, with what waits in it.
pub const PTY: usize = 16 << 10;
/// What a slot of a table of descriptors costs.
pub const SLOT: usize = 16;
/// What an area of an address space costs, or a piece of memory in it.
pub const AREA: usize = 256;
/// What a watch of epoll(7) costs.
pub const EPOLL_WATCH: usize = 320;
/// What a watch of inotify(7) costs, which keeps an inode.
pub const INOTIFY_WATCH: usize = 512;
/// What an event of inotify(7) costs, beside its name.
pub const INOTIFY_EVENT: usize = 96;
/// What a timer costs.
pub const TIMER: usize = 512;
/// What a queued signal costs.
pub const SIGNAL: usize = 192;
/// What a file in memory costs beside its content, with its name.
pub const INODE: usize = 1 << 10;

/// What a mount costs beside the name of its source, with its root and its place.
pub const MOUNT: usize = 1 << 10;

static MEMORY: OnceLock<Arc<MemoryFile>> = OnceLock::new();

/// Says which limit it counts for. Until then, nothing is counted.
pub fn bind(memory: &Arc<MemoryFile>) {
    // There is one sandbox in a process; tests that make more of them count for the first.
    let _ = MEMORY.set(memory.clone());
}

/// Some of the kernel's memory, until dropped.
#[derive(Debug)]
#[must_use = "dropping it gives the memory back"]
pub struct KernelMemory(u64);

/// Counts so many bytes; `None` if the limit is reached.
pub fn charge(bytes: usize) -> Option<KernelMemory> {
    let bytes = bytes as u64;
    match MEMORY.get() {
        None => Some(KernelMemory(0)),
        // Made only if it was counted: dropping it gives back.
        Some(memory) => memory.charge(bytes).then(|| KernelMemory(bytes)),
    }
}

/// The limit; none until there is one.
pub fn limit() -> u64 {
    MEMORY.get().map_or(u64::MAX, |memory| memory.limit())
}

/// How much a [`Growing`] asks for at a time.
const STEP: usize = 32 << 10;

/// What grows and shrinks by little, often: counted in steps, so that hardly anybody has to ask.
#[derive(Debug, Default)]
pub struct Growing(Vec<KernelMemory>);

impl Growing {
    /// Counts `bytes` in all. False, and nothing has changed, if the limit is reached.
    pub fn cover(&mut self, bytes: usize) -> bool {
        let wanted = bytes.div_ceil(STEP);
        if wanted + 1 < self.0.len() {
            self.0.truncate(wanted + 1);
        }
        while self.0.len() < wanted {
            match charge(STEP) {
                Some(memory) => self.0.push(memory),
                None => return false,
            }
        }
        true
    }
}

impl Drop for KernelMemory {
    fn drop(&mut self) {
        if self.0 > 0
            && let Some(memory) = MEMORY.get()
        {
            memory.uncharge(self.0);
        }
    }
}
