//! Metrics of requests that wait for the hub, on the device and at the hub.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

/// Number of queued requests of devices at the hub, by `outcome` (`run`, `repeated`).
pub const QUEUED_REQUESTS: &str = "sanderling_queued_requests_total";
/// Number of requests in the outbox of a device that wait for the hub.
pub const OUTBOX_REQUESTS: &str = "sanderling_outbox_requests";
/// Bytes on the disk of these requests.
pub const OUTBOX_BYTES: &str = "sanderling_outbox_bytes";
/// Age in seconds of the oldest of these requests; 0 without one.
pub const OUTBOX_OLDEST_SECONDS: &str = "sanderling_outbox_oldest_age_seconds";
/// Number of stored answers to such requests.
pub const OUTBOX_ANSWERS: &str = "sanderling_outbox_answers";
/// Number of requests of the outbox, by `outcome` (docs/offline.md).
pub const OUTBOX_OUTCOMES: &str = "sanderling_outbox_requests_total";

/// Describes the metrics of this module.
pub(super) fn describe() {
    describe_counter!(QUEUED_REQUESTS, Unit::Count, "Queued requests of devices by outcome: run, repeated.");
    describe_gauge!(OUTBOX_REQUESTS, Unit::Count, "Requests that wait for the hub.");
    describe_gauge!(OUTBOX_BYTES, Unit::Bytes, "Bytes on the disk of requests that wait for the hub.");
    describe_gauge!(OUTBOX_OLDEST_SECONDS, Unit::Seconds, "Age of the oldest request that waits for the hub.");
    describe_gauge!(OUTBOX_ANSWERS, Unit::Count, "Stored answers to requests that waited for the hub.");
    describe_counter!(OUTBOX_OUTCOMES, Unit::Count, "Requests of the outbox by outcome.");
}

/// Counts a queued request of a device (on the hub).
pub fn queued_request(outcome: &'static str) {
    counter!(QUEUED_REQUESTS, "outcome" => outcome).increment(1);
}

/// Counts a request of the outbox by its outcome (on a device).
pub fn outbox_outcome(outcome: &'static str) {
    counter!(OUTBOX_OUTCOMES, "outcome" => outcome).increment(1);
}

/// Sets the number of waiting requests, their bytes, the age of the oldest in seconds, and the number of answers (on a device).
pub fn outbox(requests: usize, bytes: u64, oldest_s: u64, answers: usize) {
    let count = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    gauge!(OUTBOX_REQUESTS).set(count(requests));
    gauge!(OUTBOX_ANSWERS).set(count(answers));
    #[expect(clippy::cast_precision_loss, reason = "a quota of disk space is far below 2^53 bytes")]
    gauge!(OUTBOX_BYTES).set(bytes as f64);
    #[expect(clippy::cast_precision_loss, reason = "ages are far below 2^53 seconds")]
    gauge!(OUTBOX_OLDEST_SECONDS).set(oldest_s as f64);
}
