//! The wall clock, read in one place, and how its readings are printed for people.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970; 0 when the machine's clock stands before it.
#[must_use]
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the time in seconds since 1970.
#[must_use]
pub fn unix_s() -> u64 {
    unix_ms() / 1000
}

/// Returns a validity from now on; from the start of the CA on if this clock is before that, as without a clock battery.
#[must_use]
pub fn validity(ca: &transport::Ca, lifetime: Duration) -> transport::Validity {
    transport::Validity { now: SystemTime::now().max(ca.begins()), lifetime }
}

/// Prints a moment as UTC, like `2026-03-01 12:30:05Z`; empty when it is out of the calendar.
#[must_use]
pub fn utc(unix_ms: u64) -> String {
    let moment = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    moment.map_or_else(String::new, |moment| moment.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

/// Prints how long ago a moment was, like `5s ago`.
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
        assert_eq!(ago(0, 5_000), "5s ago");
        assert_eq!(ago(0, 3_600_000), "60m ago");
        assert_eq!(ago(10, 5), "0s ago", "a clock that was set back does not matter");
    }
}
