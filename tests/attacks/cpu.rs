//! System calls with the processor in odd states.

use super::asm::{self, Regs};
use super::calls::code;
use super::catch::load;
use super::health;
use super::jump::scratch;
use super::probe;
use super::supervisor::{Attack, Attacker, Ends};

pub const ATTACKS: &[Attack] = &[
    Attack::once("flags", Ends::Well, flags),
    Attack::once("single_steps", Ends::Well, single_steps),
    Attack::once("segments", Ends::Well, segments),
    Attack::once("segment_bases", Ends::Well, bases),
    Attack::once("code_of_32_bits", Ends::Somehow, code_of_32_bits),
    Attack::once("floating_point", Ends::Well, floating_point),
    Attack::once("no_stack", Ends::Well, no_stack),
    Attack::once("stack_in_the_stub", Ends::Somehow, stack_in_the_stub),
    Attack::once("bad_instructions", Ends::Well, bad_instructions),
];

/// Carry, parity, adjust, zero, sign, trap, direction, overflow, nested task, alignment, id.
const CF: u64 = 1;
const TF: u64 = 1 << 8;
const DF: u64 = 1 << 10;
const NT: u64 = 1 << 14;
const AC: u64 = 1 << 18;
const ID: u64 = 1 << 21;
const STATUS: u64 = 0x8d5;

/// Calls of different lengths and paths: answered at once, unknown, failing, blocking.
fn call_results(with: impl Fn(u64) -> i64) -> Result<(), String> {
    let pid = i64::from(std::process::id());
    for (nr, want) in [
        (libc::SYS_getpid as u64, pid),
        (0xffff, -i64::from(libc::ENOSYS)),
        (libc::SYS_sched_yield as u64, 0),
        (libc::SYS_getpid as u64, pid),
        (libc::SYS_getpgid as u64, -1),
    ] {
        // The first argument is whatever the register holds: a wrong number, if anything.
        let got = with(nr);
        if got != want && want != -1 {
            return Err(format!("call {nr}: {got}, not {want}"));
        }
    }
    Ok(())
}

fn flags(attacker: &Attacker, _: u64) {
    for set in [CF, DF, NT, AC, ID, STATUS, DF | AC, NT | DF, AC | NT | ID | DF | STATUS] {
        for _ in 0..20 {
            let result = call_results(|nr| {
                let (got, after) = asm::syscall_with_flags(nr, 0x202 | set);
                if after & (set | 0x202) != 0x202 | set || after & (DF | AC | TF) & !set != 0 {
                    let what = format!("flags {set:#x} became {after:#x}");
                    attacker.share.fail(&what);
                }
                got
            });
            if let Err(what) = result {
                attacker.share.fail(&format!("with flags {set:#x}: {what}"));
            }
        }
    }
    // A fault with odd flags, too.
    for set in [DF, NT, AC, ID] {
        let regs = Regs { rflags: 0x202 | set, ..Regs::all(8, scratch()) };
        let caught = attacker.catcher.jump(asm::attack_landed as *const () as u64, &regs);
        if caught.rflags & set == 0 || caught.signal != libc::SIGILL {
            attacker.share.fail(&format!("a fault with flags {set:#x}: {caught:x?}"));
        }
    }
    if let Err(what) = health::check() {
        attacker.share.fail(&what);
    }
}

fn single_steps(attacker: &Attacker, _: u64) {
    for round in 0..50 {
        attacker.catcher.take_steps();
        let (got, _) = asm::syscall_with_flags(libc::SYS_getpid as u64, 0x202 | TF);
        let (steps, stray) = attacker.catcher.take_steps();
        if got != i64::from(std::process::id()) {
            attacker.share.fail(&format!("round {round}: getpid under single steps: {got}"));
        }
        // `syscall`, `pushfq`, `pop`, `push`, `popfq`: the last one ends it.
        if !(3..=6).contains(&steps) || stray != 0 {
            let what = format!("round {round}: {steps} single steps, one at {stray:#x}");
            attacker.share.fail(&what);
        }
    }
}

