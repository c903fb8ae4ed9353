//! mmap, munmap, mprotect, mremap, and the faults that follow from them.

use crate::helpers::*;
use crate::sys::KERNEL;

const RW: i32 = PROT_READ | PROT_WRITE;
const ANON: i32 = MAP_PRIVATE | MAP_ANONYMOUS;

cases![
    anonymous_is_zero,
    lengths,
    flags,
    fixed_replaces,
    fixed_noreplace,
    hints,
    file_private,
    file_shared,
    file_permissions,
    beyond_file_end,
    file_offset,
    shared_over_fork,
    private_over_fork,
    anywhere_over_fork,
    file_shared_between_processes,
    munmap_rules,
    munmap_middle,
    mprotect_rules,
    mprotect_faults,
    mprotect_partial,
    execute_and_not,
    fault_details,
    null_and_kernel_faults,
    stack_grows,
    stack_limit,
    growsdown,
    mremap_grow_shrink,
    mremap_moves,
    mremap_fixed,
    mremap_errors,
    mremap_dontunmap,
    mremap_zero_old_size,
    address_space_limit,
    mapping_survives_close_and_unlink,
    truncated_under_mapping,
    write_syscall_seen_by_mapping,
    proc_maps,
    many_mappings,
    device_zero,
    populate_and_noreserve,
    read_only_text,
];

fn anonymous_is_zero() {
    let at = map(4 * PAGE, RW);
    assert_eq!(at % PAGE, 0);
    for i in 0..4 * PAGE {
        assert_eq!(peek(at + i), 0);
    }
    poke(at + 5000, 7);
    assert_eq!(peek(at + 5000), 7);
    // The descriptor and offset of an anonymous mapping do not matter, but for alignment.
    ok!(SYS_mmap, 0, PAGE, RW, ANON, 999, 0);
    err!(EINVAL: SYS_mmap, 0, PAGE, RW, ANON, -1, 100);
}

fn lengths() {
    err!(EINVAL: SYS_mmap, 0, 0, RW, ANON, -1, 0);
    err!(ENOMEM: SYS_mmap, 0, -1i64, RW, ANON, -1, 0);
    err!(ENOMEM: SYS_mmap, 0, 1u64 << 47, RW, ANON, -1, 0);
    let at = map(1, RW);
    poke(at + PAGE - 1, 1);
    ok!(SYS_munmap, at, 1);
    assert_eq!(fault(|| poke(at, 1)).map(|f| f.0), Some(SIGSEGV));
}

fn flags() {
    err!(EINVAL: SYS_mmap, 0, PAGE, RW, MAP_ANONYMOUS, -1, 0);
    err!(EBADF: SYS_mmap, 0, PAGE, RW, MAP_PRIVATE, -1, 0);
    err!(EBADF: SYS_mmap, 0, PAGE, RW, 0, 999, 0);
    let fd = temp(c"f", b"x");
    err!(EINVAL: SYS_mmap, 0, PAGE, RW, 0, fd, 0);
    // MAP_SHARED_VALIDATE refuses what it does not know, MAP_SHARED ignores it.
    let unknown = 1 << 22;
    err!(EOPNOTSUPP: SYS_mmap, 0, PAGE, PROT_READ, MAP_SHARED_VALIDATE | unknown, fd, 0);
    ok!(SYS_mmap, 0, PAGE, PROT_READ, MAP_SHARED | unknown, fd, 0);
    ok!(SYS_mmap, 0, PAGE, PROT_READ, MAP_SHARED_VALIDATE, fd, 0);
}

fn fixed_replaces() {
    let at = map(3 * PAGE, RW);
    poke(at + PAGE, 1);
    poke(at, 2);
    assert_eq!(ok!(SYS_mmap, at + PAGE, PAGE, RW, ANON | MAP_FIXED, -1, 0), at + PAGE);
    assert_eq!((peek(at), peek(at + PAGE)), (2, 0));
    err!(EINVAL: SYS_mmap, at + 1, PAGE, RW, ANON | MAP_FIXED, -1, 0);
    err!(ENOMEM: SYS_mmap, KERNEL, PAGE, RW, ANON | MAP_FIXED, -1, 0);
    // mmap of a bad file leaves the old mapping alone.
    err!(EBADF: SYS_mmap, at, PAGE, RW, MAP_PRIVATE | MAP_FIXED, 999, 0);
    assert_eq!(peek(at), 2);
}

