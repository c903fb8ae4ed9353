//! Births and deaths of stubs, and what they hold.

use super::*;

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
    eventually("the stub's end is seen", || guest.thread.run(&mut guest.regs).is_err());
    assert!(matches!(guest.thread.run(&mut guest.regs), Err(Error::StubGone)));
    assert!(guest.thread.xstate().is_err());
    space.space.unmap(CODE, PAGE_SIZE, None);
    space.space.sync();
    assert!(space.space.clone().new_thread().is_err());
    drop((guest, space));
    assert!(!children(&world).contains(&stub));
}

fn nothing_is_left_behind() {
    let world = World::new();
    for _ in 0..200 {
        let space = world.space(getpid_loop());
        let mut guest = space.thread();
        guest.syscall();
    }
    // The template, two blank ones, and one that is just being made.
    eventually("the others are gone", || children(&world).len() <= 4);
    let session = template(&world);
    let World { file, platform, .. } = world;
    drop(platform);
    assert_eq!(in_session(session), []);
    assert_eq!(file.used(), 0);
}

const DOOMED: &str = "RSENTRY_TEST_DOOMED";

/// Not a test by itself: the process that [`stubs_die_with_the_sentry`] kills.
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

fn stubs_die_with_the_sentry() {
    use std::io::BufRead as _;
    let doomed = format!("tests::lives::{}::doomed_sentry", KIND.get().name());
    let mut sentry = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &doomed, "--nocapture"])
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
    // Whoever adopts them may take its time to reap them; they must be dead.
    let alive = |pid: &sys::Tid| {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z"))
    };
    eventually("stubs die with their Sentry", || !in_session(session).iter().any(alive));
}

fn a_crowd_of_threads_goes_and_the_others_stay() {
    let world = World::new();
    let space = world.space(getpid_loop());
    let mut stays = space.thread();
    stays.syscall();
    for _ in 0..2 {
        let mut crowd: Vec<Guest> = (0..150).map(|_| space.thread()).collect();
        crowd.iter_mut().for_each(|guest| assert_eq!(guest.syscall(), 39));
        drop(crowd);
        assert_eq!(stays.syscall(), 39);
    }
}

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
        // A birth that is under way has its listener there for a moment.
        let descriptors = || std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        eventually("a stub has three descriptors", || descriptors() == 3);
    }
}

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
                    let seen = || word(data, (i * PAGE_SIZE) as usize);
                    let before = seen();
                    std::thread::scope(|scope| {
                        scope.spawn(|| {
                            // Kicks end a run that has begun.
                            while seen() == before {
                                std::thread::sleep(Duration::from_millis(1));
                            }
                            std::thread::sleep(Duration::from_millis(35));
                            kicker.kick();
                        });
                        assert_eq!(guest.run(), Trap::Kicked);
                    });
                }
            });
        }
    });
}

/// Everything at once for a moment: births, deaths, kicks and syncs across threads, and stubs that
/// are killed from outside.
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
    eventually("stubs are made again", well);
    let World { file, platform, .. } = world;
    drop(platform);
    // A stub that was killed while a thread was being made is reaped a moment later.
    eventually("no stub is left", || in_session(session).is_empty());
    assert_eq!(file.used(), 0);
}

/// A page is used again while whoever had it may still wait on it: the wake-up must reach the new
/// owner all the same.
fn a_stranger_in_the_queue_does_not_take_a_wake_up() {
    let world = World::new();
    let pages: Vec<Frames> = (0..8).map(|_| world.file.allocate(PAGE_SIZE).unwrap()).collect();
    // They stay mapped when they are somebody else's.
    let words: Vec<usize> = pages.iter().map(|page| page.ptr() as usize).collect();
    let (waits, waiting) = std::sync::mpsc::channel();
    let woken = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for &word in &words {
            let (waits, woken) = (waits.clone(), &woken);
            // SAFETY: plain system calls on an address that stays mapped as long as the world.
            scope.spawn(move || unsafe {
                waits.send(libc::gettid()).unwrap();
                libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAIT, 0, 0);
                woken.fetch_add(1, Ordering::Relaxed);
            });
        }
        for tid in waiting.iter().take(words.len()) {
            let stat = || std::fs::read_to_string(format!("/proc/self/task/{tid}/stat")).unwrap();
            eventually("a stranger waits", || stat().contains(") S "));
        }
        drop(pages);
        // A blank process whose cloner is not woken is given up after five seconds.
        let (start, lag) = (Instant::now(), Lag::watch());
        let spaces: Vec<Space> = (0..4).map(|_| world.space(getpid_loop())).collect();
        spaces.iter().for_each(|space| drop(space.thread()));
        let took = start.elapsed();
        let lag = lag.total();
        // For those whose page nobody used that way.
        eventually("the strangers have left", || {
            for &word in &words {
                // SAFETY: as above.
                unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAKE, i32::MAX) };
            }
            woken.load(Ordering::Relaxed) as usize == words.len()
        });
        assert!(took < Duration::from_secs(4) + lag, "a wake-up was lost ({lag:?} late)");
    });
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

on_every_platform!(
    a_killed_stub_is_noticed_everywhere,
    nothing_is_left_behind,
    doomed_sentry,
    stubs_die_with_the_sentry,
    a_crowd_of_threads_goes_and_the_others_stay,
    stubs_hold_nothing_of_the_sentrys,
    long_runs_and_many_threads_are_balanced,
    a_storm_leaves_nothing_behind,
    a_stranger_in_the_queue_does_not_take_a_wake_up,
    the_sentrys_thread_stays_pinned_over_an_execve,
);
