//! brk, madvise, mincore, msync, mlock, process_vm_readv, memfd.

use crate::helpers::*;
use crate::sys::BAD;

const RW: i32 = PROT_READ | PROT_WRITE;

cases![
    brk_moves,
    brk_limits,
    brk_over_fork,
    madvise_dontneed,
    madvise_errors,
    madvise_file,
    madvise_wipe_on_fork,
    madvise_dont_fork,
    mincore_rules,
    msync_rules,
    mlock_rules,
    memfd_basics,
    memfd_seals,
    memfd_errors,
    process_vm,
    membarrier_query,
];

fn brk_moves() {
    let start = ok!(SYS_brk, 0);
    assert_eq!(ok!(SYS_brk, start + 10 * PAGE), start + 10 * PAGE);
    poke(start + 10 * PAGE - 1, 1);
    assert_eq!(peek(start + 5 * PAGE), 0);
    assert_eq!(ok!(SYS_brk, start + 2 * PAGE + 5), start + 2 * PAGE + 5);
    assert!(fault(|| poke(start + 9 * PAGE, 1)).is_some());
    // Memory given back and taken again is zero.
    assert_eq!(ok!(SYS_brk, start + 10 * PAGE), start + 10 * PAGE);
    assert_eq!(peek(start + 10 * PAGE - 1), 0);
    assert_eq!(ok!(SYS_brk, start), start);
}