fn fixed_noreplace() {
    let at = map(2 * PAGE, RW);
    ok!(SYS_munmap, at + PAGE, PAGE);
    err!(EEXIST: SYS_mmap, at, PAGE, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0);
    err!(EEXIST: SYS_mmap, at, 2 * PAGE, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0);
    assert_eq!(
        ok!(SYS_mmap, at + PAGE, PAGE, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0),
        at + PAGE
    );
}

fn hints() {
    let at = map(4 * PAGE, RW);
    ok!(SYS_munmap, at, 4 * PAGE);
    // A free hint is taken, rounded to a page; an occupied one moves.
    assert_eq!(ok!(SYS_mmap, at, PAGE, RW, ANON, -1, 0), at);
    assert_ne!(ok!(SYS_mmap, at, PAGE, RW, ANON, -1, 0), at);
    ok!(SYS_mmap, KERNEL, PAGE, RW, ANON, -1, 0);
    let low = ok!(SYS_mmap, 0, PAGE, RW, ANON | MAP_32BIT, -1, 0);
    assert!(low < 1 << 31);
}

fn file_private() {
    let fd = temp(c"f", b"hello");
    let at = ok!(SYS_mmap, 0, PAGE, RW, MAP_PRIVATE, fd, 0);
    assert_eq!((peek(at), peek(at + 4), peek(at + 5), peek(at + PAGE - 1)), (b'h', b'o', 0, 0));
    poke(at, b'J');
    assert_eq!(slurp(c"f"), b"hello");
    // What was not yet written to through the mapping still follows the file... once written, not.
    ok!(SYS_pwrite64, fd, b"X", 1, 0);
    assert_eq!(peek(at), b'J');
}

fn file_shared() {
    let fd = temp(c"f", b"hello");
    let at = ok!(SYS_mmap, 0, PAGE, RW, MAP_SHARED, fd, 0);
    poke(at, b'J');
    assert_eq!(slurp(c"f"), b"Jello");
    poke(at + 100, b'x');
    assert_eq!(fstat(fd).st_size, 5, "a mapping never grows a file");
    ok!(SYS_msync, at, PAGE, MS_SYNC);
    let other = ok!(SYS_mmap, 0, PAGE, PROT_READ, MAP_SHARED, fd, 0);
    poke(at + 1, b'E');
    assert_eq!(peek(other + 1), b'E');
    ok!(SYS_munmap, at, PAGE);
    assert_eq!(slurp(c"f"), b"JEllo");
}

fn file_permissions() {
    file(c"f", b"hello");
    let r = open(c"f", O_RDONLY, 0);
    let w = open(c"f", O_WRONLY, 0);
    err!(EACCES: SYS_mmap, 0, PAGE, RW, MAP_SHARED, r, 0);
    ok!(SYS_mmap, 0, PAGE, RW, MAP_PRIVATE, r, 0);
    err!(EACCES: SYS_mmap, 0, PAGE, PROT_READ, MAP_SHARED, w, 0);
    err!(EACCES: SYS_mmap, 0, PAGE, PROT_READ, MAP_PRIVATE, w, 0);
    let at = ok!(SYS_mmap, 0, PAGE, PROT_READ, MAP_SHARED, r, 0);
    err!(EACCES: SYS_mprotect, at, PAGE, RW);
    err!(ENODEV: SYS_mmap, 0, PAGE, PROT_READ, MAP_PRIVATE, pipe(0).0, 0);
    err!(ENODEV: SYS_mmap, 0, PAGE, PROT_READ, MAP_PRIVATE, open(c".", O_RDONLY, 0), 0);
    err!(ENODEV: SYS_mmap, 0, PAGE, PROT_READ, MAP_SHARED, socketpair(SOCK_STREAM).0, 0);
}

