//! Looks through everything that can be read for what is not ours.

use super::asm;
use super::catch;
use super::probe::{self, PAGE};
use super::share::doze;
use super::supervisor::{Attack, Attacker, Ends};

pub const ATTACKS: &[Attack] = &[
    Attack::once("own_memory", Ends::Well, own_memory),
    Attack::once("fresh_memory", Ends::Well, fresh_memory),
    Attack::once("own_registers", Ends::Well, own_registers),
    Attack::once("fresh_threads", Ends::Well, fresh_threads),
    Attack::once("registers_at_birth", Ends::Well, registers_at_birth),
];

/// No canary, no pointer that is not ours, in listed memory and in the stub's pages.
fn own_memory(attacker: &Attacker, _: u64) {
    if let Some(at) = probe::canary_anywhere() {
        attacker.share.fail(&format!("the victim's canary is at {at:#x}"));
    }
    let maps = probe::maps();
    // What is near our own mappings was one, or would have been.
    const NEAR: u64 = 1 << 30;
    let ours = |value: u64| {
        maps.iter()
            .any(|m| (m.start.saturating_sub(NEAR)..m.end.saturating_add(NEAR)).contains(&value))
    };
    // Where the host puts programs, libraries and stacks, and its kernel's addresses.
    let suspect = |value: u64| {
        (0x5500_0000_0000..0x7fff_ffff_f000).contains(&value)
            || (0xffff_8000_0000_0000..0xffff_f000_0000_0000).contains(&value)
    };
    for page in probe::pages() {
        let Some(bytes) = probe::read_page(page) else { continue };
        // Instructions, the same in every stub: what looks like an address there is none.
        if bytes.windows(2).any(|pair| pair == [0x0f, 0x05]) {
            continue;
        }
        for (at, word) in bytes.chunks_exact(8).enumerate() {
            let value = u64::from_ne_bytes(word.try_into().unwrap_or_default());
            if suspect(value) && !ours(value) && !in_a_block(value) {
                let at = page + at as u64 * 8;
                attacker.share.fail(&format!("what is {value:#x} at {at:#x} of the stub?"));
            }
        }
    }
}

/// Whether a value points to where stubs keep things, though there may be nothing now.
fn in_a_block(value: u64) -> bool {
    (probe::USER_END - probe::REGION..probe::USER_END).contains(&value)
}

/// What others freed comes back as zeros.
fn fresh_memory(attacker: &Attacker, _: u64) {
    const LEN: usize = 8 << 20;
    for round in 0..16 {
        let (prot, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a mapping of our own.
        unsafe {
            let at = libc::mmap(std::ptr::null_mut(), LEN, prot, flags, -1, 0);
            if at == libc::MAP_FAILED {
                attacker.share.fail("no memory");
                return;
            }
            let words = std::slice::from_raw_parts_mut(at.cast::<u64>(), LEN / 8);
            if let Some(dirt) = words.iter().find(|&&word| word != 0) {
                attacker.share.fail(&format!("round {round}: fresh memory has {dirt:#x}"));
            }
            words.fill(u64::MAX);
            libc::munmap(at, LEN);
        }
        doze(5);
    }
}

/// Where the stub keeps registers, a canary in the registers is found: otherwise the search for
/// the victim's would be blind.
fn own_registers(attacker: &Attacker, _: u64) {
    let mut vectors = [1; 32];
    for at in 1..vectors.len() {
        vectors[at] = probe::successor(vectors[at - 1]);
    }
    // The first execution of an instruction, which no stub can have changed yet.
    asm::syscall_with_vectors(libc::SYS_getppid as u64, 0, &vectors);
    let near = asm::gs_base() & !(PAGE - 1);
    let range = near..near + (32 << 10);
    if !probe::writable_pages().is_empty() && probe::canary_in(range).is_none() {
        attacker.share.fail("a canary in the registers leaves no trace in the stub's pages");
    }
}

/// The pages that the stub has for new threads, which others' threads may have had before.
fn fresh_threads(attacker: &Attacker, _: u64) {
    let share = attacker.share;
    for _ in 0..6 {
        let body = || {
            super::catch::Catcher::install();
            let near = asm::gs_base() & !(PAGE - 1);
            let start = near.saturating_sub(64 << 10);
            if let Some(at) = probe::canary_in(start..start + (256 << 10)) {
                share.fail(&format!("a thread's pages have the victim's canary at {at:#x}"));
            }
            doze(10);
        };
        let threads: Vec<_> = (0..8).map(|_| std::thread::spawn(body)).collect();
        for thread in threads {
            let _ = thread.join();
        }
    }
    if catch::load(0).is_some() {
        share.fail("there is something at address 0");
    }
}

/// A thread starts with the vector registers of the one that made it, not with those of a stranger.
fn registers_at_birth(attacker: &Attacker, _: u64) {
    for _ in 0..50 {
        let mut state = [0u64; 512];
        // SAFETY: the child of the fork makes plain calls only.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                // Everything that xsave has room for here.
                let base = (state.as_mut_ptr() as usize).next_multiple_of(64);
                std::arch::asm!("xsave [{}]", in(reg) base, in("eax") 7, in("edx") 0);
                let bytes: &[u8; 4096] = &*state.as_ptr().cast();
                if probe::has_canary(bytes) {
                    attacker.share.fail("a child has the victim's registers");
                }
                libc::_exit(0);
            }
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
    }
}
