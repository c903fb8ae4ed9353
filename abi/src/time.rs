//! Time as system calls pass it (`include/uapi/linux/time_types.h`, `timex.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct __kernel_timespec`
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Timespec {
    /// Whole seconds.
    pub sec: i64,
    /// Nanoseconds.
    pub nsec: i64,
}

/// `struct __kernel_old_timeval`
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Timeval {
    /// Whole seconds.
    pub sec: i64,
    /// Microseconds.
    pub usec: i64,
}

/// `struct __kernel_itimerspec`
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Itimerspec {
    /// Period; zero for one shot.
    pub interval: Timespec,
    /// Time to the next expiration; zero disarms.
    pub value: Timespec,
}

/// `struct __kernel_old_itimerval`
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Itimerval {
    /// Period; zero for one shot.
    pub interval: Timeval,
    /// Time to the next expiration; zero disarms.
    pub value: Timeval,
}

/// `struct timezone`
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Timezone {
    pub minuteswest: i32,
    pub dsttime: i32,
}

/// `struct __kernel_timex`
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs)] // The names are adjtimex(2)'s.
pub struct Timex {
    pub modes: u32,
    pub pad0: u32,
    pub offset: i64,
    pub freq: i64,
    pub maxerror: i64,
    pub esterror: i64,
    pub status: i32,
    pub pad1: u32,
    pub constant: i64,
    pub precision: i64,
    pub tolerance: i64,
    pub time: Timeval,
    pub tick: i64,
    pub ppsfreq: i64,
    pub jitter: i64,
    pub shift: i32,
    pub pad2: u32,
    pub stabil: i64,
    pub jitcnt: i64,
    pub calcnt: i64,
    pub errcnt: i64,
    pub stbcnt: i64,
    pub tai: i32,
    pub pad3: [u32; 11],
}

/// Nanoseconds in a second.
pub const NSEC_PER_SEC: u64 = 1_000_000_000;

impl Timespec {
    /// From nanoseconds.
    pub const fn from_ns(ns: u64) -> Timespec {
        Timespec { sec: (ns / NSEC_PER_SEC) as i64, nsec: (ns % NSEC_PER_SEC) as i64 }
    }

    /// In nanoseconds, cut at `KTIME_MAX` (`i64::MAX`); `None` if it is not a valid time
    /// (`timespec64_valid`).
    pub const fn to_ns(self) -> Option<u64> {
        if self.sec < 0 || self.nsec < 0 || self.nsec >= NSEC_PER_SEC as i64 {
            return None;
        }
        match (self.sec as u64).checked_mul(NSEC_PER_SEC) {
            Some(ns) if ns < i64::MAX as u64 - NSEC_PER_SEC => Some(ns + self.nsec as u64),
            _ => Some(i64::MAX as u64),
        }
    }
}

impl Timeval {
    /// From nanoseconds, rounded down.
    pub const fn from_ns(ns: u64) -> Timeval {
        Timeval { sec: (ns / NSEC_PER_SEC) as i64, usec: (ns % NSEC_PER_SEC / 1000) as i64 }
    }

    /// In nanoseconds, as [`Timespec::to_ns`]; `None` if it is not a valid time.
    pub const fn to_ns(self) -> Option<u64> {
        if self.usec < 0 || self.usec >= 1_000_000 {
            return None;
        }
        Timespec { sec: self.sec, nsec: self.usec * 1000 }.to_ns()
    }
}

const _: () = assert!(size_of::<Timex>() == 208);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversion_is_checked_and_saturates() {
        assert_eq!(Timespec { sec: 1, nsec: 5 }.to_ns(), Some(1_000_000_005));
        assert_eq!(Timespec { sec: -1, nsec: 0 }.to_ns(), None);
        assert_eq!(Timespec { sec: 0, nsec: 1_000_000_000 }.to_ns(), None);
        assert_eq!(Timespec { sec: i64::MAX, nsec: 999_999_999 }.to_ns(), Some(i64::MAX as u64));
        assert_eq!(Timeval { sec: 0, usec: 1_000_000 }.to_ns(), None);
        assert_eq!(Timespec::from_ns(1_500_000_000), Timespec { sec: 1, nsec: 500_000_000 });
    }
}
