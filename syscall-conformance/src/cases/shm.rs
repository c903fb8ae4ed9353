//! System V shared memory.

use crate::helpers::*;
use crate::ipc::{Kind, Perm, as_user, janitor, keep, key};
use crate::sys::BAD;

cases![
    get_and_attach,
    keys,
    sizes,
    permissions,
    capabilities,
    attach_addresses,
    attach_read_only,
    attach_executable,
    shared_by_fork,
    exit_detaches,
    exec_detaches,
    parts_are_counted,
    moved_parts,
    detach_rules,
    removed_lives_on,
    removed_never_attached,
    stat_and_set,
    stat_by_index,
    lock_rules,
    control_errors,
    info,
    maps_show_segments,
    proc_table,
    huge_pages,
    pages_past_the_end,
    limits_of_files,
];

const CAP_SETPCAP: u32 = 8;
const CAP_IPC_LOCK: u32 = 14;
const CAP_IPC_OWNER: u32 = 15;
const CAP_SYS_ADMIN: u32 = 21;
const SHM_NORESERVE: i32 = 0o10000;
const SHM_DEST: u32 = 0o1000;
const SHM_LOCKED: u32 = 0o2000;
const SHM_STAT: i32 = 13;
const SHM_INFO: i32 = 14;
const SHM_STAT_ANY: i32 = 15;

/// `struct shmid64_ds`
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
struct Ds {
    perm: Perm,
    segsz: u64,
    atime: i64,
    dtime: i64,
    ctime: i64,
    cpid: i32,
    lpid: i32,
    nattch: u64,
    unused: [u64; 2],
}

fn segment(size: usize, mode: i32) -> usize {
    janitor();
    keep(Kind::Shm, ok!(SYS_shmget, IPC_PRIVATE, size, IPC_CREAT | mode))
}

fn stat(id: usize) -> Ds {
    let mut ds = Ds::default();
    ok!(SYS_shmctl, id, IPC_STAT, &mut ds);
    ds
}

fn attach(id: usize) -> usize {
    ok!(SYS_shmat, id, 0, 0)
}

fn attached(id: usize) -> u64 {
    stat(id).nattch
}

fn remove(id: usize) {
    ok!(SYS_shmctl, id, IPC_RMID, 0);
}

fn get_and_attach() {
    let id = segment(10_000, 0o600);
    let ds = stat(id);
    assert_eq!((ds.segsz, ds.nattch, ds.atime, ds.dtime, ds.lpid), (10_000, 0, 0, 0, 0));
    assert_eq!((ds.perm.mode, ds.perm.key), (0o600, 0));
    assert_eq!(ds.cpid as usize, ok!(SYS_getpid));
    let now = now(CLOCK_REALTIME) as i64 / 1_000_000_000;
    assert!((now - 100..=now).contains(&ds.ctime), "{}", ds.ctime);
    let (a, b) = (attach(id), attach(id));
    assert_ne!(a, b);
    poke(a + 9999, 7);
    assert_eq!((peek(b + 9999), peek(b)), (7, 0));
    let ds = stat(id);
    assert_eq!((ds.nattch, ds.lpid), (2, ds.cpid));
    assert!(ds.atime >= ds.ctime && ds.dtime == 0);
    ok!(SYS_shmdt, a);
    assert_eq!(attached(id), 1);
    assert!(stat(id).dtime >= ds.ctime);
    assert!(fault(|| _ = peek(a)).is_some());
    ok!(SYS_shmdt, b);
    // What was written stays while nobody has it attached.
    let c = attach(id);
    assert_eq!(peek(c + 9999), 7);
    remove(id);
}