fn brk_limits() {
    let start = ok!(SYS_brk, 0);
    // What cannot be is answered with the old break, not with an error.
    assert_eq!(ok!(SYS_brk, 1), start);
    assert_eq!(ok!(SYS_brk, 1u64 << 62), start);
    let lim = rlimit { rlim_cur: 0, rlim_max: 0 };
    in_child(|| {
        ok!(SYS_setrlimit, RLIMIT_DATA, &lim);
        assert_eq!(ok!(SYS_brk, start + (1 << 20)), start);
    });
    // A mapping in the way stops it.
    let page = start.next_multiple_of(PAGE) + 4 * PAGE;
    ok!(SYS_mmap, page, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    assert_eq!(ok!(SYS_brk, page + 2 * PAGE), start);
}

fn brk_over_fork() {
    let start = ok!(SYS_brk, 0);
    ok!(SYS_brk, start + PAGE);
    poke(start, 1);
    in_child(|| {
        assert_eq!(ok!(SYS_brk, 0), start + PAGE);
        poke(start, 2);
        ok!(SYS_brk, start + 4 * PAGE);
    });
    assert_eq!((ok!(SYS_brk, 0), peek(start)), (start + PAGE, 1));
}

fn madvise_dontneed() {
    let at = map(4 * PAGE, RW);
    for i in 0..4 {
        poke(at + i * PAGE, 9);
    }
    ok!(SYS_madvise, at + PAGE, 2 * PAGE, MADV_DONTNEED);
    assert_eq!([peek(at), peek(at + PAGE), peek(at + 2 * PAGE), peek(at + 3 * PAGE)], [9, 0, 0, 9]);
    let shared = map_shared(PAGE);
    poke(shared, 9);
    ok!(SYS_madvise, shared, PAGE, MADV_DONTNEED);
    assert_eq!(peek(shared), 9, "shared memory keeps its content");
    ok!(SYS_madvise, shared, PAGE, MADV_REMOVE);
    assert_eq!(peek(shared), 0);
}

fn madvise_errors() {
    let at = map(4 * PAGE, RW);
    err!(EINVAL: SYS_madvise, at + 1, PAGE, MADV_DONTNEED);
    err!(EINVAL: SYS_madvise, at, PAGE, 9999);
    err!(EINVAL: SYS_madvise, at, -1i64, MADV_DONTNEED);
    ok!(SYS_madvise, at, 0, MADV_DONTNEED);
    ok!(SYS_munmap, at + PAGE, PAGE);
    poke(at + 2 * PAGE, 1);
    // The rest beyond the hole is done all the same.
    err!(ENOMEM: SYS_madvise, at, 4 * PAGE, MADV_DONTNEED);
    assert_eq!(peek(at + 2 * PAGE), 0);
    for advice in [MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_FREE, MADV_HUGEPAGE] {
        ok!(SYS_madvise, at, PAGE, advice);
    }
}

fn madvise_file() {
    let fd = temp(c"f", b"hello");
    let at = ok!(SYS_mmap, 0, PAGE, RW, MAP_PRIVATE, fd, 0);
    poke(at, b'J');
    ok!(SYS_madvise, at, PAGE, MADV_DONTNEED);
    assert_eq!(peek(at), b'h');
}

fn madvise_wipe_on_fork() {
    let at = map(PAGE, RW);
    poke(at, 9);
    ok!(SYS_madvise, at, PAGE, MADV_WIPEONFORK);
    in_child(|| assert_eq!(peek(at), 0));
    assert_eq!(peek(at), 9);
    ok!(SYS_madvise, at, PAGE, MADV_KEEPONFORK);
    in_child(|| assert_eq!(peek(at), 9));
    let shared = map_shared(PAGE);
    err!(EINVAL: SYS_madvise, shared, PAGE, MADV_WIPEONFORK);
}

fn madvise_dont_fork() {
    let at = map(PAGE, RW);
    ok!(SYS_madvise, at, PAGE, MADV_DONTFORK);
    let status = status_of(|| i32::from(peek(at)));
    assert_eq!(killed_by(status), Some(SIGSEGV));
    ok!(SYS_madvise, at, PAGE, MADV_DOFORK);
    in_child(|| _ = peek(at));
}

fn mincore_rules() {
    let at = map(3 * PAGE, RW);
    poke(at + PAGE, 1);
    let mut v = [9u8; 3];
    ok!(SYS_mincore, at, 3 * PAGE, &mut v);
    assert_eq!(v[1] & 1, 1);
    err!(EINVAL: SYS_mincore, at + 1, PAGE, &mut v);
    err!(EFAULT: SYS_mincore, at, PAGE, BAD);
    ok!(SYS_mincore, at, 0, &mut v);
    ok!(SYS_munmap, at + 2 * PAGE, PAGE);
    err!(ENOMEM: SYS_mincore, at, 3 * PAGE, &mut v);
    err!(ENOMEM: SYS_mincore, at, i64::MAX, &mut v);
}

fn msync_rules() {
    let at = map_shared(3 * PAGE);
    ok!(SYS_msync, at, PAGE, MS_SYNC);
    ok!(SYS_msync, at, PAGE, MS_ASYNC | MS_INVALIDATE);
    ok!(SYS_msync, at, 0, 0);
    err!(EINVAL: SYS_msync, at, PAGE, MS_SYNC | MS_ASYNC);
    err!(EINVAL: SYS_msync, at + 1, PAGE, MS_SYNC);
    err!(EINVAL: SYS_msync, at, PAGE, 64);
    ok!(SYS_munmap, at + PAGE, PAGE);
    err!(ENOMEM: SYS_msync, at, 3 * PAGE, MS_SYNC);
    err!(ENOMEM: SYS_msync, at, -4096i64, MS_SYNC);
}

fn mlock_rules() {
    let at = map(2 * PAGE, RW);
    ok!(SYS_mlock, at, PAGE);
    ok!(SYS_mlock, at + 1, 1);
    ok!(SYS_munlock, at, PAGE);
    err!(EINVAL: SYS_mlock2, at, PAGE, 8);
    err!(EINVAL: SYS_mlockall, 0);
    err!(EINVAL: SYS_mlockall, 0x10);
    ok!(SYS_munlockall);
    ok!(SYS_munmap, at + PAGE, PAGE);
    err!(ENOMEM: SYS_mlock, at, 2 * PAGE);
    let lim = rlimit { rlim_cur: 0, rlim_max: 0 };
    ok!(SYS_setrlimit, RLIMIT_MEMLOCK, &lim);
    need_unprivileged();
    err!(EPERM: SYS_mlock, at, PAGE);
}

fn memfd_basics() {
    let fd = ok!(SYS_memfd_create, c"name", 0) as i32;
    assert_eq!(fstat(fd).st_mode, S_IFREG | 0o777);
    write(fd, b"hello");
    let at = ok!(SYS_mmap, 0, PAGE, RW, MAP_SHARED, fd, 0);
    assert_eq!(peek(at), b'h');
    in_child(|| poke(at, b'J'));
    let mut b = [0u8; 5];
    ok!(SYS_pread64, fd, &mut b, 5, 0);
    assert_eq!(&b, b"Jello");
    let name = std::ffi::CString::new(format!("/proc/self/fd/{fd}")).unwrap();
    let mut b = [0u8; 64];
    let n = ok!(SYS_readlink, name.as_c_str(), &mut b, 64);
    println!("{}", String::from_utf8_lossy(&b[..n]));
    assert_eq!(ok!(SYS_fcntl, fd, F_GETFD, 0), 0);
    assert_eq!(ok!(SYS_fcntl, ok!(SYS_memfd_create, c"", MFD_CLOEXEC), F_GETFD, 0), 1);
}

fn memfd_seals() {
    let fd = ok!(SYS_memfd_create, c"s", MFD_ALLOW_SEALING) as i32;
    assert_eq!(ok!(SYS_fcntl, fd, F_GET_SEALS, 0), 0);
    ok!(SYS_ftruncate, fd, PAGE);
    let at = ok!(SYS_mmap, 0, PAGE, RW, MAP_SHARED, fd, 0);
    err!(EBUSY: SYS_fcntl, fd, F_ADD_SEALS, F_SEAL_WRITE);
    ok!(SYS_munmap, at, PAGE);
    ok!(SYS_fcntl, fd, F_ADD_SEALS, F_SEAL_GROW);
    err!(EPERM: SYS_ftruncate, fd, 2 * PAGE);
    err!(EPERM: SYS_pwrite64, fd, b"x", 1, PAGE);
    ok!(SYS_ftruncate, fd, PAGE / 2);
    ok!(SYS_fcntl, fd, F_ADD_SEALS, F_SEAL_SHRINK);
    err!(EPERM: SYS_ftruncate, fd, 0);
    ok!(SYS_pwrite64, fd, b"x", 1, 0);
    ok!(SYS_fcntl, fd, F_ADD_SEALS, F_SEAL_WRITE);
    err!(EPERM: SYS_pwrite64, fd, b"x", 1, 0);
    err!(EPERM: SYS_mmap, 0, PAGE, RW, MAP_SHARED, fd, 0);
    ok!(SYS_mmap, 0, PAGE, RW, MAP_PRIVATE, fd, 0);
    ok!(SYS_fcntl, fd, F_ADD_SEALS, F_SEAL_SEAL);
    err!(EPERM: SYS_fcntl, fd, F_ADD_SEALS, F_SEAL_GROW);
    assert_eq!(ok!(SYS_fcntl, fd, F_GET_SEALS, 0), 15);
    let unsealable = ok!(SYS_memfd_create, c"u", 0);
    assert_eq!(ok!(SYS_fcntl, unsealable, F_GET_SEALS, 0), 1);
    err!(EPERM: SYS_fcntl, unsealable, F_ADD_SEALS, F_SEAL_GROW);
    err!(EINVAL: SYS_fcntl, pipe(0).0, F_GET_SEALS, 0);
}

fn memfd_errors() {
    err!(EINVAL: SYS_memfd_create, c"x", 0x4000);
    err!(EFAULT: SYS_memfd_create, BAD, 0);
    let fits = std::ffi::CString::new("n".repeat(249)).unwrap();
    let over = std::ffi::CString::new("n".repeat(250)).unwrap();
    ok!(SYS_memfd_create, fits.as_c_str(), 0);
    err!(EINVAL: SYS_memfd_create, over.as_c_str(), 0);
}

fn process_vm() {
    let at = map(PAGE, RW);
    poke(at, 42);
    let pid = ok!(SYS_getpid);
    let mut b = [0u8; 4];
    let local = iovec { iov_base: b.as_mut_ptr().cast(), iov_len: 4 };
    let remote = iovec { iov_base: at as *mut c_void, iov_len: 4 };
    assert_eq!(ok!(SYS_process_vm_readv, pid, &local, 1, &remote, 1, 0), 4);
    assert_eq!(b[0], 42);
    poke(b.as_ptr() as usize + 1, 43);
    assert_eq!(ok!(SYS_process_vm_writev, pid, &local, 1, &remote, 1, 0), 4);
    assert_eq!(peek(at + 1), 43);
    err!(EINVAL: SYS_process_vm_readv, pid, &local, 1, &remote, 1, 1);
    let bad = iovec { iov_base: BAD as *mut c_void, iov_len: 4 };
    err!(EFAULT: SYS_process_vm_readv, pid, &local, 1, &bad, 1, 0);
    err!(ESRCH: SYS_process_vm_readv, 0x3fff_ffff, &local, 1, &remote, 1, 0);
}

fn membarrier_query() {
    let commands = ok!(SYS_membarrier, 0, 0, 0);
    assert!(commands & 1 != 0);
    ok!(SYS_membarrier, 1, 0, 0);
    err!(EINVAL: SYS_membarrier, 1 << 20, 0, 0);
    err!(EINVAL: SYS_membarrier, 0, 1, 0);
}
