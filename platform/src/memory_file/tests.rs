use super::*;
use proptest::prelude::*;

fn bytes(frames: &Frames) -> Vec<u8> {
    let mut out = vec![0xaa; frames.len() as usize];
    // SAFETY: `out` is as long as the frames.
    let n = unsafe { usercopy::copy_from(out.as_mut_ptr(), frames.ptr(), out.len()) };
    assert_eq!(n, out.len());
    out
}

fn fill(frames: &Frames, byte: u8) {
    let data = vec![byte; frames.len() as usize];
    // SAFETY: `data` is as long as the frames.
    let n = unsafe { usercopy::copy_to(frames.ptr(), data.as_ptr(), data.len()) };
    assert_eq!(n, data.len());
}

#[test]
fn fresh_memory_is_zero_even_when_recycled() {
    let file = MemoryFile::new(16 << 20).unwrap();
    for len in [1, 3, 16, 17, 100, 256, 300] {
        let len = len * PAGE_SIZE;
        let frames = file.allocate(len).unwrap();
        assert!(bytes(&frames).iter().all(|&b| b == 0));
        fill(&frames, 0x5a);
        drop(frames);
        let again = file.allocate(len).unwrap();
        assert_eq!(again.is_recycled(), len <= RECYCLE_MAX);
        assert!(bytes(&again).iter().all(|&b| b == 0), "{len}");
    }
}

#[test]
fn what_is_charged_in_bytes_leaves_whole_pages() {
    let file = MemoryFile::new(64 * PAGE_SIZE).unwrap();
    drop(file.allocate(16 * PAGE_SIZE).unwrap());
    // The pool has to give something back.
    assert!(file.charge(50 * PAGE_SIZE + 1234));
    file.uncharge(50 * PAGE_SIZE + 1234);
    let all: Vec<Frames> = std::iter::from_fn(|| file.allocate(PAGE_SIZE)).collect();
    assert!(all.iter().all(|frames| frames.offset().is_multiple_of(PAGE_SIZE)));
    assert_eq!(all.len(), 64);
}

#[test]
fn a_sparse_recycled_range_stays_sparse() {
    let file = MemoryFile::new(16 << 20).unwrap();
    let frames = file.allocate(1 << 20).unwrap();
    fill(&frames.share(512 << 10, PAGE_SIZE), 1);
    drop(frames);
    let again = file.allocate(1 << 20).unwrap();
    assert!(again.is_recycled());
    assert_eq!(file.committed(), PAGE_SIZE);
    assert!(bytes(&again).iter().all(|&b| b == 0));
}

#[test]
fn the_limit_holds_and_is_given_back() {
    let file = MemoryFile::new(4 * PAGE_SIZE).unwrap();
    let a = file.allocate(3 * PAGE_SIZE).unwrap();
    assert!(file.allocate(2 * PAGE_SIZE).is_none());
    let b = a.clone();
    assert_eq!(file.used(), 3 * PAGE_SIZE);
    drop(a);
    assert_eq!(file.used(), 3 * PAGE_SIZE);
    drop(b);
    assert_eq!(file.used(), 0);
    assert!(file.allocate(4 * PAGE_SIZE).is_some());
    assert!(file.allocate(0).is_none());
    assert!(file.allocate(u64::MAX - PAGE_SIZE + 1).is_none());
}

#[test]
fn what_is_about_to_come_back_does_not_count() {
    let file = MemoryFile::new(64 * PAGE_SIZE).unwrap();
    let all = file.allocate(64 * PAGE_SIZE).unwrap();
    assert!(file.lend(3 * PAGE_SIZE).is_none(), "more than a small part");
    let loan = file.lend(2 * PAGE_SIZE).unwrap();
    assert!(file.lend(PAGE_SIZE).is_none());
    assert_eq!(file.left(), 2 * PAGE_SIZE);
    let more = file.allocate(PAGE_SIZE).unwrap();
    assert!(file.charge(PAGE_SIZE));
    assert!(!file.charge(PAGE_SIZE));
    drop((all.share(0, PAGE_SIZE), loan));
    assert_eq!(file.left(), 0);
    assert!(file.allocate(PAGE_SIZE).is_none());
    drop((all, more));
    assert_eq!(file.left(), 63 * PAGE_SIZE);
}

#[test]
fn idle_memory_goes_back_to_the_host() {
    let file = MemoryFile::new(64 << 20).unwrap();
    let frames = file.allocate(1 << 20).unwrap();
    fill(&frames, 1);
    drop(frames);
    assert_eq!(file.committed(), 1 << 20);
    // The first round only learns that it was unused from then on.
    file.give_back();
    assert!(!file.give_back());
    assert_eq!(file.committed(), 0);
    let big = file.allocate(12 << 20).unwrap();
    fill(&big, 1);
    drop(big);
    assert_eq!(file.committed(), 0, "more than the pool takes is punched out at once");
}

#[test]
fn neighbours_can_be_appended() {
    let file = MemoryFile::new(64 << 20).unwrap();
    let mut a = file.allocate(PAGE_SIZE).unwrap();
    let b = file.allocate_after(PAGE_SIZE, a.end()).unwrap();
    a.try_append(b).unwrap();
    let tail = a.split_off(PAGE_SIZE);
    let elsewhere = file.allocate_after(PAGE_SIZE, a.end()).unwrap();
    assert_ne!(elsewhere.offset(), a.end());
    assert!(a.try_append(elsewhere).is_err());
    a.try_append(tail).unwrap();
    assert_eq!(a.len(), 2 * PAGE_SIZE);
    assert!(file.allocate_after(PAGE_SIZE, u64::MAX - PAGE_SIZE + 1).is_some());
}

