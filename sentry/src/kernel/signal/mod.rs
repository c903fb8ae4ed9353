//! Signals: numbers and sets, queues, dispositions, sending, delivery, frames (signal(7)).
//!
//! * [`Pending`] holds what was sent and not taken: one queue per task, one per thread group.
//! * [`Sighand`] holds the dispositions; a group has one, `CLONE_SIGHAND` shares it.
//! * [`send`] decides who gets a signal, [`deliver`] what it does to the task that takes it,
//!   [`frame`] how that looks on the guest's stack, [`stop`] is job control.
//!
//! Lock order: the family lock ([`super::TaskTable`]) -> a group's signal lock -> a task's signals ->
//! dispositions. Two groups' signal locks are never held at once.

pub mod action;
pub mod deliver;
pub mod frame;
pub mod info;
pub mod queue;
pub mod send;
pub mod set;
pub mod state;
pub mod stop;

pub use action::{SaFlags, SigAction, Sighand};
pub use info::SigInfo;
pub use queue::{Pending, SignalSource};
pub use set::SigSet;
pub use state::{AltStack, GroupSignals, TaskSignals};

/// First real-time signal of the kernel's own count.
pub const SIGRTMIN: i32 = 32;
/// Number of signals.
pub const NSIG: i32 = 64;
