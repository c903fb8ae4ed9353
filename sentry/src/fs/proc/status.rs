//! `/proc/PID/stat`, `status`, `statm`, `limits` and the small files beside them.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use abi::Errno;

use super::task_dir::may_inspect;
use crate::fs::anon::AnonKind;
use crate::fs::pseudo::{Content, Directory, Link, Listed, Node, PseudoFs, StaticDir, StaticText};
use crate::kernel::{Caps, Task};
use crate::vfs::{FileType, LinkTarget};

type Text = Result<Vec<u8>, Errno>;

/// Clock ticks of `times(2)` units: 10 ms.
fn ticks(ns: u64) -> u64 {
    ns / 10_000_000
}

fn comm_of(task: &Task) -> Vec<u8> {
    let comm = task.comm();
    comm.iter().copied().take_while(|&b| b != 0).collect()
}

/// Which numbers of a process are whose: a directory under `task/` shows its thread's.
pub(super) fn stat(task: &Arc<Task>, reader: &Task) -> Text {
    let group = &task.group;
    let times = group.cpu_times().shown();
    let (tty, tpgid) = match group.pgrp().session.tty() {
        Some(tty) => (tty.rdev(), tty.foreground().unwrap_or(-1)),
        None => (0, -1),
    };
    let mm = task.mm();
    let memory = mm.as_ref().map(|mm| mm.memory_use()).unwrap_or_default();
    let visible = may_inspect(reader, task);
    let exec = mm.as_ref().filter(|_| visible).map(|mm| mm.exec_info()).unwrap_or_default();
    let heap = mm.as_ref().filter(|_| visible).map_or(0, |mm| mm.heap().start);
    let pending = task.signals.lock().pending.set();
    let (ignored, caught) = group.sighand().ignored_and_caught();
    let start = ticks(task.start_time.saturating_sub(task.kernel.host.boot_ns));
    let status = if group.is_zombie() { group.exiting().unwrap_or(0) } else { 0 };
    let mut out = format!("{} (", task.tid()).into_bytes();
    out.extend(comm_of(task));
    let nice = task.nice.load(Ordering::Relaxed);
    out.extend(
        format!(
            ") {} {} {} {} {tty} {tpgid} 4194304 0 0 0 0 {} {} 0 0 {} {nice} {} 0 {start} {} {} {} \
             {} {} {} 0 0 {} {} {} {} 0 0 0 17 0 0 0 0 0 0 {} {} {heap} {} {} {} {} {status}\n",
            task.state_char(),
            group.ppid(),
            group.pgid(),
            group.sid(),
            ticks(times.user),
            ticks(times.system),
            20 + nice,
            group.thread_count(),
            memory.size,
            memory.rss() / 4096,
            group.rlimit(libc::RLIMIT_RSS).soft,
            exec.start_code,
            exec.end_code,
            exec.start_stack,
            pending.0 & 0x7fff_ffff,
            task.blocked().0 & 0x7fff_ffff,
            ignored.0 & 0x7fff_ffff,
            caught.0 & 0x7fff_ffff,
            exec.start_data,
            exec.end_data,
            exec.arg.start,
            exec.arg.end,
            exec.env.start,
            exec.env.end,
        )
        .into_bytes(),
    );
    Ok(out)
}

pub(super) fn statm(task: &Arc<Task>, _: &Task) -> Text {
    let m = task.mm().map(|mm| mm.memory_use()).unwrap_or_default();
    let shared = m.rss_file + m.rss_shmem;
    let pages =
        [m.size, m.rss(), shared, m.exe, 0, m.data + m.stack, 0].map(|n| (n / 4096).to_string());
    Ok(format!("{}\n", pages.join(" ")).into_bytes())
}