#[test]
fn a_duplicate_is_independent() {
    let file = MemoryFile::new(64 << 20).unwrap();
    for pages in [2, 64] {
        let a = file.allocate(pages * PAGE_SIZE).unwrap();
        fill(&a.share(PAGE_SIZE, PAGE_SIZE), 7);
        let copy = a.duplicate(0, a.len()).unwrap();
        fill(&a, 9);
        let copied = bytes(&copy);
        assert!(copied[..4096].iter().all(|&b| b == 0));
        assert!(copied[4096..8192].iter().all(|&b| b == 7));
        assert!(copied[8192..].iter().all(|&b| b == 0));
    }
}

#[derive(Debug, Clone)]
enum Op {
    Allocate(u64),
    After(usize, u64),
    Share(usize, u64, u64),
    Split(usize, u64),
    Append(usize, usize),
    Drop(usize),
    GiveBack,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (1..20u64).prop_map(Op::Allocate),
        2 => (any::<usize>(), 1..6u64).prop_map(|(i, l)| Op::After(i, l)),
        3 => (any::<usize>(), any::<u64>(), any::<u64>()).prop_map(|(i, s, l)| Op::Share(i, s, l)),
        2 => (any::<usize>(), any::<u64>()).prop_map(|(i, s)| Op::Split(i, s)),
        2 => (any::<usize>(), any::<usize>()).prop_map(|(i, j)| Op::Append(i, j)),
        3 => any::<usize>().prop_map(Op::Drop),
        1 => Just(Op::GiveBack),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Every page that somebody owns keeps its owner's stamp, whatever is freed around it, and
    /// the counts agree with a naive count over all owners.
    #[test]
    fn ownership_agrees_with_a_naive_model(ops in proptest::collection::vec(op(), 1..60)) {
        let file = MemoryFile::new(64 * PAGE_SIZE).unwrap();
        let mut live: Vec<Frames> = Vec::new();
        let pages = |f: &Frames| f.offset() / PAGE_SIZE..f.end() / PAGE_SIZE;
        let owners = |live: &[Frames], page: u64| live.iter().filter(|f| pages(f).contains(&page)).count();
        for op in ops {
            match op {
                Op::Allocate(_) | Op::After(..) => {
                    let (got, len) = match op {
                        Op::After(i, len) if !live.is_empty() => {
                            let after = live[i % live.len()].end();
                            (file.allocate_after(len * PAGE_SIZE, after), len)
                        }
                        Op::Allocate(len) | Op::After(_, len) => (file.allocate(len * PAGE_SIZE), len),
                        _ => unreachable!(),
                    };
                    let used: std::collections::HashSet<u64> = live.iter().flat_map(pages).collect();
                    prop_assert_eq!(got.is_some(), used.len() as u64 + len <= 64);
                    if let Some(frames) = got {
                        prop_assert!(pages(&frames).all(|p| !used.contains(&p)));
                        prop_assert!(bytes(&frames).iter().all(|&b| b == 0));
                        for page in pages(&frames) {
                            let part = page * PAGE_SIZE - frames.offset();
                            fill(&frames.share(part, PAGE_SIZE), page as u8 | 1);
                        }
                        live.push(frames);
                    }
                }
                _ if live.is_empty() => {}
                Op::Share(i, s, l) => {
                    let from = &live[i % live.len()];
                    let n = from.len() / PAGE_SIZE;
                    let start = s % n;
                    let len = 1 + l % (n - start);
                    let shared = from.share(start * PAGE_SIZE, len * PAGE_SIZE);
                    live.push(shared);
                }
                Op::Split(i, s) => {
                    let i = i % live.len();
                    let n = live[i].len() / PAGE_SIZE;
                    if n > 1 {
                        let tail = live[i].split_off((1 + s % (n - 1)) * PAGE_SIZE);
                        live.push(tail);
                    }
                }
                Op::Append(i, j) => {
                    let tail = live.swap_remove(j % live.len());
                    if live.is_empty() {
                        live.push(tail);
                    } else {
                        let i = i % live.len();
                        if let Err(tail) = live[i].try_append(tail) {
                            live.push(tail);
                        }
                    }
                }
                Op::Drop(i) => {
                    live.swap_remove(i % live.len());
                }
                Op::GiveBack => {
                    file.give_back();
                }
            }
            let used: std::collections::HashSet<u64> = live.iter().flat_map(pages).collect();
            prop_assert_eq!(file.used(), used.len() as u64 * PAGE_SIZE);
            for frames in &live {
                let sole = pages(frames).all(|p| owners(&live, p) == 1);
                prop_assert_eq!(frames.is_sole_owner(), sole);
            }
        }
        for frames in &live {
            let content = bytes(frames);
            for (page, part) in pages(frames).zip(content.chunks(4096)) {
                prop_assert!(part.iter().all(|&b| b == page as u8 | 1));
            }
        }
        drop(live);
        prop_assert_eq!(file.used(), 0);
    }
}
