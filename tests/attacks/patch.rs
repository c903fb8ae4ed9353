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
    Attack::once("read_and_written_through_proc", Ends::Well, through_proc),
    Attack::once("made_writable_and_back", Ends::Well, made_writable),
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

/// Bytes from the program's call sites on: a page of sequences, and 16 full of `getpid`.
const SITES_LEN: usize = 17 * PAGE as usize;
/// Where in them the lone `getpid` is.
const LONE: u64 = 2048;

/// A file with code.
struct Code {
    fd: i32,
    offset: u64,
    len: usize,
}

impl Code {
    /// In memory: nobody could change copies of it without checking for changes of the original.
    fn new(bytes: &[u8]) -> Code {
        // SAFETY: plain calls.
        let fd = unsafe { libc::memfd_create(c"code".as_ptr(), 0) };
        let code = Code { fd, offset: 0, len: bytes.len().next_multiple_of(PAGE as usize) };
        // SAFETY: as above.
        assert_eq!(unsafe { libc::ftruncate(fd, code.len as i64) }, 0, "ftruncate");
        code.write(bytes);
        code
    }

    /// The call sites in this program's own file, as programs and libraries are: it cannot change.
    fn own() -> Option<Code> {
        let at = asm::attack_sites as *const () as u64;
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let offset = maps.lines().find_map(|line| {
            let (range, rest) = line.split_once(' ')?;
            let (start, end) = range.split_once('-')?;
            let parse = |text| u64::from_str_radix(text, 16).ok();
            let (start, end) = (parse(start)?, parse(end)?);
            let base = parse(rest.split_whitespace().nth(1)?)?;
            (start..end).contains(&at).then(|| at - start + base)
        })?;
        // SAFETY: a path.
        let fd = unsafe { libc::open(c"/proc/self/exe".as_ptr(), libc::O_RDONLY) };
        (fd >= 0 && offset.is_multiple_of(PAGE)).then_some(Code { fd, offset, len: SITES_LEN })
    }

    fn write(&self, bytes: &[u8]) {
        // SAFETY: reads the bytes.
        let done = unsafe { libc::pwrite(self.fd, bytes.as_ptr().cast(), bytes.len(), 0) };
        assert_eq!(done, bytes.len() as isize, "pwrite");
    }

    /// Maps it, anew or in the place of something.
    fn map(&self, at: u64, prot: i32, flags: i32) -> u64 {
        let offset = self.offset as i64;
        // SAFETY: a mapping of our own.
        let at = unsafe { libc::mmap(at as *mut _, self.len, prot, flags, self.fd, offset) };
        assert!(at != libc::MAP_FAILED, "mmap of code");
        at as u64
    }

