//! Shared memory segments: shmget(2), shmat(2), shmctl(2) (`ipc/shm.c`).
//!
//! A segment is a [`ShmemObject`] with a name. Its attachments are counted by area, as Linux counts
//! them: address spaces tell of each area that comes and goes ([`AreaOps`]).
//!
//! Lock order: `MemoryManager::state` -> [`ShmNamespace`]'s lock. Segments are dropped without it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use abi::Errno;
use abi::ipc::{IpcPerm, ShmLimits, ShmUse, ShmidDs};
use parking_lot::Mutex;

use super::ids::{Get, IPCMNI, Ids, Object, Perm, S_IRUGO, S_IWUGO, S_IXUGO};
use super::{current_tgid, seconds};
use crate::kernel::{Caps, Credentials, Task};
use crate::kmem::{self, KernelMemory};
use crate::mm::{AreaOps, PAGE, ShmemObject};

/// What a segment costs beside its pages, with what is kept of who made it.
const SEGMENT: usize = 4 << 10;
/// `SHM_DEST`: goes with its last attachment.
const SHM_DEST: u32 = 0o1000;
/// `SHM_LOCKED`
const SHM_LOCKED: u32 = 0o2000;
const SHM_HUGE_SHIFT: i32 = 26;
const SHM_HUGE_MASK: i32 = 0x3f;

/// Settings below `/proc/sys/kernel`, with their defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names are Linux's.
pub struct Settings {
    pub shmmax: u64,
    pub shmall: u64,
    pub shmmni: u32,
    pub rmid_forced: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        let most = u64::MAX - (1 << 24);
        Settings { shmmax: most, shmall: most, shmmni: 4096, rmid_forced: false }
    }
}

/// `struct shmid_kernel`
struct Segment {
    perm: Perm,
    size: u64,
    object: Arc<ShmemObject>,
    nattch: u64,
    atime: i64,
    dtime: i64,
    ctime: i64,
    cpid: i32,
    lpid: i32,
    /// Who made it, until that thread ends.
    creator: Weak<Task>,
    /// Whose locked memory it is (`SHM_LOCK`).
    locked_for: Option<u32>,
    _memory: KernelMemory,
}

impl Object for Segment {
    fn perm(&self) -> &Perm {
        &self.perm
    }
    fn perm_mut(&mut self) -> &mut Perm {
        &mut self.perm
    }
}

impl Segment {
    fn pages(&self) -> u64 {
        pages(self.size)
    }

    fn to_abi(&self) -> ShmidDs {
        ShmidDs {
            perm: self.perm.to_abi(),
            segsz: self.size,
            atime: self.atime,
            dtime: self.dtime,
            ctime: self.ctime,
            cpid: self.cpid,
            lpid: self.lpid,
            nattch: self.nattch,
            unused: [0; 2],
        }
    }
}

fn pages(size: u64) -> u64 {
    size.div_ceil(PAGE)
}

#[derive(Default)]
struct State {
    ids: Ids<Segment>,
    settings: Settings,
    /// Pages that all segments may have together (`shm_tot`).
    total: u64,
    /// Bytes that users have locked.
    locked: HashMap<u32, u64>,
}

/// All segments.
#[derive(Default)]
pub struct ShmNamespace {
    state: Mutex<State>,
}

/// What shmget(2) makes a segment of.
pub struct NewSegment<'a> {
    /// Gets the pages; their number is bounded there.
    pub memory: &'a Arc<platform::MemoryFile>,
    /// Who makes it.
    pub creator: &'a Arc<Task>,
    /// Bytes.
    pub size: u64,
}

/// What a mapping of a segment is made of.
pub struct Attachment {
    /// The memory.
    pub object: Arc<ShmemObject>,
    /// Counts the areas.
    pub area: Arc<dyn AreaOps>,
    /// Size in bytes.
    pub size: u64,
    /// Keeps the segment until there is an area.
    _held: Held,
}

/// Counts as an attachment, without an area and without a trace.
struct Held {
    namespace: Arc<ShmNamespace>,
    id: i32,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut st = self.namespace.state.lock();
        let Ok(segment) = st.ids.get_mut(self.id) else { return };
        segment.nattch = segment.nattch.saturating_sub(1);
        let gone = st.destroy_unused(self.id);
        drop(st);
        drop(gone);
    }
}

