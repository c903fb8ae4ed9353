//! System V semaphores.

use crate::helpers::*;
use crate::ipc::{Kind, Perm, as_user, janitor, keep, key};
use crate::sys::BAD;

cases![
    get_rules,
    permissions,
    operations,
    several_at_once,
    several_on_one,
    operation_errors,
    wakes_in_order,
    small_ones_pass_big_ones,
    waits_for_zero,
    complex_waiters,
    no_wait_later,
    values_out_of_bounds,
    timeouts,
    signals_interrupt,
    removal_wakes,
    undo_at_exit,
    undo_is_capped,
    undo_survives_exec,
    undo_of_threads,
    undo_is_forgotten,
    undo_has_bounds,
    undo_wakes,
    undo_when_killed,
    unshare_undoes,
    set_values,
    control_errors,
    stat_and_set,
    stat_by_index,
    info,
    proc_table,
    shared_counter,
];

const GETPID: i32 = 11;
const GETVAL: i32 = 12;
const GETALL: i32 = 13;
const GETNCNT: i32 = 14;
const GETZCNT: i32 = 15;
const SETVAL: i32 = 16;
const SETALL: i32 = 17;
const SEM_STAT: i32 = 18;
const SEM_INFO: i32 = 19;
const SEM_STAT_ANY: i32 = 20;
const UNDO: i32 = 0x1000;

/// `struct semid64_ds`
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
struct Ds {
    perm: Perm,
    otime: i64,
    unused1: u64,
    ctime: i64,
    unused2: u64,
    nsems: u64,
    unused: [u64; 2],
}

fn array(values: &[u16]) -> usize {
    janitor();
    let id = keep(Kind::Sem, ok!(SYS_semget, IPC_PRIVATE, values.len(), IPC_CREAT | 0o600));
    ok!(SYS_semctl, id, 0, SETALL, values);
    id
}

fn op(num: u16, by: i16, flags: i32) -> sembuf {
    sembuf { sem_num: num, sem_op: by, sem_flg: flags as i16 }
}

fn values(id: usize) -> Vec<u16> {
    let mut values = vec![0xffff; stat(id).nsems as usize];
    ok!(SYS_semctl, id, 0, GETALL, &mut values[..]);
    values
}

fn value(id: usize, num: usize) -> usize {
    ok!(SYS_semctl, id, num, GETVAL, 0)
}

fn stat(id: usize) -> Ds {
    let mut ds = Ds::default();
    ok!(SYS_semctl, id, 0, IPC_STAT, &mut ds);
    ds
}

fn remove(id: usize) {
    ok!(SYS_semctl, id, 0, IPC_RMID, 0);
}

fn semop(id: usize, ops: &[sembuf]) {
    ok!(SYS_semop, id, ops, ops.len());
}

/// Waits until so many tasks wait for a semaphore to grow, or to become zero.
fn until(id: usize, num: usize, what: i32, count: usize) {
    while ok!(SYS_semctl, id, num, what, 0) != count {
        nap(1);
    }
}

/// A child that does an operation, and tells its errno as its status.
fn waiter(id: usize, ops: Vec<sembuf>) -> i32 {
    fork(move || sys!(SYS_semop, id, &ops[..], ops.len()).err().unwrap_or(0))
}

fn status(pid: i32) -> i32 {
    WEXITSTATUS(wait(pid))
}

