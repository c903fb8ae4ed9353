//! System V message queues.

use crate::helpers::*;
use crate::ipc::{Kind, Perm, as_user, janitor, keep, key};
use crate::sys::BAD;

cases![
    get_rules,
    first_in_first_out,
    types,
    lowest_type_first,
    sizes,
    copies,
    send_errors,
    receive_errors,
    lost_where_memory_is_bad,
    permissions,
    full_queues_wait,
    full_by_number,
    receivers_wait,
    receivers_by_type,
    too_long_for_who_waits,
    signals_interrupt,
    without_handler_restarts,
    removal_wakes,
    set_wakes,
    set_rules,
    stat_tells,
    stat_by_index,
    control_errors,
    info,
    proc_table,
    many_at_once,
];

const MSG_STAT: i32 = 11;
const MSG_INFO: i32 = 12;
const MSG_STAT_ANY: i32 = 13;
const MSG_COPY: i32 = 0o40000;
const CAP_SYS_RESOURCE: u32 = 24;

/// `struct msqid64_ds`
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
struct Ds {
    perm: Perm,
    stime: i64,
    rtime: i64,
    ctime: i64,
    cbytes: u64,
    qnum: u64,
    qbytes: u64,
    lspid: i32,
    lrpid: i32,
    unused: [u64; 2],
}

fn queue() -> usize {
    janitor();
    keep(Kind::Msg, ok!(SYS_msgget, IPC_PRIVATE, IPC_CREAT | 0o600))
}

fn remove(id: usize) {
    ok!(SYS_msgctl, id, IPC_RMID, 0);
}

fn stat(id: usize) -> Ds {
    let mut ds = Ds::default();
    ok!(SYS_msgctl, id, IPC_STAT, &mut ds);
    ds
}

fn msg(kind: i64, text: &[u8]) -> Vec<u8> {
    [&kind.to_ne_bytes()[..], text].concat()
}

fn send(id: usize, kind: i64, text: &[u8]) {
    ok!(SYS_msgsnd, id, &msg(kind, text)[..], text.len(), 0);
}

/// Receives with a buffer of 100 bytes: type and text, or the errno.
fn receive(id: usize, kind: i64, flags: i32) -> Result<(i64, String), i32> {
    let mut buf = [0u8; 108];
    let len = sys!(SYS_msgrcv, id, &mut buf[..], 100, kind, flags)?;
    let kind = i64::from_ne_bytes(buf[..8].try_into().unwrap());
    Ok((kind, String::from_utf8_lossy(&buf[8..8 + len]).into_owned()))
}

fn got(kind: i64, text: &str) -> Result<(i64, String), i32> {
    Ok((kind, text.to_string()))
}

/// Waits until the children sleep.
fn all_asleep(children: &[i32]) {
    for &child in children {
        asleep(child, 0);
    }
}

fn get_rules() {
    janitor();
    let key = key();
    err!(ENOENT: SYS_msgget, key, 0o600);
    let id = keep(Kind::Msg, ok!(SYS_msgget, key, IPC_CREAT | 0o640));
    assert_eq!(ok!(SYS_msgget, key, 0), id);
    err!(EEXIST: SYS_msgget, key, IPC_CREAT | IPC_EXCL | 0o600);
    let ds = stat(id);
    assert_eq!((ds.perm.key, ds.perm.mode, ds.cbytes, ds.qnum), (key, 0o640, 0, 0));
    assert_eq!((ds.stime, ds.rtime, ds.lspid, ds.lrpid), (0, 0, 0, 0));
    assert_eq!(text(c"/proc/sys/kernel/msgmnb").trim(), ds.qbytes.to_string());
    remove(id);
    err!(ENOENT: SYS_msgget, key, 0);
    err!(EINVAL: SYS_msgctl, id, IPC_STAT, &mut Ds::default());
}

fn first_in_first_out() {
    let id = queue();
    for n in 1..=3 {
        send(id, n, format!("message {n}").as_bytes());
    }
    assert_eq!(receive(id, 0, 0), got(1, "message 1"));
    send(id, 1, b"");
    assert_eq!(receive(id, 0, MSG_EXCEPT), got(2, "message 2"));
    assert_eq!(receive(id, 0, 0), got(3, "message 3"));
    assert_eq!(receive(id, 0, 0), got(1, ""));
    assert_eq!(receive(id, 0, IPC_NOWAIT), Err(ENOMSG));
    remove(id);
}