impl ShmNamespace {
    /// shmget(2). `ENOENT`, `EEXIST`, `EACCES`; `EINVAL` for sizes out of bounds or beyond an existing
    /// segment's; `ENOSPC` for too many segments or pages; `ENOMEM`; with `SHM_HUGETLB` what a system
    /// without huge pages in its pool says.
    pub fn get(&self, get: &Get<'_>, new: &NewSegment<'_>) -> Result<i32, Errno> {
        let mut st = self.state.lock();
        let enough = |segment: &Segment| match segment.size < new.size {
            true => Err(Errno::EINVAL),
            false => Ok(()),
        };
        if let Some(id) = st.ids.find(get, enough)? {
            return Ok(id);
        }
        if new.size == 0 || new.size > st.settings.shmmax {
            return Err(Errno::EINVAL);
        }
        let count = pages(new.size);
        if count.checked_mul(PAGE).is_none() {
            return Err(Errno::ENOSPC);
        }
        let total = st.total.checked_add(count).filter(|total| *total <= st.settings.shmall);
        let total = total.ok_or(Errno::ENOSPC)?;
        let memory = kmem::charge(SEGMENT).ok_or(Errno::ENOMEM)?;
        if get.flags & libc::SHM_HUGETLB != 0 {
            return Err(huge_pages(get));
        }
        if new.size > crate::mm::MAX_SHMEM_SIZE {
            return Err(Errno::EINVAL);
        }
        // What can never be had, as for mmap(2).
        if get.flags & libc::SHM_NORESERVE == 0 && new.size > new.memory.limit() {
            return Err(Errno::ENOMEM);
        }
        let object = ShmemObject::new(new.memory.clone(), new.size, None);
        let limit = st.settings.shmmni;
        let id = st.ids.add(get, limit, |perm| Segment {
            perm,
            size: new.size,
            object,
            nattch: 0,
            atime: 0,
            dtime: 0,
            ctime: seconds(),
            cpid: new.creator.group.tgid,
            lpid: 0,
            creator: Arc::downgrade(new.creator),
            locked_for: None,
            _memory: memory,
        })?;
        st.total = total;
        Ok(id)
    }

    /// What shmat(2) maps. `EINVAL` if there is no such segment, `EACCES`.
    pub fn attach(
        self: &Arc<Self>,
        id: i32,
        cred: &Credentials,
        write: bool,
        exec: bool,
    ) -> Result<Attachment, Errno> {
        let mut wanted = S_IRUGO;
        if write {
            wanted |= S_IWUGO;
        }
        if exec {
            wanted |= S_IXUGO;
        }
        let mut st = self.state.lock();
        let segment = st.ids.get_mut(id)?;
        segment.perm.check(cred, wanted)?;
        segment.nattch += 1;
        Ok(Attachment {
            object: segment.object.clone(),
            area: Arc::new(Areas { namespace: self.clone(), id, key: segment.perm.key }),
            size: segment.size,
            _held: Held { namespace: self.clone(), id },
        })
    }

    /// `IPC_INFO`, and the highest index in use.
    pub fn limits(&self) -> (u32, ShmLimits) {
        let st = self.state.lock();
        let Settings { shmmax, shmall, shmmni, .. } = st.settings;
        let (shmmni, shmmin) = (shmmni.into(), 1);
        let limits =
            ShmLimits { shmmax, shmmin, shmmni, shmseg: shmmni, shmall, ..Default::default() };
        (st.ids.max_index(), limits)
    }

    /// `SHM_INFO`, and the highest index in use.
    pub fn usage(&self) -> (u32, ShmUse) {
        let st = self.state.lock();
        let rss = st.ids.iter().map(|s| s.object.allocated() / PAGE).sum();
        let used_ids = st.ids.len() as i32;
        (st.ids.max_index(), ShmUse { used_ids, tot: st.total, rss, ..Default::default() })
    }

    /// `IPC_STAT`. `EINVAL`, `EACCES`
    pub fn stat(&self, id: i32, cred: &Credentials) -> Result<ShmidDs, Errno> {
        let st = self.state.lock();
        let segment = st.ids.readable(id, cred)?;
        Ok(segment.to_abi())
    }

    /// `SHM_STAT`, and `SHM_STAT_ANY` which asks for no permission: the identifier as well.
    pub fn stat_at(
        &self,
        index: i32,
        cred: &Credentials,
        any: bool,
    ) -> Result<(i32, ShmidDs), Errno> {
        let st = self.state.lock();
        let segment = st.ids.readable_at(index, cred, any)?;
        Ok((segment.perm.id, segment.to_abi()))
    }

    /// `IPC_SET`. `EINVAL`, `EPERM`
    pub fn set(&self, id: i32, cred: &Credentials, perm: &IpcPerm) -> Result<(), Errno> {
        let mut st = self.state.lock();
        let segment = st.ids.controlled(id, cred)?;
        segment.perm.update(perm)?;
        segment.ctime = seconds();
        Ok(())
    }

