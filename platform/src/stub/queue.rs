//! What an address space's mappings should become, in order, as host calls.
//!
//! Pure data: no locks, no host calls. Keeps track of what is mapped, because mprotect(2) stops at
//! a hole where the Sentry wants it to go on.

use std::any::Any;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::vdso::Vdso;
use crate::arch::stub::{Command, FD_MEMORY};
use crate::{Prot, Source};

/// One queued host call.
pub(crate) enum Op {
    Map { addr: u64, len: u64, prot: Prot, source: Source, populate: bool },
    Unmap { addr: u64, len: u64 },
    Protect { addr: u64, len: u64, prot: Prot },
    Move { from: u64, len: u64, to: u64 },
}

impl Op {
    /// The host file whose descriptor [`Op::command`] needs.
    pub(crate) fn file(&self) -> Option<&Arc<OwnedFd>> {
        match self {
            Op::Map { source: Source::Host { file, .. }, .. } => Some(file),
            _ => None,
        }
    }

    /// The host call; `fd` is the descriptor of [`Op::file`] in the stub.
    pub(crate) fn command(&self, fd: u64) -> Command {
        match *self {
            Op::Map { addr, len, prot, ref source, populate } => {
                let (fd, offset, sharing) = match *source {
                    Source::Memory { offset, .. } => (FD_MEMORY, offset, libc::MAP_SHARED),
                    Source::Host { offset, shared: true, .. } => (fd, offset, libc::MAP_SHARED),
                    Source::Host { offset, shared: false, .. } => (fd, offset, libc::MAP_PRIVATE),
                };
                let populate = if populate { libc::MAP_POPULATE } else { 0 };
                let flags = sharing | populate | libc::MAP_FIXED | libc::MAP_NORESERVE;
                Command::new(libc::SYS_mmap, [addr, len, bits(prot), flags as u64, fd, offset])
            }
            Op::Unmap { addr, len } => Command::new(libc::SYS_munmap, [addr, len, 0, 0, 0, 0]),
            Op::Protect { addr, len, prot } => {
                Command::new(libc::SYS_mprotect, [addr, len, bits(prot), 0, 0, 0])
            }
            Op::Move { from, len, to } => {
                let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
                Command::new(libc::SYS_mremap, [from, len, len, flags, to, 0])
            }
        }
    }

    /// For the operator, when the host refuses it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Op::Map { source: Source::Memory { .. }, .. } => "mmap of the memory file",
            Op::Map { .. } => "mmap of a host file",
            Op::Unmap { .. } => "munmap",
            Op::Protect { .. } => "mprotect",
            Op::Move { .. } => "mremap of the vDSO",
        }
    }
}

fn bits(prot: Prot) -> u64 {
    let bit = |set: bool, bit: i32| if set { bit } else { 0 };
    (bit(prot.read, libc::PROT_READ)
        | bit(prot.write, libc::PROT_WRITE)
        | bit(prot.exec, libc::PROT_EXEC)) as u64
}

/// The queue of one address space.
pub(crate) struct Queue {
    ops: Vec<Op>,
    keeps: Vec<Box<dyn Any + Send>>,
    mapped: RangeSet,
    /// Where vvar starts now. `None` without a vDSO.
    vdso_at: Option<u64>,
}

impl Queue {
    /// The queue of a blank address space.
    pub(crate) fn new(vdso: Option<&Vdso>) -> Queue {
        Queue::at(vdso.map(Vdso::start))
    }

    /// The queue of an address space where nothing is mapped, but vvar at this address.
    pub(crate) fn at(vdso_at: Option<u64>) -> Queue {
        Queue { ops: Vec::new(), keeps: Vec::new(), mapped: RangeSet::default(), vdso_at }
    }

    /// Takes everything queued, and what to drop when it holds.
    pub(crate) fn take(&mut self) -> (Vec<Op>, Vec<Box<dyn Any + Send>>) {
        (std::mem::take(&mut self.ops), std::mem::take(&mut self.keeps))
    }

    pub(crate) fn keep(&mut self, keep: Box<dyn Any + Send>) {
        self.keeps.push(keep);
    }

