//! Threads without the time-stamp counter.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{CODE, KIND, Kind, World, start};
use crate::arch::trap::{SI_KERNEL, VECTOR_GP};
use crate::{Clocks, Error, PAGE_SIZE, Registers, Trap};

guest_code!(
    read_and_call,
    "2: mov eax, 39",
    "syscall",
    "rdtsc",
    "mov rbx, rax",
    "rdtscp",
    "jmp 2b"
);
/// Where the two instructions are.
const RDTSC: u64 = CODE + 7;
const RDTSCP: u64 = CODE + 12;

const FAULT: (i32, i32, u64) = (libc::SIGSEGV, SI_KERNEL, VECTOR_GP);

fn the_counter_goes_and_comes() {
    let world = World::new();
    let space = world.space(read_and_call());
    let mut guest = space.thread();
    assert_eq!(guest.syscall(), 39);
    assert_eq!(guest.syscall(), 39, "it has the counter at first");
    for _ in 0..5 {
        guest.thread.set_tsc(false);
        assert_eq!(guest.exception(), FAULT);
        assert_eq!(guest.regs.rip, RDTSC);
        guest.regs.rip = RDTSCP;
        assert_eq!(guest.exception(), FAULT);
        // Whoever comes after it begins with the counter, and neighbours keep it.
        let mut other = space.thread();
        assert_eq!((other.syscall(), other.syscall()), (39, 39));
        guest.thread.set_tsc(true);
        assert_eq!(guest.syscall(), 39);
        drop(guest);
        guest = space.thread();
        assert_eq!((guest.syscall(), guest.syscall()), (39, 39));
        guest.thread.set_tsc(false);
        assert_eq!(guest.exception(), FAULT);
        drop(std::mem::replace(&mut guest, space.thread()));
        assert_eq!((guest.syscall(), guest.syscall()), (39, 39));
    }
}

/// The registers and the extended state are the guest's, whenever kicks come.
fn kicks_do_not_disturb_the_change() {
    let world = World::new();
    let space = world.space(read_and_call());
    let mut guest = space.thread();
    guest.regs.r12 = 0x1234_5678_9abc_def0;
    let kicker = guest.thread.kicker();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                kicker.kick();
                std::thread::park_timeout(Duration::from_micros(50));
            }
        });
        let (mut calls, mut faults) = (0, 0);
        let mut readable = true;
        while calls < 300 || faults < 300 {
            match guest.run() {
                Trap::Kicked => {}
                Trap::Syscall => {
                    calls += 1;
                    readable = !readable;
                    guest.regs.rax = 7;
                    guest.thread.set_tsc(readable);
                }
                Trap::Exception(e) => {
                    assert_eq!((e.signo, e.code, e.trapno), FAULT);
                    assert!(!readable && guest.regs.rip == RDTSC);
                    faults += 1;
                    guest.regs.rip = CODE;
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(guest.regs.r12, 0x1234_5678_9abc_def0);
        }
        over.store(true, Ordering::Relaxed);
    });
}

fn a_guest_cannot_take_the_counter_back() {
    taking_back(&World::new());
}

fn trapped_counters_stay_trapped() {
    let world = World::with(Clocks::Trapped);
    assert!(world.platform.vdso().is_none());
    let space = world.space(read_and_call());
    let mut guest = space.thread();
    for readable in [true, false, true] {
        guest.thread.set_tsc(readable);
        guest.regs = Registers { rip: RDTSC, ..start() };
        assert_eq!(guest.exception(), FAULT);
        guest.regs.rip = RDTSCP;
        assert_eq!(guest.exception(), FAULT);
    }
    drop((guest, space));
    taking_back(&world);
}

/// A guest without the counter jumps to every byte of the stub's code as if that were `prctl`.
fn taking_back(world: &World) {
    let mut space = world.space(read_and_call());
    let base = world.platform.user_range().1;
    let code = crate::arch::stub::code().len().max(crate::arch::doorbell::code().len()) as u64;
    let take = Registers {
        rax: libc::SYS_prctl as u64,
        rdi: libc::PR_SET_TSC as u64,
        rsi: libc::PR_TSC_ENABLE as u64,
        ..start()
    };
    let mut kept = None;
    for rip in base..base + code {
        let mut guest = kept.take().unwrap_or_else(|| space.thread());
        guest.thread.set_tsc(false);
        guest.regs = Registers { rip, ..take };
        match guest.run_kicked() {
            Ok(_) => {
                guest.regs = Registers { rip: RDTSC, ..start() };
                let trap = loop {
                    match guest.run() {
                        Trap::Kicked => {}
                        other => break other,
                    }
                };
                assert!(matches!(trap, Trap::Exception(_)), "{trap:?} after {:#x}", rip - base);
                kept = Some(guest);
            }
            Err(Error::StubGone) => space = world.space(read_and_call()),
            Err(other) => panic!("{other} at {:#x}", rip - base),
        }
    }
    assert!(code < PAGE_SIZE);
}

on_every_platform!(
    the_counter_goes_and_comes,
    kicks_do_not_disturb_the_change,
    a_guest_cannot_take_the_counter_back,
    trapped_counters_stay_trapped,
);
