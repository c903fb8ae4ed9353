//! Device nodes that root of the sandbox makes: behind numbers that the kernel does not have is
//! nothing, and never the host's device.

use std::os::unix::fs::FileTypeExt;

use super::supervisor::{Attack, Attacker, Ends};

pub const ATTACKS: &[Attack] = &[
    Attack::once("character_devices", Ends::Well, |a, _| sweep(a, libc::S_IFCHR)),
    Attack::once("block_devices", Ends::Well, |a, _| sweep(a, libc::S_IFBLK)),
    Attack::once("in_the_shown_directory", Ends::Well, in_the_shown_directory),
    Attack::once("as_a_user", Ends::Well, as_a_user),
];

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Numbers that the sandbox has itself: mem (null, zero, full, random, urandom), tty, console, ptmx.
fn is_own(major: u32, minor: u32) -> bool {
    match major {
        1 => matches!(minor, 3 | 5 | 7 | 8 | 9 | 11),
        5 => minor <= 2,
        136..=143 => true,
        _ => false,
    }
}

fn make(path: &str, kind: u32, major: u32, minor: u32) -> i32 {
    let path = format!("{path}\0");
    // SAFETY: a string that ends.
    unsafe { libc::mknod(path.as_ptr().cast(), kind | 0o666, libc::makedev(major, minor)) }
}

fn sweep(attacker: &Attacker, kind: u32) {
    let base = "/tmp/node";
    let majors = (0..=260).chain([511, 4095, u32::MAX >> 20]);
    for major in majors {
        let minors: &[u32] = if major == 1 || major == 10 {
            &[0, 1, 2, 4, 6, 10, 130, 200, 229, 237]
        } else {
            &[0, 1, 64]
        };
        for &minor in minors {
            if make(base, kind, major, minor) != 0 {
                attacker.share.fail(&format!("mknod {major}:{minor}: errno {}", errno()));
                return;
            }
            let path = format!("{base}\0");
            // SAFETY: a string that ends; our own descriptor.
            unsafe {
                for flags in [libc::O_RDONLY, libc::O_RDWR, libc::O_WRONLY] {
                    let fd = libc::open(path.as_ptr().cast(), flags | libc::O_NONBLOCK);
                    let own = kind == libc::S_IFCHR && is_own(major, minor);
                    if fd >= 0 && !own {
                        attacker.share.fail(&format!("{kind:o} {major}:{minor} can be opened"));
                    } else if fd < 0 && !own && errno() != libc::ENXIO {
                        attacker
                            .share
                            .fail(&format!("{kind:o} {major}:{minor}: errno {}", errno()));
                    }
                    if fd >= 0 {
                        libc::close(fd);
                    }
                }
                libc::unlink(path.as_ptr().cast());
            }
        }
    }
}

/// A node in the overlay above the host's directory: the harness looks that the host has none.
fn in_the_shown_directory(attacker: &Attacker, _: u64) {
    for (name, kind) in
        [("memory", libc::S_IFCHR), ("disk", libc::S_IFBLK), ("fifo", libc::S_IFIFO)]
    {
        if make(name, kind, 1, 1) != 0 {
            attacker.share.fail(&format!("mknod {name}: errno {}", errno()));
        }
        let kind = std::fs::metadata(name).map(|m| m.file_type());
        let made = kind.is_ok_and(|k| k.is_char_device() || k.is_block_device() || k.is_fifo());
        if !made {
            attacker.share.fail(&format!("{name} is not there"));
        }
    }
    for name in ["memory", "disk"] {
        if std::fs::File::open(name).is_ok() {
            attacker.share.fail(&format!("{name} can be opened"));
        }
    }
}

fn as_a_user(attacker: &Attacker, _: u64) {
    super::share::become_user(super::supervisor::USER);
    for kind in [libc::S_IFCHR, libc::S_IFBLK] {
        if make("/tmp/node", kind, 1, 1) == 0 || errno() != libc::EPERM {
            attacker.share.fail(&format!("mknod by a user: errno {}", errno()));
        }
    }
    for name in
        ["/dev/mem", "/dev/kmem", "/dev/port", "/dev/sda", "/dev/vda", "/dev/kvm", "/dev/kmsg"]
    {
        if std::path::Path::new(name).exists() {
            attacker.share.fail(&format!("{name} exists"));
        }
    }
}