fn keys() {
    janitor();
    let key = key();
    err!(ENOENT: SYS_shmget, key, 4096, 0o600);
    let id = keep(Kind::Shm, ok!(SYS_shmget, key, 4096, IPC_CREAT | 0o600));
    assert_eq!(stat(id).perm.key, key);
    assert_eq!(ok!(SYS_shmget, key, 0, 0), id);
    assert_eq!(ok!(SYS_shmget, key, 4096, IPC_CREAT | 0o666), id);
    err!(EINVAL: SYS_shmget, key, 4097, 0);
    err!(EEXIST: SYS_shmget, key, 4096, IPC_CREAT | IPC_EXCL | 0o600);
    err!(EEXIST: SYS_shmget, key, 40960, IPC_CREAT | IPC_EXCL | 0o600);
    // IPC_EXCL alone says nothing.
    assert_eq!(ok!(SYS_shmget, key, 4096, IPC_EXCL), id);
    remove(id);
    err!(ENOENT: SYS_shmget, key, 4096, 0);
    let other = keep(Kind::Shm, ok!(SYS_shmget, key, 4096, IPC_CREAT | 0o600));
    assert_ne!(id, other);
    remove(other);
}

fn sizes() {
    err!(EINVAL: SYS_shmget, IPC_PRIVATE, 0, IPC_CREAT | 0o600);
    err!(EINVAL: SYS_shmget, IPC_PRIVATE, usize::MAX, IPC_CREAT | 0o600);
    let id = segment(1, 0o600);
    let at = attach(id);
    // Whole pages are there.
    poke(at + 4095, 1);
    remove(id);
    // Without IPC_CREAT, a private segment is made all the same.
    remove(keep(Kind::Shm, ok!(SYS_shmget, IPC_PRIVATE, 1, 0)));
}

fn permissions() {
    need_cap(CAP_SETUID);
    need_cap(CAP_SETGID);
    janitor();
    let key = key();
    let id = keep(Kind::Shm, ok!(SYS_shmget, key, 4096, IPC_CREAT | 0o640));
    let (mine, other) = (ok!(SYS_getegid) as u32, 12345);
    in_child(|| {
        // Of the group.
        ok!(SYS_setgroups, 1, &[mine]);
        ok!(SYS_setresgid, other, other, other);
        ok!(SYS_setresuid, other, other, other);
        assert_eq!(ok!(SYS_shmget, key, 0, 0o400), id);
        err!(EACCES: SYS_shmget, key, 0, 0o600);
        err!(EACCES: SYS_shmget, key, 0, 0o002);
        ok!(SYS_shmat, id, 0, SHM_RDONLY);
        err!(EACCES: SYS_shmat, id, 0, 0);
        err!(EACCES: SYS_shmat, id, 0, SHM_RDONLY | SHM_EXEC);
        stat(id);
        err!(EPERM: SYS_shmctl, id, IPC_RMID, 0);
        err!(EPERM: SYS_shmctl, id, IPC_SET, &Ds::default());
        err!(EPERM: SYS_shmctl, id, SHM_LOCK, 0);
        err!(EPERM: SYS_shmctl, id, SHM_UNLOCK, 0);
    });
    as_user(other, || {
        assert_eq!(ok!(SYS_shmget, key, 0, 0), id);
        err!(EACCES: SYS_shmget, key, 0, 0o400);
        err!(EACCES: SYS_shmat, id, 0, SHM_RDONLY);
        err!(EACCES: SYS_shmctl, id, IPC_STAT, &mut Ds::default());
        let mut ds = Ds::default();
        err!(EACCES: SYS_shmctl, id & 0x7fff, SHM_STAT, &mut ds);
        assert_eq!(ok!(SYS_shmctl, id & 0x7fff, SHM_STAT_ANY, &mut ds), id);
        assert_eq!(ds.perm.mode, 0o640);
    });
    // Given away: the creator keeps his rights.
    let mut ds = stat(id);
    (ds.perm.uid, ds.perm.gid, ds.perm.mode) = (other, other, 0o7600);
    ok!(SYS_shmctl, id, IPC_SET, &ds);
    let now = stat(id).perm;
    assert_eq!((now.uid, now.gid, now.cuid, now.mode), (other, other, ds.perm.cuid, 0o600));
    as_user(other, || {
        attach(id);
        remove(id);
    });
}

