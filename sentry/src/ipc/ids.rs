//! Identifiers, keys and permissions of System V objects (`ipc/util.c`).
//!
//! Owns no lock: a table lies behind the lock of its namespace.

use std::collections::{BTreeMap, HashMap};

use abi::Errno;

use crate::kernel::{Caps, Credentials};

/// Most objects of one kind (`IPCMNI`).
pub const IPCMNI: u32 = 1 << SEQ_SHIFT;
/// An identifier is a sequence number, and in its low bits the index.
const SEQ_SHIFT: u32 = 15;
const SEQ_MAX: u32 = (i32::MAX as u32) >> SEQ_SHIFT;
/// Indexes go round over at least so many (`ipc_min_cycle`).
const MIN_CYCLE: u32 = 64;

/// Bits of a mode that say who may do what.
pub const S_IRWXUGO: u32 = 0o777;
/// Reading, for all.
pub const S_IRUGO: u32 = 0o444;
/// Writing, for all.
pub const S_IWUGO: u32 = 0o222;
/// Executing, for all.
pub const S_IXUGO: u32 = 0o111;

/// `struct kern_ipc_perm`
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The names are Linux's.
pub struct Perm {
    pub id: i32,
    pub key: i32,
    pub uid: u32,
    pub gid: u32,
    pub cuid: u32,
    pub cgid: u32,
    pub mode: u32,
    pub seq: u32,
}

impl Perm {
    /// `ipcperms`: `EACCES` unless a caller may do what the mode bits `wanted` say, all of them.
    pub fn check(&self, cred: &Credentials, wanted: u32) -> Result<(), Errno> {
        let requested = wanted >> 6 | wanted >> 3 | wanted;
        let granted = if cred.euid == self.cuid || cred.euid == self.uid {
            self.mode >> 6
        } else if cred.in_group(self.cgid) || cred.in_group(self.gid) {
            self.mode >> 3
        } else {
            self.mode
        };
        if requested & !granted & 0o7 != 0 && !cred.capable(Caps::IPC_OWNER) {
            return Err(Errno::EACCES);
        }
        Ok(())
    }

    /// Whether a caller is the owner or the creator.
    pub fn is_owned_by(&self, cred: &Credentials) -> bool {
        cred.euid == self.cuid || cred.euid == self.uid
    }

    /// Who may change and remove it (`ipcctl_obtain_check`): `EPERM`.
    pub fn check_control(&self, cred: &Credentials) -> Result<(), Errno> {
        match self.is_owned_by(cred) || cred.capable(Caps::SYS_ADMIN) {
            true => Ok(()),
            false => Err(Errno::EPERM),
        }
    }

    /// `IPC_SET`. `EINVAL` for ids that are none.
    pub fn update(&mut self, new: &abi::ipc::IpcPerm) -> Result<(), Errno> {
        if new.uid == u32::MAX || new.gid == u32::MAX {
            return Err(Errno::EINVAL);
        }
        self.uid = new.uid;
        self.gid = new.gid;
        self.mode = self.mode & !S_IRWXUGO | new.mode & S_IRWXUGO;
        Ok(())
    }

    /// As programs get it.
    pub fn to_abi(&self) -> abi::ipc::IpcPerm {
        abi::ipc::IpcPerm {
            key: self.key,
            uid: self.uid,
            gid: self.gid,
            cuid: self.cuid,
            cgid: self.cgid,
            mode: self.mode,
            seq: self.seq as u16,
            ..Default::default()
        }
    }
}

/// An object that an identifier names.
pub trait Object {
    /// Who it is and whose.
    fn perm(&self) -> &Perm;
    /// The same, to be changed.
    fn perm_mut(&mut self) -> &mut Perm;
}

/// What a `*get` call asks for.
pub struct Get<'a> {
    /// Who asks.
    pub cred: &'a Credentials,
    /// `IPC_PRIVATE`, or what others know the object by.
    pub key: i32,
    /// `IPC_CREAT`, `IPC_EXCL`, and the mode.
    pub flags: i32,
}

/// All objects of one kind (`struct ipc_ids`).
pub struct Ids<T> {
    objects: BTreeMap<u32, T>,
    keys: HashMap<i32, u32>,
    seq: u32,
    /// The index that was given last.
    last: Option<u32>,
}

impl<T> Default for Ids<T> {
    fn default() -> Self {
        Ids { objects: BTreeMap::new(), keys: HashMap::new(), seq: 0, last: None }
    }
}

fn index(id: i32) -> Option<u32> {
    u32::try_from(id).ok().map(|id| id & (IPCMNI - 1))
}