pub(super) fn status(task: &Arc<Task>, _: &Task) -> Text {
    let group = &task.group;
    let cred = task.cred();
    let pending = task.signals.lock().pending.set();
    let shared = task.group.signals.lock().shared.set();
    let (ignored, caught) = group.sighand().ignored_and_caught();
    let state = match task.state_char() {
        'R' => "R (running)",
        'S' => "S (sleeping)",
        'D' => "D (disk sleep)",
        'T' => "T (stopped)",
        't' => "t (tracing stop)",
        'Z' => "Z (zombie)",
        _ => "X (dead)",
    };
    let mut out = b"Name:\t".to_vec();
    for byte in comm_of(task) {
        match byte {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\\' => out.extend_from_slice(b"\\\\"),
            _ => out.push(byte),
        }
    }
    let mut text = String::new();
    let groups = cred.groups.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    let (pid, tgid) = (task.tid(), group.tgid);
    let _ = write!(
        text,
        "\nUmask:\t{:04o}\nState:\t{state}\nTgid:\t{tgid}\nNgid:\t0\nPid:\t{pid}\nPPid:\t{}\n\
         TracerPid:\t0\nUid:\t{}\t{}\t{}\t{}\nGid:\t{}\t{}\t{}\t{}\nFDSize:\t{}\nGroups:\t{groups} \n\
         NStgid:\t{tgid}\nNSpid:\t{pid}\nNSpgid:\t{}\nNSsid:\t{}\nKthread:\t0\n",
        task.fs().umask(),
        group.ppid(),
        cred.uid,
        cred.euid,
        cred.suid,
        cred.fsuid,
        cred.gid,
        cred.egid,
        cred.sgid,
        cred.fsgid,
        task.files().map_or(0, |f| f.capacity()),
        group.pgid(),
        group.sid(),
    );
    if let Some(mm) = task.mm() {
        let m = mm.memory_use();
        let fields = [
            ("VmPeak", m.peak),
            ("VmSize", m.size),
            ("VmLck", m.locked),
            ("VmPin", 0),
            ("VmHWM", m.rss_peak),
            ("VmRSS", m.rss()),
            ("RssAnon", m.rss_anon),
            ("RssFile", m.rss_file),
            ("RssShmem", m.rss_shmem),
            ("VmData", m.data),
            ("VmStk", m.stack),
            ("VmExe", m.exe),
            ("VmLib", m.lib),
            ("VmPTE", 0),
            ("VmSwap", 0),
        ];
        for (name, bytes) in fields {
            let _ = writeln!(text, "{name}:\t{:>8} kB", bytes / 1024);
        }
    }
    let cpus = task.sched.lock().affinity;
    let mask = cpus.0[0];
    let list: Vec<_> = (0..64).filter(|c| mask >> c & 1 == 1).map(|c| c.to_string()).collect();
    let _ = write!(
        text,
        "CoreDumping:\t0\nTHP_enabled:\t0\nThreads:\t{}\nSigQ:\t{}/{}\nSigPnd:\t{:016x}\n\
         ShdPnd:\t{:016x}\nSigBlk:\t{:016x}\nSigIgn:\t{:016x}\nSigCgt:\t{:016x}\nCapInh:\t{:016x}\n\
         CapPrm:\t{:016x}\nCapEff:\t{:016x}\nCapBnd:\t{:016x}\nCapAmb:\t{:016x}\nNoNewPrivs:\t{}\n\
         Seccomp:\t{}\nSeccomp_filters:\t{}\nCpus_allowed:\t{mask:x}\nCpus_allowed_list:\t{}\n\
         Mems_allowed:\t1\nMems_allowed_list:\t0\nvoluntary_ctxt_switches:\t0\n\
         nonvoluntary_ctxt_switches:\t0\n",
        group.thread_count(),
        task.user().pending(),
        group.rlimit(libc::RLIMIT_SIGPENDING).soft,
        pending.0,
        shared.0,
        task.blocked().0,
        ignored.0,
        caught.0,
        cred.inheritable.bits(),
        cred.permitted.bits(),
        cred.effective.bits(),
        cred.bounding.bits(),
        cred.ambient.bits(),
        u8::from(cred.no_new_privs),
        task.seccomp.mode() as u8,
        task.seccomp.count(),
        list.join(","),
    );
    out.extend(text.into_bytes());
    Ok(out)
}

