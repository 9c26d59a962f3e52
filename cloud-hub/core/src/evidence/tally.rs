//! Counts of one version of a model on one device, over some time.

use types::Version;
use types::counters::Tally;
use types::histogram::{BUCKETS, BUCKETS_PER_DOUBLING};

/// Upper bound of the first memory bucket in bytes; each following one is larger by the factor of [`bucket_ratio`].
const MEMORY_FIRST_BYTES: f64 = 1024.0 * 1024.0;

/// Minimum number of runs from which a quantile of a device's latency is taken.
const RUNS_FOR_QUANTILE: u64 = 20;

/// Counts of one period that begins at a multiple of its length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// Version that was counted.
    pub version: Version,
    /// Start of the period in seconds of the hub's Unix clock.
    pub from_unix_s: u64,
    /// Counts of the period.
    pub tally: Tally,
}

/// Last period of a version on a device that was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Counted {
    /// Start of the period in seconds of the device's Unix clock.
    pub from_unix_s: u64,
    /// Number of the period on the device.
    pub sequence: u64,
}

impl Counted {
    /// Returns whether a period was counted already. Numbers of periods rise; a device that lost its state begins with
    /// low numbers again, but with a later time.
    #[must_use]
    pub fn covers(self, period: Self) -> bool {
        period.sequence <= self.sequence && period.from_unix_s <= self.from_unix_s
    }
}

/// Returns the start of the cell in which a period is counted, in seconds of the hub's Unix clock. `skew_s` is the hub's
/// clock minus the device's. A period that would end in the future, or has no time, ends now.
#[must_use]
pub fn cell_of(from_unix_s: u64, seconds: u32, skew_s: i64, now_unix_s: u64) -> u64 {
    let from = from_unix_s.saturating_add_signed(skew_s).min(now_unix_s.saturating_sub(seconds.into()));
    from - from % super::CELL_S
}

/// Returns the bucket of a quantile of the duration of a run; `None` with too few runs.
#[must_use]
pub fn latency_bucket(tally: &Tally, quantile: f64) -> Option<usize> {
    let enough = tally.latency.total() >= RUNS_FOR_QUANTILE;
    enough.then(|| crate::stats::quantile::observed(tally.latency.buckets(), quantile)).flatten()
}

/// Returns the bucket of the memory of the session.
#[must_use]
pub fn memory_bucket(tally: &Tally) -> Option<usize> {
    let bytes = tally.memory_bytes?;
    (0..BUCKETS - 1).find(|bucket| bytes as f64 <= memory_bound(*bucket)).or(Some(BUCKETS - 1))
}

/// Returns the upper bound of a memory bucket in bytes.
#[must_use]
pub fn memory_bound(bucket: usize) -> f64 {
    MEMORY_FIRST_BYTES * bucket_ratio(bucket, 0)
}

/// Returns the ratio of the bounds of two buckets.
#[must_use]
pub fn bucket_ratio(bucket: usize, to: usize) -> f64 {
    ((bucket as f64 - to as f64) / BUCKETS_PER_DOUBLING).exp2()
}
