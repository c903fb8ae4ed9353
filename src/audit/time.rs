//! Points in time as RFC 3339 has them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now, in UTC, with microseconds.
pub(super) fn now() -> String {
    // A clock from before 1970 is set wrong.
    render(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO))
}

/// Time since 1970 in UTC.
fn render(since: Duration) -> String {
    let seconds = since.as_secs();
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let micros = since.subsec_micros();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// Year, month and day of a number of days since 1970-01-01.
fn date(days: u64) -> (u64, u64, u64) {
    // Years that begin in March have their leap day at the end; 400 of them are 146,097 days.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let first = (153 * month + 2) / 5;
    let (shift, month) = if month < 10 { (0, month + 3) } else { (1, month - 9) };
    (era * 400 + year + shift, month, day - first + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (951_868_800, "2000-03-01T00:00:00.000000Z"),
            (1_767_225_599, "2025-12-31T23:59:59.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(render(Duration::from_secs(seconds)), text);
        }
        assert!(render(Duration::from_micros(1)).ends_with(".000001Z"));
    }

    #[test]
    fn days_follow_each_other() {
        let mut last = date(0);
        for day in 1..200_000 {
            let next = date(day);
            let (year, month, day_of) = last;
            let follows = next == (year, month, day_of + 1)
                || next == (year, month + 1, 1)
                || (next == (year + 1, 1, 1) && month == 12);
            assert!(follows && next.2 <= 31, "{last:?} {next:?}");
            last = next;
        }
    }
}
