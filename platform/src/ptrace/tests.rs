//! Guest code on real stubs. Each test has a platform of its own, so that they cannot disturb one
//! another.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::{Fault, Frames, GuestThread, Prot, Registers, Source, Trap, usercopy};

/// Defines a function that returns a piece of guest code.
macro_rules! guest_code {
    ($name:ident, $($line:literal),+ $(,)?) => {
        std::arch::global_asm!(
            ".pushsection .rodata.guest_test, \"a\", @progbits",
            concat!(".globl guest_", stringify!($name)),
            concat!(".globl guest_", stringify!($name), "_end"),
            concat!(".hidden guest_", stringify!($name)),
            concat!(".hidden guest_", stringify!($name), "_end"),
            concat!("guest_", stringify!($name), ":"),
            $($line,)+
            concat!("guest_", stringify!($name), "_end:"),
            ".popsection",
        );
        fn $name() -> &'static [u8] {
            let (start, end): (*const u8, *const u8);
            // SAFETY: takes two addresses; reads and writes no memory.
            unsafe {
                std::arch::asm!(
                    concat!("lea {}, [rip + guest_", stringify!($name), "]"),
                    concat!("lea {}, [rip + guest_", stringify!($name), "_end]"),
                    out(reg) start,
                    out(reg) end,
                    options(nomem, nostack),
                );
                std::slice::from_raw_parts(start, end as usize - start as usize)
            }
        }
    };
}

const CODE: u64 = 0x40_0000;
const STACK: u64 = 0x7000_0000;
const DATA: u64 = 0x5000_0000;
const RX: Prot = Prot { read: true, write: false, exec: true };

struct World {
    file: Arc<MemoryFile>,
    platform: Arc<PtracePlatform>,
}

impl World {
    fn new() -> World {
        let file = MemoryFile::new(64 << 20).unwrap();
        let platform = PtracePlatform::new(file.clone()).unwrap();
        World { file, platform }
    }

    fn frames(&self, bytes: &[u8]) -> Frames {
        let frames = self.file.allocate((bytes.len() as u64).next_multiple_of(PAGE_SIZE)).unwrap();
        write(&frames, 0, bytes);
        frames
    }

    /// An address space with code and a stack.
    fn space(&self, code: &[u8]) -> Space {
        let space = self.platform.new_address_space().unwrap();
        let (code, stack) = (self.frames(code), self.file.allocate(4 * PAGE_SIZE).unwrap());
        space.map(CODE, code.len(), RX, at(&code), false);
        space.map(STACK, stack.len(), Prot::READ_WRITE, at(&stack), false);
        Space { space, frames: vec![code, stack] }
    }
}

struct Space {
    space: Arc<dyn AddressSpace>,
    frames: Vec<Frames>,
}

impl Space {
    fn thread(&self) -> Guest {
        Guest { thread: self.space.clone().new_thread().unwrap(), regs: start() }
    }
}

struct Guest {
    thread: Box<dyn GuestThread>,
    regs: Registers,
}

impl Guest {
    fn run(&mut self) -> Trap {
        self.thread.run(&mut self.regs).unwrap()
    }

    /// Runs to a system call and returns its number.
    #[track_caller]
    fn syscall(&mut self) -> u64 {
        assert_eq!(self.run(), Trap::Syscall, "at {:#x}", self.regs.rip);
        self.regs.orig_rax
    }

    #[track_caller]
    fn fault(&mut self) -> Fault {
        match self.run() {
            Trap::Fault(fault) => fault,
            other => panic!("{other:?} at {:#x}", self.regs.rip),
        }
    }

    #[track_caller]
    fn exception(&mut self) -> (i32, i32, u64) {
        match self.run() {
            Trap::Exception(e) => (e.signo, e.code, e.trapno),
            other => panic!("{other:?} at {:#x}", self.regs.rip),
        }
    }
}

fn start() -> Registers {
    Registers {
        rip: CODE,
        rsp: STACK + 4 * PAGE_SIZE,
        cs: 0x33,
        ss: 0x2b,
        eflags: 0x202,
        ..Registers::default()
    }
}

fn at(frames: &Frames) -> Source {
    Source::Memory { offset: frames.offset() }
}

fn write(frames: &Frames, offset: usize, bytes: &[u8]) {
    // SAFETY: in the tests' own frames.
    unsafe {
        assert_eq!(
            usercopy::copy_to(frames.ptr().add(offset), bytes.as_ptr(), bytes.len()),
            bytes.len()
        );
    }
}

fn word(frames: &Frames, offset: usize) -> u64 {
    // SAFETY: in the tests' own frames.
    unsafe { usercopy::load_u64(frames.ptr().add(offset)) }.unwrap()
}

