//! Limits of a sandbox: their values, and how people write them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// What a sandbox may use. `None` leaves it to the profile; the largest value of a type is no limit.
///
/// A program inside is told of a limit as Linux tells of its own; see each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory, of files in memory as well. Allocations say `ENOMEM`, or the biggest process
    /// gets SIGKILL. `/proc/meminfo` shows a machine of that size.
    pub memory: Option<u64>,
    /// Processor time per time, in thousandths of one processor: tasks wait when it is used up.
    pub cpus: Option<u64>,
    /// Processes and threads: `EAGAIN`. There are never more than 4096.
    pub pids: Option<u64>,
    /// Descriptors per process: `EMFILE`. Eight times as many open files in all: `ENFILE`.
    pub files: Option<u64>,
    /// Time from the start of the program until the sandbox is killed.
    #[serde(rename = "wall_seconds", with = "seconds", default)]
    pub wall: Option<Duration>,
    /// Processor time in all until the sandbox is killed.
    #[serde(rename = "cpu_time_seconds", with = "seconds", default)]
    pub cpu_time: Option<Duration>,
    /// Bytes that the program may write to its standard descriptors, together; more end the sandbox.
    pub output: Option<u64>,
    /// Bytes in file systems in memory, together: `ENOSPC`.
    pub tmp_size: Option<u64>,
}

impl Limits {
    /// What is `None` here comes from `other`.
    pub fn or(self, other: Limits) -> Limits {
        Limits {
            memory: self.memory.or(other.memory),
            cpus: self.cpus.or(other.cpus),
            pids: self.pids.or(other.pids),
            files: self.files.or(other.files),
            wall: self.wall.or(other.wall),
            cpu_time: self.cpu_time.or(other.cpu_time),
            output: self.output.or(other.output),
            tmp_size: self.tmp_size.or(other.tmp_size),
        }
    }

    /// `ERRORS`: a limit under which nothing could ever run.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let least = [
            ("--memory", self.memory, MEMORY_MIN),
            ("--cpus", self.cpus, 1),
            ("--pids", self.pids, 1),
            ("--files", self.files, FILES_MIN),
            ("--tmp-size", self.tmp_size, TMP_MIN),
        ];
        for (option, value, least) in least {
            if value.is_some_and(|value| value < least) {
                let least = if option == "--cpus" { "0.001".into() } else { least.to_string() };
                return Err(Error::option(option, format!("must be {least} at least")));
            }
        }
        // What is silently not kept would be no limit.
        if self.pids.is_some_and(|pids| pids > PIDS_MAX && pids != u64::MAX) {
            let problem = format!("must be {PIDS_MAX} at most (or none, which is as many)");
            return Err(Error::option("--pids", problem));
        }
        for (option, value) in [("--wall", self.wall), ("--cpu-time", self.cpu_time)] {
            if value.is_some_and(|value| value.is_zero()) {
                return Err(Error::option(option, "must be more than nothing"));
            }
        }
        Ok(())
    }
}

/// Times as seconds; what is too long for one is no limit.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        time: &Option<Duration>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        time.map(|time| time.as_secs_f64()).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        match Option::<f64>::deserialize(from)? {
            Some(seconds) if seconds.is_nan() || seconds < 0.0 => {
                Err(serde::de::Error::custom("not a time"))
            }
            Some(seconds) => {
                Ok(Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)))
            }
            None => Ok(None),
        }
    }
}

/// With less memory, not even the stubs' own pages fit.
const MEMORY_MIN: u64 = 4 << 20;
/// The standard descriptors, and the one that a dynamic linker has open.
const FILES_MIN: u64 = 4;
/// A task is a thread of the Sentry's and one of a stub's, with stacks and descriptors: more of them
/// is more than the Sentry's own limits on the host allow for.
const PIDS_MAX: u64 = sentry::kernel::task_table::MAX_TASKS as u64;
/// A page.
const TMP_MIN: u64 = 4096;

/// What people write for "no limit".
const NONE: &str = "none";

fn bad(option: &'static str, text: &str, example: &str) -> Error {
    Error::option(option, format!("{text:?} is not {example}"))
}

/// Splits a number from its unit: `"1.5G"` is (1, 500 millionths, `"G"`).
fn number(text: &str) -> Option<(u64, u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
    if part.is_empty() || part.len() > 6 || !part.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let millionths = format!("{part:0<6}").parse().ok()?;
    Some((whole.parse().ok()?, millionths, unit))
}

/// `whole.millionths` times `factor`, rounded down; `None` if that is too much.
fn scaled(whole: u64, millionths: u64, factor: u64) -> Option<u64> {
    let part = u128::from(millionths) * u128::from(factor) / 1_000_000;
    let all = u128::from(whole) * u128::from(factor) + part;
    u64::try_from(all).ok().filter(|n| *n < u64::MAX)
}

