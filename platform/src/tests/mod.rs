//! Guest code on real stubs. Each test has a platform of its own, so that they cannot disturb one
//! another.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::notify::NotifyPlatform;
use crate::ptrace::PtracePlatform;
use crate::stub::sys;
use crate::{AddressSpace, Clocks, Error, MemoryFile, PAGE_SIZE, Platform};
use crate::{Fault, Frames, GuestThread, Prot, Registers, Source, Trap, usercopy};

/// The end-to-end tests' witness.
#[path = "../../../tests/src/lag.rs"]
mod lag;
use lag::Lag;

/// How long anything may take before a test gives up. Generous: machines are shared.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until something holds.
#[track_caller]
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

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

/// A platform.
#[derive(Clone, Copy)]
enum Kind {
    Ptrace,
    Notify,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Ptrace => "ptrace",
            Kind::Notify => "notify",
        }
    }
}

thread_local! {
    /// What [`World::new`] makes on this thread.
    static KIND: Cell<Kind> = const { Cell::new(Kind::Ptrace) };
}

/// Makes tests of functions: `ptrace::NAME` and `notify::NAME`.
macro_rules! on_every_platform {
    ($($name:ident),+ $(,)?) => {
        mod ptrace {
            $(#[test]
            fn $name() {
                super::KIND.set(super::Kind::Ptrace);
                super::$name();
            })+
        }
        mod notify {
            $(#[test]
            fn $name() {
                super::KIND.set(super::Kind::Notify);
                super::$name();
            })+
        }
    };
}

mod kicks;
mod lives;
mod mappings;
mod patched;
mod reuse;
mod traps;
mod tsc;

struct World {
    file: Arc<MemoryFile>,
    platform: Arc<dyn Platform>,
    template: sys::Tid,
}

impl World {
    fn new() -> World {
        World::with(Clocks::Native)
    }

    fn with(clocks: Clocks) -> World {
        let file = MemoryFile::new(64 << 20).unwrap();
        match KIND.get() {
            Kind::Ptrace => {
                let platform = PtracePlatform::new(file.clone(), clocks).unwrap();
                World { file, template: platform.template(), platform }
            }
            Kind::Notify => {
                let platform = NotifyPlatform::new(file.clone(), true, clocks).unwrap();
                World { file, template: platform.template(), platform }
            }
        }
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
        let trap = self.thread.run(&mut self.regs).unwrap();
        self.thread.complete(&mut self.regs).unwrap();
        trap
    }

    /// As [`Guest::run`], for code that may go on for ever, as any may: it is kicked every now and then.
    fn run_kicked(&mut self) -> Result<Trap, Error> {
        let kicker = self.thread.kicker();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    std::thread::park_timeout(Duration::from_millis(1));
                    kicker.kick();
                }
            });
            let outcome = self.thread.run(&mut self.regs);
            over.store(true, Ordering::Relaxed);
            self.thread.complete(&mut self.regs)?;
            outcome
        })
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
    Source::Memory { offset: frames.offset(), shared: false }
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

guest_code!(
    touch,
    "2: mov rax, [rdi]",
    "mov qword ptr [rdi + 8], 77",
    "mov eax, 1",
    "syscall",
    "jmp 2b",
);

guest_code!(
    misdeeds, "push rax", // 1 byte
    "ud2", "div ecx", "int3", "hlt", "int 0x80", "int 0x21", "call rax",
);

guest_code!(
    vdso_reader,
    "mov rax, [rdi]", // vDSO code is an ELF image
    "mov eax, 1",
    "syscall",
);

guest_code!(spin, "2: inc qword ptr [rdi]", "jmp 2b");

fn template(world: &World) -> sys::Tid {
    world.template
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
