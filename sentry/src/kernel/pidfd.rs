//! pidfds: files that stand for a process (pidfd_open(2)).

use std::any::Any;
use std::sync::Arc;

use abi::Errno;

use super::{Current, Events, ThreadGroup, WaitQueue};
use crate::fs::anon::{self, AnonKind};
use crate::fs::pseudo;
use crate::vfs::{FileDescription, FileOps, OpenFlags};

/// What a pidfd refers to.
pub struct Pidfd {
    group: Arc<ThreadGroup>,
}

impl Pidfd {
    /// The process.
    pub fn group(&self) -> &Arc<ThreadGroup> {
        &self.group
    }
}

impl FileOps for Pidfd {
    fn seekable(&self) -> bool {
        false
    }
    fn poll(&self) -> Events {
        if self.group.is_zombie() { Events::IN | Events::RDNORM } else { Events::empty() }
    }
    fn wait_queue(&self) -> Option<WaitQueue> {
        Some(self.group.exit_wait.clone())
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Makes a pidfd for a process. `ENFILE`.
pub fn new_file(
    cur: &Current,
    group: &Arc<ThreadGroup>,
    nonblocking: bool,
) -> Result<Arc<FileDescription>, Errno> {
    let mut flags = OpenFlags::from_bits_retain(libc::O_RDWR as u32);
    if nonblocking {
        flags |= OpenFlags::NONBLOCK;
    }
    let ops = Box::new(Pidfd { group: group.clone() });
    anon::new_file(cur.cred(), AnonKind::Inode("[pidfd]"), ops, flags)
}

/// The process that pidfd_send_signal(2) means: behind a pidfd, or that of an open `/proc/PID`.
/// `EBADF` for another file.
pub fn to_signal(cur: &Current, fd: i32) -> Result<Arc<ThreadGroup>, Errno> {
    let file = cur.files.get(fd)?;
    if let Some(pidfd) = file.downcast::<Pidfd>() {
        return Ok(pidfd.group.clone());
    }
    if file.flags().contains(OpenFlags::PATH) {
        return Err(Errno::EBADF);
    }
    pseudo::process_of(file.ops())
}

/// The process behind a pidfd, and whether it is non-blocking. `EBADF` for another file.
pub fn get(cur: &Current, fd: i32) -> Result<(Arc<ThreadGroup>, bool), Errno> {
    let file = cur.files.get(fd)?;
    let pidfd = file.downcast::<Pidfd>().ok_or(Errno::EBADF)?;
    Ok((pidfd.group.clone(), file.nonblocking()))
}