fn segments(attacker: &Attacker, _: u64) {
    for selector in [0, 1, 2, 3, 0x2b, 0x23, 0x33] {
        for _ in 0..20 {
            let result = call_results(|nr| {
                let (got, after) = asm::syscall_with_data_segment(nr, selector);
                // Null has four names; a kernel may change one to another.
                if after != selector && selector > 3 {
                    attacker.share.fail(&format!("DS {selector:#x} became {after:#x}"));
                }
                got
            });
            if let Err(what) = result {
                attacker.share.fail(&format!("with DS {selector:#x}: {what}"));
            }
            let result = call_results(|nr| asm::syscall_with_gs_selector(nr, selector));
            if let Err(what) = result {
                attacker.share.fail(&format!("with GS {selector:#x}: {what}"));
            }
        }
    }
    // mov ds, ax with selectors that there are not.
    let at = code(&[0x8e, 0xd8, 0x0f, 0x0b]);
    for selector in [0x10, 0x18, 0x7f, 0xfff8, 0x4] {
        let caught = attacker.catcher.jump(at, &Regs::all(selector, scratch()));
        if caught.signal != libc::SIGSEGV || caught.rip != at {
            attacker.share.fail(&format!("DS {selector:#x} can be loaded: {caught:x?}"));
        }
    }
    if let Err(what) = health::check() {
        attacker.share.fail(&what);
    }
}

fn bases(attacker: &Attacker, _: u64) {
    let own = asm::gs_base();
    let mut values = vec![0, 1, 8, 0x7fff_ffff_ffff, probe::USER_END, 0xffff_8000_0000_0000];
    values.extend([u64::MAX, scratch(), scratch() + 1, own, own + 8, own + 4096]);
    values.extend([own.wrapping_add(32 << 10), own.wrapping_sub(32 << 10)]);
    values.extend(probe::pages().into_iter().take(64));
    // Debuggers, and so the platform `ptrace`, cannot set bases outside of user space: they may get
    // lost, but must do no harm.
    for value in values {
        if value >> 47 != 0 && value >> 47 != 0x1ffff {
            continue;
        }
        for _ in 0..3 {
            let result = call_results(|nr| {
                let (got, after) = asm::syscall_with_gs_base(nr, value);
                // A stub may use GS for itself as long as its guest does not.
                let unused = value == 0 && after == own;
                if after != value && value < probe::USER_END && !unused {
                    attacker.share.fail(&format!("GS base {value:#x} became {after:#x}"));
                }
                got
            });
            if let Err(what) = result {
                attacker.share.fail(&format!("with GS base {value:#x}: {what}"));
            }
            let result = call_results(|nr| {
                let (got, after) = asm::syscall_with_fs_base(nr, value);
                if after != value && value < probe::USER_END {
                    attacker.share.fail(&format!("FS base {value:#x} became {after:#x}"));
                }
                got
            });
            if let Err(what) = result {
                attacker.share.fail(&format!("with FS base {value:#x}: {what}"));
            }
        }
        // A fault, which the handler survives because it sets the bases first.
        asm::set_gs_base(value);
        load(8);
        asm::set_gs_base(own);
    }
    if let Err(what) = health::check() {
        attacker.share.fail(&what);
    }
}

/// Goes to 32-bit code and back, and makes calls, faults and loops there.
fn code_of_32_bits(attacker: &Attacker, _: u64) {
    attacker.catcher.start_ticks();
    // push 0x23; push rax; retfq, with rax at the 32-bit code.
    let far = code(&[0x6a, 0x23, 0x50, 0x48, 0xcb]);
    let programs: [&[u8]; 6] = [
        &[0x0f, 0x0b],                                // ud2
        &[0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0x0f, 0x0b], // mov eax, 20; int 0x80; ud2
        &[0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x0f, 0x0b], // mov eax, 39; syscall; ud2
        &[0x0f, 0x34, 0x0f, 0x0b],                    // sysenter
        &[0xa1, 8, 0, 0, 0],                          // mov eax, [8]
        &[0xeb, 0xfe],                                // jmp .
    ];
    for program in programs {
        let at = code(program);
        let mut regs = Regs::all(0, scratch());
        regs.rax = at;
        for _ in 0..3 {
            let caught = attacker.catcher.jump(far, &regs);
            if caught.signal == 0 {
                attacker.share.fail("32-bit code came back by itself");
            }
        }
    }
    if let Err(what) = health::check() {
        attacker.share.fail(&what);
    }
}

