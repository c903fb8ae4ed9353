//! How execve(2) changes credentials (capabilities(7), `security/commoncap.c`:
//! `cap_bprm_creds_from_file`). Pure: the same in, the same out.

use abi::Errno;

use super::{Caps, Credentials};

/// The securebits (capabilities(7)).
#[allow(missing_docs)]
pub mod securebits {
    pub const NOROOT: u32 = 1;
    pub const NOROOT_LOCKED: u32 = 1 << 1;
    pub const NO_SETUID_FIXUP: u32 = 1 << 2;
    pub const KEEP_CAPS: u32 = 1 << 4;
    pub const KEEP_CAPS_LOCKED: u32 = 1 << 5;
    pub const NO_CAP_AMBIENT_RAISE: u32 = 1 << 6;
    pub const ALL_BITS: u32 = 0x55;
    pub const ALL_LOCKS: u32 = 0xaa;
}

/// Capabilities of a file (`security.capability`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileCaps {
    /// Given, as far as the bounding set lets it.
    pub permitted: Caps,
    /// Given to who has them inheritable.
    pub inheritable: Caps,
    /// What is given is effective at once.
    pub effective: bool,
}

impl FileCaps {
    /// Parses the attribute's value. `EINVAL` for what Linux does not understand, `ENODATA` for
    /// another user namespace's capabilities.
    pub fn parse(value: &[u8]) -> Result<FileCaps, Errno> {
        const REVISION_1: u32 = 0x0100_0000;
        const REVISION_2: u32 = 0x0200_0000;
        const REVISION_3: u32 = 0x0300_0000;
        let word = |n: usize| {
            let bytes = value.get(n * 4..n * 4 + 4).and_then(|b| b.try_into().ok());
            bytes.map(u32::from_le_bytes).ok_or(Errno::EINVAL)
        };
        let magic = word(0)?;
        let (words, len) = match magic & 0xff00_0000 {
            REVISION_1 => (1, 12),
            REVISION_2 => (2, 20),
            REVISION_3 => (2, 24),
            _ => return Err(Errno::EINVAL),
        };
        if value.len() != len {
            return Err(Errno::EINVAL);
        }
        if len == 24 && word(5)? != 0 {
            return Err(Errno::ENODATA);
        }
        let mut caps = FileCaps { effective: magic & 1 != 0, ..FileCaps::default() };
        for n in 0..words {
            let shift = 32 * n;
            caps.permitted |= Caps::from_bits_truncate((word(1 + 2 * n)? as u64) << shift);
            caps.inheritable |= Caps::from_bits_truncate((word(2 + 2 * n)? as u64) << shift);
        }
        Ok(caps)
    }
}

/// What of a program file counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileRights {
    /// The owner, if the set-user-ID bit holds.
    pub setuid: Option<u32>,
    /// The group, if the set-group-ID bit holds.
    pub setgid: Option<u32>,
    /// The capabilities, if it has any that hold.
    pub caps: Option<FileCaps>,
}

/// What comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecCredentials {
    /// The new credentials.
    pub cred: Credentials,
    /// `AT_SECURE`
    pub secure: bool,
    /// `PER_CLEAR_ON_SETID` applies.
    pub clear_personality: bool,
}

