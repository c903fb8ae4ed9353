//! Call sites of the `notify` platform that are patched, and unpatched, and come again elsewhere.

use std::collections::HashMap;

use super::*;

/// `mov eax, 39; syscall; ret`
const SITE: [u8; 8] = [0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3];
/// More calls than a site is patched after.
const OFTEN: u64 = 10;
const SITES_PER_PAGE: u64 = PAGE_SIZE / SITE.len() as u64;

// Calls what rdi points to, rsi bytes apart, up to rdx, r14 times each; then call 1.
guest_code!(
    call_sites,
    "4: mov rbx, rdi",
    "3: mov r12, r14",
    "2: call rbx",
    "dec r12",
    "jnz 2b",
    "add rbx, rsi",
    "cmp rbx, rdx",
    "jb 3b",
    "mov eax, 1",
    "syscall",
    "jmp 4b",
);

fn notify() -> World {
    KIND.set(Kind::Notify);
    World::new()
}

fn counters(world: &World) -> HashMap<&'static str, u64> {
    world.platform.counters().into_iter().collect()
}

fn patched(world: &World) -> u64 {
    counters(world)["call sites patched"]
}

/// Has a guest call everything, until its call 1. Returns how many calls came.
fn call_all(guest: &mut Guest) -> u64 {
    let mut calls = 0;
    loop {
        match guest.run() {
            Trap::Syscall if guest.regs.orig_rax == 1 => return calls,
            Trap::Syscall => {
                assert_eq!(guest.regs.orig_rax, 39);
                guest.regs.rax = 4711;
                calls += 1;
            }
            Trap::Kicked => {}
            other => panic!("{other:?} at {:#x}", guest.regs.rip),
        }
    }
}

fn caller(space: &Space, sites: u64, len: u64, times: u64) -> Guest {
    let mut guest = space.thread();
    (guest.regs.rdi, guest.regs.rsi) = (sites, SITE.len() as u64);
    (guest.regs.rdx, guest.regs.r14) = (sites + len, times);
    guest
}

/// More call sites than there is room for at a time, mapped, called and unmapped in turn, while other
/// threads are in patches of their own, in calls, and in no call at all.
#[test]
fn three_times_as_many_call_sites_as_there_is_room_for() {
    const PAGES: u64 = 4;
    const ROUNDS: u64 = 12;
    const PER_ROUND: u64 = PAGES * SITES_PER_PAGE;
    const PLACE: u64 = DATA + (16 << 20);
    let world = notify();
    let space = world.space(call_sites());
    let code = world.frames(&SITE.repeat(PER_ROUND as usize));
    let own = world.frames(&SITE.repeat(64));
    space.space.map(DATA, PAGE_SIZE, RX, at(&own), false);
    let data = world.frames(&[0]);
    space.space.map(DATA - PAGE_SIZE, PAGE_SIZE, Prot::READ_WRITE, at(&data), false);
    let spin_code = world.frames(spin());
    space.space.map(DATA - 2 * PAGE_SIZE, PAGE_SIZE, RX, at(&spin_code), false);

    // One that never calls anything.
    let mut idle = space.thread();
    (idle.regs.rip, idle.regs.rdi) = (DATA - 2 * PAGE_SIZE, DATA - PAGE_SIZE);
    let kicker = idle.thread.kicker();
    let over = AtomicBool::new(false);
    let calls = std::thread::scope(|scope| {
        // One that calls all the time.
        scope.spawn(|| {
            let mut guest = caller(&space, DATA, 64 * SITE.len() as u64, OFTEN);
            while !over.load(Ordering::Relaxed) {
                assert_eq!(call_all(&mut guest), 64 * OFTEN);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let worker = scope.spawn(|| {
            let mut guest = caller(&space, PLACE, PER_ROUND * SITE.len() as u64, OFTEN);
            // One that stays in a call of a site that goes, and comes back to it.
            let mut sleeper = caller(&space, PLACE, SITE.len() as u64, u64::MAX);
            let mut calls = 0;
            for _ in 0..ROUNDS {
                space.space.map(PLACE, code.len(), RX, at(&code), false);
                calls += call_all(&mut guest);
                for _ in 0..8 {
                    assert_eq!(sleeper.syscall(), 39);
                    sleeper.regs.rax = 4711;
                }
                space.space.unmap(PLACE, code.len(), None);
            }
            over.store(true, Ordering::Relaxed);
            kicker.kick();
            calls
        });
        while !over.load(Ordering::Relaxed) {
            assert_eq!(idle.run(), Trap::Kicked);
        }
        worker.join().unwrap()
    });
    assert_eq!(calls, ROUNDS * PER_ROUND * OFTEN);
    let counters = counters(&world);
    // Some are forgotten before they trapped often enough: not so many are watched at a time.
    assert!(counters["call sites patched"] >= ROUNDS * PER_ROUND * 9 / 10, "{counters:?}");
    assert_eq!(counters["times there was no room for a patch"], 0, "{counters:?}");
}

/// A copy of an address space has the patches of what it has, and all the room that is left.
#[test]
fn a_copy_has_the_patches_of_what_is_there_still() {
    const SITES: u64 = 64;
    let len = SITES * SITE.len() as u64;
    let world = notify();
    let space = world.space(call_sites());
    let code = world.frames(&SITE.repeat(SITES as usize));
    let (stays, goes) = (DATA, DATA + PAGE_SIZE);
    for place in [stays, goes] {
        space.space.map(place, PAGE_SIZE, RX, at(&code), false);
        // Twice: the first traps of all are not enough for a patch.
        for _ in 0..2 {
            assert_eq!(call_all(&mut caller(&space, place, len, OFTEN)), SITES * OFTEN);
        }
    }
    // Not all: near the page's start, what stands before a call is not sure.
    let before = patched(&world);
    assert!(before > 2 * SITES * 9 / 10, "{before}");
    space.space.unmap(goes, PAGE_SIZE, None);

    let copy = world.platform.new_address_space().unwrap();
    for (place, frames) in [(CODE, &space.frames[0]), (stays, &code)] {
        copy.map(place, PAGE_SIZE, RX, at(frames), false);
    }
    let stack = &space.frames[1];
    copy.map(STACK, stack.len(), Prot::READ_WRITE, at(stack), false);
    copy.inherit(&*space.space);
    let copy = Space { space: copy, frames: Vec::new() };
    assert_eq!(call_all(&mut caller(&copy, stays, len, OFTEN)), SITES * OFTEN);
    assert_eq!(patched(&world), before, "it has them already");
    for place in [goes, goes + PAGE_SIZE] {
        copy.space.map(place, PAGE_SIZE, RX, at(&code), false);
        assert_eq!(call_all(&mut caller(&copy, place, len, OFTEN)), SITES * OFTEN);
    }
    assert!(patched(&world) > before + 2 * SITES * 9 / 10, "{}", patched(&world));
    assert_eq!(call_all(&mut caller(&copy, stays, len, OFTEN)), SITES * OFTEN);
    // The original did not notice.
    assert_eq!(call_all(&mut caller(&space, stays, len, OFTEN)), SITES * OFTEN);
}
