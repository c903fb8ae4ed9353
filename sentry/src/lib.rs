//! The kernel: tasks, memory, files, signals, system calls.

pub mod boot;
