//! The Linux x86-64 ABI as data: errno, numbers, flags and the structs that cross the
//! user/kernel border. Types only: no logic, no I/O.
//!
//! One module per topic, named after the header it mirrors. Constants that exist in the `libc`
//! crate with the *kernel's* value may be used from there; what is here is what needs a type.

pub mod errno;
pub mod ipc;
pub mod time;

pub use errno::Errno;