fn capabilities() {
    need_cap(CAP_SETUID);
    need_cap(CAP_SETPCAP);
    let id = segment(4096, 0);
    // The owner has no access to a segment without any; CAP_IPC_OWNER has.
    attach(id);
    stat(id);
    in_child(|| {
        let header = [0x2008_0522u32, 0];
        let caps = caps() & !(1 << CAP_IPC_OWNER) & !(1 << CAP_SYS_ADMIN);
        let (low, high) = (caps as u32, (caps >> 32) as u32);
        ok!(SYS_capset, &header, &[low, low, 0, high, high, 0u32]);
        err!(EACCES: SYS_shmat, id, 0, 0);
        err!(EACCES: SYS_shmctl, id, IPC_STAT, &mut Ds::default());
        // The owner may always change and remove.
        ok!(SYS_shmctl, id, IPC_RMID, 0);
    });
}

fn attach_addresses() {
    let id = segment(8192, 0o600);
    let free = map(16384, PROT_READ);
    ok!(SYS_munmap, free, 16384);
    assert_eq!(ok!(SYS_shmat, id, free, 0), free);
    err!(EINVAL: SYS_shmat, id, free, 0);
    err!(EINVAL: SYS_shmat, id, free + 4096, 0);
    err!(EINVAL: SYS_shmat, id, free + 1, 0);
    err!(EINVAL: SYS_shmat, id, free + 8192 + 1, 0);
    assert_eq!(ok!(SYS_shmat, id, free + 8192 + 4095, SHM_RND), free + 8192);
    err!(EINVAL: SYS_shmat, id, 0, SHM_REMAP);
    err!(EINVAL: SYS_shmat, id, 4095, SHM_REMAP | SHM_RND);
    err!(EINVAL: SYS_shmat, id, 4095, SHM_REMAP);
    err!(EINVAL: SYS_shmat, id, usize::MAX - 4095, 0);
    err!(ENOMEM: SYS_shmat, id, 1usize << 47, 0);
    assert_eq!(attached(id), 2);
    assert_eq!(ok!(SYS_shmat, id, free + 4096, SHM_REMAP), free + 4096);
    // One was cut at its end, the other at its start.
    assert_eq!(attached(id), 3);
    poke(free + 4096, 9);
    assert_eq!((peek(free), peek(free + 12288)), (9, 0));
    err!(EINVAL: SYS_shmat, -1, 0, 0);
    err!(EINVAL: SYS_shmat, id + (1 << 15), 0, 0);
    err!(EINVAL: SYS_shmat, -1, free + 1, 0);
    remove(id);
}

fn attach_read_only() {
    let id = segment(4096, 0o600);
    let (r, w) = (ok!(SYS_shmat, id, 0, SHM_RDONLY), attach(id));
    poke(w, 5);
    assert_eq!(peek(r), 5);
    assert_eq!(fault(|| poke(r, 1)).map(|f| (f.0, f.1)), Some((SIGSEGV, 2)));
    err!(EACCES: SYS_mprotect, r, 4096, PROT_READ | PROT_WRITE);
    ok!(SYS_mprotect, r, 4096, PROT_READ | PROT_EXEC);
    ok!(SYS_mprotect, w, 4096, PROT_READ);
    assert_eq!(fault(|| poke(w, 1)).map(|f| f.0), Some(SIGSEGV));
    ok!(SYS_mprotect, w, 4096, PROT_READ | PROT_WRITE);
    poke(w, 6);
    assert_eq!(peek(r), 6);
    remove(id);
}

fn attach_executable() {
    let id = segment(4096, 0o700);
    let (w, x) = (attach(id), ok!(SYS_shmat, id, 0, SHM_RDONLY | SHM_EXEC));
    // mov $42, %eax; ret
    for (i, byte) in [0xb8u8, 42, 0, 0, 0, 0xc3].into_iter().enumerate() {
        poke(w + i, byte);
    }
    // SAFETY: that is a function's code, at an executable address.
    let code: extern "C" fn() -> i32 = unsafe { std::mem::transmute(x) };
    assert_eq!(code(), 42);
    assert!(text(c"/proc/self/maps").lines().any(|l| l.contains("r-xs") && l.contains("SYSV")));
    remove(id);
}

