//! Guests that do not want to come back into the kernel. SIGKILL must end each, and nobody else
//! may have to wait for them.

use std::sync::atomic::Ordering;

use super::asm::{self, Regs};
use super::calls::code;
use super::catch::{self, Catcher};
use super::jump::scratch;
use super::probe::{self, PAGE};
use super::share::Chance;
use super::supervisor::{Attack, Attacker, Ends};

/// An attack that goes on until it is killed.
const fn spins(name: &'static str, body: fn(&Attacker, u64)) -> Attack {
    Attack::once(name, Ends::Killed, body)
}

pub const ATTACKS: &[Attack] = &[
    spins("own_loop", own_loop),
    spins("own_loop_with_odd_registers", odd_loop),
    spins("eight_loops", eight_loops),
    spins("string_instruction", string_instruction),
    spins("single_steps", single_steps),
    spins("faults", faults),
    spins("signals_blocked_and_handled", signals),
    spins("handler_that_loops", looping_handler),
    spins("between_stub_and_own_code", pingpong),
    spins("scribbled_while_looping", scribbled),
    spins("vfork", vfork),
    Attack {
        name: "in_the_stubs_loops",
        ends: Ends::OrHangs,
        items: || loops().len() as u64 * 4,
        fresh: true,
        limit: 250,
        body: in_loops,
    },
    Attack {
        name: "in_circles_through_the_stub",
        ends: Ends::OrHangs,
        items: || circles().len() as u64 * 3,
        fresh: true,
        limit: 250,
        body: in_circles,
    },
    Attack { limit: 1000, ..Attack::once("on_a_siblings_page", Ends::OrHangs, siblings_page) },
    Attack::once("nobody_waits_for_it", Ends::Well, others_go_on),
];

fn ready(attacker: &Attacker) {
    attacker.share.ready.store(1, Ordering::Relaxed);
}

fn spin() -> ! {
    // SAFETY: jumps to itself.
    unsafe { asm::attack_spin() };
    unreachable!("it does not return");
}

fn own_loop(attacker: &Attacker, _: u64) {
    ready(attacker);
    spin();
}

/// No stack, no GS, all signals blocked.
fn odd_loop(attacker: &Attacker, _: u64) {
    block_all();
    ready(attacker);
    asm::set_gs_base(0xffff_8000_0000_0000);
    attacker.catcher.jump(asm::attack_spin as *const () as u64, &Regs::all(0, 0));
}

fn eight_loops(attacker: &Attacker, _: u64) {
    for _ in 0..7 {
        std::thread::spawn(|| {
            asm::set_gs_base(0);
            spin()
        });
    }
    ready(attacker);
    spin();
}

/// One instruction that takes long, over and over.
fn string_instruction(attacker: &Attacker, _: u64) {
    const LEN: usize = 64 << 20;
    let (prot, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a mapping of our own, written in one instruction.
    unsafe {
        let at = libc::mmap(std::ptr::null_mut(), LEN, prot, flags, -1, 0);
        ready(attacker);
        loop {
            std::arch::asm!("std", "rep stosb", "cld", inout("rcx") LEN => _,
                inout("rdi") at as usize + LEN - 1 => _, in("al") 1u8);
        }
    }
}

/// Single steps, each handled.
fn single_steps(attacker: &Attacker, _: u64) {
    ready(attacker);
    loop {
        asm::syscall_with_flags(libc::SYS_getpid as u64, 0x302);
    }
}

/// A fault, handled, a fault.
fn faults(attacker: &Attacker, _: u64) {
    ready(attacker);
    loop {
        catch::load(8);
        catch::load(u64::MAX);
        catch::load(0x8000_0000_0000);
    }
}

fn block_all() {
    // SAFETY: a full set.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::sigprocmask(libc::SIG_BLOCK, &all, std::ptr::null_mut());
    }
}

