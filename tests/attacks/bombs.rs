//! Processes and threads that multiply, die or spin without end. The bystander must go on getting
//! its turns meanwhile, and one `kill` must end it all.

use super::share::{Chance, PATIENCE, doze, now};
use super::supervisor::{Attack, Attacker, Ends};

pub const ATTACKS: &[Attack] = &[
    Attack::once("fork_bomb", Ends::Well, fork_bomb),
    Attack::once("vfork_and_exec_bomb", Ends::Well, exec_bomb),
    Attack::once("thread_bomb", Ends::Well, thread_bomb),
    Attack::once("thread_bomb_that_execs", Ends::Well, thread_bomb_that_execs),
    Attack::once("zombies", Ends::Well, zombies),
    Attack::once("orphans", Ends::Well, orphans),
    Attack { limit: 2000, ..Attack::once("spin_on_all_threads", Ends::Killed, spin) },
    Attack::once("signal_storm", Ends::Well, signal_storm),
];

/// How many tasks the bombs may have: as many as a machine that others use can bear.
const TASKS: u64 = 120;
/// How long a bomb rages, in milliseconds.
const RAGE: u64 = 700;

fn limit_tasks() {
    let limit = libc::rlimit { rlim_cur: TASKS, rlim_max: TASKS };
    // SAFETY: reads the limit.
    unsafe { libc::setrlimit(libc::RLIMIT_NPROC, &limit) };
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Waits while the bomb rages; the bystander has to answer meanwhile. What still runs afterwards is
/// the supervisor's to kill, with one call.
fn rage(attacker: &Attacker) {
    let before = attacker.share.pongs();
    let start = now();
    while now() - start < RAGE || attacker.share.pongs().wrapping_sub(before) < 3 {
        if now() - start > PATIENCE {
            attacker.share.fail("the bystander gets no turn");
            return;
        }
        doze(10);
    }
}

/// Each process forks for as long as it can.
fn fork_bomb(attacker: &Attacker, _: u64) {
    limit_tasks();
    // SAFETY: the child only forks.
    unsafe {
        match libc::fork() {
            0 => loop {
                if libc::fork() < 0 {
                    if errno() != libc::EAGAIN {
                        attacker.share.fail(&format!("fork: errno {}", errno()));
                    }
                    libc::sched_yield();
                }
            },
            -1 => attacker.share.fail("fork"),
            _ => rage(attacker),
        }
    }
}

/// The same with programs, whose pages, files and names come and go.
fn exec_bomb(attacker: &Attacker, _: u64) {
    limit_tasks();
    let script = "b() { /bin/true & b; b; }; b; b";
    let start = |null: std::fs::File| {
        let mut shell = std::process::Command::new("/bin/sh");
        shell.args(["-c", script]).stderr(null).spawn()
    };
    match std::fs::File::options().write(true).open("/dev/null").and_then(start) {
        Ok(_) => rage(attacker),
        Err(error) => attacker.share.fail(&format!("sh: {error}")),
    }
}

/// Threads that make threads. The process ends, with all of them being born.
fn thread_bomb(attacker: &Attacker, _: u64) {
    fn multiply() {
        loop {
            let builder = std::thread::Builder::new().stack_size(64 << 10);
            if builder.spawn(multiply).is_err() {
                std::thread::yield_now();
            }
        }
    }
    limit_tasks();
    std::thread::spawn(multiply);
    rage(attacker);
}

/// The same, and one of them calls exec in the middle of it, which ends all others.
fn thread_bomb_that_execs(attacker: &Attacker, _: u64) {
    for _ in 0..5 {
        // SAFETY: the child uses what a process with one thread may use.
        let child = unsafe { libc::fork() };
        if child == 0 {
            thread_bomb_then(|| {
                let words = [c"/bin/true".as_ptr(), std::ptr::null()];
                // SAFETY: strings that end, in a list that ends.
                unsafe { libc::execv(words[0], words.as_ptr()) };
                attacker.share.fail(&format!("exec: errno {}", errno()));
            });
        }
        let mut status = 0;
        // SAFETY: writes the status.
        if unsafe { libc::waitpid(child, &mut status, 0) } != child || status != 0 {
            attacker.share.fail(&format!("exec amid births: {child}, status {status:#x}"));
        }
    }
}

fn thread_bomb_then(end: impl FnOnce()) {
    fn multiply() {
        while std::thread::Builder::new().stack_size(64 << 10).spawn(multiply).is_ok() {}
        loop {
            std::thread::park();
        }
    }
    limit_tasks();
    std::thread::spawn(multiply);
    doze(20);
    end();
}

/// Children that nobody waits for, until there may be no more; each still has its number.
fn zombies(attacker: &Attacker, _: u64) {
    limit_tasks();
    let mut made = 0;
    // SAFETY: the children end at once.
    unsafe {
        loop {
            match libc::fork() {
                0 => libc::_exit(7),
                -1 => break,
                _ => made += 1,
            }
            if made > 10 * TASKS {
                return attacker.share.fail("zombies are not counted");
            }
        }
        if errno() != libc::EAGAIN || made != TASKS - 1 {
            attacker.share.fail(&format!("{made} zombies, then errno {}", errno()));
        }
        // Half of them are waited for, and make room for as many.
        for _ in 0..made / 2 {
            let mut status = 0;
            if libc::waitpid(-1, &mut status, 0) <= 0 || libc::WEXITSTATUS(status) != 7 {
                attacker.share.fail(&format!("a zombie says {status:#x}"));
            }
        }
        match libc::fork() {
            0 => libc::_exit(7),
            -1 => attacker.share.fail("reaping makes no room"),
            _ => {}
        }
    }
}

/// Generations of processes whose parents do not wait.
fn orphans(attacker: &Attacker, _: u64) {
    limit_tasks();
    let start = now();
    // SAFETY: the descendants fork and end, nothing else.
    unsafe {
        while now() - start < RAGE {
            if libc::fork() == 0 {
                libc::fork();
                libc::fork();
                libc::_exit(0);
            }
            while libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) > 0 {}
        }
    }
    rage(attacker);
}

