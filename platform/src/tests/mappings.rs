//! Mappings, host files, the vDSO.

use super::*;

fn memory_is_shared_remapped_and_protected() {
    let world = World::new();
    let space = world.space(touch());
    let mut guest = space.thread();
    guest.regs.rdi = DATA;
    let fault = guest.fault();
    assert_eq!((fault.addr, fault.access.read, fault.bus), (DATA, true, false));

    let first = world.frames(&42u64.to_le_bytes());
    space.space.map(DATA, PAGE_SIZE, Prot::READ, at(&first), true);
    let fault = guest.fault();
    assert_eq!((fault.addr, fault.access.write), (DATA + 8, true));

    // Copy on write.
    let copy = first.duplicate(0, PAGE_SIZE).unwrap();
    space.space.map(DATA, PAGE_SIZE, Prot::READ_WRITE, at(&copy), false);
    assert_eq!(guest.syscall(), 1);
    assert_eq!((word(&copy, 0), word(&copy, 8)), (42, 77));
    assert_eq!(word(&first, 8), 0);

    space.space.protect(DATA - PAGE_SIZE, 4 * PAGE_SIZE, Prot::NONE);
    assert_eq!(guest.fault().addr, DATA);
    space.space.protect(DATA, PAGE_SIZE, Prot::READ_WRITE);
    assert_eq!(guest.syscall(), 1);

    struct Flag(Arc<AtomicU32>);
    impl Drop for Flag {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let dropped = Arc::new(AtomicU32::new(0));
    space.space.unmap(DATA, PAGE_SIZE, Some(Box::new(Flag(dropped.clone()))));
    assert_eq!(dropped.load(Ordering::SeqCst), 0);
    assert_eq!(guest.fault().addr, DATA);
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    space.space.defer(Box::new(Flag(dropped.clone())));
    assert_eq!(dropped.load(Ordering::SeqCst), 2, "nothing to wait for");
    space.space.unmap(STACK, PAGE_SIZE, None);
    space.space.defer(Box::new(Flag(dropped.clone())));
    assert_eq!(dropped.load(Ordering::SeqCst), 2);
    space.space.sync();
    assert_eq!(dropped.load(Ordering::SeqCst), 3);
}

fn many_commands_take_several_batches() {
    let world = World::new();
    let space = world.space(touch());
    let mut guest = space.thread();
    let frames = world.file.allocate(400 * PAGE_SIZE).unwrap();
    for i in 0..400 {
        // Backwards, so that they cannot be merged.
        let source =
            Source::Memory { offset: frames.offset() + (399 - i) * PAGE_SIZE, shared: false };
        space.space.map(DATA + i * PAGE_SIZE, PAGE_SIZE, Prot::READ_WRITE, source, false);
    }
    for i in [0, 63, 64, 399] {
        guest.regs.rdi = DATA + i * PAGE_SIZE;
        assert_eq!(guest.syscall(), 1);
        assert_eq!(word(&frames, ((399 - i) * PAGE_SIZE + 8) as usize), 77);
    }
}

fn threads_share_an_address_space() {
    let world = World::new();
    let space = world.space(touch());
    let mut guest = space.thread();
    guest.regs.rdi = DATA;
    guest.fault();
    let data = world.frames(&[9]);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut other = space.thread();
                other.regs.rdi = DATA;
                space.space.map(DATA, PAGE_SIZE, Prot::READ_WRITE, at(&data), false);
                for _ in 0..20 {
                    assert_eq!(other.syscall(), 1);
                }
            });
        }
    });
    assert_eq!(guest.syscall(), 1);
}