guest_code!(getpid_loop, "2: mov eax, 39", "syscall", "mov rbx, rax", "jmp 2b");

#[test]
fn system_calls_come_and_results_go() {
    let world = World::new();
    let space = world.space(getpid_loop());
    let mut guest = space.thread();
    for i in 0..100 {
        assert_eq!(guest.syscall(), 39);
        assert_eq!(guest.regs.rcx, guest.regs.rip);
        guest.regs.rax = 1000 + i;
        assert_eq!(guest.syscall(), 39);
        assert_eq!(guest.regs.rbx, 1000 + i);
        // The host must not take this for a call to restart.
        guest.regs.rax = -512i64 as u64;
    }
    assert!(crate::arch::stub::code().len() < 4096);
}

guest_code!(
    registers,
    "mov r15, 15",
    "mov rbp, 5",
    "mov eax, 0x40000027", // an x32 number
    "syscall",
    "rdfsbase rdi",
    "rdgsbase rsi",
    "mov rax, -1",
    "syscall",
);

#[test]
fn registers_are_exact() {
    let world = World::new();
    let space = world.space(registers());
    let mut guest = space.thread();
    guest.regs.r14 = 0xdead_beef_dead_beef;
    assert_eq!(guest.syscall(), 0x4000_0027);
    assert_eq!((guest.regs.r15, guest.regs.rbp), (15, 5));
    assert_eq!(guest.regs.r14, 0xdead_beef_dead_beef);
    guest.regs.fs_base = 0x1234_5000;
    guest.regs.gs_base = 0x7000_0000_0000;
    assert_eq!(guest.syscall(), u64::MAX);
    assert_eq!((guest.regs.rdi, guest.regs.rsi), (0x1234_5000, 0x7000_0000_0000));
}

guest_code!(
    touch,
    "2: mov rax, [rdi]",
    "mov qword ptr [rdi + 8], 77",
    "mov eax, 1",
    "syscall",
    "jmp 2b",
);

