//! Counts of one version of a model on one device, over some time.

use types::Version;

/// Number of latency buckets, as devices count them.
pub const LATENCY_BUCKETS: usize = 65;

/// Upper bound of the first latency bucket in microseconds; each following one is larger by a factor of `2^(1/4)`.
pub const LATENCY_FIRST_US: f64 = 100.0;

/// Upper bound of the first memory bucket in bytes; each following one is larger by a factor of `2^(1/4)`.
const MEMORY_FIRST_BYTES: f64 = 1024.0 * 1024.0;

/// Minimum number of runs from which a quantile of a device's latency is taken.
const RUNS_FOR_QUANTILE: u64 = 20;

/// Counts of one version of a model on one device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// Requests that the device answered itself.
    pub kept: u64,
    /// Requests that the device passed to the hub because its own answer was not confident.
    pub deferred: u64,
    /// Runs that ended in an error that was not the request's fault.
    pub failed: u64,
    /// Ends of the process that ran the model.
    pub crashed: u64,
    /// Kept answers that were compared with those of the full model.
    pub audited: u64,
    /// Of these, the answers that agreed.
    pub agreed: u64,
    /// Answers of the version before it served that were compared with those of the serving version.
    pub shadowed: u64,
    /// Of these, the answers that agreed.
    pub shadow_agreed: u64,
    /// Runs by duration, at most [`LATENCY_BUCKETS`]; empty buckets at the end are left out.
    pub latency: Vec<u64>,
    /// Largest memory of the version's session in bytes, where the device knows it.
    pub memory_bytes: Option<u64>,
}

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

impl Tally {
    /// Adds the counts of another period.
    pub fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.kept, other.kept),
            (&mut self.deferred, other.deferred),
            (&mut self.failed, other.failed),
            (&mut self.crashed, other.crashed),
            (&mut self.audited, other.audited),
            (&mut self.agreed, other.agreed),
            (&mut self.shadowed, other.shadowed),
            (&mut self.shadow_agreed, other.shadow_agreed),
        ];
        for (sum, more) in pairs {
            *sum = sum.saturating_add(more);
        }
        let buckets = self.latency.len().max(other.latency.len()).min(LATENCY_BUCKETS);
        self.latency.resize(buckets, 0);
        for (sum, more) in self.latency.iter_mut().zip(&other.latency) {
            *sum = sum.saturating_add(*more);
        }
        self.memory_bytes = self.memory_bytes.max(other.memory_bytes);
    }

    /// Returns the number of runs, with those that failed.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.kept.saturating_add(self.deferred).saturating_add(self.failed)
    }

    /// Returns the share of runs that failed; `None` without runs.
    #[must_use]
    pub fn error_rate(&self) -> Option<f64> {
        share(self.failed, self.runs())
    }

    /// Returns the share of answers that were left to the hub; `None` without answers.
    #[must_use]
    pub fn deferral_rate(&self) -> Option<f64> {
        share(self.deferred, self.kept.saturating_add(self.deferred))
    }

    /// Returns the share of audited answers that disagreed with the full model; `None` without audits.
    #[must_use]
    pub fn disagreement(&self) -> Option<f64> {
        share(self.audited.saturating_sub(self.agreed), self.audited)
    }

    /// Returns 1 if the process that runs the model ended on its own, otherwise 0; `None` if the device did nothing.
    #[must_use]
    pub fn has_crashed(&self) -> Option<f64> {
        let is_idle = self.runs() == 0 && self.crashed == 0;
        (!is_idle).then_some(if self.crashed > 0 { 1.0 } else { 0.0 })
    }

    /// Returns the bucket of a quantile of the duration of a run; `None` with too few runs.
    #[must_use]
    pub fn latency_bucket(&self, quantile: f64) -> Option<usize> {
        let enough = self.latency.iter().sum::<u64>() >= RUNS_FOR_QUANTILE;
        enough.then(|| crate::stats::quantile::observed(&self.latency, quantile)).flatten()
    }

    /// Returns the bucket of the memory of the session.
    #[must_use]
    pub fn memory_bucket(&self) -> Option<usize> {
        let bytes = self.memory_bytes?;
        (0..LATENCY_BUCKETS - 1).find(|bucket| bytes as f64 <= memory_bound(*bucket)).or(Some(LATENCY_BUCKETS - 1))
    }
}

/// Returns the upper bound of a latency bucket in microseconds.
#[must_use]
pub fn latency_bound_us(bucket: usize) -> f64 {
    LATENCY_FIRST_US * bucket_ratio(bucket, 0)
}

/// Returns the upper bound of a memory bucket in bytes.
#[must_use]
pub fn memory_bound(bucket: usize) -> f64 {
    MEMORY_FIRST_BYTES * bucket_ratio(bucket, 0)
}

/// Returns the ratio of the bounds of two buckets.
#[must_use]
pub fn bucket_ratio(bucket: usize, to: usize) -> f64 {
    ((bucket as f64 - to as f64) / 4.0).exp2()
}

fn share(part: u64, of: u64) -> Option<f64> {
    (of > 0).then(|| (part as f64 / of as f64).min(1.0))
}