fn sync_from_elsewhere_reaches_a_spinning_guest() {
    let world = World::new();
    let space = world.space(spin());
    let data = world.frames(&[0]);
    space.space.map(DATA, PAGE_SIZE, Prot::READ_WRITE, at(&data), false);
    let mut guest = space.thread();
    guest.regs.rdi = DATA;
    let kicker = guest.thread.kicker();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while word(&data, 0) == 0 {
                std::thread::yield_now();
            }
            space.space.protect(DATA, PAGE_SIZE, Prot::READ);
            space.space.sync();
            let before = word(&data, 0);
            std::thread::sleep(Duration::from_millis(5));
            assert_eq!(word(&data, 0), before, "the guest wrote after sync");
            kicker.kick();
        });
        let fault = guest.fault();
        assert_eq!((fault.addr, fault.access.write), (DATA, true));
        assert!(matches!(guest.run(), Trap::Kicked | Trap::Fault(_)));
    });
}

fn host_files_are_mapped_and_shrink() {
    let world = World::new();
    let space = world.space(touch());
    let mut guest = space.thread();
    let file = host_file();
    file.set_len(2 * PAGE_SIZE).unwrap();
    use std::os::unix::fs::FileExt as _;
    file.write_all_at(&123u64.to_le_bytes(), 0).unwrap();
    let fd = Arc::new(OwnedFd::from(file.try_clone().unwrap()));
    let source = |shared, offset| Source::Host { file: fd.clone(), offset, shared };
    space.space.map(DATA, PAGE_SIZE, Prot::READ, source(false, 0), false);
    guest.regs.rdi = DATA;
    assert_eq!(guest.fault().addr, DATA + 8);
    assert_eq!(guest.regs.rax, 123);
    space.space.map(DATA, PAGE_SIZE, Prot::READ_WRITE, source(true, 0), false);
    assert_eq!(guest.syscall(), 1);
    let mut word = [0; 8];
    file.read_exact_at(&mut word, 8).unwrap();
    assert_eq!(u64::from_le_bytes(word), 77);

    space.space.map(DATA, PAGE_SIZE, Prot::READ, source(false, PAGE_SIZE), false);
    file.set_len(0).unwrap();
    let fault = guest.fault();
    assert_eq!((fault.addr, fault.bus), (DATA, true));
}

fn many_host_files_do_not_fill_the_table() {
    let world = World::new();
    let space = world.space(touch());
    let mut guest = space.thread();
    let files: Vec<_> = (0..150u64)
        .map(|i| {
            use std::os::unix::fs::FileExt as _;
            let file = host_file();
            file.write_all_at(&i.to_le_bytes(), 0).unwrap();
            Arc::new(OwnedFd::from(file))
        })
        .collect();
    for round in 0..2 {
        for (i, file) in (0u64..).zip(&files) {
            let source = Source::Host { file: file.clone(), offset: 0, shared: false };
            space.space.map(DATA + i * PAGE_SIZE, PAGE_SIZE, Prot::READ, source, false);
        }
        for i in 0..150u64 {
            guest.regs = start();
            guest.regs.rdi = DATA + i * PAGE_SIZE;
            guest.fault();
            assert_eq!(guest.regs.rax, i, "round {round}");
        }
    }
    drop(files);
    // The next donation closes what nobody has any more.
    let file = Arc::new(OwnedFd::from(host_file()));
    let source = Source::Host { file, offset: 0, shared: false };
    space.space.map(DATA, PAGE_SIZE, Prot::READ, source, false);
    space.space.sync();
    let pid = children(&world).first().copied().unwrap();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    assert_eq!(open, 4, "memory file, socket, lifeline, and one file");
}

fn host_file() -> std::fs::File {
    use std::os::fd::FromRawFd as _;
    // SAFETY: a new descriptor that nobody else owns.
    let file = unsafe {
        std::fs::File::from_raw_fd(libc::memfd_create(c"host".as_ptr(), libc::MFD_CLOEXEC))
    };
    file.set_len(PAGE_SIZE).unwrap();
    file
}

