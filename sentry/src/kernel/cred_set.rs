//! How the set*id calls and capset(2) change credentials (credentials(7), `kernel/sys.c`,
//! `security/commoncap.c`). Pure: from old credentials to new ones.

use abi::Errno;

use super::cred_exec::securebits;
use super::{Caps, Credentials};

/// An id argument that means "as it is".
pub const KEEP: u32 = u32::MAX;

/// Capabilities that go with the file-system user id (`CAP_FS_SET`).
const FS_CAPS: Caps = Caps::CHOWN
    .union(Caps::MKNOD)
    .union(Caps::DAC_OVERRIDE)
    .union(Caps::DAC_READ_SEARCH)
    .union(Caps::FOWNER)
    .union(Caps::FSETID)
    .union(Caps::LINUX_IMMUTABLE)
    .union(Caps::MAC_OVERRIDE);

/// Changes of user ids take or give capabilities (`cap_emulate_setxuid`).
fn fix_caps(new: &mut Credentials, old: &Credentials) {
    if old.securebits & securebits::NO_SETUID_FIXUP != 0 {
        return;
    }
    let was_root = old.uid == 0 || old.euid == 0 || old.suid == 0;
    let is_root = new.uid == 0 || new.euid == 0 || new.suid == 0;
    if was_root && !is_root {
        if old.securebits & securebits::KEEP_CAPS == 0 {
            new.permitted = Caps::empty();
            new.effective = Caps::empty();
        }
        new.ambient = Caps::empty();
    }
    if old.euid == 0 && new.euid != 0 {
        new.effective = Caps::empty();
    }
    if old.euid != 0 && new.euid == 0 {
        new.effective = new.permitted;
    }
}

/// setuid(2)
pub fn setuid(old: &Credentials, uid: u32) -> Result<Credentials, Errno> {
    if uid == KEEP {
        return Err(Errno::EINVAL);
    }
    let mut new = old.clone();
    if old.capable(Caps::SETUID) {
        (new.uid, new.suid) = (uid, uid);
    } else if uid != old.uid && uid != old.suid {
        return Err(Errno::EPERM);
    }
    (new.euid, new.fsuid) = (uid, uid);
    fix_caps(&mut new, old);
    Ok(new)
}

/// setreuid(2)
pub fn setreuid(old: &Credentials, ruid: u32, euid: u32) -> Result<Credentials, Errno> {
    let mut new = old.clone();
    let capable = old.capable(Caps::SETUID);
    if ruid != KEEP {
        if ruid != old.uid && ruid != old.euid && !capable {
            return Err(Errno::EPERM);
        }
        new.uid = ruid;
    }
    if euid != KEEP {
        if ![old.uid, old.euid, old.suid].contains(&euid) && !capable {
            return Err(Errno::EPERM);
        }
        new.euid = euid;
    }
    if ruid != KEEP || (euid != KEEP && euid != old.uid) {
        new.suid = new.euid;
    }
    new.fsuid = new.euid;
    fix_caps(&mut new, old);
    Ok(new)
}

/// setresuid(2)
pub fn setresuid(old: &Credentials, ruid: u32, euid: u32, suid: u32) -> Result<Credentials, Errno> {
    let known = |id: u32| id == KEEP || [old.uid, old.euid, old.suid].contains(&id);
    let all_known = known(ruid) && known(euid) && known(suid);
    if !all_known && !old.capable(Caps::SETUID) {
        return Err(Errno::EPERM);
    }
    let mut new = old.clone();
    let pick = |id: u32, now: u32| if id == KEEP { now } else { id };
    new.uid = pick(ruid, old.uid);
    new.euid = pick(euid, old.euid);
    new.suid = pick(suid, old.suid);
    new.fsuid = new.euid;
    fix_caps(&mut new, old);
    Ok(new)
}

/// setfsuid(2): `None` leaves all as it is.
pub fn setfsuid(old: &Credentials, uid: u32) -> Option<Credentials> {
    let allowed =
        [old.uid, old.euid, old.suid, old.fsuid].contains(&uid) || old.capable(Caps::SETUID);
    if uid == KEEP || !allowed || uid == old.fsuid {
        return None;
    }
    let mut new = old.clone();
    new.fsuid = uid;
    if old.securebits & securebits::NO_SETUID_FIXUP == 0 {
        if old.fsuid == 0 && uid != 0 {
            new.effective -= FS_CAPS;
        }
        if old.fsuid != 0 && uid == 0 {
            new.effective |= new.permitted & FS_CAPS;
        }
    }
    Some(new)
}

/// setgid(2)
pub fn setgid(old: &Credentials, gid: u32) -> Result<Credentials, Errno> {
    if gid == KEEP {
        return Err(Errno::EINVAL);
    }
    let mut new = old.clone();
    if old.capable(Caps::SETGID) {
        (new.gid, new.sgid) = (gid, gid);
    } else if gid != old.gid && gid != old.sgid {
        return Err(Errno::EPERM);
    }
    (new.egid, new.fsgid) = (gid, gid);
    Ok(new)
}

/// setregid(2)
pub fn setregid(old: &Credentials, rgid: u32, egid: u32) -> Result<Credentials, Errno> {
    let mut new = old.clone();
    let capable = old.capable(Caps::SETGID);
    if rgid != KEEP {
        if rgid != old.gid && rgid != old.egid && !capable {
            return Err(Errno::EPERM);
        }
        new.gid = rgid;
    }
    if egid != KEEP {
        if ![old.gid, old.egid, old.sgid].contains(&egid) && !capable {
            return Err(Errno::EPERM);
        }
        new.egid = egid;
    }
    if rgid != KEEP || (egid != KEEP && egid != old.gid) {
        new.sgid = new.egid;
    }
    new.fsgid = new.egid;
    Ok(new)
}

