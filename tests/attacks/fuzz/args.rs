//! Arguments: for each kind of the kernel's table something that is likely to get far, and from time
//! to time something that is not.

use super::super::share::Chance;

const PAGE: u64 = 4096;
/// The scratch area, of which each thread has its own.
const SCRATCH: u64 = 64 * PAGE;

/// The kinds, by the names of the kernel's table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    AtFd,
    AtFlags,
    CloneFlags,
    Clock,
    Fcntl,
    Fd,
    FutexOp,
    Hex,
    Int,
    MapFlags,
    Mode,
    OpenFlags,
    Path,
    Prot,
    Ptr,
    Signal,
    Size,
    Whence,
}

impl Kind {
    pub fn named(name: &str) -> Kind {
        match name {
            "AtFd" => Kind::AtFd,
            "AtFlags" => Kind::AtFlags,
            "CloneFlags" => Kind::CloneFlags,
            "Clock" => Kind::Clock,
            "Fcntl" => Kind::Fcntl,
            "Fd" => Kind::Fd,
            "FutexOp" => Kind::FutexOp,
            "Int" | "Uint" | "SigHow" => Kind::Int,
            "MapFlags" => Kind::MapFlags,
            "Mode" | "Oct" => Kind::Mode,
            "OpenFlags" => Kind::OpenFlags,
            "Path" | "Str" => Kind::Path,
            "Prot" => Kind::Prot,
            "Ptr" | "InBuf" | "OutBuf" | "SigSet" | "Timespec" => Kind::Ptr,
            "Signal" => Kind::Signal,
            "Size" => Kind::Size,
            "Whence" => Kind::Whence,
            _ => Kind::Hex,
        }
    }
}

const PATHS: &[&str] = &[
    "/tmp/a",
    "/tmp/b",
    "/tmp/c/d",
    "/tmp/c",
    "/tmp",
    "/",
    ".",
    "..",
    "",
    "a",
    "b",
    "c",
    "/proc/self/exe",
    "/proc/self/mem",
    "/proc/self/fd",
    "/proc/self/fd/3",
    "/proc/self/fd/5",
    "/proc/self/fdinfo/4",
    "/proc/self/maps",
    "/proc/self/ns/pid",
    "/proc/self/task",
    "/proc/self/status",
    "/proc/self/root/tmp/a",
    "/proc/self/cwd",
    "/proc/self/comm",
    "/proc/self/oom_score_adj",
    "/proc/1/root",
    "/proc/sys/kernel/hostname",
    "/proc/meminfo",
    "/proc/mounts",
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/urandom",
    "/dev/ptmx",
    "/dev/tty",
    "/dev/pts/0",
    "/dev/pts",
    "/dev/shm/x",
    "/dev/fd/4",
    "/usr/bin/true",
    "/etc/passwd",
    "/usr",
    "/usr/lib",
    "/sys",
    "tmpfs",
    "proc",
    "overlay",
    "user.a",
    "user.b",
    "security.capability",
    "system.posix_acl_access",
    "/tmp/a/../../tmp/./b//",
    "size=1m,mode=700",
];

/// Memory to point at: a part that can be read and written with random contents, the same but
/// read-only, and holes behind both.
pub struct Arena {
    base: u64,
    /// Descriptors and numbers that calls returned.
    noted: [i64; 16],
    next: usize,
}

impl Arena {
    pub fn new(chance: &mut Chance) -> Arena {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: fresh mappings; the second half is taken away again.
        let base = unsafe {
            let at = libc::mmap(std::ptr::null_mut(), SCRATCH as usize * 4, 3, flags, -1, 0);
            let hole = at.byte_add(SCRATCH as usize);
            libc::munmap(hole, SCRATCH as usize);
            libc::mprotect(at.byte_add(2 * SCRATCH as usize), SCRATCH as usize, libc::PROT_READ);
            at as u64
        };
        let mut arena = Arena { base, noted: [0; 16], next: 0 };
        arena.refill(chance);
        arena
    }

    /// Takes a result that may be a descriptor or another number of use.
    pub fn note(&mut self, result: i64) {
        if (0..100_000).contains(&result) {
            self.noted[self.next % 16] = result;
            self.next += 1;
        }
    }

    /// Fills the writable part anew: small numbers, flags, pointers into itself, times.
    pub fn refill(&mut self, chance: &mut Chance) {
        for at in (0..SCRATCH / 8).step_by(if chance.next() & 0x300 == 0 { 1 } else { 7 }) {
            let draw = chance.next();
            let word = match draw >> 60 {
                0..=3 => draw >> 8 & 0xf,
                4 => draw >> 8 & 0xffff,
                5 | 6 => self.pointer(chance),
                7 => self.number(chance),
                8 => (draw >> 8 & 7) << 32 | draw >> 40 & 7,
                9 => 0,
                10 => u64::MAX,
                _ => draw >> (draw & 63),
            };
            super::super::catch::store(self.base + at * 8, word);
        }
    }

    /// An address for memory calls: of the scratch area or what lies behind.
    pub fn scratch(&self, chance: &mut Chance) -> u64 {
        let draw = chance.next() >> 16;
        let page = self.base + (draw % (4 * SCRATCH)) / PAGE * PAGE;
        if draw >> 40 & 7 == 0 { page + (draw >> 20 & 0xfff) } else { page }
    }