#[test]
fn memory_is_shared_remapped_and_protected() {
    let world = World::new();
    let space = world.space(touch());
    let mut guest = space.thread();
    guest.regs.rdi = DATA;
    let fault = guest.fault();
    assert_eq!((fault.addr, fault.access.read, fault.bus), (DATA, true, false));

    let first = world.frames(&42u64.to_le_bytes());
    space.space.map(DATA, PAGE_SIZE, Prot::READ, at(&first), true);
    let fault = guest.fault();
    assert_eq!((fault.addr, fault.access.write), (DATA + 8, true));

    // Copy on write.
    let copy = first.duplicate(0, PAGE_SIZE).unwrap();
    space.space.map(DATA, PAGE_SIZE, Prot::READ_WRITE, at(&copy), false);
    assert_eq!(guest.syscall(), 1);
    assert_eq!((word(&copy, 0), word(&copy, 8)), (42, 77));
    assert_eq!(word(&first, 8), 0);

    space.space.protect(DATA - PAGE_SIZE, 4 * PAGE_SIZE, Prot::NONE);
    assert_eq!(guest.fault().addr, DATA);
    space.space.protect(DATA, PAGE_SIZE, Prot::READ_WRITE);
    assert_eq!(guest.syscall(), 1);

    struct Flag(Arc<AtomicU32>);
    impl Drop for Flag {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let dropped = Arc::new(AtomicU32::new(0));
    space.space.unmap(DATA, PAGE_SIZE, Some(Box::new(Flag(dropped.clone()))));
    assert_eq!(dropped.load(Ordering::SeqCst), 0);
    assert_eq!(guest.fault().addr, DATA);
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    space.space.defer(Box::new(Flag(dropped.clone())));
    assert_eq!(dropped.load(Ordering::SeqCst), 2, "nothing to wait for");
    space.space.unmap(STACK, PAGE_SIZE, None);
    space.space.defer(Box::new(Flag(dropped.clone())));
    assert_eq!(dropped.load(Ordering::SeqCst), 2);
    space.space.sync();
    assert_eq!(dropped.load(Ordering::SeqCst), 3);
}

#[test]
fn many_commands_take_several_batches() {
    let world = World::new();
    let space = world.space(touch());
    let mut guest = space.thread();
    let frames = world.file.allocate(400 * PAGE_SIZE).unwrap();
    for i in 0..400 {
        // Backwards, so that they cannot be merged.
        let source = Source::Memory { offset: frames.offset() + (399 - i) * PAGE_SIZE };
        space.space.map(DATA + i * PAGE_SIZE, PAGE_SIZE, Prot::READ_WRITE, source, false);
    }
    for i in [0, 63, 64, 399] {
        guest.regs.rdi = DATA + i * PAGE_SIZE;
        assert_eq!(guest.syscall(), 1);
        assert_eq!(word(&frames, ((399 - i) * PAGE_SIZE + 8) as usize), 77);
    }
}

guest_code!(
    misdeeds, "push rax", // 1 byte
    "ud2", "div ecx", "int3", "hlt", "int 0x80", "int 0x21", "call rax",
);

#[test]
fn faults_and_exceptions_are_told_apart() {
    let world = World::new();
    let space = world.space(misdeeds());
    let mut guest = space.thread();
    guest.regs.rsp = 0x9000_0000;
    let fault = guest.fault();
    assert_eq!((fault.addr, fault.access.write), (0x9000_0000 - 8, true));
    assert_eq!(guest.regs.rip, CODE);

    guest.regs.rip = CODE + 1;
    assert_eq!(guest.exception(), (libc::SIGILL, 2, 6));
    assert_eq!(guest.regs.rip, CODE + 1);
    guest.regs.rip += 2;
    guest.regs.rcx = 0;
    assert_eq!(guest.exception(), (libc::SIGFPE, 1, 0));
    guest.regs.rip += 2;
    assert_eq!(guest.exception(), (libc::SIGTRAP, 0x80, 3));
    assert_eq!(guest.regs.rip, CODE + 6, "a trap comes after its instruction");
    assert_eq!(guest.exception(), (libc::SIGSEGV, 0x80, 13));
    guest.regs.rip += 1;

    // No 32-bit calls, and nothing happens on the host.
    guest.regs.rax = 20;
    assert_eq!(guest.exception(), (libc::SIGSEGV, 0x80, 13));
    assert_eq!((guest.regs.rip, guest.regs.rax), (CODE + 7, 20));
    guest.regs.rip += 2;
    assert_eq!(guest.exception(), (libc::SIGSEGV, 0x80, 13));
    guest.regs.rip += 2;

    // A jump to nowhere, then to memory that must not be executed.
    guest.regs.rsp = STACK + PAGE_SIZE;
    guest.regs.rax = 0x1234_5678;
    let fault = guest.fault();
    assert_eq!((fault.addr, fault.access.exec, guest.regs.rip), (0x1234_5678, true, 0x1234_5678));
    guest.regs.rip = STACK;
    let fault = guest.fault();
    assert_eq!((fault.addr, fault.access.exec), (STACK, true));
    // Non-canonical.
    guest.regs.rip = CODE;
    guest.regs.rsp = 1 << 63;
    assert_eq!(guest.exception().0, libc::SIGBUS);
    // The kernel's half.
    guest.regs.rsp = 0xffff_8000_0000_1000;
    assert_eq!(guest.fault().addr, 0xffff_8000_0000_0ff8);
}

guest_code!(stepping, "pushfq", "or qword ptr [rsp], 0x100", "popfq", "nop", "nop", "syscall",);

#[test]
fn single_steps_are_exceptions() {
    let world = World::new();
    let space = world.space(stepping());
    let mut guest = space.thread();
    // Linux reports TRAP_TRACE after each instruction that follows the popf.
    assert_eq!(guest.exception(), (libc::SIGTRAP, 2, 1));
    let here = guest.regs.rip;
    assert_eq!(guest.exception(), (libc::SIGTRAP, 2, 1));
    assert_eq!(guest.regs.rip, here + 1);
    guest.regs.eflags &= !0x100;
    guest.syscall();
}

guest_code!(
    vsyscalls,
    "mov rax, 0xffffffffff600400", // time
    "mov rdi, 0x1111",
    "call rax",
    "mov rbx, rax",
    "mov eax, 1",
    "syscall",
    "mov rax, 0xffffffffff600123",
    "call rax",
);

#[test]
fn the_vsyscall_page_is_the_sentrys_business() {
    let world = World::new();
    let space = world.space(vsyscalls());
    let mut guest = space.thread();
    match guest.run() {
        Trap::Syscall => {
            assert_eq!((guest.regs.orig_rax, guest.regs.rdi), (libc::SYS_time as u64, 0x1111));
            guest.regs.rax = 4711;
            assert_eq!(guest.syscall(), 1);
            assert_eq!(guest.regs.rbx, 4711);
        }
        // A host without the page.
        Trap::Fault(fault) => {
            assert_eq!(fault.addr, 0xffff_ffff_ff60_0400);
            return;
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(guest.run(), Trap::Fault(_) | Trap::Exception(_)));
}

guest_code!(
    vectors,
    "vpternlogd zmm31, zmm31, zmm31, 0xff",
    "vpbroadcastq zmm1, rdi",
    "kxnorq k3, k3, k3",
    "mov eax, 1",
    "syscall",
    "vmovdqu64 [rsp - 64], zmm31",
    "vmovdqu64 [rsp - 128], zmm1",
    "kmovq r12, k3",
    "stmxcsr [rsp - 136]",
    "mov eax, 2",
    "syscall",
);

#[test]
fn extended_state_survives_and_starts_clean() {
    let world = World::new();
    let space = world.space(vectors());
    let mut guest = space.thread();
    let (size, xcr0) = world.platform.xstate_layout();
    let fresh = guest.thread.xstate().unwrap();
    assert_eq!(fresh.len(), size);
    assert!(xcr0 & 7 == 7);
    assert!(fresh[32..416].iter().all(|&b| b == 0), "registers of the Sentry's leak");
    if !std::is_x86_feature_detected!("avx512bw") {
        return;
    }
    guest.regs.rdi = 0x0123_4567_89ab_cdef;
    assert_eq!(guest.syscall(), 1);
    let full = guest.thread.xstate().unwrap();
    guest.thread.set_xstate(&fresh).unwrap();
    guest.thread.set_xstate(&full).unwrap();
    let mut bad = full.clone();
    bad[520] = 0xff;
    assert!(guest.thread.set_xstate(&bad).is_err());
    assert!(guest.thread.set_xstate(&full[..100]).is_err());
    assert_eq!(guest.syscall(), 2);
    assert_eq!(guest.regs.r12, u64::MAX);
    let stack = &space.frames[1];
    let top = 4 * PAGE_SIZE as usize;
    assert!((top - 64..top).step_by(8).all(|i| word(stack, i) == u64::MAX));
    assert!((top - 128..top - 64).step_by(8).all(|i| word(stack, i) == 0x0123_4567_89ab_cdef));
    assert_eq!(word(stack, top - 136) as u32, 0x1f80);
}

guest_code!(spin, "2: inc qword ptr [rdi]", "jmp 2b");

#[test]
fn a_spinning_guest_is_kicked() {
    let world = World::new();
    let space = world.space(spin());
    let data = world.frames(&[0]);
    space.space.map(DATA, PAGE_SIZE, Prot::READ_WRITE, at(&data), false);
    let mut guest = space.thread();
    guest.regs.rdi = DATA;
    let kicker = guest.thread.kicker();
    // Before the run.
    kicker.kick();
    kicker.kick();
    assert_eq!(guest.run(), Trap::Kicked);
    assert_eq!(word(&data, 0), 0);
    // During the run.
    for _ in 0..20 {
        let before = word(&data, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while word(&data, 0) == before {
                    std::thread::yield_now();
                }
                kicker.kick();
            });
            assert_eq!(guest.run(), Trap::Kicked);
        });
    }
    drop(guest);
    kicker.kick();
}