fn beyond_file_end() {
    let fd = temp(c"f", &[b'x'; 5000]);
    let at = ok!(SYS_mmap, 0, 4 * PAGE, RW, MAP_SHARED, fd, 0);
    assert_eq!((peek(at + 4999), peek(at + 5000), peek(at + 2 * PAGE - 1)), (b'x', 0, 0));
    assert_eq!(fault(|| _ = peek(at + 2 * PAGE)), Some((SIGBUS, 2, at + 2 * PAGE)));
    assert_eq!(fault(|| poke(at + 3 * PAGE + 9, 1)), Some((SIGBUS, 2, at + 3 * PAGE + 9)));
    // A system call that reads there gets EFAULT.
    let (_, w) = pipe(0);
    err!(EFAULT: SYS_write, w, at + 2 * PAGE, 1);
    ok!(SYS_ftruncate, fd, 4 * PAGE);
    assert_eq!(peek(at + 3 * PAGE), 0);
}

fn file_offset() {
    let mut content = vec![b'a'; PAGE];
    content.extend([b'b'; PAGE]);
    let fd = temp(c"f", &content);
    let at = ok!(SYS_mmap, 0, PAGE, PROT_READ, MAP_PRIVATE, fd, PAGE);
    assert_eq!(peek(at), b'b');
    err!(EINVAL: SYS_mmap, 0, PAGE, PROT_READ, MAP_PRIVATE, fd, 100);
    err!(EOVERFLOW: SYS_mmap, 0, 2 * PAGE, PROT_READ, MAP_PRIVATE, fd, -(PAGE as i64));
    // Entirely beyond the end: the mapping is made, the access fails.
    let at = ok!(SYS_mmap, 0, PAGE, PROT_READ, MAP_PRIVATE, fd, 10 * PAGE);
    assert_eq!(fault(|| _ = peek(at)).map(|f| f.0), Some(SIGBUS));
}

fn shared_over_fork() {
    let at = map_shared(PAGE);
    in_child(|| poke(at, 5));
    assert_eq!(peek(at), 5);
    in_child(|| in_child(|| poke(at + 1, 6)));
    assert_eq!(peek(at + 1), 6);
}

fn private_over_fork() {
    let at = map(64 * PAGE, RW);
    for i in 0..64 {
        poke(at + i * PAGE, i as u8);
    }
    in_child(|| {
        for i in 0..64 {
            assert_eq!(peek(at + i * PAGE), i as u8);
            poke(at + i * PAGE, 99);
        }
        in_child(|| assert_eq!(peek(at), 99));
    });
    for i in 0..64 {
        assert_eq!(peek(at + i * PAGE), i as u8);
    }
    // And the other way round: the parent writes while the child holds the old page.
    let (r, w) = pipe(0);
    let pid = fork(|| {
        read(r, 1);
        i32::from(peek(at + PAGE) != 1)
    });
    poke(at + PAGE, 77);
    write(w, b"x");
    assert_eq!(wait(pid), 0);
}

/// All over the address space: nowhere is in the way of what a new process gets besides.
fn anywhere_over_fork() {
    let fixed = ANON | MAP_FIXED_NOREPLACE;
    let places: Vec<usize> = (21..47).map(|bit| 1 << bit).collect();
    let mut mapped = places.clone();
    // What is taken is the program's own.
    mapped.retain(|at| sys!(SYS_mmap, *at, 16 * PAGE, RW, fixed, -1, 0) == Ok(*at));
    assert!(mapped.len() + 2 >= places.len(), "{mapped:x?}");
    let touch = |at: &usize| (0..16).for_each(|page| poke(at + page * PAGE, page as u8 + 1));
    mapped.iter().for_each(touch);
    in_child(|| {
        // By the vDSO, where there is one.
        std::hint::black_box(std::time::Instant::now());
        for at in &mapped {
            (0..16).for_each(|page| assert_eq!(peek(at + page * PAGE), page as u8 + 1));
            poke(*at, 99);
        }
    });
    mapped.iter().for_each(|at| assert_eq!(peek(*at), 1));
}

