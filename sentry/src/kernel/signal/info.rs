//! `siginfo_t`, as the kernel keeps it (`struct kernel_siginfo`, 48 bytes).

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// What comes with a signal. The union is kept as raw words; the constructors know what lies where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct SigInfo {
    /// `si_signo`
    pub signo: i32,
    /// `si_errno`
    pub errno: i32,
    /// `si_code`
    pub code: i32,
    pad: i32,
    /// The union, from byte 16 on.
    pub fields: [u64; 4],
}

/// Size of `siginfo_t` in guest memory.
pub const USER_SIZE: usize = 128;

/// `si_code` of kill(2).
pub const SI_USER: i32 = 0;
/// `si_code` of what the kernel sends.
pub const SI_KERNEL: i32 = 0x80;
/// `si_code` of sigqueue(3).
pub const SI_QUEUE: i32 = -1;
/// `si_code` of POSIX timers.
pub const SI_TIMER: i32 = -2;
/// `si_code` of message queues.
pub const SI_MESGQ: i32 = -3;
/// `si_code` of tkill(2).
pub const SI_TKILL: i32 = -6;
/// `si_code` of SIGSYS from a seccomp filter.
pub const SYS_SECCOMP: i32 = 1;
/// `si_code` of SIGCHLD: how the child changed.
#[allow(missing_docs)]
pub mod cld {
    pub const EXITED: i32 = 1;
    pub const KILLED: i32 = 2;
    pub const DUMPED: i32 = 3;
    pub const STOPPED: i32 = 5;
    pub const CONTINUED: i32 = 6;
}

fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

impl SigInfo {
    fn new(signo: i32, code: i32, fields: [u64; 4]) -> SigInfo {
        SigInfo { signo, errno: 0, code, pad: 0, fields }
    }

    /// From the kernel itself (`SEND_SIG_PRIV`).
    pub fn kernel(signo: i32) -> SigInfo {
        SigInfo::new(signo, SI_KERNEL, [0; 4])
    }

    /// From a task: kill(2) with `SI_USER`, tkill(2) with `SI_TKILL`.
    pub fn user(signo: i32, code: i32, pid: i32, uid: u32) -> SigInfo {
        SigInfo::new(signo, code, [pair(pid as u32, uid), 0, 0, 0])
    }

    /// With a value: `SI_QUEUE`, `SI_MESGQ`.
    pub fn value(signo: i32, code: i32, pid: i32, uid: u32, value: u64) -> SigInfo {
        SigInfo::new(signo, code, [pair(pid as u32, uid), value, 0, 0])
    }

    /// Of a file that became ready (`F_SETSIG`).
    pub fn io(signo: i32, code: i32, band: u64, fd: i32) -> SigInfo {
        SigInfo::new(signo, code, [band, fd as u32 as u64, 0, 0])
    }

    /// Of a POSIX timer (timer_create(2)).
    pub fn timer(signo: i32, timer: i32, overrun: i32, value: u64) -> SigInfo {
        SigInfo::new(signo, SI_TIMER, [pair(timer as u32, overrun as u32), value, 0, 0])
    }

    /// Of a fault at `addr`.
    pub fn fault(signo: i32, code: i32, addr: u64) -> SigInfo {
        SigInfo::new(signo, code, [addr, 0, 0, 0])
    }

    /// SIGSYS of a seccomp filter with 16 bits of its own, `data`, for call `nr`, after which the task
    /// would have gone on at `addr`.
    pub fn seccomp(addr: u64, nr: i32, arch: u32, data: i32) -> SigInfo {
        let fields = [addr, pair(nr as u32, arch), 0, 0];
        SigInfo { errno: data, ..SigInfo::new(libc::SIGSYS, SYS_SECCOMP, fields) }
    }

    /// SIGIO with `F_SETSIG`: `code` is `POLL_*`.
    pub fn poll(signo: i32, code: i32, band: i64, fd: i32) -> SigInfo {
        SigInfo::new(signo, code, [band as u64, fd as u32 as u64, 0, 0])
    }

    /// Of a child: `code` is one of [`cld`], times are in clock ticks.
    pub fn child(code: i32, pid: i32, uid: u32, status: i32, utime: u64, stime: u64) -> SigInfo {
        let fields = [pair(pid as u32, uid), status as u32 as u64, utime, stime];
        SigInfo::new(libc::SIGCHLD, code, fields)
    }

    /// Whether a user made it up (`SI_FROMUSER`).
    pub fn from_user(&self) -> bool {
        self.code <= 0
    }

    /// `si_pid`
    pub fn pid(&self) -> i32 {
        self.fields[0] as u32 as i32
    }

    /// `si_uid`
    pub fn uid(&self) -> u32 {
        (self.fields[0] >> 32) as u32
    }

    /// Sets `si_overrun` of a timer's signal.
    pub fn set_overrun(&mut self, overrun: i32) {
        self.fields[0] = pair(self.fields[0] as u32, overrun as u32);
    }

    /// As it lies in guest memory.
    pub fn to_user(&self) -> [u8; USER_SIZE] {
        let mut bytes = [0; USER_SIZE];
        bytes[..48].copy_from_slice(self.as_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn libc_view(info: &SigInfo) -> libc::siginfo_t {
        let bytes = info.to_user();
        // SAFETY: siginfo_t is plain data of 128 bytes; any bytes are a valid value.
        unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) }
    }

    #[test]
    fn layout_is_libcs() {
        assert_eq!(size_of::<libc::siginfo_t>(), USER_SIZE);
        let child = libc_view(&SigInfo::child(cld::KILLED, 42, 1000, 9, 3, 4));
        // SAFETY: the union's SIGCHLD members were written.
        let (pid, uid, status, utime) =
            unsafe { (child.si_pid(), child.si_uid(), child.si_status(), child.si_utime()) };
        assert_eq!((pid, uid, status, utime), (42, 1000, 9, 3));
        assert_eq!((child.si_signo, child.si_code), (libc::SIGCHLD, libc::CLD_KILLED));
        let queued = libc_view(&SigInfo::value(34, SI_QUEUE, 7, 8, 0xdead));
        // SAFETY: the union's members of a queued signal were written.
        assert_eq!(unsafe { queued.si_value().sival_ptr } as u64, 0xdead);
        let fault = libc_view(&SigInfo::fault(11, 1, 0x1234));
        // SAFETY: the union's members of a fault were written.
        assert_eq!(unsafe { fault.si_addr() } as u64, 0x1234);
    }
}
