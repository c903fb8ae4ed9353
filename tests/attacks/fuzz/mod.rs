//! Random system calls, with arguments that are often plausible and sometimes not, by many threads of
//! many processes of several users: the kernel must not die of it, and serve on.
//!
//! `attack-guest fuzz SEED SECONDS TABLE` lives in generations: workers are started, rage for a while
//! and are killed all at once; then the kernel must still do everything right. `TABLE` has a line for
//! each call: number, name, and the kinds of its arguments.

mod args;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use super::asm;
use super::health;
use super::share::{self, Chance, doze, now};
use super::victim::Victim;
use args::{Arena, Kind};

/// How long workers live, in milliseconds.
const LIFE: u64 = 500;
/// Whom the supervisor belongs to. No worker may signal it: the first process of a sandbox dies of
/// signals like any other.
const SUPERVISOR: u32 = 0x4e47_1234;
/// Who they are.
const USERS: [u32; 4] = [0, 1001, 1001, 1003];
/// Threads of each.
const THREADS: u64 = 3;

/// A system call that may be made.
pub struct Call {
    number: u64,
    name: String,
    kinds: Vec<Kind>,
}

fn table(path: &str) -> Option<Vec<Call>> {
    let text = std::fs::read_to_string(path).ok()?;
    let parse = |line: &str| {
        let mut words = line.split_whitespace();
        let number = words.next()?.parse().ok()?;
        let name = words.next()?.to_owned();
        Some(Call { number, name, kinds: words.map(Kind::named).collect() })
    };
    text.lines().map(parse).collect()
}

/// Runs; the sandbox's first process.
pub fn run(seed: &str, seconds: &str, path: &str) -> ExitCode {
    let (Ok(seed), Ok(seconds), Some(table)) = (seed.parse(), seconds.parse(), table(path)) else {
        eprintln!("fuzz: SEED SECONDS TABLE");
        return ExitCode::from(2);
    };
    share::hide_from_signals(SUPERVISOR);
    match rage(seed, seconds, &table) {
        Ok(story) => {
            println!("{story}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("fuzz: seed {seed}: {why}");
            ExitCode::FAILURE
        }
    }
}

fn rage(seed: u64, seconds: u64, table: &[Call]) -> Result<String, String> {
    let share = share::Share::new();
    let start = now();
    let mut generation = 0;
    while now() - start < seconds * 1000 {
        Victim::start(share);
        for (number, user) in USERS.into_iter().enumerate() {
            let mix = seed.wrapping_add(generation * 64 + number as u64);
            // SAFETY: the process has one thread.
            let pid = unsafe { libc::fork() };
            if pid < 0 {
                return Err(format!("generation {generation}: fork"));
            }
            if pid == 0 {
                work(table, user, mix.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, &share.cells[1]);
            }
        }
        doze(LIFE);
        // SAFETY: everybody but us.
        unsafe { libc::kill(-1, libc::SIGKILL) };
        let (killed, mut said) = (now(), false);
        // SAFETY: no status is asked for.
        while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } >= 0 {
            if now() - killed > 3000 && !said {
                said = true;
                eprintln!("fuzz: generation {generation} ends slowly: {:?}", states());
            }
            if now() - killed > 120_000 {
                let left = states();
                return Err(format!("generation {generation}: processes do not end: {left:?}"));
            }
            doze(1);
        }
        remove_ipc();
        health::check().map_err(|what| format!("after generation {generation}: {what}"))?;
        generation += 1;
    }
    let calls = share.cells[1].load(Ordering::Relaxed);
    Ok(format!("fuzz: {generation} generations, {calls} calls"))
}

/// Removes what a generation left behind of objects that outlive processes.
fn remove_ipc() {
    let ids = |kind: &str| {
        let table = std::fs::read_to_string(format!("/proc/sysvipc/{kind}")).unwrap_or_default();
        let rows = table.lines().skip(1).filter_map(|row| row.split_ascii_whitespace().nth(1));
        rows.filter_map(|id| id.parse::<i32>().ok()).collect::<Vec<_>>()
    };
    // SAFETY: no memory is passed.
    unsafe {
        for id in ids("shm") {
            libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut());
        }
        for id in ids("sem") {
            libc::semctl(id, 0, libc::IPC_RMID);
        }
        for id in ids("msg") {
            libc::msgctl(id, libc::IPC_RMID, std::ptr::null_mut());
        }
    }
    for queue in std::fs::read_dir("/dev/mqueue").into_iter().flatten().flatten() {
        let _ = std::fs::remove_file(queue.path());
    }
}

/// What `/proc` says of the processes that there are.
fn states() -> Vec<String> {
    let left = super::supervisor::processes();
    let stat = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    left.iter().filter_map(stat).collect()
}

fn limit(resource: u32, most: u64) {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: reads the limit.
    unsafe { libc::setrlimit(resource, &limit) };
}