/// Bytes: `"4096"`, `"512M"`, `"1.5GiB"`, `"none"`. Units are powers of 1024.
pub(crate) fn size(option: &'static str, text: &str) -> Result<u64, Error> {
    if text == NONE {
        return Ok(u64::MAX);
    }
    let parse = || {
        let (whole, part, unit) = number(text)?;
        let unit = unit.strip_suffix("iB").or(unit.strip_suffix('B')).unwrap_or(unit);
        let shift = match unit.to_ascii_lowercase().as_str() {
            "" => 0,
            "k" => 10,
            "m" => 20,
            "g" => 30,
            "t" => 40,
            _ => return None,
        };
        scaled(whole, part, 1 << shift)
    };
    parse().ok_or_else(|| bad(option, text, "a size like 64M or 1.5G, or none"))
}

/// A time: `"2"` and `"2s"` are seconds; `ms`, `m`, `h`; `"none"`.
pub(crate) fn duration(option: &'static str, text: &str) -> Result<Duration, Error> {
    if text == NONE {
        return Ok(Duration::MAX);
    }
    let parse = || {
        let (whole, part, unit) = number(text)?;
        let nanoseconds = match unit {
            "ms" => 1_000_000,
            "" | "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        scaled(whole, part, nanoseconds).map(Duration::from_nanos)
    };
    parse().ok_or_else(|| bad(option, text, "a time like 500ms, 1.5s or 2m, or none"))
}

/// Processors, in thousandths: `"2"`, `"0.5"`, `"none"`.
pub(crate) fn cpus(option: &'static str, text: &str) -> Result<u64, Error> {
    if text == NONE {
        return Ok(u64::MAX);
    }
    let parse = || match number(text)? {
        (whole, part, "") => scaled(whole, part, 1000),
        _ => None,
    };
    parse().ok_or_else(|| bad(option, text, "a number of processors like 2 or 0.5, or none"))
}

/// A count, `"none"`.
pub(crate) fn count(option: &'static str, text: &str) -> Result<u64, Error> {
    if text == NONE {
        return Ok(u64::MAX);
    }
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let number = text.parse().ok().filter(|n| digits && *n < u64::MAX);
    number.ok_or_else(|| bad(option, text, "a number, or none"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_and_times_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64k", 64 << 10),
            ("512M", 512 << 20),
            ("1.5G", 3 << 29),
            ("1GiB", 1 << 30),
            ("2KB", 2048),
            ("none", u64::MAX),
        ] {
            assert_eq!(size("--memory", text).ok(), Some(bytes), "{text}");
        }
        for (text, ms) in [("2", 2000), ("1.5s", 1500), ("500ms", 500), ("2m", 120_000)] {
            let time = duration("--wall", text).ok();
            assert_eq!(time, Some(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(cpus("--cpus", "0.25").ok(), Some(250));
        assert_eq!(count("--pids", "12").ok(), Some(12));
    }

    #[test]
    fn nonsense_is_named() {
        for text in ["", "M", "1.M", "1.2.3M", "-1", "1X", "1e9", " 1", "99999999999T", "1.0000001"]
        {
            let error = size("--memory", text).unwrap_err().to_string();
            assert!(error.starts_with("--memory: ") && error.contains(text), "{error}");
            assert!(duration("--wall", text).is_err(), "{text}");
            assert!(cpus("--cpus", text).is_err(), "{text}");
            assert!(count("--pids", text).is_err(), "{text}");
        }
        let small = Limits { memory: Some(1), ..Limits::default() };
        assert!(small.check().unwrap_err().to_string().starts_with("--memory"));
        for (pids, fine) in [(1, true), (4096, true), (4097, false), (u64::MAX, true)] {
            let limits = Limits { pids: Some(pids), ..Limits::default() };
            assert_eq!(limits.check().is_ok(), fine, "{pids}");
        }
        let none = Limits { wall: Some(Duration::ZERO), ..Limits::default() };
        assert!(none.check().unwrap_err().to_string().starts_with("--wall"));
    }

    #[test]
    fn limits_travel_as_json() {
        for wall in [None, Some(Duration::from_millis(1500)), Some(Duration::MAX)] {
            let limits = Limits { wall, memory: Some(u64::MAX), ..Limits::default() };
            let json = serde_json::to_string(&limits).unwrap();
            assert_eq!(serde_json::from_str::<Limits>(&json).unwrap(), limits, "{json}");
        }
        assert!(serde_json::from_str::<Limits>("{\"wall_seconds\": -1}").is_err());
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_parsers(text in "\\PC{0,24}") {
            let _ = size("--memory", &text);
            let _ = duration("--wall", &text);
            let _ = cpus("--cpus", &text);
            let _ = count("--pids", &text);
        }

        #[test]
        fn whole_bytes_are_exact(bytes in 0..u64::MAX) {
            prop_assert_eq!(size("--memory", &bytes.to_string()).ok(), Some(bytes));
        }
    }
}