fn types() {
    let id = queue();
    for (kind, text) in [(1, "a"), (2, "b"), (3, "c"), (2, "d"), (i64::MAX, "e")] {
        send(id, kind, text.as_bytes());
    }
    assert_eq!(receive(id, 2, 0), got(2, "b"));
    assert_eq!(receive(id, i64::MAX, 0), got(i64::MAX, "e"));
    assert_eq!(receive(id, 1, MSG_EXCEPT), got(3, "c"));
    assert_eq!(receive(id, 3, IPC_NOWAIT), Err(ENOMSG));
    assert_eq!(receive(id, 2, 0), got(2, "d"));
    assert_eq!(receive(id, 1, MSG_EXCEPT | IPC_NOWAIT), Err(ENOMSG));
    assert_eq!(receive(id, 1, 0), got(1, "a"));
    remove(id);
}

fn lowest_type_first() {
    let id = queue();
    for (kind, text) in [(5, "a"), (3, "b"), (4, "c"), (3, "d"), (1, "e"), (i64::MAX, "f")] {
        send(id, kind, text.as_bytes());
    }
    assert_eq!(receive(id, -4, 0), got(1, "e"));
    assert_eq!(receive(id, -4, 0), got(3, "b"));
    assert_eq!(receive(id, -2, IPC_NOWAIT), Err(ENOMSG));
    assert_eq!(receive(id, -4, MSG_EXCEPT), got(3, "d"));
    assert_eq!(receive(id, -i64::MAX, 0), got(4, "c"));
    assert_eq!(receive(id, i64::MIN, 0), got(5, "a"));
    assert_eq!(receive(id, i64::MIN, 0), got(i64::MAX, "f"));
    remove(id);
}

fn sizes() {
    let id = queue();
    send(id, 1, b"0123456789");
    let mut buf = [0u8; 20];
    err!(E2BIG: SYS_msgrcv, id, &mut buf[..], 9, 0, 0);
    err!(E2BIG: SYS_msgrcv, id, &mut buf[..], 0, 0, IPC_NOWAIT);
    assert_eq!(stat(id).qnum, 1);
    assert_eq!(ok!(SYS_msgrcv, id, &mut buf[..], 4, 0, MSG_NOERROR), 4);
    assert_eq!(&buf[8..], b"0123\0\0\0\0\0\0\0\0");
    // What was cut off is gone.
    assert_eq!((stat(id).qnum, stat(id).cbytes), (0, 0));
    let max: usize = text(c"/proc/sys/kernel/msgmax").trim().parse().unwrap();
    err!(EINVAL: SYS_msgsnd, id, &vec![1u8; max + 9][..], max + 1, 0);
    send(id, 1, &vec![7; max]);
    let mut buf = vec![0u8; max + 8];
    assert_eq!(ok!(SYS_msgrcv, id, &mut buf[..], max, 0, 0), max);
    assert!(buf[8..].iter().all(|&b| b == 7));
    remove(id);
}

fn copies() {
    let id = queue();
    for (kind, text) in [(3, "one"), (1, "two"), (2, "three")] {
        send(id, kind, text.as_bytes());
    }
    let copy = |n, flags| receive(id, n, MSG_COPY | flags);
    assert_eq!(copy(0, 0), Err(EINVAL));
    assert_eq!(copy(0, IPC_NOWAIT | MSG_EXCEPT), Err(EINVAL));
    assert_eq!(copy(0, IPC_NOWAIT), got(3, "one"));
    assert_eq!(copy(2, IPC_NOWAIT), got(2, "three"));
    assert_eq!(copy(3, IPC_NOWAIT), Err(ENOMSG));
    assert_eq!(copy(-1, IPC_NOWAIT), Err(ENOMSG));
    let mut buf = [0u8; 20];
    err!(E2BIG: SYS_msgrcv, id, &mut buf[..], 4, 2, MSG_COPY | IPC_NOWAIT);
    err!(EINVAL: SYS_msgrcv, id, &mut buf[..], 4, 2, MSG_COPY | IPC_NOWAIT | MSG_NOERROR);
    err!(EFAULT: SYS_msgrcv, id, BAD, 5, 2, MSG_COPY | IPC_NOWAIT);
    err!(EFAULT: SYS_msgrcv, id + (1 << 15), BAD, 5, 2, MSG_COPY | IPC_NOWAIT);
    assert_eq!((stat(id).qnum, stat(id).lrpid), (3, 0));
    remove(id);
}