fn shared_by_fork() {
    let id = segment(4096, 0o600);
    let at = attach(id);
    in_child(|| {
        assert_eq!(attached(id), 2);
        poke(at, 3);
        let again = attach(id);
        assert_eq!((peek(again), attached(id)), (3, 3));
        ok!(SYS_shmdt, at);
        assert_eq!(attached(id), 2);
    });
    assert_eq!((peek(at), attached(id)), (3, 1));
    // Not inherited.
    ok!(SYS_madvise, at, 4096, MADV_DONTFORK);
    in_child(|| {
        assert_eq!(attached(id), 1);
        assert!(fault(|| _ = peek(at)).is_some());
    });
    remove(id);
}

fn exit_detaches() {
    let id = segment(4096, 0o600);
    let child = fork(|| {
        attach(id);
        attach(id);
        assert_eq!(attached(id), 2);
        0
    });
    assert_eq!(wait(child), 0);
    let ds = stat(id);
    assert_eq!((ds.nattch, ds.lpid), (0, child));
    assert!(ds.dtime >= ds.atime);
    let killed = fork(|| {
        attach(id);
        ok!(SYS_kill, ok!(SYS_getpid), SIGKILL);
        0
    });
    assert_eq!(killed_by(wait(killed)), Some(SIGKILL));
    assert_eq!(attached(id), 0);
    remove(id);
}

fn exec_detaches() {
    let id = segment(4096, 0o600);
    let (r, w) = pipe(0);
    let (r2, w2) = pipe(0);
    let child = fork(|| {
        attach(id);
        close(r);
        close(w2);
        // A program that waits for its standard input to end.
        ok!(SYS_dup2, r2, 0);
        ok!(SYS_dup2, w, 1);
        close(w);
        let words = [c"/proc/self/exe", c"echo", c"hello"];
        let argv = [words[0].as_ptr(), words[1].as_ptr(), words[2].as_ptr(), std::ptr::null()];
        ok!(SYS_execve, words[0], &argv, &[std::ptr::null::<i8>()]);
        0
    });
    close(w);
    close(r2);
    assert_eq!(read(r, 100), b"hello\n");
    assert_eq!(attached(id), 0);
    close(w2);
    assert_eq!(wait(child), 0);
    remove(id);
}

fn parts_are_counted() {
    let id = segment(5 * 4096, 0o600);
    let at = attach(id);
    // A hole in the middle makes two areas of one.
    ok!(SYS_munmap, at + 4096, 4096);
    assert_eq!(attached(id), 2);
    ok!(SYS_mprotect, at + 3 * 4096, 4096, PROT_READ);
    assert_eq!(attached(id), 4);
    ok!(SYS_mprotect, at + 3 * 4096, 4096, PROT_READ | PROT_WRITE);
    assert_eq!(attached(id), 4);
    ok!(SYS_munmap, at + 4 * 4096, 4096);
    assert_eq!(attached(id), 3);
    in_child(|| {
        assert_eq!(attached(id), 6);
        ok!(SYS_shmdt, at);
        assert_eq!(attached(id), 3);
        err!(EINVAL: SYS_shmdt, at);
    });
    ok!(SYS_shmdt, at);
    assert_eq!(attached(id), 0);
    remove(id);
}

