//! Waiting for any of several files: what poll(2) and select(2) have in common.

use std::sync::Arc;

use abi::Errno;

use super::{Events, Registration, Task};
use crate::vfs::FileDescription;

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Not at all.
    None,
    /// Until this moment of `CLOCK_MONOTONIC`.
    Until(u64),
    /// For ever.
    Forever,
}

/// One file and the events that are of interest.
pub struct Interest {
    /// The file.
    pub file: Arc<FileDescription>,
    /// The events; `ERR` and `HUP` always count.
    pub events: Events,
}

/// Calls `report(index, events)` for each that is ready; returns how many.
fn look(interests: &[Interest], report: &mut dyn FnMut(usize, Events)) -> usize {
    let mut count = 0;
    for (i, interest) in interests.iter().enumerate() {
        let wanted = interest.events | Events::ERR | Events::HUP;
        let ready = interest.file.ops().poll() & wanted;
        if !ready.is_empty() {
            count += 1;
            report(i, ready);
        }
    }
    count
}

/// Waits until at least one of `interests` is ready, and calls `report(index, events)` for each
/// that is. Returns how many; 0 when the time is over. `ERESTARTNOHAND` if interrupted.
pub fn wait_any(
    task: &Task,
    interests: &[Interest],
    patience: Patience,
    report: &mut dyn FnMut(usize, Events),
) -> Result<usize, Errno> {
    let count = look(interests, report);
    if count > 0 || patience == Patience::None {
        return Ok(count);
    }
    let _registrations: Vec<Registration> = interests
        .iter()
        .filter_map(|i| {
            i.file.ops().wait_queue().map(|queue| queue.register(i.events, task.sleeper.clone()))
        })
        .collect();
    let deadline = match patience {
        Patience::Until(at) => Some(at),
        Patience::None | Patience::Forever => None,
    };
    loop {
        let count = look(interests, report);
        if count > 0 {
            return Ok(count);
        }
        match task.block(deadline) {
            Ok(()) => {}
            Err(Errno::ETIMEDOUT) => return Ok(0),
            Err(_) => return Err(Errno::ERESTARTNOHAND),
        }
    }
}