fn file_shared_between_processes() {
    let fd = temp(c"f", &[0; PAGE]);
    let at = ok!(SYS_mmap, 0, PAGE, RW, MAP_SHARED, fd, 0);
    in_child(|| {
        let again = open(c"f", O_RDWR, 0);
        let mine = ok!(SYS_mmap, 0, PAGE, RW, MAP_SHARED, again, 0);
        poke(mine + 10, 42);
    });
    assert_eq!(peek(at + 10), 42);
}

fn munmap_rules() {
    let at = map(PAGE, RW);
    err!(EINVAL: SYS_munmap, at + 1, PAGE);
    err!(EINVAL: SYS_munmap, at, 0);
    err!(EINVAL: SYS_munmap, KERNEL, PAGE);
    err!(EINVAL: SYS_munmap, at, -1i64);
    ok!(SYS_munmap, at, PAGE);
    ok!(SYS_munmap, at, PAGE);
}

fn munmap_middle() {
    let at = map(3 * PAGE, RW);
    poke(at, 1);
    poke(at + 2 * PAGE, 3);
    ok!(SYS_munmap, at + PAGE, 1);
    assert_eq!((peek(at), peek(at + 2 * PAGE)), (1, 3));
    assert_eq!(fault(|| _ = peek(at + PAGE)), Some((SIGSEGV, 1, at + PAGE)));
}

fn mprotect_rules() {
    let at = map(3 * PAGE, RW);
    err!(EINVAL: SYS_mprotect, at + 1, PAGE, PROT_READ);
    ok!(SYS_mprotect, at, 0, PROT_READ);
    err!(EINVAL: SYS_mprotect, at, PAGE, 0x40);
    err!(ENOMEM: SYS_mprotect, 0, PAGE, PROT_READ);
    ok!(SYS_munmap, at + PAGE, PAGE);
    // The part before the gap is changed all the same.
    err!(ENOMEM: SYS_mprotect, at, 3 * PAGE, PROT_READ);
    assert_eq!(fault(|| poke(at, 1)), Some((SIGSEGV, 2, at)));
    poke(at + 2 * PAGE, 1);
    err!(ENOMEM: SYS_mprotect, at, -4096i64, PROT_READ);
}

fn mprotect_faults() {
    let at = map(PAGE, RW);
    poke(at, 1);
    ok!(SYS_mprotect, at, PAGE, PROT_READ);
    assert_eq!(peek(at), 1);
    assert_eq!(fault(|| poke(at + 17, 1)), Some((SIGSEGV, 2, at + 17)));
    ok!(SYS_mprotect, at, PAGE, PROT_NONE);
    assert_eq!(fault(|| _ = peek(at)), Some((SIGSEGV, 2, at)));
    ok!(SYS_mprotect, at, PAGE, RW);
    poke(at, 2);
    // Write permission alone implies reading on x86.
    ok!(SYS_mprotect, at, PAGE, PROT_WRITE);
    assert_eq!(peek(at), 2);
}

fn mprotect_partial() {
    let at = map(4 * PAGE, RW);
    ok!(SYS_mprotect, at + PAGE, 1, PROT_READ);
    poke(at, 1);
    poke(at + 2 * PAGE, 1);
    assert!(fault(|| poke(at + 2 * PAGE - 1, 1)).is_some());
}

fn execute_and_not() {
    let at = map(PAGE, RW);
    poke(at, 0xc3); // ret
    // SAFETY: the page holds a `ret`; where it may not execute, the child is told so.
    let go = || unsafe { std::mem::transmute::<usize, extern "C" fn()>(at)() };
    assert_eq!(fault(go), Some((SIGSEGV, 2, at)));
    ok!(SYS_mprotect, at, PAGE, PROT_READ | PROT_EXEC);
    assert_eq!(fault(go), None);
    ok!(SYS_mprotect, at, PAGE, RW | PROT_EXEC);
    poke(at, 0x0f); // ud2
    poke(at + 1, 0x0b);
    assert_eq!(fault(go), Some((SIGILL, 2, at)));
    poke(at, 0xcc); // int3
    assert_eq!(fault(go).map(|f| (f.0, f.1)), Some((SIGTRAP, 0x80)));
    poke(at, 0xf4); // hlt
    assert_eq!(fault(go), Some((SIGSEGV, 0x80, 0)));
}

