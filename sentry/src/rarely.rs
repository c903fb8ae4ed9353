//! Log lines that a guest can cause as often as it likes: they must neither fill a disk nor hide
//! everything else.

use std::sync::atomic::{AtomicU64, Ordering};

/// How many of a kind are all logged.
const FIRST: u64 = 8;

/// Counts events of one kind.
#[derive(Debug, Default)]
pub struct Rarely(AtomicU64);

impl Rarely {
    /// Nothing has happened yet.
    pub const fn new() -> Rarely {
        Rarely(AtomicU64::new(0))
    }

    /// Counts an event. Returns how many there have been if this one is to be logged: the first few,
    /// then every time that their number has doubled.
    pub fn due(&self) -> Option<u64> {
        let count = self.0.fetch_add(1, Ordering::Relaxed) + 1;
        (count <= FIRST || count.is_power_of_two()).then_some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_events_are_a_few_lines() {
        let rarely = Rarely::new();
        let logged: Vec<u64> = (0..1_000_000).filter_map(|_| rarely.due()).collect();
        assert_eq!(logged[..10], [1, 2, 3, 4, 5, 6, 7, 8, 16, 32]);
        assert_eq!(logged.len(), 8 + 16);
    }
}
