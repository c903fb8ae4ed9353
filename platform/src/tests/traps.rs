//! What comes back from guest code, and that nothing else gets out.

use super::*;

fn system_calls_come_and_results_go() {
    let world = World::new();
    let space = world.space(getpid_loop());
    let mut guest = space.thread();
    for i in 0..100 {
        assert_eq!(guest.syscall(), 39);
        assert_eq!(guest.regs.rcx, guest.regs.rip);
        guest.regs.rax = 1000 + i;
        assert_eq!(guest.syscall(), 39);
        assert_eq!(guest.regs.rbx, 1000 + i);
        // The host must not take this for a call to restart.
        guest.regs.rax = -512i64 as u64;
    }
    assert!(crate::arch::stub::code().len() < 4096);
}

guest_code!(
    registers,
    "mov r15, 15",
    "mov rbp, 5",
    "mov eax, 0x40000027", // an x32 number
    "syscall",
    "rdfsbase rdi",
    "rdgsbase rsi",
    "mov rax, -1",
    "syscall",
);

fn registers_are_exact() {
    let world = World::new();
    let space = world.space(registers());
    let mut guest = space.thread();
    guest.regs.r14 = 0xdead_beef_dead_beef;
    assert_eq!(guest.syscall(), 0x4000_0027);
    assert_eq!((guest.regs.r15, guest.regs.rbp), (15, 5));
    assert_eq!(guest.regs.r14, 0xdead_beef_dead_beef);
    guest.regs.fs_base = 0x1234_5000;
    guest.regs.gs_base = 0x7000_0000_0000;
    assert_eq!(guest.syscall(), u64::MAX);
    assert_eq!((guest.regs.rdi, guest.regs.rsi), (0x1234_5000, 0x7000_0000_0000));
}

fn faults_and_exceptions_are_told_apart() {
    let world = World::new();
    let space = world.space(misdeeds());
    let mut guest = space.thread();
    guest.regs.rsp = 0x9000_0000;
    let fault = guest.fault();
    assert_eq!((fault.addr, fault.access.write), (0x9000_0000 - 8, true));
    assert_eq!(guest.regs.rip, CODE);

    guest.regs.rip = CODE + 1;
    assert_eq!(guest.exception(), (libc::SIGILL, 2, 6));
    assert_eq!(guest.regs.rip, CODE + 1);
    guest.regs.rip += 2;
    guest.regs.rcx = 0;
    assert_eq!(guest.exception(), (libc::SIGFPE, 1, 0));
    guest.regs.rip += 2;
    assert_eq!(guest.exception(), (libc::SIGTRAP, 0x80, 3));
    assert_eq!(guest.regs.rip, CODE + 6, "a trap comes after its instruction");
    assert_eq!(guest.exception(), (libc::SIGSEGV, 0x80, 13));
    guest.regs.rip += 1;

    // No 32-bit calls, and nothing happens on the host.
    guest.regs.rax = 20;
    assert_eq!(guest.exception(), (libc::SIGSEGV, 0x80, 13));
    assert_eq!((guest.regs.rip, guest.regs.rax), (CODE + 7, 20));
    guest.regs.rip += 2;
    assert_eq!(guest.exception(), (libc::SIGSEGV, 0x80, 13));
    guest.regs.rip += 2;

    // A jump to nowhere, then to memory that must not be executed.
    guest.regs.rsp = STACK + PAGE_SIZE;
    guest.regs.rax = 0x1234_5678;
    let fault = guest.fault();
    assert_eq!((fault.addr, fault.access.exec, guest.regs.rip), (0x1234_5678, true, 0x1234_5678));
    guest.regs.rip = STACK;
    let fault = guest.fault();
    assert_eq!((fault.addr, fault.access.exec), (STACK, true));
    // Non-canonical.
    guest.regs.rip = CODE;
    guest.regs.rsp = 1 << 63;
    assert_eq!(guest.exception().0, libc::SIGBUS);
    // The kernel's half.
    guest.regs.rsp = 0xffff_8000_0000_1000;
    assert_eq!(guest.fault().addr, 0xffff_8000_0000_0ff8);
}

guest_code!(stepping, "pushfq", "or qword ptr [rsp], 0x100", "popfq", "nop", "nop", "syscall",);

fn single_steps_are_exceptions() {
    let world = World::new();
    let space = world.space(stepping());
    let mut guest = space.thread();
    // Linux reports TRAP_TRACE after each instruction that follows the popf.
    assert_eq!(guest.exception(), (libc::SIGTRAP, 2, 1));
    let here = guest.regs.rip;
    assert_eq!(guest.exception(), (libc::SIGTRAP, 2, 1));
    assert_eq!(guest.regs.rip, here + 1);
    guest.regs.eflags &= !0x100;
    guest.syscall();
}