fn send_errors() {
    let id = queue();
    let m = msg(1, b"x");
    err!(EINVAL: SYS_msgsnd, id, &msg(0, b"x")[..], 1, 0);
    err!(EINVAL: SYS_msgsnd, id, &msg(-1, b"x")[..], 1, 0);
    err!(EINVAL: SYS_msgsnd, id, &m[..], usize::MAX, 0);
    err!(EINVAL: SYS_msgsnd, -1, &m[..], 1, 0);
    err!(EFAULT: SYS_msgsnd, -1, BAD, usize::MAX, 0);
    err!(EINVAL: SYS_msgsnd, id + (1 << 15), &m[..], 1, 0);
    // A text that is not there at all.
    let page = map(8192, PROT_READ | PROT_WRITE);
    ok!(SYS_munmap, page + 4096, 4096);
    poke(page + 4088, 1);
    err!(EFAULT: SYS_msgsnd, id, page + 4088, 1, 0);
    err!(EFAULT: SYS_msgsnd, id + (1 << 15), page + 4088, 1, 0);
    ok!(SYS_msgsnd, id, page + 4088, 0, 0);
    assert_eq!(receive(id, 0, 0), got(1, ""));
    remove(id);
}

fn receive_errors() {
    let id = queue();
    let mut buf = [0u8; 100];
    err!(EINVAL: SYS_msgrcv, -1, &mut buf[..], 1, 0, IPC_NOWAIT);
    err!(EINVAL: SYS_msgrcv, id, &mut buf[..], -1i64, 0, IPC_NOWAIT);
    err!(EINVAL: SYS_msgrcv, id + (1 << 15), &mut buf[..], 1, 0, IPC_NOWAIT);
    err!(ENOMSG: SYS_msgrcv, id, BAD, 1, 0, IPC_NOWAIT);
    remove(id);
    err!(EINVAL: SYS_msgrcv, id, &mut buf[..], 1, 0, 0);
    err!(EINVAL: SYS_msgsnd, id, &msg(1, b"")[..], 0, 0);
}

fn lost_where_memory_is_bad() {
    let id = queue();
    send(id, 9, b"x");
    err!(EFAULT: SYS_msgrcv, id, BAD, 1, 0, 0);
    assert_eq!(stat(id).qnum, 0);
    remove(id);
}

fn permissions() {
    need_cap(CAP_SETUID);
    need_cap(CAP_SETGID);
    let id = queue();
    send(id, 1, b"x");
    let set = |mode| {
        let mut ds = stat(id);
        ds.perm.mode = mode;
        ok!(SYS_msgctl, id, IPC_SET, &ds);
    };
    set(0o604);
    as_user(5432, || {
        err!(EACCES: SYS_msgsnd, id, &msg(1, b"")[..], 0, 0);
        stat(id);
        assert_eq!(receive(id, 0, MSG_COPY | IPC_NOWAIT), got(1, "x"));
        assert_eq!(receive(id, 0, 0), got(1, "x"));
        err!(EPERM: SYS_msgctl, id, IPC_RMID, 0);
        err!(EPERM: SYS_msgctl, id, IPC_SET, &Ds::default());
    });
    set(0o602);
    as_user(5432, || {
        send(id, 2, b"y");
        assert_eq!(receive(id, 0, 0), Err(EACCES));
        assert_eq!(receive(id, 0, MSG_COPY | IPC_NOWAIT), Err(EACCES));
        err!(EACCES: SYS_msgctl, id, IPC_STAT, BAD);
        err!(EACCES: SYS_msgctl, id & 0x7fff, MSG_STAT, BAD);
        assert_eq!(ok!(SYS_msgctl, id & 0x7fff, MSG_STAT_ANY, &mut Ds::default()), id);
    });
    assert_eq!(receive(id, 0, 0), got(2, "y"));
    remove(id);
}

fn shrink(id: usize, qbytes: u64) {
    let mut ds = stat(id);
    ds.qbytes = qbytes;
    ok!(SYS_msgctl, id, IPC_SET, &ds);
}

