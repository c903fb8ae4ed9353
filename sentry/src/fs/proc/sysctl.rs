//! `/proc/sys`: the settings that programs look at (proc_sys(5)).

use std::sync::Arc;

use abi::Errno;

use super::ipc;
use crate::fs::epoll::MAX_USER_WATCHES;
use crate::fs::pseudo::{Content, Node, PseudoFs, StaticDir, StaticText};
use crate::kernel::seccomp::Action;
use crate::kernel::task_table::PID_MAX;
use crate::kernel::version::{RELEASE, VERSION};
use crate::kernel::{Caps, Task};
use crate::mm::random_bytes;
use crate::vfs::open_file_limit;

/// Builds the tree.
pub(super) fn dir(fs: &Arc<PseudoFs>, next_ino: &mut impl FnMut() -> u64) -> StaticDir {
    let mut fixed = |files: &[(&str, String)]| {
        files.iter().fold(StaticDir::default(), |dir, (name, value)| {
            let text = StaticText(format!("{value}\n").into_bytes());
            dir.with(name, Node::file(fs, next_ino(), 0o444, text))
        })
    };
    let boot_id = uuid();
    let kernel = fixed(&[
        ("cap_last_cap", "40".into()),
        ("core_pattern", "core".into()),
        ("core_uses_pid", "0".into()),
        ("keys", String::new()),
        ("ngroups_max", "65536".into()),
        ("osrelease", RELEASE.into()),
        ("ostype", "Linux".into()),
        ("overflowgid", "65534".into()),
        ("overflowuid", "65534".into()),
        ("perf_event_paranoid", "4".into()),
        ("pid_max", PID_MAX.to_string()),
        ("randomize_va_space", "2".into()),
        ("tainted", "0".into()),
        ("unprivileged_bpf_disabled", "2".into()),
        ("version", VERSION.into()),
    ]);
    let random =
        fixed(&[("boot_id", boot_id), ("entropy_avail", "256".into()), ("poolsize", "256".into())]);
    let vm = fixed(&[
        ("max_map_count", crate::mm::MAX_MAP_COUNT.to_string()),
        ("mmap_min_addr", crate::mm::MMAP_MIN_ADDR.to_string()),
        ("nr_hugepages", "0".into()),
        ("overcommit_memory", "1".into()),
        ("overcommit_ratio", "50".into()),
        ("swappiness", "60".into()),
    ]);
    let fs_files = fixed(&[
        ("nr_open", "1048576".into()),
        ("pipe-max-size", "1048576".into()),
        ("pipe-user-pages-soft", "16384".into()),
        ("pipe-user-pages-hard", "0".into()),
        ("protected_hardlinks", "0".into()),
        ("protected_symlinks", "0".into()),
    ]);
    let epoll = fixed(&[("max_user_watches", MAX_USER_WATCHES.to_string())]);
    let core = fixed(&[
        ("somaxconn", "4096".into()),
        ("rmem_default", "212992".into()),
        ("rmem_max", "212992".into()),
        ("wmem_default", "212992".into()),
        ("wmem_max", "212992".into()),
    ]);
    let unix = fixed(&[("max_dgram_qlen", "512".into())]);
    let uuid_file: fn(&Task) -> Result<Vec<u8>, Errno> =
        |_| Ok(format!("{}\n", uuid()).into_bytes());
    let threads: fn(&Task) -> Result<Vec<u8>, Errno> =
        |task| Ok(format!("{}\n", task.kernel.tasks.limit()).into_bytes());
    let threads = Node::file(fs, next_ino(), 0o444, threads);
    let file_max: fn(&Task) -> Result<Vec<u8>, Errno> =
        |_| Ok(format!("{}\n", open_file_limit()).into_bytes());
    let file_max = Node::file(fs, next_ino(), 0o444, file_max);
    let uuid_node = Node::file(fs, next_ino(), 0o444, uuid_file);
    let mqueue = ipc::mqueue(fs, next_ino);
    let mut dir = |content| Node::dir(fs, next_ino(), 0o555, content);
    let random = dir(random.with("uuid", uuid_node));
    let epoll = dir(epoll);
    let core = dir(core);
    let unix = dir(unix);
    let net = dir(StaticDir::default().with("core", core).with("unix", unix));
    let vm = dir(vm);
    let fs_dir =
        dir(fs_files.with("epoll", epoll).with("file-max", file_max).with("mqueue", mqueue));
    let avail = Action::NAMES.map(|(_, name)| name).join(" ");
    let avail = Node::file(fs, next_ino(), 0o444, StaticText(format!("{avail}\n").into_bytes()));
    let logged = Node::file(fs, next_ino(), 0o644, ActionsLogged);
    let seccomp = StaticDir::default().with("actions_avail", avail).with("actions_logged", logged);
    let seccomp = Node::dir(fs, next_ino(), 0o555, seccomp);
    let hostname = Node::file(fs, next_ino(), 0o644, Name { domain: false });
    let domainname = Node::file(fs, next_ino(), 0o644, Name { domain: true });
    let kernel = kernel.with("hostname", hostname).with("domainname", domainname);
    let kernel =
        kernel.with("random", random).with("seccomp", seccomp).with("threads-max", threads);
    let kernel = ipc::settings(kernel, fs, next_ino);
    let kernel = Node::dir(fs, next_ino(), 0o555, kernel);
    StaticDir::default().with("kernel", kernel).with("vm", vm).with("fs", fs_dir).with("net", net)
}

/// A random (version 4) UUID.
fn uuid() -> String {
    let mut b = [0u8; 16];
    random_bytes(&mut b);
    b[6] = b[6] & 0x0f | 0x40;
    b[8] = b[8] & 0x3f | 0x80;
    let hex: String = b.iter().map(|x| format!("{x:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// `kernel/seccomp/actions_logged`
struct ActionsLogged;

impl Content for ActionsLogged {
    fn read(&self, task: &Task) -> Result<Vec<u8>, Errno> {
        Ok(format!("{}\n", task.kernel.seccomp_logged.names()).into_bytes())
    }

    fn write(&self, task: &Task, data: &[u8]) -> Result<(), Errno> {
        if !task.cred().capable(Caps::SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        let names = std::str::from_utf8(data).map_err(|_| Errno::EINVAL)?;
        task.kernel.seccomp_logged.set(names)
    }
}

/// `kernel/hostname` and `kernel/domainname`.
struct Name {
    domain: bool,
}

impl Content for Name {
    fn read(&self, task: &Task) -> Result<Vec<u8>, Errno> {
        let uts = task.kernel.uts.lock();
        let mut name = if self.domain { uts.domainname.clone() } else { uts.nodename.clone() };
        name.push(b'\n');
        Ok(name)
    }

    fn write(&self, task: &Task, data: &[u8]) -> Result<(), Errno> {
        if !task.cred().capable(Caps::SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        let end = data.iter().position(|b| b"\n\0".contains(b)).unwrap_or(data.len()).min(64);
        let mut uts = task.kernel.uts.lock();
        let name = if self.domain { &mut uts.domainname } else { &mut uts.nodename };
        *name = data[..end].to_vec();
        Ok(())
    }
}