fn get_rules() {
    janitor();
    let key = key();
    err!(ENOENT: SYS_semget, key, 1, 0o600);
    err!(EINVAL: SYS_semget, key, -1, 0o600);
    err!(EINVAL: SYS_semget, key, 0, IPC_CREAT | 0o600);
    err!(EINVAL: SYS_semget, key, 1 << 20, IPC_CREAT | 0o600);
    err!(EINVAL: SYS_semget, IPC_PRIVATE, 0, 0o600);
    let id = keep(Kind::Sem, ok!(SYS_semget, key, 3, IPC_CREAT | 0o640));
    assert_eq!(values(id), [0, 0, 0]);
    assert_eq!(ok!(SYS_semget, key, 3, 0), id);
    assert_eq!(ok!(SYS_semget, key, 0, IPC_CREAT | 0o600), id);
    err!(EINVAL: SYS_semget, key, 4, 0);
    err!(EEXIST: SYS_semget, key, 4, IPC_CREAT | IPC_EXCL);
    let ds = stat(id);
    assert_eq!((ds.perm.key, ds.perm.mode, ds.nsems, ds.otime), (key, 0o640, 3, 0));
    remove(id);
    err!(ENOENT: SYS_semget, key, 0, 0);
    err!(EINVAL: SYS_semctl, id, 0, IPC_STAT, &mut Ds::default());
    err!(EINVAL: SYS_semop, id, &op(0, 1, 0), 1);
}

fn permissions() {
    need_cap(CAP_SETUID);
    need_cap(CAP_SETGID);
    let id = array(&[1, 0]);
    let mut ds = stat(id);
    ds.perm.mode = 0o604;
    ok!(SYS_semctl, id, 0, IPC_SET, &ds);
    as_user(4321, || {
        // Others may read: waiting for a zero is reading.
        semop(id, &[op(1, 0, 0)]);
        err!(EACCES: SYS_semop, id, &op(0, 1, 0), 1);
        err!(EACCES: SYS_semop, id, &[op(1, 0, 0), op(0, -1, 0)], 2);
        err!(EFBIG: SYS_semop, id, &op(2, 1, 0), 1);
        assert_eq!((values(id), value(id, 0)), (vec![1, 0], 1));
        err!(EINVAL: SYS_semctl, id, 2, GETVAL, 0);
        err!(EACCES: SYS_semctl, id, 0, SETVAL, 1);
        err!(EINVAL: SYS_semctl, id, 2, SETVAL, 1);
        err!(ERANGE: SYS_semctl, id, 2, SETVAL, 40000);
        err!(EACCES: SYS_semctl, id, 0, SETALL, BAD);
        err!(EPERM: SYS_semctl, id, 0, IPC_RMID, 0);
        err!(EPERM: SYS_semctl, id, 0, IPC_SET, &ds);
    });
    ds.perm.mode = 0o602;
    ok!(SYS_semctl, id, 0, IPC_SET, &ds);
    as_user(4321, || {
        semop(id, &[op(0, 1, 0)]);
        err!(EACCES: SYS_semop, id, &op(1, 0, 0), 1);
        err!(EACCES: SYS_semctl, id, 0, GETVAL, 0);
        err!(EACCES: SYS_semctl, id, 0, GETALL, BAD);
        err!(EACCES: SYS_semctl, id, 0, IPC_STAT, BAD);
        err!(EACCES: SYS_semctl, id & 0x7fff, 0, SEM_STAT, BAD);
        assert_eq!(ok!(SYS_semctl, id & 0x7fff, 0, SEM_STAT_ANY, &mut Ds::default()), id);
        ok!(SYS_semctl, id, 0, SETVAL, 5);
    });
    assert_eq!(values(id), [5, 0]);
    remove(id);
}

fn operations() {
    let id = array(&[0, 0]);
    let before = stat(id);
    semop(id, &[op(1, 3, 0)]);
    semop(id, &[op(1, -1, 0)]);
    semop(id, &[op(0, 0, 0)]);
    assert_eq!(values(id), [0, 2]);
    assert_eq!(ok!(SYS_semctl, id, 1, GETPID, 0), ok!(SYS_getpid));
    err!(EAGAIN: SYS_semop, id, &op(1, -3, IPC_NOWAIT), 1);
    err!(EAGAIN: SYS_semop, id, &op(1, 0, IPC_NOWAIT), 1);
    let after = stat(id);
    assert_eq!((before.otime, after.ctime), (0, before.ctime));
    assert!(after.otime >= before.ctime);
    let child = waiter(id, vec![op(0, 0, 0)]);
    assert_eq!(status(child), 0);
    // Even who only looks for a zero is the last one.
    assert_eq!(ok!(SYS_semctl, id, 0, GETPID, 0), child as usize);
    remove(id);
}