guest_code!(
    vsyscalls,
    "mov rax, 0xffffffffff600400", // time
    "mov rdi, 0x1111",
    "call rax",
    "mov rbx, rax",
    "mov eax, 1",
    "syscall",
    "mov rax, 0xffffffffff600123",
    "call rax",
);

fn the_vsyscall_page_is_the_sentrys_business() {
    let world = World::new();
    let space = world.space(vsyscalls());
    let mut guest = space.thread();
    match guest.run() {
        Trap::Syscall => {
            assert_eq!((guest.regs.orig_rax, guest.regs.rdi), (libc::SYS_time as u64, 0x1111));
            guest.regs.rax = 4711;
            assert_eq!(guest.syscall(), 1);
            assert_eq!(guest.regs.rbx, 4711);
        }
        // A host without the page.
        Trap::Fault(fault) => {
            assert_eq!(fault.addr, 0xffff_ffff_ff60_0400);
            return;
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(guest.run(), Trap::Fault(_) | Trap::Exception(_)));
}

guest_code!(
    vectors,
    "vpternlogd zmm31, zmm31, zmm31, 0xff",
    "vpbroadcastq zmm1, rdi",
    "kxnorq k3, k3, k3",
    "mov eax, 1",
    "syscall",
    "vmovdqu64 [rsp - 64], zmm31",
    "vmovdqu64 [rsp - 128], zmm1",
    "kmovq r12, k3",
    "stmxcsr [rsp - 136]",
    "mov eax, 2",
    "syscall",
);

fn extended_state_survives_and_starts_clean() {
    let world = World::new();
    let space = world.space(vectors());
    let mut guest = space.thread();
    let (size, xcr0) = world.platform.xstate_layout();
    let fresh = guest.thread.xstate().unwrap();
    assert_eq!(fresh.len(), size);
    assert!(xcr0 & 7 == 7);
    assert!(fresh[32..416].iter().all(|&b| b == 0), "registers of the Sentry's leak");
    if !std::is_x86_feature_detected!("avx512bw") {
        return;
    }
    guest.regs.rdi = 0x0123_4567_89ab_cdef;
    assert_eq!(guest.syscall(), 1);
    let full = guest.thread.xstate().unwrap();
    guest.thread.set_xstate(&fresh).unwrap();
    guest.thread.set_xstate(&full).unwrap();
    let mut bad = full.clone();
    bad[520] = 0xff;
    assert!(guest.thread.set_xstate(&bad).is_err());
    assert!(guest.thread.set_xstate(&full[..100]).is_err());
    assert_eq!(guest.syscall(), 2);
    assert_eq!(guest.regs.r12, u64::MAX);
    let stack = &space.frames[1];
    let top = 4 * PAGE_SIZE as usize;
    assert!((top - 64..top).step_by(8).all(|i| word(stack, i) == u64::MAX));
    assert!((top - 128..top - 64).step_by(8).all(|i| word(stack, i) == 0x0123_4567_89ab_cdef));
    assert_eq!(word(stack, top - 136) as u32, 0x1f80);
}

fn a_spinning_guest_is_kicked() {
    let world = World::new();
    let space = world.space(spin());
    let data = world.frames(&[0]);
    space.space.map(DATA, PAGE_SIZE, Prot::READ_WRITE, at(&data), false);
    let mut guest = space.thread();
    guest.regs.rdi = DATA;
    let kicker = guest.thread.kicker();
    // Before the run.
    kicker.kick();
    kicker.kick();
    assert_eq!(guest.run(), Trap::Kicked);
    assert_eq!(word(&data, 0), 0);
    // During the run.
    for _ in 0..20 {
        let before = word(&data, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while word(&data, 0) == before {
                    std::thread::yield_now();
                }
                kicker.kick();
            });
            assert_eq!(guest.run(), Trap::Kicked);
        });
    }
    drop(guest);
    kicker.kick();
}

fn kicks_are_never_lost() {
    let world = World::new();
    let space = world.space(getpid_loop());
    let mut guest = space.thread();
    let kicker = guest.thread.kicker();
    let (sent, done) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 1..=200 {
                kicker.kick();
                sent.store(i, Ordering::SeqCst);
                while done.load(Ordering::SeqCst) < i {
                    std::thread::yield_now();
                }
            }
        });
        for i in 1..=200 {
            while sent.load(Ordering::SeqCst) < i {
                let _ = guest.run();
            }
            // It was reported already, or it is reported now.
            let mut runs = 0;
            while kicked_is_pending(&mut guest) && runs < 2 {
                runs += 1;
            }
            done.store(i, Ordering::SeqCst);
        }
    });
    assert_eq!(guest.run(), Trap::Syscall);

    fn kicked_is_pending(guest: &mut Guest) -> bool {
        guest.run() == Trap::Kicked
    }
}