impl<T: Object> Ids<T> {
    /// Number of objects.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// The highest index in use, as the `*_INFO` commands return it; 0 if there is none.
    pub fn max_index(&self) -> u32 {
        self.objects.keys().next_back().copied().unwrap_or(0)
    }

    /// The object with an identifier. `EINVAL`
    pub fn get(&self, id: i32) -> Result<&T, Errno> {
        let found = index(id).and_then(|at| self.objects.get(&at));
        found.filter(|object| object.perm().id == id).ok_or(Errno::EINVAL)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, id: i32) -> Result<&mut T, Errno> {
        let found = index(id).and_then(|at| self.objects.get_mut(&at));
        found.filter(|object| object.perm().id == id).ok_or(Errno::EINVAL)
    }

    /// The object at an index, whatever its sequence number. `EINVAL`
    fn at(&self, id: i32) -> Result<&T, Errno> {
        index(id).and_then(|at| self.objects.get(&at)).ok_or(Errno::EINVAL)
    }

    /// An object that a caller may read (`IPC_STAT` and the like). `EINVAL`, `EACCES`
    pub fn readable(&self, id: i32, cred: &Credentials) -> Result<&T, Errno> {
        let object = self.get(id)?;
        object.perm().check(cred, S_IRUGO)?;
        Ok(object)
    }

    /// The object at an index that a caller may read (`*_STAT`), or anybody (`*_STAT_ANY`). `EINVAL`,
    /// `EACCES`
    pub fn readable_at(&self, at: i32, cred: &Credentials, any: bool) -> Result<&T, Errno> {
        let object = self.at(at)?;
        if !any {
            object.perm().check(cred, S_IRUGO)?;
        }
        Ok(object)
    }

    /// The object that a caller may change or remove. `EINVAL`, `EPERM`
    pub fn controlled(&mut self, id: i32, cred: &Credentials) -> Result<&mut T, Errno> {
        let object = self.get_mut(id)?;
        object.perm().check_control(cred)?;
        Ok(object)
    }

