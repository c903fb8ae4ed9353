//! madvise(2), mincore(2), msync(2).

use std::ops::Range;

use abi::Errno;

use super::mappable::Mappable;
use super::pma::Memory;
use super::vma::{VmFlags, Vma};
use super::{MemoryManager, PAGE, State, TASK_SIZE, host, page_up};

impl MemoryManager {
    /// madvise(2), with the errors and order of checks of `do_madvise`. `sys_admin`:
    /// `CAP_SYS_ADMIN`.
    pub fn madvise(&self, addr: u64, len: u64, advice: i32, sys_admin: bool) -> Result<(), Errno> {
        if !known(advice) {
            return Err(Errno::EINVAL);
        }
        if !addr.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        let len = page_up(len).ok_or(Errno::EINVAL)?;
        let end = addr.checked_add(len).ok_or(Errno::EINVAL)?;
        if len == 0 {
            return Ok(());
        }
        match advice {
            libc::MADV_HWPOISON | libc::MADV_SOFT_OFFLINE if !sys_admin => {
                return Err(Errno::EPERM);
            }
            libc::MADV_HWPOISON | libc::MADV_SOFT_OFFLINE => return Err(Errno::EINVAL),
            libc::MADV_POPULATE_READ => return self.madvise_populate(addr..end, false),
            libc::MADV_POPULATE_WRITE => return self.madvise_populate(addr..end, true),
            _ => {}
        }
        let mut hole = false;
        let mut at = addr;
        while at < end {
            // One area at a time: MADV_REMOVE needs the lock to be free.
            let mut st = self.state.write();
            let Some((found, vma)) = st.vmas.find(at) else {
                hole = true;
                break;
            };
            if found.start > at {
                hole = true;
            }
            let part = found.start.max(at)..found.end.min(end);
            if part.start >= end {
                break;
            }
            at = part.end;
            let vma = vma.clone();
            if advice == libc::MADV_REMOVE {
                drop(st);
                remove(&vma, &found, part)?;
            } else {
                self.advise(&mut st, &vma, part, advice)?;
            }
        }
        if hole { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// One advice for a part of one area.
    fn advise(
        &self,
        st: &mut State,
        vma: &Vma,
        part: Range<u64>,
        advice: i32,
    ) -> Result<(), Errno> {
        let flags = vma.flags;
        let set = |add: VmFlags, remove: VmFlags| (flags - remove) | add;
        let none = VmFlags::empty();
        let new = match advice {
            libc::MADV_NORMAL => set(none, VmFlags::RAND_READ | VmFlags::SEQ_READ),
            libc::MADV_SEQUENTIAL => set(VmFlags::SEQ_READ, VmFlags::RAND_READ),
            libc::MADV_RANDOM => set(VmFlags::RAND_READ, VmFlags::SEQ_READ),
            libc::MADV_DONTFORK => set(VmFlags::DONTCOPY, none),
            libc::MADV_DOFORK if flags.contains(VmFlags::IO) => return Err(Errno::EINVAL),
            libc::MADV_DOFORK => set(none, VmFlags::DONTCOPY),
            libc::MADV_WIPEONFORK if !vma.is_anonymous() => return Err(Errno::EINVAL),
            libc::MADV_WIPEONFORK => set(VmFlags::WIPEONFORK, none),
            libc::MADV_KEEPONFORK => set(none, VmFlags::WIPEONFORK),
            libc::MADV_DONTDUMP => set(VmFlags::DONTDUMP, none),
            libc::MADV_DODUMP if vma.is_special() => return Err(Errno::EINVAL),
            libc::MADV_DODUMP => set(none, VmFlags::DONTDUMP),
            libc::MADV_MERGEABLE => set(VmFlags::MERGEABLE, none),
            libc::MADV_UNMERGEABLE => set(none, VmFlags::MERGEABLE),
            libc::MADV_HUGEPAGE => set(VmFlags::HUGEPAGE, VmFlags::NOHUGEPAGE),
            libc::MADV_NOHUGEPAGE => set(VmFlags::NOHUGEPAGE, VmFlags::HUGEPAGE),
            libc::MADV_WILLNEED => return Ok(()),
            libc::MADV_COLD | libc::MADV_PAGEOUT => {
                let fixed = flags.intersects(VmFlags::LOCKED | VmFlags::PFNMAP);
                return if fixed { Err(Errno::EINVAL) } else { Ok(()) };
            }
            libc::MADV_DONTNEED | libc::MADV_DONTNEED_LOCKED => {
                let pinned = match advice {
                    libc::MADV_DONTNEED => VmFlags::LOCKED | VmFlags::PFNMAP,
                    _ => VmFlags::PFNMAP,
                };
                if flags.intersects(pinned) {
                    return Err(Errno::EINVAL);
                }
                self.discard(st, vma.is_anonymous(), part);
                return Ok(());
            }
            libc::MADV_FREE => {
                // The pages may be taken at any time from now on: now.
                if !vma.is_anonymous() || flags.intersects(VmFlags::LOCKED | VmFlags::PFNMAP) {
                    return Err(Errno::EINVAL);
                }
                self.discard(st, vma.is_anonymous(), part);
                return Ok(());
            }
            // MADV_COLLAPSE without huge pages for the mapping.
            _ => return Err(Errno::EINVAL),
        };
        if new == flags {
            return Ok(());
        }
        let cuts = st.cuts(&part);
        if !st.has_room(cuts) {
            return Err(Errno::ENOMEM);
        }
        st.update_vmas(part, |vma| vma.flags = new);
        Ok(())
    }

    /// Throws the pages of a part of an area away. Memory that only this address space has keeps
    /// its place and is emptied: the guest's next touch is the host's affair alone.
    fn discard(&self, st: &mut State, anonymous: bool, part: Range<u64>) {
        let mut gone = Vec::new();
        for (found, pma) in st.pmas.overlapping(part.clone()) {
            let run = found.start.max(part.start)..found.end.min(part.end);
            let (start, len) = (run.start - found.start, run.end - run.start);
            match &pma.memory {
                Memory::Frames(frames)
                    if pma.private && anonymous && frames.range_is_sole(start, len) =>
                {
                    frames.discard(start, len);
                }
                _ => gone.push(run),
            }
        }
        for run in gone {
            self.drop_pmas(st, run, true);
        }
    }

    fn madvise_populate(&self, range: Range<u64>, write: bool) -> Result<(), Errno> {
        let mut at = range.start;
        while at < range.end {
            let (part, flags) = {
                let st = self.state.read();
                let (found, vma) = st.vmas.get(at).ok_or(Errno::ENOMEM)?;
                (at..found.end.min(range.end), vma.flags)
            };
            let allowed = flags.hardware();
            if flags.intersects(VmFlags::IO | VmFlags::PFNMAP)
                || !(if write { allowed.write } else { allowed.read })
            {
                return Err(Errno::EINVAL);
            }
            let len = part.end - part.start;
            if self.fault_range(part.start, len, write) < len {
                return Err(Errno::EFAULT);
            }
            at = part.end;
            self.populate(part);
        }
        Ok(())
    }

    /// mincore(2): writes one byte for each page of the range to `vec` in the guest.
    pub fn mincore(&self, addr: u64, len: u64, vec: u64) -> Result<(), Errno> {
        if !addr.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        if len > TASK_SIZE || addr > TASK_SIZE - len {
            return Err(Errno::ENOMEM);
        }
        let pages = page_up(len).ok_or(Errno::ENOMEM)? / PAGE;
        if vec > TASK_SIZE || pages > TASK_SIZE - vec {
            return Err(Errno::EFAULT);
        }
        let mut done = 0;
        let mut buf = [0u8; 4096];
        while done < pages {
            let count = (pages - done).min(buf.len() as u64);
            let part = buf.get_mut(..count as usize).ok_or(Errno::EFAULT)?;
            let start = addr + done * PAGE;
            let known = self.state.read().residence(start, part);
            let got = part.get(..known).ok_or(Errno::EFAULT)?;
            self.write_bytes(vec + done, got)?;
            if known < part.len() {
                return Err(Errno::ENOMEM);
            }
            done += count;
        }
        Ok(())
    }

    /// msync(2), with the errors and order of checks of Linux.
    pub fn msync(&self, addr: u64, len: u64, flags: i32) -> Result<(), Errno> {
        let known = libc::MS_ASYNC | libc::MS_INVALIDATE | libc::MS_SYNC;
        if flags & !known != 0
            || !addr.is_multiple_of(PAGE)
            || flags & libc::MS_ASYNC != 0 && flags & libc::MS_SYNC != 0
        {
            return Err(Errno::EINVAL);
        }
        let len = page_up(len).ok_or(Errno::ENOMEM)?;
        let end = addr.checked_add(len).ok_or(Errno::ENOMEM)?;
        let mut at = addr;
        let mut hole = false;
        while at < end {
            let (part, sync) = {
                let st = self.state.read();
                let Some((found, vma)) = st.vmas.find(at) else { return Err(Errno::ENOMEM) };
                if found.start >= end {
                    return Err(Errno::ENOMEM);
                }
                hole |= found.start > at;
                let part = found.start.max(at)..found.end.min(end);
                if flags & libc::MS_INVALIDATE != 0 && vma.flags.contains(VmFlags::LOCKED) {
                    return Err(Errno::EBUSY);
                }
                let shared = vma.flags.contains(VmFlags::SHARED);
                let sync = vma.backing.as_ref().filter(|_| flags & libc::MS_SYNC != 0 && shared);
                let sync = sync.map(|backing| {
                    let offset = backing.offset + (part.start - found.start);
                    (backing.object.clone(), offset..offset + (part.end - part.start))
                });
                (part, sync)
            };
            at = part.end;
            // Without the lock: the host's disk may be slow.
            if let Some((object, range)) = sync {
                object.msync(range)?;
            }
        }
        if hole { Err(Errno::ENOMEM) } else { Ok(()) }
    }
}

impl State {
    /// Which pages from `start` on are in memory. Returns for how many, up to the first hole
    /// between areas.
    pub(super) fn residence(&self, start: u64, out: &mut [u8]) -> usize {
        out.fill(0);
        let end = start + out.len() as u64 * PAGE;
        let mut mapped = start;
        while mapped < end {
            let Some((found, _)) = self.vmas.get(mapped) else { break };
            mapped = found.end.min(end);
        }
        for (found, pma) in self.pmas.overlapping(start..mapped) {
            let part = found.start.max(start)..found.end.min(mapped);
            let first = ((part.start - start) / PAGE) as usize;
            let last = ((part.end - start) / PAGE) as usize;
            let Some(out) = out.get_mut(first..last) else { continue };
            pma.residence(part.start - found.start, out);
        }
        ((mapped - start) / PAGE) as usize
    }
}

impl super::pma::Pma {
    /// Which pages from `skip` bytes in on are in memory. What the host does not tell counts as
    /// present.
    pub(super) fn residence(&self, skip: u64, out: &mut [u8]) {
        out.fill(1);
        match &self.memory {
            Memory::Frames(frames) => {
                // SAFETY: `skip` lies inside the frames; the pointer is only handed to mincore.
                let ptr = unsafe { frames.ptr().add(skip as usize) };
                let _ = host::mincore(ptr, out);
            }
            Memory::Host { file, offset, .. } => {
                let size = file.size().div_ceil(PAGE);
                let first = (offset + skip) / PAGE;
                for (page, byte) in (first..).zip(out.iter_mut()) {
                    *byte = u8::from(page < size);
                }
            }
        }
        for byte in out {
            *byte &= 1;
        }
    }
}

/// `MADV_REMOVE`: punches a hole into the file behind a shared mapping.
fn remove(vma: &Vma, found: &Range<u64>, part: Range<u64>) -> Result<(), Errno> {
    if vma.flags.contains(VmFlags::LOCKED) {
        return Err(Errno::EINVAL);
    }
    let backing = vma.backing.as_ref().ok_or(Errno::EINVAL)?;
    if !vma.flags.contains(VmFlags::SHARED | VmFlags::MAYWRITE) {
        return Err(Errno::EACCES);
    }
    let offset = backing.offset + (part.start - found.start);
    Mappable::punch_hole(&*backing.object, offset..offset + (part.end - part.start))
}

/// `madvise_behavior_valid`.
fn known(advice: i32) -> bool {
    matches!(
        advice,
        libc::MADV_NORMAL
            | libc::MADV_RANDOM
            | libc::MADV_SEQUENTIAL
            | libc::MADV_WILLNEED
            | libc::MADV_DONTNEED
            | libc::MADV_DONTNEED_LOCKED
            | libc::MADV_FREE
            | libc::MADV_REMOVE
            | libc::MADV_DONTFORK
            | libc::MADV_DOFORK
            | libc::MADV_WIPEONFORK
            | libc::MADV_KEEPONFORK
            | libc::MADV_DONTDUMP
            | libc::MADV_DODUMP
            | libc::MADV_MERGEABLE
            | libc::MADV_UNMERGEABLE
            | libc::MADV_HUGEPAGE
            | libc::MADV_NOHUGEPAGE
            | libc::MADV_COLLAPSE
            | libc::MADV_COLD
            | libc::MADV_PAGEOUT
            | libc::MADV_POPULATE_READ
            | libc::MADV_POPULATE_WRITE
            | libc::MADV_HWPOISON
            | libc::MADV_SOFT_OFFLINE
    )
}
