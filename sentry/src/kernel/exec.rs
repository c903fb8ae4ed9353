//! execve(2): a new program for the process (`fs/exec.c`).
//!
//! Everything that can fail is done before the old program is given up, but for what Linux finds
//! out later itself (`LoadError::Fatal`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::Errno;

use super::cred_exec::{self, ExecCredentials, FileCaps, FileRights};
use super::{Credentials, Current, Events, Task, exit};
use crate::loader::{self, ExecFile, Identity, LoadError, Opener, Personality, Strings};
use crate::mm::FileMapping;
use crate::rarely::Rarely;
use crate::syscalls::mm as mm_calls;
use crate::vfs::namei::LookupFlags;
use crate::vfs::perm::{self, Access};
use crate::vfs::{FileDescription, IoDst, MountFlags, open};

/// `ADDR_NO_RANDOMIZE`, `ADDR_COMPAT_LAYOUT` of personality(2).
const ADDR_NO_RANDOMIZE: u32 = 0x0004_0000;
const ADDR_COMPAT_LAYOUT: u32 = 0x0020_0000;
/// `READ_IMPLIES_EXEC`, `ADDR_NO_RANDOMIZE`, `ADDR_COMPAT_LAYOUT`, `MMAP_PAGE_ZERO`.
const PER_CLEAR_ON_SETID: u32 = 0x0040_0000 | ADDR_NO_RANDOMIZE | ADDR_COMPAT_LAYOUT | 0x0010_0000;

/// An open file as a program.
pub struct Program(pub Arc<FileDescription>);

impl ExecFile for Program {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        let mut dst = IoDst::kernel(buf);
        let mut done = 0;
        while dst.remaining() > 0 {
            match self.0.ops().read(&mut dst, offset.saturating_add(done as u64))? {
                0 => break,
                n => done += n,
            }
        }
        Ok(done)
    }
    fn mapping(&self) -> FileMapping {
        mm_calls::file_mapping(&self.0)
    }
    fn description(&self) -> Option<Arc<FileDescription>> {
        Some(self.0.clone())
    }
}

/// Opens programs as a task sees them.
pub struct TaskOpener<'a>(pub &'a Task);

impl Opener for TaskOpener<'_> {
    fn open_exec(&self, path: &[u8]) -> Result<Arc<dyn ExecFile>, Errno> {
        let file = open::open_exec(self.0, libc::AT_FDCWD, path, LookupFlags::FOLLOW)?;
        Ok(Arc::new(Program(file)))
    }
}

/// What execve and execveat ask for.
pub struct ExecRequest {
    /// The program, opened.
    pub file: Arc<FileDescription>,
    /// Its name: the path, or `/dev/fd/N`.
    pub name: Vec<u8>,
    /// What comm is made of: the path's last component.
    pub comm: Vec<u8>,
    /// The name will not work any more when the program runs.
    pub inaccessible: bool,
    /// Arguments and environment.
    pub args: Strings,
    /// The environment.
    pub env: Strings,
}

/// The set-ID bits and capabilities of a program that hold (`bprm_fill_uid`, `get_file_caps`).
fn file_rights(file: &FileDescription, cred: &Credentials) -> Result<FileRights, Errno> {
    let mut rights = FileRights::default();
    if file.path().mount.flags().contains(MountFlags::NOSUID) {
        return Ok(rights);
    }
    let inode = file.inode()?;
    let attr = inode.attr()?;
    if !cred.no_new_privs {
        if attr.mode & libc::S_ISUID != 0 {
            rights.setuid = Some(attr.uid);
        }
        let setgid = libc::S_ISGID | libc::S_IXGRP;
        if attr.mode & setgid == setgid {
            rights.setgid = Some(attr.gid);
        }
    }
    rights.caps = match inode.get_xattr(b"security.capability") {
        Ok(value) => match FileCaps::parse(&value) {
            Ok(caps) => Some(caps),
            Err(errno) => {
                if errno == Errno::EINVAL {
                    tracing::debug!("a program's capabilities make no sense and are ignored");
                }
                None
            }
        },
        Err(_) => None,
    };
    Ok(rights)
}

