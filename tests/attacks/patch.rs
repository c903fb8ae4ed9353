//! Code that a kernel might like to change: entered in the middle, shared, changed behind its back,
//! replaced while it runs, and plenty of it.

use std::sync::atomic::{AtomicBool, Ordering};

use super::asm::{self, Regs};
use super::catch::{self, Caught};
use super::health;
use super::jump::scratch;
use super::probe::PAGE;
use super::supervisor::{Attack, Attacker, Ends};

pub const ATTACKS: &[Attack] = &[
    Attack::once("into_the_middle", Ends::Well, into_the_middle),
    Attack::once("others_see_the_original", Ends::Well, originals),
    Attack::once("changed_through_the_file", Ends::Well, changed),
    Attack::once("replaced_while_it_runs", Ends::Well, replaced),
    Attack::once("many_call_sites", Ends::Well, many),
];

const RX: i32 = libc::PROT_READ | libc::PROT_EXEC;
/// `mov eax, 39; syscall; ret`
const GETPID: [u8; 8] = [0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3];

/// Sequences that end in `ud2`, and where their instructions begin.
const SEQUENCES: &[(&[u8], &[u64])] = &[
    (&[0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x0f, 0x0b], &[0, 5, 7]),
    (&[0x48, 0xc7, 0xc0, 39, 0, 0, 0, 0x0f, 0x05, 0x0f, 0x0b], &[0, 7, 9]),
    (&[0x31, 0xc0, 0x0f, 0x05, 0x0f, 0x0b], &[0, 2, 4]),
    // cmp rax, -4095; jae +0
    (&[0x0f, 0x05, 0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff, 0x73, 0x00, 0x0f, 0x0b], &[0, 2, 8, 10]),
    // mov r10, rcx; mov eax, 39; syscall; cmp eax, -4096
    (
        &[0x49, 0x89, 0xca, 0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x3d, 0, 0xf0, 0xff, 0xff, 0x0f, 0x0b],
        &[0, 3, 8, 10, 15],
    ),
    // mov rax, rdi; mov rdi, rsi; mov rsi, rdx; syscall, as syscall(3) has it
    (
        &[0x48, 0x89, 0xf8, 0x48, 0x89, 0xf7, 0x48, 0x89, 0xd6, 0x0f, 0x05, 0x0f, 0x0b],
        &[0, 3, 6, 9, 11],
    ),
];

/// A file in memory.
struct Code {
    fd: i32,
    len: usize,
}

impl Code {
    fn new(bytes: &[u8]) -> Code {
        // SAFETY: plain calls.
        let fd = unsafe { libc::memfd_create(c"code".as_ptr(), 0) };
        let len = bytes.len().next_multiple_of(PAGE as usize);
        let code = Code { fd, len };
        // SAFETY: as above.
        assert_eq!(unsafe { libc::ftruncate(fd, len as i64) }, 0, "ftruncate");
        code.write(bytes);
        code
    }

    fn write(&self, bytes: &[u8]) {
        // SAFETY: reads the bytes.
        let done = unsafe { libc::pwrite(self.fd, bytes.as_ptr().cast(), bytes.len(), 0) };
        assert_eq!(done, bytes.len() as isize, "pwrite");
    }

    /// Maps it, anew or in the place of something.
    fn map(&self, at: u64, prot: i32, flags: i32) -> u64 {
        // SAFETY: a mapping of our own.
        let at = unsafe { libc::mmap(at as *mut _, self.len, prot, flags, self.fd, 0) };
        assert!(at != libc::MAP_FAILED, "mmap of code");
        at as u64
    }

    fn is(&self, bytes: &[u8]) -> bool {
        let mut got = vec![0; bytes.len()];
        // SAFETY: writes the buffer.
        unsafe { libc::pread(self.fd, got.as_mut_ptr().cast(), got.len(), 0) };
        got == bytes
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        // SAFETY: our own descriptor.
        unsafe { libc::close(self.fd) };
    }
}

/// Calls code that returns.
fn run(at: u64) -> u64 {
    // SAFETY: the code there makes a system call, and returns.
    let function: extern "C" fn() -> u64 = unsafe { std::mem::transmute(at as usize) };
    function()
}

/// What a jump comes to, as seen from the start of the code.
fn outcome(caught: &Caught, base: u64) -> (i32, u64, u64, u64) {
    let addr = if caught.addr.wrapping_sub(base) < PAGE { caught.addr - base } else { caught.addr };
    (caught.signal, caught.rip.wrapping_sub(base), caught.rax, addr)
}

/// Whatever was done to code that ran often, it does the same as a fresh copy from each of its
/// instructions. From the middle of an instruction it may do something else to its process, no more.
fn into_the_middle(attacker: &Attacker, _: u64) {
    for &(bytes, starts) in SEQUENCES {
        let code = Code::new(bytes);
        let worn = code.map(0, RX, libc::MAP_PRIVATE);
        let memory = scratch();
        let mut regs = Regs::all(memory, memory);
        // For the last one: getpid.
        (regs.rax, regs.rdi) = (39, 39);
        for _ in 0..20 {
            attacker.catcher.jump(worn, &regs);
        }
        for offset in 0..bytes.len() as u64 {
            for _ in 0..8 {
                let fresh = code.map(0, RX, libc::MAP_PRIVATE);
                scratch();
                let want = outcome(&attacker.catcher.jump(fresh + offset, &regs), fresh);
                scratch();
                let got = outcome(&attacker.catcher.jump(worn + offset, &regs), worn);
                asm::syscall(libc::SYS_munmap as u64, [fresh, PAGE, 0, 0, 0, 0]);
                if got != want && starts.contains(&offset) {
                    let what = format!("{bytes:x?} at {offset}: {got:x?}, not {want:x?}");
                    attacker.share.fail(&what);
                    return;
                }
            }
        }
    }
}

