//! What processes have used (getrusage(2)).

use super::cpu_clock::CpuTimes;

/// Use of resources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time.
    pub cpu: CpuTimes,
    /// Most resident memory of any, in KiB.
    pub max_rss: u64,
    /// Minor faults.
    pub min_faults: u64,
    /// Voluntary switches.
    pub voluntary: u64,
    /// Involuntary switches.
    pub involuntary: u64,
}

impl Usage {
    /// Both together.
    pub fn plus(self, other: Usage) -> Usage {
        Usage {
            cpu: self.cpu.plus(other.cpu),
            max_rss: self.max_rss.max(other.max_rss),
            min_faults: self.min_faults.saturating_add(other.min_faults),
            voluntary: self.voluntary.saturating_add(other.voluntary),
            involuntary: self.involuntary.saturating_add(other.involuntary),
        }
    }

    /// As `struct rusage` in guest memory: 144 bytes.
    pub fn to_user(&self) -> [i64; 18] {
        let micros = |ns: u64| ((ns / 1_000_000_000) as i64, (ns % 1_000_000_000 / 1000) as i64);
        let mut out = [0; 18];
        let cpu = self.cpu.shown();
        (out[0], out[1]) = micros(cpu.user);
        (out[2], out[3]) = micros(cpu.system);
        out[4] = self.max_rss as i64;
        out[8] = self.min_faults as i64;
        out[16] = self.voluntary as i64;
        out[17] = self.involuntary as i64;
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_libcs() {
        assert_eq!(size_of::<libc::rusage>(), 144);
        let cpu = CpuTimes { user: 2_000_003_000, system: 5_000 };
        let usage = Usage { cpu, max_rss: 9, min_faults: 7, voluntary: 1, involuntary: 2 };
        // SAFETY: both are 144 bytes of plain integers.
        let c: libc::rusage = unsafe { std::mem::transmute(usage.to_user()) };
        assert_eq!((c.ru_utime.tv_sec, c.ru_utime.tv_usec, c.ru_stime.tv_usec), (2, 3, 5));
        assert_eq!((c.ru_maxrss, c.ru_minflt, c.ru_nvcsw, c.ru_nivcsw), (9, 7, 1, 2));
    }
}
