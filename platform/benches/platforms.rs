//! What a platform's operations cost: `cargo bench -p rsentry-platform -- notify` (or `ptrace`).
//!
//! Prints medians in microseconds. Nothing is compared; `bench/` does that.

use std::sync::Arc;
use std::time::Instant;

use rsentry_platform as platform;

use platform::memory_file::MemoryFile;
use platform::{
    AddressSpace, Choice, Frames, PAGE_SIZE, Platform, Prot, Registers, Source, Trap, usercopy,
};

const CODE: u64 = 0x40_0000;
const DATA: u64 = 0x5000_0000;

/// `mov eax, 39; syscall; jmp` to the start.
const GETPID: &[u8] = &[0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];
/// `mov [rdi], rax; jmp` to the start.
const STORE: &[u8] = &[0x48, 0x89, 0x07, 0xeb, 0xfb];

fn measure(what: &str, rounds: usize, mut once: impl FnMut()) {
    once();
    let mut times: Vec<f64> = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            once();
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("{what:<44} {:>8.2} us  (p95 {:.2})", times[rounds / 2], times[rounds * 95 / 100]);
}

fn space(platform: &dyn Platform, code: &Frames) -> Arc<dyn AddressSpace> {
    let space = platform.new_address_space().expect("a stub");
    let prot = Prot { read: true, write: false, exec: true };
    space.map(
        CODE,
        code.len(),
        prot,
        Source::Memory { offset: code.offset(), shared: false },
        false,
    );
    space
}

fn frames(file: &Arc<MemoryFile>, bytes: &[u8]) -> Frames {
    let frames = file.allocate(PAGE_SIZE).expect("memory");
    // SAFETY: the bytes fit on the page.
    unsafe { usercopy::copy_to(frames.ptr(), bytes.as_ptr(), bytes.len()) };
    frames
}

fn start() -> Registers {
    Registers { rip: CODE, rdi: DATA, cs: 0x33, ss: 0x2b, eflags: 0x202, ..Registers::default() }
}

fn main() {
    let file = MemoryFile::new(1 << 30).expect("a memory file");
    let wanted = std::env::args().find_map(|a| match a.as_str() {
        "ptrace" => Some(Choice::Ptrace),
        "notify" => Some(Choice::Notify { patching: true }),
        _ => None,
    });
    let opened = platform::open(wanted.unwrap_or_default(), platform::Clocks::default(), &file)
        .expect("a platform");
    let platform = opened.platform;
    println!("{}: {}", platform.name(), platform.features().join(", "));
    let (getpid, store) = (frames(&file, GETPID), frames(&file, STORE));

    let one = space(&*platform, &getpid);
    let mut thread = one.clone().new_thread().expect("a thread");
    let mut regs = start();
    measure("system call", 20_000, || {
        assert_eq!(thread.run(&mut regs).expect("a stub"), Trap::Syscall);
        regs.rax = 1;
    });
    let data = file.allocate(64 * PAGE_SIZE).expect("memory");
    let source =
        |page: u64| Source::Memory { offset: data.offset() + page * PAGE_SIZE, shared: false };
    measure("system call with one mapping", 5_000, || {
        one.map(DATA, PAGE_SIZE, Prot::READ_WRITE, source(0), false);
        thread.run(&mut regs).expect("a stub");
    });
    measure("system call with 32 mappings", 2_000, || {
        for page in (0..32).rev() {
            one.map(DATA + page * PAGE_SIZE, PAGE_SIZE, Prot::READ_WRITE, source(page), false);
        }
        thread.run(&mut regs).expect("a stub");
    });
    measure("sync from the guest thread's own side", 2_000, || {
        one.protect(DATA, PAGE_SIZE, Prot::READ);
        one.sync();
    });
    std::thread::scope(|scope| {
        scope.spawn(|| {
            measure("sync from a stranger", 2_000, || {
                one.protect(DATA, PAGE_SIZE, Prot::READ);
                one.sync();
            });
        });
    });
    let library = Arc::new(std::os::fd::OwnedFd::from(
        std::fs::File::open("/proc/self/exe").expect("our own binary"),
    ));
    let host = |file: &Arc<std::os::fd::OwnedFd>| Source::Host {
        file: file.clone(),
        offset: 0,
        shared: false,
    };
    measure("mapping a host file, known", 2_000, || {
        one.map(DATA, PAGE_SIZE, Prot::READ, host(&library), false);
        one.sync();
    });
    measure("mapping a host file, new", 2_000, || {
        let fresh = Arc::new(library.try_clone().expect("a descriptor"));
        one.map(DATA, PAGE_SIZE, Prot::READ, host(&fresh), false);
        one.sync();
    });

    let two = space(&*platform, &store);
    let mut faulting = two.clone().new_thread().expect("a thread");
    let mut fault_regs = start();
    measure("page fault", 5_000, || {
        assert!(matches!(faulting.run(&mut fault_regs), Ok(Trap::Fault(_))));
    });
    measure("extended state, read and set", 5_000, || {
        let image = faulting.xstate().expect("a stub");
        faulting.set_xstate(&image).expect("a stub");
    });
    measure("thread, from birth to end", 500, || {
        drop(two.clone().new_thread().expect("a thread"));
    });
    let mut births = Vec::new();
    measure("address space, from birth", 300, || {
        births.push(space(&*platform, &getpid));
    });
    measure("address space, end", 300, || {
        births.pop();
    });
    measure("address space with a thread and a call", 300, || {
        let space = space(&*platform, &getpid);
        let mut thread = space.clone().new_thread().expect("a thread");
        thread.run(&mut start()).expect("a stub");
    });
    // Both directions of a host thread's birth are not the platform's, but they show what a fork
    // costs at least.
    measure("the same on a thread of its own", 300, || {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let space = space(&*platform, &getpid);
                let mut thread = space.clone().new_thread().expect("a thread");
                thread.run(&mut start()).expect("a stub");
            });
        });
    });
}
