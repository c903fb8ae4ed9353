//! Which calls are worth a record, and when.

/// Calls up to this number are looked at.
const LIMIT: usize = 512;

/// How the audit looks at a call. What is in none of the classes is recorded only if it fails with
/// `EPERM` or `EACCES`, does not exist, or hits a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// None of the others.
    Plain,
    /// execve: path, then argument vector, at these places.
    Exec { path: u8 },
    /// Changes ids or capabilities.
    Credentials,
    /// prctl: does so with some options.
    Prctl,
    /// connect
    Connect,
    /// sendto: if it has an address.
    SendTo,
    /// bind
    Bind,
    /// Mounts something: a record of its own if it works, an escape if not.
    Mount,
    /// An escape of this kind, whatever comes of it.
    Escape(&'static str),
    /// An escape of this kind, if it fails for want of rights or does not exist.
    EscapeIfRefused(&'static str),
    /// An escape, if the flags in this argument ask for namespaces.
    Namespaces { flags: u8 },
    /// clone3: the same with flags in memory. All of these make tasks.
    Clone3,
    /// fork and vfork.
    Fork,
    /// socket: some kinds are escapes.
    Socket,
    /// ptrace: an escape unless it is about being traced.
    Ptrace,
    /// mknod, with the mode in this argument: of devices, an escape if refused.
    Mknod { mode: u8 },
    /// ioctl: of a terminal's input.
    Ioctl,
    /// Has a path, in this argument, which may be one of the host's. An escape if it fails.
    Path { path: u8 },
    /// Asks for memory: `ENOMEM` is a limit. The length is in this argument.
    Memory { length: u8 },
}

/// The class of a call.
pub(super) fn class(nr: u64) -> Class {
    usize::try_from(nr).ok().and_then(|nr| CLASSES.get(nr)).copied().unwrap_or(Class::Plain)
}

static CLASSES: [Class; LIMIT] = {
    let mut classes = [Class::Plain; LIMIT];
    let mut i = 0;
    while i < LIST.len() {
        classes[LIST[i].0 as usize] = LIST[i].1;
        i += 1;
    }
    classes
};

const LIST: &[(i64, Class)] = &[
    (libc::SYS_execve, Class::Exec { path: 0 }),
    (libc::SYS_execveat, Class::Exec { path: 1 }),
    (libc::SYS_setuid, Class::Credentials),
    (libc::SYS_setgid, Class::Credentials),
    (libc::SYS_setreuid, Class::Credentials),
    (libc::SYS_setregid, Class::Credentials),
    (libc::SYS_setresuid, Class::Credentials),
    (libc::SYS_setresgid, Class::Credentials),
    (libc::SYS_setfsuid, Class::Credentials),
    (libc::SYS_setfsgid, Class::Credentials),
    (libc::SYS_setgroups, Class::Credentials),
    (libc::SYS_capset, Class::Credentials),
    (libc::SYS_prctl, Class::Prctl),
    (libc::SYS_connect, Class::Connect),
    (libc::SYS_sendto, Class::SendTo),
    (libc::SYS_bind, Class::Bind),
    (libc::SYS_mount, Class::Mount),
    (libc::SYS_umount2, Class::Mount),
    (libc::SYS_pivot_root, Class::Mount),
    (libc::SYS_open_tree, Class::Mount),
    (libc::SYS_move_mount, Class::Mount),
    (libc::SYS_fsopen, Class::Mount),
    (libc::SYS_fsconfig, Class::Mount),
    (libc::SYS_fsmount, Class::Mount),
    (libc::SYS_fspick, Class::Mount),
    (libc::SYS_mount_setattr, Class::Mount),
    (libc::SYS_chroot, Class::EscapeIfRefused("mount")),
    (libc::SYS_setns, Class::Escape("namespace")),
    (libc::SYS_unshare, Class::Namespaces { flags: 0 }),
    (libc::SYS_clone, Class::Namespaces { flags: 0 }),
    (libc::SYS_clone3, Class::Clone3),
    (libc::SYS_fork, Class::Fork),
    (libc::SYS_vfork, Class::Fork),
    (libc::SYS_init_module, Class::Escape("kernel-module")),
    (libc::SYS_finit_module, Class::Escape("kernel-module")),
    (libc::SYS_delete_module, Class::Escape("kernel-module")),
    (libc::SYS_kexec_load, Class::Escape("kexec")),
    (libc::SYS_kexec_file_load, Class::Escape("kexec")),
    (libc::SYS_reboot, Class::EscapeIfRefused("reboot")),
    (libc::SYS_swapon, Class::Escape("swap")),
    (libc::SYS_swapoff, Class::Escape("swap")),
    (libc::SYS_iopl, Class::Escape("io-port")),
    (libc::SYS_ioperm, Class::Escape("io-port")),
    (libc::SYS_add_key, Class::Escape("keyring")),
    (libc::SYS_request_key, Class::Escape("keyring")),
    (libc::SYS_keyctl, Class::Escape("keyring")),
    (libc::SYS_bpf, Class::Escape("bpf")),
    (libc::SYS_open_by_handle_at, Class::Escape("file-handle")),
    (libc::SYS_ptrace, Class::Ptrace),
    (libc::SYS_process_vm_readv, Class::EscapeIfRefused("ptrace")),
    (libc::SYS_process_vm_writev, Class::EscapeIfRefused("ptrace")),
    (libc::SYS_pidfd_getfd, Class::EscapeIfRefused("ptrace")),
    (libc::SYS_clock_settime, Class::EscapeIfRefused("host-clock")),
    (libc::SYS_settimeofday, Class::EscapeIfRefused("host-clock")),
    (libc::SYS_socket, Class::Socket),
    (libc::SYS_mknod, Class::Mknod { mode: 1 }),
    (libc::SYS_mknodat, Class::Mknod { mode: 2 }),
    (libc::SYS_ioctl, Class::Ioctl),
    (libc::SYS_open, Class::Path { path: 0 }),
    (libc::SYS_creat, Class::Path { path: 0 }),
    (libc::SYS_openat, Class::Path { path: 1 }),
    (libc::SYS_openat2, Class::Path { path: 1 }),
    (libc::SYS_mmap, Class::Memory { length: 1 }),
    (libc::SYS_mremap, Class::Memory { length: 2 }),
];

/// Flags of clone(2) and unshare(2) that ask for namespaces.
pub(super) const NEW_NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP) as u64;