fn moved_parts() {
    let id = segment(4 * 4096, 0o600);
    let at = attach(id);
    poke(at + 4096, 8);
    let to = map(4 * 4096, PROT_NONE);
    let moved = ok!(SYS_mremap, at + 4096, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, to);
    assert_eq!((peek(moved), attached(id)), (8, 3));
    // The first part begins where it says, the rest as well: the one that moved stays.
    ok!(SYS_shmdt, at);
    assert_eq!((peek(moved), attached(id)), (8, 1));
    err!(EINVAL: SYS_shmdt, moved);
    // By its distance from there, it would have begun a page earlier.
    ok!(SYS_shmdt, moved - 4096);
    assert_eq!(attached(id), 0);
    // A second view of the same, by an old length of 0.
    let at = attach(id);
    let again = ok!(SYS_mremap, at, 0, 8192, MREMAP_MAYMOVE, 0);
    poke(again, 4);
    assert_eq!((peek(at), attached(id)), (4, 2));
    ok!(SYS_shmdt, again);
    assert_eq!(attached(id), 1);
    remove(id);
}

fn detach_rules() {
    let id = segment(8192, 0o600);
    let at = attach(id);
    err!(EINVAL: SYS_shmdt, at + 1);
    err!(EINVAL: SYS_shmdt, at + 4096);
    err!(EINVAL: SYS_shmdt, map_shared(4096));
    err!(EINVAL: SYS_shmdt, 0);
    err!(EINVAL: SYS_shmdt, usize::MAX - 4095);
    // Where the start was unmapped, the rest is found from there.
    ok!(SYS_munmap, at, 4096);
    ok!(SYS_shmdt, at);
    assert_eq!(attached(id), 0);
    remove(id);
}

fn removed_lives_on() {
    janitor();
    let key = key();
    let id = keep(Kind::Shm, ok!(SYS_shmget, key, 4096, IPC_CREAT | 0o600));
    let at = attach(id);
    remove(id);
    let ds = stat(id);
    assert_eq!((ds.perm.mode, ds.perm.key, ds.nattch), (SHM_DEST | 0o600, 0, 1));
    err!(ENOENT: SYS_shmget, key, 0, 0);
    // Linux lets who knows the number attach still.
    let again = attach(id);
    poke(again, 2);
    assert_eq!((peek(at), attached(id)), (2, 2));
    remove(id);
    ok!(SYS_shmdt, at);
    assert_eq!(attached(id), 1);
    ok!(SYS_shmdt, again);
    err!(EINVAL: SYS_shmctl, id, IPC_STAT, &mut Ds::default());
    err!(EINVAL: SYS_shmat, id, 0, 0);
    err!(EINVAL: SYS_shmctl, id, IPC_RMID, 0);
}

fn removed_never_attached() {
    let id = segment(4096, 0o600);
    remove(id);
    err!(EINVAL: SYS_shmctl, id, IPC_STAT, &mut Ds::default());
    // A mapping that fails takes what was to go with it: nothing here, as it is not marked.
    let id = segment(4096, 0o600);
    err!(EINVAL: SYS_shmat, id, map(4096, PROT_READ), 0);
    assert_eq!(attached(id), 0);
    remove(id);
}

fn stat_and_set() {
    let id = segment(100, 0o604);
    let mut ds = stat(id);
    ds.perm.mode = 0o123;
    ds.perm.key = 77;
    ds.segsz = 1;
    ok!(SYS_shmctl, id, IPC_SET, &ds);
    let now = stat(id);
    assert_eq!((now.perm.mode, now.perm.key, now.segsz), (0o123, 0, 100));
    for (uid, gid) in [(u32::MAX, 0), (0, u32::MAX)] {
        (ds.perm.uid, ds.perm.gid) = (uid, gid);
        err!(EINVAL: SYS_shmctl, id, IPC_SET, &ds);
    }
    err!(EFAULT: SYS_shmctl, id, IPC_SET, BAD);
    err!(EFAULT: SYS_shmctl, id, IPC_STAT, BAD);
    err!(EINVAL: SYS_shmctl, id + (1 << 15), IPC_STAT, BAD);
    remove(id);
}