pub(super) fn limits(task: &Arc<Task>, _: &Task) -> Text {
    const ROWS: [(u32, &str, &str); 16] = [
        (libc::RLIMIT_CPU, "Max cpu time", "seconds"),
        (libc::RLIMIT_FSIZE, "Max file size", "bytes"),
        (libc::RLIMIT_DATA, "Max data size", "bytes"),
        (libc::RLIMIT_STACK, "Max stack size", "bytes"),
        (libc::RLIMIT_CORE, "Max core file size", "bytes"),
        (libc::RLIMIT_RSS, "Max resident set", "bytes"),
        (libc::RLIMIT_NPROC, "Max processes", "processes"),
        (libc::RLIMIT_NOFILE, "Max open files", "files"),
        (libc::RLIMIT_MEMLOCK, "Max locked memory", "bytes"),
        (libc::RLIMIT_AS, "Max address space", "bytes"),
        (libc::RLIMIT_LOCKS, "Max file locks", "locks"),
        (libc::RLIMIT_SIGPENDING, "Max pending signals", "signals"),
        (libc::RLIMIT_MSGQUEUE, "Max msgqueue size", "bytes"),
        (libc::RLIMIT_NICE, "Max nice priority", ""),
        (libc::RLIMIT_RTPRIO, "Max realtime priority", ""),
        (libc::RLIMIT_RTTIME, "Max realtime timeout", "us"),
    ];
    let show = |v: u64| if v == u64::MAX { "unlimited".into() } else { v.to_string() };
    let mut out =
        format!("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    for (resource, name, unit) in ROWS {
        let limit = task.group.rlimit(resource);
        let _ = writeln!(
            out,
            "{name:<25} {:<20} {:<20} {unit:<10}",
            show(limit.soft),
            show(limit.hard)
        );
    }
    Ok(out.into_bytes())
}

pub(super) fn cgroup(_: &Arc<Task>, _: &Task) -> Text {
    Ok(b"0::/\n".to_vec())
}

pub(super) fn id_map(_: &Arc<Task>, _: &Task) -> Text {
    Ok(format!("{:>10} {:>10} {:>10}\n", 0, 0, u32::MAX).into_bytes())
}

pub(super) fn setgroups(_: &Arc<Task>, _: &Task) -> Text {
    Ok(b"allow\n".to_vec())
}

pub(super) fn loginuid(_: &Arc<Task>, _: &Task) -> Text {
    Ok(u32::MAX.to_string().into_bytes())
}

pub(super) fn oom_score(_: &Arc<Task>, _: &Task) -> Text {
    Ok(b"0\n".to_vec())
}

pub(super) fn wchan(_: &Arc<Task>, _: &Task) -> Text {
    Ok(b"0".to_vec())
}

pub(super) fn personality(task: &Arc<Task>, _: &Task) -> Text {
    Ok(format!("{:08x}\n", task.personality.load(Ordering::Relaxed)).into_bytes())
}

/// `/proc/PID/comm`
pub(super) struct Comm(pub(super) Weak<Task>);

impl Content for Comm {
    fn read(&self, _: &Task) -> Text {
        let mut text = comm_of(&*self.0.upgrade().ok_or(Errno::ESRCH)?);
        text.push(b'\n');
        Ok(text)
    }

    fn write(&self, writer: &Task, data: &[u8]) -> Result<(), Errno> {
        let task = self.0.upgrade().ok_or(Errno::ESRCH)?;
        if task.group.tgid != writer.group.tgid {
            return Err(Errno::EINVAL);
        }
        task.set_comm(data.strip_suffix(b"\n").unwrap_or(data));
        Ok(())
    }
}