fn fault_details() {
    let at = map(2 * PAGE, RW);
    ok!(SYS_munmap, at + PAGE, PAGE);
    // An access over the border reports the first byte that is missing.
    let f = fault(|| {
        // SAFETY: meant to fault.
        unsafe { std::ptr::write_unaligned(std::hint::black_box(at + PAGE - 4) as *mut u64, 1) }
    });
    println!("{:?}", f.map(|f| (f.0, f.1, f.2 - at)));
    // Without a handler the signal kills.
    let status = status_of(|| {
        poke(at + PAGE, 1);
        0
    });
    assert_eq!(killed_by(status), Some(SIGSEGV));
    // A blocked or ignored fault kills as well.
    let status = status_of(|| {
        sigmask(SIG_BLOCK, bit(SIGSEGV));
        on(SIGSEGV, 0);
        poke(at + PAGE, 1);
        0
    });
    assert_eq!(killed_by(status), Some(SIGSEGV));
    let status = status_of(|| {
        action(SIGSEGV, SIG_IGN, 0, &[]);
        poke(at + PAGE, 1);
        0
    });
    assert_eq!(killed_by(status), Some(SIGSEGV));
}

fn null_and_kernel_faults() {
    assert_eq!(fault(|| _ = peek(0)), Some((SIGSEGV, 1, 0)));
    assert_eq!(fault(|| poke(8, 1)), Some((SIGSEGV, 1, 8)));
    let f = fault(|| _ = peek(KERNEL));
    println!("{f:x?}");
    // A non-canonical address is a general protection fault, which has no address.
    assert_eq!(fault(|| _ = peek(0x8000_0000_0000_0000)), Some((SIGSEGV, 0x80, 0)));
}

fn recurse(n: usize) -> usize {
    let block = [n as u8; 4096];
    let there = std::hint::black_box(&block);
    if n == 0 { there[0] as usize } else { recurse(n - 1) + there[n % 4096] as usize }
}

fn stack_grows() {
    // Some four MiB, well below the usual limit of eight.
    in_child(|| {
        std::hint::black_box(recurse(900));
    });
    let local = 0u8;
    let here = &raw const local as usize;
    poke(here - (1 << 20), 3);
    assert_eq!(peek(here - (1 << 20)), 3);
}

fn stack_limit() {
    let status = status_of(|| {
        let lim = rlimit { rlim_cur: 1 << 20, rlim_max: 8 << 20 };
        ok!(SYS_setrlimit, RLIMIT_STACK, &lim);
        recurse(1000) as i32
    });
    assert_eq!(killed_by(status), Some(SIGSEGV));
}

fn growsdown() {
    let room = map(1024 * PAGE, PROT_NONE);
    ok!(SYS_munmap, room, 1024 * PAGE);
    let top = room + 1020 * PAGE;
    let at = ok!(SYS_mmap, top, PAGE, RW, ANON | MAP_FIXED | MAP_GROWSDOWN, -1, 0);
    assert_eq!(at, top);
    poke(top - 1, 1);
    poke(top - 10 * PAGE, 2);
    assert_eq!((peek(top - 1), peek(top - 10 * PAGE)), (1, 2));
}

fn mremap_grow_shrink() {
    let at = map(4 * PAGE, RW);
    poke(at, 1);
    assert_eq!(ok!(SYS_mremap, at, 4 * PAGE, 2 * PAGE, 0), at);
    assert!(fault(|| poke(at + 2 * PAGE, 1)).is_some());
    assert_eq!(ok!(SYS_mremap, at, 2 * PAGE, 4 * PAGE, 0), at);
    poke(at + 3 * PAGE, 9);
    assert_eq!((peek(at), peek(at + 2 * PAGE)), (1, 0));
    assert_eq!(ok!(SYS_mremap, at, 4 * PAGE, 4 * PAGE, 0), at);
}