fn stat_by_index() {
    let id = segment(100, 0o600);
    let mut ds = Ds::default();
    for cmd in [SHM_STAT, SHM_STAT_ANY] {
        assert_eq!(ok!(SYS_shmctl, id & 0x7fff, cmd, &mut ds), id);
        // The sequence number does not count.
        assert_eq!(ok!(SYS_shmctl, id & 0x7fff | 1 << 15, cmd, &mut ds), id);
        assert_eq!(ds.segsz, 100);
        err!(EINVAL: SYS_shmctl, 0x7fff, cmd, &mut ds);
        err!(EFAULT: SYS_shmctl, id & 0x7fff, cmd, BAD);
    }
    assert_eq!(usize::from(ds.perm.seq), id >> 15);
    remove(id);
}

fn lock_rules() {
    need_cap(CAP_SETUID);
    need_cap(CAP_SETGID);
    need_cap(CAP_IPC_LOCK);
    let id = segment(8192, 0o666);
    ok!(SYS_shmctl, id, SHM_UNLOCK, 0);
    ok!(SYS_shmctl, id, SHM_LOCK, 0);
    ok!(SYS_shmctl, id, SHM_LOCK, 0);
    assert_eq!(stat(id).perm.mode, SHM_LOCKED | 0o666);
    ok!(SYS_shmctl, id, SHM_UNLOCK, 0);
    assert_eq!(stat(id).perm.mode, 0o666);
    remove(id);
    let user = 23456;
    as_user(user, || {
        let id = segment(8192, 0o600);
        let limit = |bytes: u64| {
            ok!(SYS_setrlimit, RLIMIT_MEMLOCK, &[bytes, 8192u64]);
        };
        limit(0);
        err!(EPERM: SYS_shmctl, id, SHM_LOCK, 0);
        ok!(SYS_shmctl, id, SHM_UNLOCK, 0);
        limit(4096);
        err!(ENOMEM: SYS_shmctl, id, SHM_LOCK, 0);
        limit(8192);
        ok!(SYS_shmctl, id, SHM_LOCK, 0);
        let second = segment(1, 0o600);
        err!(ENOMEM: SYS_shmctl, second, SHM_LOCK, 0);
        remove(id);
        ok!(SYS_shmctl, second, SHM_LOCK, 0);
        remove(second);
    });
}

fn control_errors() {
    let id = segment(1, 0o600);
    err!(EINVAL: SYS_shmctl, -1, IPC_STAT, &mut Ds::default());
    err!(EINVAL: SYS_shmctl, id, -1, &mut Ds::default());
    err!(EINVAL: SYS_shmctl, id, 99, &mut Ds::default());
    err!(EINVAL: SYS_shmctl, id, IPC_STAT | 0x100, &mut Ds::default());
    err!(EINVAL: SYS_shmctl, id + (1 << 15), IPC_RMID, 0);
    err!(EINVAL: SYS_shmctl, id + (1 << 15), SHM_LOCK, 0);
    err!(EINVAL: SYS_shmctl, -1, IPC_INFO, 0);
    remove(id);
}

fn info() {
    let id = segment(3 * 4096, 0o600);
    let mut limits = [0u64; 9];
    let max = ok!(SYS_shmctl, 0, IPC_INFO, &mut limits);
    assert!(max >= id & 0x7fff);
    let [shmmax, shmmin, shmmni, shmseg, shmall, ..] = limits;
    for (name, value) in [("shmmax", shmmax), ("shmmni", shmmni), ("shmall", shmall)] {
        let path = std::ffi::CString::new(format!("/proc/sys/kernel/{name}")).unwrap();
        assert_eq!(text(&path).trim(), value.to_string(), "{name}");
    }
    assert_eq!((shmmin, shmseg), (1, shmmni));
    let mut usage = [0u64; 6];
    assert!(ok!(SYS_shmctl, 0, SHM_INFO, &mut usage) >= id & 0x7fff);
    assert!(usage[0] >= 1 && usage[1] >= 3, "{usage:?}");
    err!(EFAULT: SYS_shmctl, 0, IPC_INFO, BAD);
    err!(EFAULT: SYS_shmctl, 0, SHM_INFO, BAD);
    println!("{}", text(c"/proc/sys/kernel/shm_rmid_forced").trim());
    remove(id);
}