fn floating_point(attacker: &Attacker, _: u64) {
    for _ in 0..50 {
        if let Err(what) = call_results(asm::syscall_with_pending_fpu_exception) {
            attacker.share.fail(&format!("with a pending exception: {what}"));
        }
    }
    if let Err(what) = health::check() {
        attacker.share.fail(&what);
    }
}

/// `mov eax, 39; syscall; mov ebx, 5; mov eax, 39; syscall; ud2`
const CALLS: &[u8] =
    &[0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xbb, 5, 0, 0, 0, 0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x0f, 0x0b];

/// Calls and faults with a stack pointer into the stub's pages: what is there gets lost, the
/// process perhaps, too.
fn stack_in_the_stub(attacker: &Attacker, _: u64) {
    let at = code(CALLS);
    let own = asm::gs_base();
    let mut stacks = vec![own, own + 64, own.wrapping_add(0x8000), own.wrapping_add(0x7000)];
    stacks.extend(probe::pages().into_iter().take(32));
    for stack in stacks {
        for _ in 0..3 {
            attacker.catcher.jump(at, &Regs::all(0, stack));
        }
    }
}

/// Calls and faults with a stack pointer that points nowhere.
fn no_stack(attacker: &Attacker, _: u64) {
    let at = code(CALLS);
    let mut stacks = vec![0, 1, 8, 0x7fff_ffff_ffff, 0x8000_0000_0000];
    stacks.extend([u64::MAX, 0xffff_8000_0000_0000, scratch() + 1]);
    for stack in stacks {
        for _ in 0..3 {
            let caught = attacker.catcher.jump(at, &Regs::all(0, stack));
            let pid = u64::from(std::process::id());
            if caught.signal != libc::SIGILL || caught.rip != at + 19 || caught.rax != pid {
                attacker.share.fail(&format!("stack at {stack:#x}: {caught:x?}"));
            }
        }
    }
    if let Err(what) = health::check() {
        attacker.share.fail(&what);
    }
}

/// Instructions that only a kernel may execute, or that there are not.
fn bad_instructions(attacker: &Attacker, _: u64) {
    let instructions: &[(&[u8], i32)] = &[
        (&[0xf4], libc::SIGSEGV),                   // hlt
        (&[0xfa], libc::SIGSEGV),                   // cli
        (&[0x0f, 0x01, 0xf8], libc::SIGSEGV),       // swapgs
        (&[0x0f, 0x07], libc::SIGSEGV),             // sysret
        (&[0x0f, 0x20, 0xd8], libc::SIGSEGV),       // mov rax, cr3
        (&[0x0f, 0x32], libc::SIGSEGV),             // rdmsr
        (&[0xe4, 0x80], libc::SIGSEGV),             // in al, 0x80
        (&[0x0f, 0x0b], libc::SIGILL),              // ud2
        (&[0x0f, 0xff, 0xc0], libc::SIGILL),        // ud0
        (&[0xcd, 0x03, 0x0f, 0x0b], libc::SIGTRAP), // int 3
        (&[0xcc, 0x0f, 0x0b], libc::SIGTRAP),       // int3
        (&[0xf1, 0x0f, 0x0b], libc::SIGTRAP),       // int1
        (&[0xcd, 0x20], libc::SIGSEGV),             // int 0x20
        (&[0xcd, 0x02], libc::SIGSEGV),             // int 2
        (&[0xf7, 0xf0], libc::SIGFPE),              // div eax
        (&[0x48, 0xcf], libc::SIGSEGV),             // iretq of landing addresses
    ];
    for (bytes, signal) in instructions {
        for _ in 0..3 {
            let at = code(bytes);
            let caught = attacker.catcher.jump(at, &Regs::all(0, scratch()));
            if caught.signal != *signal || !(at..=at + 2).contains(&caught.rip) {
                attacker.share.fail(&format!("{bytes:x?} at {at:#x}: {caught:x?}"));
            }
        }
    }
    if let Err(what) = health::check() {
        attacker.share.fail(&what);
    }
}