fn full_queues_wait() {
    let id = queue();
    shrink(id, 10);
    send(id, 1, b"12345678");
    err!(EAGAIN: SYS_msgsnd, id, &msg(1, b"123")[..], 3, IPC_NOWAIT);
    send(id, 2, b"90");
    let children: Vec<i32> = (0..2i64)
        .map(|n| {
            fork(|| {
                send(id, 5 + n, &[b'a'; 7]);
                0
            })
        })
        .collect();
    all_asleep(&children);
    // Room for neither.
    assert_eq!(receive(id, 2, 0), got(2, "90"));
    all_asleep(&children);
    assert_eq!(stat(id).qnum, 1);
    // Room for one.
    assert_eq!(receive(id, 1, 0).map(|m| m.0), Ok(1));
    assert_eq!(receive(id, 0, 0).map(|m| m.1), Ok("aaaaaaa".into()));
    assert_eq!(receive(id, 0, 0).map(|m| m.1), Ok("aaaaaaa".into()));
    for child in children {
        assert_eq!(wait(child), 0);
    }
    // What cannot ever fit is not refused but waits.
    err!(EAGAIN: SYS_msgsnd, id, &msg(1, b"12345678901")[..], 11, IPC_NOWAIT);
    remove(id);
}

fn full_by_number() {
    let id = queue();
    shrink(id, 3);
    for _ in 0..3 {
        send(id, 1, b"");
    }
    err!(EAGAIN: SYS_msgsnd, id, &msg(1, b"")[..], 0, IPC_NOWAIT);
    receive(id, 0, 0).unwrap();
    send(id, 1, b"");
    remove(id);
}

fn receivers_wait() {
    let id = queue();
    let child = fork(|| i32::from(receive(id, 0, 0) != got(3, "hello")));
    all_asleep(&[child]);
    send(id, 3, b"hello");
    let ds = stat(id);
    assert_eq!(wait(child), 0);
    assert_eq!((ds.qnum, ds.cbytes, ds.lrpid), (0, 0, child));
    assert_eq!(ds.lspid as usize, ok!(SYS_getpid));
    assert!(ds.rtime >= ds.ctime);
    remove(id);
}

fn receivers_by_type() {
    let id = queue();
    let child = |kind, flags, wanted: (i64, &'static str)| {
        let child = fork(|| i32::from(receive(id, kind, flags) != got(wanted.0, wanted.1)));
        all_asleep(&[child]);
        child
    };
    let equal = child(4, 0, (4, "d"));
    let low = child(-2, 0, (2, "b"));
    let except = child(4, MSG_EXCEPT, (3, "c"));
    let any = child(0, 0, (9, "i"));
    send(id, 3, b"c");
    assert_eq!(wait(except), 0);
    send(id, 9, b"i");
    assert_eq!(wait(any), 0);
    send(id, 4, b"d");
    send(id, 2, b"b");
    assert_eq!((wait(equal), wait(low)), (0, 0));
    assert_eq!(stat(id).qnum, 0);
    remove(id);
}

fn too_long_for_who_waits() {
    let id = queue();
    let small = fork(|| {
        let mut buf = [0u8; 10];
        err!(E2BIG: SYS_msgrcv, id, &mut buf[..], 2, 0, 0);
        0
    });
    all_asleep(&[small]);
    let cut = fork(|| {
        let mut buf = [0u8; 10];
        assert_eq!(ok!(SYS_msgrcv, id, &mut buf[..], 2, 0, MSG_NOERROR), 2);
        i32::from(&buf[8..] != b"ab")
    });
    all_asleep(&[cut]);
    send(id, 1, b"abcd");
    assert_eq!((wait(small), wait(cut)), (0, 0));
    assert_eq!(stat(id).qnum, 0);
    remove(id);
}

fn signals_interrupt() {
    let id = queue();
    // Even where the handler asks for restarts.
    on(SIGUSR1, SA_RESTART);
    let child = soon(SIGUSR1, 20);
    assert_eq!(receive(id, 0, 0), Err(EINTR));
    assert_eq!(wait(child), 0);
    shrink(id, 1);
    let child = soon(SIGUSR1, 20);
    err!(EINTR: SYS_msgsnd, id, &msg(1, b"ab")[..], 2, 0);
    assert_eq!(wait(child), 0);
    assert_eq!(count(SIGUSR1), 2);
    // Who was killed gets no message.
    let child = fork(|| i32::from(receive(id, 0, 0).is_err()));
    all_asleep(&[child]);
    ok!(SYS_kill, child, SIGKILL);
    assert_eq!(killed_by(wait(child)), Some(SIGKILL));
    send(id, 1, b"x");
    assert_eq!(receive(id, 0, IPC_NOWAIT), got(1, "x"));
    remove(id);
}