    pub(crate) fn map(&mut self, addr: u64, len: u64, prot: Prot, source: Source, populate: bool) {
        self.mapped.insert(addr, addr + len);
        match self.ops.last_mut() {
            // A mapping replaces what is there; it need not be removed before.
            Some(&mut Op::Unmap { addr: a, len: l }) if a >= addr && a + l <= addr + len => {
                self.ops.pop();
            }
            Some(Op::Map {
                addr: a,
                len: l,
                prot: p,
                source: Source::Memory { offset: o, .. },
                populate: f,
            }) if *a + *l == addr && *p == prot && *f == populate => {
                if let Source::Memory { offset, .. } = source
                    && *o + *l == offset
                {
                    *l += len;
                    return;
                }
            }
            _ => {}
        }
        self.ops.push(Op::Map { addr, len, prot, source, populate });
    }

    /// Maps something of the platform's own over a range: guests' mappings there stay known.
    pub(crate) fn cover(&mut self, addr: u64, len: u64, prot: Prot, source: Source) {
        self.ops.push(Op::Map { addr, len, prot, source, populate: true });
    }

    pub(crate) fn unmap(&mut self, addr: u64, len: u64) {
        if !self.mapped.remove(addr, addr + len) {
            return;
        }
        match self.ops.last_mut() {
            Some(Op::Unmap { addr: a, len: l }) if *a + *l == addr => *l += len,
            _ => self.ops.push(Op::Unmap { addr, len }),
        }
    }

    pub(crate) fn protect(&mut self, addr: u64, len: u64, prot: Prot) {
        for (start, end) in self.mapped.within(addr, addr + len) {
            match self.ops.last_mut() {
                Some(Op::Protect { addr: a, len: l, prot: p })
                    if *a + *l == start && *p == prot =>
                {
                    *l += end - start;
                }
                _ => self.ops.push(Op::Protect { addr: start, len: end - start, prot }),
            }
        }
    }

    /// `parking` (address, length) is free for a detour.
    pub(crate) fn move_vdso(&mut self, vdso: &Vdso, parking: (u64, u64), to: u64) {
        let Some(from) = self.vdso_at else { return };
        let len = vdso.len();
        if from == to {
            return;
        }
        // mremap(2) refuses to move onto itself; there is room in the stub's range to go round.
        if from < to + len && to < from + len && len <= parking.1 {
            self.move_parts(vdso, from, parking.0);
            self.move_parts(vdso, parking.0, to);
        } else {
            self.move_parts(vdso, from, to);
        }
        self.mapped.remove(to, to + len);
        self.vdso_at = Some(to);
    }

    /// Each part is a mapping of its own, and the vDSO's must be moved as a whole.
    fn move_parts(&mut self, vdso: &Vdso, from: u64, to: u64) {
        for &(start, len) in &vdso.parts {
            let offset = start - vdso.start();
            self.ops.push(Op::Move { from: from + offset, len, to: to + offset });
        }
    }

    /// Takes back a queued move from where a blank process has vvar and vDSO. Returns where to.
    pub(crate) fn postpone_vdso(&mut self, vdso: &Vdso) -> Option<u64> {
        let home = vdso.start();
        let begins = |op: &Op| matches!(op, Op::Move { from, .. } if *from == home);
        if !self.ops.iter().any(begins) {
            return None;
        }
        self.ops.retain(|op| !matches!(op, Op::Move { .. }));
        self.vdso_at.replace(home)
    }

    /// Where vvar starts in the stub. `None` without a vDSO, or if it is about to be moved.
    pub(crate) fn vdso_now(&self) -> Option<u64> {
        let moves = self.ops.iter().any(|op| matches!(op, Op::Move { .. }));
        self.vdso_at.filter(|_| !moves)
    }

    pub(crate) fn unmap_vdso(&mut self, vdso: &Vdso) {
        if let Some(at) = self.vdso_at.take() {
            self.ops.push(Op::Unmap { addr: at, len: vdso.len() });
        }
    }
}

