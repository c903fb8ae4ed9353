//! Whole processes on the mock platform: scripts that fork, wait, and get signals.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use platform::mock::{Cpu, MockPlatform, SCRIPT_BASE, STEP_LEN, Script};
use platform::{Fault, MemoryFile, Platform, Prot, Registers, Trap};

use super::clone::{InitParts, start_init};
use super::task::TaskParts;
use super::thread_group::{RLIM_NLIMITS, Rlimit};
use super::{Caps, Credentials, FdTable, FsContext, Kernel};
use crate::fs::tmpfs::{TmpFs, TmpfsOptions};
use crate::mm::{MemoryManager, MmContext, MmLimits, MmapRequest};
use crate::vfs::{Dentry, Mount, MountFlags, MountNamespace};

/// Where the scripts have their memory.
const DATA: u64 = 0x2000_0000;
const DATA_LEN: u64 = 0x2_0000;
/// The words that the scripts use.
const STATUS: u64 = DATA;
const ACTION: u64 = DATA + 0x100;
const COUNT: u64 = DATA + 0x200;
const CHILD: u64 = DATA + 0x208;

const KILL: u64 = libc::SYS_kill as u64;
const WAIT4: u64 = libc::SYS_wait4 as u64;
const EXIT_GROUP: u64 = libc::SYS_exit_group as u64;
const ANY: u64 = u64::MAX;

type Step = Result<Trap, Fault>;

fn word(cpu: &Cpu<'_>, at: u64) -> Result<u64, Fault> {
    Ok(cpu.load(at, 8)?.try_into().map_or(0, u64::from_le_bytes))
}

fn call(cpu: &mut Cpu<'_>, nr: u64, args: &[u64]) -> Step {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    Ok(cpu.syscall(nr, all))
}

/// Ends with 0 if the last call gave `wanted`, with `code` if not.
fn check(cpu: &mut Cpu<'_>, good: bool, code: u64) -> Option<Step> {
    if good { None } else { Some(call(cpu, EXIT_GROUP, &[code])) }
}

/// Runs a script as init; returns its wait status.
fn run(script: Script) -> u32 {
    let memory = MemoryFile::new(64 << 20).unwrap();
    let platform: Arc<dyn Platform> = MockPlatform::new(memory.clone(), script);
    let (sender, ended) = mpsc::channel();
    let kernel =
        Kernel::new(platform.clone(), memory.clone(), b"test", None, Default::default(), sender);
    let (fs, root) = TmpFs::new(memory.clone(), TmpfsOptions::for_memory(&memory)).unwrap();
    let mount = Mount::new(fs, Dentry::root(b"/", root), "tmpfs", MountFlags::empty());
    let mounts = MountNamespace::new(mount);
    let root = mounts.root().unwrap();
    let context = Arc::new(MmContext { platform, memory, relief: Default::default() });
    let mm = MemoryManager::new(&context, &MmLimits::UNLIMITED, false, false).unwrap();
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let request = MmapRequest::anonymous(DATA, DATA_LEN, prot, libc::MAP_FIXED);
    assert_eq!(mm.mmap(&request, &MmLimits::UNLIMITED), Ok(DATA));
    let parts = TaskParts {
        cred: Arc::new(Credentials::new(0, 0, &[], Caps::all())),
        mm: Some(mm),
        files: FdTable::new(),
        fs: FsContext::new(mounts, root.clone(), root),
        comm: [0; 16],
    };
    let regs = Registers {
        rip: SCRIPT_BASE,
        rsp: DATA + DATA_LEN,
        cs: 0x33,
        ss: 0x2b,
        ..Registers::default()
    };
    let rlimits = [Rlimit { soft: 4096, hard: u64::MAX }; RLIM_NLIMITS];
    start_init(&kernel, InitParts { parts, rlimits, regs }, |_| {}).unwrap();
    ended.recv_timeout(Duration::from_secs(120)).expect("init ends").status
}

fn address(step: u64) -> u64 {
    SCRIPT_BASE + step * STEP_LEN
}

/// A script whose first step installs a handler for SIGUSR1: step 1, which counts and returns to
/// step 2, rt_sigreturn. The test's own steps begin with step 3.
fn with_handler(flags: i32) -> Script {
    Script::new()
        .step(move |cpu| {
            let flags = flags as u64 | 0x0400_0000 | libc::SA_SIGINFO as u64;
            for (n, value) in [address(1), flags, address(2), 0].into_iter().enumerate() {
                cpu.store(ACTION + 8 * n as u64, &value.to_le_bytes())?;
            }
            cpu.jump(3);
            call(cpu, libc::SYS_rt_sigaction as u64, &[libc::SIGUSR1 as u64, ACTION, 0, 8])
        })
        .step(|cpu| {
            let si_signo = cpu.load(cpu.regs.rsi, 4)?;
            let good = cpu.regs.rdi == libc::SIGUSR1 as u64
                && si_signo == libc::SIGUSR1.to_le_bytes()
                && (cpu.regs.rsp + 8).is_multiple_of(16);
            let count = word(cpu, COUNT)? + if good { 1 } else { 100 };
            cpu.store(COUNT, &count.to_le_bytes())?;
            // `ret`
            cpu.regs.rip = word(cpu, cpu.regs.rsp)?;
            cpu.regs.rsp += 8;
            // A call without effect, so that the step ends.
            call(cpu, libc::SYS_sched_yield as u64, &[])
        })
        .syscall(libc::SYS_rt_sigreturn as u64, [0; 6])
}