fn without_handler_restarts() {
    let id = queue();
    let child = fork(|| i32::from(receive(id, 0, 0) != got(1, "later")));
    all_asleep(&[child]);
    ok!(SYS_kill, child, SIGSTOP);
    let mut status = 0i32;
    ok!(SYS_wait4, child, &mut status, WUNTRACED, 0);
    assert!(WIFSTOPPED(status));
    ok!(SYS_kill, child, SIGCONT);
    all_asleep(&[child]);
    send(id, 1, b"later");
    assert_eq!(wait(child), 0);
    remove(id);
}

fn removal_wakes() {
    let id = queue();
    shrink(id, 1);
    let receiver = fork(|| receive(id, 7, 0).err().unwrap_or(0));
    let sender = fork(|| sys!(SYS_msgsnd, id, &msg(1, b"ab")[..], 2, 0).err().unwrap_or(0));
    all_asleep(&[receiver, sender]);
    remove(id);
    assert_eq!(WEXITSTATUS(wait(receiver)), EIDRM);
    assert_eq!(WEXITSTATUS(wait(sender)), EIDRM);
}

fn set_wakes() {
    need_cap(CAP_SETUID);
    need_cap(CAP_SETGID);
    let id = queue();
    shrink(id, 1);
    let sender = fork(|| {
        send(id, 1, b"abc");
        0
    });
    all_asleep(&[sender]);
    shrink(id, 3);
    assert_eq!(wait(sender), 0);
    assert_eq!(receive(id, 0, 0), got(1, "abc"));
    // Who may not receive any more learns so.
    let mut ds = stat(id);
    ds.perm.mode = 0o644;
    ok!(SYS_msgctl, id, IPC_SET, &ds);
    let child = fork(|| {
        ok!(SYS_setgroups, 0, 0);
        ok!(SYS_setresgid, 5432, 5432, 5432);
        ok!(SYS_setresuid, 5432, 5432, 5432);
        assert_eq!(receive(id, 0, 0), Err(EACCES));
        0
    });
    all_asleep(&[child]);
    ds.perm.mode = 0o600;
    ok!(SYS_msgctl, id, IPC_SET, &ds);
    assert_eq!(wait(child), 0);
    remove(id);
}

fn set_rules() {
    let id = queue();
    let mut ds = stat(id);
    (ds.perm.mode, ds.qbytes, ds.qnum) = (0o7666, 5, 9);
    ok!(SYS_msgctl, id, IPC_SET, &ds);
    let now = stat(id);
    assert_eq!((now.perm.mode, now.qbytes, now.qnum), (0o666, 5, 0));
    (ds.perm.uid, ds.qbytes) = (u32::MAX, 6);
    err!(EINVAL: SYS_msgctl, id, IPC_SET, &ds);
    assert_eq!(stat(id).qbytes, 5);
    err!(EFAULT: SYS_msgctl, id, IPC_SET, BAD);
    let rights = 1 << CAP_SYS_RESOURCE | 1 << CAP_SETUID | 1 << CAP_SETGID;
    if caps() & rights == rights {
        // More than msgmnb takes a right.
        (ds.perm.uid, ds.qbytes) = (5432, 1 << 20);
        ok!(SYS_msgctl, id, IPC_SET, &ds);
        as_user(5432, || {
            ds.qbytes += 1;
            err!(EPERM: SYS_msgctl, id, IPC_SET, &ds);
            ds.perm.gid = u32::MAX;
            err!(EPERM: SYS_msgctl, id, IPC_SET, &ds);
            (ds.perm.gid, ds.qbytes) = (0, 16384);
            ok!(SYS_msgctl, id, IPC_SET, &ds);
        });
    }
    remove(id);
}

fn stat_tells() {
    let id = queue();
    let before = stat(id);
    send(id, 1, b"abc");
    send(id, 1, b"de");
    let ds = stat(id);
    assert_eq!((ds.qnum, ds.cbytes, ds.lrpid, ds.rtime), (2, 5, 0, 0));
    assert_eq!((ds.lspid as usize, ds.ctime), (ok!(SYS_getpid), before.ctime));
    assert!(ds.stime >= ds.ctime);
    receive(id, 0, 0).unwrap();
    let ds = stat(id);
    assert_eq!((ds.qnum, ds.cbytes, ds.lrpid), (1, 2, ds.lspid));
    assert!(ds.rtime >= ds.stime);
    err!(EFAULT: SYS_msgctl, id, IPC_STAT, BAD);
    remove(id);
}

