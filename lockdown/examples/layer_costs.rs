//! What each layer of a jail costs at the start of a process: the least over many processes that do
//! nothing, with one layer more each time.
//!
//!     cargo run --release -p rsentry-lockdown --example layer_costs

use std::time::{Duration, Instant};

use rsentry_lockdown::{
    AllowList, Capabilities, FileAccess, IdMap, Identity, Jail, Labels, Namespaces, Root, confine,
    spawn,
};

const ROUNDS: usize = 100;

/// Makes a process and ends it.
type Variant = Box<dyn Fn() -> Duration>;

fn main() {
    // A jail always has these: an empty root, no capabilities, Landlock where the host has it.
    let always = Namespaces::USER | Namespaces::MOUNT;
    let steps = [
        ("user and mount namespace, root, capabilities, Landlock", always),
        ("pid namespace", Namespaces::PID),
        ("network namespace", Namespaces::NET),
        ("IPC namespace", Namespaces::IPC),
        ("UTS namespace", Namespaces::UTS),
        ("cgroup namespace", Namespaces::CGROUP),
        ("time namespace", Namespaces::TIME),
    ];
    let mut variants: Vec<(&str, Variant)> =
        vec![("a process (fork, exit, wait)", Box::new(|| forked(|| true)))];
    let mut namespaces = always;
    for (name, more) in steps {
        namespaces = namespaces | more;
        let jail = jail(namespaces);
        variants.push((name, Box::new(move || once(&jail, None))));
    }
    // As many calls as a Sentry's list has, with what a process needs to end.
    let calls: Vec<i64> = (0..63).chain([libc::SYS_exit_group]).collect();
    let list = AllowList::of(&calls);
    let (full, sealed) = (jail(namespaces), list.clone());
    variants.push(("seccomp, 64 calls", Box::new(move || once(&full, Some(&sealed)))));
    // Not on top of the ones before: the launcher stays where it is.
    let own = move || forked(|| confine(Capabilities::NONE, &list).is_ok());
    let launcher = variants.len();
    variants.push(("the launcher's own: capabilities, seccomp", Box::new(own)));
    // In turn, so that what else the machine does hits all alike.
    let mut times = vec![Vec::new(); variants.len()];
    for _ in 0..ROUNDS {
        for ((_, run), times) in variants.iter().zip(&mut times) {
            times.push(run());
        }
    }
    let (mut first, mut before) = (None, 0.0);
    for (at, ((name, _), times)) in variants.iter().zip(&times).enumerate() {
        // The least: all else is what other processes did meanwhile.
        let least = times.iter().min().copied().unwrap_or_default();
        let now = least.as_secs_f64() * 1e6;
        let base = if at == launcher { first.unwrap_or(0.0) } else { before };
        println!("{name:<58}{:>+7.0} us, {now:.0} in all", now - base);
        first.get_or_insert(now);
        before = now;
    }
}

/// A fork of this process, which does that and ends.
fn forked(body: impl FnOnce() -> bool) -> Duration {
    let start = Instant::now();
    // SAFETY: this process has one thread; the child ends without running its destructors.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let code = i32::from(!body());
        // SAFETY: always sound.
        unsafe { libc::_exit(code) };
    }
    let mut status = -1;
    // SAFETY: `status` is valid for writes.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child, "it is ours");
    let time = start.elapsed();
    assert_eq!(status, 0, "it did what it should");
    time
}

fn jail(namespaces: Namespaces) -> Jail {
    Jail {
        name: "nothing",
        cgroup: None,
        oom_score: 0,
        namespaces,
        identity: Identity {
            uids: IdMap::Identity,
            gids: IdMap::Identity,
            become_ids: None,
            drop_groups: false,
        },
        root: Root::Empty,
        rlimits: Vec::new(),
        capabilities: Capabilities::NONE,
        labels: Labels::default(),
        files: FileAccess::None,
    }
}

fn once(jail: &Jail, list: Option<&AllowList>) -> Duration {
    let start = Instant::now();
    // SAFETY: this process has one thread.
    let child = unsafe {
        spawn(jail, &[], |sealer| match list.map(|list| sealer.seal(list)) {
            Some(Err(_)) => 1,
            _ => 0,
        })
    }
    .expect("a process");
    let exit = child.wait().expect("it is ours");
    let time = start.elapsed();
    assert_eq!(exit, rsentry_lockdown::Exit::Code(0), "{:?}", child.failure());
    time
}
