//! poll(2), ppoll(2), select(2), pselect(2).

use abi::Errno;
use abi::time::{Timespec, Timeval};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::time::{deadline_in, read_timespec};
use super::{Args, SysResult};
use crate::kernel::poll::{Interest, Patience, wait_any};
use crate::kernel::signal::SigSet;
use crate::kernel::time::monotonic_ns;
use crate::kernel::{Current, Events};

/// `struct pollfd`
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct PollFd {
    fd: i32,
    events: u16,
    revents: u16,
}

/// How long a relative time in nanoseconds is to be waited for.
pub(super) fn patience(ns: Option<u64>) -> Patience {
    match ns {
        None => Patience::Forever,
        Some(0) => Patience::None,
        Some(ns) => deadline_in(ns).map_or(Patience::Forever, Patience::Until),
    }
}

/// A timeout in milliseconds, negative for none.
pub(super) fn patience_ms(ms: i32) -> Patience {
    patience(u64::try_from(ms).ok().map(|ms| ms * 1_000_000))
}

/// Runs `f` with the signal mask at `mask` (NULL: the mask stays). A handler that ends `f` runs
/// with that mask, and the old one comes back after it.
pub(super) fn with_mask(
    cur: &mut Current,
    mask: u64,
    size: usize,
    f: impl FnOnce(&mut Current) -> SysResult,
) -> SysResult {
    if mask == 0 {
        return f(cur);
    }
    if size != size_of::<SigSet>() {
        return Err(Errno::EINVAL);
    }
    let mask: SigSet = cur.mm.read_obj(mask)?;
    cur.set_temporary_mask(mask);
    let result = f(cur);
    cur.restore_mask_unless(matches!(result, Err(Errno::ERESTARTNOHAND | Errno::EINTR)));
    result
}

/// Writes what is left of a timeout, as select and ppoll do. Without that, a restarted call would
/// wait for too long: it says `EINTR` then.
fn finish(
    patience: Patience,
    result: SysResult,
    write: impl FnOnce(u64) -> Result<(), Errno>,
) -> SysResult {
    let Patience::Until(at) = patience else { return result };
    match (write(at.saturating_sub(monotonic_ns())), result) {
        (Err(_), Err(Errno::ERESTARTNOHAND)) => Err(Errno::EINTR),
        (_, result) => result,
    }
}

fn do_poll(cur: &mut Current, addr: u64, nfds: u32, patience: Patience) -> SysResult {
    if u64::from(nfds) > cur.group.nofile() {
        return Err(Errno::EINVAL);
    }
    let size = size_of::<PollFd>() as u64;
    if addr.checked_add(u64::from(nfds) * size).is_none() {
        return Err(Errno::EFAULT);
    }
    let mut fds: Vec<PollFd> = cur.mm.read_array(addr, nfds as usize)?;
    let old: Vec<u16> = fds.iter().map(|p| p.revents).collect();
    let mut interests = Vec::with_capacity(fds.len());
    let mut owners = Vec::with_capacity(fds.len());
    let mut bad = 0;
    for (i, entry) in fds.iter_mut().enumerate() {
        entry.revents = 0;
        if entry.fd < 0 {
            continue;
        }
        match cur.files.get(entry.fd) {
            Ok(file) => {
                let events = Events::from_bits_truncate(u32::from(entry.events));
                interests.push(Interest { file, events });
                owners.push(i);
            }
            Err(_) => {
                entry.revents = Events::NVAL.bits() as u16;
                bad += 1;
            }
        }
    }
    let wait = if bad > 0 { Patience::None } else { patience };
    let ready = wait_any(&cur.task, &interests, wait, &mut |i, events| {
        if let Some(entry) = owners.get(i).and_then(|&at| fds.get_mut(at)) {
            entry.revents = events.bits() as u16;
        }
    })?;
    for (i, (entry, old)) in fds.iter().zip(old).enumerate() {
        if entry.revents != old {
            cur.mm.write_obj(addr + i as u64 * size + 6, &entry.revents)?;
        }
    }
    Ok((ready + bad) as u64)
}

fn poll_restartable(cur: &mut Current, addr: u64, nfds: u32, patience: Patience) -> SysResult {
    match do_poll(cur, addr, nfds, patience) {
        Err(Errno::ERESTARTNOHAND) => {
            cur.restart_with(move |cur| poll_restartable(cur, addr, nfds, patience))
        }
        result => result,
    }
}

/// poll(2)
pub fn poll(cur: &mut Current, args: &Args) -> SysResult {
    poll_restartable(cur, args.u64(0), args.uint(1), patience_ms(args.int(2)))
}

/// ppoll(2)
pub fn ppoll(cur: &mut Current, args: &Args) -> SysResult {
    let timeout = args.u64(2);
    let ns = if timeout == 0 { None } else { Some(read_timespec(cur, timeout)?) };
    let patience = patience(ns);
    let result = with_mask(cur, args.u64(3), args.size(4), |cur| {
        do_poll(cur, args.u64(0), args.uint(1), patience)
    });
    finish(patience, result, |left| cur.mm.write_obj(timeout, &Timespec::from_ns(left)))
}

/// The bits of an `fd_set`, as many as select's `nfds` says.
struct FdSet {
    words: Vec<u64>,
}

