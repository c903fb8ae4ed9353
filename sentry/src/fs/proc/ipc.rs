//! `/proc/sysvipc`, and the settings of IPC below `/proc/sys/kernel` and in `/proc/sys/fs/mqueue`
//! (sysvipc(7), proc_sys(5)).

use std::sync::Arc;

use abi::Errno;

use crate::fs::pseudo::{Content, Node, PseudoFs, StaticDir};
use crate::kernel::{Kernel, Task};

/// The directory `/proc/sysvipc`.
pub(super) fn tables(fs: &Arc<PseudoFs>, next_ino: &mut impl FnMut() -> u64) -> Node {
    type Reader = fn(&Task) -> Result<Vec<u8>, Errno>;
    let files: [(&str, Reader); 3] = [
        ("msg", |t| Ok(t.kernel.ipc.msg.table().into_bytes())),
        ("sem", |t| Ok(t.kernel.ipc.sem.table().into_bytes())),
        ("shm", |t| Ok(t.kernel.ipc.shm.table().into_bytes())),
    ];
    let dir = files.into_iter().fold(StaticDir::default(), |dir, (name, read)| {
        dir.with(name, Node::file(fs, next_ino(), 0o444, read))
    });
    Node::dir(fs, next_ino(), 0o555, dir)
}

/// Adds the settings to `/proc/sys/kernel`.
pub(super) fn settings(
    dir: StaticDir,
    fs: &Arc<PseudoFs>,
    next_ino: &mut impl FnMut() -> u64,
) -> StaticDir {
    with_all(dir, SETTINGS, fs, next_ino)
}

/// The directory `/proc/sys/fs/mqueue`.
pub(super) fn mqueue(fs: &Arc<PseudoFs>, next_ino: &mut impl FnMut() -> u64) -> Node {
    let dir = with_all(StaticDir::default(), MQUEUE, fs, next_ino);
    Node::dir(fs, next_ino(), 0o555, dir)
}

fn with_all(
    dir: StaticDir,
    settings: &'static [Setting],
    fs: &Arc<PseudoFs>,
    next_ino: &mut impl FnMut() -> u64,
) -> StaticDir {
    settings.iter().fold(dir, |dir, setting| {
        dir.with(setting.name, Node::file(fs, next_ino(), 0o644, setting))
    })
}

/// One file of numbers.
struct Setting {
    name: &'static str,
    /// The largest value of each.
    max: u64,
    get: fn(&Kernel) -> Vec<u64>,
    set: fn(&Kernel, &[u64]) -> Result<(), Errno>,
}

const INT_MAX: u64 = i32::MAX as u64;

static SETTINGS: &[Setting] = &[
    Setting {
        name: "msgmax",
        max: INT_MAX,
        get: |k| vec![k.ipc.msg.settings().msgmax.into()],
        set: |k, new| k.ipc.msg.set_settings(|s| one(new, &mut s.msgmax)),
    },
    Setting {
        name: "msgmnb",
        max: INT_MAX,
        get: |k| vec![k.ipc.msg.settings().msgmnb.into()],
        set: |k, new| k.ipc.msg.set_settings(|s| one(new, &mut s.msgmnb)),
    },
    Setting {
        name: "msgmni",
        max: INT_MAX,
        get: |k| vec![k.ipc.msg.settings().msgmni.into()],
        set: |k, new| k.ipc.msg.set_settings(|s| one(new, &mut s.msgmni)),
    },
    Setting {
        name: "sem",
        max: INT_MAX,
        get: |k| {
            let s = k.ipc.sem.settings();
            [s.semmsl, s.semmns, s.semopm, s.semmni].map(u64::from).to_vec()
        },
        set: |k, new| {
            let mut s = k.ipc.sem.settings();
            let fields = [&mut s.semmsl, &mut s.semmns, &mut s.semopm, &mut s.semmni];
            // Those at the end may be left out.
            for (field, new) in fields.into_iter().zip(new.chunks(1)) {
                one(new, field);
            }
            k.ipc.sem.set_settings(s)
        },
    },
    Setting {
        name: "shmmax",
        max: u64::MAX,
        get: |k| vec![k.ipc.shm.settings().shmmax],
        set: |k, new| k.ipc.shm.set_settings(|s| one(new, &mut s.shmmax)),
    },
    Setting {
        name: "shmall",
        max: u64::MAX,
        get: |k| vec![k.ipc.shm.settings().shmall],
        set: |k, new| k.ipc.shm.set_settings(|s| one(new, &mut s.shmall)),
    },
    Setting {
        name: "shmmni",
        max: INT_MAX,
        get: |k| vec![k.ipc.shm.settings().shmmni.into()],
        set: |k, new| k.ipc.shm.set_settings(|s| one(new, &mut s.shmmni)),
    },
    Setting {
        name: "shm_rmid_forced",
        max: 1,
        get: |k| vec![k.ipc.shm.settings().rmid_forced.into()],
        set: |k, new| {
            k.ipc.shm.set_settings(|s| s.rmid_forced = new.first().is_some_and(|new| *new != 0))
        },
    },
];

