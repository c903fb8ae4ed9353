//! Rings the doorbell without a request: from own code and from the stub's, in floods.

use std::sync::atomic::{AtomicBool, Ordering};

use super::asm::{self, Regs};
use super::catch::Catcher;
use super::health;
use super::jump::{closed, scratch};
use super::probe;
use super::share::{Chance, now};
use super::supervisor::{Attack, Attacker, Ends};

pub const ATTACKS: &[Attack] = &[
    Attack::once("from_own_code", Ends::Well, from_own_code),
    Attack {
        name: "from_the_stub",
        ends: Ends::OrHangs,
        items: || probe::call_sites(12).len() as u64 * 64,
        fresh: false,
        limit: 1000,
        body: from_the_stub,
    },
    Attack::once("flood_from_own_code", Ends::Well, flood_from_own_code),
    Attack {
        name: "flood_from_the_stub",
        ends: Ends::OrHangs,
        items: || probe::call_sites(6).len() as u64,
        fresh: true,
        limit: 5000,
        body: flood_from_the_stub,
    },
];

/// Numbers that Linux has no call for, those that the stub uses among them.
fn numbers() -> Vec<u64> {
    let mut all = probe::doorbells();
    all.extend([500, 511, 600, 1000, 1023, 4096, 0xffff, 0x1_0000, 0x3fff_ffff, 0x7fff_ffff]);
    all.extend([0x8000_0000, 0xffff_fffe, 0xffff_ffff, 0x4000_03ff, 0xdead_beef]);
    all.extend((600..620).chain(0x2000..0x2010));
    all
}

/// From the guest's own code, they are numbers like others that do not exist.
fn from_own_code(attacker: &Attacker, _: u64) {
    let mut chance = Chance(17);
    for nr in numbers() {
        for _ in 0..4 {
            let args = [0; 6].map(|_: u64| chance.next() >> (chance.next() % 64));
            let got = asm::syscall(nr, args);
            if got != -i64::from(libc::ENOSYS) {
                attacker.share.fail(&format!("call {nr:#x} gives {got:#x}"));
            }
        }
    }
    if let Err(what) = health::check() {
        attacker.share.fail(&what);
    }
}

fn registers(item: u64, chance: &mut Chance) -> Regs {
    let bells = probe::doorbells();
    let nr = bells.get(item as usize % bells.len().max(1)).copied().unwrap_or(0x1000);
    let base = match item % 4 {
        0 => Regs::all(0, scratch()),
        1 => Regs::all(asm::gs_base(), scratch()),
        2 => Regs::all(u64::MAX, 0),
        _ => Regs::all(scratch(), asm::gs_base().wrapping_add(0x7f00)),
    };
    let args = [0; 6].map(|_: u64| match chance.next() % 4 {
        0 => chance.next() % 16,
        1 => asm::gs_base(),
        2 => chance.next(),
        _ => probe::USER_END - chance.next() % 0x10_0000,
    });
    base.call(nr, args)
}

fn from_the_stub(attacker: &Attacker, item: u64) {
    let sites = probe::call_sites(12);
    attacker.catcher.start_ticks();
    closed();
    let mut chance = Chance(item + 1);
    for _ in 0..4 {
        let regs = registers(item, &mut chance);
        // The instruction alone, and with what comes before it.
        let site = sites[item as usize / 64] - [0, 0, 5, 7][item as usize % 4];
        attacker.catcher.jump(site, &regs);
    }
}

/// Genuine calls must not suffer from forged ones of other threads.
fn genuine(until: u64) -> Result<(), String> {
    let mut rounds = 0;
    while now() < until || rounds < 3 {
        health::check()?;
        rounds += 1;
    }
    Ok(())
}

fn flood_from_own_code(attacker: &Attacker, _: u64) {
    let stop = AtomicBool::new(false);
    let (share, bells) = (attacker.share, numbers());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (stop, bells) = (&stop, &bells);
            scope.spawn(move || {
                let mut turn = thread;
                while !stop.load(Ordering::Relaxed) {
                    let nr = bells[turn % bells.len()];
                    let got = asm::syscall(nr, [turn as u64; 6]);
                    if got != -i64::from(libc::ENOSYS) {
                        share.fail(&format!("call {nr:#x} gives {got:#x}"));
                    }
                    turn += 1;
                }
            });
        }
        if let Err(what) = genuine(now() + 1000) {
            attacker.share.fail(&what);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// Four threads ring from the stub's instruction; this one makes genuine calls. The process may end
/// of it, but not as long as it does not, fail.
fn flood_from_the_stub(attacker: &Attacker, item: u64) {
    let site = probe::call_sites(6)[item as usize];
    let stop = AtomicBool::new(false);
    attacker.catcher.start_ticks();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let stop = &stop;
            scope.spawn(move || {
                let catcher = Catcher::install();
                let mut chance = Chance(thread + 1);
                let mut turn = thread;
                while !stop.load(Ordering::Relaxed) {
                    catcher.jump(site, &registers(turn, &mut chance));
                    turn += 1;
                }
            });
        }
        if let Err(what) = genuine(now() + 300) {
            attacker.share.fail(&what);
        }
        stop.store(true, Ordering::Relaxed);
    });
}
