//! The wall clock of [`service::clock`], and the validity of certificates that the hub issues by it.

use std::time::{Duration, SystemTime};

pub use service::clock::{ago, unix_ms, unix_s, utc};

/// Returns a validity from now on; from the start of the CA on if this clock is before that, as without a clock battery.
#[must_use]
pub fn validity(ca: &transport::Ca, lifetime: Duration) -> transport::Validity {
    transport::Validity { now: SystemTime::now().max(ca.begins()), lifetime }
}