static MQUEUE: &[Setting] = &[
    Setting {
        name: "msg_default",
        max: INT_MAX,
        get: |k| vec![k.ipc.mq.settings().msg_default.into()],
        set: |k, new| k.ipc.mq.set_settings(|s| one(new, &mut s.msg_default)),
    },
    Setting {
        name: "msg_max",
        max: INT_MAX,
        get: |k| vec![k.ipc.mq.settings().msg_max.into()],
        set: |k, new| k.ipc.mq.set_settings(|s| one(new, &mut s.msg_max)),
    },
    Setting {
        name: "msgsize_default",
        max: INT_MAX,
        get: |k| vec![k.ipc.mq.settings().msgsize_default.into()],
        set: |k, new| k.ipc.mq.set_settings(|s| one(new, &mut s.msgsize_default)),
    },
    Setting {
        name: "msgsize_max",
        max: INT_MAX,
        get: |k| vec![k.ipc.mq.settings().msgsize_max.into()],
        set: |k, new| k.ipc.mq.set_settings(|s| one(new, &mut s.msgsize_max)),
    },
    Setting {
        name: "queues_max",
        max: INT_MAX,
        get: |k| vec![k.ipc.mq.settings().queues_max.into()],
        set: |k, new| k.ipc.mq.set_settings(|s| one(new, &mut s.queues_max)),
    },
];

/// The first of what was written, which was checked to fit.
fn one<T: TryFrom<u64>>(new: &[u64], value: &mut T) {
    if let Some(new) = new.first().and_then(|new| T::try_from(*new).ok()) {
        *value = new;
    }
}

/// The numbers of a write: at most `count`, each at most `max`. `EINVAL`
fn parse(data: &[u8], count: usize, max: u64) -> Result<Vec<u64>, Errno> {
    let text = std::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
    let text = text.trim_end_matches('\0');
    let numbers = text.split_ascii_whitespace().take(count);
    let parsed: Option<Vec<u64>> = numbers.map(|n| n.parse().ok().filter(|n| *n <= max)).collect();
    parsed.ok_or(Errno::EINVAL)
}

impl Content for &'static Setting {
    fn read(&self, task: &Task) -> Result<Vec<u8>, Errno> {
        let values = (self.get)(&task.kernel);
        let text: Vec<String> = values.iter().map(u64::to_string).collect();
        Ok(format!("{}\n", text.join("\t")).into_bytes())
    }

    fn write(&self, task: &Task, data: &[u8]) -> Result<(), Errno> {
        let count = (self.get)(&task.kernel).len();
        (self.set)(&task.kernel, &parse(data, count, self.max)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_checked() {
        assert_eq!(parse(b"1 2\t3 4\n", 4, 9), Ok(vec![1, 2, 3, 4]));
        assert_eq!(parse(b"5\n\0", 1, 5), Ok(vec![5]));
        for bad in [&b"x"[..], b"-1", b"6", b"\xff", b"99999999999999999999"] {
            assert_eq!(parse(bad, 1, 5), Err(Errno::EINVAL));
        }
    }
}