    /// All objects, by index.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.objects.values()
    }

    /// All objects, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.objects.values_mut()
    }

    /// Takes an object out.
    pub fn remove(&mut self, id: i32) -> Option<T> {
        self.get(id).ok()?;
        self.forget_key(id);
        index(id).and_then(|at| self.objects.remove(&at))
    }

    /// Makes an object one that no key finds (`ipc_set_key_private`).
    pub fn forget_key(&mut self, id: i32) {
        let Ok(object) = self.get_mut(id) else { return };
        let key = std::mem::replace(&mut object.perm_mut().key, libc::IPC_PRIVATE);
        if key != libc::IPC_PRIVATE {
            self.keys.remove(&key);
        }
    }

    /// The object that a key names already, if `get` may have it as it is (`ipcget_public`): its
    /// identifier. `None` if there is none and it is to be made.
    ///
    /// # Errors
    /// `ENOENT`, `EEXIST`, what `check` says, `EACCES`.
    pub fn find(
        &self,
        get: &Get<'_>,
        check: impl FnOnce(&T) -> Result<(), Errno>,
    ) -> Result<Option<i32>, Errno> {
        if get.key == libc::IPC_PRIVATE {
            return Ok(None);
        }
        let has = |flag: i32| get.flags & flag != 0;
        let found = self.keys.get(&get.key).and_then(|at| self.objects.get(at));
        let Some(object) = found else {
            return if has(libc::IPC_CREAT) { Ok(None) } else { Err(Errno::ENOENT) };
        };
        if has(libc::IPC_CREAT) && has(libc::IPC_EXCL) {
            return Err(Errno::EEXIST);
        }
        check(object)?;
        object.perm().check(get.cred, get.flags as u32)?;
        Ok(Some(object.perm().id))
    }

    /// Adds an object (`ipc_addid`). `ENOSPC` if there are `limit` already.
    pub fn add(
        &mut self,
        get: &Get<'_>,
        limit: u32,
        make: impl FnOnce(Perm) -> T,
    ) -> Result<i32, Errno> {
        let used = self.objects.len() as u32;
        if used >= limit.min(IPCMNI) {
            return Err(Errno::ENOSPC);
        }
        // Indexes go round, so that an identifier comes back late.
        let cycle = (used * 3 / 2).clamp(MIN_CYCLE, IPCMNI);
        let next = self.last.map_or(0, |last| last + 1);
        let at = self.free_index(next, cycle).or_else(|| self.free_index(0, cycle));
        let at = at.ok_or(Errno::ENOSPC)?;
        if self.last.is_some_and(|last| at <= last) {
            self.seq = (self.seq + 1) % SEQ_MAX;
        }
        self.last = Some(at);
        let perm = Perm {
            id: (self.seq << SEQ_SHIFT | at) as i32,
            key: get.key,
            uid: get.cred.euid,
            gid: get.cred.egid,
            cuid: get.cred.euid,
            cgid: get.cred.egid,
            mode: get.flags as u32 & S_IRWXUGO,
            seq: self.seq,
        };
        let id = perm.id;
        if get.key != libc::IPC_PRIVATE {
            self.keys.insert(get.key, at);
        }
        self.objects.insert(at, make(perm));
        Ok(id)
    }

    /// The first free index from `start` on, below `end`.
    fn free_index(&self, start: u32, end: u32) -> Option<u32> {
        let mut at = start;
        for &used in self.objects.range(start..).map(|(at, _)| at) {
            if used != at {
                break;
            }
            at += 1;
        }
        (at < end).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing(Perm);

    impl Object for Thing {
        fn perm(&self) -> &Perm {
            &self.0
        }
        fn perm_mut(&mut self) -> &mut Perm {
            &mut self.0
        }
    }

    fn user(uid: u32) -> Credentials {
        Credentials::new(uid, uid, &[], Caps::all())
    }

    fn add(ids: &mut Ids<Thing>, key: i32, limit: u32) -> Result<i32, Errno> {
        let cred = user(7);
        ids.add(&Get { cred: &cred, key, flags: 0o640 }, limit, Thing)
    }

    #[test]
    fn identifiers_are_not_reused_at_once() {
        let mut ids = Ids::default();
        assert_eq!(add(&mut ids, 0, 10), Ok(0));
        assert_eq!(add(&mut ids, 0, 10), Ok(1));
        assert!(ids.remove(0).is_some() && ids.remove(0).is_none());
        assert_eq!(add(&mut ids, 0, 10), Ok(2));
        let mut seen = std::collections::HashSet::new();
        for _ in 0..100_000 {
            let id = add(&mut ids, 0, 10).unwrap();
            assert!(ids.get(id).is_ok() && ids.remove(id).is_some());
            assert!(ids.get(id).is_err());
            assert!(seen.insert(id));
        }
        assert!(ids.at(1).is_ok() && ids.get(1 << SEQ_SHIFT | 1).is_err());
        assert!(ids.get(-1).is_err() && ids.at(i32::MIN).is_err());
    }

    #[test]
    fn there_are_no_more_than_the_limit() {
        let mut ids = Ids::default();
        for at in 0..200 {
            assert_eq!(add(&mut ids, 0, 200), Ok(at));
        }
        assert_eq!(add(&mut ids, 0, 200), Err(Errno::ENOSPC));
        assert_eq!(ids.max_index(), 199);
        ids.remove(17);
        // Index 200 is beyond one and a half times what there is only when there is little.
        assert_eq!(add(&mut ids, 0, 200), Ok(200));
    }

    #[test]
    fn keys_find_objects_that_callers_may_have() {
        let mut ids = Ids::default();
        let id = add(&mut ids, 99, 10).unwrap();
        let find = |ids: &Ids<Thing>, cred: &Credentials, flags| {
            ids.find(&Get { cred, key: 99, flags }, |_| Ok(()))
        };
        let (owner, other) = (user(7), user(8));
        assert_eq!(find(&ids, &owner, 0o600), Ok(Some(id)));
        assert_eq!(find(&ids, &owner, 0o100), Err(Errno::EACCES));
        assert_eq!(find(&ids, &other, 0), Ok(Some(id)));
        assert_eq!(find(&ids, &other, 0o400), Err(Errno::EACCES));
        assert_eq!(find(&ids, &user(0), 0o700), Ok(Some(id)));
        let exclusive = libc::IPC_CREAT | libc::IPC_EXCL;
        assert_eq!(find(&ids, &owner, exclusive), Err(Errno::EEXIST));
        assert!(ids.controlled(id, &other).is_err() && ids.controlled(id, &owner).is_ok());
        ids.forget_key(id);
        assert_eq!(find(&ids, &owner, 0), Err(Errno::ENOENT));
        assert_eq!(find(&ids, &owner, libc::IPC_CREAT), Ok(None));
        assert!(ids.get(id).is_ok());
    }

    #[test]
    fn groups_and_others_have_their_own_bits() {
        let mut ids = Ids::default();
        let id = add(&mut ids, 0, 10).unwrap();
        let perm = ids.get(id).unwrap().perm();
        let member = Credentials::new(9, 100, &[7], Caps::empty());
        assert!(perm.check(&member, S_IRUGO).is_ok());
        assert!(perm.check(&member, S_IWUGO).is_err());
        assert!(perm.check(&user(9), S_IRUGO).is_err());
    }
}