fn maps_show_segments() {
    janitor();
    let key = key();
    let id = keep(Kind::Shm, ok!(SYS_shmget, key, 8192, IPC_CREAT | 0o600));
    let (a, b) = (attach(id), ok!(SYS_shmat, id, 0, SHM_RDONLY));
    ok!(SYS_munmap, b, 4096);
    let private = attach(segment(1, 0o600));
    let name = format!("/SYSV{key:08x} (deleted)");
    let maps = text(c"/proc/self/maps");
    let line = |at: usize| {
        let line = maps.lines().find(|l| l.starts_with(&format!("{at:x}-"))).unwrap();
        let mut words = line.split_ascii_whitespace().skip(1);
        let mut next = || words.next().unwrap();
        let (prot, offset, _, ino) = (next().to_string(), next(), next(), next());
        (prot, offset.to_string(), ino.to_string(), words.collect::<Vec<_>>().join(" "))
    };
    assert_eq!(line(a), ("rw-s".into(), "00000000".into(), id.to_string(), name.clone()));
    assert_eq!(line(b + 4096), ("r--s".into(), "00001000".into(), id.to_string(), name));
    assert_eq!(line(private).3, "/SYSV00000000 (deleted)");
    remove(id);
}

fn proc_table() {
    let id = segment(12345, 0o640);
    attach(id);
    let table = text(c"/proc/sysvipc/shm");
    let (head, rows) = table.split_once('\n').unwrap();
    println!("{head}");
    let row = rows.lines().find(|l| l.split_ascii_whitespace().nth(1) == Some(&id.to_string()));
    let row = row.unwrap();
    let ds = stat(id);
    let words: Vec<&str> = row.split_ascii_whitespace().collect();
    let expected = format!(
        "0 {id} 640 12345 {} {} 1 {} {} {} {} {} {} {}",
        ds.cpid,
        ds.lpid,
        ds.perm.uid,
        ds.perm.gid,
        ds.perm.cuid,
        ds.perm.cgid,
        ds.atime,
        ds.dtime,
        ds.ctime
    );
    assert_eq!(words[..14].join(" "), expected);
    assert_eq!((row.len(), words.len()), (head.len(), 16), "{row:?}");
    remove(id);
}

fn huge_pages() {
    const SHM_HUGETLB: i32 = 0o4000;
    // Pages of 16 KiB there are on no x86.
    err!(EINVAL: SYS_shmget, IPC_PRIVATE, 1 << 21, IPC_CREAT | SHM_HUGETLB | 14 << 26 | 0o600);
    if text(c"/proc/sys/vm/nr_hugepages").trim() == "0" {
        err!(ENOMEM: SYS_shmget, IPC_PRIVATE, 1 << 21, IPC_CREAT | SHM_HUGETLB | 0o600);
    }
}

fn pages_past_the_end() {
    let id = segment(4096, 0o600);
    let at = attach(id);
    let grown = ok!(SYS_mremap, at, 4096, 8192, MREMAP_MAYMOVE, 0);
    poke(grown, 1);
    assert_eq!(fault(|| poke(grown + 4096, 1)).map(|f| f.0), Some(SIGBUS));
    assert_eq!(attached(id), 1);
    ok!(SYS_shmdt, grown);
    remove(id);
}

fn limits_of_files() {
    // More than any machine has, and reserved.
    err!(ENOMEM: SYS_shmget, IPC_PRIVATE, 1usize << 46, IPC_CREAT | 0o600);
    let id = keep(
        Kind::Shm,
        ok!(SYS_shmget, IPC_PRIVATE, 1usize << 40, IPC_CREAT | SHM_NORESERVE | 0o600),
    );
    let at = attach(id);
    poke(at + (1 << 39), 1);
    remove(id);
}