#[test]
fn kicks_are_never_lost() {
    let world = World::new();
    let space = world.space(getpid_loop());
    let mut guest = space.thread();
    let kicker = guest.thread.kicker();
    let (sent, done) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for i in 1..=200 {
                kicker.kick();
                sent.store(i, Ordering::SeqCst);
                while done.load(Ordering::SeqCst) < i {
                    std::thread::yield_now();
                }
            }
        });
        for i in 1..=200 {
            while sent.load(Ordering::SeqCst) < i {
                let _ = guest.run();
            }
            // It was reported already, or it is reported now.
            let mut runs = 0;
            while kicked_is_pending(&mut guest) && runs < 2 {
                runs += 1;
            }
            done.store(i, Ordering::SeqCst);
        }
    });
    assert_eq!(guest.run(), Trap::Syscall);

    fn kicked_is_pending(guest: &mut Guest) -> bool {
        guest.run() == Trap::Kicked
    }
}

#[test]
fn threads_share_an_address_space() {
    let world = World::new();
    let space = world.space(touch());
    let mut guest = space.thread();
    guest.regs.rdi = DATA;
    guest.fault();
    let data = world.frames(&[9]);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut other = space.thread();
                other.regs.rdi = DATA;
                space.space.map(DATA, PAGE_SIZE, Prot::READ_WRITE, at(&data), false);
                for _ in 0..20 {
                    assert_eq!(other.syscall(), 1);
                }
            });
        }
    });
    assert_eq!(guest.syscall(), 1);
    assert_eq!(guest.regs.rax as i64, -38, "the host left its mark, the Sentry must overwrite it");
}

