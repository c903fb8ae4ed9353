//! User notification: a task's call waits until another one, which has the filter's listener,
//! decides it (seccomp_unotify(2)).
//!
//! A [`Notifier`] is what filter and listener share. The listener is a file, but all that it does goes
//! through the notifier's own methods.

use std::any::Any;
use std::sync::Arc;

use abi::Errno;
use parking_lot::Mutex;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::bpf::Data;
use super::filter::Filter;
use crate::fs::anon::{self, AnonKind};
use crate::kernel::cpu_clock::Mode as CpuMode;
use crate::kernel::{Credentials, Current, Events, Task, WaitQueue};
use crate::mm::random_bytes;
use crate::vfs::{FileDescription, FileOps, OpenFlags};

/// `struct seccomp_notif`
#[derive(Clone, Copy, IntoBytes, FromBytes, Immutable)]
#[repr(C)]
struct Notif {
    id: u64,
    pid: u32,
    flags: u32,
    data: Data,
}

/// `struct seccomp_notif_resp`
#[derive(Clone, Copy, FromBytes)]
#[repr(C)]
struct Resp {
    id: u64,
    val: i64,
    error: i32,
    flags: u32,
}

/// `struct seccomp_notif_addfd`
#[derive(Clone, Copy, FromBytes)]
#[repr(C)]
struct AddFd {
    id: u64,
    flags: u32,
    srcfd: u32,
    newfd: u32,
    newfd_flags: u32,
}

/// `struct seccomp_notif_sizes`: of [`Notif`], [`Resp`] and [`Data`].
pub const SIZES: [u16; 3] =
    [size_of::<Notif>() as u16, size_of::<Resp>() as u16, size_of::<Data>() as u16];
const _: () = assert!(size_of::<Notif>() == 80 && size_of::<Resp>() == 24);

const NOTIF_RECV: u32 = 0xc050_2100;
const NOTIF_SEND: u32 = 0xc018_2101;
const NOTIF_ID_VALID: u32 = 0x4008_2102;
/// As the first kernels with it had it.
const NOTIF_ID_VALID_WRONG_DIR: u32 = 0x8008_2102;
const NOTIF_SET_FLAGS: u32 = 0x4008_2104;
/// `SECCOMP_IOCTL_NOTIF_ADDFD` without direction and size, which may grow.
const NOTIF_ADDFD: u32 = 0x2103;
const ADDFD_SIZE: usize = size_of::<AddFd>();