/// SIGURG handled by a handler that sends it again; everything else ignored or blocked.
fn signals(attacker: &Attacker, _: u64) {
    extern "C" fn again(signal: i32) {
        // SAFETY: a plain call.
        unsafe { libc::raise(signal) };
    }
    // SAFETY: handlers that make one call.
    unsafe {
        for signal in 1..65 {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::signal(libc::SIGURG, again as *const () as usize);
        libc::signal(libc::SIGSYS, again as *const () as usize);
        ready(attacker);
        libc::raise(libc::SIGURG);
    }
    spin();
}

/// The handler never returns, on a stack that is at its end.
fn looping_handler(attacker: &Attacker, _: u64) {
    extern "C" fn forever(_: i32) {
        spin();
    }
    // SAFETY: the handler uses no stack to speak of.
    unsafe {
        libc::signal(libc::SIGSEGV, forever as *const () as usize);
        ready(attacker);
        std::ptr::null_mut::<u8>().write_volatile(0);
    }
    spin();
}

/// Calls something in the stub that returns, for ever. Without a stub that has such code, own code.
fn pingpong(attacker: &Attacker, _: u64) {
    // The first `ret` that comes back; others may do anything before.
    let own = code(&[0xc3]);
    let target = probe::find_bytes(&[0xc3]).into_iter().find(|&at| {
        let caught = attacker.catcher.jump(at, &Regs::all(0, scratch()));
        caught.rip == asm::attack_landed as *const () as u64
    });
    let regs = Regs::all(target.unwrap_or(own), scratch());
    block_all();
    ready(attacker);
    attacker.catcher.jump(asm::attack_pingpong as *const () as u64, &regs);
}

/// A sibling keeps writing "I am in the stub", or anything else, into its page.
fn scribbled(attacker: &Attacker, _: u64) {
    let pages: Vec<u64> = probe::writable_pages();
    std::thread::spawn(move || {
        Catcher::install();
        let mut chance = Chance(1);
        loop {
            for &page in &pages {
                for at in (page..page + PAGE).step_by(8) {
                    catch::store(at, chance.next() % 3);
                }
            }
            if pages.is_empty() {
                spin();
            }
        }
    });
    ready(attacker);
    asm::set_gs_base(0);
    spin();
}

/// The parent of a vfork waits for a child that loops.
fn vfork(attacker: &Attacker, _: u64) {
    ready(attacker);
    // SAFETY: the child uses no stack.
    unsafe {
        std::arch::asm!("mov eax, 58", "syscall", "test eax, eax", "jnz 3f", "2: jmp 2b", "3:",
            out("rax") _, out("rcx") _, out("r11") _);
    }
    spin();
}

/// `pause` and short backward jumps in the stub: its loops, and what looks like them.
fn loops() -> Vec<u64> {
    let mut all = probe::find_bytes(&[0xf3, 0x90]);
    for page in probe::pages() {
        let Some(bytes) = probe::read_page(page) else { continue };
        for (at, pair) in bytes.windows(2).enumerate() {
            // jmp or jcc, 2 to 64 bytes back.
            let jump = pair[0] == 0xeb || pair[0] & 0xf0 == 0x70 || pair[0] == 0xe2;
            if jump && (0xc0..0xff).contains(&pair[1]) {
                all.push(page + at as u64);
            }
        }
    }
    let step = all.len().div_ceil(40).max(1);
    all.into_iter().step_by(step).collect()
}

/// Enters a loop of the stub with counters that take for ever.
fn in_loops(attacker: &Attacker, item: u64) {
    block_all();
    let at = loops()[item as usize / 4];
    let regs = match item % 4 {
        0 => Regs::all(u64::MAX, scratch()),
        1 => Regs::all(scratch(), scratch()),
        2 => Regs { rcx: u64::MAX, ..Regs::all(asm::gs_base(), 0) },
        _ => Regs { rflags: 0x246, ..Regs::all(i64::MAX as u64, asm::gs_base()) },
    };
    attacker.catcher.jump(at, &regs);
}

/// Instructions of the stub that go wherever a register or memory says: `iretq`, `ret`, and indirect
/// jumps.
fn circles() -> Vec<u64> {
    let mut all = probe::find_bytes(&[0x48, 0xcf]);
    for jump in [&[0x65u8, 0xff, 0x24, 0x25][..], &[0xff, 0x24, 0x25], &[0xff, 0x25], &[0xc3]] {
        all.extend(probe::find_bytes(jump));
    }
    for register in 0..8 {
        all.extend(probe::find_bytes(&[0xff, 0xe0 + register]));
        all.extend(probe::find_bytes(&[0xff, 0x20 + register]));
    }
    all.truncate(40);
    all
}

/// Enters an instruction that leads to itself, for ever.
fn circle(catcher: &Catcher, at: u64, registers: u64) -> super::catch::Caught {
    let memory = scratch() + 8192;
    for slot in 0..512 {
        catch::store(memory + slot * 8, at);
    }
    // What `iretq` takes: rip, cs, rflags, rsp, ss.
    let frame = memory + 4096;
    for (slot, word) in [at, 0x33, 0x202, frame, 0x2b].into_iter().enumerate() {
        catch::store(frame + slot as u64 * 8, word);
    }
    if registers != 2 {
        asm::set_gs_base(memory);
    }
    let value = if registers == 0 { memory } else { at };
    catcher.jump(at, &Regs::all(value, frame))
}

fn in_circles(attacker: &Attacker, item: u64) {
    block_all();
    circle(&attacker.catcher, circles()[item as usize / 3], item % 3);
}

/// Has GS point to the page of a sibling that sleeps, and keeps filling that with ones: whatever the
/// stub waits for there, it has patience.
fn siblings_page(_: &Attacker, _: u64) {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = sender.send(asm::gs_base());
        super::share::doze(3_600_000);
    });
    let Ok(page) = receiver.recv() else { return };
    super::share::doze(20);
    asm::set_gs_base(page);
    loop {
        for at in (page..page + PAGE).step_by(8) {
            catch::store(at, u64::MAX);
        }
        asm::getpid_loop(100);
    }
}

