//! Durations as text in config files: `"10s"`, `"1h 30m"`, `"7d"`; for `#[serde(with = "config::duration")]`.
//!
//! The format is jiff's "friendly" one, without months and years (they have no fixed length) and never negative.

use std::fmt;
use std::time::Duration;

use jiff::{Span, SpanRelativeTo};
use serde::de::{self, Visitor};
use serde::{Deserializer, Serializer};

/// Description of the format, for error messages.
const EXAMPLES: &str = "a duration like \"10s\", \"1h 30m\" or \"7d\"";

/// Units of a duration with their lengths in milliseconds; the largest unit that divides a duration is used.
const UNITS_MS: [(&str, u128); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads a duration.
///
/// # Errors
/// Fails if the value is not a string of the form `"10s"`.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer.deserialize_str(Text)
}

/// Serialises a duration in the form that [`deserialize`] reads; fractions of a millisecond are dropped.
///
/// # Errors
/// Returns the error of the serialiser.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*duration))
}

/// Formats a duration in its largest whole unit: `90s`, `7d`.
#[must_use]
pub fn format(duration: Duration) -> String {
    let ms = duration.as_millis();
    let unit = UNITS_MS.iter().find(|(_, length)| ms > 0 && ms.is_multiple_of(*length));
    unit.map_or_else(|| "0s".to_owned(), |(name, length)| format!("{}{name}", ms / length))
}

pub(crate) fn parse(text: &str) -> Option<Duration> {
    let span: Span = text.parse().ok()?;
    let signed = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    Duration::try_from(signed).ok()
}

pub(crate) struct Text;

impl Visitor<'_> for Text {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXAMPLES)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
        parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        let read = [
            ("10s", 10_000),
            ("1h 30m", 5_400_000),
            ("7d", 604_800_000),
            ("250ms", 250),
            ("0s", 0),
            ("2 weeks", 1_209_600_000),
        ];
        for (text, ms) in read {
            assert_eq!(parse(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for wrong in ["", "10", "-1s", "1 month", "1y", "soon", "99999999999999999999d"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_duration_reads_back_as_it_was_written() {
        for ms in [0, 1, 250, 1_000, 90_000, 3_600_000, 604_800_000, 5_400_000, 86_400_001] {
            let duration = Duration::from_millis(ms);
            assert_eq!(parse(&format(duration)), Some(duration), "{}", format(duration));
        }
        assert_eq!(format(Duration::from_secs(604_800)), "7d");
    }
}
