//! Figures in the words of people.

use jiff::Timestamp;

/// A second since 1970 as a date and time in UTC.
pub(super) fn unix_time(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_outside| seconds.to_string(), |time| time.to_string())
}

/// Microseconds in the unit that reads best.
pub(super) fn micros(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..1_000_000 => format!("{}.{:02} ms", micros / 1_000, micros % 1_000 / 10),
        _ => format!("{}.{:02} s", micros / 1_000_000, micros % 1_000_000 / 10_000),
    }
}

/// Bytes in the unit that reads best.
pub(super) fn bytes(bytes: u64) -> String {
    const MIB: u64 = 1024 * 1024;
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..MIB => format!("{} KiB", bytes / 1024),
        _ => format!("{}.{} MiB", bytes / MIB, bytes % MIB * 10 / MIB),
    }
}