fn the_stubs_code_is_no_way_out() {
    let world = World::new();
    let other = world.space(getpid_loop());
    let mut bystander = other.thread();
    let mut space = world.space(getpid_loop());
    let data = world.frames(&[0]);
    space.space.map(DATA, PAGE_SIZE, Prot::READ_WRITE, at(&data), false);
    let mut guest = space.thread();
    guest.syscall();
    let base = world.platform.user_range().1;
    let code = crate::arch::stub::code().len().max(crate::arch::doorbell::code().len()) as u64;
    let exit_group = Registers {
        rax: libc::SYS_exit_group as u64,
        // As if it had commands of its own to execute.
        rbx: DATA,
        rbp: DATA + 64,
        ..start()
    };
    let mut command = [0u8; 64];
    command[0] = libc::SYS_exit_group as u8;
    write(&data, 0, &command);
    let mut guest = Some(guest);
    for rip in (base..base + code).chain([base + PAGE_SIZE, base + 2 * PAGE_SIZE]) {
        let mut one = guest.take().unwrap_or_else(|| space.thread());
        one.regs = Registers { rip, ..exit_group };
        match one.run_kicked() {
            Ok(_) => guest = Some(one),
            // It meddled with the stub, which is its own ruin.
            Err(Error::StubGone) => {
                space = world.space(getpid_loop());
                space.space.map(DATA, PAGE_SIZE, Prot::READ_WRITE, at(&data), false);
            }
            Err(other) => panic!("{other} at {:#x}", rip - base),
        }
        // Nobody else was harmed.
        assert_eq!(bystander.syscall(), 39);
    }
    drop((guest, space));
    // Nor can the pages be written.
    let space = world.space(misdeeds());
    let mut guest = space.thread();
    for page in 0..16 {
        guest.regs = Registers { rsp: base + page * PAGE_SIZE + 64, ..start() };
        assert!(guest.fault().access.write, "a push to stub page {page}");
    }
}

guest_code!(
    suicidal,
    "mov edi, 7",
    "mov eax, 231", // exit_group
    "syscall",
    "mov rbx, rax",
    "mov eax, 62", // kill(0, SIGKILL)
    "xor edi, edi",
    "mov esi, 9",
    "syscall",
    "jmp 2f",
    "2: mov eax, 1",
    "syscall",
);

fn commands_between_call_and_return_do_not_let_the_call_through() {
    let world = World::new();
    let space = world.space(suicidal());
    let mut guest = space.thread();
    let data = world.frames(&[0]);
    for nr in [231, 62, 1] {
        assert_eq!(guest.syscall(), nr);
        space.space.map(DATA, PAGE_SIZE, Prot::READ, at(&data), false);
        space.space.sync();
        space.space.unmap(DATA, PAGE_SIZE, None);
    }
}

guest_code!(
    downgrade,
    "push 0x23",
    "lea rax, [rip + 3f]",
    "push rax",
    "retfq",
    ".code32",
    "3: mov eax, 20", // getpid of 32-bit Linux
    "int 0x80",
    "nop",
    "sysenter",
    "nop",
    "mov eax, 20",
    "syscall",
    ".code64",
);

fn there_are_no_32_bit_calls() {
    let world = World::new();
    let space = world.space(downgrade());
    let mut guest = space.thread();
    assert_eq!(guest.exception(), (libc::SIGSEGV, 0x80, 13), "int 0x80");
    assert_eq!((guest.regs.cs, guest.regs.rax), (0x23, 20));
    // sysenter is undefined on AMD, and a call on Intel; either way it is an exception here.
    let (signal, _, _) = guest.exception();
    assert!(signal == libc::SIGSEGV || signal == libc::SIGILL, "sysenter: {signal}");
    // Back to 64 bits, as for a signal handler.
    guest.regs = start();
    assert_eq!(guest.exception().0, libc::SIGSEGV);
}

