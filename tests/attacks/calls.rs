//! Executes the `syscall` instructions of the stub with registers of the attacker's choice, and the
//! other ways into a kernel from its own code.

use super::asm::{self, Regs};
use super::catch::{self, Caught};
use super::jump::{NOWHERE, closed, scratch};
use super::probe;
use super::supervisor::{Attack, Attacker, Ends};

const SITES: usize = 12;

pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "at_the_stubs_instructions",
        ends: Ends::OrHangs,
        items: || probe::call_sites(SITES).len() as u64 * CALLS.len() as u64,
        fresh: true,
        limit: 1000,
        body: at_the_stub,
    },
    Attack {
        name: "memory_file_at_foreign_offsets",
        ends: Ends::OrHangs,
        items: || probe::call_sites(4).len() as u64 * 8,
        fresh: true,
        limit: 5000,
        body: foreign_offsets,
    },
    Attack {
        name: "forged_signal_frames",
        ends: Ends::OrHangs,
        items: || (probe::call_sites(4).len() as u64 + 1) * FORGERIES,
        fresh: true,
        limit: 1000,
        body: forged_frame,
    },
    Attack {
        name: "death_amid_births",
        ends: Ends::Somehow,
        items: || 40,
        fresh: true,
        limit: 5000,
        body: death_amid_births,
    },
    Attack::once("other_entries", Ends::Well, other_entries),
];

/// An argument that is filled in when the call is made.
const SCRATCH: u64 = u64::MAX - 1;
/// The page that the `syscall` instruction is in.
const SITE: u64 = u64::MAX - 2;
/// The victim.
const VICTIM: u64 = u64::MAX - 3;

const NR: fn(libc::c_long) -> u64 = |nr| nr as u64;

