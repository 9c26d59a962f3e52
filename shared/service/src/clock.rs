//! The wall clock, read in one place, and its readings for people. Deadlines never come from here: they are monotonic.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns milliseconds since 1970; 0 while the machine's clock is before that.
#[must_use]
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Returns seconds since 1970; 0 while the machine's clock is before that.
#[must_use]
pub fn unix_s() -> u64 {
    unix_ms() / 1000
}

/// Returns [`unix_s`] as certificates and TUF metadata count it.
#[must_use]
pub fn signed_unix_s() -> i64 {
    i64::try_from(unix_s()).unwrap_or(i64::MAX)
}

/// Formats milliseconds since 1970 as UTC, like `2026-03-01 12:30:05Z`; empty outside of the calendar.
#[must_use]
pub fn utc(unix_ms: u64) -> String {
    let moment = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    moment.map_or_else(String::new, |moment| moment.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

/// Formats seconds since 1970 as RFC 3339, like `2026-03-01T12:30:05Z`; the number itself outside of the calendar.
#[must_use]
pub fn rfc3339(unix_s: i64) -> String {
    jiff::Timestamp::from_second(unix_s).map_or_else(|_outside| unix_s.to_string(), |moment| moment.to_string())
}

/// Formats the time since `then`, like `5s ago`.
#[must_use]
pub fn ago(then_unix_ms: u64, now_unix_ms: u64) -> String {
    let seconds = now_unix_ms.saturating_sub(then_unix_ms) / 1000;
    match seconds {
        0..120 => format!("{seconds}s ago"),
        120..7200 => format!("{}m ago", seconds / 60),
        7200..172_800 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_print_as_people_write_them() {
        assert_eq!(utc(0), "1970-01-01 00:00:00Z");
        assert_eq!(utc(u64::MAX), "");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(i64::MAX), i64::MAX.to_string());
        assert_eq!(ago(0, 5_000), "5s ago");
        assert_eq!(ago(0, 3_600_000), "60m ago");
        assert_eq!(ago(10, 5), "0s ago", "a clock that was set back does not matter");
    }
}