fn several_at_once() {
    let id = array(&[1, 0, 5]);
    let child = waiter(id, vec![op(0, -1, 0), op(2, 3, 0), op(1, -1, 0)]);
    until(id, 1, GETNCNT, 1);
    assert_eq!(ok!(SYS_semctl, id, 0, GETNCNT, 0), 0);
    assert_eq!(values(id), [1, 0, 5]);
    semop(id, &[op(1, 1, 0)]);
    assert_eq!(status(child), 0);
    assert_eq!(values(id), [0, 0, 8]);
    err!(EAGAIN: SYS_semop, id, &[op(2, -8, 0), op(0, -1, IPC_NOWAIT)], 2);
    assert_eq!(values(id), [0, 0, 8]);
    remove(id);
}

fn several_on_one() {
    let id = array(&[0]);
    semop(id, &[op(0, 0, 0), op(0, 1, 0)]);
    assert_eq!(value(id, 0), 1);
    semop(id, &[op(0, -1, 0), op(0, 0, 0), op(0, 4, 0), op(0, -1, 0)]);
    assert_eq!(value(id, 0), 3);
    err!(EAGAIN: SYS_semop, id, &[op(0, -1, 0), op(0, -3, IPC_NOWAIT), op(0, 5, 0)], 3);
    err!(ERANGE: SYS_semop, id, &[op(0, -1, 0), op(0, 32766, 0)], 2);
    assert_eq!(value(id, 0), 3);
    remove(id);
}

fn operation_errors() {
    let id = array(&[0, 0]);
    let one = op(0, 1, 0);
    err!(EINVAL: SYS_semop, id, &one, 0);
    err!(EINVAL: SYS_semop, id, BAD, 0);
    err!(E2BIG: SYS_semop, id, BAD, 501);
    err!(E2BIG: SYS_semop, -1, BAD, 501);
    err!(EFAULT: SYS_semop, id, BAD, 500);
    err!(EFAULT: SYS_semop, -1, BAD, 1);
    err!(EINVAL: SYS_semop, -1, &one, 1);
    err!(EINVAL: SYS_semop, id + (1 << 15), &one, 1);
    err!(EFBIG: SYS_semop, id, &op(2, 0, 0), 1);
    err!(EFBIG: SYS_semop, id, &op(2, 0, UNDO), 1);
    err!(EFBIG: SYS_semop, id, &op(65535, 0, IPC_NOWAIT), 1);
    err!(ERANGE: SYS_semop, id, &[op(0, 32767, 0), op(0, 1, 0)], 2);
    let many = vec![one; 500];
    semop(id, &many);
    assert_eq!(value(id, 0), 500);
    let bad = timespec { tv_sec: 0, tv_nsec: 1_000_000_000 };
    err!(EINVAL: SYS_semtimedop, id, &one, 1, &bad);
    err!(EINVAL: SYS_semtimedop, id, &one, 1, &timespec { tv_sec: -1, tv_nsec: 0 });
    err!(EFAULT: SYS_semtimedop, id, &one, 1, BAD);
    err!(EFAULT: SYS_semtimedop, -1, &one, 501, BAD);
    err!(E2BIG: SYS_semtimedop, -1, &one, 501, &bad);
    err!(EINVAL: SYS_semtimedop, id, &op(9, 0, 0), 1, &bad);
    assert_eq!(value(id, 0), 500);
    remove(id);
}

fn wakes_in_order() {
    let id = array(&[0, 0]);
    // The second semaphore tells in which order they went.
    let mut children = Vec::new();
    for n in 1..=3 {
        children.push(fork(|| {
            semop(id, &[op(0, -1, 0)]);
            0
        }));
        until(id, 0, GETNCNT, n);
    }
    for child in children {
        semop(id, &[op(0, 1, 0)]);
        assert_eq!(status(child), 0);
    }
    assert_eq!(values(id), [0, 0]);
    remove(id);
}