impl FdSet {
    /// Reads `nfds` bits; all clear if `addr` is NULL.
    fn read(cur: &Current, addr: u64, nfds: usize) -> Result<FdSet, Errno> {
        let count = nfds.div_ceil(64);
        let mut set = if addr == 0 {
            FdSet { words: vec![0; count] }
        } else {
            FdSet { words: cur.mm.read_array(addr, count)? }
        };
        set.cut(nfds);
        Ok(set)
    }

    /// Clears the bits from `nfds` on.
    fn cut(&mut self, nfds: usize) {
        if !nfds.is_multiple_of(64)
            && let Some(last) = self.words.last_mut()
        {
            *last &= (1 << (nfds % 64)) - 1;
        }
    }

    fn empty(nfds: usize) -> FdSet {
        FdSet { words: vec![0; nfds.div_ceil(64)] }
    }

    fn contains(&self, fd: usize) -> bool {
        self.words.get(fd / 64).is_some_and(|word| word >> (fd % 64) & 1 != 0)
    }

    fn insert(&mut self, fd: usize) {
        if let Some(word) = self.words.get_mut(fd / 64) {
            *word |= 1 << (fd % 64);
        }
    }

    fn write(&self, cur: &Current, addr: u64) -> Result<(), Errno> {
        if addr == 0 { Ok(()) } else { cur.mm.write_obj(addr, self.words.as_slice()) }
    }
}

fn select_in() -> Events {
    Events::READABLE.difference(Events::RDHUP) | Events::RDBAND
}

fn select_out() -> Events {
    Events::WRITABLE.difference(Events::HUP) | Events::WRBAND
}

/// The work of select: sets at `addrs`, in, out, exceptional.
fn do_select(cur: &mut Current, nfds: i32, addrs: [u64; 3], patience: Patience) -> SysResult {
    let nfds = usize::try_from(nfds).map_err(|_| Errno::EINVAL)?.min(cur.files.capacity());
    let mut asked = Vec::with_capacity(3);
    for addr in addrs {
        asked.push(FdSet::read(cur, addr, nfds)?);
    }
    let kinds = [select_in(), select_out(), Events::PRI];
    let mut interests = Vec::new();
    let mut owners = Vec::new();
    for fd in 0..nfds {
        let mut events = Events::empty();
        for (set, kind) in asked.iter().zip(kinds) {
            if set.contains(fd) {
                events |= kind;
            }
        }
        if !events.is_empty() {
            interests.push(Interest { file: cur.files.get(fd as i32)?, events });
            owners.push(fd);
        }
    }
    let mut found = [(); 3].map(|()| FdSet::empty(nfds));
    let mut count = 0;
    let mut report = |i: usize, events: Events| {
        let Some(&fd) = owners.get(i) else { return };
        for ((set, result), kind) in asked.iter().zip(&mut found).zip(kinds) {
            if set.contains(fd) && events.intersects(kind) {
                result.insert(fd);
                count += 1;
            }
        }
    };
    wait_any(&cur.task, &interests, patience, &mut report)?;
    for (set, addr) in found.iter().zip(addrs) {
        set.write(cur, addr)?;
    }
    Ok(count)
}

/// select(2)
pub fn select(cur: &mut Current, args: &Args) -> SysResult {
    let timeout = args.u64(4);
    let ns = if timeout == 0 {
        None
    } else {
        let tv: Timeval = cur.mm.read_obj(timeout)?;
        let sec = tv.sec.checked_add(tv.usec / 1_000_000).ok_or(Errno::EINVAL)?;
        let time = Timespec { sec, nsec: tv.usec % 1_000_000 * 1000 };
        Some(time.to_ns().ok_or(Errno::EINVAL)?)
    };
    let patience = patience(ns);
    let result = do_select(cur, args.int(0), [args.u64(1), args.u64(2), args.u64(3)], patience);
    finish(patience, result, |left| cur.mm.write_obj(timeout, &Timeval::from_ns(left)))
}

/// pselect6(2)
pub fn pselect6(cur: &mut Current, args: &Args) -> SysResult {
    let (timeout, sigmask) = (args.u64(4), args.u64(5));
    let [mask, size]: [u64; 2] = if sigmask == 0 { [0, 8] } else { cur.mm.read_obj(sigmask)? };
    let ns = if timeout == 0 { None } else { Some(read_timespec(cur, timeout)?) };
    let patience = patience(ns);
    let result = with_mask(cur, mask, size as usize, |cur| {
        do_select(cur, args.int(0), [args.u64(1), args.u64(2), args.u64(3)], patience)
    });
    finish(patience, result, |left| cur.mm.write_obj(timeout, &Timespec::from_ns(left)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn fd_sets_hold_what_is_below_nfds(
            nfds in 0usize..300,
            fds in prop::collection::btree_set(0usize..400, 0..40),
        ) {
            let mut set = FdSet { words: vec![0; nfds.div_ceil(64)] };
            fds.iter().for_each(|&fd| set.insert(fd));
            set.cut(nfds);
            for fd in 0..500 {
                prop_assert_eq!(set.contains(fd), fd < nfds && fds.contains(&fd));
            }
        }
    }

    #[test]
    fn timeouts() {
        assert_eq!(patience_ms(-1), Patience::Forever);
        assert_eq!(patience_ms(0), Patience::None);
        assert!(matches!(patience_ms(5), Patience::Until(at) if at > monotonic_ns()));
        assert_eq!(patience(Some(u64::MAX)), Patience::Forever);
    }
}