/// Runs what no compiler makes: it always comes back, and never as an error.
fn random_code_always_comes_back() {
    const SPICES: &[&[u8]] = &[
        &[0x0f, 0x05],                   // syscall
        &[0xcd, 0x80],                   // int 0x80
        &[0x0f, 0x34],                   // sysenter
        &[0xf1],                         // int1
        &[0xcc],                         // int3
        &[0x48, 0xcf],                   // iretq
        &[0x48, 0xcb],                   // retfq
        &[0x48, 0xff, 0x2c, 0x24],       // ljmp [rsp]
        &[0x9d],                         // popfq
        &[0x8e, 0xd0],                   // mov ss, eax
        &[0x8e, 0xe0],                   // mov fs, eax
        &[0xf3, 0x48, 0x0f, 0xae, 0xd0], // wrfsbase rax
        &[0xf3, 0x48, 0x0f, 0xae, 0xd8], // wrgsbase rax
        &[0xf3, 0xa4],                   // rep movsb
        &[0x0f, 0x0b],                   // ud2
        &[0xff, 0xe0],                   // jmp rax
    ];
    let world = World::new();
    let mut space = world.space(&[0; 8192]);
    let mut guest = space.thread();
    let stub = world.platform.user_range().1;
    let mut random = 0x1234_5678_9abc_def1u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let (done, kicker) = (AtomicU32::new(0), parking_lot::Mutex::new(guest.thread.kicker()));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while done.load(Ordering::Relaxed) == 0 {
                std::thread::sleep(Duration::from_millis(1));
                kicker.lock().kick();
            }
        });
        let begun = Instant::now();
        let mut traps = 0;
        // Longer where the machine is busy.
        while begun.elapsed() < Duration::from_millis(300) || traps <= 500 {
            let stuck = begun.elapsed() > PATIENCE;
            if stuck {
                done.store(1, Ordering::Relaxed);
            }
            assert!(!stuck, "only {traps} traps");
            let mut bytes: Vec<u8> = (0..256).flat_map(|_| next().to_le_bytes()).collect();
            for _ in 0..80 {
                let spice = SPICES[next() as usize % SPICES.len()];
                let place = next() as usize % (bytes.len() - 8);
                bytes[place..place + spice.len()].copy_from_slice(spice);
            }
            // Over the same place, as a program that changes its code maps it.
            let code = world.frames(&bytes);
            space.space.map(CODE, code.len(), RX, at(&code), false);
            space.space.defer(Box::new(std::mem::replace(&mut space.frames[0], code)));
            for _ in 0..30 {
                let interesting =
                    [CODE, STACK + 64, stub, stub + 4096, 0x23, 0xffff_ffff_ff60_0000, next()];
                let mut any = || interesting[next() as usize % interesting.len()];
                let (rax, rbx, rcx, rdi, rsi) = (any(), any(), any(), any(), any());
                guest.regs = Registers {
                    rip: CODE + next() % 2048,
                    rsp: STACK + 4096 + next() % 4096,
                    eflags: 0x202 | (next() & 0x100),
                    ..Registers { rax, rbx, rcx, rdi, rsi, ..start() }
                };
                for _ in 0..4 {
                    traps += 1;
                    match guest.thread.run(&mut guest.regs) {
                        Ok(_) => guest.thread.complete(&mut guest.regs).unwrap(),
                        // Jumps into the stub are a guest's own ruin on one platform.
                        Err(Error::StubGone) if KIND.get().name() == "notify" => {
                            space = world.space(&bytes);
                            guest = space.thread();
                            *kicker.lock() = guest.thread.kicker();
                            break;
                        }
                        Err(error) => {
                            done.store(1, Ordering::Relaxed);
                            panic!("{error}");
                        }
                    }
                }
            }
        }
        done.store(1, Ordering::Relaxed);
    });
}

/// Quick calls in a row are found by looking after a while, wherever the host has put the two
/// threads. Needs a CPU to spare, so it may take a few attempts.
#[test]
fn quick_calls_come_to_be_found_by_looking() {
    let found = |world: &World| {
        let counters = world.platform.counters();
        counters.iter().find(|(name, _)| name.contains("by looking")).unwrap().1
    };
    if std::thread::available_parallelism().unwrap().get() < 2 {
        eprintln!("skipped: looking takes two CPUs");
        return;
    }
    KIND.set(Kind::Notify);
    let world = World::new();
    let space = world.space(getpid_loop());
    let begun = Instant::now();
    while found(&world) < 5000 {
        assert!(begun.elapsed() < PATIENCE, "{:?}", world.platform.counters());
        let mut guest = space.thread();
        (0..5000).for_each(|_| assert_eq!(guest.syscall(), 39));
    }
}

on_every_platform!(
    system_calls_come_and_results_go,
    registers_are_exact,
    faults_and_exceptions_are_told_apart,
    single_steps_are_exceptions,
    the_vsyscall_page_is_the_sentrys_business,
    extended_state_survives_and_starts_clean,
    a_spinning_guest_is_kicked,
    kicks_are_never_lost,
    the_stubs_code_is_no_way_out,
    commands_between_call_and_return_do_not_let_the_call_through,
    there_are_no_32_bit_calls,
    random_code_always_comes_back,
);