/// Whether a prctl(2) option changes capabilities.
pub(super) fn changes_capabilities(option: i32) -> bool {
    matches!(
        option,
        libc::PR_CAPBSET_DROP
            | libc::PR_CAP_AMBIENT
            | libc::PR_SET_SECUREBITS
            | libc::PR_SET_KEEPCAPS
            | libc::PR_SET_NO_NEW_PRIVS
    )
}

/// What kind of escape a socket is: packets, raw IP, the hypervisor's. Netlink sockets are raw in
/// name only.
pub(super) fn socket_escape(domain: i32, kind: i32) -> Option<&'static str> {
    match (domain, kind & 0xf) {
        (libc::AF_PACKET | libc::AF_XDP, _) => Some("raw-socket"),
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_RAW) => Some("raw-socket"),
        (libc::AF_VSOCK, _) => Some("vsock"),
        _ => None,
    }
}

/// Whether an ioctl(2) request puts input into somebody's terminal.
pub(super) fn is_terminal_input(request: u32) -> bool {
    const TIOCSTI: u32 = 0x5412;
    const TIOCLINUX: u32 = 0x541c;
    matches!(request, TIOCSTI | TIOCLINUX)
}

/// Whether a path leads, outside of sandboxes, to the host's memory, kernel, disks or engines. By
/// its text alone: other ways there are found by what they are denied.
pub(super) fn is_host_path(path: &[u8]) -> bool {
    const EXACT: &[&[u8]] = &[
        b"/dev/mem",
        b"/dev/kmem",
        b"/dev/port",
        b"/dev/kmsg",
        b"/proc/kcore",
        b"/proc/kmsg",
        b"/proc/sysrq-trigger",
        b"/proc/sys/kernel/core_pattern",
        b"/proc/sys/kernel/modprobe",
        b"/sys/kernel/uevent_helper",
        b"/proc/sys/fs/binfmt_misc/register",
    ];
    const ENDS: &[&[u8]] =
        &[b"/docker.sock", b"/containerd.sock", b"/crio.sock", b"/release_agent"];
    const STARTS: &[&[u8]] = &[
        b"/dev/sd",
        b"/dev/vd",
        b"/dev/xvd",
        b"/dev/nvme",
        b"/dev/dm-",
        b"/dev/mapper/",
        b"/dev/disk/",
        b"/dev/cpu/",
        b"/sys/kernel/debug/",
        b"/sys/kernel/tracing/",
        b"/sys/firmware/efi/",
    ];
    EXACT.contains(&path)
        || ENDS.iter().any(|end| path.ends_with(end))
        || STARTS.iter().any(|start| path.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syscalls::entry;

    #[test]
    fn every_class_is_of_a_call_in_the_table_with_such_arguments() {
        for &(nr, class) in LIST {
            let entry = entry(nr as u64).unwrap_or_else(|| panic!("{nr} is not in the table"));
            let place = match class {
                Class::Exec { path } | Class::Path { path } => Some((path, "path")),
                Class::Namespaces { flags } => Some((flags, "flags")),
                Class::Mknod { mode } => Some((mode, "mode")),
                _ => None,
            };
            if let Some((at, name)) = place {
                assert_eq!(entry.args.get(usize::from(at)).map(|a| a.0), Some(name), "{nr}");
            }
        }
    }

    #[test]
    fn sockets_and_paths_are_told_apart() {
        let cloexec = libc::SOCK_CLOEXEC;
        assert!(socket_escape(libc::AF_PACKET, libc::SOCK_DGRAM).is_some());
        assert!(socket_escape(libc::AF_INET, libc::SOCK_RAW | cloexec).is_some());
        assert!(socket_escape(libc::AF_INET, libc::SOCK_STREAM | cloexec).is_none());
        assert!(socket_escape(libc::AF_NETLINK, libc::SOCK_RAW).is_none());
        for path in ["/dev/mem", "/dev/sda1", "/run/docker.sock", "/sys/kernel/debug/x"] {
            assert!(is_host_path(path.as_bytes()), "{path}");
        }
        for path in ["/dev/memory", "/dev/null", "/etc/shadow", "mem", ""] {
            assert!(!is_host_path(path.as_bytes()), "{path}");
        }
    }
}
