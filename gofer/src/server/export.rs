//! Exports: the trees and files that a gofer serves.

use std::os::fd::{AsFd, OwnedFd};

use abi::Errno;

use crate::sys;
use crate::wire::types::{Attr, ExportFlags, FileKind};

use super::filter::{Compiled, Filter};

/// One tree or file to serve, opened by whoever sets the gofer up, before it locks itself down.
#[derive(Debug)]
pub struct Export {
    /// A directory: any descriptor of it, `O_PATH` is enough. A single file: a descriptor opened
    /// for what clients may do with it (`O_RDONLY`, or `O_RDWR` unless read-only), because an
    /// `O_PATH` descriptor of a file cannot be reopened without procfs. All opens of such a file
    /// share this one description; the Sentry reads and writes at explicit offsets.
    pub root: OwnedFd,
    /// What the client is told it is: by convention the guest's mount point. At most
    /// 255 bytes.
    pub tag: Vec<u8>,
    /// What it allows. `SINGLE_FILE` is set by the server itself.
    pub flags: ExportFlags,
    /// What it hides.
    pub filter: Filter,
}

/// An export in service.
pub(super) struct ExportState {
    pub(super) root: OwnedFd,
    pub(super) tag: Vec<u8>,
    pub(super) flags: ExportFlags,
    pub(super) filter: Compiled,
    pub(super) attr: Attr,
}

impl ExportState {
    /// Checks the root and prepares the filter. `EACCES` if it is a device, a FIFO, a socket or a
    /// part of a kernel interface such as procfs.
    pub(super) fn new(export: Export) -> Result<ExportState, Errno> {
        let attr = sys::stat(export.root.as_fd())?;
        let mut flags = export.flags;
        flags.remove(ExportFlags::SINGLE_FILE);
        let filter = match attr.kind() {
            FileKind::Directory => Compiled::new(export.filter, export.root.as_fd()),
            FileKind::Regular => {
                flags.insert(ExportFlags::SINGLE_FILE);
                Compiled::default()
            }
            _ => return Err(Errno::EACCES),
        };
        if is_kernel_interface(sys::stat_fs(export.root.as_fd())?.fs_type) {
            return Err(Errno::EACCES);
        }
        Ok(ExportState { root: export.root, tag: export.tag, flags, filter, attr })
    }
}

/// File systems whose files act on the host's kernel. They are never served, not even where a
/// mount of one lies inside an export: reading or writing there is a system call by another name,
/// and procfs has links that lead anywhere. Numbers from `linux/magic.h`.
pub(super) fn is_kernel_interface(fs_type: u64) -> bool {
    matches!(
        fs_type,
        0x9fa0 // proc
            | 0x6265_6572 // sysfs
            | 0x0027_e0eb // cgroup
            | 0x6367_7270 // cgroup2
            | 0x6462_6720 // debugfs
            | 0x7472_6163 // tracefs
            | 0x6265_6570 // configfs
            | 0x7363_6673 // securityfs
            | 0xf97c_ff8c // selinuxfs
            | 0x4341_5d53 // smackfs
            | 0x5a3c_69f0 // apparmorfs
            | 0xcafe_4a11 // bpf
            | 0xde5e_81e4 // efivarfs
            | 0x4249_4e4d // binfmt_misc
            | 0x1980_0202 // mqueue
            | 0x1cd1 // devpts
            | 0x0187 // autofs
            | 0x6573_5543 // fusectl
            | 0x6e73_6673 // nsfs
            | 0x6165_676c // pstore
    )
}