/// setresgid(2)
pub fn setresgid(old: &Credentials, rgid: u32, egid: u32, sgid: u32) -> Result<Credentials, Errno> {
    let known = |id: u32| id == KEEP || [old.gid, old.egid, old.sgid].contains(&id);
    let all_known = known(rgid) && known(egid) && known(sgid);
    if !all_known && !old.capable(Caps::SETGID) {
        return Err(Errno::EPERM);
    }
    let mut new = old.clone();
    let pick = |id: u32, now: u32| if id == KEEP { now } else { id };
    new.gid = pick(rgid, old.gid);
    new.egid = pick(egid, old.egid);
    new.sgid = pick(sgid, old.sgid);
    new.fsgid = new.egid;
    Ok(new)
}

/// setfsgid(2): `None` leaves all as it is.
pub fn setfsgid(old: &Credentials, gid: u32) -> Option<Credentials> {
    let allowed =
        [old.gid, old.egid, old.sgid, old.fsgid].contains(&gid) || old.capable(Caps::SETGID);
    if gid == KEEP || !allowed || gid == old.fsgid {
        return None;
    }
    let mut new = old.clone();
    new.fsgid = gid;
    Some(new)
}

/// capset(2)
pub fn capset(
    old: &Credentials,
    effective: Caps,
    permitted: Caps,
    inheritable: Caps,
) -> Result<Credentials, Errno> {
    let limited = !old.capable(Caps::SETPCAP);
    if (limited && !(old.inheritable | old.permitted).contains(inheritable))
        || !(old.inheritable | old.bounding).contains(inheritable)
        || !old.permitted.contains(permitted)
        || !permitted.contains(effective)
    {
        return Err(Errno::EPERM);
    }
    let mut new = old.clone();
    new.effective = effective;
    new.permitted = permitted;
    new.inheritable = inheritable;
    new.ambient &= permitted & inheritable;
    Ok(new)
}

/// `PR_SET_SECUREBITS`
pub fn set_securebits(old: &Credentials, bits: u64) -> Result<Credentials, Errno> {
    let bits32 = u32::try_from(bits).map_err(|_| Errno::EPERM)?;
    let locked = (old.securebits & securebits::ALL_LOCKS) >> 1;
    let changes = old.securebits ^ bits32;
    if locked & changes != 0
        || old.securebits & securebits::ALL_LOCKS & !bits32 != 0
        || bits32 & !(securebits::ALL_LOCKS | securebits::ALL_BITS) != 0
        || !old.capable(Caps::SETPCAP)
    {
        return Err(Errno::EPERM);
    }
    let mut new = old.clone();
    new.securebits = bits32;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_drops_and_users_cannot_come_back() {
        let root = Credentials::new(0, 0, &[], Caps::all());
        let user = setuid(&root, 1000).unwrap();
        assert_eq!((user.uid, user.euid, user.suid, user.fsuid), (1000, 1000, 1000, 1000));
        assert!(user.permitted.is_empty() && user.effective.is_empty());
        assert_eq!(setuid(&user, 0), Err(Errno::EPERM));
        assert_eq!(setuid(&user, KEEP), Err(Errno::EINVAL));
        // Only the effective id: the way back stays open.
        let temporary = setresuid(&root, KEEP, 1000, KEEP).unwrap();
        assert!(temporary.effective.is_empty() && temporary.permitted == Caps::all());
        let back = setresuid(&temporary, KEEP, 0, KEEP).unwrap();
        assert_eq!(back.effective, Caps::all());
    }

    #[test]
    fn keepcaps_and_fixup() {
        let mut root = Credentials::new(0, 0, &[], Caps::all());
        root.securebits = securebits::KEEP_CAPS;
        let user = setuid(&root, 5).unwrap();
        assert_eq!((user.permitted, user.effective), (Caps::all(), Caps::empty()));
        let fs = setfsuid(&Credentials::new(0, 0, &[], Caps::all()), 5).unwrap();
        assert!(!fs.effective.contains(Caps::CHOWN) && fs.effective.contains(Caps::KILL));
    }

    #[test]
    fn setreuid_moves_the_saved_id() {
        let mut cred = Credentials::new(1, 1, &[], Caps::empty());
        (cred.euid, cred.suid) = (2, 2);
        let swapped = setreuid(&cred, 2, 1).unwrap();
        assert_eq!((swapped.uid, swapped.euid, swapped.suid), (2, 1, 1));
        assert_eq!(setreuid(&cred, 7, KEEP), Err(Errno::EPERM));
    }

    #[test]
    fn capset_only_takes_away() {
        let root = Credentials::new(0, 0, &[], Caps::all());
        let less = capset(&root, Caps::KILL, Caps::KILL | Caps::CHOWN, Caps::KILL).unwrap();
        assert_eq!(capset(&less, Caps::KILL, Caps::all(), Caps::empty()), Err(Errno::EPERM));
        assert_eq!(capset(&less, Caps::SETUID, Caps::KILL, Caps::empty()), Err(Errno::EPERM));
        assert!(capset(&less, Caps::CHOWN, Caps::CHOWN, Caps::empty()).is_ok());
    }
}