fn mremap_moves() {
    let at = map(4 * PAGE, RW);
    poke(at, 1);
    poke(at + PAGE, 2);
    ok!(SYS_mmap, at + 2 * PAGE, PAGE, PROT_NONE, ANON | MAP_FIXED, -1, 0);
    err!(ENOMEM: SYS_mremap, at, 2 * PAGE, 16 * PAGE, 0);
    let to = ok!(SYS_mremap, at, 2 * PAGE, 16 * PAGE, MREMAP_MAYMOVE);
    assert_ne!(to, at);
    assert_eq!((peek(to), peek(to + PAGE), peek(to + 15 * PAGE)), (1, 2, 0));
    assert!(fault(|| _ = peek(at)).is_some());
}

fn mremap_fixed() {
    let at = map(2 * PAGE, RW);
    let there = map(4 * PAGE, RW);
    poke(at, 1);
    poke(there + 3 * PAGE, 4);
    assert_eq!(
        ok!(SYS_mremap, at, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, there),
        there
    );
    assert_eq!((peek(there), peek(there + 3 * PAGE)), (1, 4));
    assert!(fault(|| _ = peek(at)).is_some());
    err!(EINVAL: SYS_mremap, there, 2 * PAGE, 2 * PAGE, MREMAP_FIXED, at);
    err!(EINVAL: SYS_mremap, there, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at + 1);
    err!(EINVAL: SYS_mremap, there, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, there + PAGE);
}

fn mremap_errors() {
    let at = map(2 * PAGE, RW);
    err!(EINVAL: SYS_mremap, at + 1, PAGE, PAGE, 0);
    err!(EINVAL: SYS_mremap, at, PAGE, 0, 0);
    err!(EINVAL: SYS_mremap, at, PAGE, PAGE, 8);
    err!(ENOMEM: SYS_mremap, at, PAGE, 1u64 << 46, MREMAP_MAYMOVE);
    ok!(SYS_munmap, at, PAGE);
    err!(EFAULT: SYS_mremap, at, PAGE, 2 * PAGE, MREMAP_MAYMOVE);
    err!(EFAULT: SYS_mremap, at + PAGE, 2 * PAGE, 4 * PAGE, MREMAP_MAYMOVE);
}

fn mremap_dontunmap() {
    let at = map(PAGE, RW);
    poke(at, 5);
    let to = ok!(SYS_mremap, at, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0);
    assert_eq!((peek(to), peek(at)), (5, 0));
    err!(EINVAL: SYS_mremap, at, PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0);
    err!(EINVAL: SYS_mremap, at, PAGE, PAGE, MREMAP_DONTUNMAP, 0);
}

fn mremap_zero_old_size() {
    // A shared mapping is doubled, a private one refused.
    let at = map_shared(PAGE);
    poke(at, 5);
    let to = ok!(SYS_mremap, at, 0, PAGE, MREMAP_MAYMOVE);
    poke(to, 6);
    assert_eq!(peek(at), 6);
    let at = map(PAGE, RW);
    err!(EINVAL: SYS_mremap, at, 0, PAGE, MREMAP_MAYMOVE);
}

fn address_space_limit() {
    in_child(|| {
        let lim = rlimit { rlim_cur: 1 << 28, rlim_max: 1 << 28 };
        ok!(SYS_setrlimit, RLIMIT_AS, &lim);
        err!(ENOMEM: SYS_mmap, 0, 1 << 29, RW, ANON, -1, 0);
        let at = ok!(SYS_mmap, 0, 1 << 20, RW, ANON, -1, 0);
        err!(ENOMEM: SYS_mremap, at, 1 << 20, 1 << 29, MREMAP_MAYMOVE);
        ok!(SYS_mmap, at, 1 << 20, RW, ANON | MAP_FIXED, -1, 0);
    });
}

fn mapping_survives_close_and_unlink() {
    let fd = temp(c"f", b"hello");
    let at = ok!(SYS_mmap, 0, PAGE, RW, MAP_SHARED, fd, 0);
    close(fd);
    ok!(SYS_unlink, c"f");
    poke(at, b'J');
    assert_eq!((peek(at), peek(at + 1)), (b'J', b'e'));
}