#[test]
fn sync_from_elsewhere_reaches_a_spinning_guest() {
    let world = World::new();
    let space = world.space(spin());
    let data = world.frames(&[0]);
    space.space.map(DATA, PAGE_SIZE, Prot::READ_WRITE, at(&data), false);
    let mut guest = space.thread();
    guest.regs.rdi = DATA;
    let kicker = guest.thread.kicker();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while word(&data, 0) == 0 {
                std::thread::yield_now();
            }
            space.space.protect(DATA, PAGE_SIZE, Prot::READ);
            space.space.sync();
            let before = word(&data, 0);
            std::thread::sleep(Duration::from_millis(5));
            assert_eq!(word(&data, 0), before, "the guest wrote after sync");
            kicker.kick();
        });
        let fault = guest.fault();
        assert_eq!((fault.addr, fault.access.write), (DATA, true));
        assert!(matches!(guest.run(), Trap::Kicked | Trap::Fault(_)));
    });
}

#[test]
fn host_files_are_mapped_and_shrink() {
    let world = World::new();
    let space = world.space(touch());
    let mut guest = space.thread();
    let file = host_file();
    file.set_len(2 * PAGE_SIZE).unwrap();
    use std::os::unix::fs::FileExt as _;
    file.write_all_at(&123u64.to_le_bytes(), 0).unwrap();
    let fd = Arc::new(OwnedFd::from(file.try_clone().unwrap()));
    let source = |shared, offset| Source::Host { file: fd.clone(), offset, shared };
    space.space.map(DATA, PAGE_SIZE, Prot::READ, source(false, 0), false);
    guest.regs.rdi = DATA;
    assert_eq!(guest.fault().addr, DATA + 8);
    assert_eq!(guest.regs.rax, 123);
    space.space.map(DATA, PAGE_SIZE, Prot::READ_WRITE, source(true, 0), false);
    assert_eq!(guest.syscall(), 1);
    let mut word = [0; 8];
    file.read_exact_at(&mut word, 8).unwrap();
    assert_eq!(u64::from_le_bytes(word), 77);

    space.space.map(DATA, PAGE_SIZE, Prot::READ, source(false, PAGE_SIZE), false);
    file.set_len(0).unwrap();
    let fault = guest.fault();
    assert_eq!((fault.addr, fault.bus), (DATA, true));
}

#[test]
fn many_host_files_do_not_fill_the_table() {
    let world = World::new();
    let space = world.space(touch());
    let mut guest = space.thread();
    let files: Vec<_> = (0..150u64)
        .map(|i| {
            use std::os::unix::fs::FileExt as _;
            let file = host_file();
            file.write_all_at(&i.to_le_bytes(), 0).unwrap();
            Arc::new(OwnedFd::from(file))
        })
        .collect();
    for round in 0..2 {
        for (i, file) in (0u64..).zip(&files) {
            let source = Source::Host { file: file.clone(), offset: 0, shared: false };
            space.space.map(DATA + i * PAGE_SIZE, PAGE_SIZE, Prot::READ, source, false);
        }
        for i in 0..150u64 {
            guest.regs = start();
            guest.regs.rdi = DATA + i * PAGE_SIZE;
            guest.fault();
            assert_eq!(guest.regs.rax, i, "round {round}");
        }
    }
    drop(files);
    // The next donation closes what nobody has any more.
    let file = Arc::new(OwnedFd::from(host_file()));
    let source = Source::Host { file, offset: 0, shared: false };
    space.space.map(DATA, PAGE_SIZE, Prot::READ, source, false);
    space.space.sync();
    let pid = children(&world).first().copied().unwrap();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    assert_eq!(open, 4, "memory file, socket, lifeline, and one file");
}

fn host_file() -> std::fs::File {
    use std::os::fd::FromRawFd as _;
    // SAFETY: a new descriptor that nobody else owns.
    let file = unsafe {
        std::fs::File::from_raw_fd(libc::memfd_create(c"host".as_ptr(), libc::MFD_CLOEXEC))
    };
    file.set_len(PAGE_SIZE).unwrap();
    file
}

#[test]
fn a_refused_mapping_ends_the_process() {
    let world = World::new();
    let space = world.space(getpid_loop());
    let mut guest = space.thread();
    guest.syscall();
    let (_reader, writer) = sys::pipe().unwrap();
    let source = Source::Host { file: Arc::new(writer), offset: 0, shared: false };
    space.space.map(DATA, PAGE_SIZE, Prot::READ, source, false);
    assert!(matches!(guest.thread.run(&mut guest.regs), Err(Error::StubGone)));
    assert!(matches!(guest.thread.run(&mut guest.regs), Err(Error::StubGone)));
    assert!(space.space.clone().new_thread().is_err());
    space.space.sync();
    drop(guest);
    drop(space);
    // The next one is well.
    let space = world.space(getpid_loop());
    space.thread().syscall();
}

