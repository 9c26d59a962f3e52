//! Reading and printing of values on a command line.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use types::Digest;

use hub_api::{FormView, ReportView};

/// Reads a duration like `90s`, `10m`, `1h` or `7d`.
///
/// # Errors
/// When it is none, or negative.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let signed: jiff::SignedDuration =
        text.parse().map_err(|_not| format!("{text:?} is not a duration like 10m or 1h"))?;
    Duration::try_from(signed).map_err(|_negative| format!("{text:?} is negative"))
}

/// Returns a variant in one cell: `2 int8-qdq`.
#[must_use]
pub fn form(form: Option<&FormView>) -> String {
    form.map_or_else(|| "-".to_owned(), |form| format!("{} {}", form.version, form.variant))
}

/// Returns a report in one cell: `2 verifying: retrying (…)`.
#[must_use]
pub fn report(report: Option<&ReportView>) -> String {
    report.map_or_else(
        || "-".to_owned(),
        |report| {
            let detail = if report.detail.is_empty() { String::new() } else { format!(" ({})", report.detail) };
            format!("{} {}: {}{detail}", report.version, report.stage, report.outcome)
        },
    )
}

/// Returns the first digits of a digest: enough for eyes.
#[must_use]
pub fn short(digest: &Digest) -> String {
    digest.to_hex().chars().take(12).collect()
}

/// Returns `yes` or `no`.
#[must_use]
pub fn yes(value: bool) -> String {
    (if value { "yes" } else { "no" }).to_owned()
}

/// Returns the time of this machine in milliseconds since 1970.
#[must_use]
pub fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Returns a time as UTC, like `2026-03-01 12:30:05Z`; empty when it is out of the calendar.
#[must_use]
pub fn utc(unix_ms: u64) -> String {
    let moment = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    moment.map_or_else(String::new, |moment| moment.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

/// Returns the age of a time, like `5s ago`.
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
    fn durations_read_as_people_write_them() {
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert!(parse_duration("-1h").is_err() && parse_duration("soon").is_err());
    }
}