/// `/proc/PID/oom_score_adj`
pub(super) struct OomScoreAdj(pub(super) Weak<Task>);

impl Content for OomScoreAdj {
    fn read(&self, _: &Task) -> Text {
        let task = self.0.upgrade().ok_or(Errno::ESRCH)?;
        Ok(format!("{}\n", task.group.oom_score_adj.load(Ordering::Relaxed)).into_bytes())
    }

    fn write(&self, writer: &Task, data: &[u8]) -> Result<(), Errno> {
        let task = self.0.upgrade().ok_or(Errno::ESRCH)?;
        let text = std::str::from_utf8(data).map_err(|_| Errno::EINVAL)?.trim();
        let value: i32 = text.parse().map_err(|_| Errno::EINVAL)?;
        if !(-1000..=1000).contains(&value) {
            return Err(Errno::EINVAL);
        }
        if value < task.group.oom_score_adj.load(Ordering::Relaxed)
            && !writer.cred().capable(Caps::SYS_RESOURCE)
        {
            return Err(Errno::EACCES);
        }
        task.group.oom_score_adj.store(value, Ordering::Relaxed);
        Ok(())
    }
}

/// `/proc/PID/net`: a machine with a loopback interface that nobody has used.
pub(super) fn net_dir(fs: &Arc<PseudoFs>, ino: u64) -> StaticDir {
    const HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
    let dev = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0\n";
    let fixed = [
        ("dev", dev),
        (
            "route",
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n",
        ),
        ("tcp", HEAD),
        ("udp", HEAD),
    ];
    fixed.iter().zip(1..).fold(StaticDir::default(), |dir, ((name, text), i)| {
        dir.with(name, Node::file(fs, ino + i, 0o444, StaticText((*text).into())))
    })
}

/// `/proc/PID/ns`: every task is in the first namespaces.
pub(super) struct Namespaces {
    pub(super) task: Weak<Task>,
    pub(super) ino: u64,
}

/// Names and the numbers of Linux's first namespaces (`include/linux/proc_ns.h`).
const NAMESPACES: [(&str, &str); 9] = [
    ("cgroup", "cgroup:[4026531835]"),
    ("ipc", "ipc:[4026531839]"),
    ("mnt", "mnt:[4026531841]"),
    ("net", "net:[4026531840]"),
    ("pid", "pid:[4026531836]"),
    ("pid_for_children", "pid:[4026531836]"),
    ("time", "time:[4026531834]"),
    ("user", "user:[4026531837]"),
    ("uts", "uts:[4026531838]"),
];

impl Directory for Namespaces {
    fn lookup(&self, fs: &Arc<PseudoFs>, name: &[u8]) -> Result<Arc<Node>, Errno> {
        let index = NAMESPACES.iter().position(|n| n.0.as_bytes() == name).ok_or(Errno::ENOENT)?;
        let task = self.task.upgrade().ok_or(Errno::ESRCH)?;
        let link = NamespaceLink(NAMESPACES[index].1);
        Ok(Arc::new(Node::link(fs, self.ino + 1 + index as u64, 0o777, link).owned_by(&task)))
    }

    fn list(&self) -> Vec<Listed> {
        let numbered = NAMESPACES.iter().zip(self.ino + 1..);
        let entry = |((name, _), ino): (&(&str, _), u64)| Listed {
            name: name.as_bytes().to_vec(),
            ino,
            kind: FileType::Symlink,
        };
        numbered.map(entry).collect()
    }
}

struct NamespaceLink(&'static str);

impl Link for NamespaceLink {
    fn target(&self, task: &Task) -> Result<LinkTarget, Errno> {
        let path = crate::fs::anon::new_path(AnonKind::Namespace(self.0), &task.cred());
        Ok(LinkTarget::Jump(path))
    }
}