/// Calls that would do harm.
const CALLS: &[(i64, [u64; 6])] = &[
    (libc::SYS_mmap, [NOWHERE, 1 << 20, 3, 0x11, 0, 0]),
    (libc::SYS_mmap, [NOWHERE, 1 << 20, 1, 0x01, 3, 0]),
    (libc::SYS_mmap, [NOWHERE, 1 << 20, 7, 0x11, 1, 0]),
    (libc::SYS_mmap, [SITE, 4096, 7, 0x32, u64::MAX, 0]),
    (libc::SYS_munmap, [SITE, 4096, 0, 0, 0, 0]),
    (libc::SYS_munmap, [0, 0x7fff_ffff_f000, 0, 0, 0, 0]),
    (libc::SYS_mprotect, [SITE, 4096, 7, 0, 0, 0]),
    (libc::SYS_mremap, [SITE, 4096, 4096, 3, NOWHERE, 0]),
    (libc::SYS_mremap, [SITE, 4096, 8192, 1, 0, 0]),
    (libc::SYS_madvise, [SITE, 4096, 4, 0, 0, 0]),
    (libc::SYS_remap_file_pages, [SITE, 4096, 0, 0, 0, 0]),
    (libc::SYS_clone, [0, 0, 0, 0, 0, 0]),
    (libc::SYS_clone, [17, 0, 0, 0, 0, 0]),
    (libc::SYS_clone, [0x8000 | 0x400, 0, 0, 0, 0, 0]),
    (libc::SYS_clone, [0x5_0f00, SCRATCH, 0, 0, 0, 0]),
    (libc::SYS_clone, [0x1_0100, SCRATCH, 0, 0, 0, 0]),
    (libc::SYS_clone, [0x1000_0000, 0, 0, 0, 0, 0]),
    (libc::SYS_clone3, [SCRATCH, 88, 0, 0, 0, 0]),
    (libc::SYS_fork, [0; 6]),
    (libc::SYS_vfork, [0; 6]),
    (libc::SYS_execve, [SCRATCH, 0, 0, 0, 0, 0]),
    (libc::SYS_seccomp, [1, 0, SCRATCH, 0, 0, 0]),
    (libc::SYS_seccomp, [1, 8, SCRATCH, 0, 0, 0]),
    (libc::SYS_seccomp, [0, 0, 0, 0, 0, 0]),
    (libc::SYS_prctl, [22, 1, 0, 0, 0, 0]),
    (libc::SYS_prctl, [1, 9, 0, 0, 0, 0]),
    (libc::SYS_prctl, [4, 1, 0, 0, 0, 0]),
    (libc::SYS_prctl, [35, 1, SITE, 0, 0, 0]),
    (libc::SYS_prctl, [59, 1, 0, 0x7fff_ffff_f000, 0, 0]),
    (libc::SYS_kill, [u64::MAX, 9, 0, 0, 0, 0]),
    (libc::SYS_kill, [0, 15, 0, 0, 0, 0]),
    (libc::SYS_kill, [1, 9, 0, 0, 0, 0]),
    (libc::SYS_kill, [VICTIM, 9, 0, 0, 0, 0]),
    (libc::SYS_tkill, [VICTIM, 19, 0, 0, 0, 0]),
    (libc::SYS_tgkill, [1, 1, 9, 0, 0, 0]),
    (libc::SYS_ptrace, [0, 0, 0, 0, 0, 0]),
    (libc::SYS_ptrace, [16, VICTIM, 0, 0, 0, 0]),
    (libc::SYS_ptrace, [0x4206, 1, 0, 0, 0, 0]),
    (libc::SYS_open, [SCRATCH, 0, 0, 0, 0, 0]),
    (libc::SYS_openat, [0, SCRATCH, 2, 0, 0, 0]),
    (libc::SYS_openat, [3, SCRATCH, 0, 0, 0, 0]),
    (libc::SYS_socket, [1, 1, 0, 0, 0, 0]),
    (libc::SYS_socket, [2, 3, 1, 0, 0, 0]),
    (libc::SYS_connect, [1, SCRATCH, 110, 0, 0, 0]),
    (libc::SYS_arch_prctl, [0x1001, SITE, 0, 0, 0, 0]),
    (libc::SYS_arch_prctl, [0x1002, SITE, 0, 0, 0, 0]),
    (libc::SYS_arch_prctl, [0x1001, u64::MAX >> 16, 0, 0, 0, 0]),
    (libc::SYS_rt_sigreturn, [0; 6]),
    (libc::SYS_rt_sigaction, [23, SCRATCH, 0, 8, 0, 0]),
    (libc::SYS_rt_sigaction, [31, SCRATCH, 0, 8, 0, 0]),
    (libc::SYS_rt_sigprocmask, [0, SCRATCH, 0, 8, 0, 0]),
    (libc::SYS_sigaltstack, [SCRATCH, 0, 0, 0, 0, 0]),
    (libc::SYS_process_vm_readv, [VICTIM, SCRATCH, 1, SCRATCH, 1, 0]),
    (libc::SYS_process_vm_readv, [1, SCRATCH, 1, SCRATCH, 1, 0]),
    (libc::SYS_process_vm_writev, [VICTIM, SCRATCH, 1, SCRATCH, 1, 0]),
    (libc::SYS_pidfd_open, [1, 0, 0, 0, 0, 0]),
    (libc::SYS_io_uring_setup, [8, SCRATCH, 0, 0, 0, 0]),
    (libc::SYS_bpf, [5, SCRATCH, 120, 0, 0, 0]),
    (libc::SYS_userfaultfd, [1, 0, 0, 0, 0, 0]),
    (libc::SYS_unshare, [0x1000_0000, 0, 0, 0, 0, 0]),
    (libc::SYS_setrlimit, [7, SCRATCH, 0, 0, 0, 0]),
    (libc::SYS_exit, [7, 0, 0, 0, 0, 0]),
    (libc::SYS_exit_group, [7, 0, 0, 0, 0, 0]),
    (libc::SYS_restart_syscall, [0; 6]),
    (-1, [0; 6]),
    (0x4000_0009, [NOWHERE, 1 << 20, 3, 0x11, 0, 0]),
    (READ_ALL, [0; 6]),
    (KILL_ALL, [0; 6]),
];

/// read, pread and recvmsg of descriptors 0 to 20, none of which is ours.
const READ_ALL: i64 = 1 << 40;
/// SIGKILL to processes and threads 1 to 50.
const KILL_ALL: i64 = READ_ALL + 1;

/// One call at a `syscall` instruction of the stub.
fn call(attacker: &Attacker, site: u64, nr: u64, args: [u64; 6]) -> Caught {
    let regs = Regs::all(scratch(), scratch()).call(nr, args);
    attacker.catcher.jump(site, &regs)
}

fn at_the_stub(attacker: &Attacker, item: u64) {
    let sites = probe::call_sites(SITES);
    let site = sites[item as usize / CALLS.len()];
    let (nr, args) = CALLS[item as usize % CALLS.len()];
    attacker.catcher.start_ticks();
    closed();
    let memory = scratch();
    let path = b"/proc/self/exe\0\0";
    // SAFETY: scratch memory.
    unsafe { (memory as *mut u8).add(1024).copy_from(path.as_ptr(), path.len()) };
    let victim = attacker.share.cells[0].load(std::sync::atomic::Ordering::Relaxed);
    let args = args.map(|arg| match arg {
        SCRATCH => memory + 1024,
        SITE => site & !(probe::PAGE - 1),
        VICTIM => victim,
        other => other,
    });
    match nr {
        READ_ALL => read_all(attacker, site, memory),
        KILL_ALL => kill_all(attacker, site),
        nr => {
            call(attacker, site, NR(nr), args);
        }
    }
    judge(attacker, site, nr);
}