fn stat_by_index() {
    let id = queue();
    send(id, 1, b"abc");
    let mut ds = Ds::default();
    for what in [MSG_STAT, MSG_STAT_ANY] {
        assert_eq!(ok!(SYS_msgctl, id & 0x7fff, what, &mut ds), id);
        assert_eq!((ds.qnum, usize::from(ds.perm.seq)), (1, id >> 15));
        err!(EINVAL: SYS_msgctl, 0x7fff, what, &mut ds);
        err!(EFAULT: SYS_msgctl, id & 0x7fff, what, BAD);
    }
    remove(id);
}

fn control_errors() {
    let id = queue();
    err!(EINVAL: SYS_msgctl, -1, IPC_STAT, BAD);
    err!(EINVAL: SYS_msgctl, id, -1, BAD);
    err!(EINVAL: SYS_msgctl, id, 99, BAD);
    err!(EINVAL: SYS_msgctl, id, IPC_STAT | 0x100, BAD);
    err!(EINVAL: SYS_msgctl, id + (1 << 15), IPC_STAT, BAD);
    err!(EINVAL: SYS_msgctl, id + (1 << 15), IPC_RMID, BAD);
    err!(EFAULT: SYS_msgctl, id + (1 << 15), IPC_SET, BAD);
    remove(id);
}

fn info() {
    let id = queue();
    send(id, 1, b"abc");
    let mut limits = [0i32; 8];
    assert!(ok!(SYS_msgctl, 0, IPC_INFO, &mut limits) >= id & 0x7fff);
    for (name, value) in [("msgmax", limits[2]), ("msgmnb", limits[3]), ("msgmni", limits[4])] {
        let path = std::ffi::CString::new(format!("/proc/sys/kernel/{name}")).unwrap();
        assert_eq!(text(&path).trim(), value.to_string(), "{name}");
    }
    println!("{limits:?}");
    let mut usage = [0i32; 8];
    assert!(ok!(SYS_msgctl, 0, MSG_INFO, &mut usage) >= id & 0x7fff);
    assert!(usage[0] >= 1 && usage[1] >= 1 && usage[6] >= 3, "{usage:?}");
    assert_eq!((&usage[2..6], usage[7]), (&limits[2..6], limits[7]));
    err!(EFAULT: SYS_msgctl, 0, IPC_INFO, BAD);
    remove(id);
}

fn proc_table() {
    let id = queue();
    send(id, 1, b"abc");
    let table = text(c"/proc/sysvipc/msg");
    let (head, rows) = table.split_once('\n').unwrap();
    println!("{head}");
    let row = rows.lines().find(|l| l.split_ascii_whitespace().nth(1) == Some(&id.to_string()));
    let row = row.unwrap();
    let Ds { perm, stime, rtime, ctime, lspid, .. } = stat(id);
    let Perm { uid, gid, cuid, cgid, .. } = perm;
    let words: Vec<&str> = row.split_ascii_whitespace().collect();
    assert_eq!(
        words.join(" "),
        format!("0 {id} 600 3 1 {lspid} 0 {uid} {gid} {cuid} {cgid} {stime} {rtime} {ctime}")
    );
    assert_eq!(row.len(), head.len(), "{row:?}");
    remove(id);
}

fn many_at_once() {
    // Four producers and two consumers, over a queue that holds little.
    let id = queue();
    shrink(id, 20);
    let sum = map_shared(4096);
    let producers: Vec<i32> = (0..4i64)
        .map(|n| {
            fork(|| {
                for _ in 0..100 {
                    send(id, n + 1, b"12345678");
                }
                0
            })
        })
        .collect();
    let consumers: Vec<i32> = (0..2)
        .map(|_| {
            fork(|| {
                loop {
                    let (kind, _) = receive(id, 0, 0).unwrap();
                    if kind == 99 {
                        return 0;
                    }
                    word(sum).fetch_add(kind as u32, std::sync::atomic::Ordering::SeqCst);
                }
            })
        })
        .collect();
    for child in producers {
        assert_eq!(wait(child), 0);
    }
    for _ in &consumers {
        send(id, 99, b"");
    }
    for child in consumers {
        assert_eq!(wait(child), 0);
    }
    assert_eq!(word(sum).load(std::sync::atomic::Ordering::SeqCst), 100 * (1 + 2 + 3 + 4));
    remove(id);
}