    /// Whether the file has these bytes there.
    fn has(&self, at: u64, bytes: &[u8]) -> bool {
        let mut got = vec![0; bytes.len()];
        let offset = (self.offset + at) as i64;
        // SAFETY: writes the buffer.
        unsafe { libc::pread(self.fd, got.as_mut_ptr().cast(), got.len(), offset) };
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
    let Some(own) = Code::own() else { return attacker.share.fail("no own text") };
    let sites = own.map(0, RX, libc::MAP_PRIVATE);
    for (number, &(bytes, starts)) in SEQUENCES.iter().enumerate() {
        let at = number as u64 * 64;
        if !own.has(at, bytes) {
            attacker.share.fail(&format!("sequence {number} is not in the program"));
        }
        let copy = Code::new(bytes);
        let worn = sites + at;
        let memory = scratch();
        let mut regs = Regs::all(memory, memory);
        // For the last one: getpid.
        (regs.rax, regs.rdi) = (39, 39);
        for _ in 0..20 {
            attacker.catcher.jump(worn, &regs);
        }
        for offset in 0..bytes.len() as u64 {
            for _ in 0..8 {
                let fresh = copy.map(0, RX, libc::MAP_PRIVATE);
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
    let Some(own) = Code::own() else { return attacker.share.fail("no own text") };
    for flags in [libc::MAP_PRIVATE, libc::MAP_SHARED] {
        original(attacker, &own, LONE, flags);
        original(attacker, &Code::new(&GETPID), 0, flags);
    }
}

fn original(attacker: &Attacker, code: &Code, at: u64, flags: i32) {
    let fail = |what: &str| attacker.share.fail(what);
    let worn = code.map(0, RX, flags) + at;
    let other = code.map(0, libc::PROT_READ, libc::MAP_SHARED) + at;
    for _ in 0..50 {
        if run(worn) != u64::from(std::process::id()) {
            fail("getpid");
        }
    }
    if !code.has(at, &GETPID) {
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
    let third = code.map(0, RX, flags) + at;
    if catch::load(third) != Some(u64::from_le_bytes(GETPID)) {
        fail("a new mapping has changed");
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
    let Some(code) = Code::own() else { return share.fail("no own text") };
    let base = code.map(0, RX, libc::MAP_PRIVATE);
    let at = base + LONE;
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
                    code.map(base, RX, libc::MAP_PRIVATE | libc::MAP_FIXED);
                }
                1 => {
                    asm::syscall(libc::SYS_mprotect as u64, [base, PAGE, 7, 0, 0, 0]);
                    asm::syscall(libc::SYS_mprotect as u64, [base, PAGE, 5, 0, 0, 0]);
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
    let Some(code) = Code::own() else { return attacker.share.fail("no own text") };
    let pid = u64::from(std::process::id());
    for _ in 0..2 {
        let at = code.map(0, RX, libc::MAP_PRIVATE);
        for site in (at + PAGE..at + SITES_LEN as u64).step_by(GETPID.len()) {
            if !(0..5).all(|_| run(site) == pid) {
                attacker.share.fail(&format!("getpid at {site:#x}"));
                return;
            }
        }
        asm::syscall(libc::SYS_munmap as u64, [at, code.len as u64, 0, 0, 0, 0]);
    }
    if let Err(what) = health::check() {
        attacker.share.fail(&what);
    }
}

/// Who reads code that ran often by a call sees what the program has; who changes it by a call, as
/// debuggers do, changes what it does: the first time, and when the page is the process's own already.
fn through_proc(attacker: &Attacker, _: u64) {
    let fail = |what: &str| attacker.share.fail(what);
    let Some(own) = Code::own() else { return fail("no own text") };
    // SAFETY: no arguments; a path.
    let (uid, mem) = unsafe {
        (u64::from(libc::getuid()), libc::open(c"/proc/self/mem".as_ptr(), libc::O_RDWR))
    };
    if mem < 0 {
        return fail("/proc/self/mem");
    }
    let worn = own.map(0, RX, libc::MAP_PRIVATE) + LONE;
    let getuid = [0xb8, 102, 0, 0, 0, 0x0f, 0x05, 0xc3];
    let mut there = GETPID;
    for round in 0..12 {
        let want = if there == GETPID { u64::from(std::process::id()) } else { uid };
        for _ in 0..10 {
            let got = run(worn);
            if got != want {
                return fail(&format!("round {round}: {got}, not {want}"));
            }
        }
        let (mut by_file, mut by_call) = ([0u8; 8], [0u8; 8]);
        let local = libc::iovec { iov_base: by_call.as_mut_ptr().cast(), iov_len: 8 };
        let remote = libc::iovec { iov_base: worn as *mut _, iov_len: 8 };
        // SAFETY: both buffers have the length; what is written is code that returns.
        unsafe {
            libc::pread(mem, by_file.as_mut_ptr().cast(), 8, worn as i64);
            libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0);
            if (by_file, by_call) != (there, there) {
                return fail(&format!("round {round}: {by_file:x?}, {by_call:x?} are read"));
            }
            if libc::process_vm_writev(libc::getpid(), &local, 1, &remote, 1, 0) >= 0 {
                return fail("process_vm_writev writes to code");
            }
            there = if there == GETPID { getuid } else { GETPID };
            if libc::pwrite(mem, there.as_ptr().cast(), 8, worn as i64) != 8 {
                return fail("/proc/self/mem is not written");
            }
        }
    }
    // SAFETY: our own descriptor.
    unsafe { libc::close(mem) };
}

/// Code that is made writable is what it was, to loads as well; what is written there is done.
fn made_writable(attacker: &Attacker, _: u64) {
    let fail = |what: &str| attacker.share.fail(what);
    let Some(own) = Code::own() else { return fail("no own text") };
    // SAFETY: no arguments.
    let uid = u64::from(unsafe { libc::getuid() });
    let getuid = [0xb8, 102, 0, 0, 0, 0x0f, 0x05, 0xc3];
    let at = own.map(0, RX, libc::MAP_PRIVATE);
    let worn = at + LONE;
    let mut there = GETPID;
    for round in 0..12 {
        let want = if there == GETPID { u64::from(std::process::id()) } else { uid };
        for _ in 0..10 {
            if run(worn) != want {
                return fail(&format!("round {round}: a call"));
            }
        }
        asm::syscall(libc::SYS_mprotect as u64, [at, PAGE, 3 + 4 * (round % 2), 0, 0, 0]);
        if catch::load(worn) != Some(u64::from_le_bytes(there)) {
            return fail(&format!("round {round}: {:x?} is loaded", catch::load(worn)));
        }
        there = if there == GETPID { getuid } else { GETPID };
        catch::store(worn, u64::from_le_bytes(there));
        asm::syscall(libc::SYS_mprotect as u64, [at, PAGE, 5, 0, 0, 0]);
    }
}