#[test]
fn a_killed_stub_is_noticed_everywhere() {
    let world = World::new();
    let space = world.space(getpid_loop());
    let mut guest = space.thread();
    guest.syscall();
    // Blank ones have no code.
    let has_code = |pid: &sys::Tid| {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        maps.contains(&format!("\n{CODE:08x}-")) || maps.starts_with(&format!("{CODE:08x}-"))
    };
    let stub = children(&world).into_iter().find(has_code).unwrap();
    sys::kill(stub, libc::SIGKILL);
    let deadline = Instant::now() + Duration::from_secs(10);
    while guest.thread.run(&mut guest.regs).is_ok() {
        assert!(Instant::now() < deadline);
    }
    assert!(matches!(guest.thread.run(&mut guest.regs), Err(Error::StubGone)));
    assert!(guest.thread.xstate().is_err());
    space.space.unmap(CODE, PAGE_SIZE, None);
    space.space.sync();
    assert!(space.space.clone().new_thread().is_err());
    drop((guest, space));
    assert!(!children(&world).contains(&stub));
}

guest_code!(
    vdso_reader,
    "mov rax, [rdi]", // vDSO code is an ELF image
    "mov eax, 1",
    "syscall",
);

#[test]
fn the_vdso_moves() {
    let world = World::new();
    let Some(image) = world.platform.vdso() else { return };
    let space = world.space(vdso_reader());
    let mut guest = space.thread();
    let elf = u64::from_le_bytes([0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
    let mut base = image.vvar_base;
    let total = image.vvar_len + image.code_len;
    // Far away, a little further (overlapping itself), and back.
    for to in [0x2000_0000, 0x2000_1000, image.vvar_base, image.vvar_base + PAGE_SIZE] {
        space.space.move_vdso(to);
        guest.regs = start();
        guest.regs.rdi = to + image.vvar_len;
        assert_eq!(guest.syscall(), 1, "moved to {to:#x}");
        assert_eq!(guest.regs.rax as i64, -38);
        if !(to..to + total).contains(&base) {
            guest.regs = start();
            guest.regs.rdi = base;
            assert_eq!(guest.fault().addr, base);
        }
        base = to;
    }
    // SAFETY: the Sentry's own vDSO, mapped for as long as it lives.
    assert_eq!(unsafe { image.sentry_code.cast::<u64>().read() }, elf);
    space.space.unmap_vdso();
    guest.regs = start();
    guest.regs.rdi = base + image.vvar_len;
    guest.fault();
}

guest_code!(
    clock_reader,
    "mov rbx, rdi",
    "mov edi, 1", // CLOCK_MONOTONIC
    "lea rsi, [rsp - 512]",
    "sub rsp, 1024",
    "call rbx",
    "mov ebx, eax",
    "mov rdi, [rsp + 512]",
    "mov rsi, [rsp + 520]",
    "mov eax, 1",
    "syscall",
);

#[test]
fn the_vdso_tells_the_time_without_a_call() {
    let world = World::new();
    let Some(image) = world.platform.vdso() else { return };
    // SAFETY: the Sentry's own vDSO, mapped for as long as it lives.
    let code = unsafe { std::slice::from_raw_parts(image.sentry_code, image.code_len as usize) };
    let elf = goblin::elf::Elf::parse(code).unwrap();
    let symbol = elf
        .dynsyms
        .iter()
        .find(|s| elf.dynstrtab.get_at(s.st_name) == Some("__vdso_clock_gettime"))
        .unwrap();
    let space = world.space(clock_reader());
    let to = 0x7654_3210_0000;
    space.space.move_vdso(to);
    let mut guest = space.thread();
    guest.regs.rdi = to + image.vvar_len + symbol.st_value;
    assert_eq!(guest.syscall(), 1, "the clock needed a system call");
    // SAFETY: all-zero is a valid timespec; the call fills it.
    let now = unsafe {
        let mut now: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now);
        now
    };
    assert_eq!(guest.regs.rbx, 0);
    assert!((now.tv_sec - 5..=now.tv_sec).contains(&(guest.regs.rdi as i64)));
    assert!(guest.regs.rsi < 1_000_000_000);
}

#[test]
fn the_stubs_code_is_no_way_out() {
    let world = World::new();
    let space = world.space(getpid_loop());
    let data = world.frames(&[0]);
    space.space.map(DATA, PAGE_SIZE, Prot::READ_WRITE, at(&data), false);
    let mut guest = space.thread();
    guest.syscall();
    let base = world.platform.user_range().1;
    let code = crate::arch::stub::code().len() as u64;
    let exit_group = Registers {
        rax: libc::SYS_exit_group as u64,
        // As if it had commands of its own to execute.
        rbx: DATA,
        rbp: DATA + 64,
        ..start()
    };
    let mut command = [0u8; 64];
    command[0] = libc::SYS_exit_group as u8;
    write(&data, 0, &command);
    for rip in (base..base + code).chain([base + PAGE_SIZE, base + 2 * PAGE_SIZE]) {
        guest.regs = Registers { rip, ..exit_group };
        // Whatever it does, it comes back and lives.
        for _ in 0..3 {
            guest.thread.run(&mut guest.regs).unwrap();
        }
    }
    // Nor can the pages be written.
    let space = world.space(misdeeds());
    let mut guest = space.thread();
    for page in 0..16 {
        guest.regs = Registers { rsp: base + page * PAGE_SIZE + 64, ..start() };
        assert!(guest.fault().access.write, "a push to stub page {page}");
    }
}

fn template(world: &World) -> sys::Tid {
    world.platform.shared.template.lock().pid()
}

/// The stub processes of a platform: they share a session, which the template leads.
fn children(world: &World) -> Vec<sys::Tid> {
    in_session(template(world))
}

fn in_session(session: sys::Tid) -> Vec<sys::Tid> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<sys::Tid>() else { continue };
        // SAFETY: plain system call.
        if unsafe { libc::getsid(pid) } == session {
            found.push(pid);
        }
    }
    found
}

