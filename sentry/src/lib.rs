//! The kernel: tasks, memory, files, signals, system calls.

pub mod audit;
pub mod boot;
pub mod fs;
pub mod ipc;
pub mod kernel;
pub mod kmem;
pub mod loader;
pub mod mm;
pub mod net;
pub mod rarely;
pub mod syscalls;
pub mod tty;
pub mod vfs;
