//! What each layer of a jail costs at the start of a process: the least over many processes that do
//! nothing, with one layer more each time.
//!
//!     cargo run --release -p rsentry-lockdown --example layer_costs

use std::time::{Duration, Instant};

use rsentry_lockdown::{
    AllowList, Capabilities, FileAccess, IdMap, Identity, Jail, Labels, Namespaces, Root, spawn,
};

const ROUNDS: usize = 100;

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
    let list = AllowList::of(&[libc::SYS_exit_group, libc::SYS_write]);
    let mut variants = Vec::new();
    let mut namespaces = always;
    for (name, more) in steps {
        namespaces = namespaces | more;
        variants.push((name, jail(namespaces), None));
    }
    variants.push(("seccomp, two calls", jail(namespaces), Some(&list)));
    // In turn, so that what else the machine does hits all alike.
    let mut times = vec![Vec::new(); variants.len()];
    for _ in 0..ROUNDS {
        for ((_, jail, list), times) in variants.iter().zip(&mut times) {
            times.push(once(jail, *list));
        }
    }
    let mut before = 0.0;
    for ((name, ..), times) in variants.iter().zip(&times) {
        // The least: all else is what other processes did meanwhile.
        let least = times.iter().min().copied().unwrap_or_default();
        let now = least.as_secs_f64() * 1e6;
        println!("{name:<58}{:>+7.0} us, {now:.0} in all", now - before);
        before = now;
    }
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
