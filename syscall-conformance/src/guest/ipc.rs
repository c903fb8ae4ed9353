//! What the cases of System V IPC share: objects that are gone from the machine when the case is.

use std::ffi::CString;
use std::sync::OnceLock;

use crate::helpers::*;

/// `struct ipc64_perm`
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
#[allow(missing_docs)]
pub(crate) struct Perm {
    pub key: i32,
    pub uid: u32,
    pub gid: u32,
    pub cuid: u32,
    pub cgid: u32,
    pub mode: u32,
    pub seq: u16,
    pub pad: [u16; 3],
    pub unused: [u64; 2],
}

/// The kinds of objects.
#[derive(Clone, Copy)]
#[repr(u64)]
pub(crate) enum Kind {
    Shm,
    Sem,
    Msg,
    Mq,
}

static JANITOR: OnceLock<i32> = OnceLock::new();

fn remove(kind: u64, id: usize) {
    let _ = match kind {
        0 => sys!(SYS_shmctl, id, IPC_RMID, 0),
        1 => sys!(SYS_semctl, id, 0, IPC_RMID, 0),
        2 => sys!(SYS_msgctl, id, IPC_RMID, 0),
        _ => sys!(SYS_mq_unlink, mq_name(id).as_c_str()),
    };
}

/// Starts the process that cleans up: it is told of each object, and removes all of them when nobody
/// is left who could tell it more, however they ended. To be called by the case's first process before
/// it makes others that make objects, and before it gives up rights.
pub(crate) fn janitor() -> i32 {
    *JANITOR.get_or_init(|| {
        let (r, w) = pipe(O_CLOEXEC);
        let (hears, says) = pipe(O_CLOEXEC);
        fork(|| {
            // The runner ends what is left of a case's session.
            ok!(SYS_setsid);
            for fd in [0, 1, 2, w, hears, says] {
                close(fd);
            }
            let mut told = Vec::new();
            loop {
                let record = read(r, 16);
                if record.len() < 16 {
                    break;
                }
                told.push(record);
            }
            for record in told {
                let word = |at: usize| u64::from_ne_bytes(record[at..at + 8].try_into().unwrap());
                remove(word(0), word(8) as usize);
            }
            0
        });
        close(r);
        close(says);
        assert_eq!(read(hears, 1), b"");
        close(hears);
        w
    })
}

/// Has an object removed at the latest when the case is over.
pub(crate) fn keep(kind: Kind, id: usize) -> usize {
    let record = [kind as u64, id as u64].map(u64::to_ne_bytes).concat();
    write(janitor(), &record);
    id
}

/// The name of POSIX message queue number `id`.
pub(crate) fn mq_name(id: usize) -> CString {
    CString::new(format!("conformance-{id:x}")).unwrap()
}

/// A name that nobody else uses, for a POSIX message queue that is gone when the case is.
pub(crate) fn new_mq_name() -> CString {
    mq_name(keep(Kind::Mq, key() as usize))
}

/// A key that nobody else uses.
pub(crate) fn key() -> i32 {
    let mut key = 0i32;
    ok!(SYS_getrandom, &mut key, 4, 0);
    key | 1 << 30
}

/// Runs `body` in a child with this user and group and no capabilities. Needs the right to.
pub(crate) fn as_user(id: u32, body: impl FnOnce()) {
    in_child(|| {
        ok!(SYS_setgroups, 0, 0);
        ok!(SYS_setresgid, id, id, id);
        ok!(SYS_setresuid, id, id, id);
        body();
    });
}