/// A worker: never returns.
fn work(table: &[Call], user: u32, seed: u64, count: &'static AtomicU64) -> ! {
    // SAFETY: plain calls.
    unsafe {
        libc::setsid();
        libc::chdir(c"/tmp".as_ptr());
    }
    limit(libc::RLIMIT_NOFILE, 200);
    limit(libc::RLIMIT_NPROC, 60);
    limit(libc::RLIMIT_FSIZE, 4 << 20);
    limit(libc::RLIMIT_AS, 1 << 30);
    // What blocks is interrupted, as long as the random calls leave that as it is.
    extern "C" fn tick(_: i32) {}
    // SAFETY: a handler that does nothing; a valid timer.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = tick as *const () as usize;
        libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut());
        let every = libc::timeval { tv_sec: 0, tv_usec: 5000 };
        let timer = libc::itimerval { it_interval: every, it_value: every };
        libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut());
    }
    if user == 0 {
        share::give_up_kill();
    } else {
        share::become_user(user);
    }
    std::thread::scope(|scope| {
        for thread in 1..=THREADS {
            scope.spawn(move || random_calls(table, Chance(seed ^ (thread << 40)), count));
        }
    });
    // SAFETY: nothing is to be flushed.
    unsafe { libc::_exit(0) }
}

/// Calls until killed, or until it has ruined itself.
fn random_calls(table: &[Call], mut chance: Chance, count: &AtomicU64) {
    let mut arena = Arena::new(&mut chance);
    loop {
        let call = &table[(chance.next() >> 16) as usize % table.len()];
        // The same call again, and calls one after the other on the same object, find more than
        // single ones.
        let times = if chance.next() & 0xf00 == 0 { 20 } else { 2 };
        for _ in 0..times {
            one(call, &mut chance, &mut arena);
            count.fetch_add(1, Ordering::Relaxed);
        }
        if chance.next() & 0x1f00 == 0 {
            arena.refill(&mut chance);
        }
    }
}

fn one(call: &Call, chance: &mut Chance, arena: &mut Arena) {
    let mut args = [0u64; 6];
    for (at, arg) in args.iter_mut().enumerate() {
        let kind = call.kinds.get(at).copied().unwrap_or(Kind::Hex);
        *arg = arena.argument(kind, chance);
    }
    let rarely = chance.next().is_multiple_of(200);
    match call.name.as_str() {
        // These would end the thread or the process every time, or put it to sleep for good.
        "exit" | "exit_group" | "rt_sigreturn" | "pause" | "rt_sigsuspend" | "vhangup"
        | "execve" | "execveat" | "reboot"
            if !rarely => {}
        // They would do the same to all others.
        "kill" | "tkill" | "tgkill" | "rt_sigqueueinfo" | "pidfd_send_signal"
            if !rarely && (args[0] as i32) < 4 => {}
        // Nobody but the supervisor decides about the sandbox and itself.
        "reboot" => {}
        "prlimit64" | "process_vm_writev" if args[0] as i32 == 1 => {}
        // Our own code and stack, most of the time.
        "munmap" | "mprotect" | "mremap" | "brk" | "pkey_mprotect" | "madvise"
        | "remap_file_pages" | "mmap"
            if !rarely =>
        {
            args[0] = arena.scratch(chance);
            if call.name == "mremap" {
                args[4] = arena.scratch(chance);
            }
            if call.name != "mmap" && call.name != "brk" {
                args[1] %= 1 << 19;
            }
            asm::syscall(call.number, args);
        }
        "fork" | "vfork" => child(libc::SYS_fork as u64, [0; 6], chance),
        "clone" => {
            // Without memory or a stack in common: the child makes its own mistakes.
            let shared = (libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_SETTLS) as u64;
            args[0] &= !shared;
            args[1] = 0;
            child(call.number, args, chance);
        }
        "clone3" => {
            // Flags the same way; the rest as it came.
            let flags = args[1] & !(libc::CLONE_VM as u64 | libc::CLONE_VFORK as u64 | 0x80000);
            let block = [flags, args[2], args[3], args[4], 17, 0, 0, 0];
            child(call.number, [block.as_ptr() as u64, 64, 0, 0, 0, 0], chance);
        }
        "set_robust_list" | "set_tid_address" | "arch_prctl" | "sigaltstack" if !rarely => {}
        _ => {
            let result = asm::syscall(call.number, args);
            arena.note(result);
        }
    }
}

/// Makes a child, which ends soon: what is inherited is looked at by the kernel then.
fn child(number: u64, args: [u64; 6], chance: &mut Chance) {
    if asm::syscall(number, args) == 0 {
        for _ in 0..chance.next() % 8 {
            asm::syscall(libc::SYS_sched_yield as u64, [0; 6]);
        }
        asm::syscall(libc::SYS_exit_group as u64, [0; 6]);
    }
}