fn a_refused_mapping_ends_the_process() {
    let world = World::new();
    let space = world.space(getpid_loop());
    let mut guest = space.thread();
    guest.syscall();
    let (_reader, writer) = sys::pipe().unwrap();
    let source = Source::Host { file: Arc::new(writer), offset: 0, shared: false };
    space.space.map(DATA, PAGE_SIZE, Prot::READ, source, false);
    assert!(matches!(guest.thread.run(&mut guest.regs), Err(Error::StubGone)));
    assert!(matches!(guest.thread.run(&mut guest.regs), Err(Error::StubGone)));
    assert!(space.space.clone().new_thread().is_err());
    space.space.sync();
    drop(guest);
    drop(space);
    // The next one is well.
    let space = world.space(getpid_loop());
    space.thread().syscall();
}

fn the_vdso_moves() {
    let world = World::new();
    let Some(image) = world.platform.vdso() else { return };
    let space = world.space(vdso_reader());
    let mut guest = space.thread();
    let elf = u64::from_le_bytes([0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
    let mut base = image.vvar_base;
    let total = image.vvar_len + image.code_len;
    // Where guests have it, a little further (overlapping itself), and back.
    for to in [0x2000_0000, 0x2000_1000, 0x2000_0000, 0x3000_0000] {
        space.space.move_vdso(to);
        guest.regs = start();
        guest.regs.rdi = to + image.vvar_len;
        assert_eq!(guest.syscall(), 1, "moved to {to:#x}");
        if !(to..to + total).contains(&base) {
            guest.regs = start();
            guest.regs.rdi = base;
            assert_eq!(guest.fault().addr, base);
        }
        base = to;
    }
    // SAFETY: the Sentry's own vDSO, mapped for as long as it lives.
    assert_eq!(unsafe { image.sentry_code.cast::<u64>().read() }, elf);
    space.space.unmap_vdso();
    guest.regs = start();
    guest.regs.rdi = base + image.vvar_len;
    guest.fault();
}

guest_code!(
    clock_reader,
    "mov rbx, rdi",
    "mov edi, 1", // CLOCK_MONOTONIC
    "lea rsi, [rsp - 512]",
    "sub rsp, 1024",
    "call rbx",
    "mov ebx, eax",
    "mov rdi, [rsp + 512]",
    "mov rsi, [rsp + 520]",
    "mov eax, 1",
    "syscall",
);

fn the_vdso_tells_the_time_without_a_call() {
    let world = World::new();
    let Some(image) = world.platform.vdso() else { return };
    // SAFETY: the Sentry's own vDSO, mapped for as long as it lives.
    let code = unsafe { std::slice::from_raw_parts(image.sentry_code, image.code_len as usize) };
    let elf = goblin::elf::Elf::parse(code).unwrap();
    let symbol = elf
        .dynsyms
        .iter()
        .find(|s| elf.dynstrtab.get_at(s.st_name) == Some("__vdso_clock_gettime"))
        .unwrap();
    let space = world.space(clock_reader());
    let to = 0x7654_3210_0000;
    space.space.move_vdso(to);
    let mut guest = space.thread();
    guest.regs.rdi = to + image.vvar_len + symbol.st_value;
    assert_eq!(guest.syscall(), 1, "the clock needed a system call");
    // SAFETY: all-zero is a valid timespec; the call fills it.
    let now = unsafe {
        let mut now: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now);
        now
    };
    assert_eq!(guest.regs.rbx, 0);
    assert!((now.tv_sec - 5..=now.tv_sec).contains(&(guest.regs.rdi as i64)));
    assert!(guest.regs.rsi < 1_000_000_000);
}

on_every_platform!(
    memory_is_shared_remapped_and_protected,
    many_commands_take_several_batches,
    threads_share_an_address_space,
    sync_from_elsewhere_reaches_a_spinning_guest,
    host_files_are_mapped_and_shrink,
    many_host_files_do_not_fill_the_table,
    a_refused_mapping_ends_the_process,
    the_vdso_moves,
    the_vdso_tells_the_time_without_a_call,
);