fn truncated_under_mapping() {
    let fd = temp(c"f", &[b'x'; 2 * PAGE]);
    let at = ok!(SYS_mmap, 0, 2 * PAGE, RW, MAP_PRIVATE, fd, 0);
    let shared = ok!(SYS_mmap, 0, 2 * PAGE, RW, MAP_SHARED, fd, 0);
    poke(at + PAGE, b'p');
    assert_eq!(peek(shared + PAGE), b'x');
    ok!(SYS_ftruncate, fd, PAGE);
    assert_eq!(fault(|| _ = peek(shared + PAGE)).map(|f| f.0), Some(SIGBUS));
    // Truncation takes even the private copies.
    assert_eq!(fault(|| _ = peek(at + PAGE)).map(|f| f.0), Some(SIGBUS));
    assert_eq!(peek(shared), b'x');
}

fn write_syscall_seen_by_mapping() {
    let fd = temp(c"f", b"hello");
    let shared = ok!(SYS_mmap, 0, PAGE, PROT_READ, MAP_SHARED, fd, 0);
    ok!(SYS_pwrite64, fd, b"J", 1, 0);
    assert_eq!(peek(shared), b'J');
    // Growing within the mapped page shows too.
    ok!(SYS_pwrite64, fd, b"!", 1, 5);
    assert_eq!(peek(shared + 5), b'!');
}

fn proc_maps() {
    let fd = temp(c"mapped-file", &[0; 3 * PAGE]);
    let at = ok!(SYS_mmap, 0, PAGE, PROT_READ, MAP_SHARED, fd, 2 * PAGE);
    let anon = map(2 * PAGE, RW);
    ok!(SYS_mprotect, anon, PAGE, PROT_NONE);
    let maps = text(c"/proc/self/maps");
    let line = |at: usize| -> String {
        let start = format!("{at:08x}-");
        maps.lines().find(|l| l.starts_with(&start)).unwrap_or_default().to_string()
    };
    let l = line(at);
    assert!(l.contains(" r--s 00002000 ") && l.ends_with("/mapped-file"), "{l}");
    assert!(l.contains(&format!(" {} ", fstat(fd).st_ino)), "{l}");
    assert!(line(anon).contains(" ---p 00000000 00:00 0"), "{maps}");
    for name in ["[stack]", "[heap]", "[vdso]"] {
        assert_eq!(maps.lines().filter(|l| l.ends_with(name)).count(), 1, "{name} in {maps}");
    }
}

fn many_mappings() {
    let at = map(2000 * PAGE, RW);
    for i in (0..2000).step_by(2) {
        ok!(SYS_mprotect, at + i * PAGE, PAGE, PROT_READ);
    }
    for i in (1..2000).step_by(2) {
        poke(at + i * PAGE, 1);
    }
    assert!(fault(|| poke(at + 1000 * PAGE, 1)).is_some());
    in_child(|| poke(at + 1001 * PAGE, 2));
    ok!(SYS_mprotect, at, 2000 * PAGE, RW);
    poke(at + 1000 * PAGE, 1);
    ok!(SYS_munmap, at, 2000 * PAGE);
}

fn device_zero() {
    let fd = open(c"/dev/zero", O_RDWR, 0);
    let at = ok!(SYS_mmap, 0, PAGE, RW, MAP_PRIVATE, fd, 0);
    poke(at, 1);
    let shared = ok!(SYS_mmap, 0, PAGE, RW, MAP_SHARED, fd, 0);
    in_child(|| poke(shared, 7));
    assert_eq!((peek(at), peek(shared)), (1, 7));
}

fn populate_and_noreserve() {
    let at = ok!(SYS_mmap, 0, 4 * PAGE, RW, ANON | MAP_POPULATE, -1, 0);
    let mut v = [0u8; 4];
    ok!(SYS_mincore, at, 4 * PAGE, &mut v);
    assert_eq!(v, [1; 4]);
    let big = ok!(SYS_mmap, 0, 1u64 << 36, RW, ANON | MAP_NORESERVE, -1, 0);
    poke(big + (1 << 35), 1);
    ok!(SYS_munmap, big, 1u64 << 36);
}

fn read_only_text() {
    let code = read_only_text as *const () as usize;
    assert_eq!(fault(|| poke(code, 0)).map(|f| (f.0, f.1)), Some((SIGSEGV, 2)));
}
