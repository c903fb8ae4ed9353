//! The Sentry's own memory, as far as guests can make it grow: it counts for the sandbox's limit, as
//! kernel memory does for a memory cgroup's.
//!
//! Counted are what is many or big: tasks, address spaces, open files, inodes in memory, seccomp
//! filters, and the bytes in pipes and sockets. What else there is has bounds of its own.
//!
//! Lock order: the memory file's allocator, innermost.

use std::sync::{Arc, OnceLock};

use platform::MemoryFile;

/// What a task costs: its host thread's stack and records, the host's kernel stacks.
pub const TASK: usize = 64 << 10;
/// What an address space costs: the stub process's records and first page tables.
pub const ADDRESS_SPACE: usize = 64 << 10;
/// What an open file costs, with its place in a table.
pub const OPEN_FILE: usize = 512;
/// What a file in memory costs beside its content, with its name.
pub const INODE: usize = 1 << 10;

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

impl Drop for KernelMemory {
    fn drop(&mut self) {
        if self.0 > 0
            && let Some(memory) = MEMORY.get()
        {
            memory.uncharge(self.0);
        }
    }
}