fn small_ones_pass_big_ones() {
    let id = array(&[0]);
    let big = waiter(id, vec![op(0, -5, 0)]);
    until(id, 0, GETNCNT, 1);
    let small = waiter(id, vec![op(0, -1, 0)]);
    until(id, 0, GETNCNT, 2);
    semop(id, &[op(0, 2, 0)]);
    assert_eq!(status(small), 0);
    assert_eq!((value(id, 0), ok!(SYS_semctl, id, 0, GETNCNT, 0)), (1, 1));
    let small = waiter(id, vec![op(0, -2, 0)]);
    until(id, 0, GETNCNT, 2);
    semop(id, &[op(0, 4, 0)]);
    assert_eq!(status(big), 0);
    assert_eq!((value(id, 0), ok!(SYS_semctl, id, 0, GETNCNT, 0)), (0, 1));
    remove(id);
    assert_eq!(status(small), EIDRM);
}

fn waits_for_zero() {
    let id = array(&[2]);
    let zeros = [waiter(id, vec![op(0, 0, 0)]), waiter(id, vec![op(0, 0, 0)])];
    until(id, 0, GETZCNT, 2);
    assert_eq!(ok!(SYS_semctl, id, 0, GETNCNT, 0), 0);
    semop(id, &[op(0, -1, 0)]);
    assert_eq!(ok!(SYS_semctl, id, 0, GETZCNT, 0), 2);
    semop(id, &[op(0, -1, 0)]);
    for zero in zeros {
        assert_eq!(status(zero), 0);
    }
    // A zero that lasts for no time: who waits to take comes after who waits for the zero.
    ok!(SYS_semctl, id, 0, SETVAL, 1);
    let zero = waiter(id, vec![op(0, 0, 0)]);
    until(id, 0, GETZCNT, 1);
    let taker = waiter(id, vec![op(0, -3, 0)]);
    until(id, 0, GETNCNT, 1);
    semop(id, &[op(0, 2, 0)]);
    assert_eq!((status(taker), status(zero)), (0, 0));
    remove(id);
}

fn complex_waiters() {
    let id = array(&[0, 0]);
    let both = waiter(id, vec![op(0, -1, 0), op(1, -1, 0)]);
    until(id, 0, GETNCNT, 1);
    // It would wait for the second one only now.
    semop(id, &[op(0, 1, 0)]);
    until(id, 1, GETNCNT, 1);
    assert_eq!(ok!(SYS_semctl, id, 0, GETNCNT, 0), 0);
    let second = waiter(id, vec![op(1, -1, 0)]);
    until(id, 1, GETNCNT, 2);
    semop(id, &[op(1, 1, 0)]);
    // The first that came is the first to go.
    assert_eq!(status(both), 0);
    assert_eq!((values(id), ok!(SYS_semctl, id, 1, GETNCNT, 0)), (vec![0, 0], 1));
    // One that goes lets another one go that came before it.
    let chain = waiter(id, vec![op(0, -2, 0), op(0, 0, 0)]);
    until(id, 0, GETNCNT, 1);
    let link = waiter(id, vec![op(1, -2, 0), op(0, 2, 0)]);
    until(id, 1, GETNCNT, 2);
    semop(id, &[op(1, 3, 0)]);
    assert_eq!((status(second), status(link), status(chain)), (0, 0, 0));
    assert_eq!(values(id), [0, 0]);
    // Zeros of two.
    ok!(SYS_semctl, id, 0, SETALL, &[1u16, 1]);
    let zeros = waiter(id, vec![op(0, 0, 0), op(1, 0, 0), op(0, 7, 0)]);
    until(id, 0, GETZCNT, 1);
    semop(id, &[op(0, -1, 0)]);
    until(id, 1, GETZCNT, 1);
    semop(id, &[op(1, -1, 0)]);
    assert_eq!((status(zeros), values(id)), (0, vec![7, 0]));
    remove(id);
}

