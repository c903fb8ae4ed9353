//! Jumps to every byte of the stub's pages that can be executed, with several register fillings.

use std::cell::Cell;

use super::asm::{self, Regs};
use super::probe::{self, PAGE};
use super::supervisor::{Attack, Attacker, Ends};

const FILLINGS: u64 = 6;

pub const ATTACKS: &[Attack] = &[Attack {
    name: "every_byte",
    ends: Ends::OrHangs,
    items: || probe::pages().len() as u64 * PAGE * FILLINGS + 1,
    fresh: false,
    limit: 1000,
    body: jump,
}];

thread_local! {
    /// The last page that turned out not to be executable, and memory for registers to point at.
    static DATA: Cell<u64> = const { Cell::new(0) };
    static SCRATCH: Cell<u64> = const { Cell::new(0) };
}

/// Memory that an attack may have destroyed, with return addresses to a trap at its end.
pub fn scratch() -> u64 {
    const LEN: usize = 256 << 10;
    if SCRATCH.get() == 0 {
        let (prot, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a fresh mapping.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), LEN, prot, flags, -1, 0) };
        assert!(at != libc::MAP_FAILED, "no memory");
        SCRATCH.set(at as u64 + LEN as u64 / 2);
    }
    let top = SCRATCH.get();
    for slot in 0..64 {
        // SAFETY: half of the mapping lies above.
        unsafe { (top as *mut u64).add(slot).write(asm::attack_landed as *const () as u64) };
    }
    top
}

/// A filling of the registers.
pub fn filling(which: u64) -> Regs {
    let (scratch, block) = (scratch(), asm::gs_base());
    match which {
        0 => Regs::all(0, scratch),
        1 => Regs::all(scratch, scratch),
        2 => Regs::all(block, block.wrapping_add(0x7f00)),
        3 => Regs::all(u64::MAX, scratch),
        // mmap of descriptor 0 where nothing is.
        4 => Regs::all(scratch, scratch).call(9, [NOWHERE, 0x10_0000, 3, 0x11, 0, 0]),
        _ => Regs::all(0x7fff_ffff_f000 - 0x1000, 0),
    }
}

/// Where no mapping of ours is.
pub const NOWHERE: u64 = 0x1234_5670_0000;

fn jump(attacker: &Attacker, item: u64) {
    let pages = probe::pages();
    let last = pages.len() as u64 * PAGE * FILLINGS;
    if item == 0 {
        attacker.catcher.start_ticks();
    }
    if item == last {
        if let Some(at) = probe::canary_anywhere() {
            attacker.share.fail(&format!("the victim's canary is at {at:#x}"));
        }
        return;
    }
    // With one filling everywhere, then the next.
    let (at, which) = (item % (last / FILLINGS), item / (last / FILLINGS));
    let page = pages[(at / PAGE) as usize];
    if DATA.get() == page {
        return;
    }
    if SCRATCH.get() == 0 {
        // A process that goes on where another one died.
        attacker.catcher.start_ticks();
        closed();
    }
    let target = page + at % PAGE;
    let caught = attacker.catcher.jump(target, &filling(which));
    if caught.is_fetch() && caught.rip == target {
        DATA.set(page);
    }
    if super::catch::load(NOWHERE).is_some() {
        attacker.share.fail(&format!("a jump to {target:#x} mapped something"));
    }
}

/// Closes all descriptors, so that none of this process's own can be used by an attack.
pub fn closed() {
    // SAFETY: attackers use no file from here on.
    unsafe { libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) };
}
