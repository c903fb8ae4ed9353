//! Stub processes of the `notify` platform that are used for one guest after the other.

use std::mem::offset_of;

use super::*;
use crate::arch::doorbell::{self, Control};

guest_code!(
    leave_traces,
    "mov eax, 0x2b",
    "mov ds, eax",
    "mov es, eax",
    "mov fs, eax",
    "mov gs, eax",
    "movq xmm0, rax",
    "mov eax, 39",
    "syscall",
);

guest_code!(
    look_for_traces,
    "mov ebx, ds",
    "mov ebp, es",
    "mov r12d, fs",
    "mov r13d, gs",
    "movq r14, xmm0",
    "mov eax, 39",
    "syscall",
);

// rbx, rcx: `state` and `kind` in the block; rdx: the doorbell's `syscall`, r15: what the stub is to
// take for the block.
guest_code!(
    ring_with_a_false_block,
    "mov dword ptr [rbx], 2",
    "mov word ptr [rcx], 1",
    "xor edi, edi",
    "xor esi, esi",
    "mov eax, 0x2b0a7d01",
    "jmp rdx",
);

guest_code!(trap, "ud2");

fn maps(pid: sys::Tid) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default()
}

/// The stub process that has the tests' code; others may have it until they are blank again.
fn owner(world: &World) -> sys::Tid {
    let code = format!("{CODE:08x}-");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let mut owners = children(world);
        owners.retain(|&pid| maps(pid).lines().any(|line| line.starts_with(&code)));
        if let [owner] = owners[..] {
            return owner;
        }
        assert!(std::time::Instant::now() < deadline, "{owners:?}");
        std::thread::yield_now();
    }
}

/// Has the guest of [`ring_with_a_false_block`], the first thread of its process, use [`DATA`] as its
/// block.
fn ring_falsely(world: &World, guest: &mut Guest) {
    let ring =
        [&[0x31, 0xff, 0x31, 0xf6, 0xb8], &doorbell::DOORBELL.to_le_bytes()[..], &[0x0f, 0x05]]
            .concat();
    let code = doorbell::code();
    let at_ring = code.windows(ring.len()).position(|w| w == ring).unwrap() + ring.len() - 2;
    let block = crate::notify::first_block();
    guest.regs.rbx = block + offset_of!(Control, call.state) as u64;
    guest.regs.rcx = block + offset_of!(Control, call.kind) as u64;
    guest.regs.rdx = world.platform.user_range().1 + at_ring as u64;
    guest.regs.r15 = DATA;
}

fn notify() -> World {
    KIND.set(Kind::Notify);
    World::new()
}

#[test]
fn nothing_of_the_last_guest_is_left() {
    let world = notify();
    let first = world.space(leave_traces());
    let data = world.frames(&[1]);
    first.space.map(DATA, data.len(), Prot::READ_WRITE, at(&data), false);
    first.space.move_vdso(0x20_0000_0000);
    let mut guest = first.thread();
    assert_eq!(guest.syscall(), 39);
    let used = owner(&world);
    drop((guest, first));

    let second = world.space(look_for_traces());
    let mut guest = second.thread();
    assert_eq!(guest.syscall(), 39);
    assert_eq!(owner(&world), used, "it is not used again");
    let Registers { rbx, rbp, r12, r13, r14, .. } = guest.regs;
    assert_eq!([rbx, rbp, r12, r13, r14], [0; 5]);
    let mapped: Vec<_> = maps(used)
        .lines()
        .map(|line| u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap())
        .filter(|&start| start < world.platform.user_range().1)
        .collect();
    mapped.iter().for_each(|start| assert!([CODE, STACK].contains(start), "{start:#x}"));
    if let Some(image) = world.platform.vdso() {
        assert!(maps(used).contains(&format!("{:x}-", image.vvar_base)));
    }
}

/// A guest that is about to end waits at its doorbell with registers that would lead whoever comes
/// after it astray.
#[test]
fn the_next_guest_does_not_inherit_a_trap() {
    let world = notify();
    let first = world.space(ring_with_a_false_block());
    let mut guest = first.thread();
    ring_falsely(&world, &mut guest);
    assert_eq!(guest.run(), Trap::Syscall);
    let used = owner(&world);
    drop((guest, first));

    let second = world.space(getpid_loop());
    let trap = world.frames(trap());
    second.space.map(DATA + PAGE_SIZE, trap.len(), RX, at(&trap), false);
    let false_block = world.frames(&[0]);
    write(&false_block, offset_of!(Control, call.action), &doorbell::ACTION_LOAD.to_le_bytes());
    let regs = Registers { rip: DATA + PAGE_SIZE, ..start() };
    write(&false_block, offset_of!(Control, regs), zerocopy::IntoBytes::as_bytes(&regs));
    second.space.map(DATA, false_block.len(), Prot::READ_WRITE, at(&false_block), false);
    let mut guest = second.thread();
    assert_eq!(guest.syscall(), 39);
    assert_eq!(owner(&world), used, "it is not used again");
}

