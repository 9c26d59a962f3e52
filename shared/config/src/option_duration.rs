//! Optional durations: as [`crate::duration`], for a field that may be absent: `#[serde(with =
//! "config::option_duration", default)]`.

use std::time::Duration;

use serde::{Deserializer, Serializer};

use crate::duration;

/// Reads a duration that is present; an absent field takes its default.
///
/// # Errors
/// As for [`duration::deserialize`].
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration::deserialize(deserializer).map(Some)
}

/// Writes the duration, or nothing if there is none.
///
/// # Errors
/// Returns the error of the serialiser.
pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => serializer.serialize_some(&duration::format(*duration)),
        None => serializer.serialize_none(),
    }
}