fn no_wait_later() {
    let id = array(&[0, 0]);
    let child = waiter(id, vec![op(0, -1, 0), op(1, -1, IPC_NOWAIT)]);
    until(id, 0, GETNCNT, 1);
    semop(id, &[op(0, 1, 0)]);
    assert_eq!((status(child), values(id)), (EAGAIN, vec![1, 0]));
    remove(id);
}

fn values_out_of_bounds() {
    let id = array(&[32767, 0]);
    err!(ERANGE: SYS_semop, id, &op(0, 1, 0), 1);
    err!(ERANGE: SYS_semop, id, &op(0, 1, IPC_NOWAIT), 1);
    // Found out when it could go on at last.
    let child = waiter(id, vec![op(1, -1, 0), op(0, 1, 0)]);
    until(id, 1, GETNCNT, 1);
    semop(id, &[op(1, 1, 0)]);
    assert_eq!((status(child), values(id)), (ERANGE, vec![32767, 1]));
    remove(id);
}

fn timeouts() {
    let id = array(&[0]);
    let start = mono();
    let t = timespec { tv_sec: 0, tv_nsec: 30_000_000 };
    err!(EAGAIN: SYS_semtimedop, id, &op(0, -1, 0), 1, &t);
    assert!(mono() - start >= 30_000_000);
    assert_eq!(ok!(SYS_semctl, id, 0, GETNCNT, 0), 0);
    err!(EAGAIN: SYS_semtimedop, id, &op(0, -1, 0), 1, &timespec { tv_sec: 0, tv_nsec: 0 });
    ok!(SYS_semtimedop, id, &op(0, 1, 0), 1, &timespec { tv_sec: 0, tv_nsec: 0 });
    ok!(SYS_semtimedop, id, &op(0, -1, 0), 1, 0);
    let child = fork(|| {
        let long = timespec { tv_sec: i64::MAX, tv_nsec: 0 };
        ok!(SYS_semtimedop, id, &op(0, -1, 0), 1, &long);
        0
    });
    until(id, 0, GETNCNT, 1);
    semop(id, &[op(0, 1, 0)]);
    assert_eq!(status(child), 0);
    remove(id);
}

fn signals_interrupt() {
    let id = array(&[0]);
    // Never restarted, whatever the handler says.
    on(SIGUSR1, SA_RESTART);
    for timeout in [None, Some(timespec { tv_sec: 100, tv_nsec: 0 })] {
        let child = soon(SIGUSR1, 20);
        let at = timeout.as_ref().map_or(0, |t| std::ptr::from_ref(t) as usize);
        err!(EINTR: SYS_semtimedop, id, &op(0, -1, 0), 1, at);
        assert_eq!(wait(child), 0);
        assert_eq!(ok!(SYS_semctl, id, 0, GETNCNT, 0), 0);
    }
    assert_eq!(count(SIGUSR1), 2);
    // A pending signal ends no operation that does not wait.
    sigmask(SIG_BLOCK, 1 << (SIGUSR1 - 1));
    ok!(SYS_kill, ok!(SYS_getpid), SIGUSR1);
    semop(id, &[op(0, 1, 0)]);
    // A killed waiter leaves the queue.
    let child = waiter(id, vec![op(0, -2, 0)]);
    until(id, 0, GETNCNT, 1);
    ok!(SYS_kill, child, SIGKILL);
    assert_eq!(killed_by(wait(child)), Some(SIGKILL));
    assert_eq!(ok!(SYS_semctl, id, 0, GETNCNT, 0), 0);
    remove(id);
}

fn removal_wakes() {
    let id = array(&[1]);
    let children = [
        waiter(id, vec![op(0, 0, 0)]),
        waiter(id, vec![op(0, -2, 0)]),
        waiter(id, vec![op(0, -2, UNDO), op(0, 1, 0)]),
    ];
    until(id, 0, GETZCNT, 1);
    until(id, 0, GETNCNT, 2);
    remove(id);
    for child in children {
        assert_eq!(status(child), EIDRM);
    }
}