/// A set of addresses as disjoint, non-touching ranges.
#[derive(Default)]
struct RangeSet(BTreeMap<u64, u64>);

impl RangeSet {
    fn insert(&mut self, mut start: u64, mut end: u64) {
        // A touching predecessor may reach over all of the new range.
        if let Some((&s, &e)) = self.0.range(..start).next_back()
            && e >= start
        {
            start = s;
            end = end.max(e);
        }
        while let Some((&s, &e)) = self.0.range(start..=end).next() {
            end = end.max(e);
            self.0.remove(&s);
        }
        self.0.insert(start, end);
    }

    /// Returns whether any of it was there.
    fn remove(&mut self, start: u64, end: u64) -> bool {
        let parts = self.within(start, end);
        for &(s, e) in &parts {
            let Some((&whole, &whole_end)) = self.0.range(..=s).next_back() else { continue };
            if whole < s {
                self.0.insert(whole, s);
            } else {
                self.0.remove(&whole);
            }
            if e < whole_end {
                self.0.insert(e, whole_end);
            }
        }
        !parts.is_empty()
    }

    /// The parts of a range that are in the set.
    fn within(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let before = self.0.range(..start).next_back().filter(|&(_, &e)| e > start);
        before
            .into_iter()
            .chain(self.0.range(start..end))
            .map(|(&s, &e)| (s.max(start), e.min(end)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_behave_as_a_bitmap(ops in proptest::collection::vec((any::<bool>(), 0..40u64, 1..20u64), 1..60)) {
            let mut set = RangeSet::default();
            let mut model = [false; 64];
            for (insert, start, len) in ops {
                let part = &mut model[start as usize..(start + len) as usize];
                if insert {
                    set.insert(start, start + len);
                } else {
                    prop_assert_eq!(set.remove(start, start + len), part.iter().any(|&b| b));
                }
                part.fill(insert);
                let flat: Vec<_> = set.0.iter().map(|(&s, &e)| (s, e)).collect();
                prop_assert!(flat.windows(2).all(|w| w[0].1 < w[1].0));
                for i in 0..64 {
                    prop_assert_eq!(!set.within(i, i + 1).is_empty(), model[i as usize]);
                }
            }
        }
    }

    fn queue() -> Queue {
        Queue::new(None)
    }

    #[test]
    fn neighbouring_maps_become_one_call() {
        let mut q = queue();
        q.map(0x1000, 0x1000, Prot::READ, Source::Memory { offset: 0x5000, shared: false }, false);
        q.map(0x2000, 0x1000, Prot::READ, Source::Memory { offset: 0x6000, shared: false }, false);
        q.map(0x3000, 0x1000, Prot::READ, Source::Memory { offset: 0x8000, shared: false }, false);
        assert_eq!(q.take().0.len(), 2);
    }

    #[test]
    fn unmapping_before_mapping_is_left_out() {
        let mut q = queue();
        q.map(0x1000, 0x1000, Prot::READ, Source::Memory { offset: 0, shared: false }, false);
        q.take();
        q.unmap(0x1000, 0x1000);
        q.map(0x1000, 0x2000, Prot::READ, Source::Memory { offset: 0, shared: false }, false);
        assert_eq!(q.take().0.len(), 1);
        q.unmap(0x9000, 0x1000);
        assert!(q.take().0.is_empty(), "nothing was there");
    }

    #[test]
    fn protect_skips_holes() {
        let mut q = queue();
        q.map(0x1000, 0x1000, Prot::READ, Source::Memory { offset: 0, shared: false }, false);
        q.map(0x4000, 0x1000, Prot::READ, Source::Memory { offset: 0, shared: false }, false);
        q.take();
        q.protect(0, 0x10000, Prot::NONE);
        let (ops, _) = q.take();
        let ranges: Vec<_> = ops
            .iter()
            .map(|op| match op {
                Op::Protect { addr, len, .. } => (*addr, *len),
                _ => panic!("not a protect"),
            })
            .collect();
        assert_eq!(ranges, [(0x1000, 0x1000), (0x4000, 0x1000)]);
    }
}