#[test]
fn nothing_is_left_behind() {
    let world = World::new();
    for _ in 0..200 {
        let space = world.space(getpid_loop());
        let mut guest = space.thread();
        guest.syscall();
    }
    // The template, two blank ones, and one that is just being made.
    assert!(children(&world).len() <= 4);
    let session = template(&world);
    let World { file, platform } = world;
    drop(platform);
    assert_eq!(in_session(session), []);
    assert_eq!(file.used(), 0);
}

const DOOMED: &str = "RSENTRY_TEST_DOOMED";

/// Not a test by itself: the process that [`stubs_die_with_the_sentry`] kills.
#[test]
fn doomed_sentry() {
    if std::env::var_os(DOOMED).is_none() {
        return;
    }
    let world = World::new();
    let space = world.space(spin());
    let data = world.frames(&[0]);
    space.space.map(DATA, PAGE_SIZE, Prot::READ_WRITE, at(&data), false);
    let mut guest = space.thread();
    guest.regs.rdi = DATA;
    println!("session {}", template(&world));
    let _ = guest.run();
}

#[test]
fn stubs_die_with_the_sentry() {
    use std::io::BufRead as _;
    let mut sentry = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ptrace::tests::doomed_sentry", "--nocapture"])
        .env(DOOMED, "1")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let output = std::io::BufReader::new(sentry.stdout.take().unwrap());
    let session = output
        .lines()
        .find_map(|line| line.unwrap().split("session ").nth(1)?.trim().parse().ok())
        .unwrap();
    assert!(!in_session(session).is_empty());
    sentry.kill().unwrap();
    sentry.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    // Whoever adopts them may take its time to reap them; they must be dead.
    let alive = |pid: &sys::Tid| {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z"))
    };
    while in_session(session).iter().any(alive) {
        assert!(Instant::now() < deadline, "stubs outlive their Sentry");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn stubs_hold_nothing_of_the_sentrys() {
    let world = World::new();
    let space = world.space(getpid_loop());
    let mut guest = space.thread();
    guest.syscall();
    for pid in children(&world) {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        for line in maps.lines() {
            let start = line.split('-').next().unwrap();
            let start = u64::from_str_radix(start, 16).unwrap();
            let known = start == CODE
                || start == STACK
                || start >= world.platform.user_range().1
                || line.contains("[v");
            assert!(known, "{line}");
        }
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        for expected in [
            "CapPrm:\t0000000000000000",
            "CapEff:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
        ] {
            assert!(status.contains(expected), "{expected}");
        }
        assert_eq!(std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(), 3);
    }
}

#[test]
fn long_runs_and_many_threads_are_balanced() {
    let world = World::new();
    let space = world.space(spin());
    let data = world.file.allocate(4 * PAGE_SIZE).unwrap();
    space.space.map(DATA, data.len(), Prot::READ_WRITE, at(&data), false);
    std::thread::scope(|scope| {
        for i in 0..3u64 {
            let (space, data) = (&space, &data);
            scope.spawn(move || {
                let mut guest = space.thread();
                guest.regs.rdi = DATA + i * PAGE_SIZE;
                let kicker = guest.thread.kicker();
                for _ in 0..3 {
                    let kicker = kicker.clone();
                    let kick = std::thread::spawn(move || {
                        std::thread::sleep(Duration::from_millis(35));
                        kicker.kick();
                    });
                    assert_eq!(guest.run(), Trap::Kicked);
                    kick.join().unwrap();
                }
                assert!(word(data, (i * PAGE_SIZE) as usize) > 0);
            });
        }
    });
}

guest_code!(
    suicidal,
    "mov edi, 7",
    "mov eax, 231", // exit_group
    "syscall",
    "mov rbx, rax",
    "mov eax, 62", // kill(0, SIGKILL)
    "xor edi, edi",
    "mov esi, 9",
    "syscall",
    "jmp 2f",
    "2: mov eax, 1",
    "syscall",
);

#[test]
fn commands_between_call_and_return_do_not_let_the_call_through() {
    let world = World::new();
    let space = world.space(suicidal());
    let mut guest = space.thread();
    let data = world.frames(&[0]);
    for nr in [231, 62, 1] {
        assert_eq!(guest.syscall(), nr);
        space.space.map(DATA, PAGE_SIZE, Prot::READ, at(&data), false);
        space.space.sync();
        space.space.unmap(DATA, PAGE_SIZE, None);
    }
}

/// Everything at once for a moment: births, deaths, kicks and syncs across threads, and stubs that
/// are killed from outside.
#[test]
fn a_storm_leaves_nothing_behind() {
    let world = World::new();
    let session = template(&world);
    let end = Instant::now() + Duration::from_millis(400);
    std::thread::scope(|scope| {
        for seed in 0..4u64 {
            let world = &world;
            scope.spawn(move || {
                let mut random = seed;
                let mut next = |n: u64| {
                    random =
                        random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    (random >> 33) % n
                };
                while Instant::now() < end {
                    storm_round(world, &mut next);
                }
            });
        }
    });
    // The last kill may still be under way.
    let well = || world.platform.new_address_space().unwrap().new_thread().is_ok();
    assert!((0..100).any(|_| well()));
    let World { file, platform } = world;
    drop(platform);
    // A stub that was killed while a thread was being made is reaped a moment later.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !in_session(session).is_empty() {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    assert_eq!(file.used(), 0);
}

fn storm_round(world: &World, next: &mut impl FnMut(u64) -> u64) {
    let space = world.space(spin());
    let data = world.file.allocate(8 * PAGE_SIZE).unwrap();
    space.space.map(DATA, data.len(), Prot::READ_WRITE, at(&data), next(2) == 0);
    let (threads, kill, syncs) = (1 + next(3), next(4) == 0, next(5));
    let (kickers, ready) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for i in 0..threads {
            let (space, kickers) = (&space, kickers.clone());
            scope.spawn(move || {
                let Ok(thread) = space.space.clone().new_thread() else { return };
                let mut guest = Guest { thread, regs: start() };
                guest.regs.rdi = DATA + i * PAGE_SIZE;
                kickers.send(guest.thread.kicker()).unwrap();
                drop(kickers);
                loop {
                    match guest.thread.run(&mut guest.regs) {
                        Ok(Trap::Kicked) | Err(Error::StubGone) => break,
                        Ok(Trap::Fault(_)) => {
                            space.space.protect(DATA, 8 * PAGE_SIZE, Prot::READ_WRITE);
                        }
                        other => panic!("{other:?}"),
                    }
                }
            });
        }
        drop(kickers);
        let kickers: Vec<_> = ready.iter().collect();
        for _ in 0..syncs {
            space.space.protect(DATA, 8 * PAGE_SIZE, Prot::READ);
            space.space.sync();
        }
        if kill {
            // Some stub, perhaps a blank one or somebody else's, but not the template.
            let victims = children(world);
            let victim = victims[next(victims.len() as u64) as usize];
            if victim != template(world) {
                sys::kill(victim, libc::SIGKILL);
            }
        }
        kickers.iter().for_each(|kicker| kicker.kick());
    });
}

#[test]
fn the_sentrys_thread_stays_pinned_over_an_execve() {
    let affinity = || {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find(|l| l.starts_with("Cpus_allowed_list")).unwrap();
        line.to_owned()
    };
    let world = World::new();
    let free = affinity();
    let (old, new) = (world.space(getpid_loop()), world.space(getpid_loop()));
    let mut before = old.thread();
    before.syscall();
    let mut after = new.thread();
    let pinned = affinity();
    drop((before, old));
    assert_eq!(affinity(), pinned);
    after.syscall();
    drop(after);
    assert_eq!(affinity(), free);
}