/// Runs a new program. On success the registers are the new program's; an error leaves the old one
/// as it was.
pub fn execve(cur: &mut Current, request: ExecRequest) -> Result<(), Errno> {
    let cred = cur.cred();
    if cur.over_nproc() {
        return Err(Errno::EAGAIN);
    }
    let limits = mm_calls::limits(cur);
    let prepared = loader::prepare(
        &TaskOpener(&cur.task),
        Arc::new(Program(request.file)),
        &request.name,
        request.inaccessible,
        request.args,
        request.env,
        limits.stack,
    )?;
    let file = prepared.file.description().ok_or(Errno::EACCES)?;
    let rights = file_rights(&file, &cred)?;
    let new = cred_exec::transition(&cred, &rights, cur.shares_fs())?;
    let identity = Identity {
        uid: new.cred.uid,
        euid: new.cred.euid,
        gid: new.cred.gid,
        egid: new.cred.egid,
        secure: new.secure,
    };
    let persona = new_personality(cur.personality.load(Ordering::Relaxed), &new);
    let personality = Personality {
        no_randomize: persona & ADDR_NO_RANDOMIZE != 0,
        compat_layout: persona & ADDR_COMPAT_LAYOUT != 0,
    };
    let loaded = match prepared.load(cur.mm.context(), &limits, &identity, personality) {
        Ok(loaded) => loaded,
        Err(LoadError::Errno(errno)) => return Err(errno),
        Err(LoadError::Fatal(errno)) => {
            tracing::debug!(tid = cur.tid(), %errno, "execve failed past the point of no return");
            cur.group.begin_exit(libc::SIGSEGV as u32);
            return Err(errno);
        }
    };
    let guest = loaded.mm.address_space().clone().new_thread().map_err(|error| {
        static FAILED: Rarely = Rarely::new();
        if let Some(count) = FAILED.due() {
            tracing::warn!(%error, count, "no guest thread");
        }
        Errno::ENOMEM
    })?;
    become_only_thread(cur)?;
    // Another thread gave all of them a filter, after the program's rights were looked at: again, so
    // that no filter is put before a set-uid program that way.
    if cur.cred().no_new_privs != cred.no_new_privs {
        return Err(Errno::ERESTARTNOINTR);
    }

    // The old program is gone from here on.
    let readable = perm::check(&cred, &file.inode()?, Access::READ).is_ok();
    cur.unshare_files()?;
    exit::release_memory(&cur.task, &cur.mm);
    cur.replace_memory(loaded.mm, guest, loaded.registers);
    // What children of fork start from: too dear to ask the host for at each exit.
    cur.group.note_rss(cur.mm.memory_use().rss() / 1024);
    finish(cur, &request.comm, new, persona, readable);
    Ok(())
}

fn new_personality(persona: u32, new: &ExecCredentials) -> u32 {
    if new.clear_personality { persona & !PER_CLEAR_ON_SETID } else { persona }
}

/// Everything that starts anew with a program (`begin_new_exec`, `setup_new_exec`).
fn finish(cur: &mut Current, comm: &[u8], new: ExecCredentials, persona: u32, readable: bool) {
    let group = cur.group.clone();
    drop(cur.files.remove_if(|_, cloexec| cloexec));

    let sighand = group.sighand();
    // The group's own reference, and this one.
    if Arc::strong_count(&sighand) > 2 {
        group.set_sighand(sighand.fork(false));
    }
    group.sighand().reset();
    group.timers.delete_all();
    cur.clear_altstack();
    cur.task.set_comm(comm);
    cur.personality.store(persona, Ordering::Relaxed);

    let old = cur.cred();
    if new.secure {
        cur.pdeath_signal.store(0, Ordering::Relaxed);
    }
    let changed = old.euid != new.cred.euid
        || old.egid != new.cred.egid
        || !old.permitted.contains(new.cred.permitted);
    if changed {
        cur.pdeath_signal.store(0, Ordering::Relaxed);
    }
    let same = new.cred.euid == new.cred.uid && new.cred.egid == new.cred.gid;
    group.set_dumpable(i32::from(readable && same && !changed));
    if new.cred != *old {
        cur.task.set_cred(Arc::new(new.cred));
    }
    group.did_exec.store(true, Ordering::Relaxed);
    group.exec_id.fetch_add(1, Ordering::Relaxed);
    let _family = cur.kernel.tasks.family();
    group.family().exit_signal = libc::SIGCHLD;
}

/// Ends all other threads, and takes over the leader's number (`de_thread`). `EAGAIN` if the process
/// is ending or another thread is in execve.
fn become_only_thread(cur: &mut Current) -> Result<(), Errno> {
    let task = cur.task.clone();
    let group = task.group.clone();
    {
        let mut signals = group.signals.lock();
        if signals.exiting || signals.exec_tid.is_some() {
            return Err(Errno::EAGAIN);
        }
        if group.thread_count() == 1 && task.is_leader() {
            return Ok(());
        }
        signals.exec_tid = Some(task.tid());
        signals.stop_count = 0;
        group.kill_threads(Some(&task));
    }
    let registration = group.exit_wait.register(Events::IN, task.sleeper.clone());
    let waited = task.block_killable(|| group.thread_count() == 1);
    drop(registration);
    let _family = task.kernel.tasks.family();
    let mut signals = group.signals.lock();
    signals.exec_tid = None;
    if waited.is_err() {
        return Err(Errno::EAGAIN);
    }
    if !task.is_leader() {
        let old = task.tid();
        // The old leader is a zombie, which nobody has waited for: its place goes to us.
        drop(task.kernel.tasks.renumber(&task, group.tgid));
        group.set_leader(&task);
        *group.leader_status.lock() = None;
        drop(signals);
        for child in group.children() {
            let mut family = child.family();
            if family.parent_tid == old {
                family.parent_tid = group.tgid;
            }
        }
    }
    Ok(())
}
