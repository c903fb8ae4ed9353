//! The interval map under address spaces and shared memory, against one value for each byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sentry::mm::interval_map::{IntervalMap, Segment};

/// Where a range comes from, as what backs memory does: neighbours join if one goes on where the
/// other ends.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Backing(u64);

impl Segment for Backing {
    fn split_off(&mut self, at: u64) -> Backing {
        Backing(self.0 + at)
    }
    fn try_merge(&mut self, len: u64, next: Backing) -> Result<(), Backing> {
        if self.0 + len == next.0 { Ok(()) } else { Err(next) }
    }
}

const SPAN: usize = 256;

fuzz_target!(|bytes: &[u8]| {
    let mut map = IntervalMap::new();
    let mut model = [None::<u64>; SPAN];
    for step in bytes.chunks_exact(4) {
        let [what, start, len, from] = [step[0], step[1], step[2], step[3]].map(u64::from);
        let end = (start + len % 64).min(SPAN as u64);
        let range = start..end;
        let cells = start as usize..end as usize;
        match what % 5 {
            0 | 1 => {
                let from = 1000 * (from % 4) + if from & 0x80 == 0 { start } else { from };
                map.insert(range, Backing(from));
                for (n, cell) in model[cells].iter_mut().enumerate() {
                    *cell = Some(from + n as u64);
                }
            }
            2 => {
                let mut at = start;
                for (found, value) in map.take(range.clone()) {
                    assert!(found.start >= at && found.end <= range.end);
                    at = found.end;
                    for place in found.clone() {
                        assert_eq!(
                            model[place as usize].take(),
                            Some(value.0 + place - found.start)
                        );
                    }
                }
                assert!(model[cells].iter().all(Option::is_none));
            }
            3 => map.split_at(start),
            _ => {
                assert_eq!(map.covers(range), model[cells].iter().all(Option::is_some));
                if let Some(gap) = map.gap_around(start, 0..SPAN as u64) {
                    let gap = gap.start as usize..gap.end as usize;
                    assert!(gap.contains(&(start as usize)));
                    assert!(model[gap.clone()].iter().all(Option::is_none));
                    assert!(gap.start == 0 || model[gap.start - 1].is_some());
                    assert!(gap.end == SPAN || model[gap.end].is_some());
                }
            }
        }
        for (at, cell) in model.iter().enumerate() {
            let at = at as u64;
            let there = map.get(at).map(|(range, value)| value.0 + at - range.start);
            assert_eq!(there, *cell);
        }
    }
    let ranges: Vec<_> = map.iter().map(|(range, _)| range).collect();
    assert!(ranges.iter().all(|range| !range.is_empty()));
    assert!(ranges.windows(2).all(|two| two[0].end <= two[1].start));
    assert_eq!(ranges.len(), map.len());
});
