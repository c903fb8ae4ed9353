//! Files about the whole machine: `/proc/cpuinfo`, `meminfo`, `stat`, `uptime` and the like
//! (proc(5)).

use std::fmt::Write as _;
use std::sync::Arc;

use abi::Errno;

use super::cpuinfo;
use crate::fs::pseudo::{Node, PseudoFs, StaticDir, StaticLink, StaticText};
use crate::kernel::time::clock_ns;
use crate::kernel::version::{RELEASE, VERSION};
use crate::kernel::{Kernel, Task};

/// Adds the files to procfs's root.
pub(super) fn add(
    root: StaticDir,
    fs: &Arc<PseudoFs>,
    next_ino: &mut impl FnMut() -> u64,
) -> StaticDir {
    type Reader = fn(&Task) -> Result<Vec<u8>, Errno>;
    let computed: [(&str, Reader); 12] = [
        ("cpuinfo", |t| Ok(cpuinfo::text(&t.kernel.host.cpus).into_bytes())),
        ("loadavg", |t| Ok(loadavg(&t.kernel).into_bytes())),
        ("meminfo", |t| Ok(meminfo(&t.kernel).into_bytes())),
        ("stat", |t| Ok(stat(&t.kernel).into_bytes())),
        ("uptime", |t| Ok(uptime(&t.kernel).into_bytes())),
        ("version", |_| Ok(format!("Linux version {RELEASE} (rsentry) {VERSION}\n").into_bytes())),
        ("vmstat", |t| Ok(vmstat(&t.kernel).into_bytes())),
        ("swaps", |_| Ok(b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n".to_vec())),
        ("partitions", |_| Ok(b"major minor  #blocks  name\n\n".to_vec())),
        ("diskstats", |_| Ok(Vec::new())),
        ("modules", |_| Ok(Vec::new())),
        ("locks", |_| Ok(Vec::new())),
    ];
    let fixed = [
        ("cmdline", "\n"),
        (
            "filesystems",
            "nodev\tsysfs\nnodev\ttmpfs\nnodev\tproc\nnodev\tdevtmpfs\nnodev\tdevpts\nnodev\tmqueue\nnodev\toverlay\n",
        ),
        (
            "devices",
            "Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/console\n  5 /dev/ptmx\n136 pts\n\nBlock devices:\n",
        ),
        ("cgroups", "#subsys_name\thierarchy\tnum_cgroups\tenabled\n"),
        ("interrupts", ""),
    ];
    let mut root = root
        .with("mounts", Node::link(fs, next_ino(), 0o777, StaticLink(b"self/mounts".to_vec())))
        .with("net", Node::link(fs, next_ino(), 0o777, StaticLink(b"self/net".to_vec())));
    for (name, read) in computed {
        root = root.with(name, Node::file(fs, next_ino(), 0o444, read));
    }
    for (name, text) in fixed {
        root = root.with(name, Node::file(fs, next_ino(), 0o444, StaticText(text.into())));
    }
    root
}

fn meminfo(kernel: &Kernel) -> String {
    let total = kernel.memory.limit() / 1024;
    let free = total.saturating_sub(kernel.memory.used() / 1024);
    let mut out = String::new();
    let mut line = |name: &str, kib: u64| {
        let _ = writeln!(out, "{:<16}{kib:>8} kB", format!("{name}:"));
    };
    line("MemTotal", total);
    line("MemFree", free);
    line("MemAvailable", free);
    for name in ["Buffers", "Cached", "SwapCached"] {
        line(name, 0);
    }
    line("Active", total - free);
    for name in ["Inactive", "SwapTotal", "SwapFree", "Dirty", "Writeback"] {
        line(name, 0);
    }
    line("AnonPages", total - free);
    for name in ["Mapped", "Shmem", "KReclaimable", "Slab", "SReclaimable", "SUnreclaim"] {
        line(name, 0);
    }
    line("CommitLimit", total);
    line("Committed_AS", total - free);
    line("VmallocTotal", 34_359_738_367);
    line("VmallocUsed", 0);
    line("Hugepagesize", 2048);
    out
}

fn vmstat(kernel: &Kernel) -> String {
    let total = kernel.memory.limit() / 4096;
    let used = kernel.memory.used() / 4096;
    format!("nr_free_pages {}\nnr_anon_pages {used}\n", total.saturating_sub(used))
}

fn uptime(kernel: &Kernel) -> String {
    let up = kernel.host.uptime_ns() / 10_000_000;
    let cpus = kernel.host.cpus.len() as u64;
    let busy: u64 = kernel.tasks.all().iter().map(|t| t.cpu.times().shown().total()).sum();
    let idle = (up * cpus).saturating_sub(busy / 10_000_000);
    format!("{}.{:02} {}.{:02}\n", up / 100, up % 100, idle / 100, idle % 100)
}

fn loadavg(kernel: &Kernel) -> String {
    let tasks = kernel.tasks.all();
    let running = tasks.iter().filter(|t| t.state_char() == 'R').count();
    let last = tasks.iter().map(|t| t.tid()).max().unwrap_or(0);
    // An average over minutes needs somebody who looks every five seconds; an idle sandbox uses no
    // processor time. What runs now is shown instead.
    let load = running.saturating_sub(1);
    format!("{load}.00 {load}.00 {load}.00 {running}/{} {last}\n", tasks.len())
}

fn stat(kernel: &Kernel) -> String {
    let ticks = |ns: u64| ns / 10_000_000;
    let (mut user, mut system) = (0, 0);
    let tasks = kernel.tasks.all();
    for task in &tasks {
        let times = task.cpu.times().shown();
        user += ticks(times.user);
        system += ticks(times.system);
    }
    let cpus = kernel.host.cpus.len() as u64;
    let up = ticks(kernel.host.uptime_ns());
    let idle = (up * cpus).saturating_sub(user + system);
    let mut out = format!("cpu  {user} 0 {system} {idle} 0 0 0 0 0 0\n");
    for cpu in 0..cpus {
        let share = |all: u64| all / cpus;
        let _ = writeln!(
            out,
            "cpu{cpu} {} 0 {} {} 0 0 0 0 0 0",
            share(user),
            share(system),
            share(idle)
        );
    }
    let running = tasks.iter().filter(|t| t.state_char() == 'R').count();
    let now = clock_ns(libc::CLOCK_REALTIME);
    let booted = now.saturating_sub(kernel.host.uptime_ns());
    let _ = write!(
        out,
        "intr 0\nctxt 0\nbtime {}\nprocesses {}\nprocs_running {running}\nprocs_blocked 0\nsoftirq 0\n",
        booted / 1_000_000_000,
        tasks.iter().map(|t| t.tid()).max().unwrap_or(0),
    );
    out
}