/// Looks whether anything came of a call.
fn judge(attacker: &Attacker, site: u64, nr: i64) {
    let fail = |what: &str| attacker.share.fail(&format!("call {nr} at {site:#x}: {what}"));
    if catch::load(NOWHERE).is_some() {
        fail("something was mapped");
    }
    if probe::canary_in(NOWHERE..NOWHERE + (1 << 20)).is_some() {
        fail("the victim's canary was mapped");
    }
    let page = site & !(probe::PAGE - 1);
    if catch::load(page).is_none() {
        fail("the stub's page is gone");
    }
    if probe::is_writable(page) {
        fail("the stub's code can be written");
    }
}

fn read_all(attacker: &Attacker, site: u64, memory: u64) {
    const UNTOUCHED: u64 = 0x5555_5555_5555_5555;
    let buffer = memory + 4096;
    for fd in 0..21 {
        for nr in [libc::SYS_read, libc::SYS_pread64, libc::SYS_recvfrom, libc::SYS_recvmsg] {
            catch::store(buffer, UNTOUCHED);
            // A message header: one vector of eight bytes, which is behind it.
            let header = [0, 0, memory + 2048, 1, 0, 0, 0];
            for (at, word) in header.into_iter().enumerate() {
                catch::store(memory + 1536 + at as u64 * 8, word);
            }
            catch::store(memory + 2048, buffer);
            catch::store(memory + 2056, 8);
            let data = if nr == libc::SYS_recvmsg { memory + 1536 } else { buffer };
            let rdx = if nr == libc::SYS_recvmsg { 0x40 } else { 8 };
            call(attacker, site, NR(nr), [fd, data, rdx, 0x40, 0, 0]);
            if catch::load(buffer) != Some(UNTOUCHED) {
                attacker.share.fail(&format!("call {nr} read from descriptor {fd} of the host"));
            }
            for nr in [libc::SYS_write, libc::SYS_sendto, libc::SYS_dup] {
                call(attacker, site, NR(nr), [fd, buffer, 8, 0x4040, 0, 0]);
            }
        }
    }
}

fn kill_all(attacker: &Attacker, site: u64) {
    let me = u64::from(std::process::id());
    for pid in (1..51).filter(|&pid| pid != me) {
        call(attacker, site, NR(libc::SYS_kill), [pid, 9, 0, 0, 0, 0]);
        call(attacker, site, NR(libc::SYS_tgkill), [pid, pid, 9, 0, 0, 0]);
    }
}

/// The memory file at offsets all over its first gigabytes, through every descriptor that a stub may
/// have.
fn foreign_offsets(attacker: &Attacker, item: u64) {
    attacker.catcher.start_ticks();
    closed();
    let site = probe::call_sites(4)[item as usize / 8];
    let (fd, flags) = (item % 4, if item % 8 < 4 { 0x11 } else { 0x12 });
    for offset in (0..2u64 << 30).step_by(64 << 20) {
        call(attacker, site, NR(libc::SYS_mmap), [NOWHERE, 64 << 20, 3, flags, fd, offset]);
        if catch::load(NOWHERE).is_some() {
            attacker.share.fail("a piece of a file of the host was mapped");
        }
    }
}

/// How many frames are forged for a `syscall` instruction.
const FORGERIES: u64 = 40;

/// `rt_sigreturn` with whatever lies on the stack, from our own code and from the stub.
fn forged_frame(attacker: &Attacker, item: u64) {
    attacker.catcher.start_ticks();
    let mut chance = super::share::Chance(item + 0x5eed);
    let mut sites = vec![own_syscall()];
    sites.extend(probe::call_sites(4));
    let (site, round) = (sites[(item / FORGERIES) as usize], item % FORGERIES);
    let memory = scratch();
    for slot in 0..512u64 {
        let value = match round % 5 {
            0 => 0,
            1 => u64::MAX,
            2 => chance.next(),
            3 => chance.next() & 0x7fff_ffff_ffff,
            _ => memory,
        };
        catch::store(memory + slot * 8, value);
    }
    if round % 2 == 1 {
        // ss, fs, gs, cs as they should be, and as they should not; and any instruction pointer.
        let selectors = [0x002b_0000_0000_0033, 0x002b_0000_0000_0023, 0x33, 0x10];
        catch::store(memory + 40 + 18 * 8, selectors[round as usize / 2 % 4]);
        let rip = [chance.next(), site, memory, asm::attack_spin as *const () as u64];
        catch::store(memory + 40 + 16 * 8, rip[round as usize / 8 % 4]);
    }
    let regs = Regs::all(memory, memory).call(NR(libc::SYS_rt_sigreturn), [0; 6]);
    attacker.catcher.jump(site, &regs);
}

