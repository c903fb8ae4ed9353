//! `struct termios` and `struct winsize` as the kernel's ioctls carry them (`asm-generic/termbits.h`,
//! ioctl_tty(2)).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Number of control characters in the kernel's `struct termios`.
pub const NCCS: usize = 19;

/// The kernel's `struct termios` (`TCGETS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs)] // The names are termios(3)'s.
pub struct Termios {
    pub iflag: u32,
    pub oflag: u32,
    pub cflag: u32,
    pub lflag: u32,
    pub line: u8,
    pub cc: [u8; NCCS],
}

/// The kernel's `struct termios2` (`TCGETS2`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Termios2 {
    pub base: Termios,
    pub ispeed: u32,
    pub ospeed: u32,
}

/// `struct winsize`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Winsize {
    pub rows: u16,
    pub cols: u16,
    pub xpixel: u16,
    pub ypixel: u16,
}

impl Default for Termios {
    /// `tty_std_termios` of drivers/tty/tty_io.c, as drivers/tty/pty.c changes it.
    fn default() -> Termios {
        let mut cc = [0; NCCS];
        cc[libc::VINTR] = 3;
        cc[libc::VQUIT] = 28;
        cc[libc::VERASE] = 127;
        cc[libc::VKILL] = 21;
        cc[libc::VEOF] = 4;
        cc[libc::VMIN] = 1;
        cc[libc::VSTART] = 17;
        cc[libc::VSTOP] = 19;
        cc[libc::VSUSP] = 26;
        cc[libc::VREPRINT] = 18;
        cc[libc::VDISCARD] = 15;
        cc[libc::VWERASE] = 23;
        cc[libc::VLNEXT] = 22;
        Termios {
            iflag: libc::ICRNL | libc::IXON,
            oflag: libc::OPOST | libc::ONLCR,
            cflag: libc::B38400 | libc::CS8 | libc::CREAD,
            lflag: libc::ISIG
                | libc::ICANON
                | libc::ECHO
                | libc::ECHOE
                | libc::ECHOK
                | libc::ECHOCTL
                | libc::ECHOKE
                | libc::IEXTEN,
            line: 0,
            cc,
        }
    }
}

impl Termios {
    /// Whether a local flag is set.
    pub fn local(&self, flag: u32) -> bool {
        self.lflag & flag != 0
    }
    /// Whether an input flag is set.
    pub fn input(&self, flag: u32) -> bool {
        self.iflag & flag != 0
    }
    /// Whether an output flag is set.
    pub fn output(&self, flag: u32) -> bool {
        self.oflag & flag != 0
    }
    /// Whether `byte` is the control character `index`; one that is 0 is disabled.
    pub fn is_cc(&self, index: usize, byte: u8) -> bool {
        byte != 0 && self.cc.get(index) == Some(&byte)
    }
}