fn undo_at_exit() {
    let id = array(&[5, 0]);
    let child = fork(|| {
        semop(id, &[op(0, -3, UNDO), op(1, 4, UNDO)]);
        semop(id, &[op(0, 1, UNDO), op(1, -1, 0)]);
        assert_eq!(values(id), [3, 3]);
        0
    });
    assert_eq!(status(child), 0);
    // What was not to be undone stays, as far as values allow.
    assert_eq!(values(id), [5, 0]);
    assert_eq!(ok!(SYS_semctl, id, 0, GETPID, 0), child as usize);
    // A child does not have its parent's.
    semop(id, &[op(0, -1, UNDO)]);
    in_child(|| {});
    assert_eq!(value(id, 0), 4);
    remove(id);
}

fn undo_is_capped() {
    let id = array(&[0, 0]);
    in_child(|| {
        semop(id, &[op(0, 10, UNDO)]);
        semop(id, &[op(0, -7, 0)]);
        semop(id, &[op(1, 10, 0)]);
        semop(id, &[op(1, -10, UNDO)]);
        ok!(SYS_semop, id, &op(1, 32760, 0), 1);
    });
    assert_eq!(values(id), [0, 32767]);
    remove(id);
}

fn undo_survives_exec() {
    let id = array(&[0]);
    let (r, w) = pipe(0);
    let child = fork(|| {
        semop(id, &[op(0, 2, UNDO)]);
        ok!(SYS_dup2, w, 1);
        let words = [c"/proc/self/exe", c"echo", c"x"];
        let argv = [words[0].as_ptr(), words[1].as_ptr(), words[2].as_ptr(), std::ptr::null()];
        ok!(SYS_execve, words[0], &argv, &[std::ptr::null::<i8>()]);
        0
    });
    close(w);
    assert_eq!(read(r, 10), b"x\n");
    assert_eq!(wait(child), 0);
    assert_eq!(value(id, 0), 0);
    remove(id);
}

fn undo_of_threads() {
    let id = array(&[0]);
    in_child(|| {
        // Threads share theirs: the end of one undoes nothing.
        let thread = std::thread::spawn(move || semop(id, &[op(0, 3, UNDO)]));
        thread.join().unwrap();
        assert_eq!(value(id, 0), 3);
    });
    assert_eq!(value(id, 0), 0);
    remove(id);
}

fn undo_is_forgotten() {
    let id = array(&[0, 0]);
    in_child(|| {
        semop(id, &[op(0, 3, UNDO), op(1, 3, UNDO)]);
        ok!(SYS_semctl, id, 0, SETVAL, 7);
    });
    assert_eq!(values(id), [7, 0]);
    in_child(|| {
        semop(id, &[op(0, 3, UNDO), op(1, 3, UNDO)]);
        ok!(SYS_semctl, id, 0, SETALL, &[1u16, 1]);
    });
    assert_eq!(values(id), [1, 1]);
    in_child(|| {
        semop(id, &[op(0, 3, UNDO)]);
        remove(id);
    });
}

fn undo_has_bounds() {
    let id = array(&[0]);
    in_child(|| {
        semop(id, &[op(0, 32767, UNDO)]);
        semop(id, &[op(0, -32767, 0)]);
        semop(id, &[op(0, 1, UNDO)]);
        err!(ERANGE: SYS_semop, id, &op(0, 1, UNDO), 1);
        err!(ERANGE: SYS_semop, id, &[op(0, 5, 0), op(0, 1, UNDO)], 2);
        assert_eq!(value(id, 0), 1);
    });
    assert_eq!(value(id, 0), 0);
    remove(id);
}

fn undo_wakes() {
    let id = array(&[1]);
    let (r, w) = pipe(0);
    let holder = fork(|| {
        semop(id, &[op(0, -1, UNDO)]);
        read(r, 1);
        0
    });
    while value(id, 0) != 0 {
        nap(1);
    }
    let next = waiter(id, vec![op(0, -1, UNDO)]);
    until(id, 0, GETNCNT, 1);
    write(w, b"x");
    assert_eq!((status(holder), status(next)), (0, 0));
    assert_eq!(value(id, 0), 1);
    remove(id);
}