/// The host ends the process for a forbidden call while threads and children of it are being made:
/// whoever makes them must notice, and go on with those of others.
fn death_amid_births(attacker: &Attacker, item: u64) {
    // A tick would end any other thread, with the locks of the C library that it holds.
    let ticks = |how| {
        // SAFETY: a set of signals, of this thread and those that it makes.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigaddset(&mut set, libc::SIGALRM);
            libc::pthread_sigmask(how, &set, std::ptr::null_mut());
        }
    };
    ticks(libc::SIG_BLOCK);
    attacker.catcher.start_ticks();
    for _ in 0..2 {
        std::thread::spawn(|| {
            loop {
                let _ = std::thread::Builder::new().spawn(|| ()).map(std::thread::JoinHandle::join);
            }
        });
    }
    std::thread::spawn(|| {
        loop {
            // SAFETY: the child makes one call.
            unsafe {
                let child = libc::fork();
                if child == 0 {
                    libc::_exit(0);
                }
                libc::waitpid(child, std::ptr::null_mut(), 0);
            }
        }
    });
    ticks(libc::SIG_UNBLOCK);
    std::thread::sleep(std::time::Duration::from_micros(1000 + item * 250));
    for site in probe::call_sites(4) {
        call(attacker, site, NR(libc::SYS_exit_group), [0; 6]);
    }
    // SAFETY: where that was no more than a call, or nothing.
    unsafe { libc::_exit(0) };
}

/// The address of a `syscall` instruction of this program.
pub fn own_syscall() -> u64 {
    let start = asm::getpid_loop as *const () as u64;
    (start..start + 4096)
        .find(|&at| catch::load(at).is_some_and(|bytes| bytes & 0xffff == 0x050f))
        .unwrap_or(start)
}

/// Maps code.
pub fn code(bytes: &[u8]) -> u64 {
    const RWX: i32 = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
    // SAFETY: a fresh page, longer than what is copied.
    unsafe {
        let at = libc::mmap(std::ptr::null_mut(), 4096, RWX, flags, -1, 0);
        assert!(at != libc::MAP_FAILED, "no memory for code");
        at.cast::<u8>().copy_from(bytes.as_ptr(), bytes.len());
        at as u64
    }
}

/// `int 0x80`, `sysenter`, the vsyscall page, numbers of the x32 ABI, numbers that do not exist.
fn other_entries(attacker: &Attacker, _: u64) {
    attacker.catcher.start_ticks();
    let fail = |what: String| attacker.share.fail(&what);
    // 32-bit calls do not exist: getpid is 20, mmap2 192, exit 1.
    for nr in [20, 192, 1, 120, 5] {
        let at = code(&[0xcd, 0x80, 0x0f, 0x0b]);
        let regs = Regs::all(0, scratch()).call(nr, [0; 6]);
        let caught = attacker.catcher.jump(at, &regs);
        if caught.signal != libc::SIGSEGV || caught.rip != at {
            fail(format!("int 0x80 {nr}: {caught:x?}"));
        }
    }
    let at = code(&[0x0f, 0x34, 0x0f, 0x0b]);
    let caught = attacker.catcher.jump(at, &Regs::all(0, scratch()).call(20, [0; 6]));
    if !matches!(caught.signal, libc::SIGSEGV | libc::SIGILL) {
        fail(format!("sysenter: {caught:x?}"));
    }
    for nr in [0x4000_0000u64, 0x4000_0027, 0x4000_0009, 0x4000_0200, 0x7fff_ffff] {
        let got = asm::syscall(nr, [0; 6]);
        if got != -i64::from(libc::ENOSYS) {
            fail(format!("x32 call {nr:#x}: {got}"));
        }
    }
    // Only the low half of the number counts.
    let pid = i64::from(std::process::id());
    let got = asm::syscall(0xdead_beef_0000_0027, [0; 6]);
    if got != pid {
        fail(format!("getpid with a wide number: {got}"));
    }
    vsyscalls(attacker);
    if let Err(what) = super::health::check() {
        fail(what);
    }
}

/// The vsyscall page: its three functions work or fault; everything else there faults.
fn vsyscalls(attacker: &Attacker) {
    const BASE: u64 = 0xffff_ffff_ff60_0000;
    for at in (BASE..BASE + 4096).step_by(256).chain([BASE + 1, BASE + 0x402, BASE + 0x809]) {
        let mut regs = Regs::all(0, scratch());
        regs.rdi = 0;
        let caught = attacker.catcher.jump(at, &regs);
        let landed =
            caught.signal == libc::SIGILL && caught.rip == asm::attack_landed as *const () as u64;
        if !landed && caught.signal != libc::SIGSEGV {
            attacker.share.fail(&format!("vsyscall page at {at:#x}: {caught:x?}"));
        }
    }
}
