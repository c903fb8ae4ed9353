//! Who may do what with a file: discretionary access control (`generic_permission` of
//! fs/namei.c), with capabilities as capabilities(7) has them.

use std::sync::Arc;

use abi::Errno;
use bitflags::bitflags;

use super::{Attr, FileType, Inode};
use crate::kernel::{Caps, Credentials};

bitflags! {
    /// The kinds of access.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Access: u32 {
        /// Execute a file, search a directory.
        const EXEC = 1;
        /// Write.
        const WRITE = 2;
        /// Read.
        const READ = 4;
    }
}

/// Whether `cred` may access a file with these attributes; `EACCES` if not.
pub fn check_attr(cred: &Credentials, attr: &Attr, access: Access) -> Result<(), Errno> {
    let shift = if cred.fsuid == attr.uid {
        6
    } else if cred.in_group(attr.gid) {
        3
    } else {
        0
    };
    if access.bits() & !(attr.mode >> shift) & 7 == 0 {
        return Ok(());
    }
    let is_dir = attr.file_type() == FileType::Directory;
    let search_only = if is_dir { !access.contains(Access::WRITE) } else { access == Access::READ };
    if search_only && cred.capable(Caps::DAC_READ_SEARCH) {
        return Ok(());
    }
    let executable = is_dir || !access.contains(Access::EXEC) || attr.mode & 0o111 != 0;
    if executable && cred.capable(Caps::DAC_OVERRIDE) {
        return Ok(());
    }
    Err(Errno::EACCES)
}

/// As [`check_attr`], for an inode.
pub fn check(cred: &Credentials, inode: &Arc<dyn Inode>, access: Access) -> Result<(), Errno> {
    check_attr(cred, &inode.access_attr()?, access)
}

/// Whether `cred` owns the file or may act as its owner (`inode_owner_or_capable`).
pub fn owner_or_capable(cred: &Credentials, attr: &Attr) -> bool {
    cred.fsuid == attr.uid || cred.capable(Caps::FOWNER)
}

/// Whether the sticky bit of a directory keeps `cred` from removing or renaming `victim`.
pub fn sticky_forbids(cred: &Credentials, dir: &Attr, victim: &Attr) -> bool {
    dir.mode & libc::S_ISVTX != 0
        && cred.fsuid != victim.uid
        && cred.fsuid != dir.uid
        && !cred.capable(Caps::FOWNER)
}

/// The credentials that access(2) judges by: the real ids, and the capabilities that go with them.
pub fn real_ids(cred: &Credentials) -> Credentials {
    const SECBIT_NO_SETUID_FIXUP: u32 = 1 << 2;
    let mut real = cred.clone();
    real.fsuid = cred.uid;
    real.fsgid = cred.gid;
    if cred.securebits & SECBIT_NO_SETUID_FIXUP == 0 {
        real.effective = if cred.uid == 0 { cred.permitted } else { Caps::empty() };
    }
    real
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::Timespec;

    fn attr(mode: u32) -> Attr {
        let t = Timespec::default();
        Attr {
            dev: 1,
            ino: 1,
            mode,
            nlink: 1,
            uid: 10,
            gid: 20,
            rdev: 0,
            size: 0,
            blksize: 4096,
            blocks: 0,
            atime: t,
            mtime: t,
            ctime: t,
            btime: None,
        }
    }

    #[test]
    fn the_first_matching_class_decides() {
        let file = attr(libc::S_IFREG | 0o074);
        let owner = Credentials::new(10, 20, &[], Caps::empty());
        let member = Credentials::new(11, 1, &[20], Caps::empty());
        let other = Credentials::new(11, 1, &[], Caps::empty());
        assert_eq!(check_attr(&owner, &file, Access::READ), Err(Errno::EACCES));
        assert_eq!(check_attr(&member, &file, Access::READ | Access::EXEC), Ok(()));
        assert_eq!(check_attr(&other, &file, Access::READ), Ok(()));
        assert_eq!(check_attr(&other, &file, Access::WRITE), Err(Errno::EACCES));
    }

    #[test]
    fn capabilities_override_but_not_execution() {
        let root = Credentials::new(0, 0, &[], Caps::all());
        let searcher = Credentials::new(0, 0, &[], Caps::DAC_READ_SEARCH);
        let file = attr(libc::S_IFREG);
        let dir = attr(libc::S_IFDIR);
        assert_eq!(check_attr(&root, &file, Access::READ | Access::WRITE), Ok(()));
        assert_eq!(check_attr(&root, &file, Access::EXEC), Err(Errno::EACCES));
        assert_eq!(check_attr(&root, &dir, Access::all()), Ok(()));
        assert_eq!(check_attr(&searcher, &dir, Access::READ | Access::EXEC), Ok(()));
        assert_eq!(check_attr(&searcher, &dir, Access::WRITE), Err(Errno::EACCES));
        assert_eq!(check_attr(&searcher, &file, Access::READ), Ok(()));
    }

    #[test]
    fn sticky_directories() {
        let dir = attr(libc::S_IFDIR | 0o1777);
        let mut victim = attr(libc::S_IFREG);
        victim.uid = 30;
        let who = |uid| Credentials::new(uid, 1, &[], Caps::empty());
        assert!(sticky_forbids(&who(11), &dir, &victim));
        assert!(!sticky_forbids(&who(10), &dir, &victim));
        assert!(!sticky_forbids(&who(30), &dir, &victim));
    }
}