fn undo_when_killed() {
    let id = array(&[1]);
    let (r, w) = pipe(0);
    let holder = fork(|| {
        semop(id, &[op(0, -1, UNDO)]);
        write(w, b"x");
        loop {
            nap(1000);
        }
    });
    read(r, 1);
    ok!(SYS_kill, holder, SIGKILL);
    // It has happened when the parent can know of the end.
    wait(holder);
    assert_eq!(value(id, 0), 1);
    remove(id);
}

fn unshare_undoes() {
    let id = array(&[0]);
    in_child(|| {
        semop(id, &[op(0, 2, UNDO)]);
        ok!(SYS_unshare, CLONE_SYSVSEM);
        assert_eq!(value(id, 0), 0);
        semop(id, &[op(0, 2, UNDO)]);
    });
    assert_eq!(value(id, 0), 0);
    remove(id);
}

fn set_values() {
    let id = array(&[0, 0]);
    let before = stat(id);
    ok!(SYS_semctl, id, 1, SETVAL, 32767);
    // An int is taken, whatever else is in the register.
    ok!(SYS_semctl, id, 0, SETVAL, 1u64 << 32 | 9);
    assert_eq!(values(id), [9, 32767]);
    assert_eq!(ok!(SYS_semctl, id, 1, GETPID, 0), ok!(SYS_getpid));
    err!(ERANGE: SYS_semctl, id, 0, SETVAL, 32768);
    err!(ERANGE: SYS_semctl, id, 0, SETVAL, -1);
    err!(ERANGE: SYS_semctl, id, 0, SETALL, &[1u16, 32768]);
    assert_eq!(values(id), [9, 32767]);
    assert_eq!((stat(id).otime, before.otime), (0, 0));
    // Setting lets waiters go.
    let child = waiter(id, vec![op(0, -10, 0)]);
    until(id, 0, GETNCNT, 1);
    ok!(SYS_semctl, id, 0, SETALL, &[11u16, 0]);
    assert_eq!((status(child), values(id)), (0, vec![1, 0]));
    assert!(stat(id).otime > 0);
    let zero = waiter(id, vec![op(0, 0, 0)]);
    until(id, 0, GETZCNT, 1);
    ok!(SYS_semctl, id, 0, SETVAL, 0);
    assert_eq!(status(zero), 0);
    remove(id);
}

fn control_errors() {
    let id = array(&[0]);
    err!(EINVAL: SYS_semctl, -1, 0, GETVAL, 0);
    err!(EINVAL: SYS_semctl, id, 0, 99, 0);
    err!(EINVAL: SYS_semctl, id, 0, -1, 0);
    err!(EINVAL: SYS_semctl, id, 0, IPC_STAT | 0x100, BAD);
    for what in [GETVAL, GETPID, GETNCNT, GETZCNT] {
        err!(EINVAL: SYS_semctl, id, 1, what, 0);
        err!(EINVAL: SYS_semctl, id, -1, what, 0);
        err!(EINVAL: SYS_semctl, id + (1 << 15), 0, what, 0);
    }
    err!(EFAULT: SYS_semctl, id, 0, GETALL, BAD);
    err!(EFAULT: SYS_semctl, id, 0, SETALL, BAD);
    err!(EFAULT: SYS_semctl, id, 0, IPC_STAT, BAD);
    err!(EFAULT: SYS_semctl, id, 0, IPC_SET, BAD);
    err!(EFAULT: SYS_semctl, id + (1 << 15), 0, IPC_SET, BAD);
    err!(EINVAL: SYS_semctl, id + (1 << 15), 0, IPC_RMID, BAD);
    err!(EINVAL: SYS_semctl, id + (1 << 15), 0, SETVAL, 1);
    err!(ERANGE: SYS_semctl, id + (1 << 15), 0, SETVAL, -1);
    remove(id);
}