/// More threads than CPUs, all busy, one of them with system calls; until killed.
fn spin(attacker: &Attacker, _: u64) {
    for _ in 0..12 {
        std::thread::spawn(|| {
            loop {
                std::hint::spin_loop();
            }
        });
    }
    std::thread::spawn(|| {
        loop {
            // SAFETY: no arguments.
            unsafe { libc::getppid() };
        }
    });
    rage(attacker);
    attacker.share.ready.store(1, std::sync::atomic::Ordering::Relaxed);
    loop {
        std::hint::spin_loop();
    }
}

/// Processes that stop, continue and interrupt each other at random.
fn signal_storm(attacker: &Attacker, _: u64) {
    const MANY: usize = 16;
    let pids: &[std::sync::atomic::AtomicU64] = &attacker.share.cells;
    let order = std::sync::atomic::Ordering::Relaxed;
    let victim = pids[0].load(order);
    let mut children = Vec::new();
    for number in 1..MANY {
        // SAFETY: the child makes plain calls only.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: ignored signals need no handler.
            unsafe {
                libc::signal(libc::SIGUSR1, libc::SIG_IGN);
                libc::signal(libc::SIGRTMIN(), libc::SIG_IGN);
            }
            let mut chance = Chance(0x9e37_79b9 + number as u64);
            loop {
                let draw = chance.next();
                let pid = pids[1 + (draw as usize >> 8) % (MANY - 1)].load(order) as i32;
                let signals =
                    [libc::SIGSTOP, libc::SIGCONT, libc::SIGCONT, libc::SIGUSR1, libc::SIGRTMIN()];
                if pid > 0 {
                    // SAFETY: a plain call.
                    unsafe { libc::kill(pid, signals[draw as usize % signals.len()]) };
                }
                // Nobody may signal the bystander, stopped or not.
                // SAFETY: a plain call.
                if unsafe { libc::kill(victim as i32, libc::SIGSTOP) } == 0 {
                    attacker.share.fail("the bystander can be signalled");
                }
            }
        }
        pids[number].store(child as u64, order);
        children.push(child);
    }
    rage(attacker);
    // SAFETY: our children, of whom none is waited for yet.
    unsafe {
        for &child in &children {
            libc::kill(child, libc::SIGKILL);
        }
        for &child in &children {
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
    }
}