    /// `IPC_RMID`: nobody finds it any more; it goes with its last attachment. `EINVAL`, `EPERM`
    pub fn remove(&self, id: i32, cred: &Credentials) -> Result<(), Errno> {
        let mut st = self.state.lock();
        st.ids.controlled(id, cred)?.perm.mode |= SHM_DEST;
        st.ids.forget_key(id);
        let gone = st.destroy_unused(id);
        drop(st);
        drop(gone);
        Ok(())
    }

    /// `SHM_LOCK` and `SHM_UNLOCK`; `limit` is the caller's `RLIMIT_MEMLOCK`. `EINVAL`, `EPERM`;
    /// `ENOMEM` past the limit.
    pub fn lock(
        &self,
        id: i32,
        cred: &Credentials,
        limit: u64,
        uid: u32,
        lock: bool,
    ) -> Result<(), Errno> {
        let mut st = self.state.lock();
        let st = &mut *st;
        let segment = st.ids.get_mut(id)?;
        let privileged = cred.capable(Caps::IPC_LOCK);
        if !privileged && (!segment.perm.is_owned_by(cred) || lock && limit == 0) {
            return Err(Errno::EPERM);
        }
        if lock == segment.locked_for.is_some() {
            return Ok(());
        }
        let size = segment.pages() * PAGE;
        if lock {
            let now = st.locked.get(&uid).copied().unwrap_or(0).saturating_add(size);
            if !privileged && now > limit {
                return Err(Errno::ENOMEM);
            }
            st.locked.insert(uid, now);
            segment.locked_for = Some(uid);
            segment.perm.mode |= SHM_LOCKED;
        } else {
            segment.perm.mode &= !SHM_LOCKED;
            let uid = segment.locked_for.take();
            st.unlock(uid, size);
        }
        Ok(())
    }

    /// The settings now.
    pub fn settings(&self) -> Settings {
        self.state.lock().settings
    }

    /// Changes the settings. `EINVAL` for more segments than there are identifiers. With
    /// `rmid_forced`, what nobody uses and whose maker is gone goes at once.
    pub fn set_settings(&self, change: impl FnOnce(&mut Settings)) -> Result<(), Errno> {
        let mut st = self.state.lock();
        let mut settings = st.settings;
        change(&mut settings);
        if settings.shmmni > IPCMNI {
            return Err(Errno::EINVAL);
        }
        st.settings = settings;
        let gone = st.destroy_all(|s| s.creator.upgrade().is_none_or(|task| task.is_dead()));
        drop(st);
        drop(gone);
        Ok(())
    }

    /// A thread is gone, and its memory: with `rmid_forced`, what it made goes with it.
    pub(super) fn exit(&self, task: &Arc<Task>) {
        let mut st = self.state.lock();
        if !st.settings.rmid_forced {
            return;
        }
        let gone = st.destroy_all(|s| std::ptr::eq(s.creator.as_ptr(), Arc::as_ptr(task)));
        drop(st);
        drop(gone);
    }

    /// `/proc/sysvipc/shm`
    pub fn table(&self) -> String {
        use std::fmt::Write as _;
        let mut out = String::from(
            "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  \
             cgid      atime      dtime      ctime                   rss                  swap\n",
        );
        let st = self.state.lock();
        for s in st.ids.iter() {
            let Perm { key, id, mode, uid, gid, cuid, cgid, .. } = s.perm;
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "{key:10} {id:10}  {mode:4o} {:21} {:5} {:5}  {:5} {uid:5} {gid:5} {cuid:5} {cgid:5} \
                 {:10} {:10} {:10} {:21} {:21}",
                s.size,
                s.cpid,
                s.lpid,
                s.nattch,
                s.atime,
                s.dtime,
                s.ctime,
                s.object.allocated(),
                0,
            );
        }
        out
    }
}

impl State {
    /// Takes a segment out that nobody has attached and that is to go (`shm_may_destroy`).
    fn destroy_unused(&mut self, id: i32) -> Option<Segment> {
        let segment = self.ids.get(id).ok()?;
        let unwanted = self.settings.rmid_forced || segment.perm.mode & SHM_DEST != 0;
        if segment.nattch > 0 || !unwanted {
            return None;
        }
        let mut segment = self.ids.remove(id)?;
        self.total = self.total.saturating_sub(segment.pages());
        self.unlock(segment.locked_for.take(), segment.pages() * PAGE);
        Some(segment)
    }