/// The file, other mappings of it, and calls that read the memory have what was written there.
fn originals(attacker: &Attacker, _: u64) {
    let fail = |what: &str| attacker.share.fail(what);
    for flags in [libc::MAP_PRIVATE, libc::MAP_SHARED] {
        let code = Code::new(&GETPID);
        let worn = code.map(0, RX, flags);
        let other = code.map(0, libc::PROT_READ, libc::MAP_SHARED);
        for _ in 0..50 {
            if run(worn) != u64::from(std::process::id()) {
                fail("getpid");
            }
        }
        if !code.is(&GETPID) {
            fail("the file has changed");
        }
        if catch::load(other) != Some(u64::from_le_bytes(GETPID)) {
            fail("another mapping has changed");
        }
        let mut seen = [0u8; 8];
        let mut ends = [0; 2];
        // SAFETY: a pipe, one write to it, one read.
        unsafe {
            libc::pipe(ends.as_mut_ptr());
            libc::write(ends[1], worn as *const _, 8);
            libc::read(ends[0], seen.as_mut_ptr().cast(), 8);
        }
        if seen != GETPID {
            fail("a call reads something else than the code");
        }
        let third = code.map(0, RX, flags);
        if catch::load(third) != Some(u64::from_le_bytes(GETPID)) {
            fail("a new mapping has changed");
        }
    }
    // The program's own text, which ran all the time.
    let at = asm::getpid_loop as *const () as u64;
    asm::getpid_loop(1000);
    let mut file = [0u8; 64];
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let offset = maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let parse = |text| u64::from_str_radix(text, 16).ok();
        let (start, end) = (parse(start)?, parse(end)?);
        let base = parse(rest.split_whitespace().nth(1)?)?;
        (start..end).contains(&at).then(|| at - start + base)
    });
    use std::os::unix::fs::FileExt;
    let exe = std::fs::File::open("/proc/self/exe");
    if let (Ok(exe), Some(offset)) = (exe, offset)
        && exe.read_exact_at(&mut file, offset).is_ok()
    {
        // `mov eax, 39; syscall` is in it.
        if !file.windows(7).any(|w| w == &GETPID[..7]) {
            fail("the program's file has changed");
        }
    }
}

/// Code that is changed through the file, or a writable mapping of it, does what is there now.
fn changed(attacker: &Attacker, _: u64) {
    // SAFETY: no arguments.
    let (pid, uid) = (u64::from(std::process::id()), u64::from(unsafe { libc::getuid() }));
    let getuid = [0xb8, 102, 0, 0, 0, 0x0f, 0x05, 0xc3];
    for flags in [libc::MAP_PRIVATE, libc::MAP_SHARED] {
        for by_mapping in [false, true] {
            let code = Code::new(&GETPID);
            let worn = code.map(0, RX, flags);
            let writable = code.map(0, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
            for round in 0..20 {
                let (bytes, want) = if round % 2 == 0 { (GETPID, pid) } else { (getuid, uid) };
                if by_mapping {
                    catch::store(writable, u64::from_le_bytes(bytes));
                } else {
                    code.write(&bytes);
                }
                for _ in 0..10 {
                    let got = run(worn);
                    if got != want {
                        let what = format!("flags {flags}, round {round}: {got}, not {want}");
                        attacker.share.fail(&what);
                        return;
                    }
                }
            }
        }
    }
}

/// Threads run code while it is mapped again and again.
fn replaced(attacker: &Attacker, _: u64) {
    let (share, pid) = (attacker.share, u64::from(std::process::id()));
    let code = Code::new(&GETPID);
    let at = code.map(0, RX, libc::MAP_PRIVATE);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let got = run(at);
                    if got != pid {
                        share.fail(&format!("getpid: {got}"));
                    }
                }
            });
        }
        for round in 0..300u64 {
            match round % 3 {
                0 => {
                    code.map(at, RX, libc::MAP_PRIVATE | libc::MAP_FIXED);
                }
                1 => {
                    asm::syscall(libc::SYS_mprotect as u64, [at, PAGE, 7, 0, 0, 0]);
                    asm::syscall(libc::SYS_mprotect as u64, [at, PAGE, 5, 0, 0, 0]);
                }
                _ => {
                    // SAFETY: the child makes one call.
                    unsafe {
                        let child = libc::fork();
                        if child == 0 {
                            let right = run(at) == u64::from(std::process::id());
                            libc::_exit(i32::from(!right));
                        }
                        let mut status = 0;
                        libc::waitpid(child, &mut status, 0);
                        if status != 0 {
                            share.fail(&format!("a child: status {status:#x}"));
                        }
                    }
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// More call sites than anybody would keep.
fn many(attacker: &Attacker, _: u64) {
    const SITES: usize = 8_000;
    let pid = u64::from(std::process::id());
    for _ in 0..2 {
        let code = Code::new(&GETPID.repeat(SITES));
        let at = code.map(0, RX, libc::MAP_PRIVATE);
        for site in 0..SITES as u64 {
            for _ in 0..5 {
                let got = run(at + site * 8);
                if got != pid {
                    attacker.share.fail(&format!("site {site}: {got}"));
                    return;
                }
            }
        }
        asm::syscall(libc::SYS_munmap as u64, [at, code.len as u64, 0, 0, 0, 0]);
    }
    if let Err(what) = health::check() {
        attacker.share.fail(&what);
    }
}
