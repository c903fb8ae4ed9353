//! Files that show a task's memory: `cmdline`, `environ`, `auxv`, `mem`.

use std::any::Any;
use std::ops::Range;
use std::sync::{Arc, Weak};

use abi::Errno;

use super::task_dir::may_inspect;
use crate::fs::pseudo::Content;
use crate::kernel::Task;
use crate::mm::MemoryManager;
use crate::vfs::{FileOps, IoDst, IoSrc, OpenArgs};

/// The most of a range that is shown: arguments and environment are bounded at exec, but a program
/// may move the marks.
const SHOWN_MAX: u64 = 8 << 20;

fn range(mm: &MemoryManager, range: Range<u64>) -> Vec<u8> {
    let len = range.end.saturating_sub(range.start).min(SHOWN_MAX);
    let mut buf = vec![0; len as usize];
    let got = mm.read_remote(range.start, &mut buf, true);
    buf.truncate(got);
    buf
}

pub(super) fn cmdline(task: &Arc<Task>, _: &Task) -> Result<Vec<u8>, Errno> {
    let Some(mm) = task.mm() else { return Ok(Vec::new()) };
    let info = mm.exec_info();
    let mut text = range(&mm, info.arg.clone());
    // A program that overwrote the NUL at the end of its arguments (setproctitle) is shown up to
    // the first NUL, even if that is in the environment (fs/proc/base.c, get_mm_cmdline).
    if text.last().is_some_and(|&b| b != 0) {
        text.extend(range(&mm, info.arg.end..info.env.end.max(info.arg.end)));
        let end = text.iter().position(|&b| b == 0).map_or(text.len(), |at| at + 1);
        text.truncate(end);
    }
    Ok(text)
}

pub(super) fn environ(task: &Arc<Task>, _: &Task) -> Result<Vec<u8>, Errno> {
    Ok(task.mm().map(|mm| range(&mm, mm.exec_info().env)).unwrap_or_default())
}

pub(super) fn auxv(task: &Arc<Task>, _: &Task) -> Result<Vec<u8>, Errno> {
    let auxv = task.mm().map(|mm| mm.exec_info().auxv).unwrap_or_default();
    Ok(auxv.iter().flat_map(|&(k, v)| [k.to_ne_bytes(), v.to_ne_bytes()]).flatten().collect())
}

/// `/proc/PID/mem`
pub(super) struct Mem(pub(super) Weak<Task>);

impl Content for Mem {
    fn read(&self, _: &Task) -> Result<Vec<u8>, Errno> {
        Err(Errno::EIO)
    }

    fn open(&self, args: &OpenArgs<'_>) -> Result<Option<Box<dyn FileOps>>, Errno> {
        let task = self.0.upgrade().ok_or(Errno::ESRCH)?;
        if !may_inspect(args.task, &task) {
            return Err(Errno::EACCES);
        }
        Ok(Some(Box::new(OpenMem { mm: task.mm().map(|mm| Arc::downgrade(&mm)) })))
    }
}

struct OpenMem {
    mm: Option<Weak<MemoryManager>>,
}

/// Bytes that are copied at once.
const CHUNK: usize = 4096;

impl OpenMem {
    fn mm(&self) -> Option<Arc<MemoryManager>> {
        self.mm.as_ref().and_then(Weak::upgrade)
    }
}

impl FileOps for OpenMem {
    fn read(&self, dst: &mut IoDst<'_>, offset: u64) -> Result<usize, Errno> {
        let Some(mm) = self.mm() else { return Ok(0) };
        let mut buf = [0; CHUNK];
        let mut done = 0;
        while dst.remaining() > 0 {
            let want = dst.remaining().min(CHUNK);
            let got = mm.read_remote(offset.wrapping_add(done as u64), &mut buf[..want], true);
            if got == 0 {
                break;
            }
            done += dst.write(&buf[..got])?;
            if got < want {
                break;
            }
        }
        if done == 0 && dst.remaining() > 0 { Err(Errno::EIO) } else { Ok(done) }
    }

    fn write(&self, src: &mut IoSrc<'_>, offset: u64) -> Result<usize, Errno> {
        let Some(mm) = self.mm() else { return Ok(0) };
        let mut buf = [0; CHUNK];
        let mut done = 0;
        while src.remaining() > 0 {
            let want = src.remaining().min(CHUNK);
            let read = src.read(&mut buf[..want])?;
            let got = mm.write_remote(offset.wrapping_add(done as u64), &buf[..read], true);
            done += got;
            if got < read || read < want {
                src.unread(read - got.min(read));
                break;
            }
        }
        if done == 0 { Err(Errno::EIO) } else { Ok(done) }
    }

    fn seek(&self, current: u64, offset: i64, whence: i32) -> Option<Result<u64, Errno>> {
        // Addresses use all 64 bits: no end to seek from, no sign to check.
        Some(match whence {
            libc::SEEK_SET => Ok(offset as u64),
            libc::SEEK_CUR => Ok(current.wrapping_add_signed(offset)),
            _ => Err(Errno::EINVAL),
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
