//! Kicks that come at any instruction, of the guest's or of the stub's.

use super::*;
use crate::arch::doorbell;

// Calls 39 at a place that can be patched, and 15 at one that never is; rax of 39 is to be 4711, and
// everything else what it was. Otherwise `ud2`. Counts at [rbp].
guest_code!(
    canaries,
    "mov rbp, rdi",
    "mov rbx, 0x1111111111",
    "mov rdx, 0x2222222222",
    "mov rsi, 0x3333333333",
    "mov r8, 0x4444444444",
    "mov r9, 0x5555555555",
    "mov r10, 0x6666666666",
    "mov r12, 0x7777777777",
    "mov r13, 0x8888888888",
    "mov r14, 0x9999999999",
    "mov r15, 0xaaaaaaaaaa",
    "mov qword ptr [rsp - 8], rbx",
    "movq xmm7, r15",
    "2: stc",
    "mov eax, 39",
    "syscall",
    "jnc 9f",
    "cmp rax, 4711",
    "jne 9f",
    "xor eax, eax",
    "mov eax, 15",
    "syscall",
    "jnz 9f",
    "cmp rax, 39",
    "jne 9f",
    "cmp qword ptr [rsp - 8], rbx",
    "jne 9f",
    "rdfsbase rax",
    "cmp rax, rdi",
    "jne 9f",
    "movq rax, xmm7",
    "cmp rax, r15",
    "jne 9f",
    "lea rax, [rbx * 2]",
    "cmp rax, rdx",
    "jne 9f",
    "add rax, rbx",
    "cmp rax, rsi",
    "jne 9f",
    "add rax, rbx",
    "cmp rax, r8",
    "jne 9f",
    "add rax, rbx",
    "cmp rax, r9",
    "jne 9f",
    "add rax, rbx",
    "cmp rax, r10",
    "jne 9f",
    "add rax, rbx",
    "cmp rax, r12",
    "jne 9f",
    "add rax, rbx",
    "cmp rax, r13",
    "jne 9f",
    "add rax, rbx",
    "cmp rax, r14",
    "jne 9f",
    "add rax, rbx",
    "cmp rax, r15",
    "jne 9f",
    "inc qword ptr [rbp]",
    "jmp 2b",
    "9: ud2",
);

/// Runs guest code that is kicked again and again, each time a bit later than the time before.
fn storm(world: &World, answers: &[(u64, u64)]) -> (u64, u64) {
    let space = world.space(canaries());
    let data = world.frames(&[0]);
    space.space.map(DATA, PAGE_SIZE, Prot::READ_WRITE, at(&data), false);
    let mut guest = space.thread();
    guest.thread.set_answers(answers).unwrap();
    (guest.regs.rdi, guest.regs.fs_base) = (DATA, DATA);
    let kicker = guest.thread.kicker();
    let over = AtomicBool::new(false);
    let mut kicks = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut wait = 0u32;
            while !over.load(Ordering::Relaxed) {
                wait = wait.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (0..wait >> 19).for_each(|_| std::hint::spin_loop());
                kicker.kick();
            }
        });
        let start = Instant::now();
        let mut outcome = Ok(());
        // Longer where the machine is busy.
        let few = |kicks| kicks <= 100 || word(&data, 0) <= 100;
        let enough = |kicks| {
            let took = start.elapsed();
            took >= PATIENCE || took >= Duration::from_millis(1500) && !few(kicks)
        };
        while outcome.is_ok() && !enough(kicks) {
            match guest.thread.run(&mut guest.regs) {
                Ok(Trap::Syscall) if guest.regs.orig_rax == 39 => guest.regs.rax = 4711,
                Ok(Trap::Syscall) if guest.regs.orig_rax == 15 => guest.regs.rax = 39,
                Ok(Trap::Kicked) => kicks += 1,
                other => outcome = Err(format!("{other:?} {:x?}", guest.regs)),
            }
        }
        over.store(true, Ordering::Relaxed);
        outcome.unwrap();
    });
    (word(&data, 0), kicks)
}

fn nothing_is_lost_when_kicks_come_anywhere() {
    let world = World::new();
    for answers in [&[][..], &[(39, 4711)]] {
        let (rounds, kicks) = storm(&world, answers);
        assert!(rounds > 100 && kicks > 100, "{rounds} rounds, {kicks} kicks");
    }
}

guest_code!(jump, "jmp rdx");

/// Where the instruction is in the stub that pops all there is.
fn iretq(world: &World) -> Vec<u64> {
    let code = doorbell::code();
    let found = (0..code.len()).filter(|&at| code[at..].starts_with(&[0x48, 0xcf]));
    found.map(|at| world.platform.user_range().1 + at as u64).collect()
}

/// A guest goes in circles in the stub's own code, where a kick finds it on its way to or from the
/// Sentry each time.
#[test]
fn nobody_evades_a_kick() {
    KIND.set(Kind::Notify);
    let world = World::new();
    let places = iretq(&world);
    assert_eq!(places.len(), 2);
    for place in places {
        let space = world.space(jump());
        let data = world.frames(&[0]);
        space.space.map(DATA, PAGE_SIZE, Prot::READ_WRITE, at(&data), false);
        for (slot, value) in [place, 0x33, 0x202, DATA, 0x2b].into_iter().enumerate() {
            write(&data, slot * 8, &value.to_le_bytes());
        }
        let mut guest = space.thread();
        (guest.regs.rdx, guest.regs.rsp) = (place, DATA);
        let kicker = guest.thread.kicker();
        let (start, lag) = (Instant::now(), Lag::watch());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(30));
                kicker.kick();
            });
            // Where it is comes to nothing that a guest could go on with: its process may end.
            let outcome = guest.thread.run(&mut guest.regs);
            assert!(matches!(outcome, Ok(Trap::Kicked) | Err(Error::StubGone)), "{outcome:?}");
        });
        let (took, lag) = (start.elapsed(), lag.total());
        assert!(took < Duration::from_secs(1) + 4 * lag, "{took:?} ({lag:?} late)");
    }
}

on_every_platform!(nothing_is_lost_when_kicks_come_anywhere);
