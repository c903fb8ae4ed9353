//! Takes all there is of something, twice: what the first attacker had must be there again for the
//! second.

use super::asm;
use super::probe::PAGE;
use super::supervisor::{Attack, Attacker, Ends};

const fn twice(name: &'static str, ends: Ends, body: fn(&Attacker, u64)) -> Attack {
    Attack { name, ends, items: || 2, fresh: true, limit: 40_000, body }
}

pub const ATTACKS: &[Attack] = &[
    twice("threads", Ends::Well, threads),
    twice("processes", Ends::Well, processes),
    twice("maps", Ends::Well, maps),
    twice("address_space", Ends::Well, address_space),
    twice("memory", Ends::Somehow, memory),
];

/// More tasks than anybody may have.
const TOO_MANY: usize = 6000;

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Threads until EAGAIN. They sleep, and end with the process.
fn threads(attacker: &Attacker, _: u64) {
    const STACK: u64 = 16 << 10;
    // CLONE_VM, FS, FILES, SIGHAND, THREAD, SYSVSEM.
    const FLAGS: u64 = 0x5_0f00;
    let stacks =
        asm::syscall(libc::SYS_mmap as u64, [0, STACK * TOO_MANY as u64, 3, 0x22, u64::MAX, 0]);
    for made in 0..TOO_MANY {
        let stack = stacks as u64 + STACK * (made as u64 + 1);
        let result: i64;
        // SAFETY: the new thread calls pause for ever, on a stack that it does not use.
        unsafe {
            std::arch::asm!("syscall", "test rax, rax", "jnz 3f", "2: mov eax, 34", "syscall",
                "jmp 2b", "3:", inlateout("rax") libc::SYS_clone => result, in("rdi") FLAGS,
                in("rsi") stack, in("rdx") 0, in("r10") 0, in("r8") 0,
                out("rcx") _, out("r11") _);
        }
        if result < 0 {
            if result != -i64::from(libc::EAGAIN) || made < 100 {
                attacker.share.fail(&format!("thread {made}: {result}"));
            }
            // The others still run, and so does this one.
            if asm::syscall(libc::SYS_getpid as u64, [0; 6]) != i64::from(std::process::id()) {
                attacker.share.fail("getpid");
            }
            return;
        }
    }
    attacker.share.fail("there is no limit on threads");
}

/// Processes until EAGAIN, under a limit that the machine can bear.
fn processes(attacker: &Attacker, _: u64) {
    const LIMIT: u64 = 300;
    let limit = libc::rlimit { rlim_cur: LIMIT, rlim_max: LIMIT };
    let mut children = Vec::new();
    // SAFETY: the children call pause until they are killed.
    unsafe {
        libc::setrlimit(libc::RLIMIT_NPROC, &limit);
        for _ in 0..=LIMIT {
            match libc::fork() {
                0 => loop {
                    libc::pause();
                },
                -1 => {
                    if errno() != libc::EAGAIN {
                        attacker.share.fail(&format!("fork: errno {}", errno()));
                    }
                    break;
                }
                child => children.push(child),
            }
        }
        if children.len() as u64 != LIMIT - 1 {
            attacker.share.fail(&format!("{} processes", children.len()));
        }
        for &child in &children {
            libc::kill(child, libc::SIGKILL);
        }
        for &child in &children {
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
    }
}

/// Mappings until ENOMEM, no two of which can be one.
fn maps(attacker: &Attacker, _: u64) {
    const BASE: u64 = 0x2000_0000_0000;
    let mut made = 0;
    for number in 0..200_000u64 {
        let at = BASE + number * PAGE;
        let prot = 1 + 2 * (number % 2);
        let got = asm::syscall(libc::SYS_mmap as u64, [at, PAGE, prot, 0x32, u64::MAX, 0]);
        if got == -i64::from(libc::ENOMEM) {
            break;
        }
        if got != at as i64 {
            attacker.share.fail(&format!("mapping {number}: {got}"));
            return;
        }
        made += 1;
    }
    if !(1000..=65_530).contains(&made) {
        attacker.share.fail(&format!("{made} mappings"));
    }
    // Without room for one more, the others still work, and can be given back.
    let got = asm::syscall(libc::SYS_munmap as u64, [BASE, made * PAGE, 0, 0, 0, 0]);
    if got != 0 {
        attacker.share.fail(&format!("munmap: {got}"));
    }
    if let Err(what) = super::health::check() {
        attacker.share.fail(&what);
    }
}

/// All addresses, without memory behind them.
fn address_space(attacker: &Attacker, _: u64) {
    let mut len = 1u64 << 46;
    while len >= 1 << 30 {
        let got = asm::syscall(libc::SYS_mmap as u64, [0, len, 0, 0x4022, u64::MAX, 0]);
        if got < 0 {
            if got != -i64::from(libc::ENOMEM) {
                attacker.share.fail(&format!("mmap of {len:#x} bytes: {got}"));
            }
            len /= 2;
        }
    }
    if let Err(what) = super::health::check() {
        attacker.share.fail(&what);
    }
}

/// Memory until there is no more; a page of each piece is used.
fn memory(attacker: &Attacker, _: u64) {
    const PIECE: u64 = 256 << 20;
    let mut pieces = Vec::new();
    for _ in 0..1 << 16 {
        let got = asm::syscall(libc::SYS_mmap as u64, [0, PIECE, 3, 0x22, u64::MAX, 0]);
        if got < 0 {
            if got != -i64::from(libc::ENOMEM) {
                attacker.share.fail(&format!("mmap: {got}"));
            }
            break;
        }
        pieces.push(got as u64);
        super::catch::store(got as u64, 1);
        super::catch::store(got as u64 + PIECE - PAGE, 1);
    }
    if pieces.len() >= 1 << 14 {
        attacker.share.fail("there is no limit on memory");
    }
    for piece in pieces {
        asm::syscall(libc::SYS_munmap as u64, [piece, PIECE, 0, 0, 0, 0]);
    }
    if let Err(what) = super::health::check() {
        attacker.share.fail(&what);
    }
}