    fn destroy_all(&mut self, which: impl Fn(&Segment) -> bool) -> Vec<Segment> {
        let ids: Vec<i32> = self.ids.iter().filter(|s| which(s)).map(|s| s.perm.id).collect();
        ids.into_iter().filter_map(|id| self.destroy_unused(id)).collect()
    }

    fn unlock(&mut self, uid: Option<u32>, size: u64) {
        let Some(uid) = uid else { return };
        if let Some(locked) = self.locked.get_mut(&uid) {
            *locked = locked.saturating_sub(size);
            if *locked == 0 {
                self.locked.remove(&uid);
            }
        }
    }
}

/// `SHM_HUGETLB`, on a system that has huge pages but none in its pool.
fn huge_pages(get: &Get<'_>) -> Errno {
    match get.flags >> SHM_HUGE_SHIFT & SHM_HUGE_MASK {
        0 | 21 | 30 if get.cred.capable(Caps::IPC_LOCK) || get.cred.in_group(0) => Errno::ENOMEM,
        0 | 21 | 30 => Errno::EPERM,
        _ => Errno::EINVAL,
    }
}

/// The areas of one shmat(2), and what became of them.
struct Areas {
    namespace: Arc<ShmNamespace>,
    id: i32,
    key: i32,
}

impl AreaOps for Areas {
    fn opened(&self) {
        let mut st = self.namespace.state.lock();
        if let Ok(segment) = st.ids.get_mut(self.id) {
            segment.atime = seconds();
            segment.lpid = current_tgid();
            segment.nattch += 1;
        }
    }

    fn closed(&self) {
        let mut st = self.namespace.state.lock();
        let Ok(segment) = st.ids.get_mut(self.id) else { return };
        segment.lpid = current_tgid();
        segment.dtime = seconds();
        segment.nattch = segment.nattch.saturating_sub(1);
        let gone = st.destroy_unused(self.id);
        drop(st);
        drop(gone);
    }

    fn name(&self) -> Vec<u8> {
        format!("/SYSV{:08x} (deleted)", self.key).into_bytes()
    }

    fn ino(&self) -> u64 {
        self.id as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> Credentials {
        Credentials::new(5, 5, &[], Caps::empty())
    }

    fn segment(ns: &ShmNamespace, pages: u64) -> i32 {
        let cred = owner();
        let mut st = ns.state.lock();
        let memory = platform::MemoryFile::new(1 << 20).unwrap();
        let size = pages * PAGE;
        st.total += pages;
        let get = Get { cred: &cred, key: 0x77, flags: 0o600 };
        let id = st.ids.add(&get, 10, |perm| Segment {
            perm,
            size,
            object: ShmemObject::new(memory, size, None),
            nattch: 0,
            atime: 0,
            dtime: 0,
            ctime: 0,
            cpid: 1,
            lpid: 0,
            creator: Weak::new(),
            locked_for: None,
            _memory: kmem::charge(SEGMENT).unwrap(),
        });
        id.unwrap()
    }

    #[test]
    fn a_removed_segment_goes_with_its_last_area() {
        let ns = Arc::new(ShmNamespace::default());
        let id = segment(&ns, 3);
        let attachment = ns.attach(id, &owner(), true, false).unwrap();
        let area = attachment.area.clone();
        area.opened();
        area.opened();
        drop(attachment);
        assert_eq!(ns.stat(id, &owner()).unwrap().nattch, 2);
        ns.remove(id, &owner()).unwrap();
        let stat = ns.stat(id, &owner()).unwrap();
        assert_eq!((stat.perm.mode, stat.perm.key), (0o1600, 0));
        area.closed();
        assert_eq!(ns.usage().1.tot, 3);
        area.closed();
        assert_eq!(ns.stat(id, &owner()), Err(Errno::EINVAL));
        assert_eq!(ns.usage().1, ShmUse::default());
        assert_eq!(area.name(), b"/SYSV00000077 (deleted)");
    }

    #[test]
    fn locked_memory_counts_for_who_locked_it() {
        let ns = ShmNamespace::default();
        let id = segment(&ns, 2);
        assert_eq!(ns.lock(id, &owner(), 0, 5, true), Err(Errno::EPERM));
        assert_eq!(ns.lock(id, &owner(), PAGE, 5, true), Err(Errno::ENOMEM));
        assert_eq!(ns.lock(id, &owner(), 2 * PAGE, 5, true), Ok(()));
        assert_eq!(ns.lock(id, &owner(), 2 * PAGE, 5, true), Ok(()));
        assert_eq!(ns.stat(id, &owner()).unwrap().perm.mode, 0o2600);
        ns.remove(id, &owner()).unwrap();
        assert!(ns.state.lock().locked.is_empty());
    }
}
