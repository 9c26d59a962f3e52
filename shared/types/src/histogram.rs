//! Histogram of durations in buckets of equal ratio.

use std::time::Duration;

/// Number of buckets: they reach to 6.5 s in steps of 19 %.
pub const BUCKETS: usize = 65;

/// Upper bound of the first bucket in microseconds.
pub const FIRST_US: f64 = 100.0;

/// Number of buckets in which the duration doubles.
pub const BUCKETS_PER_DOUBLING: f64 = 4.0;

/// Runs by their duration: bucket `i` ends at `100 us * 2^(i/4)`, the last one counts everything above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram([u64; BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Histogram {
    /// Makes a histogram of counts; buckets that are missing at the end are empty, and what is too much is left out.
    #[must_use]
    pub fn of(counts: &[u64]) -> Self {
        let mut histogram = Self::default();
        histogram.0.iter_mut().zip(counts).for_each(|(bucket, count)| *bucket = *count);
        histogram
    }

    /// Counts one duration.
    pub fn count(&mut self, duration: Duration) {
        let us = duration.as_secs_f64() * 1e6;
        let at = if us <= FIRST_US { 0.0 } else { ((us / FIRST_US).log2() * BUCKETS_PER_DOUBLING).ceil() };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the buckets")]
        let at = at.clamp(0.0, (BUCKETS - 1) as f64) as usize;
        if let Some(bucket) = self.0.get_mut(at) {
            *bucket = bucket.saturating_add(1);
        }
    }

    /// Adds the counts of another histogram.
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, more)| *sum = sum.saturating_add(more));
    }

    /// Returns the counts without the empty buckets at the end.
    #[must_use]
    pub fn counts(&self) -> Vec<u64> {
        let used = self.0.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        self.0.iter().take(used).copied().collect()
    }

    /// Returns the counts of all buckets.
    #[must_use]
    pub fn buckets(&self) -> &[u64] {
        &self.0
    }

    /// Returns the number of durations.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Returns the upper bound of the bucket of the median; `None` without durations.
    #[must_use]
    pub fn median(&self) -> Option<Duration> {
        let half = self.total().div_ceil(2);
        let mut sum: u64 = 0;
        let at = self.0.iter().position(|count| {
            sum = sum.saturating_add(*count);
            sum >= half && half > 0
        })?;
        Some(Duration::from_secs_f64(bound_us(at) * 1e-6))
    }
}

/// Returns the upper bound of a bucket in microseconds; the last bucket has none.
#[must_use]
pub fn bound_us(bucket: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let doublings = bucket as f64 / BUCKETS_PER_DOUBLING;
    FIRST_US * doublings.exp2()
}