/// The credentials of a program. `shared`: another process shares the caller's root and directory,
/// so that it must not gain rights. `EPERM` if the file's capabilities cannot be given.
pub fn transition(
    old: &Credentials,
    file: &FileRights,
    shared: bool,
) -> Result<ExecCredentials, Errno> {
    let mut new = old.clone();
    let mut clear_personality = false;
    if !old.no_new_privs {
        if let Some(uid) = file.setuid {
            new.euid = uid;
            clear_personality = true;
        }
        if let Some(gid) = file.setgid {
            new.egid = gid;
            clear_personality = true;
        }
    }

    let mut effective = false;
    let mut has_caps = false;
    new.permitted = Caps::empty();
    if let Some(caps) = file.caps {
        has_caps = true;
        effective = caps.effective;
        new.permitted = (new.bounding & caps.permitted) | (new.inheritable & caps.inheritable);
        if effective && !new.permitted.contains(caps.permitted) {
            return Err(Errno::EPERM);
        }
    }
    let setuid_root = new.uid != 0 && new.euid == 0;
    if old.securebits & securebits::NOROOT == 0 && !(has_caps && setuid_root) {
        if new.euid == 0 || new.uid == 0 {
            new.permitted = old.bounding | old.inheritable;
        }
        effective |= new.euid == 0;
    }

    let gained = !old.permitted.contains(new.permitted);
    clear_personality |= gained;
    let is_setid = new.euid != old.uid || new.egid != old.gid;
    if (is_setid || gained) && (shared || old.no_new_privs) {
        if !old.capable(Caps::SETUID) || old.no_new_privs {
            new.euid = new.uid;
            new.egid = new.gid;
        }
        new.permitted &= old.permitted;
    }
    new.suid = new.euid;
    new.fsuid = new.euid;
    new.sgid = new.egid;
    new.fsgid = new.egid;
    if has_caps || is_setid {
        new.ambient = Caps::empty();
    }
    new.permitted |= new.ambient;
    new.effective = if effective { new.permitted } else { new.ambient };
    new.securebits &= !securebits::KEEP_CAPS;
    let grew = !new.ambient.contains(new.permitted);
    let secure = is_setid || (new.uid != 0 && (effective || grew));
    Ok(ExecCredentials { cred: new, secure, clear_personality })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The formulas of capabilities(7), "Transformation of capabilities during execve()", for what
    /// they cover: no securebits, no `no_new_privs`, nothing shared.
    fn manual(old: &Credentials, file: &FileRights) -> Option<(Caps, Caps, Caps)> {
        let euid = file.setuid.unwrap_or(old.euid);
        let root_real = old.uid == 0;
        let root_effective = euid == 0;
        let exempt = file.caps.is_some() && !root_real && root_effective;
        let (mut f_permitted, mut f_inheritable, mut f_effective) = match file.caps {
            Some(c) => (c.permitted, c.inheritable, c.effective),
            None => (Caps::empty(), Caps::empty(), false),
        };
        // A capability-dumb program must get all of them.
        if f_effective
            && !((f_permitted & old.bounding) | (old.inheritable & f_inheritable))
                .contains(f_permitted)
        {
            return None;
        }
        if !exempt && (root_real || root_effective) {
            f_permitted = Caps::all();
            f_inheritable = Caps::all();
        }
        if !exempt && root_effective {
            f_effective = true;
        }
        let egid = file.setgid.unwrap_or(old.egid);
        let privileged = file.caps.is_some() || euid != old.uid || egid != old.gid;
        let ambient = if privileged { Caps::empty() } else { old.ambient };
        let permitted = (old.inheritable & f_inheritable) | (f_permitted & old.bounding) | ambient;
        let effective = if f_effective { permitted } else { ambient };
        Some((permitted, effective, ambient))
    }

    fn caps() -> impl Strategy<Value = Caps> {
        (0u64..16).prop_map(Caps::from_bits_truncate)
    }

    prop_compose! {
        fn credentials()(uid in 0u32..3, euid in 0u32..3, gid in 0u32..2, egid in 0u32..2,
                         permitted in caps(), inheritable in caps(), bounding in caps(),
                         ambient in caps()) -> Credentials {
            let mut cred = Credentials::new(uid, gid, &[], bounding);
            (cred.euid, cred.egid) = (euid, egid);
            cred.permitted = permitted;
            cred.effective = permitted;
            cred.inheritable = inheritable;
            cred.ambient = ambient & permitted & inheritable;
            cred
        }
    }

    prop_compose! {
        fn rights()(setuid in proptest::option::of(0u32..3), setgid in proptest::option::of(0u32..2),
                    has in any::<bool>(), permitted in caps(), inheritable in caps(),
                    effective in any::<bool>()) -> FileRights {
            let caps = has.then_some(FileCaps { permitted, inheritable, effective });
            FileRights { setuid, setgid, caps }
        }
    }

    proptest! {
        #[test]
        fn as_the_manual_says(old in credentials(), file in rights()) {
            let new = transition(&old, &file, false);
            match manual(&old, &file) {
                None => prop_assert_eq!(new, Err(Errno::EPERM)),
                Some((permitted, effective, ambient)) => {
                    let new = new.unwrap().cred;
                    prop_assert_eq!(new.permitted, permitted);
                    prop_assert_eq!(new.effective, effective);
                    prop_assert_eq!(new.ambient, ambient);
                    prop_assert_eq!(new.bounding, old.bounding);
                    prop_assert_eq!(new.suid, new.euid);
                }
            }
        }

        #[test]
        fn no_new_privs_gains_nothing(mut old in credentials(), file in rights()) {
            old.no_new_privs = true;
            if let Ok(new) = transition(&old, &file, false) {
                prop_assert!(old.permitted.contains(new.cred.permitted));
                prop_assert!([old.euid, old.uid].contains(&new.cred.euid));
            }
        }

        #[test]
        fn any_attribute_is_safe(value in proptest::collection::vec(any::<u8>(), 0..32)) {
            let _ = FileCaps::parse(&value);
        }
    }

    #[test]
    fn attributes_parse() {
        let mut value = vec![1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        let caps = FileCaps::parse(&value).unwrap();
        assert_eq!(caps.permitted, Caps::NET_RAW | Caps::MAC_OVERRIDE);
        assert!(caps.effective && caps.inheritable.is_empty());
        value[3] = 3;
        value.extend([1, 0, 0, 0]);
        assert_eq!(FileCaps::parse(&value), Err(Errno::ENODATA));
        assert_eq!(FileCaps::parse(&value[..20]), Err(Errno::EINVAL));
    }
}
