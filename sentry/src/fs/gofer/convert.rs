//! Between the VFS's and the gofer's ways to say the same.

use gofer::wire::request::{Changes, Owner};
use gofer::wire::types as wire;

use crate::kernel::time::shown_time;
use crate::vfs::attr::SetTime;
use crate::vfs::{FileType, SetAttr, Timespec};

pub(super) fn file_type(kind: wire::FileKind) -> FileType {
    match kind {
        wire::FileKind::Regular => FileType::Regular,
        wire::FileKind::Directory => FileType::Directory,
        wire::FileKind::Symlink => FileType::Symlink,
        wire::FileKind::Fifo => FileType::Fifo,
        wire::FileKind::Socket => FileType::Socket,
        wire::FileKind::CharDevice => FileType::CharDevice,
        wire::FileKind::BlockDevice => FileType::BlockDevice,
    }
}

pub(super) fn time(t: wire::Timestamp) -> Timespec {
    shown_time(Timespec { sec: t.sec, nsec: t.nsec })
}

pub(super) fn changes(c: &SetAttr) -> Changes {
    let time = |t: SetTime| match t {
        SetTime::Now => wire::SetTime::Now,
        SetTime::At(t) => wire::SetTime::To(wire::Timestamp { sec: t.sec, nsec: t.nsec }),
    };
    Changes {
        mode: c.mode,
        owner: Owner { uid: c.uid, gid: c.gid },
        size: c.size,
        atime: c.atime.map(time),
        mtime: c.mtime.map(time),
    }
}