fn stat_and_set() {
    let id = array(&[0, 0]);
    let mut ds = stat(id);
    (ds.perm.mode, ds.nsems, ds.otime) = (0o7123, 9, 9);
    ok!(SYS_semctl, id, 0, IPC_SET, &ds);
    let now = stat(id);
    assert_eq!((now.perm.mode, now.nsems, now.otime), (0o123, 2, 0));
    ds.perm.uid = u32::MAX;
    err!(EINVAL: SYS_semctl, id, 0, IPC_SET, &ds);
    remove(id);
}

fn stat_by_index() {
    let id = array(&[0, 0]);
    let mut ds = Ds::default();
    for what in [SEM_STAT, SEM_STAT_ANY] {
        assert_eq!(ok!(SYS_semctl, id & 0x7fff, 0, what, &mut ds), id);
        assert_eq!((ds.nsems, usize::from(ds.perm.seq)), (2, id >> 15));
        err!(EINVAL: SYS_semctl, 0x7fff, 0, what, &mut ds);
        err!(EFAULT: SYS_semctl, id & 0x7fff, 0, what, BAD);
    }
    remove(id);
}

fn info() {
    let id = array(&[0; 7]);
    let mut limits = [0i32; 10];
    assert!(ok!(SYS_semctl, 0, 0, IPC_INFO, &mut limits) >= id & 0x7fff);
    let text = text(c"/proc/sys/kernel/sem");
    let words: Vec<i32> = text.split_ascii_whitespace().map(|w| w.parse().unwrap()).collect();
    let [map, mni, mns, mnu, msl, opm, ume, usz, vmx, aem] = limits;
    assert_eq!(words, [msl, mns, opm, mni]);
    println!("{text}{map} {mnu} {ume} {usz} {vmx} {aem}");
    let mut usage = [0i32; 10];
    assert!(ok!(SYS_semctl, 0, 0, SEM_INFO, &mut usage) >= id & 0x7fff);
    assert!(usage[7] >= 1 && usage[9] >= 7, "{usage:?}");
    assert_eq!((&usage[..7], usage[8]), (&limits[..7], limits[8]));
    err!(EFAULT: SYS_semctl, 0, 0, IPC_INFO, BAD);
    err!(EINVAL: SYS_semctl, -1, 0, SEM_INFO, BAD);
    remove(id);
}

fn proc_table() {
    let id = array(&[0; 3]);
    let table = text(c"/proc/sysvipc/sem");
    let (head, rows) = table.split_once('\n').unwrap();
    println!("{head}");
    let row = rows.lines().find(|l| l.split_ascii_whitespace().nth(1) == Some(&id.to_string()));
    let row = row.unwrap();
    let Ds { perm, otime, ctime, .. } = stat(id);
    let words: Vec<&str> = row.split_ascii_whitespace().collect();
    let Perm { uid, gid, cuid, cgid, .. } = perm;
    assert_eq!(
        words.join(" "),
        format!("0 {id} 600 3 {uid} {gid} {cuid} {cgid} {otime} {ctime}")
    );
    assert_eq!(row.len(), head.len(), "{row:?}");
    remove(id);
}

fn shared_counter() {
    // Two words that only who holds the semaphore may touch.
    let id = array(&[1]);
    let at = map_shared(4096);
    let children: Vec<i32> = (0..4)
        .map(|_| {
            fork(|| {
                for _ in 0..200 {
                    semop(id, &[op(0, -1, UNDO)]);
                    let old = peek(at + 1);
                    poke(at, peek(at).wrapping_add(1));
                    poke(at + 1, old.wrapping_add(1));
                    semop(id, &[op(0, 1, UNDO)]);
                }
                0
            })
        })
        .collect();
    for child in children {
        assert_eq!(wait(child), 0);
    }
    assert_eq!((peek(at), peek(at + 1), value(id, 0)), ((800 % 256) as u8, (800 % 256) as u8, 1));
    remove(id);
}