/// While a thread loops with all tricks, its siblings' calls that change memory, and changes to a
/// file that it has mapped, must not wait for it.
fn others_go_on(attacker: &Attacker, _: u64) {
    let path = c"/tmp/attacked";
    // SAFETY: plain calls; the child never returns from its loop.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CREAT, 0o666);
        libc::ftruncate(fd, 1 << 20);
        let map = || {
            let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
            let at = libc::mmap(std::ptr::null_mut(), 1 << 20, prot, flags, fd, 0);
            if at != libc::MAP_FAILED {
                at.cast::<u8>().write_volatile(1);
            }
            at
        };
        let child = libc::fork();
        if child == 0 {
            map();
            for _ in 0..2 {
                std::thread::spawn(|| {
                    block_all();
                    match probe::find_bytes(&[0x48, 0xcf]).first() {
                        Some(&iretq) => {
                            circle(&Catcher::install(), iretq, 0);
                        }
                        None => asm::set_gs_base(0),
                    }
                    spin()
                });
            }
            ready(attacker);
            loop {
                let at = map();
                libc::munmap(at, 1 << 20);
            }
        }
        while attacker.share.ready.load(Ordering::Relaxed) == 0 {
            super::share::doze(1);
        }
        let start = super::share::now();
        for round in 0..20 {
            libc::ftruncate(fd, if round % 2 == 0 { 0 } else { 1 << 20 });
            super::share::doze(5);
        }
        let took = super::share::now() - start;
        if took > super::share::PATIENCE {
            attacker.share.fail(&format!("20 changes of a mapped file took {took} ms"));
        }
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, std::ptr::null_mut(), 0);
        libc::unlink(path.as_ptr());
    }
}