    fn pointer(&self, chance: &mut Chance) -> u64 {
        let draw = chance.next() >> 8;
        let offset = (draw >> 8) % SCRATCH;
        match draw & 31 {
            // Aligned, well inside.
            0..=19 => self.base + offset / 2 / 16 * 16,
            20 => self.base + offset,
            // Across the end: into the hole, and out of it.
            21 | 22 => self.base + SCRATCH - (draw >> 8) % 64,
            23 => self.base + 2 * SCRATCH - (draw >> 8) % 64,
            24 | 25 => self.base + 2 * SCRATCH + offset,
            26 => 0,
            27 => self.base + SCRATCH + offset,
            28 => 0x7fff_ffff_f000 - (draw >> 8) % 5000,
            29 => 0xffff_8000_0000_0000 | draw,
            30 => draw,
            _ => u64::MAX - (draw >> 8) % 5000,
        }
    }

    fn number(&self, chance: &mut Chance) -> u64 {
        let draw = chance.next() >> 8;
        match draw & 15 {
            0..=5 => draw >> 8 & 7,
            6 => draw >> 8 & 63,
            7 => draw >> 8 & 0xfff,
            8 => 1 << (draw >> 8 & 63),
            9 => (1u64 << (draw >> 8 & 63)).wrapping_sub(1),
            10 => (draw >> 8 & 0xff).wrapping_neg(),
            11 => self.noted[(draw >> 8) as usize % 16] as u64,
            12 => std::process::id().into(),
            13 => i64::MAX as u64 - (draw >> 8 & 1),
            14 => 1 << 31 | (draw >> 8 & 1),
            _ => draw,
        }
    }

    fn path(&self, chance: &mut Chance) -> u64 {
        let draw = chance.next() >> 8;
        match draw & 31 {
            0 => return self.pointer(chance),
            // Without an end, up to the hole.
            1 => {
                let at = self.base + SCRATCH - 1 - (draw >> 8) % 5000;
                for byte in (at & !7..self.base + SCRATCH).step_by(8) {
                    super::super::catch::store(byte, u64::from_ne_bytes(*b"/./a/../"));
                }
                return at;
            }
            _ => {}
        }
        // Written anew, as calls may have written over it.
        let path = PATHS[(draw >> 8) as usize % PATHS.len()].as_bytes();
        let at = self.base + SCRATCH / 2 + (draw >> 32) % 256 * 128;
        for (number, chunk) in path.chunks(8).chain([&[][..]]).enumerate() {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            super::super::catch::store(at + number as u64 * 8, u64::from_ne_bytes(word));
        }
        at
    }

    fn fd(&self, chance: &mut Chance) -> u64 {
        let draw = chance.next() >> 8;
        match draw & 15 {
            0..=7 => (draw >> 8) % 24,
            8..=12 => self.noted[(draw >> 8) as usize % 16] as u64,
            13 => u64::MAX,
            14 => draw >> 8 & 0xff,
            _ => self.number(chance),
        }
    }

    /// A few of these bits, and seldom any.
    fn bits(&self, chance: &mut Chance, known: u64) -> u64 {
        let (one, two, draw) = (chance.next(), chance.next(), chance.next() >> 8);
        match draw & 15 {
            0 => 0,
            1 => one,
            2..=8 => known & one & two,
            _ => known & one & two & chance.next(),
        }
    }

    /// An argument of this kind.
    pub fn argument(&self, kind: Kind, chance: &mut Chance) -> u64 {
        if (chance.next() >> 8).is_multiple_of(24) {
            return match chance.next() >> 62 {
                0 => self.pointer(chance),
                1 => chance.next(),
                _ => self.number(chance),
            };
        }
        let draw = chance.next() >> 8;
        match kind {
            Kind::Fd => self.fd(chance),
            Kind::AtFd => {
                if draw & 1 == 0 {
                    libc::AT_FDCWD as u64
                } else {
                    self.fd(chance)
                }
            }
            Kind::AtFlags => self.bits(chance, 0x1900 | 0x200 | 0x400 | 0x800),
            Kind::CloneFlags => self.bits(chance, 0x7fff_ff11) | 17,
            Kind::Clock => draw % 12,
            Kind::Fcntl => match draw & 3 {
                0 => 1024 + (draw >> 8) % 20,
                _ => (draw >> 8) % 40,
            },
            Kind::FutexOp => ((draw >> 8) % 14) | ((draw >> 16 & 3) << 7),
            Kind::Hex => match draw & 3 {
                0 => self.pointer(chance),
                1 => self.bits(chance, u64::MAX >> 32),
                _ => self.number(chance),
            },
            Kind::Int => self.number(chance),
            Kind::MapFlags => self.bits(chance, 0x1f_f133) | 1 << (draw & 1) | (draw >> 2 & 1) << 5,
            Kind::Mode => match draw & 7 {
                0 => draw >> 8 & 0xffff,
                _ => {
                    [0o644, 0o755, 0o777, 0, 0o100_644, 0o10_666, 0o20_666][draw as usize >> 3 & 3]
                }
            },
            Kind::OpenFlags => self.bits(chance, 0o37_777_703) | (draw & 3).min(2),
            Kind::Path => self.path(chance),
            Kind::Prot => draw & 7,
            Kind::Ptr => self.pointer(chance),
            Kind::Signal => draw % 66,
            Kind::Size => match draw & 15 {
                0..=3 => [0, 1, 8, 16][(draw >> 8) as usize & 3],
                4..=7 => [24, 32, 64, 128][(draw >> 8) as usize & 3],
                8..=10 => (draw >> 8) % 5000,
                11 | 12 => (draw >> 8) % (1 << 17),
                13 => (draw >> 8) % 64 * PAGE,
                _ => self.number(chance),
            },
            Kind::Whence => draw % 6,
        }
    }
}