/// What backed a guest's mappings is kept until nobody can reach it any more, and not for longer. The
/// nursery's thread, which is there from the second address space on, sees to that.
#[test]
fn what_a_guest_had_outlives_its_mappings() {
    struct Rest(std::sync::mpsc::Sender<bool>, sys::Tid);
    impl Drop for Rest {
        fn drop(&mut self) {
            let code = format!("{CODE:08x}-");
            let _ = self.0.send(maps(self.1).lines().any(|line| line.starts_with(&code)));
        }
    }
    let world = notify();
    let _second = world.space(trap());
    for _ in 0..10 {
        let space = world.space(getpid_loop());
        let mut guest = space.thread();
        assert_eq!(guest.syscall(), 39);
        let (sender, seen) = std::sync::mpsc::channel();
        assert!(space.space.leave(Box::new(Rest(sender, owner(&world)))).is_none());
        assert!(seen.try_recv().is_err());
        drop((guest, space));
        assert_eq!(seen.recv(), Ok(false));
    }
}

/// The child of a fork gets vvar and vDSO when it looks at them, or has a second thread that could.
#[test]
fn a_vdso_may_come_late() {
    const AT: u64 = 0x2000_0000;
    for threads in [1, 2] {
        let world = notify();
        let Some(image) = world.platform.vdso() else { return };
        let (parent, child) = (world.space(vdso_reader()), world.space(vdso_reader()));
        child.space.move_vdso(AT);
        child.space.inherit(&*parent.space);
        let mut guest = child.thread();
        let others: Vec<_> = (1..threads).map(|_| child.thread()).collect();
        let mut look = |at: u64| {
            guest.regs = start();
            guest.regs.rdi = at;
            guest.run()
        };
        let behind = AT + image.vvar_len + image.code_len;
        assert!(matches!(look(behind), Trap::Fault(fault) if fault.addr == behind));
        let is_there = || maps(owner(&world)).contains(&format!("{AT:08x}-"));
        assert_eq!(is_there(), threads == 2);
        assert_eq!(look(AT + image.vvar_len), Trap::Syscall);
        assert!(is_there());
        drop(others);
    }
}

/// Who had several threads, or has no vDSO any more, is not fit for another guest.
#[test]
fn only_what_can_be_blank_is_used_again() {
    let world = notify();
    let spoil: [fn(&Space); 2] = [
        |space| {
            let mut other = space.thread();
            assert_eq!(other.syscall(), 39);
        },
        |space| space.space.unmap_vdso(),
    ];
    for spoil in spoil {
        let first = world.space(getpid_loop());
        let mut guest = first.thread();
        assert_eq!(guest.syscall(), 39);
        let used = owner(&world);
        spoil(&first);
        drop((guest, first));
        let second = world.space(getpid_loop());
        assert_eq!(second.thread().syscall(), 39);
        assert_ne!(owner(&world), used);
    }
}

/// Who rings its doorbell itself goes on with its own code, not with what the stub is told. Whoever
/// waits for that gets it back by a kick.
#[test]
fn a_false_ring_makes_nobody_wait_for_ever() {
    let world = notify();
    for kicked_before in [false, true] {
        let space = world.space(ring_with_a_false_block());
        let spin_code = world.frames(spin());
        space.space.map(DATA + PAGE_SIZE, PAGE_SIZE, RX, at(&spin_code), false);
        let false_block = world.frames(&[0]);
        write(&false_block, offset_of!(Control, call.action), &doorbell::ACTION_LOAD.to_le_bytes());
        let regs = Registers { rip: DATA + PAGE_SIZE, rdi: STACK, ..start() };
        write(&false_block, offset_of!(Control, regs), zerocopy::IntoBytes::as_bytes(&regs));
        space.space.map(DATA, PAGE_SIZE, Prot::READ_WRITE, at(&false_block), false);
        let mut guest = space.thread();
        ring_falsely(&world, &mut guest);
        assert_eq!(guest.run(), Trap::Syscall);
        let kicker = guest.thread.kicker();
        if kicked_before {
            kicker.kick();
        }
        let (start, lag) = (Instant::now(), Lag::watch());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(30));
                kicker.kick();
            });
            // What comes of it is the guest's own fault.
            let _ = guest.thread.xstate();
        });
        let (took, lag) = (start.elapsed(), lag.total());
        assert!(took < Duration::from_secs(2) + 4 * lag, "{took:?} ({lag:?} late)");
    }
}