#[test]
fn fork_exit_wait() {
    let script = Script::new()
        .syscall(libc::SYS_fork as u64, [0; 6])
        .step(|cpu| match cpu.regs.rax {
            0 => call(cpu, EXIT_GROUP, &[7]),
            _ => call(cpu, WAIT4, &[ANY, STATUS, 0, 0]),
        })
        .step(|cpu| {
            let status = word(cpu, STATUS)? & 0xffff_ffff;
            if let Some(end) = check(cpu, status == 0x700, 90) {
                return end;
            }
            call(cpu, WAIT4, &[ANY, STATUS, 0, 0])
        })
        .step(|cpu| {
            let none = cpu.regs.rax as i64 == -libc::ECHILD as i64;
            call(cpu, EXIT_GROUP, &[if none { 7 } else { 91 }])
        });
    assert_eq!(run(script), 0x700);
}

#[test]
fn a_handler_runs_and_returns() {
    let script = with_handler(0).syscall(KILL, [1, libc::SIGUSR1 as u64, 0, 0, 0, 0]).step(|cpu| {
        let good = cpu.regs.rax == 0 && cpu.regs.rsp == DATA + DATA_LEN;
        let count = word(cpu, COUNT)?;
        call(cpu, EXIT_GROUP, &[if good { count } else { 92 }])
    });
    assert_eq!(run(script), 0x100);
}

/// Step 3: fork. The child signals its parent again and again, so that one signal finds it asleep,
/// however late the two are. It exits after a while if its parent's wait goes on, and never if not.
fn interrupted_wait(flags: i32) -> u32 {
    const SIGNALS: u64 = 10;
    const SENT: u64 = CHILD + 0x10;
    let sleep = |cpu: &mut Cpu<'_>| -> Step {
        cpu.store(CHILD, &0u64.to_le_bytes())?;
        cpu.store(CHILD + 8, &20_000_000u64.to_le_bytes())?;
        call(cpu, libc::SYS_nanosleep as u64, &[CHILD, 0])
    };
    let script = with_handler(flags)
        .syscall(libc::SYS_fork as u64, [0; 6])
        .step(move |cpu| match cpu.regs.rax {
            0 => sleep(cpu),
            _ => {
                cpu.jump(8);
                call(cpu, libc::SYS_sched_yield as u64, &[])
            }
        })
        .syscall(KILL, [1, libc::SIGUSR1 as u64, 0, 0, 0, 0])
        .step(move |cpu| sleep(cpu))
        .step(move |cpu| {
            let sent = word(cpu, SENT)? + 1;
            cpu.store(SENT, &sent.to_le_bytes())?;
            if flags & libc::SA_RESTART != 0 && sent == SIGNALS {
                return call(cpu, EXIT_GROUP, &[5]);
            }
            cpu.jump(5);
            call(cpu, libc::SYS_sched_yield as u64, &[])
        })
        .syscall(WAIT4, [ANY, STATUS, 0, 0, 0, 0])
        .step(|cpu| {
            let count = word(cpu, COUNT)?;
            let code = match cpu.regs.rax as i64 {
                2 if (1..100).contains(&count) => 1,
                errno if errno == -libc::EINTR as i64 && (1..100).contains(&count) => 2,
                _ => 93,
            };
            call(cpu, EXIT_GROUP, &[code])
        });
    run(script)
}

#[test]
fn a_wait_is_restarted_or_interrupted() {
    assert_eq!(interrupted_wait(libc::SA_RESTART), 0x100);
    assert_eq!(interrupted_wait(0), 0x200);
}

#[test]
fn init_is_immune_to_what_it_does_not_handle() {
    let script = Script::new()
        .syscall(KILL, [1, libc::SIGTERM as u64, 0, 0, 0, 0])
        .syscall(KILL, [1, libc::SIGKILL as u64, 0, 0, 0, 0])
        .syscall(EXIT_GROUP, [3, 0, 0, 0, 0, 0]);
    assert_eq!(run(script), 0x300);
}

#[test]
fn a_fault_kills_even_init() {
    let access = Prot { read: true, write: false, exec: false };
    let script = Script::new().step(move |_| Err(Fault { addr: 0x10, access, bus: false }));
    assert_eq!(run(script), libc::SIGSEGV as u32);
}

#[test]
fn stop_and_continue_are_seen_by_the_parent() {
    let wait = |options: i32| [ANY, STATUS, options as u64, 0, 0, 0];
    let expect = |status: u64, code: u64, nr: u64, signo: i32| {
        move |cpu: &mut Cpu<'_>| {
            let now = word(cpu, STATUS)? & 0xffff_ffff;
            if let Some(end) = check(cpu, now == status, code) {
                return end;
            }
            call(cpu, nr, &[2, signo as u64])
        }
    };
    let script = Script::new()
        .syscall(libc::SYS_fork as u64, [0; 6])
        .step(move |cpu| match cpu.regs.rax {
            0 => {
                cpu.jump(7);
                call(cpu, KILL, &[2, libc::SIGSTOP as u64])
            }
            _ => Ok(cpu.syscall(WAIT4, wait(libc::WUNTRACED))),
        })
        .step(expect((libc::SIGSTOP as u64) << 8 | 0x7f, 94, KILL, libc::SIGCONT))
        .syscall(WAIT4, wait(libc::WCONTINUED))
        .step(expect(0xffff, 95, KILL, libc::SIGKILL))
        .syscall(WAIT4, wait(0))
        .step(|cpu| {
            let status = word(cpu, STATUS)? & 0xffff_ffff;
            call(cpu, EXIT_GROUP, &[if status == libc::SIGKILL as u64 { 4 } else { 96 }])
        })
        .step(|cpu| Ok(cpu.spin()))
        .step(|cpu| {
            cpu.jump(7);
            call(cpu, libc::SYS_sched_yield as u64, &[])
        });
    assert_eq!(run(script), 0x400);
}