/// `SECCOMP_USER_NOTIF_FLAG_CONTINUE`
const FLAG_CONTINUE: u32 = 1;
/// `SECCOMP_ADDFD_FLAG_SETFD`
const ADDFD_SETFD: u32 = 1;
/// `SECCOMP_ADDFD_FLAG_SEND`
const ADDFD_SEND: u32 = 2;
/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`: a hint for a scheduler, which is the host's here.
const SYNC_WAKE_UP: u64 = 1;

/// What was decided about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is made after all.
    Continue,
    /// A signal came first.
    Interrupted,
    /// It is not made; this is what `rax` holds then.
    Value(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody has received it.
    Init,
    /// Somebody has.
    Sent,
    /// Decided.
    Replied(Answer),
}

/// A call that waits.
struct Request {
    id: u64,
    task: Arc<Task>,
    data: Data,
    state: State,
}

struct Inner {
    /// There is a listener.
    listening: bool,
    /// No task has the filter any more.
    orphaned: bool,
    next_id: u64,
    /// Notifications that nobody came for; some may have gone again since.
    fresh: u32,
    requests: Vec<Request>,
}

impl Inner {
    fn find(&mut self, id: u64) -> Option<&mut Request> {
        self.requests.iter_mut().find(|r| r.id == id)
    }

    /// The request that can be answered now. `ENOENT`, `EINPROGRESS` before it was received and after
    /// it was answered.
    fn sent(&mut self, id: u64) -> Result<&mut Request, Errno> {
        let request = self.find(id).ok_or(Errno::ENOENT)?;
        if request.state == State::Sent { Ok(request) } else { Err(Errno::EINPROGRESS) }
    }
}

/// What a filter and its listener share (`struct notification`).
pub struct Notifier {
    inner: Mutex<Inner>,
    queue: WaitQueue,
}

impl std::fmt::Debug for Notifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notifier").finish_non_exhaustive()
    }
}

/// The result of a call that nobody is there to decide.
const NOBODY: Answer = Answer::Value(Errno::ENOSYS.as_return() as u64);

impl Notifier {
    fn new() -> Arc<Notifier> {
        let mut id = [0; 8];
        random_bytes(&mut id);
        Arc::new(Notifier {
            inner: Mutex::new(Inner {
                listening: true,
                orphaned: false,
                next_id: u64::from_ne_bytes(id),
                fresh: 0,
                requests: Vec::new(),
            }),
            queue: WaitQueue::new(),
        })
    }

    /// The filter is gone: no more notifications.
    pub(super) fn orphan(&self) {
        self.inner.lock().orphaned = true;
        self.queue.wake(Events::HUP);
    }

    /// Puts a call on the list. `None` without a listener.
    fn submit(&self, task: &Arc<Task>, data: Data) -> Option<u64> {
        let mut inner = self.inner.lock();
        if !inner.listening {
            return None;
        }
        let id = inner.next_id;
        inner.next_id = id.wrapping_add(1);
        inner.fresh = inner.fresh.saturating_add(1);
        inner.requests.push(Request { id, task: task.clone(), data, state: State::Init });
        drop(inner);
        self.queue.wake(Events::IN | Events::RDNORM);
        Some(id)
    }

    /// Whether the call is decided, or with `interrupted` given up; then it is off the list. The
    /// other value is whether it has been received.
    fn conclude(&self, id: u64, interrupted: impl Fn(bool) -> bool) -> Option<Answer> {
        let mut inner = self.inner.lock();
        let at = inner.requests.iter().position(|r| r.id == id);
        // Only its own task takes it off.
        let Some(at) = at else { return Some(NOBODY) };
        let state = inner.requests.get(at).map_or(State::Init, |r| r.state);
        let answer = match state {
            State::Replied(answer) => answer,
            state if interrupted(state == State::Sent) => Answer::Interrupted,
            _ => return None,
        };
        let request = inner.requests.remove(at);
        drop(inner);
        drop(request);
        Some(answer)
    }

    /// `SECCOMP_IOCTL_NOTIF_RECV`
    fn receive(&self, cur: &Current, at: u64) -> Result<(), Errno> {
        let given: [u8; size_of::<Notif>()] = cur.mm.read_obj(at)?;
        if given.iter().any(|byte| *byte != 0) {
            return Err(Errno::EINVAL);
        }
        self.wait(cur)?;
        let notif = {
            let mut inner = self.inner.lock();
            let request = inner.requests.iter_mut().find(|r| r.state == State::Init);
            // Its task was killed in between.
            let request = request.ok_or(Errno::ENOENT)?;
            request.state = State::Sent;
            let pid = request.task.tid() as u32;
            Notif { id: request.id, pid, flags: 0, data: request.data }
        };
        self.queue.wake(Events::OUT | Events::WRNORM);
        cur.mm.write_obj(at, &notif).inspect_err(|_| self.give_back(notif.id))
    }

    /// Sleeps until there is a notification, or cannot be any more. `ERESTARTSYS`.
    fn wait(&self, cur: &Current) -> Result<(), Errno> {
        let ready = || {
            let mut inner = self.inner.lock();
            let taken = inner.fresh > 0;
            inner.fresh = inner.fresh.saturating_sub(1);
            taken || inner.orphaned
        };
        if ready() {
            return Ok(());
        }
        let _registration = self.queue.register(Events::IN, cur.sleeper.clone());
        while !ready() {
            cur.block(None)?;
        }
        Ok(())
    }

    /// A notification that could not be handed over is one that nobody received.
    fn give_back(&self, id: u64) {
        let mut inner = self.inner.lock();
        let Some(request) = inner.find(id) else { return };
        request.state = State::Init;
        // It may have stopped to listen to signals.
        request.task.sleeper.unpark();
        inner.fresh = inner.fresh.saturating_add(1);
        drop(inner);
        self.queue.wake(Events::IN | Events::RDNORM);
    }

    /// `SECCOMP_IOCTL_NOTIF_SEND`
    fn send(&self, resp: &Resp) -> Result<(), Errno> {
        let goes_on = resp.flags & FLAG_CONTINUE != 0;
        if resp.flags & !FLAG_CONTINUE != 0 || (goes_on && (resp.error != 0 || resp.val != 0)) {
            return Err(Errno::EINVAL);
        }
        let answer = match (goes_on, resp.error) {
            (true, _) => Answer::Continue,
            (false, 0) => Answer::Value(resp.val as u64),
            (false, error) => Answer::Value(i64::from(error) as u64),
        };
        let mut inner = self.inner.lock();
        let request = inner.sent(resp.id)?;
        request.state = State::Replied(answer);
        request.task.sleeper.unpark();
        Ok(())
    }

    /// `SECCOMP_IOCTL_NOTIF_ID_VALID`
    fn is_valid(&self, id: u64) -> Result<(), Errno> {
        self.inner.lock().sent(id).map(drop).map_err(|_| Errno::ENOENT)
    }

    /// `SECCOMP_IOCTL_NOTIF_ADDFD`: gives the waiting task a descriptor for `file`.
    fn add_fd(&self, add: &AddFd, file: Arc<FileDescription>) -> Result<i64, Errno> {
        let mut inner = self.inner.lock();
        let request = inner.sent(add.id)?;
        // A task that waits is alive.
        let files = request.task.files().ok_or(Errno::ESRCH)?;
        let cloexec = add.newfd_flags & libc::O_CLOEXEC as u32 != 0;
        let limit = request.task.group.nofile();
        let (fd, old) = if add.flags & ADDFD_SETFD != 0 {
            let fd = i32::try_from(add.newfd).map_err(|_| Errno::EBADF)?;
            (fd, files.replace(fd, file, cloexec, limit)?)
        } else {
            (files.install(file, cloexec, 0, limit)?, None)
        };
        if add.flags & ADDFD_SEND != 0 {
            request.state = State::Replied(Answer::Value(fd as u64));
            request.task.sleeper.unpark();
        }
        drop(inner);
        // It may be the listener itself.
        drop(old);
        Ok(fd.into())
    }

    /// The listener is gone: nobody decides any more (`seccomp_notify_detach`).
    fn detach(&self) {
        let mut inner = self.inner.lock();
        inner.listening = false;
        for request in &mut inner.requests {
            if !matches!(request.state, State::Replied(_)) {
                request.state = State::Replied(NOBODY);
                request.task.sleeper.unpark();
            }
        }
    }

    fn poll(&self) -> Events {
        let inner = self.inner.lock();
        let mut events = Events::empty();
        for request in &inner.requests {
            match request.state {
                State::Init => events |= Events::IN | Events::RDNORM,
                State::Sent => events |= Events::OUT | Events::WRNORM,
                State::Replied(_) => {}
            }
        }
        if inner.orphaned {
            events |= Events::HUP;
        }
        events
    }
}

/// Has whoever listens at `filter` decide the calling task's call (`seccomp_do_user_notification`).
pub(super) fn ask(cur: &Current, filter: &Filter, data: Data) -> Answer {
    let Some(notifier) = filter.notifier() else { return NOBODY };
    let Some(id) = notifier.submit(&cur.task, data) else { return NOBODY };
    let task = &cur.task;
    let interrupted = |received: bool| {
        let killable = received && filter.waits_killable();
        task.interrupted() && (!killable || task.is_killed())
    };
    task.cpu.switch(CpuMode::Asleep);
    let answer = loop {
        match notifier.conclude(id, interrupted) {
            Some(answer) => break answer,
            None => {
                task.sleeper.park(None);
            }
        }
    };
    task.cpu.switch(CpuMode::System);
    answer
}

/// The file.
struct Listener(Arc<Notifier>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.detach();
    }
}

impl FileOps for Listener {
    fn seekable(&self) -> bool {
        false
    }

    fn poll(&self) -> Events {
        self.0.poll()
    }

    fn wait_queue(&self) -> Option<WaitQueue> {
        Some(self.0.queue.clone())
    }

    fn ioctl(&self, cur: &mut Current, cmd: u32, arg: u64) -> Result<i64, Errno> {
        match cmd {
            NOTIF_RECV => self.0.receive(cur, arg)?,
            NOTIF_SEND => self.0.send(&cur.mm.read_obj(arg)?)?,
            NOTIF_ID_VALID | NOTIF_ID_VALID_WRONG_DIR => self.0.is_valid(cur.mm.read_obj(arg)?)?,
            NOTIF_SET_FLAGS if arg & !SYNC_WAKE_UP != 0 => return Err(Errno::EINVAL),
            NOTIF_SET_FLAGS => {}
            _ if cmd & 0xffff == NOTIF_ADDFD => {
                let (add, file) = read_add_fd(cur, arg, (cmd >> 16 & 0x3fff) as usize)?;
                return self.0.add_fd(&add, file);
            }
            _ => return Err(Errno::EINVAL),
        }
        Ok(0)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Reads and checks what `SECCOMP_IOCTL_NOTIF_ADDFD` is given.
fn read_add_fd(
    cur: &Current,
    at: u64,
    size: usize,
) -> Result<(AddFd, Arc<FileDescription>), Errno> {
    const PAGE: usize = 4096;
    if !(ADDFD_SIZE..PAGE).contains(&size) {
        return Err(Errno::EINVAL);
    }
    // Of a later version's fields none may be in use.
    let mut rest = vec![0u8; size - ADDFD_SIZE];
    cur.mm.read_bytes(at.wrapping_add(ADDFD_SIZE as u64), &mut rest)?;
    if rest.iter().any(|byte| *byte != 0) {
        return Err(Errno::E2BIG);
    }
    let add: AddFd = cur.mm.read_obj(at)?;
    if add.newfd_flags & !(libc::O_CLOEXEC as u32) != 0
        || add.flags & !(ADDFD_SETFD | ADDFD_SEND) != 0
        || (add.newfd != 0 && add.flags & ADDFD_SETFD == 0)
    {
        return Err(Errno::EINVAL);
    }
    let file = cur.files.get(add.srcfd as i32)?;
    Ok((add, file))
}

/// A listener, and what its filter is to have of it. `ENFILE`.
pub fn new_listener(
    cred: Arc<Credentials>,
) -> Result<(Arc<FileDescription>, Arc<Notifier>), Errno> {
    let notifier = Notifier::new();
    let ops = Box::new(Listener(notifier.clone()));
    let kind = AnonKind::Inode("seccomp notify");
    Ok((anon::new_file(cred, kind, ops, OpenFlags::RDWR)?, notifier))
}
